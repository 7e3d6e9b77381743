// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who gets to see a page of a guest_memfd through mmap(): every mapping of a
 * process, by a touch, by something that maps without a touch, or by the
 * kernel on behalf of user space.  See guest_memfd_bystanders_test.c for other
 * processes.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define PAGES_PER_2M	(SZ_2M / GMEM_PAGE_SIZE)
#define FILE_PAGES	(2 * PAGES_PER_2M)

/*
 * A file that is all shared, with nothing allocated, and a mapping of it.
 */
FIXTURE(mapping) {
	struct kvm_vm *vm;
	int fd;
	u8 *mem;
};

FIXTURE_SETUP(mapping)
{
	if (!gmem_can_convert())
		SKIP(return, "no VM type with private memory");

	self->fd = gmem_create_shared(&self->vm, FILE_PAGES);
	self->mem = gmem_map_pages(self->fd, FILE_PAGES);
}

FIXTURE_TEARDOWN(mapping)
{
	kvm_munmap(self->mem, FILE_PAGES * GMEM_PAGE_SIZE);
	close(self->fd);
	kvm_vm_free(self->vm);
}

#define page(n)			(self->mem + (n) * GMEM_PAGE_SIZE)

#define EXPECT_SHARED(n)	EXPECT_NE(GMEM_SIGBUS, gmem_peek(page(n)))
#define EXPECT_PRIVATE(n)	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(page(n)))

/*
 * Several mappings
 */

TEST_F(mapping, all_of_a_process_are_unmapped)
{
	const u64 nr = 8, first = PAGES_PER_2M;
	u8 *again = gmem_map_pages(self->fd, FILE_PAGES);
	u8 *part = __kvm_mmap(nr * GMEM_PAGE_SIZE, PROT_READ, MAP_SHARED,
			      self->fd, first * GMEM_PAGE_SIZE);

	gmem_poke(page(first + 1), 0x55);
	EXPECT_EQ(0x55, gmem_peek(again + (first + 1) * GMEM_PAGE_SIZE));
	EXPECT_EQ(0x55, gmem_peek(part + GMEM_PAGE_SIZE));

	gmem_pages_to_private(self->fd, first + 1, 1);
	EXPECT_PRIVATE(first + 1);
	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(again + (first + 1) * GMEM_PAGE_SIZE));
	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(part + GMEM_PAGE_SIZE));
	EXPECT_NE(GMEM_SIGBUS, gmem_peek(part));
	EXPECT_NE(GMEM_SIGBUS, gmem_peek(part + 2 * GMEM_PAGE_SIZE));

	gmem_pages_to_shared(self->fd, first + 1, 1);
	EXPECT_EQ(0x55, gmem_peek(again + (first + 1) * GMEM_PAGE_SIZE));
	EXPECT_EQ(0x55, gmem_peek(part + GMEM_PAGE_SIZE));

	kvm_munmap(part, nr * GMEM_PAGE_SIZE);
	kvm_munmap(again, FILE_PAGES * GMEM_PAGE_SIZE);
}

TEST_F(mapping, one_made_while_private_works_once_shared)
{
	u8 *late;

	gmem_poke(page(5), 0x55);
	gmem_pages_to_private(self->fd, 5, 1);
	late = gmem_map_pages(self->fd, FILE_PAGES);
	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(late + 5 * GMEM_PAGE_SIZE));

	gmem_pages_to_shared(self->fd, 5, 1);
	EXPECT_EQ(0x55, gmem_peek(late + 5 * GMEM_PAGE_SIZE));

	kvm_munmap(late, FILE_PAGES * GMEM_PAGE_SIZE);
}

TEST_F(mapping, outlives_the_file_descriptor_with_its_states)
{
	gmem_poke(page(4), 0x44);
	gmem_pages_to_private(self->fd, 5, 1);
	close(self->fd);

	EXPECT_EQ(0x44, gmem_peek(page(4)));
	EXPECT_PRIVATE(5);
}

/*
 * What is mapped without a touch
 */

