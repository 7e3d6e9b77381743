/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * More operations on files that have a model: on memslots, and by guests; and
 * what all these operations are.
 */
#ifndef SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_EXACT_VM_H
#define SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_EXACT_VM_H

#include "guest_memfd_fuzz_exact_file.h"

/*
 * Memslots
 */

static bool exact_is_bound(struct exact_file *file, u64 first, u64 nr_pages)
{
	struct exact_slot *slot;
	unsigned int i;

	for (i = 0; i < EXACT_SLOTS_PER_FILE; i++) {
		slot = &file->slots[i];
		if (slot->exists && !slot->file_is_closed && first < slot->first + slot->nr_pages &&
		    slot->first < first + nr_pages)
			return true;
	}

	return false;
}

/* A part of the file can be in one memslot only. */
static enum fuzz_outcome exact_create_slot(struct fuzz_thread *t, struct exact_file *file,
					   struct exact_slot *slot, const u64 *r)
{
	u64 half = (slot - file->slots) * (file->model.nr_pages / EXACT_SLOTS_PER_FILE);
	u64 first = r[3] & 1 ? half : fuzz_page(r[4], file->model.nr_pages);
	u64 nr_pages = 1 + r[5] % min(file->model.nr_pages / EXACT_SLOTS_PER_FILE + 1,
				      min(file->model.nr_pages - first, FUZZ_AREA_PAGES));
	unsigned int area = (r[3] >> 1) % EXACT_AREAS_PER_SLOT;
	int expected, found;

	expected = exact_is_bound(file, first, nr_pages) ? EEXIST : 0;
	found = fuzz_set_slot(exact_slot_index(file, slot), exact_area(file, slot, area),
			      nr_pages, file->fd, first);
	fuzz_note(t, exact_index(file), first, nr_pages, 1);
	fuzz_expect(t, exact_index(file), first, "creating a memslot", expected, found);
	if (!found) {
		slot->exists = true;
		slot->area = area;
		slot->first = first;
		slot->nr_pages = nr_pages;
	}
	return fuzz_outcome_of(found);
}

static enum fuzz_outcome exact_change_slot(struct fuzz_thread *t, const u64 *r)
{
	struct exact_file *file = exact_pick_file(r[0]);
	struct exact_slot *slot = &file->slots[r[1] % EXACT_SLOTS_PER_FILE];
	enum fuzz_outcome outcome = OUT_OK;
	bool create;

	exact_lock_slots(file);
	pthread_rwlock_rdlock(&file->lock);
	fuzz_note(t, exact_index(file), slot->first, slot->nr_pages, 0);
	create = !slot->exists || r[2] % 4;
	exact_delete_slot(t, file, slot);
	if (create)
		outcome = exact_create_slot(t, file, slot, r);
	pthread_rwlock_unlock(&file->lock);
	exact_unlock_slots(file);
	return outcome;
}

/* A memslot stays as it is: not moved, not covered by another, only deleted. */
static enum fuzz_outcome exact_bad_slot(struct fuzz_thread *t, const u64 *r)
{
	struct exact_file *file = exact_pick_file(r[0]);
	struct exact_slot *slot = &file->slots[r[1] % EXACT_SLOTS_PER_FILE];
	unsigned int spare = EXACT_FILES * EXACT_SLOTS_PER_FILE + t->index;
	int found = 0;

	pthread_rwlock_rdlock(&slot->lock);
	pthread_rwlock_rdlock(&file->lock);
	fuzz_note(t, exact_index(file), slot->first, slot->nr_pages, r[2] & 1);
	if (slot->exists && r[2] & 1) {
		found = fuzz_set_slot(exact_slot_index(file, slot),
				      exact_area(file, slot, slot->area ^ (r[3] & 1)),
				      slot->nr_pages, file->fd, slot->first);
		fuzz_expect(t, exact_index(file), slot->first, "moving a memslot", EINVAL, found);
	} else if (slot->exists) {
		found = fuzz_set_slot(spare, exact_gpa(file, slot), 1, file->fd, 0);
		fuzz_expect(t, exact_index(file), slot->first, "a memslot over another", EEXIST,
			    found);
	}
	pthread_rwlock_unlock(&file->lock);
	pthread_rwlock_unlock(&slot->lock);
	return found ? fuzz_outcome_of(found) : OUT_SKIPPED;
}

/*
 * Guests
 */

/* Where a guest goes: a page of a memslot, or what would be one if it existed. */
static void exact_take_gpa(struct fuzz_thread *t, const u64 *r, u64 max, struct exact_slot **slot,
			   struct exact_range *range, gpa_t *gpa)
{
	struct exact_file *file = exact_pick_file(r[0]);
	u64 skip;

	*slot = &file->slots[r[1] % EXACT_SLOTS_PER_FILE];
	pthread_rwlock_rdlock(&(*slot)->lock);
	pthread_rwlock_rdlock(&file->lock);

