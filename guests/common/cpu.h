// SPDX-License-Identifier: MIT
// One logical processor of the guest: what is its own and nobody else's. Found through GS, in L1 and in an L2
// that shares L1's GS base.
#ifndef GUEST_CPU_H
#define GUEST_CPU_H

#include <nvmx/types.h>

#define CPU_MAX         4u
#define CPU_ARENA_PAGES 256u
#define CPU_STACK_SIZE  16384u

// Selectors of every processor's GDT.
#define SELECTOR_CODE64   0x08u
#define SELECTOR_DATA     0x10u
#define SELECTOR_CODE32   0x18u
#define SELECTOR_USER32   0x20u // the order that SYSRET would want
#define SELECTOR_USERDATA 0x2bu
#define SELECTOR_USER64   0x33u
#define SELECTOR_TSS      0x38u
#define GDT_ENTRIES       9u

struct cpu_tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3, io_map_base;
} __attribute__((packed));

// The last exception or interrupt that this processor took (in L1, or in an L2 on L1's IDT).
struct cpu_trap {
    uint64_t count;
    uint32_t vector;
    uint64_t error_code; // 0 where the vector has none
    uint64_t rip, rflags, cr2;
    uint64_t cs;
};

struct cpu_block { // text that is printed as one piece
    char *text;
    bool immediate;        // each line is sent when it ends: nobody else is printing
    uint32_t length, line; // line: where the last line begins
};

struct cpu {
    struct cpu *self;      // at GS:0
    uint64_t recovery_rsp; // at GS:8: trap.S. 0: nobody recovers
    bool trap_returns;   // exceptions are recorded and their handler returns, as an operating system's would
    bool trap_needs_eoi; // interrupts are acknowledged to the local APIC
    struct cpu_trap trap;

    uint32_t index, apic_id;
    volatile uint64_t argument[4]; // from an L1 to its L2s
    struct cpu_block block;
    bool brief; // facts that are as they should be are counted, not printed
    uint32_t fact_count, wrong_count;

    uint8_t *arena; // CPU_ARENA_PAGES pages of this processor's
    uint32_t arena_used;

    void (*volatile job)(struct cpu *); // what an application processor is to do; NULL when it is idle
    volatile bool online;

    struct cpu_tss tss;
    uint64_t gdt[GDT_ENTRIES];
    uint8_t user_stack[4096] __attribute__((aligned(16)));
    uint8_t trap_stack[8192] __attribute__((aligned(16))); // from CPL 3
};

static inline struct cpu *cpu_self(void)
{
    struct cpu *cpu;
    __asm__ volatile("mov %%gs:0, %0" : "=r"(cpu));
    return cpu;
}

struct cpu *cpu_get(uint32_t index);

// Makes the logical processor that executes it number `index`: GDT, TSS, IDT, GS base, control registers.
void cpu_init(uint32_t index, uint32_t apic_id);

// A zeroed page of the processor's own, until cpu_reset_pages. Same order, same addresses.
void *cpu_allocate_pages(struct cpu *cpu, uint32_t count);
void *cpu_allocate_page(struct cpu *cpu);
void cpu_reset_pages(struct cpu *cpu);

static inline uint64_t cpu_physical(const void *pointer)
{
    return (uint64_t)(uintptr_t)pointer; // mapped identically
}

#endif
