// SPDX-License-Identifier: MIT
// Bug classes of nested VMX, as other hypervisors had them: 1 to 12. Each test is named after its class.
// Manual: VMX Instruction Reference; Instructions That Cause VM Exits; Checks on VMX Controls and Host-State
// Area; Checking and Loading Guest State.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define PORT_OF_L0 0x510 // L0 intercepts it, and reads 0x42 there

static const struct op vmx_instructions[] = {
    OP(.kind = OP_VMCALL),
    OP(.kind = OP_VMXOFF),
    OP(.kind = OP_VMXON, AT(L1_SCRATCH)),
    OP(.kind = OP_VMCLEAR, AT(L1_SCRATCH)),
    OP(.kind = OP_VMPTRLD, AT(L1_SCRATCH)),
    OP(.kind = OP_VMPTRST, AT(L1_SCRATCH)),
    OP(.kind = OP_VMREAD, .reg = GPR_RBX, .reg2 = GPR_RDX, .a = VMCS_GUEST_RIP),
    OP(.kind = OP_VMWRITE, .reg = GPR_RAX, .reg2 = GPR_RDX, .a = VMCS_GUEST_RIP, .b = 0x666),
    OP(.kind = OP_VMLAUNCH),
    OP(.kind = OP_VMRESUME),
    OP(.kind = OP_INVEPT, .reg2 = GPR_RDX, .a = 2, AT(L1_SCRATCH)),
    OP(.kind = OP_INVVPID, .reg2 = GPR_RDX, .a = 2, AT(L1_SCRATCH)),
};
#define INSTRUCTIONS (sizeof(vmx_instructions) / sizeof(vmx_instructions[0]))

// CVE-2018-12904: a user of L1's executes VMX instructions.
static void bug_01_cpl_is_not_checked(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    uint64_t operand = VMCS_B;
    memcpy(l1_memory(L1_SCRATCH), &operand, 8);
    for (unsigned i = 0; i < INSTRUCTIONS; i++) {
        l1_run(SET_CPL(3));
        expect_exception_with_code(l1_execute(vmx_instructions[i]), VECTOR_GP, 0);
        l1_run(SET_CPL(0));
        // ... and nothing came of it
        assert_int_equal(l1_vmptrst(), VMCS_A);
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
    }
    l1_vmlaunch();
}

// CVE-2020-2732: L0 emulates an instruction of L2's that exits to L0 for L0's reasons, although L1 intercepts
// it.
static void bug_02_l0_emulates_what_l1_intercepts(void)
{
    L2_PROGRAM(l2, IN(PORT_OF_L0), RDMSR(MSR_IA32_VMX_BASIC), WRMSR(MSR_IA32_FEATURE_CONTROL, 0), CPUID(0),
               VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS);
    l1_vmwrite(VMCS_IO_BITMAP_A, IO_BITMAPS);
    l1_vmwrite(VMCS_IO_BITMAP_B, IO_BITMAPS + PAGE_SIZE);
    memset(l1_memory(IO_BITMAPS), 0, 2 * PAGE_SIZE);
    ((uint8_t *)l1_memory(IO_BITMAPS))[PORT_OF_L0 / 8] = 1 << PORT_OF_L0 % 8;
    memset(l1_memory(MSR_BITMAP), 0xff, PAGE_SIZE);
    l1_vmlaunch();
    expect_exit(EXIT_IO_INSTRUCTION);
    l1_resume_behind();
    expect_exit(EXIT_RDMSR);
    l1_resume_behind();
    expect_exit(EXIT_WRMSR);
    l1_resume_behind();
    expect_exit(EXIT_CPUID);
    l1_resume_behind();
    expect_exit(EXIT_VMCALL);
}

// CVE-2017-12154: without a TPR shadow and without CR8 exiting, L2's CR8 is L1's, as on the processor. That
// it is never L0's is by construction: L0 has no CR8 of its own to lose (hw.h), and no TPR threshold.
static void bug_03_l2_reaches_the_real_cr8(void)
{
    L2_PROGRAM(l2, MOV_TO_CR(8, 5), MOV_FROM_CR(GPR_RBX, 8), VMCALL, MOV_TO_CR(8, 9), VMCALL);
    l1_prepare(&l2);
    l1_run(MOV_TO_CR(8, 3));
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RBX), 5);
    l1_run(MOV_FROM_CR(GPR_RAX, 8));
    assert_int_equal(l1_gpr(GPR_RAX), 5);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_CR8_LOAD_EXITING | PRIMARY_CR8_STORE_EXITING);
    l1_resume_behind();
    expect_exit(EXIT_CONTROL_REGISTER_ACCESS);
    l1_resume_behind();
    expect_exit(EXIT_VMCALL);
    l1_run(MOV_FROM_CR(GPR_RAX, 8));
    assert_int_equal(l1_gpr(GPR_RAX), 5);
}

