/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the rooms of the guest_memfd core know of each other.
 *
 *	inode	 the file and its life, fallocate, fdinfo, what users may ask
 *	fault	 what user space gets to see through mmap()
 *	convert	 the one protocol that changes who may see a page
 *	view	 who is told, in what order
 *	state	 shared or private, for every page (state.h)
 *	exposure which units may be in user page tables
 *	block	 where the folios come from
 *	huge	 ... out of the hugetlb pool, and back into it
 *	cache	 ... into the page cache, many at a time
 *	poison	 telling views of broken pages
 *	debugfs	 the runs of a file, for a developer to look at
 *	stall	 points at which a test can make a thread wait
 *
 * state knows nothing of folios, block nothing of state.
 */
#ifndef _MM_GUEST_MEMFD_INTERNAL_H
#define _MM_GUEST_MEMFD_INTERNAL_H

#include <linux/fs.h>
#include <linux/guest_memfd.h>
#include <linux/mempolicy.h>
#include <linux/mutex.h>
#include <linux/sizes.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "state.h"

/**
 * struct gmem_poison - the range that views have yet to be told about
 * @lock: protects @start and @end; taken under folio locks, i_lock is inside
 * @start: first page, by offset
 * @end: one past the last page; no poison is pending if it is not above @start
 * @work: tells them; holds a reference on the inode while it is queued
 */
struct gmem_poison {
	spinlock_t lock;	/* start, end */
	pgoff_t start;
	pgoff_t end;
	struct work_struct work;
};

struct gmem_pool;

/*
 * As many as are looked at before others get a chance.  A TiB with 4 KiB pages: a
 * few milliseconds at the worst.
 */
#define GMEM_COUNT_PAGES	(GMEM_CHUNK_PAGES << 10)

/* What a block has of each of its pages, so that none is ever freed by itself. */
#define GMEM_BLOCK_REFS		1

/* In folio->private of a page of a block: memory_failure() keeps a reference. */
#define GMEM_REPORTED		((void *)1)

/*
 * The mark of broken pages.  Nothing is ever written back from here, so the marks
 * of the page cache are free.
 */
#define GMEM_BROKEN		PAGECACHE_TAG_TOWRITE

/**
 * struct gmem_inode - a guest_memfd
 * @vfs_inode: the inode; its mapping's invalidate_lock is the core's big lock
 * @flags: GUEST_MEMFD_*, fixed at creation
 * @owner: module whose code the mapping's operations are, or NULL; pinned for
 *	the life of the inode, which may be longer than that of the file
 * @policy: NUMA policy of the file, has a lock of its own
 * @pool: hugetlb pool that the memory comes from, NULL if it is 4 KiB pages
 * @blocks: &struct gmem_block by number; entries come with @populate_lock and
 *	go with invalidate_lock held for write
 * @populate_lock: taken inside invalidate_lock, at least shared, so that a block is
 *	taken once
 * @views: who is told, protected by invalidate_lock
 * @state: shared or private; written under invalidate_lock held for write,
 *	read under it, or without a lock as state.h allows
 * @exposed: one bit for each unit that may be in user page tables; set with
 *	invalidate_lock held shared, cleared with it held for write; NULL if
 *	the file cannot be mapped
 * @poison: broken pages found, not yet told
 * @debugfs: its directory
 */
struct gmem_inode {
	struct inode vfs_inode;
	unsigned int flags;
	struct module *owner;
	struct shared_policy policy;
	struct gmem_pool *pool;
	struct xarray blocks;
	struct mutex populate_lock;	/* additions to blocks */
	struct list_head views;
	struct gmem_state state;
	unsigned long *exposed;
	struct gmem_poison poison;
	struct dentry *debugfs;
};

static inline struct gmem_inode *gmem_i(const struct inode *inode)
{
	return container_of(inode, struct gmem_inode, vfs_inode);
}

static inline pgoff_t gmem_nr_pages(const struct gmem_inode *gi)
{
	return i_size_read(&gi->vfs_inode) >> PAGE_SHIFT;
}

static inline void gmem_assert_locked(const struct gmem_inode *gi)
{
	lockdep_assert_held(&gi->vfs_inode.i_mapping->invalidate_lock);
}

