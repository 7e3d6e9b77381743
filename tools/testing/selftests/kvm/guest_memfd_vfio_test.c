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

#include "guest_memfd_holder.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_test_harness.h"
#include "kvm_util.h"
#include "test_util.h"

#define VFIO_DEVICES	"/sys/bus/pci/drivers/vfio-pci"
#define VFIO_IOVA	SZ_1M

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

static int map_dma(u8 *page)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)page,
		.iova = VFIO_IOVA,
		.size = GMEM_PAGE_SIZE,
	};

	return ioctl(vfio_container, VFIO_IOMMU_MAP_DMA, &map) ? errno : 0;
}

static void unmap_dma(void)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = VFIO_IOVA,
		.size = GMEM_PAGE_SIZE,
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

TEST_HARNESS_MAIN
