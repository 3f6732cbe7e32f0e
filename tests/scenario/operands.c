// SPDX-License-Identifier: MIT
// Operands of L1's VMX instructions, which L0 has to find by itself: base, index, scale, displacement,
// segments, address sizes, page boundaries; registers. (An L1 in 32-bit mode: l1_modes.c.) Manual:
// Instruction-Information Field; Format of Instruction Operands in VMX Instruction Reference.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

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

static void prepare_current(void)
{
    l1_enter_vmx_operation();
    l1_make_region(VMCS_A);
    l1_vmclear(VMCS_A);
    l1_vmptrld(VMCS_A);
}

// VMPTRST with the operand `memory`: the pointer must be at `expected`, and nowhere else.
static void expect_stored_at(struct memory_operand memory, uint64_t expected)
{
    put(expected, 0, 8);
    struct outcome outcome = l1_execute((struct op){.kind = OP_VMPTRST, .in_memory = true, .memory = memory});
    expect_succeed(outcome);
    assert_int_equal(get(expected, 8), VMCS_A);
    put(expected, 0, 8);
}

static void every_form_of_address(void)
{
    prepare_current();
    const struct memory_operand none = {
        .base = NO_REGISTER, .index = NO_REGISTER, .segment = SEGMENT_DS, .address_size = 64};
    struct memory_operand m = none;
    m.displacement = L1_SCRATCH + 0x100;
    expect_stored_at(m, L1_SCRATCH + 0x100);

    for (unsigned base = 0; base < GPR_COUNT; base++) {
        if (base == GPR_RSP)
            continue;
        m = none;
        m.base = (int8_t)base;
        m.displacement = -8;
        l1_set_gpr((enum nvmx_gpr)base, L1_SCRATCH + 0x208);
        expect_stored_at(m, L1_SCRATCH + 0x200);
    }
    for (uint8_t scale = 0; scale < 4; scale++) {
        m = none;
        m.base = GPR_RSI;
        m.index = GPR_R9;
        m.scale = scale;
        m.displacement = 0x10;
        l1_set_gpr(GPR_RSI, L1_SCRATCH);
        l1_set_gpr(GPR_R9, 0x80);
        expect_stored_at(m, L1_SCRATCH + 0x10 + ((uint64_t)0x80 << scale));
    }
    m = none; // an index alone
    m.index = GPR_RDI;
    m.scale = 3;
    m.displacement = 0x40;
    l1_set_gpr(GPR_RDI, L1_SCRATCH / 8);
    expect_stored_at(m, L1_SCRATCH + 0x40);

    m = none; // RSP as a base
    m.base = GPR_RSP;
    m.segment = SEGMENT_SS;
    m.displacement = -0x400;
    expect_stored_at(m, l1_gpr(GPR_RSP) - 0x400);
}

static void segments_and_address_sizes(void)
{
    prepare_current();
    l1_wrmsr(MSR_FS_BASE, L1_SCRATCH);
    l1_wrmsr(MSR_GS_BASE, L1_SCRATCH + 0x1000);
    struct memory_operand m = {
        .base = GPR_RBX, .index = NO_REGISTER, .segment = SEGMENT_FS, .address_size = 64};
    l1_set_gpr(GPR_RBX, 0x80);
    expect_stored_at(m, L1_SCRATCH + 0x80);
    m.segment = SEGMENT_GS;
    expect_stored_at(m, L1_SCRATCH + 0x1080);
    m.segment = SEGMENT_ES; // has no base in 64-bit mode
    l1_set_gpr(GPR_RBX, L1_SCRATCH + 0x88);
    expect_stored_at(m, L1_SCRATCH + 0x88);
    // a 32-bit address: what is above bit 31 does not count, and the sum wraps around
    m.address_size = 32;
    m.segment = SEGMENT_DS;
    l1_set_gpr(GPR_RBX, 0xabcdef0000000000ull | (L1_SCRATCH + 0x90));
    expect_stored_at(m, L1_SCRATCH + 0x90);
    m.displacement = L1_SCRATCH + 0x1a0;
    l1_set_gpr(GPR_RBX, 0xffffff00);
    expect_stored_at(m, L1_SCRATCH + 0xa0);
    // ... and the segment's base is added behind that
    m.segment = SEGMENT_FS;
    m.displacement = 0x20;
    l1_set_gpr(GPR_RBX, 0x7700000000ull | 0x100);
    expect_stored_at(m, L1_SCRATCH + 0x120);
}

