// SPDX-License-Identifier: GPL-2.0-only
/*
 * debugfs: the runs of each file, /sys/kernel/debug/guest_memfd/INODE/runs.
 *
 * Only reads.  The directory goes before the inode does, and debugfs waits
 * for whoever is reading.
 */
#include <linux/debugfs.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/sched.h>
#include <linux/seq_file.h>

#include "internal.h"

static struct dentry *gmem_root;

/* The largest order that an aligned part of the run can be mapped with. */
static unsigned int gmem_run_order(const struct gmem_inode *gi, pgoff_t start,
				   pgoff_t end)
{
	static const unsigned int orders[] = {
		GMEM_CHUNK_ORDER, GMEM_UNIT_ORDER
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(orders); i++)
		if (orders[i] <= gmem_block_order(gi) &&
		    round_up(start, BIT(orders[i])) + BIT(orders[i]) <= end)
			return orders[i];

	return 0;
}

static pgoff_t gmem_run_end(struct gmem_inode *gi, pgoff_t start, bool *private)
{
	pgoff_t nr_pages = gmem_nr_pages(gi);
	pgoff_t end, next, limit;
	bool next_private;

	/* RCU must not wait until the end of a long run is found. */
	for (end = start; end < nr_pages; end = next) {
		limit = end + min(nr_pages - end, GMEM_COUNT_PAGES);
		next = gmem_state_run_end(&gi->state, end, limit, &next_private);
		if (end == start)
			*private = next_private;
		else if (next_private != *private)
			return end;
		if (next < limit)
			return next;
		cond_resched();
	}

	return end;
}

/*
 * The position is the first page of a run.  invalidate_lock is held for what
 * fits into the buffer, so runs that are printed together were true together.
 */
static void *gmem_runs_start(struct seq_file *m, loff_t *pos)
	__acquires(&gi->vfs_inode.i_mapping->invalidate_lock)
{
	struct gmem_inode *gi = m->private;

	filemap_invalidate_lock_shared(gi->vfs_inode.i_mapping);
	return *pos < gmem_nr_pages(gi) ? pos : NULL;
}

static void *gmem_runs_next(struct seq_file *m, void *v, loff_t *pos)
{
	struct gmem_inode *gi = m->private;
	bool private;

	*pos = gmem_run_end(gi, *pos, &private);
	return *pos < gmem_nr_pages(gi) ? pos : NULL;
}

static void gmem_runs_stop(struct seq_file *m, void *v)
	__releases(&gi->vfs_inode.i_mapping->invalidate_lock)
{
	struct gmem_inode *gi = m->private;

	filemap_invalidate_unlock_shared(gi->vfs_inode.i_mapping);
}

static int gmem_runs_show(struct seq_file *m, void *v)
{
	struct gmem_inode *gi = m->private;
	pgoff_t start = *(loff_t *)v;
	pgoff_t end;
	bool private;

	end = gmem_run_end(gi, start, &private);
	seq_printf(m, "0x%llx 0x%llx %s %u\n", (u64)start << PAGE_SHIFT,
		   (u64)(end - start) << PAGE_SHIFT,
		   private ? "private" : "shared",
		   gmem_run_order(gi, start, end));
	return 0;
}

static const struct seq_operations gmem_runs_sops = {
	.start	= gmem_runs_start,
	.next	= gmem_runs_next,
	.stop	= gmem_runs_stop,
	.show	= gmem_runs_show,
};
DEFINE_SEQ_ATTRIBUTE(gmem_runs);

/**
 * gmem_debugfs_root() - the directory of all guest_memfds
 *
 * Return: a dentry or an ERR_PTR; debugfs takes either as a parent.
 */
struct dentry *gmem_debugfs_root(void)
{
	return gmem_root;
}

/**
 * gmem_debugfs_init() - make the directory of all guest_memfds
 */
void __init gmem_debugfs_init(void)
{
	gmem_root = debugfs_create_dir("guest_memfd", NULL);
}

/**
 * gmem_debugfs_add() - show an inode
 * @gi: the inode, ready to be used
 *
 * Context: may sleep.
 */
void gmem_debugfs_add(struct gmem_inode *gi)
{
	char name[24];

	snprintf(name, sizeof(name), "%llu", (u64)gi->vfs_inode.i_ino);
	gi->debugfs = debugfs_create_dir(name, gmem_root);
	debugfs_create_file("runs", 0400, gi->debugfs, gi, &gmem_runs_fops);
}

/**
 * gmem_debugfs_del() - show an inode no more
 * @gi: the inode
 *
 * Context: may sleep; waits for readers, so invalidate_lock is not held.
 */
void gmem_debugfs_del(struct gmem_inode *gi)
{
	debugfs_remove_recursive(gi->debugfs);
	gi->debugfs = NULL;
}
