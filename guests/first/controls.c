// SPDX-License-Identifier: MIT
// Controls that no other file of this L1 uses: secondary controls that are not activated, debug controls,
// VMCS shadowing.
#include "first.h"
#include "x86.h"

#define DR7_L1 0x405ull // breakpoint 1, at an address that nobody executes
#define DR7_L2 0x411ull // breakpoint 2

static void l2_wbinvd(void)
{
    __asm__ volatile("wbinvd" : : : "memory");
}

void test_secondary_controls_inactive(struct cpu *cpu)
{
    if (!fact_offered(cpu, "secondary controls", VMCS_PRIMARY_CONTROLS, PRIMARY_ACTIVATE_SECONDARY) ||
        !fact_offered(cpu, "WBINVD exiting", VMCS_SECONDARY_CONTROLS, SECONDARY_WBINVD_EXITING))
        return;
    struct l2 *l2 = l2_create(cpu, l2_wbinvd);
    l2_write(VMCS_SECONDARY_CONTROLS, SECONDARY_WBINVD_EXITING | 1u << 31);
    fact_call(cpu, l2, "not activated: WBINVD does not exit", L2_RETURNED);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_ACTIVATE_SECONDARY);
    l2_restart(l2, l2_wbinvd);
    fact_status(cpu, "activated: bit 31 must be 0", l2_enter(l2), 7);
    l2_write(VMCS_SECONDARY_CONTROLS, SECONDARY_WBINVD_EXITING);
    fact_exit_skip(cpu, l2, "activated: WBINVD exits", EXIT_WBINVD, 2);
    fact_call(cpu, l2, "L2 goes on", L2_RETURNED);
}

static uint64_t read_dr7(void)
{
    uint64_t value;
    __asm__ volatile("mov %%dr7, %0" : "=r"(value));
    return value;
}

static void write_dr7(uint64_t value)
{
    __asm__ volatile("mov %0, %%dr7" : : "r"(value));
}

// DR7 only: Bochs 3.0 has no IA32_DEBUGCTL that keeps what is written.
static void l2_debug_controls(void)
{
    l2_call(read_dr7());
    write_dr7(0x400);
    l2_call(1);
}

static void fact_debug_controls(struct cpu *cpu, struct l2 *l2, bool loads, bool saves)
{
    l2_restart(l2, l2_debug_controls);
    l2_write(VMCS_GUEST_DR7, DR7_L2);
    l2_clear(VMCS_VM_ENTRY_CONTROLS, loads ? 0 : ENTRY_LOAD_DEBUG_CONTROLS);
    l2_clear(VMCS_VM_EXIT_CONTROLS, saves ? 0 : EXIT_SAVE_DEBUG_CONTROLS);
    write_dr7(DR7_L1);
    fact_call(cpu, l2, "L2's DR7", loads ? DR7_L2 : DR7_L1);
    fact(cpu, "L1's DR7", read_dr7(), 0x400);
    fact_call(cpu, l2, "L2 changes it", 1);
    fact(cpu, "GUEST_DR7", l2_read(VMCS_GUEST_DR7), saves ? 0x400 : DR7_L2);
}

void test_debug_controls(struct cpu *cpu)
{
    uint64_t may_clear =
        ~((uint64_t)l2_must_set(VMCS_VM_ENTRY_CONTROLS) | l2_must_set(VMCS_VM_EXIT_CONTROLS));
    struct l2 *l2 = l2_create(cpu, l2_debug_controls);
    fact_debug_controls(cpu, l2, true, true);
    if (may_clear & ENTRY_LOAD_DEBUG_CONTROLS) // the same bit in both words
        fact_debug_controls(cpu, l2, false, false);
}

#define SHADOW_INDICATOR (1u << 31)

static uint64_t shadow_memory[2]; // L2's memory operands

