// SPDX-License-Identifier: MIT
// Ports and MSRs of L2: which accesses exit, by L1's controls and bitmaps and by what L0 keeps for itself.
// Manual: I/O-Bitmap Addresses; MSR-Bitmap Address; Instructions That Cause VM Exits Conditionally.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void set_bit(uint64_t bitmap, unsigned bit)
{
    uint8_t *byte = (uint8_t *)l1_memory(bitmap) + bit / 8;
    *byte = (uint8_t)(*byte | 1u << (bit % 8));
}

// --- I/O

static void io_does_not_exit_unless_asked(void)
{
    L2_PROGRAM(l2, OUT(0x60, 0x5a), IN(0x60), VMCALL);
    l1_prepare(&l2);
    l1_vmlaunch();
    uint64_t rax = l1_gpr(GPR_RAX);
    expect_exit(EXIT_VMCALL);
    assert_int_equal(rax & 0xff, 0x5a);
}

static void unconditional_io_exiting(void)
{
    L2_PROGRAM(l2, OUT(0x60, 1), IN_SIZE(0xffff, 4), OUTS(0x70, 0x20000), REP_OUTS(0x71, 0x20010),
               INS(0x72, 0x20020));
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_UNCONDITIONAL_IO_EXITING);
    l1_vmlaunch();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, 0x600000);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 1);
    l1_resume_behind();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, 0xffff0000 | 1 << 3 | 3);
    l1_resume_behind();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, 0x700000 | 1 << 4);
    assert_int_equal(l1_vmread(VMCS_GUEST_LINEAR_ADDRESS), 0x20000);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_INFO) & (7u << 7 | 7u << 15), 2u << 7 | 3u << 15);
    l1_resume_behind();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, 0x710000 | 1 << 4 | 1 << 5);
    l1_resume_behind();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, 0x720000 | 1 << 4 | 1 << 3);
    assert_int_equal(l1_vmread(VMCS_GUEST_LINEAR_ADDRESS), 0x20020);
}

static void io_bitmaps_choose_ports(void)
{
    L2_PROGRAM(l2, OUT(0x60, 1), OUT(0x61, 2), OUT_SIZE(0x5e, 3, 4), OUT(0x8001, 4), IN(0x7fff),
               OUT(0x8000, 5), IN_SIZE(0x7fff, 2), VMCALL);
    l1_prepare(&l2);
    memset(l1_memory(IO_BITMAPS), 0, 0x2000);
    set_bit(IO_BITMAPS, 0x61);
    set_bit(IO_BITMAPS + 0x1000, 0);
    l1_vmwrite(VMCS_IO_BITMAP_A, IO_BITMAPS);
    l1_vmwrite(VMCS_IO_BITMAP_B, IO_BITMAPS + 0x1000);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS);
    l1_vmlaunch();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, 0x610000);
    l1_resume_behind();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, 0x5e0000 | 3); // 0x5e to 0x61
    l1_resume_behind();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, 0x80000000);
    l1_resume_behind();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, 0x7fff0000 | 1 << 3 | 1);
    l1_resume_behind();
    expect_exit(EXIT_VMCALL);
}

static void an_io_bitmap_may_change_between_entries(void)
{
    L2_PROGRAM(l2, OUT(0x60, 1), VMCALL, OUT(0x60, 2), VMCALL, OUT(0x60, 3), VMCALL);
    l1_prepare(&l2);
    memset(l1_memory(IO_BITMAPS), 0, 0x2000);
    l1_vmwrite(VMCS_IO_BITMAP_A, IO_BITMAPS);
    l1_vmwrite(VMCS_IO_BITMAP_B, IO_BITMAPS + 0x1000);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    set_bit(IO_BITMAPS, 0x60);
    l1_resume_behind();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, 0x600000);
    l1_resume_behind();
    expect_exit(EXIT_VMCALL);
    memset(l1_memory(IO_BITMAPS), 0, 0x1000);
    l1_resume_behind();
    expect_exit(EXIT_VMCALL);
}

