// SPDX-License-Identifier: GPL-2.0-only
/*
 * A page of a guest_memfd that nobody holds can be made private, whatever was
 * done to it just before or is being done meanwhile.
 *
 * References that are nobody's in particular are the kernel's own affair: those
 * in the per-CPU batches of the LRU and of mlock, those of faults under way, of
 * vCPUs and of TLB batches.  -EAGAIN is for a page that somebody has pinned.
 *
 * Each test runs for TEST_MSECS, or for -n STEPS, and on a slow machine until the
 * others that it is about have done something as well.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GPA	((u64)SZ_4G)

#define NR_PAGES	(SZ_4M / GMEM_PAGE_SIZE)

#define TEST_MSECS	600
/* With -n, a test takes as long as it takes. */
#define TEST_TIMEOUT	3600

/* What is not the converter's own CPU. */
#define CONVERTER_CPU	0
#define OTHER_CPU	1

static u64 nr_steps;

/* How long to go on, and how fast it went */

struct pace {
	struct timespec start;
	u64 steps;
};

static void pace_start(struct pace *pace)
{
	pace->steps = 0;
	clock_gettime(CLOCK_MONOTONIC, &pace->start);
}

static u64 pace_msecs(const struct pace *pace)
{
	struct timespec passed = timespec_elapsed(pace->start);

	return passed.tv_sec * 1000 + passed.tv_nsec / 1000000;
}

static bool pace_step_until(struct pace *pace, bool others_did)
{
	if (others_did &&
	    (nr_steps ? pace->steps >= nr_steps : pace_msecs(pace) >= TEST_MSECS))
		return false;
	pace->steps++;
	return true;
}

static bool pace_step(struct pace *pace)
{
	return pace_step_until(pace, true);
}

#define pace_log(pace) \
	TH_LOG("%lu steps, %lu a second", (pace)->steps, \
	       (pace)->steps * 1000 / (pace_msecs(pace) + 1))

/* The file, and conversions that must not fail */

FIXTURE(unheld) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	u8 *mem;
	struct pace pace;
};

static u8 *page(u8 *mem, u64 n)
{
	return mem + n * GMEM_PAGE_SIZE;
}

/* Go through the file so that neighbours are not next to each other. */
static u64 step_page(u64 step)
{
	return step * 389 % NR_PAGES;
}

#define ASSERT_CONVERTS(_self, _first, _nr) do {			\
	u64 error_page;							\
	int err = gmem_pages_try_private((_self)->fd, _first, _nr,	\
					 &error_page);			\
									\
	ASSERT_EQ(0, err) {						\
		TH_LOG("Page 0x%lx in step %lu: %s", error_page,	\
		       (_self)->pace.steps, strerror(err));		\
	}								\
	gmem_pages_to_shared((_self)->fd, _first, _nr);			\
} while (0)

static cpu_set_t allowed;

/* @nr counts the CPUs that the test was started on. */
static void pin_thread(int nr)
{
	cpu_set_t set;
	int cpu;

	for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &allowed) && !nr--)
			break;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	TEST_ASSERT(!sched_setaffinity(0, sizeof(set), &set),
		    "Cannot move to CPU %d", cpu);
}

/* Threads that go on until they are told not to */

static bool stop;

static void start_thread(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	WRITE_ONCE(stop, false);
	kvm_pthread_create(thread, NULL, fn, arg);
}

static void stop_thread(pthread_t thread)
{
	WRITE_ONCE(stop, true);
	kvm_pthread_join(thread, NULL);
}

static void guest_code(void);

FIXTURE_SETUP(unheld)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = KVM_X86_SW_PROTECTED_VM,
	};

	if (!gmem_can_convert())
		SKIP(return, "no KVM_X86_SW_PROTECTED_VM");
	TEST_ASSERT(!sched_getaffinity(0, sizeof(allowed), &allowed), "Which CPUs?");
	if (CPU_COUNT(&allowed) <= OTHER_CPU)
		SKIP(return, "needs two CPUs");

	pin_thread(CONVERTER_CPU);
	self->vm = vm_create_shape_with_one_vcpu(shape, &self->vcpu, guest_code);
	self->fd = gmem_create_file(self->vm, NR_PAGES * GMEM_PAGE_SIZE,
				    GUEST_MEMFD_FLAG_MMAP |
				    GUEST_MEMFD_FLAG_INIT_SHARED);
	self->mem = gmem_map_pages(self->fd, NR_PAGES);
	vm_set_user_memory_region2(self->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   TEST_GPA, NR_PAGES * GMEM_PAGE_SIZE, NULL,
				   self->fd, 0);
	virt_map(self->vm, TEST_GPA, TEST_GPA, NR_PAGES);
}

