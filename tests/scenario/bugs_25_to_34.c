// SPDX-License-Identifier: MIT
// Bug classes of nested VMX, as other hypervisors had them: 25 to 34. Each test is named after its class.
// Manual: VMX Instruction Reference; VM Exits; Guest Non-Register State; Monitor Trap Flag.
#include "l1_vmx.h"
#include "world_internal.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

// --- 25: an error path leaves the wrong VMCS current

static void expect_l1_current(uint64_t pointer)
{
    assert_int_equal(l1_vmptrst(), pointer);
    if (world_is_nested()) {
        assert_ptr_equal(world_vcpu()->current, &world_vcpu()->vmcs01);
        assert_int_equal(l1_cpu()->current_pointer, world_vmcs01());
    }
}

static void bug_25_an_error_path_leaves_the_wrong_vmcs_current(void)
{
    static const struct {
        uint32_t field;
        uint64_t wrong;
    } failures[] = {
        {VMCS_CR3_TARGET_COUNT, 100},              // VMfail 7
        {VMCS_HOST_CS_SELECTOR, 0},                // VMfail 8
        {VMCS_GUEST_RFLAGS, 0},                    // exit 33
        {VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1},         // exit 34
        {VMCS_VMCS_LINK_POINTER, L1_SCRATCH + 64}, // exit 33, qualification 4
    };
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    memset(l1_memory(MSR_LISTS), 0xff, 16);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, MSR_LISTS);
    for (unsigned i = 0; i < sizeof(failures) / sizeof(failures[0]); i++) {
        uint64_t right = l1_vmread(failures[i].field);
        l1_vmwrite(failures[i].field, failures[i].wrong);
        struct outcome outcome = i == 0 ? try_vmlaunch() : try_vmresume();
        assert_true(outcome.how == EXITED || outcome.zf);
        expect_l1_current(VMCS_A);
        assert_int_equal(l1_vmread(failures[i].field), failures[i].wrong);
        l1_vmwrite(failures[i].field, right);
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        if (i == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_exit(EXIT_VMCALL);
        expect_l1_current(VMCS_A);
    }
    expect_fail_valid(try_vmptrld(VMXON_REGION), 10);
    expect_l1_current(VMCS_A);
    expect_fail_valid(try_vmptrld(VMCS_B + 1), 9);
    expect_l1_current(VMCS_A);
    expect_fail_valid(try_vmclear(VMXON_REGION), 3);
    expect_l1_current(VMCS_A);
    expect_fail_valid(try_vmlaunch(), 4);
    expect_l1_current(VMCS_A);
}

// --- 26: operands are decoded for another mode

static void bug_26_operands_are_decoded_for_another_mode(void)
{
    l1_enter_vmx_operation();
    l1_make_region(VMCS_A);
    l1_vmclear(VMCS_A);
    l1_vmptrld(VMCS_A);
    uint64_t value = 0x1122334455667788;
    // 32-bit addresses wrap at 4 GBytes in 64-bit mode, too, and are zero-extended
    struct op op = VMWRITE_FROM(0, VMCS_GUEST_RIP);
    op.memory = (struct memory_operand){.base = GPR_RSI,
                                        .index = GPR_RDI,
                                        .scale = 3,
                                        .segment = SEGMENT_DS,
                                        .address_size = 32,
                                        .displacement = -8};
    memcpy(l1_memory(L1_SCRATCH + 0x100), &value, 8);
    l1_set_gpr(GPR_RSI, 1ull << 32 | (L1_SCRATCH + 0x108));
    l1_set_gpr(GPR_RDI, 0x20000000); // 8 times that is 2^32
    expect_succeed(l1_execute(op));
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), value);
    // the same with 64-bit addresses is elsewhere
    op.memory.address_size = 64;
    expect_exception(l1_execute(op), VECTOR_PF);
    // the base of FS is added in 64-bit mode, that of DS is not
    l1_wrmsr(MSR_FS_BASE, 0x100);
    op = VMWRITE_FROM(L1_SCRATCH, VMCS_GUEST_RSP);
    op.memory.segment = SEGMENT_FS;
    expect_succeed(l1_execute(op));
    assert_int_equal(l1_vmread(VMCS_GUEST_RSP), value);
    // a field's width decides what is kept and what is read
    l1_vmwrite(VMCS_GUEST_CS_SELECTOR, 0xffffffffffff1234);
    assert_int_equal(l1_vmread(VMCS_GUEST_CS_SELECTOR), 0x1234);
    l1_vmwrite(VMCS_GUEST_CS_LIMIT, 0xffffffff12345678);
    assert_int_equal(l1_vmread(VMCS_GUEST_CS_LIMIT), 0x12345678);
    l1_vmwrite(VMCS_TSC_OFFSET, value);
    assert_int_equal(l1_vmread(VMCS_TSC_OFFSET | 1), 0x11223344);
    l1_vmwrite(VMCS_TSC_OFFSET | 1, 0xffffffff00000001);
    assert_int_equal(l1_vmread(VMCS_TSC_OFFSET), 0x0000000155667788);
}

