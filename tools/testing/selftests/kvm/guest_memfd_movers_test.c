// SPDX-License-Identifier: GPL-2.0-only
/*
 * What would move, merge, write out or take away pages of a guest_memfd if it
 * could: NUMA balancing by hand, huge pages, compaction, reclaim, soft offline.
 *
 * None of them can, and none of them can hold up a conversion, although each
 * takes references and some lock the page while they find out.
 */
#include <fcntl.h>
#include <stdlib.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_hidden.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "numaif.h"
#include "test_util.h"

#define PAGES_PER_2M	(SZ_2M / GMEM_PAGE_SIZE)
#define FILE_PAGES	PAGES_PER_2M

/* The range that is converted, and how often while somebody is at it. */
#define FIRST		8
#define NR_PAGES	32
#define NR_ROUNDS	25

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE	101
#endif

/**
 * struct mover_ops - one who would move pages
 * @open: get what it takes; returns false if there is no such thing here
 * @act: try once to move the pages of [@mem, @mem + @size)
 * @close: optional, leave the system as it was
 *
 * Each test has a process of its own, so what has to be remembered is in
 * variables.
 */
struct mover_ops {
	bool (*open)(u8 *mem, size_t size);
	void (*act)(u8 *mem, size_t size);
	void (*close)(void);
};

static bool open_always(u8 *mem, size_t size)
{
	return true;
}

/*
 * To another node.  The pages are on one of the first two, so one of the two
 * attempts is to go to the other.
 */

static bool have_two_nodes(u8 *mem, size_t size)
{
	return is_multi_numa_node_system();
}

static void act_move_pages(u8 *mem, size_t size)
{
	void *pages[NR_PAGES];
	int nodes[NR_PAGES], status[NR_PAGES];
	int i, node, nr = size / GMEM_PAGE_SIZE;

	for (node = 0; node < 2; node++) {
		for (i = 0; i < nr; i++) {
			pages[i] = mem + i * GMEM_PAGE_SIZE;
			nodes[i] = node;
		}
		move_pages(0, nr, pages, nodes, status, MPOL_MF_MOVE_ALL);
	}
}

static const struct mover_ops move_pages_ops = {
	.open	= have_two_nodes,
	.act	= act_move_pages,
};

static void act_migrate_pages(u8 *mem, size_t size)
{
	const unsigned long first = BIT(0), second = BIT(1);
	const unsigned long max_node = BITS_PER_LONG;

	migrate_pages(0, max_node, &first, &second);
	migrate_pages(0, max_node, &second, &first);
}

static const struct mover_ops migrate_pages_ops = {
	.open	= have_two_nodes,
	.act	= act_migrate_pages,
};

static void act_mbind(u8 *mem, size_t size)
{
	unsigned long node;

	for (node = BIT(0); node <= BIT(1); node <<= 1)
		mbind(mem, size, MPOL_BIND, &node, BITS_PER_LONG,
		      MPOL_MF_MOVE_ALL);
}

static const struct mover_ops mbind_ops = {
	.open	= have_two_nodes,
	.act	= act_mbind,
};

/*
 * Into a huge page
 */

static u8 *huge_page_around(u8 *mem)
{
	return (u8 *)align_down((uintptr_t)mem, SZ_2M);
}

static void act_collapse(u8 *mem, size_t size)
{
	madvise(huge_page_around(mem), SZ_2M, MADV_COLLAPSE);
}

static const struct mover_ops madv_collapse_ops = {
	.open	= open_always,
	.act	= act_collapse,
};

#define KHUGEPAGED	"/sys/kernel/mm/transparent_hugepage/khugepaged/"

static char scan_sleep[32];

/* Other memory that can be huge makes it look at the process at all. */
static bool open_khugepaged(u8 *mem, size_t size)
{
	u8 *bait;

	if (access(KHUGEPAGED, F_OK))
		return false;

	read_file(KHUGEPAGED "scan_sleep_millisecs", scan_sleep,
		  sizeof(scan_sleep));
	write_file(KHUGEPAGED "scan_sleep_millisecs", "0");

	bait = kvm_mmap(2 * SZ_2M, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1);
	kvm_madvise(bait, 2 * SZ_2M, MADV_HUGEPAGE);
	memset(bait, 1, 2 * SZ_2M);
	madvise(huge_page_around(mem), SZ_2M, MADV_HUGEPAGE);
	return true;
}

static unsigned long nr_full_scans(void)
{
	char value[32];

	read_file(KHUGEPAGED "full_scans", value, sizeof(value));
	return strtoul(value, NULL, 10);
}

