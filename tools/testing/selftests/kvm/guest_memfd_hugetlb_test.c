// SPDX-License-Identifier: GPL-2.0-only
/*
 * A guest_memfd whose memory comes from the hugetlb pool: what is reserved,
 * taken and given back, and when.
 */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "../../../../mm/gup_test.h"

#include "guest_memfd_cgroup.h"
#include "guest_memfd_harness.h"
#include "guest_memfd_hugetlb.h"
#include "guest_memfd_stall.h"
#include "guest_memfd_util.h"
#include "numaif.h"
#include "ucall_common.h"

#define NR_BLOCKS	2

FIXTURE(hugetlb) {
	struct kvm_vm *vm;
	struct gmem_pool_counts before;
	u64 block;
	u64 nr_pages;
};

GMEM_BLOCK_VARIANTS(hugetlb);

static struct kvm_vm *create_vm(void)
{
#ifdef __x86_64__
	return vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
#else
	return vm_create_barebones();
#endif
}

FIXTURE_SETUP(hugetlb)
{
	self->block = variant->block;
	self->nr_pages = self->block / GMEM_PAGE_SIZE;
	if (self->block == SZ_2M && gmem_pool_read(SZ_2M, "nr_hugepages") < NR_BLOCKS)
		gmem_pool_write(SZ_2M, "nr_hugepages", 8);
	self->before = gmem_pool_count(self->block);
	if (self->before.free - self->before.resv < NR_BLOCKS)
		SKIP(return, "needs %d free huge pages of %lu kB", NR_BLOCKS,
		     self->block / SZ_1K);
#ifdef __x86_64__
	if (!gmem_can_convert())
		SKIP(return, "no KVM_X86_SW_PROTECTED_VM");
#endif
	self->vm = create_vm();
}

FIXTURE_TEARDOWN(hugetlb)
{
	stall_release_all();
	if (self->vm)
		kvm_vm_free(self->vm);
	EXPECT_TRUE(gmem_pool_becomes(self->block, self->before));
}

static int create_file(struct kvm_vm *vm, u64 block, u64 nr_blocks)
{
	return vm_create_guest_memfd(vm, nr_blocks * block,
				     gmem_hugetlb_flag(block) |
				     GUEST_MEMFD_FLAG_MMAP |
				     GUEST_MEMFD_FLAG_INIT_SHARED);
}

#define create(self, nr_blocks) create_file((self)->vm, (self)->block, nr_blocks)

/* What the pool must be, relative to before the test. */
#define EXPECT_POOL(_free, _resv) do {					\
	struct gmem_pool_counts _want = self->before;			\
									\
	_want.free += (_free);						\
	_want.resv += (_resv);						\
	EXPECT_TRUE(gmem_pool_becomes(self->block, _want)) {		\
		struct gmem_pool_counts _is = gmem_pool_count(self->block); \
									\
		TH_LOG("free %ld, not %ld; reserved %ld, not %ld", _is.free, \
		       _want.free, _is.resv, _want.resv);		\
	}								\
} while (0)

/* A block with a broken page leaves the pool.  Another one takes its place. */
#define EXPECT_BLOCK_LOST() do {					\
	struct gmem_pool_counts _want = self->before;			\
									\
	_want.nr--;							\
	_want.free--;							\
	EXPECT_TRUE(gmem_pool_becomes(self->block, _want));		\
	gmem_pool_write(self->block, "nr_hugepages", self->before.nr);	\
} while (0)

#define EXPECT_CREATE_FAILS(_size, _flags, _errno) do {			\
	int _fd = __vm_create_guest_memfd(self->vm, _size, _flags);	\
									\
	EXPECT_LT(_fd, 0);						\
	EXPECT_EQ(errno, _errno);					\
} while (0)

TEST_F(hugetlb, creation_reserves_all_blocks)
{
	int fd = create(self, NR_BLOCKS);

	EXPECT_POOL(0, NR_BLOCKS);
	kvm_close(fd);
	EXPECT_POOL(0, 0);
}

#ifdef __x86_64__
TEST_F(hugetlb, file_that_cannot_be_mapped_is_converted)
{
	int fd = vm_create_guest_memfd(self->vm, self->block,
				       gmem_hugetlb_flag(self->block));

	gmem_pages_to_shared(fd, 3, 2);
	EXPECT_EQ(gmem_fdinfo(fd, "private"), self->nr_pages - 2);
	gmem_pages_to_private(fd, 3, 1);
	EXPECT_EQ(gmem_fdinfo(fd, "private"), self->nr_pages - 1);
	kvm_close(fd);
}
#endif

TEST_F(hugetlb, creation_fails_when_the_pool_is_too_small)
{
	u64 too_many = self->before.free - self->before.resv + 1;

	EXPECT_CREATE_FAILS(too_many * self->block, gmem_hugetlb_flag(self->block),
			    ENOMEM);
	EXPECT_POOL(0, 0);
}

TEST_F(hugetlb, creation_fails_with_part_of_a_block)
{
	EXPECT_CREATE_FAILS(self->block + GMEM_PAGE_SIZE, gmem_hugetlb_flag(self->block),
			    EINVAL);
	EXPECT_CREATE_FAILS(self->block / 2, gmem_hugetlb_flag(self->block), EINVAL);
	EXPECT_CREATE_FAILS(0, gmem_hugetlb_flag(self->block), EINVAL);
}

TEST_F(hugetlb, creation_fails_with_a_size_of_blocks_that_is_not_known)
{
	EXPECT_CREATE_FAILS(self->block, gmem_hugetlb_flag(SZ_4K), EINVAL);
	EXPECT_CREATE_FAILS(self->block, gmem_hugetlb_flag(SZ_64K), EINVAL);
	EXPECT_CREATE_FAILS(self->block, gmem_hugetlb_flag(SZ_4G), EINVAL);
	EXPECT_CREATE_FAILS(self->block, GUEST_MEMFD_FLAG_HUGETLB |
			    GUEST_MEMFD_HUGETLB_MASK, EINVAL);
}

/* For a CPU without pages of 1 GiB. */
TEST(creation_fails_with_a_size_of_blocks_that_has_no_pool)
{
	struct kvm_vm *vm = vm_create_barebones();

	if (!access("/sys/kernel/mm/hugepages/hugepages-1048576kB", F_OK))
		SKIP(return, "there is a pool of 1 GiB pages");

	EXPECT_EQ(__vm_create_guest_memfd(vm, SZ_1G, gmem_hugetlb_flag(SZ_1G)), -1);
	EXPECT_EQ(errno, ENODEV);
	kvm_vm_free(vm);
}

TEST_F(hugetlb, creation_fails_when_only_another_pool_has_pages)
{
	if (self->block != SZ_2M)
		SKIP(return, "the pool would not get its GiBs back");

	gmem_pool_write(SZ_2M, "nr_hugepages", 0);
	EXPECT_CREATE_FAILS(SZ_2M, gmem_hugetlb_flag(SZ_2M), ENOMEM);
	gmem_pool_write(SZ_2M, "nr_hugepages", self->before.nr);
}

TEST_F(hugetlb, hugetlb_alone_takes_blocks_of_the_default_size)
{
	int fd;

	if (self->block != SZ_2M)
		SKIP(return, "the default is 2 MiB");

	fd = vm_create_guest_memfd(self->vm, SZ_2M, GUEST_MEMFD_FLAG_HUGETLB);
	EXPECT_EQ(gmem_fdinfo(fd, "block-size"), SZ_2M);
	EXPECT_POOL(0, 1);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, SZ_2M);
	EXPECT_POOL(-1, 0);
	kvm_close(fd);
}

TEST_F(hugetlb, size_of_blocks_without_hugetlb_is_refused)
{
	EXPECT_CREATE_FAILS(self->block, GUEST_MEMFD_HUGETLB_2MB, EINVAL);
	EXPECT_CREATE_FAILS(self->block, GUEST_MEMFD_FLAG_MMAP |
			    GUEST_MEMFD_HUGETLB_1GB, EINVAL);
}

TEST_F(hugetlb, size_that_overflows_is_refused)
{
	EXPECT_CREATE_FAILS(-self->block, gmem_hugetlb_flag(self->block), EINVAL);
	EXPECT_CREATE_FAILS(1ul << 62, gmem_hugetlb_flag(self->block), ENOMEM);
}

TEST_F(hugetlb, fallocate_takes_the_block_around_a_page)
{
	int fd = create(self, NR_BLOCKS);

	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, self->block + GMEM_PAGE_SIZE,
		      GMEM_PAGE_SIZE);
	EXPECT_POOL(-1, NR_BLOCKS - 1);
	EXPECT_EQ(gmem_fdinfo(fd, "allocated"), self->nr_pages);
	EXPECT_EQ(gmem_fdinfo(fd, "blocks"), 1);
	kvm_close(fd);
}

TEST_F(hugetlb, fault_takes_a_zeroed_block)
{
	int fd = create(self, NR_BLOCKS);
	u8 *mem = gmem_map_pages(fd, NR_BLOCKS * self->nr_pages);
	u64 page;

	/* The pool gives out first what has come back last. */
	for (page = 0; page < self->nr_pages; page += self->nr_pages / 64)
		gmem_poke(mem + page * GMEM_PAGE_SIZE, 1);
	gmem_punch_pages(fd, 0, self->nr_pages);
	EXPECT_POOL(0, NR_BLOCKS);

	EXPECT_EQ(gmem_peek(mem), 0);
	EXPECT_POOL(-1, NR_BLOCKS - 1);
	for (page = 0; page < self->nr_pages; page += self->nr_pages / 64)
		EXPECT_EQ(gmem_peek(mem + page * GMEM_PAGE_SIZE), 0);
	EXPECT_POOL(-1, NR_BLOCKS - 1);

	kvm_munmap(mem, NR_BLOCKS * self->block);
	kvm_close(fd);
}

struct toucher {
	pthread_t thread;
	u8 *addr;
	int byte;
};

static void *touch(void *arg)
{
	struct toucher *toucher = arg;

	toucher->byte = gmem_peek(toucher->addr);
	return NULL;
}

