// SPDX-License-Identifier: MIT
// Formatted text into a buffer: %s %c %d %u %x, with l, ll, z and a width with or without leading zeros.
#ifndef PLASTRON_PRINT_H
#define PLASTRON_PRINT_H

#include <stdarg.h>
#include <stddef.h>

// Always terminates; returns how many characters were written, without the terminator.
size_t print_format_list(char *buffer, size_t size, const char *format, va_list arguments)
    __attribute__((format(printf, 3, 0)));
size_t print_format(char *buffer, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
