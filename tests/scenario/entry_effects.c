// SPDX-License-Identifier: MIT
// What a VM entry that does not come about leaves as it was: after a VMfail everything of L1's but RFLAGS and
// the VM-instruction error; after a failed entry every field but the exit reason and the qualification, and
// the launch state; and what of L1's registers the host state replaces, and what not. Manual: VM Entries;
// VM-Entry Failures During or After Loading Guest State.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static uint64_t before[F_COUNT];
static uint64_t gprs[GPR_COUNT];

static bool is_there(unsigned field)
{
    return processor_has_field(world_l1_processor(), vmcs_field_encoding((enum vmcs_field)field));
}

// What nobody has written yet is the processor's to choose, and stays it.
static void remember(void)
{
    for (unsigned i = 0; i < F_COUNT; i++) {
        if (!is_there(i))
            continue;
        uint64_t value;
        try_vmread(vmcs_field_encoding((enum vmcs_field)i), &value);
        l1_set_gpr(GPR_RAX, 0);
        before[i] = value;
    }
    for (unsigned i = 0; i < GPR_COUNT; i++)
        gprs[i] = l1_gpr((enum nvmx_gpr)i);
}

static void expect_unchanged_but(unsigned a, unsigned b)
{
    for (unsigned i = 0; i < F_COUNT; i++) {
        if (!is_there(i) || i == a || i == b)
            continue;
        uint64_t value;
        try_vmread(vmcs_field_encoding((enum vmcs_field)i), &value);
        l1_set_gpr(GPR_RAX, 0);
        if (value != before[i])
            fail_msg("%s was %#llx and is %#llx", vmcs_field_name((enum vmcs_field)i),
                     (unsigned long long)before[i], (unsigned long long)value);
    }
}

static const uint32_t msrs[] = {
    MSR_IA32_EFER,         MSR_IA32_PAT,          MSR_IA32_DEBUGCTL, MSR_IA32_SYSENTER_CS,
    MSR_IA32_SYSENTER_ESP, MSR_IA32_SYSENTER_EIP, MSR_FS_BASE,       MSR_GS_BASE};
#define MSR_COUNT (sizeof(msrs) / sizeof(msrs[0]))

static void vmfail_changes_nothing(uint32_t error, uint32_t encoding, uint64_t wrong)
{
    uint64_t value[MSR_COUNT], right = l1_vmread(encoding);
    l1_vmwrite(encoding, wrong);
    for (unsigned i = 0; i < MSR_COUNT; i++)
        value[i] = l1_rdmsr(msrs[i]);
    remember();
    struct outcome outcome = try_vmlaunch();
    assert_true(outcome.how == COMPLETED && outcome.zf && !outcome.cf);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        assert_int_equal(l1_gpr((enum nvmx_gpr)i), gprs[i]);
    assert_int_equal(l1_rflags() & (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF),
                     RFLAGS_ZF);
    assert_int_equal(l1_vmread(VMCS_VM_INSTRUCTION_ERROR), error);
    expect_unchanged_but(F_VM_INSTRUCTION_ERROR, F_COUNT);
    for (unsigned i = 0; i < MSR_COUNT; i++)
        assert_int_equal(l1_rdmsr(msrs[i]), value[i]);
    l1_vmwrite(encoding, right);
}

static void a_vmfail_changes_nothing_but_rflags_and_the_error(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_wrmsr(MSR_IA32_SYSENTER_CS, 0x77); // not what the host state has
    l1_wrmsr(MSR_FS_BASE, 0x7770000);
    vmfail_changes_nothing(7, VMCS_CR3_TARGET_COUNT, 0x1000);
    vmfail_changes_nothing(7, VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000120);
    vmfail_changes_nothing(8, VMCS_HOST_TR_SELECTOR, 0);
    vmfail_changes_nothing(8, VMCS_HOST_RIP, 1ull << 62);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

// The host state is loaded, RSP and RIP with it; the general-purpose registers are L1's.
static void failure(uint32_t reason, uint64_t qualification, bool launched)
{
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000b0e);
    l1_vmwrite(VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, 2);
    l1_wrmsr(MSR_FS_BASE, 0x7770000);
    remember();
    struct outcome outcome = launched ? try_vmresume() : try_vmlaunch();
    assert_int_equal(outcome.how, EXITED);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        if (i != GPR_RSP)
            assert_int_equal(l1_gpr((enum nvmx_gpr)i), gprs[i]);
    assert_int_equal(l1_gpr(GPR_RSP), before[F_HOST_RSP]);
    expect_entry_failure(reason, qualification);
    expect_unchanged_but(F_EXIT_REASON, F_EXIT_QUALIFICATION);
    assert_int_equal(l1_rdmsr(MSR_FS_BASE), before[F_HOST_FS_BASE]);
    expect_fail_valid(launched ? try_vmlaunch() : try_vmresume(), launched ? 4 : 5);
}

static void failures(bool launched)
{
    l1_vmwrite(VMCS_GUEST_RFLAGS, 0);
    failure(33, 0, launched);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    l1_vmwrite(VMCS_VMCS_LINK_POINTER, 1);
    failure(33, 4, launched);
    l1_vmwrite(VMCS_VMCS_LINK_POINTER, UINT64_MAX);
    // Exit 34 has the number of the entry, and those before it are loaded.
    static const uint64_t list[] = {MSR_IA32_SYSENTER_CS, 0x99, 0xc0000081, 0x1234, MSR_FS_BASE, 0};
    memcpy(l1_memory(MSR_LISTS), list, sizeof(list));
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, MSR_LISTS);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 3);
    failure(34, 3, launched);
    assert_int_equal(l1_rdmsr(0xc0000081), 0x1234);
    assert_int_equal(l1_rdmsr(MSR_IA32_SYSENTER_CS), before[F_HOST_SYSENTER_CS]);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 0);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0);
}

static void a_failed_entry_changes_nothing_but_reason_and_qualification(void)
{
    L2_PROGRAM(l2, CPUID(1), CPUID(2));
    l1_prepare(&l2);
    failures(false);
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    l1_skip_instruction();
    failures(true);
    l1_vmresume();
    expect_exit(EXIT_CPUID);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 2);
}

static const struct CMUnitTest tests[] = {
    BOTH(a_vmfail_changes_nothing_but_rflags_and_the_error),
    BOTH(a_failed_entry_changes_nothing_but_reason_and_qualification),
    BOTH_WITH(a_failed_entry_changes_nothing_but_reason_and_qualification, ", without VMCS shadowing",
              .without_vmcs_shadowing = true),
};

int main(void)
{
    return cmocka_run_group_tests_name("effects of entries that do not come about", tests, NULL, NULL);
}
