// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the direct map: pages leave it and come back, by themselves and
 * with the page cache.
 */
#include <kunit/test.h>

#include <linux/direct_map.h>
#include <linux/error-injection.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/hugetlb.h>
#include <linux/kprobes.h>
#include <linux/memcontrol.h>
#include <linux/memory_hotplug.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/pseudo_fs.h>
#include <linux/set_memory.h>
#include <linux/sizes.h>
#include <linux/string.h>
#include <linux/swap.h>
#include <linux/uaccess.h>
#include <linux/vmstat.h>

#include "../internal.h"

#define MARK	0xa5

/* An argument is changed on its way, in a register. */
#if defined(CONFIG_X86_64) && defined(CONFIG_KRETPROBES)
#define CAN_LET_FAIL
#endif

static unsigned long nr_flushes(void)
{
	static unsigned long events[NR_VM_EVENT_ITEMS];

	all_vm_events(events);
	return events[DIRECT_MAP_FLUSH];
}

/* How many are present, and is that so for the CPU, too? */
static unsigned long nr_present(struct kunit *test, struct page *page,
				unsigned long nr_pages)
{
	unsigned long i, nr = 0;
	bool present;
	u8 byte;

	for (i = 0; i < nr_pages; i++) {
		present = kernel_page_present(page + i);
		KUNIT_EXPECT_EQ(test, present ? 0 : -EFAULT,
				copy_from_kernel_nofault(&byte,
							 page_address(page + i),
							 1));
		nr += present;
	}

	return nr;
}

/* What a test has found out must not kill whoever gets the page next. */
static void repair(struct page *page, unsigned long nr_pages)
{
	unsigned long i;

	for (i = 0; i < nr_pages; i++)
		direct_map_restore_unpoisoned(page + i);
}

static void put_pages_back(void *data)
{
	struct page *page = data;

	repair(page, 1UL << page_private(page));
	__free_pages(page, page_private(page));
}

/* Some that are contiguous and aligned, each filled with MARK. */
static struct page *get_pages(struct kunit *test, unsigned int order)
{
	struct page *page = alloc_pages(GFP_KERNEL | __GFP_NOWARN, order);

	if (!page)
		kunit_skip(test, "no 2^%u pages in one piece", order);
	set_page_private(page, order);
	kunit_add_action_or_reset(test, put_pages_back, page);
	memset(page_address(page), MARK, PAGE_SIZE << order);
	return page;
}

static void expect_marked(struct kunit *test, struct page *page,
			  unsigned long nr_pages)
{
	u8 *byte = page_address(page);

	KUNIT_ASSERT_EQ(test, nr_pages, nr_present(test, page, nr_pages));
	KUNIT_EXPECT_NULL(test, memchr_inv(byte, MARK, nr_pages << PAGE_SHIFT));
	byte[0] = MARK;
}

/*
 * The range
 */

static void pages_leave_and_come_back_as_they_were(struct kunit *test)
{
	struct page *page = get_pages(test, 4);

	KUNIT_ASSERT_EQ(test, 0, direct_map_zap(page + 4, 8));
	KUNIT_EXPECT_EQ(test, 4, nr_present(test, page, 4));
	KUNIT_EXPECT_EQ(test, 0, nr_present(test, page + 4, 8));
	KUNIT_EXPECT_EQ(test, 4, nr_present(test, page + 12, 4));

	direct_map_restore(page + 4, 8);
	KUNIT_EXPECT_EQ(test, 16, nr_present(test, page, 16));
	expect_marked(test, page, 16);
}

static void pages_that_are_out_are_counted(struct kunit *test)
{
	struct page *page = get_pages(test, 4);
	unsigned long nr = direct_map_nr_zapped();

	KUNIT_ASSERT_EQ(test, 0, direct_map_zap(page, 16));
	KUNIT_EXPECT_EQ(test, nr + 16, direct_map_nr_zapped());
	direct_map_restore(page, 16);
	KUNIT_EXPECT_EQ(test, nr, direct_map_nr_zapped());
}

