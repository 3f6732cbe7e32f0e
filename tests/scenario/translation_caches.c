// SPDX-License-Identifier: MIT
// How much L0 forgets: an INVEPT or INVVPID drops what it names and nothing else, and an L1 that alternates
// EPT pointers or VPIDs finds everything as it left it. Nested, the engine's counts of fills and flushes say
// so; bare and nested, L2 reads what it should.
// Manual: VMX Instruction Reference (INVEPT, INVVPID); Operations that Invalidate Cached Mappings.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define PAGE_A 0x31000 // L2-physical
#define PAGE_B 0x32000
#define AT_PTE 0x30000 // the linear addresses whose PTEs are changed
#define AT_TWO 0x33000
#define PTE(a) ((uint64_t *)l2_memory(0x4000 + 8 * ((a) >> 12)))

static void enter_at(uint64_t rip, bool launch)
{
    l1_vmwrite(VMCS_GUEST_RIP, rip);
    if (launch)
        l1_vmlaunch();
    else
        l1_vmresume();
}

static uint64_t fills(void)
{
    return world_is_nested() ? world_vcpu()->ept02.fill_count : 0;
}

static uint64_t flushes(void)
{
    return world_is_nested() ? world_vcpu()->vpid02.flush_count : 0;
}

static uint64_t reclaims(void)
{
    return world_is_nested() ? world_vcpu()->ept02.reclaim_count : 0;
}

static void expect_read(unsigned byte)
{
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_gpr(GPR_RBX) & 0xff, byte);
}

// `count` EPT pointers, each with a page of its own (full of its number + 1) at L2-physical 0x30000.
static void make_epts(uint64_t *eptp, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint64_t page = l1_new_page();
        memset(l1_memory(page), (int)i + 1, PAGE_SIZE);
        eptp[i] = l1_new_ept();
        l1_ept_map(eptp[i], 0, L2_RAM, 0x40000, 0x1000, 7);
        l1_ept_map(eptp[i], 0x30000, page, 0x1000, 0x1000, 7);
    }
}

static void alternating_ept_pointers_fills_once(void)
{
    enum { COUNT = 10 };
    uint64_t eptp[COUNT], filled = 0;
    L2_PROGRAM(l2, READ(GPR_RBX, 0x30000), VMCALL);
    l1_prepare(&l2);
    make_epts(eptp, COUNT);
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned i = 0; i < COUNT; i++) {
            l1_vmwrite(VMCS_EPT_POINTER, eptp[i]);
            enter_at(l2.code, round + i == 0);
            expect_read(i + 1);
        }
        if (round == 0)
            filled = fills();
        assert_int_equal(fills(), filled);
    }
    assert_true(!world_is_nested() || filled > COUNT);
}

static void invept_of_one_root_keeps_the_others(void)
{
    uint64_t eptp[3];
    L2_PROGRAM(l2, READ(GPR_RBX, 0x30000), VMCALL);
    l1_prepare(&l2);
    make_epts(eptp, 3);
    for (unsigned i = 0; i < 3; i++) {
        l1_vmwrite(VMCS_EPT_POINTER, eptp[i]);
        enter_at(l2.code, i == 0);
    }
    uint64_t other = l1_new_page();
    memset(l1_memory(other), 0x77, PAGE_SIZE);
    l1_ept_map(eptp[1], 0x30000, other, 0x1000, 0x1000, 7);
    l1_invept(1, eptp[1]);
    uint64_t before = fills();
    for (unsigned i = 0; i < 3; i += 2) {
        l1_vmwrite(VMCS_EPT_POINTER, eptp[i]);
        enter_at(l2.code, false);
        expect_read(i + 1);
        assert_int_equal(fills(), before);
    }
    l1_vmwrite(VMCS_EPT_POINTER, eptp[1]);
    enter_at(l2.code, false);
    expect_read(0x77);
    assert_true(!world_is_nested() || fills() > before);
}

