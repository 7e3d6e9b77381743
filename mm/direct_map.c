// SPDX-License-Identifier: GPL-2.0-only
/*
 * direct_map: pages leave the kernel's direct map and come back.
 *
 * How an entry is changed is for the architecture to know, see
 * set_direct_map_valid_noflush().  Here is when the TLB is flushed, what becomes
 * of a step that fails half-way, and which pages had better stay out.
 */
#include <linux/atomic.h>
#include <linux/direct_map.h>
#include <linux/error-injection.h>
#include <linux/highmem.h>
#include <linux/kasan.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/mmdebug.h>
#include <linux/set_memory.h>
#include <linux/vmstat.h>

#include <asm/tlbflush.h>

static atomic_long_t direct_map_zapped = ATOMIC_LONG_INIT(0);

static unsigned long direct_map_address(struct page *page)
{
	return (unsigned long)kasan_reset_tag(page_address(page));
}

#ifdef CONFIG_MEMORY_FAILURE
/* The first page from @i on that is broken, or @nr_pages. */
static unsigned long direct_map_next_broken(struct page *page, unsigned long i,
					    unsigned long nr_pages)
{
	/* For one page, look; for many, see first whether there is any. */
	if (nr_pages > 1 && !atomic_long_read(&num_poisoned_pages))
		return nr_pages;

	for (; i < nr_pages; i++)
		if (PageHWPoison(page + i))
			break;
	return i;
}
#else
static unsigned long direct_map_next_broken(struct page *page, unsigned long i,
					    unsigned long nr_pages)
{
	return nr_pages;
}
#endif

/* All but the broken ones; fails if there is no memory to split around one. */
static int direct_map_restore_healthy(struct page *page, unsigned long nr_pages)
{
	unsigned long i, broken;
	int err;

	for (i = 0; i < nr_pages; i = broken + 1) {
		broken = direct_map_next_broken(page, i, nr_pages);
		if (broken == i)
			continue;
		err = set_direct_map_valid_noflush(page + i, broken - i, true);
		if (err)
			return err;
	}

	return 0;
}

static void put_back(struct page *page, unsigned long nr_pages)
{
	/* A broken page is better mapped than a healthy one is not. */
	if (unlikely(direct_map_restore_healthy(page, nr_pages)))
		WARN_ON_ONCE(set_direct_map_valid_noflush(page, nr_pages, true));
}

/**
 * direct_map_zap_noflush() - take pages out of the direct map
 * @batch: what direct_map_flush() has to flush; these pages are added
 * @page: the first page; it and its successors are in use
 * @nr_pages: how many there are, contiguous in memory
 *
 * Until the flush a CPU may get at them as before.  Nobody else must change the
 * same pages meanwhile.  What is out in one piece comes back in one piece: give
 * direct_map_restore() the same range.  A large entry that the range covers
 * stays a large entry; one that it covers in part is split, for good.
 *
 * High memory has no direct map, and nothing happens to it.
 *
 * The architecture must find a large entry again that is not present, if the
 * range covers one: x86 and arm64 do, others may not.
 *
 * Context: may sleep.
 * Return: 0, or a negative errno, and all of the pages are where they were, but
 * for broken ones, which may be out:
 *
 * * -EOPNOTSUPP: this machine cannot do it
 * * -ENOMEM: no memory to split a large entry
 */
int direct_map_zap_noflush(struct direct_map_batch *batch, struct page *page,
			   unsigned long nr_pages)
{
	unsigned long addr;
	int err;

	might_sleep();

	if (!can_set_direct_map())
		return -EOPNOTSUPP;
	if (PageHighMem(page))
		return 0;

	err = set_direct_map_valid_noflush(page, nr_pages, false);
	if (err) {
		/*
		 * Those in front of the failure, if there are any: then what is
		 * behind them had only to be changed.
		 */
		if (!kernel_page_present(page))
			put_back(page, nr_pages);
		return err;
	}

	atomic_long_add(nr_pages, &direct_map_zapped);
	addr = direct_map_address(page);
	batch->start = min(batch->start, addr);
	batch->end = max(batch->end, addr + (nr_pages << PAGE_SHIFT));
	return 0;
}

