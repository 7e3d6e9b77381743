// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of which guest_memfds each type of VM may have. No VM is run: some
 * types need hardware that most machines don't have.
 */
#include <kunit/test.h>

#include <linux/guest_memfd.h>
#include <linux/kvm_host.h>

static const struct vm_type {
	const char *name;
	unsigned long type;
	bool has_private_mem;
	bool may_start_shared;
	bool may_hide;
} vm_types[] = {
	{ "default", KVM_X86_DEFAULT_VM, false, true, true },
	{ "software-protected", KVM_X86_SW_PROTECTED_VM, true, true, true },
	{ "SEV", KVM_X86_SEV_VM, false, true, true },
	{ "SEV-ES", KVM_X86_SEV_ES_VM, false, true, true },
	{ "SEV-SNP", KVM_X86_SNP_VM, true, false, false },
	{ "TDX", KVM_X86_TDX_VM, true, false, false },
};

KUNIT_ARRAY_PARAM_DESC(vm_types, vm_types, name);

static u64 flags_of(struct kunit *test, const struct vm_type *vm_type)
{
	struct kvm *kvm = kunit_kzalloc(test, sizeof(*kvm), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, kvm);
	kvm->arch.vm_type = vm_type->type;
	kvm->arch.has_private_mem = vm_type->has_private_mem;
	return kvm_gmem_get_supported_flags(kvm);
}

static void memory_may_start_shared(struct kunit *test)
{
	const struct vm_type *vm_type = test->param_value;

	KUNIT_EXPECT_EQ(test, vm_type->may_start_shared,
			!!(flags_of(test, vm_type) & GUEST_MEMFD_FLAG_INIT_SHARED));
}

static void memory_may_be_out_of_the_direct_map(struct kunit *test)
{
	const struct vm_type *vm_type = test->param_value;

	if (!guest_memfd_supports_no_direct_map())
		kunit_skip(test, "this machine cannot change its direct map");

	KUNIT_EXPECT_EQ(test, vm_type->may_hide,
			!!(flags_of(test, vm_type) & GUEST_MEMFD_FLAG_NO_DIRECT_MAP));
}

static struct kunit_case guest_memfd_kvm_x86_cases[] = {
	KUNIT_CASE_PARAM(memory_may_start_shared, vm_types_gen_params),
	KUNIT_CASE_PARAM(memory_may_be_out_of_the_direct_map, vm_types_gen_params),
	{}
};

static struct kunit_suite guest_memfd_kvm_x86_suite = {
	.name = "guest_memfd_kvm_x86",
	.test_cases = guest_memfd_kvm_x86_cases,
};

kunit_test_suite(guest_memfd_kvm_x86_suite);
