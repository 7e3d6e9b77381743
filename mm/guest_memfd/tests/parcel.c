// SPDX-License-Identifier: GPL-2.0-only
/*
 * parcel: a model of a hypervisor that moves whole runs of pages.
 */
#include <linux/cleanup.h>
#include <linux/fs.h>
#include <linux/seq_buf.h>

#include "parcel.h"

static bool parcel_overlaps(const struct parcel *p, pgoff_t start, pgoff_t end)
{
	return p->state != PARCEL_UNUSED && p->start < end && start < p->end;
}

/* The first parcel of the range from handle @handle on, NULL if there is none. */
static struct parcel *parcel_find(struct parcel_hypervisor *hyp, pgoff_t start,
				  pgoff_t end, unsigned int handle)
{
	for (; handle < PARCEL_MAX; handle++)
		if (parcel_overlaps(&hyp->parcels[handle], start, end))
			return &hyp->parcels[handle];

	return NULL;
}

static struct parcel *parcel_first(struct parcel_hypervisor *hyp,
				   const struct guest_memfd_change *change)
{
	return parcel_find(hyp, change->start, change->end, 0);
}

static struct parcel *parcel_next(struct parcel_hypervisor *hyp,
				  const struct guest_memfd_change *change,
				  const struct parcel *p)
{
	return parcel_find(hyp, change->start, change->end,
			   p - hyp->parcels + 1);
}

static struct parcel *parcel_find_unused(struct parcel_hypervisor *hyp)
{
	unsigned int handle;

	for (handle = 0; handle < PARCEL_MAX; handle++)
		if (hyp->parcels[handle].state == PARCEL_UNUSED)
			return &hyp->parcels[handle];

	return NULL;
}

static unsigned int parcel_nr_unused(const struct parcel_hypervisor *hyp)
{
	unsigned int handle, nr = 0;

	for (handle = 0; handle < PARCEL_MAX; handle++)
		nr += hyp->parcels[handle].state == PARCEL_UNUSED;

	return nr;
}

static unsigned int parcel_nr_wanted(const struct guest_memfd_change *change)
{
	pgoff_t index, next;
	unsigned int nr = 0;
	bool private;

	for (index = change->start; index < change->end; index = next) {
		next = guest_memfd_run_end(change->inode, index, change->end,
					   &private);
		nr += !private;
	}

	return nr;
}

/* Is it whole parcels, as far as it has been lent at all? */
static bool parcel_is_whole(struct parcel_hypervisor *hyp,
			    const struct guest_memfd_change *change)
{
	struct parcel *p;

	for (p = parcel_first(hyp, change); p; p = parcel_next(hyp, change, p))
		if (p->start < change->start || p->end > change->end)
			return false;

	return true;
}

/*
 * The host's driver.  What the hypervisor is sure to answer is found out
 * before anybody has been disturbed.
 */

static int parcel_prepare(struct guest_memfd_view *view,
			  const struct guest_memfd_change *change)
{
	struct parcel_hypervisor *hyp =
		container_of(view, struct parcel_hypervisor, view);

	guard(mutex)(&hyp->lock);

	switch (change->type) {
	case GUEST_MEMFD_TO_PRIVATE:
		if (parcel_nr_wanted(change) > parcel_nr_unused(hyp))
			return -ENOSPC;
		return 0;
	case GUEST_MEMFD_TO_SHARED:
		return parcel_is_whole(hyp, change) ? 0 : -EINVAL;
	default:
		return parcel_first(hyp, change) ? -EBUSY : 0;
	}
}

static int parcel_lend(struct parcel_hypervisor *hyp,
		       const struct guest_memfd_change *change)
{
	pgoff_t index, next;
	struct parcel *p;
	bool private;

	for (index = change->start; index < change->end; index = next) {
		next = guest_memfd_run_end(change->inode, index, change->end,
					   &private);
		if (private)
			continue;

		/* Never so, after prepare. */
		p = parcel_find_unused(hyp);
		if (!p)
			return -ENOSPC;

		*p = (struct parcel) {
			.state = PARCEL_LENT,
			.start = index,
			.end = next,
		};
	}

	return 0;
}

static int parcel_reclaim(struct parcel_hypervisor *hyp,
			  const struct guest_memfd_change *change)
{
	struct parcel *p;

	for (p = parcel_first(hyp, change); p; p = parcel_next(hyp, change, p))
		if (p->state != PARCEL_RELEASED)
			return -EBUSY;

	while ((p = parcel_first(hyp, change)))
		p->state = PARCEL_UNUSED;

	return 0;
}

static int parcel_transfer(struct guest_memfd_view *view,
			   const struct guest_memfd_change *change)
{
	struct parcel_hypervisor *hyp =
		container_of(view, struct parcel_hypervisor, view);

	guard(mutex)(&hyp->lock);

	if (change->type == GUEST_MEMFD_TO_SHARED)
		return parcel_reclaim(hyp, change);

	return parcel_lend(hyp, change);
}

/* The host maps nothing by itself: nothing to stop and nothing to go on with. */
static void parcel_begin_or_end(struct guest_memfd_view *view,
				const struct guest_memfd_change *change)
{
}

static const struct guest_memfd_view_ops parcel_view_ops = {
	.prepare	= parcel_prepare,
	.begin		= parcel_begin_or_end,
	.transfer	= parcel_transfer,
	.end		= parcel_begin_or_end,
};

void parcel_hypervisor_init(struct parcel_hypervisor *hyp, struct inode *inode)
{
	*hyp = (struct parcel_hypervisor) {
		.view.ops = &parcel_view_ops,
		.inode = inode,
	};
	mutex_init(&hyp->lock);
}

/* All parcels as "START-END START-END", in the order of their handles. */
void parcel_show(struct parcel_hypervisor *hyp, char *text, size_t size)
{
	const struct guest_memfd_change all = { .end = ULONG_MAX };
	struct seq_buf buf;
	struct parcel *p;

	guard(mutex)(&hyp->lock);

	seq_buf_init(&buf, text, size);
	for (p = parcel_first(hyp, &all); p; p = parcel_next(hyp, &all, p))
		seq_buf_printf(&buf, "%s%lu-%lu", seq_buf_used(&buf) ? " " : "",
			       p->start, p->end);
	seq_buf_str(&buf);
}

/* The host is not told. */
int parcel_release(struct parcel_hypervisor *hyp, pgoff_t index)
{
	struct parcel *p;

	guard(mutex)(&hyp->lock);

	p = parcel_find(hyp, index, index + 1, 0);
	if (!p)
		return -ENOENT;

	p->state = PARCEL_RELEASED;
	return 0;
}

static int parcel_range(struct parcel_hypervisor *hyp, pgoff_t index,
			pgoff_t *start, pgoff_t *end)
{
	struct parcel *p;

	guard(mutex)(&hyp->lock);

	p = parcel_find(hyp, index, index + 1, 0);
	if (!p)
		return -ENOENT;

	*start = p->start;
	*end = p->end;
	return 0;
}

/* The host is told: it takes the parcel back, and shares its pages by that. */
int parcel_release_and_tell(struct parcel_hypervisor *hyp, pgoff_t index)
{
	pgoff_t start, end, error_index;
	int err;

	err = parcel_release(hyp, index) ?:
	      parcel_range(hyp, index, &start, &end);
	if (err)
		return err;

	return guest_memfd_convert(hyp->inode, start, end,
				   GUEST_MEMFD_TO_SHARED, &hyp->view,
				   &error_index);
}
