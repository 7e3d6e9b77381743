// SPDX-License-Identifier: GPL-2.0-only
/*
 * huge: blocks out of the hugetlb pool and back into it.
 *
 * A block is one hugetlb folio.  It is reserved when the file is created, taken
 * and split once, when one of its pages is first needed, and joined and given
 * back when its range is punched or the inode goes away.  As long as somebody
 * still uses one of its pages, it waits for that, even without an inode.
 */
#include <linux/delay.h>
#include <linux/direct_map.h>
#include <linux/export.h>
#include <linux/hugetlb.h>
#include <linux/hugetlb_cgroup.h>
#include <linux/mempolicy.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/refcount.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/workqueue.h>

#include <trace/events/guest_memfd.h>

#include "../hugetlb_split.h"
#include "../internal.h"
#include "internal.h"

/* A folio that breaks while it is zeroed is replaced. */
#define GMEM_TAKE_TRIES		3
/* Others that look at a folio by its frame number let go of it soon. */
#define GMEM_SPLIT_TRIES	100

/* What keeps blocks from being joined may be memory_failure(), and soon over. */
#define GMEM_JOIN_NOW_TRIES	3

/*
 * How often blocks that wait are looked at: they are back within a second of
 * the last reference.
 */
#define GMEM_JOIN_DELAY_MIN	msecs_to_jiffies(20)
#define GMEM_JOIN_DELAY_MAX	msecs_to_jiffies(500)
/*
 * Draining the batches of all CPUs costs all of them.  What lies in one has
 * nearly always come there while it was mapped: afterwards, one look in so many.
 */
#define GMEM_JOIN_DRAIN		16

/**
 * struct gmem_pool - where the blocks of an inode come from
 * @h: the hugetlb pool
 * @spool: what is reserved there for the inode
 * @rsvd: hugetlb cgroup that the reservation is charged to, or NULL
 * @nr_reserved: blocks that are reserved
 * @nr_blocks: blocks that are split now
 * @nr_waiting: those of them that have left the inode and wait to be joined
 * @users: the inode, and each block
 * @lock: held while a block is taken out of the hugetlb pool or given back, so
 *	that the reservations fit the blocks, and protects @borrowed
 * @borrowed: blocks that nobody had reserved, because those that had been were
 *	waiting to be joined
 * @rcu: it is freed when nobody can look at it through the inode any more
 */
struct gmem_pool {
	struct hstate *h;
	struct hugepage_subpool *spool;
	struct hugetlb_cgroup *rsvd;
	unsigned long nr_reserved;
	atomic_long_t nr_blocks;
	atomic_long_t nr_waiting;
	refcount_t users;
	struct mutex lock;	/* borrowed, and spool of blocks */
	struct list_head borrowed;
	struct rcu_head rcu;
};

/**
 * struct gmem_block - a block that was taken
 * @split: what stands for it in the hugetlb pool
 * @pool: where it goes back to
 * @spool: the subpool of @pool if it stands for a block that was reserved
 * @rsvd: hugetlb cgroup that is charged for a reservation if it does not, with a
 *	reference; @pool->lock protects both
 * @index: of its first page in the file
 * @nr_cached: how many pages were put into the page cache
 * @nr_frozen: how many pages are ready to be joined; the first that is not is
 *	still used by somebody
 * @ino: of the inode, which may be gone, for traces
 * @zapped: its pages have left the direct map, all with one step, and come back
 *	with one when it is joined
 * @waiting: on the list of those that wait to be joined
 * @borrowed: on the list of the pool, if nobody had reserved it
 */
struct gmem_block {
	struct hugetlb_split split;
	struct gmem_pool *pool;
	struct hugepage_subpool *spool;
	struct hugetlb_cgroup *rsvd;
	pgoff_t index;
	unsigned long nr_cached;
	unsigned long nr_frozen;
	unsigned long ino;
	bool zapped;
	struct list_head waiting;
	struct list_head borrowed;
};

