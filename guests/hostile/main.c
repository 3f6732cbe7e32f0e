// SPDX-License-Identifier: MIT
// Makes the attacks, on processor 0 and then on the last one.
//   attack=NAME    only attacks whose names begin so
//   bare=1         there is no L0: what the emulated processor does wrong is not tried
//   fuzz=SEED      instead of the attacks, count=N random instructions; trace=1 prints each before it is
//   executed
#include "apic.h"
#include "console.h"
#include "hostile.h"
#include "machine.h"
#include "trap.h"
#include "x86.h"

struct attack {
    const char *name;
    void (*run)(struct cpu *);
    bool last; // it ends L1
};

static const struct attack attacks[] = {
#define ATTACK(name)      {#name, attack_##name, false},
#define LAST_ATTACK(name) {#name, attack_##name, true},
#include "attacks.def"
#undef LAST_ATTACK
#undef ATTACK
};

static char only[32], bare[2], fuzz[24], count[24];
static uint32_t processor_count;

void guest_start(const struct multiboot_information *information, uint32_t magic);

bool hostile_bare(void)
{
    return bare[0];
}

uint32_t hostile_processors(void)
{
    return processor_count;
}

static bool main_wants(const char *name)
{
    const char *want = only;
    while (*want && *want == *name)
        want++, name++;
    return !*want;
}

static void main_attack(struct cpu *cpu)
{
    space_use(cpu);
    for (uint32_t i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++) {
        if (!main_wants(attacks[i].name) || (attacks[i].last && !only[0]))
            continue;
        console_print(cpu, "%u %s\n", cpu->index, attacks[i].name);
        cpu_reset_pages(cpu);
        cpu->trap_returns = false;
        cpu->trap_needs_eoi = true;
        attacks[i].run(cpu);
    }
}

static uint64_t main_number(const char *text)
{
    uint64_t number = 0;
    for (; *text >= '0' && *text <= '9'; text++)
        number = number * 10 + (uint64_t)(*text - '0');
    return number;
}

void guest_start(const struct multiboot_information *information, uint32_t magic)
{
    bool loaded = machine_init(information, magic);
    if (loaded)
        space_find(information);
    console_init();
    machine_option("attack", only, sizeof(only));
    machine_option("bare", bare, sizeof(bare));
    processor_count = apic_find_processors();
    struct cpu *cpu = cpu_get(0), *last = cpu_get(processor_count - 1);
    if (!loaded)
        trap_panic("not loaded by Multiboot");
    cpu->block.immediate = true;
    console_print(cpu, "hostile: %u processors\n", processor_count);
    space_build();
    if (machine_option("fuzz", fuzz, sizeof(fuzz))) {
        machine_option("count", count, sizeof(count));
        space_use(cpu);
        fuzz_run(cpu, main_number(fuzz), main_number(count));
    } else {
        apic_start_others(processor_count);
        main_attack(cpu);
        if (last != cpu) {
            last->block.immediate = true;
            apic_run_on(last, main_attack);
            apic_wait_for(last);
        }
        console_print(cpu, "hostile: %u wrong\n", cpu->wrong_count + (last != cpu ? last->wrong_count : 0));
    }
    console_print(cpu, "hostile: done\n");
    console_flush(cpu);
    machine_stop();
}
