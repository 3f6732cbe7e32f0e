// SPDX-License-Identifier: MIT
// What the processor makes of a VMCS: a VM entry with it.
#ifndef CHECKS_JUDGE_H
#define CHECKS_JUDGE_H

#include "border.h"
#include "l2.h"

enum outcome_kind {
    OUTCOME_ENTERS,
    OUTCOME_FAILS_CONTROLS, // VMfail 7
    OUTCOME_FAILS_HOST,     // VMfail 8
    OUTCOME_FAILS_GUEST,    // exit reason 33
    OUTCOME_OTHER,
};
struct outcome {
    enum outcome_kind kind;
    uint32_t other;         // OUTCOME_OTHER: what the instruction said
    uint64_t qualification; // OUTCOME_FAILS_GUEST; OUTCOME_OTHER: VM-instruction error or exit reason
};

void judge_begin(struct cpu *cpu); // in VMX operation
const struct pair_world *judge_world(enum pair_mode mode);
enum outcome_kind judge_kind_of_stage(enum check_stage stage);

// The scratch pages are as pair_make or border_make left them.
struct outcome judge_processor(const uint64_t *field, enum pair_mode mode);

#endif
