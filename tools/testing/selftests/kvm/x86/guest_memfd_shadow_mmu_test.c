// SPDX-License-Identifier: GPL-2.0-only
/*
 * guest_memfd memory under shadow paging: the guest gets what is in the file,
 * whatever is at the userspace address of the memslot.
 *
 * Needs kvm_amd.npt=0 or kvm_intel.ept=0.
 */
#include <linux/sizes.h>

#include "guest_memfd_serve.h"
#include "guest_memfd_util.h"
#include "kvm_test_harness.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

/* As many as KVM maps with one fault, and they are aligned. */
#define NR_PAGES	8

#define FILE_BYTE	0x11
#define OTHER_BYTE	0xee

/*
 * A file all of which holds FILE_BYTE, and a memslot for it with the address
 * of other memory, which holds OTHER_BYTE.
 */
FIXTURE(shadow) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	u8 *mem;
	u8 *other;
};

static void set_slot_beside(struct kvm_vm *vm, u64 nr_pages, int fd, void *hva)
{
	TEST_ASSERT(!__vm_set_user_memory_region2(vm, TRACKING_SLOT,
						  KVM_MEM_GUEST_MEMFD,
						  TRACKING_GPA,
						  nr_pages * GMEM_PAGE_SIZE,
						  hva, fd, 0),
		    "Cannot set the memslot");
}

FIXTURE_SETUP(shadow)
{
	if (kvm_is_tdp_enabled())
		SKIP(return, "no shadow paging");

	self->vm = vm_create_with_one_vcpu(&self->vcpu, guest_serve);
	self->fd = vm_create_guest_memfd(self->vm, NR_PAGES * GMEM_PAGE_SIZE,
					 GUEST_MEMFD_FLAG_MMAP |
					 GUEST_MEMFD_FLAG_INIT_SHARED);
	self->mem = gmem_map_pages(self->fd, NR_PAGES);
	memset(self->mem, FILE_BYTE, NR_PAGES * GMEM_PAGE_SIZE);

	self->other = kvm_mmap(NR_PAGES * GMEM_PAGE_SIZE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memset(self->other, OTHER_BYTE, NR_PAGES * GMEM_PAGE_SIZE);

	set_slot_beside(self->vm, NR_PAGES, self->fd, self->other);
	virt_map(self->vm, TRACKING_GPA, TRACKING_GPA, NR_PAGES);
}

FIXTURE_TEARDOWN(shadow)
{
	kvm_munmap(self->other, NR_PAGES * GMEM_PAGE_SIZE);
	kvm_munmap(self->mem, NR_PAGES * GMEM_PAGE_SIZE);
	close(self->fd);
	kvm_vm_free(self->vm);
}

static u8 read_page(struct kvm_vcpu *vcpu, int n)
{
	return guest_read(vcpu, TRACKING_GPA + n * GMEM_PAGE_SIZE);
}

TEST_F(shadow, guest_sees_the_file)
{
	int i;

	for (i = 0; i < NR_PAGES; i++)
		EXPECT_EQ(FILE_BYTE, read_page(self->vcpu, i));
}

/* KVM only takes pages along that the guest has used before. */
TEST_F(shadow, neighbours_of_a_page_come_from_the_file)
{
	int i;

	for (i = 0; i < NR_PAGES; i++)
		read_page(self->vcpu, i);
	set_slot_beside(self->vm, 0, -1, NULL);
	set_slot_beside(self->vm, NR_PAGES, self->fd, self->other);

	for (i = 0; i < NR_PAGES; i++)
		EXPECT_EQ(FILE_BYTE, read_page(self->vcpu, i));
}

TEST_HARNESS_MAIN