/* Every second page, so that no two ranges are one. */
static void one_flush_is_enough_for_many_ranges(struct kunit *test)
{
	struct page *page = get_pages(test, 6);
	unsigned long i, flushes = nr_flushes();
	DEFINE_DIRECT_MAP_BATCH(batch);

	for (i = 0; i < 64; i += 2)
		KUNIT_ASSERT_EQ(test, 0,
				direct_map_zap_noflush(&batch, page + i, 1));
	direct_map_flush(&batch);
	KUNIT_EXPECT_EQ(test, flushes + 1, nr_flushes());
	KUNIT_EXPECT_EQ(test, 32, nr_present(test, page, 64));

	for (i = 0; i < 64; i += 2)
		direct_map_restore(page + i, 1);
	KUNIT_EXPECT_EQ(test, 64, nr_present(test, page, 64));
}

static void empty_batch_is_not_flushed(struct kunit *test)
{
	struct page *page = get_pages(test, 0);
	unsigned long flushes = nr_flushes();
	DEFINE_DIRECT_MAP_BATCH(batch);

	direct_map_flush(&batch);
	KUNIT_EXPECT_EQ(test, flushes, nr_flushes());

	KUNIT_ASSERT_EQ(test, 0, direct_map_zap_noflush(&batch, page, 1));
	direct_map_flush(&batch);
	direct_map_flush(&batch);
	KUNIT_EXPECT_EQ(test, flushes + 1, nr_flushes());
	direct_map_restore(page, 1);
}

#ifdef CAN_LET_FAIL
/*
 * One call by @task that takes pages out fails for lack of memory, after @nr_before
 * that do not, and when it has changed @nr_pages.
 */
static struct {
	struct task_struct *task;
	unsigned int nr_before;
	unsigned int nr_pages;
} failure;

static int change_fewer_pages(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	/* Not if they are put back. */
	if (current != failure.task || regs_get_kernel_argument(regs, 2) & 1)
		return 1;
	if (failure.nr_before) {
		failure.nr_before--;
		return 1;
	}

	failure.task = NULL;
	regs->si = failure.nr_pages;
	return 0;
}

static int return_enomem(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	regs_set_return_value(regs, -ENOMEM);
	return 0;
}

static struct kretprobe failing = {
	.kp.symbol_name	= "set_direct_map_valid_noflush",
	.entry_handler	= change_fewer_pages,
	.handler	= return_enomem,
};

static void stop_failing(void *data)
{
	unregister_kretprobe(&failing);
	failing.kp.addr = NULL;
	failing.kp.flags = 0;
}

static void let_fail(struct kunit *test, unsigned int nr_before,
		     unsigned int nr_pages)
{
	failure.task = NULL;
	KUNIT_ASSERT_EQ(test, 0, register_kretprobe(&failing));
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, stop_failing, NULL));
	failure.nr_before = nr_before;
	failure.nr_pages = nr_pages;
	failure.task = current;
}

static void zap_that_fails_half_way_changes_nothing(struct kunit *test)
{
	struct page *page = get_pages(test, 4);
	unsigned long nr = direct_map_nr_zapped();

	let_fail(test, 0, 8);
	KUNIT_EXPECT_EQ(test, -ENOMEM, direct_map_zap(page, 16));
	KUNIT_EXPECT_EQ(test, 16, nr_present(test, page, 16));
	KUNIT_EXPECT_EQ(test, nr, direct_map_nr_zapped());
	expect_marked(test, page, 16);
}

#ifdef CONFIG_MEMORY_FAILURE
static void zap_that_fails_half_way_leaves_a_broken_page_out(struct kunit *test)
{
	struct page *page = get_pages(test, 4);
	DEFINE_DIRECT_MAP_BATCH(batch);

	KUNIT_ASSERT_EQ(test, 0, direct_map_zap(page + 5, 1));
	SetPageHWPoison(page + 5);
	atomic_long_inc(&num_poisoned_pages);
	let_fail(test, 0, 8);
	KUNIT_EXPECT_EQ(test, -ENOMEM, direct_map_zap_noflush(&batch, page, 16));
	ClearPageHWPoison(page + 5);
	atomic_long_dec(&num_poisoned_pages);

	KUNIT_EXPECT_EQ(test, 5, nr_present(test, page, 5));
	KUNIT_EXPECT_EQ(test, 0, nr_present(test, page + 5, 1));
	KUNIT_EXPECT_EQ(test, 10, nr_present(test, page + 6, 10));
	direct_map_restore(page + 5, 1);
}
#endif
#endif

