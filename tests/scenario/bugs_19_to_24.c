// SPDX-License-Identifier: MIT
// Bug classes of nested VMX, as other hypervisors had them: 19 to 24. Each test is named after its class.
// Manual: Caching Translation Information; Information for VM Exits Due to Vectored Events; Event Injection;
// APIC Virtualization and Virtual Interrupts.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define AT_PAGE 0x30000 // a linear address of L2

static void inject(uint32_t info, uint32_t error_code)
{
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, info);
    l1_vmwrite(VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, error_code);
}

// A page of ept02's pool serves in another role (as a table of another level, or of another root), or after
// it was freed: L2 sees another's memory, or reaches what nobody mapped.
static void bug_19_a_table_is_used_in_another_role(void)
{
    enum { ROOTS = 12 };
    L2_PROGRAM(l2, READ(GPR_RBX, AT_PAGE), VMCALL);
    l1_prepare(&l2);
    uint64_t eptp[ROOTS], page[ROOTS];
    for (unsigned i = 0; i < ROOTS; i++) {
        page[i] = l1_new_page();
        memset(l1_memory(page[i]), (int)(0x10 + i), 8);
        eptp[i] = l1_new_ept();
        if (i % 2) // by large pages with one hole, or by small ones: tables of other levels
            l1_ept_map(eptp[i], 0x200000, L2_RAM + 0x200000, 0x200000, 0x200000, 7);
        l1_ept_map(eptp[i], 0, L2_RAM, 0x40000, 0x1000, 7);
        l1_ept_map(eptp[i], AT_PAGE, page[i], 0x1000, 0x1000, 7);
    }
    l1_vmlaunch();
    for (unsigned i = 0; i < 200; i++) {
        unsigned root = i * 7 % ROOTS;
        l1_vmwrite(VMCS_EPT_POINTER, eptp[root]);
        if (i % 5 == 4)
            l1_invept(1, eptp[(root + 1) % ROOTS]);
        l1_resume_at(l2.code);
        expect_exit(EXIT_VMCALL);
        assert_int_equal(l1_gpr(GPR_RBX) & 0xff, 0x10 + root);
    }
    // a table becomes a large page, and a table again
    uint64_t *entry = l1_ept_entry(eptp[0], 0, 2), table = *entry;
    memset(l2_memory(0x200000 + AT_PAGE), 0x77, 8);
    for (unsigned i = 0; i < 6; i++) {
        *entry = i % 2 ? table : (L2_RAM + 0x200000) | 7 | 6 << 3 | 0x80;
        memcpy(l2_memory(0x200000 + 0x1000), l2_memory(0x1000),
               0x8000); // L2's tables and code are there, too
        l1_invept(1, eptp[0]);
        l1_vmwrite(VMCS_EPT_POINTER, eptp[0]);
        l1_resume_at(l2.code);
        expect_exit(EXIT_VMCALL);
        assert_int_equal(l1_gpr(GPR_RBX) & 0xff, i % 2 ? 0x10 : 0x77);
    }
}

// Wrong exit information: error codes in real-address mode, IDT-vectoring information behind double and
// triple faults, fields that a failed entry touches.
static void bug_20_the_exit_information_is_wrong(void)
{
    L2_PROGRAM(l2, FAULT_CODE(VECTOR_GP, 0), NOP, VMCALL);
    L2_PROGRAM(of_l0, WRMSR(MSR_IA32_VMX_BASIC, 1)); // L0 raises the #GP
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_DF);
    uint64_t idtr = l1_vmread(VMCS_GUEST_IDTR_LIMIT);
    l1_vmwrite(VMCS_GUEST_IDTR_LIMIT, 0); // every delivery faults: #GP, then #DF
    l1_vmlaunch();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), HARDWARE(VECTOR_DF) | WITH_CODE);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    l1_vmresume();
    expect_exit_qualification(EXIT_TRIPLE_FAULT, 0);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), 0);
    // a failed entry writes the exit reason and the qualification
    l1_vmwrite(VMCS_GUEST_IDTR_LIMIT, idtr);
    inject(HARDWARE(VECTOR_GP) | WITH_CODE, 0x18);
    l1_vmresume();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_GP));
    l1_vmwrite(VMCS_GUEST_RFLAGS, 0);
    inject(HARDWARE(VECTOR_UD), 0);
    uint32_t length = (uint32_t)l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH);
    l1_vmresume();
    expect_entry_failure(33, 0);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH), length);
    assert_int_equal(l1_vmread(VMCS_VM_ENTRY_INTERRUPTION_INFO), HARDWARE(VECTOR_UD)); // still valid
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(VECTOR_GP));
    // real-address mode: exceptions have no error code
    if (!(l1_rdmsr(MSR_IA32_VMX_PROCBASED_CTLS2) >> 32 & SECONDARY_UNRESTRICTED_GUEST))
        return;
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_UNRESTRICTED_GUEST);
    l1_clear(VMCS_VM_ENTRY_CONTROLS, ENTRY_IA32E_MODE_GUEST);
    l1_vmwrite(VMCS_GUEST_IA32_EFER, 0);
    l1_vmwrite(VMCS_GUEST_CR0, CR0_NE | CR0_ET);
    l1_vmwrite(VMCS_GUEST_CS_ACCESS_RIGHTS, 0x9b);
    l1_vmwrite(VMCS_GUEST_CS_LIMIT, 0xffff);
    inject(HARDWARE(VECTOR_GP) | WITH_CODE, 0);
    expect_fail_valid(try_vmresume(), 7); // nor may they be injected with one
    inject(0, 0);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmwrite(VMCS_GUEST_CS_BASE, 0);
    l1_vmresume();
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), HARDWARE(VECTOR_GP));
    l1_resume_at(of_l0.code);
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), HARDWARE(VECTOR_GP));
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 0);
    l1_vmwrite(VMCS_GUEST_IDTR_LIMIT, 0);
    l1_vmresume();
    expect_exit(EXIT_TRIPLE_FAULT);
}

