/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the benchmarks have in common: the clock, a VM with one vCPU, and how a
 * key is printed.
 */
#ifndef GUEST_MEMFD_BENCH_H
#define GUEST_MEMFD_BENCH_H

#include <err.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/kvm.h>
#include <linux/types.h>

#define ROUNDS		15
#define PAGE		0x1000UL
#define SZ_2M		0x200000UL
#define SZ_1T		0x10000000000UL
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

static int kvm;

static inline int xioctl(int fd, unsigned long request, void *arg, const char *name)
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
static inline unsigned long now(void)
{
	return __builtin_ia32_rdtsc();
}

static inline unsigned long since(unsigned long begin)
{
	return now() - begin - clock_cost;
}

static inline unsigned long least(unsigned long a, unsigned long b)
{
	return a < b ? a : b;
}

static inline unsigned long time_loop(unsigned long count)
{
	unsigned long begin = now();

	asm volatile("1: dec %0; jnz 1b" : "+r" (count));
	return since(begin);
}

static inline void start_clock(void)
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

static inline void *map(unsigned long size, int flags, int fd)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (p == MAP_FAILED)
		err(2, "mmap");
	return p;
}

static inline void add_slot(int to, __u64 gpa, __u64 size, void *shared, int gmem)
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

static inline int create_gmem(int of, __u64 size, __u64 flags)
{
	struct kvm_create_guest_memfd create = { .size = size, .flags = flags };

	return IOCTL(of, KVM_CREATE_GUEST_MEMFD, &create);
}

struct vm {
	int fd;
	int vcpu;
	struct kvm_run *run;
};

static inline struct vm create_vm(void)
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
	struct vm vm;
	void *code;

	vm.fd = IOCTL(kvm, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	vm.vcpu = IOCTL(vm.fd, KVM_CREATE_VCPU, 0);
	vm.run = map(IOCTL(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), MAP_SHARED, vm.vcpu);

	code = map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memcpy(code, program, sizeof(program));
	add_slot(vm.fd, 0, PAGE, code, -1);

	IOCTL(vm.vcpu, KVM_GET_SREGS, &sregs);
	sregs.ds = flat;
	sregs.es = flat;
	sregs.ss = flat;
	sregs.cs = flat;
	sregs.cs.type = 11;
	sregs.cr0 = 0x11;
	IOCTL(vm.vcpu, KVM_SET_SREGS, &sregs);
	return vm;
}

static inline void guest_writes(struct vm *vm, __u64 gpa, __u64 size)
{
	struct kvm_regs regs = {
		.rsi = gpa, .rdi = gpa + size, .rflags = 2,
	};

	IOCTL(vm->vcpu, KVM_SET_REGS, &regs);
	IOCTL(vm->vcpu, KVM_RUN, 0);
	if (vm->run->exit_reason != KVM_EXIT_HLT)
		errx(2, "guest: exit reason %u", vm->run->exit_reason);
	IOCTL(vm->vcpu, KVM_GET_REGS, &regs);
	if (regs.rsi != gpa + size)
		errx(2, "guest: stopped at %#llx", regs.rsi);
}

static inline void convert(int gmem, __u64 offset, __u64 size, __u64 attributes)
{
	struct kvm_memory_attributes2 attrs = {
		.offset = offset,
		.size = size,
		.attributes = attributes,
	};

	IOCTL(gmem, KVM_SET_MEMORY_ATTRIBUTES2, &attrs);
}

/* What the kernel has for clear_page() on this CPU, see clear_pages(). */
static inline unsigned long zero_page_cost(const char **how)
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

static inline void print_key(const char *key, unsigned long ours,
			     unsigned long peer, double ratio, const char *goal,
			     bool met)
{
	printf("%s %lu %lu %.2fx %s %s\n", key, ours, peer, ratio, goal,
	       met ? "MET" : "MISSED");
}

#endif /* GUEST_MEMFD_BENCH_H */
