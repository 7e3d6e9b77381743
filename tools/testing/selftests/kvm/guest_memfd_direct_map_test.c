// SPDX-License-Identifier: GPL-2.0-only
/*
 * A guest_memfd whose pages are not in the kernel's direct map: each page of it
 * is out for as long as it is in the file, and no other page is.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest_memfd_direct_map.h"
#include "guest_memfd_harness.h"
#include "guest_memfd_hidden.h"
#include "guest_memfd_stall.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define NR_PAGES	(SZ_4M / GMEM_PAGE_SIZE)

/* To look at all memory takes a second. */
static u64 missing_at_start;
static unsigned long broken_at_start;

/* As long as there is no file. */
static u64 missing_now(void)
{
	return missing_at_start + (gmem_broken_kbytes() - broken_at_start) / 4;
}

/*
 * A file that is all shared and empty.
 */
FIXTURE(hidden) {
	struct kvm_vm *vm;
	int fd;
	u8 *mem;
	u64 missing;
	u64 pfn;
};

FIXTURE_SETUP(hidden)
{
	self->fd = -1;
	if (access(DIRECT_MAP_PROBE, R_OK))
		SKIP(return, "no CONFIG_DIRECT_MAP_PROBE");
	if (!direct_map_has_free_pages())
		SKIP(return, "cannot tell hidden pages from free ones");
	self->vm = create_vm();
	if (!can_hide(self->vm))
		SKIP(return, "this machine cannot change its direct map");

	self->missing = missing_now();
	self->fd = gmem_create_file(self->vm, NR_PAGES * GMEM_PAGE_SIZE, HIDDEN);
	self->mem = gmem_map_pages(self->fd, NR_PAGES);
}

static void drop_file(u8 *mem, int fd)
{
	kvm_munmap(mem, NR_PAGES * GMEM_PAGE_SIZE);
	kvm_close(fd);
}

/* All memory is what it was before. */
FIXTURE_TEARDOWN(hidden)
{
	if (self->fd >= 0) {
		drop_file(self->mem, self->fd);
		EXPECT_EQ(self->missing, direct_map_missing_becomes(self->missing));
	}
	kvm_vm_free(self->vm);
}

#define page(n)		(self->mem + (n) * GMEM_PAGE_SIZE)

#define EXPECT_AS_MANY_ARE_OUT_AS_THE_FILE_HAS()				\
	EXPECT_EQ(self->missing + gmem_fdinfo(self->fd, "allocated"),		\
		  direct_map_count_missing())

static void share_all_pages(int fd)
{
#ifdef __x86_64__
	if (gmem_can_convert())
		gmem_pages_to_shared(fd, 0, NR_PAGES);
#endif
}

/* One by one.  They are touched to see their frames, so not those that are not there. */
static u64 count_pages_out(int fd, u8 *mem)
{
	static u8 there[NR_PAGES];
	u64 i, nr_out = 0;

	share_all_pages(fd);
	TEST_ASSERT(!mincore(mem, NR_PAGES * GMEM_PAGE_SIZE, there), "mincore() failed");
	for (i = 0; i < NR_PAGES; i++)
		nr_out += (there[i] & 1) &&
			  !direct_map_has(gmem_pfn(mem + i * GMEM_PAGE_SIZE));
	return nr_out;
}

/*
 * Each page of the file is out, and as many of the system: so no other one is.  Of a
 * GiB, only the first pages are mapped.
 */
#define EXPECT_EXACTLY_THE_FILE_IS_OUT()					\
do {										\
	EXPECT_AS_MANY_ARE_OUT_AS_THE_FILE_HAS();				\
	EXPECT_EQ(min_t(u64, NR_PAGES, gmem_fdinfo(self->fd, "allocated")),	\
		  count_pages_out(self->fd, self->mem));			\
} while (0)

static void populate(int fd, u64 first, u64 nr_pages)
{
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, first * GMEM_PAGE_SIZE,
		      nr_pages * GMEM_PAGE_SIZE);
}

/*
 * Into the file
 */

TEST_F(hidden, empty_file_has_nothing_out)
{
	EXPECT_EQ(self->missing, direct_map_count_missing());
}

TEST_F(hidden, page_that_is_touched_is_out)
{
	EXPECT_FALSE(direct_map_has(gmem_pfn(page(3))));
	EXPECT_EXACTLY_THE_FILE_IS_OUT();
}

TEST_F(hidden, pages_that_are_allocated_are_out)
{
	populate(self->fd, 0, NR_PAGES);
	EXPECT_LE(NR_PAGES, gmem_fdinfo(self->fd, "allocated"));
	EXPECT_EXACTLY_THE_FILE_IS_OUT();
}

