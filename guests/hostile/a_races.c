// SPDX-License-Identifier: MIT
// Processor 1 changes what processor 0's VM entries read while they read it.
#include "apic.h"
#include "console.h"
#include "ept.h"
#include "hostile.h"
#include "x86.h"

#define ROUNDS     1500u
#define SIZE_2M    (1ull << 21)
#define TPR_AT     0x80u
#define SELF_TICKS 3u

static volatile uint64_t *target;
static volatile uint64_t first_value, second_value;
static volatile bool stop;

static void flip(struct cpu *cpu)
{
    (void)cpu;
    while (!stop) {
        *target = first_value;
        for (uint32_t i = 0; i < SELF_TICKS; i++)
            x86_pause();
        *target = second_value;
    }
    *target = first_value;
}

static void scribble(struct cpu *cpu)
{
    (void)cpu;
    for (uint64_t n = 1; !stop; n++)
        target[1 + n % 511] = n * 0x9e3779b97f4a7c15;
}

// Every entry ends as one of the values that memory has had would have it; ~0: VMfail may.
static void race(struct cpu *cpu, struct l2 *l2, const char *name, void (*job)(struct cpu *),
                 const uint32_t *allowed)
{
    uint32_t odd = 0, odd_reason = 0;
    stop = false;
    apic_run_on(cpu_get(1), job);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct probe probe = {.code = "\x48\x8b\x06\x0f\xa2", .size = 5}; // a read, CPUID
        probe.gpr[GPR_RSI] = PAGE_AT(PAGE_DATA);
        uint32_t reason = probe_run_in_l2(cpu, l2, &probe);
        bool fine = false;
        for (const uint32_t *at = allowed; *at; at++)
            fine |= *at == reason;
        if (!fine && !odd++)
            odd_reason = reason;
    }
    stop = true;
    apic_wait_for(cpu_get(1));
    console_print(cpu, "  %s: %u odd exits", name, odd);
    if (odd) {
        console_print(cpu, "  WRONG, the first one %x", odd_reason);
        cpu->wrong_count++;
    }
    console_print(cpu, "\n");
}

static uint64_t msr_list[2] __attribute__((aligned(16)));

void attack_races(struct cpu *cpu)
{
    static const uint32_t cpuid[] = {EXIT_CPUID, 0};
    static const uint32_t failed[] = {EXIT_CPUID, EXIT_REASON_ENTRY_FAILURE | 34, ~0u, 0};
    static const uint32_t ept_reasons[] = {EXIT_CPUID, 48, 49, 0};
    static const uint32_t tpr[] = {EXIT_CPUID, 43, ~0u, 0};
    if (cpu->index != 0 || hostile_processors() < 2) {
        outcome_text(cpu, "another processor", "none");
        return;
    }
    if (!l2_vmx_on(cpu))
        return;
    // The processor's own VMCS is undefined then (the emulated one keeps it in that memory), L0's copy is
    // not.
    struct l2 *l2 = l2_create(cpu, NULL);
    target = (volatile uint64_t *)l2->vmcs;
    if (!outcome_not_bare(cpu, "the VMCS of a running L2", "0 odd exits"))
        race(cpu, l2, "the VMCS of a running L2", scribble, cpuid);

    target = &msr_list[0];
    msr_list[0] = first_value = 0x174;
    second_value = 0xffffffff;
    l2_write(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, cpu_physical(msr_list));
    l2_write(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1);
    race(cpu, l2, "the MSR-load list", flip, failed);
    l2_write(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 0);

    struct ept ept = ept_create_identity(cpu);
    uint64_t *entry = ept_entry(&ept, cpu_physical(window_memory(PAGE_DATA)));
    target = entry;
    first_value = *entry;
    second_value = space_l0() | EPT_ALL | EPT_WRITE_BACK;
    ept_use(&ept);
    race(cpu, l2, "an EPT entry, to L0's memory", flip, ept_reasons);
    second_value = 0;
    race(cpu, l2, "an EPT entry, to nothing", flip, ept_reasons);
    second_value = ~0ull;
    race(cpu, l2, "an EPT entry, misconfigured", flip, ept_reasons);
    *entry = first_value;
    if (l2_may_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW)) {
        uint8_t *page = cpu_allocate_page(cpu);
        target = (volatile uint64_t *)(page + TPR_AT);
        first_value = 0xf0;
        *target = 0xf0;
        second_value = 0x10;
        l2_write(VMCS_VIRTUAL_APIC_ADDRESS, cpu_physical(page));
        l2_write(VMCS_TPR_THRESHOLD, 8);
        l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW);
        race(cpu, l2, "the virtual TPR", flip, tpr);
    }
    vmx_vmclear(l2->vmcs);
    l2_vmx_off();
}
