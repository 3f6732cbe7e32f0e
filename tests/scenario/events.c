// SPDX-License-Identifier: MIT
// Exceptions and interrupts of L2, events that L1 injects, and what is said of one that an exit interrupted.
// Manual: Exceptions; Event Injection; Information for VM Exits Due to Vectored Events; Information for VM
// Exits That Occur During Event Delivery.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define VALID INTERRUPTION_VALID

static void prepare_with_hlt_exits(struct l2 *l2)
{
    l1_prepare(l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
}

static void expect_event_exit(uint32_t info)
{
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), info);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
}

// L2 is in the handler of `vector`, at its HLT.
static void expect_in_handler(unsigned vector)
{
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(vector));
}

static uint64_t l2_stack(unsigned word)
{
    return ((const uint64_t *)l2_memory(l1_vmread(VMCS_GUEST_RSP)))[word];
}

static void inject(uint32_t info, uint32_t error_code, uint32_t length)
{
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, info);
    l1_vmwrite(VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, error_code);
    l1_vmwrite(VMCS_VM_ENTRY_INSTRUCTION_LENGTH, length);
}

// --- exceptions

static void exceptions_that_l1_does_not_want_are_l2s(void)
{
    L2_PROGRAM(l2, UD2);
    prepare_with_hlt_exits(&l2);
    l1_vmlaunch();
    expect_in_handler(VECTOR_UD);
    assert_int_equal(l2_stack(0), l2.code);
}

static void the_exception_bitmap_chooses_exceptions(void)
{
    L2_PROGRAM(l2, UD2, INT3, FAULT_CODE(VECTOR_GP, 0x18), FAULT(0), INT1, FAULT_CODE(VECTOR_AC, 0));
    prepare_with_hlt_exits(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 0xffffffff);
    l1_vmlaunch();
    expect_event_exit(HARDWARE(VECTOR_UD));
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code + 2);
    l1_vmresume();
    expect_event_exit(SOFTWARE_EX(VECTOR_BP));
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 1);
    l1_skip_instruction();
    l1_vmresume();
    expect_event_exit(HARDWARE(VECTOR_GP) | WITH_CODE);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), 0x18);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code + 7);
    l1_vmresume();
    expect_event_exit(HARDWARE(0));
    l1_vmwrite(VMCS_GUEST_RIP, l2.code + 11);
    l1_vmresume();
    expect_event_exit(PRIVILEGED(VECTOR_DB));
    l1_skip_instruction();
    l1_vmresume();
    expect_event_exit(HARDWARE(VECTOR_AC) | WITH_CODE);
}

static void int_n_never_exits(void)
{
    L2_PROGRAM(l2, INT(VECTOR_GP));
    prepare_with_hlt_exits(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 0xffffffff);
    l1_vmlaunch();
    expect_in_handler(VECTOR_GP);
    assert_int_equal(l2_stack(0), l2.code + 2);
}

static void page_faults_are_filtered_by_mask_and_match(void)
{
    // a read of a page that is not there has error code 0, a write 2
    L2_PROGRAM(l2, READ(GPR_RBX, 0x800000), NOP, WRITE(0x800008, 1));
    prepare_with_hlt_exits(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_PF);
    l1_vmwrite(VMCS_PAGE_FAULT_ERROR_CODE_MASK, 2);
    l1_vmwrite(VMCS_PAGE_FAULT_ERROR_CODE_MATCH, 2);
    l1_vmlaunch();
    expect_in_handler(VECTOR_PF); // does not match
    assert_int_equal(l2_stack(0), 0);
    l1_run(MOV_FROM_CR(GPR_RAX, 2));
    assert_int_equal(l1_gpr(GPR_RAX), 0x800000);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code + 9);
    l1_vmresume();
    expect_event_exit(HARDWARE(VECTOR_PF) | WITH_CODE);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), 2);
    assert_int_equal(l1_vmread(VMCS_EXIT_QUALIFICATION), 0x800008);
    // a clear bit in the bitmap turns the filter around
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume();
    expect_event_exit(HARDWARE(VECTOR_PF) | WITH_CODE);
    assert_int_equal(l1_vmread(VMCS_EXIT_QUALIFICATION), 0x800000);
}

