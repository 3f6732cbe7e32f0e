// SPDX-License-Identifier: MIT
#include "judge.h"
#include "trap.h"
#include "x86.h"

#define BASIC_TRUE_CONTROLS (1ull << 55)

static struct {
    struct l2 *l2;
    struct nvmx_caps caps;
    struct pair_world world;
    uint64_t host[F_COUNT];  // fields of a VMCS that works
    uint64_t holds[F_COUNT]; // what the VMCS has now
    bool exists[F_COUNT];
    uint64_t cr0, cr4, efer, pat; // L1's
} judge;

static void read_capabilities(void)
{
    uint64_t *msr = judge.caps.msr;
    for (uint32_t i = MSR_IA32_VMX_BASIC; i <= MSR_IA32_VMX_VMCS_ENUM; i++)
        msr[i - CAPS_MSR_FIRST] = x86_rdmsr(i);
    if (msr[0] & BASIC_TRUE_CONTROLS)
        for (uint32_t i = MSR_IA32_VMX_TRUE_PINBASED_CTLS; i <= MSR_IA32_VMX_TRUE_ENTRY_CTLS; i++)
            msr[i - CAPS_MSR_FIRST] = x86_rdmsr(i);
    uint32_t leaf_count = x86_cpuid(0, 0).eax;
    struct nvmx_cpuid_words words = {0};
    if (leaf_count >= 7) {
        words.leaf_7_ebx = x86_cpuid(7, 0).ebx;
        words.leaf_7_ecx = x86_cpuid(7, 0).ecx;
        words.leaf_7_1_eax = x86_cpuid(7, 0).eax >= 1 ? x86_cpuid(7, 1).eax : 0;
    }
    if (leaf_count >= 10) {
        words.leaf_a_eax = x86_cpuid(10, 0).eax;
        words.leaf_a_ecx = x86_cpuid(10, 0).ecx;
        words.leaf_a_edx = x86_cpuid(10, 0).edx;
    }
    nvmx_caps_take_cpuid(&judge.caps, &words);
    if (!l2_may_set(VMCS_PRIMARY_CONTROLS, PRIMARY_ACTIVATE_SECONDARY))
        return;
    msr[MSR_IA32_VMX_PROCBASED_CTLS2 - CAPS_MSR_FIRST] = x86_rdmsr(MSR_IA32_VMX_PROCBASED_CTLS2);
    if (l2_may_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT) ||
        l2_may_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VPID))
        msr[MSR_IA32_VMX_EPT_VPID_CAP - CAPS_MSR_FIRST] = x86_rdmsr(MSR_IA32_VMX_EPT_VPID_CAP);
    if (l2_may_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VMFUNC))
        msr[MSR_IA32_VMX_VMFUNC - CAPS_MSR_FIRST] = x86_rdmsr(MSR_IA32_VMX_VMFUNC);
}

static void l2_never(void)
{
}

static bool is_ours(uint32_t field) // not l2_enter's
{
    return field != F_HOST_RSP &&
           vmcs_encoding_type(vmcs_field_encoding((enum vmcs_field)field)) != VMCS_TYPE_INFO;
}

static void read_fields(void)
{
    for (uint32_t i = 0; i < F_COUNT; i++) {
        uint64_t value = 0;
        judge.exists[i] =
            is_ours(i) && vmx_vmread(vmcs_field_encoding((enum vmcs_field)i), &value) == VMX_SUCCEED;
        judge.host[i] = judge.holds[i] = value;
    }
}

void judge_begin(struct cpu *cpu)
{
    read_capabilities();
    uint8_t *scratch = cpu_allocate_pages(cpu, PAIR_SCRATCH_SIZE / PAGE_SIZE);
    judge.l2 = l2_create(cpu, l2_never);
    judge.cr0 = x86_read_cr0();
    judge.cr4 = x86_read_cr4();
    judge.efer = x86_rdmsr(MSR_IA32_EFER);
    judge.pat = x86_rdmsr(MSR_IA32_PAT);
    read_fields();
    judge.host[F_HOST_IA32_EFER] = judge.efer;
    judge.host[F_HOST_IA32_PAT] = judge.pat;
    judge.world = (struct pair_world){
        .caps = &judge.caps,
        .physical_width = x86_cpuid(0x80000008, 0).eax & 0xff,
        .long_mode = true,
        .scratch = cpu_physical(scratch),
        .vmcs = judge.l2->vmcs,
        .memory = scratch,
        .host = judge.host,
    };
}

const struct pair_world *judge_world(enum pair_mode mode)
{
    judge.world.mode = mode;
    return &judge.world;
}

enum outcome_kind judge_kind_of_stage(enum check_stage stage)
{
    return stage == STAGE_HOST                                      ? OUTCOME_FAILS_HOST
           : stage == STAGE_CONTROLS || stage == STAGE_CONTROLS_HOT ? OUTCOME_FAILS_CONTROLS
                                                                    : OUTCOME_FAILS_GUEST;
}

static void restore_l1(void)
{
    x86_write_cr0(judge.cr0);
    x86_write_cr4(judge.cr4);
    x86_wrmsr(MSR_IA32_EFER, judge.efer);
    x86_wrmsr(MSR_IA32_PAT, judge.pat);
}

static void write_fields(const uint64_t *field)
{
    for (uint32_t i = 0; i < F_COUNT; i++)
        if (judge.exists[i] && judge.holds[i] != field[i]) {
            l2_write(vmcs_field_encoding((enum vmcs_field)i), field[i]);
            judge.holds[i] = field[i];
        }
}

struct outcome judge_processor(const uint64_t *field, enum pair_mode mode)
{
    write_fields(field);
    enum vmx_status status = l2_enter(judge.l2);
    if (status == VMX_FAIL_VALID) {
        uint64_t error = l2_read(VMCS_VM_INSTRUCTION_ERROR);
        if (error == 7 || error == 8)
            return (struct outcome){.kind = error == 7 ? OUTCOME_FAILS_CONTROLS : OUTCOME_FAILS_HOST};
        return (struct outcome){.kind = OUTCOME_OTHER, .other = status, .qualification = error};
    }
    if (status != VMX_SUCCEED)
        return (struct outcome){.kind = OUTCOME_OTHER, .other = status};
    restore_l1();
    uint64_t reason = l2_read(VMCS_EXIT_REASON), qualification = l2_read(VMCS_EXIT_QUALIFICATION);
    uint64_t basic = reason & EXIT_REASON_BASIC_MASK;
    bool failed = reason & EXIT_REASON_ENTRY_FAILURE;
    if (failed && basic == EXIT_ENTRY_FAILURE_GUEST_STATE)
        return (struct outcome){.kind = OUTCOME_FAILS_GUEST, .qualification = qualification};
    if (mode == PAIR_STOP && failed && basic == EXIT_ENTRY_FAILURE_MSR_LOADING && qualification == 1)
        return (struct outcome){.kind = OUTCOME_ENTERS};
    if (mode == PAIR_RUN && !failed) {
        for (uint32_t i = 0; i < F_COUNT; i++) // what the exit saved
            if (judge.exists[i])
                judge.holds[i] = l2_read(vmcs_field_encoding((enum vmcs_field)i));
        return (struct outcome){.kind = OUTCOME_ENTERS};
    }
    return (struct outcome){.kind = OUTCOME_OTHER, .other = status, .qualification = reason};
}
