// SPDX-License-Identifier: MIT
// Multiboot to C in 32-bit mode, the exceptions' entry points, and the way into L2 and back.

#define MULTIBOOT_MAGIC 0x1badb002
#define VMCS_HOST_RSP 0x6c14
#define EXCEPTION_COUNT 32

    .section .multiboot, "a"
    .balign 4
    .long MULTIBOOT_MAGIC, 3, -(MULTIBOOT_MAGIC + 3)

    .text
    .global start_multiboot
start_multiboot:
    cli
    cld
    mov $stack_end, %esp
    push %eax
    call guest_main
1:  hlt
    jmp 1b

    // Exceptions: the vector, and the error code where there is one, are noted; execution goes on at `recover`.
    .balign 32
    .global exception_entries
exception_entries:
    vector = 0
    .rept EXCEPTION_COUNT
    .balign 32
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17
    popl exception_error
    .else
    movl $0, exception_error
    .endif
    movl $vector, exception_vector
    popl exception_eip
    jmp recover
    vector = vector + 1
    .endr

recover:
    mov recover_esp, %esp
    mov $1, %eax
    jmp recovered

    // bool catch_exception(void (*function)(void)): true if it raised one
    .global catch_exception
catch_exception:
    mov 4(%esp), %eax
    push %ebx
    push %esi
    push %edi
    push %ebp
    mov %esp, recover_esp
    call *%eax
    xor %eax, %eax
recovered:
    pop %ebp
    pop %edi
    pop %esi
    pop %ebx
    ret

    // uint32_t enter_l2(uint32_t registers[8], uint32_t launch): 0 exit, 1 VMfailInvalid, 2 VMfailValid.
    // The registers are in the order of their numbers; ESP is unused.
    .global enter_l2, exited_l2
enter_l2:
    push %ebx
    push %esi
    push %edi
    push %ebp
    mov 20(%esp), %ebp
    push %ebp
    mov $VMCS_HOST_RSP, %eax
    vmwrite %esp, %eax
    cmpl $0, 28(%esp)
    mov 0(%ebp), %eax
    mov 4(%ebp), %ecx
    mov 8(%ebp), %edx
    mov 12(%ebp), %ebx
    mov 24(%ebp), %esi
    mov 28(%ebp), %edi
    mov 20(%ebp), %ebp
    je 1f
    vmlaunch
    jmp 2f
1:  vmresume
2:  mov $1, %eax
    jc 3f
    mov $2, %eax
3:  add $4, %esp
    jmp 4f
exited_l2:
    push %ebp
    mov 4(%esp), %ebp
    mov %eax, 0(%ebp)
    mov %ecx, 4(%ebp)
    mov %edx, 8(%ebp)
    mov %ebx, 12(%ebp)
    mov %esi, 24(%ebp)
    mov %edi, 28(%ebp)
    popl 20(%ebp)
    add $4, %esp
    xor %eax, %eax
4:  pop %ebp
    pop %edi
    pop %esi
    pop %ebx
    ret

    .bss
    .balign 32
    .skip 16384
stack_end:
recover_esp:
    .skip 4
    .global exception_vector, exception_error, exception_eip
exception_vector:
    .skip 4
exception_error:
    .skip 4
exception_eip:
    .skip 4

    .section .note.GNU-stack, "", @progbits
