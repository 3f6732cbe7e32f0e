// SPDX-License-Identifier: MIT
// L2 in other modes than 64-bit: real mode and all the way from it to 64-bit mode, 32-bit paging, PAE paging.
#include "ept.h"
#include "first.h"
#include "l2_modes.h"
#include "x86.h"

#define ACCESS_RIGHTS_CODE16 0x9bu
#define ACCESS_RIGHTS_DATA16 0x93u
#define ACCESS_RIGHTS_CODE32 0xc09bu
#define ACCESS_RIGHTS_DATA32 0xc093u
#define STACK_TOP            0xff0u  // of 16-bit code
#define PTE_BITS             0xe7ull // present, writable, user, accessed, dirty, large
#define PDPTE_PRESENT        1ull
#define PDPTE_RESERVED       0x1e6ull

static void write_segment(uint32_t selector_field, uint16_t selector, uint64_t base, uint32_t limit,
                          uint32_t rights)
{
    uint32_t at = selector_field - VMCS_GUEST_ES_SELECTOR;
    l2_write(selector_field, selector);
    l2_write(VMCS_GUEST_ES_BASE + at, base);
    l2_write(VMCS_GUEST_ES_LIMIT + at, limit);
    l2_write(VMCS_GUEST_ES_ACCESS_RIGHTS + at, rights);
}

static void write_segments(uint16_t code, uint16_t data, uint64_t base, uint32_t limit, uint32_t code_rights,
                           uint32_t data_rights)
{
    for (uint32_t field = VMCS_GUEST_ES_SELECTOR; field <= VMCS_GUEST_GS_SELECTOR; field += 2)
        write_segment(field, field == VMCS_GUEST_CS_SELECTOR ? code : data, base, limit,
                      field == VMCS_GUEST_CS_SELECTOR ? code_rights : data_rights);
}

// L2 starts as after reset, but for where its segments are.
static struct l2 *create_real_mode(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, modes_real);
    uint64_t base = cpu_physical(modes_real_start);
    l2_write(VMCS_GUEST_CR0, CR0_ET | CR0_NE);
    l2_write(VMCS_GUEST_CR4, CR4_VMXE);
    l2_write(VMCS_GUEST_CR3, 0);
    l2_clear(VMCS_VM_ENTRY_CONTROLS, ENTRY_IA32E_MODE_GUEST);
    l2_set(VMCS_VM_ENTRY_CONTROLS, ENTRY_LOAD_EFER);
    l2_set(VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_EFER | EXIT_LOAD_EFER);
    l2_write(VMCS_GUEST_IA32_EFER, 0);
    l2_write(VMCS_HOST_IA32_EFER, x86_rdmsr(MSR_IA32_EFER));
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_MSR_BITMAPS);
    l2_write(VMCS_MSR_BITMAP, cpu_physical(cpu_allocate_page(cpu)));
    write_segments(0x1234, 0x1234, base, 0xffff, ACCESS_RIGHTS_CODE16, ACCESS_RIGHTS_DATA16);
    l2_write(VMCS_GUEST_RIP, cpu_physical(modes_real) - base);
    l2_write(VMCS_GUEST_RSP, STACK_TOP);
    write_segment(VMCS_GUEST_SS_SELECTOR, 0x40, cpu_physical(l2->stack), 0xffff, ACCESS_RIGHTS_DATA16);
    return l2;
}

// The page at MODES_LOW_SEGMENT, and an interrupt vector table that leads to its handler.
static void add_low_page(struct cpu *cpu, struct ept *ept)
{
    uint8_t *page = cpu_allocate_page(cpu);
    uint16_t *vectors = cpu_allocate_page(cpu); // offset, segment
    for (const uint8_t *from = modes_low; from < modes_low_end; from++)
        page[from - modes_low] = *from;
    ept_map(ept, MODES_LOW_SEGMENT << 4, cpu_physical(page), PAGE_SIZE, EPT_ALL | EPT_WRITE_BACK);
    vectors[2 * 0x21] = MODES_LOW_HANDLER;
    vectors[2 * 0x21 + 1] = MODES_LOW_SEGMENT;
    l2_write(VMCS_GUEST_IDTR_BASE, cpu_physical(vectors));
    l2_write(VMCS_GUEST_IDTR_LIMIT, 0x3ff);
}