	range->file = file;
	range->mapping = NULL;
	range->nr = 1;
	skip = r[2] % FUZZ_AREA_PAGES;
	if ((*slot)->exists) {
		range->nr = 1 + r[4] % min(max, (*slot)->nr_pages);
		skip = fuzz_page(r[2], (*slot)->nr_pages - range->nr + 1);
	}
	range->first = (*slot)->first + skip;
	*gpa = exact_gpa(file, *slot) + skip * MODEL_PAGE_SIZE;
	fuzz_note(t, exact_index(file), range->first, range->nr, *gpa);
}

static bool exact_has_memory(const struct exact_slot *slot)
{
	return slot->exists && !slot->file_is_closed;
}

static void exact_drop_gpa(struct exact_slot *slot, struct exact_range *range)
{
	exact_drop(range);
	pthread_rwlock_unlock(&slot->lock);
}

/* Without memory: MMIO where there is no memslot, an exit where there is no file. */
static enum fuzz_outcome exact_check_no_memory(struct fuzz_thread *t, struct exact_range *range,
					       struct exact_slot *slot, int err)
{
	int expected = slot->exists ? EFAULT : FUZZ_MMIO;
	struct kvm_run *run = t->vcpu->run;

	if (err != expected)
		fuzz_fail(t, exact_index(range->file), range->first,
			  "guest without memory: expected %d, found %d", expected, err);
	if (err == EFAULT && (run->exit_reason != KVM_EXIT_MEMORY_FAULT ||
			      run->memory_fault.gpa != t->mailbox->gva))
		fuzz_fail(t, exact_index(range->file), range->first,
			  "guest without memory: exit %s, gpa 0x%llx",
			  exit_reason_str(run->exit_reason), run->memory_fault.gpa);
	return err == EFAULT ? OUT_EFAULT : OUT_MMIO;
}

static enum fuzz_outcome exact_guest_read(struct fuzz_thread *t, const u64 *r)
{
	struct exact_range range;
	struct exact_slot *slot;
	enum fuzz_outcome outcome;
	gpa_t gpa;
	int err;

	exact_take_gpa(t, r, 1, &slot, &range, &gpa);
	if (!exact_has_memory(slot)) {
		outcome = exact_check_no_memory(t, &range, slot, fuzz_guest_read(t, gpa, 1, false));
	} else {
		exact_lock_shared(&range);
		err = fuzz_guest_read(t, gpa, MODEL_ALL_WORDS, r[5] % 4 == 0);
		if (err)
			fuzz_fail(t, exact_index(range.file), range.first,
				  "guest read: expected memory, found %d", err);
		model_allocate(&range.file->model, range.first, 1);
		exact_check_words(t, range.file, range.first, t->mailbox->words, t->mailbox->rest,
				  "guest read");
		outcome = err == FUZZ_MMIO ? OUT_MMIO : fuzz_outcome_of(err);
		exact_unlock(&range);
	}
	exact_drop_gpa(slot, &range);
	return outcome;
}

static enum fuzz_outcome exact_guest_write(struct fuzz_thread *t, const u64 *r)
{
	u64 words[MODEL_WORDS];
	unsigned int mask = exact_stamp(t, r[5], words);
	struct exact_range range;
	struct exact_slot *slot;
	enum fuzz_outcome outcome;
	gpa_t gpa;
	int err;

	exact_take_gpa(t, r, 1, &slot, &range, &gpa);
	if (!exact_has_memory(slot)) {
		outcome = exact_check_no_memory(t, &range, slot,
						fuzz_guest_write(t, gpa, 1, words));
	} else {
		exact_lock(&range);
		err = fuzz_guest_write(t, gpa, mask, words);
		if (err)
			fuzz_fail(t, exact_index(range.file), range.first,
				  "guest write: expected memory, found %d", err);
		model_write(&range.file->model, range.first, mask, words);
		outcome = err == FUZZ_MMIO ? OUT_MMIO : fuzz_outcome_of(err);
		exact_unlock(&range);
	}
	exact_drop_gpa(slot, &range);
	return outcome;
}

/* A guest that has a page mapped finds no file behind it any more. */
static void exact_touch_closed(struct fuzz_thread *t, struct exact_file *file,
			       struct exact_slot *slot, u64 skip)
{
	struct exact_range range = { .file = file, .first = slot->first + skip, .nr = 1 };

	exact_check_no_memory(t, &range, slot,
			      fuzz_guest_read(t, exact_gpa(file, slot) + skip * MODEL_PAGE_SIZE,
					      1, false));
}

/* A memslot may outlive its file. */
static enum fuzz_outcome exact_reopen(struct fuzz_thread *t, const u64 *r)
{
	struct exact_file *file = exact_pick_file(r[0]);
	struct exact_slot *slot;
	unsigned int i;

