// SPDX-License-Identifier: GPL-2.0-only
/*
 * A small VMM whose guest has all of its memory in one guest_memfd, private
 * and shared, converted in place.
 *
 * Written to be read, by authors of other VMMs first. What is particular to
 * guest_memfd is in the first part, in the order in which a VMM needs it:
 *
 *	create_memory()		the file, its memslot, its mapping
 *	convert()		who may see a range, and what to do about -EAGAIN
 *	run_guest()		the guest's own requests to convert
 *
 * The second part, play(), is a conversation with the guest in guest.c that
 * shows what the host can and cannot see; each expectation is checked.
 *
 * The VM is a KVM_X86_SW_PROTECTED_VM: it needs no confidential hardware, and
 * keeps the host's user space out of private memory, though not the kernel.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <linux/kvm.h>
#include <linux/kvm_para.h>
#include <linux/types.h>

#include "layout.h"

static int vm, vcpu, gmem;
static struct kvm_run *run;
static char *mem;		/* the guest's memory, as the host maps it */

static int xioctl(int fd, unsigned long request, void *arg, const char *name)
{
	int ret = ioctl(fd, request, arg);

	if (ret < 0)
		err(2, "%s", name);
	return ret;
}

#define IOCTL(fd, request, arg)	\
	xioctl(fd, request, (void *)(unsigned long)(arg), #request)

static void host_writes(unsigned long offset, const char *text)
{
	memcpy(mem + offset, text, strlen(text) + 1);
}

/*
 * Expectations
 */

static unsigned int nr_ok, nr_wrong;

static void count(bool ok)
{
	printf("   %s  ", ok ? "ok   " : "WRONG");
	if (ok)
		nr_ok++;
	else
		nr_wrong++;
}

/* check(bool ok, const char *format, ...) */
#define check(ok, ...) \
	(count(ok), printf(__VA_ARGS__), printf("\n"))

static void chapter(const char *title)
{
	static int number;

	printf("\n%d. %s\n\n", ++number, title);
}

/*
 * Part 1: how a VMM uses guest_memfd
 */

/* Ask the VM, not /dev/kvm: not all types of VM can do the same. */
static void check_capabilities(void)
{
	unsigned long flags = GUEST_MEMFD_FLAG_MMAP |
			      GUEST_MEMFD_FLAG_INIT_SHARED;
	int has;

	has = IOCTL(vm, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_FLAGS);
	if ((has & flags) != flags)
		errx(2, "no guest_memfd that can be mapped and starts shared");

	has = IOCTL(vm, KVM_CHECK_EXTENSION,
		    KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES);
	if (!(has & KVM_MEMORY_ATTRIBUTE_PRIVATE))
		errx(2, "guest_memfd cannot convert here");
}

/*
 * One file for all of the guest's memory. MMAP makes it keep the state of each
 * page itself; INIT_SHARED, so that the host can load the guest first.
 */
static void create_memory(void)
{
	struct kvm_create_guest_memfd create = {
		.size = MEM_SIZE,
		.flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED,
	};
	struct kvm_userspace_memory_region2 slot = {
		.slot = 0,
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = 0,
		.memory_size = MEM_SIZE,
	};

	gmem = IOCTL(vm, KVM_CREATE_GUEST_MEMFD, &create);

	/* All of it, once and for all: private pages are just not accessible. */
	mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, gmem, 0);
	if (mem == MAP_FAILED)
		err(2, "mmap of the guest_memfd");

	/* The guest gets its pages from the file; KVM itself uses the mapping. */
	slot.guest_memfd = gmem;
	slot.guest_memfd_offset = 0;
	slot.userspace_addr = (unsigned long)mem;
	IOCTL(vm, KVM_SET_USER_MEMORY_REGION2, &slot);
}

/*
 * Convert a range of the file in place; any 4 KiB range will do. Returns 0 or
 * an errno. EAGAIN: something outside page tables, like I/O in flight, still
 * has a page that is to become private. Nothing in its aligned GiB has changed,
 * and *busy is its offset: have its holder let go and call again.
 */
