// SPDX-License-Identifier: MIT
// L1's RDMSR and WRMSR, by the rows of msr.def.
#include "msr.h"

#include "apic.h"
#include "direct_map.h"
#include "log.h"
#include "msr_emulate.h"
#include "reserve.h"
#include "x2apic.h"

#include <silicon/x86.h>

// MSR-Bitmap Address: reads of low and high MSRs, then writes, 1 KByte each.
#define BITMAP_READ  0u
#define BITMAP_WRITE 2048u
#define BITMAP_HIGH  1024u
#define RANGE_SIZE   0x2000u
#define HIGH_FIRST   0xc0000000u

enum msr_policy { PASS, IN_VMCS, MASK, EMULATE, IGNORE, REFUSE, HIDE };

struct msr_row {
    uint32_t first, last;
    uint8_t read, write; // enum msr_policy
    uint32_t mask;
};

static const struct msr_row rows[] = {
#define MSR(first, last, name, read, write, mask, text) {first, last, read, write, mask},
#include "msr.def"
#undef MSR
};
#define ROW_COUNT (sizeof(rows) / sizeof(rows[0]))

// NULL: L0 does not know it.
static const struct msr_row *row_of(uint32_t msr)
{
    size_t low = 0, high = ROW_COUNT;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (msr > rows[middle].last)
            low = middle + 1;
        else if (msr < rows[middle].first)
            high = middle;
        else
            return &rows[middle];
    }
    return NULL;
}

// In a bitmap of 8192 bits for each range. false: outside the ranges, which always exits.
static bool bit_of(uint32_t msr, uint32_t *bit)
{
    bool is_high = msr >= HIGH_FIRST;
    *bit = is_high ? msr - HIGH_FIRST + BITMAP_HIGH * 8 : msr;
    return is_high ? msr - HIGH_FIRST < RANGE_SIZE : msr < RANGE_SIZE;
}

static void set_range(l0pa_t bitmap, uint32_t direction, uint32_t first, uint32_t last, bool intercept)
{
    for (uint32_t msr = first; msr <= last; msr++) {
        uint32_t bit;
        bit_of(msr, &bit);
        uint8_t *byte = (uint8_t *)direct_map(bitmap.value) + direction + bit / 8;
        *byte = (uint8_t)(intercept ? *byte | 1u << bit % 8 : *byte & ~(1u << bit % 8));
    }
}

static bool needs_no_exit(uint8_t policy)
{
    return policy == PASS || policy == IN_VMCS;
}

// Reads pass but for those with a row that says otherwise; writes exit but for those with a row.
l0pa_t msr_bitmap_create(void)
{
    l0pa_t bitmap = reserve_allocate_pages(1);
    set_range(bitmap, BITMAP_WRITE, 0, RANGE_SIZE - 1, true);
    set_range(bitmap, BITMAP_WRITE, HIGH_FIRST, HIGH_FIRST + RANGE_SIZE - 1, true);
    for (size_t i = 0; i < ROW_COUNT; i++) {
        const struct msr_row *row = &rows[i];
        set_range(bitmap, BITMAP_READ, row->first, row->last, !needs_no_exit(row->read));
        set_range(bitmap, BITMAP_WRITE, row->first, row->last, !needs_no_exit(row->write));
    }
    return bitmap;
}

void msr_intercept_x2apic(struct vcpu *vcpu, bool intercept)
{
    l0pa_t bitmap = vcpu->nvmx.config.policy.msr_bitmap;
    set_range(bitmap, BITMAP_READ, APIC_X2APIC_FIRST, APIC_X2APIC_LAST, intercept);
    set_range(bitmap, BITMAP_WRITE, APIC_X2APIC_FIRST, APIC_X2APIC_LAST, intercept);
}

static bool is_emulated_x2apic(const struct vcpu *vcpu, uint32_t msr)
{
    return vcpu->x2apic_emulated && msr >= APIC_X2APIC_FIRST && msr <= APIC_X2APIC_LAST;
}

static bool read_msr(struct vcpu *vcpu, uint32_t msr, uint64_t *value)
{
    if (is_emulated_x2apic(vcpu, msr))
        return x2apic_read(msr, value);
    const struct msr_row *row = row_of(msr);
    switch (row == NULL ? PASS : (enum msr_policy)row->read) {
    case PASS:
        return hw_rdmsr(&vcpu->cpu->hw, msr, value);
    case EMULATE:
        return msr_emulate_read(vcpu, msr, value);
    default:
        return false;
    }
}

// A write that L1 may want to know of. Each MSR is named once; those outside the ranges, together.
static void log_refused(struct vcpu *vcpu, uint32_t msr, uint64_t value)
{
    static uint8_t logged[2 * BITMAP_HIGH + 1];
    uint32_t bit;
    if (!bit_of(msr, &bit))
        bit = 2 * BITMAP_HIGH * 8;
    uint8_t mask = (uint8_t)(1u << bit % 8);
    if ((__atomic_fetch_or(&logged[bit / 8], mask, __ATOMIC_RELAXED) & mask) == 0)
        port_log(&vcpu->nvmx, "#GP for a write that L0 does not offer; MSR, value", msr, value);
}

static bool write_masked(struct vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    uint64_t now;
    if (!hw_rdmsr(&vcpu->cpu->hw, msr, &now))
        return false;
    if (((value ^ now) & ~(uint64_t)row->mask) != 0) {
        log_refused(vcpu, msr, value);
        return false;
    }
    return hw_wrmsr(&vcpu->cpu->hw, msr, value);
}

static bool write_msr(struct vcpu *vcpu, uint32_t msr, uint64_t value)
{
    if (is_emulated_x2apic(vcpu, msr))
        return x2apic_write(msr, value);
    const struct msr_row *row = row_of(msr);
    switch (row == NULL ? REFUSE : (enum msr_policy)row->write) {
    case PASS:
        return hw_wrmsr(&vcpu->cpu->hw, msr, value);
    case MASK:
        return write_masked(vcpu, row, msr, value);
    case EMULATE:
        return msr_emulate_write(vcpu, msr, value);
    case IGNORE:
        return true;
    case REFUSE:
    case HIDE:
        log_refused(vcpu, msr, value);
        return false;
    case IN_VMCS:
        break;
    }
    return false;
}

void msr_handle_read_exit(struct vcpu *vcpu)
{
    uint64_t *gpr = vcpu->nvmx.regs.gpr;
    uint64_t value;
    if (!read_msr(vcpu, (uint32_t)gpr[GPR_RCX], &value)) {
        nvmx_raise(&vcpu->nvmx, VECTOR_GP, true, 0);
        return;
    }
    gpr[GPR_RAX] = (uint32_t)value;
    gpr[GPR_RDX] = value >> 32;
    nvmx_skip_instruction(&vcpu->nvmx);
}

void msr_handle_write_exit(struct vcpu *vcpu)
{
    const uint64_t *gpr = vcpu->nvmx.regs.gpr;
    uint64_t value = gpr[GPR_RDX] << 32 | (uint32_t)gpr[GPR_RAX];
    if (write_msr(vcpu, (uint32_t)gpr[GPR_RCX], value))
        nvmx_skip_instruction(&vcpu->nvmx);
    else
        nvmx_raise(&vcpu->nvmx, VECTOR_GP, true, 0);
}
