/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Operations on files that have a model: each has one right outcome, and state
 * and content are the model's at any time.
 *
 * Locks, outer ones first; each kind in the order of its index:
 *
 *	memslot		where it is, if it is; taken by guests
 *	file		which one it is; exclusive to look at all of it at once
 *	mapping		where it is, if it is
 *	page		see the model
 */
#ifndef SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_EXACT_H
#define SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_EXACT_H

#include "guest_memfd_fuzz.h"

/* Two of a few units with an odd end, one with more than one chunk. */
#define EXACT_FILES		3
#define EXACT_BIG_FILE		2
#define EXACT_MAPPINGS		3
#define EXACT_SLOTS_PER_FILE	2
#define EXACT_AREAS_PER_SLOT	2
/* What is allocated at once. */
#define EXACT_MAX_ALLOCATION	64
#define EXACT_LOOKED_AT		((u64)12)
/* What a fault maps around its page, at most. */
#define EXACT_AROUND_PAGES	((u64)SZ_64K / MODEL_PAGE_SIZE)

struct exact_mapping {
	pthread_rwlock_t lock;
	u8 *mem;
	u64 first;
	u64 nr_pages;
};

struct exact_slot {
	pthread_rwlock_t lock;
	bool exists;
	bool file_is_closed;
	unsigned int area;
	u64 first;
	u64 nr_pages;
};

struct exact_file {
	pthread_rwlock_t lock;
	int fd;
	u64 incarnation;
	struct model model;
	struct exact_mapping mappings[EXACT_MAPPINGS];
	struct exact_slot slots[EXACT_SLOTS_PER_FILE];
};

static struct exact_file exact_files[EXACT_FILES];

/*
 * Shared: there is a child, which has all files open; exclusive: the last close
 * of a file must be the last.  Innermost.
 */
static pthread_rwlock_t exact_children = PTHREAD_RWLOCK_INITIALIZER;

