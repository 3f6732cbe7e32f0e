// SPDX-License-Identifier: MIT
// More of everything than a cache of L0's may hold: VMCSs, ept12s, VPIDs, pages of one ept12.
#include "ept.h"
#include "first.h"
#include "x86.h"

#define VMCS_COUNT  24u
#define EPT_COUNT   12u
#define VPID_COUNT  20u
#define REGIONS     120u         // of 2 MiB, one page used in each
#define FAR_AWAY    0x40000000ul // L2-physical, above what ept_create_identity maps
#define REGION_SIZE 0x200000ul
#define ROUND_COUNT 3u

static void l2_count(void)
{
    for (uint64_t i = 0;; i++)
        l2_call(i);
}

// Enters, and says whether L2 came back with this number; VMCALL is skipped.
static bool comes_back_with(struct l2 *l2, uint64_t number)
{
    if (l2_enter(l2) != VMX_SUCCEED || l2_read(VMCS_EXIT_REASON) != EXIT_VMCALL)
        return false;
    l2_skip();
    return l2->gpr[GPR_RAX] == number;
}

void test_many_vmcs(struct cpu *cpu)
{
    struct l2 *l2[VMCS_COUNT];
    for (uint32_t i = 0; i < VMCS_COUNT; i++) {
        l2[i] = l2_create(cpu, l2_count);
        l2_write(VMCS_GUEST_SYSENTER_CS, 0x100 + i);
        l2_write(VMCS_TSC_OFFSET, 0x200 + i);
    }
    uint32_t right = 0;
    for (uint32_t k = 0; k < ROUND_COUNT; k++)
        for (uint32_t i = 0; i < VMCS_COUNT; i++) {
            vmx_vmptrld(l2[i]->vmcs);
            right += comes_back_with(l2[i], k) && l2_read(VMCS_GUEST_SYSENTER_CS) == 0x100 + i &&
                     l2_read(VMCS_TSC_OFFSET) == 0x200 + i;
        }
    fact(cpu, "entries that came back with the right number and fields", right, VMCS_COUNT * ROUND_COUNT);
    for (uint32_t i = 0; i < VMCS_COUNT; i++)
        vmx_vmclear(l2[i]->vmcs);
}

// argument[0]: where to read.
static void l2_reads(void)
{
    for (;;)
        l2_call(*(volatile uint64_t *)(uintptr_t)cpu_self()->argument[0]);
}

void test_many_ept12s(struct cpu *cpu)
{
    if (!fact_offered(cpu, "EPT", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT))
        return;
    struct ept ept[EPT_COUNT];
    uint64_t *page[EPT_COUNT];
    for (uint32_t i = 0; i < EPT_COUNT; i++) {
        ept[i] = ept_create_identity(cpu);
        page[i] = cpu_allocate_page(cpu);
        *page[i] = 0x1000 + i;
        ept_map(&ept[i], FAR_AWAY, cpu_physical(page[i]), PAGE_SIZE, EPT_ALL | EPT_WRITE_BACK);
    }
    struct l2 *l2 = l2_create(cpu, l2_reads);
    ept_use(&ept[0]);
    cpu->argument[0] = FAR_AWAY;
    uint32_t right = 0;
    for (uint32_t k = 0; k < ROUND_COUNT; k++)
        for (uint32_t i = 0; i < EPT_COUNT; i++) {
            l2_write(VMCS_EPT_POINTER, ept_pointer(&ept[i]));
            right += comes_back_with(l2, 0x1000 + i);
        }
    fact(cpu, "entries that read through the right ept12", right, EPT_COUNT * ROUND_COUNT);
    // One after the other is emptied, each by INVEPT of itself: the others stay.
    right = 0;
    for (uint32_t i = 0; i < EPT_COUNT; i++) {
        *ept_entry(&ept[i], FAR_AWAY) = 0;
        ept_invalidate(&ept[i]);
        l2_write(VMCS_EPT_POINTER, ept_pointer(&ept[i]));
        right += l2_enter(l2) == VMX_SUCCEED && l2_read(VMCS_EXIT_REASON) == EXIT_EPT_VIOLATION &&
                 l2_read(VMCS_GUEST_PHYSICAL_ADDRESS) == FAR_AWAY;
        l2_write(VMCS_EPT_POINTER, ept_pointer(&ept[EPT_COUNT - 1]));
        right += i == EPT_COUNT - 1 || comes_back_with(l2, 0x1000 + EPT_COUNT - 1);
    }
    fact(cpu, "entries that saw what was emptied, and what was not", right, 2 * EPT_COUNT);
}

void test_many_pages(struct cpu *cpu)
{
    if (!fact_offered(cpu, "EPT", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT))
        return;
    struct ept ept = ept_create_identity(cpu);
    uint64_t *pages[4];
    for (uint32_t i = 0; i < 4; i++) {
        pages[i] = cpu_allocate_page(cpu);
        *pages[i] = 0x2000 + i;
    }
    for (uint64_t i = 0; i < REGIONS; i++)
        ept_map(&ept, FAR_AWAY + i * REGION_SIZE, cpu_physical(pages[i % 4]), PAGE_SIZE,
                EPT_ALL | EPT_WRITE_BACK);
    struct l2 *l2 = l2_create(cpu, l2_reads);
    ept_use(&ept);
    uint32_t right = 0;
    for (uint32_t k = 0; k < ROUND_COUNT; k++)
        for (uint64_t i = 0; i < REGIONS; i++) {
            cpu->argument[0] = FAR_AWAY + i * REGION_SIZE;
            right += comes_back_with(l2, 0x2000 + i % 4);
        }
    fact(cpu, "reads of pages far apart that were right", right, REGIONS * ROUND_COUNT);
}

void test_many_vpids(struct cpu *cpu)
{
    if (!fact_offered(cpu, "VPID", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VPID))
        return;
    struct l2 *l2 = l2_create(cpu, l2_count);
    l2_set_secondary(SECONDARY_ENABLE_VPID);
    uint32_t right = 0;
    for (uint32_t i = 0; i < VPID_COUNT; i++) {
        l2_write(VMCS_VPID, 1 + i * 0xd79 % 0xffff);
        right += comes_back_with(l2, i);
    }
    fact(cpu, "entries with a VPID each", right, VPID_COUNT);
}
