// SPDX-License-Identifier: MIT
// The MSR areas of VM entries and VM exits: lists of (index, value), 16 bytes each.
// Manual: Loading MSRs (of both VM Entries and VM Exits); Saving MSRs.
#include "model.h"

static const char *entry_problem(uint32_t msr, uint32_t reserved, bool load)
{
    if (reserved != 0)
        return "reserved bits of an MSR-list entry are not 0";
    if (msr >> 8 == 0x8)
        return "an MSR list names an x2APIC MSR";
    if (load && (msr == MSR_FS_BASE || msr == MSR_GS_BASE))
        return "an MSR-load list names IA32_FS_BASE or IA32_GS_BASE";
    if (msr == (load ? 0x9bu : 0x9eu)) // IA32_SMM_MONITOR_CTL is written only in SMM, IA32_SMBASE read
        return "an MSR list names an MSR of SMM";
    if (load && msr == 0x79) // IA32_BIOS_UPDT_TRIG
        return "an MSR-load list names IA32_BIOS_UPDT_TRIG";
    return NULL;
}

const char *msr_area_load(struct hw_cpu *cpu, uint64_t address, uint32_t count, uint32_t *failed_entry)
{
    for (uint32_t i = 0; i < count; i++, address += 16) {
        *failed_entry = i + 1; // counted from 1
        uint32_t msr = (uint32_t)memory_read(cpu->machine, address, 4);
        const char *problem = entry_problem(msr, (uint32_t)memory_read(cpu->machine, address + 4, 4), true);
        if (problem != NULL)
            return problem;
        if (!msr_write(cpu, msr, memory_read(cpu->machine, address + 8, 8)))
            return "an MSR of an MSR-load list cannot be loaded with that value";
    }
    return NULL;
}

const char *msr_area_store(struct hw_cpu *cpu, uint64_t address, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++, address += 16) {
        uint32_t msr = (uint32_t)memory_read(cpu->machine, address, 4);
        const char *problem = entry_problem(msr, (uint32_t)memory_read(cpu->machine, address + 4, 4), false);
        if (problem != NULL)
            return problem;
        uint64_t value;
        if (!msr_read(cpu, msr, &value))
            return "an MSR of the VM-exit MSR-store list cannot be read";
        memory_write(cpu->machine, address + 8, value, 8);
    }
    return NULL;
}
