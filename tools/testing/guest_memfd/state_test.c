// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of mm/guest_memfd/state.c and state_change.c against a plain array with
 * a byte for each page.  Each group of tests runs in a process of its own, so
 * that a crash or a report of a sanitizer fails that group and no other.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/kernel.h>
#include <linux/bitops.h>
#include <linux/math.h>
#include <linux/gfp.h>
#include <linux/radix-tree.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "radix-tree.h"
#include "state.h"
#include "wrap.h"

#define LEAF_PAGES	(XA_CHUNK_SIZE << GMEM_UNIT_ORDER)
#define PAGES_1G	GMEM_CHUNK_PAGES

/* Many times what any group takes. */
#define GROUP_SECONDS	600

/* A node of 64 slots in a 64-bit kernel.  Bitmaps have the same size there. */
#define KERNEL_NODE_BYTES	576UL

/* Results */

enum test {
	/* random */
	TEST_IS_PRIVATE,
	TEST_ORDER,
	TEST_RUN_END,
	TEST_COUNT,
	TEST_COMMIT_ALLOCATES,
	TEST_SAME_IS_FREE,
	TEST_ABORT_MEMORY,
	TEST_MEMORY_OF_STATE,
	TEST_LEAK,
	/* enomem */
	TEST_ENOMEM_ERRNO,
	TEST_ENOMEM_STATE,
	TEST_ENOMEM_MEMORY,
	/* rejoin */
	TEST_REJOIN,
	/* readers */
	TEST_READERS_CHANGED,
	TEST_READERS_STABLE,
	TEST_READERS_BOUNDS,
	/* destroy */
	TEST_DESTROY_READERS,
	TEST_DESTROY_MEMORY,
	/* steps */
	TEST_SPARSE_STEPS,
	/* bytes */
	TEST_BYTES_INITIAL,
	TEST_BYTES_MIXED,
	TEST_BYTES_HOLE,
	/* all of them */
	TEST_WARNINGS,
	NR_TESTS,
};

static const char * const test_names[NR_TESTS] = {
	[TEST_IS_PRIVATE] = "is_private agrees with the array",
	[TEST_ORDER] = "order agrees with the array",
	[TEST_RUN_END] = "run_end agrees with the array",
	[TEST_COUNT] = "count_private agrees with the array",
	[TEST_COMMIT_ALLOCATES] = "commit and abort never allocate",
	[TEST_SAME_IS_FREE] = "a change to what is already there allocates nothing",
	[TEST_ABORT_MEMORY] = "abort leaves the memory as it was",
	[TEST_MEMORY_OF_STATE] = "memory depends on the state, not on its history",
	[TEST_LEAK] = "every object is either in the xarray or freed",
	[TEST_ENOMEM_ERRNO] = "prepare says -ENOMEM whichever allocation fails",
	[TEST_ENOMEM_STATE] = "a failed prepare leaves the state as it was",
	[TEST_ENOMEM_MEMORY] = "a failed prepare leaves the memory as it was",
	[TEST_REJOIN] = "there and back leaves the memory as it was",
	[TEST_READERS_CHANGED] = "readers see a changing page in its old or new state",
	[TEST_READERS_STABLE] = "readers never see a change on another page",
	[TEST_READERS_BOUNDS] = "run_end, order and count_private stay in bounds next to changes",
	[TEST_DESTROY_READERS] = "readers next to destroy see the old or the initial state",
	[TEST_DESTROY_MEMORY] = "destroy frees everything",
	[TEST_SPARSE_STEPS] = "a run in a sparse 1 TiB file takes no step for each unit",
	[TEST_BYTES_INITIAL] = "state-bytes goal: nothing while in the initial state",
	[TEST_BYTES_MIXED] = "state-bytes goal: 128 bytes for 2 MiB when all are mixed",
	[TEST_BYTES_HOLE] = "state-bytes goal: 2 KiB for one hole, files up to 512 GiB",
	[TEST_WARNINGS] = "no warning from the code under test",
};

struct result {
	bool ran;
	unsigned long failures;
	char why[256];
};

/* Shared with the process of each group. */
static struct result *results;

static unsigned long seed = 1;
static unsigned long nr_random_ops = 1200000;
static unsigned int seconds = 6;

/* Where a failure happened: the current operation of the random test. */
static char where[128];

static __printf(3, 4)
void expect(enum test test, bool ok, const char *why, ...)
{
	struct result *result = &results[test];
	va_list args;

	if (ok || __atomic_fetch_add(&result->failures, 1, __ATOMIC_RELAXED))
		return;

	va_start(args, why);
	vsnprintf(result->why, sizeof(result->why), why, args);
	va_end(args);
	if (*where)
		snprintf(result->why + strlen(result->why),
			 sizeof(result->why) - strlen(result->why), ", %s",
			 where);
}

void test_warn(const char *file, int line, const char *what)
{
	expect(TEST_WARNINGS, false, "%s:%d: %s", file, line, what);
}

/* Random numbers, the same for the same seed on any libc */

static u64 random_state;

