// SPDX-License-Identifier: MIT
// The VMX-preemption timer, and the HLT activity state.
#include "apic.h"
#include "first.h"
#include "l2_code.h"
#include "x86.h"

#define VECTOR 0x62u

// How long the timer runs is never written down: only whether it does.
void test_preemption_timer(struct cpu *cpu)
{
    if (!fact_offered(cpu, "VMX-preemption timer", VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER) ||
        !fact_offered(cpu, "saving its value", VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_PREEMPTION_TIMER))
        return;
    struct l2 *l2 = l2_create(cpu, l2_nops);
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER);
    l2_write(VMCS_PREEMPTION_TIMER_VALUE, 0);
    if (!fact_exit(cpu, l2, "value 0", EXIT_PREEMPTION_TIMER))
        return;
    fact_true(cpu, "L2 has executed nothing", l2_read(VMCS_GUEST_RIP) == l2_code_address(l2_nops));
    l2_write(VMCS_PREEMPTION_TIMER_VALUE, 0xffffffff);
    fact_call(cpu, l2, "a large value: L2 gets on", 3);
    fact(cpu, "the value, not saved", l2_read(VMCS_PREEMPTION_TIMER_VALUE), 0xffffffff);
    l2_set(VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_PREEMPTION_TIMER);
    fact_call(cpu, l2, "the same, saved", 3);
    uint64_t left = l2_read(VMCS_PREEMPTION_TIMER_VALUE);
    fact_true(cpu, "some is left, and not too little", left > 0xf0000000);
    l2_write(VMCS_PREEMPTION_TIMER_VALUE, 100);
    l2_restart(l2, l2_spin);
    fact_exit(cpu, l2, "L2 spins until the timer expires", EXIT_PREEMPTION_TIMER);
    fact_true(cpu, "L2 is in its loop",
              l2_read(VMCS_GUEST_RIP) - l2_code_address(l2_spin) <
                  cpu_physical(l2_spin_end) - l2_code_address(l2_spin));
    fact(cpu, "the value saved", l2_read(VMCS_PREEMPTION_TIMER_VALUE), 0);
    fact(cpu, "interruption information is valid", l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO) >> 31, 0);
    l2_clear(VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER);
    l2_clear(VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_PREEMPTION_TIMER);
    l2_restart(l2, l2_nops);
    fact_call(cpu, l2, "control 0: L2 gets on", 3);
}

#define TURNS 5000u

static void l2_reads_msr(void)
{
    for (uint32_t i = 0; i < TURNS; i++)
        x86_rdmsr(MSR_IA32_VMX_BASIC);
}

// L2 does what L1 lets pass but a hypervisor under L1 may not: the time that goes by between such exits
// counts too.
void test_preemption_timer_goes_on(struct cpu *cpu)
{
    if (!fact_offered(cpu, "VMX-preemption timer", VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER) ||
        !fact_offered(cpu, "MSR bitmaps", VMCS_PRIMARY_CONTROLS, PRIMARY_USE_MSR_BITMAPS))
        return;
    struct l2 *l2 = l2_create(cpu, l2_reads_msr);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_MSR_BITMAPS);
    l2_write(VMCS_MSR_BITMAP, cpu_physical(cpu_allocate_page(cpu)));
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER);
    // A hundredth of the time that the loop takes at least, whatever the timer's rate: a turn is 5
    // instructions.
    l2_write(VMCS_PREEMPTION_TIMER_VALUE, (TURNS * 5 / 100) >> (x86_rdmsr(MSR_IA32_VMX_MISC) & 31));
    fact_exit(cpu, l2, "L2 reads an MSR that only L1 lets it read, until the timer expires",
              EXIT_PREEMPTION_TIMER);
}

// L2 halts for good; the timer and an interrupt each get L1 back.
void test_halted(struct cpu *cpu)
{
    if (!(x86_rdmsr(MSR_IA32_VMX_MISC) & MISC_ACTIVITY_HLT) ||
        !fact_offered(cpu, "VMX-preemption timer", VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER))
        return;
    struct l2 *l2 = l2_create(cpu, l2_halt);
    l2_set(VMCS_GUEST_RFLAGS, RFLAGS_IF); // Bochs: see test_external_interrupt
    l2_clear(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER | PIN_EXTERNAL_INTERRUPT_EXITING);
    l2_write(VMCS_PREEMPTION_TIMER_VALUE, 1000);
    if (!fact_exit(cpu, l2, "L2 executes HLT, the timer expires", EXIT_PREEMPTION_TIMER))
        return;
    fact(cpu, "activity state", l2_read(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_HLT);
    fact_true(cpu, "RIP is behind HLT", l2_read(VMCS_GUEST_RIP) == cpu_physical(l2_halted));
    l2_clear(VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER);
    apic_send(cpu->apic_id, APIC_FIXED | VECTOR);
    fact_exit(cpu, l2, "VM entry halted, an interrupt is pending", EXIT_EXTERNAL_INTERRUPT);
    // The activity state now: HLT by the manual, active in Bochs 3.0.
    x86_take_interrupts();

    uint64_t count = cpu->trap.count;
    cpu->trap_needs_eoi = false;
    l2_write(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_HLT);
    l2_write(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000063);
    fact_call(cpu, l2, "VM entry halted, an interrupt injected: L2 goes on", 4);
    fact(cpu, "interrupts that L2 took", cpu->trap.count - count, 1);
    fact(cpu, "its vector", cpu->trap.vector, 0x63);
    fact(cpu, "activity state", l2_read(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_ACTIVE);
}
