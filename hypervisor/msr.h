// SPDX-License-Identifier: MIT
// The MSRs that L0 intercepts.
#ifndef PLASTRON_MSR_H
#define PLASTRON_MSR_H

#include "vcpu.h"

// The MSR bitmap of one vcpu: what is always intercepted.
l0pa_t msr_bitmap_create(void);

// Whether L1's accesses to the x2APIC's registers exit.
void msr_intercept_x2apic(struct vcpu *vcpu, bool intercept);

void msr_handle_read_exit(struct vcpu *vcpu);
void msr_handle_write_exit(struct vcpu *vcpu);

#endif
