// SPDX-License-Identifier: MIT
// Task switches of L2, which always exit: by far CALL and JMP, by IRET with NT set, and through task gates.
// Manual: Treatment of Task Switches; Exit Qualification for Task Switches.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define GDT        0x40000 // L2-physical
#define IDT        0x41000
#define TSS        0x42000
#define FREE_TSS   0x28 // selectors
#define BUSY_TSS   0x30
#define ABSENT_TSS 0x38
#define DATA       0x40
#define BEYOND     0x48
#define GATE       0x44 // vectors
#define BAD_GATE   0x45

enum source { BY_CALL, BY_IRET, BY_JMP, BY_GATE };

static void put_descriptor(unsigned selector, uint8_t access)
{
    uint8_t descriptor[8] = {0x67, 0, 0, 0x20, 4, access, 0, 0};
    memcpy((uint8_t *)l2_memory(GDT) + selector, descriptor, 8);
}

static void put_gate(unsigned vector, unsigned selector, uint8_t access)
{
    uint8_t gate[8] = {0, 0, (uint8_t)selector, (uint8_t)(selector >> 8), 0, access, 0, 0};
    memcpy((uint8_t *)l2_memory(IDT) + 8 * vector, gate, 8);
}

// L2 in protected mode without paging.
static void prepare(struct l2 *l2)
{
    l1_prepare(l2);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_UNRESTRICTED_GUEST);
    l1_clear(VMCS_VM_ENTRY_CONTROLS, ENTRY_IA32E_MODE_GUEST);
    l1_vmwrite(VMCS_GUEST_IA32_EFER, 0);
    l1_vmwrite(VMCS_GUEST_CS_ACCESS_RIGHTS, 0xc09b);
    l1_vmwrite(VMCS_GUEST_CR0, CR0_PE | CR0_NE | CR0_ET);
    l1_vmwrite(VMCS_GUEST_CR4, CR4_VMXE);
    l1_vmwrite(VMCS_GUEST_GDTR_BASE, GDT);
    l1_vmwrite(VMCS_GUEST_GDTR_LIMIT, DATA + 7);
    l1_vmwrite(VMCS_GUEST_IDTR_BASE, IDT);
    l1_vmwrite(VMCS_GUEST_TR_BASE, TSS);
    put_descriptor(FREE_TSS, 0x89);
    put_descriptor(BUSY_TSS, 0x8b);
    put_descriptor(ABSENT_TSS, 0x09);
    put_descriptor(DATA, 0x93);
    put_gate(GATE, FREE_TSS, 0xe5);
    put_gate(BAD_GATE, BUSY_TSS, 0xe5);
}

static void expect_task_switch(uint64_t selector, enum source source)
{
    expect_exit_qualification(EXIT_TASK_SWITCH, selector | (uint64_t)source << 30);
}

static void far_transfers_exit(void)
{
    L2_PROGRAM(l2, CALL_TASK(FREE_TSS), JUMP_TASK(FREE_TSS), VMCALL);
    prepare(&l2);
    l1_vmlaunch();
    expect_task_switch(FREE_TSS, BY_CALL);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 7);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
    l1_skip_instruction();
    l1_vmresume();
    expect_task_switch(FREE_TSS, BY_JMP);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

// The link in the current TSS says where to.
static void iret_from_a_nested_task_exits(void)
{
    L2_PROGRAM(l2, SET_FLAGS(RFLAGS_FIXED | RFLAGS_NT), IRET, VMCALL);
    prepare(&l2);
    static const uint16_t link = BUSY_TSS;
    memcpy(l2_memory(TSS), &link, 2);
    l1_vmlaunch();
    expect_task_switch(BUSY_TSS, BY_IRET);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 2);
}

static void a_task_gate_exits(void)
{
    L2_PROGRAM(l2, INT(GATE), VMCALL);
    prepare(&l2);
    l1_vmlaunch();
    expect_task_switch(FREE_TSS, BY_GATE);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0x80000400 | GATE);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 2);
    // an external interrupt, injected
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000000 | GATE);
    l1_vmresume();
    expect_task_switch(FREE_TSS, BY_GATE);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0x80000000 | GATE);
}

static void an_exception_through_a_task_gate_exits(void)
{
    L2_PROGRAM(l2, FAULT_CODE(VECTOR_GP, 0x1234), VMCALL);
    prepare(&l2);
    put_gate(VECTOR_GP, FREE_TSS, 0x85);
    l1_vmlaunch();
    expect_task_switch(FREE_TSS, BY_GATE);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0x80000b0d);
    assert_int_equal(l1_vmread(VMCS_IDT_VECTORING_ERROR_CODE), 0x1234);
}

// What is wrong with the descriptors is found first.
static void faults_come_first(void)
{
    static const struct {
        uint32_t length, interruption, error_code;
    } cases[] = {
        {7, 0x80000b0d, BUSY_TSS},     {7, 0x80000b0b, ABSENT_TSS}, {7, 0x80000b0d, BEYOND},
        {7, 0x80000b0d, FREE_TSS | 4}, {7, 0x80000b0d, 0},          {2, 0x80000b0d, BUSY_TSS},
    };
    L2_PROGRAM(l2, CALL_TASK(BUSY_TSS), CALL_TASK(ABSENT_TSS), CALL_TASK(BEYOND), CALL_TASK(FREE_TSS | 4),
               CALL_TASK(3), INT(BAD_GATE), VMCALL);
    prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP | 1u << VECTOR_NP | 1u << VECTOR_TS);
    uint64_t rip = l2.code;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        l1_vmwrite(VMCS_GUEST_RIP, rip);
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_exit(EXIT_EXCEPTION_OR_NMI);
        assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_INFO), cases[i].interruption);
        assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), cases[i].error_code);
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), rip);
        rip += cases[i].length;
    }
}

// IA-32e mode has none: #GP.
static void long_mode_has_no_tasks(void)
{
    L2_PROGRAM(l2, SET_FLAGS(RFLAGS_FIXED | RFLAGS_NT), IRET, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000b0d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(far_transfers_exit), BOTH(iret_from_a_nested_task_exits),
        BOTH(a_task_gate_exits),  BOTH(an_exception_through_a_task_gate_exits),
        BOTH(faults_come_first),  BOTH(long_mode_has_no_tasks),
    };
    return cmocka_run_group_tests_name("task switches", tests, NULL, NULL);
}
