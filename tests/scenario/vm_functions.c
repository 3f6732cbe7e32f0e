// SPDX-License-Identifier: MIT
// VMFUNC: EPTP switching, and the VM exits of what fails.
// Manual: VM Functions; VMFUNC in VMX Instruction Reference.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define PAGE          0x30000ull // linear and L2-physical; it is another one under each EPT pointer
#define OTHER         0x31000ull
#define FOREIGN       5 // indexes into the list
#define LAST          511
#define SWITCH(index) OP(.kind = OP_VMFUNC, .a = 0, .b = (index))

static uint64_t list_page, other_eptp;

static void set_list(unsigned index, uint64_t eptp)
{
    ((uint64_t *)l1_memory(list_page))[index] = eptp;
}

// Two EPTs that differ in where PAGE is.
static void prepare(struct l2 *l2)
{
    l1_prepare(l2);
    other_eptp = l1_new_ept();
    l1_ept_map(other_eptp, 0, L2_RAM, L2_RAM_SIZE, 0x1000, 7);
    *l1_ept_entry(other_eptp, PAGE, 1) = (L2_RAM + OTHER) | 7 | 6 << 3;
    *(uint64_t *)l2_memory(PAGE) = 0xaa;
    *(uint64_t *)l2_memory(OTHER) = 0xbb;
    list_page = l1_new_page();
    set_list(0, l2->eptp);
    set_list(1, other_eptp);
    set_list(LAST, other_eptp);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VMFUNC);
    l1_vmwrite(VMCS_VM_FUNCTION_CONTROLS, 1);
    l1_vmwrite(VMCS_EPTP_LIST_ADDRESS, list_page);
}

static void l2_switches_by_itself(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, PAGE), SWITCH(1), READ(GPR_RSI, PAGE), SWITCH(0), READ(GPR_RDI, PAGE),
               SWITCH(LAST), READ(GPR_RBP, PAGE), VMCALL);
    prepare(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_gpr(GPR_RBX), 0xaa);
    assert_int_equal(l1_gpr(GPR_RSI), 0xbb);
    assert_int_equal(l1_gpr(GPR_RDI), 0xaa);
    assert_int_equal(l1_gpr(GPR_RBP), 0xbb);
    assert_int_equal(l1_vmread(VMCS_EPT_POINTER), other_eptp); // L1 sees what L2 chose
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume(); // ... and the next entry begins there
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_gpr(GPR_RBX), 0xbb);
}

// At any privilege level.
static void user_code_may_switch(void)
{
    L2_PROGRAM(l2, SET_CPL(3), SWITCH(1), READ(GPR_RSI, PAGE), VMCALL);
    prepare(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_gpr(GPR_RSI), 0xbb);
}

static void expect_vmfunc_fails(uint64_t rip, uint64_t eptp)
{
    expect_exit_length(EXIT_VMFUNC, 3);
    assert_int_equal(l1_vmread(VMCS_EXIT_QUALIFICATION), 0);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), rip);
    assert_int_equal(l1_vmread(VMCS_EPT_POINTER), eptp);
}

static void what_fails_exits(void)
{
    L2_PROGRAM(l2, SWITCH(512), SWITCH(0xffffffff), SWITCH(FOREIGN), VMFUNC(1), VMFUNC(63), VMCALL);
    prepare(&l2);
    set_list(FOREIGN, other_eptp | 5); // a memory type that there is not
    assert_int_equal(l1_new_page(), list_page + PAGE_SIZE);
    set_list(LAST + 1, other_eptp); // behind the list
    uint64_t at = l2.code;
    l1_vmlaunch();
    for (unsigned i = 0; i < 5; i++, at += 3) {
        expect_vmfunc_fails(at, l2.eptp);
        l1_skip_instruction();
        l1_vmresume();
    }
    expect_exit(EXIT_VMCALL);
}

static void there_are_64_functions(void)
{
    L2_PROGRAM(l2, VMFUNC(64), VMFUNC(0xffffffff), VMCALL);
    prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_UD);
    l1_vmlaunch();
    for (unsigned i = 0; i < 2; i++) {
        expect_exit(EXIT_EXCEPTION_OR_NMI);
        assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000306);
        l1_vmwrite(VMCS_GUEST_RIP, l2.code + 3 * (i + 1));
        l1_vmresume();
    }
    expect_exit(EXIT_VMCALL);
}

