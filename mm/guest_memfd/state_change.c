// SPDX-License-Identifier: GPL-2.0-only
/*
 * state_change: make pages of a guest_memfd private or shared.
 *
 * Owns every change of the xarray of struct gmem_state between its first day
 * and its last: prepare, commit and abort.  Calls the readers in state.c, the
 * xarray, bitmaps, the slab and RCU.  Must never know what a page is, who asks,
 * or which lock keeps writers apart.
 *
 * The rules of state.c hold before and after each change.  One more keeps the
 * change itself simple: prepare does what may fail and changes nothing that a
 * reader can see.  It replaces a value entry by a node full of the same value,
 * and puts zero entries, which readers take for absent ones, where a node must
 * exist.  commit then only stores to slots that exist, and erases.
 */
#include <linux/bitmap.h>
#include <linux/build_bug.h>
#include <linux/minmax.h>
#include <linux/mmdebug.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "state.h"
#include "state_entry.h"

/* What one xarray node without children holds: a leaf. */
#define GMEM_LEAF_ORDER		XA_CHUNK_SHIFT
#define GMEM_LEAF_UNITS		BIT(GMEM_LEAF_ORDER)
#define GMEM_LEAF_PAGES		(GMEM_LEAF_UNITS << GMEM_UNIT_ORDER)

/* Where a tree that is a single leaf grows: no change of that leaf is there. */
#define GMEM_GROW_UNIT		BIT(GMEM_CHUNK_ORDER - GMEM_UNIT_ORDER)

/* What a change does to one unit. */
enum gmem_unit_change {
	GMEM_UNIT_SAME,
	GMEM_UNIT_UNIFORM,
	GMEM_UNIT_MIXED,
};

static void *gmem_uniform_entry(const struct gmem_state *state, bool private)
{
	return private == state->initial ? NULL : xa_mk_value(private);
}

/* Changes to the xarray; all of them with xa_lock held. */

/*
 * Put a zero entry into the empty slot at @unit of an existing node with slots
 * of @order, and erase it again.  The xarray only gives nodes back when it
 * erases.
 */
static void gmem_poke(struct gmem_state *state, unsigned long unit,
		      unsigned int order)
{
	XA_STATE(xas, &state->units, 0);

	xas_set_order(&xas, unit, order);
	gmem_store(&xas, XA_ZERO_ENTRY);
	gmem_store(&xas, NULL);
}

/* Free the nodes that a failed store left behind on the way to @unit. */
static void gmem_prune(struct gmem_state *state, unsigned long unit)
{
	XA_STATE(xas, &state->units, unit);

	xas_load(&xas);
	if (xas_is_node(&xas) && !xas.xa_node->count)
		gmem_poke(state, unit, xas.xa_node->shift);
}

/* Free nodes at the top that only lead to their first slot. */
static void gmem_shrink(struct gmem_state *state)
{
	void *head = xa_head_locked(&state->units);
	XA_STATE(xas, &state->units, 0);
	struct xa_node *node;
	void *entry;

	if (!xa_is_node(head))
		return;
	node = xa_to_node(head);
	if (node->count != 1)
		return;

	xas_set_order(&xas, 0, node->shift);
	entry = xas_load(&xas);
	/* A uniform leaf at offset 0 needs the node above it. */
	if (entry && (xa_is_node(entry) || !node->shift))
		gmem_poke(state, 1UL << node->shift, node->shift);
}

/* Erase a reservation of gmem_reserve(), if there is one that holds @unit. */
static void gmem_release(struct gmem_state *state, unsigned long unit)
{
	XA_STATE(xas, &state->units, unit);

	if (xa_is_zero(xas_load(&xas)))
		gmem_store(&xas, NULL);
}

/*
 * Make one entry of the leaf that holds @unit if all of it is uniform.  The
 * slot that takes it is the one that points to the node, so that nothing is
 * allocated; a node that is the root has none and stays.
 */
