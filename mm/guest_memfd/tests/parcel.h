/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * parcel: a model of a hypervisor that moves whole runs of pages.
 *
 * Its owner, the host, lends it memory in parcels.  A page that becomes private
 * is lent, one parcel for each run; there are few parcels.  The host gets a
 * parcel back as a whole or not at all, and not before the guest has released
 * it.  It is the release that makes its pages shared, not the host's wish.
 *
 * The file must start shared: what starts private was never lent.
 */
#ifndef _MM_GUEST_MEMFD_TESTS_PARCEL_H
#define _MM_GUEST_MEMFD_TESTS_PARCEL_H

#include <linux/guest_memfd.h>
#include <linux/mutex.h>

#define PARCEL_MAX	4

enum parcel_state {
	PARCEL_UNUSED,
	PARCEL_LENT,
	PARCEL_RELEASED,
};

/**
 * struct parcel - memory that the host has lent
 * @state: who has it
 * @start: first page, by offset
 * @end: one past the last page
 */
struct parcel {
	enum parcel_state state;
	pgoff_t start;
	pgoff_t end;
};

/**
 * struct parcel_hypervisor - the hypervisor, its one guest, its host's view
 * @view: the host's driver
 * @inode: the guest's memory
 * @lock: protects @parcels, taken under invalidate_lock
 * @parcels: what the hypervisor knows
 */
struct parcel_hypervisor {
	struct guest_memfd_view view;
	struct inode *inode;
	struct mutex lock; /* see above */
	struct parcel parcels[PARCEL_MAX];
};

void parcel_hypervisor_init(struct parcel_hypervisor *hyp, struct inode *inode);
void parcel_show(struct parcel_hypervisor *hyp, char *text, size_t size);

/* What the guest does: give back the parcel that holds a page, or -ENOENT. */
int parcel_release(struct parcel_hypervisor *hyp, pgoff_t index);
int parcel_release_and_tell(struct parcel_hypervisor *hyp, pgoff_t index);

#endif /* _MM_GUEST_MEMFD_TESTS_PARCEL_H */
