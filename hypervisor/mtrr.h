// SPDX-License-Identifier: MIT
// The memory types that the firmware gave to physical memory.
#ifndef PLASTRON_MTRR_H
#define PLASTRON_MTRR_H

#include <stdbool.h>
#include <stdint.h>

enum memory_type { MEMORY_UC = 0, MEMORY_WC = 1, MEMORY_WT = 4, MEMORY_WP = 5, MEMORY_WB = 6 };

void mtrr_read(void);

// Whether the naturally aligned block has one type, and which.
bool mtrr_is_uniform(uint64_t start, uint64_t size, enum memory_type *type);

#endif
