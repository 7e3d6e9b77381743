// SPDX-License-Identifier: GPL-2.0-only
/*
 * block: where the folios of a guest_memfd come from and where they go.
 *
 * A page is allocated by itself, or it is part of a block of huge memory, see
 * huge.c.  Knows the page cache and the NUMA policy; must never know whether a
 * page is shared or private.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>

#include <trace/events/guest_memfd.h>

#include "../internal.h"
#include "internal.h"

/**
 * gmem_block_order() - the largest order that the backing memory comes in
 * @gi: the inode
 *
 * Return: the order; fixed for the life of the inode.
 */
unsigned int gmem_block_order(const struct gmem_inode *gi)
{
	return gi->pool ? gmem_pool_order(gi->pool) : 0;
}

/**
 * gmem_block_refs() - references to each folio beside that of the page cache
 * @gi: the inode
 *
 * Return: how many the block has; fixed for the life of the inode.
 */
int gmem_block_refs(const struct gmem_inode *gi)
{
	return gi->pool ? GMEM_BLOCK_REFS : 0;
}

/* A page of a block is always there, as long as the block is. */
static struct folio *gmem_block_get_huge(struct gmem_inode *gi, pgoff_t index)
{
	struct folio *folio;
	int err;

	err = gmem_huge_populate(gi, index);
	if (err)
		return ERR_PTR(err);

	folio = filemap_lock_folio(gi->vfs_inode.i_mapping, index);
	VM_WARN_ON_ONCE(IS_ERR(folio));
	return folio;
}

static void gmem_block_init_folio(struct gmem_inode *gi, struct folio *folio,
				  pgoff_t index)
{
	/* By the allocator: nobody could zero it now. */
	if (mapping_no_direct_map(gi->vfs_inode.i_mapping))
		folio_mark_uptodate(folio);
	/*
	 * There is no other copy.  A clean folio without users would be
	 * evicted by soft offlining, behind the back of every view.
	 */
	folio_mark_dirty(folio);
	trace_guest_memfd_allocate(gi->vfs_inode.i_ino, index, &folio->page, 0);
}

static struct folio *gmem_block_alloc_folio(struct gmem_inode *gi,
					    pgoff_t index, gfp_t gfp)
{
	struct mempolicy *policy;
	struct folio *folio;

	policy = mpol_shared_policy_lookup(&gi->policy, index);
	folio = filemap_alloc_folio(gfp, 0, policy);
	mpol_cond_put(policy);
	return folio;
}

/* As many as there is memory and room for: up to the next page that is there. */
static unsigned int gmem_block_alloc_run(struct gmem_inode *gi,
					 struct folio **folios, pgoff_t start,
					 unsigned int max, gfp_t gfp)
{
	struct address_space *mapping = gi->vfs_inode.i_mapping;
	unsigned int nr;

	for (nr = 0; nr < max; nr++) {
		if (xa_load(&mapping->i_pages, start + nr))
			break;
		folios[nr] = gmem_block_alloc_folio(gi, start + nr, gfp);
		if (!folios[nr])
			break;
		cond_resched();
	}

	return nr;
}

/* Return how many pages from @start on are there now, or a negative errno. */
static int gmem_block_add_run(struct gmem_inode *gi, struct folio **folios,
			      pgoff_t start, unsigned int max, gfp_t gfp)
{
	struct address_space *mapping = gi->vfs_inode.i_mapping;
	unsigned int i, nr;
	int added;

	nr = gmem_block_alloc_run(gi, folios, start, max, gfp);
	/* Asked afterwards: others add pages, too, but nobody removes any. */
	if (!nr)
		return xa_load(&mapping->i_pages, start) ? 1 : -ENOMEM;

	guest_memfd_stall(GUEST_MEMFD_STALL_ALLOCATED);
	added = filemap_add_folios(mapping, folios, nr, start, gfp);
	for (i = 0; i < nr; i++) {
		if ((int)i < added) {
			gmem_block_init_folio(gi, folios[i], start + i);
			folio_unlock(folios[i]);
		}
		folio_put(folios[i]);
	}

	/* Somebody else was faster. */
	return added == -EEXIST ? 1 : added;
}

/*
 * To take a page out of the direct map costs a flush of the TLB, far more than the
 * page.  So the first touch of 64 KiB allocates all of it, the page itself and what
 * is behind it first, unless memory would have to be reclaimed for that.  While one
 * of them is there, as when others have been given up, each comes by itself.
 */
