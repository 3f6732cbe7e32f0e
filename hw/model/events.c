// SPDX-License-Identifier: MIT
// Exceptions, interrupts, and their delivery through the IDT; what of it makes VM exits instead.
// Two simplifications against a real processor: code-segment descriptors are not read (a gate leads to flat
// code at privilege level 0), and outside IA-32e mode a stack is never switched.
// Manual: Exceptions (of VM-execution controls); Information for VM Exits That Occur During Event Delivery.
#include "model.h"
#include <string.h>

bool vector_pushes_error_code(uint8_t vector)
{
    return vector == VECTOR_DF || (vector >= VECTOR_TS && vector <= VECTOR_PF) || vector == VECTOR_AC;
}

void triple_fault(struct hw_cpu *cpu)
{
    cpu->vectoring.valid = false;
    if (cpu->vmx == VMX_NON_ROOT) {
        vm_exit_simple(cpu, 2);
        return;
    }
    cpu->activity = ACTIVITY_SHUTDOWN;
}

bool exception_exits(struct hw_cpu *cpu, const struct event *event)
{
    if (cpu->vmx != VMX_NON_ROOT)
        return false;
    bool set = cpu->c.exception_bitmap >> event->vector & 1;
    if (event->vector == VECTOR_PF) {
        bool matches = (event->error_code & cpu->c.page_fault_mask) == cpu->c.page_fault_match;
        set = matches == set;
    }
    if (!set)
        return false;
    struct exit_information x = {.reason = 0, .event = *event};
    if (event->vector == VECTOR_PF)
        x.qualification = event->cr2;
    if (event->vector == VECTOR_DB)
        x.qualification = event->dr6;
    x.event_nmi_unblocking =
        cpu->nmi_unblocked_by_iret && !cpu->vectoring.valid && event->vector != VECTOR_DF;
    vm_exit(cpu, &x);
    return true;
}

// Conditions for Generating a Double Fault
static bool is_contributory(uint8_t vector)
{
    return vector == 0 || (vector >= VECTOR_TS && vector <= VECTOR_GP);
}

static bool makes_double_fault(const struct event *first, uint8_t second)
{
    if (first->type != EVENT_HARDWARE_EXCEPTION)
        return false;
    if (is_contributory(first->vector))
        return is_contributory(second);
    // "Virtualization exceptions have the same severity as page faults."
    return (first->vector == VECTOR_PF || first->vector == VECTOR_VE) &&
           (is_contributory(second) || second == VECTOR_PF);
}

// Information for VM Exits During Event Delivery: a fault in the delivery of an event exits because of its
// own bit in the exception bitmap; only one that does not becomes a double or triple fault.
static void raise(struct hw_cpu *cpu, struct event event)
{
    const struct event first = cpu->vectoring;
    event.valid = true;
    bool by_program = first.type == EVENT_SOFTWARE_INTERRUPT || first.type == EVENT_SOFTWARE_EXCEPTION;
    if (first.valid && event.has_error && event.vector != VECTOR_PF && !by_program)
        event.error_code |= 1;  // EXT
    if (!(cpu->r.cr0 & CR0_PE)) // real-address mode knows no error codes
        event.has_error = false;
    if (exception_exits(cpu, &event))
        return;
    if (event.vector == VECTOR_PF) // also when it ends in a double or triple fault
        cpu->r.cr2 = event.cr2;
    if (first.valid && first.type == EVENT_HARDWARE_EXCEPTION && first.vector == VECTOR_DF) {
        triple_fault(cpu);
        return;
    }
    if (first.valid && makes_double_fault(&first, event.vector)) {
        cpu->vectoring.valid = false; // the manual: no VM exit "during event delivery" then
        event = (struct event){.valid = true,
                               .type = EVENT_HARDWARE_EXCEPTION,
                               .vector = VECTOR_DF,
                               .has_error = (cpu->r.cr0 & CR0_PE) != 0};
        if (exception_exits(cpu, &event))
            return;
    }
    event_deliver(cpu, event);
}

void raise_exception(struct hw_cpu *cpu, uint8_t vector)
{
    raise(cpu, (struct event){.type = EVENT_HARDWARE_EXCEPTION, .vector = vector});
}

void raise_exception_with_code(struct hw_cpu *cpu, uint8_t vector, uint32_t error_code)
{
    raise(cpu, (struct event){.type = EVENT_HARDWARE_EXCEPTION,
                              .vector = vector,
                              .has_error = true,
                              .error_code = error_code});
}