// CVE-2019-3887: L1's bitmap opens an MSR to L2 that L0 intercepts, and the merged bitmap lets it through to
// the processor's own.
static void bug_04_the_msr_bitmap_leaks_l0s_msrs(void)
{
    L2_PROGRAM(l2, RDMSR(MSR_IA32_VMX_PROCBASED_CTLS2), VMCALL, RDMSR(MSR_IA32_VMX_PROCBASED_CTLS2), VMCALL,
               WRMSR(MSR_IA32_VMX_PROCBASED_CTLS2, 7), VMCALL);
    l1_prepare(&l2); // its bitmap is open
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    uint64_t offered = l1_rdmsr(MSR_IA32_VMX_PROCBASED_CTLS2);
    l1_vmlaunch();
    for (unsigned i = 0; i < 2; i++) { // what is learnt at the first access must not open the second
        uint64_t low = l1_gpr(GPR_RAX), high = l1_gpr(GPR_RDX);
        expect_exit(EXIT_VMCALL);
        assert_int_equal((uint32_t)low | high << 32, offered);
        if (world_is_nested()) { // what L1 is offered may be what the processor has: the bitmap tells
            const uint8_t *bitmap = port_l0_map(world_vcpu()->config.pages.msr_bitmap);
            assert_true(bitmap[MSR_IA32_VMX_PROCBASED_CTLS2 / 8] >> MSR_IA32_VMX_PROCBASED_CTLS2 % 8 & 1);
        }
        l1_resume_behind();
    }
    expect_exit(EXIT_EXCEPTION_OR_NMI); // #GP: it is read-only
}

static void set_in_bitmap(uint64_t bitmap, unsigned bit, bool value)
{
    uint8_t *byte = (uint8_t *)l1_memory(bitmap) + bit / 8;
    *byte = (uint8_t)((*byte & ~(1u << bit % 8)) | (unsigned)value << bit % 8);
}

// A stale merge: the bits, the address or the controls change between two entries.
static void bug_05_the_bitmap_merge_is_stale(void)
{
    L2_PROGRAM(l2, RDMSR(MSR_IA32_PAT), VMCALL);
    l1_prepare(&l2);
    uint64_t other = l1_new_page();
    memset(l1_memory(other), 0xff, PAGE_SIZE);
    l1_vmlaunch();
    for (unsigned i = 0; i < 24; i++) {
        bool wanted = i / 4 % 2 == 0; // six changes, and each state four times
        switch (i / 8) {
        case 0: // the bit
            set_in_bitmap(MSR_BITMAP, MSR_IA32_PAT, wanted);
            break;
        case 1: // the address
            set_in_bitmap(MSR_BITMAP, MSR_IA32_PAT, false);
            l1_vmwrite(VMCS_MSR_BITMAP, wanted ? other : MSR_BITMAP);
            break;
        case 2: // the control
            l1_vmwrite(VMCS_MSR_BITMAP, MSR_BITMAP);
            if (wanted)
                l1_clear(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_MSR_BITMAPS);
            else
                l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_MSR_BITMAPS);
            break;
        }
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        l1_vmresume();
        expect_exit(wanted ? EXIT_RDMSR : EXIT_VMCALL);
    }
}

static uint32_t pages_in_use(void)
{
    const struct ept02 *ept02 = &world_vcpu()->ept02;
    uint32_t free = ept02->pool_pages - ept02->fresh;
    for (uint32_t page = ept02->free_list; page != 0;) {
        free++;
        uint64_t next;
        memcpy(&next, port_l0_map(l0pa(ept02->pool.value + (page - 1) * PAGE_SIZE)), sizeof next);
        page = (uint32_t)next;
    }
    return ept02->pool_pages - free;
}

