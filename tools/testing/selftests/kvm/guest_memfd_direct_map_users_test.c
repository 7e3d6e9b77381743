// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages of a guest_memfd that are not in the kernel's direct map, and those who
 * would get at them that way: they fail as with memfd_secret(), and the content
 * reaches nobody.  What goes by the user address works.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/elf.h>
#include <linux/stddef.h>
#include <linux/io_uring.h>
#include <linux/suspend_ioctls.h>

#include "../../../../mm/gup_test.h"

#include "guest_memfd_harness.h"
#include "guest_memfd_hidden.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define NR_PAGES	(SZ_64K / GMEM_PAGE_SIZE)

/* What must not be seen anywhere else; and what is to be seen instead. */
#define SECRET		0x5ec2e7
#define KNOWN		0x0fe4

/*
 * A page that has a content, and one beside it that is like any other.
 */
FIXTURE(user) {
	struct kvm_vm *vm;
	int fd;
	u8 *mem;
	u8 *page;
	u8 *other;
	int fds[2];
};

FIXTURE_SETUP(user)
{
	self->fd = -1;
	self->vm = create_vm();
	if (!can_hide(self->vm))
		SKIP(return, "this machine cannot change its direct map");

	self->fd = gmem_create_file(self->vm, NR_PAGES * GMEM_PAGE_SIZE, HIDDEN);
	self->mem = gmem_map_pages(self->fd, NR_PAGES);
	self->page = self->mem + 3 * GMEM_PAGE_SIZE;
	gmem_stamp(self->page, SECRET);

	self->other = kvm_mmap(GMEM_PAGE_SIZE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1);
	gmem_stamp(self->other, KNOWN);
	ASSERT_EQ(0, pipe(self->fds));
}

/* Whoever has failed has changed nothing. */
FIXTURE_TEARDOWN(user)
{
	if (self->fd >= 0) {
		EXPECT_TRUE(gmem_has_stamp(self->page, SECRET));
		close(self->fds[0]);
		close(self->fds[1]);
		kvm_munmap(self->other, GMEM_PAGE_SIZE);
		kvm_munmap(self->mem, NR_PAGES * GMEM_PAGE_SIZE);
		kvm_close(self->fd);
	}
	kvm_vm_free(self->vm);
}

/*
 * By the user address, of a page that is mapped there and of one that is not
 */

TEST_F(user, kernel_reads_and_writes_by_address)
{
	u8 *new = self->mem + 8 * GMEM_PAGE_SIZE;
	u8 byte = 0x5a;

	gmem_poke(self->mem, 0x77);
	EXPECT_EQ(1, write(self->fds[1], self->mem, 1));
	EXPECT_EQ(1, read(self->fds[0], &byte, 1));
	EXPECT_EQ(0x77, byte);
	EXPECT_EQ(1, write(self->fds[1], &byte, 1));
	EXPECT_EQ(1, read(self->fds[0], new, 1));
	EXPECT_EQ(0x77, gmem_peek(new));
}

/* One request at a time. */
struct uring {
	struct io_uring_params params;
	int fd;
	u8 *rings;
	struct io_uring_sqe *sqe;
};

static bool uring_open(struct uring *ring)
{
	struct io_uring_params *params = &ring->params;

	*params = (struct io_uring_params) { .flags = IORING_SETUP_NO_SQARRAY };
	ring->fd = syscall(__NR_io_uring_setup, 1, params);
	if (ring->fd < 0)
		return false;

	ring->rings = kvm_mmap(GMEM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			       ring->fd);
	ring->sqe = __kvm_mmap(GMEM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			       ring->fd, IORING_OFF_SQES);
	return true;
}

static void uring_close(struct uring *ring)
{
	kvm_munmap(ring->sqe, GMEM_PAGE_SIZE);
	kvm_munmap(ring->rings, GMEM_PAGE_SIZE);
	kvm_close(ring->fd);
}

static int uring_do(struct uring *ring, u8 opcode, int fd, void *addr, u32 len)
{
	struct io_uring_cqe *cqes = (void *)(ring->rings + ring->params.cq_off.cqes);
	u32 *tail = (u32 *)(ring->rings + ring->params.sq_off.tail);
	u32 *head = (u32 *)(ring->rings + ring->params.cq_off.head);

	*ring->sqe = (struct io_uring_sqe) {
		.opcode = opcode,
		.fd = fd,
		.addr = (uintptr_t)addr,
		.len = len,
	};
	__atomic_add_fetch(tail, 1, __ATOMIC_RELEASE);
	TEST_ASSERT(syscall(__NR_io_uring_enter, ring->fd, 1, 1,
			    IORING_ENTER_GETEVENTS, NULL, 0) == 1,
		    "io_uring_enter() failed");
	return cqes[__atomic_fetch_add(head, 1, __ATOMIC_RELEASE) %
		    ring->params.cq_entries].res;
}

