// SPDX-License-Identifier: MIT
#include "console.h"
#include "first.h"
#include "trap.h"
#include "x86.h"

static void fact_end(struct cpu *cpu, bool right)
{
    cpu->fact_count++;
    if (!right)
        cpu->wrong_count++;
    if (right && cpu->brief)
        console_drop_line(cpu);
    else
        console_print(cpu, "\n");
}

void fact(struct cpu *cpu, const char *name, uint64_t value, uint64_t expected)
{
    console_print(cpu, "  %s: %lx", name, value);
    if (value != expected)
        console_print(cpu, "  WRONG, should be %lx", expected);
    fact_end(cpu, value == expected);
}

void fact_true(struct cpu *cpu, const char *name, bool holds)
{
    console_print(cpu, "  %s: %s", name, holds ? "yes" : "no  WRONG");
    fact_end(cpu, holds);
}

static void fact_print_status(struct cpu *cpu, uint32_t status)
{
    if (status == FACT_SUCCEED)
        console_print(cpu, "succeeds");
    else if (status == FACT_FAIL_INVALID)
        console_print(cpu, "VMfailInvalid");
    else
        console_print(cpu, "VMfailValid %u", status);
}

void fact_status(struct cpu *cpu, const char *name, enum vmx_status status, uint32_t expected)
{
    uint32_t seen = status == VMX_SUCCEED        ? FACT_SUCCEED
                    : status == VMX_FAIL_INVALID ? FACT_FAIL_INVALID
                                                 : (uint32_t)l2_read(VMCS_VM_INSTRUCTION_ERROR);
    console_print(cpu, "  %s: ", name);
    fact_print_status(cpu, seen);
    if (seen != expected) {
        console_print(cpu, "  WRONG, should be: ");
        fact_print_status(cpu, expected);
    }
    fact_end(cpu, seen == expected);
}

static void fact_print_trap(struct cpu *cpu, uint32_t vector, uint64_t error_code)
{
    static const char *const names[] = {
        [VECTOR_DB] = "#DB", [VECTOR_BP] = "#BP", [VECTOR_UD] = "#UD", [VECTOR_DF] = "#DF",
        [VECTOR_TS] = "#TS", [VECTOR_NP] = "#NP", [VECTOR_SS] = "#SS", [VECTOR_GP] = "#GP",
        [VECTOR_PF] = "#PF", [VECTOR_AC] = "#AC"};
    const char *name = vector < sizeof(names) / sizeof(names[0]) ? names[vector] : NULL;
    if (name)
        console_print(cpu, "%s", name);
    else
        console_print(cpu, "vector %u", vector);
    if (vector == VECTOR_DF || (vector >= VECTOR_TS && vector <= VECTOR_PF) || vector == VECTOR_AC)
        console_print(cpu, "(%lx)", error_code);
}

void fact_trap(struct cpu *cpu, const char *name, void (*function)(void *), void *argument, uint32_t vector,
               uint64_t error_code)
{
    bool trapped = trap_catch(function, argument);
    bool right = trapped && cpu->trap.vector == vector && cpu->trap.error_code == error_code;
    console_print(cpu, "  %s: ", name);
    if (trapped)
        fact_print_trap(cpu, cpu->trap.vector, cpu->trap.error_code);
    else
        console_print(cpu, "no exception");
    if (!right) {
        console_print(cpu, "  WRONG, should be ");
        fact_print_trap(cpu, vector, error_code);
    }
    fact_end(cpu, right);
}

void fact_no_trap(struct cpu *cpu, const char *name, void (*function)(void *), void *argument)
{
    bool trapped = trap_catch(function, argument);
    console_print(cpu, "  %s: ", name);
    if (trapped)
        fact_print_trap(cpu, cpu->trap.vector, cpu->trap.error_code);
    console_print(cpu, trapped ? "  WRONG, should be no exception" : "no exception");
    fact_end(cpu, !trapped);
}

static void fact_print_exit(struct cpu *cpu, uint32_t reason)
{
    console_print(cpu, "%sexit %u %s", reason & EXIT_REASON_ENTRY_FAILURE ? "entry failure, " : "",
                  reason & EXIT_REASON_BASIC_MASK, l2_exit_name(reason));
}

bool fact_exit(struct cpu *cpu, struct l2 *l2, const char *name, uint32_t reason)
{
    enum vmx_status status = l2_enter(l2);
    if (status != VMX_SUCCEED) {
        fact_status(cpu, name, status, FACT_SUCCEED);
        return false;
    }
    uint32_t seen = (uint32_t)l2_read(VMCS_EXIT_REASON);
    console_print(cpu, "  %s: ", name);
    fact_print_exit(cpu, seen);
    if (seen != reason) {
        console_print(cpu,
                      " (qualification %lx, rip %lx, interruption %lx; L2's last trap: vector %u, rip %lx)"
                      "  WRONG, should be ",
                      l2_read(VMCS_EXIT_QUALIFICATION), l2_read(VMCS_GUEST_RIP),
                      l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO), cpu->trap.vector, cpu->trap.rip);
        fact_print_exit(cpu, reason);
    }
    fact_end(cpu, seen == reason);
    return seen == reason;
}

bool fact_call(struct cpu *cpu, struct l2 *l2, const char *name, uint64_t number)
{
    if (!fact_exit(cpu, l2, name, EXIT_VMCALL))
        return false;
    if (l2->gpr[GPR_RAX] != number)
        fact(cpu, "its number", l2->gpr[GPR_RAX], number);
    l2_skip();
    return l2->gpr[GPR_RAX] == number;
}

bool fact_exit_skip(struct cpu *cpu, struct l2 *l2, const char *name, uint32_t reason, uint32_t length)
{
    if (!fact_exit(cpu, l2, name, reason))
        return false;
    fact(cpu, "its instruction length", l2_read(VMCS_VM_EXIT_INSTRUCTION_LENGTH), length);
    l2_skip();
    return true;
}

bool fact_offered(struct cpu *cpu, const char *what, uint32_t controls_field, uint32_t bits)
{
    if (l2_may_set(controls_field, bits))
        return true;
    console_print(cpu, "  not offered: %s\n", what);
    return false;
}

void set_cr0(void *value)
{
    x86_write_cr0((uint64_t)(uintptr_t)value);
}

void set_cr4(void *value)
{
    x86_write_cr4((uint64_t)(uintptr_t)value);
}

void *bits(uint64_t value)
{
    return (void *)(uintptr_t)value;
}
