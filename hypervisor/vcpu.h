// SPDX-License-Identifier: MIT
// One virtual processor of L1: the engine's part, and what L0 keeps beside it. Passthrough: it stays on the
// logical processor that it was made for.
#ifndef PLASTRON_VCPU_H
#define PLASTRON_VCPU_H

#include "cpu.h"
#include "load.h"
#include "mtrr_l1.h"

#include <nvmx/nvmx.h>

struct vcpu {
    struct nvmx_vcpu nvmx; // first: vcpu_of
    struct cpu *cpu;
    uint64_t apic_base; // IA32_APIC_BASE as L1 sees it
    struct mtrr_l1 mtrr;
    bool x2apic_emulated; // L1 is in x2APIC mode and the processor in xAPIC mode
    bool just_started;    // by a startup IPI
    bool started;         // false: waits for one
    bool abort_noted;     // that nvmx.aborted is set was said

    // A write to L0's range is carried out on a page that nobody reads: hole.c.
    uint64_t open_ept_pointer;
    l0pa_t hole_scratch;
    bool hole_open;
};

static inline struct vcpu *vcpu_of(struct nvmx_vcpu *nvmx)
{
    return (struct vcpu *)nvmx;
}

#define VCPU_EPT02_POOL_PAGES 2048u

// How many bytes vcpu_create takes from the reserved range.
uint64_t vcpu_memory_size(void);

// What all vcpus share: the capabilities and the I/O bitmaps. Then one vcpu for each processor.
void vcpu_init(const struct nvmx_caps *hardware, const struct nvmx_caps *offered);
void vcpu_create(struct cpu *cpu);

// On the vcpu's processor: makes it ready to run, as after INIT (waiting for a startup IPI) or as `start`
// says.
void vcpu_load(struct vcpu *vcpu, const struct l1_start_state *start);

// hot: the compiler would take a function that is called once and does not return for one that does not
// matter.
_Noreturn void vcpu_run(struct vcpu *vcpu) __attribute__((hot));

#endif
