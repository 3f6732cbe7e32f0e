// SPDX-License-Identifier: MIT
// What happens between two instructions, by priority: INIT, traps, the VMX-preemption timer, NMIs,
// interrupts. Manual: Other Causes of VM Exits; Priority Among Concurrent Events; Interrupt-Window Exiting...
#include "model.h"
#include <string.h>

void cpu_interrupt(struct hw_cpu *cpu, uint8_t vector)
{
    cpu->overlooks = false;
    if (!cpu->interrupt_pending[vector]) {
        cpu->interrupt_pending[vector] = true;
        cpu->interrupt_count++;
    }
}

void cpu_nmi(struct hw_cpu *cpu)
{
    cpu->nmi_pending = true;
}

void cpu_init_signal(struct hw_cpu *cpu)
{
    cpu->init_pending = true;
}

void cpu_startup_ipi(struct hw_cpu *cpu, uint8_t vector)
{
    cpu->sipi_pending = true;
    cpu->sipi_vector = vector;
}

static uint8_t acknowledge_interrupt(struct hw_cpu *cpu)
{
    unsigned vector = 255;
    while (!cpu->interrupt_pending[vector])
        vector--;
    cpu->interrupt_pending[vector] = false;
    cpu->interrupt_count--;
    return (uint8_t)vector;
}

int cpu_take_interrupt(struct hw_cpu *cpu)
{
    return cpu->interrupt_count == 0 ? -1 : acknowledge_interrupt(cpu);
}

// Processor State After Reset/INIT
static void reset_by_init(struct hw_cpu *cpu)
{
    struct registers *r = &cpu->r;
    uint64_t kept_cr0 = r->cr0 & (CR0_CD | CR0_NW);
    memset(r->gpr, 0, sizeof(r->gpr));
    r->gpr[GPR_RDX] = 0x600;
    r->rip = 0xfff0;
    r->rflags = RFLAGS_FIXED;
    r->cr0 = CR0_ET | kept_cr0;
    r->cr2 = r->cr3 = r->cr4 = r->cr8 = 0;
    r->dr6 = 0xffff0ff0;
    r->dr7 = 0x400;
    r->efer = 0;
    r->gdtr_base = r->idtr_base = 0;
    r->gdtr_limit = r->idtr_limit = 0xffff;
    for (unsigned i = 0; i < SEGMENT_NAME_COUNT; i++)
        r->segment[i] = (struct segment){.limit = 0xffff, .access_rights = 0x93};
    r->segment[SEGMENT_CS] =
        (struct segment){.selector = 0xf000, .base = 0xffff0000, .limit = 0xffff, .access_rights = 0x9b};
    r->segment[SEGMENT_LDTR].access_rights = 0x82;
    r->segment[SEGMENT_TR].access_rights = 0x8b;
    cpu->activity = ACTIVITY_WAIT_FOR_SIPI;
    cpu->blocking_sti = cpu->blocking_mov_ss = cpu->blocking_nmi = false;
    cpu->pending_debug = 0;
    tlb_flush_all(cpu);
}

static bool init_and_startup(struct hw_cpu *cpu)
{
    bool waits = cpu->activity == ACTIVITY_WAIT_FOR_SIPI;
    if (cpu->init_pending && cpu->vmx == VMX_NON_ROOT && !waits) {
        cpu->init_pending = false;
        vm_exit_simple(cpu, 3);
        return true;
    }
    if (cpu->init_pending && cpu->vmx == VMX_OUTSIDE) { // in VMX root operation INIT stays blocked
        cpu->init_pending = false;
        reset_by_init(cpu);
        return true;
    }
    if (!cpu->sipi_pending)
        return false;
    cpu->sipi_pending = false; // lost unless waited for
    if (waits && cpu->vmx == VMX_NON_ROOT) {
        vm_exit(cpu, &(struct exit_information){.reason = 4, .qualification = cpu->sipi_vector});
    } else if (waits) {
        struct segment *cs = &cpu->r.segment[SEGMENT_CS];
        cs->selector = (uint16_t)(cpu->sipi_vector << 8);
        cs->base = (uint64_t)cpu->sipi_vector << 12;
        cpu->r.rip = 0;
        cpu->activity = ACTIVITY_ACTIVE;
    }
    return true;
}

static bool pending_debug_trap(struct hw_cpu *cpu)
{
    // B3:0 are reported only together with "enabled breakpoint"; BS by itself.
    uint64_t cause = cpu->pending_debug & (1ull << 12 | 1ull << 14);
    if (cause == 0 || cpu->blocking_mov_ss || cpu->activity == ACTIVITY_SHUTDOWN)
        return false;
    struct event event = {.valid = true,
                          .type = EVENT_HARDWARE_EXCEPTION,
                          .vector = VECTOR_DB,
                          .dr6 = cpu->pending_debug & (0xf | 1ull << 14)};
    cpu->pending_debug = 0;
    if (!exception_exits(cpu, &event))
        event_deliver(cpu, event);
    return true;
}

