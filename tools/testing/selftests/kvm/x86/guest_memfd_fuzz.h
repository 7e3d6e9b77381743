/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the operations of guest_memfd_fuzz_test stand on: threads, random draws,
 * the books of what was done, access to pages that may not be there, and a guest
 * that does as it is told.
 */
#ifndef SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_H
#define SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_H

#include <stdarg.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "guest_memfd_util.h"
#include "kselftest.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#include "guest_memfd_fuzz_model.h"

#define FUZZ_MAX_THREADS	16
#define FUZZ_MAX_OPS		32
#define FUZZ_DRAWS		8
#define FUZZ_HISTORY		4096
#define FUZZ_SHOWN		20

/* What has become of an operation. */
enum fuzz_outcome {
	OUT_OK,
	OUT_SIGBUS,
	OUT_EFAULT,
	OUT_EAGAIN,
	OUT_EINVAL,
	OUT_ENOMEM,
	OUT_ENODEV,
	OUT_ENOENT,
	OUT_EEXIST,
	OUT_EOPNOTSUPP,
	OUT_EHWPOISON,
	OUT_MMIO,
	OUT_OTHER,
	OUT_SKIPPED,
	NR_OUTCOMES
};

static const char * const fuzz_outcome_names[] = {
	[OUT_OK] = "OK",
	[OUT_SIGBUS] = "SIGBUS",
	[OUT_EFAULT] = "EFAULT",
	[OUT_EAGAIN] = "EAGAIN",
	[OUT_EINVAL] = "EINVAL",
	[OUT_ENOMEM] = "ENOMEM",
	[OUT_ENODEV] = "ENODEV",
	[OUT_ENOENT] = "ENOENT",
	[OUT_EEXIST] = "EEXIST",
	[OUT_EOPNOTSUPP] = "EOPNOTSUPP",
	[OUT_EHWPOISON] = "EHWPOISON",
	[OUT_MMIO] = "MMIO",
	[OUT_OTHER] = "OTHER",
	[OUT_SKIPPED] = "SKIPPED",
};

static inline enum fuzz_outcome fuzz_outcome_of(int err)
{
	switch (err) {
	case 0:
		return OUT_OK;
	case EFAULT:
		return OUT_EFAULT;
	case EAGAIN:
		return OUT_EAGAIN;
	case EINVAL:
		return OUT_EINVAL;
	case ENOMEM:
		return OUT_ENOMEM;
	case ENODEV:
		return OUT_ENODEV;
	case ENOENT:
		return OUT_ENOENT;
	case EEXIST:
		return OUT_EEXIST;
	case EOPNOTSUPP:
		return OUT_EOPNOTSUPP;
	case EHWPOISON:
		return OUT_EHWPOISON;
	default:
		return OUT_OTHER;
	}
}

struct fuzz_thread;

/* @run gets random numbers to make its choices of. */
struct fuzz_op {
	const char *name;
	unsigned int weight;
	enum fuzz_outcome (*run)(struct fuzz_thread *t, const u64 *r);
};

/* One operation that was done. */
struct fuzz_event {
	u64 nr;
	const struct fuzz_op *op;
	int file;
	u64 first;
	u64 nr_pages;
	u64 arg;
	enum fuzz_outcome outcome;
};

/* What the guest is told to do with a page, in its ordinary memory. */
struct fuzz_mailbox {
	u64 gva;
	bool write;
	u32 mask;			/* which words */
	bool scan;
	u64 words[MODEL_WORDS];
	u64 rest;			/* all other words of the page, ORed */
};

struct fuzz_hold {
	bool active;
	int file;
	u64 incarnation;
	u64 page;
};

struct fuzz_thread {
	unsigned int index;
	u64 seed;
	u64 nr_ops;
	u64 nr_stamps;
	pthread_t pthread;
	struct kvm_vcpu *vcpu;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct fuzz_mailbox *mailbox;
	int pipe[2];
	int hold_pipe[2];
	struct fuzz_hold hold;
	int nr_children;
	u64 counts[FUZZ_MAX_OPS][NR_OUTCOMES];
	double seconds[FUZZ_MAX_OPS];
	struct fuzz_event now;
	struct fuzz_event *history;	/* not in the image, guests have that, too */
};

static struct {
	/* what was asked for */
	u64 seed;
	unsigned int nr_threads;
	double seconds;
	u64 max_ops;
	unsigned int max_poisons;
	/* the run */
	struct kvm_vm *vm;
	const char *phase;
	const struct fuzz_op *ops;
	unsigned int nr_ops;
	unsigned int nr_poisons;
	bool stop;
	bool failed;
	struct fuzz_thread threads[FUZZ_MAX_THREADS];
} fuzz;

