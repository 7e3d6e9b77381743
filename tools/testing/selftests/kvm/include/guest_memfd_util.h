/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the guest_memfd tests ask of a file and of its mappings.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_UTIL_H
#define SELFTEST_KVM_GUEST_MEMFD_UTIL_H

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/sizes.h>

#include "guest_memfd_direct_map.h"
#include "guest_memfd_files.h"
#include "guest_memfd_hugetlb.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

/* guest_memfd depends on pages of this size, and guests cannot ask libc. */
#define GMEM_PAGE_SIZE	SZ_4K

/*
 * What the files are made of: pages, or with GUEST_MEMFD_BLOCK=2M or =1G blocks
 * out of the hugetlb pool.
 */
static inline u64 gmem_block_size(void)
{
	const char *block = getenv("GUEST_MEMFD_BLOCK");

	if (!block)
		return GMEM_PAGE_SIZE;
	if (!strcmp(block, "2M"))
		return SZ_2M;
	TEST_ASSERT(!strcmp(block, "1G"), "GUEST_MEMFD_BLOCK is neither 2M nor 1G");
	return SZ_1G;
}

static inline bool gmem_has_blocks(void)
{
	return gmem_block_size() != GMEM_PAGE_SIZE;
}

/* The pages of as many whole blocks as it takes for the first @nr_pages. */
static inline u64 gmem_whole_blocks(u64 nr_pages)
{
	u64 block_pages = gmem_block_size() / GMEM_PAGE_SIZE;

	return (nr_pages + block_pages - 1) / block_pages * block_pages;
}

/*
 * GUEST_MEMFD_NO_DIRECT_MAP=1 keeps them out of the direct map, which nobody is to
 * notice who does not need them there.
 */
static inline u64 gmem_default_flags(void)
{
	return getenv("GUEST_MEMFD_NO_DIRECT_MAP") ?
	       GUEST_MEMFD_FLAG_NO_DIRECT_MAP : 0;
}

/*
 * How many pages come with the first touch of one: its block, 64 KiB of what can
 * be mapped and is not in the direct map if there is nothing yet, else itself.
 */
static inline u64 gmem_touched_pages(u64 flags)
{
	const u64 around = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_NO_DIRECT_MAP;

	flags |= gmem_default_flags();
	if (gmem_has_blocks())
		return gmem_block_size() / GMEM_PAGE_SIZE;

	return (flags & around) == around ? SZ_64K / GMEM_PAGE_SIZE : 1;
}

/* A file of whole blocks, so it may be larger. */
static inline int gmem_create_file(struct kvm_vm *vm, u64 size, u64 flags)
{
	flags |= gmem_default_flags();
	if (gmem_has_blocks())
		flags |= gmem_hugetlb_flag(gmem_block_size());
	size = gmem_whole_blocks(size / GMEM_PAGE_SIZE) * GMEM_PAGE_SIZE;

	return vm_create_guest_memfd(vm, size, flags);
}

/* Tests have processes of their own, which may exit as well. */
static struct {
	struct gmem_pool_counts pool;
	u64 missing;
	unsigned long broken;
	pid_t pid;
} gmem_before_tests;

/* Broken pages stay out, except those that broke when they were back already. */
static inline void gmem_check_direct_map(void)
{
	u64 want, missing;

	if (getpid() != gmem_before_tests.pid)
		return;

	want = gmem_before_tests.missing + direct_map_count_broken();
	missing = direct_map_missing_becomes(want);
	if (missing == want)
		return;

	ksft_print_msg("After the tests %llu pages are out of the direct map, not %llu\n",
		       (unsigned long long)missing, (unsigned long long)want);
	fflush(stdout);
	_exit(KSFT_FAIL);
}

/* Only blocks with a page that was broken may be lost. */
static inline bool gmem_pool_is_as_before(void)
{
	long nr_broken = (gmem_broken_kbytes() - gmem_before_tests.broken) /
			 (GMEM_PAGE_SIZE / SZ_1K);
	struct gmem_pool_counts want = gmem_before_tests.pool;
	u64 block_size = gmem_block_size();
	long nr_lost;

	if (nr_broken > 0) {
		nr_lost = want.nr - gmem_pool_read(block_size, "nr_hugepages");
		nr_lost = min(nr_lost, nr_broken);
		want.free -= nr_lost;
		want.nr -= nr_lost;
	}
	return gmem_pool_is(block_size, want);
}

static inline void gmem_check_pool(void)
{
	if (getpid() != gmem_before_tests.pid)
		return;

	if (GMEM_WAIT_FOR(gmem_pool_is_as_before()))
		return;

	ksft_print_msg("The pool was not as before after the tests\n");
	fflush(stdout);
	_exit(KSFT_FAIL);
}

/*
 * The harness exits by itself; then the pool must be as it is now, and the direct map
 * if the files are kept out of it.
 */