TEST_F(hugetlb, threads_that_touch_an_empty_block_take_one)
{
	struct toucher touchers[4];
	int fd = create(self, NR_BLOCKS);
	u8 *mem = gmem_map_pages(fd, NR_BLOCKS * self->nr_pages);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(touchers); i++) {
		touchers[i].addr = mem + i * self->block / ARRAY_SIZE(touchers);
		kvm_pthread_create(&touchers[i].thread, NULL, touch, &touchers[i]);
	}
	for (i = 0; i < ARRAY_SIZE(touchers); i++) {
		kvm_pthread_join(touchers[i].thread, NULL);
		EXPECT_EQ(touchers[i].byte, 0);
	}
	EXPECT_POOL(-1, NR_BLOCKS - 1);

	kvm_munmap(mem, NR_BLOCKS * self->block);
	kvm_close(fd);
}

static long allocate_job(void *fd)
{
	return fallocate(*(int *)fd, FALLOC_FL_KEEP_SIZE, 6 * GMEM_PAGE_SIZE,
			 GMEM_PAGE_SIZE);
}

TEST_F(hugetlb, all_that_come_while_a_block_is_taken_get_that_one)
{
	static struct job taker, fault, allocation;
	static int fd;
	u8 *mem;

	if (!stall_is_supported())
		SKIP(return, "no CONFIG_GUEST_MEMFD_STALL");

	fd = create(self, NR_BLOCKS);
	mem = gmem_map_pages(fd, NR_BLOCKS * self->nr_pages);
	stall_arm("split");
	job_start(&taker, gmem_poke_job, mem);
	EXPECT_TRUE(stall_is_reached("split"));
	job_start(&fault, gmem_poke_job, mem + 5 * GMEM_PAGE_SIZE);
	job_start(&allocation, allocate_job, &fd);
	EXPECT_TRUE(job_is_blocked(&fault));
	EXPECT_TRUE(job_is_blocked(&allocation));
	stall_release("split");

	EXPECT_EQ(job_wait(&taker), 0);
	EXPECT_EQ(job_wait(&fault), 0);
	EXPECT_EQ(job_wait(&allocation), 0);
	EXPECT_POOL(-1, NR_BLOCKS - 1);
	EXPECT_EQ(gmem_peek(mem), 1);
	EXPECT_EQ(gmem_peek(mem + 5 * GMEM_PAGE_SIZE), 1);
	kvm_munmap(mem, NR_BLOCKS * self->block);
	kvm_close(fd);
}

TEST_F(hugetlb, hole_gives_the_block_back_and_keeps_the_reservation)
{
	int fd = create(self, NR_BLOCKS);
	u8 *mem = gmem_map_pages(fd, NR_BLOCKS * self->nr_pages);

	gmem_stamp(mem, 1);
	gmem_stamp(mem + self->block, 2);
	EXPECT_POOL(-2, 0);

	gmem_punch_pages(fd, 0, self->nr_pages);
	EXPECT_POOL(-1, 1);
	EXPECT_TRUE(gmem_has_stamp(mem + self->block, 2));
	EXPECT_EQ(gmem_peek(mem), 0);
	EXPECT_POOL(-2, 0);

	kvm_munmap(mem, NR_BLOCKS * self->block);
	kvm_close(fd);
}

static int punch(int fd, u64 offset, u64 size)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size);
}

TEST_F(hugetlb, hole_in_a_block_is_refused)
{
	int fd = create(self, NR_BLOCKS);
	u8 *mem = gmem_map_pages(fd, NR_BLOCKS * self->nr_pages);

	gmem_stamp(mem, 1);
	EXPECT_EQ(punch(fd, 0, GMEM_PAGE_SIZE), -1);
	EXPECT_EQ(errno, EINVAL);
	EXPECT_EQ(punch(fd, GMEM_PAGE_SIZE, self->block), -1);
	EXPECT_EQ(errno, EINVAL);
	EXPECT_EQ(punch(fd, 0, 2 * self->block - GMEM_PAGE_SIZE), -1);
	EXPECT_EQ(errno, EINVAL);
	EXPECT_TRUE(gmem_has_stamp(mem, 1));

	kvm_munmap(mem, NR_BLOCKS * self->block);
	kvm_close(fd);
}

TEST_F(hugetlb, allocation_past_the_end_is_refused)
{
	int fd = create(self, 1);

	EXPECT_EQ(fallocate(fd, FALLOC_FL_KEEP_SIZE, self->block, GMEM_PAGE_SIZE), -1);
	EXPECT_EQ(errno, EINVAL);
	EXPECT_EQ(fallocate(fd, FALLOC_FL_KEEP_SIZE, self->block - GMEM_PAGE_SIZE,
			    2 * GMEM_PAGE_SIZE), -1);
	EXPECT_EQ(errno, EINVAL);
	EXPECT_POOL(0, 1);
	kvm_close(fd);
}

#ifdef __x86_64__
TEST_F(hugetlb, page_in_a_block_is_converted_and_its_content_kept)
{
	int fd = create(self, 1);
	u8 *mem = gmem_map_pages(fd, self->nr_pages);
	u8 *page = mem + 3 * GMEM_PAGE_SIZE;

	gmem_stamp(page, 3);
	gmem_stamp(page + GMEM_PAGE_SIZE, 4);
	gmem_pages_to_private(fd, 3, 1);
	EXPECT_EQ(gmem_peek(page), GMEM_SIGBUS);
	EXPECT_TRUE(gmem_has_stamp(page + GMEM_PAGE_SIZE, 4));
	gmem_pages_to_shared(fd, 3, 1);
	EXPECT_TRUE(gmem_has_stamp(page, 3));

	kvm_munmap(mem, self->block);
	kvm_close(fd);
}

TEST_F(hugetlb, all_of_a_block_is_converted_and_back)
{
	int fd = create(self, 1);
	u8 *mem = gmem_map_pages(fd, self->nr_pages);

	gmem_stamp(mem, 5);
	gmem_stamp(mem + self->block - GMEM_PAGE_SIZE, 6);
	gmem_pages_to_private(fd, 0, self->nr_pages);
	EXPECT_EQ(gmem_peek(mem), GMEM_SIGBUS);
	EXPECT_EQ(gmem_peek(mem + self->block - GMEM_PAGE_SIZE), GMEM_SIGBUS);
	gmem_pages_to_shared(fd, 0, self->nr_pages);
	EXPECT_TRUE(gmem_has_stamp(mem, 5));
	EXPECT_TRUE(gmem_has_stamp(mem + self->block - GMEM_PAGE_SIZE, 6));

	kvm_munmap(mem, self->block);
	kvm_close(fd);
}
#endif

TEST_F(hugetlb, mapping_keeps_the_blocks_of_a_closed_file)
{
	int fd = create(self, 1);
	u8 *mem = gmem_map_pages(fd, self->nr_pages);

	gmem_stamp(mem, 1);
	kvm_close(fd);
	kvm_vm_free(self->vm);
	self->vm = NULL;
	EXPECT_POOL(-1, 0);
	EXPECT_TRUE(gmem_has_stamp(mem, 1));
	kvm_munmap(mem, self->block);
	EXPECT_POOL(0, 0);
}

/* A page in a pipe is held by nobody that could be asked to let go. */
static void page_to_pipe(int pipe_fd, void *page)
{
	struct iovec iov = { .iov_base = page, .iov_len = GMEM_PAGE_SIZE };

	TEST_ASSERT(vmsplice(pipe_fd, &iov, 1, 0) == GMEM_PAGE_SIZE,
		    "vmsplice() failed");
}

TEST_F(hugetlb, block_waits_for_a_page_in_a_pipe)
{
	static u8 page[GMEM_PAGE_SIZE];
	int fd = create(self, 1);
	u8 *mem = gmem_map_pages(fd, self->nr_pages);
	int pipes[2];

	ASSERT_EQ(pipe(pipes), 0);
	gmem_stamp(mem + self->block / 2, 7);
	page_to_pipe(pipes[1], mem + self->block / 2);
	kvm_munmap(mem, self->block);
	kvm_close(fd);
	kvm_vm_free(self->vm);
	self->vm = NULL;

	usleep(300000);
	EXPECT_POOL(-1, 0);
	EXPECT_EQ(read(pipes[0], page, sizeof(page)), (ssize_t)sizeof(page));
	EXPECT_TRUE(gmem_has_stamp(page, 7));
	kvm_close(pipes[0]);
	kvm_close(pipes[1]);
	EXPECT_POOL(0, 0);
}

TEST_F(hugetlb, block_waits_for_a_page_that_is_pinned)
{
	struct pin_longterm_test pin = {
		.size = GMEM_PAGE_SIZE,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE,
	};
	int gup_fd = open("/sys/kernel/debug/gup_test", O_RDWR);
	u8 *mem;
	int fd;

	if (gup_fd < 0)
		SKIP(return, "no CONFIG_GUP_TEST");

	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	pin.addr = (uintptr_t)(mem + self->block / 2);
	kvm_ioctl(gup_fd, PIN_LONGTERM_TEST_START, &pin);
	kvm_munmap(mem, self->block);
	kvm_close(fd);
	kvm_vm_free(self->vm);
	self->vm = NULL;

	usleep(300000);
	EXPECT_POOL(-1, 0);
	kvm_ioctl(gup_fd, PIN_LONGTERM_TEST_STOP, NULL);
	EXPECT_POOL(0, 0);
	kvm_close(gup_fd);
}

TEST_F(hugetlb, block_that_waits_is_shown_and_replaced_if_there_is_another)
{
	int fd = create(self, 1);
	u8 *mem = gmem_map_pages(fd, self->nr_pages);
	int pipes[2];

	ASSERT_EQ(pipe(pipes), 0);
	gmem_stamp(mem, 8);
	page_to_pipe(pipes[1], mem);
	gmem_punch_pages(fd, 0, self->nr_pages);
	EXPECT_EQ(gmem_fdinfo(fd, "waiting"), 1);
	EXPECT_EQ(gmem_fdinfo(fd, "allocated"), 0);
	EXPECT_EQ(gmem_peek(mem), 0);
	EXPECT_POOL(-2, 0);

	kvm_close(pipes[0]);
	kvm_close(pipes[1]);
	EXPECT_POOL(-1, 0);
	EXPECT_TRUE(GMEM_WAIT_FOR(!gmem_fdinfo(fd, "waiting")));
	kvm_munmap(mem, self->block);
	kvm_close(fd);
}