static void gmem_join(struct gmem_state *state, unsigned long unit)
{
	XA_STATE(xas, &state->units, unit);
	struct xa_node *node;

	xas_load(&xas);
	if (!xas_is_node(&xas))
		return;
	node = xas.xa_node;
	if (node->shift || !rcu_access_pointer(node->parent))
		return;
	if (node->nr_values != XA_CHUNK_SIZE)
		return;

	xas_set_order(&xas, unit, GMEM_LEAF_ORDER);
	gmem_store(&xas, gmem_uniform_entry(state, !state->initial));
}

/* The part of start..end that is in the leaf of @start. */
static pgoff_t gmem_leaf_end(pgoff_t start, pgoff_t end)
{
	return min(end, round_down(start, GMEM_LEAF_PAGES) + GMEM_LEAF_PAGES);
}

/* Take back what prepare did for this leaf and commit has not used. */
static void gmem_tidy_leaf(struct gmem_state *state, pgoff_t start, pgoff_t end)
{
	gmem_release(state, (end - 1) >> GMEM_UNIT_ORDER);
	gmem_join(state, start >> GMEM_UNIT_ORDER);
}

static void gmem_tidy(struct gmem_state_update *update)
{
	struct gmem_state *state = update->state;
	pgoff_t pos, next;

	for (pos = update->start; pos < update->end; pos = next) {
		next = gmem_leaf_end(pos, update->end);
		gmem_tidy_leaf(state, pos, next);
	}

	/* Growing the tree gives the first leaf the parent it needs to join. */
	gmem_release(state, GMEM_GROW_UNIT);
	gmem_join(state, 0);
	gmem_shrink(state);
}

/* The parts of a change */

/* Where the unit of @start ends, or the change if that comes first. */
static pgoff_t gmem_head_end(const struct gmem_state_update *update)
{
	return min(update->end, round_down(update->start, GMEM_UNIT_PAGES) +
				GMEM_UNIT_PAGES);
}

/* Does the change only cover a part of the unit that holds its start? */
static bool gmem_has_head(const struct gmem_state_update *update)
{
	return gmem_head_end(update) - update->start < GMEM_UNIT_PAGES;
}

static pgoff_t gmem_tail_start(const struct gmem_state_update *update)
{
	return round_down(update->end, GMEM_UNIT_PAGES);
}

/* Does it only cover a part of its last unit, and is that another one? */
static bool gmem_has_tail(const struct gmem_state_update *update)
{
	pgoff_t start = gmem_tail_start(update);

	return start < update->end && start >= gmem_head_end(update);
}

static bool gmem_changes_nothing(const struct gmem_state_update *update)
{
	bool private;

	return gmem_state_run_end(update->state, update->start, update->end,
				  &private) == update->end &&
	       private == update->private;
}

/*
 * What becomes of the unit of @entry when start..end, offsets in pages within
 * that unit, become @private?  @bits is what its bitmap would be.
 */
static enum gmem_unit_change
gmem_unit_change(const struct gmem_state *state, const void *entry,
		 pgoff_t start, pgoff_t end, bool private, unsigned long *bits)
{
	unsigned int offset = start % GMEM_UNIT_PAGES;
	const struct gmem_bitmap *bitmap = NULL;

	if (gmem_is_bitmap(entry)) {
		bitmap = entry;
		bitmap_copy(bits, bitmap->private, GMEM_UNIT_PAGES);
	} else if (gmem_entry_is_private(state, entry, start) == private) {
		return GMEM_UNIT_SAME;
	} else if (private) {
		bitmap_zero(bits, GMEM_UNIT_PAGES);
	} else {
		bitmap_fill(bits, GMEM_UNIT_PAGES);
	}

	if (private)
		bitmap_set(bits, offset, end - start);
	else
		bitmap_clear(bits, offset, end - start);

	if (bitmap && bitmap_equal(bits, bitmap->private, GMEM_UNIT_PAGES))
		return GMEM_UNIT_SAME;
	if (bitmap_full(bits, GMEM_UNIT_PAGES) ||
	    bitmap_empty(bits, GMEM_UNIT_PAGES))
		return GMEM_UNIT_UNIFORM;
	return GMEM_UNIT_MIXED;
}

