// SPDX-License-Identifier: MIT
// L1's CPUID: the processor's answer, as far as it is true of L1, and L0's own leaves. The most frequent exit
// of many an L1, so there is nothing here that a leaf does not need.
#include "cpuid.h"

#include "string.h"

#include <silicon/x86.h>

#define LEAF_FEATURES        1u
#define LEAF_ADDRESS_SIZES   0x80000008u
#define HYPERVISOR_RANGE_END 0x40010000u

#define FEATURES_ECX_SMX        (1u << 6)
#define FEATURES_ECX_HYPERVISOR (1u << 31)

static struct nvmx_cpuid hypervisor_leaf(uint32_t leaf)
{
    struct nvmx_cpuid result = {0};
    if (leaf == CPUID_HYPERVISOR_FIRST) {
        result.eax = CPUID_HYPERVISOR_LAST;
        memcpy(&result.ebx, CPUID_HYPERVISOR_SIGNATURE, 4);
        memcpy(&result.ecx, CPUID_HYPERVISOR_SIGNATURE + 4, 4);
        memcpy(&result.edx, CPUID_HYPERVISOR_SIGNATURE + 8, 4);
    }
    return result;
}

static struct nvmx_cpuid processor_leaf(struct vcpu *vcpu, uint32_t leaf, uint32_t subleaf)
{
    struct x86_cpuid processor = x86_cpuid(leaf, subleaf);
    struct nvmx_cpuid result = {processor.eax, processor.ebx, processor.ecx, processor.edx};
    nvmx_cpuid_adjust(&vcpu->nvmx, leaf, subleaf, &result);
    if (leaf == LEAF_FEATURES) {
        result.ecx |= FEATURES_ECX_HYPERVISOR;
        result.ecx &= ~FEATURES_ECX_SMX; // GETSEC is not for L1
    } else if (leaf == LEAF_ADDRESS_SIZES) {
        result.eax = (result.eax & ~0xffu) | (uint32_t)vcpu->nvmx.config.l1_physical_address_width;
    }
    return result;
}

void cpuid_handle_exit(struct vcpu *vcpu)
{
    uint64_t *gpr = vcpu->nvmx.regs.gpr;
    uint32_t leaf = (uint32_t)gpr[GPR_RAX];
    struct nvmx_cpuid result = leaf >= CPUID_HYPERVISOR_FIRST && leaf < HYPERVISOR_RANGE_END
                                   ? hypervisor_leaf(leaf)
                                   : processor_leaf(vcpu, leaf, (uint32_t)gpr[GPR_RCX]);
    gpr[GPR_RAX] = result.eax;
    gpr[GPR_RBX] = result.ebx;
    gpr[GPR_RCX] = result.ecx;
    gpr[GPR_RDX] = result.edx;
    nvmx_skip_instruction(&vcpu->nvmx);
}