#ifdef CONFIG_MEMORY_FAILURE
static void broken_page_stays_out_until_it_is_unpoisoned(struct kunit *test)
{
	struct page *page = get_pages(test, 4);

	KUNIT_ASSERT_EQ(test, 0, direct_map_zap(page, 16));
	SetPageHWPoison(page + 5);
	atomic_long_inc(&num_poisoned_pages);
	direct_map_restore(page, 16);
	ClearPageHWPoison(page + 5);
	atomic_long_dec(&num_poisoned_pages);

	KUNIT_EXPECT_EQ(test, 5, nr_present(test, page, 5));
	KUNIT_EXPECT_EQ(test, 0, nr_present(test, page + 5, 1));
	KUNIT_EXPECT_EQ(test, 10, nr_present(test, page + 6, 10));

	direct_map_restore_unpoisoned(page + 5);
	KUNIT_ASSERT_EQ(test, 16, nr_present(test, page, 16));
	expect_marked(test, page, 5);
	/* Whoever let go of it could not clear it. */
	KUNIT_EXPECT_NULL(test, memchr_inv(page_address(page + 5), 0, PAGE_SIZE));
	expect_marked(test, page + 6, 10);
}

static void unpoison(void *data)
{
	unpoison_memory((unsigned long)data);
}

/* It is out if free pages are. */
static void page_that_broke_while_it_was_free_is_as_free_ones(struct kunit *test)
{
	struct page *page = alloc_pages(GFP_KERNEL, 4);
	unsigned long pfn;
	bool present;

	KUNIT_ASSERT_NOT_NULL(test, page);
	pfn = page_to_pfn(page + 5);
	__free_pages(page, 4);
	if (!is_free_buddy_page(page + 5))
		kunit_skip(test, "somebody has taken it");
	present = kernel_page_present(page + 5);

	kunit_add_action(test, unpoison, (void *)pfn);
	KUNIT_ASSERT_EQ(test, 0, memory_failure(pfn, MF_SW_SIMULATED));
	KUNIT_ASSERT_EQ(test, 0, unpoison_memory(pfn));
	KUNIT_EXPECT_EQ(test, present, kernel_page_present(page + 5));
}

static void free_dropped_page(void *data)
{
	struct page *page = data;

	ClearPageHWPoison(page);
	atomic_long_dec(&num_poisoned_pages);
	repair(page, 1);
	set_page_refcounted(page);
	__free_page(page);
}

/* Its last reference may be on its way to the allocator, which looks at the mark. */
static void broken_page_without_references_stays_marked(struct kunit *test)
{
	struct page *page = alloc_page(GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, page);
	KUNIT_ASSERT_EQ(test, 0, direct_map_zap(page, 1));
	SetPageHWPoison(page);
	atomic_long_inc(&num_poisoned_pages);
	direct_map_restore(page, 1);
	__free_page(page);
	kunit_add_action(test, free_dropped_page, page);

	KUNIT_EXPECT_EQ(test, -EBUSY, unpoison_memory(page_to_pfn(page)));
	KUNIT_EXPECT_TRUE(test, PageHWPoison(page));
	KUNIT_EXPECT_FALSE(test, kernel_page_present(page));
}
#endif

#if defined(CONFIG_MEMORY_FAILURE) && defined(CONFIG_ZONE_DEVICE)
/* Nothing is there; it has entries and struct pages, but must not be touched. */
static struct page *plug_memory(struct kunit *test, struct dev_pagemap *pgmap)
{
	pgmap->type = MEMORY_DEVICE_GENERIC;
	pgmap->nr_range = 1;
	pgmap->range.end = round_down(mhp_get_pluggable_range(true).end,
				      SZ_128M) - 1;
	pgmap->range.start = pgmap->range.end + 1 - SZ_128M;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, memremap_pages(pgmap, NUMA_NO_NODE));
	return pfn_to_page(PHYS_PFN(pgmap->range.start));
}

/* What the page that was broken said of itself is gone with it. */
static void broken_page_leaves_no_hole_in_memory_that_comes_anew(struct kunit *test)
{
	struct dev_pagemap pgmap = {};
	struct page *page;

	page = plug_memory(test, &pgmap);
	KUNIT_EXPECT_EQ(test, 0, direct_map_zap(page + 5, 1));
	SetPageHWPoison(page + 5);
	direct_map_restore(page + 5, 1);
	ClearPageHWPoison(page + 5);
	KUNIT_EXPECT_FALSE(test, kernel_page_present(page + 5));
	memunmap_pages(&pgmap);

	page = plug_memory(test, &pgmap);
	KUNIT_EXPECT_TRUE(test, kernel_page_present(page + 5));
	memunmap_pages(&pgmap);
}
#endif