/* Prepare: what may fail */

static int gmem_prepare_bitmap(struct gmem_state_update *update, pgoff_t start,
			       pgoff_t end, struct gmem_bitmap **new)
{
	struct gmem_state *state = update->state;
	XA_STATE(xas, &state->units, start >> GMEM_UNIT_ORDER);
	DECLARE_BITMAP(bits, GMEM_UNIT_PAGES);
	enum gmem_unit_change change;

	rcu_read_lock();
	change = gmem_unit_change(state, gmem_load(&xas), start, end,
				  update->private, bits);
	rcu_read_unlock();
	if (change != GMEM_UNIT_MIXED)
		return 0;

	*new = kmem_cache_alloc(gmem_bitmap_cachep, GFP_KERNEL);
	if (!*new)
		return -ENOMEM;

	bitmap_copy((*new)->private, bits, GMEM_UNIT_PAGES);
	return 0;
}

static int gmem_prepare_bitmaps(struct gmem_state_update *update)
{
	int err = 0;

	if (gmem_has_head(update))
		err = gmem_prepare_bitmap(update, update->start,
					  gmem_head_end(update), &update->head);
	if (!err && gmem_has_tail(update))
		err = gmem_prepare_bitmap(update, gmem_tail_start(update),
					  update->end, &update->tail);
	return err;
}

/*
 * Make the slot of @order that holds @unit, and all nodes above it.  It must
 * be empty.  Readers don't see the difference.
 */
static int gmem_reserve(struct gmem_state *state, unsigned long unit,
			unsigned int order)
{
	XA_STATE(xas, &state->units, 0);

	xas_set_order(&xas, unit, order);
	do {
		xas_lock(&xas);
		xas_store(&xas, XA_ZERO_ENTRY);
		xas_unlock(&xas);
	} while (xas_nomem(&xas, GFP_KERNEL));
	if (!xas_error(&xas))
		return 0;

	xa_lock(&state->units);
	gmem_prune(state, unit);
	xa_unlock(&state->units);
	return xas_error(&xas);
}

/* All units of the leaf get a value: its slot in the node above must exist. */
static int gmem_reserve_leaf(struct gmem_state *state, unsigned long unit)
{
	XA_STATE(xas, &state->units, 0);
	void *entry;

	xas_set_order(&xas, unit, GMEM_LEAF_ORDER);
	rcu_read_lock();
	entry = xas_load(&xas);
	rcu_read_unlock();

	if (!entry)
		return gmem_reserve(state, unit, GMEM_LEAF_ORDER);
	/* The first leaf is all there is, grow the tree above it. */
	if (!xas_is_node(&xas))
		return gmem_reserve(state, GMEM_GROW_UNIT, GMEM_LEAF_ORDER);
	return 0;
}

/* Units up to @last, in one leaf, get entries: the leaf must have a node. */
static int gmem_reserve_units(struct gmem_state *state, unsigned long last)
{
	XA_STATE(xas, &state->units, last);
	bool leaf;
	void *entry;

	rcu_read_lock();
	entry = xas_load(&xas);
	leaf = xas_is_node(&xas) && !xas.xa_node->shift;
	rcu_read_unlock();

	if (entry || leaf)
		return 0;
	/* The root holds a single entry at index 0 without any node. */
	if (!last && xa_empty(&state->units))
		return 0;
	return gmem_reserve(state, last, 0);
}

