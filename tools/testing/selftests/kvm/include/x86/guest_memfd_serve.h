/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest that reads and writes what it is told to, in memory of a
 * guest_memfd, and the memslot that it finds it in.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_SERVE_H
#define SELFTEST_KVM_GUEST_MEMFD_SERVE_H

#include "guest_memfd_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

/* Far from what the library uses, mapped 1:1 by the guest. */
#define TRACKING_SLOT	10
#define TRACKING_GPA	((u64)SZ_4G)

static struct {
	u64 gpa;
	bool write;
	u8 byte;
} request;

static inline void guest_serve(void)
{
	for (;;) {
		u8 *addr = (u8 *)READ_ONCE(request.gpa);

		if (READ_ONCE(request.write))
			WRITE_ONCE(*addr, READ_ONCE(request.byte));
		GUEST_SYNC1(READ_ONCE(*addr));
	}
}

static inline int send_request(struct kvm_vcpu *vcpu, u64 gpa, bool write, u8 byte)
{
	request.gpa = gpa;
	request.write = write;
	request.byte = byte;
	sync_global_to_guest(vcpu->vm, request);

	return _vcpu_run(vcpu);
}

static inline u8 get_reply(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
	return uc.args[0];
}

static inline u8 guest_read(struct kvm_vcpu *vcpu, u64 gpa)
{
	TEST_ASSERT(!send_request(vcpu, gpa, false, 0), "KVM_RUN failed");
	return get_reply(vcpu);
}

static inline void guest_write(struct kvm_vcpu *vcpu, u64 gpa, u8 byte)
{
	TEST_ASSERT(!send_request(vcpu, gpa, true, byte), "KVM_RUN failed");
	TEST_ASSERT_EQ(get_reply(vcpu), byte);
}

struct guest_access {
	struct kvm_vcpu *vcpu;
	u64 gpa;
};

/* For a thread: what the guest has read, or a negative errno. */
static inline long read_in_guest(void *arg)
{
	struct guest_access *access = arg;

	if (send_request(access->vcpu, access->gpa, false, 0))
		return -errno;
	if (access->vcpu->run->exit_reason != KVM_EXIT_IO)
		return -EIO;
	return get_reply(access->vcpu);
}

/*
 * Without a host address: if it were that of a mapping of the file, KVM would
 * also hear of a change from there, and a missing call from the file would go
 * unnoticed.
 */
static inline int __set_slot(struct kvm_vm *vm, u64 nr_pages, int fd, u64 first_page)
{
	return __vm_set_user_memory_region2(vm, TRACKING_SLOT,
					    KVM_MEM_GUEST_MEMFD, TRACKING_GPA,
					    nr_pages * GMEM_PAGE_SIZE, NULL, fd,
					    first_page * GMEM_PAGE_SIZE);
}

static inline void set_slot(struct kvm_vm *vm, u64 nr_pages, int fd, u64 first_page)
{
	TEST_ASSERT(!__set_slot(vm, nr_pages, fd, first_page),
		    "Cannot set the memslot");
}

static inline void delete_slot(struct kvm_vm *vm)
{
	set_slot(vm, 0, -1, 0);
}

/*
 * A VM with one vCPU that serves and, returned, a file that is all shared, with
 * a memslot over all of it.
 */
static inline int create_served(struct kvm_vm **vm, struct kvm_vcpu **vcpu,
				u64 nr_pages)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = KVM_X86_SW_PROTECTED_VM,
	};
	int fd;

	*vm = vm_create_shape_with_one_vcpu(shape, vcpu, guest_serve);
	fd = gmem_create_file(*vm, nr_pages * GMEM_PAGE_SIZE,
			      GUEST_MEMFD_FLAG_MMAP |
			      GUEST_MEMFD_FLAG_INIT_SHARED);
	set_slot(*vm, nr_pages, fd, 0);
	virt_map(*vm, TRACKING_GPA, TRACKING_GPA, nr_pages);

	return fd;
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_SERVE_H */
