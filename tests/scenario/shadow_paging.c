// SPDX-License-Identifier: MIT
// An L1 that uses no EPT: L2 runs on page tables that L1 makes of L2's own (shadow paging), by what page
// faults, CR3 loads and INVLPG tell it. L2's physical memory is then L1's, through ept01.
// Manual: Page-Table Virtualization (in older editions, Virtualization of System Resources: Memory
// Virtualization); VM Exits.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define PAGE_A   0x31000ull // L2-physical
#define PAGE_B   0x32000ull
#define DATA     0x30000ull // linear; each of L2's roots maps it elsewhere
#define NOWHERE  0x33000ull // linear; L2 maps nothing there
#define ROOT_1   0x1000ull  // L2's own page tables, L2-physical
#define ROOT_2   0x40000ull
#define PTE(r)   ((uint64_t *)l2_memory((r) + 0x3000))
#define PF_P     1u
#define PF_WRITE 2u
#define ROOTS    2

static struct shadow {
    uint64_t root; // L2's
    uint64_t pml4, table;
} shadow[ROOTS];
static unsigned current, fault_count, load_count, invalidation_count;

static uint64_t new_table(uint64_t parent)
{
    uint64_t page = l1_new_page();
    if (parent != 0)
        *(uint64_t *)l1_memory(parent) = page | 7;
    return page;
}

// With everything in it but the two pages that this is about.
static void make_shadow(unsigned i, uint64_t root)
{
    shadow[i].root = root;
    shadow[i].pml4 = new_table(0);
    shadow[i].table = new_table(new_table(new_table(shadow[i].pml4)));
    for (uint64_t page = 0; page < 0x40000; page += PAGE_SIZE)
        if (page != DATA && page != NOWHERE)
            ((uint64_t *)l1_memory(shadow[i].table))[page >> 12] = (L2_RAM + page) | 7;
}

static uint64_t *shadow_pte(uint64_t linear)
{
    return (uint64_t *)l1_memory(shadow[current].table) + (linear >> 12);
}

static void prepare(struct l2 *l2)
{
    l2->without_ept = true;
    l1_prepare(l2);
    memcpy(l2_memory(ROOT_2), l2_memory(ROOT_1), 0x4000); // a second set of tables of L2's
    for (uint64_t at = 0; at < 0x3000; at += 0x1000)
        *(uint64_t *)l2_memory(ROOT_2 + at) = (ROOT_2 + at + 0x1000) | 7;
    PTE(ROOT_1)[DATA >> 12] = PAGE_A | 7;
    PTE(ROOT_2)[DATA >> 12] = PAGE_B | 7;
    PTE(ROOT_1)[NOWHERE >> 12] = PTE(ROOT_2)[NOWHERE >> 12] = 0;
    memset(l2_memory(PAGE_A), 0xaa, 8);
    memset(l2_memory(PAGE_B), 0xbb, 8);
    make_shadow(0, ROOT_1);
    make_shadow(1, ROOT_2);
    current = fault_count = load_count = invalidation_count = 0;
    l1_vmwrite(VMCS_GUEST_CR3, shadow[0].pml4);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_PF);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_CR3_LOAD_EXITING | PRIMARY_CR3_STORE_EXITING |
                                      PRIMARY_INVLPG_EXITING | PRIMARY_HLT_EXITING);
}

// L2's PTE goes into the shadow, at L1's address, with its accessed and dirty flags set; or the fault is
// L2's.
static void handle_page_fault(void)
{
    uint64_t linear = l1_vmread(VMCS_EXIT_QUALIFICATION);
    uint64_t error = l1_vmread(VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE);
    uint64_t *pte = &PTE(shadow[current].root)[linear >> 12];
    fault_count++;
    if (!(*pte & 1) || ((error & PF_WRITE) && !(*pte & 2))) {
        l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000b0e);
        l1_vmwrite(VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, (error & ~(uint64_t)PF_P) | (*pte & 1));
        return;
    }
    *pte |= 0x20 | (error & PF_WRITE ? 0x40 : 0);
    bool dirty = *pte & 0x40;
    *shadow_pte(linear) = (L2_RAM + (*pte & ~0xfffull)) | 5 | (dirty ? 2 : 0);
}

