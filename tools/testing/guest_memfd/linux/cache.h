/* SPDX-License-Identifier: GPL-2.0-only */
#include_next <linux/cache.h>

#ifndef __ro_after_init
#define __ro_after_init
#endif
