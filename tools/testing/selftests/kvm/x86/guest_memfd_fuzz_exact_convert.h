/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * More operations on files that have a model: conversions, and what is in their
 * way.
 */
#ifndef SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_EXACT_CONVERT_H
#define SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_EXACT_CONVERT_H

#include "guest_memfd_fuzz_exact.h"

/* What a conversion has to say; its pages are locked. */
static int exact_converted(const struct exact_range *range, bool private, u64 *held_page)
{
	return model_convert(&range->file->model, range->first, range->nr, private, held_page) ?
	       0 : EAGAIN;
}

/* Compare what a conversion said with what it had to say. */
static void exact_check_conversion(struct fuzz_thread *t, struct exact_range *range,
				   int expected, u64 expected_page, int found, u64 found_page)
{
	fuzz_expect(t, exact_index(range->file), found_page < range->file->model.nr_pages ?
		    found_page : range->first, "conversion", expected, found);
	if (expected == EAGAIN && found == EAGAIN && expected_page != found_page)
		fuzz_fail(t, exact_index(range->file), expected_page,
			  "conversion: expected error_offset of page 0x%lx, found 0x%lx",
			  expected_page, found_page);
}

/* The pages are locked. */
static int exact_convert_range(struct fuzz_thread *t, struct exact_range *range, bool private)
{
	u64 expected_page = 0, found_page;
	int expected, found;

	found = fuzz_convert(range->file->fd, range->first, range->nr, private, &found_page);
	expected = exact_converted(range, private, &expected_page);
	exact_check_conversion(t, range, expected, expected_page, found, found_page);
	return found;
}

static enum fuzz_outcome exact_convert(struct fuzz_thread *t, const u64 *r)
{
	struct exact_range range;
	int found;

	exact_take_range(t, r, ~0ull, &range);
	exact_lock(&range);
	found = exact_convert_range(t, &range, r[3] & 1);
	exact_unlock(&range);
	exact_drop(&range);
	return fuzz_outcome_of(found);
}

static void exact_look(struct fuzz_thread *t, struct exact_range *range)
{
	u64 i;

	for (i = 0; i < min(range->nr, EXACT_LOOKED_AT); i++)
		exact_peek(t, range->file, range->first + i,
			   exact_addr(range) + i * MODEL_PAGE_SIZE, false);
}

static int exact_convert_pages(struct fuzz_thread *t, struct exact_range *range, bool private)
{
	struct exact_range page = *range;
	int found = 0;

	for (page.nr = 1; !found && page.first < exact_end(range); page.first++)
		found = exact_convert_range(t, &page, private);
	return found;
}

/*
 * Look at the pages before any other fault can have put right what went wrong,
 * and have them mapped before.
 */
static enum fuzz_outcome exact_convert_look(struct fuzz_thread *t, const u64 *r)
{
	struct exact_range range;
	int found;

	if (!exact_take_mapped(t, r, ~0ull, &range))
		return OUT_SKIPPED;

	exact_lock(&range);
	if (r[4] & 1)
		exact_look(t, &range);
	if (r[4] & 2 && range.nr <= EXACT_LOOKED_AT)
		found = exact_convert_pages(t, &range, r[3] & 3);
	else
		found = exact_convert_range(t, &range, r[3] & 3);
	exact_look(t, &range);
	exact_unlock(&range);
	exact_drop(&range);
	return fuzz_outcome_of(found);
}

static enum fuzz_outcome exact_convert_bad(struct fuzz_thread *t, const u64 *r)
{
	struct kvm_memory_attributes2 attr;
	struct exact_range range;
	int expected = EINVAL;
	int found;
	u64 size;

	exact_take_range(t, r, ~0ull, &range);
	size = range.file->model.nr_pages * MODEL_PAGE_SIZE;
	attr = (struct kvm_memory_attributes2) {
		.offset = range.first * MODEL_PAGE_SIZE,
		.size = exact_size(&range),
		.attributes = r[3] & 1 ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};

