// SPDX-License-Identifier: MIT
// EPT: violations and misconfigurations, changed mappings and INVEPT, several ept12s, faults during event
// delivery.
#include "apic.h"
#include "ept.h"
#include "first.h"
#include "l2_code.h"
#include "tables.h"
#include "trap.h"
#include "x86.h"

#define RETURN_OFFSET 0x100u // where a RET is in the page that L2 calls
#define OPCODE_RET    0xc3u
#define HOLE          0x3ff00000000ull // L2-physical, mapped by no ept12 here but on purpose
#define VECTOR        0x64u

// Access rights (5:3), the access (2:0), linear address valid (7), access to the address itself (8). Not bits
// 6 (mode- based execute control), 11:9 (advanced information, if offered) nor 12 (NMI unblocking).
#define VIOLATION_MASK 0x1bfull

static bool offered(struct cpu *cpu)
{
    return fact_offered(cpu, "EPT", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT);
}

static bool fact_violation(struct cpu *cpu, struct l2 *l2, const char *name, uint64_t qualification,
                           uint64_t physical)
{
    if (!fact_exit(cpu, l2, name, EXIT_EPT_VIOLATION))
        return false;
    fact(cpu, "its qualification", l2_read(VMCS_EXIT_QUALIFICATION) & VIOLATION_MASK, qualification);
    fact_true(cpu, "its guest-physical address", l2_read(VMCS_GUEST_PHYSICAL_ADDRESS) == physical);
    return true;
}

// argument[0]: a page. Reads it, writes it, calls into it.
static void l2_uses_page(void)
{
    volatile uint64_t *page = (volatile uint64_t *)(uintptr_t)cpu_self()->argument[0];
    for (;;) {
        l2_call(page[1]);
        page[1] = 0x99;
        l2_call(page[1]);
        __asm__ volatile("call *%0" : : "r"((uintptr_t)page + RETURN_OFFSET) : "memory");
        l2_call(5);
    }
}

static uint8_t *page_with_code(struct cpu *cpu, uint64_t value)
{
    uint8_t *page = cpu_allocate_page(cpu);
    page[RETURN_OFFSET] = OPCODE_RET;
    ((uint64_t *)page)[1] = value;
    return page;
}

void test_ept_violations(struct cpu *cpu)
{
    if (!offered(cpu))
        return;
    struct ept ept = ept_create_identity(cpu);
    uint8_t *page = page_with_code(cpu, 0x1111);
    uint64_t at = cpu_physical(page), *entry = ept_entry(&ept, at);
    cpu->argument[0] = at;
    struct l2 *l2 = l2_create(cpu, l2_uses_page);
    ept_use(&ept);
    fact_call(cpu, l2, "everything allowed: L2 reads", 0x1111);
    fact_call(cpu, l2, "L2 writes and reads", 0x99);
    fact_call(cpu, l2, "L2 executes", 5);

    *entry = 0;
    ept_invalidate(&ept);
    fact_violation(cpu, l2, "nothing allowed: L2 reads", 0x181, at + 8);
    fact(cpu, "its guest-linear address, in the page", l2_read(VMCS_GUEST_LINEAR_ADDRESS) - at, 8);
    *entry = at | EPT_READ | EPT_WRITE_BACK; // more rights than before need no INVEPT
    fact_call(cpu, l2, "reading allowed: L2 reads", 0x99);
    fact_violation(cpu, l2, "reading allowed: L2 writes", 0x18a, at + 8);
    *entry |= EPT_WRITE;
    fact_call(cpu, l2, "writing allowed: L2 writes and reads", 0x99);
    fact_violation(cpu, l2, "reading and writing allowed: L2 executes", 0x19c, at + RETURN_OFFSET);
    fact(cpu, "its guest-linear address, in the page", l2_read(VMCS_GUEST_LINEAR_ADDRESS) - at,
         RETURN_OFFSET);
    fact(cpu, "guest RIP, in the page", l2_read(VMCS_GUEST_RIP) - at, RETURN_OFFSET);
    *entry |= EPT_EXECUTE;
    fact_call(cpu, l2, "everything allowed: L2 executes", 5);

    *entry = at | EPT_READ | EPT_EXECUTE | EPT_WRITE_BACK;
    ept_invalidate(&ept);
    fact_call(cpu, l2, "writing forbidden: L2 reads", 0x99);
    fact_violation(cpu, l2, "writing forbidden: L2 writes", 0x1aa, at + 8);
    l2_skip();
    fact(cpu, "the page is not written", ((uint64_t *)page)[1], 0x99);
}

