// SPDX-License-Identifier: MIT
// Text for COM1, gathered in a block per processor so that blocks come out whole and in an order of our
// choosing.
#ifndef GUEST_CONSOLE_H
#define GUEST_CONSOLE_H

#include "cpu.h"

void console_init(void);

// Into the processor's block. Conversions: %s %c %u %x (uint32_t), %lu %lx (uint64_t), %%; a width pads with
// spaces, a leading 0 with zeros, a leading - on the right.
void console_print(struct cpu *cpu, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Takes back what was printed since the last line ended.
void console_drop_line(struct cpu *cpu);

// Sends the processor's block, and empties it. Callable on any processor, by one at a time.
void console_flush(struct cpu *cpu);

#endif
