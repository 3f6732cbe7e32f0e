// SPDX-License-Identifier: MIT
// What the command itself says, all of it on standard error: standard output belongs to L1's console.
#ifndef PLASTRON_CLI_SAY_H
#define PLASTRON_CLI_SAY_H

#include <stdbool.h>

enum say_level { SAY_ERRORS, SAY_STAGES, SAY_EVERYTHING };

void say_set_level(enum say_level level);
bool say_wants_everything(void);

// Starts the clock of the stages. Before that, and after say_plain, lines carry no time.
void say_start_clock(void);

// Seconds since say_start_clock.
double say_elapsed(void);

// One line with the time; not shown by --quiet.
void say_stage(const char *format, ...) __attribute__((format(printf, 1, 2)));

// One line as it is; not shown by --quiet.
void say_plain(const char *format, ...) __attribute__((format(printf, 1, 2)));

// One line as it is, shown by --verbose alone.
void say_detail(const char *format, ...) __attribute__((format(printf, 1, 2)));

// "plastron: error: ...", always shown.
void say_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

// While L1's console has an unfinished line on the same terminal, the next line said starts on a line of its
// own.
void say_note_console(bool shared_terminal, bool line_is_open);

#endif
