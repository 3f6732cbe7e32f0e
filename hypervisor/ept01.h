// SPDX-License-Identifier: MIT
// ept01: L1's physical address space is the machine's, but for L0's reserved range, which looks like a hole:
// its pages read as all ones and cannot be written.
#ifndef PLASTRON_EPT01_H
#define PLASTRON_EPT01_H

#include <nvmx/nvmx.h>

// How wide L1's physical addresses are: the processor's width, or less where the map would be too big.
uint32_t ept01_address_width(const struct nvmx_caps *hardware);

// An upper bound for what ept01_build takes from the reserved range, in bytes.
uint64_t ept01_memory_size(const struct nvmx_caps *hardware);

// Builds it, once for all vcpus. The reserved range and the MTRRs must be known.
void ept01_build(const struct nvmx_caps *hardware);
uint64_t ept01_pointer(void);

// The same map with every page of the reserved range replaced by the writable page `scratch`; shares all
// tables that it can. Returns the EPT pointer.
uint64_t ept01_build_open(l0pa_t scratch);
#define EPT01_OPEN_PAGES 6 // an upper bound for what it takes

bool ept01_translate(l1pa_t at, struct port_mapping *mapping);

#endif
