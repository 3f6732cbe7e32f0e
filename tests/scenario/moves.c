// SPDX-License-Identifier: MIT
// A vcpu moves between logical processors whose VMCS caches know nothing of each other, at every moment that
// an exit gives L0; what L1 and L2 see must be what the bare machine shows them. (The model stops at once on
// a VMCS that is active on two processors.)
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void exits_and_resumes(void)
{
    L2_PROGRAM(l2, CPUID(1), SET(GPR_RBX, 5), WRITE(0x20000, 1), VMCALL, WRMSR(0xc0000082, 0x7777), NOP,
               VMCALL, WRITE(0x21000, 2), READ(GPR_RSI, 0x20000), VMCALL);
    l1_prepare(&l2);
    l1_vmlaunch();
    for (unsigned i = 0; i < 3; i++) {
        l1_skip_instruction();
        l1_vmresume();
        expect_exit(EXIT_VMCALL);
    }
    assert_int_equal(l1_gpr(GPR_RSI), 1);
}

static void two_vmcss(void)
{
    L2_PROGRAM(first, CPUID(1), CPUID(2), CPUID(3), CPUID(4), CPUID(5), CPUID(6), CPUID(7), CPUID(8));
    L2_PROGRAM(second, VMCALL, VMCALL, VMCALL, VMCALL, VMCALL, VMCALL, VMCALL, VMCALL);
    l1_prepare(&first);
    l1_vmlaunch();
    second.eptp = first.eptp;
    l1_prepare_vmcs(VMCS_B, &second);
    l1_vmlaunch();
    for (unsigned i = 1; i < 8; i++) {
        l1_vmptrld(VMCS_A);
        l1_skip_instruction();
        l1_vmresume();
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), first.code + 2 * i);
        if (i == 4)
            l1_vmclear(VMCS_B);
        l1_vmptrld(VMCS_B);
        l1_skip_instruction();
        if (i == 4)
            l1_vmlaunch();
        else
            l1_vmresume();
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), second.code + 3 * i);
    }
}

static void every_kind_of_field_keeps_its_value(void)
{
    static const struct {
        uint32_t encoding;
        uint64_t value;
    } written[] = {
        {VMCS_GUEST_FS_BASE, 0x1234000},      {VMCS_GUEST_GDTR_LIMIT, 0x3f},
        {VMCS_GUEST_SYSENTER_EIP, 0x9999000}, {VMCS_GUEST_DR7, 0x455},
        {VMCS_CR3_TARGET_1, 0x4321},          {VMCS_EXCEPTION_BITMAP, 0x40},
        {VMCS_HOST_GS_BASE, 0x7000000},       {VMCS_CR4_READ_SHADOW, CR4_PAE},
        {VMCS_TSC_OFFSET, 0x123456789},       {VMCS_GUEST_LDTR_SELECTOR, 0},
        {VMCS_GUEST_TR_SELECTOR, 0x18},       {VMCS_HOST_SYSENTER_ESP, 0x4000},
    };
    L2_PROGRAM(l2, CPUID(1));
    l1_prepare(&l2);
    for (unsigned i = 0; i < sizeof(written) / sizeof(written[0]); i++)
        l1_vmwrite(written[i].encoding, written[i].value);
    l1_vmlaunch();
    for (unsigned turn = 0; turn < 6; turn++) {
        for (unsigned i = 0; i < sizeof(written) / sizeof(written[0]); i++)
            assert_int_equal(l1_vmread(written[i].encoding), written[i].value);
        l1_vmresume();
        expect_exit(EXIT_CPUID);
    }
}

// L1's VMLAUNCH succeeded, and before L2 runs its first instruction the vcpu is taken away: the pending entry
// happens on the other processor.
static void a_pending_entry_survives_a_move(void)
{
    L2_PROGRAM(l2, CPUID(1), CPUID(2));
    l1_prepare(&l2);
    l0_move_to(1); // at the next exit, which is the one of VMLAUNCH
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000306);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l0_move_to(0);
    l1_vmresume(); // with an event
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), 0xe006);
}

static void events_and_failed_entries(void)
{
    L2_PROGRAM(l2, UD2, CPUID(1));
    l1_prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_UD);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmlaunch();
    for (unsigned i = 0; i < 5; i++) {
        expect_exit(EXIT_EXCEPTION_OR_NMI);
        l1_vmwrite(VMCS_GUEST_RFLAGS, 0);
        l1_vmresume();
        expect_entry_failure(33, 0);
        l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
        l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000b0d);
        l1_vmwrite(VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, i);
        l1_vmresume();
        expect_exit(EXIT_HLT);
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), 0xe00d);
        uint64_t error_code;
        memcpy(&error_code, l2_memory(l1_vmread(VMCS_GUEST_RSP)), 8);
        assert_int_equal(error_code, i);
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        l1_vmwrite(VMCS_GUEST_RSP, 0x9000);
        l1_vmresume();
    }
}

static void vmx_operation_comes_and_goes(void)
{
    L2_PROGRAM(l2, CPUID(1));
    l1_prepare(&l2);
    for (unsigned i = 0; i < 5; i++) {
        l1_vmlaunch();
        l1_vmresume();
        l1_vmclear(VMCS_A);
        l1_vmxoff();
        l1_vmxon(VMXON_REGION);
        expect_fail_invalid(try_vmlaunch());
        l1_vmptrld(VMCS_A);
    }
}

