/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests have in common that make each allocation of an operation on a
 * guest_memfd fail: injection, what must not be left behind, and the loop.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_FAIL_NTH_H
#define SELFTEST_KVM_GUEST_MEMFD_FAIL_NTH_H

#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

/* There are fewer allocations in any of the operations, and fewer vCPU IDs. */
#define MAX_FAILURES	1000
/* In seconds, on a slow and busy machine. */
#define TEST_TIMEOUT	120

/* Injection: all allocations count, but only those of this thread */

/**
 * enum failing - which allocations fail
 * @ONE_FAILS: the n-th alone.  Whoever tries again gets what he wants.
 * @REST_FAILS: the n-th and those after it, in case somebody tries again or
 *	needs memory to clean up
 */
enum failing {
	ONE_FAILS,
	REST_FAILS,
};

/* After that many it's enough: a page fault is tried again until it works. */
#define REST_TIMES	"100"

struct injector {
	int nth_fd;
	int rest_fd;
};

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
	/* REST_FAILS: all that is not the n-th, if make-it-fail is set. */
	{ FAULT_DIR "failslab/task-filter", "Y" },
	{ FAULT_DIR "fail_page_alloc/task-filter", "Y" },
	{ FAULT_DIR "failslab/probability", "100" },
	{ FAULT_DIR "fail_page_alloc/probability", "100" },
	/* Thousands of backtraces on a serial console take their time. */
	{ FAULT_DIR "failslab/verbose", "0" },
	{ FAULT_DIR "fail_page_alloc/verbose", "0" },
	{ FAULT_DIR "failslab/times", REST_TIMES },
	{ FAULT_DIR "fail_page_alloc/times", REST_TIMES },
};

static inline int inject_setup(struct injector *injector)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		struct setting *s = &settings[i];

		if (try_read_file(s->path, s->saved, sizeof(s->saved)) ||
		    try_write_file(s->path, s->wanted))
			return -1;
	}

	injector->nth_fd = open("/proc/thread-self/fail-nth", O_RDWR);
	injector->rest_fd = open("/proc/thread-self/make-it-fail", O_RDWR);
	return injector->nth_fd < 0 || injector->rest_fd < 0 ? -1 : 0;
}

static inline void inject_teardown(struct injector *injector)
{
	unsigned int i;

	close(injector->nth_fd);
	close(injector->rest_fd);
	for (i = 0; i < ARRAY_SIZE(settings); i++)
		try_write_file(settings[i].path, settings[i].saved);
}

static inline void inject_write(int fd, unsigned int value)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", value);

	TEST_ASSERT_EQ(pwrite(fd, text, len, 0), len);
}

static inline void inject_start(struct injector *injector,
				enum failing failing, unsigned int n)
{
	if (failing == REST_FAILS) {
		try_write_file(FAULT_DIR "failslab/times", REST_TIMES);
		try_write_file(FAULT_DIR "fail_page_alloc/times", REST_TIMES);
	}

	/* Nothing but the n-th fails before the n-th. */
	inject_write(injector->nth_fd, n);
	if (failing == REST_FAILS)
		inject_write(injector->rest_fd, 1);
}

/* Has an allocation failed? */
static inline bool inject_stop(struct injector *injector)
{
	char text[16] = {};

	inject_write(injector->rest_fd, 0);
	TEST_ASSERT(pread(injector->nth_fd, text, sizeof(text) - 1, 0) > 0,
		    "Cannot read fail-nth");
	inject_write(injector->nth_fd, 0);
	return atoi(text) == 0;
}

/* What may have been left behind: objects, pages and files */

static inline const char * const slab_caches[] = {
	"guest_memfd_inode", "guest_memfd_bitmap", "radix_tree_node",
	"kvm_mmu_page_header",
	/* Pools and blocks of huge pages, for one. */
	"kmalloc-cg-96", "kmalloc-cg-128", "kmalloc-cg-192", "kmalloc-cg-256",
	"kmalloc-cg-512",
};

#define VMSTAT_HUGETLB	0

static inline const char * const vmstat_keys[] = {
	[VMSTAT_HUGETLB] = "nr_hugetlb",
	"nr_file_pages", "nr_unevictable", "nr_sec_page_table_pages",
	"nr_vmalloc", "nr_memmap_pages",
};

#define NR_SLABS	ARRAY_SIZE(slab_caches)
#define NR_VMSTATS	ARRAY_SIZE(vmstat_keys)

struct left {
	long slabs[NR_SLABS];
	long vmstats[NR_VMSTATS];
	long files;
};

static inline long slab_attribute(const char *cache, const char *attribute)
{
	char path[128], text[128];

	snprintf(path, sizeof(path), "/sys/kernel/slab/%s/%s", cache, attribute);
	return try_read_file(path, text, sizeof(text)) ? -1 : atol(text);
}

