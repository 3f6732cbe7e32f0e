// SPDX-License-Identifier: MIT
// The software processor stops a test on what real hardware punishes silently: each misuse, and the sentence.
#include <machine.h>
#include <nvmx/controls.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "world.h"

#define VMXON_0 0x1000
#define VMXON_1 0x2000
#define REGION  0x3000
#define OTHER   0x4000

static struct machine *machine;
static struct hw_cpu *cpu0, *cpu1;

static int begin(void **state)
{
    (void)state;
    machine = machine_create(&(struct machine_config){
        .processor = &processor_rich, .cpu_count = 2, .memory_size = 0x100000, .root = ROOT_IS_L0});
    uint32_t revision = (uint32_t)processor_rich.vmx.msr[0];
    static const uint64_t regions[] = {VMXON_0, VMXON_1, REGION, OTHER};
    for (unsigned i = 0; i < 4; i++)
        memcpy(machine_memory(machine, regions[i], 4), &revision, 4);
    cpu0 = machine_cpu(machine, 0);
    cpu1 = machine_cpu(machine, 1);
    hw_vmxon(cpu0, l0pa(VMXON_0));
    hw_vmxon(cpu1, l0pa(VMXON_1));
    return 0;
}

static int end(void **state)
{
    (void)state;
    machine_destroy(machine);
    return 0;
}

static void expect_stop(void (*misuse)(void), const char *words)
{
    const char *sentence;
    if (!world_stops(misuse, &sentence))
        fail_msg("the model did not stop: %s", words);
    if (strstr(sentence, words) == NULL)
        fail_msg("\"%s\" is not in: %s", words, sentence);
}

static void make_current(struct hw_cpu *cpu, uint64_t region)
{
    hw_vmclear(cpu, l0pa(region));
    hw_vmptrld(cpu, l0pa(region));
}

static void ptrld_elsewhere(void)
{
    hw_vmptrld(cpu1, l0pa(REGION));
}

static void clear_elsewhere(void)
{
    hw_vmclear(cpu1, l0pa(REGION));
}

static void a_vmcs_is_active_on_one_processor(void **state)
{
    (void)state;
    make_current(cpu0, REGION);
    expect_stop(ptrld_elsewhere, "of VMCS 0x3000, which is active on logical processor 0");
    expect_stop(clear_elsewhere, "VMCLEAR of VMCS 0x3000, which is active on logical processor 0");
    hw_vmptrld(cpu0, l0pa(REGION));
    hw_vmwrite(cpu0, VMCS_GUEST_RIP, 0x1234);
    hw_vmclear(cpu0, l0pa(REGION));
    ptrld_elsewhere(); // its data is in memory now
    assert_int_equal(hw_vmread(cpu1, VMCS_GUEST_RIP), 0x1234);
    hw_vmclear(cpu1, l0pa(REGION));
}

// Active is not current: the VMCS stays in the cache when another becomes current.
static void a_vmcs_stays_active_behind_another(void **state)
{
    (void)state;
    make_current(cpu0, REGION);
    make_current(cpu0, OTHER);
    expect_stop(ptrld_elsewhere, "active on logical processor 0");
    hw_vmclear(cpu0, l0pa(REGION));
    ptrld_elsewhere();
    hw_vmclear(cpu1, l0pa(REGION));
    hw_vmclear(cpu0, l0pa(OTHER));
}

static void ptrld_fresh(void)
{
    hw_vmptrld(cpu0, l0pa(REGION));
}

static void a_region_wants_vmclear_first(void **state)
{
    (void)state;
    expect_stop(ptrld_fresh, "never initialised by VMCLEAR");
}

static void clear_current(void)
{
    hw_vmclear(cpu0, l0pa(REGION));
}

static void the_region_of_an_active_vmcs_is_the_processors(void **state)
{
    (void)state;
    make_current(cpu0, REGION);
    uint8_t *byte = machine_memory(machine, REGION + 2000, 1);
    *byte = (uint8_t)(*byte + 1);
    expect_stop(clear_current, "was written while the VMCS is active");
    *byte = (uint8_t)(*byte - 1);
    clear_current();
    *byte = (uint8_t)(*byte + 1);
    expect_stop(ptrld_fresh, "which software wrote since");
    expect_stop(clear_current, "which software wrote since");
    memset(machine_memory(machine, REGION + 8, 4088), 0, 4088); // the page had another use: fresh again
    clear_current();
    ptrld_fresh();
    clear_current();
}

