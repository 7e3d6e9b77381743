// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages of a guest_memfd that are in a pipe, pinned, or in use by a call which
 * is under way: see guest_memfd_holder.h for what is expected.
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include "../../../../mm/gup_test.h"

#include "guest_memfd_harness.h"
#include "guest_memfd_holder.h"
#include "guest_memfd_stalled_call.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

/*
 * A page in a pipe
 */

static int pipe_fds[2], second_pipe[2];

static void read_page_from(int fd)
{
	u8 buf[GMEM_PAGE_SIZE];

	TEST_ASSERT(read(fd, buf, sizeof(buf)) == sizeof(buf),
		    "There is no page in the pipe");
}

static bool open_pipe(void)
{
	TEST_ASSERT(!pipe(pipe_fds), "pipe() failed");
	return true;
}

static void close_pipe(void)
{
	kvm_close(pipe_fds[0]);
	kvm_close(pipe_fds[1]);
}

static int vmsplice_page(u8 *page)
{
	struct iovec iov = { page, GMEM_PAGE_SIZE };

	return vmsplice(pipe_fds[1], &iov, 1, 0) == GMEM_PAGE_SIZE ? 0 : errno;
}

static void read_spliced_page(void)
{
	read_page_from(pipe_fds[0]);
}

static const struct holder_ops vmsplice_ops = {
	.open		= open_pipe,
	.hold		= vmsplice_page,
	.release	= read_spliced_page,
	.close		= close_pipe,
};

/* The page is the last that the pipe has room for, so it is read last. */
static int fill_pipe_with_page(u8 *page)
{
	static u8 other[GMEM_PAGE_SIZE];
	int i, nr = fcntl(pipe_fds[1], F_GETPIPE_SZ) / GMEM_PAGE_SIZE;

	for (i = 1; i < nr; i++)
		TEST_ASSERT(write(pipe_fds[1], other, sizeof(other)) ==
			    sizeof(other), "Cannot fill the pipe");

	return vmsplice_page(page);
}

static void read_full_pipe(void)
{
	int i, nr = fcntl(pipe_fds[1], F_GETPIPE_SZ) / GMEM_PAGE_SIZE;

	for (i = 0; i < nr; i++)
		read_page_from(pipe_fds[0]);
}

static const struct holder_ops full_pipe_ops = {
	.open		= open_pipe,
	.hold		= fill_pipe_with_page,
	.release	= read_full_pipe,
	.close		= close_pipe,
};

/* Read from the pipe that it was spliced to, but not from the second one. */
static int tee_page(u8 *page)
{
	int err = vmsplice_page(page);

	if (err)
		return err;

	TEST_ASSERT(tee(pipe_fds[0], second_pipe[1], GMEM_PAGE_SIZE, 0) ==
		    GMEM_PAGE_SIZE, "tee() failed");
	read_page_from(pipe_fds[0]);
	return 0;
}

static bool open_two_pipes(void)
{
	TEST_ASSERT(!pipe(second_pipe), "pipe() failed");
	return open_pipe();
}

static void close_two_pipes(void)
{
	kvm_close(second_pipe[0]);
	kvm_close(second_pipe[1]);
	close_pipe();
}

static void read_teed_page(void)
{
	read_page_from(second_pipe[0]);
}

static const struct holder_ops tee_ops = {
	.open		= open_two_pipes,
	.hold		= tee_page,
	.release	= read_teed_page,
	.close		= close_two_pipes,
};

/*
 * A long-term pin, as drivers take them
 */

static int gup_fd;

static bool open_gup_test(void)
{
	gup_fd = open("/sys/kernel/debug/gup_test", O_RDWR);
	return gup_fd >= 0;
}

static void close_gup_test(void)
{
	kvm_close(gup_fd);
}

static int pin_page(u8 *page, u32 flags)
{
	struct pin_longterm_test pin = {
		.addr = (uintptr_t)page,
		.size = GMEM_PAGE_SIZE,
		.flags = flags,
	};

	return ioctl(gup_fd, PIN_LONGTERM_TEST_START, &pin) ? errno : 0;
}

