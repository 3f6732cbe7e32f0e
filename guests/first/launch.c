// SPDX-License-Identifier: MIT
// Launch and resume, several VMCSs, and what VMCLEAR and VMPTRLD do to them.
#include "first.h"
#include "x86.h"

// Keeps a value in every register across the exits, then says whether they all are still there.
static void l2_registers(void)
{
    uint64_t sum;
    __asm__ volatile(
        "mov $0x1001, %%rbx; mov $0x1002, %%rcx; mov $0x1003, %%rdx; mov $0x1004, %%rsi\n"
        "mov $0x1005, %%rdi; mov $0x1006, %%r8; mov $0x1007, %%r9; mov $0x1008, %%r10\n"
        "mov $0x1009, %%r11; mov $0x100a, %%r12; mov $0x100b, %%r13; mov $0x100c, %%r14\n"
        "mov $0x100d, %%r15; mov $1, %%eax\n"
        "vmcall\n"
        "add %%rbx, %%rax; add %%rcx, %%rax; add %%rdx, %%rax; add %%rsi, %%rax; add %%rdi, %%rax\n"
        "add %%r8, %%rax; add %%r9, %%rax; add %%r10, %%rax; add %%r11, %%rax; add %%r12, %%rax\n"
        "add %%r13, %%rax; add %%r14, %%rax; add %%r15, %%rax"
        : "=a"(sum)
        :
        : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory");
    l2_call(sum);
}

void test_launch(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_registers);
    uint64_t code = l2_read(VMCS_GUEST_RIP);
    if (!fact_exit(cpu, l2, "VMLAUNCH, L2 executes VMCALL", EXIT_VMCALL))
        return;
    fact(cpu, "instruction length", l2_read(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 3);
    fact(cpu, "exit qualification", l2_read(VMCS_EXIT_QUALIFICATION), 0);
    fact_true(cpu, "guest RIP is in L2's function", l2_read(VMCS_GUEST_RIP) - code < 0x100);
    fact(cpu, "L2's RAX", l2->gpr[GPR_RAX], 1);
    fact(cpu, "L2's RBX", l2->gpr[GPR_RBX], 0x1001);
    fact(cpu, "L2's RDI", l2->gpr[GPR_RDI], 0x1005);
    fact(cpu, "L2's R15", l2->gpr[GPR_R15], 0x100d);
    fact(cpu, "IDT-vectoring information is valid", l2_read(VMCS_IDT_VECTORING_INFO) >> 31, 0);
    fact(cpu, "RFLAGS after the exit", x86_read_rflags() & RFLAGS_IF, 0);
    l2_skip();
    l2->gpr[GPR_RAX] = 0x100000; // L1's answer
    fact_call(cpu, l2, "VMRESUME, L2 adds up its registers", 0x100000 + 0x1001 * 13 + 78);
    fact_call(cpu, l2, "VMRESUME, L2 returns", L2_RETURNED);
    l2->gpr[GPR_RBX] = 7;
    fact_call(cpu, l2, "VMRESUME, L2 has returned", L2_RETURNED);
    fact(cpu, "a register that L1 set", l2->gpr[GPR_RBX], 7);
}

static void l2_count(void)
{
    for (uint64_t i = 1;; i++)
        l2_call(i);
}

static void l2_count_hundreds(void)
{
    for (uint64_t i = 100;; i += 100)
        l2_call(i);
}

static bool load(struct cpu *cpu, const char *name, const struct l2 *l2)
{
    enum vmx_status status = vmx_vmptrld(l2->vmcs);
    fact_status(cpu, name, status, FACT_SUCCEED);
    return status == VMX_SUCCEED;
}

// Two VMCSs in turn, each with its own L2, its own controls, and its own launch state.
void test_second_vmcs(struct cpu *cpu)
{
    struct l2 *a = l2_create(cpu, l2_count);
    fact_call(cpu, a, "A launched", 1);
    struct l2 *b = l2_create(cpu, l2_count_hundreds);
    fact_status(cpu, "VMRESUME of B, which was never launched", vmx_vmresume(), 5);
    l2_write(VMCS_TSC_OFFSET, 0x1234567);
    l2_write(VMCS_EXCEPTION_BITMAP, 0xb);
    fact_call(cpu, b, "B launched", 100);
    if (!load(cpu, "VMPTRLD of A", a))
        return;
    fact(cpu, "A's TSC offset", l2_read(VMCS_TSC_OFFSET), 0);
    fact(cpu, "A's exception bitmap", l2_read(VMCS_EXCEPTION_BITMAP), 0);
    fact(cpu, "A's exit reason", l2_read(VMCS_EXIT_REASON), EXIT_VMCALL);
    fact_call(cpu, a, "A resumed", 2);
    fact_status(cpu, "VMLAUNCH of A, which is launched", vmx_vmlaunch(), 4);
    if (!load(cpu, "VMPTRLD of B", b))
        return;
    fact(cpu, "B's TSC offset", l2_read(VMCS_TSC_OFFSET), 0x1234567);
    fact(cpu, "B's exception bitmap", l2_read(VMCS_EXCEPTION_BITMAP), 0xb);
    fact_call(cpu, b, "B resumed", 200);
    for (uint32_t i = 0; i < 3; i++) {
        vmx_vmptrld(a->vmcs);
        fact_call(cpu, a, "A resumed", 3 + i);
        vmx_vmptrld(b->vmcs);
        fact_call(cpu, b, "B resumed", 300 + 100 * i);
    }
    fact_status(cpu, "VMCLEAR of A, which is not current", vmx_vmclear(a->vmcs), FACT_SUCCEED);
    fact_call(cpu, b, "B, still current, resumed", 600);
    fact_status(cpu, "VMCLEAR of B", vmx_vmclear(b->vmcs), FACT_SUCCEED);
}

// VMCLEAR writes everything back and makes the launch state clear; the data survives.
void test_relaunch(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_count);
    fact_call(cpu, l2, "launched", 1);
    l2_write(VMCS_HOST_FS_BASE, 0x5000);
    fact_status(cpu, "VMCLEAR of the current VMCS", vmx_vmclear(l2->vmcs), FACT_SUCCEED);
    uint64_t value = 0x77;
    fact_status(cpu, "VMREAD without a current VMCS", vmx_vmread(VMCS_GUEST_RIP, &value), FACT_FAIL_INVALID);
    fact(cpu, "its destination is unchanged", value, 0x77);
    fact_status(cpu, "VMWRITE without a current VMCS", vmx_vmwrite(VMCS_GUEST_RIP, 1), FACT_FAIL_INVALID);
    fact_status(cpu, "VMLAUNCH without a current VMCS", vmx_vmlaunch(), FACT_FAIL_INVALID);
    fact_status(cpu, "VMRESUME without a current VMCS", vmx_vmresume(), FACT_FAIL_INVALID);
    fact_status(cpu, "VMCLEAR once more", vmx_vmclear(l2->vmcs), FACT_SUCCEED);
    if (!load(cpu, "VMPTRLD", l2))
        return;
    fact(cpu, "a field that was written before", l2_read(VMCS_HOST_FS_BASE), 0x5000);
    fact_status(cpu, "VMRESUME of a clear VMCS", vmx_vmresume(), 5);
    l2->launched = false;
    fact_call(cpu, l2, "launched again, L2 goes on where it was", 2);
    fact(cpu, "FS base after the exit", x86_rdmsr(MSR_FS_BASE), 0x5000);
    fact_call(cpu, l2, "resumed", 3);
    fact_status(cpu, "VMPTRLD of the current VMCS", vmx_vmptrld(l2->vmcs), FACT_SUCCEED);
    fact_call(cpu, l2, "resumed: VMPTRLD changes no launch state", 4);
    vmx_vmclear(l2->vmcs);

    // Another VMCS in the same region, after the region was overwritten.
    uint32_t *region = (uint32_t *)(uintptr_t)l2->vmcs;
    for (uint32_t i = 1; i < PAGE_SIZE / 4; i++)
        region[i] = 0;
    fact_status(cpu, "VMCLEAR of the region, zeroed", vmx_vmclear(l2->vmcs), FACT_SUCCEED);
    load(cpu, "VMPTRLD of it", l2);
    l2->launched = false;
    l2_write_all(l2, l2_count_hundreds);
    fact_call(cpu, l2, "launched", 100);
}

void test_vmptrst(struct cpu *cpu)
{
    uint64_t pointer = 0;
    fact_status(cpu, "VMPTRST without a current VMCS", vmx_vmptrst(&pointer), FACT_SUCCEED);
    fact(cpu, "it stores", pointer, VMX_NO_VMCS);
    struct l2 *a = l2_create(cpu, l2_count), *b = l2_create(cpu, l2_count);
    vmx_vmptrst(&pointer);
    fact_true(cpu, "it stores the second VMCS's address", pointer == b->vmcs);
    vmx_vmptrld(a->vmcs);
    vmx_vmptrst(&pointer);
    fact_true(cpu, "it stores the first VMCS's address", pointer == a->vmcs);
    vmx_vmclear(b->vmcs);
    vmx_vmptrst(&pointer);
    fact_true(cpu, "VMCLEAR of another VMCS changes nothing", pointer == a->vmcs);
    vmx_vmclear(a->vmcs);
    vmx_vmptrst(&pointer);
    fact(cpu, "after VMCLEAR of the current one it stores", pointer, VMX_NO_VMCS);
}