static void gmem_join_waiting(struct work_struct *work);
static int gmem_join_now(struct gmem_pool *pool);

/* Held by who has taken blocks off gmem_waiting, until they are joined or back. */
static DEFINE_MUTEX(gmem_join_lock);
static DEFINE_SPINLOCK(gmem_waiting_lock);	/* gmem_waiting, gmem_join_* */
static LIST_HEAD(gmem_waiting);
static unsigned long gmem_join_delay;
static unsigned int gmem_join_rounds;
static DECLARE_DELAYED_WORK(gmem_join_work, gmem_join_waiting);

static unsigned long gmem_pool_nr_pages(const struct gmem_pool *pool)
{
	return pages_per_huge_page(pool->h);
}

/*
 * The pool
 */

static struct hstate *gmem_pool_hstate(unsigned int flags)
{
	unsigned int log = flags >> GUEST_MEMFD_HUGE_SHIFT;
	struct hstate *h;

	if (log && log != ilog2(SZ_2M) && log != ilog2(SZ_1G))
		return ERR_PTR(-EINVAL);

	h = hugepages_supported() ? hstate_sizelog(log) : NULL;
	if (!h)
		return ERR_PTR(-ENODEV);
	/* Whatever else the default may be. */
	if (huge_page_size(h) != SZ_2M && huge_page_size(h) != SZ_1G)
		return ERR_PTR(-EINVAL);
	/*
	 * A unit is part of one block, and so is a node of the page cache, or of
	 * large base pages 2 MiB would be less.
	 */
	BUILD_BUG_ON(XA_CHUNK_SHIFT > GMEM_UNIT_ORDER);
	if (huge_page_order(h) < GMEM_UNIT_ORDER)
		return ERR_PTR(-EINVAL);

	return h;
}

/**
 * guest_memfd_supports_hugetlb() - is there %GUEST_MEMFD_HUGETLB?
 *
 * Context: any.
 * Return: true if there is a size of huge pages that a file can have.
 */
bool guest_memfd_supports_hugetlb(void)
{
	return !IS_ERR(gmem_pool_hstate(ilog2(SZ_2M) << GUEST_MEMFD_HUGE_SHIFT)) ||
	       !IS_ERR(gmem_pool_hstate(ilog2(SZ_1G) << GUEST_MEMFD_HUGE_SHIFT));
}
EXPORT_SYMBOL_GPL(guest_memfd_supports_hugetlb);

/*
 * More than there can be is refused before it is charged: of a cgroup without a
 * limit, it would leave nothing to anybody else meanwhile.
 */
static bool gmem_pool_fits(const struct hstate *h, unsigned long nr_blocks)
{
	unsigned long nr_pages;

	/* A free folio that is replaced is not counted for a moment. */
	scoped_guard(spinlock_irq, &hugetlb_lock)
		nr_pages = h->nr_huge_pages;

	return nr_blocks <= nr_pages ||
	       nr_blocks - nr_pages <= READ_ONCE(h->nr_overcommit_huge_pages);
}

/**
 * gmem_pool_create() - reserve the blocks of an inode
 * @size: of the file, in bytes
 * @flags: GUEST_MEMFD_*, with %GUEST_MEMFD_HUGETLB
 *
 * Context: may sleep.
 * Return: the pool with one user, or an ERR_PTR:
 *
 * * -EINVAL: @size is not a multiple of the block, or the size of the block is
 *   not 2 MiB or 1 GiB, or has fewer base pages than a unit
 * * -ENODEV: there is no pool of that size
 * * -ENOMEM: there are not as many free blocks, or the hugetlb cgroup has
 *   reached its limit
 */
struct gmem_pool *gmem_pool_create(loff_t size, unsigned int flags)
{
	struct hstate *h = gmem_pool_hstate(flags);
	struct gmem_pool *pool;
	unsigned int pin;

