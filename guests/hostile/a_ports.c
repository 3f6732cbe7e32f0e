// SPDX-License-Identifier: MIT
// Ports that L0 watches, written to in every width. What would end the machine is swallowed by L0, and not
// tried without.
#include "console.h"
#include "hostile.h"
#include "machine.h"
#include "x86.h"

#define PM1_CONTROL 0xb004u /* of the emulated chip set */
#define SLEEP_S3    0x2400u /* SLP_TYP 1, SLP_EN */
#define LOG_PORTS   0x2f8u
#define PCI_ADDRESS 0xcf8u
#define PCI_ID      0x80000000u

static struct probe io(struct cpu *cpu, const char *code, uint32_t size, uint32_t port, uint64_t value)
{
    struct probe probe = {.code = code, .size = size};
    probe.gpr[GPR_RDX] = port;
    probe.gpr[GPR_RAX] = value;
    probe_run(cpu, &probe);
    return probe;
}

static void out8(struct cpu *cpu, const char *name, uint32_t port, uint64_t value)
{
    struct probe probe = io(cpu, "\xee", 1, port, value);
    outcome_should(cpu, name, &probe, PROBE_RAN, 0);
}

static void out16(struct cpu *cpu, const char *name, uint32_t port, uint64_t value)
{
    struct probe probe = io(cpu, "\x66\xef", 2, port, value);
    outcome_should(cpu, name, &probe, PROBE_RAN, 0);
}

static void out32(struct cpu *cpu, const char *name, uint32_t port, uint64_t value)
{
    struct probe probe = io(cpu, "\xef", 1, port, value);
    outcome_should(cpu, name, &probe, PROBE_RAN, 0);
}

static uint32_t in32(struct cpu *cpu, uint32_t port)
{
    return (uint32_t)io(cpu, "\xed", 1, port, 0).gpr[GPR_RAX];
}

// Firmware would start L1 without L0. Bare, the emulated machine resets.
static void try_sleep(struct cpu *cpu)
{
    if (hostile_bare()) {
        outcome_text(cpu, "S3, 16 bits", "runs");
        outcome_text(cpu, "S3, 32 bits", "runs");
        outcome_text(cpu, "S3, the type and then the enable bit", "runs");
        outcome_text(cpu, "S3, OUTS", "runs");
        return;
    }
    out16(cpu, "S3, 16 bits", PM1_CONTROL, SLEEP_S3);
    out32(cpu, "S3, 32 bits", PM1_CONTROL, SLEEP_S3);
    io(cpu, "\xee", 1, PM1_CONTROL + 1, 0x04);
    out8(cpu, "S3, the type and then the enable bit", PM1_CONTROL + 1, SLEEP_S3 >> 8);
    struct probe probe = {.code = "\x66\x6f", .size = 2};
    *(uint16_t *)window_memory(PAGE_KERNEL) = SLEEP_S3;
    probe.gpr[GPR_RDX] = PM1_CONTROL;
    probe.gpr[GPR_RSI] = PAGE_AT(PAGE_KERNEL);
    probe_run(cpu, &probe);
    outcome_should(cpu, "S3, OUTS", &probe, PROBE_RAN, 0);
}

static void try_pci(struct cpu *cpu)
{
    out32(cpu, "PCI address, 32 bits", PCI_ADDRESS, PCI_ID);
    outcome_number(cpu, "it reads", in32(cpu, PCI_ADDRESS), PCI_ID);
    outcome_number(cpu, "the vendor behind it", in32(cpu, PCI_ADDRESS + 4) & 0xffff, 0x8086);
    out8(cpu, "0xcf9, no reset", PCI_ADDRESS + 1, 0x02);
    out8(cpu, "0xcf9, zero", PCI_ADDRESS + 1, 0x00);
    out16(cpu, "0xcf8, 16 bits", PCI_ADDRESS, 0);
    out16(cpu, "0xcfa, 16 bits", PCI_ADDRESS + 2, 0);
    io(cpu, "\x66\xed", 2, PCI_ADDRESS + 1, 0);
    io(cpu, "\xec", 1, PCI_ADDRESS + 1, 0);
    out32(cpu, "PCI address again", PCI_ADDRESS, PCI_ID);
    outcome_number(cpu, "it reads", in32(cpu, PCI_ADDRESS), PCI_ID);
}

static void try_log_ports(struct cpu *cpu)
{
    for (uint32_t port = LOG_PORTS - 3; port < LOG_PORTS + 10; port++) {
        if (port == LOG_PORTS + 8 || port == LOG_PORTS + 9)
            continue;
        console_print(cpu, "  port %x", port);
        out8(cpu, ", 8 bits", port, 0);
        console_print(cpu, "  port %x", port);
        out16(cpu, ", 16 bits", port, 0);
        console_print(cpu, "  port %x", port);
        out32(cpu, ", 32 bits", port, 0);
        in32(cpu, port);
    }
}

void attack_ports(struct cpu *cpu)
{
    try_sleep(cpu);
    try_pci(cpu);
    try_log_ports(cpu);
    out8(cpu, "keyboard controller, pulse nothing", 0x64, 0xff);
    out8(cpu, "keyboard controller, pulse others", 0x64, 0xf1);
    out16(cpu, "keyboard controller, 16 bits", 0x64, 0x00ae);
    out8(cpu, "port 0x92, A20", 0x92, 0x02);
    out16(cpu, "port 0x91, 16 bits", 0x91, 0x0200);
    struct probe probe = io(cpu, "\xed", 1, 0xffff, 0); // wraps beyond the last port
    outcome_should(cpu, "IN of 32 bits at port 0xffff", &probe, PROBE_RAN, 0);
    probe = io(cpu, "\xef", 1, 0xffff, 0);
    outcome_should(cpu, "OUT of 32 bits at port 0xffff", &probe, PROBE_RAN, 0);
}
