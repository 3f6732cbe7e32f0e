// SPDX-License-Identifier: MIT
// IA32_DEBUGCTL in L1's MSR lists: the value becomes guest state of vmcs01 or vmcs02, which a VM entry
// refuses when it has a bit that this processor does not define. L1 gets the abort or the failed entry that
// its list deserves. Manual: Loading MSRs (VM entries; VM exits); VMX Aborts; IA32_DEBUGCTL MSR.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

// Without TSX, without perfmon version 2 and without an uncore.
#define MISSING 0xb800ull

static struct processor plain;

static void put_entry(uint64_t at, uint64_t value)
{
    const uint64_t entry[2] = {MSR_IA32_DEBUGCTL, value};
    memcpy(l1_memory(at), entry, sizeof(entry));
}

static void enter_with(struct l2 *l2, uint64_t at_entry, uint64_t at_exit)
{
    l1_prepare(l2);
    put_entry(MSR_LISTS, at_entry);
    put_entry(MSR_LISTS + 0x800, at_exit);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, MSR_LISTS);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1);
    l1_vmwrite(VMCS_VM_EXIT_MSR_LOAD_ADDRESS, MSR_LISTS + 0x800);
    l1_vmwrite(VMCS_VM_EXIT_MSR_LOAD_COUNT, 1);
}

static void expect_abort(void)
{
    uint32_t indicator;
    assert_int_equal(try_vmlaunch().how, IDLE);
    memcpy(&indicator, l1_memory(VMCS_A + 4), 4);
    assert_int_equal(indicator, 4);
}

static void every_processor_has_lbr_and_btf(void)
{
    L2_PROGRAM(l2, RDMSR(MSR_IA32_DEBUGCTL), HLT, VMCALL);
    enter_with(&l2, 2, 3);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RAX), 2);
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_rdmsr(MSR_IA32_DEBUGCTL), 3);
}

// Freezing in SMM is what the plain processor has besides.
static void what_the_processor_has(void)
{
    L2_PROGRAM(l2, RDMSR(MSR_IA32_DEBUGCTL), VMCALL);
    enter_with(&l2, 1u << 14 | 1, 1u << 14);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RAX), 1u << 14 | 1);
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_rdmsr(MSR_IA32_DEBUGCTL), 1u << 14);
    l1_wrmsr(MSR_IA32_DEBUGCTL, 0);
}

static void an_exit_aborts(void)
{
    L2_PROGRAM(l2, VMCALL);
    enter_with(&l2, 0, 1u << 15);
    expect_abort();
}

static void an_entry_fails(void)
{
    L2_PROGRAM(l2, VMCALL);
    static const uint64_t bad[] = {1u << 15, 1u << 11 | 1, 1u << 13, 1u << 16, 1u << 2, 1ull << 40};
    enter_with(&l2, 0, 0);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        put_entry(MSR_LISTS, bad[i]);
        try_vmlaunch();
        expect_entry_failure(34, 1);
    }
}

// Trace messages and branch trace store, which need the DS save area: L1 is not offered it, whatever the
// processor has.
static void traces_are_not_offered(void)
{
    L2_PROGRAM(l2, VMCALL);
    enter_with(&l2, 0, 0);
    for (unsigned bit = 6; bit <= 10; bit++) {
        put_entry(MSR_LISTS, 1ull << bit);
        try_vmlaunch();
        expect_entry_failure(34, 1);
    }
    put_entry(MSR_LISTS, 0);
    put_entry(MSR_LISTS + 0x800, 1u << 7 | 1u << 6);
    expect_abort();
}

// What L0 asks the processor with does not stay: L1's own value is untouched by an entry that does not load
// it.
static void the_question_leaves_nothing(void)
{
    L2_PROGRAM(l2, VMCALL, RDMSR(MSR_IA32_DEBUGCTL), VMCALL);
    enter_with(&l2, 1u << 14, 1u << 14);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 0);
    l1_vmwrite(VMCS_GUEST_IA32_DEBUGCTL, 2);
    l1_vmwrite(VMCS_VM_EXIT_MSR_LOAD_COUNT, 0);
    l1_resume_behind();
    assert_int_equal(l1_gpr(GPR_RAX), 2);
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_rdmsr(MSR_IA32_DEBUGCTL), 0);
}

static const struct CMUnitTest tests[] = {
    BOTH(every_processor_has_lbr_and_btf),
    BOTH_WITH(every_processor_has_lbr_and_btf, ", plain processor", .processor = &plain),
    BOTH_WITH(what_the_processor_has, ", plain processor", .processor = &plain),
    BOTH_WITH(an_exit_aborts, ", plain processor", .processor = &plain),
    BOTH_WITH(an_entry_fails, ", plain processor", .processor = &plain),
    NESTED(traces_are_not_offered),
    BOTH(the_question_leaves_nothing),
};

int main(void)
{
    plain = processor_rich;
    plain.debugctl_missing = MISSING;
    return cmocka_run_group_tests_name("debugctl", tests, NULL, NULL);
}
