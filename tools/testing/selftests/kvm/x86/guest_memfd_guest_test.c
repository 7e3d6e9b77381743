// SPDX-License-Identifier: GPL-2.0-only
/*
 * Conversions of a guest_memfd under a guest: both see the same bytes while
 * the page is shared, and nothing is lost when it is not.
 *
 * The VM is a KVM_X86_SW_PROTECTED_VM, where the state of a page decides how
 * the guest's access is treated, so that no access is ever a mismatch.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>

#include <linux/kvm_para.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_serve.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define LEGACY_SLOT	(TRACKING_SLOT + 1)
#define LEGACY_GPA	(TRACKING_GPA + SZ_1G)

#define NR_PAGES	(SZ_4M / GMEM_PAGE_SIZE)

/* The guest asks for both directions by KVM_HC_MAP_GPA_RANGE. */
#define MAP_SHARED_PAGE		0
#define MAP_PRIVATE_PAGE	1

FIXTURE(guest) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	u8 *mem;
};

FIXTURE_SETUP(guest)
{
	if (!gmem_can_convert())
		SKIP(return, "no KVM_X86_SW_PROTECTED_VM");

	self->fd = create_served(&self->vm, &self->vcpu, NR_PAGES);
	self->mem = kvm_mmap(NR_PAGES * GMEM_PAGE_SIZE, PROT_READ | PROT_WRITE,
			     MAP_SHARED, self->fd);
}

FIXTURE_TEARDOWN(guest)
{
	kvm_munmap(self->mem, NR_PAGES * GMEM_PAGE_SIZE);
	close(self->fd);
	kvm_vm_free(self->vm);
}

#define page(n)		(self->mem + (n) * GMEM_PAGE_SIZE)
#define gpa(n)		(TRACKING_GPA + (n) * GMEM_PAGE_SIZE)

/*
 * Content
 */

TEST_F(guest, shared_page_is_the_same_for_both)
{
	gmem_poke(page(5), 0x55);
	EXPECT_EQ(0x55, guest_read(self->vcpu, gpa(5)));
	guest_write(self->vcpu, gpa(5), 0x66);
	EXPECT_EQ(0x66, gmem_peek(page(5)));
}

TEST_F(guest, payload_written_while_shared_is_there_when_private)
{
	gmem_poke(page(5), 0x55);
	gmem_pages_to_private(self->fd, 5, 1);

	EXPECT_EQ(0x55, guest_read(self->vcpu, gpa(5)));
}

TEST_F(guest, content_of_a_mapped_page_is_kept_both_ways)
{
	guest_write(self->vcpu, gpa(5), 0x11);
	gmem_pages_to_private(self->fd, 5, 1);
	EXPECT_EQ(0x11, guest_read(self->vcpu, gpa(5)));

	guest_write(self->vcpu, gpa(5), 0x22);
	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(page(5)));
	gmem_pages_to_shared(self->fd, 5, 1);
	EXPECT_EQ(0x22, gmem_peek(page(5)));
	EXPECT_EQ(0x22, guest_read(self->vcpu, gpa(5)));
}

TEST_F(guest, page_that_only_the_guest_had_is_shown_when_shared)
{
	gmem_pages_to_private(self->fd, 5, 1);
	guest_write(self->vcpu, gpa(5), 0x55);
	gmem_pages_to_shared(self->fd, 5, 1);

	EXPECT_EQ(0x55, gmem_peek(page(5)));
	EXPECT_EQ(0, gmem_peek(page(5) + 1));
}

TEST_F(guest, hole_under_a_mapped_private_page_is_zero)
{
	gmem_pages_to_private(self->fd, 5, 1);
	guest_write(self->vcpu, gpa(5), 0x55);
	gmem_punch_pages(self->fd, 5, 1);

	EXPECT_EQ(0, guest_read(self->vcpu, gpa(5)));
	guest_write(self->vcpu, gpa(5), 0x66);
	gmem_pages_to_shared(self->fd, 5, 1);
	EXPECT_EQ(0x66, gmem_peek(page(5)));
}

