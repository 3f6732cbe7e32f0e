// SPDX-License-Identifier: MIT
// VMCS shadowing, as L1 uses it: VMREAD and VMWRITE of L2 act on the VMCS behind the link pointer where the
// bitmaps let them, and exit where they do not.
// Manual: VMREAD, VMWRITE (Changes to Instruction Behavior in VMX Non-Root Operation); VMCS Link Pointer.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define SHADOW  VMCS_C
#define AT_PAGE 0x30000 // L2's linear address
#define FIELD   VMCS_GUEST_RSP
#define ABSENT  0x7ffe // in a bit of the bitmaps, and no field

static uint64_t read_bitmap, write_bitmap;

static void exits_for(uint64_t bitmap, uint32_t encoding)
{
    ((uint8_t *)l1_memory(bitmap))[encoding / 8] |= (uint8_t)(1u << encoding % 8);
}

// A shadow VMCS is made as an ordinary one, and marked when it is in memory.
static void make_shadow(void)
{
    l1_make_region(SHADOW);
    l1_vmclear(SHADOW);
    uint32_t *revision = l1_memory(SHADOW);
    *revision |= 1u << 31;
    l1_vmclear(SHADOW);
    l1_vmptrld(SHADOW);
    l1_vmwrite(FIELD, 0x1122334455667788);
    l1_vmwrite(VMCS_GUEST_ES_SELECTOR, 0x1234);
    l1_vmwrite(VMCS_VM_INSTRUCTION_ERROR, 0);
}

static void prepare(struct l2 *l2)
{
    l1_enter_vmx_operation();
    make_shadow();
    l1_prepare_vmcs(VMCS_A, l2);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_VMCS_SHADOWING);
    read_bitmap = l1_new_page();
    write_bitmap = l1_new_page();
    l1_vmwrite(VMCS_VMREAD_BITMAP, read_bitmap);
    l1_vmwrite(VMCS_VMWRITE_BITMAP, write_bitmap);
    l1_vmwrite(VMCS_VMCS_LINK_POINTER, SHADOW);
}

static uint64_t shadow_field(uint32_t encoding)
{
    l1_vmptrld(SHADOW);
    uint64_t value = l1_vmread(encoding);
    l1_vmptrld(VMCS_A);
    return value;
}

static void l2_reads_and_writes_the_shadow(void)
{
    L2_PROGRAM(l2, VMREAD(GPR_RBX, FIELD), VMREAD_TO(AT_PAGE, FIELD), VMWRITE(FIELD, 0x99),
               VMREAD(GPR_RSI, FIELD), VMWRITE_FROM(AT_PAGE + 8, VMCS_GUEST_ES_SELECTOR),
               VMREAD(GPR_RDI, VMCS_GUEST_ES_SELECTOR), VMCALL);
    prepare(&l2);
    static const uint64_t source = 0xabcdef;
    memcpy(l2_memory(AT_PAGE + 8), &source, 8);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_gpr(GPR_RBX), 0x1122334455667788);
    assert_int_equal(*(uint64_t *)l2_memory(AT_PAGE), 0x1122334455667788);
    assert_int_equal(l1_gpr(GPR_RSI), 0x99);
    assert_int_equal(l1_gpr(GPR_RDI), 0xcdef);  // 16 bits of it
    assert_int_equal(l1_vmread(FIELD), 0x9000); // the current VMCS's own
    assert_int_equal(shadow_field(FIELD), 0x99);
    assert_int_equal(shadow_field(VMCS_GUEST_ES_SELECTOR), 0xcdef);
}

static void the_bitmaps_choose(void)
{
    L2_PROGRAM(l2, VMREAD(GPR_RBX, FIELD), VMWRITE(FIELD, 1), VMREAD_TO(AT_PAGE, VMCS_GUEST_ES_SELECTOR),
               VMWRITE(VMCS_GUEST_ES_SELECTOR, 2), VMCALL);
    prepare(&l2);
    exits_for(read_bitmap, FIELD);
    exits_for(write_bitmap, VMCS_GUEST_ES_SELECTOR);
    l1_vmlaunch();
    expect_exit_length(EXIT_VMREAD, 3);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit_length(EXIT_VMWRITE, 3);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 3 + 3 + 8);
    assert_int_equal(*(uint64_t *)l2_memory(AT_PAGE), 0x1234);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(shadow_field(FIELD), 1);
    assert_int_equal(shadow_field(VMCS_GUEST_ES_SELECTOR), 0x1234);
}

// Bits 63:15 of the encoding: always an exit.
static void wide_encodings_exit(void)
{
    L2_PROGRAM(l2, VMREAD(GPR_RBX, 1ull << 15 | FIELD), VMWRITE(1ull << 63 | FIELD, 1), VMCALL);
    prepare(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_VMREAD);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMWRITE);
}

