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
static unsigned int chaos_nr_broken;

static u64 chaos_value(u64 page, unsigned int word, unsigned int thread, u32 nr)
{
	return (page + 1) << 40 | (u64)word << 36 | (u64)thread << 32 | nr;
}

static struct chaos_file *chaos_pick(struct fuzz_thread *t, const u64 *r, u64 max, u64 *first,
				     u64 *nr)
{
	struct chaos_file *file = &chaos_files[r[0] % CHAOS_FILES];

	*nr = fuzz_length(r[2], min(max, file->nr_pages));
	*first = min(fuzz_page(r[1], file->nr_pages), file->nr_pages - *nr);
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
		floor[i] = __atomic_load_n(&file->floor[page][i], __ATOMIC_ACQUIRE);
}

static void chaos_get_finished(u32 *finished)
{
	unsigned int i;

	for (i = 0; i < fuzz.nr_threads; i++)
		finished[i] = __atomic_load_n(&chaos_finished[i], __ATOMIC_ACQUIRE);
}

static void chaos_raise_floor(struct chaos_file *file, u64 first, u64 nr, const u32 *finished)
{
	unsigned int i;
	u64 page;
	u32 old;

	for (page = first; page < first + nr; page++) {
		for (i = 0; i < fuzz.nr_threads; i++) {
			old = __atomic_load_n(&file->floor[page][i], __ATOMIC_RELAXED);
			while (old < finished[i] &&
			       !__atomic_compare_exchange_n(&file->floor[page][i], &old,
							    finished[i], false, __ATOMIC_RELEASE,
							    __ATOMIC_RELAXED))
				;
		}
	}
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

	return fuzz_try(for (i = 0; i < CHAOS_WORDS; i++)
		words[i] = READ_ONCE(*(const u64 *)(page + chaos_offsets[i])));
}

