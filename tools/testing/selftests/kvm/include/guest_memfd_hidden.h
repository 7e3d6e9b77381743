/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest_memfd whose pages are not in the kernel's direct map.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_HIDDEN_H
#define SELFTEST_KVM_GUEST_MEMFD_HIDDEN_H

#include <sys/syscall.h>
#include <unistd.h>

#include "guest_memfd_util.h"
#include "kvm_util.h"
#include "ucall_common.h"

#define HIDDEN		(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED | \
			 GUEST_MEMFD_FLAG_NO_DIRECT_MAP)

static inline bool can_hide(struct kvm_vm *vm)
{
	return vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS) &
	       GUEST_MEMFD_FLAG_NO_DIRECT_MAP;
}

/* With private memory, if there is such a type. */
static inline struct kvm_vm *create_vm(void)
{
#ifdef __x86_64__
	if (gmem_can_convert())
		return vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
#endif
	return vm_create_barebones();
}

/* The other file of the kind, or -1. */
static inline int create_secret(u64 size)
{
	int fd = syscall(__NR_memfd_secret, 0);

	TEST_ASSERT(fd < 0 || !ftruncate(fd, size), "ftruncate() failed");
	return fd;
}

/* Up to its next GUEST_SYNC1(), of which it returns the value. */
static inline u64 run_to_sync(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, UCALL_EXIT_REASON);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
	return uc.args[0];
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_HIDDEN_H */
