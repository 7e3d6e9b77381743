// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of hugetlb_split: the order-0 folios that a hugetlb folio is broken
 * into are like any other, and the folio is what it was when it is together
 * again.
 *
 * Takes free pages of the pools, so there have to be some: hugepagesz=1G
 * hugepages=3 hugepagesz=2M hugepages=1000.  With fewer it takes more rounds.
 */
#include <kunit/test.h>

#include <linux/alloc_tag.h>
#include <linux/hugetlb.h>
#include <linux/mempolicy.h>
#include <linux/mm.h>
#include <linux/page_ext.h>
#include <linux/page_owner.h>
#include <linux/pgalloc_tag.h>
#include <linux/sizes.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "../hugetlb_split.h"
#include "../internal.h"

/* Where in memory a page is, which no two have to have in common. */
#define PLACE_FLAGS	(~(BIT(NR_PAGEFLAGS) - 1))

struct split_case {
	const char *name;
	unsigned long size;
	unsigned int nr;
};

static const struct split_case split_cases[] = {
	{ "2M", SZ_2M, 1000 },
	{ "1G", SZ_1G, 3 },
};

KUNIT_ARRAY_PARAM_DESC(split, split_cases, name);

/* What the test has of the folio now. */
struct split_test {
	struct hstate *h;
	struct folio *folio;
	struct hugetlb_split split;
	unsigned long nr_pages;
};

/* One of many that are split at once. */
struct split_one {
	struct folio *folio;
	struct hugetlb_split split;
	struct page *before;
};

static struct folio *take(struct split_test *t)
{
	struct mempolicy_interpreted mpoli = {
		.mode = MPOL_DEFAULT,
		.nid = numa_mem_id(),
	};
	struct folio *folio = hugetlb_take_folio(t->h, NULL, &mpoli);

	return IS_ERR(folio) ? NULL : folio;
}

static void vfree_action(void *addr)
{
	vfree(addr);
}

static struct page *alloc_copies(struct kunit *test, unsigned long nr_pages)
{
	struct page *copies = vcalloc(nr_pages, sizeof(struct page));

	KUNIT_ASSERT_NOT_NULL(test, copies);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, vfree_action, copies));
	return copies;
}

static struct split_test *split_test(struct kunit *test)
{
	const struct split_case *param = test->param_value;
	struct split_test *t;

	t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t);
	t->h = size_to_hstate(param->size);
	if (!t->h || t->h->free_huge_pages <= t->h->resv_huge_pages)
		kunit_skip(test, "no free page in the pool of %s", param->name);

	t->nr_pages = pages_per_huge_page(t->h);
	return t;
}

static void take_and_split(struct kunit *test, struct split_test *t)
{
	t->folio = take(t);
	KUNIT_ASSERT_NOT_NULL(test, t->folio);
	KUNIT_ASSERT_EQ(test, 0, hugetlb_split_folio(t->folio, &t->split));
}

static void join_and_put(struct kunit *test, struct split_test *t)
{
	KUNIT_ASSERT_TRUE(test, memory_failure_tryhold());
	hugetlb_join_folio(&t->split, NULL);
	memory_failure_release();
}

/*
 * What means nothing is left out: who is next to it in a list, and in pages that
 * struct folio has no fields for, what the buddy allocator or the boot has left.
 */
static void copy_pages(struct page *copies, struct folio *folio)
{
	unsigned long i;

	memcpy(copies, &folio->page, folio_nr_pages(folio) * sizeof(struct page));
	memset(&copies->lru, 0, sizeof(copies->lru));
	for (i = sizeof(struct folio) / sizeof(struct page); i < folio_nr_pages(folio); i++) {
		copies[i].lru.prev = NULL;
		copies[i].__folio_index = 0;
	}
}

static unsigned long first_difference(const struct page *before,
				      const struct page *after,
				      unsigned long nr_pages)
{
	unsigned long i;

	for (i = 0; i < nr_pages; i++)
		if (memcmp(&before[i], &after[i], sizeof(struct page)))
			break;
	return i;
}

