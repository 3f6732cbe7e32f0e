// SPDX-License-Identifier: MIT
#ifndef PLASTRON_CPUID_H
#define PLASTRON_CPUID_H

#include "vcpu.h"

// L0's own leaves, and the signature in the first one's EBX, ECX, EDX.
#define CPUID_HYPERVISOR_FIRST     0x40000000u
#define CPUID_HYPERVISOR_LAST      0x40000001u
#define CPUID_HYPERVISOR_SIGNATURE "PlastronL0  "

void cpuid_handle_exit(struct vcpu *vcpu);

#endif
