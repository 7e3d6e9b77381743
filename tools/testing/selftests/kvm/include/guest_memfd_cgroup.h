/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A cgroup for a test, and what it is charged for huge pages.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_CGROUP_H
#define SELFTEST_KVM_GUEST_MEMFD_CGROUP_H

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "guest_memfd_hugetlb.h"
#include "test_util.h"

#define CGROUP		"/sys/fs/cgroup/guest_memfd_hugetlb"
#define CGROUP_PARENT	"/sys/fs/cgroup"

static inline long cgroup_read(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), CGROUP "/%s", name);
	return gmem_read_number(path);
}

static inline void hugetlb_cgroup_path(char path[128], u64 block_size, const char *name)
{
	snprintf(path, 128, CGROUP "/hugetlb.%s.%s",
		 block_size == SZ_1G ? "1GB" : "2MB", name);
}

static inline long hugetlb_cgroup_read(u64 block_size, const char *name)
{
	char path[128];

	hugetlb_cgroup_path(path, block_size, name);
	return gmem_read_number(path);
}

static inline void hugetlb_cgroup_write(u64 block_size, const char *name, long value)
{
	char path[128];

	hugetlb_cgroup_path(path, block_size, name);
	gmem_write_number(path, value);
}

static inline long hugetlb_cgroup_nr_refused(u64 block_size)
{
	char path[128];
	FILE *file;
	long nr;

	hugetlb_cgroup_path(path, block_size, "events");
	file = fopen(path, "r");
	TEST_ASSERT(file && fscanf(file, "max %ld", &nr) == 1, "Cannot read %s", path);
	fclose(file);
	return nr;
}

static inline void cgroup_enter(const char *cgroup)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	file = fopen(path, "w");
	TEST_ASSERT(file && fprintf(file, "%d", getpid()) > 0 && !fclose(file),
		    "Cannot move to %s", cgroup);
}

/* Make the cgroup and enter it.  Return false if it has not got @file. */
static inline bool cgroup_enter_new(const char *file)
{
	char path[128];

	snprintf(path, sizeof(path), CGROUP "/%s", file);
	/* A test that failed may have left its own. */
	rmdir(CGROUP);
	TEST_ASSERT(!mkdir(CGROUP, 0755), "Cannot make " CGROUP);
	if (access(path, R_OK)) {
		rmdir(CGROUP);
		return false;
	}
	cgroup_enter(CGROUP);
	return true;
}

/* Leave and remove it.  Return what rmdir() does. */
static inline int cgroup_leave(void)
{
	cgroup_enter(CGROUP_PARENT);
	return rmdir(CGROUP);
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_CGROUP_H */