static bool preemption_timer(struct hw_cpu *cpu)
{
    if (!cpu_has_pin(cpu, PIN_PREEMPTION_TIMER) || cpu->activity == ACTIVITY_WAIT_FOR_SIPI)
        return false;
    if (cpu->tsc < cpu->timer_deadline) {
        bool nmi_comes = cpu->nmi_pending && (!cpu->blocking_nmi || cpu_has_pin(cpu, PIN_VIRTUAL_NMIS));
        bool window = (cpu_has_primary(cpu, PRIMARY_NMI_WINDOW_EXITING) && !cpu->blocking_virtual_nmi) ||
                      (cpu_has_primary(cpu, PRIMARY_INTERRUPT_WINDOW_EXITING) && (cpu->r.rflags & RFLAGS_IF));
        bool idle = cpu->activity != ACTIVITY_ACTIVE && cpu->interrupt_count == 0 && !nmi_comes && !window;
        if (!idle)
            return false;
        cpu->tsc = cpu->timer_deadline; // nothing else ends the wait
    }
    vm_exit_simple(cpu, 52);
    return true;
}

static bool nmi(struct hw_cpu *cpu)
{
    bool virtual_nmis = cpu_has_pin(cpu, PIN_VIRTUAL_NMIS);
    if (cpu->activity == ACTIVITY_WAIT_FOR_SIPI)
        return false;
    if (cpu_has_primary(cpu, PRIMARY_NMI_WINDOW_EXITING) && !cpu->blocking_virtual_nmi &&
        !cpu->blocking_sti && !cpu->blocking_mov_ss) {
        vm_exit_simple(cpu, 8);
        return true;
    }
    bool shadow = cpu->blocking_mov_ss || cpu->blocking_sti; // STI need not, but may, block NMIs
    if (!cpu->nmi_pending || shadow || (cpu->blocking_nmi && !virtual_nmis))
        return false;
    cpu->nmi_pending = false;
    struct event event = {.valid = true, .type = EVENT_NMI, .vector = VECTOR_NMI};
    if (cpu_has_pin(cpu, PIN_NMI_EXITING))
        vm_exit(cpu, &(struct exit_information){.reason = 0, .event = event});
    else
        event_deliver(cpu, event);
    return true;
}

static bool interrupts(struct hw_cpu *cpu)
{
    bool blocked = cpu->blocking_sti || cpu->blocking_mov_ss;
    bool open = (cpu->r.rflags & RFLAGS_IF) && !blocked;
    if (cpu->activity == ACTIVITY_WAIT_FOR_SIPI || cpu->activity == ACTIVITY_SHUTDOWN)
        return false;
    if (cpu->overlooks && open && cpu->activity == ACTIVITY_ACTIVE)
        cpu->overlooks = false;
    if (cpu->overlooks)
        return false;
    if (cpu_has_primary(cpu, PRIMARY_INTERRUPT_WINDOW_EXITING) && open) {
        vm_exit_simple(cpu, 7);
        return true;
    }
    if (cpu->interrupt_count == 0)
        return open && apic_deliver_virtual_interrupt(cpu);
    if (cpu_has_pin(cpu, PIN_EXTERNAL_INTERRUPT_EXITING)) {
        if (blocked)
            return false;
        struct exit_information x = {.reason = 1};
        if (cpu->c.exit & EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT)
            x.event = (struct event){
                .valid = true, .type = EVENT_EXTERNAL_INTERRUPT, .vector = acknowledge_interrupt(cpu)};
        if (cpu_has_pin(cpu, PIN_POSTED_INTERRUPTS) && x.event.vector == cpu->c.posted_vector)
            apic_process_posted_interrupts(cpu);
        else
            vm_exit(cpu, &x);
        return true;
    }
    if (!open)
        return false;
    event_deliver(cpu, (struct event){.valid = true,
                                      .type = EVENT_EXTERNAL_INTERRUPT,
                                      .vector = acknowledge_interrupt(cpu)});
    return true;
}

bool boundary_events(struct hw_cpu *cpu)
{
    if (cpu->aborted)
        return false;
    if (init_and_startup(cpu))
        return true;
    if (cpu->mtf_pending) {
        cpu->mtf_pending = false;
        vm_exit_simple(cpu, 37);
        return true;
    }
    return pending_debug_trap(cpu) || preemption_timer(cpu) || nmi(cpu) || interrupts(cpu);
}
