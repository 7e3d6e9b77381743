/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What happens to a guest_memfd.  Pages are given by their offset in the file,
 * in pages; a range goes from its first page up to, not including, its end.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM guest_memfd

#if !defined(_TRACE_GUEST_MEMFD_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_GUEST_MEMFD_H

#include <linux/fs.h>
#include <linux/guest_memfd.h>
#include <linux/mm.h>
#include <linux/tracepoint.h>

TRACE_DEFINE_ENUM(GUEST_MEMFD_TO_SHARED);
TRACE_DEFINE_ENUM(GUEST_MEMFD_TO_PRIVATE);
TRACE_DEFINE_ENUM(GUEST_MEMFD_REMOVE);
TRACE_DEFINE_ENUM(GUEST_MEMFD_POISON);

#define show_guest_memfd_change(type)				\
	__print_symbolic(type,					\
		{ GUEST_MEMFD_TO_SHARED,	"to-shared" },	\
		{ GUEST_MEMFD_TO_PRIVATE,	"to-private" },	\
		{ GUEST_MEMFD_REMOVE,		"remove" },	\
		{ GUEST_MEMFD_POISON,		"poison" })

#define show_guest_memfd_flags(flags)				\
	__print_flags(flags, "|",				\
		{ GUEST_MEMFD_MMAP,		"mmap" },	\
		{ GUEST_MEMFD_INIT_SHARED,	"init-shared" },	\
		{ GUEST_MEMFD_TRACK_STATE,	"track-state" },	\
		{ GUEST_MEMFD_HUGETLB,		"hugetlb" })

TRACE_EVENT(guest_memfd_create,

	TP_PROTO(const struct inode *inode, unsigned int flags),

	TP_ARGS(inode, flags),

	TP_STRUCT__entry(
		__field(u64, ino)
		__field(u64, size)
		__field(unsigned int, flags)
	),

	TP_fast_assign(
		__entry->ino = inode->i_ino;
		__entry->size = i_size_read(inode);
		__entry->flags = flags;
	),

	TP_printk("ino=%llu size=0x%llx flags=%s", __entry->ino, __entry->size,
		  show_guest_memfd_flags(__entry->flags))
);

/* The inode goes, and every page that it still has. */
TRACE_EVENT(guest_memfd_free,

	TP_PROTO(const struct inode *inode),

	TP_ARGS(inode),

	TP_STRUCT__entry(
		__field(u64, ino)
		__field(unsigned long, nr_pages)
	),

	TP_fast_assign(
		__entry->ino = inode->i_ino;
		__entry->nr_pages = inode->i_mapping->nrpages;
	),

	TP_printk("ino=%llu nr_pages=%lu", __entry->ino, __entry->nr_pages)
);

/* Memory comes or goes; the inode may be gone when a block is joined. */
DECLARE_EVENT_CLASS(guest_memfd_memory,

	TP_PROTO(u64 ino, pgoff_t index, const struct page *page,
		 unsigned int order),

	TP_ARGS(ino, index, page, order),

	TP_STRUCT__entry(
		__field(u64, ino)
		__field(pgoff_t, index)
		__field(unsigned long, pfn)
		__field(unsigned int, order)
	),

	TP_fast_assign(
		__entry->ino = ino;
		__entry->index = index;
		__entry->pfn = page_to_pfn(page);
		__entry->order = order;
	),

	TP_printk("ino=%llu index=%lu pfn=0x%lx order=%u", __entry->ino,
		  __entry->index, __entry->pfn, __entry->order)
);

DEFINE_EVENT(guest_memfd_memory, guest_memfd_allocate,
	TP_PROTO(u64 ino, pgoff_t index, const struct page *page,
		 unsigned int order),
	TP_ARGS(ino, index, page, order)
);

DEFINE_EVENT(guest_memfd_memory, guest_memfd_split,
	TP_PROTO(u64 ino, pgoff_t index, const struct page *page,
		 unsigned int order),
	TP_ARGS(ino, index, page, order)
);

DEFINE_EVENT(guest_memfd_memory, guest_memfd_join,
	TP_PROTO(u64 ino, pgoff_t index, const struct page *page,
		 unsigned int order),
	TP_ARGS(ino, index, page, order)
);

