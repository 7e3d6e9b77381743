// SPDX-License-Identifier: GPL-2.0-only
/*
 * The uAPI of guest_memfd conversions: what can be discovered, what is taken
 * and what is refused.  Runs on every architecture that has guest_memfd, most
 * of it with every type of VM.
 */
#include <fcntl.h>
#include <stdlib.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

/* A multiple of every block; nothing of it is allocated. */
#define FILE_SIZE	((u64)SZ_1G)
#define FILE_PAGES	(FILE_SIZE / GMEM_PAGE_SIZE)
#define TRACKING	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)

static int set_attributes2(int fd, struct kvm_memory_attributes2 attr)
{
	return ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, &attr) ? errno : 0;
}

FIXTURE(vm_type) {
	struct kvm_vm *vm;
	int fd;
};

FIXTURE_VARIANT(vm_type) {
	unsigned long type;
	u64 attributes;
};

FIXTURE_VARIANT_ADD(vm_type, default) {
	.type = VM_TYPE_DEFAULT,
	.attributes = 0,
};

#ifdef __x86_64__
FIXTURE_VARIANT_ADD(vm_type, sw_protected) {
	.type = KVM_X86_SW_PROTECTED_VM,
	.attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
};
#endif

FIXTURE_SETUP(vm_type)
{
	if (!kvm_has_cap(KVM_CAP_GUEST_MEMFD))
		SKIP(return, "no guest_memfd");
	if (variant->type != VM_TYPE_DEFAULT &&
	    !(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(variant->type)))
		SKIP(return, "no such VM type");

	self->vm = vm_create_barebones_type(variant->type);
	self->fd = gmem_create_file(self->vm, FILE_SIZE, TRACKING);
}

FIXTURE_TEARDOWN(vm_type)
{
	close(self->fd);
	kvm_vm_free(self->vm);
}

/*
 * Capabilities
 */

TEST_F(vm_type, capability_of_the_vm_is_the_mask_of_attributes)
{
	EXPECT_EQ(variant->attributes,
		  vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES));
}

TEST_F(vm_type, mmap_and_init_shared_are_offered)
{
	EXPECT_EQ(TRACKING, TRACKING &
		  vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS));
}

TEST(capability_of_the_system_is_what_any_vm_may_have)
{
	u64 attributes = 0;

#ifdef __x86_64__
	if (kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM))
		attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE;
#endif
	EXPECT_EQ(attributes,
		  kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES));
}

/*
 * What every VM can do
 */

TEST_F(vm_type, shared_page_can_be_mapped)
{
	u8 *mem = kvm_mmap(FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			   self->fd);

	EXPECT_EQ(0, gmem_poke(mem, 0x55));
	EXPECT_EQ(0x55, gmem_peek(mem));

	kvm_munmap(mem, FILE_SIZE);
}

TEST_F(vm_type, page_is_private_at_first_without_init_shared)
{
	int fd = gmem_create_file(self->vm, FILE_SIZE, GUEST_MEMFD_FLAG_MMAP);
	u8 *mem = kvm_mmap(FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);

	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(mem));
	EXPECT_EQ(FILE_PAGES, gmem_fdinfo(fd, "private"));

	kvm_munmap(mem, FILE_SIZE);
	close(fd);
}

TEST_F(vm_type, shared_page_can_be_made_shared)
{
	EXPECT_EQ(0, set_attributes2(self->fd, (struct kvm_memory_attributes2) {
		.size = FILE_SIZE,
	}));
	EXPECT_EQ(FILE_PAGES, gmem_fdinfo(self->fd, "shared"));
}

TEST_F(vm_type, page_can_be_made_private_if_the_vm_has_private_memory)
{
	u64 supported = variant->attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE;

	EXPECT_EQ(supported ? 0 : EINVAL,
		  set_attributes2(self->fd, (struct kvm_memory_attributes2) {
			.size = GMEM_PAGE_SIZE,
			.attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
		  }));
	EXPECT_EQ(supported ? 1 : 0, gmem_fdinfo(self->fd, "private"));
}

