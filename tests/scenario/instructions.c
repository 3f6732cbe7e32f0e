// SPDX-License-Identifier: MIT
// The rules of the VMX instructions: who may execute them, and every way that they fail.
// Manual: VMX Instruction Reference; VM Instruction Error Numbers.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define OUTSIDE_MEMORY (1ull << 45) // wider than any processor's physical addresses here

static const struct op all_instructions[] = {
    OP(.kind = OP_VMCALL),
    OP(.kind = OP_VMXOFF),
    OP(.kind = OP_VMCLEAR, AT(L1_SCRATCH)),
    OP(.kind = OP_VMPTRLD, AT(L1_SCRATCH)),
    OP(.kind = OP_VMPTRST, AT(L1_SCRATCH)),
    OP(.kind = OP_VMREAD, .reg = GPR_RAX, .reg2 = GPR_RDX, .a = VMCS_GUEST_RIP),
    OP(.kind = OP_VMWRITE, .reg = GPR_RAX, .reg2 = GPR_RDX, .a = VMCS_GUEST_RIP),
    OP(.kind = OP_VMLAUNCH),
    OP(.kind = OP_VMRESUME),
    OP(.kind = OP_INVEPT, .reg2 = GPR_RDX, .a = 2, AT(L1_SCRATCH)),
    OP(.kind = OP_INVVPID, .reg2 = GPR_RDX, .a = 2, AT(L1_SCRATCH)),
};
#define COUNT (sizeof(all_instructions) / sizeof(all_instructions[0]))

static void undefined_outside_vmx_operation(void)
{
    for (unsigned i = 0; i < COUNT; i++)
        expect_exception(l1_execute(all_instructions[i]), VECTOR_UD);
    expect_exception(try_vmxon(VMXON_REGION), VECTOR_UD); // CR4.VMXE is 0
}

static void privileged(void)
{
    l1_enter_vmx_operation();
    for (unsigned i = 0; i < COUNT; i++) {
        l1_run(SET_CPL(3));
        expect_exception_with_code(l1_execute(all_instructions[i]), VECTOR_GP, 0);
        expect_exception_with_code(l1_execute(HLT), VECTOR_GP, 0); // the handler returned to CPL 3
        l1_set_gpr(GPR_RAX, 0);
        l1_run(SET_CPL(0));
    }
    l1_run(SET_CPL(3));
    expect_exception_with_code(try_vmxon(VMXON_REGION), VECTOR_GP, 0);
    l1_run(SET_CPL(0));
    assert_int_equal(l1_vmptrst(), UINT64_MAX);
}

static void undefined_in_compatibility_mode(void)
{
    l1_enter_vmx_operation();
    for (unsigned i = 0; i < COUNT; i++) {
        l1_run(TO_COMPATIBILITY_MODE);
        struct op op = all_instructions[i];
        if (op.in_memory)
            op.memory.address_size = 32;
        expect_exception(l1_execute(op), VECTOR_UD); // the handler returns to 64-bit mode
    }
}

static void memory_operands_cannot_be_registers(void)
{
    l1_enter_vmx_operation();
    for (unsigned i = 0; i < COUNT; i++) {
        struct op op = all_instructions[i];
        if (!op.in_memory)
            continue;
        op.in_memory = false;
        op.reg = GPR_RAX;
        expect_exception(l1_execute(op), VECTOR_UD);
    }
}

static void vmxon_wants_an_aligned_page_with_the_revision(void)
{
    l1_run(MOV_TO_CR(4, CR4_PAE | CR4_VMXE));
    l1_make_region(VMXON_REGION);
    expect_fail_invalid(try_vmxon(VMXON_REGION + 8));
    expect_fail_invalid(try_vmxon(OUTSIDE_MEMORY));
    uint32_t wrong = 0x12345678;
    memcpy(l1_memory(VMCS_B), &wrong, 4);
    expect_fail_invalid(try_vmxon(VMCS_B));
    memcpy(&wrong, l1_memory(VMXON_REGION), 4);
    wrong |= 1u << 31; // that says "shadow VMCS"
    memcpy(l1_memory(VMCS_B), &wrong, 4);
    expect_fail_invalid(try_vmxon(VMCS_B));
    l1_vmxon(VMXON_REGION);
}

