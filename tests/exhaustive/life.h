// SPDX-License-Identifier: MIT
// The exhaustive exploration of VMCS life cycles: one vcpu, two logical processors, two VMCSs of L1, and
// every interleaving of what L1, L2, L0 and the processors' caches may do.
#ifndef TESTS_EXHAUSTIVE_LIFE_H
#define TESTS_EXHAUSTIVE_LIFE_H

#include "l1_vmx.h"
#include "world_internal.h"

// OPERATION(name, words, who)   who: L1 or L2 (what runs), or L0 (at any moment between two VM entries)
#define OPERATIONS(OPERATION)                                                                                \
    OPERATION(VMXON, "VMXON", L1)                                                                            \
    OPERATION(VMXOFF, "VMXOFF", L1)                                                                          \
    OPERATION(VMCLEAR_A, "VMCLEAR a", L1)                                                                    \
    OPERATION(VMCLEAR_B, "VMCLEAR b", L1)                                                                    \
    OPERATION(VMPTRLD_A, "VMPTRLD a", L1)                                                                    \
    OPERATION(VMPTRLD_B, "VMPTRLD b", L1)                                                                    \
    OPERATION(VMLAUNCH, "VMLAUNCH", L1)                                                                      \
    OPERATION(VMRESUME, "VMRESUME", L1)                                                                      \
    OPERATION(VMWRITE, "VMWRITE of four fields", L1)                                                         \
    OPERATION(VMREAD, "VMREAD of all fields", L1)                                                            \
    OPERATION(BREAK, "VMWRITE of a bad field", L1)                                                           \
    OPERATION(L2_EXITS, "L2 exits to L1", L2)                                                                \
    OPERATION(L2_STAYS, "L2 exits to L0", L2)                                                                \
    OPERATION(L2_WRITES, "L2 writes FS base", L2)                                                            \
    OPERATION(L2_INIT, "INIT reaches L2", L2)                                                                \
    OPERATION(MOVE, "L0 moves the vcpu", L0)                                                                 \
    OPERATION(PUT_LOAD, "L0 puts and loads the vcpu", L0)                                                    \
    OPERATION(LOSE, "the processor is taken away", L0)                                                       \
    OPERATION(RESET, "L0 resets L1", L0)                                                                     \
    OPERATION(WRITE_BACK, "the processor writes its cache back", L0)

enum operation {
#define OPERATION(name, words, who) DO_##name,
    OPERATIONS(OPERATION)
#undef OPERATION
        OPERATION_COUNT
};

// --- specification.c: what L1 must see, told without looking at the engine

enum fault { FAULT_NONE, FAULT_CONTROLS, FAULT_GUEST, FAULT_COUNT };

struct vmcs_specified {
    bool launched;
    uint8_t value;   // of the four fields that DO_VMWRITE writes
    uint8_t fs_base; // that L2 writes
    enum fault fault;
};

struct specified {
    bool vmxon, in_l2;
    int current; // 0, 1; -1: none
    struct vmcs_specified vmcs[2];
    struct vmcs_specified stored[2]; // what a reset leaves of a VMCS that was current
};

enum result {
    RESULT_SUCCEED,
    RESULT_FAIL_INVALID,
    RESULT_FAIL_VALID,
    RESULT_UNDEFINED_OPCODE,
    RESULT_EXIT,
    RESULT_IN_L2
};
struct expected {
    enum result result;
    uint32_t error;  // RESULT_FAIL_VALID
    uint32_t reason; // RESULT_EXIT
};

bool specified_applies(const struct specified *s, enum operation operation);
struct expected specified_step(struct specified *s, enum operation operation);

// --- actor.c: the same on the engine and the model

void actor_begin(void); // the world, and L1 outside VMX operation with both VMCSs clear and complete
struct expected actor_step(enum operation operation, const struct specified *before);
// Reads with L1's instructions what L1 can see; a sentence when that is not as specified. L1 must run.
const char *actor_probe(const struct specified *s);
const char *actor_invariant(void); // what must hold between any two VM entries; NULL: it does
uint64_t fs_base_value(uint8_t which);

// --- snapshot.c: the state of everything, to go back to; and its fingerprint

struct snapshot;
struct fingerprint {
    uint64_t low, high;
};
void snapshot_begin(void); // from now on it is known which pages of memory change
struct snapshot *snapshot_new(void);
void snapshot_take(struct snapshot *snapshot);
void snapshot_restore(const struct snapshot *snapshot);
// Of the engine and the model, without what nobody's behaviour depends on: counters, time, cached
// translations, exit information, the contents of a region while its VMCS is current.
// Of the specification too: were an engine that is wrong in a state that another path leads to rightly, it
// must not pass for that.
struct fingerprint snapshot_fingerprint(const struct specified *specified);

#endif
