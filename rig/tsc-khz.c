// SPDX-License-Identifier: GPL-2.0-only
/* Print how fast this machine's TSC counts, in kHz: for tsc_early_khz=, see rig/boot. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

#define MAX_TICKS	20000

struct point {
	int64_t nsecs;
	uint64_t ticks;
};

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Both at once: nobody has come between. */
static struct point take_point(void)
{
	struct point point;
	uint64_t before;

	do {
		before = __rdtsc();
		point.nsecs = now();
		point.ticks = __rdtsc();
	} while (point.ticks - before > MAX_TICKS);

	return point;
}

int main(void)
{
	const struct timespec pause = { .tv_nsec = 50000000 };
	struct point start = take_point(), end;

	nanosleep(&pause, NULL);
	end = take_point();
	printf("%" PRIu64 "\n",
	       (end.ticks - start.ticks) * 1000000 / (uint64_t)(end.nsecs - start.nsecs));
	return 0;
}