static void vmxon_in_vmx_operation_fails(void)
{
    l1_enter_vmx_operation();
    expect_fail_invalid(try_vmxon(VMXON_REGION)); // there is no VMCS to say 15 in
    l1_make_region(VMCS_A);
    l1_vmclear(VMCS_A);
    l1_vmptrld(VMCS_A);
    expect_fail_valid(try_vmxon(VMXON_REGION), 15);
    expect_fail_valid(try_vmxon(VMCS_B), 15); // whatever the operand
}

static void vmx_operation_fixes_bits_of_cr4_and_cr0(void)
{
    l1_enter_vmx_operation();
    expect_exception_with_code(l1_execute(MOV_TO_CR(4, CR4_PAE)), VECTOR_GP, 0);
    l1_run(MOV_FROM_CR(GPR_RAX, 0));
    uint64_t cr0 = l1_gpr(GPR_RAX);
    expect_exception_with_code(l1_execute(MOV_TO_CR(0, cr0 & ~CR0_NE)), VECTOR_GP, 0);
    l1_vmxoff();
    l1_run(MOV_TO_CR(4, CR4_PAE));
    l1_run(MOV_TO_CR(0, cr0 & ~CR0_NE));
    expect_exception(try_vmxon(VMXON_REGION), VECTOR_UD);
    l1_run(MOV_TO_CR(4, CR4_PAE | CR4_VMXE));
    expect_exception_with_code(try_vmxon(VMXON_REGION), VECTOR_GP, 0); // CR0.NE is 0
    l1_run(MOV_TO_CR(0, cr0));
    l1_vmxon(VMXON_REGION);
}

static void vmclear_fails(void)
{
    l1_enter_vmx_operation();
    expect_fail_invalid(try_vmclear(VMCS_A + 16));
    l1_make_region(VMCS_A);
    l1_vmclear(VMCS_A);
    l1_vmptrld(VMCS_A);
    expect_fail_valid(try_vmclear(VMCS_B + 16), 2);
    expect_fail_valid(try_vmclear(OUTSIDE_MEMORY), 2);
    expect_fail_valid(try_vmclear(VMXON_REGION), 3);
    assert_int_equal(l1_vmptrst(), VMCS_A);
}

static void vmptrld_fails(void)
{
    l1_enter_vmx_operation();
    l1_make_region(VMCS_A);
    l1_vmclear(VMCS_A);
    expect_fail_invalid(try_vmptrld(VMCS_B + 1));
    l1_vmptrld(VMCS_A);
    expect_fail_valid(try_vmptrld(VMCS_B + 1), 9);
    expect_fail_valid(try_vmptrld(OUTSIDE_MEMORY), 9);
    expect_fail_valid(try_vmptrld(VMXON_REGION), 10);
    uint32_t wrong = 0x7654321;
    memcpy(l1_memory(VMCS_B), &wrong, 4);
    expect_fail_valid(try_vmptrld(VMCS_B), 11);
    assert_int_equal(l1_vmptrst(), VMCS_A);
    l1_vmwrite(VMCS_GUEST_RIP, 5);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), 5);
}

static void vmread_and_vmwrite_want_a_current_vmcs(void)
{
    uint64_t value;
    l1_enter_vmx_operation();
    expect_fail_invalid(try_vmread(VMCS_GUEST_RIP, &value));
    expect_fail_invalid(try_vmwrite(VMCS_GUEST_RIP, 1));
    expect_fail_invalid(try_vmread(0x7ffe, &value));
}

