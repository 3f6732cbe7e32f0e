// SPDX-License-Identifier: MIT
// What L0 needs from ACPI: the logical processors, and the ports that switch the machine off; and what L1
// must not find there.
#ifndef PLASTRON_ACPI_H
#define PLASTRON_ACPI_H

#include "acpi_sleep.h"

#include <stdbool.h>
#include <stdint.h>

#define ACPI_CPU_MAX 64

struct acpi_info {
    uint64_t rsdp; // physical address; 0: only the boot loader's copy was found
    uint32_t apic_id[ACPI_CPU_MAX];
    uint32_t cpu_count;
    struct acpi_sleep sleep;
    bool oem_is_bochs; // the root table's OEM is BOCHS: Bochs, or QEMU
};

// `rsdp_copy`: the boot loader's, or NULL. NULL, or a sentence on what is missing. Hides the sleep states
// that L0 does not survive from L1, which reads the same tables.
const char *acpi_read(const void *rsdp_copy, struct acpi_info *info);

#endif
