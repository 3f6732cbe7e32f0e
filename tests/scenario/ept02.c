// SPDX-License-Identifier: MIT
// ept02, the shadow of L1's EPT: filled as L2 touches pages, with L1's rights; violations and
// misconfigurations that are L1's; INVEPT; several EPT pointers; a pool too small; memory that L1 does not
// have. Manual: The Extended Page Table Mechanism (EPT); Exit Qualification for EPT Violations; Caching
// Translation Information.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define READ_ONLY    1
#define READ_WRITE   3
#define READ_EXECUTE 5
#define EXECUTE_ONLY 4
#define FAR          0x40000000ull // L2-physical, beyond what l1_prepare maps

static uint64_t qualification(void)
{
    return l1_vmread_masked(VMCS_EXIT_QUALIFICATION, EPT_QUALIFICATION);
}

static void expect_violation(uint64_t l2_physical, uint64_t wanted)
{
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(l1_vmread(VMCS_GUEST_PHYSICAL_ADDRESS), l2_physical);
    assert_int_equal(qualification(), wanted);
}

static uint64_t word(const void *at)
{
    uint64_t value;
    memcpy(&value, at, 8);
    return value;
}

// --- filling

static void l2_reads_and_writes_l1s_pages(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x20000), WRITE(0x20008, 0xcafe), WRITE(0x21ffc, 0x1122334455667788),
               READ(GPR_RSI, 0x21ffc), VMCALL);
    l1_prepare(&l2);
    memset(l2_memory(0x20000), 0x5c, 8);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_gpr(GPR_RBX), 0x5c5c5c5c5c5c5c5c);
    assert_int_equal(l1_gpr(GPR_RSI), 0x1122334455667788);
    assert_int_equal(word(l2_memory(0x20008)), 0xcafe);
}

static void large_pages_of_l1(void)
{
    L2_PROGRAM(l2, WRITE(0x3456, 0xbeef), WRITE(0x123000, 1), WRITE(0x3a5000, 2), VMCALL);
    l2.large_ept_pages = true;
    l1_prepare(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(word(l2_memory(0x3456)), 0xbeef);
    assert_int_equal(word(l2_memory(0x123000)), 1);
    assert_int_equal(word(l2_memory(0x3a5000)), 2);
}

// L2-physical 0x1000000 in steps, all to one page of L1's: an address is not an identity.
static void an_l1_page_may_appear_twice(void)
{
    L2_PROGRAM(l2, WRITE(0x31000, 0x77), READ(GPR_RBX, 0x32000), VMCALL);
    l1_prepare(&l2);
    uint64_t page = l1_new_page();
    l1_ept_map(l2.eptp, 0x31000, page, 0x1000, 0x1000, 7);
    l1_ept_map(l2.eptp, 0x32000, page, 0x1000, 0x1000, 7);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RBX), 0x77);
    expect_exit(EXIT_VMCALL);
}

// --- violations

static void rights_that_l1_does_not_give(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x20018), WRITE(0x21010, 1), FETCH(0x22000), READ(GPR_RBX, 0x23000), VMCALL);
    l1_prepare(&l2);
    l1_ept_map(l2.eptp, 0x20000, L2_RAM + 0x20000, 0x1000, 0x1000, 0);
    l1_ept_map(l2.eptp, 0x21000, L2_RAM + 0x21000, 0x1000, 0x1000, READ_EXECUTE);
    l1_ept_map(l2.eptp, 0x22000, L2_RAM + 0x22000, 0x1000, 0x1000, READ_WRITE);
    bool execute_only = world_l1_processor()->vmx.msr[12] & EPT_CAP_EXECUTE_ONLY;
    l1_ept_map(l2.eptp, 0x23000, L2_RAM + 0x23000, 0x1000, 0x1000, execute_only ? EXECUTE_ONLY : 0);
    l1_vmlaunch();
    expect_violation(0x20018, 0x181);
    assert_int_equal(l1_vmread(VMCS_GUEST_LINEAR_ADDRESS), 0x20018);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
    l1_resume_at(l2.code + 8);
    expect_violation(0x21010, 0x182 | READ_EXECUTE << 3);
    l1_resume_at(l2.code + 16);
    expect_violation(0x22000, 0x184 | READ_WRITE << 3);
    l1_resume_at(l2.code + 22);
    expect_violation(0x23000, 0x181 | (execute_only ? EXECUTE_ONLY << 3 : 0));
}

