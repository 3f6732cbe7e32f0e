// SPDX-License-Identifier: MIT
// What reaches a virtual processor from outside: NMIs, INIT, SIPI, and L0's own interrupts.
// Manual: Other Causes of VM Exits; Processor State After Reset/INIT; Restrictions on VMX Operation.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void init_exits_to_l1(void)
{
    L2_PROGRAM(l2, INIT_ARRIVES, NOP, VMCALL);
    l1_prepare(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_INIT_SIGNAL);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 1);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void init_is_blocked_in_root_operation(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_run(INIT_ARRIVES);
    l1_run(NOP);
    assert_int_equal(l1_vmptrst(), VMCS_A);
}

// Latched in VMX root operation, it exits from the next L2, behind what the entry injects; once.
static void a_latched_init_exits_from_l2(void)
{
    L2_PROGRAM(l2, NOP, VMCALL);
    l1_prepare(&l2);
    l1_vmlaunch(); // nested, ept02 is warm then: L0 has no other exit to see it at
    expect_exit(EXIT_VMCALL);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_run(INIT_ARRIVES);
    l1_run(NOP);
    l1_vmresume();
    expect_exit(EXIT_INIT_SIGNAL);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    l1_run(INIT_ARRIVES);
    l1_run(NOP);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO,
               INTERRUPTION_VALID | EVENT_HARDWARE_EXCEPTION << 8 | VECTOR_UD);
    l1_vmresume();
    expect_exit(EXIT_INIT_SIGNAL);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), 0xe000 + VECTOR_UD);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
}

static void a_latched_init_waits_for_vmxoff(void)
{
    l1_enter_vmx_operation();
    l1_run(INIT_ARRIVES);
    l1_run(NOP);
    assert_int_equal(l1_execute(VMXOFF).how, IDLE); // waits for a SIPI
}

// The application processor's way into life: INIT, then SIPI with the page of its first instruction.
static void init_and_sipi_restart_l1(void)
{
    static const struct op start[] = {SET(GPR_RBX, 0x5191), MOV_FROM_CR(GPR_RSI, 0)};
    struct program program = {.name = "after SIPI", .base = 0x9a000, .level = 1, .op = start, .count = 2};
    machine_add_program(world_machine(), &program);
    struct outcome outcome = l1_execute(INIT_ARRIVES);
    assert_int_equal(outcome.how, IDLE);
    cpu_startup_ipi(l1_cpu(), 0x9a);
    outcome = l1_continue();
    assert_int_equal(outcome.how, L2_AT_END);
    assert_int_equal(l1_gpr(GPR_RBX), 0x5191);
    assert_int_equal(l1_gpr(GPR_RSI), CR0_ET);
    assert_int_equal(l1_gpr(GPR_RAX), 0);
}

static void a_sipi_without_init_is_lost(void)
{
    l1_run(SIPI_ARRIVES(0x9a));
    l1_run(NOP);
}

static void l2_waits_for_a_sipi(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_WAIT_FOR_SIPI);
    if (!(l1_rdmsr(MSR_IA32_VMX_MISC) & MISC_ACTIVITY_WAIT_FOR_SIPI)) {
        l1_vmlaunch();
        expect_entry_failure(33, 0);
        return;
    }
    struct outcome outcome = try_vmlaunch();
    assert_int_equal(outcome.how, IDLE);
    cpu_startup_ipi(l1_cpu(), 0x42);
    outcome = l1_continue();
    assert_int_equal(outcome.how, EXITED);
    expect_exit_qualification(EXIT_STARTUP_IPI, 0x42);
    assert_int_equal(l1_vmread(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_WAIT_FOR_SIPI);
}

