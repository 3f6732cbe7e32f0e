// SPDX-License-Identifier: MIT
#include "reserve.h"

#include "direct_map.h"
#include "string.h"

#include <nvmx/port.h>

static uint64_t range_start, range_end, next;

void reserve_init(uint64_t start, uint64_t size, uint64_t image_size)
{
    range_start = start;
    range_end = start + size;
    next = start + (image_size + PAGE_SIZE - 1) / PAGE_SIZE * PAGE_SIZE;
}

uint64_t reserve_start(void)
{
    return range_start;
}

uint64_t reserve_end(void)
{
    return range_end;
}

void *reserve_allocate(uint64_t size)
{
    uint64_t rounded = (size + PAGE_SIZE - 1) / PAGE_SIZE * PAGE_SIZE;
    if (rounded > range_end - next)
        port_bug("L0's reserved range is used up: bytes wanted, bytes left", rounded, range_end - next);
    void *memory = direct_map(next);
    next += rounded;
    return memset(memory, 0, rounded);
}

l0pa_t reserve_allocate_pages(uint32_t count)
{
    return l0pa(direct_map_physical(reserve_allocate(count * PAGE_SIZE)));
}