// CVE-2018-16882, CVE-2026-68081. By construction nothing of L1's is pinned: port.h has no such call, and the
// engine keeps machine addresses of L1's pages in vmcs02 and ept02 only. What it does own is ept02's pool:
// nothing is lost there, on the ways of failure neither.
static void bug_06_a_page_is_leaked(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x20000), VMCALL);
    l1_prepare(&l2);
    l1_vmlaunch();
    uint32_t in_use = pages_in_use();
    for (unsigned i = 0; i < 300; i++) { // more often than the pool has pages
        switch (i % 4) {
        case 0: // VMfail 7
            l1_vmwrite(VMCS_CR3_TARGET_COUNT, 200);
            expect_fail_valid(try_vmresume(), 7);
            l1_vmwrite(VMCS_CR3_TARGET_COUNT, 0);
            break;
        case 1: // VMfail 8
            l1_vmwrite(VMCS_HOST_TR_SELECTOR, 0);
            expect_fail_valid(try_vmresume(), 8);
            l1_vmwrite(VMCS_HOST_TR_SELECTOR, 0x18);
            break;
        case 2: // exit 33
            l1_vmwrite(VMCS_GUEST_RFLAGS, 0);
            l1_vmresume();
            expect_entry_failure(33, 0);
            l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
            break;
        case 3: // exit 34
            memset(l1_memory(MSR_LISTS), 0xff, 16);
            l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, MSR_LISTS);
            l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1);
            l1_vmresume();
            expect_entry_failure(34, 1);
            l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 0);
            break;
        }
        l1_invept(1, l2.eptp);
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        l1_vmresume();
        expect_exit(EXIT_VMCALL);
        assert_int_equal(pages_in_use(), in_use);
    }
    l1_vmxoff();
    l1_vmxon(VMXON_REGION);
    l1_vmptrld(VMCS_A);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_invept(2, 0);
    l1_vmclear(VMCS_A);
    l1_vmptrld(VMCS_A);
    l1_vmlaunch();
    assert_int_equal(pages_in_use(), in_use);
}

// CVE-2019-7221: a timer that L1 asked for goes on when L2 has exited, or when L1 has left VMX operation.
static void bug_07_a_timer_outlives_l2(void)
{
    L2_PROGRAM(l2, VMCALL, TIME_PASSES(1000000), VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER);
    l1_vmwrite(VMCS_PREEMPTION_TIMER_VALUE, 1000);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    l1_run(TIME_PASSES(1000000)); // nothing happens to L1
    l1_run(NOP);
    l1_clear(VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER);
    l1_resume_behind(); // nor to L2, whose timer is off
    expect_exit(EXIT_VMCALL);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER);
    l1_vmclear(VMCS_A);
    l1_vmxoff();
    l1_run(TIME_PASSES(1000000));
    l1_run(NOP);
}

// CVE-2019-7222: an operand faults, and L0's leftovers reach L1, or the instruction counts as done.
static void bug_08_a_faulting_operand_counts(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    static const struct op faulting[] = {
        OP(.kind = OP_VMCLEAR, AT(L1_NOT_MAPPED)),
        OP(.kind = OP_VMPTRLD, AT(L1_NOT_MAPPED)),
        OP(.kind = OP_VMPTRST, AT(L1_NOT_MAPPED)),
        OP(.kind = OP_VMREAD, .reg2 = GPR_RDX, .a = VMCS_GUEST_RIP, AT(L1_NOT_MAPPED)),
        OP(.kind = OP_VMWRITE, .reg2 = GPR_RDX, .a = VMCS_GUEST_RIP, AT(L1_NOT_MAPPED)),
        OP(.kind = OP_INVEPT, .reg2 = GPR_RDX, .a = 1, AT(L1_NOT_MAPPED)),
        OP(.kind = OP_INVVPID, .reg2 = GPR_RDX, .a = 2, AT(L1_NOT_MAPPED)),
        OP(.kind = OP_VMREAD, .reg2 = GPR_RDX, .a = VMCS_GUEST_ES_LIMIT, AT(L1_NOT_MAPPED)),
        OP(.kind = OP_VMWRITE, .reg2 = GPR_RDX, .a = VMCS_GUEST_ES_LIMIT, AT(L1_NOT_MAPPED)),
        // VMREAD whose operand's second half has no page, behind a half that has one
        OP(.kind = OP_VMREAD, .reg2 = GPR_RDX, .a = VMCS_GUEST_RIP, AT(L1_NOT_MAPPED - 4)),
    };
    for (unsigned i = 0; i < sizeof(faulting) / sizeof(faulting[0]); i++) {
        uint64_t flags = RFLAGS_CF | RFLAGS_ZF | RFLAGS_FIXED;
        l1_run(SET_FLAGS(flags));
        struct outcome outcome = l1_execute(faulting[i]);
        expect_exception(outcome, VECTOR_PF);
        assert_int_equal(l1_rflags() & (RFLAGS_CF | RFLAGS_ZF), RFLAGS_CF | RFLAGS_ZF);
        l1_run(SET_FLAGS(RFLAGS_FIXED));
        assert_int_equal(l1_vmptrst(), VMCS_A);
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
    }
}