// VMfailInvalid without a link; VMfailValid, said in the current VMCS, for what is no field.
static void failures(void)
{
    L2_PROGRAM(l2, VMREAD(GPR_RBX, ABSENT), VMCALL, VMWRITE(ABSENT, 1), VMCALL, VMREAD(GPR_RBX, FIELD),
               VMCALL);
    prepare(&l2);
    l1_vmlaunch();
    for (unsigned i = 0; i < 2; i++) {
        expect_exit(EXIT_VMCALL);
        assert_int_equal(l1_vmread(VMCS_GUEST_RFLAGS), RFLAGS_FIXED | RFLAGS_ZF);
        assert_int_equal(l1_vmread(VMCS_VM_INSTRUCTION_ERROR), 12);
        assert_int_equal(shadow_field(VMCS_VM_INSTRUCTION_ERROR), 0);
        l1_vmwrite(VMCS_VM_INSTRUCTION_ERROR, 0);
        l1_skip_instruction();
        if (i == 1)
            l1_vmwrite(VMCS_VMCS_LINK_POINTER, UINT64_MAX);
        l1_vmresume();
    }
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_vmread(VMCS_GUEST_RFLAGS), RFLAGS_FIXED | RFLAGS_CF);
}

static void privilege_is_checked_behind_the_exit(void)
{
    L2_PROGRAM(l2, SET_CPL(3), VMREAD(GPR_RBX, FIELD), VMWRITE(FIELD, 1), VMCALL);
    prepare(&l2);
    exits_for(write_bitmap, FIELD);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000b0d);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code + 3 + 3);
    l1_vmresume();
    expect_exit(EXIT_VMWRITE);
}

// A memory operand that faults: nothing is written.
static void operands_fault(void)
{
    L2_PROGRAM(l2, VMREAD_TO(0x60000000, FIELD), VMCALL);
    prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_PF);
    l1_vmwrite(VMCS_PAGE_FAULT_ERROR_CODE_MASK, 0);
    l1_vmlaunch();
    expect_exit_qualification(EXIT_EXCEPTION_OR_NMI, 0x60000000);
    assert_int_equal(l1_vmread(VMCS_GUEST_RFLAGS) & (RFLAGS_CF | RFLAGS_ZF), 0);
}

static void without_the_control_both_exit(void)
{
    L2_PROGRAM(l2, VMREAD(GPR_RBX, FIELD), VMWRITE(FIELD, 1), VMCALL);
    prepare(&l2);
    l1_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_VMCS_SHADOWING);
    l1_vmwrite(VMCS_VMCS_LINK_POINTER, UINT64_MAX);
    l1_vmlaunch();
    expect_exit(EXIT_VMREAD);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMWRITE);
}

// A shadow VMCS can be current and read and written, not entered.
static void a_shadow_vmcs_is_not_entered(void)
{
    l1_enter_vmx_operation();
    make_shadow();
    expect_fail_invalid(try_vmlaunch());
    expect_fail_invalid(try_vmresume());
}

static void the_controls_and_the_link_are_checked(void)
{
    L2_PROGRAM(l2, VMCALL);
    prepare(&l2);
    l1_vmwrite(VMCS_VMREAD_BITMAP, read_bitmap + 1);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_vmwrite(VMCS_VMREAD_BITMAP, read_bitmap);
    l1_vmwrite(VMCS_VMWRITE_BITMAP, 1ull << 40);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_vmwrite(VMCS_VMWRITE_BITMAP, write_bitmap);
    const uint64_t wrong[] = {SHADOW + 8, 1ull << 40, VMCS_A, VMCS_B};
    l1_make_region(VMCS_B); // no shadow VMCS
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        l1_vmwrite(VMCS_VMCS_LINK_POINTER, wrong[i]);
        l1_vmlaunch();
        expect_entry_failure(33, 4);
    }
    l1_vmwrite(VMCS_VMCS_LINK_POINTER, SHADOW);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

static void launch(void)
{
    l1_vmlaunch();
}

// The shadow VMCS becomes active with the entry: it must not be so elsewhere.
static void a_shadow_vmcs_is_active_on_one_processor(void)
{
    const char *sentence;
    L2_PROGRAM(l2, VMCALL);
    uint64_t shadow = SHADOW;
    prepare(&l2);
    l1_vmclear(shadow);
    l1_use_vcpu(1);
    l1_enter_vmx_operation();
    l1_vmptrld(shadow);
    l1_use_vcpu(0);
    assert_true(world_stops(launch, &sentence));
    assert_non_null(strstr(sentence, "use through the VMCS link pointer of VMCS 0x203000, which is active on "
                                     "logical processor 1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(l2_reads_and_writes_the_shadow),
        BOTH(the_bitmaps_choose),
        BOTH(wide_encodings_exit),
        BOTH(failures),
        BOTH(privilege_is_checked_behind_the_exit),
        BOTH(operands_fault),
        BOTH(without_the_control_both_exit),
        BOTH(a_shadow_vmcs_is_not_entered),
        BOTH(the_controls_and_the_link_are_checked),
        BARE(a_shadow_vmcs_is_active_on_one_processor, .vcpu_count = 2),
    };
    return cmocka_run_group_tests_name("VMCS shadowing by L1", tests, NULL, NULL);
}
