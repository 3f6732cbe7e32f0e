// SPDX-License-Identifier: MIT
// Model-specific registers: those that the processor itself looks at, and some that only hold a value.
// Manual: Model-Specific Registers; appendix VMX Capability Reporting Facility.
#include "model.h"

#define MSR_TSC           0x10u
#define MSR_X2APIC_FIRST  0x800u
#define MSR_X2APIC_LAST   0x83fu
#define EFER_VALID        (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)
#define DEBUGCTL_VALID    0xffc3ull
#define XSS_VALID         (1ull << 8) // processor-trace state
#define APIC_BASE_DEFAULT 0xfee00900ull

// Those with no effect in the model but that they keep their value.
static bool is_storage(const struct processor *processor, uint32_t msr)
{
    switch (msr) {
    case MSR_IA32_APIC_BASE:
    case 0x8b:       // IA32_BIOS_SIGN_ID
    case 0x1a0:      // IA32_MISC_ENABLE
    case 0xc0000081: // IA32_STAR
    case 0xc0000082: // IA32_LSTAR
    case 0xc0000083: // IA32_CSTAR
    case 0xc0000084: // IA32_FMASK
    case 0xc0000102: // IA32_KERNEL_GS_BASE
    case 0xc0000103: // IA32_TSC_AUX
        return true;
    case MSR_XSS:
        return capability_allowed1(processor, WORD_SECONDARY) & SECONDARY_ENABLE_XSAVES;
    default:
        return msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST;
    }
}

static struct msr_value *storage(struct hw_cpu *cpu, uint32_t msr)
{
    for (unsigned i = 0; i < cpu->msr_count; i++)
        if (cpu->msr[i].msr == msr)
            return &cpu->msr[i];
    if (cpu->msr_count == MSR_STORAGE)
        rule_broken(cpu, "more MSRs than the model has room for");
    cpu->msr[cpu->msr_count] =
        (struct msr_value){.msr = msr, .value = msr == MSR_IA32_APIC_BASE ? APIC_BASE_DEFAULT : 0};
    return &cpu->msr[cpu->msr_count++];
}

static bool capability_exists(const struct processor *processor, uint32_t msr)
{
    if (msr < MSR_IA32_VMX_BASIC || msr > MSR_IA32_VMX_VMFUNC)
        return false;
    if (msr <= MSR_IA32_VMX_VMCS_ENUM)
        return true;
    return capability_msr(processor, msr) != 0;
}

bool pat_is_valid(uint64_t pat)
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned type = pat >> (8 * i) & 0xff;
        if (type > 7 || type == 2 || type == 3)
            return false;
    }
    return true;
}

static bool has_perf_global_ctrl(const struct hw_cpu *cpu)
{
    return capability_allowed1(cpu->machine->processor, WORD_ENTRY) & ENTRY_LOAD_PERF_GLOBAL_CTRL;
}

bool msr_read(struct hw_cpu *cpu, uint32_t msr, uint64_t *value)
{
    struct registers *r = &cpu->r;
    *value = 0;
    switch (msr) {
    case MSR_TSC:
        *value = cpu->tsc;
        return true;
    case MSR_IA32_FEATURE_CONTROL:
        *value = FEATURE_CONTROL_LOCKED | FEATURE_CONTROL_VMX_OUTSIDE_SMX;
        return true;
    case MSR_IA32_EFER:
        *value = r->efer;
        return true;
    case MSR_IA32_PAT:
        *value = r->pat;
        return true;
    case MSR_IA32_DEBUGCTL:
        *value = r->debugctl;
        return true;
    case MSR_IA32_PERF_GLOBAL_CTRL:
        *value = r->perf_global_ctrl;
        return has_perf_global_ctrl(cpu);
    case MSR_IA32_SYSENTER_CS:
        *value = r->sysenter_cs;
        return true;
    case MSR_IA32_SYSENTER_ESP:
        *value = r->sysenter_esp;
        return true;
    case MSR_IA32_SYSENTER_EIP:
        *value = r->sysenter_eip;
        return true;
    case MSR_FS_BASE:
        *value = r->segment[SEGMENT_FS].base;
        return true;
    case MSR_GS_BASE:
        *value = r->segment[SEGMENT_GS].base;
        return true;
    default:
        break;
    }
    if (capability_exists(cpu->machine->processor, msr)) {
        *value = capability_msr(cpu->machine->processor, msr);
        return true;
    }
    if (!is_storage(cpu->machine->processor, msr))
        return false;
    *value = storage(cpu, msr)->value;
    return true;
}

static bool write_efer(struct hw_cpu *cpu, uint64_t value)
{
    if (value & ~EFER_VALID)
        return false;
    if (((value ^ cpu->r.efer) & EFER_LME) && (cpu->r.cr0 & CR0_PG))
        return false;
    if ((value ^ cpu->r.efer) & EFER_NXE)
        tlb_flush_linear(cpu, tlb_vpid(cpu), -1, true);
    cpu->r.efer = (value & ~EFER_LMA) | (cpu->r.efer & EFER_LMA); // LMA is the processor's
    return true;
}

static bool write_canonical(uint64_t *to, uint64_t value)
{
    if (!is_canonical(value))
        return false;
    *to = value;
    return true;
}

bool msr_write(struct hw_cpu *cpu, uint32_t msr, uint64_t value)
{
    struct registers *r = &cpu->r;
    switch (msr) {
    case MSR_TSC:
        cpu->tsc = value;
        return true;
    case MSR_IA32_PRED_CMD: // write-only
        if (value & ~PRED_CMD_IBPB)
            return false;
        cpu->predictor_barrier_count += value;
        return true;
    case MSR_IA32_EFER:
        return write_efer(cpu, value);
    case MSR_IA32_PAT:
        if (!pat_is_valid(value))
            return false;
        r->pat = value;
        return true;
    case MSR_IA32_DEBUGCTL:
        if (value & (~DEBUGCTL_VALID | cpu->machine->processor->debugctl_missing))
            return false;
        r->debugctl = value;
        return true;
    case MSR_IA32_PERF_GLOBAL_CTRL:
        r->perf_global_ctrl = value;
        return has_perf_global_ctrl(cpu);
    case MSR_IA32_SYSENTER_CS:
        r->sysenter_cs = (uint32_t)value;
        return true;
    case MSR_IA32_SYSENTER_ESP:
        return write_canonical(&r->sysenter_esp, value);
    case MSR_IA32_SYSENTER_EIP:
        return write_canonical(&r->sysenter_eip, value);
    case MSR_FS_BASE:
        return write_canonical(&r->segment[SEGMENT_FS].base, value);
    case MSR_GS_BASE:
        return write_canonical(&r->segment[SEGMENT_GS].base, value);
    case MSR_XSS:
        if (value & ~XSS_VALID)
            return false;
        break;
    case 0xc0000082:
    case 0xc0000083:
    case 0xc0000102:
        return write_canonical(&storage(cpu, msr)->value, value);
    default:
        break;
    }
    if (!is_storage(cpu->machine->processor, msr) || msr == 0x802 ||
        msr == 0x803) // x2APIC ID and version are read-only
        return false;
    storage(cpu, msr)->value = value;
    return true;
}
