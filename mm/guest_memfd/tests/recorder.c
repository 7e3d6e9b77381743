// SPDX-License-Identifier: GPL-2.0-only
/*
 * recorder: a view that writes down what it is told, and refuses if asked to.
 */
#include <linux/lockdep.h>
#include <linux/pagemap.h>

#include "recorder.h"

static const char * const recorder_steps[] = {
	[RECORDER_PREPARE]	= "prepare",
	[RECORDER_ABORT]	= "abort",
	[RECORDER_BEGIN]	= "begin",
	[RECORDER_TRANSFER]	= "transfer",
	[RECORDER_REFRESH]	= "refresh",
	[RECORDER_END]		= "end",
};

static const char * const recorder_types[] = {
	[GUEST_MEMFD_TO_SHARED]		= "shared",
	[GUEST_MEMFD_TO_PRIVATE]	= "private",
	[GUEST_MEMFD_REMOVE]		= "remove",
	[GUEST_MEMFD_POISON]		= "poison",
};

static struct recorder *to_recorder(struct guest_memfd_view *view)
{
	return container_of(view, struct recorder, view);
}

static bool recording_is_first(enum recorder_step step)
{
	return step == RECORDER_PREPARE || step == RECORDER_BEGIN;
}

static bool recording_is_last(enum recorder_step step)
{
	return step == RECORDER_END || step == RECORDER_ABORT;
}

/* Is this step another change's, as far as can be told? */
static bool recording_starts_line(const struct recording *recording,
				  const struct guest_memfd_change *change,
				  enum recorder_step step)
{
	const struct guest_memfd_change *last = &recording->change;

	if (recording_is_last(recording->step) && recording_is_first(step))
		return true;

	return change->inode != last->inode || change->start != last->start ||
	       change->end != last->end || change->type != last->type ||
	       change->initiator != last->initiator;
}

static void recording_start_line(struct recording *recording,
				 const struct guest_memfd_change *change,
				 enum recorder_step step)
{
	struct seq_buf *buf = &recording->buf;

	if (seq_buf_used(buf))
		seq_buf_putc(buf, '\n');
	seq_buf_printf(buf, "%s %lu-%lu", recorder_types[change->type],
		       change->start, change->end);
	if (change->initiator)
		seq_buf_printf(buf, " by %s",
			       to_recorder(change->initiator)->name);
	seq_buf_printf(buf, ": %s", recorder_steps[step]);
	recording->change = *change;
}

static void recorder_record(struct recorder *recorder,
			    const struct guest_memfd_change *change,
			    enum recorder_step step)
{
	struct recording *recording = recorder->recording;

	lockdep_assert_held_write(&change->inode->i_mapping->invalidate_lock);

	if (recording_starts_line(recording, change, step))
		recording_start_line(recording, change, step);
	else if (step != recording->step)
		seq_buf_printf(&recording->buf, ", %s", recorder_steps[step]);
	seq_buf_printf(&recording->buf, " %s", recorder->name);
	recording->step = step;

	recorder->was_private[step] = guest_memfd_is_private(change->inode,
							     change->start);
}

static int recorder_prepare(struct guest_memfd_view *view,
			    const struct guest_memfd_change *change)
{
	struct recorder *recorder = to_recorder(view);

	recorder_record(recorder, change, RECORDER_PREPARE);
	if (recorder->own_only && change->initiator != view)
		return -EPERM;
	return change->start >= recorder->refuse_from ? recorder->prepare_err :
							0;
}

static void recorder_abort(struct guest_memfd_view *view,
			   const struct guest_memfd_change *change)
{
	recorder_record(to_recorder(view), change, RECORDER_ABORT);
}

static void recorder_begin(struct guest_memfd_view *view,
			   const struct guest_memfd_change *change)
{
	struct recorder *recorder = to_recorder(view);

	recorder_record(recorder, change, RECORDER_BEGIN);
	complete(&recorder->begun);
	if (recorder->stops)
		wait_for_completion(&recorder->go);
}

static int recorder_transfer(struct guest_memfd_view *view,
			     const struct guest_memfd_change *change)
{
	struct recorder *recorder = to_recorder(view);

	recorder_record(recorder, change, RECORDER_TRANSFER);
	return change->start >= recorder->refuse_from ? recorder->transfer_err :
							0;
}

static void recorder_refresh(struct guest_memfd_view *view,
			     const struct guest_memfd_change *change)
{
	recorder_record(to_recorder(view), change, RECORDER_REFRESH);
}

static void recorder_end(struct guest_memfd_view *view,
			 const struct guest_memfd_change *change)
{
	recorder_record(to_recorder(view), change, RECORDER_END);
	complete(&to_recorder(view)->ended);
}

const struct guest_memfd_view_ops recorder_owner_ops = {
	.prepare	= recorder_prepare,
	.abort		= recorder_abort,
	.begin		= recorder_begin,
	.transfer	= recorder_transfer,
	.refresh	= recorder_refresh,
	.end		= recorder_end,
};

const struct guest_memfd_view_ops recorder_follower_ops = {
	.prepare	= recorder_prepare,
	.abort		= recorder_abort,
	.begin		= recorder_begin,
	.refresh	= recorder_refresh,
	.end		= recorder_end,
};

const struct guest_memfd_view_ops recorder_minimal_ops = {
	.begin		= recorder_begin,
	.end		= recorder_end,
};

void recording_init(struct recording *recording)
{
	*recording = (struct recording) {};
	seq_buf_init(&recording->buf, recording->text, sizeof(recording->text));
}

void recorder_init(struct recorder *recorder, struct recording *recording,
		   const char *name, const struct guest_memfd_view_ops *ops)
{
	*recorder = (struct recorder) {
		.view.ops = ops,
		.recording = recording,
		.name = name,
	};
	init_completion(&recorder->begun);
	init_completion(&recorder->go);
	init_completion(&recorder->ended);
}
