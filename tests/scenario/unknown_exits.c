// SPDX-License-Identifier: MIT
// Exits that nobody asked for, of a processor that has more instructions than L0 knows, or than L1 is told
// of: in L1 and in L2 they are #UD, L1 never sees their reasons, and L0 goes on. Every basic reason from 0 to
// 127 is forced, in L1 and in L2, also those that L0 or L1 does handle: whatever comes of it, L0 does not
// stop.
#include "l1_vmx.h"
#include "world_internal.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define NUMBERS 128u

// Exits of instructions that the processor has and L1's has not, of which nothing L1 sets makes an exit; and
// numbers that no manual defines.
static const uint32_t undefined[] = {35, 38, 42, 65, 67, 68, 69, 70, 71,  72,  73,  76,  77,     78,
                                     79, 80, 81, 82, 83, 84, 85, 86, 100, 127, 128, 300, 0x7fff, 0xffff};
#define UNDEFINED_COUNT (sizeof(undefined) / sizeof(undefined[0]))

static const uint32_t events[] = {66, 74, 75};
#define EVENT_COUNT (sizeof(events) / sizeof(events[0]))

static void undefined_in_l1(void)
{
    for (unsigned i = 0; i < UNDEFINED_COUNT; i++)
        expect_exception(l1_execute(FUTURE(undefined[i])), VECTOR_UD);
    l1_run(NOP);
}

static void undefined_in_l2(void)
{
    L2_PROGRAM(l2, FUTURE(76), NOP, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_UD);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), HARDWARE(VECTOR_UD));
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
    assert_true(l1_vmread(VMCS_GUEST_RFLAGS) & RFLAGS_RF);
    l1_resume_at(l2.code + 4);
    expect_exit(EXIT_VMCALL);
}

// L2's own handler gets it when L1 does not want it.
static void undefined_in_l2_s_handler(void)
{
    L2_PROGRAM(l2, FUTURE(77), VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmlaunch();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_UD));
}

static void events_are_over(void)
{
    L2_PROGRAM(l2, FUTURE_EVENT(66), FUTURE_EVENT(74), FUTURE_EVENT(75), VMCALL);
    for (unsigned i = 0; i < EVENT_COUNT; i++)
        l1_run(FUTURE_EVENT(events[i]));
    l1_prepare(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

static void a_reason_is_logged_once(void)
{
    unsigned before = l0_log_count();
    for (unsigned i = 0; i < 10; i++) {
        expect_exception(l1_execute(FUTURE(76)), VECTOR_UD);
        expect_exception(l1_execute(FUTURE(77)), VECTOR_UD);
        expect_exception(l1_execute(FUTURE(1000 + i)), VECTOR_UD); // all these together
    }
    assert_int_equal(l0_log_count() - before, 3);
    assert_int_equal(world_vcpu()->contained_count, 30);
}

// Bits that say how it came to the exit: a busy shadow stack, a bus lock, enclave mode, a pending MTF exit,
// VMX root operation.
static void other_bits_of_the_reason(void)
{
    L2_PROGRAM(l2, FUTURE(EXIT_CPUID | 1u << 27), FUTURE(EXIT_GETSEC | 0x3e000000), FUTURE(76 | 1u << 26),
               VMCALL);
    static const uint32_t bits[] = {1u << 25, 1u << 26, 1u << 27, 1u << 28, 1u << 29, 0x7fff0000};
    for (unsigned i = 0; i < sizeof(bits) / sizeof(bits[0]); i++) {
        l1_run(FUTURE(EXIT_CPUID | bits[i]));
        expect_exception(l1_execute(FUTURE(EXIT_VMPTRST | bits[i])), VECTOR_UD); // not in VMX operation
    }
    l1_prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_UD);
    l1_vmlaunch();
    assert_int_equal(l1_vmread(VMCS_EXIT_REASON), EXIT_CPUID);
    l1_resume_behind();
    assert_int_equal(l1_vmread(VMCS_EXIT_REASON), EXIT_GETSEC);
    l1_resume_behind();
    assert_int_equal(l1_vmread(VMCS_EXIT_REASON), EXIT_EXCEPTION_OR_NMI);
}

// MOV to CR3, from CR3, to CR8, from CR0 and to a register that there is not: vmcs01 asks for none of these
// exits.
static void control_registers_that_l0_does_not_own(void)
{
    static const uint64_t access[] = {0x003, 0x013, 0x008, 0x010, 0x00f};
    for (unsigned i = 0; i < sizeof(access) / sizeof(access[0]); i++)
        expect_exception(l1_execute(FUTURE_WITH(EXIT_CONTROL_REGISTER_ACCESS, access[i])), VECTOR_UD);
}

// Exit 0 with an interruption information that is not valid.
static void an_exception_that_is_none(void)
{
    L2_PROGRAM(l2, FUTURE_EVENT(EXIT_EXCEPTION_OR_NMI), VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 0xffffffff);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

// --- every number

// An L0 that could not go on would have ended the test.
static void force_in_l1(uint32_t number, bool event, bool vmx)
{
    if (vmx) {
        L2_PROGRAM(l2, VMCALL);
        l1_prepare(&l2);
    }
    if (number == EXIT_STARTUP_IPI) // L1 starts anew, where the test has no program
        return;
    world_note("basic reason %u in L1", number);
    struct op op = event ? FUTURE_EVENT(number) : FUTURE(number);
    struct outcome outcome = l1_execute(op);
    if (outcome.how == COMPLETED || outcome.how == EXCEPTION)
        l1_run(NOP);
}

static void force_in_l2(uint32_t number, bool event)
{
    struct op ops[] = {event ? FUTURE_EVENT(number) : FUTURE(number), NOP, VMCALL};
    struct l2 l2 = {.op = ops, .count = 3};
    l2_load(&l2);
    l1_prepare(&l2);
    world_note("basic reason %u in L2", number);
    struct outcome outcome = try_vmlaunch();
    if (outcome.how == EXITED)
        l1_vmread(VMCS_EXIT_REASON);
}

static void in_a_world_of_its_own(uint32_t number, bool event, bool vmx, bool l2)
{
    struct world_config config = world->config;
    world_abandon();
    world_begin(&config);
    if (l2)
        force_in_l2(number, event);
    else
        force_in_l1(number, event, vmx);
}

static void every_number_in_l1(void)
{
    for (uint32_t number = 0; number < NUMBERS; number++)
        for (unsigned event = 0; event < 2; event++)
            for (unsigned vmx = 0; vmx < 2; vmx++)
                in_a_world_of_its_own(number, event, vmx, false);
}

static void every_number_in_l2(void)
{
    for (uint32_t number = 0; number < NUMBERS; number++)
        for (unsigned event = 0; event < 2; event++)
            in_a_world_of_its_own(number, event, true, true);
}

static const struct CMUnitTest tests[] = {
    NESTED(undefined_in_l1, .l0_contains_exits = true),
    NESTED(undefined_in_l2),
    NESTED(undefined_in_l2_s_handler),
    NESTED(events_are_over, .l0_contains_exits = true),
    NESTED(a_reason_is_logged_once, .l0_contains_exits = true),
    NESTED(other_bits_of_the_reason, .l0_contains_exits = true),
    NESTED(control_registers_that_l0_does_not_own),
    NESTED(an_exception_that_is_none),
    NESTED(every_number_in_l1, .l0_contains_exits = true),
    NESTED(every_number_in_l2, .l0_contains_exits = true),
};

int main(void)
{
    return cmocka_run_group_tests_name("unknown_exits", tests, NULL, NULL);
}
