// SPDX-License-Identifier: MIT
// Manual: The Extended Page Table Mechanism (EPT).
#include "ept01.h"

#include "direct_map.h"
#include "mtrr.h"
#include "reserve.h"
#include "string.h"

#include <silicon/x86.h>

#define EPT_READ       (1ull << 0)
#define EPT_WRITE      (1ull << 1)
#define EPT_EXECUTE    (1ull << 2)
#define EPT_ALL        (EPT_READ | EPT_WRITE | EPT_EXECUTE)
#define EPT_TYPE_SHIFT 3
#define EPT_LARGE      (1ull << 7)
#define EPT_ADDRESS    0x000ffffffffff000ull
#define ENTRIES        512u

#define EPTP_WRITE_BACK 6ull
#define EPTP_WALK_4     (3ull << 3)

#define LEVEL_SHIFT(level) (12 + 9 * ((level)-1)) // level 1: 4-KByte pages
#define LEVEL_SIZE(level)  (1ull << LEVEL_SHIFT(level))

// Without 1-GByte pages each GByte costs a page of L0's memory: 4 MBytes for 40 bits.
#define WIDTH_MAX_1G 48u
#define WIDTH_MAX_2M 40u

static uint64_t *root;
static uint64_t *hole; // the one page table of the whole reserved range
static unsigned largest_level;

static bool has_1g_pages(const struct nvmx_caps *hardware)
{
    return (hardware->msr[MSR_IA32_VMX_EPT_VPID_CAP - CAPS_MSR_FIRST] & EPT_CAP_PAGE_1G) != 0;
}

uint32_t ept01_address_width(const struct nvmx_caps *hardware)
{
    uint32_t width = x86_cpuid(0x80000008, 0).eax & 0xff;
    uint32_t limit = has_1g_pages(hardware) ? WIDTH_MAX_1G : WIDTH_MAX_2M;
    return width < limit ? width : limit;
}

uint64_t ept01_memory_size(const struct nvmx_caps *hardware)
{
    uint32_t width = ept01_address_width(hardware);
    uint64_t pages = 2 + (1ull << (width > 39 ? width - 39 : 0)); // root, hole, page-directory-pointer tables
    if (has_1g_pages(hardware))
        pages += 64; // where a GByte has several memory types: at most two for each MTRR
    else
        pages += 64 + (1ull << (width - 30));
    return pages * PAGE_SIZE;
}

static uint64_t *new_table(uint64_t *entry)
{
    uint64_t *table = reserve_allocate(PAGE_SIZE);
    *entry = direct_map_physical(table) | EPT_ALL;
    return table;
}

static void map_block(uint64_t *table, unsigned level, uint64_t start)
{
    uint64_t *entry = &table[(start >> LEVEL_SHIFT(level)) % ENTRIES];
    bool is_l0 = reserve_overlaps(start, start + LEVEL_SIZE(level));
    enum memory_type type = MEMORY_UC;
    bool is_uniform = mtrr_is_uniform(start, LEVEL_SIZE(level), &type); // as every 4-KByte page is
    if (level == 1 || (level <= largest_level && !is_l0 && is_uniform)) {
        *entry = start | (uint64_t)type << EPT_TYPE_SHIFT | EPT_ALL | (level > 1 ? EPT_LARGE : 0);
        return;
    }
    if (is_l0 && level == 2) { // the range begins and ends at 2-MByte boundaries
        *entry = direct_map_physical(hole) | EPT_ALL;
        return;
    }
    uint64_t *below = new_table(entry);
    for (unsigned i = 0; i < ENTRIES; i++)
        map_block(below, level - 1, start + i * LEVEL_SIZE(level - 1));
}

static void fill_hole(uint64_t *table, l0pa_t page, uint64_t access)
{
    for (unsigned i = 0; i < ENTRIES; i++)
        table[i] = page.value | (uint64_t)MEMORY_WB << EPT_TYPE_SHIFT | access;
}

void ept01_build(const struct nvmx_caps *hardware)
{
    largest_level = has_1g_pages(hardware) ? 3 : 2;
    root = reserve_allocate(PAGE_SIZE);
    hole = reserve_allocate(PAGE_SIZE);
    l0pa_t ones = reserve_allocate_pages(1);
    memset(direct_map(ones.value), 0xff, PAGE_SIZE);
    fill_hole(hole, ones, EPT_READ | EPT_EXECUTE);

    uint64_t end = 1ull << ept01_address_width(hardware);
    for (uint64_t start = 0; start < end; start += LEVEL_SIZE(3)) {
        uint64_t *entry = &root[start >> LEVEL_SHIFT(4)];
        uint64_t *table = *entry != 0 ? direct_map(*entry & EPT_ADDRESS) : new_table(entry);
        map_block(table, 3, start);
    }
}

static uint64_t pointer_to(const uint64_t *table)
{
    return direct_map_physical(table) | EPTP_WRITE_BACK | EPTP_WALK_4;
}

uint64_t ept01_pointer(void)
{
    return pointer_to(root);
}

uint64_t ept01_build_open(l0pa_t scratch)
{
    uint64_t *open_root = reserve_allocate(PAGE_SIZE);
    uint64_t *open_hole = reserve_allocate(PAGE_SIZE);
    fill_hole(open_hole, scratch, EPT_ALL);
    memcpy(open_root, root, PAGE_SIZE);
    for (uint64_t at = reserve_start(); at < reserve_end(); at += LEVEL_SIZE(2)) {
        uint64_t *table = open_root;
        const uint64_t *shared = root;
        for (unsigned level = 4; level > 2; level--) {
            uint64_t index = (at >> LEVEL_SHIFT(level)) % ENTRIES;
            shared = direct_map(shared[index] & EPT_ADDRESS);
            if (direct_map(table[index] & EPT_ADDRESS) == shared) // not copied yet
                memcpy(new_table(&table[index]), shared, PAGE_SIZE);
            table = direct_map(table[index] & EPT_ADDRESS);
        }
        table[(at >> LEVEL_SHIFT(2)) % ENTRIES] = direct_map_physical(open_hole) | EPT_ALL;
    }
    return pointer_to(open_root);
}

bool ept01_translate(l1pa_t at, struct port_mapping *mapping)
{
    if (reserve_overlaps(at.value, at.value + 1) || at.value >> LEVEL_SHIFT(5) != 0)
        return false;
    const uint64_t *table = root;
    for (unsigned level = 4; level > 0; level--) {
        uint64_t entry = table[(at.value >> LEVEL_SHIFT(level)) % ENTRIES];
        if ((entry & EPT_ALL) == 0)
            return false;
        if (level > 1 && (entry & EPT_LARGE) == 0) {
            table = direct_map(entry & EPT_ADDRESS);
            continue;
        }
        *mapping = (struct port_mapping){
            .l0 = l0pa(at.value), // identity
            .size = LEVEL_SIZE(level),
            .memory_type = entry >> EPT_TYPE_SHIFT & 7,
            .readable = (entry & EPT_READ) != 0,
            .writable = (entry & EPT_WRITE) != 0,
            .executable = (entry & EPT_EXECUTE) != 0,
        };
        return true;
    }
    return false;
}
