// SPDX-License-Identifier: GPL-2.0-only
/*
 * view: who is told of a change, and in what order.
 *
 * Owns the list of views of an inode.  It calls them and unwinds when one
 * refuses; what a change means is none of its business.
 */
#include <linux/export.h>
#include <linux/list.h>

#include <trace/events/guest_memfd.h>

#include "internal.h"

/**
 * guest_memfd_view_add() - start to tell a view of changes
 * @view: the view, with @view->ops set
 * @inode: a guest_memfd, which the caller keeps alive until the view is gone
 *
 * From the return on, no page of the inode changes without @view being taken
 * through the steps of &struct guest_memfd_view_ops.
 *
 * Context: the caller holds the mapping's invalidate_lock for write.
 * Return: 0, or -EBUSY if @view has a transfer step and another view, too.
 */
int guest_memfd_view_add(struct guest_memfd_view *view, struct inode *inode)
{
	struct gmem_inode *gi = gmem_i(inode);
	struct guest_memfd_view *other;

	gmem_assert_locked_write(gi);

	list_for_each_entry(other, &gi->views, node)
		if (view->ops->transfer && other->ops->transfer)
			return -EBUSY;

	list_add_tail(&view->node, &gi->views);
	return 0;
}
EXPORT_SYMBOL_GPL(guest_memfd_view_add);

/**
 * guest_memfd_view_del() - tell a view no more
 * @view: a view that was added
 * @inode: the guest_memfd that it was added to
 *
 * Whatever the view had mapped must be gone, or must be gone before the lock
 * is dropped.
 *
 * Context: the caller holds the mapping's invalidate_lock for write.
 */
void guest_memfd_view_del(struct guest_memfd_view *view, struct inode *inode)
{
	gmem_assert_locked_write(gmem_i(inode));

	list_del(&view->node);
}
EXPORT_SYMBOL_GPL(guest_memfd_view_del);

/* Abort the views before @view, last one first. */
static void gmem_views_abort_before(struct guest_memfd_view *view,
				    const struct guest_memfd_change *change)
{
	list_for_each_entry_continue_reverse(view,
					     &gmem_i(change->inode)->views,
					     node)
		if (view->ops->abort)
			view->ops->abort(view, change);
}

/**
 * gmem_views_prepare() - ask every view whether it can follow
 * @change: what is about to happen
 *
 * Context: invalidate_lock held for write; may sleep.
 * Return: 0, or the errno of the first view that refuses, after those before
 * it were aborted.
 */
int gmem_views_prepare(const struct guest_memfd_change *change)
{
	struct gmem_inode *gi = gmem_i(change->inode);
	struct guest_memfd_view *view;
	int err;

	gmem_assert_locked_write(gi);

	list_for_each_entry(view, &gi->views, node) {
		if (!view->ops->prepare)
			continue;

		err = view->ops->prepare(view, change);
		if (err) {
			gmem_views_abort_before(view, change);
			return err;
		}
	}

	return 0;
}

/**
 * gmem_views_abort() - take gmem_views_prepare() back
 * @change: what does not happen
 *
 * Context: invalidate_lock held for write; may sleep.
 */
void gmem_views_abort(const struct guest_memfd_change *change)
{
	struct gmem_inode *gi = gmem_i(change->inode);

	gmem_assert_locked_write(gi);

	gmem_views_abort_before(list_entry(&gi->views, struct guest_memfd_view,
					   node), change);
}

/**
 * gmem_views_begin() - make every view let go of the range
 * @change: what is about to happen
 *
 * Context: invalidate_lock held for write; may sleep.
 */
void gmem_views_begin(const struct guest_memfd_change *change)
{
	struct gmem_inode *gi = gmem_i(change->inode);
	struct guest_memfd_view *view;

	gmem_assert_locked_write(gi);

	list_for_each_entry(view, &gi->views, node)
		view->ops->begin(view, change);
}

/**
 * gmem_views_transfer() - let the hypervisor hand over or take back the pages
 * @change: a conversion
 *
 * Context: invalidate_lock held for write; may sleep.
 * Return: 0, or the errno of the one view that has this step.
 */
int gmem_views_transfer(const struct guest_memfd_change *change)
{
	struct gmem_inode *gi = gmem_i(change->inode);
	struct guest_memfd_view *view;

	gmem_assert_locked_write(gi);

	/* There is at most one, see guest_memfd_view_add(). */
	list_for_each_entry(view, &gi->views, node)
		if (view->ops->transfer)
			return view->ops->transfer(view, change);

	return 0;
}

/**
 * gmem_views_refresh() - make every view follow what has happened
 * @change: what has happened
 *
 * Context: invalidate_lock held for write; may sleep.
 */
void gmem_views_refresh(const struct guest_memfd_change *change)
{
	struct gmem_inode *gi = gmem_i(change->inode);
	struct guest_memfd_view *view;

	gmem_assert_locked_write(gi);

	list_for_each_entry(view, &gi->views, node) {
		if (view->ops->refresh) {
			view->ops->refresh(view, change);
			trace_guest_memfd_refresh(change);
		}
	}
}

/**
 * gmem_views_end() - let every view go on, in reverse order
 * @change: what has, or has not, happened
 *
 * Context: invalidate_lock held for write; may sleep.
 */
void gmem_views_end(const struct guest_memfd_change *change)
{
	struct gmem_inode *gi = gmem_i(change->inode);
	struct guest_memfd_view *view;

	gmem_assert_locked_write(gi);

	list_for_each_entry_reverse(view, &gi->views, node)
		view->ops->end(view, change);
}
