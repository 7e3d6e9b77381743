// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a developer may look at: the runs of a guest_memfd in debugfs, and the
 * trace events of "guest_memfd".
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define DEBUGFS		"/sys/kernel/debug/guest_memfd"
#define TRACEFS		"/sys/kernel/tracing"
#define EVENTS		TRACEFS "/events/guest_memfd/enable"

#define NR_PAGES	(SZ_4M / GMEM_PAGE_SIZE)
#define PAGES_PER_2M	(SZ_2M / GMEM_PAGE_SIZE)

/*
 * A file that is all shared, and what can be read of it.
 */
FIXTURE(watched) {
	struct kvm_vm *vm;
	int fd;
	u8 *mem;
	u64 ino;
	u64 size;
	char runs[64];
	char text[16384];
};

static u64 ino_of(int fd)
{
	struct stat st;

	TEST_ASSERT(!fstat(fd, &st), "fstat() failed");
	return st.st_ino;
}

FIXTURE_SETUP(watched)
{
	if (!gmem_can_convert())
		SKIP(return, "no VM type with private memory");
	if (access(DEBUGFS, X_OK) || access(EVENTS, W_OK))
		SKIP(return, "no debugfs or no tracefs");

	write_file(TRACEFS "/trace", "");
	write_file(EVENTS, "1");
	self->fd = gmem_create_shared(&self->vm, NR_PAGES);
	self->size = gmem_whole_blocks(NR_PAGES) * GMEM_PAGE_SIZE;
	self->mem = gmem_map_pages(self->fd, NR_PAGES);
	self->ino = ino_of(self->fd);
	snprintf(self->runs, sizeof(self->runs), DEBUGFS "/%lu/runs", self->ino);
}

static void drop_file(u8 *mem, int fd)
{
	kvm_munmap(mem, NR_PAGES * GMEM_PAGE_SIZE);
	close(fd);
}

FIXTURE_TEARDOWN(watched)
{
	if (self->fd >= 0)
		drop_file(self->mem, self->fd);
	kvm_vm_free(self->vm);
	write_file(EVENTS, "0");
}

static const char *runs(struct _test_data_watched *self)
{
	read_file(self->runs, self->text, sizeof(self->text));
	return self->text;
}

static unsigned int max_order(void)
{
	return ffsl(gmem_block_size() / GMEM_PAGE_SIZE) - 1;
}

TEST_F(watched, new_file_is_one_run)
{
	char want[64];

	snprintf(want, sizeof(want), "0x0 0x%lx shared %u\n", self->size, max_order());
	EXPECT_STREQ(want, runs(self));
}

TEST_F(watched, runs_follow_conversions)
{
	char want[128];

	gmem_pages_to_private(self->fd, 3, 2);
	gmem_pages_to_private(self->fd, PAGES_PER_2M,
			      gmem_whole_blocks(NR_PAGES) - PAGES_PER_2M);

	snprintf(want, sizeof(want),
		 "0x0 0x3000 shared 0\n"
		 "0x3000 0x2000 private 0\n"
		 "0x5000 0x1fb000 shared 0\n"
		 "0x200000 0x%lx private %u\n",
		 self->size - SZ_2M, gmem_has_blocks() ? 9 : 0);
	EXPECT_STREQ(want, runs(self));
}

/* Its end is looked for a TiB at a time. */
TEST(run_of_some_tib_is_one)
{
	const u64 size = 3 * 1024 * (u64)SZ_1G;
	char path[64], text[256], want[128];
	struct kvm_vm *vm;
	int fd;

	if (!gmem_can_convert())
		SKIP(return, "no VM type with private memory");
	if (access(DEBUGFS, X_OK))
		SKIP(return, "no debugfs");

	vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	fd = vm_create_guest_memfd(vm, size, GUEST_MEMFD_FLAG_MMAP |
				   GUEST_MEMFD_FLAG_INIT_SHARED);
	gmem_pages_to_private(fd, size / GMEM_PAGE_SIZE - 1, 1);
	snprintf(path, sizeof(path), DEBUGFS "/%lu/runs", ino_of(fd));
	read_file(path, text, sizeof(text));
	snprintf(want, sizeof(want), "0x0 0x%lx shared 0\n0x%lx 0x1000 private 0\n",
		 size - GMEM_PAGE_SIZE, size - GMEM_PAGE_SIZE);
	EXPECT_STREQ(want, text);
	kvm_close(fd);
	kvm_vm_free(vm);
}

