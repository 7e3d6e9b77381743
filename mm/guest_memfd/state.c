// SPDX-License-Identifier: GPL-2.0-only
/*
 * state: who may see each page of a guest_memfd.
 *
 * Owns the xarray of struct gmem_state from its first day to its last, the
 * cache of its bitmaps, and all who read it; see state.h for what is in it, and
 * state_change.c for who changes it.  Calls the xarray, bitmaps, the slab and
 * RCU.  Must never know what a page is, who asks, or which lock keeps writers
 * apart.
 *
 * Two rules keep it simple:
 *
 * - An absent unit is in the initial state, so a value entry can only mean the
 *   other one, and a unit without private or without shared pages has no
 *   bitmap.  There is one way to store each state.
 *
 * - Entries have order 0 or the order of one xarray node, never one in between.
 *   So no entry has siblings and no change is ever seen on a page outside it.
 */
#include <linux/bitmap.h>
#include <linux/cache.h>
#include <linux/init.h>
#include <linux/minmax.h>
#include <linux/mmdebug.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "state.h"
#include "state_entry.h"

struct kmem_cache *gmem_bitmap_cachep __ro_after_init;

/**
 * gmem_state_cache_init() - Create the slab cache of the bitmaps
 *
 * To be called once, before the first gmem_state_prepare().
 *
 * Context: Process context, may sleep.
 * Return: 0, or -ENOMEM.
 */
int __init gmem_state_cache_init(void)
{
	gmem_bitmap_cachep = kmem_cache_create("guest_memfd_bitmap",
					       sizeof(struct gmem_bitmap), 0,
					       SLAB_ACCOUNT, NULL);
	return gmem_bitmap_cachep ? 0 : -ENOMEM;
}

/* Entries */

/* One past the last unit of the entry that @xas stands on. */
static unsigned long gmem_entry_end(struct xa_state *xas)
{
	return (xas->xa_index | ((1UL << xas_get_order(xas)) - 1)) + 1;
}

static void *gmem_find(struct xa_state *xas, unsigned long last)
{
	void *entry;

	do {
		entry = xas_find(xas, last);
	} while (xas_retry(xas, entry));

	return entry;
}

/* Readers */

/**
 * gmem_state_is_private() - Is a page private?
 * @state: the state of the file
 * @index: the page, by offset in pages
 *
 * Next to a conversion the answer is the old or the new state of the page.
 * Whoever acts on it must hold what the owner's writers hold, or look again
 * after the fact (mmu_invalidate_seq).
 *
 * Context: Any context.  Takes the RCU read lock.
 * Return: true if private, false if shared.
 */
bool gmem_state_is_private(struct gmem_state *state, pgoff_t index)
{
	XA_STATE(xas, &state->units, index >> GMEM_UNIT_ORDER);
	bool private;

	rcu_read_lock();
	private = gmem_entry_is_private(state, gmem_load(&xas), index);
	rcu_read_unlock();

	return private;
}

static pgoff_t gmem_span_bitmap(const struct gmem_bitmap *bitmap,
				pgoff_t index)
{
	unsigned long bit = index % GMEM_UNIT_PAGES;
	unsigned long next;

	if (test_bit(bit, bitmap->private))
		next = find_next_zero_bit(bitmap->private, GMEM_UNIT_PAGES, bit);
	else
		next = find_next_bit(bitmap->private, GMEM_UNIT_PAGES, bit);

	return index - bit + next;
}

/* All value entries mean the same state: go on while they are adjacent. */
static pgoff_t gmem_span_values(struct xa_state *xas, unsigned long last)
{
	unsigned long next = gmem_entry_end(xas);

	while (next <= last) {
		void *entry = gmem_find(xas, last);

		if (!xa_is_value(entry) || xas->xa_index > next)
			break;
		next = gmem_entry_end(xas);
	}

	return next << GMEM_UNIT_ORDER;
}

static pgoff_t gmem_span_absent(struct xa_state *xas, unsigned long last)
{
	unsigned long next = last + 1;

	if (gmem_find(xas, last))
		next = xas->xa_index;

	return next << GMEM_UNIT_ORDER;
}

/*
 * Go from @index to where the kind of entry changes, or @end.  All pages up to
 * there have one state, which may well be that of the pages behind it.
 */
static pgoff_t gmem_span(struct gmem_state *state, pgoff_t index, pgoff_t end,
			 bool *private)
{
	XA_STATE(xas, &state->units, index >> GMEM_UNIT_ORDER);
	unsigned long last = (end - 1) >> GMEM_UNIT_ORDER;
	void *entry = gmem_load(&xas);

	*private = gmem_entry_is_private(state, entry, index);

	if (gmem_is_bitmap(entry))
		return min(end, gmem_span_bitmap(entry, index));
	if (entry)
		return min(end, gmem_span_values(&xas, last));
	return min(end, gmem_span_absent(&xas, last));
}

/**
 * gmem_state_run_end() - Find where a run of pages in one state ends
 * @state: the state of the file
 * @index: a page of the run, by offset in pages
 * @end: where to stop looking, an offset in pages above @index
 * @private: set to the state of @index
 *
 * The work is a step for each entry in the run, not for each page or unit.
 *
 * Context: Any context.  Takes the RCU read lock.  The run is only reliable
 *	    while the owner keeps writers out.
 * Return: the first page above @index in another state, at most @end.
 */
