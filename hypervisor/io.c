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
#define PM1_SLEEP_ENABLE_HIGH   0x20 // SLP_EN, bit 13, in the register's second byte

// Exit Qualification for I/O Instructions
#define QUALIFICATION_SIZE(q) (((uint32_t)(q)&7) + 1)
#define QUALIFICATION_IN      (1u << 3)
#define QUALIFICATION_STRING  (1u << 4)
#define QUALIFICATION_REP     (1u << 5)
#define QUALIFICATION_PORT(q) ((uint16_t)((q) >> 16))

// VM-exit instruction information of INS and OUTS: bits 9:7 are the address size, 0 16-bit, 1 32-bit, 2
// 64-bit.
#define INFORMATION_ADDRESS_SIZE(i) ((i) >> 7 & 7)

static l0pa_t bitmap_a, bitmap_b; // ports 0 to 7fff, 8000 to ffff: contiguous pages
static uint16_t pm1_control[2];

void io_set_acpi(const struct acpi_info *acpi)
{
    pm1_control[0] = acpi->pm1a_control;
    pm1_control[1] = acpi->pm1b_control;
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
    for (unsigned i = 0; i < 2; i++)
        if (pm1_control[i] != 0)
            intercept(pm1_control[i], 2);
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

// A byte on its way to a port: does it end the machine?
static void watch(uint16_t port, uint8_t value)
{
    if (port == PORT_KEYBOARD_COMMAND && (value & KEYBOARD_PULSE) == KEYBOARD_PULSE &&
        (value & KEYBOARD_PULSE_NO_RESET) == 0)
        stop_report("L1 reset the machine (keyboard controller)");
    if (port == PORT_SYSTEM_CONTROL && (value & SYSTEM_CONTROL_RESET) != 0)
        stop_report("L1 reset the machine (port 0x92)");
    for (unsigned i = 0; i < 2; i++)
        if (pm1_control[i] != 0 && port == pm1_control[i] + 1 && (value & PM1_SLEEP_ENABLE_HIGH) != 0)
            stop_report("L1 powered off");
    if (quirks.shutdown_port && port == QUIRKS_SHUTDOWN_PORT)
        watch_shutdown_port(value);
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
    // A wider access that includes it is one to the PCI configuration address register at 0xcf8.
    if (port == PORT_RESET_CONTROL && size == 1 && (value & RESET_CONTROL_RESET) != 0)
        stop_report("L1 reset the machine (port 0xcf9)");
    for (uint32_t i = 0; i < size; i++)
        watch((uint16_t)(port + i), (uint8_t)(value >> 8 * i));
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

// One element of INS or OUTS. Without REP, or with the last one, the instruction is done; otherwise it is
// executed again for the next, as after an interrupt. false: an exception was raised in L1 instead.
static bool handle_string(struct vcpu *vcpu, uint16_t port, uint32_t size, bool in, bool rep)
{
    struct nvmx_vcpu *nvmx = &vcpu->nvmx;
    uint64_t *gpr = nvmx->regs.gpr;
    uint32_t address_size = 2u << INFORMATION_ADDRESS_SIZE(nvmx->exit.instruction_info);
    uint64_t linear = nvmx->exit.guest_linear_address;
    uint32_t value = 0;
    if (nvmx->in_l2) {
        // L0's ports in L2's hands, with memory behind L1's paging for L2: nothing is transferred.
    } else if (in) {
        value = read_for_l1(port, size);
        if (!nvmx_linear_write(nvmx, linear, &value, size))
            return false;
    } else {
        if (!nvmx_linear_read(nvmx, linear, &value, size))
            return false;
        write_for_l1(port, size, value);
    }

    uint32_t index = in ? GPR_RDI : GPR_RSI;
    uint64_t step = (nvmx_read(nvmx, F_GUEST_RFLAGS) & RFLAGS_DF) != 0 ? 0 - (uint64_t)size : size;
    gpr[index] = merge(gpr[index], gpr[index] + step, address_size);
    if (!rep)
        return true;
    gpr[GPR_RCX] = merge(gpr[GPR_RCX], gpr[GPR_RCX] - 1, address_size);
    return merge(0, gpr[GPR_RCX], address_size) == 0;
}

void io_handle_exit(struct vcpu *vcpu)
{
    uint64_t qualification = vcpu->nvmx.exit.qualification;
    uint16_t port = QUALIFICATION_PORT(qualification);
    uint32_t size = QUALIFICATION_SIZE(qualification);
    bool in = (qualification & QUALIFICATION_IN) != 0;
    uint64_t *rax = &vcpu->nvmx.regs.gpr[GPR_RAX];
    if ((qualification & QUALIFICATION_STRING) != 0) {
        if (!handle_string(vcpu, port, size, in, (qualification & QUALIFICATION_REP) != 0))
            return;
    } else if (in) {
        *rax = merge(*rax, read_for_l1(port, size), size);
    } else {
        write_for_l1(port, size, (uint32_t)*rax);
    }
    nvmx_skip_instruction(&vcpu->nvmx);
}
