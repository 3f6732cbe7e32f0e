// SPDX-License-Identifier: MIT
// The seam to L0: include/nvmx/hw.h on the model. L0's VMX instructions may not fail: whatever a processor
// would answer with VMfail, and L0 would have to notice by itself, ends the test.
#include "model.h"
#include <string.h>

// One NMI after the other, at each look of L0's at the processor: L0's handler runs between two instructions
// of L0's, whichever they are.
static void nmi_interrupts_l0(struct hw_cpu *cpu)
{
    if (cpu->machine_check_countdown > 0 && --cpu->machine_check_countdown == 0) {
        cpu->nmi_came = true;
        model_machine_check_in_root(cpu);
    }
    if (cpu->nmi_in_root_count == 0 || cpu->nmi_in_root_after-- > 0)
        return;
    cpu->nmi_in_root_after = 0;
    cpu->nmi_in_root_count--;
    cpu->nmi_came = true;
    model_nmi_in_root(cpu);
}

void cpu_machine_check_in_root(struct hw_cpu *cpu, unsigned after)
{
    cpu->machine_check_countdown = after + 1;
}

void cpu_nmis_in_root(struct hw_cpu *cpu, unsigned count, unsigned after)
{
    cpu->nmi_in_root_count = count;
    cpu->nmi_in_root_after = after;
}

unsigned cpu_nmis_in_root_left(const struct hw_cpu *cpu)
{
    return cpu->nmi_in_root_count;
}

static void require_root(struct hw_cpu *cpu, const char *instruction)
{
    if (cpu == NULL)
        rule_broken(NULL, "%s on no logical processor", instruction);
    if (cpu->vmx != VMX_ROOT)
        rule_broken(cpu, "%s outside VMX root operation", instruction);
    const struct hw_cpu *executing = cpu->machine->executing;
    if (executing != NULL && executing != cpu)
        rule_broken(cpu, "%s is to act on logical processor %u, and L0 executes it on %u", instruction,
                    cpu->index, executing->index);
    nmi_interrupts_l0(cpu);
}

static enum vmx_status must_succeed(const struct hw_cpu *cpu, struct vmx_result result,
                                    const char *instruction, uint64_t operand)
{
    if (result.status != VMX_SUCCEED)
        rule_broken(cpu, "%s %#llx of L0 fails: VMfail%s, error %d%s%s", instruction,
                    (unsigned long long)operand, result.status == VMX_FAIL_INVALID ? "Invalid" : "Valid",
                    result.error, result.rule ? ": " : "", result.rule ? result.rule : "");
    return result.status;
}

enum vmx_status hw_vmxon(struct hw_cpu *cpu, l0pa_t region)
{
    if (cpu->vmx != VMX_OUTSIDE)
        rule_broken(cpu, "VMXON of L0 in VMX operation");
    cpu->r.cr4 |= CR4_VMXE; // L0's start-up code did that
    return must_succeed(cpu, vmx_vmxon(cpu, region.value), "VMXON", region.value);
}

enum vmx_status hw_vmxoff(struct hw_cpu *cpu)
{
    require_root(cpu, "VMXOFF");
    return must_succeed(cpu, vmx_vmxoff(cpu), "VMXOFF", 0);
}

enum vmx_status hw_vmclear(struct hw_cpu *cpu, l0pa_t region)
{
    require_root(cpu, "VMCLEAR");
    return must_succeed(cpu, vmx_vmclear(cpu, region.value), "VMCLEAR", region.value);
}

enum vmx_status hw_vmptrld(struct hw_cpu *cpu, l0pa_t region)
{
    require_root(cpu, "VMPTRLD");
    return must_succeed(cpu, vmx_vmptrld(cpu, region.value), "VMPTRLD", region.value);
}

uint64_t hw_vmread(struct hw_cpu *cpu, uint32_t encoding)
{
    uint64_t value = 0;
    require_root(cpu, "VMREAD");
    must_succeed(cpu, vmx_vmread(cpu, cpu->current, encoding, &value), "VMREAD", encoding);
    bool high;
    enum vmcs_field field = model_field_find(cpu->machine, encoding, &high);
    if (!cpu->current->data.written[field])
        rule_broken(cpu, "VMREAD of the field %s, which nobody ever wrote", model_field_name(field));
    return value;
}

void hw_vmwrite(struct hw_cpu *cpu, uint32_t encoding, uint64_t value)
{
    require_root(cpu, "VMWRITE");
    bool high;
    enum vmcs_field field = model_field_find(cpu->machine, encoding, &high);
    if (field != F_COUNT && !high && model_field_truncate(field, value) != value)
        rule_broken(cpu, "VMWRITE of %#llx to the field %s, which is narrower", (unsigned long long)value,
                    model_field_name(field));
    if (field == F_GUEST_RIP)
        cpu->fed.op = NULL;
    must_succeed(cpu, vmx_vmwrite(cpu, cpu->current, encoding, value), "VMWRITE", encoding);
}

enum vmx_status hw_enter(struct hw_cpu *cpu, struct nvmx_regs *regs, bool launch)
{
    require_root(cpu, launch ? "VMLAUNCH" : "VMRESUME");
    if (cpu->nmi_came) {
        cpu->nmi_came = false;
        return VMX_NOT_ENTERED;
    }
    cpu->blocking_mov_ss = false;
    for (unsigned i = 0; i < GPR_COUNT; i++)
        if (i != GPR_RSP)
            cpu->r.gpr[i] = regs->gpr[i];
    struct vmx_result result = vmx_enter(cpu, launch);
    if (result.status != VMX_SUCCEED && cpu->machine->refused_on_purpose)
        return result.status;
    must_succeed(cpu, result, launch ? "VMLAUNCH" : "VMRESUME", cpu->current_pointer);
    while (cpu->vmx == VMX_NON_ROOT)
        cpu_step(cpu);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        if (i != GPR_RSP)
            regs->gpr[i] = cpu->r.gpr[i];
    return VMX_SUCCEED;
}

void hw_invept(struct hw_cpu *cpu, enum hw_invept_type type, uint64_t eptp)
{
    require_root(cpu, "INVEPT");
    const uint64_t descriptor[2] = {eptp, 0};
    must_succeed(cpu, vmx_invept(cpu, type, descriptor), "INVEPT", eptp);
}

void hw_invvpid(struct hw_cpu *cpu, enum hw_invvpid_type type, uint16_t vpid, uint64_t linear_address)
{
    require_root(cpu, "INVVPID");
    const uint64_t descriptor[2] = {vpid, linear_address};
    must_succeed(cpu, vmx_invvpid(cpu, type, descriptor), "INVVPID", vpid);
}

bool hw_rdmsr(struct hw_cpu *cpu, uint32_t msr, uint64_t *value)
{
    return msr_read(cpu, msr, value);
}

bool hw_wrmsr(struct hw_cpu *cpu, uint32_t msr, uint64_t value)
{
    return msr_write(cpu, msr, value);
}

void hw_write_cr2(struct hw_cpu *cpu, uint64_t linear_address)
{
    cpu->r.cr2 = linear_address;
}

uint32_t hw_read_pkru(struct hw_cpu *cpu)
{
    if (!(cpu->r.cr4 & CR4_PKE) &&
        !(capability_msr(cpu->machine->processor, MSR_IA32_VMX_CR4_FIXED1) & CR4_PKE))
        rule_broken(cpu, "L0 reads PKRU of a processor without protection keys");
    return cpu->r.pkru;
}
