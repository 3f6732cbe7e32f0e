// SPDX-License-Identifier: MIT
// Manual: Memory Type Range Registers (MTRRs).
#include "mtrr.h"

#include <silicon/x86.h>

#define MSR_MTRRCAP        0xfeu
#define MSR_MTRR_PHYSBASE0 0x200u
#define MSR_MTRR_DEF_TYPE  0x2ffu

#define CPUID_1_EDX_MTRR   (1u << 12)
#define CAP_VARIABLE_COUNT 0xffu
#define CAP_FIXED          (1u << 8)
#define DEF_TYPE_MASK      0xffu
#define DEF_FIXED_ENABLE   (1u << 10)
#define DEF_ENABLE         (1u << 11)
#define MASK_VALID         (1u << 11)
#define ADDRESS_MASK       0x000ffffffffff000ull

#define VARIABLE_MAX 32
#define FIXED_END    0x100000u

struct variable_range {
    uint64_t base, mask;
    enum memory_type type;
};

static struct variable_range variable[VARIABLE_MAX];
static unsigned variable_count;
static bool enabled, fixed_enabled;
static enum memory_type default_type;
static uint8_t fixed[FIXED_END / 4096]; // the type of each page

// Fixed Range MTRRs: each register holds eight types.
static const struct fixed_register {
    uint32_t msr, start, step;
} fixed_registers[] = {
    {0x250, 0x00000, 0x10000}, {0x258, 0x80000, 0x4000}, {0x259, 0xa0000, 0x4000}, {0x268, 0xc0000, 0x1000},
    {0x269, 0xc8000, 0x1000},  {0x26a, 0xd0000, 0x1000}, {0x26b, 0xd8000, 0x1000}, {0x26c, 0xe0000, 0x1000},
    {0x26d, 0xe8000, 0x1000},  {0x26e, 0xf0000, 0x1000}, {0x26f, 0xf8000, 0x1000},
};

static void read_fixed(void)
{
    for (unsigned i = 0; i < sizeof(fixed_registers) / sizeof(fixed_registers[0]); i++) {
        const struct fixed_register *range = &fixed_registers[i];
        uint64_t types = x86_rdmsr(range->msr);
        for (uint32_t at = 0; at < 8 * range->step; at += 4096)
            fixed[(range->start + at) / 4096] = (uint8_t)(types >> (at / range->step * 8));
    }
}

void mtrr_read(void)
{
    if ((x86_cpuid(1, 0).edx & CPUID_1_EDX_MTRR) == 0)
        return;
    uint64_t cap = x86_rdmsr(MSR_MTRRCAP);
    uint64_t def_type = x86_rdmsr(MSR_MTRR_DEF_TYPE);
    enabled = (def_type & DEF_ENABLE) != 0;
    default_type = (enum memory_type)(def_type & DEF_TYPE_MASK);
    fixed_enabled = (cap & CAP_FIXED) != 0 && (def_type & DEF_FIXED_ENABLE) != 0;
    if (fixed_enabled)
        read_fixed();
    for (unsigned i = 0; i < (cap & CAP_VARIABLE_COUNT) && variable_count < VARIABLE_MAX; i++) {
        uint64_t base = x86_rdmsr(MSR_MTRR_PHYSBASE0 + 2 * i);
        uint64_t mask = x86_rdmsr(MSR_MTRR_PHYSBASE0 + 2 * i + 1);
        if ((mask & MASK_VALID) != 0)
            variable[variable_count++] = (struct variable_range){
                .base = base & ADDRESS_MASK,
                .mask = mask & ADDRESS_MASK,
                .type = (enum memory_type)(base & DEF_TYPE_MASK),
            };
    }
}

// MTRR Precedences. What the manual leaves undefined becomes uncacheable, the one type that is always
// correct.
static enum memory_type combine(enum memory_type a, enum memory_type b)
{
    if (a == b)
        return a;
    if ((a == MEMORY_WT && b == MEMORY_WB) || (a == MEMORY_WB && b == MEMORY_WT))
        return MEMORY_WT;
    return MEMORY_UC;
}

static bool fixed_is_uniform(uint64_t start, uint64_t size, enum memory_type *type)
{
    if (start + size > FIXED_END)
        return false; // the block also has memory that the fixed ranges do not describe
    *type = (enum memory_type)fixed[start / 4096];
    for (uint64_t at = start; at < start + size; at += 4096)
        if (fixed[at / 4096] != *type)
            return false;
    return true;
}

bool mtrr_is_uniform(uint64_t start, uint64_t size, enum memory_type *type)
{
    *type = MEMORY_UC;
    if (!enabled)
        return true;
    if (fixed_enabled && start < FIXED_END)
        return fixed_is_uniform(start, size, type);
    bool matched = false;
    for (unsigned i = 0; i < variable_count; i++) {
        uint64_t differs = (start ^ variable[i].base) & variable[i].mask;
        if ((differs & ~(size - 1)) != 0)
            continue; // no address of the block is in the range
        if ((variable[i].mask & (size - 1)) != 0)
            return false; // some are, some are not
        *type = matched ? combine(*type, variable[i].type) : variable[i].type;
        matched = true;
    }
    if (!matched)
        *type = default_type;
    return true;
}
