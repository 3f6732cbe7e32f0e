// SPDX-License-Identifier: MIT
// The one rule of VM entry about memory that L1's other processors, and L2 itself, may change at any moment:
// with a TPR shadow and without what else virtualizes the APIC, the TPR threshold must not exceed VTPR's
// class. What our check saw the processor need not see any more, and L0 enters L2 many times for one VMLAUNCH
// of L1's. A bare processor looks once, and may have looked before the change: L2 is entered, with a
// threshold that VTPR permits. Until its next exit a MOV to CR8 of a value between the two goes unnoticed.
// Manual: VM-Execution Control Fields (Checks on VMX Controls); TPR Virtualization.
#include "engine.h"

#define VIRTUAL_APIC_TPR 0x80u

bool vtpr_class_read(struct nvmx_vcpu *vcpu, uint8_t *class)
{
    uint32_t vtpr;
    l1pa_t at = l1pa(vmcs12_get(vcpu, F_VIRTUAL_APIC_ADDRESS) + VIRTUAL_APIC_TPR);
    if (!port_l1_read(vcpu, at, &vtpr, sizeof vtpr))
        return false;
    *class = (uint8_t)(vtpr >> 4 & 0xf);
    return true;
}

static bool rule_applies(const struct nvmx_vcpu *vcpu)
{
    return (vmcs12_primary(vcpu) & PRIMARY_USE_TPR_SHADOW) != 0 &&
           (vmcs12_secondary(vcpu) &
            (SECONDARY_VIRTUALIZE_APIC_ACCESSES | SECONDARY_VIRTUAL_INTERRUPT_DELIVERY)) == 0;
}

bool tpr_race_lost(struct nvmx_vcpu *vcpu)
{
    uint64_t threshold = vcpu->vmcs02.written[F_TPR_THRESHOLD];
    uint8_t class = 0;
    if (!vcpu->in_l2 || !rule_applies(vcpu) || (threshold & 0xf) == 0)
        return false; // 0 is what VTPR always permits
    if (!vcpu->tpr_lowered) {
        vcpu->tpr_lowered = true;
        vcpu->tpr_threshold = threshold;
        vtpr_class_read(vcpu, &class); // without memory: 0
    }
    vmcs_write_if_changed(vcpu, &vcpu->vmcs02, F_TPR_THRESHOLD, class < threshold ? class : 0);
    return true;
}

void tpr_race_restore(struct nvmx_vcpu *vcpu)
{
    if (!vcpu->tpr_lowered)
        return;
    vcpu->tpr_lowered = false;
    vmcs_write_if_changed(vcpu, &vcpu->vmcs02, F_TPR_THRESHOLD, vcpu->tpr_threshold);
}