// --- 27: an exit of L2 that nobody knows. L1's processor has no such exit: #UD in L2
// (tests/scenario/unknown_exits.c).

static void bug_27_an_unknown_exit(void)
{
    L2_PROGRAM(l2, FUTURE(35), FUTURE(38), FUTURE(42), FUTURE(300), FUTURE(0x7fff), VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_UD);
    l1_vmlaunch();
    for (unsigned i = 0; i < 5; i++) {
        expect_exit(EXIT_EXCEPTION_OR_NMI);
        assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), HARDWARE(VECTOR_UD));
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 4 * i);
        l1_resume_at(l2.code + 4 * (i + 1));
    }
    expect_exit(EXIT_VMCALL);
}

// --- 28: the activity state "shutdown" reaches the hardware, where entering it resets the platform

static void bug_28_shutdown_reaches_the_hardware(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING | PIN_EXTERNAL_INTERRUPT_EXITING);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    l1_vmwrite(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_SHUTDOWN);
    if (!(l1_rdmsr(MSR_IA32_VMX_MISC) & MISC_ACTIVITY_SHUTDOWN)) {
        l1_vmlaunch();
        expect_entry_failure(33, 0);
        return;
    }
    assert_int_equal(try_vmlaunch().how, IDLE);
    if (world_is_nested())
        assert_int_not_equal(l1_cpu()->activity, ACTIVITY_SHUTDOWN);
    cpu_interrupt(l1_cpu(), 0x66); // does not wake it
    assert_int_equal(l1_continue().how, IDLE);
    cpu_nmi(l1_cpu());
    assert_int_equal(l1_continue().how, EXITED);
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), NMI_EVENT);
    assert_int_equal(l1_vmread(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_SHUTDOWN);
    assert_int_equal(l1_vmread(VMCS_GUEST_RFLAGS), RFLAGS_FIXED | RFLAGS_IF);
    l1_vmwrite(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_ACTIVE);
    l1_vmresume(); // the interrupt is still there
    expect_exit(EXIT_EXTERNAL_INTERRUPT);
}

// ... and an NMI that L1 does not want ends it: L2, which was in user mode, is in its handler then.
static void bug_28_an_nmi_ends_shutdown(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    if (!(l1_rdmsr(MSR_IA32_VMX_MISC) & MISC_ACTIVITY_SHUTDOWN))
        return;
    l1_vmwrite(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_SHUTDOWN);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    l1_vmwrite(VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa0fb);
    l1_vmwrite(VMCS_GUEST_CS_SELECTOR, 0x23);
    l1_vmwrite(VMCS_GUEST_SS_ACCESS_RIGHTS, 0xc0f3);
    l1_vmwrite(VMCS_GUEST_SS_SELECTOR, 0x2b);
    assert_int_equal(try_vmlaunch().how, IDLE);
    cpu_nmi(l1_cpu());
    assert_int_equal(l1_continue().how, EXITED);
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_NMI));
    assert_int_equal(l1_vmread(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_ACTIVE);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPTIBILITY), INTERRUPTIBILITY_NMI);
    const uint64_t *frame = l2_memory(l1_vmread(VMCS_GUEST_RSP));
    assert_int_equal(frame[0], l2.code);
    assert_int_equal(frame[1], 0x23);
    assert_int_equal(frame[2], RFLAGS_FIXED | RFLAGS_IF);
    assert_int_equal(frame[4], 0x2b);
}

// --- 29: the monitor trap flag, pending debug exceptions

