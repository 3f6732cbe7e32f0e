// SPDX-License-Identifier: MIT
// A script of the explorer: what the virtual processors of L1, and their L2s, execute one after another, and
// what happens around them. This is how a failure is printed, and how it is pasted into a test
// (tests/explore/found.c).
//
//     static const struct step steps[] = {
//         ENTER_VMX, PREPARE(0, MODE_64), L1(VMLAUNCH), L2(CPUID(1)), L1(VMREAD(GPR_RAX, VMCS_EXIT_REASON)),
//     };
//
// A step is for the virtual processor that the last VCPU before it named, or 0. An operation marked L1 that
// finds L2 running waits while L2 executes VMCALLs; one marked L2 that finds L1 running is left out.
#ifndef TESTS_STEPS_H
#define TESTS_STEPS_H

#include "script.h"
#include "world.h"

enum step_kind {
    STEP_OP,         // `op`, by `level`
    STEP_ENTER_VMX,  // CR4.VMXE, the VMXON region, VMXON
    STEP_PREPARE,    // VMCLEAR, VMPTRLD and all fields of VMCS a, for an L2 in mode b (flag: without EPT)
    STEP_GUEST,      // all guest-state fields of the current VMCS anew, for an L2 in mode b of VMCS a
    STEP_POKE,       // another processor of L1 writes b, `size` bytes, to L1-physical a
    STEP_MOVE,       // nested: to logical processor a, at the next exit
    STEP_L0,         // nested: L0 does a (enum l0_action) at the next exit, or (flag) in it
    STEP_WRITE_BACK, // the processor writes the VMCSs that it caches back to memory
    STEP_VCPU,       // what follows is for virtual processor a (in sources only)
    STEP_WAKE,       // of an idle virtual processor: see enum wake
};

enum guest_mode {
    MODE_64,
    MODE_COMPATIBILITY,
    MODE_PAE,
    MODE_32,
    MODE_NOT_PAGED, // these two need "unrestricted guest"
    MODE_REAL,
    MODE_V86,
    MODE_COUNT
};

enum wake { WAKE_NMI, WAKE_INTERRUPT, WAKE_INIT, WAKE_SIPI };

struct step {
    uint8_t kind, vcpu, level;
    struct op op; // of the others: `a`, `b`, `size`, `flag`
};

// clang-format off
#define L1(operation)             {.kind = STEP_OP, .level = 1, .op = operation}
#define L2(operation)             {.kind = STEP_OP, .level = 2, .op = operation}
#define ENTER_VMX                 {.kind = STEP_ENTER_VMX, .level = 1}
#define PREPARE(r, m)             {.kind = STEP_PREPARE, .level = 1, .op = {.a = (r), .b = (m)}}
#define PREPARE_WITHOUT_EPT(r, m) {.kind = STEP_PREPARE, .level = 1, .op = {.a = (r), .b = (m), .flag = true}}
#define GUEST(r, m)               {.kind = STEP_GUEST, .level = 1, .op = {.a = (r), .b = (m)}}
#define GUEST_WITHOUT_EPT(r, m)   {.kind = STEP_GUEST, .level = 1, .op = {.a = (r), .b = (m), .flag = true}}
#define POKE(at, value, bytes)    {.kind = STEP_POKE, .op = {.a = (at), .b = (value), .size = (bytes)}}
#define MOVE(cpu)                 {.kind = STEP_MOVE, .op = {.a = (cpu)}}
#define MOVE_IN_EXIT(cpu)         {.kind = STEP_MOVE, .op = {.a = (cpu), .flag = true}}
#define L0(action)                {.kind = STEP_L0, .op = {.a = (action)}}
#define L0_IN_EXIT(action)        {.kind = STEP_L0, .op = {.a = (action), .flag = true}}
#define WRITE_BACK                {.kind = STEP_WRITE_BACK}
#define WAKE(how)                 {.kind = STEP_WAKE, .op = {.a = (how)}}
#define VCPU(n)                   {.kind = STEP_VCPU, .op = {.a = (n)}}
// clang-format on

// --- where things are in L1's memory

