// SPDX-License-Identifier: GPL-2.0-only
/*
 * What it costs to keep a guest_memfd out of the direct map.
 *
 * To be run like huge_bench, on a kernel with hugepagesz=1G hugepages=1.  Lines are
 * those of convert_bench.  The keys:
 *
 * directmap-1g
 *	Flushes of the TLB of all CPUs to populate, and then to punch out, a file
 *	of one block of 1 GiB.  MISSED as well if DirectMap1G has changed, with
 *	the block out or back, or the kernel has split an entry.  Peer: the same
 *	of 1 GiB of a file of 4 KiB pages.
 *
 * directmap-4k
 *	Instructions to populate 64 MiB of a file of 4 KiB pages with one call of
 *	fallocate(), the second time, when what can be split was split.  Peer: the
 *	same of a file that is in the direct map.  Ratio: ours / peer.  What of
 *	that is zeroing, which both do, is told beside it, and the way back.
 *
 * directmap-4k.flushes
 *	Flushes of the TLB in directmap-4k.  Peer: pages / 512.
 *
 * directmap-fault, directmap-fault.flushes
 *	The same if a store to each page populates them, of which one in 16 is a
 *	fault.  Peer of the flushes: pages / 16.
 */
#define _GNU_SOURCE
#include "bench.h"

#define SZ_1G		0x40000000UL
#define SZ_64M		0x4000000UL
#define SZ_64K		0x10000UL
#define SHAREABLE	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)
#define HUGE_1G		(GUEST_MEMFD_FLAG_HUGETLB | GUEST_MEMFD_HUGETLB_1GB)

static int vm;

static unsigned long read_number(const char *path, const char *name)
{
	size_t len = strlen(name);
	char line[256];
	unsigned long value;
	FILE *f = fopen(path, "r");

	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, name, len) || !strchr(": ", line[len]))
			continue;
		value = strtoul(line + len + 1, NULL, 10);
		fclose(f);
		return value;
	}
	errx(2, "no %s in %s", name, path);
}

struct counts {
	unsigned long flushes;
	unsigned long leaves;
	unsigned long splits;
};

static struct counts count(void)
{
	return (struct counts) {
		.flushes = read_number("/proc/vmstat", "direct_map_flushes"),
		.leaves = read_number("/proc/meminfo", "DirectMap1G"),
		.splits = read_number("/proc/vmstat", "direct_map_level3_splits"),
	};
}

static void allocate(int fd, unsigned long size)
{
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size))
		err(2, "fallocate");
}

static void punch(int fd, unsigned long size)
{
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, size))
		err(2, "punching a hole");
}

static unsigned long flushes_of_1g(unsigned long flags, bool *whole)
{
	int fd = create_gmem(vm, SZ_1G, SHAREABLE | GUEST_MEMFD_FLAG_NO_DIRECT_MAP |
					flags);
	struct counts before = count(), out, back;

	allocate(fd, SZ_1G);
	out = count();
	punch(fd, SZ_1G);
	back = count();
	close(fd);

	*whole = out.leaves == before.leaves && back.leaves == before.leaves &&
		 back.splits == before.splits;
	return back.flushes - before.flushes;
}

static bool directmap_1g(void)
{
	unsigned long ours, peer;
	bool whole, shattered;

	ours = flushes_of_1g(HUGE_1G, &whole);
	printf("# directmap-1g: the entry of 1 GiB was %s\n",
	       whole ? "not split" : "split");
	peer = flushes_of_1g(0, &shattered);
	print_key("directmap-1g", ours, peer, (double)peer / ours, "1",
		  ours == 1 && whole);
	return ours == 1 && whole;
}

static void touch(int fd, unsigned long size)
{
	char *mem = map(size, MAP_SHARED, fd);
	unsigned long offset;

	for (offset = 0; offset < size; offset += PAGE)
		mem[offset] = 1;
	munmap(mem, size);
}

struct cost {
	unsigned long in;
	unsigned long out;
	unsigned long flushes;
};

static struct cost cost_of_64m(void (*populate)(int fd, unsigned long size),
			       unsigned long flags)
{
	int fd = create_gmem(vm, SZ_64M, SHAREABLE | flags);
	unsigned long begin, flushes;
	struct cost cost;

	allocate(fd, SZ_64M);
	punch(fd, SZ_64M);

	flushes = count().flushes;
	begin = now();
	populate(fd, SZ_64M);
	cost.in = since(begin);
	cost.flushes = count().flushes - flushes;
	begin = now();
	punch(fd, SZ_64M);
	cost.out = since(begin);
	close(fd);
	return cost;
}

static bool directmap_4k(const char *key,
			 void (*populate)(int fd, unsigned long size),
			 unsigned long flush_size, unsigned int limit)
{
	struct cost ours = cost_of_64m(populate, GUEST_MEMFD_FLAG_NO_DIRECT_MAP);
	struct cost peer = cost_of_64m(populate, 0);
	unsigned long flushes = SZ_64M / flush_size;
	bool met = ours.in <= limit * peer.in, few = ours.flushes <= flushes;
	char flush_key[64], goal[16];

	printf("# %s: the way back takes %lu, %lu\n", key, ours.out, peer.out);
	snprintf(goal, sizeof(goal), "<=%ux", limit);
	print_key(key, ours.in, peer.in, (double)ours.in / peer.in, goal, met);
	snprintf(flush_key, sizeof(flush_key), "%s.flushes", key);
	print_key(flush_key, ours.flushes, flushes,
		  ours.flushes / (double)flushes, "<=1x", few);
	return met && few;
}

int main(void)
{
	unsigned long zeroing;
	const char *how;
	bool met;

	setvbuf(stdout, NULL, _IOLBF, 0);
	start_clock();
	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		err(2, "/dev/kvm");
	vm = IOCTL(kvm, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	met = directmap_1g();
	zeroing = zero_page_cost(&how) * (SZ_64M / PAGE);
	printf("# directmap: zeroing (%s) takes %lu of 64 MiB\n", how, zeroing);
	met &= directmap_4k("directmap-4k", allocate, SZ_2M, 2);
	met &= directmap_4k("directmap-fault", touch, SZ_64K, 1);
	return met ? 0 : 1;
}