/* The run of pages to allocate is cut in pieces by those that are there. */
TEST_F(hidden, pages_that_are_allocated_around_others_are_out)
{
	gmem_poke(page(5), 0x55);
	gmem_poke(page(6), 0x66);
	gmem_poke(page(NR_PAGES - 1), 0x77);
	populate(self->fd, 0, NR_PAGES);

	EXPECT_EQ(gmem_whole_blocks(NR_PAGES), gmem_fdinfo(self->fd, "allocated"));
	EXPECT_EXACTLY_THE_FILE_IS_OUT();
	EXPECT_EQ(0x55, gmem_peek(page(5)));
	EXPECT_EQ(0x66, gmem_peek(page(6)));
	EXPECT_EQ(0x77, gmem_peek(page(NR_PAGES - 1)));
}

static long job_populate(void *arg)
{
	int *fd = arg;

	return fallocate(*fd, FALLOC_FL_KEEP_SIZE, 0, NR_PAGES * GMEM_PAGE_SIZE);
}

/* Somebody else is faster with one page, when the others have been prepared. */
#define EXPECT_ALLOCATION_MAKES_DO_WITH(which)					\
do {										\
	struct job job;								\
										\
	if (gmem_has_blocks())							\
		SKIP(return, "blocks come one at a time");			\
	if (!stall_is_supported())						\
		SKIP(return, "no CONFIG_GUEST_MEMFD_STALL");			\
										\
	stall_arm("allocated");							\
	job_start(&job, job_populate, &self->fd);				\
	EXPECT_TRUE(stall_is_reached("allocated"));				\
	gmem_poke(page(which), 0x55);						\
	stall_release("allocated");						\
	EXPECT_EQ(0, job_wait(&job));						\
	EXPECT_EQ(NR_PAGES, gmem_fdinfo(self->fd, "allocated"));		\
	EXPECT_EQ(0x55, gmem_peek(page(which)));				\
	EXPECT_EXACTLY_THE_FILE_IS_OUT();					\
} while (0)

TEST_F(hidden, allocation_makes_do_with_a_first_page_that_comes_meanwhile)
{
	EXPECT_ALLOCATION_MAKES_DO_WITH(0);
}

TEST_F(hidden, allocation_makes_do_with_a_page_that_comes_meanwhile)
{
	EXPECT_ALLOCATION_MAKES_DO_WITH(40);
}

static void dirty_free_memory(size_t size)
{
	u8 *mem = kvm_mmap(size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1);

	memset(mem, 0xaa, size);
	kvm_munmap(mem, size);
}

static bool is_zeroed(const u8 *mem, size_t size)
{
	return !mem[0] && !memcmp(mem, mem + 1, size - 1);
}

TEST_F(hidden, pages_come_zeroed)
{
	dirty_free_memory(SZ_64M);
	memset(self->mem, 0xaa, NR_PAGES * GMEM_PAGE_SIZE);
	gmem_punch_pages(self->fd, 0, NR_PAGES);
	populate(self->fd, 0, NR_PAGES / 2);
	EXPECT_TRUE(is_zeroed(self->mem, NR_PAGES * GMEM_PAGE_SIZE));
}

TEST_F(hidden, pages_come_with_one_flush_for_each_2m)
{
	u64 flushes = direct_map_flushes();
	u64 size = gmem_whole_blocks(NR_PAGES) * GMEM_PAGE_SIZE;

	populate(self->fd, 0, NR_PAGES);
	EXPECT_EQ(flushes + size / max_t(u64, gmem_block_size(), SZ_2M),
		  direct_map_flushes());
}

TEST_F(hidden, pages_come_with_one_flush_for_each_64k_that_is_touched)
{
	u64 flushes = direct_map_flushes();
	u64 size = gmem_whole_blocks(NR_PAGES) * GMEM_PAGE_SIZE;

	memset(self->mem, 0xaa, NR_PAGES * GMEM_PAGE_SIZE);
	EXPECT_EQ(flushes + size / max_t(u64, gmem_block_size(), SZ_64K),
		  direct_map_flushes());
}

/* A balloon would get nowhere if its neighbours brought back what it took. */
TEST_F(hidden, page_that_was_given_up_beside_others_is_touched_by_itself)
{
	if (gmem_has_blocks())
		SKIP(return, "blocks come and go as a whole");

	gmem_poke(page(0), 1);
	gmem_punch_pages(self->fd, 4, 2);
	gmem_poke(page(5), 5);
	EXPECT_EQ(SZ_64K / GMEM_PAGE_SIZE - 1, gmem_fdinfo(self->fd, "allocated"));
	EXPECT_EXACTLY_THE_FILE_IS_OUT();
}

