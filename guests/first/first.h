// SPDX-License-Identifier: MIT
// guests/first: an L1 that uses VMX in every way it knows, and writes down what it sees, one fact a line.
// What it writes must be the same on the processor itself and under a hypervisor that claims to give it VT-x.
// Every fact comes with what the manual demands: a line that says WRONG is a defect of the processor (or of
// whoever plays it).
//
// So nothing is printed that may rightly differ: what the capability MSRs offer beyond what a test needs,
// anything that depends on time or on the size of the memory, and whatever the manual leaves undefined. After
// processor 0's turn a fact that is as it should be is only counted.
#ifndef FIRST_H
#define FIRST_H

#include "cpu.h"
#include "l2.h"

// "NAME: VALUE", and what it should have been if it is something else.
void fact(struct cpu *cpu, const char *name, uint64_t value, uint64_t expected);

// A statement that holds ("yes") or, WRONG, does not.
void fact_true(struct cpu *cpu, const char *name, bool holds);

// What a VMX instruction said: succeed, VMfailInvalid, or VMfailValid with its VM-instruction error.
#define FACT_SUCCEED      0u
#define FACT_FAIL_INVALID 0x100u
void fact_status(struct cpu *cpu, const char *name, enum vmx_status status, uint32_t expected);

// Calls function(argument), which must raise this exception with this error code (0 where it has none).
void fact_trap(struct cpu *cpu, const char *name, void (*function)(void *), void *argument, uint32_t vector,
               uint64_t error_code);
// ... which must raise none.
void fact_no_trap(struct cpu *cpu, const char *name, void (*function)(void *), void *argument);
// For both: MOV to CR0 and CR4, and a value as their argument.
void set_cr0(void *value);
void set_cr4(void *value);
void *bits(uint64_t value);

// Enters L2, which must come back with this exit reason. False if it does not: the test cannot go on.
bool fact_exit(struct cpu *cpu, struct l2 *l2, const char *name, uint32_t reason);
// ... by VMCALL with this number in RAX; VMCALL is skipped.
bool fact_call(struct cpu *cpu, struct l2 *l2, const char *name, uint64_t number);
// ... and the exit's instruction length; the instruction is skipped.
bool fact_exit_skip(struct cpu *cpu, struct l2 *l2, const char *name, uint32_t reason, uint32_t length);

// False, and a line that says so, if the processor lacks one of these bits in this controls field.
bool fact_offered(struct cpu *cpu, const char *what, uint32_t controls_field, uint32_t bits);

// A test function; the processor is in VMX operation when it starts, unless the table says otherwise, has no
// current VMCS, and all its pages are free.
#define FIRST_TEST(name) void test_##name(struct cpu *cpu);
#include "first_tests.def"
#undef FIRST_TEST

#endif
