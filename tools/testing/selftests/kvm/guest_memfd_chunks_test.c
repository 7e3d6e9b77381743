// SPDX-License-Identifier: GPL-2.0-only
/*
 * Conversions of a guest_memfd that stop part-way.
 *
 * A range is converted one aligned GiB (chunk) at a time.  When something is
 * in the way, the chunks before it are converted, its own chunk and all later
 * ones are as they were, and error_offset says where it is.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_stall.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define CHUNK		((u64)SZ_1G)
#define NR_CHUNKS	3
#define FILE_SIZE	(NR_CHUNKS * CHUNK)

#define NR_PAGES(size)	((size) / GMEM_PAGE_SIZE)

/* The page that is in the way, and the ones beside it. */
#define HELD		(CHUNK + 5 * GMEM_PAGE_SIZE)
#define BEFORE_HELD	(HELD - GMEM_PAGE_SIZE)
#define AFTER_HELD	(HELD + GMEM_PAGE_SIZE)

/* Long enough that a signal comes in between. */
#define LONG_FILE_SIZE	(16384 * CHUNK)
#define TICK_USECS	1000

/*
 * A sparse file of several chunks, shared, with some pages in each, and a pipe
 * that can hold pages of it.
 */
FIXTURE(chunks) {
	struct kvm_vm *vm;
	int fd;
	int pipe[2];
	u8 *mem;
};

FIXTURE_SETUP(chunks)
{
	u64 offset, i;

	if (!gmem_can_convert())
		SKIP(return, "no VM type with private memory");

	self->vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	self->fd = gmem_create_file(self->vm, FILE_SIZE,
				    GUEST_MEMFD_FLAG_MMAP |
				    GUEST_MEMFD_FLAG_INIT_SHARED);
	self->mem = kvm_mmap(FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			     self->fd);
	for (offset = 0; offset < FILE_SIZE; offset += CHUNK)
		for (i = 0; i < 8; i++)
			gmem_poke(self->mem + offset + i * GMEM_PAGE_SIZE, i + 1);

	ASSERT_EQ(0, pipe(self->pipe));
}

FIXTURE_TEARDOWN(chunks)
{
	stall_release_all();
	close(self->pipe[0]);
	close(self->pipe[1]);
	kvm_munmap(self->mem, FILE_SIZE);
	close(self->fd);
	kvm_vm_free(self->vm);
}

/* Take a reference to a page, as direct I/O would, until it is released. */
static void hold(int pipe[2], void *addr)
{
	struct iovec iov = { addr, GMEM_PAGE_SIZE };

	TEST_ASSERT(vmsplice(pipe[1], &iov, 1, 0) == GMEM_PAGE_SIZE,
		    "vmsplice() failed");
}

static void release(int pipe[2])
{
	u8 buf[GMEM_PAGE_SIZE];

	TEST_ASSERT(read(pipe[0], buf, sizeof(buf)) == sizeof(buf),
		    "The pipe does not hold a page");
}

#define EXPECT_SHARED(offset) \
	EXPECT_NE(GMEM_SIGBUS, gmem_peek(self->mem + (offset)))
#define EXPECT_PRIVATE(offset) \
	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(self->mem + (offset)))

/*
 * EAGAIN
 */

TEST_F(chunks, held_page_gives_eagain_and_its_offset)
{
	u64 error_offset;

	hold(self->pipe, self->mem + HELD);

	EXPECT_EQ(EAGAIN, gmem_try_private(self->fd, HELD, GMEM_PAGE_SIZE, &error_offset));
	EXPECT_EQ(HELD, error_offset);
	EXPECT_SHARED(HELD);
}

TEST_F(chunks, held_page_leaves_its_chunk_as_it_was)
{
	u64 error_offset;

	hold(self->pipe, self->mem + HELD);

	EXPECT_EQ(EAGAIN, gmem_try_private(self->fd, CHUNK, CHUNK, &error_offset));
	EXPECT_EQ(HELD, error_offset);
	EXPECT_EQ(0, gmem_fdinfo(self->fd, "private"));
	EXPECT_EQ(5, gmem_peek(self->mem + BEFORE_HELD));
	EXPECT_EQ(6, gmem_peek(self->mem + HELD));
	EXPECT_EQ(7, gmem_peek(self->mem + AFTER_HELD));
}