/* The guest cannot tell: it gets the page back when it touches it. */
TEST_F(guest, conversion_unmaps_just_that_page_from_the_guest)
{
	u64 nr_mapped;

	/* Pages of one kind only, out of a block, would be mapped together. */
	gmem_pages_to_private(self->fd, 0, 1);
	guest_write(self->vcpu, gpa(4), 0x44);
	guest_write(self->vcpu, gpa(5), 0x55);
	nr_mapped = vm_get_stat(self->vm, pages_4k);

	gmem_pages_to_private(self->fd, 5, 1);
	EXPECT_EQ(nr_mapped - 1, vm_get_stat(self->vm, pages_4k));
	guest_read(self->vcpu, gpa(5));
	EXPECT_EQ(nr_mapped, vm_get_stat(self->vm, pages_4k));

	gmem_pages_to_shared(self->fd, 5, 1);
	EXPECT_EQ(nr_mapped - 1, vm_get_stat(self->vm, pages_4k));
	guest_read(self->vcpu, gpa(5));
	EXPECT_EQ(nr_mapped, vm_get_stat(self->vm, pages_4k));
}

TEST_F(guest, prefault_takes_private_and_shared_pages)
{
	struct kvm_pre_fault_memory range = {
		.gpa = TRACKING_GPA,
		.size = 16 * GMEM_PAGE_SIZE,
	};

	gmem_pages_to_private(self->fd, 4, 4);
	while (range.size)
		vcpu_ioctl(self->vcpu, KVM_PRE_FAULT_MEMORY, &range);
	EXPECT_EQ(gmem_whole_blocks(16), gmem_fdinfo(self->fd, "allocated"));

	gmem_pages_to_private(self->fd, 0, 16);
	guest_write(self->vcpu, gpa(0), 0x55);
	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(page(0)));
}

/*
 * Many conversions, asked for by the guest.  Page by page, in an order that
 * touches every unit of the file:
 *
 *	guest	finds what the host has written, makes the page private
 *	host	cannot see it
 *	guest	still finds what the host has written, writes its own,
 *		makes the page shared
 *	host	finds what the guest has written, writes to the next page
 */
#define NR_ROUNDS	500

#define round_page(i)	((i) * 389 % NR_PAGES)
#define host_stamp(i)	(0x10000 + (i))
#define guest_stamp(i)	(0x20000 + (i))

static void guest_ping_pong(void)
{
	u64 i;

	for (i = 0; i < NR_ROUNDS; i++) {
		void *mem = (void *)gpa(round_page(i));

		GUEST_ASSERT(gmem_has_stamp(mem, host_stamp(i)));
		kvm_hypercall_map_gpa_range((gpa_t)mem, GMEM_PAGE_SIZE,
					    MAP_PRIVATE_PAGE);
		GUEST_ASSERT(gmem_has_stamp(mem, host_stamp(i)));
		gmem_stamp(mem, guest_stamp(i));
		kvm_hypercall_map_gpa_range((gpa_t)mem, GMEM_PAGE_SIZE,
					    MAP_SHARED_PAGE);
	}
	GUEST_DONE();
}

/* Returns what the guest has asked for. */
static u64 handle_conversion(struct kvm_vcpu *vcpu, int fd)
{
	struct kvm_run *run = vcpu->run;
	u64 first, wanted;

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_HYPERCALL);
	TEST_ASSERT_EQ(run->hypercall.nr, KVM_HC_MAP_GPA_RANGE);

	first = (run->hypercall.args[0] - TRACKING_GPA) / GMEM_PAGE_SIZE;
	wanted = run->hypercall.args[2];
	if (wanted == MAP_PRIVATE_PAGE)
		gmem_pages_to_private(fd, first, run->hypercall.args[1]);
	else
		gmem_pages_to_shared(fd, first, run->hypercall.args[1]);
	run->hypercall.ret = 0;

	return wanted;
}

