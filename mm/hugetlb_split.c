// SPDX-License-Identifier: GPL-2.0-only
/*
 * hugetlb_split: a hugetlb folio is broken into order-0 folios and put together
 * again.
 *
 * All pages are frozen, that is have no reference, from before the first to
 * after the last step of either way: whoever finds one by its frame number
 * cannot get a reference and looks elsewhere.
 */
#include <linux/bitops.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/hugetlb_cgroup.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/page_owner.h>
#include <linux/pgalloc_tag.h>
#include <linux/sched/mm.h>

#include "hugetlb_internal.h"
#include "hugetlb_split.h"
#include "hugetlb_vmemmap.h"
#include "internal.h"
#include "page_alloc.h"

/* Others that look at a folio by its frame number let go of it soon. */
#define HUGETLB_FREEZE_TRIES	100

/*
 * What a folio that was taken is in.  Without a mapping unpoison_memory() would
 * take the only reference for one of memory_failure()'s, and put it, as it does
 * to a folio that is just being allocated, for hugetlbfs or for this.
 */
static struct address_space hugetlb_taken_mapping = {
	.a_ops = &empty_aops,
};

/**
 * hugetlb_take_folio() - take a folio out of the pool
 * @h: the pool
 * @spool: where it may have been reserved
 * @mpoli: the nodes it may come from
 *
 * If nothing is left of the reservation of @spool, one that nobody has reserved
 * is taken, and the caller's cgroup charged for that as well.  It is never
 * movable memory: a page of it may be pinned.
 *
 * Context: may sleep.
 * Return: the folio, charged to the caller's cgroups and with one reference, or
 * an ERR_PTR:
 *
 * * -ENOSPC: there is none on the nodes of @mpoli that can be pinned, or a cgroup is
 *   at its limit
 */
struct folio *hugetlb_take_folio(struct hstate *h,
				 struct hugepage_subpool *spool,
				 struct mempolicy_interpreted *mpoli)
{
	unsigned int pin = memalloc_pin_save();
	struct folio *folio;
	u8 flags = HUGETLB_ALLOC_CHARG_CGROUP_RSVD;

	/* Without a reservation left it changes nothing and returns one. */
	if (hugepage_subpool_get_pages(spool, 1))
		spool = NULL;
	else
		flags = HUGETLB_ALLOC_USE_GLOBAL_RESERVATIONS;

	folio = hugetlb_alloc_folio(h, mpoli, current->mm, flags);
	memalloc_pin_restore(pin);
	if (IS_ERR(folio)) {
		if (spool)
			hugepage_subpool_put_pages(spool, 1);
		return folio;
	}

	/* From now on the subpool gets it back, and with it the reservation. */
	hugetlb_set_folio_subpool(folio, spool);
	folio_clear_hugetlb_restore_reserve(folio);
	/* Until it is split, or free again. */
	folio->mapping = &hugetlb_taken_mapping;
	return folio;
}

static bool hugetlb_freeze_folio(struct folio *folio)
{
	unsigned int tries;

	for (tries = 0; tries < HUGETLB_FREEZE_TRIES; tries++) {
		if (folio_ref_freeze(folio, 1)) {
			if (!folio_test_hwpoison(folio))
				return true;
			folio_ref_unfreeze(folio, 1);
			return false;
		}
		cond_resched();
	}

	return false;
}

/* memory_failure() may mark it now; a tail page has hardly ever other flags. */
static void hugetlb_clear_flags(struct page *page)
{
	if (page->flags.f & PAGE_FLAGS_CHECK_AT_PREP)
		set_mask_bits(&page->flags.f, PAGE_FLAGS_CHECK_AT_PREP, 0);
}

/* A tail page, but for the first few, knows nothing but its head. */
static void hugetlb_split_page(struct page *page, unsigned long memcg_data)
{
	struct folio *folio = (struct folio *)page;

	VM_WARN_ON_ONCE_PAGE(atomic_read(&page->_mapcount) != -1, page);

	hugetlb_clear_flags(page);
	folio->mlock_count = 0;
	folio->mapping = NULL;
	folio->index = 0;
	folio->private = NULL;
#ifdef CONFIG_MEMCG
	folio->memcg_data = memcg_data;
#endif
	/*
	 * Whoever finds this page without a head must find it as it is from
	 * now on.
	 */
	smp_wmb();
	clear_compound_head(page);
}

static void hugetlb_split_pages(struct folio *folio)
{
	const unsigned int order = folio_order(folio);
	struct page *head = &folio->page;
	unsigned long memcg_data = 0;
	unsigned long i;

#ifdef CONFIG_MEMCG
	memcg_data = folio->memcg_data;
#endif
	folio_split_memcg_refs(folio, order, 0);
	split_page_owner(head, order, 0);
	pgalloc_tag_split(folio, order, 0);

	set_mask_bits(&head[1].flags.f, PAGE_FLAGS_SECOND, 0);
	for (i = 1; i < 1UL << order; i++)
		hugetlb_split_page(head + i, memcg_data);

	ClearPageCompound(head);
	hugetlb_clear_flags(head);
	folio->mlock_count = 0;
	folio->mapping = NULL;
	folio->private = NULL;
}

