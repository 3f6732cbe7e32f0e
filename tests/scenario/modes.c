// SPDX-License-Identifier: MIT
// L2 in every mode of the processor: real-address, protected, PAE, compatibility, 64-bit; and on its way from
// one to the next.
// Manual: Loading Guest Control Registers, Debug Registers, and MSRs; Saving ...; Guest
// Page-Directory-Pointer- Table Entries.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define CR0_PROTECTED (CR0_PE | CR0_NE | CR0_ET)

static void leave_long_mode(void)
{
    l1_clear(VMCS_VM_ENTRY_CONTROLS, ENTRY_IA32E_MODE_GUEST);
    l1_vmwrite(VMCS_GUEST_IA32_EFER, 0);
    l1_vmwrite(VMCS_GUEST_CS_ACCESS_RIGHTS, 0xc09b);
}

static void prepare_unpaged(struct l2 *l2)
{
    l1_prepare(l2);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_UNRESTRICTED_GUEST);
    leave_long_mode();
    l1_vmwrite(VMCS_GUEST_CR0, CR0_PROTECTED);
    l1_vmwrite(VMCS_GUEST_CR4, CR4_VMXE);
}

static void prepare_real_mode(struct l2 *l2)
{
    prepare_unpaged(l2);
    l1_vmwrite(VMCS_GUEST_CR0, CR0_NE | CR0_ET);
    for (uint32_t i = 0; i < 6; i++) {
        l1_vmwrite(VMCS_GUEST_ES_SELECTOR + 2 * i, 0);
        l1_vmwrite(VMCS_GUEST_ES_BASE + 2 * i, 0);
        l1_vmwrite(VMCS_GUEST_ES_LIMIT + 2 * i, 0xffff);
        l1_vmwrite(VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * i, i == SEGMENT_CS ? 0x9b : 0x93);
    }
    l1_vmwrite(VMCS_GUEST_CS_SELECTOR, l2->code >> 4);
    l1_vmwrite(VMCS_GUEST_CS_BASE, l2->code);
    l1_vmwrite(VMCS_GUEST_RIP, 0);
}

static void real_address_mode(void)
{
    L2_PROGRAM(l2, WRITE(0x20000, 0x16), MOV_FROM_CR(GPR_RBX, 0), CPUID(1), OUT(0x60, 1), VMCALL);
    prepare_real_mode(&l2);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RBX), CR0_NE | CR0_ET);
    expect_exit_length(EXIT_CPUID, 2);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), 11);
    assert_int_equal(l1_vmread(VMCS_GUEST_CS_BASE), l2.code);
    assert_int_equal(*(uint64_t *)l2_memory(0x20000), 0x16);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void an_interrupt_in_real_address_mode(void)
{
    L2_PROGRAM(l2, INT(0x21), VMCALL);
    L2_PROGRAM(handler, HLT);
    prepare_real_mode(&l2);
    uint16_t vector[2] = {(uint16_t)(handler.code & 15), (uint16_t)(handler.code >> 4)};
    memcpy(l2_memory(4 * 0x21), vector, 4);
    l1_vmwrite(VMCS_GUEST_IDTR_BASE, 0);
    l1_vmwrite(VMCS_GUEST_IDTR_LIMIT, 0x3ff);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmlaunch();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_CS_BASE) + l1_vmread(VMCS_GUEST_RIP), handler.code);
    // the same vector injected
    l1_vmwrite(VMCS_GUEST_CS_SELECTOR, l2.code >> 4);
    l1_vmwrite(VMCS_GUEST_CS_BASE, l2.code);
    l1_vmwrite(VMCS_GUEST_RIP, 0);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000421);
    l1_vmwrite(VMCS_VM_ENTRY_INSTRUCTION_LENGTH, 2);
    l1_vmresume();
    expect_exit(EXIT_HLT);
}

