// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of the guest_memfd core, without KVM.
 *
 * The views are of two hypervisors that exist only here: recorder.h writes
 * down what it is told, parcel.h moves whole runs of pages.  User space is a
 * kernel thread with an mm.
 */
#include <kunit/test.h>
#include <linux/falloc.h>
#include <linux/file.h>
#include <linux/limits.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/pagemap.h>
#include <linux/sizes.h>
#include <linux/uaccess.h>

#include "../internal.h"
#include "parcel.h"
#include "recorder.h"

#define UNIT	GMEM_UNIT_PAGES
#define CHUNK	GMEM_CHUNK_PAGES

/* A file that user space maps and converts, all of it shared at the start. */
#define SHARED_FILE	(GUEST_MEMFD_MMAP | GUEST_MEMFD_INIT_SHARED | \
			 GUEST_MEMFD_TRACK_STATE)

#define TIMEOUT		(10 * HZ)

static const struct file_operations test_fops = {
	.owner		= THIS_MODULE,
	.mmap		= guest_memfd_mmap,
	.fallocate	= guest_memfd_fallocate,
};

KUNIT_DEFINE_ACTION_WRAPPER(test_put_file, fput, struct file *);
KUNIT_DEFINE_ACTION_WRAPPER(test_put_folio, folio_put, struct folio *);

static struct file *test_file(struct kunit *test, pgoff_t nr_pages,
			      unsigned int flags)
{
	struct file *file;

	file = guest_memfd_create("[kunit]", (loff_t)nr_pages << PAGE_SHIFT,
				  flags, &test_fops, NULL, NULL);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, test_put_file, file));
	return file;
}

static struct inode *test_inode(struct kunit *test, pgoff_t nr_pages)
{
	return file_inode(test_file(test, nr_pages, SHARED_FILE));
}

/* Views */

static int try_add_view(struct guest_memfd_view *view, struct inode *inode)
{
	int err;

	filemap_invalidate_lock(inode->i_mapping);
	err = guest_memfd_view_add(view, inode);
	filemap_invalidate_unlock(inode->i_mapping);

	return err;
}

struct test_view {
	struct guest_memfd_view *view;
	struct inode *inode;
};

static void del_view(void *data)
{
	struct test_view *tv = data;

	filemap_invalidate_lock(tv->inode->i_mapping);
	guest_memfd_view_del(tv->view, tv->inode);
	filemap_invalidate_unlock(tv->inode->i_mapping);
}

/* Returned so that a test can remove the view before its end. */
static struct test_view *add_view(struct kunit *test,
				  struct guest_memfd_view *view,
				  struct inode *inode)
{
	struct test_view *tv = kunit_kzalloc(test, sizeof(*tv), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, tv);
	tv->view = view;
	tv->inode = inode;
	KUNIT_ASSERT_EQ(test, 0, try_add_view(view, inode));
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, del_view, tv));
	return tv;
}

/* A recorder that no inode knows yet; test->priv is the recording. */
static struct recorder *new_recorder(struct kunit *test, const char *name,
				     const struct guest_memfd_view_ops *ops)
{
	struct recorder *recorder = kunit_kzalloc(test, sizeof(*recorder),
						  GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, recorder);
	recorder_init(recorder, test->priv, name, ops);
	return recorder;
}

static struct recorder *add_recorder(struct kunit *test, struct inode *inode,
				     const char *name,
				     const struct guest_memfd_view_ops *ops)
{
	struct recorder *recorder = new_recorder(test, name, ops);

	add_view(test, &recorder->view, inode);
	return recorder;
}

static struct recorder *add_owner(struct kunit *test, struct inode *inode)
{
	return add_recorder(test, inode, "a", &recorder_owner_ops);
}

static void expect_recorded(struct kunit *test, const char *expected)
{
	struct recording *recording = test->priv;

	KUNIT_EXPECT_STREQ(test, seq_buf_str(&recording->buf), expected);
}

