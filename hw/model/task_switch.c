// SPDX-License-Identifier: MIT
// Task switches, which VMX non-root operation does not have: whoever would make one, far CALL or JMP, IRET
// with NT set, an event through a task gate, exits; but only when the descriptors are in order. Manual:
// Treatment of Task Switches; Exit Qualification for Task Switches; Task Management.
#include "model.h"

#define TSS_AVAILABLE_16 1u
#define TSS_BUSY_16      3u
#define TSS_AVAILABLE_32 9u
#define TSS_BUSY_32      11u

static bool fault(struct hw_cpu *cpu, uint8_t vector, uint16_t selector)
{
    raise_exception_with_code(cpu, vector, selector & ~3u);
    return false;
}

// The descriptor that a TSS selector names is one, free (or busy, to return to), and present. `wrong` is the
// exception if not.
static bool check_descriptor(struct hw_cpu *cpu, uint16_t selector, enum task_switch_source source)
{
    bool back = source == TASK_SWITCH_IRET;
    uint8_t wrong = back ? VECTOR_TS : VECTOR_GP, bytes[8];
    if ((selector & ~3u) == 0 || (selector & 4) || (selector | 7u) > cpu->r.gdtr_limit)
        return fault(cpu, wrong, selector);
    if (!guest_read(cpu, cpu->r.gdtr_base + (selector & ~7u), bytes, 8, true))
        return false;
    unsigned type = bytes[5] & 0x1f, dpl = bytes[5] >> 5 & 3;
    bool is_tss = back ? type == TSS_BUSY_16 || type == TSS_BUSY_32
                       : type == TSS_AVAILABLE_16 || type == TSS_AVAILABLE_32;
    bool by_far_transfer = source == TASK_SWITCH_CALL || source == TASK_SWITCH_JMP;
    if (!is_tss || (by_far_transfer && (dpl < cpu_cpl(cpu) || dpl < (selector & 3u))))
        return fault(cpu, wrong, selector);
    if (!(bytes[5] & 0x80))
        return fault(cpu, VECTOR_NP, selector);
    return true;
}

void task_switch(struct hw_cpu *cpu, uint16_t selector, enum task_switch_source source, const struct op *op)
{
    if (!check_descriptor(cpu, selector, source))
        return;
    if (cpu->vmx != VMX_NON_ROOT)
        rule_broken(cpu, "a task switch to %#x outside VMX non-root operation, which the model does not know",
                    selector);
    vm_exit(cpu, &(struct exit_information){.reason = 9,
                                            .qualification = selector | (uint64_t)source << 30,
                                            .has_length = op != NULL,
                                            .length = op != NULL ? op_length(op) : 0});
}

// IRET with NT set: back to the task whose TSS selector is in the current TSS.
void task_return(struct hw_cpu *cpu, const struct op *op)
{
    uint16_t link;
    if (cpu_in_long_mode(cpu))
        raise_exception_with_code(cpu, VECTOR_GP, 0);
    else if (guest_read(cpu, cpu->r.segment[SEGMENT_TR].base, &link, 2, true))
        task_switch(cpu, link, TASK_SWITCH_IRET, op);
}

// Far CALL or JMP to a TSS.
void execute_task_switch(struct hw_cpu *cpu, const struct op *op)
{
    uint16_t selector = (uint16_t)op->a;
    if (!(cpu->r.cr0 & CR0_PE) || (cpu->r.rflags & RFLAGS_VM))
        rule_broken(cpu, "a far transfer to a TSS outside protected mode");
    if (cpu_in_long_mode(cpu))
        fault(cpu, VECTOR_GP, selector);
    else
        task_switch(cpu, selector, op->flag ? TASK_SWITCH_JMP : TASK_SWITCH_CALL, op);
}