/* Looked at twice a second by then: whoever needs it does not wait for that. */
TEST_F(hugetlb, block_that_was_held_is_had_again_as_soon_as_it_is_not)
{
	int fd = create(self, 1);
	u8 *mem = gmem_map_pages(fd, self->nr_pages);
	int pipes[2], rest;

	ASSERT_EQ(pipe(pipes), 0);
	page_to_pipe(pipes[1], mem);
	rest = create(self, self->before.free - self->before.resv - 1);
	gmem_punch_pages(fd, 0, self->nr_pages);
	EXPECT_EQ(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->block), -1);
	EXPECT_EQ(errno, ENOSPC);
	sleep(1);

	kvm_close(pipes[0]);
	kvm_close(pipes[1]);
	EXPECT_EQ(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->block), 0);
	kvm_close(rest);
	kvm_munmap(mem, self->block);
	kvm_close(fd);
}

TEST_F(hugetlb, broken_page_is_alone_and_its_block_never_taken_again)
{
	int fd = create(self, 1);
	u8 *mem = gmem_map_pages(fd, self->nr_pages);
	u64 error_offset = 0;

	if (!gmem_can_break_page(self->block)) {
		kvm_munmap(mem, self->block);
		kvm_close(fd);
		SKIP(return, "2 MiB only, and CONFIG_HWPOISON_INJECT");
	}

	gmem_stamp(mem + 4 * GMEM_PAGE_SIZE, 4);
	gmem_stamp(mem + 5 * GMEM_PAGE_SIZE, 5);
	gmem_break_page(mem + 5 * GMEM_PAGE_SIZE);
	EXPECT_EQ(gmem_peek(mem + 5 * GMEM_PAGE_SIZE), GMEM_SIGBUS);
	EXPECT_TRUE(gmem_has_stamp(mem + 4 * GMEM_PAGE_SIZE, 4));
	EXPECT_EQ(gmem_peek(mem + 6 * GMEM_PAGE_SIZE), 0);
#ifdef __x86_64__
	EXPECT_EQ(__gmem_set_memory_attributes(fd, 0, self->block,
					       KVM_MEMORY_ATTRIBUTE_PRIVATE,
					       &error_offset), -1);
	EXPECT_EQ(errno, EHWPOISON);
	EXPECT_EQ(error_offset, 5 * GMEM_PAGE_SIZE);
	gmem_pages_to_private(fd, 0, 5);
	gmem_pages_to_private(fd, 6, self->nr_pages - 6);
#endif

	kvm_munmap(mem, self->block);
	kvm_close(fd);
	EXPECT_BLOCK_LOST();
}

/* The rest of its block is free memory. */
TEST_F(hugetlb, broken_page_does_not_become_free_memory)
{
	u64 pfn, flags;
	u8 *mem;
	int fd;

	if (!gmem_can_break_page(self->block))
		SKIP(return, "2 MiB only, and CONFIG_HWPOISON_INJECT");

	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	pfn = gmem_pfn(mem + 5 * GMEM_PAGE_SIZE);
	gmem_break_page(mem + 5 * GMEM_PAGE_SIZE);
	kvm_munmap(mem, self->block);
	kvm_close(fd);
	self->before.nr--;
	self->before.free--;
	EXPECT_POOL(0, 0);

	flags = gmem_page_flags(pfn);
	EXPECT_TRUE(flags & BIT(KPF_HWPOISON));
	EXPECT_FALSE(flags & BIT(KPF_BUDDY));
	gmem_pool_write(self->block, "nr_hugepages", ++self->before.nr);
	self->before.free++;
}

/* Pages that nobody else has, before and behind the one that it waits for, and that. */
TEST_F(hugetlb, block_goes_back_though_pages_broke_while_it_waited)
{
	int pipes[2], fd, i;
	u64 pfns[3];
	u8 *mem;

	if (!gmem_can_break_page(self->block))
		SKIP(return, "2 MiB only, and CONFIG_HWPOISON_INJECT");

	ASSERT_EQ(pipe(pipes), 0);
	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	for (i = 0; i < ARRAY_SIZE(pfns); i++)
		pfns[i] = gmem_pfn(mem + (4 + i) * GMEM_PAGE_SIZE);
	page_to_pipe(pipes[1], mem + 5 * GMEM_PAGE_SIZE);
	kvm_munmap(mem, self->block);
	kvm_close(fd);

	for (i = 0; i < ARRAY_SIZE(pfns); i++)
		gmem_break_pfn(pfns[i]);
	usleep(300000);
	EXPECT_POOL(-1, 0);

	kvm_close(pipes[0]);
	kvm_close(pipes[1]);
	EXPECT_BLOCK_LOST();
}

#define UNPOISON_ROUNDS	10

static long unpoison_job(void *pfn)
{
	return gmem_write_pfn(GMEM_UNPOISON_PFN, *(u64 *)pfn);
}

/*
 * The last block that was given back is the first that is taken.  While it is,
 * nobody has a reference to one of its pages.
 */
#define BREAK_FROZEN_PAGE(_taker, _mem, _pfn) do {			\
	stall_arm("split");						\
	job_start(_taker, gmem_poke_job, _mem);				\
	ASSERT_TRUE(stall_is_reached("split"));				\
	gmem_break_pfn(_pfn);						\
} while (0)

/* The same before it is zeroed. */
#define BREAK_TAKEN_BLOCK(_taker, _fd, _pfn) do {			\
	stall_arm("taken");						\
	job_start(_taker, allocate_job, _fd);				\
	ASSERT_TRUE(stall_is_reached("taken"));				\
	gmem_break_pfn(_pfn);						\
} while (0)

/* memory_failure() has no reference of such a page, so there is none to give back. */
TEST_F(hugetlb, page_that_is_unpoisoned_on_its_way_into_the_file_stays_there)
{
	struct gmem_pool_counts lost = self->before;
	static struct job taker, unpoisoning;
	static u64 pfn;
	u8 *mem;
	int fd, i;

	if (!gmem_can_break_page(self->block) || !stall_is_supported())
		SKIP(return, "2 MiB only, CONFIG_HWPOISON_INJECT and CONFIG_GUEST_MEMFD_STALL");

	lost.nr--;
	lost.free--;
	lost.resv++;
	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	for (i = 0; i < UNPOISON_ROUNDS; i++) {
		pfn = gmem_pfn(mem + 5 * GMEM_PAGE_SIZE);
		gmem_punch_pages(fd, 0, self->nr_pages);

		BREAK_FROZEN_PAGE(&taker, mem, pfn);
		job_start(&unpoisoning, unpoison_job, &pfn);
		usleep(i * 50);
		stall_release("split");
		EXPECT_EQ(job_wait(&taker), 0);
		if (job_wait(&unpoisoning))
			continue;

		/* Too late: the block is lost, once unpoison_memory() is done with it. */
		gmem_punch_pages(fd, 0, self->nr_pages);
		EXPECT_TRUE(gmem_pool_becomes(self->block, lost));
		gmem_write_pfn(GMEM_UNPOISON_PFN, pfn);
		gmem_pool_write(self->block, "nr_hugepages", self->before.nr);
	}
	/* There is no block after a last round that was too late. */
	gmem_poke(mem, 1);
	EXPECT_POOL(-1, 0);

	kvm_munmap(mem, self->block);
	kvm_close(fd);
	EXPECT_POOL(0, 0);
}

/* Who isolates a broken page from a list keeps it: its block would not go back. */
TEST_F(hugetlb, page_that_broke_on_its_way_into_the_file_is_on_no_list)
{
	static struct job taker;
	u64 pfn, flags;
	u8 *mem;
	int fd;

	if (!gmem_can_break_page(self->block) || !stall_is_supported())
		SKIP(return, "2 MiB only, CONFIG_HWPOISON_INJECT and CONFIG_GUEST_MEMFD_STALL");

	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	pfn = gmem_pfn(mem + 5 * GMEM_PAGE_SIZE);
	gmem_punch_pages(fd, 0, self->nr_pages);
	BREAK_FROZEN_PAGE(&taker, mem, pfn);
	stall_release("split");
	EXPECT_EQ(job_wait(&taker), 0);

	flags = gmem_page_flags(pfn);
	EXPECT_TRUE(flags & BIT(KPF_HWPOISON));
	EXPECT_FALSE(flags & BIT(KPF_LRU));
	EXPECT_EQ(gmem_peek(mem + 5 * GMEM_PAGE_SIZE), GMEM_SIGBUS);
	EXPECT_EQ(gmem_pfn(mem + 4 * GMEM_PAGE_SIZE), pfn - 1);
	EXPECT_TRUE(gmem_page_flags(pfn - 1) & BIT(KPF_LRU));

	kvm_munmap(mem, self->block);
	kvm_close(fd);
	EXPECT_BLOCK_LOST();
}

static long punch_job(void *fd)
{
	gmem_punch_pages(*(int *)fd, 0, SZ_2M / GMEM_PAGE_SIZE);
	return 0;
}

/* A fault that has page 5 locked, and memory_failure() that waits for the lock. */
#define BREAK_LOCKED_PAGE(_mem, _fault, _breaking) do {				\
	u8 *_page = (_mem) + 5 * GMEM_PAGE_SIZE;				\
	static u64 _pfn;							\
										\
	_pfn = gmem_pfn(_page);							\
	gmem_forget_mapping(_mem, self->nr_pages);				\
	stall_arm("fault_locked");						\
	job_start(_fault, gmem_poke_job, _page);					\
	ASSERT_TRUE(stall_is_reached("fault_locked"));				\
	job_start(_breaking, gmem_break_pfn_job, &_pfn);				\
	while (!(gmem_page_flags(_pfn) & BIT(KPF_HWPOISON)) && !job_is_done(_breaking)) \
		usleep(100);							\
} while (0)

