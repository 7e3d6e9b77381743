// SPDX-License-Identifier: GPL-2.0-only
/*
 * exposure: which units may be in user page tables.
 *
 * One bit for each unit of GMEM_UNIT_PAGES, allocated with the file so that a
 * fault can never fail for it.  A clear bit is a promise: no user page table
 * and so nobody who went through one has a page of the unit.  It is what makes
 * the conversion of memory that user space never touched cost next to nothing.
 */
#include <linux/bitmap.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "internal.h"

static unsigned long gmem_nr_units(loff_t size)
{
	return DIV_ROUND_UP(size >> PAGE_SHIFT, GMEM_UNIT_PAGES);
}

/**
 * gmem_exposure_init() - allocate the bits of a file
 * @gi: the inode
 * @size: of the file, in bytes
 *
 * The size is anyone's choice: rather fail than kill somebody for memory.
 *
 * Context: may sleep.
 * Return: 0, or -ENOMEM.
 */
int gmem_exposure_init(struct gmem_inode *gi, loff_t size)
{
	gi->exposed = kvcalloc(BITS_TO_LONGS(gmem_nr_units(size)),
			       sizeof(long), GFP_KERNEL_ACCOUNT |
			       __GFP_RETRY_MAYFAIL | __GFP_NOWARN);
	return gi->exposed ? 0 : -ENOMEM;
}

/**
 * gmem_exposure_destroy() - free the bits of a file
 * @gi: the inode
 */
void gmem_exposure_destroy(struct gmem_inode *gi)
{
	kvfree(gi->exposed);
	gi->exposed = NULL;
}

/**
 * gmem_expose() - note that pages are about to be mapped into user space
 * @gi: the inode
 * @start: first page, by offset
 * @end: one past the last page
 *
 * Context: invalidate_lock held, at least shared, until the pages are mapped
 * or their folios locked.  Does not sleep.
 */
void gmem_expose(struct gmem_inode *gi, pgoff_t start, pgoff_t end)
{
	unsigned long unit;

	gmem_assert_locked(gi);

	/* Others set bits, too; do not bounce the line when it is done. */
	for (unit = start >> GMEM_UNIT_ORDER;
	     unit <= (end - 1) >> GMEM_UNIT_ORDER; unit++)
		if (!test_bit(unit, gi->exposed))
			set_bit(unit, gi->exposed);
}

/* Some of its pages are private: are all? */
static bool gmem_unit_has_shared(struct gmem_inode *gi, unsigned long unit)
{
	pgoff_t start = unit << GMEM_UNIT_ORDER;
	pgoff_t end = min(start + GMEM_UNIT_PAGES, gmem_nr_pages(gi));
	bool private;

	return gmem_state_run_end(&gi->state, start, end, &private) < end;
}

/**
 * gmem_unexpose_private() - forget units that have become wholly private
 * @gi: the inode
 * @start: first page that was made private, by offset
 * @end: one past the last page
 *
 * Context: invalidate_lock held for write, the state committed and every user
 * mapping of the range gone.
 */
void gmem_unexpose_private(struct gmem_inode *gi, pgoff_t start, pgoff_t end)
{
	unsigned long first = start >> GMEM_UNIT_ORDER;
	unsigned long last = (end - 1) >> GMEM_UNIT_ORDER;
	unsigned long unit;

	gmem_assert_locked_write(gi);

	if (!gi->exposed)
		return;

	/* Only the outer units can still hold pages that are shared. */
	for (unit = first; unit <= last; unit++) {
		if (!test_bit(unit, gi->exposed))
			continue;
		if ((unit == first || unit == last) &&
		    gmem_unit_has_shared(gi, unit))
			continue;
		clear_bit(unit, gi->exposed);
	}
}

/**
 * gmem_exposed_run() - find the first run of exposed units in a range
 * @gi: the inode
 * @start: first page, by offset; moved to the first page of the run
 * @end: one past the last page; moved to one past the last page of the run
 *
 * Context: invalidate_lock held for write.
 * Return: false if nothing in the range is exposed.
 */
bool gmem_exposed_run(struct gmem_inode *gi, pgoff_t *start, pgoff_t *end)
{
	unsigned long limit = ((*end - 1) >> GMEM_UNIT_ORDER) + 1;
	unsigned long first, next;

	gmem_assert_locked_write(gi);

	if (!gi->exposed)
		return false;

	first = find_next_bit(gi->exposed, limit, *start >> GMEM_UNIT_ORDER);
	if (first >= limit)
		return false;

	next = find_next_zero_bit(gi->exposed, limit, first);
	*start = max(*start, first << GMEM_UNIT_ORDER);
	*end = min(*end, next << GMEM_UNIT_ORDER);
	return true;
}
