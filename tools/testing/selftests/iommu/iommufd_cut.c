// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA by a real device next to a page whose IOPTE changes: the large IOPTE that
 * translates it is cut, the page made non-present and mapped again, the IOPTE
 * joined.
 *
 * Takes an NVMe controller that is bound to vfio-pci, and writes to the disk
 * behind it: argv[1] or the first there is.  Needs CONFIG_IOMMUFD_TEST and a
 * free huge page of 1 GiB.
 */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#define __EXPORTED_HEADERS__
#include "../../../../drivers/iommu/iommufd/iommufd_test.h"
#include "kselftest_harness.h"

#define PAGE		4096UL
#define PMD		0x200000UL
#define HUGE		0x40000000UL
#define HUGE_IOVA	(4 * HUGE)
#define CONTROL		PMD
#define CONTROL_IOVA	HUGE

/* How often the IOPTE of 1 GiB is cut and joined: IOMMUFD_CUT_ROUNDS */
#define ROUNDS		10000

static const char *bdf;

/* ---- A tiny driver: an admin queue, one queue for I/O, one command at a time */

#define NVME_ENTRIES	16

struct nvme_command {
	uint8_t opcode, flags;
	uint16_t id;
	uint32_t nsid;
	uint64_t reserved, metadata, prp1, prp2;
	uint32_t cdw10, cdw11, cdw12, cdw13, cdw14, cdw15;
};

struct nvme_completion {
	uint32_t result, reserved;
	uint16_t sq_head, sq_id, id, status;
};

struct nvme_queue {
	struct nvme_command *sq;
	struct nvme_completion *cq;
	uint32_t *sq_doorbell, *cq_doorbell;
	unsigned int tail, head, phase;
};

struct nvme {
	uint8_t *bar;
	uint8_t *control;
	unsigned int stride;
	struct nvme_queue admin, io;
	pthread_mutex_t lock;
};

static uint32_t *nvme_reg(struct nvme *nvme, unsigned int offset)
{
	return (uint32_t *)(nvme->bar + offset);
}

static uint32_t nvme_read(struct nvme *nvme, unsigned int offset)
{
	return __atomic_load_n(nvme_reg(nvme, offset), __ATOMIC_ACQUIRE);
}

/* After all that was written to memory before */
static void mmio_write(uint32_t *reg, uint32_t value)
{
	__atomic_store_n(reg, value, __ATOMIC_RELEASE);
}

static void nvme_write(struct nvme *nvme, unsigned int offset, uint32_t value)
{
	mmio_write(nvme_reg(nvme, offset), value);
}

static void nvme_write64(struct nvme *nvme, unsigned int offset, uint64_t value)
{
	nvme_write(nvme, offset, value);
	nvme_write(nvme, offset + 4, value >> 32);
}

static void nvme_queue_init(struct nvme *nvme, struct nvme_queue *queue,
			    unsigned int id)
{
	*queue = (struct nvme_queue) {
		.sq = (void *)(nvme->control + 2 * id * PAGE),
		.cq = (void *)(nvme->control + (2 * id + 1) * PAGE),
		.sq_doorbell = nvme_reg(nvme, 0x1000 + 2 * id * nvme->stride),
		.cq_doorbell = nvme_reg(nvme,
					0x1000 + (2 * id + 1) * nvme->stride),
		.phase = 1,
	};
}

/* The status, or -1 if the device does not answer within some seconds */
static int nvme_submit(struct nvme_queue *queue, struct nvme_command command)
{
	struct nvme_completion *done = &queue->cq[queue->head];
	time_t limit = time(NULL) + 20;
	int status;

	command.id = queue->tail;
	queue->sq[queue->tail] = command;
	queue->tail = (queue->tail + 1) % NVME_ENTRIES;
	mmio_write(queue->sq_doorbell, queue->tail);

	do {
		if (time(NULL) > limit)
			return -1;
		status = __atomic_load_n(&done->status, __ATOMIC_ACQUIRE);
	} while ((status & 1) != queue->phase);
	queue->head = (queue->head + 1) % NVME_ENTRIES;
	if (!queue->head)
		queue->phase ^= 1;
	mmio_write(queue->cq_doorbell, queue->head);
	return status >> 1;
}

static bool nvme_wait_ready(struct nvme *nvme, unsigned int ready)
{
	time_t limit = time(NULL) + 20;

	while ((nvme_read(nvme, 0x1c) & 1) != ready)
		if (time(NULL) > limit)
			return false;
	return true;
}

