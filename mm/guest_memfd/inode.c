// SPDX-License-Identifier: GPL-2.0-only
/*
 * inode: the file and its life, fallocate, fdinfo, and what users may ask.
 *
 * Punching a hole takes the views through the same steps as a conversion,
 * because a page that goes away must leave them first.
 */
#include <linux/anon_inodes.h>
#include <linux/export.h>
#include <linux/falloc.h>
#include <linux/file.h>
#include <linux/fs_context.h>
#include <linux/highmem.h>
#include <linux/init.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/pseudo_fs.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/set_memory.h>
#include <linux/slab.h>

#define CREATE_TRACE_POINTS
#include <trace/events/guest_memfd.h>

#include "internal.h"

static struct vfsmount *gmem_mnt __ro_after_init;
static struct kmem_cache *gmem_inode_cachep __ro_after_init;

/*
 * fallocate
 */

static int gmem_remove_locked(struct gmem_inode *gi,
			      const struct guest_memfd_change *change)
{
	int err;

	err = gmem_views_prepare(change);
	if (err)
		return err;

	gmem_views_begin(change);
	guest_memfd_stall(GUEST_MEMFD_STALL_REMOVE);
	trace_guest_memfd_remove(change);
	gmem_block_remove(gi, change->start, change->end);
	gmem_views_refresh(change);
	gmem_views_end(change);
	return 0;
}

/* Up to the end of a chunk, and of what is empty behind that. */
static pgoff_t gmem_piece_end(struct inode *inode, pgoff_t start, pgoff_t end)
{
	unsigned long next = round_down(start, GMEM_CHUNK_PAGES) +
			     GMEM_CHUNK_PAGES;

	if (next >= end ||
	    !xa_find(&inode->i_mapping->i_pages, &next, end - 1, XA_PRESENT))
		return end;
	return round_down(next, GMEM_CHUNK_PAGES);
}

static int gmem_punch_hole(struct inode *inode, pgoff_t start, pgoff_t end)
{
	struct gmem_inode *gi = gmem_i(inode);
	struct guest_memfd_change change = {
		.inode = inode,
		.type = GUEST_MEMFD_REMOVE,
	};
	int err;

	/* There is nothing behind the end of the file, so no view to disturb. */
	end = min(end, gmem_nr_pages(gi));
	if (start >= end)
		return 0;
	/* No part of a block goes back to the pool, and no zeroes are written. */
	if (!IS_ALIGNED(start | end, 1UL << gmem_block_order(gi)))
		return -EINVAL;

	/* vCPUs wait for the lock meanwhile, and cannot be killed. */
	for (; start < end; start = change.end) {
		if (fatal_signal_pending(current))
			return -EINTR;

		filemap_invalidate_lock(inode->i_mapping);
		change.start = start;
		change.end = gmem_piece_end(inode, start, end);
		err = gmem_remove_locked(gi, &change);
		filemap_invalidate_unlock(inode->i_mapping);
		if (err)
			return err;
		cond_resched();
	}

	return 0;
}

static int gmem_populate(struct gmem_inode *gi, pgoff_t start, pgoff_t end)
{
	struct folio *folio;
	pgoff_t index;

	for (index = start; index < end; index = folio_next_index(folio)) {
		if (signal_pending(current))
			return -EINTR;

		/* A unit is part of one block, and all of that comes at once. */
		if (gi->pool)
			return gmem_huge_populate(gi, index);
		if (mapping_no_direct_map(gi->vfs_inode.i_mapping))
			return gmem_block_add_folios(gi, index, end);

		folio = gmem_block_get_folio(gi, index);
		if (IS_ERR(folio))
			return PTR_ERR(folio);

		folio_unlock(folio);
		/* The page cache keeps it: nothing is removed under the lock. */
		folio_put(folio);
		cond_resched();
	}

	return 0;
}

static int gmem_allocate(struct inode *inode, pgoff_t start, pgoff_t end)
{
	struct gmem_inode *gi = gmem_i(inode);
	pgoff_t next;
	int err = 0;

	if (end > gmem_nr_pages(gi))
		return -EINVAL;

	/* A writer that waits for the lock has all faults wait behind it. */
	for (; !err && start < end; start = next) {
		next = min(end, round_down(start, GMEM_UNIT_PAGES) +
				GMEM_UNIT_PAGES);
		filemap_invalidate_lock_shared(inode->i_mapping);
		err = gmem_populate(gi, start, next);
		filemap_invalidate_unlock_shared(inode->i_mapping);
	}

	return err;
}