	switch (r[4] % 9) {
	case 0:
		attr.size = 0;
		break;
	case 1:
		attr.offset += 1 + r[5] % (MODEL_PAGE_SIZE - 1);
		break;
	case 2:
		attr.size -= 1 + r[5] % (MODEL_PAGE_SIZE - 1);
		break;
	case 3:
		attr.size = size - attr.offset + MODEL_PAGE_SIZE;
		break;
	case 4:
		attr.size = -attr.offset;
		if (!attr.offset)
			attr.size = -(u64)MODEL_PAGE_SIZE;
		break;
	case 5:
		attr.flags = BIT_ULL(r[5] % 64);
		break;
	case 6:
		attr.attributes |= BIT_ULL(r[5] % 64) & ~KVM_MEMORY_ATTRIBUTE_PRIVATE;
		attr.attributes |= BIT_ULL(63);
		break;
	case 7:
		attr.reserved[r[5] % ARRAY_SIZE(attr.reserved)] = r[6] | 1;
		break;
	default:
		expected = EFAULT;
		break;
	}

	found = ioctl(range.file->fd, KVM_SET_MEMORY_ATTRIBUTES2,
		      expected == EFAULT ? NULL : &attr) ? errno : 0;
	fuzz_expect(t, exact_index(range.file), range.first, "conversion with a bad argument",
		    expected, found);
	exact_drop(&range);
	return fuzz_outcome_of(found);
}

/* With the range and the page that the argument lies in locked. */
static enum fuzz_outcome exact_convert_locked(struct fuzz_thread *t, struct exact_range *arg,
					      struct exact_range *range, bool private)
{
	struct model *model = &arg->file->model;
	u64 words[MODEL_WORDS] = {
		range->first * MODEL_PAGE_SIZE, exact_size(range),
		private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};
	const unsigned int error_word = offsetof(struct kvm_memory_attributes2, error_offset) /
					sizeof(u64);
	int expected, found;
	u64 held_page;

	BUILD_BUG_ON(sizeof(struct kvm_memory_attributes2) != MODEL_HEAD_WORDS * sizeof(u64));

	if (model_is_private(model, arg->first)) {
		found = ioctl(arg->file->fd, KVM_SET_MEMORY_ATTRIBUTES2, exact_addr(arg)) ?
			errno : 0;
		fuzz_expect(t, exact_index(arg->file), arg->first,
			    "conversion with a private argument", EFAULT, found);
		return OUT_EFAULT;
	}

	if (fuzz_user_write(exact_addr(arg), MODEL_HEAD_MASK, words))
		model_write(model, arg->first, MODEL_HEAD_MASK, words);
	else
		fuzz_fail(t, exact_index(arg->file), arg->first, "user write: SIGBUS");

	found = ioctl(arg->file->fd, KVM_SET_MEMORY_ATTRIBUTES2, exact_addr(arg)) ? errno : 0;
	expected = exact_converted(range, private, &held_page);
	if (expected) {
		words[error_word] = held_page * MODEL_PAGE_SIZE;
		if (model_is_private(model, arg->first))
			expected = EFAULT;
		else
			model_write(model, arg->first, 1u << error_word, words);
	}
	fuzz_expect(t, exact_index(arg->file), range->first,
		    "conversion with its argument in the file", expected, found);
	exact_peek(t, arg->file, arg->first, exact_addr(arg), false);
	return fuzz_outcome_of(found);
}

/* The ioctl's argument lies in the file that it converts, maybe in the range itself. */
static enum fuzz_outcome exact_convert_inside(struct fuzz_thread *t, const u64 *r)
{
	struct exact_range arg, range, all;
	enum fuzz_outcome outcome;

	if (!exact_take_mapped(t, r, 1, &arg))
		return OUT_SKIPPED;

	range = arg;
	range.nr = fuzz_length(r[4], arg.file->model.nr_pages);
	range.first = r[5] & 1 ? arg.first : fuzz_page(r[6], arg.file->model.nr_pages);
	range.first = min(range.first, arg.file->model.nr_pages - range.nr);

