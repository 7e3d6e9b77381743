// SPDX-License-Identifier: GPL-2.0-only
/*
 * Whatever is done to a guest_memfd, each allocation on the way fails once.
 *
 * The first, the second, ... allocation of an operation is made to fail until
 * there is none left, see Documentation/fault-injection/fault-injection.rst.
 * Either the kernel gets over it, or it says ENOMEM, or ENOSPC for a huge page
 * that can't be had, and nothing has changed, and the operation works when it is
 * tried again.  In the end all memory is back.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "guest_memfd_fail_nth.h"
#include "guest_memfd_harness.h"
#include "guest_memfd_hugetlb.h"
#include "guest_memfd_stall.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#define UNIT		((u64)SZ_2M / GMEM_PAGE_SIZE)
#define CHUNK		((u64)SZ_1G / GMEM_PAGE_SIZE)

#define SMALL_FILE	(4 * UNIT)
#define LARGE_FILE	(CHUNK / 4)
/* From here on, it takes several entries and nodes in the xarray of bindings. */
#define ODD_PAGE	3
/* A bit for each unit is more than kmalloc() gives. */
#define VMALLOC_FILE	(160 * 1024 * CHUNK)

#define TEST_GPA	((u64)SZ_4G)

/* Create */

static int create(struct env *env)
{
	int fd = __vm_create_guest_memfd(env->vm, file_size(env),
					 env->op->flags | gmem_default_flags());

	if (fd < 0)
		return errno;
	env->fd = fd;
	return 0;
}

static void created(struct env *env)
{
	TEST_ASSERT_EQ(fdinfo(env, "size"), file_size(env));
	TEST_ASSERT_EQ(fdinfo(env, "private"), 0);
	kvm_close(env->fd);
}

static const struct op create_small = {
	.nr_pages = SMALL_FILE,
	.flags = SHARED_FILE,
	.no_file = true,
	.run = create,
	.done = created,
	.errors = { ENOMEM },
};

static const struct op create_vmalloc = {
	.nr_pages = VMALLOC_FILE,
	.flags = SHARED_FILE,
	.no_file = true,
	.run = create,
	.done = created,
	.errors = { ENOMEM },
};

/* Close, with all that is in it */

static void prepare_close(struct env *env)
{
	env->fd = vm_create_guest_memfd(env->vm, file_size(env),
					env->op->flags | gmem_default_flags());
	env->mem = kvm_mmap(GMEM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			    env->fd);
	gmem_poke(env->mem, 1);
	kvm_munmap(env->mem, GMEM_PAGE_SIZE);
	env->mem = NULL;

	populate(env, 1, 20);
	gmem_pages_to_private(env->fd, 5, 8);
	set_slot(env, TEST_GPA, env->op->nr_pages);
}

static int close_file(struct env *env)
{
	return close(env->fd) ? errno : 0;
}

/* The slot is there, but nothing behind it. */
static void closed(struct env *env)
{
	TEST_ASSERT_EQ(fcntl(env->fd, F_GETFD), -1);
	TEST_ASSERT_EQ(try_slot(env, TEST_SLOT, TEST_GPA, 0), 0);
}

static const struct op close_op = {
	.nr_pages = SMALL_FILE,
	.flags = SHARED_FILE,
	.no_file = true,
	.prepare = prepare_close,
	.run = close_file,
	.done = closed,
	.outcome = NEVER_FAILS,
};

/* Memslots */

static int bind_slot(struct env *env)
{
	return try_slot(env, TEST_SLOT, TEST_GPA, LARGE_FILE - ODD_PAGE);
}

/* Pages of a file can be bound once. */
static int try_other_slot(struct env *env)
{
	return try_slot(env, TEST_SLOT + 1, 2 * TEST_GPA, LARGE_FILE - ODD_PAGE);
}

static void not_bound(struct env *env)
{
	TEST_ASSERT_EQ(try_other_slot(env), 0);
	TEST_ASSERT_EQ(try_slot(env, TEST_SLOT + 1, 2 * TEST_GPA, 0), 0);
}

static void still_bound(struct env *env)
{
	TEST_ASSERT(try_other_slot(env), "The pages are not bound");
}

static void bound(struct env *env)
{
	still_bound(env);
	set_slot(env, TEST_GPA, 0);
}

static const struct op bind_op = {
	.nr_pages = LARGE_FILE,
	.flags = SHARED_FILE,
	.slot_first = ODD_PAGE,
	.run = bind_slot,
	.failed = not_bound,
	.done = bound,
	.errors = { ENOMEM },
};

static void prepare_unbind(struct env *env)
{
	TEST_ASSERT_EQ(bind_slot(env), 0);
}

static int delete_slot(struct env *env)
{
	return try_slot(env, TEST_SLOT, TEST_GPA, 0);
}

static const struct op unbind_op = {
	.nr_pages = LARGE_FILE,
	.flags = SHARED_FILE,
	.slot_first = ODD_PAGE,
	.prepare = prepare_unbind,
	.run = delete_slot,
	.failed = still_bound,
	.done = not_bound,
	.errors = { ENOMEM },
};

/* mmap */

static void prepare_mmap(struct env *env)
{
	remap(env);
	kvm_munmap(env->mem, file_size(env));
}