static u64 random_next(u64 *state)
{
	u64 x = *state += 0x9e3779b97f4a7c15;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

static unsigned long random_below(unsigned long limit)
{
	return random_next(&random_state) % limit;
}

/* The slab, as the code under test and the xarray see it */

static struct {
	unsigned long attempts;
	unsigned long fail_after;
	long allocated;
	bool forbidden;
	bool no_wait_works;
} slab = { .fail_after = ULONG_MAX };

static struct kmem_cache *bitmap_cachep;

void *__wrap_kmem_cache_alloc_lru(struct kmem_cache *cachep,
				  struct list_lru *lru, int gfp)
{
	if (cachep != radix_tree_node_cachep)
		bitmap_cachep = cachep;

	expect(TEST_COMMIT_ALLOCATES, !slab.forbidden, "an allocation");
	if (slab.attempts++ >= slab.fail_after)
		return NULL;
	if (!(gfp & __GFP_DIRECT_RECLAIM) && !slab.no_wait_works)
		return NULL;

	/* Give freed objects back to malloc(), so that ASan sees their use. */
	cachep->align = sizeof(long);
	__atomic_fetch_add(&slab.allocated, 1, __ATOMIC_RELAXED);
	return __real_kmem_cache_alloc_lru(cachep, lru,
					   gfp | __GFP_DIRECT_RECLAIM);
}

void __wrap_kmem_cache_free(struct kmem_cache *cachep, void *object)
{
	__atomic_fetch_sub(&slab.allocated, 1, __ATOMIC_RELAXED);
	__real_kmem_cache_free(cachep, object);
}

/* The same for all, there is only one kind of object. */
static size_t bitmap_rcu_offset;

static void free_bitmap(struct rcu_head *head)
{
	kmem_cache_free(bitmap_cachep, (char *)head - bitmap_rcu_offset);
}

void test_kfree_rcu(void *object, size_t rcu_head_offset)
{
	bitmap_rcu_offset = rcu_head_offset;
	call_rcu(object + rcu_head_offset, free_bitmap);
}

struct objects {
	unsigned long nodes;
	unsigned long bitmaps;
};

static void count_entry(const void *entry, struct objects *objects)
{
	const struct xa_node *node;
	unsigned int i;

	if (entry && !xa_is_value(entry) && !xa_is_internal(entry))
		objects->bitmaps++;
	if (!xa_is_node(entry))
		return;

	node = xa_to_node(entry);
	objects->nodes++;
	for (i = 0; i < XA_CHUNK_SIZE; i++)
		if (!node->shift && xa_is_node(node->slots[i]))
			expect(TEST_LEAK, false, "a node below a leaf");
		else
			count_entry(node->slots[i], objects);
}

/* What is in the xarray; what waits for a grace period doesn't count. */
static struct objects count_objects(const struct gmem_state *state)
{
	struct objects objects = {};

	count_entry(state->units.xa_head, &objects);
	return objects;
}

static bool same_objects(struct objects a, struct objects b)
{
	return a.nodes == b.nodes && a.bitmaps == b.bitmaps;
}

static unsigned long kernel_bytes(struct objects objects)
{
	unsigned long bitmap_bytes = bitmap_cachep ? bitmap_cachep->size : 0;

	return objects.nodes * KERNEL_NODE_BYTES +
	       objects.bitmaps * bitmap_bytes;
}

static void expect_no_leak(enum test test, const struct gmem_state *state)
{
	struct objects objects = count_objects(state);

	rcu_barrier();
	expect(test, slab.allocated == objects.nodes + objects.bitmaps,
	       "%ld objects, %lu nodes and %lu bitmaps in the xarray",
	       slab.allocated, objects.nodes, objects.bitmaps);
}

static void start_group(void)
{
	rcu_register_thread();
	radix_tree_init();
	if (gmem_state_cache_init())
		abort();
	random_state = seed;
}

/* Changes that must work */

static void set_range(struct gmem_state *state, pgoff_t start, pgoff_t end,
		      bool private)
{
	struct gmem_state_update update;
	pgoff_t next;

	for (; start < end; start = next) {
		next = min(end, round_down(start, GMEM_CHUNK_PAGES) +
				GMEM_CHUNK_PAGES);
		if (gmem_state_prepare(state, &update, start, next, private))
			abort();
		slab.forbidden = true;
		gmem_state_commit(&update);
		slab.forbidden = false;
	}
}

/* The model: windows of a file, everything else stays initial */

#define NR_WINDOWS 3

struct layout {
	const char *name;
	struct {
		pgoff_t base;
		pgoff_t nr;
	} windows[NR_WINDOWS];
};

static const struct layout layouts[] = {
	{ "1 page", { { 0, 1 } } },
	{ "2 MiB", { { 0, 512 } } },
	{ "6 MiB and 5 pages", { { 0, 3 * 512 + 5 } } },
	{ "256 MiB less 1 page", { { 0, 2 * LEAF_PAGES - 1 } } },
	{ "1 GiB", { { 0, PAGES_1G } } },
	{ "2 GiB and 777 pages", { { 0, 2 * PAGES_1G + 777 } } },
	{ "1 TiB, sparse", {
		{ 0, LEAF_PAGES + 3 },
		{ 64 * PAGES_1G, PAGES_1G + 12345 },
		{ 1023 * PAGES_1G, PAGES_1G },
	} },
};

struct model {
	const struct layout *layout;
	bool initial;
	unsigned char *pages[NR_WINDOWS];
};

/* Up to the end of the chunk: order looks there. */
static size_t window_bytes(const struct layout *layout, int w)
{
	return round_up(layout->windows[w].nr, GMEM_CHUNK_PAGES);
}

static void model_init(struct model *model, const struct layout *layout,
		       bool initial)
{
	int w;

	model->layout = layout;
	model->initial = initial;
	for (w = 0; w < NR_WINDOWS; w++) {
		model->pages[w] = malloc(window_bytes(layout, w));
		memset(model->pages[w], initial, window_bytes(layout, w));
	}
}

static void model_free(struct model *model)
{
	int w;

	for (w = 0; w < NR_WINDOWS; w++)
		free(model->pages[w]);
}

static unsigned char *model_page(const struct model *model, pgoff_t index)
{
	const struct layout *layout = model->layout;
	int w;

	for (w = 0; w < NR_WINDOWS; w++)
		if (index >= layout->windows[w].base &&
		    index - layout->windows[w].base < window_bytes(layout, w))
			return model->pages[w] + index - layout->windows[w].base;
	abort();
}

static pgoff_t model_run_end(const struct model *model, pgoff_t index,
			     pgoff_t end)
{
	unsigned char *page = model_page(model, index);
	unsigned char *other = memchr(page, !*page, end - index);

	return other ? index + (other - page) : end;
}

static unsigned int model_order(const struct model *model, pgoff_t index)
{
	static const unsigned int orders[] = { 18, 9 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		pgoff_t start = round_down(index, 1UL << orders[i]);
		pgoff_t end = start + (1UL << orders[i]);

		if (model_run_end(model, start, end) == end)
			return orders[i];
	}
	return 0;
}

static pgoff_t model_count(const struct model *model, pgoff_t start,
			   pgoff_t end)
{
	unsigned char *page = model_page(model, start);
	pgoff_t i, count = 0;

	for (i = 0; i < end - start; i++)
		count += page[i];
	return count;
}

/* Checks of one state against its model */

static void check_page(struct gmem_state *state, const struct model *model,
		       pgoff_t index)
{
	bool private = gmem_state_is_private(state, index);

	expect(TEST_IS_PRIVATE, private == *model_page(model, index),
	       "page %#lx is %d", index, private);
}

static void check_order(struct gmem_state *state, const struct model *model,
			pgoff_t index)
{
	unsigned int order = gmem_state_order(state, index);
	unsigned int wanted = model_order(model, index);

	expect(TEST_ORDER, order == wanted, "page %#lx has order %u, not %u",
	       index, order, wanted);
}

static void check_run_end(struct gmem_state *state, const struct model *model,
			  pgoff_t index, pgoff_t end)
{
	pgoff_t wanted = model_run_end(model, index, end);
	bool private;
	pgoff_t next = gmem_state_run_end(state, index, end, &private);

	expect(TEST_RUN_END,
	       next == wanted && private == *model_page(model, index),
	       "%#lx..%#lx gives %#lx, not %#lx", index, end, next, wanted);
}

static void check_count(struct gmem_state *state, const struct model *model,
			pgoff_t start, pgoff_t end)
{
	pgoff_t count = gmem_state_count_private(state, start, end);
	pgoff_t wanted = model_count(model, start, end);

	expect(TEST_COUNT, count == wanted, "%#lx..%#lx gives %lu, not %lu",
	       start, end, count, wanted);
}

/* Returns the number of private pages in all windows. */
static pgoff_t check_window(struct gmem_state *state, const struct model *model,
			    int w)
{
	pgoff_t base = model->layout->windows[w].base;
	pgoff_t end = base + model->layout->windows[w].nr;
	pgoff_t index;

	for (index = base; index < end; index++)
		check_page(state, model, index);
	for (index = base; index < end;
	     index = model_run_end(model, index, end)) {
		check_run_end(state, model, index, end);
		check_order(state, model, index);
	}
	check_count(state, model, base, end);
	return model_count(model, base, end);
}

static void check_everything(struct gmem_state *state,
			     const struct model *model)
{
	const struct layout *layout = model->layout;
	pgoff_t wanted = 0, nr = 0, end = 0, count;
	int w;

	for (w = 0; w < NR_WINDOWS && layout->windows[w].nr; w++) {
		wanted += check_window(state, model, w);
		nr += layout->windows[w].nr;
		end = layout->windows[w].base + layout->windows[w].nr;
	}

	/* What is between the windows was never touched. */
	if (model->initial)
		wanted += end - nr;
	count = gmem_state_count_private(state, 0, end);
	expect(TEST_COUNT, count == wanted, "the file gives %lu, not %lu",
	       count, wanted);
}

/* random: changes at random, compared after each */

struct op {
	int window;
	pgoff_t base;
	pgoff_t limit;
	pgoff_t start;
	pgoff_t end;
	bool private;
};

static pgoff_t random_focus;

static void choose_range(struct op *op)
{
	unsigned int kind = random_below(16);
	pgoff_t nr = op->limit - op->base;
	pgoff_t start = op->base + random_below(nr);
	pgoff_t align = 1, pages = 1 + random_below(8);

	/* Stay close for a while, or units would seldom become uniform. */
	if (random_below(64) && random_focus >= op->base &&
	    random_focus < op->limit)
		start = random_focus;
	else
		random_focus = start;

	switch (kind) {
	case 0 ... 6:
		start += random_below(16);
		break;
	case 7:
		pages = 1 + random_below(2000);
		break;
	case 8 ... 9:
		align = GMEM_UNIT_PAGES;
		pages = GMEM_UNIT_PAGES;
		break;
	case 10:
		align = GMEM_UNIT_PAGES;
		pages = (1 + random_below(2 * XA_CHUNK_SIZE)) *
			GMEM_UNIT_PAGES;
		break;
	case 11 ... 12:
		align = LEAF_PAGES;
		pages = LEAF_PAGES * (1 + random_below(3));
		break;
	case 13:
		align = LEAF_PAGES;
		pages = LEAF_PAGES + random_below(LEAF_PAGES);
		break;
	case 14:
		pages = 1 + random_below(GMEM_CHUNK_PAGES);
		break;
	case 15:
		align = GMEM_CHUNK_PAGES;
		pages = GMEM_CHUNK_PAGES;
		break;
	}

	start = min(start, op->limit - 1);
	op->start = max(op->base, round_down(start, align));
	op->end = min(op->limit, op->start + pages);
	op->end = min(op->end, round_down(op->start, GMEM_CHUNK_PAGES) +
			       GMEM_CHUNK_PAGES);
}

static void choose_op(struct op *op, const struct layout *layout)
{
	do {
		op->window = random_below(NR_WINDOWS);
	} while (!layout->windows[op->window].nr);

	op->base = layout->windows[op->window].base;
	op->limit = op->base + layout->windows[op->window].nr;
	op->private = random_below(2);
	choose_range(op);
}

static void apply_to_model(struct model *model, const struct op *op)
{
	memset(model_page(model, op->start), op->private, op->end - op->start);
}

static bool changes_nothing(const struct model *model, const struct op *op)
{
	return *model_page(model, op->start) == op->private &&
	       model_run_end(model, op->start, op->end) == op->end;
}

static void apply(struct gmem_state *state, struct model *model,
		  const struct op *op)
{
	bool nothing = changes_nothing(model, op);
	struct gmem_state_update update;
	unsigned long attempts;

	slab.no_wait_works = random_below(2);
	attempts = slab.attempts;
	if (gmem_state_prepare(state, &update, op->start, op->end, op->private))
		abort();
	expect(TEST_SAME_IS_FREE, !nothing || slab.attempts == attempts,
	       "%lu allocations", slab.attempts - attempts);

	slab.forbidden = true;
	gmem_state_commit(&update);
	slab.forbidden = false;
	apply_to_model(model, op);
}

static void prepare_and_abort(struct gmem_state *state,
			      const struct model *model, const struct op *op)
{
	struct objects before = count_objects(state), after;
	struct gmem_state_update update;

	if (gmem_state_prepare(state, &update, op->start, op->end, op->private))
		abort();
	check_page(state, model, op->start);
	check_run_end(state, model, op->start, op->end);
	check_order(state, model, op->end - 1);
	check_count(state, model, op->start,
		    min(op->end, op->start + 4096));

	slab.forbidden = true;
	gmem_state_abort(&update);
	slab.forbidden = false;

	after = count_objects(state);
	expect(TEST_ABORT_MEMORY, same_objects(before, after),
	       "%lu nodes were %lu", after.nodes, before.nodes);
}

static void check_after_op(struct gmem_state *state, const struct model *model,
			   const struct op *op)
{
	pgoff_t nr = op->limit - op->base;
	pgoff_t index, end;
	int i;

	for (index = op->start; index < op->end; index++) {
		check_page(state, model, index);
		if (op->end - op->start > 32)
			index += random_below((op->end - op->start) / 16);
	}
	check_page(state, model, op->end - 1);
	if (op->start > op->base)
		check_page(state, model, op->start - 1);
	if (op->end < op->limit)
		check_page(state, model, op->end);
	for (i = 0; i < 4; i++)
		check_page(state, model, op->base + random_below(nr));

	check_order(state, model, op->start);
	check_order(state, model, op->base + random_below(nr));

	index = op->start;
	if (random_below(2))
		index -= min(index - op->base, random_below(3000));
	check_run_end(state, model, index, op->limit);
	end = min(op->limit, index + 1 + random_below(4096));
	check_run_end(state, model, index, end);
	check_count(state, model, index, end);
}

/* Build the same state in another order and compare what it takes. */
static void check_memory(struct gmem_state *state, const struct model *model)
{
	const struct layout *layout = model->layout;
	struct objects objects, fresh_objects;
	struct gmem_state fresh;
	int w;

	gmem_state_init(&fresh, model->initial);
	for (w = NR_WINDOWS - 1; w >= 0; w--) {
		pgoff_t index = layout->windows[w].base;
		pgoff_t end = index + layout->windows[w].nr, next;

		for (; index < end; index = next) {
			next = model_run_end(model, index, end);
			set_range(&fresh, index, next,
				  *model_page(model, index));
		}
	}

	objects = count_objects(state);
	fresh_objects = count_objects(&fresh);
	expect(TEST_MEMORY_OF_STATE, same_objects(objects, fresh_objects),
	       "%lu nodes and %lu bitmaps, %lu and %lu if built afresh",
	       objects.nodes, objects.bitmaps, fresh_objects.nodes,
	       fresh_objects.bitmaps);
	gmem_state_destroy(&fresh);
}

/* One state by two ways, the way that is worth its own test first. */
static void compare_histories(struct gmem_state *state,
			      struct gmem_state *plain, const char *what)
{
	struct objects objects = count_objects(state);
	struct objects plain_objects = count_objects(plain);

	expect(TEST_MEMORY_OF_STATE, same_objects(objects, plain_objects),
	       "%s: %lu nodes, %lu without the detour", what, objects.nodes,
	       plain_objects.nodes);
	gmem_state_destroy(state);
	gmem_state_destroy(plain);
}

static void check_histories(void)
{
	struct gmem_state state, plain;
	pgoff_t i;

	gmem_state_init(&state, true);
	gmem_state_init(&plain, true);

	/* The first leaf is the root, and has no parent when it's full. */
	for (i = 0; i < LEAF_PAGES; i += GMEM_UNIT_PAGES)
		set_range(&state, i, i + GMEM_UNIT_PAGES, false);
	set_range(&state, 9 * PAGES_1G, 9 * PAGES_1G + 1, false);
	set_range(&plain, 0, LEAF_PAGES, false);
	set_range(&plain, 9 * PAGES_1G, 9 * PAGES_1G + 1, false);
	compare_histories(&state, &plain, "leaf unit by unit");

	/* The first leaf has a parent, and needs none when it's split. */
	set_range(&state, 0, 2 * LEAF_PAGES, false);
	set_range(&state, LEAF_PAGES, 2 * LEAF_PAGES, true);
	set_range(&state, 5, 6, true);
	for (i = 0; i < LEAF_PAGES; i += GMEM_UNIT_PAGES)
		set_range(&plain, i, i + GMEM_UNIT_PAGES, false);
	set_range(&plain, 5, 6, true);
	compare_histories(&state, &plain, "leaf with a neighbour");

	/* The tree is grown above a leaf of bitmaps that becomes uniform. */
	for (i = 0; i < LEAF_PAGES; i += GMEM_UNIT_PAGES)
		set_range(&state, i, i + 1, false);
	set_range(&state, 0, LEAF_PAGES, false);
	set_range(&plain, 0, LEAF_PAGES, false);
	compare_histories(&state, &plain, "leaf of mixed units");
}

static void random_run(const struct layout *layout, bool initial,
		       unsigned long nr_ops)
{
	struct gmem_state state;
	struct model model;
	unsigned long i;

	gmem_state_init(&state, initial);
	model_init(&model, layout, initial);

	for (i = 0; i < nr_ops; i++) {
		struct op op;

		choose_op(&op, layout);
		snprintf(where, sizeof(where),
			 "file of %s, initially %d, op %lu: %#lx..%#lx to %d",
			 layout->name, initial, i, op.start, op.end,
			 op.private);

		if (random_below(8))
			apply(&state, &model, &op);
		else
			prepare_and_abort(&state, &model, &op);

		check_after_op(&state, &model, &op);
		if (!(i % 1024))
			check_memory(&state, &model);
		if (!(i % 32768))
			rcu_barrier();
	}

	check_everything(&state, &model);
	check_memory(&state, &model);
	expect_no_leak(TEST_LEAK, &state);
	gmem_state_destroy(&state);
	expect_no_leak(TEST_LEAK, &state);
	model_free(&model);
	*where = 0;
}

static void group_random(void)
{
	unsigned long nr_ops = nr_random_ops / (2 * ARRAY_SIZE(layouts)) + 1;
	unsigned int i;

	check_histories();
	for (i = 0; i < 2 * ARRAY_SIZE(layouts); i++)
		random_run(&layouts[i / 2], i % 2, nr_ops);
}

/* enomem: every allocation of a change fails in turn */

static void fail_each_allocation(struct gmem_state *state,
				 const struct model *model,
				 const struct op *op)
{
	struct objects before = count_objects(state), after;
	struct gmem_state_update update;
	unsigned long nr;
	int err;

	for (nr = 0; nr < 1000; nr++) {
		slab.attempts = 0;
		slab.fail_after = nr;
		err = gmem_state_prepare(state, &update, op->start, op->end,
					 op->private);
		slab.fail_after = ULONG_MAX;
		if (!err)
			break;

		after = count_objects(state);
		expect(TEST_ENOMEM_ERRNO, err == -ENOMEM, "error %d", err);
		expect(TEST_ENOMEM_MEMORY, same_objects(before, after),
		       "allocation %lu: %lu nodes were %lu", nr, after.nodes,
		       before.nodes);
		expect(TEST_ENOMEM_STATE,
		       gmem_state_is_private(state, op->start) ==
				*model_page(model, op->start) &&
		       gmem_state_count_private(state, op->base, op->limit) ==
				model_count(model, op->base, op->limit),
		       "allocation %lu", nr);
	}

	/* An error that was swallowed would have ended the loop too early. */
	expect(TEST_ENOMEM_ERRNO, slab.attempts <= nr,
	       "success with a failed allocation");
	gmem_state_abort(&update);
}

static void enomem_run(const struct layout *layout, bool initial)
{
	struct gmem_state state;
	struct model model;
	int i;

	gmem_state_init(&state, initial);
	model_init(&model, layout, initial);

	for (i = 0; i < 400; i++) {
		struct op op;

		choose_op(&op, layout);
		snprintf(where, sizeof(where),
			 "file of %s, initially %d, op %d: %#lx..%#lx to %d",
			 layout->name, initial, i, op.start, op.end,
			 op.private);

		slab.no_wait_works = i & 1;
		fail_each_allocation(&state, &model, &op);
		apply(&state, &model, &op);
		if (!random_below(50)) {
			/* Back to an empty tree: the deepest paths to build. */
			gmem_state_destroy(&state);
			memset(model.pages[0], initial, window_bytes(layout, 0));
			memset(model.pages[1], initial, window_bytes(layout, 1));
			memset(model.pages[2], initial, window_bytes(layout, 2));
		}
	}

	expect_no_leak(TEST_ENOMEM_MEMORY, &state);
	gmem_state_destroy(&state);
	model_free(&model);
	*where = 0;
}

static void group_enomem(void)
{
	unsigned int i;

	for (i = 0; i < 2 * ARRAY_SIZE(layouts); i++)
		enomem_run(&layouts[i / 2], i % 2);
}

/* rejoin: there and back */

static const struct {
	pgoff_t start;
	pgoff_t end;
} there_and_back[] = {
	{ 0, 1 },
	{ 511, 513 },
	{ 0, 512 },
	{ 5 * 512, 6 * 512 + 7 },
	{ LEAF_PAGES - 1, LEAF_PAGES + 1 },
	{ 0, LEAF_PAGES },
	{ 3, 2 * LEAF_PAGES + 3 },
	{ 0, PAGES_1G },
	{ 1, PAGES_1G - 1 },
	{ 64 * PAGES_1G + 9, 64 * PAGES_1G + 10 },
	{ 64 * PAGES_1G, 65 * PAGES_1G },
	{ 1023 * PAGES_1G + 4711, 1023 * PAGES_1G + 4712 },
	{ 1024 * PAGES_1G - 1, 1024 * PAGES_1G },
};

static void rejoin(struct gmem_state *state, bool from)
{
	struct objects before = count_objects(state), after;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(there_and_back); i++) {
		pgoff_t start = there_and_back[i].start;
		pgoff_t end = there_and_back[i].end;

		set_range(state, start, end, !from);
		set_range(state, start, end, from);
		after = count_objects(state);
		expect(TEST_REJOIN, same_objects(before, after),
		       "%#lx..%#lx from %d: %lu nodes were %lu", start, end,
		       from, after.nodes, before.nodes);
	}
}

