/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _LINUX_MMDEBUG_H
#define _LINUX_MMDEBUG_H

/* A warning fails the test that runs into it. */
void test_warn(const char *file, int line, const char *what);

#define VM_WARN_ON_ONCE(cond) do {				\
	if (cond)						\
		test_warn(__FILE__, __LINE__, #cond);		\
} while (0)

#endif /* _LINUX_MMDEBUG_H */