#ifdef CONFIG_X86_64
static unsigned int level_of(struct page *page, pteval_t *val)
{
	unsigned int level;

	*val = pte_val(*lookup_address((unsigned long)page_address(page),
				       &level));
	return level;
}

/* Of the entry nothing is lost, and what is large stays large. */
static void large_entry_comes_back_whole(struct kunit *test)
{
	struct page *page = get_pages(test, PMD_ORDER);
	pteval_t before, val;
	unsigned int level;

	/* The first time may split what is larger, for good. */
	KUNIT_ASSERT_EQ(test, 0, direct_map_zap(page, PTRS_PER_PMD));
	direct_map_restore(page, PTRS_PER_PMD);

	level = level_of(page, &before);
	KUNIT_EXPECT_TRUE(test, before & _PAGE_DIRTY);
	KUNIT_EXPECT_EQ(test, before & _PAGE_GLOBAL,
			_PAGE_GLOBAL & __default_kernel_pte_mask);

	KUNIT_ASSERT_EQ(test, 0, direct_map_zap(page, PTRS_PER_PMD));
	KUNIT_EXPECT_EQ(test, level, level_of(page, &val));
	KUNIT_EXPECT_FALSE(test, val & _PAGE_PRESENT);
	direct_map_restore(page, PTRS_PER_PMD);
	KUNIT_EXPECT_EQ(test, level, level_of(page, &val));
	KUNIT_EXPECT_EQ(test, before, val);
	expect_marked(test, page, PTRS_PER_PMD);
}

/* As set_mce_nospec() does. */
static void entry_that_was_split_while_it_was_out_comes_back(struct kunit *test)
{
	struct page *page = get_pages(test, PMD_ORDER);
	unsigned long addr = (unsigned long)page_address(page);
	pteval_t val;

	KUNIT_ASSERT_EQ(test, 0, direct_map_zap(page, PTRS_PER_PMD));
	KUNIT_ASSERT_EQ(test, 0, set_memory_np(addr + 7 * PAGE_SIZE, 1));
	KUNIT_ASSERT_EQ(test, 0, set_memory_4k(addr + 8 * PAGE_SIZE, 1));
	KUNIT_EXPECT_EQ(test, PG_LEVEL_4K, level_of(page, &val));
	KUNIT_EXPECT_EQ(test, 0, nr_present(test, page, PTRS_PER_PMD));

	direct_map_restore(page, PTRS_PER_PMD);
	KUNIT_EXPECT_EQ(test, PTRS_PER_PMD,
			nr_present(test, page, PTRS_PER_PMD));
	expect_marked(test, page, PTRS_PER_PMD);
}
#endif

static struct kunit_case range_cases[] = {
	KUNIT_CASE(pages_leave_and_come_back_as_they_were),
	KUNIT_CASE(pages_that_are_out_are_counted),
	KUNIT_CASE(one_flush_is_enough_for_many_ranges),
	KUNIT_CASE(empty_batch_is_not_flushed),
#ifdef CAN_LET_FAIL
	KUNIT_CASE(zap_that_fails_half_way_changes_nothing),
#ifdef CONFIG_MEMORY_FAILURE
	KUNIT_CASE(zap_that_fails_half_way_leaves_a_broken_page_out),
#endif
#endif
#ifdef CONFIG_MEMORY_FAILURE
	KUNIT_CASE(broken_page_stays_out_until_it_is_unpoisoned),
	KUNIT_CASE(page_that_broke_while_it_was_free_is_as_free_ones),
	KUNIT_CASE(broken_page_without_references_stays_marked),
#ifdef CONFIG_ZONE_DEVICE
	KUNIT_CASE(broken_page_leaves_no_hole_in_memory_that_comes_anew),
#endif
#endif
#ifdef CONFIG_X86_64
	KUNIT_CASE(large_entry_comes_back_whole),
	KUNIT_CASE(entry_that_was_split_while_it_was_out_comes_back),
#endif
	{}
};

/*
 * The page cache
 */

/* What ->free_folio has found. */
static unsigned int nr_freed, nr_freed_present;

static void cache_free_folio(struct folio *folio)
{
	nr_freed++;
	nr_freed_present += kernel_page_present(&folio->page);
}

static const struct address_space_operations cache_aops = {
	.dirty_folio	= noop_dirty_folio,
	.free_folio	= cache_free_folio,
};

