/* SPDX-License-Identifier: GPL-2.0-only */
#include_next <linux/types.h>

#ifndef _TEST_LINUX_TYPES_H
#define _TEST_LINUX_TYPES_H

#define pgoff_t unsigned long

#endif /* _TEST_LINUX_TYPES_H */
