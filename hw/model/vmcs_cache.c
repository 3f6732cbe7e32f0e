// SPDX-License-Identifier: MIT
// The VMCS data that a logical processor holds. VMPTRLD takes a VMCS's data into the processor's cache, where
// it stays ("active") until VMCLEAR writes it back; the processor may also write it back whenever it likes,
// without making it inactive. The caches of other processors know nothing of it, and neither does memory.
// Manual: Software Use of the VMCS and Related Structures; Using VMCLEAR to Initialize a VMCS Region.
#include "model.h"
#include <stdlib.h>
#include <string.h>

#define WRITE_BACK_ODDS 61 // one in so many occasions
#define ACTIVATION_ODDS 4

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
                        "%s of VMCS %s, which is active on logical processor %u: its data is in that "
                        "processor's cache, and only a VMCLEAR there writes it back",
                        instruction, vmcs_label(machine, region), i);
}

static void check_region_untouched(const struct hw_cpu *cpu, const struct active_vmcs *vmcs)
{
    if (memcmp(vmcs->memory, cpu->machine->memory + vmcs->region, PAGE_SIZE) != 0)
        rule_broken(
            cpu,
            "the region of VMCS %s was written while the VMCS is active on logical processor %u: until "
            "VMCLEAR it is the processor's own",
            vmcs_label(cpu->machine, vmcs->region), cpu->index);
}

// `scatter` is 0: all of it, for good. Else some of it, and the VMCS stays active.
static void write_back(struct hw_cpu *cpu, struct active_vmcs *vmcs, uint64_t scatter)
{
    check_region_untouched(cpu, vmcs);
    if (scatter == 0)
        vmcs_region_store(cpu->machine, vmcs->region, &vmcs->data);
    else
        vmcs_region_scatter(cpu->machine, vmcs->region, &vmcs->data, scatter);
    memcpy(vmcs->memory, cpu->machine->memory + vmcs->region, PAGE_SIZE);
}

void vmcs_cache_check(struct hw_cpu *cpu)
{
    for (const struct active_vmcs *vmcs = cpu->active; vmcs != NULL; vmcs = vmcs->next)
        check_region_untouched(cpu, vmcs);
}

// The moment of the processor's own choosing: any VMCS that is active on any processor, in parts.
static void disturb(struct machine *machine)
{
    struct hw_cpu *cpu = machine->cpu[machine_random(machine) % machine->config.cpu_count];
    unsigned skip = machine_random(machine) % 4;
    struct active_vmcs *vmcs = cpu->active;
    for (; vmcs != NULL && vmcs->next != NULL && skip > 0; skip--)
        vmcs = vmcs->next;
    if (vmcs != NULL)
        write_back(cpu, vmcs, machine_random(machine) | 1);
}

void vmcs_cache_maybe_write_back(struct hw_cpu *cpu, struct active_vmcs *vmcs)
{
    if (cpu->machine->writes_back_when_told || machine_random(cpu->machine) % WRITE_BACK_ODDS != 0)
        return;
    if (machine_random(cpu->machine) & 1)
        write_back(cpu, vmcs, machine_random(cpu->machine) | 1);
    else
        disturb(cpu->machine);
}

void vmcs_cache_write_back(struct hw_cpu *cpu)
{
    for (struct active_vmcs *vmcs = cpu->active; vmcs != NULL; vmcs = vmcs->next)
        write_back(cpu, vmcs, ~0ull);
}

// What is in memory is what the processor left there last.
static void check_region_is_whole(const struct hw_cpu *cpu, uint64_t region, enum region_state state,
                                  const char *instruction)
{
    const char *label = vmcs_label(cpu->machine, region);
    if (state == REGION_DAMAGED)
        rule_broken(cpu, "%s of region %s, which software wrote since the processor did", instruction, label);
    if (state == REGION_ACTIVE)
        rule_broken(
            cpu,
            "%s of region %s, which holds what was there while the VMCS was active: its data was in a "
            "processor's cache",
            instruction, label);
    if (state == REGION_STALE)
        rule_broken(cpu, "%s of region %s, which holds an older state of the VMCS than the last VMCLEAR left",
                    instruction, label);
}

struct active_vmcs *vmcs_cache_activate(struct hw_cpu *cpu, uint64_t region, const char *instruction)
{
    struct active_vmcs *vmcs = vmcs_cache_find(cpu, region);
    if (vmcs == NULL) {
        check_not_active_elsewhere(cpu, region, instruction);
        struct vmcs_data data;
        enum region_state state = vmcs_region_load(cpu->machine, region, &data);
        if (state == REGION_FRESH)
            rule_broken(cpu, "%s of region %s, which was never initialised by VMCLEAR", instruction,
                        vmcs_label(cpu->machine, region));
        check_region_is_whole(cpu, region, state, instruction);
        vmcs = calloc(1, sizeof(*vmcs));
        vmcs->region = region;
        vmcs->data = data;
        memcpy(vmcs->memory, cpu->machine->memory + region, PAGE_SIZE);
        vmcs->count = &vmcs_record(cpu->machine, region)->count;
        vmcs->next = cpu->active;
        cpu->active = vmcs;
        if (!cpu->machine->writes_back_when_told && machine_random(cpu->machine) % ACTIVATION_ODDS == 0)
            write_back(cpu, vmcs, machine_random(cpu->machine) | 1);
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
    vmcs_record(cpu->machine, region)->count.vmclear++;
    struct active_vmcs *vmcs = vmcs_cache_find(cpu, region);
    if (vmcs != NULL) {
        vmcs->data.launched = false;
        write_back(cpu, vmcs, 0);
        forget(cpu, vmcs);
        return;
    }
    check_not_active_elsewhere(cpu, region, "VMCLEAR");
    struct vmcs_data data;
    enum region_state state = vmcs_region_load(cpu->machine, region, &data);
    check_region_is_whole(cpu, region, state, "VMCLEAR");
    if (state == REGION_FRESH) // the manual says nothing of what the fields hold now
        for (unsigned field = 0; field < F_COUNT; field++)
            data.field[field] = model_poison(cpu->machine, region, (enum vmcs_field)field);
    data.launched = false;
    vmcs_region_store(cpu->machine, region, &data);
}

// Bytes 7:4 of the region are not VMCS data: the processor writes them at once.
void vmcs_cache_write_abort_indicator(struct hw_cpu *cpu, uint32_t indicator)
{
    struct active_vmcs *vmcs = cpu->current;
    check_region_untouched(cpu, vmcs);
    memory_write(cpu->machine, vmcs->region + 4, indicator, 4);
    memcpy(vmcs->memory, cpu->machine->memory + vmcs->region, PAGE_SIZE);
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
