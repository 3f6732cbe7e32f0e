// SPDX-License-Identifier: MIT
// From Multiboot's 32-bit state, and from a start-up IPI's 16-bit one, to C in 64-bit mode on a stack of its own.
// The page tables map the first 4 GiB identically with 2-MByte pages, user-accessible (a test runs at CPL 3).

#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 3 /* page-aligned modules, memory information */
#define PTE_P_W_U 0x7
#define PTE_LARGE 0x80
#define CR0_BOOT 0x80010033 /* PG WP NE ET MP PE */
#define CR0_PE_ONLY 0x11
#define CR4_BOOT 0x20 /* PAE */
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100

    .section .multiboot, "a"
    .balign 4
    .long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

    .text
    .code32
    .global start_multiboot
start_multiboot:
    cli
    cld
    mov $boot_stack_end, %esp
    mov %eax, %esi              // magic
    mov %ebx, %edi              // information: both are C's arguments later
    movl $boot_pdpt + PTE_P_W_U, boot_pml4
    mov $4, %ecx                // four page directories, from the last to the first
1:  lea -1(%ecx), %eax
    shl $12, %eax
    add $boot_pd + PTE_P_W_U, %eax
    mov %eax, boot_pdpt - 8(,%ecx,8)
    loop 1b
    mov $2048, %ecx
2:  lea -1(%ecx), %eax
    shl $21, %eax
    or $PTE_P_W_U | PTE_LARGE, %eax
    mov %eax, boot_pd - 8(,%ecx,8)
    loop 2b
    lgdt boot_gdt_pointer
    ljmp $0x08, $3f
3:  mov $boot_64, %ebx
    jmp enter_long_mode

// In: EBX = 64-bit code to go to; CS is flat 32-bit. ESI, EDI and ESP survive.
enter_long_mode:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $CR4_BOOT, %eax
    mov %eax, %cr4
    mov $boot_pml4, %eax
    mov %eax, %cr3
    mov $MSR_EFER, %ecx
    rdmsr
    or $EFER_LME, %eax
    wrmsr
    mov $CR0_BOOT, %eax
    mov %eax, %cr0
    ljmp $0x18, $4f
    .code64
4:  mov %ebx, %ebx
    jmp *%rbx

boot_64:
    mov %edi, %edi
    mov %esi, %esi
    call guest_start            // guest_start(information, magic)
5:  cli
    hlt
    jmp 5b

// An application processor's first page: copied below 1 MiB, entered at its first byte, so position-independent.
    .code16
    .global trampoline_start, trampoline_end
trampoline_start:
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    lgdtl trampoline_gdt_pointer - trampoline_start
    mov $CR0_PE_ONLY, %eax
    mov %eax, %cr0
    ljmpl $0x08, $processor_32
    .balign 4
trampoline_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt
trampoline_end:

    .code32
processor_32:
    mov $processor_64, %ebx
    jmp enter_long_mode
    .code64
processor_64:
    mov processor_start_stack, %rsp
    call processor_start
6:  cli
    hlt
    jmp 6b

    .section .rodata
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    // 0x08 32-bit code
    .quad 0x00cf93000000ffff    // 0x10 data
    .quad 0x00af9b000000ffff    // 0x18 64-bit code
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt

    .section .bss.pages, "aw", @nobits
    .balign 4096
    .global boot_pml4
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_pd:
    .skip 4 * 4096
boot_stack:
    .skip 16384
boot_stack_end:

    .section .note.GNU-stack, "", @progbits
