// SPDX-License-Identifier: GPL-2.0-only
/*
 * poison: telling views that a page is broken.
 *
 * memory_failure() holds the folio lock when it reports, and the folio lock is
 * inside invalidate_lock, so views cannot be told there and then.  A worker
 * does it, for the hull of all that was reported since it last ran: that needs
 * no memory, and letting go of a healthy page only costs a fault.
 */
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

#include <trace/events/guest_memfd.h>

#include "internal.h"

static void gmem_poison_tell(struct gmem_inode *gi, pgoff_t start, pgoff_t end)
{
	struct guest_memfd_change change = {
		.inode = &gi->vfs_inode,
		.start = start,
		.end = end,
		.type = GUEST_MEMFD_POISON,
	};

	filemap_invalidate_lock(gi->vfs_inode.i_mapping);
	trace_guest_memfd_poison(&change);
	gmem_views_begin(&change);
	gmem_views_refresh(&change);
	gmem_views_end(&change);
	filemap_invalidate_unlock(gi->vfs_inode.i_mapping);
}

static void gmem_poison_work(struct work_struct *work)
{
	struct gmem_poison *poison = container_of(work, struct gmem_poison,
						  work);
	struct gmem_inode *gi = container_of(poison, struct gmem_inode, poison);
	pgoff_t start, end;

	guest_memfd_stall(GUEST_MEMFD_STALL_POISON);

	spin_lock(&poison->lock);
	start = poison->start;
	end = poison->end;
	poison->start = ULONG_MAX;
	poison->end = 0;
	spin_unlock(&poison->lock);

	if (start < end)
		gmem_poison_tell(gi, start, end);

	iput(&gi->vfs_inode);
}

static void gmem_poison_mark(const struct folio *folio)
{
	XA_STATE(xas, &folio->mapping->i_pages, folio->index);

	xas_lock_irq(&xas);
	xas_load(&xas);
	xas_set_mark(&xas, GMEM_BROKEN);
	xas_unlock_irq(&xas);
}

static bool gmem_poison_any(struct address_space *mapping, pgoff_t index,
			    unsigned int order)
{
	pgoff_t start = round_down(index, 1UL << order);

	return xa_find(&mapping->i_pages, &start, start + (1UL << order) - 1,
		       GMEM_BROKEN);
}

/**
 * gmem_poison_order() - the largest order around a page without a broken one
 * @gi: the inode
 * @index: the page, by offset
 * @order: where to start
 *
 * Context: any.  Views are told of a broken page after it is seen here.
 * Return: the order, at most @order; zero for a broken page, too.
 */
unsigned int gmem_poison_order(struct gmem_inode *gi, pgoff_t index,
			       unsigned int order)
{
	struct address_space *mapping = gi->vfs_inode.i_mapping;

	if (likely(!xa_marked(&mapping->i_pages, GMEM_BROKEN)))
		return order;

	/* In the steps of gmem_state_order(). */
	while (order && gmem_poison_any(mapping, index, order))
		order = order > GMEM_UNIT_ORDER ? GMEM_UNIT_ORDER : 0;
	return order;
}

/**
 * gmem_poison_init() - nothing is broken yet
 * @poison: of a new inode
 */
void gmem_poison_init(struct gmem_poison *poison)
{
	spin_lock_init(&poison->lock);
	poison->start = ULONG_MAX;
	poison->end = 0;
	INIT_WORK(&poison->work, gmem_poison_work);
}

/**
 * gmem_poison_report() - have views told of a broken folio, soon
 * @gi: the inode
 * @folio: a folio of it
 *
 * Whoever faults on the page from now on finds it marked; this is for those
 * who have it mapped.
 *
 * Context: folio locked, which keeps the inode from going away.
 */
void gmem_poison_report(struct gmem_inode *gi, struct folio *folio)
{
	struct gmem_poison *poison = &gi->poison;
	bool idle;

	VM_WARN_ON_FOLIO(!folio_test_locked(folio), folio);

	if (gi->pool)
		folio->private = GMEM_REPORTED;
	/* Before views let go, so that none of them maps it with its neighbours. */
	gmem_poison_mark(folio);

	guard(spinlock)(&poison->lock);

	/*
	 * A range that is not empty has a queued work, which has a reference.
	 * Never drop one here: it might be the last, and eviction waits for
	 * the folio lock.  An inode on its way out has no views left to tell.
	 */
	idle = poison->start >= poison->end;
	if (idle && !igrab(&gi->vfs_inode))
		return;

	poison->start = min(poison->start, folio->index);
	poison->end = max(poison->end, folio_next_index(folio));

	if (idle)
		queue_work(system_dfl_wq, &poison->work);
}