// The layout is the machine's own: a copy of a region is no VMCS.
static void a_region_cannot_be_copied(void **state)
{
    (void)state;
    make_current(cpu0, OTHER);
    hw_vmwrite(cpu0, VMCS_GUEST_RIP, 1);
    hw_vmclear(cpu0, l0pa(OTHER));
    memcpy(machine_memory(machine, REGION, 4096), machine_memory(machine, OTHER, 4096), 4096);
    expect_stop(ptrld_fresh, "never initialised by VMCLEAR");
}

static void read_no_current(void)
{
    hw_vmread(cpu0, VMCS_GUEST_RIP);
}

static void write_no_current(void)
{
    hw_vmwrite(cpu0, VMCS_GUEST_RIP, 0);
}

static void access_wants_a_current_vmcs(void **state)
{
    (void)state;
    expect_stop(read_no_current, "VMREAD 0x681e of L0 fails: VMfailInvalid");
    expect_stop(write_no_current, "VMWRITE 0x681e of L0 fails: VMfailInvalid");
}

static void read_unwritten(void)
{
    hw_vmread(cpu0, VMCS_GUEST_RSP);
}

static void read_absent(void)
{
    hw_vmread(cpu0, 0x7ffe);
}

static void write_absent(void)
{
    hw_vmwrite(cpu0, 0x4ffe, 1);
}

static void write_too_wide(void)
{
    hw_vmwrite(cpu0, VMCS_GUEST_CS_LIMIT, 0x100000000);
}

static void fields_must_exist_and_be_written(void **state)
{
    (void)state;
    make_current(cpu0, REGION);
    expect_stop(read_unwritten, "GUEST_RSP, which nobody ever wrote");
    expect_stop(read_absent, "error 12");
    expect_stop(write_absent, "error 12");
    expect_stop(write_too_wide, "GUEST_CS_LIMIT, which is narrower");
    clear_current();
}

static void enter(bool launch)
{
    struct nvmx_regs regs = {{0}};
    hw_enter(cpu0, &regs, launch);
}

static void launch(void)
{
    enter(true);
}

static void resume(void)
{
    enter(false);
}

static void launch_state_is_the_processors(void **state)
{
    (void)state;
    make_current(cpu0, REGION);
    expect_stop(resume, "VMRESUME of a VMCS whose launch state is clear");
    expect_stop(launch, "PIN_BASED_CONTROLS, which was never written");
    clear_current();
    expect_stop(launch, "fails: VMfailInvalid");
}

static void vmxoff(void)
{
    hw_vmxoff(cpu0);
}

static void vmxoff_wants_every_vmcs_cleared(void **state)
{
    (void)state;
    make_current(cpu0, REGION);
    make_current(cpu0, OTHER);
    hw_vmclear(cpu0, l0pa(OTHER));
    expect_stop(vmxoff, "VMXOFF while VMCS 0x3000 is active");
    clear_current();
    hw_vmxoff(cpu0);
    expect_stop(read_no_current, "outside VMX root operation");
}

static void clear_vmxon_region(void)
{
    hw_vmclear(cpu0, l0pa(VMXON_0));
}

static void clear_misaligned(void)
{
    hw_vmclear(cpu0, l0pa(REGION + 64));
}

static void bad_invept(void)
{
    hw_invept(cpu0, INVEPT_SINGLE_CONTEXT, 0x1007);
}

static void bad_invvpid(void)
{
    hw_invvpid(cpu0, INVVPID_SINGLE_CONTEXT, 0, 0);
}

static void l0s_instructions_do_not_fail(void **state)
{
    (void)state;
    expect_stop(clear_vmxon_region, "error 3");
    expect_stop(clear_misaligned, "error 2");
    expect_stop(bad_invept, "INVEPT 0x1007 of L0 fails");
    expect_stop(bad_invvpid, "INVVPID 0 of L0 fails");
}