static bool nvme_init(struct nvme *nvme, void *bar, void *control)
{
	pthread_mutex_init(&nvme->lock, NULL);
	nvme->bar = bar;
	nvme->control = control;
	nvme->stride = 4 << (nvme_read(nvme, 4) & 0xf);

	nvme_write(nvme, 0x14, 0);
	if (!nvme_wait_ready(nvme, 0))
		return false;
	nvme_queue_init(nvme, &nvme->admin, 0);
	nvme_queue_init(nvme, &nvme->io, 1);
	nvme_write(nvme, 0x24, (NVME_ENTRIES - 1) << 16 | (NVME_ENTRIES - 1));
	nvme_write64(nvme, 0x28, CONTROL_IOVA);
	nvme_write64(nvme, 0x30, CONTROL_IOVA + PAGE);
	nvme_write(nvme, 0x14, 4 << 20 | 6 << 16 | 1);
	if (!nvme_wait_ready(nvme, 1))
		return false;

	/* A completion queue, no interrupt, and a submission queue for it */
	return !nvme_submit(&nvme->admin, (struct nvme_command) {
			.opcode = 5, .prp1 = CONTROL_IOVA + 3 * PAGE,
			.cdw10 = (NVME_ENTRIES - 1) << 16 | 1, .cdw11 = 1 }) &&
	       !nvme_submit(&nvme->admin, (struct nvme_command) {
			.opcode = 1, .prp1 = CONTROL_IOVA + 2 * PAGE,
			.cdw10 = (NVME_ENTRIES - 1) << 16 | 1,
			.cdw11 = 1 << 16 | 1 });
}

enum { DISK_WRITE = 1, DISK_READ = 2 };

/* One page between memory and disk, in sectors of 512 bytes */
static int nvme_io(struct nvme *nvme, int opcode, uint64_t iova,
		   unsigned int disk_page)
{
	int status;

	pthread_mutex_lock(&nvme->lock);
	status = nvme_submit(&nvme->io, (struct nvme_command) {
		.opcode = opcode, .nsid = 1, .prp1 = iova,
		.cdw10 = disk_page * 8, .cdw12 = 7 });
	pthread_mutex_unlock(&nvme->lock);
	return status;
}

/* ---- The device by VFIO, in an address space of iommufd */

static bool find_device(char *path, size_t size)
{
	char name[PATH_MAX];
	struct dirent *entry;
	char device[64] = "";
	DIR *dir;

	dir = opendir("/sys/bus/pci/drivers/vfio-pci");
	while (dir && !device[0] && (entry = readdir(dir)))
		if (strchr(entry->d_name, ':') &&
		    (!bdf || !strcmp(bdf, entry->d_name)))
			snprintf(device, sizeof(device), "%.32s", entry->d_name);
	if (dir)
		closedir(dir);
	if (!device[0])
		return false;

	snprintf(name, sizeof(name), "/sys/bus/pci/devices/%s/vfio-dev", device);
	dir = opendir(name);
	path[0] = 0;
	while (dir && !path[0] && (entry = readdir(dir)))
		if (!strncmp(entry->d_name, "vfio", 4))
			snprintf(path, size, "/dev/vfio/devices/%.32s",
				 entry->d_name);
	if (dir)
		closedir(dir);
	return path[0];
}

struct device {
	int iommufd, device;
	uint32_t ioas, hwpt;
	/* The huge page, and what the device is told by */
	uint8_t *memory, *control;
	struct nvme nvme;
};

FIXTURE(cut)
{
	struct device dev;
};

static int map_iova(int iommufd, uint32_t ioas, void *memory, uint64_t len,
		    uint64_t iova)
{
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = ioas,
		.user_va = (uintptr_t)memory,
		.length = len,
		.iova = iova,
	};

	return ioctl(iommufd, IOMMU_IOAS_MAP, &map);
}

