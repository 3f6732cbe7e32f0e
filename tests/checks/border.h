// SPDX-License-Identifier: MIT
// VMCSs near the border between valid and not: a valid one with a few random changes, each near where a rule
// changes its mind. Freestanding, no libc.
#ifndef CHECKS_BORDER_H
#define CHECKS_BORDER_H

#include "pairs.h"

#define BORDER_CHANGES_MAX 4

struct border_change {
    enum vmcs_field field;
    uint64_t from, to;
};

// The next VMCS by `*random` (which must not be 0); returns how many changes it has (recorded in `change`).
// Where the VM entry is a real one (world->mode), what it may load is such that L1 survives it.
unsigned border_make(uint64_t *random, const struct pair_world *world, uint64_t *field,
                     struct border_change change[BORDER_CHANGES_MAX]);

#endif
