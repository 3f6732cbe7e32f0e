// SPDX-License-Identifier: MIT
// The pairs of tests/checks/pairs.def as real VM entries of an L1: on the bare model, and under the engine on
// the model. `stop`: a legal VMCS comes as far as an MSR-load list that cannot be loaded; `run`: L2 really
// runs. And what the outcome leaves as it was.
#include "border.h"
#include "l1_vmx.h"
#include "verdict.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SCRATCH (L1_SCRATCH + 0x10000)

static uint64_t host[F_COUNT], holds[F_COUNT], field[F_COUNT];
static bool launched;

// Of L1, that L1's handlers return to; and the least that the VMCS must hold.
static struct pair_world begin(enum pair_mode mode)
{
    L2_PROGRAM(l2, VMCALL);
    const struct processor *p = world_l1_processor();
    l1_prepare(&l2);
    launched = false;
    memset(host, 0, sizeof(host));
    for (unsigned i = 0; i < F_COUNT; i++) {
        uint32_t encoding = vmcs_field_encoding((enum vmcs_field)i);
        if (vmcs_encoding_type(encoding) == VMCS_TYPE_HOST && processor_has_field(p, encoding))
            host[i] = l1_vmread_masked(encoding, i == F_HOST_IA32_PERF_GLOBAL_CTRL ? 0 : ~0ull);
        if (processor_has_field(p, encoding) && vmcs_encoding_type(encoding) != VMCS_TYPE_INFO)
            l1_vmwrite(encoding, holds[i] = host[i]);
    }
    return (struct pair_world){
        .caps = &p->vmx,
        .physical_width = p->physical_address_width,
        .long_mode = true,
        .mode = mode,
        .scratch = SCRATCH,
        .vmcs = VMCS_A,
        .memory = l1_memory(SCRATCH),
        .host = host,
    };
}

static void write_fields(void)
{
    for (unsigned i = 0; i < F_COUNT; i++) {
        uint32_t encoding = vmcs_field_encoding((enum vmcs_field)i);
        if (holds[i] == field[i] || !processor_has_field(world_l1_processor(), encoding))
            continue;
        l1_vmwrite(encoding, field[i]);
        holds[i] = field[i];
    }
}

// What the VM exit saved.
static void read_fields(void)
{
    for (unsigned i = 0; i < F_COUNT; i++) {
        uint32_t encoding = vmcs_field_encoding((enum vmcs_field)i);
        if (vmcs_encoding_type(encoding) == VMCS_TYPE_INFO ||
            !processor_has_field(world_l1_processor(), encoding))
            continue;
        holds[i] = l1_vmread_masked(encoding, ~0ull);
        l1_set_gpr(GPR_RAX, 0); // some of it is undefined
    }
}

static enum outcome_kind enter(enum pair_mode mode, uint64_t *qualification)
{
    write_fields();
    struct outcome outcome = launched ? try_vmresume() : try_vmlaunch();
    *qualification = 0;
    if (outcome.how == COMPLETED) {
        assert_true(outcome.zf);
        uint64_t error = l1_vmread(VMCS_VM_INSTRUCTION_ERROR);
        assert_in_range(error, 7, 8);
        return error == 7 ? FAILS_CONTROLS : FAILS_HOST;
    }
    assert_int_equal(outcome.how, EXITED);
    uint64_t reason = l1_vmread(VMCS_EXIT_REASON);
    if (reason == (EXIT_REASON_ENTRY_FAILURE | 33)) {
        *qualification = l1_vmread(VMCS_EXIT_QUALIFICATION);
        return FAILS_GUEST;
    }
    if (mode == PAIR_STOP)
        expect_entry_failure(34, 1);
    else if (reason & EXIT_REASON_ENTRY_FAILURE)
        fail_msg("exit reason %#llx", (unsigned long long)reason);
    if (mode == PAIR_RUN) {
        launched = true;
        read_fields();
    }
    return ENTERS;
}

static void judge_pair(const struct pair_world *world, unsigned pair, enum pair_side side)
{
    const struct check_rule *rule = &check_rules[pair_rule(pair)];
    if (!pair_make(pair, side, world, field))
        return;
    world_note("%s, pair %u, %s", rule->id, pair_variant(pair), side == PAIR_LEGAL ? "legal" : "broken");
    uint64_t qualification;
    enum outcome_kind seen = enter(world->mode, &qualification);
    enum outcome_kind right = side == PAIR_LEGAL ? ENTERS : verdict_of_stage((enum check_stage)rule->stage);
    if (seen != right || qualification != (side == PAIR_LEGAL ? 0 : rule->qualification))
        fail_msg("%s, pair %u, %s: %s (%llu)", rule->id, pair_variant(pair),
                 side == PAIR_LEGAL ? "legal" : "broken", verdict_name(seen),
                 (unsigned long long)qualification);
}

static void every_pair_stopped(void)
{
    struct pair_world world = begin(PAIR_STOP);
    for (unsigned pair = 0; pair < pair_count; pair++) {
        judge_pair(&world, pair, PAIR_BROKEN);
        judge_pair(&world, pair, PAIR_LEGAL);
    }
}

// In between L2 runs: the next mistake is found though nothing else was written.
static void every_pair_run(void)
{
    struct pair_world world = begin(PAIR_RUN);
    for (unsigned pair = 0; pair < pair_count; pair++) {
        judge_pair(&world, pair, PAIR_LEGAL);
        judge_pair(&world, pair, PAIR_BROKEN);
    }
}

static const struct CMUnitTest tests[] = {
    BOTH(every_pair_stopped),
    BOTH_WITH(every_pair_stopped, ", sparse processor", .processor = &processor_sparse),
    BOTH_WITH(every_pair_stopped, ", without VMCS shadowing", .without_vmcs_shadowing = true),
    BOTH_APART(every_pair_run),
};

int main(void)
{
    return cmocka_run_group_tests_name("VM-entry checks", tests, NULL, NULL);
}