/* One scan may have been past this process already. */
static void act_khugepaged(u8 *mem, size_t size)
{
	unsigned long start = nr_full_scans();

	while (nr_full_scans() - start < 2)
		usleep(1000);
}

static void close_khugepaged(void)
{
	write_file(KHUGEPAGED "scan_sleep_millisecs", scan_sleep);
}

static const struct mover_ops khugepaged_ops = {
	.open	= open_khugepaged,
	.act	= act_khugepaged,
	.close	= close_khugepaged,
};

/*
 * Out of the way
 */

static bool can_compact(u8 *mem, size_t size)
{
	return !access("/proc/sys/vm/compact_memory", W_OK);
}

static void act_compact(u8 *mem, size_t size)
{
	write_file("/proc/sys/vm/compact_memory", "1");
}

static const struct mover_ops compaction_ops = {
	.open	= can_compact,
	.act	= act_compact,
};

static void act_pageout(u8 *mem, size_t size)
{
	madvise(mem, size, MADV_PAGEOUT);
}

static const struct mover_ops madv_pageout_ops = {
	.open	= open_always,
	.act	= act_pageout,
};

static void act_drop_caches(u8 *mem, size_t size)
{
	write_file("/proc/sys/vm/drop_caches", "1");
}

static const struct mover_ops drop_caches_ops = {
	.open	= open_always,
	.act	= act_drop_caches,
};

static void act_lock(u8 *mem, size_t size)
{
	mlock(mem, size);
	munlock(mem, size);
}

static const struct mover_ops mlock_ops = {
	.open	= open_always,
	.act	= act_lock,
};

/* EINVAL, before it looks at a page, is for a kernel that has no such thing. */
static bool can_soft_offline(u8 *mem, size_t size)
{
	return !madvise(mem, 0, MADV_SOFT_OFFLINE);
}

/* Each attempt is a line of the kernel's log, so not all pages. */
static void act_soft_offline(u8 *mem, size_t size)
{
	madvise(mem + size / 2, GMEM_PAGE_SIZE, MADV_SOFT_OFFLINE);
}

static const struct mover_ops soft_offline_ops = {
	.open	= can_soft_offline,
	.act	= act_soft_offline,
};

/*
 * A file of one huge page's size, all shared, mapped where a huge page could be
 * mapped, with stamped pages where somebody is going to act.
 */
FIXTURE(mover) {
	const struct mover_ops *ops;
	struct kvm_vm *vm;
	int fd;
	u8 *reserved;
	u8 *mem;
};

FIXTURE_VARIANT(mover) {
	const struct mover_ops *ops;
};

FIXTURE_VARIANT_ADD(mover, move_pages) { .ops = &move_pages_ops };
FIXTURE_VARIANT_ADD(mover, migrate_pages) { .ops = &migrate_pages_ops };
FIXTURE_VARIANT_ADD(mover, mbind) { .ops = &mbind_ops };
FIXTURE_VARIANT_ADD(mover, madv_collapse) { .ops = &madv_collapse_ops };
FIXTURE_VARIANT_ADD(mover, khugepaged) { .ops = &khugepaged_ops };
FIXTURE_VARIANT_ADD(mover, compaction) { .ops = &compaction_ops };
FIXTURE_VARIANT_ADD(mover, madv_pageout) { .ops = &madv_pageout_ops };
FIXTURE_VARIANT_ADD(mover, drop_caches) { .ops = &drop_caches_ops };
FIXTURE_VARIANT_ADD(mover, mlock) { .ops = &mlock_ops };
FIXTURE_VARIANT_ADD(mover, soft_offline) { .ops = &soft_offline_ops };

#define page(n)		(self->mem + (n) * GMEM_PAGE_SIZE)
#define SIZE		(NR_PAGES * GMEM_PAGE_SIZE)

