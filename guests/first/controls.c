// SPDX-License-Identifier: MIT
// Controls that no other file of this L1 uses: secondary controls that are not activated, debug controls.
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
