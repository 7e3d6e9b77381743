// SPDX-License-Identifier: GPL-2.0-only
/*
 * guest_memfd memory under shadow paging: the guest gets what is in the file,
 * whatever is at the userspace address of the memslot.
 *
 * Needs kvm_amd.npt=0 or kvm_intel.ept=0.
 */
#include <linux/sizes.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_serve.h"
#include "guest_memfd_util.h"
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
	self->fd = gmem_create_file(self->vm, NR_PAGES * GMEM_PAGE_SIZE,
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

/*
 * Two blocks of 2 MiB, which the guest maps with one entry each.  No VM with
 * shadow paging can have private memory, so there are no conversions.
 */
#define BLOCK_PAGES	(SZ_2M / GMEM_PAGE_SIZE)
#define NR_BLOCKS	2

/* Nothing is there, and it is not aligned as the file is. */
#define ODD_HVA		((void *)GMEM_PAGE_SIZE)

FIXTURE(shadow_block) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	u8 *mem;
	long pages_2m;
};

FIXTURE_SETUP(shadow_block)
{
	if (kvm_is_tdp_enabled())
		SKIP(return, "no shadow paging");
	if (gmem_block_size() != SZ_2M)
		SKIP(return, "no blocks of 2 MiB");

	self->vm = vm_create_with_one_vcpu(&self->vcpu, guest_serve);
	self->fd = gmem_create_file(self->vm, NR_BLOCKS * SZ_2M,
				    GUEST_MEMFD_FLAG_MMAP |
				    GUEST_MEMFD_FLAG_INIT_SHARED);
	self->mem = gmem_map_pages(self->fd, NR_BLOCKS * BLOCK_PAGES);
	memset(self->mem, FILE_BYTE, NR_BLOCKS * SZ_2M);

	set_slot_beside(self->vm, NR_BLOCKS * BLOCK_PAGES, self->fd, ODD_HVA);
	virt_map_level(self->vm, TRACKING_GPA, TRACKING_GPA, NR_BLOCKS * SZ_2M,
		       PG_LEVEL_2M);
	self->pages_2m = vm_get_stat(self->vm, pages_2m);
}

FIXTURE_TEARDOWN(shadow_block)
{
	kvm_munmap(self->mem, NR_BLOCKS * SZ_2M);
	close(self->fd);
	kvm_vm_free(self->vm);
}

#define EXPECT_LEAVES(_nr)						\
	EXPECT_EQ(self->pages_2m + (_nr), (long)vm_get_stat(self->vm, pages_2m))

static bool block_reads(struct kvm_vcpu *vcpu, int block, u8 byte)
{
	int first = block * BLOCK_PAGES;

	return read_page(vcpu, first) == byte &&
	       read_page(vcpu, first + BLOCK_PAGES / 2) == byte &&
	       read_page(vcpu, first + BLOCK_PAGES - 1) == byte;
}

TEST_F(shadow_block, block_is_mapped_with_one_leaf)
{
	EXPECT_TRUE(block_reads(self->vcpu, 0, FILE_BYTE));
	EXPECT_LEAVES(1);
	EXPECT_TRUE(block_reads(self->vcpu, 1, FILE_BYTE));
	EXPECT_LEAVES(2);
}

TEST_F(shadow_block, hole_takes_away_the_leaf_of_its_block_alone)
{
	EXPECT_TRUE(block_reads(self->vcpu, 0, FILE_BYTE));
	EXPECT_TRUE(block_reads(self->vcpu, 1, FILE_BYTE));

	gmem_punch_pages(self->fd, BLOCK_PAGES, BLOCK_PAGES);
	EXPECT_LEAVES(1);
	EXPECT_TRUE(block_reads(self->vcpu, 0, FILE_BYTE));
	EXPECT_TRUE(block_reads(self->vcpu, 1, 0));
	EXPECT_LEAVES(2);
}

/* Or the guest could get at more than it has mapped there. */
TEST_F(shadow_block, page_that_the_guest_maps_alone_is_mapped_alone)
{
	const gva_t window = TRACKING_GPA + SZ_1G;
	const int n = BLOCK_PAGES + 5;

	virt_map(self->vm, window, TRACKING_GPA + n * GMEM_PAGE_SIZE, 1);
	self->mem[n * GMEM_PAGE_SIZE] = OTHER_BYTE;

	EXPECT_EQ(OTHER_BYTE, guest_read(self->vcpu, window));
	EXPECT_LEAVES(0);
	EXPECT_EQ(OTHER_BYTE, read_page(self->vcpu, n));
	EXPECT_LEAVES(1);
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
