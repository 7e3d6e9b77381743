// SPDX-License-Identifier: GPL-2.0-only
/*
 * What user space sees through its mappings, and the units that its faults
 * expose.
 */
#include <kunit/test.h>
#include <linux/mman.h>

#include "gmem_test.h"

/*
 * User mappings
 */

static void private_page_is_sigbus(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);

	KUNIT_ASSERT_EQ(test, 0, to_private(file_inode(file), 1, 2));
	KUNIT_EXPECT_TRUE(test, fault_page(addr, 1) & VM_FAULT_SIGBUS);
}

static void private_page_allocates_nothing_on_fault(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);

	KUNIT_ASSERT_EQ(test, 0, to_private(file_inode(file), 1, 2));
	KUNIT_EXPECT_EQ(test, -EFAULT, read_page(addr, 1));
	KUNIT_EXPECT_EQ(test, 0, file->f_mapping->nrpages);
}

static void private_page_can_not_be_written(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);

	KUNIT_ASSERT_EQ(test, 0, to_private(file_inode(file), 1, 2));
	KUNIT_EXPECT_EQ(test, -EFAULT, write_page(addr, 1, 1));
}

static void page_past_the_end_is_sigbus(struct kunit *test)
{
	struct file *file = test_file(test, 4, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);

	KUNIT_EXPECT_TRUE(test, fault_page(addr, 4) & VM_FAULT_SIGBUS);
}

static void shared_page_reads_zeroes_at_first(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);
	struct folio *folio = get_locked_folio(test, file_inode(file), 3);

	/* As it may come from the allocator. */
	memcpy_to_folio(folio, 0, "dirty", 5);
	folio_unlock(folio);
	folio_put(folio);

	KUNIT_EXPECT_EQ(test, 0, read_page(addr, 3));
}

static void content_survives_conversion_both_ways(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);

	KUNIT_ASSERT_EQ(test, 0, write_page(addr, 1, 42));
	KUNIT_ASSERT_EQ(test, 0, to_private(file_inode(file), 0, 4));
	KUNIT_EXPECT_EQ(test, -EFAULT, read_page(addr, 1));
	KUNIT_ASSERT_EQ(test, 0, to_shared(file_inode(file), 0, 4));
	KUNIT_EXPECT_EQ(test, 42, read_page(addr, 1));
}

static void content_survives_a_refused_conversion(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);
	struct recorder *a = add_owner(test, file_inode(file));

	KUNIT_ASSERT_EQ(test, 0, write_page(addr, 1, 42));
	a->transfer_err = -EIO;
	KUNIT_EXPECT_EQ(test, -EIO, to_private(file_inode(file), 0, 4));
	KUNIT_EXPECT_EQ(test, 42, read_page(addr, 1));
}

static void conversion_unmaps_its_pages(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);

	KUNIT_ASSERT_EQ(test, 0, write_page(addr, 1, 1));
	KUNIT_ASSERT_TRUE(test, is_mapped(file_inode(file), 1));
	/* Fails if a mapping is left, for that is a reference as well. */
	KUNIT_EXPECT_EQ(test, 0, to_private(file_inode(file), 0, 4));
	KUNIT_EXPECT_FALSE(test, is_mapped(file_inode(file), 1));
}

static void pages_of_a_locked_mapping_convert(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);

	map_at(test, file, 0, 4, MAP_LOCKED);
	KUNIT_ASSERT_TRUE(test, is_mapped(file_inode(file), 3));
	KUNIT_EXPECT_EQ(test, 0, to_private(file_inode(file), 0, 4));
}

static void conversion_leaves_its_neighbours_mapped(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);

	KUNIT_ASSERT_EQ(test, 0, write_page(addr, 0, 1));
	KUNIT_ASSERT_EQ(test, 0, write_page(addr, 1, 1));
	KUNIT_ASSERT_EQ(test, 0, write_page(addr, 2, 1));
	KUNIT_ASSERT_EQ(test, 0, to_private(file_inode(file), 1, 2));
	KUNIT_EXPECT_TRUE(test, is_mapped(file_inode(file), 0));
	KUNIT_EXPECT_TRUE(test, is_mapped(file_inode(file), 2));
}

static void read_fault_maps_what_is_there_around_it(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);

	populate(test, file_inode(file), 0, 8);
	KUNIT_ASSERT_EQ(test, 0, read_page(addr, 4));
	KUNIT_EXPECT_TRUE(test, is_mapped(file_inode(file), 3));
	KUNIT_EXPECT_TRUE(test, is_mapped(file_inode(file), 5));
}

static void read_fault_maps_no_private_page_around_it(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);
	pgoff_t index;

	populate(test, file_inode(file), 0, 16);
	KUNIT_ASSERT_EQ(test, 0, to_private(file_inode(file), 1, 4));
	KUNIT_ASSERT_EQ(test, 0, to_private(file_inode(file), 6, 8));
	KUNIT_ASSERT_EQ(test, 0, read_page(addr, 4));
	for (index = 1; index < 4; index++)
		KUNIT_EXPECT_FALSE_MSG(test, is_mapped(file_inode(file), index),
				       "page %lu", index);
	for (index = 6; index < 8; index++)
		KUNIT_EXPECT_FALSE_MSG(test, is_mapped(file_inode(file), index),
				       "page %lu", index);
}

static void file_without_mmap_can_not_be_mapped(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, GUEST_MEMFD_TRACK_STATE);

	KUNIT_ASSERT_EQ(test, 0, kunit_attach_mm());
	KUNIT_EXPECT_EQ(test, -ENODEV,
			(long)vm_mmap(file, 0, PAGE_SIZE, PROT_READ, MAP_SHARED,
				      0));
}

