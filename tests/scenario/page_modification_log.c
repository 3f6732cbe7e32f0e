// SPDX-License-Identifier: MIT
// Accessed and dirty flags for EPT, and page-modification logging: what sets a dirty flag, what goes into the
// log, and what happens when it is full.
// Manual: Accessed and Dirty Flags for EPT; Page-Modification Logging.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define PAGE_A    0x30000ull // linear and L2-physical
#define PAGE_B    0x31000ull
#define PAGE_C    0x32000ull
#define EPTP_AD   (1u << 6)
#define ACCESSED  (1u << 8)
#define DIRTY     (1u << 9)
#define EMPTY_LOG 511u

static uint64_t log_page;

static void prepare(struct l2 *l2)
{
    l1_enter_vmx_operation();
    l2->eptp = l1_new_ept() | EPTP_AD;
    l1_ept_map(l2->eptp, 0, L2_RAM, L2_RAM_SIZE, 0x1000, 7);
    l1_prepare_vmcs(VMCS_A, l2);
}

static void prepare_with_log(struct l2 *l2)
{
    prepare(l2);
    log_page = l1_new_page();
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_PML);
    l1_vmwrite(VMCS_PML_ADDRESS, log_page);
    l1_vmwrite(VMCS_PML_INDEX, EMPTY_LOG);
}

static unsigned flags_of(const struct l2 *l2, uint64_t page)
{
    return *l1_ept_entry(l2->eptp, page, 1) & (ACCESSED | DIRTY);
}

// L2's own page tables are there already, with their accessed and dirty flags clear.
static void set_guest_flags(void)
{
    uint64_t *pte = l2_memory(0x4000);
    for (unsigned i = 0; i < 512; i++)
        pte[i] |= 0x60;
    for (uint64_t table = 0x1000; table < 0x4000; table += 0x1000)
        *(uint64_t *)l2_memory(table) |= 0x20;
}

static uint64_t *log_entry(unsigned index)
{
    return (uint64_t *)l1_memory(log_page) + index;
}

static unsigned logged_count(void)
{
    return EMPTY_LOG - (uint16_t)l1_vmread(VMCS_PML_INDEX);
}

static bool is_logged(uint64_t page)
{
    unsigned count = logged_count();
    for (unsigned i = 0; i < count; i++)
        if (*log_entry(EMPTY_LOG - i) == page)
            return true;
    return false;
}

static void reads_and_writes_set_flags(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, PAGE_A), WRITE(PAGE_B, 1), VMCALL);
    prepare(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(flags_of(&l2, PAGE_A), ACCESSED);
    assert_int_equal(flags_of(&l2, PAGE_B), ACCESSED | DIRTY);
    assert_int_equal(flags_of(&l2, PAGE_C), 0);
    assert_true(*l1_ept_entry(l2.eptp, PAGE_A, 4) & ACCESSED);
    assert_false(*l1_ept_entry(l2.eptp, PAGE_A, 4) & DIRTY);
}

// The processor's own reads of L2's paging structures count as writes.
static void walks_count_as_writes(void)
{
    L2_PROGRAM(l2, VMCALL);
    prepare(&l2);
    set_guest_flags(); // so that it is not for the sake of those
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    for (uint64_t table = 0x1000; table < 0x5000; table += 0x1000)
        assert_int_equal(flags_of(&l2, table), ACCESSED | DIRTY);
    *l1_ept_entry(l2.eptp, 0x4000, 1) &= ~2ull;
    l1_invept(INVEPT_SINGLE_CONTEXT, l2.eptp);
    l1_vmresume();
    expect_exit(EXIT_EPT_VIOLATION);
    // a read and a write, of a page that may be read and executed, while translating a linear address
    assert_int_equal(l1_vmread_masked(VMCS_EXIT_QUALIFICATION, EPT_QUALIFICATION), 3 | 5 << 3 | 1 << 7);
}

// A page that L2 read before it became a paging structure: the walk makes it dirty, though no write misses.
static void a_walk_through_a_page_that_was_read(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x50000), VMCALL, READ(GPR_RBX, 0x200000), VMCALL);
    prepare(&l2);
    set_guest_flags();
    *(uint64_t *)l2_memory(0x3008) = 0x50067; // L2's linear addresses from 2 MBytes on
    *(uint64_t *)l2_memory(0x50000) = PAGE_A | 0x67;
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(flags_of(&l2, 0x50000), ACCESSED);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(flags_of(&l2, 0x50000), ACCESSED | DIRTY);
    assert_int_equal(flags_of(&l2, PAGE_A), ACCESSED);
}

