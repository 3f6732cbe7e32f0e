// SPDX-License-Identifier: MIT
// The loop that runs a vcpu, and what L0 does with it between two exits: moves it, takes it off, starts it
// anew.
#include "world_internal.h"
#include <string.h>

// What of L1's state is neither in a VMCS nor in the general-purpose registers, L0 carries over.
static void carry_over(struct hw_cpu *from, struct hw_cpu *to)
{
    const uint64_t caching = CR0_CD | CR0_NW; // which VM entries and exits leave alone
    to->r.cr0 = (to->r.cr0 & ~caching) | (from->r.cr0 & caching);
    to->r.cr2 = from->r.cr2;
    to->r.cr8 = from->r.cr8;
    memcpy(to->r.dr, from->r.dr, sizeof(to->r.dr));
    to->r.dr6 = from->r.dr6;
    memcpy(to->msr, from->msr, sizeof(to->msr));
    to->msr_count = from->msr_count;
    for (unsigned vector = 0; vector < 256; vector++)
        if (from->interrupt_pending[vector])
            cpu_interrupt(to, (uint8_t)vector);
    memset(from->interrupt_pending, 0, sizeof(from->interrupt_pending));
    from->interrupt_count = 0;
    to->nmi_pending |= from->nmi_pending;
    from->nmi_pending = false;
    to->tsc = from->tsc; // L0 keeps them in step
    to->fed = from->fed;
}

void l0_move(struct virtual_processor *p, unsigned index)
{
    struct hw_cpu *to = machine_cpu(world->machine, index);
    if (to == p->cpu)
        return;
    nvmx_vcpu_put(p->vcpu);
    carry_over(p->cpu, to);
    p->cpu = to;
    machine_execute_on(world->machine, to);
    nvmx_vcpu_load(p->vcpu, &world->l0_cpu[index]);
    world->move_count++;
}

static void expect_nothing_active(struct hw_cpu *cpu)
{
    if (cpu->active != NULL)
        rule_broken(cpu, "VMCS %#llx is still active here", (unsigned long long)cpu->active->region);
}

static unsigned another_processor(const struct virtual_processor *p)
{
    return (cpu_index(p->cpu) + 1) % world->config.cpu_count;
}

void l0_act(struct virtual_processor *p, enum l0_action action)
{
    struct hw_cpu *cpu = p->cpu, *other = machine_cpu(world->machine, another_processor(p));
    struct nvmx_cpu *here = &world->l0_cpu[cpu_index(cpu)], *there = &world->l0_cpu[cpu_index(other)];
    l0pa_t vmxon_region = l0pa(cpu->vmxon_pointer);
    switch (action) {
    case L0_DOES_NOTHING:
        return;
    case L0_RESTARTS_L1:
        l0_restart_l1(p, &p->start);
        nvmx_write(p->vcpu, F_GUEST_RIP, L1_PADS + 0x1000);
        return;
    case L0_PENDS_NMI:
        nvmx_pend_nmi(p->vcpu);
        return;
    case L0_PUTS_AND_LOADS:
        nvmx_vcpu_put(p->vcpu);
        break;
    case L0_CLEARS_ALL:
        nvmx_cpu_clear_all(here);
        expect_nothing_active(cpu);
        break;
    case L0_RESTARTS_VMX:
    case L0_LOSES_PROCESSOR:
        nvmx_cpu_clear_all(here);
        expect_nothing_active(cpu);
        hw_vmxoff(cpu);
        if (action == L0_LOSES_PROCESSOR)
            l0_move(p, cpu_index(other));
        machine_execute_on(world->machine, NULL); // it comes back, and may be used again
        hw_vmxon(cpu, vmxon_region);
        machine_execute_on(world->machine, p->cpu);
        if (action == L0_LOSES_PROCESSOR)
            return;
        break;
    case L0_RETIRES:
        nvmx_vcpu_put(p->vcpu);
        nvmx_vcpu_retire(p->vcpu, here);
        expect_nothing_active(cpu);
        break;
    case L0_RETIRES_ELSEWHERE:
        nvmx_vcpu_put(p->vcpu);
        machine_execute_on(world->machine, other);
        nvmx_vcpu_retire(p->vcpu, there);
        machine_execute_on(world->machine, cpu);
        expect_nothing_active(cpu);
        break;
    }
    nvmx_vcpu_load(p->vcpu, here);
}

