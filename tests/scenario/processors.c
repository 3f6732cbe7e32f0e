// SPDX-License-Identifier: MIT
// Which VMCSs of L0's are active on which logical processor: they stay where the vcpu was put, are cleared
// there when it is loaded elsewhere, and all of them when the processor is taken away. (The model stops at
// once when a VMCS is active on two processors, when a VMX instruction is executed on the wrong one, and at a
// VMXOFF that would lose cached data.)
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const struct vmcs_count *counts(uint64_t vmcs)
{
    return machine_count(world_machine(), vmcs);
}

static uint64_t shadow_vmcs(void)
{
    return world_vcpu()->config.pages.shadow_vmcs.value;
}

// To come back to the same processor costs a VMPTRLD; nothing is cleared or written again.
static void put_leaves_the_vmcss_active(void)
{
    L2_PROGRAM(l2, CPUID(1));
    l1_prepare(&l2);
    l1_vmlaunch();
    l1_vmresume();
    machine_reset_counts(world_machine());
    l0_do(L0_PUTS_AND_LOADS);
    l1_run(CPUID(0));
    l1_vmresume();
    expect_exit(EXIT_CPUID);
    l0_do(L0_PUTS_AND_LOADS); // with the entry to L2 pending
    l1_vmresume();
    expect_exit(EXIT_CPUID);
    assert_int_equal(counts(world_vmcs01())->vmclear, 0);
    assert_int_equal(counts(world_vmcs02())->vmclear, 0);
    assert_int_equal(counts(world_vmcs01())->vmlaunch, 0);
    assert_int_equal(counts(world_vmcs02())->vmlaunch, 0);
    assert_int_equal(counts(world_vmcs02())->vmresume, 2);
    assert_int_equal(counts(world_vmcs01())->vmwrite[F_HOST_TR_BASE], 0);
    assert_int_equal(counts(world_vmcs02())->vmwrite[F_HOST_TR_BASE], 0);
    assert_int_equal(l0_remote_clear_count(), 0);
}

// One call on the old processor, one VMCLEAR of each VMCS that was active there, and not of others.
static void a_move_clears_what_is_active_on_the_old_processor(void)
{
    L2_PROGRAM(l2, CPUID(1));
    l1_enter_vmx_operation();
    l0_move_to(1); // before vmcs02 was ever active, and without a VMCS of L1's
    l1_run(CPUID(0));
    assert_int_equal(l0_remote_clear_count(), 1);
    assert_int_equal(counts(world_vmcs02())->vmclear, 0);
    l1_prepare_vmcs(VMCS_A, &l2);
    l1_vmlaunch();
    machine_reset_counts(world_machine());
    l0_move_to(0);
    l1_run(CPUID(0));
    assert_int_equal(l0_remote_clear_count(), 2);
    // In the old processor; and vmcs01, which is used at once, before its VMPTRLD in the new one.
    assert_int_equal(counts(world_vmcs01())->vmclear, 2);
    assert_int_equal(counts(world_vmcs02())->vmclear, 1);
    assert_int_equal(counts(shadow_vmcs())->vmclear, 1);
    l1_vmresume();
    expect_exit(EXIT_CPUID);
    l0_move_to(0); // it is there
    l1_run(CPUID(0));
    assert_int_equal(l0_remote_clear_count(), 2);
}

// What left the old processor's cache before the move needs no call on it: the processor may be gone.
static void a_processor_that_is_taken_away_is_not_asked_again(void)
{
    L2_PROGRAM(l2, CPUID(1), CPUID(2));
    l1_prepare(&l2);
    l1_vmlaunch();
    l0_do(L0_LOSES_PROCESSOR);
    l1_run(CPUID(0));
    assert_int_equal(l0_move_count(), 1);
    assert_int_equal(l0_remote_clear_count(), 0);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_CPUID);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 2);
    l0_do(L0_LOSES_PROCESSOR); // with the entry to L2 pending
    l1_vmresume();
    expect_exit(EXIT_CPUID);
    assert_int_equal(l0_remote_clear_count(), 0);
    l0_move_to(1);
    l1_run(CPUID(0));
    assert_int_equal(l0_remote_clear_count(), 1);
    l1_vmresume();
    expect_exit(EXIT_CPUID);
}

