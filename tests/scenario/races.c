// SPDX-License-Identifier: MIT
// Another processor of L1's writes to memory that a VM entry or an exit looks at, for as long as it likes: L0
// goes on, and L1 gets nothing that a processor would not have given it. Manual: VM-Execution Control Fields
// (Checks on VMX Controls); Posted-Interrupt Processing.
#include "l1_vmx.h"
#include <model.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "world_internal.h"

#define NOTIFICATION 0xf2

static uint64_t virtual_apic, descriptor;

// --- VTPR and the TPR threshold

static void put_vtpr(uint32_t value)
{
    memcpy((uint8_t *)l1_memory(virtual_apic) + 0x80, &value, 4);
}

static void prepare_threshold(struct l2 *l2, uint32_t threshold)
{
    l1_prepare(l2);
    virtual_apic = l1_new_page();
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW);
    l1_vmwrite(VMCS_VIRTUAL_APIC_ADDRESS, virtual_apic);
    l1_vmwrite(VMCS_TPR_THRESHOLD, threshold);
    put_vtpr(threshold << 4);
}

static void others_write_vtpr(unsigned after, uint32_t value)
{
    machine_write_before_entry(world_machine(), world_vmcs02(), after, L0_SIZE + virtual_apic + 0x80, value);
}

// L0 enters L2 again, behind an exit that is none of L1's.
static void vtpr_changes_while_l2_runs(void)
{
    L2_PROGRAM(l2, IN(0x510), IN(0x510), MOV_TO_CR(8, 7), CPUID(0), MOV_TO_CR(8, 4), VMCALL);
    prepare_threshold(&l2, 5);
    l1_vmlaunch(); // warm
    expect_exit(EXIT_CPUID);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    put_vtpr(0x50);
    unsigned logged = world->log_count;
    others_write_vtpr(1, 0x20);
    l1_vmresume();
    expect_exit(EXIT_CPUID);
    l1_skip_instruction();
    l1_vmresume(); // VTPR has a class above the threshold again, which is L1's
    expect_exit(EXIT_TPR_BELOW_THRESHOLD);
    assert_int_equal(world->log_count, logged);
    assert_int_equal(world_vcpu()->refused_entry_count, 0);
}

// L1's own VMRESUME: what our check saw, a processor might have seen.
static void vtpr_changes_behind_the_check(void)
{
    L2_PROGRAM(l2, NOP, VMCALL);
    prepare_threshold(&l2, 5);
    others_write_vtpr(0, 0x10);
    unsigned logged = world->log_count;
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(world->log_count, logged);
    assert_int_equal(l1_vmread(VMCS_TPR_THRESHOLD), 5);
    expect_fail_valid(try_vmresume(), 7); // VTPR is too low now, and L1 asks again
    put_vtpr(0xf0);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

// --- posted interrupts

static void prepare_posting(struct l2 *l2, bool again)
{
    if (again)
        l1_prepare_vmcs(VMCS_A, l2);
    else
        l1_prepare(l2);
    virtual_apic = l1_new_page();
    descriptor = l1_new_page();
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING | PIN_POSTED_INTERRUPTS);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW | PRIMARY_HLT_EXITING);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_VIRTUAL_INTERRUPT_DELIVERY);
    l1_set(VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    l1_vmwrite(VMCS_VIRTUAL_APIC_ADDRESS, virtual_apic);
    l1_vmwrite(VMCS_TPR_THRESHOLD, 0);
    l1_vmwrite(VMCS_GUEST_INTERRUPT_STATUS, 0);
    for (uint32_t i = 0; i < 4; i++)
        l1_vmwrite(VMCS_EOI_EXIT_BITMAP_0 + 2 * i, 0);
    l1_vmwrite(VMCS_POSTED_INTERRUPT_VECTOR, NOTIFICATION);
    l1_vmwrite(VMCS_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, descriptor);
}

static void descriptor_is_written(unsigned times, bool again)
{
    L2_PROGRAM(l2, STI, NOP, INTERRUPT_ARRIVES(NOTIFICATION), NOP, VMCALL);
    prepare_posting(&l2, again);
    uint8_t *posted = l1_memory(descriptor);
    posted[0x51 / 8] |= 1u << 0x51 % 8;
    posted[32] |= 1;
    l0_race_exchanges(times,
                      1ull << 63); // bits that mean nothing in the last word, and vector 63 in the first
    l1_vmlaunch();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(0x51));
    assert_int_equal(posted[0x51 / 8], 0);
    assert_int_equal(posted[32] & 1, 0);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPT_STATUS) >> 8, 0x51);
}

static void a_descriptor_that_others_write(void)
{
    descriptor_is_written(1, false);
    descriptor_is_written(7, true);
    descriptor_is_written(9, true);
    descriptor_is_written(40, true);
}

// L0 is not held up: it runs between two attempts, and may stop the vcpu.
static void a_descriptor_that_others_write_for_ever(void)
{
    descriptor_is_written(100000, false);
    assert_true(world->l0_turns > 100000 / 8);
}

static const struct CMUnitTest tests[] = {
    NESTED(vtpr_changes_while_l2_runs, .cpu_count = 1),
    NESTED(vtpr_changes_behind_the_check, .cpu_count = 1),
    NESTED(a_descriptor_that_others_write, .cpu_count = 1),
    NESTED(a_descriptor_that_others_write_for_ever, .cpu_count = 1),
};

int main(void)
{
    return cmocka_run_group_tests_name("races", tests, NULL, NULL);
}