TEST_F(vm_type, fdinfo_of_a_new_file)
{
	EXPECT_EQ(FILE_SIZE, gmem_fdinfo(self->fd, "size"));
	EXPECT_EQ(gmem_block_size(), gmem_fdinfo(self->fd, "block-size"));
	EXPECT_EQ(0, gmem_fdinfo(self->fd, "allocated"));
	EXPECT_EQ(FILE_PAGES, gmem_fdinfo(self->fd, "shared"));
	EXPECT_EQ(0, gmem_fdinfo(self->fd, "private"));
}

/*
 * Other errors than EINVAL
 */

TEST_F(vm_type, other_ioctl_is_enotty)
{
	struct kvm_memory_attributes attr = { .size = FILE_SIZE };

	EXPECT_EQ(-1, ioctl(self->fd, KVM_GET_API_VERSION, 0));
	EXPECT_EQ(ENOTTY, errno);
	EXPECT_EQ(-1, ioctl(self->fd, KVM_SET_MEMORY_ATTRIBUTES, &attr));
	EXPECT_EQ(ENOTTY, errno);
}

/* Architectures differ in what they say of an ioctl that they do not know. */
TEST_F(vm_type, ioctl_on_the_vm_is_unknown)
{
	int err = set_attributes2(self->vm->fd, (struct kvm_memory_attributes2) {
		.size = FILE_SIZE,
	});

	EXPECT_TRUE(err == ENOTTY || err == EINVAL);
}

TEST_F(vm_type, null_argument_is_efault)
{
	EXPECT_EQ(-1, ioctl(self->fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL));
	EXPECT_EQ(EFAULT, errno);
}

TEST_F(vm_type, argument_that_runs_into_unmapped_memory_is_efault)
{
	u8 *mem = kvm_mmap(2 * GMEM_PAGE_SIZE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct kvm_memory_attributes2 *attr;

	attr = (void *)(mem + GMEM_PAGE_SIZE - sizeof(*attr) / 2);
	attr->size = FILE_SIZE;
	kvm_munmap(mem + GMEM_PAGE_SIZE, GMEM_PAGE_SIZE);

	EXPECT_EQ(-1, ioctl(self->fd, KVM_SET_MEMORY_ATTRIBUTES2, attr));
	EXPECT_EQ(EFAULT, errno);

	kvm_munmap(mem, GMEM_PAGE_SIZE);
}

/* Nothing is written on success. */
TEST_F(vm_type, read_only_argument_is_taken)
{
	struct kvm_memory_attributes2 *attr;

	attr = kvm_mmap(GMEM_PAGE_SIZE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1);
	attr->size = FILE_SIZE;
	ASSERT_EQ(0, mprotect(attr, GMEM_PAGE_SIZE, PROT_READ));

	EXPECT_EQ(0, ioctl(self->fd, KVM_SET_MEMORY_ATTRIBUTES2, attr));

	kvm_munmap(attr, GMEM_PAGE_SIZE);
}

TEST_F(vm_type, file_without_mmap_is_einval)
{
	int fd = vm_create_guest_memfd(self->vm, FILE_SIZE, 0);

	EXPECT_EQ(EINVAL, set_attributes2(fd, (struct kvm_memory_attributes2) {
		.size = FILE_SIZE,
	}));
	EXPECT_EQ(EINVAL, set_attributes2(fd, (struct kvm_memory_attributes2) {
		.size = FILE_SIZE,
		.attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
	}));

	close(fd);
}

/*
 * Arguments that are EINVAL, whatever the pages are to become
 */

FIXTURE(argument) {
	struct kvm_vm *vm;
	int fd;
	u64 attributes;
};

FIXTURE_VARIANT(argument) {
	struct kvm_memory_attributes2 attr;
};

FIXTURE_SETUP(argument)
{
	unsigned long type = VM_TYPE_DEFAULT;

	if (!kvm_has_cap(KVM_CAP_GUEST_MEMFD))
		SKIP(return, "no guest_memfd");

#ifdef __x86_64__
	if (kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM))
		type = KVM_X86_SW_PROTECTED_VM;
#endif
	self->vm = vm_create_barebones_type(type);
	self->fd = gmem_create_file(self->vm, FILE_SIZE, TRACKING);
	self->attributes = vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES);
}