// Reads and writes a field in a register and in memory, then one that exits.
static void l2_uses_shadow(void)
{
    uint64_t value = 0;
    __asm__ volatile("vmread %1, %0" : "=r"(value) : "r"((uint64_t)VMCS_GUEST_RSP) : "cc");
    l2_call(value);
    __asm__ volatile("vmread %1, %0"
                     : "=m"(shadow_memory[0])
                     : "r"((uint64_t)VMCS_GUEST_RSP)
                     : "cc", "memory");
    l2_call(shadow_memory[0]);
    __asm__ volatile("vmwrite %0, %1" : : "r"(0x1234ul), "r"((uint64_t)VMCS_GUEST_RIP) : "cc");
    shadow_memory[1] = 0x5678;
    __asm__ volatile("vmwrite %0, %1" : : "m"(shadow_memory[1]), "r"((uint64_t)VMCS_GUEST_CR3) : "cc");
    __asm__ volatile("vmread %1, %0" : "=r"(value) : "r"((uint64_t)VMCS_GUEST_RIP) : "cc");
    l2_call(value);
    __asm__ volatile("vmread %1, %0" : "=r"(value) : "r"((uint64_t)VMCS_GUEST_CR0) : "cc");
    l2_call(1);
}

static void exits_for(uint8_t *bitmap, uint32_t encoding)
{
    bitmap[encoding / 8] |= (uint8_t)(1u << encoding % 8);
}

void test_vmcs_shadowing(struct cpu *cpu)
{
    if (!fact_offered(cpu, "VMCS shadowing", VMCS_SECONDARY_CONTROLS, SECONDARY_VMCS_SHADOWING))
        return;
    uint64_t shadow = l2_allocate_vmcs(cpu);
    fact_status(cpu, "VMCLEAR", vmx_vmclear(shadow), FACT_SUCCEED);
    *(uint32_t *)(uintptr_t)shadow |= SHADOW_INDICATOR;
    fact_status(cpu, "VMPTRLD of a shadow VMCS", vmx_vmptrld(shadow), FACT_SUCCEED);
    l2_write(VMCS_GUEST_RSP, 0x112233445566);
    l2_write(VMCS_GUEST_RIP, 0);
    l2_write(VMCS_GUEST_CR3, 0);
    fact_status(cpu, "VMCLEAR of the shadow VMCS", vmx_vmclear(shadow), FACT_SUCCEED);

    uint8_t *read_bitmap = cpu_allocate_page(cpu), *write_bitmap = cpu_allocate_page(cpu);
    exits_for(read_bitmap, VMCS_GUEST_CR0);
    struct l2 *l2 = l2_create(cpu, l2_uses_shadow);
    l2_set_secondary(SECONDARY_VMCS_SHADOWING);
    l2_write(VMCS_VMREAD_BITMAP, cpu_physical(read_bitmap));
    l2_write(VMCS_VMWRITE_BITMAP, cpu_physical(write_bitmap));
    l2_write(VMCS_VMCS_LINK_POINTER, shadow);
    fact_call(cpu, l2, "L2 reads a field", 0x112233445566);
    fact_call(cpu, l2, "L2 reads it into memory", 0x112233445566);
    fact_call(cpu, l2, "L2 writes two, and reads one", 0x1234);
    fact_exit_skip(cpu, l2, "L2 reads one whose bit is set", EXIT_VMREAD, 3);
    fact_call(cpu, l2, "L2 goes on", 1);
    fact_status(cpu, "VMCLEAR of the shadow VMCS", vmx_vmclear(shadow), FACT_SUCCEED);
    fact_status(cpu, "VMPTRLD of it", vmx_vmptrld(shadow), FACT_SUCCEED);
    fact(cpu, "what L2 wrote", l2_read(VMCS_GUEST_RIP), 0x1234);
    fact(cpu, "what L2 wrote from memory", l2_read(VMCS_GUEST_CR3), 0x5678);
    // Not: that it cannot be entered. Bochs 3.0 does not look.
    vmx_vmclear(shadow);
    vmx_vmptrld(l2->vmcs);
    l2_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_VMCS_SHADOWING);
    l2_write(VMCS_VMCS_LINK_POINTER, VMX_NO_VMCS);
    l2_restart(l2, l2_uses_shadow);
    fact_exit_skip(cpu, l2, "no control: VMREAD exits", EXIT_VMREAD, 3);
}
