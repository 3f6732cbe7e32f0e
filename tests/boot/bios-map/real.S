// SPDX-License-Identifier: MIT
// A Multiboot 1 kernel's way to the BIOS: real_int15 goes to real mode, executes INT 15h, and comes back.
        .section .multiboot, "a"
        .balign 4
        .long   0x1badb002, 3, -(0x1badb002 + 3)

#define REGISTERS 0x7e00                        // eax, ebx, ecx, edx, edi, flags: real.h
#define STACK     0x7c00
#define CODE_32   0x08
#define DATA_32   0x10
#define CODE_16   0x18
#define DATA_16   0x20

        .text
        .code32
        .globl  start, real_int15
start:  mov     $stack_end, %esp
        lgdt    gdtr
        ljmp    $CODE_32, $1f
1:      mov     $DATA_32, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $low_source, %esi
        mov     $low_start, %edi
        mov     $low_size, %ecx
        cld
        rep movsb
        push    %ebx
        call    kernel
1:      hlt
        jmp     1b

real_int15:
        pusha
        mov     %esp, saved_esp
        ljmp    $CODE_16, $to_real
from_real:
        mov     $DATA_32, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     saved_esp, %esp
        lidt    no_idt
        popa
        ret

// Linked for, and copied to, memory that real mode reaches.
        .section .low, "ax"
        .code16
to_real:
        mov     $DATA_16, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        lidtl   real_idt
        mov     %cr0, %eax
        and     $~1, %al
        mov     %eax, %cr0
        ljmp    $0, $1f
1:      xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $STACK, %esp
        mov     REGISTERS, %eax
        mov     REGISTERS + 4, %ebx
        mov     REGISTERS + 8, %ecx
        mov     REGISTERS + 12, %edx
        mov     REGISTERS + 16, %edi
        stc                                     // carry must be cleared or set by the call, not left over
        int     $0x15
        pushf
        cli
        xor     %si, %si
        mov     %si, %ds
        mov     %eax, REGISTERS
        mov     %ebx, REGISTERS + 4
        mov     %ecx, REGISTERS + 8
        mov     %edx, REGISTERS + 12
        mov     %edi, REGISTERS + 16
        popw    REGISTERS + 20
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmpl   $CODE_32, $from_real
real_idt:
        .short  0x3ff
        .long   0

        .data
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff
        .quad   0x00cf93000000ffff
        .quad   0x00009b000000ffff
        .quad   0x000093000000ffff
gdtr:   .short  . - gdt - 1
        .long   gdt
no_idt: .short  0
        .long   0
saved_esp:
        .long   0

        .bss
        .skip   4096
stack_end:
        .section .note.GNU-stack, "", @progbits
