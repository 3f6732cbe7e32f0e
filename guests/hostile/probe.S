// SPDX-License-Identifier: MIT
// Into code that may do anything, and back out of whatever it did. probe.h: struct probe_cpu has the offsets.

#define ACTIVE 0
#define SAVED_RSP 8
#define GPR 16
#define FRAME 144
#define RUN_CR3 184
#define STACK_MASK 0x3fff
#define CODE64 0x08
#define DATA 0x10
#define LEFT_L2 0x7e72 /* PROBE_LEFT_L2 */

    .text
    .code64
    // void probe_enter(struct probe_cpu *): returns when probe_take says so
    .global probe_enter
probe_enter:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    mov %rsp, SAVED_RSP(%rdi)
    movq $1, ACTIVE(%rdi)
    pushq FRAME+32(%rdi)
    pushq FRAME+24(%rdi)
    pushq FRAME+16(%rdi)
    pushq FRAME+8(%rdi)
    pushq FRAME(%rdi)
    mov RUN_CR3(%rdi), %rax
    mov %rax, %cr3              // L1's stack may be read-only from here on
load_registers:
    mov GPR(%rdi), %rax
    mov GPR+8(%rdi), %rcx
    mov GPR+16(%rdi), %rdx
    mov GPR+24(%rdi), %rbx
    mov GPR+40(%rdi), %rbp
    mov GPR+48(%rdi), %rsi
    mov GPR+64(%rdi), %r8
    mov GPR+72(%rdi), %r9
    mov GPR+80(%rdi), %r10
    mov GPR+88(%rdi), %r11
    mov GPR+96(%rdi), %r12
    mov GPR+104(%rdi), %r13
    mov GPR+112(%rdi), %r14
    mov GPR+120(%rdi), %r15
    mov GPR+56(%rdi), %rdi
    iretq

    // The VM exit of an entry that nobody expected; on a stack of its own.
    .global probe_exited
probe_exited:
    push $DATA
    push $0
    push $2
    push $CODE64
    push $0
    push $0
    push $256
    jmp probe_common

    .balign 16
    .global probe_vectors
probe_vectors:
    vector = 0
    .rept 256
    .balign 16
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21
    .else
    push $0
    .endif
    push $vector
    jmp probe_common
    vector = vector + 1
    .endr

probe_common:
    push %rax
    push %rbx
    mov %rsp, %rbx
    and $~STACK_MASK, %rbx
    mov (%rbx), %rbx            // this processor's struct probe_cpu
    cmpq $0, ACTIVE(%rbx)
    jne 1f
    pop %rbx
    pop %rax
    jmp trap_common
1:  mov 8(%rsp), %rax
    mov %rax, GPR(%rbx)
    mov %rcx, GPR+8(%rbx)
    mov %rdx, GPR+16(%rbx)
    mov (%rsp), %rax
    mov %rax, GPR+24(%rbx)
    mov %rbp, GPR+40(%rbx)
    mov %rsi, GPR+48(%rbx)
    mov %rdi, GPR+56(%rbx)
    mov %r8, GPR+64(%rbx)
    mov %r9, GPR+72(%rbx)
    mov %r10, GPR+80(%rbx)
    mov %r11, GPR+88(%rbx)
    mov %r12, GPR+96(%rbx)
    mov %r13, GPR+104(%rbx)
    mov %r14, GPR+112(%rbx)
    mov %r15, GPR+120(%rbx)
    mov %rbx, %rdi
    lea 16(%rsp), %rsi          // vector, error code, RIP, CS, RFLAGS, RSP, SS
    cld
    call probe_take
    cmp $1, %eax
    je 2f
    ja 3f
    push $DATA                  // IRET also ends what blocks NMIs
    pushq SAVED_RSP(%rbx)
    push $2
    push $CODE64
    lea 4f(%rip), %rax
    push %rax
    iretq
2:  add $32, %rsp               // the code goes on
    mov %rbx, %rdi
    jmp load_registers
3:  mov $LEFT_L2, %eax
    .global probe_l2_leaves
probe_l2_leaves:
    vmcall
    jmp probe_l2_leaves
4:  popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

    .section .note.GNU-stack, "", @progbits
