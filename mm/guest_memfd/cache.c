// SPDX-License-Identifier: GPL-2.0-only
/*
 * cache: the pages of a block enter and leave the page cache, many at a time.
 *
 * Does for XA_CHUNK_SIZE pages at once what the page cache does for one folio:
 * one walk, one update of each counter.  Pages that nobody else uses are frozen
 * on the way, so that no lock of theirs is needed.
 */
#include <linux/bitops.h>
#include <linux/hugetlb.h>
#include <linux/init.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/pagemap.h>
#include <linux/vmstat.h>

#include "../internal.h"
#include "internal.h"

/* What a page of a block is from the start: zeroed, there is no other copy. */
#define GMEM_CACHE_FLAGS	(BIT(PG_uptodate) | BIT(PG_dirty) | \
				 BIT(PG_lru) | BIT(PG_unevictable))

/* All pages here are order-0 folios: there is no head to look for. */
static struct folio *gmem_cache_folio(struct page *page)
{
	VM_WARN_ON_ONCE_PAGE(PageTail(page), page);
	return (struct folio *)page;
}

/* Nobody reclaims from the unevictable list: it is only a number. */
static void gmem_cache_count_lru(struct folio *folio, long nr_pages)
{
	struct lruvec *lruvec;

	if (!nr_pages)
		return;

	lruvec = folio_lruvec_lock_irq(folio);
	update_lru_size(lruvec, LRU_UNEVICTABLE, folio_zonenum(folio), nr_pages);
	lruvec_unlock_irq(lruvec);
}

/* Nobody but memory_failure() can get at the flags of a page that is frozen. */
static void gmem_cache_prepare(struct address_space *mapping, struct page *page,
			       pgoff_t index)
{
	unsigned int i;

	for (i = 0; i < XA_CHUNK_SIZE; i++) {
		struct folio *folio = gmem_cache_folio(page + i);

		folio->mapping = mapping;
		folio->index = index + i;
		set_mask_bits(&folio->flags.f, 0, GMEM_CACHE_FLAGS);
	}
}

static void gmem_cache_unprepare(struct page *page)
{
	unsigned int i;

	for (i = 0; i < XA_CHUNK_SIZE; i++) {
		struct folio *folio = gmem_cache_folio(page + i);

		set_mask_bits(&folio->flags.f, GMEM_CACHE_FLAGS, 0);
		folio->mapping = NULL;
	}
}

static void gmem_cache_unfreeze(struct page *page, unsigned int nr_pages)
{
	unsigned int i;

	for (i = 0; i < nr_pages; i++)
		folio_ref_unfreeze(gmem_cache_folio(page + i),
				   1 + GMEM_BLOCK_REFS);
}

/*
 * Memory that goes offline isolates a broken page, to have it freed, and keeps
 * the reference for ever: its block would wait for it.
 */
static void gmem_cache_isolate_broken(struct folio *folio)
{
	struct lruvec *lruvec;
	unsigned long flags;

	if (!folio_test_clear_lru(folio))
		return;

	lruvec = folio_lruvec_lock_irqsave(folio, &flags);
	lruvec_del_folio(lruvec, folio);
	lruvec_unlock_irqrestore(lruvec, flags);
}

/* Found broken while nobody could get at it: nobody has reported it. */
static void gmem_cache_mark_broken(struct xa_state *xas, struct page *page,
				   pgoff_t index)
{
	unsigned int i;

	/* memory_failure() marks the page first and looks for references then. */
	smp_mb();
	for (i = 0; i < XA_CHUNK_SIZE; i++) {
		if (likely(!PageHWPoison(page + i)))
			continue;
		xas_set(xas, index + i);
		xas_load(xas);
		xas_set_mark(xas, GMEM_BROKEN);
		gmem_cache_isolate_broken(gmem_cache_folio(page + i));
	}
}

/*
 * Who finds a frozen page in the page cache looks again until it is not, so it
 * is only there with i_pages locked.
 */
static int gmem_cache_store(struct address_space *mapping, struct page *page,
			    pgoff_t index)
{
	XA_STATE(xas, &mapping->i_pages, index);

	do {
		xas_lock_irq(&xas);
		xas_store_leaf(&xas, page, sizeof(*page));
		if (!xas_error(&xas)) {
			mapping->nrpages += XA_CHUNK_SIZE;
			lruvec_stat_mod_folio(gmem_cache_folio(page), NR_FILE_PAGES,
					      XA_CHUNK_SIZE);
			gmem_cache_unfreeze(page, XA_CHUNK_SIZE);
			gmem_cache_mark_broken(&xas, page, index);
		}
		xas_unlock_irq(&xas);
	} while (xas_nomem(&xas, mapping_gfp_mask(mapping) & GFP_RECLAIM_MASK));

	return xas_error(&xas);
}