static void exact_lock_init(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t attr;

	/* No lock is ever taken twice, so that writers may go first. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(lock, &attr);
}

static int exact_index(const struct exact_file *file)
{
	return file - exact_files;
}

static struct exact_file *exact_pick_file(u64 r)
{
	return &exact_files[r % EXACT_FILES];
}

/* Pages of a file; the file is locked, and the mapping if there is one, not the pages. */
struct exact_range {
	struct exact_file *file;
	struct exact_mapping *mapping;
	u64 first;
	u64 nr;
};

static u64 exact_end(const struct exact_range *range)
{
	return range->first + range->nr;
}

static void exact_take_range(struct fuzz_thread *t, const u64 *r, u64 max,
			     struct exact_range *range)
{
	struct exact_file *file = exact_pick_file(r[0]);

	pthread_rwlock_rdlock(&file->lock);
	range->file = file;
	range->mapping = NULL;
	range->nr = fuzz_length(r[2], min(max, file->model.nr_pages));
	range->first = min(fuzz_page(r[1], file->model.nr_pages),
			   file->model.nr_pages - range->nr);
	fuzz_note(t, exact_index(file), range->first, range->nr, r[3]);
}

static void exact_take_whole_blocks(struct exact_range *range)
{
	fuzz_whole_blocks(&range->first, &range->nr);
}

/* The same inside of a mapping; false if there is none. */
static bool exact_take_mapped(struct fuzz_thread *t, const u64 *r, u64 max,
			      struct exact_range *range)
{
	struct exact_file *file = exact_pick_file(r[0]);
	struct exact_mapping *mapping = &file->mappings[(r[0] >> 32) % EXACT_MAPPINGS];
	u64 page;

	pthread_rwlock_rdlock(&file->lock);
	pthread_rwlock_rdlock(&mapping->lock);
	if (!mapping->mem) {
		pthread_rwlock_unlock(&mapping->lock);
		pthread_rwlock_unlock(&file->lock);
		return false;
	}

	range->file = file;
	range->mapping = mapping;
	range->nr = fuzz_length(r[2], min(max, mapping->nr_pages));
	page = fuzz_page(r[1], file->model.nr_pages);
	if (page < mapping->first || page >= mapping->first + mapping->nr_pages)
		page = mapping->first + page % mapping->nr_pages;
	range->first = min(page, mapping->first + mapping->nr_pages - range->nr);
	fuzz_note(t, exact_index(file), range->first, range->nr, r[3]);
	return true;
}

static void exact_drop(const struct exact_range *range)
{
	if (range->mapping)
		pthread_rwlock_unlock(&range->mapping->lock);
	pthread_rwlock_unlock(&range->file->lock);
}

static u8 *exact_addr(const struct exact_range *range)
{
	return range->mapping->mem +
	       (range->first - range->mapping->first) * MODEL_PAGE_SIZE;
}

static size_t exact_size(const struct exact_range *range)
{
	return range->nr * MODEL_PAGE_SIZE;
}

static void exact_lock(const struct exact_range *range)
{
	model_lock(&range->file->model, range->first, range->nr);
}

static void exact_lock_shared(const struct exact_range *range)
{
	model_lock_shared(&range->file->model, range->first, range->nr);
}

static void exact_unlock(const struct exact_range *range)
{
	model_unlock(&range->file->model, range->first, range->nr);
}

/* New content: which words, and what. */
static unsigned int exact_stamp(struct fuzz_thread *t, u64 r, u64 *words)
{
	unsigned int i;

	for (i = 0; i < MODEL_WORDS; i++)
		words[i] = r % 8 ? (t->index + 1ull) << 56 | ++t->nr_stamps << 8 | i : 0;
	return r & 0x100 ? MODEL_ALL_WORDS : 1u << (r >> 16) % MODEL_WORDS;
}

static void exact_check_words(struct fuzz_thread *t, struct exact_file *file, u64 page,
			      const u64 *words, u64 rest, const char *who)
{
	unsigned int i;
	u64 expected;

	for (i = 0; i < MODEL_WORDS; i++) {
		expected = model_word(&file->model, page, i);
		if (words[i] != expected)
			fuzz_fail(t, exact_index(file), page,
				  "%s at 0x%x: expected 0x%lx, found 0x%lx", who,
				  model_word_offset(i), expected, words[i]);
	}
	if (rest)
		fuzz_fail(t, exact_index(file), page,
			  "%s: expected 0 in what nobody wrote to, found 0x%lx", who, rest);
}

static void exact_check_page(struct fuzz_thread *t, struct exact_file *file, u64 page,
			     const u8 *buf, const char *who)
{
	u64 words[MODEL_WORDS] = {}, rest = 0;

	fuzz_user_read(buf, words);
	fuzz_user_scan(buf, &rest);
	exact_check_words(t, file, page, words, rest, who);
}

/*
 * Access by user space
 */

/* One page, with its lock held at least shared. */
static enum fuzz_outcome exact_peek(struct fuzz_thread *t, struct exact_file *file, u64 page,
				    const u8 *addr, bool scan)
{
	bool private = model_is_private(&file->model, page);
	u64 words[MODEL_WORDS], rest = 0;
	bool ok = fuzz_user_read(addr, words);

	if (ok && scan)
		ok = fuzz_user_scan(addr, &rest);
	if (ok == private)
		fuzz_fail(t, exact_index(file), page, "user read: expected %s, found %s",
			  private ? "SIGBUS" : "memory", ok ? "memory" : "SIGBUS");
	if (!ok)
		return OUT_SIGBUS;

	model_allocate(&file->model, page, 1);
	exact_check_words(t, file, page, words, rest, "user read");
	return OUT_OK;
}

static enum fuzz_outcome exact_user_read(struct fuzz_thread *t, const u64 *r)
{
	struct exact_range range;
	enum fuzz_outcome outcome;

	if (!exact_take_mapped(t, r, 1, &range))
		return OUT_SKIPPED;

	exact_lock_shared(&range);
	outcome = exact_peek(t, range.file, range.first, exact_addr(&range), r[4] % 4 == 0);
	exact_unlock(&range);
	exact_drop(&range);
	return outcome;
}

static enum fuzz_outcome exact_user_write(struct fuzz_thread *t, const u64 *r)
{
	u64 words[MODEL_WORDS];
	unsigned int mask = exact_stamp(t, r[4], words);
	struct exact_range range;
	bool private, ok;

	if (!exact_take_mapped(t, r, 1, &range))
		return OUT_SKIPPED;

	exact_lock(&range);
	private = model_is_private(&range.file->model, range.first);
	ok = fuzz_user_write(exact_addr(&range), mask, words);
	if (ok == private)
		fuzz_fail(t, exact_index(range.file), range.first,
			  "user write: expected %s, found %s",
			  private ? "SIGBUS" : "memory", ok ? "memory" : "SIGBUS");
	if (ok)
		model_write(&range.file->model, range.first, mask, words);
	exact_unlock(&range);
	exact_drop(&range);
	return ok ? OUT_OK : OUT_SIGBUS;
}

/* The kernel reads the page on behalf of user space. */
static enum fuzz_outcome exact_kernel_read(struct fuzz_thread *t, const u64 *r)
{
	u8 buf[MODEL_PAGE_SIZE] __aligned(8) = {};
	struct iovec local = { buf, sizeof(buf) }, remote;
	struct exact_range range;
	int expected, found;
	ssize_t ret;
	u8 *addr;

	if (!exact_take_mapped(t, r, 1, &range))
		return OUT_SKIPPED;

	exact_lock_shared(&range);
	addr = exact_addr(&range);
	if (r[4] & 1) {
		ret = write(t->pipe[1], addr, sizeof(buf));
		found = ret < 0 ? errno : 0;
		if (ret > 0)
			ret = read(t->pipe[0], buf, ret);
	} else {
		remote = (struct iovec) { addr, sizeof(buf) };
		ret = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
		found = ret < 0 ? errno : 0;
	}

	expected = model_is_private(&range.file->model, range.first) ? EFAULT : 0;
	fuzz_expect(t, exact_index(range.file), range.first,
		    r[4] & 1 ? "write()" : "process_vm_readv()", expected, found);
	if (!found) {
		TEST_ASSERT_EQ(ret, (ssize_t)sizeof(buf));
		model_allocate(&range.file->model, range.first, 1);
		exact_check_page(t, range.file, range.first, buf, "system call");
	}
	exact_unlock(&range);
	exact_drop(&range);
	return fuzz_outcome_of(found);
}

/* The kernel writes to the page on behalf of user space. */
static enum fuzz_outcome exact_kernel_write(struct fuzz_thread *t, const u64 *r)
{
	u8 buf[MODEL_PAGE_SIZE] __aligned(8) = {};
	struct iovec local = { buf, sizeof(buf) }, remote;
	u64 words[MODEL_WORDS];
	struct exact_range range;
	int expected, found;
	u8 *addr;

	exact_stamp(t, r[4], words);
	if (!exact_take_mapped(t, r, 1, &range))
		return OUT_SKIPPED;

	exact_lock(&range);
	addr = exact_addr(&range);
	fuzz_user_write(buf, MODEL_ALL_WORDS, words);
	if (r[5] & 1) {
		TEST_ASSERT_EQ(write(t->pipe[1], buf, sizeof(buf)), (ssize_t)sizeof(buf));
		found = read(t->pipe[0], addr, sizeof(buf)) < 0 ? errno : 0;
		/* Nothing is consumed then. */
		if (found)
			TEST_ASSERT_EQ(read(t->pipe[0], buf, sizeof(buf)), (ssize_t)sizeof(buf));
	} else {
		remote = (struct iovec) { addr, sizeof(buf) };
		found = process_vm_writev(getpid(), &local, 1, &remote, 1, 0) < 0 ? errno : 0;
	}

	expected = model_is_private(&range.file->model, range.first) ? EFAULT : 0;
	fuzz_expect(t, exact_index(range.file), range.first,
		    r[5] & 1 ? "read()" : "process_vm_writev()", expected, found);
	if (!found)
		model_write(&range.file->model, range.first, MODEL_ALL_WORDS, words);
	exact_unlock(&range);
	exact_drop(&range);
	return fuzz_outcome_of(found);
}

/*
 * What a fault may map around its page.  A child that exits has references to all
 * of that for longer than a conversion waits.
 */
static void exact_take_neighbours(struct exact_range *range)
{
	u64 first = range->first - min(range->first, EXACT_AROUND_PAGES);
	u64 end = min(exact_end(range) + EXACT_AROUND_PAGES, range->file->model.nr_pages);

	range->first = first;
	range->nr = end - first;
}

/* A child sees what its parent does. */
static enum fuzz_outcome exact_fork(struct fuzz_thread *t, const u64 *r)
{
	struct exact_range range, around;
	u64 words[MODEL_WORDS], page;
	int status;
	bool ok;
	pid_t pid;

	if (!exact_take_mapped(t, r, 8, &range))
		return OUT_SKIPPED;

	around = range;
	exact_take_neighbours(&around);
	exact_lock_shared(&around);
	pthread_rwlock_rdlock(&exact_children);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		for (page = 0; page < range.nr; page++) {
			ok = fuzz_user_read(exact_addr(&range) + page * MODEL_PAGE_SIZE, words);
			if (ok == model_is_private(&range.file->model, range.first + page))
				_exit(page + 1);
			if (ok && words[0] != model_word(&range.file->model, range.first + page, 0))
				_exit(page + 1);
		}
		_exit(0);
	}

	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed");
	pthread_rwlock_unlock(&exact_children);
	if (status)
		fuzz_fail(t, exact_index(range.file), range.first + WEXITSTATUS(status) - 1,
			  "a child sees something else, status 0x%x", status);
	for (page = range.first; page < exact_end(&range); page++)
		if (!model_is_private(&range.file->model, page))
			model_allocate(&range.file->model, page, 1);
	exact_unlock(&around);
	exact_drop(&range);
	return OUT_OK;
}

