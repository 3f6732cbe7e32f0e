// SPDX-License-Identifier: MIT
#include "log.h"

#include "print.h"
#include "spinlock.h"
#include "string.h"

#include <silicon/x86.h>

#define COM1 0x3f8
#define COM2 0x2f8

#define UART_DATA         0 // also the divisor's low byte
#define UART_INTERRUPTS   1 // also the divisor's high byte
#define UART_FIFO         2
#define UART_LINE_CONTROL 3
#define UART_MODEM        4
#define UART_LINE_STATUS  5
#define DIVISOR_LATCH     0x80
#define EIGHT_N_ONE       0x03
#define TRANSMITTER_READY 0x20
#define TRANSMITTER_EMPTY 0x40

#define RING_SIZE 32768

static uint16_t port = COM2;
static struct spinlock lock;
static bool lock_broken;

// The magic lets a reader of a memory dump find it.
static struct {
    char magic[16];
    uint64_t written; // characters since the start; the next one goes to text[written % RING_SIZE]
    char text[RING_SIZE];
} ring = {.magic = "PLASTRON LOG v1"};

void log_init(void)
{
    if (port == 0)
        return;
    x86_out8(port + UART_INTERRUPTS, 0);
    x86_out8(port + UART_LINE_CONTROL, DIVISOR_LATCH);
    x86_out8(port + UART_DATA, 1); // 115200 baud
    x86_out8(port + UART_INTERRUPTS, 0);
    x86_out8(port + UART_LINE_CONTROL, EIGHT_N_ONE);
    x86_out8(port + UART_FIFO, 0x07);
    x86_out8(port + UART_MODEM, 0x03);
}

uint16_t log_port(void)
{
    return port;
}

int log_select(const char *name)
{
    if (string_starts_with(name, "com1"))
        port = COM1;
    else if (string_starts_with(name, "com2"))
        port = COM2;
    else if (string_starts_with(name, "none"))
        port = 0;
    else
        return 0;
    log_init();
    return 1;
}

// Bounded, for a port that is not there or does not drain.
static void wait_for(uint8_t status)
{
    for (unsigned tries = 0; tries < 100000; tries++)
        if ((x86_in8(port + UART_LINE_STATUS) & status) != 0)
            break;
}

static void write_character(char character)
{
    ring.text[ring.written++ % RING_SIZE] = character;
    if (port == 0)
        return;
    wait_for(TRANSMITTER_READY);
    x86_out8(port + UART_DATA, (uint8_t)character);
}

static void write_text(const char *text)
{
    while (*text != '\0')
        write_character(*text++);
}

void log_line(const char *format, ...)
{
    char line[320];
    va_list arguments;
    va_start(arguments, format);
    print_format_list(line, sizeof(line), format, arguments);
    va_end(arguments);

    if (!lock_broken)
        spinlock_acquire(&lock);
    write_text("plastron: ");
    write_text(line);
    write_character('\n');
    if (!lock_broken)
        spinlock_release(&lock);
}

void log_flush(void)
{
    if (port != 0)
        wait_for(TRANSMITTER_EMPTY);
}

void log_break_lock(void)
{
    lock_broken = true;
}