static void run_guest(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	if (vcpu->run->exit_reason == KVM_EXIT_IO &&
	    get_ucall(vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
}

TEST_F(guest, both_see_the_same_bytes_through_1000_conversions)
{
	struct ucall uc;
	u64 i, n;

	vm_enable_cap(self->vm, KVM_CAP_EXIT_HYPERCALL, BIT(KVM_HC_MAP_GPA_RANGE));
	vcpu_arch_set_entry_point(self->vcpu, guest_ping_pong);

	for (i = 0; i < NR_ROUNDS; i++) {
		n = round_page(i);
		gmem_stamp(page(n), host_stamp(i));

		run_guest(self->vcpu);
		ASSERT_EQ(MAP_PRIVATE_PAGE, handle_conversion(self->vcpu, self->fd));
		ASSERT_EQ(GMEM_SIGBUS, gmem_peek(page(n)));
		ASSERT_EQ(1, gmem_fdinfo(self->fd, "private"));

		run_guest(self->vcpu);
		ASSERT_EQ(MAP_SHARED_PAGE, handle_conversion(self->vcpu, self->fd));
		ASSERT_TRUE(gmem_has_stamp(page(n), guest_stamp(i)));
	}

	run_guest(self->vcpu);
	EXPECT_EQ(UCALL_DONE, get_ucall(self->vcpu, &uc));
}

/*
 * Conversions while the guest runs.  It adds one to a few pages in turn; the
 * host converts them all the time.  A vCPU that faults in a page must neither
 * lose an addition nor make a conversion fail.
 *
 * A fault that finds the page in one state and, a moment later, in the other
 * is tried again: it is not the guest who is wrong about the page.
 */
#define NR_COUNTERS	16
#define NR_FLIPS	100

static bool stop_counting;

static void guest_count(void)
{
	u64 i = 0;

	while (!READ_ONCE(stop_counting)) {
		u64 *counter = (u64 *)gpa(i++ % NR_COUNTERS);

		WRITE_ONCE(*counter, READ_ONCE(*counter) + 1);
	}
	GUEST_SYNC1(i);
}

/* A conversion must never look like an access of the wrong kind. */
static void *run_without_exits(void *arg)
{
	vcpu_run(arg);
	return NULL;
}

TEST_F(guest, conversion_while_the_guest_uses_the_pages)
{
	u64 *counter = (u64 *)page(0);
	u64 i, seen, sum = 0, last = 0;
	pthread_t thread;
	struct ucall uc;

	vcpu_arch_set_entry_point(self->vcpu, guest_count);
	kvm_pthread_create(&thread, NULL, run_without_exits, self->vcpu);

	/* However slowly the guest gets on, it does so meanwhile. */
	for (i = 0; i < NR_FLIPS || last < NR_FLIPS; i++) {
		gmem_pages_to_private(self->fd, 0, NR_COUNTERS);
		gmem_pages_to_shared(self->fd, 0, NR_COUNTERS);

		seen = READ_ONCE(*counter);
		EXPECT_LE(last, seen);
		last = seen;
	}

	stop_counting = true;
	sync_global_to_guest(self->vm, stop_counting);
	kvm_pthread_join(thread, NULL);

	ASSERT_EQ(UCALL_SYNC, get_ucall(self->vcpu, &uc));
	for (i = 0; i < NR_COUNTERS; i++)
		sum += *(u64 *)page(i);
	EXPECT_EQ(uc.args[0], sum);
}

/*
 * Memslots
 */

TEST_F(guest, memslot_deleted_and_made_again_finds_states_and_content)
{
	gmem_poke(page(4), 0x44);
	gmem_pages_to_private(self->fd, 5, 1);
	guest_write(self->vcpu, gpa(5), 0x55);

	delete_slot(self->vm);
	EXPECT_EQ(1, gmem_fdinfo(self->fd, "private"));
	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(page(5)));

	set_slot(self->vm, NR_PAGES, self->fd, 0);
	EXPECT_EQ(0x44, guest_read(self->vcpu, gpa(4)));
	EXPECT_EQ(0x55, guest_read(self->vcpu, gpa(5)));
	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(page(5)));
}

TEST_F(guest, conversion_without_a_memslot_counts_once_there_is_one)
{
	delete_slot(self->vm);
	gmem_poke(page(5), 0x55);
	gmem_pages_to_private(self->fd, 5, 1);
	set_slot(self->vm, NR_PAGES, self->fd, 0);

	EXPECT_EQ(0x55, guest_read(self->vcpu, gpa(5)));
	guest_write(self->vcpu, gpa(5), 0x66);
	gmem_pages_to_shared(self->fd, 5, 1);
	EXPECT_EQ(0x66, gmem_peek(page(5)));
}

