// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a conversion tells the views of an inode, in which order, and what is
 * undone when one of them refuses.
 */
#include <kunit/test.h>
#include <linux/sched.h>

#include "gmem_test.h"

/*
 * One view
 */

static void to_private_takes_a_view_through_every_step(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);

	add_owner(test, inode);
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 3, 7));
	expect_recorded(test, "private 3-7: prepare a, begin a, transfer a, refresh a, end a");
}

static void to_shared_takes_a_view_through_every_step(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);

	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 0, UNIT));
	add_owner(test, inode);
	KUNIT_EXPECT_EQ(test, 0, to_shared(inode, 3, 7));
	expect_recorded(test, "shared 3-7: prepare a, begin a, transfer a, refresh a, end a");
}

static void optional_steps_may_be_left_out(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);

	add_recorder(test, inode, "a", &recorder_minimal_ops);
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 1));
	expect_recorded(test, "private 0-1: begin a, end a");
}

static void transfer_sees_the_old_state(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);

	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 1));
	KUNIT_EXPECT_FALSE(test, a->was_private[RECORDER_TRANSFER]);
}

static void refresh_sees_the_new_state(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);

	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 1));
	KUNIT_EXPECT_TRUE(test, a->was_private[RECORDER_REFRESH]);
}

static void expect_mixed(struct kunit *test, struct inode *inode)
{
	KUNIT_EXPECT_TRUE(test, all_shared(inode, 0, 1));
	KUNIT_EXPECT_TRUE(test, all_private(inode, 1, 2));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, 2, 4));
	KUNIT_EXPECT_TRUE(test, all_private(inode, 4, 6));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, 6, UNIT));
	KUNIT_EXPECT_TRUE(test, all_private(inode, UNIT, 2 * UNIT));
}

static void refused_prepare_leaves_the_state(struct kunit *test)
{
	struct inode *inode = mixed_inode(test);
	struct recorder *a = add_owner(test, inode);

	a->prepare_err = -EPERM;
	KUNIT_EXPECT_EQ(test, -EPERM, to_private(inode, 0, UNIT));
	KUNIT_EXPECT_EQ(test, -EPERM, to_shared(inode, 0, 2 * UNIT));
	expect_mixed(test, inode);
}

static void refused_transfer_leaves_the_state(struct kunit *test)
{
	struct inode *inode = mixed_inode(test);
	struct recorder *a = add_owner(test, inode);

	a->transfer_err = -EIO;
	KUNIT_EXPECT_EQ(test, -EIO, to_private(inode, 0, UNIT));
	KUNIT_EXPECT_EQ(test, -EIO, to_shared(inode, 0, 2 * UNIT));
	expect_mixed(test, inode);
}

static void refused_conversion_works_when_tried_again(struct kunit *test)
{
	struct inode *inode = mixed_inode(test);
	struct recorder *a = add_owner(test, inode);

	a->transfer_err = -EIO;
	KUNIT_EXPECT_EQ(test, -EIO, to_private(inode, 0, 2 * UNIT));
	a->transfer_err = 0;
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 2 * UNIT));
	KUNIT_EXPECT_TRUE(test, all_private(inode, 0, 2 * UNIT));
}

static void removed_view_is_told_nothing(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = new_recorder(test, "a", &recorder_owner_ops);
	struct test_view *tv = add_view(test, &a->view, inode);

	kunit_release_action(test, del_view, tv);
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 1));
	expect_recorded(test, "");
}

/*
 * A view that starts conversions by itself
 */

static void conversion_names_the_view_that_started_it(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);
	pgoff_t error_index;

	KUNIT_EXPECT_EQ(test, 0,
			guest_memfd_convert(inode, 2, 4, GUEST_MEMFD_TO_PRIVATE,
					    &a->view, &error_index));
	expect_recorded(test, "private 2-4 by a: prepare a, begin a, transfer a, refresh a, end a");
}

static void protected_guest_converts_its_own_pages(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);
	pgoff_t error_index;

	a->own_only = true;
	KUNIT_EXPECT_EQ(test, 0,
			guest_memfd_convert(inode, 2, 4, GUEST_MEMFD_TO_PRIVATE,
					    &a->view, &error_index));
	KUNIT_EXPECT_TRUE(test, all_private(inode, 2, 4));
}

static void protected_guest_keeps_the_host_from_converting(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);

	a->own_only = true;
	KUNIT_EXPECT_EQ(test, -EPERM, to_private(inode, 2, 4));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, 0, UNIT));
}

/*
 * Two views of one inode
 */