/* It may mark a page of any block while it is at work. */
TEST_F(hugetlb, block_goes_back_when_memory_failure_is_done_with_another_one)
{
	static struct job fault, breaking;
	u8 *mem, *other_mem;
	int fd, other;

	if (!gmem_can_break_page(self->block) || !stall_is_supported())
		SKIP(return, "2 MiB only, CONFIG_HWPOISON_INJECT and _GUEST_MEMFD_STALL");

	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	gmem_poke(mem, 1);
	other = create(self, 1);
	other_mem = gmem_map_pages(other, self->nr_pages);

	BREAK_LOCKED_PAGE(other_mem, &fault, &breaking);
	kvm_munmap(mem, self->block);
	kvm_close(fd);
	usleep(300000);
	EXPECT_POOL(-2, 0);
	stall_release("fault_locked");
	EXPECT_POOL(-1, 0);

	job_wait(&breaking);
	job_wait(&fault);
	kvm_munmap(other_mem, self->block);
	kvm_close(other);
	EXPECT_BLOCK_LOST();
}

/* The page leaves the file as soon as memory_failure() has done with it. */
TEST_F(hugetlb, block_goes_back_though_a_hole_waits_behind_memory_failure)
{
	static struct job fault, breaking, hole;
	static int fd;
	u8 *mem;

	if (!gmem_can_break_page(self->block) || !stall_is_supported())
		SKIP(return, "2 MiB only, CONFIG_HWPOISON_INJECT and _GUEST_MEMFD_STALL");

	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	BREAK_LOCKED_PAGE(mem, &fault, &breaking);
	usleep(STALL_BLOCKED_USECS);
	job_start(&hole, punch_job, &fd);
	EXPECT_TRUE(job_is_blocked(&hole));
	stall_release("fault_locked");

	job_wait(&hole);
	job_wait(&breaking);
	job_wait(&fault);
	kvm_munmap(mem, self->block);
	kvm_close(fd);
	EXPECT_BLOCK_LOST();
}

/* All that is free is reserved, and one of them nobody can take. */
TEST_F(hugetlb, broken_block_is_a_loss_of_its_own_file_only)
{
	struct gmem_pool_counts want = {};
	u8 *mem, *other_mem;
	int fd, other;

	if (!gmem_can_break_page(self->block))
		SKIP(return, "2 MiB only, and CONFIG_HWPOISON_INJECT");

	gmem_pool_write(self->block, "nr_hugepages", 1 + NR_BLOCKS);
	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	other = create(self, NR_BLOCKS);
	other_mem = gmem_map_pages(other, NR_BLOCKS * self->nr_pages);
	gmem_break_page(mem + 5 * GMEM_PAGE_SIZE);
	gmem_punch_pages(fd, 0, self->nr_pages);
	want.nr = NR_BLOCKS;
	want.free = NR_BLOCKS;
	want.resv = NR_BLOCKS;
	EXPECT_TRUE(gmem_pool_becomes(self->block, want));

	EXPECT_EQ(gmem_peek(mem), GMEM_SIGBUS);
	EXPECT_EQ(gmem_peek(other_mem), 0);
	EXPECT_EQ(gmem_peek(other_mem + self->block), 0);

	kvm_munmap(other_mem, NR_BLOCKS * self->block);
	kvm_close(other);
	kvm_munmap(mem, self->block);
	kvm_close(fd);
	want.resv = 0;
	EXPECT_TRUE(gmem_pool_becomes(self->block, want));
	gmem_pool_write(self->block, "nr_hugepages", self->before.nr);
}

/* The same before it is in the file: it is the first in the pool. */
TEST_F(hugetlb, block_that_broke_while_it_was_zeroed_is_a_loss_of_its_own_file_only)
{
	struct gmem_pool_counts want = {};
	static struct job taker;
	u8 *mem, *other_mem;
	static int fd;
	int other;
	u64 pfn;

	if (!gmem_can_break_page(self->block) || !stall_is_supported())
		SKIP(return, "2 MiB only, CONFIG_HWPOISON_INJECT and CONFIG_GUEST_MEMFD_STALL");

	gmem_pool_write(self->block, "nr_hugepages", 1 + NR_BLOCKS);
	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	other = create(self, NR_BLOCKS);
	other_mem = gmem_map_pages(other, NR_BLOCKS * self->nr_pages);
	pfn = gmem_pfn(mem + 5 * GMEM_PAGE_SIZE);
	gmem_punch_pages(fd, 0, self->nr_pages);

	BREAK_TAKEN_BLOCK(&taker, &fd, pfn);
	stall_release("taken");
	EXPECT_EQ(job_wait(&taker), -1);
	want.nr = NR_BLOCKS;
	want.free = NR_BLOCKS;
	want.resv = NR_BLOCKS;
	EXPECT_TRUE(gmem_pool_becomes(self->block, want));

	EXPECT_EQ(gmem_peek(other_mem), 0);
	EXPECT_EQ(gmem_peek(other_mem + self->block), 0);

	kvm_munmap(other_mem, NR_BLOCKS * self->block);
	kvm_close(other);
	kvm_munmap(mem, self->block);
	kvm_close(fd);
	want.resv = 0;
	EXPECT_TRUE(gmem_pool_becomes(self->block, want));
	gmem_pool_write(self->block, "nr_hugepages", self->before.nr);
}

/* Only the file has a reference, and memory_failure() none that could be put. */
TEST_F(hugetlb, block_that_broke_while_it_was_zeroed_is_not_unpoisoned_meanwhile)
{
	static struct job taker;
	static int fd;
	u64 head;
	u8 *mem;

	if (!gmem_can_break_page(self->block) || !stall_is_supported())
		SKIP(return, "2 MiB only, CONFIG_HWPOISON_INJECT and CONFIG_GUEST_MEMFD_STALL");

	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	head = gmem_pfn(mem);
	gmem_punch_pages(fd, 0, self->nr_pages);

	BREAK_TAKEN_BLOCK(&taker, &fd, head + 5);
	EXPECT_FALSE(gmem_write_pfn(GMEM_UNPOISON_PFN, head));
	EXPECT_EQ(errno, EBUSY);
	stall_release("taken");
	EXPECT_EQ(job_wait(&taker), 0);

	kvm_munmap(mem, self->block);
	kvm_close(fd);
	EXPECT_BLOCK_LOST();
}

/*
 * Block @_head is taken and breaks, and memory_failure() is at work on a page of
 * another file for longer than anybody waits for it.  It stays in the pool as a
 * broken one of hugetlbfs would, and the file takes another.
 */
#define BREAK_FOLIO_OF_POOL(_files, _head) do {				\
	static struct job _taker, _fault, _breaking;				\
	unsigned int _i;							\
										\
	(_head) = gmem_pfn((_files)->mem);					\
	gmem_punch_pages((_files)->fd, 0, self->nr_pages);			\
	BREAK_TAKEN_BLOCK(&_taker, &(_files)->fd, (_head) + 5);			\
	/* It says EHWPOISON of a folio that is broken already. */		\
	for (_i = 6; _i < 9; _i++)						\
		gmem_write_pfn(GMEM_CORRUPT_PFN, (_head) + _i);			\
	BREAK_LOCKED_PAGE((_files)->other_mem, &_fault, &_breaking);		\
	stall_release("taken");							\
	EXPECT_EQ(job_wait(&_taker), 0);					\
	EXPECT_EQ(job_is_done(&_breaking), false);				\
	stall_release("fault_locked");						\
	job_wait(&_breaking);							\
	job_wait(&_fault);							\
} while (0)

/* The file whose block is to break, and one with a page that is locked meanwhile. */
struct two_files {
	int fd, other;
	u8 *mem, *other_mem;
};

static void open_two_files(FIXTURE_DATA(hugetlb) * self, struct two_files *files)
{
	files->other = create(self, 1);
	files->other_mem = gmem_map_pages(files->other, self->nr_pages);
	gmem_poke(files->other_mem, 1);
	files->fd = create(self, 1);
	files->mem = gmem_map_pages(files->fd, self->nr_pages);
}

static void close_two_files(FIXTURE_DATA(hugetlb) * self, struct two_files *files)
{
	kvm_munmap(files->mem, self->block);
	kvm_close(files->fd);
	kvm_munmap(files->other_mem, self->block);
	kvm_close(files->other);
}

TEST_F(hugetlb, broken_block_that_cannot_be_dissolved_stays_in_the_pool)
{
	static struct two_files files;
	u64 head;

	if (!gmem_can_break_page(self->block) || !stall_is_supported())
		SKIP(return, "2 MiB only, CONFIG_HWPOISON_INJECT and CONFIG_GUEST_MEMFD_STALL");

	open_two_files(self, &files);
	BREAK_FOLIO_OF_POOL(&files, head);
	EXPECT_POOL(-2, 0);
	EXPECT_TRUE(gmem_page_flags(head) & BIT(KPF_HWPOISON));
	EXPECT_NE(gmem_pfn(files.mem), head);

	EXPECT_TRUE(gmem_write_pfn(GMEM_UNPOISON_PFN, head));
	EXPECT_FALSE(gmem_page_flags(head) & BIT(KPF_HWPOISON));

	close_two_files(self, &files);
	EXPECT_BLOCK_LOST();
}

static long shrink_pool_job(void *unused)
{
	gmem_pool_write(SZ_2M, "nr_hugepages", 0);
	return 0;
}

#define SHRINK_ROUNDS	5

/* The list of its broken pages goes with the folio: KASAN looks. */
TEST_F(hugetlb, broken_block_is_unpoisoned_while_the_pool_gives_it_up)
{
	static struct job shrinking, unpoisoning;
	struct gmem_pool_counts want;
	static struct two_files files;
	static u64 head;
	int i;

	if (!gmem_can_break_page(self->block) || !stall_is_supported())
		SKIP(return, "2 MiB only, CONFIG_HWPOISON_INJECT and CONFIG_GUEST_MEMFD_STALL");

	for (i = 0; i < SHRINK_ROUNDS; i++) {
		open_two_files(self, &files);
		BREAK_FOLIO_OF_POOL(&files, head);
		close_two_files(self, &files);

		/* The other one is lost. */
		want = self->before;
		want.nr--;
		want.free--;
		EXPECT_TRUE(gmem_pool_becomes(self->block, want));

		job_start(&shrinking, shrink_pool_job, NULL);
		job_start(&unpoisoning, unpoison_job, &head);
		job_wait(&shrinking);
		job_wait(&unpoisoning);
		EXPECT_EQ(gmem_pool_read(self->block, "nr_hugepages"), 0);
		gmem_pool_write(self->block, "nr_hugepages", self->before.nr);
	}
}

