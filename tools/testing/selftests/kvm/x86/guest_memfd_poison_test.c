// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory of a guest_memfd that breaks, alone and while something else goes on.
 *
 * Pages are broken through hwpoison-inject, by their number, so it does not
 * take a mapping.  They are lost to the system.
 */
#include <fcntl.h>
#include <stdlib.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_serve.h"
#include "guest_memfd_stall.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define NR_PAGES	(SZ_4M / GMEM_PAGE_SIZE)

/*
 * A guest with a memslot over a file that is all shared.  Page 5, the one that
 * is to break, is there; it is not in the page tables of anyone.
 */
FIXTURE(poison) {
	struct gmem_pool_counts before;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	u8 *mem;
	u64 pfn;
};

FIXTURE_SETUP(poison)
{
	if (!gmem_can_convert())
		SKIP(return, "no KVM_X86_SW_PROTECTED_VM");
	if (access(GMEM_CORRUPT_PFN, W_OK))
		SKIP(return, "no CONFIG_HWPOISON_INJECT");

	if (gmem_has_blocks())
		self->before = gmem_pool_count(gmem_block_size());
	self->fd = create_served(&self->vm, &self->vcpu, NR_PAGES);
	self->mem = gmem_map_pages(self->fd, NR_PAGES);

	gmem_poke(self->mem + 5 * GMEM_PAGE_SIZE, 0x55);
	self->pfn = gmem_pfn(self->mem + 5 * GMEM_PAGE_SIZE);
	gmem_forget_mapping(self->mem, NR_PAGES);
}

/*
 * Each test breaks page 5 and no other.  Its block is not in the pool any more, and
 * the page is nowhere where it could be taken from.
 */
#define EXPECT_BLOCK_LOST(self) do {						\
	struct gmem_pool_counts _want = (self)->before;				\
	u64 _flags;								\
										\
	_want.nr--;								\
	_want.free--;								\
	EXPECT_TRUE(gmem_pool_becomes(gmem_block_size(), _want));		\
	_flags = gmem_page_flags((self)->pfn);					\
	EXPECT_TRUE(_flags & BIT(KPF_HWPOISON));				\
	EXPECT_FALSE(_flags & (BIT(KPF_HUGE) | BIT(KPF_BUDDY)));		\
} while (0)

FIXTURE_TEARDOWN(poison)
{
	stall_release_all();
	if (self->mem)
		kvm_munmap(self->mem, NR_PAGES * GMEM_PAGE_SIZE);
	if (self->fd >= 0)
		close(self->fd);
	if (self->vm)
		kvm_vm_free(self->vm);
	if (self->pfn && gmem_has_blocks())
		EXPECT_BLOCK_LOST(self);
}

#define page(n)		(self->mem + (n) * GMEM_PAGE_SIZE)
#define gpa(n)		(TRACKING_GPA + (n) * GMEM_PAGE_SIZE)

/* Views are told soon, not at once. */
static bool guest_gets_ehwpoison(struct kvm_vcpu *vcpu, u64 gpa)
{
	int i;

	for (i = 0; i < STALL_TRIES; i++) {
		if (send_request(vcpu, gpa, false, 0))
			return errno == EHWPOISON;
		get_reply(vcpu);
		usleep(STALL_TRY_USECS);
	}
	return false;
}

static long make_page_5_private(void *fd)
{
	return gmem_pages_try_private(*(int *)fd, 5, 1, NULL);
}

static long punch_page_5(void *fd)
{
	gmem_punch_pages(*(int *)fd, 5, 1);
	return 0;
}

/*
 * Alone
 */

TEST_F(poison, broken_page_is_taken_from_a_guest_that_has_it_mapped)
{
	EXPECT_EQ(0x55, guest_read(self->vcpu, gpa(5)));
	gmem_break_pfn(self->pfn);

	EXPECT_TRUE(guest_gets_ehwpoison(self->vcpu, gpa(5)));
}

