// SPDX-License-Identifier: MIT
// MSRs with which an L1 could reach past EPT, or change what L0 runs on. "Refused": an exception, or no
// effect. The emulated processor lacks most of them and forgives; what is written must not be there.
#include "console.h"
#include "hostile.h"
#include "x86.h"

#define MISC_ENABLE_XD_DISABLE (1ull << 34)

enum { REFUSED, EITHER };

static const struct {
    const char *name;
    uint32_t msr;
    uint64_t bits; // set on top of what is there
    uint8_t want;
} tries[] = {
    {"IA32_RTIT_CTL", 0x570, 1, REFUSED},
    {"IA32_RTIT_CTL, all", 0x570, ~0ull, REFUSED},
    {"IA32_RTIT_STATUS", 0x571, 7, REFUSED},
    {"IA32_RTIT_OUTPUT_BASE", 0x560, 0x1000, REFUSED},
    {"IA32_RTIT_OUTPUT_MASK_PTRS", 0x561, 0xff00000080, REFUSED},
    {"IA32_RTIT_CR3_MATCH", 0x572, 0x1000, REFUSED},
    {"IA32_RTIT_ADDR0_A", 0x580, 0x1000, REFUSED},
    {"IA32_RTIT_ADDR3_B", 0x587, 0x1000, REFUSED},
    {"IA32_DS_AREA", 0x600, 0x1000, REFUSED},
    {"IA32_PEBS_ENABLE", 0x3f1, 1, REFUSED},
    {"IA32_PEBS_ENABLE, all", 0x3f1, ~0ull, REFUSED},
    {"MSR_PEBS_DATA_CFG", 0x3f2, 1, REFUSED},
    {"IA32_MISC_ENABLE.XD_DISABLE", 0x1a0, MISC_ENABLE_XD_DISABLE, REFUSED},
    {"IA32_MISC_ENABLE, all", 0x1a0, ~0ull, REFUSED},
    {"IA32_SMRR_PHYSBASE", 0x1f2, 0x1f400006, REFUSED},
    {"IA32_SMRR_PHYSMASK", 0x1f3, 0xffc00800, REFUSED},
    {"IA32_FEATURE_CONTROL", 0x3a, 1ull << 18, REFUSED},
    {"IA32_FEATURE_CONTROL, all", 0x3a, ~0ull, REFUSED},
    {"IA32_SMM_MONITOR_CTL", 0x9b, 0x1f400001, REFUSED},
    {"IA32_SMBASE", 0x9e, 0x1f400000, REFUSED},
    {"IA32_VMX_BASIC", 0x480, 1ull << 55, REFUSED},
    {"IA32_VMX_PROCBASED_CTLS2", 0x48b, ~0ull, REFUSED},
    {"IA32_VMX_VMFUNC", 0x491, ~0ull, REFUSED},
    {"IA32_VMX_PROCBASED_CTLS3", 0x492, ~0ull, REFUSED},
    {"IA32_VMX_EXIT_CTLS2", 0x493, ~0ull, REFUSED},
    {"IA32_EFER, reserved bits", 0xc0000080, 1ull << 9, REFUSED},
    {"IA32_EFER.SVME", 0xc0000080, 1ull << 12, REFUSED},
    {"IA32_EFER, high bits", 0xc0000080, ~0ull << 32, REFUSED},
    {"IA32_EFER.LME off", 0xc0000080, 1ull << 8, EITHER},
    {"IA32_PAT, reserved types", 0x277, 0xff, REFUSED},
    {"IA32_DEBUGCTL, reserved bits", 0x1d9, 0xffff0000, REFUSED},
    {"IA32_DEBUGCTL.TR and BTS", 0x1d9, 0xc0, EITHER},
    {"IA32_DEBUGCTL.LBR and BTF", 0x1d9, 3, EITHER},
    {"IA32_DEBUGCTL, FREEZE and UNCORE", 0x1d9, 0x7800, EITHER},
    {"IA32_XSS, PT", 0xda0, 1u << 8, REFUSED},
    {"IA32_XSS, HDC, UINTR, LBR, HWP", 0xda0, 0x1e000, EITHER},
    {"IA32_XSS, all", 0xda0, ~0ull, REFUSED},
    {"IA32_PERF_GLOBAL_CTRL, all", 0x38f, ~0ull, REFUSED},
    {"IA32_S_CET, suppress", 0x6a2, 1ull << 9, EITHER},
    {"IA32_SPEC_CTRL", 0x48, 1, EITHER},
    {"IA32_PRED_CMD", 0x49, 1, EITHER},
    {"IA32_FLUSH_CMD", 0x10b, 1, EITHER},
    {"IA32_ARCH_CAPABILITIES", 0x10a, ~0ull, REFUSED},
    {"IA32_TSX_CTRL", 0x122, 3, EITHER},
    {"IA32_MCU_OPT_CTRL", 0x123, 0xff, EITHER},
    {"IA32_BIOS_UPDT_TRIG", 0x79, 0x100000, EITHER},
    {"IA32_BIOS_SIGN_ID", 0x8b, 1, EITHER},
    {"IA32_TSC_ADJUST", 0x3b, 0x1000, EITHER},
    {"IA32_MCG_CTL", 0x17b, ~0ull, EITHER},
    {"IA32_MC0_CTL", 0x400, ~0ull, EITHER},
    {"IA32_THERM_INTERRUPT", 0x19b, 0x1f, EITHER},
    {"IA32_CLOCK_MODULATION", 0x19a, 0x1f, EITHER},
    {"IA32_PKG_HDC_CTL", 0xdb0, 1, EITHER},
    {"IA32_HWP_REQUEST", 0x774, 0xff, EITHER},
    {"IA32_PASID", 0xd93, 1ull << 31, EITHER},
    {"IA32_UINTR_PD", 0x988, 0x1f400000, EITHER},
    {"IA32_UINTR_RR", 0x985, ~0ull, EITHER},
    {"IA32_COPY_LOCAL_TO_PLATFORM", 0xd91, 1, EITHER},
    {"IA32_HRESET_ENABLE", 0x17da, 1, EITHER},
    {"IA32_U_CET, not canonical", 0x6a0, 1ull << 62, REFUSED},
    {"IA32_PL0_SSP, not aligned", 0x6a4, 1, REFUSED},
    {"IA32_LSTAR, not canonical", 0xc0000082, 1ull << 62, REFUSED},
    {"IA32_FS_BASE, not canonical", 0xc0000100, 1ull << 62, REFUSED},
    {"IA32_KERNEL_GS_BASE, not canonical", 0xc0000102, 1ull << 62, REFUSED},
    {"IA32_SYSENTER_EIP, not canonical", 0x176, 1ull << 62, REFUSED},
    {"x2APIC ICR in xAPIC mode", 0x830, 0xc4500, REFUSED},
    {"x2APIC self-IPI in xAPIC mode", 0x83f, 0x60, REFUSED},
    {"x2APIC TPR in xAPIC mode", 0x808, 0xff, REFUSED},
    {"MSR 0x40000000", 0x40000000, 1, REFUSED},
    {"MSR 0x40000001", 0x40000001, 1, REFUSED},
    {"MSR 0xffffffff", 0xffffffff, 1, REFUSED},
    {"MSR 0xc0010114 (VM_CR)", 0xc0010114, 1, REFUSED},
    {"MSR 0xc0010117 (VM_HSAVE_PA)", 0xc0010117, 0x1000, REFUSED},
    {"MSR 0x2fff", 0x2fff, 1, REFUSED},
    {"MSR 0xc0002000", 0xc0002000, 1, REFUSED},
};

