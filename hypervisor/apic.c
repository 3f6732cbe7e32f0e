// SPDX-License-Identifier: MIT
// Manual: chapter Advanced Programmable Interrupt Controller (APIC).
#include "apic.h"

#include "cpu.h"
#include "direct_map.h"
#include "relocate.h"

#include <nvmx/controls.h>
#include <silicon/x86.h>

#define X2APIC_MSR(offset) (APIC_X2APIC_FIRST + (offset) / 16)
#define LVT_MASKED         (1u << 16)
#define SVR_ENABLE         (1u << 8)
#define PRIORITY_CLASS     0xf0u

static uint64_t base_msr(void)
{
    return x86_rdmsr(MSR_IA32_APIC_BASE);
}

static bool is_x2apic(void)
{
    return (base_msr() & APIC_BASE_X2APIC) != 0;
}

// L1 may move the registers to any page, so each processor has a window that follows. Before the bootstrap
// processor has one, nobody has moved them, and no other processor runs.
static bool windows_are_used;

static volatile uint32_t *xapic_register(uint32_t offset)
{
    if (windows_are_used)
        return (volatile uint32_t *)(relocate_apic_window(cpu_this()->index) + offset);
    return direct_map((base_msr() & APIC_BASE_ADDRESS) + offset);
}

void apic_follow(uint32_t cpu_index)
{
    relocate_apic_window_map(cpu_index, base_msr() & APIC_BASE_ADDRESS);
    windows_are_used = true;
}

uint32_t apic_read(uint32_t offset)
{
    return is_x2apic() ? (uint32_t)x86_rdmsr(X2APIC_MSR(offset)) : *xapic_register(offset);
}

void apic_write(uint32_t offset, uint32_t value)
{
    if (is_x2apic())
        x86_wrmsr(X2APIC_MSR(offset), value);
    else
        *xapic_register(offset) = value;
}

static void wait_until_sent(void)
{
    for (unsigned tries = 0; tries < 1000000 && (*xapic_register(APIC_ICR) & ICR_PENDING) != 0; tries++)
        x86_pause();
}

void apic_send(uint32_t destination, uint32_t command)
{
    if (is_x2apic()) {
        x86_wrmsr(X2APIC_MSR(APIC_ICR), (uint64_t)destination << 32 | command);
        return;
    }
    wait_until_sent();
    *xapic_register(APIC_ICR_HIGH) = destination << 24;
    *xapic_register(APIC_ICR) = command;
}

void apic_enable(void)
{
    uint64_t base = base_msr();
    if ((base & APIC_BASE_ENABLE) == 0)
        x86_wrmsr(MSR_IA32_APIC_BASE, base | APIC_BASE_ENABLE);
}

uint32_t apic_id(void)
{
    uint32_t id = apic_read(APIC_ID);
    return is_x2apic() ? id : id >> 24;
}

// Of what 8259s send past the local APIC it knows nothing.
bool apic_interrupt_is_due(void)
{
    if ((base_msr() & APIC_BASE_ENABLE) == 0 || (apic_read(APIC_SVR) & SVR_ENABLE) == 0)
        return false;
    uint32_t running = apic_read(APIC_PPR) & PRIORITY_CLASS;
    for (uint32_t word = 8; word-- > 0;) {
        uint32_t requested = apic_read(APIC_IRR + word * 0x10);
        if (requested != 0)
            return ((word * 32 + 31 - (uint32_t)__builtin_clz(requested)) & PRIORITY_CLASS) > running;
    }
    return false;
}

void apic_send_init(uint32_t destination)
{
    apic_send(destination, ICR_INIT | ICR_ASSERT);
}

void apic_send_startup(uint32_t destination, uint8_t vector)
{
    apic_send(destination, ICR_STARTUP | ICR_ASSERT | vector);
}

void apic_send_init_to_others(void)
{
    apic_send(0, ICR_INIT | ICR_ASSERT | ICR_ALL_BUT_SELF);
}

void apic_reset(void)
{
    for (uint32_t lvt = APIC_LVT_TIMER; lvt <= APIC_LVT_ERROR; lvt += 0x10)
        apic_write(lvt, LVT_MASKED);
    apic_write(APIC_INITIAL_COUNT, 0);
    apic_write(APIC_DIVIDE, 0);
    apic_write(APIC_TPR, 0);
    if (!is_x2apic()) {
        apic_write(APIC_LDR, 0); // in x2APIC mode it follows from the ID, and there is no DFR
        apic_write(APIC_DFR, ~0u);
    }
    apic_write(APIC_SVR, 0xff);
}
