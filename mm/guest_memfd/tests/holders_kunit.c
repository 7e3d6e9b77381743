// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages that somebody holds who should not: they stop a conversion to private,
 * and are named.
 */
#include <kunit/test.h>

#include "gmem_test.h"

static void held_page_is_named(struct kunit *test)
{
	struct folio *folio;
	struct inode *inode = inode_with_holder(test, &folio);
	pgoff_t error_index;

	KUNIT_EXPECT_EQ(test, -EAGAIN,
			guest_memfd_convert(inode, 0, 4, GUEST_MEMFD_TO_PRIVATE,
					    NULL, &error_index));
	KUNIT_EXPECT_EQ(test, 2, error_index);
}

static void held_page_keeps_the_whole_range_shared(struct kunit *test)
{
	struct folio *folio;
	struct inode *inode = inode_with_holder(test, &folio);

	KUNIT_EXPECT_EQ(test, -EAGAIN, to_private(inode, 0, 4));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, 0, UNIT));
}

static void held_page_is_found_before_the_transfer(struct kunit *test)
{
	struct folio *folio;
	struct inode *inode = inode_with_holder(test, &folio);

	add_owner(test, inode);
	KUNIT_EXPECT_EQ(test, -EAGAIN, to_private(inode, 0, 4));
	expect_recorded(test, "private 0-4: prepare a, begin a, end a, abort a");
}

static void held_page_converts_when_it_is_let_go(struct kunit *test)
{
	struct folio *folio;
	struct inode *inode = inode_with_holder(test, &folio);

	KUNIT_EXPECT_EQ(test, -EAGAIN, to_private(inode, 0, 4));
	let_go(test, folio);
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 4));
	KUNIT_EXPECT_TRUE(test, all_private(inode, 0, 4));
}

static void held_page_does_not_stop_its_neighbours(struct kunit *test)
{
	struct folio *folio;
	struct inode *inode = inode_with_holder(test, &folio);

	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 2));
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 3, 4));
}

static void page_that_is_private_already_may_be_held(struct kunit *test)
{
	struct folio *folio;
	struct inode *inode = inode_with_holder(test, &folio);

	let_go(test, folio);
	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 2, 3));
	hold_folio(test, inode, 2);
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 4));
}

static void held_page_converts_to_shared(struct kunit *test)
{
	struct folio *folio;
	struct inode *inode = inode_with_holder(test, &folio);

	let_go(test, folio);
	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 2, 3));
	hold_folio(test, inode, 2);
	KUNIT_EXPECT_EQ(test, 0, to_shared(inode, 0, 4));
}

static void page_that_user_space_never_saw_is_not_looked_at(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);

	hold_folio(test, inode, 2);
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 4));
}

static void held_page_stops_its_own_chunk_only(struct kunit *test)
{
	struct file *file = test_file(test, 3 * CHUNK, SHARED_FILE);
	u8 __user *addr = map_at(test, file, CHUNK, CHUNK + UNIT, 0);
	struct inode *inode = file_inode(file);
	pgoff_t error_index;

	KUNIT_ASSERT_EQ(test, 0, write_page(addr, 7, 1));
	hold_folio(test, inode, CHUNK + 7);

	KUNIT_EXPECT_EQ(test, -EAGAIN,
			guest_memfd_convert(inode, 0, 3 * CHUNK,
					    GUEST_MEMFD_TO_PRIVATE, NULL,
					    &error_index));
	KUNIT_EXPECT_EQ(test, CHUNK + 7, error_index);
	KUNIT_EXPECT_TRUE(test, all_private(inode, 0, CHUNK));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, CHUNK, 3 * CHUNK));
}

static struct kunit_case holders_test_cases[] = {
	KUNIT_CASE(held_page_is_named),
	KUNIT_CASE(held_page_keeps_the_whole_range_shared),
	KUNIT_CASE(held_page_is_found_before_the_transfer),
	KUNIT_CASE(held_page_converts_when_it_is_let_go),
	KUNIT_CASE(held_page_does_not_stop_its_neighbours),
	KUNIT_CASE(page_that_is_private_already_may_be_held),
	KUNIT_CASE(held_page_converts_to_shared),
	KUNIT_CASE(page_that_user_space_never_saw_is_not_looked_at),
	KUNIT_CASE(held_page_stops_its_own_chunk_only),
	{}
};

static struct kunit_suite holders_test_suite = {
	.name		= "guest_memfd_holders",
	.init		= record_all,
	.test_cases	= holders_test_cases,
};

kunit_test_suites(&holders_test_suite);

MODULE_DESCRIPTION("Tests of held pages in guest_memfd");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_LICENSE("GPL");
