// SPDX-License-Identifier: MIT
// What the files of the generator share: whose turn it is, and what is planned.
#ifndef TESTS_GENERATE_H
#define TESTS_GENERATE_H

#include "explore.h"
#include "random.h"

#define PLAN_LIMIT 64

// What is known of a VMCS of L1, besides what is in it.
struct known_vmcs {
    bool prepared, without_ept;
    bool unsure; // the guest state may no longer work
    uint8_t mode;
    enum vmcs_field broken; // a field that was given a bad value on purpose; F_COUNT: none
    uint64_t good;          // ... and what it was
};

// One virtual processor, on the bare machine.
struct actor {
    struct virtual_processor *p;
    struct hw_cpu *cpu;
    unsigned vcpu;
    struct step plan[PLAN_LIMIT];
    unsigned first, planned;
    unsigned l2_budget; // operations of L2 until it is made to exit
    bool stale;         // another virtual processor changed tables that this one may have cached
    unsigned wakes;     // in a row
};

struct generator_state {
    struct script *script;
    struct actor actor[WORLD_VCPU_LIMIT];
    struct known_vmcs region[REGION_COUNT];
    unsigned l1_accidents; // of the kind after which L1 is not of much use
    bool over;
};
extern struct generator_state generating;

void plan(struct actor *a, struct step step);
static inline void plan_l1(struct actor *a, struct op op)
{
    plan(a, (struct step){.kind = STEP_OP, .level = 1, .op = op});
}
static inline void plan_l2(struct actor *a, struct op op)
{
    plan(a, (struct step){.kind = STEP_OP, .level = 2, .op = op});
}

// The VMCS that is current on the actor's processor; -1: none of L1's four.
int current_region(const struct actor *a);
uint64_t current_field(const struct actor *a, enum vmcs_field field);
bool is_active_elsewhere(const struct actor *a, unsigned region);
bool has_secondary(const struct actor *a, uint32_t control); // in the current VMCS
void plan_write(struct actor *a, enum vmcs_field field, uint64_t value);
unsigned random_region(const struct actor *a); // one that the actor may use
enum guest_mode random_mode(bool without_ept);
// An L2 with other page tables under the same VPID: nothing cached of the old ones may be used.
void plan_forget_translations(struct actor *a);
void plan_forget_after(struct actor *a, enum vmcs_field field); // ... if it matters for them

void plan_l1_steps(struct actor *a);    // generate_l1.c
void plan_l2_steps(struct actor *a);    // generate_l2.c
void plan_vmcs_change(struct actor *a); // generate_vmcs.c: L1 changes the current VMCS, or what it points to
enum vmcs_field random_field(void);
void plan_bad_change(struct actor *a); // generate_mistakes.c: ... so that it may not be entered with
void plan_repairs(struct actor *a);    // what must be before an entry, so that nothing undefined is used
uint64_t plausible_value(struct actor *a, enum vmcs_field field);

#endif
