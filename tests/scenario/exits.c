// SPDX-License-Identifier: MIT
// Exits of L2 that L1 asked for, each with its exit information; and those that it did not ask for, which it
// must not see.
// Manual: VMX Non-Root Operation; Exit Qualification; Instruction-Information Field.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CR0_START (CR0_PE | CR0_PG | CR0_NE | CR0_ET | CR0_WP | CR0_MP)

// --- control registers

static void cr0_mask_and_shadow(void)
{
    L2_PROGRAM(l2, MOV_FROM_CR(GPR_RBX, 0), MOV_TO_CR(0, CR0_START | CR0_TS),
               MOV_TO_CR(0, CR0_START | CR0_AM), CLTS, LMSW(CR0_PE | CR0_EM | CR0_TS), SMSW(GPR_RSI), VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_CR0_GUEST_HOST_MASK, CR0_TS);
    l1_vmwrite(VMCS_CR0_READ_SHADOW, CR0_TS);
    l1_vmlaunch();
    // AM is L2's own: only the third instruction, which would clear the host's TS, exits
    assert_int_equal(l1_gpr(GPR_RBX), CR0_START | CR0_TS);
    expect_exit_qualification(EXIT_CONTROL_REGISTER_ACCESS, (uint64_t)GPR_RDX << 8);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 3);
    assert_int_equal(l1_vmread(VMCS_GUEST_CR0), CR0_START);
    l1_resume_behind();
    expect_exit_qualification(EXIT_CONTROL_REGISTER_ACCESS, 2 << 4); // CLTS
    l1_resume_behind();
    // LMSW: TS equals the shadow, EM is L2's
    assert_int_equal(l1_gpr(GPR_RSI), (CR0_START | CR0_TS | CR0_EM) & ~CR0_MP);
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_vmread(VMCS_GUEST_CR0), (CR0_START | CR0_EM) & ~CR0_MP);
}

static void lmsw_exits(void)
{
    L2_PROGRAM(l2, LMSW(0xfff3), CLTS, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_CR0_GUEST_HOST_MASK, CR0_MP | CR0_TS);
    l1_vmwrite(VMCS_CR0_READ_SHADOW, 0);
    l1_vmlaunch();
    expect_exit_qualification(EXIT_CONTROL_REGISTER_ACCESS, 0xfff30000 | 3 << 4);
    l1_resume_behind();
    expect_exit(EXIT_VMCALL); // CLTS of a TS that reads as 0 does nothing
}

static void cr4_mask_and_shadow(void)
{
    L2_PROGRAM(l2, MOV_FROM_CR(GPR_RBX, 4), MOV_TO_CR(4, CR4_PAE | CR4_PGE), MOV_FROM_CR(GPR_RSI, 4),
               MOV_TO_CR(4, CR4_PAE | CR4_VMXE), VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_CR4_GUEST_HOST_MASK, CR4_VMXE);
    l1_vmwrite(VMCS_CR4_READ_SHADOW, 0);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RBX), CR4_PAE);
    assert_int_equal(l1_gpr(GPR_RSI), CR4_PAE | CR4_PGE);
    expect_exit_qualification(EXIT_CONTROL_REGISTER_ACCESS, 4 | (uint64_t)GPR_RDX << 8);
    assert_int_equal(l1_vmread(VMCS_GUEST_CR4), CR4_PAE | CR4_PGE | CR4_VMXE);
}

