// SPDX-License-Identifier: MIT
// The life of an L2: launch, exit, resume; a second VMCS; VMCLEAR and relaunch.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void cpuid_exits_to_l1(void)
{
    L2_PROGRAM(l2, CPUID(0x1234), SET(GPR_RBX, 77), CPUID(1));
    l1_prepare(&l2);
    l1_vmlaunch();
    expect_exit_length(EXIT_CPUID, 2);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_CPUID);
    assert_int_equal(l1_gpr(GPR_RBX), 77);
}

static void general_purpose_registers_pass_between_l1_and_l2(void)
{
    L2_PROGRAM(l2, CPUID(5), SET(GPR_R15, 0x1515), VMCALL);
    l1_prepare(&l2);
    l1_set_gpr(GPR_RSI, 0x5151);
    l1_set_gpr(GPR_R15, 1);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RSI), 0x5151);
    assert_int_equal(l1_gpr(GPR_R15), 1);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit_length(EXIT_VMCALL, 3);
    assert_int_equal(l1_gpr(GPR_R15), 0x1515);
}

static void host_state_is_loaded_on_exit(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_HOST_FS_BASE, 0x123000);
    l1_vmwrite(VMCS_HOST_GS_BASE, 0x456000);
    l1_vmwrite(VMCS_HOST_SYSENTER_EIP, 0x789000);
    l1_vmlaunch();
    assert_int_equal(l1_rflags(), RFLAGS_FIXED);
    assert_int_equal(l1_rdmsr(MSR_FS_BASE), 0x123000);
    assert_int_equal(l1_rdmsr(MSR_GS_BASE), 0x456000);
    assert_int_equal(l1_rdmsr(MSR_IA32_SYSENTER_EIP), 0x789000);
    assert_int_equal(l1_rdmsr(MSR_IA32_EFER), l1_vmread(VMCS_HOST_IA32_EFER));
    l1_run(MOV_FROM_DR(GPR_RAX, 7));
    assert_int_equal(l1_gpr(GPR_RAX), 0x400);
}

static void guest_state_is_saved_on_exit(void)
{
    L2_PROGRAM(l2, MOV_TO_CR(0, 0x80010033 & ~CR0_MP), MOV_TO_DR(7, 0x500),
               WRMSR(MSR_IA32_SYSENTER_EIP, 0x77000), WRMSR(MSR_FS_BASE, 0x88000),
               SET_FLAGS(RFLAGS_FIXED | RFLAGS_SF), VMCALL);
    l1_prepare(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_vmread(VMCS_GUEST_CR0) & CR0_MP, 0);
    assert_int_equal(l1_vmread(VMCS_GUEST_DR7), 0x500);
    assert_int_equal(l1_vmread(VMCS_GUEST_SYSENTER_EIP), 0x77000);
    assert_int_equal(l1_vmread(VMCS_GUEST_FS_BASE), 0x88000);
    assert_int_equal(l1_vmread(VMCS_GUEST_RFLAGS), RFLAGS_FIXED | RFLAGS_SF);
    assert_int_equal(l1_vmread(VMCS_GUEST_CS_SELECTOR), 0x08);
    assert_int_equal(l1_vmread(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_ACTIVE);
}

static void resume_needs_a_launch(void)
{
    L2_PROGRAM(l2, CPUID(1), CPUID(2));
    l1_prepare(&l2);
    expect_fail_valid(try_vmresume(), 5);
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    expect_fail_valid(try_vmlaunch(), 4);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_CPUID);
    l1_vmclear(VMCS_A);
    l1_vmptrld(VMCS_A);
    expect_fail_valid(try_vmresume(), 5);
    l1_vmlaunch(); // the guest state survived VMCLEAR
    expect_exit(EXIT_CPUID);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 2);
}

static void two_vmcss_take_turns(void)
{
    L2_PROGRAM(first, CPUID(1), CPUID(2), CPUID(3));
    L2_PROGRAM(second, VMCALL, SET(GPR_RBX, 2), VMCALL, VMCALL);
    l1_prepare(&first);
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    l1_skip_instruction();
    second.eptp = first.eptp;
    l1_prepare_vmcs(VMCS_B, &second);
    assert_int_equal(l1_vmptrst(), VMCS_B);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    l1_skip_instruction();
    for (unsigned turn = 0; turn < 2; turn++) {
        l1_vmptrld(VMCS_A);
        assert_int_equal(l1_vmread(VMCS_EXIT_REASON), EXIT_CPUID); // as it was left
        l1_vmresume();
        expect_exit_length(EXIT_CPUID, 2);
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), first.code + 2 * (turn + 1));
        l1_skip_instruction();
        l1_vmptrld(VMCS_B);
        l1_vmresume();
        expect_exit_length(EXIT_VMCALL, 3);
        l1_skip_instruction();
    }
}