/* Always to the same place, where there must be nothing of the last time. */
static int map_again(struct env *env)
{
	void *mem = mmap(env->mem, file_size(env), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED_NOREPLACE, env->fd, 0);

	return mem == MAP_FAILED ? errno : 0;
}

static void mapped(struct env *env)
{
	TEST_ASSERT_EQ(gmem_poke(page(env, 5), 0x55), 0);
	TEST_ASSERT_EQ(gmem_peek(page(env, 5)), 0x55);
	unmap(env);
	punch_all(env);
}

static const struct op mmap_op = {
	.nr_pages = SMALL_FILE,
	.flags = SHARED_FILE,
	.prepare = prepare_mmap,
	.run = map_again,
	.done = mapped,
	.errors = { ENOMEM },
};

/* Faults of user space: the kernel has the instruction tried again */

#define FAULT_PAGE	8

static void prepare_hole(struct env *env)
{
	punch_all(env);
	remap(env);
}

/* What comes along with a page may fail to. */
static void assert_touched(const struct env *env, u64 nr_pages)
{
	u64 allocated = fdinfo(env, "allocated");

	TEST_ASSERT(allocated >= nr_pages &&
		    allocated <= nr_pages * gmem_touched_pages(env->op->flags),
		    "%lu pages are allocated, %lu were touched", allocated, nr_pages);
}

static int write_touch(struct env *env)
{
	return gmem_poke(page(env, FAULT_PAGE), 0x55) ? EFAULT : 0;
}

static void written(struct env *env)
{
	TEST_ASSERT_EQ(gmem_peek(page(env, FAULT_PAGE)), 0x55);
	TEST_ASSERT_EQ(gmem_peek(page(env, FAULT_PAGE) + 1), 0);
	assert_touched(env, 1);
}

static const struct op write_fault = {
	.nr_pages = SMALL_FILE,
	.flags = SHARED_FILE,
	.prepare = prepare_hole,
	.run = write_touch,
	.done = written,
	.outcome = ABSORBED,
};

static void prepare_around(struct env *env)
{
	punch_all(env);
	remap(env);
	gmem_poke(page(env, FAULT_PAGE - 1), 0x66);
	gmem_poke(page(env, FAULT_PAGE), 0);
	gmem_poke(page(env, FAULT_PAGE + 1), 0x66);
	remap(env);
}

/* The window around a fault is aligned in the address space. */
static u8 *neighbour_in_window(struct env *env)
{
	return (u8 *)((uintptr_t)page(env, FAULT_PAGE) ^ GMEM_PAGE_SIZE);
}

static int read_touch(struct env *env)
{
	return gmem_peek(page(env, FAULT_PAGE)) ? EFAULT : 0;
}

static void read_around(struct env *env)
{
	TEST_ASSERT(gmem_is_mapped(neighbour_in_window(env)),
		    "The fault has not mapped what is around it");
	TEST_ASSERT_EQ(gmem_peek(neighbour_in_window(env)), 0x66);
	assert_touched(env, 3);
}

static const struct op read_fault = {
	.nr_pages = SMALL_FILE,
	.flags = SHARED_FILE,
	.prepare = prepare_around,
	.run = read_touch,
	.done = read_around,
	.outcome = ABSORBED,
};

/* A system call has nobody to try again for it. */
static int syscall_touch(struct env *env)
{
	return pread(env->injector->nth_fd, page(env, FAULT_PAGE), 8, 0) < 0 ? errno : 0;
}

static void syscall_written(struct env *env)
{
	assert_touched(env, 1);
}

static const struct op syscall_fault = {
	.nr_pages = SMALL_FILE,
	.flags = SHARED_FILE,
	.prepare = prepare_hole,
	.run = syscall_touch,
	.done = syscall_written,
	.errors = { EFAULT },
	.may_populate = true,
};

/* memfd_secret(), whose pages leave the direct map as those of a hidden file do */

static void prepare_secret(struct env *env)
{
	env->fd = syscall(__NR_memfd_secret, 0);
	TEST_ASSERT(env->fd >= 0 && !ftruncate(env->fd, GMEM_PAGE_SIZE),
		    "No memfd_secret()");
	remap(env);
}

static int secret_touch(struct env *env)
{
	return pread(env->injector->nth_fd, env->mem, 8, 0) < 0 ? errno : 0;
}

static void secret_written(struct env *env)
{
	unmap(env);
	kvm_close(env->fd);
}

static const struct op secret_fault = {
	.nr_pages = 1,
	.no_file = true,
	.prepare = prepare_secret,
	.run = secret_touch,
	.done = secret_written,
	.errors = { EFAULT },
};

/* fallocate */

#define HOLE_FIRST	(UNIT - 4)
#define HOLE_NR		8

static int populate_run(struct env *env)
{
	return try_populate(env, HOLE_FIRST, HOLE_NR);
}

static void populated(struct env *env)
{
	TEST_ASSERT_EQ(fdinfo(env, "allocated"), HOLE_NR);
}

static const struct op populate_op = {
	.nr_pages = SMALL_FILE,
	.flags = SHARED_FILE,
	.prepare = punch_all,
	.run = populate_run,
	.done = populated,
	.errors = { ENOMEM },
	.may_populate = true,
};