static void handle_cr3(const struct l2 *l2, uint64_t rdx)
{
    uint64_t qualification = l1_vmread(VMCS_EXIT_QUALIFICATION);
    assert_int_equal(qualification & 0xf, 3);
    assert_int_equal(qualification >> 4 & 3, 0); // MOV to CR3
    assert_int_equal(qualification >> 8 & 15, GPR_RDX);
    load_count++;
    for (unsigned i = 0; i < ROOTS; i++)
        if (shadow[i].root == rdx)
            current = i;
    l1_vmwrite(VMCS_GUEST_CR3, shadow[current].pml4);
    if (l2->vpid)
        l1_invvpid(INVVPID_SINGLE_CONTEXT, l2->vpid, 0);
    l1_skip_instruction();
}

static void handle_invlpg(const struct l2 *l2)
{
    uint64_t linear = l1_vmread(VMCS_EXIT_QUALIFICATION);
    invalidation_count++;
    *shadow_pte(linear) = 0;
    if (l2->vpid)
        l1_invvpid(INVVPID_INDIVIDUAL_ADDRESS, l2->vpid, linear);
    l1_skip_instruction();
}

// Runs L2 until it calls or halts.
static uint64_t run(const struct l2 *l2, bool launch)
{
    for (unsigned exits = 0; exits < 200; exits++) {
        if (launch && exits == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        uint64_t rdx = l1_gpr(GPR_RDX); // L2's, before L1 uses it
        uint64_t reason = l1_vmread(VMCS_EXIT_REASON);
        if (reason == EXIT_EXCEPTION_OR_NMI)
            handle_page_fault();
        else if (reason == EXIT_CONTROL_REGISTER_ACCESS)
            handle_cr3(l2, rdx);
        else if (reason == EXIT_INVLPG)
            handle_invlpg(l2);
        else
            return reason;
    }
    return UINT64_MAX;
}

static void shadow_page_tables(uint16_t vpid)
{
    L2_PROGRAM(l2, READ(GPR_RBX, DATA), WRITE(DATA + 8, 0x77), MOV_TO_CR(3, ROOT_2), READ(GPR_RSI, DATA),
               MOV_TO_CR(3, ROOT_1), READ(GPR_RDI, DATA + 8), VMCALL, INVLPG(DATA), READ(GPR_RBX, DATA),
               READ(GPR_RSI, NOWHERE), VMCALL);
    l2.vpid = vpid;
    prepare(&l2);
    assert_int_equal(run(&l2, true), EXIT_VMCALL);
    assert_int_equal(l1_gpr(GPR_RBX) & 0xff, 0xaa);
    assert_int_equal(l1_gpr(GPR_RSI) & 0xff, 0xbb);
    assert_int_equal(l1_gpr(GPR_RDI), 0x77);
    assert_int_equal(load_count, 2);
    assert_int_equal(PTE(ROOT_1)[DATA >> 12] & 0x60, 0x60); // by L1's hand
    assert_int_equal(PTE(ROOT_2)[DATA >> 12] & 0x60, 0x20);
    assert_int_equal(fault_count, 3); // read, written, read under the other root

    PTE(ROOT_1)[DATA >> 12] = PAGE_B | 7; // L2 remaps it, and says so with INVLPG
    l1_skip_instruction();
    assert_int_equal(run(&l2, false), EXIT_HLT); // L2's handler, for NOWHERE
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), 0xe000 + VECTOR_PF);
    assert_int_equal(l1_gpr(GPR_RBX) & 0xff, 0xbb);
    assert_int_equal(invalidation_count, 1);
    assert_int_equal(fault_count, 5);
}

static void without_vpid(void)
{
    shadow_page_tables(0);
}

static void with_vpid(void)
{
    shadow_page_tables(4);
}

static const struct CMUnitTest tests[] = {
    BOTH(without_vpid),
    BOTH(with_vpid),
    BOTH_WITH(without_vpid, ", 4-KByte ept01", .l0_without_large_pages = true),
    BOTH_WITH(without_vpid, ", moving", .cpu_count = 2, .move_one_in = 3),
    BOTH_WITH(with_vpid, ", moving", .cpu_count = 2, .move_one_in = 3),
    BOTH_WITH(without_vpid, ", processor without VPID", .processor = &processor_no_vpid),
    BOTH_WITH(without_vpid, ", sparse processor", .processor = &processor_sparse),
};

int main(void)
{
    return cmocka_run_group_tests_name("shadow paging", tests, NULL, NULL);
}
