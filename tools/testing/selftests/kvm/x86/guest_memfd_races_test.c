// SPDX-License-Identifier: GPL-2.0-only
/*
 * Two things at once with one guest_memfd, in a chosen order: the first is
 * stopped at a point of the kernel (CONFIG_GUEST_MEMFD_STALL) while the second
 * is done, or is seen to wait.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_serve.h"
#include "guest_memfd_stall.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define NR_PAGES	(SZ_4M / GMEM_PAGE_SIZE)

/*
 * A guest with a memslot over a file that is all shared, in which the host has
 * written to the first pages: page n holds n.
 */
#define NR_WRITTEN	16

FIXTURE(race) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	u8 *mem;
};

FIXTURE_SETUP(race)
{
	int i;

	if (!gmem_can_convert())
		SKIP(return, "no KVM_X86_SW_PROTECTED_VM");
	if (!stall_is_supported())
		SKIP(return, "no CONFIG_GUEST_MEMFD_STALL");

	self->fd = create_served(&self->vm, &self->vcpu, NR_PAGES);
	self->mem = gmem_map_pages(self->fd, NR_PAGES);
	for (i = 0; i < NR_WRITTEN; i++)
		gmem_poke(self->mem + i * GMEM_PAGE_SIZE, i);
}

FIXTURE_TEARDOWN(race)
{
	stall_release_all();
	kvm_munmap(self->mem, NR_PAGES * GMEM_PAGE_SIZE);
	if (self->fd >= 0)
		close(self->fd);
	if (self->vm)
		kvm_vm_free(self->vm);
}

#define page(n)			(self->mem + (n) * GMEM_PAGE_SIZE)
#define gpa(n)			(TRACKING_GPA + (n) * GMEM_PAGE_SIZE)

#define EXPECT_SHARED(n)	EXPECT_NE(GMEM_SIGBUS, gmem_peek(page(n)))
#define EXPECT_PRIVATE(n)	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(page(n)))

/*
 * What the jobs do
 */

struct range {
	int fd;
	u64 first;
	u64 nr_pages;
};

static long try_convert(struct range *range, u64 attributes)
{
	if (!__gmem_set_memory_attributes(range->fd,
					  range->first * GMEM_PAGE_SIZE,
					  range->nr_pages * GMEM_PAGE_SIZE,
					  attributes, NULL))
		return 0;
	return errno;
}

static long make_private(void *range)
{
	return try_convert(range, KVM_MEMORY_ATTRIBUTE_PRIVATE);
}

static long make_shared(void *range)
{
	return try_convert(range, 0);
}

static long punch_out(void *arg)
{
	struct range *range = arg;

	gmem_punch_pages(range->fd, range->first, range->nr_pages);
	return 0;
}

static long peek(void *addr)
{
	return gmem_peek(addr);
}

static long poke(void *addr)
{
	return gmem_poke(addr, 0xaa);
}

static long delete_memslot(void *vm)
{
	delete_slot(vm);
	return 0;
}

struct memslot {
	struct kvm_vm *vm;
	int fd;
};

static long set_memslot(void *arg)
{
	struct memslot *memslot = arg;

	set_slot(memslot->vm, NR_PAGES, memslot->fd, 0);
	return 0;
}

/* Start a job and have it stopped at the point. */
#define START_STALLED(job, point, fn, arg) do {				\
	stall_arm(point);						\
	job_start(job, fn, arg);					\
	ASSERT_TRUE(stall_is_reached(point));				\
} while (0)

/*
 * Faults of user space
 */

TEST_F(race, fault_that_comes_too_late_is_sigbus)
{
	struct range range = { self->fd, 5, 1 };
	struct job fault;

	gmem_forget_mapping(self->mem, NR_PAGES);
	START_STALLED(&fault, "fault", poke, page(5));
	EXPECT_EQ(0, make_private(&range));

	stall_release("fault");
	EXPECT_EQ(GMEM_SIGBUS, job_wait(&fault));
}

