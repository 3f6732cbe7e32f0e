// SPDX-License-Identifier: MIT
// EPT violations as virtualization exceptions (#VE): which are convertible, when they are converted, what the
// guest finds in the information area, and what becomes of the exception.
// Manual: Virtualization Exceptions.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define PAGE       0x30000ull    // linear and L2-physical
#define FAR_PAGE   0x40000000ull // L2-physical; no table of the EPT leads there
#define SUPPRESS   (1ull << 63)
#define VE         20
#define INDEX      7
#define BUSY       0xffffffffull
#define HANDLER_VE 0xe014ull // where L2's handlers halt; see l2_load

static uint64_t area_page;

static uint64_t area(unsigned offset)
{
    uint64_t value = 0;
    memcpy(&value, (const uint8_t *)l1_memory(area_page) + offset, 8);
    return value;
}

static uint32_t area_word(unsigned offset)
{
    return (uint32_t)area(offset);
}

static void prepare(struct l2 *l2)
{
    l1_prepare(l2);
    area_page = l1_new_page();
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_EPT_VIOLATION_VE);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmwrite(VMCS_VIRTUALIZATION_EXCEPTION_ADDRESS, area_page);
    l1_vmwrite(VMCS_EPTP_INDEX, INDEX);
}

static void protect(const struct l2 *l2, uint64_t page, uint64_t entry)
{
    *l1_ept_entry(l2->eptp, page, 1) = entry;
    l1_invept(INVEPT_SINGLE_CONTEXT, l2->eptp);
}

static void expect_ve(uint64_t qualification, uint64_t linear, uint64_t physical)
{
    expect_exit(EXIT_HLT); // of L2's handler
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), HANDLER_VE);
    assert_int_equal(area_word(0), EXIT_EPT_VIOLATION);
    assert_int_equal(area_word(4), BUSY);
    assert_int_equal(area(8) & EPT_QUALIFICATION, qualification);
    assert_int_equal(area(16), linear);
    assert_int_equal(area(24), physical);
    assert_int_equal(area(32) & 0xffff, INDEX);
}

static void the_guest_gets_its_violation(void)
{
    L2_PROGRAM(l2, WRITE(PAGE + 0x18, 1), VMCALL);
    prepare(&l2);
    protect(&l2, PAGE, (L2_RAM + PAGE) | 6 << 3 | 5); // read and execute
    l1_vmlaunch();
    expect_ve(2 | 5 << 3 | 3 << 7, PAGE + 0x18, PAGE + 0x18);
    // a fault: the frame says where to go on, there is no error code, and RF is set
    uint64_t *frame = l2_memory(l1_vmread(VMCS_GUEST_RSP));
    assert_int_equal(frame[0], l2.code);
    assert_true(frame[2] & RFLAGS_RF);
    assert_int_equal(l1_vmread(VMCS_GUEST_RSP), 0x9000 - 40);
}

static void a_page_that_is_not_there_is_convertible(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, PAGE), VMCALL);
    prepare(&l2);
    protect(&l2, PAGE, 0);
    l1_vmlaunch();
    expect_ve(1 | 3 << 7, PAGE, PAGE);
}

// Bit 63 of the entry that is not present, at whatever level, or of the one that maps the page.
static void suppress_ve_keeps_the_exit(void)
{
    L2_PROGRAM(l2, WRITE(PAGE, 1), VMCALL);
    prepare(&l2);
    protect(&l2, PAGE, SUPPRESS);
    l1_vmlaunch();
    expect_exit(EXIT_EPT_VIOLATION);
    protect(&l2, PAGE, SUPPRESS | (L2_RAM + PAGE) | 6 << 3 | 1);
    l1_vmresume();
    expect_exit(EXIT_EPT_VIOLATION);
    protect(&l2, PAGE, (L2_RAM + PAGE) | 6 << 3 | 1);
    *l1_ept_entry(l2.eptp, PAGE, 2) |= SUPPRESS; // of an entry that leads on: ignored
    l1_vmresume();
    expect_ve(2 | 1 << 3 | 3 << 7, PAGE, PAGE);
}

static void suppress_ve_of_an_upper_entry(void)
{
    L2_PROGRAM(l2, WRITE(PAGE, 1), VMCALL);
    prepare(&l2);
    *(uint64_t *)l2_memory(0x4000 + 8 * (PAGE >> 12)) = FAR_PAGE | 7;
    *l1_ept_entry(l2.eptp, FAR_PAGE, 3) = SUPPRESS;
    l1_vmlaunch();
    expect_exit(EXIT_EPT_VIOLATION);
    *l1_ept_entry(l2.eptp, FAR_PAGE, 3) = 0;
    l1_invept(INVEPT_SINGLE_CONTEXT, l2.eptp);
    l1_vmresume();
    expect_ve(2 | 3 << 7, PAGE, FAR_PAGE);
}

