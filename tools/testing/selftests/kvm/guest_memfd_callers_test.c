// SPDX-License-Identifier: GPL-2.0-only
/*
 * System calls that are under way and are going to need a page of a
 * guest_memfd, but do not have it yet.
 *
 * None of them can hold up a conversion.  A call that comes to the page when it
 * is private fails, and neither sees nor changes it.  Those that hold the page
 * meanwhile are in guest_memfd_holders_test.c.
 */
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_stalled_call.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define FILE_PAGES	16
#define PAGE		5
#define STAMP(n)	((n) + 1)

#define page(n)		(self->mem + (n) * GMEM_PAGE_SIZE)

static struct stalled_call stall;
static int pipe_fds[2];

static ssize_t call_proc_mem_read(struct stalled_call *stall)
{
	return pread(stall->fd, stall->buffer, GMEM_PAGE_SIZE,
		     (uintptr_t)stall->target);
}

static ssize_t call_proc_mem_write(struct stalled_call *stall)
{
	return pwrite(stall->fd, stall->buffer, GMEM_PAGE_SIZE,
		      (uintptr_t)stall->target);
}

/* The remote page is the one that stalls. */
static ssize_t call_readv_into(struct stalled_call *stall)
{
	struct iovec local = { stall->target, GMEM_PAGE_SIZE };
	struct iovec remote = { stall->buffer, GMEM_PAGE_SIZE };

	return process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
}

static ssize_t call_read(struct stalled_call *stall)
{
	return read(stall->fd, stall->target, GMEM_PAGE_SIZE);
}

static ssize_t call_write(struct stalled_call *stall)
{
	return write(stall->fd, stall->target, GMEM_PAGE_SIZE);
}

static ssize_t call_vmsplice(struct stalled_call *stall)
{
	struct iovec iov = { stall->target, GMEM_PAGE_SIZE };

	return vmsplice(stall->fd, &iov, 1, 0);
}

static void start_stalled(u8 *page)
{
	stall.target = page;
	stall.fd = open_path_or_exit("/proc/self/mem", O_RDWR);
	stall_run(&stall);
	TEST_ASSERT(stall_wait_for_fault(&stall), "The call did not stall");
}

static ssize_t finish_stalled(void)
{
	stall_resolve(&stall);
	return stall_join(&stall);
}

static void start_and_sleep(u8 *page, int fd, long nr)
{
	stall.target = page;
	stall.fd = fd;
	stall_run(&stall);
	TEST_ASSERT(stall_wait_for_sleep(&stall, nr), "The call does not wait");
}

static void start_read(u8 *page)
{
	TEST_ASSERT(!pipe(pipe_fds), "pipe() failed");
	start_and_sleep(page, pipe_fds[0], __NR_read);
}

static ssize_t finish_read(void)
{
	u8 data[GMEM_PAGE_SIZE];

	memset(data, STALL_BYTE, sizeof(data));
	TEST_ASSERT(write(pipe_fds[1], data, sizeof(data)) == sizeof(data),
		    "Cannot write to the pipe");
	return stall_join(&stall);
}

static void fill_pipe(void)
{
	static const u8 data[GMEM_PAGE_SIZE];
	int i, nr;

	TEST_ASSERT(!pipe(pipe_fds), "pipe() failed");
	nr = fcntl(pipe_fds[1], F_GETPIPE_SZ) / GMEM_PAGE_SIZE;
	for (i = 0; i < nr; i++)
		TEST_ASSERT(write(pipe_fds[1], data, sizeof(data)) ==
			    sizeof(data), "Cannot fill the pipe");
}

static ssize_t make_room(void)
{
	u8 data[GMEM_PAGE_SIZE];

	TEST_ASSERT(read(pipe_fds[0], data, sizeof(data)) == sizeof(data),
		    "Cannot read from the pipe");
	return stall_join(&stall);
}

static void start_write(u8 *page)
{
	fill_pipe();
	start_and_sleep(page, pipe_fds[1], __NR_write);
}

