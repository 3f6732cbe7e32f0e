// SPDX-License-Identifier: MIT
// An ept12: L2-physical to L1-physical, 4 levels, built in the processor's pages.
#ifndef GUEST_EPT_H
#define GUEST_EPT_H

#include "cpu.h"

#define EPT_READ         (1ull << 0)
#define EPT_WRITE        (1ull << 1)
#define EPT_EXECUTE      (1ull << 2)
#define EPT_ALL          7ull
#define EPT_WRITE_BACK   (6ull << 3)
#define EPT_UNCACHEABLE  (0ull << 3)
#define EPT_LARGE        (1ull << 7)
#define EPT_ACCESSED     (1ull << 8)
#define EPT_DIRTY        (1ull << 9)
#define EPT_EXECUTE_USER (1ull << 10) // ignored without mode-based execute control; tables have it
#define EPT_SUPPRESS_VE  (1ull << 63)
#define EPT_POINTER_WALK (3ull << 3) // page-walk length 4
#define EPT_POINTER_AD   (1ull << 6) // accessed and dirty flags

struct ept {
    struct cpu *cpu; // whose pages it takes
    uint64_t *pml4;
};

// Maps nothing.
struct ept ept_create(struct cpu *cpu);

// The first 1 GiB and the local APICs' 2 MiB identically, with 2-MByte pages and all rights.
struct ept ept_create_identity(struct cpu *cpu);
// ... and with these bits in the entries of the pages of the first 1 GiB.
struct ept ept_create_identity_with(struct cpu *cpu, uint64_t bits);

uint64_t ept_pointer(const struct ept *ept); // write-back

// Maps the page of `size` (4 KiB, 2 MiB, 1 GiB) at L2-physical `from` to L1-physical `to`; `bits`: rights and
// memory type. A larger page that is in the way is split. Nothing is invalidated.
void ept_map(struct ept *ept, uint64_t from, uint64_t to, uint64_t size, uint64_t bits);

// The entry that maps the 4-KByte page at `from`, split down to 4 KiB.
uint64_t *ept_entry(struct ept *ept, uint64_t from);

// EPT on in the current VMCS, with this EPT pointer.
void ept_use(const struct ept *ept);

// INVEPT of this ept12's single context (of all, where the processor has only that).
void ept_invalidate(const struct ept *ept);

#endif
