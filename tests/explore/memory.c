// SPDX-License-Identifier: MIT
// What L1 and its L2s find in their memory when a script begins.
#include "explore.h"
#include <string.h>

static void put(uint64_t address, uint64_t value, unsigned size)
{
    memcpy(l1_memory(address), &value, size);
}

static void put_l2(unsigned g, uint64_t address, uint64_t value, unsigned size)
{
    put(L2_MEMORY(g) + address, value, size);
}

static bool is_mapped(uint64_t page)
{
    return page != L2_STACK / PAGE_SIZE - 2 &&
           !(page >= L2_NOT_MAPPED / PAGE_SIZE && page < L2_NOT_MAPPED / PAGE_SIZE + 8);
}

// Four tables in a row, one page table of 2 MBytes; `offset` is added to what the tables hold. Then those of
// PAE and of 32-bit paging.
static void build_page_tables(unsigned g, uint64_t at, uint64_t pae, uint64_t narrow, uint64_t offset)
{
    put_l2(g, at, (offset + at + 0x1000) | 7, 8);
    put_l2(g, at + 0x1000, (offset + at + 0x2000) | 7, 8);
    put_l2(g, at + 0x2000, (offset + at + 0x3000) | 7, 8);
    put_l2(g, pae, (offset + at + 0x2000) | 1, 8);
    put_l2(g, narrow, (offset + narrow + 0x2000) | 7, 4);
    for (uint64_t page = 0; page < L2_SIZE / PAGE_SIZE; page++) {
        uint64_t entry = is_mapped(page) ? (offset + page * PAGE_SIZE) | 7 : 0;
        put_l2(g, at + 0x3000 + 8 * page, entry, 8);
        put_l2(g, narrow + 0x2000 + 4 * page, entry, 4);
    }
}

static void build_idts(unsigned g)
{
    for (uint64_t vector = 0; vector < 256; vector++) {
        uint64_t handler = L2_HANDLERS + 16 * vector, gate = (handler & 0xffff) | 0x08 << 16;
        put_l2(g, L2_IDT + 16 * vector, gate | 0xeeull << 40, 8);
        put_l2(g, L2_IDT_32 + 8 * vector, gate | 0xeeull << 40, 8);
        put_l2(g, 4 * vector, handler, 4); // real mode's: segment 0
    }
    put_l2(g, L2_TSS + 4, L2_STACK, 8); // RSP0
}

static void build_ept(unsigned g)
{
    uint64_t small = EPT_TABLES(g), large = small + 0x4000;
    put(small, (small + 0x1000) | 7, 8);
    put(small + 0x1000, (small + 0x2000) | 7, 8);
    put(small + 0x2000, (small + 0x3000) | 7, 8);
    for (uint64_t page = 0; page < L2_SIZE / PAGE_SIZE; page++) {
        bool hole = page >= L2_EPT_HOLE / PAGE_SIZE && page < L2_EPT_HOLE / PAGE_SIZE + 8;
        uint64_t to = page == L2_APIC / PAGE_SIZE ? APIC_ACCESS_OF(g) : L2_MEMORY(g) + page * PAGE_SIZE;
        put(EPT_ENTRY(g, page), hole ? 0 : to | 6 << 3 | 7, 8);
    }
    put(large, (large + 0x1000) | 7, 8);
    put(large + 0x1000, (large + 0x2000) | 7, 8);
    put(large + 0x2000, L2_MEMORY(g) | 1 << 7 | 6 << 3 | 7, 8);
}

static void build_operands(void)
{
    uint64_t beyond = 1ull << world_l1_processor()->physical_address_width;
    for (unsigned vcpu = 0; vcpu < 2; vcpu++)
        put((uint64_t)VMXON_SLOT(vcpu), VMXON_AT(vcpu), 8);
    for (unsigned r = 0; r < REGION_COUNT; r++)
        put((uint64_t)VMCS_SLOT(r), VMCS_AT(r), 8);
    put((uint64_t)UNALIGNED_SLOT, VMCS_AT(0) + 8, 8);
    put((uint64_t)TOO_WIDE_SLOT, beyond + VMCS_AT(0), 8);
    for (unsigned g = 0; g < GUEST_COUNT; g++) {
        put((uint64_t)EPTP_SLOT(g), EPTP_OF(g), 8);
        put((uint64_t)EPTP_LARGE_SLOT(g), EPTP_LARGE_OF(g), 8);
    }
    put((uint64_t)ONES_SLOT, ~0ull, 8);
    put((uint64_t)ONES_SLOT + 8, ~0ull, 8);
    for (uint64_t vpid = 0; vpid <= 2 * REGION_COUNT; vpid++) {
        put((uint64_t)VPID_SLOT(vpid), vpid, 8);
        put((uint64_t)VPID_SLOT(vpid) + 8, L2_DATA, 8);
    }
}

// Entries that can be loaded and stored.
static void build_msr_lists(unsigned r)
{
    static const uint32_t msrs[] = {0xc0000082, 0xc0000102, 0xc0000081, 0x174};
    for (unsigned i = 0; i < 4; i++) {
        put(ENTRY_LIST_OF(r) + 16 * i, msrs[i], 8);
        put(ENTRY_LIST_OF(r) + 16 * i + 8, 0x1000 * (i + 1) + r, 8);
        put(STORE_LIST_OF(r) + 16 * i, msrs[i], 8);
        put(EXIT_LIST_OF(r) + 16 * i, msrs[i], 8);
        put(EXIT_LIST_OF(r) + 16 * i + 8, 0x100000 * (i + 1) + r, 8);
    }
}

void explore_build_memory(void)
{
    uint64_t revision = (uint32_t)world_l1_processor()->vmx.msr[0] & 0x7fffffff;
    for (unsigned vcpu = 0; vcpu < 2; vcpu++)
        put(VMXON_AT(vcpu), revision, 4);
    build_operands();
    for (unsigned g = 0; g < GUEST_COUNT; g++) {
        build_page_tables(g, L2_TABLES, L2_PDPT_PAE, L2_TABLES_32, 0);
        build_page_tables(g, L2_FLAT, L2_FLAT + 0x4000, L2_FLAT + 0x5000, L2_MEMORY(g));
        build_idts(g);
        build_ept(g);
    }
    for (unsigned r = 0; r < REGION_COUNT; r++)
        build_msr_lists(r);
}
