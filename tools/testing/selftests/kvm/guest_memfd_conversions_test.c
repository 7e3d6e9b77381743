// SPDX-License-Identifier: GPL-2.0-only
/*
 * Conversions of a guest_memfd between shared and private: one page, ranges,
 * mixed layouts, holes.
 *
 * There is no vCPU and no memslot here: the file alone decides.  The other
 * topics have their own files:
 *
 *	guest_memfd_uapi_test.c		capabilities and arguments
 *	guest_memfd_mappings_test.c	whose mappings, and mapped by what
 *	guest_memfd_chunks_test.c	conversions that stop part-way
 *	x86/guest_memfd_guest_test.c	what guests see
 */
#include <fcntl.h>
#include <stdlib.h>

#include <linux/falloc.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

/* Four units of the state and a bit: the end of the file is no unit's end. */
#define PAGES_PER_2M	(SZ_2M / GMEM_PAGE_SIZE)
#define PAGES_PER_1G	(SZ_1G / GMEM_PAGE_SIZE)
#define FILE_PAGES	(4 * PAGES_PER_2M + 3)

/*
 * A file that is all shared, with nothing allocated.
 */
FIXTURE(conversion) {
	struct kvm_vm *vm;
	int fd;
	u8 *mem;
	u64 nr_pages;
};

FIXTURE_VARIANT(conversion) {
	u64 flags;
};

FIXTURE_VARIANT_ADD(conversion, shared_at_first) {
	.flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED,
};

/* Where shared is the state that has to be remembered. */
FIXTURE_VARIANT_ADD(conversion, private_at_first) {
	.flags = GUEST_MEMFD_FLAG_MMAP,
};

FIXTURE_SETUP(conversion)
{
	if (!gmem_can_convert())
		SKIP(return, "no VM type with private memory");

	self->vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	self->nr_pages = gmem_whole_blocks(FILE_PAGES);
	self->fd = gmem_create_file(self->vm, FILE_PAGES * GMEM_PAGE_SIZE,
				    variant->flags);
	self->mem = gmem_map_pages(self->fd, FILE_PAGES);
	if (!(variant->flags & GUEST_MEMFD_FLAG_INIT_SHARED))
		gmem_pages_to_shared(self->fd, 0, self->nr_pages);
}

FIXTURE_TEARDOWN(conversion)
{
	kvm_munmap(self->mem, FILE_PAGES * GMEM_PAGE_SIZE);
	close(self->fd);
	kvm_vm_free(self->vm);
}

#define page(n)			(self->mem + (n) * GMEM_PAGE_SIZE)
#define nr_allocated()		gmem_fdinfo(self->fd, "allocated")
#define nr_private()		gmem_fdinfo(self->fd, "private")
#define nr_shared()		gmem_fdinfo(self->fd, "shared")

#define EXPECT_SHARED(n)	EXPECT_NE(GMEM_SIGBUS, gmem_peek(page(n)))
#define EXPECT_PRIVATE(n)	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(page(n)))

/*
 * One page
 */

TEST_F(conversion, read_of_a_private_page_is_sigbus)
{
	gmem_poke(page(5), 0x55);
	gmem_pages_to_private(self->fd, 5, 1);

	EXPECT_PRIVATE(5);
}

TEST_F(conversion, write_to_a_private_page_is_sigbus)
{
	gmem_poke(page(5), 0x55);
	gmem_pages_to_private(self->fd, 5, 1);

	EXPECT_EQ(GMEM_SIGBUS, gmem_poke(page(5), 0x66));
}

TEST_F(conversion, neighbours_of_a_private_page_stay_shared)
{
	gmem_poke(page(4), 0x44);
	gmem_poke(page(6), 0x66);
	gmem_pages_to_private(self->fd, 5, 1);

	EXPECT_EQ(0x44, gmem_peek(page(4)));
	EXPECT_EQ(0x66, gmem_peek(page(6)));
}

