// SPDX-License-Identifier: MIT
// The VMCS data that a logical processor holds. VMPTRLD takes a VMCS's data into the processor's cache, where
// it stays ("active") until VMCLEAR writes it back; the processor may also write it back whenever it likes,
// without making it inactive. The caches of other processors know nothing of it, and neither does memory.
// Manual: Software Use of the VMCS and Related Structures; Using VMCLEAR to Initialize a VMCS Region.
#include "model.h"
#include <stdlib.h>
#include <string.h>

#define WRITE_BACK_ODDS 61 // one in so many occasions

struct active_vmcs *vmcs_cache_find(const struct hw_cpu *cpu, uint64_t region)
{
    for (struct active_vmcs *vmcs = cpu->active; vmcs != NULL; vmcs = vmcs->next)
        if (vmcs->region == region)
            return vmcs;
    return NULL;
}

static void check_not_active_elsewhere(const struct hw_cpu *cpu, uint64_t region, const char *instruction)
{
    const struct machine *machine = cpu->machine;
    for (unsigned i = 0; i < machine->config.cpu_count; i++)
        if (machine->cpu[i] != cpu && vmcs_cache_find(machine->cpu[i], region) != NULL)
            rule_broken(cpu,
                        "%s of VMCS %#llx, which is active on logical processor %u: its data is in that "
                        "processor's cache, and only a VMCLEAR there writes it back",
                        instruction, (unsigned long long)region, i);
}

static void check_region_untouched(const struct hw_cpu *cpu, const struct active_vmcs *vmcs)
{
    if (memcmp(vmcs->memory, cpu->machine->memory + vmcs->region, PAGE_SIZE) != 0)
        rule_broken(cpu, "the region of VMCS %#llx was written while the VMCS is active on this processor",
                    (unsigned long long)vmcs->region);
}

static void write_back(struct hw_cpu *cpu, struct active_vmcs *vmcs)
{
    check_region_untouched(cpu, vmcs);
    vmcs_region_store(cpu->machine, vmcs->region, &vmcs->data);
    memcpy(vmcs->memory, cpu->machine->memory + vmcs->region, PAGE_SIZE);
}

void vmcs_cache_check(struct hw_cpu *cpu)
{
    for (const struct active_vmcs *vmcs = cpu->active; vmcs != NULL; vmcs = vmcs->next)
        check_region_untouched(cpu, vmcs);
}

void vmcs_cache_maybe_write_back(struct hw_cpu *cpu, struct active_vmcs *vmcs)
{
    if (machine_random(cpu->machine) % WRITE_BACK_ODDS == 0)
        write_back(cpu, vmcs);
}

static struct vmcs_count *count_of(struct machine *machine, uint64_t region)
{
    for (unsigned i = 0; i < machine->count_count; i++)
        if (machine->count[i]->region == region)
            return machine->count[i];
    if (machine->count_count == sizeof(machine->count) / sizeof(machine->count[0]))
        rule_broken(NULL, "more VMCSs than the model counts");
    struct vmcs_count *count = calloc(1, sizeof(*count));
    count->region = region;
    machine->count[machine->count_count++] = count;
    return count;
}

const struct vmcs_count *machine_count(struct machine *machine, uint64_t region)
{
    return count_of(machine, region);
}

void machine_reset_counts(struct machine *machine)
{
    for (unsigned i = 0; i < machine->count_count; i++) {
        uint64_t region = machine->count[i]->region;
        memset(machine->count[i], 0, sizeof(*machine->count[i]));
        machine->count[i]->region = region;
    }
}

struct active_vmcs *vmcs_cache_activate(struct hw_cpu *cpu, uint64_t region)
{
    struct active_vmcs *vmcs = vmcs_cache_find(cpu, region);
    if (vmcs == NULL) {
        check_not_active_elsewhere(cpu, region, "VMPTRLD (or a VM entry that links to it)");
        vmcs = calloc(1, sizeof(*vmcs));
        vmcs->region = region;
        switch (vmcs_region_load(cpu->machine, region, &vmcs->data)) {
        case REGION_INITIALIZED:
            break;
        case REGION_FRESH:
            free(vmcs);
            rule_broken(cpu, "VMPTRLD of region %#llx, which was never initialised by VMCLEAR",
                        (unsigned long long)region);
        case REGION_DAMAGED:
            free(vmcs);
            rule_broken(cpu, "VMPTRLD of region %#llx, which software wrote since the processor did",
                        (unsigned long long)region);
        }
        memcpy(vmcs->memory, cpu->machine->memory + region, PAGE_SIZE);
        vmcs->count = count_of(cpu->machine, region);
        vmcs->next = cpu->active;
        cpu->active = vmcs;
    }
    return vmcs;
}

static void forget(struct hw_cpu *cpu, struct active_vmcs *vmcs)
{
    struct active_vmcs **link = &cpu->active;
    while (*link != vmcs)
        link = &(*link)->next;
    *link = vmcs->next;
    if (cpu->current == vmcs)
        cpu->current = NULL;
    free(vmcs);
}

void vmcs_cache_clear(struct hw_cpu *cpu, uint64_t region)
{
    count_of(cpu->machine, region)->vmclear++;
    struct active_vmcs *vmcs = vmcs_cache_find(cpu, region);
    if (vmcs != NULL) {
        vmcs->data.launched = false;
        write_back(cpu, vmcs);
        forget(cpu, vmcs);
        return;
    }
    check_not_active_elsewhere(cpu, region, "VMCLEAR");
    struct vmcs_data data;
    switch (vmcs_region_load(cpu->machine, region, &data)) {
    case REGION_INITIALIZED:
        break;
    case REGION_FRESH:
        // The manual says nothing of what the fields hold now.
        for (unsigned field = 0; field < F_COUNT; field++)
            data.field[field] = model_poison(cpu->machine, region, (enum vmcs_field)field);
        break;
    case REGION_DAMAGED:
        rule_broken(cpu, "VMCLEAR of region %#llx, which software wrote since the processor did",
                    (unsigned long long)region);
    }
    data.launched = false;
    vmcs_region_store(cpu->machine, region, &data);
}

void vmcs_cache_drop(struct hw_cpu *cpu)
{
    while (cpu->active != NULL)
        forget(cpu, cpu->active);
}

uint64_t vmcs_get(struct hw_cpu *cpu, enum vmcs_field field)
{
    if (!cpu->current->data.written[field])
        rule_broken(cpu, "the processor uses the field %s, which was never written", model_field_name(field));
    return cpu->current->data.field[field];
}

uint64_t vmcs_get_unchecked(const struct hw_cpu *cpu, enum vmcs_field field)
{
    return cpu->current->data.field[field];
}

void vmcs_set(struct hw_cpu *cpu, enum vmcs_field field, uint64_t value)
{
    cpu->current->data.field[field] = model_field_truncate(field, value);
    cpu->current->data.written[field] = 1;
}

void vmcs_poison(struct hw_cpu *cpu, enum vmcs_field field)
{
    vmcs_set(cpu, field, model_poison(cpu->machine, cpu->current->region, field));
}
