// SPDX-License-Identifier: MIT
// External interrupts and NMIs while L2 runs: as exits, or delivered to L2; and the windows for them.
#include "apic.h"
#include "first.h"
#include "l2_code.h"
#include "trap.h"
#include "x86.h"

#define VECTOR 0x61u

static void send_to_self(struct cpu *cpu, uint32_t command)
{
    apic_send(cpu->apic_id, command);
}

// IRET to the next instruction: unblocks NMIs.
static void unblock_nmis(void)
{
    __asm__ volatile(
        "mov %%rsp, %%rax; push %0; push %%rax; pushfq; push %1; lea 1f(%%rip), %%rax; push %%rax\n"
        "iretq\n"
        "1:"
        :
        : "i"(SELECTOR_DATA), "i"(SELECTOR_CODE64)
        : "rax", "memory");
}

static void l2_idle(void)
{
    l2_call(1);
}

// With external-interrupt exiting, L2's IF does not matter. Bochs 3.0 notices a pending interrupt with IF 0
// only when IF was 1 in between (DEFECTS: it updates its event mask when IF changes); so L2's IF is 1 here.
void test_external_interrupt(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_idle);
    l2_set(VMCS_GUEST_RFLAGS, RFLAGS_IF);
    uint64_t start = l2_read(VMCS_GUEST_RIP), count = cpu->trap.count;
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
    send_to_self(cpu, APIC_FIXED | VECTOR);
    if (!fact_exit(cpu, l2, "an interrupt is pending at VM entry", EXIT_EXTERNAL_INTERRUPT))
        return;
    fact_true(cpu, "L2 has executed nothing", l2_read(VMCS_GUEST_RIP) == start);
    fact(cpu, "interruption information is valid", l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO) >> 31, 0);
    fact_true(cpu, "the interrupt is still requested", apic_is_requested(VECTOR));
    fact(cpu, "interrupts that L1 took", cpu->trap.count - count, 0);
    x86_take_interrupts();
    fact(cpu, "interrupts that L1 took when it set IF", cpu->trap.count - count, 1);
    fact(cpu, "the last one's vector", cpu->trap.vector, VECTOR);
    fact_call(cpu, l2, "L2 runs", 1);

    l2_set(VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    l2_restart(l2, l2_idle);
    send_to_self(cpu, APIC_FIXED | VECTOR);
    fact_exit(cpu, l2, "the same, acknowledged on exit", EXIT_EXTERNAL_INTERRUPT);
    fact(cpu, "interruption information", l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000000 | VECTOR);
    fact_true(cpu, "the interrupt is in service", apic_is_in_service(VECTOR));
    fact_true(cpu, "and no longer requested", !apic_is_requested(VECTOR));
    x86_take_interrupts();
    fact(cpu, "interrupts that L1 took through its IDT", cpu->trap.count - count, 1);
    apic_end_interrupt();
    fact_call(cpu, l2, "L2 runs", 1);
}

static void l2_interrupts_itself(void)
{
    apic_send(cpu_self()->apic_id, APIC_FIXED | VECTOR);
    l2_spin();
}

void test_interrupt_in_l2(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_interrupts_itself);
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
    l2_set(VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    l2_set(VMCS_GUEST_RFLAGS, RFLAGS_IF);
    fact_exit(cpu, l2, "L2 runs, an interrupt arrives", EXIT_EXTERNAL_INTERRUPT);
    fact(cpu, "interruption information", l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000000 | VECTOR);
    apic_end_interrupt();
}

static void l2_takes_interrupt(void)
{
    uint64_t count = cpu_self()->trap.count;
    apic_send(cpu_self()->apic_id, APIC_FIXED | VECTOR);
    l2_call(cpu_self()->trap.count - count); // IF is 0
    __asm__ volatile("sti" : : : "memory");
    while (cpu_self()->trap.count == count)
        x86_pause();
    __asm__ volatile("cli" : : : "memory");
    l2_call(cpu_self()->trap.vector);
    apic_send(cpu_self()->apic_id, APIC_FIXED | (VECTOR + 1));
    l2_call(1);
}

// Without external-interrupt exiting, interrupts are L2's as if there were no VMX.
void test_interrupt_not_exiting(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_takes_interrupt);
    fact_call(cpu, l2, "interrupts that L2 takes with IF 0", 0);
    fact_true(cpu, "the interrupt is still requested", apic_is_requested(VECTOR));
    fact_call(cpu, l2, "the vector that L2 takes with IF 1", VECTOR);
    uint64_t count = cpu->trap.count;
    fact_call(cpu, l2, "L2 leaves an interrupt untaken", 1);
    fact(cpu, "interrupts taken", cpu->trap.count - count, 0);
    x86_take_interrupts();
    fact(cpu, "interrupts taken when L1 set IF", cpu->trap.count - count, 1);
    fact(cpu, "the last one's vector", cpu->trap.vector, VECTOR + 1);
}