/*
 * The books
 */

static inline void fuzz_note(struct fuzz_thread *t, int file, u64 first, u64 nr_pages, u64 arg)
{
	t->now.file = file;
	t->now.first = first;
	t->now.nr_pages = nr_pages;
	t->now.arg = arg;
}

static inline void fuzz_show_event(const struct fuzz_event *event)
{
	ksft_print_msg("    op %lu: %s file %d pages 0x%lx+0x%lx arg 0x%lx: %s\n",
		       event->nr, event->op->name, event->file, event->first, event->nr_pages,
		       event->arg, event->outcome < NR_OUTCOMES ?
				   fuzz_outcome_names[event->outcome] : "under way");
}

static inline bool fuzz_touches(const struct fuzz_event *event, int file, u64 page)
{
	return event->op && event->file == file && page >= event->first &&
	       page < event->first + event->nr_pages;
}

static inline void fuzz_show_history(const struct fuzz_thread *t, int file, u64 page)
{
	const struct fuzz_event *shown[FUZZ_SHOWN];
	unsigned int nr = 0;
	u64 i;

	for (i = t->nr_ops; i && t->nr_ops - i < FUZZ_HISTORY && nr < FUZZ_SHOWN; i--)
		if (fuzz_touches(&t->history[(i - 1) % FUZZ_HISTORY], file, page))
			shown[nr++] = &t->history[(i - 1) % FUZZ_HISTORY];

	ksft_print_msg("  thread %u:\n", t->index);
	while (nr)
		fuzz_show_event(shown[--nr]);
	if (t->now.op)
		fuzz_show_event(&t->now);
}

/* Say once what is wrong with a page and how it came about; then all threads stop. */
static inline void __printf(4, 5) fuzz_fail(struct fuzz_thread *t, int file, u64 page,
					    const char *fmt, ...)
{
	unsigned int i;
	va_list args;
	char text[512];

	if (__atomic_exchange_n(&fuzz.failed, true, __ATOMIC_ACQ_REL))
		return;
	WRITE_ONCE(fuzz.stop, true);

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);

	ksft_print_msg("%s: seed %lu thread %u op %lu (%s): file %d page 0x%lx: %s\n",
		       fuzz.phase, fuzz.seed, t->index, t->nr_ops,
		       t->now.op ? t->now.op->name : "at the end", file, page, text);
	ksft_print_msg("what was done to the page before, the last %u of each thread:\n",
		       FUZZ_SHOWN);
	for (i = 0; i < fuzz.nr_threads; i++)
		fuzz_show_history(&fuzz.threads[i], file, page);
}

/* Compare an errno with what it has to be. */
static inline void fuzz_expect(struct fuzz_thread *t, int file, u64 page, const char *what,
			       int expected, int found)
{
	if (expected != found)
		fuzz_fail(t, file, page, "%s: expected %s, found %s", what,
			  expected ? strerror(expected) : "success",
			  found ? strerror(found) : "success");
}

/*
 * Pages that may not be there
 */

static __thread sigjmp_buf fuzz_sigbus_jmp;
static __thread bool fuzz_sigbus_expected;

/* From here on SIGBUS makes this return true, until fuzz_sigbus_over(). */
#define fuzz_sigbus()						\
({								\
	WRITE_ONCE(fuzz_sigbus_expected, true);			\
	sigsetjmp(fuzz_sigbus_jmp, 0);				\
})

static inline void fuzz_sigbus_over(void)
{
	WRITE_ONCE(fuzz_sigbus_expected, false);
}

static inline void fuzz_on_sigbus(int sig, siginfo_t *info, void *context)
{
	/* Memory failure tells everybody who has the page mapped. */
	if (info->si_code == BUS_MCEERR_AO)
		return;
	if (fuzz_sigbus_expected) {
		fuzz_sigbus_over();
		siglongjmp(fuzz_sigbus_jmp, 1);
	}

	dprintf(STDOUT_FILENO, "Bail out! SIGBUS out of the blue, code %d, address %p\n",
		info->si_code, info->si_addr);
	_exit(KSFT_FAIL);
}

static inline void fuzz_catch_sigbus(void)
{
	struct sigaction sa = {
		.sa_sigaction = fuzz_on_sigbus,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};

	TEST_ASSERT(!sigaction(SIGBUS, &sa, NULL), "sigaction() failed");
}

