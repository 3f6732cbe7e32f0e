// SPDX-License-Identifier: MIT
// Virtualization exceptions: EPT violations that the guest gets itself, as #VE, with what the VM exit would
// have said in a page of memory; and how often it can: once, until it clears the page's second word.
// Manual: Virtualization Exceptions.
#include "model.h"

// The virtualization-exception information area
#define AREA_EXIT_REASON    0u  // 32 bits
#define AREA_BUSY           4u  // 32 bits: all ones while the guest has not dealt with the last one
#define AREA_QUALIFICATION  8u  //
#define AREA_GUEST_LINEAR   16u //
#define AREA_GUEST_PHYSICAL 24u //
#define AREA_EPTP_INDEX     32u // 16 bits

static uint64_t area(const struct hw_cpu *cpu, unsigned offset)
{
    return cpu->c.virtualization_exception_area + offset;
}

// Convertible EPT Violations: the conditions beside the one on the EPT entry.
static bool is_converted(const struct hw_cpu *cpu)
{
    return cpu_has_secondary(cpu, SECONDARY_EPT_VIOLATION_VE) && (cpu->r.cr0 & CR0_PE) &&
           !cpu->vectoring.valid && memory_read(cpu->machine, area(cpu, AREA_BUSY), 4) == 0;
}

bool virtualization_exception(struct hw_cpu *cpu, const struct exit_information *violation)
{
    if (!is_converted(cpu))
        return false;
    struct machine *machine = cpu->machine;
    uint64_t linear = violation->has_linear
                          ? violation->linear
                          : model_poison(machine, cpu->current->region, F_GUEST_LINEAR_ADDRESS);
    memory_write(machine, area(cpu, AREA_EXIT_REASON), violation->reason, 4);
    memory_write(machine, area(cpu, AREA_BUSY), 0xffffffff, 4);
    memory_write(machine, area(cpu, AREA_QUALIFICATION), violation->qualification, 8);
    memory_write(machine, area(cpu, AREA_GUEST_LINEAR), linear, 8);
    memory_write(machine, area(cpu, AREA_GUEST_PHYSICAL), violation->physical, 8);
    memory_write(machine, area(cpu, AREA_EPTP_INDEX), vmcs_get(cpu, F_EPTP_INDEX), 2);
    raise_exception(cpu, VECTOR_VE);
    return true;
}
