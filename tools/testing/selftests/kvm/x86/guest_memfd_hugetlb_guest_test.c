// SPDX-License-Identifier: GPL-2.0-only
/*
 * How a guest's memory is mapped when its guest_memfd has huge pages: large
 * wherever state, block, memslot and alignment allow.
 *
 * KVM's statistics tell how many leaves of each size there are.
 */
#include <pthread.h>

#include "guest_memfd_cgroup.h"
#include "guest_memfd_harness.h"
#include "guest_memfd_hugetlb.h"
#include "guest_memfd_stall.h"
#include "guest_memfd_util.h"
#include "processor.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GPA	((u64)SZ_4G)
#define TEST_SIZE	((u64)SZ_1G)

#define PAGES_2M	(SZ_2M / GMEM_PAGE_SIZE)
#define PAGES_1G	(SZ_1G / GMEM_PAGE_SIZE)

static struct {
	u64 gpa;
	u64 nr_pages;
	bool call;
} request;

static void guest_touch(void)
{
	for (;;) {
		u64 gpa = READ_ONCE(request.gpa);
		u64 i, sum = 0;

		if (READ_ONCE(request.call))
			((void (*)(void))gpa)();
		for (i = 0; i < READ_ONCE(request.nr_pages); i++)
			sum += READ_ONCE(*(u8 *)(gpa + i * GMEM_PAGE_SIZE));
		GUEST_SYNC1(sum);
	}
}

struct leaves {
	long pages_4k;
	long pages_2m;
	long pages_1g;
};

FIXTURE(huge) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct gmem_pool_counts before;
	struct leaves base;
	int fd;
	u8 *mem;
};

GMEM_BLOCK_VARIANTS(huge);

static struct leaves count_leaves(struct kvm_vm *vm)
{
	return (struct leaves) {
		.pages_4k = vm_get_stat(vm, pages_4k),
		.pages_2m = vm_get_stat(vm, pages_2m),
		.pages_1g = vm_get_stat(vm, pages_1g),
	};
}

static void set_slot(struct kvm_vm *vm, u64 gpa, u64 size, int fd, u64 offset)
{
	TEST_ASSERT(!__vm_set_user_memory_region2(vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
						  gpa, size, NULL, fd, offset),
		    "Cannot set the memslot");
}

static void prepare_touch(struct kvm_vm *vm, u64 gpa, u64 nr_pages)
{
	request.gpa = gpa;
	request.nr_pages = nr_pages;
	sync_global_to_guest(vm, request);
}

static u64 touch(struct kvm_vm *vm, struct kvm_vcpu *vcpu, u64 gpa, u64 nr_pages)
{
	struct ucall uc;

	prepare_touch(vm, gpa, nr_pages);
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
	return uc.args[0];
}

FIXTURE_SETUP(huge)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = KVM_X86_SW_PROTECTED_VM,
	};

	self->fd = -1;
	if (!gmem_can_convert())
		SKIP(return, "no KVM_X86_SW_PROTECTED_VM");
	/* A boot may have its GiBs as such, or as nothing. */
	if (variant->block == SZ_2M)
		gmem_pool_write(SZ_2M, "nr_hugepages", TEST_SIZE / SZ_2M);
	self->before = gmem_pool_count(variant->block);
	if ((self->before.free - self->before.resv) * variant->block < TEST_SIZE)
		SKIP(return, "needs a GiB of free huge pages of %lu kB",
		     variant->block / SZ_1K);

	self->vm = vm_create_shape_with_one_vcpu(shape, &self->vcpu, guest_touch);
	virt_map_level(self->vm, TEST_GPA, TEST_GPA, 2 * TEST_SIZE, PG_LEVEL_1G);
	self->fd = vm_create_guest_memfd(self->vm, TEST_SIZE,
					 gmem_hugetlb_flag(variant->block) |
					 GUEST_MEMFD_FLAG_MMAP |
					 GUEST_MEMFD_FLAG_INIT_SHARED);
	self->mem = gmem_map_pages(self->fd, PAGES_1G);
	set_slot(self->vm, TEST_GPA, TEST_SIZE, self->fd, 0);
	touch(self->vm, self->vcpu, 0, 0);
	self->base = count_leaves(self->vm);
}

FIXTURE_TEARDOWN(huge)
{
	stall_release_all();
	if (self->fd < 0)
		return;
	kvm_munmap(self->mem, TEST_SIZE);
	kvm_close(self->fd);
	kvm_vm_free(self->vm);
	EXPECT_TRUE(gmem_pool_becomes(variant->block, self->before)) {
		struct gmem_pool_counts is = gmem_pool_count(variant->block);

		TH_LOG("%ld pages, %ld free, %ld reserved, %ld surplus", is.nr,
		       is.free, is.resv, is.surplus);
	}
	if (variant->block == SZ_2M)
		gmem_pool_write(SZ_2M, "nr_hugepages", 8);
}

