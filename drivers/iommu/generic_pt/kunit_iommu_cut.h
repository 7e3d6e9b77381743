/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Cut, join and replace of leaf entries: each size of a leaf with each smaller
 * size of a hole, in every format, and next to others that walk the table.
 *
 * The walkers stand for the IOMMU: they take no lock, and iotlb_sync() waits
 * until the walks of that moment are over, like an invalidation does.
 */
#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/prandom.h>
#include <kunit/static_stub.h>

struct cut_walker {
	/* Odd while it walks */
	unsigned int seq;
};

/* One leaf, and a hole for one of a smaller size in it */
struct cut_pair {
	unsigned int leaf_lg2;
	unsigned int hole_lg2;
	pt_vaddr_t va;
	pt_vaddr_t len;
	pt_oaddr_t oa;
	pt_vaddr_t hole_va;
	pt_vaddr_t hole_len;
};

/* Walks all the time, and counts what it should not find */
struct cut_reader {
	struct cut_pair pair;
	unsigned long walks;
	unsigned long holes;
	unsigned long wrong;
};

struct cut_dirtier {
	/* Odd: write to the next of the places and make it even */
	unsigned int turn;
	unsigned int num;
	pt_vaddr_t va[8];
};

/* Someone else who uses the domain, for a range of its own */
struct cut_neighbour {
	/* Odd: map, and make it even */
	unsigned int turn;
	int ret;
	pt_vaddr_t va;
	pt_oaddr_t oa;
	pt_vaddr_t len;
};

struct kunit_cut_priv {
	/* Must be first, it is what the helpers find in test->priv */
	struct kunit_iommu_priv base;
	struct cut_walker walker;
	/* What was flushed last */
	unsigned long flush_start;
	unsigned long flush_last;
	/* Of which levels, if the driver gets to know */
	u8 leaf_levels;
	u8 table_levels;
	unsigned int num_syncs;
	/* What HW was told that it is present */
	unsigned long map_start;
	size_t map_len;
	unsigned int num_sync_maps;
	/* Of these one at a time, in task. They outlive a test that fails */
	struct task_struct *task;
	struct cut_reader reader;
	struct cut_dirtier dirtier;
	struct cut_neighbour neighbour;
};

static void cut_iotlb_sync(struct iommu_domain *domain,
			   struct iommu_iotlb_gather *gather)
{
	struct kunit_cut_priv *cut =
		container_of(domain, struct kunit_cut_priv, base.domain);
	unsigned int seq;

	/* Pairs with walk_begin(): it is waited for or finds the new table */
	smp_mb();
	seq = READ_ONCE(cut->walker.seq);
	while ((seq & 1) && READ_ONCE(cut->walker.seq) == seq)
		cpu_relax();
	/* Pairs with walk_end() */
	smp_mb();

	cut->flush_start = gather->start;
	cut->flush_last = gather->end;
	cut->leaf_levels = gather->pt.leaf_levels_bitmap;
	cut->table_levels = gather->pt.table_levels_bitmap;
	cut->num_syncs++;
	iommu_put_pages_list(&gather->freelist);
}

static int cut_iotlb_sync_map(struct iommu_domain *domain, unsigned long iova,
			      size_t size)
{
	struct kunit_cut_priv *cut =
		container_of(domain, struct kunit_cut_priv, base.domain);

	cut->map_start = iova;
	cut->map_len = size;
	cut->num_sync_maps++;
	return 0;
}

static void walk_begin(struct kunit_cut_priv *cut)
{
	preempt_disable();
	WRITE_ONCE(cut->walker.seq, cut->walker.seq + 1);
	/* Pairs with cut_iotlb_sync() */
	smp_mb();
}

static void walk_end(struct kunit_cut_priv *cut)
{
	/* Pairs with cut_iotlb_sync() */
	smp_mb();
	WRITE_ONCE(cut->walker.seq, cut->walker.seq + 1);
	preempt_enable();
}

static const struct iommu_domain_ops kunit_cut_ops = {
	IOMMU_PT_DOMAIN_OPS1(PTPFX_RAW),
	.iotlb_sync = &cut_iotlb_sync,
	.iotlb_sync_map = &cut_iotlb_sync_map,
};

#define IOMMU_PT_DIRTY_OPS1(x) IOMMU_PT_DIRTY_OPS(x)
static const struct iommu_dirty_ops kunit_cut_dirty_ops = {
	IOMMU_PT_DIRTY_OPS1(PTPFX_RAW),
};

static struct cut_pair make_pair(struct kunit *test, unsigned int leaf_lg2,
				 unsigned int hole_lg2)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_pair pair = {
		.leaf_lg2 = leaf_lg2,
		.hole_lg2 = hole_lg2,
		.len = log2_to_int(leaf_lg2),
		.hole_len = log2_to_int(hole_lg2),
		.oa = log2_set_mod(priv->test_oa, 0, leaf_lg2),
	};
	pt_vaddr_t holes = log2_to_int(leaf_lg2 - hole_lg2);

	pair.va = pt_top_range(priv->common).va + pair.len;
	/* An odd one, so that it is not at the start of anything larger */
	pair.hole_va = pair.va +
		       log2_mul((get_random_u64() & (holes - 1)) | 1, hole_lg2);
	return pair;
}

static bool pair_exists(struct kunit *test, unsigned int leaf_lg2,
			unsigned int hole_lg2)
{
	struct kunit_iommu_priv *priv = test->priv;
	pt_vaddr_t sizes = priv->safe_pgsize_bitmap;

	return (sizes & log2_to_int(leaf_lg2)) &&
	       (sizes & log2_to_int(hole_lg2));
}

/* All pairs of sizes, beginning with a zeroed one. False after the last */
static bool next_pair(struct kunit *test, struct cut_pair *pair)
{
	unsigned int leaf_lg2 = pair->leaf_lg2;
	unsigned int hole_lg2 = pair->hole_lg2 + 1;

	for (; leaf_lg2 < PT_VADDR_MAX_LG2; leaf_lg2++, hole_lg2 = 0) {
		for (; hole_lg2 < leaf_lg2; hole_lg2++) {
			if (!pair_exists(test, leaf_lg2, hole_lg2))
				continue;
			*pair = make_pair(test, leaf_lg2, hole_lg2);
			return true;
		}
	}
	return false;
}

/* What is between the hole and the leaf can be described by leaves */
static bool can_cut(struct kunit *test, const struct cut_pair *pair)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct pt_range range = pt_top_range(priv->common);
	struct pt_state pts = pt_init(&range, 0, NULL);

	for (pts.level = pt_pgsz_lg2_to_level(priv->common, pair->hole_lg2);
	     pts.level <= pt_pgsz_lg2_to_level(priv->common, pair->leaf_lg2);
	     pts.level++)
		if (!(priv->info.pgsize_bitmap &
		      log2_to_int(pt_table_item_lg2sz(&pts))) &&
		    pt_table_item_lg2sz(&pts) != pair->leaf_lg2)
			return false;
	return true;
}

/* The next pair that can be cut */
static bool next_cut(struct kunit *test, struct cut_pair *pair)
{
	while (next_pair(test, pair))
		if (can_cut(test, pair))
			return true;
	return false;
}

static unsigned int expected_tables(struct kunit *test,
				    const struct cut_pair *pair)
{
	struct kunit_iommu_priv *priv = test->priv;

	return pt_pgsz_lg2_to_level(priv->common, pair->leaf_lg2) -
	       pt_pgsz_lg2_to_level(priv->common, pair->hole_lg2);
}

static void check_one(struct kunit *test, const struct cut_pair *pair,
		      pt_vaddr_t va)
{
	struct kunit_iommu_priv *priv = test->priv;

	KUNIT_ASSERT_EQ(test, iommu_iova_to_phys(&priv->domain, va),
			(phys_addr_t)(pair->oa + (va - pair->va)));
}

/* The ends of the leaf, the neighbours of the hole, and some other places */
static void check_around_hole(struct kunit *test, const struct cut_pair *pair)
{
	unsigned int i;

	check_one(test, pair, pair->va);
	check_one(test, pair, pair->hole_va - 1);
	if (pair->hole_va + pair->hole_len != pair->va + pair->len) {
		check_one(test, pair, pair->hole_va + pair->hole_len);
		check_one(test, pair, pair->va + pair->len - 1);
	}
	for (i = 0; i != 16; i++) {
		pt_vaddr_t va = pair->va + (get_random_u64() & (pair->len - 1));

		if (log2_div_eq(va, pair->hole_va, pair->hole_lg2))
			continue;
		check_one(test, pair, va);
	}
}