static int convert(unsigned long offset, unsigned long size, bool private,
		   unsigned long *busy)
{
	struct kvm_memory_attributes2 attributes = {
		.offset = offset,
		.size = size,
		.attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};

	if (!ioctl(gmem, KVM_SET_MEMORY_ATTRIBUTES2, &attributes))
		return 0;
	*busy = attributes.error_offset;
	return errno;
}

/* What made run_guest() return. */
struct request {
	enum { CONVERT, STEP, DONE } what;
	unsigned long gpa;
	unsigned long size;
	bool private;
};

static void guest_port_write(__u16 port, __u8 value)
{
	static char line[256];
	static unsigned int len;

	switch (port) {
	case PORT_TEXT:
		if (len < sizeof(line) - 1)
			line[len++] = value;
		return;
	case PORT_SAY:
		printf("   guest: %.*s\n", len, line);
		break;
	case PORT_CHECK:
		check(value, "guest: %.*s", len, line);
		break;
	default:
		errx(2, "the guest wrote to port 0x%x", port);
	}
	len = 0;
}

/*
 * Run the guest until it wants something.
 *
 * A VM with confidential hardware has one more exit: there the guest decides
 * with a bit in its page tables how it accesses a page, and when that is not
 * what the file says, KVM_EXIT_MEMORY_FAULT tells the VMM to convert first. In
 * this type of VM an access is what the file says.
 */
static struct request run_guest(void)
{
	for (;;) {
		if (ioctl(vcpu, KVM_RUN, NULL) && errno != EINTR)
			err(2, "KVM_RUN, exit reason %u", run->exit_reason);

		switch (run->exit_reason) {
		case KVM_EXIT_HYPERCALL:
			return (struct request) {
				.what = CONVERT,
				.gpa = run->hypercall.args[0],
				.size = run->hypercall.args[1] * PAGE,
				.private = run->hypercall.args[2] &
					   KVM_MAP_GPA_RANGE_ENCRYPTED,
			};
		case KVM_EXIT_IO:
			if (run->io.port == PORT_STEP)
				return (struct request) { .what = STEP };
			if (run->io.port == PORT_DONE)
				return (struct request) { .what = DONE };
			guest_port_write(run->io.port,
					 *((char *)run + run->io.data_offset));
			break;
		case KVM_EXIT_INTR:
			break;
		default:
			errx(2, "exit reason %u at %#llx", run->exit_reason,
			     run->s.regs.regs.rip);
		}
	}
}

/* What the hypercall returns to the guest, at the next run_guest(). */
static void answer_guest(int error)
{
	run->hypercall.ret = -error;
}

