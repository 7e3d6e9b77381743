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
#include <stdlib.h>
#include <sys/mman.h>

#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_test_harness.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define UNIT		((u64)SZ_2M / GMEM_PAGE_SIZE)
/* As many units as one xarray node holds entries. */
#define LEAF		(64 * UNIT)
#define CHUNK		((u64)SZ_1G / GMEM_PAGE_SIZE)

#define SMALL_FILE	(4 * UNIT)
#define LEAF_FILE	(2 * LEAF)
#define CHUNKS_FILE	(3 * CHUNK)
/* Four levels of xarray nodes. */
#define FAR_FILE	(1024 * CHUNK)
/* A bit for each unit is more than kmalloc() gives. */
#define VMALLOC_FILE	(160 * 1024 * CHUNK)

#define TEST_SLOT	10
#define TEST_GPA	((u64)SZ_4G)

/* Longer than any of the operations. */
#define MAX_FAILURES	10000

/* Injection: all allocations count, but only those of this thread. */

struct setting {
	const char *path;
	const char *wanted;
	char saved[16];
};

#define FAULT_DIR	"/sys/kernel/debug/"

static struct setting settings[] = {
	/* GFP_KERNEL is spared by default, and so are single pages. */
	{ FAULT_DIR "failslab/ignore-gfp-wait", "N" },
	{ FAULT_DIR "fail_page_alloc/ignore-gfp-wait", "N" },
	{ FAULT_DIR "fail_page_alloc/ignore-gfp-highmem", "N" },
	{ FAULT_DIR "fail_page_alloc/min-order", "0" },
	{ FAULT_DIR "failslab/cache-filter", "N" },
	/* Thousands of backtraces on a serial console take their time. */
	{ FAULT_DIR "failslab/verbose", "0" },
	{ FAULT_DIR "fail_page_alloc/verbose", "0" },
};

static int read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t len;

	if (fd < 0)
		return -1;
	len = read(fd, buf, size - 1);
	close(fd);
	if (len < 0)
		return -1;

	buf[len] = '\0';
	return 0;
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	ssize_t len;

	if (fd < 0)
		return -1;
	len = write(fd, text, strlen(text));
	close(fd);
	return len == (ssize_t)strlen(text) ? 0 : -1;
}

static int inject_setup(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		struct setting *s = &settings[i];

		if (read_file(s->path, s->saved, sizeof(s->saved)) ||
		    write_file(s->path, s->wanted))
			return -1;
	}

	return open("/proc/thread-self/fail-nth", O_RDWR);
}

static void inject_teardown(int fd)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(settings); i++)
		write_file(settings[i].path, settings[i].saved);
	close(fd);
}

static void inject_start(int fd, unsigned int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", n);

	TEST_ASSERT_EQ(pwrite(fd, text, len, 0), len);
}

/* Has an allocation failed? */
static bool inject_stop(int fd)
{
	char text[16] = {};

	TEST_ASSERT(pread(fd, text, sizeof(text) - 1, 0) > 0,
		    "Cannot read fail-nth");
	inject_start(fd, 0);
	return atoi(text) == 0;
}

/* What may have been left behind: objects, pages and files */

static const char * const slab_caches[] = {
	"guest_memfd_inode", "guest_memfd_bitmap", "radix_tree_node",
	"kvm_mmu_page_header",
};

static const char * const vmstat_keys[] = {
	"nr_file_pages", "nr_unevictable", "nr_sec_page_table_pages",
	"nr_vmalloc",
};

#define NR_SLABS	ARRAY_SIZE(slab_caches)
#define NR_VMSTATS	ARRAY_SIZE(vmstat_keys)

struct left {
	long slabs[NR_SLABS];
	long vmstats[NR_VMSTATS];
	long files;
};

static long slab_attribute(const char *cache, const char *attribute)
{
	char path[128], text[128];

	snprintf(path, sizeof(path), "/sys/kernel/slab/%s/%s", cache, attribute);
	return read_file(path, text, sizeof(text)) ? -1 : atol(text);
}