static void protected_mode_without_paging(void)
{
    L2_PROGRAM(l2, WRITE(0x20000, 0x32), VMCALL);
    prepare_unpaged(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(*(uint64_t *)l2_memory(0x20000), 0x32);
    assert_int_equal(l1_vmread(VMCS_GUEST_CR0), CR0_PROTECTED);
    assert_int_equal(l1_vmread(VMCS_VM_ENTRY_CONTROLS) & ENTRY_IA32E_MODE_GUEST, 0);
}

// 32-bit paging: one directory of 4-MByte pages.
static void build_32_bit_tables(uint64_t at)
{
    uint32_t entry = 0x83; // supervisor, 4 MBytes
    memset(l2_memory(at), 0, PAGE_SIZE);
    memcpy(l2_memory(at), &entry, 4);
}

static void thirty_two_bit_paging(void)
{
    L2_PROGRAM(l2, WRITE(0x20000, 0x3232), READ(GPR_RBX, 0x500000), VMCALL);
    prepare_unpaged(&l2);
    build_32_bit_tables(0x50000);
    l1_vmwrite(VMCS_GUEST_CR0, CR0_PROTECTED | CR0_PG);
    l1_vmwrite(VMCS_GUEST_CR4, CR4_VMXE | CR4_PSE);
    l1_vmwrite(VMCS_GUEST_CR3, 0x50000);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_PF);
    l1_vmlaunch();
    expect_exit_qualification(EXIT_EXCEPTION_OR_NMI, 0x500000);
    assert_int_equal(*(uint64_t *)l2_memory(0x20000), 0x3232);
}

// PAE paging: four PDPTEs, the first to a directory of 2-MByte pages.
static void build_pae_tables(uint64_t at, uint64_t to)
{
    uint64_t pdpte[4] = {(at + 0x1000) | 1, 0, 0, 0};
    memcpy(l2_memory(at), pdpte, sizeof(pdpte));
    memset(l2_memory(at + 0x1000), 0, PAGE_SIZE);
    uint64_t low = 0x83, high = to | 0x83;
    memcpy(l2_memory(at + 0x1000), &low, 8);
    memcpy(l2_memory(at + 0x1008), &high, 8);
}

static void pae_paging(void)
{
    L2_PROGRAM(l2, WRITE(0x210000, 0x111), MOV_TO_CR(3, 0x52000), WRITE(0x210008, 0x222), VMCALL,
               WRITE(0x210010, 0x333), VMCALL);
    prepare_unpaged(&l2);
    build_pae_tables(0x50000, 0);
    build_pae_tables(0x52000, 0x200000);
    l1_vmwrite(VMCS_GUEST_CR0, CR0_PROTECTED | CR0_PG);
    l1_vmwrite(VMCS_GUEST_CR4, CR4_VMXE | CR4_PAE);
    l1_vmwrite(VMCS_GUEST_CR3, 0x50000);
    // with EPT the PDPTEs are the VMCS's, whatever CR3 points to
    l1_vmwrite(VMCS_GUEST_PDPTE0, 0x51001);
    l1_vmwrite(VMCS_GUEST_PDPTE1, 0);
    l1_vmwrite(VMCS_GUEST_PDPTE2, 0);
    l1_vmwrite(VMCS_GUEST_PDPTE3, 0);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(*(uint64_t *)l2_memory(0x10000), 0x111);
    assert_int_equal(*(uint64_t *)l2_memory(0x210008), 0x222);
    assert_int_equal(l1_vmread(VMCS_GUEST_CR3), 0x52000);
    assert_int_equal(l1_vmread(VMCS_GUEST_PDPTE0), 0x53001); // loaded by MOV to CR3, saved by the exit
    l1_vmwrite(VMCS_GUEST_PDPTE0, 0x51001);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(*(uint64_t *)l2_memory(0x10010), 0x333);
}

static void bad_pdptes_fail_the_entry(void)
{
    L2_PROGRAM(l2, VMCALL);
    prepare_unpaged(&l2);
    build_pae_tables(0x50000, 0);
    l1_vmwrite(VMCS_GUEST_CR0, CR0_PROTECTED | CR0_PG);
    l1_vmwrite(VMCS_GUEST_CR4, CR4_VMXE | CR4_PAE);
    l1_vmwrite(VMCS_GUEST_CR3, 0x50000);
    l1_vmwrite(VMCS_GUEST_PDPTE0, 0x51001);
    l1_vmwrite(VMCS_GUEST_PDPTE1, 0x51001 | 1 << 5);
    l1_vmwrite(VMCS_GUEST_PDPTE2, 0);
    l1_vmwrite(VMCS_GUEST_PDPTE3, 0);
    l1_vmlaunch();
    expect_entry_failure(33, 2);
    l1_vmwrite(VMCS_GUEST_PDPTE1, 0x51000 | 1 << 5); // not present
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

static void pae_without_ept_reads_l1s_memory(void)
{
    L2_PROGRAM(l2, WRITE(0x20000, 0x6666), VMCALL);
    l2.without_ept = true;
    l1_prepare(&l2);
    leave_long_mode();
    // directory entry 0 leads to L2's RAM
    uint64_t pdpte[4] = {(L2_RAM + 0x51000) | 1, 0, 0, 0}, entry = L2_RAM | 0x83;
    memcpy(l2_memory(0x50000), pdpte, sizeof(pdpte));
    memset(l2_memory(0x51000), 0, PAGE_SIZE);
    memcpy(l2_memory(0x51000), &entry, 8);
    l1_vmwrite(VMCS_GUEST_CR0, CR0_PROTECTED | CR0_PG);
    l1_vmwrite(VMCS_GUEST_CR4, CR4_VMXE | CR4_PAE);
    l1_vmwrite(VMCS_GUEST_CR3, L2_RAM + 0x50000);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(*(uint64_t *)l2_memory(0x20000), 0x6666);
    pdpte[0] |= 1 << 6;
    memcpy(l2_memory(0x50000), pdpte, sizeof(pdpte));
    l1_vmresume();
    expect_entry_failure(33, 2);
}

static void compatibility_mode(void)
{
    L2_PROGRAM(l2, TO_COMPATIBILITY_MODE, CPUID(1), OUT(0x60, 1), VMCALL);
    l1_prepare(&l2);
    l1_vmlaunch();
    expect_exit_length(EXIT_CPUID, 2);
    assert_int_equal(l1_vmread(VMCS_GUEST_CS_ACCESS_RIGHTS), 0xc09b);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void the_base_of_cs_is_ignored_in_64_bit_mode(void)
{
    L2_PROGRAM(l2, UD2);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_GUEST_CS_BASE, 0x40004000);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmlaunch();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), 0xe006); // in the handler of #UD
}