static void check_all(struct kunit *test, const struct cut_pair *pair)
{
	check_around_hole(test, pair);
	check_one(test, pair, pair->hole_va);
	check_one(test, pair, pair->hole_va + pair->hole_len - 1);
}

static void sync_gather(struct kunit *test, struct iommu_iotlb_gather *gather)
{
	struct kunit_cut_priv *cut = test->priv;

	/* It is not called for nothing */
	cut->flush_start = ULONG_MAX;
	cut->flush_last = 0;
	iommu_iotlb_sync(&cut->base.domain, gather);
}

/* All of the range was flushed, and a walk that had got to these levels */
static void check_flush(struct kunit *test, pt_vaddr_t va, pt_vaddr_t len,
			unsigned int leaf_levels, unsigned int table_levels)
{
	struct kunit_cut_priv *cut = test->priv;

	KUNIT_ASSERT_LE(test, cut->flush_start, (unsigned long)va);
	KUNIT_ASSERT_GE(test, cut->flush_last, (unsigned long)(va + len - 1));
	if (!pt_feature(cut->base.common, PT_FEAT_DETAILED_GATHER))
		return;
	KUNIT_ASSERT_EQ(test, cut->leaf_levels & leaf_levels, leaf_levels);
	KUNIT_ASSERT_EQ(test, cut->table_levels, table_levels);
}

static void do_reserve(struct kunit *test, pt_vaddr_t va, pt_vaddr_t len,
		       struct iommu_pages_list *reserve)
{
	struct kunit_iommu_priv *priv = test->priv;

	KUNIT_ASSERT_NO_ERRNO(test, iommu_cut_reserve(&priv->domain, va, len,
						      GFP_KERNEL, reserve));
}

static void do_cut_reserved(struct kunit *test, pt_vaddr_t va, pt_vaddr_t len,
			    struct iommu_pages_list *reserve)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct iommu_iotlb_gather gather;

	iommu_iotlb_gather_init(&gather);
	KUNIT_ASSERT_NO_ERRNO(test, iommu_cut(&priv->domain, va, len, reserve,
					      &gather));
	KUNIT_ASSERT_TRUE(test, iommu_pages_list_empty(reserve));
	sync_gather(test, &gather);
}

static void do_cut(struct kunit *test, pt_vaddr_t va, pt_vaddr_t len)
{
	struct iommu_pages_list reserve = IOMMU_PAGES_LIST_INIT(reserve);

	do_reserve(test, va, len, &reserve);
	do_cut_reserved(test, va, len, &reserve);
}

static void do_join(struct kunit *test, const struct cut_pair *pair)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct iommu_iotlb_gather gather;

	iommu_iotlb_gather_init(&gather);
	KUNIT_ASSERT_NO_ERRNO(test, iommu_join(&priv->domain, pair->hole_va,
					       pair->hole_len, pair->va,
					       pair->va + pair->len - 1,
					       &gather));
	sync_gather(test, &gather);
}

static void do_replace(struct kunit *test, pt_vaddr_t va, pt_oaddr_t oa,
		       pt_vaddr_t len, int prot)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct iommu_iotlb_gather gather;

	iommu_iotlb_gather_init(&gather);
	KUNIT_ASSERT_NO_ERRNO(test, iommu_replace(&priv->domain, va, oa, len,
						  prot, &gather));
	sync_gather(test, &gather);
}

/* The size of the leaf entry at va, 0 if there is none */
static int __leaf_lg2sz(struct pt_range *range, void *arg, unsigned int level,
			struct pt_table_p *table)
{
	struct pt_state pts = pt_init(range, level, table);
	unsigned int *lg2sz = arg;

	switch (pt_load_single_entry(&pts)) {
	case PT_ENTRY_EMPTY:
		return 0;
	case PT_ENTRY_TABLE:
		return pt_descend(&pts, arg, __leaf_lg2sz);
	case PT_ENTRY_OA:
		*lg2sz = pt_entry_oa_lg2sz(&pts);
	}
	return 0;
}

static unsigned int leaf_lg2sz(struct kunit *test, pt_vaddr_t va)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct pt_range range = pt_make_range(priv->common, va, va);
	unsigned int lg2sz = 0;

	KUNIT_ASSERT_NO_ERRNO(test,
			      pt_walk_range(&range, __leaf_lg2sz, &lg2sz));
	return lg2sz;
}

/* count_valids() is about the lower half where there are two */
static unsigned int count_valids_in(struct kunit *test, struct pt_range range)
{
	struct count_valids valids = {};
	unsigned int total = 0;
	unsigned int i;

	KUNIT_ASSERT_NO_ERRNO(test,
			      pt_walk_range(&range, __count_valids, &valids));
	for (i = 0; i != ARRAY_SIZE(valids.per_size); i++)
		total += valids.per_size[i];
	return total;
}

/* A hole takes one table a level, and the leaf comes back with all of them */
static void test_cut_pairs(struct kunit *test)
{
	struct kunit_cut_priv *cut = test->priv;
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_pair pair = {};
	unsigned int num = 0;

	while (next_pair(test, &pair)) {
		struct iommu_pages_list reserve = IOMMU_PAGES_LIST_INIT(reserve);
		struct iommu_iotlb_gather gather;
		unsigned int leaf_level, hole_level;
		unsigned int num_sync_maps;
		long nr_tables;
		int ret;

		leaf_level = pt_pgsz_lg2_to_level(priv->common, pair.leaf_lg2);
		hole_level = pt_pgsz_lg2_to_level(priv->common, pair.hole_lg2);
		do_map(test, pair.va, pair.oa, pair.len);
		nr_tables = nr_secondary_pagetable();
		num_sync_maps = cut->num_sync_maps;

		ret = iommu_cut_reserve(&priv->domain, pair.hole_va,
					pair.hole_len, GFP_KERNEL, &reserve);
		if (!can_cut(test, &pair)) {
			KUNIT_ASSERT_EQ(test, ret, -EOPNOTSUPP);
			KUNIT_ASSERT_EQ(test, count_valids(test), 1);
			do_unmap(test, pair.va, pair.len);
			continue;
		}
		KUNIT_ASSERT_NO_ERRNO(test, ret);
		KUNIT_ASSERT_EQ(test, list_count_nodes(&reserve.pages),
				expected_tables(test, &pair));

		do_cut_reserved(test, pair.hole_va, pair.hole_len, &reserve);
		check_flush(test, pair.va, pair.len, BIT(leaf_level), 0);
		KUNIT_ASSERT_EQ(test, nr_secondary_pagetable() - nr_tables,
				expected_tables(test, &pair));
		KUNIT_ASSERT_EQ(test, leaf_lg2sz(test, pair.hole_va),
				pair.hole_lg2);
		check_all(test, &pair);

		/* HW can't have cached that something was missing */
		KUNIT_ASSERT_EQ(test, cut->num_sync_maps, num_sync_maps);

		/* What is cut is not cut again */
		iommu_iotlb_gather_init(&gather);
		KUNIT_ASSERT_NO_ERRNO(test, iommu_cut(&priv->domain,
						      pair.hole_va,
						      pair.hole_len, &reserve,
						      &gather));

		do_replace(test, pair.hole_va, 0, pair.hole_len, 0);
		check_flush(test, pair.hole_va, pair.hole_len, BIT(hole_level),
			    0);
		KUNIT_ASSERT_EQ(test, iommu_iova_to_phys(&priv->domain,
							 pair.hole_va), 0);
		check_around_hole(test, &pair);
		KUNIT_ASSERT_EQ(test, cut->num_sync_maps, num_sync_maps);
		/* Nor is a hole joined away */
		do_join(test, &pair);
		KUNIT_ASSERT_EQ(test, iommu_iova_to_phys(&priv->domain,
							 pair.hole_va), 0);
		check_around_hole(test, &pair);

		do_replace(test, pair.hole_va,
			   pair.oa + (pair.hole_va - pair.va), pair.hole_len,
			   IOMMU_READ | IOMMU_WRITE);
		check_all(test, &pair);
		/* Now it can, that the hole was */
		KUNIT_ASSERT_EQ(test, cut->num_sync_maps, num_sync_maps + 1);
		KUNIT_ASSERT_EQ(test, cut->map_start,
				(unsigned long)pair.hole_va);
		KUNIT_ASSERT_EQ(test, cut->map_len, (size_t)pair.hole_len);

		do_join(test, &pair);
		/* With each table that is gone */
		check_flush(test, pair.va, pair.len, BIT(hole_level),
			    GENMASK(leaf_level, 0) & ~GENMASK(hole_level, 0));
		KUNIT_ASSERT_EQ(test, leaf_lg2sz(test, pair.va), pair.leaf_lg2);
		KUNIT_ASSERT_EQ(test, count_valids(test), 1);
		KUNIT_ASSERT_EQ(test, nr_secondary_pagetable(), nr_tables);
		check_all(test, &pair);

		do_unmap(test, pair.va, pair.len);
		num++;
		cond_resched();
	}
	if (!num)
		kunit_skip(test, "Test needs two page sizes");
}

