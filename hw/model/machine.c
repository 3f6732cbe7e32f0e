// SPDX-License-Identifier: MIT
// A machine: its memory, its logical processors as they are when the test begins, and its end.
#include "model.h"
#include <stdlib.h>
#include <sys/mman.h>

uint64_t machine_random(struct machine *machine)
{
    uint64_t x = machine->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return machine->random = x;
}

// 64-bit code at privilege level 0 with paging on, as a boot loader of ours leaves it; the test sets CR3,
// RIP, RSP and the descriptor tables.
static void start_in_64bit_mode(struct hw_cpu *cpu)
{
    struct registers *r = &cpu->r;
    r->cr0 = CR0_PG | CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_MP;
    r->cr4 = CR4_PAE;
    r->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    r->rflags = RFLAGS_FIXED;
    r->dr6 = 0xffff0ff0;
    r->dr7 = 0x400;
    r->pat = 0x0007040600070406;
    for (unsigned i = 0; i < SEGMENT_NAME_COUNT; i++)
        r->segment[i] = (struct segment){.selector = 0x10, .limit = 0xffffffff, .access_rights = 0xc093};
    r->segment[SEGMENT_CS].selector = 0x08;
    r->segment[SEGMENT_CS].access_rights = 0xa09b;
    r->segment[SEGMENT_LDTR] = (struct segment){.access_rights = SEGMENT_UNUSABLE};
    r->segment[SEGMENT_TR] = (struct segment){.selector = 0x18, .limit = 0x67, .access_rights = 0x8b};
    r->gdtr_limit = r->idtr_limit = 0xffff;
}

static struct hw_cpu *cpu_create(struct machine *machine, unsigned index)
{
    struct hw_cpu *cpu = calloc(1, sizeof(*cpu));
    cpu->machine = machine;
    cpu->index = index;
    cpu->vmx = VMX_OUTSIDE;
    cpu->c_code = machine->config.root == ROOT_IS_L0;
    cpu->vmxon_pointer = cpu->current_pointer = NO_ADDRESS;
    cpu->tsc = 1000;
    cpu->fetch_page = NO_ADDRESS;
    cpu->apic_written = -1;
    start_in_64bit_mode(cpu);
    return cpu;
}

struct machine *machine_create(const struct machine_config *config)
{
    struct machine *machine = calloc(1, sizeof(*machine));
    machine->config = *config;
    machine->processor = config->processor;
    machine->random = config->seed * 0x9e3779b97f4a7c15ull + 0x1234567;
    machine->layout_key = machine_random(machine);
    vmcs_region_make_layout(machine);
    for (unsigned field = 0; field < F_COUNT; field++)
        machine->exists[field] = model_field_exists(config->processor, (enum vmcs_field)field);
    machine->memory = mmap(NULL, config->memory_size, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    machine->l0_page = calloc(config->memory_size >> PAGE_SHIFT, 1);
    machine->port = calloc(0x10000, 1);
    for (unsigned i = 0; i < config->cpu_count; i++)
        machine->cpu[i] = cpu_create(machine, i);
    return machine;
}

void machine_destroy(struct machine *machine)
{
    for (unsigned i = 0; i < machine->config.cpu_count; i++)
        vmcs_cache_check(machine->cpu[i]);
    for (unsigned i = 0; i < machine->config.cpu_count; i++) {
        vmcs_cache_drop(machine->cpu[i]);
        free(machine->cpu[i]);
    }
    for (unsigned i = 0; i < machine->record_count; i++)
        free(machine->record[i]);
    while (machine->text != NULL) {
        struct program_text *next = machine->text->next;
        free(machine->text->address);
        free(machine->text);
        machine->text = next;
    }
    munmap(machine->memory, machine->config.memory_size);
    free(machine->l0_page);
    free(machine->port);
    free(machine);
}

struct hw_cpu *machine_cpu(struct machine *machine, unsigned index)
{
    return machine->cpu[index];
}

struct hw_cpu *machine_execute_on(struct machine *machine, struct hw_cpu *cpu)
{
    struct hw_cpu *before = machine->executing;
    machine->executing = cpu;
    return before;
}

unsigned cpu_index(const struct hw_cpu *cpu)
{
    return cpu->index;
}

void machine_write_before_entry(struct machine *machine, uint64_t region, unsigned after, uint64_t address,
                                uint32_t value)
{
    machine->other_write.region = region;
    machine->other_write.after = after;
    machine->other_write.address = address;
    machine->other_write.value = value;
    machine->other_write.done = false;
}

void machine_refuse_entry(struct machine *machine, uint64_t region, uint32_t how, uint64_t qualification)
{
    machine->refusal.region = region;
    machine->refusal.how = how;
    machine->refusal.qualification = qualification;
}

const char *machine_entry_failure(const struct machine *machine)
{
    return machine->entry_failure;
}
