// SPDX-License-Identifier: MIT
// Into L2 and out of it, with the general-purpose registers that the VMCS does not hold. l2.h: struct l2.

#define HOST_RSP_OFFSET 128
#define VMCS_HOST_RSP 0x6c14

    .text
    .code64
    // enum vmx_status l2_enter_asm(struct l2 *l2, bool launch)
    .global l2_enter_asm, l2_exited, l2_returned
l2_enter_asm:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    push %rdi
    cmp %rsp, HOST_RSP_OFFSET(%rdi)
    je 1f
    mov $VMCS_HOST_RSP, %eax
    mov %rsp, HOST_RSP_OFFSET(%rdi)
    vmwrite %rsp, %rax          // no current VMCS: VMLAUNCH says so
1:  test %esi, %esi             // MOV below leaves the flags alone
    mov 0(%rdi), %rax
    mov 8(%rdi), %rcx
    mov 16(%rdi), %rdx
    mov 24(%rdi), %rbx
    mov 40(%rdi), %rbp
    mov 48(%rdi), %rsi
    mov 64(%rdi), %r8
    mov 72(%rdi), %r9
    mov 80(%rdi), %r10
    mov 88(%rdi), %r11
    mov 96(%rdi), %r12
    mov 104(%rdi), %r13
    mov 112(%rdi), %r14
    mov 120(%rdi), %r15
    mov 56(%rdi), %rdi
    jz 2f
    vmlaunch
    jmp 3f
2:  vmresume
3:  mov $1, %eax                // VMX_FAIL_INVALID
    jc 4f
    mov $2, %eax                // VMX_FAIL_VALID
4:  add $8, %rsp
    jmp 5f

l2_exited:                      // the VMCS's host RIP
    push %rdi
    mov 8(%rsp), %rdi
    mov %rax, 0(%rdi)
    mov %rcx, 8(%rdi)
    mov %rdx, 16(%rdi)
    mov %rbx, 24(%rdi)
    mov %rbp, 40(%rdi)
    mov %rsi, 48(%rdi)
    mov %r8, 64(%rdi)
    mov %r9, 72(%rdi)
    mov %r10, 80(%rdi)
    mov %r11, 88(%rdi)
    mov %r12, 96(%rdi)
    mov %r13, 104(%rdi)
    mov %r14, 112(%rdi)
    mov %r15, 120(%rdi)
    pop 56(%rdi)
    add $8, %rsp
    xor %eax, %eax
5:  pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

    // Where L2's C function returns to.
l2_returned:
    mov $0x7e70, %eax           // L2_RETURNED
    vmcall
    jmp l2_returned

    .section .note.GNU-stack, "", @progbits