/* The same where nothing is mapped: a leaf in it, and no table left over */
static void test_cut_empty(struct kunit *test)
{
	struct cut_pair pair = {};

	while (next_pair(test, &pair)) {
		pt_oaddr_t hole_oa = pair.oa + (pair.hole_va - pair.va);
		long nr_tables;

		/* Where there was something, so that the top is high enough */
		do_map(test, pair.va, pair.oa, pair.len);
		do_replace(test, pair.va, 0, pair.len, 0);
		nr_tables = nr_secondary_pagetable();

		do_cut(test, pair.hole_va, pair.hole_len);
		KUNIT_ASSERT_EQ(test, nr_secondary_pagetable() - nr_tables,
				expected_tables(test, &pair));
		do_replace(test, pair.hole_va, hole_oa, pair.hole_len,
			   IOMMU_READ | IOMMU_WRITE);
		KUNIT_ASSERT_EQ(test, count_valids(test), 1);
		check_one(test, &pair, pair.hole_va);

		do_replace(test, pair.hole_va, 0, pair.hole_len, 0);
		do_join(test, &pair);
		KUNIT_ASSERT_EQ(test, count_valids(test), 0);
		KUNIT_ASSERT_EQ(test, nr_secondary_pagetable(), nr_tables);
	}
}

/* A join stays within what it is given, though the translation goes on */
static void test_join_bounds(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_pair pair = {};

	while (next_pair(test, &pair)) {
		struct iommu_iotlb_gather gather;

		if (!can_cut(test, &pair))
			continue;
		do_map(test, pair.va, pair.oa, pair.len);
		do_cut(test, pair.hole_va, pair.hole_len);

		iommu_iotlb_gather_init(&gather);
		KUNIT_ASSERT_NO_ERRNO(
			test, iommu_join(&priv->domain, pair.hole_va,
					 pair.hole_len, pair.hole_va,
					 pair.va + pair.len - 1, &gather));
		sync_gather(test, &gather);
		KUNIT_ASSERT_EQ(test, leaf_lg2sz(test, pair.hole_va),
				pair.hole_lg2);
		KUNIT_ASSERT_EQ(test,
				iommu_join(&priv->domain, pair.va, pair.len,
					   pair.hole_va,
					   pair.va + pair.len - 1, &gather),
				-EINVAL);
		check_all(test, &pair);

		do_join(test, &pair);
		KUNIT_ASSERT_EQ(test, count_valids(test), 1);
		do_unmap(test, pair.va, pair.len);
	}
}

/* Neighbours that can't be one leaf are not joined */
static void test_join_refuses(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_pair pair = {};

	while (next_pair(test, &pair)) {
		pt_oaddr_t hole_oa = pair.oa + (pair.hole_va - pair.va);
		unsigned int valids;

		if (!can_cut(test, &pair))
			continue;
		do_map(test, pair.va, pair.oa, pair.len);
		do_cut(test, pair.hole_va, pair.hole_len);
		valids = count_valids(test);

		/* Another address */
		do_replace(test, pair.hole_va,
			   log2_set_mod(pair.oa ^ pair.len, 0, pair.hole_lg2),
			   pair.hole_len, IOMMU_READ | IOMMU_WRITE);
		do_join(test, &pair);
		KUNIT_ASSERT_EQ(test, iommu_iova_to_phys(&priv->domain,
							 pair.hole_va),
				log2_set_mod(pair.oa ^ pair.len, 0,
					     pair.hole_lg2));

		/* Another permission, where the format can have it */
		do_replace(test, pair.hole_va, hole_oa, pair.hole_len,
			   IOMMU_WRITE | IOMMU_READ);
		if (!pt_iommu_set_prot(priv->common,
				       &(struct pt_write_attrs){}, IOMMU_READ)) {
			do_replace(test, pair.hole_va, hole_oa, pair.hole_len,
				   IOMMU_READ);
			do_join(test, &pair);
			KUNIT_ASSERT_EQ(test, leaf_lg2sz(test, pair.hole_va),
					pair.hole_lg2);
			do_replace(test, pair.hole_va, hole_oa, pair.hole_len,
				   IOMMU_WRITE | IOMMU_READ);
		}
		KUNIT_ASSERT_GE(test, valids, 2);
		do_join(test, &pair);
		KUNIT_ASSERT_EQ(test, count_valids(test), 1);
		do_unmap(test, pair.va, pair.len);
	}
}

/* A part of a leaf is not replaced, and nothing else is then */
static void test_replace_refuses(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_pair pair = {};

	while (next_pair(test, &pair)) {
		struct iommu_iotlb_gather gather;

		iommu_iotlb_gather_init(&gather);
		do_map(test, pair.va, pair.oa, pair.len);
		do_map(test, pair.va + pair.len, pair.oa, pair.len);

		KUNIT_ASSERT_EQ(test,
				iommu_replace(&priv->domain, pair.hole_va, 0,
					      pair.hole_len, 0, &gather),
				-EINVAL);
		/* All of the first leaf and a part of the second */
		KUNIT_ASSERT_EQ(test,
				iommu_replace(&priv->domain, pair.va, 0,
					      pair.len + pair.hole_len, 0,
					      &gather),
				-EINVAL);
		check_all(test, &pair);
		KUNIT_ASSERT_EQ(test, count_valids(test), 2);

		/* What could be changed, in a table of its own, comes first */
		if (can_cut(test, &pair)) {
			do_cut(test, pair.hole_va, pair.hole_len);
			KUNIT_ASSERT_EQ(
				test,
				iommu_replace(&priv->domain, pair.hole_va, 0,
					      pair.va + pair.len +
						      pair.hole_len -
						      pair.hole_va,
					      0, &gather),
				-EINVAL);
			check_all(test, &pair);
		}
		do_unmap(test, pair.va, 2 * pair.len);
	}
}

/* A range can begin in one leaf and end in another, both are cut */
static void test_cut_two_leaves(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_pair pair = {};

	while (next_cut(test, &pair)) {
		pt_vaddr_t second_va = pair.va + pair.len;
		/* As much of the second as there is of the first */
		pt_vaddr_t half = second_va - pair.hole_va;
		long nr_tables;

		do_map(test, pair.va, pair.oa, pair.len);
		do_map(test, second_va, pair.oa, pair.len);
		nr_tables = nr_secondary_pagetable();

		do_cut(test, pair.hole_va, 2 * half);
		KUNIT_ASSERT_EQ(test, nr_secondary_pagetable() - nr_tables,
				2 * expected_tables(test, &pair));
		do_replace(test, pair.hole_va, 0, 2 * half, 0);
		check_one(test, &pair, pair.hole_va - 1);
		KUNIT_ASSERT_EQ(test, iommu_iova_to_phys(&priv->domain,
							 pair.hole_va), 0);
		KUNIT_ASSERT_EQ(test, iommu_iova_to_phys(
					      &priv->domain,
					      second_va + half - 1), 0);
		KUNIT_ASSERT_EQ(test,
				iommu_iova_to_phys(&priv->domain,
						   second_va + half),
				(phys_addr_t)(pair.oa + half));

		do_replace(test, pair.hole_va,
			   pair.oa + (pair.hole_va - pair.va), half,
			   IOMMU_READ | IOMMU_WRITE);
		do_replace(test, second_va, pair.oa, half,
			   IOMMU_READ | IOMMU_WRITE);
		do_join(test, &(struct cut_pair){ .va = pair.va,
						  .len = 2 * pair.len,
						  .hole_va = pair.va,
						  .hole_len = 2 * pair.len });
		KUNIT_ASSERT_EQ(test, count_valids(test), 2);
		KUNIT_ASSERT_EQ(test, nr_secondary_pagetable(), nr_tables);
		check_all(test, &pair);
		do_unmap(test, pair.va, 2 * pair.len);
	}
}

