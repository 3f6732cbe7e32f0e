// SPDX-License-Identifier: MIT
// The VMX capability MSRs: not what they offer, which may differ, but that they do not contradict themselves,
// each other or the processor.
#include "first.h"
#include "trap.h"
#include "x86.h"

#define CPUID_1_ECX_VMX     (1u << 5)
#define BASIC_DUAL_MONITOR  (1ull << 49)
#define BASIC_TRUE_CONTROLS (1ull << 55)
#define DEFAULT1_PIN        0x16u
#define DEFAULT1_PRIMARY    0x0401e172u
#define DEFAULT1_EXIT       0x36dffu
#define DEFAULT1_ENTRY      0x11ffu

static uint32_t allowed0(uint32_t msr)
{
    return (uint32_t)x86_rdmsr(msr);
}

static uint32_t allowed1(uint32_t msr)
{
    return (uint32_t)(x86_rdmsr(msr) >> 32);
}

void test_capability_basics(struct cpu *cpu)
{
    uint64_t basic = x86_rdmsr(MSR_IA32_VMX_BASIC), control = x86_rdmsr(MSR_IA32_FEATURE_CONTROL);
    fact(cpu, "CPUID.1:ECX.VMX", x86_cpuid(1, 0).ecx & CPUID_1_ECX_VMX, CPUID_1_ECX_VMX);
    fact(cpu, "IA32_FEATURE_CONTROL: locked, VMX outside SMX", control & 5, 5);
    fact(cpu, "IA32_VMX_BASIC bit 31", basic >> 31 & 1, 0);
    fact_true(cpu, "VMCS size, 1 to 4096", (basic >> 32 & 0x1fff) >= 1 && (basic >> 32 & 0x1fff) <= 4096);
    fact(cpu, "addresses of 32 bits only", basic >> 48 & 1, 0);
    fact(cpu, "VMCS memory type: write-back", basic >> 50 & 15, 6);
    fact(cpu, "INS and OUTS information", basic >> 54 & 1, 1);
    fact(cpu, "TRUE controls", basic >> 55 & 1, 1);
}

static void fact_control_pair(struct cpu *cpu, const char *name, uint32_t msr, uint32_t true_msr,
                              uint32_t default1)
{
    fact_true(cpu, name, (allowed0(msr) & ~allowed1(msr)) == 0); // what must be 1 may be 1
    fact_true(cpu, "the default1 class must be 1", (allowed0(msr) & default1) == default1);
    fact_true(cpu, "TRUE: must be 1 in less", (allowed0(true_msr) & ~allowed0(msr)) == 0);
    fact_true(cpu, "TRUE: may be 1 in the same", allowed1(true_msr) == allowed1(msr));
    fact_true(cpu, "TRUE: differs in the default1 class only",
              ((allowed0(msr) ^ allowed0(true_msr)) & ~default1) == 0);
}

void test_capability_controls(struct cpu *cpu)
{
    fact_control_pair(cpu, "pin-based controls", MSR_IA32_VMX_PINBASED_CTLS, MSR_IA32_VMX_TRUE_PINBASED_CTLS,
                      DEFAULT1_PIN);
    fact_control_pair(cpu, "primary controls", MSR_IA32_VMX_PROCBASED_CTLS, MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
                      DEFAULT1_PRIMARY);
    fact_control_pair(cpu, "exit controls", MSR_IA32_VMX_EXIT_CTLS, MSR_IA32_VMX_TRUE_EXIT_CTLS,
                      DEFAULT1_EXIT);
    fact_control_pair(cpu, "entry controls", MSR_IA32_VMX_ENTRY_CTLS, MSR_IA32_VMX_TRUE_ENTRY_CTLS,
                      DEFAULT1_ENTRY);
    uint32_t exit = allowed1(MSR_IA32_VMX_EXIT_CTLS), entry = allowed1(MSR_IA32_VMX_ENTRY_CTLS);
    fact(cpu, "what of secondary controls must be 1", allowed0(MSR_IA32_VMX_PROCBASED_CTLS2), 0);
    // Hypervisors refuse to load if a register can be loaded on one side only.
    fact_true(cpu, "IA32_PAT on both sides", !(entry & ENTRY_LOAD_PAT) == !(exit & EXIT_LOAD_PAT));
    fact_true(cpu, "IA32_EFER on both sides", !(entry & ENTRY_LOAD_EFER) == !(exit & EXIT_LOAD_EFER));
    fact_true(cpu, "IA32_PERF_GLOBAL_CTRL on both sides",
              !(entry & ENTRY_LOAD_PERF_GLOBAL_CTRL) == !(exit & EXIT_LOAD_PERF_GLOBAL_CTRL));
    fact_true(cpu, "the timer's value can be saved only if there is a timer",
              !(exit & EXIT_SAVE_PREEMPTION_TIMER) ||
                  l2_may_set(VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER));
}

