// SPDX-License-Identifier: MIT
// The engine's VM-entry checks applied to a VMCS of which not everything need be known. A rule is judged only
// by what it looked at: if that was unknown, so is its outcome.
#ifndef PLASTRON_CLI_RULES_H
#define PLASTRON_CLI_RULES_H

#include <stdbool.h>
#include <stdint.h>

#include <nvmx/check.h>

enum rule_state { RULE_HOLDS, RULE_BROKEN, RULE_UNKNOWN };

struct rule_outcome {
    enum rule_state state;
    uint64_t value, legal; // as in struct check_broken; when broken
    bool needs_memory;     // unknown because the VMCS points to memory that decides
    bool needs_mode;       // unknown because the mode of the processor that enters decides
    unsigned needs_facts;  // unknown because these facts of CPUID's are (bits of 1 << fact, caps_facts.h)
    bool missing[F_COUNT]; // unknown because these fields are
};

enum rules_mode { RULES_MODE_UNKNOWN, RULES_MODE_32, RULES_MODE_64 };

struct rules_input {
    const uint64_t *value; // F_COUNT of them; 0 where unknown
    const unsigned *line;  // 0: unknown
    const struct nvmx_caps *caps;
    unsigned unknown_facts; // `caps` has them, but nobody knows
    unsigned physical_address_width;
    enum rules_mode mode; // of the processor that executes VMLAUNCH: IA-32e mode, or not
};

void rules_apply(const struct rules_input *input, struct rule_outcome outcome[CHECK_COUNT]);

// The rule's condition and remedy as they stand in checks.def.
const char *rules_broken_text(enum check_index index);
const char *rules_legal_text(enum check_index index);

// What a processor reports when the first broken rule is of this stage: "VMfail, error 7".
const char *rules_outcome_text(enum check_stage stage);
const char *rules_stage_name(enum check_stage stage);

#endif