/**
 * guest_memfd_fallocate() - the ->fallocate of a guest_memfd
 * @file: the file
 * @mode: FALLOC_FL_KEEP_SIZE, alone or with FALLOC_FL_PUNCH_HOLE
 * @offset: in bytes, page aligned
 * @len: in bytes, page aligned
 *
 * A hole loses its content but not its state: what was private is private
 * when it is populated again.  It comes into being in order of offsets, a chunk at
 * a time.
 *
 * Context: may sleep.
 * Return: 0, or
 *
 * * -EOPNOTSUPP: another mode
 * * -EINVAL: not aligned, to blocks for a hole, or allocation past the end of
 *   the file
 * * -ENOMEM, -ENOSPC: allocation stopped part-way
 * * -EINTR: either stopped part-way; a hole only for a fatal signal
 * * what a view gives to refuse the removal of its pages; those before are removed
 */
long guest_memfd_fallocate(struct file *file, int mode, loff_t offset,
			   loff_t len)
{
	pgoff_t start = offset >> PAGE_SHIFT;
	pgoff_t end = (offset + len) >> PAGE_SHIFT;
	int err;

	if (!(mode & FALLOC_FL_KEEP_SIZE))
		return -EOPNOTSUPP;
	if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE))
		return -EOPNOTSUPP;
	if (!PAGE_ALIGNED(offset) || !PAGE_ALIGNED(len))
		return -EINVAL;

	if (mode & FALLOC_FL_PUNCH_HOLE)
		err = gmem_punch_hole(file_inode(file), start, end);
	else
		err = gmem_allocate(file_inode(file), start, end);

	if (!err)
		file_modified(file);
	return err;
}
EXPORT_SYMBOL_GPL(guest_memfd_fallocate);

/* RCU must not wait until all of a large file has been counted. */
static pgoff_t gmem_count_private(struct gmem_inode *gi)
{
	pgoff_t nr_pages = gmem_nr_pages(gi);
	pgoff_t start, end, count = 0;

	gmem_assert_locked(gi);

	for (start = 0; start < nr_pages; start = end) {
		end = start + min(nr_pages - start, GMEM_COUNT_PAGES);
		count += gmem_state_count_private(&gi->state, start, end);
		cond_resched();
	}

	return count;
}

/**
 * guest_memfd_show_fdinfo() - the ->show_fdinfo of a guest_memfd
 * @m: what to print to
 * @file: the file
 *
 * Context: may sleep; takes invalidate_lock shared.
 */
void guest_memfd_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct inode *inode = file_inode(file);
	struct gmem_inode *gi = gmem_i(inode);
	pgoff_t nr_pages = gmem_nr_pages(gi);
	pgoff_t nr_private;

	filemap_invalidate_lock_shared(inode->i_mapping);
	nr_private = gmem_count_private(gi);
	filemap_invalidate_unlock_shared(inode->i_mapping);

	seq_printf(m, "guest_memfd-size:\t%lld\n", i_size_read(inode));
	seq_printf(m, "guest_memfd-block-size:\t%lu\n",
		   PAGE_SIZE << gmem_block_order(gi));
	seq_printf(m, "guest_memfd-flags:%s%s%s%s%s\n",
		   gi->flags & GUEST_MEMFD_MMAP ? "\tmmap" : "",
		   gi->flags & GUEST_MEMFD_INIT_SHARED ? "\tinit-shared" : "",
		   gi->flags & GUEST_MEMFD_TRACK_STATE ? "\ttrack-state" : "",
		   gi->flags & GUEST_MEMFD_HUGETLB ? "\thugetlb" : "",
		   gi->flags & GUEST_MEMFD_NO_DIRECT_MAP ?
		   "\tno-direct-map" : "");
	if (gi->pool)
		gmem_pool_show(m, gi->pool);
	seq_printf(m, "guest_memfd-allocated:\t%lu pages\n",
		   inode->i_mapping->nrpages);
	if (!(gi->flags & GUEST_MEMFD_TRACK_STATE))
		return;
	seq_printf(m, "guest_memfd-shared:\t%lu pages\n",
		   nr_pages - nr_private);
	seq_printf(m, "guest_memfd-private:\t%lu pages\n", nr_private);
}
EXPORT_SYMBOL_GPL(guest_memfd_show_fdinfo);

/*
 * What users of the core ask
 */