/* How many more than for the guest's own code and data. */
#define EXPECT_LEAVES(_1g, _2m, _4k) do {				\
	struct leaves _is = count_leaves(self->vm);			\
									\
	EXPECT_EQ(_is.pages_1g - self->base.pages_1g, _1g);		\
	EXPECT_EQ(_is.pages_2m - self->base.pages_2m, _2m);		\
	EXPECT_EQ(_is.pages_4k - self->base.pages_4k, _4k);		\
} while (0)

#define TOUCH(_page, _nr) \
	touch(self->vm, self->vcpu, TEST_GPA + (_page) * GMEM_PAGE_SIZE, _nr)
#define TOUCH_ALL()	TOUCH(0, PAGES_1G)

#define is_1g		(variant->block == SZ_1G)
#define EXPECT_ALL_LARGE() EXPECT_LEAVES(is_1g ? 1 : 0, is_1g ? 0 : 512, 0)

TEST_F(huge, one_touch_maps_a_block)
{
	TOUCH(5, 1);
	EXPECT_LEAVES(is_1g ? 1 : 0, is_1g ? 0 : 1, 0);
}

TEST_F(huge, shared_memory_is_mapped_in_blocks)
{
	TOUCH_ALL();
	EXPECT_ALL_LARGE();
}

TEST_F(huge, private_memory_is_mapped_in_blocks)
{
	gmem_pages_to_private(self->fd, 0, PAGES_1G);
	TOUCH_ALL();
	EXPECT_ALL_LARGE();
}

TEST_F(huge, converted_page_makes_only_its_own_2M_small)
{
	TOUCH_ALL();
	gmem_pages_to_private(self->fd, 5, 1);
	TOUCH_ALL();
	EXPECT_LEAVES(0, 511, 512);
}

TEST_F(huge, page_that_is_converted_back_makes_the_block_large_again)
{
	TOUCH_ALL();
	gmem_pages_to_private(self->fd, 5, 1);
	TOUCH_ALL();
	gmem_pages_to_shared(self->fd, 5, 1);
	TOUCH_ALL();
	EXPECT_ALL_LARGE();
}

TEST_F(huge, converted_2M_stays_large)
{
	gmem_pages_to_private(self->fd, 3 * PAGES_2M, PAGES_2M);
	TOUCH_ALL();
	EXPECT_LEAVES(0, 512, 0);
}

TEST_F(huge, content_is_kept_by_what_is_mapped)
{
	gmem_poke(self->mem + 5 * GMEM_PAGE_SIZE, 0x55);
	EXPECT_EQ(TOUCH(5, 1), 0x55);
	gmem_pages_to_private(self->fd, 5, 1);
	EXPECT_EQ(TOUCH(5, 1), 0x55);
	gmem_pages_to_shared(self->fd, 5, 1);
	EXPECT_EQ(TOUCH(5, 1), 0x55);
	EXPECT_EQ(gmem_peek(self->mem + 5 * GMEM_PAGE_SIZE), 0x55);
}

TEST_F(huge, hole_takes_the_block_from_the_guest)
{
	u64 nr_pages = variant->block / GMEM_PAGE_SIZE;

	gmem_poke(self->mem + 5 * GMEM_PAGE_SIZE, 0x55);
	EXPECT_EQ(TOUCH(5, 1), 0x55);
	gmem_punch_pages(self->fd, 0, nr_pages);
	EXPECT_LEAVES(0, 0, 0);
	EXPECT_EQ(TOUCH(5, 1), 0);
	EXPECT_LEAVES(is_1g ? 1 : 0, is_1g ? 0 : 1, 0);
}

static void move_slot(struct kvm_vm *vm, int fd, u64 size, u64 offset)
{
	set_slot(vm, TEST_GPA, 0, -1, 0);
	set_slot(vm, TEST_GPA, size, fd, offset);
}

TEST_F(huge, memslot_at_an_offset_that_is_not_aligned_is_mapped_small)
{
	move_slot(self->vm, self->fd, TEST_SIZE - SZ_2M, GMEM_PAGE_SIZE);
	TOUCH(0, 2 * PAGES_2M);
	EXPECT_LEAVES(0, 0, 2 * PAGES_2M);
}

