// SPDX-License-Identifier: MIT
// L2 code whose addresses L1 has to know exactly, and L2 code for other modes than 64-bit.
#include "l2_code.h"

    .text
    .code64

    // The interrupt window opens behind the instruction that follows STI.
    .global l2_window, l2_window_open
l2_window:
    mov $1, %eax
    vmcall
    sti
    nop
l2_window_open:
    nop
    mov $2, %eax
    vmcall
    jmp l2_window

    .global l2_spin, l2_spin_end
l2_spin:
    pause
    jmp l2_spin
l2_spin_end:

    .global l2_nops, l2_nops_1
l2_nops:
    nop
l2_nops_1:
    nop
    nop
    mov $3, %eax
    vmcall
    jmp l2_nops

    .global l2_halt, l2_halted
l2_halt:
    hlt
l2_halted:
    mov $4, %eax
    vmcall
    jmp l2_halt

    // A handler of L2's own: tells L1, and returns.
    .global l2_handler
l2_handler:
    push %rax
    mov $L2_IN_HANDLER, %eax
    vmcall
    pop %rax
    iretq

    .global l2_undefined
l2_undefined:
    ud2

    .section .note.GNU-stack, "", @progbits