/**
 * guest_memfd_flags() - what the file was created with
 * @inode: a guest_memfd
 *
 * Context: any.
 * Return: GUEST_MEMFD_*; fixed for the life of the inode.
 */
unsigned int guest_memfd_flags(struct inode *inode)
{
	return gmem_i(inode)->flags;
}
EXPORT_SYMBOL_GPL(guest_memfd_flags);

/**
 * guest_memfd_is_private() - is a page private now?
 * @inode: a guest_memfd, kept alive by a reference or by RCU
 * @index: the page, by offset
 *
 * Context: any.  Without invalidate_lock the answer may be old by the time it
 * is used; a view finds out because its @begin and @end have run meanwhile.
 * Return: true for a private page.
 */
bool guest_memfd_is_private(struct inode *inode, pgoff_t index)
{
	return gmem_state_is_private(&gmem_i(inode)->state, index);
}
EXPORT_SYMBOL_GPL(guest_memfd_is_private);

/**
 * guest_memfd_run_end() - how far does the state of a page go on?
 * @inode: a guest_memfd
 * @index: the page, by offset
 * @end: where to stop looking, above @index
 * @private: set to the state of the page
 *
 * Context: invalidate_lock held, at least shared.
 * Return: the first page from @index on with another state, or @end.
 */
pgoff_t guest_memfd_run_end(struct inode *inode, pgoff_t index, pgoff_t end,
			    bool *private)
{
	gmem_assert_locked(gmem_i(inode));

	return gmem_state_run_end(&gmem_i(inode)->state, index, end, private);
}
EXPORT_SYMBOL_GPL(guest_memfd_run_end);

/**
 * guest_memfd_max_order() - the largest order guest_memfd_order() may give
 * @inode: a guest_memfd
 *
 * Context: any.
 * Return: the order; fixed for the life of the inode.
 */
unsigned int guest_memfd_max_order(struct inode *inode)
{
	return gmem_block_order(gmem_i(inode));
}
EXPORT_SYMBOL_GPL(guest_memfd_max_order);

/**
 * guest_memfd_order() - how large may the page around an offset be mapped?
 * @inode: a guest_memfd
 * @index: the offset, in pages
 *
 * Context: any.  Only holds for a view that has not been through @begin since
 * it asked, as with guest_memfd_is_private().
 * Return: the largest order of 1 GiB, 2 MiB and a page whose aligned run around
 * @index is contiguous in memory, has one state and no broken page; if @index is
 * broken, zero.
 */
unsigned int guest_memfd_order(struct inode *inode, pgoff_t index)
{
	struct gmem_inode *gi = gmem_i(inode);
	unsigned int order = gmem_block_order(gi);

	if (order && (gi->flags & GUEST_MEMFD_TRACK_STATE))
		order = min(order, gmem_state_order(&gi->state, index));

	return gmem_poison_order(gi, index, order);
}
EXPORT_SYMBOL_GPL(guest_memfd_order);

/**
 * guest_memfd_get_folio() - the folio at an offset, for a view to map
 * @inode: a guest_memfd
 * @index: the offset, in pages
 *
 * Allocates it if need be.  Call guest_memfd_zero_folio() before anybody gets
 * to see it, or fill it and mark it up to date.  Drop the reference before
 * invalidate_lock, or a conversion will find the page held.
 *
 * Context: invalidate_lock held, at least shared; may sleep.
 * Return: the folio, locked and with a reference, or an ERR_PTR:
 *
 * * -EINVAL: past the end of the file
 * * -EHWPOISON: the page is broken
 * * -ENOMEM: no memory
 * * -ENOSPC: the file has huge pages, and none can be had
 * * -EINTR: the file has huge pages, and a fatal signal is pending
 */
struct folio *guest_memfd_get_folio(struct inode *inode, pgoff_t index)
{
	struct folio *folio;

	gmem_assert_locked(gmem_i(inode));

	if (index >= gmem_nr_pages(gmem_i(inode)))
		return ERR_PTR(-EINVAL);

	folio = gmem_block_get_folio(gmem_i(inode), index);
	if (!IS_ERR(folio) && folio_test_hwpoison(folio)) {
		folio_unlock(folio);
		folio_put(folio);
		return ERR_PTR(-EHWPOISON);
	}

	return folio;
}
EXPORT_SYMBOL_GPL(guest_memfd_get_folio);

/**
 * guest_memfd_zero_folio() - make sure that a folio holds no one else's data
 * @folio: of a guest_memfd
 *
 * Does nothing if it was zeroed or filled before.
 *
 * Context: folio locked; may sleep.
 */
