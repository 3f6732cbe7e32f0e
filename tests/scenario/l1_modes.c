// SPDX-License-Identifier: MIT
// An L1 that does not run in 64-bit mode: operands of 32 bits, segments with bases and limits, 32-bit and PAE
// paging, a host-state area without IA-32e mode; and L1's control registers, which L0 virtualizes.
// Manual: Format of Instruction Operands; Restrictions on VMX Operation; Host-State Area.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define PAGE_DIRECTORY 0x150000 // of 32-bit paging
#define PAGE_TABLE     0x151000
#define PDPT           0x152000 // of PAE paging
#define PAE_DIRECTORY  0x153000

static void put(uint64_t at, uint64_t value, unsigned size)
{
    memcpy(l1_memory(at), &value, size);
}

static uint64_t get(uint64_t at, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, l1_memory(at), size);
    return value;
}

static uint64_t read_cr(unsigned n)
{
    l1_run(MOV_FROM_CR(GPR_RAX, n));
    return l1_gpr(GPR_RAX);
}

// Linear addresses stay physical ones: 4-MByte pages, but the first by 4-KByte pages.
static void build_32_bit_tables(void)
{
    for (uint32_t i = 0; i < L1_RAM_SIZE >> 22; i++)
        put(PAGE_DIRECTORY + 4 * i, i << 22 | 0x83, 4);
    put(PAGE_DIRECTORY, PAGE_TABLE | 3, 4);
    for (uint32_t i = 0; i < 1024; i++)
        put(PAGE_TABLE + 4 * i, i << 12 | 3, 4);
}

static void build_pae_tables(void)
{
    put(PDPT, PAE_DIRECTORY | 1, 8);
    for (uint64_t i = 0; i < L1_RAM_SIZE >> 21; i++)
        put(PAE_DIRECTORY + 8 * i, i << 21 | 0x83, 8);
}

static void load_32_bit_idt(void)
{
    put(L1_SCRATCH + 0x800, 0x7ff | (uint64_t)L1_IDT_32 << 16, 8);
    put(L1_SCRATCH + 0x808, 0, 8);
    struct op lidt = {.kind = OP_LIDT, AT(L1_SCRATCH + 0x800)};
    lidt.memory.address_size = 32;
    l1_run(lidt);
}

// From 64-bit mode to protected mode with another kind of paging.
static void leave_long_mode(uint64_t cr3, uint64_t cr4)
{
    uint64_t cr0 = read_cr(0);
    l1_run(TO_COMPATIBILITY_MODE);
    l1_run(MOV_TO_CR(0, cr0 & ~CR0_PG));
    l1_run(WRMSR(MSR_IA32_EFER, 0));
    l1_run(MOV_TO_CR(4, cr4));
    l1_run(MOV_TO_CR(3, cr3));
    l1_run(MOV_TO_CR(0, cr0));
    load_32_bit_idt();
}

static struct op with_32_bit_address(struct op op)
{
    op.memory.address_size = 32;
    return op;
}

static void enter_vmx_operation_32(void)
{
    l1_run(MOV_TO_CR(4, read_cr(4) | CR4_VMXE));
    l1_make_region(VMXON_REGION);
    put(L1_SCRATCH, VMXON_REGION, 8);
    put(L1_SCRATCH + 8, VMCS_A, 8);
    expect_succeed(l1_execute(with_32_bit_address(VMXON(L1_SCRATCH))));
}

static void make_current_32(void)
{
    l1_make_region(VMCS_A);
    expect_succeed(l1_execute(with_32_bit_address(VMCLEAR(L1_SCRATCH + 8))));
    expect_succeed(l1_execute(with_32_bit_address(VMPTRLD(L1_SCRATCH + 8))));
}