static void flush_range(unsigned long start, unsigned long end)
{
	flush_tlb_kernel_range(start, end);
	count_vm_event(DIRECT_MAP_FLUSH);
}

/**
 * direct_map_flush() - have all CPUs forget the pages of a batch
 * @batch: may be empty, and is afterwards
 *
 * Context: may sleep; interrupts enabled.
 */
void direct_map_flush(struct direct_map_batch *batch)
{
	if (batch->start >= batch->end)
		return;

	flush_range(batch->start, batch->end);
	batch->start = ULONG_MAX;
	batch->end = 0;
}

/**
 * direct_map_zap() - take pages out of the direct map, now
 * @page: the first page
 * @nr_pages: how many there are, contiguous in memory
 *
 * Context: may sleep.
 * Return: as direct_map_zap_noflush().
 */
int direct_map_zap(struct page *page, unsigned long nr_pages)
{
	DEFINE_DIRECT_MAP_BATCH(batch);
	int err;

	err = direct_map_zap_noflush(&batch, page, nr_pages);
	direct_map_flush(&batch);
	return err;
}
ALLOW_ERROR_INJECTION(direct_map_zap, ERRNO);

/**
 * folio_zap_direct_map() - take a folio out of the direct map, now
 * @folio: the folio, of order 0
 *
 * For one page at a time this is cheaper than a range: it changes, or it does not.
 *
 * Context: may sleep.
 * Return: as direct_map_zap_noflush().
 */
int folio_zap_direct_map(struct folio *folio)
{
	unsigned long addr;
	int err;

	might_sleep();
	VM_WARN_ON_ONCE_FOLIO(folio_test_large(folio), folio);

	if (!can_set_direct_map())
		return -EOPNOTSUPP;
	if (folio_test_highmem(folio))
		return 0;

	err = set_direct_map_invalid_noflush(&folio->page);
	if (err < 0)
		return err;

	atomic_long_inc(&direct_map_zapped);
	addr = direct_map_address(&folio->page);
	flush_range(addr, addr + PAGE_SIZE);
	return 0;
}
ALLOW_ERROR_INJECTION(folio_zap_direct_map, ERRNO);

/**
 * direct_map_restore() - put pages back into the direct map
 * @page: the first page
 * @nr_pages: how many there are; the range that was taken out
 *
 * Pages that are broken stay out, if there is memory to split an entry around
 * them: the CPU would read them ahead of itself, and what machine checks do about
 * that, see set_mce_nospec(), is not undone.
 * Whoever touches the content of pages that have come back looks for
 * PageHWPoison() first.
 *
 * Cannot fail: the entries have the size that they had when the pages were
 * taken out, or have been split since.  No TLB knows an entry that is not
 * present, so nothing is flushed; where one may, as on riscv without Svvptc, it
 * is set_direct_map_valid_noflush() that flushes.
 *
 * It is the pages that say whether they are broken: those of a hugetlb folio can't.
 *
 * Context: may sleep.
 */
void direct_map_restore(struct page *page, unsigned long nr_pages)
{
	might_sleep();

	if (PageHighMem(page))
		return;

	put_back(page, nr_pages);
	atomic_long_sub(nr_pages, &direct_map_zapped);
}

/**
 * direct_map_has() - is a page where the kernel can get at it?
 * @page: the page
 *
 * Context: any.
 * Return: false if it was taken out and has not come back, or has stayed out.
 */
bool direct_map_has(struct page *page)
{
	return !can_set_direct_map() || PageHighMem(page) ||
	       kernel_page_present(page);
}

/**
 * direct_map_restore_unpoisoned() - a page is not broken after all
 * @page: the page, which nobody uses
 *
 * What it holds is cleared: nobody could do that when its owner let go of it.
 *
 * Context: may sleep.
 */
void direct_map_restore_unpoisoned(struct page *page)
{
	if (direct_map_has(page))
		return;

	/* It was taken out by itself, or others were put back around it. */
	if (!WARN_ON_ONCE(set_direct_map_valid_noflush(page, 1, true)))
		clear_highpage(page);
}

/**
 * direct_map_nr_zapped() - how many pages are out
 *
 * Context: any.
 * Return: the number, whichever function above has taken them out.
 */
unsigned long direct_map_nr_zapped(void)
{
	return atomic_long_read(&direct_map_zapped);
}