void guest_memfd_zero_folio(struct folio *folio)
{
	VM_WARN_ON_FOLIO(!folio_test_locked(folio), folio);

	if (folio_test_uptodate(folio))
		return;

	folio_zero_range(folio, 0, folio_size(folio));
	folio_mark_uptodate(folio);
}
EXPORT_SYMBOL_GPL(guest_memfd_zero_folio);

/*
 * The address space
 */

/**
 * guest_memfd_migrate_folio() - the ->migrate_folio of a guest_memfd
 * @mapping: of the inode
 * @dst: where the page would go
 * @src: where it is
 * @mode: how hard to try
 *
 * The mapping is marked unmovable, so nobody should ask.
 *
 * Return: -EINVAL.
 */
int guest_memfd_migrate_folio(struct address_space *mapping, struct folio *dst,
			      struct folio *src, enum migrate_mode mode)
{
	WARN_ON_ONCE(1);
	return -EINVAL;
}
EXPORT_SYMBOL_GPL(guest_memfd_migrate_folio);

/**
 * guest_memfd_error_remove_folio() - the ->error_remove_folio of a guest_memfd
 * @mapping: of the inode
 * @folio: a broken folio
 *
 * The folio stays where it is: what a guest that touches it is to be told is
 * for user space to decide.
 *
 * Context: folio locked.
 * Return: MF_DELAYED; the views let go of it soon.
 */
int guest_memfd_error_remove_folio(struct address_space *mapping,
				   struct folio *folio)
{
	VM_WARN_ON_FOLIO(!folio_test_locked(folio), folio);

	gmem_poison_report(gmem_i(mapping->host), folio);
	return MF_DELAYED;
}
EXPORT_SYMBOL_GPL(guest_memfd_error_remove_folio);

static const struct address_space_operations gmem_aops = {
	.dirty_folio		= noop_dirty_folio,
	.migrate_folio		= guest_memfd_migrate_folio,
	.error_remove_folio	= guest_memfd_error_remove_folio,
};

/* The page is by itself and in the direct map again. */
static void gmem_free_folio(struct folio *folio)
{
	/* But for one that is broken. */
	if (!folio_test_hwpoison(folio))
		clear_highpage(&folio->page);
}

static const struct address_space_operations gmem_no_direct_map_aops = {
	.dirty_folio		= noop_dirty_folio,
	.migrate_folio		= guest_memfd_migrate_folio,
	.error_remove_folio	= guest_memfd_error_remove_folio,
	.free_folio		= gmem_free_folio,
};

/* The size, the owner and the mode are fixed at creation. */
static int gmem_setattr(struct mnt_idmap *idmap, struct dentry *dentry,
			struct iattr *attr)
{
	return -EINVAL;
}

static int gmem_getattr(struct mnt_idmap *idmap, const struct path *path,
			struct kstat *stat, u32 request_mask,
			unsigned int query_flags)
{
	struct inode *inode = d_inode(path->dentry);

	generic_fillattr(idmap, request_mask, inode, stat);
	stat->blksize = PAGE_SIZE << gmem_block_order(gmem_i(inode));
	stat->blocks = inode->i_mapping->nrpages << (PAGE_SHIFT - 9);
	return 0;
}

static const struct inode_operations gmem_iops = {
	.getattr	= gmem_getattr,
	.setattr	= gmem_setattr,
};

/*
 * Birth
 */

static void gmem_init_mapping(struct address_space *mapping, unsigned int flags,
			      const struct address_space_operations *aops)
{
	mapping->a_ops = aops ?: &gmem_aops;
	mapping_set_gfp_mask(mapping, GFP_HIGHUSER);
	mapping_set_inaccessible(mapping);
	if (flags & GUEST_MEMFD_NO_DIRECT_MAP) {
		mapping_set_no_direct_map(mapping);
		/* There is no other time to do it. */
		mapping_set_gfp_mask(mapping, GFP_HIGHUSER | __GFP_ZERO);
		/* Pages of a block are zeroed when it is taken. */
		if (!(flags & GUEST_MEMFD_HUGETLB))
			mapping->a_ops = &gmem_no_direct_map_aops;
	}
	/* Unmovable mappings are supposed to be marked unevictable as well. */
	WARN_ON_ONCE(!mapping_unevictable(mapping));
}

