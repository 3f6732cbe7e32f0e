// SPDX-License-Identifier: MIT
#include "console.h"
#include "x86.h"
#include <stdarg.h>

#define COM1          0x3f8
#define BLOCK_SIZE    0x20000u
#define LINE_STATUS   (COM1 + 5)
#define CAN_TRANSMIT  0x20
#define ALL_SENT      0x40
#define NUMBER_DIGITS 20

static char blocks[CPU_MAX][BLOCK_SIZE];

void console_init(void)
{
    x86_out8(COM1 + 1, 0);
    x86_out8(COM1 + 3, 0x80);
    x86_out8(COM1, 1); // 115200 baud
    x86_out8(COM1 + 1, 0);
    x86_out8(COM1 + 3, 3); // 8 bits, no parity, 1 stop bit
    x86_out8(COM1 + 2, 0xc7);
    x86_out8(COM1 + 4, 3);
    for (uint32_t i = 0; i < CPU_MAX; i++)
        cpu_get(i)->block.text = blocks[i];
}

static void console_send(char c)
{
    while (!(x86_in8(LINE_STATUS) & CAN_TRANSMIT))
        x86_pause();
    x86_out8(COM1, (uint8_t)c);
}

void console_flush(struct cpu *cpu)
{
    for (uint32_t i = 0; i < cpu->block.length; i++)
        console_send(cpu->block.text[i]);
    while (!(x86_in8(LINE_STATUS) & ALL_SENT))
        x86_pause();
    cpu->block.length = cpu->block.line = 0;
}

void console_drop_line(struct cpu *cpu)
{
    cpu->block.length = cpu->block.line;
}

static void console_put(struct cpu *cpu, char c)
{
    cpu->block.text[cpu->block.length++] = c;
    if (c == '\n')
        cpu->block.line = cpu->block.length;
    if (cpu->block.length == BLOCK_SIZE || (c == '\n' && cpu->block.immediate))
        console_flush(cpu);
}

struct conversion {
    bool left, zeros, wide;
    uint32_t width;
};

static void console_put_padded(struct cpu *cpu, const char *text, uint32_t length, struct conversion how)
{
    uint32_t padding = how.width > length ? how.width - length : 0;
    for (uint32_t i = 0; i < padding && !how.left; i++)
        console_put(cpu, how.zeros ? '0' : ' ');
    for (uint32_t i = 0; i < length; i++)
        console_put(cpu, text[i]);
    for (uint32_t i = 0; i < padding && how.left; i++)
        console_put(cpu, ' ');
}

static void console_put_number(struct cpu *cpu, uint64_t number, uint32_t base, struct conversion how)
{
    char digits[NUMBER_DIGITS];
    uint32_t at = NUMBER_DIGITS;
    do
        digits[--at] = "0123456789abcdef"[number % base];
    while (number /= base);
    console_put_padded(cpu, digits + at, NUMBER_DIGITS - at, how);
}

static void console_put_text(struct cpu *cpu, const char *text, struct conversion how)
{
    uint32_t length = 0;
    while (text[length])
        length++;
    console_put_padded(cpu, text, length, how);
}

static const char *console_parse(const char *format, struct conversion *how)
{
    *how = (struct conversion){0};
    for (; *format == '-' || *format == '0'; format++)
        *(*format == '-' ? &how->left : &how->zeros) = true;
    for (; *format >= '0' && *format <= '9'; format++)
        how->width = how->width * 10 + (uint32_t)(*format - '0');
    for (; *format == 'l'; format++)
        how->wide = true;
    return format;
}

void console_print(struct cpu *cpu, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    for (; *format; format++) {
        if (*format != '%') {
            console_put(cpu, *format);
            continue;
        }
        struct conversion how;
        format = console_parse(format + 1, &how);
        if (*format == 's')
            console_put_text(cpu, va_arg(arguments, const char *), how);
        else if (*format == 'c')
            console_put(cpu, (char)va_arg(arguments, int));
        else if (*format == 'u' || *format == 'x')
            console_put_number(cpu, how.wide ? va_arg(arguments, uint64_t) : va_arg(arguments, uint32_t),
                               *format == 'u' ? 10 : 16, how);
        else
            console_put(cpu, *format);
    }
    va_end(arguments);
}
