// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a guest_memfd of huge pages costs, beside one of 4 KiB pages and the way
 * with two pools.
 *
 * To be run like convert_bench, on a kernel with hugepagesz=1G hugepages=2 and a
 * free huge page of 2 MiB.  Lines are those of convert_bench.  The keys:
 *
 * block-split
 *	Instructions a 4 KiB page to make a free huge page of 1 GiB the memory of
 *	a file: fallocate() of the file, less fallocate() of a file of hugetlbfs,
 *	which takes such a page as well, zeroes it with the same function, and
 *	puts it into the page cache as one.  What the two have in common beside
 *	the zeroing, some thousand instructions, is less than 0.1 a page.
 *	Peer: the same of a guest_memfd of 4 KiB pages, less its zeroing (as in
 *	convert-2m).
 *
 * block-join
 *	The way back: a hole over all of the file, which nobody has mapped.
 *	Peer: the same of a guest_memfd of 4 KiB pages.
 *
 * convert-1g
 *	One conversion, average of both directions, of all of a file of one block
 *	of 1 GiB (ours) and of 2 MiB (peer).  The file is populated and user space
 *	has touched nothing; the guest has it in its page tables.  Ratio: ours /
 *	peer.
 *
 * convert-4k
 *	convert-2m, with one page in the midst of a block of 1 GiB.  The peer has
 *	1 GiB of memory of two pools, of which the 2 MiB around the page are
 *	there.  What else of the block the guest has to fault in again is told
 *	beside it.  Ratio: peer / ours.
 *
 * fault-1g
 *	Stage-2 faults of a guest that writes to each page of a populated file of
 *	1 GiB (vCPU statistic pf_taken).  Peer: a file of 4 KiB pages.
 *
 * leaves-1g.hole, leaves-1g.rejoin
 *	Stage-2 leaves, 1 GiB/2 MiB/4 KiB (VM statistics pages_*), when one page
 *	of a file of 1 GiB was made private and the guest has written to each
 *	page; and after it was made shared again and written to again.  Peer: a
 *	file of 4 KiB pages.
 *
 * memory, memory.scattered
 *	MiB of physical memory that a guest of 1 GiB takes: huge pages, and
 *	MemFree with what waits on per-CPU lists.  The guest has touched all of
 *	it.  64 MiB at its start are shared and host and guest use them; the rest
 *	is private.  Scattered: host and guest have touched all of it when it was
 *	shared; then all but the first page of each 2 MiB was made private, and
 *	all was touched again, so that no page table could be more full.  The
 *	pool saves the struct pages of its free huge pages
 *	(hugetlb_optimize_vmemmap), so that those of a block count; the peer has
 *	some all the time, which are not counted.  Peer: the two-pool way, 4 KiB
 *	pages, of which only those in use are there.  Ratio: ours / 1024.
 *
 * Where the parts of block-split and block-join begin and end is taken from the
 * trace events of the core, with the same clock.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <linux/memfd.h>

#define SZ_1G		0x40000000UL
#define SZ_64M		0x4000000UL
#define GIB_PAGES	(SZ_1G / PAGE)
#define GIB_ROUNDS	5
#define TRACING		"/sys/kernel/tracing/"
#define POOL_1G		"/sys/kernel/mm/hugepages/hugepages-1048576kB/"
#define SHAREABLE	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)
#define HUGE_1G		(SHAREABLE | GUEST_MEMFD_FLAG_HUGETLB | GUEST_MEMFD_HUGETLB_1GB)
#define HUGE_2M		(SHAREABLE | GUEST_MEMFD_FLAG_HUGETLB | GUEST_MEMFD_HUGETLB_2MB)
/* Where the guest has its memory. */
#define GPA		SZ_1G

static struct vm vm;

static unsigned long zeroing;
/* To take 1 GiB as a file of hugetlbfs does. */
static unsigned long hugetlbfs_1g;

static void write_file(const char *path, const char *what)
{
	FILE *f = fopen(path, "w");

	if (!f || fputs(what, f) < 0 || fclose(f))
		err(2, "%s", path);
}

