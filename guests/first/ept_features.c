// SPDX-License-Identifier: MIT
// What EPT can do beyond mapping: accessed and dirty flags, execute-only pages, mode-based execute control,
// page-modification logging, virtualization exceptions, EPTP switching.
#include "ept.h"
#include "first.h"
#include "tables.h"
#include "x86.h"

#define RETURN_OFFSET    0x100u // where a RET is in the page that L2 calls
#define OPCODE_RET       0xc3u
#define FLAGS            (EPT_ACCESSED | EPT_DIRTY)
#define VIOLATION_MASK   0x1bfull // as in extended_paging.c
#define EXECUTE_USER     (1ull << 6)
#define LOG_EMPTY        511u
#define VECTOR_VE_INDEX  20u
#define VMFUNC_SWITCHING 0u
#define LIST_LENGTH      512u

static bool offered(struct cpu *cpu, const char *what, uint32_t secondary)
{
    return fact_offered(cpu, "EPT", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT) &&
           fact_offered(cpu, what, VMCS_SECONDARY_CONTROLS, secondary);
}

static bool has(uint64_t capability)
{
    return (x86_rdmsr(MSR_IA32_VMX_EPT_VPID_CAP) & capability) != 0;
}

static bool fact_violation(struct cpu *cpu, struct l2 *l2, const char *name, uint64_t mask,
                           uint64_t qualification, uint64_t physical)
{
    if (!fact_exit(cpu, l2, name, EXIT_EPT_VIOLATION))
        return false;
    fact(cpu, "its qualification", l2_read(VMCS_EXIT_QUALIFICATION) & mask, qualification);
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

// L2's own tables are what L1 and L2 run on: one with the window is made for it.
void test_ept_accessed_dirty(struct cpu *cpu)
{
    if (!fact_offered(cpu, "EPT", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT) ||
        !has(EPT_CAP_ACCESSED_DIRTY))
        return;
    struct ept ept = ept_create_identity(cpu);
    uint8_t *page = page_with_code(cpu, 0x1111);
    struct tables tables = tables_create(cpu);
    uint64_t at = cpu_physical(page), *entry = ept_entry(&ept, at);
    uint64_t table = cpu_physical(tables.table), *table_entry = ept_entry(&ept, table);
    *tables.window = at | TABLES_BITS;
    cpu->argument[0] = TABLES_WINDOW;
    struct l2 *l2 = l2_create(cpu, l2_uses_page);
    l2_write(VMCS_GUEST_CR3, tables_cr3(&tables));
    ept_use(&ept);
    fact_call(cpu, l2, "flags not enabled: L2 reads", 0x1111);
    fact(cpu, "the page's flags", *entry & FLAGS, 0);
    l2_set(VMCS_EPT_POINTER, EPT_POINTER_AD);
    ept_invalidate(&ept);
    l2_restart(l2, l2_uses_page);
    fact_call(cpu, l2, "flags enabled: L2 reads", 0x1111);
    fact(cpu, "the page's flags", *entry & FLAGS, EPT_ACCESSED);
    fact(cpu, "the flags of L2's page table", *table_entry & FLAGS, FLAGS);
    fact(cpu, "the flags of the topmost entry", *ept.pml4 & FLAGS, EPT_ACCESSED);
    fact_call(cpu, l2, "L2 writes and reads", 0x99);
    fact(cpu, "the page's flags", *entry & FLAGS, FLAGS);
    *entry &= ~FLAGS;
    ept_invalidate(&ept);
    fact_call(cpu, l2, "flags cleared: L2 executes", 5);
    fact(cpu, "the page's flags", *entry & FLAGS, EPT_ACCESSED);
    *entry &= ~EPT_WRITE;
    ept_invalidate(&ept);
    fact_call(cpu, l2, "writing forbidden: L2 reads", 0x99);
    fact_violation(cpu, l2, "writing forbidden: L2 writes", VIOLATION_MASK, 0x1aa, at + 8);
    fact(cpu, "the page's flags", *entry & FLAGS, EPT_ACCESSED);
    *entry |= EPT_WRITE;
    *table_entry &= ~(FLAGS | EPT_WRITE);
    ept_invalidate(&ept);
    // the processor's access to a paging structure is a read (which Bochs does not say) and a write
    fact_violation(cpu, l2, "L2's page table is read-only: L2 writes", VIOLATION_MASK & ~1ull, 0xaa, table);
    *table_entry |= EPT_WRITE;
    fact_call(cpu, l2, "L2's page table is writable: L2 writes", 0x99);
    fact(cpu, "the flags of L2's page table", *table_entry & FLAGS, FLAGS);
}

void test_ept_execute_only(struct cpu *cpu)
{
    if (!fact_offered(cpu, "EPT", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT))
        return;
    struct ept ept = ept_create_identity(cpu);
    uint8_t *page = page_with_code(cpu, 0x2222);
    uint64_t at = cpu_physical(page), *entry = ept_entry(&ept, at);
    cpu->argument[0] = at;
    struct l2 *l2 = l2_create(cpu, l2_uses_page);
    ept_use(&ept);
    fact_call(cpu, l2, "everything allowed: L2 reads", 0x2222);
    fact_call(cpu, l2, "L2 writes and reads", 0x99);
    *entry = at | EPT_EXECUTE | EPT_WRITE_BACK;
    ept_invalidate(&ept);
    if (!has(EPT_CAP_EXECUTE_ONLY)) {
        fact_exit(cpu, l2, "executing alone is not offered", EXIT_EPT_MISCONFIGURATION);
        return;
    }
    fact_call(cpu, l2, "executing allowed: L2 executes", 5);
    fact_violation(cpu, l2, "executing allowed: L2 reads", VIOLATION_MASK, 0x1a1, at + 8);
}

static void l2_calls_page(void)
{
    for (;;) {
        __asm__ volatile("call *%0" : : "r"(TABLES_WINDOW + RETURN_OFFSET) : "memory");
        l2_call(6);
    }
}

void test_mode_based_execute_control(struct cpu *cpu)
{
    static const struct {
        const char *name;
        uint64_t rights;
        bool user, permitted;
    } rows[] = {
        {"both execute rights, a user-mode address", EPT_EXECUTE | EPT_EXECUTE_USER, true, true},
        {"both execute rights, a supervisor-mode address", EPT_EXECUTE | EPT_EXECUTE_USER, false, true},
        {"bit 2, a user-mode address", EPT_EXECUTE, true, false},
        {"bit 2, a supervisor-mode address", EPT_EXECUTE, false, true},
        {"bit 10, a user-mode address", EPT_EXECUTE_USER, true, true},
        {"bit 10, a supervisor-mode address", EPT_EXECUTE_USER, false, false},
        {"neither, a user-mode address", 0, true, false},
        {"neither, a supervisor-mode address", 0, false, false},
    };
    if (!offered(cpu, "mode-based execute control", SECONDARY_MODE_BASED_EXECUTE_CONTROL))
        return;
    struct ept ept = ept_create_identity_with(cpu, EPT_EXECUTE_USER);
    uint8_t *page = page_with_code(cpu, 0);
    struct tables tables = tables_create(cpu);
    uint64_t at = cpu_physical(page), *entry = ept_entry(&ept, at);
    struct l2 *l2 = l2_create(cpu, l2_calls_page);
    l2_write(VMCS_GUEST_CR3, tables_cr3(&tables));
    ept_use(&ept);
    l2_set_secondary(SECONDARY_MODE_BASED_EXECUTE_CONTROL);
    for (uint32_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        *tables.window = at | (rows[i].user ? TABLES_BITS : TABLES_BITS & ~4ull);
        *entry = at | EPT_READ | EPT_WRITE_BACK | rows[i].rights;
        ept_invalidate(&ept);
        l2_restart(l2, l2_calls_page);
        if (rows[i].permitted) {
            fact_call(cpu, l2, rows[i].name, 6);
            continue;
        }
        uint64_t qualification = 0x18c | (rows[i].rights & EPT_EXECUTE ? 0x20 : 0) |
                                 (rows[i].rights & EPT_EXECUTE_USER ? EXECUTE_USER : 0);
        fact_violation(cpu, l2, rows[i].name, VIOLATION_MASK | EXECUTE_USER, qualification,
                       at + RETURN_OFFSET);
    }
}

void test_page_modification_log(struct cpu *cpu)
{
    if (!offered(cpu, "page-modification logging", SECONDARY_ENABLE_PML))
        return;
    struct ept ept = ept_create_identity_with(cpu, FLAGS); // so that nothing else is logged
    uint8_t *page = page_with_code(cpu, 0x3333);
    uint64_t *log = (uint64_t *)cpu_allocate_page(cpu);
    uint64_t at = cpu_physical(page), *entry = ept_entry(&ept, at);
    *entry &= ~FLAGS;
    cpu->argument[0] = at;
    struct l2 *l2 = l2_create(cpu, l2_uses_page);
    ept_use(&ept);
    l2_set(VMCS_EPT_POINTER, EPT_POINTER_AD);
    l2_set_secondary(SECONDARY_ENABLE_PML);
    l2_write(VMCS_PML_ADDRESS, cpu_physical(log));
    l2_write(VMCS_PML_INDEX, LOG_EMPTY);
    fact_call(cpu, l2, "L2 reads", 0x3333);
    fact(cpu, "the log's index", l2_read(VMCS_PML_INDEX), LOG_EMPTY);
    fact_call(cpu, l2, "L2 writes", 0x99);
    fact(cpu, "the log's index", l2_read(VMCS_PML_INDEX), LOG_EMPTY - 1);
    fact_true(cpu, "the page is in the log", log[LOG_EMPTY] == at);
    fact_call(cpu, l2, "L2 executes", 5);
    fact_call(cpu, l2, "L2 reads", 0x99);
    fact_call(cpu, l2, "L2 writes again", 0x99);
    fact(cpu, "the log's index", l2_read(VMCS_PML_INDEX), LOG_EMPTY - 1);
    fact_call(cpu, l2, "L2 executes", 5);

    *entry &= ~EPT_DIRTY;
    ept_invalidate(&ept);
    ((uint64_t *)page)[1] = 0x4444;
    l2_write(VMCS_PML_INDEX, 0);
    fact_call(cpu, l2, "the last entry: L2 reads", 0x4444);
    fact_call(cpu, l2, "L2 writes", 0x99);
    fact(cpu, "the log's index", l2_read(VMCS_PML_INDEX), 0xffff);
    fact_true(cpu, "the page is in the log", log[0] == at);
    // Bochs finds a full log where no flag is to be set: only the write meets it
    l2_write(VMCS_PML_INDEX, LOG_EMPTY);
    fact_call(cpu, l2, "L2 executes", 5);
    *entry &= ~EPT_DIRTY;
    ept_invalidate(&ept);
    ((uint64_t *)page)[1] = 0x5555;
    fact_call(cpu, l2, "L2 reads", 0x5555);
    l2_write(VMCS_PML_INDEX, 0xffff);
    if (!fact_exit(cpu, l2, "the log is full: L2 writes", EXIT_PML_FULL))
        return;
    fact(cpu, "the page is not written", ((uint64_t *)page)[1], 0x5555);
    fact(cpu, "its flags", *entry & FLAGS, EPT_ACCESSED);
    fact(cpu, "the log's index", l2_read(VMCS_PML_INDEX), 0xffff);
    l2_write(VMCS_PML_INDEX, 7);
    fact_call(cpu, l2, "the log is emptied: L2 writes", 0x99);
    fact(cpu, "the log's index", l2_read(VMCS_PML_INDEX), 6);
}

struct information { // the virtualization-exception information area
    uint32_t reason, busy;
    uint64_t qualification, linear, physical;
    uint16_t index;
};

// L2's handler returns: the access is made again, and the area is busy.
void test_virtualization_exceptions(struct cpu *cpu)
{
    if (!offered(cpu, "virtualization exceptions", SECONDARY_EPT_VIOLATION_VE))
        return;
    struct ept ept = ept_create_identity(cpu);
    uint8_t *page = page_with_code(cpu, 0x6666);
    volatile struct information *area = (volatile struct information *)cpu_allocate_page(cpu);
    uint64_t at = cpu_physical(page), *entry = ept_entry(&ept, at);
    cpu->argument[0] = at;
    struct l2 *l2 = l2_create(cpu, l2_uses_page);
    ept_use(&ept);
    l2_set_secondary(SECONDARY_EPT_VIOLATION_VE);
    l2_write(VMCS_VIRTUALIZATION_EXCEPTION_ADDRESS, (uintptr_t)area);
    l2_write(VMCS_EPTP_INDEX, 0x77); // which Bochs does not look at: no fact below
    fact_call(cpu, l2, "L2 reads", 0x6666);
    *entry = at | EPT_READ | EPT_WRITE_BACK;
    ept_invalidate(&ept);
    uint64_t count = cpu->trap.count;
    cpu->trap_returns = true;
    fact_violation(cpu, l2, "L2 writes, takes #VE, writes again", VIOLATION_MASK, 0x18a, at + 8);
    cpu->trap_returns = false;
    fact(cpu, "exceptions that L2 took", cpu->trap.count - count, 1);
    fact(cpu, "its vector", cpu->trap.vector, VECTOR_VE_INDEX);
    fact_true(cpu, "its RIP is that of the access", cpu->trap.rip == l2_read(VMCS_GUEST_RIP));
    fact(cpu, "the area: reason", area->reason, EXIT_EPT_VIOLATION);
    fact(cpu, "the area: busy", area->busy, 0xffffffff);
    fact(cpu, "the area: qualification", area->qualification & VIOLATION_MASK, 0x18a);
    fact_true(cpu, "the area: addresses", area->linear == at + 8 && area->physical == at + 8);

    *entry = at | EPT_READ | EPT_WRITE_BACK | EPT_SUPPRESS_VE;
    area->busy = 0;
    ept_invalidate(&ept);
    fact_violation(cpu, l2, "suppressed: L2 writes", VIOLATION_MASK, 0x18a, at + 8);
    fact(cpu, "exceptions that L2 took", cpu->trap.count - count, 1);
    *entry = 0;
    ept_invalidate(&ept);
    l2_write(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_VE_INDEX);
    if (!fact_exit(cpu, l2, "in the exception bitmap: L2 writes", EXIT_EXCEPTION_OR_NMI))
        return;
    fact(cpu, "interruption information", l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000314);
    fact(cpu, "the area: busy", area->busy, 0xffffffff);
    fact(cpu, "the area: qualification", area->qualification & VIOLATION_MASK, 0x182);
    *entry = at | EPT_ALL | EPT_WRITE_BACK;
    ept_invalidate(&ept);
    fact_call(cpu, l2, "everything allowed: L2 writes", 0x99);
}

static void l2_vmfunc(uint32_t function, uint32_t argument)
{
    __asm__ volatile(".byte 0x0f, 0x01, 0xd4" : : "a"(function), "c"(argument) : "memory");
}

static void l2_switches(void)
{
    volatile uint64_t *page = (volatile uint64_t *)(uintptr_t)cpu_self()->argument[0];
    l2_call(page[1]);
    l2_vmfunc(VMFUNC_SWITCHING, 1);
    l2_call(page[1]);
    l2_vmfunc(VMFUNC_SWITCHING, LIST_LENGTH - 1);
    l2_call(page[1]);
    l2_vmfunc(VMFUNC_SWITCHING, LIST_LENGTH);
    l2_vmfunc(VMFUNC_SWITCHING, 2);
    l2_vmfunc(1, 0);
    l2_call(page[1]);
}

void test_vm_functions(struct cpu *cpu)
{
    if (!offered(cpu, "VM functions", SECONDARY_ENABLE_VMFUNC) || (x86_rdmsr(MSR_IA32_VMX_VMFUNC) & 1) == 0)
        return;
    struct ept ept = ept_create_identity(cpu), other = ept_create_identity(cpu);
    uint8_t *a = page_with_code(cpu, 0xaaaa), *b = page_with_code(cpu, 0xbbbb);
    uint64_t *list = (uint64_t *)cpu_allocate_page(cpu), at = cpu_physical(a);
    ept_map(&other, at, cpu_physical(b), PAGE_SIZE, EPT_ALL | EPT_WRITE_BACK);
    list[1] = ept_pointer(&other);
    list[LIST_LENGTH - 1] = ept_pointer(&ept); // and nothing valid between them
    cpu->argument[0] = at;
    struct l2 *l2 = l2_create(cpu, l2_switches);
    ept_use(&ept);
    l2_set_secondary(SECONDARY_ENABLE_VMFUNC);
    l2_write(VMCS_VM_FUNCTION_CONTROLS, 1);
    l2_write(VMCS_EPTP_LIST_ADDRESS, cpu_physical(list));
    fact_call(cpu, l2, "L2 reads", 0xaaaa);
    fact_call(cpu, l2, "L2 switches to 1 and reads", 0xbbbb);
    fact_true(cpu, "the EPT pointer is that one", l2_read(VMCS_EPT_POINTER) == ept_pointer(&other));
    fact_call(cpu, l2, "L2 switches to 511 and reads", 0xaaaa);
    fact_exit_skip(cpu, l2, "L2 switches to 512", EXIT_VMFUNC, 3);
    fact_exit_skip(cpu, l2, "L2 switches to an entry that is no EPT pointer", EXIT_VMFUNC, 3);
    fact_exit_skip(cpu, l2, "L2 asks for function 1", EXIT_VMFUNC, 3);
    fact_true(cpu, "the EPT pointer is as before", l2_read(VMCS_EPT_POINTER) == ept_pointer(&ept));
    fact_call(cpu, l2, "L2 reads", 0xaaaa);
    l2_write(VMCS_VM_FUNCTION_CONTROLS, 0);
    l2_restart(l2, l2_switches);
    fact_call(cpu, l2, "no function enabled: L2 reads", 0xaaaa);
    fact_exit(cpu, l2, "L2 switches to 1", EXIT_VMFUNC);
}

static void l2_reads_page(void)
{
    for (;;)
        l2_call(((volatile uint64_t *)(uintptr_t)cpu_self()->argument[0])[1]);
}

// Two EPT pointers and two VPIDs: an INVEPT or INVVPID of one is about that one.
void test_ept12s_take_turns(struct cpu *cpu)
{
    if (!offered(cpu, "VPID", SECONDARY_ENABLE_VPID))
        return;
    struct ept ept[2] = {ept_create_identity(cpu), ept_create_identity(cpu)};
    uint8_t *page[3];
    for (uint32_t i = 0; i < 3; i++)
        page[i] = page_with_code(cpu, 0x1000 + i);
    uint64_t at = cpu_physical(page[0]);
    ept_map(&ept[1], at, cpu_physical(page[1]), PAGE_SIZE, EPT_ALL | EPT_WRITE_BACK);
    cpu->argument[0] = at;
    struct l2 *l2 = l2_create(cpu, l2_reads_page);
    l2_set_secondary(SECONDARY_ENABLE_VPID);
    uint32_t right = 0;
    for (uint32_t i = 0; i < 12; i++) {
        uint32_t turn = i % 2;
        ept_use(&ept[turn]);
        l2_write(VMCS_VPID, 1 + i / 2 % 2);
        l2_restart(l2, l2_reads_page);
        if (i == 6) { // the first one now maps another page
            ept_map(&ept[0], at, cpu_physical(page[2]), PAGE_SIZE, EPT_ALL | EPT_WRITE_BACK);
            ept_invalidate(&ept[0]);
        }
        l2_enter(l2);
        right += l2->gpr[GPR_RAX] == (turn == 1 ? 0x1001u : i < 6 ? 0x1000u : 0x1002u);
    }
    fact(cpu, "entries in turns that read the right page", right, 12);
}
