// SPDX-License-Identifier: MIT
// From the boot loader's 32-bit protected mode to main() in 64-bit mode.

#include "boot.h"

#define MULTIBOOT2_HEADER_MAGIC 0xe85250d6
#define MULTIBOOT2_BOOT_MAGIC   0x36d76289
#define PHYSICAL(symbol)        ((symbol) - IMAGE_OFFSET)

        .section .multiboot2, "a"
        .balign 8
header:
        .long   MULTIBOOT2_HEADER_MAGIC, 0, header_end - header
        .long   -(MULTIBOOT2_HEADER_MAGIC + 0 + (header_end - header))
        .balign 8
        .word   6, 0                            // modules page-aligned
        .long   8
        .balign 8
        .word   0, 0                            // end of tags
        .long   8
header_end:

        .section .boot, "ax"
        .code32
        .globl  boot_start
boot_start:
        cli
        cld
        mov     $PHYSICAL(boot_stack_end), %esp
        mov     $message_loader, %esi
        cmp     $MULTIBOOT2_BOOT_MAGIC, %eax
        jne     refuse
        mov     %ebx, %ebp                      // the boot information

        mov     $message_long_mode, %esi
        mov     $0x80000000, %eax
        cpuid
        cmp     $0x80000001, %eax
        jb      refuse
        mov     $0x80000001, %eax
        cpuid
        bt      $29, %edx
        jnc     refuse

        // The first 4 GiB, at 0, at the direct map and (its first 1 GiB) at IMAGE_OFFSET, in 2-MByte pages.
        mov     $PHYSICAL(early_pd), %edi
        mov     $0x83, %eax                     // present, writable, page size
        xor     %edx, %edx
1:      mov     %eax, (%edi)
        mov     %edx, 4(%edi)
        add     $8, %edi
        add     $0x200000, %eax
        jnc     1b
        mov     $PHYSICAL(early_pd) + 3, %eax
        mov     $PHYSICAL(early_pdpt), %edi
        mov     $4, %ecx
2:      mov     %eax, (%edi)
        add     $8, %edi
        add     $4096, %eax
        loop    2b
        movl    $PHYSICAL(early_pd) + 3, PHYSICAL(early_pdpt_image) + 510 * 8
        movl    $PHYSICAL(early_pdpt) + 3, PHYSICAL(early_pml4)
        movl    $PHYSICAL(early_pdpt) + 3, PHYSICAL(early_pml4) + 256 * 8
        movl    $PHYSICAL(early_pdpt_image) + 3, PHYSICAL(early_pml4) + 511 * 8

        mov     $0x20, %eax                     // CR4.PAE
        mov     %eax, %cr4
        mov     $PHYSICAL(early_pml4), %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx               // IA32_EFER.LME
        rdmsr
        bts     $8, %eax
        wrmsr
        mov     $0x80010033, %eax               // CR0: PG, WP, NE, ET, MP, PE
        mov     %eax, %cr0
        lgdt    PHYSICAL(early_gdtr)
        ljmp    $SELECTOR_CODE, $boot_long

        // ESI: a sentence for the log's serial port; no more than that is possible here.
refuse: lodsb
        test    %al, %al
        jz      5f
        mov     %al, %bl
        mov     $0x2fd, %edx                    // COM2's line status: bounded, the port may not be there
        mov     $100000, %ecx
3:      in      (%dx), %al
        test    $0x20, %al                      // the transmitter is ready
        loopz   3b
        mov     $0x2f8, %edx
        mov     %bl, %al
        out     %al, (%dx)
        jmp     refuse
5:      mov     $0x2fd, %edx
        mov     $100000, %ecx
6:      in      (%dx), %al
        test    $0x40, %al                      // the last byte is out
        loopz   6b
        mov     $message_shutdown, %esi         // quirk: the shutdown port (quirks.h), before L0 knows the machine
        mov     $8, %ecx
        mov     $0x8900, %edx
        rep outsb
7:      hlt
        jmp     7b
message_shutdown:
        .ascii  "Shutdown"
message_loader:
        .asciz  "plastron: refuse: not started by a multiboot2 boot loader\n"
message_long_mode:
        .asciz  "plastron: refuse: this processor has no 64-bit mode\n"

        .code64
boot_long:
        movabs  $boot_high, %rax
        jmp     *%rax

        .text
boot_high:
        mov     $SELECTOR_DATA, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     %eax, %fs
        mov     %eax, %gs
        mov     $boot_stack_end, %rsp
        mov     %ebp, %edi
        xor     %ebp, %ebp
        call    main
        ud2

        // void boot_relocate(void *to, const void *from, uint64_t size, uint64_t cr3)
        // Copies the image, stack and all, and continues in the copy.
        .globl  boot_relocate
boot_relocate:
        mov     %rcx, %rax
        mov     %rdx, %rcx
        shr     $3, %rcx
        rep movsq
        mov     %rax, %cr3
        ret

        .section .rodata
        .balign 8
early_gdt:
        .quad   0
        .quad   0x00af9b000000ffff              // SELECTOR_CODE: 64-bit code
        .quad   0x00cf93000000ffff              // SELECTOR_DATA
early_gdtr:
        .word   . - early_gdt - 1
        .quad   PHYSICAL(early_gdt)

        .bss
        .balign 4096
early_pml4:
        .skip   4096
early_pdpt:
        .skip   4096
early_pdpt_image:
        .skip   4096
early_pd:
        .skip   4 * 4096
boot_stack:
        .skip   CPU_STACK_SIZE
        .globl  boot_stack_end
boot_stack_end:

        .section .note.GNU-stack, "", @progbits
