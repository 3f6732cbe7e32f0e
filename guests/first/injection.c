// SPDX-License-Identifier: MIT
// Event injection into L2, what happens when the delivery itself fails, and single steps.
#include "first.h"
#include "l2_code.h"
#include "trap.h"
#include "x86.h"

#define INFO(type, vector) (INTERRUPTION_VALID | (type) << INTERRUPTION_TYPE_SHIFT | (vector))

// Injects, lets L2's handler return and L2 reach its VMCALL, and looks at what the handler saw.
static void fact_injected(struct cpu *cpu, struct l2 *l2, const char *name, uint32_t info,
                          uint32_t error_code, uint32_t length)
{
    uint64_t count = cpu->trap.count;
    l2_restart(l2, l2_nops);
    l2_write(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    l2_write(VMCS_VM_ENTRY_INTERRUPTION_INFO, info);
    l2_write(VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, error_code);
    l2_write(VMCS_VM_ENTRY_INSTRUCTION_LENGTH, length);
    if (!fact_call(cpu, l2, name, 3))
        return;
    fact(cpu, "events that L2 took", cpu->trap.count - count, 1);
    fact(cpu, "its vector", cpu->trap.vector, info & INTERRUPTION_VECTOR_MASK);
    if (info & INTERRUPTION_ERROR_CODE)
        fact(cpu, "its error code", cpu->trap.error_code, error_code);
    fact(cpu, "the RIP that was pushed, from L2's start", cpu->trap.rip - l2_code_address(l2_nops), length);
    fact(cpu, "the IF that was pushed", cpu->trap.rflags & RFLAGS_IF, RFLAGS_IF);
    fact(cpu, "the VM-entry field is valid after the exit", l2_read(VMCS_VM_ENTRY_INTERRUPTION_INFO) >> 31,
         0);
}

// The handlers return to one byte further on per byte of instruction length: L2 has as many NOPs.
void test_injection(struct cpu *cpu)
{
    cpu->trap_returns = true;
    cpu->trap_needs_eoi = false;
    struct l2 *l2 = l2_create(cpu, l2_nops);
    fact_injected(cpu, l2, "external interrupt", INFO(EVENT_EXTERNAL_INTERRUPT, 0x71), 0, 0);
    fact_injected(cpu, l2, "hardware exception #UD", INFO(EVENT_HARDWARE_EXCEPTION, VECTOR_UD), 0, 0);
    fact_injected(cpu, l2, "hardware exception #GP",
                  INFO(EVENT_HARDWARE_EXCEPTION, VECTOR_GP) | INTERRUPTION_ERROR_CODE, 0x1238, 0);
    x86_write_cr2(0xabcdef000);
    fact_injected(cpu, l2, "hardware exception #PF",
                  INFO(EVENT_HARDWARE_EXCEPTION, VECTOR_PF) | INTERRUPTION_ERROR_CODE, 2, 0);
    fact(cpu, "the CR2 that L2 saw", cpu->trap.cr2, 0xabcdef000);
    fact_injected(cpu, l2, "software interrupt", INFO(EVENT_SOFTWARE_INTERRUPT, 0x72), 0, 2);
    fact_injected(cpu, l2, "software exception #BP", INFO(EVENT_SOFTWARE_EXCEPTION, VECTOR_BP), 0, 1);
    fact_injected(cpu, l2, "privileged software exception #DB", INFO(EVENT_PRIVILEGED_SOFTWARE, VECTOR_DB), 0,
                  1);
    fact_injected(cpu, l2, "NMI", INFO(EVENT_NMI, VECTOR_NMI), 0, 0);
    uint64_t count = cpu->trap.count;
    l2_restart(l2, l2_nops);
    fact_call(cpu, l2, "nothing", 3);
    fact(cpu, "events that L2 took", cpu->trap.count - count, 0);
}

// Injected events do not look at the exception bitmap, the faults that their delivery raises do.
void test_injection_and_bitmap(struct cpu *cpu)
{
    cpu->trap_returns = true;
    struct l2 *l2 = l2_create(cpu, l2_nops);
    l2_write(VMCS_EXCEPTION_BITMAP, 0xffffffff);
    fact_injected(cpu, l2, "#GP, which is in the exception bitmap",
                  INFO(EVENT_HARDWARE_EXCEPTION, VECTOR_GP) | INTERRUPTION_ERROR_CODE, 0x40, 0);
}

static void fact_vectoring(struct cpu *cpu, uint32_t information, uint32_t vectoring)
{
    fact(cpu, "interruption information", l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO), information);
    fact(cpu, "IDT-vectoring information", l2_read(VMCS_IDT_VECTORING_INFO), vectoring);
}

static void inject_general_protection(void)
{
    l2_write(VMCS_VM_ENTRY_INTERRUPTION_INFO,
             INFO(EVENT_HARDWARE_EXCEPTION, VECTOR_GP) | INTERRUPTION_ERROR_CODE);
    l2_write(VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, 0x30);
}

