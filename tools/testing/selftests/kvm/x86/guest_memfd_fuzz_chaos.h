/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Operations that take no locks, so that everything races with everything.
 *
 * What is right can not be said beforehand, only what is legal:
 *
 *	- An errno is one that the operation may give at all.
 *
 *	- Each word that is not zero tells the page and the place that it was
 *	  written for, by whom, and the how manieth of this thread it is.  Each
 *	  page has, for each thread, a floor: what that thread had finished
 *	  writing when a hole was begun that has been punched since.  A value from
 *	  below the floor has survived the hole or comes from the file before.
 *
 *	- When all threads are gone, user space, guest and fdinfo agree.
 *
 * A file is replaced by another under its descriptor and its mappings, so that
 * no operation can hit the descriptor of something else.  To replace it and to
 * map it or bind it to a memslot exclude each other, so that the moment is known
 * from which on the old file cannot be reached.
 */
#ifndef SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_CHAOS_H
#define SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_CHAOS_H

#include "guest_memfd_fuzz.h"

#define CHAOS_FILES		2
#define CHAOS_MAPPINGS		2
#define CHAOS_SLOTS		4
#define CHAOS_FD		900
#define CHAOS_MAX_ALLOCATION	64
#define CHAOS_MAX_CHILDREN	2
#define CHAOS_SLOT_PAGES	((u64)1024)

/* Away from the front of the page, where arguments of the ioctl may be. */
#define CHAOS_WORDS		4

static const unsigned int chaos_offsets[CHAOS_WORDS] = { 0x400, 0x7f8, 0x800, 0xff8 };

struct chaos_file {
	int fd;
	u64 nr_pages;
	u8 *mem[CHAOS_MAPPINGS];
	pthread_mutex_t replace;
	u32 file_floor[FUZZ_MAX_THREADS];
	u32 (*floor)[FUZZ_MAX_THREADS];
};

static struct chaos_file chaos_files[CHAOS_FILES];

/* Of each thread: how many values it has begun, and finished, to write. */
static u32 chaos_begun[FUZZ_MAX_THREADS];
static u32 chaos_finished[FUZZ_MAX_THREADS];

static struct {
	int file;
	u64 page;
	u64 pfn;
} chaos_broken[64];
static unsigned int chaos_nr_broken;	/* may be more than there is room for */

static u64 chaos_value(u64 page, unsigned int word, unsigned int thread, u32 nr)
{
	return (page + 1) << 40 | (u64)word << 36 | (u64)thread << 32 | nr;
}

/* Few pages, so that all meet there. */
static u64 chaos_page(u64 r, const struct chaos_file *file)
{
	return fuzz_spot(FUZZ_SPOT_PAGES / 2 - 4 + (r >> 8) % 8, r, file->nr_pages);
}

static struct chaos_file *chaos_pick(struct fuzz_thread *t, const u64 *r, u64 max, u64 *first,
				     u64 *nr)
{
	struct chaos_file *file = &chaos_files[r[0] % CHAOS_FILES];

	*nr = fuzz_length(r[2], min(max, file->nr_pages));
	*first = min(chaos_page(r[1], file), file->nr_pages - *nr);
	fuzz_note(t, file - chaos_files, *first, *nr, r[3]);
	return file;
}

static u8 *chaos_addr(struct chaos_file *file, u64 r, u64 page)
{
	return file->mem[r % CHAOS_MAPPINGS] + page * MODEL_PAGE_SIZE;
}

/* The outcome, if it is one of those allowed. */
static enum fuzz_outcome chaos_legal(struct fuzz_thread *t, const char *what, int err,
				     const int *legal)
{
	enum fuzz_outcome outcome = fuzz_outcome_of(err);

	while (*legal != err && *legal)
		legal++;
	if (*legal != err)
		fuzz_fail(t, t->now.file, t->now.first, "%s: %s is not legal", what,
			  strerror(err));
	return outcome;
}

/* The list ends with success, which always is. */
#define chaos_legal(t, what, err, ...)	chaos_legal(t, what, err, (const int []){ __VA_ARGS__, 0 })

/*
 * Content
 */

static void chaos_check_words(struct fuzz_thread *t, int file, u64 page, const u32 *floor,
			      const u64 *words, const char *who)
{
	unsigned int i, thread;
	u32 nr;

	for (i = 0; i < CHAOS_WORDS; i++) {
		if (!words[i])
			continue;

		nr = words[i];
		thread = words[i] >> 32 & 0xf;
		if (words[i] != chaos_value(page, i, thread, nr) || thread >= fuzz.nr_threads ||
		    nr > __atomic_load_n(&chaos_begun[thread], __ATOMIC_ACQUIRE))
			fuzz_fail(t, file, page, "%s: 0x%lx was never written there", who,
				  words[i]);
		else if (floor && nr <= floor[thread])
			fuzz_fail(t, file, page,
				  "%s: 0x%lx survived a hole, or is from another file", who,
				  words[i]);
	}
}