// A port that L0 keeps for itself stays L0's when L1 gives all ports to L2 (CVE-2017-1000407's class).
static void l0_keeps_its_port(void)
{
    L2_PROGRAM(l2, IN(0x510), VMCALL);
    l1_prepare(&l2);
    l1_vmlaunch();
    uint64_t rax = l1_gpr(GPR_RAX);
    expect_exit(EXIT_VMCALL);
    assert_int_equal(rax & 0xff, 0x42);
}

// --- MSRs

static void msr_accesses_exit_without_a_bitmap(void)
{
    L2_PROGRAM(l2, RDMSR(MSR_IA32_PAT), WRMSR(MSR_IA32_SYSENTER_ESP, 0x1122334455667788 & 0x7fffffffffff));
    l1_prepare(&l2);
    l1_clear(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_MSR_BITMAPS);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RCX), MSR_IA32_PAT);
    expect_exit_length(EXIT_RDMSR, 2);
    l1_resume_behind();
    expect_exit_length(EXIT_WRMSR, 2);
}

static void msr_bitmap_chooses_msrs(void)
{
    L2_PROGRAM(l2, RDMSR(MSR_IA32_SYSENTER_CS), WRMSR(MSR_IA32_SYSENTER_CS, 8), RDMSR(0xc0000082),
               WRMSR(0xc0000082, 0x1000), RDMSR(0x40000000), VMCALL);
    l1_prepare(&l2);
    set_bit(MSR_BITMAP + 2048, MSR_IA32_SYSENTER_CS); // writes
    set_bit(MSR_BITMAP + 1024, 0x82);                 // reads of 0xc0000082
    l1_vmlaunch();
    expect_exit(EXIT_WRMSR);
    l1_resume_behind();
    expect_exit(EXIT_RDMSR);
    l1_resume_behind();
    expect_exit(EXIT_RDMSR); // outside the bitmap's ranges
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 8);
    l1_resume_behind();
    expect_exit(EXIT_VMCALL);
}

// Neighbours in a bitmap, one closed after it was open: opening another must not open it again.
static void an_msr_bitmap_may_change_between_entries(void)
{
    L2_PROGRAM(l2, WRMSR(0xc0000082, 0x1000), WRMSR(0xc0000083, 0x1000), VMCALL, WRMSR(0xc0000084, 0x1000),
               WRMSR(0xc0000082, 0x2000), VMCALL);
    l1_prepare(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    set_bit(MSR_BITMAP + 3072, 0x82); // writes of 0xc0000082
    l1_resume_behind();
    expect_exit(EXIT_WRMSR);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 9);
    memset(l1_memory(MSR_BITMAP), 0, PAGE_SIZE);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    l1_clear(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_MSR_BITMAPS); // then all of them exit
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume();
    expect_exit(EXIT_WRMSR);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_MSR_BITMAPS);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void an_io_bitmap_closes_one_of_two_neighbours(void)
{
    L2_PROGRAM(l2, OUT(0x60, 1), OUT(0x61, 1), VMCALL, OUT(0x62, 1), OUT(0x60, 1), VMCALL);
    l1_prepare(&l2);
    memset(l1_memory(IO_BITMAPS), 0, 0x2000);
    l1_vmwrite(VMCS_IO_BITMAP_A, IO_BITMAPS);
    l1_vmwrite(VMCS_IO_BITMAP_B, IO_BITMAPS + 0x1000);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    set_bit(IO_BITMAPS, 0x60);
    l1_resume_behind();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, 0x600000);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 6);
}