/**
 * gmem_cache_add() - put pages into the page cache
 * @mapping: of the inode
 * @page: the first of XA_CHUNK_SIZE order-0 folios, frozen and in no list
 * @index: where they go, aligned to XA_CHUNK_SIZE; nothing is there
 *
 * Each folio is up to date, and has two references afterwards: that of the page
 * cache, and one that the block keeps for as long as it is split.
 *
 * Context: may sleep; nobody else adds pages there.
 * Return: 0, or -ENOMEM and nothing has changed.
 */
int gmem_cache_add(struct address_space *mapping, struct page *page,
		   pgoff_t index)
{
	int err;

	gmem_cache_prepare(mapping, page, index);
	/* Before the first can be taken off the list again. */
	gmem_cache_count_lru(gmem_cache_folio(page), XA_CHUNK_SIZE);
	err = gmem_cache_store(mapping, page, index);
	if (err) {
		gmem_cache_count_lru(gmem_cache_folio(page), -XA_CHUNK_SIZE);
		gmem_cache_unprepare(page);
	}

	return err;
}

/* Where it was put, when it was locked or isolated, without the mapping. */
static void gmem_cache_leave_lru(struct folio *folio)
{
	struct lruvec *lruvec = folio_lruvec_lock_irq(folio);

	lruvec_del_folio(lruvec, folio);
	__folio_clear_lru_flags(folio);
	lruvec_unlock_irq(lruvec);
}

/*
 * A folio that has left the page cache and is frozen loses what it had there.
 * Return how many pages the unevictable list has lost.
 */
static unsigned int gmem_cache_clean_odd(struct folio *folio)
{
	unsigned int nr_lru = 0;

	if (folio_test_lru(folio) && folio_test_unevictable(folio))
		nr_lru = 1;
	else if (folio_test_lru(folio))
		gmem_cache_leave_lru(folio);

	/* Unlocking its last mapping has come too late, as in __free_pages_prepare(). */
	if (unlikely(folio_test_mlocked(folio))) {
		__folio_clear_mlocked(folio);
		zone_stat_mod_folio(folio, NR_MLOCK, -1);
		count_vm_event(UNEVICTABLE_PGCLEARED);
	}
	folio->flags.f &= ~(GMEM_CACHE_FLAGS | BIT(PG_active) |
			    BIT(PG_referenced) | BIT(PG_workingset));
	folio->mapping = NULL;
	return nr_lru;
}

static unsigned int gmem_cache_clean(struct folio *folio)
{
	const unsigned long unchanged = BIT(PG_lru) | BIT(PG_unevictable);
	const unsigned long odd = BIT(PG_mlocked) | BIT(PG_active) |
				  BIT(PG_referenced) | BIT(PG_workingset);

	/* As it came, which nearly all are. */
	if (unlikely((folio->flags.f & (unchanged | odd)) != unchanged))
		return gmem_cache_clean_odd(folio);

	folio->flags.f &= ~GMEM_CACHE_FLAGS;
	folio->mapping = NULL;
	return 1;
}

/*
 * Whoever has a folio locked, or has just unlocked it, has a reference: a fault
 * one of its own, see gmem_map_folio(), fault-around that of an entry which can't
 * go before it drops the lock of the page table.
 */
static bool gmem_cache_freeze_folio(struct folio *folio, int refs)
{
	if (!folio_ref_freeze(folio, refs))
		return false;

	VM_WARN_ON_FOLIO(folio_test_locked(folio), folio);
	return true;
}

static bool gmem_cache_freeze_chunk(struct page *page)
{
	unsigned int i;

	for (i = 0; i < XA_CHUNK_SIZE; i++)
		if (!gmem_cache_freeze_folio(gmem_cache_folio(page + i),
					     1 + GMEM_BLOCK_REFS))
			break;
	if (i == XA_CHUNK_SIZE)
		return true;

	gmem_cache_unfreeze(page, i);
	return false;
}

static void gmem_cache_free_folio(struct address_space *mapping,
				  struct page *page)
{
	unsigned int i;

	for (i = 0; i < XA_CHUNK_SIZE; i++)
		mapping->a_ops->free_folio(gmem_cache_folio(page + i));
}

/* Those that nobody else uses, so that none is mapped. */
static bool gmem_cache_remove_chunk(struct address_space *mapping,
				    struct page *page, pgoff_t index)
{
	XA_STATE_ORDER(xas, &mapping->i_pages, index, XA_CHUNK_SHIFT);
	unsigned int i, nr_lru = 0;