#define REGION_COUNT 4 // VMCSs of L1, for all of its virtual processors
#define GUEST_COUNT  2 // memories and EPTs of L2s; VMCS r uses number r % 2

#define VMXON_AT(vcpu) (L1_REGIONS + 0x1000 * (uint64_t)(vcpu))
#define VMCS_AT(r)     (L1_REGIONS + 0x10000 + 0x1000 * (uint64_t)(r))

// Operands: 16 bytes each.
#define SLOT(n)            (L1_SCRATCH + 16 * (int64_t)(n))
#define VMXON_SLOT(v)      SLOT(v)       // &VMXON_AT(v)
#define VMCS_SLOT(r)       SLOT(2 + (r)) // &VMCS_AT(r)
#define UNALIGNED_SLOT     SLOT(8)       // addresses that no VMCS can have
#define TOO_WIDE_SLOT      SLOT(9)
#define EPTP_SLOT(g)       SLOT(16 + (g)) // INVEPT descriptors: the EPT pointers of L2 g, and bad ones
#define EPTP_LARGE_SLOT(g) SLOT(18 + (g))
#define ZERO_SLOT          SLOT(20)
#define ONES_SLOT          SLOT(21)
#define VPID_SLOT(vpid)    SLOT(24 + (vpid)) // INVVPID descriptors: VPIDs 0 to 8 and the linear address 0x20000
#define SPARE              (L1_SCRATCH + 0x1000) // a page to store to

// What a VMCS points to.
#define STRUCTURES(r)      (L1_TABLES + 0x10000 * (uint64_t)(r))
#define MSR_BITMAP_OF(r)   STRUCTURES(r)
#define IO_BITMAP_OF(r)    (STRUCTURES(r) + 0x1000) // A, and B behind it
#define ENTRY_LIST_OF(r)   (STRUCTURES(r) + 0x3000) // MSR lists: load at entry,
#define STORE_LIST_OF(r)   (STRUCTURES(r) + 0x3400) // store at exit,
#define EXIT_LIST_OF(r)    (STRUCTURES(r) + 0x3800) // load at exit
#define VIRTUAL_APIC_OF(r) (STRUCTURES(r) + 0x4000)
#define APIC_ACCESS_OF(r)  (STRUCTURES(r) + 0x5000)
#define OTHER_PAGE_OF(r)   (STRUCTURES(r) + 0x6000)

// L2 g: two EPTs of the same memory, by 4-KByte pages and by 2-MByte pages.
#define EPT_TABLES(g)      (L1_TABLES + 0x80000 + 0x10000 * (uint64_t)(g))
#define EPTP_OF(g)         (EPT_TABLES(g) | 6 | 3 << 3)
#define EPTP_LARGE_OF(g)   ((EPT_TABLES(g) + 0x4000) | 6 | 3 << 3)
#define EPT_ENTRY(g, page) (EPT_TABLES(g) + 0x3000 + 8 * (uint64_t)(page)) // of the last table
#define L2_SIZE            0x200000
#define L2_MEMORY(g)       (L2_RAM + L2_SIZE * (uint64_t)(g))

// In L2's memory.
#define L2_TABLES     0x1000ll // 4-level page tables; PAE's and 32-bit ones share what they can
#define L2_PTE(page)  (0x4000 + 8 * (int64_t)(page))
#define L2_IDT        0x5000
#define L2_TSS        0x6000
#define L2_STACK      0x9000 // the end; the page below it is not mapped
#define L2_IDT_32     0xb000
#define L2_PDPT_PAE   0xc000
#define L2_TABLES_32  0xd000
#define L2_HANDLERS   0xe000 // 16 bytes a vector
#define L2_CODE       0x10000
#define L2_DATA       0x20000  // to 0x3ffff
#define L2_NOT_MAPPED 0x60000  // 8 pages: not present in L2's page tables
#define L2_EPT_HOLE   0x70000  // 8 pages: not present in EPT
#define L2_APIC       0x80000  // the APIC-access page
#define L2_FLAT       0x1f0000 // page tables for an L2 without EPT

#define L1_EXIT_PAD (L1_PADS + 0x1000)

#endif