TEST_F(conversion, page_that_is_shared_again_can_be_read_and_written)
{
	gmem_poke(page(5), 0x55);
	gmem_pages_to_private(self->fd, 5, 1);
	gmem_pages_to_shared(self->fd, 5, 1);

	EXPECT_EQ(0x55, gmem_peek(page(5)));
	EXPECT_EQ(0, gmem_poke(page(5), 0x66));
	EXPECT_EQ(0x66, gmem_peek(page(5)));
}

TEST_F(conversion, content_survives_the_way_there_and_back)
{
	gmem_stamp(page(5), 1);
	gmem_pages_to_private(self->fd, 5, 1);
	gmem_pages_to_shared(self->fd, 5, 1);

	EXPECT_TRUE(gmem_has_stamp(page(5), 1));
}

TEST_F(conversion, conversion_allocates_and_frees_nothing)
{
	gmem_poke(page(5), 0x55);

	gmem_pages_to_private(self->fd, 0, 10);
	EXPECT_EQ(gmem_touched_pages(variant->flags), nr_allocated());
	gmem_pages_to_shared(self->fd, 0, 10);
	EXPECT_EQ(gmem_touched_pages(variant->flags), nr_allocated());
}

TEST_F(conversion, second_conversion_to_the_same_state_changes_nothing)
{
	gmem_stamp(page(5), 1);
	gmem_pages_to_shared(self->fd, 5, 1);
	EXPECT_TRUE(gmem_has_stamp(page(5), 1));

	gmem_pages_to_private(self->fd, 5, 1);
	gmem_pages_to_private(self->fd, 5, 1);
	EXPECT_PRIVATE(5);
	EXPECT_EQ(1, nr_private());

	gmem_pages_to_shared(self->fd, 5, 1);
	gmem_pages_to_shared(self->fd, 5, 1);
	EXPECT_TRUE(gmem_has_stamp(page(5), 1));
	EXPECT_EQ(0, nr_private());
}

/*
 * Ranges
 */

TEST_F(conversion, range_across_2m_units)
{
	const u64 first = PAGES_PER_2M - 3, end = 3 * PAGES_PER_2M + 5;

	gmem_poke(page(first), 1);
	gmem_poke(page(2 * PAGES_PER_2M), 2);
	gmem_poke(page(end - 1), 3);
	gmem_pages_to_private(self->fd, first, end - first);

	EXPECT_SHARED(first - 1);
	EXPECT_PRIVATE(first);
	EXPECT_PRIVATE(PAGES_PER_2M);
	EXPECT_PRIVATE(2 * PAGES_PER_2M);
	EXPECT_PRIVATE(end - 1);
	EXPECT_SHARED(end);
	EXPECT_EQ(end - first, nr_private());

	gmem_pages_to_shared(self->fd, first, end - first);
	EXPECT_EQ(1, gmem_peek(page(first)));
	EXPECT_EQ(2, gmem_peek(page(2 * PAGES_PER_2M)));
	EXPECT_EQ(3, gmem_peek(page(end - 1)));
	EXPECT_EQ(0, nr_private());
}

TEST_F(conversion, range_at_an_end_of_file_inside_a_2m_unit)
{
	if (gmem_has_blocks())
		SKIP(return, "a file of blocks ends where a unit ends");

	gmem_poke(page(FILE_PAGES - 1), 1);
	gmem_pages_to_private(self->fd, FILE_PAGES - 1, 1);
	EXPECT_SHARED(FILE_PAGES - 2);
	EXPECT_PRIVATE(FILE_PAGES - 1);
	EXPECT_EQ(1, nr_private());

	gmem_pages_to_private(self->fd, 0, FILE_PAGES);
	EXPECT_EQ(FILE_PAGES, nr_private());
	gmem_pages_to_shared(self->fd, 0, FILE_PAGES);
	EXPECT_EQ(FILE_PAGES, nr_shared());
	EXPECT_EQ(1, gmem_peek(page(FILE_PAGES - 1)));
}