static void chaos_get_floor(struct chaos_file *file, u64 page, u32 *floor)
{
	unsigned int i;

	for (i = 0; i < fuzz.nr_threads; i++)
		floor[i] = max(__atomic_load_n(&file->floor[page][i], __ATOMIC_ACQUIRE),
			       __atomic_load_n(&file->file_floor[i], __ATOMIC_ACQUIRE));
}

static void chaos_get_finished(u32 *finished)
{
	unsigned int i;

	for (i = 0; i < fuzz.nr_threads; i++)
		finished[i] = __atomic_load_n(&chaos_finished[i], __ATOMIC_ACQUIRE);
}

/* Under the lock that keeps other holes and files out, so that it only rises. */
static void chaos_raise_floor(struct chaos_file *file, u64 first, u64 nr, const u32 *finished)
{
	unsigned int i;
	u64 page;

	if (nr == file->nr_pages) {
		for (i = 0; i < fuzz.nr_threads; i++)
			__atomic_store_n(&file->file_floor[i], finished[i], __ATOMIC_RELEASE);
		return;
	}

	for (page = first; page < first + nr; page++)
		for (i = 0; i < fuzz.nr_threads; i++)
			__atomic_store_n(&file->floor[page][i], finished[i], __ATOMIC_RELEASE);
}

static u32 chaos_begin_write(struct fuzz_thread *t)
{
	return __atomic_add_fetch(&chaos_begun[t->index], 1, __ATOMIC_ACQ_REL);
}

static void chaos_finish_write(struct fuzz_thread *t)
{
	__atomic_store_n(&chaos_finished[t->index], chaos_begun[t->index], __ATOMIC_RELEASE);
}

static noinline bool chaos_load(const u8 *page, u64 *words)
{
	unsigned int i;

	if (fuzz_sigbus())
		return false;
	for (i = 0; i < CHAOS_WORDS; i++)
		words[i] = READ_ONCE(*(const u64 *)(page + chaos_offsets[i]));
	fuzz_sigbus_over();
	return true;
}

static noinline bool chaos_store(u8 *mem, u64 page, unsigned int thread, u32 nr)
{
	unsigned int i;

	if (fuzz_sigbus())
		return false;
	for (i = 0; i < CHAOS_WORDS; i++)
		WRITE_ONCE(*(u64 *)(mem + chaos_offsets[i]), chaos_value(page, i, thread, nr));
	fuzz_sigbus_over();
	return true;
}

static enum fuzz_outcome chaos_user_read(struct fuzz_thread *t, const u64 *r)
{
	u64 words[CHAOS_WORDS], page, nr;
	struct chaos_file *file = chaos_pick(t, r, 1, &page, &nr);
	u32 floor[FUZZ_MAX_THREADS];

	chaos_get_floor(file, page, floor);
	if (!chaos_load(chaos_addr(file, r[4], page), words))
		return OUT_SIGBUS;
	chaos_check_words(t, file - chaos_files, page, floor, words, "user read");
	return OUT_OK;
}

static enum fuzz_outcome chaos_user_write(struct fuzz_thread *t, const u64 *r)
{
	u64 page, nr;
	struct chaos_file *file = chaos_pick(t, r, 1, &page, &nr);
	bool ok;

	ok = chaos_store(chaos_addr(file, r[4], page), page, t->index, chaos_begin_write(t));
	chaos_finish_write(t);
	return ok ? OUT_OK : OUT_SIGBUS;
}

static enum fuzz_outcome chaos_kernel_read(struct fuzz_thread *t, const u64 *r)
{
	u64 words[CHAOS_WORDS], page, nr;
	struct chaos_file *file = chaos_pick(t, r, 1, &page, &nr);
	u8 buf[MODEL_PAGE_SIZE] __aligned(8);
	struct iovec local = { buf, sizeof(buf) };
	struct iovec remote = { chaos_addr(file, r[4], page), sizeof(buf) };
	u32 floor[FUZZ_MAX_THREADS];
	ssize_t ret;

	chaos_get_floor(file, page, floor);
	ret = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
	if (ret == sizeof(buf)) {
		chaos_load(buf, words);
		chaos_check_words(t, file - chaos_files, page, floor, words, "process_vm_readv()");
	}
	return chaos_legal(t, "process_vm_readv()", ret < 0 ? errno : 0, EFAULT);
}

