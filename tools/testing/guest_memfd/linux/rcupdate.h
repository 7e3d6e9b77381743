/* SPDX-License-Identifier: GPL-2.0-only */
#include_next <linux/rcupdate.h>

#ifndef _TEST_LINUX_RCUPDATE_H
#define _TEST_LINUX_RCUPDATE_H

#define rcu_access_pointer(p) CMM_LOAD_SHARED(p)

void test_kfree_rcu(void *object, size_t rcu_head_offset);

#define kfree_rcu(ptr, member) do {					\
	typeof(ptr) __object = (ptr);					\
	test_kfree_rcu(__object, offsetof(typeof(*__object), member));	\
} while (0)

#endif /* _TEST_LINUX_RCUPDATE_H */
