// SPDX-License-Identifier: MIT
// Exits that depend on more than a control: PAUSE in loops, XSAVES and XRSTORS of states that L1 asks for.
// Manual: Changes to Instruction Behavior in VMX Non-Root Operation; Instructions That Cause VM Exits
// Conditionally.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define MSR_XSS         0xda0
#define XSAVES(states)  OP(.kind = OP_XSAVES, .b = (states), AT(0x30040))
#define XRSTORS(states) OP(.kind = OP_XRSTORS, .b = (states), AT(0x30080))
#define PROCESSOR_TRACE 0x100 // the state component

// --- PAUSE-loop exiting

static void prepare_pauses(struct l2 *l2, uint32_t gap, uint32_t window)
{
    l1_prepare(l2);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_PAUSE_LOOP_EXITING);
    l1_vmwrite(VMCS_PLE_GAP, gap);
    l1_vmwrite(VMCS_PLE_WINDOW, window);
}

static void a_long_loop_exits(void)
{
    L2_PROGRAM(l2, PAUSE, TIME_PASSES(40), PAUSE, TIME_PASSES(40), PAUSE, TIME_PASSES(40), PAUSE, VMCALL);
    prepare_pauses(&l2, 50, 100);
    l1_vmlaunch();
    expect_exit_length(EXIT_PAUSE, 2);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 3 * 2 + 3 * 1); // the fourth: 120 after the first
}

static void pauses_apart_are_no_loop(void)
{
    L2_PROGRAM(l2, PAUSE, TIME_PASSES(60), PAUSE, TIME_PASSES(60), PAUSE, TIME_PASSES(60), PAUSE, VMCALL);
    prepare_pauses(&l2, 50, 100);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

static void user_code_may_pause(void)
{
    L2_PROGRAM(l2, SET_CPL(3), PAUSE, TIME_PASSES(40), PAUSE, TIME_PASSES(40), PAUSE, TIME_PASSES(40), PAUSE,
               VMCALL);
    prepare_pauses(&l2, 50, 100);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

// A loop begins anew with a VM entry.
static void an_entry_begins_a_new_loop(void)
{
    L2_PROGRAM(l2, PAUSE, TIME_PASSES(40), PAUSE, TIME_PASSES(40), CPUID(0), PAUSE, TIME_PASSES(40), PAUSE,
               VMCALL);
    prepare_pauses(&l2, 1000, 100);
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

// --- XSAVES, XRSTORS

static void prepare_states(struct l2 *l2, uint64_t bitmap)
{
    l1_prepare(l2);
    l1_wrmsr(MSR_XSS, PROCESSOR_TRACE);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_XSAVES);
    l1_vmwrite(VMCS_XSS_EXITING_BITMAP, bitmap);
    l1_vmwrite(VMCS_GUEST_CR4, CR4_PAE | CR4_VMXE | CR4_OSXSAVE);
}

static void expect_state_exit(uint32_t reason, uint64_t displacement)
{
    expect_exit_length(reason, 4 + 5);
    assert_int_equal(l1_vmread(VMCS_EXIT_QUALIFICATION), displacement);
    // 64-bit addresses, DS, neither index nor base
    assert_int_equal(l1_vmread_masked(VMCS_VM_EXIT_INSTRUCTION_INFO, 0x8438380), 0x8418100);
    l1_skip_instruction();
    l1_vmresume();
}

static void states_that_l1_wants_exit(void)
{
    L2_PROGRAM(l2, XSAVES(PROCESSOR_TRACE | 7), XRSTORS(PROCESSOR_TRACE), XSAVES(7), VMCALL);
    prepare_states(&l2, PROCESSOR_TRACE);
    l1_vmlaunch();
    expect_state_exit(EXIT_XSAVES, 0x30040);
    expect_state_exit(EXIT_XRSTORS, 0x30080);
    expect_exit(EXIT_VMCALL);
}

static void states_that_l1_does_not_want_do_not(void)
{
    L2_PROGRAM(l2, XSAVES(PROCESSOR_TRACE | 7), XRSTORS(PROCESSOR_TRACE | 0x800), VMCALL);
    prepare_states(&l2, 0x800); // a state that IA32_XSS does not have
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

static void without_the_control_there_is_no_xsaves(void)
{
    L2_PROGRAM(l2, XSAVES(7), VMCALL);
    prepare_states(&l2, PROCESSOR_TRACE);
    l1_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_XSAVES);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_UD);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000306);
}

static void reserved_states_are_not_enabled(void)
{
    expect_exception_with_code(l1_execute(WRMSR(MSR_XSS, 1)), VECTOR_GP, 0);
}

// --- I/O permission bit map

// #GP comes before the exit; ports that the TSS opens exit as they do at privilege level 0.
static void the_tss_opens_ports_to_user_code(void)
{
    L2_PROGRAM(l2, SET_CPL(3), OUT(0x60, 1), OUT(0x61, 1), OUT_SIZE(0x60, 1, 2), OUT(0x168, 1), VMCALL);
    l1_prepare(&l2);
    static const uint16_t at = 0x68;
    uint8_t *tss = l2_memory(0x6000);
    memcpy(tss + 0x66, &at, 2);
    memset(tss + at, 0xff, 0x40);
    tss[at + 0x60 / 8] = 0xfe; // port 60 only
    tss[at + 0x168 / 8] = 0;   // and 168..., of which the limit cuts off the byte behind
    l1_vmwrite(VMCS_GUEST_TR_LIMIT, (unsigned)at + 0x168 / 8);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_UNCONDITIONAL_IO_EXITING);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    l1_vmlaunch();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, 0x60ull << 16);
    for (unsigned i = 0; i < 3; i++) {
        l1_vmwrite(VMCS_GUEST_RIP, l1_vmread(VMCS_GUEST_RIP) + 1);
        l1_vmresume();
        expect_exit(EXIT_EXCEPTION_OR_NMI);
        assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000b0d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(a_long_loop_exits),
        BOTH(pauses_apart_are_no_loop),
        BOTH(user_code_may_pause),
        BOTH(an_entry_begins_a_new_loop),
        BOTH(states_that_l1_wants_exit),
        BOTH(states_that_l1_does_not_want_do_not),
        BOTH(without_the_control_there_is_no_xsaves),
        BOTH(reserved_states_are_not_enabled),
        BOTH(the_tss_opens_ports_to_user_code),
    };
    return cmocka_run_group_tests_name("conditional exits", tests, NULL, NULL);
}