/* Some units of the leaf of @unit change: replace one entry by one for each. */
static int gmem_split_leaf(struct gmem_state *state, unsigned long unit)
{
	XA_STATE(xas, &state->units, round_down(unit, GMEM_LEAF_UNITS));
	unsigned int order = 0;
	void *entry;

	rcu_read_lock();
	entry = xas_load(&xas);
	if (xa_is_value(entry))
		order = xas_get_order(&xas);
	rcu_read_unlock();
	if (!order)
		return 0;

	xas_reset(&xas);
	xas_split_alloc(&xas, entry, order, GFP_KERNEL);
	if (xas_error(&xas))
		return xas_error(&xas);

	xas_lock(&xas);
	xas_split(&xas, entry, order);
	xas_unlock(&xas);
	return 0;
}

/* start..end are pages of one leaf. */
static int gmem_prepare_leaf(struct gmem_state_update *update, pgoff_t start,
			     pgoff_t end)
{
	struct gmem_state *state = update->state;
	bool whole = end - start == GMEM_LEAF_PAGES;

	if (update->private == state->initial)
		return whole ? 0 :
		       gmem_split_leaf(state, start >> GMEM_UNIT_ORDER);
	if (whole)
		return gmem_reserve_leaf(state, start >> GMEM_UNIT_ORDER);
	return gmem_reserve_units(state, (end - 1) >> GMEM_UNIT_ORDER);
}

/**
 * gmem_state_prepare() - Do all of a change that may fail
 * @state: the state of the file
 * @update: filled, for gmem_state_commit() or gmem_state_abort()
 * @start: first page to change, by offset in pages
 * @end: one past the last page; in the same GMEM_CHUNK_PAGES as @start
 * @private: what the pages become
 *
 * No reader sees a difference until gmem_state_commit().  Pages that already
 * are what they shall become cost no memory.
 *
 * Context: Process context, may sleep.  The owner keeps other writers out from
 *	    here until after commit or abort.  Takes the xa_lock.
 * Return: 0, or -ENOMEM with nothing changed and nothing to abort.
 */
int gmem_state_prepare(struct gmem_state *state,
		       struct gmem_state_update *update,
		       pgoff_t start, pgoff_t end, bool private)
{
	pgoff_t pos, next;
	int err;

	BUILD_BUG_ON(GMEM_UNIT_ORDER + GMEM_LEAF_ORDER > GMEM_CHUNK_ORDER);
	VM_WARN_ON_ONCE(start >= end);
	VM_WARN_ON_ONCE((start ^ (end - 1)) >> GMEM_CHUNK_ORDER);

	*update = (struct gmem_state_update) {
		.state = state,
		.start = start,
		.end = end,
		.private = private,
	};

	if (gmem_changes_nothing(update))
		return 0;

	err = gmem_prepare_bitmaps(update);
	if (err)
		goto abort;

	for (pos = start; pos < end; pos = next) {
		next = gmem_leaf_end(pos, end);
		err = gmem_prepare_leaf(update, pos, next);
		if (err)
			goto abort;
	}
	return 0;

abort:
	gmem_state_abort(update);
	return err;
}

/* Commit: what can't fail */

static void gmem_commit_part(struct gmem_state_update *update, pgoff_t start,
			     pgoff_t end, struct gmem_bitmap **new)
{
	struct gmem_state *state = update->state;
	XA_STATE(xas, &state->units, start >> GMEM_UNIT_ORDER);
	DECLARE_BITMAP(bits, GMEM_UNIT_PAGES);

	switch (gmem_unit_change(state, gmem_load(&xas), start, end,
				 update->private, bits)) {
	case GMEM_UNIT_SAME:
		break;
	case GMEM_UNIT_UNIFORM:
		gmem_store(&xas, gmem_uniform_entry(state, update->private));
		break;
	case GMEM_UNIT_MIXED:
		gmem_store(&xas, *new);
		*new = NULL;
		break;
	}
}