/*
 * What a child sees, for which there is no floor: it keeps the old mappings.
 * It ends while the others go on.
 */
static void chaos_child(struct fuzz_thread *t, u64 seed)
{
	u64 words[CHAOS_WORDS], page;
	struct chaos_file *file;
	unsigned int i;

	for (i = 0; i < 32; i++) {
		file = &chaos_files[model_random(&seed) % CHAOS_FILES];
		page = chaos_page(model_random(&seed), file);
		if (chaos_load(chaos_addr(file, i, page), words) &&
		    words[0] && words[0] >> 40 != page + 1)
			_exit(KSFT_FAIL);
	}
	_exit(0);
}

static void chaos_reap(struct fuzz_thread *t, int max)
{
	int status;

	while (t->nr_children > max) {
		TEST_ASSERT(waitpid(-1, &status, __WNOTHREAD) > 0, "waitpid() failed");
		t->nr_children--;
		if (status)
			fuzz_fail(t, -1, 0, "a child saw a page of another offset, status 0x%x",
				  status);
	}
}

static enum fuzz_outcome chaos_fork(struct fuzz_thread *t, const u64 *r)
{
	pid_t pid = fork();

	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid)
		chaos_child(t, r[0] | 1);
	t->nr_children++;
	chaos_reap(t, CHAOS_MAX_CHILDREN);
	return OUT_OK;
}

/*
 * Conversions and holes
 */

static enum fuzz_outcome chaos_convert(struct fuzz_thread *t, const u64 *r)
{
	u64 first, nr, error_page;
	struct chaos_file *file = chaos_pick(t, r, ~0ull, &first, &nr);
	int err;

	err = fuzz_convert(file->fd, first, nr, r[3] & 1, &error_page);
	if (err && (error_page < first || error_page >= first + nr))
		fuzz_fail(t, file - chaos_files, first, "error_offset of page 0x%lx", error_page);
	/* To shared nothing is in the way. */
	if (!(r[3] & 1))
		return chaos_legal(t, "conversion to shared", err, EINTR);
	return chaos_legal(t, "conversion to private", err, EAGAIN, EHWPOISON, EINTR);
}

/* Others may write another argument there, or zeros, before it is read. */
static enum fuzz_outcome chaos_convert_inside(struct fuzz_thread *t, const u64 *r)
{
	u64 first, nr;
	struct chaos_file *file = chaos_pick(t, r, ~0ull, &first, &nr);
	u8 *addr = chaos_addr(file, r[4], first + r[5] % nr);
	const u64 words[MODEL_WORDS] = {
		[0] = first * MODEL_PAGE_SIZE,
		[1] = nr * MODEL_PAGE_SIZE,
		[2] = r[3] & 1 ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};
	int err;

	if (!fuzz_user_write(addr, MODEL_HEAD_MASK, words))
		return OUT_SIGBUS;
	err = ioctl(file->fd, KVM_SET_MEMORY_ATTRIBUTES2, addr) ? errno : 0;
	return chaos_legal(t, "conversion with its argument in the file", err, EFAULT, EINVAL,
			   EAGAIN, EHWPOISON, EINTR);
}

static enum fuzz_outcome chaos_allocate(struct fuzz_thread *t, const u64 *r)
{
	u64 first, nr;
	struct chaos_file *file = chaos_pick(t, r, CHAOS_MAX_ALLOCATION, &first, &nr);

	return chaos_legal(t, "fallocate()", fuzz_fallocate(file->fd, 0, first, nr), EINTR);
}

static enum fuzz_outcome chaos_punch(struct fuzz_thread *t, const u64 *r)
{
	u32 finished[FUZZ_MAX_THREADS];
	u64 first, nr;
	struct chaos_file *file = chaos_pick(t, r, ~0ull, &first, &nr);
	int err;

	fuzz_whole_blocks(&first, &nr);
	fuzz_note(t, file - chaos_files, first, nr, r[3]);
	/* It must not be the hole of a file that is replaced meanwhile. */
	pthread_mutex_lock(&file->replace);
	chaos_get_finished(finished);
	err = fuzz_fallocate(file->fd, FALLOC_FL_PUNCH_HOLE, first, nr);
	chaos_raise_floor(file, first, nr, finished);
	pthread_mutex_unlock(&file->replace);
	return chaos_legal(t, "punching a hole", err, EINTR);
}

