// SPDX-License-Identifier: MIT
// L2's VMFUNC. vmcs02 enables the instruction as L1 does, and none of the functions, so that each exits.
// Manual: VM Functions (General Operation of the VMFUNC Instruction; EPTP Switching).
#include "engine.h"

#include <nvmx/check.h>

#define FUNCTION_EPTP_SWITCHING 0u
#define EPTP_LIST_LENGTH        512

// false: the VM exit of a VMFUNC that fails.
static bool eptp_switch(struct nvmx_vcpu *vcpu)
{
    uint32_t index = (uint32_t)vcpu->regs.gpr[GPR_RCX];
    if (index >= EPTP_LIST_LENGTH)
        return false;
    l1pa_t at = l1pa(vmcs12_get(vcpu, F_EPTP_LIST_ADDRESS) + index * sizeof(uint64_t));
    uint64_t eptp12;
    if (!port_l1_read(vcpu, at, &eptp12, sizeof eptp12) ||
        !check_ept_pointer(vcpu->config.offered, vcpu->config.l1_physical_address_width, eptp12))
        return false;
    vcpu->vmcs12.field[F_EPT_POINTER] = eptp12;
    if (field_set_has(&vcpu->exists_l1, F_EPTP_INDEX))
        vcpu->vmcs12.field[F_EPTP_INDEX] = index;
    vmcs_write_if_changed(vcpu, &vcpu->vmcs02, F_EPT_POINTER, ept02_use(vcpu, eptp12));
    return true;
}

enum route vm_function_route(struct nvmx_vcpu *vcpu)
{
    uint32_t function = (uint32_t)vcpu->regs.gpr[GPR_RAX];
    bool enabled = (vmcs12_secondary(vcpu) & SECONDARY_ENABLE_VMFUNC) != 0 &&
                   (vmcs12_get(vcpu, F_VM_FUNCTION_CONTROLS) & VMFUNC_EPTP_SWITCHING) != 0;
    if (function != FUNCTION_EPTP_SWITCHING || !enabled || !eptp_switch(vcpu))
        return ROUTE_TO_L1;
    nvmx_skip_instruction(vcpu);
    return ROUTE_HANDLED;
}