TEST_F(chunks, held_page_leaves_a_mixed_chunk_as_it_was)
{
	u64 error_offset;

	gmem_set_private(self->fd, BEFORE_HELD, GMEM_PAGE_SIZE);
	hold(self->pipe, self->mem + HELD);

	EXPECT_EQ(EAGAIN, gmem_try_private(self->fd, CHUNK, CHUNK, &error_offset));
	EXPECT_EQ(HELD, error_offset);
	EXPECT_EQ(1, gmem_fdinfo(self->fd, "private"));
	EXPECT_PRIVATE(BEFORE_HELD);
	EXPECT_EQ(7, gmem_peek(self->mem + AFTER_HELD));
}

TEST_F(chunks, chunks_before_a_held_page_are_converted_and_later_ones_are_not)
{
	u64 error_offset;

	hold(self->pipe, self->mem + HELD);

	EXPECT_EQ(EAGAIN, gmem_try_private(self->fd, 0, FILE_SIZE, &error_offset));
	EXPECT_EQ(HELD, error_offset);
	EXPECT_EQ(NR_PAGES(CHUNK), gmem_fdinfo(self->fd, "private"));
	EXPECT_PRIVATE(0);
	EXPECT_SHARED(BEFORE_HELD);
	EXPECT_SHARED(2 * CHUNK);
}

TEST_F(chunks, chunk_is_a_gib_of_the_file_not_of_the_range)
{
	u64 error_offset;

	hold(self->pipe, self->mem + HELD);

	EXPECT_EQ(EAGAIN, gmem_try_private(self->fd, CHUNK - SZ_2M, CHUNK, &error_offset));
	EXPECT_EQ(HELD, error_offset);
	EXPECT_EQ(NR_PAGES(SZ_2M), gmem_fdinfo(self->fd, "private"));
	EXPECT_PRIVATE(CHUNK - SZ_2M);
	EXPECT_SHARED(CHUNK - SZ_2M - GMEM_PAGE_SIZE);
}

TEST_F(chunks, first_of_two_held_pages_is_the_error_offset)
{
	u64 error_offset;

	hold(self->pipe, self->mem + AFTER_HELD);
	hold(self->pipe, self->mem + HELD);

	EXPECT_EQ(EAGAIN, gmem_try_private(self->fd, 0, FILE_SIZE, &error_offset));
	EXPECT_EQ(HELD, error_offset);
}

TEST_F(chunks, conversion_works_once_the_page_is_released)
{
	u64 error_offset;

	hold(self->pipe, self->mem + HELD);
	EXPECT_EQ(EAGAIN, gmem_try_private(self->fd, 0, FILE_SIZE, &error_offset));
	release(self->pipe);

	EXPECT_EQ(0, gmem_try_private(self->fd, 0, FILE_SIZE, &error_offset));
	EXPECT_EQ(NR_PAGES(FILE_SIZE), gmem_fdinfo(self->fd, "private"));
	EXPECT_PRIVATE(HELD);
}

TEST_F(chunks, held_page_does_not_hold_up_its_neighbours)
{
	u64 error_offset;

	hold(self->pipe, self->mem + HELD);

	EXPECT_EQ(0, gmem_try_private(self->fd, BEFORE_HELD, GMEM_PAGE_SIZE, &error_offset));
	EXPECT_EQ(0, gmem_try_private(self->fd, AFTER_HELD, GMEM_PAGE_SIZE, &error_offset));
	EXPECT_EQ(6, gmem_peek(self->mem + HELD));
}

TEST_F(chunks, held_page_can_be_made_shared_again)
{
	hold(self->pipe, self->mem + HELD);

	gmem_set_shared(self->fd, 0, FILE_SIZE);
	EXPECT_EQ(6, gmem_peek(self->mem + HELD));
}

TEST_F(chunks, page_that_was_punched_out_while_held_holds_up_nothing)
{
	u64 error_offset;

	hold(self->pipe, self->mem + HELD);
	gmem_punch_pages(self->fd, NR_PAGES(HELD), 1);
	gmem_poke(self->mem + HELD, 0x66);

	EXPECT_EQ(0, gmem_try_private(self->fd, HELD, GMEM_PAGE_SIZE, &error_offset));
}

/*
 * EINTR
 */

static void on_signal(int sig)
{
}

static void start_ticks(suseconds_t usecs)
{
	struct itimerval timer = {
		.it_interval.tv_usec = usecs,
		.it_value.tv_usec = usecs,
	};
	struct sigaction sa = { .sa_handler = on_signal };

	TEST_ASSERT(!sigaction(SIGALRM, &sa, NULL) &&
		    !setitimer(ITIMER_REAL, &timer, NULL),
		    "Cannot start a timer");
}