/* What is on an LRU list has a memory cgroup, if need be the root. */
static int hugetlb_charge_root(struct folio *folio)
{
	struct mem_cgroup *memcg = set_active_memcg(root_mem_cgroup);
	int err = mem_cgroup_charge(folio, NULL, GFP_KERNEL);

	set_active_memcg(memcg);
	return err;
}

/**
 * hugetlb_split_folio() - break a hugetlb folio into order-0 folios
 * @folio: from hugetlb_take_folio(), nobody else has a reference
 * @split: what will stand for it; the caller keeps it until it is joined
 *
 * Afterwards no page has a reference; give each one with set_page_count() when
 * it is ready to be found.  No other page gets lost or moves: the last reference
 * to a page may only be taken away by freezing it.
 *
 * Context: may sleep.
 * Return: 0, or a negative errno and a folio that is as it was:
 *
 * * -EBUSY: somebody has a reference, or the folio is broken
 * * -ENOMEM: no memory for the struct pages that the pool had saved, or for
 *   the charge
 */
int hugetlb_split_folio(struct folio *folio, struct hugetlb_split *split)
{
	struct hstate *h = folio_hstate(folio);
	int err;

	if (!hugetlb_freeze_folio(folio))
		return -EBUSY;

	/* Before a charge changes who the statistics are of. */
	lruvec_stat_mod_folio(folio, NR_HUGETLB, -folio_nr_pages(folio));
	split->uncharge = !folio_memcg_charged(folio);
	if (split->uncharge) {
		err = hugetlb_charge_root(folio);
		if (err)
			goto err_stat;
	}

	err = hugetlb_vmemmap_restore_folio(h, folio);
	if (err)
		goto err_uncharge;

	spin_lock_irq(&hugetlb_lock);
	/* Broken meanwhile: memory_failure() knows it as a hugetlb folio. */
	if (folio_test_hwpoison(folio)) {
		spin_unlock_irq(&hugetlb_lock);
		err = -EBUSY;
		goto err_uncharge;
	}
	split->h = h;
	split->page = &folio->page;
	split->cgroup = hugetlb_cgroup_from_folio(folio);
	split->cgroup_rsvd = hugetlb_cgroup_from_folio_rsvd(folio);
	split->private = folio_get_private(folio);
	list_del(&folio->lru);
	__folio_clear_hugetlb(folio);
	list_add(&split->node, &h->hugepage_splitlist);
	spin_unlock_irq(&hugetlb_lock);

	hugetlb_split_pages(folio);
	return 0;

	/* Struct pages that are there again stay: nobody may replace them now. */
err_uncharge:
	if (split->uncharge)
		mem_cgroup_uncharge(folio);
err_stat:
	lruvec_stat_mod_folio(folio, NR_HUGETLB, folio_nr_pages(folio));
	folio_ref_unfreeze(folio, 1);
	return err;
}

#ifdef CONFIG_MEMCG
/* memory_failure() uncharges the page: then there is no whole to charge. */
static void hugetlb_join_memcg(struct page *head, unsigned int order)
{
	unsigned long i, nr_pages = 1UL << order;

	for (i = 1; i < nr_pages; i++)
		if (head[i].memcg_data != head->memcg_data)
			break;
	if (i == nr_pages) {
		folio_join_memcg_refs(page_folio(head), order);
		return;
	}

	for (i = 0; i < nr_pages; i++)
		mem_cgroup_uncharge(page_folio(head + i));
}
#else
static void hugetlb_join_memcg(struct page *head, unsigned int order)
{
}
#endif

/* Return how many of the pages are broken. */
static unsigned long hugetlb_join_pages(struct page *head, unsigned int order)
{
	const unsigned long keep = ~(PAGE_FLAGS_CHECK_AT_PREP & ~__PG_HWPOISON);
	unsigned long i, nr_broken = 0;

	hugetlb_join_memcg(head, order);
	pgalloc_tag_join(page_folio(head), order);

	for (i = 0; i < 1UL << order; i++) {
		struct page *page = head + i;

		VM_WARN_ON_ONCE_PAGE(page_ref_count(page), page);
		nr_broken += PageHWPoison(page);
		page->flags.f &= keep;
		page->private = 0;
#ifdef CONFIG_MEMCG
		if (i)
			page->memcg_data = 0;
#endif
	}

	prep_compound_page(head, order);
	return nr_broken;
}

