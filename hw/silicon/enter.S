// SPDX-License-Identifier: MIT
// VM entry, and the way back. While the guest runs, the general-purpose registers are all its own.

#define GPR(n)        (8 * (n))
#define CPU_REGS      64        // struct hw_cpu
#define CPU_ENTRY_RSP 72
#define CPU_NMI_CAME  80

// enum vmx_status hw_enter(struct hw_cpu *cpu, struct nvmx_regs *regs, bool launch)
        .text
        .globl  hw_enter
        .type   hw_enter, @function
        .balign 16
hw_enter:
        push    %rbp
        push    %rbx
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        push    %rdi
        mov     %rsi, CPU_REGS(%rdi)
        mov     %rsp, CPU_ENTRY_RSP(%rdi)
        // An NMI is seen here, or, from the comparison to the entry itself, its handler returns to `not_entered`
        // (silicon_note_nmi). Nothing in between writes memory or moves RSP.
        .globl  silicon_entry_begins, silicon_vmlaunch, silicon_vmresume, silicon_not_entered
silicon_entry_begins:
        cmpb    $0, CPU_NMI_CAME(%rdi)
        jne     silicon_not_entered
        test    %dl, %dl                        // no instruction below but the entry itself changes flags
        mov     GPR(0)(%rsi), %rax
        mov     GPR(1)(%rsi), %rcx
        mov     GPR(2)(%rsi), %rdx
        mov     GPR(3)(%rsi), %rbx
        mov     GPR(5)(%rsi), %rbp
        mov     GPR(7)(%rsi), %rdi
        mov     GPR(8)(%rsi), %r8
        mov     GPR(9)(%rsi), %r9
        mov     GPR(10)(%rsi), %r10
        mov     GPR(11)(%rsi), %r11
        mov     GPR(12)(%rsi), %r12
        mov     GPR(13)(%rsi), %r13
        mov     GPR(14)(%rsi), %r14
        mov     GPR(15)(%rsi), %r15
        mov     GPR(6)(%rsi), %rsi
        jz      1f
silicon_vmlaunch:
        vmlaunch
        jmp     2f
1:
silicon_vmresume:
        vmresume
        // The entry failed before the guest's state was touched: regs is still the truth.
2:      setc    %al                             // VMfailInvalid: VMX_FAIL_INVALID = 1
        setz    %cl                             // VMfailValid: VMX_FAIL_VALID = 2
        movzbl  %al, %eax
        movzbl  %cl, %ecx
        lea     (%rax, %rcx, 2), %eax
        jmp     3f

silicon_not_entered:
        mov     (%rsp), %rdi
        movb    $0, CPU_NMI_CAME(%rdi)
        mov     $3, %eax                        // VMX_NOT_ENTERED
        jmp     3f

        // HOST_RIP. RSP is &cpu->regs.
        .globl  silicon_vm_exit
        .balign 16
silicon_vm_exit:
        push    %rax
        mov     8(%rsp), %rax
        mov     %rcx, GPR(1)(%rax)
        mov     %rdx, GPR(2)(%rax)
        mov     %rbx, GPR(3)(%rax)
        mov     %rbp, GPR(5)(%rax)
        mov     %rsi, GPR(6)(%rax)
        mov     %rdi, GPR(7)(%rax)
        mov     %r8, GPR(8)(%rax)
        mov     %r9, GPR(9)(%rax)
        mov     %r10, GPR(10)(%rax)
        mov     %r11, GPR(11)(%rax)
        mov     %r12, GPR(12)(%rax)
        mov     %r13, GPR(13)(%rax)
        mov     %r14, GPR(14)(%rax)
        mov     %r15, GPR(15)(%rax)
        pop     GPR(0)(%rax)
        mov     (CPU_ENTRY_RSP - CPU_REGS)(%rsp), %rsp
        xor     %eax, %eax                      // VMX_SUCCEED
3:      pop     %rdi
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbx
        pop     %rbp
        ret
        .size   hw_enter, . - hw_enter

        .section .note.GNU-stack, "", @progbits
