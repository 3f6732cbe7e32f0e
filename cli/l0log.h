// SPDX-License-Identifier: MIT
// L0's log, as it comes out of COM2, and what Plastron says there about itself: lines "plastron: KIND: ...".
#ifndef PLASTRON_CLI_L0LOG_H
#define PLASTRON_CLI_L0LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "lines.h"

#define L0LOG_TEXT_MAX  256
#define L0LOG_EXITS_MAX 256

// How often L0 was entered for one reason, from L1 (level 1) or from L2 (level 2), on all processors
// together.
struct l0log_exit {
    unsigned level, reason;
    char name[48];
    unsigned long long count;
};

struct l0log {
    FILE *copy; // where --log keeps it, or NULL
    struct lines lines;
    char grub_error[L0LOG_TEXT_MAX]; // the first "error: ..." of GRUB's
    char panic[L0LOG_TEXT_MAX], refuse[L0LOG_TEXT_MAX], stop[L0LOG_TEXT_MAX]; // empty: not said
    unsigned long long tsc;                                                   // 0: not said
    struct l0log_exit exits[L0LOG_EXITS_MAX];
    size_t exit_count;
    unsigned failed_rule_count;    // rules that L1's failed VM entries broke
    unsigned detector_count;       // lines of L0's detector: the processor refused what L0 had let pass
    char detector[L0LOG_TEXT_MAX]; // the first of them
};

// Takes in what has arrived; says each new stage.
void l0log_feed(struct l0log *log, const char *data, size_t size);

// Takes in a last line without a newline.
void l0log_finish(struct l0log *log);

// True once L0 has said that the machine is about to end.
bool l0log_says_end(const struct l0log *log);

#endif
