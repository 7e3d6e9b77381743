/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * recorder: a view that writes down what it is told, and refuses if asked to.
 *
 * Knows nothing but the public interface of the core.
 */
#ifndef _MM_GUEST_MEMFD_TESTS_RECORDER_H
#define _MM_GUEST_MEMFD_TESTS_RECORDER_H

#include <linux/completion.h>
#include <linux/guest_memfd.h>
#include <linux/seq_buf.h>

enum recorder_step {
	RECORDER_PREPARE,
	RECORDER_ABORT,
	RECORDER_BEGIN,
	RECORDER_TRANSFER,
	RECORDER_REFRESH,
	RECORDER_END,
	RECORDER_NR_STEPS,
};

/**
 * struct recording - what all recorders of an inode were told
 * @buf: one line for each change: type, range and who started it, then each
 *	step and who was called for it, in the order of the calls; as in
 *	"private 0-8 by b: prepare a b, begin a b, transfer b, end b a"
 * @text: what @buf writes to
 * @change: the change of the last line
 * @step: the last step
 *
 * Written in callbacks, so under invalidate_lock held for write.
 */
struct recording {
	struct seq_buf buf;
	char text[1024];
	struct guest_memfd_change change;
	enum recorder_step step;
};

/**
 * struct recorder - a view that records
 * @view: what the core knows of it
 * @recording: where to, may be that of other recorders as well
 * @name: one word
 * @prepare_err: what to answer to prepare
 * @transfer_err: what to answer to transfer
 * @refuse_from: but only for changes that start here or above
 * @own_only: answer -EPERM to a prepare for anybody else's conversion
 * @was_private: state of the first page of the change, at each step
 * @stops: begin does not return before @go is completed
 * @begun: completed by each begin
 * @go: completed by the test
 * @ended: completed by each end
 */
struct recorder {
	struct guest_memfd_view view;
	struct recording *recording;
	const char *name;
	int prepare_err;
	int transfer_err;
	pgoff_t refuse_from;
	bool own_only;
	bool was_private[RECORDER_NR_STEPS];
	bool stops;
	struct completion begun;
	struct completion go;
	struct completion ended;
};

/* Every step; every step but transfer; those that are not optional. */
extern const struct guest_memfd_view_ops recorder_owner_ops;
extern const struct guest_memfd_view_ops recorder_follower_ops;
extern const struct guest_memfd_view_ops recorder_minimal_ops;

void recording_init(struct recording *recording);
void recorder_init(struct recorder *recorder, struct recording *recording,
		   const char *name, const struct guest_memfd_view_ops *ops);

#endif /* _MM_GUEST_MEMFD_TESTS_RECORDER_H */