/* There is nothing left of it to say that it was given up. */
TEST_F(hidden, run_that_was_given_up_is_touched_as_a_whole)
{
	if (gmem_has_blocks())
		SKIP(return, "blocks come and go as a whole");

	gmem_poke(page(0), 1);
	gmem_punch_pages(self->fd, 0, SZ_64K / GMEM_PAGE_SIZE);
	gmem_poke(page(5), 5);
	EXPECT_EQ(SZ_64K / GMEM_PAGE_SIZE, gmem_fdinfo(self->fd, "allocated"));
	EXPECT_EXACTLY_THE_FILE_IS_OUT();
}

/*
 * In the file
 */

TEST_F(hidden, user_space_reads_and_writes)
{
	gmem_stamp(page(7), 7);
	gmem_forget_mapping(self->mem, NR_PAGES);
	EXPECT_TRUE(gmem_has_stamp(page(7), 7));
	EXPECT_FALSE(direct_map_has(gmem_pfn(page(7))));
}

#ifdef __x86_64__
TEST_F(hidden, page_stays_out_when_it_is_converted)
{
	if (!gmem_can_convert())
		SKIP(return, "no VM type with private memory");

	gmem_stamp(page(3), 3);
	self->pfn = gmem_pfn(page(3));

	gmem_pages_to_private(self->fd, 0, 8);
	EXPECT_FALSE(direct_map_has(self->pfn));
	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(page(3)));
	gmem_pages_to_shared(self->fd, 0, 8);
	EXPECT_EQ(self->pfn, gmem_pfn(page(3)));
	EXPECT_FALSE(direct_map_has(self->pfn));
	EXPECT_TRUE(gmem_has_stamp(page(3), 3));
	EXPECT_EXACTLY_THE_FILE_IS_OUT();
}

TEST_F(hidden, private_pages_that_are_allocated_are_out)
{
	if (!gmem_can_convert())
		SKIP(return, "no VM type with private memory");

	gmem_pages_to_private(self->fd, 0, NR_PAGES);
	populate(self->fd, 0, NR_PAGES);
	EXPECT_EXACTLY_THE_FILE_IS_OUT();
}
#endif

/*
 * Out of the file
 */

TEST_F(hidden, pages_that_are_punched_out_are_back)
{
	populate(self->fd, 0, NR_PAGES);
	self->pfn = gmem_pfn(page(3));
	gmem_punch_pages(self->fd, 0, NR_PAGES);
	EXPECT_EQ(self->missing, direct_map_missing_becomes(self->missing));
	EXPECT_TRUE(direct_map_has(self->pfn));
}

TEST_F(hidden, pages_beside_a_hole_stay_out)
{
	if (gmem_whole_blocks(1) >= NR_PAGES)
		SKIP(return, "the file has one block");

	populate(self->fd, 0, NR_PAGES);
	gmem_poke(page(NR_PAGES - 1), 0x77);
	gmem_punch_pages(self->fd, 0, 1);
	EXPECT_EQ(gmem_whole_blocks(NR_PAGES) - gmem_whole_blocks(1),
		  gmem_fdinfo(self->fd, "allocated"));
	EXPECT_EXACTLY_THE_FILE_IS_OUT();
	EXPECT_EQ(0x77, gmem_peek(page(NR_PAGES - 1)));
}

TEST_F(hidden, pages_are_out_as_long_as_they_are_mapped)
{
	gmem_poke(page(3), 3);
	self->pfn = gmem_pfn(page(3));
	kvm_close(self->fd);
	EXPECT_FALSE(direct_map_has(self->pfn));
	EXPECT_EQ(3, gmem_peek(page(3)));
	kvm_munmap(self->mem, NR_PAGES * GMEM_PAGE_SIZE);
	EXPECT_EQ(self->missing, direct_map_missing_becomes(self->missing));
	EXPECT_TRUE(direct_map_has(self->pfn));
	self->fd = -1;
}

/*
 * The entries of the direct map
 */

static u64 large_entries(u64 block_size)
{
#ifdef __x86_64__
	return proc_read_number("/proc/meminfo", block_size == SZ_1G ?
				"DirectMap1G" : "DirectMap2M");
#else
	return 0;
#endif
}

