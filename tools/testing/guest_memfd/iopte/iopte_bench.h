/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef IOPTE_BENCH_H
#define IOPTE_BENCH_H

#include <linux/iommu.h>

/* Domains of iopte_format.c, NULL if there is no memory */
struct iommu_domain *mock_ours(void);
struct iommu_domain *mock_base(void);
struct iommu_domain *vtdss_ours(void);
struct iommu_domain *vtdss_base(void);

/* What the domains have as iotlb_sync() */
void iopte_bench_sync(struct iommu_domain *domain,
		      struct iommu_iotlb_gather *gather);

#endif /* IOPTE_BENCH_H */
