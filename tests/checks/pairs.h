// SPDX-License-Identifier: MIT
// For every rule of checks.def a VMCS that breaks it and no other, and one at its boundary that breaks none
// (pairs.def). One source for all judges: the engine's table, the model's own checks, and a processor under
// a bare-metal L1 (guests/checks). Freestanding, no libc.
#ifndef CHECKS_PAIRS_H
#define CHECKS_PAIRS_H

#include <nvmx/check.h>
#include <nvmx/controls.h>

// How much of the VM entry happens.
enum pair_mode {
    PAIR_DIRECT, // the checks alone: any legal value will do
    PAIR_STOP,   // a legal VMCS comes to an entry of its MSR-load list that cannot be loaded: exit reason 34,
                 // nothing of L2 runs, the host state is loaded
    PAIR_RUN,    // ... or L2 really runs
};

// L1-physical pages at `scratch` that a pair may write, and what is where in them.
enum {
    PAIR_PAGE_ZERO = 0x0000,
    PAIR_PAGE_APIC = 0x1000,  // virtual-APIC page
    PAIR_PAGE_LINK = 0x2000,  // a VMCS region
    PAIR_PAGE_PDPT = 0x3000,  // PAE page-directory-pointer table
    PAIR_PAGE_LISTS = 0x4000, // MSR lists: entries that cannot be loaded; from 0x800 on harmless ones
    PAIR_SCRATCH_SIZE = 0x5000,
    PAIR_LIST_HARMLESS = PAIR_PAGE_LISTS + 0x800,
};

struct pair_world {
    const struct nvmx_caps *caps;
    uint64_t physical_width;
    bool long_mode; // L1 is in IA-32e mode
    enum pair_mode mode;
    uint64_t scratch, vmcs; // L1-physical: the pages above; the region of the current VMCS
    uint8_t *memory;        // the pages, as the caller sees them
    uint64_t *host;         // F_COUNT values: HOST_* that work, GUEST_* for an L2 that may run
};

enum pair_side { PAIR_BROKEN, PAIR_LEGAL, PAIR_SIDE_COUNT };

extern const unsigned pair_count;
enum check_index pair_rule(unsigned pair); // the rule that the pair is about
unsigned pair_variant(unsigned pair);      // 0: the rule's first pair

// Fills field[F_COUNT] and the scratch pages. false: this processor cannot have such a VMCS (a control that
// the pair needs is not to be had).
bool pair_make(unsigned pair, enum pair_side side, const struct pair_world *world, uint64_t *field);

// A valid VMCS: kinds 0 to pair_base_count - 1. false: not on this processor.
extern const unsigned pair_base_count;
bool pair_make_base(unsigned kind, const struct pair_world *world, uint64_t *field);

// Every control word is one that the processor allows.
bool pair_words_allowed(const struct pair_world *world, const uint64_t *field);

#endif
