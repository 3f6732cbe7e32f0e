// SPDX-License-Identifier: MIT
// Manual: Local APIC Status and Location; x2APIC State Transitions; IA32_MISC_ENABLE; Debug and Last Branch
// Record (IA32_DEBUGCTL MSR); Memory Type Range Registers.
#include "msr_emulate.h"

#include "apic.h"
#include "mtrr_l1.h"
#include "quirks.h"
#include "reserve.h"
#include "x2apic.h"
#include "xstate.h"

#include <silicon/x86.h>

#define MSR_MTRRCAP          0xfeu
#define MSR_IA32_MISC_ENABLE 0x1a0u
#define MSR_IA32_XSS         0xda0u

#define CPUID_1_ECX_X2APIC (1u << 21)

#define MTRRCAP_SMRR (1u << 11)

// Fast strings, thermal control, SpeedStep, MONITOR, xTPR, turbo: L1's. CPUID's limit and execute-disable
// would change L0's processor too: L1 may lift what the firmware has imposed.
#define MISC_ENABLE_L1               (1ull << 0 | 1ull << 3 | 1ull << 16 | 1ull << 18 | 1ull << 23 | 1ull << 38)
#define MISC_ENABLE_CAN_BE_LIFTED    (1ull << 22 | 1ull << 34)
#define MISC_ENABLE_BTS_UNAVAILABLE  (1ull << 11)
#define MISC_ENABLE_PEBS_UNAVAILABLE (1ull << 12)

// PEBS traps, register saving, record format, baseline, output to processor trace.
#define PERF_CAPABILITIES_PEBS (1ull << 6 | 1ull << 7 | 0xfull << 8 | 1ull << 14 | 1ull << 16)

// LBR, BTF, freezing on performance-monitoring interrupts, freezing in SMM, RTM. Not bus-lock detection (2),
// nor TR, BTS and BTINT, whose messages and stores are past EPT or at a linear address of whoever runs.
#define DEBUGCTL_LBR (1ull << 0)
#define DEBUGCTL_L1  (DEBUGCTL_LBR | 1ull << 1 | 3ull << 11 | 1ull << 14 | 1ull << 15)

// "Disabled" is a state that only L1 sees where the processor could not leave it again.
static bool apic_base_is_legal(const struct vcpu *vcpu, uint64_t value)
{
    const uint64_t mode = APIC_BASE_ENABLE | APIC_BASE_X2APIC;
    uint64_t width_mask = (1ull << vcpu->nvmx.config.l1_physical_address_width) - 1;
    uint64_t page = value & APIC_BASE_ADDRESS;
    uint64_t reserved = ~(APIC_BASE_BSP | mode | (APIC_BASE_ADDRESS & width_mask));
    if ((x86_cpuid(1, 0).ecx & CPUID_1_ECX_X2APIC) == 0)
        reserved |= APIC_BASE_X2APIC;
    if ((value & reserved) != 0 || reserve_overlaps(page, page + PAGE_SIZE))
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
    if (quirks.apic_enable_is_final) // there is no way back from x2APIC mode either: L0 emulates it
        real = (value | APIC_BASE_ENABLE) & ~APIC_BASE_X2APIC;
    if (!hw_wrmsr(&vcpu->cpu->hw, MSR_IA32_APIC_BASE, real))
        return false;
    apic_follow(vcpu->cpu->index);
    vcpu->apic_base = value;
    if (quirks.apic_enable_is_final)
        x2apic_set_emulated(vcpu, (value & APIC_BASE_X2APIC) != 0);
    return true;
}

static uint64_t misc_enable(struct vcpu *vcpu)
{
    uint64_t value;
    hw_rdmsr(&vcpu->cpu->hw, MSR_IA32_MISC_ENABLE, &value);
    return value;
}

static bool write_misc_enable(struct vcpu *vcpu, uint64_t value)
{
    uint64_t unavailable = MISC_ENABLE_BTS_UNAVAILABLE | MISC_ENABLE_PEBS_UNAVAILABLE; // read-only
    uint64_t now = misc_enable(vcpu), changed = (value ^ now) & ~unavailable;
    if ((changed & ~(MISC_ENABLE_L1 | (now & MISC_ENABLE_CAN_BE_LIFTED))) != 0)
        return false;
    return hw_wrmsr(&vcpu->cpu->hw, MSR_IA32_MISC_ENABLE, now ^ changed);
}

// The field must hold what VM entry accepts, and only the processor knows which bits it has: they are tried
// out. (Without LBR, which would record what L0 does.)
static bool write_debugctl(struct vcpu *vcpu, uint64_t value)
{
    if ((value & ~DEBUGCTL_L1) != 0 || !hw_wrmsr(&vcpu->cpu->hw, MSR_IA32_DEBUGCTL, value & ~DEBUGCTL_LBR))
        return false;
    hw_wrmsr(&vcpu->cpu->hw, MSR_IA32_DEBUGCTL, 0);
    nvmx_write(&vcpu->nvmx, F_GUEST_IA32_DEBUGCTL, value);
    return true;
}

bool msr_emulate_read(struct vcpu *vcpu, uint32_t msr, uint64_t *value)
{
    enum nvmx_msr_result result = nvmx_rdmsr(&vcpu->nvmx, msr, value);
    if (result != NVMX_MSR_NOT_MINE)
        return result == NVMX_MSR_OK;
    switch (msr) {
    case MSR_IA32_APIC_BASE:
        *value = vcpu->apic_base;
        return true;
    case MSR_IA32_MISC_ENABLE:
        *value = misc_enable(vcpu) | MISC_ENABLE_BTS_UNAVAILABLE | MISC_ENABLE_PEBS_UNAVAILABLE;
        return true;
    case MSR_MTRRCAP:
        if (!hw_rdmsr(&vcpu->cpu->hw, msr, value))
            return false;
        *value &= ~(uint64_t)MTRRCAP_SMRR;
        return true;
    case MSR_IA32_PERF_CAPABILITIES:
        if (!hw_rdmsr(&vcpu->cpu->hw, msr, value))
            return false;
        *value &= ~PERF_CAPABILITIES_PEBS;
        return true;
    default:
        return mtrr_l1_read(&vcpu->mtrr, msr, value);
    }
}

bool msr_emulate_write(struct vcpu *vcpu, uint32_t msr, uint64_t value)
{
    enum nvmx_msr_result result = nvmx_wrmsr(&vcpu->nvmx, msr, value);
    if (result != NVMX_MSR_NOT_MINE)
        return result == NVMX_MSR_OK;
    switch (msr) {
    case MSR_IA32_APIC_BASE:
        return write_apic_base(vcpu, value);
    case MSR_IA32_MISC_ENABLE:
        return write_misc_enable(vcpu, value);
    case MSR_IA32_DEBUGCTL:
        return write_debugctl(vcpu, value);
    case MSR_IA32_XSS:
        return (value & ~xstate_offered(XSTATE_XSS)) == 0 && hw_wrmsr(&vcpu->cpu->hw, msr, value);
    default:
        return mtrr_l1_write(&vcpu->mtrr, msr, value);
    }
}