void l0_do(enum l0_action action)
{
    struct virtual_processor *p = world->self;
    if (p->action_count == sizeof(p->action) / sizeof(p->action[0]))
        rule_broken(p->cpu, "the test asks for too much at once");
    p->action[p->action_count++] = action;
}

void l0_do_in_exit(enum l0_action action)
{
    world->self->action_in_exit = action;
}

uint64_t l0_remote_clear_count(void)
{
    return world->remote_clear_count;
}

void l0_race_at_random(unsigned one_in)
{
    world->race_one_in = one_in;
}

void l0_race_exchanges(unsigned count, uint64_t bits)
{
    world->exchange_race_count = count;
    world->exchange_race_bits = bits;
}

void l0_reset_l1(void)
{
    world->self->reset = true;
}

unsigned l0_exception_count(void)
{
    return world->exception_count;
}

static void maybe_move(struct virtual_processor *p)
{
    if (p->move_to >= 0) {
        unsigned index = (unsigned)p->move_to;
        p->move_to = -1;
        l0_move(p, index);
    } else if (world->move_one_in != 0 && world_random() % world->move_one_in == 0) {
        l0_move(p, (unsigned)(world_random() % world->config.cpu_count));
    }
}

static void act_before_entry(struct virtual_processor *p)
{
    enum l0_action action = p->action[0];
    if (p->action_count > 0) {
        memmove(&p->action[0], &p->action[1], --p->action_count * sizeof(p->action[0]));
        l0_act(p, action);
    }
    maybe_move(p);
    l0_maybe_save_and_restore(p);
}

// What the exit was is in vcpu->exit: it can be handled anywhere.
static void act_in_exit(struct virtual_processor *p)
{
    enum l0_action action = p->action_in_exit;
    int index = p->move_in_exit_to;
    p->action_in_exit = L0_DOES_NOTHING;
    p->move_in_exit_to = -1;
    l0_act(p, action);
    if (index >= 0)
        l0_move(p, (unsigned)index);
    else if (world->move_one_in != 0 && world_random() % world->move_one_in == 0)
        l0_move(p, (unsigned)(world_random() % world->config.cpu_count));
}

void l0_move_in_exit_to(unsigned cpu)
{
    world->self->move_in_exit_to = (int)cpu;
}

void l0_move_to(unsigned cpu)
{
    world->self->move_to = (int)cpu;
    if (world->config.floating)
        cpu_interrupt(world->self->cpu, IPI_VECTOR);
}

void l0_move_at_random(unsigned one_in)
{
    world->move_one_in = world->config.nested ? one_in : 0;
}

uint64_t l0_move_count(void)
{
    return world->move_count;
}

// A VM exit leads into L0's own state of that very logical processor. (When nothing was entered, it is there
// since the exit before.)
static void expect_own_host_state(struct hw_cpu *cpu)
{
    struct port_host_cpu host;
    port_host_cpu(cpu, &host);
    if (cpu->r.segment[SEGMENT_TR].base != host.tr_base || cpu->r.gdtr_base != host.gdtr_base ||
        cpu->r.gpr[GPR_RSP] != host.rsp)
        rule_broken(cpu, "a VM exit led into another logical processor's L0: TR base %#llx, and not %#llx",
                    (unsigned long long)cpu->r.segment[SEGMENT_TR].base, (unsigned long long)host.tr_base);
}

void l0_step(struct virtual_processor *p)
{
    world->l0_turns++;
    enum nvmx_outcome outcome = nvmx_run(p->vcpu);
    expect_own_host_state(p->cpu);
    if (outcome == NVMX_EXIT_FOR_L0) {
        act_in_exit(p);
        l0_handle_exit(p);
    }
}

void l0_run(void *argument)
{
    struct virtual_processor *p = argument;
    for (;;) {
        while (p->parked)
            fiber_yield();
        if (p->reset) {
            p->reset = false;
            nvmx_reset_l1(p->vcpu);
        }
        act_before_entry(p);
        l0_step(p);
    }
}
