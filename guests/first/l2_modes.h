// SPDX-License-Identifier: MIT
// L2 code for other modes than 64-bit: what each entry does is told where it is defined, in l2_modes.S.
#ifndef FIRST_L2_MODES_H
#define FIRST_L2_MODES_H

#include "l2.h"

#define MODES_LOW_SEGMENT 0x1000u
#define MODES_LOW_HANDLER 0x40u // offset of the handler of INT 21h

extern const uint8_t modes_real_start[], modes_low[], modes_low_end[];
void modes_real(void);
void modes_climb(void);
void modes_32(void);
void modes_task_switches(void);

// An L2 in 32-bit protected mode with 32-bit paging; page faults exit.
struct l2 *modes_create_protected_mode(struct cpu *cpu, void (*code)(void));

#endif