static inline void gmem_assert_locked_write(const struct gmem_inode *gi)
{
	lockdep_assert_held_write(&gi->vfs_inode.i_mapping->invalidate_lock);
}

/* view.c */
int gmem_views_prepare(const struct guest_memfd_change *change);
void gmem_views_abort(const struct guest_memfd_change *change);
void gmem_views_begin(const struct guest_memfd_change *change);
int gmem_views_transfer(const struct guest_memfd_change *change);
void gmem_views_refresh(const struct guest_memfd_change *change);
void gmem_views_end(const struct guest_memfd_change *change);

/* exposure.c */
int gmem_exposure_init(struct gmem_inode *gi, loff_t size);
void gmem_exposure_destroy(struct gmem_inode *gi);
void gmem_expose(struct gmem_inode *gi, pgoff_t start, pgoff_t end);
void gmem_unexpose_private(struct gmem_inode *gi, pgoff_t start, pgoff_t end);
bool gmem_exposed_run(struct gmem_inode *gi, pgoff_t *start, pgoff_t *end);

/* What a fault takes along, aligned: as much as do_fault_around() does by default. */
#define GMEM_AROUND_SIZE	SZ_64K
#define GMEM_AROUND_PAGES	(GMEM_AROUND_SIZE >> PAGE_SHIFT)

/* block.c */
struct folio *gmem_block_get_folio(struct gmem_inode *gi, pgoff_t index);
int gmem_block_add_folios(struct gmem_inode *gi, pgoff_t start, pgoff_t end);
unsigned int gmem_block_order(const struct gmem_inode *gi);
int gmem_block_refs(const struct gmem_inode *gi);
void gmem_block_remove(struct gmem_inode *gi, pgoff_t start, pgoff_t end);

/* huge.c */
#ifdef CONFIG_HUGETLB_SPLIT
struct gmem_pool *gmem_pool_create(loff_t size, unsigned int flags);
void gmem_pool_put(struct gmem_pool *pool);
unsigned int gmem_pool_order(const struct gmem_pool *pool);
void gmem_pool_show(struct seq_file *m, struct gmem_pool *pool);
int gmem_huge_populate(struct gmem_inode *gi, pgoff_t index);
void gmem_huge_remove(struct gmem_inode *gi, pgoff_t start, pgoff_t end);
#else
static inline struct gmem_pool *gmem_pool_create(loff_t size, unsigned int flags)
{
	return ERR_PTR(-ENODEV);
}

static inline void gmem_pool_put(struct gmem_pool *pool) { }
static inline void gmem_pool_show(struct seq_file *m, struct gmem_pool *pool) { }

static inline unsigned int gmem_pool_order(const struct gmem_pool *pool)
{
	return 0;
}

static inline int gmem_huge_populate(struct gmem_inode *gi, pgoff_t index)
{
	return 0;
}

static inline void gmem_huge_remove(struct gmem_inode *gi, pgoff_t start,
				    pgoff_t end)
{
}
#endif

/* cache.c */
void gmem_cache_init(void);
int gmem_cache_add(struct address_space *mapping, struct page *page,
		   pgoff_t index);
bool gmem_cache_remove(struct address_space *mapping, struct page *page,
		       pgoff_t index);
bool gmem_cache_reclaim(struct page *page);

/* poison.c */
void gmem_poison_init(struct gmem_poison *poison);
unsigned int gmem_poison_order(struct gmem_inode *gi, pgoff_t index,
			       unsigned int order);
void gmem_poison_report(struct gmem_inode *gi, struct folio *folio);

/* debugfs.c */
#ifdef CONFIG_DEBUG_FS
struct dentry *gmem_debugfs_root(void);
void gmem_debugfs_init(void);
void gmem_debugfs_add(struct gmem_inode *gi);
void gmem_debugfs_del(struct gmem_inode *gi);
#else
static inline void gmem_debugfs_init(void) { }
static inline void gmem_debugfs_add(struct gmem_inode *gi) { }
static inline void gmem_debugfs_del(struct gmem_inode *gi) { }
#endif

#endif /* _MM_GUEST_MEMFD_INTERNAL_H */
