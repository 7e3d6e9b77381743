// SPDX-License-Identifier: GPL-2.0-only
/*
 * Conversions of a guest_memfd of which each allocation fails once, in every
 * shape that the state of the file may have before and after.
 *
 * A conversion for which there is no memory has not happened: states, content
 * and the number of pages are as they were, except in chunks (aligned GiB)
 * before that of error_offset, which are done.
 */
#include "guest_memfd_fail_nth.h"
#include "guest_memfd_harness.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define UNIT		((u64)SZ_2M / GMEM_PAGE_SIZE)
/* As many units as one xarray node holds entries. */
#define LEAF		(64 * UNIT)
#define CHUNK		((u64)SZ_1G / GMEM_PAGE_SIZE)

#define SMALL_FILE	(4 * UNIT)
#define LEAF_FILE	(2 * LEAF)
#define CHUNKS_FILE	(3 * CHUNK)
/* Four levels of xarray nodes. */
#define FAR_FILE	(1024 * CHUNK)

struct range {
	u64 first;
	u64 nr;
};

/*
 * A conversion, by what it finds.  Pages are either in the initial state of the
 * file, or marked as being in the other one.  The xarray tries twice to get a
 * node: what needs nodes only gets over a failure, but not over two.
 */
struct shape {
	u64 nr_pages;
	struct range marked[2];
	struct range change;
	bool to_initial;
	enum outcome one_fails;
	enum outcome rest_fails;
};

#define MAX_WATCHED	16

/**
 * struct conversion - one that is under test
 * @shape: what it is like
 * @initial_private: the initial state of the file
 * @watched: pages of which state and content are known
 * @nr_watched: how many
 * @error_page: what the last error was at
 * @stopped_half_way: an error has left a part converted
 */
struct conversion {
	const struct shape *shape;
	bool initial_private;
	u64 watched[MAX_WATCHED];
	unsigned int nr_watched;
	u64 error_page;
	bool stopped_half_way;
};

static bool in_range(struct range range, u64 n)
{
	return n >= range.first && n < range.first + range.nr;
}

/* Is the page in the state that is not the initial one? */
static bool is_marked(const struct shape *shape, u64 n, u64 changed_end)
{
	if (in_range(shape->change, n) && n < changed_end)
		return !shape->to_initial;
	return in_range(shape->marked[0], n) || in_range(shape->marked[1], n);
}

/* All but the outermost pages of a range are like their neighbours. */
static void watch_range(struct conversion *cv, struct range range)
{
	const u64 pages[] = {
		range.first - 1, range.first, range.first + range.nr / 2,
		range.first + range.nr - 1, range.first + range.nr,
	};
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		for (j = 0; j < cv->nr_watched; j++)
			if (cv->watched[j] == pages[i])
				break;
		if (j == cv->nr_watched && pages[i] < cv->shape->nr_pages)
			cv->watched[cv->nr_watched++] = pages[i];
	}
}

static void set_state(struct env *env, struct range range, bool marked)
{
	struct conversion *cv = env->data;

	if (!range.nr)
		return;
	if (marked != cv->initial_private)
		gmem_pages_to_private(env->fd, range.first, range.nr);
	else
		gmem_pages_to_shared(env->fd, range.first, range.nr);
}

static void prepare_conversion(struct env *env)
{
	struct conversion *cv = env->data;
	const struct shape *shape = cv->shape;
	unsigned int i;

	if (!env->mem) {
		remap(env);
		cv->nr_watched = 0;
		watch_range(cv, shape->change);
		for (i = 0; i < ARRAY_SIZE(shape->marked); i++)
			if (shape->marked[i].nr)
				watch_range(cv, shape->marked[i]);
		if (shape->nr_pages <= CHUNKS_FILE)
			set_slot(env, 0, shape->nr_pages);
	}

	for (i = 0; i < cv->nr_watched; i++) {
		gmem_pages_to_shared(env->fd, cv->watched[i], 1);
		gmem_stamp(page(env, cv->watched[i]), i + 1);
		set_state(env, (struct range){ cv->watched[i], 1 }, false);
	}

	set_state(env, shape->marked[0], true);
	set_state(env, shape->marked[1], true);
}

