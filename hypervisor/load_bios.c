// SPDX-License-Identifier: MIT
// L1 may go back to real mode and ask the BIOS for the memory map (Xen does). The BIOS knows nothing of L0
// and would call L0's memory free. So its INT 15h gets a front end, in a page at the top of low memory, which
// answers from the map that L1 is to have; the page is reserved in that map, as firmware does it.
#include "load_plan.h"
#include "string.h"

extern const uint8_t load_bios_stub[], load_bios_stub_old[], load_bios_stub_below_16m[],
    load_bios_stub_above_16m[], load_bios_stub_above_1m[], load_bios_stub_count[], load_bios_stub_table[];

enum {
    VECTOR_15 = 0x15 * 4,
    BIOS_BASE_MEMORY = 0x413, // KiB of low memory; INT 12h reads it
    BIOS_DATA_END = 0x500,
    BIOS_ROM = 0xc0000,
    TABLE_ENTRY = 20,
};

// Without a BIOS (UEFI) nobody can ask it: then its interrupt vector does not point into its ROM.
static bool has_bios(const struct load_plan *plan)
{
    if (!plan_is_ram(plan, 0, BIOS_DATA_END))
        return false;
    const uint8_t *vector = plan->request->memory + VECTOR_15;
    uint32_t handler = load_get16(vector + 2) * 16u + load_get16(vector);
    return handler >= BIOS_ROM && handler < LOAD_1M;
}

void plan_bios(struct load_plan *plan)
{
    plan->bios_page = 0;
    uint64_t table_size = (uint64_t)(plan->map_count + 1) * TABLE_ENTRY;
    if (!has_bios(plan) || plan->map_count == LOAD_RANGES_MAX ||
        (uint64_t)(load_bios_stub_table - load_bios_stub) + table_size > LOAD_PAGE)
        return;
    uint64_t end = plan_ram_end(plan, 0),
             base_end = load_get16(plan->request->memory + BIOS_BASE_MEMORY) * 1024ull;
    end = (end < base_end ? end : base_end) & ~(uint64_t)(LOAD_PAGE - 1);
    struct load_piece piece = {.kind = PIECE_BUILT, .start = end - LOAD_PAGE, .size = LOAD_PAGE};
    if (end < LOAD_LOW_START + LOAD_PAGE || end > LOAD_LOW_END || !plan_fits(plan, piece.start, piece.size))
        return;
    plan->pieces[plan->piece_count++] = piece;
    plan->bios_page = piece.start;

    // The range that holds the page ends before it, and the rest of it becomes reserved.
    uint32_t i = 0;
    while (plan->map[i].end <= piece.start)
        i++;
    memmove(&plan->map[i + 1], &plan->map[i], (plan->map_count - i) * sizeof *plan->map);
    plan->map_count++;
    plan->map[i].end = plan->map[i + 1].start = piece.start;
    plan->map[i + 1].type = MEMORY_RESERVED;
}

static void build_stub(const struct load_plan *plan, uint8_t *page)
{
    uint64_t end = plan_ram_end(plan, LOAD_1M), kib = (end - LOAD_1M) / 1024;
    uint64_t below_16m = kib < 15 * 1024 ? kib : 15 * 1024, blocks = (kib - below_16m) / 64;
    memcpy(page, load_bios_stub, (size_t)(load_bios_stub_table - load_bios_stub));
    memcpy(page + (load_bios_stub_old - load_bios_stub), plan->request->memory + VECTOR_15, 4);
    load_put16(page + (load_bios_stub_below_16m - load_bios_stub), (uint16_t)below_16m);
    load_put16(page + (load_bios_stub_above_16m - load_bios_stub),
               (uint16_t)(blocks < 0xffff ? blocks : 0xffff));
    load_put16(page + (load_bios_stub_above_1m - load_bios_stub), (uint16_t)(kib < 0xfc00 ? kib : 0xfc00));
    load_put32(page + (load_bios_stub_count - load_bios_stub), plan->map_count);
    for (uint32_t i = 0; i < plan->map_count; i++) {
        uint8_t *entry = page + (load_bios_stub_table - load_bios_stub) + i * TABLE_ENTRY;
        load_put64(entry, plan->map[i].start);
        load_put64(entry + 8, plan->map[i].end - plan->map[i].start);
        load_put32(entry + 16, plan->map[i].type);
    }
}

void commit_bios(const struct load_plan *plan)
{
    uint8_t *memory = plan->request->memory;
    if (!plan->bios_page)
        return;
    for (uint32_t i = 0; i < plan->piece_count; i++) {
        if (load_overlap(plan->pieces[i].start, plan->pieces[i].size, 0, BIOS_DATA_END))
            return; // L1's image lies over the BIOS's vectors: it will not ask
    }
    build_stub(plan, memory + plan->bios_page);
    load_put16(memory + VECTOR_15, 0);
    load_put16(memory + VECTOR_15 + 2, (uint16_t)(plan->bios_page / 16));
    load_put16(memory + BIOS_BASE_MEMORY, (uint16_t)(plan->bios_page / 1024));
}