TEST_F(race, page_of_a_fault_under_way_is_unmapped_by_its_conversion)
{
	struct range range = { self->fd, 5, 1 };
	struct job fault, conversion;

	gmem_forget_mapping(self->mem, NR_PAGES);
	START_STALLED(&fault, "fault_locked", poke, page(5));
	job_start(&conversion, make_private, &range);
	EXPECT_TRUE(job_is_blocked(&conversion));

	stall_release("fault_locked");
	EXPECT_EQ(0, job_wait(&conversion));
	job_wait(&fault);
	EXPECT_FALSE(gmem_is_mapped(page(5)));
	EXPECT_PRIVATE(5);
}

TEST_F(race, page_of_a_fault_under_way_leaves_with_the_hole)
{
	struct range range = { self->fd, 5, 1 };
	struct job fault, hole;

	gmem_stamp(page(5), 5);
	gmem_forget_mapping(self->mem, NR_PAGES);
	START_STALLED(&fault, "fault_locked", poke, page(5));
	job_start(&hole, punch_out, &range);
	EXPECT_TRUE(job_is_blocked(&hole));

	stall_release("fault_locked");
	EXPECT_EQ(0, job_wait(&hole));
	EXPECT_EQ(0, job_wait(&fault));
	/* Written to the new page, or to the old one and lost. */
	EXPECT_EQ(0, gmem_peek(page(5) + sizeof(u64)));
}

/*
 * The entry alone would not keep the page: a hole takes both away, and whoever
 * unlocks a folio may have to look at it once more.
 */
TEST_F(race, hole_waits_for_a_fault_that_has_just_mapped_its_page)
{
	struct range range = { self->fd, 5, 1 };
	struct job fault, hole;

	gmem_forget_mapping(self->mem, NR_PAGES);
	START_STALLED(&fault, "fault_mapped", poke, page(5));
	job_start(&hole, punch_out, &range);
	EXPECT_TRUE(job_is_blocked(&hole));

	stall_release("fault_mapped");
	EXPECT_EQ(0, job_wait(&hole));
	EXPECT_EQ(0, job_wait(&fault));
}

/* All that it maps is mapped before the conversion looks. */
TEST_F(race, page_of_a_fault_around_under_way_is_unmapped_by_its_conversion)
{
	struct range range = { self->fd, 6, 1 };
	struct job fault, conversion;

	gmem_forget_mapping(self->mem, NR_PAGES);
	START_STALLED(&fault, "map_pages", peek, page(5));
	job_start(&conversion, make_private, &range);
	EXPECT_TRUE(job_is_blocked(&conversion));

	stall_release("map_pages");
	EXPECT_EQ(0, job_wait(&conversion));
	EXPECT_EQ(5, job_wait(&fault));
	EXPECT_FALSE(gmem_is_mapped(page(6)));
	EXPECT_PRIVATE(6);
}

TEST_F(race, fault_waits_for_a_conversion_and_is_sigbus)
{
	struct range range = { self->fd, 5, 1 };
	struct job fault, conversion;

	gmem_forget_mapping(self->mem, NR_PAGES);
	START_STALLED(&conversion, "checked", make_private, &range);
	job_start(&fault, peek, page(5));
	EXPECT_TRUE(job_is_blocked(&fault));

	stall_release("checked");
	EXPECT_EQ(0, job_wait(&conversion));
	EXPECT_EQ(GMEM_SIGBUS, job_wait(&fault));
}

/* Fault-around does not wait, and must not map what is about to be private. */
TEST_F(race, fault_around_of_a_neighbour_waits_for_a_conversion)
{
	struct range range = { self->fd, 6, 1 };
	struct job fault, conversion;

	gmem_forget_mapping(self->mem, NR_PAGES);
	START_STALLED(&conversion, "checked", make_private, &range);
	job_start(&fault, peek, page(5));
	EXPECT_TRUE(job_is_blocked(&fault));

	stall_release("checked");
	EXPECT_EQ(0, job_wait(&conversion));
	EXPECT_EQ(5, job_wait(&fault));
	EXPECT_FALSE(gmem_is_mapped(page(6)));
}