static void split_and_join_at_once(struct kunit *test, struct split_test *t,
				   struct split_one *ones, unsigned int nr,
				   struct page *after)
{
	unsigned long free = t->h->free_huge_pages;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		ones[i].folio = take(t);
		KUNIT_ASSERT_NOT_NULL(test, ones[i].folio);
		copy_pages(ones[i].before, ones[i].folio);
	}
	for (i = 0; i < nr; i++)
		KUNIT_ASSERT_EQ(test, 0, hugetlb_split_folio(ones[i].folio,
							     &ones[i].split));

	KUNIT_ASSERT_TRUE(test, memory_failure_tryhold());
	for (i = 0; i < nr; i++)
		hugetlb_join_folio(&ones[i].split, NULL);
	memory_failure_release();
	KUNIT_ASSERT_EQ(test, free, t->h->free_huge_pages);

	/* The last that was given back is the first that is taken. */
	for (i = nr; i-- > 0;) {
		KUNIT_ASSERT_PTR_EQ(test, ones[i].folio, take(t));
		copy_pages(after, ones[i].folio);
		KUNIT_ASSERT_EQ_MSG(test, t->nr_pages,
				    first_difference(ones[i].before, after, t->nr_pages),
				    "the page with this number differs in folio %u", i);
	}
	for (i = 0; i < nr; i++)
		folio_put(ones[i].folio);
}

static void joined_folios_are_what_they_were(struct kunit *test)
{
	const struct split_case *param = test->param_value;
	struct split_test *t = split_test(test);
	unsigned int nr = min(param->nr, t->h->free_huge_pages - t->h->resv_huge_pages);
	struct page *after = alloc_copies(test, t->nr_pages);
	struct split_one *ones;
	unsigned int i, left;

	ones = kunit_kcalloc(test, nr, sizeof(*ones), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, ones);
	for (i = 0; i < nr; i++)
		ones[i].before = alloc_copies(test, t->nr_pages);

	for (left = param->nr; left; left -= min(left, nr))
		split_and_join_at_once(test, t, ones, min(left, nr), after);
}

static void expect_like(struct kunit *test, const struct page *page,
			const struct page *fresh, const struct page *head)
{
	KUNIT_ASSERT_EQ(test, fresh->flags.f & ~PLACE_FLAGS,
			page->flags.f & ~PLACE_FLAGS);
	KUNIT_ASSERT_EQ(test, head->flags.f & PLACE_FLAGS,
			page->flags.f & PLACE_FLAGS);
	KUNIT_ASSERT_PTR_EQ(test, fresh->mapping, page->mapping);
	KUNIT_ASSERT_EQ(test, fresh->private, page->private);
	KUNIT_ASSERT_EQ(test, atomic_read(&fresh->_mapcount),
			atomic_read(&page->_mapcount));
	KUNIT_ASSERT_EQ(test, 0, page_ref_count(page));
	KUNIT_ASSERT_FALSE(test, PageCompound(page));
#ifdef CONFIG_MEMCG
	KUNIT_ASSERT_EQ(test, head->memcg_data, page->memcg_data);
#endif
}

static void split_pages_are_like_fresh_ones(struct kunit *test)
{
	struct split_test *t = split_test(test);
	struct page *fresh = alloc_page(GFP_KERNEL);
	unsigned long i;

	KUNIT_ASSERT_NOT_NULL(test, fresh);
	take_and_split(test, t);
	for (i = 0; i < t->nr_pages; i++)
		expect_like(test, t->split.page + i, fresh, t->split.page);
	join_and_put(test, t);
	__free_page(fresh);
}

#ifdef CONFIG_PAGE_OWNER
/* What struct page_owner begins with is private to mm/page_owner.c. */
#define OWNER_ORDER_BYTES	(sizeof(unsigned short) + sizeof(short))

static void expect_owner_like(struct kunit *test, struct page *page,
			      struct page *like, size_t size)
{
	struct page_ext *ext = page_ext_get(page), *like_ext = page_ext_get(like);
	bool same;

	same = ext->flags == like_ext->flags &&
	       !memcmp(page_ext_data(ext, &page_owner_ops),
		       page_ext_data(like_ext, &page_owner_ops), size);
	page_ext_put(like_ext);
	page_ext_put(ext);
	KUNIT_ASSERT_TRUE_MSG(test, same, "page %lu of its folio",
			      page_to_pfn(page) % (1UL << PUD_ORDER));
}

static bool has_owner(struct page *page)
{
	struct page_ext *ext = page_ext_get(page);
	bool has = test_bit(PAGE_EXT_OWNER_ALLOCATED, &ext->flags);

	page_ext_put(ext);
	return has;
}

/*
 * The order and whether it was migrated are those of any page, all else is what
 * the huge page had.  Where it was split before the order can be nothing else,
 * so this comes first.  Pages that came at boot may have no owner.
 */
