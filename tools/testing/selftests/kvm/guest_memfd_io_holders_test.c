// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages of a guest_memfd that are buffers of I/O: registered ones, and those
 * of direct I/O in flight.  See guest_memfd_holder.h for what is expected.
 */
#include <fcntl.h>
#include <limits.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <linux/aio_abi.h>
#include <linux/io_uring.h>

#include "guest_memfd_holder.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_test_harness.h"
#include "kvm_util.h"
#include "test_util.h"

/*
 * A registered buffer of io_uring
 */

static int uring_fd;

static bool open_uring(void)
{
	struct io_uring_params params = {};

	uring_fd = syscall(__NR_io_uring_setup, 1, &params);
	return uring_fd >= 0;
}

static void close_uring(void)
{
	kvm_close(uring_fd);
}

static int register_page(u8 *page)
{
	struct iovec iov = { page, GMEM_PAGE_SIZE };

	return syscall(__NR_io_uring_register, uring_fd,
		       IORING_REGISTER_BUFFERS, &iov, 1) ? errno : 0;
}

static void unregister_page(void)
{
	TEST_ASSERT(!syscall(__NR_io_uring_register, uring_fd,
			     IORING_UNREGISTER_BUFFERS, NULL, 0),
		    "IORING_UNREGISTER_BUFFERS failed");
}

static const struct holder_ops io_uring_ops = {
	.open		= open_uring,
	.hold		= register_page,
	.release	= unregister_page,
	.close		= close_uring,
};

/*
 * Direct I/O in flight.  The disk moves the data at once and says so much
 * later.  It is made by the first test and removed after the last one, because
 * looking for partitions takes just as long.
 */
#define CONFIGFS	"/sys/kernel/config"
#define DISK		"gmem_test"
#define DISK_CONFIG	CONFIGFS "/nullb/" DISK
#define DISK_NSECS	"300000000"

static int disk_fd;
static aio_context_t disk_ctx;

static bool set_disk(const char *name, const char *value)
{
	char path[PATH_MAX];
	ssize_t ret;
	int fd;

	snprintf(path, sizeof(path), DISK_CONFIG "/%s", name);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		return false;

	ret = write(fd, value, strlen(value));
	close(fd);
	return ret == strlen(value);
}

static bool make_disk(void)
{
	/* EBUSY if it is there. */
	mount("none", CONFIGFS, "configfs", 0, NULL);
	if (mkdir(DISK_CONFIG, 0755))
		return errno == EEXIST;

	return set_disk("size", "1") && set_disk("memory_backed", "1") &&
	       set_disk("irqmode", "2") &&
	       set_disk("completion_nsec", DISK_NSECS) &&
	       set_disk("power", "1");
}

static void remove_disk(void)
{
	rmdir(DISK_CONFIG);
}

static bool open_disk(void)
{
	if (!make_disk())
		return false;

	disk_fd = open("/dev/" DISK, O_RDWR | O_DIRECT);
	if (disk_fd < 0)
		return false;

	TEST_ASSERT(!syscall(__NR_io_setup, 1, &disk_ctx), "io_setup() failed");
	return true;
}

static void close_disk(void)
{
	syscall(__NR_io_destroy, disk_ctx);
	kvm_close(disk_fd);
}

static bool disk_is_busy(void)
{
	unsigned int nr_reads, nr_writes;
	FILE *file;
	int nr;

	file = fopen("/sys/block/" DISK "/inflight", "r");
	TEST_ASSERT(file, "Cannot see what is in flight");
	nr = fscanf(file, "%u %u", &nr_reads, &nr_writes);
	fclose(file);
	TEST_ASSERT(nr == 2, "Cannot read what is in flight");

	return nr_reads + nr_writes;
}

static int submit_page(u8 *page, u16 opcode)
{
	struct iocb iocb = {
		.aio_lio_opcode = opcode,
		.aio_fildes = disk_fd,
		.aio_buf = (uintptr_t)page,
		.aio_nbytes = GMEM_PAGE_SIZE,
	}, *iocbs = &iocb;
	struct timespec now = {};
	struct io_event event;

	if (syscall(__NR_io_submit, disk_ctx, 1, &iocbs) != 1)
		return errno;
	if (syscall(__NR_io_getevents, disk_ctx, 0, 1, &event, &now) == 1)
		return -event.res;
	return disk_is_busy() ? 0 : ENODATA;
}

static int submit_direct_read(u8 *page)
{
	return submit_page(page, IOCB_CMD_PREAD);
}

static int submit_direct_write(u8 *page)
{
	return submit_page(page, IOCB_CMD_PWRITE);
}

/* The event comes just before the page is let go, which is still in flight. */
static void wait_for_disk(void)
{
	struct io_event event;

	TEST_ASSERT(syscall(__NR_io_getevents, disk_ctx, 1, 1, &event, NULL) == 1 &&
		    event.res == GMEM_PAGE_SIZE, "Direct I/O failed");
	while (disk_is_busy())
		usleep(1000);
}

static const struct holder_ops direct_read_ops = {
	.open		= open_disk,
	.hold		= submit_direct_read,
	.holds		= disk_is_busy,
	.release	= wait_for_disk,
	.close		= close_disk,
};

static const struct holder_ops direct_write_ops = {
	.open		= open_disk,
	.hold		= submit_direct_write,
	.holds		= disk_is_busy,
	.release	= wait_for_disk,
	.close		= close_disk,
};

FIXTURE_VARIANT_ADD(holder, io_uring) { .ops = &io_uring_ops };
FIXTURE_VARIANT_ADD(holder, direct_read) { .ops = &direct_read_ops };
FIXTURE_VARIANT_ADD(holder, direct_write) { .ops = &direct_write_ops };

int main(int argc, char **argv)
{
	int ret;

	gmem_check_pool_at_exit();
	ret = test_harness_run(argc, argv);
	remove_disk();
	return ret;
}
