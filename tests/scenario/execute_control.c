// SPDX-License-Identifier: MIT
// Mode-based execute control for EPT: fetches from supervisor-mode linear addresses by bit 2 of the EPT
// entries, from user-mode ones by bit 10. A linear address is a user-mode one when every paging-structure
// entry on its way says so, whatever the privilege level.
// Manual: The Extended Page Table Mechanism (EPT); Exit Qualification for EPT Violations.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define PAGE          0x30000ull                  // linear and L2-physical
#define PTE           (0x4000 + 8 * (PAGE >> 12)) // L2's own, for it
#define READ_WRITE    3u
#define SUPERVISOR    4u // execute
#define USER          EPT_USER_EXECUTE
#define QUALIFICATION 0x1ffull

static void set_l2_page(bool user)
{
    uint64_t *pte = l2_memory(PTE);
    *pte = PAGE | 3 | (user ? 4 : 0);
}

static void set_ept_rights(const struct l2 *l2, unsigned rights)
{
    uint64_t *entry = l1_ept_entry(l2->eptp, PAGE, 1);
    *entry = (*entry & ~0x407ull) | rights;
    l1_invept(INVEPT_SINGLE_CONTEXT, l2->eptp);
}

// L2's code at PAGE.
static void put_code(const struct op *op, unsigned count)
{
    struct program program = {.name = "the page", .base = PAGE, .level = 2, .op = op, .count = count};
    machine_add_program(world_machine(), &program);
}
static const struct op call_ops[] = {VMCALL};
static const struct op both_levels_ops[] = {SET_CPL(3), NOP, SET_CPL(0), VMCALL};
static const struct op read_ops[] = {READ(GPR_RBX, PAGE), VMCALL};
#define PUT_CODE(ops) put_code(ops, sizeof(ops) / sizeof(ops[0]))

static void prepare(struct l2 *l2)
{
    l1_enter_vmx_operation();
    l2->eptp = l1_new_ept();
    l1_ept_map(l2->eptp, 0, L2_RAM, L2_RAM_SIZE, 0x1000, READ_WRITE | SUPERVISOR | USER);
    l1_prepare_vmcs(VMCS_A, l2);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_MODE_BASED_EXECUTE_CONTROL);
}

static void run_at(uint64_t rip)
{
    l1_vmwrite(VMCS_GUEST_RIP, rip);
    l1_vmclear(VMCS_A); // the state stays, the launch state goes
    l1_vmptrld(VMCS_A);
    l1_vmlaunch();
}

static void expect_fetch_refused(unsigned rights)
{
    expect_exit(EXIT_EPT_VIOLATION);
    uint64_t qualification = 1 << 2 | (rights & 7) << 3 | (rights & USER ? 1 << 6 : 0) | 3 << 7;
    assert_int_equal(l1_vmread_masked(VMCS_EXIT_QUALIFICATION, QUALIFICATION), qualification);
    assert_int_equal(l1_vmread(VMCS_GUEST_PHYSICAL_ADDRESS), PAGE);
    assert_int_equal(l1_vmread(VMCS_GUEST_LINEAR_ADDRESS), PAGE);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), PAGE);
}

static void each_kind_of_address_has_its_bit(void)
{
    L2_PROGRAM(l2, JUMP(PAGE));
    prepare(&l2);
    PUT_CODE(call_ops);
    for (unsigned user = 0; user < 2; user++) {
        set_l2_page(user);
        for (unsigned execute = 0; execute < 4; execute++) {
            unsigned rights = READ_WRITE | (execute & 1 ? SUPERVISOR : 0) | (execute & 2 ? USER : 0);
            set_ept_rights(&l2, rights);
            run_at(l2.code);
            if (rights & (user ? USER : SUPERVISOR))
                expect_exit(EXIT_VMCALL);
            else
                expect_fetch_refused(rights);
        }
    }
}