static struct inode *two_views(struct kunit *test, struct recorder **a,
			       struct recorder **b)
{
	struct inode *inode = test_inode(test, UNIT);

	*a = add_recorder(test, inode, "a", &recorder_follower_ops);
	*b = add_recorder(test, inode, "b", &recorder_owner_ops);
	return inode;
}

static void views_are_told_in_order_and_end_in_reverse(struct kunit *test)
{
	struct recorder *a, *b;
	struct inode *inode = two_views(test, &a, &b);

	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 8));
	expect_recorded(test,
			"private 0-8: prepare a b, begin a b, transfer b, refresh a b, end b a");
}

static void only_one_view_may_transfer(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *b = new_recorder(test, "b", &recorder_owner_ops);

	add_owner(test, inode);
	KUNIT_EXPECT_EQ(test, -EBUSY, try_add_view(&b->view, inode));
}

static void another_view_may_transfer_when_the_first_is_gone(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = new_recorder(test, "a", &recorder_owner_ops);
	struct test_view *tv = add_view(test, &a->view, inode);

	kunit_release_action(test, del_view, tv);
	add_recorder(test, inode, "b", &recorder_owner_ops);
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 0, 1));
	expect_recorded(test, "private 0-1: prepare b, begin b, transfer b, refresh b, end b");
}

/*
 * Every view that can refuse, at every step at which it can: what it refuses
 * has not happened, and happens when it no longer does.
 */

struct refusal {
	const char *name;
	enum guest_memfd_change_type type;
	unsigned int nr_views;
	unsigned int who;
	bool at_transfer;
	const char *recorded;
};

static const struct refusal refusals[] = {
	{ "private, one view, prepare", GUEST_MEMFD_TO_PRIVATE, 1, 0, false,
	  "private 0-8: prepare a" },
	{ "private, one view, transfer", GUEST_MEMFD_TO_PRIVATE, 1, 0, true,
	  "private 0-8: prepare a, begin a, transfer a, end a, abort a" },
	{ "private, first view, prepare", GUEST_MEMFD_TO_PRIVATE, 2, 0, false,
	  "private 0-8: prepare a" },
	{ "private, second view, prepare", GUEST_MEMFD_TO_PRIVATE, 2, 1, false,
	  "private 0-8: prepare a b, abort a" },
	{ "private, second view, transfer", GUEST_MEMFD_TO_PRIVATE, 2, 1, true,
	  "private 0-8: prepare a b, begin a b, transfer b, end b a, abort b a" },
	{ "shared, one view, prepare", GUEST_MEMFD_TO_SHARED, 1, 0, false,
	  "shared 0-8: prepare a" },
	{ "shared, one view, transfer", GUEST_MEMFD_TO_SHARED, 1, 0, true,
	  "shared 0-8: prepare a, begin a, transfer a, end a, abort a" },
	{ "shared, first view, prepare", GUEST_MEMFD_TO_SHARED, 2, 0, false,
	  "shared 0-8: prepare a" },
	{ "shared, second view, prepare", GUEST_MEMFD_TO_SHARED, 2, 1, false,
	  "shared 0-8: prepare a b, abort a" },
	{ "shared, second view, transfer", GUEST_MEMFD_TO_SHARED, 2, 1, true,
	  "shared 0-8: prepare a b, begin a b, transfer b, end b a, abort b a" },
	{ "hole, one view, prepare", GUEST_MEMFD_REMOVE, 1, 0, false,
	  "remove 0-8: prepare a" },
	{ "hole, first view, prepare", GUEST_MEMFD_REMOVE, 2, 0, false,
	  "remove 0-8: prepare a" },
	{ "hole, second view, prepare", GUEST_MEMFD_REMOVE, 2, 1, false,
	  "remove 0-8: prepare a b, abort a" },
};

KUNIT_ARRAY_PARAM_DESC(refusal, refusals, name);

static int try_change(struct file *file, enum guest_memfd_change_type type)
{
	if (type == GUEST_MEMFD_REMOVE)
		return punch(file, 0, 8);
	return convert(file_inode(file), 0, 8, type);
}

static bool is_changed(struct file *file, enum guest_memfd_change_type type)
{
	struct inode *inode = file_inode(file);

	switch (type) {
	case GUEST_MEMFD_TO_PRIVATE:
		return !all_shared(inode, 0, UNIT);
	case GUEST_MEMFD_TO_SHARED:
		return !all_private(inode, 0, UNIT);
	default:
		return inode->i_mapping->nrpages != 10;
	}
}