static void cr3_exits(void)
{
    L2_PROGRAM(l2, MOV_TO_CR(3, 0x1000), MOV_TO_CR(3, 0x2000), MOV_FROM_CR(GPR_RCX, 3), VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_CR3_LOAD_EXITING | PRIMARY_CR3_STORE_EXITING);
    l1_vmwrite(VMCS_CR3_TARGET_COUNT, 2);
    l1_vmwrite(VMCS_CR3_TARGET_0, 0x1000);
    l1_vmwrite(VMCS_CR3_TARGET_1, 0x3000);
    l1_vmlaunch();
    expect_exit_qualification(EXIT_CONTROL_REGISTER_ACCESS, 3 | (uint64_t)GPR_RDX << 8);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 3);
    l1_resume_behind();
    expect_exit_qualification(EXIT_CONTROL_REGISTER_ACCESS, 3 | 1 << 4 | (uint64_t)GPR_RCX << 8);
    l1_resume_behind();
    expect_exit(EXIT_VMCALL);
}

static void cr8_exits(void)
{
    L2_PROGRAM(l2, MOV_TO_CR(8, 5), MOV_FROM_CR(GPR_RBX, 8), VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_CR8_LOAD_EXITING | PRIMARY_CR8_STORE_EXITING);
    l1_vmlaunch();
    expect_exit_qualification(EXIT_CONTROL_REGISTER_ACCESS, 8 | (uint64_t)GPR_RDX << 8);
    l1_resume_behind();
    expect_exit_qualification(EXIT_CONTROL_REGISTER_ACCESS, 8 | 1 << 4 | (uint64_t)GPR_RBX << 8);
    l1_resume_behind();
    expect_exit(EXIT_VMCALL);
}

static void debug_register_exits(void)
{
    L2_PROGRAM(l2, MOV_TO_DR(7, 0x400), MOV_FROM_DR(GPR_RSI, 6), VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_MOV_DR_EXITING);
    l1_vmlaunch();
    expect_exit_qualification(EXIT_MOV_DR, 7 | (uint64_t)GPR_RDX << 8);
    l1_resume_behind();
    expect_exit_qualification(EXIT_MOV_DR, 6 | 1 << 4 | (uint64_t)GPR_RSI << 8);
}

// --- one instruction, one control

struct conditional {
    struct op op;
    uint32_t primary, secondary; // the control that makes it exit
    uint32_t reason, length;
    uint64_t qualification;
};

static const struct conditional conditionals[] = {
    {{.kind = OP_HLT}, PRIMARY_HLT_EXITING, 0, EXIT_HLT, 1, 0},
    {{.kind = OP_PAUSE}, PRIMARY_PAUSE_EXITING, 0, EXIT_PAUSE, 2, 0},
    {{.kind = OP_RDTSC}, PRIMARY_RDTSC_EXITING, 0, EXIT_RDTSC, 2, 0},
    {{.kind = OP_RDPMC}, PRIMARY_RDPMC_EXITING, 0, EXIT_RDPMC, 2, 0},
    {{.kind = OP_INVLPG, .a = 0x12345678}, PRIMARY_INVLPG_EXITING, 0, EXIT_INVLPG, 3, 0x12345678},
    {{.kind = OP_MONITOR}, PRIMARY_MONITOR_EXITING, 0, EXIT_MONITOR, 3, 0},
    {{.kind = OP_MWAIT}, PRIMARY_MWAIT_EXITING, 0, EXIT_MWAIT, 3, 0},
    {{.kind = OP_WBINVD}, 0, SECONDARY_WBINVD_EXITING, EXIT_WBINVD, 2, 0},
    {{.kind = OP_RDRAND, .reg = GPR_RSI}, 0, SECONDARY_RDRAND_EXITING, EXIT_RDRAND, 4, 0},
    {{.kind = OP_RDSEED, .reg = GPR_RDI}, 0, SECONDARY_RDSEED_EXITING, EXIT_RDSEED, 4, 0},
    {{.kind = OP_LGDT, AT(0x20000)},
     0,
     SECONDARY_DESCRIPTOR_TABLE_EXITING,
     EXIT_GDTR_IDTR_ACCESS,
     0,
     0x20000},
    {{.kind = OP_SLDT, .reg = GPR_RBX}, 0, SECONDARY_DESCRIPTOR_TABLE_EXITING, EXIT_LDTR_TR_ACCESS, 3, 0},
};
#define CONDITIONAL_COUNT (sizeof(conditionals) / sizeof(conditionals[0]))

