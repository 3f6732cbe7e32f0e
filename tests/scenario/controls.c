// SPDX-License-Identifier: MIT
// Controls of controls.def that no other file honours: what they enable, load and save.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define PAT_L1 0x0007040600070406ull
#define PAT_L2 0x0006050400010506ull
#define BTF    2ull // of IA32_DEBUGCTL

// The secondary controls as L1 wrote them are nothing without "activate secondary controls".
static void secondary_controls_want_to_be_activated(void)
{
    L2_PROGRAM(l2, WBINVD, VMCALL, WBINVD, VMCALL);
    l2.without_ept = true;
    l1_prepare(&l2);
    l1_vmwrite(VMCS_SECONDARY_CONTROLS, SECONDARY_WBINVD_EXITING | 1u << 31);
    l1_clear(VMCS_PRIMARY_CONTROLS, PRIMARY_ACTIVATE_SECONDARY);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    l1_skip_instruction();
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_ACTIVATE_SECONDARY);
    expect_fail_valid(try_vmresume(), 7); // bit 31
    l1_vmwrite(VMCS_SECONDARY_CONTROLS, SECONDARY_WBINVD_EXITING);
    l1_vmresume();
    expect_exit(EXIT_WBINVD);
    l1_resume_behind();
    expect_exit(EXIT_VMCALL);
}

// #UD without the control; no exit with it.
static void instructions_that_a_control_enables(void)
{
    static const uint32_t controls[] = {SECONDARY_ENABLE_RDTSCP, SECONDARY_ENABLE_INVPCID,
                                        SECONDARY_ENABLE_XSAVES};
    L2_PROGRAM(l2, RDTSCP, OP(.kind = OP_INVPCID, .reg2 = GPR_RBX, AT(0x20000)), OP(.kind = OP_XSAVES),
               VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_UD);
    l1_vmwrite(VMCS_XSS_EXITING_BITMAP, 0);
    l1_vmwrite(VMCS_GUEST_CR4, CR4_PAE | CR4_VMXE | CR4_OSXSAVE);
    uint64_t secondary = l1_vmread(VMCS_SECONDARY_CONTROLS), rip = l2.code;
    l1_set_gpr(GPR_RBX, 2); // INVPCID: all contexts
    for (unsigned i = 0; i < sizeof(controls) / sizeof(controls[0]); i++) {
        l1_vmwrite(VMCS_SECONDARY_CONTROLS, secondary);
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_exit(EXIT_EXCEPTION_OR_NMI);
        assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_INFO) & 0xff, VECTOR_UD);
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), rip);
        l1_vmwrite(VMCS_SECONDARY_CONTROLS, secondary | controls[i]);
        l1_vmresume(); // to the #UD of the next one, or VMCALL
        rip += op_length(&l2.op[i]);
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), rip);
        l1_set_gpr(GPR_RAX, 0); // the time that RDTSCP told
        l1_set_gpr(GPR_RDX, 0);
    }
    expect_exit(EXIT_VMCALL);
}

static void pause_loops_exit(void)
{
    L2_PROGRAM(l2, PAUSE, TIME_PASSES(1000), PAUSE, TIME_PASSES(100000), PAUSE, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_PAUSE_LOOP_EXITING);
    l1_vmwrite(VMCS_PLE_GAP, 10000);
    l1_vmwrite(VMCS_PLE_WINDOW, 500);
    l1_vmlaunch();
    expect_exit_length(EXIT_PAUSE, 2); // the second: 1000 cycles into the loop
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 3);
    l1_resume_behind();
    expect_exit(EXIT_VMCALL); // the third began another loop
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmwrite(VMCS_PLE_WINDOW, 50000);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmwrite(VMCS_PLE_WINDOW, 500);
    l1_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_PAUSE_LOOP_EXITING);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void the_preemption_timer_is_saved(void)
{
    L2_PROGRAM(l2, TIME_PASSES(6400), VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER);
    l1_vmwrite(VMCS_PREEMPTION_TIMER_VALUE, 100000);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_vmread(VMCS_PREEMPTION_TIMER_VALUE), 100000);
    l1_set(VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_PREEMPTION_TIMER);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    uint64_t left = l1_vmread(VMCS_PREEMPTION_TIMER_VALUE);
    l1_set_gpr(GPR_RAX, 0);
    assert_true(left < 100000 && left > 50000);
}