static void forget_recorded(struct kunit *test)
{
	recording_init(test->priv);
}

/* Conversions and what becomes of them */

static int convert(struct inode *inode, pgoff_t start, pgoff_t end,
		   enum guest_memfd_change_type type)
{
	pgoff_t error_index;

	return guest_memfd_convert(inode, start, end, type, NULL, &error_index);
}

static int to_private(struct inode *inode, pgoff_t start, pgoff_t end)
{
	return convert(inode, start, end, GUEST_MEMFD_TO_PRIVATE);
}

static int to_shared(struct inode *inode, pgoff_t start, pgoff_t end)
{
	return convert(inode, start, end, GUEST_MEMFD_TO_SHARED);
}

static pgoff_t run_end(struct inode *inode, pgoff_t index, pgoff_t end,
		       bool *private)
{
	filemap_invalidate_lock_shared(inode->i_mapping);
	end = guest_memfd_run_end(inode, index, end, private);
	filemap_invalidate_unlock_shared(inode->i_mapping);

	return end;
}

static bool all_private(struct inode *inode, pgoff_t start, pgoff_t end)
{
	bool private;

	return run_end(inode, start, end, &private) == end && private;
}

static bool all_shared(struct inode *inode, pgoff_t start, pgoff_t end)
{
	bool private;

	return run_end(inode, start, end, &private) == end && !private;
}

/* Folios */

static struct folio *get_locked_folio(struct kunit *test, struct inode *inode,
				      pgoff_t index)
{
	struct folio *folio;

	filemap_invalidate_lock_shared(inode->i_mapping);
	folio = guest_memfd_get_folio(inode, index);
	filemap_invalidate_unlock_shared(inode->i_mapping);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, folio);
	return folio;
}

/* As somebody does who should not, until the test ends or lets go. */
static struct folio *hold_folio(struct kunit *test, struct inode *inode,
				pgoff_t index)
{
	struct folio *folio = get_locked_folio(test, inode, index);

	folio_unlock(folio);
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, test_put_folio, folio));
	return folio;
}

static void let_go(struct kunit *test, struct folio *folio)
{
	kunit_release_action(test, test_put_folio, folio);
}

/* As a view that is about to map the pages does. */
static void populate(struct kunit *test, struct inode *inode, pgoff_t start,
		     pgoff_t end)
{
	struct folio *folio;
	pgoff_t index;

	for (index = start; index < end; index++) {
		folio = get_locked_folio(test, inode, index);
		guest_memfd_zero_folio(folio);
		folio_unlock(folio);
		folio_put(folio);
	}
}

/* Is the page in somebody's page tables? */
static bool is_mapped(struct inode *inode, pgoff_t index)
{
	struct folio *folio = filemap_get_folio(inode->i_mapping, index);
	bool mapped;

	if (IS_ERR(folio))
		return false;

	mapped = folio_mapped(folio);
	folio_put(folio);
	return mapped;
}

static bool is_exposed(struct inode *inode, pgoff_t index)
{
	return test_bit(index >> GMEM_UNIT_ORDER, gmem_i(inode)->exposed);
}

/* User space */

/* At an address that leaves fault-around its whole window from page 0 on. */
static u8 __user *map_at(struct kunit *test, struct file *file, pgoff_t start,
			 pgoff_t end, unsigned long flags)
{
	unsigned long addr;

	addr = kunit_vm_mmap(test, file, SZ_1G, (end - start) << PAGE_SHIFT,
			     PROT_READ | PROT_WRITE, MAP_SHARED | flags,
			     start << PAGE_SHIFT);
	KUNIT_ASSERT_EQ(test, SZ_1G, addr);
	return (u8 __user *)addr;
}

static u8 __user *map(struct kunit *test, struct file *file, pgoff_t nr_pages)
{
	return map_at(test, file, 0, nr_pages, 0);
}