TEST_F(poison, broken_private_page_is_taken_from_a_guest_that_has_it_mapped)
{
	gmem_pages_to_private(self->fd, 5, 1);
	EXPECT_EQ(0x55, guest_read(self->vcpu, gpa(5)));
	gmem_break_pfn(self->pfn);

	EXPECT_TRUE(guest_gets_ehwpoison(self->vcpu, gpa(5)));
}

TEST_F(poison, guest_goes_on_beside_a_broken_page)
{
	guest_write(self->vcpu, gpa(4), 0x44);
	gmem_break_pfn(self->pfn);

	EXPECT_EQ(0x44, guest_read(self->vcpu, gpa(4)));
	EXPECT_EQ(0, guest_read(self->vcpu, gpa(6)));
}

TEST_F(poison, broken_page_that_user_space_has_mapped_is_not_made_private)
{
	gmem_peek(page(5));
	gmem_break_pfn(self->pfn);

	EXPECT_EQ(EHWPOISON, gmem_pages_try_private(self->fd, 4, 4, NULL));
	EXPECT_EQ(0, gmem_fdinfo(self->fd, "private"));
}

TEST_F(poison, hole_replaces_a_broken_page)
{
	gmem_break_pfn(self->pfn);
	gmem_punch_pages(self->fd, 5, 1);

	EXPECT_EQ(0, guest_read(self->vcpu, gpa(5)));
	EXPECT_EQ(0, gmem_pages_try_private(self->fd, 5, 1, NULL));
}

/*
 * While something else goes on.  memory_failure() holds the folio lock when it
 * comes here: if it waited for a hole or for a conversion, they would wait for
 * each other.
 */

TEST_F(poison, memory_failure_does_not_wait_for_a_hole)
{
	struct job hole, failure;

	if (!stall_is_supported())
		SKIP(return, "no CONFIG_GUEST_MEMFD_STALL");

	stall_arm("remove");
	job_start(&hole, punch_page_5, &self->fd);
	ASSERT_TRUE(stall_is_reached("remove"));
	job_start(&failure, gmem_break_pfn_job, &self->pfn);
	EXPECT_TRUE(job_gets_done(&failure));

	stall_release("remove");
	job_wait(&hole);
	job_wait(&failure);
	EXPECT_EQ(0, guest_read(self->vcpu, gpa(5)));
}

TEST_F(poison, memory_failure_does_not_wait_for_a_conversion)
{
	struct job conversion, failure;

	if (!stall_is_supported())
		SKIP(return, "no CONFIG_GUEST_MEMFD_STALL");

	stall_arm("begun");
	job_start(&conversion, make_page_5_private, &self->fd);
	ASSERT_TRUE(stall_is_reached("begun"));
	job_start(&failure, gmem_break_pfn_job, &self->pfn);
	EXPECT_TRUE(job_gets_done(&failure));

	stall_release("begun");
	job_wait(&failure);
	EXPECT_EQ(EHWPOISON, job_wait(&conversion));
}

/* It is too late to refuse: the guest gets to know. */
TEST_F(poison, page_that_breaks_after_the_check_is_private_and_broken)
{
	struct job conversion;

	if (!stall_is_supported())
		SKIP(return, "no CONFIG_GUEST_MEMFD_STALL");

	stall_arm("checked");
	job_start(&conversion, make_page_5_private, &self->fd);
	ASSERT_TRUE(stall_is_reached("checked"));
	gmem_break_pfn(self->pfn);
	EXPECT_TRUE(stall_has_waiter("checked"));

	stall_release("checked");
	EXPECT_EQ(0, job_wait(&conversion));
	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(page(5)));
	EXPECT_TRUE(guest_gets_ehwpoison(self->vcpu, gpa(5)));
}

