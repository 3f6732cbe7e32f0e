// SPDX-License-Identifier: MIT
// What is due at L2's first instruction boundary: an interrupt, an interrupt window, a virtual interrupt;
// also with the processor under L0 overlooking it (a defect: engine/overlooked.c), which neither L1 nor L2
// may notice. Manual: Interrupt-Window Exiting and Virtual-Interrupt Delivery; Other Causes of VM Exits;
// Activity State.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void prepare(struct l2 *l2, uint32_t pin, uint32_t primary)
{
    l1_prepare(l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, pin);
    l1_set(VMCS_PRIMARY_CONTROLS, primary | PRIMARY_HLT_EXITING);
    l1_set(VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
}

static void expect_unchanged(const struct l2 *l2, uint64_t rflags, uint64_t activity)
{
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2->code);
    assert_int_equal(l1_vmread(VMCS_GUEST_RFLAGS), rflags);
    assert_int_equal(l1_vmread(VMCS_GUEST_ACTIVITY_STATE), activity);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
}

static void an_interrupt_before_the_entry(void)
{
    L2_PROGRAM(l2, NOP, VMCALL);
    prepare(&l2, PIN_EXTERNAL_INTERRUPT_EXITING, 0);
    for (unsigned i = 0; i < 3; i++) {
        cpu_interrupt(l1_cpu(), (uint8_t)(0x70 + i)); // L1's RFLAGS.IF is 0
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_exit(EXIT_EXTERNAL_INTERRUPT);
        assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), EXTERNAL(0x70 + i));
        expect_unchanged(&l2, RFLAGS_FIXED, ACTIVITY_ACTIVE);
    }
    l1_vmresume();
    expect_exit(EXIT_VMCALL); // behind the NOP
    assert_int_equal(l1_vmread(VMCS_GUEST_RFLAGS), RFLAGS_FIXED);
}

static void an_interrupt_before_an_entry_to_hlt(void)
{
    static const uint64_t rflags[] = {RFLAGS_FIXED, RFLAGS_FIXED | RFLAGS_IF};
    L2_PROGRAM(l2, VMCALL);
    prepare(&l2, PIN_EXTERNAL_INTERRUPT_EXITING, 0);
    for (unsigned i = 0; i < 2; i++) {
        l1_vmwrite(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_HLT);
        l1_vmwrite(VMCS_GUEST_RFLAGS, rflags[i]);
        cpu_interrupt(l1_cpu(), 0x75);
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_exit(EXIT_EXTERNAL_INTERRUPT);
        expect_unchanged(&l2, rflags[i], ACTIVITY_HLT);
    }
    // nothing is due: L2 sleeps, until something comes
    assert_int_equal(try_vmresume().how, IDLE);
    cpu_interrupt(l1_cpu(), 0x76);
    assert_int_equal(l1_continue().how, EXITED);
    expect_exit(EXIT_EXTERNAL_INTERRUPT);
    expect_unchanged(&l2, rflags[1], ACTIVITY_HLT);
}

// Without external-interrupt exiting the interrupt is L2's, and wakes it if IF is 1.
static void an_interrupt_wakes_l2(void)
{
    L2_PROGRAM(l2, VMCALL);
    prepare(&l2, 0, 0);
    l1_vmwrite(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_HLT);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    cpu_interrupt(l1_cpu(), 0x77);
    l1_vmlaunch();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(0x77));
    const uint64_t *frame = l2_memory(l1_vmread(VMCS_GUEST_RSP));
    assert_int_equal(frame[0], l2.code);
    assert_int_equal(frame[2], RFLAGS_FIXED | RFLAGS_IF);
}

static void an_interrupt_window_in_hlt(void)
{
    L2_PROGRAM(l2, VMCALL);
    prepare(&l2, 0, PRIMARY_INTERRUPT_WINDOW_EXITING);
    l1_vmwrite(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_HLT);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    l1_vmlaunch();
    expect_exit(EXIT_INTERRUPT_WINDOW);
    expect_unchanged(&l2, RFLAGS_FIXED | RFLAGS_IF, ACTIVITY_HLT);
    // closed: L2 sleeps
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    assert_int_equal(try_vmresume().how, IDLE);
}

// What is shielded by STI or MOV SS is not due yet.
static void a_shielded_boundary(void)
{
    L2_PROGRAM(l2, NOP, NOP, VMCALL);
    prepare(&l2, PIN_EXTERNAL_INTERRUPT_EXITING, 0);
    l1_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, INTERRUPTIBILITY_MOV_SS);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    cpu_interrupt(l1_cpu(), 0x78);
    l1_vmlaunch();
    expect_exit(EXIT_EXTERNAL_INTERRUPT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 1);
}

static void a_virtual_interrupt_wakes_l2(void)
{
    const uint32_t delivery = SECONDARY_VIRTUALIZE_X2APIC_MODE | SECONDARY_VIRTUAL_INTERRUPT_DELIVERY;
    L2_PROGRAM(l2, VMCALL);
    uint64_t page = l1_new_page();
    uint32_t *registers = l1_memory(page);
    prepare(&l2, PIN_EXTERNAL_INTERRUPT_EXITING, PRIMARY_USE_TPR_SHADOW | PRIMARY_ACTIVATE_SECONDARY);
    if ((l1_rdmsr(MSR_IA32_VMX_PROCBASED_CTLS2) >> 32 & delivery) != delivery)
        return;
    l1_set(VMCS_SECONDARY_CONTROLS, delivery);
    l1_vmwrite(VMCS_VIRTUAL_APIC_ADDRESS, page);
    l1_vmwrite(VMCS_TPR_THRESHOLD, 0);
    l1_vmwrite(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_HLT);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    l1_vmwrite(VMCS_GUEST_INTERRUPT_STATUS, 0x51);
    registers[(0x200 + 0x20) / 4] = 1u << 0x11;
    registers[0x80 / 4] = 0x50; // the task priority holds it back
    assert_int_equal(try_vmlaunch().how, IDLE);
    cpu_interrupt(l1_cpu(), 0x79);
    assert_int_equal(l1_continue().how, EXITED);
    expect_exit(EXIT_EXTERNAL_INTERRUPT);
    expect_unchanged(&l2, RFLAGS_FIXED | RFLAGS_IF, ACTIVITY_HLT);
    registers[0x80 / 4] = 0x40;
    l1_vmresume();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(0x51));
    assert_int_equal(l1_vmread(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_ACTIVE);
}

#define OVERLOOKED(function)                                                                                 \
    BOTH(function), BOTH_WITH(function, ", overlooked", .overlooks_events = true),                           \
        BOTH_WITH(function, ", overlooked, moving", .overlooks_events = true, .cpu_count = 2,                \
                  .move_one_in = 2)

static const struct CMUnitTest tests[] = {
    OVERLOOKED(an_interrupt_before_the_entry), OVERLOOKED(an_interrupt_before_an_entry_to_hlt),
    OVERLOOKED(an_interrupt_wakes_l2),         OVERLOOKED(an_interrupt_window_in_hlt),
    OVERLOOKED(a_shielded_boundary),           OVERLOOKED(a_virtual_interrupt_wakes_l2),
};

int main(void)
{
    return cmocka_run_group_tests_name("overlooked", tests, NULL, NULL);
}
