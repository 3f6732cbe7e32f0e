// SPDX-License-Identifier: MIT
#include "apic.h"
#include "machine.h"
#include "trap.h"
#include "x86.h"

#define APIC_REGISTER_ID       0x20
#define APIC_REGISTER_TPR      0x80
#define APIC_REGISTER_EOI      0xb0
#define APIC_REGISTER_SPURIOUS 0xf0
#define APIC_REGISTER_ISR      0x100
#define APIC_REGISTER_IRR      0x200
#define APIC_REGISTER_ICR      0x300
#define APIC_REGISTER_ICR_HIGH 0x310
#define APIC_ENABLED           0x1ff // spurious vector 255
#define APIC_DELIVERY_PENDING  (1u << 12)
#define MADT_FIRST_ENTRY       44
#define MADT_LOCAL_APIC        0
#define MADT_ENABLED           1u
#define START_ATTEMPTS         200u

struct acpi_header {
    char signature[4];
    uint32_t length;
    uint8_t rest[28];
};

static uint8_t stacks[CPU_MAX][CPU_STACK_SIZE] __attribute__((aligned(16)));
extern const uint8_t trampoline_start[], trampoline_end[];

// What start.S and processor_start find when an application processor comes up.
uint64_t processor_start_stack;
static uint32_t starting_index, starting_apic_id;
void processor_start(void);

static volatile uint32_t *apic_register(uint32_t offset)
{
    return (volatile uint32_t *)(APIC_BASE + offset);
}

void apic_enable(void)
{
    *apic_register(APIC_REGISTER_SPURIOUS) = APIC_ENABLED;
    *apic_register(APIC_REGISTER_TPR) = 0;
}

uint32_t apic_id(void)
{
    return *apic_register(APIC_REGISTER_ID) >> 24;
}

void apic_end_interrupt(void)
{
    *apic_register(APIC_REGISTER_EOI) = 0;
}

static bool apic_vector_bit(uint32_t array, uint32_t vector)
{
    return *apic_register(array + vector / 32 * 16) >> vector % 32 & 1;
}

bool apic_is_in_service(uint32_t vector)
{
    return apic_vector_bit(APIC_REGISTER_ISR, vector);
}

bool apic_is_requested(uint32_t vector)
{
    return apic_vector_bit(APIC_REGISTER_IRR, vector);
}

void apic_send(uint32_t destination, uint32_t command)
{
    *apic_register(APIC_REGISTER_ICR_HIGH) = destination << 24;
    *apic_register(APIC_REGISTER_ICR) = command;
    while (*apic_register(APIC_REGISTER_ICR) & APIC_DELIVERY_PENDING)
        x86_pause();
}

static bool acpi_is(const void *at, const char *signature, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++)
        if (((const char *)at)[i] != signature[i])
            return false;
    return true;
}

static const struct acpi_header *acpi_find_rsdt(void)
{
    for (uint64_t at = 0xe0000; at < 0x100000; at += 16)
        if (acpi_is((const void *)at, "RSD PTR ", 8))
            return (const struct acpi_header *)(uintptr_t) * (const uint32_t *)(at + 16);
    return NULL;
}

static const struct acpi_header *acpi_find_madt(void)
{
    const struct acpi_header *rsdt = acpi_find_rsdt();
    for (uint32_t at = sizeof(struct acpi_header); rsdt && at + 4 <= rsdt->length; at += 4) {
        const uint32_t *entry = (const uint32_t *)((const uint8_t *)rsdt + at);
        const struct acpi_header *table = (const struct acpi_header *)(uintptr_t)*entry;
        if (acpi_is(table->signature, "APIC", 4))
            return table;
    }
    return NULL;
}

// Idle: wait for a job by polling; nothing here may depend on interrupts, which tests send as they like.
void processor_start(void)
{
    struct cpu *cpu = cpu_get(starting_index);
    cpu_init(starting_index, starting_apic_id);
    apic_enable();
    cpu->recovery_rsp = 0;
    cpu->job = NULL;
    cpu->online = true;
    for (;;) {
        while (!cpu->job)
            x86_pause();
        cpu->job(cpu);
        cpu->job = NULL;
    }
}

bool apic_start_processor(struct cpu *cpu)
{
    uint64_t page = machine_low_page();
    if (!page)
        return false;
    for (const uint8_t *from = trampoline_start; from < trampoline_end; from++)
        ((volatile uint8_t *)page)[from - trampoline_start] = *from;
    starting_index = cpu->index;
    starting_apic_id = cpu->apic_id;
    processor_start_stack = cpu_physical(stacks[cpu->index] + CPU_STACK_SIZE);
    cpu->online = false;
    apic_send(cpu->apic_id, APIC_INIT);
    machine_wait_10_ms();
    for (uint32_t i = 0; i < START_ATTEMPTS && !cpu->online; i++) {
        if (i < 2)
            apic_send(cpu->apic_id, APIC_STARTUP | (uint32_t)(page >> PAGE_SHIFT));
        machine_wait_10_ms();
    }
    return cpu->online;
}

uint32_t apic_find_processors(void)
{
    uint32_t count = 1;
    cpu_init(0, apic_id());
    apic_enable();
    const struct acpi_header *madt = acpi_find_madt();
    const uint8_t *end = (const uint8_t *)madt + (madt ? madt->length : 0);
    for (const uint8_t *entry = (const uint8_t *)madt + MADT_FIRST_ENTRY;
         madt && entry + 2 <= end && entry[1]; entry += entry[1]) {
        if (entry[0] != MADT_LOCAL_APIC || !(entry[4] & MADT_ENABLED) || entry[3] == apic_id() ||
            count == CPU_MAX)
            continue;
        struct cpu *cpu = cpu_get(count);
        cpu->index = count++;
        cpu->apic_id = entry[3];
    }
    return count;
}

void apic_start_others(uint32_t count)
{
    for (uint32_t i = 1; i < count; i++)
        if (!apic_start_processor(cpu_get(i)))
            trap_panic("an application processor does not start");
}

void apic_run_on(struct cpu *cpu, void (*job)(struct cpu *))
{
    cpu->job = job;
}

void apic_wait_for(struct cpu *cpu)
{
    while (cpu->job)
        x86_pause();
}