// INVEPT of a root that differs in its flags only: the address is what counts.
static void invept_goes_by_the_address_of_the_root(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x30000), VMCALL);
    l1_prepare(&l2);
    uint64_t eptp;
    make_epts(&eptp, 1);
    l1_vmwrite(VMCS_EPT_POINTER, eptp);
    enter_at(l2.code, true);
    expect_read(1);
    uint64_t other = l1_new_page();
    memset(l1_memory(other), 0x77, PAGE_SIZE);
    l1_ept_map(eptp, 0x30000, other, 0x1000, 0x1000, 7);
    l1_invept(1, eptp & ~7ull); // memory type UC
    enter_at(l2.code, false);
    expect_read(0x77);
}

// Two VPIDs and one EPT: each has its own page tables behind the same linear address.
static void two_page_tables(struct l2 *first, struct l2 *second, uint16_t vpid)
{
    first->vpid = vpid;
    l1_prepare(first);
    memset(l2_memory(PAGE_A), 0xaa, 8);
    memset(l2_memory(PAGE_B), 0xbb, 8);
    *PTE(AT_PTE) = PAGE_A | 7;
    memcpy(l2_memory(0x40000), l2_memory(0x1000), 0x4000); // a second set of tables
    *(uint64_t *)l2_memory(0x40000) = 0x41007;
    *(uint64_t *)l2_memory(0x41000) = 0x42007;
    *(uint64_t *)l2_memory(0x42000) = 0x43007;
    PTE(AT_PTE)[0x3f000 / 8] = PAGE_B | 7;
    second->vpid = (uint16_t)(vpid + 1);
    second->eptp = first->eptp;
    l1_prepare_vmcs(VMCS_B, second);
    l1_vmwrite(VMCS_GUEST_CR3, 0x40000);
}

static void enter_both(const struct l2 *first, const struct l2 *second, bool launch)
{
    l1_vmptrld(VMCS_A);
    enter_at(first->code, launch);
    expect_read(0xaa);
    l1_vmptrld(VMCS_B);
    enter_at(second->code, launch);
    expect_read(0xbb);
}

static void alternating_vpids_flushes_once(void)
{
    L2_PROGRAM(first, READ(GPR_RBX, AT_PTE), VMCALL);
    L2_PROGRAM(second, READ(GPR_RBX, AT_PTE), VMCALL);
    two_page_tables(&first, &second, 5);
    enter_both(&first, &second, true);
    uint64_t before = flushes();
    assert_true(!world_is_nested() || before == 2);
    for (unsigned i = 0; i < 4; i++)
        enter_both(&first, &second, false);
    assert_int_equal(flushes(), before);
}

static void more_vpids_than_l0_has(void)
{
    enum { COUNT = 40 };
    L2_PROGRAM(l2, READ(GPR_RBX, AT_PTE), VMCALL);
    l2.vpid = 1;
    l1_prepare(&l2);
    memset(l2_memory(PAGE_A), 0xaa, 8);
    memset(l2_memory(PAGE_B), 0xbb, 8);
    for (unsigned i = 0; i < 2 * COUNT; i++) {
        unsigned vpid = 1 + i % COUNT;
        l1_vmwrite(VMCS_VPID, vpid);
        if (i >= COUNT) // this VPID was used before, with the other page
            l1_invvpid(1, vpid, 0);
        *PTE(AT_PTE) = (i < COUNT ? PAGE_A : PAGE_B) | 7;
        enter_at(l2.code, i == 0);
        expect_read(i < COUNT ? 0xaa : 0xbb);
    }
}

// The tag that stood for another vpid12 is not one that anything of this vpid12's is under.
static void a_new_vpid_sees_nothing_of_the_one_before(void)
{
    enum { COUNT = 24 };
    L2_PROGRAM(l2, READ(GPR_RBX, AT_PTE), VMCALL);
    l2.vpid = 1;
    l1_prepare(&l2);
    memset(l2_memory(PAGE_A), 0xaa, 8);
    memset(l2_memory(PAGE_B), 0xbb, 8);
    for (unsigned i = 0; i < COUNT; i++) {
        l1_vmwrite(VMCS_VPID, 1 + i);
        *PTE(AT_PTE) = (i % 2 ? PAGE_B : PAGE_A) | 7;
        enter_at(l2.code, i == 0);
        expect_read(i % 2 ? 0xbb : 0xaa);
    }
}