static void group_rejoin(void)
{
	struct gmem_state state;
	int initial;

	for (initial = 0; initial < 2; initial++) {
		gmem_state_init(&state, initial);
		rejoin(&state, initial);
		expect_no_leak(TEST_REJOIN, &state);

		/* The same with all of the file in the other state. */
		set_range(&state, 0, 1024 * PAGES_1G, !initial);
		rejoin(&state, !initial);
		set_range(&state, 0, 1024 * PAGES_1G, initial);
		expect(TEST_REJOIN, xa_empty(&state.units), "not empty");
		gmem_state_destroy(&state);
	}
}

/* readers: without any lock, while one writer makes changes */

#define NR_READERS	3
#define RACE_PAGES	(2 * PAGES_1G)

/*
 * The low bits of @sequence: 0 is idle, 1 is a change on its way, 2 is @pages
 * being brought up to date.  A reader that finds the same value before and
 * after it looked knows which change it may have seen a part of.
 */
static struct race {
	struct gmem_state state;
	atomic_ulong sequence;
	atomic_ulong start;
	atomic_ulong end;
	atomic_bool private;
	atomic_bool stop;
	atomic_ulong nr_looks;
	atomic_ulong nr_in_change;
	enum test test_changed;
	unsigned char *pages;
} race;