/* A block that has just gone back to the pool is the next to be taken. */
static int level_of_next_block(struct kvm_vm *vm)
{
	int fd = gmem_create_file(vm, NR_PAGES * GMEM_PAGE_SIZE,
				  HIDDEN & ~GUEST_MEMFD_FLAG_NO_DIRECT_MAP);
	u8 *mem = gmem_map_pages(fd, NR_PAGES);
	int level = min(direct_map_level(gmem_pfn(mem)),
			direct_map_level(gmem_pfn(mem + SZ_2M)));

	drop_file(mem, fd);
	return level;
}

TEST_F(hidden, block_is_one_entry_out_and_back)
{
	int level = gmem_block_size() == SZ_1G ? DIRECT_MAP_PUD : DIRECT_MAP_PMD;
	u64 entries;

	if (!gmem_has_blocks())
		SKIP(return, "needs GUEST_MEMFD_BLOCK");

	if (level_of_next_block(self->vm) < level)
		SKIP(return, "the direct map has no large entries here");

	/* 2 MiB of a larger entry split that, once. */
	populate(self->fd, 0, NR_PAGES);
	self->pfn = gmem_pfn(page(3));
	gmem_punch_pages(self->fd, 0, NR_PAGES);

	entries = large_entries(gmem_block_size());
	populate(self->fd, 0, NR_PAGES);
	EXPECT_EQ(level, direct_map_level(gmem_pfn(page(3))));
	EXPECT_FALSE(direct_map_has(gmem_pfn(page(3))));
	EXPECT_EQ(entries, large_entries(gmem_block_size()));

	gmem_punch_pages(self->fd, 0, NR_PAGES);
	EXPECT_EQ(self->missing, direct_map_missing_becomes(self->missing));
	EXPECT_EQ(level, direct_map_level(self->pfn));
	EXPECT_EQ(entries, large_entries(gmem_block_size()));
}

#define FAIL_FUNCTION	"/sys/kernel/debug/fail_function/"

/* For lack of memory to split an entry, which there is only once. */
static void let_next_zap_fail(void)
{
	write_file(FAIL_FUNCTION "inject", "direct_map_zap");
	/* -ENOMEM, of 64 bits. */
	write_file(FAIL_FUNCTION "direct_map_zap/retval", "0xfffffffffffffff4");
	write_file(FAIL_FUNCTION "verbose", "0");
	write_file(FAIL_FUNCTION "times", "1");
	write_file(FAIL_FUNCTION "probability", "100");
}

static void let_no_zap_fail(void)
{
	write_file(FAIL_FUNCTION "probability", "0");
	write_file(FAIL_FUNCTION "inject", "!direct_map_zap");
}

TEST_F(hidden, block_that_cannot_leave_the_direct_map_is_not_there)
{
	int err;

	if (!gmem_has_blocks())
		SKIP(return, "needs GUEST_MEMFD_BLOCK");
	if (access(FAIL_FUNCTION "inject", W_OK))
		SKIP(return, "no CONFIG_FAIL_FUNCTION");

	let_next_zap_fail();
	err = fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, GMEM_PAGE_SIZE) ? errno : 0;
	let_no_zap_fail();
	EXPECT_EQ(ENOMEM, err);
	EXPECT_EQ(0, gmem_fdinfo(self->fd, "allocated"));
	EXPECT_EXACTLY_THE_FILE_IS_OUT();

	populate(self->fd, 0, 1);
	EXPECT_EQ(gmem_whole_blocks(1), gmem_fdinfo(self->fd, "allocated"));
	EXPECT_EXACTLY_THE_FILE_IS_OUT();
}

/*
 * Broken pages
 */

static void mend_page(u64 pfn)
{
	gmem_write_number(GMEM_UNPOISON_PFN, pfn);
}

TEST_F(hidden, broken_page_stays_out_until_it_is_mended)
{
	if (access(GMEM_CORRUPT_PFN, W_OK))
		SKIP(return, "no CONFIG_HWPOISON_INJECT");

	populate(self->fd, 0, NR_PAGES);
	self->pfn = gmem_pfn(page(3));
	gmem_forget_mapping(self->mem, NR_PAGES);
	gmem_break_pfn(self->pfn);
	EXPECT_FALSE(direct_map_has(self->pfn));
	EXPECT_AS_MANY_ARE_OUT_AS_THE_FILE_HAS();

	gmem_punch_pages(self->fd, 0, NR_PAGES);
	EXPECT_EQ(self->missing + 1,
		  direct_map_missing_becomes(self->missing + 1));
	EXPECT_FALSE(direct_map_has(self->pfn));

	/* The block is lost either way, and its page says why. */
	if (gmem_has_blocks()) {
		self->missing++;
		return;
	}
	mend_page(self->pfn);
	EXPECT_TRUE(direct_map_has(self->pfn));
}

/*
 * All at once
 */