static void invalid_ept_pointers(void)
{
    static const uint64_t flaws[] = {1, 0x7 << 3, 0x80, 0xf00, 1ull << 40, 1ull << 63};
    L2_PROGRAM(l2, SWITCH(FOREIGN), VMCALL);
    prepare(&l2);
    l1_vmlaunch(); // nothing is in the list there: memory type 0, walk length 1
    expect_vmfunc_fails(l2.code, l2.eptp);
    for (unsigned i = 0; i < sizeof(flaws) / sizeof(flaws[0]); i++) {
        set_list(FOREIGN, other_eptp ^ flaws[i]);
        l1_vmresume();
        expect_vmfunc_fails(l2.code, l2.eptp);
    }
    set_list(FOREIGN, other_eptp);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void a_function_that_is_not_enabled_exits(void)
{
    L2_PROGRAM(l2, SWITCH(1), VMCALL);
    prepare(&l2);
    l1_vmwrite(VMCS_VM_FUNCTION_CONTROLS, 0);
    l1_vmlaunch();
    expect_vmfunc_fails(l2.code, l2.eptp);
}

static void without_the_control_there_is_no_vmfunc(void)
{
    L2_PROGRAM(l2, SWITCH(1), VMCALL);
    prepare(&l2);
    l1_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VMFUNC);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_UD);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000306);
    expect_exception(l1_execute(SWITCH(1)), VECTOR_UD); // nor in VMX root operation
}

// With virtualization exceptions the index says under which pointer one happened.
static void the_index_follows(void)
{
    L2_PROGRAM(l2, SWITCH(1), READ(GPR_RBX, 0x40000), VMCALL);
    prepare(&l2);
    uint64_t area = l1_new_page();
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_EPT_VIOLATION_VE);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmwrite(VMCS_VIRTUALIZATION_EXCEPTION_ADDRESS, area);
    l1_vmwrite(VMCS_EPTP_INDEX, 0);
    *l1_ept_entry(other_eptp, 0x40000, 1) = 0;
    l1_vmlaunch();
    expect_exit(EXIT_HLT); // in the handler of #VE
    assert_int_equal(*(uint16_t *)((uint8_t *)l1_memory(area) + 32), 1);
    assert_int_equal(l1_vmread(VMCS_EPTP_INDEX), 1);
}

// INVEPT of one pointer is about that one.
static void each_pointer_has_its_own_translations(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, PAGE), SWITCH(1), READ(GPR_RSI, PAGE), VMCALL, SWITCH(0),
               READ(GPR_RBX, PAGE), SWITCH(1), READ(GPR_RSI, PAGE), VMCALL);
    l2.vpid = 3;
    prepare(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    *l1_ept_entry(l2.eptp, PAGE, 1) = (L2_RAM + 0x32000) | 7 | 6 << 3;
    l1_invept(INVEPT_SINGLE_CONTEXT, l2.eptp);
    *(uint64_t *)l2_memory(0x32000) = 0xcc;
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_gpr(GPR_RBX), 0xcc);
    assert_int_equal(l1_gpr(GPR_RSI), 0xbb);
}

static void the_controls_are_checked(void)
{
    L2_PROGRAM(l2, VMCALL);
    prepare(&l2);
    l1_vmwrite(VMCS_VM_FUNCTION_CONTROLS, 3);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_vmwrite(VMCS_VM_FUNCTION_CONTROLS, 1);
    l1_vmwrite(VMCS_EPTP_LIST_ADDRESS, list_page + 8);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_vmwrite(VMCS_EPTP_LIST_ADDRESS, 1ull << 40);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_vmwrite(VMCS_EPTP_LIST_ADDRESS, list_page);
    l1_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_vmwrite(VMCS_VM_FUNCTION_CONTROLS, 0); // then the list is not looked at
    l1_vmwrite(VMCS_EPTP_LIST_ADDRESS, 1);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(l2_switches_by_itself),
        BOTH(user_code_may_switch),
        BOTH(what_fails_exits),
        BOTH(there_are_64_functions),
        BOTH(invalid_ept_pointers),
        BOTH(a_function_that_is_not_enabled_exits),
        BOTH(without_the_control_there_is_no_vmfunc),
        BOTH(the_index_follows),
        BOTH(each_pointer_has_its_own_translations),
        BOTH(the_controls_are_checked),
    };
    return cmocka_run_group_tests_name("VM functions", tests, NULL, NULL);
}
