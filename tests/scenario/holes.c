// SPDX-License-Identifier: MIT
// An L2 where L1 has no memory: it reads and fetches ones, what it writes is gone, it never executes the same
// instruction for ever, and two L2s have nothing in common there. Bare, these are addresses that nothing on
// the bus answers to.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define HOLE      (L1_RAM_SIZE + 0x5000ull) // L1-physical
#define HOLE_2    (L1_RAM_SIZE + 0x9000ull)
#define IN_HOLE   0x30000 // L2-physical and linear, of pages that hole() maps there
#define IN_HOLE_2 0x31000
#define ONES      UINT64_MAX
#define ALL       7u

static void map_holes(const struct l2 *l2)
{
    l1_ept_map(l2->eptp, IN_HOLE, HOLE, 0x1000, 0x1000, ALL);
    l1_ept_map(l2->eptp, IN_HOLE_2, HOLE_2, 0x1000, 0x1000, ALL);
}

static void l2_fetches_from_a_hole(void)
{
    L2_PROGRAM(l2, FETCH(IN_HOLE), READ(GPR_RBX, IN_HOLE), FETCH(IN_HOLE), VMCALL);
    l1_prepare(&l2);
    map_holes(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_true(l1_gpr(GPR_RBX) == ONES);
}

static void expect_ones(void)
{
    assert_true(l1_gpr(GPR_RBX) == ONES);
    assert_true(l1_gpr(GPR_RSI) == ONES);
    assert_true(l1_gpr(GPR_RDI) == ONES);
}

static void l2_writes_to_a_hole(void)
{
    L2_PROGRAM(l2, WRITE(IN_HOLE, 0x4141), READ(GPR_RBX, IN_HOLE), WRITE(IN_HOLE + 8, 0x4242),
               READ(GPR_RSI, IN_HOLE + 8), READ(GPR_RDI, IN_HOLE), VMCALL);
    l1_prepare(&l2);
    map_holes(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    expect_ones();
}

// ... with the page in ept02 for reading first, and over the end of it into another hole.
static void a_write_over_two_pages(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, IN_HOLE), WRITE(IN_HOLE_2 - 4, 0x1122334455667788),
               READ(GPR_RSI, IN_HOLE_2 - 4), READ(GPR_RDI, IN_HOLE_2), VMCALL);
    l1_prepare(&l2);
    map_holes(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    expect_ones();
}

// What hardware writes for one L2 where L1 has no memory, and what an L2 writes, no other one reads.
static void l2s_share_nothing(void)
{
    L2_PROGRAM(a, WRITE(IN_HOLE, 0x4141), VMCALL);
    L2_PROGRAM(b, READ(GPR_RBX, IN_HOLE), VMCALL);
    l1_prepare(&a);
    map_holes(&a);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    l1_prepare_vmcs(VMCS_B, &b);
    map_holes(&b);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_true(l1_gpr(GPR_RBX) == ONES);
}

static void tpr_shadow_in_a_hole(struct l2 *l2)
{
    (void)l2;
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW);
    l1_vmwrite(VMCS_VIRTUAL_APIC_ADDRESS, HOLE);
    l1_vmwrite(VMCS_TPR_THRESHOLD, 0);
}

// VTPR of one L2's is not another's, nor what that finds in its memory.
static void hardware_pages_share_nothing(void)
{
    L2_PROGRAM(a, MOV_TO_CR(8, 3), VMCALL);
    L2_PROGRAM(b, MOV_FROM_CR(GPR_RBX, 8), READ(GPR_RSI, IN_HOLE + 0x80), VMCALL);
    l1_prepare(&a);
    tpr_shadow_in_a_hole(&a);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    l1_prepare_vmcs(VMCS_B, &b);
    map_holes(&b);
    tpr_shadow_in_a_hole(&b);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_gpr(GPR_RBX), 15);
    assert_true(l1_gpr(GPR_RSI) == ONES);
}

// With accessed and dirty flags the processor's reads of L2's page tables count as writes: all of them in a
// hole. Their entries are ones, with reserved bits: L2 cannot even take its page fault.
static void l2s_page_tables_in_a_hole(void)
{
    L2_PROGRAM(l2, NOP, VMCALL);
    l2.eptp = l1_new_ept() | 1 << 6;
    l1_ept_map(l2.eptp, 0, L2_RAM, 0x40000, 0x1000, ALL);
    l1_prepare(&l2);
    if (!(world_l1_processor()->vmx.msr[12] & EPT_CAP_ACCESSED_DIRTY))
        return;
    map_holes(&l2);
    l1_vmwrite(VMCS_GUEST_CR3, IN_HOLE);
    l1_vmlaunch();
    expect_exit(EXIT_TRIPLE_FAULT);
}