// L1 frees a guest page while translations of it may be cached on any logical processor that L2 ran on.
static void translations_do_not_survive_l1s_invalidation_on_another_processor(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x30000), VMCALL);
    l1_prepare(&l2);
    uint64_t first = l1_new_page(), second = l1_new_page();
    memset(l1_memory(first), 0x11, PAGE_SIZE);
    memset(l1_memory(second), 0x22, PAGE_SIZE);
    l1_ept_map(l2.eptp, 0x30000, first, 0x1000, 0x1000, 7);
    l1_vmlaunch();
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(l1_gpr(GPR_RBX) & 0xff, i % 2 ? 0x22 : 0x11);
        l1_ept_map(l2.eptp, 0x30000, i % 2 ? first : second, 0x1000, 0x1000, 7);
        l1_invept(1, l2.eptp);
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        l1_vmresume();
        expect_exit(EXIT_VMCALL);
    }
}

// The same with L2's own page tables, and VPIDs: L2's MOV to CR3 is an invalidation where it executes, and
// what other logical processors hold of that VPID must not come back with the vcpu.
static void translations_do_not_come_back_with_the_processor(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x30000), VMCALL, WRITE(0x4180, 0x31007), INVLPG(0x30000),
               READ(GPR_RSI, 0x30000), VMCALL, READ(GPR_RDI, 0x30000), VMCALL);
    l2.vpid = 7;
    l1_prepare(&l2);
    memset(l2_memory(0x30000), 0x33, 8);
    memset(l2_memory(0x31000), 0x44, 8);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RBX) & 0xff, 0x33);
    l0_move_to(1);
    l1_skip_instruction();
    l1_vmresume();
    assert_int_equal(l1_gpr(GPR_RSI) & 0xff, 0x44);
    l0_move_to(0);
    l1_skip_instruction();
    l1_vmresume();
    assert_int_equal(l1_gpr(GPR_RDI) & 0xff, 0x44);
}

// ... and without EPT12, where an invalidation of ept02 would not help.
static void translations_without_ept_do_not_come_back(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x30000), VMCALL, WRITE(0x3f3180, (L2_RAM + 0x31000) | 7), INVLPG(0x30000),
               READ(GPR_RSI, 0x30000), VMCALL, READ(GPR_RDI, 0x30000), VMCALL);
    l2.vpid = 7;
    l2.without_ept = true;
    l1_prepare(&l2);
    memset(l2_memory(0x30000), 0x33, 8);
    memset(l2_memory(0x31000), 0x44, 8);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RBX) & 0xff, 0x33);
    l0_move_to(1);
    l1_skip_instruction();
    l1_vmresume();
    assert_int_equal(l1_gpr(GPR_RSI) & 0xff, 0x44);
    l0_move_to(0);
    l1_skip_instruction();
    l1_vmresume();
    assert_int_equal(l1_gpr(GPR_RDI) & 0xff, 0x44);
}

// The same for L1's own translations (VPID 1): L0 must not bring L1 back to stale ones.
static void l1s_own_translations_do_not_come_back(void)
{
    uint64_t table = L1_PAGE_TABLES + 0x2000, entry = 0x600000 | 0x87;
    memset(l1_memory(0x600000), 0x55, 8);
    memset(l1_memory(0x800000), 0x66, 8);
    memcpy((uint8_t *)l1_memory(table) + 8 * 6, &entry, 8); // linear 0xc00000
    l1_run(INVLPG(0xc00000));
    l1_run(READ(GPR_RAX, 0xc00000));
    assert_int_equal(l1_gpr(GPR_RAX) & 0xff, 0x55);
    l0_move_to(1);
    l1_run(CPUID(0));
    l1_run(WRITE((int64_t)table + 8 * 6, 0x800087));
    l1_run(INVLPG(0xc00000));
    l1_run(READ(GPR_RAX, 0xc00000));
    assert_int_equal(l1_gpr(GPR_RAX) & 0xff, 0x66);
    l0_move_to(0);
    l1_run(CPUID(0));
    l1_run(READ(GPR_RAX, 0xc00000));
    assert_int_equal(l1_gpr(GPR_RAX) & 0xff, 0x66);
}

#define MOVING   .cpu_count = 3, .move_one_in = 2
#define RESTLESS .cpu_count = 2, .move_one_in = 1

static const struct CMUnitTest tests[] = {
    BOTH_WITH(exits_and_resumes, ", moving", MOVING),
    BOTH_WITH(exits_and_resumes, ", moving, another seed", MOVING, .seed = 99),
    BOTH_WITH(exits_and_resumes, ", at every exit", RESTLESS),
    BOTH_WITH(exits_and_resumes, ", without VPID", MOVING, .processor = &processor_no_vpid),
    BOTH_WITH(exits_and_resumes, ", sparse processor", MOVING, .processor = &processor_sparse),
    BOTH_WITH(two_vmcss, ", moving", MOVING),
    BOTH_WITH(two_vmcss, ", at every exit", RESTLESS),
    BOTH_WITH(every_kind_of_field_keeps_its_value, ", moving", MOVING),
    BOTH_WITH(every_kind_of_field_keeps_its_value, ", at every exit", RESTLESS),
    NESTED(a_pending_entry_survives_a_move, .cpu_count = 2),
    BOTH_WITH(events_and_failed_entries, ", moving", MOVING),
    BOTH_WITH(events_and_failed_entries, ", at every exit", RESTLESS),
    BOTH_WITH(vmx_operation_comes_and_goes, ", moving", MOVING),
    BOTH_WITH(vmx_operation_comes_and_goes, ", at every exit", RESTLESS),
    BOTH_WITH(translations_do_not_survive_l1s_invalidation_on_another_processor, ", moving", MOVING),
    NESTED(translations_do_not_come_back_with_the_processor, .cpu_count = 2),
    NESTED(translations_without_ept_do_not_come_back, .cpu_count = 2),
    NESTED(l1s_own_translations_do_not_come_back, .cpu_count = 2),
};

int main(void)
{
    return cmocka_run_group_tests_name("moves", tests, NULL, NULL);
}
