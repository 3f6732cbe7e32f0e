// SPDX-License-Identifier: MIT
#include "console.h"
#include "hostile.h"
#include "x86.h"

#define XCR0_X87 1u
#define XCR0_SSE 2u
#define XCR0_AVX 4u
#define XCR0_MPX 0x18u
#define XCR0_512 0xe0u
#define XCR0_AMX 0x60000u

static uint64_t xcr0_offered(void)
{
    struct x86_cpuid r = x86_cpuid(0xd, 0);
    return (uint64_t)r.edx << 32 | r.eax;
}

static bool xcr0_is_legal(uint64_t value)
{
    if (value & ~xcr0_offered() || !(value & XCR0_X87))
        return false;
    if ((value & XCR0_AVX) && !(value & XCR0_SSE))
        return false;
    if ((value & XCR0_MPX) && (value & XCR0_MPX) != XCR0_MPX)
        return false;
    if ((value & XCR0_512) && ((value & XCR0_512) != XCR0_512 || !(value & XCR0_AVX)))
        return false;
    return !(value & XCR0_AMX) || (value & XCR0_AMX) == XCR0_AMX;
}

static struct probe try(struct cpu *cpu, enum probe_mode mode, uint32_t index, uint64_t value)
{
    struct probe probe = {.mode = mode, .code = "\x0f\x01\xd1", .size = 3};
    probe.gpr[GPR_RCX] = index;
    probe.gpr[GPR_RAX] = (uint32_t)value;
    probe.gpr[GPR_RDX] = value >> 32;
    probe_run(cpu, &probe);
    return probe;
}

void attack_xsetbv(struct cpu *cpu)
{
    static const uint64_t values[] = {0,          1,
                                      2,          3,
                                      4,          5,
                                      6,          7,
                                      9,          0x18,
                                      0x1b,       0x1f,
                                      0x21,       0xe1,
                                      0xe3,       0xe7,
                                      0x27,       0xff,
                                      0x103,      0x200,
                                      0x203,      0x20003,
                                      0x60003,    0x60007,
                                      1ull << 32, 1ull << 62 | 1,
                                      1ull << 63, ~0ull};
    struct probe probe;
    if (!(x86_cpuid(1, 0).ecx >> 26 & 1)) {
        outcome_text(cpu, "XSAVE", "not there");
        return;
    }
    probe = try(cpu, PROBE_USER, 0, 1);
    outcome_should(cpu, "CPL 3, CR4.OSXSAVE 0", &probe, VECTOR_UD, 0);
    probe = try(cpu, PROBE_KERNEL, 0, 1);
    outcome_should(cpu, "CPL 0, CR4.OSXSAVE 0", &probe, VECTOR_UD, 0);
    x86_write_cr4(x86_read_cr4() | CR4_OSXSAVE);
    probe = try(cpu, PROBE_USER, 0, 3);
    outcome_should(cpu, "CPL 3, a legal value", &probe, VECTOR_GP, 0);
    probe = try(cpu, PROBE_USER_32, 0, 3);
    outcome_should(cpu, "CPL 3, 32-bit code, a legal value", &probe, VECTOR_GP, 0);
    probe = try(cpu, PROBE_USER, 0, 0);
    outcome_should(cpu, "CPL 3, an illegal value", &probe, VECTOR_GP, 0);
    probe = try(cpu, PROBE_KERNEL, 1, 1);
    outcome_should(cpu, "XCR1", &probe, VECTOR_GP, 0);
    probe = try(cpu, PROBE_KERNEL, ~0u, 1);
    outcome_should(cpu, "XCR 0xffffffff", &probe, VECTOR_GP, 0);
    uint32_t right = 0;
    for (uint32_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        bool legal = xcr0_is_legal(values[i]);
        probe = try(cpu, PROBE_KERNEL, 0, values[i]);
        if (legal ? probe_was_run(&probe) : probe.vector == VECTOR_GP && probe.error_code == 0) {
            right++;
            continue;
        }
        console_print(cpu, "  XCR0 = %lx, ", values[i]);
        outcome_should(cpu, "CPL 0", &probe, legal ? PROBE_RAN : VECTOR_GP, 0);
    }
    console_print(cpu, "  CPL 0: %u of %u values as they should be\n", right,
                  (uint32_t)(sizeof(values) / sizeof(values[0])));
    try(cpu, PROBE_KERNEL, 0, 1);
    if (l2_vmx_on(cpu)) {
        struct l2 *l2 = l2_create(cpu, NULL);
        probe = (struct probe){.mode = PROBE_USER, .code = "\x0f\x01\xd1", .size = 3};
        probe.gpr[GPR_RAX] = 3;
        if (!outcome_not_bare(cpu, "L2, CPL 3",
                              "#GP(0)")) // the emulated processor exits before it looks at CPL
            outcome_exit(cpu, "L2, CPL 3", probe_run_in_l2(cpu, l2, &probe), &probe);
        probe = (struct probe){.mode = PROBE_KERNEL, .code = "\x0f\x01\xd1", .size = 3};
        outcome_exit(cpu, "L2, CPL 0", probe_run_in_l2(cpu, l2, &probe), &probe);
        vmx_vmclear(l2->vmcs);
        l2_vmx_off();
    }
    x86_write_cr4(x86_read_cr4() & ~CR4_OSXSAVE);
}
