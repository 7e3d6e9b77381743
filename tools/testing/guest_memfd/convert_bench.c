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
#include <err.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/kvm.h>
#include <linux/types.h>

#define ROUNDS		15
#define PAGE		0x1000UL
#define SZ_2M		0x200000UL
#define SZ_1T		0x10000000000UL
#define NR_PAGES	(SZ_2M / PAGE)
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

static int kvm;
/* For convert-2m; convert-scale has VMs of its own. */
static int vm, vcpu;
static struct kvm_run *run;

static int xioctl(int fd, unsigned long request, void *arg, const char *name)
{
	int ret = ioctl(fd, request, arg);

	if (ret < 0)
		err(2, "%s", name);
	return ret;
}

#define IOCTL(fd, request, arg)	\
	xioctl(fd, request, (void *)(unsigned long)(arg), #request)

/*
 * Instructions
 */

static unsigned long clock_cost;

/* CLOCK_MONOTONIC is made of it, but rounds. */
static unsigned long now(void)
{
	return __builtin_ia32_rdtsc();
}

static unsigned long since(unsigned long begin)
{
	return now() - begin - clock_cost;
}

static unsigned long least(unsigned long a, unsigned long b)
{
	return a < b ? a : b;
}

static unsigned long time_loop(unsigned long count)
{
	unsigned long begin = now();

	asm volatile("1: dec %0; jnz 1b" : "+r" (count));
	return since(begin);
}

static void start_clock(void)
{
	unsigned long empty = ~0UL, loop = ~0UL, begin;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		begin = now();
		empty = least(empty, now() - begin);
	}
	clock_cost = empty;

	for (i = 0; i < ROUNDS; i++)
		loop = least(loop, time_loop(10000));
	if (loop < 19800 || loop > 20200)
		errx(2, "20000 instructions took %lu: this is not rig/boot --icount",
		     loop);
}

/*
 * The VM: one vCPU in 32-bit mode without paging, whose program writes a byte
 * to each page of [%esi, %edi) and halts.
 */

static void *map(unsigned long size, int flags, int fd)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (p == MAP_FAILED)
		err(2, "mmap");
	return p;
}

static void add_slot(int to, __u64 gpa, __u64 size, void *shared, int gmem)
{
	static unsigned int next;
	struct kvm_userspace_memory_region2 slot = {
		.slot = next++,
		.flags = gmem < 0 ? 0 : KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (unsigned long)shared,
		.guest_memfd = gmem < 0 ? 0 : gmem,
	};

	IOCTL(to, KVM_SET_USER_MEMORY_REGION2, &slot);
}

static int create_gmem(int of, __u64 size, __u64 flags)
{
	struct kvm_create_guest_memfd create = { .size = size, .flags = flags };

	return IOCTL(of, KVM_CREATE_GUEST_MEMFD, &create);
}

