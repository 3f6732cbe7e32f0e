// SPDX-License-Identifier: MIT
// The engine's own check.c, compiled here with readings that leave a trace.
#include "rules.h"

#include <string.h>

#include <nvmx/nvmx.h>

#include "caps_facts.h"

static bool field_was_read[F_COUNT];
static bool memory_was_read;

static uint64_t traced_field(const uint64_t *field, unsigned index)
{
    field_was_read[index] = true;
    return field[index];
}

// The secondary controls count as 0 unless they are activated.
static uint32_t traced_secondary(const uint64_t *field)
{
    bool active = (traced_field(field, F_PRIMARY_CONTROLS) & PRIMARY_ACTIVATE_SECONDARY) != 0;
    return active ? (uint32_t)traced_field(field, F_SECONDARY_CONTROLS) : 0;
}

#define CHECK_FIELD(c, field_index) traced_field((c)->field, field_index)
#define CHECK_SECONDARY(c)          traced_secondary((c)->field)

#include "check.c" // NOLINT(bugprone-suspicious-include): see the top

// There is no memory of an L1's here; who asks has found out that the rule depends on it.
bool port_l1_read(struct nvmx_vcpu *vcpu, l1pa_t from, void *to, size_t size)
{
    (void)vcpu;
    (void)from;
    memset(to, 0, size);
    memory_was_read = true;
    return true;
}

static bool rule_is_broken(const struct check_context *c, enum check_index index)
{
    switch (index) {
#define CHECK(number, id, stage, field, qualification, section, message, broken, legal)                      \
    case CHECK_##id:                                                                                         \
        return (broken);
#include <nvmx/checks.def>
#undef CHECK
    case CHECK_COUNT:
        break;
    }
    return false;
}

static uint64_t rule_legal(const struct check_context *c, enum check_index index)
{
    switch (index) {
#define CHECK(number, id, stage, field, qualification, section, message, broken, legal)                      \
    case CHECK_##id:                                                                                         \
        return (uint64_t)(legal);
#include <nvmx/checks.def>
#undef CHECK
    case CHECK_COUNT:
        break;
    }
    return 0;
}

static struct check_context context_for(const struct rules_input *input, bool long_mode)
{
    static struct nvmx_vcpu somebody; // so that rules ask for memory at all
    const struct check_input check = {
        .field = input->value,
        .caps = input->caps,
        .physical_address_width = input->physical_address_width,
        .long_mode = long_mode,
        .vcpu = &somebody,
    };
    return context_make(&check);
}

// Those of the unknown facts without which the rule would be otherwise.
static unsigned facts_that_decide(const struct rules_input *input, enum check_index index, bool broken)
{
    unsigned deciding = 0;
    for (unsigned fact = 0; fact < FACT_COUNT; fact++) {
        if ((input->unknown_facts >> fact & 1) == 0)
            continue;
        struct nvmx_caps without = *input->caps;
        struct rules_input other = *input;
        caps_fact_set(&without, fact, 0);
        other.caps = &without;
        const struct check_context c = context_for(&other, input->mode != RULES_MODE_32);
        if (rule_is_broken(&c, index) != broken)
            deciding |= 1u << fact;
    }
    return deciding;
}

static void rule_apply(const struct rules_input *input, enum check_index index, struct rule_outcome *outcome)
{
    const struct check_context in_64 = context_for(input, true), in_32 = context_for(input, false);
    const struct check_context *c = input->mode == RULES_MODE_32 ? &in_32 : &in_64;
    *outcome = (struct rule_outcome){.state = RULE_HOLDS};
    memset(field_was_read, 0, sizeof(field_was_read));
    memory_was_read = false;
    bool broken = rule_is_broken(c, index);
    if (input->mode == RULES_MODE_UNKNOWN)
        outcome->needs_mode = rule_is_broken(&in_32, index) != broken;
    outcome->needs_facts = facts_that_decide(input, index, broken);
    bool missing = false;
    for (unsigned field = 0; field < F_COUNT; field++) {
        outcome->missing[field] = field_was_read[field] && input->line[field] == 0;
        missing = missing || outcome->missing[field];
    }
    outcome->needs_memory = memory_was_read && !missing;
    outcome->needs_mode = outcome->needs_mode && !missing;
    if (missing)
        outcome->needs_facts = 0;
    bool unknown = missing || outcome->needs_memory || outcome->needs_mode || outcome->needs_facts != 0;
    if (unknown) {
        outcome->state = RULE_UNKNOWN;
    } else if (broken) {
        outcome->state = RULE_BROKEN;
        outcome->value = input->value[check_rules[index].field];
        outcome->legal = rule_legal(c, index);
    }
}

void rules_apply(const struct rules_input *input, struct rule_outcome outcome[CHECK_COUNT])
{
    for (enum check_index index = 0; index < CHECK_COUNT; index++)
        rule_apply(input, index, &outcome[index]);
}

const char *rules_broken_text(enum check_index index)
{
    static const char *const texts[] = {
#define CHECK(number, id, stage, field, qualification, section, message, broken, legal) #broken,
#include <nvmx/checks.def>
#undef CHECK
    };
    return texts[index];
}

const char *rules_legal_text(enum check_index index)
{
    static const char *const texts[] = {
#define CHECK(number, id, stage, field, qualification, section, message, broken, legal) #legal,
#include <nvmx/checks.def>
#undef CHECK
    };
    return texts[index];
}

const char *rules_stage_name(enum check_stage stage)
{
    switch (stage) {
    case STAGE_CONTROLS:
    case STAGE_CONTROLS_HOT:
        return "controls";
    case STAGE_HOST:
        return "host state";
    case STAGE_GUEST:
    case STAGE_GUEST_HOT:
        return "guest state";
    case STAGE_COUNT:
        break;
    }
    return "?";
}

const char *rules_outcome_text(enum check_stage stage)
{
    switch (stage) {
    case STAGE_CONTROLS:
    case STAGE_CONTROLS_HOT:
        return "VMfail with VM-instruction error 7 (invalid control fields)";
    case STAGE_HOST:
        return "VMfail with VM-instruction error 8 (invalid host-state fields)";
    case STAGE_GUEST:
    case STAGE_GUEST_HOT:
        return "a VM exit with reason 0x80000021 (33: invalid guest state)";
    case STAGE_COUNT:
        break;
    }
    return "?";
}