static unsigned long read_number(const char *path, const char *before)
{
	unsigned long number;
	char line[512];
	FILE *f = fopen(path, "r");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, before, strlen(before)) &&
		    sscanf(line + strlen(before), "%lu", &number) == 1) {
			fclose(f);
			return number;
		}
	errx(2, "%s: no '%s'", path, before);
}

/*
 * Files
 */

static void populate(int fd, unsigned long size)
{
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size))
		err(2, "fallocate");
}

static void punch(int fd, unsigned long offset, unsigned long size)
{
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size))
		err(2, "punch");
}

static unsigned long populate_cost(int fd, unsigned long size)
{
	unsigned long begin = now();

	populate(fd, size);
	return since(begin);
}

static unsigned long punch_cost(int fd, unsigned long size)
{
	unsigned long begin = now();

	punch(fd, 0, size);
	return since(begin);
}

static int create_memfd(unsigned long size, unsigned int flags)
{
	int fd = memfd_create("shared", flags);

	if (fd < 0 || ftruncate(fd, size))
		err(2, "memfd");
	return fd;
}

/* Aligned as well as the guest has it. */
static char *map_aligned(unsigned long size, int flags, int fd)
{
	char *room = mmap(NULL, size + SZ_1G, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *start = (char *)(((uintptr_t)room + SZ_1G - 1) & ~(SZ_1G - 1));

	if (room == MAP_FAILED ||
	    mmap(start, size, PROT_READ | PROT_WRITE,
		 flags | MAP_FIXED | MAP_NORESERVE, fd, 0) != start)
		err(2, "mmap");
	return start;
}

/*
 * Guests
 */

#define SCRATCH	PAGE

/* One that has faulted in its program. */
static struct vm create_warm_vm(void)
{
	struct vm vm = create_vm();

	add_slot(vm.fd, SCRATCH, PAGE, map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1), -1);
	guest_writes(&vm, SCRATCH, PAGE);
	return vm;
}

