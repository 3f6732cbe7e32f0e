// SPDX-License-Identifier: MIT
// The x2APIC's registers for an L1 that is in x2APIC mode on a processor that is left in xAPIC mode, because
// it could not come back (quirks.h).
#ifndef PLASTRON_X2APIC_H
#define PLASTRON_X2APIC_H

#include "vcpu.h"

// L1 enters or leaves x2APIC mode.
void x2apic_set_emulated(struct vcpu *vcpu, bool emulated);

// RDMSR and WRMSR of 0x800 to 0x8ff in x2APIC mode; false: #GP.
bool x2apic_read(uint32_t msr, uint64_t *value);
bool x2apic_write(uint32_t msr, uint64_t value);

#endif
