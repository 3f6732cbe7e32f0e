// SPDX-License-Identifier: MIT
// The lines at the end of a run.
#ifndef PLASTRON_CLI_SUMMARY_H
#define PLASTRON_CLI_SUMMARY_H

#include "session.h"

// Says the sentence, what the run cost, what was expected and not seen, and the exits by reason and level.
void summary_say(const struct session *session, const char *sentence, int status);

#endif
