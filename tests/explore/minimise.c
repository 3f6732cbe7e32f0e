// SPDX-License-Identifier: MIT
// Makes a failing script short: leaves out runs of steps, then single ones, then makes their operands simple,
// as long as it still fails.
#include "explore.h"
#include <stdlib.h>
#include <string.h>

#define TRIES_LIMIT 20000

static unsigned tries;
static enum verdict wanted; // the failure must stay of its kind
static unsigned first_difference;

// Of what the guests see; SEEN_COUNT: of memory, at the end.
static unsigned difference_of(const struct result *result)
{
    unsigned i = 0;
    if (result->verdict == VERDICT_DIFFERENT && result->at_the_end)
        return SEEN_COUNT;
    while (i < SEEN_COUNT && result->bare.value[i] == result->nested.value[i])
        i++;
    return i;
}

static bool still_fails(struct script *script, struct result *result)
{
    struct result now;
    tries++;
    explore_run(script, NULL, &now);
    if (now.verdict != wanted || difference_of(&now) != first_difference)
        return false;
    *result = now;
    return true;
}

// The script without `count` steps from `from`; kept if that fails, too.
static bool leave_out(struct script *script, size_t from, size_t count, struct result *result)
{
    struct script shorter = *script;
    shorter.step = malloc(script->count * sizeof(*script->step));
    memcpy(shorter.step, script->step, from * sizeof(*script->step));
    memcpy(shorter.step + from, script->step + from + count,
           (script->count - from - count) * sizeof(*script->step));
    shorter.count = script->count - count;
    bool fails = still_fails(&shorter, result);
    if (fails) {
        memcpy(script->step, shorter.step, shorter.count * sizeof(*script->step));
        script->count = shorter.count;
    }
    free(shorter.step);
    return fails;
}

static void cut_behind_the_failure(struct script *script, struct result *result)
{
    if (result->step + 1 < script->count)
        leave_out(script, result->step + 1, script->count - result->step - 1, result);
}

static void leave_out_what_can_be(struct script *script, struct result *result)
{
    for (size_t size = script->count / 2; size > 0 && tries<TRIES_LIMIT; size = size> 1 ? size / 2 : 0) {
        // From the end: what the last steps need is then still there.
        for (size_t end = script->count; end > 0 && tries < TRIES_LIMIT;) {
            size_t from = end > size ? end - size : 0;
            if (end <= script->count)
                leave_out(script, from, end - from, result);
            end = from;
        }
    }
}

static bool try_value(struct script *script, uint64_t *at, uint64_t value, struct result *result)
{
    uint64_t old = *at;
    if (old == value)
        return false;
    *at = value;
    if (still_fails(script, result))
        return true;
    *at = old;
    return false;
}

static void simplify(struct script *script, struct result *result)
{
    for (size_t i = 0; i < script->count && tries < TRIES_LIMIT; i++) {
        struct step *step = &script->step[i];
        if (step->kind == STEP_PREPARE || step->kind == STEP_GUEST) {
            uint64_t mode = step->op.b;
            if (mode != MODE_64)
                try_value(script, &step->op.b, MODE_64, result);
            continue;
        }
        if (step->kind != STEP_OP && step->kind != STEP_POKE)
            continue;
        // A word becomes one or two of its bits, or as many as it must have.
        uint64_t *value =
            step->op.kind == OP_VMWRITE || step->op.kind == OP_WRITE || step->op.kind == OP_WRMSR
                ? &step->op.b
                : &step->op.a;
        if (step->op.kind == OP_VMREAD || try_value(script, value, 0, result))
            continue;
        for (unsigned bit = 0; bit < 64; bit++)
            if (*value >> bit & 1)
                try_value(script, value, *value & ~(1ull << bit), result);
    }
}

static void simplify_world(struct script *script, struct result *result)
{
    const struct world_config old = script->config;
    struct world_config *c = &script->config;
    static const struct world_config simple = {.cpu_count = 1, .vcpu_count = 1};
#define TRY(member)                                                                                          \
    if (c->member != simple.member) {                                                                        \
        c->member = simple.member;                                                                           \
        if (!still_fails(script, result))                                                                    \
            c->member = old.member;                                                                          \
    }
    TRY(without_vmcs_shadowing)
    TRY(l0_without_large_pages)
    TRY(ept02_pool_pages)
    TRY(save_restore_one_in)
    TRY(hidden_secondary)
    TRY(l0_exceptions)
    if (script->config.vcpu_count == 1)
        TRY(cpu_count)
#undef TRY
    if (c->processor != &processor_rich) {
        c->processor = &processor_rich;
        if (!still_fails(script, result))
            c->processor = old.processor;
    }
}

static bool uses_second_vcpu(const struct script *script)
{
    for (size_t i = 0; i < script->count; i++)
        if (script->step[i].vcpu != 0)
            return true;
    return false;
}

void minimise(struct script *script, struct result *result)
{
    tries = 0;
    wanted = result->verdict;
    first_difference = difference_of(result);
    cut_behind_the_failure(script, result);
    for (size_t before = script->count + 1; script->count < before && tries < TRIES_LIMIT;) {
        before = script->count;
        leave_out_what_can_be(script, result);
    }
    if (!uses_second_vcpu(script) && script->config.vcpu_count > 1) {
        script->config.vcpu_count = 1;
        if (!still_fails(script, result))
            script->config.vcpu_count = 2;
    }
    simplify_world(script, result);
    simplify(script, result);
    leave_out_what_can_be(script, result);
    still_fails(script, result);
}