/* These return false on SIGBUS. */
static noinline bool fuzz_user_read(const u8 *page, u64 *words)
{
	unsigned int i;

	if (fuzz_sigbus())
		return false;
	for (i = 0; i < MODEL_WORDS; i++)
		words[i] = READ_ONCE(*(const u64 *)(page + model_word_offset(i)));
	fuzz_sigbus_over();
	return true;
}

static noinline bool fuzz_user_write(u8 *page, unsigned int mask, const u64 *words)
{
	unsigned int i;

	if (fuzz_sigbus())
		return false;
	for (i = 0; i < MODEL_WORDS; i++)
		if (mask & BIT(i))
			WRITE_ONCE(*(u64 *)(page + model_word_offset(i)), words[i]);
	fuzz_sigbus_over();
	return true;
}

/* What is between the words, ORed. */
static noinline bool fuzz_user_scan(const u8 *page, u64 *rest)
{
	const u64 *word = (const u64 *)page;
	unsigned int i;

	*rest = 0;
	if (fuzz_sigbus())
		return false;
	for (i = MODEL_HEAD_WORDS; i < MODEL_PAGE_SIZE / sizeof(u64) - 1; i++)
		*rest |= READ_ONCE(word[i]);
	fuzz_sigbus_over();
	return true;
}

/*
 * Memory failure of a mapped page.  Who has it mapped is told by SIGBUS, which is
 * success; so is EBUSY, as a guest_memfd does not let go of the page.
 */
static noinline int fuzz_poison(void *addr)
{
	int err = 0;

	if (fuzz_sigbus())
		return 0;
	if (madvise(addr, MODEL_PAGE_SIZE, MADV_HWPOISON))
		err = errno;
	fuzz_sigbus_over();
	return err == EBUSY ? 0 : err;
}

/* The frame of a page that is mapped. */
static inline u64 fuzz_pfn(const void *addr)
{
	return gmem_pagemap_entry(addr) & GENMASK_ULL(54, 0);
}

/* Undo memory failure, for a page that is in no file any more. */
static inline bool fuzz_unpoison(u64 pfn)
{
	int fd = open("/sys/kernel/debug/hwpoison/unpoison-pfn", O_WRONLY);
	char text[32];
	bool ok;

	if (fd < 0)
		return false;
	snprintf(text, sizeof(text), "0x%lx", pfn);
	ok = write(fd, text, strlen(text)) > 0;
	close(fd);
	return ok;
}

/*
 * The guest
 */

#define FUZZ_PORT	0x4242

static struct fuzz_mailbox fuzz_mailboxes[FUZZ_MAX_THREADS];

static void fuzz_guest(struct fuzz_mailbox *mailbox)
{
	unsigned int i;

	for (;;) {
		u8 *page = (u8 *)READ_ONCE(mailbox->gva);
		bool write = READ_ONCE(mailbox->write);
		u32 mask = READ_ONCE(mailbox->mask);
		u64 rest = 0;

		for (i = 0; i < MODEL_WORDS; i++) {
			u64 *word = (u64 *)(page + model_word_offset(i));

			if (!(mask & BIT(i)))
				continue;
			if (write)
				WRITE_ONCE(*word, READ_ONCE(mailbox->words[i]));
			else
				WRITE_ONCE(mailbox->words[i], READ_ONCE(*word));
		}
		for (i = MODEL_HEAD_WORDS; READ_ONCE(mailbox->scan) &&
		     i < MODEL_PAGE_SIZE / sizeof(u64) - 1; i++)
			rest |= READ_ONCE(((u64 *)page)[i]);
		WRITE_ONCE(mailbox->rest, rest);

		asm volatile("outb %%al, %%dx" :: "a"(0), "d"(FUZZ_PORT) : "memory");
	}
}

#define FUZZ_MMIO	(-1)

/*
 * What the memory of the guest was before it ran, to find out what has become of
 * it.  It writes to mailboxes and stacks, and the CPU to the bits that say that
 * an entry of a page table was used.
 */
#define FUZZ_USED_BITS		(BIT_ULL(5) | BIT_ULL(6))

static struct {
	u64 *mem;
	u64 size;
	gpa_t mailboxes;
} fuzz_memory;

static inline struct userspace_mem_region *fuzz_memory_region(void)
{
	return memslot2region(fuzz.vm, 0);
}

static inline void fuzz_remember_memory(void)
{
	struct userspace_mem_region *region = fuzz_memory_region();

	fuzz_memory.mailboxes = addr_gva2gpa(fuzz.vm, (gva_t)fuzz_mailboxes);
	fuzz_memory.size = region->region.memory_size;
	fuzz_memory.mem = malloc(fuzz_memory.size);
	TEST_ASSERT(fuzz_memory.mem, "No memory");
	memcpy(fuzz_memory.mem, region->host_mem, fuzz_memory.size);
}

