// SPDX-License-Identifier: MIT
// L0's view of physical memory: all of it, at one offset. Until relocation, only the first 4 GiB.
#ifndef PLASTRON_DIRECT_MAP_H
#define PLASTRON_DIRECT_MAP_H

#include <stdint.h>

#define DIRECT_MAP_BASE  0xffff800000000000ull
#define DIRECT_MAP_EARLY (1ull << 32)

static inline void *direct_map(uint64_t physical)
{
    return (void *)(DIRECT_MAP_BASE + physical);
}
static inline uint64_t direct_map_physical(const void *pointer)
{
    return (uint64_t)pointer - DIRECT_MAP_BASE;
}

#endif
