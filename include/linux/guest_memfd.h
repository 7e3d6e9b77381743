/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * guest_memfd: one owner for all memory of a virtual machine.
 */
#ifndef _LINUX_GUEST_MEMFD_H
#define _LINUX_GUEST_MEMFD_H

#include <linux/fs.h>
#include <linux/list.h>
#include <linux/migrate_mode.h>
#include <linux/types.h>

struct folio;
struct seq_file;
struct vm_area_struct;

/**
 * DOC: guest_memfd core
 *
 * A guest_memfd is an inode that owns the memory of a virtual machine and
 * decides, page by page, who may see it.  A page is either *shared*: user
 * space may map it, or *private*: nobody but the guest may.  Everything that
 * maps pages of the inode into a guest or a device is a *view* and is told, in
 * a fixed order, when that decision changes.
 *
 * The core knows no hypervisor.  A hypervisor's driver creates the file with
 * guest_memfd_create(), giving it file operations of its own that are made of
 * the building blocks below, adds a &struct guest_memfd_view for its guest,
 * and asks for conversions with guest_memfd_convert().
 *
 * Everything here that changes the inode is serialised by the mapping's
 * invalidate_lock (filemap_invalidate_lock()).  The lock order is::
 *
 *	mmap_lock > invalidate_lock > folio lock > i_mmap_rwsem >
 *	page-table locks, locks that a view takes in its callbacks
 *
 * A callback of a view must not touch user memory, wait for a fault, or take a
 * lock under which a view is added or removed.
 */

/*
 * Flags of guest_memfd_create().
 */
/* User space may map the shared pages. */
#define GUEST_MEMFD_MMAP		BIT(0)
/* Pages start shared instead of private. */
#define GUEST_MEMFD_INIT_SHARED		BIT(1)
/*
 * The inode keeps the state of each page and converts.  Without it every page
 * stays what it is at the start and someone else keeps the books.
 */
#define GUEST_MEMFD_TRACK_STATE		BIT(2)
/*
 * The memory comes from the hugetlb pool, in blocks that are reserved when the
 * file is created.  Their size is encoded as for memfd_create(): its logarithm
 * above GUEST_MEMFD_HUGE_SHIFT, 2 MiB or 1 GiB, or 0 for the default size.
 */
#define GUEST_MEMFD_HUGETLB		BIT(3)
#define GUEST_MEMFD_HUGE_SHIFT		26
#define GUEST_MEMFD_HUGE_MASK		(0x3fU << GUEST_MEMFD_HUGE_SHIFT)
/*
 * The kernel's direct map does not have the pages for as long as they are in the
 * file, and whoever needs them there, as GUP does, fails.
 */
#define GUEST_MEMFD_NO_DIRECT_MAP	BIT(4)
#define GUEST_MEMFD_FLAGS		(GUEST_MEMFD_MMAP | \
					 GUEST_MEMFD_INIT_SHARED | \
					 GUEST_MEMFD_TRACK_STATE | \
					 GUEST_MEMFD_HUGETLB | \
					 GUEST_MEMFD_NO_DIRECT_MAP)

/**
 * enum guest_memfd_change_type - what is about to happen to a range
 * @GUEST_MEMFD_TO_SHARED: its private pages become shared
 * @GUEST_MEMFD_TO_PRIVATE: its shared pages become private
 * @GUEST_MEMFD_REMOVE: its pages leave the file; who may see the offsets stays
 * @GUEST_MEMFD_POISON: some of its pages were found to be broken
 */
enum guest_memfd_change_type {
	GUEST_MEMFD_TO_SHARED,
	GUEST_MEMFD_TO_PRIVATE,
	GUEST_MEMFD_REMOVE,
	GUEST_MEMFD_POISON,
};

struct guest_memfd_view;

/**
 * struct guest_memfd_change - one step that views are taken through
 * @inode: the guest_memfd
 * @start: first page, by offset
 * @end: one past the last page; conversions never span an aligned GiB
 * @type: what happens
 * @initiator: the view on whose behalf it happens, NULL for user space
 */
struct guest_memfd_change {
	struct inode *inode;
	pgoff_t start;
	pgoff_t end;
	enum guest_memfd_change_type type;
	struct guest_memfd_view *initiator;
};

/**
 * struct guest_memfd_view_ops - how a view follows the inode
 * @prepare: optional; allocate what later steps need, or refuse.  Not called
 *	for %GUEST_MEMFD_POISON, which cannot be refused.  Return: 0 or a
 *	negative errno, which the caller of the change gets as it is.
 * @abort: optional; undo @prepare, the change does not happen
 * @begin: stop using the range and keep faults from using it again.  Block
 *	aligned runs of guest_memfd_max_order() around it before the first
 *	mapping is removed, or a neighbour may be mapped with an order that is
 *	no longer true.
 * @transfer: optional, for at most one view of an inode, and for conversions
 *	only; hand the pages whose state changes to the hypervisor or take them
 *	back, all or none.  guest_memfd_run_end() still tells the old state.
 *	Return: 0 or a negative errno, which undoes the change.
 * @refresh: optional; the state has changed, follow it.  Cannot fail.
 * @end: use of the range may go on, whether or not the change happened
 *
 * The order is prepare, begin, transfer, (the state changes), refresh, end;
 * after a failure end and abort, in reverse order of the views.
 *
 * Context: process context; all are called with the mapping's invalidate_lock
 * held for write, and may sleep.
 */
