// SPDX-License-Identifier: MIT
// Memory and text.
#ifndef PLASTRON_STRING_H
#define PLASTRON_STRING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);
int memcmp(const void *left, const void *right, size_t size);

// A freestanding compiler takes the names for anybody's; these it expands in place where that is shorter.
#define memcpy(to, from, size)    __builtin_memcpy(to, from, size)
#define memset(to, value, size)   __builtin_memset(to, value, size)
#define memcmp(left, right, size) __builtin_memcmp(left, right, size)
size_t strlen(const char *text);

bool string_starts_with(const char *text, const char *prefix);
void string_copy(char *to, size_t size, const char *from); // cuts what does not fit; always terminates

#endif