static void operands_have_32_bits(void)
{
    build_32_bit_tables();
    leave_long_mode(PAGE_DIRECTORY, CR4_PSE);
    enter_vmx_operation_32();
    make_current_32();
    // a register operand has 32 bits; so has the encoding
    l1_vmwrite(VMCS_TSC_OFFSET, 0xaaaaaaaa11111111ull);
    assert_int_equal(l1_vmread(VMCS_TSC_OFFSET), 0x11111111);
    assert_int_equal(l1_vmread(VMCS_TSC_OFFSET | 1), 0);
    l1_vmwrite(VMCS_TSC_OFFSET | 1, 0x22222222);
    assert_int_equal(l1_vmread(VMCS_TSC_OFFSET | 1), 0x22222222);
    assert_int_equal(l1_vmread(VMCS_TSC_OFFSET), 0x11111111);
    expect_succeed(l1_execute(VMREAD(GPR_RAX, 0xffffffff00000000ull | VMCS_TSC_OFFSET)));
    assert_int_equal(l1_gpr(GPR_RAX), 0x11111111);
    // memory operands too
    put(L1_SCRATCH + 16, UINT64_MAX, 8);
    expect_succeed(l1_execute(with_32_bit_address(VMREAD_TO(L1_SCRATCH + 16, VMCS_TSC_OFFSET))));
    assert_int_equal(get(L1_SCRATCH + 16, 8), 0xffffffff11111111ull);
    put(L1_SCRATCH + 16, 0x9999999988888888ull, 8);
    expect_succeed(l1_execute(with_32_bit_address(VMWRITE_FROM(L1_SCRATCH + 16, VMCS_GUEST_RIP))));
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), 0x88888888);
    // pointers have 64 bits always
    put(L1_SCRATCH + 24, 0, 8);
    expect_succeed(l1_execute(with_32_bit_address(VMPTRST(L1_SCRATCH + 24))));
    assert_int_equal(get(L1_SCRATCH + 24, 8), VMCS_A);
}

static void page_faults_of_32_bit_paging(void)
{
    build_32_bit_tables();
    put(PAGE_TABLE + 4 * 0x301, 0x301000 | 1, 4); // read-only
    put(PAGE_TABLE + 4 * 0x302, 0, 4);
    put(PAGE_TABLE + 4 * 0x303, 0x304003, 4); // elsewhere
    leave_long_mode(PAGE_DIRECTORY, CR4_PSE);
    enter_vmx_operation_32();
    make_current_32();
    put(0x301000, VMCS_A, 8);
    expect_succeed(l1_execute(with_32_bit_address(VMPTRLD(0x301000))));
    expect_exception_with_code(l1_execute(with_32_bit_address(VMPTRST(0x301000))), VECTOR_PF, 3);
    expect_exception_with_code(l1_execute(with_32_bit_address(VMPTRST(0x302008))), VECTOR_PF, 2);
    assert_int_equal(l1_cr2(), 0x302008);
    expect_exception_with_code(l1_execute(with_32_bit_address(VMPTRLD(0x302ff8))), VECTOR_PF, 0);
    // an operand that crosses into the page that is not there
    expect_exception_with_code(l1_execute(with_32_bit_address(VMPTRLD(0x301ffc))), VECTOR_PF, 0);
    assert_int_equal(l1_cr2(), 0x302000);
    put(0x304010, 0, 8);
    expect_succeed(l1_execute(with_32_bit_address(VMPTRST(0x303010))));
    assert_int_equal(get(0x304010, 8), VMCS_A);
    // accessed and dirty flags, as the processor's own accesses set them
    assert_int_equal(get(PAGE_TABLE + 4 * 0x303, 4) & 0x60, 0x60);
    assert_int_equal(get(PAGE_TABLE + 4 * 0x301, 4) & 0x60, 0x20);
}

static void four_mbyte_pages(void)
{
    build_32_bit_tables();
    put(PAGE_DIRECTORY + 4 * 5, 0x0 | 0x83, 4); // linear 20 MBytes is physical 0
    leave_long_mode(PAGE_DIRECTORY, CR4_PSE);
    enter_vmx_operation_32();
    make_current_32();
    expect_succeed(l1_execute(with_32_bit_address(VMPTRST((5 << 22) + L1_SCRATCH + 0x30))));
    assert_int_equal(get(L1_SCRATCH + 0x30, 8), VMCS_A);
}