static u8 __user *page_at(u8 __user *addr, pgoff_t page)
{
	return addr + (page << PAGE_SHIFT);
}

static int write_page(u8 __user *addr, pgoff_t page, u8 value)
{
	return put_user(value, page_at(addr, page));
}

/* Return: what is there, or -EFAULT. */
static int read_page(u8 __user *addr, pgoff_t page)
{
	u8 value;

	return get_user(value, page_at(addr, page)) ?: value;
}

/* What the fault handler itself says to a read. */
static vm_fault_t fault_page(u8 __user *addr, pgoff_t page)
{
	unsigned long address = (unsigned long)page_at(addr, page);
	vm_fault_t ret = VM_FAULT_SIGSEGV;
	struct vm_area_struct *vma;

	mmap_read_lock(current->mm);
	vma = vma_lookup(current->mm, address);
	if (vma)
		ret = handle_mm_fault(vma, address, FAULT_FLAG_USER, NULL);
	mmap_read_unlock(current->mm);

	return ret;
}

/*
 * One view
 */

static void to_private_takes_a_view_through_every_step(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);

	add_owner(test, inode);
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 3, 7));
	expect_recorded(test, "private 3-7: prepare a, begin a, transfer a, refresh a, end a");
}

static void to_shared_takes_a_view_through_every_step(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);

	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 0, UNIT));
	add_owner(test, inode);
	KUNIT_EXPECT_EQ(test, 0, to_shared(inode, 3, 7));
	expect_recorded(test, "shared 3-7: prepare a, begin a, transfer a, refresh a, end a");
}

static void optional_steps_may_be_left_out(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);

	add_recorder(test, inode, "a", &recorder_minimal_ops);
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 1));
	expect_recorded(test, "private 0-1: begin a, end a");
}

static void transfer_sees_the_old_state(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);

	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 1));
	KUNIT_EXPECT_FALSE(test, a->was_private[RECORDER_TRANSFER]);
}

static void refresh_sees_the_new_state(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);

	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 1));
	KUNIT_EXPECT_TRUE(test, a->was_private[RECORDER_REFRESH]);
}

static void view_that_does_not_prepare_is_told_no_more(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);

	a->prepare_err = -EPERM;
	KUNIT_EXPECT_EQ(test, -EPERM, to_private(inode, 0, 8));
	expect_recorded(test, "private 0-8: prepare a");
}

static void view_that_does_not_transfer_is_ended_and_aborted(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);

	a->transfer_err = -EIO;
	KUNIT_EXPECT_EQ(test, -EIO, to_private(inode, 0, 8));
	expect_recorded(test, "private 0-8: prepare a, begin a, transfer a, end a, abort a");
}

/* Shared but for pages 1, 4 and 5 and the unit that follows. */
static struct inode *mixed_inode(struct kunit *test)
{
	struct inode *inode = test_inode(test, 2 * UNIT);

	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 1, 2));
	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 4, 6));
	KUNIT_ASSERT_EQ(test, 0, to_private(inode, UNIT, 2 * UNIT));
	return inode;
}

static void expect_mixed(struct kunit *test, struct inode *inode)
{
	KUNIT_EXPECT_TRUE(test, all_shared(inode, 0, 1));
	KUNIT_EXPECT_TRUE(test, all_private(inode, 1, 2));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, 2, 4));
	KUNIT_EXPECT_TRUE(test, all_private(inode, 4, 6));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, 6, UNIT));
	KUNIT_EXPECT_TRUE(test, all_private(inode, UNIT, 2 * UNIT));
}

static void refused_prepare_leaves_the_state(struct kunit *test)
{
	struct inode *inode = mixed_inode(test);
	struct recorder *a = add_owner(test, inode);

	a->prepare_err = -EPERM;
	KUNIT_EXPECT_EQ(test, -EPERM, to_private(inode, 0, UNIT));
	KUNIT_EXPECT_EQ(test, -EPERM, to_shared(inode, 0, 2 * UNIT));
	expect_mixed(test, inode);
}