static bool l1_has(uint32_t primary, uint32_t secondary)
{
    const struct nvmx_caps *caps = &world_l1_processor()->vmx;
    uint32_t has_primary = nvmx_caps_allowed1(caps, CAPS_PRIMARY);
    uint32_t has_secondary = nvmx_caps_allowed1(caps, CAPS_SECONDARY);
    return (has_primary & primary) == primary && (has_secondary & secondary) == secondary;
}

// Every instruction twice: with its control it exits, without it it does not (but HLT would wait, LGDT has
// its control in common with its neighbour, and RDTSC tells the time).
static void conditional_exits(void)
{
    static struct op ops[2 * CONDITIONAL_COUNT + 1];
    struct l2 l2 = {.op = ops, .count = 0};
    for (unsigned i = 0; i < CONDITIONAL_COUNT; i++) {
        if (!l1_has(conditionals[i].primary, conditionals[i].secondary))
            continue;
        ops[l2.count++] = conditionals[i].op;
        enum op_kind kind = conditionals[i].op.kind;
        bool once = kind == OP_HLT || kind == OP_LGDT || kind == OP_RDTSC;
        ops[l2.count++] = once ? NOP : conditionals[i].op;
    }
    ops[l2.count++] = VMCALL;
    l2_load(&l2);
    l1_prepare(&l2);
    bool launched = false;
    for (unsigned i = 0; i < CONDITIONAL_COUNT; i++) {
        const struct conditional *c = &conditionals[i];
        if (!l1_has(c->primary, c->secondary))
            continue;
        uint64_t primary = l1_vmread(VMCS_PRIMARY_CONTROLS), secondary = l1_vmread(VMCS_SECONDARY_CONTROLS);
        l1_vmwrite(VMCS_PRIMARY_CONTROLS, primary | c->primary);
        l1_vmwrite(VMCS_SECONDARY_CONTROLS, secondary | c->secondary);
        if (launched)
            l1_vmresume();
        else
            l1_vmlaunch();
        launched = true;
        expect_exit_qualification(c->reason, c->qualification);
        assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH),
                         c->length ? c->length : op_length(&c->op));
        if (c->op.kind == OP_RDRAND || c->op.kind == OP_RDSEED)
            assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_INFO) & 0x1878,
                             (uint64_t)c->op.reg << 3 | 2 << 11);
        l1_vmwrite(VMCS_PRIMARY_CONTROLS, primary);
        l1_vmwrite(VMCS_SECONDARY_CONTROLS, secondary);
        l1_skip_instruction();
    }
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void unconditional_exits(void)
{
    L2_PROGRAM(l2, CPUID(7), INVD, XSETBV(1), VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_GUEST_CR4, CR4_OSXSAVE);
    l1_vmlaunch();
    expect_exit_length(EXIT_CPUID, 2);
    l1_resume_behind();
    expect_exit_length(EXIT_INVD, 2);
    l1_resume_behind();
    expect_exit_length(EXIT_XSETBV, 3);
    l1_resume_behind();
    expect_exit_length(EXIT_VMCALL, 3);
}

