// SPDX-License-Identifier: MIT
#ifndef PLASTRON_CPUID_H
#define PLASTRON_CPUID_H

#include "vcpu.h"

// L0's own leaves, docs/cpuid.md; and the signature in the first one's EBX, ECX, EDX.
#define CPUID_HYPERVISOR_FIRST     0x40000000u
#define CPUID_HYPERVISOR_VERSION   0x40000001u
#define CPUID_FAILED_ENTRY         0x40000010u // the last one of this vcpu: how many rules it broke
#define CPUID_BROKEN_RULE          0x40000011u // subleaf: which one; rule, field, value
#define CPUID_BROKEN_RULE_LEGAL    0x40000012u // ... a value that would do, and how long the sentence is
#define CPUID_BROKEN_RULE_TEXT     0x40000013u // ... 16 bytes of the sentence
#define CPUID_HYPERVISOR_LAST      CPUID_BROKEN_RULE_TEXT
#define CPUID_HYPERVISOR_SIGNATURE "PlastronL0  "

// From the option cpuid=NAME: leaves (the default), hidden (no leaves either), announced (the leaves and the
// hypervisor-present bit). False: there is no such way.
bool cpuid_select(const char *name);

void cpuid_init(void); // once, before L1 runs

void cpuid_handle_exit(struct vcpu *vcpu);

#endif
