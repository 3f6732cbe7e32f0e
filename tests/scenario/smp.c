// SPDX-License-Identifier: MIT
// L1 with two virtual processors: a VMCS that goes from one to the other, and an L2 with a virtual processor
// on each. Manual: Software Use of the VMCS and Related Structures; Operations that Invalidate Cached
// Mappings.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

// What is the host state of one processor only.
static void write_own_host_state(void)
{
    l1_vmwrite(VMCS_HOST_TR_BASE, L1_TSS + 0x100 * (uint64_t)l1_vcpu());
    l1_vmwrite(VMCS_HOST_RSP, L1_HOST_STACK + 0x1000 * (uint64_t)(l1_vcpu() + 1));
}

// VMCLEAR on the one, VMPTRLD on the other: what L1 wrote and what L2 left are there, in every kind of field.
static void a_vmcs_goes_to_another_processor(void)
{
    L2_PROGRAM(l2, WRMSR(MSR_FS_BASE, 0x99000), CPUID(1), CPUID(2), CPUID(3), CPUID(4), CPUID(5), CPUID(6));
    l1_use_vcpu(1);
    l1_enter_vmx_operation();
    l1_use_vcpu(0);
    l1_prepare(&l2);
    const uint64_t region = VMCS_A;
    l1_vmwrite(VMCS_GUEST_GS_BASE, 0x1234000);
    l1_vmwrite(VMCS_CR3_TARGET_2, 0x77000);
    for (unsigned i = 0; i < 6; i++) {
        l1_vmlaunch();
        assert_int_equal(l1_gpr(GPR_RAX), i + 1); // L2's, in the registers of this processor
        expect_exit(EXIT_CPUID);
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 2 * (i + 1));
        l1_vmwrite(VMCS_GUEST_GS_BASE, 0x1234000 + 0x1000 * (i + 1));
        l1_skip_instruction();
        l1_vmclear(region);
        l1_use_vcpu(1 - l1_vcpu());
        uint64_t value;
        expect_fail_invalid(try_vmread(VMCS_GUEST_RIP, &value)); // there is none here yet
        l1_vmptrld(region);
        expect_fail_valid(try_vmresume(), 5);
        assert_int_equal(l1_vmread(VMCS_GUEST_GS_BASE), 0x1234000 + 0x1000 * (i + 1));
        assert_int_equal(l1_vmread(VMCS_GUEST_FS_BASE), 0x99000); // L2 wrote it
        assert_int_equal(l1_vmread(VMCS_CR3_TARGET_2), 0x77000);
        write_own_host_state();
    }
}

// Two virtual processors of one L2, under one EPT: what the one writes the other reads, and when L1 takes a
// page away, both lose it, each by an INVEPT on its processor.
static void an_l2_has_two_processors(void)
{
    L2_PROGRAM(first, WRITE(0x30000, 0x1111), VMCALL, READ(GPR_RBX, 0x30000), VMCALL);
    L2_PROGRAM(second, READ(GPR_RBX, 0x30000), VMCALL, WRITE(0x30000, 0x2222), VMCALL);
    l1_prepare(&first);
    l1_vmlaunch();
    l1_use_vcpu(1);
    second.eptp = first.eptp;
    l1_prepare(&second);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RBX), 0x1111);
    expect_exit(EXIT_VMCALL);
    l1_resume_behind();
    expect_exit(EXIT_VMCALL);
    l1_use_vcpu(0);
    l1_resume_behind();
    assert_int_equal(l1_gpr(GPR_RBX), 0x2222);
    expect_exit(EXIT_VMCALL);
    uint64_t *entry = l1_ept_entry(first.eptp, 0x30000, 1);
    *entry = 0;
    for (unsigned vcpu = 0; vcpu < 2; vcpu++) {
        l1_use_vcpu(vcpu);
        l1_invept(1, first.eptp);
        l1_resume_at(vcpu ? second.code : first.code);
        expect_exit(EXIT_EPT_VIOLATION);
        assert_int_equal(l1_vmread(VMCS_GUEST_PHYSICAL_ADDRESS), 0x30000);
    }
}

#define TWO .vcpu_count = 2, .cpu_count = 2

static const struct CMUnitTest tests[] = {
    BOTH_WITH(a_vmcs_goes_to_another_processor, "", TWO),
    BOTH_WITH(a_vmcs_goes_to_another_processor, ", without VMCS shadowing", TWO,
              .without_vmcs_shadowing = true),
    BOTH_WITH(an_l2_has_two_processors, "", TWO),
};

int main(void)
{
    return cmocka_run_group_tests_name("smp", tests, NULL, NULL);
}
