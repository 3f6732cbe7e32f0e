// SPDX-License-Identifier: MIT
// L1 code at CPL 3, and in compatibility mode. What runs there is expected to raise an exception: call these
// inside trap_catch, and user_leave afterwards.
#ifndef FIRST_USER_H
#define FIRST_USER_H

#include "cpu.h"

// function(argument) at CPL 3, on a stack of the processor's. Does not return.
void user_run(void (*function)(void *), void *argument);
// ... with these RFLAGS
#define RFLAGS_IOPL_3 0x3000u
void user_run_with(void (*function)(void *), void *argument, uint64_t rflags);

// VMX instruction number `index` in 32-bit code at CPL 0. Does not return.
#define COMPATIBILITY_COUNT 6u
void compatibility_run(uint32_t index);
const char *compatibility_name(uint32_t index);

// Segment registers as L1 has them.
void user_leave(void);

#endif
