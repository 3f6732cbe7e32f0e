// SPDX-License-Identifier: MIT
// An L2 of ours: a C function run as L1's guest, in 64-bit mode on L1's page tables and GDT, with a stack of
// its own. All of it acts on the processor that calls, which must be in VMX operation.
#ifndef GUEST_L2_H
#define GUEST_L2_H

#include "cpu.h"
#include "vmx.h"
#include <nvmx/controls.h>

enum l2_exit_reason {
#define EXIT(number, name, route, info) EXIT_##name = (number),
#include <nvmx/exits.def>
#undef EXIT
    EXIT_COUNT
};

struct l2 {
    uint64_t gpr[GPR_COUNT]; // l2.S knows this offset (0) ...
    uint64_t host_rsp;       // ... and this one (128): what the VMCS has
    uint64_t vmcs;           // address of the VMCS region
    bool launched;
    uint8_t *stack; // its page
};

// "CPUID" for 10.
const char *l2_exit_name(uint32_t reason);

// The capability MSRs, by TRUE where the processor has them: may/must these bits be 1?
bool l2_may_set(uint32_t controls_field, uint32_t bits);
uint32_t l2_must_set(uint32_t controls_field);

// VMXON and VMXOFF with a region of the processor's; false: the instruction failed.
bool l2_vmx_on(struct cpu *cpu);
bool l2_vmx_off(void);
uint64_t l2_vmxon_region(const struct cpu *cpu);

// A zeroed page with this processor's VMCS revision identifier.
uint64_t l2_allocate_vmcs(struct cpu *cpu);

// A new VMCS, made current, ready to enter `code`. What exits: what the processor demands, HLT, all I/O, all
// MSRs; no EPT, no VPID. When `code` returns, it executes VMCALL with RAX = L2_RETURNED, again and again.
struct l2 *l2_create(struct cpu *cpu, void (*code)(void));
#define L2_RETURNED 0x7e70u

// Writes every field of the current VMCS as l2_create does, for an L2 whose VMCS has just been cleared.
void l2_write_all(struct l2 *l2, void (*code)(void));

// RIP and RSP (and nothing else) to run `code` from its start.
void l2_restart(struct l2 *l2, void (*code)(void));

// Of the current VMCS; a failure ends the machine with a message.
uint64_t l2_read(uint32_t encoding);
void l2_write(uint32_t encoding, uint64_t value);
void l2_set(uint32_t encoding, uint64_t bits);
void l2_clear(uint32_t encoding, uint64_t bits);

// Secondary controls, with the primary one that activates them.
void l2_set_secondary(uint32_t bits);

// VMLAUNCH or VMRESUME, by l2->launched; VMX_SUCCEED when a VM exit (or an entry failure with exit reason)
// came back.
enum vmx_status l2_enter(struct l2 *l2);

// RIP past the instruction that exited.
void l2_skip(void);

// --- for L2's code

// VMCALL with RAX = number: a message to L1, who may answer in RAX.
static inline uint64_t l2_call(uint64_t number)
{
    __asm__ volatile("vmcall" : "+a"(number) : : "memory");
    return number;
}

#endif
