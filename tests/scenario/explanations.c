// SPDX-License-Identifier: MIT
// What L0 knows of a failed entry: every rule that it broke, over all stages, until another entry fails.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct check_report *report(void)
{
    return &world_vcpu()->failed_entry;
}

static const struct check_broken *find_broken(enum check_index index)
{
    for (uint32_t i = 0; i < report()->count && i < CHECK_REPORT_MAX; i++)
        if (report()->broken[i].index == index)
            return &report()->broken[i];
    return NULL;
}

static void expect_broken(enum check_index index, uint64_t value, uint64_t legal)
{
    const struct check_broken *broken = find_broken(index);
    if (broken == NULL)
        fail_msg("%s is not among the %u broken rules", check_rules[index].id, report()->count);
    assert_int_equal(broken->value, value);
    assert_int_equal(broken->legal, legal);
}

// The outcome is the first stage's; the explanation is about all of them.
static void every_stage_is_explained(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    uint64_t tr = l1_vmread(VMCS_GUEST_TR_ACCESS_RIGHTS), bitmap = l1_vmread(VMCS_MSR_BITMAP);
    unsigned lines = l0_log_count();
    l1_vmwrite(VMCS_MSR_BITMAP, bitmap | 0x10);
    l1_vmwrite(VMCS_HOST_TR_SELECTOR, 0);
    l1_vmwrite(VMCS_GUEST_TR_ACCESS_RIGHTS, 0x89);
    l1_vmwrite(VMCS_GUEST_RFLAGS, 0);
    expect_fail_valid(try_vmlaunch(), 7);
    assert_int_equal(report()->count, 4);
    assert_int_equal(l0_log_count() - lines, 4);
    expect_broken(CHECK_CONTROL_MSR_BITMAP_ADDRESS, bitmap | 0x10, bitmap);
    expect_broken(CHECK_HOST_TR_NOT_ZERO, 0, 8);
    expect_broken(CHECK_GUEST_TR_NOT_BUSY, 0x89, 0x8b);
    expect_broken(CHECK_GUEST_RFLAGS_RESERVED, 0, RFLAGS_FIXED);

    l1_vmwrite(VMCS_MSR_BITMAP, bitmap);
    expect_fail_valid(try_vmlaunch(), 8);
    assert_int_equal(report()->count, 3);
    l1_vmwrite(VMCS_HOST_TR_SELECTOR, 8);
    l1_vmlaunch();
    expect_entry_failure(33, 0);
    assert_int_equal(report()->count, 2);
    l1_vmwrite(VMCS_GUEST_TR_ACCESS_RIGHTS, tr);
    l1_vmlaunch();
    expect_entry_failure(33, 0);
    assert_int_equal(report()->count, 1);
    assert_int_equal(world_vcpu()->failed_entry_count, 4);
}

// A hypervisor that asks later still finds it; it goes when another entry fails.
static void an_explanation_outlives_good_entries(void)
{
    L2_PROGRAM(l2, CPUID(1), VMCALL);
    l1_prepare(&l2);
    assert_int_equal(report()->count, 0);
    l1_vmwrite(VMCS_GUEST_GDTR_LIMIT, 0x10000);
    l1_vmlaunch();
    expect_entry_failure(33, 0);
    l1_vmwrite(VMCS_GUEST_GDTR_LIMIT, 0xffff);
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(report()->count, 1);
    expect_broken(CHECK_GUEST_GDTR_LIMIT_HIGH, 0x10000, 0);
    l1_vmwrite(VMCS_HOST_TR_SELECTOR, 0);
    expect_fail_valid(try_vmresume(), 8);
    assert_int_equal(report()->count, 1);
    expect_broken(CHECK_HOST_TR_NOT_ZERO, 0, 8);
    assert_int_equal(world_vcpu()->failed_entry_count, 2);
}

// More rules than are kept: the count is right, and what is kept are the first ones.
static void a_count_may_exceed_what_is_kept(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    static const uint32_t limits[] = {VMCS_GUEST_ES_LIMIT, VMCS_GUEST_CS_LIMIT, VMCS_GUEST_SS_LIMIT,
                                      VMCS_GUEST_DS_LIMIT, VMCS_GUEST_FS_LIMIT, VMCS_GUEST_GS_LIMIT,
                                      VMCS_GUEST_TR_LIMIT};
    for (unsigned i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        l1_vmwrite(limits[i], 0x80000000);
        l1_vmwrite(limits[i] + (VMCS_GUEST_ES_ACCESS_RIGHTS - VMCS_GUEST_ES_LIMIT), 0xf00);
    }
    l1_vmwrite(VMCS_MSR_BITMAP, 1);
    expect_fail_valid(try_vmlaunch(), 7);
    assert_true(report()->count > CHECK_REPORT_MAX);
    for (unsigned i = 1; i < CHECK_REPORT_MAX; i++)
        assert_true(check_rules[report()->broken[i].index].stage >=
                    check_rules[report()->broken[i - 1].index].stage);
}

static const struct CMUnitTest tests[] = {
    NESTED(every_stage_is_explained, .cpu_count = 1),
    NESTED(an_explanation_outlives_good_entries, .cpu_count = 1),
    NESTED(a_count_may_exceed_what_is_kept, .cpu_count = 1),
};

int main(void)
{
    return cmocka_run_group_tests_name("explanations", tests, NULL, NULL);
}