/*
 * Mappings
 */

static void exact_unmap(struct exact_mapping *mapping)
{
	if (mapping->mem)
		kvm_munmap(mapping->mem, mapping->nr_pages * MODEL_PAGE_SIZE);
	mapping->mem = NULL;
}

static void exact_map(struct exact_file *file, struct exact_mapping *mapping, u64 first, u64 nr)
{
	mapping->first = first;
	mapping->nr_pages = nr;
	mapping->mem = __kvm_mmap(nr * MODEL_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
				  file->fd, first * MODEL_PAGE_SIZE);
}

static enum fuzz_outcome exact_mmap(struct fuzz_thread *t, const u64 *r)
{
	struct exact_file *file = exact_pick_file(r[0]);
	struct exact_mapping *mapping = &file->mappings[(r[0] >> 32) % EXACT_MAPPINGS];
	u64 first, nr_pages;

	pthread_rwlock_rdlock(&file->lock);
	pthread_rwlock_wrlock(&mapping->lock);
	nr_pages = file->model.nr_pages;
	first = r[1] & 1 ? 0 : fuzz_page(r[2], nr_pages);
	exact_unmap(mapping);
	if (r[1] & 0xe)
		exact_map(file, mapping, first, r[1] & 1 ? nr_pages :
				   1 + r[3] % (nr_pages - first));
	fuzz_note(t, exact_index(file), mapping->first, mapping->nr_pages, !!mapping->mem);
	pthread_rwlock_unlock(&mapping->lock);
	pthread_rwlock_unlock(&file->lock);
	return OUT_OK;
}

