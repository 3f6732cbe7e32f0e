// SPDX-License-Identifier: MIT
#include "cpu.h"
#include "trap.h"
#include "x86.h"

static struct cpu cpus[CPU_MAX];
static uint8_t arenas[CPU_MAX][CPU_ARENA_PAGES * PAGE_SIZE]
    __attribute__((aligned(4096), section(".bss.pages")));

struct cpu *cpu_get(uint32_t index)
{
    return &cpus[index];
}

static void cpu_load_gdt(struct cpu *cpu)
{
    uint64_t tss = cpu_physical(&cpu->tss);
    const uint64_t gdt[GDT_ENTRIES] = {
        [SELECTOR_CODE64 / 8] = 0x00af9b000000ffff,
        [SELECTOR_DATA / 8] = 0x00cf93000000ffff,
        [SELECTOR_CODE32 / 8] = 0x00cf9b000000ffff,
        [SELECTOR_USER32 / 8] = 0x00cffb000000ffff,
        [SELECTOR_USERDATA / 8] = 0x00cff3000000ffff,
        [SELECTOR_USER64 / 8] = 0x00affb000000ffff,
        [SELECTOR_TSS / 8] =
            (sizeof(struct cpu_tss) - 1) | (tss & 0xffffff) << 16 | 0x89ull << 40 | (tss >> 24 & 0xff) << 56,
        [SELECTOR_TSS / 8 + 1] = tss >> 32,
    };
    for (uint32_t i = 0; i < GDT_ENTRIES; i++)
        cpu->gdt[i] = gdt[i];
    cpu->tss.rsp[0] = cpu_physical(cpu->trap_stack + sizeof(cpu->trap_stack));
    cpu->tss.io_map_base = sizeof(struct cpu_tss);
    x86_lgdt((struct x86_table_pointer){sizeof(cpu->gdt) - 1, cpu_physical(cpu->gdt)});
    __asm__ volatile("pushq %0; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:\n"
                     "mov %1, %%ds; mov %1, %%es; mov %1, %%ss; mov %1, %%fs; mov %1, %%gs"
                     :
                     : "i"(SELECTOR_CODE64), "r"(SELECTOR_DATA)
                     : "rax", "memory");
    x86_lldt(0);
    x86_ltr(SELECTOR_TSS);
}

void cpu_init(uint32_t index, uint32_t apic_id)
{
    struct cpu *cpu = &cpus[index];
    cpu->self = cpu;
    cpu->index = index;
    cpu->apic_id = apic_id;
    cpu->arena = arenas[index];
    cpu_load_gdt(cpu);
    x86_wrmsr(MSR_GS_BASE, cpu_physical(cpu));
    trap_load_idt();
}

void *cpu_allocate_pages(struct cpu *cpu, uint32_t count)
{
    uint64_t *pages = (uint64_t *)(cpu->arena + cpu->arena_used * PAGE_SIZE);
    cpu->arena_used += count;
    if (cpu->arena_used > CPU_ARENA_PAGES)
        trap_panic("a test needs more pages than a processor has");
    for (uint64_t i = 0; i < count * PAGE_SIZE / sizeof(*pages); i++)
        pages[i] = 0;
    return pages;
}

void *cpu_allocate_page(struct cpu *cpu)
{
    return cpu_allocate_pages(cpu, 1);
}

void cpu_reset_pages(struct cpu *cpu)
{
    cpu->arena_used = 0;
}
