// SPDX-License-Identifier: MIT
// L0's memory and what is no memory, read, written and executed by L1 and by L2, while a clock of L1's runs.
#include "console.h"
#include "ept.h"
#include "hostile.h"
#include "x86.h"

#define SIZE_2M     (1ull << 21)
#define SPINS_AFTER 8u // NMIs of the watchdog's

static const struct {
    const char *name, *code;
    uint8_t size;
    bool execute;
} accesses[] = {
    {"read", "\x48\x8b\x06", 3, 0},
    {"write", "\x48\x89\x1e", 3, 0},
    {"read again", "\x48\x8b\x06", 3, 0},
    {"read, modify, write", "\xf0\x48\x0f\xc1\x1e", 5, 0},
    {"read once more", "\x48\x8b\x06", 3, 0},
    {"write a string", "\xf3\x48\xab", 3, 0},
    {"read behind it", "\x48\x8b\x06", 3, 0},
    {"copy a string within it", "\xf3\x48\xa5", 3, 0},
    {"execute", "", 0, 1},
};

static struct probe prepared(uint32_t i, uint64_t at)
{
    struct probe probe = {
        .code = accesses[i].code, .size = accesses[i].size, .at = accesses[i].execute ? at : 0};
    probe.gpr[GPR_RSI] = probe.gpr[GPR_RDI] = at;
    probe.gpr[GPR_RBX] = 0x1234;
    probe.gpr[GPR_RCX] = 5;
    return probe;
}

static void say(struct cpu *cpu, uint32_t i, const struct probe *probe)
{
    outcome_should(cpu, accesses[i].name, probe, accesses[i].execute ? VECTOR_UD : PROBE_RAN, 0);
    if (!accesses[i].execute && accesses[i].code[1] == '\x8b')
        outcome_number(cpu, "the value", probe->gpr[GPR_RAX], ~0ull);
}

void attack_holes(struct cpu *cpu)
{
    const uint64_t places[] = {space_l0() ? space_l0() : space_hole(), space_hole(),
                               (space_l0() ? space_l0() : space_hole()) + SIZE_2M - PAGE_SIZE};
    for (uint32_t p = 0; p < sizeof(places) / sizeof(places[0]); p++) {
        console_print(cpu, "  %s\n", p == 1 ? "a hole" : p ? "the end of 2 MBytes of L0's" : "L0's memory");
        for (uint32_t i = 0; i < sizeof(accesses) / sizeof(accesses[0]); i++) {
            struct probe probe = prepared(i, places[p]);
            // The emulator ends when a processor executes where nothing is; under Plastron, too, but for L0's
            // memory.
            if (accesses[i].execute && (hostile_bare() || p == 1)) {
                outcome_text(cpu, accesses[i].name, "#UD");
                continue;
            }
            probe_run(cpu, &probe);
            say(cpu, i, &probe);
        }
    }
}

static bool run_in_l2(struct cpu *cpu, struct l2 *l2, struct probe *probe, uint32_t i)
{
    for (uint32_t turn = 0; turn < SPINS_AFTER; turn++) {
        struct probe again = *probe;
        uint32_t reason = probe_run_in_l2(cpu, l2, &again);
        if (reason == EXIT_EXCEPTION_OR_NMI)
            continue; // by chance, or L2 spins
        *probe = again;
        if (reason == PROBE_LEFT_L2)
            return true;
        outcome_exit(cpu, accesses[i].name, reason, probe);
        return false;
    }
    outcome_text(cpu, accesses[i].name, "L2 spins  WRONG");
    cpu->wrong_count++;
    return false;
}

static void try_l2(struct cpu *cpu, struct l2 *l2, const char *how)
{
    for (uint32_t p = 0; p < 2; p++) {
        uint64_t at = p ? space_hole() : space_l0() ? space_l0() : space_hole();
        console_print(cpu, "  L2, %s, %s\n", how, p ? "a hole" : "L0's memory");
        for (uint32_t i = 0; i < sizeof(accesses) / sizeof(accesses[0]); i++) {
            struct probe probe = prepared(i, at);
            if (accesses[i].execute && outcome_not_bare(cpu, accesses[i].name, "#UD"))
                continue;
            if (run_in_l2(cpu, l2, &probe, i))
                say(cpu, i, &probe);
        }
    }
}

void attack_l2_holes(struct cpu *cpu)
{
    if (!l2_vmx_on(cpu))
        return;
    struct l2 *l2 = l2_create(cpu, NULL);
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
    probe_watchdog(true);
    try_l2(cpu, l2, "L1's paging");
    struct ept ept = ept_create_identity(cpu);
    uint64_t l0 = space_l0() ? space_l0() : space_hole();
    ept_map(&ept, space_hole(), space_hole(), SIZE_2M, EPT_ALL | EPT_WRITE_BACK);
    ept_map(&ept, l0, l0, SIZE_2M, EPT_ALL | EPT_WRITE_BACK);
    ept_use(&ept);
    try_l2(cpu, l2, "EPT, large pages");
    for (uint32_t i = 0; i < 512; i++) {
        ept_map(&ept, space_hole() + i * PAGE_SIZE, space_hole() + i * PAGE_SIZE, PAGE_SIZE, EPT_ALL);
        ept_map(&ept, l0 + i * PAGE_SIZE, l0 + i * PAGE_SIZE, PAGE_SIZE, EPT_ALL | EPT_WRITE_BACK);
    }
    ept_invalidate(&ept);
    try_l2(cpu, l2, "EPT, small pages");
    // What one L2 wrote there another one does not find.
    struct ept other = ept_create_identity(cpu);
    ept_map(&other, space_hole(), space_hole(), SIZE_2M, EPT_ALL | EPT_WRITE_BACK);
    ept_use(&other);
    try_l2(cpu, l2, "another EPT");
    probe_watchdog(false);
    vmx_vmclear(l2->vmcs);
    l2_vmx_off();
}
