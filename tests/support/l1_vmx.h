// SPDX-License-Identifier: MIT
// A hypervisor typed by hand: what L1 does with VMX, in the words of the manual. Functions named after an
// instruction fail the test unless the instruction succeeds; those with try_ say how it ended.
#ifndef TESTS_L1_VMX_H
#define TESTS_L1_VMX_H

#include "world.h"

#define VMXON_REGION (L1_REGIONS + 0x10000 * (uint64_t)l1_vcpu())
#define VMCS_A       (VMXON_REGION + 0x1000)
#define VMCS_B       (VMXON_REGION + 0x2000)
#define VMCS_C       (VMXON_REGION + 0x3000)
#define MSR_BITMAP   (VMXON_REGION + 0x4000)
#define IO_BITMAPS   (VMXON_REGION + 0x5000) // A, and B behind it
#define MSR_LISTS    (VMXON_REGION + 0x7000) // entry load, exit store, exit load: 0x400 bytes each

uint64_t l1_rdmsr(uint32_t msr);
void l1_wrmsr(uint32_t msr, uint64_t value);

void l1_enter_vmx_operation(void); // CR4.VMXE, a VMXON region, VMXON
void l1_vmxon(uint64_t region);
void l1_vmxoff(void);
void l1_make_region(uint64_t region); // the revision identifier in an otherwise zeroed page
void l1_vmclear(uint64_t region);
void l1_vmptrld(uint64_t region);
uint64_t l1_vmptrst(void);
uint64_t l1_vmread(uint32_t encoding);
// ... and L1 throws away what the manual leaves undefined before anybody compares: bits outside `mask`, or
// all of an interruption information without its valid bit.
uint64_t l1_vmread_masked(uint32_t encoding, uint64_t mask);
uint32_t l1_vmread_event(uint32_t encoding);
void l1_vmwrite(uint32_t encoding, uint64_t value);
void l1_set(uint32_t encoding, uint64_t bits);   // in a control field
void l1_clear(uint32_t encoding, uint64_t bits); //
struct outcome try_vmxon(uint64_t region);
struct outcome try_vmclear(uint64_t region);
struct outcome try_vmptrld(uint64_t region);
struct outcome try_vmread(uint32_t encoding, uint64_t *value);
struct outcome try_vmwrite(uint32_t encoding, uint64_t value);
struct outcome try_invept(uint64_t type, uint64_t eptp, uint64_t high);
struct outcome try_invvpid(uint64_t type, uint64_t vpid, uint64_t linear);
void l1_invept(uint64_t type, uint64_t eptp);
void l1_invvpid(uint64_t type, uint64_t vpid, uint64_t linear);

// The bits of an EPT violation's qualification that are defined without advanced exit information.
#define EPT_QUALIFICATION 0x1bfull

// VM entry. These want a VM exit afterwards; l1_try_ functions take what comes.
void l1_vmlaunch(void);
void l1_vmresume(void);
struct outcome try_vmlaunch(void);
struct outcome try_vmresume(void);
void l1_skip_instruction(void); // guest RIP += VM-exit instruction length
void l1_resume_behind(void);    // ... and VMRESUME
void l1_resume_at(uint64_t rip);

// --- expectations
void expect_succeed(struct outcome outcome);
void expect_fail_invalid(struct outcome outcome);
void expect_fail_valid(struct outcome outcome, uint32_t error);
void expect_exception(struct outcome outcome, uint8_t vector);
void expect_exception_with_code(struct outcome outcome, uint8_t vector, uint32_t error_code);
void expect_exit(uint32_t reason); // the last exit's basic reason, and that it was no failed entry
void expect_exit_qualification(uint32_t reason, uint64_t qualification);
void expect_exit_length(uint32_t reason, uint32_t length);
void expect_entry_failure(uint32_t reason, uint64_t qualification);

// --- events, as an interruption information says them
#define HARDWARE(n)    (INTERRUPTION_VALID | EVENT_HARDWARE_EXCEPTION << 8 | (n))
#define EXTERNAL(n)    (INTERRUPTION_VALID | EVENT_EXTERNAL_INTERRUPT << 8 | (n))
#define SOFTWARE(n)    (INTERRUPTION_VALID | EVENT_SOFTWARE_INTERRUPT << 8 | (n))
#define SOFTWARE_EX(n) (INTERRUPTION_VALID | EVENT_SOFTWARE_EXCEPTION << 8 | (n))
#define PRIVILEGED(n)  (INTERRUPTION_VALID | EVENT_PRIVILEGED_SOFTWARE << 8 | (n))
#define NMI_EVENT      (INTERRUPTION_VALID | EVENT_NMI << 8 | VECTOR_NMI)
#define WITH_CODE      INTERRUPTION_ERROR_CODE

#define L2_HANDLER(vector) (0xe000 + (vector)) // where L2's exceptions and interrupts lead: a HLT each

// --- an L2 to run. Everything is optional but the program.
struct l2 {
    const struct op *op;
    unsigned count;
    uint64_t code; // its linear address, filled in
    bool without_ept;
    bool large_ept_pages;
    uint16_t vpid;            // 0: none
    uint64_t eptp;            // filled in, unless given
    uint64_t pml4, flat_pml4; // its page tables, with EPT and without; filled in
};

// Lays `...` (micro-operations) out as the next program of L2 and declares `name`.
#define L2_PROGRAM(name, ...)                                                                                \
    static const struct op name##_ops[] = {__VA_ARGS__};                                                     \
    struct l2 name = {.op = name##_ops, .count = sizeof(name##_ops) / sizeof(name##_ops[0])};                \
    l2_load(&name)

void l2_load(struct l2 *l2); // the program and what it needs in L2's memory

// VMCLEAR, VMPTRLD of `region`, and every field that an entry needs, for `l2` as a 64-bit guest in ring 0
// that exits as little as the processor permits (but CPUID... do anyway).
void l1_prepare_vmcs(uint64_t region, struct l2 *l2);
// VMX operation, and VMCS A for `l2`.
void l1_prepare(struct l2 *l2);

// EPT12: maps `size` bytes of L2-physical `from` to L1-physical `to` in the tables under `eptp`, by 4-KByte
// pages (or larger ones: `page` 0x200000).
#define EPT_USER_EXECUTE 0x400u // with mode-based execute control
uint64_t l1_new_ept(void);      // an EPT pointer (write-back, 4 levels)
void l1_ept_map(uint64_t eptp, uint64_t from, uint64_t to, uint64_t size, uint64_t page, unsigned rights);
uint64_t *l1_ept_entry(uint64_t eptp, uint64_t l2_physical, unsigned level); // in L1's memory; 1: the PTE
uint64_t l1_new_page(void);                                                  // zeroed, L1-physical

void *l2_memory(uint64_t l2_physical);

#endif
