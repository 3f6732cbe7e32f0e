// SPDX-License-Identifier: MIT
// VM entries that look wrong, and that the manual permits.
// Manual: Checking and Loading Guest State.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

// Bits 63:48 of RIP must be identical, and that is all: bit 47 is found out by the first fetch.
static void a_rip_that_is_not_canonical(void)
{
    static const uint64_t rips[] = {0x0000800000000000, 0xffff7fffffffffff, 0x0000ffffffffffff};
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    for (unsigned i = 0; i < sizeof(rips) / sizeof(rips[0]); i++) {
        l1_vmwrite(VMCS_GUEST_RIP, rips[i]);
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_exit(EXIT_EXCEPTION_OR_NMI);
        assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000b0d);
        assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), 0);
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), rips[i]);
    }
    l1_vmwrite(VMCS_GUEST_RIP, 0x0001000000000000);
    l1_vmresume();
    expect_entry_failure(33, 0);
}

// The unusable bit of CS is not checked; type, S, DPL and P are, as if it were clear.
static void an_unusable_code_segment(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa09b | SEGMENT_UNUSABLE);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    l1_vmwrite(VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa01b | SEGMENT_UNUSABLE); // not present
    l1_vmresume();
    expect_entry_failure(33, 0);
}

// Of an unusable data segment nothing is looked at, not even reserved bits.
static void unusable_data_segments(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    for (uint32_t i = 0; i < 4; i++) {
        static const uint32_t names[] = {SEGMENT_ES, SEGMENT_DS, SEGMENT_FS, SEGMENT_GS};
        l1_vmwrite(VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * names[i], 0xfffeffffu | SEGMENT_UNUSABLE);
        l1_vmwrite(VMCS_GUEST_ES_LIMIT + 2 * names[i], 0xfff00000);
    }
    l1_vmwrite(VMCS_GUEST_LDTR_ACCESS_RIGHTS, 0xffff);
    l1_vmlaunch();
    expect_entry_failure(33, 0); // LDTR is usable
    l1_vmwrite(VMCS_GUEST_LDTR_ACCESS_RIGHTS, 0x1ffff);
    l1_vmwrite(VMCS_GUEST_LDTR_SELECTOR, 0xffff);
    l1_vmwrite(VMCS_GUEST_LDTR_BASE, 0x1234567890abcdef);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

// An NMI may be injected while blocking by STI, and while NMIs are blocked if they are not virtual.
static void nmis_that_are_injected_while_blocked(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    l1_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, INTERRUPTIBILITY_STI | INTERRUPTIBILITY_NMI);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000202);
    l1_vmlaunch();
    expect_exit(EXIT_HLT); // in the handler
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), 0xe002);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPTIBILITY), INTERRUPTIBILITY_NMI);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(a_rip_that_is_not_canonical),
        BOTH(an_unusable_code_segment),
        BOTH(unusable_data_segments),
        BOTH(nmis_that_are_injected_while_blocked),
    };
    return cmocka_run_group_tests_name("odd entries", tests, NULL, NULL);
}
