/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The model of guest_memfd_fuzz_test: what a file must look like.
 *
 * A plain array says of each page whether it is private, held and what it
 * contains, another of each block, which may be one page, whether it is
 * allocated; nothing is clever here, so that it is easy to believe.
 * Knows nothing of file descriptors, mappings or guests and makes no system
 * calls.
 *
 * A thread that is about to touch pages takes their locks first, in the order
 * of their offsets: shared if content and state stay, which still allows it to
 * mark blocks as allocated, exclusive if not.  A hole has all pages of its
 * blocks locked.  The outcome of the operation is then known before it is tried,
 * however many other threads use other pages of the same unit, node or 2 MiB
 * meanwhile.
 */
#ifndef SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_MODEL_H
#define SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_MODEL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <linux/sizes.h>
#include <linux/types.h>

#define MODEL_PAGE_SIZE		SZ_4K
#define MODEL_CHUNK_PAGES	(SZ_1G / MODEL_PAGE_SIZE)

/*
 * The words of a page that may be other than zero: as many as the argument of
 * KVM_SET_MEMORY_ATTRIBUTES2 has, at the front, and the very last one.
 */
#define MODEL_HEAD_WORDS	16
#define MODEL_WORDS		(MODEL_HEAD_WORDS + 1)
#define MODEL_HEAD_MASK		((1u << MODEL_HEAD_WORDS) - 1)
#define MODEL_ALL_WORDS		((1u << MODEL_WORDS) - 1)

#define MODEL_PRIVATE		0x1
#define MODEL_NONZERO		0x2

/* Files of more pages share locks. */
#define MODEL_MAX_LOCKS		8192

struct model {
	u64 nr_pages;
	u64 pages_per_lock;
	u64 pages_per_block;
	pthread_rwlock_t *locks;
	u8 *state;
	u8 *allocated;			/* by block */
	u8 *holder;			/* thread + 1 */
	u64 (*words)[MODEL_WORDS];
};

/* xorshift64*: the same numbers for the same seed everywhere. */
static inline u64 model_random(u64 *seed)
{
	u64 x = *seed;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*seed = x;
	return x * 0x2545f4914f6cdd1dull;
}

static inline unsigned int model_word_offset(unsigned int word)
{
	return word < MODEL_HEAD_WORDS ? word * sizeof(u64) :
					 MODEL_PAGE_SIZE - sizeof(u64);
}

static inline u64 model_nr_locks(const struct model *model)
{
	return (model->nr_pages - 1) / model->pages_per_lock + 1;
}

static inline bool model_init(struct model *model, u64 nr_pages, u64 pages_per_block,
			      bool shared)
{
	u64 i;

	model->nr_pages = nr_pages;
	model->pages_per_lock = nr_pages <= MODEL_MAX_LOCKS ? 1 : 64;
	model->pages_per_block = pages_per_block;
	model->locks = calloc(model_nr_locks(model), sizeof(*model->locks));
	model->state = malloc(nr_pages);
	model->allocated = calloc(nr_pages / pages_per_block, 1);
	model->holder = calloc(nr_pages, 1);
	model->words = calloc(nr_pages, sizeof(*model->words));
	if (!model->locks || !model->state || !model->allocated || !model->holder ||
	    !model->words)
		return false;

	for (i = 0; i < model_nr_locks(model); i++)
		pthread_rwlock_init(&model->locks[i], NULL);
	memset(model->state, shared ? 0 : MODEL_PRIVATE, nr_pages);
	return true;
}

static inline void model_destroy(struct model *model)
{
	free(model->locks);
	free(model->state);
	free(model->allocated);
	free(model->holder);
	free(model->words);
}

/*
 * Locks
 */

static inline void model_lock_shared(struct model *model, u64 first, u64 nr)
{
	u64 i, last = (first + nr - 1) / model->pages_per_lock;

	for (i = first / model->pages_per_lock; i <= last; i++)
		pthread_rwlock_rdlock(&model->locks[i]);
}

static inline void model_lock(struct model *model, u64 first, u64 nr)
{
	u64 i, last = (first + nr - 1) / model->pages_per_lock;

	for (i = first / model->pages_per_lock; i <= last; i++)
		pthread_rwlock_wrlock(&model->locks[i]);
}