// What a boot loader does: PAE, LME, then paging on. The entry control follows the mode.
static void l2_enters_long_mode(void)
{
    L2_PROGRAM(l2, MOV_TO_CR(4, CR4_PAE | CR4_VMXE), MOV_TO_CR(3, 0x1000),
               WRMSR(MSR_IA32_EFER, EFER_LME | EFER_NXE), MOV_TO_CR(0, CR0_PROTECTED | CR0_PG),
               RDMSR(MSR_IA32_EFER), VMCALL, VMCALL);
    prepare_unpaged(&l2);
    l1_vmlaunch();
    uint64_t rax = l1_gpr(GPR_RAX);
    expect_exit(EXIT_VMCALL);
    assert_int_equal(rax, EFER_LME | EFER_LMA | EFER_NXE);
    assert_int_equal(l1_vmread(VMCS_GUEST_IA32_EFER), EFER_LME | EFER_LMA | EFER_NXE);
    assert_int_equal(l1_vmread(VMCS_VM_ENTRY_CONTROLS) & ENTRY_IA32E_MODE_GUEST, ENTRY_IA32E_MODE_GUEST);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void l2_leaves_long_mode(void)
{
    L2_PROGRAM(l2, TO_COMPATIBILITY_MODE, MOV_TO_CR(0, CR0_PROTECTED), VMCALL, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_UNRESTRICTED_GUEST);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_vmread(VMCS_GUEST_IA32_EFER) & EFER_LMA, 0);
    assert_int_equal(l1_vmread(VMCS_VM_ENTRY_CONTROLS) & ENTRY_IA32E_MODE_GUEST, 0);
    assert_int_equal(l1_vmread(VMCS_GUEST_CR0), CR0_PROTECTED);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void user_mode_of_l2(void)
{
    L2_PROGRAM(l2, SET_CPL(3), READ(GPR_RBX, 0x20000), HLT, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI); // #GP comes before the exit for HLT
    assert_int_equal(l1_vmread(VMCS_GUEST_SS_ACCESS_RIGHTS) & 0x60, 0x60);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code + 12);
    l1_vmresume();
    expect_exit(EXIT_VMCALL); // from any privilege level
}

static const struct CMUnitTest tests[] = {
    BOTH(real_address_mode),
    BOTH_WITH(real_address_mode, ", sparse processor", .processor = &processor_sparse),
    BOTH(an_interrupt_in_real_address_mode),
    BOTH(protected_mode_without_paging),
    BOTH(thirty_two_bit_paging),
    BOTH(pae_paging),
    BOTH_WITH(pae_paging, ", moving", .cpu_count = 2, .move_one_in = 2),
    BOTH(bad_pdptes_fail_the_entry),
    BOTH(pae_without_ept_reads_l1s_memory),
    BOTH(compatibility_mode),
    BOTH(the_base_of_cs_is_ignored_in_64_bit_mode),
    BOTH(l2_enters_long_mode),
    BOTH(l2_leaves_long_mode),
    BOTH(user_mode_of_l2),
};

int main(void)
{
    return cmocka_run_group_tests_name("modes", tests, NULL, NULL);
}
