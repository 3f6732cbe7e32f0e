// SPDX-License-Identifier: MIT
// L1's INVEPT and INVVPID. ept02 and vpid02 are caches of L1's structures, as the processor's TLB is:
// dropping what L1 names is all there is to do, and nothing else is dropped. Manual: VMX Instruction
// Reference (INVEPT, INVVPID).
#include "engine.h"

#include <nvmx/check.h>

struct descriptor {
    uint64_t first, second;
};

static uint64_t operand_type(struct nvmx_vcpu *vcpu)
{
    uint64_t type = l1_gpr_read(vcpu, vcpu->exit.instruction_info >> 28);
    return l1_is_64bit(vcpu) ? type : (uint32_t)type;
}

// The 128-bit descriptor in memory, which is read only when the type is one that L1 has.
static enum access_result operand_read(struct nvmx_vcpu *vcpu, struct descriptor *descriptor)
{
    struct operand operand;
    if (l1_operand_decode(vcpu, sizeof *descriptor, false, &operand) != ACCESS_OK)
        return ACCESS_FAULT;
    return l1_linear_read(vcpu, operand.linear_address, descriptor, sizeof *descriptor);
}

static bool type_is_offered(const struct nvmx_vcpu *vcpu, uint64_t type, unsigned first_bit, unsigned types)
{
    uint64_t caps = vcpu->config.offered->msr[MSR_IA32_VMX_EPT_VPID_CAP - CAPS_MSR_FIRST];
    return type < types && ((caps >> (first_bit + type)) & 1) != 0;
}

void invalidate_ept(struct nvmx_vcpu *vcpu)
{
    uint64_t type = operand_type(vcpu);
    struct descriptor descriptor;
    // IA32_VMX_EPT_VPID_CAP bits 25 (single context, type 1) and 26 (all contexts, type 2)
    if (type == 0 || !type_is_offered(vcpu, type, 24, 3)) {
        instruction_fail(vcpu, VMERR_INVALID_OPERAND);
        return;
    }
    if (operand_read(vcpu, &descriptor) != ACCESS_OK)
        return;
    if (type == INVEPT_ALL_CONTEXTS) {
        ept02_drop_all(vcpu);
    } else {
        if (!check_ept_pointer(vcpu->config.offered, vcpu->config.l1_physical_address_width,
                               descriptor.first)) {
            instruction_fail(vcpu, VMERR_INVALID_OPERAND);
            return;
        }
        ept02_drop(vcpu, descriptor.first);
    }
    // Combined mappings of an L1 that runs its L2 without EPT are tagged with ept01: they are not what L1
    // means.
    instruction_succeed(vcpu);
}

void invalidate_vpid(struct nvmx_vcpu *vcpu)
{
    uint64_t type = operand_type(vcpu);
    struct descriptor descriptor;
    // IA32_VMX_EPT_VPID_CAP bits 40 to 43 are types 0 to 3
    if (!type_is_offered(vcpu, type, 40, 4)) {
        instruction_fail(vcpu, VMERR_INVALID_OPERAND);
        return;
    }
    if (operand_read(vcpu, &descriptor) != ACCESS_OK)
        return;
    uint16_t vpid12 = (uint16_t)descriptor.first;
    if (descriptor.first >> 16 != 0 || (type != INVVPID_ALL_CONTEXTS && vpid12 == 0) ||
        (type == INVVPID_INDIVIDUAL_ADDRESS && !address_is_canonical(descriptor.second))) {
        instruction_fail(vcpu, VMERR_INVALID_OPERAND);
        return;
    }
    vpid02_invalidate(vcpu, (enum hw_invvpid_type)type, vpid12, descriptor.second);
    instruction_succeed(vcpu);
}
