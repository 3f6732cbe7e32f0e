// SPDX-License-Identifier: MIT
// What usually is behind a broken rule, in the words of somebody who has seen it before.
#ifndef PLASTRON_CLI_CAUSES_H
#define PLASTRON_CLI_CAUSES_H

#include <nvmx/check.h>

// Why the processor insists, and the likely mistake. Never NULL.
const char *causes_why(enum check_index index);
const char *causes_likely(enum check_index index);

// Is there an entry of the table for this rule, other than the general one?
bool causes_knows(enum check_index index);

#endif
