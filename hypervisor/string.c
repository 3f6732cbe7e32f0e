// SPDX-License-Identifier: MIT
// What a freestanding compiler expects to find.
#include "string.h"

#include <silicon/x86.h>

void *(memcpy)(void *restrict to, const void *restrict from, size_t size)
{
    void *destination = to;
    const void *source = from;
    x86_rep_movs(&destination, &source, size / 8, size % 8);
    return to;
}

void *memmove(void *to, const void *from, size_t size)
{
    uint8_t *destination = to;
    const uint8_t *source = from;
    if (destination <= source || destination >= source + size)
        return (memcpy)(to, from, size);
    while (size-- > 0)
        destination[size] = source[size];
    return to;
}

void *(memset)(void *to, int value, size_t size)
{
    void *destination = to;
    x86_rep_stos(&destination, (uint8_t)value * 0x0101010101010101ull, size / 8, size % 8);
    return to;
}

int(memcmp)(const void *left, const void *right, size_t size)
{
    const uint8_t *a = left, *b = right;
    for (size_t i = 0; i < size; i++)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return 0;
}

size_t strlen(const char *text)
{
    size_t length = 0;
    while (text[length] != '\0')
        length++;
    return length;
}

bool string_starts_with(const char *text, const char *prefix)
{
    while (*prefix != '\0')
        if (*text++ != *prefix++)
            return false;
    return true;
}

void string_copy(char *to, size_t size, const char *from)
{
    size_t length = strlen(from);
    if (length >= size)
        length = size - 1;
    memcpy(to, from, length);
    to[length] = '\0';
}