/* start..end are whole units, but not all of their leaf. */
static void gmem_commit_units(struct gmem_state_update *update, pgoff_t start,
			      pgoff_t end)
{
	struct gmem_state *state = update->state;
	void *entry = gmem_uniform_entry(state, update->private);
	XA_STATE(xas, &state->units, 0);
	unsigned long unit;

	for (unit = start >> GMEM_UNIT_ORDER; unit < end >> GMEM_UNIT_ORDER;
	     unit++) {
		xas_set(&xas, unit);
		gmem_store(&xas, entry);
	}
}

static void gmem_commit_leaf(struct gmem_state_update *update, pgoff_t start)
{
	struct gmem_state *state = update->state;
	void *old, *entry = gmem_uniform_entry(state, update->private);
	unsigned long unit = start >> GMEM_UNIT_ORDER;
	XA_STATE(xas, &state->units, unit);

	/* The xarray gives back the node, but not what it points to. */
	xas_for_each(&xas, old, unit + GMEM_LEAF_UNITS - 1)
		if (gmem_is_bitmap(old))
			gmem_store(&xas, entry);

	xas_set_order(&xas, unit, GMEM_LEAF_ORDER);
	gmem_store(&xas, entry);
}

/**
 * gmem_state_commit() - Make a prepared change
 * @update: from a gmem_state_prepare() that returned 0
 *
 * Each page is seen in its old state or in its new one, and pages outside of
 * the change never differ, but readers without the owner's lock may see some
 * pages of the change before others.
 *
 * It can't fail because it never needs a node:
 *
 * - to the initial state, it erases, and replaces entries by bitmaps; where an
 *   entry is one of many in a leaf, gmem_split_leaf() has made the node.
 *   Bitmaps go first, so that erasing their neighbours doesn't take the node
 *   away from them;
 *
 * - to the other state, it stores and never erases; gmem_reserve_leaf() or
 *   gmem_reserve_units() has made the slot, or the node which has it.
 *
 * Context: Process context, does not sleep.  The owner keeps other writers
 *	    out.  Takes the xa_lock.
 */
void gmem_state_commit(struct gmem_state_update *update)
{
	struct xarray *units = &update->state->units;
	pgoff_t pos, next, end;

	if (gmem_changes_nothing(update))
		return;

	pos = round_up(update->start, GMEM_UNIT_PAGES);
	end = round_down(update->end, GMEM_UNIT_PAGES);

	xa_lock(units);
	if (gmem_has_head(update))
		gmem_commit_part(update, update->start, gmem_head_end(update),
				 &update->head);
	if (gmem_has_tail(update))
		gmem_commit_part(update, gmem_tail_start(update), update->end,
				 &update->tail);

	for (; pos < end; pos = next) {
		next = gmem_leaf_end(pos, end);
		if (next - pos == GMEM_LEAF_PAGES)
			gmem_commit_leaf(update, pos);
		else
			gmem_commit_units(update, pos, next);
	}

	gmem_tidy(update);
	xa_unlock(units);

	VM_WARN_ON_ONCE(update->head || update->tail);
}

static void gmem_free_bitmap(struct gmem_bitmap **bitmap)
{
	if (*bitmap)
		kmem_cache_free(gmem_bitmap_cachep, *bitmap);
	*bitmap = NULL;
}

/**
 * gmem_state_abort() - Drop a prepared change
 * @update: from a gmem_state_prepare() that returned 0
 *
 * Gives back all memory that prepare took.
 *
 * Context: Process context, does not sleep.  The owner keeps other writers
 *	    out.  Takes the xa_lock.
 */
void gmem_state_abort(struct gmem_state_update *update)
{
	struct xarray *units = &update->state->units;

	/* They were never published: no reader can hold them. */
	gmem_free_bitmap(&update->head);
	gmem_free_bitmap(&update->tail);

	xa_lock(units);
	gmem_tidy(update);
	xa_unlock(units);
}
