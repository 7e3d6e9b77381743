// SPDX-License-Identifier: GPL-2.0-only
/*
 * Other processes that have a page of a guest_memfd mapped, and those who look
 * into them.
 *
 * None of them can hold up a conversion, even if it does not run.  Afterwards
 * it can neither see nor change the page.
 */
#include <elf.h>
#include <fcntl.h>
#include <stdlib.h>
#include <linux/perf_event.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_hidden.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define FILE_PAGES	16

/* The page that is converted, and one that stays shared. */
#define PAGE		5
#define SHARED_PAGE	6

/* What a page holds, and where others look for it. */
#define STAMP(n)	((n) + 1)
#define STAMP_BYTE(n)	((n) * GMEM_PAGE_SIZE + 4)
#define POKED_BYTE	0x77

#define page(n)		(self->mem + (n) * GMEM_PAGE_SIZE)

/*
 * Another process, and the ways to look into it.  Each test has a process of
 * its own, so there is one other process at most.
 */
static struct {
	pid_t pid;
	int ask[2];
	int answer[2];
	u8 *mem;
	int proc_mem;
} other;

struct question {
	u64 offset;
	bool poke;
	u8 byte;
};

static int answer_question(const struct question *q, u8 *mem)
{
	if (q->poke)
		return gmem_poke(mem + q->offset, q->byte);
	return gmem_peek(mem + q->offset);
}

static void serve_questions(u8 *mem)
{
	struct question q;
	int seen;

	close(other.ask[1]);
	while (read(other.ask[0], &q, sizeof(q)) == sizeof(q)) {
		seen = answer_question(&q, mem);
		if (write(other.answer[1], &seen, sizeof(seen)) < 0)
			break;
	}
	_exit(0);
}

static int ask_other(u64 page, bool poke, u8 byte)
{
	struct question q = { STAMP_BYTE(page), poke, byte };
	int seen;

	TEST_ASSERT(write(other.ask[1], &q, sizeof(q)) == sizeof(q) &&
		    read(other.answer[0], &seen, sizeof(seen)) == sizeof(seen),
		    "The other process is gone");
	return seen;
}

static int ask_peek(u64 page)
{
	return ask_other(page, false, 0);
}

static int ask_poke(u64 page, u8 byte)
{
	return ask_other(page, true, byte);
}

/* Returns 0 in the child. */
static pid_t fork_other(u8 *mem)
{
	TEST_ASSERT(!pipe(other.ask) && !pipe(other.answer), "pipe() failed");
	other.mem = mem;
	other.pid = fork();
	TEST_ASSERT(other.pid >= 0, "fork() failed");

	if (other.pid) {
		close(other.ask[0]);
		close(other.answer[1]);
	}
	return other.pid;
}

static void kill_other(void)
{
	kill(other.pid, SIGKILL);
	waitpid(other.pid, NULL, 0);
}

static void wait_until_other_stops(void)
{
	int status;

	TEST_ASSERT(waitpid(other.pid, &status, WUNTRACED) == other.pid &&
		    WIFSTOPPED(status), "The other process did not stop");
}

/* The mapping is inherited. */
static void start_child(int fd, u8 *mem)
{
	if (!fork_other(mem))
		serve_questions(mem);
}

/* The mapping is its own. */
static void start_process(int fd, u8 *mem)
{
	if (!fork_other(mem))
		serve_questions(gmem_map_pages(fd, FILE_PAGES));
}

static void stop_other(void)
{
	kill(other.pid, SIGSTOP);
	wait_until_other_stops();
}

/*
 * It is stopped, with all pages mapped and locked, unless it is asked.  mlock()
 * fails if there is a private page; the mapping is a locked one all the same.
 */
static void start_stopped_process(int fd, u8 *mem)
{
	if (!fork_other(mem)) {
		mem = gmem_map_pages(fd, FILE_PAGES);
		mlock(mem, FILE_PAGES * GMEM_PAGE_SIZE);
		serve_questions(mem);
	}
	ask_peek(SHARED_PAGE);
	stop_other();
}