#ifdef CONFIG_MEMORY_FAILURE
/* From now on the folio knows which of its pages are broken, not they. */
static void hugetlb_tell_broken(struct folio *folio, unsigned long nr_broken)
{
	unsigned long i, nr_pages = folio_nr_pages(folio);

	for (i = 0; nr_broken && i < nr_pages; i++) {
		struct page *page = folio_page(folio, i);

		if (!TestClearPageHWPoison(page))
			continue;
		nr_broken--;
		hugetlb_update_hwpoison(folio, page);
	}
}

static void hugetlb_put_broken(struct folio *folio,
			       struct hugepage_subpool *spool)
{
	folio_put(folio);
	dissolve_hugetlb_folio(folio, spool);
}

/**
 * hugetlb_free_healthy() - give a folio to the allocator but for what is broken
 * @folio: frozen, and no longer of hugetlb; each page says whether it is broken
 *
 * The allocator sees pages one by one.  As part of a larger one, it would write
 * to a broken page, which need not be in the direct map, and give it out again.
 * Each keeps one reference instead, as if memory_failure() had taken it, and stays
 * allocated for page_owner and the like until it is unpoisoned and freed: they count
 * each page that is freed once.  One that breaks right now either is seen here, or
 * by the allocator, which drops it.
 *
 * Context: as __free_contig_range().
 */
void hugetlb_free_healthy(struct folio *folio)
{
	unsigned long i, start = 0, nr_pages = folio_nr_pages(folio);
	struct page *head = &folio->page;

	hugetlb_split_pages(folio);
	for (i = 0; i < nr_pages; i++) {
		set_page_refcounted(head + i);
		if (!PageHWPoison(head + i))
			continue;

		__free_contig_range(page_to_pfn(head + start), i - start);
		start = i + 1;
	}
	__free_contig_range(page_to_pfn(head + start), nr_pages - start);
}
#else
static void hugetlb_tell_broken(struct folio *folio, unsigned long nr_broken)
{
}

static void hugetlb_put_broken(struct folio *folio,
			       struct hugepage_subpool *spool)
{
}
#endif

/*
 * Not without end: memory_failure() may be waiting for the caller.  After that
 * the folio stays in the pool, and so does its reservation, as for hugetlbfs.
 */
#define HUGETLB_RETURN_TRIES	100

/**
 * hugetlb_return_folio() - give a folio back that was not split
 * @folio: from hugetlb_take_folio()
 * @spool: the subpool whose reservation it takes with it, or NULL
 *
 * One that broke meanwhile is dissolved, as by hugetlb_join_folio().
 *
 * Context: process context, may sleep.  Nobody else takes from @spool or gives
 * back.
 */
void hugetlb_return_folio(struct folio *folio, struct hugepage_subpool *spool)
{
	unsigned int tries;

	hugetlb_set_folio_subpool(folio, spool);
	if (!folio_test_hwpoison(folio)) {
		folio_put(folio);
		return;
	}

	for (tries = 0; tries < HUGETLB_RETURN_TRIES; tries++) {
		if (memory_failure_tryhold()) {
			hugetlb_put_broken(folio, spool);
			memory_failure_release();
			return;
		}
		fsleep(1000);
	}
	folio_put(folio);
}

/**
 * hugetlb_join_folio() - put a hugetlb folio together again and give it back
 * @split: as hugetlb_split_folio() has left it
 * @spool: the subpool whose reservation it takes with it, or NULL
 *
 * All pages are frozen and out of every list, mapping and LRU.  If some of them
 * are broken the folio is dissolved: the others go to the buddy allocator.  If
 * all that is free is reserved, @spool has one reservation less afterwards.
 *
 * Context: process context, may sleep; between memory_failure_tryhold(), from
 * before the pages were frozen, and memory_failure_release().  Nobody else takes
 * from @spool or gives back.
 */
void hugetlb_join_folio(struct hugetlb_split *split,
			struct hugepage_subpool *spool)
{
	struct hstate *h = split->h;
	struct folio *folio = page_folio(split->page);
	unsigned long nr_broken;

	nr_broken = hugetlb_join_pages(split->page, huge_page_order(h));
	if (split->uncharge)
		mem_cgroup_uncharge(folio);
	init_new_hugetlb_folio(folio);
	folio_change_private(folio, split->private);
	lruvec_stat_mod_folio(folio, NR_HUGETLB, folio_nr_pages(folio));
	/* Replaces the struct page of the head: before it is on any list. */
	if (!nr_broken)
		hugetlb_vmemmap_optimize_folio(h, folio);

	spin_lock_irq(&hugetlb_lock);
	list_del(&split->node);
	list_add(&folio->lru, &h->hugepage_activelist);
	hugetlb_set_folio_subpool(folio, spool);
	set_hugetlb_cgroup(folio, split->cgroup);
	set_hugetlb_cgroup_rsvd(folio, split->cgroup_rsvd);
	spin_unlock_irq(&hugetlb_lock);

	hugetlb_tell_broken(folio, nr_broken);
	folio_ref_unfreeze(folio, 1);
	if (nr_broken)
		hugetlb_put_broken(folio, spool);
	else
		folio_put(folio);
}