static void prepare_punch(struct env *env)
{
	unmap(env);
	gmem_pages_to_shared(env->fd, 0, env->op->nr_pages);
	remap(env);
	populate(env, HOLE_FIRST - 1, HOLE_NR + 2);
	gmem_poke(page(env, HOLE_FIRST - 1), 0x11);
	gmem_poke(page(env, HOLE_FIRST), 0x22);
	gmem_pages_to_private(env->fd, HOLE_FIRST + 1, 1);
}

static int punch_run(struct env *env)
{
	return fallocate(env->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 HOLE_FIRST * GMEM_PAGE_SIZE,
			 HOLE_NR * GMEM_PAGE_SIZE) ? errno : 0;
}

static void punched(struct env *env)
{
	TEST_ASSERT_EQ(fdinfo(env, "allocated"), 2);
	TEST_ASSERT_EQ(fdinfo(env, "private"), 1);
	TEST_ASSERT_EQ(gmem_peek(page(env, HOLE_FIRST - 1)), 0x11);
	TEST_ASSERT_EQ(gmem_peek(page(env, HOLE_FIRST)), 0);
}

static const struct op punch_op = {
	.nr_pages = SMALL_FILE,
	.flags = SHARED_FILE,
	.prepare = prepare_punch,
	.run = punch_run,
	.done = punched,
	.outcome = NEVER_FAILS,
};

/* fdinfo */

static int fdinfo_run(struct env *env)
{
	char path[64], text[1024];
	int ret;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", env->fd);
	errno = 0;
	ret = try_read_file(path, text, sizeof(text));
	return ret ? errno : 0;
}

static void nothing_to_check(struct env *env)
{
}

static const struct op fdinfo_op = {
	.nr_pages = SMALL_FILE,
	.flags = SHARED_FILE,
	.run = fdinfo_run,
	.done = nothing_to_check,
	.errors = { ENOMEM, ENOENT },
};

/* Guests: a few instructions in real mode, which find all in the first pages */

#define CODE_PAGE	1
#define GUEST_SHARED	5
#define GUEST_PRIVATE	7
#define NR_PRIVATE	4
#define GUEST_BYTE	0x77

static const u8 guest_code[] = {
	0xc6, 0x06, 0x00, 0x50, GUEST_BYTE,	/* movb $GUEST_BYTE, 0x5000 */
	0xc6, 0x06, 0x00, 0x70, GUEST_BYTE,	/* movb $GUEST_BYTE, 0x7000 */
	0xf4,					/* hlt */
};

static void prepare_guest(struct env *env)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = {
		.rip = CODE_PAGE * GMEM_PAGE_SIZE,
		.rflags = X86_EFLAGS_FIXED,
	};

	if (!env->mem)
		set_slot(env, 0, env->op->nr_pages);
	gmem_pages_to_shared(env->fd, 0, env->op->nr_pages);
	/* This empties the guest's page tables as well. */
	prepare_hole(env);
	memcpy(page(env, CODE_PAGE), guest_code, sizeof(guest_code));
	gmem_pages_to_private(env->fd, GUEST_PRIVATE, NR_PRIVATE);

	vcpu_sregs_get(env->vcpu, &sregs);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	vcpu_sregs_set(env->vcpu, &sregs);
	vcpu_regs_set(env->vcpu, &regs);
}

static int run_vcpu(struct env *env)
{
	return __vcpu_run(env->vcpu) ? errno : 0;
}

static void vcpu_has_run(struct env *env)
{
	TEST_ASSERT_KVM_EXIT_REASON(env->vcpu, KVM_EXIT_HLT);
	assert_touched(env, 3);
	TEST_ASSERT_EQ(fdinfo(env, "private"), NR_PRIVATE);

	TEST_ASSERT_EQ(gmem_peek(page(env, GUEST_SHARED)), GUEST_BYTE);
	TEST_ASSERT_EQ(gmem_peek(page(env, GUEST_PRIVATE)), GMEM_SIGBUS);
	gmem_pages_to_shared(env->fd, GUEST_PRIVATE, 1);
	TEST_ASSERT_EQ(gmem_peek(page(env, GUEST_PRIVATE)), GUEST_BYTE);
}

static const struct op vcpu_run_op = {
	.nr_pages = SMALL_FILE,
	.flags = SHARED_FILE,
	.with_vcpu = true,
	.prepare = prepare_guest,
	.run = run_vcpu,
	.done = vcpu_has_run,
	.errors = { ENOMEM },
	.may_populate = true,
};

#define PREFAULT_FIRST	(GUEST_PRIVATE - 4)
#define PREFAULT_NR	8

static int prefault(struct env *env)
{
	struct kvm_pre_fault_memory range = {
		.gpa = PREFAULT_FIRST * GMEM_PAGE_SIZE,
		.size = PREFAULT_NR * GMEM_PAGE_SIZE,
	};

	while (range.size)
		if (__vcpu_ioctl(env->vcpu, KVM_PRE_FAULT_MEMORY, &range))
			return errno;
	return 0;
}