static void refused_change_is_undone_and_can_be_made_later(struct kunit *test)
{
	const struct refusal *refusal = test->param_value;
	struct file *file = test_file(test, UNIT, SHARED_FILE);
	struct inode *inode = file_inode(file);
	struct recorder *views[2];
	struct recorder *refuser;

	populate(test, inode, 0, 10);
	if (refusal->type == GUEST_MEMFD_TO_SHARED)
		KUNIT_ASSERT_EQ(test, 0, to_private(inode, 0, UNIT));

	if (refusal->nr_views == 2) {
		views[0] = add_recorder(test, inode, "a", &recorder_follower_ops);
		views[1] = add_recorder(test, inode, "b", &recorder_owner_ops);
	} else {
		views[0] = add_owner(test, inode);
	}

	refuser = views[refusal->who];
	if (refusal->at_transfer)
		refuser->transfer_err = -EPERM;
	else
		refuser->prepare_err = -EPERM;

	KUNIT_EXPECT_EQ(test, -EPERM, try_change(file, refusal->type));
	expect_recorded(test, refusal->recorded);
	KUNIT_EXPECT_FALSE(test, is_changed(file, refusal->type));

	refuser->transfer_err = 0;
	refuser->prepare_err = 0;
	KUNIT_EXPECT_EQ(test, 0, try_change(file, refusal->type));
	KUNIT_EXPECT_TRUE(test, is_changed(file, refusal->type));
}

/*
 * Chunks
 */

static void each_chunk_is_a_change_of_its_own(struct kunit *test)
{
	struct inode *inode = test_inode(test, 3 * CHUNK);

	add_recorder(test, inode, "a", &recorder_minimal_ops);
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, CHUNK - 1, 2 * CHUNK + 1));
	expect_recorded(test,
			"private 262143-262144: begin a, end a\n"
			"private 262144-524288: begin a, end a\n"
			"private 524288-524289: begin a, end a");
}

static void refusal_gives_the_first_page_of_its_chunk(struct kunit *test)
{
	struct inode *inode = test_inode(test, 3 * CHUNK);
	struct recorder *a = add_owner(test, inode);
	pgoff_t error_index;

	a->refuse_from = CHUNK;
	a->transfer_err = -EIO;
	KUNIT_EXPECT_EQ(test, -EIO,
			guest_memfd_convert(inode, 5, 3 * CHUNK,
					    GUEST_MEMFD_TO_PRIVATE, NULL,
					    &error_index));
	KUNIT_EXPECT_EQ(test, CHUNK, error_index);
}

static void refusal_in_the_first_chunk_gives_the_start(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);
	pgoff_t error_index;

	a->prepare_err = -EPERM;
	KUNIT_EXPECT_EQ(test, -EPERM,
			guest_memfd_convert(inode, 5, 9, GUEST_MEMFD_TO_PRIVATE,
					    NULL, &error_index));
	KUNIT_EXPECT_EQ(test, 5, error_index);
}

static void chunks_before_a_refusal_are_converted(struct kunit *test)
{
	struct inode *inode = test_inode(test, 3 * CHUNK);
	struct recorder *a = add_owner(test, inode);

	a->refuse_from = CHUNK;
	a->prepare_err = -EPERM;
	KUNIT_EXPECT_EQ(test, -EPERM, to_private(inode, 5, 3 * CHUNK));
	KUNIT_EXPECT_TRUE(test, all_private(inode, 5, CHUNK));
}

static void chunks_from_a_refusal_on_are_not_converted(struct kunit *test)
{
	struct inode *inode = test_inode(test, 3 * CHUNK);
	struct recorder *a = add_owner(test, inode);

	a->refuse_from = CHUNK;
	a->prepare_err = -EPERM;
	KUNIT_EXPECT_EQ(test, -EPERM, to_private(inode, 5, 3 * CHUNK));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, CHUNK, 3 * CHUNK));
}

static void signal_stops_after_the_first_chunk(struct kunit *test)
{
	struct inode *inode = test_inode(test, 3 * CHUNK);
	pgoff_t error_index;
	int err;

	set_thread_flag(TIF_SIGPENDING);
	err = guest_memfd_convert(inode, 5, 3 * CHUNK, GUEST_MEMFD_TO_PRIVATE,
				  NULL, &error_index);
	clear_thread_flag(TIF_SIGPENDING);

	KUNIT_EXPECT_EQ(test, -EINTR, err);
	KUNIT_EXPECT_EQ(test, CHUNK, error_index);
	KUNIT_EXPECT_TRUE(test, all_private(inode, 5, CHUNK));
	KUNIT_EXPECT_TRUE(test, all_shared(inode, CHUNK, 3 * CHUNK));
}

