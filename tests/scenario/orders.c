// SPDX-License-Identifier: MIT
// Whatever ends an L2, a VMCS or L1's VMX operation, in every order of any three: nothing leaks, nothing is
// stale, the right VMCS is current at the end, and L2 runs on. (tests/exhaustive has the longer sequences.)
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct l2 l2[2];
static int current; // VMCS_A, VMCS_B; -1: none
static bool launched[2], in_vmx_operation;

static uint64_t region(int which)
{
    return which ? VMCS_B : VMCS_A;
}

static uint64_t own_base(int which)
{
    return which ? 0xb000 : 0xa000;
}

// --- L1 comes back to work, as any L1 would

static void revive(void)
{
    if (!in_vmx_operation) {
        l1_vmxon(VMXON_REGION);
        in_vmx_operation = true;
    }
    if (current < 0) {
        l1_vmptrld(VMCS_A);
        current = 0;
    }
    l1_vmwrite(VMCS_GUEST_RIP, l2[current].code);
}

static struct outcome enter(void)
{
    return launched[current] ? try_vmresume() : try_vmlaunch();
}

static void run_l2(uint32_t reason)
{
    assert_int_equal(enter().how, EXITED);
    expect_exit(reason);
    launched[current] = true;
}

// --- events

static void vmxoff(void)
{
    l1_vmxoff();
    in_vmx_operation = false;
    expect_exception(try_vmclear(VMCS_A), VECTOR_UD);
    l1_vmxon(VMXON_REGION);
    in_vmx_operation = true;
    assert_int_equal(l1_vmptrst(), UINT64_MAX);
    l1_vmclear(VMCS_A); // L1 had left them to the processor
    l1_vmclear(VMCS_B);
    launched[0] = launched[1] = false;
    current = -1;
}

static void vmclear_of_the_current_vmcs(void)
{
    l1_vmclear(region(current));
    launched[current] = false;
    current = -1;
    expect_fail_invalid(try_vmresume());
}

static void vmptrld_of_the_other(void)
{
    current = !current;
    l1_vmptrld(region(current));
}

static void failed_entry_by_a_control(void)
{
    l1_vmwrite(VMCS_CR3_TARGET_COUNT, 5);
    expect_fail_valid(enter(), 7);
    l1_vmwrite(VMCS_CR3_TARGET_COUNT, 0);
}

static void failed_entry_by_host_state(void)
{
    l1_vmwrite(VMCS_HOST_TR_SELECTOR, 0);
    expect_fail_valid(enter(), 8);
    l1_vmwrite(VMCS_HOST_TR_SELECTOR, 0x18);
}

static void failed_entry_by_guest_state(void)
{
    l1_vmwrite(VMCS_GUEST_RFLAGS, 0);
    assert_int_equal(enter().how, EXITED);
    expect_entry_failure(33, 0);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
}

static void failed_entry_by_an_msr(void)
{
    memset(l1_memory(MSR_LISTS), 0xff, 16);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, MSR_LISTS);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000306); // nobody gets it
    assert_int_equal(enter().how, EXITED);
    expect_entry_failure(34, 1);
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 0);
}

static void init_in_l2(void)
{
    l1_vmwrite(VMCS_GUEST_RIP, l2[current].code + 2);
    run_l2(EXIT_INIT_SIGNAL);
}

// L0 resets the virtual processor when its entry to L2 has succeeded and not happened. L1's firmware begins
// anew, and knows of no VMCS: what was in the processor is lost.
static void reset_in_l2(void)
{
    l0_do(L0_RESTARTS_L1);
    assert_int_equal(enter().how, EXITED); // to where L1 begins
    assert_false(world_vcpu()->in_l2);
    expect_exception(try_vmclear(VMCS_A), VECTOR_UD); // outside VMX operation
    l1_vmxon(VMXON_REGION);
    assert_int_equal(l1_vmptrst(), UINT64_MAX);
    l1_vmclear(VMCS_A);
    l1_vmclear(VMCS_B);
    launched[0] = launched[1] = false;
    current = -1;
}

