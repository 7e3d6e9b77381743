// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages of a guest_memfd that a device may do DMA to, by VFIO's type 1: a pin
 * for as long as the mapping is there.  See guest_memfd_holder.h for what is
 * expected.
 *
 * Takes any device that is bound to vfio-pci, and no more of it than its IOMMU
 * group.
 */
#include <dirent.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <sys/ioctl.h>

#include <linux/vfio.h>

#include "guest_memfd_harness.h"
#include "guest_memfd_holder.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define VFIO_DEVICES	"/sys/bus/pci/drivers/vfio-pci"
#define VFIO_IOVA	SZ_2M

static int vfio_group, vfio_container;

/* The number of the IOMMU group of a device, false if there is none. */
static bool find_vfio_group(char *group, size_t size)
{
	char path[PATH_MAX], target[PATH_MAX];
	struct dirent *entry;
	ssize_t len = -1;
	DIR *dir;

	dir = opendir(VFIO_DEVICES);
	if (!dir)
		return false;

	while (len < 0 && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), VFIO_DEVICES "/%s/iommu_group",
			 entry->d_name);
		len = readlink(path, target, sizeof(target) - 1);
	}
	closedir(dir);
	if (len < 0)
		return false;

	target[len] = 0;
	snprintf(group, size, "/dev/vfio/%.16s", basename(target));
	return true;
}

static bool open_vfio(void)
{
	char group[32];

	if (!find_vfio_group(group, sizeof(group)))
		return false;

	vfio_container = open_path_or_exit("/dev/vfio/vfio", O_RDWR);
	vfio_group = open_path_or_exit(group, O_RDWR);
	kvm_ioctl(vfio_group, VFIO_GROUP_SET_CONTAINER, &vfio_container);
	kvm_ioctl(vfio_container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU);
	return true;
}

static void close_vfio(void)
{
	kvm_close(vfio_group);
	kvm_close(vfio_container);
}

static int map_dma_range(u8 *addr, u64 size)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)addr,
		.iova = VFIO_IOVA,
		.size = size,
	};

	return ioctl(vfio_container, VFIO_IOMMU_MAP_DMA, &map) ? errno : 0;
}

static int map_dma(u8 *page)
{
	return map_dma_range(page, GMEM_PAGE_SIZE);
}

static void unmap_dma(void)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.flags = VFIO_DMA_UNMAP_FLAG_ALL,
	};

	kvm_ioctl(vfio_container, VFIO_IOMMU_UNMAP_DMA, &unmap);
}

static const struct holder_ops vfio_ops = {
	.open		= open_vfio,
	.hold		= map_dma,
	.release	= unmap_dma,
	.close		= close_vfio,
};

FIXTURE_VARIANT_ADD(holder, vfio) { .ops = &vfio_ops };

/* All of the file is pinned: that takes blocks at once, where it finds them. */
TEST_F(holder, blocks_mapped_for_dma_go_back_once_they_are_unmapped)
{
	const long nr_blocks = FILE_PAGES * GMEM_PAGE_SIZE / gmem_block_size();
	struct gmem_pool_counts pool;
	u64 error_page;

	if (!gmem_has_blocks())
		SKIP(return, "no blocks");
	ASSERT_EQ(0, map_dma_range(self->mem, FILE_PAGES * GMEM_PAGE_SIZE));
	self->held = true;
	EXPECT_EQ(EAGAIN, gmem_pages_try_private(self->fd, FIRST, NR_PAGES, &error_page));
	EXPECT_EQ(FIRST, error_page);

	pool = gmem_pool_count(gmem_block_size());
	gmem_punch_pages(self->fd, 0, FILE_PAGES);
	usleep(GMEM_JOIN_MSECS * 1000);
	EXPECT_TRUE(gmem_pool_is(gmem_block_size(), pool));
	EXPECT_EQ(nr_blocks, gmem_fdinfo(self->fd, "waiting"));
	EXPECT_EQ(0, gmem_pages_try_private(self->fd, FIRST, NR_PAGES, &error_page));

	release_page(self);
	/* Reserved for the file as before. */
	pool.free += nr_blocks;
	pool.resv += nr_blocks;
	EXPECT_TRUE(gmem_pool_becomes(gmem_block_size(), pool));
}

int main(int argc, char **argv)
{
	gmem_check_pool_at_exit();
	return test_harness_run(argc, argv);
}
