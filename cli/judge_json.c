// SPDX-License-Identifier: MIT
// A judgement for a program. Numbers of 64 bits are strings in hexadecimal: JSON's numbers have 53.
#include <json-c/json.h>
#include <stdio.h>

#include "bits.h"
#include "caps_facts.h"
#include "causes.h"
#include "judge.h"

enum { DIFFERENCE_SIZE = 512 };

static void add_text(struct json_object *object, const char *key, const char *text)
{
    json_object_object_add(object, key, text ? json_object_new_string(text) : NULL);
}

static void add_number(struct json_object *object, const char *key, unsigned number)
{
    json_object_object_add(object, key, json_object_new_int64(number));
}

static struct json_object *rule_to_json(enum check_index index)
{
    struct json_object *object = json_object_new_object();
    add_text(object, "id", check_rules[index].id);
    add_number(object, "number", check_rules[index].number);
    add_text(object, "stage", rules_stage_name((enum check_stage)check_rules[index].stage));
    return object;
}

static struct json_object *broken_to_json(const struct judgement *judgement, enum check_index index)
{
    const struct check_rule *rule = &check_rules[index];
    const struct rule_outcome *outcome = &judgement->outcome[index];
    enum vmcs_field field = (enum vmcs_field)rule->field;
    char value[20], legal[20], encoding[16], difference[DIFFERENCE_SIZE], words[64];
    struct json_object *object = rule_to_json(index);
    snprintf(encoding, sizeof(encoding), "0x%04x", vmcs_field_encoding(field));
    judge_format_value(field, outcome->value, value);
    judge_format_value(field, outcome->legal, legal);
    bits_difference(field, outcome->value, outcome->legal, difference, sizeof(difference));
    check_field_words(field, words, sizeof(words));
    add_text(object, "outcome", rules_outcome_text((enum check_stage)rule->stage));
    add_text(object, "field", vmcs_field_name(field));
    add_text(object, "field_words", words);
    add_text(object, "encoding", encoding);
    add_text(object, "value", value);
    add_text(object, "allowed", legal);
    add_text(object, "difference", difference);
    add_number(object, "line", judgement->vmcs->line[field]);
    add_text(object, "message", rule->message);
    add_text(object, "why", causes_why(index));
    add_text(object, "likely_cause", causes_likely(index));
    add_text(object, "manual", rule->section);
    return object;
}

static struct json_object *unknown_to_json(const struct rule_outcome *outcome, enum check_index index)
{
    struct json_object *object = rule_to_json(index), *missing = json_object_new_array();
    for (unsigned field = 0; field < F_COUNT; field++)
        if (outcome->missing[field])
            json_object_array_add(missing, json_object_new_string(vmcs_field_name((enum vmcs_field)field)));
    json_object_object_add(object, "missing", missing);
    json_object_object_add(object, "needs_memory", json_object_new_boolean(outcome->needs_memory));
    json_object_object_add(object, "needs_mode", json_object_new_boolean(outcome->needs_mode));
    struct json_object *facts = json_object_new_array();
    for (unsigned fact = 0; fact < FACT_COUNT; fact++)
        if ((outcome->needs_facts >> fact & 1) != 0)
            json_object_array_add(facts, json_object_new_string(caps_fact_name(fact)));
    json_object_object_add(object, "needs_features", facts);
    return object;
}

static void add_suspect(void *context, const char *model, enum check_index index,
                        const struct rule_outcome *outcome)
{
    (void)outcome;
    struct json_object *object = rule_to_json(index);
    add_text(object, "model", model);
    json_object_array_add(context, object);
}

struct json_object *judge_to_json(const struct judgement *judgement)
{
    static const char *const formats[] = {
        [VMCS_FORMAT_OWN] = "own", [VMCS_FORMAT_KVM] = "kvm", [VMCS_FORMAT_XEN] = "xen"};
    const struct vmcs_text *vmcs = judgement->vmcs;
    struct json_object *object = json_object_new_object();
    struct json_object *broken = json_object_new_array(), *unknown = json_object_new_array();
    add_number(object, "line", vmcs->first_line);
    add_text(object, "format", formats[vmcs->format]);
    add_number(object, "fields", vmcs->known_count);
    json_object_object_add(object, "valid", json_object_new_boolean(judgement->broken_count == 0));
    add_text(object, "outcome",
             judgement->broken_count != 0 ? rules_outcome_text(judgement->first_stage) : NULL);
    for (enum check_index i = 0; i < CHECK_COUNT; i++) {
        const struct rule_outcome *outcome = &judgement->outcome[i];
        if (outcome->state == RULE_BROKEN)
            json_object_array_add(broken, broken_to_json(judgement, i));
        else if (outcome->state == RULE_UNKNOWN)
            json_object_array_add(unknown, unknown_to_json(outcome, i));
    }
    json_object_object_add(object, "broken", broken);
    json_object_object_add(object, "unchecked", unknown);
    struct json_object *suspects = json_object_new_array();
    judge_suspects(judgement, add_suspect, suspects);
    json_object_object_add(object, "suspects", suspects);
    char not_virtualized[1024];
    judge_list_not_virtualized(vmcs, not_virtualized, sizeof(not_virtualized));
    add_text(object, "not_offered", not_virtualized);
    if (judge_recorded_failure(vmcs) != 0) {
        char reason[20];
        judge_format_value(F_EXIT_REASON, judge_recorded_failure(vmcs), reason);
        add_text(object, "recorded_exit_reason", reason);
    }
    return object;
}