static bool look_is_stable(unsigned long sequence)
{
	atomic_thread_fence(memory_order_seq_cst);
	return atomic_load(&race.sequence) == sequence;
}

static void look_at_page(pgoff_t index)
{
	unsigned long sequence = atomic_load(&race.sequence);
	bool private, old, in_change, may_be;

	if (sequence & 2)
		return;

	old = __atomic_load_n(&race.pages[index], __ATOMIC_SEQ_CST);
	in_change = (sequence & 1) && index >= atomic_load(&race.start) &&
		    index < atomic_load(&race.end);
	may_be = in_change ? atomic_load(&race.private) : old;
	private = gmem_state_is_private(&race.state, index);
	if (!look_is_stable(sequence))
		return;

	atomic_fetch_add(&race.nr_looks, 1);
	atomic_fetch_add(&race.nr_in_change, in_change);
	expect(in_change ? race.test_changed : TEST_READERS_STABLE,
	       private == old || private == may_be,
	       "page %#lx is %d, was %d", index, private, old);
}

static void look_at_run(pgoff_t index)
{
	pgoff_t end = min(RACE_PAGES, index + 1 + (index * 7919) % PAGES_1G);
	unsigned int order;
	pgoff_t count, next;
	bool private;

	next = gmem_state_run_end(&race.state, index, end, &private);
	expect(TEST_READERS_BOUNDS, next > index && next <= end,
	       "run %#lx..%#lx ends at %#lx", index, end, next);
	order = gmem_state_order(&race.state, index);
	expect(TEST_READERS_BOUNDS, order == 0 || order == 9 || order == 18,
	       "order %u", order);
	count = gmem_state_count_private(&race.state, index, end);
	expect(TEST_READERS_BOUNDS, count <= end - index,
	       "%lu of %lu pages", count, end - index);
}