TEST_F(race, mapped_neighbour_can_be_used_during_a_conversion)
{
	struct range range = { self->fd, 5, 1 };
	struct job conversion;

	EXPECT_SHARED(4);
	EXPECT_SHARED(6);
	START_STALLED(&conversion, "checked", make_private, &range);
	EXPECT_EQ(4, gmem_peek(page(4)));
	EXPECT_EQ(6, gmem_peek(page(6)));
	EXPECT_TRUE(stall_has_waiter("checked"));

	stall_release("checked");
	EXPECT_EQ(0, job_wait(&conversion));
}

/*
 * Faults of vCPUs
 */

/* It may be preempted there for long: it holds nothing. */
TEST_F(race, vcpu_that_has_found_a_page_holds_up_no_conversion)
{
	struct guest_access access = { self->vcpu, gpa(5) };
	struct range range = { self->fd, 5, 1 };
	struct job guest, conversion;

	START_STALLED(&guest, "get_pfn", read_in_guest, &access);
	job_start(&conversion, make_private, &range);
	EXPECT_TRUE(job_gets_done(&conversion));
	EXPECT_FALSE(job_is_done(&guest));

	stall_release("get_pfn");
	EXPECT_EQ(0, job_wait(&conversion));
	EXPECT_EQ(5, job_wait(&guest));
}

TEST_F(race, vcpu_that_has_found_a_page_does_not_map_it_after_a_hole)
{
	struct guest_access access = { self->vcpu, gpa(5) };
	struct range range = { self->fd, 5, 1 };
	struct job guest, hole;

	START_STALLED(&guest, "get_pfn", read_in_guest, &access);
	job_start(&hole, punch_out, &range);
	EXPECT_TRUE(job_gets_done(&hole));
	gmem_poke(page(5), 0x66);

	stall_release("get_pfn");
	job_wait(&hole);
	EXPECT_EQ(0x66, job_wait(&guest));
}

TEST_F(race, vcpu_that_has_found_a_page_does_not_map_it_without_the_memslot)
{
	struct guest_access access = { self->vcpu, gpa(5) };
	struct job guest, deletion;
	long seen;

	START_STALLED(&guest, "get_pfn", read_in_guest, &access);
	/* Waits for the vCPU to leave KVM's SRCU section. */
	job_start(&deletion, delete_memslot, self->vm);
	EXPECT_TRUE(job_is_blocked(&deletion));

	stall_release("get_pfn");
	job_wait(&deletion);
	seen = job_wait(&guest);
	/* Or the page was taken away before the guest could read it. */
	if (seen == 5)
		seen = read_in_guest(&access);
	EXPECT_EQ(-EIO, seen);
	EXPECT_EQ(KVM_EXIT_MMIO, self->vcpu->run->exit_reason);
}

TEST_F(race, vcpu_waits_for_a_conversion_and_goes_on)
{
	struct guest_access access = { self->vcpu, gpa(5) };
	struct range range = { self->fd, 5, 1 };
	struct job guest, conversion;

	START_STALLED(&conversion, "checked", make_private, &range);
	job_start(&guest, read_in_guest, &access);
	EXPECT_TRUE(job_is_blocked(&guest));

	stall_release("checked");
	EXPECT_EQ(0, job_wait(&conversion));
	EXPECT_EQ(5, job_wait(&guest));
}

/*
 * Conversions and holes
 */

TEST_F(race, overlapping_conversions_happen_one_after_the_other)
{
	struct range first = { self->fd, 0, 8 }, second = { self->fd, 4, 8 };
	struct job to_private, to_shared;

	START_STALLED(&to_private, "checked", make_private, &first);
	job_start(&to_shared, make_shared, &second);
	EXPECT_TRUE(job_is_blocked(&to_shared));

	stall_release("checked");
	EXPECT_EQ(0, job_wait(&to_private));
	EXPECT_EQ(0, job_wait(&to_shared));
	EXPECT_EQ(4, gmem_fdinfo(self->fd, "private"));
	EXPECT_PRIVATE(3);
	EXPECT_EQ(4, gmem_peek(page(4)));
}