void test_vectoring(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_nops);
    l2_write(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    l2_write(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_GP);
    l2_write(VMCS_GUEST_IDTR_LIMIT, 16 * 32 - 1); // exceptions only
    l2_write(VMCS_VM_ENTRY_INTERRUPTION_INFO, INFO(EVENT_EXTERNAL_INTERRUPT, 0x71));
    if (!fact_exit(cpu, l2, "injected interrupt beyond the IDT: #GP", EXIT_EXCEPTION_OR_NMI))
        return;
    fact_vectoring(cpu, 0x80000b0d, 0x80000071);
    fact(cpu, "the error code: IDT, external", l2_read(VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), 0x71 * 8 + 3);
    fact_true(cpu, "RIP is as injected", l2_read(VMCS_GUEST_RIP) == l2_code_address(l2_nops));
    fact_call(cpu, l2, "the next entry injects nothing: L2 goes on", 3);
    fact(cpu, "IDT-vectoring information is valid", l2_read(VMCS_IDT_VECTORING_INFO) >> 31, 0);

    l2_write(VMCS_VM_ENTRY_INTERRUPTION_INFO, INFO(EVENT_SOFTWARE_INTERRUPT, 0x72));
    l2_write(VMCS_VM_ENTRY_INSTRUCTION_LENGTH, 2);
    fact_exit(cpu, l2, "injected INT n beyond the IDT: #GP", EXIT_EXCEPTION_OR_NMI);
    fact_vectoring(cpu, 0x80000b0d, 0x80000472);
    fact(cpu, "the error code: IDT, not external", l2_read(VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE),
         0x72 * 8 + 2);
    fact(cpu, "instruction length", l2_read(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 2);

    l2_restart(l2, l2_undefined);
    l2_write(VMCS_GUEST_IDTR_LIMIT, 16 * VECTOR_UD - 1);
    fact_exit(cpu, l2, "UD2 whose #UD cannot be delivered: #GP", EXIT_EXCEPTION_OR_NMI);
    fact_vectoring(cpu, 0x80000b0d, 0x80000306);
    inject_general_protection();
    fact_exit(cpu, l2, "injected #GP beyond the IDT: #GP, which is in the bitmap", EXIT_EXCEPTION_OR_NMI);
    fact_vectoring(cpu, 0x80000b0d, 0x80000b0d);
    fact(cpu, "IDT-vectoring error code", l2_read(VMCS_IDT_VECTORING_ERROR_CODE), 0x30);
    l2_write(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_DF);
    inject_general_protection();
    fact_exit(cpu, l2, "the same with #DF in the bitmap", EXIT_EXCEPTION_OR_NMI);
    fact_vectoring(cpu, 0x80000b08, 0); // a double fault counts as no event delivery
    l2_write(VMCS_EXCEPTION_BITMAP, 0);
    inject_general_protection();
    fact_exit(cpu, l2, "the same with nothing in the bitmap", EXIT_TRIPLE_FAULT);
}

void test_triple_fault(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_undefined);
    l2_write(VMCS_GUEST_IDTR_LIMIT, 0);
    if (!fact_exit(cpu, l2, "L2 executes UD2 without an IDT", EXIT_TRIPLE_FAULT))
        return;
    fact_true(cpu, "RIP is at UD2", l2_read(VMCS_GUEST_RIP) == l2_code_address(l2_undefined));
    fact(cpu, "exit qualification", l2_read(VMCS_EXIT_QUALIFICATION), 0);
    l2_restart(l2, l2_nops);
    fact_call(cpu, l2, "L2 goes on elsewhere", 3);
}

void test_single_step(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_nops);
    l2_write(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_DB);
    l2_set(VMCS_GUEST_RFLAGS, RFLAGS_TF);
    uint64_t dr6 = x86_read_dr6();
    if (!fact_exit(cpu, l2, "L2's TF is 1", EXIT_EXCEPTION_OR_NMI))
        return;
    fact(cpu, "interruption information", l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000301);
    fact(cpu, "exit qualification: BS", l2_read(VMCS_EXIT_QUALIFICATION), 0x4000);
    fact_true(cpu, "L2 has executed one instruction", l2_read(VMCS_GUEST_RIP) == cpu_physical(l2_nops_1));
    fact_true(cpu, "DR6 is as before", x86_read_dr6() == dr6);
    l2_write(VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 0x4000);
    fact_exit(cpu, l2, "VM entry with a pending single-step trap", EXIT_EXCEPTION_OR_NMI);
    fact_true(cpu, "L2 has executed nothing", l2_read(VMCS_GUEST_RIP) == cpu_physical(l2_nops_1));
    l2_clear(VMCS_GUEST_RFLAGS, RFLAGS_TF);
    l2_write(VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    fact_call(cpu, l2, "TF 0: L2 goes on", 3);
}

void test_monitor_trap_flag(struct cpu *cpu)
{
    if (!fact_offered(cpu, "monitor trap flag", VMCS_PRIMARY_CONTROLS, PRIMARY_MONITOR_TRAP_FLAG))
        return;
    struct l2 *l2 = l2_create(cpu, l2_nops);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_MONITOR_TRAP_FLAG);
    fact_exit(cpu, l2, "monitor trap flag", EXIT_MONITOR_TRAP_FLAG);
    fact_true(cpu, "L2 has executed one instruction", l2_read(VMCS_GUEST_RIP) == cpu_physical(l2_nops_1));
    fact_exit(cpu, l2, "and once more", EXIT_MONITOR_TRAP_FLAG);
    fact_true(cpu, "another one", l2_read(VMCS_GUEST_RIP) == cpu_physical(l2_nops_1) + 1);
    l2_clear(VMCS_PRIMARY_CONTROLS, PRIMARY_MONITOR_TRAP_FLAG);
    fact_call(cpu, l2, "control 0: L2 goes on", 3);
}