static void vmx_instructions_of_l2_exit(void)
{
    L2_PROGRAM(l2, VMLAUNCH, VMRESUME, VMXOFF, VMXON(0x20000), VMCLEAR(0x20008), VMPTRLD(0x20010),
               VMPTRST(0x20018), VMREAD(GPR_RSI, VMCS_GUEST_RIP), VMWRITE_FROM(0x20020, VMCS_GUEST_RSP),
               INVEPT(1, 0x20028), INVVPID(2, 0x20030));
    static const struct {
        uint32_t reason;
        uint64_t qualification;
        uint32_t info_mask, info;
    } expected[] = {
        {EXIT_VMLAUNCH, 0, 0, 0},
        {EXIT_VMRESUME, 0, 0, 0},
        {EXIT_VMXOFF, 0, 0, 0},
        {EXIT_VMXON, 0x20000, 0x08438380, 0x08418100},
        {EXIT_VMCLEAR, 0x20008, 0x08438380, 0x08418100},
        {EXIT_VMPTRLD, 0x20010, 0x08438380, 0x08418100},
        {EXIT_VMPTRST, 0x20018, 0x08438380, 0x08418100},
        {EXIT_VMREAD, 0, 0xf0000478, GPR_RDX << 28 | 1 << 10 | GPR_RSI << 3},
        {EXIT_VMWRITE, 0x20020, 0xf8438780, 0x28418100},
        {EXIT_INVEPT, 0x20028, 0xf8438380, 0x28418100},
        {EXIT_INVVPID, 0x20030, 0xf8438380, 0x28418100},
    };
    l1_prepare(&l2);
    l1_vmlaunch();
    for (unsigned i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        expect_exit_qualification(expected[i].reason, expected[i].qualification);
        if (expected[i].info_mask != 0)
            assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_INFO) & expected[i].info_mask,
                             expected[i].info);
        l1_skip_instruction();
        if (i + 1 < sizeof(expected) / sizeof(expected[0]))
            l1_vmresume();
    }
}

static void tsc_offset_is_added_for_l2(void)
{
    L2_PROGRAM(l2, RDTSC, VMCALL, RDTSC, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TSC_OFFSETTING);
    l1_vmwrite(VMCS_TSC_OFFSET, 0x4000000000);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RDX), 0x40); // the low half differs with what is below L1
    l1_set_gpr(GPR_RAX, 0);
    expect_exit(EXIT_VMCALL);
    l1_clear(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TSC_OFFSETTING);
    l1_skip_instruction();
    l1_vmresume();
    assert_int_equal(l1_gpr(GPR_RDX), 0);
    l1_set_gpr(GPR_RAX, 0);
    expect_exit(EXIT_VMCALL);
}

static void monitor_trap_flag_exits_after_each_instruction(void)
{
    L2_PROGRAM(l2, NOP, SET(GPR_RBX, 1), CPUID(1));
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_MONITOR_TRAP_FLAG);
    l1_vmlaunch();
    expect_exit(EXIT_MONITOR_TRAP_FLAG);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 1);
    l1_vmresume();
    expect_exit(EXIT_MONITOR_TRAP_FLAG);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 11);
    l1_vmresume();
    expect_exit(EXIT_CPUID);
}

static void l2_does_not_reach_l1s_cr8(void)
{
    L2_PROGRAM(l2, MOV_TO_CR(8, 7), VMCALL);
    l1_prepare(&l2);
    l1_run(MOV_TO_CR(8, 3));
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_CR8_LOAD_EXITING);
    l1_vmlaunch();
    expect_exit(EXIT_CONTROL_REGISTER_ACCESS);
    l1_run(MOV_FROM_CR(GPR_RAX, 8));
    assert_int_equal(l1_gpr(GPR_RAX), 3);
}

static const struct CMUnitTest tests[] = {
    BOTH(cr0_mask_and_shadow),
    BOTH(lmsw_exits),
    BOTH(cr4_mask_and_shadow),
    BOTH(cr3_exits),
    BOTH(cr8_exits),
    BOTH(debug_register_exits),
    BOTH(conditional_exits),
    BOTH_WITH(conditional_exits, ", sparse processor", .processor = &processor_sparse),
    BOTH(unconditional_exits),
    BOTH(vmx_instructions_of_l2_exit),
    BOTH_APART(tsc_offset_is_added_for_l2),
    BOTH(monitor_trap_flag_exits_after_each_instruction),
    BOTH(l2_does_not_reach_l1s_cr8),
};

int main(void)
{
    return cmocka_run_group_tests_name("exits", tests, NULL, NULL);
}
