// SPDX-License-Identifier: MIT
// guests/hostile: an L1 that means harm. Each attack prints what became of it, a line each; it is the same on
// the processor itself and under a hypervisor that is not reached. What the manual demands is said by the
// attack (a line says WRONG otherwise), or by the processor itself (then the two transcripts are compared).
//
// Where the emulated processor is wrong or would end, `bare=1` has the attack print what is wanted without
// trying it.
#ifndef HOSTILE_H
#define HOSTILE_H

#include "probe.h"

#define CODE(text) (text), sizeof(text) - 1

// What became of code, as "#GP(0)", or "runs" (with the flags of a VMX instruction that failed).
void outcome(struct cpu *cpu, const char *name, const struct probe *probe);
// ... and what should have: an exception, or PROBE_RAN.
void outcome_should(struct cpu *cpu, const char *name, const struct probe *probe, uint32_t vector,
                    uint64_t error);
void outcome_flags(struct cpu *cpu, const char *name, const struct probe *probe);
void outcome_exit(struct cpu *cpu, const char *name, uint32_t reason, const struct probe *probe);
void outcome_text(struct cpu *cpu, const char *name, const char *text);
void outcome_number(struct cpu *cpu, const char *name, uint64_t number, uint64_t should);
// True on the bare machine: `text` was printed as what is wanted, and the attack is not to be made.
bool outcome_not_bare(struct cpu *cpu, const char *name, const char *text);

bool hostile_bare(void);
uint32_t hostile_processors(void);

// A pseudo-random sequence, the same for the same seed.
uint64_t dice(void);
void dice_seed(uint64_t seed);
uint64_t dice_below(uint64_t limit);
uint64_t dice_bits(void); // a few bits of 64, or boundary values

void fuzz_run(struct cpu *cpu, uint64_t seed, uint64_t count);

#define ATTACK(name)      void attack_##name(struct cpu *cpu);
#define LAST_ATTACK(name) ATTACK(name)
#include "attacks.def"
#undef LAST_ATTACK
#undef ATTACK

#endif
