// SPDX-License-Identifier: MIT
// The first fetch of an exception handler that misses in EPT; also with the processor under L0 saving the RIP
// of before the delivery (a defect: engine/ept_fault.c, mend_rip_of_fetch), which neither L1 nor L2 may
// notice. Manual: VM Exits During Event Delivery; Exit Qualification for EPT Violations.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void the_handler_runs_once(void)
{
    L2_PROGRAM(l2, UD2, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    uint64_t rsp = l1_vmread(VMCS_GUEST_RSP);
    l1_vmlaunch();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_UD));
    assert_int_equal(l1_vmread(VMCS_GUEST_RSP), (rsp & ~15ull) - 40); // SS, RSP, RFLAGS, CS, RIP
}

// ... where L1 has not mapped the handler yet: the exit is of the handler, as its RSP is.
static void the_violation_is_at_the_handler(void)
{
    L2_PROGRAM(l2, UD2, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    uint64_t *entry = l1_ept_entry(l2.eptp, L2_HANDLER(VECTOR_UD), 1), mapped = *entry;
    *entry = 0;
    l1_vmlaunch();
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_UD));
    *entry = mapped;
    l1_vmresume();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_UD));
}

#define OLD_RIP(function) BOTH(function), BOTH_WITH(function, ", old RIP", .saves_old_rip = true)

static const struct CMUnitTest tests[] = {
    OLD_RIP(the_handler_runs_once),
    OLD_RIP(the_violation_is_at_the_handler),
};

int main(void)
{
    return cmocka_run_group_tests_name("first_fetch", tests, NULL, NULL);
}