// Events that L1 injects reach L2 once, and L1 never; one that an exit interrupts is L1's to inject again.
static void bug_21_events_leak_or_are_lost(void)
{
    L2_PROGRAM(l2, STI, NOP, VMCALL);
    l1_prepare(&l2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    uint64_t *stack = l1_ept_entry(l2.eptp, 0x8000, 1), entry = *stack;
    *stack = 0; // the delivery's push misses
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    inject(EXTERNAL(0x55), 0);
    l1_vmlaunch();
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), EXTERNAL(0x55));
    assert_int_equal(l1_vmread(VMCS_VM_ENTRY_INTERRUPTION_INFO) & INTERRUPTION_VALID, 0);
    l1_run(NOP); // not L1's
    *stack = entry;
    l1_invept(1, l2.eptp);
    l1_vmresume(); // L1 chose not to inject it again
    expect_exit(EXIT_VMCALL);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    inject(EXTERNAL(0x55), 0);
    l1_vmresume();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(0x55));
    l1_resume_at(l2.code); // once
    expect_exit(EXIT_VMCALL);
}

// Posted interrupts are lost at an entry, or while L2 halts. Where they are not offered, there is nothing to
// lose: the pin-based control is refused. Interrupts that L1 posts by hand (RVI) are seen at the entry, and
// wake L2 that is in HLT.
static void bug_22_posted_interrupts_are_lost(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    if (!(l1_rdmsr(MSR_IA32_VMX_PINBASED_CTLS) >> 32 & PIN_POSTED_INTERRUPTS)) {
        uint64_t pin = l1_vmread(VMCS_PIN_BASED_CONTROLS);
        l1_vmwrite(VMCS_PIN_BASED_CONTROLS, pin | PIN_POSTED_INTERRUPTS);
        expect_fail_valid(try_vmlaunch(), 7);
        l1_vmwrite(VMCS_PIN_BASED_CONTROLS, pin);
    }
    if (!(l1_rdmsr(MSR_IA32_VMX_PROCBASED_CTLS2) >> 32 & SECONDARY_VIRTUAL_INTERRUPT_DELIVERY))
        return;
    uint64_t virtual_apic = l1_new_page();
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW | PRIMARY_HLT_EXITING);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_VIRTUAL_INTERRUPT_DELIVERY);
    l1_vmwrite(VMCS_VIRTUAL_APIC_ADDRESS, virtual_apic);
    for (unsigned i = 0; i < 4; i++)
        l1_vmwrite(VMCS_EOI_EXIT_BITMAP_0 + 2 * i, 0);
    l1_vmwrite(VMCS_TPR_THRESHOLD, 0);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    l1_vmwrite(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_HLT);
    ((uint8_t *)l1_memory(virtual_apic))[0x200 + 0x10 * (0x71 / 32) + 0x71 % 32 / 8] = 1 << 0x71 % 8;
    l1_vmwrite(VMCS_GUEST_INTERRUPT_STATUS, 0x71);
    l1_vmlaunch();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(0x71));
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPT_STATUS), 0x7100);
}

