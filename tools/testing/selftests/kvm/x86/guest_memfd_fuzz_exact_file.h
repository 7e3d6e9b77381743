/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * More operations on files that have a model: holes, broken pages, whole files.
 */
#ifndef SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_EXACT_FILE_H
#define SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_EXACT_FILE_H

#include "guest_memfd_fuzz_exact_convert.h"

/*
 * Allocation and holes
 */

static enum fuzz_outcome exact_allocate(struct fuzz_thread *t, const u64 *r)
{
	struct exact_range range;
	int found;

	exact_take_range(t, r, EXACT_MAX_ALLOCATION, &range);
	exact_lock_shared(&range);
	found = fuzz_fallocate(range.file->fd, 0, range.first, range.nr);
	fuzz_expect(t, exact_index(range.file), range.first, "fallocate()", 0, found);
	model_allocate(&range.file->model, range.first, range.nr);
	exact_unlock(&range);
	exact_drop(&range);
	return fuzz_outcome_of(found);
}

static enum fuzz_outcome exact_punch(struct fuzz_thread *t, const u64 *r)
{
	struct exact_range range;
	int expected, found;
	u64 beyond;

	exact_take_range(t, r, ~0ull, &range);
	if (r[5] % 4)
		exact_take_whole_blocks(&range);
	fuzz_note(t, exact_index(range.file), range.first, range.nr, r[3]);
	/* A hole may reach beyond the end of the file. */
	beyond = exact_end(&range) == range.file->model.nr_pages ? r[4] % 3 : 0;

	exact_lock(&range);
	found = fuzz_fallocate(range.file->fd, FALLOC_FL_PUNCH_HOLE, range.first,
			       range.nr + beyond);
	expected = model_has_whole_blocks(&range.file->model, range.first, range.nr) ? 0 : EINVAL;
	fuzz_expect(t, exact_index(range.file), range.first, "punching a hole", expected, found);
	if (!expected)
		model_punch(&range.file->model, range.first, range.nr);
	exact_unlock(&range);
	exact_drop(&range);
	return fuzz_outcome_of(found);
}

static enum fuzz_outcome exact_fallocate_bad(struct fuzz_thread *t, const u64 *r)
{
	struct exact_range range;
	int expected = EINVAL;
	off_t offset, len;
	int mode, found;

	exact_take_range(t, r, ~0ull, &range);
	offset = range.first * MODEL_PAGE_SIZE;
	len = exact_size(&range);
	mode = FALLOC_FL_KEEP_SIZE | (r[5] & 1 ? FALLOC_FL_PUNCH_HOLE : 0);

	switch (r[4] % 4) {
	case 0:
		offset += 1 + r[6] % (MODEL_PAGE_SIZE - 1);
		break;
	case 1:
		len -= 1 + r[6] % (MODEL_PAGE_SIZE - 1);
		break;
	case 2:
		mode = FALLOC_FL_KEEP_SIZE;
		len = range.file->model.nr_pages * MODEL_PAGE_SIZE - offset + MODEL_PAGE_SIZE;
		break;
	default:
		mode = r[5] & 1 ? 0 : FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
		expected = EOPNOTSUPP;
		break;
	}

	found = fallocate(range.file->fd, mode, offset, len) ? errno : 0;
	fuzz_expect(t, exact_index(range.file), range.first, "fallocate() with a bad argument",
		    expected, found);
	exact_drop(&range);
	return fuzz_outcome_of(found);
}

/*
 * Memory failure
 */

static void exact_break_page(struct fuzz_thread *t, struct exact_range *range)
{
	struct model *model = &range->file->model;
	int index = exact_index(range->file);
	struct exact_range hole = *range;
	u8 *addr = exact_addr(range);
	u64 pfn, error_page;
	u64 words[MODEL_WORDS];

	/* Others may unmap it, not convert it. */
	do {
		exact_peek(t, range->file, range->first, addr, false);
		pfn = fuzz_pfn(addr);
	} while (!pfn && !READ_ONCE(fuzz.failed));

	fuzz_expect(t, index, range->first, "MADV_HWPOISON", 0, fuzz_poison(addr));
	if (fuzz_user_read(addr, words))
		fuzz_fail(t, index, range->first, "user read of a broken page: no SIGBUS");
	fuzz_expect(t, index, range->first, "conversion of a broken page", EHWPOISON,
		    fuzz_convert(range->file->fd, range->first, 1, true, &error_page));
	if (error_page != range->first)
		fuzz_fail(t, index, range->first, "broken page is told as 0x%lx", error_page);

	exact_take_whole_blocks(&hole);
	fuzz_expect(t, index, range->first, "punching a hole over a broken page", 0,
		    fuzz_fallocate(range->file->fd, FALLOC_FL_PUNCH_HOLE, hole.first, hole.nr));
	model_punch(model, hole.first, hole.nr);
	if (!gmem_has_blocks() && !fuzz_unpoison(pfn))
		ksft_print_msg("frame 0x%lx stays poisoned\n", pfn);
	exact_peek(t, range->file, range->first, addr, true);
}

