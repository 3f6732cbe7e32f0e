// SPDX-License-Identifier: MIT
// One logical processor under L0: its descriptor tables, stacks, and place in the list.
#ifndef PLASTRON_CPU_H
#define PLASTRON_CPU_H

#include <nvmx/nvmx.h>
#include <silicon/silicon.h>

struct vcpu;

enum cpu_exception_stack { STACK_NMI, STACK_DOUBLE_FAULT, STACK_MACHINE_CHECK, CPU_EXCEPTION_STACKS };

struct cpu_tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3, io_map_base;
} __attribute__((packed));

struct cpu {
    struct cpu *self; // what GS:0 holds
    struct hw_cpu hw;
    struct nvmx_cpu nvmx;
    uint32_t index, apic_id;
    uint8_t *stack_top;
    l0pa_t vmxon_region;
    struct vcpu *vcpu; // passthrough: the one that stays here
    uint64_t gdt[5];
    struct cpu_tss tss;
    bool stopping; // for good: it has given up its VMCSs
    bool running;  // set by the processor itself when it is about to enter L1
};

extern struct cpu *cpu_list[];
extern uint32_t cpu_count;

// Memory for a processor's structure and stacks; adds it to the list.
struct cpu *cpu_create(uint32_t apic_id);

// How many bytes cpu_create takes from the reserved range.
uint64_t cpu_memory_size(void);

// Loads the descriptor tables and sets the control registers. On the processor itself.
void cpu_init(struct cpu *cpu);

struct cpu *cpu_this(void);
struct cpu *cpu_this_or_null(void); // NULL: cpu_init has not run here yet
struct cpu *cpu_of_hw(struct hw_cpu *hw);

#endif
