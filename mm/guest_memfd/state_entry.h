/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * state_entry: one entry of the xarray of a struct gmem_state.
 *
 * Private to state.c, which reads entries, and state_change.c, which replaces
 * them; state.h says what each kind of entry means.  Knows how an entry is read
 * under the RCU read lock or the xa_lock, and how it's replaced under the
 * latter.
 */
#ifndef _MM_GUEST_MEMFD_STATE_ENTRY_H
#define _MM_GUEST_MEMFD_STATE_ENTRY_H

#include <linux/bitmap.h>
#include <linux/mmdebug.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "state.h"

/* Never changed after it was published; @rcu lets its readers finish. */
struct gmem_bitmap {
	DECLARE_BITMAP(private, GMEM_UNIT_PAGES);
	struct rcu_head rcu;
};

extern struct kmem_cache *gmem_bitmap_cachep;

static inline bool gmem_is_bitmap(const void *entry)
{
	return entry && !xa_is_value(entry) && !xa_is_internal(entry);
}

static inline bool gmem_entry_is_private(const struct gmem_state *state,
					 const void *entry, pgoff_t index)
{
	const struct gmem_bitmap *bitmap = entry;

	if (gmem_is_bitmap(entry))
		return test_bit(index % GMEM_UNIT_PAGES, bitmap->private);
	if (xa_is_value(entry))
		return !state->initial;
	return state->initial;
}

static inline void *gmem_load(struct xa_state *xas)
{
	void *entry;

	do {
		entry = xas_load(xas);
	} while (xa_is_retry(entry) && xas_retry(xas, entry));

	return xa_is_zero(entry) ? NULL : entry;
}

/* With xa_lock held. */
static inline void gmem_store(struct xa_state *xas, void *entry)
{
	void *old = xas_store(xas, entry);
	struct gmem_bitmap *bitmap = old;

	/* Everything that may allocate was done by gmem_state_prepare(). */
	VM_WARN_ON_ONCE(xas_error(xas));

	if (gmem_is_bitmap(old))
		kfree_rcu(bitmap, rcu);
}

#endif /* _MM_GUEST_MEMFD_STATE_ENTRY_H */