static void refused_transfer_leaves_the_state(struct kunit *test)
{
	struct inode *inode = mixed_inode(test);
	struct recorder *a = add_owner(test, inode);

	a->transfer_err = -EIO;
	KUNIT_EXPECT_EQ(test, -EIO, to_private(inode, 0, UNIT));
	KUNIT_EXPECT_EQ(test, -EIO, to_shared(inode, 0, 2 * UNIT));
	expect_mixed(test, inode);
}

static void refused_conversion_works_when_tried_again(struct kunit *test)
{
	struct inode *inode = mixed_inode(test);
	struct recorder *a = add_owner(test, inode);

	a->transfer_err = -EIO;
	KUNIT_EXPECT_EQ(test, -EIO, to_private(inode, 0, 2 * UNIT));
	a->transfer_err = 0;
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 2 * UNIT));
	KUNIT_EXPECT_TRUE(test, all_private(inode, 0, 2 * UNIT));
}

static void removed_view_is_told_nothing(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = new_recorder(test, "a", &recorder_owner_ops);
	struct test_view *tv = add_view(test, &a->view, inode);

	kunit_release_action(test, del_view, tv);
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 1));
	expect_recorded(test, "");
}

/*
 * A view that starts conversions by itself
 */

static void conversion_names_the_view_that_started_it(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);
	pgoff_t error_index;

	KUNIT_EXPECT_EQ(test, 0,
			guest_memfd_convert(inode, 2, 4, GUEST_MEMFD_TO_PRIVATE,
					    &a->view, &error_index));
	expect_recorded(test, "private 2-4 by a: prepare a, begin a, transfer a, refresh a, end a");
}

static void protected_guest_converts_its_own_pages(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);
	pgoff_t error_index;

	a->own_only = true;
	KUNIT_EXPECT_EQ(test, 0,
			guest_memfd_convert(inode, 2, 4, GUEST_MEMFD_TO_PRIVATE,
					    &a->view, &error_index));
	KUNIT_EXPECT_TRUE(test, all_private(inode, 2, 4));
}

static void protected_guest_keeps_the_host_from_converting(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);

	a->own_only = true;
	KUNIT_EXPECT_EQ(test, -EPERM, to_private(inode, 2, 4));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, 0, UNIT));
}

/*
 * Two views of one inode
 */

static struct inode *two_views(struct kunit *test, struct recorder **a,
			       struct recorder **b)
{
	struct inode *inode = test_inode(test, UNIT);

	*a = add_recorder(test, inode, "a", &recorder_follower_ops);
	*b = add_recorder(test, inode, "b", &recorder_owner_ops);
	return inode;
}

static void views_are_told_in_order_and_end_in_reverse(struct kunit *test)
{
	struct recorder *a, *b;
	struct inode *inode = two_views(test, &a, &b);

	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 8));
	expect_recorded(test,
			"private 0-8: prepare a b, begin a b, transfer b, refresh a b, end b a");
}

static void refusal_of_the_first_view_spares_the_second(struct kunit *test)
{
	struct recorder *a, *b;
	struct inode *inode = two_views(test, &a, &b);

	a->prepare_err = -EPERM;
	KUNIT_EXPECT_EQ(test, -EPERM, to_private(inode, 0, 8));
	expect_recorded(test, "private 0-8: prepare a");
}

static void refusal_of_the_second_view_aborts_the_first(struct kunit *test)
{
	struct recorder *a, *b;
	struct inode *inode = two_views(test, &a, &b);

	b->prepare_err = -EPERM;
	KUNIT_EXPECT_EQ(test, -EPERM, to_private(inode, 0, 8));
	expect_recorded(test, "private 0-8: prepare a b, abort a");
}