	if (IS_ERR(h))
		return ERR_CAST(h);
	if (!IS_ALIGNED(size, huge_page_size(h)))
		return ERR_PTR(-EINVAL);
	if (!gmem_pool_fits(h, size >> huge_page_shift(h)))
		return ERR_PTR(-ENOMEM);

	pool = kzalloc_obj(*pool, GFP_KERNEL_ACCOUNT);
	if (!pool)
		return ERR_PTR(-ENOMEM);

	pool->h = h;
	pool->nr_reserved = size >> huge_page_shift(h);
	refcount_set(&pool->users, 1);
	mutex_init(&pool->lock);
	INIT_LIST_HEAD(&pool->borrowed);

	if (hugetlb_cgroup_charge_cgroup_rsvd(hstate_index(h),
					      size >> PAGE_SHIFT, &pool->rsvd))
		goto err_pool;

	/*
	 * No maximum: a block that waits may be replaced by one nobody reserved.
	 * What the pool grows by must be fit for hugetlb_take_folio().
	 */
	pin = memalloc_pin_save();
	pool->spool = hugepage_new_subpool(h, -1, pool->nr_reserved);
	memalloc_pin_restore(pin);
	if (!pool->spool)
		goto err_rsvd;

	return pool;

err_rsvd:
	hugetlb_cgroup_uncharge_cgroup_rsvd(hstate_index(h), size >> PAGE_SHIFT,
					    pool->rsvd);
err_pool:
	kfree(pool);
	return ERR_PTR(-ENOMEM);
}

/**
 * gmem_pool_put() - an inode or a block does not use its pool any more
 * @pool: the pool
 *
 * Context: may sleep.
 */
void gmem_pool_put(struct gmem_pool *pool)
{
	if (!refcount_dec_and_test(&pool->users))
		return;

	/* First: who sees that nothing is reserved finds nothing charged. */
	hugetlb_cgroup_uncharge_cgroup_rsvd(hstate_index(pool->h),
					    pool->nr_reserved *
					    gmem_pool_nr_pages(pool),
					    pool->rsvd);
	hugepage_put_subpool(pool->spool);
	/* Who only has RCU may still ask for the order of the inode. */
	kfree_rcu(pool, rcu);
}

/**
 * gmem_pool_order() - the size of a block
 * @pool: the pool
 *
 * Return: the order.
 */
unsigned int gmem_pool_order(const struct gmem_pool *pool)
{
	return huge_page_order(pool->h);
}

/**
 * gmem_pool_show() - what a file has of its pool
 * @m: where to print it
 * @pool: the pool
 */
void gmem_pool_show(struct seq_file *m, struct gmem_pool *pool)
{
	seq_printf(m, "guest_memfd-blocks:\t%lu of %lu\n",
		   atomic_long_read(&pool->nr_blocks), pool->nr_reserved);
	seq_printf(m, "guest_memfd-waiting:\t%lu blocks\n",
		   atomic_long_read(&pool->nr_waiting));
}

/*
 * Into the file
 */

static struct folio *gmem_take_folio(struct gmem_inode *gi, pgoff_t index)
{
	struct hstate *h = gi->pool->h;
	struct mempolicy_interpreted mpoli = {};
	struct mempolicy *mpol;
	struct folio *folio;

	mpol = mpol_shared_policy_lookup(&gi->policy, index) ?:
	       get_task_policy(current);
#ifdef CONFIG_NUMA
	mpoli.mode = mpol->mode;
#endif
	mpoli.nid = mpol_node(mpol, index >> huge_page_order(h),
			      htlb_alloc_mask(h), &mpoli.nodemask);
	folio = hugetlb_take_folio(h, gi->pool->spool, &mpoli);
	mpol_cond_put(mpol);

	return folio;
}

static struct folio *gmem_block_take_folio(struct gmem_inode *gi,
					   struct gmem_block *block)
{
	struct gmem_pool *pool = gi->pool;
	struct folio *folio;