static void create_vm(void)
{
	struct kvm_enable_cap exit_hypercall = {
		.cap = KVM_CAP_EXIT_HYPERCALL,
		.args[0] = 1 << KVM_HC_MAP_GPA_RANGE,
	};
	int kvm = open("/dev/kvm", O_RDWR);

	if (kvm < 0)
		err(2, "/dev/kvm");

	vm = IOCTL(kvm, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	check_capabilities();
	/* The guest's requests to convert are for us to fulfil. */
	IOCTL(vm, KVM_ENABLE_CAP, &exit_hypercall);
	create_memory();

	vcpu = IOCTL(vm, KVM_CREATE_VCPU, 0);
	run = mmap(NULL, IOCTL(kvm, KVM_GET_VCPU_MMAP_SIZE, 0),
		   PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		err(2, "mmap of the vCPU");
	run->kvm_valid_regs = KVM_SYNC_X86_REGS;

	/* The guest is to have the CPU that KVM can give it. */
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[256];
	} cpuid = { .head.nent = 256 };

	IOCTL(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid);
	IOCTL(vcpu, KVM_SET_CPUID2, &cpuid);
	close(kvm);
}

/* 64-bit mode at the guest's first byte, all memory mapped where it is. */
static void load_guest(void)
{
	__u64 *pml4 = (__u64 *)(mem + PAGE_TABLES);
	__u64 *pdpt = pml4 + 512, *pd = pdpt + 512;
	struct kvm_segment code = {
		.selector = 8, .limit = ~0U, .type = 11, .present = 1, .s = 1,
		.l = 1, .g = 1,
	};
	struct kvm_segment data = {
		.selector = 16, .limit = ~0U, .type = 3, .present = 1, .s = 1,
		.db = 1, .g = 1,
	};
	struct kvm_regs regs = { .rip = CODE, .rsp = STACK_TOP, .rflags = 2 };
	struct kvm_sregs sregs;
	unsigned int i;

	pml4[0] = (PAGE_TABLES + PAGE) | 3;		/* present, writable */
	pdpt[0] = (PAGE_TABLES + 2 * PAGE) | 3;
	for (i = 0; i < MEM_SIZE >> 21; i++)
		pd[i] = (__u64)i << 21 | 0x83;	/* and 2 MiB */

	memcpy(mem + CODE, guest_image, guest_image_end - guest_image);
	host_writes(VAULT, PAYLOAD);

	IOCTL(vcpu, KVM_GET_SREGS, &sregs);
	sregs.cr3 = PAGE_TABLES;
	sregs.cr4 = 0x20;				/* PAE */
	sregs.efer = 0x500;				/* LME, LMA */
	sregs.cr0 = 0x80000011;				/* PG, ET, PE */
	sregs.cs = code;
	sregs.ds = data;
	sregs.es = data;
	sregs.ss = data;
	IOCTL(vcpu, KVM_SET_SREGS, &sregs);
	IOCTL(vcpu, KVM_SET_REGS, &regs);
}

/*
 * Part 2: what the host can and cannot see
 */

static sigjmp_buf got_sigbus;
static sig_atomic_t touching;

static void on_sigbus(int signal)
{
	if (touching)
		siglongjmp(got_sigbus, signal);
	psignal(signal, "vmm: here none was expected");
	_exit(2);
}

/* Touch one byte, for read and write: is it SIGBUS? */
static bool host_sees(unsigned long offset)
{
	bool seen = false;

	__atomic_store_n(&touching, 1, __ATOMIC_RELAXED);
	if (!sigsetjmp(got_sigbus, 1)) {
		__atomic_fetch_or(mem + offset, 0, __ATOMIC_SEQ_CST);
		seen = true;
	}
	__atomic_store_n(&touching, 0, __ATOMIC_RELAXED);
	return seen;
}

static void check_hidden(unsigned long offset, const char *what)
{
	check(!host_sees(offset), "host touches %s: SIGBUS", what);
}

static void check_text(unsigned long offset, const char *expected)
{
	char seen[TEXT_SIZE];

	if (!host_sees(offset)) {
		check(false, "host reads: SIGBUS");
		return;
	}
	/* It is the guest's: perhaps without an end. */
	snprintf(seen, sizeof(seen), "%.*s", TEXT_SIZE - 1, mem + offset);
	check(!strcmp(seen, expected), "host reads \"%s\"", seen);
}

/* A number of pages, as /proc/self/fdinfo tells it. */
static unsigned long count_pages(const char *which)
{
	char path[64], line[128], key[64];
	unsigned long nr, found = ~0UL;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", gmem);
	snprintf(key, sizeof(key), "guest_memfd-%s:\t%%lu pages", which);
	file = fopen(path, "r");
	if (!file)
		err(2, "%s", path);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, key, &nr) == 1)
			found = nr;
	fclose(file);
	return found;
}

static void check_counts(unsigned long shared)
{
	unsigned long is_shared = count_pages("shared");
	unsigned long is_private = count_pages("private");

	check(is_shared == shared && is_private == MEM_SIZE / PAGE - shared,
	      "fdinfo counts %lu pages shared, %lu private", is_shared,
	      is_private);
}

/* Where in the machine's memory a page is that the host has touched. */
static unsigned long page_frame(unsigned long offset)
{
	unsigned long address = (unsigned long)mem + offset;
	int fd = open("/proc/self/pagemap", O_RDONLY);
	__u64 entry;

	if (fd < 0 || pread(fd, &entry, sizeof(entry), address / PAGE *
			    sizeof(entry)) != sizeof(entry))
		err(2, "/proc/self/pagemap");
	close(fd);
	return entry & ((1UL << 55) - 1);
}