void test_capability_ept_vpid(struct cpu *cpu)
{
    uint64_t capability = x86_rdmsr(MSR_IA32_VMX_EPT_VPID_CAP);
    bool ept = l2_may_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT);
    bool vpid = l2_may_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VPID);
    fact_true(cpu, "EPT capabilities if and only if EPT", ept == !!(uint32_t)capability);
    fact_true(cpu, "VPID capabilities if and only if VPID", vpid == !!(capability >> 32));
    if (ept) {
        const uint64_t needed = EPT_CAP_WALK_LENGTH_4 | EPT_CAP_MEMORY_TYPE_UC | EPT_CAP_MEMORY_TYPE_WB |
                                EPT_CAP_PAGE_2M | EPT_CAP_INVEPT | EPT_CAP_INVEPT_SINGLE | EPT_CAP_INVEPT_ALL;
        fact(cpu, "what everybody relies on", capability & needed, needed);
    }
    if (vpid)
        fact(cpu, "INVVPID, all four types", capability >> 32, 0xf01);
    fact_true(cpu, "unrestricted guest only with EPT",
              ept || !l2_may_set(VMCS_SECONDARY_CONTROLS, SECONDARY_UNRESTRICTED_GUEST));
}

static void write_msr(void *msr)
{
    x86_wrmsr((uint32_t)(uintptr_t)msr, 0);
}

void test_capability_registers(struct cpu *cpu)
{
    uint64_t cr0 = x86_read_cr0(), cr4 = x86_read_cr4();
    uint64_t cr0_0 = x86_rdmsr(MSR_IA32_VMX_CR0_FIXED0), cr0_1 = x86_rdmsr(MSR_IA32_VMX_CR0_FIXED1);
    uint64_t cr4_0 = x86_rdmsr(MSR_IA32_VMX_CR4_FIXED0), cr4_1 = x86_rdmsr(MSR_IA32_VMX_CR4_FIXED1);
    fact(cpu, "CR0 fixed to 1", cr0_0, CR0_PG | CR0_NE | CR0_PE);
    fact(cpu, "CR0 may be 1", cr0_1, 0xffffffff);
    fact(cpu, "CR4 fixed to 1", cr4_0, CR4_VMXE);
    fact_true(cpu, "CR0 obeys", (cr0 & cr0_0) == cr0_0 && !(cr0 & ~cr0_1));
    fact_true(cpu, "CR4 obeys", (cr4 & cr4_0) == cr4_0 && !(cr4 & ~cr4_1));
    uint64_t misc = x86_rdmsr(MSR_IA32_VMX_MISC);
    fact_true(cpu, "CR3-target values, at most 256", (misc >> MISC_CR3_TARGET_SHIFT & 0x1ff) <= 256);
    fact_true(cpu, "unrestricted guest: exits store LMA",
              (misc & MISC_STORES_LMA) || !l2_may_set(VMCS_SECONDARY_CONTROLS, SECONDARY_UNRESTRICTED_GUEST));
    uint64_t highest = (x86_rdmsr(MSR_IA32_VMX_VMCS_ENUM) >> 1 & 0x1ff);
    fact_true(cpu, "the highest field index is at least HOST_RIP's",
              highest >= vmcs_encoding_index(VMCS_HOST_RIP));
    for (uint32_t msr = MSR_IA32_VMX_BASIC; msr <= MSR_IA32_VMX_TRUE_ENTRY_CTLS; msr++)
        if (!trap_catch(write_msr, (void *)(uintptr_t)msr) || cpu->trap.vector != VECTOR_GP)
            fact(cpu, "a capability MSR can be written", msr, 0);
    fact_trap(cpu, "WRMSR of IA32_FEATURE_CONTROL, locked", write_msr, (void *)MSR_IA32_FEATURE_CONTROL,
              VECTOR_GP, 0);
}