static void prefaulted(struct env *env)
{
	assert_touched(env, PREFAULT_NR + 1);
	TEST_ASSERT_EQ(fdinfo(env, "private"), NR_PRIVATE);
	TEST_ASSERT_EQ(vm_get_stat(env->vm, pages_4k), PREFAULT_NR);
}

static const struct op prefault_op = {
	.nr_pages = SMALL_FILE,
	.flags = SHARED_FILE,
	.with_vcpu = true,
	.prepare = prepare_guest,
	.run = prefault,
	.done = prefaulted,
	.errors = { ENOMEM },
	.may_populate = true,
};

/* Huge files */

#define NR_BLOCKS	2
#define HUGE_TIMEOUT	(2 * TEST_TIMEOUT)

/**
 * struct huge - what there is beside the file
 * @block: size of a block
 * @hvo: the pool saves the struct pages of its free blocks
 * @pool: as it is without the file
 * @nr_hugetlb: pages in use, as they are counted elsewhere; not of the file
 * @cgroup: there is one that is charged for the blocks
 */
struct huge {
	u64 block;
	bool hvo;
	struct gmem_pool_counts pool;
	long nr_hugetlb;
	bool cgroup;
};

static u64 block_pages(struct env *env)
{
	struct huge *huge = env->data;

	return huge->block / GMEM_PAGE_SIZE;
}

#define CGROUP_ROOT	"/sys/fs/cgroup"
#define CGROUP		CGROUP_ROOT "/guest_memfd_fail_nth"

static int enter_cgroup(const char *cgroup)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	return try_write_file(path, "0");
}

static long cgroup_blocks(struct huge *huge, const char *name)
{
	char path[128], text[32];

	snprintf(path, sizeof(path), CGROUP "/hugetlb.%s.%s",
		 huge->block == SZ_1G ? "1GB" : "2MB", name);
	read_file(path, text, sizeof(text));
	return atol(text) / huge->block;
}

static long nr_hugetlb(void)
{
	struct left left;

	count_vmstats(&left);
	return left.vmstats[VMSTAT_HUGETLB];
}

/* Of the blocks reserved for the file, @nr_taken are taken. */
static bool pool_fits(struct huge *huge, long nr_reserved, long nr_taken)
{
	struct gmem_pool_counts want = huge->pool;

	want.free -= nr_taken;
	want.resv += nr_reserved - nr_taken;
	if (!gmem_pool_becomes(huge->block, want) || nr_hugetlb() != huge->nr_hugetlb)
		return false;

	return !huge->cgroup ||
	       (cgroup_blocks(huge, "rsvd.current") == nr_reserved &&
		cgroup_blocks(huge, "current") == nr_taken);
}

static void check_no_file(struct env *env)
{
	TEST_ASSERT(pool_fits(env->data, 0, 0), "Blocks are still taken or reserved");
}

/* Pages are in blocks, but not all that a block could have. */
static void check_blocks(struct env *env)
{
	u64 nr_taken = fdinfo(env, "blocks");

	TEST_ASSERT(fdinfo(env, "allocated") <= nr_taken * block_pages(env),
		    "There are pages without a block");
	TEST_ASSERT(pool_fits(env->data, NR_BLOCKS, nr_taken),
		    "Pool and cgroup do not fit %lu blocks", nr_taken);
}

/* All of block @nr can be used, and is empty but for @but; nothing else is there. */
static void check_only_block(struct env *env, u64 nr, u64 but)
{
	u64 first = nr * block_pages(env), step = block_pages(env) / UNIT, i;

	TEST_ASSERT_EQ(fdinfo(env, "allocated"), block_pages(env));
	TEST_ASSERT_EQ(fdinfo(env, "blocks"), 1);
	check_blocks(env);

	for (i = first; i < first + block_pages(env); i += step) {
		if (i != but)
			TEST_ASSERT_EQ(gmem_peek(page(env, i)), 0);
		/* Whoever gets it next must not see this. */
		gmem_poke(page(env, i), 0x99);
	}
}

static void huge_created(struct env *env)
{
	TEST_ASSERT_EQ(fdinfo(env, "size"), file_size(env));
	check_blocks(env);
	kvm_close(env->fd);
	check_no_file(env);
}

static const struct op huge_create = {
	.no_file = true,
	.run = create,
	.failed = check_no_file,
	.done = huge_created,
	.errors = { ENOMEM },
};

/* The second one: it has an index that takes a node of the xarray. */
static int populate_block(struct env *env)
{
	return try_populate(env, block_pages(env) + FAULT_PAGE, 1);
}

/* Some of it may be there already. */
static void rest_of_block_by_fault(struct env *env)
{
	check_blocks(env);
	TEST_ASSERT_EQ(gmem_peek(page(env, 2 * block_pages(env) - 1)), 0);
	TEST_ASSERT_EQ(fdinfo(env, "allocated"), block_pages(env));
}

static void block_is_there(struct env *env)
{
	check_only_block(env, 1, -1);
}

static const struct op huge_populate = {
	.prepare = prepare_hole,
	.run = populate_block,
	.failed = rest_of_block_by_fault,
	.done = block_is_there,
	.errors = { ENOMEM, ENOSPC },
	.may_populate = true,
};

