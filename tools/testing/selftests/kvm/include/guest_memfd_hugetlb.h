/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests of guest_memfds of huge blocks ask of the hugetlb pool.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_HUGETLB_H
#define SELFTEST_KVM_GUEST_MEMFD_HUGETLB_H

#include <stdio.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "test_util.h"

/* How long a block may take to be back after the last reference has gone. */
#define GMEM_JOIN_MSECS		1000

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
	FILE *file = fopen(path, "w");

	TEST_ASSERT(file && fprintf(file, "%ld", value) > 0 && !fclose(file),
		    "Cannot write %s", path);
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

static inline bool gmem_pool_is(u64 block_size, struct gmem_pool_counts want)
{
	struct gmem_pool_counts is = gmem_pool_count(block_size);

	return is.nr == want.nr && is.free == want.free && is.resv == want.resv &&
	       is.surplus == want.surplus;
}

/* Wait for blocks that are on their way back.  Return false if they are late. */
static inline bool gmem_pool_becomes(u64 block_size, struct gmem_pool_counts want)
{
	struct timespec start, now;
	long msecs;

	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		if (gmem_pool_is(block_size, want))
			return true;
		usleep(10000);
		clock_gettime(CLOCK_MONOTONIC, &now);
		msecs = (now.tv_sec - start.tv_sec) * 1000 +
			(now.tv_nsec - start.tv_nsec) / 1000000;
	} while (msecs < GMEM_JOIN_MSECS);

	return gmem_pool_is(block_size, want);
}

/* All of the system. */
static inline unsigned long gmem_broken_kbytes(void)
{
	FILE *file = fopen("/proc/meminfo", "r");
	unsigned long kbytes = 0;
	char line[128];

	TEST_ASSERT(file, "Cannot open /proc/meminfo");
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "HardwareCorrupted: %lu", &kbytes) == 1)
			break;
	fclose(file);
	return kbytes;
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