static void refused_transfer_undoes_both_views_in_reverse(struct kunit *test)
{
	struct recorder *a, *b;
	struct inode *inode = two_views(test, &a, &b);

	b->transfer_err = -EIO;
	KUNIT_EXPECT_EQ(test, -EIO, to_private(inode, 0, 8));
	expect_recorded(test,
			"private 0-8: prepare a b, begin a b, transfer b, end b a, abort b a");
}

static void only_one_view_may_transfer(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *b = new_recorder(test, "b", &recorder_owner_ops);

	add_owner(test, inode);
	KUNIT_EXPECT_EQ(test, -EBUSY, try_add_view(&b->view, inode));
}

static void another_view_may_transfer_when_the_first_is_gone(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = new_recorder(test, "a", &recorder_owner_ops);
	struct test_view *tv = add_view(test, &a->view, inode);

	kunit_release_action(test, del_view, tv);
	add_recorder(test, inode, "b", &recorder_owner_ops);
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 1));
	expect_recorded(test, "private 0-1: prepare b, begin b, transfer b, refresh b, end b");
}

/*
 * Chunks
 */

static void each_chunk_is_a_change_of_its_own(struct kunit *test)
{
	struct inode *inode = test_inode(test, 3 * CHUNK);

	add_recorder(test, inode, "a", &recorder_minimal_ops);
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, CHUNK - 1, 2 * CHUNK + 1));
	expect_recorded(test,
			"private 262143-262144: begin a, end a\n"
			"private 262144-524288: begin a, end a\n"
			"private 524288-524289: begin a, end a");
}

static void refusal_gives_the_first_page_of_its_chunk(struct kunit *test)
{
	struct inode *inode = test_inode(test, 3 * CHUNK);
	struct recorder *a = add_owner(test, inode);
	pgoff_t error_index;

	a->refuse_from = CHUNK;
	a->transfer_err = -EIO;
	KUNIT_EXPECT_EQ(test, -EIO,
			guest_memfd_convert(inode, 5, 3 * CHUNK,
					    GUEST_MEMFD_TO_PRIVATE, NULL,
					    &error_index));
	KUNIT_EXPECT_EQ(test, CHUNK, error_index);
}

static void refusal_in_the_first_chunk_gives_the_start(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);
	pgoff_t error_index;

	a->prepare_err = -EPERM;
	KUNIT_EXPECT_EQ(test, -EPERM,
			guest_memfd_convert(inode, 5, 9, GUEST_MEMFD_TO_PRIVATE,
					    NULL, &error_index));
	KUNIT_EXPECT_EQ(test, 5, error_index);
}

static void chunks_before_a_refusal_are_converted(struct kunit *test)
{
	struct inode *inode = test_inode(test, 3 * CHUNK);
	struct recorder *a = add_owner(test, inode);

	a->refuse_from = CHUNK;
	a->prepare_err = -EPERM;
	KUNIT_EXPECT_EQ(test, -EPERM, to_private(inode, 5, 3 * CHUNK));
	KUNIT_EXPECT_TRUE(test, all_private(inode, 5, CHUNK));
}

static void chunks_from_a_refusal_on_are_not_converted(struct kunit *test)
{
	struct inode *inode = test_inode(test, 3 * CHUNK);
	struct recorder *a = add_owner(test, inode);

	a->refuse_from = CHUNK;
	a->prepare_err = -EPERM;
	KUNIT_EXPECT_EQ(test, -EPERM, to_private(inode, 5, 3 * CHUNK));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, CHUNK, 3 * CHUNK));
}

static void signal_stops_after_the_first_chunk(struct kunit *test)
{
	struct inode *inode = test_inode(test, 3 * CHUNK);
	pgoff_t error_index;
	int err;

	set_thread_flag(TIF_SIGPENDING);
	err = guest_memfd_convert(inode, 5, 3 * CHUNK, GUEST_MEMFD_TO_PRIVATE,
				  NULL, &error_index);
	clear_thread_flag(TIF_SIGPENDING);

	KUNIT_EXPECT_EQ(test, -EINTR, err);
	KUNIT_EXPECT_EQ(test, CHUNK, error_index);
	KUNIT_EXPECT_TRUE(test, all_private(inode, 5, CHUNK));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, CHUNK, 3 * CHUNK));
}