static void a_single_step_trap_exits_with_its_cause(void)
{
    L2_PROGRAM(l2, SET_FLAGS(RFLAGS_FIXED | RFLAGS_TF), NOP, NOP, VMCALL);
    prepare_with_hlt_exits(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_DB);
    l1_vmlaunch();
    expect_event_exit(HARDWARE(VECTOR_DB));
    assert_int_equal(l1_vmread(VMCS_EXIT_QUALIFICATION), 1 << 14);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 2);
}

static void triple_fault(void)
{
    L2_PROGRAM(l2, UD2);
    prepare_with_hlt_exits(&l2);
    l1_vmwrite(VMCS_GUEST_IDTR_LIMIT, 0);
    l1_vmlaunch();
    expect_exit(EXIT_TRIPLE_FAULT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
}

static void a_double_fault_is_no_interrupted_delivery(void)
{
    L2_PROGRAM(l2, FAULT_CODE(VECTOR_GP, 0));
    prepare_with_hlt_exits(&l2);
    l1_vmwrite(VMCS_GUEST_IDTR_LIMIT, 0);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_DF);
    l1_vmlaunch();
    expect_event_exit(HARDWARE(VECTOR_DF) | WITH_CODE);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), 0);
}

static void a_fault_in_a_delivery_says_what_was_delivered(void)
{
    L2_PROGRAM(l2, INT(0x40));
    prepare_with_hlt_exits(&l2);
    l1_vmwrite(VMCS_GUEST_IDTR_LIMIT, 0x1ff); // 32 gates
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), HARDWARE(VECTOR_GP) | WITH_CODE);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), 0x40 * 8 + 2);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), SOFTWARE(0x40));
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 2);
}

// An exception that L0 looks at for reasons of its own is L1's if L1 wants it, and else L2's.
static void an_exception_that_l0_wants_too(void)
{
    L2_PROGRAM(l2, FAULT_CODE(VECTOR_AC, 0), FAULT_CODE(VECTOR_GP, 4), VMCALL);
    prepare_with_hlt_exits(&l2);
    l1_vmlaunch();
    expect_in_handler(VECTOR_AC);
    assert_int_equal(l2_stack(0), 0);
    assert_int_equal(l2_stack(1), l2.code);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_AC);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume();
    expect_event_exit(HARDWARE(VECTOR_AC) | WITH_CODE);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code + 4);
    l1_vmresume();
    expect_in_handler(VECTOR_GP);
    if (world_is_nested())
        assert_int_equal(l0_exception_count(), 2);                                  // #AC once, #GP once
    expect_exception_with_code(l1_execute(FAULT_CODE(VECTOR_GP, 8)), VECTOR_GP, 8); // L1's own, through L0
}

// --- injection

static void injected_events_reach_their_handlers(void)
{
    static const struct {
        uint32_t info, error_code, length;
        unsigned vector;
    } events[] = {
        {HARDWARE(VECTOR_UD), 0, 0, VECTOR_UD},
        {HARDWARE(VECTOR_PF) | WITH_CODE, 6, 0, VECTOR_PF},
        {HARDWARE(VECTOR_GP) | WITH_CODE, 0x1230, 0, VECTOR_GP},
        {EXTERNAL(0x77), 0, 0, 0x77},
        {NMI_EVENT, 0, 0, VECTOR_NMI},
        {SOFTWARE(0x80), 0, 2, 0x80},
        {SOFTWARE_EX(VECTOR_BP), 0, 1, VECTOR_BP},
        {PRIVILEGED(VECTOR_DB), 0, 1, VECTOR_DB},
    };
    L2_PROGRAM(l2, VMCALL);
    prepare_with_hlt_exits(&l2);
    for (unsigned i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        l1_vmwrite(VMCS_GUEST_RSP, 0x9000);
        l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
        l1_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
        inject(events[i].info, events[i].error_code, events[i].length);
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_in_handler(events[i].vector);
        unsigned at = 0;
        if (events[i].info & WITH_CODE)
            assert_int_equal(l2_stack(at++), events[i].error_code);
        assert_int_equal(l2_stack(at), l2.code + events[i].length);
        // the exit took the valid bit away, and nothing else
        assert_int_equal(l1_vmread(VMCS_VM_ENTRY_INTERRUPTION_INFO), events[i].info & ~VALID);
        assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
    }
}

