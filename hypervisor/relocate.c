// SPDX-License-Identifier: MIT
#include "relocate.h"

#include "boot.h"
#include "direct_map.h"
#include "reserve.h"
#include "string.h"

#include <nvmx/controls.h>
#include <silicon/x86.h>

#define PTE_PRESENT       (1ull << 0)
#define PTE_WRITABLE      (1ull << 1)
#define PTE_WRITE_THROUGH (1ull << 3)
#define PTE_CACHE_DISABLE (1ull << 4)
#define PTE_LARGE         (1ull << 7)
#define PTE_NO_EXEC       (1ull << 63)
#define PTE_ADDRESS       0x000ffffffffff000ull
#define ENTRIES           512

#define APIC_WINDOWS 0xffffc00000000000ull // a page for each processor, and nothing else there

#define LEVEL_SHIFT(level) (12 + 9 * ((level)-1)) // level 1: page table

// Bounds of the image and of its parts by access: image.lds.
extern char image_start[], image_rodata_start[], image_data_start[], image_end[];

void boot_relocate(void *to, const void *from, uint64_t size, uint64_t cr3);

static uint64_t *root;
static uint64_t no_execute; // PTE_NO_EXEC where the processor has it

uint64_t relocate_image_size(void)
{
    return (uint64_t)(image_end - image_start);
}

uint64_t relocate_cr3(void)
{
    return direct_map_physical(root);
}

// The entry for `linear` in the table of `level`, with the tables above it made as needed.
static uint64_t *entry_at(uint64_t *top, uint64_t linear, unsigned level)
{
    uint64_t *table = top;
    for (unsigned at = 4;; at--) {
        uint64_t *entry = &table[(linear >> LEVEL_SHIFT(at)) % ENTRIES];
        if (at == level)
            return entry;
        if ((*entry & PTE_PRESENT) == 0)
            *entry = direct_map_physical(reserve_allocate(PAGE_SIZE)) | PTE_PRESENT | PTE_WRITABLE;
        table = direct_map(*entry & PTE_ADDRESS);
    }
}

static void build_direct_map(uint64_t memory_end)
{
    bool has_1g = (x86_cpuid(0x80000001, 0).edx >> 26 & 1) != 0;
    unsigned level = has_1g ? 3 : 2;
    uint64_t step = 1ull << LEVEL_SHIFT(level);
    uint64_t end = memory_end > DIRECT_MAP_EARLY ? memory_end : DIRECT_MAP_EARLY;
    for (uint64_t at = 0; at < end; at += step)
        *entry_at(root, DIRECT_MAP_BASE + at, level) =
            at | PTE_PRESENT | PTE_WRITABLE | PTE_LARGE | no_execute;
}

static void build_image_map(void)
{
    for (char *page = image_start; page < image_end; page += PAGE_SIZE) {
        uint64_t access = page >= image_data_start     ? PTE_WRITABLE | no_execute
                          : page >= image_rodata_start ? no_execute
                                                       : 0;
        *entry_at(root, (uint64_t)page, 1) =
            (reserve_start() + (uint64_t)(page - image_start)) | PTE_PRESENT | access;
    }
}

uint64_t relocate_apic_window(uint32_t cpu_index)
{
    return APIC_WINDOWS + cpu_index * PAGE_SIZE;
}

void relocate_apic_window_map(uint32_t cpu_index, uint64_t physical)
{
    uint64_t window = relocate_apic_window(cpu_index);
    *entry_at(root, window, 1) =
        physical | PTE_PRESENT | PTE_WRITABLE | PTE_WRITE_THROUGH | PTE_CACHE_DISABLE | no_execute;
    x86_invlpg(window);
}

void relocate_image(uint64_t memory_end)
{
    if ((x86_cpuid(0x80000001, 0).edx >> 20 & 1) != 0) {
        no_execute = PTE_NO_EXEC;
        x86_wrmsr(MSR_IA32_EFER, x86_rdmsr(MSR_IA32_EFER) | EFER_NXE);
    }
    root = reserve_allocate(PAGE_SIZE);
    build_direct_map(memory_end);
    build_image_map();
    entry_at(root, APIC_WINDOWS, 1); // makes the tables above it: ACPI_CPU_MAX windows are within one
    boot_relocate(direct_map(reserve_start()), image_start, relocate_image_size(), relocate_cr3());
}

uint64_t relocate_trampoline_cr3(uint64_t physical)
{
    uint64_t *top = reserve_allocate(PAGE_SIZE);
    memcpy(top, root, PAGE_SIZE);
    *entry_at(top, physical, 1) = physical | PTE_PRESENT | PTE_WRITABLE;
    return direct_map_physical(top);
}
