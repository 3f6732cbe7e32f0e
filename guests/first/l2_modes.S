// SPDX-License-Identifier: MIT
// L2 code for 16-bit and 32-bit modes. The 16-bit part runs with all segment bases at modes_real_start.

#define CR0_PE 1
#define CR0_PG 0x80000000
#define CR4_PAE_VMXE 0x2020
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define CODE32 0x10
#define CODE64 0x18
#define DATA 0x20

    .text
    .balign 16
    .global modes_real_start
modes_real_start:
    .code16

    // Real mode: exits, then on to 1000:0, where L1 has put what follows as a page.
    .global modes_real
modes_real:
    mov $1, %eax
    vmcall
    out %al, $0xed
    cpuid
    hlt
    ljmp $0x1000, $0

    .global modes_low, modes_low_end
modes_low:
    mov $0x1000, %eax
    vmcall
    int $0x21
    mov $0x1001, %eax
    vmcall
    hlt
    .org modes_low + 0x40       // MODES_LOW_HANDLER
    mov $0x21, %eax
    vmcall
    iretw
modes_low_end:

    // Real mode to 64-bit mode and back to 32-bit. In: EBX = CR3 for the paging part, EBP = a stack.
    .global modes_climb
modes_climb:
    lgdtl %cs:modes_gdt_pointer - modes_real_start
    mov %cr0, %eax
    or $CR0_PE, %al
    mov %eax, %cr0
    mov $1, %eax
    vmcall
    ljmpl $CODE32, $1f

    .code32
1:  mov $DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %ebp, %esp
    mov $2, %eax
    vmcall
    mov $CR4_PAE_VMXE, %eax
    mov %eax, %cr4
    mov %ebx, %cr3
    mov $MSR_EFER, %ecx
    rdmsr
    or $EFER_LME, %eax
    wrmsr
    mov %cr0, %eax
    or $CR0_PG, %eax
    mov %eax, %cr0
    mov $3, %eax
    vmcall
    ljmp $CODE64, $2f

    .code64
2:  mov $4, %eax
    vmcall
    lea 3f(%rip), %rax
    pushq $CODE32
    push %rax
    lretq

    .code32
3:  mov $5, %eax
    vmcall
    mov %cr0, %eax
    and $~CR0_PG, %eax
    mov %eax, %cr0
    mov $6, %eax
    vmcall
    jmp 3b

    // 32-bit protected mode with paging. In: EBX = address to write to, ESI = address to read from.
    .global modes_32
modes_32:
    movl $0x13579bdf, (%ebx)
    mov $0xffffffff, %edx
    add $0xffffffff, %edx
    mov $1, %eax
    vmcall
    mov (%esi), %ecx
    mov %cr3, %eax
    mov %eax, %cr3
    mov $2, %eax
    vmcall
    jmp modes_32

    // 32-bit protected mode with a GDT of the test's.
    .global modes_task_switches
modes_task_switches:
    ljmp $0x48, $0
    lcall $0x50, $0
    mov $1, %eax
    vmcall
    jmp modes_task_switches

    .balign 8
modes_gdt:
    .quad 0
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
modes_gdt_end:
modes_gdt_pointer:
    .word modes_gdt_end - modes_gdt - 1
    .long modes_gdt

    .section .note.GNU-stack, "", @progbits