	xas_lock_irq(&xas);
	if (!gmem_cache_freeze_chunk(page)) {
		xas_unlock_irq(&xas);
		return false;
	}
	xas_store(&xas, NULL);
	mapping->nrpages -= XA_CHUNK_SIZE;
	lruvec_stat_mod_folio(gmem_cache_folio(page), NR_FILE_PAGES,
			      -(long)XA_CHUNK_SIZE);
	xas_unlock_irq(&xas);

	for (i = 0; i < XA_CHUNK_SIZE; i++)
		nr_lru += gmem_cache_clean(gmem_cache_folio(page + i));
	gmem_cache_count_lru(gmem_cache_folio(page), -(long)nr_lru);

	if (mapping->a_ops->free_folio)
		gmem_cache_free_folio(mapping, page);
	return true;
}

/*
 * Where a page is that somebody holds when its block leaves the file.  No file
 * finds it any more, but memory_failure() has somebody to report it to.  There is
 * no inode, like in the swap cache, so that nobody takes it for part of a file.
 */
static struct address_space gmem_waiting_mapping;

static int gmem_waiting_error_remove_folio(struct address_space *mapping,
					   struct folio *folio)
{
	folio->private = GMEM_REPORTED;
	return MF_DELAYED;
}

static const struct address_space_operations gmem_waiting_aops = {
	.dirty_folio		= noop_dirty_folio,
	.migrate_folio		= guest_memfd_migrate_folio,
	.error_remove_folio	= gmem_waiting_error_remove_folio,
};

/**
 * gmem_cache_init() - make a home for pages that wait to be joined
 */
void __init gmem_cache_init(void)
{
	address_space_init_once(&gmem_waiting_mapping);
	gmem_waiting_mapping.a_ops = &gmem_waiting_aops;
	mapping_set_inaccessible(&gmem_waiting_mapping);
}

/*
 * As filemap_remove_folio(), but the direct map has the page back, or not, when
 * the whole block is joined.
 */
static void gmem_cache_delete_folio(struct address_space *mapping,
				    struct folio *folio)
{
	xa_lock_irq(&mapping->i_pages);
	__filemap_remove_folio(folio, NULL);
	/* One reference and no mapping is what unpoison_memory() frees. */
	WRITE_ONCE(folio->mapping, &gmem_waiting_mapping);
	xa_unlock_irq(&mapping->i_pages);

	if (mapping->a_ops->free_folio)
		mapping->a_ops->free_folio(folio);
	/* That of the page cache; the block has one. */
	folio_put(folio);
}

static void gmem_cache_remove_folio(struct address_space *mapping,
				    struct folio *folio)
{
	folio_lock(folio);
	if (folio->mapping == mapping)
		gmem_cache_delete_folio(mapping, folio);
	folio_unlock(folio);
}

/**
 * gmem_cache_remove() - take pages out of the page cache
 * @mapping: of the inode
 * @page: the first of XA_CHUNK_SIZE pages, as gmem_cache_add() has left them
 * @index: where they are
 *
 * Context: invalidate_lock held for write, the range was unmapped; may sleep.
 * Return: true if nobody else held any of them, and all are frozen; else each
 * has the reference of the block, and whatever others have.
 */
bool gmem_cache_remove(struct address_space *mapping, struct page *page,
		       pgoff_t index)
{
	unsigned int i;
	bool removed;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	/* Their flags are changed as those of pages that nobody else changes. */
	if (memory_failure_tryhold()) {
		removed = gmem_cache_remove_chunk(mapping, page, index);
		memory_failure_release();
		if (removed)
			return true;
	}

	for (i = 0; i < XA_CHUNK_SIZE; i++)
		gmem_cache_remove_folio(mapping, gmem_cache_folio(page + i));
	return false;
}

/**
 * gmem_cache_reclaim() - freeze a page that has left the page cache
 * @page: the page
 *
 * Memory failure keeps a reference on a page that it has reported as broken.
 *
 * Context: process context.
 * Return: false if somebody still holds it.
 */
bool gmem_cache_reclaim(struct page *page)
{
	struct folio *folio = gmem_cache_folio(page);

	/* Only who has the block can have frozen it. */
	if (!folio_ref_count(folio))
		return true;

	if (!gmem_cache_freeze_folio(folio, GMEM_BLOCK_REFS) &&
	    !(folio->private == GMEM_REPORTED && folio_test_hwpoison(folio) &&
	      gmem_cache_freeze_folio(folio, GMEM_BLOCK_REFS + 1)))
		return false;

	gmem_cache_count_lru(folio, -(long)gmem_cache_clean(folio));
	return true;
}