FIXTURE_TEARDOWN(argument)
{
	close(self->fd);
	kvm_vm_free(self->vm);
}

FIXTURE_VARIANT_ADD(argument, offset_not_aligned) {
	.attr.offset = 1,
	.attr.size = GMEM_PAGE_SIZE,
};

FIXTURE_VARIANT_ADD(argument, offset_half_a_page) {
	.attr.offset = GMEM_PAGE_SIZE / 2,
	.attr.size = GMEM_PAGE_SIZE,
};

FIXTURE_VARIANT_ADD(argument, size_not_aligned) {
	.attr.size = GMEM_PAGE_SIZE + 1,
};

FIXTURE_VARIANT_ADD(argument, size_half_a_page) {
	.attr.size = GMEM_PAGE_SIZE / 2,
};

FIXTURE_VARIANT_ADD(argument, size_zero) {
	.attr.size = 0,
};

FIXTURE_VARIANT_ADD(argument, size_zero_at_end_of_file) {
	.attr.offset = FILE_SIZE,
	.attr.size = 0,
};

FIXTURE_VARIANT_ADD(argument, end_wraps_to_zero) {
	.attr.offset = GMEM_PAGE_SIZE,
	.attr.size = -GMEM_PAGE_SIZE,
};

FIXTURE_VARIANT_ADD(argument, end_wraps_into_the_file) {
	.attr.offset = -GMEM_PAGE_SIZE,
	.attr.size = 2 * GMEM_PAGE_SIZE,
};

FIXTURE_VARIANT_ADD(argument, size_is_negative) {
	.attr.size = 1ULL << 63,
};

FIXTURE_VARIANT_ADD(argument, offset_is_negative) {
	.attr.offset = 1ULL << 63,
	.attr.size = GMEM_PAGE_SIZE,
};

FIXTURE_VARIANT_ADD(argument, offset_at_end_of_file) {
	.attr.offset = FILE_SIZE,
	.attr.size = GMEM_PAGE_SIZE,
};

FIXTURE_VARIANT_ADD(argument, offset_past_end_of_file) {
	.attr.offset = 2 * FILE_SIZE,
	.attr.size = GMEM_PAGE_SIZE,
};

FIXTURE_VARIANT_ADD(argument, range_past_end_of_file) {
	.attr.size = FILE_SIZE + GMEM_PAGE_SIZE,
};

FIXTURE_VARIANT_ADD(argument, unknown_attribute_low) {
	.attr.size = FILE_SIZE,
	.attr.attributes = BIT_ULL(0),
};

FIXTURE_VARIANT_ADD(argument, unknown_attribute_high) {
	.attr.size = FILE_SIZE,
	.attr.attributes = BIT_ULL(63),
};

FIXTURE_VARIANT_ADD(argument, flags_low) {
	.attr.size = FILE_SIZE,
	.attr.flags = BIT_ULL(0),
};

FIXTURE_VARIANT_ADD(argument, flags_high) {
	.attr.size = FILE_SIZE,
	.attr.flags = BIT_ULL(63),
};

FIXTURE_VARIANT_ADD(argument, reserved_first) {
	.attr.size = FILE_SIZE,
	.attr.reserved[0] = 1,
};

FIXTURE_VARIANT_ADD(argument, reserved_last) {
	.attr.size = FILE_SIZE,
	.attr.reserved[10] = BIT_ULL(63),
};

TEST_F(argument, is_einval)
{
	struct kvm_memory_attributes2 attr = variant->attr;

	EXPECT_EQ(EINVAL, set_attributes2(self->fd, attr));
	attr.attributes |= self->attributes;
	EXPECT_EQ(EINVAL, set_attributes2(self->fd, attr));

	EXPECT_EQ(0, gmem_fdinfo(self->fd, "private"));
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
