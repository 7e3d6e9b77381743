// SPDX-License-Identifier: GPL-2.0-only
/*
 * The file itself: what it's created with, what it answers, which pages
 * fallocate() fills and frees.
 */
#include <kunit/test.h>
#include <linux/falloc.h>
#include <linux/pagemap.h>
#include <linux/set_memory.h>
#include <linux/sizes.h>
#include <linux/swap.h>
#include <linux/vmalloc.h>

#include "gmem_test.h"

/*
 * fallocate
 */

static void allocation_fills_the_range(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);

	KUNIT_EXPECT_EQ(test, 0, allocate(file, 2, 7));
	KUNIT_EXPECT_EQ(test, 5, file->f_mapping->nrpages);
}

static void allocation_calls_no_view(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);

	add_owner(test, file_inode(file));
	KUNIT_EXPECT_EQ(test, 0, allocate(file, 2, 7));
	expect_recorded(test, "");
}

struct bad_allocation {
	const char *name;
	int mode;
	loff_t offset;
	loff_t len;
	int err;
};

#define KEEP	FALLOC_FL_KEEP_SIZE

static const struct bad_allocation bad_allocations[] = {
	{ "size may change", 0, 0, SZ_4K, -EOPNOTSUPP },
	{ "zeroing", KEEP | FALLOC_FL_ZERO_RANGE, 0, SZ_4K, -EOPNOTSUPP },
	{ "offset not aligned", KEEP, 1, SZ_4K, -EINVAL },
	{ "length not aligned", KEEP, 0, SZ_4K - 1, -EINVAL },
	{ "past the end", KEEP, SZ_2M - SZ_4K, SZ_8K, -EINVAL },
	{ "hole not aligned", KEEP | FALLOC_FL_PUNCH_HOLE, 1, SZ_4K, -EINVAL },
};

KUNIT_ARRAY_PARAM_DESC(bad_allocation, bad_allocations, name);

static void bad_allocation_is_refused(struct kunit *test)
{
	const struct bad_allocation *bad = test->param_value;
	struct file *file = test_file(test, SZ_2M >> PAGE_SHIFT, SHARED_FILE);

	KUNIT_EXPECT_EQ(test, bad->err,
			vfs_fallocate(file, bad->mode, bad->offset, bad->len));
	KUNIT_EXPECT_EQ(test, 0, file->f_mapping->nrpages);
}

static void hole_takes_a_view_through_removal(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);

	add_owner(test, file_inode(file));
	KUNIT_EXPECT_EQ(test, 0, punch(file, 2, 7));
	expect_recorded(test, "remove 2-7: prepare a, begin a, refresh a, end a");
}

static void view_is_not_told_of_what_is_past_the_end(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);

	add_owner(test, file_inode(file));
	KUNIT_EXPECT_EQ(test, 0, punch(file, UNIT - 1, 2 * UNIT));
	expect_recorded(test, "remove 511-512: prepare a, begin a, refresh a, end a");
}

static void hole_past_the_end_disturbs_no_view(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);

	add_owner(test, file_inode(file));
	KUNIT_EXPECT_EQ(test, 0, punch(file, UNIT, 2 * UNIT));
	expect_recorded(test, "");
}

/* Others wait for the lock no longer than that. */
static void hole_takes_one_change_per_chunk_with_pages(struct kunit *test)
{
	struct file *file = test_file(test, 8 * CHUNK, SHARED_FILE);

	KUNIT_ASSERT_EQ(test, 0, allocate(file, 3, 4));
	KUNIT_ASSERT_EQ(test, 0, allocate(file, 5 * CHUNK + 1, 5 * CHUNK + 2));
	add_owner(test, file_inode(file));
	KUNIT_EXPECT_EQ(test, 0, punch(file, 2, 8 * CHUNK));
	KUNIT_EXPECT_EQ(test, 0, file->f_mapping->nrpages);
	expect_recorded(test,
			"remove 2-1310720: prepare a, begin a, refresh a, end a\n"
			"remove 1310720-2097152: prepare a, begin a, refresh a, end a");
}

static void hole_frees_its_pages_only(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);

	KUNIT_ASSERT_EQ(test, 0, allocate(file, 0, 8));
	KUNIT_EXPECT_EQ(test, 0, punch(file, 2, 7));
	KUNIT_EXPECT_EQ(test, 3, file->f_mapping->nrpages);
}

static void hole_keeps_who_may_see_it(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	struct inode *inode = file_inode(file);

	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 4, 8));
	KUNIT_EXPECT_EQ(test, 0, punch(file, 2, 6));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, 0, 4));
	KUNIT_EXPECT_TRUE(test, all_private(inode, 4, 8));
}

