// SPDX-License-Identifier: MIT
// The BIOS's memory calls (INT 15h) as L1 is to hear them. load_bios.c copies this into a page of L1's low
// memory and fills in the data. It runs in L1, in real mode, with CS at the page and IP from 0.
        .code16
        .section .rodata
        .balign 16
        .globl  load_bios_stub, load_bios_stub_old, load_bios_stub_below_16m, load_bios_stub_above_16m
        .globl  load_bios_stub_above_1m, load_bios_stub_count, load_bios_stub_table

#define SMAP      0x534d4150
#define HERE(x)   ((x) - load_bios_stub)
#define ENTRY     20                            // base, length, type
#define STACKED_FLAGS 6                         // above BP, IP and CS

load_bios_stub:
        cmp     $0xe820, %ax
        je      memory_map
        cmp     $0xe801, %ax
        je      memory_size
        cmp     $0xe881, %ax
        je      memory_size_32
        cmp     $0x88, %ah
        je      memory_size_small
        ljmp    *%cs:HERE(load_bios_stub_old)

// EBX: which entry; ECX: the size of the buffer at ES:DI. Gives the entry, and in EBX the number of the
// next or 0.
memory_map:
        cmp     $SMAP, %edx
        jne     fail
        cmp     $ENTRY, %ecx
        jb      fail
        cmp     %cs:HERE(load_bios_stub_count), %ebx
        jae     fail
        push    %ds
        push    %si
        push    %di
        push    %cs
        pop     %ds
        imul    $ENTRY, %bx, %si
        add     $HERE(load_bios_stub_table), %si
        mov     $ENTRY / 4, %cx
        cld
        rep movsl
        pop     %di
        pop     %si
        pop     %ds
        inc     %ebx
        cmp     %cs:HERE(load_bios_stub_count), %ebx
        jb      1f
        xor     %ebx, %ebx
1:      mov     $SMAP, %eax
        mov     $ENTRY, %ecx
        jmp     succeed

// KiB between 1 and 16 MiB, and 64-KiB blocks above.
memory_size_32:
        xor     %ebx, %ebx
        xor     %eax, %eax
        call    load_sizes
        mov     %eax, %ecx
        mov     %ebx, %edx
        jmp     succeed
memory_size:
        call    load_sizes
        mov     %ax, %cx
        mov     %bx, %dx
        jmp     succeed
load_sizes:
        mov     %cs:HERE(load_bios_stub_below_16m), %ax
        mov     %cs:HERE(load_bios_stub_above_16m), %bx
        ret

// KiB above 1 MiB.
memory_size_small:
        mov     %cs:HERE(load_bios_stub_above_1m), %ax

succeed:
        push    %bp
        mov     %sp, %bp
        andb    $~1, STACKED_FLAGS(%bp)         // carry
        pop     %bp
        iret
fail:
        mov     $0x86, %ah                      // not supported
        push    %bp
        mov     %sp, %bp
        orb     $1, STACKED_FLAGS(%bp)
        pop     %bp
        iret

        .balign 4
load_bios_stub_old:                             // the BIOS's own INT 15h: offset, segment
        .long   0
load_bios_stub_below_16m:
        .short  0
load_bios_stub_above_16m:
        .short  0
load_bios_stub_above_1m:
        .short  0, 0
load_bios_stub_count:
        .long   0
load_bios_stub_table:                           // goes on to the page's end

        .section .note.GNU-stack, "", @progbits
