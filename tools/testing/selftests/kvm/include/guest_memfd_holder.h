/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is to be expected of those who hold a page of a guest_memfd: they have
 * a reference or a pin and may read or write the page at any time, whatever
 * the page tables say.
 *
 * As long as there is one, the page cannot be made private: the conversion is
 * refused with EAGAIN, and error_offset is the page.  A program that includes
 * this brings the holders, as variants of the fixture, and gets the tests.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_HOLDER_H
#define SELFTEST_KVM_GUEST_MEMFD_HOLDER_H

#include "guest_memfd_harness.h"
#include "guest_memfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define PAGES_PER_2M	(SZ_2M / GMEM_PAGE_SIZE)
#define FILE_PAGES	(2 * PAGES_PER_2M)

/* What is converted: a range over the border of two units, and the page. */
#define NR_PAGES	16
#define FIRST		(PAGES_PER_2M - 8)
#define HELD		(FIRST + 11)

/**
 * struct holder_ops - one way to hold a page
 * @open: get what it takes; returns false if there is no such thing here
 * @hold: hold @page, returns 0 or an errno
 * @holds: does it hold the page?  For those that do so for a time only.
 * @release: let go of the page; it is let go of when this returns
 * @close: give everything back
 *
 * Each test has a process of its own, so what a holder has to remember is in
 * variables.
 */
struct holder_ops {
	bool (*open)(void);
	int (*hold)(u8 *page);
	bool (*holds)(void);
	void (*release)(void);
	void (*close)(void);
};

/*
 * A file that is all shared, with stamped pages in the range that is going to
 * be converted, and a holder of none of them yet.
 */
FIXTURE(holder) {
	const struct holder_ops *ops;
	struct kvm_vm *vm;
	int fd;
	u8 *mem;
	bool held;
	u8 before[GMEM_PAGE_SIZE];
};

FIXTURE_VARIANT(holder) {
	const struct holder_ops *ops;
};

#define page(n)		(self->mem + (n) * GMEM_PAGE_SIZE)

FIXTURE_SETUP(holder)
{
	int i;

	if (!gmem_can_convert())
		SKIP(return, "no VM type with private memory");
	if (!variant->ops->open())
		SKIP(return, "nothing here that could hold a page like that");

	self->ops = variant->ops;
	self->fd = gmem_create_shared(&self->vm, FILE_PAGES);
	self->mem = gmem_map_pages(self->fd, FILE_PAGES);
	for (i = FIRST; i < FIRST + NR_PAGES; i++)
		gmem_stamp(page(i), i);
}

static void release_page(FIXTURE_DATA(holder) * self)
{
	self->ops->release();
	self->held = false;
}

FIXTURE_TEARDOWN(holder)
{
	if (!self->ops)
		return;

	if (self->held)
		release_page(self);
	self->ops->close();
	kvm_munmap(self->mem, FILE_PAGES * GMEM_PAGE_SIZE);
	close(self->fd);
	kvm_vm_free(self->vm);
}

/* Some change the page as soon as they hold it: remember what it is then. */
static int hold_page(FIXTURE_DATA(holder) * self)
{
	int err = self->ops->hold(page(HELD));

	if (err)
		return err;

	self->held = true;
	memcpy(self->before, page(HELD), GMEM_PAGE_SIZE);
	return 0;
}

TEST_F(holder, held_page_gives_eagain_and_its_offset)
{
	u64 error_page;

	ASSERT_EQ(0, hold_page(self));

	EXPECT_EQ(EAGAIN, gmem_pages_try_private(self->fd, FIRST, NR_PAGES, &error_page));
	EXPECT_EQ(HELD, error_page);
	if (self->ops->holds)
		EXPECT_TRUE(self->ops->holds());
}

TEST_F(holder, refused_conversion_changes_nothing)
{
	u64 error_page;
	int i;

	ASSERT_EQ(0, hold_page(self));
	ASSERT_EQ(EAGAIN, gmem_pages_try_private(self->fd, FIRST, NR_PAGES, &error_page));

	EXPECT_EQ(0, gmem_fdinfo(self->fd, "private"));
	for (i = FIRST; i < FIRST + NR_PAGES; i++) {
		ASSERT_NE(GMEM_SIGBUS, gmem_peek(page(i)));
		if (i == HELD)
			continue;
		EXPECT_TRUE(gmem_has_stamp(page(i), i));
	}
	EXPECT_EQ(0, memcmp(page(HELD), self->before, GMEM_PAGE_SIZE));
}

TEST_F(holder, page_converts_once_it_is_released)
{
	u64 error_page;

	ASSERT_EQ(0, hold_page(self));
	ASSERT_EQ(EAGAIN, gmem_pages_try_private(self->fd, FIRST, NR_PAGES, &error_page));
	release_page(self);

	EXPECT_EQ(0, gmem_pages_try_private(self->fd, FIRST, NR_PAGES, &error_page));
	EXPECT_EQ(NR_PAGES, gmem_fdinfo(self->fd, "private"));
	EXPECT_EQ(GMEM_SIGBUS, gmem_peek(page(HELD)));
}

TEST_F(holder, private_page_cannot_be_held)
{
	u64 error_page;

	ASSERT_EQ(0, gmem_pages_try_private(self->fd, HELD, 1, &error_page));
	EXPECT_EQ(EFAULT, self->ops->hold(page(HELD)));

	gmem_pages_to_shared(self->fd, HELD, 1);
	EXPECT_TRUE(gmem_has_stamp(page(HELD), HELD));
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_HOLDER_H */
