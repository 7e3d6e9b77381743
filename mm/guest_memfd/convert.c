// SPDX-License-Identifier: GPL-2.0-only
/*
 * convert: the one protocol that changes who may see a page.
 *
 * Brings state, exposure, page cache and views together, one aligned GiB at a
 * time: each such chunk changes as a whole or not at all.  Nothing is frozen
 * and nothing is allocated between the first step that another CPU can see
 * and the commit, so a conversion can always be undone until it is done.
 */
#include <linux/delay.h>
#include <linux/export.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/folio_batch.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>

#include <trace/events/guest_memfd.h>

#include "../internal.h"
#include "internal.h"

/*
 * References that are nobody's in particular go away by themselves: those in
 * the per-CPU batches of the LRU and of mlock when these are drained, those of
 * a lockless walk, or in the TLB batch of another CPU, soon.  A folio that is
 * held is looked at again after sleeps that double, from GMEM_SLEEP_USECS on.
 * For a whole chunk they are limited to GMEM_WAIT_USECS, as everybody else
 * waits for invalidate_lock meanwhile.  A drain bothers all CPUs, so there is
 * one after the first sleep, one after the last, and one in between; each
 * counts as GMEM_DRAIN_USECS, because pages can be let go at just the wrong
 * moments.
 */
#define GMEM_SLEEP_USECS	40
#define GMEM_WAIT_USECS		10240
#define GMEM_DRAIN_USECS	160
#define GMEM_DRAIN_EVERY	3

/**
 * struct gmem_convert - the conversion of one chunk
 * @gi: the inode
 * @change: what the views are told
 * @update: the new state, paid for
 * @private: what the pages become
 * @waited: for folios that were held, in microseconds
 * @held: references that somebody else had to the last folio looked at
 * @converted: there was something to convert
 * @error_index: the page that stopped it
 */
struct gmem_convert {
	struct gmem_inode *gi;
	struct guest_memfd_change change;
	struct gmem_state_update update;
	bool private;
	unsigned int waited;
	int held;
	bool converted;
	pgoff_t error_index;
};

/*
 * How many references has the folio but those of the page cache, of its block,
 * and of the caller?  It is locked and not mapped.
 */
static int gmem_folio_held(const struct gmem_inode *gi,
			   const struct folio *folio)
{
	/*
	 * Pairs with the re-read of the page table entry in GUP-fast: it takes
	 * its reference first and then looks again, here the entry went first.
	 * Either it finds the entry gone and lets go, or the reference is seen.
	 */
	smp_mb();
	return folio_ref_count(folio) - folio_nr_pages(folio) -
	       gmem_block_refs(gi) - 1;
}

static bool gmem_may_wait(struct gmem_convert *cv, unsigned int usecs)
{
	cv->waited += usecs;
	return cv->waited <= GMEM_WAIT_USECS && !fatal_signal_pending(current);
}

/*
 * Let references go that are nobody's.  Draining all CPUs once would not do:
 * unmapping a locked mapping makes new ones, so does a fault that was under
 * way, and whoever takes a folio off the LRU for a while puts it back through a
 * batch.  Return false when it has been long enough.
 */
static bool gmem_wait(struct gmem_convert *cv, unsigned int attempt)
{
	const bool drain = attempt % GMEM_DRAIN_EVERY == 1;
	unsigned int usecs;

	if (attempt == 0) {
		lru_add_drain();
		return true;
	}

	usecs = min(GMEM_SLEEP_USECS << (attempt - 1), GMEM_WAIT_USECS);
	if (!gmem_may_wait(cv, drain ? usecs + GMEM_DRAIN_USECS : usecs))
		return false;

	fsleep(usecs);
	if (drain)
		lru_add_drain_all();
	return true;
}

/*
 * The range was unmapped, and is not mapped again: that needs invalidate_lock.
 * Were a folio mapped nevertheless, it would be held by that.
 */
static int gmem_try_folio(struct gmem_convert *cv, struct folio *folio)
{
	int err = 0;

	folio_lock(folio);
	cv->held = gmem_folio_held(cv->gi, folio);
	if (folio_test_hwpoison(folio))
		err = -EHWPOISON;
	else if (cv->held)
		err = -EAGAIN;
	folio_unlock(folio);

	return err;
}

