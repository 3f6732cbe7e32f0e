// SPDX-License-Identifier: MIT
// Each VM-entry rule alone, before two judges: the engine's table (checks.def) and the software processor,
// whose checks were written from the manual independently. pairs.def has for every rule a VMCS that breaks it
// and no other, and one at its boundary that breaks none.
#include "verdict.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static bool was_had[CHECK_COUNT]; // the rule could be tried on some processor
static unsigned wrong_count;

static void fail_pair(unsigned pair, enum pair_side side, const char *judge, const struct verdict *seen)
{
    const struct check_rule *rule = &check_rules[pair_rule(pair)];
    wrong_count++;
    print_error("%u %s, pair %u, %s: %s says: %s, qualification %llu; broken: %s", rule->number, rule->id,
                pair_variant(pair), side == PAIR_LEGAL ? "legal" : "broken", judge,
                verdict_name(seen->outcome), (unsigned long long)seen->qualification,
                seen->why != NULL ? seen->why : "nothing");
    for (unsigned i = 1; i < seen->broken_count && i < CHECK_REPORT_MAX; i++)
        print_error(", %s", check_rules[seen->broken[i]].id);
    print_error("\n");
}

static void judge_pair(unsigned pair, enum pair_side side, const struct judged_processor *p)
{
    static uint64_t field[F_COUNT];
    struct pair_world world = verdict_world(p);
    if (!pair_make(pair, side, &world, field))
        return;
    const struct check_rule *rule = &check_rules[pair_rule(pair)];
    was_had[pair_rule(pair)] = true;
    struct verdict table = verdict_of_table(&world, field), model = verdict_of_model(&world, field);
    enum outcome_kind expected =
        side == PAIR_LEGAL ? ENTERS : verdict_of_stage((enum check_stage)rule->stage);
    uint64_t qualification = side == PAIR_LEGAL ? 0 : rule->qualification;
    bool alone =
        table.broken_count == (side == PAIR_BROKEN) && (side == PAIR_LEGAL || table.first == pair_rule(pair));
    if (!alone || table.outcome != expected || table.qualification != qualification)
        fail_pair(pair, side, "the table", &table);
    if (model.outcome != expected || model.qualification != qualification)
        fail_pair(pair, side, "the model", &model);
}

static void every_pair(void **state)
{
    const struct judged_processor *p = *state;
    verdict_begin(p);
    wrong_count = 0;
    for (unsigned pair = 0; pair < pair_count; pair++) {
        judge_pair(pair, PAIR_BROKEN, p);
        judge_pair(pair, PAIR_LEGAL, p);
    }
    assert_int_equal(wrong_count, 0);
}

// ... with the legal value that the table offers for a broken rule, the rule holds.
static void the_legal_value_mends_the_rule(void **state)
{
    static uint64_t field[F_COUNT];
    const struct judged_processor *p = *state;
    verdict_begin(p);
    struct pair_world world = verdict_world(p);
    for (unsigned pair = 0; pair < pair_count; pair++) {
        if (!pair_make(pair, PAIR_BROKEN, &world, field))
            continue;
        const struct check_rule *rule = &check_rules[pair_rule(pair)];
        struct verdict broken = verdict_of_table(&world, field);
        field[rule->field] = broken.legal;
        struct verdict mended = verdict_of_table(&world, field);
        for (unsigned i = 0; i < mended.broken_count && i < CHECK_REPORT_MAX; i++)
            if (mended.broken[i] == pair_rule(pair) &&
                rule->field != F_GUEST_CR3) // what is wrong is in memory
                fail_msg("%s, pair %u: %#llx does not mend it", rule->id, pair_variant(pair),
                         (unsigned long long)broken.legal);
    }
}

static int forget(void **state)
{
    (void)state;
    verdict_end();
    return 0;
}

static void every_rule_was_tried(void **state)
{
    (void)state;
    for (unsigned rule = 0; rule < CHECK_COUNT; rule++)
        if (!was_had[rule])
            fail_msg("%s: no processor could have its pairs", check_rules[rule].id);
}

// Each rule has its pairs at compile time; and its number is its own.
static void numbers_are_unique(void **state)
{
    (void)state;
    for (unsigned i = 0; i < CHECK_COUNT; i++)
        for (unsigned k = 0; k < i; k++)
            if (check_rules[i].number == check_rules[k].number)
                fail_msg("%s and %s have the number %u", check_rules[i].id, check_rules[k].id,
                         check_rules[i].number);
}

#define ON_EACH_PROCESSOR(test)                                                                              \
    {#test " rich", test, NULL, forget, &judged_rich},                                                       \
        {#test " rich, 32-bit L1", test, NULL, forget, &judged_rich_32},                                     \
        {#test " sparse", test, NULL, forget, &judged_sparse},                                               \
        {#test " without EPT", test, NULL, forget, &judged_no_ept},                                          \
        {#test " without unrestricted guest", test, NULL, forget, &judged_no_unrestricted_guest},            \
        {#test " with CET and SMM", test, NULL, forget, &judged_future},                                     \
    {                                                                                                        \
#test " as offered", test, NULL, forget, &judged_offered                                             \
    }

static const struct CMUnitTest tests[] = {
    ON_EACH_PROCESSOR(every_pair),
    ON_EACH_PROCESSOR(the_legal_value_mends_the_rule),
    cmocka_unit_test(every_rule_was_tried),
    cmocka_unit_test(numbers_are_unique),
};

int main(void)
{
    return cmocka_run_group_tests_name("checks", tests, NULL, NULL);
}
