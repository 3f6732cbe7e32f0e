// SPDX-License-Identifier: MIT
// Moves L0 into its reserved range: a copy of the image, and page tables that make it appear where it was
// linked.
#ifndef PLASTRON_RELOCATE_H
#define PLASTRON_RELOCATE_H

#include <stdint.h>

uint64_t relocate_image_size(void);

// Builds L0's page tables in the reserved range (direct map of [0, memory_end) at least) and continues there.
void relocate_image(uint64_t memory_end);

// L0's page tables; below 4 GiB.
uint64_t relocate_cr3(void);

// Where processor number cpu_index (below ACPI_CPU_MAX) sees the page that relocate_apic_window_map has put
// there, uncached. Another processor's window is not to be used: its translation may be stale.
uint64_t relocate_apic_window(uint32_t cpu_index);
void relocate_apic_window_map(uint32_t cpu_index, uint64_t physical);

// Page tables like L0's that also map the page at `physical` (below 1 GiB) where it is, executable: for
// processors on their way into 64-bit mode.
uint64_t relocate_trampoline_cr3(uint64_t physical);

#endif
