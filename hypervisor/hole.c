// SPDX-License-Identifier: MIT
// The writing instruction is executed once with the range mapped to a scratch page of this vcpu, and then the
// map is closed again: whatever the instruction is, there is nothing to decode.
#include "hole.h"

#include "direct_map.h"
#include "ept01.h"
#include "log.h"
#include "reserve.h"
#include "string.h"

void hole_init(struct vcpu *vcpu)
{
    vcpu->hole_scratch = reserve_allocate_pages(1);
    memset(direct_map(vcpu->hole_scratch.value), 0xff, PAGE_SIZE);
    vcpu->open_ept_pointer = ept01_build_open(vcpu->hole_scratch);
}

static bool can_step(const struct vcpu *vcpu)
{
    return (nvmx_caps_allowed1(vcpu->nvmx.config.hardware, CAPS_PRIMARY) & PRIMARY_MONITOR_TRAP_FLAG) != 0;
}

static void set_stepping(struct vcpu *vcpu, bool stepping)
{
    struct nvmx_vcpu *nvmx = &vcpu->nvmx;
    uint64_t primary = nvmx_read(nvmx, F_PRIMARY_CONTROLS) & ~(uint64_t)PRIMARY_MONITOR_TRAP_FLAG;
    nvmx_write(nvmx, F_PRIMARY_CONTROLS, primary | (stepping ? PRIMARY_MONITOR_TRAP_FLAG : 0));
    nvmx_write(nvmx, F_EPT_POINTER, stepping ? vcpu->open_ept_pointer : nvmx->config.policy.ept_pointer);
    vcpu->hole_open = stepping;
}

bool hole_handle_violation(struct vcpu *vcpu, uint64_t address)
{
    if (!reserve_overlaps(address, address + 1))
        return false;
    if (!can_step(vcpu)) { // L1 may then read back what it wrote; L0's memory stays out of reach all the same
        nvmx_write(&vcpu->nvmx, F_EPT_POINTER, vcpu->open_ept_pointer);
        log_line("L1 wrote to L0's memory range at %lx: it has a scratch page there now", address);
        return true;
    }
    set_stepping(vcpu, true);
    return true;
}

void hole_handle_step(struct vcpu *vcpu)
{
    if (!vcpu->hole_open)
        return;
    set_stepping(vcpu, false);
    memset(direct_map(vcpu->hole_scratch.value), 0xff, PAGE_SIZE);
}
