// SPDX-License-Identifier: MIT
// MSRs that L0 answers itself: EMULATE in msr.def.
#ifndef PLASTRON_MSR_EMULATE_H
#define PLASTRON_MSR_EMULATE_H

#include "vcpu.h"

// false: #GP, and nothing was read or written.
bool msr_emulate_read(struct vcpu *vcpu, uint32_t msr, uint64_t *value);
bool msr_emulate_write(struct vcpu *vcpu, uint32_t msr, uint64_t value);

#endif