TEST_F(mapping, mlocked_page_can_be_converted)
{
	ASSERT_EQ(0, mlock(page(4), 3 * GMEM_PAGE_SIZE));
	gmem_pages_to_private(self->fd, 5, 1);

	EXPECT_PRIVATE(5);
	EXPECT_SHARED(4);
	EXPECT_SHARED(6);
}

/*
 * Unmapping a locked page leaves a reference in a batch of the CPU.  With every
 * second page private there are many runs to unmap, and the task is made to
 * change its CPU between any two steps.
 */
#define NR_MLOCKED	256
#define NR_ROUNDS	10

static struct {
	pid_t tid;
	bool stop;
} migration;

static void *migrate_task(void *arg)
{
	cpu_set_t cpus;
	int cpu = 0;

	while (!READ_ONCE(migration.stop)) {
		cpu ^= 1;
		CPU_ZERO(&cpus);
		CPU_SET(cpu, &cpus);
		sched_setaffinity(migration.tid, sizeof(cpus), &cpus);
	}
	return NULL;
}

static int convert_mlocked_pages(int fd, u8 *mem)
{
	u64 error_offset;
	int i;

	gmem_pages_to_shared(fd, 0, NR_MLOCKED);
	for (i = 1; i < NR_MLOCKED; i += 2)
		gmem_pages_to_private(fd, i, 1);
	for (i = 0; i < NR_MLOCKED; i += 2)
		gmem_poke(mem + i * GMEM_PAGE_SIZE, i);

	return __gmem_set_memory_attributes(fd, 0, NR_MLOCKED * GMEM_PAGE_SIZE,
					    KVM_MEMORY_ATTRIBUTE_PRIVATE,
					    &error_offset);
}

TEST_F(mapping, mlocked_runs_convert_while_the_task_changes_its_cpu)
{
	pthread_t thread;
	int i;

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "there is only one CPU");

	ASSERT_EQ(0, mlock(page(0), NR_MLOCKED * GMEM_PAGE_SIZE));
	migration.tid = syscall(SYS_gettid);
	migration.stop = false;
	kvm_pthread_create(&thread, NULL, migrate_task, NULL);

	for (i = 0; i < NR_ROUNDS; i++)
		EXPECT_EQ(0, convert_mlocked_pages(self->fd, self->mem));

	WRITE_ONCE(migration.stop, true);
	kvm_pthread_join(thread, NULL);
}

TEST_F(mapping, populate_up_to_a_private_page)
{
	u8 *mem;

	gmem_pages_to_private(self->fd, 5, 1);
	mem = __kvm_mmap(10 * GMEM_PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_POPULATE, self->fd, 0);

	EXPECT_TRUE(gmem_is_mapped(mem));
	EXPECT_TRUE(gmem_is_mapped(mem + 4 * GMEM_PAGE_SIZE));
	EXPECT_FALSE(gmem_is_mapped(mem + 5 * GMEM_PAGE_SIZE));
	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(mem + 5 * GMEM_PAGE_SIZE));
	EXPECT_EQ(0, gmem_peek(mem + 6 * GMEM_PAGE_SIZE));

	kvm_munmap(mem, 10 * GMEM_PAGE_SIZE);
}

TEST_F(mapping, madvise_populate_says_that_a_page_is_private)
{
	gmem_pages_to_private(self->fd, 5, 1);

	EXPECT_EQ(0, madvise(page(0), 5 * GMEM_PAGE_SIZE, MADV_POPULATE_WRITE));
	EXPECT_EQ(-1, madvise(page(0), 6 * GMEM_PAGE_SIZE, MADV_POPULATE_WRITE));
	EXPECT_EQ(EFAULT, errno);
}

/*
 * The window around a fault is aligned in the address space, so whatever the
 * alignment of the mapping is, one of the two touches has page 20 in its own.
 * The first touch of all may only make the table.
 */
