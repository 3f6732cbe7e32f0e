// SPDX-License-Identifier: MIT
#include "judge.h"

#include <stdio.h>

#include <nvmx/controls.h>

#include "bits.h"
#include "field.h"

// A host that loads an address above 4 GiB at VM exits, or has EFER.LMA, was in IA-32e mode when it entered.
static enum rules_mode mode_proven(const struct vmcs_text *vmcs, const char **reason)
{
    if (vmcs->line[F_HOST_IA32_EFER] != 0 && (vmcs->value[F_HOST_IA32_EFER] >> 10 & 1) != 0) {
        *reason = "host IA32_EFER.LMA is 1";
        return RULES_MODE_64;
    }
    if (vmcs->line[F_HOST_RIP] != 0 && vmcs->value[F_HOST_RIP] >> 32 != 0) {
        *reason = "host RIP is above 4 GiB";
        return RULES_MODE_64;
    }
    return RULES_MODE_UNKNOWN;
}

// Addresses have 57 bits on a processor that has 5-level paging, and then everybody uses it.
static bool uses_5_level_paging(const struct vmcs_text *vmcs)
{
    return ((vmcs->value[F_HOST_CR4] | vmcs->value[F_GUEST_CR4]) & CR4_LA57) != 0;
}

void judge(struct judgement *judgement, const struct vmcs_text *vmcs, const struct caps_input *caps,
           enum rules_mode mode)
{
    *judgement = (struct judgement){.vmcs = vmcs, .caps = caps, .mode = mode, .first_stage = STAGE_COUNT};
    if (mode == RULES_MODE_UNKNOWN)
        judgement->mode = mode_proven(vmcs, &judgement->mode_reason);
    struct nvmx_caps judged_by = caps->caps;
    if (caps->any_linear_width && !uses_5_level_paging(vmcs))
        judged_by.msr[MSR_IA32_VMX_CR4_FIXED1 - CAPS_MSR_FIRST] &= ~CR4_LA57;
    const struct rules_input input = {
        .value = vmcs->value,
        .line = vmcs->line,
        .caps = &judged_by,
        .unknown_facts = caps->unknown_facts,
        .physical_address_width = caps->physical_address_width,
        .mode = judgement->mode,
    };
    rules_apply(&input, judgement->outcome);
    for (enum check_index i = 0; i < CHECK_COUNT; i++) {
        const struct rule_outcome *outcome = &judgement->outcome[i];
        judgement->unknown_count += outcome->state == RULE_UNKNOWN;
        if (outcome->state != RULE_BROKEN)
            continue;
        judgement->broken_count++;
        if (check_rules[i].stage < judgement->first_stage)
            judgement->first_stage = (enum check_stage)check_rules[i].stage;
    }
}

uint32_t judge_recorded_failure(const struct vmcs_text *vmcs)
{
    uint32_t reason = (uint32_t)vmcs->value[F_EXIT_REASON];
    return (reason & 0x80000000u) != 0 ? reason : 0;
}

void judge_suspects(const struct judgement *judgement, judge_suspect *suspect, void *context)
{
    static struct judgement other;
    struct caps_input caps;
    if (!judgement->caps->any_linear_width || judgement->broken_count != 0 ||
        (judge_recorded_failure(judgement->vmcs) & 0xffff) != 33)
        return;
    for (unsigned i = 1; i < caps_model_count; i++) {
        if (!caps_input_read(&caps, caps_models[i].name))
            return;
        judge(&other, judgement->vmcs, &caps, judgement->mode);
        for (enum check_index rule = 0; rule < CHECK_COUNT; rule++)
            if (other.outcome[rule].state == RULE_BROKEN &&
                (check_rules[rule].stage == STAGE_GUEST || check_rules[rule].stage == STAGE_GUEST_HOT))
                suspect(context, caps_models[i].name, rule, &other.outcome[rule]);
    }
}

void judge_format_value(enum vmcs_field field, uint64_t value, char text[20])
{
    int digits = field_mask(field) == 0xffff ? 4 : field_mask(field) == 0xffffffff ? 8 : 16;
    snprintf(text, 20, "0x%0*llx", digits, (unsigned long long)value);
}

void judge_list_not_virtualized(const struct vmcs_text *vmcs, char *text, size_t size)
{
    static const struct {
        enum vmcs_field field;
        enum caps_word word;
    } words[] = {
        {F_PIN_BASED_CONTROLS, CAPS_PIN},       {F_PRIMARY_CONTROLS, CAPS_PRIMARY},
        {F_SECONDARY_CONTROLS, CAPS_SECONDARY}, {F_VM_EXIT_CONTROLS, CAPS_EXIT},
        {F_VM_ENTRY_CONTROLS, CAPS_ENTRY},
    };
    struct caps_input everything;
    struct nvmx_caps offered;
    size_t length = 0;
    *text = '\0';
    if (!caps_input_read(&everything, CAPS_MODEL_DEFAULT))
        return;
    nvmx_caps_offer(&everything.caps, &offered);
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        uint64_t not_offered =
            vmcs->value[words[i].field] & ~(uint64_t)nvmx_caps_allowed1(&offered, words[i].word);
        for (unsigned number = 0; number < 32 && length < size; number++) {
            const char *name = bits_name(bits_of_field(words[i].field), number);
            if ((not_offered >> number & 1) != 0 && name)
                length += (size_t)snprintf(text + length, size - length, "%s%s (%s)", length ? ", " : "",
                                           name, vmcs_field_name(words[i].field));
        }
    }
}
