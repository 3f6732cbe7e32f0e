// SPDX-License-Identifier: MIT
#include "tables.h"

extern uint64_t boot_pml4[];

struct tables tables_create(struct cpu *cpu)
{
    struct tables tables = {.pml4 = cpu_allocate_page(cpu)};
    uint64_t *pdpt = cpu_allocate_page(cpu), *directory = cpu_allocate_page(cpu);
    tables.table = cpu_allocate_page(cpu);
    tables.window = &tables.table[0];
    tables.pml4[0] = boot_pml4[0];
    tables.pml4[1] = cpu_physical(pdpt) | TABLES_BITS;
    pdpt[0] = cpu_physical(directory) | TABLES_BITS;
    directory[0] = cpu_physical(tables.table) | TABLES_BITS;
    return tables;
}
