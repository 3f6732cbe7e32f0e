// SPDX-License-Identifier: MIT
// What the engine's table of rules says of a VMCS.
#ifndef CHECKS_JUDGE_TABLE_H
#define CHECKS_JUDGE_TABLE_H

#include "pairs.h"

// The first stage (enum check_stage) with a broken rule, -1: none; and all broken rules. The scratch pages
// are as pair_make or border_make left them.
int judge_by_table(const struct pair_world *world, const uint64_t *field, struct check_report *report);

// What the table is applied to; pdpte: room for what is in memory.
struct check_input judge_input(const struct pair_world *world, const uint64_t *field, uint64_t pdpte[4]);

bool judge_report_has_qualification(const struct check_report *report, uint64_t qualification);

#endif
