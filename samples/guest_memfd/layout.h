/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the VMM and its guest have agreed on: where things are in the guest's
 * memory, and what the ports mean. Guest-physical addresses are offsets in the
 * guest_memfd: the file is mapped into the guest from address 0.
 */
#ifndef _SAMPLES_GUEST_MEMFD_LAYOUT_H
#define _SAMPLES_GUEST_MEMFD_LAYOUT_H

#define PAGE		0x1000UL
#define MEM_SIZE	0x800000UL	/* 8 MiB, one guest_memfd */

/* The low 2 MiB stay shared: boot data, as in any confidential VM. */
#define PAGE_TABLES	0x1000UL
#define CODE		0x10000UL
#define STACK_TOP	0x40000UL
#define NOTE		0x50000UL	/* a page for messages that are no secret */

/* What lies above is made private before the guest starts. */
#define VAULT		0x200000UL	/* the payload is in its first page */
#define VAULT_SIZE	0x200000UL
#define UNTOUCHED	0x600000UL	/* nobody has ever been here */

/* 64 bytes are enough for every message. */
#define TEXT_SIZE	64
#define PAYLOAD		"the payload: disk key 0123-4567-89ab-cdef"
#define REPLY		"a reply that the host wrote in place"
#define NOTICE		"a note that the guest left without asking"
#define HOLE_PAGE	5		/* of the vault */
#define HELD_PAGE	9
#define ROUNDS		100UL

/* Ports that the guest writes a byte to. */
#define PORT_TEXT	0xe9		/* next character of a line */
#define PORT_SAY	0xf0		/* the line is something the guest says */
#define PORT_CHECK	0xf1		/* ... or expects: 1 it is so, 0 it is not */
#define PORT_STEP	0xf2		/* now the host may look */
#define PORT_DONE	0xf3

/* The image of the guest, which the VMM carries in itself. */
extern const char guest_image[], guest_image_end[];

#endif
