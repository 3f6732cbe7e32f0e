// SPDX-License-Identifier: MIT
// MOV to CR0 and CR4 with every bit changed alone, and many together: legal is what the manual and L1's own
// CPUID say, so that a feature that is hidden is no difference.
#include "console.h"
#include "hostile.h"
#include "x86.h"

#define PAIRS 300u

static const struct {
    uint8_t bit, leaf, subleaf, reg, feature; // reg: EAX 0, EBX, ECX, EDX; leaf 0: always there
} cr4_bits[] = {
    {0, 1, 0, 3, 1},   {1, 1, 0, 3, 1},   {2, 1, 0, 3, 4},   {3, 1, 0, 3, 2},   {4, 1, 0, 3, 3},
    {5, 1, 0, 3, 6},   {6, 1, 0, 3, 7},   {7, 1, 0, 3, 13},  {8, 0, 0, 0, 0},   {9, 1, 0, 3, 24},
    {10, 1, 0, 3, 25}, {11, 7, 0, 2, 2},  {12, 7, 0, 2, 16}, {13, 1, 0, 2, 5},  {14, 1, 0, 2, 6},
    {16, 7, 0, 1, 0},  {17, 1, 0, 2, 17}, {18, 1, 0, 2, 26}, {19, 7, 0, 2, 23}, {20, 7, 0, 1, 7},
    {21, 7, 0, 1, 20}, {22, 7, 0, 2, 3},  {23, 7, 0, 2, 7},  {23, 7, 0, 3, 20}, {24, 7, 0, 2, 31},
    {25, 7, 0, 3, 5},  {27, 7, 1, 0, 6},  {28, 7, 1, 0, 26}, {32, 7, 1, 0, 17},
};

static uint64_t cr4_offered(void)
{
    uint64_t bits = 0;
    for (uint32_t i = 0; i < sizeof(cr4_bits) / sizeof(cr4_bits[0]); i++) {
        if (cr4_bits[i].leaf == 7 && cr4_bits[i].subleaf > x86_cpuid(7, 0).eax)
            continue;
        struct x86_cpuid r = x86_cpuid(cr4_bits[i].leaf, cr4_bits[i].subleaf);
        const uint32_t regs[] = {r.eax, r.ebx, r.ecx, r.edx};
        if (cr4_bits[i].leaf == 0 || regs[cr4_bits[i].reg] >> cr4_bits[i].feature & 1)
            bits |= 1ull << cr4_bits[i].bit;
    }
    return bits;
}

static bool cr0_is_legal(uint64_t cr0, bool vmx)
{
    const uint64_t wide = CR0_PG | CR0_PE; // 64-bit code cannot leave its mode so
    if (cr0 >> 32 || (cr0 & wide) != wide || (cr0 & (CR0_NW | CR0_CD)) == CR0_NW)
        return false;
    if (!(cr0 & CR0_WP) && (x86_read_cr4() & CR4_CET))
        return false;
    return !vmx || (cr0 & CR0_NE);
}

static bool cr4_is_legal(uint64_t cr4, bool vmx)
{
    if (cr4 & ~cr4_offered() || !(cr4 & CR4_PAE) || ((cr4 ^ x86_read_cr4()) & CR4_LA57))
        return false;
    if ((cr4 & CR4_CET) && !(x86_read_cr0() & CR0_WP))
        return false;
    return !vmx || (cr4 & CR4_VMXE);
}

static bool try(struct cpu *cpu, const char *name, bool is_cr4, uint64_t value, bool legal)
{
    struct probe probe = {.rflags = 0};
    probe.gpr[GPR_RAX] = value;
    probe.code = is_cr4 ? "\x0f\x22\xe0" : "\x0f\x22\xc0";
    probe.size = 3;
    probe_run(cpu, &probe);
    bool right = legal ? probe_was_run(&probe) : probe.vector == VECTOR_GP && probe.error_code == 0;
    if (right)
        return true;
    console_print(cpu, "  %s, CR0 %lx CR4 %lx", name, x86_read_cr0(), x86_read_cr4());
    outcome_should(cpu, is_cr4 ? " MOV to CR4" : " MOV to CR0", &probe, legal ? PROBE_RAN : VECTOR_GP, 0);
    console_print(cpu, "    the value was %lx\n", value);
    return false;
}

static void try_all(struct cpu *cpu, const char *name, bool vmx)
{
    uint32_t right = 0, cr0_legal = 0;
    uint64_t cr0 = x86_read_cr0(), cr4 = x86_read_cr4();
    for (uint32_t bit = 0; bit < 64; bit++) {
        uint64_t value = cr0 ^ 1ull << bit;
        right += try(cpu, name, false, value, cr0_is_legal(value, vmx));
        value = cr4 ^ 1ull << bit;
        right += try(cpu, name, true, value, cr4_is_legal(value, vmx));
    }
    for (uint32_t i = 0; i < PAIRS; i++) {
        uint64_t value = cr0 ^ 1ull << dice_below(32) ^ 1ull << dice_below(32);
        cr0_legal += cr0_is_legal(value, vmx);
        right += try(cpu, name, false, value, cr0_is_legal(value, vmx));
        value = cr4 ^ 1ull << dice_below(33) ^ 1ull << dice_below(33);
        right += try(cpu, name, true, value, cr4_is_legal(value, vmx));
    }
    console_print(cpu, "  %s: %u of %u as they should be; %u pairs of CR0 bits legal\n", name, right,
                  128 + 2 * PAIRS, cr0_legal);
}

// What the processor demands of CR0 and CR4 together, in one instruction and in two.
static void try_cet(struct cpu *cpu, const char *name, bool vmx)
{
    if (!(cr4_offered() & CR4_CET)) {
        outcome_text(cpu, name, "no CET");
        return;
    }
    uint64_t cr0 = x86_read_cr0(), cr4 = x86_read_cr4();
    x86_write_cr4(cr4 | CR4_CET);
    bool right = try(cpu, name, false, cr0 & ~CR0_WP, false);
    right &= try(cpu, name, false, cr0 & ~(CR0_WP | CR0_NE), false);
    right &= try(cpu, name, true, (cr4 | CR4_CET) ^ CR4_VMXE, !vmx);
    x86_write_cr4(cr4);
    x86_write_cr0(cr0 & ~CR0_WP);
    right &= try(cpu, name, true, cr4 | CR4_CET, false);
    right &= try(cpu, name, true, cr4 | CR4_CET | CR4_VMXE, false);
    right &= try(cpu, name, true, cr4 | CR4_CET | CR4_SMEP, false);
    x86_write_cr0(cr0);
    outcome_text(cpu, name, right ? "CET needs WP" : "CET and WP  WRONG");
}

void attack_control_registers(struct cpu *cpu)
{
    dice_seed(1);
    try_all(cpu, "outside VMX operation", false);
    try_cet(cpu, "outside VMX operation, CET", false);
    if (!l2_vmx_on(cpu))
        outcome_text(cpu, "VMXON", "fails  WRONG");
    try_all(cpu, "in VMX operation", true);
    try_cet(cpu, "in VMX operation, CET", true);
    l2_vmx_off();
    x86_write_cr0(x86_read_cr0() & ~(CR0_NE | CR0_WP));
    struct probe probe = {.code = "\x0f\x22\xe0", .size = 3};
    probe.gpr[GPR_RAX] = x86_read_cr4() | CR4_VMXE;
    probe_run(cpu, &probe);
    outcome_should(cpu, "CR4.VMXE with NE and WP 0", &probe, PROBE_RAN, 0);
    x86_write_cr0(x86_read_cr0() | CR0_NE | CR0_WP);
}