/* Blocks of 1 GiB are zeroed, three of them. */
TEST_F_TIMEOUT(conversion, range_across_1g_chunks_of_a_sparse_file, 120)
{
	const u64 first = PAGES_PER_1G - 2, end = 2 * PAGES_PER_1G + 2;
	const u64 block_pages = gmem_touched_pages(variant->flags);
	const u64 nr_pages = 3 * PAGES_PER_1G;
	const u64 probes[] = {
		first - 1, first, PAGES_PER_1G, PAGES_PER_1G + 1031, end - 1, end
	};
	u64 nr_blocks = 0;
	bool inside;
	int i;

	/* There may be no blocks for both. */
	kvm_munmap(self->mem, FILE_PAGES * GMEM_PAGE_SIZE);
	close(self->fd);
	self->fd = gmem_create_file(self->vm, nr_pages * GMEM_PAGE_SIZE, variant->flags);
	self->mem = gmem_map_pages(self->fd, nr_pages);
	gmem_pages_to_shared(self->fd, 0, nr_pages);
	for (i = 0; i < ARRAY_SIZE(probes); i++) {
		gmem_poke(page(probes[i]), i + 1);
		nr_blocks += !i || probes[i] / block_pages != probes[i - 1] / block_pages;
	}

	gmem_pages_to_private(self->fd, first, end - first);
	EXPECT_EQ(end - first, nr_private());
	for (i = 0; i < ARRAY_SIZE(probes); i++) {
		inside = probes[i] >= first && probes[i] < end;
		EXPECT_EQ(inside ? GMEM_SIGBUS : i + 1, gmem_peek(page(probes[i])));
	}

	gmem_pages_to_shared(self->fd, first, end - first);
	EXPECT_EQ(nr_pages, nr_shared());
	for (i = 0; i < ARRAY_SIZE(probes); i++)
		EXPECT_EQ(i + 1, gmem_peek(page(probes[i])));
	EXPECT_EQ(nr_blocks * block_pages, nr_allocated());

	kvm_munmap(page(FILE_PAGES), (nr_pages - FILE_PAGES) * GMEM_PAGE_SIZE);
}

TEST_F(conversion, pages_that_do_not_exist_yet)
{
	gmem_pages_to_private(self->fd, 3, PAGES_PER_2M);
	EXPECT_EQ(0, nr_allocated());
	EXPECT_PRIVATE(3);
	EXPECT_PRIVATE(PAGES_PER_2M + 2);
	EXPECT_EQ(0, nr_allocated());

	gmem_pages_to_shared(self->fd, 3, PAGES_PER_2M);
	EXPECT_EQ(0, nr_allocated());
	EXPECT_EQ(0, gmem_peek(page(3)));
	EXPECT_EQ(gmem_touched_pages(variant->flags), nr_allocated());
}

/* Not by a touch, as above, but by fallocate(), which fills private pages too. */
TEST_F(conversion, pages_that_are_allocated_while_private_are_zero_when_shared)
{
	gmem_pages_to_private(self->fd, 3, 2);
	kvm_fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 3 * GMEM_PAGE_SIZE,
		      2 * GMEM_PAGE_SIZE);
	EXPECT_EQ(gmem_whole_blocks(2), nr_allocated());
	EXPECT_PRIVATE(3);

	gmem_pages_to_shared(self->fd, 3, 2);
	EXPECT_EQ(0, gmem_peek(page(3)));
	EXPECT_EQ(0, gmem_peek(page(4) + GMEM_PAGE_SIZE - 1));
}

/*
 * Mixed layouts
 */

TEST_F(conversion, checkerboard_is_seen_page_by_page)
{
	u64 i, wrong = 0;

	for (i = 0; i < 2 * PAGES_PER_2M; i += 2)
		gmem_pages_to_private(self->fd, i, 1);

	EXPECT_EQ(PAGES_PER_2M, nr_private());
	EXPECT_EQ(self->nr_pages - PAGES_PER_2M, nr_shared());
	for (i = 0; i < 2 * PAGES_PER_2M; i++)
		wrong += (gmem_peek(page(i)) == GMEM_SIGBUS) != !(i & 1);
	EXPECT_EQ(0, wrong);
}

