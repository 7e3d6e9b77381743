// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest: 64-bit code on bare metal, in identity-mapped memory.
 *
 * It asks for conversions as Linux guests do, with the hypercall
 * KVM_HC_MAP_GPA_RANGE. Follow it side by side with play() in vmm.c.
 */
#include <linux/kvm_para.h>
#include <linux/types.h>
#include <stdbool.h>

#include "layout.h"

/* The image is entered at its first byte. */
asm(".section .text.start\n"
	"call guest_main\n"
	"1: hlt\n"
	"jmp 1b\n"
	".previous\n");

static void out(__u16 port, __u8 value)
{
	asm volatile("outb %0, %1" : : "a" (value), "Nd" (port) : "memory");
}

static void text(const char *s)
{
	while (*s)
		out(PORT_TEXT, *s++);
}

static void say(const char *what, const char *quote)
{
	text(what);
	if (quote) {
		text(" \"");
		text(quote);
		text("\"");
	}
	out(PORT_SAY, 0);
}

static void check(bool ok, const char *what)
{
	text(what);
	out(PORT_CHECK, ok);
}

static bool same(const char *a, const char *b)
{
	while (*a && *a == *b) {
		a++;
		b++;
	}
	return *a == *b;
}

static void copy(char *to, const char *from)
{
	while ((*to++ = *from++))
		;
}

static unsigned long peek(unsigned long gpa)
{
	return __atomic_load_n((unsigned long *)gpa, __ATOMIC_RELAXED);
}

static void poke(unsigned long gpa, unsigned long value)
{
	__atomic_store_n((unsigned long *)gpa, value, __ATOMIC_RELAXED);
}

static bool cpu_is_intel(void)
{
	__u32 eax = 0, ebx, ecx = 0, edx;

	asm volatile("cpuid" : "+a" (eax), "=b" (ebx), "+c" (ecx), "=d" (edx));
	return ebx == 0x756e6547;	/* "Genu"ineIntel */
}

/* Returns 0, or -KVM_E*: what the VMM answered. */
static long map_gpa_range(unsigned long gpa, unsigned long size,
			  unsigned long flags)
{
	long ret = KVM_HC_MAP_GPA_RANGE;

	if (cpu_is_intel())
		asm volatile("vmcall" : "+a" (ret)
			     : "b" (gpa), "c" (size / PAGE), "d" (flags)
			     : "memory");
	else
		asm volatile("vmmcall" : "+a" (ret)
			     : "b" (gpa), "c" (size / PAGE), "d" (flags)
			     : "memory");
	return ret;
}

static long make_shared(unsigned long gpa, unsigned long size)
{
	return map_gpa_range(gpa, size, KVM_MAP_GPA_RANGE_DECRYPTED);
}

static long make_private(unsigned long gpa, unsigned long size)
{
	return map_gpa_range(gpa, size, KVM_MAP_GPA_RANGE_ENCRYPTED);
}

static void one_page(char *vault)
{
	say("I run. The payload in my private memory reads", vault);
	check(same(vault, PAYLOAD), "it is what my owner loaded");

	say("dear host, please make that page shared", 0);
	check(!make_shared(VAULT, PAGE), "the hypercall succeeded");
	check(same(vault, REPLY), "I see what the host wrote there");

	say("and now private again", 0);
	check(!make_private(VAULT, PAGE), "the hypercall succeeded");
	check(same(vault, REPLY), "what the page holds survived that, too");
	out(PORT_STEP, 0);
}

static void many_pages(void)
{
	unsigned long i;

	for (i = 0; i < VAULT_SIZE / PAGE; i++)
		poke(VAULT + i * PAGE, ~i);

	say("2 MiB shared, all but one page in the midst", 0);
	check(!make_shared(VAULT, VAULT_SIZE) &&
	      !make_private(VAULT + HOLE_PAGE * PAGE, PAGE),
	      "both hypercalls succeeded");
	out(PORT_STEP, 0);

	say("all of the 2 MiB private", 0);
	check(!make_private(VAULT, VAULT_SIZE), "the hypercall succeeded");
	for (i = 0; i < VAULT_SIZE / PAGE; i++)
		if (peek(VAULT + i * PAGE) != ~i)
			break;
	check(i == VAULT_SIZE / PAGE, "all 512 pages hold what I wrote");
	out(PORT_STEP, 0);
}

static void no_question_asked(void)
{
	copy((char *)NOTE, NOTICE);
	check(!peek(UNTOUCHED), "memory that nobody used yet reads zero");
	poke(UNTOUCHED, 1);
	out(PORT_STEP, 0);
}

static void many_times(void)
{
	unsigned long i;
	bool ok = true;

	poke(VAULT, 0);
	for (i = 1; i <= ROUNDS && ok; i++) {
		poke(VAULT, peek(VAULT) + 1);
		ok = !make_shared(VAULT, PAGE) && peek(VAULT) == 2 * i &&
		     !make_private(VAULT, PAGE) && peek(VAULT) == 2 * i;
	}
	check(ok, "after each round trip the page held the right number");
}

void guest_main(void)
{
	one_page((char *)VAULT);
	many_pages();
	no_question_asked();
	many_times();
	out(PORT_DONE, 0);
}
