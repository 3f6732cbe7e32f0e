// SPDX-License-Identifier: MIT
#include "console.h"
#include "hostile.h"

static void print_trap(struct cpu *cpu, uint32_t vector, uint64_t error_code)
{
    static const char *const names[] = {
        [0] = "#DE",         [VECTOR_DB] = "#DB", [VECTOR_UD] = "#UD", [7] = "#NM",
        [VECTOR_DF] = "#DF", [VECTOR_TS] = "#TS", [VECTOR_NP] = "#NP", [VECTOR_SS] = "#SS",
        [VECTOR_GP] = "#GP", [VECTOR_PF] = "#PF", [VECTOR_AC] = "#AC", [VECTOR_CP] = "#CP",
    };
    if (vector == PROBE_RAN)
        console_print(cpu, "runs");
    else if (vector == PROBE_WATCHDOG)
        console_print(cpu, "does not end");
    else if (vector == PROBE_EXITED)
        console_print(cpu, "VM exit");
    else if (vector < sizeof(names) / sizeof(names[0]) && names[vector])
        console_print(cpu, "%s", names[vector]);
    else
        console_print(cpu, "vector %u", vector);
    if (vector == VECTOR_DF || (vector >= VECTOR_TS && vector <= VECTOR_PF) || vector == VECTOR_AC ||
        vector == VECTOR_CP)
        console_print(cpu, "(%lx)", error_code);
}

void outcome(struct cpu *cpu, const char *name, const struct probe *probe)
{
    console_print(cpu, "  %s: ", name);
    print_trap(cpu, probe->vector, probe->error_code);
    console_print(cpu, "\n");
}

void outcome_flags(struct cpu *cpu, const char *name, const struct probe *probe)
{
    console_print(cpu, "  %s: ", name);
    print_trap(cpu, probe->vector, probe->error_code);
    if (probe_was_run(probe))
        console_print(cpu, "%s%s", probe->rflags & RFLAGS_CF ? " CF" : "",
                      probe->rflags & RFLAGS_ZF ? " ZF" : "");
    console_print(cpu, "\n");
}

static void print_wrong(struct cpu *cpu)
{
    cpu->wrong_count++;
    console_print(cpu, "  WRONG, should be ");
}

void outcome_should(struct cpu *cpu, const char *name, const struct probe *probe, uint32_t vector,
                    uint64_t error)
{
    console_print(cpu, "  %s: ", name);
    print_trap(cpu, probe->vector, probe->error_code);
    if (probe->vector != vector || (vector != PROBE_RAN && probe->error_code != error)) {
        print_wrong(cpu);
        print_trap(cpu, vector, error);
    }
    console_print(cpu, "\n");
}

void outcome_exit(struct cpu *cpu, const char *name, uint32_t reason, const struct probe *probe)
{
    console_print(cpu, "  %s: ", name);
    if (reason == PROBE_LEFT_L2)
        print_trap(cpu, probe->vector, probe->error_code);
    else if (reason == ~0u)
        console_print(cpu, "VMfail");
    else
        console_print(cpu, "exit %x", reason);
    console_print(cpu, "\n");
}

void outcome_text(struct cpu *cpu, const char *name, const char *text)
{
    console_print(cpu, "  %s: %s\n", name, text);
}

void outcome_number(struct cpu *cpu, const char *name, uint64_t number, uint64_t should)
{
    console_print(cpu, "  %s: %lx", name, number);
    if (number != should) {
        print_wrong(cpu);
        console_print(cpu, "%lx", should);
    }
    console_print(cpu, "\n");
}

bool outcome_not_bare(struct cpu *cpu, const char *name, const char *text)
{
    if (hostile_bare())
        outcome_text(cpu, name, text);
    return hostile_bare();
}
