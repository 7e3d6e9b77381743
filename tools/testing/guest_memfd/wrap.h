/* SPDX-License-Identifier: GPL-2.0-only */
/* The slab calls that the Makefile sends through state_test.c, see ld --wrap. */
#ifndef _GUEST_MEMFD_TEST_WRAP_H
#define _GUEST_MEMFD_TEST_WRAP_H

#include <linux/slab.h>

void *__real_kmem_cache_alloc_lru(struct kmem_cache *cachep,
				  struct list_lru *lru, int gfp);
void *__wrap_kmem_cache_alloc_lru(struct kmem_cache *cachep,
				  struct list_lru *lru, int gfp);
void __real_kmem_cache_free(struct kmem_cache *cachep, void *object);
void __wrap_kmem_cache_free(struct kmem_cache *cachep, void *object);

#endif /* _GUEST_MEMFD_TEST_WRAP_H */
