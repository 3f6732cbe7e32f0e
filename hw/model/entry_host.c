// SPDX-License-Identifier: MIT
// The second stage of VM entry: the host-state area. NULL, or the rule that is broken.
// Manual: Checks on Host Control Registers, MSRs, and SSP; Checks on Host Segment and Descriptor-Table
// Registers; Checks Related to Address-Space Size.
#include "model.h"

// Restrictions on VMX Operation: bits of CR0 and CR4 that are fixed in VMX operation.
const char *entry_check_cr0(const struct hw_cpu *cpu, uint64_t cr0, bool unrestricted)
{
    uint64_t fixed0 = capability_msr(cpu->machine->processor, MSR_IA32_VMX_CR0_FIXED0);
    uint64_t fixed1 = capability_msr(cpu->machine->processor, MSR_IA32_VMX_CR0_FIXED1);
    if (unrestricted)
        fixed0 &= ~(CR0_PE | CR0_PG);
    if ((cr0 & fixed0) != fixed0 || (cr0 & ~fixed1))
        return "CR0 has a bit that is not as VMX operation fixes it";
    return NULL;
}

const char *entry_check_cr4(const struct hw_cpu *cpu, uint64_t cr4)
{
    uint64_t fixed0 = capability_msr(cpu->machine->processor, MSR_IA32_VMX_CR4_FIXED0);
    uint64_t fixed1 = capability_msr(cpu->machine->processor, MSR_IA32_VMX_CR4_FIXED1);
    if ((cr4 & fixed0) != fixed0 || (cr4 & ~fixed1))
        return "CR4 has a bit that is not as VMX operation fixes it";
    return NULL;
}

// The two flags of linear-address masking for user pointers are bits 61 and 62.
bool entry_fits_cr3(const struct hw_cpu *cpu, uint64_t cr3)
{
    if (cpu->machine->processor->vmx.features & FEATURE_LAM)
        cr3 &= ~0x6000000000000000ull;
    return fits_physical_width(cpu, cr3);
}

static const char *check_registers(struct hw_cpu *cpu)
{
    if (entry_check_cr0(cpu, vmcs_get(cpu, F_HOST_CR0), false) != NULL)
        return "host CR0 has a bit that is not as VMX operation fixes it";
    if (entry_check_cr4(cpu, vmcs_get(cpu, F_HOST_CR4)) != NULL)
        return "host CR4 has a bit that is not as VMX operation fixes it";
    if ((vmcs_get(cpu, F_HOST_CR4) & CR4_CET) && !(vmcs_get(cpu, F_HOST_CR0) & CR0_WP))
        return "host CR4.CET without CR0.WP";
    if (!entry_fits_cr3(cpu, vmcs_get(cpu, F_HOST_CR3)))
        return "host CR3 is too wide";
    if (!is_canonical(vmcs_get(cpu, F_HOST_SYSENTER_ESP)) ||
        !is_canonical(vmcs_get(cpu, F_HOST_SYSENTER_EIP)))
        return "host IA32_SYSENTER_ESP or IA32_SYSENTER_EIP is not canonical";
    if ((cpu->c.exit & EXIT_LOAD_PERF_GLOBAL_CTRL) &&
        (vmcs_get(cpu, F_HOST_IA32_PERF_GLOBAL_CTRL) & ~cpu->machine->processor->vmx.perf_global_ctrl))
        return "host IA32_PERF_GLOBAL_CTRL has reserved bits set";
    if ((cpu->c.exit & EXIT_LOAD_PAT) && !pat_is_valid(vmcs_get(cpu, F_HOST_IA32_PAT)))
        return "host IA32_PAT holds a type that does not exist";
    if (cpu->c.exit & EXIT_LOAD_EFER) {
        uint64_t efer = vmcs_get(cpu, F_HOST_IA32_EFER);
        bool wide = cpu->c.exit & EXIT_HOST_ADDRESS_SPACE_SIZE;
        if (efer & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE))
            return "host IA32_EFER has reserved bits set";
        if (!!(efer & EFER_LMA) != wide || !!(efer & EFER_LME) != wide)
            return "LMA and LME of host IA32_EFER differ from \"host address-space size\"";
    }
    return NULL;
}

static const char *check_segments(struct hw_cpu *cpu)
{
    for (unsigned field = F_HOST_ES_SELECTOR; field <= F_HOST_TR_SELECTOR; field++)
        if (vmcs_get(cpu, (enum vmcs_field)field) & 7)
            return "a host selector has an RPL, or points into an LDT";
    if (vmcs_get(cpu, F_HOST_CS_SELECTOR) == 0 || vmcs_get(cpu, F_HOST_TR_SELECTOR) == 0)
        return "host CS or TR is 0";
    if (!(cpu->c.exit & EXIT_HOST_ADDRESS_SPACE_SIZE) && vmcs_get(cpu, F_HOST_SS_SELECTOR) == 0)
        return "host SS is 0 outside a 64-bit host";
    for (unsigned field = F_HOST_FS_BASE; field <= F_HOST_IDTR_BASE; field++)
        if (!is_canonical(vmcs_get(cpu, (enum vmcs_field)field)))
            return "a host base address is not canonical";
    return NULL;
}

static const char *check_address_space(struct hw_cpu *cpu)
{
    bool wide = cpu->c.exit & EXIT_HOST_ADDRESS_SPACE_SIZE;
    bool guest = cpu->c.entry & ENTRY_IA32E_MODE_GUEST;
    if (cpu_in_long_mode(cpu) && !wide)
        return "VM entry in IA-32e mode with \"host address-space size\" 0";
    if (!cpu_in_long_mode(cpu) && (wide || guest))
        return "VM entry outside IA-32e mode with a 64-bit host or an IA-32e mode guest";
    uint64_t cr4 = vmcs_get(cpu, F_HOST_CR4), rip = vmcs_get(cpu, F_HOST_RIP);
    if (!wide) {
        if (guest)
            return "an IA-32e mode guest under a 32-bit host";
        if ((cr4 & CR4_PCIDE) || rip >> 32)
            return "host CR4.PCIDE, or host RIP above 4 GBytes, under a 32-bit host";
        return NULL;
    }
    if (!(cr4 & CR4_PAE))
        return "host CR4.PAE is 0 under a 64-bit host";
    return is_canonical(rip) ? NULL : "host RIP is not canonical";
}

const char *entry_check_host(struct hw_cpu *cpu)
{
    const char *rule = check_registers(cpu);
    if (rule == NULL)
        rule = check_segments(cpu);
    if (rule == NULL)
        rule = check_address_space(cpu);
    return rule;
}