/* A cache that is merged with others counts their objects as well: -1. */
static long slab_objects(const char *cache)
{
	char path[128];

	if (slab_attribute(cache, "aliases") != 0)
		return -1;

	/* Objects that are free, but kept for a CPU, are in use until then. */
	snprintf(path, sizeof(path), "/sys/kernel/slab/%s/shrink", cache);
	if (write_file(path, "1"))
		return -1;
	return slab_attribute(cache, "objects");
}

static long vmstat(const char *text, const char *key)
{
	const char *line;

	for (line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, key, strlen(key)) && line[strlen(key)] == ' ')
			return atol(line + strlen(key));
	}
	return -1;
}

static void count_left(struct left *left)
{
	static char text[16384];
	unsigned int i;

	for (i = 0; i < NR_SLABS; i++)
		left->slabs[i] = slab_objects(slab_caches[i]);

	write_file("/proc/sys/vm/stat_refresh", "1");
	TEST_ASSERT(!read_file("/proc/vmstat", text, sizeof(text)),
		    "Cannot read /proc/vmstat");
	for (i = 0; i < NR_VMSTATS; i++)
		left->vmstats[i] = vmstat(text, vmstat_keys[i]);

	TEST_ASSERT(!read_file("/proc/sys/fs/file-nr", text, sizeof(text)),
		    "Cannot read file-nr");
	left->files = atol(text);
}

/* Returns the name of what there is more of. */
static const char *find_more(const struct left *before, const struct left *after)
{
	unsigned int i;

	for (i = 0; i < NR_SLABS; i++)
		if (after->slabs[i] > before->slabs[i])
			return slab_caches[i];
	for (i = 0; i < NR_VMSTATS; i++)
		if (after->vmstats[i] > before->vmstats[i])
			return vmstat_keys[i];
	return after->files > before->files ? "files" : NULL;
}

/* What waits for an RCU grace period or for a worker goes away soon. */
#define SETTLE_USECS	20000
#define MAX_SETTLES	150

static const char *find_leak(const struct left *before)
{
	struct left after;
	const char *more;
	unsigned int i;

	for (i = 0; i < MAX_SETTLES; i++) {
		count_left(&after);
		more = find_more(before, &after);
		if (!more)
			return NULL;
		usleep(SETTLE_USECS);
	}

	return more;
}

/* The operations */

struct range {
	u64 first;
	u64 nr;
};

/*
 * A conversion, by what it finds.  Pages are either in the initial state of the
 * file, or marked as being in the other one.
 */
struct shape {
	u64 nr_pages;
	struct range marked[2];
	struct range change;
	bool to_initial;
	bool needs_nothing;
};

#define MAX_WATCHED	16

struct env {
	const struct op *op;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	int inject_fd;
	u8 *mem;
	/* Of conversions only. */
	const struct shape *shape;
	bool initial_private;
	u64 watched[MAX_WATCHED];
	unsigned int nr_watched;
	u64 error_page;
	bool stopped_half_way;
};

/* What becomes of the failures. */
enum outcome {
	ENDS_IN_ERROR,	/* at least one of them is reported */
	ABSORBED,	/* the operation works nevertheless */
	NEEDS_NOTHING,	/* there is no allocation that could fail */
};

/**
 * struct op - an operation, and how to tell what it has done
 * @nr_pages: of the file
 * @flags: of the file
 * @no_file: it makes the file itself
 * @with_guest: needs a guest, and a new one for each failure
 * @prepare: bring the file to where it can be done
 * @run: do it; 0 or an errno.  This is where allocations fail
 * @failed: check that nothing has happened
 * @done: check that it has, and undo what prepare does not
 * @errors: what it may fail with
 * @outcome: what is expected of the failures
 * @may_populate: pages that were allocated before the failure stay
 */
struct op {
	u64 nr_pages;
	u64 flags;
	bool no_file;
	bool with_guest;
	void (*prepare)(struct env *env);
	int (*run)(struct env *env);
	void (*failed)(struct env *env);
	void (*done)(struct env *env);
	int errors[2];
	enum outcome outcome;
	bool may_populate;
};

#define SHARED_FILE	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)
#define PRIVATE_FILE	GUEST_MEMFD_FLAG_MMAP

static u8 *page(const struct env *env, u64 n)
{
	return env->mem + n * GMEM_PAGE_SIZE;
}