static void an_injected_exception_does_not_exit(void)
{
    L2_PROGRAM(l2, VMCALL);
    prepare_with_hlt_exits(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 0xffffffff);
    inject(HARDWARE(VECTOR_UD), 0, 0);
    l1_vmlaunch();
    expect_in_handler(VECTOR_UD);
}

static void an_injection_that_faults_is_reported(void)
{
    L2_PROGRAM(l2, VMCALL);
    prepare_with_hlt_exits(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    l1_vmwrite(VMCS_GUEST_IDTR_LIMIT, 0x1ff);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    inject(EXTERNAL(0x50), 0, 0);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), HARDWARE(VECTOR_GP) | WITH_CODE);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), EXTERNAL(0x50));
    assert_int_equal(l1_vmread(VMCS_VM_ENTRY_INTERRUPTION_INFO), EXTERNAL(0x50) & ~VALID);
}

// The stack that the event is pushed on is not mapped by EPT12: the exit says which event it was.
static void an_ept_violation_interrupts_a_delivery(void)
{
    L2_PROGRAM(l2, UD2, INT(0x33));
    prepare_with_hlt_exits(&l2);
    *l1_ept_entry(l2.eptp, 0x8000, 1) = 0;
    l1_vmlaunch();
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), HARDWARE(VECTOR_UD));
    assert_int_equal(l1_vmread(VMCS_GUEST_PHYSICAL_ADDRESS) & ~0xfffull, 0x8000);
    assert_int_equal(l1_vmread_masked(VMCS_EXIT_QUALIFICATION, EPT_QUALIFICATION), 0x182);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
    // L1 gives the page, and injects the event again
    l1_ept_map(l2.eptp, 0x8000, L2_RAM + 0x8000, 0x1000, 0x1000, 7);
    inject((uint32_t)l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0, 0);
    l1_vmresume();
    expect_in_handler(VECTOR_UD);
    // the same for INT n, which has a length
    l1_vmwrite(VMCS_GUEST_RIP, l2.code + 2);
    l1_vmwrite(VMCS_GUEST_RSP, 0x9000);
    *l1_ept_entry(l2.eptp, 0x8000, 1) = 0;
    l1_invept(2, 0);
    l1_vmresume();
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), SOFTWARE(0x33));
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 2);
}

// ept02 has nothing in it after the first entry: L0 fills it while the injected event is being delivered, and
// the event must not get lost, nor change.
static void l0_finishes_a_delivery_that_it_interrupted(void)
{
    L2_PROGRAM(l2, VMCALL);
    prepare_with_hlt_exits(&l2);
    inject(HARDWARE(VECTOR_GP) | WITH_CODE, 0x4444, 0);
    l1_vmlaunch();
    expect_in_handler(VECTOR_GP);
    assert_int_equal(l2_stack(0), 0x4444);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmwrite(VMCS_GUEST_RSP, 0x22000); // a page that L2 did not touch yet
    inject(SOFTWARE(0x90), 0, 2);
    l1_vmresume();
    expect_in_handler(0x90);
    assert_int_equal(l2_stack(0), l2.code + 2);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
}

// --- interrupts

