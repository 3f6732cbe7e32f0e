// SPDX-License-Identifier: MIT
// Exceptions and NMIs while L0 runs. L0 takes no interrupts.
#ifndef PLASTRON_EXCEPTIONS_H
#define PLASTRON_EXCEPTIONS_H

#include <stdint.h>

// What vectors.S pushes; the order is its own.
struct exceptions_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, error_code;
    uint64_t rip, cs, rflags, rsp, ss; // by the processor
};

// Loads the IDT, which all processors share.
void exceptions_init(void);
uint64_t exceptions_idt(void);

// From vectors.S, which returns to what is in the frame then.
void exceptions_handle(struct exceptions_frame *frame);

#endif