static void gmem_block_add_around(struct gmem_inode *gi, pgoff_t index)
{
	struct address_space *mapping = gi->vfs_inode.i_mapping;
	gfp_t gfp = mapping_gfp_mask(mapping) & ~__GFP_DIRECT_RECLAIM;
	struct folio *folios[GMEM_AROUND_PAGES];
	pgoff_t start = round_down(index, GMEM_AROUND_PAGES);
	pgoff_t end = min(start + GMEM_AROUND_PAGES, gmem_nr_pages(gi));
	pgoff_t first = start;
	int added;

	if (xa_find(&mapping->i_pages, &first, end - 1, XA_PRESENT))
		return;

	gfp |= __GFP_NOWARN;
	added = gmem_block_add_run(gi, folios, index, end - index, gfp);
	if (index > start && added == end - index)
		gmem_block_add_run(gi, folios, start, index - start, gfp);
}

/* Others are private pages that are elsewhere when they are shared: not here, too. */
static bool gmem_block_adds_around(const struct gmem_inode *gi)
{
	return mapping_no_direct_map(gi->vfs_inode.i_mapping) &&
	       (gi->flags & GUEST_MEMFD_TRACK_STATE);
}

/**
 * gmem_block_get_folio() - find the folio at an offset, or allocate it
 * @gi: the inode
 * @index: the offset, in pages; inside the file
 *
 * A new folio of its own is not zeroed and not marked up to date: hypervisors
 * that load a guest's first memory through their firmware fill it themselves.
 * Those of a block, and those that are not in the direct map, come zeroed; the
 * latter with others around them, if there is memory.
 *
 * Context: invalidate_lock held, at least shared; may sleep.
 * Return: the folio, locked and with a reference, or ERR_PTR(-ENOMEM), or with
 * huge pages ERR_PTR(-ENOSPC) or ERR_PTR(-EINTR), see gmem_huge_populate().
 */
struct folio *gmem_block_get_folio(struct gmem_inode *gi, pgoff_t index)
{
	struct address_space *mapping = gi->vfs_inode.i_mapping;
	struct mempolicy *policy;
	struct folio *folio;

	gmem_assert_locked(gi);

	if (gi->pool)
		return gmem_block_get_huge(gi, index);

	/* The common case needs no look at the policy, nor at what is around. */
	folio = filemap_lock_folio(mapping, index);
	if (!IS_ERR(folio))
		return folio;

	if (gmem_block_adds_around(gi))
		gmem_block_add_around(gi, index);

	policy = mpol_shared_policy_lookup(&gi->policy, index);
	folio = __filemap_get_folio_mpol(mapping, index, FGP_LOCK | FGP_CREAT,
					 mapping_gfp_mask(mapping), policy);
	mpol_cond_put(policy);

	if (IS_ERR(folio))
		return folio;

	VM_WARN_ON_ONCE(folio_test_large(folio));
	if (!folio_test_dirty(folio))
		gmem_block_init_folio(gi, folio, index);
	return folio;
}

/**
 * gmem_block_add_folios() - allocate what is not there, many at a time
 * @gi: the inode, whose pages are not in the direct map
 * @start: first page, by offset
 * @end: one past the last page
 *
 * One flush of the TLB for each run of pages that are not there, not one for
 * each page.
 *
 * Context: invalidate_lock held, at least shared; may sleep.
 * Return: 0, or -ENOMEM; what has been allocated stays.
 */
int gmem_block_add_folios(struct gmem_inode *gi, pgoff_t start, pgoff_t end)
{
	gfp_t gfp = mapping_gfp_mask(gi->vfs_inode.i_mapping);
	struct folio **folios;
	int ret = 0;

	gmem_assert_locked(gi);

	folios = kmalloc_objs(*folios, end - start);
	if (!folios)
		return -ENOMEM;

	for (; start < end; start += ret) {
		ret = gmem_block_add_run(gi, folios, start, end - start, gfp);
		if (ret < 0)
			break;
	}

	kfree(folios);
	return min(ret, 0);
}

/**
 * gmem_block_remove() - free the folios of a range
 * @gi: the inode
 * @start: first page, by offset; where a block starts
 * @end: one past the last page; where a block ends
 *
 * Context: invalidate_lock held for write, views have let go; may sleep.
 */
void gmem_block_remove(struct gmem_inode *gi, pgoff_t start, pgoff_t end)
{
	struct address_space *mapping = gi->vfs_inode.i_mapping;

	gmem_assert_locked_write(gi);

	/*
	 * No mapping has pages of its own, but "even cows" is what also takes
	 * away the markers that memory_failure() leaves for a broken page.
	 */
	unmap_mapping_pages(mapping, start, end - start, true);
	if (gi->pool) {
		gmem_huge_remove(gi, start, end);
		return;
	}
	truncate_inode_pages_range(mapping, (loff_t)start << PAGE_SHIFT,
				   ((loff_t)end << PAGE_SHIFT) - 1);
}
