// SPDX-License-Identifier: MIT
// What the boot loader says about the machine and about L1, copied out of its memory.
#ifndef PLASTRON_MULTIBOOT2_H
#define PLASTRON_MULTIBOOT2_H

#include "load.h"
#include "memory_map.h"

#define MULTIBOOT2_MODULE_MAX 32

struct multiboot2_info {
    const char *options; // L0's command line
    struct l1_module module[MULTIBOOT2_MODULE_MAX];
    uint32_t module_count;
    struct memory_map memory;
    const void *rsdp_copy; // the boot loader's copy of the ACPI root pointer, NULL if it made none
    uint64_t start, end;   // where the boot loader's structure lies
};

// `physical`: where it is. NULL, or a sentence on what is wrong with it.
const char *multiboot2_read(uint64_t physical, struct multiboot2_info *info);

#endif
