// SPDX-License-Identifier: MIT
#include "first32.h"

#define COM1         0x3f8
#define LINE_STATUS  (COM1 + 5)
#define CAN_TRANSMIT 0x20
#define ALL_SENT     0x40

uint32_t fact_count, wrong_count;

static void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

void console_init(void)
{
    out8(COM1 + 1, 0);
    out8(COM1 + 3, 0x80);
    out8(COM1, 1); // 115200 baud
    out8(COM1 + 1, 0);
    out8(COM1 + 3, 3);
    out8(COM1 + 2, 0xc7);
    out8(COM1 + 4, 3);
    out8(0x21, 0xff); // no interrupts from the BIOS's time
    out8(0xa1, 0xff);
}

void console_print(const char *text)
{
    for (; *text; text++) {
        while (!(in8(LINE_STATUS) & CAN_TRANSMIT))
            ;
        out8(COM1, (uint8_t)*text);
    }
}

void console_print_number(uint32_t value, uint32_t base)
{
    char digits[11] = {0};
    uint32_t at = 10;
    do
        digits[--at] = "0123456789abcdef"[value % base];
    while (value /= base);
    console_print(digits + at);
}

void console_stop(void)
{
    while (!(in8(LINE_STATUS) & ALL_SENT))
        ;
    for (const char *at = "Shutdown"; *at; at++)
        out8(0x8900, (uint8_t)*at);
    for (;;)
        __asm__ volatile("cli; hlt");
}

void fact(const char *name, uint32_t value, uint32_t expected)
{
    fact_count++;
    console_print("  ");
    console_print(name);
    console_print(": ");
    console_print_number(value, 16);
    if (value != expected) {
        wrong_count++;
        console_print("  WRONG, should be ");
        console_print_number(expected, 16);
    }
    console_print("\n");
}