static void hole_reads_zeroes(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);

	KUNIT_ASSERT_EQ(test, 0, write_page(addr, 2, 42));
	KUNIT_EXPECT_EQ(test, 0, punch(file, 2, 3));
	KUNIT_EXPECT_EQ(test, 0, read_page(addr, 2));
}

static void refused_hole_keeps_the_content(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	struct recorder *a = add_owner(test, file_inode(file));
	u8 __user *addr = map(test, file, UNIT);

	KUNIT_ASSERT_EQ(test, 0, write_page(addr, 2, 42));
	a->prepare_err = -EBUSY;
	KUNIT_EXPECT_EQ(test, -EBUSY, punch(file, 2, 3));
	KUNIT_EXPECT_EQ(test, 42, read_page(addr, 2));
}

static void refused_hole_begins_no_view(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	struct recorder *b;

	add_recorder(test, file_inode(file), "a", &recorder_follower_ops);
	b = add_recorder(test, file_inode(file), "b", &recorder_follower_ops);
	b->prepare_err = -EBUSY;
	KUNIT_EXPECT_EQ(test, -EBUSY, punch(file, 0, 1));
	expect_recorded(test, "remove 0-1: prepare a b, abort a");
}

/*
 * What users ask
 */

static void pages_start_private_unless_asked_for(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, GUEST_MEMFD_TRACK_STATE);

	KUNIT_EXPECT_TRUE(test, all_private(file_inode(file), 0, UNIT));
}

static void pages_start_shared_if_asked_for(struct kunit *test)
{
	KUNIT_EXPECT_TRUE(test, all_shared(test_inode(test, UNIT), 0, UNIT));
}

static void run_ends_where_the_state_changes(struct kunit *test)
{
	struct inode *inode = mixed_inode(test);
	bool private;

	KUNIT_EXPECT_EQ(test, 6, run_end(inode, 4, UNIT, &private));
	KUNIT_EXPECT_TRUE(test, private);
}

static void run_ends_at_the_limit(struct kunit *test)
{
	struct inode *inode = mixed_inode(test);
	bool private;

	KUNIT_EXPECT_EQ(test, 100, run_end(inode, 6, 100, &private));
	KUNIT_EXPECT_FALSE(test, private);
}

static void page_is_as_private_as_its_run(struct kunit *test)
{
	struct inode *inode = mixed_inode(test);

	KUNIT_EXPECT_FALSE(test, guest_memfd_is_private(inode, 3));
	KUNIT_EXPECT_TRUE(test, guest_memfd_is_private(inode, 4));
	KUNIT_EXPECT_TRUE(test, guest_memfd_is_private(inode, UNIT + 1));
}

/* However uniform: its folios are not contiguous. */
static void order_is_no_larger_than_the_backing_memory(struct kunit *test)
{
	struct inode *inode = test_inode(test, 2 * UNIT);

	KUNIT_EXPECT_EQ(test, 0, guest_memfd_order(inode, UNIT));
	KUNIT_EXPECT_EQ(test, 0, guest_memfd_max_order(inode));
}

static void flags_are_those_of_creation(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, SHARED_FILE,
			guest_memfd_flags(test_inode(test, UNIT)));
}

static void folio_past_the_end_is_refused(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct folio *folio;

	filemap_invalidate_lock_shared(inode->i_mapping);
	folio = guest_memfd_get_folio(inode, UNIT);
	filemap_invalidate_unlock_shared(inode->i_mapping);
	KUNIT_EXPECT_EQ(test, -EINVAL, PTR_ERR_OR_ZERO(folio));
}

static void folio_that_was_filled_is_not_zeroed(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);
	struct folio *folio = get_locked_folio(test, file_inode(file), 3);

	/* As a hypervisor's firmware does. */
	memcpy_to_folio(folio, 0, "payload", 7);
	folio_mark_uptodate(folio);
	guest_memfd_zero_folio(folio);
	folio_unlock(folio);
	folio_put(folio);

	KUNIT_EXPECT_EQ(test, 'p', read_page(addr, 3));
}

struct bad_size {
	const char *name;
	loff_t size;
};

static const struct bad_size bad_sizes[] = {
	{ "nothing", 0 },
	{ "negative", -SZ_2M },
	{ "not aligned", SZ_2M + 1 },
};

KUNIT_ARRAY_PARAM_DESC(bad_size, bad_sizes, name);

static void bad_size_is_refused(struct kunit *test)
{
	const struct bad_size *bad = test->param_value;
	struct file *file;

	file = guest_memfd_create("[kunit]", bad->size, SHARED_FILE, &test_fops,
				  NULL, NULL);
	KUNIT_EXPECT_EQ(test, -EINVAL, PTR_ERR_OR_ZERO(file));
}

