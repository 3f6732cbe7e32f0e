// SPDX-License-Identifier: MIT
#include "ept.h"
#include "apic.h"
#include "l2.h"
#include "trap.h"
#include "x86.h"

#define ENTRY_ADDRESS 0x000ffffffffff000ull
#define SIZE_4K       (1ull << 12)
#define SIZE_2M       (1ull << 21)
#define SIZE_1G       (1ull << 30)
#define INVEPT_SINGLE 1
#define INVEPT_ALL    2

struct ept ept_create(struct cpu *cpu)
{
    return (struct ept){cpu, cpu_allocate_page(cpu)};
}

struct ept ept_create_identity(struct cpu *cpu)
{
    return ept_create_identity_with(cpu, 0);
}

struct ept ept_create_identity_with(struct cpu *cpu, uint64_t bits)
{
    struct ept ept = ept_create(cpu);
    for (uint64_t at = 0; at < SIZE_1G; at += SIZE_2M)
        ept_map(&ept, at, at, SIZE_2M, EPT_ALL | EPT_WRITE_BACK | bits);
    ept_map(&ept, APIC_BASE & ~(SIZE_2M - 1), APIC_BASE & ~(SIZE_2M - 1), SIZE_2M, EPT_ALL | EPT_UNCACHEABLE);
    return ept;
}

uint64_t ept_pointer(const struct ept *ept)
{
    return cpu_physical(ept->pml4) | EPT_POINTER_WALK | EPT_WRITE_BACK >> 3;
}

static bool ept_is_leaf(uint64_t entry, uint32_t shift)
{
    return shift == 12 || (entry & EPT_LARGE);
}

// The table below `entry`, which covers 1 << shift bytes; made if there is none, split if it is a page.
static uint64_t *ept_table_below(struct ept *ept, uint64_t *entry, uint32_t shift)
{
    if (!(*entry & EPT_ALL) || ept_is_leaf(*entry, shift)) {
        uint64_t *table = cpu_allocate_page(ept->cpu);
        uint32_t below = shift - 9;
        for (uint64_t i = 0; i < 512 && (*entry & EPT_ALL); i++)
            table[i] = (below == 12 ? *entry & ~EPT_LARGE : *entry) + (i << below);
        *entry = cpu_physical(table) | EPT_ALL | EPT_EXECUTE_USER;
    }
    return (uint64_t *)(uintptr_t)(*entry & ENTRY_ADDRESS);
}

static uint64_t *ept_walk(struct ept *ept, uint64_t from, uint64_t size)
{
    uint64_t *table = ept->pml4;
    for (uint32_t shift = 39;; shift -= 9) {
        uint64_t *entry = &table[from >> shift & 511];
        if (size == 1ull << shift)
            return entry;
        table = ept_table_below(ept, entry, shift);
    }
}

void ept_map(struct ept *ept, uint64_t from, uint64_t to, uint64_t size, uint64_t bits)
{
    *ept_walk(ept, from, size) = to | bits | (size == SIZE_4K ? 0 : EPT_LARGE);
}

uint64_t *ept_entry(struct ept *ept, uint64_t from)
{
    return ept_walk(ept, from, SIZE_4K);
}

void ept_use(const struct ept *ept)
{
    l2_set_secondary(SECONDARY_ENABLE_EPT);
    l2_write(VMCS_EPT_POINTER, ept_pointer(ept));
}

void ept_invalidate(const struct ept *ept)
{
    bool single = x86_rdmsr(MSR_IA32_VMX_EPT_VPID_CAP) & EPT_CAP_INVEPT_SINGLE;
    if (vmx_invept(single ? INVEPT_SINGLE : INVEPT_ALL, ept_pointer(ept), 0) != VMX_SUCCEED)
        trap_panic("INVEPT fails");
}