// The same after the page is in ept02 with the rights that L1 does give.
static void rights_matter_after_the_page_was_used(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x21010), WRITE(0x21010, 1), READ(GPR_RBX, 0x21010), VMCALL);
    l1_prepare(&l2);
    l1_ept_map(l2.eptp, 0x21000, L2_RAM + 0x21000, 0x1000, 0x1000, READ_ONLY);
    l1_vmlaunch();
    expect_violation(0x21010, 0x182 | READ_ONLY << 3);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 8);
    // more rights need no INVEPT: an EPT violation drops what was cached
    l1_ept_map(l2.eptp, 0x21000, L2_RAM + 0x21000, 0x1000, 0x1000, READ_WRITE);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void a_right_may_be_missing_at_any_level(void)
{
    L2_PROGRAM(l2, WRITE(0x208018, 1), VMCALL);
    l1_prepare(&l2);
    // L2's code is under the same upper entries, which lose only the right to write; the processor needs that
    // for accessed flags in L2's page tables: they are set beforehand
    for (uint64_t at = 0x1000; at < 0x5000; at += 8) {
        uint64_t *entry = l2_memory(at);
        if (*entry & 1)
            *entry |= 0x60;
    }
    for (unsigned level = 4; level >= 1; level--) {
        *l1_ept_entry(l2.eptp, 0x208000, level) &= ~2ull;
        l1_invept(1, l2.eptp);
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        if (level == 4)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_violation(0x208018, 0x182 | READ_EXECUTE << 3);
        *l1_ept_entry(l2.eptp, 0x208000, level) |= 2;
        l1_invept(1, l2.eptp);
        l1_vmresume();
        expect_exit(EXIT_VMCALL);
    }
}

// L2's page tables are in a page that EPT12 does not map: the access is the processor's, not the
// instruction's.
static void a_violation_in_a_page_walk(void)
{
    L2_PROGRAM(l2, NOP, VMCALL);
    l1_prepare(&l2);
    *l1_ept_entry(l2.eptp, 0x3000, 1) = 0;
    l1_vmlaunch();
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(l1_vmread(VMCS_GUEST_PHYSICAL_ADDRESS) & ~0xfffull, 0x3000);
    assert_int_equal(qualification(), 0x81);
    assert_int_equal(l1_vmread(VMCS_GUEST_LINEAR_ADDRESS), l2.code);
    l1_ept_map(l2.eptp, 0x3000, L2_RAM + 0x3000, 0x1000, 0x1000, 7);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void a_violation_when_an_accessed_flag_is_set(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x20000), VMCALL);
    l1_prepare(&l2);
    *l1_ept_entry(l2.eptp, 0x1000, 1) &= ~2ull; // L2's PML4 table can be read only
    l1_vmlaunch();
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(l1_vmread(VMCS_GUEST_PHYSICAL_ADDRESS), 0x1000);
    assert_int_equal(qualification(), 0x82 | READ_EXECUTE << 3);
}

static void misconfigurations(void)
{
    static const uint64_t bad[] = {
        2,                       // write-only
        6,                       // write and execute
        7 | 3 << 3,              // a memory type that does not exist
        7 | 6 << 3 | 1ull << 45, // an address that is too wide
    };
    L2_PROGRAM(l2, READ(GPR_RBX, 0x20018), VMCALL);
    l1_prepare(&l2);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        *l1_ept_entry(l2.eptp, 0x20000, 1) = (L2_RAM + 0x20000) | bad[i];
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_exit(EXIT_EPT_MISCONFIGURATION);
        assert_int_equal(l1_vmread(VMCS_GUEST_PHYSICAL_ADDRESS), 0x20018);
    }
    // ... in a table further up
    uint64_t *directory = l1_ept_entry(l2.eptp, 0x20000, 2), good = *directory;
    l1_ept_map(l2.eptp, 0x20000, L2_RAM + 0x20000, 0x1000, 0x1000, 7);
    *directory |= 1 << 3; // reserved where the entry points to a table
    l1_invept(2, 0);
    l1_vmresume();
    expect_exit(EXIT_EPT_MISCONFIGURATION);
    *directory = good;
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void an_address_beyond_the_walk(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x1f0000), VMCALL);
    l1_prepare(&l2);
    uint64_t *pte = (uint64_t *)l2_memory(0x4000) + 0x1f0; // of L2's page tables
    *pte = FAR | 7;
    l1_vmlaunch();
    expect_violation(FAR, 0x181);
}

// --- INVEPT, several EPT pointers, the pool

static void l1_changes_a_mapping(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x30000), VMCALL);
    l1_prepare(&l2);
    uint64_t pages[3];
    for (unsigned i = 0; i < 3; i++) {
        pages[i] = l1_new_page();
        memset(l1_memory(pages[i]), 0x11 * (int)(i + 1), PAGE_SIZE);
    }
    for (unsigned i = 0; i < 6; i++) {
        l1_ept_map(l2.eptp, 0x30000, pages[i % 3], 0x1000, 0x1000, 7);
        if (i % 2)
            l1_invept(1, l2.eptp);
        else
            l1_invept(2, 0);
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        assert_int_equal(l1_gpr(GPR_RBX) & 0xff, 0x11 * (i % 3 + 1));
        expect_exit(EXIT_VMCALL);
    }
}