static bool msr(struct cpu *cpu, uint32_t number, uint64_t *value, bool write)
{
    struct probe probe = {.code = write ? "\x0f\x30" : "\x0f\x32", .size = 2};
    probe.gpr[GPR_RCX] = number;
    probe.gpr[GPR_RAX] = (uint32_t)*value;
    probe.gpr[GPR_RDX] = *value >> 32;
    probe_run(cpu, &probe);
    if (!write)
        *value = probe.gpr[GPR_RDX] << 32 | (uint32_t)probe.gpr[GPR_RAX];
    return probe_was_run(&probe);
}

static const char *attempt(struct cpu *cpu, uint32_t i)
{
    uint64_t before = 0, after = 0, value;
    bool readable = msr(cpu, tries[i].msr, &before, false);
    value = before | tries[i].bits;
    if (value == before)
        value = before ^ tries[i].bits;
    bool written = msr(cpu, tries[i].msr, &value, true);
    msr(cpu, tries[i].msr, &after, false);
    bool taken = written && (readable ? after != before : true);
    if (written && readable && after != before)
        msr(cpu, tries[i].msr, &before, true);
    if (tries[i].want == EITHER)
        return "done";
    return taken && readable ? "taken  WRONG" : "refused";
}

// Memory types over L0's memory, or a hole: L0 has its own idea of them.
static void try_mtrrs(struct cpu *cpu)
{
    static const uint8_t types[] = {0, 1, 4, 5, 6, 2, 3, 7, 0xff};
    uint64_t base = space_l0() ? space_l0() : space_hole(), old_base = 0, old_mask = 0, mask = 0xffe00800,
             value;
    if (!(x86_cpuid(1, 0).edx >> 12 & 1))
        return;
    msr(cpu, 0x20c, &old_base, false);
    msr(cpu, 0x20d, &old_mask, false);
    for (uint32_t i = 0; i < sizeof(types); i++) {
        value = base | types[i];
        bool fine = msr(cpu, 0x20c, &value, true) && msr(cpu, 0x20d, &mask, true);
        console_print(cpu, "  type %x over L0's memory or a hole: %s\n", types[i], fine ? "runs" : "refused");
        x86_cpuid(0, 0);
    }
    msr(cpu, 0x20d, &old_mask, true);
    msr(cpu, 0x20c, &old_base, true);
}

