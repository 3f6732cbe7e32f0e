// SPDX-License-Identifier: MIT
#include "trap.h"
#include "apic.h"
#include "console.h"
#include "machine.h"
#include "x86.h"

#define ENTRY_SIZE             16u
#define GATE_INTERRUPT_PRESENT (0x8eull << 40)
#define FIRST_INTERRUPT_VECTOR 32u

extern const uint8_t trap_entries[], trap_recover[];

static uint64_t idt[2 * 256] __attribute__((aligned(4096)));

void trap_load_idt(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint64_t entry = cpu_physical(trap_entries) + i * ENTRY_SIZE;
        idt[2 * i] =
            (entry & 0xffff) | SELECTOR_CODE64 << 16 | GATE_INTERRUPT_PRESENT | (entry >> 16 & 0xffff) << 48;
        idt[2 * i + 1] = entry >> 32;
    }
    x86_lidt((struct x86_table_pointer){sizeof(idt) - 1, cpu_physical(idt)});
}

const void *trap_idt(void)
{
    return idt;
}

void trap_panic(const char *text)
{
    struct cpu *cpu = cpu_self();
    const struct cpu_trap trap = cpu->trap; // an NMI may come while it is printed
    console_flush(cpu);
    console_print(cpu, "PANIC on processor %u: %s\n", cpu->index, text);
    console_print(cpu, "last trap: vector %u, error code %lx, rip %lx, cr2 %lx, rflags %lx\n", trap.vector,
                  trap.error_code, trap.rip, trap.cr2, trap.rflags);
    console_flush(cpu);
    machine_stop();
}

void trap_handle(struct trap_frame *frame)
{
    struct cpu *cpu = cpu_self();
    cpu->trap = (struct cpu_trap){
        .count = cpu->trap.count + 1,
        .vector = (uint32_t)frame->vector,
        .error_code = frame->error_code,
        .rip = frame->rip,
        .rflags = frame->rflags,
        .cr2 = x86_read_cr2(),
        .cs = frame->cs,
    };
    if (frame->vector >= FIRST_INTERRUPT_VECTOR) {
        if (cpu->trap_needs_eoi)
            apic_end_interrupt();
        return;
    }
    if (frame->vector == VECTOR_NMI || cpu->trap_returns)
        return;
    if (!cpu->recovery_rsp)
        trap_panic("an exception that nobody expected");
    frame->rip = cpu_physical(trap_recover);
    frame->cs = SELECTOR_CODE64;
    frame->ss = SELECTOR_DATA;
    frame->rsp = cpu->recovery_rsp;
    frame->rflags = RFLAGS_FIXED;
}