// One at a time: until the guest clears the second word of the area.
static void a_busy_area_keeps_the_exit(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, PAGE), VMCALL);
    prepare(&l2);
    protect(&l2, PAGE, 0);
    static const uint32_t one = 1, none = 0;
    memcpy((uint8_t *)l1_memory(area_page) + 4, &one, 4);
    l1_vmlaunch();
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(area_word(0), 0); // nothing was written
    memcpy((uint8_t *)l1_memory(area_page) + 4, &none, 4);
    l1_vmresume();
    expect_ve(1 | 3 << 7, PAGE, PAGE);
}

static void an_event_delivery_keeps_the_exit(void)
{
    L2_PROGRAM(l2, INT(0x40), VMCALL);
    prepare(&l2);
    protect(&l2, 0x8000, 0); // the stack
    l1_vmlaunch();
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0x80000440);
    assert_int_equal(area_word(0), 0);
}

static void real_address_mode_keeps_the_exit(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, PAGE), VMCALL);
    prepare(&l2);
    protect(&l2, PAGE, 0);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_UNRESTRICTED_GUEST);
    l1_clear(VMCS_VM_ENTRY_CONTROLS, ENTRY_IA32E_MODE_GUEST);
    l1_vmwrite(VMCS_GUEST_IA32_EFER, 0);
    l1_vmwrite(VMCS_GUEST_CR0, CR0_NE | CR0_ET);
    for (uint32_t i = 0; i < 6; i++) {
        l1_vmwrite(VMCS_GUEST_ES_LIMIT + 2 * i, 0xffff);
        l1_vmwrite(VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * i, i == SEGMENT_CS ? 0x9b : 0x93);
    }
    l1_vmwrite(VMCS_GUEST_CS_SELECTOR, l2.code >> 4);
    l1_vmwrite(VMCS_GUEST_CS_BASE, l2.code);
    l1_vmwrite(VMCS_GUEST_RIP, 0);
    l1_vmlaunch();
    expect_exit(EXIT_EPT_VIOLATION);
}

static void misconfigurations_are_never_converted(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, PAGE), VMCALL);
    prepare(&l2);
    protect(&l2, PAGE, 2);
    l1_vmlaunch();
    expect_exit(EXIT_EPT_MISCONFIGURATION);
}

static void the_exception_bitmap_applies(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, PAGE), VMCALL);
    prepare(&l2);
    protect(&l2, PAGE, 0);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VE);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000300 | VE); // and no error code
    assert_int_equal(l1_vmread(VMCS_EXIT_QUALIFICATION), 0);
    assert_int_equal(area_word(0), EXIT_EPT_VIOLATION); // and the area was written
    assert_int_equal(area_word(4), BUSY);
}

// Delivery of #VE meets a fault: as with a page fault.
static void a_fault_on_top_is_a_double_fault(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, PAGE), VMCALL);
    prepare(&l2);
    protect(&l2, PAGE, 0);
    l1_vmwrite(VMCS_GUEST_IDTR_LIMIT, 16 * VE - 1); // no gate for #VE, but one for #DF
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << 8);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000b08);
}

// The delivery itself may end in an exit, with #VE in the IDT-vectoring information.
static void an_exit_during_its_delivery_names_it(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, PAGE), VMCALL);
    prepare(&l2);
    protect(&l2, PAGE, 0);
    protect(&l2, 0x8000, 0); // the stack
    l1_vmlaunch();
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0x80000300 | VE);
    assert_int_equal(l1_vmread(VMCS_GUEST_LINEAR_ADDRESS), 0x9000 - 40);
    assert_int_equal(area(16), PAGE);
}

static void the_address_is_checked(void)
{
    L2_PROGRAM(l2, VMCALL);
    prepare(&l2);
    l1_vmwrite(VMCS_VIRTUALIZATION_EXCEPTION_ADDRESS, area_page + 8);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_vmwrite(VMCS_VIRTUALIZATION_EXCEPTION_ADDRESS, 1ull << 40);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_vmwrite(VMCS_VIRTUALIZATION_EXCEPTION_ADDRESS, area_page);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(the_guest_gets_its_violation),
        BOTH(a_page_that_is_not_there_is_convertible),
        BOTH(suppress_ve_keeps_the_exit),
        BOTH(suppress_ve_of_an_upper_entry),
        BOTH(a_busy_area_keeps_the_exit),
        BOTH(an_event_delivery_keeps_the_exit),
        BOTH(real_address_mode_keeps_the_exit),
        BOTH(misconfigurations_are_never_converted),
        BOTH(the_exception_bitmap_applies),
        BOTH(a_fault_on_top_is_a_double_fault),
        BOTH_WITH(a_fault_on_top_is_a_double_fault, ", L0 raises it", .l0_exceptions = 1u << VECTOR_GP),
        BOTH(an_exit_during_its_delivery_names_it),
        BOTH(the_address_is_checked),
    };
    return cmocka_run_group_tests_name("virtualization exceptions", tests, NULL, NULL);
}