void raise_page_fault(struct hw_cpu *cpu, uint64_t linear, uint32_t error_code)
{
    raise(cpu, (struct event){.type = EVENT_HARDWARE_EXCEPTION,
                              .vector = VECTOR_PF,
                              .has_error = true,
                              .error_code = error_code,
                              .cr2 = linear});
}

#define TASK_GATE 5

struct gate {
    uint64_t offset;
    uint16_t selector;
    uint8_t type, stack, dpl;
    bool present;
};

// Reads the gate of `vector`; false: a fault or an exit happened instead.
static bool read_gate(struct hw_cpu *cpu, const struct event *event, struct gate *gate)
{
    bool real = !(cpu->r.cr0 & CR0_PE), wide = cpu_in_long_mode(cpu);
    unsigned size = real ? 4 : wide ? 16 : 8;
    uint32_t code = event->vector * 8u + 2;
    uint8_t bytes[16] = {0};
    if (event->vector * size + size - 1 > cpu->r.idtr_limit) {
        raise_exception_with_code(cpu, VECTOR_GP, code);
        return false;
    }
    if (!guest_read(cpu, cpu->r.idtr_base + event->vector * size, bytes, size, true))
        return false;
    *gate = (struct gate){.offset = bytes[0] | (uint64_t)bytes[1] << 8,
                          .selector = (uint16_t)(bytes[2] | bytes[3] << 8),
                          .type = 14,
                          .present = true};
    if (real)
        return true;
    uint32_t high = 0;
    memcpy(&high, bytes + 8, 4);
    gate->offset |= (uint64_t)bytes[6] << 16 | (uint64_t)bytes[7] << 24 | (uint64_t)high << 32;
    gate->stack = wide ? bytes[4] & 7 : 0;
    gate->type = bytes[5] & 0x1f;
    gate->dpl = bytes[5] >> 5 & 3;
    gate->present = bytes[5] & 0x80;
    bool software = event->type == EVENT_SOFTWARE_INTERRUPT || event->type == EVENT_SOFTWARE_EXCEPTION;
    bool is_task_gate = gate->type == TASK_GATE && !wide;
    if ((gate->type != 14 && gate->type != 15 && !is_task_gate) || (software && cpu_cpl(cpu) > gate->dpl)) {
        raise_exception_with_code(cpu, VECTOR_GP, code);
        return false;
    }
    if (!gate->present) {
        raise_exception_with_code(cpu, VECTOR_NP, code);
        return false;
    }
    if (is_task_gate)
        task_switch(cpu, gate->selector, TASK_SWITCH_GATE, NULL);
    return !is_task_gate;
}

static bool choose_stack(struct hw_cpu *cpu, const struct gate *gate, uint64_t *stack)
{
    *stack = cpu->r.gpr[GPR_RSP];
    if (!cpu_in_long_mode(cpu))
        return true;
    uint64_t tss = cpu->r.segment[SEGMENT_TR].base;
    if (gate->stack != 0 && !guest_read(cpu, tss + 36 + 8 * (gate->stack - 1u), stack, 8, true))
        return false;
    if (gate->stack == 0 && cpu_cpl(cpu) == 3 && !guest_read(cpu, tss + 4, stack, 8, true))
        return false;
    *stack &= ~15ull;
    return true;
}

static bool push_frame(struct hw_cpu *cpu, const struct event *event, uint64_t *stack, uint64_t return_rip,
                       uint64_t flags)
{
    const struct registers *r = &cpu->r;
    bool real = !(r->cr0 & CR0_PE), wide = cpu_in_long_mode(cpu);
    unsigned width = real ? 2 : wide ? 8 : 4, count = 0;
    uint64_t values[6];
    if (wide) {
        values[count++] = r->segment[SEGMENT_SS].selector;
        values[count++] = r->gpr[GPR_RSP];
    }
    values[count++] = flags;
    values[count++] = r->segment[SEGMENT_CS].selector;
    values[count++] = return_rip;
    if (event->has_error && !real)
        values[count++] = event->error_code;
    uint8_t frame[64];
    for (unsigned i = 0; i < count; i++)
        memcpy(frame + width * (count - 1 - i), &values[i], width);
    *stack -= (uint64_t)width * count;
    return guest_write(cpu, *stack + (wide ? 0 : r->segment[SEGMENT_SS].base), frame, width * count, true);
}

