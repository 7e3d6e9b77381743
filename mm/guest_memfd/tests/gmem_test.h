/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests of the core share: files, the views on them, conversions,
 * folios, and user space, which is a kernel thread with an mm.
 *
 * Everything is static: the names are short, and made for these tests only.
 */
#ifndef _MM_GUEST_MEMFD_TESTS_GMEM_TEST_H
#define _MM_GUEST_MEMFD_TESTS_GMEM_TEST_H

#include <kunit/test.h>
#include <linux/falloc.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/pagemap.h>
#include <linux/sizes.h>
#include <linux/uaccess.h>

#include "../internal.h"
#include "recorder.h"

#define UNIT	GMEM_UNIT_PAGES
#define CHUNK	GMEM_CHUNK_PAGES

/* A file that user space maps and converts, all of it shared at the start. */
#define SHARED_FILE	(GUEST_MEMFD_MMAP | GUEST_MEMFD_INIT_SHARED | \
			 GUEST_MEMFD_TRACK_STATE)

static const struct file_operations test_fops = {
	.owner		= THIS_MODULE,
	.mmap		= guest_memfd_mmap,
	.fallocate	= guest_memfd_fallocate,
};

KUNIT_DEFINE_ACTION_WRAPPER(test_put_file, fput, struct file *);
KUNIT_DEFINE_ACTION_WRAPPER(test_put_folio, folio_put, struct folio *);

static inline struct file *test_file(struct kunit *test, pgoff_t nr_pages,
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

static inline struct inode *test_inode(struct kunit *test, pgoff_t nr_pages)
{
	return file_inode(test_file(test, nr_pages, SHARED_FILE));
}

/* Views */

static inline int try_add_view(struct guest_memfd_view *view,
			       struct inode *inode)
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

static inline void del_view(void *data)
{
	struct test_view *tv = data;

	filemap_invalidate_lock(tv->inode->i_mapping);
	guest_memfd_view_del(tv->view, tv->inode);
	filemap_invalidate_unlock(tv->inode->i_mapping);
}

/* Returned so that a test can remove the view before its end. */
static inline struct test_view *add_view(struct kunit *test,
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

/* The init of every suite: all recorders of a test write to test->priv. */
static inline int record_all(struct kunit *test)
{
	struct recording *recording = kunit_kzalloc(test, sizeof(*recording),
						    GFP_KERNEL);

	if (!recording)
		return -ENOMEM;

	recording_init(recording);
	test->priv = recording;
	return 0;
}

/* A recorder that no inode knows yet; test->priv is the recording. */
static inline struct recorder *
new_recorder(struct kunit *test, const char *name,
	     const struct guest_memfd_view_ops *ops)
{
	struct recorder *recorder = kunit_kzalloc(test, sizeof(*recorder),
						  GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, recorder);
	recorder_init(recorder, test->priv, name, ops);
	return recorder;
}

static inline struct recorder *
add_recorder(struct kunit *test, struct inode *inode, const char *name,
	     const struct guest_memfd_view_ops *ops)
{
	struct recorder *recorder = new_recorder(test, name, ops);

	add_view(test, &recorder->view, inode);
	return recorder;
}

static inline struct recorder *add_owner(struct kunit *test,
					 struct inode *inode)
{
	return add_recorder(test, inode, "a", &recorder_owner_ops);
}

static inline void expect_recorded(struct kunit *test, const char *expected)
{
	struct recording *recording = test->priv;

	KUNIT_EXPECT_STREQ(test, seq_buf_str(&recording->buf), expected);
}

static inline void forget_recorded(struct kunit *test)
{
	recording_init(test->priv);
}

/* Conversions and what becomes of them */

static inline int convert(struct inode *inode, pgoff_t start, pgoff_t end,
			  enum guest_memfd_change_type type)
{
	pgoff_t error_index;

	return guest_memfd_convert(inode, start, end, type, NULL, &error_index);
}

static inline int to_private(struct inode *inode, pgoff_t start, pgoff_t end)
{
	return convert(inode, start, end, GUEST_MEMFD_TO_PRIVATE);
}

static inline int to_shared(struct inode *inode, pgoff_t start, pgoff_t end)
{
	return convert(inode, start, end, GUEST_MEMFD_TO_SHARED);
}

static inline pgoff_t run_end(struct inode *inode, pgoff_t index, pgoff_t end,
			      bool *private)
{
	filemap_invalidate_lock_shared(inode->i_mapping);
	end = guest_memfd_run_end(inode, index, end, private);
	filemap_invalidate_unlock_shared(inode->i_mapping);

	return end;
}

static inline bool all_private(struct inode *inode, pgoff_t start, pgoff_t end)
{
	bool private;

	return run_end(inode, start, end, &private) == end && private;
}

static inline bool all_shared(struct inode *inode, pgoff_t start, pgoff_t end)
{
	bool private;

	return run_end(inode, start, end, &private) == end && !private;
}

/* Shared but for pages 1, 4 and 5 and the unit that follows. */
static inline struct inode *mixed_inode(struct kunit *test)
{
	struct inode *inode = test_inode(test, 2 * UNIT);

	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 1, 2));
	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 4, 6));
	KUNIT_ASSERT_EQ(test, 0, to_private(inode, UNIT, 2 * UNIT));
	return inode;
}

