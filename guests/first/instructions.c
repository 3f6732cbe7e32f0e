// SPDX-License-Identifier: MIT
// When VMX instructions raise exceptions or fail, in VMX root operation and outside VMX operation.
#include "first.h"
#include "l2_code.h"
#include "trap.h"
#include "user.h"
#include "x86.h"

#define NOT_CANONICAL 0x8000000000000000ull
#define NOT_MAPPED    0x123456789000ull

static void do_vmxon(void *pointer)
{
    __asm__ volatile("vmxon (%0)" : : "r"(pointer) : "memory", "cc");
}
static void do_vmxoff(void *unused)
{
    (void)unused;
    __asm__ volatile("vmxoff" : : : "memory", "cc");
}
static void do_vmclear(void *pointer)
{
    __asm__ volatile("vmclear (%0)" : : "r"(pointer) : "memory", "cc");
}
static void do_vmptrld(void *pointer)
{
    __asm__ volatile("vmptrld (%0)" : : "r"(pointer) : "memory", "cc");
}
static void do_vmptrst(void *pointer)
{
    __asm__ volatile("vmptrst (%0)" : : "r"(pointer) : "memory", "cc");
}
static void do_vmread(void *pointer)
{
    __asm__ volatile("vmread %1, (%0)" : : "r"(pointer), "r"((uint64_t)VMCS_GUEST_RIP) : "memory", "cc");
}
static void do_vmwrite(void *pointer)
{
    __asm__ volatile("vmwrite (%0), %1" : : "r"(pointer), "r"((uint64_t)VMCS_GUEST_RIP) : "memory", "cc");
}
static void do_vmlaunch(void *unused)
{
    (void)unused;
    __asm__ volatile("vmlaunch" : : : "memory", "cc");
}
static void do_vmresume(void *unused)
{
    (void)unused;
    __asm__ volatile("vmresume" : : : "memory", "cc");
}
static void do_vmcall(void *unused)
{
    (void)unused;
    __asm__ volatile("vmcall" : : : "memory", "cc");
}
static void do_invept(void *pointer)
{
    __asm__ volatile("invept (%0), %1" : : "r"(pointer), "r"(2ul) : "memory", "cc");
}
static void do_invvpid(void *pointer)
{
    __asm__ volatile("invvpid (%0), %1" : : "r"(pointer), "r"(2ul) : "memory", "cc");
}

static const struct {
    const char *name;
    void (*execute)(void *);
    uint64_t page_fault_error; // of a memory operand that is not mapped
    bool has_memory_operand;
} instructions[] = {
    {"VMXON", do_vmxon, 0, false}, // in root operation it looks at no operand
    {"VMXOFF", do_vmxoff, 0, false},     {"VMCLEAR", do_vmclear, 0, true},
    {"VMPTRLD", do_vmptrld, 0, true},    {"VMPTRST", do_vmptrst, 2, true},
    {"VMREAD", do_vmread, 2, true},      {"VMWRITE", do_vmwrite, 0, true},
    {"VMLAUNCH", do_vmlaunch, 0, false}, {"VMRESUME", do_vmresume, 0, false},
    {"VMCALL", do_vmcall, 0, false},     {"INVEPT", do_invept, 0, true},
    {"INVVPID", do_invvpid, 0, true},
};

#define INSTRUCTION_COUNT (sizeof(instructions) / sizeof(instructions[0]))

static bool is_there(uint32_t i)
{
    if (instructions[i].execute == do_invept)
        return l2_may_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT);
    if (instructions[i].execute == do_invvpid)
        return l2_may_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VPID);
    return true;
}

struct at_cpl_3 {
    void (*execute)(void *);
    void *operand;
};

static void run_at_cpl_3(void *argument)
{
    const struct at_cpl_3 *what = argument;
    user_run(what->execute, what->operand);
}

static void run_in_compatibility_mode(void *argument)
{
    compatibility_run((uint32_t)(uintptr_t)argument);
}