FIXTURE_SETUP(cut)
{
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };
	struct vfio_region_info region = { .argsz = sizeof(region) };
	struct iommu_hwpt_alloc hwpt = { .size = sizeof(hwpt) };
	struct device *dev = &self->dev;
	uint16_t command;
	char path[64];
	void *bar;

	if (!find_device(path, sizeof(path)))
		SKIP(return, "no device is bound to vfio-pci");
	dev->memory = mmap(NULL, HUGE, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB |
			   30 << MAP_HUGE_SHIFT, -1, 0);
	if (dev->memory == MAP_FAILED)
		SKIP(return, "no huge page of 1 GiB");
	dev->control = mmap(NULL, CONTROL, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, dev->control);

	dev->iommufd = open("/dev/iommu", O_RDWR);
	ASSERT_LE(0, dev->iommufd);
	ASSERT_EQ(0, ioctl(dev->iommufd, IOMMU_IOAS_ALLOC, &ioas));
	dev->ioas = ioas.out_ioas_id;

	dev->device = open(path, O_RDWR);
	ASSERT_LE(0, dev->device);
	bind.iommufd = dev->iommufd;
	ASSERT_EQ(0, ioctl(dev->device, VFIO_DEVICE_BIND_IOMMUFD, &bind));
	hwpt.dev_id = bind.out_devid;
	hwpt.pt_id = dev->ioas;
	ASSERT_EQ(0, ioctl(dev->iommufd, IOMMU_HWPT_ALLOC, &hwpt));
	dev->hwpt = hwpt.out_hwpt_id;
	attach.pt_id = dev->hwpt;
	ASSERT_EQ(0, ioctl(dev->device, VFIO_DEVICE_ATTACH_IOMMUFD_PT,
			   &attach));

	ASSERT_EQ(0, map_iova(dev->iommufd, dev->ioas, dev->memory, HUGE,
			      HUGE_IOVA));
	ASSERT_EQ(0, map_iova(dev->iommufd, dev->ioas, dev->control, CONTROL,
			      CONTROL_IOVA));

	region.index = VFIO_PCI_CONFIG_REGION_INDEX;
	ASSERT_EQ(0, ioctl(dev->device, VFIO_DEVICE_GET_REGION_INFO, &region));
	ASSERT_EQ(2, pread(dev->device, &command, 2,
			   region.offset + PCI_COMMAND));
	command |= PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	ASSERT_EQ(2, pwrite(dev->device, &command, 2,
			    region.offset + PCI_COMMAND));
	region.argsz = sizeof(region);
	region.index = VFIO_PCI_BAR0_REGION_INDEX;
	ASSERT_EQ(0, ioctl(dev->device, VFIO_DEVICE_GET_REGION_INFO, &region));
	bar = mmap(NULL, 0x2000, PROT_READ | PROT_WRITE, MAP_SHARED,
		   dev->device, region.offset);
	ASSERT_NE(MAP_FAILED, bar);
	ASSERT_TRUE(nvme_init(&dev->nvme, bar, dev->control));
}

FIXTURE_TEARDOWN(cut)
{
	close(self->dev.device);
	close(self->dev.iommufd);
	munmap(self->dev.memory, HUGE);
}

static int cut(struct device *dev, uint64_t iova, unsigned int *tables)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_HWPT_CUT,
		.id = dev->hwpt,
		.hwpt_cut = { .iova = iova, .length = PAGE },
	};
	int ret = ioctl(dev->iommufd, IOMMU_TEST_CMD, &cmd);

	*tables = cmd.hwpt_cut.out_num_tables;
	return ret;
}

static int join(struct device *dev, uint64_t iova)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_HWPT_JOIN,
		.id = dev->hwpt,
		.hwpt_join = {
			.iova = iova,
			.length = PAGE,
			.first_iova = HUGE_IOVA,
			.last_iova = HUGE_IOVA + HUGE - 1,
		},
	};

	return ioctl(dev->iommufd, IOMMU_TEST_CMD, &cmd);
}

static int make_non_present(struct device *dev, uint64_t iova,
			    uint64_t *paddr, unsigned int flags)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_HWPT_REPLACE,
		.id = dev->hwpt,
		.hwpt_replace = { .iova = iova, .length = PAGE, .flags = flags },
	};
	int ret = ioctl(dev->iommufd, IOMMU_TEST_CMD, &cmd);

	*paddr = cmd.hwpt_replace.paddr;
	return ret;
}

static int map_again(struct device *dev, uint64_t iova, uint64_t paddr)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_HWPT_REPLACE,
		.id = dev->hwpt,
		.hwpt_replace = {
			.iova = iova, .length = PAGE, .paddr = paddr, .map = 1,
		},
	};

	return ioctl(dev->iommufd, IOMMU_TEST_CMD, &cmd);
}

