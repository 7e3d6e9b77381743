// SPDX-License-Identifier: GPL-2.0-only
/*
 * Whatever is done to a guest_memfd, each allocation on the way fails once.
 *
 * The first, the second, ... allocation of an operation is made to fail until
 * there is none left, see Documentation/fault-injection/fault-injection.rst.
 * Either the kernel gets over it, or it says ENOMEM and nothing has changed,
 * and the operation works when it is tried again.  In the end all memory is
 * back.
 */
#include <fcntl.h>
#include <sys/mman.h>

#include "guest_memfd_fail_nth.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_test_harness.h"
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
	int fd = __vm_create_guest_memfd(env->vm, file_size(env), env->op->flags);

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
	env->fd = vm_create_guest_memfd(env->vm, file_size(env), env->op->flags);
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

static int write_touch(struct env *env)
{
	return gmem_poke(page(env, FAULT_PAGE), 0x55) ? EFAULT : 0;
}

static void written(struct env *env)
{
	TEST_ASSERT_EQ(gmem_peek(page(env, FAULT_PAGE)), 0x55);
	TEST_ASSERT_EQ(gmem_peek(page(env, FAULT_PAGE) + 1), 0);
	TEST_ASSERT_EQ(fdinfo(env, "allocated"), 1);
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
	gmem_poke(page(env, FAULT_PAGE), 0);
	gmem_poke(page(env, FAULT_PAGE + 1), 0x66);
	remap(env);
}

static int read_touch(struct env *env)
{
	return gmem_peek(page(env, FAULT_PAGE)) ? EFAULT : 0;
}

static void read_around(struct env *env)
{
	TEST_ASSERT(gmem_is_mapped(page(env, FAULT_PAGE + 1)),
		    "The fault has not mapped what is around it");
	TEST_ASSERT_EQ(gmem_peek(page(env, FAULT_PAGE + 1)), 0x66);
	TEST_ASSERT_EQ(fdinfo(env, "allocated"), 2);
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
	TEST_ASSERT_EQ(fdinfo(env, "allocated"), 1);
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
	ret = read_file(path, text, sizeof(text));
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
	TEST_ASSERT_EQ(fdinfo(env, "allocated"), 3);
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
	TEST_ASSERT_EQ(fdinfo(env, "allocated"), PREFAULT_NR + 1);
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

TEST_HARNESS_MAIN