static void enter_handler(struct hw_cpu *cpu, const struct gate *gate, uint64_t stack)
{
    struct registers *r = &cpu->r;
    bool from_virtual_8086 = r->rflags & RFLAGS_VM;
    r->gpr[GPR_RSP] = stack;
    r->rip = gate->offset;
    r->rflags &= ~(RFLAGS_TF | RFLAGS_RF | RFLAGS_VM | RFLAGS_NT);
    if (gate->type == 14)
        r->rflags &= ~RFLAGS_IF;
    struct segment *cs = &r->segment[SEGMENT_CS], *ss = &r->segment[SEGMENT_SS];
    if (!(r->cr0 & CR0_PE)) {
        cs->selector = gate->selector;
        cs->base = (uint64_t)gate->selector << 4;
    } else {
        cs->selector = gate->selector & ~3u;
        bool outer = ss->access_rights & 0x60;
        if (cpu_in_long_mode(cpu)) {
            cs->access_rights = 0xa09b;
            if (outer)
                *ss = (struct segment){.access_rights = SEGMENT_UNUSABLE};
        } else if (outer) {
            *cs = (struct segment){.selector = cs->selector, .limit = 0xffffffff, .access_rights = 0xc09b};
            *ss = (struct segment){.selector = 0x10, .limit = 0xffffffff, .access_rights = 0xc093};
        }
        for (unsigned i = SEGMENT_ES; i <= SEGMENT_GS && from_virtual_8086; i++)
            if (i != SEGMENT_CS && i != SEGMENT_SS)
                r->segment[i] = (struct segment){.access_rights = SEGMENT_UNUSABLE};
    }
    cpu->fed.op = NULL;
    cpu->vectoring.valid = false;
    cpu->fetch_page = NO_ADDRESS;
    if (cpu_has_primary(cpu,
                        PRIMARY_MONITOR_TRAP_FLAG)) // behind any delivery, of an injected event or a fault
        cpu->mtf_pending = true;
}

// What an event changes even if its delivery ends in a VM exit (an event that causes an exit "directly" never
// gets here). Manual: Architectural State Before a VM Exit.
static void update_state(struct hw_cpu *cpu, const struct event *event)
{
    bool exception = event->type == EVENT_HARDWARE_EXCEPTION && !event->injected;
    cpu->activity = ACTIVITY_ACTIVE;
    cpu->blocking_sti = cpu->blocking_mov_ss = false;
    if (exception && event->vector == VECTOR_PF)
        cpu->r.cr2 = event->cr2;
    if (exception && event->vector == VECTOR_DB)
        cpu->r.dr6 = 0xffff0ff0 | event->dr6;
    if (event->type == EVENT_NMI) {
        if (cpu_has_pin(cpu, PIN_VIRTUAL_NMIS))
            cpu->blocking_virtual_nmi = true;
        else
            cpu->blocking_nmi = true;
    }
}

// A fault sets RF, so that its instruction, executed again, does not hit the same breakpoint; what VM entry
// injects pushes RF as VM entry loaded it.
uint64_t event_pushed_flags(const struct hw_cpu *cpu, const struct event *event)
{
    bool fault = event->type == EVENT_HARDWARE_EXCEPTION && event->vector != VECTOR_DB && !event->injected;
    return cpu->r.rflags | (fault ? RFLAGS_RF : 0);
}

void event_deliver(struct hw_cpu *cpu, struct event event)
{
    update_state(cpu, &event);
    cpu->vectoring = event;
    bool software = event.type >= EVENT_SOFTWARE_INTERRUPT && event.type <= EVENT_SOFTWARE_EXCEPTION;
    uint64_t return_rip = cpu->r.rip + (software ? event.instruction_length : 0);
    uint64_t flags = event_pushed_flags(cpu, &event);
    struct gate gate;
    uint64_t stack;
    if (read_gate(cpu, &event, &gate) && choose_stack(cpu, &gate, &stack) &&
        push_frame(cpu, &event, &stack, return_rip, flags)) {
        enter_handler(cpu, &gate, stack);
        cpu->handler_begins = event.type == EVENT_HARDWARE_EXCEPTION;
        cpu->interrupted_rip = return_rip;
    }
}
