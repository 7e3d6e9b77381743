// SPDX-License-Identifier: GPL-2.0-only
/*
 * What conversions of a guest_memfd cost, beside the way without them.
 *
 * To be run where the clock advances by one with each instruction (QEMU -icount
 * shift=0, rig/boot --icount), so that all times below are numbers of
 * instructions, of user space, kernel and guest together. It refuses to run
 * elsewhere. Caches and TLBs cost nothing there; faults are counted beside it.
 *
 * For each key prints one line
 *
 *	KEY OURS PEER RATIO GOAL MET|MISSED
 *
 * and lines with "#" in front that say where the instructions went. The keys:
 *
 * convert-scale
 *	One 4 KiB conversion, average of private to shared and shared to private,
 *	in a file of 1 TiB (ours) and one of 2 MiB (peer), both with one memslot
 *	over the whole file and private everywhere else, nothing allocated but
 *	the page that is converted. That is the last of the file, where a tree of
 *	states is deepest, and user space touches nothing. Ratio: ours / peer.
 *
 * convert-2m
 *	A 2 MiB range of 4 KiB pages goes from shared to private to shared and is
 *	used each time: the guest writes a byte to each of its pages while it is
 *	private, user space writes a byte to each of its pages when it is shared
 *	again. What is counted is all of
 *
 *		to private	the system calls
 *		guest uses	KVM_RUN, a stage-2 fault for each page
 *		to shared	the system calls
 *		host uses	faults in user space
 *
 *	Before each round, not counted, guest and user space have both written
 *	to all pages, so that page tables and stage 2 map them and a conversion
 *	has to take that away.
 *
 *	ours	one file, KVM_SET_MEMORY_ATTRIBUTES2
 *	peer	the two-pool way, as VMMs do it for a file without MMAP:
 *		KVM_SET_MEMORY_ATTRIBUTES on the VM and giving up the pages of
 *		the pool that is not in use any more, the other pool's pages
 *		being allocated as they are touched. The shared pool is a memfd
 *		(punched) or anonymous memory (MADV_DONTNEED), whichever costs
 *		less. Zeroing of the pages is not counted: the kernel's loop for
 *		it is run in user space, and its cost for one page taken off as
 *		many times as the kernel has zeroed one, 1024.
 *
 *	Ratio: peer / ours.
 *
 * Each figure is the least of several rounds, and that of convert-2m the sum of
 * the least of its parts: timer ticks and deferred work hit some of them.
 * Without them two boots agree to the digit.
 */
#define _GNU_SOURCE
#include <sys/resource.h>

#include "bench.h"

#define NR_PAGES	(SZ_2M / PAGE)

/* For convert-2m; convert-scale has VMs of its own. */
static struct vm vm;

static void guest_writes_2m(__u64 gpa)
{
	guest_writes(&vm, gpa, SZ_2M);
}

/* The same faults, without a guest that makes them. */
static void guest_prefaults(__u64 gpa)
{
	struct kvm_pre_fault_memory range = { .gpa = gpa, .size = SZ_2M };

	while (range.size)
		IOCTL(vm.vcpu, KVM_PRE_FAULT_MEMORY, &range);
}

static void host_writes(char *shared)
{
	unsigned long i;

	for (i = 0; i < NR_PAGES; i++)
		__atomic_store_n(shared + i * PAGE, 1, __ATOMIC_RELAXED);
}

static void host_reads(char *shared)
{
	unsigned long i;

	for (i = 0; i < NR_PAGES; i++)
		__atomic_load_n(shared + i * PAGE, __ATOMIC_RELAXED);
}

/*
 * The ways to convert
 */

struct way {
	const char *name;
	__u64 gpa;
	void *shared;
	int gmem;
	int memfd;
	void (*to_private)(const struct way *way);
	void (*to_shared)(const struct way *way);
};

static void convert_to_private(const struct way *way)
{
	convert(way->gmem, 0, SZ_2M, KVM_MEMORY_ATTRIBUTE_PRIVATE);
}

static void convert_to_shared(const struct way *way)
{
	convert(way->gmem, 0, SZ_2M, 0);
}

static void punch(int fd)
{
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SZ_2M))
		err(2, "punch");
}

static void set_vm_attributes(__u64 gpa, __u64 attributes)
{
	struct kvm_memory_attributes attrs = {
		.address = gpa,
		.size = SZ_2M,
		.attributes = attributes,
	};

	IOCTL(vm.fd, KVM_SET_MEMORY_ATTRIBUTES, &attrs);
}