static size_t file_size(const struct env *env)
{
	return env->op->nr_pages * GMEM_PAGE_SIZE;
}

static u64 fdinfo(const struct env *env, const char *key)
{
	return gmem_fdinfo(env->fd, key);
}

static int try_populate(const struct env *env, u64 first, u64 nr_pages)
{
	return fallocate(env->fd, FALLOC_FL_KEEP_SIZE, first * GMEM_PAGE_SIZE,
			 nr_pages * GMEM_PAGE_SIZE) ? errno : 0;
}

static void populate(const struct env *env, u64 first, u64 nr_pages)
{
	TEST_ASSERT_EQ(try_populate(env, first, nr_pages), 0);
}

static void punch_all(struct env *env)
{
	gmem_punch_pages(env->fd, 0, env->op->nr_pages);
}

/* A new mapping has no page tables yet. */
static void remap(struct env *env)
{
	if (env->mem)
		kvm_munmap(env->mem, file_size(env));
	env->mem = kvm_mmap(file_size(env), PROT_READ | PROT_WRITE, MAP_SHARED,
			    env->fd);
}

static void unmap(struct env *env)
{
	if (env->mem)
		kvm_munmap(env->mem, file_size(env));
	env->mem = NULL;
}

static int try_slot(struct env *env, u32 slot, u64 gpa, u64 nr_pages)
{
	return __vm_set_user_memory_region2(env->vm, slot, KVM_MEM_GUEST_MEMFD,
					    gpa, nr_pages * GMEM_PAGE_SIZE, NULL,
					    nr_pages ? env->fd : -1, 0) ? errno : 0;
}

static void set_slot(struct env *env, u64 nr_pages)
{
	TEST_ASSERT_EQ(try_slot(env, TEST_SLOT, TEST_GPA, nr_pages), 0);
}

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
	set_slot(env, env->op->nr_pages);
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
	.outcome = NEEDS_NOTHING,
};

/* Memslots */

static int bind_slot(struct env *env)
{
	return try_slot(env, TEST_SLOT, TEST_GPA, env->op->nr_pages);
}

/* Pages of a file can be bound once. */
static int try_other_slot(struct env *env)
{
	return try_slot(env, TEST_SLOT + 1, 2 * TEST_GPA, env->op->nr_pages);
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
	set_slot(env, 0);
}

static const struct op bind_op = {
	.nr_pages = LEAF_FILE,
	.flags = SHARED_FILE,
	.run = bind_slot,
	.failed = not_bound,
	.done = bound,
	.errors = { ENOMEM },
};

static void prepare_unbind(struct env *env)
{
	set_slot(env, env->op->nr_pages);
}

static int delete_slot(struct env *env)
{
	return try_slot(env, TEST_SLOT, TEST_GPA, 0);
}

static const struct op unbind_op = {
	.nr_pages = LEAF_FILE,
	.flags = SHARED_FILE,
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
	populate(env, FAULT_PAGE - 2, 5);
	gmem_poke(page(env, FAULT_PAGE + 1), 0x66);
	remap(env);
}

static int read_touch(struct env *env)
{
	return gmem_peek(page(env, FAULT_PAGE)) ? EFAULT : 0;
}