static inline void gmem_check_pool_at_exit(void)
{
	gmem_before_tests.broken = gmem_broken_kbytes();
	gmem_before_tests.pid = getpid();
	if (gmem_default_flags() && !access(DIRECT_MAP_PROBE, R_OK) &&
	    direct_map_has_free_pages()) {
		gmem_before_tests.missing = direct_map_count_missing() -
					    direct_map_count_broken();
		TEST_ASSERT(!atexit(gmem_check_direct_map), "atexit() failed");
	}
	if (!gmem_has_blocks())
		return;

	gmem_before_tests.pool = gmem_pool_count(gmem_block_size());
	TEST_ASSERT(!atexit(gmem_check_pool), "atexit() failed");
}

/* Instead of the byte, if there was a SIGBUS. */
#define GMEM_SIGBUS	(-1)

/* Each thread catches its own, so that several can look at once. */
static __thread sigjmp_buf *gmem_sigbus_env;

static inline void gmem_sigbus_handler(int sig)
{
	sigjmp_buf *env = READ_ONCE(gmem_sigbus_env);

	if (!env) {
		signal(SIGBUS, SIG_DFL);
		return;
	}
	WRITE_ONCE(gmem_sigbus_env, NULL);
	siglongjmp(*env, 1);
}

static inline void gmem_expect_sigbus(sigjmp_buf *env)
{
	const struct sigaction action = { .sa_handler = gmem_sigbus_handler };

	sigaction(SIGBUS, &action, NULL);
	WRITE_ONCE(gmem_sigbus_env, env);
}

/* Read a byte through a mapping. */
static inline int gmem_peek(const void *addr)
{
	sigjmp_buf env;
	int byte;

	if (sigsetjmp(env, 1))
		return GMEM_SIGBUS;

	gmem_expect_sigbus(&env);
	byte = READ_ONCE(*(const u8 *)addr);
	WRITE_ONCE(gmem_sigbus_env, NULL);

	return byte;
}

/* Write a byte through a mapping: 0 or GMEM_SIGBUS. */
static inline int gmem_poke(void *addr, u8 byte)
{
	sigjmp_buf env;

	if (sigsetjmp(env, 1))
		return GMEM_SIGBUS;

	gmem_expect_sigbus(&env);
	WRITE_ONCE(*(u8 *)addr, byte);
	WRITE_ONCE(gmem_sigbus_env, NULL);

	return 0;
}

/* For a thread of its own. */
static inline long gmem_poke_job(void *addr)
{
	return gmem_poke(addr, 1);
}

/* Whoever breaks a page has it mapped, and is told of it by a signal. */
static inline void gmem_break_page(void *page)
{
	sigjmp_buf env;

	if (sigsetjmp(env, 1))
		return;

	gmem_expect_sigbus(&env);
	/* Says whether it has found each user; what happens is for the test. */
	madvise(page, GMEM_PAGE_SIZE, MADV_HWPOISON);
	WRITE_ONCE(gmem_sigbus_env, NULL);
}

#define GMEM_CORRUPT_PFN	"/sys/kernel/debug/hwpoison/corrupt-pfn"
#define GMEM_UNPOISON_PFN	"/sys/kernel/debug/hwpoison/unpoison-pfn"

/* To one of the files of /sys/kernel/debug/hwpoison; with errno of the write. */
static inline bool gmem_write_pfn(const char *path, u64 pfn)
{
	int fd = open_path_or_exit(path, O_WRONLY);
	char text[32];
	int err, len;
	bool done;

	len = snprintf(text, sizeof(text), "0x%lx\n", pfn);
	done = write(fd, text, len) == len;
	err = errno;
	kvm_close(fd);
	errno = err;
	return done;
}

/*
 * The write may say EBUSY: memory_failure() counts a page that stays in the
 * page cache for its owner to deal with as one that it has failed with.
 */
static inline void gmem_break_pfn(u64 pfn)
{
	TEST_ASSERT(gmem_write_pfn(GMEM_CORRUPT_PFN, pfn) || errno == EBUSY,
		    "Cannot break a page, errno: %i (%s)", errno, strerror(errno));
}

static inline long gmem_break_pfn_job(void *pfn)
{
	gmem_break_pfn(*(u64 *)pfn);
	return 0;
}

/* A block of 2 MiB can be replaced afterwards. */
static inline bool gmem_can_break_page(u64 block_size)
{
	return block_size == SZ_2M && !access(GMEM_CORRUPT_PFN, W_OK);
}

static inline u64 gmem_pagemap_entry(const void *addr)
{
	int fd = open_path_or_exit("/proc/self/pagemap", O_RDONLY);
	off_t offset = (uintptr_t)addr / GMEM_PAGE_SIZE * sizeof(u64);
	u64 entry;

	TEST_ASSERT(pread(fd, &entry, sizeof(entry), offset) == sizeof(entry),
		    "Cannot read /proc/self/pagemap");
	kvm_close(fd);

	return entry;
}