static int cache_init_fs_context(struct fs_context *fc)
{
	return init_pseudo(fc, 0x64697265) ? 0 : -ENOMEM;
}

static struct file_system_type cache_fs = {
	.name		 = "direct_map_kunit",
	.init_fs_context = cache_init_fs_context,
	.kill_sb	 = kill_anon_super,
};

static struct vfsmount *cache_mnt;

static int cache_init(struct kunit_suite *suite)
{
	cache_mnt = kern_mount(&cache_fs);
	return PTR_ERR_OR_ZERO(cache_mnt);
}

static void cache_exit(struct kunit_suite *suite)
{
	if (!IS_ERR(cache_mnt))
		kern_unmount(cache_mnt);
}

static void put_inode(void *data)
{
	iput(data);
}

static struct address_space *new_mapping(struct kunit *test)
{
	struct inode *inode = alloc_anon_inode(cache_mnt->mnt_sb);

	KUNIT_ASSERT_FALSE(test, IS_ERR(inode));
	kunit_add_action_or_reset(test, put_inode, inode);
	inode->i_mapping->a_ops = &cache_aops;
	mapping_set_unevictable(inode->i_mapping);
	mapping_set_no_direct_map(inode->i_mapping);
	nr_freed = 0;
	nr_freed_present = 0;
	return inode->i_mapping;
}

static void put_folio(void *data)
{
	struct folio *folio = data;

	if (!folio->mapping)
		repair(&folio->page, 1);
	folio_put(folio);
}

static struct folio *new_folio(struct kunit *test)
{
	struct folio *folio = folio_alloc(GFP_KERNEL | __GFP_ZERO, 0);

	KUNIT_ASSERT_NOT_NULL(test, folio);
	kunit_add_action_or_reset(test, put_folio, folio);
	__folio_mark_uptodate(folio);
	return folio;
}

/* Add one, locked, with a reference of the page cache and one of the test. */
static struct folio *add_folio(struct kunit *test, struct address_space *mapping,
			       pgoff_t index)
{
	struct folio *folio = new_folio(test);

	KUNIT_ASSERT_EQ(test, 0,
			filemap_add_folio(mapping, folio, index, GFP_KERNEL));
	KUNIT_EXPECT_FALSE(test, kernel_page_present(&folio->page));
	return folio;
}

static void expect_removed(struct kunit *test, struct address_space *mapping,
			   struct folio *folio)
{
	KUNIT_EXPECT_EQ(test, 0, mapping->nrpages);
	KUNIT_EXPECT_EQ(test, 1, nr_freed);
	KUNIT_EXPECT_EQ(test, 1, nr_freed_present);
	KUNIT_ASSERT_TRUE(test, kernel_page_present(&folio->page));
	KUNIT_EXPECT_NULL(test, memchr_inv(folio_address(folio), 0, PAGE_SIZE));
}

static void folio_that_is_removed_comes_back(struct kunit *test)
{
	struct address_space *mapping = new_mapping(test);
	struct folio *folio = add_folio(test, mapping, 3);

	filemap_remove_folio(folio);
	folio_unlock(folio);
	expect_removed(test, mapping, folio);
}

static void folio_that_is_truncated_comes_back(struct kunit *test)
{
	struct address_space *mapping = new_mapping(test);
	struct folio *folio = add_folio(test, mapping, 3);

	folio_unlock(folio);
	truncate_inode_pages(mapping, 0);
	expect_removed(test, mapping, folio);
}

static void folio_that_is_invalidated_comes_back(struct kunit *test)
{
	struct address_space *mapping = new_mapping(test);
	struct folio *folio = add_folio(test, mapping, 3);

	folio_unlock(folio);
	KUNIT_EXPECT_EQ(test, 0, invalidate_inode_pages2(mapping));
	expect_removed(test, mapping, folio);
}

/* As kswapd would if the mapping were not unevictable. */
static void folio_that_is_reclaimed_comes_back(struct kunit *test)
{
	struct address_space *mapping = new_mapping(test);
	struct folio *folio = add_folio(test, mapping, 3);

	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, 1, remove_mapping(mapping, folio));
	folio_unlock(folio);
	expect_removed(test, mapping, folio);
}

