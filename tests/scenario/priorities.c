// SPDX-License-Identifier: MIT
// Which of several events comes first, and what keeps one back: the monitor trap flag behind what L0 carries
// out for L2, and NMIs that reach L0 while somebody else must run first or blocks them. Manual: Monitor Trap
// Flag; Priority Among Concurrent Events; NMI-Window Exiting; Other Causes of VM Exits.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define BS (1u << 14)

static void expect_nmi_exit_at(uint64_t rip)
{
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), NMI_EVENT);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), rip);
}

static void expect_mtf_at(uint64_t rip, uint64_t pending_debug)
{
    expect_exit(EXIT_MONITOR_TRAP_FLAG);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), rip);
    assert_int_equal(l1_vmread(VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS), pending_debug);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
}

// --- MTF

// Nested, L0 carries out the IN (the bitmap is in L2's reach): the trap comes behind it all the same.
static void prepare_emulated_io(struct l2 *l2)
{
    l2->without_ept = true;
    l1_prepare(l2);
    memset(l2_memory(0x50000), 0, 0x2000);
    l1_vmwrite(VMCS_IO_BITMAP_A, L2_RAM + 0x50000);
    l1_vmwrite(VMCS_IO_BITMAP_B, L2_RAM + 0x51000);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS | PRIMARY_MONITOR_TRAP_FLAG | PRIMARY_HLT_EXITING);
}

static void mtf_behind_an_emulated_instruction(void)
{
    L2_PROGRAM(l2, IN(0x60), NOP, VMCALL);
    prepare_emulated_io(&l2);
    l1_vmlaunch();
    expect_mtf_at(l2.code + op_length(&l2.op[0]), 0);
    l1_vmresume();
    expect_mtf_at(l2.code + op_length(&l2.op[0]) + 1, 0);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void mtf_and_a_single_step_behind_an_emulated_instruction(void)
{
    L2_PROGRAM(l2, IN(0x60), NOP, VMCALL);
    prepare_emulated_io(&l2);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_TF);
    l1_vmlaunch();
    expect_mtf_at(l2.code + op_length(&l2.op[0]), BS); // MTF comes before debug traps
    l1_clear(VMCS_PRIMARY_CONTROLS, PRIMARY_MONITOR_TRAP_FLAG);
    l1_vmresume();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_DB));
}

// Injection of Pending MTF VM Exits: whatever the control says.
static void an_injected_mtf_exit(void)
{
    L2_PROGRAM(l2, NOP, VMCALL);
    l1_prepare(&l2);
    for (unsigned i = 0; i < 2; i++) {
        l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, INTERRUPTION_VALID | EVENT_OTHER << 8);
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_mtf_at(l2.code, 0);
        assert_int_equal(l1_vmread(VMCS_VM_ENTRY_INTERRUPTION_INFO), EVENT_OTHER << 8);
    }
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

// --- an NMI that L0 took

static void l0_takes_an_nmi(void)
{
    nvmx_pend_nmi(world_vcpu());
}

static void prepare_nmi_exiting(struct l2 *l2, uint32_t pin, uint32_t interruptibility)
{
    l1_prepare(l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING | pin);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, interruptibility);
}

// L1's entry succeeds first: the exit comes behind it, and behind what it injects.
static void an_nmi_behind_a_pending_entry(void)
{
    L2_PROGRAM(l2, NOP, VMCALL);
    prepare_nmi_exiting(&l2, 0, 0);
    l1_vmlaunch(); // warms ept02 up: no exit of L0's from here on
    expect_exit(EXIT_VMCALL);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l0_takes_an_nmi();
    l1_vmresume();
    expect_nmi_exit_at(l2.code);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO,
               INTERRUPTION_VALID | EVENT_HARDWARE_EXCEPTION << 8 | VECTOR_UD);
    l0_takes_an_nmi();
    l1_vmresume();
    expect_nmi_exit_at(L2_HANDLER(VECTOR_UD));
    l1_vmresume();
    expect_exit(EXIT_HLT);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume();
    expect_exit(EXIT_VMCALL); // and no window that L1 did not ask for
}