	guard(mutex)(&pool->lock);

	folio = gmem_take_folio(gi, block->index);
	if (IS_ERR(folio))
		return folio;

	/* From now on it may be settled; the folio gets them back at the end. */
	block->rsvd = hugetlb_cgroup_from_folio_rsvd(folio);
	set_hugetlb_cgroup_rsvd(folio, NULL);
	block->spool = hugetlb_folio_subpool(folio);
	if (!block->spool)
		list_add(&block->borrowed, &pool->borrowed);
	return folio;
}

/*
 * The reservation may be that of a block that waits for no other reason than that
 * nobody has looked at it since it was let go.
 */
static struct folio *gmem_block_take_folio_back(struct gmem_inode *gi,
						struct gmem_block *block)
{
	struct folio *folio;
	unsigned int tries;
	bool waiting;
	int err;

	for (tries = 0; ; tries++) {
		/* Asked before: it does not wait any more when it is back. */
		waiting = atomic_long_read(&gi->pool->nr_waiting);
		folio = gmem_block_take_folio(gi, block);
		if (!IS_ERR(folio) || !waiting || tries == GMEM_JOIN_NOW_TRIES)
			return folio;

		if (tries)
			fsleep(1000);
		else
			lru_add_drain_all();
		err = gmem_join_now(gi->pool);
		if (err)
			return ERR_PTR(err);
	}
}

/*
 * The reservation of a block that goes back is for one that was borrowed, if
 * there is any: a file never has more reservations, and blocks of its
 * reservation, than it is large.  The reservation that was charged for the
 * borrowed one is given up for it.
 */
static void gmem_block_settle(struct gmem_block *block)
{
	struct gmem_pool *pool = block->pool;
	struct gmem_block *other;

	lockdep_assert_held(&pool->lock);

	if (!block->spool) {
		list_del(&block->borrowed);
	} else if (!list_empty(&pool->borrowed)) {
		other = list_first_entry(&pool->borrowed, struct gmem_block,
					 borrowed);
		list_del(&other->borrowed);
		swap(block->spool, other->spool);
		swap(block->rsvd, other->rsvd);
	}
}

static void gmem_block_put_folio(struct gmem_block *block, struct folio *folio)
{
	guard(mutex)(&block->pool->lock);

	gmem_block_settle(block);
	set_hugetlb_cgroup_rsvd(folio, block->rsvd);
	hugetlb_return_folio(folio, block->spool);
}

/* To put it back and take another would borrow that if this is not free at once. */
static int gmem_split_folio(struct gmem_block *block, struct folio *folio)
{
	unsigned int tries;
	int err = -EBUSY;

	for (tries = 0; tries < GMEM_SPLIT_TRIES; tries++) {
		if (tries)
			fsleep(1000);
		err = hugetlb_split_folio(folio, &block->split);
		if (err != -EBUSY || folio_test_hwpoison(folio) ||
		    fatal_signal_pending(current))
			break;
	}

	return err;
}

/* Zeroed as long as it is large and everybody can still get at its memory. */
static int gmem_take_and_split(struct gmem_inode *gi, struct gmem_block *block)
{
	struct folio *folio;
	unsigned int tries;
	bool broken = true;

	for (tries = 0; broken && tries < GMEM_TAKE_TRIES; tries++) {
		folio = gmem_block_take_folio_back(gi, block);
		if (IS_ERR(folio))
			return PTR_ERR(folio);

		guest_memfd_stall(GUEST_MEMFD_STALL_TAKEN);
		folio_zero_user(folio, 0);
		if (!gmem_split_folio(block, folio))
			return 0;

		broken = folio_test_hwpoison(folio);
		gmem_block_put_folio(block, folio);
	}

	/* A block that can't be had, for whatever reason. */
	return fatal_signal_pending(current) ? -EINTR : -ENOSPC;
}