/* More than one read() gets. */
TEST_F(watched, many_runs_come_all_and_in_order)
{
	u64 i, start, len, end = 0, nr = 0;
	char state[8], *line, *next;
	int nr_fields;

	for (i = 0; i < NR_PAGES; i += 4)
		gmem_pages_to_private(self->fd, i, 1);

	runs(self);
	for (line = self->text; *line; line = next + 1) {
		next = strchr(line, '\n');
		nr_fields = sscanf(line, "0x%lx 0x%lx %7s", &start, &len, state);
		ASSERT_EQ(3, nr_fields);
		EXPECT_EQ(end, start);
		EXPECT_STREQ(nr % 2 ? "shared" : "private", state);
		end = start + len;
		nr++;
	}
	EXPECT_EQ(self->size, end);
	EXPECT_EQ(NR_PAGES / 2, nr);
}

TEST_F(watched, directory_goes_with_the_file)
{
	EXPECT_EQ(0, access(self->runs, F_OK));
	drop_file(self->mem, self->fd);
	self->fd = -1;

	EXPECT_EQ(-1, access(self->runs, F_OK));
}

TEST_F(watched, runs_that_are_open_end_with_the_file)
{
	int fd = open_path_or_exit(self->runs, O_RDONLY);
	char byte;

	drop_file(self->mem, self->fd);
	self->fd = -1;

	EXPECT_EQ(-1, read(fd, &byte, 1));
	EXPECT_EQ(EIO, errno);
	close(fd);
}

/*
 * Trace events
 */

/* The rest of the line of an event of this file, to compare it with. */
static const char *event(struct _test_data_watched *self, const char *name)
{
	char key[64], *line;

	read_file(TRACEFS "/trace", self->text, sizeof(self->text));
	snprintf(key, sizeof(key), " %s: ino=%lu ", name, self->ino);
	line = strstr(self->text, key);
	if (!line)
		return "";
	line += strlen(key);
	line[strcspn(line, "\n")] = '\0';
	return line;
}

TEST_F(watched, creation_is_traced)
{
	char want[128];
	int len;

	len = snprintf(want, sizeof(want),
		       "size=0x%lx flags=mmap|init-shared|track-state", self->size);
	if (gmem_has_blocks())
		snprintf(want + len, sizeof(want) - len, "|hugetlb|0x%lx",
			 gmem_hugetlb_flag(gmem_block_size()) & GUEST_MEMFD_HUGETLB_MASK);
	EXPECT_STREQ(want, event(self, "guest_memfd_create"));
}

TEST_F(watched, allocation_is_traced_once)
{
	const char *name = gmem_has_blocks() ? "guest_memfd_split" : "guest_memfd_allocate";
	const char *want = gmem_has_blocks() ? "index=0 pfn=0x" : "index=5 pfn=0x";
	char key[64];

	gmem_poke(self->mem + 5 * GMEM_PAGE_SIZE, 1);
	gmem_poke(self->mem + 5 * GMEM_PAGE_SIZE, 2);
	EXPECT_EQ(0, strncmp(want, event(self, name), strlen(want)));

	snprintf(key, sizeof(key), "%s: ino=%lu", name, self->ino);
	read_file(TRACEFS "/trace", self->text, sizeof(self->text));
	EXPECT_EQ(NULL, strstr(strstr(self->text, key) + 1, key));
}

static void pool_event(char want[64], u64 pfn)
{
	snprintf(want, 64, "index=0 pfn=0x%lx order=%u", pfn, max_order());
}

TEST_F(watched, block_is_traced_and_counted_when_it_is_split_and_when_it_is_joined)
{
	long splits = gmem_vmstat("guest_memfd_split");
	long joins = gmem_vmstat("guest_memfd_join");
	long deferred = gmem_vmstat("guest_memfd_join_deferred");
	char want[64];

	if (!gmem_has_blocks())
		SKIP(return, "for files of blocks");

	pool_event(want, gmem_pfn(self->mem));
	EXPECT_STREQ(want, event(self, "guest_memfd_split"));
	EXPECT_STREQ("", event(self, "guest_memfd_join"));
	EXPECT_EQ(splits + 1, gmem_vmstat("guest_memfd_split"));
	EXPECT_EQ(joins, gmem_vmstat("guest_memfd_join"));

	gmem_punch_pages(self->fd, 0, 1);
	EXPECT_STREQ(want, event(self, "guest_memfd_join"));
	EXPECT_EQ(splits + 1, gmem_vmstat("guest_memfd_split"));
	EXPECT_EQ(joins + 1, gmem_vmstat("guest_memfd_join"));
	EXPECT_STREQ("", event(self, "guest_memfd_join_deferred"));
	EXPECT_EQ(deferred, gmem_vmstat("guest_memfd_join_deferred"));
}