static int gmem_init_inode(struct inode *inode, loff_t size, unsigned int flags)
{
	struct gmem_inode *gi = gmem_i(inode);

	inode->i_op = &gmem_iops;
	inode->i_mode |= S_IFREG;
	inode->i_size = size;

	if (flags & GUEST_MEMFD_HUGETLB) {
		struct gmem_pool *pool = gmem_pool_create(size, flags);

		if (IS_ERR(pool))
			return PTR_ERR(pool);
		gi->pool = pool;
	}

	gi->flags = flags;
	gmem_state_init(&gi->state, !(flags & GUEST_MEMFD_INIT_SHARED));

	if (flags & GUEST_MEMFD_MMAP)
		return gmem_exposure_init(gi, size);
	return 0;
}

static struct inode *gmem_create_inode(const char *name, loff_t size,
				       unsigned int flags, struct module *owner,
				       const struct address_space_operations *aops)
{
	struct inode *inode;
	int err;

	inode = anon_inode_make_secure_inode(gmem_mnt->mnt_sb, name, NULL);
	if (IS_ERR(inode))
		return inode;

	gmem_init_mapping(inode->i_mapping, flags, aops);
	err = gmem_init_inode(inode, size, flags);
	if (err) {
		iput(inode);
		return ERR_PTR(err);
	}

	if (aops) {
		/* The caller runs in it, or it would not have the file's. */
		__module_get(owner);
		gmem_i(inode)->owner = owner;
	}

	return inode;
}

/**
 * guest_memfd_supports_no_direct_map() - is there %GUEST_MEMFD_NO_DIRECT_MAP?
 *
 * Context: any.
 * Return: true if the kernel can take single pages out of its direct map.
 */
bool guest_memfd_supports_no_direct_map(void)
{
	return can_set_direct_map();
}
EXPORT_SYMBOL_GPL(guest_memfd_supports_no_direct_map);

/**
 * guest_memfd_create() - make a guest_memfd
 * @name: what it is called in /proc/PID/fd and to security modules
 * @size: in bytes, page aligned and above 0; it never changes
 * @flags: GUEST_MEMFD_*
 * @fops: operations of the file, made of guest_memfd_mmap() and its kin
 * @aops: operations of the mapping, made of guest_memfd_migrate_folio() and
 *	its kin and a ->free_folio, or NULL if there is no need for that one;
 *	live as long as the inode, so @fops->owner is pinned for them
 * @private: the file's private_data
 *
 * Nothing is allocated for the pages of the file until they are used.  With
 * %GUEST_MEMFD_HUGETLB the blocks that they will be in are reserved.
 *
 * With %GUEST_MEMFD_NO_DIRECT_MAP pages are zeroed before they come into the
 * file.  A ->free_folio of the caller's could not rely on the direct map, so
 * there must be no @aops.
 *
 * Context: may sleep.
 * Return: the file, or an ERR_PTR:
 *
 * * -EINVAL: @size is wrong, or a flag or a size of blocks unknown
 * * -EOPNOTSUPP: the direct map cannot be changed here, or not with @aops
 * * -ENODEV: there is no pool of blocks of that size
 * * -ENOMEM: no memory, or not enough free blocks
 * * -ENOENT: the module of @fops is on its way out
 * * what a security module gives to refuse
 */
struct file *guest_memfd_create(const char *name, loff_t size,
				unsigned int flags,
				const struct file_operations *fops,
				const struct address_space_operations *aops,
				void *private)
{
	struct inode *inode;
	struct file *file;

	if (size <= 0 || !PAGE_ALIGNED(size))
		return ERR_PTR(-EINVAL);
	if (flags & ~(GUEST_MEMFD_FLAGS | GUEST_MEMFD_HUGE_MASK))
		return ERR_PTR(-EINVAL);
	if (flags & GUEST_MEMFD_HUGE_MASK && !(flags & GUEST_MEMFD_HUGETLB))
		return ERR_PTR(-EINVAL);
	if (flags & GUEST_MEMFD_NO_DIRECT_MAP &&
	    (aops || !guest_memfd_supports_no_direct_map()))
		return ERR_PTR(-EOPNOTSUPP);

	/* __fput() puts it. */
	if (!fops_get(fops))
		return ERR_PTR(-ENOENT);

	inode = gmem_create_inode(name, size, flags, fops->owner, aops);
	if (IS_ERR(inode)) {
		file = ERR_CAST(inode);
		goto err_fops;
	}

	file = alloc_file_pseudo(inode, gmem_mnt, name, O_RDWR, fops);
	if (IS_ERR(file))
		goto err_inode;

	file->f_flags |= O_LARGEFILE;
	file->private_data = private;
	trace_guest_memfd_create(inode, flags);
	gmem_debugfs_add(gmem_i(inode));
	return file;

err_inode:
	iput(inode);
err_fops:
	fops_put(fops);
	return file;
}
EXPORT_SYMBOL_GPL(guest_memfd_create);

