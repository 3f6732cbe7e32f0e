// SPDX-License-Identifier: MIT
// The machine's memory map as the firmware reports it (E820), made sorted and free of overlaps.
#ifndef PLASTRON_MEMORY_MAP_H
#define PLASTRON_MEMORY_MAP_H

#include "load.h"

#define MEMORY_MAP_MAX 128

struct memory_map {
    struct memory_range range[MEMORY_MAP_MAX];
    uint32_t count;
};

// Makes [start, end) `type`, whatever was known of it before. false: the map is full.
bool memory_map_set(struct memory_map *map, uint64_t start, uint64_t end, uint32_t type);

bool memory_map_is_ram(const struct memory_map *map, uint64_t start, uint64_t end);
uint64_t memory_map_ram_size(const struct memory_map *map);
uint64_t memory_map_ram_end(const struct memory_map *map); // end of the highest RAM

// The highest free place for `size` bytes in RAM below `limit`, aligned; 0: none. `taken` are ranges to
// avoid.
uint64_t memory_map_find(const struct memory_map *map, uint64_t size, uint64_t alignment, uint64_t limit,
                         const struct memory_range *taken, uint32_t taken_count);

#endif