struct guest_memfd_view_ops {
	int (*prepare)(struct guest_memfd_view *view,
		       const struct guest_memfd_change *change);
	void (*abort)(struct guest_memfd_view *view,
		      const struct guest_memfd_change *change);
	void (*begin)(struct guest_memfd_view *view,
		      const struct guest_memfd_change *change);
	int (*transfer)(struct guest_memfd_view *view,
			const struct guest_memfd_change *change);
	void (*refresh)(struct guest_memfd_view *view,
			const struct guest_memfd_change *change);
	void (*end)(struct guest_memfd_view *view,
		    const struct guest_memfd_change *change);
};

/**
 * struct guest_memfd_view - somebody who maps pages of a guest_memfd
 * @ops: what it does when they change
 * @node: the inode's list of views, protected by invalidate_lock
 */
struct guest_memfd_view {
	const struct guest_memfd_view_ops *ops;
	struct list_head node;
};

struct file *guest_memfd_create(const char *name, loff_t size,
				unsigned int flags,
				const struct file_operations *fops,
				const struct address_space_operations *aops,
				void *private);
bool guest_memfd_supports_no_direct_map(void);
#ifdef CONFIG_HUGETLB_SPLIT
bool guest_memfd_supports_hugetlb(void);
#else
static inline bool guest_memfd_supports_hugetlb(void)
{
	return false;
}
#endif

/* Building blocks for the creator's operations. */
int guest_memfd_mmap(struct file *file, struct vm_area_struct *vma);
long guest_memfd_fallocate(struct file *file, int mode, loff_t offset,
			   loff_t len);
void guest_memfd_show_fdinfo(struct seq_file *m, struct file *file);
int guest_memfd_migrate_folio(struct address_space *mapping, struct folio *dst,
			      struct folio *src, enum migrate_mode mode);
int guest_memfd_error_remove_folio(struct address_space *mapping,
				   struct folio *folio);

int guest_memfd_view_add(struct guest_memfd_view *view, struct inode *inode);
void guest_memfd_view_del(struct guest_memfd_view *view, struct inode *inode);

int guest_memfd_convert(struct inode *inode, pgoff_t start, pgoff_t end,
			enum guest_memfd_change_type type,
			struct guest_memfd_view *initiator,
			pgoff_t *error_index);

unsigned int guest_memfd_flags(struct inode *inode);
bool guest_memfd_is_private(struct inode *inode, pgoff_t index);
pgoff_t guest_memfd_run_end(struct inode *inode, pgoff_t index, pgoff_t end,
			    bool *private);
unsigned int guest_memfd_order(struct inode *inode, pgoff_t index);
unsigned int guest_memfd_max_order(struct inode *inode);

struct folio *guest_memfd_get_folio(struct inode *inode, pgoff_t index);
void guest_memfd_zero_folio(struct folio *folio);

/**
 * enum guest_memfd_stall_point - where a test can make a thread wait
 * @GUEST_MEMFD_STALL_FAULT: a user fault, before it takes invalidate_lock
 * @GUEST_MEMFD_STALL_FAULT_LOCKED: a user fault that has the folio locked; there
 *	is no page table entry yet
 * @GUEST_MEMFD_STALL_FAULT_MAPPED: a user fault that has made its page table entry
 *	and unlocked the folio
 * @GUEST_MEMFD_STALL_MAP_PAGES: fault-around, before it sets its entries; spins
 * @GUEST_MEMFD_STALL_GET_PFN: a view that has a page and has not mapped it
 * @GUEST_MEMFD_STALL_BEGUN: a conversion, when all views have begun
 * @GUEST_MEMFD_STALL_UNMAPPED: a conversion, between unmapping a range and
 *	looking at its folios
 * @GUEST_MEMFD_STALL_CHECKED: a conversion, when no page is held
 * @GUEST_MEMFD_STALL_REMOVE: a hole, when all views have begun
 * @GUEST_MEMFD_STALL_POISON: the worker that tells views of broken pages,
 *	before it knows which
 * @GUEST_MEMFD_STALL_TAKEN: a fault or an allocation that has taken a block out of
 *	the pool and not zeroed it
 * @GUEST_MEMFD_STALL_ALLOCATED: a fault or an allocation that has pages for a run of
 *	a file and has not put them into the page cache
 * @GUEST_MEMFD_STALL_SPLIT: a fault or an allocation that has split a block, when
 *	no page of it has a reference or is in the page cache
 */
enum guest_memfd_stall_point {
	GUEST_MEMFD_STALL_FAULT,
	GUEST_MEMFD_STALL_FAULT_LOCKED,
	GUEST_MEMFD_STALL_FAULT_MAPPED,
	GUEST_MEMFD_STALL_MAP_PAGES,
	GUEST_MEMFD_STALL_GET_PFN,
	GUEST_MEMFD_STALL_BEGUN,
	GUEST_MEMFD_STALL_UNMAPPED,
	GUEST_MEMFD_STALL_CHECKED,
	GUEST_MEMFD_STALL_REMOVE,
	GUEST_MEMFD_STALL_POISON,
	GUEST_MEMFD_STALL_TAKEN,
	GUEST_MEMFD_STALL_ALLOCATED,
	GUEST_MEMFD_STALL_SPLIT,
};

#ifdef CONFIG_GUEST_MEMFD_STALL
void guest_memfd_stall(enum guest_memfd_stall_point point);
#else
static inline void guest_memfd_stall(enum guest_memfd_stall_point point)
{
}
#endif

#endif /* _LINUX_GUEST_MEMFD_H */
