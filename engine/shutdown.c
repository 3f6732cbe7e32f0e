// SPDX-License-Identifier: MIT
// The shutdown state of L1 or L2. A VM entry to it makes the bus cycle that shutdown makes, at which a
// platform resets. So it never reaches the hardware: a guest in shutdown is run in the HLT state, with
// interrupts disabled, in which NMIs, INIT and the preemption timer do what they do in shutdown, and nothing
// else does anything. Every exit finds the state as it was. Manual: Guest Non-Register State; Activity State
// (Loading Guest State).
#include "engine.h"

// What is substituted; the rules for HLT ask for CPL 0, which CS and SS say.
static const enum vmcs_field substituted[SHUTDOWN_FIELD_COUNT] = {
    F_GUEST_ACTIVITY_STATE, F_GUEST_RFLAGS,   F_GUEST_PENDING_DEBUG_EXCEPTIONS, F_GUEST_CS_ACCESS_RIGHTS,
    F_GUEST_CS_SELECTOR,    F_GUEST_CS_LIMIT, F_GUEST_SS_ACCESS_RIGHTS,         F_GUEST_SS_SELECTOR,
    F_GUEST_SS_LIMIT,       F_GUEST_SS_BASE,
};

static uint64_t substitute(enum vmcs_field field, uint64_t value)
{
    switch (field) {
    case F_GUEST_ACTIVITY_STATE:
        return ACTIVITY_HLT;
    case F_GUEST_RFLAGS:
        return value & ~(RFLAGS_IF | RFLAGS_TF | RFLAGS_VM);
    case F_GUEST_CS_ACCESS_RIGHTS:
        return SEGMENT_CODE_DPL_0 | (value & (SEGMENT_L | SEGMENT_DB));
    case F_GUEST_SS_ACCESS_RIGHTS:
        return SEGMENT_DATA_DPL_0;
    case F_GUEST_CS_LIMIT:
    case F_GUEST_SS_LIMIT:
        return 0xffffffff;
    case F_GUEST_CS_SELECTOR:
    case F_GUEST_SS_SELECTOR:
        return value & ~3ull; // RPL 0
    default:
        return 0;
    }
}

// Interrupts do not end shutdown, so those of L1's that would exit do not; an NMI comes to L0, which delivers
// it into the true state.
static uint64_t pin_in_shutdown(const struct nvmx_vcpu *vcpu, uint64_t pin)
{
    uint64_t unwanted =
        (PIN_EXTERNAL_INTERRUPT_EXITING | PIN_POSTED_INTERRUPTS) & ~(uint64_t)vcpu->config.policy.pin;
    return (pin & ~unwanted) | PIN_NMI_EXITING;
}

void shutdown_before_entry(struct nvmx_vcpu *vcpu)
{
    struct vmcs *vmcs = vcpu->current;
    vcpu->shutdown = false;
    if (vmcs_read(vcpu, F_GUEST_ACTIVITY_STATE) != ACTIVITY_SHUTDOWN)
        return;
    if ((vmcs_read(vcpu, F_VM_ENTRY_INTERRUPTION_INFO) & INTERRUPTION_VALID) != 0) {
        vmcs_write(vcpu, F_GUEST_ACTIVITY_STATE, ACTIVITY_ACTIVE); // where the injected event leads
        return;
    }
    vcpu->shutdown = true;
    for (unsigned i = 0; i < SHUTDOWN_FIELD_COUNT; i++) {
        vcpu->shutdown_saved[i] = vmcs_read(vcpu, substituted[i]);
        vmcs_write(vcpu, substituted[i], substitute(substituted[i], vcpu->shutdown_saved[i]));
    }
    vcpu->shutdown_pin = vmcs->written[F_PIN_BASED_CONTROLS];
    vmcs_write_if_changed(vcpu, vmcs, F_PIN_BASED_CONTROLS, pin_in_shutdown(vcpu, vcpu->shutdown_pin));
    // Virtual interrupts do not end it either; and their delivery needs external-interrupt exiting.
    vcpu->shutdown_secondary = vmcs->written[F_SECONDARY_CONTROLS];
    vmcs_write_if_changed(vcpu, vmcs, F_SECONDARY_CONTROLS,
                          vcpu->shutdown_secondary & ~(uint64_t)SECONDARY_VIRTUAL_INTERRUPT_DELIVERY);
}

void shutdown_after_exit(struct nvmx_vcpu *vcpu)
{
    for (unsigned i = 0; i < SHUTDOWN_FIELD_COUNT; i++)
        vmcs_write(vcpu, substituted[i], vcpu->shutdown_saved[i]);
    vmcs_write_if_changed(vcpu, vcpu->current, F_PIN_BASED_CONTROLS, vcpu->shutdown_pin);
    vmcs_write_if_changed(vcpu, vcpu->current, F_SECONDARY_CONTROLS, vcpu->shutdown_secondary);
}