static void processor_taken_away(void)
{
    l0_do(L0_LOSES_PROCESSOR);
    run_l2(EXIT_CPUID);
}

typedef void event(void);
static event *const events[] = {vmxoff,
                                vmclear_of_the_current_vmcs,
                                vmptrld_of_the_other,
                                failed_entry_by_a_control,
                                failed_entry_by_host_state,
                                failed_entry_by_guest_state,
                                failed_entry_by_an_msr,
                                init_in_l2,
                                reset_in_l2,
                                processor_taken_away};
#define EVENT_COUNT (sizeof(events) / sizeof(events[0]))

// --- what must hold at the end

static uint64_t *l0_page(uint64_t address)
{
    return machine_memory(world_machine(), address, PAGE_SIZE);
}

static unsigned tables_below(uint64_t table, unsigned level)
{
    unsigned count = 1;
    const uint64_t *entry = l0_page(table);
    for (unsigned i = 0; i < 512 && level > 1; i++)
        if ((entry[i] & 7) != 0 && (entry[i] & 0x80) == 0)
            count += tables_below(entry[i] & 0x000ffffffffff000, level - 1);
    return count;
}

// Every page of ept02's pool was never used, is free, or is in the tables.
static void expect_no_page_lost(void)
{
    const struct ept02 *ept02 = &world_vcpu()->ept02;
    unsigned found = 3; // of ones
    for (unsigned i = 0; i < EPT02_ROOT_COUNT; i++)
        found += tables_below(ept02->root[i].pml4.value, 4);
    for (uint32_t page = ept02->free_list; page != 0;) {
        found++;
        page = (uint32_t)*l0_page(ept02->pool.value + (page - 1) * PAGE_SIZE);
    }
    assert_int_equal(found, ept02->fresh);
}

static void expect_all_well(void)
{
    revive();
    assert_int_equal(l1_vmptrst(), region(current));
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(l1_vmread(VMCS_GUEST_GS_BASE), own_base(current));
        assert_int_equal(l1_vmread(VMCS_GUEST_SYSENTER_ESP), own_base(current));
        run_l2(EXIT_CPUID);
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2[current].code);
        vmptrld_of_the_other();
        l1_vmwrite(VMCS_GUEST_RIP, l2[current].code);
    }
    expect_no_page_lost();
}

static void prepare(void)
{
    L2_PROGRAM(a, CPUID(1), INIT_ARRIVES, NOP);
    L2_PROGRAM(b, CPUID(2), INIT_ARRIVES, NOP);
    l1_prepare(&a);
    b.eptp = a.eptp;
    l1_prepare_vmcs(VMCS_B, &b);
    l2[0] = a;
    l2[1] = b;
    for (current = 1; current >= 0; current--) {
        l1_vmptrld(region(current));
        l1_vmwrite(VMCS_GUEST_GS_BASE, own_base(current));
        l1_vmwrite(VMCS_GUEST_SYSENTER_ESP, own_base(current));
        l1_vmclear(region(current)); // so that a reset does not lose it
    }
    launched[0] = launched[1] = false;
    in_vmx_operation = true;
}

static void in_every_order(void)
{
    prepare();
    for (unsigned i = 0; i < EVENT_COUNT * EVENT_COUNT * EVENT_COUNT; i++) {
        unsigned order[] = {i / EVENT_COUNT / EVENT_COUNT, i / EVENT_COUNT % EVENT_COUNT, i % EVENT_COUNT};
        world_note("events %u, %u, %u of the table", order[0], order[1], order[2]);
        for (unsigned turn = 0; turn < 3; turn++) {
            revive();
            events[order[turn]]();
        }
        expect_all_well();
    }
}

static const struct CMUnitTest tests[] = {
    NESTED(in_every_order, .cpu_count = 2),
};

int main(void)
{
    return cmocka_run_group_tests_name("orders", tests, NULL, NULL);
}