static void bug_29_mtf_and_pending_debug_exceptions(void)
{
    L2_PROGRAM(l2, NOP, NOP, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_MONITOR_TRAP_FLAG | PRIMARY_HLT_EXITING);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, HARDWARE(VECTOR_UD));
    l1_vmlaunch(); // the trap is pending behind the delivery, before the handler's first instruction
    expect_exit(EXIT_MONITOR_TRAP_FLAG);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_UD));
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
    l1_resume_at(l2.code);
    expect_exit(EXIT_MONITOR_TRAP_FLAG);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 1);
    l1_clear(VMCS_PRIMARY_CONTROLS, PRIMARY_MONITOR_TRAP_FLAG);
    // a pending single-step trap survives L1's round trip, and is delivered once
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_DB);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_TF);
    l1_vmwrite(VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 14);
    l1_vmresume();
    expect_exit_qualification(EXIT_EXCEPTION_OR_NMI, 1 << 14);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 1);
    l1_vmwrite(VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

// --- 30: enlightened VMCS. There is none, by construction: it comes with Hyper-V's CPUID leaves, and no VMCS
// is found other than by VMPTRLD; whatever the first page of memory or a revision identifier says.

static void bug_30_an_enlightened_vmcs(void)
{
    l1_enter_vmx_operation();
    uint32_t version = 1; // that of an enlightened VMCS
    memset(l1_memory(VMCS_B), 0, PAGE_SIZE);
    memcpy(l1_memory(VMCS_B), &version, 4);
    l1_make_region(VMCS_A);
    l1_vmclear(VMCS_A);
    l1_vmptrld(VMCS_A);
    expect_fail_valid(try_vmptrld(VMCS_B), 11);
    l1_run(CPUID(0x40000000));
    assert_int_not_equal((uint32_t)l1_gpr(GPR_RBX), 0x7263694d); // "Micr"
}

// --- 31: INVEPT and INVVPID

static void bug_31_invept_and_invvpid_operands(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, 0x20000), VMCALL);
    l2.vpid = 5;
    l1_prepare(&l2);
    uint64_t caps = l1_rdmsr(MSR_IA32_VMX_EPT_VPID_CAP);
    static const uint64_t pointers[] = {0,      1,         0x1000,     1ull << 45, UINT64_MAX,
                                        L2_RAM, 0x8000000, 0x7fffffff, 6 | 3 << 3, L1_REGIONS};
    l1_vmlaunch();
    for (uint64_t type = 0; type < 6; type++) {
        bool offered = type < 3 && type > 0 && caps >> (24 + type) & 1;
        for (unsigned i = 0; i < sizeof(pointers) / sizeof(pointers[0]); i++) {
            struct outcome outcome = try_invept(type, pointers[i], i % 2 ? UINT64_MAX : 0);
            assert_int_equal(outcome.how, COMPLETED);
            if (!offered)
                expect_fail_valid(outcome, 28);
            if (type == 2 && offered)
                expect_succeed(outcome); // whatever the descriptor
        }
        if (offered)
            expect_succeed(try_invept(type, l2.eptp, 0));
        offered = type < 4 && caps >> (40 + type) & 1;
        for (unsigned i = 0; i < sizeof(pointers) / sizeof(pointers[0]); i++) {
            struct outcome outcome = try_invvpid(type, pointers[i], pointers[sizeof(pointers) / 8 - 1 - i]);
            assert_int_equal(outcome.how, COMPLETED);
            if (!offered)
                expect_fail_valid(outcome, 28);
        }
        if (offered)
            expect_succeed(try_invvpid(type, 5, 0x20000));
        l1_resume_at(l2.code);
        expect_exit(EXIT_VMCALL);
    }
    // types beyond 32 bits are types that do not exist
    expect_fail_valid(try_invept(1ull << 32 | 1, l2.eptp, 0), 28);
    expect_fail_valid(try_invvpid(1ull << 32 | 2, 0, 0), 28);
}

// --- 32: CVE-2016-9588: L2's #BP and #OF

static void bug_32_l2s_bp_and_of_do_not_exit(void)
{
    L2_PROGRAM(l2, INT3, NOP, SET_FLAGS(RFLAGS_FIXED | RFLAGS_OF), INT3, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_BP | 1u << 4);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), SOFTWARE_EX(VECTOR_BP));
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 1);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
    // L1 injects it: into L2's handler, with the RIP behind the instruction on the stack
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, SOFTWARE_EX(VECTOR_BP));
    l1_vmwrite(VMCS_VM_ENTRY_INSTRUCTION_LENGTH, 1);
    l1_vmresume();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_BP));
    assert_int_equal(*(uint64_t *)l2_memory(l1_vmread(VMCS_GUEST_RSP)), l2.code + 1);
    // #OF, which INTO raises outside 64-bit mode only: compatibility mode
    L2_PROGRAM(other, TO_COMPATIBILITY_MODE, SET_FLAGS(RFLAGS_FIXED | RFLAGS_OF), INTO);
    l1_resume_at(other.code);
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), SOFTWARE_EX(4));
}

