// SPDX-License-Identifier: MIT
#include "quirks.h"

#include "cpuid.h"
#include "string.h"

#include <silicon/x86.h>

struct quirks quirks;

#define CPUID_1_ECX_HYPERVISOR (1u << 31)

// QEMU's firmware has the same OEM as Bochs's, but says in CPUID that it is virtual. L0 itself says so too.
static bool machine_is_bochs(const struct acpi_info *acpi)
{
    if (!acpi->oem_is_bochs)
        return false;
    if ((x86_cpuid(1, 0).ecx & CPUID_1_ECX_HYPERVISOR) == 0)
        return true;
    struct x86_cpuid leaf = x86_cpuid(CPUID_HYPERVISOR_FIRST, 0);
    const uint32_t signature[3] = {leaf.ebx, leaf.ecx, leaf.edx};
    return memcmp(signature, CPUID_HYPERVISOR_SIGNATURE, sizeof(signature)) == 0;
}

void quirks_detect(const struct acpi_info *acpi)
{
    bool bochs = machine_is_bochs(acpi);
    quirks.shutdown_port = bochs;
    quirks.apic_enable_is_final = bochs;
    quirks.first_fetch_saves_old_rip = bochs;
    quirks.entry_overlooks_events = bochs;
    quirks.notices_interrupts_late = bochs;
}
