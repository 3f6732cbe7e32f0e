// SPDX-License-Identifier: MIT
// Kinds of processors: their VMX capability MSRs, and what these permit.
// Manual: appendix VMX Capability Reporting Facility.
#include "model.h"

#define CAP(msr_name) [MSR_IA32_VMX_##msr_name - CAPS_MSR_FIRST]

// Any control may be 1; 0 is refused where the low half has a 1.
const struct processor processor_rich = {
    .name = "rich",
    .physical_address_width = 40,
    .vmx = {.msr =
                {
                    CAP(BASIC) = 0x00d810000000002b,
                    CAP(PINBASED_CTLS) = 0x000000ff00000016,
                    CAP(PROCBASED_CTLS) = 0xfff9fffe0401e172,
                    CAP(EXIT_CTLS) = 0x407fffff00036dff,
                    CAP(ENTRY_CTLS) = 0x0000ffff000011ff,
                    CAP(MISC) = 0x600401e0,
                    CAP(CR0_FIXED0) = 0x80000021,
                    CAP(CR0_FIXED1) = 0xffffffff,
                    CAP(CR4_FIXED0) = 0x2000,
                    CAP(CR4_FIXED1) = 0x3727ff,
                    CAP(VMCS_ENUM) = 0x50,
                    CAP(PROCBASED_CTLS2) = 0x02577fff00000000,
                    CAP(EPT_VPID_CAP) = 0x00000f0106734141,
                    CAP(TRUE_PINBASED_CTLS) = 0x000000ff00000016,
                    CAP(TRUE_PROCBASED_CTLS) = 0xfff9fffe04006172,
                    CAP(TRUE_EXIT_CTLS) = 0x407fffff00036dfb,
                    CAP(TRUE_ENTRY_CTLS) = 0x0000ffff000011fb,
                    CAP(VMFUNC) = 1,
                }},
};

const struct processor processor_no_vpid = {
    .name = "without VPID",
    .physical_address_width = 40,
    .vmx = {.msr =
                {
                    CAP(BASIC) = 0x00d810000000002b,
                    CAP(PINBASED_CTLS) = 0x0000007f00000016,
                    CAP(PROCBASED_CTLS) = 0xfff9fffe0401e172,
                    CAP(EXIT_CTLS) = 0x007fffff00036dff,
                    CAP(ENTRY_CTLS) = 0x0000ffff000011ff,
                    CAP(MISC) = 0x600401e0,
                    CAP(CR0_FIXED0) = 0x80000021,
                    CAP(CR0_FIXED1) = 0xffffffff,
                    CAP(CR4_FIXED0) = 0x2000,
                    CAP(CR4_FIXED1) = 0x3727ff,
                    CAP(VMCS_ENUM) = 0x2e,
                    CAP(PROCBASED_CTLS2) = 0x000000ce00000000,
                    CAP(EPT_VPID_CAP) = 0x0000000006734141,
                    CAP(TRUE_PINBASED_CTLS) = 0x0000007f00000016,
                    CAP(TRUE_PROCBASED_CTLS) = 0xfff9fffe04006172,
                    CAP(TRUE_EXIT_CTLS) = 0x007fffff00036dfb,
                    CAP(TRUE_ENTRY_CTLS) = 0x0000ffff000011fb,
                }},
};

// EPT without accessed and dirty flags, 1-GByte pages or execute-only; no preemption timer, no virtual NMIs,
// no TPR shadow; no activity states but active and HLT, which every processor has; read-only fields are so.
const struct processor processor_sparse = {
    .name = "sparse",
    .physical_address_width = 36,
    .vmx = {.msr =
                {
                    CAP(BASIC) = 0x00d8100000000011,
                    CAP(PINBASED_CTLS) = 0x0000001f00000016,
                    CAP(PROCBASED_CTLS) = 0xb7b9fffe0401e172,
                    CAP(EXIT_CTLS) = 0x003fffff00036dff,
                    CAP(ENTRY_CTLS) = 0x0000d3ff000011ff,
                    CAP(MISC) = 0x00040060,
                    CAP(CR0_FIXED0) = 0x80000021,
                    CAP(CR0_FIXED1) = 0xffffffff,
                    CAP(CR4_FIXED0) = 0x2000,
                    CAP(CR4_FIXED1) = 0x27ff,
                    CAP(VMCS_ENUM) = 0x2a,
                    CAP(PROCBASED_CTLS2) = 0x0000008200000000,
                    CAP(EPT_VPID_CAP) = 0x0000000006114140,
                    CAP(TRUE_PINBASED_CTLS) = 0x0000001f00000016,
                    CAP(TRUE_PROCBASED_CTLS) = 0xb7b9fffe04006172,
                    CAP(TRUE_EXIT_CTLS) = 0x003fffff00036dfb,
                    CAP(TRUE_ENTRY_CTLS) = 0x0000d3ff000011fb,
                }},
};