TEST_F(chunks, signal_gives_eintr_and_the_first_chunk_that_was_not_converted)
{
	u64 error_offset;
	int fd, err;

	if (gmem_has_blocks())
		SKIP(return, "no pool has 16 TiB");

	fd = vm_create_guest_memfd(self->vm, LONG_FILE_SIZE,
				   GUEST_MEMFD_FLAG_MMAP |
				   GUEST_MEMFD_FLAG_INIT_SHARED);
	start_ticks(TICK_USECS);
	err = gmem_try_private(fd, 0, LONG_FILE_SIZE, &error_offset);
	start_ticks(0);

	ASSERT_EQ(EINTR, err);
	EXPECT_LT(0, error_offset);
	EXPECT_EQ(0, error_offset % CHUNK);
	EXPECT_EQ(NR_PAGES(error_offset), gmem_fdinfo(fd, "private"));

	close(fd);
}

TEST_F(chunks, conversion_resumed_at_the_error_offset_comes_to_its_end)
{
	u64 offset = 0, error_offset;
	int fd, err, nr_stops = 0;

	if (gmem_has_blocks())
		SKIP(return, "no pool has 16 TiB");

	fd = vm_create_guest_memfd(self->vm, LONG_FILE_SIZE,
				   GUEST_MEMFD_FLAG_MMAP |
				   GUEST_MEMFD_FLAG_INIT_SHARED);
	start_ticks(TICK_USECS);
	while ((err = gmem_try_private(fd, offset, LONG_FILE_SIZE - offset,
				       &error_offset)) == EINTR) {
		ASSERT_LT(offset, error_offset);
		offset = error_offset;
		nr_stops++;
	}
	start_ticks(0);

	EXPECT_EQ(0, err);
	EXPECT_LT(0, nr_stops);
	EXPECT_EQ(NR_PAGES(LONG_FILE_SIZE), gmem_fdinfo(fd, "private"));

	close(fd);
}

static long do_convert_last_chunk(void *fd)
{
	return gmem_try_private(*(int *)fd, 2 * CHUNK, CHUNK, NULL);
}

static long do_convert_first_chunks(void *fd)
{
	return gmem_try_private(*(int *)fd, 0, 2 * CHUNK, NULL);
}

/*
 * A VMM that repeats the same range, as the documentation has it, must come to
 * the end however many signals it gets.
 */
TEST_F(chunks, chunk_that_was_converted_before_is_no_reason_for_eintr)
{
	struct sigaction sa = { .sa_handler = on_signal };
	struct job other, job;

	if (!stall_is_supported())
		SKIP(return, "no CONFIG_GUEST_MEMFD_STALL");

	gmem_set_private(self->fd, 0, CHUNK);
	sigaction(SIGUSR1, &sa, NULL);

	/* Have the signal come before the lock is there. */
	stall_arm("begun");
	job_start(&other, do_convert_last_chunk, &self->fd);
	ASSERT_TRUE(stall_is_reached("begun"));
	job_start(&job, do_convert_first_chunks, &self->fd);
	EXPECT_TRUE(job_is_blocked(&job));
	pthread_kill(job.thread, SIGUSR1);
	stall_release("begun");

	EXPECT_EQ(0, job_wait(&job));
	EXPECT_EQ(0, job_wait(&other));
}

/*
 * How long it takes is for user space to decide
 */

#define NR_MAPPINGS	1000
#define NR_RUNS		2000
#define LIMIT_SECS	10

/* Each mapping is looked at once, not once for each run: that is minutes. */
TEST_F(chunks, many_runs_in_many_mappings)
{
	struct timespec start;
	u64 i;

	for (i = 0; i < NR_RUNS; i++)
		gmem_pages_to_private(self->fd, 2 * i + 1, 1);
	for (i = 0; i < NR_RUNS; i += GMEM_PAGE_SIZE / 16)
		gmem_poke(self->mem + 2 * i * GMEM_PAGE_SIZE, 1);
	for (i = 0; i < NR_MAPPINGS; i++)
		kvm_mmap(CHUNK, PROT_READ, MAP_SHARED, self->fd);

	clock_gettime(CLOCK_MONOTONIC, &start);
	gmem_set_private(self->fd, 0, CHUNK);
	EXPECT_GT(LIMIT_SECS, timespec_elapsed(start).tv_sec);
	EXPECT_EQ(NR_PAGES(CHUNK), gmem_fdinfo(self->fd, "private"));
}

