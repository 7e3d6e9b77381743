// SPDX-License-Identifier: GPL-2.0-only
/*
 * What it costs to touch a page of memfd_secret().
 *
 * To be run like convert_bench, on the kernel with AS_NO_DIRECT_MAP and on the one
 * before: memfd_secret() did by itself what the page cache does for it now.  One
 * line:
 *
 * secretmem-fault INSTRUCTIONS
 *	for the first touch of a page, zeroing included: average of 512 KiB, which
 *	end before the next tick of the clock at times, the best of some rounds.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>

#include "bench.h"

#define SZ_512K		0x80000UL

static unsigned long touch_512k(void)
{
	int fd = syscall(__NR_memfd_secret, 0);
	unsigned long begin, offset, cost;
	char *p;

	if (fd < 0 || ftruncate(fd, SZ_512K))
		err(2, "memfd_secret");
	p = map(SZ_512K, MAP_SHARED, fd);
	begin = now();
	for (offset = 0; offset < SZ_512K; offset += PAGE)
		p[offset] = 1;
	cost = since(begin);
	munmap(p, SZ_512K);
	close(fd);
	return cost / (SZ_512K / PAGE);
}

int main(void)
{
	unsigned long cost = ~0UL;
	int i;

	start_clock();
	for (i = 0; i < ROUNDS; i++)
		cost = least(cost, touch_512k());
	printf("secretmem-fault %lu\n", cost);
	return 0;
}
