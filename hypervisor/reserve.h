// SPDX-License-Identifier: MIT
// The range of memory that is L0's: the image, and everything else in pages that are never given back.
#ifndef PLASTRON_RESERVE_H
#define PLASTRON_RESERVE_H

#include <nvmx/types.h>

#define RESERVE_ALIGNMENT (2ull << 20)

// From now on [start, start + size) is L0's; its first `image_size` bytes hold the image.
void reserve_init(uint64_t start, uint64_t size, uint64_t image_size);

uint64_t reserve_start(void);
uint64_t reserve_end(void);
static inline bool reserve_overlaps(uint64_t start, uint64_t end)
{
    return start < reserve_end() && end > reserve_start();
}

// Zeroed, page-aligned, for good; `size` is rounded up to pages. Stops L0 if the range is used up, which its
// size rules out. By one processor at a time.
void *reserve_allocate(uint64_t size);
l0pa_t reserve_allocate_pages(uint32_t count);

#endif