TEST_F(race, hole_waits_for_a_conversion)
{
	struct range range = { self->fd, 5, 1 };
	struct job conversion, hole;

	START_STALLED(&conversion, "checked", make_private, &range);
	job_start(&hole, punch_out, &range);
	EXPECT_TRUE(job_is_blocked(&hole));

	stall_release("checked");
	EXPECT_EQ(0, job_wait(&conversion));
	job_wait(&hole);
	EXPECT_EQ(1, gmem_fdinfo(self->fd, "private"));
	EXPECT_EQ(0, guest_read(self->vcpu, gpa(5)));
}

TEST_F(race, conversion_waits_for_a_hole)
{
	struct range range = { self->fd, 5, 1 };
	struct job conversion, hole;

	START_STALLED(&hole, "remove", punch_out, &range);
	job_start(&conversion, make_private, &range);
	EXPECT_TRUE(job_is_blocked(&conversion));

	stall_release("remove");
	job_wait(&hole);
	EXPECT_EQ(0, job_wait(&conversion));
	EXPECT_EQ(0, guest_read(self->vcpu, gpa(5)));
	EXPECT_PRIVATE(5);
}

/*
 * User space lets go of a whole page table: for a moment the table is gone from
 * the page tables, and what it has mapped is still counted as mapped.
 */
#define FORGET_SECONDS	3
#define MIN_HOLES	11

struct forgetter {
	u8 *mem;
	bool stop;
};

static long write_and_forget(void *arg)
{
	struct forgetter *forgetter = arg;
	int i;

	while (!READ_ONCE(forgetter->stop)) {
		for (i = 0; i < NR_PAGES / 2; i++)
			gmem_poke(forgetter->mem + i * GMEM_PAGE_SIZE, i);
		gmem_forget_mapping(forgetter->mem, NR_PAGES / 2);
	}
	return 0;
}

