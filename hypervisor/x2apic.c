// SPDX-License-Identifier: MIT
// Manual: Extended XAPIC (x2APIC).
#include "x2apic.h"

#include "apic.h"
#include "msr.h"

enum register_kind {
    KIND_NONE,
    KIND_READ_ONLY,
    KIND_READ_WRITE,
    KIND_WRITE_ZERO,      // EOI: write-only
    KIND_READ_WRITE_ZERO, // ESR
    KIND_ID,
    KIND_LDR,
    KIND_ICR,
    KIND_SELF_IPI,
};

#define REGISTER(offset) [(offset) / 16]

// Table Local APIC Register Address Map Supported by x2APIC. What is not here does not exist.
static const uint8_t kinds[256] = {
    REGISTER(APIC_ID) = KIND_ID,
    REGISTER(APIC_VERSION) = KIND_READ_ONLY,
    REGISTER(APIC_TPR) = KIND_READ_WRITE,
    REGISTER(APIC_PPR) = KIND_READ_ONLY,
    REGISTER(APIC_EOI) = KIND_WRITE_ZERO,
    REGISTER(APIC_LDR) = KIND_LDR,
    REGISTER(APIC_SVR) = KIND_READ_WRITE,
    [APIC_ISR / 16 ... APIC_IRR_LAST / 16] = KIND_READ_ONLY,
    REGISTER(APIC_ESR) = KIND_READ_WRITE_ZERO,
    REGISTER(APIC_ICR) = KIND_ICR,
    REGISTER(APIC_LVT_TIMER) = KIND_READ_WRITE,
    REGISTER(APIC_LVT_THERMAL) = KIND_READ_WRITE,
    REGISTER(APIC_LVT_PERF) = KIND_READ_WRITE,
    REGISTER(APIC_LVT_LINT0) = KIND_READ_WRITE,
    REGISTER(APIC_LVT_LINT1) = KIND_READ_WRITE,
    REGISTER(APIC_LVT_ERROR) = KIND_READ_WRITE,
    REGISTER(APIC_INITIAL_COUNT) = KIND_READ_WRITE,
    REGISTER(APIC_CURRENT_COUNT) = KIND_READ_ONLY,
    REGISTER(APIC_DIVIDE) = KIND_READ_WRITE,
    REGISTER(APIC_SELF_IPI) = KIND_SELF_IPI,
};

static uint32_t offset_of(uint32_t msr)
{
    return (msr - APIC_X2APIC_FIRST) * 16;
}

// Logical Destination Mode in x2APIC Mode: 16 processors a cluster.
static uint32_t logical_id(uint32_t id)
{
    return id >> 4 << 16 | 1u << (id & 15);
}

void x2apic_set_emulated(struct vcpu *vcpu, bool emulated)
{
    if (emulated == vcpu->x2apic_emulated)
        return;
    vcpu->x2apic_emulated = emulated;
    msr_intercept_x2apic(vcpu, emulated);
    if (!emulated)
        return;
    // Devices address cluster 0 with 8 bits: the flat model says the same.
    uint32_t id = apic_id();
    apic_write(APIC_DFR, ~0u);
    apic_write(APIC_LDR, id < 8 ? 1u << (24 + id) : 0);
}

static void send_logical(uint32_t destination, uint32_t command)
{
    command &= ~ICR_LOGICAL;
    for (uint32_t i = 0; i < cpu_count; i++) {
        uint32_t logical = logical_id(cpu_list[i]->apic_id);
        bool everybody = destination == ~0u;
        bool same_cluster = destination >> 16 == logical >> 16;
        if (!everybody && (!same_cluster || (destination & logical & 0xffff) == 0))
            continue;
        if ((command & ICR_DELIVERY_MODE) == ICR_LOWEST_PRIORITY) { // any one of them may get it
            apic_send(cpu_list[i]->apic_id, command & ~ICR_DELIVERY_MODE);
            return;
        }
        apic_send(cpu_list[i]->apic_id, command);
    }
}

static void send(uint32_t destination, uint32_t command)
{
    if ((command & ICR_SHORTHAND) == 0 && (command & ICR_LOGICAL) != 0)
        send_logical(destination, command);
    else if (destination < 0xff || destination == ~0u || (command & ICR_SHORTHAND) != 0)
        apic_send(destination & 0xff, command);
    // else there is no such processor
}

bool x2apic_read(uint32_t msr, uint64_t *value)
{
    uint32_t offset = offset_of(msr);
    switch ((enum register_kind)kinds[offset / 16]) {
    case KIND_READ_ONLY:
    case KIND_READ_WRITE:
    case KIND_READ_WRITE_ZERO:
        *value = apic_read(offset);
        return true;
    case KIND_ID:
        *value = apic_id();
        return true;
    case KIND_LDR:
        *value = logical_id(apic_id());
        return true;
    case KIND_ICR: // the destination is the upper half of the xAPIC's: 8 bits of it
        *value = (uint64_t)(apic_read(APIC_ICR_HIGH) >> 24) << 32 | (apic_read(APIC_ICR) & ~ICR_PENDING);
        return true;
    default:
        return false;
    }
}

bool x2apic_write(uint32_t msr, uint64_t value)
{
    uint32_t offset = offset_of(msr);
    enum register_kind kind = (enum register_kind)kinds[offset / 16];
    if (kind == KIND_ICR) {
        send((uint32_t)(value >> 32), (uint32_t)value & ~ICR_PENDING);
        return true;
    }
    if (value >> 32 != 0)
        return false;
    switch (kind) {
    case KIND_READ_WRITE:
        apic_write(offset, (uint32_t)value);
        return true;
    case KIND_WRITE_ZERO:
    case KIND_READ_WRITE_ZERO:
        if (value != 0)
            return false;
        apic_write(offset, 0);
        return true;
    case KIND_SELF_IPI:
        if ((value & ~(uint64_t)ICR_VECTOR) != 0)
            return false;
        apic_send(0, ICR_SELF | ICR_ASSERT | (uint32_t)value);
        return true;
    default:
        return false;
    }
}