static bool real_mode_offered(struct cpu *cpu)
{
    return fact_offered(cpu, "EPT and unrestricted guest", VMCS_SECONDARY_CONTROLS,
                        SECONDARY_ENABLE_EPT | SECONDARY_UNRESTRICTED_GUEST) &&
           fact_offered(cpu, "IA32_EFER on entry", VMCS_VM_ENTRY_CONTROLS, ENTRY_LOAD_EFER);
}

static void fact_mode(struct cpu *cpu, uint64_t cr0, uint32_t code_rights, uint64_t efer)
{
    fact(cpu, "guest CR0, PG and PE", l2_read(VMCS_GUEST_CR0) & (CR0_PG | CR0_PE), cr0);
    fact(cpu, "CS access rights, L and D", l2_read(VMCS_GUEST_CS_ACCESS_RIGHTS) & (SEGMENT_L | SEGMENT_DB),
         code_rights);
    fact(cpu, "guest IA32_EFER, LMA and LME", l2_read(VMCS_GUEST_IA32_EFER) & (EFER_LMA | EFER_LME), efer);
    fact(cpu, "IA-32e mode guest", l2_read(VMCS_VM_ENTRY_CONTROLS) & ENTRY_IA32E_MODE_GUEST,
         efer & EFER_LMA ? ENTRY_IA32E_MODE_GUEST : 0);
}

