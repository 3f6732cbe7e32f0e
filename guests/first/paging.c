// SPDX-License-Identifier: MIT
// L2 on page tables of its own: CR3, INVLPG, VPIDs and INVVPID.
#include "first.h"
#include "l2_code.h"
#include "tables.h"
#include "x86.h"

#define INVVPID_ADDRESS   0
#define INVVPID_SINGLE    1
#define INVVPID_ALL       2
#define INVVPID_RETAINING 3

// argument[0]: the page-table entry that maps TABLES_WINDOW; [1], [2]: two entries; [3]: another CR3.
static void l2_remaps(void)
{
    volatile uint64_t *window = (volatile uint64_t *)TABLES_WINDOW;
    struct cpu *cpu = cpu_self();
    volatile uint64_t *entry = (volatile uint64_t *)(uintptr_t)cpu->argument[0];
    l2_call(*window);
    *entry = cpu->argument[2];
    x86_invlpg(TABLES_WINDOW);
    l2_call(*window);
    uint64_t cr3 = x86_read_cr3();
    x86_write_cr3(cpu->argument[3]);
    l2_call(*window);
    x86_write_cr3(cr3);
    l2_call(*window);
}

void test_own_page_tables(struct cpu *cpu)
{
    struct tables a = tables_create(cpu), b = tables_create(cpu);
    uint64_t *first = cpu_allocate_page(cpu), *second = cpu_allocate_page(cpu),
             *third = cpu_allocate_page(cpu);
    *first = 0x1111, *second = 0x2222, *third = 0x3333;
    *a.window = cpu_physical(first) | TABLES_BITS;
    *b.window = cpu_physical(third) | TABLES_BITS;
    cpu->argument[0] = cpu_physical(a.window);
    cpu->argument[2] = cpu_physical(second) | TABLES_BITS;
    cpu->argument[3] = tables_cr3(&b);
    struct l2 *l2 = l2_create(cpu, l2_remaps);
    l2_write(VMCS_GUEST_CR3, tables_cr3(&a));
    fact_call(cpu, l2, "L2 reads its window", 0x1111);
    fact_call(cpu, l2, "L2 remaps it, INVLPG", 0x2222);
    fact_call(cpu, l2, "L2 loads another CR3", 0x3333);
    fact_true(cpu, "guest CR3 is that one", l2_read(VMCS_GUEST_CR3) == tables_cr3(&b));
    fact_true(cpu, "L1's own CR3 is as before", x86_read_cr3() == l2_read(VMCS_HOST_CR3));
    fact_call(cpu, l2, "L2 loads the first CR3", 0x2222);
    *a.window = cpu_physical(third) | TABLES_BITS; // no VPID: VM exits and entries invalidate
    cpu->argument[2] = cpu_physical(first) | TABLES_BITS;
    l2_restart(l2, l2_remaps);
    fact_call(cpu, l2, "L1 remaps it: L2 reads", 0x3333);
    fact_call(cpu, l2, "L2 remaps it, INVLPG", 0x1111);
}

static void l2_reads_window(void)
{
    for (;;)
        l2_call(*(volatile uint64_t *)TABLES_WINDOW);
}

// Whether a translation survives without INVVPID is the processor's business: only what INVVPID promises is
// tested.
void test_vpid(struct cpu *cpu)
{
    if (!fact_offered(cpu, "VPID", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VPID))
        return;
    struct tables a = tables_create(cpu), b = tables_create(cpu);
    uint64_t *pages[4];
    for (uint32_t i = 0; i < 4; i++) {
        pages[i] = cpu_allocate_page(cpu);
        *pages[i] = 0x1000 + i;
    }
    struct l2 *one = l2_create(cpu, l2_reads_window);
    l2_write(VMCS_GUEST_CR3, tables_cr3(&a));
    l2_set_secondary(SECONDARY_ENABLE_VPID);
    l2_write(VMCS_VPID, 1);
    *a.window = cpu_physical(pages[0]) | TABLES_BITS;
    fact_status(cpu, "INVVPID of all contexts", vmx_invvpid(INVVPID_ALL, 0, 0), FACT_SUCCEED);
    fact_call(cpu, one, "VPID 1 reads its window", 0x1000);
    *a.window = cpu_physical(pages[1]) | TABLES_BITS;
    fact_status(cpu, "INVVPID of one address", vmx_invvpid(INVVPID_ADDRESS, 1, TABLES_WINDOW), FACT_SUCCEED);
    fact_call(cpu, one, "VPID 1 remapped reads", 0x1001);
    *a.window = cpu_physical(pages[2]) | TABLES_BITS;
    fact_status(cpu, "INVVPID of a single context", vmx_invvpid(INVVPID_SINGLE, 1, 0), FACT_SUCCEED);
    fact_call(cpu, one, "VPID 1 remapped reads", 0x1002);
    *a.window = cpu_physical(pages[3]) | TABLES_BITS;
    fact_status(cpu, "INVVPID of a single context but for globals", vmx_invvpid(INVVPID_RETAINING, 1, 0),
                FACT_SUCCEED);
    fact_call(cpu, one, "VPID 1 remapped reads", 0x1003);

    struct l2 *two = l2_create(cpu, l2_reads_window);
    l2_write(VMCS_GUEST_CR3, tables_cr3(&b));
    l2_set_secondary(SECONDARY_ENABLE_VPID);
    l2_write(VMCS_VPID, 0xffff);
    *b.window = cpu_physical(pages[0]) | TABLES_BITS;
    fact_call(cpu, two, "VPID ffff reads its window", 0x1000);
    vmx_vmptrld(one->vmcs);
    fact_call(cpu, one, "VPID 1 reads its window", 0x1003);
    *b.window = cpu_physical(pages[1]) | TABLES_BITS;
    vmx_invvpid(INVVPID_SINGLE, 0xffff, 0);
    vmx_vmptrld(two->vmcs);
    fact_call(cpu, two, "VPID ffff remapped reads", 0x1001);
    l2_write(VMCS_VPID, 2); // a VPID that L1 never used
    l2_write(VMCS_GUEST_CR3, tables_cr3(&a));
    fact_call(cpu, two, "VPID 2 on the other page tables reads", 0x1003);
    l2_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VPID);
    l2_write(VMCS_GUEST_CR3, tables_cr3(&b));
    fact_call(cpu, two, "no VPID, its first page tables: reads", 0x1001);
    *b.window = cpu_physical(pages[2]) | TABLES_BITS;
    fact_call(cpu, two, "no VPID, remapped: reads", 0x1002);
    vmx_vmclear(one->vmcs);
}
