// SPDX-License-Identifier: MIT
// The engine's table of rules, compiled into this L1.
#include "judge_table.h"
#include "x86.h"
#include <nvmx/nvmx.h>
#include <nvmx/port.h>

#define MEMORY_END (512ull << 20) // what a rule may want to read is below, or nowhere

static struct nvmx_vcpu memory_owner; // the rules ask it for memory, and for the current VMCS

// --- what the engine's files are linked against

bool port_l1_read(struct nvmx_vcpu *vcpu, l1pa_t from, void *to, size_t size)
{
    (void)vcpu;
    if (from.value >= MEMORY_END || size > MEMORY_END - from.value)
        return false;
    for (size_t i = 0; i < size; i++)
        ((volatile uint8_t *)to)[i] = ((const volatile uint8_t *)(uintptr_t)from.value)[i];
    return true;
}

uint32_t event_type(uint32_t info);
uint32_t event_type(uint32_t info)
{
    return (info & INTERRUPTION_TYPE_MASK) >> INTERRUPTION_TYPE_SHIFT;
}

bool hw_rdmsr(struct hw_cpu *hw, uint32_t msr, uint64_t *value)
{
    (void)hw;
    *value = x86_rdmsr(msr);
    return true;
}

// --- the judge

struct check_input judge_input(const struct pair_world *world, const uint64_t *field, uint64_t pdpte[4])
{
    memory_owner.vmcs12_pointer = l1pa(world->vmcs);
    if (!port_l1_read(NULL, l1pa(field[F_GUEST_CR3] & 0xffffffe0), pdpte, 4 * sizeof(*pdpte)))
        for (uint32_t i = 0; i < 4; i++)
            pdpte[i] = ~0ull;
    return (struct check_input){
        .field = field,
        .caps = world->caps,
        .physical_address_width = world->physical_width,
        .long_mode = world->long_mode,
        .vcpu = &memory_owner,
        .pdpte = pdpte,
    };
}

int judge_by_table(const struct pair_world *world, const uint64_t *field, struct check_report *report)
{
    uint64_t pdpte[4];
    const struct check_input input = judge_input(world, field, pdpte);
    int failed = -1;
    report->count = 0;
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        check_stage(&input, (enum check_stage)stage, report);
        if (failed < 0 && report->count != 0)
            failed = stage;
    }
    return failed;
}

bool judge_report_has_qualification(const struct check_report *report, uint64_t qualification)
{
    for (uint32_t i = 0; i < report->count && i < CHECK_REPORT_MAX; i++) {
        const struct check_rule *rule = &check_rules[report->broken[i].index];
        if (rule->stage >= STAGE_GUEST && rule->qualification == qualification)
            return true;
    }
    return false;
}
