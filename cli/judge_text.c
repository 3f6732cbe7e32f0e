// SPDX-License-Identifier: MIT
// A judgement for a person.
#include <stdio.h>
#include <string.h>

#include "bits.h"
#include "caps_facts.h"
#include "causes.h"
#include "judge.h"

enum { LINE_WIDTH = 100, DIFFERENCE_SIZE = 512, DIFFERENCE_SHOWN = 200, FIELDS_SHOWN = 16 };

// "  label: text", the text broken at blanks.
static void print_wrapped(const char *label, const char *text)
{
    int indent = (int)strlen(label) + 4, column = indent;
    printf("  %s: ", label);
    while (*text != '\0') {
        int length = (int)strcspn(text, " ");
        if (column > indent && column + 1 + length > LINE_WIDTH) {
            printf("\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            putchar(' ');
            column++;
        }
        printf("%.*s", length, text);
        column += length;
        text += length;
        text += strspn(text, " ");
    }
    putchar('\n');
}

static void print_broken(const struct judgement *judgement, enum check_index index)
{
    const struct check_rule *rule = &check_rules[index];
    const struct rule_outcome *outcome = &judgement->outcome[index];
    enum vmcs_field field = (enum vmcs_field)rule->field;
    const struct check_broken broken = {
        .index = (uint16_t)index, .value = outcome->value, .legal = outcome->legal};
    char line[CHECK_DESCRIPTION_MAX], value[20], legal[20], difference[DIFFERENCE_SIZE];
    check_describe(&broken, line, sizeof(line));
    judge_format_value(field, outcome->value, value);
    judge_format_value(field, outcome->legal, legal);
    bits_difference(field, outcome->value, outcome->legal, difference, sizeof(difference));
    printf("\n%s\n", line);
    printf("  field: %s = %s (line %u), rule %u\n", vmcs_field_name(field), value,
           judgement->vmcs->line[field], rule->number);
    if (outcome->legal != outcome->value)
        printf("  allowed, and nearest: %s\n", legal);
    if (*difference != '\0' && strlen(difference) < DIFFERENCE_SHOWN)
        print_wrapped("differs in", difference);
    print_wrapped("why", causes_why(index));
    print_wrapped("likely cause", causes_likely(index));
}

static void print_missing_fields(const struct judgement *judgement, bool all)
{
    bool missing[F_COUNT] = {false};
    for (enum check_index i = 0; i < CHECK_COUNT; i++)
        for (unsigned field = 0; field < F_COUNT; field++)
            missing[field] = missing[field] || judgement->outcome[i].missing[field];
    char list[8192];
    size_t length = 0;
    unsigned count = 0, shown = all ? F_COUNT : FIELDS_SHOWN;
    for (unsigned field = 0; field < F_COUNT; field++)
        if (missing[field] && count++ < shown)
            length += (size_t)snprintf(list + length, sizeof(list) - length, "%s%s", length ? ", " : "",
                                       vmcs_field_name((enum vmcs_field)field));
    if (count > shown)
        snprintf(list + length, sizeof(list) - length, " and %u more", count - shown);
    if (count != 0)
        print_wrapped("not in the text", list);
}

static void print_unknown(const struct judgement *judgement, bool all)
{
    if (judgement->unknown_count == 0)
        return;
    printf("\n%u of %u rules could not be checked%s:\n", judgement->unknown_count, (unsigned)CHECK_COUNT,
           all ? "" : " (--all lists them)");
    print_missing_fields(judgement, all);
    for (enum check_index i = 0; i < CHECK_COUNT; i++) {
        const struct rule_outcome *outcome = &judgement->outcome[i];
        if (outcome->needs_memory)
            printf("  %s depends on memory that %s points to\n", check_rules[i].id,
                   vmcs_field_name((enum vmcs_field)check_rules[i].field));
        if (outcome->needs_mode)
            printf("  %s depends on the mode of the processor that enters (--mode 64 or --mode 32)\n",
                   check_rules[i].id);
    }
    for (enum check_index i = 0; i < CHECK_COUNT; i++)
        for (unsigned fact = 0; fact < FACT_COUNT; fact++)
            if ((judgement->outcome[i].needs_facts >> fact & 1) != 0)
                printf("  %s depends on %s (%s; the file of --caps may have a line %s = VALUE)\n",
                       check_rules[i].id, caps_fact_name(fact), caps_fact_source(fact), caps_fact_name(fact));
    for (enum check_index i = 0; all && i < CHECK_COUNT; i++) {
        const struct rule_outcome *outcome = &judgement->outcome[i];
        if (outcome->state != RULE_UNKNOWN || outcome->needs_memory || outcome->needs_mode ||
            outcome->needs_facts != 0)
            continue;
        printf("  %s for want of", check_rules[i].id);
        for (unsigned field = 0; field < F_COUNT; field++)
            if (outcome->missing[field])
                printf(" %s", vmcs_field_name((enum vmcs_field)field));
        putchar('\n');
    }
}

// Rules about controls that L1 is never offered need not be in the table.
static void print_not_virtualized(const struct judgement *judgement)
{
    char list[1024];
    judge_list_not_virtualized(judgement->vmcs, list, sizeof(list));
    if (*list == '\0')
        return;
    puts("\nControls are 1 that Plastron does not offer its L1; its table may lack rules about them:");
    print_wrapped("these", list);
}

static void print_suspect(void *context, const char *model, enum check_index index,
                          const struct rule_outcome *outcome)
{
    (void)context;
    enum vmcs_field field = (enum vmcs_field)check_rules[index].field;
    char difference[DIFFERENCE_SIZE], value[20];
    bits_difference(field, outcome->value, outcome->legal, difference, sizeof(difference));
    judge_format_value(field, outcome->value, value);
    printf("  A suspect: %s is broken on %s (%s = %s%s%s)\n", check_rules[index].id, model,
           vmcs_field_name(field), value, *difference ? "; " : "", difference);
}

static void print_recorded(const struct judgement *judgement)
{
    const struct vmcs_text *vmcs = judgement->vmcs;
    uint32_t reason = judge_recorded_failure(vmcs);
    if (reason == 0)
        return;
    printf("\nThe text records a failed VM entry: exit reason 0x%08x, qualification %#llx (line %u).\n",
           reason, (unsigned long long)vmcs->value[F_EXIT_QUALIFICATION], vmcs->line[F_EXIT_REASON]);
    uint32_t basic = reason & 0xffff;
    if (basic == 34)
        puts("  34 is about the list of MSRs to load: the qualification is the number of the entry that "
             "failed.");
    else if (basic == 33 && judgement->broken_count == 0)
        puts(
            "  No rule that could be checked explains it: look at those that could not be, and give the\n"
            "  processor's capabilities with --caps, without which only what no processor accepts is found.");
    judge_suspects(judgement, print_suspect, NULL);
}

void judge_print_text(const struct judgement *judgement, const char *file, bool all)
{
    const struct vmcs_text *vmcs = judgement->vmcs;
    printf("%s:%u: %s, %u of %u fields; capabilities: %s\n", file, vmcs->first_line,
           vmcs_format_name(vmcs->format), vmcs->known_count, (unsigned)F_COUNT, judgement->caps->name);
    if (judgement->broken_count == 0)
        printf("%s\n", judgement->unknown_count == 0 ? "valid: every rule of VM entry holds"
                                                     : "valid as far as it goes: every rule that could be "
                                                       "checked holds");
    else
        printf("invalid: %u rule%s broken; VM entry ends with %s\n", judgement->broken_count,
               judgement->broken_count == 1 ? "" : "s", rules_outcome_text(judgement->first_stage));
    for (int stage = 0; stage < STAGE_COUNT; stage++)
        for (enum check_index i = 0; i < CHECK_COUNT; i++)
            if (judgement->outcome[i].state == RULE_BROKEN && check_rules[i].stage == stage)
                print_broken(judgement, i);
    print_recorded(judgement);
    print_not_virtualized(judgement);
    print_unknown(judgement, all);
}
