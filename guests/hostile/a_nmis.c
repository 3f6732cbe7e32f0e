// SPDX-License-Identifier: MIT
// NMIs at inconvenient times: many, two at once, with the local APIC disabled by software, while L0 runs, in
// L2.
#include "apic.h"
#include "console.h"
#include "hostile.h"
#include "trap.h"
#include "x86.h"

#define SPURIOUS   ((volatile uint32_t *)(APIC_BASE + 0xf0))
#define STORM      200u
#define WAIT_TURNS 3000u

static uint64_t wait_for(struct cpu *cpu, uint64_t from, uint64_t wanted)
{
    for (uint32_t i = 0; i < WAIT_TURNS && cpu->trap.count - from < wanted; i++)
        x86_cpuid(0, 0);
    return cpu->trap.count - from;
}

static void send_self(struct cpu *cpu)
{
    apic_send(cpu->apic_id, APIC_NMI);
}

static void one_and_many(struct cpu *cpu, const char *where)
{
    uint64_t from = cpu->trap.count;
    console_print(cpu, "  %s\n", where);
    send_self(cpu);
    outcome_number(cpu, "one NMI", wait_for(cpu, from, 1), 1);
    from = cpu->trap.count;
    for (uint32_t i = 0; i < STORM; i++)
        send_self(cpu);
    outcome_number(cpu, "many NMIs", wait_for(cpu, from, STORM), STORM);
    from = cpu->trap.count;
    for (uint32_t i = 0; i < STORM; i++) {
        send_self(cpu);
        x86_cpuid(0, 0);
    }
    outcome_number(cpu, "many NMIs with exits between them", wait_for(cpu, from, STORM), STORM);
}

static volatile bool stop_storm;
static volatile uint32_t sent;
static uint32_t victim;

static void storm(struct cpu *cpu)
{
    (void)cpu;
    while (!stop_storm) {
        apic_send(victim, APIC_NMI);
        sent++;
        for (uint32_t i = 0; i < 50; i++)
            x86_pause();
    }
}

// From another processor, while this one makes L0 run all the time. How many arrive is not said by the
// manual.
static void from_another(struct cpu *cpu, struct l2 *l2)
{
    struct cpu *other = cpu_get(cpu->index == 0 ? 1 : 0);
    if (hostile_processors() < 2 || cpu->index != 0)
        return;
    uint64_t from = cpu->trap.count;
    victim = cpu->apic_id;
    stop_storm = false;
    sent = 0;
    apic_run_on(other, storm);
    for (uint32_t i = 0; i < 2000; i++) {
        x86_cpuid(0, 0);
        if (l2) {
            struct probe probe = {.code = "\x0f\xa2", .size = 2};
            probe_run_in_l2(cpu, l2, &probe);
        }
    }
    stop_storm = true;
    apic_wait_for(other);
    uint64_t last = cpu->trap.count;
    send_self(cpu);
    outcome_text(cpu, "a storm from another processor",
                 cpu->trap.count - from > 10 ? "arrives" : "is lost  WRONG");
    outcome_number(cpu, "one NMI after it", wait_for(cpu, last, 1) >= 1, 1);
}

static void l2_sends_two(void)
{
    apic_send(cpu_self()->apic_id, APIC_NMI);
    apic_send(cpu_self()->apic_id, APIC_NMI);
    for (;;)
        x86_pause();
}

static void in_l2(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_sends_two);
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
    uint64_t from = cpu->trap.count;
    outcome_number(cpu, "L2 sends two NMIs: entry", l2_enter(l2), VMX_SUCCEED);
    outcome_number(cpu, "exit reason", l2_read(VMCS_EXIT_REASON), EXIT_EXCEPTION_OR_NMI);
    outcome_number(cpu, "interruption information", l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000202);
    outcome_number(cpu, "of L1's", cpu->trap.count - from, 0); // its IRET is to come
    vmx_vmclear(l2->vmcs);
    l2 = l2_create(cpu, NULL);
    struct probe probe = {.code = "", .size = 0}; // leaves by INT3, with an IRET
    probe_run(cpu, &probe);
    wait_for(cpu, from, 1);
    from_another(cpu, l2);
    vmx_vmclear(l2->vmcs);
}

void attack_nmis(struct cpu *cpu)
{
    one_and_many(cpu, "outside VMX operation");
    from_another(cpu, NULL);
    *SPURIOUS = 0xff; // disabled by software: fixed interrupts are not accepted, NMIs are
    one_and_many(cpu, "APIC disabled by software");
    *SPURIOUS = 0x1ff;
    if (!l2_vmx_on(cpu))
        return;
    one_and_many(cpu, "in VMX operation");
    from_another(cpu, NULL);
    *SPURIOUS = 0xff;
    one_and_many(cpu, "in VMX operation, APIC disabled by software");
    *SPURIOUS = 0x1ff;
    in_l2(cpu);
    l2_vmx_off();
}