static void hole_instead(struct env *env)
{
	check_blocks(env);
	punch_all(env);
	TEST_ASSERT_EQ(fdinfo(env, "allocated"), 0);
	check_blocks(env);
}

static const struct op huge_populate_hole = {
	.prepare = prepare_hole,
	.run = populate_block,
	.failed = hole_instead,
	.done = block_is_there,
	.errors = { ENOMEM, ENOSPC },
	.may_populate = true,
};

/* Tried again if there is no memory, but not if there is no block. */
static void huge_written(struct env *env)
{
	TEST_ASSERT_EQ(gmem_peek(page(env, FAULT_PAGE)), 0x55);
	check_only_block(env, 0, FAULT_PAGE);
}

static const struct op huge_fault = {
	.prepare = prepare_hole,
	.run = write_touch,
	.failed = check_blocks,
	.done = huge_written,
	.errors = { EFAULT },
	.outcome = ABSORBED,
	.may_populate = true,
};

static void huge_syscall_written(struct env *env)
{
	check_only_block(env, 0, FAULT_PAGE);
}

static const struct op huge_syscall_fault = {
	.prepare = prepare_hole,
	.run = syscall_touch,
	.failed = check_blocks,
	.done = huge_syscall_written,
	.errors = { EFAULT },
	.may_populate = true,
};

/* A hole, one of whose pages is private */

static void prepare_block_punch(struct env *env)
{
	unmap(env);
	gmem_pages_to_shared(env->fd, 0, env->op->nr_pages);
	punch_all(env);
	remap(env);
	gmem_poke(page(env, FAULT_PAGE), 0x11);
	gmem_poke(page(env, block_pages(env) + FAULT_PAGE), 0x22);
	gmem_pages_to_private(env->fd, FAULT_PAGE + 1, 1);
}

static int punch_block(struct env *env)
{
	return fallocate(env->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			 block_pages(env) * GMEM_PAGE_SIZE) ? errno : 0;
}

static void block_punched(struct env *env)
{
	TEST_ASSERT_EQ(fdinfo(env, "private"), 1);
	check_only_block(env, 1, block_pages(env) + FAULT_PAGE);
	/* What the hole has given back can be taken again. */
	TEST_ASSERT_EQ(gmem_peek(page(env, FAULT_PAGE)), 0);
	check_blocks(env);
}

static const struct op huge_punch = {
	.prepare = prepare_block_punch,
	.run = punch_block,
	.done = block_punched,
	.outcome = NEVER_FAILS,
};

/* Close: a block that is full, or one that is half filled */

static void prepare_huge_close(struct env *env)
{
	env->fd = vm_create_guest_memfd(env->vm, file_size(env),
					env->op->flags | gmem_default_flags());
	TEST_ASSERT_EQ(populate_block(env), 0);
	gmem_pages_to_private(env->fd, block_pages(env) + 5, 8);
	set_slot(env, TEST_GPA, env->op->nr_pages);
}

static void huge_closed(struct env *env)
{
	closed(env);
	check_no_file(env);
}

static const struct op huge_close = {
	.no_file = true,
	.prepare = prepare_huge_close,
	.run = close_file,
	.done = huge_closed,
	.outcome = NEVER_FAILS,
};

static void prepare_half_close(struct env *env)
{
	unsigned int n = 0;

	env->fd = vm_create_guest_memfd(env->vm, file_size(env),
					env->op->flags | gmem_default_flags());
	/* Once there is a block, the third node of the page cache is too much. */
	while (!fdinfo(env, "allocated")) {
		n = fdinfo(env, "blocks") ? 3 : n + 1;
		inject_start(env->injector, REST_FAILS, n);
		populate_block(env);
		TEST_ASSERT(inject_stop(env->injector), "The block is full");
	}
	set_slot(env, TEST_GPA, env->op->nr_pages);
}

static const struct op huge_close_half = {
	.no_file = true,
	.prepare = prepare_half_close,
	.run = close_file,
	.done = huge_closed,
	.outcome = NEVER_FAILS,
};

/* Guests: the code is in a memslot of its own, the data where a block can be mapped */

#define CODE_SLOT	(TEST_SLOT + 1)
#define DATA_GPA	((u64)SZ_1G)

static u8 code_memory[2 * GMEM_PAGE_SIZE] __aligned(GMEM_PAGE_SIZE);

static void prepare_huge_guest(struct env *env)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = {
		.rip = CODE_PAGE * GMEM_PAGE_SIZE,
		.rflags = X86_EFLAGS_FIXED,
	};

	memcpy(code_memory + GMEM_PAGE_SIZE, guest_code, sizeof(guest_code));
	vm_set_user_memory_region(env->vm, CODE_SLOT, 0, 0, sizeof(code_memory),
				  code_memory);
	if (!env->mem)
		set_slot(env, DATA_GPA, env->op->nr_pages);
	prepare_hole(env);

	vcpu_sregs_get(env->vcpu, &sregs);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	sregs.ds.base = DATA_GPA;
	vcpu_sregs_set(env->vcpu, &sregs);
	vcpu_regs_set(env->vcpu, &regs);
}