static void vpid_0_is_a_tag_of_its_own(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, AT_PTE), VMCALL);
    l2.vpid = 3;
    l1_prepare(&l2);
    memset(l2_memory(PAGE_A), 0xaa, 8);
    memset(l2_memory(PAGE_B), 0xbb, 8);
    *PTE(AT_PTE) = PAGE_A | 7;
    enter_at(l2.code, true);
    expect_read(0xaa);
    uint64_t before = flushes();
    l1_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VPID);
    for (unsigned i = 0; i < 4; i++) { // every entry without VPID flushes
        *PTE(AT_PTE) = (i % 2 ? PAGE_B : PAGE_A) | 7;
        enter_at(l2.code, false);
        expect_read(i % 2 ? 0xbb : 0xaa);
    }
    assert_true(!world_is_nested() || flushes() == before + 4);
    *PTE(AT_PTE) = PAGE_A | 7;
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VPID);
    enter_at(l2.code, false);
    expect_read(0xaa);
    assert_true(!world_is_nested() || flushes() == before + 4);
}

// INVVPID of one address: the other one's translation is still the old one, which the manual permits (and the
// model, bare and under L0, does).
static void invvpid_of_an_address_keeps_the_others(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, AT_PTE), READ(GPR_RSI, AT_TWO), VMCALL);
    l2.vpid = 7;
    l1_prepare(&l2);
    memset(l2_memory(PAGE_A), 0xaa, 8);
    memset(l2_memory(PAGE_B), 0xbb, 8);
    *PTE(AT_PTE) = *PTE(AT_TWO) = PAGE_A | 7;
    enter_at(l2.code, true);
    expect_read(0xaa);
    uint64_t before = flushes();
    *PTE(AT_PTE) = *PTE(AT_TWO) = PAGE_B | 7;
    l1_invvpid(0, 7, AT_PTE + 0x123);
    enter_at(l2.code, false);
    expect_read(0xbb);
    assert_int_equal(l1_gpr(GPR_RSI) & 0xff, 0xaa);
    assert_int_equal(flushes(), before);
    l1_invvpid(0, 8, AT_TWO); // another VPID's
    enter_at(l2.code, false);
    assert_int_equal(l1_gpr(GPR_RSI) & 0xff, 0xaa);
    l1_invvpid(1, 8, 0);
    enter_at(l2.code, false);
    assert_int_equal(l1_gpr(GPR_RSI) & 0xff, 0xaa);
    assert_int_equal(flushes(), before);
    l1_invvpid(1, 7, 0);
    enter_at(l2.code, false);
    assert_int_equal(l1_gpr(GPR_RSI) & 0xff, 0xbb);
    expect_exit(EXIT_VMCALL);
}

static void invvpid_of_one_vpid_keeps_the_others(void)
{
    L2_PROGRAM(first, READ(GPR_RBX, AT_PTE), VMCALL);
    L2_PROGRAM(second, READ(GPR_RBX, AT_PTE), VMCALL);
    two_page_tables(&first, &second, 9);
    enter_both(&first, &second, true);
    uint64_t before = flushes();
    *PTE(AT_PTE) = PAGE_B | 7;
    l1_invvpid(1, 9, 0);
    l1_vmptrld(VMCS_B);
    enter_at(second.code, false);
    expect_read(0xbb);
    assert_int_equal(flushes(), before);
    l1_vmptrld(VMCS_A);
    enter_at(first.code, false);
    expect_read(0xbb);
    assert_true(!world_is_nested() || flushes() == before + 1);
}

