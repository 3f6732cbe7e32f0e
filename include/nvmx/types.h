// SPDX-License-Identifier: MIT
// Address spaces that must not mix, and the values that the whole engine speaks in.
#ifndef NVMX_TYPES_H
#define NVMX_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Machine-physical, L1-physical and L2-physical addresses: distinct types, so that mixing them does not
// compile.
typedef struct {
    uint64_t value;
} l0pa_t;
typedef struct {
    uint64_t value;
} l1pa_t;
typedef struct {
    uint64_t value;
} l2pa_t;

static inline l0pa_t l0pa(uint64_t value)
{
    return (l0pa_t){value};
}
static inline l1pa_t l1pa(uint64_t value)
{
    return (l1pa_t){value};
}
static inline l2pa_t l2pa(uint64_t value)
{
    return (l2pa_t){value};
}

#define PAGE_SIZE  4096ULL
#define PAGE_SHIFT 12

// Bits 63:47 are equal (48-bit linear addresses).
static inline bool address_is_canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

// The general-purpose registers but RSP, which lives in the VMCS; the order is the SDM's register encoding,
// so that an operand's register number is an index here. Entry 4 (RSP) is unused.
enum nvmx_gpr {
    GPR_RAX,
    GPR_RCX,
    GPR_RDX,
    GPR_RBX,
    GPR_RSP,
    GPR_RBP,
    GPR_RSI,
    GPR_RDI,
    GPR_R8,
    GPR_R9,
    GPR_R10,
    GPR_R11,
    GPR_R12,
    GPR_R13,
    GPR_R14,
    GPR_R15,
    GPR_COUNT
};

struct nvmx_regs {
    uint64_t gpr[GPR_COUNT];
};

// What a VMX instruction says with RFLAGS (Conventions, in the chapter VMX Instruction Reference).
enum vmx_status {
    VMX_SUCCEED = 0,
    VMX_FAIL_INVALID = 1, // CF: there is no current VMCS
    VMX_FAIL_VALID = 2,   // ZF: the current VMCS's VM-instruction error field says why
    VMX_NOT_ENTERED = 3,  // of hw_enter only: no VMX instruction was executed
};

#endif
