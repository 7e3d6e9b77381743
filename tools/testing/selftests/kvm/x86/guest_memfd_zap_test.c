// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which mappings KVM is to let go of when a guest_memfd changes: those of
 * private memory, of shared memory, or both.
 *
 * Only TDX keeps the two apart, so that only there something is left behind if
 * the wrong ones are asked for.  What is asked for can be seen everywhere, with
 * a kprobe.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_serve.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define TRACEFS		"/sys/kernel/tracing"
#define KPROBES		TRACEFS "/kprobe_events"
#define EVENT		"guest_memfd_test/zap"
#define NR_PAGES	16

/* enum kvm_gfn_range_filter */
#define FILTER_SHARED	1
#define FILTER_PRIVATE	2
#define FILTER_BOTH	(FILTER_SHARED | FILTER_PRIVATE)

/*
 * struct kvm_gfn_range, the second argument.  A layout that is not so would
 * make the gfns wrong as well.
 */
#define PROBE		"p:" EVENT " kvm_unmap_gfn_range start=+8(%si):u64 "	\
			"end=+16(%si):u64 filter=+32(%si):u32"

FIXTURE(zap) {
	struct kvm_vm *vm;
	int fd;
};

static bool try_write(const char *path, int flags, const char *text)
{
	int fd = open(path, O_WRONLY | flags);
	bool done;

	if (fd < 0)
		return false;
	done = write(fd, text, strlen(text)) == strlen(text);
	kvm_close(fd);
	return done;
}

FIXTURE_SETUP(zap)
{
	if (!gmem_can_convert())
		SKIP(return, "no VM type with private memory");
	if (!try_write(KPROBES, O_APPEND, PROBE))
		SKIP(return, "no kprobes");

	self->vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	self->fd = -1;
	ASSERT_TRUE(try_write(TRACEFS "/trace", O_TRUNC, ""));
	ASSERT_TRUE(try_write(TRACEFS "/events/" EVENT "/enable", 0, "1"));
}

FIXTURE_TEARDOWN(zap)
{
	if (!self->vm)
		return;

	if (self->fd >= 0)
		close(self->fd);
	kvm_vm_free(self->vm);
	try_write(TRACEFS "/events/" EVENT "/enable", 0, "0");
	try_write(KPROBES, O_APPEND, "-:" EVENT);
}

static int create(struct kvm_vm *vm, u64 flags)
{
	int fd = gmem_create_file(vm, NR_PAGES * GMEM_PAGE_SIZE, flags);

	set_slot(vm, NR_PAGES, fd, 0);
	return fd;
}

static int create_mixed(struct kvm_vm *vm)
{
	int fd = create(vm, GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED);

	gmem_pages_to_private(fd, 0, NR_PAGES / 2);
	return fd;
}

/* Was it the whole range, once, with this filter and no other? */
static bool was_asked_for(u64 first, u64 nr_pages, unsigned int filter)
{
	u64 start = TRACKING_GPA / GMEM_PAGE_SIZE + first;
	unsigned int nr = 0, nr_right = 0;
	char range[128], right[128], line[512];
	FILE *trace = fopen(TRACEFS "/trace", "r");

	TEST_ASSERT(trace, "Cannot read the trace");
	snprintf(range, sizeof(range), " start=%lu end=%lu ", start, start + nr_pages);
	snprintf(right, sizeof(right), "%sfilter=%u\n", range, filter);
	while (fgets(line, sizeof(line), trace)) {
		nr += !!strstr(line, range);
		nr_right += !!strstr(line, right);
	}
	fclose(trace);

	return nr == 1 && nr_right == 1;
}

TEST_F(zap, conversion_to_private_asks_for_what_is_shared)
{
	self->fd = create(self->vm, GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED);
	gmem_pages_to_private(self->fd, 2, 3);

	EXPECT_TRUE(was_asked_for(2, 3, FILTER_SHARED));
}

TEST_F(zap, conversion_to_shared_asks_for_what_is_private)
{
	self->fd = create_mixed(self->vm);
	gmem_pages_to_shared(self->fd, 2, 3);

	EXPECT_TRUE(was_asked_for(2, 3, FILTER_PRIVATE));
}

TEST_F(zap, hole_asks_for_both)
{
	self->fd = create_mixed(self->vm);
	gmem_punch_pages(self->fd, 0, NR_PAGES);

	EXPECT_TRUE(was_asked_for(0, NR_PAGES, FILTER_BOTH));
}

TEST_F(zap, last_close_asks_for_both)
{
	close(create_mixed(self->vm));

	EXPECT_TRUE(was_asked_for(0, NR_PAGES, FILTER_BOTH));
}

/* What is shared there comes from the host's mappings. */
TEST_F(zap, last_close_of_a_file_that_is_all_private_asks_for_that)
{
	close(create(self->vm, 0));

	EXPECT_TRUE(was_asked_for(0, NR_PAGES, FILTER_PRIVATE));
}

int main(int argc, char **argv)
{
	return test_harness_run(argc, argv);
}
