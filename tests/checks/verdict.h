// SPDX-License-Identifier: MIT
// What the judges of a VMCS on the host say: the engine's table, and the model's own checks, called directly.
#ifndef CHECKS_VERDICT_H
#define CHECKS_VERDICT_H

#include "pairs.h"
#include <machine.h>

struct judged_processor {
    struct processor processor;
    bool long_mode; // L1 is
};
extern struct judged_processor judged_rich, judged_rich_32, judged_sparse, judged_no_ept,
    judged_no_unrestricted_guest, judged_future, judged_offered;

enum outcome_kind { ENTERS, FAILS_CONTROLS, FAILS_HOST, FAILS_GUEST };

struct verdict {
    enum outcome_kind outcome;
    uint64_t qualification;
    const char *why; // in the judge's words
    // the table only
    unsigned broken_count;
    enum check_index first, broken[CHECK_REPORT_MAX];
    uint64_t legal; // the value that the table would have instead, of the first
};

const char *verdict_name(enum outcome_kind outcome);
enum outcome_kind verdict_of_stage(enum check_stage stage);

void verdict_begin(const struct judged_processor *p); // a machine with this processor
void verdict_end(void);
struct pair_world verdict_world(const struct judged_processor *p);

struct verdict verdict_of_table(const struct pair_world *world, const uint64_t *field);
struct verdict verdict_of_model(const struct pair_world *world, const uint64_t *field);

#endif