static struct gmem_block *gmem_block_take(struct gmem_inode *gi, pgoff_t index)
{
	struct gmem_pool *pool = gi->pool;
	struct gmem_block *block;
	int err;

	/* Who was killed while others zeroed theirs has no use for one. */
	if (fatal_signal_pending(current))
		return ERR_PTR(-EINTR);

	block = kzalloc_obj(*block, GFP_KERNEL_ACCOUNT);
	if (!block)
		return ERR_PTR(-ENOMEM);

	block->pool = pool;
	block->index = index;
	block->ino = gi->vfs_inode.i_ino;

	/* The entry first: afterwards nothing is left that can fail. */
	err = xa_reserve(&gi->blocks, index >> gmem_pool_order(pool),
			 GFP_KERNEL_ACCOUNT);
	if (!err)
		err = gmem_take_and_split(gi, block);
	if (err) {
		xa_release(&gi->blocks, index >> gmem_pool_order(pool));
		kfree(block);
		return ERR_PTR(err);
	}

	refcount_inc(&pool->users);
	atomic_long_inc(&pool->nr_blocks);
	xa_store(&gi->blocks, index >> gmem_pool_order(pool), block, 0);

	count_vm_event(GUEST_MEMFD_SPLIT);
	trace_guest_memfd_split(block->ino, index, block->split.page,
				gmem_pool_order(pool));
	guest_memfd_stall(GUEST_MEMFD_STALL_SPLIT);
	return block;
}

/* What has come into the page cache stays there if memory runs out half-way. */
static int gmem_block_fill(struct gmem_inode *gi, struct gmem_block *block)
{
	struct address_space *mapping = gi->vfs_inode.i_mapping;
	unsigned long nr_pages = gmem_pool_nr_pages(block->pool);
	unsigned long i;
	int err;

	/* Zeroed, and nobody has found a page of it yet. */
	if (mapping_no_direct_map(mapping) && !block->zapped) {
		err = direct_map_zap(block->split.page, nr_pages);
		if (err)
			return err;
		block->zapped = true;
	}

	for (i = block->nr_cached; i < nr_pages; i += XA_CHUNK_SIZE) {
		err = gmem_cache_add(mapping, block->split.page + i,
				     block->index + i);
		if (err)
			return err;
		/* Pairs with gmem_block_is_full(). */
		smp_store_release(&block->nr_cached, i + XA_CHUNK_SIZE);
		cond_resched();
	}

	return 0;
}

static bool gmem_block_is_full(const struct gmem_block *block)
{
	/* Who sees the last of the pages counted finds all of them. */
	return smp_load_acquire(&block->nr_cached) ==
	       gmem_pool_nr_pages(block->pool);
}

/**
 * gmem_huge_populate() - make sure that the block around a page is there
 * @gi: the inode
 * @index: the page, by offset
 *
 * Context: invalidate_lock held, at least shared; may sleep.
 * Return: 0, or a negative errno; next time it goes on where it has stopped:
 *
 * * -ENOSPC: no block is left on the nodes allowed by the policy, but those in
 *   ZONE_MOVABLE or of CMA, a cgroup has reached its limit, or there is no memory
 *   for the struct pages of the block
 * * -ENOMEM: no memory for what finds the pages, or to split an entry of the
 *   direct map
 * * -EINTR: a fatal signal is pending
 */
int gmem_huge_populate(struct gmem_inode *gi, pgoff_t index)
{
	unsigned int order = gmem_pool_order(gi->pool);
	struct gmem_block *block;
	int err = 0;

	gmem_assert_locked(gi);

	/* Blocks only go with invalidate_lock held for write. */
	block = xa_load(&gi->blocks, index >> order);
	if (block && gmem_block_is_full(block))
		return 0;

	if (mutex_lock_killable(&gi->populate_lock))
		return -EINTR;
	block = xa_load(&gi->blocks, index >> order);
	if (!block)
		block = gmem_block_take(gi, round_down(index, 1UL << order));
	if (IS_ERR(block))
		err = PTR_ERR(block);
	else
		err = gmem_block_fill(gi, block);
	mutex_unlock(&gi->populate_lock);

	return err;
}