static int wake_and_peek(u64 page)
{
	int seen;

	kill(other.pid, SIGCONT);
	seen = ask_peek(page);
	stop_other();
	return seen;
}

static int wake_and_poke(u64 page, u8 byte)
{
	int ret;

	kill(other.pid, SIGCONT);
	ret = ask_poke(page, byte);
	stop_other();
	return ret;
}

static void start_tracee(int fd, u8 *mem)
{
	if (!fork_other(mem)) {
		gmem_peek(mem + STAMP_BYTE(PAGE));
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	wait_until_other_stops();
}

static int ptrace_peek(u64 page)
{
	long word;

	errno = 0;
	word = ptrace(PTRACE_PEEKDATA, other.pid,
		      other.mem + STAMP_BYTE(page), NULL);
	return errno ? -errno : (u8)word;
}

static int ptrace_poke(u64 page, u8 byte)
{
	return ptrace(PTRACE_POKEDATA, other.pid,
		      other.mem + STAMP_BYTE(page),
		      (void *)(long)byte) ? -errno : 0;
}

static void start_child_with_proc_mem(int fd, u8 *mem)
{
	char path[64];

	start_child(fd, mem);
	snprintf(path, sizeof(path), "/proc/%d/mem", other.pid);
	other.proc_mem = open_path_or_exit(path, O_RDWR);
}

static int proc_mem_peek(u64 page)
{
	off_t addr = (uintptr_t)other.mem + STAMP_BYTE(page);
	u8 byte;

	return pread(other.proc_mem, &byte, 1, addr) == 1 ? byte : -errno;
}

static int proc_mem_poke(u64 page, u8 byte)
{
	off_t addr = (uintptr_t)other.mem + STAMP_BYTE(page);

	return pwrite(other.proc_mem, &byte, 1, addr) == 1 ? 0 : -errno;
}

static int process_vm_peek(u64 page)
{
	u8 byte;
	struct iovec local = { &byte, 1 };
	struct iovec remote = { other.mem + STAMP_BYTE(page), 1 };

	return process_vm_readv(other.pid, &local, 1, &remote, 1, 0) == 1 ?
	       byte : -errno;
}

static int process_vm_poke(u64 page, u8 byte)
{
	struct iovec local = { &byte, 1 };
	struct iovec remote = { other.mem + STAMP_BYTE(page), 1 };

	return process_vm_writev(other.pid, &local, 1, &remote, 1, 0) == 1 ?
	       0 : -errno;
}

/* A file that is all shared, and a mapping of it with a stamp in each page. */
FIXTURE(viewer) {
	struct kvm_vm *vm;
	int fd;
	u8 *mem;
};

/*
 * @start: start the other process
 * @peek: read a byte of a page through it, @denied if that may not be
 * @poke: write a byte, returns 0 or @denied
 */
FIXTURE_VARIANT(viewer) {
	void (*start)(int fd, u8 *mem);
	int (*peek)(u64 page);
	int (*poke)(u64 page, u8 byte);
	int denied;
};

FIXTURE_VARIANT_ADD(viewer, child)
{
	.start = start_child,
	.peek = ask_peek,
	.poke = ask_poke,
	.denied = GMEM_SIGBUS,
};

FIXTURE_VARIANT_ADD(viewer, second_process)
{
	.start = start_process,
	.peek = ask_peek,
	.poke = ask_poke,
	.denied = GMEM_SIGBUS,
};

FIXTURE_VARIANT_ADD(viewer, stopped_process)
{
	.start = start_stopped_process,
	.peek = wake_and_peek,
	.poke = wake_and_poke,
	.denied = GMEM_SIGBUS,
};

FIXTURE_VARIANT_ADD(viewer, debugger)
{
	.start = start_tracee,
	.peek = ptrace_peek,
	.poke = ptrace_poke,
	.denied = -EIO,
};

FIXTURE_VARIANT_ADD(viewer, proc_mem)
{
	.start = start_child_with_proc_mem,
	.peek = proc_mem_peek,
	.poke = proc_mem_poke,
	.denied = -EIO,
};

FIXTURE_VARIANT_ADD(viewer, process_vm)
{
	.start = start_child,
	.peek = process_vm_peek,
	.poke = process_vm_poke,
	.denied = -EFAULT,
};

FIXTURE_SETUP(viewer)
{
	int i;

	if (!gmem_can_convert())
		SKIP(return, "no VM type with private memory");

	self->fd = gmem_create_shared(&self->vm, FILE_PAGES);
	self->mem = gmem_map_pages(self->fd, FILE_PAGES);
	for (i = 0; i < FILE_PAGES; i++)
		gmem_stamp(page(i), STAMP(i));
}

FIXTURE_TEARDOWN(viewer)
{
	if (!self->vm)
		return;

	if (other.pid)
		kill_other();
	kvm_munmap(self->mem, FILE_PAGES * GMEM_PAGE_SIZE);
	close(self->fd);
	kvm_vm_free(self->vm);
}

TEST_F(viewer, does_not_hold_up_a_conversion)
{
	variant->start(self->fd, self->mem);
	ASSERT_EQ(STAMP(PAGE), variant->peek(PAGE));

	EXPECT_EQ(0, gmem_pages_try_private(self->fd, PAGE, 1, NULL));
}

TEST_F(viewer, sees_a_page_until_it_is_private)
{
	variant->start(self->fd, self->mem);
	ASSERT_EQ(STAMP(PAGE), variant->peek(PAGE));

	ASSERT_EQ(0, gmem_pages_try_private(self->fd, PAGE, 1, NULL));
	EXPECT_EQ(variant->denied, variant->peek(PAGE));
	EXPECT_EQ(STAMP(SHARED_PAGE), variant->peek(SHARED_PAGE));
}

TEST_F(viewer, cannot_change_a_private_page)
{
	variant->start(self->fd, self->mem);

	ASSERT_EQ(0, gmem_pages_try_private(self->fd, PAGE, 1, NULL));
	EXPECT_EQ(variant->denied, variant->poke(PAGE, POKED_BYTE));

	gmem_pages_to_shared(self->fd, PAGE, 1);
	EXPECT_TRUE(gmem_has_stamp(page(PAGE), STAMP(PAGE)));
}

TEST_F(viewer, can_change_the_page_once_it_is_shared_again)
{
	variant->start(self->fd, self->mem);

	ASSERT_EQ(0, gmem_pages_try_private(self->fd, PAGE, 1, NULL));
	gmem_pages_to_shared(self->fd, PAGE, 1);
	EXPECT_EQ(STAMP(PAGE), variant->peek(PAGE));
	EXPECT_EQ(0, variant->poke(PAGE, POKED_BYTE));
	EXPECT_EQ(POKED_BYTE, gmem_peek(self->mem + STAMP_BYTE(PAGE)));
}

TEST_F(viewer, started_after_the_conversion_sees_no_private_page)
{
	ASSERT_EQ(0, gmem_pages_try_private(self->fd, PAGE, 1, NULL));
	variant->start(self->fd, self->mem);

	EXPECT_EQ(variant->denied, variant->peek(PAGE));
	EXPECT_EQ(STAMP(SHARED_PAGE), variant->peek(SHARED_PAGE));
}

/*
 * perf says which program it is that somebody maps
 */

#define BUILD_ID	"what the guest hides"

static void put_build_id(u8 *page)
{
	Elf64_Ehdr *ehdr = (void *)page;
	Elf64_Phdr *phdr = (void *)(ehdr + 1);
	Elf64_Nhdr *nhdr = (void *)(phdr + 1);

	*ehdr = (Elf64_Ehdr) {
		.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64 },
		.e_type = ET_DYN,
		.e_phoff = sizeof(*ehdr),
		.e_phnum = 1,
	};
	*nhdr = (Elf64_Nhdr) {
		.n_namesz = sizeof("GNU"),
		.n_descsz = sizeof(BUILD_ID) - 1,
		.n_type = NT_GNU_BUILD_ID,
	};
	memcpy(nhdr + 1, "GNU", sizeof("GNU"));
	memcpy((u8 *)(nhdr + 1) + sizeof("GNU"), BUILD_ID, nhdr->n_descsz);
	*phdr = (Elf64_Phdr) {
		.p_type = PT_NOTE,
		.p_offset = (u8 *)nhdr - page,
		.p_filesz = sizeof(*nhdr) + sizeof("GNU") + nhdr->n_descsz,
	};
}

