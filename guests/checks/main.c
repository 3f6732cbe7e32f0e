// SPDX-License-Identifier: MIT
// Every VM-entry rule on the processor that this L1 runs on: for each pair of tests/checks/pairs.def the VMCS
// that breaks one rule, and the one that breaks none. What should come out is what checks.def says.
//   random=N    instead, N VMCSs with random changes near the border, judged by the engine's own table
//   seed=S      ... another sequence of them
//   only=NAME   only rules whose names begin so
#include "apic.h"
#include "console.h"
#include "judge.h"
#include "judge_table.h"
#include "machine.h"
#include "trap.h"
#include "x86.h"

void guest_start(const struct multiboot_information *information, uint32_t magic);

static struct cpu *cpu;
static uint32_t wrong_count;
static char only[48], number[24];

static void print_outcome(const struct outcome *outcome)
{
    static const char *const names[] = {"enters", "VMfail 7", "VMfail 8", "exit 33"};
    if (outcome->kind == OUTCOME_OTHER)
        console_print(cpu, "status %u, %lx", outcome->other, outcome->qualification);
    else
        console_print(cpu, "%s", names[outcome->kind]);
    if (outcome->kind == OUTCOME_FAILS_GUEST)
        console_print(cpu, " (%lu)", outcome->qualification);
}

static bool is_same(const struct outcome *a, const struct outcome *b)
{
    return a->kind == b->kind && (a->kind != OUTCOME_FAILS_GUEST || a->qualification == b->qualification);
}

static bool is_wanted(const char *name)
{
    const char *want = only;
    while (*want && *want == *name)
        want++, name++;
    return !*want;
}

// "GUEST_TR_TI 0 broken stop: exit 33 (0)"
static void try_pair(uint32_t pair, enum pair_side side, enum pair_mode mode)
{
    static uint64_t field[F_COUNT];
    const struct check_rule *rule = &check_rules[pair_rule(pair)];
    const struct pair_world *world = judge_world(mode);
    console_print(cpu, "%s %u %s %s: ", rule->id, pair_variant(pair), side == PAIR_LEGAL ? "legal" : "broken",
                  mode == PAIR_RUN ? "run" : "stop");
    if (!pair_make(pair, side, world, field)) {
        console_print(cpu, "not here\n");
        return;
    }
    struct outcome right = {.kind = OUTCOME_ENTERS}, seen = judge_processor(field, mode);
    if (side == PAIR_BROKEN)
        right = (struct outcome){.kind = judge_kind_of_stage((enum check_stage)rule->stage),
                                 .qualification = rule->qualification};
    print_outcome(&seen);
    if (!is_same(&seen, &right)) {
        wrong_count++;
        console_print(cpu, "  WRONG, should be: ");
        print_outcome(&right);
    }
    console_print(cpu, "\n");
}

static void try_pairs(enum pair_mode mode)
{
    for (uint32_t pair = 0; pair < pair_count; pair++)
        for (uint32_t side = 0; side < PAIR_SIDE_COUNT; side++)
            if (is_wanted(check_rules[pair_rule(pair)].id) && (side == PAIR_LEGAL || mode == PAIR_STOP))
                try_pair(pair, (enum pair_side)side, mode);
    console_print(cpu, "checks: %u pairs, %u wrong\n", pair_count, wrong_count);
}

// --- at random

// One line per disagreement, in a form that one can count by: the rules that the table finds broken, and what
// came out instead.
static void print_disagreement(uint64_t at, const uint64_t *field, const struct outcome *seen,
                               const struct check_report *report, const struct border_change *change,
                               uint32_t change_count)
{
    console_print(cpu, "random %lu: ", at);
    print_outcome(seen);
    console_print(cpu, " against");
    for (uint32_t i = 0; i < report->count && i < CHECK_REPORT_MAX; i++)
        console_print(cpu, " %s", check_rules[report->broken[i].index].id);
    if (report->count == 0)
        console_print(cpu, " nothing");
    if ((field[F_PIN_BASED_CONTROLS] & PIN_POSTED_INTERRUPTS) != 0)
        console_print(cpu, " (posted-interrupt descriptor %lx)",
                      field[F_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS] & 0xfff);
    if ((field[F_GUEST_SS_SELECTOR] & ~3ull) == 0)
        console_print(cpu, " (SS selector 0)");
    for (uint32_t i = 0; i < change_count; i++)
        console_print(cpu, "; %s %lx to %lx", vmcs_field_name(change[i].field), change[i].from, change[i].to);
    console_print(cpu, "\n");
}

static void try_random(uint64_t count, uint64_t seed)
{
    static uint64_t field[F_COUNT];
    const struct pair_world *world = judge_world(PAIR_STOP);
    uint64_t random = seed * 0x9e3779b97f4a7c15ull + 0x1234567, tally[OUTCOME_OTHER + 1] = {0};
    for (uint64_t i = 0; i < count; i++) {
        struct border_change change[BORDER_CHANGES_MAX];
        struct check_report report;
        uint32_t change_count = border_make(&random, world, field, change);
        int stage = judge_by_table(world, field, &report);
        struct outcome seen = judge_processor(field, PAIR_STOP);
        enum outcome_kind right = stage < 0 ? OUTCOME_ENTERS : judge_kind_of_stage((enum check_stage)stage);
        tally[seen.kind]++;
        // Of several broken rules of one stage the processor may report any.
        bool agrees = seen.kind == right && (seen.kind != OUTCOME_FAILS_GUEST ||
                                             judge_report_has_qualification(&report, seen.qualification));
        if (agrees)
            continue;
        wrong_count++;
        print_disagreement(i, field, &seen, &report, change, change_count);
    }
    console_print(
        cpu,
        "checks: %lu random VMCSs: %lu enter, %lu fail by controls, %lu by host state, %lu by guest "
        "state; %u disagreements\n",
        count, tally[OUTCOME_ENTERS], tally[OUTCOME_FAILS_CONTROLS], tally[OUTCOME_FAILS_HOST],
        tally[OUTCOME_FAILS_GUEST], wrong_count);
}

static uint64_t option(const char *name)
{
    uint64_t value = 0;
    if (machine_option(name, number, sizeof(number)))
        for (const char *digit = number; *digit >= '0' && *digit <= '9'; digit++)
            value = value * 10 + (uint64_t)(*digit - '0');
    return value;
}

void guest_start(const struct multiboot_information *information, uint32_t magic)
{
    bool loaded = machine_init(information, magic);
    console_init();
    machine_option("only", only, sizeof(only));
    uint64_t random = option("random"), seed = option("seed");
    apic_find_processors();
    cpu = cpu_get(0);
    cpu->block.immediate = true;
    if (!loaded)
        trap_panic("not loaded by Multiboot");
    if (!l2_vmx_on(cpu))
        trap_panic("VMXON fails");
    judge_begin(cpu);
    if (random != 0) {
        try_random(random, seed);
    } else {
        try_pairs(PAIR_STOP);
        try_pairs(PAIR_RUN);
    }
    console_print(cpu, "checks: done\n");
    console_flush(cpu);
    machine_stop();
}