static enum fuzz_outcome chaos_hold(struct fuzz_thread *t, const u64 *r)
{
	u64 words[CHAOS_WORDS], page, nr;
	struct chaos_file *file = chaos_pick(t, r, 1, &page, &nr);
	struct iovec iov = { chaos_addr(file, r[4], page), MODEL_PAGE_SIZE };
	u8 buf[MODEL_PAGE_SIZE] __aligned(8);
	int err = 0;

	if (!t->hold.active) {
		err = vmsplice(t->hold_pipe[1], &iov, 1, 0) < 0 ? errno : 0;
		t->hold = (struct fuzz_hold) {
			.active = !err, .file = file - chaos_files, .page = page,
		};
		return chaos_legal(t, "vmsplice()", err, EFAULT);
	}

	TEST_ASSERT_EQ(read(t->hold_pipe[0], buf, sizeof(buf)), (ssize_t)sizeof(buf));
	t->hold.active = false;
	chaos_load(buf, words);
	chaos_check_words(t, t->hold.file, t->hold.page, NULL, words, "pipe");
	return OUT_OK;
}

/*
 * Mappings
 */

static void chaos_map(struct chaos_file *file, unsigned int mapping, int fd)
{
	void *mem = mmap(file->mem[mapping], file->nr_pages * MODEL_PAGE_SIZE,
			 PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);

	TEST_ASSERT(mem != MAP_FAILED, "mmap() failed");
}

static enum fuzz_outcome chaos_mmap(struct fuzz_thread *t, const u64 *r)
{
	struct chaos_file *file = &chaos_files[r[0] % CHAOS_FILES];

	fuzz_note(t, file - chaos_files, 0, file->nr_pages, 0);
	pthread_mutex_lock(&file->replace);
	chaos_map(file, r[1] % CHAOS_MAPPINGS, file->fd);
	pthread_mutex_unlock(&file->replace);
	return OUT_OK;
}

static enum fuzz_outcome chaos_madvise(struct fuzz_thread *t, const u64 *r)
{
	u64 first, nr;
	struct chaos_file *file = chaos_pick(t, r, CHAOS_MAX_ALLOCATION, &first, &nr);
	u8 *addr = chaos_addr(file, r[4], first);
	int err;

	switch (r[5] % 5) {
	case 0:
		err = mlock(addr, nr * MODEL_PAGE_SIZE) ? errno : 0;
		return chaos_legal(t, "mlock()", err, ENOMEM, EAGAIN);
	case 1:
		err = munlock(addr, nr * MODEL_PAGE_SIZE) ? errno : 0;
		return chaos_legal(t, "munlock()", err, ENOMEM);
	case 2:
		err = madvise(addr, nr * MODEL_PAGE_SIZE, MADV_DONTNEED_LOCKED) ? errno : 0;
		return chaos_legal(t, "MADV_DONTNEED_LOCKED", err, EINTR);
	default:
		err = madvise(addr, nr * MODEL_PAGE_SIZE,
			      r[5] & 1 ? MADV_POPULATE_READ : MADV_POPULATE_WRITE) ? errno : 0;
		/* It is GUP that populates, and not what is kept out of the direct map. */
		if (err == EINVAL && gmem_default_flags())
			return OUT_SKIPPED;
		return chaos_legal(t, "MADV_POPULATE", err, EFAULT, EHWPOISON, ENOMEM, EINTR);
	}
}

/* Whatever the page is by then: if its frame is another, that stays broken. */
static enum fuzz_outcome chaos_poison(struct fuzz_thread *t, const u64 *r)
{
	u64 page, nr;
	struct chaos_file *file = chaos_pick(t, r, 1, &page, &nr);
	u8 *addr = chaos_addr(file, r[4], page);
	unsigned int i;
	int err;

	if (READ_ONCE(fuzz.nr_poisons) >= fuzz.max_poisons)
		return OUT_SKIPPED;
	if (__atomic_fetch_add(&fuzz.nr_poisons, 1, __ATOMIC_RELAXED) >= fuzz.max_poisons)
		return OUT_SKIPPED;

	i = __atomic_fetch_add(&chaos_nr_broken, 1, __ATOMIC_RELAXED);
	if (i >= ARRAY_SIZE(chaos_broken))
		return OUT_SKIPPED;
	chaos_broken[i].file = file - chaos_files;
	chaos_broken[i].page = page;
	chaos_broken[i].pfn = fuzz_pfn(addr);
	err = fuzz_poison(addr);
	return chaos_legal(t, "MADV_HWPOISON", err, EFAULT, EHWPOISON, EIO, EOPNOTSUPP);
}

#endif /* SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_CHAOS_H */
