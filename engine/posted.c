// SPDX-License-Identifier: MIT
// Posted interrupts, in software: vmcs02 does not have the control, so that a notification is an exit with an
// interrupt that the processor has acknowledged. (A quirk of some processors is why: they refuse descriptors
// that are not aligned to a page.) Manual: Posted-Interrupt Processing.
#include "engine.h"

#define DESCRIPTOR_NOTIFICATION 32u // bit 0 of this byte: outstanding; before it, 256 requests
#define VIRTUAL_APIC_IRR        0x200u

#define TRIES 8u

enum take { TAKEN, NO_MEMORY, OTHERS_WERE_FASTER };

// The word at `at` with `clear` cleared, atomically. Other processors of L1's may change it for as long as
// they like.
static enum take word_take(struct nvmx_vcpu *vcpu, l1pa_t at, uint64_t clear, uint64_t *was)
{
    uint64_t expected;
    if (!port_l1_read(vcpu, at, &expected, sizeof expected))
        return NO_MEMORY;
    for (unsigned i = 0; i < TRIES; i++) {
        if (!port_l1_compare_exchange(vcpu, at, expected, expected & ~clear, was))
            return NO_MEMORY;
        if (*was == expected)
            return TAKEN;
        expected = *was;
    }
    return OTHERS_WERE_FASTER;
}

// 32 requests become virtual interrupts that are requested.
static void request(struct nvmx_vcpu *vcpu, uint32_t index, uint32_t requests)
{
    uint32_t irr;
    l1pa_t at = l1pa(vmcs12_get(vcpu, F_VIRTUAL_APIC_ADDRESS) + VIRTUAL_APIC_IRR + 16ull * index);
    if (requests == 0 || !port_l1_read(vcpu, at, &irr, sizeof irr))
        return;
    irr |= requests;
    port_l1_write(vcpu, at, &irr, sizeof irr);
    uint32_t highest = 32 * index + 31 - (uint32_t)__builtin_clz(requests);
    uint64_t status = vmcs_read(vcpu, F_GUEST_INTERRUPT_STATUS);
    if (highest > (status & 0xff))
        vmcs_write(vcpu, F_GUEST_INTERRUPT_STATUS, (status & 0xff00) | highest);
}

// Whatever is taken twice is empty the second time. L2 does not run until all is taken.
bool posted_process(struct nvmx_vcpu *vcpu)
{
    uint64_t descriptor = vmcs12_get(vcpu, F_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS), word;
    if (word_take(vcpu, l1pa(descriptor + DESCRIPTOR_NOTIFICATION), 1, &word) == OTHERS_WERE_FASTER)
        return false;
    for (uint32_t i = 0; i < 4; i++) {
        enum take take = word_take(vcpu, l1pa(descriptor + i * sizeof word), ~0ull, &word);
        if (take == OTHERS_WERE_FASTER)
            return false;
        if (take == NO_MEMORY)
            continue;
        request(vcpu, 2 * i, (uint32_t)word);
        request(vcpu, 2 * i + 1, (uint32_t)(word >> 32));
    }
    vcpu->posted_pending = false;
    return true;
}

enum route posted_route(struct nvmx_vcpu *vcpu)
{
    uint32_t info = vcpu->exit.interruption_info;
    if ((vmcs12_pin(vcpu) & PIN_EXTERNAL_INTERRUPT_EXITING) == 0)
        return ROUTE_TO_L0;
    if ((vmcs12_pin(vcpu) & PIN_POSTED_INTERRUPTS) == 0 || (info & INTERRUPTION_VALID) == 0 ||
        (info & INTERRUPTION_VECTOR_MASK) != vmcs12_get(vcpu, F_POSTED_INTERRUPT_VECTOR))
        return ROUTE_TO_L1;
    // The end of the interrupt comes first, once: a notification that follows waits in the local APIC.
    port_end_interrupt(vcpu);
    vcpu->posted_pending = true;
    posted_process(vcpu);
    return ROUTE_HANDLED;
}