FIXTURE_SETUP(mover)
{
	int i;

	if (!gmem_can_convert())
		SKIP(return, "no VM type with private memory");

	self->fd = gmem_create_shared(&self->vm, FILE_PAGES);
	self->reserved = kvm_mmap(2 * SZ_2M, PROT_NONE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1);
	self->mem = mmap(align_ptr_up(self->reserved, SZ_2M), SZ_2M,
			 PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	for (i = FIRST; i < FIRST + NR_PAGES; i++)
		gmem_stamp(page(i), i);

	if (!variant->ops->open(page(FIRST), SIZE))
		SKIP(return, "nothing here that could try to move a page like that");
	self->ops = variant->ops;
}

FIXTURE_TEARDOWN(mover)
{
	if (self->ops && self->ops->close)
		self->ops->close();
	if (!self->vm)
		return;

	kvm_munmap(self->reserved, 2 * SZ_2M);
	close(self->fd);
	kvm_vm_free(self->vm);
}

static int convert(int fd)
{
	return gmem_pages_try_private(fd, FIRST, NR_PAGES, NULL);
}

/*
 * A thread that acts again and again.
 */
static struct {
	const struct mover_ops *ops;
	u8 *mem;
	pthread_t thread;
	u64 nr_acts;
	bool stop;
} busy;

static void *busy_thread(void *arg)
{
	while (!READ_ONCE(busy.stop)) {
		busy.ops->act(busy.mem, SIZE);
		WRITE_ONCE(busy.nr_acts, busy.nr_acts + 1);
	}
	return NULL;
}

static void busy_start(const struct mover_ops *ops, u8 *mem)
{
	busy.ops = ops;
	busy.mem = mem;
	kvm_pthread_create(&busy.thread, NULL, busy_thread, NULL);
}

static void busy_stop(void)
{
	WRITE_ONCE(busy.stop, true);
	kvm_pthread_join(busy.thread, NULL);
}

TEST_F(mover, leaves_a_shared_page_where_it_is)
{
	u64 pfn[NR_PAGES];
	int i;

	for (i = 0; i < NR_PAGES; i++)
		pfn[i] = gmem_pfn(page(FIRST + i));

	self->ops->act(page(FIRST), SIZE);
	for (i = 0; i < NR_PAGES; i++) {
		EXPECT_EQ(pfn[i], gmem_pfn(page(FIRST + i)));
		EXPECT_TRUE(gmem_has_stamp(page(FIRST + i), FIRST + i));
	}
}

/*
 * Another file in its place: those pages are isolated and unmapped, then it has to be
 * seen that nobody can copy them.  A page that was written to is left alone earlier.
 */
TEST_F(mover, leaves_a_page_of_memfd_secret_where_it_is)
{
	int i, fd = create_secret(SZ_2M);
	u64 pfn[NR_PAGES];

	if (fd < 0)
		SKIP(return, "no memfd_secret()");
	ASSERT_EQ(self->mem, mmap(self->mem, SZ_2M, PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_FIXED, fd, 0));
	kvm_close(fd);
	gmem_stamp(page(FIRST), FIRST);
	for (i = 0; i < NR_PAGES; i++)
		pfn[i] = gmem_pfn(page(FIRST + i));

	self->ops->act(page(FIRST), SIZE);
	EXPECT_TRUE(gmem_has_stamp(page(FIRST), FIRST));
	for (i = 0; i < NR_PAGES; i++)
		EXPECT_EQ(pfn[i], gmem_pfn(page(FIRST + i)));
}

TEST_F(mover, leaves_a_private_page_where_it_is)
{
	u64 pfn[NR_PAGES];
	int i;

	for (i = 0; i < NR_PAGES; i++)
		pfn[i] = gmem_pfn(page(FIRST + i));

	ASSERT_EQ(0, convert(self->fd));
	self->ops->act(page(FIRST), SIZE);
	gmem_pages_to_shared(self->fd, FIRST, NR_PAGES);
	for (i = 0; i < NR_PAGES; i++) {
		EXPECT_EQ(pfn[i], gmem_pfn(page(FIRST + i)));
		EXPECT_TRUE(gmem_has_stamp(page(FIRST + i), FIRST + i));
	}
}

TEST_F(mover, does_not_hold_up_a_conversion_after_it)
{
	self->ops->act(page(FIRST), SIZE);

	EXPECT_EQ(0, convert(self->fd));
}

TEST_F(mover, at_work_does_not_hold_up_conversions)
{
	int i, nr_refused = 0;

	busy_start(self->ops, page(FIRST));
	for (i = 0; i < NR_ROUNDS || !READ_ONCE(busy.nr_acts); i++) {
		nr_refused += !!convert(self->fd);
		gmem_pages_to_shared(self->fd, FIRST, NR_PAGES);
		madvise(page(FIRST), SIZE, MADV_POPULATE_WRITE);
	}
	busy_stop();

	EXPECT_EQ(0, nr_refused)
		TH_LOG("of %d conversions, next to %lu attempts", i, busy.nr_acts);
	for (i = FIRST; i < FIRST + NR_PAGES; i++)
		EXPECT_TRUE(gmem_has_stamp(page(i), i));
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