/* There is nothing after the hole, or the address wraps around */
static void cut_end(struct kunit *test, struct pt_range range)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_pair pair = {};

	while (next_cut(test, &pair)) {
		/* The table of a domain with PT_FEAT_DYNAMIC_TOP ends earlier */
		if (pair.len - 1 >= range.last_va - range.va)
			continue;
		pair.va = range.last_va - (pair.len - 1);
		pair.hole_va = range.last_va - (pair.hole_len - 1);
		do_map(test, pair.va, pair.oa, pair.len);

		do_cut(test, pair.hole_va, pair.hole_len);
		KUNIT_ASSERT_EQ(test, leaf_lg2sz(test, pair.hole_va),
				pair.hole_lg2);
		do_replace(test, pair.hole_va, 0, pair.hole_len, 0);
		check_around_hole(test, &pair);
		KUNIT_ASSERT_EQ(test, iommu_iova_to_phys(&priv->domain,
							 range.last_va), 0);

		do_replace(test, pair.hole_va,
			   pair.oa + (pair.hole_va - pair.va), pair.hole_len,
			   IOMMU_READ | IOMMU_WRITE);
		do_join(test, &pair);
		KUNIT_ASSERT_EQ(test, count_valids_in(test, range), 1);
		check_all(test, &pair);
		do_unmap(test, pair.va, pair.len);
	}
}

static void test_cut_end(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;

	cut_end(test, pt_top_range(priv->common));
	if (pt_feature(priv->common, PT_FEAT_SIGN_EXTEND) &&
	    ULONG_MAX >= PT_VADDR_MAX)
		cut_end(test, pt_upper_range(priv->common));
}

/*
 * A domain can have fewer sizes than its format: without one in between there is
 * no cut, and without that of the leaf no join.
 */
static void test_cut_fewer_sizes(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_pair pair = {};
	unsigned int num = 0;

	while (next_cut(test, &pair)) {
		struct iommu_pages_list reserve = IOMMU_PAGES_LIST_INIT(reserve);
		unsigned long sizes = priv->domain.pgsize_bitmap;

		/* A level in between that the leaf has no part in */
		if (expected_tables(test, &pair) < 2)
			continue;
		do_map(test, pair.va, pair.oa, pair.len);

		priv->domain.pgsize_bitmap =
			sizes & (pair.len | (2 * pair.hole_len - 1));
		KUNIT_ASSERT_EQ(test,
				iommu_cut_reserve(&priv->domain, pair.hole_va,
						  pair.hole_len, GFP_KERNEL,
						  &reserve),
				-EOPNOTSUPP);
		KUNIT_ASSERT_EQ(test, leaf_lg2sz(test, pair.hole_va),
				pair.leaf_lg2);

		priv->domain.pgsize_bitmap = sizes;
		do_cut(test, pair.hole_va, pair.hole_len);
		priv->domain.pgsize_bitmap = sizes & (pair.len - 1);
		do_join(test, &pair);
		KUNIT_ASSERT_LT(test, leaf_lg2sz(test, pair.hole_va),
				pair.leaf_lg2);
		check_all(test, &pair);

		priv->domain.pgsize_bitmap = sizes;
		do_join(test, &pair);
		KUNIT_ASSERT_EQ(test, count_valids(test), 1);
		do_unmap(test, pair.va, pair.len);
		num++;
	}
	if (!num)
		kunit_skip(test, "Test needs three levels with leaves");
}

static unsigned int cut_fail_nth;

static void *failing_alloc_pages(int nid, gfp_t gfp, size_t size)
{
	struct kunit *test = kunit_get_current_test();
	void *virt;

	if (!--cut_fail_nth)
		return NULL;
	kunit_deactivate_static_stub(test, iommu_alloc_pages_node_sz);
	virt = iommu_alloc_pages_node_sz(nid, gfp, size);
	kunit_activate_static_stub(test, iommu_alloc_pages_node_sz,
				   failing_alloc_pages);
	return virt;
}

/* Without memory, or with too little of it in reserve, nothing changes */
static void test_cut_nomem(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_pair pair = {};

	while (next_pair(test, &pair)) {
		struct iommu_pages_list reserve = IOMMU_PAGES_LIST_INIT(reserve);
		unsigned int tables = expected_tables(test, &pair);
		struct iommu_iotlb_gather gather;
		long nr_tables;
		unsigned int i;

		if (!can_cut(test, &pair))
			continue;
		iommu_iotlb_gather_init(&gather);
		do_map(test, pair.va, pair.oa, pair.len);
		nr_tables = nr_secondary_pagetable();

		for (i = 1; i <= tables; i++) {
			cut_fail_nth = i;
			kunit_activate_static_stub(test,
						   iommu_alloc_pages_node_sz,
						   failing_alloc_pages);
			KUNIT_EXPECT_EQ(test,
					iommu_cut_reserve(&priv->domain,
							  pair.hole_va,
							  pair.hole_len,
							  GFP_KERNEL, &reserve),
					-ENOMEM);
			kunit_deactivate_static_stub(test,
						     iommu_alloc_pages_node_sz);
			KUNIT_ASSERT_TRUE(test,
					  iommu_pages_list_empty(&reserve));
			KUNIT_ASSERT_EQ(test, nr_secondary_pagetable(),
					nr_tables);
		}

		if (tables) {
			KUNIT_ASSERT_NO_ERRNO(
				test, iommu_cut_reserve(&priv->domain,
							pair.hole_va,
							pair.hole_len,
							GFP_KERNEL, &reserve));
			iommu_free_pages(iommu_pages_list_pop(&reserve));
			KUNIT_ASSERT_EQ(test,
					iommu_cut(&priv->domain, pair.hole_va,
						  pair.hole_len, &reserve,
						  &gather),
					-ENOMEM);
			iommu_cut_unreserve(&priv->domain, &reserve);
			KUNIT_ASSERT_EQ(test, nr_secondary_pagetable(),
					nr_tables);
		}
		KUNIT_ASSERT_EQ(test, leaf_lg2sz(test, pair.hole_va),
				pair.leaf_lg2);
		KUNIT_ASSERT_EQ(test, count_valids(test), 1);
		do_unmap(test, pair.va, pair.len);
	}
}

static void start_cut_thread(struct kunit *test, int (*fn)(void *cut),
			 const char *name)
{
	struct kunit_cut_priv *cut = test->priv;
	struct task_struct *task = kthread_run(fn, cut, "%s", name);

	KUNIT_ASSERT_FALSE(test, IS_ERR(task));
	cut->task = task;
}

static void stop_cut_thread(struct kunit *test)
{
	struct kunit_cut_priv *cut = test->priv;

	kthread_stop(cut->task);
	cut->task = NULL;
}

static int read_translations(void *arg)
{
	struct kunit_cut_priv *cut = arg;
	struct cut_reader *reader = &cut->reader;
	const struct cut_pair *pair = &reader->pair;
	struct rnd_state rnd;

	prandom_seed_state(&rnd, get_random_u64());
	while (!kthread_should_stop()) {
		u64 random = (u64)prandom_u32_state(&rnd) << 32 |
			     prandom_u32_state(&rnd);
		/* The hole and its neighbours half of the time */
		pt_vaddr_t va = pair->va + (random & (pair->len - 1));
		phys_addr_t phys;

		if (random & BIT_ULL(63))
			va = pair->hole_va - pair->hole_len +
			     (random & (4 * pair->hole_len - 1));
		if (va > pair->va + (pair->len - 1))
			continue;
		walk_begin(cut);
		phys = iommu_iova_to_phys(&cut->base.domain, va);
		walk_end(cut);

		if (!phys)
			reader->holes++;
		else if (phys != pair->oa + (va - pair->va))
			reader->wrong++;
		WRITE_ONCE(reader->walks, reader->walks + 1);
		if (!(reader->walks % 64))
			cond_resched();
	}
	return 0;
}

static struct cut_reader *start_reader(struct kunit *test,
				       const struct cut_pair *pair)
{
	struct kunit_cut_priv *cut = test->priv;
	struct cut_reader *reader = &cut->reader;

	*reader = (struct cut_reader){ .pair = *pair };
	start_cut_thread(test, read_translations, "cut_reader");
	/* Don't be done before it has begun */
	while (!READ_ONCE(reader->walks))
		cond_resched();
	return reader;
}