static inline void fuzz_forget_memory(void)
{
	free(fuzz_memory.mem);
	fuzz_memory.mem = NULL;
}

static inline void fuzz_show_changed_memory(void)
{
	struct userspace_mem_region *region = fuzz_memory_region();
	const u64 *mem = region->host_mem;
	const u64 per_page = MODEL_PAGE_SIZE / sizeof(*mem);
	u64 i, first = 0, nr = 0;

	for (i = 0; i < fuzz_memory.size / sizeof(*mem); i++) {
		if ((mem[i] ^ fuzz_memory.mem[i]) & ~FUZZ_USED_BITS && !nr++)
			first = i;
		if (!nr || (i + 1) % per_page)
			continue;
		ksft_print_msg("  gpa 0x%llx: was 0x%lx, is 0x%lx; %lu words of the page changed\n",
			       region->region.guest_phys_addr + first * sizeof(*mem),
			       fuzz_memory.mem[first], mem[first], nr);
		nr = 0;
	}
}

/*
 * A triple fault on AMD leaves nothing of the registers, KVM resets the vCPU.
 * Whether it happens again tells memory that is wrong, or mapped wrong, from
 * what was wrong for a moment.
 */
static inline void fuzz_unexpected_exit(struct fuzz_thread *t)
{
	static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
	u32 reason = t->vcpu->run->exit_reason;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	int ret;

	pthread_mutex_lock(&one_at_a_time);
	vcpu_regs_get(t->vcpu, &regs);
	vcpu_sregs_get(t->vcpu, &sregs);
	ksft_print_msg("vCPU %u was to use 0x%lx: exit %s\n", t->index,
		       t->mailbox->gva, exit_reason_str(reason));
	ksft_print_msg("  rip 0x%llx rsp 0x%llx cr2 0x%llx cr3 0x%llx\n",
		       regs.rip, regs.rsp, sregs.cr2, sregs.cr3);
	ksft_print_msg("memory of the guest that is not as it was, mailboxes are at gpa 0x%lx:\n",
		       fuzz_memory.mailboxes);
	fuzz_show_changed_memory();

	vcpu_sregs_set(t->vcpu, &t->sregs);
	vcpu_regs_set(t->vcpu, &t->regs);
	ret = _vcpu_run(t->vcpu);
	ksft_print_msg("from the start again: %s, exit %s\n", ret ? strerror(errno) : "success",
		       exit_reason_str(t->vcpu->run->exit_reason));
	TEST_FAIL("Unexpected exit: %s", exit_reason_str(reason));
}

/* The handlers of the library tell of an exception through a port of their own. */
static inline void fuzz_check_port(struct fuzz_thread *t)
{
	if (t->vcpu->run->io.port == FUZZ_PORT)
		return;
	assert_on_unhandled_exception(t->vcpu);
	fuzz_unexpected_exit(t);
}

/*
 * Have the guest do what is in the mailbox.  Return 0, FUZZ_MMIO if some of it
 * was emulated MMIO, which reads all ones, or the errno of KVM_RUN, after which
 * the guest has forgotten what it was told.
 */
static inline int fuzz_guest_run(struct fuzz_thread *t)
{
	struct kvm_run *run = t->vcpu->run;
	bool mmio = false;
	int err;

	for (;;) {
		if (_vcpu_run(t->vcpu)) {
			err = errno;
			vcpu_regs_set(t->vcpu, &t->regs);
			return err;
		}

		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			fuzz_check_port(t);
			return mmio ? FUZZ_MMIO : 0;
		case KVM_EXIT_MMIO:
			TEST_ASSERT_EQ(run->mmio.phys_addr & ~(MODEL_PAGE_SIZE - 1ull),
				       t->mailbox->gva);
			mmio = true;
			if (!run->mmio.is_write)
				memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
			break;
		default:
			fuzz_unexpected_exit(t);
		}
	}
}

static inline int fuzz_guest_read(struct fuzz_thread *t, gpa_t gpa, u32 mask, bool scan)
{
	t->mailbox->gva = gpa;
	t->mailbox->write = false;
	t->mailbox->mask = mask;
	t->mailbox->scan = scan;
	return fuzz_guest_run(t);
}

