// SPDX-License-Identifier: MIT
// Every VMX instruction at every CPL with operands of every kind, outside VMX operation, in it, and in L2.
#include "console.h"
#include "hostile.h"
#include "x86.h"

// The operand is at RSI; RAX is a field's encoding, or a type; RBX a register operand.
static const struct {
    const char *name;
    const char *code;
    uint8_t size;
    uint64_t rax;
    bool plain; // no memory operand: once is enough
} instructions[] = {
    {"VMCLEAR", "\x66\x0f\xc7\x36", 4, 0, 0},
    {"VMPTRLD", "\x0f\xc7\x36", 3, 0, 0},
    {"VMPTRST", "\x0f\xc7\x3e", 3, 0, 0},
    {"VMXON", "\xf3\x0f\xc7\x36", 4, 0, 0},
    {"VMREAD to memory", "\x0f\x78\x06", 3, 0x4400, 0},
    {"VMWRITE from memory", "\x0f\x79\x06", 3, 0x4002, 0},
    {"INVEPT", "\x66\x0f\x38\x80\x06", 5, 2, 0},
    {"INVVPID", "\x66\x0f\x38\x81\x06", 5, 2, 0},
    {"INVEPT, type 2^32", "\x66\x0f\x38\x80\x06", 5, 1ull << 32, 1}, // the manual looks at the type first
    {"INVVPID, type 9", "\x66\x0f\x38\x81\x06", 5, 9, 1},
    {"VMREAD of a field that is not", "\x0f\x78\xc3", 3, 0xffff, 1},
    {"VMREAD, encoding beyond 32 bits", "\x0f\x78\xc3", 3, 1ull << 32 | 0x4400, 1},
    {"VMWRITE of a read-only field", "\x0f\x79\xc3", 3, 0x4400, 1},
    {"VMWRITE of a field that is not", "\x0f\x79\xc3", 3, 0x6fff, 1},
    {"VMLAUNCH", "\x0f\x01\xc2", 3, 0, 1},
    {"VMRESUME", "\x0f\x01\xc3", 3, 0, 1},
    {"VMXOFF", "\x0f\x01\xc4", 3, 0, 1},
    {"VMCALL", "\x0f\x01\xc1", 3, 0, 1},
};

static const struct {
    const char *name;
    uint64_t kernel, user; // the operand's address at CPL 0 and at CPL 3
} operands[] = {
    {"its own page", PAGE_AT(PAGE_KERNEL), PAGE_AT(PAGE_DATA)},
    {"the other's page", PAGE_AT(PAGE_DATA), PAGE_AT(PAGE_KERNEL)},
    {"no page", PAGE_AT(PAGE_NONE), PAGE_AT(PAGE_NONE)},
    {"across to no page", PAGE_AT(PAGE_NONE) - 4, PAGE_AT(PAGE_NONE) - 4},
    {"a read-only page", PAGE_AT(PAGE_READ_ONLY), PAGE_AT(PAGE_READ_ONLY)},
    {"a reserved bit", PAGE_AT(PAGE_RESERVED), PAGE_AT(PAGE_RESERVED)},
    {"not canonical", 1ull << 47, 1ull << 47},
    {"the last bytes", ~0ull - 3, ~0ull - 3},
};

static void fill_operands(uint64_t value)
{
    static const enum window_page pages[] = {PAGE_DATA, PAGE_DATA_2, PAGE_KERNEL, PAGE_READ_ONLY};
    for (uint32_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
        for (uint32_t k = 0; k < 512; k++)
            ((uint64_t *)window_memory(pages[i]))[k] = k & 1 ? 0 : value;
}

static void try_all(struct cpu *cpu, const char *where, enum probe_mode mode, struct l2 *l2)
{
    bool user = mode == PROBE_USER || mode == PROBE_USER_32;
    uint32_t count = sizeof(operands) / sizeof(operands[0]);
    console_print(cpu, "  %s, %s\n", where,
                  mode == PROBE_KERNEL ? "CPL 0"
                  : mode == PROBE_USER ? "CPL 3"
                  : user               ? "32-bit CPL 3"
                                       : "32-bit CPL 0");
    for (uint32_t i = 0; i < sizeof(instructions) / sizeof(instructions[0]); i++)
        for (uint32_t k = 0; k < (instructions[i].plain ? 1 : count); k++) {
            struct probe probe = {.mode = mode, .code = instructions[i].code, .size = instructions[i].size};
            probe.gpr[GPR_RAX] = instructions[i].rax;
            probe.gpr[GPR_RSI] = user ? operands[k].user : operands[k].kernel;
            fill_operands(1); // not aligned: no VMCS and no VMXON region is there
            console_print(cpu, "  %s", instructions[i].name);
            if (l2) {
                outcome_exit(cpu, operands[k].name, probe_run_in_l2(cpu, l2, &probe), &probe);
                continue;
            }
            probe_run(cpu, &probe);
            outcome_flags(cpu, operands[k].name, &probe);
            if (instructions[i].size == 3 && instructions[i].code[2] == '\xc4' && probe_was_run(&probe))
                l2_vmx_on(cpu); // VMXOFF was executed
        }
}

void attack_vmx_operands(struct cpu *cpu)
{
    for (uint32_t mode = PROBE_KERNEL; mode <= PROBE_USER_32; mode++)
        try_all(cpu, "outside VMX operation", (enum probe_mode)mode, NULL);
    if (!l2_vmx_on(cpu))
        return;
    for (uint32_t mode = PROBE_KERNEL; mode <= PROBE_USER_32; mode++)
        try_all(cpu, "in VMX operation", (enum probe_mode)mode, NULL);
    struct l2 *l2 = l2_create(cpu, NULL);
    try_all(cpu, "L2", PROBE_KERNEL, l2);
    try_all(cpu, "L2", PROBE_USER, l2);
    vmx_vmclear(l2->vmcs);
    l2_vmx_off();
}