// Whenever the processor writes its cache back, and however little of it, nobody can tell from the VMCS.
static void write_backs_are_invisible(void **state)
{
    (void)state;
    make_current(cpu0, OTHER);
    make_current(cpu0, REGION);
    uint8_t before[2][4096];
    unsigned changes[2] = {0, 0};
    for (uint64_t i = 0; i < 2000; i++) {
        hw_vmwrite(cpu0, VMCS_GUEST_RIP, i);
        assert_int_equal(hw_vmread(cpu0, VMCS_GUEST_RIP), i);
        for (unsigned k = 0; k < 2; k++) {
            const uint8_t *now = machine_memory(machine, k ? OTHER : REGION, 4096);
            changes[k] += i > 0 && memcmp(before[k], now, 4096) != 0;
            memcpy(before[k], now, 4096);
        }
    }
    assert_true(changes[0] > 5 && changes[0] < 200); // now and then
    assert_true(changes[1] > 1 && changes[1] < 200); // also what is active, and not current
    clear_current();
    hw_vmptrld(cpu0, l0pa(REGION));
    assert_int_equal(hw_vmread(cpu0, VMCS_GUEST_RIP), 1999);
    clear_current();
    hw_vmclear(cpu0, l0pa(OTHER));
}

// What memory says of an active VMCS is not its data: neither all of it nor none.
static void memory_of_an_active_vmcs_is_not_its_data(void **state)
{
    (void)state;
    static uint8_t before[4096], active[4096], after[4096];
    make_current(cpu0, REGION);
    for (uint32_t encoding = VMCS_GUEST_ES_SELECTOR; encoding <= VMCS_GUEST_TR_SELECTOR; encoding += 2)
        hw_vmwrite(cpu0, encoding, 1);
    clear_current();
    memcpy(before, machine_memory(machine, REGION, 4096), 4096);
    hw_vmptrld(cpu0, l0pa(REGION));
    for (unsigned i = 0; i < 500; i++)
        hw_vmwrite(cpu0, VMCS_GUEST_ES_SELECTOR + 2 * (i % 8), 2);
    memcpy(active, machine_memory(machine, REGION, 4096), 4096);
    clear_current();
    memcpy(after, machine_memory(machine, REGION, 4096), 4096);
    unsigned as_after = 0, as_neither = 0;
    for (unsigned at = 64; at < 4000; at += 8) {
        bool was = memcmp(before + at, active + at, 8) == 0, is = memcmp(active + at, after + at, 8) == 0;
        as_after += is && !was;
        as_neither += !is && !was;
    }
    assert_true(as_after > 0);
    assert_true(as_neither > 10);
}

static uint8_t saved[4096];

static void save_region(void)
{
    memcpy(saved, machine_memory(machine, REGION, 4096), 4096);
}

static void restore_region(void)
{
    memcpy(machine_memory(machine, REGION, 4096), saved, 4096);
}

// An image of the region that was taken while the VMCS was active, or before it was active the last time.
static void an_image_of_a_region_is_no_vmcs(void **state)
{
    (void)state;
    make_current(cpu0, REGION);
    for (unsigned i = 0; i < 500; i++) // so that it was written back once at least
        hw_vmwrite(cpu0, VMCS_GUEST_RIP, i);
    save_region();
    clear_current();
    restore_region();
    expect_stop(ptrld_fresh,
                "VMPTRLD of region 0x3000, which holds what was there while the VMCS was active");
    expect_stop(clear_current, "VMCLEAR of region 0x3000, which holds what was there while");
    memset(machine_memory(machine, REGION + 8, 4088), 0, 4088);
    make_current(cpu0, REGION);
    hw_vmwrite(cpu0, VMCS_GUEST_RIP, 1);
    clear_current();
    save_region();
    make_current(cpu0, REGION);
    hw_vmwrite(cpu0, VMCS_GUEST_RIP, 2);
    clear_current();
    restore_region();
    expect_stop(ptrld_fresh, "holds an older state of the VMCS than the last VMCLEAR left");
}

