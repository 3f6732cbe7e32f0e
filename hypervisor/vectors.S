// SPDX-License-Identifier: MIT
// The entry points of exceptions: a struct exceptions_frame on the stack, and into C.

#include "boot.h"

// Vectors 8, 10 to 14, 17, 21, 29 and 30 push an error code.
#define PUSHES_ERROR_CODE 0x60227d00

        .text
        .macro  vector number
vector_\number:
        .if     ((PUSHES_ERROR_CODE >> \number) & 1) == 0
        pushq   $0
        .endif
        pushq   $\number
        jmp     common
        .endm

        .altmacro
        .set    number, 0
        .rept   EXCEPTION_COUNT
        vector  %number
        .set    number, number + 1
        .endr

common: push    %rax
        push    %rcx
        push    %rdx
        push    %rbx
        push    %rbp
        push    %rsi
        push    %rdi
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        cld
        mov     %rsp, %rdi
        call    exceptions_handle
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rdi
        pop     %rsi
        pop     %rbp
        pop     %rbx
        pop     %rdx
        pop     %rcx
        pop     %rax
        add     $16, %rsp
        iretq

        .section .rodata
        .balign 8
        .globl  vectors_entry
vectors_entry:
        .macro  address number
        .quad   vector_\number
        .endm
        .set    number, 0
        .rept   EXCEPTION_COUNT
        address %number
        .set    number, number + 1
        .endr

        .section .note.GNU-stack, "", @progbits
