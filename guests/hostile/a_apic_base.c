// SPDX-License-Identifier: MIT
// IA32_APIC_BASE moved to where it may be and to where it may not; the APIC is used there by L1, and by L0
// for L1.
#include "apic.h"
#include "console.h"
#include "hostile.h"
#include "machine.h"
#include "trap.h"
#include "x86.h"

#define ENABLE 0x800ull
#define BEYOND 0x100000000ull // more memory than the machine has, and less than its width

static uint8_t memory[PAGE_SIZE] __attribute__((aligned(4096)));

static struct probe write_base(struct cpu *cpu, uint64_t value)
{
    struct probe probe = {.code = "\x0f\x30", .size = 2};
    probe.gpr[GPR_RCX] = MSR_IA32_APIC_BASE;
    probe.gpr[GPR_RAX] = (uint32_t)value;
    probe.gpr[GPR_RDX] = value >> 32;
    probe_run(cpu, &probe);
    return probe;
}

static void send_at(uint64_t base, uint32_t destination, uint32_t command)
{
    *(volatile uint32_t *)(base + 0x310) = destination << 24;
    *(volatile uint32_t *)(base + 0x300) = command;
    for (uint32_t i = 0; i < 1000; i++)
        x86_pause();
}

// The other processor, started by an APIC that is elsewhere.
static bool starts_at(uint64_t base, struct cpu *other)
{
    other->online = false;
    send_at(base, other->apic_id, APIC_INIT);
    machine_wait_10_ms();
    for (uint32_t i = 0; i < 50 && !other->online; i++) {
        send_at(base, other->apic_id, APIC_STARTUP | (uint32_t)(machine_low_page() >> PAGE_SHIFT));
        machine_wait_10_ms();
    }
    return other->online;
}

static void use_at(struct cpu *cpu, const char *name, uint64_t base, uint64_t bits)
{
    bool starts = cpu->index == 0 && hostile_processors() > 1;
    if (starts && !apic_start_processor(cpu_get(1))) // so that it is the next one that starts
        outcome_text(cpu, "another processor", "does not start  WRONG");
    struct probe probe = write_base(cpu, base | bits);
    outcome_should(cpu, name, &probe, PROBE_RAN, 0);
    if (!probe_was_run(&probe))
        return;
    outcome_number(cpu, "the MSR is where it was moved", x86_rdmsr(MSR_IA32_APIC_BASE) & ~0xfffull, base);
    outcome_number(cpu, "the identifier there", *(volatile uint32_t *)(base + 0x20) >> 24, cpu->apic_id);
    x86_cpuid(0, 0);
    uint64_t from = cpu->trap.count;
    send_at(base, cpu->apic_id, APIC_NMI);
    x86_cpuid(0, 0);
    outcome_number(cpu, "NMIs", cpu->trap.count - from, 1);
    if (l2_vmx_on(cpu)) {
        from = cpu->trap.count;
        send_at(base, cpu->apic_id, APIC_NMI);
        x86_cpuid(0, 0);
        outcome_number(cpu, "NMIs in VMX operation", cpu->trap.count - from, 1);
        struct l2 *l2 = l2_create(cpu, NULL);
        struct probe code = {.code = "\x0f\xa2", .size = 2};
        outcome_exit(cpu, "L2", probe_run_in_l2(cpu, l2, &code), &code);
        vmx_vmclear(l2->vmcs);
        l2_vmx_off();
    }
    if (starts)
        outcome_text(cpu, "another processor is started from there",
                     starts_at(base, cpu_get(1)) ? "yes" : "no  WRONG");
    probe = write_base(cpu, APIC_BASE | bits);
    outcome_should(cpu, "moved back", &probe, PROBE_RAN, 0);
    from = cpu->trap.count;
    apic_send(cpu->apic_id, APIC_NMI);
    outcome_number(cpu, "NMIs", cpu->trap.count - from, 1);
}

static volatile uint64_t its_base;
static volatile uint32_t moved;

static void move_own(struct cpu *cpu)
{
    (void)cpu;
    x86_wrmsr(MSR_IA32_APIC_BASE, its_base | (x86_rdmsr(MSR_IA32_APIC_BASE) & 0xfff));
    x86_cpuid(0, 0);
    moved++;
    if (its_base == APIC_BASE)
        return;
    for (;;)
        x86_pause();
}

// INIT and startup IPIs for a processor whose own APIC is elsewhere; it does not come back from there by
// them.
static void start_one_that_moved(struct cpu *cpu, const char *name, uint64_t base)
{
    struct cpu *other = cpu_get(1);
    moved = 0;
    its_base = base;
    apic_run_on(other, move_own);
    for (uint32_t i = 0; i < 50 && !moved; i++)
        machine_wait_10_ms();
    outcome_text(cpu, name, apic_start_processor(other) ? "it starts" : "it does not start  WRONG");
    its_base = APIC_BASE;
    apic_run_on(other, move_own);
    for (uint32_t i = 0; i < 50 && moved < 2; i++)
        machine_wait_10_ms();
    outcome_text(cpu, "and moves its APIC back", moved == 2 ? "yes" : "no  WRONG");
    outcome_text(cpu, "it starts again", apic_start_processor(other) ? "yes" : "no  WRONG");
}

static void refuse(struct cpu *cpu, const char *name, uint64_t value)
{
    struct probe probe = write_base(cpu, value);
    outcome_should(cpu, name, &probe, VECTOR_GP, 0);
    if (probe_was_run(&probe))
        write_base(cpu, APIC_BASE | ENABLE | (x86_rdmsr(MSR_IA32_APIC_BASE) & 0x100));
}

void attack_apic_base(struct cpu *cpu)
{
    uint32_t width = x86_cpuid(0x80000008, 0).eax & 0xff;
    uint64_t bits = x86_rdmsr(MSR_IA32_APIC_BASE) & 0xfff, l0 = space_l0();
    refuse(cpu, "beyond the width", 1ull << width | bits);
    refuse(cpu, "bit 63", APIC_BASE | bits | 1ull << 63);
    refuse(cpu, "bit 0", APIC_BASE | bits | 1);
    refuse(cpu, "bit 9", APIC_BASE | bits | 1u << 9);
    if (hostile_bare()) { // there is no L0
        outcome_text(cpu, "L0's memory", "#GP(0)");
        outcome_text(cpu, "the end of L0's memory", "#GP(0)");
        outcome_text(cpu, "the middle of L0's memory", "#GP(0)");
    } else {
        refuse(cpu, "L0's memory", l0 | bits);
        refuse(cpu, "the end of L0's memory", l0 | 0x1ff000 | bits);
        refuse(cpu, "the middle of L0's memory", l0 | 0x100000 | bits);
    }
    use_at(cpu, "where nothing is", space_hole(), bits);
    use_at(cpu, "in memory", cpu_physical(memory), bits);
    use_at(cpu, "beyond memory, within the width", BEYOND, bits);
    if (cpu->index != 0 || hostile_processors() < 2)
        return;
    start_one_that_moved(cpu, "a processor whose APIC is where nothing is", space_hole());
    start_one_that_moved(cpu, "a processor whose APIC is in memory", cpu_physical(memory));
    start_one_that_moved(cpu, "a processor whose APIC is beyond memory", BEYOND);
}