TEST_F(user, io_uring_reads_and_writes_by_address)
{
	u8 *new = self->mem + 8 * GMEM_PAGE_SIZE;
	struct uring ring;
	u8 byte = 0x5a;

	if (!uring_open(&ring))
		SKIP(return, "no io_uring");
	gmem_poke(self->mem, 0x77);
	EXPECT_EQ(1, uring_do(&ring, IORING_OP_WRITE, self->fds[1], self->mem, 1));
	EXPECT_EQ(1, read(self->fds[0], &byte, 1));
	EXPECT_EQ(0x77, byte);
	EXPECT_EQ(1, write(self->fds[1], &byte, 1));
	EXPECT_EQ(1, uring_do(&ring, IORING_OP_READ, self->fds[0], new, 1));
	EXPECT_EQ(0x77, gmem_peek(new));
	uring_close(&ring);
}

/*
 * Who takes a reference
 */

TEST_F(user, io_uring_does_not_register_a_buffer)
{
	struct iovec iov = { self->page, GMEM_PAGE_SIZE };
	struct uring ring;

	if (!uring_open(&ring))
		SKIP(return, "no io_uring");
	EXPECT_EQ(-1, syscall(__NR_io_uring_register, ring.fd,
			      IORING_REGISTER_BUFFERS, &iov, 1));
	EXPECT_EQ(EFAULT, errno);
	uring_close(&ring);
}

/* The disk has no memory: what is written to it is gone. */
static int open_disk(void)
{
	return open("/dev/nullb0", O_RDWR | O_DIRECT);
}

TEST_F(user, direct_read_fails)
{
	int disk = open_disk();

	if (disk < 0)
		SKIP(return, "no null_blk");
	EXPECT_EQ(-1, pread(disk, self->page, GMEM_PAGE_SIZE, 0));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(GMEM_PAGE_SIZE, pread(disk, self->other, GMEM_PAGE_SIZE, 0));
	close(disk);
}

TEST_F(user, direct_write_fails)
{
	int disk = open_disk();

	if (disk < 0)
		SKIP(return, "no null_blk");
	EXPECT_EQ(-1, pwrite(disk, self->page, GMEM_PAGE_SIZE, 0));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(GMEM_PAGE_SIZE, pwrite(disk, self->other, GMEM_PAGE_SIZE, 0));
	close(disk);
}

TEST_F(user, vmsplice_fails)
{
	struct iovec iov = { .iov_base = self->page, .iov_len = 16 };

	EXPECT_EQ(-1, vmsplice(self->fds[1], &iov, 1, 0));
	EXPECT_EQ(EFAULT, errno);
}

TEST_F(user, process_vm_readv_fails)
{
	u8 buf[16];
	struct iovec local = { .iov_base = buf, .iov_len = sizeof(buf) };
	struct iovec remote = { .iov_base = self->page, .iov_len = sizeof(buf) };

	EXPECT_EQ(-1, process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
	EXPECT_EQ(EFAULT, errno);
}

TEST_F(user, proc_pid_mem_fails)
{
	int fd = open_path_or_exit("/proc/self/mem", O_RDWR);
	u8 byte = 0;

	EXPECT_EQ(-1, pread(fd, &byte, 1, (uintptr_t)self->page));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-1, pwrite(fd, &byte, 1, (uintptr_t)self->page));
	EXPECT_EQ(EIO, errno);
	close(fd);
}

static pid_t stopped_child(void)
{
	pid_t pid = fork();

	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	TEST_ASSERT(pid > 0 && waitpid(pid, NULL, WUNTRACED) == pid,
		    "No child to trace");
	return pid;
}

TEST_F(user, ptrace_fails)
{
	pid_t pid = stopped_child();

	EXPECT_EQ(-1, ptrace(PTRACE_PEEKDATA, pid, self->page, NULL));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-1, ptrace(PTRACE_POKEDATA, pid, self->page, NULL));
	EXPECT_EQ(EIO, errno);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static int pin_longterm(u8 *page, u32 flags)
{
	int fd = open_path_or_exit("/sys/kernel/debug/gup_test", O_RDWR);
	struct pin_longterm_test pin = {
		.addr = (uintptr_t)page,
		.size = GMEM_PAGE_SIZE,
		.flags = flags,
	};
	int err = ioctl(fd, PIN_LONGTERM_TEST_START, &pin) ? errno : 0;

	/* Which unpins. */
	kvm_close(fd);
	return err;
}