static inline void model_unlock(struct model *model, u64 first, u64 nr)
{
	u64 i, last = (first + nr - 1) / model->pages_per_lock;

	for (i = first / model->pages_per_lock; i <= last; i++)
		pthread_rwlock_unlock(&model->locks[i]);
}

/*
 * Questions
 */

static inline bool model_has(const struct model *model, u64 page, u8 what)
{
	return __atomic_load_n(&model->state[page], __ATOMIC_RELAXED) & what;
}

static inline bool model_is_private(const struct model *model, u64 page)
{
	return model_has(model, page, MODEL_PRIVATE);
}

static inline u64 model_word(const struct model *model, u64 page, unsigned int word)
{
	return model_has(model, page, MODEL_NONZERO) ? model->words[page][word] : 0;
}

static inline u64 model_count_private(const struct model *model)
{
	u64 page, count = 0;

	for (page = 0; page < model->nr_pages; page++)
		count += model_is_private(model, page);
	return count;
}

static inline u64 model_count_allocated(const struct model *model)
{
	u64 block, count = 0;

	for (block = 0; block < model->nr_pages / model->pages_per_block; block++)
		count += model->allocated[block];
	return count * model->pages_per_block;
}

static inline bool model_has_whole_blocks(const struct model *model, u64 first, u64 nr)
{
	return first % model->pages_per_block == 0 && nr % model->pages_per_block == 0;
}

/* The first private page of a range, or its end. */
static inline u64 model_first_private(const struct model *model, u64 first, u64 nr)
{
	u64 page;

	for (page = first; page < first + nr; page++)
		if (model_is_private(model, page))
			break;
	return page;
}

/*
 * Changes
 */

/* With the pages locked shared: others may do the same. */
static inline void model_allocate(struct model *model, u64 first, u64 nr)
{
	u64 block, last = (first + nr - 1) / model->pages_per_block;

	for (block = first / model->pages_per_block; block <= last; block++)
		__atomic_store_n(&model->allocated[block], 1, __ATOMIC_RELAXED);
}

static inline void model_write(struct model *model, u64 page, unsigned int mask,
			       const u64 *words)
{
	unsigned int i;

	if (!model_has(model, page, MODEL_NONZERO))
		memset(model->words[page], 0, sizeof(model->words[page]));
	for (i = 0; i < MODEL_WORDS; i++)
		if (mask & (1u << i))
			model->words[page][i] = words[i];
	model->state[page] |= MODEL_NONZERO;
	model_allocate(model, page, 1);
}

/* Whole blocks.  Whoever holds a page that is freed does not hold the next one there. */
static inline void model_punch(struct model *model, u64 first, u64 nr)
{
	u64 page;

	for (page = first; page < first + nr; page++)
		model->state[page] &= MODEL_PRIVATE;
	memset(&model->holder[first], 0, nr);
	memset(&model->allocated[first / model->pages_per_block], 0,
	       nr / model->pages_per_block);
}

static inline u64 model_first_held(const struct model *model, u64 first, u64 end)
{
	const u8 *held = model->holder + first;

	while (held < model->holder + end && !*held)
		held++;
	return held - model->holder;
}

/*
 * What converting does, chunk by chunk: true, or false if a page is held, which
 * it is.  Only a shared page can be held, as a held one is not made private.
 */
static inline bool model_convert(struct model *model, u64 first, u64 nr, bool private,
				 u64 *held_page)
{
	u64 page, next, end = first + nr;

	for (; first < end; first = next) {
		next = (first / MODEL_CHUNK_PAGES + 1) * MODEL_CHUNK_PAGES;
		if (next > end)
			next = end;

		*held_page = model_first_held(model, first, next);
		if (private && *held_page < next)
			return false;

		for (page = first; page < next; page++) {
			if (private)
				model->state[page] |= MODEL_PRIVATE;
			else
				model->state[page] &= ~MODEL_PRIVATE;
		}
	}

	return true;
}

#endif /* SELFTEST_KVM_X86_GUEST_MEMFD_FUZZ_MODEL_H */
