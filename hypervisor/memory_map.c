// SPDX-License-Identifier: MIT
#include "memory_map.h"

#include "string.h"

static bool insert(struct memory_map *map, uint64_t start, uint64_t end, uint32_t type)
{
    if (start >= end)
        return true;
    if (map->count == MEMORY_MAP_MAX)
        return false;
    uint32_t place = 0;
    while (place < map->count && map->range[place].start < start)
        place++;
    memmove(&map->range[place + 1], &map->range[place], (map->count - place) * sizeof(map->range[0]));
    map->range[place] = (struct memory_range){.start = start, .end = end, .type = type};
    map->count++;
    return true;
}

static void remove_at(struct memory_map *map, uint32_t place)
{
    map->count--;
    memmove(&map->range[place], &map->range[place + 1], (map->count - place) * sizeof(map->range[0]));
}

bool memory_map_set(struct memory_map *map, uint64_t start, uint64_t end, uint32_t type)
{
    for (uint32_t i = 0; i < map->count;) {
        struct memory_range old = map->range[i];
        if (old.end <= start || old.start >= end) {
            i++;
            continue;
        }
        remove_at(map, i);
        if (old.start < start && !insert(map, old.start, start, old.type))
            return false;
        if (old.end > end && !insert(map, end, old.end, old.type))
            return false;
        i = 0; // the insertions moved the ranges
    }
    if (!insert(map, start, end, type))
        return false;
    for (uint32_t i = 1; i < map->count;) {
        struct memory_range *left = &map->range[i - 1];
        if (left->end == map->range[i].start && left->type == map->range[i].type) {
            left->end = map->range[i].end;
            remove_at(map, i);
        } else {
            i++;
        }
    }
    return true;
}

bool memory_map_is_ram(const struct memory_map *map, uint64_t start, uint64_t end)
{
    for (uint32_t i = 0; i < map->count; i++)
        if (map->range[i].type == MEMORY_RAM && start >= map->range[i].start && end <= map->range[i].end)
            return start <= end;
    return false;
}

uint64_t memory_map_ram_size(const struct memory_map *map)
{
    uint64_t size = 0;
    for (uint32_t i = 0; i < map->count; i++)
        if (map->range[i].type == MEMORY_RAM)
            size += map->range[i].end - map->range[i].start;
    return size;
}

uint64_t memory_map_ram_end(const struct memory_map *map)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < map->count; i++)
        if (map->range[i].type == MEMORY_RAM)
            end = map->range[i].end;
    return end;
}

// The end of the highest candidate below `end` that avoids all of `taken`, going down; 0: none.
static uint64_t avoid(uint64_t start, uint64_t end, uint64_t size, uint64_t alignment,
                      const struct memory_range *taken, uint32_t taken_count)
{
    while (end >= size) {
        uint64_t base = (end - size) / alignment * alignment;
        if (base < start)
            return 0;
        uint64_t blocked = 0; // start of a taken range in the way
        for (uint32_t i = 0; i < taken_count; i++)
            if (taken[i].start < base + size && taken[i].end > base)
                blocked = taken[i].start;
        if (blocked == 0)
            return base;
        end = blocked;
    }
    return 0;
}

uint64_t memory_map_find(const struct memory_map *map, uint64_t size, uint64_t alignment, uint64_t limit,
                         const struct memory_range *taken, uint32_t taken_count)
{
    for (uint32_t i = map->count; i-- > 0;) {
        const struct memory_range *range = &map->range[i];
        if (range->type != MEMORY_RAM || range->start >= limit)
            continue;
        uint64_t end = range->end < limit ? range->end : limit;
        uint64_t base = avoid(range->start, end, size, alignment, taken, taken_count);
        if (base != 0)
            return base;
    }
    return 0;
}
