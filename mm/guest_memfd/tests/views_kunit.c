// SPDX-License-Identifier: GPL-2.0-only
/*
 * Views that come or go while the file changes: each is told of a whole change
 * or of nothing of it.  Who began without an end would keep its vCPUs waiting
 * for ever, who ended without a begin would not make them wait at all.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/workqueue.h>

#include "gmem_test.h"

/* What is blocked stays so; what is not is done by then, however slow. */
#define BLOCKED_MSECS	50
#define TIMEOUT		(30 * HZ)

/* With a view that comes or goes, or none. */
typedef int (*meanwhile_fn_t)(struct guest_memfd_view *view, struct inode *inode);

/**
 * struct meanwhile - something that is done by another thread
 * @work: the thread
 * @fn: what it calls, with @view and @inode
 * @view: a view that comes or goes
 * @inode: the file
 * @err: what @fn has returned
 * @done: completed after that
 */
struct meanwhile {
	struct work_struct work;
	meanwhile_fn_t fn;
	struct guest_memfd_view *view;
	struct inode *inode;
	int err;
	struct completion done;
};

static void meanwhile_work(struct work_struct *work)
{
	struct meanwhile *meanwhile = container_of(work, struct meanwhile, work);

	meanwhile->err = meanwhile->fn(meanwhile->view, meanwhile->inode);
	complete(&meanwhile->done);
}

static struct meanwhile *start(struct kunit *test, meanwhile_fn_t fn,
			       struct guest_memfd_view *view, struct inode *inode)
{
	struct meanwhile *meanwhile = kunit_kzalloc(test, sizeof(*meanwhile),
						    GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, meanwhile);
	meanwhile->fn = fn;
	meanwhile->view = view;
	meanwhile->inode = inode;
	init_completion(&meanwhile->done);
	INIT_WORK(&meanwhile->work, meanwhile_work);
	queue_work(system_dfl_wq, &meanwhile->work);
	return meanwhile;
}

static bool is_blocked(struct meanwhile *meanwhile)
{
	msleep(BLOCKED_MSECS);
	return !completion_done(&meanwhile->done);
}

/* Whatever it waits for has been let go: it must come to its end. */
static int finish(struct meanwhile *meanwhile)
{
	wait_for_completion(&meanwhile->done);
	flush_work(&meanwhile->work);
	return meanwhile->err;
}

static int change(struct guest_memfd_view *view, struct inode *inode)
{
	return to_private(inode, 0, 1);
}

static int come(struct guest_memfd_view *view, struct inode *inode)
{
	return try_add_view(view, inode);
}

static int go(struct guest_memfd_view *view, struct inode *inode)
{
	del_view(&(struct test_view) { view, inode });
	return 0;
}

/* Start a change that goes on once @a->go is completed. */
static struct meanwhile *start_change(struct kunit *test, struct recorder *a,
				      struct inode *inode)
{
	struct meanwhile *meanwhile;

	a->stops = true;
	meanwhile = start(test, change, NULL, inode);
	KUNIT_EXPECT_NE(test, 0, wait_for_completion_timeout(&a->begun, TIMEOUT));
	return meanwhile;
}

static void end_change(struct kunit *test, struct recorder *a,
		       struct meanwhile *meanwhile)
{
	a->stops = false;
	complete(&a->go);
	KUNIT_EXPECT_EQ(test, 0, finish(meanwhile));
}

static void view_that_comes_during_a_change_is_told_of_the_next(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);
	struct recorder *b = new_recorder(test, "b", &recorder_follower_ops);
	struct meanwhile *changes, *comes;

	changes = start_change(test, a, inode);
	comes = start(test, come, &b->view, inode);
	KUNIT_EXPECT_TRUE(test, is_blocked(comes));
	end_change(test, a, changes);
	KUNIT_EXPECT_EQ(test, 0, finish(comes));

	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 1, 2));
	expect_recorded(test,
			"private 0-1: prepare a, begin a, transfer a, refresh a, end a\n"
			"private 1-2: prepare a b, begin a b, transfer a, refresh a b, end b a");
	go(&b->view, inode);
}

static void view_that_goes_during_a_change_is_told_of_its_end(struct kunit *test)
{
	struct inode *inode = test_inode(test, UNIT);
	struct recorder *a = add_owner(test, inode);
	struct recorder *b = new_recorder(test, "b", &recorder_follower_ops);
	struct meanwhile *changes, *goes;

	KUNIT_ASSERT_EQ(test, 0, come(&b->view, inode));
	changes = start_change(test, a, inode);
	goes = start(test, go, &b->view, inode);
	KUNIT_EXPECT_TRUE(test, is_blocked(goes));
	end_change(test, a, changes);
	KUNIT_EXPECT_EQ(test, 0, finish(goes));

	KUNIT_EXPECT_EQ(test, 0, to_private(inode, 1, 2));
	expect_recorded(test,
			"private 0-1: prepare a b, begin a b, transfer a, refresh a b, end b a\n"
			"private 1-2: prepare a, begin a, transfer a, refresh a, end a");
}

static struct kunit_case views_test_cases[] = {
	KUNIT_CASE(view_that_comes_during_a_change_is_told_of_the_next),
	KUNIT_CASE(view_that_goes_during_a_change_is_told_of_its_end),
	{}
};

static struct kunit_suite views_test_suite = {
	.name		= "guest_memfd_views",
	.init		= record_all,
	.test_cases	= views_test_cases,
};

kunit_test_suites(&views_test_suite);

MODULE_DESCRIPTION("Tests of views that come and go while a guest_memfd changes");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_LICENSE("GPL");