static void l1_takes_a_page_away(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x30000), VMCALL, WRITE(0x30000, 1), READ(GPR_RBX, 0x30000));
    l1_prepare(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    *l1_ept_entry(l2.eptp, 0x30000, 1) &= ~2ull;
    l1_invept(1, l2.eptp);
    l1_resume_at(l2.code + 11);
    expect_violation(0x30000, 0x182 | READ_EXECUTE << 3);
    *l1_ept_entry(l2.eptp, 0x30000, 1) = 0;
    l1_invept(2, 0);
    l1_resume_at(l2.code + 19);
    expect_violation(0x30000, 0x181);
}

static void a_large_page_is_split(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x30000), READ(GPR_RSI, 0x31000), VMCALL);
    l2.large_ept_pages = true;
    l1_prepare(&l2);
    memset(l2_memory(0x30000), 1, 8);
    memset(l2_memory(0x31000), 2, 8);
    l1_vmlaunch();
    uint64_t table = l1_new_page(), special = l1_new_page();
    memset(l1_memory(special), 9, 8);
    for (uint64_t i = 0; i < 512; i++)
        ((uint64_t *)l1_memory(table))[i] = (L2_RAM + i * PAGE_SIZE) | 7 | 6 << 3;
    ((uint64_t *)l1_memory(table))[0x31] = special | 7 | 6 << 3;
    *l1_ept_entry(l2.eptp, 0, 2) = table | 7;
    l1_invept(1, l2.eptp);
    l1_resume_at(l2.code);
    assert_int_equal(l1_gpr(GPR_RBX) & 0xff, 1);
    assert_int_equal(l1_gpr(GPR_RSI) & 0xff, 9);
    // ... and made one again
    *l1_ept_entry(l2.eptp, 0, 2) = L2_RAM | 0xb7;
    l1_invept(1, l2.eptp);
    l1_resume_at(l2.code);
    assert_int_equal(l1_gpr(GPR_RSI) & 0xff, 2);
    expect_exit(EXIT_VMCALL);
}

static void many_ept_pointers_take_turns(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x30000), WRITE(0x30008, 3), VMCALL);
    l1_prepare(&l2);
    enum { COUNT = 20 }; // more than L0 keeps
    uint64_t eptp[COUNT];
    for (unsigned i = 0; i < COUNT; i++) {
        uint64_t page = l1_new_page();
        memset(l1_memory(page), (int)i + 1, PAGE_SIZE);
        eptp[i] = l1_new_ept();
        l1_ept_map(eptp[i], 0, L2_RAM, 0x40000, 0x1000, 7);
        l1_ept_map(eptp[i], 0x30000, page, 0x1000, 0x1000, 7);
    }
    l1_vmlaunch();
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < COUNT; i++) {
            l1_vmwrite(VMCS_EPT_POINTER, eptp[i]);
            l1_resume_at(l2.code);
            assert_int_equal(l1_gpr(GPR_RBX) & 0xff, i + 1);
        }
    }
    expect_exit(EXIT_VMCALL);
}

// One page each under a different table, more than the pool has pages: everything is dropped and filled
// again.
static void the_pool_is_exhausted(void)
{
    enum { COUNT = 120 };
    static struct op ops[COUNT + 1];
    struct l2 l2 = {.op = ops, .count = COUNT + 1};
    for (unsigned i = 0; i < COUNT; i++)
        ops[i] = WRITE(0x100000 + (int64_t)i * 0x1000, i);
    ops[COUNT] = VMCALL;
    l2_load(&l2);
    l1_prepare(&l2);
    uint64_t page = l1_new_page();
    // each L2 page is 2 MBytes further on in L2-physical memory
    for (uint64_t i = 0; i < COUNT; i++) {
        uint64_t *pte = (uint64_t *)l2_memory(0x4000) + 0x100 + i;
        *pte = (FAR + i * 0x200000) | 7;
        l1_ept_map(l2.eptp, FAR + i * 0x200000, page, 0x1000, 0x1000, 7);
    }
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(word(l1_memory(page)), COUNT - 1);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

// --- memory that L1 does not have

static void l1_maps_memory_that_it_does_not_have(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x30000), WRITE(0x30000, 0x4141), VMCALL);
    l1_prepare(&l2);
    l1_ept_map(l2.eptp, 0x30000, 0x100000000ull, 0x1000, 0x1000, 7);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    // what L2 read is not said; that nobody's memory changed, the model watches (L0's) and this sees (L1's)
    const uint64_t *memory = l1_memory(0);
    for (uint64_t i = 0; i < 0x100000 / 8; i++)
        assert_int_not_equal(memory[i], 0x4141);
}