/* What populates a range goes up to the first private page. */
static int exact_populated(struct exact_range *range, int err)
{
	struct model *model = &range->file->model;
	u64 end = model_first_private(model, range->first, range->nr);

	if (end > range->first)
		model_allocate(model, range->first, end - range->first);
	return end < exact_end(range) ? err : 0;
}

static enum fuzz_outcome exact_mlock(struct fuzz_thread *t, const u64 *r)
{
	struct exact_range range;
	int found;

	if (!exact_take_mapped(t, r, EXACT_MAX_ALLOCATION, &range))
		return OUT_SKIPPED;

	exact_lock_shared(&range);
	found = mlock(exact_addr(&range), exact_size(&range)) ? errno : 0;
	fuzz_expect(t, exact_index(range.file), range.first, "mlock()",
		    exact_populated(&range, ENOMEM), found);
	exact_unlock(&range);
	exact_drop(&range);
	return fuzz_outcome_of(found);
}

static enum fuzz_outcome exact_munlock(struct fuzz_thread *t, const u64 *r)
{
	struct exact_range range;
	int found;

	if (!exact_take_mapped(t, r, ~0ull, &range))
		return OUT_SKIPPED;

	found = munlock(exact_addr(&range), exact_size(&range)) ? errno : 0;
	fuzz_expect(t, exact_index(range.file), range.first, "munlock()", 0, found);
	exact_drop(&range);
	return fuzz_outcome_of(found);
}

static enum fuzz_outcome exact_madvise_populate(struct fuzz_thread *t, const u64 *r)
{
	struct exact_range range;
	int found;

	if (!exact_take_mapped(t, r, EXACT_MAX_ALLOCATION, &range))
		return OUT_SKIPPED;

	exact_lock_shared(&range);
	found = madvise(exact_addr(&range), exact_size(&range),
			r[4] & 1 ? MADV_POPULATE_READ : MADV_POPULATE_WRITE) ? errno : 0;
	fuzz_expect(t, exact_index(range.file), range.first, "MADV_POPULATE",
		    exact_populated(&range, EFAULT), found);
	exact_unlock(&range);
	exact_drop(&range);
	return fuzz_outcome_of(found);
}

/* It unmaps the pages, which stay in the file. */
static enum fuzz_outcome exact_madvise_dontneed(struct fuzz_thread *t, const u64 *r)
{
	struct exact_range range;
	int found;

	if (!exact_take_mapped(t, r, ~0ull, &range))
		return OUT_SKIPPED;

	found = madvise(exact_addr(&range), exact_size(&range), MADV_DONTNEED_LOCKED) ? errno : 0;
	fuzz_expect(t, exact_index(range.file), range.first, "MADV_DONTNEED_LOCKED", 0, found);
	exact_drop(&range);
	return fuzz_outcome_of(found);
}

#endif /* SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_EXACT_H */
