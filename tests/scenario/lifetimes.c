// SPDX-License-Identifier: MIT
// The four lifetimes of vmcs02's fields, by counting the VMWRITEs that L0 makes: constant fields once from
// VMXON to VMXOFF, per-processor fields when the processor changed, rare ones when L1 changed them, hot ones
// at every entry; and never a control field with the value that it has.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum lifetime { CONSTANT, CPU, MERGED, RARE, HOT, EVENT, NEVER };

static const struct field {
    const char *name;
    uint32_t encoding;
    enum lifetime lifetime;
} fields[F_COUNT] = {
#define FIELD(name, encoding, width, type, exists, entry, exit) [F_##name] = {#name, encoding, entry},
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

// The constant part as DESIGN.md tells it: whatever else the table calls constant, these must be.
static const enum vmcs_field must_be_constant[] = {
    F_MSR_BITMAP,       F_VMCS_LINK_POINTER, F_VM_EXIT_MSR_STORE_COUNT, F_VM_EXIT_MSR_LOAD_COUNT,
    F_HOST_CR0,         F_HOST_CR4,          F_HOST_CS_SELECTOR,        F_HOST_SS_SELECTOR,
    F_HOST_TR_SELECTOR, F_HOST_RIP,          F_HOST_IA32_EFER,          F_HOST_IA32_PAT,
};
static const enum vmcs_field must_be_per_cpu[] = {
    F_HOST_TR_BASE, F_HOST_GDTR_BASE, F_HOST_GS_BASE, F_HOST_RSP, F_HOST_SYSENTER_ESP,
};

static uint32_t writes(uint64_t vmcs, unsigned field)
{
    return machine_count(world_machine(), vmcs)->vmwrite[field];
}

// Every field of `lifetime` was written `times` times (or never, where the processor or L0 has no use for
// it).
static void expect_writes(uint64_t vmcs, enum lifetime lifetime, uint32_t times)
{
    for (unsigned field = 0; field < F_COUNT; field++) {
        uint32_t count = writes(vmcs, field);
        if (field == F_VMCS_LINK_POINTER && vmcs == world_vmcs01())
            continue; // it links to the shadow VMCS while L1 has a current VMCS
        if (fields[field].lifetime == lifetime && count != times && count != 0)
            fail_msg("%s was written %u times, and not %u", fields[field].name, count, times);
    }
}

static void expect_constant_and_cpu_parts(uint64_t vmcs, uint32_t constant, uint32_t cpu)
{
    expect_writes(vmcs, CONSTANT, constant);
    expect_writes(vmcs, CPU, cpu);
    for (unsigned i = 0; i < sizeof(must_be_constant) / sizeof(must_be_constant[0]); i++)
        if (writes(vmcs, must_be_constant[i]) != constant &&
            !(must_be_constant[i] == F_VMCS_LINK_POINTER && vmcs == world_vmcs01()))
            fail_msg("%s was written %u times, and not %u", fields[must_be_constant[i]].name,
                     writes(vmcs, must_be_constant[i]), constant);
    for (unsigned i = 0; i < sizeof(must_be_per_cpu) / sizeof(must_be_per_cpu[0]); i++)
        if (writes(vmcs, must_be_per_cpu[i]) != cpu)
            fail_msg("%s was written %u times, and not %u", fields[must_be_per_cpu[i]].name,
                     writes(vmcs, must_be_per_cpu[i]), cpu);
}

// No VMWRITE told a field of these lifetimes what it held already.
static void expect_nothing_rewritten(uint64_t vmcs)
{
    const struct vmcs_count *count = machine_count(world_machine(), vmcs);
    for (unsigned field = 0; field < F_COUNT; field++) {
        enum lifetime lifetime = fields[field].lifetime;
        bool guest_state = vmcs_encoding_type(fields[field].encoding) == VMCS_TYPE_GUEST;
        if (guest_state && vmcs != world_vmcs02())
            continue; // of vmcs01 it is what an exit to L1 loads
        if ((lifetime == MERGED || lifetime == CONSTANT) && count->vmwrite_unchanged[field] != 0)
            fail_msg("%s was rewritten with the value that it held, %u times", fields[field].name,
                     count->vmwrite_unchanged[field]);
    }
}

static void prepare_two(struct l2 *first, struct l2 *second)
{
    l1_prepare(first);
    second->eptp = first->eptp;
    l1_prepare_vmcs(VMCS_B, second);
}

static void launch(uint64_t region)
{
    l1_vmptrld(region);
    l1_vmlaunch();
}

static void resume(uint64_t region)
{
    l1_vmptrld(region);
    l1_vmresume();
}

// --- the constant part

static void the_constant_part_is_written_once(void)
{
    L2_PROGRAM(first, CPUID(1));
    L2_PROGRAM(second, VMCALL);
    prepare_two(&first, &second);
    launch(VMCS_A);
    launch(VMCS_B);
    for (unsigned i = 0; i < 5; i++) {
        resume(VMCS_A);
        l1_vmresume();
        resume(VMCS_B);
    }
    l1_vmclear(VMCS_A);
    launch(VMCS_A);
    l1_vmclear(VMCS_A);
    l1_vmclear(VMCS_B);
    launch(VMCS_B);
    l1_vmwrite(VMCS_GUEST_RFLAGS, 0); // an entry that fails in L0's checks
    l1_vmresume();
    expect_entry_failure(33, 0);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    expect_constant_and_cpu_parts(world_vmcs02(), 1, 1);
    expect_constant_and_cpu_parts(world_vmcs01(), 1, 1);
}

static void vmxon_again_writes_the_constant_part_once_more(void)
{
    L2_PROGRAM(l2, CPUID(1));
    l1_prepare(&l2);
    l1_vmlaunch();
    expect_constant_and_cpu_parts(world_vmcs02(), 1, 1);
    l1_vmclear(VMCS_A);
    l1_vmxoff();
    l1_vmxon(VMXON_REGION);
    expect_constant_and_cpu_parts(world_vmcs02(), 1, 1);
    launch(VMCS_A);
    l1_vmresume();
    for (unsigned i = 0; i < sizeof(must_be_constant) / sizeof(must_be_constant[0]); i++)
        assert_int_equal(writes(world_vmcs02(), must_be_constant[i]), 2);
    expect_writes(world_vmcs02(), CONSTANT, 2);
    expect_constant_and_cpu_parts(world_vmcs01(), 1, 1);
}

// --- the per-processor part, and the launch state

static void the_per_processor_part_follows_the_processor(void)
{
    L2_PROGRAM(l2, CPUID(1));
    l1_prepare(&l2);
    l1_vmlaunch();
    uint32_t changes = 1;
    for (unsigned i = 0; i < 6; i++) {
        l0_move_to((i + 1) % 3);
        l1_vmresume();
        changes++;
        expect_constant_and_cpu_parts(world_vmcs02(), 1, changes);
        expect_constant_and_cpu_parts(world_vmcs01(), 1, changes);
        l1_vmresume();
        l1_vmresume();
        expect_constant_and_cpu_parts(world_vmcs02(), 1, changes);
    }
    assert_int_equal(l0_move_count(), 6);
    expect_nothing_rewritten(world_vmcs02());
}

// The vcpu goes away and comes back before L2 runs again: vmcs02's per-processor part is right already.
static void a_round_trip_does_not_rewrite_the_per_processor_part(void)
{
    L2_PROGRAM(l2, CPUID(1));
    l1_prepare(&l2);
    l1_vmlaunch();
    l0_move_to(1);
    l1_run(CPUID(0));
    l0_move_to(0);
    l1_run(CPUID(0));
    assert_int_equal(l0_move_count(), 2);
    l1_vmresume();
    expect_exit(EXIT_CPUID);
    expect_constant_and_cpu_parts(world_vmcs02(), 1, 1);
    expect_constant_and_cpu_parts(world_vmcs01(), 1, 3);
}

static void after_a_move_the_entry_is_a_launch(void)
{
    L2_PROGRAM(l2, CPUID(1));
    l1_prepare(&l2);
    l1_vmlaunch();
    const struct vmcs_count *vmcs02 = machine_count(world_machine(), world_vmcs02());
    uint32_t launches = vmcs02->vmlaunch;
    l1_vmresume();
    l1_vmresume();
    assert_int_equal(vmcs02->vmlaunch, launches);
    l0_move_to(1);
    l1_run(CPUID(0));
    l1_vmresume(); // L1's launch state did not change
    assert_int_equal(vmcs02->vmlaunch, launches + 1);
    uint32_t resumes = vmcs02->vmresume;
    l1_vmresume();
    assert_int_equal(vmcs02->vmlaunch, launches + 1);
    assert_int_equal(vmcs02->vmresume, resumes + 1);
    expect_fail_valid(try_vmlaunch(), 4);
}

// L1's VMCLEAR, VMPTRLD and VMLAUNCH are L1's business: the hardware's vmcs02 stays launched.
static void l1s_launch_state_is_not_the_hardwares(void)
{
    L2_PROGRAM(l2, CPUID(1));
    l1_prepare(&l2);
    l1_vmlaunch();
    const struct vmcs_count *vmcs02 = machine_count(world_machine(), world_vmcs02());
    uint32_t launches = vmcs02->vmlaunch;
    l1_vmclear(VMCS_A);
    launch(VMCS_A);
    l1_vmclear(VMCS_A);
    launch(VMCS_A);
    assert_int_equal(vmcs02->vmlaunch, launches);
}

// --- rare, merged and hot fields

static void a_steady_l1_costs_only_hot_fields(void)
{
    L2_PROGRAM(l2, CPUID(1), CPUID(2), CPUID(3), CPUID(4));
    l1_prepare(&l2);
    l1_vmlaunch();
    l1_skip_instruction();
    l1_vmresume();
    machine_reset_counts(world_machine());
    for (unsigned i = 0; i < 10; i++) {
        l1_vmwrite(VMCS_GUEST_RIP, l2.code + 2 * (i % 4));
        l1_vmresume();
        expect_exit(EXIT_CPUID);
    }
    for (unsigned field = 0; field < F_COUNT; field++) {
        uint32_t count = writes(world_vmcs02(), field);
        if (count != 0 && fields[field].lifetime != HOT)
            fail_msg("%s was written %u times in 10 entries of a steady L1", fields[field].name, count);
    }
    assert_int_equal(writes(world_vmcs02(), F_GUEST_RIP), 10);
}

static void a_rare_field_is_written_when_l1_wrote_it(void)
{
    L2_PROGRAM(l2, CPUID(1));
    l1_prepare(&l2);
    l1_vmlaunch();
    l1_vmresume();
    machine_reset_counts(world_machine());
    l1_vmwrite(VMCS_GUEST_GDTR_LIMIT, 0x7f);
    l1_vmwrite(VMCS_GUEST_FS_BASE, 0x7000);
    l1_vmresume();
    l1_vmresume();
    assert_int_equal(writes(world_vmcs02(), F_GUEST_GDTR_LIMIT), 1);
    assert_int_equal(writes(world_vmcs02(), F_GUEST_FS_BASE), 1);
    for (unsigned field = 0; field < F_COUNT; field++)
        if (fields[field].lifetime == RARE && field != F_GUEST_GDTR_LIMIT && field != F_GUEST_FS_BASE)
            assert_int_equal(writes(world_vmcs02(), field), 0);
    assert_int_equal(l1_vmread(VMCS_GUEST_GDTR_LIMIT), 0x7f);
    assert_int_equal(l1_vmread(VMCS_GUEST_FS_BASE), 0x7000);
}

static void a_control_is_written_when_its_merged_value_changed(void)
{
    L2_PROGRAM(l2, CPUID(1));
    l1_prepare(&l2);
    l1_vmlaunch();
    l1_vmresume();
    machine_reset_counts(world_machine());
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_UD);
    l1_vmresume();
    assert_int_equal(writes(world_vmcs02(), F_EXCEPTION_BITMAP), 1);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_UD); // the same again
    l1_vmresume();
    assert_int_equal(writes(world_vmcs02(), F_EXCEPTION_BITMAP), 1);
    l1_vmwrite(VMCS_HOST_FS_BASE, 0x9000); // no business of vmcs02's
    l1_vmresume();
    expect_nothing_rewritten(world_vmcs02());
    for (unsigned field = 0; field < F_COUNT; field++)
        if (fields[field].lifetime == MERGED && field != F_EXCEPTION_BITMAP)
            assert_int_equal(writes(world_vmcs02(), field), 0);
}