static long block_leaves(struct env *env)
{
	struct huge *huge = env->data;

	return huge->block == SZ_1G ? vm_get_stat(env->vm, pages_1g) :
				      vm_get_stat(env->vm, pages_2m);
}

static void huge_vcpu_has_run(struct env *env)
{
	TEST_ASSERT_KVM_EXIT_REASON(env->vcpu, KVM_EXIT_HLT);
	TEST_ASSERT_EQ(block_leaves(env), 1);
	TEST_ASSERT_EQ(gmem_peek(page(env, GUEST_SHARED)), GUEST_BYTE);
	TEST_ASSERT_EQ(gmem_peek(page(env, GUEST_PRIVATE)), GUEST_BYTE);
	gmem_poke(page(env, GUEST_PRIVATE), 0);
	check_only_block(env, 0, GUEST_SHARED);
}

static const struct op huge_vcpu_run = {
	.with_vcpu = true,
	.prepare = prepare_huge_guest,
	.run = run_vcpu,
	.failed = check_blocks,
	.done = huge_vcpu_has_run,
	.errors = { ENOMEM, ENOSPC },
	.may_populate = true,
};

static int prefault_block(struct env *env)
{
	struct kvm_pre_fault_memory range = {
		.gpa = DATA_GPA + FAULT_PAGE * GMEM_PAGE_SIZE,
		.size = GMEM_PAGE_SIZE,
	};

	return __vcpu_ioctl(env->vcpu, KVM_PRE_FAULT_MEMORY, &range) ? errno : 0;
}

static void block_prefaulted(struct env *env)
{
	TEST_ASSERT_EQ(block_leaves(env), 1);
	check_only_block(env, 0, -1);
}

static const struct op huge_prefault = {
	.with_vcpu = true,
	.prepare = prepare_huge_guest,
	.run = prefault_block,
	.failed = check_blocks,
	.done = block_prefaulted,
	.errors = { ENOMEM, ENOSPC },
	.may_populate = true,
};

FIXTURE(operation) {
	struct injector injector;
};

FIXTURE_VARIANT(operation) {
	const struct op *op;
};

FIXTURE_SETUP(operation)
{
	SETUP_INJECTION(&self->injector);
}

FIXTURE_TEARDOWN(operation)
{
	inject_teardown(&self->injector);
}

#define OPERATION(_name, _op) \
	FIXTURE_VARIANT_ADD(operation, _name) { .op = &(_op) }

OPERATION(create, create_small);
OPERATION(create_with_vmalloc, create_vmalloc);
OPERATION(bind, bind_op);
OPERATION(unbind, unbind_op);
OPERATION(mmap, mmap_op);
OPERATION(write_fault, write_fault);
OPERATION(read_fault_around, read_fault);
OPERATION(fault_in_a_system_call, syscall_fault);
OPERATION(secret_fault, secret_fault);
OPERATION(populate, populate_op);
OPERATION(punch, punch_op);
OPERATION(fdinfo, fdinfo_op);
OPERATION(close, close_op);
OPERATION(vcpu_run, vcpu_run_op);
OPERATION(pre_fault, prefault_op);

static void fail_operation(struct __test_metadata *_metadata,
			   const struct op *op, struct injector *injector,
			   enum failing failing)
{
	struct env env = { .op = op, .injector = injector, .failing = failing };

	run_op(_metadata, &env, op->outcome);
}

TEST_F_TIMEOUT(operation, is_all_or_nothing_when_one_allocation_fails, TEST_TIMEOUT)
{
	fail_operation(_metadata, variant->op, &self->injector, ONE_FAILS);
}

TEST_F_TIMEOUT(operation, is_all_or_nothing_when_memory_runs_out, TEST_TIMEOUT)
{
	fail_operation(_metadata, variant->op, &self->injector, REST_FAILS);
}

FIXTURE(huge_operation) {
	struct injector injector;
	struct huge huge;
	void *held;
};

FIXTURE_VARIANT(huge_operation) {
	const struct op *op;
	u64 block;
};

FIXTURE_SETUP(huge_operation)
{
	struct huge *huge = &self->huge;
	char text[16];

	huge->block = variant->block;
	if (gmem_pool_read(SZ_2M, "nr_hugepages") < NR_BLOCKS + 1)
		gmem_pool_write(SZ_2M, "nr_hugepages", 8);
	/* Where there are some, it shows if too few are counted. */
	self->held = mmap(NULL, SZ_2M, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB |
			  MAP_HUGE_2MB | MAP_POPULATE, -1, 0);
	if (self->held == MAP_FAILED)
		SKIP(return, "no huge page of 2 MiB");

	huge->pool = gmem_pool_count(huge->block);
	if (huge->pool.free - huge->pool.resv < NR_BLOCKS)
		SKIP(return, "needs %d free huge pages of %lu kB", NR_BLOCKS,
		     huge->block / SZ_1K);
	huge->nr_hugetlb = nr_hugetlb();
	huge->hvo = !try_read_file("/proc/sys/vm/hugetlb_optimize_vmemmap", text,
				   sizeof(text)) && text[0] == '1';
	/* One that failed may have left its own. */
	rmdir(CGROUP);
	huge->cgroup = !mkdir(CGROUP, 0755) &&
		       !access(CGROUP "/hugetlb.2MB.current", R_OK) &&
		       !enter_cgroup(CGROUP);
	SETUP_INJECTION(&self->injector);
}