// L1's monitor trap flag and the end of L0's own instruction are one exit: L1's.
static void l1_has_its_trap_behind_a_write(void)
{
    L2_PROGRAM(l2, WRITE(IN_HOLE, 0x4141), READ(GPR_RBX, IN_HOLE), VMCALL);
    l1_prepare(&l2);
    map_holes(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_MONITOR_TRAP_FLAG);
    l1_vmlaunch();
    expect_exit(EXIT_MONITOR_TRAP_FLAG);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 8);
    l1_vmresume();
    expect_exit(EXIT_MONITOR_TRAP_FLAG);
    assert_true(l1_gpr(GPR_RBX) == ONES);
    l1_clear(VMCS_PRIMARY_CONTROLS, PRIMARY_MONITOR_TRAP_FLAG);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

// A write that opens a hole and then misses a page that L1 has to give: L1 runs in the middle of it, and so
// does another L2. The rest comes later.
static void l1_runs_in_the_middle_of_a_write(void)
{
    L2_PROGRAM(a, WRITE(IN_HOLE_2 - 4, 0x1122334455667788), READ(GPR_RBX, IN_HOLE),
               READ(GPR_RSI, IN_HOLE + 0xff8), VMCALL);
    L2_PROGRAM(b, READ(GPR_RBX, IN_HOLE), NOP, NOP, VMCALL);
    l1_prepare(&a);
    map_holes(&a);
    l1_ept_map(a.eptp, IN_HOLE_2, L2_RAM + IN_HOLE_2, 0x1000, 0x1000, 1); // only to be read
    l1_vmlaunch();
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), a.code);
    l1_run(NOP);
    l1_prepare_vmcs(VMCS_B, &b);
    map_holes(&b);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_true(l1_gpr(GPR_RBX) == ONES);
    l1_vmptrld(VMCS_A);
    l1_ept_map(a.eptp, IN_HOLE_2, L2_RAM + IN_HOLE_2, 0x1000, 0x1000, ALL);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    assert_true(l1_gpr(GPR_RBX) == ONES);
    assert_true(l1_gpr(GPR_RSI) == ONES);
    uint32_t half;
    memcpy(&half, l2_memory(IN_HOLE_2), 4);
    assert_int_equal(half, 0x11223344);
}

// L1's writes to the bus and those of an L2 that runs without EPT are L0's own to drop.
static void writes_through_ept01(void)
{
    uint64_t *pde = (uint64_t *)l1_memory(L1_PAGE_TABLES + 0x2000) + 8; // linear 16 MBytes
    *pde = L1_RAM_SIZE | 0x87;
    l1_run(WRITE(HOLE, 0x4141));
    l1_run(READ(GPR_RBX, HOLE));
    assert_true(l1_gpr(GPR_RBX) == ONES);
    L2_PROGRAM(l2, WRITE(IN_HOLE, 0x4141), READ(GPR_RBX, IN_HOLE), VMCALL);
    l2.without_ept = true;
    l1_prepare(&l2);
    *(uint64_t *)l2_memory(0x3f3000 + 8 * 0x30) = HOLE_2 | 7;
    l1_set_gpr(GPR_RBX, 0);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_true(l1_gpr(GPR_RBX) == ONES);
    l1_run(WRITE(HOLE, 0x4141));
    l1_run(READ(GPR_RBX, HOLE));
    assert_true(l1_gpr(GPR_RBX) == ONES);
}

// Without the monitor trap flag L2 may read back what it wrote, until L1 runs.
static void without_the_monitor_trap_flag(void)
{
    L2_PROGRAM(l2, WRITE(IN_HOLE, 0x4141), VMCALL, READ(GPR_RBX, IN_HOLE), WRITE(IN_HOLE + 8, 1),
               READ(GPR_RSI, IN_HOLE), VMCALL);
    l1_prepare(&l2);
    map_holes(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    l1_resume_at(l2.code + 11);
    expect_exit(EXIT_VMCALL);
    assert_true(l1_gpr(GPR_RBX) == ONES);
    assert_true(l1_gpr(GPR_RSI) == ONES);
}

static const struct CMUnitTest tests[] = {
    BOTH(l2_fetches_from_a_hole),
    BOTH(l2_writes_to_a_hole),
    BOTH(a_write_over_two_pages),
    BOTH(l2s_share_nothing),
    BOTH(hardware_pages_share_nothing),
    BOTH(l2s_page_tables_in_a_hole),
    BOTH(l1_has_its_trap_behind_a_write),
    BOTH(l1_runs_in_the_middle_of_a_write),
    BOTH(writes_through_ept01),
    NESTED(without_the_monitor_trap_flag, .processor = &processor_sparse),
};

int main(void)
{
    return cmocka_run_group_tests_name("holes", tests, NULL, NULL);
}
