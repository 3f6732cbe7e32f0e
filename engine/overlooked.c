// SPDX-License-Identifier: MIT
// Quirk of some processors: a VM entry does not look for what is due at L2's first instruction boundary. An
// interrupt that exits although RFLAGS.IF is 0 goes unnoticed until IF changes; and in the HLT state also
// whatever needs IF = 1 does (an interrupt window, an interrupt of either kind), and L2 sleeps for ever.
// These entries are made with IF = 1 and in the active state: L2 still executes no instruction before the
// event, and the exit is told as if nothing had been changed. An NMI that L2 takes itself at the same
// boundary is the exception: it pushes the changed flags. Manual: Guest Non-Register State; Interrupt-Window
// Exiting and Virtual-Interrupt Delivery; External-Interrupt Exiting (Other Causes of VM Exits).
#include "engine.h"

static uint8_t priority_class(uint64_t vector)
{
    return (uint8_t)(vector >> 4 & 15);
}

// PPR Virtualization; Evaluation of Pending Virtual Interrupts
static bool virtual_interrupt_is_due(struct nvmx_vcpu *vcpu)
{
    if ((vmcs12_secondary(vcpu) & SECONDARY_VIRTUAL_INTERRUPT_DELIVERY) == 0)
        return false;
    uint8_t tpr;
    if (!vtpr_class_read(vcpu, &tpr))
        return false;
    uint64_t status = vmcs_read(vcpu, F_GUEST_INTERRUPT_STATUS);
    uint8_t rvi = priority_class(status), svi = priority_class(status >> 8);
    return rvi > svi && rvi > tpr;
}

static bool event_is_due(struct nvmx_vcpu *vcpu, bool halted, bool interrupts_enabled)
{
    bool exits = (vmcs12_pin(vcpu) & PIN_EXTERNAL_INTERRUPT_EXITING) != 0;
    if (!interrupts_enabled)
        return exits && port_interrupt_is_due(vcpu);
    if (!halted)
        return false; // what is due is found
    return (vmcs12_primary(vcpu) & PRIMARY_INTERRUPT_WINDOW_EXITING) != 0 || virtual_interrupt_is_due(vcpu) ||
           port_interrupt_is_due(vcpu);
}

void overlooked_before_entry(struct nvmx_vcpu *vcpu)
{
    struct overlooked *saved = &vcpu->overlooked;
    uint64_t activity = vmcs_read(vcpu, F_GUEST_ACTIVITY_STATE), rflags = vmcs_read(vcpu, F_GUEST_RFLAGS);
    if (activity > ACTIVITY_HLT || vmcs_read(vcpu, F_GUEST_PENDING_DEBUG_EXCEPTIONS) != 0)
        return;
    uint64_t interruptibility = vmcs_read(vcpu, F_GUEST_INTERRUPTIBILITY);
    if ((interruptibility & (INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS)) != 0)
        return; // nothing is due yet
    if (!event_is_due(vcpu, activity == ACTIVITY_HLT, (rflags & RFLAGS_IF) != 0))
        return;
    *saved = (struct overlooked){
        .changed = true, .rip = vmcs_read(vcpu, F_GUEST_RIP), .rflags = rflags, .activity = activity};
    vmcs_write(vcpu, F_GUEST_RFLAGS, rflags | RFLAGS_IF);
    vmcs_write(vcpu, F_GUEST_ACTIVITY_STATE, ACTIVITY_ACTIVE);
}

void overlooked_undo(struct nvmx_vcpu *vcpu)
{
    const struct overlooked *saved = &vcpu->overlooked;
    if (!saved->changed)
        return;
    vcpu->overlooked.changed = false;
    vmcs_write(vcpu, F_GUEST_RFLAGS, saved->rflags);
    vmcs_write(vcpu, F_GUEST_ACTIVITY_STATE, saved->activity);
}

void overlooked_after_exit(struct nvmx_vcpu *vcpu)
{
    if (vmcs_read(vcpu, F_GUEST_RIP) != vcpu->overlooked.rip || vcpu->exit.idt_vectoring_info != 0)
        vcpu->overlooked.changed = false; // an interrupt was delivered: L2 woke up
    overlooked_undo(vcpu);
}