	exact_lock_slots(file);
	pthread_rwlock_wrlock(&file->lock);
	fuzz_note(t, exact_index(file), 0, file->model.nr_pages, 0);
	for (i = 0; i < EXACT_SLOTS_PER_FILE; i++) {
		slot = &file->slots[i];
		if (r[1] & BIT(i))
			exact_delete_slot(t, file, slot);
		if (exact_has_memory(slot))
			fuzz_guest_read(t, exact_gpa(file, slot) +
					r[4] % slot->nr_pages * MODEL_PAGE_SIZE, 1, false);
		slot->file_is_closed = slot->exists;
	}
	pthread_rwlock_wrlock(&exact_children);
	exact_close(file);
	for (i = 0; i < EXACT_SLOTS_PER_FILE; i++)
		if (file->slots[i].exists)
			exact_touch_closed(t, file, &file->slots[i],
					   r[4] % file->slots[i].nr_pages);
	pthread_rwlock_unlock(&exact_children);
	exact_open(file, r);
	pthread_rwlock_unlock(&file->lock);
	exact_unlock_slots(file);
	return OUT_OK;
}

static enum fuzz_outcome exact_prefault(struct fuzz_thread *t, const u64 *r)
{
	struct exact_range range;
	struct exact_slot *slot;
	int expected = 0;
	gpa_t gpa;
	int found;

	exact_take_gpa(t, r, EXACT_MAX_ALLOCATION, &slot, &range, &gpa);
	if (!exact_has_memory(slot)) {
		expected = slot->exists ? EFAULT : ENOENT;
		found = fuzz_prefault(t, gpa, range.nr);
	} else {
		exact_lock_shared(&range);
		found = fuzz_prefault(t, gpa, range.nr);
		model_allocate(&range.file->model, range.first, range.nr);
		exact_unlock(&range);
	}
	fuzz_expect(t, exact_index(range.file), range.first, "KVM_PRE_FAULT_MEMORY", expected,
		    found);
	exact_drop_gpa(slot, &range);
	return fuzz_outcome_of(found);
}

/*
 * All of it
 */

static const struct fuzz_op exact_ops[] = {
	{ "user-read",		16, exact_user_read },
	{ "user-write",		16, exact_user_write },
	{ "kernel-read",	6, exact_kernel_read },
	{ "kernel-write",	6, exact_kernel_write },
	{ "guest-read",		16, exact_guest_read },
	{ "guest-write",	16, exact_guest_write },
	{ "prefault",		3, exact_prefault },
	{ "convert",		16, exact_convert },
	{ "convert-look",	16, exact_convert_look },
	{ "convert-bad",	3, exact_convert_bad },
	{ "convert-inside",	4, exact_convert_inside },
	{ "hold",		2, exact_hold },
	{ "release",		1, exact_release },
	{ "convert-held",	2, exact_convert_held },
	{ "allocate",		4, exact_allocate },
	{ "punch",		6, exact_punch },
	{ "fallocate-bad",	3, exact_fallocate_bad },
	{ "mmap",		2, exact_mmap },
	{ "mlock",		2, exact_mlock },
	{ "munlock",		1, exact_munlock },
	{ "populate",		3, exact_madvise_populate },
	{ "dontneed",		3, exact_madvise_dontneed },
	{ "fork",		1, exact_fork },
	{ "memslot",		3, exact_change_slot },
	{ "memslot-bad",	2, exact_bad_slot },
	{ "reopen",		1, exact_reopen },
	{ "create-bad",		1, exact_create_bad },
	{ "legacy-file",	1, exact_legacy_file },
	{ "fdinfo",		1, exact_fdinfo },
	{ "look-at-all",	1, exact_look_at_all },
	{ "poison",		1, exact_poison },
};

static void exact_setup(u64 *seed)
{
	u64 r[FUZZ_DRAWS];
	unsigned int i, j;

	for (i = 0; i < EXACT_FILES; i++) {
		struct exact_file *file = &exact_files[i];

		memset(file, 0, sizeof(*file));
		exact_lock_init(&file->lock);
		for (j = 0; j < EXACT_MAPPINGS; j++)
			exact_lock_init(&file->mappings[j].lock);
		for (j = 0; j < EXACT_SLOTS_PER_FILE; j++)
			exact_lock_init(&file->slots[j].lock);
		for (j = 0; j < FUZZ_DRAWS; j++)
			r[j] = model_random(seed);
		exact_open(file, r);
		for (j = 0; j < FUZZ_DRAWS; j++)
			r[j] = model_random(seed);
		for (j = 0; j < EXACT_SLOTS_PER_FILE; j++)
			exact_create_slot(&fuzz.threads[0], file, &file->slots[j], r);
	}
}

/* With all threads gone. */
static void exact_finish(void)
{
	u64 r[FUZZ_DRAWS] = {};
	unsigned int i;

	for (i = 0; i < fuzz.nr_threads; i++)
		exact_release(&fuzz.threads[i], r);
	for (i = 0; i < EXACT_FILES; i++) {
		if (!fuzz.failed)
			exact_check_file(&fuzz.threads[0], &exact_files[i], 1);
		exact_close(&exact_files[i]);
	}
}

#endif /* SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_EXACT_VM_H */