const struct processor processor_no_unrestricted_guest = {
    .name = "without unrestricted guest",
    .physical_address_width = 36,
    .vmx = {.msr =
                {
                    CAP(BASIC) = 0x00d810000000000f,
                    CAP(PINBASED_CTLS) = 0x0000007f00000016,
                    CAP(PROCBASED_CTLS) = 0xfff9fffe0401e172,
                    CAP(EXIT_CTLS) = 0x007fffff00036dff,
                    CAP(ENTRY_CTLS) = 0x0000ffff000011ff,
                    CAP(MISC) = 0x000401e0,
                    CAP(CR0_FIXED0) = 0x80000021,
                    CAP(CR0_FIXED1) = 0xffffffff,
                    CAP(CR4_FIXED0) = 0x2000,
                    CAP(CR4_FIXED1) = 0x27ff,
                    CAP(VMCS_ENUM) = 0x2e,
                    CAP(PROCBASED_CTLS2) = 0x0000006f00000000,
                    CAP(EPT_VPID_CAP) = 0x00000f0106114141,
                    CAP(TRUE_PINBASED_CTLS) = 0x0000007f00000016,
                    CAP(TRUE_PROCBASED_CTLS) = 0xfff9fffe04006172,
                    CAP(TRUE_EXIT_CTLS) = 0x007fffff00036dfb,
                    CAP(TRUE_ENTRY_CTLS) = 0x0000ffff000011fb,
                }},
};

const struct processor processor_no_ept = {
    .name = "without EPT",
    .physical_address_width = 36,
    .vmx = {.msr =
                {
                    CAP(BASIC) = 0x005810000000000d,
                    CAP(PINBASED_CTLS) = 0x0000003f00000016,
                    CAP(PROCBASED_CTLS) = 0xf7f9fffe0401e172,
                    CAP(EXIT_CTLS) = 0x0003ffff00036dff,
                    CAP(ENTRY_CTLS) = 0x00003fff000011ff,
                    CAP(MISC) = 0x000403c0,
                    CAP(CR0_FIXED0) = 0x80000021,
                    CAP(CR0_FIXED1) = 0xffffffff,
                    CAP(CR4_FIXED0) = 0x2000,
                    CAP(CR4_FIXED1) = 0x27ff,
                    CAP(VMCS_ENUM) = 0x2a,
                    CAP(PROCBASED_CTLS2) = 0x0000004100000000,
                }},
};

// EPT with accessed and dirty flags, VM functions and VMCS shadowing; neither PML, #VE, mode-based execute
// control, XSAVES nor TSC scaling; the TPR shadow is all of APIC virtualization.
const struct processor processor_without_pml = {
    .name = "without PML, #VE and MBEC",
    .physical_address_width = 39,
    .vmx = {.msr =
                {
                    CAP(BASIC) = 0x00d8100000000012,
                    CAP(PINBASED_CTLS) = 0x0000007f00000016,
                    CAP(PROCBASED_CTLS) = 0xfff9fffe0401e172,
                    CAP(EXIT_CTLS) = 0x007fffff00036dff,
                    CAP(ENTRY_CTLS) = 0x0000ffff000011ff,
                    CAP(MISC) = 0x300401e5,
                    CAP(CR0_FIXED0) = 0x80000021,
                    CAP(CR0_FIXED1) = 0xffffffff,
                    CAP(CR4_FIXED0) = 0x2000,
                    CAP(CR4_FIXED1) = 0x1727ff,
                    CAP(VMCS_ENUM) = 0x2e,
                    CAP(PROCBASED_CTLS2) = 0x00007cee00000000,
                    CAP(EPT_VPID_CAP) = 0x00000f0106334141,
                    CAP(TRUE_PINBASED_CTLS) = 0x0000007f00000016,
                    CAP(TRUE_PROCBASED_CTLS) = 0xfff9fffe04006172,
                    CAP(TRUE_EXIT_CTLS) = 0x007fffff00036dfb,
                    CAP(TRUE_ENTRY_CTLS) = 0x0000ffff000011fb,
                    CAP(VMFUNC) = 1,
                }},
};