static void vmread_and_vmwrite_of_fields_that_do_not_exist(void)
{
    static const uint32_t absent[] = {
        0x7ffe, // no such index
        0x0001, // the high half of a 16-bit field
        0x4001, // ... of a 32-bit field
        0x6801, // ... of a natural-width field
        0x00010000 | VMCS_GUEST_RIP,
        0x1000 | VMCS_GUEST_RIP, // bit 12
        0x2030,                  // between two that exist
        0x4830,
    };
    uint64_t value;
    l1_enter_vmx_operation();
    l1_make_region(VMCS_A);
    l1_vmclear(VMCS_A);
    l1_vmptrld(VMCS_A);
    for (unsigned i = 0; i < sizeof(absent) / sizeof(absent[0]); i++) {
        expect_fail_valid(try_vmread(absent[i], &value), 12);
        expect_fail_valid(try_vmwrite(absent[i], 1), 12);
    }
    expect_fail_valid(l1_execute(VMREAD(GPR_RAX, 0x100000000ull | VMCS_GUEST_RIP)), 12);
}

static void every_field_holds_what_is_written(void)
{
    static const uint32_t encodings[] = {
#define FIELD(name, encoding, width, type, exists, entry, exit) encoding,
#include <nvmx/vmcs_fields.def>
#undef FIELD
    };
    l1_enter_vmx_operation();
    l1_make_region(VMCS_A);
    l1_vmclear(VMCS_A);
    l1_vmptrld(VMCS_A);
    bool writes_any = l1_rdmsr(MSR_IA32_VMX_MISC) & MISC_VMWRITE_ANY_FIELD;
    unsigned count = 0;
    for (unsigned i = 0; i < sizeof(encodings) / sizeof(encodings[0]); i++) {
        uint32_t encoding = encodings[i];
        uint64_t pattern = 0x8123456789abcdefull + encoding, value;
        struct outcome outcome = try_vmwrite(encoding, pattern);
        if (outcome.zf) {
            uint64_t error = l1_vmread(VMCS_VM_INSTRUCTION_ERROR);
            bool read_only = vmcs_encoding_type(encoding) == VMCS_TYPE_INFO && !writes_any;
            if (error == 13)
                assert_true(read_only);
            else
                expect_fail_valid(try_vmread(encoding, &value), 12);
            continue;
        }
        unsigned width = vmcs_encoding_width(encoding);
        uint64_t expected = width == VMCS_WIDTH_16   ? pattern & 0xffff
                            : width == VMCS_WIDTH_32 ? pattern & 0xffffffff
                                                     : pattern;
        assert_int_equal(l1_vmread(encoding), expected);
        if (width == VMCS_WIDTH_64) {
            assert_int_equal(l1_vmread(encoding | 1), expected >> 32);
            l1_vmwrite(encoding | 1, 0xffffffff11223344ull);
            assert_int_equal(l1_vmread(encoding), (expected & 0xffffffff) | 0x1122334400000000ull);
            l1_vmwrite(encoding, pattern);
        }
        count++;
    }
    assert_true(count > 100);
    // ... all at once, also after the VMCS left and came back
    l1_make_region(VMCS_B);
    l1_vmclear(VMCS_B);
    l1_vmptrld(VMCS_B);
    l1_vmptrld(VMCS_A);
    for (unsigned i = 0; i < sizeof(encodings) / sizeof(encodings[0]); i++) {
        uint64_t pattern = 0x8123456789abcdefull + encodings[i], value;
        if (vmcs_encoding_type(encodings[i]) == VMCS_TYPE_INFO)
            continue;
        struct outcome outcome = try_vmread(encodings[i], &value);
        if (!outcome.zf)
            assert_int_equal(value & 0xffff, pattern & 0xffff);
    }
}

static void read_only_fields(void)
{
    l1_enter_vmx_operation();
    l1_make_region(VMCS_A);
    l1_vmclear(VMCS_A);
    l1_vmptrld(VMCS_A);
    if (l1_rdmsr(MSR_IA32_VMX_MISC) & MISC_VMWRITE_ANY_FIELD)
        expect_succeed(try_vmwrite(VMCS_EXIT_REASON, 1));
    else
        expect_fail_valid(try_vmwrite(VMCS_EXIT_REASON, 1), 13);
}