/* The mapping stays until KVM is told; then it is gone for good. */
TEST_F(poison, guest_loses_a_broken_page_when_views_are_told)
{
	if (!stall_is_supported())
		SKIP(return, "no CONFIG_GUEST_MEMFD_STALL");

	EXPECT_EQ(0x55, guest_read(self->vcpu, gpa(5)));
	stall_arm("poison");
	gmem_break_pfn(self->pfn);
	ASSERT_TRUE(stall_is_reached("poison"));
	EXPECT_EQ(0x55, guest_read(self->vcpu, gpa(5)));

	stall_release("poison");
	EXPECT_TRUE(guest_gets_ehwpoison(self->vcpu, gpa(5)));
}

/* A fault that began before the page broke. */
TEST_F(poison, vcpu_that_has_found_a_page_loses_it_when_it_breaks)
{
	struct guest_access access = { self->vcpu, gpa(5) };
	struct job guest;

	if (!stall_is_supported())
		SKIP(return, "no CONFIG_GUEST_MEMFD_STALL");

	stall_arm("get_pfn");
	job_start(&guest, read_in_guest, &access);
	ASSERT_TRUE(stall_is_reached("get_pfn"));
	gmem_break_pfn(self->pfn);
	EXPECT_TRUE(stall_has_waiter("get_pfn"));

	stall_release("get_pfn");
	/* Views may be told before it maps the page, or after. */
	job_wait(&guest);
	EXPECT_TRUE(guest_gets_ehwpoison(self->vcpu, gpa(5)));
}

TEST_F(poison, file_may_be_gone_before_views_are_told)
{
	if (!stall_is_supported())
		SKIP(return, "no CONFIG_GUEST_MEMFD_STALL");

	stall_arm("poison");
	gmem_break_pfn(self->pfn);
	ASSERT_TRUE(stall_is_reached("poison"));

	kvm_munmap(self->mem, NR_PAGES * GMEM_PAGE_SIZE);
	close(self->fd);
	kvm_vm_free(self->vm);
	self->mem = NULL;
	self->fd = -1;
	self->vm = NULL;
	EXPECT_TRUE(stall_has_waiter("poison"));

	stall_release("poison");
}

/*
 * Without stopping anyone: a hole that takes long, and a page in it that
 * breaks meanwhile.
 */
#define BIG_PAGES	(SZ_32M / GMEM_PAGE_SIZE)
#define NR_BREAKS	4

struct big_hole {
	int fd;
	bool started;
};

static long punch_all(void *arg)
{
	struct big_hole *hole = arg;

	WRITE_ONCE(hole->started, true);
	gmem_punch_pages(hole->fd, 0, BIG_PAGES);
	return 0;
}

TEST(hole_and_memory_failure_do_not_wait_for_each_other)
{
	struct kvm_vm *vm = vm_create_barebones();
	struct big_hole hole = { };
	struct job job;
	u8 *mem, *last;
	u64 pfn;
	int i;

	if (access(GMEM_CORRUPT_PFN, W_OK))
		SKIP(return, "no CONFIG_HWPOISON_INJECT");

	hole.fd = gmem_create_file(vm, BIG_PAGES * GMEM_PAGE_SIZE,
				   GUEST_MEMFD_FLAG_MMAP |
				   GUEST_MEMFD_FLAG_INIT_SHARED);
	mem = gmem_map_pages(hole.fd, BIG_PAGES);

	for (i = 0; i < NR_BREAKS; i++) {
		kvm_fallocate(hole.fd, FALLOC_FL_KEEP_SIZE, 0,
			      BIG_PAGES * GMEM_PAGE_SIZE);
		/* The hole comes to it last. */
		last = mem + (BIG_PAGES - 1 - i) * GMEM_PAGE_SIZE;
		pfn = gmem_pfn(last);

		hole.started = false;
		job_start(&job, punch_all, &hole);
		while (!READ_ONCE(hole.started))
			usleep(100);
		gmem_break_pfn(pfn);
		job_wait(&job);
	}

	kvm_munmap(mem, BIG_PAGES * GMEM_PAGE_SIZE);
	close(hole.fd);
	kvm_vm_free(vm);
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