static void operands_that_cross_a_page(void)
{
    prepare_current();
    struct memory_operand m = {.base = NO_REGISTER,
                               .index = NO_REGISTER,
                               .segment = SEGMENT_DS,
                               .address_size = 64,
                               .displacement = L1_SCRATCH + 0xffc};
    expect_stored_at(m, L1_SCRATCH + 0xffc);
    put(L1_SCRATCH + 0xffd, VMCS_A, 8);
    expect_succeed(l1_execute(VMPTRLD(L1_SCRATCH + 0xffd)));
    // the second page is not there: nothing of the operand is used, and the fault is at the second page
    put(L1_RAM_SIZE - 4, 0, 4);
    expect_exception_with_code(l1_execute(VMPTRST(L1_RAM_SIZE - 4)), VECTOR_PF, 2);
    assert_int_equal(l1_cr2(), L1_RAM_SIZE);
    assert_int_equal(get(L1_RAM_SIZE - 4, 4), 0);
}

static void vmread_and_vmwrite_through_memory(void)
{
    prepare_current();
    put(L1_SCRATCH, 0x1122334455667788, 8);
    expect_succeed(l1_execute(VMWRITE_FROM(L1_SCRATCH, VMCS_GUEST_RSP)));
    assert_int_equal(l1_vmread(VMCS_GUEST_RSP), 0x1122334455667788);
    expect_succeed(l1_execute(VMREAD_TO(L1_SCRATCH + 8, VMCS_GUEST_RSP)));
    assert_int_equal(get(L1_SCRATCH + 8, 8), 0x1122334455667788);
    // a narrow field: the rest of the operand is 0
    expect_succeed(l1_execute(VMWRITE_FROM(L1_SCRATCH, VMCS_GUEST_CS_SELECTOR)));
    put(L1_SCRATCH + 8, UINT64_MAX, 8);
    expect_succeed(l1_execute(VMREAD_TO(L1_SCRATCH + 8, VMCS_GUEST_CS_SELECTOR)));
    assert_int_equal(get(L1_SCRATCH + 8, 8), 0x7788);
}

static void every_register_as_an_operand(void)
{
    prepare_current();
    for (unsigned i = 0; i < GPR_COUNT; i++) {
        if (i == GPR_RSP || i == GPR_RDX)
            continue;
        uint8_t reg = (uint8_t)i;
        struct op write = {
            .kind = OP_VMWRITE, .reg = reg, .reg2 = GPR_RDX, .a = VMCS_GUEST_RSP, .b = 0x1000u + reg};
        expect_succeed(l1_execute(write));
        struct op read = {.kind = OP_VMREAD, .reg = reg, .reg2 = GPR_RDX, .a = VMCS_GUEST_RSP};
        l1_set_gpr((enum nvmx_gpr)reg, 0);
        expect_succeed(l1_execute(read));
        assert_int_equal(l1_gpr((enum nvmx_gpr)reg), 0x1000 + reg);
        // the field's encoding in that register
        struct op field = {.kind = OP_VMREAD, .reg = GPR_RDX, .reg2 = reg, .a = VMCS_GUEST_RSP};
        expect_succeed(l1_execute(field));
        assert_int_equal(l1_gpr(GPR_RDX), 0x1000 + reg);
    }
}

// RSP is not among the general-purpose registers that L0 saves: it is in the VMCS.
static void rsp_as_an_operand(void)
{
    prepare_current();
    uint64_t rsp = l1_gpr(GPR_RSP);
    l1_vmwrite(VMCS_GUEST_RIP, rsp - 0x40);
    expect_succeed(l1_execute(OP(.kind = OP_VMREAD, .reg = GPR_RSP, .reg2 = GPR_RDX, .a = VMCS_GUEST_RIP)));
    assert_int_equal(l1_gpr(GPR_RSP), rsp - 0x40);
    struct op write = {
        .kind = OP_VMWRITE, .reg = GPR_RSP, .reg2 = GPR_RDX, .a = VMCS_GUEST_SYSENTER_ESP, .b = rsp};
    expect_succeed(l1_execute(write));
    assert_int_equal(l1_vmread(VMCS_GUEST_SYSENTER_ESP), rsp);
}

static const struct CMUnitTest tests[] = {
    BOTH(every_form_of_address),        BOTH(segments_and_address_sizes),
    BOTH(operands_that_cross_a_page),   BOTH(vmread_and_vmwrite_through_memory),
    BOTH(every_register_as_an_operand), BOTH(rsp_as_an_operand),
};

int main(void)
{
    return cmocka_run_group_tests_name("operands", tests, NULL, NULL);
}