static int convert(struct env *env)
{
	struct conversion *cv = env->data;
	struct range range = cv->shape->change;
	bool private = cv->shape->to_initial == cv->initial_private;
	u64 error_offset;
	int ret;

	ret = __gmem_set_memory_attributes(env->fd, range.first * GMEM_PAGE_SIZE,
					   range.nr * GMEM_PAGE_SIZE,
					   private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
					   &error_offset);
	cv->error_page = error_offset / GMEM_PAGE_SIZE;
	return ret ? errno : 0;
}

static u64 marked_below(const struct shape *shape, u64 end)
{
	u64 nr = 0, n;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(shape->marked); i++) {
		const struct range *range = &shape->marked[i];

		nr += range->nr;
		for (n = range->first; n < range->first + range->nr; n++)
			if (in_range(shape->change, n) && n < end)
				nr--;
	}
	if (!shape->to_initial && end > shape->change.first)
		nr += min(end, shape->change.first + shape->change.nr) -
		      shape->change.first;
	return nr;
}

/* The pages of the change are converted up to @end, and no more. */
static void check_states(struct env *env, u64 end)
{
	struct conversion *cv = env->data;
	u64 marked = marked_below(cv->shape, end);
	unsigned int i;

	TEST_ASSERT_EQ(fdinfo(env, cv->initial_private ? "shared" : "private"),
		       marked);
	TEST_ASSERT_EQ(fdinfo(env, "allocated"), cv->nr_watched);

	for (i = 0; i < cv->nr_watched; i++) {
		u64 n = cv->watched[i];

		if (is_marked(cv->shape, n, end) != cv->initial_private)
			TEST_ASSERT_EQ(gmem_peek(page(env, n)), GMEM_SIGBUS);
		else
			TEST_ASSERT(gmem_has_stamp(page(env, n), i + 1),
				    "Page 0x%lx has lost what it held", n);
	}
}

/* The chunk that the error is in is as it was, those before it are not. */
static void conversion_failed(struct env *env)
{
	struct conversion *cv = env->data;
	u64 start = cv->shape->change.first;

	if (cv->error_page != start) {
		TEST_ASSERT_EQ(cv->error_page % CHUNK, 0);
		TEST_ASSERT(in_range(cv->shape->change, cv->error_page),
			    "error_offset is outside the range");
		cv->stopped_half_way = true;
	}
	check_states(env, cv->error_page);
}

static void converted(struct env *env)
{
	struct conversion *cv = env->data;
	const struct shape *shape = cv->shape;
	unsigned int i;

	check_states(env, shape->nr_pages);

	set_state(env, shape->change, false);
	set_state(env, shape->marked[0], false);
	set_state(env, shape->marked[1], false);
	for (i = 0; i < cv->nr_watched; i++) {
		gmem_pages_to_shared(env->fd, cv->watched[i], 1);
		TEST_ASSERT(gmem_has_stamp(page(env, cv->watched[i]), i + 1),
			    "Page 0x%lx has lost what it held", cv->watched[i]);
		set_state(env, (struct range){ cv->watched[i], 1 }, false);
	}
}

FIXTURE(conversion) {
	struct injector injector;
};

FIXTURE_VARIANT(conversion) {
	struct shape shape;
	bool initial_private;
};

FIXTURE_SETUP(conversion)
{
	SETUP_INJECTION(&self->injector);
}

FIXTURE_TEARDOWN(conversion)
{
	inject_teardown(&self->injector);
}

/* Each shape in a file that starts out shared, and in one that starts private. */
#define CONVERSION(_name, ...)						\
	FIXTURE_VARIANT_ADD(conversion, _name) {			\
		.shape = { __VA_ARGS__ },				\
	};								\
	FIXTURE_VARIANT_ADD(conversion, _name##_inverted) {		\
		.shape = { __VA_ARGS__ },				\
		.initial_private = true,				\
	}

