// SPDX-License-Identifier: MIT
// L1 writes to L0's reserved range: dropped, as by a hole in the physical address space. (Reads do not exit:
// ept01 maps a page of ones.)
#ifndef PLASTRON_HOLE_H
#define PLASTRON_HOLE_H

#include "vcpu.h"

void hole_init(struct vcpu *vcpu);

// For an EPT violation of L1 at `address`. false: the address is not in the range.
bool hole_handle_violation(struct vcpu *vcpu, uint64_t address);

// The instruction is done: monitor-trap exit.
void hole_handle_step(struct vcpu *vcpu);

#endif
