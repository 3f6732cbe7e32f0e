// SPDX-License-Identifier: MIT
// Exceptions and interrupts: recorded in the processor's `trap`; an exception can be survived.
#ifndef GUEST_TRAP_H
#define GUEST_TRAP_H

#include "cpu.h"

struct trap_frame { // what trap.S leaves on the stack
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error_code;
    uint64_t rip, cs, rflags, rsp, ss;
};

// The processor uses the one IDT that all processors share.
void trap_load_idt(void);

// Where in memory the IDT is (an L2 gets a copy with an entry changed).
const void *trap_idt(void);
#define TRAP_IDT_SIZE 4096u

// Calls function(argument). True if it raised an exception: cpu->trap then says which, and what `function`
// had begun is abandoned. May be called at CPL 0 only; `function` may go to CPL 3 and need not come back from
// there.
bool trap_catch(void (*function)(void *), void *argument);

// Interrupt gates at CPL 0 for everything. trap.S calls it.
void trap_handle(struct trap_frame *frame);

// Prints `text` with the processor's last trap, and ends the machine.
void trap_panic(const char *text) __attribute__((noreturn));

#endif
