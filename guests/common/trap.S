// SPDX-License-Identifier: MIT
// 256 entry points, and the way out of an exception that somebody expected. trap.h has the contracts.

#define RECOVERY_RSP %gs:8 /* struct cpu */

    .text
    .code64
    .balign 16
    .global trap_entries
trap_entries:
    vector = 0
    .rept 256
    .balign 16
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21
    .else
    push $0
    .endif
    push $vector
    jmp trap_common
    vector = vector + 1
    .endr

    .global trap_common
trap_common:
    push %rax
    push %rbx
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %rbp
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    cld
    mov %rsp, %rdi
    call trap_handle
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rbp
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rbx
    pop %rax
    add $16, %rsp
    iretq

    // bool trap_catch(void (*function)(void *), void *argument)
    .global trap_catch, trap_recover
trap_catch:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    push RECOVERY_RSP
    mov %rsp, RECOVERY_RSP
    mov %rdi, %rax
    mov %rsi, %rdi
    call *%rax
    xor %eax, %eax
    jmp 1f
trap_recover:               // trap_handle returns to here, with RSP = RECOVERY_RSP
    mov $1, %eax
1:  pop RECOVERY_RSP
    popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

    .section .note.GNU-stack, "", @progbits
