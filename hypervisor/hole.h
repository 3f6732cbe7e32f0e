// SPDX-License-Identifier: MIT
// L1 writes to L0's reserved range, or an L2 that has no EPT of L1's: dropped, as by a hole in the physical
// address space. (Reads do not exit: ept01 maps a page of ones.) What ends it is port_step_end.
#ifndef PLASTRON_HOLE_H
#define PLASTRON_HOLE_H

#include "vcpu.h"

void hole_init(struct vcpu *vcpu);

// For an EPT violation at `address`. false: it is not such a write.
bool hole_handle_violation(struct vcpu *vcpu, uint64_t address);

#endif
