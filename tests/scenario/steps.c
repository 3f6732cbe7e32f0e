// SPDX-License-Identifier: MIT
// One instruction for L0, while NMIs wait for their window and while L1 has its own monitor trap flag.
// Manual: Monitor Trap Flag; NMI-Window Exiting.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define HOLE    (L1_RAM_SIZE + 0x5000ull) // L1-physical: a write there is a step of L0's
#define IN_HOLE 0x30000
#define ONES    UINT64_MAX

static bool begin_step(void)
{
    nvmx_step_begin(world_vcpu());
    return true;
}

static uint64_t trap_count(bool of_l2)
{
    return world_vcpu()->exit_count[of_l2][EXIT_MONITOR_TRAP_FLAG];
}

// The instruction that the step is for is the one behind the next exit.
static void begin_step_in_l1(void)
{
    l0_call_between_exits(begin_step);
    l1_run(CPUID(0));
    assert_true(world_vcpu()->step);
}

static void a_step_is_one_instruction(void)
{
    begin_step_in_l1();
    l1_run(NOP);
    l1_run(NOP);
    assert_false(world_vcpu()->step);
    assert_int_equal(trap_count(false), 1);
    l1_run(CPUID(0));
    assert_int_equal(trap_count(false), 1);
    begin_step_in_l1();
    l1_run(CPUID(0)); // that L0 carries out
    l1_run(NOP);
    assert_false(world_vcpu()->step);
    assert_int_equal(trap_count(false), 1);
}

// L2 is not stepped for a step of L1's.
static void an_entry_ends_a_step_of_l1(void)
{
    L2_PROGRAM(l2, NOP, NOP, VMCALL);
    l1_prepare(&l2);
    begin_step_in_l1();
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_false(world_vcpu()->step);
    assert_int_equal(trap_count(true), 0);
    l1_run(NOP);
    assert_int_equal(trap_count(false), 0);
}

// The instruction that the step is for misses another page that L1 has to give.
static void an_exit_ends_a_step_of_l2(void)
{
    L2_PROGRAM(l2, WRITE(IN_HOLE + 0xffc, 0x1122334455667788), VMCALL);
    l1_prepare(&l2);
    l1_ept_map(l2.eptp, IN_HOLE, HOLE, 0x1000, 0x1000, 7);
    l1_ept_map(l2.eptp, IN_HOLE + 0x1000, L2_RAM + IN_HOLE + 0x1000, 0x1000, 0x1000, 1);
    l1_vmlaunch();
    expect_exit(EXIT_EPT_VIOLATION);
    assert_false(world_vcpu()->step);
    assert_false(world_vcpu()->composed);
    assert_int_equal(world_vcpu()->ept02.open_count, 0);
    l1_run(NOP);
    assert_int_equal(trap_count(false), 0);
}

// An NMI waits for the end of the one that is in service in L1.
static void a_step_while_an_nmi_waits_in_l1(void)
{
    uint64_t *pde = (uint64_t *)l1_memory(L1_PAGE_TABLES + 0x2000) + 8; // linear 16 MBytes
    *pde = L1_RAM_SIZE | 0x87;
    L2_PROGRAM(l2, NMI_ARRIVES, NOP, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    nvmx_pend_nmi(world_vcpu());
    l1_run(CPUID(0));
    assert_true(world_vcpu()->nmi_window);
    l1_run(WRITE(HOLE, 0x4141));
    l1_run(READ(GPR_RBX, HOLE));
    assert_true(l1_gpr(GPR_RBX) == ONES);
    assert_true(world_vcpu()->nmi_window);
    unsigned seen = l1_nmi_count();
    expect_exception(l1_execute(INT(0x30)), VECTOR_NMI);
    assert_int_equal(l1_nmi_count(), seen + 1);
    assert_false(world_vcpu()->composed);
}

// An NMI waits in an L2 that blocks NMIs; it writes to a hole, and L1 wants the end of that instruction, too.
static void step_window_and_trap_in_l2(bool l1_wants_it)
{
    L2_PROGRAM(l2, NOP, WRITE(IN_HOLE, 0x4141), READ(GPR_RBX, IN_HOLE), VMCALL);
    l1_prepare(&l2);
    l1_ept_map(l2.eptp, IN_HOLE, HOLE, 0x1000, 0x1000, 7);
    l1_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, INTERRUPTIBILITY_NMI);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code + 1);
    if (l1_wants_it)
        l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_MONITOR_TRAP_FLAG);
    unsigned seen = l1_nmi_count();
    l0_do(L0_DOES_NOTHING);
    l0_do(L0_DOES_NOTHING);
    l0_do(L0_PENDS_NMI);
    l1_vmlaunch();
    if (l1_wants_it) {
        expect_exit(EXIT_MONITOR_TRAP_FLAG);
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 9);
        assert_int_equal(trap_count(true), 1);
        l1_clear(VMCS_PRIMARY_CONTROLS, PRIMARY_MONITOR_TRAP_FLAG);
        l1_vmresume();
    }
    expect_exit(EXIT_VMCALL);
    assert_true(l1_gpr(GPR_RBX) == ONES);
    assert_int_equal(trap_count(true), 1);
    assert_true(world_vcpu()->nmi_pending == 1); // the blocking is L1's now
    expect_exception(l1_execute(INT(0x30)), VECTOR_NMI);
    assert_int_equal(l1_nmi_count(), seen + 1);
    assert_false(world_vcpu()->composed);
    assert_false(world_vcpu()->step);
}

static void a_step_while_an_nmi_waits_in_l2(void)
{
    step_window_and_trap_in_l2(false);
}

static void a_step_that_l1_traps_while_an_nmi_waits(void)
{
    step_window_and_trap_in_l2(true);
}

static const struct CMUnitTest tests[] = {
    NESTED(a_step_is_one_instruction, .keeps_caches = true),
    NESTED(an_entry_ends_a_step_of_l1, .keeps_caches = true),
    NESTED(an_exit_ends_a_step_of_l2, .keeps_caches = true),
    NESTED(a_step_while_an_nmi_waits_in_l1, .keeps_caches = true),
    NESTED(a_step_while_an_nmi_waits_in_l2, .keeps_caches = true),
    NESTED(a_step_that_l1_traps_while_an_nmi_waits, .keeps_caches = true),
};

int main(void)
{
    return cmocka_run_group_tests_name("steps", tests, NULL, NULL);
}