// ... and without an INVEPT, when an entry without VPID drops what is cached of linear addresses. No
// processor need do so (Operations that Invalidate Cached Mappings: guest-physical mappings stay), but L1s
// rely on it. With VPIDs there is nothing to rely on: the page stays dirty to the processor.
static void write_clear_and_write_again(bool vpid)
{
    L2_PROGRAM(l2, WRITE(PAGE_A, 1), READ(GPR_RBX, PAGE_B), VMCALL);
    prepare_with_log(&l2);
    set_guest_flags();
    if (vpid) {
        l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VPID);
        l1_vmwrite(VMCS_VPID, 7);
    }
    for (unsigned i = 0; i < 3; i++) {
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        l1_vmwrite(VMCS_PML_INDEX, EMPTY_LOG);
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_exit(EXIT_VMCALL);
        assert_int_equal(flags_of(&l2, PAGE_A), i > 0 && vpid ? ACCESSED : ACCESSED | DIRTY);
        assert_int_equal(flags_of(&l2, PAGE_B), ACCESSED);
        assert_int_equal(is_logged(PAGE_A), i == 0 || !vpid);
        *l1_ept_entry(l2.eptp, PAGE_A, 1) &= ~(uint64_t)DIRTY;
    }
}

static void cleared_flags_are_set_again_without_vpid(void)
{
    write_clear_and_write_again(false);
}

static void cleared_flags_stay_clear_with_vpid(void)
{
    write_clear_and_write_again(true);
}

// Flags that L1 clears come back, behind an INVEPT; and the log gets the page again.
static void cleared_flags_are_set_again(void)
{
    L2_PROGRAM(l2, WRITE(PAGE_A, 1), VMCALL);
    prepare_with_log(&l2);
    set_guest_flags();
    for (unsigned i = 0; i < 3; i++) {
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_exit(EXIT_VMCALL);
        assert_int_equal(flags_of(&l2, PAGE_A), ACCESSED | DIRTY);
        assert_true(is_logged(PAGE_A));
        for (unsigned level = 2; level <= 4; level++)
            assert_true(*l1_ept_entry(l2.eptp, PAGE_A, level) & ACCESSED);
        for (unsigned level = 1; level <= 4; level++)
            *l1_ept_entry(l2.eptp, PAGE_A, level) &= ~(uint64_t)(ACCESSED | DIRTY);
        l1_invept(INVEPT_SINGLE_CONTEXT, l2.eptp);
        l1_vmwrite(VMCS_PML_INDEX, EMPTY_LOG);
        *log_entry(EMPTY_LOG) = 0;
    }
}

// Each table on the way has its own.
static void accessed_flags_of_the_upper_tables(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, PAGE_A), VMCALL);
    prepare(&l2);
    set_guest_flags();
    for (uint64_t page = 0; page < 0x40000; page += 0x1000)
        *l1_ept_entry(l2.eptp, page, 1) |= ACCESSED | DIRTY;
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    for (unsigned level = 2; level <= 4; level++)
        assert_int_equal(*l1_ept_entry(l2.eptp, PAGE_A, level) & (ACCESSED | DIRTY), ACCESSED);
}

// In a page of 2 MBytes: one dirty flag for all of it, and the log has the 4 KBytes that were written.
static void a_large_page_is_logged_once(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x20000), WRITE(PAGE_B, 1), WRITE(PAGE_A, 1), VMCALL);
    l1_enter_vmx_operation();
    l2.eptp = l1_new_ept() | EPTP_AD;
    l1_ept_map(l2.eptp, 0, L2_RAM, L2_RAM_SIZE, 0x200000, 7);
    l1_ept_map(l2.eptp, 0x40000000, L2_RAM, 0x200000, 0x200000, 7);
    l1_prepare_vmcs(VMCS_A, &l2);
    log_page = l1_new_page();
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_PML);
    l1_vmwrite(VMCS_PML_ADDRESS, log_page);
    l1_vmwrite(VMCS_PML_INDEX, EMPTY_LOG);
    uint64_t *pte = l2_memory(0x4000);
    pte[0x20] = 0x40020007, pte[0x30] = 0x40030007, pte[0x31] = 0x40031007; // the other mapping
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    uint64_t entry = *l1_ept_entry(l2.eptp, 0x40000000, 2);
    assert_int_equal(entry & (ACCESSED | DIRTY), ACCESSED | DIRTY);
    assert_true(is_logged(0x40031000));
    assert_false(is_logged(0x40030000));
    assert_false(is_logged(0x40020000));
}