FIXTURE_TEARDOWN(huge_operation)
{
	inject_teardown(&self->injector);
	enter_cgroup(CGROUP_ROOT);
	rmdir(CGROUP);
	munmap(self->held, SZ_2M);
}

#define HUGE_OPERATION(_name, _op, _block) \
	FIXTURE_VARIANT_ADD(huge_operation, _name) { .op = &(_op), .block = _block }

HUGE_OPERATION(create, huge_create, SZ_2M);
HUGE_OPERATION(populate, huge_populate, SZ_2M);
HUGE_OPERATION(populate_with_hole, huge_populate_hole, SZ_2M);
HUGE_OPERATION(write_fault, huge_fault, SZ_2M);
HUGE_OPERATION(fault_in_a_system_call, huge_syscall_fault, SZ_2M);
HUGE_OPERATION(punch, huge_punch, SZ_2M);
HUGE_OPERATION(close, huge_close, SZ_2M);
HUGE_OPERATION(close_half_filled, huge_close_half, SZ_2M);
HUGE_OPERATION(vcpu_run, huge_vcpu_run, SZ_2M);
HUGE_OPERATION(pre_fault, huge_prefault, SZ_2M);
/* It takes seconds to zero a block. */
HUGE_OPERATION(create_1G, huge_create, SZ_1G);
HUGE_OPERATION(populate_1G, huge_populate, SZ_1G);

static void fail_huge_operation(struct __test_metadata *_metadata,
				struct op op, struct huge *huge,
				struct injector *injector, enum failing failing)
{
	struct env env = {
		.op = &op,
		.injector = injector,
		.failing = failing,
		.data = huge,
	};

	op.nr_pages = NR_BLOCKS * huge->block / GMEM_PAGE_SIZE;
	op.flags = SHARED_FILE | gmem_hugetlb_flag(huge->block);
	op.sparse = huge->block == SZ_1G && !op.no_file;
	/* A block can fail to get its struct pages back: then there is none. */
	if (huge->hvo && op.outcome == ABSORBED)
		op.outcome = ENDS_IN_ERROR;
	run_op(_metadata, &env, op.outcome);
}

TEST_F_TIMEOUT(huge_operation, is_all_or_nothing_when_one_allocation_fails, HUGE_TIMEOUT)
{
	fail_huge_operation(_metadata, *variant->op, &self->huge, &self->injector,
			    ONE_FAILS);
}

TEST_F_TIMEOUT(huge_operation, is_all_or_nothing_when_memory_runs_out, HUGE_TIMEOUT)
{
	fail_huge_operation(_metadata, *variant->op, &self->huge, &self->injector,
			    REST_FAILS);
}

/*
 * A block that waits is joined by a worker, which no fail-nth can reach: nobody
 * gets any memory for as long as the worker may take.
 */
FIXTURE(deferred) {
	struct injector injector;
};

FIXTURE_SETUP(deferred)
{
	if (gmem_pool_read(SZ_2M, "nr_hugepages") < NR_BLOCKS)
		gmem_pool_write(SZ_2M, "nr_hugepages", 8);
	SETUP_INJECTION(&self->injector);
}

FIXTURE_TEARDOWN(deferred)
{
	inject_teardown(&self->injector);
}

#define FREE_2M		"/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"

static const char * const injections[] = { FAULT_DIR "failslab/", FAULT_DIR "fail_page_alloc/" };

/* To open a file takes memory. */
static void open_injections(int *filters)
{
	char path[128];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(injections); i++) {
		snprintf(path, sizeof(path), "%stimes", injections[i]);
		write_file(path, "1000000");
		snprintf(path, sizeof(path), "%stask-filter", injections[i]);
		filters[i] = open_path_or_exit(path, O_WRONLY);
		TEST_ASSERT_EQ(pwrite(filters[i], "Y", 1, 0), 1);
	}
}

static void fail_everybody(const int *filters, bool fail)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(injections); i++)
		TEST_ASSERT_EQ(pwrite(filters[i], fail ? "N" : "Y", 1, 0), 1);
}

/* Nor does it take memory to read a file again that is open. */
static bool pool_has_free(int fd, long want)
{
	char text[32] = {};

	TEST_ASSERT(pread(fd, text, sizeof(text) - 1, 0) > 0, "Cannot read the pool");
	return atol(text) == want;
}