/*
 * The folio is not locked while it is waited for: migration and the like take
 * their reference first and then wait for the lock.
 */
static int gmem_check_folio(struct gmem_convert *cv, struct folio *folio)
{
	unsigned int attempt = 0;
	int err;

	do {
		err = gmem_try_folio(cv, folio);
	} while (err == -EAGAIN && gmem_wait(cv, attempt++));

	if (err == -EAGAIN)
		trace_guest_memfd_held(&cv->gi->vfs_inode, folio, cv->held);
	if (err)
		cv->error_index = folio->index;
	return err;
}

/* Check what of [start, end) is in the page cache; all of it is exposed. */
static int gmem_check_range(struct gmem_convert *cv, pgoff_t start, pgoff_t end)
{
	struct address_space *mapping = cv->gi->vfs_inode.i_mapping;
	struct folio_batch fbatch;
	unsigned int i;
	int err = 0;

	folio_batch_init(&fbatch);
	while (!err && filemap_get_folios(mapping, &start, end - 1, &fbatch)) {
		for (i = 0; !err && i < folio_batch_count(&fbatch); i++)
			err = gmem_check_folio(cv, fbatch.folios[i]);
		folio_batch_release(&fbatch);
		cond_resched();
	}

	return err;
}

/*
 * Take the shared pages away from user space.  They are all unmapped at once:
 * user space decides how many mappings and how many runs there are, and whoever
 * wants the lock would wait for each of the ones times each of the others.
 * Private pages are not mapped.
 */
static void gmem_unmap(struct gmem_convert *cv, pgoff_t start, pgoff_t end)
{
	unmap_mapping_pages(cv->gi->vfs_inode.i_mapping, start, end - start,
			    false);
	guest_memfd_stall(GUEST_MEMFD_STALL_UNMAPPED);
}

/*
 * Only pages that change are looked at: the others are nobody's business.  All
 * of [start, end) is exposed.
 */
static int gmem_check_run(struct gmem_convert *cv, pgoff_t start, pgoff_t end)
{
	pgoff_t index, next;
	bool private;
	int err;

	for (index = start; index < end; index = next) {
		next = gmem_state_run_end(&cv->gi->state, index, end, &private);
		if (private)
			continue;
		err = gmem_check_range(cv, index, next);
		if (err)
			return err;
		cond_resched();
	}

	return 0;
}

static int gmem_check(struct gmem_convert *cv)
{
	pgoff_t end = cv->change.end;
	pgoff_t first = cv->change.start, last = end;
	int err;

	if (!gmem_exposed_run(cv->gi, &first, &last))
		return 0;
	gmem_unmap(cv, first, end);

	do {
		err = gmem_check_run(cv, first, last);
		if (err)
			return err;
		first = last;
		last = end;
	} while (first < end && gmem_exposed_run(cv->gi, &first, &last));

	return 0;
}

static void gmem_commit(struct gmem_convert *cv)
{
	gmem_state_commit(&cv->update);
	if (cv->private)
		gmem_unexpose_private(cv->gi, cv->change.start, cv->change.end);
}

/* The protocol, DOC: guest_memfd core.  invalidate_lock is held for write. */
static int gmem_convert_locked(struct gmem_convert *cv)
{
	const struct guest_memfd_change *change = &cv->change;
	int err;

	gmem_assert_locked_write(cv->gi);

	err = gmem_state_prepare(&cv->gi->state, &cv->update, change->start,
				 change->end, cv->private);
	if (err)
		return err;

	err = gmem_views_prepare(change);
	if (err)
		goto err_state;

	gmem_views_begin(change);
	guest_memfd_stall(GUEST_MEMFD_STALL_BEGUN);

	if (cv->private) {
		err = gmem_check(cv);
		if (err)
			goto err_end;
	}
	guest_memfd_stall(GUEST_MEMFD_STALL_CHECKED);

	err = gmem_views_transfer(change);
	if (err)
		goto err_end;

	gmem_commit(cv);
	gmem_views_refresh(change);
	gmem_views_end(change);
	return 0;

err_end:
	gmem_views_end(change);
	gmem_views_abort(change);
err_state:
	gmem_state_abort(&cv->update);
	return err;
}

