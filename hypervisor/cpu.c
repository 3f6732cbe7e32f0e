// SPDX-License-Identifier: MIT
#include "cpu.h"

#include "acpi.h"
#include "boot.h"
#include "exceptions.h"
#include "reserve.h"

#include <nvmx/controls.h>
#include <nvmx/types.h>
#include <silicon/x86.h>

#define EXCEPTION_STACK_SIZE 8192

#define GDT_CODE64 0x00af9b000000ffffull
#define GDT_DATA   0x00cf93000000ffffull

#define CPUID_1_ECX_XSAVE (1u << 26)
#define CPUID_1_EDX_MCE   (1u << 7)

struct cpu *cpu_list[ACPI_CPU_MAX];
uint32_t cpu_count;

uint64_t cpu_memory_size(void)
{
    return sizeof(struct cpu) + 2 * PAGE_SIZE + CPU_STACK_SIZE + CPU_EXCEPTION_STACKS * EXCEPTION_STACK_SIZE;
}

struct cpu *cpu_create(uint32_t apic_id)
{
    struct cpu *cpu = reserve_allocate(sizeof(*cpu));
    cpu->self = cpu;
    cpu->index = cpu_count;
    cpu->apic_id = apic_id;
    cpu->stack_top = (uint8_t *)reserve_allocate(CPU_STACK_SIZE) + CPU_STACK_SIZE;
    for (unsigned i = 0; i < CPU_EXCEPTION_STACKS; i++)
        cpu->tss.ist[i] = (uint64_t)reserve_allocate(EXCEPTION_STACK_SIZE) + EXCEPTION_STACK_SIZE;
    cpu->tss.io_map_base = sizeof(cpu->tss);

    uint64_t base = (uint64_t)&cpu->tss;
    cpu->gdt[SELECTOR_CODE / 8] = GDT_CODE64;
    cpu->gdt[SELECTOR_DATA / 8] = GDT_DATA;
    cpu->gdt[SELECTOR_TSS / 8] =
        (sizeof(cpu->tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    cpu->gdt[SELECTOR_TSS / 8 + 1] = base >> 32;
    cpu->vmxon_region = reserve_allocate_pages(1);
    nvmx_cpu_init(&cpu->nvmx, &cpu->hw);
    cpu_list[cpu_count++] = cpu;
    return cpu;
}

void cpu_init(struct cpu *cpu)
{
    const struct x86_table_register gdtr = {.limit = sizeof(cpu->gdt) - 1, .base = (uint64_t)cpu->gdt};
    x86_lgdt(&gdtr);
    x86_load_cs(SELECTOR_CODE);
    x86_load_data_segments(SELECTOR_DATA);
    x86_lldt(0);
    x86_ltr(SELECTOR_TSS);
    exceptions_init();
    x86_wrmsr(MSR_FS_BASE, 0);
    x86_wrmsr(MSR_GS_BASE, (uint64_t)cpu);

    // L0 executes XSETBV for L1, and nothing else that XSAVE stands for.
    uint64_t cr4 = CR4_PAE;
    if ((x86_cpuid(1, 0).ecx & CPUID_1_ECX_XSAVE) != 0)
        cr4 |= CR4_OSXSAVE;
    if ((x86_cpuid(1, 0).edx & CPUID_1_EDX_MCE) != 0)
        cr4 |= CR4_MCE; // a machine check that finds it clear shuts the platform down
    x86_write_cr4(cr4);
    x86_write_cr0(CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG);
}

struct cpu *cpu_this(void)
{
    return (struct cpu *)x86_read_gs_0();
}

struct cpu *cpu_this_or_null(void)
{
    uint64_t gs_base = x86_rdmsr(MSR_GS_BASE);
    for (uint32_t i = 0; i < cpu_count; i++)
        if ((uint64_t)cpu_list[i] == gs_base)
            return cpu_list[i];
    return NULL;
}

struct cpu *cpu_of_hw(struct hw_cpu *hw)
{
    return (struct cpu *)((uint8_t *)hw - offsetof(struct cpu, hw));
}
