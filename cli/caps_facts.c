// SPDX-License-Identifier: MIT
#include "caps_facts.h"

#include <cpuid.h>
#include <strings.h>

static const struct {
    const char *name, *source;
} facts[FACT_COUNT] = {
    {"SGX", "CPUID.(EAX=7,ECX=0):EBX[2]"},
    {"RTM", "CPUID.(EAX=7,ECX=0):EBX[11]"},
    {"BUS_LOCK_DETECTION", "CPUID.(EAX=7,ECX=0):ECX[24]"},
    {"LAM", "CPUID.(EAX=7,ECX=1):EAX[26]"},
    {"IA32_PERF_GLOBAL_CTRL", "the bits that the MSR has, by CPUID.0AH"},
};

const char *caps_fact_name(unsigned fact)
{
    return facts[fact].name;
}

const char *caps_fact_source(unsigned fact)
{
    return facts[fact].source;
}

unsigned caps_fact_find(const char *key)
{
    unsigned fact = 0;
    if (strncasecmp(key, "MSR_", 4) == 0)
        key += 4;
    while (fact < FACT_COUNT && strcasecmp(key, facts[fact].name) != 0)
        fact++;
    return fact;
}

uint64_t caps_fact_get(const struct nvmx_caps *caps, unsigned fact)
{
    return fact == FACT_COUNTERS ? caps->perf_global_ctrl : caps->features >> fact & 1;
}

void caps_fact_set(struct nvmx_caps *caps, unsigned fact, uint64_t value)
{
    if (fact == FACT_COUNTERS)
        caps->perf_global_ctrl = value;
    else
        caps->features = (caps->features & ~(1ull << fact)) | (value != 0 ? 1ull << fact : 0);
}

void caps_facts_read_own(struct nvmx_caps *caps)
{
    struct nvmx_cpuid_words words = {0};
    uint32_t unused;
    __get_cpuid_count(7, 0, &unused, &words.leaf_7_ebx, &words.leaf_7_ecx, &unused);
    __get_cpuid_count(7, 1, &words.leaf_7_1_eax, &unused, &unused, &unused);
    __get_cpuid_count(10, 0, &words.leaf_a_eax, &unused, &words.leaf_a_ecx, &words.leaf_a_edx);
    nvmx_caps_take_cpuid(caps, &words);
}