/* Leave out what has the wanted state already, at the front at least. */
static bool gmem_skip_done(struct gmem_convert *cv)
{
	struct guest_memfd_change *change = &cv->change;
	bool private;
	pgoff_t next;

	next = gmem_state_run_end(&cv->gi->state, change->start, change->end,
				  &private);
	if (private == cv->private)
		change->start = next;

	return change->start == change->end;
}

static int gmem_convert_chunk(struct gmem_convert *cv)
{
	struct address_space *mapping = cv->gi->vfs_inode.i_mapping;
	int err = 0;

	filemap_invalidate_lock(mapping);
	if (!gmem_skip_done(cv)) {
		err = gmem_convert_locked(cv);
		cv->converted = !err;
		trace_guest_memfd_convert(&cv->change, err, cv->error_index,
					  cv->waited);
	}
	filemap_invalidate_unlock(mapping);

	return err;
}

/*
 * Who starts over with the same range after a signal must come further each
 * time, however many signals there are: chunks that have the wanted state
 * already do not count.
 */
static bool gmem_interrupted(bool converted)
{
	return converted ? signal_pending(current) :
			   fatal_signal_pending(current);
}

/**
 * guest_memfd_convert() - change who may see a range of pages
 * @inode: the guest_memfd
 * @start: first page, by offset
 * @end: one past the last page
 * @type: %GUEST_MEMFD_TO_SHARED or %GUEST_MEMFD_TO_PRIVATE
 * @initiator: the view that asks for it, NULL if user space does
 * @error_index: on error, the page that stopped it if it is known, else the
 *	first page of the first chunk that was not converted
 *
 * The range is converted one aligned GiB (chunk) at a time.  On an error the
 * chunks before that of @error_index are converted, that one and all later
 * ones are as they were.  What a page holds does not change.  Pages that have
 * the wanted state already, or do not exist yet, are fine.
 *
 * Context: process context, may sleep; takes invalidate_lock, so no folio lock
 * and nothing that a view takes in its callbacks may be held.
 * Return: 0, or
 *
 * * -EINVAL: empty, past the end of the file, or not a conversion
 * * -EOPNOTSUPP: the inode does not track its state
 * * -ENOMEM: no memory for the new state
 * * -EAGAIN: to private: somebody still holds the page at @error_index
 * * -EHWPOISON: to private: the page at @error_index is broken; only told of
 *   pages that user space may have mapped
 * * -EINTR: a signal is pending; only after at least one chunk was converted
 * * what a view gives to refuse
 */
int guest_memfd_convert(struct inode *inode, pgoff_t start, pgoff_t end,
			enum guest_memfd_change_type type,
			struct guest_memfd_view *initiator,
			pgoff_t *error_index)
{
	struct gmem_inode *gi = gmem_i(inode);
	pgoff_t index, next;
	bool converted = false;
	int err;

	*error_index = start;

	if (type != GUEST_MEMFD_TO_SHARED && type != GUEST_MEMFD_TO_PRIVATE)
		return -EINVAL;
	if (start >= end || end > gmem_nr_pages(gi))
		return -EINVAL;
	if (!(gi->flags & GUEST_MEMFD_TRACK_STATE))
		return -EOPNOTSUPP;

	for (index = start; index < end; index = next) {
		struct gmem_convert cv = {
			.gi = gi,
			.private = type == GUEST_MEMFD_TO_PRIVATE,
			.error_index = index,
			.change = {
				.inode = inode,
				.start = index,
				.type = type,
				.initiator = initiator,
			},
		};

		next = min(end, round_down(index, GMEM_CHUNK_PAGES) +
				GMEM_CHUNK_PAGES);
		cv.change.end = next;

		if (index != start && gmem_interrupted(converted))
			err = -EINTR;
		else
			err = gmem_convert_chunk(&cv);

		if (err) {
			*error_index = cv.error_index;
			return err;
		}
		converted |= cv.converted;
		cond_resched();
	}

	return 0;
}
EXPORT_SYMBOL_GPL(guest_memfd_convert);
