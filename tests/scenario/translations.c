// SPDX-License-Identifier: MIT
// Cached translations: those of L2 under VPIDs, those of L1, and L2 without EPT. The model keeps a
// translation for as long as the manual permits, so an invalidation that L0 forgets shows as a stale read.
// Manual: Virtual Processor Identifiers (VPIDs); Invalidating Cached Translation Information.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define PAGE_A 0x31000 // L2-physical
#define PAGE_B 0x32000
#define AT_PTE 0x30000 // the linear address whose PTE is changed
#define PTE    (0x4000 + 8 * (AT_PTE >> 12))

static uint64_t *l2_word(uint64_t l2_physical)
{
    return l2_memory(l2_physical);
}

static void fill_pages(void)
{
    memset(l2_memory(PAGE_A), 0xaa, 8);
    memset(l2_memory(PAGE_B), 0xbb, 8);
}

static void expect_read(unsigned byte)
{
    assert_int_equal(l1_gpr(GPR_RBX) & 0xff, byte);
    expect_exit(EXIT_VMCALL);
}

static void an_entry_without_vpid_drops_translations(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, AT_PTE), VMCALL);
    l1_prepare(&l2);
    fill_pages();
    *l2_word(PTE) = PAGE_A | 7;
    l1_vmlaunch();
    expect_read(0xaa);
    *l2_word(PTE) = PAGE_B | 7;
    l1_resume_at(l2.code);
    expect_read(0xbb);
    *l2_word(PTE) = PAGE_A | 7;
    l1_resume_at(l2.code);
    expect_read(0xaa);
}

static void invvpid_drops_translations(void)
{
    static const struct {
        uint64_t type, vpid, linear;
    } ways[] = {{0, 7, AT_PTE + 0x123}, {1, 7, 0}, {2, 0, 0}, {3, 7, 0}, {0, 7, AT_PTE}, {2, 0, 0}};
    L2_PROGRAM(l2, READ(GPR_RBX, AT_PTE), VMCALL);
    l2.vpid = 7;
    l1_prepare(&l2);
    fill_pages();
    *l2_word(PTE) = PAGE_A | 7;
    l1_vmlaunch();
    expect_read(0xaa);
    for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        *l2_word(PTE) = (i % 2 ? PAGE_A : PAGE_B) | 7;
        l1_invvpid(ways[i].type, ways[i].vpid, ways[i].linear);
        l1_resume_at(l2.code);
        expect_read(i % 2 ? 0xaa : 0xbb);
    }
}

// Two guests under two VPIDs, with page tables of their own behind the same linear address.
static void vpids_keep_guests_apart(void)
{
    L2_PROGRAM(first, READ(GPR_RBX, AT_PTE), VMCALL);
    L2_PROGRAM(second, READ(GPR_RBX, AT_PTE), VMCALL);
    first.vpid = 1;
    l1_prepare(&first);
    fill_pages();
    *l2_word(PTE) = PAGE_A | 7;
    second.vpid = 2;
    second.eptp = l1_new_ept(); // the same linear and L2-physical addresses lead elsewhere
    l1_ept_map(second.eptp, 0, L2_RAM, 0x40000, 0x1000, 7);
    l1_ept_map(second.eptp, PAGE_A, L2_RAM + PAGE_B, 0x1000, 0x1000, 7);
    l1_prepare_vmcs(VMCS_B, &second);
    for (unsigned i = 0; i < 4; i++) {
        l1_vmptrld(VMCS_A);
        l1_vmwrite(VMCS_GUEST_RIP, first.code);
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_read(0xaa);
        l1_vmptrld(VMCS_B);
        l1_vmwrite(VMCS_GUEST_RIP, second.code);
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_read(0xbb);
    }
}

// One EPT, two VPIDs, two roots of L2's page tables.
static void vpids_keep_page_tables_apart(void)
{
    L2_PROGRAM(first, READ(GPR_RBX, AT_PTE), VMCALL);
    L2_PROGRAM(second, READ(GPR_RBX, AT_PTE), VMCALL);
    first.vpid = 1;
    l1_prepare(&first);
    fill_pages();
    *l2_word(PTE) = PAGE_A | 7;
    // a second set of tables at 0x40000
    memcpy(l2_memory(0x40000), l2_memory(0x1000), 0x4000);
    *l2_word(0x40000) = 0x41007;
    *l2_word(0x41000) = 0x42007;
    *l2_word(0x42000) = 0x43007;
    *l2_word(0x40000 + PTE - 0x1000) = PAGE_B | 7;
    second.vpid = 2;
    second.eptp = first.eptp;
    l1_prepare_vmcs(VMCS_B, &second);
    l1_vmwrite(VMCS_GUEST_CR3, 0x40000);
    for (unsigned i = 0; i < 4; i++) {
        l1_vmptrld(VMCS_A);
        l1_vmwrite(VMCS_GUEST_RIP, first.code);
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_read(0xaa);
        l1_vmptrld(VMCS_B);
        l1_vmwrite(VMCS_GUEST_RIP, second.code);
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_read(0xbb);
    }
}

// The first use of a VPID after another guest had it, without an INVVPID in between, may see what that guest
// left; an L1 that cares executes INVVPID. But a guest without VPID never sees anything.
static void a_guest_without_vpid_sees_nothing_of_one_with(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, AT_PTE), VMCALL);
    l2.vpid = 3;
    l1_prepare(&l2);
    fill_pages();
    *l2_word(PTE) = PAGE_A | 7;
    l1_vmlaunch();
    expect_read(0xaa);
    l1_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VPID);
    *l2_word(PTE) = PAGE_B | 7;
    l1_resume_at(l2.code);
    expect_read(0xbb);
    *l2_word(PTE) = PAGE_A | 7;
    l1_resume_at(l2.code);
    expect_read(0xaa);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VPID);
    l1_invvpid(1, 3, 0);
    *l2_word(PTE) = PAGE_B | 7;
    l1_invvpid(1, 3, 0);
    l1_resume_at(l2.code);
    expect_read(0xbb);
}