static void read_around(struct env *env)
{
	TEST_ASSERT(gmem_is_mapped(page(env, FAULT_PAGE + 2)),
		    "The fault has not mapped what is around it");
	TEST_ASSERT_EQ(gmem_peek(page(env, FAULT_PAGE + 1)), 0x66);
	TEST_ASSERT_EQ(fdinfo(env, "allocated"), 5);
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
	return pread(env->inject_fd, page(env, FAULT_PAGE), 8, 0) < 0 ? errno : 0;
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
	.outcome = NEEDS_NOTHING,
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

/* Guests */

#define GUEST_SHARED	5
#define GUEST_PRIVATE	(UNIT + 5)
#define GUEST_BYTE	0x77

#define guest_page(n)	((u8 *)(TEST_GPA + (n) * GMEM_PAGE_SIZE))

static void guest_touch(void)
{
	WRITE_ONCE(*guest_page(GUEST_SHARED), GUEST_BYTE);
	WRITE_ONCE(*guest_page(GUEST_PRIVATE), GUEST_BYTE);
	GUEST_SYNC1(READ_ONCE(*guest_page(GUEST_SHARED)) +
		    READ_ONCE(*guest_page(GUEST_PRIVATE)));
}

static void prepare_guest(struct env *env)
{
	gmem_pages_to_private(env->fd, UNIT, UNIT);
	set_slot(env, env->op->nr_pages);
	virt_map(env->vm, TEST_GPA, TEST_GPA, env->op->nr_pages);
	remap(env);
}

static int run_guest(struct env *env)
{
	return _vcpu_run(env->vcpu) ? errno : 0;
}

static void guest_has_run(struct env *env)
{
	struct ucall uc;

	TEST_ASSERT_KVM_EXIT_REASON(env->vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(get_ucall(env->vcpu, &uc), UCALL_SYNC);
	TEST_ASSERT_EQ(uc.args[0], 2 * GUEST_BYTE);
	TEST_ASSERT_EQ(fdinfo(env, "allocated"), 2);
	TEST_ASSERT_EQ(fdinfo(env, "private"), UNIT);
	TEST_ASSERT_EQ(gmem_peek(page(env, GUEST_SHARED)), GUEST_BYTE);
	TEST_ASSERT_EQ(gmem_peek(page(env, GUEST_PRIVATE)), GMEM_SIGBUS);
	gmem_pages_to_shared(env->fd, GUEST_PRIVATE, 1);
	TEST_ASSERT_EQ(gmem_peek(page(env, GUEST_PRIVATE)), GUEST_BYTE);
}

static const struct op vcpu_run_op = {
	.nr_pages = SMALL_FILE,
	.flags = SHARED_FILE,
	.with_guest = true,
	.prepare = prepare_guest,
	.run = run_guest,
	.done = guest_has_run,
	.errors = { ENOMEM },
	.may_populate = true,
};

static int prefault(struct env *env)
{
	struct kvm_pre_fault_memory range = {
		.gpa = TEST_GPA + (UNIT - 4) * GMEM_PAGE_SIZE,
		.size = 8 * GMEM_PAGE_SIZE,
	};

	while (range.size)
		if (__vcpu_ioctl(env->vcpu, KVM_PRE_FAULT_MEMORY, &range))
			return errno;
	return 0;
}

static void prefaulted(struct env *env)
{
	TEST_ASSERT_EQ(fdinfo(env, "allocated"), 8);
	TEST_ASSERT_EQ(fdinfo(env, "private"), UNIT);
	TEST_ASSERT_EQ(vm_get_stat(env->vm, pages_4k), 8);
}

static const struct op prefault_op = {
	.nr_pages = SMALL_FILE,
	.flags = SHARED_FILE,
	.with_guest = true,
	.prepare = prepare_guest,
	.run = prefault,
	.done = prefaulted,
	.errors = { ENOMEM },
	.may_populate = true,
};

/* Conversions */

static bool in_range(struct range range, u64 n)
{
	return n >= range.first && n < range.first + range.nr;
}

/* Is the page in the state that is not the initial one? */
static bool is_marked(const struct shape *shape, u64 n, u64 changed_end)
{
	if (in_range(shape->change, n) && n < changed_end)
		return !shape->to_initial;
	return in_range(shape->marked[0], n) || in_range(shape->marked[1], n);
}

/* All but the outermost pages of a range are like their neighbours. */
static void watch_range(struct env *env, struct range range)
{
	const u64 pages[] = {
		range.first - 1, range.first, range.first + range.nr / 2,
		range.first + range.nr - 1, range.first + range.nr,
	};
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		for (j = 0; j < env->nr_watched; j++)
			if (env->watched[j] == pages[i])
				break;
		if (j == env->nr_watched && pages[i] < env->shape->nr_pages)
			env->watched[env->nr_watched++] = pages[i];
	}
}

static void set_state(struct env *env, struct range range, bool marked)
{
	if (!range.nr)
		return;
	if (marked != env->initial_private)
		gmem_pages_to_private(env->fd, range.first, range.nr);
	else
		gmem_pages_to_shared(env->fd, range.first, range.nr);
}

static void prepare_conversion(struct env *env)
{
	const struct shape *shape = env->shape;
	unsigned int i;

	if (!env->mem) {
		remap(env);
		env->nr_watched = 0;
		watch_range(env, shape->change);
		for (i = 0; i < ARRAY_SIZE(shape->marked); i++)
			if (shape->marked[i].nr)
				watch_range(env, shape->marked[i]);
		if (shape->nr_pages <= CHUNKS_FILE)
			set_slot(env, shape->nr_pages);
	}

	for (i = 0; i < env->nr_watched; i++) {
		gmem_pages_to_shared(env->fd, env->watched[i], 1);
		gmem_stamp(page(env, env->watched[i]), i + 1);
		set_state(env, (struct range){ env->watched[i], 1 }, false);
	}

	set_state(env, shape->marked[0], true);
	set_state(env, shape->marked[1], true);
}

static int convert(struct env *env)
{
	struct range range = env->shape->change;
	bool private = env->shape->to_initial == env->initial_private;
	u64 error_offset;
	int ret;

	ret = __gmem_set_memory_attributes(env->fd, range.first * GMEM_PAGE_SIZE,
					   range.nr * GMEM_PAGE_SIZE,
					   private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
					   &error_offset);
	env->error_page = error_offset / GMEM_PAGE_SIZE;
	return ret ? errno : 0;
}

static u64 marked_below(const struct shape *shape, u64 end)
{
	u64 nr = 0, n;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(shape->marked); i++) {
		const struct range *range = &shape->marked[i];

		nr += range->nr;
		for (n = range->first; n < range->first + range->nr; n++)
			if (in_range(shape->change, n) && n < end)
				nr--;
	}
	if (!shape->to_initial && end > shape->change.first)
		nr += min(end, shape->change.first + shape->change.nr) -
		      shape->change.first;
	return nr;
}

