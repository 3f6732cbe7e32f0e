// SPDX-License-Identifier: MIT
#include "first32.h"

#define PTE_BITS        0xe7u // present, writable, user, accessed, dirty, large
#define PRESENT         1u
#define GDT_ENTRIES     6
#define EXCEPTION_COUNT 32
#define EXCEPTION_SIZE  32u

struct table_pointer {
    uint16_t limit;
    uint32_t base;
} __attribute__((packed));

extern const uint8_t exception_entries[];

uint8_t short_segment[SHORT_LIMIT + 1 + 16] __attribute__((aligned(16)));
static uint32_t tss[26];
static uint64_t gdt[GDT_ENTRIES], idt[EXCEPTION_COUNT];
static uint32_t directory[1024] __attribute__((aligned(4096)));
static uint64_t pae_directories[2][4][512] __attribute__((aligned(4096)));
static uint64_t pae_pointers[2][4] __attribute__((aligned(32)));

static uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t rights)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(rights & 0xf0ff) << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(base >> 24) << 56;
}

static void tables_fill(void)
{
    for (uint32_t i = 0; i < 1024; i++)
        directory[i] = i << 22 | PTE_BITS;
    for (uint32_t n = 0; n < 2; n++)
        for (uint32_t gib = 0; gib < 4; gib++) {
            for (uint32_t i = 0; i < 512; i++)
                pae_directories[n][gib][i] = ((uint64_t)gib << 30 | i << 21) | PTE_BITS;
            pae_pointers[n][gib] = (uint32_t)pae_directories[n][gib] | PRESENT;
        }
    gdt[SELECTOR_CODE / 8] = descriptor(0, 0xfffff, 0xc09b);
    gdt[SELECTOR_DATA / 8] = descriptor(0, 0xfffff, 0xc093);
    gdt[SELECTOR_TSS / 8] = descriptor((uint32_t)tss, sizeof(tss) - 1, 0x89);
    gdt[SELECTOR_BASED / 8] = descriptor(BASED_BASE, 0xfffff, 0xc093);
    gdt[SELECTOR_SHORT / 8] = descriptor((uint32_t)short_segment, SHORT_LIMIT, 0x4093);
    for (uint32_t i = 0; i < EXCEPTION_COUNT; i++) {
        uint32_t entry = (uint32_t)exception_entries + i * EXCEPTION_SIZE;
        idt[i] = (entry & 0xffff) | SELECTOR_CODE << 16 | 0x8eull << 40 | (uint64_t)(entry >> 16) << 48;
    }
}

// VM exits load segment registers with the largest limits, and make them all writable in Bochs 3.0.
void tables_load_segments(void)
{
    __asm__ volatile("ljmp %0, $1f; 1:\n"
                     "mov %1, %%ds; mov %1, %%es; mov %1, %%ss\n"
                     "mov %2, %%fs; mov %3, %%gs"
                     :
                     : "i"(SELECTOR_CODE), "r"(SELECTOR_DATA), "r"(SELECTOR_BASED), "r"(SELECTOR_SHORT)
                     : "memory");
}

void tables_init(void)
{
    tables_fill();
    struct table_pointer gdt_pointer = {sizeof(gdt) - 1, (uint32_t)gdt};
    struct table_pointer idt_pointer = {sizeof(idt) - 1, (uint32_t)idt};
    __asm__ volatile("lgdt %0; lidt %1" : : "m"(gdt_pointer), "m"(idt_pointer));
    tables_load_segments();
    __asm__ volatile("ltr %w0" : : "r"(SELECTOR_TSS) : "memory");
    write_cr3((uint32_t)directory);
    write_cr4(CR4_PSE);
    write_cr0((uint32_t)(CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_MP | CR0_PE));
}

uint32_t tables_gdt(void)
{
    return (uint32_t)gdt;
}

uint32_t tables_idt(void)
{
    return (uint32_t)idt;
}

uint32_t tables_tss(void)
{
    return (uint32_t)tss;
}

uint32_t tables_directory(void)
{
    return (uint32_t)directory;
}

uint32_t tables_pae(uint32_t n)
{
    return (uint32_t)pae_pointers[n];
}

void tables_pae_spoil(uint32_t n, uint32_t gib)
{
    pae_pointers[n][gib] = 0;
}
