// SPDX-License-Identifier: MIT
// L1's MSR-load and MSR-store areas, processed by L0 in software.
// Manual: Loading MSRs (VM entries; VM exits); Saving MSRs.
#include "engine.h"

struct msr_entry {
    uint32_t index, reserved;
    uint64_t value;
};

// MSRs whose value while L1 or L2 runs is in the VMCS. F_COUNT: in the processor.
static enum vmcs_field msr_field(uint32_t msr)
{
    switch (msr) {
    case MSR_IA32_EFER:
        return F_GUEST_IA32_EFER;
    case MSR_IA32_PAT:
        return F_GUEST_IA32_PAT;
    case MSR_IA32_DEBUGCTL:
        return F_GUEST_IA32_DEBUGCTL;
    case MSR_IA32_SYSENTER_CS:
        return F_GUEST_SYSENTER_CS;
    case MSR_IA32_SYSENTER_ESP:
        return F_GUEST_SYSENTER_ESP;
    case MSR_IA32_SYSENTER_EIP:
        return F_GUEST_SYSENTER_EIP;
    case MSR_FS_BASE:
        return F_GUEST_FS_BASE;
    case MSR_GS_BASE:
        return F_GUEST_GS_BASE;
    default:
        return F_COUNT;
    }
}

#define DEBUGCTL_LBR  (1ull << 0)
#define DEBUGCTL_BTF  (1ull << 1)
#define DEBUGCTL_RARE 0xf800ull // freezing at a PMI and in SMM, uncore PMI, RTM: not every processor has each

// What lands in a guest-state field must be what a VM entry accepts, or L1's own entry fails: bits that this
// processor defines, and only it knows which. Trace messages and branch trace store (bits 10:6) belong to the
// DS save area, which L1 is not offered. L0's own value is 0, by the VM exit; LBR is left out of the
// question, for L0's branches are not L1's to read. Manual: IA32_DEBUGCTL MSR; Checks on Guest Control
// Registers, Debug Registers, and MSRs.
static bool debugctl_is_legal(struct nvmx_vcpu *vcpu, uint64_t value)
{
    uint64_t rare = value & ~(DEBUGCTL_LBR | DEBUGCTL_BTF);
    if (rare == 0)
        return true;
    if ((rare & ~DEBUGCTL_RARE) != 0 || !hw_wrmsr(vcpu->cpu, MSR_IA32_DEBUGCTL, rare))
        return false;
    hw_wrmsr(vcpu->cpu, MSR_IA32_DEBUGCTL, 0);
    return true;
}

static bool msr_value_is_legal(struct nvmx_vcpu *vcpu, uint32_t msr, uint64_t value)
{
    switch (msr) {
    case MSR_IA32_EFER: {
        uint64_t now = vmcs_read(vcpu, F_GUEST_IA32_EFER);
        bool paging = (vmcs_read(vcpu, F_GUEST_CR0) & CR0_PG) != 0;
        return (value & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)) == 0 &&
               !(paging && ((value ^ now) & EFER_LME) != 0);
    }
    case MSR_IA32_PAT:
        for (unsigned i = 0; i < 8; i++) {
            uint8_t type = (uint8_t)(value >> (8 * i));
            if (type > 7 || type == 2 || type == 3)
                return false;
        }
        return true;
    case MSR_IA32_DEBUGCTL:
        return debugctl_is_legal(vcpu, value);
    case MSR_IA32_SYSENTER_ESP:
    case MSR_IA32_SYSENTER_EIP:
        return address_is_canonical(value);
    default:
        return true;
    }
}

// MSRs that no list may name, and those that L0 keeps from L1.
static bool msr_is_refused(struct nvmx_vcpu *vcpu, const struct msr_entry *entry, bool write)
{
    if (entry->reserved != 0)
        return true;
    bool load_forbidden = entry->index == MSR_FS_BASE || entry->index == MSR_GS_BASE;
    if (write && load_forbidden)
        return true;
    if (entry->index >> 8 == 8) // local APIC in x2APIC mode
        return true;
    // What is in the VMCS is the engine's to write, whatever L0 does with L1's own WRMSR.
    return msr_field(entry->index) == F_COUNT && bitmaps_l0_intercepts_msr(vcpu, entry->index, write);
}

static bool msr_load(struct nvmx_vcpu *vcpu, const struct msr_entry *entry)
{
    if (msr_is_refused(vcpu, entry, true) || !msr_value_is_legal(vcpu, entry->index, entry->value))
        return false;
    enum vmcs_field field = msr_field(entry->index);
    if (field == F_COUNT)
        return hw_wrmsr(vcpu->cpu, entry->index, entry->value);
    uint64_t value = entry->value & field_mask(field); // IA32_SYSENTER_CS keeps 32 bits
    if (field == F_GUEST_IA32_EFER)                    // LMA is not writable
        value = (value & ~EFER_LMA) | (vmcs_read(vcpu, field) & EFER_LMA);
    nvmx_write(vcpu, field, value);
    return true;
}

// The manual recommends at most 512 * (1 + IA32_VMX_MISC bits 27:25) entries, and lets a processor do
// anything beyond that; L0 stops there, so that a list cannot keep it busy.
static uint32_t list_limit(const struct nvmx_vcpu *vcpu)
{
    uint64_t misc = vcpu->config.offered->msr[MSR_IA32_VMX_MISC - CAPS_MSR_FIRST];
    return 512 * (1 + (uint32_t)(misc >> 25 & 7));
}

uint32_t msr_list_load(struct nvmx_vcpu *vcpu, l1pa_t list, uint32_t count)
{
    const uint32_t limit = list_limit(vcpu);
    for (uint32_t i = 0; i < count; i++) {
        struct msr_entry entry;
        if (i >= limit || !port_l1_read(vcpu, l1pa(list.value + i * sizeof entry), &entry, sizeof entry) ||
            !msr_load(vcpu, &entry))
            return i + 1;
    }
    return 0;
}

uint32_t msr_list_store(struct nvmx_vcpu *vcpu, l1pa_t list, uint32_t count)
{
    const uint32_t limit = list_limit(vcpu);
    for (uint32_t i = 0; i < count; i++) {
        struct msr_entry entry;
        l1pa_t at = l1pa(list.value + i * sizeof entry);
        if (i >= limit || !port_l1_read(vcpu, at, &entry, sizeof entry) ||
            msr_is_refused(vcpu, &entry, false))
            return i + 1;
        enum vmcs_field field = msr_field(entry.index);
        if (field != F_COUNT)
            entry.value = vmcs_read(vcpu, field);
        else if (!hw_rdmsr(vcpu->cpu, entry.index, &entry.value))
            return i + 1;
        at.value += offsetof(struct msr_entry, value);
        port_l1_write(vcpu, at, &entry.value, sizeof entry.value); // into a hole: dropped
    }
    return 0;
}