static void operands_may_fault(void)
{
    l1_enter_vmx_operation();
    l1_make_region(VMCS_A);
    l1_vmclear(VMCS_A);
    l1_vmptrld(VMCS_A);
    expect_exception_with_code(l1_execute(VMCLEAR(L1_NOT_MAPPED)), VECTOR_PF, 0);
    assert_int_equal(l1_cr2(), L1_NOT_MAPPED);
    expect_exception_with_code(l1_execute(VMPTRLD(L1_NOT_MAPPED + 8)), VECTOR_PF, 0);
    assert_int_equal(l1_cr2(), L1_NOT_MAPPED + 8);
    expect_exception_with_code(l1_execute(VMPTRST(L1_NOT_MAPPED + 16)), VECTOR_PF, 2);
    expect_exception_with_code(l1_execute(VMREAD_TO(L1_NOT_MAPPED + 24, VMCS_GUEST_RIP)), VECTOR_PF, 2);
    assert_int_equal(l1_cr2(), L1_NOT_MAPPED + 24);
    expect_exception_with_code(l1_execute(VMWRITE_FROM(L1_NOT_MAPPED + 32, VMCS_GUEST_RIP)), VECTOR_PF, 0);
    assert_int_equal(l1_cr2(), L1_NOT_MAPPED + 32);
    // ... for a field that does not exist: VMREAD checks the field first, VMWRITE reads its operand first
    expect_fail_valid(l1_execute(VMREAD_TO(L1_NOT_MAPPED, 0x7ffe)), 12);
    expect_exception_with_code(l1_execute(VMWRITE_FROM(L1_NOT_MAPPED, 0x7ffe)), VECTOR_PF, 0);
    assert_int_equal(l1_vmptrst(), VMCS_A);
}

static void operands_may_be_non_canonical(void)
{
    l1_enter_vmx_operation();
    struct op op = VMCLEAR(0);
    op.memory.base = GPR_RBX;
    l1_set_gpr(GPR_RBX, 0x8000000000000000ull);
    expect_exception_with_code(l1_execute(op), VECTOR_GP, 0);
    op.memory.segment = SEGMENT_SS;
    l1_set_gpr(GPR_RBX, 0x8000000000000000ull);
    expect_exception_with_code(l1_execute(op), VECTOR_SS, 0);
}

static void vmcall_in_root_operation_fails(void)
{
    l1_enter_vmx_operation();
    expect_fail_invalid(l1_execute(VMCALL));
    l1_make_region(VMCS_A);
    l1_vmclear(VMCS_A);
    l1_vmptrld(VMCS_A);
    expect_fail_valid(l1_execute(VMCALL), 1);
}

static void invept_fails(void)
{
    l1_enter_vmx_operation();
    l1_make_region(VMCS_A);
    l1_vmclear(VMCS_A);
    l1_vmptrld(VMCS_A);
    uint64_t eptp = l1_new_ept();
    expect_fail_valid(try_invept(0, eptp, 0), 28);
    expect_fail_valid(try_invept(3, eptp, 0), 28);
    expect_fail_valid(try_invept(1, eptp | 7, 0), 28);        // memory type
    expect_fail_valid(try_invept(1, eptp & ~0x38ull, 0), 28); // page-walk length
    expect_fail_valid(try_invept(1, eptp | 1ull << 45, 0), 28);
    expect_succeed(try_invept(1, eptp, 0));
    expect_succeed(try_invept(2, 0, 0));
    expect_exception_with_code(l1_execute(INVEPT(1, L1_NOT_MAPPED)), VECTOR_PF, 0);
    expect_fail_valid(l1_execute(INVEPT(0, L1_NOT_MAPPED)), 28); // the type is looked at first
}

