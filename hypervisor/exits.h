// SPDX-License-Identifier: MIT
// The VM exits that the engine leaves to L0, of L1 and of L2 alike.
#ifndef PLASTRON_EXITS_H
#define PLASTRON_EXITS_H

#include "vcpu.h"

void exits_handle(struct vcpu *vcpu);

#endif
