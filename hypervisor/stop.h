// SPDX-License-Identifier: MIT
// The end: what was counted, and why it is over.
#ifndef PLASTRON_STOP_H
#define PLASTRON_STOP_H

// L0 cannot start, or cannot load L1's image: one clear sentence, and the machine is ended.
_Noreturn void stop_refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Ends the machine: statistics, "stop: REASON", every processor halted, and switched off where that is known.
_Noreturn void stop_machine(const char *reason);

// L1 is about to end the machine itself: statistics and "stop: REASON", once. L0 goes on.
void stop_report(const char *reason);

#endif
