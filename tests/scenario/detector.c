// SPDX-License-Identifier: MIT
// The processor refuses an entry of L2 that passed every check of ours: by a rule that only the test knows.
// L1 gets the VMfail or the exit that it would have on that processor, goes on, and the refusal is counted
// and reported field by field.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void refuse_next(uint32_t how, uint64_t qualification)
{
    uint64_t region = world_is_nested() ? world_vmcs02() : VMCS_A;
    machine_refuse_entry(world_machine(), region, how, qualification);
}

// Nothing of L1's changes but RFLAGS and the error; and the next attempt is checked and made anew.
static void vmfail(uint32_t error, bool launched)
{
    uint64_t rip = l1_vmread(VMCS_GUEST_RIP);
    l1_vmwrite(VMCS_GUEST_LDTR_LIMIT, 0x1234);
    refuse_next(error, 0);
    expect_fail_valid(launched ? try_vmresume() : try_vmlaunch(), error);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), rip);
    assert_int_equal(l1_vmread(VMCS_GUEST_LDTR_LIMIT), 0x1234);
}

static void l1_gets_the_vmfail(void)
{
    L2_PROGRAM(l2, CPUID(1), CPUID(2), VMCALL);
    l1_prepare(&l2);
    vmfail(7, false);
    vmfail(8, false);
    l1_vmlaunch(); // the launch state stayed clear
    expect_exit(EXIT_CPUID);
    l1_skip_instruction();
    vmfail(8, true);
    vmfail(7, true);
    l1_vmresume();
    expect_exit(EXIT_CPUID);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 2);
}

static void l1_gets_the_failed_entry(void)
{
    L2_PROGRAM(l2, CPUID(1), CPUID(2), VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_HOST_SYSENTER_CS, 0x58);
    refuse_next(33, 4);
    try_vmlaunch();
    expect_entry_failure(33, 4);
    assert_int_equal(l1_rdmsr(MSR_IA32_SYSENTER_CS), 0x58);
    expect_fail_valid(try_vmresume(), 5);
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    l1_skip_instruction();
    refuse_next(33, 0);
    try_vmresume();
    expect_entry_failure(33, 0);
    expect_fail_valid(try_vmlaunch(), 4);
    l1_vmresume();
    expect_exit(EXIT_CPUID);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 2);
}

// What is in a shutdown's place in vmcs02 is not what L1 finds.
static void an_entry_to_shutdown_is_refused(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_SHUTDOWN);
    l1_vmwrite(VMCS_GUEST_CS_LIMIT, 0xfffffff);
    refuse_next(7, 0);
    expect_fail_valid(try_vmlaunch(), 7);
    assert_int_equal(l1_vmread(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_SHUTDOWN);
    assert_int_equal(l1_vmread(VMCS_GUEST_CS_LIMIT), 0xfffffff);
    l1_vmwrite(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_ACTIVE);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

// Every field that was L1's or that the processor got is in the report, with both values; and it has an end.
static void the_refusal_is_reported(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_GUEST_GDTR_BASE, 0x123000);
    refuse_next(7, 0);
    expect_fail_valid(try_vmlaunch(), 7);
    assert_int_equal(world_vcpu()->refused_entry_count, 1);
    unsigned lines = l0_detected_count();
    assert_in_range(lines, 120, F_COUNT);
    struct port_detected gdtr = l0_detected(F_GUEST_GDTR_BASE), host = l0_detected(F_HOST_RIP);
    assert_true(gdtr.in_vmcs12 && gdtr.in_vmcs02);
    assert_int_equal(gdtr.vmcs12, 0x123000);
    assert_int_equal(gdtr.vmcs02, 0x123000);
    assert_true(host.in_vmcs12 && host.in_vmcs02);
    assert_true(host.vmcs12 != host.vmcs02);
    struct port_detected eptp = l0_detected(F_EPT_POINTER);
    assert_int_equal(eptp.vmcs12, l2.eptp);
    assert_true(eptp.vmcs02 != l2.eptp);
    for (unsigned i = 0; i < 20; i++) {
        refuse_next(7, 0);
        expect_fail_valid(try_vmlaunch(), 7);
    }
    assert_int_equal(world_vcpu()->refused_entry_count, 21);
    assert_in_range(l0_detected_count(), lines + 1, 6 * lines);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

static const struct CMUnitTest tests[] = {
    BOTH_WITH(l1_gets_the_vmfail, "", .keeps_caches = true), // the test names vmcs02 by its region
    BOTH_WITH(l1_gets_the_failed_entry, "", .keeps_caches = true),
    BOTH_WITH(an_entry_to_shutdown_is_refused, "", .keeps_caches = true),
    NESTED(the_refusal_is_reported, 0),
};

int main(void)
{
    return cmocka_run_group_tests_name("detector", tests, NULL, NULL);
}
