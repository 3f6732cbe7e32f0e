// SPDX-License-Identifier: MIT
// Manual: Discovering Support for VMX; Enabling and Entering VMX Operation; Restrictions on VMX Operation.
#include "vmxon.h"

#include "direct_map.h"
#include "print.h"
#include "reserve.h"

#include <nvmx/controls.h>
#include <silicon/x86.h>

#define CPUID_1_ECX_VMX  (1u << 5)
#define CPUID_1_ECX_PDCM (1u << 15)
#define BASIC_REVISION   0x7fffffffu

#define CAP(caps, which) ((caps)->msr[MSR_IA32_VMX_##which - CAPS_MSR_FIRST])

static const char *check_feature_control(void)
{
    uint64_t control = x86_rdmsr(MSR_IA32_FEATURE_CONTROL);
    if ((control & FEATURE_CONTROL_LOCKED) == 0) {
        control |= FEATURE_CONTROL_LOCKED | FEATURE_CONTROL_VMX_OUTSIDE_SMX;
        x86_wrmsr(MSR_IA32_FEATURE_CONTROL, control);
    }
    if ((control & FEATURE_CONTROL_VMX_OUTSIDE_SMX) == 0)
        return "VT-x is disabled by the firmware (IA32_FEATURE_CONTROL is locked without it): enable it in "
               "the "
               "firmware's setup";
    return NULL;
}

static void read_features(struct hw_cpu *cpu, struct nvmx_caps *caps)
{
    struct nvmx_cpuid_words words = {0};
    uint32_t highest = x86_cpuid(0, 0).eax;
    if (highest >= 7) {
        struct x86_cpuid leaf = x86_cpuid(7, 0);
        words.leaf_7_ebx = leaf.ebx;
        words.leaf_7_ecx = leaf.ecx;
        words.leaf_7_1_eax = leaf.eax >= 1 ? x86_cpuid(7, 1).eax : 0;
    }
    if (highest >= 0xa) {
        struct x86_cpuid leaf = x86_cpuid(0xa, 0);
        words.leaf_a_eax = leaf.eax;
        words.leaf_a_ecx = leaf.ecx;
        words.leaf_a_edx = leaf.edx;
    }
    if ((x86_cpuid(1, 0).ecx & CPUID_1_ECX_PDCM) != 0)
        hw_rdmsr(cpu, MSR_IA32_PERF_CAPABILITIES, &words.perf_capabilities);
    nvmx_caps_take_cpuid(caps, &words);
}

const char *vmxon_check(struct nvmx_caps *caps)
{
    static char text[160];
    if ((x86_cpuid(1, 0).ecx & CPUID_1_ECX_VMX) == 0)
        return "this processor has no VT-x (CPUID does not report VMX)";
    const char *problem = check_feature_control();
    if (problem != NULL)
        return problem;
    nvmx_caps_read(&cpu_this()->hw, caps);
    read_features(&cpu_this()->hw, caps);
    const char *missing = nvmx_caps_missing_for_l0(caps);
    if (missing == NULL)
        return NULL;
    print_format(text, sizeof(text), "this processor's VT-x lacks what Plastron needs: %s", missing);
    return text;
}

const char *vmxon_enter(struct cpu *cpu, const struct nvmx_caps *caps)
{
    l0pa_t region = cpu->vmxon_region;
    *(uint32_t *)direct_map(region.value) = (uint32_t)CAP(caps, BASIC) & BASIC_REVISION;
    x86_write_cr0((x86_read_cr0() | CAP(caps, CR0_FIXED0)) & CAP(caps, CR0_FIXED1));
    x86_write_cr4((x86_read_cr4() | CAP(caps, CR4_FIXED0) | CR4_VMXE) & CAP(caps, CR4_FIXED1));
    if (hw_vmxon(&cpu->hw, region) != VMX_SUCCEED)
        return "VMXON failed";
    return NULL;
}