static void an_nmi_wakes_a_halted_l2(void)
{
    L2_PROGRAM(l2, HLT, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
    struct outcome outcome = try_vmlaunch();
    assert_int_equal(outcome.how, IDLE);
    cpu_nmi(l1_cpu());
    outcome = l1_continue();
    assert_int_equal(outcome.how, EXITED);
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000202);
    assert_int_equal(l1_vmread(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_HLT);
}

// Until L1 returns from its NMI handler (IRET), a second NMI waits.
static void nmis_of_l1_do_not_nest(void)
{
    l1_enter_vmx_operation();
    expect_exception(l1_execute(NMI_ARRIVES), VECTOR_NMI);
    expect_exception(l1_execute(NMI_ARRIVES), VECTOR_NMI);
}

static void an_nmi_while_l1_shields_it_waits(void)
{
    l1_enter_vmx_operation();
    l1_run(MOV_SS);
    cpu_nmi(l1_cpu());
    expect_exception(l1_execute(NOP), VECTOR_NMI); // shielded: the NMI comes behind it
}

// A reset of the virtual processor from outside finds it anywhere, L2 included, and leaves nothing behind.
static void a_reset_while_l2_runs(void)
{
    static const struct op start[] = {MOV_FROM_CR(GPR_RBX, 4), SET(GPR_RSI, 0x5191)};
    struct program program = {.name = "after SIPI", .base = 0x9a000, .level = 1, .op = start, .count = 2};
    machine_add_program(world_machine(), &program);
    L2_PROGRAM(l2, HLT, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0);
    struct outcome outcome = try_vmlaunch();
    assert_int_equal(outcome.how, IDLE);
    const struct vmcs_count *vmcs02 = machine_count(world_machine(), world_vmcs02());
    uint32_t clears = vmcs02->vmclear;
    l0_reset_l1();
    l0_move_to(0); // L0's interrupt gets it out of L2
    outcome = l1_continue();
    assert_int_equal(outcome.how, IDLE); // waiting for a SIPI
    assert_int_equal(vmcs02->vmclear, clears + 1);
    assert_false(world_vcpu()->in_l2);
    cpu_startup_ipi(l1_cpu(), 0x9a);
    outcome = l1_continue();
    assert_int_equal(outcome.how, L2_AT_END);
    assert_int_equal(l1_gpr(GPR_RSI), 0x5191);
    assert_int_equal(l1_gpr(GPR_RBX), 0); // CR4.VMXE reads as 0
}

// --- L0's own interrupt: it preempts whoever runs, and neither L1 nor L2 notices

static void l0_preempts_l2_that_halts(void)
{
    L2_PROGRAM(l2, HLT, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
    struct outcome outcome = try_vmlaunch();
    assert_int_equal(outcome.how, IDLE);
    for (unsigned i = 1; i < 5; i++) {
        l0_move_to(i % 2);
        outcome = l1_continue();
        assert_int_equal(outcome.how, IDLE); // halted again, elsewhere
        assert_int_equal(cpu_index(l1_cpu()), i % 2);
    }
    cpu_nmi(l1_cpu());
    outcome = l1_continue();
    assert_int_equal(outcome.how, EXITED);
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 1);
    assert_int_equal(l1_vmread(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_HLT);
}

static void l0_preempts_l1(void)
{
    L2_PROGRAM(l2, VMCALL, VMCALL);
    l1_prepare(&l2);
    l0_move_to(1);
    l1_run(NOP);
    assert_int_equal(cpu_index(l1_cpu()), 1);
    l1_vmlaunch();
    l0_move_to(0);
    l1_run(NOP);
    assert_int_equal(cpu_index(l1_cpu()), 0);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static const struct CMUnitTest tests[] = {
    BOTH(init_exits_to_l1),
    BOTH(init_is_blocked_in_root_operation),
    BOTH(a_latched_init_exits_from_l2),
    BOTH_WITH(a_latched_init_exits_from_l2, ", moving", .cpu_count = 2, .move_one_in = 2),
    BOTH(a_latched_init_waits_for_vmxoff),
    BOTH(init_and_sipi_restart_l1),
    BOTH(a_sipi_without_init_is_lost),
    BOTH(l2_waits_for_a_sipi),
    BOTH(an_nmi_wakes_a_halted_l2),
    BOTH(nmis_of_l1_do_not_nest),
    BOTH(an_nmi_while_l1_shields_it_waits),
    NESTED(a_reset_while_l2_runs, .cpu_count = 1, .floating = true),
    NESTED(l0_preempts_l2_that_halts, .cpu_count = 2, .floating = true),
    NESTED(l0_preempts_l1, .cpu_count = 2, .floating = true),
};

int main(void)
{
    return cmocka_run_group_tests_name("signals", tests, NULL, NULL);
}
