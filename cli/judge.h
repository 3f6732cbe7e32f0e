// SPDX-License-Identifier: MIT
// What `plastron check` finds out about one VMCS, before anybody prints it.
#ifndef PLASTRON_CLI_JUDGE_H
#define PLASTRON_CLI_JUDGE_H

#include "caps_input.h"
#include "rules.h"
#include "vmcs_text.h"

struct judgement {
    const struct vmcs_text *vmcs;
    const struct caps_input *caps;
    enum rules_mode mode;
    const char *mode_reason; // why that mode; NULL: the user says so, or it is unknown
    struct rule_outcome outcome[CHECK_COUNT];
    unsigned broken_count, unknown_count;
    enum check_stage first_stage; // of the broken rules; STAGE_COUNT: none is
};

// `mode`: as the user says; RULES_MODE_UNKNOWN: what the VMCS itself proves, if it proves anything.
void judge(struct judgement *judgement, const struct vmcs_text *vmcs, const struct caps_input *caps,
           enum rules_mode mode);

// Does the VMCS itself say that its last VM entry failed? Its exit reason, then, or 0.
uint32_t judge_recorded_failure(const struct vmcs_text *vmcs);

// When the VMCS records a failed check of the guest state that no broken rule explains, and the capabilities
// are nobody's: calls `suspect` for each rule of the guest state that would be broken on a real processor's
// model.
typedef void judge_suspect(void *context, const char *model, enum check_index index,
                           const struct rule_outcome *outcome);
void judge_suspects(const struct judgement *judgement, judge_suspect *suspect, void *context);

// As people would read it, and as programs would.
void judge_print_text(const struct judgement *judgement, const char *file, bool all);
struct json_object;
struct json_object *judge_to_json(const struct judgement *judgement);

// The names of the controls that are 1 in the VMCS and that Plastron does not offer any L1; "": none.
void judge_list_not_virtualized(const struct vmcs_text *vmcs, char *text, size_t size);

// "0x0089", as wide as the field is; at most 20 bytes.
void judge_format_value(enum vmcs_field field, uint64_t value, char text[20]);

#endif