FIXTURE_TEARDOWN(unheld)
{
	kvm_munmap(self->mem, NR_PAGES * GMEM_PAGE_SIZE);
	kvm_close(self->fd);
	kvm_vm_free(self->vm);
}

/*
 * Touched, then converted, by one thread.  Every second page that is touched is
 * a new one, which is in a batch of the LRU of its CPU.
 */

static void punch_every_second(int fd, u64 step, u64 nr_pages)
{
	if (step & 1)
		gmem_punch_pages(fd, step_page(step), nr_pages);
}

TEST_F_TIMEOUT(unheld, page_just_written_converts, TEST_TIMEOUT)
{
	pace_start(&self->pace);
	while (pace_step(&self->pace)) {
		u64 n = step_page(self->pace.steps);
		u8 byte = self->pace.steps;

		punch_every_second(self->fd, self->pace.steps, 1);
		WRITE_ONCE(*page(self->mem, n), byte);
		ASSERT_CONVERTS(self, n, 1);
		ASSERT_EQ(byte, READ_ONCE(*page(self->mem, n)));
	}
	pace_log(&self->pace);
}

/* A fault maps up to so many pages at once. */
#define NR_AROUND	16

TEST_F_TIMEOUT(unheld, pages_just_mapped_around_a_read_convert, TEST_TIMEOUT)
{
	kvm_fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, NR_PAGES * GMEM_PAGE_SIZE);

	pace_start(&self->pace);
	while (pace_step(&self->pace)) {
		u64 n = step_page(self->pace.steps);
		u64 first = round_down(n, NR_AROUND);

		READ_ONCE(*page(self->mem, n));
		ASSERT_CONVERTS(self, first, NR_AROUND);
	}
	pace_log(&self->pace);
}

/* A step in a mapping of its own, with @flags, which goes away if @unmap. */
static u8 *map_window(int fd, u64 first, int flags)
{
	return __kvm_mmap(NR_AROUND * GMEM_PAGE_SIZE, PROT_READ | PROT_WRITE,
			  MAP_SHARED | flags, fd, first * GMEM_PAGE_SIZE);
}

TEST_F_TIMEOUT(unheld, pages_just_populated_by_mmap_convert, TEST_TIMEOUT)
{
	pace_start(&self->pace);
	while (pace_step(&self->pace)) {
		u64 first = round_down(step_page(self->pace.steps), NR_AROUND);
		u8 *window;

		if (self->pace.steps & 1)
			gmem_punch_pages(self->fd, first, NR_AROUND);
		window = map_window(self->fd, first, MAP_POPULATE);
		ASSERT_CONVERTS(self, first, NR_AROUND);
		kvm_munmap(window, NR_AROUND * GMEM_PAGE_SIZE);
	}
	pace_log(&self->pace);
}

TEST_F_TIMEOUT(unheld, pages_just_unmapped_convert, TEST_TIMEOUT)
{
	pace_start(&self->pace);
	while (pace_step(&self->pace)) {
		u64 first = round_down(step_page(self->pace.steps), NR_AROUND);
		u8 *window;

		if (self->pace.steps & 1)
			gmem_punch_pages(self->fd, first, NR_AROUND);
		window = map_window(self->fd, first, MAP_POPULATE);
		kvm_munmap(window, NR_AROUND * GMEM_PAGE_SIZE);
		ASSERT_CONVERTS(self, first, NR_AROUND);
	}
	pace_log(&self->pace);
}