/* Lowered while they are in use, and while they are reserved. */
TEST_F(hugetlb, surplus_block_that_is_reserved_stays_in_the_pool)
{
	struct gmem_pool_counts want = { .nr = NR_BLOCKS, .surplus = NR_BLOCKS };
	int fd = create(self, NR_BLOCKS);
	u8 *mem = gmem_map_pages(fd, NR_BLOCKS * self->nr_pages);

	if (self->block != SZ_2M) {
		kvm_munmap(mem, NR_BLOCKS * self->block);
		kvm_close(fd);
		SKIP(return, "the pool would not get its GiBs back");
	}

	gmem_poke(mem, 1);
	gmem_pool_write(self->block, "nr_hugepages", 0);
	want.free = NR_BLOCKS - 1;
	want.resv = want.free;
	EXPECT_TRUE(gmem_pool_is(self->block, want));

	gmem_punch_pages(fd, 0, self->nr_pages);
	want.free = NR_BLOCKS;
	want.resv = want.free;
	EXPECT_TRUE(gmem_pool_becomes(self->block, want));
	EXPECT_EQ(gmem_peek(mem), 0);
	EXPECT_EQ(gmem_peek(mem + self->block), 0);

	kvm_munmap(mem, NR_BLOCKS * self->block);
	kvm_close(fd);
	memset(&want, 0, sizeof(want));
	EXPECT_TRUE(gmem_pool_becomes(self->block, want));
	gmem_pool_write(self->block, "nr_hugepages", self->before.nr);
}

TEST_F(hugetlb, blocks_beyond_the_pool_are_surplus_until_they_are_back)
{
	struct gmem_pool_counts want = { .nr = 2, .free = 2, .resv = 2, .surplus = 1 };
	long overcommit;
	int fd;

	if (self->block != SZ_2M)
		SKIP(return, "there is no surplus of 1 GiB pages");

	overcommit = gmem_pool_read(self->block, "nr_overcommit_hugepages");
	gmem_pool_write(self->block, "nr_hugepages", 1);
	gmem_pool_write(self->block, "nr_overcommit_hugepages", 1);
	EXPECT_CREATE_FAILS(3 * self->block, gmem_hugetlb_flag(self->block), ENOMEM);

	fd = create(self, 2);
	EXPECT_TRUE(gmem_pool_is(self->block, want));
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 2 * self->block);
	want.free = 0;
	want.resv = 0;
	EXPECT_TRUE(gmem_pool_is(self->block, want));
	gmem_punch_pages(fd, 0, self->nr_pages);
	want.free = 1;
	want.resv = 1;
	EXPECT_TRUE(gmem_pool_becomes(self->block, want));
	kvm_close(fd);
	want = (struct gmem_pool_counts) { .nr = 1, .free = 1 };
	EXPECT_TRUE(gmem_pool_becomes(self->block, want));

	gmem_pool_write(self->block, "nr_overcommit_hugepages", overcommit);
	gmem_pool_write(self->block, "nr_hugepages", self->before.nr);
}

#define MOVABLE_GIGANTIC	"/proc/sys/vm/movable_gigantic_pages"

/* For a kernel with kernelcore= and no pages of 1 GiB: that of the pool is new. */
TEST(block_that_the_pool_grows_by_is_one_that_can_be_pinned)
{
	const char *max = "nr_overcommit_hugepages";
	struct kvm_vm *vm;
	int fd;

	if (access(MOVABLE_GIGANTIC, W_OK) || gmem_pool_read(SZ_1G, "nr_hugepages"))
		SKIP(return, "needs an empty pool of 1 GiB");
	vm = create_vm();
	gmem_write_number(MOVABLE_GIGANTIC, 1);
	gmem_pool_write(SZ_1G, max, 1);

	fd = __vm_create_guest_memfd(vm, SZ_1G, gmem_hugetlb_flag(SZ_1G));
	EXPECT_GE(fd, 0);
	EXPECT_EQ(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, SZ_1G), 0);
	EXPECT_EQ(gmem_pool_read(SZ_1G, "surplus_hugepages"), 1);
	close(fd);

	gmem_pool_write(SZ_1G, max, 0);
	gmem_write_number(MOVABLE_GIGANTIC, 0);
	kvm_vm_free(vm);
}

/* Surplus that was allocated in vain has not been in use. */
TEST_F(hugetlb, creation_that_fails_leaves_the_count_of_pages_in_use)
{
	long overcommit, huge;
	u8 *mem;

	if (self->block != SZ_2M)
		SKIP(return, "there is no surplus of 1 GiB pages");

	/* A count below 0 would be shown as 0. */
	mem = kvm_mmap(NR_BLOCKS * SZ_2M, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1);
	huge = gmem_vmstat("nr_hugetlb");
	overcommit = gmem_pool_read(self->block, "nr_overcommit_hugepages");
	gmem_pool_write(self->block, "nr_overcommit_hugepages", 1);

	EXPECT_CREATE_FAILS((self->before.free + 2) * self->block,
			    gmem_hugetlb_flag(self->block), ENOMEM);
	EXPECT_EQ(gmem_vmstat("nr_hugetlb"), huge);

	gmem_pool_write(self->block, "nr_overcommit_hugepages", overcommit);
	kvm_munmap(mem, NR_BLOCKS * SZ_2M);
}

/* The program's own code is mapped meanwhile, too. */
#define RSS_PAGES	256
#define RSS_NOISE_KB	128

#define EXPECT_RSS_GREW_BY(_nr_pages) do {					\
	long _kbytes = gmem_proc_read("/proc/self/status", "VmRSS") - rss;	\
										\
	EXPECT_LE(labs(_kbytes - (_nr_pages) * 4L), RSS_NOISE_KB);		\
} while (0)

TEST_F(hugetlb, process_has_in_its_rss_what_it_has_mapped)
{
	int fd = create(self, 1);
	u8 *mem = gmem_map_pages(fd, self->nr_pages);
	long rss = gmem_proc_read("/proc/self/status", "VmRSS");
	u64 i;

	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->block);
	EXPECT_RSS_GREW_BY(0);
	for (i = 0; i < RSS_PAGES; i++)
		gmem_poke(mem + i * GMEM_PAGE_SIZE, 1);
	EXPECT_RSS_GREW_BY(RSS_PAGES);
#ifdef __x86_64__
	gmem_pages_to_private(fd, 0, RSS_PAGES / 2);
	EXPECT_RSS_GREW_BY(RSS_PAGES / 2);
#endif
	gmem_punch_pages(fd, 0, self->nr_pages);
	EXPECT_RSS_GREW_BY(0);

	kvm_munmap(mem, self->block);
	kvm_close(fd);
}

/* Others have files, too: of less than half a block. */
#define EXPECT_GREW_BY(_name, _before, _nr_pages)				\
	EXPECT_LE(labs(gmem_vmstat(_name) - (_before) - (long)(_nr_pages)),	\
		  (long)self->nr_pages / 2)

TEST_F(hugetlb, pages_are_counted_as_of_a_file_while_a_block_is_split)
{
	long files = gmem_vmstat("nr_file_pages"), huge = gmem_vmstat("nr_hugetlb");
	long unevictable = gmem_vmstat("nr_unevictable");
	int fd = create(self, 1);

	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->block);
	EXPECT_GREW_BY("nr_file_pages", files, self->nr_pages);
	EXPECT_GREW_BY("nr_unevictable", unevictable, self->nr_pages);
	EXPECT_EQ(gmem_vmstat("nr_hugetlb"), huge);
	kvm_close(fd);
	EXPECT_POOL(0, 0);
	EXPECT_GREW_BY("nr_file_pages", files, 0);
	EXPECT_GREW_BY("nr_unevictable", unevictable, 0);
	EXPECT_EQ(gmem_vmstat("nr_hugetlb"), huge);
}

TEST_F(hugetlb, locked_block_goes_back)
{
	int fd = create(self, 1);
	u8 *mem = gmem_map_pages(fd, self->nr_pages);

	ASSERT_EQ(mlock(mem, SZ_2M), 0);
	EXPECT_POOL(-1, 0);
	kvm_munmap(mem, self->block);
	kvm_close(fd);
}

TEST_F(hugetlb, stat_tells_blocks)
{
	int fd = create(self, NR_BLOCKS);
	struct stat stat;

	ASSERT_EQ(fstat(fd, &stat), 0);
	EXPECT_EQ(stat.st_blocks, 0);
	EXPECT_EQ(stat.st_blksize, self->block);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->block);
	ASSERT_EQ(fstat(fd, &stat), 0);
	EXPECT_EQ(stat.st_blocks, self->block / 512);
	kvm_close(fd);
}

TEST_F(hugetlb, cgroup_is_charged_for_what_is_reserved_and_for_what_is_taken)
{
	int fd;

	if (!cgroup_enter_new("hugetlb.2MB.current"))
		SKIP(return, "no hugetlb cgroup");

	fd = create(self, NR_BLOCKS);
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "rsvd.current"), NR_BLOCKS * self->block);
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "current"), 0);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->block);
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "current"), self->block);
	gmem_punch_pages(fd, 0, self->nr_pages);
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "current"), 0);
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "rsvd.current"), NR_BLOCKS * self->block);
	kvm_close(fd);
	EXPECT_POOL(0, 0);
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "rsvd.current"), 0);

	EXPECT_EQ(cgroup_leave(), 0);
}