TEST_F(race, hole_in_what_user_space_lets_go_of)
{
	u8 *reserved = kvm_mmap(2 * SZ_2M, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct range range = { self->fd, 0, NR_PAGES / 2 };
	time_t end = time(NULL) + FORGET_SECONDS;
	struct forgetter forgetter = {};
	unsigned int i;
	struct job job;

	forgetter.mem = mmap(align_ptr_up(reserved, SZ_2M), SZ_2M, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_FIXED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, forgetter.mem);
	job_start(&job, write_and_forget, &forgetter);
	for (i = 0; i < MIN_HOLES || time(NULL) < end; i++) {
		usleep(i * 37 % 3000);
		punch_out(&range);
	}
	WRITE_ONCE(forgetter.stop, true);
	EXPECT_EQ(0, job_wait(&job));
	EXPECT_LE(MIN_HOLES, i);
	kvm_munmap(reserved, 2 * SZ_2M);
}

/*
 * Memslots: a view begins and ends with the same ones, or vCPUs would wait for
 * ever, or not at all.
 */

TEST_F(race, memslot_is_deleted_after_a_conversion)
{
	struct range range = { self->fd, 5, 1 };
	struct job conversion, deletion;

	START_STALLED(&conversion, "begun", make_private, &range);
	job_start(&deletion, delete_memslot, self->vm);
	EXPECT_TRUE(job_is_blocked(&deletion));

	stall_release("begun");
	EXPECT_EQ(0, job_wait(&conversion));
	job_wait(&deletion);
	set_slot(self->vm, NR_PAGES, self->fd, 0);
	EXPECT_EQ(5, guest_read(self->vcpu, gpa(5)));
}

TEST_F(race, memslot_is_added_after_a_conversion)
{
	struct memslot memslot = { self->vm, self->fd };
	struct range range = { self->fd, 5, 1 };
	struct job conversion, addition;

	delete_slot(self->vm);
	START_STALLED(&conversion, "begun", make_private, &range);
	job_start(&addition, set_memslot, &memslot);
	EXPECT_TRUE(job_is_blocked(&addition));

	stall_release("begun");
	EXPECT_EQ(0, job_wait(&conversion));
	job_wait(&addition);
	EXPECT_EQ(5, guest_read(self->vcpu, gpa(5)));
}

/*
 * Ends
 */

TEST_F(race, conversion_of_a_file_that_is_closed_meanwhile_is_done)
{
	struct range range = { self->fd, 5, 1 };
	struct job conversion;

	START_STALLED(&conversion, "begun", make_private, &range);
	close(self->fd);
	self->fd = -1;
	EXPECT_TRUE(stall_has_waiter("begun"));

	stall_release("begun");
	EXPECT_EQ(0, job_wait(&conversion));
	EXPECT_PRIVATE(5);
	EXPECT_SHARED(4);
}

TEST_F(race, conversion_outlives_its_vm)
{
	struct range range = { self->fd, 5, 1 };
	struct job conversion;

	START_STALLED(&conversion, "begun", make_private, &range);
	kvm_vm_free(self->vm);
	self->vm = NULL;
	EXPECT_TRUE(stall_has_waiter("begun"));

	stall_release("begun");
	EXPECT_EQ(0, job_wait(&conversion));
	EXPECT_PRIVATE(5);
}

static void kill_and_wait(pid_t pid)
{
	kill(pid, SIGKILL);
	TEST_ASSERT(waitpid(pid, NULL, 0) == pid, "waitpid() failed");
}

TEST_F(race, process_can_be_killed_in_a_conversion)
{
	struct range range = { self->fd, 5, 1 };
	pid_t pid;

	stall_arm("begun");
	pid = fork();
	if (!pid)
		_exit(make_private(&range));
	ASSERT_TRUE(stall_is_reached("begun"));
	kill_and_wait(pid);

	/* Done or not, the file goes on as if nothing had happened. */
	EXPECT_EQ(0, make_private(&range));
	EXPECT_PRIVATE(5);
	EXPECT_EQ(0, make_shared(&range));
	EXPECT_EQ(5, gmem_peek(page(5)));
	EXPECT_EQ(5, guest_read(self->vcpu, gpa(5)));
}

/* exit() unmaps what the conversion is about to look at. */
TEST_F(race, process_with_a_mapping_can_end_during_a_conversion)
{
	struct range range = { self->fd, 5, 4 };
	struct job conversion;
	int ready[2];
	pid_t pid;
	u8 byte;

	ASSERT_EQ(0, pipe(ready));
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (mlock(page(5), 4 * GMEM_PAGE_SIZE) ||
		    write(ready[1], "", 1) != 1)
			_exit(1);
		pause();
	}
	close(ready[1]);
	ASSERT_EQ(1, read(ready[0], &byte, 1));
	close(ready[0]);

	START_STALLED(&conversion, "begun", make_private, &range);
	kill_and_wait(pid);
	EXPECT_TRUE(stall_has_waiter("begun"));

	stall_release("begun");
	EXPECT_EQ(0, job_wait(&conversion));
	EXPECT_PRIVATE(7);
}

TEST_F(race, process_can_be_killed_in_a_fault)
{
	struct range range = { self->fd, 5, 1 };
	pid_t pid;

	stall_arm("fault_locked");
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		gmem_forget_mapping(self->mem, NR_PAGES);
		gmem_poke(page(5), 0xaa);
		pause();
	}
	ASSERT_TRUE(stall_is_reached("fault_locked"));
	kill_and_wait(pid);

	EXPECT_EQ(0, make_private(&range));
}

/*
 * GUP-fast takes a reference and then looks again whether the page is still
 * mapped; a conversion unmaps the page and then looks at the references.  One
 * of the two sees the other: a pipe never has a page that has become private.
 */

struct taken {
	void *addr;
	int pipe[2];
};

static long take_once(void *arg)
{
	struct taken *taken = arg;
	struct iovec iov = { taken->addr, GMEM_PAGE_SIZE };

	return vmsplice(taken->pipe[1], &iov, 1, 0) < 0 ? errno : 0;
}