TEST_F(huge, memslot_at_an_offset_of_2M_is_mapped_with_2M)
{
	move_slot(self->vm, self->fd, TEST_SIZE - SZ_2M, SZ_2M);
	TOUCH(0, 2 * PAGES_2M);
	EXPECT_LEAVES(0, 2, 0);
}

/* Its gfns are as far from a boundary as its offset is. */
TEST_F(huge, memslot_that_ends_inside_a_block_is_mapped_small_there)
{
	u64 size = 2 * SZ_2M + 2 * GMEM_PAGE_SIZE;

	move_slot(self->vm, self->fd, size, 0);
	TOUCH(0, size / GMEM_PAGE_SIZE);
	EXPECT_LEAVES(0, 2, 2);
}

static void *run_vcpu(void *arg)
{
	vcpu_run(arg);
	return NULL;
}

static long page_7_to_private(void *fd)
{
	gmem_pages_to_private(*(int *)fd, 7, 1);
	return 0;
}

/*
 * It has been told that all of the block is uniform, and would map it after the
 * conversion has taken page 7 from the guest, before the state says so.
 */
TEST_F(huge, vcpu_with_an_order_that_is_not_true_any_more_maps_small)
{
	static struct job conversion;
	pthread_t thread;

	if (!stall_is_supported())
		SKIP(return, "no CONFIG_GUEST_MEMFD_STALL");

	stall_arm("get_pfn");
	stall_arm("begun");
	prepare_touch(self->vm, TEST_GPA, 1);
	kvm_pthread_create(&thread, NULL, run_vcpu, self->vcpu);
	ASSERT_TRUE(stall_is_reached("get_pfn"));
	job_start(&conversion, page_7_to_private, &self->fd);
	ASSERT_TRUE(stall_is_reached("begun"));
	stall_release("get_pfn");
	usleep(STALL_BLOCKED_USECS);
	stall_release("begun");
	job_wait(&conversion);
	kvm_pthread_join(thread, NULL);

	EXPECT_LEAVES(0, 0, 1);
}

TEST_F(huge, two_vcpus_that_touch_an_empty_block_take_one)
{
	struct gmem_pool_counts want = self->before;
	struct kvm_vcpu *vcpu = vm_vcpu_add(self->vm, 1, guest_touch);
	pthread_t thread;

	prepare_touch(self->vm, TEST_GPA, 1);
	kvm_pthread_create(&thread, NULL, run_vcpu, vcpu);
	vcpu_run(self->vcpu);
	kvm_pthread_join(thread, NULL);

	want.free--;
	want.resv += TEST_SIZE / variant->block - 1;
	EXPECT_TRUE(gmem_pool_is(variant->block, want));
}

static long run_vcpu_job(void *vcpu)
{
	return _vcpu_run(vcpu);
}

static long allocate_job(void *fd)
{
	return fallocate(*(int *)fd, FALLOC_FL_KEEP_SIZE, 6 * GMEM_PAGE_SIZE,
			 GMEM_PAGE_SIZE);
}

/* The first has taken it but not filled it when the others come. */
TEST_F(huge, vcpus_user_space_and_fallocate_take_one_block_together)
{
	struct kvm_vcpu *vcpu = vm_vcpu_add(self->vm, 1, guest_touch);
	struct gmem_pool_counts want = self->before;
	static struct job jobs[4];
	int i;

	if (!stall_is_supported())
		SKIP(return, "no CONFIG_GUEST_MEMFD_STALL");

	prepare_touch(self->vm, TEST_GPA, 1);
	stall_arm("split");
	job_start(&jobs[0], run_vcpu_job, self->vcpu);
	ASSERT_TRUE(stall_is_reached("split"));
	job_start(&jobs[1], run_vcpu_job, vcpu);
	job_start(&jobs[2], gmem_poke_job, self->mem + 5 * GMEM_PAGE_SIZE);
	job_start(&jobs[3], allocate_job, &self->fd);
	for (i = 0; i < ARRAY_SIZE(jobs); i++)
		EXPECT_TRUE(job_is_blocked(&jobs[i]));
	stall_release("split");

	for (i = 0; i < ARRAY_SIZE(jobs); i++)
		EXPECT_EQ(job_wait(&jobs[i]), 0);
	TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_IO);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	EXPECT_EQ(gmem_peek(self->mem + 5 * GMEM_PAGE_SIZE), 1);
	want.free--;
	want.resv += TEST_SIZE / variant->block - 1;
	EXPECT_TRUE(gmem_pool_is(variant->block, want));
}