// CVE-2017-12188: the depth of L1's paging structures is not the one that L0 walks.
static void bug_09_the_walk_has_another_depth(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x20000), VMCALL);
    l1_prepare(&l2);
    for (uint64_t length = 0; length < 8; length++) {
        if (length == 3)
            continue;
        uint64_t eptp = (l2.eptp & ~0x38ull) | length << 3;
        l1_vmwrite(VMCS_EPT_POINTER, eptp);
        expect_fail_valid(try_vmlaunch(), 7);
        expect_fail_valid(try_invept(1, eptp, 0), 28);
    }
    // with EPT on, L2's own paging has any depth: none, two levels, three
    l1_vmwrite(VMCS_EPT_POINTER, l2.eptp);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    if (!(l1_rdmsr(MSR_IA32_VMX_PROCBASED_CTLS2) >> 32 & SECONDARY_UNRESTRICTED_GUEST))
        return;
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_UNRESTRICTED_GUEST);
    l1_clear(VMCS_VM_ENTRY_CONTROLS, ENTRY_IA32E_MODE_GUEST);
    l1_vmwrite(VMCS_GUEST_IA32_EFER, 0);
    l1_vmwrite(VMCS_GUEST_CS_ACCESS_RIGHTS, 0xc09b);
    l1_vmwrite(VMCS_GUEST_CR0, CR0_PE | CR0_NE | CR0_ET);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

// CVE-2023-30456: control registers that the processor would refuse reach L2.
static void bug_10_control_registers_are_not_checked(void)
{
    static const struct {
        uint32_t field;
        uint64_t value;
    } wrong[] = {
        {VMCS_GUEST_CR0, CR0_PG | CR0_NE | CR0_ET},                       // paging without protection
        {VMCS_GUEST_CR0, CR0_PE | CR0_PG | CR0_ET},                       // NE is fixed to 1
        {VMCS_GUEST_CR0, 1ull << 32 | CR0_PE | CR0_PG | CR0_NE | CR0_ET}, // reserved
        {VMCS_GUEST_CR4, CR4_PAE},                                        // VMXE is fixed to 1
        {VMCS_GUEST_CR4, CR4_PAE | CR4_VMXE | 1ull << 31},                // reserved
        {VMCS_GUEST_CR4, CR4_VMXE},                                       // IA-32e mode without PAE
        {VMCS_GUEST_CR3, 1ull << 60},                                     // wider than MAXPHYADDR
    };
    L2_PROGRAM(l2, VMCALL, MOV_TO_CR(4, CR4_PAE | 1ull << 31), VMCALL, MOV_TO_CR(0, CR0_PG | CR0_NE), VMCALL);
    l1_prepare(&l2);
    l1_vmlaunch();
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        uint64_t right = l1_vmread(wrong[i].field);
        l1_vmwrite(wrong[i].field, wrong[i].value);
        l1_vmresume();
        expect_entry_failure(33, 0);
        l1_vmwrite(wrong[i].field, right);
    }
    // and when L2 writes them itself, it faults
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    l1_resume_behind();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
}