void test_ept_misconfigurations(struct cpu *cpu)
{
    if (!offered(cpu))
        return;
    struct ept ept = ept_create_identity(cpu);
    uint8_t *page = page_with_code(cpu, 0x2222);
    uint64_t at = cpu_physical(page), *entry = ept_entry(&ept, at);
    static const struct {
        const char *name;
        uint64_t bits;
    } rows[] = {
        {"write without read", EPT_WRITE | EPT_WRITE_BACK},
        {"write and execute without read", EPT_WRITE | EPT_EXECUTE | EPT_WRITE_BACK},
        {"memory type 2", EPT_ALL | 2 << 3},
        {"memory type 7", EPT_ALL | 7 << 3},
        {"a bit beyond the physical-address width", EPT_ALL | EPT_WRITE_BACK | 1ull << 51},
    };
    cpu->argument[0] = at;
    struct l2 *l2 = l2_create(cpu, l2_uses_page);
    ept_use(&ept);
    for (uint32_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        *entry = at | rows[i].bits;
        ept_invalidate(&ept);
        if (fact_exit(cpu, l2, rows[i].name, EXIT_EPT_MISCONFIGURATION))
            fact_true(cpu, "its guest-physical address", l2_read(VMCS_GUEST_PHYSICAL_ADDRESS) == at + 8);
    }
    *entry = at | EPT_ALL | EPT_WRITE_BACK;
    ept_invalidate(&ept);
    fact_call(cpu, l2, "mended: L2 reads", 0x2222);
}

void test_ept_remapping(struct cpu *cpu)
{
    if (!offered(cpu))
        return;
    struct ept ept = ept_create_identity(cpu), other = ept_create_identity(cpu);
    uint8_t *a = page_with_code(cpu, 0xaaaa), *b = page_with_code(cpu, 0xbbbb),
            *c = page_with_code(cpu, 0xcccc);
    uint64_t at = cpu_physical(a);
    cpu->argument[0] = at;
    struct l2 *l2 = l2_create(cpu, l2_uses_page);
    ept_use(&ept);
    fact_call(cpu, l2, "mapped identically", 0xaaaa);
    ept_map(&ept, at, cpu_physical(b), PAGE_SIZE, EPT_ALL | EPT_WRITE_BACK);
    ept_invalidate(&ept);
    fact_call(cpu, l2, "L2 writes elsewhere", 0x99);
    fact(cpu, "the page itself", ((uint64_t *)a)[1], 0xaaaa);
    fact(cpu, "the other page", ((uint64_t *)b)[1], 0x99);
    l2_restart(l2, l2_uses_page);
    ept_map(&other, at, cpu_physical(c), PAGE_SIZE, EPT_ALL | EPT_WRITE_BACK);
    l2_write(VMCS_EPT_POINTER, ept_pointer(&other));
    fact_call(cpu, l2, "another EPT pointer: L2 reads", 0xcccc);
    l2_write(VMCS_EPT_POINTER, ept_pointer(&ept));
    l2_restart(l2, l2_uses_page);
    fact_call(cpu, l2, "the first EPT pointer: L2 reads", 0x99);
    l2_write(VMCS_EPT_POINTER, ept_pointer(&other));
    ept_map(&other, at, cpu_physical(a), PAGE_SIZE, EPT_ALL | EPT_WRITE_BACK);
    fact_status(cpu, "INVEPT of all contexts", vmx_invept(2, 0, 0), FACT_SUCCEED);
    l2_restart(l2, l2_uses_page);
    fact_call(cpu, l2, "the other, remapped: L2 reads", 0xaaaa);
    l2_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT);
    l2_restart(l2, l2_uses_page);
    fact_call(cpu, l2, "no EPT: L2 reads", 0xaaaa);
}