/*
 * Out of the file
 */

/* Nobody but the block has a page of it, and memory_failure() is not at one. */
static bool gmem_block_reclaim(struct gmem_block *block)
{
	unsigned long nr_pages = gmem_pool_nr_pages(block->pool);

	for (; block->nr_frozen < nr_pages; block->nr_frozen++) {
		if (!gmem_cache_reclaim(block->split.page + block->nr_frozen))
			return false;
		if (!(block->nr_frozen % XA_CHUNK_SIZE))
			cond_resched();
	}

	return true;
}

static bool gmem_block_join_locked(struct gmem_block *block)
{
	struct gmem_pool *pool = block->pool;
	bool joined;

	lockdep_assert_held(&pool->lock);

	if (!memory_failure_tryhold())
		return false;

	joined = gmem_block_reclaim(block);
	if (joined) {
		gmem_block_settle(block);
		block->split.cgroup_rsvd = block->rsvd;
		/* As long as each page says whether it is broken. */
		if (block->zapped)
			direct_map_restore(block->split.page,
					   gmem_pool_nr_pages(pool));
		hugetlb_join_folio(&block->split, block->spool);
	}
	memory_failure_release();
	if (!joined)
		return false;

	count_vm_event(GUEST_MEMFD_JOIN);
	trace_guest_memfd_join(block->ino, block->index, block->split.page,
			       gmem_pool_order(pool));
	kfree(block);
	return true;
}

/* The worker, which is for all files, does not wait for one of them. */
static bool gmem_block_try_join(struct gmem_block *block, bool wait)
{
	struct gmem_pool *pool = block->pool;
	bool joined;

	if (wait)
		mutex_lock(&pool->lock);
	else if (!mutex_trylock(&pool->lock))
		return false;
	joined = gmem_block_join_locked(block);
	mutex_unlock(&pool->lock);
	if (!joined)
		return false;

	atomic_long_dec(&pool->nr_blocks);
	gmem_pool_put(pool);
	return true;
}

static void gmem_block_wait(struct gmem_block *block)
{
	unsigned long last = gmem_pool_nr_pages(block->pool) - 1;
	bool sooner;

	atomic_long_inc(&block->pool->nr_waiting);
	count_vm_event(GUEST_MEMFD_JOIN_DEFERRED);
	trace_guest_memfd_join_deferred(block->ino, block->index,
					block->split.page +
					min(block->nr_frozen, last));

	spin_lock(&gmem_waiting_lock);
	list_add_tail(&block->waiting, &gmem_waiting);
	sooner = gmem_join_delay != GMEM_JOIN_DELAY_MIN;
	gmem_join_delay = GMEM_JOIN_DELAY_MIN;
	/* Put off only once: there may be somebody who makes blocks wait for ever. */
	if (sooner)
		mod_delayed_work(system_dfl_wq, &gmem_join_work,
				 GMEM_JOIN_DELAY_MIN);
	else
		queue_delayed_work(system_dfl_wq, &gmem_join_work,
				   GMEM_JOIN_DELAY_MIN);
	spin_unlock(&gmem_waiting_lock);
}

/* Those that could not be joined at once: a batch of some CPU may have a page. */
static void gmem_blocks_retry(struct list_head *held)
{
	struct gmem_block *block, *next;

	if (list_empty(held))
		return;

	lru_add_drain_all();
	list_for_each_entry_safe(block, next, held, waiting) {
		list_del(&block->waiting);
		if (!gmem_block_try_join(block, true))
			gmem_block_wait(block);
		cond_resched();
	}
}

/*
 * Of blocks that were waiting, those that nobody holds, of one pool or, without
 * @only, of all; the others wait again.
 */