static void pae_paging_of_l1(void)
{
    build_pae_tables();
    put(PAE_DIRECTORY + 8 * 9, 0x200000 | 0x83, 8); // linear 18 MBytes is physical 2 MBytes
    leave_long_mode(PDPT, CR4_PAE);
    enter_vmx_operation_32();
    make_current_32();
    expect_succeed(l1_execute(with_32_bit_address(VMPTRST((9 << 21) + 0x100040))));
    assert_int_equal(get(0x300040, 8), VMCS_A);
    expect_exception_with_code(l1_execute(with_32_bit_address(VMPTRST(L1_NOT_MAPPED))), VECTOR_PF, 2);
    // another PDPT, and one with a reserved bit
    put(PDPT + 0x20, PAE_DIRECTORY | 1, 8);
    put(PDPT + 0x28, PAE_DIRECTORY | 1, 8);
    l1_run(MOV_TO_CR(3, PDPT + 0x20));
    expect_succeed(l1_execute(with_32_bit_address(VMPTRST(0x40000000 + L1_SCRATCH + 0x50))));
    assert_int_equal(get(L1_SCRATCH + 0x50, 8), VMCS_A);
    put(PDPT + 0x48, PAE_DIRECTORY | 3, 8);
    put(PDPT + 0x40, PAE_DIRECTORY | 1, 8);
    expect_exception_with_code(l1_execute(MOV_TO_CR(3, PDPT + 0x40)), VECTOR_GP, 0);
}

// Reserved bits in L1's page tables, found when L0 reads an operand.
static void reserved_bits_fault(void)
{
    build_pae_tables();
    put(PAE_DIRECTORY + 8 * 9, 0x200000 | 0x83 | 1ull << 62, 8);
    put(PAE_DIRECTORY + 8 * 10, 0x200000 | 0x83 | 1ull << 14, 8); // a large page's address is aligned
    put(PAE_DIRECTORY + 8 * 11, 0x200000 | 0x83 | 1ull << 45, 8);
    leave_long_mode(PDPT, CR4_PAE);
    enter_vmx_operation_32();
    make_current_32();
    for (int64_t i = 9; i < 12; i++)
        expect_exception_with_code(l1_execute(with_32_bit_address(VMPTRLD(i << 21))), VECTOR_PF, 9);
    expect_exception_with_code(l1_execute(with_32_bit_address(VMPTRST(9 << 21))), VECTOR_PF, 0xb);
}

static void reserved_bits_fault_in_32_bit_paging(void)
{
    build_32_bit_tables();
    put(PAGE_DIRECTORY + 4 * 5, 0x83 | 1u << 21, 4);
    leave_long_mode(PAGE_DIRECTORY, CR4_PSE);
    enter_vmx_operation_32();
    make_current_32();
    expect_exception_with_code(l1_execute(with_32_bit_address(VMPTRLD(5 << 22))), VECTOR_PF, 9);
}

static void reserved_bits_fault_in_64_bit_mode(void)
{
    l1_enter_vmx_operation();
    l1_make_region(VMCS_A);
    put(L1_PAGE_TABLES + 0x2000 + 8 * 9, 0x200000 | 0x87 | 1ull << 14, 8);
    put(L1_PAGE_TABLES + 0x2000 + 8 * 10, 0x200000 | 0x87 | 1ull << 50, 8);
    put(L1_PAGE_TABLES + 0x2000 + 8 * 11, 0x200000 | 0x85, 8); // read-only
    put(L1_PAGE_TABLES + 0x2000 + 8 * 12, 0x200000 | 0x83 | 1ull << 63, 8);
    expect_exception_with_code(l1_execute(VMPTRLD(9 << 21)), VECTOR_PF, 9);
    expect_exception_with_code(l1_execute(VMPTRLD(10 << 21)), VECTOR_PF, 9);
    expect_exception_with_code(l1_execute(VMPTRST(11 << 21)), VECTOR_PF, 3);
    expect_succeed(l1_execute(VMPTRST((12 << 21) + 0x100000))); // not executable is no matter
    // with CR0.WP clear a supervisor writes to read-only pages
    uint64_t cr0 = read_cr(0);
    l1_run(MOV_TO_CR(0, cr0 & ~CR0_WP));
    expect_succeed(l1_execute(VMPTRST((11 << 21) + 0x100008)));
    l1_run(MOV_TO_CR(0, cr0));
    expect_exception_with_code(l1_execute(VMPTRST(11 << 21)), VECTOR_PF, 3);
    // with CR4.SMAP a supervisor does not read user pages, of which only one is left
    for (uint64_t i = 0; i < L1_RAM_SIZE >> 21; i++)
        put(L1_PAGE_TABLES + 0x2000 + 8 * i, i << 21 | 0x83, 8);
    l1_run(MOV_TO_CR(4, read_cr(4) | CR4_SMAP));
    expect_exception_with_code(l1_execute(VMPTRLD(11 << 21)), VECTOR_PF, 1);
}

