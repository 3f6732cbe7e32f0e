// SPDX-License-Identifier: MIT
// --expect: lines that L1's console must show.
#ifndef PLASTRON_CLI_EXPECT_H
#define PLASTRON_CLI_EXPECT_H

#include <regex.h>
#include <stdbool.h>
#include <stddef.h>

#define EXPECTATIONS_MAX 16

struct expectation {
    const char *text;
    regex_t regex;
    bool met;
};

struct expectations {
    struct expectation all[EXPECTATIONS_MAX];
    size_t count;
};

// Adds a POSIX extended regular expression; says what is wrong with it and returns false.
bool expectations_add(struct expectations *expectations, const char *text);
void expectations_free(struct expectations *expectations);

// Looks at a line of the console, terminal control sequences left out. An open line (no newline yet: a
// prompt) can meet an expectation as well, but not one that asks for the line's end.
void expectations_look(struct expectations *expectations, const char *line, bool open);

// True if every expectation was met; true if there are none.
bool expectations_are_met(const struct expectations *expectations);

#endif