/* Is there a page table entry for it?  Does not touch the page. */
static inline bool gmem_is_mapped(const void *addr)
{
	return gmem_pagemap_entry(addr) & BIT_ULL(63);
}

/* The page frame of a page, which is touched first. */
static inline u64 gmem_pfn(const void *addr)
{
	u64 entry, pfn;

	gmem_peek(addr);
	entry = gmem_pagemap_entry(addr);
	pfn = entry & GENMASK_ULL(54, 0);
	TEST_ASSERT(entry & BIT_ULL(63) && pfn, "Cannot see the page frame");

	return pfn;
}

/* A line of fdinfo: bytes or pages. */
static inline u64 gmem_fdinfo(int gmem_fd, const char *key)
{
	char path[64], line[128];
	FILE *file;
	u64 value;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", gmem_fd);
	file = fopen(path, "r");
	TEST_ASSERT(file, "Cannot open %s", path);

	while (fgets(line, sizeof(line), file)) {
		if (!strncmp(line, "guest_memfd-", 12) &&
		    !strncmp(line + 12, key, strlen(key)) &&
		    sscanf(line + 12 + strlen(key), ": %lu", &value) == 1) {
			fclose(file);
			return value;
		}
	}

	TEST_FAIL("No guest_memfd-%s in %s", key, path);
}

/* It may fail: returns 0 or an errno; @error_offset may be NULL. */
static inline int gmem_try_private(int gmem_fd, u64 offset, u64 size,
				   u64 *error_offset)
{
	int ret = __gmem_set_memory_attributes(gmem_fd, offset, size,
					       KVM_MEMORY_ATTRIBUTE_PRIVATE,
					       error_offset);

	return ret ? errno : 0;
}

/* The same in pages, as it is asked for most of the time. */
static inline void gmem_pages_to_private(int gmem_fd, u64 first, u64 nr_pages)
{
	gmem_set_private(gmem_fd, first * GMEM_PAGE_SIZE,
			 nr_pages * GMEM_PAGE_SIZE);
}

static inline int gmem_pages_try_private(int gmem_fd, u64 first, u64 nr_pages,
					 u64 *error_page)
{
	u64 error_offset;
	int err = gmem_try_private(gmem_fd, first * GMEM_PAGE_SIZE,
				   nr_pages * GMEM_PAGE_SIZE, &error_offset);

	if (error_page)
		*error_page = error_offset / GMEM_PAGE_SIZE;
	return err;
}

static inline void gmem_pages_to_shared(int gmem_fd, u64 first, u64 nr_pages)
{
	gmem_set_shared(gmem_fd, first * GMEM_PAGE_SIZE,
			nr_pages * GMEM_PAGE_SIZE);
}

/* And whatever else is in their blocks. */
static inline void gmem_punch_pages(int gmem_fd, u64 first, u64 nr_pages)
{
	u64 end = gmem_whole_blocks(first + nr_pages);

	first -= first % (gmem_block_size() / GMEM_PAGE_SIZE);
	nr_pages = end - first;
	kvm_fallocate(gmem_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      first * GMEM_PAGE_SIZE, nr_pages * GMEM_PAGE_SIZE);
}

static inline u8 *gmem_map_pages(int gmem_fd, u64 nr_pages)
{
	return kvm_mmap(nr_pages * GMEM_PAGE_SIZE, PROT_READ | PROT_WRITE,
			MAP_SHARED, gmem_fd);
}

/* The page tables of user space as they would be for pages never touched. */
static inline void gmem_forget_mapping(u8 *mem, u64 nr_pages)
{
	TEST_ASSERT(!madvise(mem, nr_pages * GMEM_PAGE_SIZE, MADV_DONTNEED),
		    "madvise(MADV_DONTNEED) failed");
}

#ifdef __x86_64__
/* Can there be a VM whose guest_memfd has pages of both kinds? */
static inline bool gmem_can_convert(void)
{
	return kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM);
}

/* A VM without vCPUs and, returned, a file of it that is all shared. */
static inline int gmem_create_shared(struct kvm_vm **vm, u64 nr_pages)
{
	*vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	return gmem_create_file(*vm, nr_pages * GMEM_PAGE_SIZE,
				GUEST_MEMFD_FLAG_MMAP |
				GUEST_MEMFD_FLAG_INIT_SHARED);
}
#endif

/* Fill a page with words that tell it from others and from other times. */
static inline void gmem_stamp(void *page, u64 stamp)
{
	u64 *word = page;
	size_t i;

	for (i = 0; i < GMEM_PAGE_SIZE / sizeof(*word); i++)
		WRITE_ONCE(word[i], stamp << 32 | i);
}

static inline bool gmem_has_stamp(const void *page, u64 stamp)
{
	const u64 *word = page;
	size_t i;

	for (i = 0; i < GMEM_PAGE_SIZE / sizeof(*word); i++)
		if (READ_ONCE(word[i]) != (stamp << 32 | i))
			return false;
	return true;
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_UTIL_H */