/* A ring of one page. */
FIXTURE(perf) {
	int perf;
	struct perf_event_mmap_page *ring;
};

FIXTURE_SETUP(perf)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_DUMMY,
		.mmap = 1,
		.mmap2 = 1,
		.mmap_data = 1,
		.build_id = 1,
		.exclude_kernel = 1,
	};

	self->perf = syscall(__NR_perf_event_open, &attr, 0, -1, -1, 0);
	if (self->perf < 0)
		SKIP(return, "no perf events");
	self->ring = kvm_mmap(2 * GMEM_PAGE_SIZE, PROT_READ | PROT_WRITE,
			      MAP_SHARED, self->perf);
}

FIXTURE_TEARDOWN(perf)
{
	if (self->perf < 0)
		return;
	kvm_munmap(self->ring, 2 * GMEM_PAGE_SIZE);
	kvm_close(self->perf);
}

static void put_build_id_into(int fd)
{
	u8 *mem = gmem_map_pages(fd, 1);

	put_build_id(mem);
	kvm_munmap(mem, GMEM_PAGE_SIZE);
}

/* Maps the file, and closes it. */
static bool perf_finds_build_id(struct perf_event_mmap_page *ring, int fd)
{
	u64 head = ring->data_head;

	ring->data_tail = head;
	kvm_munmap(gmem_map_pages(fd, 1), GMEM_PAGE_SIZE);
	kvm_close(fd);
	TEST_ASSERT(ring->data_head != head, "perf did not see the mapping");

	return memmem((u8 *)ring + GMEM_PAGE_SIZE, GMEM_PAGE_SIZE, BUILD_ID,
		      sizeof(BUILD_ID) - 1);
}

