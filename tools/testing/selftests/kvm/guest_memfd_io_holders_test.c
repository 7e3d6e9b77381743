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

#include "guest_memfd_cgroup.h"
#include "guest_memfd_harness.h"
#include "guest_memfd_holder.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
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
#define DISK_NSECS	"1000000000"
/* As a file of blocks is not closed so fast. */
#define DISK_NSECS_2M	"2000000000"
#define DISK_NSECS_1G	"5000000000"

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

static const char *disk_nsecs(void)
{
	if (!gmem_has_blocks())
		return DISK_NSECS;
	return gmem_block_size() == SZ_2M ? DISK_NSECS_2M : DISK_NSECS_1G;
}

static bool make_disk(void)
{
	/* EBUSY if it is there. */
	mount("none", CONFIGFS, "configfs", 0, NULL);
	if (mkdir(DISK_CONFIG, 0755))
		return errno == EEXIST;

	return set_disk("size", "1") && set_disk("memory_backed", "1") &&
	       set_disk("irqmode", "2") &&
	       set_disk("completion_nsec", disk_nsecs()) &&
	       set_disk("power", "1");
}

/* Each test has a process of its own, which may exit as well. */
static pid_t main_pid;

static void remove_disk(void)
{
	if (getpid() == main_pid)
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

/*
 * The last close: mapping, file and VM go, and only I/O still has a page.
 */
FIXTURE(last_close) {
	struct gmem_pool_counts before;
	u64 block;
	bool cgroup;
};

FIXTURE_VARIANT(last_close) {
	const struct holder_ops *ops;
};

FIXTURE_VARIANT_ADD(last_close, io_uring) { .ops = &io_uring_ops };
FIXTURE_VARIANT_ADD(last_close, direct_read) { .ops = &direct_read_ops };
FIXTURE_VARIANT_ADD(last_close, direct_write) { .ops = &direct_write_ops };

FIXTURE_SETUP(last_close)
{
	if (!gmem_has_blocks())
		SKIP(return, "for files of blocks");
	if (mkdir(CGROUP, 0755) || access(CGROUP "/hugetlb.2MB.current", R_OK))
		SKIP(return, "no hugetlb cgroup");
	self->cgroup = true;
	if (!gmem_can_convert() || !variant->ops->open())
		SKIP(return, "nothing here that could hold a page like that");

	self->block = gmem_block_size();
	self->before = gmem_pool_count(self->block);
	cgroup_enter(CGROUP);
}

FIXTURE_TEARDOWN(last_close)
{
	if (self->block) {
		cgroup_enter(CGROUP_PARENT);
		variant->ops->close();
	}
	if (self->cgroup)
		EXPECT_EQ(0, rmdir(CGROUP));
}

#define EXPECT_CHARGED(_bytes) do {						\
	EXPECT_EQ(_bytes, hugetlb_cgroup_read(self->block, "current"));		\
	EXPECT_EQ(_bytes, hugetlb_cgroup_read(self->block, "rsvd.current"));	\
} while (0)

TEST_F(last_close, block_waits_for_io_with_its_reservation_and_charge)
{
	struct gmem_pool_counts want = self->before;
	struct kvm_vm *vm;
	int fd = gmem_create_shared(&vm, 1);
	u8 *mem = gmem_map_pages(fd, 1);

	gmem_stamp(mem, 1);
	ASSERT_EQ(0, variant->ops->hold(mem));
	kvm_munmap(mem, GMEM_PAGE_SIZE);
	kvm_close(fd);
	kvm_vm_free(vm);

	want.free--;
	EXPECT_TRUE(gmem_pool_is(self->block, want));
	EXPECT_CHARGED(self->block);
	if (variant->ops->holds)
		EXPECT_TRUE(variant->ops->holds());

	variant->ops->release();
	EXPECT_TRUE(gmem_pool_becomes(self->block, self->before));
	EXPECT_CHARGED(0);
}

int main(int argc, char **argv)
{
	main_pid = getpid();
	/* The harness exits by itself. */
	TEST_ASSERT(!atexit(remove_disk), "atexit() failed");
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
