// SPDX-License-Identifier: MIT
// Manual: Memory Type Range Registers (IA32_MTRRCAP, IA32_MTRR_DEF_TYPE, Fixed Range MTRRs, Variable Range
// MTRRs).
#include "mtrr_l1.h"

#include <silicon/x86.h>

#define MSR_MTRRCAP       0xfeu
#define MSR_MTRR_PHYSBASE 0x200u
#define MSR_MTRR_DEF_TYPE 0x2ffu

#define CPUID_1_EDX_MTRR (1u << 12)

#define CAP_VARIABLE_COUNT 0xffu
#define CAP_FIXED          (1u << 8)
#define CAP_WC             (1u << 10)
#define DEF_TYPE_RESERVED  (~(uint64_t)(1u << 11 | 1u << 10 | 0xff))
#define BASE_RESERVED      0xf00u
#define MASK_RESERVED      0x7ffu
#define TYPE_WC            1u

static const uint16_t fixed_registers[MTRR_L1_FIXED_COUNT] = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a,
                                                              0x26b, 0x26c, 0x26d, 0x26e, 0x26f};

static uint32_t variable_count(const struct mtrr_l1 *mtrr)
{
    uint32_t count = 2 * (uint32_t)(mtrr->cap & CAP_VARIABLE_COUNT);
    return count < MTRR_L1_VARIABLE_MAX ? count : MTRR_L1_VARIABLE_MAX;
}

// NULL: L1 has no such register.
static const uint64_t *register_of(const struct mtrr_l1 *mtrr, uint32_t msr)
{
    if (mtrr->cap == 0)
        return 0;
    if (msr == MSR_MTRR_DEF_TYPE)
        return &mtrr->default_type;
    if (msr >= MSR_MTRR_PHYSBASE && msr - MSR_MTRR_PHYSBASE < variable_count(mtrr))
        return &mtrr->variable[msr - MSR_MTRR_PHYSBASE];
    for (unsigned i = 0; i < MTRR_L1_FIXED_COUNT && (mtrr->cap & CAP_FIXED) != 0; i++)
        if (msr == fixed_registers[i])
            return &mtrr->fixed[i];
    return 0;
}

void mtrr_l1_init(struct mtrr_l1 *mtrr, uint64_t address_width)
{
    *mtrr = (struct mtrr_l1){.reserved = ~((1ull << address_width) - 1)};
    if ((x86_cpuid(1, 0).edx & CPUID_1_EDX_MTRR) == 0)
        return;
    mtrr->cap = x86_rdmsr(MSR_MTRRCAP);
    mtrr->default_type = x86_rdmsr(MSR_MTRR_DEF_TYPE);
    for (uint32_t i = 0; i < variable_count(mtrr); i++)
        mtrr->variable[i] = x86_rdmsr(MSR_MTRR_PHYSBASE + i);
    for (unsigned i = 0; i < MTRR_L1_FIXED_COUNT && (mtrr->cap & CAP_FIXED) != 0; i++)
        mtrr->fixed[i] = x86_rdmsr(fixed_registers[i]);
}

bool mtrr_l1_read(const struct mtrr_l1 *mtrr, uint32_t msr, uint64_t *value)
{
    const uint64_t *at = register_of(mtrr, msr);
    if (at == 0)
        return false;
    *value = *at;
    return true;
}

static bool type_is_legal(const struct mtrr_l1 *mtrr, uint8_t type)
{
    return type == 0 || (type >= 4 && type <= 6) || (type == TYPE_WC && (mtrr->cap & CAP_WC) != 0);
}

static bool is_legal(const struct mtrr_l1 *mtrr, uint32_t msr, uint64_t value)
{
    if (msr == MSR_MTRR_DEF_TYPE)
        return (value & DEF_TYPE_RESERVED) == 0 && type_is_legal(mtrr, (uint8_t)value);
    if (msr - MSR_MTRR_PHYSBASE < MTRR_L1_VARIABLE_MAX)
        return (msr & 1) != 0
                   ? (value & (mtrr->reserved | MASK_RESERVED)) == 0
                   : (value & (mtrr->reserved | BASE_RESERVED)) == 0 && type_is_legal(mtrr, (uint8_t)value);
    for (unsigned i = 0; i < 8; i++)
        if (!type_is_legal(mtrr, (uint8_t)(value >> 8 * i)))
            return false;
    return true;
}

bool mtrr_l1_write(struct mtrr_l1 *mtrr, uint32_t msr, uint64_t value)
{
    uint64_t *at = (uint64_t *)(uintptr_t)register_of(mtrr, msr);
    if (at == 0 || !is_legal(mtrr, msr, value))
        return false;
    *at = value;
    return true;
}