pgoff_t gmem_state_run_end(struct gmem_state *state, pgoff_t index,
			   pgoff_t end, bool *private)
{
	pgoff_t next;

	VM_WARN_ON_ONCE(index >= end);

	rcu_read_lock();
	next = gmem_span(state, index, end, private);
	while (next < end) {
		bool next_private;
		pgoff_t span_end;

		span_end = gmem_span(state, next, end, &next_private);
		if (next_private != *private)
			break;
		next = span_end;
	}
	rcu_read_unlock();

	return next;
}

static bool gmem_state_is_uniform(struct gmem_state *state, pgoff_t index,
				  unsigned int order)
{
	pgoff_t start = round_down(index, 1UL << order);
	pgoff_t end = start + (1UL << order);
	bool private;

	return gmem_state_run_end(state, start, end, &private) == end;
}

/**
 * gmem_state_order() - Find the largest uniform order around a page
 * @state: the state of the file
 * @index: the page, by offset in pages
 *
 * Pages beyond the end of the file count with what is stored for them.
 *
 * Context: Any context.  Takes the RCU read lock.  The answer is only reliable
 *	    while the owner keeps writers out, or with a sequence retry.
 * Return: the largest of GMEM_CHUNK_ORDER, GMEM_UNIT_ORDER and 0 so that the
 *	   aligned run of that order that holds @index is in one state.
 */
unsigned int gmem_state_order(struct gmem_state *state, pgoff_t index)
{
	if (!gmem_state_is_uniform(state, index, GMEM_UNIT_ORDER))
		return 0;
	if (!gmem_state_is_uniform(state, index, GMEM_CHUNK_ORDER))
		return GMEM_UNIT_ORDER;
	return GMEM_CHUNK_ORDER;
}

/* @from and @to are offsets in pages, within the unit of @entry if it's mixed. */
static pgoff_t gmem_entry_count_private(const struct gmem_state *state,
					const void *entry, pgoff_t from,
					pgoff_t to)
{
	pgoff_t unit = round_down(from, GMEM_UNIT_PAGES);
	const struct gmem_bitmap *bitmap = entry;

	if (gmem_is_bitmap(entry))
		return bitmap_weight(bitmap->private, to - unit) -
		       bitmap_weight(bitmap->private, from - unit);
	return gmem_entry_is_private(state, entry, from) ? to - from : 0;
}

/**
 * gmem_state_count_private() - Count the private pages of a range
 * @state: the state of the file
 * @start: first page, by offset in pages
 * @end: one past the last page
 *
 * Context: Any context.  Takes the RCU read lock for as long as it takes to
 *	    look at each entry in the range.  The count is only exact while the
 *	    owner keeps writers out.
 * Return: the number of pages in the range that are private.
 */
pgoff_t gmem_state_count_private(struct gmem_state *state, pgoff_t start,
				 pgoff_t end)
{
	XA_STATE(xas, &state->units, start >> GMEM_UNIT_ORDER);
	pgoff_t count = 0, pos = start;
	void *entry;

	if (start >= end)
		return 0;

	rcu_read_lock();
	while (pos < end) {
		pgoff_t from = end, to = end;

		entry = gmem_find(&xas, (end - 1) >> GMEM_UNIT_ORDER);
		if (entry) {
			from = max(pos, xas.xa_index << GMEM_UNIT_ORDER);
			to = min(end, gmem_entry_end(&xas) << GMEM_UNIT_ORDER);
		}

		if (state->initial)
			count += from - pos;
		if (from < to)
			count += gmem_entry_count_private(state, entry, from, to);
		pos = to;
	}
	rcu_read_unlock();

	return count;
}

/* Lifetime */

/**
 * gmem_state_init() - Start with every page in one state
 * @state: to be initialised
 * @initial: the state of all pages, true is private
 *
 * Context: Any context.  Allocates nothing.
 */
void gmem_state_init(struct gmem_state *state, bool initial)
{
	xa_init_flags(&state->units, XA_FLAGS_ACCOUNT);
	state->initial = initial;
}

/**
 * gmem_state_destroy() - Free everything
 * @state: may be used again without another gmem_state_init()
 *
 * Lockless readers may still look; what they see is the state before or the
 * initial one.
 *
 * Context: Process context, may sleep.  The owner keeps writers out, and no
 *	    change is between prepare and commit or abort.  Takes the xa_lock.
 */
void gmem_state_destroy(struct gmem_state *state)
{
	XA_STATE(xas, &state->units, 0);
	unsigned int batch = 0;
	void *entry;

	xas_lock(&xas);
	xas_for_each(&xas, entry, ULONG_MAX) {
		gmem_store(&xas, NULL);
		if (++batch % XA_CHECK_SCHED)
			continue;

		xas_pause(&xas);
		xas_unlock(&xas);
		cond_resched();
		xas_lock(&xas);
	}
	xas_unlock(&xas);

	xa_destroy(&state->units);
}
