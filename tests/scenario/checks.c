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
    uint64_t qualification, link = field[F_VMCS_LINK_POINTER];
    bool becomes_active = world->mode == PAIR_RUN && side == PAIR_LEGAL && link != ~0ull;
    if (becomes_active)
        l1_vmclear(link); // a region must be initialized before it is used, and is left alone while it is
    enum outcome_kind seen = enter(world->mode, &qualification);
    enum outcome_kind right = side == PAIR_LEGAL ? ENTERS : verdict_of_stage((enum check_stage)rule->stage);
    if (becomes_active)
        l1_vmclear(link);
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

// --- what can change though L1 executes no VMWRITE

static void prepare_for_memory(struct l2 *l2, uint32_t secondary)
{
    l1_prepare(l2);
    if (secondary != 0) {
        l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_ACTIVATE_SECONDARY);
        l1_set(VMCS_SECONDARY_CONTROLS, secondary);
    }
}

static void put32(uint64_t at, uint32_t value)
{
    memcpy(l1_memory(at), &value, sizeof(value));
}

static void the_linked_vmcs_is_looked_at_by_every_entry(void)
{
    L2_PROGRAM(l2, CPUID(1), CPUID(1), CPUID(1));
    prepare_for_memory(&l2, 0);
    uint32_t revision = (uint32_t)l1_rdmsr(MSR_IA32_VMX_BASIC);
    put32(SCRATCH, revision);
    l1_vmwrite(VMCS_VMCS_LINK_POINTER, SCRATCH);
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    put32(SCRATCH, revision ^ 1);
    try_vmresume();
    expect_entry_failure(33, 4);
    put32(SCRATCH, revision);
    l1_vmresume();
    expect_exit(EXIT_CPUID);
}

static void vtpr_is_looked_at_by_every_entry(void)
{
    L2_PROGRAM(l2, CPUID(1), CPUID(1), CPUID(1));
    prepare_for_memory(&l2, 0);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW);
    l1_vmwrite(VMCS_VIRTUAL_APIC_ADDRESS, SCRATCH);
    l1_vmwrite(VMCS_TPR_THRESHOLD, 5);
    put32(SCRATCH + 0x80, 0x50);
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    put32(SCRATCH + 0x80, 0x4f);
    expect_fail_valid(try_vmresume(), 7);
    put32(SCRATCH + 0x80, 0xff);
    l1_vmresume();
    expect_exit(EXIT_CPUID);
}

// One field at a time behind a successful entry, of those that the checks take by groups.
static void each_hot_field_is_checked_alone(void)
{
    static const struct {
        uint32_t field;
        uint64_t wrong;
        bool vmfail;
    } rows[] = {
        {VMCS_GUEST_RIP, 1ull << 62, false},
        {VMCS_GUEST_CR3, 1ull << 62, false},
        {VMCS_GUEST_RFLAGS, 0, false},
        {VMCS_GUEST_INTERRUPTIBILITY, INTERRUPTIBILITY_STI, false},
        {VMCS_GUEST_ACTIVITY_STATE, 4, false},
        {VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 5, false},
        {VMCS_GUEST_CR0, 0, false},
        {VMCS_GUEST_CR4, 0, false},
        {VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000033, false},
        {VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000120, true},
        {VMCS_GUEST_TR_LIMIT, 0xfffff000, false},
        {VMCS_GUEST_SS_ACCESS_RIGHTS, 0, false},
        {VMCS_HOST_TR_SELECTOR, 0, true},
        {VMCS_CR3_TARGET_COUNT, 0x1000, true},
    };
    L2_PROGRAM(l2, CPUID(1), JUMP(0x10000));
    prepare_for_memory(&l2, 0);
    l1_vmlaunch();
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        expect_exit(EXIT_CPUID);
        world_note("field %#x", rows[i].field);
        uint64_t right = l1_vmread(rows[i].field);
        for (unsigned turn = 0; turn < 2; turn++) { // it stays wrong
            l1_vmwrite(rows[i].field, rows[i].wrong);
            struct outcome outcome = try_vmresume();
            if (rows[i].vmfail)
                assert_true(outcome.how == COMPLETED && outcome.zf);
            else
                expect_entry_failure(33, 0);
        }
        l1_vmwrite(rows[i].field, right);
        l1_vmresume();
    }
    expect_exit(EXIT_CPUID);
}

// L2 leaves IA-32e mode; the exit saves CR0 and the VM-entry controls, but not IA32_EFER, which fits no
// longer.
static void what_l2_changed_is_checked_with_what_the_exit_left(void)
{
    L2_PROGRAM(l2, TO_COMPATIBILITY_MODE, MOV_TO_CR(0, CR0_PE | CR0_NE | CR0_ET | CR0_WP), VMCALL, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_UNRESTRICTED_GUEST);
    l1_clear(VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_EFER);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    l1_skip_instruction();
    try_vmresume();
    expect_entry_failure(33, 0);
    l1_vmwrite(VMCS_GUEST_IA32_EFER, EFER_NXE);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static const struct CMUnitTest tests[] = {
    BOTH(the_linked_vmcs_is_looked_at_by_every_entry),
    BOTH(vtpr_is_looked_at_by_every_entry),
    BOTH(each_hot_field_is_checked_alone),
    BOTH_WITH(each_hot_field_is_checked_alone, ", without VMCS shadowing", .without_vmcs_shadowing = true),
    BOTH(what_l2_changed_is_checked_with_what_the_exit_left),
    BOTH(every_pair_stopped),
    BOTH_WITH(every_pair_stopped, ", sparse processor", .processor = &processor_sparse),
    BOTH_WITH(every_pair_stopped, ", without VMCS shadowing", .without_vmcs_shadowing = true),
    BOTH_APART(every_pair_run),
};

int main(void)
{
    return cmocka_run_group_tests_name("VM-entry checks", tests, NULL, NULL);
}
