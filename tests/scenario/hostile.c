// SPDX-License-Identifier: MIT
// An L1 that means harm, or has lost its mind: it scribbles over its VMCS regions, puts its structures where
// no memory is, and enters whatever comes of it. It may hurt itself. It may not reach L0's memory, nor make
// L0's own VMX instructions fail, nor find the engine with "a bug": on each of these the model, or the port,
// stops.
#include "l1_vmx.h"
#include "xorshift.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NOWHERE (1ull << 32)

static uint64_t random_state;

static uint64_t next_random(void)
{
    return xorshift(&random_state);
}

static int begin(uint64_t seed)
{
    world_begin(&(struct world_config){.nested = true, .seed = seed, .cpu_count = 2, .move_one_in = 30});
    random_state = seed * 0x9e3779b97f4a7c15ull + 1;
    machine_fill_with_ud2(world_machine());
    return 0;
}

// Runs `attack` in many worlds. Only running out of operations may stop it.
static void many_times(void (*attack)(void), unsigned times)
{
    const char *more = getenv("PLASTRON_ROUNDS");
    if (more != NULL)
        times = (unsigned)strtoul(more, NULL, 0);
    for (unsigned i = 1; i <= times; i++) {
        const char *sentence;
        begin(i);
        if (world_stops(attack, &sentence) && strstr(sentence, OUT_OF_OPERATIONS) == NULL)
            fail_msg("seed %u: %s", i, sentence);
        world_abandon();
    }
}

static void scribble(uint64_t page, unsigned words)
{
    for (unsigned i = 0; i < words; i++) {
        uint64_t word = next_random();
        memcpy((uint8_t *)l1_memory(page) + 4 + next_random() % 1500, &word, next_random() % 9);
    }
}

static void enter_and_see(bool launch)
{
    machine_limit_operations(world_machine(), 3000);
    l1_start(launch ? VMLAUNCH : VMRESUME);
}

// The region of a VMCS that works, with some words of it changed behind the processor's back.
static void scribbled_region(void)
{
    L2_PROGRAM(l2, CPUID(1), WRITE(0x20000, 1), VMCALL);
    l1_prepare(&l2);
    if (next_random() % 2)
        l1_vmlaunch();
    l1_vmclear(VMCS_A);
    scribble(VMCS_A, 1 + (unsigned)(next_random() % 12));
    if (!try_vmptrld(VMCS_A).zf)
        enter_and_see(next_random() % 2);
}

// ... while it is current: what L1 does to a region then is nobody's business but its own.
static void scribbled_region_that_is_current(void)
{
    L2_PROGRAM(l2, CPUID(1), WRITE(0x20000, 1), VMCALL);
    l1_prepare(&l2);
    l1_vmlaunch();
    scribble(VMCS_A, 200);
    scribble(VMXON_REGION, 50);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    l1_make_region(VMCS_B);
    l1_vmclear(VMCS_B);
    l1_vmptrld(VMCS_B);
    scribble(VMCS_A, 200);
    if (!try_vmptrld(VMCS_A).zf)
        enter_and_see(false);
}

// A region of nothing but noise.
static void a_region_of_noise(void)
{
    l1_enter_vmx_operation();
    l1_make_region(VMCS_A);
    uint8_t *bytes = l1_memory(VMCS_A);
    for (unsigned i = 4; i < 4096; i++)
        bytes[i] = (uint8_t)next_random();
    l1_vmptrld(VMCS_A);
    enter_and_see(next_random() % 2);
}

// Every address field in turn, where L1 has no memory, or where L0's would be if addresses were not
// translated.
static void structures_that_are_nowhere(void)
{
    static const uint32_t fields[] = {
        VMCS_IO_BITMAP_A,
        VMCS_IO_BITMAP_B,
        VMCS_MSR_BITMAP,
        VMCS_VM_EXIT_MSR_STORE_ADDRESS,
        VMCS_EPT_POINTER,
        VMCS_VIRTUAL_APIC_ADDRESS,
        VMCS_APIC_ACCESS_ADDRESS,
        VMCS_VM_EXIT_MSR_LOAD_ADDRESS,
        VMCS_GUEST_CR3,
        VMCS_VMCS_LINK_POINTER,
        VMCS_HOST_CR3,
        VMCS_VM_ENTRY_MSR_LOAD_ADDRESS,
        VMCS_GUEST_IDTR_BASE,
    };
    static const uint64_t places[] = {NOWHERE, 0x1000000, 0x2000000, 0x100000, 0x108000, 0xfffffff000, 0x0};
    L2_PROGRAM(l2, CPUID(1), OUT(0x60, 1), RDMSR(MSR_IA32_PAT), MOV_TO_CR(8, 3), READ(GPR_RBX, 0x20000), UD2,
               VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_TPR_THRESHOLD, 0);
    l1_vmwrite(VMCS_VIRTUAL_APIC_ADDRESS, L1_TABLES);
    l1_vmwrite(VMCS_APIC_ACCESS_ADDRESS, L1_TABLES);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS | PRIMARY_USE_TPR_SHADOW);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_VIRTUALIZE_APIC_ACCESSES);
    for (unsigned i = 0; i < 3; i++) {
        l1_vmwrite(VMCS_VM_EXIT_MSR_STORE_COUNT, next_random() % 3);
        l1_vmwrite(VMCS_VM_EXIT_MSR_LOAD_COUNT, next_random() % 3);
        l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, next_random() % 3);
        l1_vmwrite(fields[next_random() % 13], places[next_random() % 7]);
        uint64_t eptp = places[next_random() % 7] | 6 | 3 << 3;
        if (next_random() % 4 == 0)
            l1_vmwrite(VMCS_EPT_POINTER, eptp);
    }
    enter_and_see(true);
}