static void each_page_has_the_owner_of_the_allocation(struct kunit *test)
{
	struct split_test *t = split_test(test);
	struct page *fresh;
	unsigned long i;

	if (!static_branch_unlikely(&page_owner_inited))
		kunit_skip(test, "page_owner=on is not on the command line");

	take_and_split(test, t);
	if (!has_owner(t->split.page)) {
		join_and_put(test, t);
		kunit_skip(test, "the pool of this size has no owners");
	}
	fresh = alloc_page(GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fresh);
	for (i = 0; i < t->nr_pages; i++) {
		expect_owner_like(test, t->split.page + i, fresh, OWNER_ORDER_BYTES);
		expect_owner_like(test, t->split.page + i, t->split.page,
				  page_owner_ops.size);
	}
	join_and_put(test, t);
	__free_page(fresh);
}
#endif

static unsigned long nr_hugetlb(void)
{
	return global_node_page_state(NR_HUGETLB);
}

static void split_folio_is_not_counted_as_hugetlb_memory(struct kunit *test)
{
	struct split_test *t = split_test(test);
	unsigned long before = nr_hugetlb();

	take_and_split(test, t);
	KUNIT_EXPECT_EQ(test, before, nr_hugetlb());
	join_and_put(test, t);
	KUNIT_EXPECT_EQ(test, before, nr_hugetlb());
}

#ifdef CONFIG_MEM_ALLOC_PROFILING
/* Pages that came at boot may have no tag: they are taken from memblock. */
static void each_page_has_the_tag_of_the_allocation(struct kunit *test)
{
	struct split_test *t = split_test(test);
	struct alloc_tag_counters before, split_up, after;
	struct alloc_tag *tag;
	unsigned long i;

	if (!mem_alloc_profiling_enabled())
		kunit_skip(test, "sysctl.vm.mem_profiling=1 is not on the command line");

	t->folio = take(t);
	KUNIT_ASSERT_NOT_NULL(test, t->folio);
	tag = pgalloc_tag_get(&t->folio->page);
	if (!tag) {
		folio_put(t->folio);
		kunit_skip(test, "the pool of this size has no tags");
	}
	before = alloc_tag_read(tag);
	KUNIT_ASSERT_EQ(test, 0, hugetlb_split_folio(t->folio, &t->split));
	split_up = alloc_tag_read(tag);
	for (i = 0; i < t->nr_pages; i++)
		KUNIT_ASSERT_PTR_EQ(test, tag, pgalloc_tag_get(t->split.page + i));
	join_and_put(test, t);
	after = alloc_tag_read(tag);

	KUNIT_EXPECT_EQ(test, before.calls + t->nr_pages - 1, split_up.calls);
	KUNIT_EXPECT_EQ(test, before.bytes, split_up.bytes);
	KUNIT_EXPECT_EQ(test, before.calls, after.calls);
	KUNIT_EXPECT_EQ(test, before.bytes, after.bytes);
	KUNIT_EXPECT_PTR_EQ(test, tag, pgalloc_tag_get(t->split.page));
}
#endif

static void folio_that_somebody_has_is_not_split(struct kunit *test)
{
	struct split_test *t = split_test(test);
	unsigned long free = t->h->free_huge_pages;

	t->folio = take(t);
	KUNIT_ASSERT_NOT_NULL(test, t->folio);
	folio_get(t->folio);
	KUNIT_EXPECT_EQ(test, -EBUSY, hugetlb_split_folio(t->folio, &t->split));
	KUNIT_EXPECT_TRUE(test, folio_test_hugetlb(t->folio));
	folio_put(t->folio);
	folio_put(t->folio);
	KUNIT_EXPECT_EQ(test, free, t->h->free_huge_pages);
}

static struct kunit_case hugetlb_split_cases[] = {
#ifdef CONFIG_PAGE_OWNER
	KUNIT_CASE_PARAM(each_page_has_the_owner_of_the_allocation, split_gen_params),
#endif
	KUNIT_CASE_PARAM_ATTR(joined_folios_are_what_they_were, split_gen_params,
			      { .speed = KUNIT_SPEED_SLOW }),
	KUNIT_CASE_PARAM(split_pages_are_like_fresh_ones, split_gen_params),
	KUNIT_CASE_PARAM(split_folio_is_not_counted_as_hugetlb_memory, split_gen_params),
#ifdef CONFIG_MEM_ALLOC_PROFILING
	KUNIT_CASE_PARAM(each_page_has_the_tag_of_the_allocation, split_gen_params),
#endif
	KUNIT_CASE_PARAM(folio_that_somebody_has_is_not_split, split_gen_params),
	{}
};

static struct kunit_suite hugetlb_split_suite = {
	.name = "hugetlb_split",
	.test_cases = hugetlb_split_cases,
};

kunit_test_suite(hugetlb_split_suite);

MODULE_DESCRIPTION("KUnit tests of hugetlb_split");
MODULE_LICENSE("GPL");