// Where L1 has no memory, reads give ones: for L1, for an L2 without EPT, and through EPT12.
static void holes_read_as_ones(void)
{
    uint64_t *pde =
        (uint64_t *)l1_memory(L1_PAGE_TABLES + 0x2000) + 8; // linear 16 MBytes: behind L1's memory
    *pde = L1_RAM_SIZE | 0x87;
    l1_run(READ(GPR_RBX, L1_RAM_SIZE + 0x123450));
    assert_int_equal(l1_gpr(GPR_RBX), UINT64_MAX);
    L2_PROGRAM(l2, READ(GPR_RSI, 0x30000), VMCALL);
    l1_prepare(&l2);
    l1_ept_map(l2.eptp, 0x30000, L1_RAM_SIZE + 0x5000, 0x1000, 0x1000, 7);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RSI), UINT64_MAX);
    l1_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT);
    l1_vmwrite(VMCS_GUEST_CR3, l2.flat_pml4);
    *(uint64_t *)l2_memory(0x3f3000 + 8 * 0x30) = (L1_RAM_SIZE + 0x6000) | 7;
    l1_set_gpr(GPR_RSI, 0);
    l1_resume_at(l2.code);
    assert_int_equal(l1_gpr(GPR_RSI), UINT64_MAX);
    expect_exit(EXIT_VMCALL);
}

static void l1s_ept_tables_may_be_nowhere(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_EPT_POINTER, 0x200000000ull | 6 | 3 << 3);
    struct outcome outcome = try_vmlaunch(); // some exit, and no harm to L0
    assert_int_equal(outcome.how, EXITED);
}

// --- accessed and dirty flags of EPT12

static void accessed_and_dirty_flags(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x30000), VMCALL, WRITE(0x30000, 1), VMCALL);
    l2.eptp = l1_new_ept() | 1 << 6;
    l1_ept_map(l2.eptp, 0, L2_RAM, 0x40000, 0x1000, 7);
    l1_prepare(&l2);
    if (!(world_l1_processor()->vmx.msr[12] & EPT_CAP_ACCESSED_DIRTY)) {
        expect_fail_valid(try_vmlaunch(), 7);
        return;
    }
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(*l1_ept_entry(l2.eptp, 0x30000, 1) & 0x300, 0x100);
    assert_int_equal(*l1_ept_entry(l2.eptp, 0x38000, 1) & 0x300, 0);
    assert_int_equal(*l1_ept_entry(l2.eptp, 0x30000, 2) & 0x100, 0x100);
    l1_resume_at(l2.code + 11);
    expect_exit(EXIT_VMCALL);
    assert_int_equal(*l1_ept_entry(l2.eptp, 0x30000, 1) & 0x300, 0x300);
}

static const struct CMUnitTest tests[] = {
    BOTH(l2_reads_and_writes_l1s_pages),
    BOTH_WITH(l2_reads_and_writes_l1s_pages, ", sparse processor", .processor = &processor_sparse),
    BOTH_WITH(l2_reads_and_writes_l1s_pages, ", 4-KByte ept01", .l0_without_large_pages = true),
    BOTH(large_pages_of_l1),
    BOTH_WITH(large_pages_of_l1, ", 4-KByte ept01", .l0_without_large_pages = true),
    BOTH(an_l1_page_may_appear_twice),
    BOTH(rights_that_l1_does_not_give),
    BOTH_WITH(rights_that_l1_does_not_give, ", sparse processor", .processor = &processor_sparse),
    BOTH(rights_matter_after_the_page_was_used),
    BOTH(a_right_may_be_missing_at_any_level),
    BOTH(a_violation_in_a_page_walk),
    BOTH(a_violation_when_an_accessed_flag_is_set),
    BOTH(misconfigurations),
    BOTH(an_address_beyond_the_walk),
    BOTH(l1_changes_a_mapping),
    BOTH_WITH(l1_changes_a_mapping, ", without VPID", .processor = &processor_no_vpid),
    BOTH(l1_takes_a_page_away),
    BOTH(a_large_page_is_split),
    BOTH(many_ept_pointers_take_turns),
    BOTH_WITH(many_ept_pointers_take_turns, ", small pool", .ept02_pool_pages = 64),
    BOTH(the_pool_is_exhausted),
    BOTH_WITH(the_pool_is_exhausted, ", small pool", .ept02_pool_pages = 64),
    NESTED(l1_maps_memory_that_it_does_not_have, .cpu_count = 1),
    BOTH(holes_read_as_ones),
    NESTED(l1s_ept_tables_may_be_nowhere, .cpu_count = 1),
    BOTH(accessed_and_dirty_flags),
};

int main(void)
{
    return cmocka_run_group_tests_name("ept02", tests, NULL, NULL);
}
