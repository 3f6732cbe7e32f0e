// SPDX-License-Identifier: MIT
// The VMX instructions in VMX root operation, after the checks that raise exceptions (execute_vmx.c): what is
// left is VMsucceed, VMfailInvalid or VMfailValid. VM entry is in entry.c.
// Manual: VMX Instruction Reference.
#include "model.h"
#include <string.h>

struct vmx_result vmx_succeed(void)
{
    return (struct vmx_result){.status = VMX_SUCCEED};
}

struct vmx_result vmx_fail_invalid(void)
{
    return (struct vmx_result){.status = VMX_FAIL_INVALID};
}

// VMfail(error): VMfailValid when there is a current VMCS to say it in, else VMfailInvalid. The current VMCS,
// also when a VMREAD or VMWRITE of a guest is about the shadow VMCS.
struct vmx_result vmx_fail(struct hw_cpu *cpu, enum vmx_error error, const char *rule)
{
    struct active_vmcs *vmcs = cpu->current;
    if (vmcs == NULL)
        return (struct vmx_result){.status = VMX_FAIL_INVALID, .error = error, .rule = rule};
    vmcs->data.field[F_VM_INSTRUCTION_ERROR] = error;
    vmcs->data.written[F_VM_INSTRUCTION_ERROR] = 1;
    return (struct vmx_result){.status = VMX_FAIL_VALID, .error = error, .rule = rule};
}

static uint32_t revision_of(const struct hw_cpu *cpu)
{
    return (uint32_t)capability_msr(cpu->machine->processor, MSR_IA32_VMX_BASIC) & 0x7fffffff;
}

static bool region_address_is_valid(const struct hw_cpu *cpu, uint64_t region)
{
    return !(region & (PAGE_SIZE - 1)) && fits_physical_width(cpu, region);
}

static void require_ram(const struct hw_cpu *cpu, uint64_t region, const char *instruction)
{
    if (!memory_is_ram(cpu->machine, region, PAGE_SIZE))
        rule_broken(cpu, "%s of region %#llx, which is not RAM", instruction, (unsigned long long)region);
}

// A region is one logical processor's VMXON region, or a VMCS, and not two of these things at once.
static void require_other_use(const struct hw_cpu *cpu, uint64_t region, const char *instruction)
{
    const struct machine *machine = cpu->machine;
    for (unsigned i = 0; i < machine->config.cpu_count; i++) {
        const struct hw_cpu *other = machine->cpu[i];
        if (other != cpu && other->vmxon_pointer == region)
            rule_broken(cpu, "%s of %s, which is the VMXON region of logical processor %u", instruction,
                        vmcs_label(machine, region), i);
        if (strcmp(instruction, "VMXON") == 0 && vmcs_cache_find(other, region) != NULL)
            rule_broken(cpu, "VMXON of %s, which is a VMCS that is active on logical processor %u",
                        vmcs_label(machine, region), i);
    }
}

struct vmx_result vmx_vmxon(struct hw_cpu *cpu, uint64_t region)
{
    if (cpu->vmx == VMX_ROOT)
        return vmx_fail(cpu, VMERR_VMXON_IN_ROOT, NULL);
    if (!region_address_is_valid(cpu, region))
        return vmx_fail_invalid();
    require_ram(cpu, region, "VMXON");
    require_other_use(cpu, region, "VMXON");
    if (vmcs_region_revision(cpu->machine, region) != revision_of(cpu)) // bit 31 set is a mismatch too
        return vmx_fail_invalid();
    cpu->vmx = VMX_ROOT;
    cpu->vmxon_pointer = region;
    memcpy(cpu->vmxon_memory, cpu->machine->memory + region, PAGE_SIZE);
    cpu->current_pointer = NO_ADDRESS;
    cpu->current = NULL;
    return vmx_succeed();
}

struct vmx_result vmx_vmxoff(struct hw_cpu *cpu)
{
    if (cpu->c_code && cpu->active != NULL)
        rule_broken(cpu, "VMXOFF while VMCS %s is active on this processor: its data was never written back",
                    vmcs_label(cpu->machine, cpu->active->region));
    if (cpu->c_code && memcmp(cpu->vmxon_memory, cpu->machine->memory + cpu->vmxon_pointer, PAGE_SIZE) != 0)
        rule_broken(cpu, "the VMXON region %s was written before the VMXOFF of logical processor %u",
                    vmcs_label(cpu->machine, cpu->vmxon_pointer), cpu->index);
    cpu->vmx = VMX_OUTSIDE;
    cpu->vmxon_pointer = NO_ADDRESS;
    cpu->current_pointer = NO_ADDRESS;
    cpu->current = NULL;
    return vmx_succeed();
}

struct vmx_result vmx_vmclear(struct hw_cpu *cpu, uint64_t region)
{
    if (!region_address_is_valid(cpu, region))
        return vmx_fail(cpu, VMERR_VMCLEAR_ADDRESS, NULL);
    if (region == cpu->vmxon_pointer)
        return vmx_fail(cpu, VMERR_VMCLEAR_VMXON_POINTER, NULL);
    require_ram(cpu, region, "VMCLEAR");
    require_other_use(cpu, region, "VMCLEAR");
    vmcs_cache_clear(cpu, region);
    if (region == cpu->current_pointer)
        cpu->current_pointer = NO_ADDRESS;
    return vmx_succeed();
}

