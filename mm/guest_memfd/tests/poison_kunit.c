// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages that are broken: nobody gets one, and the views are told of it.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/jiffies.h>
#include <linux/page-flags.h>

#include "gmem_test.h"

#define TIMEOUT		(10 * HZ)

#ifdef CONFIG_MEMORY_FAILURE
static void test_heal_folio(void *data)
{
	struct folio *folio = data;

	ClearPageHWPoison(&folio->page);
}

/* Only marks it; memory_failure() would take it for good. */
static void break_folio(struct kunit *test, struct inode *inode, pgoff_t index)
{
	struct folio *folio = get_locked_folio(test, inode, index);

	SetPageHWPoison(&folio->page);
	folio_unlock(folio);
	folio_put(folio);
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, test_heal_folio,
						  folio));
}
#else
static void break_folio(struct kunit *test, struct inode *inode, pgoff_t index)
{
	kunit_skip(test, "needs CONFIG_MEMORY_FAILURE");
}
#endif

static void broken_page_is_named(struct kunit *test)
{
	struct folio *folio;
	struct inode *inode = inode_with_holder(test, &folio);
	pgoff_t error_index;

	let_go(test, folio);
	break_folio(test, inode, 1);
	KUNIT_EXPECT_EQ(test, -EHWPOISON,
			guest_memfd_convert(inode, 0, 4, GUEST_MEMFD_TO_PRIVATE,
					    NULL, &error_index));
	KUNIT_EXPECT_EQ(test, 1, error_index);
}

static void broken_page_keeps_the_whole_range_shared(struct kunit *test)
{
	struct folio *folio;
	struct inode *inode = inode_with_holder(test, &folio);

	let_go(test, folio);
	break_folio(test, inode, 1);
	KUNIT_EXPECT_EQ(test, -EHWPOISON, to_private(inode, 0, 4));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, 0, UNIT));
}

static void broken_page_is_not_given_to_a_view(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct folio *folio;

	break_folio(test, inode, 1);
	filemap_invalidate_lock_shared(inode->i_mapping);
	folio = guest_memfd_get_folio(inode, 1);
	filemap_invalidate_unlock_shared(inode->i_mapping);
	KUNIT_EXPECT_EQ(test, -EHWPOISON, PTR_ERR_OR_ZERO(folio));
}

static void broken_page_faults_as_such(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);

	populate(test, file_inode(file), 1, 2);
	break_folio(test, file_inode(file), 1);
	KUNIT_EXPECT_TRUE(test, fault_page(addr, 1) & VM_FAULT_HWPOISON);
}

static void broken_page_is_not_zeroed_by_a_fault(struct kunit *test)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);
	struct folio *folio;

	KUNIT_ASSERT_EQ(test, 0, allocate(file, 1, 2));
	break_folio(test, file_inode(file), 1);
	fault_page(addr, 1);

	folio = filemap_get_folio(file->f_mapping, 1);
	KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
	KUNIT_EXPECT_FALSE(test, folio_test_uptodate(folio));
	folio_put(folio);
}

/* As memory_failure() does. */
static void report_folio(struct inode *inode, struct folio *folio)
{
	folio_lock(folio);
	guest_memfd_error_remove_folio(inode->i_mapping, folio);
	folio_unlock(folio);
}

static void view_is_told_of_poison_while_the_folio_is_locked(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);
	struct folio *folio = get_locked_folio(test, inode, 5);

	guest_memfd_error_remove_folio(inode->i_mapping, folio);
	KUNIT_EXPECT_NE(test, 0,
			wait_for_completion_timeout(&a->ended, TIMEOUT));
	folio_unlock(folio);
	folio_put(folio);
	expect_recorded(test, "poison 5-6: begin a, refresh a, end a");
}

static bool poison_is_being_told(struct inode *inode)
{
	struct gmem_poison *poison = &gmem_i(inode)->poison;

	guard(spinlock)(&poison->lock);
	return poison->start >= poison->end;
}

static void wait_until_poison_is_being_told(struct kunit *test,
					    struct inode *inode)
{
	unsigned long end = jiffies + TIMEOUT;

	while (!poison_is_being_told(inode) && time_before(jiffies, end))
		schedule_timeout_idle(1);
	KUNIT_EXPECT_TRUE(test, poison_is_being_told(inode));
}

static void poison_found_meanwhile_is_told_as_one(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);
	struct folio *folios[] = {
		hold_folio(test, inode, 1),
		hold_folio(test, inode, 6),
		hold_folio(test, inode, 3),
	};

	/* The worker has taken its range, but waits for the lock. */
	filemap_invalidate_lock_shared(inode->i_mapping);
	report_folio(inode, folios[0]);
	wait_until_poison_is_being_told(test, inode);
	report_folio(inode, folios[1]);
	report_folio(inode, folios[2]);
	filemap_invalidate_unlock_shared(inode->i_mapping);

	KUNIT_EXPECT_NE(test, 0,
			wait_for_completion_timeout(&a->ended, TIMEOUT));
	KUNIT_EXPECT_NE(test, 0,
			wait_for_completion_timeout(&a->ended, TIMEOUT));
	expect_recorded(test,
			"poison 1-2: begin a, refresh a, end a\n"
			"poison 3-7: begin a, refresh a, end a");
}

static struct kunit_case poison_test_cases[] = {
	KUNIT_CASE(broken_page_is_named),
	KUNIT_CASE(broken_page_keeps_the_whole_range_shared),
	KUNIT_CASE(broken_page_is_not_given_to_a_view),
	KUNIT_CASE(broken_page_faults_as_such),
	KUNIT_CASE(broken_page_is_not_zeroed_by_a_fault),
	KUNIT_CASE(view_is_told_of_poison_while_the_folio_is_locked),
	KUNIT_CASE(poison_found_meanwhile_is_told_as_one),
	{}
};

static struct kunit_suite poison_test_suite = {
	.name		= "guest_memfd_poison",
	.init		= record_all,
	.test_cases	= poison_test_cases,
};

kunit_test_suites(&poison_test_suite);

MODULE_DESCRIPTION("Tests of broken pages in guest_memfd");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_LICENSE("GPL");
