// SPDX-License-Identifier: MIT
// Posted interrupts: an interrupt with the notification vector makes virtual interrupts of what others
// posted, without a VM exit. Manual: Posted-Interrupt Processing.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define NOTIFICATION 0xf2
#define VIRR         0x200
#define VISR         0x100

static uint64_t virtual_apic, descriptor;

static uint32_t apic_register(unsigned offset)
{
    uint32_t value;
    memcpy(&value, (const uint8_t *)l1_memory(virtual_apic) + offset, 4);
    return value;
}

static bool in_array(unsigned array, unsigned vector)
{
    return apic_register(array + vector / 32 * 16) >> vector % 32 & 1;
}

static uint8_t *posted(unsigned at)
{
    return (uint8_t *)l1_memory(descriptor) + at;
}

static void post(unsigned vector)
{
    *posted(vector / 8) |= (uint8_t)(1u << vector % 8);
    *posted(32) |= 1; // outstanding notification
}

static void prepare(struct l2 *l2)
{
    l1_prepare(l2);
    virtual_apic = l1_new_page();
    descriptor = l1_new_page() + 0x40; // 64-byte aligned is enough
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING | PIN_POSTED_INTERRUPTS);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_VIRTUAL_INTERRUPT_DELIVERY);
    l1_set(VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    l1_vmwrite(VMCS_VIRTUAL_APIC_ADDRESS, virtual_apic);
    l1_vmwrite(VMCS_TPR_THRESHOLD, 0);
    l1_vmwrite(VMCS_GUEST_INTERRUPT_STATUS, 0);
    for (uint32_t i = 0; i < 4; i++)
        l1_vmwrite(VMCS_EOI_EXIT_BITMAP_0 + 2 * i, 0);
    l1_vmwrite(VMCS_POSTED_INTERRUPT_VECTOR, NOTIFICATION);
    l1_vmwrite(VMCS_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, descriptor);
}

static void handlers_exit(void)
{
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
}

static void expect_in_handler(unsigned vector)
{
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(vector));
}

static void a_notification_delivers_what_was_posted(void)
{
    L2_PROGRAM(l2, STI, NOP, INTERRUPT_ARRIVES(NOTIFICATION), NOP, VMCALL);
    prepare(&l2);
    handlers_exit();
    post(0x51);
    post(0x93);
    post(0x52);
    *posted(33) = 0x5a; // software's own
    l1_vmlaunch();
    expect_in_handler(0x93);
    assert_int_equal(*posted(32), 0); // the notification is not outstanding any more
    assert_int_equal(*posted(33), 0x5a);
    for (unsigned i = 0; i < 32; i++)
        assert_int_equal(*posted(i), 0);
    assert_true(in_array(VIRR, 0x51) && in_array(VIRR, 0x52));
    assert_true(in_array(VISR, 0x93) && !in_array(VIRR, 0x93));
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPT_STATUS), 0x9352);
}

// Even while L2's interrupts are closed: the requests wait in the virtual-APIC page.
static void closed_interrupts_do_not_matter(void)
{
    L2_PROGRAM(l2, INTERRUPT_ARRIVES(NOTIFICATION), NOP, VMCALL);
    prepare(&l2);
    post(0x51);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_true(in_array(VIRR, 0x51));
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPT_STATUS), 0x51);
    assert_int_equal(*posted(32), 0);
}

static void another_vector_exits(void)
{
    L2_PROGRAM(l2, INTERRUPT_ARRIVES(NOTIFICATION - 1), NOP, VMCALL);
    prepare(&l2);
    post(0x51);
    l1_vmlaunch();
    expect_exit(EXIT_EXTERNAL_INTERRUPT);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000000 | (NOTIFICATION - 1));
    assert_int_equal(*posted(32), 1);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPT_STATUS), 0);
}

static void a_halted_guest_wakes_up(void)
{
    L2_PROGRAM(l2, STI, INTERRUPT_ARRIVES(NOTIFICATION), VMCALL);
    prepare(&l2);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    l1_vmwrite(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_HLT);
    handlers_exit();
    post(0x61);
    cpu_interrupt(l1_cpu(), NOTIFICATION);
    l1_vmlaunch();
    expect_in_handler(0x61);
    assert_int_equal(*(uint64_t *)l2_memory(l1_vmread(VMCS_GUEST_RSP)), l2.code);
}

// A request of a class that TPR masks is kept.
static void a_masked_request_waits(void)
{
    L2_PROGRAM(l2, STI, NOP, INTERRUPT_ARRIVES(NOTIFICATION), NOP, MOV_TO_CR(8, 4), NOP, VMCALL);
    prepare(&l2);
    handlers_exit();
    static const uint32_t tpr = 0x60;
    memcpy((uint8_t *)l1_memory(virtual_apic) + 0x80, &tpr, 4);
    post(0x55);
    l1_vmlaunch();
    expect_in_handler(0x55);
    uint64_t *frame = l2_memory(l1_vmread(VMCS_GUEST_RSP));
    assert_true(frame[0] >= l2.code + 1 + 1 + 1 + 1 + 3); // behind the change of TPR
}

static void a_notification_without_requests_is_nothing(void)
{
    L2_PROGRAM(l2, STI, NOP, INTERRUPT_ARRIVES(NOTIFICATION), NOP, VMCALL);
    prepare(&l2);
    handlers_exit();
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPT_STATUS), 0);
}

// A lower request does not lower what is requested already.
static void the_highest_request_counts(void)
{
    L2_PROGRAM(l2, INTERRUPT_ARRIVES(NOTIFICATION), NOP, VMCALL);
    prepare(&l2);
    l1_vmwrite(VMCS_GUEST_INTERRUPT_STATUS, 0x88);
    post(0x51);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPT_STATUS), 0x88);
}

static void the_controls_are_checked(void)
{
    L2_PROGRAM(l2, VMCALL);
    prepare(&l2);
    l1_vmwrite(VMCS_POSTED_INTERRUPT_VECTOR, 0x100);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_vmwrite(VMCS_POSTED_INTERRUPT_VECTOR, 0xff);
    l1_vmwrite(VMCS_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, descriptor + 32);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_vmwrite(VMCS_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, 1ull << 40);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_vmwrite(VMCS_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, descriptor);
    l1_clear(VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_set(VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    l1_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_VIRTUAL_INTERRUPT_DELIVERY);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_VIRTUAL_INTERRUPT_DELIVERY);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(a_notification_delivers_what_was_posted),
        BOTH(closed_interrupts_do_not_matter),
        BOTH(another_vector_exits),
        BOTH(a_halted_guest_wakes_up),
        BOTH(a_masked_request_waits),
        BOTH(a_notification_without_requests_is_nothing),
        BOTH(the_highest_request_counts),
        BOTH(the_controls_are_checked),
    };
    return cmocka_run_group_tests_name("posted interrupts", tests, NULL, NULL);
}