// MOV to CR4 that L0 carries out: PAE paging's PDPTEs are read again.
static void cr4_writes_load_pdptes(void)
{
    build_pae_tables();
    leave_long_mode(PDPT, CR4_PAE);
    put(PDPT + 8, PAE_DIRECTORY | 1, 8); // not loaded yet
    l1_run(MOV_TO_CR(4, CR4_PAE | CR4_PGE | CR4_VMXE));
    l1_run(READ(GPR_RBX, 0x40000000 + L1_SCRATCH + 0x800));
    assert_int_equal(l1_gpr(GPR_RBX), get(L1_SCRATCH + 0x800, 8));
    put(PDPT + 16, PAE_DIRECTORY | 3, 8); // a reserved bit
    expect_exception_with_code(l1_execute(MOV_TO_CR(4, CR4_PAE)), VECTOR_GP, 0);
    assert_int_equal(read_cr(4), CR4_PAE | CR4_PGE | CR4_VMXE);
}

static void segments_have_bases_and_limits(void)
{
    build_32_bit_tables();
    leave_long_mode(PAGE_DIRECTORY, CR4_PSE);
    l1_wrmsr(MSR_FS_BASE, L1_SCRATCH);
    enter_vmx_operation_32();
    make_current_32();
    struct op op = with_32_bit_address(VMPTRST(0x60));
    op.memory.segment = SEGMENT_FS;
    expect_succeed(l1_execute(op));
    assert_int_equal(get(L1_SCRATCH + 0x60, 8), VMCS_A);
}

// --- host state of a 32-bit L1

static void prepare_32_bit_host(struct l2 *l2)
{
    l1_enter_vmx_operation();
    l1_prepare_vmcs(VMCS_A, l2); // in 64-bit mode, but with what a 32-bit L1 needs
    l1_vmwrite(VMCS_GUEST_IA32_EFER, 0);
    l1_vmwrite(VMCS_GUEST_CS_ACCESS_RIGHTS, 0xc09b);
    l1_vmwrite(VMCS_GUEST_CR0, CR0_PE | CR0_NE | CR0_ET);
    l1_vmwrite(VMCS_GUEST_CR4, CR4_VMXE);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_UNRESTRICTED_GUEST);
    l1_clear(VMCS_VM_ENTRY_CONTROLS, ENTRY_IA32E_MODE_GUEST);
    l1_clear(VMCS_VM_EXIT_CONTROLS, EXIT_HOST_ADDRESS_SPACE_SIZE);
    l1_vmwrite(VMCS_HOST_IA32_EFER, 0);
    l1_vmwrite(VMCS_HOST_IDTR_BASE, L1_IDT_32);
    l1_vmclear(VMCS_A);
    l1_vmxoff();
}

static void resume_as_32_bit_l1(uint64_t cr3, uint64_t cr4)
{
    leave_long_mode(cr3, cr4);
    l1_run(MOV_TO_CR(4, cr4 | CR4_VMXE));
    put(L1_SCRATCH, VMXON_REGION, 8);
    put(L1_SCRATCH + 8, VMCS_A, 8);
    expect_succeed(l1_execute(with_32_bit_address(VMXON(L1_SCRATCH))));
    expect_succeed(l1_execute(with_32_bit_address(VMPTRLD(L1_SCRATCH + 8))));
    l1_vmwrite(VMCS_HOST_CR3, cr3);
    l1_vmwrite(VMCS_HOST_CR4, cr4 | CR4_VMXE);
}

