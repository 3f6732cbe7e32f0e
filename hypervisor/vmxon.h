// SPDX-License-Identifier: MIT
// VMX operation of a logical processor: whether it can, and entering it.
#ifndef PLASTRON_VMXON_H
#define PLASTRON_VMXON_H

#include "cpu.h"

#include <nvmx/caps.h>

// On the calling processor: NULL, or why L0 cannot use its VT-x. Reads the capabilities. Enables VT-x in
// IA32_FEATURE_CONTROL where the firmware left that open.
const char *vmxon_check(struct nvmx_caps *caps);

// Enters VMX operation on the calling processor; vmxon_check must have been content. NULL, or a sentence.
const char *vmxon_enter(struct cpu *cpu, const struct nvmx_caps *caps);

#endif