TEST_F(race, page_that_gup_takes_before_it_is_unmapped_is_not_made_private)
{
	struct taken taken = { .addr = page(5) };
	struct range range = { self->fd, 5, 1 };
	struct job conversion;
	u8 buf[GMEM_PAGE_SIZE];

	ASSERT_EQ(0, pipe(taken.pipe));
	EXPECT_SHARED(5);
	START_STALLED(&conversion, "begun", make_private, &range);
	EXPECT_EQ(0, take_once(&taken));

	stall_release("begun");
	EXPECT_EQ(EAGAIN, job_wait(&conversion));
	EXPECT_SHARED(5);
	EXPECT_EQ(sizeof(buf), read(taken.pipe[0], buf, sizeof(buf)));
	EXPECT_EQ(0, make_private(&range));
}

TEST_F(race, gup_does_not_take_a_page_after_it_is_unmapped)
{
	struct taken taken = { .addr = page(5) };
	struct range range = { self->fd, 5, 1 };
	struct job conversion, gup;

	ASSERT_EQ(0, pipe(taken.pipe));
	EXPECT_SHARED(5);
	START_STALLED(&conversion, "unmapped", make_private, &range);
	job_start(&gup, take_once, &taken);
	EXPECT_TRUE(job_is_blocked(&gup));

	stall_release("unmapped");
	EXPECT_EQ(0, job_wait(&conversion));
	EXPECT_EQ(EFAULT, job_wait(&gup));
}

/*
 * The same without a chosen order, as fast as it goes, and until both have had
 * their way.
 */
#define TAKE_SECONDS	4

struct taker {
	void *addr;
	int pipe[2];
	u64 round;
	u64 nr_taken;
	bool stop;
};

static long take_by_gup(void *arg)
{
	struct taker *taker = arg;
	struct iovec iov = { taker->addr, GMEM_PAGE_SIZE };
	u8 buf[GMEM_PAGE_SIZE];
	u64 round;

	while (!READ_ONCE(taker->stop)) {
		round = READ_ONCE(taker->round);
		if (vmsplice(taker->pipe[1], &iov, 1, SPLICE_F_NONBLOCK) <= 0)
			continue;
		WRITE_ONCE(taker->nr_taken, taker->nr_taken + 1);
		/* Not to be missed by whoever looks into the pipe. */
		while (READ_ONCE(taker->round) == round && !READ_ONCE(taker->stop))
			sched_yield();
		if (read(taker->pipe[0], buf, sizeof(buf)) != sizeof(buf))
			return -1;
	}
	return 0;
}

TEST_F(race, page_that_gup_has_taken_is_not_made_private)
{
	struct taker taker = { .addr = page(5) };
	struct range range = { self->fd, 5, 1 };
	u64 nr_private = 0, nr_caught = 0;
	time_t end = time(NULL) + TAKE_SECONDS;
	struct job job;
	int in_pipe;

	ASSERT_EQ(0, pipe(taker.pipe));
	job_start(&job, take_by_gup, &taker);

	while (time(NULL) < end || !nr_private || !READ_ONCE(taker.nr_taken)) {
		WRITE_ONCE(taker.round, taker.round + 1);
		/* Now the page is let go, and taken again: before, or after? */
		usleep(taker.round * 7 % 100);
		if (make_private(&range))
			continue;
		nr_private++;
		/* What is in it now was there before, and did not go since. */
		ASSERT_EQ(0, ioctl(taker.pipe[0], FIONREAD, &in_pipe));
		nr_caught += !!in_pipe;
		EXPECT_EQ(0, make_shared(&range));
		gmem_peek(page(5));
	}

	WRITE_ONCE(taker.stop, true);
	EXPECT_EQ(0, job_wait(&job));
	EXPECT_EQ(0, nr_caught);
	EXPECT_LT(0, nr_private);
	EXPECT_LT(0, taker.nr_taken);
	TH_LOG("taken %lu times, private %lu times", taker.nr_taken, nr_private);
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