// L1's own translations are under a tag that no vpid12 gets.
static void l1s_translations_survive_l2s_with_vpid(void)
{
    uint64_t *pde = (uint64_t *)l1_memory(L1_PAGE_TABLES + 0x2000) + 6; // linear 0xc00000
    L2_PROGRAM(l2, VMCALL);
    l2.vpid = 1;
    l1_prepare(&l2);
    memset(l1_memory(0x600000), 0x55, 8);
    memset(l1_memory(0x800000), 0x66, 8);
    *pde = 0x600087;
    l1_run(INVLPG(0xc00000));
    l1_run(READ(GPR_RSI, 0xc00000));
    *pde = 0x800087;
    for (unsigned vpid = 1; vpid < 8; vpid++) {
        l1_vmwrite(VMCS_VPID, vpid);
        l1_invvpid(1, vpid, 0);
        enter_at(l2.code, vpid == 1);
        l1_run(READ(GPR_RSI, 0xc00000));
        assert_int_equal(l1_gpr(GPR_RSI) & 0xff, 0x55);
    }
    l1_run(INVLPG(0xc00000));
    l1_run(READ(GPR_RSI, 0xc00000));
    assert_int_equal(l1_gpr(GPR_RSI) & 0xff, 0x66);
}

// Three roots, of which the small pool holds two with all their pages: what was not used for longest goes.
static void an_empty_pool_drops_the_root_used_least_recently(void)
{
    enum { COUNT = 24 };
    static struct op ops[COUNT + 1];
    struct l2 l2 = {.op = ops, .count = COUNT + 1};
    uint64_t eptp[3], page = l1_new_page();
    for (unsigned i = 0; i < COUNT; i++)
        ops[i] = WRITE(0x100000 + (int64_t)i * 0x1000, i);
    ops[COUNT] = VMCALL;
    l2_load(&l2);
    l1_prepare(&l2);
    for (unsigned k = 0; k < 3; k++) {
        eptp[k] = l1_new_ept();
        l1_ept_map(eptp[k], 0, L2_RAM, 0x40000, 0x1000, 7);
        for (uint64_t i = 0; i < COUNT; i++) // each page 2 MBytes further on: a table of its own
            l1_ept_map(eptp[k], 0x40000000 + i * 0x200000, page, 0x1000, 0x1000, 7);
    }
    for (uint64_t i = 0; i < COUNT; i++)
        ((uint64_t *)l2_memory(0x4000))[0x100 + i] = (0x40000000 + i * 0x200000) | 7;
    bool small_pool = world_is_nested() && world_vcpu()->config.pages.ept02_pool_pages < 100;
    static const struct {
        unsigned root;
        bool reclaims;
    } turns[] = {{0, false}, {1, false}, {2, true}, {1, false}, {0, true}, {1, false}, {2, true}};
    for (unsigned i = 0; i < sizeof(turns) / sizeof(turns[0]); i++) {
        uint64_t before = reclaims(), filled = fills();
        l1_vmwrite(VMCS_EPT_POINTER, eptp[turns[i].root]);
        enter_at(l2.code, i == 0);
        expect_exit(EXIT_VMCALL);
        assert_int_equal(reclaims() - before, small_pool && turns[i].reclaims);
        if (i >= 3 && !(small_pool && turns[i].reclaims)) // it is all there
            assert_int_equal(fills(), filled);
    }
}

// More pages in one root than the smallest pool has tables for.
static void an_empty_pool_does_no_harm(void)
{
    enum { COUNT = 60 };
    static struct op ops[COUNT + 2];
    struct l2 l2 = {.op = ops, .count = COUNT + 2};
    uint64_t page = l1_new_page();
    for (unsigned i = 0; i <= COUNT; i++)
        ops[i] = WRITE(0x100000 + (int64_t)(i % COUNT) * 0x1000, i + 1);
    ops[COUNT + 1] = VMCALL;
    l2_load(&l2);
    l1_prepare(&l2);
    for (uint64_t i = 0; i < COUNT; i++) {
        l1_ept_map(l2.eptp, 0x40000000 + i * 0x200000, page, 0x1000, 0x1000, 7);
        ((uint64_t *)l2_memory(0x4000))[0x100 + i] = (0x40000000 + i * 0x200000) | 7;
    }
    enter_at(l2.code, true);
    expect_exit(EXIT_VMCALL);
    assert_int_equal(*(uint64_t *)l1_memory(page), COUNT + 1);
    assert_true(!world_is_nested() || reclaims() > 0);
}

