// SPDX-License-Identifier: MIT
// Instructions of CPL 0 elsewhere: #GP comes before the VM exit, also on a processor that exits first.
// Manual: Relative Priority of Faults and VM Exits; Instructions That Cause VM Exits.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const struct op privileged[] = {
    XSETBV(1),
    INVD,
    WBINVD,
    HLT,
    RDMSR(MSR_IA32_EFER),
    WRMSR(MSR_IA32_EFER, 0),
    CLTS,
    INVLPG(0),
    MOV_TO_CR(0, 0),
    MOV_TO_CR(4, 0),
    LMSW(0),
    MOV_FROM_DR(GPR_RAX, 7),
};

static void in_l1(void)
{
    l1_run(MOV_TO_CR(4, CR4_PAE | CR4_OSXSAVE));
    for (unsigned i = 0; i < sizeof(privileged) / sizeof(privileged[0]); i++) {
        l1_run(SET_CPL(3));
        expect_exception_with_code(l1_execute(privileged[i]), VECTOR_GP, 0);
        l1_run(SET_CPL(0));
    }
    l1_enter_vmx_operation();
    l1_run(MOV_TO_CR(4, CR4_PAE | CR4_OSXSAVE | CR4_VMXE));
    l1_run(SET_CPL(3));
    expect_exception_with_code(l1_execute(XSETBV(1)), VECTOR_GP, 0);
    l1_run(SET_CPL(0));
}

static void prepare_l2(struct l2 *l2)
{
    l1_prepare(l2);
    l1_vmwrite(VMCS_GUEST_CR4, l1_vmread(VMCS_GUEST_CR4) | CR4_OSXSAVE);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
}

static void in_l2_it_is_l2s(void)
{
    L2_PROGRAM(l2, SET_CPL(3), XSETBV(1), VMCALL);
    prepare_l2(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_GP));
}

static void in_l2_it_is_an_exception_that_l1_wants(void)
{
    L2_PROGRAM(l2, SET_CPL(3), XSETBV(1), VMCALL);
    prepare_l2(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), HARDWARE(VECTOR_GP) | WITH_CODE);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + op_length(&l2.op[0]));
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    l1_vmwrite(VMCS_GUEST_SS_ACCESS_RIGHTS, 0xc093);
    l1_vmwrite(VMCS_GUEST_SS_SELECTOR, 0x10);
    l1_vmwrite(VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa09b);
    l1_vmwrite(VMCS_GUEST_CS_SELECTOR, 8);
    l1_vmresume(); // at CPL 0 it exits
    expect_exit(EXIT_XSETBV);
}

// MOV DR is the exception to the rule.
static void mov_dr_exits_first(void)
{
    L2_PROGRAM(l2, SET_CPL(3), MOV_FROM_DR(GPR_RSI, 6), VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_MOV_DR_EXITING);
    l1_vmlaunch();
    expect_exit(EXIT_MOV_DR);
}

#define DEFECTIVE(function) BOTH(function), BOTH_WITH(function, ", exits first", .exits_before_cpl = true)
static const struct CMUnitTest tests[] = {
    DEFECTIVE(in_l1),
    DEFECTIVE(in_l2_it_is_l2s),
    DEFECTIVE(in_l2_it_is_an_exception_that_l1_wants),
    BOTH(mov_dr_exits_first),
};

int main(void)
{
    return cmocka_run_group_tests_name("privilege", tests, NULL, NULL);
}
