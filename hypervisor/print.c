// SPDX-License-Identifier: MIT
#include "print.h"

#include <stdbool.h>
#include <stdint.h>

struct output {
    char *buffer;
    size_t size, length; // size includes the terminator
};

static void output_character(struct output *output, char character)
{
    if (output->length + 1 < output->size)
        output->buffer[output->length++] = character;
}

static void output_text(struct output *output, const char *text)
{
    while (*text != '\0')
        output_character(output, *text++);
}

static void output_number(struct output *output, uint64_t value, unsigned base, unsigned width, char fill)
{
    char digits[24];
    unsigned count = 0;
    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0);
    while (width > count) {
        output_character(output, fill);
        width--;
    }
    while (count > 0)
        output_character(output, digits[--count]);
}

size_t print_format_list(char *buffer, size_t size, const char *format, va_list arguments)
{
    struct output output = {buffer, size, 0};
    for (; *format != '\0'; format++) {
        if (*format != '%') {
            output_character(&output, *format);
            continue;
        }
        format++;
        char fill = *format == '0' ? '0' : ' ';
        unsigned width = 0;
        while (*format >= '0' && *format <= '9')
            width = width * 10 + (unsigned)(*format++ - '0');
        bool is_long = false;
        while (*format == 'l' || *format == 'z') {
            is_long = true;
            format++;
        }
        switch (*format) {
        case 's':
            output_text(&output, va_arg(arguments, const char *));
            break;
        case 'c':
            output_character(&output, (char)va_arg(arguments, int));
            break;
        case 'd': {
            int64_t value = is_long ? va_arg(arguments, int64_t) : va_arg(arguments, int);
            if (value < 0)
                output_character(&output, '-');
            output_number(&output, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, 10, width, fill);
            break;
        }
        case 'u':
        case 'x': {
            uint64_t value = is_long ? va_arg(arguments, uint64_t) : va_arg(arguments, unsigned);
            output_number(&output, value, *format == 'x' ? 16 : 10, width, fill);
            break;
        }
        default:
            output_character(&output, *format);
        }
    }
    if (size > 0)
        buffer[output.length] = '\0';
    return output.length;
}

size_t print_format(char *buffer, size_t size, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t length = print_format_list(buffer, size, format, arguments);
    va_end(arguments);
    return length;
}