static int pin_page_to_read(u8 *page)
{
	return pin_page(page, 0);
}

static int pin_page_to_write(u8 *page)
{
	return pin_page(page, PIN_LONGTERM_TEST_FLAG_USE_WRITE);
}

static int pin_page_fast(u8 *page)
{
	return pin_page(page, PIN_LONGTERM_TEST_FLAG_USE_WRITE |
			      PIN_LONGTERM_TEST_FLAG_USE_FAST);
}

static void unpin_page(void)
{
	kvm_ioctl(gup_fd, PIN_LONGTERM_TEST_STOP, NULL);
}

static const struct holder_ops pin_to_read_ops = {
	.open		= open_gup_test,
	.hold		= pin_page_to_read,
	.release	= unpin_page,
	.close		= close_gup_test,
};

static const struct holder_ops pin_to_write_ops = {
	.open		= open_gup_test,
	.hold		= pin_page_to_write,
	.release	= unpin_page,
	.close		= close_gup_test,
};

static const struct holder_ops pin_fast_ops = {
	.open		= open_gup_test,
	.hold		= pin_page_fast,
	.release	= unpin_page,
	.close		= close_gup_test,
};

/*
 * process_vm_readv() and process_vm_writev() pin the remote page and then touch
 * the local one.
 */

static struct stalled_call stall;

static bool open_stall(void)
{
	stall_open(&stall);
	return true;
}

static void close_stall(void)
{
	stall_close(&stall);
}

static ssize_t call_readv(struct stalled_call *stall)
{
	struct iovec local = { stall->buffer, GMEM_PAGE_SIZE };
	struct iovec remote = { stall->target, GMEM_PAGE_SIZE };

	return process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
}

static ssize_t call_writev(struct stalled_call *stall)
{
	struct iovec local = { stall->buffer, GMEM_PAGE_SIZE };
	struct iovec remote = { stall->target, GMEM_PAGE_SIZE };

	return process_vm_writev(getpid(), &local, 1, &remote, 1, 0);
}

static int stall_with_page(u8 *page, ssize_t (*call)(struct stalled_call *))
{
	stall.target = page;
	stall.call = call;
	stall_run(&stall);

	return stall_wait_for_fault(&stall) ? 0 : -stall_join(&stall);
}

static int stall_readv(u8 *page)
{
	return stall_with_page(page, call_readv);
}

static int stall_writev(u8 *page)
{
	return stall_with_page(page, call_writev);
}

static void finish_stall(void)
{
	stall_resolve(&stall);
	TEST_ASSERT(stall_join(&stall) == GMEM_PAGE_SIZE,
		    "The call did not come to a good end");
}

static const struct holder_ops process_vm_readv_ops = {
	.open		= open_stall,
	.hold		= stall_readv,
	.release	= finish_stall,
	.close		= close_stall,
};

static const struct holder_ops process_vm_writev_ops = {
	.open		= open_stall,
	.hold		= stall_writev,
	.release	= finish_stall,
	.close		= close_stall,
};

FIXTURE_VARIANT_ADD(holder, vmsplice) { .ops = &vmsplice_ops };
FIXTURE_VARIANT_ADD(holder, full_pipe) { .ops = &full_pipe_ops };
FIXTURE_VARIANT_ADD(holder, tee) { .ops = &tee_ops };
FIXTURE_VARIANT_ADD(holder, pin_to_read) { .ops = &pin_to_read_ops };
FIXTURE_VARIANT_ADD(holder, pin_to_write) { .ops = &pin_to_write_ops };
FIXTURE_VARIANT_ADD(holder, pin_fast) { .ops = &pin_fast_ops };
FIXTURE_VARIANT_ADD(holder, process_vm_readv) { .ops = &process_vm_readv_ops };
FIXTURE_VARIANT_ADD(holder, process_vm_writev) { .ops = &process_vm_writev_ops };

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