static void gmem_join_blocks(struct list_head *blocks, struct gmem_pool *only)
{
	struct gmem_block *block, *next;

	lockdep_assert_held(&gmem_join_lock);

	list_for_each_entry_safe(block, next, blocks, waiting) {
		struct gmem_pool *pool = block->pool;

		list_del(&block->waiting);
		refcount_inc(&pool->users);
		if ((!only || pool == only) && gmem_block_try_join(block, false)) {
			atomic_long_dec(&pool->nr_waiting);
		} else {
			spin_lock(&gmem_waiting_lock);
			list_add_tail(&block->waiting, &gmem_waiting);
			spin_unlock(&gmem_waiting_lock);
		}
		gmem_pool_put(pool);
		cond_resched();
	}
}

/*
 * What is on the list has the worker queued, or waiting for gmem_join_lock: that
 * goes for what comes back to it as well.
 */
static int gmem_join_now(struct gmem_pool *pool)
{
	LIST_HEAD(blocks);

	if (mutex_lock_killable(&gmem_join_lock))
		return -EINTR;

	/* All, for a walk without the lock that others have to wait for. */
	spin_lock(&gmem_waiting_lock);
	list_splice_init(&gmem_waiting, &blocks);
	spin_unlock(&gmem_waiting_lock);

	gmem_join_blocks(&blocks, pool);
	mutex_unlock(&gmem_join_lock);
	return 0;
}

static void gmem_join_waiting(struct work_struct *work)
{
	unsigned long delay;
	LIST_HEAD(blocks);
	bool drain;

	guard(mutex)(&gmem_join_lock);

	spin_lock(&gmem_waiting_lock);
	list_splice_init(&gmem_waiting, &blocks);
	delay = gmem_join_delay;
	gmem_join_delay = min(2 * delay, GMEM_JOIN_DELAY_MAX);
	drain = delay < GMEM_JOIN_DELAY_MAX ||
		!(gmem_join_rounds++ % GMEM_JOIN_DRAIN);
	spin_unlock(&gmem_waiting_lock);

	if (drain)
		lru_add_drain_all();

	gmem_join_blocks(&blocks, NULL);

	spin_lock(&gmem_waiting_lock);
	if (!list_empty(&gmem_waiting))
		queue_delayed_work(system_dfl_wq, &gmem_join_work,
				   gmem_join_delay);
	spin_unlock(&gmem_waiting_lock);
}

static void gmem_block_empty(struct gmem_inode *gi, struct gmem_block *block)
{
	struct address_space *mapping = gi->vfs_inode.i_mapping;
	unsigned long i;

	for (i = 0; i < block->nr_cached; i += XA_CHUNK_SIZE) {
		/* Those up to the first that is not frozen need no second look. */
		if (gmem_cache_remove(mapping, block->split.page + i,
				      block->index + i) &&
		    block->nr_frozen == i)
			block->nr_frozen += XA_CHUNK_SIZE;
		cond_resched();
	}
}

/**
 * gmem_huge_remove() - give back the blocks of a range
 * @gi: the inode
 * @start: first page, by offset, where a block starts
 * @end: one past the last page, where a block ends
 *
 * Context: invalidate_lock held for write, views have let go, nothing is mapped
 * into user space; may sleep.
 */
void gmem_huge_remove(struct gmem_inode *gi, pgoff_t start, pgoff_t end)
{
	unsigned int order = gmem_pool_order(gi->pool);
	struct gmem_block *block;
	unsigned long nr;
	LIST_HEAD(held);

	gmem_assert_locked_write(gi);

	xa_for_each_range(&gi->blocks, nr, block, start >> order,
			  (end - 1) >> order) {
		gmem_block_empty(gi, block);
		xa_erase(&gi->blocks, nr);
		if (!gmem_block_try_join(block, true))
			list_add_tail(&block->waiting, &held);
		cond_resched();
	}
	gmem_blocks_retry(&held);
}