static inline int fuzz_guest_write(struct fuzz_thread *t, gpa_t gpa, u32 mask,
				   const u64 *words)
{
	t->mailbox->gva = gpa;
	t->mailbox->write = true;
	t->mailbox->mask = mask;
	t->mailbox->scan = false;
	memcpy(t->mailbox->words, words, sizeof(t->mailbox->words));
	return fuzz_guest_run(t);
}

static inline int fuzz_prefault(struct fuzz_thread *t, gpa_t gpa, u64 nr_pages)
{
	struct kvm_pre_fault_memory range = {
		.gpa = gpa,
		.size = nr_pages * MODEL_PAGE_SIZE,
	};

	while (range.size)
		if (__vcpu_ioctl(t->vcpu, KVM_PRE_FAULT_MEMORY, &range))
			return errno;
	return 0;
}

/* Memslots are far from what the library uses, in areas that the guest maps 1:1. */
#define FUZZ_SLOT		10
#define FUZZ_AREA_PAGES		((u64)2048)
#define FUZZ_AREA_GPA(area)	((u64)SZ_4G + (area) * FUZZ_AREA_PAGES * MODEL_PAGE_SIZE)

static inline int fuzz_set_slot(unsigned int slot, gpa_t gpa, u64 nr_pages, int fd, u64 first)
{
	return __vm_set_user_memory_region2(fuzz.vm, FUZZ_SLOT + slot, KVM_MEM_GUEST_MEMFD,
					    gpa, nr_pages * MODEL_PAGE_SIZE, NULL, fd,
					    first * MODEL_PAGE_SIZE) ? errno : 0;
}

static inline int fuzz_delete_slot(unsigned int slot)
{
	return fuzz_set_slot(slot, 0, 0, -1, 0);
}

/* A file of whole blocks: @nr_pages is a multiple of theirs. */
static inline int fuzz_create_file(u64 nr_pages, u64 flags)
{
	if (gmem_has_blocks())
		flags |= gmem_hugetlb_flag(gmem_block_size());
	return __vm_create_guest_memfd(fuzz.vm, nr_pages * MODEL_PAGE_SIZE, flags);
}

static inline int fuzz_convert(int fd, u64 first, u64 nr, bool private, u64 *error_page)
{
	u64 error_offset = ~0ull;
	int ret;

	ret = __gmem_set_memory_attributes(fd, first * MODEL_PAGE_SIZE, nr * MODEL_PAGE_SIZE,
					   private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
					   &error_offset);
	*error_page = error_offset / MODEL_PAGE_SIZE;
	return ret ? errno : 0;
}

static inline int fuzz_fallocate(int fd, int mode, u64 first, u64 nr)
{
	return fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, first * MODEL_PAGE_SIZE,
			 nr * MODEL_PAGE_SIZE) ? errno : 0;
}

/*
 * Choices
 */

#define FUZZ_BLOCK_PAGES	(gmem_block_size() / MODEL_PAGE_SIZE)

/* The blocks that a range is in. */
static inline void fuzz_whole_blocks(u64 *first, u64 *nr)
{
	u64 skipped = *first % FUZZ_BLOCK_PAGES;

	*first -= skipped;
	*nr = gmem_whole_blocks(skipped + *nr);
}

/* Short ranges mostly, but up to all of it. */
static inline u64 fuzz_length(u64 r, u64 max)
{
	u64 nr;

	switch (r % 16) {
	case 0 ... 6:
		nr = 1;
		break;
	case 7 ... 11:
		nr = 1 + (r >> 8) % 16;
		break;
	case 12 ... 14:
		nr = 1 + (r >> 8) % 600;
		break;
	default:
		nr = max;
		break;
	}

	return min(nr, max);
}

/* Threads shall meet around the ends of units and chunks. */
#define FUZZ_SPOTS		4
#define FUZZ_SPOT_PAGES		48

static inline u64 fuzz_spot(u64 nr, u64 spot, u64 nr_pages)
{
	const u64 spots[FUZZ_SPOTS] = { 0, SZ_2M / MODEL_PAGE_SIZE, MODEL_CHUNK_PAGES, nr_pages };
	u64 page = spots[spot % FUZZ_SPOTS] + nr % FUZZ_SPOT_PAGES;

	return (page + nr_pages - FUZZ_SPOT_PAGES / 2) % nr_pages;
}

static inline u64 fuzz_page(u64 r, u64 nr_pages)
{
	if (nr_pages <= MODEL_MAX_LOCKS && r & 1)
		return (r >> 8) % nr_pages;
	return fuzz_spot(r >> 8, r >> 1, nr_pages);
}

#endif /* SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_H */
