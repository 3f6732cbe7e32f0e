// SPDX-License-Identifier: MIT
// The VMX capability MSRs: read from the processor, and narrowed to what L1 is offered.
#ifndef NVMX_CAPS_H
#define NVMX_CAPS_H

#include <nvmx/types.h>

struct hw_cpu;

#define CAPS_MSR_FIRST 0x480u // IA32_VMX_BASIC
#define CAPS_MSR_COUNT 18u    // ... to IA32_VMX_VMFUNC

// What CPUID, and no capability MSR, says and VM entry depends on.
#define FEATURE_SGX                (1u << 0) // CPUID.(EAX=7,ECX=0):EBX[2]
#define FEATURE_RTM                (1u << 1) // CPUID.(EAX=7,ECX=0):EBX[11]
#define FEATURE_BUS_LOCK_DETECTION (1u << 2) // CPUID.(EAX=7,ECX=0):ECX[24]
#define FEATURE_LAM                (1u << 3) // CPUID.(EAX=7,ECX=1):EAX[26]
#define FEATURE_COUNT              4
#define FEATURE_ALL                ((1u << FEATURE_COUNT) - 1)

struct nvmx_caps {
    uint64_t msr[CAPS_MSR_COUNT]; // of IA32_VMX_BASIC + index; a MSR that the processor does not have is 0
    uint64_t features;            // FEATURE_*
    uint64_t perf_global_ctrl;    // the bits that IA32_PERF_GLOBAL_CTRL defines: counters, by CPUID.0AH
};

// The MSRs; features and counters are 0 until nvmx_caps_take_cpuid.
void nvmx_caps_read(struct hw_cpu *cpu, struct nvmx_caps *hardware);

// Registers that CPUID returns; 0 where there is no such leaf.
struct nvmx_cpuid_words {
    uint32_t leaf_7_ebx, leaf_7_ecx; // EAX=7, ECX=0
    uint32_t leaf_7_1_eax;           // EAX=7, ECX=1
    uint32_t leaf_a_eax, leaf_a_ecx, leaf_a_edx;
    uint64_t perf_capabilities; // IA32_PERF_CAPABILITIES
};
void nvmx_caps_take_cpuid(struct nvmx_caps *caps, const struct nvmx_cpuid_words *cpuid);

// The controls that may be 1 (allowed1) and that must be 1 (allowed0), by the TRUE MSRs where the processor
// has them.
enum caps_word { CAPS_PIN, CAPS_PRIMARY, CAPS_SECONDARY, CAPS_EXIT, CAPS_ENTRY, CAPS_WORD_COUNT };
uint32_t nvmx_caps_allowed1(const struct nvmx_caps *caps, enum caps_word word);
uint32_t nvmx_caps_allowed0(const struct nvmx_caps *caps, enum caps_word word);

// What L1 is told: `hardware` without what the engine does not virtualize (no feature of CPUID's is): at most
// what the processor has, so that every vcpu of a machine can be offered the same.
void nvmx_caps_offer(const struct nvmx_caps *hardware, struct nvmx_caps *offered);

// The first thing L0 needs and this processor lacks: "unrestricted guest"; NULL: nothing.
const char *nvmx_caps_missing_for_l0(const struct nvmx_caps *hardware);

#endif