static void wait_for(int what)
{
	if (run_guest().what != (unsigned int)what)
		errx(2, "the guest wants something that is not its turn");
}

/* The guest asks for exactly this, and is not answered yet. */
static void wait_for_request(unsigned long gpa, unsigned long size, bool private)
{
	struct request r = run_guest();

	if (r.what != CONVERT || r.gpa != gpa || r.size != size ||
	    r.private != private)
		errx(2, "the guest asks for something else");
}

static void grant(unsigned long offset, unsigned long size, bool private)
{
	unsigned long busy;
	int error = convert(offset, size, private, &busy);

	check(!error, "host makes %lu page%s %s%s%s", size / PAGE,
	      size == PAGE ? "" : "s", private ? "private" : "shared",
	      error ? ": " : "", error ? strerror(error) : "");
	answer_guest(error);
}

/* Returns the page frame of the payload. */
static unsigned long play_loading(void)
{
	unsigned long frame;
	int zero;

	chapter("The host loads the guest, then locks itself out");

	check_counts(MEM_SIZE / PAGE);
	load_guest();
	check_text(VAULT, PAYLOAD);
	frame = page_frame(VAULT);
	check(count_pages("allocated") < MEM_SIZE / PAGE / 10,
	      "of %lu pages only the %lu in use take memory", MEM_SIZE / PAGE,
	      count_pages("allocated"));

	printf("\n   All but the first 2 MiB (boot code, page tables) become private.\n");
	grant(VAULT, MEM_SIZE - VAULT, true);
	check_counts(VAULT / PAGE);
	check_hidden(VAULT, "the payload");
	check_hidden(MEM_SIZE - PAGE, "private memory never used");
	check(host_sees(CODE), "host touches the boot code: still there");

	zero = open("/dev/zero", O_RDONLY);
	check(read(zero, mem + VAULT, PAGE) < 0 && errno == EFAULT,
	      "host has a system call write to the payload: EFAULT");
	close(zero);
	return frame;
}

static void play_one_page(unsigned long frame)
{
	chapter("The guest shares a page and takes it back");

	wait_for_request(VAULT, PAGE, false);
	check_hidden(VAULT, "the page before it is converted");
	grant(VAULT, PAGE, false);
	check_text(VAULT, PAYLOAD);
	check(page_frame(VAULT) == frame,
	      "it is in the same place as ever: page frame %#lx", frame);
	check_hidden(VAULT + PAGE, "the page after it");
	host_writes(VAULT, REPLY);
	printf("   host writes \"%s\"\n", REPLY);

	wait_for_request(VAULT, PAGE, true);
	grant(VAULT, PAGE, true);
	check_hidden(VAULT, "the page");
	wait_for(STEP);
}

static bool vault_reads_back_around(unsigned long hole)
{
	unsigned long i, offset;
	bool expected;

	for (i = 0; i < VAULT_SIZE / PAGE; i++) {
		offset = VAULT + i * PAGE;
		expected = i != hole;
		if (host_sees(offset) != expected)
			return false;
		if (expected && *(unsigned long *)(mem + offset) != ~i)
			return false;
	}
	return true;
}

/* A pipe that holds a page of ours, as any zero-copy I/O in flight would. */
static void play_busy_page(void)
{
	struct iovec page = { mem + VAULT + HELD_PAGE * PAGE, PAGE };
	unsigned long busy = 0;
	int pipe_fds[2];
	int error;

	if (pipe(pipe_fds) || vmsplice(pipe_fds[1], &page, 1, 0) != (long)PAGE)
		err(2, "vmsplice");
	printf("   host has I/O in flight from page %d\n", HELD_PAGE);

	error = convert(VAULT, VAULT_SIZE, true, &busy);
	check(error == EAGAIN && busy == VAULT + HELD_PAGE * PAGE,
	      "host makes all private: EAGAIN, because of page %lu",
	      (busy - VAULT) / PAGE);
	check(vault_reads_back_around(HOLE_PAGE), "nothing has changed");

	close(pipe_fds[0]);
	close(pipe_fds[1]);
	printf("   the I/O is done, the host tries again\n");
}