/*
 * Nothing to do, and nothing that can be done
 */

static void range_that_is_done_calls_no_view(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);

	add_owner(test, inode);
	KUNIT_EXPECT_EQ(test, 0, to_shared(inode, 0, UNIT));
	expect_recorded(test, "");
}

static void front_that_is_done_is_left_out(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);

	KUNIT_ASSERT_EQ(test, 0, to_private(inode, 0, 100));
	add_recorder(test, inode, "a", &recorder_minimal_ops);
	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 50, UNIT));
	expect_recorded(test, "private 100-512: begin a, end a");
}

static void file_that_does_not_track_does_not_convert(struct kunit *test)
{
	struct inode *inode = file_inode(test_file(test, UNIT, 0));

	KUNIT_EXPECT_EQ(test, -EOPNOTSUPP, to_shared(inode, 0, UNIT));
}

struct bad_conversion {
	const char *name;
	pgoff_t start;
	pgoff_t end;
	enum guest_memfd_change_type type;
};

static const struct bad_conversion bad_conversions[] = {
	{ "empty", 4, 4, GUEST_MEMFD_TO_PRIVATE },
	{ "ends before its start", 4, 3, GUEST_MEMFD_TO_PRIVATE },
	{ "ends past the file", 4, UNIT + 1, GUEST_MEMFD_TO_PRIVATE },
	{ "starts past the file", UNIT, UNIT + 1, GUEST_MEMFD_TO_PRIVATE },
	{ "removal", 0, 4, GUEST_MEMFD_REMOVE },
	{ "poison", 0, 4, GUEST_MEMFD_POISON },
};

KUNIT_ARRAY_PARAM_DESC(bad_conversion, bad_conversions, name);

static void bad_conversion_is_refused(struct kunit *test)
{
	const struct bad_conversion *bad = test->param_value;
	struct inode *inode = test_inode(test, UNIT);

	KUNIT_EXPECT_EQ(test, -EINVAL,
			convert(inode, bad->start, bad->end, bad->type));
}

static struct kunit_case protocol_test_cases[] = {
	KUNIT_CASE(to_private_takes_a_view_through_every_step),
	KUNIT_CASE(to_shared_takes_a_view_through_every_step),
	KUNIT_CASE(optional_steps_may_be_left_out),
	KUNIT_CASE(transfer_sees_the_old_state),
	KUNIT_CASE(refresh_sees_the_new_state),
	KUNIT_CASE(refused_prepare_leaves_the_state),
	KUNIT_CASE(refused_transfer_leaves_the_state),
	KUNIT_CASE(refused_conversion_works_when_tried_again),
	KUNIT_CASE(removed_view_is_told_nothing),
	KUNIT_CASE(conversion_names_the_view_that_started_it),
	KUNIT_CASE(protected_guest_converts_its_own_pages),
	KUNIT_CASE(protected_guest_keeps_the_host_from_converting),
	KUNIT_CASE(views_are_told_in_order_and_end_in_reverse),
	KUNIT_CASE(only_one_view_may_transfer),
	KUNIT_CASE(another_view_may_transfer_when_the_first_is_gone),
	KUNIT_CASE_PARAM(refused_change_is_undone_and_can_be_made_later,
			 refusal_gen_params),
	KUNIT_CASE(each_chunk_is_a_change_of_its_own),
	KUNIT_CASE(refusal_gives_the_first_page_of_its_chunk),
	KUNIT_CASE(refusal_in_the_first_chunk_gives_the_start),
	KUNIT_CASE(chunks_before_a_refusal_are_converted),
	KUNIT_CASE(chunks_from_a_refusal_on_are_not_converted),
	KUNIT_CASE(signal_stops_after_the_first_chunk),
	KUNIT_CASE(range_that_is_done_calls_no_view),
	KUNIT_CASE(front_that_is_done_is_left_out),
	KUNIT_CASE(file_that_does_not_track_does_not_convert),
	KUNIT_CASE_PARAM(bad_conversion_is_refused, bad_conversion_gen_params),
	{}
};

static struct kunit_suite protocol_test_suite = {
	.name		= "guest_memfd_protocol",
	.init		= record_all,
	.test_cases	= protocol_test_cases,
};

kunit_test_suites(&protocol_test_suite);

MODULE_DESCRIPTION("Tests of the conversion protocol of guest_memfd");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_LICENSE("GPL");