/* A block has left the file and waits: somebody still uses the page. */
TRACE_EVENT(guest_memfd_join_deferred,

	TP_PROTO(u64 ino, pgoff_t index, const struct page *page),

	TP_ARGS(ino, index, page),

	TP_STRUCT__entry(
		__field(u64, ino)
		__field(pgoff_t, index)
		__field(unsigned long, pfn)
		__field(int, refs)
	),

	TP_fast_assign(
		__entry->ino = ino;
		__entry->index = index;
		__entry->pfn = page_to_pfn(page);
		__entry->refs = page_ref_count(page);
	),

	TP_printk("ino=%llu index=%lu pfn=0x%lx refs=%d", __entry->ino,
		  __entry->index, __entry->pfn, __entry->refs)
);

/*
 * A chunk has been converted, or has not.  @error_index only means something
 * with an error; @waited is how long the conversion was ready to wait for pages
 * that were held, in microseconds.
 */
TRACE_EVENT(guest_memfd_convert,

	TP_PROTO(const struct guest_memfd_change *change, int err,
		 pgoff_t error_index, unsigned int waited),

	TP_ARGS(change, err, error_index, waited),

	TP_STRUCT__entry(
		__field(u64, ino)
		__field(pgoff_t, start)
		__field(pgoff_t, end)
		__field(int, type)
		__field(int, err)
		__field(pgoff_t, error_index)
		__field(unsigned int, waited)
	),

	TP_fast_assign(
		__entry->ino = change->inode->i_ino;
		__entry->start = change->start;
		__entry->end = change->end;
		__entry->type = change->type;
		__entry->err = err;
		__entry->error_index = error_index;
		__entry->waited = waited;
	),

	TP_printk("ino=%llu %s %lu-%lu err=%d error_index=%lu waited=%u",
		  __entry->ino, show_guest_memfd_change(__entry->type),
		  __entry->start, __entry->end, __entry->err,
		  __entry->error_index, __entry->waited)
);

/* Why a conversion is refused with -EAGAIN: there are @refs too many. */
TRACE_EVENT(guest_memfd_held,

	TP_PROTO(const struct inode *inode, struct folio *folio, int refs),

	TP_ARGS(inode, folio, refs),

	TP_STRUCT__entry(
		__field(u64, ino)
		__field(pgoff_t, index)
		__field(unsigned long, pfn)
		__field(int, refs)
		__field(bool, pinned)
	),

	TP_fast_assign(
		__entry->ino = inode->i_ino;
		__entry->index = folio->index;
		__entry->pfn = folio_pfn(folio);
		__entry->refs = refs;
		__entry->pinned = folio_maybe_dma_pinned(folio);
	),

	TP_printk("ino=%llu index=%lu pfn=0x%lx refs=%d pinned=%d",
		  __entry->ino, __entry->index, __entry->pfn, __entry->refs,
		  __entry->pinned)
);

DECLARE_EVENT_CLASS(guest_memfd_change,

	TP_PROTO(const struct guest_memfd_change *change),

	TP_ARGS(change),

	TP_STRUCT__entry(
		__field(u64, ino)
		__field(pgoff_t, start)
		__field(pgoff_t, end)
		__field(int, type)
	),

	TP_fast_assign(
		__entry->ino = change->inode->i_ino;
		__entry->start = change->start;
		__entry->end = change->end;
		__entry->type = change->type;
	),

	TP_printk("ino=%llu %s %lu-%lu", __entry->ino,
		  show_guest_memfd_change(__entry->type), __entry->start,
		  __entry->end)
);

/* Pages leave the file: a hole. */
DEFINE_EVENT(guest_memfd_change, guest_memfd_remove,
	TP_PROTO(const struct guest_memfd_change *change),
	TP_ARGS(change)
);

/* Views are told of broken pages. */
DEFINE_EVENT(guest_memfd_change, guest_memfd_poison,
	TP_PROTO(const struct guest_memfd_change *change),
	TP_ARGS(change)
);

/* A view follows what has happened. */
DEFINE_EVENT(guest_memfd_change, guest_memfd_refresh,
	TP_PROTO(const struct guest_memfd_change *change),
	TP_ARGS(change)
);

#endif /* _TRACE_GUEST_MEMFD_H */

#include <trace/define_trace.h>