static enum fuzz_outcome exact_poison(struct fuzz_thread *t, const u64 *r)
{
	enum fuzz_outcome outcome = OUT_SKIPPED;
	struct exact_range range, hole;
	struct model *model;

	if (READ_ONCE(fuzz.nr_poisons) >= fuzz.max_poisons)
		return OUT_SKIPPED;
	if (!exact_take_mapped(t, r, 1, &range))
		return OUT_SKIPPED;

	model = &range.file->model;
	hole = range;
	exact_take_whole_blocks(&hole);
	exact_lock(&hole);
	if (!model_is_private(model, range.first) && !model->holder[range.first] &&
	    __atomic_fetch_add(&fuzz.nr_poisons, 1, __ATOMIC_RELAXED) < fuzz.max_poisons) {
		exact_break_page(t, &range);
		outcome = OUT_EHWPOISON;
	}
	exact_unlock(&hole);
	exact_drop(&range);
	return outcome;
}

/*
 * Files
 */

static u64 exact_new_size(unsigned int index, u64 r)
{
	if (index == EXACT_BIG_FILE)
		return MODEL_CHUNK_PAGES + 1 + r % MODEL_CHUNK_PAGES;
	return 1 + r % (4 * SZ_2M / MODEL_PAGE_SIZE);
}

/* Blocks are reserved, so just over a chunk of them has to do. */
static u64 exact_new_blocks(unsigned int index, u64 r)
{
	u64 nr_pages = exact_new_size(EXACT_BIG_FILE - 1, r);

	if (index == EXACT_BIG_FILE)
		nr_pages += MODEL_CHUNK_PAGES;
	return gmem_whole_blocks(nr_pages);
}

/* All of a file is reserved as long as somebody holds one page of it. */
static int exact_create(unsigned int index, u64 r, u64 flags, u64 *nr_pages)
{
	int fd;

	*nr_pages = gmem_has_blocks() ? exact_new_blocks(index, r) : exact_new_size(index, r);
	fd = fuzz_create_file(*nr_pages, flags);
	if (fd < 0 && errno == ENOMEM && gmem_has_blocks()) {
		*nr_pages = exact_new_blocks(EXACT_BIG_FILE - 1, r);
		fd = fuzz_create_file(*nr_pages, flags);
	}
	TEST_ASSERT(fd >= 0, "KVM_CREATE_GUEST_MEMFD failed");
	return fd;
}

static void exact_open(struct exact_file *file, const u64 *r)
{
	static u64 nr_incarnations;
	bool shared = r[3] & 1;
	unsigned int i;
	u64 nr_pages;

	file->fd = exact_create(exact_index(file), r[2], GUEST_MEMFD_FLAG_MMAP |
				(shared ? GUEST_MEMFD_FLAG_INIT_SHARED : 0), &nr_pages);
	TEST_ASSERT(model_init(&file->model, nr_pages, FUZZ_BLOCK_PAGES, shared),
		    "No memory for the model");
	file->incarnation = __atomic_add_fetch(&nr_incarnations, 1, __ATOMIC_RELAXED);
	for (i = 0; i < EXACT_MAPPINGS; i++)
		exact_map(file, &file->mappings[i], 0, nr_pages);
}

static void exact_close(struct exact_file *file)
{
	unsigned int i;

	for (i = 0; i < EXACT_MAPPINGS; i++)
		exact_unmap(&file->mappings[i]);
	close(file->fd);
	model_destroy(&file->model);
}

static unsigned int exact_slot_index(struct exact_file *file, struct exact_slot *slot)
{
	return exact_index(file) * EXACT_SLOTS_PER_FILE + (slot - file->slots);
}

static gpa_t exact_area(struct exact_file *file, struct exact_slot *slot, unsigned int area)
{
	return FUZZ_AREA_GPA(exact_slot_index(file, slot) * EXACT_AREAS_PER_SLOT + area);
}

static gpa_t exact_gpa(struct exact_file *file, struct exact_slot *slot)
{
	return exact_area(file, slot, slot->area);
}

static void exact_delete_slot(struct fuzz_thread *t, struct exact_file *file,
			      struct exact_slot *slot)
{
	if (slot->exists)
		fuzz_expect(t, exact_index(file), slot->first, "deleting a memslot", 0,
			    fuzz_delete_slot(exact_slot_index(file, slot)));
	slot->exists = false;
	slot->file_is_closed = false;
}

static void exact_lock_slots(struct exact_file *file)
{
	unsigned int i;

	for (i = 0; i < EXACT_SLOTS_PER_FILE; i++)
		pthread_rwlock_wrlock(&file->slots[i].lock);
}