// EPT12 tables that point to themselves, to each other, to L1's own page tables, to VMCS regions.
static void twisted_ept(void)
{
    static struct op ops[40];
    struct l2 l2 = {.op = ops, .count = 40};
    for (unsigned i = 0; i < 39; i++)
        ops[i] = next_random() % 2 ? READ(GPR_RBX, (int64_t)(next_random() % 0x3f0000))
                                   : WRITE((int64_t)(next_random() % 0x3f0000), next_random());
    ops[39] = VMCALL;
    l2_load(&l2);
    l1_prepare(&l2);
    for (unsigned i = 0; i < 30; i++) {
        unsigned level = 1 + (unsigned)(next_random() % 4);
        uint64_t at = next_random() % 0x400000 & ~0xfffull, to = next_random() % L1_RAM_SIZE & ~0xfffull;
        if (next_random() % 3 == 0)
            to = l2.eptp & ~0xfffull;
        uint64_t *directory = l1_ept_entry(l2.eptp, 0, 4);
        if (level < 4 && !(*directory & 7))
            continue;
        if (at > 0x20000) // the code stays where it is
            *l1_ept_entry(l2.eptp, at, level == 1 ? 1 : 2) = to | (next_random() & 0xff);
        if (next_random() % 2)
            l1_invept(2, 0);
    }
    enter_and_see(true);
}

static bool l1_goes_on(struct outcome outcome)
{
    return outcome.how == COMPLETED || outcome.how == EXITED || outcome.how == EXCEPTION;
}

// Whatever L0 reads of L1's memory, another processor of L1's changes behind it: lists, bitmaps, paging
// structures, operands, the region. What L0 checked must be what it uses.
static void others_write_while_l0_reads(void)
{
    L2_PROGRAM(l2, RDMSR(MSR_IA32_PAT), OUT(0x60, 1), READ(GPR_RBX, 0x20000), WRITE(0x30000, 1),
               MOV_TO_CR(8, 3), CPUID(0), VMCALL);
    l1_prepare(&l2);
    uint64_t list[4] = {MSR_IA32_PAT, 0x0007040600070406, MSR_IA32_SYSENTER_ESP, 0x1000};
    for (unsigned i = 0; i < 3; i++)
        memcpy(l1_memory(MSR_LISTS + 0x400 * i), list, sizeof(list));
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, MSR_LISTS);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 2);
    l1_vmwrite(VMCS_VM_EXIT_MSR_STORE_ADDRESS, MSR_LISTS + 0x400);
    l1_vmwrite(VMCS_VM_EXIT_MSR_STORE_COUNT, 2);
    l1_vmwrite(VMCS_VM_EXIT_MSR_LOAD_ADDRESS, MSR_LISTS + 0x800);
    l1_vmwrite(VMCS_VM_EXIT_MSR_LOAD_COUNT, 2);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS | PRIMARY_USE_TPR_SHADOW);
    l1_vmwrite(VMCS_IO_BITMAP_A, IO_BITMAPS);
    l1_vmwrite(VMCS_IO_BITMAP_B, IO_BITMAPS + PAGE_SIZE);
    l1_vmwrite(VMCS_VIRTUAL_APIC_ADDRESS, l1_new_page());
    l1_vmwrite(VMCS_TPR_THRESHOLD, 0);
    machine_limit_operations(world_machine(), 3000);
    l0_race_at_random(1 + (unsigned)(next_random() % 6));
    bool launched = false;
    for (unsigned i = 0; i < 40; i++) {
        if (i % 8 == 7) {
            struct outcome cleared = {.how = IDLE};
            if (!l1_goes_on(try_invept(2, 0, 0)) || !l1_goes_on(cleared = try_vmclear(VMCS_A)) ||
                !l1_goes_on(try_vmptrld(VMCS_A)))
                return;
            launched &= cleared.how != COMPLETED || cleared.cf || cleared.zf;
        }
        struct outcome outcome = launched ? try_vmresume() : try_vmlaunch();
        launched |= outcome.how == EXITED;
        if (!l1_goes_on(outcome) || !l1_goes_on(try_vmwrite(VMCS_GUEST_RIP, l2.code)))
            return;
    }
}

static void test_others_write_while_l0_reads(void **state)
{
    (void)state;
    many_times(others_write_while_l0_reads, 120);
}

static void test_scribbled_region(void **state)
{
    (void)state;
    many_times(scribbled_region, 120);
}

static void test_scribbled_region_that_is_current(void **state)
{
    (void)state;
    many_times(scribbled_region_that_is_current, 40);
}

static void test_a_region_of_noise(void **state)
{
    (void)state;
    many_times(a_region_of_noise, 60);
}

static void test_structures_that_are_nowhere(void **state)
{
    (void)state;
    many_times(structures_that_are_nowhere, 120);
}

static void test_twisted_ept(void **state)
{
    (void)state;
    many_times(twisted_ept, 60);
}

#define TEST(function) cmocka_unit_test_teardown(test_##function, scenario_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(scribbled_region),  TEST(scribbled_region_that_is_current),
        TEST(a_region_of_noise), TEST(structures_that_are_nowhere),
        TEST(twisted_ept),       TEST(others_write_while_l0_reads),
    };
    return cmocka_run_group_tests_name("hostile", tests, NULL, NULL);
}