static void *reader(void *arg)
{
	u64 random = seed + (unsigned long)arg;
	unsigned long i, n;

	rcu_register_thread();
	while (!atomic_load(&race.stop)) {
		/* Half of all looks go next to the change. */
		pgoff_t start = atomic_load(&race.start);
		pgoff_t end = atomic_load(&race.end);

		for (i = 0; i < 64; i++) {
			n = random_next(&random);
			look_at_page(n % RACE_PAGES);
			if (start >= end)
				continue;
			n = start + (n >> 20) % (end - start + 4 * LEAF_PAGES);
			look_at_page((n + RACE_PAGES - 2 * LEAF_PAGES) %
				     RACE_PAGES);
			look_at_page((start + i % 4) % RACE_PAGES);
		}
		look_at_run(random_next(&random) % RACE_PAGES);
	}
	rcu_unregister_thread();
	return NULL;
}

static void start_race(pthread_t *readers, bool initial)
{
	unsigned long i;

	memset(&race, 0, sizeof(race));
	race.test_changed = TEST_READERS_CHANGED;
	race.pages = malloc(RACE_PAGES);
	memset(race.pages, initial, RACE_PAGES);
	gmem_state_init(&race.state, initial);
	slab.no_wait_works = true;
	for (i = 0; i < NR_READERS; i++)
		pthread_create(&readers[i], NULL, reader, (void *)i);
}