static void without_the_flag_nothing_is_set(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, PAGE_A), WRITE(PAGE_B, 1), VMCALL);
    l1_prepare(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(flags_of(&l2, PAGE_A), 0);
    assert_int_equal(flags_of(&l2, PAGE_B), 0);
}

static void writes_are_logged_once(void)
{
    L2_PROGRAM(l2, WRITE(PAGE_A + 0x123, 1), READ(GPR_RBX, PAGE_B), WRITE(PAGE_A + 8, 2), WRITE(PAGE_C, 3),
               VMCALL);
    prepare_with_log(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_true(is_logged(PAGE_A)); // without the offset
    assert_false(is_logged(PAGE_B));
    assert_true(is_logged(PAGE_C));
    assert_true(is_logged(0x1000)); // L2's page tables
    assert_int_equal(logged_count(), 2 + 4);
    // in order, from the highest index down
    unsigned at = logged_count() - 1;
    assert_int_equal(*log_entry(EMPTY_LOG - at), PAGE_C);
}

static void a_dirty_page_is_not_logged_again(void)
{
    L2_PROGRAM(l2, WRITE(PAGE_A, 1), VMCALL);
    prepare_with_log(&l2);
    *l1_ept_entry(l2.eptp, PAGE_A, 1) |= DIRTY;
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_false(is_logged(PAGE_A));
}

// The access that does not fit does not happen, and no flag is set for it.
static void a_full_log_exits_before_the_access(void)
{
    L2_PROGRAM(l2, WRITE(PAGE_A, 0x11), WRITE(PAGE_B, 0x22), VMCALL);
    prepare_with_log(&l2);
    for (uint64_t table = 0x1000; table < 0x5000; table += 0x1000)
        *l1_ept_entry(l2.eptp, table, 1) |= ACCESSED | DIRTY;
    l1_vmwrite(VMCS_PML_INDEX, 0);
    *(uint64_t *)l2_memory(PAGE_B) = 0x99;
    l1_vmlaunch();
    expect_exit(EXIT_PML_FULL);
    assert_int_equal(l1_vmread_masked(VMCS_EXIT_QUALIFICATION, 1 << 12), 0);
    assert_int_equal(l1_vmread(VMCS_PML_INDEX), 0xffff);
    assert_int_equal(*log_entry(0), PAGE_A);
    assert_int_equal(flags_of(&l2, PAGE_A), ACCESSED | DIRTY);
    assert_int_equal(flags_of(&l2, PAGE_B), 0);
    assert_int_equal(*(uint64_t *)l2_memory(PAGE_B), 0x99);
    l1_vmwrite(VMCS_PML_INDEX, EMPTY_LOG);
    l1_vmresume(); // and L2 tries again
    expect_exit(EXIT_VMCALL);
    assert_int_equal(*(uint64_t *)l2_memory(PAGE_B), 0x22);
    assert_int_equal(*log_entry(EMPTY_LOG), PAGE_B);
}

static void an_index_out_of_range_is_a_full_log(void)
{
    L2_PROGRAM(l2, WRITE(PAGE_A, 1), VMCALL);
    prepare_with_log(&l2);
    l1_vmwrite(VMCS_PML_INDEX, 512);
    l1_vmlaunch();
    expect_exit(EXIT_PML_FULL);
    assert_int_equal(l1_vmread(VMCS_PML_INDEX), 512);
}

// Without accessed and dirty flags there is nothing to log.
static void without_dirty_flags_nothing_is_logged(void)
{
    L2_PROGRAM(l2, WRITE(PAGE_A, 1), VMCALL);
    prepare_with_log(&l2);
    l1_vmwrite(VMCS_EPT_POINTER, l2.eptp & ~(uint64_t)EPTP_AD);
    l1_vmwrite(VMCS_PML_INDEX, 512);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

static void set_upper_flags(const struct l2 *l2)
{
    for (unsigned level = 2; level <= 4; level++)
        *l1_ept_entry(l2->eptp, 0, level) |= ACCESSED;
}

// Room is wanted before an accessed flag is set, too; and not when there is none to set.
static void a_full_log_forbids_accessed_flags(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, PAGE_A), READ(GPR_RBX, PAGE_B), VMCALL);
    prepare_with_log(&l2);
    for (uint64_t page = 0; page < 0x20000; page += 0x1000)
        *l1_ept_entry(l2.eptp, page, 1) |= ACCESSED | DIRTY;
    *l1_ept_entry(l2.eptp, PAGE_A, 1) |= ACCESSED;
    set_upper_flags(&l2);
    l1_vmwrite(VMCS_PML_INDEX, 0xffff);
    l1_vmlaunch();
    expect_exit(EXIT_PML_FULL);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 8); // not the first
    assert_int_equal(flags_of(&l2, PAGE_B), 0);
    l1_vmwrite(VMCS_PML_INDEX, 5);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_vmread(VMCS_PML_INDEX), 5); // reads are not logged
    assert_int_equal(flags_of(&l2, PAGE_B), ACCESSED);
}

