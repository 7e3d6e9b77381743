// SPDX-License-Identifier: GPL-2.0-only
/*
 * What it costs to change IOMMU page tables, in instructions: a module that is
 * done when it is loaded. What it has to say is in the kernel's log, in the
 * lines that rig/bench wants, which are "KEY OURS PEER RATIO GOAL MET|MISSED",
 * or begin with #. To be run like convert_bench. FORMAT is mock, which is amdv1
 * with other sizes, or vtdss. Peers are functions of the base's generic_pt.
 *
 * iopte-refresh.FORMAT
 *	4 KiB in a leaf of 1 GiB made non-present (memory for the tables, cut,
 *	replace) and mapped again (replace, join), average of both directions.
 *	iotlb_sync(), twice there and once back, does nothing but free tables.
 *	Peer: the leaf unmapped and all but the page mapped; all unmapped and the
 *	leaf mapped. A device cannot go on meanwhile.
 *
 * iopte-tables.FORMAT
 *	Page tables that this takes, and that it takes for a page that is cut
 *	already.
 *
 * map-range.FORMAT, map-pages.FORMAT
 *	256 pages of 4 KiB mapped and unmapped, in one call each or one by one.
 */
#define pr_fmt(fmt) "iopte_bench: " fmt
#include <linux/generic_pt/iommu.h>
#include <linux/iommu.h>
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <asm/msr.h>
#include "iommu-pages.h"
#include "iopte_bench.h"

#define ROUNDS 15

/* The leaf, and the page in it */
#define LEAF_IOVA ((unsigned long)SZ_1G)
#define LEAF_PA ((phys_addr_t)SZ_1G * 5)
#define HOLE (SZ_512M + SZ_2M + SZ_4K)
#define HOLE_IOVA (LEAF_IOVA + HOLE)
#define HOLE_PA (LEAF_PA + HOLE)

#define RW (IOMMU_READ | IOMMU_WRITE)

void iopte_bench_sync(struct iommu_domain *domain,
		      struct iommu_iotlb_gather *gather)
{
	iommu_put_pages_list(&gather->freelist);
}

static void free_domain(struct iommu_domain *domain)
{
	if (!domain)
		return;
	pt_iommu_deinit(iommupt_from_domain(domain));
	kfree(domain);
}

static u64 clock_cost;

static u64 since(u64 begin)
{
	return rdtsc() - begin - clock_cost;
}

static int start_clock(void)
{
	u64 empty = U64_MAX, loop = U64_MAX, begin;
	unsigned long count;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		begin = rdtsc();
		empty = min(empty, rdtsc() - begin);
	}
	clock_cost = empty;

	for (i = 0; i < ROUNDS; i++) {
		count = 10000;
		begin = rdtsc();
		asm volatile("1: dec %0; jnz 1b" : "+r" (count));
		loop = min(loop, since(begin));
	}
	if (loop < 19800 || loop > 20200) {
		pr_err("20000 instructions took %llu: this is not rig/boot --icount\n",
		       loop);
		return -EINVAL;
	}
	return 0;
}

/* The parts of what is measured, each the least of all rounds */
enum { CUT, AWAY, BACK, NUM_PARTS };

struct cost {
	u64 parts[NUM_PARTS];
	u64 sum;
	unsigned int tables;
	unsigned int tables_again;
};

static void take_least(struct cost *least, const struct cost *cost)
{
	int i;

	for (i = 0; i < NUM_PARTS; i++)
		least->parts[i] = min(least->parts[i], cost->parts[i]);
	least->sum = min(least->sum, cost->sum);
	least->tables = cost->tables;
	least->tables_again = cost->tables_again;
}

static int cut(struct iommu_domain *domain, unsigned int *tables)
{
	struct iommu_pages_list reserve = IOMMU_PAGES_LIST_INIT(reserve);
	struct iommu_iotlb_gather gather;
	int ret;

	iommu_iotlb_gather_init(&gather);
	ret = iommu_cut_reserve(domain, HOLE_IOVA, SZ_4K, GFP_KERNEL, &reserve);
	if (ret)
		return ret;
	*tables = list_count_nodes(&reserve.pages);
	ret = iommu_cut(domain, HOLE_IOVA, SZ_4K, &reserve, &gather);
	iommu_cut_unreserve(domain, &reserve);
	iommu_iotlb_sync(domain, &gather);
	return ret;
}

