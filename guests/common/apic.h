// SPDX-License-Identifier: MIT
// The local APIC (xAPIC mode), the processors in ACPI's MADT, and starting them.
#ifndef GUEST_APIC_H
#define GUEST_APIC_H

#include "cpu.h"

#define APIC_BASE 0xfee00000ull

// Interrupt command register: delivery mode and level, without the vector.
#define APIC_FIXED   0x4000u
#define APIC_NMI     0x4400u
#define APIC_INIT    0x4500u
#define APIC_STARTUP 0x4600u

void apic_enable(void);
uint32_t apic_id(void);
void apic_end_interrupt(void);

// True if `vector` is in service (acknowledged, and its end-of-interrupt has not been signalled).
bool apic_is_in_service(uint32_t vector);
bool apic_is_requested(uint32_t vector);

// Sends an interprocessor interrupt to the processor with that local APIC identifier, and waits until it is
// sent.
void apic_send(uint32_t destination, uint32_t command);

// Initializes the one that executes it as processor 0. Returns how many there are in the MADT, at most
// CPU_MAX.
uint32_t apic_find_processors(void);

// Starts processors 1 to count - 1, one after the other; they then wait for jobs.
void apic_start_others(uint32_t count);

// Gives an idle processor a job. It runs with interrupts off. apic_wait_for: until it is idle again.
void apic_run_on(struct cpu *cpu, void (*job)(struct cpu *));
void apic_wait_for(struct cpu *cpu);

// INIT and start-up IPIs: back to the state after processor_start, whatever it was doing. False: it does not
// come.
bool apic_start_processor(struct cpu *cpu);

#endif