static void l2_invalidates_its_own(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, AT_PTE), VMCALL, WRITE(PTE, PAGE_B | 7), INVLPG(AT_PTE),
               READ(GPR_RBX, AT_PTE), VMCALL, WRITE(PTE, PAGE_A | 7), MOV_TO_CR(3, 0x1000),
               READ(GPR_RBX, AT_PTE), VMCALL);
    l2.vpid = 9;
    l1_prepare(&l2);
    fill_pages();
    *l2_word(PTE) = PAGE_A | 7;
    l1_vmlaunch();
    expect_read(0xaa);
    l1_skip_instruction();
    l1_vmresume();
    expect_read(0xbb);
    l1_skip_instruction();
    l1_vmresume();
    expect_read(0xaa);
}

// L1's translations: an exit of a guest without VPID drops them.
static void an_exit_without_vpid_drops_l1s_translations(void)
{
    uint64_t *pde = (uint64_t *)l1_memory(L1_PAGE_TABLES + 0x2000) + 6; // linear 0xc00000
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    memset(l1_memory(0x600000), 0x55, 8);
    memset(l1_memory(0x800000), 0x66, 8);
    *pde = 0x600087;
    l1_run(INVLPG(0xc00000));
    l1_run(READ(GPR_RSI, 0xc00000));
    assert_int_equal(l1_gpr(GPR_RSI) & 0xff, 0x55);
    *pde = 0x800087;
    l1_vmlaunch();
    l1_run(READ(GPR_RSI, 0xc00000));
    assert_int_equal(l1_gpr(GPR_RSI) & 0xff, 0x66);
}

// --- without EPT

static void l2_without_ept(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x20000), WRITE(0x20008, 0xfeed), VMCALL, UD2);
    l2.without_ept = true;
    l1_prepare(&l2);
    memset(l2_memory(0x20000), 0x2e, 8);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RBX) & 0xff, 0x2e);
    expect_exit(EXIT_VMCALL);
    assert_int_equal(*l2_word(0x20008), 0xfeed);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_HLT); // in its handler
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), 0xe006);
}

static void l2_without_ept_faults(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x800000), WRITE(0x20000, 1), VMCALL);
    l2.without_ept = true;
    l1_prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_PF);
    l1_vmlaunch();
    expect_exit_qualification(EXIT_EXCEPTION_OR_NMI, 0x800000);
    *l2_word(0x3f3000 + 8 * 0x20) &= ~2ull; // not writable
    l1_resume_at(l2.code + 8);
    expect_exit_qualification(EXIT_EXCEPTION_OR_NMI, 0x20000);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), 3);
}

static void ept_comes_and_goes(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x20000), VMCALL);
    l1_prepare(&l2);
    memset(l2_memory(0x20000), 0x2e, 8);
    uint64_t other = l1_new_page();
    memset(l1_memory(other), 0x3d, 8);
    l1_ept_map(l2.eptp, 0x20000, other, 0x1000, 0x1000, 7);
    l1_vmlaunch();
    expect_read(0x3d);
    for (unsigned i = 0; i < 3; i++) {
        l1_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT);
        l1_vmwrite(VMCS_GUEST_CR3, l2.flat_pml4);
        l1_resume_at(l2.code);
        expect_read(0x2e);
        l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT);
        l1_vmwrite(VMCS_GUEST_CR3, l2.pml4);
        l1_resume_at(l2.code);
        expect_read(0x3d);
    }
}

static const struct CMUnitTest tests[] = {
    BOTH(an_entry_without_vpid_drops_translations),
    BOTH_WITH(an_entry_without_vpid_drops_translations, ", processor without VPID",
              .processor = &processor_no_vpid),
    BOTH_WITH(an_entry_without_vpid_drops_translations, ", moving", .cpu_count = 3, .move_one_in = 2),
    BOTH(invvpid_drops_translations),
    BOTH_WITH(invvpid_drops_translations, ", moving", .cpu_count = 3, .move_one_in = 2),
    BOTH(vpids_keep_guests_apart),
    BOTH_WITH(vpids_keep_guests_apart, ", moving", .cpu_count = 3, .move_one_in = 2),
    BOTH(vpids_keep_page_tables_apart),
    BOTH_WITH(vpids_keep_page_tables_apart, ", moving", .cpu_count = 3, .move_one_in = 2),
    BOTH(a_guest_without_vpid_sees_nothing_of_one_with),
    BOTH(l2_invalidates_its_own),
    BOTH(an_exit_without_vpid_drops_l1s_translations),
    BOTH_WITH(an_exit_without_vpid_drops_l1s_translations, ", processor without VPID",
              .processor = &processor_no_vpid),
    BOTH(l2_without_ept),
    BOTH_WITH(l2_without_ept, ", sparse processor", .processor = &processor_sparse),
    BOTH_WITH(l2_without_ept, ", moving", .cpu_count = 2, .move_one_in = 2),
    BOTH(l2_without_ept_faults),
    BOTH(ept_comes_and_goes),
    BOTH_WITH(ept_comes_and_goes, ", moving", .cpu_count = 2, .move_one_in = 2),
};

int main(void)
{
    return cmocka_run_group_tests_name("translations", tests, NULL, NULL);
}