static int refresh(struct iommu_domain *domain, struct cost *cost)
{
	struct iommu_iotlb_gather gather;
	u64 begin;
	int ret;

	begin = rdtsc();
	ret = cut(domain, &cost->tables);
	cost->parts[CUT] = since(begin);
	if (ret)
		return ret;
	ret = cut(domain, &cost->tables_again);
	if (ret)
		return ret;

	begin = rdtsc();
	iommu_iotlb_gather_init(&gather);
	ret = iommu_replace(domain, HOLE_IOVA, 0, SZ_4K, 0, &gather);
	iommu_iotlb_sync(domain, &gather);
	cost->parts[AWAY] = since(begin);
	if (ret || iommu_iova_to_phys(domain, HOLE_IOVA))
		return ret ?: -EINVAL;

	begin = rdtsc();
	iommu_iotlb_gather_init(&gather);
	ret = iommu_replace(domain, HOLE_IOVA, HOLE_PA, SZ_4K, RW, &gather);
	if (!ret)
		ret = iommu_join(domain, HOLE_IOVA, SZ_4K, LEAF_IOVA,
				 LEAF_IOVA + SZ_1G - 1, &gather);
	iommu_iotlb_sync(domain, &gather);
	cost->parts[BACK] = since(begin);
	if (ret || iommu_iova_to_phys(domain, HOLE_IOVA) != HOLE_PA)
		return ret ?: -EINVAL;
	return 0;
}

static int map(struct iommu_domain *domain, unsigned long iova, phys_addr_t pa,
	       size_t size)
{
	return iommu_map(domain, iova, pa, size, RW, GFP_KERNEL);
}

static int unmap(struct iommu_domain *domain, unsigned long iova, size_t size)
{
	return iommu_unmap(domain, iova, size) == size ? 0 : -EINVAL;
}

/* The same without: everything is non-present for a while, twice */
static int remap(struct iommu_domain *domain, struct cost *cost)
{
	const size_t after = SZ_1G - HOLE - SZ_4K;
	u64 begin;
	int ret;

	begin = rdtsc();
	ret = unmap(domain, LEAF_IOVA, SZ_1G) ?:
	      map(domain, LEAF_IOVA, LEAF_PA, HOLE) ?:
	      map(domain, HOLE_IOVA + SZ_4K, HOLE_PA + SZ_4K, after);
	cost->parts[AWAY] = since(begin);
	if (ret)
		return ret;

	begin = rdtsc();
	ret = unmap(domain, LEAF_IOVA, HOLE) ?:
	      unmap(domain, HOLE_IOVA + SZ_4K, after) ?:
	      map(domain, LEAF_IOVA, LEAF_PA, SZ_1G);
	cost->parts[BACK] = since(begin);
	return ret;
}

#define PAGES 256

static int map_range(struct iommu_domain *domain, struct cost *cost)
{
	u64 begin;
	int ret;

	begin = rdtsc();
	ret = map(domain, LEAF_IOVA, LEAF_PA, PAGES * SZ_4K);
	cost->parts[BACK] = since(begin);
	if (ret)
		return ret;

	begin = rdtsc();
	ret = unmap(domain, LEAF_IOVA, PAGES * SZ_4K);
	cost->parts[AWAY] = since(begin);
	return ret;
}

static int map_pages(struct iommu_domain *domain, struct cost *cost)
{
	unsigned long i;
	u64 begin;
	int ret;

	begin = rdtsc();
	for (i = 0; i < PAGES; i++) {
		ret = map(domain, LEAF_IOVA + i * SZ_4K, LEAF_PA + i * SZ_4K,
			  SZ_4K);
		if (ret)
			return ret;
	}
	cost->parts[BACK] = since(begin);

	begin = rdtsc();
	for (i = 0; i < PAGES; i++) {
		ret = unmap(domain, LEAF_IOVA + i * SZ_4K, SZ_4K);
		if (ret)
			return ret;
	}
	cost->parts[AWAY] = since(begin);
	return 0;
}