static void l2_reads_window(void)
{
    for (;;)
        l2_call(*(volatile uint64_t *)(TABLES_WINDOW + 8));
}

// L2-linear, L2-physical and L1-physical addresses all differ; faults on L2's page tables.
void test_ept_two_dimensions(struct cpu *cpu)
{
    if (!offered(cpu))
        return;
    struct ept ept = ept_create_identity(cpu);
    struct tables tables = tables_create(cpu);
    uint64_t table = cpu_physical(tables.table);
    *tables.window = (HOLE & 0xfffffff000ull) | TABLES_BITS;
    uint64_t physical = *tables.window & ~0xfffull;
    struct l2 *l2 = l2_create(cpu, l2_reads_window);
    l2_write(VMCS_GUEST_CR3, tables_cr3(&tables));
    ept_use(&ept);
    fact_violation(cpu, l2, "L2-physical hole: L2 reads", 0x181, physical + 8);
    fact(cpu, "its guest-linear address", l2_read(VMCS_GUEST_LINEAR_ADDRESS), TABLES_WINDOW + 8);
    ept_map(&ept, physical, cpu_physical(page_with_code(cpu, 0x5555)), PAGE_SIZE, EPT_ALL | EPT_WRITE_BACK);
    fact_call(cpu, l2, "mapped: L2 reads", 0x5555);
    *ept_entry(&ept, table) = 0;
    ept_invalidate(&ept);
    if (fact_violation(cpu, l2, "L2's page table is not mapped", 0x81, table))
        fact(cpu, "its guest-linear address", l2_read(VMCS_GUEST_LINEAR_ADDRESS), TABLES_WINDOW + 8);
    ept_map(&ept, table, table, PAGE_SIZE, EPT_READ | EPT_WRITE | EPT_WRITE_BACK);
    fact_call(cpu, l2, "L2's page table is mapped: L2 reads", 0x5555);
    *tables.window = 0;
    ept_invalidate(&ept);
    l2_write(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_PF);
    fact_exit(cpu, l2, "L2's page fault, not EPT's", EXIT_EXCEPTION_OR_NMI);
    fact(cpu, "its linear address", l2_read(VMCS_EXIT_QUALIFICATION), TABLES_WINDOW + 8);
}

static void l2_reads_far(void)
{
    l2_call(*(volatile uint64_t *)(uintptr_t)cpu_self()->argument[0]);
}

// Pages of each size, and one cut out of a large one.
void test_ept_page_sizes(struct cpu *cpu)
{
    if (!offered(cpu))
        return;
    uint64_t page = cpu_physical(page_with_code(cpu, 0x7777));
    cpu->argument[0] = page + 8;
    struct ept small = ept_create(cpu);
    ept_map(&small, 0, 0, 1ull << 21, EPT_ALL | EPT_WRITE_BACK);
    for (uint64_t at = 1ull << 21; at < 16ull << 21; at += 1ull << 21)
        ept_map(&small, at, at, 1ull << 21, EPT_ALL | EPT_WRITE_BACK);
    uint64_t base = page & ~((1ull << 21) - 1);
    for (uint64_t at = base; at < base + (1ull << 21); at += PAGE_SIZE)
        ept_map(&small, at, at, PAGE_SIZE, EPT_ALL | EPT_WRITE_BACK);
    struct l2 *l2 = l2_create(cpu, l2_reads_far);
    ept_use(&small);
    fact_call(cpu, l2, "4-KByte pages around it: L2 reads", 0x7777);
    if (!(x86_rdmsr(MSR_IA32_VMX_EPT_VPID_CAP) & EPT_CAP_PAGE_1G))
        return;
    struct ept large = ept_create(cpu);
    ept_map(&large, 0, 0, 1ull << 30, EPT_ALL | EPT_WRITE_BACK);
    l2_restart(l2, l2_reads_far);
    ept_use(&large);
    fact_call(cpu, l2, "a 1-GByte page: L2 reads", 0x7777);
    *ept_entry(&large, page) = 0;
    ept_invalidate(&large);
    l2_restart(l2, l2_reads_far);
    fact_violation(cpu, l2, "a page cut out of it: L2 reads", 0x181, page + 8);
}