TEST_F(hugetlb, cgroup_stays_charged_while_a_block_waits)
{
	int pipes[2], fd;
	u8 *mem;

	if (!cgroup_enter_new("hugetlb.2MB.current"))
		SKIP(return, "no hugetlb cgroup");

	ASSERT_EQ(pipe(pipes), 0);
	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	page_to_pipe(pipes[1], mem);
	kvm_munmap(mem, self->block);
	kvm_close(fd);
	EXPECT_POOL(-1, 0);
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "current"), self->block);
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "rsvd.current"), self->block);

	kvm_close(pipes[0]);
	kvm_close(pipes[1]);
	EXPECT_POOL(0, 0);
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "current"), 0);
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "rsvd.current"), 0);

	EXPECT_EQ(cgroup_leave(), 0);
}

/* A cgroup without a limit would be full for everybody else meanwhile. */
TEST_F(hugetlb, more_than_there_can_be_is_not_charged)
{
	if (!cgroup_enter_new("hugetlb.2MB.current"))
		SKIP(return, "no hugetlb cgroup");

	hugetlb_cgroup_write(self->block, "rsvd.max", self->block);
	EXPECT_CREATE_FAILS((self->before.nr + 1) * self->block,
			    gmem_hugetlb_flag(self->block), ENOMEM);
	EXPECT_EQ(hugetlb_cgroup_nr_refused(self->block), 0);
	EXPECT_CREATE_FAILS(2 * self->block, gmem_hugetlb_flag(self->block), ENOMEM);
	EXPECT_EQ(hugetlb_cgroup_nr_refused(self->block), 1);

	EXPECT_EQ(cgroup_leave(), 0);
}

TEST_F(hugetlb, limits_of_a_cgroup_are_kept)
{
	u8 *mem;
	int fd;

	if (!cgroup_enter_new("hugetlb.2MB.current"))
		SKIP(return, "no hugetlb cgroup");
	hugetlb_cgroup_write(self->block, "rsvd.max", self->block);
	hugetlb_cgroup_write(self->block, "max", 0);

	EXPECT_CREATE_FAILS(2 * self->block, gmem_hugetlb_flag(self->block), ENOMEM);
	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	EXPECT_EQ(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, GMEM_PAGE_SIZE), -1);
	EXPECT_EQ(errno, ENOSPC);
	EXPECT_EQ(gmem_peek(mem), GMEM_SIGBUS);
	EXPECT_EQ(hugetlb_cgroup_nr_refused(self->block), 3);
	EXPECT_POOL(0, 1);

	hugetlb_cgroup_write(self->block, "max", self->block);
	EXPECT_EQ(gmem_peek(mem), 0);
	EXPECT_POOL(-1, 0);
	kvm_munmap(mem, self->block);
	kvm_close(fd);
	EXPECT_POOL(0, 0);
	EXPECT_EQ(cgroup_leave(), 0);
}

#define EXPECT_CHARGED(_taken, _reserved) do {					\
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "current"), _taken);		\
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "rsvd.current"), _reserved);	\
} while (0)

/* Or who holds a page of each could take all that is free. */
TEST_F(hugetlb, block_in_place_of_one_that_waits_counts_for_both_limits)
{
	int pipes[2], fd;
	u8 *mem;

	if (!cgroup_enter_new("hugetlb.2MB.current"))
		SKIP(return, "no hugetlb cgroup");
	hugetlb_cgroup_write(self->block, "rsvd.max", self->block);

	ASSERT_EQ(pipe(pipes), 0);
	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	page_to_pipe(pipes[1], mem);
	gmem_punch_pages(fd, 0, self->nr_pages);
	EXPECT_EQ(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->block), -1);
	EXPECT_EQ(errno, ENOSPC);
	hugetlb_cgroup_write(self->block, "rsvd.max", 2 * self->block);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->block);
	EXPECT_CHARGED(2 * self->block, 2 * self->block);

	/* The reservation that goes is that of the one in its place. */
	kvm_close(pipes[0]);
	kvm_close(pipes[1]);
	EXPECT_POOL(-1, 0);
	EXPECT_CHARGED(self->block, self->block);
	kvm_munmap(mem, self->block);
	kvm_close(fd);
	EXPECT_POOL(0, 0);
	EXPECT_CHARGED(0, 0);

	EXPECT_EQ(cgroup_leave(), 0);
}

/* The one that waits goes back while the one in its place is being zeroed. */
TEST_F(hugetlb, block_is_charged_once_though_it_is_taken_while_another_goes_back)
{
	static struct job taker;
	int pipes[2], i;
	static int fd;
	u8 *mem;

	if (!stall_is_supported())
		SKIP(return, "no CONFIG_GUEST_MEMFD_STALL");
	if (!cgroup_enter_new("hugetlb.2MB.current"))
		SKIP(return, "no hugetlb cgroup");

	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(pipe(pipes), 0);
		page_to_pipe(pipes[1], mem);
		gmem_punch_pages(fd, 0, self->nr_pages);
		stall_arm("taken");
		job_start(&taker, allocate_job, &fd);
		ASSERT_TRUE(stall_is_reached("taken"));
		kvm_close(pipes[0]);
		kvm_close(pipes[1]);
		EXPECT_POOL(-1, 0);
		stall_release("taken");
		EXPECT_EQ(job_wait(&taker), 0);
		EXPECT_CHARGED(self->block, self->block);
	}
	kvm_munmap(mem, self->block);
	kvm_close(fd);
	EXPECT_POOL(0, 0);
	EXPECT_CHARGED(0, 0);

	EXPECT_EQ(cgroup_leave(), 0);
}

/* The charge of a block that is split goes to the parent. */
TEST_F(hugetlb, cgroup_can_be_removed_while_blocks_are_split)
{
	int fd;

	if (!cgroup_enter_new("hugetlb.2MB.current"))
		SKIP(return, "no hugetlb cgroup");
	fd = create(self, 1);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->block);
	cgroup_enter(CGROUP_PARENT);

	EXPECT_EQ(rmdir(CGROUP), 0);
	/* It would wait for the blocks in a worker, and so would the next one. */
	usleep(200000);
	EXPECT_EQ(mkdir(CGROUP, 0755), 0);
	EXPECT_EQ(rmdir(CGROUP), 0);
	kvm_close(fd);
}

#define CGROUP_CHILD	CGROUP "/child"

TEST_F(hugetlb, parent_is_charged_for_split_blocks_of_a_cgroup_that_was_removed)
{
	FILE *file;
	int fd;

	if (mkdir(CGROUP, 0755) || access(CGROUP "/hugetlb.2MB.current", R_OK))
		SKIP(return, "no hugetlb cgroup");
	file = fopen(CGROUP "/cgroup.subtree_control", "w");
	ASSERT_TRUE(file && fputs("+hugetlb", file) >= 0 && !fclose(file));
	ASSERT_EQ(mkdir(CGROUP_CHILD, 0755), 0);
	cgroup_enter(CGROUP_CHILD);
	fd = create(self, NR_BLOCKS);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->block);
	cgroup_enter(CGROUP_PARENT);

	EXPECT_EQ(rmdir(CGROUP_CHILD), 0);
	/* A worker gives the charge to the parent. */
	usleep(200000);
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "current"), self->block);
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "rsvd.current"), NR_BLOCKS * self->block);
	gmem_punch_pages(fd, 0, self->nr_pages);
	EXPECT_POOL(0, NR_BLOCKS);
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "current"), 0);
	kvm_close(fd);
	EXPECT_POOL(0, 0);
	EXPECT_EQ(hugetlb_cgroup_read(self->block, "rsvd.current"), 0);
	EXPECT_EQ(rmdir(CGROUP), 0);
}

/* Whether memory cgroups count huge pages is for all of them. */
static void memory_cgroups_count_huge_pages(bool on)
{
	TEST_ASSERT(!mount(NULL, CGROUP_PARENT, NULL, MS_REMOUNT,
			   on ? "memory_hugetlb_accounting" : NULL),
		    "Cannot remount " CGROUP_PARENT);
}

/* By much less than a block, as there is more than blocks in a memory cgroup. */
#define EXPECT_NEAR(_value, _want) do {				\
	EXPECT_LT(_value, (long)((_want) + self->block / 4));	\
	EXPECT_GT(_value, (long)((_want) - self->block / 4));	\
} while (0)

TEST_F(hugetlb, memory_cgroup_that_counts_huge_pages_is_charged_for_what_is_taken)
{
	long before;
	int fd;

	if (mkdir(CGROUP, 0755) || access(CGROUP "/memory.current", R_OK))
		SKIP(return, "no memory cgroup");
	memory_cgroups_count_huge_pages(true);
	cgroup_enter(CGROUP);
	fd = create(self, NR_BLOCKS);
	before = cgroup_read("memory.current");

	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->block);
	EXPECT_NEAR(cgroup_read("memory.current") - before, self->block);
	gmem_punch_pages(fd, 0, self->nr_pages);
	EXPECT_POOL(0, NR_BLOCKS);
	EXPECT_NEAR(cgroup_read("memory.current") - before, 0);

	kvm_close(fd);
	cgroup_enter(CGROUP_PARENT);
	memory_cgroups_count_huge_pages(false);
	EXPECT_EQ(rmdir(CGROUP), 0);
}

/* How many of the pages, a multiple of 512, are charged to the cgroup? */
static u64 count_charged(u64 pfn, u64 nr_pages, ino_t cgroup)
{
	int fd = open_path_or_exit("/proc/kpagecgroup", O_RDONLY);
	u64 words[512], i, nr_charged = 0;

	for (i = 0; i < nr_pages; i++) {
		if (i % ARRAY_SIZE(words) == 0)
			TEST_ASSERT(pread(fd, words, sizeof(words), (pfn + i) * sizeof(*words)) ==
				    sizeof(words), "Cannot read /proc/kpagecgroup");
		nr_charged += words[i % ARRAY_SIZE(words)] == cgroup;
	}
	kvm_close(fd);
	return nr_charged;
}