struct vmx_result vmx_vmptrld(struct hw_cpu *cpu, uint64_t region)
{
    if (!region_address_is_valid(cpu, region))
        return vmx_fail(cpu, VMERR_VMPTRLD_ADDRESS, NULL);
    if (region == cpu->vmxon_pointer)
        return vmx_fail(cpu, VMERR_VMPTRLD_VMXON_POINTER, NULL);
    require_ram(cpu, region, "VMPTRLD");
    require_other_use(cpu, region, "VMPTRLD");
    uint32_t revision = vmcs_region_revision(cpu->machine, region);
    bool shadow = revision >> 31;
    bool may_shadow = capability_allowed1(cpu->machine->processor, WORD_SECONDARY) & SECONDARY_VMCS_SHADOWING;
    if ((revision & 0x7fffffff) != revision_of(cpu) || (shadow && !may_shadow))
        return vmx_fail(cpu, VMERR_VMPTRLD_REVISION, NULL);
    cpu->current = vmcs_cache_activate(cpu, region, "VMPTRLD");
    cpu->current->count->vmptrld++;
    cpu->current_pointer = region;
    return vmx_succeed();
}

struct vmx_result vmx_vmread(struct hw_cpu *cpu, struct active_vmcs *vmcs, uint64_t encoding, uint64_t *value)
{
    if (vmcs == NULL)
        return vmx_fail_invalid();
    bool high;
    enum vmcs_field field = model_field_find(cpu->machine, encoding, &high);
    if (field == F_COUNT)
        return vmx_fail(cpu, VMERR_UNSUPPORTED_FIELD, NULL);
    vmcs->count->vmread[field]++;
    *value = vmcs->data.field[field];
    if (high)
        *value >>= 32;
    return vmx_succeed();
}

struct vmx_result vmx_vmwrite(struct hw_cpu *cpu, struct active_vmcs *vmcs, uint64_t encoding, uint64_t value)
{
    if (vmcs == NULL)
        return vmx_fail_invalid();
    bool high;
    enum vmcs_field field = model_field_find(cpu->machine, encoding, &high);
    if (field == F_COUNT)
        return vmx_fail(cpu, VMERR_UNSUPPORTED_FIELD, NULL);
    if (vmcs_encoding_type((uint32_t)encoding) == VMCS_TYPE_INFO &&
        !capability_misc(cpu->machine->processor, MISC_VMWRITE_ANY_FIELD))
        return vmx_fail(cpu, VMERR_READ_ONLY_FIELD, NULL);

    uint64_t old = vmcs->data.field[field];
    value = high ? (old & 0xffffffff) | value << 32 : model_field_truncate(field, value);
    vmcs->count->vmwrite[field]++;
    if (value == old && vmcs->data.written[field])
        vmcs->count->vmwrite_unchanged[field]++;
    vmcs->data.field[field] = value;
    vmcs->data.written[field] = 1;
    vmcs_cache_maybe_write_back(cpu, vmcs);
    return vmx_succeed();
}

struct vmx_result vmx_invept(struct hw_cpu *cpu, uint64_t type, const uint64_t descriptor[2])
{
    const struct processor *processor = cpu->machine->processor;
    switch (type) {
    case INVEPT_SINGLE_CONTEXT:
        if (!capability_ept(processor, EPT_CAP_INVEPT_SINGLE) ||
            ept_pointer_problem(cpu, descriptor[0]) != NULL)
            return vmx_fail(cpu, VMERR_INVALIDATION_OPERAND, NULL);
        tlb_flush_ept(cpu, descriptor[0] & PAGE_MASK);
        return vmx_succeed();
    case INVEPT_ALL_CONTEXTS:
        if (!capability_ept(processor, EPT_CAP_INVEPT_ALL))
            return vmx_fail(cpu, VMERR_INVALIDATION_OPERAND, NULL);
        tlb_flush_ept(cpu, NO_ADDRESS);
        return vmx_succeed();
    default:
        return vmx_fail(cpu, VMERR_INVALIDATION_OPERAND, NULL);
    }
}

struct vmx_result vmx_invvpid(struct hw_cpu *cpu, uint64_t type, const uint64_t descriptor[2])
{
    if (type > INVVPID_SINGLE_CONTEXT_RETAINING_GLOBALS ||
        !capability_ept(cpu->machine->processor, VPID_CAP_INDIVIDUAL << type) || descriptor[0] >> 16)
        return vmx_fail(cpu, VMERR_INVALIDATION_OPERAND, NULL);
    uint16_t vpid = (uint16_t)descriptor[0];
    if (type != INVVPID_ALL_CONTEXTS && vpid == 0)
        return vmx_fail(cpu, VMERR_INVALIDATION_OPERAND, NULL);
    switch (type) {
    case INVVPID_INDIVIDUAL_ADDRESS:
        if (!is_canonical(descriptor[1]))
            return vmx_fail(cpu, VMERR_INVALIDATION_OPERAND, NULL);
        tlb_flush_linear_page(cpu, vpid, descriptor[1] & PAGE_MASK);
        break;
    case INVVPID_SINGLE_CONTEXT:
        tlb_flush_linear(cpu, vpid, -1, true);
        break;
    case INVVPID_ALL_CONTEXTS:
        tlb_flush_vpids(cpu);
        break;
    default:
        tlb_flush_linear(cpu, vpid, -1, false);
        break;
    }
    return vmx_succeed();
}
