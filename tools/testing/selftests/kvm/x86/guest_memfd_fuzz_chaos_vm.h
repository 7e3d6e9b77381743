/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * More operations that take no locks: those on memslots, by guests, and on whole
 * files; and what has to be true when everybody is gone.
 */
#ifndef SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_CHAOS_VM_H
#define SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_CHAOS_VM_H

#include "guest_memfd_fuzz_chaos.h"

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

	fuzz_note(t, file - chaos_files, chaos_slot_first(slot), chaos_slot_pages(slot),
		  r[1] % 4);
	if (r[1] % 4 == 0) {
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
	u64 skip;

	*page = chaos_page(r[1], chaos_slot_file(slot));
	skip = (*page - chaos_slot_first(slot)) % chaos_slot_pages(slot);
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

	return chaos_legal(t, "KVM_PRE_FAULT_MEMORY", err, EFAULT, EHWPOISON, ENOENT, EAGAIN,
			   EINTR);
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
			      gmem_default_flags() |
			      (r[1] & 1 ? GUEST_MEMFD_FLAG_INIT_SHARED : 0));
	/* Blocks of files that were replaced, but are still held, are reserved. */
	if (fd < 0 && errno == ENOMEM && gmem_has_blocks()) {
		pthread_mutex_unlock(&file->replace);
		return OUT_ENOMEM;
	}
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
		gmem_whole_blocks(600 + model_random(seed) % 1000),
		gmem_whole_blocks(MODEL_CHUNK_PAGES + 100 + model_random(seed) % 1000),
	};
	unsigned int i, j;
	int fd;

	memset(chaos_begun, 0, sizeof(chaos_begun));
	memset(chaos_finished, 0, sizeof(chaos_finished));
	chaos_nr_broken = 0;

	for (i = 0; i < CHAOS_FILES; i++) {
		struct chaos_file *file = &chaos_files[i];

		memset(file, 0, sizeof(*file));
		file->nr_pages = sizes[i];
		file->floor = calloc(sizes[i], sizeof(*file->floor));
		TEST_ASSERT(file->floor, "No memory");
		pthread_mutex_init(&file->replace, NULL);

		fd = fuzz_create_file(sizes[i], GUEST_MEMFD_FLAG_MMAP |
				      gmem_default_flags() |
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
	u32 floor[FUZZ_MAX_THREADS];
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
		chaos_get_floor(file, page, floor);
		chaos_check_words(t, 0, page, floor, words, "user read");
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

static void chaos_punch_broken(unsigned int i)
{
	u64 first = chaos_broken[i].page, nr = 1;

	fuzz_whole_blocks(&first, &nr);
	fuzz_fallocate(chaos_files[chaos_broken[i].file].fd, FALLOC_FL_PUNCH_HOLE, first, nr);
}

static void chaos_finish(void)
{
	unsigned int nr_broken = min_t(unsigned int, chaos_nr_broken, ARRAY_SIZE(chaos_broken));
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
	for (i = 0; i < nr_broken; i++)
		chaos_punch_broken(i);

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
	for (i = 0; i < nr_broken && !gmem_has_blocks(); i++)
		fuzz_unpoison(chaos_broken[i].pfn);
}

#endif /* SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_CHAOS_VM_H */
