// SPDX-License-Identifier: MIT
// Manual: Multiple-Processor (MP) Initialization, the INIT-SIPI-SIPI sequence.
#include "smp.h"

#include "apic.h"
#include "delay.h"
#include "direct_map.h"
#include "print.h"
#include "relocate.h"
#include "string.h"

#include <nvmx/controls.h>
#include <silicon/x86.h>

#define LOW_MEMORY_END 0xa0000
#define PATIENCE_MS    1000

struct trampoline_parameters { // trampoline.S
    uint64_t stack, cpu, entry;
    uint32_t cr3, efer;
    uint32_t far_offset;
    uint16_t far_selector;
    uint16_t gdt_limit;
    uint32_t gdt_base;
} __attribute__((packed));

extern const uint8_t trampoline_start[], trampoline_parameters[], trampoline_end[];

static bool wait_until_running(struct cpu *cpu)
{
    for (unsigned waited = 0; waited < PATIENCE_MS * 10; waited++) {
        if (__atomic_load_n(&cpu->running, __ATOMIC_ACQUIRE))
            return true;
        delay_microseconds(100);
    }
    return false;
}

static bool start_one(struct cpu *cpu, uint64_t page)
{
    apic_send_init(cpu->apic_id);
    delay_microseconds(10000);
    apic_send_startup(cpu->apic_id, (uint8_t)(page >> PAGE_SHIFT));
    delay_microseconds(200);
    if (!__atomic_load_n(&cpu->running, __ATOMIC_ACQUIRE))
        apic_send_startup(cpu->apic_id, (uint8_t)(page >> PAGE_SHIFT));
    return wait_until_running(cpu);
}

const char *smp_start_all(const struct memory_map *map, const struct memory_range *taken,
                          uint32_t taken_count, void (*entry)(struct cpu *cpu))
{
    static uint8_t saved[PAGE_SIZE];
    static char problem[80];
    if (cpu_count == 1)
        return NULL;
    uint64_t page = memory_map_find(map, PAGE_SIZE, PAGE_SIZE, LOW_MEMORY_END, taken, taken_count);
    if (page == 0)
        return "no free page below 640 KiB to start processors with";

    memcpy(saved, direct_map(page), PAGE_SIZE);
    memcpy(direct_map(page), trampoline_start, (size_t)(trampoline_end - trampoline_start));
    struct trampoline_parameters *parameters =
        direct_map(page + (uint64_t)(trampoline_parameters - trampoline_start));
    parameters->entry = (uint64_t)entry;
    parameters->cr3 = (uint32_t)relocate_trampoline_cr3(page);
    parameters->efer = (uint32_t)(x86_rdmsr(MSR_IA32_EFER) & (EFER_LME | EFER_NXE));
    parameters->far_offset += (uint32_t)page;
    parameters->gdt_base += (uint32_t)page;

    const struct cpu *self = cpu_this();
    bool all = true;
    for (uint32_t i = 0; i < cpu_count && all; i++) {
        if (cpu_list[i] == self)
            continue;
        parameters->stack = (uint64_t)cpu_list[i]->stack_top;
        parameters->cpu = (uint64_t)cpu_list[i];
        all = start_one(cpu_list[i], page);
        if (!all)
            print_format(problem, sizeof(problem), "the processor with APIC ID %u did not start",
                         cpu_list[i]->apic_id);
    }
    memcpy(direct_map(page), saved, PAGE_SIZE); // L1 gets all of its low memory as the firmware left it
    return all ? NULL : problem;
}