static void exact_unlock_slots(struct exact_file *file)
{
	unsigned int i;

	for (i = 0; i < EXACT_SLOTS_PER_FILE; i++)
		pthread_rwlock_unlock(&file->slots[i].lock);
}

static enum fuzz_outcome exact_create_bad(struct fuzz_thread *t, const u64 *r)
{
	u64 size = (1 + r[1] % 4) * MODEL_PAGE_SIZE, flags = r[2] & 3;
	int fd, found;

	switch (r[3] % 3) {
	case 0:
		size = 0;
		break;
	case 1:
		size += 1 + r[4] % (MODEL_PAGE_SIZE - 1);
		break;
	default:
		flags |= BIT_ULL(3 + r[4] % 61);
		break;
	}

	fd = __vm_create_guest_memfd(fuzz.vm, size, flags);
	found = fd < 0 ? errno : 0;
	fuzz_expect(t, -1, 0, "creating a file with bad arguments", EINVAL, found);
	return fuzz_outcome_of(found);
}

/* What cannot be mapped does not say who may see a page either. */
static enum fuzz_outcome exact_legacy_file(struct fuzz_thread *t, const u64 *r)
{
	u64 nr_pages = exact_new_size(r[1] % EXACT_FILES, r[2]), error_page;
	int fd, found;
	void *mem;

	fd = __vm_create_guest_memfd(fuzz.vm, nr_pages * MODEL_PAGE_SIZE,
				     r[3] & 1 ? GUEST_MEMFD_FLAG_INIT_SHARED : 0);
	TEST_ASSERT(fd >= 0, "KVM_CREATE_GUEST_MEMFD failed");

	mem = mmap(NULL, nr_pages * MODEL_PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	found = mem == MAP_FAILED ? errno : 0;
	fuzz_expect(t, -1, 0, "mmap() of a legacy file", ENODEV, found);
	fuzz_expect(t, -1, 0, "conversion of a legacy file", EINVAL,
		    fuzz_convert(fd, 0, nr_pages, r[3] & 2, &error_page));
	fuzz_expect(t, -1, 0, "fallocate() of a legacy file", 0,
		    fuzz_fallocate(fd, 0, nr_pages - 1, 1));
	if (gmem_fdinfo(fd, "allocated") != 1)
		fuzz_fail(t, -1, 0, "legacy file: expected one page");
	close(fd);
	return fuzz_outcome_of(found);
}

static void exact_check_counts(struct fuzz_thread *t, struct exact_file *file)
{
	static const char * const keys[] = { "private", "shared", "allocated" };
	u64 expected[ARRAY_SIZE(keys)], found;
	unsigned int i;

	expected[0] = model_count_private(&file->model);
	expected[1] = file->model.nr_pages - expected[0];
	expected[2] = model_count_allocated(&file->model);

	for (i = 0; i < ARRAY_SIZE(keys); i++) {
		found = gmem_fdinfo(file->fd, keys[i]);
		if (found != expected[i])
			fuzz_fail(t, exact_index(file), 0,
				  "fdinfo: expected %lu pages %s, found %lu", expected[i],
				  keys[i], found);
	}
}

static enum fuzz_outcome exact_fdinfo(struct fuzz_thread *t, const u64 *r)
{
	struct exact_file *file = exact_pick_file(r[0]);

	pthread_rwlock_wrlock(&file->lock);
	fuzz_note(t, exact_index(file), 0, file->model.nr_pages, 0);
	exact_check_counts(t, file);
	pthread_rwlock_unlock(&file->lock);
	return OUT_OK;
}

/* Every so manieth page; of a large file, just where pages are picked from. */
static void exact_check_file(struct fuzz_thread *t, struct exact_file *file, u64 step)
{
	u64 i, page, nr_pages = file->model.nr_pages;
	bool big = nr_pages > MODEL_MAX_LOCKS;
	u8 *mem = gmem_map_pages(file->fd, nr_pages);

	exact_check_counts(t, file);
	for (i = 0; i < (big ? FUZZ_SPOT_PAGES * FUZZ_SPOTS : nr_pages); i += step) {
		page = big ? fuzz_spot(i / FUZZ_SPOTS, i, nr_pages) : i;
		exact_peek(t, file, page, mem + page * MODEL_PAGE_SIZE, true);
	}
	exact_check_counts(t, file);
	kvm_munmap(mem, nr_pages * MODEL_PAGE_SIZE);
}

static enum fuzz_outcome exact_look_at_all(struct fuzz_thread *t, const u64 *r)
{
	struct exact_file *file = &exact_files[r[0] % EXACT_BIG_FILE];

	pthread_rwlock_wrlock(&file->lock);
	fuzz_note(t, exact_index(file), 0, file->model.nr_pages, 0);
	exact_check_file(t, file, 5 + r[1] % 8);
	pthread_rwlock_unlock(&file->lock);
	return OUT_OK;
}

#endif /* SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_EXACT_FILE_H */