/* Each of the folios by itself, and the huge one is nobody's afterwards. */
TEST_F(hugetlb, each_page_of_a_block_is_of_the_memory_cgroup_that_is_charged)
{
	struct stat cgroup;
	u8 *mem;
	u64 pfn;
	int fd;

	if (mkdir(CGROUP, 0755) || access("/proc/kpagecgroup", R_OK))
		SKIP(return, "no memory cgroup");
	memory_cgroups_count_huge_pages(true);
	cgroup_enter(CGROUP);
	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	pfn = gmem_pfn(mem);
	EXPECT_EQ(stat(CGROUP, &cgroup), 0);

	EXPECT_EQ(count_charged(pfn, self->nr_pages, cgroup.st_ino), self->nr_pages);

	kvm_munmap(mem, self->block);
	kvm_close(fd);
	EXPECT_POOL(0, 0);
	EXPECT_EQ(count_charged(pfn, self->nr_pages, 0), self->nr_pages);

	cgroup_enter(CGROUP_PARENT);
	memory_cgroups_count_huge_pages(false);
	EXPECT_EQ(rmdir(CGROUP), 0);
}

TEST_F(hugetlb, memory_cgroup_that_counts_no_huge_pages_is_not_charged)
{
	long before;
	int fd;

	if (!cgroup_enter_new("memory.current"))
		SKIP(return, "no memory cgroup");
	fd = create(self, NR_BLOCKS);
	before = cgroup_read("memory.current");

	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->block);
	EXPECT_NEAR(cgroup_read("memory.current") - before, 0);

	kvm_close(fd);
	EXPECT_EQ(cgroup_leave(), 0);
}

/* memory_failure() uncharges each page alone; so many that it can be seen. */
TEST_F(hugetlb, block_with_broken_pages_leaves_nothing_in_the_memory_cgroup)
{
	const u64 nr_broken = self->nr_pages / 2;
	long before;
	u8 *mem;
	u64 i;
	int fd;

	if (!gmem_can_break_page(self->block))
		SKIP(return, "2 MiB only, and CONFIG_HWPOISON_INJECT");
	if (mkdir(CGROUP, 0755) || access(CGROUP "/memory.current", R_OK))
		SKIP(return, "no memory cgroup");
	memory_cgroups_count_huge_pages(true);
	cgroup_enter(CGROUP);
	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	before = cgroup_read("memory.current");

	for (i = 0; i < nr_broken; i++)
		gmem_break_page(mem + i * GMEM_PAGE_SIZE);
	EXPECT_NEAR(cgroup_read("memory.current") - before, self->block / 2);
	kvm_munmap(mem, self->block);
	kvm_close(fd);
	self->before.nr--;
	self->before.free--;
	EXPECT_POOL(0, 0);
	EXPECT_NEAR(cgroup_read("memory.current") - before, 0);

	cgroup_enter(CGROUP_PARENT);
	memory_cgroups_count_huge_pages(false);
	EXPECT_EQ(rmdir(CGROUP), 0);
	gmem_pool_write(self->block, "nr_hugepages", ++self->before.nr);
	self->before.free++;
}

struct spoiler {
	int fd;
	u8 *mem;
	bool stop;
	int nr;
};

/* Blocks that have to wait, for a moment, one after the other. */
static long make_blocks_wait(void *arg)
{
	static u8 page[GMEM_PAGE_SIZE];
	struct spoiler *spoiler = arg;
	int pipes[2];

	TEST_ASSERT(!pipe(pipes), "pipe() failed");
	while (!READ_ONCE(spoiler->stop)) {
		page_to_pipe(pipes[1], spoiler->mem);
		gmem_punch_pages(spoiler->fd, 0, SZ_2M / GMEM_PAGE_SIZE);
		TEST_ASSERT(read(pipes[0], page, sizeof(page)) == sizeof(page),
			    "read() failed");
		spoiler->nr++;
	}
	kvm_close(pipes[0]);
	kvm_close(pipes[1]);
	return 0;
}

TEST_F(hugetlb, block_goes_back_though_others_keep_making_blocks_wait)
{
	static struct spoiler spoiler;
	static struct job job;
	int fd, pipes[2];
	u8 *mem;

	if (self->block != SZ_2M)
		SKIP(return, "too many blocks");
	gmem_pool_write(SZ_2M, "nr_hugepages", 512);
	spoiler.fd = create(self, 1);
	spoiler.mem = gmem_map_pages(spoiler.fd, self->nr_pages);
	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	ASSERT_EQ(pipe(pipes), 0);
	page_to_pipe(pipes[1], mem);
	gmem_punch_pages(fd, 0, self->nr_pages);
	EXPECT_EQ(gmem_fdinfo(fd, "waiting"), 1);

	job_start(&job, make_blocks_wait, &spoiler);
	while (READ_ONCE(spoiler.nr) < 10)
		usleep(1000);
	kvm_close(pipes[0]);
	kvm_close(pipes[1]);
	EXPECT_TRUE(GMEM_WAIT_FOR(!gmem_fdinfo(fd, "waiting")));
	EXPECT_FALSE(job_is_done(&job));
	WRITE_ONCE(spoiler.stop, true);
	job_wait(&job);

	kvm_munmap(mem, self->block);
	kvm_munmap(spoiler.mem, self->block);
	kvm_close(fd);
	kvm_close(spoiler.fd);
	EXPECT_TRUE(gmem_pool_becomes(SZ_2M, (struct gmem_pool_counts) {
			.nr = 512,
			.free = 512 - self->before.nr + self->before.free,
			.resv = self->before.resv,
			.surplus = self->before.surplus,
		    }));
	gmem_pool_write(SZ_2M, "nr_hugepages", self->before.nr);
}

static void *poke_page(void *page)
{
	gmem_poke(page, 1);
	return NULL;
}

/* Each thread of it that still waits for its turn would zero a block first. */
TEST_F(hugetlb, killed_process_takes_no_more_blocks)
{
	long splits = gmem_vmstat("guest_memfd_split");
	pthread_t threads[2];
	pid_t pid;
	int i;

	if (!stall_is_supported())
		SKIP(return, "no CONFIG_GUEST_MEMFD_STALL");

	stall_arm("split");
	pid = fork();
	if (!pid) {
		u8 *mem = gmem_map_pages(create_file(create_vm(), self->block, 2),
					 2 * self->nr_pages);

		for (i = 0; i < 2; i++)
			kvm_pthread_create(&threads[i], NULL, poke_page,
					   mem + i * self->block);
		pause();
	}
	ASSERT_TRUE(stall_is_reached("split"));
	usleep(STALL_BLOCKED_USECS);
	kill(pid, SIGKILL);
	ASSERT_EQ(waitpid(pid, NULL, 0), pid);
	EXPECT_EQ(gmem_vmstat("guest_memfd_split"), splits + 1);
}

/* Something of everything, until it is killed. */
static void be_busy(u64 block, int ready_fd)
{
	/* That of the parent is only for the parent. */
	struct kvm_vm *vm = create_vm();
	u64 nr_pages = block / GMEM_PAGE_SIZE;
	u8 *mem;
	int fd;

	TEST_ASSERT(write(ready_fd, "", 1) == 1, "write() failed");
	for (;;) {
		fd = create_file(vm, block, NR_BLOCKS);
		mem = gmem_map_pages(fd, NR_BLOCKS * nr_pages);
		gmem_poke(mem + block + 3 * GMEM_PAGE_SIZE, 3);
#ifdef __x86_64__
		gmem_pages_to_private(fd, 1, 2);
#endif
		mlock(mem + block, GMEM_PAGE_SIZE);
		kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, block);
		gmem_punch_pages(fd, nr_pages, nr_pages);
		kvm_close(fd);
		kvm_munmap(mem, NR_BLOCKS * block);
	}
}

/* GUEST_MEMFD_KILLS=N of a GiB, and 20 times as many of 2 MiB. */
TEST_F_TIMEOUT(hugetlb, killed_process_leaves_nothing_behind, 600)
{
	const char *kills = getenv("GUEST_MEMFD_KILLS");
	int nr = kills ? atoi(kills) : 3, i;
	int ready[2];
	pid_t pid;
	char c;

	if (self->block == SZ_2M)
		nr *= 20;
	srandom(1);
	ASSERT_EQ(pipe(ready), 0);
	for (i = 0; i < nr; i++) {
		pid = fork();
		if (!pid)
			be_busy(self->block, ready[1]);
		/* KVM_CREATE_VM warns if it is killed: sev_guest() misses a lock. */
		ASSERT_EQ(read(ready[0], &c, 1), 1);
		usleep(random() % (self->block == SZ_1G ? 2000000 : 60000));
		kill(pid, SIGKILL);
		ASSERT_EQ(waitpid(pid, NULL, 0), pid);
		EXPECT_POOL(0, 0);
	}
}

/* A guest with the first pages of the file. */
#define GUEST_SLOT	10
#define GUEST_GPA	((u64)SZ_4G)
#define GUEST_PAGES	16

static void guest_touch_once(void)
{
	WRITE_ONCE(*(u8 *)GUEST_GPA, 1);
	GUEST_DONE();
}

static void guest_touch_for_ever(void)
{
	u64 i;

	for (i = 0; ; i = (i + 1) % GUEST_PAGES)
		WRITE_ONCE(*(u8 *)(GUEST_GPA + i * GMEM_PAGE_SIZE), 1);
}

static struct kvm_vm *create_guest(struct kvm_vcpu **vcpu, void (*code)(void))
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
#ifdef __x86_64__
		.type = KVM_X86_SW_PROTECTED_VM,
#endif
	};

	return vm_create_shape_with_one_vcpu(shape, vcpu, code);
}

static void give_to_guest(struct kvm_vm *vm, int fd)
{
	TEST_ASSERT(!__vm_set_user_memory_region2(vm, GUEST_SLOT, KVM_MEM_GUEST_MEMFD,
						  GUEST_GPA, GUEST_PAGES * GMEM_PAGE_SIZE,
						  NULL, fd, 0),
		    "Cannot set the memslot");
	virt_map(vm, GUEST_GPA, GUEST_GPA, GUEST_PAGES);
}

static void *run_vcpu(void *vcpu)
{
	vcpu_run(vcpu);
	return NULL;
}