// Without NMI exiting it is L2's, behind what L1 injects.
static void an_nmi_of_l2_behind_an_injection(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO,
               INTERRUPTION_VALID | EVENT_HARDWARE_EXCEPTION << 8 | VECTOR_UD);
    l0_takes_an_nmi();
    l1_vmlaunch();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_NMI));
    const uint64_t *frame = l2_memory(l1_vmread(VMCS_GUEST_RSP));
    assert_int_equal(frame[0], L2_HANDLER(VECTOR_UD));
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPTIBILITY), INTERRUPTIBILITY_NMI);
}

// L2 is in an NMI handler of its own: an NMI that would exit waits for its IRET.
static void an_nmi_blocked_by_an_nmi(void)
{
    L2_PROGRAM(l2, CPUID(0), NOP, IRET, NOP, NOP, VMCALL);
    prepare_nmi_exiting(&l2, 0, INTERRUPTIBILITY_NMI);
    uint64_t iret = l2.code + op_length(&l2.op[0]) + 1, behind = iret + op_length(&l2.op[2]);
    uint64_t *frame = l2_memory(0x8f00);
    frame[0] = behind + 1;
    frame[1] = l1_vmread(VMCS_GUEST_CS_SELECTOR);
    frame[2] = RFLAGS_FIXED;
    frame[3] = 0x8f80;
    frame[4] = l1_vmread(VMCS_GUEST_SS_SELECTOR);
    l1_vmwrite(VMCS_GUEST_RSP, 0x8f00);
    l0_takes_an_nmi();
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPTIBILITY), INTERRUPTIBILITY_NMI);
    assert_true(world_vcpu()->nmi_pending);
    // back in L1, where NMIs are blocked as they were in L2
    l1_skip_instruction();
    l1_vmresume();
    expect_nmi_exit_at(behind + 1);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPTIBILITY), 0);
}

// With virtual NMIs that field is about virtual ones: a real NMI exits at once.
static void an_nmi_with_virtual_nmis_blocked(void)
{
    L2_PROGRAM(l2, NOP, VMCALL);
    prepare_nmi_exiting(&l2, PIN_VIRTUAL_NMIS, INTERRUPTIBILITY_NMI);
    l0_takes_an_nmi();
    l1_vmlaunch();
    expect_nmi_exit_at(l2.code);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPTIBILITY), INTERRUPTIBILITY_NMI);
}

static void an_nmi_shielded_by_mov_ss(void)
{
    L2_PROGRAM(l2, NOP, NOP, VMCALL);
    prepare_nmi_exiting(&l2, 0, INTERRUPTIBILITY_MOV_SS);
    l0_takes_an_nmi();
    l1_vmlaunch();
    expect_nmi_exit_at(l2.code + 1);
}

// L1's own NMI window, and its virtual NMIs, are as they were when L0's NMI is out of the way.
static void l1s_nmi_window_survives_l0s(void)
{
    L2_PROGRAM(l2, NOP, VMCALL);
    prepare_nmi_exiting(&l2, PIN_VIRTUAL_NMIS, INTERRUPTIBILITY_NMI);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_NMI_WINDOW_EXITING);
    l0_takes_an_nmi();
    l1_vmlaunch();
    expect_nmi_exit_at(l2.code);
    l1_vmresume();
    expect_exit(EXIT_VMCALL); // blocked: no window
    l1_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume();
    expect_exit(EXIT_NMI_WINDOW);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
}

static const struct CMUnitTest tests[] = {
    BOTH(mtf_behind_an_emulated_instruction),
    BOTH_WITH(mtf_behind_an_emulated_instruction, ", moving", .cpu_count = 2, .move_one_in = 2),
    BOTH(mtf_and_a_single_step_behind_an_emulated_instruction),
    BOTH(an_injected_mtf_exit),
    NESTED(an_nmi_behind_a_pending_entry, .cpu_count = 1),
    NESTED(an_nmi_of_l2_behind_an_injection, .cpu_count = 1),
    NESTED(an_nmi_blocked_by_an_nmi, .cpu_count = 1),
    NESTED(an_nmi_with_virtual_nmis_blocked, .cpu_count = 1),
    NESTED(an_nmi_shielded_by_mov_ss, .cpu_count = 1),
    NESTED(l1s_nmi_window_survives_l0s, .cpu_count = 1),
};

int main(void)
{
    return cmocka_run_group_tests_name("priorities", tests, NULL, NULL);
}