static void invvpid_fails(void)
{
    l1_enter_vmx_operation();
    l1_make_region(VMCS_A);
    l1_vmclear(VMCS_A);
    l1_vmptrld(VMCS_A);
    expect_fail_valid(try_invvpid(4, 1, 0), 28);
    expect_fail_valid(try_invvpid(0, 0, 0), 28);
    expect_fail_valid(try_invvpid(1, 0, 0), 28);
    expect_fail_valid(try_invvpid(3, 0, 0), 28);
    expect_fail_valid(try_invvpid(1, 0x10001, 0), 28);
    expect_fail_valid(try_invvpid(0, 1, 0x8000000000000000ull), 28);
    expect_succeed(try_invvpid(0, 1, 0x1000));
    expect_succeed(try_invvpid(1, 1, 0));
    expect_succeed(try_invvpid(2, 0, 0));
    expect_succeed(try_invvpid(3, 1, 0));
    expect_exception_with_code(l1_execute(INVVPID(2, L1_NOT_MAPPED)), VECTOR_PF, 0);
}

static void instructions_of_absent_features_are_undefined(void)
{
    l1_enter_vmx_operation();
    expect_exception(try_invvpid(2, 0, 0), VECTOR_UD);
}

static void entry_after_mov_ss_fails(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_run(MOV_SS);
    expect_fail_valid(try_vmlaunch(), 26);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

static void capability_msrs_are_read_only(void)
{
    expect_exception_with_code(l1_execute(WRMSR(MSR_IA32_VMX_BASIC, 0)), VECTOR_GP, 0);
    expect_exception_with_code(l1_execute(WRMSR(MSR_IA32_FEATURE_CONTROL, 5)), VECTOR_GP, 0);
    assert_int_equal(l1_rdmsr(MSR_IA32_FEATURE_CONTROL), 5);
    for (uint32_t i = 0; i < CAPS_MSR_COUNT; i++) {
        uint64_t wanted = world_l1_processor()->vmx.msr[i];
        struct outcome outcome = l1_execute(RDMSR(CAPS_MSR_FIRST + i));
        if (wanted == 0)
            expect_exception_with_code(outcome, VECTOR_GP, 0);
        else
            assert_int_equal((uint32_t)l1_gpr(GPR_RAX) | l1_gpr(GPR_RDX) << 32, wanted);
    }
}

static void cpuid_offers_vmx(void)
{
    l1_run(CPUID(1));
    assert_true(l1_gpr(GPR_RCX) & 1u << 5);
}

static const struct CMUnitTest tests[] = {
    BOTH(undefined_outside_vmx_operation),
    BOTH(privileged),
    BOTH(undefined_in_compatibility_mode),
    BOTH(memory_operands_cannot_be_registers),
    BOTH(vmxon_wants_an_aligned_page_with_the_revision),
    BOTH(vmxon_in_vmx_operation_fails),
    BOTH(vmx_operation_fixes_bits_of_cr4_and_cr0),
    BOTH(vmclear_fails),
    BOTH(vmptrld_fails),
    BOTH(vmread_and_vmwrite_want_a_current_vmcs),
    BOTH(vmread_and_vmwrite_of_fields_that_do_not_exist),
    BOTH(every_field_holds_what_is_written),
    BOTH_WITH(every_field_holds_what_is_written, ", sparse processor", .processor = &processor_sparse),
    BOTH(read_only_fields),
    BOTH_WITH(read_only_fields, ", sparse processor", .processor = &processor_sparse),
    BOTH(operands_may_fault),
    BOTH(operands_may_be_non_canonical),
    BOTH(vmcall_in_root_operation_fails),
    BOTH(invept_fails),
    BOTH(invvpid_fails),
    BOTH_WITH(instructions_of_absent_features_are_undefined, ", without VPID",
              .processor = &processor_no_vpid),
    BOTH(entry_after_mov_ss_fails),
    BOTH(capability_msrs_are_read_only),
    BOTH_WITH(capability_msrs_are_read_only, ", sparse processor", .processor = &processor_sparse),
    BOTH(cpuid_offers_vmx),
};

int main(void)
{
    return cmocka_run_group_tests_name("instructions", tests, NULL, NULL);
}