static void a_32_bit_l1_runs_a_32_bit_l2(void)
{
    L2_PROGRAM(l2, WRITE(0x20000, 0x32), CPUID(1), VMCALL);
    prepare_32_bit_host(&l2);
    build_32_bit_tables();
    resume_as_32_bit_l1(PAGE_DIRECTORY, CR4_PSE);
    l1_vmwrite(VMCS_HOST_FS_SELECTOR, 0);
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    assert_int_equal(get(L2_RAM + 0x20000, 8), 0x32);
    assert_int_equal(read_cr(4), CR4_PSE | CR4_VMXE);
    struct op op = with_32_bit_address(VMPTRST(0x60));
    op.memory.segment = SEGMENT_FS; // a null selector
    expect_exception_with_code(l1_execute(op), VECTOR_GP, 0);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    // a 64-bit host is not for it, nor a 64-bit guest
    l1_set(VMCS_VM_EXIT_CONTROLS, EXIT_HOST_ADDRESS_SPACE_SIZE);
    expect_fail_valid(try_vmresume(), 8);
    l1_clear(VMCS_VM_EXIT_CONTROLS, EXIT_HOST_ADDRESS_SPACE_SIZE);
    l1_set(VMCS_VM_ENTRY_CONTROLS, ENTRY_IA32E_MODE_GUEST);
    expect_fail_valid(try_vmresume(), 8);
    l1_clear(VMCS_VM_ENTRY_CONTROLS, ENTRY_IA32E_MODE_GUEST);
    l1_vmwrite(VMCS_HOST_SS_SELECTOR, 0);
    expect_fail_valid(try_vmresume(), 8);
    l1_vmwrite(VMCS_HOST_SS_SELECTOR, 0x10);
    l1_vmwrite(VMCS_HOST_IA32_EFER, EFER_NXE);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void an_exit_loads_l1s_pdptes(void)
{
    L2_PROGRAM(l2, CPUID(1), VMCALL);
    prepare_32_bit_host(&l2);
    build_pae_tables();
    resume_as_32_bit_l1(PDPT, CR4_PAE);
    put(PDPT + 0x20, PAE_DIRECTORY | 1, 8);
    put(PDPT + 0x28, PAE_DIRECTORY | 1, 8); // linear 1 GByte, too
    l1_vmwrite(VMCS_HOST_CR3, PDPT + 0x20);
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    l1_run(READ(GPR_RBX, 0x40000000 + L1_SCRATCH));
    assert_int_equal(l1_gpr(GPR_RBX), VMXON_REGION);
    assert_int_equal(read_cr(3), PDPT + 0x20);
}

// --- control registers of L1

static void l1_reads_back_what_it_wrote(void)
{
    l1_run(MOV_TO_CR(0, read_cr(0) | CR0_AM | CR0_TS));
    assert_int_equal(read_cr(0) & (CR0_AM | CR0_TS), CR0_AM | CR0_TS);
    l1_run(CLTS);
    assert_int_equal(read_cr(0) & CR0_TS, 0);
    l1_run(LMSW(CR0_PE | CR0_MP | CR0_TS));
    l1_run(SMSW(GPR_RBX));
    assert_int_equal(l1_gpr(GPR_RBX) & 0xf, CR0_PE | CR0_MP | CR0_TS);
    l1_run(MOV_TO_CR(4, CR4_PAE | CR4_PGE | CR4_OSXSAVE));
    assert_int_equal(read_cr(4), CR4_PAE | CR4_PGE | CR4_OSXSAVE);
    l1_run(MOV_TO_CR(4, CR4_PAE | CR4_VMXE));
    assert_int_equal(read_cr(4), CR4_PAE | CR4_VMXE);
    l1_run(MOV_TO_CR(4, CR4_PAE));
    uint64_t cr0 = read_cr(0);
    l1_run(MOV_TO_CR(0, cr0 & ~CR0_NE)); // outside VMX operation L1 may
    assert_int_equal(read_cr(0), cr0 & ~CR0_NE);
    l1_run(MOV_TO_CR(0, cr0));
}

// CR0.NE changes with something else: L0, which owns it, carries all of it out.
static void cr0_writes_change_paging(void)
{
    const uint64_t efer = l1_rdmsr(MSR_IA32_EFER);
    uint64_t cr0 = read_cr(0), off = cr0 & ~(CR0_PG | CR0_NE);
    build_pae_tables();
    l1_run(TO_COMPATIBILITY_MODE);
    l1_run(MOV_TO_CR(0, off)); // out of IA-32e mode
    load_32_bit_idt();
    assert_int_equal(read_cr(0), off);
    assert_int_equal(l1_rdmsr(MSR_IA32_EFER), efer & ~EFER_LMA);
    l1_run(MOV_TO_CR(4, 0));
    expect_exception_with_code(l1_execute(MOV_TO_CR(0, cr0)), VECTOR_GP, 0); // into it without PAE
    assert_int_equal(read_cr(0), off);
    l1_run(MOV_TO_CR(4, CR4_PAE));
    l1_run(MOV_TO_CR(0, cr0));
    assert_int_equal(l1_rdmsr(MSR_IA32_EFER), efer);
    l1_run(MOV_TO_CR(0, off));
    l1_run(WRMSR(MSR_IA32_EFER, 0));
    l1_run(MOV_TO_CR(3, PDPT));
    put(PDPT + 8, PAE_DIRECTORY | 3, 8); // a reserved bit in a PDPTE
    expect_exception_with_code(l1_execute(MOV_TO_CR(0, cr0)), VECTOR_GP, 0);
    assert_int_equal(read_cr(0), off);
    put(PDPT + 8, PAE_DIRECTORY | 1, 8);
    l1_run(MOV_TO_CR(0, cr0)); // PAE paging, whose PDPTEs are loaded
    assert_int_equal(read_cr(0), cr0);
    put(L1_SCRATCH, 0x1234567, 8);
    l1_run(READ(GPR_RBX, 0x40000000 + L1_SCRATCH));
    assert_int_equal((uint32_t)l1_gpr(GPR_RBX), 0x1234567);
    l1_run(MOV_TO_CR(0, cr0 & ~(CR0_NE | CR0_WP)));
    assert_int_equal(read_cr(0), cr0 & ~(CR0_NE | CR0_WP));
}

static void illegal_control_registers_fault(void)
{
    uint64_t cr0 = read_cr(0);
    expect_exception_with_code(l1_execute(MOV_TO_CR(0, cr0 & ~CR0_PE)), VECTOR_GP, 0); // PG without PE
    expect_exception_with_code(l1_execute(MOV_TO_CR(0, cr0 | CR0_NW)), VECTOR_GP, 0);  // NW without CD
    expect_exception_with_code(l1_execute(MOV_TO_CR(0, cr0 | 1ull << 32)), VECTOR_GP, 0);
    expect_exception_with_code(l1_execute(MOV_TO_CR(0, cr0 & ~CR0_PG)), VECTOR_GP, 0); // in 64-bit mode
    expect_exception_with_code(l1_execute(MOV_TO_CR(4, 0)), VECTOR_GP, 0);             // PAE, in long mode
    expect_exception_with_code(l1_execute(MOV_TO_CR(4, CR4_PAE | 1ull << 30)), VECTOR_GP, 0);
    expect_exception_with_code(l1_execute(MOV_TO_CR(3, 1ull << 50)), VECTOR_GP, 0);
    expect_exception_with_code(l1_execute(WRMSR(MSR_IA32_EFER, 0)), VECTOR_GP, 0); // LME, with paging
    assert_int_equal(read_cr(0), cr0);
    assert_int_equal(read_cr(4), CR4_PAE);
    // PCIDE wants a CR3 without a PCID, and then paging stays on
    l1_run(MOV_TO_CR(3, L1_PAGE_TABLES + 8));
    expect_exception_with_code(l1_execute(MOV_TO_CR(4, CR4_PAE | CR4_PCIDE)), VECTOR_GP, 0);
    l1_run(MOV_TO_CR(3, L1_PAGE_TABLES));
    l1_run(MOV_TO_CR(4, CR4_PAE | CR4_PCIDE));
    l1_run(TO_COMPATIBILITY_MODE);
    expect_exception_with_code(l1_execute(MOV_TO_CR(0, cr0 & ~CR0_PG)), VECTOR_GP, 0);
    l1_run(MOV_TO_CR(4, CR4_PAE));
}

// CET needs CR0.WP, whichever of the two MOVs comes second, and whatever else it changes: with CR0.NE or
// CR4.VMXE it is L0 that carries it out.
static void cet_needs_write_protection(void)
{
    uint64_t cr0 = read_cr(0), open = cr0 & ~CR0_WP;
    l1_run(MOV_TO_CR(4, CR4_PAE | CR4_CET | CR4_VMXE));
    l1_run(MOV_TO_CR(4, CR4_PAE | CR4_CET));
    expect_exception_with_code(l1_execute(MOV_TO_CR(0, open)), VECTOR_GP, 0);
    expect_exception_with_code(l1_execute(MOV_TO_CR(0, open & ~CR0_NE)), VECTOR_GP, 0);
    assert_int_equal(read_cr(0), cr0);
    l1_run(MOV_TO_CR(4, CR4_PAE));
    l1_run(MOV_TO_CR(0, open & ~CR0_NE));
    expect_exception_with_code(l1_execute(MOV_TO_CR(4, CR4_PAE | CR4_CET)), VECTOR_GP, 0);
    expect_exception_with_code(l1_execute(MOV_TO_CR(4, CR4_PAE | CR4_CET | CR4_VMXE)), VECTOR_GP, 0);
    assert_int_equal(read_cr(4), CR4_PAE);
    l1_run(MOV_TO_CR(0, cr0));
    l1_run(MOV_TO_CR(4, CR4_PAE | CR4_CET | CR4_VMXE));
    assert_int_equal(read_cr(4), CR4_PAE | CR4_CET | CR4_VMXE);
}

// What the processor has and L1 is not offered, in CR4.
static void bits_that_are_not_offered(void)
{
    uint64_t fixed1 = l1_rdmsr(MSR_IA32_VMX_CR4_FIXED1);
    uint64_t inconvenient = CR4_PCIDE | CR4_SMEP | CR4_SMAP; // for an L1 of user pages
    for (unsigned bit = 0; bit < 64; bit++) {
        if ((fixed1 >> bit & 1) == 0)
            expect_exception_with_code(l1_execute(MOV_TO_CR(4, CR4_PAE | 1ull << bit)), VECTOR_GP, 0);
        else
            l1_run(MOV_TO_CR(4, CR4_PAE | (1ull << bit & ~inconvenient)));
    }
    assert_int_equal(fixed1 & (CR4_LA57 | CR4_SMXE), 0);
}

static void bits_that_are_not_offered_to_l2(void)
{
    uint64_t cr4 = CR4_PAE | CR4_VMXE, hidden = CR4_LA57 | CR4_SMXE;
    L2_PROGRAM(l2, MOV_FROM_CR(GPR_RBX, 4), MOV_TO_CR(4, CR4_PAE | CR4_VMXE | CR4_PGE),
               MOV_TO_CR(4, CR4_PAE | CR4_VMXE | CR4_LA57), MOV_TO_CR(4, CR4_PAE | CR4_VMXE | CR4_SMXE),
               VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmwrite(VMCS_CR4_READ_SHADOW, hidden); // of bits that L1 does not own
    l1_vmlaunch();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_GP));
    assert_int_equal(l1_gpr(GPR_RBX), cr4);
    assert_int_equal(l1_vmread(VMCS_GUEST_CR4), cr4 | CR4_PGE);
    assert_int_equal(l1_vmread(VMCS_CR4_GUEST_HOST_MASK), 0);
    assert_int_equal(l1_vmread(VMCS_CR4_READ_SHADOW), hidden);
    // the exception is an exit where L1 wants it
    uint64_t second = l2.code + op_length(&l2.op[0]) + op_length(&l2.op[1]);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    l1_resume_at(second + op_length(&l2.op[2]));
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), HARDWARE(VECTOR_GP) | WITH_CODE);
    // the MOV is, where L1 owns the bit; and L2 reads what L1 says
    l1_vmwrite(VMCS_CR4_GUEST_HOST_MASK, hidden);
    l1_vmwrite(VMCS_CR4_READ_SHADOW, 0);
    l1_resume_at(second);
    expect_exit_qualification(EXIT_CONTROL_REGISTER_ACCESS, 4 | (uint64_t)GPR_RDX << 8);
    l1_vmwrite(VMCS_CR4_READ_SHADOW, hidden);
    l1_resume_at(l2.code);
    expect_exit_qualification(EXIT_CONTROL_REGISTER_ACCESS, 4 | (uint64_t)GPR_RDX << 8);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + op_length(&l2.op[0]));
    assert_int_equal(l1_gpr(GPR_RBX), cr4 | CR4_PGE | hidden);
    l1_vmwrite(VMCS_CR4_GUEST_HOST_MASK, CR4_LA57); // no exit, when it reads as it is written
    l1_resume_at(second);
    expect_exit_qualification(EXIT_CONTROL_REGISTER_ACCESS, 4 | (uint64_t)GPR_RDX << 8);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), second + op_length(&l2.op[2]));
    assert_int_equal(l1_vmread(VMCS_GUEST_CR4), cr4);
    // and neither state may have it
    l1_vmwrite(VMCS_GUEST_CR4, cr4 | CR4_LA57);
    try_vmresume();
    expect_entry_failure(EXIT_ENTRY_FAILURE_GUEST_STATE, 0);
    l1_vmwrite(VMCS_GUEST_CR4, cr4);
    l1_vmwrite(VMCS_HOST_CR4, cr4 | CR4_LA57);
    expect_fail_valid(try_vmresume(), 8);
}