static void end_race(pthread_t *readers, const char *what)
{
	int i;

	atomic_store(&race.stop, true);
	for (i = 0; i < NR_READERS; i++)
		pthread_join(readers[i], NULL);
	gmem_state_destroy(&race.state);
	free(race.pages);
	printf("# %s: %lu changes, %lu looks, %lu at pages in a change\n", what,
	       atomic_load(&race.sequence) / 4, atomic_load(&race.nr_looks),
	       atomic_load(&race.nr_in_change));
}

static void announce(pgoff_t start, pgoff_t end, bool private)
{
	atomic_store(&race.start, start);
	atomic_store(&race.end, end);
	atomic_store(&race.private, private);
	atomic_fetch_add(&race.sequence, 1);
}

static void settle(pgoff_t start, pgoff_t end, bool private)
{
	pgoff_t i;

	atomic_fetch_add(&race.sequence, 1);
	for (i = start; i < end; i++)
		__atomic_store_n(&race.pages[i], private, __ATOMIC_RELAXED);
	atomic_fetch_add(&race.sequence, 2);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void race_run(bool initial, double duration)
{
	static const struct layout layout = { "", { { 0, RACE_PAGES } } };
	pthread_t readers[NR_READERS];
	double end = now() + duration;
	struct op op;

	start_race(readers, initial);
	while (now() < end) {
		struct gmem_state_update update;

		choose_op(&op, &layout);
		announce(op.start, op.end, op.private);
		if (gmem_state_prepare(&race.state, &update, op.start, op.end,
				       op.private))
			abort();
		if (random_below(8)) {
			gmem_state_commit(&update);
			settle(op.start, op.end, op.private);
		} else {
			gmem_state_abort(&update);
			settle(op.start, op.start, op.private);
		}
	}
	end_race(readers, "readers");
}

static void group_readers(void)
{
	race_run(false, seconds / 2.0);
	race_run(true, seconds / 2.0);
	expect(TEST_READERS_CHANGED, slab.attempts, "nothing happened");
}

/* destroy: next to readers */

static void group_destroy(void)
{
	pthread_t readers[NR_READERS];
	double end = now() + seconds / 3.0;
	int i;

	start_race(readers, false);
	race.test_changed = TEST_DESTROY_READERS;
	while (now() < end) {
		announce(0, RACE_PAGES, true);
		set_range(&race.state, 0, PAGES_1G, true);
		for (i = 0; i < 200; i++)
			set_range(&race.state, PAGES_1G + i * 700,
				  PAGES_1G + i * 700 + 1 + i, true);
		settle(0, 0, true);
		for (i = 0; i < 200; i++)
			memset(race.pages + PAGES_1G + i * 700, true, 1 + i);
		memset(race.pages, true, PAGES_1G);

		announce(0, RACE_PAGES, false);
		gmem_state_destroy(&race.state);
		settle(0, RACE_PAGES, false);
		expect_no_leak(TEST_DESTROY_MEMORY, &race.state);
		expect(TEST_DESTROY_MEMORY, xa_empty(&race.state.units),
		       "not empty");
	}
	end_race(readers, "destroy");
}

/* steps: cost follows entries, not the size of the file */

static void group_steps(void)
{
	struct gmem_state state;
	unsigned long i;
	bool private;
	double start;

	gmem_state_init(&state, true);
	set_range(&state, 1023 * PAGES_1G + 5, 1023 * PAGES_1G + 6, false);

	/* A step for each of 512 Ki units would take minutes, and this 10 ms. */
	start = now();
	for (i = 0; i < 10000 && now() - start < 5; i++)
		expect(TEST_SPARSE_STEPS,
		       gmem_state_run_end(&state, 0, 1024 * PAGES_1G, &private) ==
		       1023 * PAGES_1G + 5, "wrong end");
	expect(TEST_SPARSE_STEPS, i == 10000, "only %lu runs in 5 s", i);
	gmem_state_destroy(&state);
}

/* bytes: what it costs, with the sizes of the objects in the kernel */

static void print_bytes(const char *what, unsigned long ours,
			unsigned long goal)
{
	printf("state-bytes %s %lu %lu %s\n", what, ours, goal,
	       ours <= goal ? "MET" : "MISSED");
}

static unsigned long bytes_initial(void)
{
	struct gmem_state state;
	unsigned long bytes;

	/* As created, and as it is again after all of it was converted. */
	gmem_state_init(&state, true);
	set_range(&state, 1024 * PAGES_1G - 1, 1024 * PAGES_1G, false);
	set_range(&state, 0, PAGES_1G, false);
	set_range(&state, 0, 1024 * PAGES_1G, true);
	bytes = kernel_bytes(count_objects(&state));
	gmem_state_destroy(&state);
	return bytes;
}

static unsigned long bytes_mixed(pgoff_t pages)
{
	unsigned long units = pages / GMEM_UNIT_PAGES, bytes;
	struct gmem_state state;
	pgoff_t i;

	gmem_state_init(&state, true);
	for (i = 0; i < pages; i += GMEM_UNIT_PAGES)
		set_range(&state, i + 17, i + 18, false);
	bytes = kernel_bytes(count_objects(&state));
	gmem_state_destroy(&state);
	return (bytes + units - 1) / units;
}

/* One page in another state than all of the rest, which is in state @rest. */
static unsigned long bytes_hole(pgoff_t pages, pgoff_t hole, bool rest)
{
	struct gmem_state state;
	unsigned long bytes;

	gmem_state_init(&state, true);
	set_range(&state, 0, pages, rest);
	bytes = kernel_bytes(count_objects(&state));
	set_range(&state, hole, hole + 1, !rest);
	bytes = kernel_bytes(count_objects(&state)) - bytes;
	gmem_state_destroy(&state);
	return bytes;
}

static const struct {
	const char *name;
	pgoff_t pages;
} hole_sizes[] = {
	{ "1GiB", PAGES_1G },
	{ "64GiB", 64 * PAGES_1G },
	{ "512GiB", 512 * PAGES_1G },
	{ "1TiB", 1024 * PAGES_1G },
};

static void group_bytes(void)
{
	unsigned long initial = bytes_initial();
	unsigned long mixed = bytes_mixed(64 * PAGES_1G);
	unsigned int i;

	expect(TEST_BYTES_INITIAL, !initial, "%lu bytes", initial);
	expect(TEST_BYTES_MIXED, mixed <= 128, "%lu bytes", mixed);
	print_bytes("uniform-initial", initial, 0);
	print_bytes("mixed-per-2MiB-of-64GiB", mixed, 128);
	print_bytes("mixed-per-2MiB-of-2MiB", bytes_mixed(GMEM_UNIT_PAGES), 128);

	for (i = 0; i < ARRAY_SIZE(hole_sizes); i++) {
		pgoff_t pages = hole_sizes[i].pages;
		/* The last unit: the worst place. */
		unsigned long bytes = bytes_hole(pages, pages - 1, true);
		char what[64];

		snprintf(what, sizeof(what), "hole-in-initial-%s",
			 hole_sizes[i].name);
		print_bytes(what, bytes, 2048);
		if (pages <= 512 * PAGES_1G)
			expect(TEST_BYTES_HOLE, bytes <= 2048,
			       "%lu bytes at the end of %s", bytes,
			       hole_sizes[i].name);

		bytes = bytes_hole(pages, pages - 1, false);
		snprintf(what, sizeof(what), "hole-in-converted-%s",
			 hole_sizes[i].name);
		print_bytes(what, bytes, 2048);
		expect(TEST_BYTES_HOLE, bytes <= 2048, "%lu bytes in %s", bytes,
		       hole_sizes[i].name);
	}
}

/* Groups */

static const struct group {
	const char *name;
	void (*run)(void);
	enum test first;
	enum test last;
} groups[] = {
	{ "random", group_random, TEST_IS_PRIVATE, TEST_LEAK },
	{ "enomem", group_enomem, TEST_ENOMEM_ERRNO, TEST_ENOMEM_MEMORY },
	{ "rejoin", group_rejoin, TEST_REJOIN, TEST_REJOIN },
	{ "readers", group_readers, TEST_READERS_CHANGED, TEST_READERS_BOUNDS },
	{ "destroy", group_destroy, TEST_DESTROY_READERS, TEST_DESTROY_MEMORY },
	{ "steps", group_steps, TEST_SPARSE_STEPS, TEST_SPARSE_STEPS },
	{ "bytes", group_bytes, TEST_BYTES_INITIAL, TEST_BYTES_HOLE },
};

/* Returns true if the group came to its end. */
static bool run_group(const struct group *group)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		/* Whatever hangs is not a reason for all to hang. */
		alarm(GROUP_SECONDS);
		start_group();
		group->run();
		exit(0);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && !status;
}