/* The place is taken: the one that is there stays out, the other one is back. */
static void folio_that_cannot_be_added_comes_back(struct kunit *test)
{
	struct address_space *mapping = new_mapping(test);
	struct folio *first = add_folio(test, mapping, 3);
	struct folio *folio = new_folio(test);
	unsigned long nr = direct_map_nr_zapped();

	folio_unlock(first);
	KUNIT_EXPECT_EQ(test, -EEXIST,
			filemap_add_folio(mapping, folio, 3, GFP_KERNEL));
	KUNIT_EXPECT_TRUE(test, kernel_page_present(&folio->page));
	KUNIT_EXPECT_FALSE(test, kernel_page_present(&first->page));
	KUNIT_EXPECT_EQ(test, nr, direct_map_nr_zapped());

	truncate_inode_pages(mapping, 0);
}

/* Its successor was taken out by whoever has replaced it. */
static void folio_that_is_replaced_comes_back(struct kunit *test)
{
	struct address_space *mapping = new_mapping(test);
	struct folio *folio = add_folio(test, mapping, 3);
	struct folio *successor = new_folio(test);

	folio_lock(successor);
	KUNIT_ASSERT_EQ(test, 0, folio_zap_direct_map(successor));
	replace_page_cache_folio(folio, successor);
	folio_unlock(folio);
	folio_unlock(successor);
	KUNIT_EXPECT_TRUE(test, kernel_page_present(&folio->page));
	KUNIT_EXPECT_EQ(test, 1, nr_freed_present);
	KUNIT_EXPECT_FALSE(test, kernel_page_present(&successor->page));

	truncate_inode_pages(mapping, 0);
	KUNIT_EXPECT_TRUE(test, kernel_page_present(&successor->page));
}

/* The CPU has it in its TLB. */
static void folio_that_was_just_read_cannot_be_read(struct kunit *test)
{
	struct address_space *mapping = new_mapping(test);
	struct folio *folio = new_folio(test);

	KUNIT_ASSERT_EQ(test, 1, nr_present(test, &folio->page, 1));
	KUNIT_ASSERT_EQ(test, 0,
			filemap_add_folio(mapping, folio, 3, GFP_KERNEL));
	KUNIT_EXPECT_EQ(test, 0, nr_present(test, &folio->page, 1));

	filemap_remove_folio(folio);
	folio_unlock(folio);
}

#ifdef CONFIG_FUNCTION_ERROR_INJECTION
static struct task_struct *failing_task;

static int return_enomem_at_once(struct kprobe *kp, struct pt_regs *regs)
{
	if (current != failing_task)
		return 0;

	regs_set_return_value(regs, -ENOMEM);
	override_function_with_return(regs);
	return 1;
}

static void folio_that_cannot_leave_is_not_added(struct kunit *test)
{
	struct kprobe failing_zap = {
		.symbol_name	= "folio_zap_direct_map",
		.pre_handler	= return_enomem_at_once,
	};
	struct address_space *mapping = new_mapping(test);
	struct folio *folio = new_folio(test);
	int err;

	failing_task = current;
	KUNIT_ASSERT_EQ(test, 0, register_kprobe(&failing_zap));
	err = filemap_add_folio(mapping, folio, 3, GFP_KERNEL);
	unregister_kprobe(&failing_zap);

	KUNIT_EXPECT_EQ(test, -ENOMEM, err);
	KUNIT_EXPECT_EQ(test, 0, mapping->nrpages);
	KUNIT_EXPECT_FALSE(test, folio_memcg_charged(folio));
}
#endif

static void one_folio_costs_one_flush(struct kunit *test)
{
	struct address_space *mapping = new_mapping(test);
	unsigned long flushes = nr_flushes();
	struct folio *folio = add_folio(test, mapping, 3);

	KUNIT_EXPECT_EQ(test, flushes + 1, nr_flushes());
	filemap_remove_folio(folio);
	folio_unlock(folio);
	KUNIT_EXPECT_EQ(test, flushes + 1, nr_flushes());
}

#define NR_RUN	16

static void get_run(struct kunit *test, struct folio **folios)
{
	unsigned int i;

	for (i = 0; i < NR_RUN; i++)
		folios[i] = new_folio(test);
}

/* Those that were added are out, and only they; nobody needs them any longer. */
static void expect_out_and_unlock(struct kunit *test, struct folio **folios,
				  unsigned int nr_added)
{
	unsigned int i;

	for (i = 0; i < NR_RUN; i++)
		KUNIT_EXPECT_EQ(test, i >= nr_added,
				kernel_page_present(&folios[i]->page));
	for (i = 0; i < nr_added; i++)
		folio_unlock(folios[i]);
}