static unsigned int count_pairs(struct kunit *test)
{
	unsigned int num = 0;
	struct cut_pair pair = {};

	while (next_cut(test, &pair))
		num++;
	return num;
}

static void cut_and_join(struct kunit *test, unsigned int rounds)
{
	unsigned long walks = 0, cuts = 0;
	unsigned int num_pairs = count_pairs(test);
	struct cut_reader *reader;
	struct cut_pair pair = {};
	unsigned int i;

	if (!num_pairs)
		kunit_skip(test, "Test needs two page sizes");

	while (next_cut(test, &pair)) {
		do_map(test, pair.va, pair.oa, pair.len);
		reader = start_reader(test, &pair);
		for (i = 0; i <= rounds / num_pairs; i++) {
			do_cut(test, pair.hole_va, pair.hole_len);
			do_join(test, &pair);
			if (!(i % 64))
				cond_resched();
		}
		stop_cut_thread(test);
		KUNIT_EXPECT_EQ(test, reader->holes, 0);
		KUNIT_EXPECT_EQ(test, reader->wrong, 0);
		KUNIT_ASSERT_EQ(test, count_valids(test), 1);
		do_unmap(test, pair.va, pair.len);
		walks += reader->walks;
		cuts += i;
	}
	kunit_info(test, "%u pairs of sizes, %lu cuts and joins, %lu walks",
		   num_pairs, cuts, walks);
}

/* A walker finds the right translation at any time */
static void test_cut_reader(struct kunit *test)
{
	cut_and_join(test, 2000);
}

static void test_cut_reader_long(struct kunit *test)
{
	cut_and_join(test, 100000);
}

/* The same without cut: the reader sees the holes, so it would see ours */
static void test_cut_by_unmap_is_seen(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_reader *reader;
	struct cut_pair pair = {};
	unsigned int i;

	while (next_cut(test, &pair)) {
		if (pair.hole_lg2 != priv->smallest_pgsz_lg2)
			continue;
		do_map(test, pair.va, pair.oa, pair.len);
		reader = start_reader(test, &pair);
		for (i = 0; i != 10000 && !READ_ONCE(reader->holes); i++) {
			pt_vaddr_t before = pair.hole_va - pair.va;

			do_unmap(test, pair.va, pair.len);
			do_map(test, pair.va, pair.oa, before);
			do_map(test, pair.hole_va, pair.oa + before,
			       pair.len - before);
			do_unmap(test, pair.va, pair.len);
			do_map(test, pair.va, pair.oa, pair.len);
			cond_resched();
		}
		stop_cut_thread(test);
		do_unmap(test, pair.va, pair.len);
		KUNIT_EXPECT_NE(test, reader->holes, 0);
	}
}

static int write_pages(void *arg)
{
	struct kunit_cut_priv *cut = arg;
	struct cut_dirtier *dirtier = &cut->dirtier;
	struct kunit_iommu_priv *priv = &cut->base;

	while (!kthread_should_stop()) {
		/* Pairs with cut_dirty() */
		unsigned int turn = smp_load_acquire(&dirtier->turn);
		unsigned int i;
		int ret;

		if (!(turn & 1)) {
			cond_resched();
			continue;
		}
		for (i = 0; i != ARRAY_SIZE(dirtier->va); i++) {
			do {
				walk_begin(cut);
				ret = priv->iommu->ops->set_dirty(
					priv->iommu, dirtier->va[i]);
				walk_end(cut);
			} while (ret == -EAGAIN);
			if (ret)
				break;
		}
		dirtier->num = i;
		/* Pairs with cut_dirty() */
		smp_store_release(&dirtier->turn, turn + 1);
	}
	return 0;
}

static int __is_dirty(struct pt_range *range, void *arg, unsigned int level,
		      struct pt_table_p *table)
{
	struct pt_state pts = pt_init(range, level, table);

	if (pt_load_single_entry(&pts) == PT_ENTRY_TABLE)
		return pt_descend(&pts, arg, __is_dirty);
	return pts.type == PT_ENTRY_OA && pt_entry_is_write_dirty(&pts);
}

static bool is_dirty(struct kunit *test, pt_vaddr_t va)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct pt_range range = pt_make_range(priv->common, va, va);

	return pt_walk_range(&range, __is_dirty, NULL);
}

static void expect_dirty(struct kunit *test, const struct cut_dirtier *dirtier)
{
	unsigned int i;

	for (i = 0; i != ARRAY_SIZE(dirtier->va); i++)
		KUNIT_EXPECT_TRUE(test, is_dirty(test, dirtier->va[i]));
}

static void cut_hole(struct kunit *test, const struct cut_pair *pair)
{
	do_cut(test, pair->hole_va, pair->hole_len);
}

/* HW writes to some places of the leaf, which is clean, during the change */
static void write_during(struct kunit *test, const struct cut_pair *pair,
			 void (*change)(struct kunit *test,
					const struct cut_pair *pair))
{
	struct kunit_cut_priv *cut = test->priv;
	struct cut_dirtier *dirtier = &cut->dirtier;
	unsigned int i;

	for (i = 0; i != ARRAY_SIZE(dirtier->va); i++)
		dirtier->va[i] = pair->va + (get_random_u64() & (pair->len - 1));

	/* Pairs with write_pages() */
	smp_store_release(&dirtier->turn, dirtier->turn + 1);
	ndelay(get_random_u32_below(2000));
	change(test, pair);
	/* Pairs with write_pages() */
	while (smp_load_acquire(&dirtier->turn) & 1)
		cond_resched();

	KUNIT_EXPECT_EQ(test, dirtier->num, ARRAY_SIZE(dirtier->va));
	expect_dirty(test, dirtier);
}

static void cut_dirty(struct kunit *test, unsigned int rounds)
{
	struct kunit_cut_priv *cut = test->priv;
	struct kunit_iommu_priv *priv = test->priv;
	unsigned int num_pairs = count_pairs(test);
	unsigned long clean = 0, dirty = 0;
	struct cut_pair pair = {};
	unsigned int i;

	if (!pt_dirty_supported(priv->common) || !priv->iommu->ops->set_dirty)
		kunit_skip(test,
			   "Page table features do not support dirty tracking");

	while (next_cut(test, &pair)) {
		start_cut_thread(test, write_pages, "cut_dirtier");

		for (i = 0; i <= rounds / num_pairs; i++) {
			do_map(test, pair.va, pair.oa, pair.len);
			write_during(test, &pair, cut_hole);
			/* How often the cut came first */
			if (is_dirty(test, pair.hole_va))
				dirty++;
			else
				clean++;
			do_join(test, &pair);
			expect_dirty(test, &cut->dirtier);
			do_unmap(test, pair.va, pair.len);

			do_map(test, pair.va, pair.oa, pair.len);
			cut_hole(test, &pair);
			write_during(test, &pair, do_join);
			do_unmap(test, pair.va, pair.len);
		}
		stop_cut_thread(test);
	}
	kunit_info(test, "%lu cuts of dirty leaves, %lu of clean ones", dirty,
		   clean);
}

/* What is written during a cut or a join is dirty afterwards */
static void test_cut_dirty(struct kunit *test)
{
	cut_dirty(test, 500);
}

static void test_cut_dirty_long(struct kunit *test)
{
	cut_dirty(test, 5000);
}

/* A leaf that was not written to is cut into clean ones */
static void test_cut_keeps_clean(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_pair pair = {};

	if (!pt_dirty_supported(priv->common))
		kunit_skip(test,
			   "Page table features do not support dirty tracking");

	while (next_cut(test, &pair)) {
		do_map(test, pair.va, pair.oa, pair.len);
		do_cut(test, pair.hole_va, pair.hole_len);
		KUNIT_ASSERT_FALSE(test, is_dirty(test, pair.va));
		KUNIT_ASSERT_FALSE(test, is_dirty(test, pair.hole_va));
		do_unmap(test, pair.va, pair.len);
	}
}

