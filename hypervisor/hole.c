// SPDX-License-Identifier: MIT
// The writing instruction is executed once with the range mapped to a scratch page of this vcpu, and then the
// map is closed again: whatever the instruction is, there is nothing to decode. Of L1, or of an L2 that runs
// without EPT of L1's: on ept01, too.
#include "hole.h"

#include "direct_map.h"
#include "ept01.h"
#include "reserve.h"
#include "string.h"

#include <nvmx/port.h>

void hole_init(struct vcpu *vcpu)
{
    vcpu->hole_scratch = reserve_allocate_pages(1);
    memset(direct_map(vcpu->hole_scratch.value), 0xff, PAGE_SIZE);
    vcpu->open_ept_pointer = ept01_build_open(vcpu->hole_scratch);
}

bool hole_handle_violation(struct vcpu *vcpu, uint64_t address)
{
    struct nvmx_vcpu *nvmx = &vcpu->nvmx;
    // With EPT of L1's, this is an access that the engine found refused: there is nothing to open.
    if (!reserve_overlaps(address, address + 1) || vcpu->hole_open ||
        nvmx_read(nvmx, F_EPT_POINTER) != nvmx->config.policy.ept_pointer)
        return false;
    vcpu->hole_open = true;
    nvmx_write(nvmx, F_EPT_POINTER, vcpu->open_ept_pointer);
    if (!nvmx_step_begin(nvmx)) // it may read back what it wrote; L0's memory stays out of reach all the same
        port_log(nvmx, "L0's memory range is written to: there is a scratch page for a while; address, RIP",
                 address, nvmx_read(nvmx, F_GUEST_RIP));
    return true;
}

void port_step_end(struct nvmx_vcpu *vcpu)
{
    struct vcpu *own = vcpu_of(vcpu);
    if (!own->hole_open)
        return;
    own->hole_open = false;
    nvmx_write(vcpu, F_EPT_POINTER, vcpu->config.policy.ept_pointer);
    memset(direct_map(own->hole_scratch.value), 0xff, PAGE_SIZE);
}
