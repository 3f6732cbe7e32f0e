// SPDX-License-Identifier: MIT
// What one entry, exit, VMCS or failure leaves behind must not be there for the next: values that L2 changed,
// a list that failed, bits that were learnt, events that were on their way.
#include "l1_vmx.h"
#include <model.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

// As the processor has it, while L1 runs.
static uint64_t of_vmcs01(enum vmcs_field field)
{
    return vmcs_cache_find(l1_cpu(), world_vmcs01())->data.field[field];
}

static void put_msr(unsigned index, uint32_t msr, uint64_t value)
{
    uint8_t *entry = (uint8_t *)l1_memory(MSR_LISTS) + 16 * index;
    memset(entry, 0, 16);
    memcpy(entry, &msr, 4);
    memcpy(entry + 8, &value, 8);
}

// L1 writes what vmcs02 held before L2 ran: L2 finds that, and not what it made of it.
static void what_l2_changed_is_set_back(void)
{
    static const struct {
        uint32_t field;
        uint64_t value;
    } set[] = {{VMCS_GUEST_DR7, 0x400},
               {VMCS_GUEST_IA32_DEBUGCTL, 0},
               {VMCS_GUEST_IA32_PAT, 0x0007040600070406},
               {VMCS_GUEST_SYSENTER_ESP, 0x5000},
               {VMCS_GUEST_FS_BASE, 0x6000}};
    L2_PROGRAM(l2, MOV_FROM_DR(GPR_RBX, 7), RDMSR(MSR_IA32_DEBUGCTL), RDMSR(MSR_IA32_PAT), RDMSR(MSR_FS_BASE),
               RDMSR(MSR_IA32_SYSENTER_ESP), MOV_TO_DR(7, 0x455), WRMSR(MSR_IA32_DEBUGCTL, 1),
               WRMSR(MSR_IA32_PAT, 0x0007040600070400), WRMSR(MSR_FS_BASE, 0x7000),
               WRMSR(MSR_IA32_SYSENTER_ESP, 0x8000), CPUID(1));
    l1_prepare(&l2);
    for (unsigned turn = 0; turn < 3; turn++) {
        for (unsigned i = 0; i < sizeof(set) / sizeof(set[0]); i++)
            l1_vmwrite(set[i].field, set[i].value);
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        if (turn == 0)
            l1_vmlaunch();
        else
            l1_vmresume();
        expect_exit(EXIT_CPUID);
        assert_int_equal(l1_gpr(GPR_RBX), 0x400);
        assert_int_equal(l1_vmread(VMCS_GUEST_DR7), 0x455);
        assert_int_equal(l1_vmread(VMCS_GUEST_FS_BASE), 0x7000);
    }
}

// The timer counts down in vmcs02, over exits that L1 does not see. What L1 wrote holds at every entry.
static void the_preemption_timer_starts_anew(void)
{
    L2_PROGRAM(l2, TIME_PASSES(2000), CPUID(1));
    l1_prepare(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER);
    l1_vmwrite(VMCS_PREEMPTION_TIMER_VALUE, 3000);
    l1_vmlaunch();
    for (unsigned i = 0; i < 4; i++) {
        expect_exit(EXIT_CPUID);
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        l1_vmresume();
    }
}

// SS's selector is fetched from vmcs02 when it is asked for. The checks ask.
static void checks_see_what_l2_changed(void)
{
    L2_PROGRAM(l2, SET_CPL(3), CPUID(1));
    l1_prepare(&l2);
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    for (unsigned i = 0; i < 3; i++) {
        l1_vmwrite(VMCS_GUEST_GDTR_LIMIT, 0xfff + i); // guest state is checked again
        l1_vmresume();
        expect_exit(EXIT_CPUID);
    }
    assert_int_equal(l1_vmread(VMCS_GUEST_SS_SELECTOR) & 3, 3);
}

// The entry of an MSR list that fails comes after others that were loaded, and after an L2 that changed its
// state.
static void a_failed_msr_list_leaves_guest_state(void)
{
    L2_PROGRAM(l2, WRMSR(MSR_IA32_SYSENTER_ESP, 0x77000), CPUID(1));
    l1_prepare(&l2);
    put_msr(0, MSR_IA32_SYSENTER_EIP, 0x1000);
    put_msr(1, MSR_IA32_SYSENTER_ESP, 0x1000);
    put_msr(2, MSR_FS_BASE + 2, 0); // IA32_KERNEL_GS_BASE
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, MSR_LISTS);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 3);
    l1_vmlaunch();
    expect_exit(EXIT_CPUID);
    put_msr(0, MSR_IA32_SYSENTER_EIP, 0x2000); // in L1's memory only: its VMCS stays as it is
    put_msr(1, MSR_IA32_SYSENTER_ESP, 0x3000);
    put_msr(2, 0xffffffff, 0);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000306); // neither L1 nor L2 gets it
    l1_vmresume();
    expect_entry_failure(34, 3);
    assert_int_equal(l1_vmread(VMCS_GUEST_SYSENTER_ESP), 0x77000);
    assert_int_equal(l1_vmread(VMCS_GUEST_SYSENTER_EIP), 0x1000);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 0);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0);
    l1_vmresume();
    expect_exit(EXIT_CPUID);
    assert_int_equal(l1_vmread(VMCS_GUEST_SYSENTER_ESP), 0x77000);
    assert_int_equal(l1_vmread(VMCS_GUEST_SYSENTER_EIP), 0x1000);
}