static void start_vmsplice(u8 *page)
{
	fill_pipe();
	start_and_sleep(page, pipe_fds[1], __NR_vmsplice);
}

/*
 * A file that is all shared, a mapping of it with a stamp in each page, and a
 * call under way that is going to need PAGE.
 */
FIXTURE(caller) {
	struct kvm_vm *vm;
	int fd;
	u8 *mem;
};

/*
 * @call: the system call
 * @start: make it, and bring it to where it waits
 * @finish: let it go on, returns how it ends
 * @ret: how it ends if the page is private by then
 */
FIXTURE_VARIANT(caller) {
	ssize_t (*call)(struct stalled_call *stall);
	void (*start)(u8 *page);
	ssize_t (*finish)(void);
	ssize_t ret;
};

/* It has what was in the page while it was shared. */
FIXTURE_VARIANT_ADD(caller, proc_mem_read)
{
	.call = call_proc_mem_read,
	.start = start_stalled,
	.finish = finish_stalled,
	.ret = GMEM_PAGE_SIZE,
};

FIXTURE_VARIANT_ADD(caller, proc_mem_write)
{
	.call = call_proc_mem_write,
	.start = start_stalled,
	.finish = finish_stalled,
	.ret = -EIO,
};

FIXTURE_VARIANT_ADD(caller, process_vm_readv)
{
	.call = call_readv_into,
	.start = start_stalled,
	.finish = finish_stalled,
	.ret = -EFAULT,
};

FIXTURE_VARIANT_ADD(caller, read_from_an_empty_pipe)
{
	.call = call_read,
	.start = start_read,
	.finish = finish_read,
	.ret = -EFAULT,
};

FIXTURE_VARIANT_ADD(caller, write_to_a_full_pipe)
{
	.call = call_write,
	.start = start_write,
	.finish = make_room,
	.ret = -EFAULT,
};

FIXTURE_VARIANT_ADD(caller, vmsplice_to_a_full_pipe)
{
	.call = call_vmsplice,
	.start = start_vmsplice,
	.finish = make_room,
	.ret = -EFAULT,
};

FIXTURE_SETUP(caller)
{
	int i;

	if (!gmem_can_convert())
		SKIP(return, "no VM type with private memory");

	self->fd = gmem_create_shared(&self->vm, FILE_PAGES);
	self->mem = gmem_map_pages(self->fd, FILE_PAGES);
	for (i = 0; i < FILE_PAGES; i++)
		gmem_stamp(page(i), STAMP(i));

	stall_open(&stall);
	stall.call = variant->call;
	variant->start(page(PAGE));
}

FIXTURE_TEARDOWN(caller)
{
	if (!self->vm)
		return;

	stall_close(&stall);
	kvm_munmap(self->mem, FILE_PAGES * GMEM_PAGE_SIZE);
	close(self->fd);
	kvm_vm_free(self->vm);
}

TEST_F(caller, does_not_hold_up_a_conversion)
{
	EXPECT_EQ(0, gmem_pages_try_private(self->fd, PAGE, 1, NULL));

	variant->finish();
}

TEST_F(caller, is_told_that_the_page_became_private)
{
	ASSERT_EQ(0, gmem_pages_try_private(self->fd, PAGE, 1, NULL));

	EXPECT_EQ(variant->ret, variant->finish());
}

TEST_F(caller, cannot_change_a_page_that_became_private)
{
	ASSERT_EQ(0, gmem_pages_try_private(self->fd, PAGE, 1, NULL));
	variant->finish();

	gmem_pages_to_shared(self->fd, PAGE, 1);
	EXPECT_TRUE(gmem_has_stamp(page(PAGE), STAMP(PAGE)));
}

TEST_F(caller, does_its_work_on_a_page_that_is_shared_again)
{
	ASSERT_EQ(0, gmem_pages_try_private(self->fd, PAGE, 1, NULL));
	gmem_pages_to_shared(self->fd, PAGE, 1);

	EXPECT_EQ(GMEM_PAGE_SIZE, variant->finish());
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