static void external_interrupt_exiting(void)
{
    L2_PROGRAM(l2, INTERRUPT_ARRIVES(0x61), NOP, VMCALL);
    prepare_with_hlt_exits(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
    l1_set(VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    l1_vmlaunch(); // RFLAGS.IF is 0: it exits all the same
    expect_exit(EXIT_EXTERNAL_INTERRUPT);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), EXTERNAL(0x61));
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 1);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void an_interrupt_that_is_not_acknowledged_stays_pending(void)
{
    L2_PROGRAM(l2, INTERRUPT_ARRIVES(0x62), VMCALL);
    prepare_with_hlt_exits(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
    l1_vmlaunch();
    expect_exit(EXIT_EXTERNAL_INTERRUPT);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), 0);
    l1_run(STI);
    struct outcome outcome = l1_execute(NOP); // the one that STI shields
    expect_exception(outcome, 0x62);
}

static void an_interrupt_that_l1_does_not_want_is_l2s(void)
{
    L2_PROGRAM(l2, STI, NOP, INTERRUPT_ARRIVES(0x63), NOP);
    prepare_with_hlt_exits(&l2);
    l1_vmlaunch();
    expect_in_handler(0x63);
}

static void interrupt_window_exiting(void)
{
    L2_PROGRAM(l2, NOP, STI, NOP, NOP);
    prepare_with_hlt_exits(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_INTERRUPT_WINDOW_EXITING);
    l1_vmlaunch();
    expect_exit(EXIT_INTERRUPT_WINDOW);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 3); // behind the instruction that STI shields
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPTIBILITY), 0);
    l1_clear(VMCS_PRIMARY_CONTROLS, PRIMARY_INTERRUPT_WINDOW_EXITING);
    inject(EXTERNAL(0x64), 0, 0);
    l1_vmresume();
    expect_in_handler(0x64);
}

static void nmi_exiting(void)
{
    L2_PROGRAM(l2, NMI_ARRIVES, NOP, VMCALL);
    prepare_with_hlt_exits(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
    l1_vmlaunch();
    expect_event_exit(NMI_EVENT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 1);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

// An exit that an NMI causes blocks NMIs, until L1 executes IRET.
static void nmis_are_blocked_behind_an_nmi_exit(void)
{
    L2_PROGRAM(l2, NMI_ARRIVES, NOP, VMCALL);
    prepare_with_hlt_exits(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
    l1_vmlaunch();
    expect_event_exit(NMI_EVENT);
    l1_run(NMI_ARRIVES);
    l1_run(NOP); // still waiting
    struct outcome outcome = l1_execute(INT(0x30));
    expect_exception(outcome, VECTOR_NMI); // the IRET of that handler lets it in
}

static void an_nmi_that_l1_does_not_want_is_l2s(void)
{
    L2_PROGRAM(l2, NMI_ARRIVES, NOP, VMCALL);
    prepare_with_hlt_exits(&l2);
    l1_vmlaunch();
    expect_in_handler(VECTOR_NMI);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPTIBILITY), INTERRUPTIBILITY_NMI);
}

static void an_nmi_in_l1_is_l1s(void)
{
    L2_PROGRAM(l2, VMCALL);
    prepare_with_hlt_exits(&l2);
    struct outcome outcome = l1_execute(NMI_ARRIVES);
    expect_exception(outcome, VECTOR_NMI);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPTIBILITY), 0);
}

static void virtual_nmis_and_the_nmi_window(void)
{
    L2_PROGRAM(l2, NOP, VMCALL);
    prepare_with_hlt_exits(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS);
    inject(NMI_EVENT, 0, 0);
    l1_vmlaunch();
    expect_in_handler(VECTOR_NMI);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPTIBILITY), INTERRUPTIBILITY_NMI);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_NMI_WINDOW_EXITING);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume();
    expect_exit(EXIT_VMCALL); // blocked
    l1_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume();
    expect_exit(EXIT_NMI_WINDOW);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
}

static void interrupts_in_l1_are_l1s(void)
{
    l1_enter_vmx_operation();
    l1_run(STI);
    l1_run(NOP);
    expect_exception(l1_execute(INTERRUPT_ARRIVES(0x44)), 0x44);
    l1_run(CLI);
}

// --- activity state