static void control_registers_in_vmx_operation(void)
{
    l1_enter_vmx_operation();
    uint64_t cr0 = read_cr(0);
    l1_run(TO_COMPATIBILITY_MODE);
    expect_exception_with_code(l1_execute(MOV_TO_CR(0, cr0 & ~CR0_PG)), VECTOR_GP, 0);
}

static void expect_abort(uint32_t indicator)
{
    struct outcome outcome = try_vmlaunch();
    assert_int_equal(outcome.how, IDLE);
    assert_int_equal(get(VMCS_A + 4, 4), indicator);
    cpu_nmi(l1_cpu()); // nothing wakes it
    assert_int_equal(l1_continue().how, IDLE);
}

// VMX Aborts: a host that cannot be loaded.
static void a_reserved_bit_in_a_host_pdpte_aborts(void)
{
    L2_PROGRAM(l2, CPUID(1), VMCALL);
    prepare_32_bit_host(&l2);
    build_pae_tables();
    resume_as_32_bit_l1(PDPT, CR4_PAE);
    put(PDPT + 0x20, PAE_DIRECTORY | 1, 8);
    put(PDPT + 0x28, PAE_DIRECTORY | 3, 8);
    l1_vmwrite(VMCS_HOST_CR3, PDPT + 0x20);
    expect_abort(2);
}

