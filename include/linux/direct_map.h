/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * direct_map: pages leave the kernel's direct map and come back.
 */
#ifndef _LINUX_DIRECT_MAP_H
#define _LINUX_DIRECT_MAP_H

#include <linux/errno.h>
#include <linux/limits.h>
#include <linux/mm.h>
#include <linux/types.h>

/**
 * struct direct_map_batch - pages that a TLB may still know
 * @start: the lowest address of them
 * @end: one past the highest
 *
 * The pages need not be next to each other: however many they are and wherever
 * they lie, one flush is cheaper than one for each.
 */
struct direct_map_batch {
	unsigned long start;
	unsigned long end;
};

#define DEFINE_DIRECT_MAP_BATCH(name) \
	struct direct_map_batch name = { .start = ULONG_MAX }

#ifdef CONFIG_ARCH_HAS_SET_DIRECT_MAP
int direct_map_zap_noflush(struct direct_map_batch *batch, struct page *page,
			   unsigned long nr_pages);
void direct_map_flush(struct direct_map_batch *batch);
int direct_map_zap(struct page *page, unsigned long nr_pages);
int folio_zap_direct_map(struct folio *folio);
void direct_map_restore(struct page *page, unsigned long nr_pages);
bool direct_map_has(struct page *page);
void direct_map_restore_unpoisoned(struct page *page);
unsigned long direct_map_nr_zapped(void);
#else
static inline int direct_map_zap_noflush(struct direct_map_batch *batch,
					 struct page *page,
					 unsigned long nr_pages)
{
	return -EOPNOTSUPP;
}

static inline void direct_map_flush(struct direct_map_batch *batch)
{
}

static inline int direct_map_zap(struct page *page, unsigned long nr_pages)
{
	return -EOPNOTSUPP;
}

static inline int folio_zap_direct_map(struct folio *folio)
{
	return -EOPNOTSUPP;
}

static inline void direct_map_restore(struct page *page, unsigned long nr_pages)
{
}

static inline bool direct_map_has(struct page *page)
{
	return true;
}

static inline void direct_map_restore_unpoisoned(struct page *page)
{
}

static inline unsigned long direct_map_nr_zapped(void)
{
	return 0;
}
#endif

static inline void folio_restore_direct_map(struct folio *folio)
{
	direct_map_restore(&folio->page, folio_nr_pages(folio));
}

#endif /* _LINUX_DIRECT_MAP_H */