/* The pages of the change are converted up to @end, and no more. */
static void check_states(struct env *env, u64 end)
{
	u64 marked = marked_below(env->shape, end);
	unsigned int i;

	TEST_ASSERT_EQ(fdinfo(env, env->initial_private ? "shared" : "private"),
		       marked);
	TEST_ASSERT_EQ(fdinfo(env, "allocated"), env->nr_watched);

	for (i = 0; i < env->nr_watched; i++) {
		u64 n = env->watched[i];

		if (is_marked(env->shape, n, end) != env->initial_private)
			TEST_ASSERT_EQ(gmem_peek(page(env, n)), GMEM_SIGBUS);
		else
			TEST_ASSERT(gmem_has_stamp(page(env, n), i + 1),
				    "Page 0x%lx has lost what it held", n);
	}
}

/* The chunk that the error is in is as it was, those before it are not. */
static void conversion_failed(struct env *env)
{
	u64 start = env->shape->change.first;

	if (env->error_page != start) {
		TEST_ASSERT_EQ(env->error_page % CHUNK, 0);
		TEST_ASSERT(in_range(env->shape->change, env->error_page),
			    "error_offset is outside the range");
		env->stopped_half_way = true;
	}
	check_states(env, env->error_page);
}

static void converted(struct env *env)
{
	const struct shape *shape = env->shape;
	unsigned int i;

	check_states(env, shape->nr_pages);

	set_state(env, shape->change, false);
	set_state(env, shape->marked[0], false);
	set_state(env, shape->marked[1], false);
	for (i = 0; i < env->nr_watched; i++) {
		gmem_pages_to_shared(env->fd, env->watched[i], 1);
		TEST_ASSERT(gmem_has_stamp(page(env, env->watched[i]), i + 1),
			    "Page 0x%lx has lost what it held", env->watched[i]);
		set_state(env, (struct range){ env->watched[i], 1 }, false);
	}
}

/* Each failure in turn */

static void open_env(struct env *env)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = KVM_X86_SW_PROTECTED_VM,
	};
	const struct op *op = env->op;

	env->vcpu = NULL;
	if (op->with_guest)
		env->vm = vm_create_shape_with_one_vcpu(shape, &env->vcpu,
							guest_touch);
	else
		env->vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);

	env->fd = -1;
	env->mem = NULL;
	if (!op->no_file)
		env->fd = vm_create_guest_memfd(env->vm, file_size(env), op->flags);
}