/* All that a written leaf is cut into is dirty, whatever was written to */
static void test_cut_keeps_dirty(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_pair pair = {};
	unsigned int i;

	if (!pt_dirty_supported(priv->common) || !priv->iommu->ops->set_dirty)
		kunit_skip(test,
			   "Page table features do not support dirty tracking");

	while (next_cut(test, &pair)) {
		do_map(test, pair.va, pair.oa, pair.len);
		KUNIT_ASSERT_NO_ERRNO(
			test, priv->iommu->ops->set_dirty(
				      priv->iommu,
				      pair.va + (get_random_u64() &
						 (pair.len - 1))));
		do_cut(test, pair.hole_va, pair.hole_len);
		KUNIT_ASSERT_TRUE(test, is_dirty(test, pair.va));
		KUNIT_ASSERT_TRUE(test, is_dirty(test, pair.hole_va));
		KUNIT_ASSERT_TRUE(test,
				  is_dirty(test, pair.va + (pair.len - 1)));
		for (i = 0; i != 16; i++)
			KUNIT_ASSERT_TRUE(
				test, is_dirty(test, pair.va +
						     (get_random_u64() &
						      (pair.len - 1))));
		do_unmap(test, pair.va, pair.len);
	}
}

/* The table that range->va is translated by */
static int __last_table(struct pt_range *range, void *arg, unsigned int level,
			struct pt_table_p *table)
{
	struct pt_state pts = pt_init(range, level, table);

	if (pt_load_single_entry(&pts) == PT_ENTRY_TABLE)
		return pt_descend(&pts, arg, __last_table);
	*(struct pt_state *)arg = pts;
	return 0;
}

/* HW that still walks a table after the join marks what it writes in there */
static void test_join_dirty_in_old_table(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_pair pair = {};

	if (!pt_dirty_supported(priv->common))
		kunit_skip(test,
			   "Page table features do not support dirty tracking");

	while (next_pair(test, &pair)) {
		struct iommu_iotlb_gather gather;
		struct pt_range range;
		struct pt_state pts;

		if (!can_cut(test, &pair) || !expected_tables(test, &pair))
			continue;
		do_map(test, pair.va, pair.oa, pair.len);
		do_cut(test, pair.hole_va, pair.hole_len);
		range = pt_make_range(priv->common, pair.hole_va, pair.hole_va);
		KUNIT_ASSERT_NO_ERRNO(test, pt_walk_range(&range, __last_table,
							  &pts));

		iommu_iotlb_gather_init(&gather);
		KUNIT_ASSERT_NO_ERRNO(
			test, iommu_join(&priv->domain, pair.hole_va,
					 pair.hole_len, pair.va,
					 pair.va + pair.len - 1, &gather));
		KUNIT_ASSERT_TRUE(test, pt_entry_make_write_dirty(&pts));
		sync_gather(test, &gather);
		KUNIT_ASSERT_EQ(test, count_valids(test), 1);
		KUNIT_ASSERT_TRUE(test, is_dirty(test, pair.hole_va));
		do_unmap(test, pair.va, pair.len);
	}
}

/* What a table of the smallest leaves translates */
static pt_vaddr_t table_len(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct pt_range range = pt_top_range(priv->common);
	struct pt_state pts = pt_init(&range, 1, NULL);

	return log2_to_int(pt_table_item_lg2sz(&pts));
}

static int map_next_to_us(void *arg)
{
	struct kunit_cut_priv *cut = arg;
	struct cut_neighbour *neighbour = &cut->neighbour;

	while (!kthread_should_stop()) {
		/* Pairs with begin_turn() */
		unsigned int turn = smp_load_acquire(&neighbour->turn);

		if (!(turn & 1)) {
			cond_resched();
			continue;
		}
		neighbour->ret = iommu_map(&cut->base.domain, neighbour->va,
					   neighbour->oa, neighbour->len,
					   IOMMU_READ | IOMMU_WRITE,
					   GFP_KERNEL);
		/* Pairs with is_turn() */
		smp_store_release(&neighbour->turn, turn + 1);
	}
	return 0;
}

static void begin_turn(struct cut_neighbour *neighbour)
{
	/* Pairs with map_next_to_us() */
	smp_store_release(&neighbour->turn, neighbour->turn + 1);
}

static bool is_turn(struct cut_neighbour *neighbour)
{
	/* Pairs with map_next_to_us() */
	return smp_load_acquire(&neighbour->turn) & 1;
}

/*
 * Two pages in an empty item of a table, ours and the neighbour's, who maps it
 * while we do something with ours. Both are translated afterwards, or only the
 * neighbour's.
 */
static void race_for_item(struct kunit *test, bool cut_ours)
{
	struct kunit_cut_priv *cut = test->priv;
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_neighbour *neighbour = &cut->neighbour;
	struct cut_pair item = { .len = table_len(test) };
	pt_vaddr_t page = priv->smallest_pgsz;
	pt_oaddr_t oa = log2_set_mod(priv->test_oa, 0, vafls(item.len));
	unsigned int i, lost = 0;

	item.va = pt_top_range(priv->common).va + item.len;
	item.hole_va = item.va;
	item.hole_len = item.len;
	*neighbour = (struct cut_neighbour){ .va = item.va + page,
					     .oa = oa + page,
					     .len = page };
	/* For the table with the item to stay */
	do_map(test, item.va + item.len, oa, page);

	start_cut_thread(test, map_next_to_us, "cut_neighbour");
	for (i = 0; i != 500; i++) {
		struct iommu_pages_list reserve = IOMMU_PAGES_LIST_INIT(reserve);
		struct iommu_iotlb_gather gather;

		iommu_iotlb_gather_init(&gather);
		if (cut_ours) {
			KUNIT_ASSERT_NO_ERRNO(
				test, iommu_cut_reserve(&priv->domain, item.va,
							page, GFP_KERNEL,
							&reserve));
			begin_turn(neighbour);
			ndelay(get_random_u32_below(5000));
			KUNIT_ASSERT_NO_ERRNO(
				test, iommu_cut(&priv->domain, item.va, page,
						&reserve, &gather));
			lost += !iommu_pages_list_empty(&reserve);
			iommu_cut_unreserve(&priv->domain, &reserve);
			do_replace(test, item.va, oa, page,
				   IOMMU_READ | IOMMU_WRITE);
		} else {
			begin_turn(neighbour);
			do {
				KUNIT_ASSERT_NO_ERRNO(
					test, iommu_replace(&priv->domain,
							    item.va, 0, page, 0,
							    &gather));
				cond_resched();
			} while (is_turn(neighbour));
		}
		while (is_turn(neighbour))
			cond_resched();

		KUNIT_ASSERT_NO_ERRNO(test, neighbour->ret);
		KUNIT_ASSERT_EQ(test,
				iommu_iova_to_phys(&priv->domain,
						   neighbour->va),
				(phys_addr_t)neighbour->oa);
		KUNIT_ASSERT_EQ(test,
				iommu_iova_to_phys(&priv->domain, item.va),
				cut_ours ? (phys_addr_t)oa : 0);

		/* Empty again, without a table */
		do_replace(test, item.va, 0, 2 * page, 0);
		do_join(test, &item);
	}
	stop_cut_thread(test);
	if (cut_ours)
		kunit_info(test, "%u cuts, %u of which found a table", i, lost);
}

/* Who maps a page next to ours and who cuts ours both find their table */
static void test_cut_neighbour_maps(struct kunit *test)
{
	race_for_item(test, true);
}

/* Ours is made non-present where nothing is, which takes nothing from others */
static void test_replace_neighbour_maps(struct kunit *test)
{
	race_for_item(test, false);
}

static int come_and_go(void *arg)
{
	struct kunit_cut_priv *cut = arg;
	struct cut_neighbour *neighbour = &cut->neighbour;
	struct iommu_domain *domain = &cut->base.domain;
	pt_vaddr_t page = cut->base.smallest_pgsz;

	while (!kthread_should_stop()) {
		struct iommu_iotlb_gather gather;
		int ret;

		ret = iommu_map(domain, neighbour->va, neighbour->oa, page,
				IOMMU_READ | IOMMU_WRITE, GFP_KERNEL);
		if (!ret && iommu_iova_to_phys(domain, neighbour->va) !=
				    neighbour->oa)
			ret = -EFAULT;
		if (!ret && iommu_unmap(domain, neighbour->va, page) != page)
			ret = -ENOENT;

		/* And take the tables away */
		iommu_iotlb_gather_init(&gather);
		if (!ret)
			ret = iommu_join(domain, neighbour->va, page,
					 neighbour->va,
					 neighbour->va + neighbour->len - 1,
					 &gather);
		iommu_iotlb_sync(domain, &gather);
		if (ret)
			WRITE_ONCE(neighbour->ret, ret);
		WRITE_ONCE(neighbour->turn, neighbour->turn + 1);
		cond_resched();
	}
	return 0;
}