// The vcpu leaves a logical processor, invalidates elsewhere, and comes back: what the first one kept under
// the vcpu's tag is gone. (Without EPT, where no invalidation of ept02 helps.)
static void a_processor_that_was_left_holds_nothing(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, AT_PTE), VMCALL);
    L2_PROGRAM(other, VMCALL);
    l2.vpid = 7;
    l2.without_ept = true;
    l1_prepare(&l2);
    uint64_t *pte = (uint64_t *)l2_memory(0x3f3000) + (AT_PTE >> 12);
    memset(l2_memory(PAGE_A), 0xaa, 8);
    memset(l2_memory(PAGE_B), 0xbb, 8);
    for (unsigned i = 0; i < 4; i++) { // with this tag the current one, and with another
        *pte = (L2_RAM + PAGE_A) | 7;
        l1_invvpid(1, 7, 0);
        enter_at(l2.code, i == 0);
        expect_read(0xaa);
        *pte = (L2_RAM + PAGE_B) | 7;
        if (world_is_nested())
            l0_move_to(1);
        l1_vmwrite(VMCS_VPID, 8);
        enter_at(other.code, false);
        l1_invvpid(0, 7, AT_PTE);
        l1_vmwrite(VMCS_VPID, 7);
        if (i % 2 == 1)
            enter_at(other.code, false);
        if (world_is_nested())
            l0_move_to(0);
        if (i / 2 == 1) // back in L1, and else behind VMRESUME
            l1_run(CPUID(0));
        enter_at(l2.code, false);
        expect_read(0xbb);
    }
}

static const struct CMUnitTest tests[] = {
    BOTH_WITH(alternating_ept_pointers_fills_once, "", .keeps_caches = true),
    BOTH_WITH(invept_of_one_root_keeps_the_others, "", .keeps_caches = true),
    BOTH(invept_goes_by_the_address_of_the_root),
    BOTH_WITH(alternating_vpids_flushes_once, "", .keeps_caches = true),
    BOTH(more_vpids_than_l0_has),
    BOTH_WITH(more_vpids_than_l0_has, ", one VPID of L0's", .vpid02_count = 1),
    BOTH_WITH(more_vpids_than_l0_has, ", moving", .cpu_count = 3, .move_one_in = 3),
    BOTH(a_new_vpid_sees_nothing_of_the_one_before),
    BOTH_WITH(a_new_vpid_sees_nothing_of_the_one_before, ", one VPID of L0's", .vpid02_count = 1),
    BOTH_WITH(a_new_vpid_sees_nothing_of_the_one_before, ", moving", .cpu_count = 3, .move_one_in = 2),
    BOTH_WITH(vpid_0_is_a_tag_of_its_own, "", .keeps_caches = true),
    BOTH_WITH(invvpid_of_an_address_keeps_the_others, "", .keeps_caches = true),
    BOTH_WITH(invvpid_of_one_vpid_keeps_the_others, "", .keeps_caches = true),
    BOTH_WITH(l1s_translations_survive_l2s_with_vpid, "", .keeps_caches = true),
    BOTH(an_empty_pool_drops_the_root_used_least_recently),
    BOTH_WITH(an_empty_pool_drops_the_root_used_least_recently, ", small pool", .ept02_pool_pages = 96,
              .keeps_caches = true),
    BOTH_WITH(an_empty_pool_does_no_harm, ", smallest pool", .ept02_pool_pages = 64, .keeps_caches = true),
    BOTH_WITH(a_processor_that_was_left_holds_nothing, ", two processors", .cpu_count = 2),
};

int main(void)
{
    return cmocka_run_group_tests_name("translation caches", tests, NULL, NULL);
}
