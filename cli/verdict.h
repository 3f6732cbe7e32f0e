// SPDX-License-Identifier: MIT
// How a run is judged: one sentence and one exit status, from all that was seen.
#ifndef PLASTRON_CLI_VERDICT_H
#define PLASTRON_CLI_VERDICT_H

#include "session.h"
#include "status.h"

// Writes why the machine ended and what that means; returns the exit status (an enum status, or 128 + a
// signal).
int verdict_find(const struct session *session, char *sentence, size_t size);

#endif