void attack_msrs(struct cpu *cpu)
{
    for (uint32_t vmx = 0; vmx < 2; vmx++) {
        if (vmx && !l2_vmx_on(cpu))
            return;
        console_print(cpu, "  %s\n", vmx ? "in VMX operation" : "outside VMX operation");
        for (uint32_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++)
            outcome_text(cpu, tries[i].name, attempt(cpu, i));
        try_mtrrs(cpu);
    }
    l2_vmx_off();
}

static uint64_t list[2] __attribute__((aligned(16)));

// What an MSR list of L1's can load that WRMSR could not: on the way in, where it is a failed entry.
void attack_debugctl_in_lists(struct cpu *cpu)
{
    static const struct {
        const char *name;
        uint64_t msr, value;
        bool not_bare; // the emulated processor takes any value, or has any MSR
    } entries[] = {
        {"IA32_DEBUGCTL, reserved bits", 0x1d9, 0xffff0000, true},
        {"IA32_EFER, reserved bits", 0xc0000080, ~0ull, false},
        {"IA32_PAT, reserved types", 0x277, ~0ull, false},
        {"IA32_APIC_BASE", 0x1b, 0x1f400900, true},
        {"FS base", 0xc0000100, 0, false},
        {"GS base", 0xc0000101, 0, false},
        {"x2APIC", 0x830, 0xc4500, false},
        {"IA32_SYSENTER_EIP, not canonical", 0x176, 1ull << 62, false},
        {"no MSR", 0xffffffff, 0, true},
        {"reserved bits of the entry", 1ull << 32 | 0x174, 0, false},
    };
    if (!l2_vmx_on(cpu))
        return;
    struct l2 *l2 = l2_create(cpu, NULL);
    for (uint32_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
        struct probe probe = {.code = "\x0f\xa2", .size = 2}; // CPUID
        list[0] = entries[i].msr;
        list[1] = entries[i].value;
        l2_write(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, cpu_physical(list));
        l2_write(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1);
        if (entries[i].not_bare && outcome_not_bare(cpu, entries[i].name, "exit 80000022"))
            continue;
        outcome_exit(cpu, entries[i].name, probe_run_in_l2(cpu, l2, &probe), &probe);
    }
    vmx_vmclear(l2->vmcs);
    l2_vmx_off();
}