static int measure(struct iommu_domain *domain, struct cost *least,
		   int (*fn)(struct iommu_domain *domain, struct cost *cost))
{
	int i, part, ret;

	memset(least, 0xff, sizeof(*least));
	for (i = 0; i < ROUNDS; i++) {
		struct cost cost = {};

		ret = fn(domain, &cost);
		if (ret)
			return ret;
		for (part = 0; part < NUM_PARTS; part++)
			cost.sum += cost.parts[part];
		take_least(least, &cost);
	}
	return 0;
}

/* ratio: in hundredths */
static void print_key(const char *key, const char *format, u64 ours, u64 peer,
		      u64 ratio, const char *goal, bool met)
{
	pr_info("%s.%s %llu %llu %llu.%02llux %s %s\n", key, format, ours,
		peer, ratio / 100, ratio % 100, goal, met ? "MET" : "MISSED");
}

static void print_parts(const char *key, const char *format, const char *who,
			const struct cost *cost)
{
	pr_info("# %s.%s %s: cut %llu, away %llu, back %llu\n", key, format,
		who, cost->parts[CUT], cost->parts[AWAY], cost->parts[BACK]);
}

static int compare_maps(const char *key, const char *format,
			struct iommu_domain *ours, struct iommu_domain *base,
			int (*fn)(struct iommu_domain *domain, struct cost *cost))
{
	struct cost our_cost, base_cost;
	int ret;

	ret = measure(ours, &our_cost, fn) ?: measure(base, &base_cost, fn);
	if (ret)
		return ret;
	print_parts(key, format, "ours", &our_cost);
	print_parts(key, format, "peer", &base_cost);
	print_key(key, format, our_cost.sum, base_cost.sum,
		  DIV_ROUND_UP(100 * our_cost.sum, base_cost.sum), "<=1.00x",
		  our_cost.sum <= base_cost.sum);
	return 0;
}

static int bench(const char *format, struct iommu_domain *ours,
		 struct iommu_domain *base)
{
	struct cost our_cost, base_cost;
	int ret;

	if (!ours || !base)
		return -ENOMEM;
	ret = map(ours, LEAF_IOVA, LEAF_PA, SZ_1G) ?:
	      map(base, LEAF_IOVA, LEAF_PA, SZ_1G) ?:
	      measure(ours, &our_cost, refresh) ?:
	      measure(base, &base_cost, remap) ?:
	      unmap(ours, LEAF_IOVA, SZ_1G) ?:
	      unmap(base, LEAF_IOVA, SZ_1G);
	if (ret)
		return ret;
	print_parts("iopte-refresh", format, "ours", &our_cost);
	base_cost.parts[CUT] = 0;
	print_parts("iopte-refresh", format, "peer", &base_cost);
	print_key("iopte-refresh", format, our_cost.sum / 2, base_cost.sum / 2,
		  100 * base_cost.sum / our_cost.sum, "<=40000",
		  our_cost.sum / 2 <= 40000);
	pr_info("iopte-tables.%s %u/%u - - 2/0 %s\n", format, our_cost.tables,
		our_cost.tables_again,
		our_cost.tables == 2 && !our_cost.tables_again ? "MET" : "MISSED");

	/* Or they are mapped with larger ones */
	ours->pgsize_bitmap = SZ_4K;
	base->pgsize_bitmap = SZ_4K;
	return compare_maps("map-range", format, ours, base, map_range) ?:
	       compare_maps("map-pages", format, ours, base, map_pages);
}

static int __init iopte_bench_init(void)
{
	struct iommu_domain *domains[] = {
		mock_ours(), mock_base(), vtdss_ours(), vtdss_base(),
	};
	int i, ret;

	ret = start_clock() ?: bench("mock", domains[0], domains[1]) ?:
	      bench("vtdss", domains[2], domains[3]);
	for (i = 0; i < ARRAY_SIZE(domains); i++)
		free_domain(domains[i]);
	return ret;
}
module_init(iopte_bench_init);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Instructions that changes to IOMMU page tables take");
