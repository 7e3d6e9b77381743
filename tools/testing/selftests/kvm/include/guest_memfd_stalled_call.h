/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * System calls that stop half-way until they are told to go on.
 *
 * The buffer of such a call is a page that does not exist: when the kernel
 * touches it, the fault waits in userfaultfd.  What a call did before it needs
 * its buffer is done by then, what comes after is not.  Calls that wait for
 * something else, for data in a pipe say, are known by where they wait.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_STALLED_CALL_H
#define SELFTEST_KVM_GUEST_MEMFD_STALLED_CALL_H

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include <linux/userfaultfd.h>

#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "test_util.h"

/* What a call that was stalled writes, when it is a buffer to read from. */
#define STALL_BYTE	0xaa

/**
 * struct stalled_call - a system call in a thread of its own
 * @call: makes the call; returns what the call returns
 * @target: the page of the guest_memfd that it is about
 * @fd: a file for the call to use
 * @buffer: a page that a touch of stalls
 * @uffd: the userfaultfd of @buffer
 * @tid: its thread, for /proc
 * @thread: the same, to join
 * @done: an eventfd, readable once the call has returned
 * @ret: what it returned, or its errno, negative
 */
struct stalled_call {
	ssize_t (*call)(struct stalled_call *stall);
	u8 *target;
	int fd;

	u8 *buffer;
	int uffd;
	int done;
	pid_t tid;
	pthread_t thread;
	ssize_t ret;
};

static inline void stall_open(struct stalled_call *stall)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = {
		.range.len = GMEM_PAGE_SIZE,
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	stall->buffer = kvm_mmap(GMEM_PAGE_SIZE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1);
	range.range.start = (uintptr_t)stall->buffer;

	stall->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	TEST_ASSERT(stall->uffd >= 0, "Cannot get a userfaultfd");
	TEST_ASSERT(!ioctl(stall->uffd, UFFDIO_API, &api) &&
		    !ioctl(stall->uffd, UFFDIO_REGISTER, &range),
		    "Cannot register a page with userfaultfd");

	stall->done = eventfd(0, 0);
	TEST_ASSERT(stall->done >= 0, "eventfd() failed");
}

static inline void stall_close(struct stalled_call *stall)
{
	kvm_close(stall->done);
	kvm_close(stall->uffd);
	kvm_munmap(stall->buffer, GMEM_PAGE_SIZE);
}

static inline void *stall_thread(void *arg)
{
	struct stalled_call *stall = arg;
	ssize_t ret;

	WRITE_ONCE(stall->tid, kvm_gettid());
	ret = stall->call(stall);
	stall->ret = ret < 0 ? -errno : ret;
	TEST_ASSERT(!eventfd_write(stall->done, 1), "eventfd_write() failed");
	return NULL;
}

static inline void stall_run(struct stalled_call *stall)
{
	kvm_pthread_create(&stall->thread, NULL, stall_thread, stall);
}

/* Returns true once the call waits for its buffer, false if it returned. */
static inline bool stall_wait_for_fault(struct stalled_call *stall)
{
	struct pollfd fds[] = {
		{ .fd = stall->uffd, .events = POLLIN },
		{ .fd = stall->done, .events = POLLIN },
	};

	TEST_ASSERT(poll(fds, ARRAY_SIZE(fds), -1) > 0, "poll() failed");
	return !(fds[1].revents & POLLIN);
}

/*
 * Is the thread asleep in the system call?  The file starts with the number of
 * the call, and says "running" while the thread is not asleep.
 */
static inline bool stall_is_asleep_in(struct stalled_call *stall, long nr)
{
	char path[64], line[128] = "", *end;
	FILE *file;
	long found;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall",
		 READ_ONCE(stall->tid));
	file = fopen(path, "r");
	if (!file)
		return false;
	if (!fgets(line, sizeof(line), file))
		line[0] = 0;
	fclose(file);

	found = strtol(line, &end, 10);
	return end != line && found == nr;
}

/* Returns true once the call is asleep in @nr, false if it returned. */
static inline bool stall_wait_for_sleep(struct stalled_call *stall, long nr)
{
	struct pollfd done = { .fd = stall->done, .events = POLLIN };

	while (!stall_is_asleep_in(stall, nr))
		if (poll(&done, 1, 1) > 0)
			return false;
	return true;
}

/* Give a call that waits for its buffer the buffer. */
static inline void stall_resolve(struct stalled_call *stall)
{
	static u8 page[GMEM_PAGE_SIZE] __aligned(GMEM_PAGE_SIZE);
	struct uffdio_copy copy = {
		.dst = (uintptr_t)stall->buffer,
		.src = (uintptr_t)page,
		.len = GMEM_PAGE_SIZE,
	};

	memset(page, STALL_BYTE, sizeof(page));
	TEST_ASSERT(!ioctl(stall->uffd, UFFDIO_COPY, &copy),
		    "UFFDIO_COPY failed");
}

/* Wait for its end: what it returned, or its errno, negative. */
static inline ssize_t stall_join(struct stalled_call *stall)
{
	kvm_pthread_join(stall->thread, NULL);
	return stall->ret;
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_STALLED_CALL_H */
