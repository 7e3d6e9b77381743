// SPDX-License-Identifier: GPL-2.0-only
/*
 * A guest whose memory is a guest_memfd that is not in the kernel's direct map: it
 * reads, writes and executes there as it would anywhere else.
 */
#include <string.h>

#include "guest_memfd_direct_map.h"
#include "guest_memfd_harness.h"
#include "guest_memfd_hidden.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define SLOT		10
#define GPA		((u64)SZ_4G)
#define NR_PAGES	(SZ_4M / GMEM_PAGE_SIZE)

#define BY_USER		0x05e2
#define BY_GUEST	0x9e57

/*
 * A guest with a file that KVM knows no user address of.
 */
FIXTURE(guest) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	u8 *mem;
	u8 *page;
	u64 pfn;
};

FIXTURE_SETUP(guest)
{
	self->fd = -1;
	self->vm = vm_create_with_one_vcpu(&self->vcpu, NULL);
	if (access(DIRECT_MAP_PROBE, R_OK))
		SKIP(return, "no CONFIG_DIRECT_MAP_PROBE");
	if (!can_hide(self->vm))
		SKIP(return, "this machine cannot change its direct map");

	self->fd = gmem_create_file(self->vm, NR_PAGES * GMEM_PAGE_SIZE, HIDDEN);
	self->mem = gmem_map_pages(self->fd, NR_PAGES);
	self->page = self->mem + 3 * GMEM_PAGE_SIZE;
	vm_set_user_memory_region2(self->vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA,
				   NR_PAGES * GMEM_PAGE_SIZE, NULL, self->fd, 0);
	virt_map(self->vm, GPA, GPA, NR_PAGES);
	vcpu_args_set(self->vcpu, 1, GPA + 3 * GMEM_PAGE_SIZE);
}

FIXTURE_TEARDOWN(guest)
{
	kvm_vm_free(self->vm);
	if (self->fd >= 0) {
		kvm_munmap(self->mem, NR_PAGES * GMEM_PAGE_SIZE);
		kvm_close(self->fd);
	}
}

/*
 * Data
 */

static void guest_reads(u64 *page)
{
	for (;;)
		GUEST_SYNC1(gmem_has_stamp(page, BY_USER));
}

static void guest_writes(u64 *page)
{
	gmem_stamp(page, BY_GUEST);
	GUEST_SYNC1(0);
}

TEST_F(guest, guest_reads_what_user_space_has_written)
{
	gmem_stamp(self->page, BY_USER);
	vcpu_arch_set_entry_point(self->vcpu, guest_reads);
	EXPECT_TRUE(run_to_sync(self->vcpu));
}

TEST_F(guest, user_space_reads_what_the_guest_has_written)
{
	vcpu_arch_set_entry_point(self->vcpu, guest_writes);
	run_to_sync(self->vcpu);
	EXPECT_TRUE(gmem_has_stamp(self->page, BY_GUEST));
}

TEST_F(guest, page_that_the_guest_is_the_first_to_touch_is_out)
{
	vcpu_arch_set_entry_point(self->vcpu, guest_writes);
	run_to_sync(self->vcpu);
	EXPECT_EQ(gmem_touched_pages(HIDDEN), gmem_fdinfo(self->fd, "allocated"));
	EXPECT_FALSE(direct_map_has(gmem_pfn(self->page)));
}

TEST_F(guest, page_that_is_taken_from_the_guest_is_back)
{
	gmem_stamp(self->page, BY_USER);
	self->pfn = gmem_pfn(self->page);
	vcpu_arch_set_entry_point(self->vcpu, guest_reads);
	run_to_sync(self->vcpu);

	gmem_punch_pages(self->fd, 3, 1);
	EXPECT_TRUE(direct_map_has(self->pfn));
}

TEST_F(guest, page_that_is_taken_from_the_guest_is_not_seen_again)
{
	gmem_stamp(self->page, BY_USER);
	vcpu_arch_set_entry_point(self->vcpu, guest_reads);
	run_to_sync(self->vcpu);

	gmem_punch_pages(self->fd, 3, 1);
	/* Gets the old one, if anybody does. */
	gmem_poke(self->mem + (NR_PAGES - 1) * GMEM_PAGE_SIZE, 1);
	gmem_stamp(self->page, BY_USER);
	EXPECT_TRUE(run_to_sync(self->vcpu));
}

/*
 * Code: where caches have to be made coherent for it, KVM would do that through the
 * direct map
 */

/* A function that returns 0x77. */
static const u8 function[] = {
#if defined(__x86_64__)
	0xb8, 0x77, 0x00, 0x00, 0x00,		/* mov $0x77, %eax */
	0xc3,					/* ret */
#elif defined(__aarch64__)
	0xe0, 0x0e, 0x80, 0x52,			/* mov w0, #0x77 */
	0xc0, 0x03, 0x5f, 0xd6,			/* ret */
#endif
};

static void guest_calls(u32 (*function)(void))
{
	GUEST_SYNC1(function());
}

TEST_F(guest, guest_runs_code_that_user_space_has_written)
{
	memcpy(self->page, function, sizeof(function));
	__builtin___clear_cache(self->page, self->page + sizeof(function));
	vcpu_arch_set_entry_point(self->vcpu, guest_calls);
	EXPECT_EQ(0x77, run_to_sync(self->vcpu));
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