/*
 * The neighbour's tables come and go right after our leaf, which is cut at its
 * end. What is in them is none of our business, they may be gone.
 */
static void test_cut_neighbour_joins(struct kunit *test)
{
	struct iommu_pages_list none = IOMMU_PAGES_LIST_INIT(none);
	struct kunit_cut_priv *cut = test->priv;
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_neighbour *neighbour = &cut->neighbour;
	unsigned int num_pairs = count_pairs(test);
	unsigned int rounds = 0, turns = 0;
	struct iommu_iotlb_gather gather;
	struct cut_pair pair = {};
	unsigned int i, k;

	iommu_iotlb_gather_init(&gather);
	while (next_cut(test, &pair)) {
		if (!expected_tables(test, &pair))
			continue;
		pair.hole_va = pair.va + pair.len - pair.hole_len;
		*neighbour = (struct cut_neighbour){ .va = pair.va + pair.len,
						     .oa = pair.oa,
						     .len = pair.len };
		do_map(test, pair.va, pair.oa, pair.len);
		start_cut_thread(test, come_and_go, "cut_neighbour");
		while (!READ_ONCE(neighbour->turn))
			cond_resched();
		for (i = 0; i <= 500 / num_pairs; i++) {
			do_cut(test, pair.hole_va, pair.hole_len);
			/* There is nothing to do, but it has to look */
			for (k = 0; k != 100; k++)
				KUNIT_ASSERT_NO_ERRNO(
					test, iommu_cut(&priv->domain,
							pair.hole_va,
							pair.hole_len, &none,
							&gather));
			do_replace(test, pair.hole_va, 0, pair.hole_len, 0);
			check_around_hole(test, &pair);
			do_replace(test, pair.hole_va,
				   pair.oa + (pair.hole_va - pair.va),
				   pair.hole_len, IOMMU_READ | IOMMU_WRITE);
			do_join(test, &pair);
			KUNIT_ASSERT_EQ(test, leaf_lg2sz(test, pair.hole_va),
					pair.leaf_lg2);
			cond_resched();
		}
		stop_cut_thread(test);
		KUNIT_ASSERT_NO_ERRNO(test, neighbour->ret);
		rounds += i;
		turns += neighbour->turn;
		do_unmap(test, pair.va, pair.len);
	}
	kunit_info(test, "%u rounds, the neighbour did %u", rounds, turns);
}

#define CUT_MODEL_PAGES 2048

/* Random operations, compared with an array that says what each page is */
static void test_cut_random(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	unsigned int pgsz_lg2 = priv->smallest_pgsz_lg2;
	pt_vaddr_t len = log2_mul(CUT_MODEL_PAGES, pgsz_lg2);
	pt_oaddr_t oa = log2_set_mod(priv->test_oa, 0, vafls(len) + 1);
	pt_vaddr_t va = pt_top_range(priv->common).va + len;
	long nr_tables;
	unsigned int iter, i;
	phys_addr_t *model;

	model = kunit_kcalloc(test, CUT_MODEL_PAGES, sizeof(*model),
			      GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, model);
	do_map(test, va, oa, len);
	nr_tables = nr_secondary_pagetable();
	for (i = 0; i != CUT_MODEL_PAGES; i++)
		model[i] = oa + log2_mul(i, pgsz_lg2);

	for (iter = 0; iter != 1000; iter++) {
		unsigned int start = get_random_u32_below(CUT_MODEL_PAGES);
		unsigned int num = 1 + get_random_u32_below(
			1 << get_random_u32_below(12));
		unsigned int what = get_random_u32_below(4);
		struct iommu_iotlb_gather gather;
		pt_vaddr_t run_va, run_len;

		num = min(num, CUT_MODEL_PAGES - start);
		run_va = va + log2_mul(start, pgsz_lg2);
		run_len = log2_mul(num, pgsz_lg2);

		iommu_iotlb_gather_init(&gather);
		switch (what) {
		case 0:
			KUNIT_ASSERT_NO_ERRNO(
				test, iommu_join(&priv->domain, run_va, run_len,
						 va, va + len - 1, &gather));
			break;
		case 1:
			do_cut(test, run_va, run_len);
			break;
		case 2:
			do_cut(test, run_va, run_len);
			KUNIT_ASSERT_NO_ERRNO(
				test, iommu_replace(&priv->domain, run_va, 0,
						    run_len, 0, &gather));
			memset(model + start, 0, num * sizeof(*model));
			break;
		case 3:
			/* As it was at first, or other memory */
			do_cut(test, run_va, run_len);
			i = get_random_u32_below(4) ? 0 : CUT_MODEL_PAGES;
			if (iommu_replace(&priv->domain, run_va,
					  oa + log2_mul(start + i, pgsz_lg2),
					  run_len, IOMMU_READ | IOMMU_WRITE,
					  &gather))
				break;
			for (; num; num--, start++)
				model[start] =
					oa + log2_mul(start + i, pgsz_lg2);
			break;
		}
		sync_gather(test, &gather);

		for (i = iter % 16; i < CUT_MODEL_PAGES; i += 16)
			KUNIT_ASSERT_EQ(test,
					iommu_iova_to_phys(
						&priv->domain,
						va + log2_mul(i, pgsz_lg2)),
					model[i]);
		cond_resched();
	}

	/* Everything back, which takes no more tables than at first */
	for (i = 0; i != CUT_MODEL_PAGES; i++) {
		do_cut(test, va + log2_mul(i, pgsz_lg2), priv->smallest_pgsz);
		do_replace(test, va + log2_mul(i, pgsz_lg2),
			   oa + log2_mul(i, pgsz_lg2), priv->smallest_pgsz,
			   IOMMU_READ | IOMMU_WRITE);
	}
	do_join(test, &(struct cut_pair){ .va = va, .len = len, .hole_va = va,
					  .hole_len = len });
	check_iova(test, va, oa, len);
	KUNIT_ASSERT_EQ(test, nr_secondary_pagetable(), nr_tables);
	do_unmap(test, va, len);
}

#if IS_ENABLED(CONFIG_X86) && IS_ENABLED(CONFIG_KPROBES)
/* What CPUs' caches had of the table, and what a walk to the hole found then */
struct cut_flush {
	unsigned long start;
	unsigned long last;
	unsigned int num_syncs;
	struct pt_table_p *tables[PT_MAX_TOP_LEVEL + 1];
	unsigned int leaf_lg2;
};

struct cut_flushes {
	struct kprobe kp;
	struct task_struct *task;
	struct kunit_cut_priv *cut;
	pt_vaddr_t va;
	/* Since the last reset_flushes() */
	unsigned int num_syncs;
	unsigned int num;
	struct cut_flush flush[64];
};

static int __tables_to(struct pt_range *range, void *arg, unsigned int level,
		       struct pt_table_p *table)
{
	struct pt_state pts = pt_init(range, level, table);
	struct cut_flush *flush = arg;

	flush->tables[level] = table;
	switch (pt_load_single_entry(&pts)) {
	case PT_ENTRY_EMPTY:
		return 0;
	case PT_ENTRY_TABLE:
		return pt_descend(&pts, arg, __tables_to);
	case PT_ENTRY_OA:
		flush->leaf_lg2 = pt_entry_oa_lg2sz(&pts);
	}
	return 0;
}

static void walk_to(struct pt_common *common, pt_vaddr_t va,
		    struct cut_flush *flush)
{
	struct pt_range range = pt_make_range(common, va, va);

	memset(flush, 0, sizeof(*flush));
	pt_walk_range(&range, __tables_to, flush);
}

static int note_flush(struct kprobe *kp, struct pt_regs *regs)
{
	struct cut_flushes *flushes = container_of(kp, struct cut_flushes, kp);
	struct cut_flush *flush = &flushes->flush[flushes->num];

	if (current != flushes->task ||
	    flushes->num == ARRAY_SIZE(flushes->flush))
		return 0;

	walk_to(flushes->cut->base.common, flushes->va, flush);
	flush->start = regs_get_kernel_argument(regs, 0);
	flush->last = flush->start +
		      (unsigned int)regs_get_kernel_argument(regs, 1) - 1;
	flush->num_syncs = flushes->cut->num_syncs;
	flushes->num++;
	return 0;
}

static void unregister_kprobe_action(void *kp)
{
	unregister_kprobe(kp);
}

