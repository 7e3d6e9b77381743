// SPDX-License-Identifier: GPL-2.0-only
/*
 * A second hypervisor, that of parcel.h, moves whole runs of pages only,
 * refuses, and starts conversions itself.
 */
#include <kunit/test.h>

#include "gmem_test.h"
#include "parcel.h"

static struct parcel_hypervisor *add_hypervisor(struct kunit *test,
						struct inode *inode)
{
	struct parcel_hypervisor *hyp = kunit_kzalloc(test, sizeof(*hyp),
						      GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, hyp);
	parcel_hypervisor_init(hyp, inode);
	add_view(test, &hyp->view, inode);
	return hyp;
}

static void expect_lent(struct kunit *test, struct parcel_hypervisor *hyp,
			const char *expected)
{
	char text[PARCEL_MAX * 2 * 24];

	parcel_show(hyp, text, sizeof(text));
	KUNIT_EXPECT_STREQ(test, text, expected);
}

static void uniform_run_is_lent_as_one_parcel(struct kunit *test)
{
	struct inode *inode = test_inode(test, 2 * CHUNK);
	struct parcel_hypervisor *hyp = add_hypervisor(test, inode);

	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, CHUNK));
	expect_lent(test, hyp, "0-262144");
}

static void pages_that_are_lent_already_are_left_out(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct parcel_hypervisor *hyp = add_hypervisor(test, inode);

	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 4, 5));
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 8));
	expect_lent(test, hyp, "4-5 0-4 5-8");
}

/* Pages 4, 6, 8 and 10 are lent: there is no parcel left. */
static struct parcel_hypervisor *use_up_parcels(struct kunit *test,
						struct inode *inode)
{
	struct parcel_hypervisor *hyp = add_hypervisor(test, inode);
	pgoff_t index;

	for (index = 4; index < 12; index += 2)
		KUNIT_ASSERT_EQ(test, 0, to_private(inode, index, index + 1));
	return hyp;
}

static void more_runs_than_parcels_are_refused(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct parcel_hypervisor *hyp = use_up_parcels(test, inode);

	KUNIT_EXPECT_EQ(test, -ENOSPC, to_private(inode, 0, 1));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, 0, 4));
	expect_lent(test, hyp, "4-5 6-7 8-9 10-11");
}

static void parcel_is_not_reclaimed_before_the_guest_releases_it(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct parcel_hypervisor *hyp = add_hypervisor(test, inode);

	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 0, 8));
	KUNIT_EXPECT_EQ(test, -EBUSY, to_shared(inode, 0, 8));
	KUNIT_EXPECT_TRUE(test, all_private(inode, 0, 8));
	expect_lent(test, hyp, "0-8");
}

static void parcel_is_reclaimed_after_the_guest_released_it(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct parcel_hypervisor *hyp = add_hypervisor(test, inode);

	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 0, 8));
	KUNIT_ASSERT_EQ(test, 0, parcel_release(hyp, 3));
	KUNIT_EXPECT_EQ(test, 0, to_shared(inode, 0, 8));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, 0, UNIT));
	expect_lent(test, hyp, "");
}

static void parcels_are_reclaimed_all_or_none(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct parcel_hypervisor *hyp = add_hypervisor(test, inode);

	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 0, 4));
	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 4, 8));
	KUNIT_ASSERT_EQ(test, 0, parcel_release(hyp, 0));
	KUNIT_EXPECT_EQ(test, -EBUSY, to_shared(inode, 0, 8));
	KUNIT_EXPECT_TRUE(test, all_private(inode, 0, 8));
	expect_lent(test, hyp, "0-4 4-8");
}

static void part_of_a_parcel_is_refused_before_views_begin(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct parcel_hypervisor *hyp;

	add_recorder(test, inode, "a", &recorder_follower_ops);
	hyp = add_hypervisor(test, inode);
	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 0, 8));
	KUNIT_ASSERT_EQ(test, 0, parcel_release(hyp, 0));
	forget_recorded(test);

	KUNIT_EXPECT_EQ(test, -EINVAL, to_shared(inode, 0, 4));
	expect_recorded(test, "shared 0-4: prepare a, abort a");
	KUNIT_EXPECT_TRUE(test, all_private(inode, 0, 8));
}

static void release_by_the_guest_shares_the_whole_parcel(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct parcel_hypervisor *hyp = add_hypervisor(test, inode);

	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 0, 8));
	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 8, 16));
	KUNIT_EXPECT_EQ(test, 0, parcel_release_and_tell(hyp, 3));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, 0, 8));
	KUNIT_EXPECT_TRUE(test, all_private(inode, 8, 16));
	expect_lent(test, hyp, "8-16");
}

static void release_by_the_guest_gives_user_space_its_content(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);
	struct inode *inode = file_inode(file);
	struct parcel_hypervisor *hyp = add_hypervisor(test, inode);

	KUNIT_ASSERT_EQ(test, 0, write_page(addr, 3, 42));
	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 0, 8));
	KUNIT_EXPECT_EQ(test, -EFAULT, read_page(addr, 3));
	KUNIT_ASSERT_EQ(test, 0, parcel_release_and_tell(hyp, 3));
	KUNIT_EXPECT_EQ(test, 42, read_page(addr, 3));
}

static void held_page_is_not_lent(struct kunit *test)
{
	struct folio *folio;
	struct inode *inode = inode_with_holder(test, &folio);
	struct parcel_hypervisor *hyp = add_hypervisor(test, inode);

	KUNIT_EXPECT_EQ(test, -EAGAIN, to_private(inode, 0, 4));
	expect_lent(test, hyp, "");
}

static void lent_memory_stays_in_the_file(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);

	add_hypervisor(test, file_inode(file));
	KUNIT_ASSERT_EQ(test, 0, allocate(file, 0, 8));
	KUNIT_ASSERT_EQ(test, 0, to_private(file_inode(file), 0, 8));
	KUNIT_EXPECT_EQ(test, -EBUSY, punch(file, 3, 4));
	KUNIT_EXPECT_EQ(test, 8, file->f_mapping->nrpages);
}

static struct kunit_case parcel_test_cases[] = {
	KUNIT_CASE(uniform_run_is_lent_as_one_parcel),
	KUNIT_CASE(pages_that_are_lent_already_are_left_out),
	KUNIT_CASE(more_runs_than_parcels_are_refused),
	KUNIT_CASE(parcel_is_not_reclaimed_before_the_guest_releases_it),
	KUNIT_CASE(parcel_is_reclaimed_after_the_guest_released_it),
	KUNIT_CASE(parcels_are_reclaimed_all_or_none),
	KUNIT_CASE(part_of_a_parcel_is_refused_before_views_begin),
	KUNIT_CASE(release_by_the_guest_shares_the_whole_parcel),
	KUNIT_CASE(release_by_the_guest_gives_user_space_its_content),
	KUNIT_CASE(held_page_is_not_lent),
	KUNIT_CASE(lent_memory_stays_in_the_file),
	{}
};

static struct kunit_suite parcel_test_suite = {
	.name		= "guest_memfd_parcel",
	.init		= record_all,
	.test_cases	= parcel_test_cases,
};

kunit_test_suites(&parcel_test_suite);

MODULE_DESCRIPTION("Tests of guest_memfd with a hypervisor of whole runs");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_LICENSE("GPL");