static void private_mapping_is_refused(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);

	KUNIT_ASSERT_EQ(test, 0, kunit_attach_mm());
	KUNIT_EXPECT_EQ(test, -EINVAL,
			(long)vm_mmap(file, 0, PAGE_SIZE, PROT_READ, MAP_PRIVATE,
				      0));
}

/*
 * Exposure
 */

static void fault_exposes_its_unit_only(struct kunit *test)
{
	struct file *file = test_file(test, 3 * UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, 3 * UNIT);

	KUNIT_ASSERT_EQ(test, 0, write_page(addr, UNIT + 3, 1));
	KUNIT_EXPECT_FALSE(test, is_exposed(file_inode(file), 0));
	KUNIT_EXPECT_TRUE(test, is_exposed(file_inode(file), UNIT));
	KUNIT_EXPECT_FALSE(test, is_exposed(file_inode(file), 2 * UNIT));
}

static void view_exposes_nothing(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);

	populate(test, inode, 0, 4);
	KUNIT_EXPECT_FALSE(test, is_exposed(inode, 0));
}

static void private_fault_exposes_nothing(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);

	KUNIT_ASSERT_EQ(test, 0, to_private(file_inode(file), 0, UNIT));
	KUNIT_ASSERT_EQ(test, -EFAULT, read_page(addr, 3));
	KUNIT_EXPECT_FALSE(test, is_exposed(file_inode(file), 0));
}

static void unit_stays_exposed_while_a_page_of_it_is_shared(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);

	KUNIT_ASSERT_EQ(test, 0, write_page(addr, 3, 1));
	KUNIT_ASSERT_EQ(test, 0, to_private(file_inode(file), 0, UNIT - 1));
	KUNIT_EXPECT_TRUE(test, is_exposed(file_inode(file), 0));
}

static void unit_is_not_exposed_when_it_is_wholly_private(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);

	KUNIT_ASSERT_EQ(test, 0, write_page(addr, 3, 1));
	KUNIT_ASSERT_EQ(test, 0, to_private(file_inode(file), 0, 100));
	KUNIT_ASSERT_EQ(test, 0, to_private(file_inode(file), 100, UNIT));
	KUNIT_EXPECT_FALSE(test, is_exposed(file_inode(file), 0));
}

static void last_unit_ends_where_the_file_does(struct kunit *test)
{
	struct file *file = test_file(test, UNIT + 8, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT + 8);

	KUNIT_ASSERT_EQ(test, 0, write_page(addr, UNIT + 7, 42));
	KUNIT_ASSERT_EQ(test, 0, to_private(file_inode(file), UNIT, UNIT + 8));
	KUNIT_EXPECT_FALSE(test, is_exposed(file_inode(file), UNIT));
}

static void outer_units_that_are_mixed_stay_exposed(struct kunit *test)
{
	struct file *file = test_file(test, 3 * UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, 3 * UNIT);
	struct inode *inode = file_inode(file);

	KUNIT_ASSERT_EQ(test, 0, write_page(addr, 0, 1));
	KUNIT_ASSERT_EQ(test, 0, write_page(addr, UNIT, 1));
	KUNIT_ASSERT_EQ(test, 0, write_page(addr, 2 * UNIT, 1));
	KUNIT_ASSERT_EQ(test, 0, to_private(inode, UNIT - 1, 2 * UNIT + 1));
	KUNIT_EXPECT_TRUE(test, is_exposed(inode, 0));
	KUNIT_EXPECT_FALSE(test, is_exposed(inode, UNIT));
	KUNIT_EXPECT_TRUE(test, is_exposed(inode, 2 * UNIT));
}

static struct kunit_case faults_test_cases[] = {
	KUNIT_CASE(private_page_is_sigbus),
	KUNIT_CASE(private_page_allocates_nothing_on_fault),
	KUNIT_CASE(private_page_can_not_be_written),
	KUNIT_CASE(page_past_the_end_is_sigbus),
	KUNIT_CASE(shared_page_reads_zeroes_at_first),
	KUNIT_CASE(content_survives_conversion_both_ways),
	KUNIT_CASE(content_survives_a_refused_conversion),
	KUNIT_CASE(conversion_unmaps_its_pages),
	KUNIT_CASE(pages_of_a_locked_mapping_convert),
	KUNIT_CASE(conversion_leaves_its_neighbours_mapped),
	KUNIT_CASE(read_fault_maps_what_is_there_around_it),
	KUNIT_CASE(read_fault_maps_no_private_page_around_it),
	KUNIT_CASE(file_without_mmap_can_not_be_mapped),
	KUNIT_CASE(private_mapping_is_refused),
	KUNIT_CASE(fault_exposes_its_unit_only),
	KUNIT_CASE(view_exposes_nothing),
	KUNIT_CASE(private_fault_exposes_nothing),
	KUNIT_CASE(unit_stays_exposed_while_a_page_of_it_is_shared),
	KUNIT_CASE(unit_is_not_exposed_when_it_is_wholly_private),
	KUNIT_CASE(last_unit_ends_where_the_file_does),
	KUNIT_CASE(outer_units_that_are_mixed_stay_exposed),
	{}
};

static struct kunit_suite faults_test_suite = {
	.name		= "guest_memfd_faults",
	.init		= record_all,
	.test_cases	= faults_test_cases,
};

kunit_test_suites(&faults_test_suite);

MODULE_DESCRIPTION("Tests of user mappings of guest_memfd");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_LICENSE("GPL");
