/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Small files of procfs, sysfs and debugfs, read and written as a whole.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_FILES_H
#define SELFTEST_KVM_GUEST_MEMFD_FILES_H

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "test_util.h"

/* All that there is, or as much as there is room for. */
static inline int try_read_file(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t len, all = 0;

	if (fd < 0)
		return -1;
	while ((len = read(fd, text + all, size - 1 - all)) > 0)
		all += len;
	close(fd);
	text[all] = '\0';
	return len < 0 ? -1 : 0;
}

static inline void read_file(const char *path, char *text, size_t size)
{
	TEST_ASSERT(!try_read_file(path, text, size) && text[0], "Cannot read %s", path);
}

/* As echo would: trace is emptied first. */
static inline int try_write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC);
	ssize_t len;

	if (fd < 0)
		return -1;
	len = write(fd, text, strlen(text));
	close(fd);
	return len == (ssize_t)strlen(text) ? 0 : -1;
}

static inline void write_file(const char *path, const char *text)
{
	TEST_ASSERT(!try_write_file(path, text), "Cannot write %s to %s", text, path);
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_FILES_H */