/* Folios */

static inline struct folio *get_locked_folio(struct kunit *test,
					     struct inode *inode, pgoff_t index)
{
	struct folio *folio;

	filemap_invalidate_lock_shared(inode->i_mapping);
	folio = guest_memfd_get_folio(inode, index);
	filemap_invalidate_unlock_shared(inode->i_mapping);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, folio);
	return folio;
}

/* As somebody does who should not, until the test ends or lets go. */
static inline struct folio *hold_folio(struct kunit *test, struct inode *inode,
				       pgoff_t index)
{
	struct folio *folio = get_locked_folio(test, inode, index);

	folio_unlock(folio);
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, test_put_folio, folio));
	return folio;
}

static inline void let_go(struct kunit *test, struct folio *folio)
{
	kunit_release_action(test, test_put_folio, folio);
}

/* As a view that is about to map the pages does. */
static inline void populate(struct kunit *test, struct inode *inode,
			    pgoff_t start, pgoff_t end)
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
static inline bool is_mapped(struct inode *inode, pgoff_t index)
{
	struct folio *folio = filemap_get_folio(inode->i_mapping, index);
	bool mapped;

	if (IS_ERR(folio))
		return false;

	mapped = folio_mapped(folio);
	folio_put(folio);
	return mapped;
}

static inline bool is_exposed(struct inode *inode, pgoff_t index)
{
	return test_bit(index >> GMEM_UNIT_ORDER, gmem_i(inode)->exposed);
}

/* User space */

/* At an address that leaves fault-around its whole window from page 0 on. */
static inline u8 __user *map_at(struct kunit *test, struct file *file,
				pgoff_t start, pgoff_t end, unsigned long flags)
{
	unsigned long addr;

	addr = kunit_vm_mmap(test, file, SZ_1G, (end - start) << PAGE_SHIFT,
			     PROT_READ | PROT_WRITE, MAP_SHARED | flags,
			     start << PAGE_SHIFT);
	KUNIT_ASSERT_EQ(test, SZ_1G, addr);
	return (u8 __user *)addr;
}

static inline u8 __user *map(struct kunit *test, struct file *file,
			     pgoff_t nr_pages)
{
	return map_at(test, file, 0, nr_pages, 0);
}

static inline u8 __user *page_at(u8 __user *addr, pgoff_t page)
{
	return addr + (page << PAGE_SHIFT);
}

static inline int write_page(u8 __user *addr, pgoff_t page, u8 value)
{
	return put_user(value, page_at(addr, page));
}

/* Return: what is there, or -EFAULT. */
static inline int read_page(u8 __user *addr, pgoff_t page)
{
	u8 value;

	return get_user(value, page_at(addr, page)) ?: value;
}

/* What the fault handler itself says to a read. */
static inline vm_fault_t fault_page(u8 __user *addr, pgoff_t page)
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

/* User space has pages 0 to 3 mapped, and somebody holds page 2. */
static inline struct inode *inode_with_holder(struct kunit *test,
					      struct folio **folio)
{
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	u8 __user *addr = map(test, file, UNIT);
	pgoff_t page;

	for (page = 0; page < 4; page++)
		KUNIT_ASSERT_EQ(test, 0, write_page(addr, page, page + 1));

	*folio = hold_folio(test, file_inode(file), 2);
	return file_inode(file);
}

/* fallocate */

static inline int allocate(struct file *file, pgoff_t start, pgoff_t end)
{
	return vfs_fallocate(file, FALLOC_FL_KEEP_SIZE,
			     (loff_t)start << PAGE_SHIFT,
			     (loff_t)(end - start) << PAGE_SHIFT);
}

static inline int punch(struct file *file, pgoff_t start, pgoff_t end)
{
	return vfs_fallocate(file, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			     (loff_t)start << PAGE_SHIFT,
			     (loff_t)(end - start) << PAGE_SHIFT);
}

#endif /* _MM_GUEST_MEMFD_TESTS_GMEM_TEST_H */