/* Until it is killed: the guest writes, the pipe has a page, another is converted. */
static void be_busy_with_a_guest(u64 block, int pipe_fd, int ready_fd)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_guest(&vcpu, guest_touch_for_ever);
	int fd = create_file(vm, block, 1);
	u8 *mem = gmem_map_pages(fd, GUEST_PAGES);
	pthread_t thread;

	give_to_guest(vm, fd);
	kvm_pthread_create(&thread, NULL, run_vcpu, vcpu);
	while (!gmem_peek(mem + (GUEST_PAGES - 1) * GMEM_PAGE_SIZE))
		usleep(1000);
	page_to_pipe(pipe_fd, mem + 3 * GMEM_PAGE_SIZE);

	TEST_ASSERT(write(ready_fd, "", 1) == 1, "write() failed");
	for (;;) {
#ifdef __x86_64__
		gmem_pages_to_private(fd, 5, 1);
		gmem_pages_to_shared(fd, 5, 1);
#endif
		gmem_peek(mem + 5 * GMEM_PAGE_SIZE);
	}
}

/* And a pipe that outlives the process only keeps the block of its page. */
TEST_F(hugetlb, killed_process_with_a_guest_leaves_nothing_behind_in_its_cgroup)
{
	int nr = self->block == SZ_2M ? 10 : 2, i;
	int ready[2], pipes[2];
	pid_t pid;
	char c;

	if (mkdir(CGROUP, 0755) || access(CGROUP "/hugetlb.2MB.current", R_OK))
		SKIP(return, "no hugetlb cgroup");
	srandom(1);
	ASSERT_EQ(pipe(ready), 0);
	for (i = 0; i < nr; i++) {
		ASSERT_EQ(pipe(pipes), 0);
		pid = fork();
		if (!pid) {
			cgroup_enter(CGROUP);
			be_busy_with_a_guest(self->block, pipes[1], ready[1]);
		}
		ASSERT_EQ(read(ready[0], &c, 1), 1);
		usleep(random() % 20000);
		kill(pid, SIGKILL);
		ASSERT_EQ(waitpid(pid, NULL, 0), pid);
		EXPECT_POOL(-1, 0);
		EXPECT_CHARGED(self->block, self->block);

		kvm_close(pipes[0]);
		kvm_close(pipes[1]);
		EXPECT_POOL(0, 0);
		EXPECT_CHARGED(0, 0);
	}
	EXPECT_EQ(rmdir(CGROUP), 0);
}

/* The pool of each node. */

static long node_pool_free(u64 block_size, int node)
{
	char path[128];

	snprintf(path, sizeof(path),
		 "/sys/devices/system/node/node%d/hugepages/hugepages-%lukB/free_hugepages",
		 node, block_size / SZ_1K);
	return access(path, R_OK) ? -1 : gmem_read_number(path);
}

FIXTURE(nodes) {
	struct kvm_vm *vm;
	struct gmem_pool_counts before;
	long free[2];
	u64 block;
	u64 nr_pages;
	int fd;
	u8 *mem;
};

GMEM_BLOCK_VARIANTS(nodes);

FIXTURE_SETUP(nodes)
{
	int node;

	self->block = variant->block;
	self->nr_pages = self->block / GMEM_PAGE_SIZE;
	/* Evenly. */
	if (self->block == SZ_2M)
		gmem_pool_write(SZ_2M, "nr_hugepages", 8);
	self->before = gmem_pool_count(self->block);
	for (node = 0; node < 2; node++) {
		self->free[node] = node_pool_free(self->block, node);
		if (self->free[node] < 1)
			SKIP(return, "needs huge pages of %lu kB on two nodes",
			     self->block / SZ_1K);
	}
	self->vm = create_vm();
	self->fd = create(self, NR_BLOCKS);
	self->mem = gmem_map_pages(self->fd, NR_BLOCKS * self->nr_pages);
}

FIXTURE_TEARDOWN(nodes)
{
	if (!self->vm)
		return;
	set_mempolicy(MPOL_DEFAULT, NULL, 0);
	kvm_munmap(self->mem, NR_BLOCKS * self->block);
	kvm_close(self->fd);
	kvm_vm_free(self->vm);
	EXPECT_TRUE(gmem_pool_becomes(self->block, self->before));
	EXPECT_EQ(node_pool_free(self->block, 0), self->free[0]);
	EXPECT_EQ(node_pool_free(self->block, 1), self->free[1]);
}

#define EXPECT_TAKEN(_first, _second) do {					\
	EXPECT_EQ(self->free[0] - node_pool_free(self->block, 0), _first);	\
	EXPECT_EQ(self->free[1] - node_pool_free(self->block, 1), _second);	\
} while (0)

/* Where the file may take memory from, by a mapping of it. */
static void bind_pages(void *mem, u64 size, int mode, unsigned long nodes)
{
	TEST_ASSERT(!mbind(mem, size, mode, &nodes, BITS_PER_LONG, 0),
		    "mbind() failed");
}

TEST_F(nodes, fault_takes_a_block_from_the_node_of_the_policy)
{
	bind_pages(self->mem, self->block, MPOL_BIND, BIT(1));
	bind_pages(self->mem + self->block, self->block, MPOL_BIND, BIT(0));

	gmem_peek(self->mem);
	EXPECT_TAKEN(0, 1);
	gmem_peek(self->mem + self->block);
	EXPECT_TAKEN(1, 1);
	gmem_punch_pages(self->fd, 0, self->nr_pages);
	EXPECT_TAKEN(1, 0);
}

TEST_F(nodes, fallocate_takes_a_block_from_the_node_of_the_policy)
{
	bind_pages(self->mem + self->block, self->block, MPOL_BIND, BIT(1));
	kvm_fallocate(self->fd, FALLOC_FL_KEEP_SIZE, self->block, GMEM_PAGE_SIZE);
	EXPECT_TAKEN(0, 1);
}

TEST_F(nodes, task_decides_where_the_file_has_no_policy)
{
	const unsigned long nodes = BIT(1);

	ASSERT_EQ(set_mempolicy(MPOL_BIND, &nodes, BITS_PER_LONG), 0);
	kvm_fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, self->block);
	EXPECT_TAKEN(0, 1);
}

TEST_F(nodes, interleaved_blocks_take_turns)
{
	bind_pages(self->mem, NR_BLOCKS * self->block, MPOL_INTERLEAVE, BIT(0) | BIT(1));
	kvm_fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, NR_BLOCKS * self->block);
	EXPECT_TAKEN(1, 1);
}

/* Instead of the VM without a vCPU and its file. */
static struct kvm_vcpu *replace_by_guest(FIXTURE_DATA(nodes) * self)
{
	struct kvm_vcpu *vcpu;

	kvm_munmap(self->mem, NR_BLOCKS * self->block);
	kvm_close(self->fd);
	kvm_vm_free(self->vm);
	self->vm = create_guest(&vcpu, guest_touch_once);
	self->fd = create(self, NR_BLOCKS);
	self->mem = gmem_map_pages(self->fd, NR_BLOCKS * self->nr_pages);
	give_to_guest(self->vm, self->fd);
	return vcpu;
}

static long run_vcpu_on_second_node(void *vcpu)
{
	const unsigned long nodes = BIT(1);

	if (set_mempolicy(MPOL_BIND, &nodes, BITS_PER_LONG))
		return -errno;
	return _vcpu_run(vcpu);
}

TEST_F(nodes, thread_of_a_vcpu_decides_where_the_file_has_no_policy)
{
	struct kvm_vcpu *vcpu = replace_by_guest(self);
	struct job guest;

	job_start(&guest, run_vcpu_on_second_node, vcpu);
	EXPECT_EQ(job_wait(&guest), 0);
	EXPECT_TAKEN(0, 1);
}

TEST_F(nodes, vcpu_takes_a_block_from_the_node_of_the_policy_of_the_file)
{
	struct kvm_vcpu *vcpu = replace_by_guest(self);
	struct job guest;

	bind_pages(self->mem, self->block, MPOL_BIND, BIT(0));
	job_start(&guest, run_vcpu_on_second_node, vcpu);
	EXPECT_EQ(job_wait(&guest), 0);
	EXPECT_TAKEN(1, 0);
}

/* All that the second node has is taken, if need be by a second file. */
static int empty_second_node(struct kvm_vm *vm, u64 block, long nr_blocks)
{
	int fd = create_file(vm, block, nr_blocks);
	void *mem = gmem_map_pages(fd, nr_blocks * block / GMEM_PAGE_SIZE);

	bind_pages(mem, nr_blocks * block, MPOL_BIND, BIT(1));
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, nr_blocks * block);
	kvm_munmap(mem, nr_blocks * block);
	return fd;
}

TEST_F(nodes, block_is_not_taken_from_another_node_than_the_policy_allows)
{
	int other, fd;
	u8 *mem;

	/* Reserved, for each of the two files, but not by node. */
	kvm_munmap(self->mem, NR_BLOCKS * self->block);
	kvm_close(self->fd);
	fd = create(self, 1);
	mem = gmem_map_pages(fd, self->nr_pages);
	other = empty_second_node(self->vm, self->block, self->free[1]);

	bind_pages(mem, self->block, MPOL_BIND, BIT(1));
	EXPECT_EQ(gmem_peek(mem), GMEM_SIGBUS);
	EXPECT_EQ(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->block), -1);
	EXPECT_EQ(errno, ENOSPC);
	EXPECT_TAKEN(0, self->free[1]);
	kvm_close(other);
	EXPECT_EQ(gmem_peek(mem), 0);
	EXPECT_TAKEN(0, 1);

	self->fd = fd;
	self->mem = kvm_mmap(NR_BLOCKS * self->block, PROT_NONE, MAP_SHARED, fd);
	kvm_munmap(mem, self->block);
}

#define CPUSET_FILE(_name)	CGROUP "/cpuset." _name

TEST_F(nodes, block_is_only_taken_from_a_node_that_the_cpuset_allows)
{
	FILE *file;

	if (mkdir(CGROUP, 0755) || access(CPUSET_FILE("mems"), W_OK))
		SKIP(return, "no cpuset");
	file = fopen(CPUSET_FILE("mems"), "w");
	ASSERT_TRUE(file && fprintf(file, "1") > 0 && !fclose(file));
	cgroup_enter(CGROUP);

	kvm_fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, self->block);
	EXPECT_TAKEN(0, 1);

	EXPECT_EQ(cgroup_leave(), 0);
}

TEST_HARNESS_MAIN
