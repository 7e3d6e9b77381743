// SPDX-License-Identifier: GPL-2.0-only
/*
 * Whether a guest_memfd can be kept out of the direct map depends on the machine:
 * KVM says so, and refuses such a file where it has said no.
 *
 * GUEST_MEMFD_EXPECT_NO_DIRECT_MAP=0 or =1 says what it should say on this one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_hidden.h"
#include "guest_memfd_util.h"
#include "kvm_util.h"
#include "test_util.h"

static const char *expectation(void)
{
	return getenv("GUEST_MEMFD_EXPECT_NO_DIRECT_MAP");
}

static bool expect_flag(void)
{
	return !strcmp(expectation(), "1");
}

/* Of KVM, before there is a VM. */
TEST(flag_is_advertised_by_kvm_where_it_should_be)
{
	if (!expectation())
		SKIP(return, "needs GUEST_MEMFD_EXPECT_NO_DIRECT_MAP");

	EXPECT_EQ(expect_flag(), !!(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) &
				    GUEST_MEMFD_FLAG_NO_DIRECT_MAP));
}

FIXTURE(vm) {
	struct kvm_vm *vm;
};

FIXTURE_VARIANT(vm) {
	unsigned long type;
};

FIXTURE_VARIANT_ADD(vm, default) { .type = VM_TYPE_DEFAULT };
#ifdef __x86_64__
FIXTURE_VARIANT_ADD(vm, sw_protected) { .type = KVM_X86_SW_PROTECTED_VM };
#endif

FIXTURE_SETUP(vm)
{
	self->vm = vm_create_barebones_type(variant->type);
}

FIXTURE_TEARDOWN(vm)
{
	kvm_vm_free(self->vm);
}

TEST_F(vm, flag_is_advertised_where_it_should_be)
{
	if (!expectation())
		SKIP(return, "needs GUEST_MEMFD_EXPECT_NO_DIRECT_MAP");

	EXPECT_EQ(expect_flag(), !!can_hide(self->vm));
}

TEST_F(vm, file_is_created_where_the_flag_is_advertised)
{
	int fd = __vm_create_guest_memfd(self->vm, GMEM_PAGE_SIZE, HIDDEN);

	if (!can_hide(self->vm)) {
		EXPECT_EQ(-1, fd);
		EXPECT_EQ(EOPNOTSUPP, errno);
		return;
	}
	EXPECT_LE(0, fd);
	close(fd);
}

TEST_HARNESS_MAIN