static void fact_all_at_cpl_3(struct cpu *cpu, uint32_t vector)
{
    static uint64_t operand[2];
    for (uint32_t i = 0; i < INSTRUCTION_COUNT; i++) {
        struct at_cpl_3 what = {instructions[i].execute, operand};
        if (is_there(i) && instructions[i].execute != do_vmxon)
            fact_trap(cpu, instructions[i].name, run_at_cpl_3, &what, vector, 0);
    }
    user_leave();
}

// Outside VMX operation everything but VMXON raises #UD, whatever the privilege level; VMXON does with
// CR4.VMXE 0.
void test_outside_vmx_operation(struct cpu *cpu)
{
    static uint64_t operand[2];
    fact_true(cpu, "VMXOFF succeeds, and CR4.VMXE can be cleared", l2_vmx_off());
    for (uint32_t i = 0; i < INSTRUCTION_COUNT; i++)
        if (is_there(i))
            fact_trap(cpu, instructions[i].name, instructions[i].execute, operand, VECTOR_UD, 0);
    struct at_cpl_3 vmxon = {do_vmxon, operand};
    fact_trap(cpu, "VMXON at CPL 3, CR4.VMXE 0", run_at_cpl_3, &vmxon, VECTOR_UD, 0);
    x86_write_cr4(x86_read_cr4() | CR4_VMXE);
    for (uint32_t i = 0; i < INSTRUCTION_COUNT; i++)
        if (is_there(i) && instructions[i].execute != do_vmxon)
            fact_trap(cpu, instructions[i].name, instructions[i].execute, operand, VECTOR_UD, 0);
    fact_trap(cpu, "VMXON at CPL 3, CR4.VMXE 1", run_at_cpl_3, &vmxon, VECTOR_GP, 0);
    fact_all_at_cpl_3(cpu, VECTOR_UD);
    x86_write_cr4(x86_read_cr4() & ~CR4_VMXE);
    fact_true(cpu, "VMXON succeeds", l2_vmx_on(cpu));
}

void test_vmxon(struct cpu *cpu)
{
    uint64_t region = l2_vmxon_region(cpu), bad = region + 0x10;
    uint32_t *revision = (uint32_t *)(uintptr_t)region, right = *revision;
    l2_vmx_off();
    x86_write_cr4(x86_read_cr4() | CR4_VMXE);
    x86_write_cr0(x86_read_cr0() & ~CR0_NE);
    fact_trap(cpu, "CR0.NE is 0", do_vmxon, &region, VECTOR_GP, 0);
    x86_write_cr0(x86_read_cr0() | CR0_NE);
    fact_status(cpu, "a pointer that is not aligned", vmx_vmxon(bad), FACT_FAIL_INVALID);
    fact_status(cpu, "a pointer beyond the physical-address width", vmx_vmxon(region | 1ull << 51),
                FACT_FAIL_INVALID);
    *revision = right + 1;
    fact_status(cpu, "another revision", vmx_vmxon(region), FACT_FAIL_INVALID);
    *revision = right | 0x80000000;
    fact_status(cpu, "bit 31 of the revision", vmx_vmxon(region), FACT_FAIL_INVALID);
    *revision = right;
    fact_trap(cpu, "an operand that is not canonical", do_vmxon, bits(NOT_CANONICAL), VECTOR_GP, 0);
    fact_trap(cpu, "an operand that is not mapped", do_vmxon, bits(NOT_MAPPED), VECTOR_PF, 0);
    fact_true(cpu, "CR2", cpu->trap.cr2 == NOT_MAPPED);
    fact_trap(cpu, "none of these entered VMX operation: VMPTRST", do_vmptrst, &bad, VECTOR_UD, 0);
    fact_status(cpu, "all is right", vmx_vmxon(region), FACT_SUCCEED);
    fact_status(cpu, "once more, no current VMCS", vmx_vmxon(region), FACT_FAIL_INVALID);
    l2_create(cpu, l2_nops);
    fact_status(cpu, "once more, with a current VMCS", vmx_vmxon(region), 15);
    fact_trap(cpu, "clearing CR4.VMXE in VMX operation", set_cr4, bits(x86_read_cr4() & ~CR4_VMXE), VECTOR_GP,
              0);
    fact_trap(cpu, "clearing CR0.NE in VMX operation", set_cr0, bits(x86_read_cr0() & ~CR0_NE), VECTOR_GP, 0);
    fact(cpu, "CR4.VMXE", x86_read_cr4() & CR4_VMXE, CR4_VMXE);
    fact_status(cpu, "VMXOFF", vmx_vmxoff(), FACT_SUCCEED);
    fact_no_trap(cpu, "clearing CR4.VMXE after it", set_cr4, bits(x86_read_cr4() & ~CR4_VMXE));
    l2_vmx_on(cpu);
    uint64_t pointer = 0;
    vmx_vmptrst(&pointer);
    fact(cpu, "after VMXOFF and VMXON the current VMCS is", pointer, VMX_NO_VMCS);
}