static noinline bool chaos_store(u8 *page, u64 nr_page, unsigned int thread, u32 nr)
{
	unsigned int i;

	return fuzz_try(for (i = 0; i < CHAOS_WORDS; i++)
		WRITE_ONCE(*(u64 *)(page + chaos_offsets[i]), chaos_value(nr_page, i, thread, nr)));
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
		page = fuzz_page(model_random(&seed), file->nr_pages);
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
	struct kvm_memory_attributes2 attr = {
		.offset = first * MODEL_PAGE_SIZE,
		.size = nr * MODEL_PAGE_SIZE,
		.attributes = r[3] & 1 ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};
	int err;

	if (!fuzz_try(memcpy(addr, &attr, sizeof(attr))))
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

	/* Not if it's the hole of a file that is replaced meanwhile. */
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

/*
 * Memslots and guests
 */

static struct chaos_file *chaos_slot_file(unsigned int slot)
{
	return &chaos_files[slot % CHAOS_FILES];
}

/* Those of one file are bound to different parts of it. */
static u64 chaos_slot_first(unsigned int slot)
{
	return slot / CHAOS_FILES * min(CHAOS_SLOT_PAGES, chaos_slot_file(slot)->nr_pages / 2);
}

static u64 chaos_slot_pages(unsigned int slot)
{
	return min(CHAOS_SLOT_PAGES, chaos_slot_file(slot)->nr_pages / 2);
}

static enum fuzz_outcome chaos_slot(struct fuzz_thread *t, const u64 *r)
{
	unsigned int slot = r[0] % CHAOS_SLOTS;
	struct chaos_file *file = chaos_slot_file(slot);
	int err;

	fuzz_note(t, file - chaos_files, chaos_slot_first(slot), chaos_slot_pages(slot), r[1] & 1);
	if (r[1] & 1) {
		err = fuzz_delete_slot(slot);
		return chaos_legal(t, "deleting a memslot", err, EINVAL);
	}

	pthread_mutex_lock(&file->replace);
	err = fuzz_set_slot(slot, FUZZ_AREA_GPA(slot), chaos_slot_pages(slot), file->fd,
			    chaos_slot_first(slot));
	pthread_mutex_unlock(&file->replace);
	return chaos_legal(t, "creating a memslot", err, EINVAL, EEXIST);
}

static u64 chaos_pick_gpa(struct fuzz_thread *t, const u64 *r, u64 *page)
{
	unsigned int slot = r[0] % CHAOS_SLOTS;
	u64 skip = fuzz_page(r[1], chaos_slot_pages(slot));

	*page = chaos_slot_first(slot) + skip;
	fuzz_note(t, chaos_slot_file(slot) - chaos_files, *page, 1, slot);
	return FUZZ_AREA_GPA(slot) + skip * MODEL_PAGE_SIZE;
}

static enum fuzz_outcome chaos_guest_outcome(struct fuzz_thread *t, int err)
{
	if (err == FUZZ_MMIO)
		return OUT_MMIO;
	if (err && t->vcpu->run->exit_reason != KVM_EXIT_MEMORY_FAULT)
		fuzz_fail(t, t->now.file, t->now.first, "KVM_RUN: exit %s",
			  exit_reason_str(t->vcpu->run->exit_reason));
	return chaos_legal(t, "KVM_RUN", err, EFAULT, EHWPOISON);
}

/* The guest knows other words than these, but its last one is. */
#define CHAOS_GUEST_MASK	BIT(MODEL_WORDS - 1)

static enum fuzz_outcome chaos_guest_read(struct fuzz_thread *t, const u64 *r)
{
	u32 floor[FUZZ_MAX_THREADS];
	u64 words[CHAOS_WORDS] = {};
	u64 page, gpa = chaos_pick_gpa(t, r, &page);
	struct chaos_file *file = &chaos_files[t->now.file];
	int err;

	chaos_get_floor(file, page, floor);
	err = fuzz_guest_read(t, gpa, CHAOS_GUEST_MASK, false);
	if (!err) {
		words[CHAOS_WORDS - 1] = t->mailbox->words[MODEL_WORDS - 1];
		chaos_check_words(t, t->now.file, page, floor, words, "guest read");
	}
	return chaos_guest_outcome(t, err);
}

static enum fuzz_outcome chaos_guest_write(struct fuzz_thread *t, const u64 *r)
{
	u64 page, gpa = chaos_pick_gpa(t, r, &page);
	u64 words[MODEL_WORDS] = {};
	int err;

	words[MODEL_WORDS - 1] = chaos_value(page, CHAOS_WORDS - 1, t->index, chaos_begin_write(t));
	err = fuzz_guest_write(t, gpa, CHAOS_GUEST_MASK, words);
	chaos_finish_write(t);
	return chaos_guest_outcome(t, err);
}

static enum fuzz_outcome chaos_prefault(struct fuzz_thread *t, const u64 *r)
{
	u64 page, gpa = chaos_pick_gpa(t, r, &page);
	int err = fuzz_prefault(t, gpa, 1);

	return chaos_legal(t, "KVM_PRE_FAULT_MEMORY", err, EFAULT, EHWPOISON, ENOENT, EAGAIN, EINTR);
}

/* Something else, in place of what all others are busy with. */
static enum fuzz_outcome chaos_replace(struct fuzz_thread *t, const u64 *r)
{
	struct chaos_file *file = &chaos_files[r[0] % CHAOS_FILES];
	u32 finished[FUZZ_MAX_THREADS];
	unsigned int i;
	int fd;

	fuzz_note(t, file - chaos_files, 0, file->nr_pages, 0);
	pthread_mutex_lock(&file->replace);
	chaos_get_finished(finished);
	fd = fuzz_create_file(file->nr_pages, GUEST_MEMFD_FLAG_MMAP |
			      (r[1] & 1 ? GUEST_MEMFD_FLAG_INIT_SHARED : 0));
	TEST_ASSERT(fd >= 0, "KVM_CREATE_GUEST_MEMFD failed");
	for (i = 0; i < CHAOS_MAPPINGS; i++)
		chaos_map(file, i, fd);
	TEST_ASSERT(dup2(fd, file->fd) == file->fd, "dup2() failed");
	close(fd);
	for (i = file - chaos_files; i < CHAOS_SLOTS; i += CHAOS_FILES)
		fuzz_delete_slot(i);
	chaos_raise_floor(file, 0, file->nr_pages, finished);
	pthread_mutex_unlock(&file->replace);
	return OUT_OK;
}

static enum fuzz_outcome chaos_fdinfo(struct fuzz_thread *t, const u64 *r)
{
	struct chaos_file *file = &chaos_files[r[0] % CHAOS_FILES];
	u64 nr;

	fuzz_note(t, file - chaos_files, 0, file->nr_pages, 0);
	nr = gmem_fdinfo(file->fd, r[1] & 1 ? "shared" : "private");
	if (nr > file->nr_pages)
		fuzz_fail(t, file - chaos_files, 0, "fdinfo: %lu pages", nr);
	return OUT_OK;
}

static const struct fuzz_op chaos_ops[] = {
	{ "user-read",		16, chaos_user_read },
	{ "user-write",		16, chaos_user_write },
	{ "kernel-read",	6, chaos_kernel_read },
	{ "guest-read",		16, chaos_guest_read },
	{ "guest-write",	16, chaos_guest_write },
	{ "prefault",		3, chaos_prefault },
	{ "convert",		24, chaos_convert },
	{ "convert-inside",	4, chaos_convert_inside },
	{ "hold",		2, chaos_hold },
	{ "allocate",		4, chaos_allocate },
	{ "punch",		6, chaos_punch },
	{ "mmap",		1, chaos_mmap },
	{ "madvise",		6, chaos_madvise },
	{ "fork",		1, chaos_fork },
	{ "memslot",		3, chaos_slot },
	{ "replace",		1, chaos_replace },
	{ "fdinfo",		1, chaos_fdinfo },
	{ "poison",		1, chaos_poison },
};

static void chaos_setup(u64 *seed)
{
	const u64 sizes[CHAOS_FILES] = {
		600 + model_random(seed) % 1000,
		MODEL_CHUNK_PAGES + 100 + model_random(seed) % 1000,
	};
	unsigned int i, j;
	int fd;

	memset(chaos_begun, 0, sizeof(chaos_begun));
	memset(chaos_finished, 0, sizeof(chaos_finished));
	chaos_nr_broken = 0;

	for (i = 0; i < CHAOS_FILES; i++) {
		struct chaos_file *file = &chaos_files[i];

		file->nr_pages = sizes[i];
		file->floor = calloc(sizes[i], sizeof(*file->floor));
		TEST_ASSERT(file->floor, "No memory");
		pthread_mutex_init(&file->replace, NULL);

		fd = fuzz_create_file(sizes[i], GUEST_MEMFD_FLAG_MMAP |
				      GUEST_MEMFD_FLAG_INIT_SHARED);
		file->fd = dup2(fd, CHAOS_FD + i);
		TEST_ASSERT(fd >= 0 && file->fd == CHAOS_FD + i, "Cannot create a file");
		close(fd);
		for (j = 0; j < CHAOS_MAPPINGS; j++)
			file->mem[j] = gmem_map_pages(file->fd, sizes[i]);
	}
}

/*
 * With all threads gone: pages that user space sees are the shared ones of
 * fdinfo, it sees what the guest sees, and private pages keep it when shared.
 */
static u64 chaos_guest_peek(struct fuzz_thread *t, u64 page)
{
	fuzz_expect(t, t->now.file, page, "guest read", 0,
		    fuzz_guest_read(t, FUZZ_AREA_GPA(0) + page * MODEL_PAGE_SIZE,
				    CHAOS_GUEST_MASK, false));
	return t->mailbox->words[MODEL_WORDS - 1];
}

static void chaos_check_small_file(struct fuzz_thread *t, struct chaos_file *file)
{
	u64 page, nr_shared = 0, error_page, *seen;
	u64 words[CHAOS_WORDS];
	int fd = file->fd;

	seen = calloc(file->nr_pages, sizeof(*seen));
	TEST_ASSERT(seen, "No memory");
	fuzz_expect(t, 0, 0, "creating a memslot", 0,
		    fuzz_set_slot(0, FUZZ_AREA_GPA(0), file->nr_pages, fd, 0));

	for (page = 0; page < file->nr_pages; page++) {
		seen[page] = chaos_guest_peek(t, page);
		if (!chaos_load(file->mem[0] + page * MODEL_PAGE_SIZE, words))
			continue;
		nr_shared++;
		chaos_check_words(t, 0, page, file->floor[page], words, "user read");
		if (words[CHAOS_WORDS - 1] != seen[page])
			fuzz_fail(t, 0, page, "user sees 0x%lx, guest 0x%lx",
				  words[CHAOS_WORDS - 1], seen[page]);
	}
	if (nr_shared != gmem_fdinfo(fd, "shared"))
		fuzz_fail(t, 0, 0, "user sees %lu pages, fdinfo %lu", nr_shared,
			  gmem_fdinfo(fd, "shared"));

	fuzz_expect(t, 0, 0, "conversion of all", 0,
		    fuzz_convert(fd, 0, file->nr_pages, false, &error_page));
	for (page = 0; page < file->nr_pages; page++) {
		if (!chaos_load(file->mem[1] + page * MODEL_PAGE_SIZE, words))
			fuzz_fail(t, 0, page, "SIGBUS, but all is shared");
		else if (words[CHAOS_WORDS - 1] != seen[page])
			fuzz_fail(t, 0, page, "guest saw 0x%lx, user sees 0x%lx", seen[page],
				  words[CHAOS_WORDS - 1]);
	}
	fuzz_delete_slot(0);
	free(seen);
}

static void chaos_finish(void)
{
	struct fuzz_thread *t = &fuzz.threads[0];
	u8 buf[MODEL_PAGE_SIZE];
	unsigned int i, j;

	for (i = 0; i < fuzz.nr_threads; i++) {
		if (fuzz.threads[i].hold.active)
			TEST_ASSERT(read(fuzz.threads[i].hold_pipe[0], buf, sizeof(buf)) > 0,
				    "The pipe does not hold a page");
		fuzz.threads[i].hold.active = false;
	}
	for (i = 0; i < CHAOS_SLOTS; i++)
		fuzz_delete_slot(i);
	for (i = 0; i < min(chaos_nr_broken, (unsigned int)ARRAY_SIZE(chaos_broken)); i++)
		fuzz_fallocate(chaos_files[chaos_broken[i].file].fd, FALLOC_FL_PUNCH_HOLE,
			       chaos_broken[i].page, 1);

	t->now.file = 0;
	if (!fuzz.failed)
		chaos_check_small_file(t, &chaos_files[0]);

	for (i = 0; i < CHAOS_FILES; i++) {
		for (j = 0; j < CHAOS_MAPPINGS; j++)
			kvm_munmap(chaos_files[i].mem[j],
				   chaos_files[i].nr_pages * MODEL_PAGE_SIZE);
		close(chaos_files[i].fd);
		free(chaos_files[i].floor);
	}
	for (i = 0; i < min(chaos_nr_broken, (unsigned int)ARRAY_SIZE(chaos_broken)); i++)
		fuzz_unpoison(chaos_broken[i].pfn);
}

#endif /* SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_CHAOS_H */