// All of "rich" but accessed and dirty flags for EPT (and what needs them), and with SMX.
const struct processor processor_smx = {
    .name = "with SMX, without accessed and dirty flags",
    .physical_address_width = 46,
    .vmx = {.msr =
                {
                    CAP(BASIC) = 0x00d8100000000013,
                    CAP(PINBASED_CTLS) = 0x000000ff00000016,
                    CAP(PROCBASED_CTLS) = 0xfff9fffe0401e172,
                    CAP(EXIT_CTLS) = 0x007fffff00036dff,
                    CAP(ENTRY_CTLS) = 0x0000ffff000011ff,
                    CAP(MISC) = 0x600401e7,
                    CAP(CR0_FIXED0) = 0x80000021,
                    CAP(CR0_FIXED1) = 0xffffffff,
                    CAP(CR4_FIXED0) = 0x2000,
                    CAP(CR4_FIXED1) = 0x3767ff,
                    CAP(VMCS_ENUM) = 0x32,
                    CAP(PROCBASED_CTLS2) = 0x02557fff00000000,
                    CAP(EPT_VPID_CAP) = 0x00000f0106534141,
                    CAP(TRUE_PINBASED_CTLS) = 0x000000ff00000016,
                    CAP(TRUE_PROCBASED_CTLS) = 0xfff9fffe04006172,
                    CAP(TRUE_EXIT_CTLS) = 0x007fffff00036dfb,
                    CAP(TRUE_ENTRY_CTLS) = 0x0000ffff000011fb,
                    CAP(VMFUNC) = 1,
                }},
};

// "Rich", and its CR4 has what L1 is offered (CET, protection keys) and what it is not (LA57).
const struct processor processor_new = {
    .name = "new",
    .physical_address_width = 40,
    .vmx = {.msr =
                {
                    CAP(BASIC) = 0x00d810000000002b,
                    CAP(PINBASED_CTLS) = 0x000000ff00000016,
                    CAP(PROCBASED_CTLS) = 0xfff9fffe0401e172,
                    CAP(EXIT_CTLS) = 0x407fffff00036dff,
                    CAP(ENTRY_CTLS) = 0x0000ffff000011ff,
                    CAP(MISC) = 0x600401e0,
                    CAP(CR0_FIXED0) = 0x80000021,
                    CAP(CR0_FIXED1) = 0xffffffff,
                    CAP(CR4_FIXED0) = 0x2000,
                    CAP(CR4_FIXED1) = 0xff37ff,
                    CAP(VMCS_ENUM) = 0x32,
                    CAP(PROCBASED_CTLS2) = 0x02577fff00000000,
                    CAP(EPT_VPID_CAP) = 0x00000f0106734141,
                    CAP(TRUE_PINBASED_CTLS) = 0x000000ff00000016,
                    CAP(TRUE_PROCBASED_CTLS) = 0xfff9fffe04006172,
                    CAP(TRUE_EXIT_CTLS) = 0x407fffff00036dfb,
                    CAP(TRUE_ENTRY_CTLS) = 0x0000ffff000011fb,
                    CAP(VMFUNC) = 1,
                }},
};

uint64_t capability_msr(const struct processor *processor, uint32_t msr)
{
    return processor->vmx.msr[msr - CAPS_MSR_FIRST];
}

// IA32_VMX_BASIC bit 55: the TRUE MSRs exist, and say which controls of the "default1" class may be 0.
static uint64_t control_msr(const struct processor *processor, enum control_word word)
{
    bool has_true = capability_msr(processor, MSR_IA32_VMX_BASIC) >> 55 & 1;
    switch (word) {
    case WORD_PIN:
        return capability_msr(processor,
                              has_true ? MSR_IA32_VMX_TRUE_PINBASED_CTLS : MSR_IA32_VMX_PINBASED_CTLS);
    case WORD_PRIMARY:
        return capability_msr(processor,
                              has_true ? MSR_IA32_VMX_TRUE_PROCBASED_CTLS : MSR_IA32_VMX_PROCBASED_CTLS);
    case WORD_EXIT:
        return capability_msr(processor, has_true ? MSR_IA32_VMX_TRUE_EXIT_CTLS : MSR_IA32_VMX_EXIT_CTLS);
    case WORD_ENTRY:
        return capability_msr(processor, has_true ? MSR_IA32_VMX_TRUE_ENTRY_CTLS : MSR_IA32_VMX_ENTRY_CTLS);
    case WORD_SECONDARY:
        break;
    }
    if (!(capability_msr(processor, MSR_IA32_VMX_PROCBASED_CTLS) >> 63 & 1))
        return 0; // no secondary controls
    return capability_msr(processor, MSR_IA32_VMX_PROCBASED_CTLS2);
}

uint32_t capability_allowed1(const struct processor *processor, enum control_word word)
{
    return (uint32_t)(control_msr(processor, word) >> 32);
}

uint32_t capability_allowed0(const struct processor *processor, enum control_word word)
{
    return (uint32_t)control_msr(processor, word);
}

bool capability_ept(const struct processor *processor, uint64_t bit)
{
    return capability_msr(processor, MSR_IA32_VMX_EPT_VPID_CAP) & bit;
}

bool capability_misc(const struct processor *processor, uint64_t bit)
{
    return capability_msr(processor, MSR_IA32_VMX_MISC) & bit;
}