TEST_F(user, longterm_pin_fails)
{
	if (access("/sys/kernel/debug/gup_test", R_OK))
		SKIP(return, "no CONFIG_GUP_TEST");
	EXPECT_EQ(EFAULT, pin_longterm(self->page, 0));
	EXPECT_EQ(EFAULT, pin_longterm(self->page,
				       PIN_LONGTERM_TEST_FLAG_USE_WRITE));
	EXPECT_EQ(EFAULT, pin_longterm(self->page,
				       PIN_LONGTERM_TEST_FLAG_USE_FAST));
	EXPECT_EQ(0, pin_longterm(self->other, 0));
}

/*
 * Who populates by address: the same as memfd_secret() says
 */

static u8 *map_secret(void)
{
	int fd = create_secret(GMEM_PAGE_SIZE);
	u8 *mem;

	if (fd < 0)
		return NULL;
	mem = kvm_mmap(GMEM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	kvm_close(fd);
	return mem;
}

TEST_F(user, madvise_populate_fails)
{
	u8 *secret = map_secret();
	int advice;

	for (advice = MADV_POPULATE_READ; advice <= MADV_POPULATE_WRITE; advice++) {
		EXPECT_EQ(-1, madvise(self->mem, GMEM_PAGE_SIZE, advice));
		EXPECT_EQ(EINVAL, errno);
		if (!secret)
			continue;
		EXPECT_EQ(-1, madvise(secret, GMEM_PAGE_SIZE, advice));
		EXPECT_EQ(EINVAL, errno);
	}
}

TEST_F(user, mlock_fails)
{
	u8 *secret = map_secret();

	EXPECT_EQ(-1, mlock(self->mem, GMEM_PAGE_SIZE));
	EXPECT_EQ(ENOMEM, errno);
	if (secret) {
		EXPECT_EQ(-1, mlock(secret, GMEM_PAGE_SIZE));
		EXPECT_EQ(ENOMEM, errno);
	}
}

static long locked_kbytes(void)
{
	return gmem_proc_read("/proc/self/status", "VmLck");
}

/* It is not a locked mapping all the same, one that could not be populated. */
TEST_F(user, mlock_that_fails_counts_nothing_as_locked)
{
	u8 *secret = map_secret();

	EXPECT_EQ(0, mlock(self->other, GMEM_PAGE_SIZE));
	EXPECT_EQ(4, locked_kbytes());
	mlock(self->mem, GMEM_PAGE_SIZE);
	EXPECT_EQ(4, locked_kbytes());
	if (secret) {
		mlock(secret, GMEM_PAGE_SIZE);
		EXPECT_EQ(4, locked_kbytes());
	}
}

/*
 * Who looks at all memory
 */

static bool has_stamp_somewhere(int fd, u64 stamp)
{
	u8 *page = aligned_alloc(GMEM_PAGE_SIZE, GMEM_PAGE_SIZE);
	bool found = false;

	while (!found && read(fd, page, GMEM_PAGE_SIZE) == GMEM_PAGE_SIZE)
		found = gmem_has_stamp(page, stamp);
	free(page);
	return found;
}

#define CORE_PATTERN	"/proc/sys/kernel/core_pattern"
#define CORE_FILE	"/tmp/guest_memfd_core"

/* With all that it has mapped, of files as well. */
static int dump_child(void)
{
	const struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	int status;
	pid_t pid = fork();

	if (!pid) {
		setrlimit(RLIMIT_CORE, &unlimited);
		write_file("/proc/self/coredump_filter", "0xff");
		signal(SIGABRT, SIG_DFL);
		abort();
	}
	TEST_ASSERT(pid > 0 && waitpid(pid, &status, 0) == pid, "No child");
	return status;
}

TEST_F(user, core_dump_does_not_have_the_content)
{
	char pattern[128] = {};
	int status, fd = open(CORE_PATTERN, O_RDONLY);

	if (fd < 0)
		SKIP(return, "no CONFIG_COREDUMP");
	ASSERT_LT(0, read(fd, pattern, sizeof(pattern) - 1));
	kvm_close(fd);
	write_file(CORE_PATTERN, CORE_FILE);
	status = dump_child();
	write_file(CORE_PATTERN, pattern);

	EXPECT_TRUE(WIFSIGNALED(status) && WCOREDUMP(status));
	fd = open_path_or_exit(CORE_FILE, O_RDONLY);
	EXPECT_TRUE(has_stamp_somewhere(fd, KNOWN));
	lseek(fd, 0, SEEK_SET);
	EXPECT_FALSE(has_stamp_somewhere(fd, SECRET));
	kvm_close(fd);
	unlink(CORE_FILE);
}

/*
 * Where /proc/kcore has the page in the direct map.  What was the kernel's init code
 * is also part of the kernel's image, which comes before all memory.
 */
static off_t kcore_offset(int fd, u64 pfn)
{
	struct elf64_hdr ehdr;
	struct elf64_phdr phdr;
	u64 addr = pfn * GMEM_PAGE_SIZE;
	off_t offset = 0;
	int i;

	TEST_ASSERT(pread(fd, &ehdr, sizeof(ehdr), 0) == sizeof(ehdr),
		    "Cannot read /proc/kcore");
	for (i = 0; i < ehdr.e_phnum; i++) {
		TEST_ASSERT(pread(fd, &phdr, sizeof(phdr),
				  ehdr.e_phoff + i * sizeof(phdr)) == sizeof(phdr),
			    "Cannot read /proc/kcore");
		if (phdr.p_type == PT_LOAD && phdr.p_paddr != -1ULL &&
		    addr - phdr.p_paddr < phdr.p_memsz)
			offset = phdr.p_offset + addr - phdr.p_paddr;
	}
	TEST_ASSERT(offset, "No page frame 0x%lx in /proc/kcore", pfn);
	return offset;
}

static void kcore_read(u64 *buf, u64 pfn)
{
	int fd = open_path_or_exit("/proc/kcore", O_RDONLY);

	memset(buf, 0xff, GMEM_PAGE_SIZE);
	TEST_ASSERT(pread(fd, buf, GMEM_PAGE_SIZE, kcore_offset(fd, pfn)) ==
		    GMEM_PAGE_SIZE, "Cannot read /proc/kcore");
	kvm_close(fd);
}

TEST_F(user, kcore_reads_as_zeroes)
{
	static u64 buf[GMEM_PAGE_SIZE / sizeof(u64)];
	static const u64 zeroes[ARRAY_SIZE(buf)];

	if (access("/proc/kcore", R_OK))
		SKIP(return, "no CONFIG_PROC_KCORE");
	kcore_read(buf, gmem_pfn(self->other));
	EXPECT_TRUE(gmem_has_stamp(buf, KNOWN));
	kcore_read(buf, gmem_pfn(self->page));
	EXPECT_EQ(0, memcmp(buf, zeroes, sizeof(buf)));
}

/*
 * Hibernation
 */
#define POWER_STATE	"/sys/power/state"
#define PM_TEST		"/sys/power/pm_test"

/* 0 or an errno. */
static int hibernate(void)
{
	int fd = open_path_or_exit(POWER_STATE, O_WRONLY);
	int err = write(fd, "disk", 4) == 4 ? 0 : errno;

	kvm_close(fd);
	return err;
}

/* Has the kernel logged it since @fd was opened? */
static bool kernel_says(int fd, const char *what)
{
	char line[1024];
	ssize_t len;

	while ((len = read(fd, line, sizeof(line) - 1)) > 0) {
		line[len] = '\0';
		if (strstr(line, what))
			return true;
	}
	return false;
}

TEST_F(user, hibernation_is_refused_and_the_log_says_why)
{
	int log;

	if (access(PM_TEST, W_OK))
		SKIP(return, "no CONFIG_HIBERNATION and CONFIG_PM_DEBUG");
	log = open_path_or_exit("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	lseek(log, 0, SEEK_END);
	/* In case it is not refused. */
	write_file(PM_TEST, "freezer");
	EXPECT_EQ(EPERM, hibernate());
	write_file(PM_TEST, "none");
	EXPECT_TRUE(kernel_says(log, "not possible while"));
	close(log);
}

/*
 * As far as all processes are frozen and memory for the image is allocated, unless
 * there is too little, as with KASAN or many huge pages.
 */
TEST_F(user, hibernation_is_possible_once_the_file_is_empty)
{
	int err;

	if (access(PM_TEST, W_OK))
		SKIP(return, "no CONFIG_HIBERNATION and CONFIG_PM_DEBUG");
	gmem_punch_pages(self->fd, 0, NR_PAGES);
	write_file(PM_TEST, "freezer");
	err = hibernate();
	EXPECT_TRUE(!err || err == ENOMEM);
	write_file(PM_TEST, "none");
	gmem_stamp(self->page, SECRET);
}

/* Who makes the image is not frozen. */
TEST_F(user, image_is_refused_if_a_page_has_left_since_all_were_frozen)
{
	int snapshot, in_suspend, err;

	if (access("/dev/snapshot", R_OK))
		SKIP(return, "no CONFIG_HIBERNATION_SNAPSHOT_DEV");

	gmem_punch_pages(self->fd, 0, NR_PAGES);
	snapshot = open_path_or_exit("/dev/snapshot", O_RDONLY);
	ASSERT_EQ(0, ioctl(snapshot, SNAPSHOT_FREEZE));
	gmem_stamp(self->page, SECRET);
	err = ioctl(snapshot, SNAPSHOT_CREATE_IMAGE, &in_suspend) ? errno : 0;
	EXPECT_EQ(0, ioctl(snapshot, SNAPSHOT_UNFREEZE));
	close(snapshot);
	EXPECT_EQ(EPERM, err);
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
