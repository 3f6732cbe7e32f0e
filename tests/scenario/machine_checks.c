// SPDX-License-Identifier: MIT
// Machine checks that reach L0 while its own code executes, or that end a VM entry of L0's: L1 has them as
// the processor would give them, and L0 goes on. Manual: Machine-Check Exceptions; Machine-Check Events
// During VM Entry; Priority Among Concurrent Events.
#include "l1_vmx.h"
#include <model.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "world_internal.h"

#define MOMENTS 14

static void enable_in_l1(void)
{
    l1_run(MOV_TO_CR(4, l1_cpu()->r.cr4 | CR4_MCE));
}

static void prepare(struct l2 *l2, bool wanted)
{
    l1_prepare(l2);
    enable_in_l1();
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmwrite(VMCS_GUEST_CR4, l1_vmread(VMCS_GUEST_CR4) | CR4_MCE);
    l1_vmwrite(VMCS_HOST_CR4, l1_vmread(VMCS_HOST_CR4) | CR4_MCE);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, wanted ? 1u << VECTOR_MC : 0);
}

static void l1_has_it_at_every_moment(void)
{
    enable_in_l1();
    for (unsigned after = 0; after < MOMENTS; after++) {
        unsigned seen = 0;
        cpu_machine_check_in_root(l1_cpu(), after);
        for (unsigned i = 0; i < 4; i++) {
            struct outcome outcome = l1_execute(CPUID(0));
            seen += outcome.how == EXCEPTION && outcome.vector == VECTOR_MC;
        }
        assert_int_equal(seen, 1);
    }
}

// ... before an NMI that came first, which interrupts its handler.
static void a_machine_check_comes_before_an_nmi(void)
{
    enable_in_l1();
    nvmx_pend_nmi(world_vcpu());
    nvmx_pend_machine_check(world_vcpu());
    uint64_t rsp = l1_gpr(GPR_RSP);
    expect_exception(l1_execute(CPUID(0)), VECTOR_NMI); // at the first instruction of the other handler
    assert_int_equal(l1_gpr(GPR_RSP), rsp - 40);
    assert_int_equal(l1_nmi_count(), 1);
    l1_run(CPUID(0));
    assert_false(world_vcpu()->nmi_window);
}

static void l1s_processor_shuts_down_without_mce(void)
{
    nvmx_pend_machine_check(world_vcpu());
    assert_int_equal(l1_execute(CPUID(0)).how, IDLE);
    assert_int_equal(world_vcpu()->in_l2, false);
}

static void l2_exits_with_it(void)
{
    L2_PROGRAM(l2, IN(0x510), NOP, VMCALL);
    prepare(&l2, true);
    for (unsigned i = 0; i < 40; i++) {
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        cpu_machine_check_in_root(l1_cpu(), 3 * i);
        struct outcome outcome = i == 0 ? try_vmlaunch() : try_vmresume();
        if (outcome.how == EXCEPTION) { // behind L2's last exit
            expect_exception(outcome, VECTOR_MC);
            expect_exit(EXIT_VMCALL);
            continue;
        }
        if (l1_cpu()->machine_check_countdown > 0) { // too late
            expect_exception(l1_execute(CPUID(0)), VECTOR_MC);
            break;
        }
        expect_exit(EXIT_EXCEPTION_OR_NMI);
        assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), HARDWARE(VECTOR_MC));
        assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
    }
}

static void l2_takes_it_itself(void)
{
    L2_PROGRAM(l2, IN(0x510), NOP, VMCALL);
    prepare(&l2, false);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    cpu_machine_check_in_root(l1_cpu(), 0);
    l1_vmresume();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_MC));
}

// What L1 injects comes first, as behind the entry.
static void behind_what_l1_injects(void)
{
    L2_PROGRAM(l2, VMCALL);
    prepare(&l2, true);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, HARDWARE(VECTOR_UD));
    nvmx_pend_machine_check(world_vcpu());
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), HARDWARE(VECTOR_MC));
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_UD));
    expect_fail_valid(try_vmlaunch(), 4); // L2 did run
}

// --- exit reason 41

static void at_an_entry_of_l1s(void)
{
    enable_in_l1();
    machine_refuse_entry(world_machine(), world_vmcs01(), 41, 0);
    expect_exception(l1_execute(CPUID(0)), VECTOR_MC);
    l1_run(CPUID(0));
    // An event that was to be injected is, later.
    machine_refuse_entry(world_machine(), world_vmcs01(), 41, 0);
    struct outcome outcome = l1_execute(VMCALL); // #UD
    assert_int_equal(outcome.how, EXCEPTION);
    l1_run(CPUID(0));
}

static void at_an_entry_of_l2s(void)
{
    L2_PROGRAM(l2, NOP, VMCALL);
    prepare(&l2, true);
    unsigned logged = world->log_count;
    machine_refuse_entry(world_machine(), world_is_nested() ? world_vmcs02() : VMCS_A, 41, 0);
    assert_int_equal(try_vmlaunch().how, EXITED);
    expect_entry_failure(41, 0);
    expect_fail_valid(try_vmresume(), 5); // not launched
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(world->log_count, logged);
}

static const struct CMUnitTest tests[] = {
    NESTED(l1_has_it_at_every_moment, .cpu_count = 1),
    NESTED(a_machine_check_comes_before_an_nmi, .cpu_count = 1),
    NESTED(l1s_processor_shuts_down_without_mce, .cpu_count = 1),
    NESTED(l2_exits_with_it, .cpu_count = 1),
    NESTED(l2_takes_it_itself, .cpu_count = 1),
    NESTED(behind_what_l1_injects, .cpu_count = 1),
    NESTED(at_an_entry_of_l1s, .cpu_count = 1),
    BOTH(at_an_entry_of_l2s),
};

int main(void)
{
    return cmocka_run_group_tests_name("machine checks", tests, NULL, NULL);
}
