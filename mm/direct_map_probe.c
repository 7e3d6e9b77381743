// SPDX-License-Identifier: GPL-2.0-only
/*
 * direct_map_probe: what the kernel's page tables say of each page, for tests.
 *
 * /sys/kernel/debug/direct_map is an array of one byte for each page frame, to be
 * read with pread() like /proc/kpageflags:
 *
 *	0x00	nothing there: no memory, no entry, or KFENCE's, which takes its objects out
 *		and back all the time
 *	0x01	the entry is that of one page
 *	0x02	... of a PMD
 *	0x03	... of a PUD, or larger
 *	0x80	or'ed to it: the entry is present, the kernel can get at the page
 *
 * Reads the page tables themselves and asks nobody who claims to know.
 */
#include <linux/debugfs.h>
#include <linux/init.h>
#include <linux/kfence.h>
#include <linux/memblock.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pgtable.h>
#include <linux/sched/signal.h>
#include <linux/set_memory.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#define PROBE_PTE	0x01
#define PROBE_PMD	0x02
#define PROBE_PUD	0x03
#define PROBE_PRESENT	0x80

/* On some architectures an entry that is not present does not look like a leaf. */
static u8 probe_level(unsigned long addr)
{
	pgd_t *pgd = pgd_offset_k(addr);
	p4d_t *p4d;
	pud_t *pud, pud_val;
	pmd_t *pmd, pmd_val;

	if (pgd_none(READ_ONCE(*pgd)))
		return 0;

	p4d = p4d_offset(pgd, addr);
	if (p4d_none(READ_ONCE(*p4d)))
		return 0;
	if (p4d_leaf(READ_ONCE(*p4d)))
		return PROBE_PUD;

	pud = pud_offset(p4d, addr);
	pud_val = READ_ONCE(*pud);
	if (pud_none(pud_val))
		return 0;
	if (pud_leaf(pud_val) || !pud_present(pud_val))
		return PROBE_PUD;

	pmd = pmd_offset(pud, addr);
	pmd_val = READ_ONCE(*pmd);
	if (pmd_none(pmd_val))
		return 0;
	if (pmd_leaf(pmd_val) || !pmd_present(pmd_val))
		return PROBE_PMD;

	return pte_none(ptep_get(pte_offset_kernel(pmd, addr))) ? 0 : PROBE_PTE;
}

static u8 probe_page(struct page *page)
{
	void *addr;
	u8 level;

	if (PageHighMem(page))
		return 0;

	addr = page_address(page);
	if (is_kfence_address(addr))
		return 0;

	level = probe_level((unsigned long)addr);
	if (level && kernel_page_present(page))
		level |= PROBE_PRESENT;
	return level;
}

static unsigned long probe_nr_pages(u8 level)
{
	switch (level & ~PROBE_PRESENT) {
	case PROBE_PUD:
		return PTRS_PER_PMD * PTRS_PER_PTE;
	case PROBE_PMD:
		return PTRS_PER_PTE;
	default:
		return 1;
	}
}

static void probe_range(u8 *levels, unsigned long pfn, unsigned long nr_pages)
{
	unsigned long start = pfn, end = pfn + nr_pages, nr;
	bool online = false;
	u8 level;

	for (; pfn < end; pfn += nr) {
		/* Memory goes on- and offline by whole pageblocks; to ask takes longest. */
		if (pfn == start || pageblock_aligned(pfn))
			online = pfn_to_online_page(pfn);
		level = online ? probe_page(pfn_to_page(pfn)) : 0;
		/* The rest of the entry is no different. */
		nr = probe_nr_pages(level);
		nr = min(end - pfn, nr - pfn % nr);
		memset(levels, level, nr);
		levels += nr;
	}
}

static ssize_t probe_read(struct file *file, char __user *buf, size_t count,
			  loff_t *ppos)
{
	unsigned long pfn = *ppos;
	size_t done, n;
	u8 *levels;

	if (*ppos < 0 || pfn >= max_pfn)
		return 0;
	count = min(count, max_pfn - pfn);

	levels = kmalloc(PAGE_SIZE, GFP_KERNEL);
	if (!levels)
		return -ENOMEM;

	for (done = 0; done < count && !fatal_signal_pending(current); done += n) {
		n = min(count - done, PAGE_SIZE);
		/* Memory that is removed takes its page tables with it. */
		get_online_mems();
		probe_range(levels, pfn + done, n);
		put_online_mems();
		if (copy_to_user(buf + done, levels, n))
			break;
		cond_resched();
	}
	kfree(levels);
	if (!done && count)
		return -EFAULT;

	*ppos += done;
	return done;
}

static const struct file_operations probe_fops = {
	.owner	= THIS_MODULE,
	.open	= simple_open,
	.read	= probe_read,
	.llseek	= default_llseek,
};

static int __init probe_init(void)
{
	debugfs_create_file("direct_map", 0400, NULL, NULL, &probe_fops);
	return 0;
}
late_initcall(probe_init);
