/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests of guest_memfds of huge blocks ask of the hugetlb pool.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_HUGETLB_H
#define SELFTEST_KVM_GUEST_MEMFD_HUGETLB_H

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include <linux/kernel-page-flags.h>
#include <linux/sizes.h>

#include "guest_memfd_files.h"
#include "kvm_util.h"
#include "test_util.h"

/* How long a block takes to be back after the last reference has gone, at most. */
#define GMEM_JOIN_MSECS		1000
/* What is not there by then does not come, however slow the machine is. */
#define GMEM_LATE_MSECS		(10 * GMEM_JOIN_MSECS)

static inline bool gmem_is_late(struct timespec start)
{
	return timespec_elapsed(start).tv_sec >= GMEM_LATE_MSECS / 1000;
}

/* Wait for a condition; is it true then? */
#define GMEM_WAIT_FOR(_condition)				\
({								\
	struct timespec _start;					\
	bool _is_true;						\
								\
	clock_gettime(CLOCK_MONOTONIC, &_start);		\
	while (!(_is_true = (_condition)) && !gmem_is_late(_start))	\
		usleep(10000);					\
	_is_true;						\
})

struct gmem_pool_counts {
	long nr;
	long free;
	long resv;
	long surplus;
};

/* A file of sysfs or of a cgroup with a number in it. */
static inline long gmem_read_number(const char *path)
{
	FILE *file = fopen(path, "r");
	long value;

	TEST_ASSERT(file && fscanf(file, "%ld", &value) == 1, "Cannot read %s", path);
	fclose(file);
	return value;
}

static inline void gmem_write_number(const char *path, long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", value);
	write_file(path, text);
}

static inline long gmem_pool_read(u64 block_size, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%lukB/%s",
		 block_size / SZ_1K, name);
	return gmem_read_number(path);
}

static inline void gmem_pool_write(u64 block_size, const char *name, long value)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%lukB/%s",
		 block_size / SZ_1K, name);
	gmem_write_number(path, value);
}

static inline struct gmem_pool_counts gmem_pool_count(u64 block_size)
{
	return (struct gmem_pool_counts) {
		.nr = gmem_pool_read(block_size, "nr_hugepages"),
		.free = gmem_pool_read(block_size, "free_hugepages"),
		.resv = gmem_pool_read(block_size, "resv_hugepages"),
		.surplus = gmem_pool_read(block_size, "surplus_hugepages"),
	};
}

/* The same counter of all nodes together; there is none of what is reserved. */
static inline long gmem_nodes_read(u64 block_size, const char *name)
{
	char path[128];
	long sum = 0;
	int node;

	for (node = 0; ; node++) {
		snprintf(path, sizeof(path),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-%lukB/%s",
			 node, block_size / SZ_1K, name);
		if (access(path, R_OK))
			return sum;
		sum += gmem_read_number(path);
	}
}

static inline bool gmem_nodes_are(u64 block_size, struct gmem_pool_counts want)
{
	return access("/sys/devices/system/node/node0/hugepages", F_OK) ||
	       (gmem_nodes_read(block_size, "nr_hugepages") == want.nr &&
		gmem_nodes_read(block_size, "free_hugepages") == want.free &&
		gmem_nodes_read(block_size, "surplus_hugepages") == want.surplus);
}

static inline bool gmem_pool_is(u64 block_size, struct gmem_pool_counts want)
{
	struct gmem_pool_counts is = gmem_pool_count(block_size);

	return is.nr == want.nr && is.free == want.free && is.resv == want.resv &&
	       is.surplus == want.surplus && gmem_nodes_are(block_size, want);
}

/* Wait for blocks that are on their way back.  Return false if they are late. */
static inline bool gmem_pool_becomes(u64 block_size, struct gmem_pool_counts want)
{
	return GMEM_WAIT_FOR(gmem_pool_is(block_size, want));
}

/* A line of a file of /proc: the number behind the name. */
static inline long gmem_proc_read(const char *path, const char *name)
{
	FILE *file = fopen(path, "r");
	char line[256], key[64];
	long value;

	TEST_ASSERT(file, "Cannot open %s", path);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%63[^: ]%*[: \t]%ld", key, &value) == 2 &&
		    !strcmp(key, name)) {
			fclose(file);
			return value;
		}
	}

	TEST_FAIL("No %s in %s", name, path);
}

/* What CPUs have counted but not added up yet is added first. */
static inline long gmem_vmstat(const char *name)
{
	gmem_write_number("/proc/sys/vm/stat_refresh", 1);
	return gmem_proc_read("/proc/vmstat", name);
}

/* All of the system. */
static inline unsigned long gmem_broken_kbytes(void)
{
	return gmem_proc_read("/proc/meminfo", "HardwareCorrupted");
}

/* What one of the files of /proc with a word for each page frame tells. */
static inline u64 gmem_page_word(const char *path, u64 pfn)
{
	int fd = open_path_or_exit(path, O_RDONLY);
	u64 word;

	TEST_ASSERT(pread(fd, &word, sizeof(word), pfn * sizeof(word)) == sizeof(word),
		    "Cannot read %s", path);
	kvm_close(fd);
	return word;
}

/* Bits KPF_*. */
static inline u64 gmem_page_flags(u64 pfn)
{
	return gmem_page_word("/proc/kpageflags", pfn);
}

/* A fixture for each size of blocks; for programs with kselftest_harness.h. */
#define GMEM_BLOCK_VARIANTS(fixture)				\
	FIXTURE_VARIANT(fixture) { u64 block; };		\
	FIXTURE_VARIANT_ADD(fixture, 2M) { .block = SZ_2M };	\
	FIXTURE_VARIANT_ADD(fixture, 1G) { .block = SZ_1G }

static inline u64 gmem_hugetlb_flag(u64 block_size)
{
	return GUEST_MEMFD_FLAG_HUGETLB |
	       (u64)(ffsl(block_size) - 1) << GUEST_MEMFD_HUGETLB_SHIFT;
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_HUGETLB_H */
