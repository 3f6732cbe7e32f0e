// SPDX-License-Identifier: MIT
// INS and OUTS on ports that L0 may intercept: memory is accessed as the instruction's own CPL, segments and
// modes have it. What is read from a port is of no interest, what is written to one does nothing.
#include "console.h"
#include "hostile.h"
#include "x86.h"

#define IOPL_3    (3ull << 12)
#define RFLAGS_AC (1ull << 18)

static const struct {
    uint16_t port;
    uint8_t harmless; // to write
} ports[] = {{0x64, 0xae}, {0x92, 0x02}, {0xcf9, 0x00}, {0xb005, 0x00}, {0x2fb, 0x03}, {0x80, 0x00}};

enum { TO_IN = 1, TO_OUT = 2, TO_BOTH = 3 };

static const struct {
    const char *name;
    uint8_t directions;
    uint8_t mode;
    uint8_t no_iopl, smap, ac;
    uint8_t size;  // of an element
    uint8_t count; // REP
    uint64_t address;
    uint8_t in_vector, out_vector, in_error, out_error;
    uint16_t ds, es;
} tries[] = {
    {"CPL 3, its own page", TO_BOTH, PROBE_USER, 0, 0, 0, 1, 0, PAGE_AT(PAGE_DATA), 3, 3, 0, 0, 0, 0},
    {"CPL 3, IOPL 0", TO_BOTH, PROBE_USER, 1, 0, 0, 1, 0, PAGE_AT(PAGE_DATA), 13, 13, 0, 0, 0, 0},
    {"CPL 3, a page of CPL 0's", TO_BOTH, PROBE_USER, 0, 0, 0, 1, 0, PAGE_AT(PAGE_KERNEL), 14, 14, 7, 5, 0,
     0},
    {"CPL 3, REP, a page of CPL 0's", TO_BOTH, PROBE_USER, 0, 0, 0, 1, 3, PAGE_AT(PAGE_KERNEL), 14, 14, 7, 5,
     0, 0},
    {"CPL 3, the kernel's own code", TO_BOTH, PROBE_USER, 0, 0, 0, 1, 0, 0x100000, 14, 14, 7, 5, 0, 0},
    {"CPL 3, no page", TO_BOTH, PROBE_USER, 0, 0, 0, 1, 0, PAGE_AT(PAGE_NONE), 14, 14, 6, 4, 0, 0},
    {"CPL 3, a read-only page", TO_BOTH, PROBE_USER, 0, 0, 0, 1, 0, PAGE_AT(PAGE_READ_ONLY), 14, 3, 7, 0, 0,
     0},
    {"CPL 3, a reserved bit", TO_BOTH, PROBE_USER, 0, 0, 0, 1, 0, PAGE_AT(PAGE_RESERVED), 14, 14, 15, 13, 0,
     0},
    {"CPL 3, not canonical", TO_BOTH, PROBE_USER, 0, 0, 0, 1, 0, 1ull << 47, 13, 13, 0, 0, 0, 0},
    {"CPL 3, across two pages", TO_BOTH, PROBE_USER, 0, 0, 0, 4, 0, PAGE_AT(PAGE_DATA_2) - 2, 3, 3, 0, 0, 0,
     0},
    {"CPL 3, across to no page", TO_BOTH, PROBE_USER, 0, 0, 0, 4, 0, PAGE_AT(PAGE_NONE) - 2, 14, 14, 6, 4, 0,
     0},
    {"CPL 3, across to CPL 0's", TO_BOTH, PROBE_USER, 0, 0, 0, 4, 0, PAGE_AT(PAGE_KERNEL_2) - 2, 14, 14, 7, 5,
     0, 0},
    {"CPL 3, L0's memory or a hole", TO_BOTH, PROBE_USER, 0, 0, 0, 1, 0, PAGE_AT(PAGE_L0), 3, 3, 0, 0, 0, 0},
    {"CPL 3, a hole", TO_BOTH, PROBE_USER, 0, 0, 0, 1, 0, PAGE_AT(PAGE_HOLE), 3, 3, 0, 0, 0, 0},
    {"CPL 0, CPL 3's page", TO_BOTH, PROBE_KERNEL, 0, 0, 0, 1, 0, PAGE_AT(PAGE_DATA), 3, 3, 0, 0, 0, 0},
    {"CPL 0, SMAP, CPL 3's page", TO_BOTH, PROBE_KERNEL, 0, 1, 0, 1, 0, PAGE_AT(PAGE_DATA), 14, 14, 3, 1, 0,
     0},
    {"CPL 0, SMAP, AC, CPL 3's page", TO_BOTH, PROBE_KERNEL, 0, 1, 1, 1, 0, PAGE_AT(PAGE_DATA), 3, 3, 0, 0, 0,
     0},
    {"CPL 3, SMAP, its own page", TO_BOTH, PROBE_USER, 0, 1, 0, 1, 0, PAGE_AT(PAGE_DATA), 3, 3, 0, 0, 0, 0},
    {"CPL 0, SMAP, its own page", TO_BOTH, PROBE_KERNEL, 0, 1, 0, 1, 0, PAGE_AT(PAGE_KERNEL), 3, 3, 0, 0, 0,
     0},
    {"CPL 0, a read-only page", TO_BOTH, PROBE_KERNEL, 0, 0, 0, 1, 0, PAGE_AT(PAGE_READ_ONLY), 14, 3, 3, 0, 0,
     0},
    {"CPL 0, no page", TO_BOTH, PROBE_KERNEL, 0, 0, 0, 1, 0, PAGE_AT(PAGE_NONE), 14, 14, 2, 0, 0, 0},
    {"32-bit CPL 3, its own page", TO_BOTH, PROBE_USER_32, 0, 0, 0, 1, 0, PAGE_AT(PAGE_DATA), 3, 3, 0, 0, 0,
     0},
    {"32-bit CPL 3, CPL 0's page", TO_BOTH, PROBE_USER_32, 0, 0, 0, 1, 0, PAGE_AT(PAGE_KERNEL), 14, 14, 7, 5,
     0, 0},
    {"32-bit, within the limit", TO_BOTH, PROBE_USER_32, 0, 0, 0, 4, 0, 12, 3, 3, 0, 0, SELECTOR_LIMITED,
     SELECTOR_LIMITED},
    {"32-bit, beyond the limit", TO_BOTH, PROBE_USER_32, 0, 0, 0, 4, 0, 13, 13, 13, 0, 0, SELECTOR_LIMITED,
     SELECTOR_LIMITED},
    {"32-bit, read-only segment", TO_BOTH, PROBE_USER_32, 0, 0, 0, 1, 0, 0, 13, 3, 0, 0, SELECTOR_READ_ONLY,
     SELECTOR_READ_ONLY},
    {"32-bit, expand-down, within", TO_BOTH, PROBE_USER_32, 0, 0, 0, 1, 0, 0x2000, 3, 3, 0, 0,
     SELECTOR_EXPAND_DOWN, SELECTOR_EXPAND_DOWN},
    {"32-bit, expand-down, below", TO_BOTH, PROBE_USER_32, 0, 0, 0, 1, 0, 0x800, 13, 13, 0, 0,
     SELECTOR_EXPAND_DOWN, SELECTOR_EXPAND_DOWN},
    {"32-bit, null segment", TO_BOTH, PROBE_USER_32, 0, 0, 0, 1, 0, 0, 13, 13, 0, 0, 3, 3},
};

