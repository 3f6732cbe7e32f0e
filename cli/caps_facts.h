// SPDX-License-Identifier: MIT
// What the rules of VM entry ask of a processor beside its capability MSRs: facts of CPUID's.
#ifndef PLASTRON_CLI_CAPS_FACTS_H
#define PLASTRON_CLI_CAPS_FACTS_H

#include <stdint.h>

#include <nvmx/caps.h>

// FEATURE_* by bit number, and then the counters. A set of facts is bits of 1 << fact.
enum { FACT_COUNTERS = FEATURE_COUNT, FACT_COUNT };
#define FACTS_ALL ((1u << FACT_COUNT) - 1)

// The key of a line in a capabilities file ("SGX"), and where it comes from ("CPUID.(EAX=7,ECX=0):EBX[2]").
const char *caps_fact_name(unsigned fact);
const char *caps_fact_source(unsigned fact);
unsigned caps_fact_find(const char *key); // FACT_COUNT: none

uint64_t caps_fact_get(const struct nvmx_caps *caps, unsigned fact);
void caps_fact_set(struct nvmx_caps *caps, unsigned fact, uint64_t value);

// Of this computer.
void caps_facts_read_own(struct nvmx_caps *caps);

#endif