void test_privilege(struct cpu *cpu)
{
    static uint64_t operand[2];
    l2_create(cpu, l2_nops);
    fact_all_at_cpl_3(cpu, VECTOR_GP);
    struct at_cpl_3 vmxon = {do_vmxon, operand};
    fact_trap(cpu, "VMXON", run_at_cpl_3, &vmxon, VECTOR_GP, 0);
    user_leave();
    for (uint32_t i = 0; i < COMPATIBILITY_COUNT; i++)
        fact_trap(cpu, compatibility_name(i), run_in_compatibility_mode, bits(i), VECTOR_UD, 0);
    user_leave();
}

void test_memory_operands(struct cpu *cpu)
{
    l2_create(cpu, l2_nops);
    for (uint32_t i = 0; i < INSTRUCTION_COUNT; i++) {
        if (!instructions[i].has_memory_operand || !is_there(i))
            continue;
        fact_trap(cpu, instructions[i].name, instructions[i].execute, bits(NOT_CANONICAL), VECTOR_GP, 0);
        fact_trap(cpu, "not mapped", instructions[i].execute, bits(NOT_MAPPED), VECTOR_PF,
                  instructions[i].page_fault_error);
        fact_true(cpu, "CR2", cpu->trap.cr2 == NOT_MAPPED);
    }
    uint64_t current = 0;
    fact_status(cpu, "VMPTRST", vmx_vmptrst(&current), FACT_SUCCEED);
    fact_true(cpu, "there is still a current VMCS", current != VMX_NO_VMCS);
}

void test_vmcs_pointers(struct cpu *cpu)
{
    uint64_t on = l2_vmxon_region(cpu), other = l2_allocate_vmcs(cpu), wrong = l2_allocate_vmcs(cpu);
    *(uint32_t *)(uintptr_t)wrong += 1;
    for (uint32_t i = 0; i < 2; i++) { // without a current VMCS each is VMfailInvalid
        const bool current = i;
        fact_status(cpu, "VMCLEAR, not aligned", vmx_vmclear(other + 8), current ? 2 : FACT_FAIL_INVALID);
        fact_status(cpu, "VMCLEAR, too wide", vmx_vmclear(other | 1ull << 50),
                    current ? 2 : FACT_FAIL_INVALID);
        fact_status(cpu, "VMCLEAR, VMXON pointer", vmx_vmclear(on), current ? 3 : FACT_FAIL_INVALID);
        fact_status(cpu, "VMPTRLD, not aligned", vmx_vmptrld(other + 8), current ? 9 : FACT_FAIL_INVALID);
        fact_status(cpu, "VMPTRLD, too wide", vmx_vmptrld(other | 1ull << 50),
                    current ? 9 : FACT_FAIL_INVALID);
        fact_status(cpu, "VMPTRLD, VMXON pointer", vmx_vmptrld(on), current ? 10 : FACT_FAIL_INVALID);
        fact_status(cpu, "VMPTRLD, wrong revision", vmx_vmptrld(wrong), current ? 11 : FACT_FAIL_INVALID);
        if (!current)
            l2_create(cpu, l2_nops);
    }
    fact_status(cpu, "VMCLEAR, wrong revision: does not look", vmx_vmclear(wrong), FACT_SUCCEED);
    fact(cpu, "VM-instruction error stays", l2_read(VMCS_VM_INSTRUCTION_ERROR), 11);
}