	all = range;
	all.first = min(arg.first, range.first);
	all.nr = max(exact_end(&arg), exact_end(&range)) - all.first;
	fuzz_note(t, exact_index(arg.file), range.first, range.nr, arg.first);

	exact_lock(&all);
	outcome = exact_convert_locked(t, &arg, &range, r[3] & 1);
	exact_unlock(&all);
	exact_drop(&arg);
	return outcome;
}

/*
 * Pages that are held
 */

static enum fuzz_outcome exact_hold(struct fuzz_thread *t, const u64 *r)
{
	enum fuzz_outcome outcome = OUT_SKIPPED;
	struct exact_range range;
	struct model *model;
	struct iovec iov;
	int found;

	if (t->hold.active || !exact_take_mapped(t, r, 1, &range))
		return OUT_SKIPPED;

	model = &range.file->model;
	exact_lock(&range);
	if (!model->holder[range.first]) {
		iov = (struct iovec) { exact_addr(&range), MODEL_PAGE_SIZE };
		found = vmsplice(t->hold_pipe[1], &iov, 1, 0) < 0 ? errno : 0;
		fuzz_expect(t, exact_index(range.file), range.first, "vmsplice()",
			    model_is_private(model, range.first) ? EFAULT : 0, found);
		outcome = fuzz_outcome_of(found);
	}
	if (outcome == OUT_OK) {
		model_allocate(model, range.first, 1);
		model->holder[range.first] = t->index + 1;
		t->hold = (struct fuzz_hold) {
			.active = true,
			.file = exact_index(range.file),
			.incarnation = range.file->incarnation,
			.page = range.first,
		};
	}
	exact_unlock(&range);
	exact_drop(&range);
	return outcome;
}

static enum fuzz_outcome exact_release(struct fuzz_thread *t, const u64 *r)
{
	u8 buf[MODEL_PAGE_SIZE] __aligned(8);
	struct fuzz_hold *hold = &t->hold;
	struct exact_file *file;
	bool same;

	if (!hold->active)
		return OUT_SKIPPED;

	file = &exact_files[hold->file];
	fuzz_note(t, hold->file, hold->page, 1, 0);
	pthread_rwlock_rdlock(&file->lock);
	/* If the page has left the file since, it is nobody's business. */
	same = file->incarnation == hold->incarnation;
	if (same) {
		model_lock(&file->model, hold->page, 1);
		if (file->model.holder[hold->page] != t->index + 1) {
			model_unlock(&file->model, hold->page, 1);
			same = false;
		}
	}

	TEST_ASSERT_EQ(read(t->hold_pipe[0], buf, sizeof(buf)), (ssize_t)sizeof(buf));
	hold->active = false;

	if (same) {
		exact_check_page(t, file, hold->page, buf, "pipe");
		file->model.holder[hold->page] = 0;
		model_unlock(&file->model, hold->page, 1);
	}
	pthread_rwlock_unlock(&file->lock);
	return OUT_OK;
}

/* Somebody holds a page for as long as it takes to be in the way. */
static enum fuzz_outcome exact_convert_held(struct fuzz_thread *t, const u64 *r)
{
	struct exact_range range;
	int found;

	if (!t->hold.active && exact_hold(t, r) != OUT_OK)
		return OUT_SKIPPED;

	pthread_rwlock_rdlock(&exact_files[t->hold.file].lock);
	range.file = &exact_files[t->hold.file];
	range.mapping = NULL;
	range.nr = fuzz_length(r[2], range.file->model.nr_pages);
	range.first = t->hold.page - min(t->hold.page, r[1] % range.nr);
	range.first = min(range.first, range.file->model.nr_pages - range.nr);
	fuzz_note(t, t->hold.file, range.first, range.nr, 0);

	exact_lock(&range);
	found = exact_convert_range(t, &range, true);
	exact_unlock(&range);
	exact_drop(&range);
	exact_release(t, r);
	return fuzz_outcome_of(found);
}

#endif /* SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_EXACT_CONVERT_H */