/*
 * EHWPOISON
 */

/*
 * This process has the page mapped and gets a SIGBUS.  A guest_memfd does not
 * let go of a broken page, for which madvise() gives EBUSY in the end.
 */
static bool poison(void *addr)
{
	struct sigaction sa = { .sa_handler = on_signal };

	sigaction(SIGBUS, &sa, NULL);
	if (!madvise(addr, GMEM_PAGE_SIZE, MADV_HWPOISON) || errno == EBUSY)
		return true;

	TEST_ASSERT(errno == EINVAL, "madvise(MADV_HWPOISON) failed");
	return false;
}

TEST_F(chunks, broken_page_gives_ehwpoison_and_its_offset)
{
	u64 error_offset;

	if (gmem_block_size() == SZ_1G)
		SKIP(return, "the block would be lost, and there are few of 1 GiB");
	if (!poison(self->mem + HELD))
		SKIP(return, "no CONFIG_MEMORY_FAILURE");

	EXPECT_EQ(EHWPOISON, gmem_try_private(self->fd, 0, FILE_SIZE, &error_offset));
	EXPECT_EQ(HELD, error_offset);
	EXPECT_EQ(NR_PAGES(CHUNK), gmem_fdinfo(self->fd, "private"));
	EXPECT_EQ(7, gmem_peek(self->mem + AFTER_HELD));
}

TEST_F(chunks, hole_gives_a_mapping_of_a_broken_page_a_new_one)
{
	if (gmem_block_size() == SZ_1G)
		SKIP(return, "the block would be lost, and there are few of 1 GiB");
	if (!poison(self->mem + HELD))
		SKIP(return, "no CONFIG_MEMORY_FAILURE");
	ASSERT_EQ(GMEM_SIGBUS, gmem_peek(self->mem + HELD));

	gmem_punch_pages(self->fd, HELD / GMEM_PAGE_SIZE, 1);
	EXPECT_EQ(0, gmem_peek(self->mem + HELD));
}

/*
 * Holes, too
 */

TEST_F(chunks, killed_process_stops_its_hole_at_the_end_of_a_chunk)
{
	u64 each = gmem_fdinfo(self->fd, "allocated") / NR_CHUNKS;
	int status;
	pid_t pid;

	if (!stall_is_supported())
		SKIP(return, "no CONFIG_GUEST_MEMFD_STALL");

	stall_arm("remove");
	pid = fork();
	if (!pid) {
		gmem_punch_pages(self->fd, 0, NR_PAGES(FILE_SIZE));
		_exit(0);
	}
	EXPECT_TRUE(stall_is_reached("remove"));
	kill(pid, SIGKILL);
	stall_release("remove");

	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ((NR_CHUNKS - 1) * each, gmem_fdinfo(self->fd, "allocated"));
}

/*
 * The ioctl's argument may lie in the file
 */

static struct kvm_memory_attributes2 *put_argument(void *addr, u64 offset, u64 size)
{
	struct kvm_memory_attributes2 *attr = addr;

	*attr = (struct kvm_memory_attributes2) {
		.offset = offset,
		.size = size,
		.attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
	};
	return attr;
}

TEST_F(chunks, argument_in_the_page_that_is_converted)
{
	struct kvm_memory_attributes2 *attr;

	attr = put_argument(self->mem, 0, CHUNK);

	EXPECT_EQ(0, ioctl(self->fd, KVM_SET_MEMORY_ATTRIBUTES2, attr));
	EXPECT_PRIVATE(0);
}

TEST_F(chunks, argument_in_the_chunk_that_is_refused_gets_the_error_offset)
{
	struct kvm_memory_attributes2 *attr;

	attr = put_argument(self->mem + CHUNK, 0, FILE_SIZE);
	hold(self->pipe, self->mem + HELD);

	EXPECT_EQ(-1, ioctl(self->fd, KVM_SET_MEMORY_ATTRIBUTES2, attr));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_EQ(HELD, attr->error_offset);
}

TEST_F(chunks, argument_that_became_private_before_the_refusal_is_efault)
{
	struct kvm_memory_attributes2 *attr;

	attr = put_argument(self->mem, 0, FILE_SIZE);
	hold(self->pipe, self->mem + HELD);

	EXPECT_EQ(-1, ioctl(self->fd, KVM_SET_MEMORY_ATTRIBUTES2, attr));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_PRIVATE(0);
	EXPECT_SHARED(HELD);
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
