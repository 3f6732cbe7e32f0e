// SPDX-License-Identifier: MIT
// What the manual leaves undefined is junk, so that software that relies on it is found out.
// Manual: Information for VM Exits...; Saving Segment Registers and Descriptor-Table Registers.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define WRITTEN 0x1230

// Not what software wrote, and not what the last exit left.
static void undefined_exit_information(void)
{
    static const uint32_t fields[] = {VMCS_GUEST_LINEAR_ADDRESS, VMCS_GUEST_PHYSICAL_ADDRESS,
                                      VMCS_VM_EXIT_INSTRUCTION_INFO, VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE,
                                      VMCS_IDT_VECTORING_ERROR_CODE};
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    for (unsigned i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        l1_vmwrite(fields[i], WRITTEN);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    for (unsigned i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        assert_int_not_equal(l1_vmread(fields[i]), WRITTEN);
    assert_int_equal(l1_vmread(VMCS_EXIT_QUALIFICATION), 0); // defined: the exits that have none clear it
}

static void unusable_segments(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    for (uint32_t i = SEGMENT_DS; i <= SEGMENT_GS; i++) {
        l1_vmwrite(VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * i, SEGMENT_UNUSABLE);
        l1_vmwrite(VMCS_GUEST_ES_BASE + 2 * i, WRITTEN);
        l1_vmwrite(VMCS_GUEST_ES_LIMIT + 2 * i, WRITTEN);
    }
    l1_vmlaunch();
    for (uint32_t i = SEGMENT_DS; i <= SEGMENT_GS; i++) {
        assert_true(l1_vmread(VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * i) & SEGMENT_UNUSABLE);
        assert_int_not_equal(l1_vmread(VMCS_GUEST_ES_LIMIT + 2 * i), WRITTEN);
    }
    assert_int_not_equal(l1_vmread(VMCS_GUEST_DS_BASE), WRITTEN);
    assert_int_equal(l1_vmread(VMCS_GUEST_DS_BASE) >> 32, 0);
    assert_int_equal(l1_vmread(VMCS_GUEST_FS_BASE), WRITTEN); // these two are saved all the same
    assert_int_equal(l1_vmread(VMCS_GUEST_GS_BASE), WRITTEN);
}

// Fields are undefined behind the first VMCLEAR of a region, whatever memory held.
static void a_fresh_vmcs(void)
{
    l1_enter_vmx_operation();
    l1_make_region(VMCS_B);
    l1_vmclear(VMCS_B);
    l1_vmptrld(VMCS_B);
    assert_int_not_equal(l1_vmread(VMCS_GUEST_RIP), 0);
    assert_int_not_equal(l1_vmread(VMCS_HOST_RIP), l1_vmread(VMCS_GUEST_RIP));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BARE(undefined_exit_information),
        BARE(unusable_segments),
        BARE(a_fresh_vmcs),
    };
    return cmocka_run_group_tests_name("poison", tests, NULL, NULL);
}