// Where L1 has no memory, all bits are 1.
static void an_io_bitmap_outside_ram_asks_for_everything(void)
{
    L2_PROGRAM(l2, IN(0x80), VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS);
    l1_vmwrite(VMCS_IO_BITMAP_A, L1_RAM_SIZE + 0x1000);
    l1_vmwrite(VMCS_IO_BITMAP_B, L1_RAM_SIZE + 0x2000);
    l1_vmlaunch();
    expect_exit(EXIT_IO_INSTRUCTION);
}

static void an_msr_bitmap_outside_ram_asks_for_everything(void)
{
    L2_PROGRAM(l2, RDMSR(MSR_IA32_SYSENTER_CS), VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_MSR_BITMAP, L1_RAM_SIZE + 0x1000);
    l1_vmlaunch();
    expect_exit(EXIT_RDMSR);
}

// L2 uses ports of more words of the bitmap than L0 remembers. The bits of a word that is forgotten for
// another one are not that one's.
static void a_forgotten_word_leaves_nothing_open(void)
{
    static struct op program[2 * LEARNED_WORD_COUNT + 8];
    unsigned count = 0;
    for (unsigned word = 0; word < LEARNED_WORD_COUNT; word++)
        program[count++] = IN(0x1000 + 64 * word + 5);
    for (unsigned word = LEARNED_WORD_COUNT; word < LEARNED_WORD_COUNT + 4; word++)
        program[count++] = IN(0x1000 + 64 * word + 1);
    program[count++] = IN(0x1000 + 64 * (LEARNED_WORD_COUNT + 3) + 5); // L1's
    struct l2 l2 = {.op = program, .count = count};
    l2_load(&l2);
    l1_prepare(&l2);
    memset(l1_memory(IO_BITMAPS), 0, 2 * PAGE_SIZE);
    unsigned port = 0x1000 + 64 * (LEARNED_WORD_COUNT + 3) + 5;
    ((uint8_t *)l1_memory(IO_BITMAPS))[port / 8] = (uint8_t)(1u << port % 8);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS);
    l1_vmwrite(VMCS_IO_BITMAP_A, IO_BITMAPS);
    l1_vmwrite(VMCS_IO_BITMAP_B, IO_BITMAPS + PAGE_SIZE);
    l1_vmlaunch();
    expect_exit(EXIT_IO_INSTRUCTION);
    assert_int_equal(l1_vmread(VMCS_EXIT_QUALIFICATION) >> 16, port);
}

// Blocking by NMI that L2 has, and that is not virtual, is L1's behind the exit.
static void blocking_by_nmi_outlasts_the_exit(void)
{
    L2_PROGRAM(l2, NOP, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, INTERRUPTIBILITY_NMI);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPTIBILITY), INTERRUPTIBILITY_NMI);
    l1_run(NMI_ARRIVES);
    l1_run(NOP); // it waits
    expect_exception(l1_execute(INT(0x30)), VECTOR_NMI);
}

// --- an NMI that L0 has for L1

// L1's entry has succeeded: L2 is there first. Without NMI exiting the NMI is L2's, behind the event that is
// injected.
static void an_nmi_comes_behind_the_entry(void)
{
    L2_PROGRAM(l2, NOP, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
    l0_do(L0_PENDS_NMI);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INTERRUPTION_INFO), NMI_EVENT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
    l1_run(NOP);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000306);
    l0_do(L0_PENDS_NMI);
    l1_vmresume(); // #UD is delivered, then the NMI exits, at the handler's first instruction
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), 0xe006);
    l1_vmresume();
    expect_exit(EXIT_HLT);
    expect_fail_valid(try_vmlaunch(), 4); // L2 did run
}