static void play_many_pages(void)
{
	chapter("2 MiB, with a hole; and a page that is busy");

	wait_for_request(VAULT, VAULT_SIZE, false);
	grant(VAULT, VAULT_SIZE, false);
	wait_for_request(VAULT + HOLE_PAGE * PAGE, PAGE, true);
	grant(VAULT + HOLE_PAGE * PAGE, PAGE, true);
	wait_for(STEP);
	check(vault_reads_back_around(HOLE_PAGE),
	      "host reads 511 pages back; page %d, and no other, is SIGBUS",
	      HOLE_PAGE);
	check_counts((VAULT + VAULT_SIZE) / PAGE - 1);

	wait_for_request(VAULT, VAULT_SIZE, true);
	play_busy_page();
	grant(VAULT, VAULT_SIZE, true);
	wait_for(STEP);
	check_counts(VAULT / PAGE);
}

static void play_no_question_asked(void)
{
	unsigned long allocated = count_pages("allocated");

	chapter("The guest just uses its memory, both kinds, without asking");

	wait_for(STEP);
	check_text(NOTE, NOTICE);
	check_hidden(UNTOUCHED, "private memory that the guest began to use");
	check(count_pages("allocated") > allocated,
	      "it takes memory now: %lu pages more than before",
	      count_pages("allocated") - allocated);
}

static bool one_round(unsigned long i)
{
	unsigned long *count = (unsigned long *)(mem + VAULT);
	unsigned long busy;
	bool ok;

	wait_for_request(VAULT, PAGE, false);
	answer_guest(convert(VAULT, PAGE, false, &busy));
	ok = host_sees(VAULT) && *count == 2 * i - 1;
	if (ok)
		++*count;

	wait_for_request(VAULT, PAGE, true);
	answer_guest(convert(VAULT, PAGE, true, &busy));
	return ok && !host_sees(VAULT);
}

static void play_many_times(void)
{
	struct timespec begin, end;
	unsigned long i;
	bool ok = true;

	chapter("Back and forth, both counting in the same page");

	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (i = 1; i <= ROUNDS && ok; i++)
		ok = one_round(i);
	clock_gettime(CLOCK_MONOTONIC, &end);
	check(ok, "%lu round trips: host counts while shared, SIGBUS while private",
	      ROUNDS);
	wait_for(DONE);
	printf("   a round trip took %.2f ms\n",
	       ((end.tv_sec - begin.tv_sec) * 1e3 +
		(end.tv_nsec - begin.tv_nsec) / 1e6) / ROUNDS);
}

static int summary(void)
{
	printf("\n"
	       "Summary\n"
	       "\n"
	       "   A virtual machine ran with all of its memory, secret and public, in one\n"
	       "   file. The guest decided, page by page and while it ran, what the host may\n"
	       "   see:\n"
	       "\n"
	       "   - A shared page is ordinary memory to both: each sees what the other wrote.\n"
	       "   - A private page is out of the host's reach: the program that runs the\n"
	       "     guest gets SIGBUS, and system calls that would touch it fail.\n"
	       "   - Pages change sides in place: the same page of the machine's memory before\n"
	       "     and after, and what it held survived, both ways.\n"
	       "   - A page that the host still uses is not made private under its hands; the\n"
	       "     host is told which one, and that nothing has changed.\n"
	       "\n"
	       "   This kind of VM shuts out the programs of the host. To shut out its kernel\n"
	       "   as well takes a machine with SEV-SNP, TDX or the like.\n"
	       "\n");
	if (nr_wrong)
		printf("NOT AS EXPECTED: %u of %u checks went wrong, marked WRONG above.\n",
		       nr_wrong, nr_ok + nr_wrong);
	else
		printf("ALL AS EXPECTED: %u checks, none went wrong.\n", nr_ok);
	return nr_wrong ? 1 : 0;
}

int main(void)
{
	struct sigaction sigbus = { .sa_handler = on_sigbus };

	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGBUS, &sigbus, NULL);

	printf("A VMM and its guest: %lu MiB of memory in one guest_memfd\n",
	       MEM_SIZE >> 20);
	create_vm();
	play_one_page(play_loading());
	play_many_pages();
	play_no_question_asked();
	play_many_times();
	return summary();
}