/* A page of it would be mapped again with its neighbours otherwise. */
TEST_F(huge, broken_page_makes_its_neighbours_small_and_is_an_error_of_the_vcpu)
{
	if (!gmem_can_break_page(variant->block))
		SKIP(return, "2 MiB only, and CONFIG_HWPOISON_INJECT");

	TOUCH(0, 2 * PAGES_2M);
	EXPECT_LEAVES(0, 2, 0);
	gmem_break_page(self->mem + 5 * GMEM_PAGE_SIZE);
	/* A worker takes it from the guest. */
	EXPECT_TRUE(GMEM_WAIT_FOR(count_leaves(self->vm).pages_2m ==
				  self->base.pages_2m + 1));

	TOUCH(4, 1);
	TOUCH(6, 1);
	EXPECT_LEAVES(0, 1, 2);
	prepare_touch(self->vm, TEST_GPA + 5 * GMEM_PAGE_SIZE, 1);
	EXPECT_EQ(__vcpu_run(self->vcpu), -1);
	EXPECT_EQ(errno, EHWPOISON);
	EXPECT_LEAVES(0, 1, 2);

	self->before.nr--;
	self->before.free--;
}

/* Nobody has a reference then, so memory_failure() can only mark it. */
TEST_F(huge, page_that_breaks_between_pool_and_file_makes_its_neighbours_small)
{
	u8 *page = self->mem + 5 * GMEM_PAGE_SIZE;
	struct gmem_pool_counts want = self->before;
	static struct job fault;
	u64 pfn;

	if (!gmem_can_break_page(variant->block) || !stall_is_supported())
		SKIP(return, "2 MiB only, CONFIG_HWPOISON_INJECT and _GUEST_MEMFD_STALL");

	/* The pool gives out first what has come back last. */
	pfn = gmem_pfn(page);
	gmem_punch_pages(self->fd, 0, PAGES_2M);
	want.resv += TEST_SIZE / variant->block;
	ASSERT_TRUE(gmem_pool_becomes(variant->block, want));

	EXPECT_TRUE(gmem_page_flags(pfn) & BIT(KPF_HUGE));
	stall_arm("split");
	job_start(&fault, gmem_poke_job, page - GMEM_PAGE_SIZE);
	ASSERT_TRUE(stall_is_reached("split"));
	ASSERT_FALSE(gmem_page_flags(pfn) & BIT(KPF_HUGE));
	gmem_break_pfn(pfn);
	stall_release("split");
	EXPECT_EQ(job_wait(&fault), 0);
	ASSERT_EQ(gmem_pfn(page - GMEM_PAGE_SIZE), pfn - 1);

	EXPECT_EQ(gmem_peek(page), GMEM_SIGBUS);
	TOUCH(4, 1);
	TOUCH(6, 1);
	EXPECT_LEAVES(0, 0, 2);

	self->before.nr--;
	self->before.free--;
}

#define NX_HUGE_PAGES	"/sys/module/kvm/parameters/nx_huge_pages"

static void write_nx_huge_pages(const char *value)
{
	FILE *file = fopen(NX_HUGE_PAGES, "w");

	TEST_ASSERT(file && fputs(value, file) >= 0 && !fclose(file),
		    "Cannot write " NX_HUGE_PAGES);
}

/* What is not executed stays large. */
TEST_F(huge, page_that_is_executed_is_mapped_small_with_nx_huge_pages)
{
	char before = 'N';
	FILE *file;

	file = fopen(NX_HUGE_PAGES, "r");
	TEST_ASSERT(file && fread(&before, 1, 1, file) == 1, "Cannot read " NX_HUGE_PAGES);
	fclose(file);
	write_nx_huge_pages("1");
	/* ret */
	gmem_poke(self->mem + 5 * GMEM_PAGE_SIZE, 0xc3);

	/* All memory was taken from the guest. */
	TOUCH(0, 0);
	self->base = count_leaves(self->vm);
	TOUCH(0, 2 * PAGES_2M);
	EXPECT_LEAVES(is_1g ? 1 : 0, is_1g ? 0 : 2, 0);
	request.call = true;
	TOUCH(5, 1);
	request.call = false;
	TOUCH(0, 2 * PAGES_2M);
	/* Also split for where the guest's own code lies: only of the file. */
	EXPECT_EQ(count_leaves(self->vm).pages_1g, self->base.pages_1g);
	EXPECT_GE(count_leaves(self->vm).pages_4k - self->base.pages_4k, PAGES_2M);

	write_nx_huge_pages(before == 'Y' ? "1" : "0");
}

