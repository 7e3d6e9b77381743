/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Threads that are stopped in the middle of something, CONFIG_GUEST_MEMFD_STALL,
 * and others that do something meanwhile.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_STALL_H
#define SELFTEST_KVM_GUEST_MEMFD_STALL_H

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define STALL_DIR	"/sys/kernel/debug/guest_memfd/stall/"

/* What is blocked stays so; what is not is done by then, however slow. */
#define STALL_BLOCKED_USECS	100000
#define STALL_TRIES		4000
#define STALL_TRY_USECS		1000

static inline int stall_open(const char *point, int flags)
{
	char path[sizeof(STALL_DIR) + NAME_MAX];

	snprintf(path, sizeof(path), STALL_DIR "%s", point);
	return open(path, flags);
}

static inline bool stall_is_supported(void)
{
	return !access(STALL_DIR, X_OK);
}

static inline void stall_write(const char *point, char c)
{
	int fd = stall_open(point, O_WRONLY);

	TEST_ASSERT(fd >= 0 && write(fd, &c, 1) == 1,
		    "Cannot write to " STALL_DIR "%s", point);
	kvm_close(fd);
}

static inline void stall_release(const char *point)
{
	stall_write(point, '0');
}

/*
 * For the end of a test that has failed half-way: a thread that waits may have
 * what the end needs, and a point that is still armed would stop the next test.
 */
static inline void stall_release_all(void)
{
	DIR *dir = opendir(STALL_DIR);
	struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			stall_release(entry->d_name);
	closedir(dir);
}

/* The next thread that comes to the point waits there. */
static inline void stall_arm(const char *point)
{
	static bool registered;

	/* TEST_ASSERT() exits without a teardown. */
	if (!registered)
		atexit(stall_release_all);
	registered = true;
	stall_write(point, '1');
}

/*
 * Is a thread there?  It goes on by itself after some seconds: what should not
 * have to wait for it, but does, is done by then.
 */
static inline bool stall_has_waiter(const char *point)
{
	int fd = stall_open(point, O_RDONLY);
	char word[16] = "";

	TEST_ASSERT(fd >= 0 && read(fd, word, sizeof(word) - 1) > 0,
		    "Cannot read " STALL_DIR "%s", point);
	kvm_close(fd);

	return !strcmp(word, "waiting\n");
}

/* Wait until a thread is there; false if none comes. */
static inline bool stall_is_reached(const char *point)
{
	int i;

	for (i = 0; i < STALL_TRIES; i++) {
		if (stall_has_waiter(point))
			return true;
		usleep(STALL_TRY_USECS);
	}

	return false;
}

/*
 * A function that another thread calls.
 */
struct job {
	pthread_t thread;
	long (*fn)(void *arg);
	void *arg;
	long ret;
	bool started;
	bool done;
};

static inline void *job_run(void *arg)
{
	struct job *job = arg;

	__atomic_store_n(&job->started, true, __ATOMIC_RELEASE);
	job->ret = job->fn(job->arg);
	__atomic_store_n(&job->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static inline void job_start(struct job *job, long (*fn)(void *arg), void *arg)
{
	job->fn = fn;
	job->arg = arg;
	job->started = false;
	job->done = false;
	kvm_pthread_create(&job->thread, NULL, job_run, job);
	while (!__atomic_load_n(&job->started, __ATOMIC_ACQUIRE))
		usleep(100);
}

static inline bool job_is_done(struct job *job)
{
	return __atomic_load_n(&job->done, __ATOMIC_ACQUIRE);
}

static inline bool job_is_blocked(struct job *job)
{
	usleep(STALL_BLOCKED_USECS);
	return !job_is_done(job);
}

/* Does it come to its end, although somebody else is stopped? */
static inline bool job_gets_done(struct job *job)
{
	int i;

	for (i = 0; i < STALL_TRIES && !job_is_done(job); i++)
		usleep(STALL_TRY_USECS);
	return job_is_done(job);
}

static inline long job_wait(struct job *job)
{
	kvm_pthread_join(job->thread, NULL);
	return job->ret;
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_STALL_H */