// Sentences name the rule, the processors, and the VMCS: its region, and whose it is.
static void sentences_say_whose(void **state)
{
    (void)state;
    machine_name_vmcs(machine, REGION, "vmcs02 of vcpu 3");
    make_current(cpu0, REGION);
    expect_stop(ptrld_elsewhere,
                "logical processor 1, no current VMCS: VMPTRLD of VMCS 0x3000 (vmcs02 of vcpu 3), "
                "which is active on logical processor 0");
    expect_stop(read_unwritten, "logical processor 0, current VMCS 0x3000 (vmcs02 of vcpu 3): VMREAD of");
    expect_stop(vmxoff, "VMXOFF while VMCS 0x3000 (vmcs02 of vcpu 3) is active");
    uint8_t *byte = machine_memory(machine, REGION + 2000, 1);
    *byte = (uint8_t)(*byte + 1);
    expect_stop(clear_current,
                "the region of VMCS 0x3000 (vmcs02 of vcpu 3) was written while the VMCS is active on "
                "logical processor 0");
    *byte = (uint8_t)(*byte - 1);
    clear_current();
}

static void vmxon_in_foreign_region(void)
{
    hw_vmxoff(cpu1);
    hw_vmxon(cpu1, l0pa(VMXON_0));
}

static void vmxon_in_active_region(void)
{
    hw_vmxon(cpu1, l0pa(REGION));
}

static void clear_foreign_vmxon_region(void)
{
    hw_vmclear(cpu0, l0pa(VMXON_1));
}

static void ptrld_foreign_vmxon_region(void)
{
    hw_vmptrld(cpu0, l0pa(VMXON_1));
}

static void vmxon_twice(void)
{
    hw_vmxon(cpu0, l0pa(OTHER));
}

static void vmxoff_on_1(void)
{
    hw_vmxoff(cpu1);
}

static void vmxon_regions_are_one_processors(void **state)
{
    (void)state;
    expect_stop(clear_foreign_vmxon_region,
                "VMCLEAR of 0x2000, which is the VMXON region of logical processor 1");
    expect_stop(ptrld_foreign_vmxon_region,
                "VMPTRLD of 0x2000, which is the VMXON region of logical processor 1");
    expect_stop(vmxon_twice, "VMXON of L0 in VMX operation");
    uint8_t *byte = machine_memory(machine, VMXON_1 + 100, 1);
    *byte = 1;
    expect_stop(vmxoff_on_1, "the VMXON region 0x2000 was written before the VMXOFF of logical processor 1");
    *byte = 0;
    make_current(cpu0, REGION);
    expect_stop(vmxon_in_foreign_region, "VMXON of 0x1000, which is the VMXON region of logical processor 0");
    expect_stop(vmxon_in_active_region,
                "VMXON of 0x3000, which is a VMCS that is active on logical processor 0");
    clear_current();
}

static void enter_shadow(void)
{
    enter(true);
}

static void ptrld_not_ram(void)
{
    hw_vmptrld(cpu0, l0pa(0x200000));
}

static void ptrld_wrong_revision(void)
{
    hw_vmptrld(cpu0, l0pa(0x5000));
}

static void shadow_vmcss_are_not_entered(void **state)
{
    (void)state;
    hw_vmclear(cpu0, l0pa(REGION));
    uint32_t *revision = machine_memory(machine, REGION, 4);
    *revision |= 1u << 31;
    hw_vmptrld(cpu0, l0pa(REGION));
    expect_stop(enter_shadow, "VMLAUNCH 0x3000 of L0 fails: VMfailInvalid");
    expect_stop(ptrld_not_ram, "which is not RAM");
    expect_stop(ptrld_wrong_revision, "VMPTRLD 0x5000 of L0 fails: VMfailValid, error 11");
    clear_current();
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_vmcs_is_active_on_one_processor), TEST(a_vmcs_stays_active_behind_another),
        TEST(a_region_wants_vmclear_first),      TEST(the_region_of_an_active_vmcs_is_the_processors),
        TEST(a_region_cannot_be_copied),         TEST(access_wants_a_current_vmcs),
        TEST(fields_must_exist_and_be_written),  TEST(launch_state_is_the_processors),
        TEST(vmxoff_wants_every_vmcs_cleared),   TEST(l0s_instructions_do_not_fail),
        TEST(write_backs_are_invisible),         TEST(memory_of_an_active_vmcs_is_not_its_data),
        TEST(an_image_of_a_region_is_no_vmcs),   TEST(sentences_say_whose),
        TEST(vmxon_regions_are_one_processors),  TEST(shadow_vmcss_are_not_entered),
    };
    return cmocka_run_group_tests_name("the model's stops", tests, NULL, NULL);
}
