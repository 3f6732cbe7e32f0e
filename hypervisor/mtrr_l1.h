// SPDX-License-Identifier: MIT
// The MTRRs as L1 sees them on one processor: it reads what it wrote. The processor's own stay as the
// firmware has set them, for L0 and, through ept01, for L1.
#ifndef PLASTRON_MTRR_L1_H
#define PLASTRON_MTRR_L1_H

#include <stdbool.h>
#include <stdint.h>

#define MTRR_L1_FIXED_COUNT  11
#define MTRR_L1_VARIABLE_MAX 32 // registers: IA32_MTRR_PHYSBASE0 to IA32_MTRR_PHYSMASK15

struct mtrr_l1 {
    uint64_t cap, default_type, fixed[MTRR_L1_FIXED_COUNT], variable[MTRR_L1_VARIABLE_MAX];
    uint64_t reserved; // address bits beyond L1's physical-address width
};

// On the vcpu's processor: as the firmware has left them.
void mtrr_l1_init(struct mtrr_l1 *mtrr, uint64_t address_width);

// false: #GP. There is no such register, or the value is not legal.
bool mtrr_l1_read(const struct mtrr_l1 *mtrr, uint32_t msr, uint64_t *value);
bool mtrr_l1_write(struct mtrr_l1 *mtrr, uint32_t msr, uint64_t value);

#endif