/* A cache that is merged with others counts their objects as well: -1. */
static inline long slab_objects(const char *cache)
{
	char path[128];

	if (slab_attribute(cache, "aliases") != 0)
		return -1;

	/* Objects that are free, but kept for a CPU, are in use until then. */
	snprintf(path, sizeof(path), "/sys/kernel/slab/%s/shrink", cache);
	if (try_write_file(path, "1"))
		return -1;
	return slab_attribute(cache, "objects");
}

static inline long vmstat(const char *text, const char *key)
{
	const char *line;

	for (line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, key, strlen(key)) && line[strlen(key)] == ' ')
			return atol(line + strlen(key));
	}
	return -1;
}

static inline void count_vmstats(struct left *left)
{
	static char text[16384];
	unsigned int i;

	try_write_file("/proc/sys/vm/stat_refresh", "1");
	read_file("/proc/vmstat", text, sizeof(text));
	for (i = 0; i < NR_VMSTATS; i++)
		left->vmstats[i] = vmstat(text, vmstat_keys[i]);
}

static inline void count_left(struct left *left)
{
	char text[128];
	unsigned int i;

	for (i = 0; i < NR_SLABS; i++)
		left->slabs[i] = slab_objects(slab_caches[i]);
	count_vmstats(left);

	read_file("/proc/sys/fs/file-nr", text, sizeof(text));
	left->files = atol(text);
}

/* Returns the name of what there is more of. */
static inline const char *find_more(const struct left *before, const struct left *after)
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

/*
 * What waits for an RCU grace period or for a worker goes away soon, but
 * kfree_rcu() may wait for five seconds if it had no memory to do it well.
 */
#define SETTLE_USECS	10000
#define SOON_SETTLES	50
#define LATE_SETTLES	1000

static inline const char *find_leak(const struct left *before,
				    unsigned int max_settles)
{
	struct left after;
	const char *more;
	unsigned int i;

	for (i = 0; i < max_settles; i++) {
		count_left(&after);
		more = find_more(before, &after);
		if (!more)
			return NULL;
		usleep(SETTLE_USECS);
	}

	return more;
}

/* The operations */

struct env {
	const struct op *op;
	struct injector *injector;
	enum failing failing;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	u8 *mem;
	void *data;
	unsigned int nr_tries;
};

/* What becomes of the failures. */
enum outcome {
	ENDS_IN_ERROR,	/* at least one of them is reported */
	ABSORBED,	/* there are some, and the operation works all the same */
	NEVER_FAILS,	/* it needs nothing that could */
};

/**
 * struct op - an operation, and how to tell what it has done
 * @nr_pages: of the file
 * @flags: of the file
 * @slot_first: the first page of it that a memslot has
 * @no_file: it makes the file itself
 * @with_vcpu: needs a vCPU, and a new one for each failure
 * @prepare: bring the file to where it can be done
 * @run: do it; 0 or an errno.  This is where allocations fail
 * @failed: check that nothing has happened
 * @done: check that it has, and undo what prepare does not
 * @errors: what it may fail with
 * @outcome: what is expected of the failures
 * @may_populate: pages that were allocated before the failure stay
 * @may_convert: so do pages that were converted; @failed checks them
 * @sparse: it takes so long that only the first and some others fail
 */
struct op {
	u64 nr_pages;
	u64 flags;
	u64 slot_first;
	bool no_file;
	bool with_vcpu;
	void (*prepare)(struct env *env);
	int (*run)(struct env *env);
	void (*failed)(struct env *env);
	void (*done)(struct env *env);
	int errors[2];
	enum outcome outcome;
	bool may_populate;
	bool may_convert;
	bool sparse;
};

#define TEST_SLOT	10

#define SHARED_FILE	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)
#define PRIVATE_FILE	GUEST_MEMFD_FLAG_MMAP

static inline u8 *page(const struct env *env, u64 n)
{
	return env->mem + n * GMEM_PAGE_SIZE;
}

static inline size_t file_size(const struct env *env)
{
	return env->op->nr_pages * GMEM_PAGE_SIZE;
}

static inline u64 fdinfo(const struct env *env, const char *key)
{
	return gmem_fdinfo(env->fd, key);
}

static inline int try_populate(const struct env *env, u64 first, u64 nr_pages)
{
	return fallocate(env->fd, FALLOC_FL_KEEP_SIZE, first * GMEM_PAGE_SIZE,
			 nr_pages * GMEM_PAGE_SIZE) ? errno : 0;
}

static inline void populate(const struct env *env, u64 first, u64 nr_pages)
{
	TEST_ASSERT_EQ(try_populate(env, first, nr_pages), 0);
}

static inline void punch_all(struct env *env)
{
	gmem_punch_pages(env->fd, 0, env->op->nr_pages);
}

/* A new mapping has no page tables yet. */
static inline void remap(struct env *env)
{
	if (env->mem)
		kvm_munmap(env->mem, file_size(env));
	env->mem = kvm_mmap(file_size(env), PROT_READ | PROT_WRITE, MAP_SHARED,
			    env->fd);
}

static inline void unmap(struct env *env)
{
	if (env->mem)
		kvm_munmap(env->mem, file_size(env));
	env->mem = NULL;
}

