// SPDX-License-Identifier: MIT
// VMCSs near the border between valid and not, at random, before two judges: the engine's table and the
// software processor's own checks. More of it: PLASTRON_ROUNDS=N (a processor), PLASTRON_SEED=S; make
// explore-checks.
#include "border.h"
#include "verdict.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define ROUNDS              3000
#define DISAGREEMENTS_SHOWN 20

static uint64_t setting(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 0) : otherwise;
}

static bool table_has_qualification(const struct verdict *table, uint64_t qualification)
{
    for (unsigned i = 0; i < table->broken_count && i < CHECK_REPORT_MAX; i++)
        if (check_rules[table->broken[i]].qualification == qualification &&
            verdict_of_stage((enum check_stage)check_rules[table->broken[i]].stage) == FAILS_GUEST)
            return true;
    return false;
}

static void show(const struct verdict *table, const struct verdict *model, const struct border_change *change,
                 unsigned count)
{
    print_error("the table: %s (", verdict_name(table->outcome));
    for (unsigned i = 0; i < table->broken_count && i < CHECK_REPORT_MAX; i++)
        print_error(" %s", check_rules[table->broken[i]].id);
    print_error(" ); the model: %s %llu (%s)", verdict_name(model->outcome),
                (unsigned long long)model->qualification, model->why != NULL ? model->why : "");
    for (unsigned i = 0; i < count; i++)
        print_error("; %s %#llx to %#llx", vmcs_field_name(change[i].field),
                    (unsigned long long)change[i].from, (unsigned long long)change[i].to);
    print_error("\n");
}

static void both_judges_agree(void **state)
{
    static uint64_t field[F_COUNT];
    const struct judged_processor *p = *state;
    verdict_begin(p);
    struct pair_world world = verdict_world(p);
    uint64_t random = 0x1234567 + 0x9e3779b97f4a7c15ull * setting("PLASTRON_SEED", 0), disagreements = 0;
    for (unsigned i = 0; i < CAPS_MSR_COUNT; i++) // another sequence on each processor
        random = random * 31 + world.caps->msr[i];
    uint64_t rounds = setting("PLASTRON_ROUNDS", ROUNDS), tally[FAILS_GUEST + 1] = {0};
    for (uint64_t i = 0; i < rounds; i++) {
        struct border_change change[BORDER_CHANGES_MAX];
        unsigned count = border_make(&random, &world, field, change);
        struct verdict table = verdict_of_table(&world, field), model = verdict_of_model(&world, field);
        tally[model.outcome]++;
        if (table.outcome == model.outcome &&
            (model.outcome != FAILS_GUEST || table_has_qualification(&table, model.qualification)))
            continue;
        if (disagreements++ < DISAGREEMENTS_SHOWN)
            show(&table, &model, change, count);
    }
    print_message(
        "# %llu VMCSs: %llu enter, VMfail 7: %llu, VMfail 8: %llu, exit 33: %llu; %llu disagreements\n",
        (unsigned long long)rounds, (unsigned long long)tally[ENTERS],
        (unsigned long long)tally[FAILS_CONTROLS], (unsigned long long)tally[FAILS_HOST],
        (unsigned long long)tally[FAILS_GUEST], (unsigned long long)disagreements);
    assert_int_equal(disagreements, 0);
    for (unsigned outcome = ENTERS; outcome <= FAILS_GUEST;
         outcome++) // or it is not the border that is tried
        assert_true(tally[outcome] > rounds / 100);
}

static int forget(void **state)
{
    (void)state;
    verdict_end();
    return 0;
}

static const struct CMUnitTest tests[] = {
    {"rich", both_judges_agree, NULL, forget, &judged_rich},
    {"rich, 32-bit L1", both_judges_agree, NULL, forget, &judged_rich_32},
    {"sparse", both_judges_agree, NULL, forget, &judged_sparse},
    {"without EPT", both_judges_agree, NULL, forget, &judged_no_ept},
    {"without unrestricted guest", both_judges_agree, NULL, forget, &judged_no_unrestricted_guest},
    {"with CET and SMM", both_judges_agree, NULL, forget, &judged_future},
    {"as offered", both_judges_agree, NULL, forget, &judged_offered},
};

int main(void)
{
    return cmocka_run_group_tests_name("checks at the border", tests, NULL, NULL);
}
