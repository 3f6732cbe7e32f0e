// SPDX-License-Identifier: MIT
// VMFUNC: what software in VMX non-root operation may ask of the processor itself. There is one function:
// EPTP switching. Manual: VM Functions; VMFUNC in VMX Instruction Reference.
#include "model.h"

#define EPTP_SWITCHING   0u
#define EPTP_LIST_LENGTH 512

// VM function 0. false: the VM exit of a failing VMFUNC.
static bool switch_ept_pointer(struct hw_cpu *cpu)
{
    uint32_t index = (uint32_t)cpu->r.gpr[GPR_RCX];
    if (index >= EPTP_LIST_LENGTH)
        return false;
    uint64_t eptp = memory_read(cpu->machine, cpu->c.eptp_list + 8 * (uint64_t)index, 8);
    if (ept_pointer_problem(cpu, eptp) != NULL)
        return false;
    vmcs_set(cpu, F_EPT_POINTER, eptp);
    cpu->c.eptp = eptp; // nothing that is cached becomes invalid by that
    cpu->fetch_page = NO_ADDRESS;
    if (cpu->machine->exists[F_EPTP_INDEX])
        vmcs_set(cpu, F_EPTP_INDEX, index);
    return true;
}

void execute_vm_function(struct hw_cpu *cpu, const struct op *op)
{
    cpu->r.gpr[GPR_RAX] = op->a;
    cpu->r.gpr[GPR_RCX] = op->b;
    uint32_t function = (uint32_t)op->a; // EAX
    if (!cpu_has_secondary(cpu, SECONDARY_ENABLE_VMFUNC) || function >= 64) {
        raise_exception(cpu, VECTOR_UD);
        return;
    }
    bool enabled = cpu->c.vm_functions >> function & 1;
    if (enabled && function == EPTP_SWITCHING && switch_ept_pointer(cpu))
        instruction_retire(cpu, op);
    else
        vm_exit_instruction(cpu, 59, op, 0);
}