static void create_vm(void)
{
	static const unsigned char program[] = {
		0xc6, 0x06, 0x01,			/* 1: movb $1, (%esi) */
		0x81, 0xc6, 0x00, 0x10, 0x00, 0x00,	/* add $0x1000, %esi */
		0x39, 0xfe,				/* cmp %edi, %esi */
		0x72, 0xf3,				/* jb 1b */
		0xf4,					/* hlt */
	};
	struct kvm_segment flat = {
		.selector = 8, .limit = ~0U, .type = 3, .present = 1, .s = 1,
		.db = 1, .g = 1,
	};
	struct kvm_sregs sregs;
	void *code;

	vm = IOCTL(kvm, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	vcpu = IOCTL(vm, KVM_CREATE_VCPU, 0);
	run = map(IOCTL(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), MAP_SHARED, vcpu);

	code = map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memcpy(code, program, sizeof(program));
	add_slot(vm, 0, PAGE, code, -1);

	IOCTL(vcpu, KVM_GET_SREGS, &sregs);
	sregs.ds = flat;
	sregs.es = flat;
	sregs.ss = flat;
	sregs.cs = flat;
	sregs.cs.type = 11;
	sregs.cr0 = 0x11;
	IOCTL(vcpu, KVM_SET_SREGS, &sregs);
}

static void guest_writes(__u64 gpa)
{
	struct kvm_regs regs = {
		.rsi = gpa, .rdi = gpa + SZ_2M, .rflags = 2,
	};

	IOCTL(vcpu, KVM_SET_REGS, &regs);
	IOCTL(vcpu, KVM_RUN, 0);
	if (run->exit_reason != KVM_EXIT_HLT)
		errx(2, "guest: exit reason %u", run->exit_reason);
	IOCTL(vcpu, KVM_GET_REGS, &regs);
	if (regs.rsi != gpa + SZ_2M)
		errx(2, "guest: stopped at %#llx", regs.rsi);
}

/* The same faults, without a guest that makes them. */
static void guest_prefaults(__u64 gpa)
{
	struct kvm_pre_fault_memory range = { .gpa = gpa, .size = SZ_2M };

	while (range.size)
		IOCTL(vcpu, KVM_PRE_FAULT_MEMORY, &range);
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

static void convert(int gmem, __u64 offset, __u64 size, __u64 attributes)
{
	struct kvm_memory_attributes2 attrs = {
		.offset = offset,
		.size = size,
		.attributes = attributes,
	};

	IOCTL(gmem, KVM_SET_MEMORY_ATTRIBUTES2, &attrs);
}

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

	IOCTL(vm, KVM_SET_MEMORY_ATTRIBUTES, &attrs);
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

	IN_PLACE->gmem = create_gmem(vm, SZ_2M, GUEST_MEMFD_FLAG_MMAP |
				     GUEST_MEMFD_FLAG_INIT_SHARED);
	IN_PLACE->shared = map(SZ_2M, MAP_SHARED, IN_PLACE->gmem);
	add_slot(vm, IN_PLACE->gpa, SZ_2M, IN_PLACE->shared, IN_PLACE->gmem);

	MEMFD->gmem = create_gmem(vm, SZ_2M, 0);
	MEMFD->memfd = memfd_create("shared", 0);
	if (MEMFD->memfd < 0 || ftruncate(MEMFD->memfd, SZ_2M))
		err(2, "memfd");
	MEMFD->shared = map(SZ_2M, MAP_SHARED, MEMFD->memfd);
	add_slot(vm, MEMFD->gpa, SZ_2M, MEMFD->shared, MEMFD->gmem);

	/* Aligned as well as a guest would have it; pages of 4 KiB. */
	anonymous = map(2 * SZ_2M, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	ANONYMOUS->shared = (void *)(((uintptr_t)anonymous + SZ_2M - 1) &
				     ~(SZ_2M - 1));
	madvise(anonymous, 2 * SZ_2M, MADV_NOHUGEPAGE);
	ANONYMOUS->gmem = create_gmem(vm, SZ_2M, 0);
	add_slot(vm, ANONYMOUS->gpa, SZ_2M, ANONYMOUS->shared, ANONYMOUS->gmem);
}

/*
 * convert-2m
 */

/* What the kernel has for clear_page() on this CPU, see clear_pages(). */
static unsigned long zero_page_cost(const char **how)
{
	unsigned long begin, cost = ~0UL, len;
	char line[8192], *flags = NULL;
	void *page = map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1), *p;
	FILE *f = fopen("/proc/cpuinfo", "r");
	int i;

	while (f && !flags && fgets(line, sizeof(line), f))
		if (!strncmp(line, "flags", 5))
			flags = line;
	if (!flags)
		errx(2, "no flags in /proc/cpuinfo");
	fclose(f);
	*how = strstr(flags, " erms") ? "rep stosb" :
	       strstr(flags, " rep_good") ? "rep stosq" : "unrolled";

	for (i = 0; i < ROUNDS; i++) {
		len = PAGE;
		p = page;
		begin = now();
		if (**how == 'u')
			asm volatile("shr $6, %0\n"
				     "1: dec %0\n"
				     "mov %2, (%1)\n"
				     "mov %2, 8(%1)\n"
				     "mov %2, 16(%1)\n"
				     "mov %2, 24(%1)\n"
				     "mov %2, 32(%1)\n"
				     "mov %2, 40(%1)\n"
				     "mov %2, 48(%1)\n"
				     "mov %2, 56(%1)\n"
				     "lea 64(%1), %1\n"
				     "jnz 1b\n"
				     : "+c" (len), "+D" (p) : "a" (0UL)
				     : "cc", "memory");
		else if ((*how)[8] == 'q')
			asm volatile("shr $3, %0; rep stosq"
				     : "+c" (len), "+D" (p) : "a" (0UL)
				     : "cc", "memory");
		else
			asm volatile("rep stosb"
				     : "+c" (len), "+D" (p) : "a" (0UL)
				     : "cc", "memory");
		cost = least(cost, since(begin));
	}
	return cost;
}

/* How a range is used after it was converted. */
struct use {
	const char *name;
	void (*guest)(__u64 gpa);
	void (*host)(char *shared);
};

/* The first is that of the key. */
static const struct use uses[] = {
	{ "", guest_writes, host_writes },
	{ " (guest: KVM_PRE_FAULT_MEMORY)", guest_prefaults, host_writes },
	{ " (host: reads)", guest_writes, host_reads },
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
	guest_writes(way->gpa);
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

static void print_key(const char *key, unsigned long ours, unsigned long peer,
		      double ratio, const char *goal, bool met)
{
	printf("%s %lu %lu %.2fx %s %s\n", key, ours, peer, ratio, goal,
	       met ? "MET" : "MISSED");
}

static bool convert_2m(void)
{
	struct cost cost[ARRAY_SIZE(uses)][ARRAY_SIZE(ways)];
	unsigned long zeroing, ours, peer;
	unsigned int use, way;
	const char *how;
	double ratio;

	zeroing = zero_page_cost(&how);
	create_vm();
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
