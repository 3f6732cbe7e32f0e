// SPDX-License-Identifier: MIT
// port.h over the model's memory: what the engine asks of the small L0.
#include "world_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_l1_ram(uint64_t address, uint64_t size)
{
    return size <= L1_RAM_SIZE && address <= L1_RAM_SIZE - size;
}

bool port_l1_read(struct nvmx_vcpu *vcpu, l1pa_t from, void *to, size_t size)
{
    (void)vcpu;
    memset(to, 0xee, size); // "unspecified"
    if (!is_l1_ram(from.value, size))
        return false;
    uint8_t *at = l1_memory(from.value);
    memcpy(to, at, size);
    if (world->race_one_in != 0 && world_random() % world->race_one_in == 0)
        at[world_random() % size] ^= (uint8_t)(1u << world_random() % 8);
    return true;
}

bool port_l1_write(struct nvmx_vcpu *vcpu, l1pa_t to, const void *from, size_t size)
{
    (void)vcpu;
    if (!is_l1_ram(to.value, size))
        return false;
    memcpy(l1_memory(to.value), from, size);
    return true;
}

bool port_l1_compare_exchange(struct nvmx_vcpu *vcpu, l1pa_t at, uint64_t expected, uint64_t desired,
                              uint64_t *word)
{
    (void)vcpu;
    if ((at.value & 7) || !is_l1_ram(at.value, 8))
        return false;
    memcpy(word, l1_memory(at.value), 8);
    if (world->exchange_race_count > 0) { // another processor of L1's was faster
        world->exchange_race_count--;
        *word ^= world->exchange_race_bits;
        memcpy(l1_memory(at.value), word, 8);
    }
    if (*word == expected)
        memcpy(l1_memory(at.value), &desired, 8);
    return true;
}

bool port_l1_translate(struct nvmx_vcpu *vcpu, l1pa_t at, struct port_mapping *mapping)
{
    (void)vcpu;
    if (!is_l1_ram(at.value, 1))
        return false;
    bool large = at.value >= 0x200000 && !world->config.l0_without_large_pages;
    *mapping = (struct port_mapping){.l0 = l0pa(L0_SIZE + at.value),
                                     .size = large ? 0x200000 : PAGE_SIZE,
                                     .memory_type = 6,
                                     .readable = true,
                                     .writable = true,
                                     .executable = true};
    return true;
}

void *port_l0_map(l0pa_t page)
{
    return l0_memory(page.value);
}

void port_host_constant(struct port_host_constant *host)
{
    *host = (struct port_host_constant){
        .cr0 = CR0_PG | CR0_PE | CR0_NE | CR0_WP | CR0_ET,
        .cr3 = 0x1000,
        .cr4 = CR4_PAE | CR4_VMXE,
        .efer = EFER_LME | EFER_LMA | EFER_NXE,
        .pat = 0x0007040600070406,
        .rip = 0xffff800000001000,
        .cs = 0x08,
        .ss = 0x10,
        .ds = 0x10,
        .es = 0x10,
        .tr = 0x18,
    };
}

void port_host_cpu(struct hw_cpu *cpu, struct port_host_cpu *host)
{
    uint64_t own = 0xffff900000000000ull + ((uint64_t)cpu_index(cpu) << 20);
    *host = (struct port_host_cpu){.fs_base = own,
                                   .gs_base = own + 0x1000,
                                   .tr_base = own + 0x2000,
                                   .gdtr_base = own + 0x3000,
                                   .idtr_base = own + 0x4000,
                                   .sysenter_esp = own + 0x5000,
                                   .rsp = own + 0x6000};
}

// The processors of the machine take turns: this one's turn ends for a moment, and `cpu` executes.
void port_vcpu_clear_on(struct nvmx_vcpu *vcpu, struct nvmx_cpu *cpu)
{
    struct hw_cpu *caller = machine_execute_on(world->machine, cpu->hw);
    if (caller == cpu->hw)
        rule_broken(caller,
                    "the engine asks for a call on another logical processor, and it is the caller's own");
    nvmx_vcpu_clear_here(vcpu, cpu);
    machine_execute_on(world->machine, caller);
    world->remote_clear_count++;
}

void port_log(struct nvmx_vcpu *vcpu, const char *text, uint64_t a, uint64_t b)
{
    (void)vcpu;
    snprintf(world->last_log, sizeof(world->last_log), "%s (%#llx, %#llx)", text, (unsigned long long)a,
             (unsigned long long)b);
    world->log_count++;
    if (strncmp(text, "DETECTOR", 8) == 0 && !world->machine->refused_on_purpose &&
        !world->config.l0_expects_refusals) // L1 would not see that it was the processor that refused
        rule_broken(world->self->cpu, "the engine's checks passed what the processor refuses: %s",
                    machine_entry_failure(world->machine));
    if (getenv("PLASTRON_TEST_LOG") != NULL)
        fprintf(stderr, "# L0: %s\n", world->last_log);
}

void port_detector(struct nvmx_vcpu *vcpu, const struct port_detected *line)
{
    (void)vcpu;
    world->detected[line->field] = *line;
    world->detected_count++;
}

unsigned l0_detected_count(void)
{
    return world->detected_count;
}

struct port_detected l0_detected(enum vmcs_field field)
{
    return world->detected[field];
}

void port_explain(struct nvmx_vcpu *vcpu, const struct check_broken *broken)
{
    const struct check_rule *rule = &check_rules[broken->index];
    char text[256];
    snprintf(text, sizeof(text), "%s: %s", rule->id, rule->message);
    port_log(vcpu, text, broken->value, broken->legal);
}

const char *l0_last_log(void)
{
    return world->last_log;
}

unsigned l0_log_count(void)
{
    return world->log_count;
}

void port_end_interrupt(struct nvmx_vcpu *vcpu)
{
    (void)vcpu; // the model has no interrupts in service
}

bool port_interrupt_is_due(struct nvmx_vcpu *vcpu)
{
    return ((struct virtual_processor *)vcpu->l0_data)->cpu->interrupt_count != 0;
}

_Noreturn void port_bug(const char *what, uint64_t a, uint64_t b)
{
    const char *refusal = world != NULL ? machine_entry_failure(world->machine) : NULL;
    rule_broken(world != NULL ? world->self->cpu : NULL,
                "the engine says that it has a bug: %s (%#llx, %#llx)%s%s", what, (unsigned long long)a,
                (unsigned long long)b, refusal ? "; the processor's last refusal: " : "",
                refusal ? refusal : "");
}
