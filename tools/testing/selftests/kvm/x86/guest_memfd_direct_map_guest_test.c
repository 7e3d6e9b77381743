// SPDX-License-Identifier: GPL-2.0-only
/*
 * What KVM keeps in the memory of a guest, and how it gets there when that is a
 * guest_memfd that is not in the kernel's direct map: it does not, and says so.
 */
#include <asm/kvm_para.h>
#include <asm/pvclock-abi.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_hidden.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"
#include "ucall_common.h"

#define SLOT		10
#define GPA		((u64)SZ_4G)
#define NR_PAGES	(SZ_64K / GMEM_PAGE_SIZE)

/*
 * A guest with a file that user space has mapped where the memslot says.
 */
FIXTURE(l1) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	u8 *mem;
};

FIXTURE_VARIANT(l1) {
	bool hidden;
};

/* Shows what the other one does not do. */
FIXTURE_VARIANT_ADD(l1, in_the_direct_map) { .hidden = false };
FIXTURE_VARIANT_ADD(l1, hidden) { .hidden = true };

FIXTURE_SETUP(l1)
{
	u64 flags = HIDDEN;

	self->vm = vm_create_with_one_vcpu(&self->vcpu, NULL);
	self->fd = -1;
	if (!can_hide(self->vm))
		SKIP(return, "this machine cannot change its direct map");
	if (!variant->hidden)
		flags &= ~GUEST_MEMFD_FLAG_NO_DIRECT_MAP;

	self->fd = gmem_create_file(self->vm, NR_PAGES * GMEM_PAGE_SIZE, flags);
	self->mem = gmem_map_pages(self->fd, NR_PAGES);
	vm_set_user_memory_region2(self->vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA,
				   NR_PAGES * GMEM_PAGE_SIZE, self->mem,
				   self->fd, 0);
	virt_map(self->vm, GPA, GPA, NR_PAGES);
}

FIXTURE_TEARDOWN(l1)
{
	kvm_vm_free(self->vm);
	if (self->fd >= 0) {
		kvm_munmap(self->mem, NR_PAGES * GMEM_PAGE_SIZE);
		kvm_close(self->fd);
	}
}

/*
 * The clock: KVM writes it each time before the guest runs
 */

static void guest_with_clock(void)
{
	struct pvclock_vcpu_time_info *clock = (void *)GPA;

	wrmsr(MSR_KVM_SYSTEM_TIME_NEW, GPA | KVM_MSR_ENABLED);
	for (;;)
		GUEST_SYNC1(READ_ONCE(clock->version));
}

TEST_F(l1, clock_is_written_where_kvm_can_write)
{
	vcpu_arch_set_entry_point(self->vcpu, guest_with_clock);
	run_to_sync(self->vcpu);
	EXPECT_EQ(!variant->hidden, !!run_to_sync(self->vcpu));
}

/*
 * VMCB of a nested guest
 */

#define NESTED		0x12

static void l2_code(void)
{
	GUEST_SYNC1(NESTED);
}

static void l1_code(struct svm_test_data *svm)
{
	generic_svm_setup(svm, l2_code);
	memcpy((void *)GPA, svm->vmcb, sizeof(*svm->vmcb));
	asm volatile("vmrun %[gpa]" : : [gpa] "a" (GPA) : "memory");
}

TEST_F(l1, nested_guest_runs_where_kvm_can_read)
{
	gva_t svm;

	if (!kvm_cpu_has(X86_FEATURE_SVM))
		SKIP(return, "no SVM");

	vcpu_arch_set_entry_point(self->vcpu, l1_code);
	vcpu_alloc_svm(self->vm, &svm);
	vcpu_args_set(self->vcpu, 1, svm);
	if (!variant->hidden) {
		EXPECT_EQ(NESTED, run_to_sync(self->vcpu));
		return;
	}

	vcpu_run(self->vcpu);
	EXPECT_EQ(KVM_EXIT_INTERNAL_ERROR, self->vcpu->run->exit_reason);
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
