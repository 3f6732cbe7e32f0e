// SPDX-License-Identifier: MIT
// NMIs that reach L0 while its own code executes, at every moment between two entries: none is lost, none is
// delivered twice, and as many are held as a processor holds. Manual: Handling Multiple NMIs; NMI-Window
// Exiting; Vectored-Event Injection.
#include "l1_vmx.h"
#include <model.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

// One in service, one held.
static unsigned that_are_held(unsigned count)
{
    return count > 2 ? 2 : count;
}

// In L1, `count` NMIs come at once, at an instruction that is L0's to carry out. Bare: one is delivered, and
// while its handler runs come the others, of which the processor holds one.
static void nmis_come_to_l1(unsigned count)
{
    if (world_is_nested()) {
        cpu_nmis_in_root(l1_cpu(), count, 3);
        expect_exception(l1_execute(CPUID(0)), VECTOR_NMI);
        assert_int_equal(cpu_nmis_in_root_left(l1_cpu()), 0);
        return;
    }
    for (unsigned i = 0; i < that_are_held(count); i++) {
        cpu_nmi(l1_cpu());
        expect_exception(l1_execute(i == 0 ? CPUID(0) : NOP), VECTOR_NMI);
    }
}

static void several_nmis_in_l1(void)
{
    unsigned seen = l1_nmi_count();
    for (unsigned count = 1; count <= 4; count++) {
        nmis_come_to_l1(count);
        seen += that_are_held(count);
        assert_int_equal(l1_nmi_count(), seen);
        l1_run(CPUID(0));
        l1_run(NOP);
        assert_int_equal(l1_nmi_count(), seen);
    }
}

// ... as an L0 does that has NMIs as exits: no entry is decided on without them.
static void two_nmis_that_l0_pends(void)
{
    for (unsigned i = 0; i < 3; i++)
        nvmx_pend_nmi(world_vcpu());
    expect_exception(l1_execute(CPUID(0)), VECTOR_NMI);
    assert_int_equal(l1_nmi_count(), 2); // the second one right behind the handler's IRET
    l1_run(CPUID(0));
    assert_int_equal(l1_nmi_count(), 2);
}

// Behind an exit by an NMI, which blocks NMIs until an IRET of L1's.
static void nmis_while_one_is_in_service(void)
{
    L2_PROGRAM(l2, NMI_ARRIVES, NOP, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
    for (unsigned count = 1; count <= 3; count++) {
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        if (count == 1)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_exit(EXIT_EXCEPTION_OR_NMI);
        for (unsigned i = 0; i < count && !world_is_nested(); i++)
            cpu_nmi(l1_cpu());
        if (world_is_nested())
            cpu_nmis_in_root(l1_cpu(), count, 3);
        unsigned seen = l1_nmi_count();
        l1_run(CPUID(0));
        l1_run(NOP);
        assert_int_equal(l1_nmi_count(), seen);
        expect_exception(l1_execute(INT(0x30)), VECTOR_NMI);
        assert_int_equal(l1_nmi_count(), seen + 1);
        l1_run(CPUID(0));
        assert_int_equal(l1_nmi_count(), seen + 1);
    }
}

// --- at every moment

static void one_moment_in_l1(unsigned count, unsigned after)
{
    unsigned seen = l1_nmi_count();
    cpu_nmis_in_root(l1_cpu(), count, after);
    l1_execute(CPUID(0));
    for (unsigned i = 0; i < 4; i++)
        l1_execute(CPUID(0)); // whatever has not come yet comes
    if (cpu_nmis_in_root_left(l1_cpu()) != 0)
        fail_msg("an NMI has not come: %u, %u", count, after);
    unsigned taken = l1_nmi_count() - seen;
    if (taken != that_are_held(count))
        fail_msg("of %u NMIs, the first at moment %u, L1 has taken %u", count, after, taken);
}

// L1's registers are what they were: an entry that is not made changes nothing.
static void every_moment_in_l1(void)
{
    l1_set_gpr(GPR_R15, 0x1234);
    for (unsigned after = 0; after < 14; after++)
        for (unsigned count = 1; count <= 3; count++)
            one_moment_in_l1(count, after);
    assert_int_equal(l1_gpr(GPR_R15), 0x1234);
}

// An event of L1's is injected once, whether the entry that was to do it is made or not.
static void an_event_is_injected_once(void)
{
    for (unsigned after = 0; after < 14; after++) {
        unsigned seen = l1_nmi_count();
        cpu_nmis_in_root(l1_cpu(), 1, after);
        struct outcome outcome = l1_execute(VMCALL); // #UD, by L0
        assert_int_equal(outcome.how, EXCEPTION);
        for (unsigned i = 0; i < 3; i++)
            l1_execute(CPUID(0));
        assert_int_equal(l1_nmi_count(), seen + 1);
    }
}

// VMRESUME, and the exit to L1; behind that an NMI may be L1's at once. false: there are NMIs that have not
// come: every moment has been.
static bool resume_with_nmis(unsigned count, unsigned after)
{
    cpu_nmis_in_root(l1_cpu(), count, after);
    struct outcome outcome = try_vmresume();
    if (outcome.how != EXITED)
        expect_exception(outcome, VECTOR_NMI);
    bool all = cpu_nmis_in_root_left(l1_cpu()) == 0;
    while (cpu_nmis_in_root_left(l1_cpu()) != 0)
        l1_execute(CPUID(0));
    return all;
}

struct tally {
    unsigned nmi_exits, other;
};

// Until L2 is at its end, with an IRET of L1's after every exit by an NMI.
static struct tally run_to_the_end(void)
{
    struct tally tally = {0};
    for (unsigned i = 0; i < 8; i++) {
        uint32_t reason = (uint32_t)l1_vmread(VMCS_EXIT_REASON);
        if (reason == EXIT_VMCALL)
            break;
        if (reason == EXIT_EXCEPTION_OR_NMI) {
            assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), NMI_EVENT);
            tally.nmi_exits++;
        } else {
            tally.other++;
        }
        l1_execute(INT(0x30));
        l1_vmresume();
    }
    l1_execute(INT(0x30));
    l1_execute(CPUID(0));
    return tally;
}

