// SPDX-License-Identifier: MIT
// `plastron rules [ID|NUMBER]`: the rules of VM entry, all in one line each or one in full.
#include <stdio.h>
#include <string.h>

#include "causes.h"
#include "command.h"
#include "names.h"
#include "rules.h"
#include "say.h"
#include "status.h"

static void print_help(void)
{
    puts("Usage: plastron rules [ID|NUMBER...]\n"
         "\n"
         "Lists the rules that a VMCS must keep for VM entry to succeed: number, stage, id and what is "
         "demanded; or says\n"
         "of a rule all that is known about it. Ids and numbers are stable: L0's log, the CPUID leaves that "
         "L1 can ask\n"
         "(docs/cpuid.md) and `plastron check` use the same. Exit status 2: there is no such rule.");
}

static void print_rule(enum check_index index)
{
    const struct check_rule *rule = &check_rules[index];
    enum check_stage stage = (enum check_stage)rule->stage;
    printf("%s (rule %u)\n", rule->id, rule->number);
    printf("  field: %s (0x%04x)\n", vmcs_field_name((enum vmcs_field)rule->field),
           vmcs_field_encoding((enum vmcs_field)rule->field));
    printf("  message: %s\n", rule->message);
    printf("  broken, it ends the entry with: %s", rules_outcome_text(stage));
    if (rule->qualification != 0)
        printf(", qualification %u", rule->qualification);
    printf("\n  why: %s\n  likely cause: %s\n", causes_why(index), causes_likely(index));
    printf("  broken when: %s\n", rules_broken_text(index));
    printf("  a legal value: %s\n", rules_legal_text(index));
    printf("  manual: %s\n", rule->section);
}

int rules_main(int argc, char **argv)
{
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        print_help();
        return STATUS_OK;
    }
    for (int i = 1; i < argc; i++) {
        enum check_index index = names_rule(argv[i]);
        const char *nearest = names_rule_nearest(argv[i]);
        if (index == CHECK_COUNT) {
            say_error("there is no rule '%s'%s%s%s", argv[i], nearest ? "; did you mean " : "",
                      nearest ? nearest : "", nearest ? "?" : "");
            return STATUS_USAGE;
        }
        print_rule(index);
    }
    for (enum check_index i = 0; argc < 2 && i < CHECK_COUNT; i++)
        printf("%3u  %-11s  %-42s  %s\n", check_rules[i].number,
               rules_stage_name((enum check_stage)check_rules[i].stage), check_rules[i].id,
               check_rules[i].message);
    return STATUS_OK;
}