static bool report(enum test test, const char *group, bool ended)
{
	const struct result *result = &results[test];
	bool ok = ended && !result->failures;

	printf("%sok %d - %s: %s\n", ok ? "" : "not ", test + 1, group,
	       test_names[test]);
	if (result->failures)
		printf("# %lu failures, first: %s\n", result->failures,
		       result->why);
	else if (!ended)
		printf("# the group did not come to its end, seed %lu\n", seed);
	return ok;
}

static int run_all(const char *only)
{
	bool ok = true, all_ended = true;
	unsigned int i;
	int test;

	printf("TAP version 13\n1..%d\n", NR_TESTS);
	printf("# seed %lu, %lu random operations, nodes of %lu slots\n", seed,
	       nr_random_ops, XA_CHUNK_SIZE);
	for (i = 0; i < ARRAY_SIZE(groups); i++) {
		const struct group *group = &groups[i];
		double start = now();
		bool ended;

		if ((only && strcmp(only, group->name)) ||
		    (group->run == group_bytes && XA_CHUNK_SHIFT != 6)) {
			for (test = group->first; test <= group->last; test++)
				printf("ok %d - %s # SKIP\n", test + 1,
				       test_names[test]);
			continue;
		}
		ended = run_group(group);
		all_ended &= ended;
		for (test = group->first; test <= group->last; test++)
			ok &= report(test, group->name, ended);
		printf("# %s: %.1f s\n", group->name, now() - start);
	}
	ok &= report(TEST_WARNINGS, "all", all_ended);
	return ok ? 0 : 1;
}

static int usage(const char *name)
{
	printf("%s [--seed N] [--ops N] [--seconds N] [--only GROUP] [--bytes]\n",
	       name);
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "ops", required_argument, NULL, 'o' },
		{ "seconds", required_argument, NULL, 't' },
		{ "only", required_argument, NULL, 'g' },
		{ "bytes", no_argument, NULL, 'b' },
		{ }
	};
	const char *only = NULL;
	int option;

	results = mmap(NULL, sizeof(*results) * NR_TESTS, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (results == MAP_FAILED)
		return 1;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			seed = strtoul(optarg, NULL, 0);
			break;
		case 'o':
			nr_random_ops = strtoul(optarg, NULL, 0);
			break;
		case 't':
			seconds = atoi(optarg);
			break;
		case 'g':
			only = optarg;
			break;
		case 'b':
			start_group();
			group_bytes();
			return 0;
		default:
			return usage(argv[0]);
		}
	}
	return run_all(only);
}
