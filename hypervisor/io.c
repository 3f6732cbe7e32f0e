// SPDX-License-Identifier: MIT
#include "io.h"

#include "direct_map.h"
#include "log.h"
#include "quirks.h"
#include "reserve.h"
#include "stop.h"

#include <silicon/x86.h>

#define PORT_KEYBOARD_COMMAND   0x64
#define KEYBOARD_PULSE          0xf0 // pulse output lines; line 0, active low, is the processor's reset
#define KEYBOARD_PULSE_NO_RESET 0x01
#define PORT_SYSTEM_CONTROL     0x92
#define SYSTEM_CONTROL_RESET    0x01
#define PORT_RESET_CONTROL      0xcf9
#define RESET_CONTROL_RESET     0x04

// Exit Qualification for I/O Instructions
#define QUALIFICATION_SIZE(q) (((uint32_t)(q)&7) + 1)
#define QUALIFICATION_IN      (1u << 3)
#define QUALIFICATION_STRING  (1u << 4)
#define QUALIFICATION_PORT(q) ((uint16_t)((q) >> 16))

static l0pa_t bitmap_a, bitmap_b; // ports 0 to 7fff, 8000 to ffff: contiguous pages
static struct acpi_sleep sleep;

void io_set_acpi(const struct acpi_info *acpi)
{
    sleep = acpi->sleep;
}

static void intercept(uint16_t first, unsigned count)
{
    uint8_t *bits = direct_map(bitmap_a.value);
    for (uint32_t port = first; port < (uint32_t)first + count; port++)
        bits[port / 8] |= (uint8_t)(1u << port % 8);
}

void io_init(void)
{
    bitmap_a = reserve_allocate_pages(2);
    bitmap_b = l0pa(bitmap_a.value + PAGE_SIZE);
    if (log_port() != 0)
        intercept(log_port(), LOG_PORT_COUNT);
    for (uint32_t i = 0; i < sleep.port_count; i++)
        intercept(sleep.at[i].port, 1);
    if (sleep.reset_port != 0)
        intercept(sleep.reset_port, 1);
    intercept(PORT_KEYBOARD_COMMAND, 1);
    intercept(PORT_SYSTEM_CONTROL, 1);
    intercept(PORT_RESET_CONTROL, 1);
    if (quirks.shutdown_port)
        intercept(QUIRKS_SHUTDOWN_PORT, 1);
}

l0pa_t io_bitmap_a(void)
{
    return bitmap_a;
}

l0pa_t io_bitmap_b(void)
{
    return bitmap_b;
}

static bool is_log_port(uint32_t port)
{
    return log_port() != 0 && port >= log_port() && port < (uint32_t)log_port() + LOG_PORT_COUNT;
}

static void watch_shutdown_port(uint8_t value)
{
    static const char text[] = "Shutdown";
    static unsigned matched;
    matched = value == (uint8_t)text[matched] ? matched + 1 : value == (uint8_t)text[0] ? 1 : 0;
    if (matched < sizeof(text) - 1)
        return;
    matched = 0;
    stop_report("L1 ended the machine");
}

// L1's system was told of no such state: it knows of it from elsewhere, or tries.
static void refuse_sleep(unsigned state, uint8_t value)
{
    static bool logged[ACPI_SLEEP_STATES];
    if (__atomic_exchange_n(&logged[state], true, __ATOMIC_RELAXED))
        return;
    if (state == 0)
        log_line("L1 asked for a sleep state that ACPI does not define (SLP_TYP %u): ignored",
                 ACPI_SLP_TYP(value));
    else
        log_line("L1 asked for the sleep state S%u, which it does not have: ignored", state);
}

// A byte on its way to the part of a sleep register that starts a sleep state; without SLP_EN it starts none.
static uint8_t filter_sleep(unsigned block, uint8_t value)
{
    if ((value & ACPI_SLP_EN) == 0)
        return value;
    unsigned state = acpi_sleep_state(&sleep, block, ACPI_SLP_TYP(value));
    if (state == 5)
        stop_report("L1 powered off");
    else if (state == 4)
        stop_report("L1 powered off (S4, suspended to disk)");
    else
        refuse_sleep(state, value);
    return state >= 4 ? value : (uint8_t)(value & ~ACPI_SLP_EN);
}