// Two guests, each with a bitmap of its own.
static void each_vmcs_has_its_msr_bitmap(void)
{
    L2_PROGRAM(first, WRMSR(0xc0000082, 0x1000), VMCALL);
    L2_PROGRAM(second, WRMSR(0xc0000082, 0x1000), VMCALL);
    l1_prepare(&first);
    second.eptp = first.eptp;
    l1_prepare_vmcs(VMCS_B, &second);
    uint64_t bitmap = l1_new_page();
    set_bit(bitmap + 3072, 0x82);
    l1_vmwrite(VMCS_MSR_BITMAP, bitmap);
    for (unsigned turn = 0; turn < 3; turn++) {
        l1_vmptrld(VMCS_A);
        l1_vmwrite(VMCS_GUEST_RIP, first.code);
        if (turn == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_exit(EXIT_VMCALL);
        l1_vmptrld(VMCS_B);
        if (turn == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_exit(EXIT_WRMSR);
    }
}

// Ports all over the bitmaps, several times round: more than anybody remembers.
static void many_ports(void)
{
    enum { COUNT = 40 };
    static struct op ops[2 * COUNT + 1];
    struct l2 l2 = {.op = ops, .count = 2 * COUNT + 1};
    for (unsigned i = 0; i < COUNT; i++) {
        ops[i] = OUT(0x600 + i * 0x640, i);
        ops[COUNT + i] = IN(0x600 + i * 0x640);
    }
    ops[2 * COUNT] = VMCALL;
    l2_load(&l2);
    l1_prepare(&l2);
    memset(l1_memory(IO_BITMAPS), 0, 0x2000);
    l1_vmwrite(VMCS_IO_BITMAP_A, IO_BITMAPS);
    l1_vmwrite(VMCS_IO_BITMAP_B, IO_BITMAPS + 0x1000);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    set_bit(IO_BITMAPS, 0x600 + 7 * 0x640);
    set_bit(IO_BITMAPS + 0x1000, 0x600 + 30 * 0x640 - 0x8000);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, (uint64_t)(0x600 + 7 * 0x640) << 16);
    l1_resume_behind();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, (uint64_t)(0x600 + 30 * 0x640) << 16);
    l1_resume_behind();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, (uint64_t)(0x600 + 7 * 0x640) << 16 | 8);
}

static void msrs_that_do_not_exit_are_l2s(void)
{
    L2_PROGRAM(l2, WRMSR(MSR_IA32_SYSENTER_EIP, 0x123000), RDMSR(MSR_IA32_SYSENTER_EIP), VMCALL, RDMSR(0x999),
               VMCALL);
    l1_prepare(&l2);
    l1_wrmsr(MSR_IA32_SYSENTER_EIP, 0x456000);
    l1_vmwrite(VMCS_HOST_SYSENTER_EIP, 0x456000);
    l1_set(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    l1_vmlaunch();
    uint64_t rax = l1_gpr(GPR_RAX);
    expect_exit(EXIT_VMCALL);
    assert_int_equal((uint32_t)rax, 0x123000);
    assert_int_equal(l1_rdmsr(MSR_IA32_SYSENTER_EIP), 0x456000);
    l1_resume_behind();
    expect_exit(EXIT_EXCEPTION_OR_NMI); // #GP: no such MSR
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000b0d);
}

// What L1 does not intercept and L0 does: L2 sees L1's VMX capabilities, and cannot write them.
static void vmx_msrs_through_to_l2(void)
{
    L2_PROGRAM(l2, RDMSR(MSR_IA32_FEATURE_CONTROL), VMCALL, RDMSR(MSR_IA32_VMX_BASIC), VMCALL,
               WRMSR(MSR_IA32_VMX_BASIC, 1), VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    l1_vmlaunch();
    uint64_t rax = l1_gpr(GPR_RAX);
    expect_exit(EXIT_VMCALL);
    assert_int_equal(rax, 5);
    l1_resume_behind();
    rax = l1_gpr(GPR_RAX);
    expect_exit(EXIT_VMCALL);
    assert_int_equal(rax, (uint32_t)world_l1_processor()->vmx.msr[0]);
    l1_resume_behind();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
}

static const struct CMUnitTest tests[] = {
    BOTH(io_does_not_exit_unless_asked),
    BOTH(unconditional_io_exiting),
    BOTH(io_bitmaps_choose_ports),
    BOTH(an_io_bitmap_may_change_between_entries),
    NESTED(l0_keeps_its_port, .cpu_count = 1),
    BOTH(msr_accesses_exit_without_a_bitmap),
    BOTH(many_ports),
    BOTH(msr_bitmap_chooses_msrs),
    BOTH(an_msr_bitmap_may_change_between_entries),
    BOTH(an_io_bitmap_closes_one_of_two_neighbours),
    BOTH(each_vmcs_has_its_msr_bitmap),
    BOTH(msrs_that_do_not_exit_are_l2s),
    BOTH(vmx_msrs_through_to_l2),
};

int main(void)
{
    return cmocka_run_group_tests_name("bitmaps", tests, NULL, NULL);
}