static enum vmx_status launch_behind_mov_ss(void)
{
    bool carry, zero;
    __asm__ volatile("mov %2, %%ss; vmlaunch"
                     : "=@ccc"(carry), "=@ccz"(zero)
                     : "r"(SELECTOR_DATA)
                     : "memory");
    return vmx_status_of(carry, zero);
}

void test_launch_failures(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_nops);
    // Not VMCALL in VMX root operation with a current VMCS (VMfailValid 1): Bochs 3.0 panics, "not
    // implemented yet".
    fact_status(cpu, "VMLAUNCH behind MOV SS", launch_behind_mov_ss(), 26);
    fact_status(cpu, "VMRESUME of a clear VMCS", vmx_vmresume(), 5);
    fact_call(cpu, l2, "VMLAUNCH", 3);
    fact_status(cpu, "VMLAUNCH of a launched VMCS", vmx_vmlaunch(), 4);
    fact_status(cpu, "it stays launched: VMLAUNCH", vmx_vmlaunch(), 4);
    fact_call(cpu, l2, "VMRESUME", 3);
    vmx_vmclear(l2->vmcs);
    fact_status(cpu, "VMCALL without a current VMCS", vmx_vmcall(), FACT_FAIL_INVALID);
}

// Types with bits 63:32 set are left out: Bochs 3.0 does not look at these bits.
void test_invept_operands(struct cpu *cpu)
{
    if (!fact_offered(cpu, "EPT", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT))
        return;
    uint64_t eptp = cpu_physical(cpu_allocate_page(cpu)) | 0x1e;
    fact_status(cpu, "no current VMCS: type 2", vmx_invept(2, 0, 0), FACT_SUCCEED);
    fact_status(cpu, "no current VMCS: type 0", vmx_invept(0, 0, 0), FACT_FAIL_INVALID);
    l2_create(cpu, l2_nops);
    fact_status(cpu, "type 0", vmx_invept(0, eptp, 0), 28);
    fact_status(cpu, "type 1, single context", vmx_invept(1, eptp, 0), FACT_SUCCEED);
    fact_status(cpu, "type 1, memory type 1", vmx_invept(1, (eptp & ~7ull) | 1, 0), 28);
    fact_status(cpu, "type 1, page-walk length 3", vmx_invept(1, (eptp & ~0x38ull) | 2 << 3, 0), 28);
    fact_status(cpu, "type 1, reserved bit 11", vmx_invept(1, eptp | 1 << 11, 0), 28);
    fact_status(cpu, "type 1, bit 51", vmx_invept(1, eptp | 1ull << 51, 0), 28);
    fact_status(cpu, "type 2, all contexts", vmx_invept(2, 0, 0), FACT_SUCCEED);
    fact_status(cpu, "type 3", vmx_invept(3, eptp, 0), 28);
}

void test_invvpid_operands(struct cpu *cpu)
{
    if (!fact_offered(cpu, "VPID", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VPID))
        return;
    fact_status(cpu, "no current VMCS: type 2", vmx_invvpid(2, 0, 0), FACT_SUCCEED);
    fact_status(cpu, "no current VMCS: type 4", vmx_invvpid(4, 0, 0), FACT_FAIL_INVALID);
    l2_create(cpu, l2_nops);
    for (uint64_t type = 0; type < 4; type++) {
        static const char *const names[] = {"type 0, individual address", "type 1, single context",
                                            "type 2, all contexts", "type 3, single context but for globals"};
        fact_status(cpu, names[type], vmx_invvpid(type, 5, 0x1000), FACT_SUCCEED);
        fact_status(cpu, "VPID 0", vmx_invvpid(type, 0, 0), type == 2 ? FACT_SUCCEED : 28);
        fact_status(cpu, "a reserved bit", vmx_invvpid(type, 1 << 16 | 5, 0), 28);
    }
    fact_status(cpu, "type 0, not canonical", vmx_invvpid(0, 5, NOT_CANONICAL), 28);
    fact_status(cpu, "type 1, not canonical: does not look", vmx_invvpid(1, 5, NOT_CANONICAL), FACT_SUCCEED);
    fact_status(cpu, "type 4", vmx_invvpid(4, 5, 0), 28);
}