TEST_F(deferred, block_goes_back_though_nobody_gets_memory)
{
	struct kvm_vm *vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	struct gmem_pool_counts before = gmem_pool_count(SZ_2M);
	int fd = vm_create_guest_memfd(vm, SZ_2M, SHARED_FILE | gmem_hugetlb_flag(SZ_2M));
	u8 *mem = gmem_map_pages(fd, SZ_2M / GMEM_PAGE_SIZE);
	struct iovec iov = { mem, GMEM_PAGE_SIZE };
	int pool_fd = open_path_or_exit(FREE_2M, O_RDONLY);
	int filters[ARRAY_SIZE(injections)];
	int pipes[2];
	bool is_back;

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(GMEM_PAGE_SIZE, vmsplice(pipes[1], &iov, 1, 0));
	kvm_munmap(mem, SZ_2M);
	kvm_close(fd);
	EXPECT_TRUE(pool_has_free(pool_fd, before.free - 1));

	open_injections(filters);
	fail_everybody(filters, true);
	close(pipes[0]);
	close(pipes[1]);
	is_back = GMEM_WAIT_FOR(pool_has_free(pool_fd, before.free));
	fail_everybody(filters, false);
	EXPECT_TRUE(is_back);
	EXPECT_TRUE(gmem_pool_is(SZ_2M, before));

	close(pool_fd);
	close(filters[0]);
	close(filters[1]);
	kvm_vm_free(vm);
}

static pid_t taker_tid;

static long take_block(void *fd)
{
	WRITE_ONCE(taker_tid, kvm_gettid());
	return fallocate(*(int *)fd, FALLOC_FL_KEEP_SIZE, 0, SZ_2M) ? errno : 0;
}

static void taker_gets_no_memory(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d/make-it-fail", READ_ONCE(taker_tid));
	write_file(path, "1");
}

/* Then it is not memory_failure() that keeps it from being dissolved. */
TEST_F(deferred, broken_block_stays_in_the_pool_without_memory_for_its_struct_pages)
{
	struct gmem_pool_counts before = gmem_pool_count(SZ_2M);
	struct kvm_vm *vm;
	struct job taker;
	char hvo[16];
	u8 *mem;
	u64 head;
	int fd;

	if (try_read_file("/proc/sys/vm/hugetlb_optimize_vmemmap", hvo, sizeof(hvo)) ||
	    hvo[0] != '1')
		SKIP(return, "hugetlb_free_vmemmap=on is not on the command line");
	if (!gmem_can_break_page(SZ_2M) || !stall_is_supported())
		SKIP(return, "no CONFIG_HWPOISON_INJECT or CONFIG_GUEST_MEMFD_STALL");

	vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	fd = vm_create_guest_memfd(vm, SZ_2M, SHARED_FILE | gmem_hugetlb_flag(SZ_2M));
	mem = gmem_map_pages(fd, UNIT);
	head = gmem_pfn(mem);
	gmem_punch_pages(fd, 0, UNIT);

	stall_arm("taken");
	job_start(&taker, take_block, &fd);
	ASSERT_TRUE(stall_is_reached("taken"));
	gmem_break_pfn(head + 5);
	taker_gets_no_memory();
	stall_release("taken");
	EXPECT_EQ(ENOSPC, job_wait(&taker));
	before.resv++;
	EXPECT_TRUE(gmem_pool_is(SZ_2M, before));
	EXPECT_TRUE(gmem_page_flags(head) & BIT(KPF_HWPOISON));

	EXPECT_TRUE(gmem_write_pfn(GMEM_UNPOISON_PFN, head));
	EXPECT_EQ(0, gmem_peek(mem));
	kvm_munmap(mem, SZ_2M);
	kvm_close(fd);
	before.resv--;
	EXPECT_TRUE(gmem_pool_becomes(SZ_2M, before));
	kvm_vm_free(vm);
}

/*
 * Large entries of the direct map that cannot be split
 */
FIXTURE(hidden) {
	struct injector injector;
	struct kvm_vm *vm;
	u64 missing;
	int fd;
};

#define HIDDEN_RUNS	24
/* For the array of folios and each of them; then the entries are to be split. */
#define ALLOCS_BEFORE	(UNIT + 1)

FIXTURE_SETUP(hidden)
{
	SETUP_INJECTION(&self->injector);
	self->fd = -1;
	if (access(DIRECT_MAP_PROBE, R_OK))
		SKIP(return, "no CONFIG_DIRECT_MAP_PROBE");
	self->vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	self->missing = direct_map_count_missing();
	self->fd = vm_create_guest_memfd(self->vm, HIDDEN_RUNS * SZ_2M, SHARED_FILE |
					 GUEST_MEMFD_FLAG_NO_DIRECT_MAP);
}

FIXTURE_TEARDOWN(hidden)
{
	inject_teardown(&self->injector);
	if (self->fd < 0)
		return;
	kvm_close(self->fd);
	kvm_vm_free(self->vm);
	EXPECT_EQ(self->missing, direct_map_missing_becomes(self->missing));
}

/*
 * Each time with memory that was never out: what comes back is not put together
 * again.  A run that ends early goes on with the next page.
 */
TEST_F(hidden, run_of_pages_that_fails_leaves_no_hole)
{
	unsigned int i, nr_injected = 0;

	for (i = 0; i < HIDDEN_RUNS; i++) {
		inject_start(&self->injector, ONE_FAILS, ALLOCS_BEFORE + 1 + i % 4);
		if (fallocate(self->fd, FALLOC_FL_KEEP_SIZE, i * SZ_2M, SZ_2M))
			EXPECT_EQ(ENOMEM, errno);
		nr_injected += inject_stop(&self->injector);
	}
	EXPECT_LT(0, nr_injected);
	EXPECT_EQ(self->missing + gmem_fdinfo(self->fd, "allocated"),
		  direct_map_count_missing());
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