void test_interrupt_window(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_window);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_INTERRUPT_WINDOW_EXITING);
    fact_call(cpu, l2, "L2's IF is 0: no window", 1);
    fact_exit(cpu, l2, "L2 executes STI", EXIT_INTERRUPT_WINDOW);
    fact_true(cpu, "behind STI's shadow", l2_read(VMCS_GUEST_RIP) == cpu_physical(l2_window_open));
    fact(cpu, "interruptibility", l2_read(VMCS_GUEST_INTERRUPTIBILITY), 0);
    fact(cpu, "L2's IF", l2_read(VMCS_GUEST_RFLAGS) & RFLAGS_IF, RFLAGS_IF);
    fact_exit(cpu, l2, "again: L2 executes nothing", EXIT_INTERRUPT_WINDOW);
    fact_true(cpu, "RIP has not moved", l2_read(VMCS_GUEST_RIP) == cpu_physical(l2_window_open));
    l2_clear(VMCS_PRIMARY_CONTROLS, PRIMARY_INTERRUPT_WINDOW_EXITING);
    fact_call(cpu, l2, "control 0: L2 goes on", 2);

    l2_restart(l2, l2_nops);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_INTERRUPT_WINDOW_EXITING);
    l2_write(VMCS_GUEST_INTERRUPTIBILITY, INTERRUPTIBILITY_STI);
    fact_exit(cpu, l2, "VM entry with blocking by STI", EXIT_INTERRUPT_WINDOW);
    fact_true(cpu, "L2 has executed one instruction", l2_read(VMCS_GUEST_RIP) == cpu_physical(l2_nops_1));
    fact(cpu, "interruptibility", l2_read(VMCS_GUEST_INTERRUPTIBILITY), 0);
}

void test_nmi_in_l1(struct cpu *cpu)
{
    uint64_t count = cpu->trap.count;
    send_to_self(cpu, APIC_NMI);
    while (cpu->trap.count == count)
        x86_pause();
    fact(cpu, "L1 takes an NMI in VMX operation: vector", cpu->trap.vector, VECTOR_NMI);
    fact(cpu, "NMIs taken", cpu->trap.count - count, 1);
}

static void l2_sends_nmi(void)
{
    apic_send(cpu_self()->apic_id, APIC_NMI);
    l2_spin();
}

void test_nmi_exit(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_sends_nmi);
    uint64_t count = cpu->trap.count;
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
    if (!fact_exit(cpu, l2, "NMI exiting, L2 runs, an NMI arrives", EXIT_EXCEPTION_OR_NMI))
        return;
    fact(cpu, "interruption information", l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000202);
    fact(cpu, "NMIs through L1's IDT", cpu->trap.count - count, 0);
    send_to_self(cpu, APIC_NMI);
    for (uint32_t i = 0; i < 1000; i++)
        x86_pause();
    fact(cpu, "the exit blocks NMIs: NMIs through L1's IDT", cpu->trap.count - count, 0);
    unblock_nmis();
    fact(cpu, "NMIs through L1's IDT after IRET", cpu->trap.count - count, 1);
    fact(cpu, "the last one's vector", cpu->trap.vector, VECTOR_NMI);
}

static void l2_takes_nmi(void)
{
    uint64_t count = cpu_self()->trap.count;
    apic_send(cpu_self()->apic_id, APIC_NMI);
    while (cpu_self()->trap.count == count)
        x86_pause();
    l2_call(cpu_self()->trap.vector);
}

void test_nmi_not_exiting(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_takes_nmi);
    fact_call(cpu, l2, "no NMI exiting: the vector that L2 takes", VECTOR_NMI);
}

// The IDT that L2 shares with L1, but for this entry.
static void use_idt_with(struct cpu *cpu, uint32_t vector, void (*handler)(void))
{
    uint64_t *idt = cpu_allocate_page(cpu), entry = l2_code_address(handler);
    for (uint32_t i = 0; i < TRAP_IDT_SIZE / 8; i++)
        idt[i] = ((const uint64_t *)trap_idt())[i];
    idt[2 * vector] =
        (entry & 0xffff) | (uint64_t)SELECTOR_CODE64 << 16 | 0x8eull << 40 | (entry >> 16 & 0xffff) << 48;
    l2_write(VMCS_GUEST_IDTR_BASE, cpu_physical(idt));
}

// With virtual NMIs, blocking by NMI is L2's own, and the NMI window opens when L2's handler executes IRET.
void test_nmi_window(struct cpu *cpu)
{
    if (!fact_offered(cpu, "virtual NMIs", VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS) ||
        !fact_offered(cpu, "NMI-window exiting", VMCS_PRIMARY_CONTROLS, PRIMARY_NMI_WINDOW_EXITING))
        return;
    struct l2 *l2 = l2_create(cpu, l2_nops);
    use_idt_with(cpu, VECTOR_NMI, l2_handler);
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_NMI_WINDOW_EXITING);
    fact_exit(cpu, l2, "no blocking by NMI: the window is open at once", EXIT_NMI_WINDOW);
    l2_write(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000202);
    fact_call(cpu, l2, "an NMI injected: L2 is in its handler", L2_IN_HANDLER);
    fact(cpu, "interruptibility", l2_read(VMCS_GUEST_INTERRUPTIBILITY), INTERRUPTIBILITY_NMI);
    fact_exit(cpu, l2, "L2's handler executes IRET", EXIT_NMI_WINDOW);
    fact(cpu, "interruptibility", l2_read(VMCS_GUEST_INTERRUPTIBILITY), 0);
    fact_true(cpu, "L2 is back where the NMI was injected",
              l2_read(VMCS_GUEST_RIP) == l2_code_address(l2_nops));
    l2_clear(VMCS_PRIMARY_CONTROLS, PRIMARY_NMI_WINDOW_EXITING);
    l2_write(VMCS_GUEST_INTERRUPTIBILITY, INTERRUPTIBILITY_NMI);
    uint64_t count = cpu->trap.count;
    send_to_self(cpu, APIC_NMI); // L1 takes it here: L2's blocking is not the processor's
    fact(cpu, "NMIs that L1 takes while L2 blocks them", cpu->trap.count - count, 1);
    fact_call(cpu, l2, "L2 goes on", 3);
}