static inline int try_slot(struct env *env, u32 slot, u64 gpa, u64 nr_pages)
{
	/* The library would ask for capabilities before. */
	struct kvm_userspace_memory_region2 region = {
		.slot = slot,
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = gpa,
		.memory_size = nr_pages * GMEM_PAGE_SIZE,
		.guest_memfd = nr_pages ? env->fd : -1,
		.guest_memfd_offset = nr_pages ? env->op->slot_first * GMEM_PAGE_SIZE : 0,
	};

	return ioctl(env->vm->fd, KVM_SET_USER_MEMORY_REGION2, &region) ? errno : 0;
}

static inline void set_slot(struct env *env, u64 gpa, u64 nr_pages)
{
	TEST_ASSERT_EQ(try_slot(env, TEST_SLOT, gpa, nr_pages), 0);
}

/* Each failure in turn */

static inline void open_env(struct env *env)
{
	const struct op *op = env->op;

	env->vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	env->fd = -1;
	env->mem = NULL;
	if (!op->no_file)
		env->fd = vm_create_guest_memfd(env->vm, file_size(env),
						op->flags | gmem_default_flags());
}

static inline void close_env(struct env *env)
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

static inline struct file_state file_state(const struct env *env)
{
	if (env->op->no_file)
		return (struct file_state){};
	return (struct file_state){
		.shared = fdinfo(env, "shared"),
		.private = fdinfo(env, "private"),
		.allocated = fdinfo(env, "allocated"),
	};
}

static inline void check_unchanged(const struct env *env, struct file_state before)
{
	struct file_state after = file_state(env);

	if (env->op->may_populate)
		TEST_ASSERT(after.allocated >= before.allocated, "Pages are gone");
	else
		TEST_ASSERT_EQ(after.allocated, before.allocated);

	/* Who stops part-way knows better. */
	if (env->op->may_convert)
		return;
	TEST_ASSERT_EQ(after.shared, before.shared);
	TEST_ASSERT_EQ(after.private, before.private);
}

static inline void check_error(const struct env *env, int err, unsigned int n)
{
	TEST_ASSERT(err == env->op->errors[0] || err == env->op->errors[1],
		    "Failure %u ends in errno %d (%s)", n, err, strerror(err));
}

/* Returns true if an allocation has failed; counts the errors it ends in. */
static inline bool fail_one(struct env *env, unsigned int n, unsigned int *nr_errors)
{
	const struct op *op = env->op;
	struct file_state before;
	bool injected;
	int err;

	/* Its caches are empty only once. */
	if (op->with_vcpu)
		env->vcpu = __vm_vcpu_add(env->vm, env->nr_tries);
	if (op->prepare)
		op->prepare(env);
	before = file_state(env);

	inject_start(env->injector, env->failing, n);
	err = op->run(env);
	injected = inject_stop(env->injector);

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

static inline unsigned int fail_each(struct env *env, unsigned int *nr_errors)
{
	unsigned int n = 1;

	*nr_errors = 0;
	open_env(env);
	for (env->nr_tries = 0; fail_one(env, n, nr_errors); env->nr_tries++) {
		if (env->nr_tries == MAX_FAILURES)
			break;
		n = env->op->sparse ? 16 * n + 1 : n + 1;
	}
	close_env(env);

	return env->nr_tries;
}

/*
 * What is allocated once and kept is no leak: it comes in the first pass.  A
 * leak is there in every pass, and after the last one it is worth the wait.
 */
#define MAX_PASSES	3

static inline const char *fail_each_and_count(struct env *env,
					      unsigned int *nr_failures,
					      unsigned int *nr_errors)
{
	struct left before;
	const char *more;
	unsigned int i;

	for (i = 0; i < MAX_PASSES; i++) {
		count_left(&before);
		*nr_failures = fail_each(env, nr_errors);
		more = find_leak(&before, i < MAX_PASSES - 1 ? SOON_SETTLES :
							     LATE_SETTLES);
		if (!more)
			break;
	}

	return more;
}

static inline void run_op(struct __test_metadata *_metadata, struct env *env,
			  enum outcome outcome)
{
	unsigned int nr_failures, nr_errors;
	const char *more;

	more = fail_each_and_count(env, &nr_failures, &nr_errors);
	TH_LOG("%u failures, %u of them reported", nr_failures, nr_errors);

	EXPECT_GT(MAX_FAILURES, nr_failures);
	/* What never fails may still ask for memory that it can do without. */
	if (outcome != NEVER_FAILS)
		EXPECT_LT(0, nr_failures);
	EXPECT_EQ(outcome == ENDS_IN_ERROR, nr_errors > 0);

	EXPECT_EQ(NULL, more) {
		TH_LOG("There are more %s than before", more);
	}
}

#define SETUP_INJECTION(_injector) do {						\
	if (!gmem_can_convert())	\
		SKIP(return, "no KVM_X86_SW_PROTECTED_VM");			\
	if (inject_setup(_injector))						\
		SKIP(return, "no fault injection");				\
} while (0)

#endif /* SELFTEST_KVM_GUEST_MEMFD_FAIL_NTH_H */
