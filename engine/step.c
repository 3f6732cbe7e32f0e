// SPDX-License-Identifier: MIT
// One instruction for L0 (monitor trap flag), and the controls that L0 changes in the VMCS of whoever runs
// for a while: one function makes them, of what they would be and of what is wanted at this moment. Manual:
// Monitor Trap Flag; Injection of Pending MTF VM Exits; NMI-Window Exiting.
#include "engine.h"

static bool has_trap(const struct nvmx_vcpu *vcpu)
{
    return (nvmx_caps_allowed1(vcpu->config.hardware, CAPS_PRIMARY) & PRIMARY_MONITOR_TRAP_FLAG) != 0;
}

void step_compose_controls(struct nvmx_vcpu *vcpu)
{
    struct vmcs *vmcs = vcpu->current;
    if (!vcpu->composed) {
        vcpu->base_pin = vmcs->written[F_PIN_BASED_CONTROLS];
        vcpu->base_primary = vmcs->written[F_PRIMARY_CONTROLS];
    }
    uint64_t pin = vcpu->base_pin, primary = vcpu->base_primary;
    if (vcpu->nmi_window) {
        pin |= PIN_NMI_EXITING | PIN_VIRTUAL_NMIS;
        primary |= vcpu->nmi_window_control;
    }
    if (vcpu->step && has_trap(vcpu))
        primary |= PRIMARY_MONITOR_TRAP_FLAG;
    vmcs_write_if_changed(vcpu, vmcs, F_PIN_BASED_CONTROLS, pin);
    vmcs_write_if_changed(vcpu, vmcs, F_PRIMARY_CONTROLS, primary);
    vcpu->composed = vcpu->nmi_window || vcpu->step;
}

void step_write_control(struct nvmx_vcpu *vcpu, enum vmcs_field field, uint64_t value)
{
    if (!vcpu->composed) {
        vmcs_write_if_changed(vcpu, vcpu->current, field, value);
        return;
    }
    *(field == F_PIN_BASED_CONTROLS ? &vcpu->base_pin : &vcpu->base_primary) = value;
    step_compose_controls(vcpu);
}

bool nvmx_step_begin(struct nvmx_vcpu *vcpu)
{
    vcpu->step = true;
    step_compose_controls(vcpu);
    return has_trap(vcpu);
}

void step_end(struct nvmx_vcpu *vcpu)
{
    if (!vcpu->step)
        return;
    vcpu->step = false;
    step_compose_controls(vcpu);
    ept02_close_holes(vcpu);
    port_step_end(vcpu);
}
