/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The harness, with a time limit that is for tests that hang and not for machines
 * that are slow: some of the tests zero gigabytes.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_HARNESS_H
#define SELFTEST_KVM_GUEST_MEMFD_HARNESS_H

#include "kvm_test_harness.h"

#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	120

#endif /* SELFTEST_KVM_GUEST_MEMFD_HARNESS_H */
