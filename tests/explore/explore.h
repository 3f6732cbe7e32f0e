// SPDX-License-Identifier: MIT
// Random exploration: scripts of operations, made at random, run by L1 and L2 on the bare model and under the
// engine; whatever the guests can see must be the same.
#ifndef TESTS_EXPLORE_H
#define TESTS_EXPLORE_H

#include "steps.h"
#include "world_internal.h"
#include <stdio.h>

struct script {
    struct world_config config;
    struct step *step;
    size_t count, room;
};

// --- memory.c, fields.c: what L1 and L2 have, and what L1 writes into a VMCS

void explore_build_memory(void);
void fields_begin(void); // L1's processor is another one
unsigned field_guest_of(unsigned region);
uint64_t field_base(enum vmcs_field field, unsigned region, enum guest_mode mode, bool without_ept);
bool field_is_of_l1(enum vmcs_field field); // L1's processor has it
bool mode_is_possible(enum guest_mode mode, bool without_ept);
// The operations that ENTER_VMX, PREPARE and GUEST stand for; false: there are no more.
bool compound_operation(const struct step *step, unsigned index, struct op *op);
uint32_t allowed1(enum control_word word), allowed0(enum control_word word); // of L1's processor

// --- observe.c

#define SEEN_COUNT 72
struct seen {
    uint64_t value[SEEN_COUNT];
};
const char *seen_name(unsigned index);
enum idleness { NOT_IDLE, IDLE_WAITING, IDLE_FOR_SIPI, IDLE_IN_SHUTDOWN };
// `seen` is zeroed before.
void seen_take(struct seen *seen, const struct hw_cpu *cpu, unsigned level, enum idleness idle);
uint64_t seen_hash(const struct seen *seen);

// What the last operation left undefined (or tells the time): both worlds forget it.
struct undefined {
    uint16_t registers; // a set of general-purpose registers
    uint64_t keep;      // bits of them that are defined
    uint64_t address;   // 8 bytes in L1's memory; 0: none
};
struct undefined undefined_after(const struct hw_cpu *cpu, const struct op *op, bool ambiguous_error);

// --- run.c

enum verdict {
    VERDICT_SAME,
    VERDICT_DIFFERENT,
    VERDICT_STOPPED,  // the nested run: the model or the engine says what is wrong
    VERDICT_UNDEFINED // the bare run did what the manual leaves undefined
};
struct result {
    enum verdict verdict;
    size_t step;              // that was executed last
    uint64_t observation;     // its number
    bool at_the_end;          // only what is in memory differs
    char sentence[400];       // of a stop, or what differs
    const char *refusal;      // of a VM entry by the processor, the last one
    struct seen bare, nested; // of VERDICT_DIFFERENT
};

// Makes the next step, or gives up (false). For the vcpu that is at an instruction boundary, on the bare
// machine.
typedef bool generator(struct script *script, struct virtual_processor *p, unsigned level,
                       enum wait_reason reason);

// Runs a script bare (made by `generate`, unless that is NULL), then nested, and compares.
void explore_run(struct script *script, generator *generate, struct result *result);
uint64_t explore_operations(void); // of L1 and L2, since the program started, counted once

// --- generate.c

void generate_begin(struct script *script, uint64_t seed, size_t steps);
generator generate_step;

// --- coverage.c

void cover_operation(const struct hw_cpu *cpu, const struct op *op, unsigned level, unsigned level_before);
void cover_script(const struct script *script, const struct result *result);
void cover_print(FILE *to);

// --- minimise.c, print.c

void minimise(struct script *script, struct result *result);
void print_script(FILE *to, const struct script *script);
void print_failure(FILE *to, const struct script *script, const struct result *result);

#endif