static void debug_controls_are_loaded_and_saved(void)
{
    L2_PROGRAM(l2, MOV_FROM_DR(GPR_RBX, 7), RDMSR(MSR_IA32_DEBUGCTL), VMCALL, MOV_TO_DR(7, 0x401),
               WRMSR(MSR_IA32_DEBUGCTL, 0), VMCALL);
    l1_prepare(&l2);
    l1_run(MOV_TO_DR(7, 0x405));
    l1_wrmsr(MSR_IA32_DEBUGCTL, 1);
    l1_vmwrite(VMCS_GUEST_DR7, 0x411);
    l1_vmwrite(VMCS_GUEST_IA32_DEBUGCTL, BTF);
    for (unsigned turn = 0; turn < 4; turn++) {
        bool loads = (turn & 1) != 0, saves = (turn & 2) != 0;
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        l1_vmwrite(VMCS_GUEST_DR7, 0x411);
        l1_vmwrite(VMCS_GUEST_IA32_DEBUGCTL, BTF);
        l1_run(MOV_TO_DR(7, 0x405)); // an exit has set it to 0x400
        l1_wrmsr(MSR_IA32_DEBUGCTL, 1);
        if (loads)
            l1_set(VMCS_VM_ENTRY_CONTROLS, ENTRY_LOAD_DEBUG_CONTROLS);
        else
            l1_clear(VMCS_VM_ENTRY_CONTROLS, ENTRY_LOAD_DEBUG_CONTROLS);
        if (saves)
            l1_set(VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_DEBUG_CONTROLS);
        else
            l1_clear(VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_DEBUG_CONTROLS);
        if (turn == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        uint64_t dr7 = l1_gpr(GPR_RBX), debugctl = l1_gpr(GPR_RAX);
        expect_exit(EXIT_VMCALL);
        assert_int_equal(dr7, loads ? 0x411 : 0x405);
        assert_int_equal(debugctl, loads ? BTF : 1);
        l1_run(MOV_FROM_DR(GPR_RBX, 7));
        assert_int_equal(l1_gpr(GPR_RBX), 0x400);
        assert_int_equal(l1_rdmsr(MSR_IA32_DEBUGCTL), 0);
        l1_resume_behind();
        expect_exit(EXIT_VMCALL);
        assert_int_equal(l1_vmread(VMCS_GUEST_DR7), saves ? 0x401 : 0x411);
        assert_int_equal(l1_vmread(VMCS_GUEST_IA32_DEBUGCTL), saves ? 0 : BTF);
    }
}

// Every combination of loading on entry, saving and loading on exit of one MSR, which L2 changes.
static void msr_is_loaded_and_saved(uint32_t msr, uint32_t guest_field, uint32_t host_field,
                                    uint32_t entry_load, uint32_t exit_save, uint32_t exit_load,
                                    uint64_t of_l1, uint64_t of_l2, uint64_t changed)
{
    static struct op ops[4];
    const struct op program[] = {RDMSR(msr), VMCALL, WRMSR(msr, changed), VMCALL};
    memcpy(ops, program, sizeof(ops));
    struct l2 l2 = {.op = ops, .count = 4};
    l2_load(&l2);
    l1_prepare(&l2);
    uint64_t before = l1_rdmsr(msr);
    for (unsigned turn = 0; turn < 8; turn++) {
        bool loads = (turn & 1) != 0, saves = (turn & 2) != 0, comes_back = (turn & 4) != 0;
        l1_wrmsr(msr, before);
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        l1_vmwrite(guest_field, of_l2);
        l1_vmwrite(host_field, of_l1);
        l1_clear(VMCS_VM_ENTRY_CONTROLS, entry_load);
        l1_clear(VMCS_VM_EXIT_CONTROLS, exit_save | exit_load);
        l1_set(VMCS_VM_ENTRY_CONTROLS, loads ? entry_load : 0);
        l1_set(VMCS_VM_EXIT_CONTROLS, (saves ? exit_save : 0) | (comes_back ? exit_load : 0));
        if (turn == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        uint64_t l2_saw = (uint32_t)l1_gpr(GPR_RAX) | l1_gpr(GPR_RDX) << 32;
        expect_exit(EXIT_VMCALL);
        assert_int_equal(l2_saw, loads ? of_l2 : before);
        assert_int_equal(l1_vmread(guest_field), saves ? l2_saw : of_l2);
        assert_int_equal(l1_rdmsr(msr), comes_back ? of_l1 : l2_saw);
        l1_resume_behind();
        expect_exit(EXIT_VMCALL);
        assert_int_equal(l1_vmread(guest_field), saves ? changed : of_l2);
        assert_int_equal(l1_rdmsr(msr), comes_back ? of_l1 : changed);
    }
}

static void pat_is_loaded_and_saved(void)
{
    msr_is_loaded_and_saved(MSR_IA32_PAT, VMCS_GUEST_IA32_PAT, VMCS_HOST_IA32_PAT, ENTRY_LOAD_PAT,
                            EXIT_SAVE_PAT, EXIT_LOAD_PAT, PAT_L1, PAT_L2, PAT_L2 ^ 1);
}

static void efer_is_loaded_and_saved(void)
{
    const uint64_t long_mode = EFER_LME | EFER_LMA;
    msr_is_loaded_and_saved(MSR_IA32_EFER, VMCS_GUEST_IA32_EFER, VMCS_HOST_IA32_EFER, ENTRY_LOAD_EFER,
                            EXIT_SAVE_EFER, EXIT_LOAD_EFER, long_mode | EFER_NXE,
                            long_mode | EFER_SCE | EFER_NXE, long_mode | EFER_SCE);
}

static const struct CMUnitTest tests[] = {
    BOTH(secondary_controls_want_to_be_activated),
    BOTH_APART(instructions_that_a_control_enables),
    BOTH(pause_loops_exit),
    BOTH_APART(the_preemption_timer_is_saved),
    BOTH(debug_controls_are_loaded_and_saved),
    BOTH(pat_is_loaded_and_saved),
    BOTH(efer_is_loaded_and_saved),
};

int main(void)
{
    return cmocka_run_group_tests_name("controls", tests, NULL, NULL);
}