// Privilege does not matter, only the address: CPL 0 fetches from a user-mode address by bit 10.
static void privilege_does_not_matter(void)
{
    L2_PROGRAM(l2, JUMP(PAGE));
    prepare(&l2);
    PUT_CODE(both_levels_ops);
    set_l2_page(true);
    set_ept_rights(&l2, READ_WRITE | USER);
    run_at(l2.code);
    expect_exit(EXIT_VMCALL);
}

// The tables on the way must permit it, too.
static void upper_entries_restrict(void)
{
    L2_PROGRAM(l2, JUMP(PAGE));
    prepare(&l2);
    PUT_CODE(call_ops);
    set_l2_page(true);
    set_ept_rights(&l2, READ_WRITE | USER | SUPERVISOR);
    l1_ept_map(l2.eptp, 0x40000000, L2_RAM, 0x1000, 0x1000, READ_WRITE | SUPERVISOR | USER);
    *(uint64_t *)l2_memory(PTE) = 0x40000000 | 7;
    *l1_ept_entry(l2.eptp, 0x40000000, 2) &= ~(uint64_t)USER;
    run_at(l2.code);
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(l1_vmread_masked(VMCS_EXIT_QUALIFICATION, QUALIFICATION), 1 << 2 | 7 << 3 | 3 << 7);
}

// An entry with bit 10 alone is present, and needs the processor to support execute-only translations.
static void user_execute_alone_is_present(void)
{
    L2_PROGRAM(l2, JUMP(PAGE));
    prepare(&l2);
    PUT_CODE(read_ops);
    set_l2_page(true);
    set_ept_rights(&l2, USER);
    run_at(l2.code);
    if (!(world_l1_processor()->vmx.msr[MSR_IA32_VMX_EPT_VPID_CAP - CAPS_MSR_FIRST] & EPT_CAP_EXECUTE_ONLY)) {
        expect_exit(EXIT_EPT_MISCONFIGURATION);
        return;
    }
    expect_exit(EXIT_EPT_VIOLATION); // the read, not the fetch
    assert_int_equal(l1_vmread_masked(VMCS_EXIT_QUALIFICATION, QUALIFICATION), 1 << 0 | 1 << 6 | 3 << 7);
}

// Without the control bit 10 is ignored, and so an entry that has it alone is not present.
static void without_the_control_bit_10_is_ignored(void)
{
    L2_PROGRAM(l2, JUMP(PAGE));
    prepare(&l2);
    PUT_CODE(call_ops);
    l1_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_MODE_BASED_EXECUTE_CONTROL);
    set_l2_page(true);
    set_ept_rights(&l2, READ_WRITE | USER);
    run_at(l2.code);
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(l1_vmread_masked(VMCS_EXIT_QUALIFICATION, EPT_QUALIFICATION), 1 << 2 | 3 << 3 | 3 << 7);
    set_ept_rights(&l2, READ_WRITE | SUPERVISOR);
    run_at(l2.code);
    expect_exit(EXIT_VMCALL);
    set_ept_rights(&l2, USER);
    run_at(l2.code);
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(l1_vmread_masked(VMCS_EXIT_QUALIFICATION, EPT_QUALIFICATION), 1 << 2 | 3 << 7);
}

static void the_control_wants_ept(void)
{
    L2_PROGRAM(l2, VMCALL);
    l2.without_ept = true;
    l1_prepare(&l2);
    l1_vmwrite(VMCS_SECONDARY_CONTROLS, SECONDARY_MODE_BASED_EXECUTE_CONTROL);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_ACTIVATE_SECONDARY);
    expect_fail_valid(try_vmlaunch(), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(each_kind_of_address_has_its_bit),
        BOTH(privilege_does_not_matter),
        BOTH(upper_entries_restrict),
        BOTH(user_execute_alone_is_present),
        BOTH(without_the_control_bit_10_is_ignored),
        BOTH(the_control_wants_ept),
    };
    return cmocka_run_group_tests_name("mode-based execute control", tests, NULL, NULL);
}
