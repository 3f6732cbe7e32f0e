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
    l1_vmwrite(VMCS_HOST_IA32_PAT, 0x0007040600070400);
    l1_vmwrite(VMCS_HOST_ES_SELECTOR, 0);
    l1_vmwrite(VMCS_HOST_CR0, l1_vmread(VMCS_HOST_CR0) | CR0_AM);
    l1_vmwrite(VMCS_HOST_CR4, l1_vmread(VMCS_HOST_CR4) | CR4_PGE);
    l1_wrmsr(MSR_IA32_DEBUGCTL, 1);
    l1_set_gpr(GPR_RBX, 0x20);
    l1_run(OP(.kind = OP_LLDT, .reg = GPR_RBX));
    l1_vmlaunch();
    assert_int_equal(l1_rdmsr(MSR_IA32_DEBUGCTL), 0);
    l1_run(OP(.kind = OP_SLDT, .reg = GPR_RBX));
    assert_int_equal(l1_gpr(GPR_RBX), 0);
    l1_run(MOV_FROM_CR(GPR_RAX, 0));
    assert_int_equal(l1_gpr(GPR_RAX), l1_vmread(VMCS_HOST_CR0));
    l1_run(MOV_FROM_CR(GPR_RAX, 4));
    assert_int_equal(l1_gpr(GPR_RAX), l1_vmread(VMCS_HOST_CR4));
    assert_int_equal(l1_rdmsr(MSR_IA32_PAT), 0x0007040600070400);
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

// ... and stays saved when another VMCS becomes current before L1 looks.
static void guest_state_is_saved_in_its_vmcs(void)
{
    L2_PROGRAM(l2, WRMSR(MSR_IA32_SYSENTER_EIP, 0x77000), WRMSR(MSR_FS_BASE, 0x88000), MOV_TO_DR(7, 0x500),
               VMCALL);
    l1_prepare(&l2);
    struct l2 other = l2;
    l1_prepare_vmcs(VMCS_B, &other);
    for (unsigned turn = 0; turn < 2; turn++) {
        l1_vmptrld(VMCS_A);
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        if (turn == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        if (turn == 0)
            l1_vmptrld(VMCS_B);
        else
            l1_vmclear(VMCS_A);
        l1_vmptrld(VMCS_A);
        assert_int_equal(l1_vmread(VMCS_GUEST_SYSENTER_EIP), 0x77000);
        assert_int_equal(l1_vmread(VMCS_GUEST_FS_BASE), 0x88000);
        assert_int_equal(l1_vmread(VMCS_GUEST_DR7), 0x500);
        l1_vmwrite(VMCS_GUEST_SYSENTER_EIP, 0);
        l1_vmwrite(VMCS_GUEST_FS_BASE, 0);
    }
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

// Two VMCSs that differ in a field of every kind: each L2 runs with its own, round after round (the
// comparison with the bare machine sees the registers that L2 has).
static void two_vmcss_that_differ(void)
{
    static const struct {
        uint32_t encoding;
        uint64_t first, second;
    } differences[] = {
        {VMCS_GUEST_ES_SELECTOR, 0x20, 0x28},
        {VMCS_GUEST_FS_BASE, 0x11000, 0x12000},
        {VMCS_GUEST_GS_BASE, 0x13000, 0x14000},
        {VMCS_GUEST_DS_LIMIT, 0xffffffff, 0x7fffffff},
        {VMCS_GUEST_DS_ACCESS_RIGHTS, 0xc093, 0xc0f3},
        {VMCS_GUEST_LDTR_ACCESS_RIGHTS, 0x82, 0x82},
        {VMCS_GUEST_LDTR_LIMIT, 0x7f, 0x17f},
        {VMCS_GUEST_LDTR_BASE, 0x15000, 0x15800},
        {VMCS_GUEST_TR_BASE, 0x6000, 0x6100},
        {VMCS_GUEST_GDTR_BASE, 0x7000, 0x7800},
        {VMCS_GUEST_GDTR_LIMIT, 0xff, 0x1ff},
        {VMCS_GUEST_IDTR_LIMIT, 0xfff, 0x7ff},
        {VMCS_GUEST_SYSENTER_CS, 0x8, 0x30},
        {VMCS_GUEST_SYSENTER_ESP, 0x16000, 0x17000},
        {VMCS_GUEST_SYSENTER_EIP, 0x18000, 0x19000},
        {VMCS_GUEST_DR7, 0x400, 0x455},
        {VMCS_GUEST_IA32_PAT, 0x0007040600070406, 0x0007040600070405},
        {VMCS_GUEST_IA32_EFER, EFER_LME | EFER_LMA, EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE},
        {VMCS_GUEST_RFLAGS, RFLAGS_FIXED, RFLAGS_FIXED | RFLAGS_SF},
        {VMCS_GUEST_RSP, 0x9000, 0x8f00},
        {VMCS_CR0_GUEST_HOST_MASK, CR0_TS, 0},
        {VMCS_CR0_READ_SHADOW, CR0_TS, 0},
        {VMCS_CR4_READ_SHADOW, 0, CR4_PGE},
        {VMCS_CR4_GUEST_HOST_MASK, 0, CR4_PGE},
        {VMCS_EXCEPTION_BITMAP, 1u << VECTOR_UD, 0},
        {VMCS_HOST_SYSENTER_EIP, 0x1000, 0x2000},
        {VMCS_HOST_FS_BASE, 0x3000, 0x4000},
        {VMCS_HOST_IA32_PAT, 0x0007040600070406, 0x0007040600070400},
    };
    enum { COUNT = sizeof(differences) / sizeof(differences[0]) };
    L2_PROGRAM(l2, CPUID(1), NOP, VMCALL);
    l1_prepare(&l2);
    struct l2 other = l2;
    l1_prepare_vmcs(VMCS_B, &other);
    for (unsigned i = 0; i < COUNT; i++)
        l1_vmwrite(differences[i].encoding, differences[i].second);
    l1_vmptrld(VMCS_A);
    for (unsigned i = 0; i < COUNT; i++)
        l1_vmwrite(differences[i].encoding, differences[i].first);
    for (unsigned turn = 0; turn < 6; turn++) {
        l1_vmptrld(turn % 2 ? VMCS_B : VMCS_A);
        if (turn < 2)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_exit(EXIT_CPUID);
        for (unsigned i = 0; i < COUNT; i++)
            assert_int_equal(l1_vmread(differences[i].encoding),
                             turn % 2 ? differences[i].second : differences[i].first);
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
    BOTH(guest_state_is_saved_in_its_vmcs),
    BOTH(resume_needs_a_launch),
    BOTH(two_vmcss_take_turns),
    BOTH(two_vmcss_that_differ),
    BOTH_WITH(two_vmcss_that_differ, ", moving", .cpu_count = 2, .move_one_in = 2),
    BOTH_WITH(two_vmcss_that_differ, ", without VMCS shadowing", .without_vmcs_shadowing = true),
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
