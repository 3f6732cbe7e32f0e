// SPDX-License-Identifier: MIT
// The VMX capability MSRs: read from the processor, and narrowed to what L1 is offered.
#ifndef NVMX_CAPS_H
#define NVMX_CAPS_H

#include <nvmx/types.h>

struct hw_cpu;

#define CAPS_MSR_FIRST 0x480u // IA32_VMX_BASIC
#define CAPS_MSR_COUNT 18u    // ... to IA32_VMX_VMFUNC

// Values of IA32_VMX_BASIC + index; a MSR that the processor does not have is 0.
struct nvmx_caps {
    uint64_t msr[CAPS_MSR_COUNT];
};

void nvmx_caps_read(struct hw_cpu *cpu, struct nvmx_caps *hardware);

// The controls that may be 1 (allowed1) and that must be 1 (allowed0), by the TRUE MSRs where the processor
// has them.
enum caps_word { CAPS_PIN, CAPS_PRIMARY, CAPS_SECONDARY, CAPS_EXIT, CAPS_ENTRY, CAPS_WORD_COUNT };
uint32_t nvmx_caps_allowed1(const struct nvmx_caps *caps, enum caps_word word);
uint32_t nvmx_caps_allowed0(const struct nvmx_caps *caps, enum caps_word word);

// What L1 is told: `hardware` without what the engine does not virtualize: at most what the processor has, so
// that every vcpu of a machine can be offered the same.
void nvmx_caps_offer(const struct nvmx_caps *hardware, struct nvmx_caps *offered);

// The first thing L0 needs and this processor lacks: "unrestricted guest"; NULL: nothing.
const char *nvmx_caps_missing_for_l0(const struct nvmx_caps *hardware);

#endif