TEST_F_TIMEOUT(unheld, pages_just_locked_convert, TEST_TIMEOUT)
{
	pace_start(&self->pace);
	while (pace_step(&self->pace)) {
		u64 n = step_page(self->pace.steps);

		punch_every_second(self->fd, self->pace.steps, 1);
		ASSERT_EQ(0, mlock(page(self->mem, n), GMEM_PAGE_SIZE));
		/* Still locked, or just unlocked. */
		if (self->pace.steps & 2)
			ASSERT_EQ(0, munlock(page(self->mem, n), GMEM_PAGE_SIZE));
		ASSERT_CONVERTS(self, n, 1);
		if (!(self->pace.steps & 2))
			munlock(page(self->mem, n), GMEM_PAGE_SIZE);
	}
	pace_log(&self->pace);
}

/* Touched by another CPU, whose batches then have the page */

static struct {
	u8 *addr;	/* to write to, NULL when it is done */
} errand;

static void *run_errands(void *arg)
{
	u8 *addr;

	pin_thread(OTHER_CPU);
	while (!READ_ONCE(stop)) {
		addr = __atomic_load_n(&errand.addr, __ATOMIC_ACQUIRE);
		if (!addr)
			continue;
		WRITE_ONCE(*addr, 1);
		__atomic_store_n(&errand.addr, NULL, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void send_on_errand(u8 *addr)
{
	__atomic_store_n(&errand.addr, addr, __ATOMIC_RELEASE);
	while (__atomic_load_n(&errand.addr, __ATOMIC_ACQUIRE))
		;
}

TEST_F_TIMEOUT(unheld, page_just_written_by_another_cpu_converts, TEST_TIMEOUT)
{
	pthread_t thread;

	start_thread(&thread, run_errands, NULL);
	pace_start(&self->pace);
	while (pace_step(&self->pace)) {
		u64 n = step_page(self->pace.steps);

		punch_every_second(self->fd, self->pace.steps, 1);
		send_on_errand(page(self->mem, n));
		ASSERT_CONVERTS(self, n, 1);
	}
	pace_log(&self->pace);
	stop_thread(thread);
}

/*
 * Converted while other threads fault the pages in, through mappings of their
 * own: by touching them, and by having the kernel do so.
 */

#define NR_CONTESTED	16

struct faulter {
	int fd;
	u64 nr_faults;
};

static void count_faults(struct faulter *faulter, u64 nr)
{
	WRITE_ONCE(faulter->nr_faults, faulter->nr_faults + nr);
}

static bool has_faulted(struct faulter *faulter)
{
	return READ_ONCE(faulter->nr_faults);
}

static bool both_have_faulted(struct faulter *faulters)
{
	return has_faulted(&faulters[0]) && has_faulted(&faulters[1]);
}

static __thread sigjmp_buf faulter_jmpbuf;

static void faulter_sigbus(int sig)
{
	siglongjmp(faulter_jmpbuf, 1);
}

static void *touch_contested(void *arg)
{
	struct faulter *faulter = arg;
	u8 *mem = gmem_map_pages(faulter->fd, NR_CONTESTED);
	u64 i = 0;

	while (!READ_ONCE(stop)) {
		if (sigsetjmp(faulter_jmpbuf, 1) == 0) {
			WRITE_ONCE(*page(mem, i % NR_CONTESTED), i);
			count_faults(faulter, 1);
		}
		i++;
	}

	kvm_munmap(mem, NR_CONTESTED * GMEM_PAGE_SIZE);
	return NULL;
}

static void *populate_contested(void *arg)
{
	struct faulter *faulter = arg;
	u8 *mem = gmem_map_pages(faulter->fd, NR_CONTESTED);

	while (!READ_ONCE(stop)) {
		if (!madvise(mem, NR_CONTESTED * GMEM_PAGE_SIZE, MADV_POPULATE_WRITE))
			count_faults(faulter, NR_CONTESTED);
		madvise(mem, NR_CONTESTED * GMEM_PAGE_SIZE, MADV_DONTNEED);
	}

	kvm_munmap(mem, NR_CONTESTED * GMEM_PAGE_SIZE);
	return NULL;
}

TEST_F_TIMEOUT(unheld, pages_that_others_fault_in_meanwhile_convert, TEST_TIMEOUT)
{
	const struct sigaction action = { .sa_handler = faulter_sigbus };
	struct faulter faulters[2] = { { self->fd }, { self->fd } };
	pthread_t threads[2];
	u64 i;

	sigaction(SIGBUS, &action, NULL);
	start_thread(&threads[0], touch_contested, &faulters[0]);
	start_thread(&threads[1], populate_contested, &faulters[1]);

	pace_start(&self->pace);
	while (pace_step_until(&self->pace, both_have_faulted(faulters))) {
		i = self->pace.steps;
		if (i % 4 == 0)
			gmem_punch_pages(self->fd, 0, NR_CONTESTED);
		if (i & 1)
			ASSERT_CONVERTS(self, i % NR_CONTESTED, 1);
		else
			ASSERT_CONVERTS(self, 0, NR_CONTESTED);
		if (i % 8 == 0)
			sched_yield();
	}
	pace_log(&self->pace);
	stop_thread(threads[0]);
	stop_thread(threads[1]);

	for (i = 0; i < 2; i++) {
		TH_LOG("%lu faults of thread %lu", faulters[i].nr_faults, i);
		EXPECT_LT(0, faulters[i].nr_faults);
	}
}

/*
 * Converted while a vCPU uses the pages.  It adds one to a few pages in turn,
 * until it is told to stop: no addition may be lost.
 */

static bool stop_counting;

static void guest_code(void)
{
	u64 i = 0;

	while (!READ_ONCE(stop_counting)) {
		u64 *counter = (u64 *)(TEST_GPA + i++ % NR_CONTESTED * GMEM_PAGE_SIZE);

		WRITE_ONCE(*counter, READ_ONCE(*counter) + 1);
	}
	GUEST_SYNC1(i);
}

/* The CPU and how unimportant it is. */
struct runner {
	struct kvm_vcpu *vcpu;
	int cpu;
	int policy;
};

/* A conversion only looks for holders where user space has been. */
static void expose_contested(u8 *mem)
{
	u64 i;

	for (i = 0; i < NR_CONTESTED; i++)
		READ_ONCE(*page(mem, i));
}

static void *run_vcpu(void *arg)
{
	const struct sched_param param = {};
	struct runner *runner = arg;

	pin_thread(runner->cpu);
	TEST_ASSERT(!sched_setscheduler(0, runner->policy, &param),
		    "Cannot set the scheduling policy");
	vcpu_run(runner->vcpu);
	return NULL;
}

static u64 sum_of_counters(u8 *mem)
{
	u64 i, sum = 0;

	for (i = 0; i < NR_CONTESTED; i++)
		sum += READ_ONCE(*(u64 *)page(mem, i));
	return sum;
}

static bool guest_has_counted(u8 *mem)
{
	return sum_of_counters(mem) > NR_CONTESTED;
}

static void stop_guest(struct kvm_vm *vm, pthread_t thread)
{
	WRITE_ONCE(stop_counting, true);
	sync_global_to_guest(vm, stop_counting);
	kvm_pthread_join(thread, NULL);
}

static u64 guest_count(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
	return uc.args[0];
}

TEST_F_TIMEOUT(unheld, pages_that_a_vcpu_uses_meanwhile_convert, TEST_TIMEOUT)
{
	struct runner runner = { self->vcpu, OTHER_CPU, SCHED_OTHER };
	pthread_t thread;
	u64 count;

	start_thread(&thread, run_vcpu, &runner);
	pace_start(&self->pace);
	while (pace_step_until(&self->pace, guest_has_counted(self->mem))) {
		expose_contested(self->mem);
		if (self->pace.steps & 1)
			ASSERT_CONVERTS(self, self->pace.steps % NR_CONTESTED, 1);
		else
			ASSERT_CONVERTS(self, 0, NR_CONTESTED);
	}
	pace_log(&self->pace);
	stop_guest(self->vm, thread);

	count = guest_count(self->vcpu);
	EXPECT_LT(NR_CONTESTED, count);
	EXPECT_EQ(count, sum_of_counters(self->mem));
}

/*
 * The same on one CPU, with a vCPU that is preempted whenever anybody else
 * wants to run: also in the middle of a fault.
 */

#define HOG_USECS	200
#define PAUSE_USECS	300

static void *hog_cpu(void *arg)
{
	pin_thread(CONVERTER_CPU);
	while (!READ_ONCE(stop)) {
		struct timespec start;

		clock_gettime(CLOCK_MONOTONIC, &start);
		while (timespec_elapsed(start).tv_nsec < HOG_USECS * 1000)
			;
		/* A different length each time: anywhere in a fault. */
		usleep(PAUSE_USECS + start.tv_nsec / 1000 % PAUSE_USECS);
	}
	return NULL;
}

TEST_F_TIMEOUT(unheld, pages_that_a_preempted_vcpu_uses_convert, TEST_TIMEOUT)
{
	struct runner runner = { self->vcpu, CONVERTER_CPU, SCHED_IDLE };
	pthread_t vcpu_thread, hog_thread;
	u64 count;

	start_thread(&hog_thread, hog_cpu, NULL);
	start_thread(&vcpu_thread, run_vcpu, &runner);
	pace_start(&self->pace);
	while (pace_step_until(&self->pace, guest_has_counted(self->mem))) {
		expose_contested(self->mem);
		usleep(self->pace.steps * 37 % 500);
		if (self->pace.steps & 1)
			ASSERT_CONVERTS(self, self->pace.steps % NR_CONTESTED, 1);
		else
			ASSERT_CONVERTS(self, 0, NR_CONTESTED);
	}
	pace_log(&self->pace);
	stop_thread(hog_thread);
	stop_guest(self->vm, vcpu_thread);

	count = guest_count(self->vcpu);
	EXPECT_LT(NR_CONTESTED, count);
	EXPECT_EQ(count, sum_of_counters(self->mem));
}

/*
 * Pinned for moments by somebody else: -EAGAIN is right while it lasts, and
 * leaves the page shared.
 */

static void *read_contested(void *arg)
{
	struct faulter *faulter = arg;
	u8 *mem = gmem_map_pages(faulter->fd, NR_CONTESTED);
	u8 buf[GMEM_PAGE_SIZE];
	u64 i = 0;

	pin_thread(OTHER_CPU);
	while (!READ_ONCE(stop)) {
		struct iovec to = { buf, sizeof(buf) };
		struct iovec from = { page(mem, i++ % NR_CONTESTED), sizeof(buf) };

		if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) > 0)
			count_faults(faulter, 1);
	}

	kvm_munmap(mem, NR_CONTESTED * GMEM_PAGE_SIZE);
	return NULL;
}

#define MAX_TRIES	1000

TEST_F_TIMEOUT(unheld, page_pinned_for_moments_converts_in_the_end, TEST_TIMEOUT)
{
	struct faulter faulter = { self->fd };
	u64 nr_eagain = 0, error_page;
	pthread_t thread;
	int err, tries;

	start_thread(&thread, read_contested, &faulter);
	pace_start(&self->pace);
	while (pace_step_until(&self->pace, has_faulted(&faulter))) {
		u64 n = self->pace.steps % NR_CONTESTED;

		for (tries = 0; tries < MAX_TRIES; tries++) {
			err = gmem_pages_try_private(self->fd, n, 1, &error_page);
			if (err != EAGAIN)
				break;
			nr_eagain++;
			ASSERT_EQ(n, error_page);
			ASSERT_EQ(0, gmem_fdinfo(self->fd, "private"));
		}
		ASSERT_EQ(0, err);
		gmem_pages_to_shared(self->fd, n, 1);
	}
	pace_log(&self->pace);
	stop_thread(thread);

	TH_LOG("%lu times EAGAIN, %lu reads", nr_eagain, faulter.nr_faults);
	EXPECT_LT(0, faulter.nr_faults);
}

/* -n STEPS is ours, all else is the harness's. */
int main(int argc, char **argv)
{
	if (argc >= 3 && !strcmp(argv[1], "-n")) {
		nr_steps = atoi_positive("Number of steps", argv[2]);
		argv[2] = argv[0];
		argc -= 2;
		argv += 2;
	}
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