static void close_env(struct env *env)
{
	unmap(env);
	if (!env->op->no_file)
		kvm_close(env->fd);
	kvm_vm_free(env->vm);
}

struct file_state {
	u64 shared;
	u64 private;
	u64 allocated;
};

static struct file_state file_state(const struct env *env)
{
	if (env->op->no_file)
		return (struct file_state){};
	return (struct file_state){
		.shared = fdinfo(env, "shared"),
		.private = fdinfo(env, "private"),
		.allocated = fdinfo(env, "allocated"),
	};
}

static void check_unchanged(const struct env *env, struct file_state before)
{
	struct file_state after = file_state(env);

	if (env->op->may_populate)
		TEST_ASSERT(after.allocated >= before.allocated, "Pages are gone");
	else
		TEST_ASSERT_EQ(after.allocated, before.allocated);

	/* A conversion knows better. */
	if (env->shape)
		return;
	TEST_ASSERT_EQ(after.shared, before.shared);
	TEST_ASSERT_EQ(after.private, before.private);
}

static void check_error(const struct env *env, int err, unsigned int n)
{
	TEST_ASSERT(err == env->op->errors[0] || err == env->op->errors[1],
		    "Failure %u ends in errno %d (%s)", n, err, strerror(err));
}

/* Returns true if an allocation has failed; counts the errors it ends in. */
static bool fail_one(struct env *env, int inject_fd, unsigned int n,
		     unsigned int *nr_errors)
{
	const struct op *op = env->op;
	struct file_state before;
	bool injected;
	int err;

	if (op->prepare)
		op->prepare(env);
	before = file_state(env);

	inject_start(inject_fd, n);
	err = op->run(env);
	injected = inject_stop(inject_fd);

	if (err) {
		TEST_ASSERT(injected, "It fails by itself: errno %d (%s)", err,
			    strerror(err));
		check_error(env, err, n);
		(*nr_errors)++;
		check_unchanged(env, before);
		if (op->failed)
			op->failed(env);

		err = op->run(env);
		TEST_ASSERT(!err, "After failure %u, it fails again: errno %d (%s)",
			    n, err, strerror(err));
	}

	op->done(env);
	return injected;
}

static unsigned int fail_each(struct env *env, int inject_fd,
			      unsigned int *nr_errors)
{
	unsigned int n = 0;
	bool injected;

	*nr_errors = 0;
	open_env(env);
	do {
		if (n && env->op->with_guest) {
			close_env(env);
			open_env(env);
		}
		injected = fail_one(env, inject_fd, ++n, nr_errors);
	} while (injected && n < MAX_FAILURES);
	close_env(env);

	return n - 1;
}

/* Once without failures: what is allocated the first time stays. */
static void warm_up(struct env *env, int inject_fd)
{
	unsigned int nr_errors;

	open_env(env);
	fail_one(env, inject_fd, MAX_FAILURES, &nr_errors);
	close_env(env);
}

static void run_op(struct __test_metadata *_metadata, struct env *env,
		   int inject_fd)
{
	enum outcome outcome = env->op->outcome;
	unsigned int nr_failures, nr_errors;
	struct left before;
	const char *more;

	warm_up(env, inject_fd);
	count_left(&before);

	nr_failures = fail_each(env, inject_fd, &nr_errors);
	TH_LOG("%u allocations failed, %u of them were reported", nr_failures,
	       nr_errors);

	EXPECT_GT(MAX_FAILURES, nr_failures);
	EXPECT_EQ(outcome == NEEDS_NOTHING, nr_failures == 0);
	EXPECT_EQ(outcome == ENDS_IN_ERROR, nr_errors > 0);

	more = find_leak(&before);
	EXPECT_EQ(NULL, more) {
		TH_LOG("There are more %s than before", more);
	}
}

static int try_setup(struct __test_metadata *_metadata)
{
	int fd;

	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM)))
		SKIP(return -1, "no KVM_X86_SW_PROTECTED_VM");

	fd = inject_setup();
	if (fd < 0)
		SKIP(return -1, "no fault injection");

	return fd;
}

FIXTURE(operation) {
	int inject_fd;
};

FIXTURE_VARIANT(operation) {
	const struct op *op;
};

FIXTURE_SETUP(operation)
{
	self->inject_fd = try_setup(_metadata);
}