static struct cut_flushes *note_flushes(struct kunit *test)
{
	struct cut_flushes *flushes;

	flushes = kunit_kzalloc(test, sizeof(*flushes), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, flushes);
	flushes->kp.symbol_name = "clflush_cache_range";
	flushes->kp.pre_handler = note_flush;
	flushes->task = current;
	flushes->cut = test->priv;
	KUNIT_ASSERT_NO_ERRNO(test, register_kprobe(&flushes->kp));
	KUNIT_ASSERT_NO_ERRNO(test, kunit_add_action_or_reset(
					    test, unregister_kprobe_action,
					    &flushes->kp));
	return flushes;
}

static void reset_flushes(struct cut_flushes *flushes)
{
	flushes->num_syncs = flushes->cut->num_syncs;
	flushes->num = 0;
}

/* All of the table was flushed while HW could not find it yet */
static bool flushed_before(const struct cut_flushes *flushes,
			   struct pt_table_p *table, unsigned int level)
{
	unsigned long start = (unsigned long)table;
	unsigned int i;

	for (i = 0; i != flushes->num; i++)
		if (flushes->flush[i].tables[level] != table &&
		    flushes->flush[i].start <= start &&
		    flushes->flush[i].last >=
			    start + log2_to_int(PT_TABLEMEM_LG2SZ) - 1)
			return true;
	return false;
}

/*
 * The item for va was flushed when it had the table, or without that the leaf, and
 * before the IOTLB was
 */
static bool flushed_after(const struct cut_flushes *flushes,
			  unsigned int item_level, unsigned int leaf_lg2,
			  struct pt_table_p *table)
{
	unsigned int i;

	for (i = 0; i != flushes->num; i++) {
		const struct cut_flush *flush = &flushes->flush[i];
		struct pt_range range =
			pt_make_range(flushes->cut->base.common, flushes->va,
				      flushes->va);
		struct pt_state pts =
			pt_init(&range, item_level, flush->tables[item_level]);
		unsigned long item =
			(unsigned long)pts.table +
			pt_range_to_index(&pts) * PT_ITEM_WORD_SIZE;

		if (flush->num_syncs != flushes->num_syncs ||
		    flush->start > item ||
		    flush->last < item + PT_ITEM_WORD_SIZE - 1)
			continue;
		if (table ? flush->tables[item_level - 1] == table :
			    flush->leaf_lg2 == leaf_lg2)
			return true;
	}
	return false;
}

/*
 * HW that does not look into the caches of CPUs finds no table before what is in
 * it, and each change once the flush of the IOTLB begins
 */
static void test_cut_flushes_caches(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct cut_flushes *flushes;
	struct cut_pair pair = {};
	unsigned int num = 0;

	if (!pt_feature(priv->common, PT_FEAT_DMA_INCOHERENT))
		kunit_skip(test, "HW walks the caches of CPUs");

	flushes = note_flushes(test);
	while (next_cut(test, &pair)) {
		unsigned int leaf_level = pt_pgsz_lg2_to_level(
			priv->common, pair.leaf_lg2);
		unsigned int hole_level = pt_pgsz_lg2_to_level(
			priv->common, pair.hole_lg2);
		struct iommu_pages_list reserve = IOMMU_PAGES_LIST_INIT(reserve);
		struct cut_flush cut;
		unsigned int level;

		/* Contiguous entries need no table */
		if (hole_level == leaf_level)
			continue;
		do_map(test, pair.va, pair.oa, pair.len);
		flushes->va = pair.hole_va;
		/* A table is flushed when it is allocated, but empty */
		do_reserve(test, pair.hole_va, pair.hole_len, &reserve);
		reset_flushes(flushes);
		do_cut_reserved(test, pair.hole_va, pair.hole_len, &reserve);
		KUNIT_ASSERT_LT(test, flushes->num, ARRAY_SIZE(flushes->flush));
		walk_to(priv->common, pair.hole_va, &cut);
		KUNIT_ASSERT_EQ(test, cut.leaf_lg2, pair.hole_lg2);
		for (level = hole_level; level != leaf_level; level++)
			KUNIT_ASSERT_TRUE(test,
					  flushed_before(flushes,
							 cut.tables[level],
							 level));
		KUNIT_ASSERT_TRUE(test,
				  flushed_after(flushes, leaf_level, 0,
						cut.tables[leaf_level - 1]));

		reset_flushes(flushes);
		do_replace(test, pair.hole_va, 0, pair.hole_len, 0);
		KUNIT_ASSERT_TRUE(test, flushed_after(flushes, hole_level,
						      0, NULL));
		reset_flushes(flushes);
		do_replace(test, pair.hole_va,
			   pair.oa + (pair.hole_va - pair.va), pair.hole_len,
			   IOMMU_READ | IOMMU_WRITE);
		KUNIT_ASSERT_TRUE(test, flushed_after(flushes, hole_level,
						      pair.hole_lg2, NULL));

		reset_flushes(flushes);
		do_join(test, &pair);
		KUNIT_ASSERT_LT(test, flushes->num, ARRAY_SIZE(flushes->flush));
		KUNIT_ASSERT_TRUE(test, flushed_after(flushes, leaf_level,
						      pair.leaf_lg2, NULL));
		do_unmap(test, pair.va, pair.len);
		num++;
	}
	if (!num)
		kunit_skip(test, "Test needs two page sizes");
}
#endif

static struct kunit_case iommu_cut_test_cases[] = {
	KUNIT_CASE_FMT(test_cut_pairs),
	KUNIT_CASE_FMT(test_cut_empty),
	KUNIT_CASE_FMT(test_join_bounds),
	KUNIT_CASE_FMT(test_join_refuses),
	KUNIT_CASE_FMT(test_replace_refuses),
	KUNIT_CASE_FMT(test_cut_two_leaves),
	KUNIT_CASE_FMT(test_cut_end),
	KUNIT_CASE_FMT(test_cut_fewer_sizes),
	KUNIT_CASE_FMT(test_cut_nomem),
#if IS_ENABLED(CONFIG_X86) && IS_ENABLED(CONFIG_KPROBES)
	KUNIT_CASE_FMT(test_cut_flushes_caches),
#endif
	KUNIT_CASE_FMT(test_cut_reader),
	KUNIT_CASE_FMT(test_cut_by_unmap_is_seen),
	KUNIT_CASE_FMT(test_cut_dirty),
	KUNIT_CASE_FMT(test_cut_keeps_clean),
	KUNIT_CASE_FMT(test_cut_keeps_dirty),
	KUNIT_CASE_FMT(test_join_dirty_in_old_table),
	KUNIT_CASE_FMT(test_cut_neighbour_maps),
	KUNIT_CASE_FMT(test_replace_neighbour_maps),
	KUNIT_CASE_FMT(test_cut_neighbour_joins),
	KUNIT_CASE_FMT(test_cut_random),
	KUNIT_CASE_FMT_SLOW(test_cut_reader_long),
	KUNIT_CASE_FMT_SLOW(test_cut_dirty_long),
	{},
};

static int pt_kunit_cut_init(struct kunit *test)
{
	struct kunit_cut_priv *cut;
	long nr_tables;
	int ret;

	cut = kunit_kzalloc(test, sizeof(*cut), GFP_KERNEL);
	if (!cut)
		return -ENOMEM;

	/* A CPU that adds what it has counted takes it away first */
	do {
		nr_tables = nr_secondary_pagetable();
		fsleep(2000);
	} while (nr_tables != nr_secondary_pagetable());
	cut->base.orig_nr_secondary_pagetable = nr_tables;
	ret = pt_kunit_priv_init(test, &cut->base);
	if (ret) {
		kunit_kfree(test, cut);
		return ret;
	}
	cut->base.domain.ops = &kunit_cut_ops;
	cut->base.domain.dirty_ops = &kunit_cut_dirty_ops;
	test->priv = cut;
	return 0;
}

static void pt_kunit_cut_exit(struct kunit *test)
{
	struct kunit_cut_priv *cut = test->priv;

	/* A test that has failed has not done so */
	if (cut && cut->task)
		stop_cut_thread(test);
	pt_kunit_iommu_exit(test);
}

static struct kunit_suite NS(iommu_cut_suite) = {
	.name = __stringify(NS(iommu_cut_test)),
	.init = pt_kunit_cut_init,
	.exit = pt_kunit_cut_exit,
	.test_cases = iommu_cut_test_cases,
};
kunit_test_suites(&NS(iommu_cut_suite));
