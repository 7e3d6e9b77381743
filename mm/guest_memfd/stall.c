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
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/export.h>
#include <linux/fs.h>
#include <linux/guest_memfd.h>
#include <linux/init.h>
#include <linux/jiffies.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "internal.h"

/* A test that dies must not leave a thread behind, nor starve RCU. */
#define GMEM_STALL_LIMIT	(10 * HZ)
#define GMEM_SPIN_LIMIT_MSECS	5000

enum gmem_stall_state {
	GMEM_STALL_OFF,
	GMEM_STALL_ARMED,
	GMEM_STALL_WAITING,
};

static const char *const gmem_stall_words[] = {
	[GMEM_STALL_OFF]	= "off",
	[GMEM_STALL_ARMED]	= "armed",
	[GMEM_STALL_WAITING]	= "waiting",
};

/**
 * struct gmem_stall - a point
 * @name: of its file
 * @atomic: a thread that comes here must not sleep
 * @state: enum gmem_stall_state.  A test arms and releases with a plain
 *	exchange; only the thread that got from armed to waiting waits, until
 *	it finds anything else
 */
struct gmem_stall {
	const char *name;
	bool atomic;
	int state;
};

static struct gmem_stall gmem_stalls[] = {
	[GUEST_MEMFD_STALL_FAULT]	= { "fault" },
	[GUEST_MEMFD_STALL_FAULT_LOCKED] = { "fault_locked" },
	[GUEST_MEMFD_STALL_MAP_PAGES]	= { "map_pages", .atomic = true },
	[GUEST_MEMFD_STALL_GET_PFN]	= { "get_pfn" },
	[GUEST_MEMFD_STALL_BEGUN]	= { "begun" },
	[GUEST_MEMFD_STALL_UNMAPPED]	= { "unmapped" },
	[GUEST_MEMFD_STALL_CHECKED]	= { "checked" },
	[GUEST_MEMFD_STALL_REMOVE]	= { "remove" },
	[GUEST_MEMFD_STALL_POISON]	= { "poison" },
};

static DECLARE_WAIT_QUEUE_HEAD(gmem_stall_wait);

static bool gmem_stall_is_over(const struct gmem_stall *stall)
{
	return READ_ONCE(stall->state) != GMEM_STALL_WAITING;
}

static void gmem_stall_spin(const struct gmem_stall *stall)
{
	unsigned int msecs;

	for (msecs = 0; msecs < GMEM_SPIN_LIMIT_MSECS; msecs++) {
		if (gmem_stall_is_over(stall))
			return;
		mdelay(1);
	}
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

	if (!stall->atomic)
		might_sleep();

	if (READ_ONCE(stall->state) != GMEM_STALL_ARMED ||
	    cmpxchg(&stall->state, GMEM_STALL_ARMED,
		    GMEM_STALL_WAITING) != GMEM_STALL_ARMED)
		return;

	if (stall->atomic)
		gmem_stall_spin(stall);
	else
		wait_event_killable_timeout(gmem_stall_wait,
					    gmem_stall_is_over(stall),
					    GMEM_STALL_LIMIT);

	cmpxchg(&stall->state, GMEM_STALL_WAITING, GMEM_STALL_OFF);
}
EXPORT_SYMBOL_GPL(guest_memfd_stall);

static ssize_t gmem_stall_read(struct file *file, char __user *buf,
			       size_t count, loff_t *ppos)
{
	const struct gmem_stall *stall = file->private_data;
	char text[16];
	int len;

	len = scnprintf(text, sizeof(text), "%s\n",
			gmem_stall_words[READ_ONCE(stall->state)]);
	return simple_read_from_buffer(buf, count, ppos, text, len);
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

	xchg(&stall->state, arm ? GMEM_STALL_ARMED : GMEM_STALL_OFF);
	wake_up_all(&gmem_stall_wait);
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