static void run_of_folios_costs_one_flush(struct kunit *test)
{
	struct address_space *mapping = new_mapping(test);
	unsigned long flushes = nr_flushes();
	struct folio *folios[NR_RUN];
	unsigned int i;

	get_run(test, folios);
	KUNIT_ASSERT_EQ(test, NR_RUN,
			filemap_add_folios(mapping, folios, NR_RUN, 100,
					   GFP_KERNEL));
	KUNIT_EXPECT_EQ(test, flushes + 1, nr_flushes());
	for (i = 0; i < NR_RUN; i++)
		KUNIT_EXPECT_EQ(test, 100 + i, folios[i]->index);
	expect_out_and_unlock(test, folios, NR_RUN);

	truncate_inode_pages(mapping, 0);
	for (i = 0; i < NR_RUN; i++)
		KUNIT_EXPECT_TRUE(test, kernel_page_present(&folios[i]->page));
}

static void run_of_folios_ends_where_there_is_one(struct kunit *test)
{
	struct address_space *mapping = new_mapping(test);
	struct folio *there = add_folio(test, mapping, 105);
	unsigned long nr = direct_map_nr_zapped();
	struct folio *folios[NR_RUN];

	folio_unlock(there);
	get_run(test, folios);
	KUNIT_ASSERT_EQ(test, 5,
			filemap_add_folios(mapping, folios, NR_RUN, 100,
					   GFP_KERNEL));
	expect_out_and_unlock(test, folios, 5);
	KUNIT_EXPECT_EQ(test, nr + 5, direct_map_nr_zapped());
	KUNIT_EXPECT_EQ(test, -EEXIST,
			filemap_add_folios(mapping, folios + 5, NR_RUN - 5, 105,
					   GFP_KERNEL));
	KUNIT_EXPECT_EQ(test, nr + 5, direct_map_nr_zapped());

	truncate_inode_pages(mapping, 0);
}

#ifdef CAN_LET_FAIL
static void run_of_folios_ends_where_one_cannot_leave(struct kunit *test)
{
	struct address_space *mapping = new_mapping(test);
	unsigned long nr = direct_map_nr_zapped();
	struct folio *folios[NR_RUN];

	get_run(test, folios);
	let_fail(test, 5, 0);
	KUNIT_ASSERT_EQ(test, 5,
			filemap_add_folios(mapping, folios, NR_RUN, 100,
					   GFP_KERNEL));
	expect_out_and_unlock(test, folios, 5);
	KUNIT_EXPECT_EQ(test, nr + 5, direct_map_nr_zapped());

	truncate_inode_pages(mapping, 0);
}
#endif

static struct kunit_case cache_cases[] = {
	KUNIT_CASE(folio_that_is_removed_comes_back),
	KUNIT_CASE(folio_that_is_truncated_comes_back),
	KUNIT_CASE(folio_that_is_invalidated_comes_back),
	KUNIT_CASE(folio_that_is_reclaimed_comes_back),
	KUNIT_CASE(folio_that_cannot_be_added_comes_back),
	KUNIT_CASE(folio_that_is_replaced_comes_back),
	KUNIT_CASE(folio_that_was_just_read_cannot_be_read),
#ifdef CONFIG_FUNCTION_ERROR_INJECTION
	KUNIT_CASE(folio_that_cannot_leave_is_not_added),
#endif
	KUNIT_CASE(one_folio_costs_one_flush),
	KUNIT_CASE(run_of_folios_costs_one_flush),
	KUNIT_CASE(run_of_folios_ends_where_there_is_one),
#ifdef CAN_LET_FAIL
	KUNIT_CASE(run_of_folios_ends_where_one_cannot_leave),
#endif
	{}
};

static int direct_map_init(struct kunit *test)
{
	if (!can_set_direct_map())
		kunit_skip(test, "this machine cannot change its direct map");
	return 0;
}

static struct kunit_suite range_suite = {
	.name		= "direct_map_range",
	.init		= direct_map_init,
	.test_cases	= range_cases,
};

static struct kunit_suite cache_suite = {
	.name		= "direct_map_cache",
	.suite_init	= cache_init,
	.suite_exit	= cache_exit,
	.init		= direct_map_init,
	.test_cases	= cache_cases,
};

kunit_test_suites(&range_suite, &cache_suite);
