// SPDX-License-Identifier: GPL-2.0-only
/*
 * What it costs to touch a page of memfd_secret().
 *
 * To be run like convert_bench, on the kernel with AS_NO_DIRECT_MAP and on the one
 * before: memfd_secret() did by itself what the page cache does for it now.  One
 * line:
 *
 * secretmem-fault INSTRUCTIONS
 *	for the first touch of a page, zeroing included, average of 4 MiB, the
 *	second time: what had to be split in the direct map was split.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>

#include "bench.h"

#define SZ_4M		0x400000UL

static unsigned long touch_4m(void)
{
	int fd = syscall(__NR_memfd_secret, 0);
	unsigned long begin, offset, cost;
	char *p;

	if (fd < 0 || ftruncate(fd, SZ_4M))
		err(2, "memfd_secret");
	p = map(SZ_4M, MAP_SHARED, fd);
	begin = now();
	for (offset = 0; offset < SZ_4M; offset += PAGE)
		p[offset] = 1;
	cost = since(begin);
	munmap(p, SZ_4M);
	close(fd);
	return cost / (SZ_4M / PAGE);
}

int main(void)
{
	start_clock();
	touch_4m();
	printf("secretmem-fault %lu\n", touch_4m());
	return 0;
}