/* Or the others would not show anything. */
TEST_F(perf, finds_the_build_id_of_an_ordinary_file)
{
	int fd = memfd_create("program", 0);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, GMEM_PAGE_SIZE));
	put_build_id_into(fd);
	EXPECT_TRUE(perf_finds_build_id(self->ring, fd));
}

TEST_F(perf, finds_no_build_id_in_a_private_page)
{
	struct kvm_vm *vm;
	int fd;

	if (!gmem_can_convert())
		SKIP(return, "no VM type with private memory");

	fd = gmem_create_shared(&vm, 1);
	put_build_id_into(fd);
	gmem_pages_to_private(fd, 0, 1);
	EXPECT_FALSE(perf_finds_build_id(self->ring, fd));
	kvm_vm_free(vm);
}

/* perf would read it by an address that is not there. */
TEST_F(perf, finds_no_build_id_in_a_page_that_is_not_in_the_direct_map)
{
	struct kvm_vm *vm = create_vm();
	int fd;

	if (!can_hide(vm))
		SKIP(return, "this machine cannot change its direct map");

	fd = gmem_create_file(vm, GMEM_PAGE_SIZE, HIDDEN);
	put_build_id_into(fd);
	EXPECT_FALSE(perf_finds_build_id(self->ring, fd));
	kvm_vm_free(vm);
}

TEST_F(perf, finds_no_build_id_in_memfd_secret)
{
	int fd = create_secret(GMEM_PAGE_SIZE);

	if (fd < 0)
		SKIP(return, "no memfd_secret()");
	put_build_id_into(fd);
	EXPECT_FALSE(perf_finds_build_id(self->ring, fd));
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
