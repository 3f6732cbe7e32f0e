// SPDX-License-Identifier: MIT
// Exceptions in the delivery of exceptions, by the processor, and by an L0 that intercepts each and raises it
// again. Manual: Interrupt 8 - Double Fault Exception (#DF); Information for VM Exits During Event Delivery;
// Triple Fault in Basic VM-Exit Information.
#include "l1_vmx.h"
#include <model.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define UP_TO_DF (16 * (VECTOR_DF + 1) - 1) // limit of an IDT that has a gate for #DF and none for #GP

static void prepare_without_gate(struct l2 *l2, uint32_t idt_limit)
{
    l1_prepare(l2);
    l1_vmwrite(VMCS_GUEST_IDTR_LIMIT, idt_limit);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
}

static void a_double_fault_is_delivered_to_l2(void)
{
    L2_PROGRAM(l2, FAULT_CODE(VECTOR_GP, 0x10), VMCALL);
    prepare_without_gate(&l2, UP_TO_DF);
    l1_vmlaunch();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_DF));
}

// It is no event whose delivery was interrupted: it took the first one's place.
static void a_double_fault_that_l1_wants(void)
{
    L2_PROGRAM(l2, FAULT_CODE(VECTOR_GP, 0x10), VMCALL);
    prepare_without_gate(&l2, UP_TO_DF);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_DF);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), HARDWARE(VECTOR_DF) | WITH_CODE);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), 0);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
}

static void a_triple_fault_of_l2(void)
{
    L2_PROGRAM(l2, FAULT_CODE(VECTOR_GP, 0x10), VMCALL);
    prepare_without_gate(&l2, 0);
    l1_vmlaunch();
    expect_exit(EXIT_TRIPLE_FAULT);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), 0);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
}

// #UD, whose gate is not mapped: #PF, then #PF in the delivery of that.
static void page_faults_make_a_double_fault(void)
{
    L2_PROGRAM(l2, UD2, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_GUEST_IDTR_BASE, 0x4000000000);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_DF);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), HARDWARE(VECTOR_DF) | WITH_CODE);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    l1_vmresume();
    expect_exit(EXIT_TRIPLE_FAULT);
}

// A fault of one kind behind one of the other is delivered after it: no double fault.
static void a_page_fault_behind_a_protection_fault(void)
{
    L2_PROGRAM(l2, FAULT_CODE(VECTOR_GP, 0x10), VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_GUEST_IDTR_BASE, 0x4000000000);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_PF);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), HARDWARE(VECTOR_PF) | WITH_CODE);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), HARDWARE(VECTOR_GP) | WITH_CODE);
    assert_int_equal(l1_vmread(VMCS_IDT_VECTORING_ERROR_CODE), 0x10);
}

// --- L1's own

static void load_idt(uint16_t limit)
{
    uint64_t base = L1_IDT;
    memcpy(l1_memory(L1_SCRATCH), &limit, 2);
    memcpy((uint8_t *)l1_memory(L1_SCRATCH) + 2, &base, 8);
    l1_run(OP(.kind = OP_LIDT, AT(L1_SCRATCH)));
}

static void a_double_fault_of_l1(void)
{
    load_idt(UP_TO_DF);
    expect_exception_with_code(l1_execute(FAULT_CODE(VECTOR_GP, 0x10)), VECTOR_DF, 0);
    load_idt(0xfff);
    expect_exception_with_code(l1_execute(FAULT_CODE(VECTOR_GP, 0x10)), VECTOR_GP, 0x10);
}

static void a_triple_fault_of_l1(void)
{
    load_idt(0);
    assert_int_equal(l1_execute(FAULT_CODE(VECTOR_GP, 0x10)).how, IDLE);
    bool shutdown = world_is_nested() ? world_vcpu()->shutdown : l1_cpu()->activity == ACTIVITY_SHUTDOWN;
    assert_true(shutdown);
    cpu_interrupt(l1_cpu(), 0x40); // does not end it
    assert_int_equal(l1_continue().how, IDLE);
}

#define EACH(function)                                                                                       \
    BOTH(function),                                                                                          \
        BOTH_WITH(function, ", L0 raises each", .l0_exceptions = 1u << VECTOR_GP | 1u << VECTOR_PF)

static const struct CMUnitTest tests[] = {
    EACH(a_double_fault_is_delivered_to_l2),
    EACH(a_double_fault_that_l1_wants),
    EACH(a_triple_fault_of_l2),
    EACH(page_faults_make_a_double_fault),
    EACH(a_page_fault_behind_a_protection_fault),
    EACH(a_double_fault_of_l1),
    EACH(a_triple_fault_of_l1),
};

int main(void)
{
    return cmocka_run_group_tests_name("double faults", tests, NULL, NULL);
}