static void free_vm(struct vm *vm)
{
	munmap(vm->run, IOCTL(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	close(vm->vcpu);
	close(vm->fd);
}

static long kvm_stat(int of, const char *name)
{
	int fd = IOCTL(of, KVM_GET_STATS_FD, 0);
	struct kvm_stats_header header;
	struct kvm_stats_desc *desc;
	unsigned int i;
	size_t size;
	__u64 value;

	if (pread(fd, &header, sizeof(header), 0) != sizeof(header))
		err(2, "KVM statistics");
	size = sizeof(*desc) + header.name_size;
	desc = malloc(size);
	for (i = 0; i < header.num_desc; i++) {
		if (pread(fd, desc, size, header.desc_offset + i * size) != (ssize_t)size)
			err(2, "KVM statistics");
		if (strcmp(desc->name, name))
			continue;
		if (pread(fd, &value, sizeof(value),
			  header.data_offset + desc->offset) != sizeof(value))
			err(2, "KVM statistics");
		free(desc);
		close(fd);
		return value;
	}
	errx(2, "no KVM statistic %s", name);
}

struct leaves {
	long of_1g;
	long of_2m;
	long of_4k;
};

static struct leaves count_leaves(const struct vm *vm)
{
	return (struct leaves) {
		.of_1g = kvm_stat(vm->fd, "pages_1g"),
		.of_2m = kvm_stat(vm->fd, "pages_2m"),
		.of_4k = kvm_stat(vm->fd, "pages_4k"),
	};
}

/*
 * block-split, block-join
 */

/* When did the last event happen? */
static unsigned long event_time(const char *name)
{
	unsigned long time = 0;
	char line[512], *p;
	FILE *f = fopen(TRACING "trace", "r");

	while (f && fgets(line, sizeof(line), f)) {
		p = strstr(line, name);
		if (!p)
			continue;
		/* "  TIME: NAME: ..." */
		while (p > line && *--p != ':')
			;
		while (p > line && p[-1] != ' ')
			p--;
		time = strtoul(p, NULL, 10);
	}
	if (!f || !time)
		errx(2, "no event %s", name);
	fclose(f);
	return time;
}

struct block_cost {
	unsigned long take;	/* zeroing included */
	unsigned long fill;
	unsigned long remove;
	unsigned long join;
};

static void one_block(int fd, unsigned long size, struct block_cost *best)
{
	unsigned long begin, event, end;

	begin = now();
	populate(fd, size);
	end = now();
	event = event_time(" guest_memfd_split:");
	best->take = least(best->take, event - begin);
	best->fill = least(best->fill, end - event);

	begin = now();
	punch(fd, 0, size);
	end = now();
	event = event_time(" guest_memfd_join:");
	best->remove = least(best->remove, event - begin);
	best->join = least(best->join, end - event);
}

static struct block_cost block_cost(unsigned long size, unsigned long flags)
{
	struct block_cost best = { ~0UL, ~0UL, ~0UL, ~0UL };
	int i, fd = create_gmem(vm.fd, size, flags);

	for (i = 0; i < GIB_ROUNDS; i++)
		one_block(fd, size, &best);
	close(fd);
	return best;
}

static unsigned long hugetlbfs_cost(unsigned long size, unsigned int flags)
{
	int i, fd = create_memfd(size, MFD_HUGETLB | flags);
	unsigned long cost = ~0UL;

	for (i = 0; i < GIB_ROUNDS; i++) {
		cost = least(cost, populate_cost(fd, size));
		punch(fd, 0, size);
	}
	close(fd);
	return cost;
}

static void print_block(const char *what, unsigned long size, unsigned long hugetlbfs,
			const struct block_cost *cost)
{
	double pages = size / PAGE;

	printf("# block-split %s: %.1f a page take and split, %.1f insert; ", what,
	       ((double)cost->take - hugetlbfs) / pages, cost->fill / pages);
	printf("%.1f zeroing taken off\n", hugetlbfs / pages);
	printf("# block-join %s: %.1f a page remove, %.1f join\n", what,
	       cost->remove / pages, cost->join / pages);
}

static bool print_per_page(const char *key, double ours, double peer, unsigned int goal)
{
	printf("%s %.1f %.1f %.2fx <=%u %s\n", key, ours, peer, peer / ours, goal,
	       ours <= goal ? "MET" : "MISSED");
	return ours <= goal;
}

static bool blocks(void)
{
	unsigned long peer_split = ~0UL, peer_join = ~0UL;
	unsigned long hugetlbfs_2m;
	struct block_cost cost, cost_2m;
	bool met = true;
	int i, small;

	write_file(TRACING "trace_clock", "x86-tsc");
	write_file(TRACING "events/guest_memfd/guest_memfd_split/enable", "1");
	write_file(TRACING "events/guest_memfd/guest_memfd_join/enable", "1");

	hugetlbfs_1g = hugetlbfs_cost(SZ_1G, MFD_HUGE_1GB);
	hugetlbfs_2m = hugetlbfs_cost(SZ_2M, MFD_HUGE_2MB);
	cost = block_cost(SZ_1G, HUGE_1G);
	cost_2m = block_cost(SZ_2M, HUGE_2M);

	write_file(TRACING "events/enable", "0");

	small = create_gmem(vm.fd, SZ_64M, SHAREABLE);
	for (i = 0; i < GIB_ROUNDS; i++) {
		peer_split = least(peer_split, populate_cost(small, SZ_64M));
		peer_join = least(peer_join, punch_cost(small, SZ_64M));
	}
	close(small);

	print_block("1 GiB", SZ_1G, hugetlbfs_1g, &cost);
	print_block("2 MiB", SZ_2M, hugetlbfs_2m, &cost_2m);
	met &= print_per_page("block-split",
			      ((double)cost.take + cost.fill - hugetlbfs_1g) / GIB_PAGES,
			      (double)peer_split / (SZ_64M / PAGE) - zeroing, 64);
	met &= print_per_page("block-join", (double)(cost.remove + cost.join) / GIB_PAGES,
			      (double)peer_join / (SZ_64M / PAGE), 96);
	return met;
}

/*
 * convert-1g
 */

static unsigned long whole_file_cost(unsigned long size, unsigned long flags,
				     const char *what)
{
	unsigned long begin, to_private = ~0UL, to_shared = ~0UL;
	struct vm its_vm = create_warm_vm();
	int i, gmem = create_gmem(its_vm.fd, size, flags);
	char *shared = map_aligned(size, MAP_SHARED, gmem);

	add_slot(its_vm.fd, GPA, size, shared, gmem);
	populate(gmem, size);
	for (i = 0; i < ROUNDS; i++) {
		guest_writes(&its_vm, GPA, PAGE);
		begin = now();
		convert(gmem, 0, size, KVM_MEMORY_ATTRIBUTE_PRIVATE);
		to_private = least(to_private, since(begin));

		guest_writes(&its_vm, GPA, PAGE);
		begin = now();
		convert(gmem, 0, size, 0);
		to_shared = least(to_shared, since(begin));
	}
	printf("# convert-1g %s: %lu to private, %lu to shared\n", what, to_private,
	       to_shared);
	munmap(shared, size);
	close(gmem);
	free_vm(&its_vm);
	return (to_private + to_shared) / 2;
}

static bool convert_1g(void)
{
	unsigned long ours = whole_file_cost(SZ_1G, HUGE_1G, "1 GiB");
	unsigned long peer = whole_file_cost(SZ_2M, HUGE_2M, "2 MiB");
	double ratio = (double)ours / peer;

	print_key("convert-1g", ours, peer, ratio, "<=4x", ratio <= 4);
	return ratio <= 4;
}

/*
 * convert-4k
 */

#define THE_PAGE	(SZ_1G / 2 + 77 * PAGE)

struct way {
	const char *name;
	struct vm vm;
	int gmem;
	int memfd;
	char *shared;
	void (*to_private)(const struct way *way);
	void (*to_shared)(const struct way *way);
};

static void in_place_to_private(const struct way *way)
{
	convert(way->gmem, THE_PAGE, PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE);
}

static void in_place_to_shared(const struct way *way)
{
	convert(way->gmem, THE_PAGE, PAGE, 0);
}

static void set_vm_attributes(const struct vm *vm, __u64 gpa, __u64 size, __u64 attributes)
{
	struct kvm_memory_attributes attrs = {
		.address = gpa,
		.size = size,
		.attributes = attributes,
	};

	IOCTL(vm->fd, KVM_SET_MEMORY_ATTRIBUTES, &attrs);
}

static void two_pools_to_private(const struct way *way)
{
	set_vm_attributes(&way->vm, GPA + THE_PAGE, PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE);
	if (way->memfd >= 0)
		punch(way->memfd, THE_PAGE, PAGE);
	else if (madvise(way->shared + THE_PAGE, PAGE, MADV_DONTNEED))
		err(2, "madvise");
}

static void two_pools_to_shared(const struct way *way)
{
	set_vm_attributes(&way->vm, GPA + THE_PAGE, PAGE, 0);
	punch(way->gmem, THE_PAGE, PAGE);
}

static void host_writes(char *shared, unsigned long size)
{
	unsigned long i;

	for (i = 0; i < size; i += PAGE)
		__atomic_store_n(shared + i, 1, __ATOMIC_RELAXED);
}

struct cost {
	unsigned long to_private;
	unsigned long guest_uses;
	unsigned long to_shared;
	unsigned long host_uses;
	unsigned long guest_rest;
	unsigned long rest_faults;
};

/* All of the block, or the 2 MiB that are there. */
static void guest_writes_rest(struct way *way, struct cost *best)
{
	unsigned long size = way->memfd == -2 ? SZ_1G : SZ_2M;
	unsigned long from = size == SZ_1G ? 0 : THE_PAGE & ~(SZ_2M - 1);
	long faults = kvm_stat(way->vm.vcpu, "pf_taken");
	unsigned long begin = now();

	guest_writes(&way->vm, GPA + from, size);
	best->guest_rest = least(best->guest_rest, since(begin));
	faults = kvm_stat(way->vm.vcpu, "pf_taken") - faults;
	best->rest_faults = least(best->rest_faults, faults);
}

static void one_round(struct way *way, struct cost *best)
{
	struct cost unused = {};
	unsigned long begin;

	host_writes(way->shared + (THE_PAGE & ~(SZ_2M - 1)), SZ_2M);
	guest_writes_rest(way, &unused);

	begin = now();
	way->to_private(way);
	best->to_private = least(best->to_private, since(begin));

	begin = now();
	guest_writes(&way->vm, GPA + THE_PAGE, PAGE);
	best->guest_uses = least(best->guest_uses, since(begin));
	guest_writes_rest(way, best);

	begin = now();
	way->to_shared(way);
	best->to_shared = least(best->to_shared, since(begin));

	begin = now();
	host_writes(way->shared + THE_PAGE, PAGE);
	best->host_uses = least(best->host_uses, since(begin));
}

static unsigned long way_cost(struct way *way)
{
	struct cost best = { ~0UL, ~0UL, ~0UL, ~0UL, ~0UL, ~0UL };
	unsigned long sum;
	int i;

	for (i = 0; i < ROUNDS; i++)
		one_round(way, &best);
	sum = best.to_private + best.guest_uses + best.to_shared + best.host_uses;
	printf("# convert-4k %s: %lu to private, %lu guest uses, ", way->name,
	       best.to_private, best.guest_uses);
	printf("%lu to shared, %lu host uses, sum %lu; ", best.to_shared,
	       best.host_uses, sum);
	printf("guest touches all again while it is private: %lu (%lu faults)\n",
	       best.guest_rest, best.rest_faults);
	munmap(way->shared, SZ_1G);
	close(way->gmem);
	if (way->memfd >= 0)
		close(way->memfd);
	free_vm(&way->vm);
	return sum;
}

static struct way in_place(void)
{
	struct way way = {
		.name = "in place", .memfd = -2, .vm = create_warm_vm(),
		.to_private = in_place_to_private, .to_shared = in_place_to_shared,
	};

	way.gmem = create_gmem(way.vm.fd, SZ_1G, HUGE_1G);
	way.shared = map_aligned(SZ_1G, MAP_SHARED, way.gmem);
	add_slot(way.vm.fd, GPA, SZ_1G, way.shared, way.gmem);
	populate(way.gmem, SZ_1G);
	return way;
}

static struct way two_pools(const char *name, int memfd)
{
	struct way way = {
		.name = name, .memfd = memfd, .vm = create_warm_vm(),
		.to_private = two_pools_to_private, .to_shared = two_pools_to_shared,
	};

	way.gmem = create_gmem(way.vm.fd, SZ_1G, 0);
	if (memfd >= 0)
		way.shared = map_aligned(SZ_1G, MAP_SHARED, memfd);
	else
		way.shared = map_aligned(SZ_1G, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	madvise(way.shared, SZ_1G, MADV_NOHUGEPAGE);
	add_slot(way.vm.fd, GPA, SZ_1G, way.shared, way.gmem);
	return way;
}

static bool convert_4k(void)
{
	struct way ours_way = in_place();
	unsigned long ours = way_cost(&ours_way);
	struct way memfd_way = two_pools("memfd", create_memfd(SZ_1G, 0));
	unsigned long memfd = way_cost(&memfd_way);
	struct way anonymous_way = two_pools("anonymous", -1);
	unsigned long anonymous = way_cost(&anonymous_way);
	unsigned long peer = least(memfd, anonymous) - 2 * zeroing;
	double ratio = (double)peer / ours;

	printf("# convert-4k zeroing: %lu in the sum of the two-pool ways\n", 2 * zeroing);
	print_key("convert-4k", ours, peer, ratio, ">=2x", ratio >= 2);
	return ratio >= 2;
}

/*
 * fault-1g, leaves-1g
 */

struct stage2 {
	long faults;
	long instructions;
	struct leaves hole;
	struct leaves rejoin;
};

static struct leaves leaves_after(struct vm *vm, const struct leaves *before)
{
	struct leaves leaves;

	guest_writes(vm, GPA, SZ_1G);
	leaves = count_leaves(vm);
	leaves.of_1g -= before->of_1g;
	leaves.of_2m -= before->of_2m;
	leaves.of_4k -= before->of_4k;
	return leaves;
}

static struct stage2 stage2(unsigned long flags)
{
	struct vm its_vm = create_warm_vm();
	struct leaves before = count_leaves(&its_vm);
	int gmem = create_gmem(its_vm.fd, SZ_1G, flags);
	char *shared = map_aligned(SZ_1G, MAP_SHARED, gmem);
	struct stage2 result;
	unsigned long begin;

	add_slot(its_vm.fd, GPA, SZ_1G, shared, gmem);
	populate(gmem, SZ_1G);

	result.faults = kvm_stat(its_vm.vcpu, "pf_taken");
	begin = now();
	guest_writes(&its_vm, GPA, SZ_1G);
	result.instructions = since(begin);
	result.faults = kvm_stat(its_vm.vcpu, "pf_taken") - result.faults;

	convert(gmem, THE_PAGE, PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE);
	result.hole = leaves_after(&its_vm, &before);
	convert(gmem, THE_PAGE, PAGE, 0);
	result.rejoin = leaves_after(&its_vm, &before);

	munmap(shared, SZ_1G);
	close(gmem);
	free_vm(&its_vm);
	return result;
}

static bool print_leaves(const char *key, const struct leaves *ours,
			 const struct leaves *peer, const struct leaves *goal)
{
	bool met = !memcmp(ours, goal, sizeof(*goal));

	printf("%s %ld/%ld/%ld %ld/%ld/%ld - %ld/%ld/%ld %s\n", key,
	       ours->of_1g, ours->of_2m, ours->of_4k,
	       peer->of_1g, peer->of_2m, peer->of_4k,
	       goal->of_1g, goal->of_2m, goal->of_4k, met ? "MET" : "MISSED");
	return met;
}

static bool faults_and_leaves(void)
{
	static const struct leaves hole = { 0, 511, 512 }, rejoin = { 1, 0, 0 };
	struct stage2 ours = stage2(HUGE_1G);
	struct stage2 peer = stage2(SHAREABLE);
	bool met = ours.faults == 1;

	printf("# fault-1g: %ld instructions, 4 KiB pages %ld, guest included\n",
	       ours.instructions, peer.instructions);
	printf("fault-1g %ld %ld %.0fx 1 %s\n", ours.faults, peer.faults,
	       (double)peer.faults / ours.faults, met ? "MET" : "MISSED");
	met &= print_leaves("leaves-1g.hole", &ours.hole, &peer.hole, &hole);
	met &= print_leaves("leaves-1g.rejoin", &ours.rejoin, &peer.rejoin, &rejoin);
	return met;
}

/*
 * memory
 */

struct memory {
	long free_kb;
	long free_blocks;
};

/* What waits on the lists of the CPU is free, but is not in MemFree. */
static long cpu_lists_kb(void)
{
	FILE *f = fopen("/proc/zoneinfo", "r");
	long count, sum = 0;
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, " count: %ld", &count) == 1)
			sum += count;
	if (!f || !sum)
		errx(2, "/proc/zoneinfo: no counts");
	fclose(f);
	return sum * (PAGE / 1024);
}

/* Wait until what an earlier guest had is free: some of it is after an RCU grace period. */
static struct memory count_memory(void)
{
	usleep(500000);
	write_file("/sys/kernel/slab/radix_tree_node/shrink", "1");
	return (struct memory) {
		.free_kb = read_number("/proc/meminfo", "MemFree:") + cpu_lists_kb(),
		.free_blocks = read_number(POOL_1G "free_hugepages", ""),
	};
}

static double mib_since(const struct memory *before)
{
	struct memory is = count_memory();

	return (before->free_kb - is.free_kb) / 1024.0 +
	       (before->free_blocks - is.free_blocks) * 1024.0;
}

/* Without what describes free pages, as a pool of size has it. */
static void save_struct_pages(void)
{
	int i, gmem = create_gmem(vm.fd, SZ_1G, HUGE_1G);
	unsigned long split = ~0UL, join = ~0UL;

	write_file("/proc/sys/vm/hugetlb_optimize_vmemmap", "1");
	populate(gmem, SZ_1G);
	punch(gmem, 0, SZ_1G);
	for (i = 0; i < GIB_ROUNDS; i++) {
		split = least(split, populate_cost(gmem, SZ_1G));
		join = least(join, punch_cost(gmem, SZ_1G));
	}
	printf("# block-split 1 GiB with hugetlb_optimize_vmemmap: %.1f a page\n",
	       ((double)split - hugetlbfs_1g) / GIB_PAGES);
	printf("# block-join 1 GiB with hugetlb_optimize_vmemmap: %.1f a page\n",
	       (double)join / GIB_PAGES);
	close(gmem);
}

/* Which pages are shared: the first of each @every bytes, @size at a time. */
struct layout {
	const char *key;
	unsigned long size;
	unsigned long every;
};

static const struct layout layouts[] = {
	{ "memory", SZ_64M, SZ_1G },
	{ "memory.scattered", PAGE, SZ_2M },
};

static double memory_in_place(const struct layout *layout)
{
	struct vm its_vm = create_warm_vm();
	struct memory before = count_memory();
	int gmem = create_gmem(its_vm.fd, SZ_1G, HUGE_1G);
	char *shared = map_aligned(SZ_1G, MAP_SHARED, gmem);
	unsigned long i;
	double mib;

	add_slot(its_vm.fd, GPA, SZ_1G, shared, gmem);
	if (layout->size == PAGE)
		host_writes(shared, SZ_1G);
	guest_writes(&its_vm, GPA, SZ_1G);
	convert(gmem, 0, SZ_1G, KVM_MEMORY_ATTRIBUTE_PRIVATE);
	for (i = 0; i < SZ_1G; i += layout->every) {
		convert(gmem, i, layout->size, 0);
		host_writes(shared + i, layout->size);
	}
	guest_writes(&its_vm, GPA, SZ_1G);
	mib = mib_since(&before);

	munmap(shared, SZ_1G);
	close(gmem);
	free_vm(&its_vm);
	return mib;
}

static double memory_two_pools(const struct layout *layout)
{
	struct vm its_vm = create_warm_vm();
	struct memory before = count_memory();
	int gmem = create_gmem(its_vm.fd, SZ_1G, 0);
	int memfd = create_memfd(SZ_1G, 0);
	char *shared = map_aligned(SZ_1G, MAP_SHARED, memfd);
	unsigned long i;
	double mib;

	add_slot(its_vm.fd, GPA, SZ_1G, shared, gmem);
	set_vm_attributes(&its_vm, GPA, SZ_1G, KVM_MEMORY_ATTRIBUTE_PRIVATE);
	for (i = 0; i < SZ_1G; i += layout->every) {
		set_vm_attributes(&its_vm, GPA + i, layout->size, 0);
		host_writes(shared + i, layout->size);
	}
	guest_writes(&its_vm, GPA, SZ_1G);
	mib = mib_since(&before);

	munmap(shared, SZ_1G);
	close(gmem);
	close(memfd);
	free_vm(&its_vm);
	return mib;
}

static bool memory(void)
{
	double ours, peer;
	bool met = true;
	unsigned int i;

	save_struct_pages();
	/* The first time kernel and program allocate what they keep. */
	memory_in_place(&layouts[0]);
	for (i = 0; i < ARRAY_SIZE(layouts); i++) {
		ours = memory_in_place(&layouts[i]);
		peer = memory_two_pools(&layouts[i]);
		printf("%s %.1f %.1f %.3fx <=1044 %s\n", layouts[i].key, ours, peer,
		       ours / 1024, ours <= 1044 ? "MET" : "MISSED");
		met &= ours <= 1044;
	}
	return met;
}

int main(void)
{
	const char *how;
	bool met = true;

	setvbuf(stdout, NULL, _IOLBF, 0);
	start_clock();
	zeroing = zero_page_cost(&how);
	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		err(2, "/dev/kvm");
	vm = create_warm_vm();
	met &= blocks();
	met &= convert_1g();
	met &= convert_4k();
	met &= faults_and_leaves();
	met &= memory();
	return met ? 0 : 1;
}
