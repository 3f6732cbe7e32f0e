// SPDX-License-Identifier: MIT
// Page tables for an L2: L1's mapping of the first 4 GiB, and one page more, TABLES_WINDOW, that a test maps
// as it likes.
#ifndef FIRST_TABLES_H
#define FIRST_TABLES_H

#include "cpu.h"

#define TABLES_WINDOW 0x8000000000ull // the second entry of the PML4 table
#define TABLES_BITS   0x67ull // present, writable, user; accessed and dirty, so that nothing sets them

struct tables {
    uint64_t *pml4;
    uint64_t *table;  // the page table that the window's entry is in
    uint64_t *window; // the entry
};

struct tables tables_create(struct cpu *cpu);

static inline uint64_t tables_cr3(const struct tables *tables)
{
    return cpu_physical(tables->pml4);
}

#endif