// The NMI waits in L2 for its blocking to end, and L1 runs first: L1's VMCS gets no window of L2's, and L2's
// none.
static void an_nmi_window_is_not_left_behind(void)
{
    L2_PROGRAM(l2, NOP, VMCALL, NOP, VMCALL);
    l1_prepare(&l2);
    uint64_t pin = of_vmcs01(F_PIN_BASED_CONTROLS), primary = of_vmcs01(F_PRIMARY_CONTROLS);
    l1_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, INTERRUPTIBILITY_NMI);
    l0_do(L0_PENDS_NMI);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_true(world_vcpu()->nmi_pending);
    expect_exception(l1_execute(INT(0x30)), VECTOR_NMI); // blocking by NMI was L1's, too; its IRET ends it
    assert_false(world_vcpu()->nmi_pending);
    assert_int_equal(of_vmcs01(F_PIN_BASED_CONTROLS), pin);
    assert_int_equal(of_vmcs01(F_PRIMARY_CONTROLS), primary);
    l1_skip_instruction();
    l1_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);

    // ... and the other way: it waits in L1, and exits from the L2 that L1 enters instead.
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
    l0_do(L0_PENDS_NMI);
    l1_vmresume();
    expect_exit(EXIT_EXCEPTION_OR_NMI); // L1 blocks NMIs now
    l0_do(L0_PENDS_NMI);
    l1_run(CPUID(0));
    l1_run(CPUID(0));
    assert_true(world_vcpu()->nmi_pending);
    l1_vmresume();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_false(world_vcpu()->nmi_pending);
    assert_int_equal(of_vmcs01(F_PIN_BASED_CONTROLS), pin);
    assert_int_equal(of_vmcs01(F_PRIMARY_CONTROLS), primary);
}

static void expect_no_nmi(uint64_t pin, uint64_t primary)
{
    l1_run(NOP);
    assert_false(world_vcpu()->nmi_pending);
    assert_int_equal(of_vmcs01(F_PIN_BASED_CONTROLS), pin);
    assert_int_equal(of_vmcs01(F_PRIMARY_CONTROLS), primary);
}

// A virtual processor that is reset has no event on its way, and no window open for one.
static void a_reset_forgets_events(void)
{
    L2_PROGRAM(l2, IN(0x510), VMCALL);
    l1_prepare(&l2);
    uint64_t pin = of_vmcs01(F_PIN_BASED_CONTROLS), primary = of_vmcs01(F_PRIMARY_CONTROLS);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000306);
    l0_do(L0_RESTARTS_L1); // the entry is pending, with its event
    assert_int_equal(try_vmlaunch().how, EXITED);
    l1_run(NOP);

    l1_vmxon(VMXON_REGION);
    l1_prepare_vmcs(VMCS_A, &l2);
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
    l0_do(L0_PENDS_NMI);
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI); // L1 blocks NMIs now
    l0_do(L0_PENDS_NMI);                // it waits, and a window is open
    l1_run(CPUID(0));
    l1_run(CPUID(0));
    assert_true(world_vcpu()->nmi_pending);
    l0_do(L0_RESTARTS_L1);
    assert_int_equal(l1_execute(CPUID(0)).how, EXITED);
    expect_no_nmi(pin, primary);

    l1_vmxon(VMXON_REGION);
    l1_prepare_vmcs(VMCS_A, &l2);
    l1_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, INTERRUPTIBILITY_NMI);
    l0_do(L0_PENDS_NMI);   // for L2, which blocks NMIs
    l0_do(L0_RESTARTS_L1); // at its exit to L0
    assert_int_equal(try_vmlaunch().how, EXITED);
    assert_false(world_vcpu()->in_l2);
    expect_no_nmi(pin, primary);
}

// The shadow VMCS holds what L1 wrote before the reset; the VMCS that becomes current behind it does not.
static void a_reset_forgets_the_shadow_vmcs(void)
{
    L2_PROGRAM(l2, CPUID(1));
    l1_prepare(&l2);
    l1_vmwrite(VMCS_GUEST_RSP, 0x9000);
    l1_vmclear(VMCS_A);
    l1_vmptrld(VMCS_A);
    l1_vmwrite(VMCS_GUEST_RSP, 0x8f00);
    l0_do(L0_RESTARTS_L1);
    assert_int_equal(l1_execute(CPUID(0)).how, EXITED);
    l1_vmxon(VMXON_REGION);
    l1_vmptrld(VMCS_A);
    assert_int_equal(l1_vmread(VMCS_GUEST_RSP), 0x9000);
}

static const struct CMUnitTest tests[] = {
    BOTH(what_l2_changed_is_set_back),
    BOTH(the_preemption_timer_starts_anew),
    BOTH(checks_see_what_l2_changed),
    BOTH(a_failed_msr_list_leaves_guest_state),
    BOTH(an_io_bitmap_outside_ram_asks_for_everything),
    BOTH(an_msr_bitmap_outside_ram_asks_for_everything),
    BOTH(a_forgotten_word_leaves_nothing_open),
    BOTH(blocking_by_nmi_outlasts_the_exit),
    NESTED(an_nmi_comes_behind_the_entry, .cpu_count = 1),
    NESTED(an_nmi_window_is_not_left_behind, .cpu_count = 1),
    NESTED(a_reset_forgets_events, .cpu_count = 1),
    NESTED(a_reset_forgets_the_shadow_vmcs, .cpu_count = 1),
};

int main(void)
{
    return cmocka_run_group_tests_name("leftovers", tests, NULL, NULL);
}