// The fields of a VMCS that is not current are in L1's memory or in the processor; each comes back.
static void every_field_survives_a_change_of_the_current_vmcs(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_GUEST_ES_BASE, 0xabc000);
    l1_vmwrite(VMCS_CR3_TARGET_0, 0x1234);
    l1_vmwrite(VMCS_HOST_SYSENTER_ESP, 0x4567000);
    l1_vmlaunch();
    struct l2 other = l2;
    l1_prepare_vmcs(VMCS_B, &other);
    l1_vmptrld(VMCS_A);
    assert_int_equal(l1_vmread(VMCS_GUEST_ES_BASE), 0xabc000);
    assert_int_equal(l1_vmread(VMCS_CR3_TARGET_0), 0x1234);
    assert_int_equal(l1_vmread(VMCS_HOST_SYSENTER_ESP), 0x4567000);
    assert_int_equal(l1_vmread(VMCS_GUEST_CS_ACCESS_RIGHTS), 0xa09b);
    assert_int_equal(l1_vmread(VMCS_GUEST_RSP), 0x9000);
}

static void vmclear_of_another_vmcs_leaves_the_current_one(void)
{
    L2_PROGRAM(l2, CPUID(1), CPUID(2));
    l1_prepare(&l2);
    l1_vmlaunch();
    l1_make_region(VMCS_B);
    l1_vmclear(VMCS_B);
    assert_int_equal(l1_vmptrst(), VMCS_A);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_CPUID);
}

static void vmclear_of_the_current_vmcs_leaves_none(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_vmlaunch();
    l1_vmclear(VMCS_A);
    assert_int_equal(l1_vmptrst(), UINT64_MAX);
    expect_fail_invalid(try_vmwrite(VMCS_GUEST_RIP, 0));
    expect_fail_invalid(try_vmresume());
    expect_fail_invalid(try_vmlaunch());
}

static void vmxoff_and_vmxon_again(void)
{
    L2_PROGRAM(l2, CPUID(1), CPUID(2));
    l1_prepare(&l2);
    l1_vmlaunch();
    l1_skip_instruction();
    l1_vmclear(VMCS_A);
    l1_vmxoff();
    expect_exception(l1_execute(VMXOFF), VECTOR_UD);
    l1_vmxon(VMXON_REGION);
    assert_int_equal(l1_vmptrst(), UINT64_MAX);
    l1_vmptrld(VMCS_A);
    expect_fail_valid(try_vmresume(), 5);
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 2);
}

static void many_round_trips(void)
{
    L2_PROGRAM(l2, CPUID(1), NOP, NOP, NOP);
    l1_prepare(&l2);
    l1_vmlaunch();
    for (unsigned i = 0; i < 200; i++)
        l1_vmresume();
    expect_exit(EXIT_CPUID);
}

static void two_virtual_processors_run_their_own_l2(void)
{
    L2_PROGRAM(first, CPUID(1), CPUID(2));
    L2_PROGRAM(second, VMCALL, VMCALL);
    l1_prepare(&first);
    l1_use_vcpu(1);
    second.eptp = first.eptp;
    l1_prepare(&second);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    l1_use_vcpu(0);
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    l1_use_vcpu(1);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static const struct CMUnitTest tests[] = {
    BOTH(cpuid_exits_to_l1),
    BOTH(general_purpose_registers_pass_between_l1_and_l2),
    BOTH(host_state_is_loaded_on_exit),
    BOTH(guest_state_is_saved_on_exit),
    BOTH(resume_needs_a_launch),
    BOTH(two_vmcss_take_turns),
    BOTH(every_field_survives_a_change_of_the_current_vmcs),
    BOTH(vmclear_of_another_vmcs_leaves_the_current_one),
    BOTH(vmclear_of_the_current_vmcs_leaves_none),
    BOTH(vmxoff_and_vmxon_again),
    BOTH(many_round_trips),
    BOTH_WITH(many_round_trips, ", without VPID", .processor = &processor_no_vpid),
    BOTH_WITH(two_vmcss_take_turns, ", sparse processor", .processor = &processor_sparse),
    BOTH_WITH(two_virtual_processors_run_their_own_l2, "", .vcpu_count = 2),
};

int main(void)
{
    return cmocka_run_group_tests_name("launch", tests, NULL, NULL);
}