// The delivery of an event meets an EPT violation: the exit says which event it was.
void test_ept_vectoring(struct cpu *cpu)
{
    if (!offered(cpu))
        return;
    struct ept ept = ept_create_identity(cpu);
    uint8_t *idt = cpu_allocate_page(cpu);
    for (uint32_t i = 0; i < TRAP_IDT_SIZE; i++)
        idt[i] = ((const uint8_t *)trap_idt())[i];
    struct l2 *l2 = l2_create(cpu, l2_nops);
    uint64_t stack = cpu_physical(l2->stack), at = cpu_physical(idt);
    ept_use(&ept);
    l2_write(VMCS_GUEST_IDTR_BASE, at);
    l2_write(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    cpu->trap_needs_eoi = false;
    *ept_entry(&ept, at) = 0;
    l2_write(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000000 | VECTOR);
    if (!fact_violation(cpu, l2, "an interrupt injected, L2's IDT is not mapped", 0x181, at + VECTOR * 16))
        return;
    fact(cpu, "IDT-vectoring information", l2_read(VMCS_IDT_VECTORING_INFO), 0x80000000 | VECTOR);
    *ept_entry(&ept, at) = at | EPT_READ | EPT_WRITE_BACK;
    *ept_entry(&ept, stack) = stack | EPT_READ | EPT_WRITE_BACK;
    ept_invalidate(&ept);
    l2_write(VMCS_VM_ENTRY_INTERRUPTION_INFO, l2_read(VMCS_IDT_VECTORING_INFO));
    fact_exit(cpu, l2, "injected again, L2's stack is read-only", EXIT_EPT_VIOLATION);
    fact(cpu, "its qualification", l2_read(VMCS_EXIT_QUALIFICATION) & VIOLATION_MASK, 0x18a);
    fact(cpu, "IDT-vectoring information", l2_read(VMCS_IDT_VECTORING_INFO), 0x80000000 | VECTOR);
    *ept_entry(&ept, stack) = stack | EPT_ALL | EPT_WRITE_BACK;
    uint64_t count = cpu->trap.count;
    l2_write(VMCS_VM_ENTRY_INTERRUPTION_INFO, l2_read(VMCS_IDT_VECTORING_INFO));
    fact_call(cpu, l2, "injected again, all is mapped", 3);
    fact(cpu, "interrupts that L2 took", cpu->trap.count - count, 1);
    fact(cpu, "its vector", cpu->trap.vector, VECTOR);
}

static void l2_interrupts_itself(void)
{
    apic_send(cpu_self()->apic_id, APIC_FIXED | VECTOR);
    l2_spin();
}

// A device through ept12: L2 reaches the local APIC, which L1 mapped for it.
void test_ept_device(struct cpu *cpu)
{
    if (!offered(cpu))
        return;
    struct ept ept = ept_create_identity(cpu);
    struct l2 *l2 = l2_create(cpu, l2_interrupts_itself);
    ept_use(&ept);
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
    l2_set(VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    l2_set(VMCS_GUEST_RFLAGS, RFLAGS_IF);
    fact_exit(cpu, l2, "L2 interrupts its own processor", EXIT_EXTERNAL_INTERRUPT);
    fact(cpu, "interruption information", l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000000 | VECTOR);
    apic_end_interrupt();
}