/*
 * Nothing to do, and nothing that can be done
 */

static void range_that_is_done_calls_no_view(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);

	add_owner(test, inode);
	KUNIT_EXPECT_EQ(test, 0, to_shared(inode, 0, UNIT));
	expect_recorded(test, "");
}

static void front_that_is_done_is_left_out(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);

	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 0, 100));
	add_recorder(test, inode, "a", &recorder_minimal_ops);
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 50, UNIT));
	expect_recorded(test, "private 100-512: begin a, end a");
}

static void file_that_does_not_track_does_not_convert(struct kunit *test)
{
	struct inode *inode = file_inode(test_file(test, UNIT, 0));

	KUNIT_EXPECT_EQ(test, -EOPNOTSUPP, to_shared(inode, 0, UNIT));
}

struct bad_conversion {
	const char *name;
	pgoff_t start;
	pgoff_t end;
	enum guest_memfd_change_type type;
};

static const struct bad_conversion bad_conversions[] = {
	{ "empty", 4, 4, GUEST_MEMFD_TO_PRIVATE },
	{ "ends before its start", 4, 3, GUEST_MEMFD_TO_PRIVATE },
	{ "ends past the file", 4, UNIT + 1, GUEST_MEMFD_TO_PRIVATE },
	{ "starts past the file", UNIT, UNIT + 1, GUEST_MEMFD_TO_PRIVATE },
	{ "removal", 0, 4, GUEST_MEMFD_REMOVE },
	{ "poison", 0, 4, GUEST_MEMFD_POISON },
};

KUNIT_ARRAY_PARAM_DESC(bad_conversion, bad_conversions, name);

static void bad_conversion_is_refused(struct kunit *test)
{
	const struct bad_conversion *bad = test->param_value;
	struct inode *inode = test_inode(test, UNIT);

	KUNIT_EXPECT_EQ(test, -EINVAL,
			convert(inode, bad->start, bad->end, bad->type));
}

/*
 * Pages that somebody holds
 */

/* User space has pages 0 to 3 mapped, and somebody holds page 2. */
static struct inode *inode_with_holder(struct kunit *test, struct folio **folio)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);
	pgoff_t page;

	for (page = 0; page < 4; page++)
		KUNIT_ASSERT_EQ(test, 0, write_page(addr, page, page + 1));

	*folio = hold_folio(test, file_inode(file), 2);
	return file_inode(file);
}

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

/*
 * Pages that are broken
 */

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

/*
 * fallocate
 */

static int allocate(struct file *file, pgoff_t start, pgoff_t end)
{
	return vfs_fallocate(file, FALLOC_FL_KEEP_SIZE,
			     (loff_t)start << PAGE_SHIFT,
			     (loff_t)(end - start) << PAGE_SHIFT);
}

static int punch(struct file *file, pgoff_t start, pgoff_t end)
{
	return vfs_fallocate(file, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			     (loff_t)start << PAGE_SHIFT,
			     (loff_t)(end - start) << PAGE_SHIFT);
}

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

/*
 * A hypervisor that moves whole runs only
 */

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

static int guest_memfd_test_init(struct kunit *test)
{
	struct recording *recording = kunit_kzalloc(test, sizeof(*recording),
						    GFP_KERNEL);

	if (!recording)
		return -ENOMEM;

	recording_init(recording);
	test->priv = recording;
	return 0;
}