static void nothing_is_rewritten_over_moves_and_vmcss(void)
{
    L2_PROGRAM(first, CPUID(1));
    L2_PROGRAM(second, VMCALL);
    prepare_two(&first, &second);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_RDTSC_EXITING);
    launch(VMCS_A);
    launch(VMCS_B);
    expect_nothing_rewritten(world_vmcs02());
    machine_reset_counts(world_machine());
    for (unsigned i = 0; i < 12; i++) {
        if (i % 3 == 0)
            l0_move_to((i / 3 + 1) % 2);
        resume(i % 2 ? VMCS_A : VMCS_B);
        l1_vmresume();
    }
    assert_true(l0_move_count() >= 4);
    expect_nothing_rewritten(world_vmcs02());
    expect_nothing_rewritten(world_vmcs01());
}

static const struct CMUnitTest tests[] = {
    NESTED(the_constant_part_is_written_once, .cpu_count = 1),
    NESTED(vmxon_again_writes_the_constant_part_once_more, .cpu_count = 1),
    NESTED(the_per_processor_part_follows_the_processor, .cpu_count = 3),
    NESTED(a_round_trip_does_not_rewrite_the_per_processor_part, .cpu_count = 2),
    NESTED(after_a_move_the_entry_is_a_launch, .cpu_count = 2),
    NESTED(l1s_launch_state_is_not_the_hardwares, .cpu_count = 1),
    NESTED(a_steady_l1_costs_only_hot_fields, .cpu_count = 1),
    NESTED(a_rare_field_is_written_when_l1_wrote_it, .cpu_count = 1),
    NESTED(a_control_is_written_when_its_merged_value_changed, .cpu_count = 1),
    NESTED(nothing_is_rewritten_over_moves_and_vmcss, .cpu_count = 2),
};

int main(void)
{
    return cmocka_run_group_tests_name("lifetimes", tests, NULL, NULL);
}