#define STORM_THREADS	3
#define STORM_ROUNDS	200
/* What breaks is known by its frame, so nobody else may give that back. */
#define STORM_BROKEN	8

struct storm {
	struct kvm_vm *vm;
	int fd;
	u8 *mem;
	/* Not those before it, which are for what breaks */
	u64 first;
};

static void storm_other_file(struct storm *storm, u64 nr_pages)
{
	int fd = __vm_create_guest_memfd(storm->vm,
					 gmem_whole_blocks(nr_pages) * GMEM_PAGE_SIZE,
					 HIDDEN | (gmem_has_blocks() ?
						   gmem_hugetlb_flag(gmem_block_size()) : 0));

	if (fd < 0)
		return;
	fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, nr_pages * GMEM_PAGE_SIZE);
	kvm_close(fd);
}

/* What fails has to leave the direct map alone as well. */
static void storm_round(struct storm *storm, unsigned int *seed)
{
	u64 first = storm->first + rand_r(seed) % (NR_PAGES - storm->first);
	u64 nr_pages = 1 + rand_r(seed) % min(NR_PAGES - first, 64ul);
	u64 offset = first * GMEM_PAGE_SIZE, size = nr_pages * GMEM_PAGE_SIZE;
	u64 __maybe_unused error_offset;

	switch (rand_r(seed) % 6) {
	case 0:
		fallocate(storm->fd, FALLOC_FL_KEEP_SIZE, offset, size);
		break;
	case 1:
		if (gmem_has_blocks())
			offset = storm->first * GMEM_PAGE_SIZE, size = gmem_block_size();
		fallocate(storm->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			  offset, size);
		break;
	case 2:
		/* Writes by the user's address: no signal where it can't. */
		syscall(__NR_getrandom, storm->mem + offset, 1, 0);
		break;
	case 3:
		madvise(storm->mem + offset, size, MADV_DONTNEED);
		break;
	case 4:
		storm_other_file(storm, nr_pages);
		break;
#ifdef __x86_64__
	default:
		__gmem_set_memory_attributes(storm->fd, offset, size,
					     rand_r(seed) & 1 ?
					     KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
					     &error_offset);
#endif
	}
}

static void *storm_thread(void *arg)
{
	unsigned int seed = kvm_gettid(), i;

	for (i = 0; i < STORM_ROUNDS; i++)
		storm_round(arg, &seed);
	return NULL;
}

/* The frames that broke; they are no longer in the file. */
static unsigned int storm_break(struct storm *storm, u64 *pfns)
{
	unsigned int i, n = 0;

	for (i = 0; i < STORM_BROKEN && storm->first; i++) {
		u8 *broken = storm->mem + i % storm->first * GMEM_PAGE_SIZE;

		pfns[n] = gmem_pfn(broken);
		gmem_break_pfn(pfns[n++]);
		gmem_punch_pages(storm->fd, 0, storm->first);
		usleep(20000);
	}
	return n;
}

TEST_F(hidden, exactly_the_file_is_out_after_a_storm)
{
	struct storm storm = { .vm = self->vm, .fd = self->fd, .mem = self->mem };
	pthread_t threads[STORM_THREADS];
	u64 pfns[STORM_BROKEN], out;
	unsigned int i, nr_broken;

	if (gmem_block_size() == SZ_1G)
		SKIP(return, "to populate a block of a GiB takes seconds");
	if (!access(GMEM_CORRUPT_PFN, W_OK))
		storm.first = gmem_whole_blocks(STORM_BROKEN);

	for (i = 0; i < STORM_THREADS; i++)
		kvm_pthread_create(&threads[i], NULL, storm_thread, &storm);
	nr_broken = storm_break(&storm, pfns);
	for (i = 0; i < STORM_THREADS; i++)
		kvm_pthread_join(threads[i], NULL);

	/* Blocks that wait for a thread are on their way back. */
	self->missing = missing_now();
	out = gmem_fdinfo(self->fd, "allocated");
	EXPECT_EQ(self->missing + out, direct_map_missing_becomes(self->missing + out));

	for (i = 0; i < nr_broken; i++)
		EXPECT_FALSE(direct_map_has(pfns[i]));

	/* A block is lost either way, and its page says why. */
	for (i = 0; i < nr_broken && !gmem_has_blocks(); i++)
		mend_page(pfns[i]);
	self->missing = missing_now();
	EXPECT_EXACTLY_THE_FILE_IS_OUT();
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	broken_at_start = gmem_broken_kbytes();
	if (!access(DIRECT_MAP_PROBE, R_OK))
		missing_at_start = direct_map_count_missing();
	return test_harness_run(argc, argv);
}
