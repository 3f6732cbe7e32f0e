// SPDX-License-Identifier: MIT
#include "msr.h"

#include "apic.h"
#include "direct_map.h"
#include "quirks.h"
#include "reserve.h"
#include "x2apic.h"

#include <silicon/x86.h>

#define MSR_IA32_BIOS_UPDT_TRIG 0x79u

#define CPUID_1_ECX_X2APIC (1u << 21)

// MSR-Bitmap Address: reads of low and high MSRs, then writes, 1 KByte each.
#define BITMAP_READ  0u
#define BITMAP_WRITE 2048u

static void set_bit(l0pa_t bitmap, uint32_t direction, uint32_t msr, bool intercept) // low MSRs: 0 to 0x1fff
{
    uint8_t *byte = (uint8_t *)direct_map(bitmap.value) + direction + msr / 8;
    uint8_t bit = (uint8_t)(1u << msr % 8);
    *byte = intercept ? *byte | bit : *byte & (uint8_t)~bit;
}

static void set_range(l0pa_t bitmap, uint32_t first, uint32_t last, bool intercept)
{
    for (uint32_t msr = first; msr <= last; msr++) {
        set_bit(bitmap, BITMAP_READ, msr, intercept);
        set_bit(bitmap, BITMAP_WRITE, msr, intercept);
    }
}

l0pa_t msr_bitmap_create(void)
{
    l0pa_t bitmap = reserve_allocate_pages(1);
    set_range(bitmap, MSR_IA32_APIC_BASE, MSR_IA32_APIC_BASE, true);
    set_range(bitmap, MSR_IA32_FEATURE_CONTROL, MSR_IA32_FEATURE_CONTROL, true);
    set_range(bitmap, CAPS_MSR_FIRST, CAPS_MSR_FIRST + CAPS_MSR_COUNT - 1, true);
    set_bit(bitmap, BITMAP_WRITE, MSR_IA32_BIOS_UPDT_TRIG, true);
    return bitmap;
}

void msr_intercept_x2apic(struct vcpu *vcpu, bool intercept)
{
    set_range(vcpu->nvmx.config.policy.msr_bitmap, APIC_X2APIC_FIRST, APIC_X2APIC_LAST, intercept);
}

// x2APIC State Transitions, with "disabled" being a state that only L1 sees where the processor could not
// leave it again.
static bool apic_base_is_legal(const struct vcpu *vcpu, uint64_t value)
{
    const uint64_t mode = APIC_BASE_ENABLE | APIC_BASE_X2APIC;
    uint64_t width_mask = (1ull << vcpu->nvmx.config.l1_physical_address_width) - 1;
    uint64_t reserved = ~(APIC_BASE_BSP | mode | (APIC_BASE_ADDRESS & width_mask));
    if ((x86_cpuid(1, 0).ecx & CPUID_1_ECX_X2APIC) == 0)
        reserved |= APIC_BASE_X2APIC;
    if ((value & reserved) != 0)
        return false;
    uint64_t from = vcpu->apic_base & mode, to = value & mode;
    if (to == from)
        return true;
    switch (to) {
    case 0:
        return true;
    case APIC_BASE_ENABLE:
        return from == 0;
    case APIC_BASE_ENABLE | APIC_BASE_X2APIC:
        return from == APIC_BASE_ENABLE;
    default:
        return false;
    }
}

static bool write_apic_base(struct vcpu *vcpu, uint64_t value)
{
    if (!apic_base_is_legal(vcpu, value))
        return false;
    uint64_t real = value;
    if (quirks.apic_enable_is_final) { // there is no way back from x2APIC mode either: L0 emulates it
        real = (value | APIC_BASE_ENABLE) & ~APIC_BASE_X2APIC;
        x2apic_set_emulated(vcpu, (value & APIC_BASE_X2APIC) != 0);
    }
    if (!hw_wrmsr(&vcpu->cpu->hw, MSR_IA32_APIC_BASE, real))
        return false;
    vcpu->apic_base = value;
    return true;
}

static bool read_msr(struct vcpu *vcpu, uint32_t msr, uint64_t *value)
{
    switch (nvmx_rdmsr(&vcpu->nvmx, msr, value)) {
    case NVMX_MSR_OK:
        return true;
    case NVMX_MSR_GP:
        return false;
    case NVMX_MSR_NOT_MINE:
        break;
    }
    if (msr == MSR_IA32_APIC_BASE) {
        *value = vcpu->apic_base;
        return true;
    }
    if (vcpu->x2apic_emulated && msr >= APIC_X2APIC_FIRST && msr <= APIC_X2APIC_LAST)
        return x2apic_read(msr, value);
    return hw_rdmsr(&vcpu->cpu->hw, msr, value);
}

static bool write_msr(struct vcpu *vcpu, uint32_t msr, uint64_t value)
{
    switch (nvmx_wrmsr(&vcpu->nvmx, msr, value)) {
    case NVMX_MSR_OK:
        return true;
    case NVMX_MSR_GP:
        return false;
    case NVMX_MSR_NOT_MINE:
        break;
    }
    if (vcpu->x2apic_emulated && msr >= APIC_X2APIC_FIRST && msr <= APIC_X2APIC_LAST)
        return x2apic_write(msr, value);
    switch (msr) {
    case MSR_IA32_APIC_BASE:
        return write_apic_base(vcpu, value);
    case MSR_IA32_BIOS_UPDT_TRIG: // the update's address is L1's; a processor that keeps its microcode is
                                  // legal
        return true;
    default:
        return hw_wrmsr(&vcpu->cpu->hw, msr, value);
    }
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