FIXTURE_TEARDOWN(operation)
{
	inject_teardown(self->inject_fd);
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

TEST_F(operation, is_all_or_nothing_whichever_allocation_fails)
{
	struct env env = { .op = variant->op, .inject_fd = self->inject_fd };

	run_op(_metadata, &env, self->inject_fd);
}

FIXTURE(conversion) {
	int inject_fd;
};

FIXTURE_VARIANT(conversion) {
	struct shape shape;
	bool initial_private;
};

FIXTURE_SETUP(conversion)
{
	self->inject_fd = try_setup(_metadata);
}

FIXTURE_TEARDOWN(conversion)
{
	inject_teardown(self->inject_fd);
}

/* Each shape in a file that starts out shared, and in one that starts private. */
#define CONVERSION(_name, ...)						\
	FIXTURE_VARIANT_ADD(conversion, _name) {			\
		.shape = { __VA_ARGS__ },				\
	};								\
	FIXTURE_VARIANT_ADD(conversion, _name##_inverted) {		\
		.shape = { __VA_ARGS__ },				\
		.initial_private = true,				\
	}

CONVERSION(uniform_to_mixed,
	   .nr_pages = SMALL_FILE,
	   .change = { 3, 4 });
CONVERSION(mixed_to_mixed,
	   .nr_pages = SMALL_FILE,
	   .marked = { { 3, 4 } },
	   .change = { 100, 10 });
CONVERSION(mixed_to_mixed_back,
	   .nr_pages = SMALL_FILE,
	   .marked = { { 3, 4 } },
	   .change = { 4, 1 },
	   .to_initial = true);
CONVERSION(mixed_to_uniform,
	   .nr_pages = SMALL_FILE,
	   .marked = { { 0, 500 } },
	   .change = { 500, UNIT - 500 },
	   .needs_nothing = true);
CONVERSION(mixed_to_uniform_back,
	   .nr_pages = SMALL_FILE,
	   .marked = { { 3, 4 } },
	   .change = { 0, UNIT },
	   .to_initial = true,
	   .needs_nothing = true);
CONVERSION(several_units,
	   .nr_pages = SMALL_FILE,
	   .change = { UNIT / 2, 3 * UNIT });
CONVERSION(several_mixed_units,
	   .nr_pages = SMALL_FILE,
	   .marked = { { 3, 4 }, { 3 * UNIT + 3, 4 } },
	   .change = { UNIT / 2, 3 * UNIT });
CONVERSION(hole_in_a_joined_leaf,
	   .nr_pages = LEAF_FILE,
	   .marked = { { 0, LEAF } },
	   .change = { 5 * UNIT + 3, 4 },
	   .to_initial = true);
CONVERSION(first_leaf_grows_the_tree,
	   .nr_pages = LEAF_FILE,
	   .marked = { { 3, 4 } },
	   .change = { 0, LEAF });
CONVERSION(far_page,
	   .nr_pages = FAR_FILE,
	   .change = { FAR_FILE - 4, 2 });
CONVERSION(far_unit,
	   .nr_pages = FAR_FILE,
	   .change = { FAR_FILE - UNIT, UNIT });
CONVERSION(three_chunks,
	   .nr_pages = CHUNKS_FILE,
	   .change = { CHUNK - 5, CHUNK + 10 });

TEST_F(conversion, is_all_or_nothing_whichever_allocation_fails)
{
	const struct op op = {
		.nr_pages = variant->shape.nr_pages,
		.flags = variant->initial_private ? PRIVATE_FILE : SHARED_FILE,
		.prepare = prepare_conversion,
		.run = convert,
		.failed = conversion_failed,
		.done = converted,
		.errors = { ENOMEM },
		.outcome = variant->shape.needs_nothing ? NEEDS_NOTHING :
							  ENDS_IN_ERROR,
	};
	struct env env = {
		.op = &op,
		.inject_fd = self->inject_fd,
		.shape = &variant->shape,
		.initial_private = variant->initial_private,
	};

	run_op(_metadata, &env, self->inject_fd);

	EXPECT_EQ(variant->shape.change.nr > CHUNK, env.stopped_half_way);
}

TEST_HARNESS_MAIN
