// SPDX-License-Identifier: MIT
// Runs the tests: on each processor alone, then on all of them at once, then the tests that need two.
//   only=NAME   only tests whose names begin so
//   verbose=1   every fact of every turn
#include "apic.h"
#include "console.h"
#include "first.h"
#include "machine.h"
#include "pairs.h"
#include "trap.h"
#include "x86.h"

struct test {
    const char *name;
    void (*run)(struct cpu *);
};

static const struct test tests[] = {
#define FIRST_TEST(name) {#name, test_##name},
#include "first_tests.def"
#undef FIRST_TEST
};

static const struct test pair_tests[] = {
#define PAIR_TEST(name) {#name, pair_##name},
#include "pairs.def"
#undef PAIR_TEST
};

static char only[32], verbose[2];
static volatile uint32_t ready_count; // processors that wait to begin at once
static uint32_t processor_count;

void guest_start(const struct multiboot_information *information, uint32_t magic);

static bool main_wants(const char *name)
{
    const char *want = only;
    while (*want && *want == *name)
        want++, name++;
    return !*want;
}

// What a test may have changed and another one must not see.
static void main_run_test(struct cpu *cpu, const struct test *test)
{
    uint32_t fact_count = cpu->fact_count;
    console_print(cpu, "%u %s\n", cpu->index, test->name);
    cpu_reset_pages(cpu);
    cpu->trap_returns = false;
    cpu->trap_needs_eoi = true;
    if (!l2_vmx_on(cpu)) {
        fact_true(cpu, "VMXON succeeds", false);
        return;
    }
    test->run(cpu);
    uint64_t current = VMX_NO_VMCS;
    if (vmx_vmptrst(&current) == VMX_SUCCEED && current != VMX_NO_VMCS)
        vmx_vmclear(current);
    fact_true(cpu, "VMXOFF succeeds", l2_vmx_off());
    if (cpu->brief)
        console_print(cpu, "  %u facts\n", cpu->fact_count - fact_count);
}

static void main_run_table(struct cpu *cpu, const struct test *table, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (main_wants(table[i].name))
            main_run_test(cpu, &table[i]);
}

static void main_run_tests(struct cpu *cpu)
{
    cpu->fact_count = cpu->wrong_count = 0;
    main_run_table(cpu, tests, sizeof(tests) / sizeof(tests[0]));
    console_print(cpu, "%u: %u facts, %u wrong\n", cpu->index, cpu->fact_count, cpu->wrong_count);
}

static void main_run_tests_together(struct cpu *cpu)
{
    __atomic_add_fetch(&ready_count, 1, __ATOMIC_SEQ_CST);
    while (ready_count < processor_count)
        x86_pause();
    main_run_tests(cpu);
}

static void main_run_alone(struct cpu *cpu)
{
    cpu->block.immediate = true;
    cpu->brief = cpu->index != 0 && !verbose[0];
    console_print(cpu, "--- processor %u alone\n", cpu->index);
    if (cpu->index == 0) {
        main_run_tests(cpu);
    } else {
        apic_run_on(cpu, main_run_tests);
        apic_wait_for(cpu);
    }
    cpu->block.immediate = false;
}

static void main_run_together(void)
{
    console_print(cpu_get(0), "--- all %u processors at once\n", processor_count);
    ready_count = 0;
    cpu_get(0)->brief = !verbose[0];
    for (uint32_t i = 1; i < processor_count; i++)
        apic_run_on(cpu_get(i), main_run_tests_together);
    main_run_tests_together(cpu_get(0));
    for (uint32_t i = 1; i < processor_count; i++)
        apic_wait_for(cpu_get(i));
    for (uint32_t i = 0; i < processor_count; i++)
        console_flush(cpu_get(i));
}

static void main_run_pairs(void)
{
    struct cpu *cpu = cpu_get(0), *other = cpu_get(1);
    cpu->brief = other->brief = false;
    console_print(cpu, "--- processor 0 and processor 1\n");
    pairs_use(other);
    cpu->fact_count = cpu->wrong_count = other->fact_count = other->wrong_count = 0;
    main_run_table(cpu, pair_tests, sizeof(pair_tests) / sizeof(pair_tests[0]));
    console_print(cpu, "both: %u facts, %u wrong\n", cpu->fact_count + other->fact_count,
                  cpu->wrong_count + other->wrong_count);
}

void guest_start(const struct multiboot_information *information, uint32_t magic)
{
    bool loaded = machine_init(information, magic);
    console_init();
    machine_option("only", only, sizeof(only));
    machine_option("verbose", verbose, sizeof(verbose));
    processor_count = apic_find_processors();
    struct cpu *cpu = cpu_get(0);
    if (!loaded)
        trap_panic("not loaded by Multiboot");
    console_print(cpu, "first: %u processors\n", processor_count);
    main_run_alone(cpu); // the others do not even wait: what idles costs time too
    apic_start_others(processor_count);
    for (uint32_t i = 1; i < processor_count; i++)
        main_run_alone(cpu_get(i));
    if (processor_count > 1) {
        main_run_together();
        main_run_pairs();
    }
    console_print(cpu, "first: done\n");
    console_flush(cpu);
    machine_stop();
}
