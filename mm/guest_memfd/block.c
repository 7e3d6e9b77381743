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

#include <trace/events/guest_memfd.h>

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

/**
 * gmem_block_get_folio() - find the folio at an offset, or allocate it
 * @gi: the inode
 * @index: the offset, in pages; inside the file
 *
 * A new folio of its own is not zeroed and not marked up to date: hypervisors
 * that load a guest's first memory through their firmware fill it themselves.
 * Those of a block come zeroed.
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

	/* The common case needs no look at the policy. */
	folio = filemap_lock_folio(mapping, index);
	if (!IS_ERR(folio))
		return folio;

	policy = mpol_shared_policy_lookup(&gi->policy, index);
	folio = __filemap_get_folio_mpol(mapping, index, FGP_LOCK | FGP_CREAT,
					 mapping_gfp_mask(mapping), policy);
	mpol_cond_put(policy);

	if (IS_ERR(folio))
		return folio;

	VM_WARN_ON_ONCE(folio_test_large(folio));
	/*
	 * There is no other copy.  A clean folio without users would be
	 * evicted by soft offlining, behind the back of every view.
	 */
	if (!folio_test_dirty(folio)) {
		folio_mark_dirty(folio);
		trace_guest_memfd_allocate(gi->vfs_inode.i_ino, index,
					   &folio->page, 0);
	}
	return folio;
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
