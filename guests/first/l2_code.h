// SPDX-License-Identifier: MIT
#ifndef FIRST_L2_CODE_H
#define FIRST_L2_CODE_H

#define L2_IN_HANDLER 0x4a4d

#ifndef __ASSEMBLER__
#include "first.h"

void l2_window(void);
void l2_spin(void);
void l2_nops(void);
void l2_halt(void);
void l2_handler(void);
void l2_undefined(void);
extern const uint8_t l2_window_open[], l2_spin_end[], l2_nops_1[], l2_halted[];

static inline uint64_t l2_code_address(void (*code)(void))
{
    return (uint64_t)(uintptr_t)code;
}
#endif

#endif