static void swap_to_private(const struct way *way)
{
	set_vm_attributes(way->gpa, KVM_MEMORY_ATTRIBUTE_PRIVATE);
	if (way->memfd >= 0)
		punch(way->memfd);
	else if (madvise(way->shared, SZ_2M, MADV_DONTNEED))
		err(2, "madvise");
}

static void swap_to_shared(const struct way *way)
{
	set_vm_attributes(way->gpa, 0);
	punch(way->gmem);
}

static struct way ways[] = {
	{ .name = "in place",	.gpa = 1UL << 30, .memfd = -1,
	  .to_private = convert_to_private, .to_shared = convert_to_shared },
	{ .name = "memfd",	.gpa = 2UL << 30, .memfd = -1,
	  .to_private = swap_to_private, .to_shared = swap_to_shared },
	{ .name = "anonymous",	.gpa = 3UL << 30, .memfd = -1,
	  .to_private = swap_to_private, .to_shared = swap_to_shared },
};

#define IN_PLACE	(&ways[0])
#define MEMFD		(&ways[1])
#define ANONYMOUS	(&ways[2])

static void set_up_ways(void)
{
	void *anonymous;

	IN_PLACE->gmem = create_gmem(vm.fd, SZ_2M, GUEST_MEMFD_FLAG_MMAP |
				     GUEST_MEMFD_FLAG_INIT_SHARED);
	IN_PLACE->shared = map(SZ_2M, MAP_SHARED, IN_PLACE->gmem);
	add_slot(vm.fd, IN_PLACE->gpa, SZ_2M, IN_PLACE->shared, IN_PLACE->gmem);

	MEMFD->gmem = create_gmem(vm.fd, SZ_2M, 0);
	MEMFD->memfd = memfd_create("shared", 0);
	if (MEMFD->memfd < 0 || ftruncate(MEMFD->memfd, SZ_2M))
		err(2, "memfd");
	MEMFD->shared = map(SZ_2M, MAP_SHARED, MEMFD->memfd);
	add_slot(vm.fd, MEMFD->gpa, SZ_2M, MEMFD->shared, MEMFD->gmem);

	/* Aligned as well as a guest would have it; pages of 4 KiB. */
	anonymous = map(2 * SZ_2M, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	ANONYMOUS->shared = (void *)(((uintptr_t)anonymous + SZ_2M - 1) &
				     ~(SZ_2M - 1));
	madvise(anonymous, 2 * SZ_2M, MADV_NOHUGEPAGE);
	ANONYMOUS->gmem = create_gmem(vm.fd, SZ_2M, 0);
	add_slot(vm.fd, ANONYMOUS->gpa, SZ_2M, ANONYMOUS->shared, ANONYMOUS->gmem);
}

/*
 * convert-2m
 */

/* How a range is used after it was converted. */
struct use {
	const char *name;
	void (*guest)(__u64 gpa);
	void (*host)(char *shared);
};

/* The first is that of the key. */
static const struct use uses[] = {
	{ "", guest_writes_2m, host_writes },
	{ " (guest: KVM_PRE_FAULT_MEMORY)", guest_prefaults, host_writes },
	{ " (host: reads)", guest_writes_2m, host_reads },
};

/* As in the table at the top. */
struct cost {
	unsigned long to_private;
	unsigned long guest_uses;
	unsigned long to_shared;
	unsigned long host_uses;
	unsigned long host_faults;
};

static unsigned long sum(const struct cost *cost)
{
	return cost->to_private + cost->guest_uses + cost->to_shared +
	       cost->host_uses;
}

static unsigned long minor_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

static void one_round(const struct way *way, const struct use *use,
		      struct cost *best)
{
	unsigned long begin, faults;

	host_writes(way->shared);
	guest_writes(&vm, way->gpa, SZ_2M);
	faults = minor_faults();

	begin = now();
	way->to_private(way);
	best->to_private = least(best->to_private, since(begin));

	begin = now();
	use->guest(way->gpa);
	best->guest_uses = least(best->guest_uses, since(begin));

	begin = now();
	way->to_shared(way);
	best->to_shared = least(best->to_shared, since(begin));

	begin = now();
	use->host(way->shared);
	best->host_uses = least(best->host_uses, since(begin));

	best->host_faults = least(best->host_faults, minor_faults() - faults);
}

static struct cost measure(const struct way *way, const struct use *use)
{
	struct cost best = { ~0UL, ~0UL, ~0UL, ~0UL, ~0UL };
	int i;

	for (i = 0; i < ROUNDS; i++)
		one_round(way, use, &best);
	return best;
}

static void print_cost(const struct way *way, const struct use *use,
		       const struct cost *cost)
{
	printf("# convert-2m %s%s: %lu to private, %lu guest uses, ", way->name,
	       use->name, cost->to_private, cost->guest_uses);
	printf("%lu to shared, %lu host uses (%lu faults), sum %lu\n",
	       cost->to_shared, cost->host_uses, cost->host_faults, sum(cost));
}

static bool convert_2m(void)
{
	struct cost cost[ARRAY_SIZE(uses)][ARRAY_SIZE(ways)];
	unsigned long zeroing, ours, peer;
	unsigned int use, way;
	const char *how;
	double ratio;

	zeroing = zero_page_cost(&how);
	vm = create_vm();
	set_up_ways();

	/* Printing makes interrupts, so later. */
	for (use = 0; use < ARRAY_SIZE(uses); use++)
		for (way = 0; way < ARRAY_SIZE(ways); way++)
			cost[use][way] = measure(&ways[way], &uses[use]);
	for (use = 0; use < ARRAY_SIZE(uses); use++)
		for (way = 0; way < ARRAY_SIZE(ways); way++)
			print_cost(&ways[way], &uses[use], &cost[use][way]);
	printf("# convert-2m zeroing: %lu a page (%s), %lu in the sum of the two-pool ways\n",
	       zeroing, how, zeroing * 2 * NR_PAGES);

	ours = sum(&cost[0][0]);
	peer = least(sum(&cost[0][1]), sum(&cost[0][2])) - zeroing * 2 * NR_PAGES;
	ratio = (double)peer / ours;
	print_key("convert-2m", ours, peer, ratio, ">=3x", ratio >= 3);
	return ratio >= 3;
}

/*
 * convert-scale
 */

static unsigned long one_page_cost(int gmem, __u64 offset, const char *what)
{
	unsigned long begin, to_shared = ~0UL, to_private = ~0UL;
	int i;

	if (fallocate(gmem, FALLOC_FL_KEEP_SIZE, offset, PAGE))
		err(2, "fallocate");
	for (i = 0; i < ROUNDS; i++) {
		begin = now();
		convert(gmem, offset, PAGE, 0);
		to_shared = least(to_shared, since(begin));

		begin = now();
		convert(gmem, offset, PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE);
		to_private = least(to_private, since(begin));
	}
	printf("# convert-scale %s: %lu to shared, %lu to private\n", what,
	       to_shared, to_private);
	return (to_shared + to_private) / 2;
}

/* A VM with nothing but this file, from address 0. */
static int sparse_file(__u64 size)
{
	int its_vm = IOCTL(kvm, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	int gmem = create_gmem(its_vm, size, GUEST_MEMFD_FLAG_MMAP);

	add_slot(its_vm, 0, size, map(size, MAP_SHARED | MAP_NORESERVE, gmem), gmem);
	return gmem;
}

static bool convert_scale(void)
{
	int small = sparse_file(SZ_2M);
	int large = sparse_file(SZ_1T);
	unsigned long ours, peer;
	double ratio;

	one_page_cost(small, 0, "2 MiB, first page");
	one_page_cost(large, 0, "1 TiB, first page");
	peer = one_page_cost(small, SZ_2M - PAGE, "2 MiB, last page");
	ours = one_page_cost(large, SZ_1T - PAGE, "1 TiB, last page");

	/* Where the tree has a branch already */
	convert(large, SZ_1T - SZ_2M - PAGE, PAGE, 0);
	one_page_cost(large, SZ_1T - PAGE, "1 TiB, last page, one that is shared near by");

	ratio = (double)ours / peer;
	print_key("convert-scale", ours, peer, ratio, "<=1.1x", ratio <= 1.1);
	return ratio <= 1.1;
}

int main(void)
{
	bool met = true;

	setvbuf(stdout, NULL, _IOLBF, 0);
	start_clock();
	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		err(2, "/dev/kvm");
	met &= convert_scale();
	met &= convert_2m();
	return met ? 0 : 1;
}
