// SPDX-License-Identifier: MIT
#include "exceptions.h"

#include "boot.h"
#include "cpu.h"
#include "panic.h"
#include "vcpu.h"

#include <nvmx/controls.h>
#include <silicon/x86.h>

#define MSR_IA32_MCG_STATUS 0x17au
#define MCG_STATUS_RIPV     (1u << 0) // the interrupted program can be restarted where it was

#define GATE_INTERRUPT 0x8e00u // present, DPL 0, 64-bit interrupt gate

struct gate {
    uint16_t offset_low, selector, attributes, offset_middle;
    uint32_t offset_high, reserved;
};

// 256 gates, because a VM exit sets the IDTR limit to 64 KBytes; those without a handler are not present.
static struct gate idt[256] __attribute__((aligned(16)));

extern const uint64_t vectors_entry[EXCEPTION_COUNT]; // vectors.S

static uint16_t stack_for(unsigned vector)
{
    switch (vector) {
    case VECTOR_NMI:
        return STACK_NMI + 1;
    case VECTOR_DF:
        return STACK_DOUBLE_FAULT + 1;
    case VECTOR_MC:
        return STACK_MACHINE_CHECK + 1;
    default:
        return 0;
    }
}

void exceptions_init(void)
{
    for (unsigned vector = 0; vector < EXCEPTION_COUNT; vector++) {
        uint64_t entry = vectors_entry[vector];
        idt[vector] = (struct gate){
            .offset_low = (uint16_t)entry,
            .selector = SELECTOR_CODE,
            .attributes = (uint16_t)(GATE_INTERRUPT | stack_for(vector)),
            .offset_middle = (uint16_t)(entry >> 16),
            .offset_high = (uint32_t)(entry >> 32),
        };
    }
    const struct x86_table_register idtr = {.limit = sizeof(idt) - 1, .base = exceptions_idt()};
    x86_lidt(&idtr);
}

uint64_t exceptions_idt(void)
{
    return (uint64_t)idt;
}

// The NMI is L1's and came a moment too early: it is counted, and an entry that was decided on without it is
// not made.
static void handle_nmi(struct exceptions_frame *frame)
{
    struct cpu *cpu = cpu_this();
    if (cpu->vcpu == NULL || cpu->vcpu->nvmx.cpu == NULL)
        return; // before L1: nobody's
    nvmx_pend_nmi(&cpu->vcpu->nvmx);
    frame->rip = silicon_note_nmi(&cpu->hw, frame->rip);
}

// L1 has the banks, and what it does with them is its own. L0 goes on where it was if that is whole.
static void handle_machine_check(struct exceptions_frame *frame)
{
    struct cpu *cpu = cpu_this();
    uint64_t status = x86_rdmsr(MSR_IA32_MCG_STATUS);
    if ((status & MCG_STATUS_RIPV) == 0 || cpu->vcpu == NULL || cpu->vcpu->nvmx.cpu == NULL)
        panic_machine_check(frame);
    nvmx_pend_machine_check(&cpu->vcpu->nvmx);
    frame->rip = silicon_note_nmi(&cpu->hw, frame->rip);
}

void exceptions_handle(struct exceptions_frame *frame)
{
    if (frame->vector == VECTOR_NMI) {
        handle_nmi(frame);
        return;
    }
    if (frame->vector == VECTOR_MC) {
        handle_machine_check(frame);
        return;
    }
    if (frame->vector == VECTOR_GP) {
        uint64_t resume = silicon_fault_recovery(frame->rip);
        if (resume != 0) {
            frame->rip = resume;
            return;
        }
    }
    panic_exception(frame);
}