TEST_F(guest, memslot_may_start_inside_the_file)
{
	delete_slot(self->vm);
	set_slot(self->vm, 8, self->fd, 100);
	gmem_poke(page(103), 0x55);
	guest_write(self->vcpu, gpa(4), 0x66);

	gmem_pages_to_private(self->fd, 103, 1);
	EXPECT_EQ(0x55, guest_read(self->vcpu, gpa(3)));
	EXPECT_EQ(0x66, gmem_peek(page(104)));

	guest_write(self->vcpu, gpa(3), 0x77);
	gmem_pages_to_shared(self->fd, 103, 1);
	EXPECT_EQ(0x77, gmem_peek(page(103)));
}

TEST_F(guest, mapping_keeps_a_closed_file_for_the_guest)
{
	close(self->fd);

	guest_write(self->vcpu, gpa(5), 0x55);
	EXPECT_EQ(0x55, gmem_peek(page(5)));
}

TEST_F(guest, access_after_the_file_is_gone_is_a_memory_fault_exit)
{
	struct kvm_run *run = self->vcpu->run;

	guest_write(self->vcpu, gpa(5), 0x55);
	kvm_munmap(self->mem, NR_PAGES * GMEM_PAGE_SIZE);
	close(self->fd);

	ASSERT_EQ(-1, send_request(self->vcpu, gpa(5), false, 0));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(KVM_EXIT_MEMORY_FAULT, run->exit_reason);
	EXPECT_EQ(gpa(5), run->memory_fault.gpa);
	EXPECT_EQ(GMEM_PAGE_SIZE, run->memory_fault.size);
	EXPECT_EQ(0, run->memory_fault.flags);
}

TEST_F(guest, access_without_a_memslot_is_mmio)
{
	delete_slot(self->vm);

	EXPECT_EQ(0, send_request(self->vcpu, gpa(5), true, 0x55));
	EXPECT_EQ(KVM_EXIT_MMIO, self->vcpu->run->exit_reason);
	EXPECT_EQ(gpa(5), self->vcpu->run->mmio.phys_addr);
}

/* The vCPU must not be caught by what it remembers of the MMIO. */
TEST_F(guest, private_memory_is_found_where_mmio_was)
{
	delete_slot(self->vm);
	gmem_poke(page(5), 0x55);
	gmem_pages_to_private(self->fd, 5, 1);

	ASSERT_EQ(0, send_request(self->vcpu, gpa(5), false, 0));
	ASSERT_EQ(KVM_EXIT_MMIO, self->vcpu->run->exit_reason);
	memset(self->vcpu->run->mmio.data, 0xff, sizeof(self->vcpu->run->mmio.data));
	vcpu_run(self->vcpu);
	EXPECT_EQ(0xff, get_reply(self->vcpu));

	set_slot(self->vm, NR_PAGES, self->fd, 0);
	EXPECT_EQ(0x55, guest_read(self->vcpu, gpa(5)));
}

/*
 * Both models in one VM
 */

static void add_legacy_slot(struct kvm_vm *vm)
{
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, LEGACY_GPA,
				    LEGACY_SLOT, NR_PAGES, KVM_MEM_GUEST_MEMFD);
	virt_map(vm, LEGACY_GPA, LEGACY_GPA, NR_PAGES);
}

static int set_vm_attributes(struct kvm_vm *vm, u64 gpa, u64 size, u64 attributes)
{
	struct kvm_memory_attributes attr = {
		.address = gpa,
		.size = size,
		.attributes = attributes,
	};

	return __vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &attr) ? errno : 0;
}

TEST_F(guest, legacy_memslot_beside_it_follows_the_vm_wide_attributes)
{
	u8 *legacy;

	add_legacy_slot(self->vm);
	legacy = addr_gpa2hva(self->vm, LEGACY_GPA);
	guest_write(self->vcpu, LEGACY_GPA, 0x11);

	/* Two pools: the private page is another one, the shared one stays. */
	vm_mem_set_private(self->vm, LEGACY_GPA, GMEM_PAGE_SIZE);
	EXPECT_EQ(0, guest_read(self->vcpu, LEGACY_GPA));
	guest_write(self->vcpu, LEGACY_GPA, 0x22);
	EXPECT_EQ(0x11, gmem_peek(legacy));

	vm_mem_set_shared(self->vm, LEGACY_GPA, GMEM_PAGE_SIZE);
	EXPECT_EQ(0x11, guest_read(self->vcpu, LEGACY_GPA));
}