// L1 and L2 do not notice; L0 launches again, and writes no constant field twice.
static void every_vmcs_is_cleared_when_l0_stops(void)
{
    static const enum l0_action actions[] = {L0_CLEARS_ALL, L0_RESTARTS_VMX, L0_RETIRES,
                                             L0_RETIRES_ELSEWHERE};
    L2_PROGRAM(l2, CPUID(1), CPUID(2));
    l1_prepare(&l2);
    l1_vmlaunch();
    for (unsigned i = 0; i < 4; i++) {
        machine_reset_counts(world_machine());
        l0_do(actions[i]);
        l1_run(CPUID(0));
        l1_vmresume();
        expect_exit(EXIT_CPUID);
        assert_int_equal(counts(world_vmcs01())->vmlaunch, 1);
        assert_int_equal(counts(world_vmcs02())->vmlaunch, 1);
        l0_do(actions[i]); // with the entry pending
        l1_vmresume();
        expect_exit(EXIT_CPUID);
        assert_int_equal(counts(world_vmcs02())->vmlaunch, 2);
        assert_int_equal(counts(world_vmcs02())->vmwrite[F_HOST_CR0], 0);
        assert_int_equal(counts(world_vmcs02())->vmwrite[F_HOST_TR_BASE], 0);
        expect_fail_valid(try_vmlaunch(), 4);
    }
    assert_int_equal(l0_remote_clear_count(), 2); // L0_RETIRES_ELSEWHERE
}

// L0 has read an exit that is its own to handle, and the vcpu goes elsewhere before it is handled.
static void an_exit_in_the_middle_of_a_move_is_not_lost(void)
{
    static const enum l0_action actions[] = {L0_PUTS_AND_LOADS, L0_CLEARS_ALL, L0_RESTARTS_VMX,
                                             L0_LOSES_PROCESSOR, L0_RETIRES};
    L2_PROGRAM(l2, SET(GPR_RAX, 0), IN(0x510), VMCALL);
    l1_prepare(&l2);
    l1_vmlaunch();
    for (unsigned i = 0; i < 12; i++) {
        assert_int_equal(l1_gpr(GPR_RAX) & 0xff, 0x42);
        expect_exit(EXIT_VMCALL);
        l1_run(SET(GPR_RAX, 0));
        if (i >= 10)
            l0_move_in_exit_to(i % 2);
        else
            l0_do_in_exit(actions[i / 2]);
        l1_run(IN(0x510));
        assert_int_equal(l1_gpr(GPR_RAX) & 0xff, 0x42);
        if (i >= 10)
            l0_move_in_exit_to(1 - i % 2);
        else
            l0_do_in_exit(actions[i / 2]);
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        l1_vmresume(); // L2's IN is L0's to handle, too
    }
}

// ... also when that comes in the middle of an insertion: `newcomer` is not on the list yet, and what is
// behind it says that it is.
static void an_interrupted_insertion_leaves_nothing_active(void)
{
    static struct vmcs newcomer;
    L2_PROGRAM(l2, CPUID(1));
    l1_prepare(&l2);
    l1_vmlaunch();
    struct nvmx_cpu *cpu = world_vcpu()->last;
    newcomer.active_next = cpu->active;
    cpu->active->active_link = &newcomer.active_next;
    l0_do(L0_CLEARS_ALL);
    l1_run(CPUID(0));
    l1_vmresume();
    expect_exit(EXIT_CPUID);
}

static const struct CMUnitTest tests[] = {
    NESTED(put_leaves_the_vmcss_active, .cpu_count = 2),
    NESTED(a_move_clears_what_is_active_on_the_old_processor, .cpu_count = 2),
    NESTED(a_processor_that_is_taken_away_is_not_asked_again, .cpu_count = 2),
    NESTED(every_vmcs_is_cleared_when_l0_stops, .cpu_count = 2),
    NESTED(an_interrupted_insertion_leaves_nothing_active, .cpu_count = 2),
    NESTED(an_exit_in_the_middle_of_a_move_is_not_lost, .cpu_count = 2),
};

int main(void)
{
    return cmocka_run_group_tests_name("processors", tests, NULL, NULL);
}
