// SPDX-License-Identifier: MIT
// Names as users type them: fields, rules, and what they may have meant.
#ifndef PLASTRON_CLI_NAMES_H
#define PLASTRON_CLI_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <nvmx/check.h>

// Letters to insert, remove or change to get from one word to the other, upper and lower case being the same.
// 99 when the words are long or not alike at all.
size_t names_distance(const char *from, const char *to);

// By name (upper or lower case) or encoding; F_COUNT: none.
enum vmcs_field names_field(const char *text);
// The name most like it, or NULL.
const char *names_field_nearest(const char *text);

// By id or number; CHECK_COUNT: none.
enum check_index names_rule(const char *text);
const char *names_rule_nearest(const char *text);

// A whole word that is a number: decimal, or hexadecimal after 0x; _ and ' may stand between digits.
bool names_number(const char *text, size_t length, uint64_t *value);

#endif
