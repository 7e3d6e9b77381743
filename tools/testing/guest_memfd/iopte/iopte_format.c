// SPDX-License-Identifier: GPL-2.0-only
/*
 * A page-table format under a name of its own, so that those of two trees can be
 * in one module. The Kbuild file says which, and where iommu_template.h is.
 */
#include <linux/generic_pt/iommu.h>
#include <linux/slab.h>
#include "iopte_bench.h"

#define PT_FMT_VARIANT VARIANT

#ifdef MOCK
/* As fmt/iommu_mock.c */
#define NAME mock
#define PT_FMT amdv1
#define AMDV1_IOMMUFD_SELFTEST 1
#define PT_SUPPORTED_FEATURES 0
#else
/* As fmt/iommu_vtdss.c */
#define NAME vtdss
#define PT_FMT vtdss
#define PT_SUPPORTED_FEATURES                                            \
	(BIT(PT_FEAT_FLUSH_RANGE) | BIT(PT_FEAT_VTDSS_FORCE_COHERENCE) | \
	 BIT(PT_FEAT_VTDSS_FORCE_WRITEABLE) | BIT(PT_FEAT_DMA_INCOHERENT))
#endif

/* What linux/generic_pt/iommu.h has for formats that it knows */
#define FORMAT(op)							\
	CONCATENATE(CONCATENATE(CONCATENATE(pt_iommu_, PT_FMT), _),	\
		    CONCATENATE(CONCATENATE(PT_FMT_VARIANT, _), op))
#define FORMAT_STRUCT CONCATENATE(pt_iommu_, PT_FMT)
#define FORMAT_CFG CONCATENATE(FORMAT_STRUCT, _cfg)
#define FORMAT_HW_INFO CONCATENATE(FORMAT_STRUCT, _hw_info)

phys_addr_t FORMAT(iova_to_phys)(struct iommu_domain *domain, dma_addr_t iova);
int FORMAT(read_and_clear_dirty)(struct iommu_domain *domain,
				 unsigned long iova, size_t size,
				 unsigned long flags,
				 struct iommu_dirty_bitmap *dirty);
int FORMAT(init)(struct FORMAT_STRUCT *table, const struct FORMAT_CFG *cfg,
		 gfp_t gfp);
void FORMAT(hw_info)(struct FORMAT_STRUCT *table, struct FORMAT_HW_INFO *info);

#include "iommu_template.h"

struct format_domain {
	union {
		struct iommu_domain domain;
		struct FORMAT_STRUCT table;
	};
};

PT_IOMMU_CHECK_DOMAIN(struct format_domain, table.iommu, domain);

static const struct iommu_domain_ops format_ops = {
	.iova_to_phys = FORMAT(iova_to_phys),
	.iotlb_sync = iopte_bench_sync,
};

/* mock_ours() etc. */
struct iommu_domain *CONCATENATE(CONCATENATE(NAME, _), VARIANT)(void)
{
	const struct FORMAT_CFG cfg = {
#ifdef MOCK
		/* As the iommufd selftest has it */
		.common.hw_max_vasz_lg2 = 56,
		.common.hw_max_oasz_lg2 = 51,
		.starting_level = 2,
#else
		/* A machine whose IOMMU snoops the page tables */
		.common.features = BIT(PT_FEAT_FLUSH_RANGE),
		.common.hw_max_vasz_lg2 = 48,
		.common.hw_max_oasz_lg2 = 52,
		.top_level = 3,
#endif
	};
	struct format_domain *domain = kzalloc_obj(*domain);

	if (!domain)
		return NULL;
	domain->table.iommu.nid = NUMA_NO_NODE;
	domain->domain.ops = &format_ops;
	if (FORMAT(init)(&domain->table, &cfg, GFP_KERNEL)) {
		kfree(domain);
		return NULL;
	}
	return &domain->domain;
}