TEST_F(conversion, checkerboard_becomes_uniform_by_one_conversion)
{
	u64 i;

	for (i = 0; i < PAGES_PER_2M; i += 2)
		gmem_pages_to_private(self->fd, i, 1);
	gmem_pages_to_private(self->fd, 0, self->nr_pages);
	EXPECT_EQ(self->nr_pages, nr_private());
	EXPECT_PRIVATE(0);
	EXPECT_PRIVATE(1);

	for (i = 0; i < PAGES_PER_2M; i += 2)
		gmem_pages_to_shared(self->fd, i, 1);
	gmem_pages_to_shared(self->fd, 0, self->nr_pages);
	EXPECT_EQ(self->nr_pages, nr_shared());
	EXPECT_SHARED(0);
	EXPECT_SHARED(1);
}

TEST_F(conversion, checkerboard_becomes_uniform_page_by_page)
{
	u64 i;

	for (i = 0; i < PAGES_PER_2M; i += 2)
		gmem_pages_to_private(self->fd, i, 1);
	for (i = 1; i < PAGES_PER_2M; i += 2)
		gmem_pages_to_private(self->fd, i, 1);
	EXPECT_EQ(PAGES_PER_2M, nr_private());
	EXPECT_PRIVATE(PAGES_PER_2M - 1);
	EXPECT_SHARED(PAGES_PER_2M);

	gmem_pages_to_shared(self->fd, 7, 1);
	EXPECT_EQ(PAGES_PER_2M - 1, nr_private());
	EXPECT_PRIVATE(6);
	EXPECT_SHARED(7);
	EXPECT_PRIVATE(8);
}

/*
 * Holes
 */

TEST_F(conversion, hole_in_private_memory_stays_private)
{
	gmem_poke(page(5), 0x55);
	gmem_pages_to_private(self->fd, 5, 1);
	gmem_punch_pages(self->fd, 5, 1);

	EXPECT_EQ(gmem_touched_pages(variant->flags) - gmem_whole_blocks(1), nr_allocated());
	EXPECT_PRIVATE(5);
	EXPECT_EQ(1, nr_private());
}

TEST_F(conversion, hole_in_shared_memory_stays_shared_and_is_unmapped)
{
	gmem_pages_to_private(self->fd, 5, 2);
	gmem_pages_to_shared(self->fd, 5, 1);
	gmem_poke(page(5), 0x55);
	gmem_punch_pages(self->fd, 5, 1);

	EXPECT_EQ(gmem_touched_pages(variant->flags) - gmem_whole_blocks(1), nr_allocated());
	EXPECT_EQ(0, gmem_peek(page(5)));
	EXPECT_PRIVATE(6);
}

TEST_F(conversion, hole_in_private_memory_loses_the_content)
{
	gmem_poke(page(5), 0x55);
	gmem_pages_to_private(self->fd, 5, 1);
	gmem_punch_pages(self->fd, 5, 1);
	gmem_pages_to_shared(self->fd, 5, 1);

	EXPECT_EQ(0, gmem_peek(page(5)));
}

TEST_F(conversion, hole_over_a_mixed_layout_keeps_every_state)
{
	u64 i, wrong = 0;

	for (i = 0; i < 32; i += 2)
		gmem_pages_to_private(self->fd, i, 1);
	for (i = 1; i < 32; i += 2)
		gmem_poke(page(i), 0x55);
	gmem_punch_pages(self->fd, 0, PAGES_PER_2M);

	EXPECT_EQ(0, nr_allocated());
	EXPECT_EQ(16, nr_private());
	for (i = 0; i < 32; i++)
		wrong += gmem_peek(page(i)) != (i & 1 ? 0 : GMEM_SIGBUS);
	EXPECT_EQ(0, wrong);
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