static void l2_halts_without_an_exit(void)
{
    L2_PROGRAM(l2, STI, HLT, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
    l1_set(VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    struct outcome outcome = try_vmlaunch();
    assert_int_equal(outcome.how, IDLE);
    cpu_interrupt(l1_cpu(), 0x55);
    outcome = l1_continue();
    assert_int_equal(outcome.how, EXITED);
    expect_exit(EXIT_EXTERNAL_INTERRUPT);
    assert_int_equal(l1_vmread(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 2);
    inject(EXTERNAL(0x55), 0, 0);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmresume();
    expect_in_handler(0x55);
    assert_int_equal(l1_vmread(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_ACTIVE);
}

static void l1_halts_and_an_interrupt_wakes_it(void)
{
    l1_enter_vmx_operation();
    l1_run(STI);
    struct outcome outcome = l1_execute(HLT);
    assert_int_equal(outcome.how, IDLE);
    cpu_interrupt(l1_cpu(), 0x56);
    outcome = l1_continue();
    expect_exception(outcome, 0x56);
}

static void the_preemption_timer_expires(void)
{
    L2_PROGRAM(l2, NOP, TIME_PASSES(1000), NOP, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER);
    l1_vmwrite(VMCS_PREEMPTION_TIMER_VALUE, 0);
    l1_vmlaunch();
    expect_exit(EXIT_PREEMPTION_TIMER);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
    l1_vmwrite(VMCS_PREEMPTION_TIMER_VALUE, 900);
    l1_vmresume();
    expect_exit(EXIT_PREEMPTION_TIMER);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 2);
    l1_vmwrite(VMCS_PREEMPTION_TIMER_VALUE, 100000);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void an_event_of_l1_does_not_leak_into_l2(void)
{
    L2_PROGRAM(l2, VMCALL);
    prepare_with_hlt_exits(&l2);
    expect_exception(l1_execute(VMPTRLD(L1_NOT_MAPPED)), VECTOR_PF); // L0 raised it
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
    expect_exception(l1_execute(VMPTRLD(L1_NOT_MAPPED)), VECTOR_PF);
}

static const struct CMUnitTest tests[] = {
    BOTH(exceptions_that_l1_does_not_want_are_l2s),
    BOTH(the_exception_bitmap_chooses_exceptions),
    BOTH(int_n_never_exits),
    BOTH(page_faults_are_filtered_by_mask_and_match),
    BOTH(a_single_step_trap_exits_with_its_cause),
    BOTH(triple_fault),
    BOTH(a_double_fault_is_no_interrupted_delivery),
    BOTH(a_fault_in_a_delivery_says_what_was_delivered),
    BOTH_WITH(an_exception_that_l0_wants_too, "", .l0_exceptions = 1u << VECTOR_AC | 1u << VECTOR_GP),
    BOTH(injected_events_reach_their_handlers),
    BOTH(an_injected_exception_does_not_exit),
    BOTH(an_injection_that_faults_is_reported),
    BOTH(an_ept_violation_interrupts_a_delivery),
    BOTH(l0_finishes_a_delivery_that_it_interrupted),
    BOTH(external_interrupt_exiting),
    BOTH(an_interrupt_that_is_not_acknowledged_stays_pending),
    BOTH(an_interrupt_that_l1_does_not_want_is_l2s),
    BOTH(interrupt_window_exiting),
    BOTH(nmi_exiting),
    BOTH(nmis_are_blocked_behind_an_nmi_exit),
    BOTH(an_nmi_that_l1_does_not_want_is_l2s),
    BOTH(an_nmi_in_l1_is_l1s),
    BOTH(virtual_nmis_and_the_nmi_window),
    BOTH(interrupts_in_l1_are_l1s),
    BOTH(l2_halts_without_an_exit),
    BOTH(l1_halts_and_an_interrupt_wakes_it),
    BOTH_APART(the_preemption_timer_expires),
    BOTH(an_event_of_l1_does_not_leak_into_l2),
};

int main(void)
{
    return cmocka_run_group_tests_name("events", tests, NULL, NULL);
}
