/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * state: who may see each page of a guest_memfd.
 *
 * Owns one xarray per inode and nothing else.  It knows offsets (in pages of
 * PAGE_SIZE) and one bit for each, shared or private; it knows nothing of
 * folios, inodes, mappings or views, and it compiles in user space, see
 * tools/testing/guest_memfd/.
 *
 * The xarray is indexed in units of GMEM_UNIT_PAGES (2 MiB of file):
 *
 *   no entry		the unit is in the initial state of the file
 *   value entry	the unit is uniform and in the other state; the aligned run
 *			of units that one xarray node holds (128 MiB with 64
 *			slots) is one entry in the node above as soon as all of
 *			it is.  1 GiB is eight such entries and no entry ever
 *			has siblings: a lockless reader that follows a sibling
 *			while the first slot of the entry changes takes the
 *			state of another page.
 *   pointer		the unit is mixed: a bitmap of GMEM_UNIT_PAGES bits, a
 *			set bit is a private page
 *
 * A bitmap is never edited once it is in the xarray.  A change makes a new
 * one, publishes it under the xa_lock and frees the old one after a grace
 * period; this is what makes gmem_state_is_private() safe without a lock.
 *
 * Writers are serialised by the owner (the core holds the mapping's
 * invalidate_lock for write).  The memory that is used depends on the state
 * only, never on how it came about.
 */
#ifndef _MM_GUEST_MEMFD_STATE_H
#define _MM_GUEST_MEMFD_STATE_H

#include <linux/bits.h>
#include <linux/types.h>
#include <linux/xarray.h>

#define GMEM_UNIT_ORDER		9
#define GMEM_UNIT_PAGES		BIT(GMEM_UNIT_ORDER)
/* The largest order that is reported, and the span of one atomic change. */
#define GMEM_CHUNK_ORDER	18
#define GMEM_CHUNK_PAGES	BIT(GMEM_CHUNK_ORDER)

struct gmem_bitmap;

/**
 * struct gmem_state - shared or private, for every page of a file
 * @units: the entries, indexed by page offset >> GMEM_UNIT_ORDER
 * @initial: what a unit without an entry is; true is private
 */
struct gmem_state {
	struct xarray units;
	bool initial;
};

/**
 * struct gmem_state_update - a change that has been paid for but not made
 * @state: what it will change
 * @start: first page, by offset
 * @end: one past the last page
 * @private: what the pages become
 * @head: new bitmap of the unit that holds @start, if it stays or becomes mixed
 * @tail: the same for the unit that holds @end - 1, if that is another unit
 *
 * Filled by gmem_state_prepare(), consumed by exactly one of
 * gmem_state_commit() and gmem_state_abort().  Both bitmaps are NULL when the
 * change needs none, whatever else it does.
 */
struct gmem_state_update {
	struct gmem_state *state;
	pgoff_t start;
	pgoff_t end;
	bool private;
	struct gmem_bitmap *head;
	struct gmem_bitmap *tail;
};

int gmem_state_cache_init(void);

void gmem_state_init(struct gmem_state *state, bool initial);
void gmem_state_destroy(struct gmem_state *state);

bool gmem_state_is_private(struct gmem_state *state, pgoff_t index);
unsigned int gmem_state_order(struct gmem_state *state, pgoff_t index);
pgoff_t gmem_state_run_end(struct gmem_state *state, pgoff_t index,
			   pgoff_t end, bool *private);
pgoff_t gmem_state_count_private(struct gmem_state *state, pgoff_t start,
				 pgoff_t end);

int gmem_state_prepare(struct gmem_state *state,
		       struct gmem_state_update *update,
		       pgoff_t start, pgoff_t end, bool private);
void gmem_state_commit(struct gmem_state_update *update);
void gmem_state_abort(struct gmem_state_update *update);

#endif /* _MM_GUEST_MEMFD_STATE_H */