CONVERSION(uniform_to_mixed,
	   .nr_pages = SMALL_FILE,
	   .change = { 3, 4 });
CONVERSION(mixed_to_mixed,
	   .nr_pages = SMALL_FILE,
	   .marked = { { 3, 4 } },
	   .change = { 100, 10 });
CONVERSION(mixed_to_mixed_back,
	   .nr_pages = SMALL_FILE,
	   .marked = { { 3, 4 } },
	   .change = { 4, 1 },
	   .to_initial = true);
CONVERSION(mixed_to_uniform,
	   .nr_pages = SMALL_FILE,
	   .marked = { { 0, 500 } },
	   .change = { 500, UNIT - 500 },
	   .one_fails = NEVER_FAILS,
	   .rest_fails = NEVER_FAILS);
CONVERSION(mixed_to_uniform_back,
	   .nr_pages = SMALL_FILE,
	   .marked = { { 3, 4 } },
	   .change = { 0, UNIT },
	   .to_initial = true,
	   .one_fails = NEVER_FAILS,
	   .rest_fails = NEVER_FAILS);
CONVERSION(several_units,
	   .nr_pages = SMALL_FILE,
	   .change = { UNIT / 2, 3 * UNIT });
CONVERSION(several_mixed_units,
	   .nr_pages = SMALL_FILE,
	   .marked = { { 3, 4 }, { 3 * UNIT + 3, 4 } },
	   .change = { UNIT / 2, 3 * UNIT });
CONVERSION(hole_in_a_joined_leaf,
	   .nr_pages = LEAF_FILE,
	   .marked = { { 0, LEAF } },
	   .change = { 5 * UNIT + 3, 4 },
	   .to_initial = true);
CONVERSION(first_leaf_grows_the_tree,
	   .nr_pages = LEAF_FILE,
	   .marked = { { 3, 4 } },
	   .change = { 0, LEAF },
	   .one_fails = ABSORBED);
CONVERSION(far_page,
	   .nr_pages = FAR_FILE,
	   .change = { FAR_FILE - 4, 2 });
CONVERSION(far_unit,
	   .nr_pages = FAR_FILE,
	   .change = { FAR_FILE - UNIT, UNIT },
	   .one_fails = ABSORBED);
CONVERSION(three_chunks,
	   .nr_pages = CHUNKS_FILE,
	   .change = { CHUNK - 5, CHUNK + 10 });

static void fail_conversion(struct __test_metadata *_metadata,
			    struct conversion *cv, struct injector *injector,
			    enum failing failing, enum outcome outcome)
{
	const struct op op = {
		.nr_pages = cv->shape->nr_pages,
		.flags = cv->initial_private ? PRIVATE_FILE : SHARED_FILE,
		.prepare = prepare_conversion,
		.run = convert,
		.failed = conversion_failed,
		.done = converted,
		.errors = { ENOMEM },
		.may_convert = true,
	};
	struct env env = {
		.op = &op,
		.injector = injector,
		.failing = failing,
		.data = cv,
	};

	run_op(_metadata, &env, outcome);
	EXPECT_EQ(cv->shape->change.nr > CHUNK, cv->stopped_half_way);
}

TEST_F_TIMEOUT(conversion, is_all_or_nothing_when_one_allocation_fails, TEST_TIMEOUT)
{
	struct conversion cv = { &variant->shape, variant->initial_private };

	fail_conversion(_metadata, &cv, &self->injector, ONE_FAILS,
			variant->shape.one_fails);
}

TEST_F_TIMEOUT(conversion, is_all_or_nothing_when_memory_runs_out, TEST_TIMEOUT)
{
	struct conversion cv = { &variant->shape, variant->initial_private };

	fail_conversion(_metadata, &cv, &self->injector, REST_FAILS,
			variant->shape.rest_fails);
}

TEST_HARNESS_MAIN