void test_real_mode(struct cpu *cpu)
{
    if (!real_mode_offered(cpu))
        return;
    struct ept ept = ept_create_identity(cpu);
    struct l2 *l2 = create_real_mode(cpu);
    add_low_page(cpu, &ept);
    ept_use(&ept);
    l2_set_secondary(SECONDARY_UNRESTRICTED_GUEST);
    if (!fact_call(cpu, l2, "real mode", 1))
        return;
    fact_mode(cpu, 0, 0, 0);
    fact_exit_skip(cpu, l2, "OUT", EXIT_IO_INSTRUCTION, 2);
    fact_exit_skip(cpu, l2, "CPUID", EXIT_CPUID, 2);
    fact_exit_skip(cpu, l2, "HLT", EXIT_HLT, 1);
    fact_call(cpu, l2, "a far jump", 0x1000);
    fact(cpu, "CS selector", l2_read(VMCS_GUEST_CS_SELECTOR), MODES_LOW_SEGMENT);
    fact(cpu, "CS base", l2_read(VMCS_GUEST_CS_BASE), MODES_LOW_SEGMENT << 4);
    fact_call(cpu, l2, "INT 21h", 0x21);
    fact(cpu, "RSP", l2_read(VMCS_GUEST_RSP), STACK_TOP - 6);
    fact_call(cpu, l2, "IRET", 0x1001);
    l2_write(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    l2_write(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000021);
    fact_call(cpu, l2, "the same vector injected", 0x21);
    l2_write(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    l2_write(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x800000ff);
    l2_write(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    l2_write(VMCS_GUEST_IDTR_LIMIT, 0xff);
    if (fact_exit(cpu, l2, "a vector beyond the table injected: #GP", EXIT_EXCEPTION_OR_NMI)) {
        // No error code in real mode.
        fact(cpu, "interruption information", l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x8000030d);
        fact(cpu, "IDT-vectoring information", l2_read(VMCS_IDT_VECTORING_INFO), 0x800000ff);
    }
}

// From real mode by L2's own instructions, none of which exits.
void test_mode_switches(struct cpu *cpu)
{
    if (!real_mode_offered(cpu))
        return;
    struct ept ept = ept_create_identity(cpu);
    struct l2 *l2 = create_real_mode(cpu);
    ept_use(&ept);
    l2_set_secondary(SECONDARY_UNRESTRICTED_GUEST);
    l2_write(VMCS_GUEST_RIP, cpu_physical(modes_climb) - cpu_physical(modes_real_start));
    l2->gpr[GPR_RBX] = x86_read_cr3();
    l2->gpr[GPR_RBP] = cpu_physical(l2->stack + PAGE_SIZE);
    if (!fact_call(cpu, l2, "16-bit protected mode", 1))
        return;
    fact_mode(cpu, CR0_PE, 0, 0);
    fact_call(cpu, l2, "32-bit protected mode", 2);
    fact_mode(cpu, CR0_PE, SEGMENT_DB, 0);
    fact_call(cpu, l2, "compatibility mode", 3);
    fact_mode(cpu, CR0_PG | CR0_PE, SEGMENT_DB, EFER_LMA | EFER_LME);
    fact_call(cpu, l2, "64-bit mode", 4);
    fact_mode(cpu, CR0_PG | CR0_PE, SEGMENT_L, EFER_LMA | EFER_LME);
    fact_call(cpu, l2, "compatibility mode", 5);
    fact_mode(cpu, CR0_PG | CR0_PE, SEGMENT_DB, EFER_LMA | EFER_LME);
    fact_call(cpu, l2, "32-bit protected mode, no paging", 6);
    fact_mode(cpu, CR0_PE, SEGMENT_DB, EFER_LME);
    fact(cpu, "L1's IA32_EFER, LMA and LME", x86_rdmsr(MSR_IA32_EFER) & (EFER_LMA | EFER_LME),
         EFER_LMA | EFER_LME);
}

// Page directory with 4-MByte pages: linear addresses from 3 GiB on are a second view of the first GiB.
static uint64_t tables_32_bit(struct cpu *cpu)
{
    uint32_t *directory = cpu_allocate_page(cpu);
    for (uint32_t i = 0; i < 256; i++)
        directory[i] = directory[i + 768] = i << 22 | (uint32_t)PTE_BITS;
    return cpu_physical(directory);
}

struct l2 *modes_create_protected_mode(struct cpu *cpu, void (*code)(void))
{
    struct l2 *l2 = l2_create(cpu, code);
    l2_clear(VMCS_VM_ENTRY_CONTROLS, ENTRY_IA32E_MODE_GUEST);
    l2_write(VMCS_GUEST_CR4, CR4_PSE | CR4_VMXE);
    l2_write(VMCS_GUEST_CR3, tables_32_bit(cpu));
    write_segments(SELECTOR_CODE32, SELECTOR_DATA, 0, 0xffffffff, ACCESS_RIGHTS_CODE32, ACCESS_RIGHTS_DATA32);
    l2_write(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_PF);
    return l2;
}

static struct l2 *create_pae(struct cpu *cpu, uint64_t cr3)
{
    struct l2 *l2 = modes_create_protected_mode(cpu, modes_32);
    l2_write(VMCS_GUEST_CR4, CR4_PAE | CR4_VMXE);
    l2_write(VMCS_GUEST_CR3, cr3);
    return l2;
}

static void fact_32_bit(struct cpu *cpu, struct l2 *l2, const uint32_t *cell)
{
    l2->gpr[GPR_RBX] = cpu_physical(cell) + 0xc0000000;
    l2->gpr[GPR_RSI] = 0x7ffff000; // not mapped
    if (!fact_call(cpu, l2, "L2 has written through its second view", 1))
        return;
    fact(cpu, "L1 reads there", *cell, 0x13579bdf);
    fact(cpu, "L2's EDX, which wrapped around", l2->gpr[GPR_RDX] & 0xffffffff, 0xfffffffe);
    fact_exit(cpu, l2, "L2 reads what is not mapped", EXIT_EXCEPTION_OR_NMI);
    fact(cpu, "interruption information", l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000b0e);
    fact(cpu, "its linear address", l2_read(VMCS_EXIT_QUALIFICATION), 0x7ffff000);
    l2_write(VMCS_GUEST_RIP, l2_read(VMCS_GUEST_RIP) + 2);
    fact_call(cpu, l2, "L2 reloads CR3", 2);
}

void test_32_bit_paging(struct cpu *cpu)
{
    uint32_t *cell = cpu_allocate_page(cpu);
    fact_32_bit(cpu, modes_create_protected_mode(cpu, modes_32), cell);
    if (!fact_offered(cpu, "EPT", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT))
        return;
    struct ept ept = ept_create_identity(cpu);
    *cell = 0;
    struct l2 *l2 = modes_create_protected_mode(cpu, modes_32);
    ept_use(&ept);
    fact_32_bit(cpu, l2, cell);
}

// Four directories of 2-MByte pages; the one for 3 GiB and up is the one for the first GiB.
static uint64_t *tables_pae(struct cpu *cpu)
{
    uint64_t *pointers = cpu_allocate_page(cpu), *directory = cpu_allocate_page(cpu);
    for (uint64_t i = 0; i < 512; i++)
        directory[i] = i << 21 | PTE_BITS;
    pointers[0] = pointers[3] = cpu_physical(directory) | PDPTE_PRESENT;
    return pointers;
}

void test_pae_paging(struct cpu *cpu)
{
    uint32_t *cell = cpu_allocate_page(cpu);
    uint64_t *pointers = tables_pae(cpu);
    struct l2 *l2 = create_pae(cpu, cpu_physical(pointers));
    fact_32_bit(cpu, l2, cell);
    pointers[2] = PDPTE_RESERVED | PDPTE_PRESENT;
    l2_write(VMCS_GUEST_RIP, (uint64_t)(uintptr_t)modes_32);
    if (fact_exit(cpu, l2, "VM entry with a bad PDPTE in memory",
                  EXIT_REASON_ENTRY_FAILURE | EXIT_ENTRY_FAILURE_GUEST_STATE))
        fact(cpu, "its qualification", l2_read(VMCS_EXIT_QUALIFICATION), 2);
}

// With EPT, VM entry takes the PDPTEs from the VMCS, MOV to CR3 takes them from memory, and VM exits save
// them.
void test_pae_paging_with_ept(struct cpu *cpu)
{
    if (!fact_offered(cpu, "EPT", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT))
        return;
    struct ept ept = ept_create_identity(cpu);
    uint32_t *cell = cpu_allocate_page(cpu);
    uint64_t *pointers = tables_pae(cpu);
    struct l2 *l2 = create_pae(cpu, cpu_physical(pointers));
    ept_use(&ept);
    l2_write(VMCS_GUEST_PDPTE0, pointers[0]);
    l2_write(VMCS_GUEST_PDPTE1, 0);
    l2_write(VMCS_GUEST_PDPTE2, pointers[0]);
    l2_write(VMCS_GUEST_PDPTE3, pointers[3]);
    pointers[3] = 0;
    l2->gpr[GPR_RBX] = cpu_physical(cell) + 0xc0000000;
    l2->gpr[GPR_RSI] = 0x80000000 + cpu_physical(cell); // mapped by the VMCS's PDPTE2 only
    if (!fact_call(cpu, l2, "PDPTE3 in the VMCS only: L2 has written through it", 1))
        return;
    fact(cpu, "L1 reads there", *cell, 0x13579bdf);
    fact_true(cpu, "GUEST_PDPTE2 is as it was", l2_read(VMCS_GUEST_PDPTE2) == pointers[0]);
    fact_call(cpu, l2, "L2 reads through PDPTE2, and reloads CR3", 2);
    fact(cpu, "GUEST_PDPTE2, from memory now", l2_read(VMCS_GUEST_PDPTE2), 0);
    fact(cpu, "GUEST_PDPTE3, from memory now", l2_read(VMCS_GUEST_PDPTE3), 0);
    fact_true(cpu, "GUEST_PDPTE0, from memory now", l2_read(VMCS_GUEST_PDPTE0) == pointers[0]);
    l2_write(VMCS_GUEST_PDPTE1, PDPTE_RESERVED | PDPTE_PRESENT);
    l2_write(VMCS_GUEST_RIP, (uint64_t)(uintptr_t)modes_32);
    if (fact_exit(cpu, l2, "VM entry with a bad PDPTE in the VMCS",
                  EXIT_REASON_ENTRY_FAILURE | EXIT_ENTRY_FAILURE_GUEST_STATE))
        fact(cpu, "its qualification", l2_read(VMCS_EXIT_QUALIFICATION), 2);
}
