/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the kernel's page tables say of page frames, see mm/direct_map_probe.c.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_DIRECT_MAP_H
#define SELFTEST_KVM_GUEST_MEMFD_DIRECT_MAP_H

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "guest_memfd_hugetlb.h"
#include "kvm_syscalls.h"
#include "test_util.h"

#define DIRECT_MAP_PROBE	"/sys/kernel/debug/direct_map"
#define DIRECT_MAP_PRESENT	0x80
#define DIRECT_MAP_PMD		2
#define DIRECT_MAP_PUD		3

static inline u8 direct_map_probe(u64 pfn)
{
	int fd = open_path_or_exit(DIRECT_MAP_PROBE, O_RDONLY);
	u8 byte;

	TEST_ASSERT(pread(fd, &byte, 1, pfn) == 1, "Cannot read the probe");
	kvm_close(fd);
	return byte;
}

static inline bool direct_map_has(u64 pfn)
{
	return direct_map_probe(pfn) & DIRECT_MAP_PRESENT;
}

/* 1 to 3: of how large an entry the page is a part, present or not. */
static inline int direct_map_level(u64 pfn)
{
	return direct_map_probe(pfn) & ~DIRECT_MAP_PRESENT;
}

static inline u64 __direct_map_count_missing(u64 flags)
{
	static u8 bytes[SZ_64K];
	int fd = open_path_or_exit(DIRECT_MAP_PROBE, O_RDONLY);
	u64 missing = 0, pfn = 0;
	ssize_t i, len;

	while ((len = read(fd, bytes, sizeof(bytes))) > 0)
		for (i = 0; i < len; i++, pfn++)
			missing += bytes[i] && !(bytes[i] & DIRECT_MAP_PRESENT) &&
				   (!flags || gmem_page_flags(pfn) & flags);
	TEST_ASSERT(!len, "Cannot read the probe");
	kvm_close(fd);
	return missing;
}

/* All pages of the system that the direct map should have and does not. */
static inline u64 direct_map_count_missing(void)
{
	return __direct_map_count_missing(0);
}

/* Those of them that are broken. */
static inline u64 direct_map_count_broken(void)
{
	return __direct_map_count_missing(BIT(KPF_HWPOISON));
}

/* Wait for blocks that are on their way back.  Return how many there are then. */
static inline u64 direct_map_missing_becomes(u64 want)
{
	u64 missing;

	GMEM_WAIT_FOR((missing = direct_map_count_missing()) == want);
	return missing;
}

/* With debug_pagealloc=on whatever is free is out. */
static inline bool direct_map_has_free_pages(void)
{
	char line[4096] = {};
	FILE *file = fopen("/proc/cmdline", "r");

	TEST_ASSERT(file && fgets(line, sizeof(line), file), "No command line");
	fclose(file);
	return !strstr(line, "debug_pagealloc=on");
}

/* A line of a file of /proc that is a table of names and numbers. */
static inline u64 proc_read_number(const char *path, const char *name)
{
	char line[128], key[64];
	u64 value;
	FILE *file = fopen(path, "r");

	TEST_ASSERT(file, "Cannot open %s", path);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%63[^: ]%*[: ]%lu", key, &value) == 2 &&
		    !strcmp(key, name)) {
			fclose(file);
			return value;
		}
	}
	TEST_FAIL("No %s in %s", name, path);
}

static inline u64 direct_map_flushes(void)
{
	return proc_read_number("/proc/vmstat", "direct_map_flushes");
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_DIRECT_MAP_H */