// VirtualBox #313 and others: a check looks at another control word, or #UD and #GP come in the wrong order.
static void bug_11_the_wrong_word_is_checked(void)
{
    l1_run(SET_CPL(3));
    for (unsigned i = 0; i < INSTRUCTIONS; i++) // outside VMX operation privilege does not matter
        expect_exception(l1_execute(vmx_instructions[i]), VECTOR_UD);
    l1_run(SET_CPL(0));
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_run(SET_CPL(3));
    l1_run(TO_COMPATIBILITY_MODE);
    struct op op = VMPTRST(L1_SCRATCH);
    op.memory.address_size = 32;
    expect_exception(l1_execute(op), VECTOR_UD); // before the #GP that CPL 3 would raise
    l1_run(SET_CPL(0));
    // dependencies are between words: virtual NMIs (pin) and the NMI window (primary), the TPR shadow
    // (primary) and what builds on it (secondary)
    if (l1_rdmsr(MSR_IA32_VMX_PINBASED_CTLS) >> 32 & PIN_VIRTUAL_NMIS) {
        l1_set(VMCS_PIN_BASED_CONTROLS, PIN_VIRTUAL_NMIS);
        expect_fail_valid(try_vmlaunch(), 7);
        l1_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
        l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_NMI_WINDOW_EXITING);
        l1_vmlaunch();
        expect_exit(EXIT_NMI_WINDOW);
        l1_clear(VMCS_PIN_BASED_CONTROLS, PIN_VIRTUAL_NMIS);
        expect_fail_valid(try_vmresume(), 7);
        l1_clear(VMCS_PRIMARY_CONTROLS, PRIMARY_NMI_WINDOW_EXITING);
    }
    if (l1_rdmsr(MSR_IA32_VMX_PROCBASED_CTLS2) >> 32 & SECONDARY_VIRTUALIZE_X2APIC_MODE) {
        l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_VIRTUALIZE_X2APIC_MODE);
        expect_fail_valid(try_vmresume(), 7);
    }
}

// The debug-control MSR: what the processor takes, and the virtual processor that L1 has does not.
static void bug_12_l1s_feature_set_is_not_checked(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    for (unsigned bit = 2; bit < 64; bit++) {
        if ((bit >= 6 && bit <= 15))
            continue; // defined on one processor or another
        l1_vmwrite(VMCS_GUEST_IA32_DEBUGCTL, 1ull << bit);
        l1_vmlaunch();
        expect_entry_failure(33, 0);
    }
    l1_vmwrite(VMCS_GUEST_IA32_DEBUGCTL, 0);
    // a control that L1 is not offered, whatever the processor has
    uint64_t offered = l1_rdmsr(MSR_IA32_VMX_PROCBASED_CTLS2) >> 32;
    uint64_t secondary = l1_vmread(VMCS_SECONDARY_CONTROLS);
    for (unsigned bit = 0; bit < 32; bit++) {
        if (offered >> bit & 1)
            continue;
        l1_vmwrite(VMCS_SECONDARY_CONTROLS, secondary | 1u << bit);
        expect_fail_valid(try_vmlaunch(), 7);
    }
    l1_vmwrite(VMCS_SECONDARY_CONTROLS, secondary);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
}

#define MOVING .cpu_count = 3, .move_one_in = 2

static const struct CMUnitTest tests[] = {
    BOTH(bug_01_cpl_is_not_checked),
    BOTH(bug_02_l0_emulates_what_l1_intercepts),
    BOTH(bug_03_l2_reaches_the_real_cr8),
    BOTH(bug_04_the_msr_bitmap_leaks_l0s_msrs),
    BOTH(bug_05_the_bitmap_merge_is_stale),
    BOTH_WITH(bug_05_the_bitmap_merge_is_stale, ", moving", MOVING),
    NESTED(bug_06_a_page_is_leaked, .cpu_count = 1),
    BOTH(bug_07_a_timer_outlives_l2),
    BOTH(bug_08_a_faulting_operand_counts),
    BOTH_WITH(bug_08_a_faulting_operand_counts, ", without VMCS shadowing", .without_vmcs_shadowing = true),
    BOTH(bug_09_the_walk_has_another_depth),
    BOTH(bug_10_control_registers_are_not_checked),
    BOTH(bug_11_the_wrong_word_is_checked),
    BOTH(bug_12_l1s_feature_set_is_not_checked),
    BOTH_WITH(bug_12_l1s_feature_set_is_not_checked, ", sparse processor", .processor = &processor_sparse),
};

int main(void)
{
    return cmocka_run_group_tests_name("bugs 1 to 12", tests, NULL, NULL);
}
