// SPDX-License-Identifier: MIT
// Where a startup IPI lands: copied to a page below 1 MiB, from real mode straight into 64-bit mode. smp.c
// fills in the parameters.

#include "boot.h"

#define AT(symbol) ((symbol) - trampoline_start)

        .section .rodata
        .globl  trampoline_start, trampoline_parameters, trampoline_end
        .code16
trampoline_start:
        cli
        cld
        mov     %cs, %ax
        mov     %ax, %ds
        mov     $0x20, %eax                     // CR4.PAE
        mov     %eax, %cr4
        mov     AT(parameter_cr3), %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx               // IA32_EFER
        xor     %edx, %edx
        mov     AT(parameter_efer), %eax
        wrmsr
        lgdtl   AT(parameter_gdtr)
        mov     $0x80010033, %eax               // CR0: PG, WP, NE, ET, MP, PE
        mov     %eax, %cr0
        ljmpl   *AT(parameter_far_pointer)

        .globl  trampoline_long
        .code64
trampoline_long:
        mov     $SELECTOR_DATA, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     parameter_stack(%rip), %rsp
        mov     parameter_cpu(%rip), %rdi
        mov     parameter_entry(%rip), %rax
        xor     %ebp, %ebp
        call    *%rax
        ud2

        .balign 8
trampoline_gdt:
        .quad   0
        .quad   0x00af9b000000ffff              // SELECTOR_CODE
        .quad   0x00cf93000000ffff              // SELECTOR_DATA

        // struct trampoline_parameters in smp.c
        .balign 8
trampoline_parameters:
parameter_stack:
        .quad   0
parameter_cpu:
        .quad   0
parameter_entry:
        .quad   0
parameter_cr3:
        .long   0
parameter_efer:
        .long   0
parameter_far_pointer:
        .long   AT(trampoline_long)             // smp.c adds the page's address
        .word   SELECTOR_CODE
parameter_gdtr:
        .word   3 * 8 - 1
        .long   AT(trampoline_gdt)              // likewise
trampoline_end:

        .section .note.GNU-stack, "", @progbits