static void a_full_log_during_delivery_is_reported(void)
{
    L2_PROGRAM(l2, INT(0x40), VMCALL);
    prepare_with_log(&l2);
    for (uint64_t page = 0; page < 0x20000; page += 0x1000)
        if (page != 0x8000) // the stack
            *l1_ept_entry(l2.eptp, page, 1) |= ACCESSED | DIRTY;
    set_upper_flags(&l2);
    l1_vmwrite(VMCS_PML_INDEX, 0xffff);
    l1_vmlaunch();
    expect_exit(EXIT_PML_FULL);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0x80000440);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 2);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
}

#define SOFTWARE_BIT (1ull << 57) // of an entry: ignored

// Another processor of L1's changes the entries under L0's hands: L0 looks again.
static void l1_changes_entries_meanwhile(void)
{
    L2_PROGRAM(l2, WRITE(PAGE_A, 1), VMCALL, WRITE(PAGE_B, 0x22), VMCALL);
    prepare_with_log(&l2);
    l0_race_exchanges(40, SOFTWARE_BIT);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(flags_of(&l2, PAGE_A), ACCESSED | DIRTY);
    assert_int_equal(logged_count(), 1 + 4); // with L2's page tables, each once
    l0_race_exchanges(1, 2);                 // the right to write
    *(uint64_t *)l2_memory(PAGE_B) = 0x99;
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(l1_vmread(VMCS_GUEST_PHYSICAL_ADDRESS), PAGE_B);
    assert_int_equal(flags_of(&l2, PAGE_B), 0);
    assert_int_equal(*(uint64_t *)l2_memory(PAGE_B), 0x99);
}

static void the_controls_are_checked(void)
{
    L2_PROGRAM(l2, VMCALL);
    prepare_with_log(&l2);
    l1_vmwrite(VMCS_PML_ADDRESS, log_page + 0x800);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_vmwrite(VMCS_PML_ADDRESS, 1ull << 40);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_vmwrite(VMCS_PML_ADDRESS, log_page);
    l1_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(reads_and_writes_set_flags),
        BOTH(walks_count_as_writes),
        BOTH(a_walk_through_a_page_that_was_read),
        BOTH(cleared_flags_are_set_again),
        NESTED(cleared_flags_are_set_again_without_vpid, .cpu_count = 1),
        NESTED(cleared_flags_stay_clear_with_vpid, .cpu_count = 1),
        BOTH(accessed_flags_of_the_upper_tables),
        BOTH(a_large_page_is_logged_once),
        BOTH_WITH(a_large_page_is_logged_once, ", 4-KByte ept01", .l0_without_large_pages = true),
        BOTH(without_the_flag_nothing_is_set),
        BOTH(writes_are_logged_once),
        BOTH(a_dirty_page_is_not_logged_again),
        BOTH(a_full_log_exits_before_the_access),
        BOTH(an_index_out_of_range_is_a_full_log),
        BOTH(without_dirty_flags_nothing_is_logged),
        BOTH(a_full_log_forbids_accessed_flags),
        BOTH(a_full_log_during_delivery_is_reported),
        NESTED(l1_changes_entries_meanwhile, .cpu_count = 1),
        BOTH(the_controls_are_checked),
    };
    return cmocka_run_group_tests_name("page-modification logging", tests, NULL, NULL);
}