/*
 * The file system that the inodes live in
 */

/* Only what is the same for every use of the object, see inode_init_once(). */
static void gmem_init_once(void *object)
{
	struct gmem_inode *gi = object;

	inode_init_once(&gi->vfs_inode);
}

static struct inode *gmem_alloc_inode(struct super_block *sb)
{
	struct gmem_inode *gi;

	gi = alloc_inode_sb(sb, gmem_inode_cachep, GFP_KERNEL);
	if (!gi)
		return NULL;

	gi->flags = 0;
	gi->owner = NULL;
	gi->pool = NULL;
	xa_init(&gi->blocks);
	mutex_init(&gi->populate_lock);
	gi->exposed = NULL;
	gi->debugfs = NULL;
	mpol_shared_policy_init(&gi->policy, NULL);
	INIT_LIST_HEAD(&gi->views);
	gmem_state_init(&gi->state, true);
	gmem_poison_init(&gi->poison);
	return &gi->vfs_inode;
}

/* Nobody else can hold the lock any more: it is taken for what asserts it. */
static void gmem_evict_blocks(struct gmem_inode *gi)
{
	struct address_space *mapping = gi->vfs_inode.i_mapping;

	filemap_invalidate_lock(mapping);
	gmem_block_remove(gi, 0, gmem_nr_pages(gi));
	filemap_invalidate_unlock(mapping);
	xa_destroy(&gi->blocks);
	gmem_pool_put(gi->pool);
}

/*
 * The last reference is gone and with it every view.  Lockless readers may
 * still look at the state, for as long as an RCU read-side section lasts.
 */
static void gmem_evict_inode(struct inode *inode)
{
	struct gmem_inode *gi = gmem_i(inode);

	VM_WARN_ON_ONCE(!list_empty(&gi->views));
	VM_WARN_ON_ONCE(gi->poison.start < gi->poison.end);

	gmem_debugfs_del(gi);
	trace_guest_memfd_free(inode);
	if (gi->pool)
		gmem_evict_blocks(gi);
	truncate_inode_pages_final(&inode->i_data);
	clear_inode(inode);
	gmem_exposure_destroy(gi);
	gmem_state_destroy(&gi->state);
	module_put(gi->owner);
}

static void gmem_destroy_inode(struct inode *inode)
{
	mpol_free_shared_policy(&gmem_i(inode)->policy);
}

static void gmem_free_inode(struct inode *inode)
{
	kmem_cache_free(gmem_inode_cachep, gmem_i(inode));
}

static const struct super_operations gmem_super_ops = {
	.statfs		= simple_statfs,
	.alloc_inode	= gmem_alloc_inode,
	.evict_inode	= gmem_evict_inode,
	.destroy_inode	= gmem_destroy_inode,
	.free_inode	= gmem_free_inode,
};

static int gmem_init_fs_context(struct fs_context *fc)
{
	struct pseudo_fs_context *ctx = init_pseudo(fc, GUEST_MEMFD_MAGIC);

	if (!ctx)
		return -ENOMEM;

	ctx->ops = &gmem_super_ops;
	return 0;
}

static struct file_system_type gmem_fs = {
	.name		 = "guest_memfd",
	.init_fs_context = gmem_init_fs_context,
	.kill_sb	 = kill_anon_super,
};

/* Before any hypervisor that is built in, those are device_initcalls. */
static int __init gmem_init(void)
{
	gmem_inode_cachep = kmem_cache_create("guest_memfd_inode",
					      sizeof(struct gmem_inode), 0,
					      SLAB_ACCOUNT | SLAB_PANIC,
					      gmem_init_once);

	if (IS_ENABLED(CONFIG_HUGETLB_SPLIT))
		gmem_cache_init();
	if (gmem_state_cache_init())
		panic("guest_memfd: no memory for a slab cache");

	gmem_mnt = kern_mount(&gmem_fs);
	if (IS_ERR(gmem_mnt))
		panic("guest_memfd: cannot mount its file system");

	gmem_mnt->mnt_flags |= MNT_NOEXEC;
	gmem_debugfs_init();
	return 0;
}
fs_initcall(gmem_init);