static void unknown_flag_is_refused(struct kunit *test)
{
	struct file *file;

	file = guest_memfd_create("[kunit]", PAGE_SIZE,
				  SHARED_FILE | (GUEST_MEMFD_FLAGS + 1),
				  &test_fops, NULL, NULL);
	KUNIT_EXPECT_EQ(test, -EINVAL, PTR_ERR_OR_ZERO(file));
}

/* As soft offlining does it: other clean page cache would be gone. */
static void pages_are_not_evicted(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);

	KUNIT_ASSERT_EQ(test, 0, allocate(file, 0, 8));
	lru_add_drain_all();
	invalidate_mapping_pages(file->f_mapping, 0, -1);
	KUNIT_EXPECT_EQ(test, 8, file->f_mapping->nrpages);
}

/* As a guest would write, which needs no direct map. */
static void fill_by_another_address(struct kunit *test, struct page *page)
{
	void *addr = vmap(&page, 1, VM_MAP, PAGE_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, addr);
	memset(addr, 0xa5, PAGE_SIZE);
	vunmap(addr);
}

static void page_without_direct_map_leaves_zeroed(struct kunit *test)
{
	struct folio *folio;
	struct file *file;

	if (!guest_memfd_supports_no_direct_map())
		kunit_skip(test, "the direct map cannot be changed");

	file = test_file(test, UNIT, SHARED_FILE | GUEST_MEMFD_NO_DIRECT_MAP);
	folio = hold_folio(test, file_inode(file), 2);
	KUNIT_EXPECT_FALSE(test, kernel_page_present(&folio->page));
	KUNIT_EXPECT_TRUE(test, folio_test_uptodate(folio));
	fill_by_another_address(test, &folio->page);

	KUNIT_ASSERT_EQ(test, 0, punch(file, 2, 3));
	KUNIT_ASSERT_TRUE(test, kernel_page_present(&folio->page));
	KUNIT_EXPECT_NULL(test, memchr_inv(folio_address(folio), 0, PAGE_SIZE));
}

/* Its ->free_folio could not rely on it. */
static void file_without_direct_map_takes_no_operations(struct kunit *test)
{
	static const struct address_space_operations aops = {
		.dirty_folio = noop_dirty_folio,
	};
	struct file *file;

	file = guest_memfd_create("[kunit]", SZ_2M,
				  SHARED_FILE | GUEST_MEMFD_NO_DIRECT_MAP,
				  &test_fops, &aops, NULL);
	KUNIT_EXPECT_PTR_EQ(test, ERR_PTR(-EOPNOTSUPP), file);
	if (!IS_ERR(file))
		fput(file);
}

static struct kunit_case file_test_cases[] = {
	KUNIT_CASE(allocation_fills_the_range),
	KUNIT_CASE(allocation_calls_no_view),
	KUNIT_CASE_PARAM(bad_allocation_is_refused, bad_allocation_gen_params),
	KUNIT_CASE(hole_takes_a_view_through_removal),
	KUNIT_CASE(view_is_not_told_of_what_is_past_the_end),
	KUNIT_CASE(hole_past_the_end_disturbs_no_view),
	KUNIT_CASE(hole_takes_one_change_per_chunk_with_pages),
	KUNIT_CASE(hole_frees_its_pages_only),
	KUNIT_CASE(hole_keeps_who_may_see_it),
	KUNIT_CASE(hole_reads_zeroes),
	KUNIT_CASE(refused_hole_keeps_the_content),
	KUNIT_CASE(refused_hole_begins_no_view),
	KUNIT_CASE(pages_start_private_unless_asked_for),
	KUNIT_CASE(pages_start_shared_if_asked_for),
	KUNIT_CASE(run_ends_where_the_state_changes),
	KUNIT_CASE(run_ends_at_the_limit),
	KUNIT_CASE(page_is_as_private_as_its_run),
	KUNIT_CASE(order_is_no_larger_than_the_backing_memory),
	KUNIT_CASE(flags_are_those_of_creation),
	KUNIT_CASE(folio_past_the_end_is_refused),
	KUNIT_CASE(folio_that_was_filled_is_not_zeroed),
	KUNIT_CASE_PARAM(bad_size_is_refused, bad_size_gen_params),
	KUNIT_CASE(unknown_flag_is_refused),
	KUNIT_CASE(pages_are_not_evicted),
	KUNIT_CASE(page_without_direct_map_leaves_zeroed),
	KUNIT_CASE(file_without_direct_map_takes_no_operations),
	{}
};

static struct kunit_suite file_test_suite = {
	.name		= "guest_memfd_file",
	.init		= record_all,
	.test_cases	= file_test_cases,
};

kunit_test_suites(&file_test_suite);

MODULE_DESCRIPTION("Tests of guest_memfd files");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_LICENSE("GPL");