TEST_F(watched, block_that_waits_is_traced_counted_and_shown)
{
	struct iovec iov = { self->mem + 5 * GMEM_PAGE_SIZE, GMEM_PAGE_SIZE };
	long joins = gmem_vmstat("guest_memfd_join");
	long deferred = gmem_vmstat("guest_memfd_join_deferred");
	u64 pfn = gmem_pfn(self->mem);
	char want[64];
	int pipe_fds[2];

	if (!gmem_has_blocks())
		SKIP(return, "for files of blocks");

	ASSERT_EQ(0, pipe(pipe_fds));
	ASSERT_EQ(GMEM_PAGE_SIZE, vmsplice(pipe_fds[1], &iov, 1, 0));
	EXPECT_EQ(1, gmem_fdinfo(self->fd, "blocks"));
	EXPECT_EQ(0, gmem_fdinfo(self->fd, "waiting"));
	gmem_punch_pages(self->fd, 0, 1);

	/* The block has one reference, and the pipe. */
	snprintf(want, sizeof(want), "index=0 pfn=0x%lx refs=2", pfn + 5);
	EXPECT_STREQ(want, event(self, "guest_memfd_join_deferred"));
	EXPECT_STREQ("", event(self, "guest_memfd_join"));
	EXPECT_EQ(deferred + 1, gmem_vmstat("guest_memfd_join_deferred"));
	EXPECT_EQ(joins, gmem_vmstat("guest_memfd_join"));
	EXPECT_EQ(1, gmem_fdinfo(self->fd, "blocks"));
	EXPECT_EQ(1, gmem_fdinfo(self->fd, "waiting"));

	close(pipe_fds[0]);
	close(pipe_fds[1]);
	EXPECT_TRUE(GMEM_WAIT_FOR(!gmem_fdinfo(self->fd, "waiting")));
	pool_event(want, pfn);
	EXPECT_STREQ(want, event(self, "guest_memfd_join"));
	EXPECT_EQ(joins + 1, gmem_vmstat("guest_memfd_join"));
	EXPECT_EQ(deferred + 1, gmem_vmstat("guest_memfd_join_deferred"));
	EXPECT_EQ(0, gmem_fdinfo(self->fd, "blocks"));
}

/* By a worker. */
TEST_F(watched, broken_page_is_traced)
{
	if (gmem_block_size() == SZ_1G || access(GMEM_CORRUPT_PFN, W_OK))
		SKIP(return, "not with 1 GiB, and CONFIG_HWPOISON_INJECT");

	gmem_break_pfn(gmem_pfn(self->mem + 5 * GMEM_PAGE_SIZE));
	EXPECT_TRUE(GMEM_WAIT_FOR(*event(self, "guest_memfd_poison")));
	EXPECT_STREQ("poison 5-6", event(self, "guest_memfd_poison"));
}

TEST_F(watched, conversion_is_traced)
{
	gmem_pages_to_private(self->fd, 3, 2);

	EXPECT_STREQ("to-private 3-5 err=0 error_index=3 waited=0",
		     event(self, "guest_memfd_convert"));
}

TEST_F(watched, refused_conversion_tells_the_page_and_the_error)
{
	struct iovec iov = { self->mem + 4 * GMEM_PAGE_SIZE, GMEM_PAGE_SIZE };
	u64 error_offset;
	int pipe_fds[2];

	ASSERT_EQ(0, pipe(pipe_fds));
	ASSERT_EQ(GMEM_PAGE_SIZE, vmsplice(pipe_fds[1], &iov, 1, 0));
	EXPECT_EQ(-1, __gmem_set_memory_attributes(self->fd, 3 * GMEM_PAGE_SIZE,
						   2 * GMEM_PAGE_SIZE,
						   KVM_MEMORY_ATTRIBUTE_PRIVATE,
						   &error_offset));

	EXPECT_EQ(0, strncmp("to-private 3-5 err=-11 error_index=4 waited=",
			     event(self, "guest_memfd_convert"), 44));
	EXPECT_NE(NULL, strstr(event(self, "guest_memfd_held"), "refs=1 pinned=0"));
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

TEST_F(watched, hole_is_traced)
{
	char want[64] = "remove 3-5";

	gmem_punch_pages(self->fd, 3, 2);

	if (gmem_has_blocks())
		snprintf(want, sizeof(want), "remove 0-%lu", gmem_whole_blocks(5));
	EXPECT_STREQ(want, event(self, "guest_memfd_remove"));
}

TEST_F(watched, end_is_traced)
{
	char want[64];

	gmem_poke(self->mem + 5 * GMEM_PAGE_SIZE, 1);
	drop_file(self->mem, self->fd);
	self->fd = -1;

	snprintf(want, sizeof(want), "nr_pages=%lu", gmem_whole_blocks(1));
	EXPECT_STREQ(want, event(self, "guest_memfd_free"));
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