static void fill(uint8_t *page, uint64_t value)
{
	uint64_t *words = (void *)page;
	unsigned int i;

	for (i = 0; i < PAGE / sizeof(*words); i++)
		words[i] = value + i;
}

static bool holds(uint8_t *page, uint64_t value)
{
	uint64_t *words = (void *)page;
	unsigned int i;

	for (i = 0; i < PAGE / sizeof(*words); i++)
		if (words[i] != value + i)
			return false;
	return true;
}

/* The page that a read from the disk writes to, with what is on disk at page */
static bool device_writes(struct device *dev, uint64_t offset,
			  unsigned int disk_page, uint64_t value)
{
	fill(dev->memory + offset, ~value);
	nvme_io(&dev->nvme, DISK_READ, HUGE_IOVA + offset, disk_page);
	return holds(dev->memory + offset, value);
}

/* ---- Neighbours that give and get data all the time */

struct neighbours {
	struct device *dev;
	uint64_t hole;
	bool stop;
	unsigned long done, bad;
};

/*
 * From one page to the disk and back to another one: next to the hole, in the
 * same 2 MiB or anywhere else in the 1 GiB.
 */
static void *exchange(void *arg)
{
	struct neighbours *neighbours = arg;
	struct device *dev = neighbours->dev;
	unsigned int seed = 1;

	while (!__atomic_load_n(&neighbours->stop, __ATOMIC_RELAXED)) {
		uint64_t hole = __atomic_load_n(&neighbours->hole,
						__ATOMIC_RELAXED);
		uint64_t value = neighbours->done * 0x9e3779b97f4a7c15;
		uint64_t from, to;

		switch (neighbours->done % 3) {
		case 0:
			from = hole - PAGE;
			to = hole + PAGE;
			break;
		case 1:
			from = (hole & -PMD) + (rand_r(&seed) % 512) * PAGE;
			to = hole - PAGE;
			break;
		default:
			from = hole + PAGE;
			to = (rand_r(&seed) % (HUGE / PAGE)) * PAGE;
		}
		/* The hole moves while this runs: it keeps to odd places */
		from &= ~PAGE;
		to &= ~PAGE;
		if (from == to)
			to ^= 2 * PAGE;

		fill(dev->memory + from, value);
		fill(dev->memory + to, ~value);
		if (nvme_io(&dev->nvme, DISK_WRITE, HUGE_IOVA + from, 0) ||
		    nvme_io(&dev->nvme, DISK_READ, HUGE_IOVA + to, 0) ||
		    !holds(dev->memory + to, value))
			__atomic_add_fetch(&neighbours->bad, 1, __ATOMIC_RELAXED);
		__atomic_add_fetch(&neighbours->done, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static uint64_t next_hole(unsigned int *seed)
{
	/* Not the first or last of the 1 GiB, and odd */
	return (1 + rand_r(seed) % (HUGE / PAGE / 2 - 2)) * 2 * PAGE + PAGE;
}

/*
 * Each round takes two page tables, so the IOPTE was whole again after the one
 * before; the neighbours miss nothing.
 */
TEST_F_TIMEOUT(cut, neighbours_keep_their_translation, 1200)
{
	const char *env = getenv("IOMMUFD_CUT_ROUNDS");
	unsigned int rounds = env ? atoi(env) : ROUNDS;
	struct neighbours neighbours = { .dev = &self->dev };
	unsigned int round, tables, seed = 2;
	pthread_t thread;
	uint64_t paddr;

	neighbours.hole = next_hole(&seed);
	ASSERT_EQ(0, pthread_create(&thread, NULL, exchange, &neighbours));
	/* The disk is to have met all states of the table, however slow it is */
	for (round = 0; round < rounds || __atomic_load_n(&neighbours.done, __ATOMIC_RELAXED) <=
					  rounds / 20; round++) {
		uint64_t hole = next_hole(&seed), iova = HUGE_IOVA + hole;

		__atomic_store_n(&neighbours.hole, hole, __ATOMIC_RELAXED);
		ASSERT_EQ(0, cut(&self->dev, iova, &tables));
		ASSERT_EQ(2, tables);
		ASSERT_EQ(0, make_non_present(&self->dev, iova, &paddr, 0));
		ASSERT_EQ(0, map_again(&self->dev, iova, paddr));
		ASSERT_EQ(0, join(&self->dev, iova));
		if (__atomic_load_n(&neighbours.bad, __ATOMIC_RELAXED))
			break;
	}
	__atomic_store_n(&neighbours.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, neighbours.bad);
	EXPECT_LE(rounds, round);
	TH_LOG("%u rounds, %lu exchanges with the disk", round,
	       neighbours.done);
	EXPECT_LT(rounds / 20, neighbours.done);
}

/* Neither the IOPTE of 1 GiB nor that of 4 KiB is left in the IOTLB */
TEST_F_TIMEOUT(cut, page_is_out_of_reach_while_non_present, 300)
{
	unsigned int round, tables, seed = 3;
	uint64_t paddr, again;

	fill(self->dev.memory, 1);
	ASSERT_EQ(0, nvme_io(&self->dev.nvme, DISK_WRITE, HUGE_IOVA, 1));

	for (round = 0; round < 200; round++) {
		uint64_t hole = next_hole(&seed), iova = HUGE_IOVA + hole;

		/* Fetch both */
		ASSERT_TRUE(device_writes(&self->dev, hole, 1, 1));
		ASSERT_EQ(0, cut(&self->dev, iova, &tables));
		ASSERT_TRUE(device_writes(&self->dev, hole, 1, 1));

		ASSERT_EQ(0, make_non_present(&self->dev, iova, &paddr, 0));
		ASSERT_FALSE(device_writes(&self->dev, hole, 1, 1));
		ASSERT_TRUE(holds(self->dev.memory + hole, ~1UL));
		ASSERT_TRUE(device_writes(&self->dev, hole - PAGE, 1, 1));
		ASSERT_TRUE(device_writes(&self->dev, hole + PAGE, 1, 1));

		ASSERT_EQ(0, map_again(&self->dev, iova, paddr));
		ASSERT_TRUE(device_writes(&self->dev, hole, 1, 1));
		ASSERT_EQ(0, join(&self->dev, iova));
		ASSERT_TRUE(device_writes(&self->dev, hole, 1, 1));

		/* It came back as part of the large one */
		ASSERT_EQ(0, cut(&self->dev, iova, &tables));
		ASSERT_EQ(2, tables);
		ASSERT_EQ(0, make_non_present(&self->dev, iova, &again, 0));
		ASSERT_EQ(paddr, again);
		ASSERT_EQ(0, map_again(&self->dev, iova, paddr));
		ASSERT_EQ(0, join(&self->dev, iova));
	}
}

/* What the last test looks for is seen when there is no flush */
TEST_F(cut, stale_translation_is_noticed)
{
	uint64_t hole = HUGE / 2 + PAGE, iova = HUGE_IOVA + hole, paddr, none;
	unsigned int tables;

	fill(self->dev.memory, 1);
	ASSERT_EQ(0, nvme_io(&self->dev.nvme, DISK_WRITE, HUGE_IOVA, 1));
	ASSERT_EQ(0, cut(&self->dev, iova, &tables));
	ASSERT_TRUE(device_writes(&self->dev, hole, 1, 1));
	ASSERT_EQ(0, make_non_present(&self->dev, iova, &paddr,
				      IOMMU_TEST_HWPT_NO_SYNC));
	EXPECT_TRUE(device_writes(&self->dev, hole, 1, 1));

	ASSERT_EQ(0, make_non_present(&self->dev, iova, &none, 0));
	EXPECT_EQ(0, none);
	EXPECT_FALSE(device_writes(&self->dev, hole, 1, 1));
	ASSERT_EQ(0, map_again(&self->dev, iova, paddr));
	ASSERT_EQ(0, join(&self->dev, iova));
}

/* Without a cut nothing of the large IOPTE is changed */
TEST_F(cut, part_of_an_iopte_is_not_replaced)
{
	uint64_t hole = HUGE / 2 + PAGE, paddr;

	fill(self->dev.memory, 1);
	ASSERT_EQ(0, nvme_io(&self->dev.nvme, DISK_WRITE, HUGE_IOVA, 1));
	EXPECT_EQ(-1, make_non_present(&self->dev, HUGE_IOVA + hole, &paddr, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_TRUE(device_writes(&self->dev, hole, 1, 1));
}

int main(int argc, char **argv)
{
	if (argc > 1 && strchr(argv[1], ':')) {
		bdf = argv[1];
		argv[1] = argv[0];
		argv++;
		argc--;
	}
	return test_harness_run(argc, argv);
}