/* With others around it memory would be there twice: here, and where it is shared. */
TEST_F(guest, private_page_of_a_file_without_states_comes_by_itself)
{
	const u64 flags = vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS) &
			  GUEST_MEMFD_FLAG_NO_DIRECT_MAP;
	const u64 size = NR_PAGES * GMEM_PAGE_SIZE;
	int fd = vm_create_guest_memfd(self->vm, size, flags);

	vm_mem_add(self->vm, VM_MEM_SRC_ANONYMOUS, LEGACY_GPA, LEGACY_SLOT,
		   NR_PAGES, KVM_MEM_GUEST_MEMFD, fd, 0);
	virt_map(self->vm, LEGACY_GPA, LEGACY_GPA, NR_PAGES);
	vm_mem_set_private(self->vm, LEGACY_GPA, size);

	guest_write(self->vcpu, LEGACY_GPA + 5 * GMEM_PAGE_SIZE, 0x22);
	EXPECT_EQ(1, gmem_fdinfo(fd, "allocated"));
}

TEST_F(guest, neither_model_touches_the_other)
{
	add_legacy_slot(self->vm);
	guest_write(self->vcpu, LEGACY_GPA, 0x11);
	guest_write(self->vcpu, gpa(0), 0x22);

	gmem_pages_to_private(self->fd, 0, NR_PAGES);
	EXPECT_EQ(0x11, guest_read(self->vcpu, LEGACY_GPA));
	EXPECT_EQ(0x22, guest_read(self->vcpu, gpa(0)));
	gmem_pages_to_shared(self->fd, 0, NR_PAGES);

	vm_mem_set_private(self->vm, LEGACY_GPA, NR_PAGES * GMEM_PAGE_SIZE);
	EXPECT_EQ(0x22, guest_read(self->vcpu, gpa(0)));
	EXPECT_EQ(0x22, gmem_peek(page(0)));
	EXPECT_EQ(0, gmem_fdinfo(self->fd, "private"));
}

TEST_F(guest, vm_wide_private_over_the_memslot_is_einval)
{
	const u64 size = NR_PAGES * GMEM_PAGE_SIZE;

	EXPECT_EQ(EINVAL, set_vm_attributes(self->vm, gpa(5), GMEM_PAGE_SIZE,
					    KVM_MEMORY_ATTRIBUTE_PRIVATE));
	EXPECT_EQ(EINVAL, set_vm_attributes(self->vm, gpa(0) - size, size + GMEM_PAGE_SIZE,
					    KVM_MEMORY_ATTRIBUTE_PRIVATE));
	EXPECT_EQ(EINVAL, set_vm_attributes(self->vm, gpa(NR_PAGES - 1), size,
					    KVM_MEMORY_ATTRIBUTE_PRIVATE));
}

TEST_F(guest, vm_wide_private_right_beside_the_memslot_is_taken)
{
	EXPECT_EQ(0, set_vm_attributes(self->vm, gpa(0) - GMEM_PAGE_SIZE, GMEM_PAGE_SIZE,
				       KVM_MEMORY_ATTRIBUTE_PRIVATE));
	EXPECT_EQ(0, set_vm_attributes(self->vm, gpa(NR_PAGES), GMEM_PAGE_SIZE,
				       KVM_MEMORY_ATTRIBUTE_PRIVATE));
}

TEST_F(guest, vm_wide_shared_over_the_memslot_is_taken_and_does_nothing)
{
	gmem_pages_to_private(self->fd, 5, 1);

	EXPECT_EQ(0, set_vm_attributes(self->vm, gpa(0), NR_PAGES * GMEM_PAGE_SIZE, 0));
	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(page(5)));
}

TEST_F(guest, memslot_over_vm_wide_private_is_einval)
{
	delete_slot(self->vm);
	vm_mem_set_private(self->vm, gpa(NR_PAGES - 1), GMEM_PAGE_SIZE);

	EXPECT_EQ(-1, __set_slot(self->vm, NR_PAGES, self->fd, 0));
	EXPECT_EQ(EINVAL, errno);

	vm_mem_set_shared(self->vm, gpa(NR_PAGES - 1), GMEM_PAGE_SIZE);
	EXPECT_EQ(0, __set_slot(self->vm, NR_PAGES, self->fd, 0));
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