#define MOMENTS_OF_L2 220

static void every_moment_with(uint32_t pin)
{
    L2_PROGRAM(l2, IN(0x510), NOP, VMCALL); // the port is L0's
    l1_prepare(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING | pin);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    for (unsigned after = 0; after < MOMENTS_OF_L2; after++)
        for (unsigned count = 1; count <= 3; count++) {
            unsigned seen = l1_nmi_count();
            world_note("%u NMIs at moment %u", count, after);
            l1_vmwrite(VMCS_GUEST_RIP, l2.code);
            l1_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
            if (!resume_with_nmis(count, after)) {
                assert_true(after > 20);
                return;
            }
            struct tally tally = run_to_the_end();
            unsigned taken = tally.nmi_exits + l1_nmi_count() - seen;
            if (taken != that_are_held(count) || tally.other != 0)
                fail_msg("of %u NMIs, the first at moment %u, L1 has seen %u exits and %u NMIs", count, after,
                         tally.nmi_exits, l1_nmi_count() - seen);
        }
}

static void every_moment_in_l2_with_nmi_exiting(void)
{
    every_moment_with(0);
}

static void every_moment_in_l2_with_virtual_nmis(void)
{
    every_moment_with(PIN_VIRTUAL_NMIS);
}

// What L1 injects is injected once: it is on the stack of L2's handler, under the NMI or not.
static void l1s_injection_is_made_once(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    uint64_t rsp = l1_vmread(VMCS_GUEST_RSP);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    for (unsigned after = 0; after < 120; after++) {
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        l1_vmwrite(VMCS_GUEST_RSP, rsp);
        l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO,
                   INTERRUPTION_VALID | EVENT_HARDWARE_EXCEPTION << 8 | VECTOR_UD);
        unsigned seen = l1_nmi_count();
        bool all = resume_with_nmis(1, after);
        uint32_t reason = (uint32_t)l1_vmread(VMCS_EXIT_REASON);
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_UD));
        assert_int_equal(l1_vmread(VMCS_GUEST_RSP), rsp - 40);
        assert_true(reason == EXIT_EXCEPTION_OR_NMI || reason == EXIT_HLT);
        l1_execute(INT(0x30));
        l1_execute(CPUID(0));
        if (!all)
            return;
        assert_int_equal(l1_nmi_count() - seen + (reason == EXIT_EXCEPTION_OR_NMI), 1);
    }
}

// Without NMI exiting both are L2's: the second one behind the IRET of its handler.
static void two_nmis_of_l2s_own(void)
{
    L2_PROGRAM(l2, IN(0x510), NOP, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    uint64_t rsp = l1_vmread(VMCS_GUEST_RSP);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    cpu_nmis_in_root(l1_cpu(), 2, 0);
    l1_vmresume();
    expect_exit(EXIT_HLT); // L2's handler
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_NMI));
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPTIBILITY), INTERRUPTIBILITY_NMI);
    l1_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0); // as its IRET would
    l1_vmresume();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPTIBILITY), INTERRUPTIBILITY_NMI);
    assert_true(l1_vmread(VMCS_GUEST_RSP) < rsp - 40);
    l1_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static const struct CMUnitTest tests[] = {
    BOTH_APART(several_nmis_in_l1),
    BOTH(nmis_while_one_is_in_service),
    NESTED(two_nmis_that_l0_pends, .cpu_count = 1),
    NESTED(every_moment_in_l1, .cpu_count = 1),
    NESTED(an_event_is_injected_once, .cpu_count = 1),
    NESTED(every_moment_in_l2_with_nmi_exiting, .cpu_count = 1),
    NESTED(every_moment_in_l2_with_virtual_nmis, .cpu_count = 1),
    NESTED(l1s_injection_is_made_once, .cpu_count = 1),
    NESTED(two_nmis_of_l2s_own, .cpu_count = 1),
};

int main(void)
{
    return cmocka_run_group_tests_name("nmis", tests, NULL, NULL);
}