#define EXPECT_SLOT_IS_REFUSED(_flags, _gpa) do {				\
	EXPECT_EQ(__vm_set_user_memory_region2(self->vm, TEST_SLOT,		\
					       KVM_MEM_GUEST_MEMFD | (_flags),	\
					       _gpa, TEST_SIZE, NULL, self->fd,	\
					       0), -1);				\
	EXPECT_EQ(errno, EINVAL);						\
} while (0)

/* As of any memslot with a guest_memfd: large leaves need not be taken apart. */
TEST_F(huge, dirty_log_and_move_are_refused)
{
	TOUCH_ALL();
	EXPECT_SLOT_IS_REFUSED(KVM_MEM_LOG_DIRTY_PAGES, TEST_GPA);
	EXPECT_SLOT_IS_REFUSED(0, TEST_GPA + TEST_SIZE);
	EXPECT_ALL_LARGE();
}

TEST_F(huge, memslot_that_is_made_again_is_mapped_large_again)
{
	TOUCH_ALL();
	move_slot(self->vm, self->fd, TEST_SIZE, 0);
	EXPECT_LEAVES(0, 0, 0);
	TOUCH_ALL();
	EXPECT_ALL_LARGE();
}

static int prefault(struct kvm_vcpu *vcpu, u64 first, u64 nr_pages)
{
	struct kvm_pre_fault_memory range = {
		.gpa = TEST_GPA + first * GMEM_PAGE_SIZE,
		.size = nr_pages * GMEM_PAGE_SIZE,
	};

	return __vcpu_ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range) ? errno : 0;
}

TEST_F(huge, prefault_of_a_page_maps_the_block)
{
	EXPECT_EQ(prefault(self->vcpu, 0, 1), 0);
	EXPECT_LEAVES(is_1g ? 1 : 0, is_1g ? 0 : 1, 0);
}

TEST_F(huge, prefault_tells_that_no_block_can_be_had)
{
	if (!cgroup_enter_new("hugetlb.2MB.current"))
		SKIP(return, "no hugetlb cgroup");
	hugetlb_cgroup_write(variant->block, "max", 0);

	EXPECT_EQ(prefault(self->vcpu, 0, 1), ENOSPC);

	EXPECT_EQ(cgroup_leave(), 0);
}

#define NR_TRIES	10

static long most_to_private(void *fd)
{
	gmem_pages_to_private(*(int *)fd, 7, 500 * PAGES_2M);
	return 0;
}

struct prefaulter {
	struct kvm_vcpu *vcpu;
	bool stop;
};

/* The last 2 MiB, which stay as they are, again and again. */
static long prefault_the_end(void *arg)
{
	struct prefaulter *prefaulter = arg;

	while (!READ_ONCE(prefaulter->stop))
		prefault(prefaulter->vcpu, PAGES_1G - PAGES_2M, PAGES_2M);
	return 0;
}

/*
 * A conversion of many 2 MiB lets vCPUs go on while it takes the guest's leaves
 * away, if they want to.  One that has found all of the first 2 MiB shared, of
 * which only the end is converted, must not map it large then.
 */

TEST_F(huge, vcpu_that_comes_while_leaves_go_does_not_map_what_was_true_before)
{
	static struct prefaulter prefaulter;
	static struct job conversion, job;
	pthread_t thread;
	int i;

	if (is_1g || !stall_is_supported())
		SKIP(return, "2 MiB only, CONFIG_GUEST_MEMFD_STALL");

	prefaulter.vcpu = vm_vcpu_add(self->vm, 1, guest_touch);
	for (i = 0; i < NR_TRIES; i++) {
		gmem_pages_to_shared(self->fd, 0, PAGES_1G);
		move_slot(self->vm, self->fd, TEST_SIZE, 0);
		ASSERT_EQ(prefault(self->vcpu, PAGES_2M, PAGES_1G - PAGES_2M), 0);

		stall_arm("get_pfn");
		prepare_touch(self->vm, TEST_GPA, 1);
		kvm_pthread_create(&thread, NULL, run_vcpu, self->vcpu);
		ASSERT_TRUE(stall_is_reached("get_pfn"));
		prefaulter.stop = false;
		job_start(&job, prefault_the_end, &prefaulter);
		job_start(&conversion, most_to_private, &self->fd);
		while (count_leaves(self->vm).pages_2m - self->base.pages_2m > 500)
			;
		stall_release("get_pfn");
		job_wait(&conversion);
		kvm_pthread_join(thread, NULL);
		WRITE_ONCE(prefaulter.stop, true);
		job_wait(&job);
		EXPECT_EQ(count_leaves(self->vm).pages_2m - self->base.pages_2m, 11);
	}
}

TEST_HARNESS_MAIN
