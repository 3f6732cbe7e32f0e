// SPDX-License-Identifier: MIT
// Processors that lack something: the controls that they do not have are refused, and the fields that belong
// to them are not there; L1 and L2 run on each of them all the same. Manual: VM-Execution Control Fields (of
// Checks on VMX Controls); appendix VMX Capability Reporting Facility.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const struct {
    uint32_t encoding, plain, with_true;
} words[] = {
    {VMCS_PIN_BASED_CONTROLS, MSR_IA32_VMX_PINBASED_CTLS, MSR_IA32_VMX_TRUE_PINBASED_CTLS},
    {VMCS_PRIMARY_CONTROLS, MSR_IA32_VMX_PROCBASED_CTLS, MSR_IA32_VMX_TRUE_PROCBASED_CTLS},
    {VMCS_SECONDARY_CONTROLS, MSR_IA32_VMX_PROCBASED_CTLS2, MSR_IA32_VMX_PROCBASED_CTLS2},
    {VMCS_VM_EXIT_CONTROLS, MSR_IA32_VMX_EXIT_CTLS, MSR_IA32_VMX_TRUE_EXIT_CTLS},
    {VMCS_VM_ENTRY_CONTROLS, MSR_IA32_VMX_ENTRY_CTLS, MSR_IA32_VMX_TRUE_ENTRY_CTLS},
};

// Each bit that must be 0, and each that must be 1.
static void what_is_not_there_is_refused(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    bool has_true = l1_rdmsr(MSR_IA32_VMX_BASIC) >> 55 & 1;
    for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        uint64_t capability = l1_rdmsr(has_true ? words[i].with_true : words[i].plain);
        uint32_t value = (uint32_t)l1_vmread(words[i].encoding);
        for (uint32_t bit = 0; bit < 32; bit++) {
            bool may = capability >> 32 >> bit & 1, must = capability >> bit & 1;
            if (may && !must)
                continue;
            l1_vmwrite(words[i].encoding, value ^ 1u << bit);
            expect_fail_valid(try_vmlaunch(), 7);
        }
        l1_vmwrite(words[i].encoding, value);
    }
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

static void fields_that_are_not_there(void)
{
    static const uint32_t encodings[] = {
#define FIELD(name, encoding, width, type, exists, entry, exit) encoding,
#include <nvmx/vmcs_fields.def>
#undef FIELD
    };
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    for (unsigned i = 0; i < F_COUNT; i++) {
        uint64_t value;
        if (processor_has_field(world_l1_processor(), encodings[i]))
            continue;
        expect_fail_valid(try_vmread(encodings[i], &value), 12);
        expect_fail_valid(try_vmwrite(encodings[i], 0), 12);
    }
}

static void l2_runs(void)
{
    L2_PROGRAM(l2, WRITE(0x20000, 7), READ(GPR_RBX, 0x20000), CPUID(1), RDMSR(MSR_IA32_PAT),
               MOV_TO_CR(3, 0x1000), INT(0x40), VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    assert_int_equal(l1_gpr(GPR_RBX), 7);
    l1_skip_instruction();
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmresume();
    expect_exit(EXIT_HLT); // in the handler of interrupt 40
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), 0xe040);
}

// GETSEC exits, where CR4.SMXE is 1; else it is #UD. Only the processor has SMX, not what L1 is offered.
static void getsec(void)
{
    L2_PROGRAM(l2, {.kind = OP_GETSEC}, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_UD);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000306);
}

static void getsec_exits(void)
{
    L2_PROGRAM(l2, {.kind = OP_GETSEC}, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_GUEST_CR4, CR4_PAE | CR4_VMXE | CR4_SMXE);
    l1_vmlaunch();
    expect_exit_length(EXIT_GETSEC, 2);
}

#define ON_EACH(function)                                                                                    \
    BOTH_WITH(function, ", rich", .processor = &processor_rich),                                             \
        BOTH_WITH(function, ", without VPID", .processor = &processor_no_vpid),                              \
        BOTH_WITH(function, ", sparse", .processor = &processor_sparse),                                     \
        BOTH_WITH(function, ", without PML", .processor = &processor_without_pml),                           \
        BOTH_WITH(function, ", with SMX", .processor = &processor_smx)
#define BARE_ON_EACH(function)                                                                               \
    BARE(function, .processor = &processor_rich), BARE(function, .processor = &processor_no_vpid),           \
        BARE(function, .processor = &processor_sparse),                                                      \
        BARE(function, .processor = &processor_no_unrestricted_guest),                                       \
        BARE(function, .processor = &processor_without_pml), BARE(function, .processor = &processor_smx)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_EACH(what_is_not_there_is_refused),
        BARE_ON_EACH(what_is_not_there_is_refused),
        ON_EACH(fields_that_are_not_there),
        BARE_ON_EACH(fields_that_are_not_there),
        ON_EACH(l2_runs),
        BARE_ON_EACH(l2_runs),
        BOTH_WITH(getsec, "", .processor = &processor_smx),
        BARE(getsec_exits, .processor = &processor_smx),
    };
    return cmocka_run_group_tests_name("poor processors", tests, NULL, NULL);
}