static void check_around(struct __test_metadata *_metadata, FIXTURE_DATA(mapping) * self,
			 bool write)
{
	u64 i, nr_mapped = 0;
	u8 *mem;

	for (i = 0; i < 40; i++)
		gmem_poke(page(i), i);
	gmem_pages_to_private(self->fd, 20, 1);

	mem = gmem_map_pages(self->fd, 40);
	for (i = 19; i < 22; i += 2) {
		gmem_peek(mem);
		EXPECT_EQ(write ? 0 : i, write ? gmem_poke(mem + i * GMEM_PAGE_SIZE, i) :
					 gmem_peek(mem + i * GMEM_PAGE_SIZE));
	}
	for (i = 17; i < 40; i++)
		nr_mapped += gmem_is_mapped(mem + i * GMEM_PAGE_SIZE);

	EXPECT_LT(2, nr_mapped)
		TH_LOG("no fault-around, so nothing was tested");
	EXPECT_FALSE(gmem_is_mapped(mem + 20 * GMEM_PAGE_SIZE));
	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(mem + 20 * GMEM_PAGE_SIZE));

	kvm_munmap(mem, 40 * GMEM_PAGE_SIZE);
}

TEST_F(mapping, fault_around_a_read_leaves_private_pages_out)
{
	check_around(_metadata, self, false);
}

TEST_F(mapping, fault_around_a_write_leaves_private_pages_out)
{
	check_around(_metadata, self, true);
}

/*
 * Access by the kernel, on behalf of user space
 */

static ssize_t vm_read(void *from, void *to, size_t size)
{
	struct iovec local = { to, size }, remote = { from, size };

	return process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
}

static ssize_t vm_write(void *to, void *from, size_t size)
{
	struct iovec local = { from, size }, remote = { to, size };

	return process_vm_writev(getpid(), &local, 1, &remote, 1, 0);
}

TEST_F(mapping, gup_of_a_shared_page)
{
	u8 byte = 0;

	gmem_poke(page(5), 0x55);
	EXPECT_EQ(1, vm_read(page(5), &byte, 1));
	EXPECT_EQ(0x55, byte);

	byte = 0x66;
	EXPECT_EQ(1, vm_write(page(6), &byte, 1));
	EXPECT_EQ(0x66, gmem_peek(page(6)));
}

TEST_F(mapping, gup_of_a_private_page_is_efault)
{
	u8 byte = 0;

	gmem_poke(page(5), 0x55);
	gmem_pages_to_private(self->fd, 5, 1);

	EXPECT_EQ(-1, vm_read(page(5), &byte, 1));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, vm_write(page(5), &byte, 1));
	EXPECT_EQ(EFAULT, errno);

	gmem_pages_to_shared(self->fd, 5, 1);
	EXPECT_EQ(0x55, gmem_peek(page(5)));
}

TEST_F(mapping, read_and_write_of_a_shared_page)
{
	int fds[2];

	ASSERT_EQ(0, pipe(fds));
	gmem_stamp(page(5), 1);

	EXPECT_EQ(GMEM_PAGE_SIZE, write(fds[1], page(5), GMEM_PAGE_SIZE));
	EXPECT_EQ(GMEM_PAGE_SIZE, read(fds[0], page(6), GMEM_PAGE_SIZE));
	EXPECT_TRUE(gmem_has_stamp(page(6), 1));
}

TEST_F(mapping, read_and_write_of_a_private_page_are_efault)
{
	int fds[2];
	u8 byte = 0;

	ASSERT_EQ(0, pipe(fds));
	ASSERT_EQ(1, write(fds[1], &byte, 1));
	gmem_poke(page(5), 0x55);
	gmem_pages_to_private(self->fd, 5, 1);

	EXPECT_EQ(-1, write(fds[1], page(5), 1));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, read(fds[0], page(5), 1));
	EXPECT_EQ(EFAULT, errno);
}

TEST_F(mapping, proc_mem_of_a_private_page_is_eio)
{
	int fd = open_path_or_exit("/proc/self/mem", O_RDWR);
	u8 byte = 0;

	gmem_poke(page(4), 0x44);
	gmem_pages_to_private(self->fd, 5, 1);

	EXPECT_EQ(1, pread(fd, &byte, 1, (uintptr_t)page(4)));
	EXPECT_EQ(0x44, byte);
	EXPECT_EQ(-1, pread(fd, &byte, 1, (uintptr_t)page(5)));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-1, pwrite(fd, &byte, 1, (uintptr_t)page(5)));
	EXPECT_EQ(EIO, errno);

	close(fd);
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
