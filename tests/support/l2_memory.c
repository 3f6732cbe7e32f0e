// SPDX-License-Identifier: MIT
// What L2 finds in its memory (page tables, an IDT whose handlers halt), and the EPT12 that gives it memory.
#include "l1_vmx.h"
#include "world_internal.h"
#include <string.h>

#define L2_PAGE_TABLES 0x1000 // L2-physical; with EPT
#define L2_IDT         0x5000
#define L2_HANDLERS    0xe000 // linear: one HLT a vector, with 16 bytes each (see l2_load)
#define L2_CODE        0x10000
#define FLAT_TABLES    0x3f0000 // L2-physical: page tables for an L2 without EPT, whose memory is L1's

static uint64_t next_page, next_code, next_program;

static void put(uint64_t l2_physical, uint64_t value)
{
    memcpy(l2_memory(l2_physical), &value, 8);
}

void *l2_memory(uint64_t l2_physical)
{
    return l1_memory(L2_RAM + l2_physical);
}

void l2_begin(void)
{
    next_page = L1_TABLES;
    next_code = L2_CODE;
    next_program = 0;
}

uint64_t l1_new_page(void)
{
    uint64_t page = next_page;
    next_page += PAGE_SIZE;
    if (next_page > L2_RAM)
        rule_broken(NULL, "the test's L1 is out of pages");
    memset(l1_memory(page), 0, PAGE_SIZE);
    return page;
}

uint64_t l1_new_ept(void)
{
    return l1_new_page() | 6 | 3 << 3;
}

static uint64_t *entry_in(uint64_t table, uint64_t l2_physical, unsigned level)
{
    return (uint64_t *)l1_memory(table & PAGE_MASK) + (l2_physical >> (12 + 9 * (level - 1)) & 0x1ff);
}

uint64_t *l1_ept_entry(uint64_t eptp, uint64_t l2_physical, unsigned level)
{
    uint64_t table = eptp;
    for (unsigned at = 4; at > level; at--)
        table = *entry_in(table, l2_physical, at);
    return entry_in(table, l2_physical, level);
}

void l1_ept_map(uint64_t eptp, uint64_t from, uint64_t to, uint64_t size, uint64_t page, unsigned rights)
{
    unsigned leaf = page == 0x1000 ? 1 : page == 0x200000 ? 2 : 3;
    for (uint64_t at = 0; at < size; at += page) {
        uint64_t table = eptp;
        for (unsigned level = 4; level > leaf; level--) {
            uint64_t *entry = entry_in(table, from + at, level);
            if (!(*entry & 7))
                *entry = l1_new_page() | 7 | (rights & EPT_USER_EXECUTE);
            table = *entry;
        }
        *entry_in(table, from + at, leaf) = (to + at) | rights | 6 << 3 | (leaf > 1 ? 0x80 : 0);
    }
}

// Linear addresses are L2-physical ones; the tables hold guest-physical addresses, which are L1-physical
// when there is no EPT12.
static void build_page_tables(uint64_t at, uint64_t offset)
{
    put(at, (offset + at + 0x1000) | 7);
    put(at + 0x1000, (offset + at + 0x2000) | 7);
    put(at + 0x2000, (offset + at + 0x3000) | 7);
    for (uint64_t page = 0; page < 0x200000; page += PAGE_SIZE)
        put(at + 0x3000 + 8 * (page >> 12), (offset + page) | 7);
    put(at + 0x2008, (offset + 0x200000) | 0x87);
}

static void build_idt(void)
{
    for (uint64_t vector = 0; vector < 256; vector++) {
        uint64_t handler = L2_HANDLERS + vector;
        put(L2_IDT + 16 * vector,
            (handler & 0xffff) | 0x08 << 16 | 0xeeull << 40 | (handler >> 16 & 0xffff) << 48);
        put(L2_IDT + 16 * vector + 8, 0);
    }
}

static void add_handlers(void)
{
    static struct op handlers[256];
    for (unsigned vector = 0; vector < 256; vector++)
        handlers[vector] = (struct op){.kind = OP_HLT};
    machine_add_program(
        world_machine(),
        &(struct program){
            .name = "L2's handlers", .base = L2_HANDLERS, .level = 2, .op = handlers, .count = 256});
}

void l2_load(struct l2 *l2)
{
    if (next_program++ == 0) {
        build_page_tables(L2_PAGE_TABLES, 0);
        build_page_tables(FLAT_TABLES, L2_RAM);
        build_idt();
        put(0x6004, 0xa000); // RSP0 in the TSS
        add_handlers();
    }
    struct program program = {.name = "L2", .base = next_code, .level = 2, .op = l2->op, .count = l2->count};
    machine_add_program(world_machine(), &program);
    l2->code = next_code;
    next_code = (program_end(&program) + 64) & ~15ull;
    l2->pml4 = L2_PAGE_TABLES;
    l2->flat_pml4 = L2_RAM + FLAT_TABLES;
}