static struct kunit_case guest_memfd_test_cases[] = {
	KUNIT_CASE(to_private_takes_a_view_through_every_step),
	KUNIT_CASE(to_shared_takes_a_view_through_every_step),
	KUNIT_CASE(optional_steps_may_be_left_out),
	KUNIT_CASE(transfer_sees_the_old_state),
	KUNIT_CASE(refresh_sees_the_new_state),
	KUNIT_CASE(view_that_does_not_prepare_is_told_no_more),
	KUNIT_CASE(view_that_does_not_transfer_is_ended_and_aborted),
	KUNIT_CASE(refused_prepare_leaves_the_state),
	KUNIT_CASE(refused_transfer_leaves_the_state),
	KUNIT_CASE(refused_conversion_works_when_tried_again),
	KUNIT_CASE(removed_view_is_told_nothing),
	KUNIT_CASE(conversion_names_the_view_that_started_it),
	KUNIT_CASE(protected_guest_converts_its_own_pages),
	KUNIT_CASE(protected_guest_keeps_the_host_from_converting),
	KUNIT_CASE(views_are_told_in_order_and_end_in_reverse),
	KUNIT_CASE(refusal_of_the_first_view_spares_the_second),
	KUNIT_CASE(refusal_of_the_second_view_aborts_the_first),
	KUNIT_CASE(refused_transfer_undoes_both_views_in_reverse),
	KUNIT_CASE(only_one_view_may_transfer),
	KUNIT_CASE(another_view_may_transfer_when_the_first_is_gone),
	KUNIT_CASE(each_chunk_is_a_change_of_its_own),
	KUNIT_CASE(refusal_gives_the_first_page_of_its_chunk),
	KUNIT_CASE(refusal_in_the_first_chunk_gives_the_start),
	KUNIT_CASE(chunks_before_a_refusal_are_converted),
	KUNIT_CASE(chunks_from_a_refusal_on_are_not_converted),
	KUNIT_CASE(signal_stops_after_the_first_chunk),
	KUNIT_CASE(range_that_is_done_calls_no_view),
	KUNIT_CASE(front_that_is_done_is_left_out),
	KUNIT_CASE(file_that_does_not_track_does_not_convert),
	KUNIT_CASE_PARAM(bad_conversion_is_refused, bad_conversion_gen_params),
	KUNIT_CASE(held_page_is_named),
	KUNIT_CASE(held_page_keeps_the_whole_range_shared),
	KUNIT_CASE(held_page_is_found_before_the_transfer),
	KUNIT_CASE(held_page_converts_when_it_is_let_go),
	KUNIT_CASE(held_page_does_not_stop_its_neighbours),
	KUNIT_CASE(page_that_is_private_already_may_be_held),
	KUNIT_CASE(held_page_converts_to_shared),
	KUNIT_CASE(page_that_user_space_never_saw_is_not_looked_at),
	KUNIT_CASE(held_page_stops_its_own_chunk_only),
	KUNIT_CASE(broken_page_is_named),
	KUNIT_CASE(broken_page_keeps_the_whole_range_shared),
	KUNIT_CASE(broken_page_is_not_given_to_a_view),
	KUNIT_CASE(broken_page_faults_as_such),
	KUNIT_CASE(view_is_told_of_poison_while_the_folio_is_locked),
	KUNIT_CASE(poison_found_meanwhile_is_told_as_one),
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
	KUNIT_CASE(outer_units_that_are_mixed_stay_exposed),
	KUNIT_CASE(allocation_fills_the_range),
	KUNIT_CASE(allocation_calls_no_view),
	KUNIT_CASE_PARAM(bad_allocation_is_refused, bad_allocation_gen_params),
	KUNIT_CASE(hole_takes_a_view_through_removal),
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

static struct kunit_suite guest_memfd_test_suite = {
	.name		= "guest_memfd",
	.init		= guest_memfd_test_init,
	.test_cases	= guest_memfd_test_cases,
};

kunit_test_suites(&guest_memfd_test_suite);

MODULE_DESCRIPTION("Tests of the guest_memfd core");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_LICENSE("GPL");