// A byte on its way to a port: does it end the machine? What is to be written.
static uint8_t watch(uint16_t port, uint8_t value)
{
    if (port == PORT_KEYBOARD_COMMAND && (value & KEYBOARD_PULSE) == KEYBOARD_PULSE &&
        (value & KEYBOARD_PULSE_NO_RESET) == 0)
        stop_report("L1 reset the machine (keyboard controller)");
    if (port == PORT_SYSTEM_CONTROL && (value & SYSTEM_CONTROL_RESET) != 0)
        stop_report("L1 reset the machine (port 0x92)");
    for (uint32_t i = 0; i < sleep.port_count; i++)
        if (port == sleep.at[i].port)
            value = filter_sleep(sleep.at[i].block, value);
    if (quirks.shutdown_port && port == QUIRKS_SHUTDOWN_PORT)
        watch_shutdown_port(value);
    return value;
}

// Ports of which only a byte of its own means a reset: a wider access at 0xcf8 is one to the PCI
// configuration address register.
static void watch_reset(uint16_t port, uint8_t value)
{
    if (port == PORT_RESET_CONTROL && (value & RESET_CONTROL_RESET) != 0)
        stop_report("L1 reset the machine (port 0xcf9)");
    else if (sleep.reset_port != 0 && port == sleep.reset_port && value == sleep.reset_value)
        stop_report("L1 reset the machine (ACPI)");
}

static uint32_t read_port(uint16_t port, uint32_t size)
{
    return size == 1 ? x86_in8(port) : size == 2 ? x86_in16(port) : x86_in32(port);
}

static void write_port(uint16_t port, uint32_t size, uint32_t value)
{
    if (size == 1)
        x86_out8(port, (uint8_t)value);
    else if (size == 2)
        x86_out16(port, (uint16_t)value);
    else
        x86_out32(port, value);
}

static bool touches_log_port(uint16_t port, uint32_t size)
{
    return is_log_port(port) || is_log_port((uint32_t)port + size - 1);
}

static uint32_t read_for_l1(uint16_t port, uint32_t size)
{
    if (!touches_log_port(port, size))
        return read_port(port, size);
    uint32_t value = 0;
    for (uint32_t i = 0; i < size; i++)
        value |= (is_log_port(port + i) ? 0xff : read_port((uint16_t)(port + i), 1)) << 8 * i;
    return value;
}

static void write_for_l1(uint16_t port, uint32_t size, uint32_t value)
{
    if (size == 1)
        watch_reset(port, (uint8_t)value);
    for (uint32_t i = 0; i < size; i++) {
        uint8_t byte = watch((uint16_t)(port + i), (uint8_t)(value >> 8 * i));
        value = (value & ~(0xffu << 8 * i)) | (uint32_t)byte << 8 * i;
    }
    if (!touches_log_port(port, size)) {
        write_port(port, size, value);
        return;
    }
    for (uint32_t i = 0; i < size; i++)
        if (!is_log_port(port + i))
            write_port((uint16_t)(port + i), 1, (uint8_t)(value >> 8 * i));
}

static uint64_t merge(uint64_t old, uint64_t value, uint32_t size)
{
    switch (size) {
    case 1:
        return (old & ~0xffull) | (value & 0xff);
    case 2:
        return (old & ~0xffffull) | (value & 0xffff);
    case 4:
        return (uint32_t)value; // a 32-bit result clears the upper half
    default:
        return value;
    }
}

// One element of INS or OUTS. L0's ports in L2's hands: nothing is transferred.
static void handle_string(struct nvmx_vcpu *nvmx)
{
    struct nvmx_string string;
    if (!nvmx_string_begin(nvmx, &string))
        return;
    if (string.has_memory && string.in)
        nvmx_string_write(nvmx, &string, read_for_l1(string.port, string.size));
    else if (string.has_memory)
        write_for_l1(string.port, string.size, nvmx_string_read(nvmx, &string));
    nvmx_string_end(nvmx, &string);
}

void io_handle_exit(struct vcpu *vcpu)
{
    uint64_t qualification = vcpu->nvmx.exit.qualification;
    uint16_t port = QUALIFICATION_PORT(qualification);
    uint32_t size = QUALIFICATION_SIZE(qualification);
    bool in = (qualification & QUALIFICATION_IN) != 0;
    uint64_t *rax = &vcpu->nvmx.regs.gpr[GPR_RAX];
    if ((qualification & QUALIFICATION_STRING) != 0) {
        handle_string(&vcpu->nvmx);
        return;
    }
    if (in) {
        *rax = merge(*rax, read_for_l1(port, size), size);
    } else {
        write_for_l1(port, size, (uint32_t)*rax);
    }
    nvmx_skip_instruction(&vcpu->nvmx);
}
