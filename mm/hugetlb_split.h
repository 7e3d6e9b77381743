/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * hugetlb_split: a hugetlb folio is broken into order-0 folios and put together
 * again.
 *
 * Meanwhile it still counts as in use in the pool, in its subpool and in its
 * hugetlb cgroup: a &struct hugetlb_split stands for it on the list of its
 * hstate.
 */
#ifndef _MM_HUGETLB_SPLIT_H
#define _MM_HUGETLB_SPLIT_H

#include <linux/list.h>
#include <linux/types.h>

struct folio;
struct hstate;
struct hugepage_subpool;
struct hugetlb_cgroup;
struct mempolicy_interpreted;
struct page;

/**
 * struct hugetlb_split - what stands for a hugetlb folio while it is split
 * @node: on the hstate's list of split folios, protected by hugetlb_lock
 * @h: the hstate
 * @page: the first page
 * @cgroup: hugetlb cgroup that it is charged to, protected by hugetlb_lock:
 *	the parent takes over when a cgroup goes offline
 * @cgroup_rsvd: hugetlb cgroup that it is charged to because it was not reserved,
 *	with a reference; may be changed until the folio is joined
 * @private: flags of the hugetlb folio
 * @uncharge: the split has charged it to the root memory cgroup, because it
 *	was not charged before
 */
struct hugetlb_split {
	struct list_head node;
	struct hstate *h;
	struct page *page;
	struct hugetlb_cgroup *cgroup;
	struct hugetlb_cgroup *cgroup_rsvd;
	void *private;
	bool uncharge;
};

struct folio *hugetlb_take_folio(struct hstate *h,
				 struct hugepage_subpool *spool,
				 struct mempolicy_interpreted *mpoli);
int hugetlb_split_folio(struct folio *folio, struct hugetlb_split *split);
void hugetlb_return_folio(struct folio *folio, struct hugepage_subpool *spool);
void hugetlb_join_folio(struct hugetlb_split *split,
			struct hugepage_subpool *spool);
void hugetlb_free_healthy(struct folio *folio);
int dissolve_hugetlb_folio(struct folio *folio, struct hugepage_subpool *spool);

#endif /* _MM_HUGETLB_SPLIT_H */