// L2 may enter IA-32e mode under a 32-bit host, and not leave it by an exit.
static void an_exit_from_ia32e_mode_to_a_32_bit_host_aborts(void)
{
    L2_PROGRAM(l2, MOV_TO_CR(4, CR4_PAE | CR4_VMXE), MOV_TO_CR(3, 0x1000), WRMSR(MSR_IA32_EFER, EFER_LME),
               MOV_TO_CR(0, CR0_PG | CR0_PE | CR0_NE | CR0_ET), CPUID(1), VMCALL);
    prepare_32_bit_host(&l2);
    build_32_bit_tables();
    resume_as_32_bit_l1(PAGE_DIRECTORY, CR4_PSE);
    expect_abort(6);
}

static const struct CMUnitTest tests[] = {
    BOTH(operands_have_32_bits),
    BOTH(page_faults_of_32_bit_paging),
    BOTH(four_mbyte_pages),
    BOTH(pae_paging_of_l1),
    BOTH_WITH(pae_paging_of_l1, ", moving", .cpu_count = 2, .move_one_in = 1),
    BOTH(reserved_bits_fault),
    BOTH(reserved_bits_fault_in_32_bit_paging),
    BOTH(reserved_bits_fault_in_64_bit_mode),
    BOTH(cr4_writes_load_pdptes),
    BOTH(segments_have_bases_and_limits),
    BOTH(a_32_bit_l1_runs_a_32_bit_l2),
    BOTH_WITH(a_32_bit_l1_runs_a_32_bit_l2, ", sparse processor", .processor = &processor_sparse),
    BOTH(an_exit_loads_l1s_pdptes),
    BOTH(a_reserved_bit_in_a_host_pdpte_aborts),
    BOTH(an_exit_from_ia32e_mode_to_a_32_bit_host_aborts),
    BOTH(l1_reads_back_what_it_wrote),
    BOTH(cr0_writes_change_paging),
    BOTH_WITH(cr0_writes_change_paging, ", without VPID", .processor = &processor_no_vpid),
    BOTH(illegal_control_registers_fault),
    BOTH(control_registers_in_vmx_operation),
    BOTH_WITH(cet_needs_write_protection, "", .processor = &processor_new),
    BOTH_WITH(bits_that_are_not_offered, ", LA57", .processor = &processor_new),
    BOTH_WITH(bits_that_are_not_offered, ", SMX", .processor = &processor_smx),
    BOTH_WITH(bits_that_are_not_offered_to_l2, ", LA57", .processor = &processor_new),
    BOTH_WITH(bits_that_are_not_offered_to_l2, ", SMX", .processor = &processor_smx),
};

int main(void)
{
    return cmocka_run_group_tests_name("L1's modes", tests, NULL, NULL);
}
