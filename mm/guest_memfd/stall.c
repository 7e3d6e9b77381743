// SPDX-License-Identifier: GPL-2.0-only
/*
 * stall: points at which a test can make a thread wait.
 *
 * Most races of this code need one thread to be in a window of a few
 * instructions while another does a whole system call.  A test arms a point,
 * /sys/kernel/debug/guest_memfd/stall/NAME, starts the first thread, reads
 * "waiting", does with the other thread whatever it wants to see happen in the
 * window, and releases the first.  Each arming stops one thread, once.
 *
 * For debug kernels only, CONFIG_GUEST_MEMFD_STALL.  Knows nothing of the rest
 * of the core; a point has no meaning but its place.
 */
#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/export.h>
#include <linux/fs.h>
#include <linux/guest_memfd.h>
#include <linux/init.h>
#include <linux/jiffies.h>
#include <linux/processor.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>

#include "internal.h"

/* A test that dies must not leave a thread behind, nor starve RCU. */
#define GMEM_STALL_LIMIT	(10 * HZ)
#define GMEM_SPIN_LIMIT_NSECS	(5 * NSEC_PER_SEC)

/**
 * struct gmem_stall - a point
 * @name: of its file
 * @atomic: a thread that comes here must not sleep
 * @armed: the next thread that comes here is to wait
 * @waiter: what the one that waits is waiting for, on its stack; whoever
 *	completes it takes it away, under gmem_stall_lock
 */
struct gmem_stall {
	const char *name;
	bool atomic;
	bool armed;
	struct completion *waiter;
};

static struct gmem_stall gmem_stalls[] = {
	[GUEST_MEMFD_STALL_FAULT]	= { "fault" },
	[GUEST_MEMFD_STALL_FAULT_LOCKED] = { "fault_locked" },
	[GUEST_MEMFD_STALL_FAULT_MAPPED] = { "fault_mapped" },
	[GUEST_MEMFD_STALL_MAP_PAGES]	= { "map_pages", .atomic = true },
	[GUEST_MEMFD_STALL_GET_PFN]	= { "get_pfn" },
	[GUEST_MEMFD_STALL_BEGUN]	= { "begun" },
	[GUEST_MEMFD_STALL_UNMAPPED]	= { "unmapped" },
	[GUEST_MEMFD_STALL_CHECKED]	= { "checked" },
	[GUEST_MEMFD_STALL_REMOVE]	= { "remove" },
	[GUEST_MEMFD_STALL_POISON]	= { "poison" },
	[GUEST_MEMFD_STALL_TAKEN]	= { "taken" },
	[GUEST_MEMFD_STALL_ALLOCATED]	= { "allocated" },
	[GUEST_MEMFD_STALL_SPLIT]	= { "split" },
};

/* Protects @armed and @waiter of all points. */
static DEFINE_SPINLOCK(gmem_stall_lock);

static bool gmem_stall_begin(struct gmem_stall *stall, struct completion *done)
{
	guard(spinlock)(&gmem_stall_lock);

	if (!stall->armed)
		return false;

	WRITE_ONCE(stall->armed, false);
	stall->waiter = done;
	return true;
}

/* @done is about to go: whoever completes it must be through with it. */
static void gmem_stall_end(struct gmem_stall *stall, struct completion *done)
{
	guard(spinlock)(&gmem_stall_lock);

	if (stall->waiter == done)
		stall->waiter = NULL;
}

static void gmem_stall_spin(struct completion *done)
{
	const u64 end = ktime_get_mono_fast_ns() + GMEM_SPIN_LIMIT_NSECS;

	/* By the clock: how long mdelay() takes was measured when the CPU came up. */
	while (!try_wait_for_completion(done) && ktime_get_mono_fast_ns() < end)
		cpu_relax();
}

/**
 * guest_memfd_stall() - wait here if a test has asked for it
 * @point: where here is
 *
 * Context: any at %GUEST_MEMFD_STALL_MAP_PAGES, may sleep elsewhere.  Ends
 * after some seconds by itself, and with a fatal signal if it may sleep.
 */
void guest_memfd_stall(enum guest_memfd_stall_point point)
{
	struct gmem_stall *stall = &gmem_stalls[point];
	DECLARE_COMPLETION_ONSTACK(done);

	if (!stall->atomic)
		might_sleep();

	if (!READ_ONCE(stall->armed) || !gmem_stall_begin(stall, &done))
		return;

	if (stall->atomic)
		gmem_stall_spin(&done);
	else
		wait_for_completion_killable_timeout(&done, GMEM_STALL_LIMIT);

	gmem_stall_end(stall, &done);
}
EXPORT_SYMBOL_GPL(guest_memfd_stall);

static ssize_t gmem_stall_read(struct file *file, char __user *buf,
			       size_t count, loff_t *ppos)
{
	const struct gmem_stall *stall = file->private_data;
	const char *text;

	scoped_guard(spinlock, &gmem_stall_lock)
		text = stall->waiter ? "waiting\n" :
		       stall->armed ? "armed\n" : "off\n";

	return simple_read_from_buffer(buf, count, ppos, text, strlen(text));
}

/* A thread that waits already is released by either. */
static ssize_t gmem_stall_write(struct file *file, const char __user *buf,
				size_t count, loff_t *ppos)
{
	struct gmem_stall *stall = file->private_data;
	bool arm;
	int err;

	err = kstrtobool_from_user(buf, count, &arm);
	if (err)
		return err;

	guard(spinlock)(&gmem_stall_lock);

	if (stall->waiter)
		complete(stall->waiter);
	stall->waiter = NULL;
	WRITE_ONCE(stall->armed, arm);
	return count;
}

static const struct file_operations gmem_stall_fops = {
	.open	= simple_open,
	.read	= gmem_stall_read,
	.write	= gmem_stall_write,
	.llseek	= default_llseek,
};

static int __init gmem_stall_init(void)
{
	struct dentry *dir = debugfs_create_dir("stall", gmem_debugfs_root());
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(gmem_stalls); i++)
		debugfs_create_file(gmem_stalls[i].name, 0600, dir,
				    &gmem_stalls[i], &gmem_stall_fops);
	return 0;
}
late_initcall(gmem_stall_init);