// --- 33: CVE-2017-1000407: a port is left open to L2

static void bug_33_a_port_is_left_open(void)
{
    enum {
        PORTS = 0x10000,
        STEP = 61,
        COUNT = PORTS / STEP
    }; // 61 is prime: every place in a byte and a word
    static struct op ops[COUNT + 8];
    static const unsigned notable[] = {0x60, 0x70, 0x80, 0xcf8, 0xcfc, 0x510, 0x8900};
    unsigned count = 0;
    for (unsigned i = 0; i < COUNT; i++)
        ops[count++] = OUT(i * STEP, 0x55);
    for (unsigned i = 0; i < sizeof(notable) / sizeof(notable[0]); i++)
        ops[count++] = OUT(notable[i], 0x55);
    ops[count++] = VMCALL;
    struct l2 l2 = {.op = ops, .count = count};
    l2_load(&l2);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_IO_BITMAP_A, IO_BITMAPS);
    l1_vmwrite(VMCS_IO_BITMAP_B, IO_BITMAPS + PAGE_SIZE);
    memset(l1_memory(IO_BITMAPS), 0xff, 2 * PAGE_SIZE);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS);
    l1_vmlaunch();
    for (unsigned i = 0; i + 1 < count; i++) {
        expect_exit(EXIT_IO_INSTRUCTION);
        assert_int_equal(l1_vmread(VMCS_EXIT_QUALIFICATION) >> 16, ops[i].a);
        l1_resume_behind();
    }
    expect_exit(EXIT_VMCALL);
}

// --- 34: VMLAUNCH or VMRESUME is decided from a stale flag

static void bug_34_launch_or_resume(void)
{
    L2_PROGRAM(l2, CPUID(1));
    l1_prepare(&l2);
    const struct vmcs_count *vmcs02 = machine_count(world_machine(), world_vmcs02());
    for (unsigned i = 0; i < 12; i++) {
        bool moves = i == 0 || i == 3 || i == 4 || i == 9;
        if (i == 7) { // L1's launch state is its own
            l1_vmclear(VMCS_A);
            l1_vmptrld(VMCS_A);
        }
        if (moves && i != 0)
            l0_move_to(i % 2);
        if (i == 0 || i == 7)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_exit(EXIT_CPUID);
        assert_int_equal(vmcs02->failed_entry, 0);
        assert_int_equal(vmcs02->vmlaunch, 1 + l0_move_count());
        if (i % 3 == 1) { // a failed entry in between decides nothing
            l1_vmwrite(VMCS_GUEST_RFLAGS, 0);
            l1_vmresume();
            expect_entry_failure(33, 0);
            l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
        }
    }
    assert_true(l0_move_count() > 1 && vmcs02->vmresume > 10);
}

#define MOVING .cpu_count = 3, .move_one_in = 2

static const struct CMUnitTest tests[] = {
    BOTH(bug_25_an_error_path_leaves_the_wrong_vmcs_current),
    BOTH_WITH(bug_25_an_error_path_leaves_the_wrong_vmcs_current, ", moving", MOVING),
    BOTH(bug_26_operands_are_decoded_for_another_mode),
    BOTH_WITH(bug_26_operands_are_decoded_for_another_mode, ", without VMCS shadowing",
              .without_vmcs_shadowing = true),
    NESTED(bug_27_an_unknown_exit),
    BOTH(bug_28_shutdown_reaches_the_hardware),
    BOTH_WITH(bug_28_shutdown_reaches_the_hardware, ", moving", MOVING),
    BOTH(bug_28_an_nmi_ends_shutdown),
    BOTH_WITH(bug_28_an_nmi_ends_shutdown, ", moving", MOVING),
    BOTH(bug_29_mtf_and_pending_debug_exceptions),
    BOTH_WITH(bug_29_mtf_and_pending_debug_exceptions, ", moving", MOVING),
    BOTH(bug_30_an_enlightened_vmcs),
    BOTH(bug_31_invept_and_invvpid_operands),
    BOTH_WITH(bug_31_invept_and_invvpid_operands, ", moving", MOVING),
    BOTH(bug_32_l2s_bp_and_of_do_not_exit),
    BOTH(bug_33_a_port_is_left_open),
    NESTED(bug_34_launch_or_resume, .cpu_count = 2),
};

int main(void)
{
    return cmocka_run_group_tests_name("bugs 25 to 34", tests, NULL, NULL);
}
