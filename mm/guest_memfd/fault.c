// SPDX-License-Identifier: GPL-2.0-only
/*
 * fault: what user space gets to see through mmap().
 *
 * Asks `state` who may see a page, takes it from `block` and tells `exposure`
 * before it is mapped.  Everything happens under invalidate_lock held shared,
 * so that none of the three changes meanwhile.
 */
#include <linux/export.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/userfaultfd_k.h>

#include "internal.h"

/* The start of the run that @index is in, looking back no further than @from. */
static pgoff_t gmem_run_start(struct gmem_inode *gi, pgoff_t from,
			      pgoff_t index)
{
	pgoff_t start, next = from;
	bool private;

	do {
		start = next;
		next = gmem_state_run_end(&gi->state, start, index + 1,
					  &private);
	} while (next <= index);

	return start;
}

/*
 * filemap_map_pages() maps whatever is in the page cache, so start..end is cut
 * down to the shared run around the fault.
 */
static vm_fault_t gmem_map_run(struct gmem_inode *gi, struct vm_fault *vmf,
			       pgoff_t start, pgoff_t end)
{
	bool private;

	gmem_assert_locked(gi);

	end = gmem_state_run_end(&gi->state, vmf->pgoff, end, &private);
	if (private)
		return 0;

	start = gmem_run_start(gi, start, vmf->pgoff);
	gmem_expose(gi, start, end);
	guest_memfd_stall(GUEST_MEMFD_STALL_MAP_PAGES);
	return filemap_map_pages(vmf, start, end - 1);
}

/*
 * Fault-around of a write: no page is ever clean, so nobody has to be told of
 * the first write to each.  That of the fault itself is passed over, because it
 * is locked.  All entries are in one table.
 */
static void gmem_map_around_write(struct gmem_inode *gi, struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long start = round_down(vmf->address, GMEM_AROUND_SIZE);
	unsigned long end = min(start + GMEM_AROUND_SIZE, vma->vm_end);

	/* What is asked of this page is not asked of the others. */
	if (userfaultfd_armed(vma))
		return;

	start = max(start, vma->vm_start);
	gmem_map_run(gi, vmf, linear_page_index(vma, start),
		     min(linear_page_index(vma, end), gmem_nr_pages(gi)));
}

/*
 * The page table entry is made here, with a reference that is not the entry's:
 * who unlocks a folio may write to it once more to wake others up, and must not
 * do so when the page is in a huge page of the pool again.
 */
static vm_fault_t gmem_map_folio(struct vm_fault *vmf, struct folio *folio)
{
	vm_fault_t ret;

	folio_get(folio);
	ret = finish_fault(vmf);
	folio_unlock(folio);
	if (ret)
		folio_put(folio);
	else
		guest_memfd_stall(GUEST_MEMFD_STALL_FAULT_MAPPED);
	folio_put(folio);

	return ret ?: VM_FAULT_NOPAGE;
}

static vm_fault_t gmem_fault_locked(struct gmem_inode *gi, struct vm_fault *vmf)
{
	struct folio *folio;

	if (gmem_state_is_private(&gi->state, vmf->pgoff))
		return VM_FAULT_SIGBUS;

	folio = guest_memfd_get_folio(&gi->vfs_inode, vmf->pgoff);
	if (IS_ERR(folio))
		return vmf_error(PTR_ERR(folio));

	guest_memfd_zero_folio(folio);
	gmem_expose(gi, vmf->pgoff, vmf->pgoff + 1);

	vmf->page = folio_file_page(folio, vmf->pgoff);
	if (vmf->flags & FAULT_FLAG_WRITE)
		gmem_map_around_write(gi, vmf);
	guest_memfd_stall(GUEST_MEMFD_STALL_FAULT_LOCKED);
	return gmem_map_folio(vmf, folio);
}

static vm_fault_t gmem_fault(struct vm_fault *vmf)
{
	struct inode *inode = file_inode(vmf->vma->vm_file);
	struct gmem_inode *gi = gmem_i(inode);
	vm_fault_t ret;

	if (vmf->pgoff >= gmem_nr_pages(gi))
		return VM_FAULT_SIGBUS;

	guest_memfd_stall(GUEST_MEMFD_STALL_FAULT);
	filemap_invalidate_lock_shared(inode->i_mapping);
	ret = gmem_fault_locked(gi, vmf);
	filemap_invalidate_unlock_shared(inode->i_mapping);

	if (ret == VM_FAULT_NOPAGE && (vmf->flags & FAULT_FLAG_WRITE))
		file_update_time(vmf->vma->vm_file);
	return ret;
}

/*
 * Fault-around of a read.  The run is held still until the entries are set.
 * Called under RCU, so no waiting: a conversion under way is answered by
 * gmem_fault().
 */
static vm_fault_t gmem_map_pages(struct vm_fault *vmf, pgoff_t start,
				 pgoff_t last)
{
	struct inode *inode = file_inode(vmf->vma->vm_file);
	struct gmem_inode *gi = gmem_i(inode);
	pgoff_t end = min(last + 1, gmem_nr_pages(gi));
	vm_fault_t ret;

	if (vmf->pgoff >= end)
		return 0;
	if (!filemap_invalidate_trylock_shared(inode->i_mapping))
		return 0;

	ret = gmem_map_run(gi, vmf, start, end);
	filemap_invalidate_unlock_shared(inode->i_mapping);
	return ret;
}

#ifdef CONFIG_NUMA
static int gmem_set_policy(struct vm_area_struct *vma, struct mempolicy *mpol)
{
	struct gmem_inode *gi = gmem_i(file_inode(vma->vm_file));

	return mpol_set_shared_policy(&gi->policy, vma, mpol);
}

/* NULL, not the task's policy, says that mbind() has set none here. */
static struct mempolicy *gmem_get_policy(struct vm_area_struct *vma,
					 unsigned long addr, pgoff_t *ilx)
{
	struct inode *inode = file_inode(vma->vm_file);

	*ilx = inode->i_ino;
	return mpol_shared_policy_lookup(&gmem_i(inode)->policy,
					 linear_page_index(vma, addr));
}
#endif

static const struct vm_operations_struct gmem_vm_ops = {
	.fault		= gmem_fault,
	.map_pages	= gmem_map_pages,
#ifdef CONFIG_NUMA
	.set_policy	= gmem_set_policy,
	.get_policy	= gmem_get_policy,
#endif
};

/**
 * guest_memfd_mmap() - the ->mmap of a guest_memfd
 * @file: the file
 * @vma: where it is to be mapped
 *
 * Every part of the file can be mapped, whatever its state: a touch of a
 * private page is SIGBUS, of a shared one a fault like any other.
 *
 * Context: mmap_lock held for write.
 * Return: 0, -ENODEV if the file was created without %GUEST_MEMFD_MMAP, or
 * -EINVAL for a private mapping.
 */
int guest_memfd_mmap(struct file *file, struct vm_area_struct *vma)
{
	if (!(gmem_i(file_inode(file))->flags & GUEST_MEMFD_MMAP))
		return -ENODEV;

	if ((vma->vm_flags & (VM_SHARED | VM_MAYSHARE)) !=
	    (VM_SHARED | VM_MAYSHARE))
		return -EINVAL;

	vma->vm_ops = &gmem_vm_ops;
	return 0;
}
EXPORT_SYMBOL_GPL(guest_memfd_mmap);
