// SPDX-License-Identifier: MIT
// L1's memory at linear addresses, for the embedding hypervisor.
#include "engine.h"

bool nvmx_linear_read(struct nvmx_vcpu *vcpu, uint64_t linear, void *to, uint32_t size)
{
    return l1_linear_read(vcpu, linear, to, size) == ACCESS_OK;
}

bool nvmx_linear_write(struct nvmx_vcpu *vcpu, uint64_t linear, const void *from, uint32_t size)
{
    return l1_linear_write(vcpu, linear, from, size) == ACCESS_OK;
}