// The virtual APIC's state is of one VMCS: what L0 or L1 changes for one L2 does not reach another.
static void bug_23_the_wrong_vmcs_is_updated(void)
{
    if (!(l1_rdmsr(MSR_IA32_VMX_PROCBASED_CTLS2) >> 32 & SECONDARY_VIRTUAL_INTERRUPT_DELIVERY))
        fail_msg("this test is for processors with virtual-interrupt delivery");
    L2_PROGRAM(first, VMCALL, MOV_TO_CR(8, 6), VMCALL);
    L2_PROGRAM(second, MOV_FROM_CR(GPR_RBX, 8), VMCALL);
    struct l2 *l2[] = {&first, &second};
    uint64_t region[2], page[2];
    l1_enter_vmx_operation();
    for (unsigned i = 0; i < 2; i++) {
        region[i] = i ? VMCS_B : VMCS_A;
        page[i] = l1_new_page();
        l1_prepare_vmcs(region[i], l2[i]);
        l1_set(VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
        l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW);
        l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_VIRTUAL_INTERRUPT_DELIVERY);
        l1_vmwrite(VMCS_VIRTUAL_APIC_ADDRESS, page[i]);
        l1_vmwrite(VMCS_GUEST_INTERRUPT_STATUS, i ? 0x0042 : 0x0031);
        for (unsigned word = 0; word < 4; word++)
            l1_vmwrite(VMCS_EOI_EXIT_BITMAP_0 + 2 * word, 0);
        l1_vmwrite(VMCS_TPR_THRESHOLD, 0);
    }
    l1_vmptrld(VMCS_A);
    l1_vmlaunch();
    l1_vmptrld(VMCS_B);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RBX), 0);
    l1_vmptrld(VMCS_A);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPT_STATUS), 0x31);
    l1_resume_behind(); // its TPR is 0x60 now
    expect_exit(EXIT_VMCALL);
    l1_vmptrld(VMCS_B);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPT_STATUS), 0x42);
    l1_resume_at(second.code);
    assert_int_equal(l1_gpr(GPR_RBX), 0);
    assert_int_equal(((uint8_t *)l1_memory(page[0]))[0x80], 0x60);
    assert_int_equal(((uint8_t *)l1_memory(page[1]))[0x80], 0);
}

// What L1 and L2 share in the hardware: CR3, the debug controls, PAT, EFER, SYSENTER, PERF_GLOBAL_CTRL. L1
// has its own back after every exit, and L2's is in its VMCS.
static void bug_24_values_are_shared(void)
{
    L2_PROGRAM(l2, WRMSR(MSR_IA32_SYSENTER_EIP, 0x777000), WRMSR(MSR_IA32_PAT, 0x0606060606060606),
               MOV_TO_DR(7, 0x455), MOV_TO_CR(3, 0x1000), WRMSR(MSR_FS_BASE, 0x888000), VMCALL);
    l1_prepare(&l2);
    l1_run(MOV_FROM_CR(GPR_RAX, 3));
    uint64_t cr3 = l1_gpr(GPR_RAX), pat = l1_rdmsr(MSR_IA32_PAT);
    for (unsigned i = 0; i < 3; i++) {
        if (i == 0)
            l1_vmlaunch();
        else
            l1_resume_at(l2.code);
        expect_exit(EXIT_VMCALL);
        l1_run(MOV_FROM_CR(GPR_RAX, 3));
        assert_int_equal(l1_gpr(GPR_RAX), cr3);
        assert_int_equal(l1_rdmsr(MSR_IA32_PAT), pat);
        assert_int_equal(l1_rdmsr(MSR_IA32_SYSENTER_EIP), 0x5555000); // from the host-state area
        assert_int_equal(l1_rdmsr(MSR_FS_BASE), 0x1111000);
        l1_run(MOV_FROM_DR(GPR_RAX, 7));
        assert_int_equal(l1_gpr(GPR_RAX), 0x400);
        assert_int_equal(l1_vmread(VMCS_GUEST_SYSENTER_EIP), 0x777000);
        assert_int_equal(l1_vmread(VMCS_GUEST_IA32_PAT), 0x0606060606060606);
        assert_int_equal(l1_vmread(VMCS_GUEST_DR7), 0x455);
        assert_int_equal(l1_vmread(VMCS_GUEST_CR3), 0x1000);
        assert_int_equal(l1_vmread(VMCS_GUEST_FS_BASE), 0x888000);
    }
}

#define MOVING .cpu_count = 3, .move_one_in = 2

static const struct CMUnitTest tests[] = {
    BOTH(bug_19_a_table_is_used_in_another_role),
    BOTH_WITH(bug_19_a_table_is_used_in_another_role, ", small pool", .ept02_pool_pages = 64),
    BOTH(bug_20_the_exit_information_is_wrong),
    BOTH(bug_21_events_leak_or_are_lost),
    BOTH_WITH(bug_21_events_leak_or_are_lost, ", moving", MOVING),
    BOTH(bug_22_posted_interrupts_are_lost),
    BOTH(bug_23_the_wrong_vmcs_is_updated),
    BOTH_WITH(bug_23_the_wrong_vmcs_is_updated, ", moving", MOVING),
    BOTH(bug_24_values_are_shared),
    BOTH_WITH(bug_24_values_are_shared, ", moving", MOVING),
};

int main(void)
{
    return cmocka_run_group_tests_name("bugs 19 to 24", tests, NULL, NULL);
}