static bool has_smap(void)
{
    return x86_cpuid(7, 0).ebx >> 20 & 1;
}

static bool try(struct cpu *cpu, uint32_t i, uint32_t port, bool in)
{
    uint8_t code[4];
    uint32_t at = 0;
    if (tries[i].count)
        code[at++] = 0xf3;
    code[at++] = (uint8_t)((in ? 0x6c : 0x6e) + (tries[i].size > 1));
    struct probe probe = {.mode = (enum probe_mode)tries[i].mode, .code = code, .size = at};
    probe.rflags = (tries[i].no_iopl ? 0 : IOPL_3) | (tries[i].ac ? RFLAGS_AC : 0);
    probe.gpr[GPR_RDX] = ports[port].port;
    probe.gpr[GPR_RCX] = tries[i].count;
    probe.gpr[GPR_RSI] = probe.gpr[GPR_RDI] = tries[i].address;
    probe.ds = tries[i].ds;
    probe.es = tries[i].es;
    if (tries[i].smap)
        x86_write_cr4(x86_read_cr4() | CR4_SMAP);
    probe_run(cpu, &probe);
    if (tries[i].smap)
        x86_write_cr4(x86_read_cr4() & ~CR4_SMAP);
    uint32_t vector = in ? tries[i].in_vector : tries[i].out_vector;
    uint64_t error = in ? tries[i].in_error : tries[i].out_error;
    if (probe.vector == vector && (vector == PROBE_RAN || probe.error_code == error) &&
        (vector != VECTOR_PF || (probe.cr2 >= tries[i].address && probe.cr2 < tries[i].address + 4)))
        return true;
    console_print(cpu, "  port %x, %s", ports[port].port, in ? "INS" : "OUTS");
    outcome_should(cpu, tries[i].name, &probe, vector, error);
    return false;
}

static bool writes_are_harmless(uint32_t i, uint32_t port)
{
    // An OUTS of four bytes is one to other ports, too; L0's memory or a hole reads as all ones.
    uint64_t at = tries[i].address;
    if (at == PAGE_AT(PAGE_L0) || at == PAGE_AT(PAGE_HOLE) || at == 0x100000)
        return ports[port].port == 0x80;
    return tries[i].size == 1 || tries[i].out_vector != 3 || ports[port].port == 0x80;
}

static void fill(uint8_t value)
{
    for (uint32_t page = PAGE_CODE; page <= PAGE_KERNEL_2; page++)
        for (uint32_t i = 0; i < PAGE_SIZE && page != PAGE_NONE; i++)
            ((uint8_t *)window_memory((enum window_page)page))[i] = value;
}

void attack_strings(struct cpu *cpu)
{
    for (uint32_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        uint32_t right = 0, made = 0;
        if (tries[i].smap && !has_smap())
            continue;
        for (uint32_t port = 0; port < sizeof(ports) / sizeof(ports[0]); port++) {
            fill(ports[port].harmless);
            if (tries[i].directions & TO_IN)
                made++, right += try(cpu, i, port, true);
            fill(ports[port].harmless);
            if ((tries[i].directions & TO_OUT) && writes_are_harmless(i, port))
                made++, right += try(cpu, i, port, false);
        }
        console_print(cpu, "  %s: %u of %u as they should be\n", tries[i].name, right, made);
    }
}
