// SPDX-License-Identifier: MIT
// Starts the application processors.
#ifndef PLASTRON_SMP_H
#define PLASTRON_SMP_H

#include "cpu.h"
#include "memory_map.h"

// Starts every processor of the list but the caller's, one after the other; each calls entry(cpu) on its own
// stack and must set cpu->running at last. `taken`: memory that must not be touched. NULL, or a sentence.
const char *smp_start_all(const struct memory_map *map, const struct memory_range *taken,
                          uint32_t taken_count, void (*entry)(struct cpu *cpu));

#endif
