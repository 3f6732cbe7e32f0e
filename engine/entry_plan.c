// SPDX-License-Identifier: MIT
// What vmcs02's MERGED fields become: vmcs12, L0's policy and L1's own registers together. Pure: it reads,
// and decides. Manual: VM-Execution Control Fields; VM-Exit Control Fields; VM-Entry Control Fields; Loading
// Guest State.
#include "engine.h"

static uint64_t adjust(const struct nvmx_vcpu *vcpu, enum caps_word word, uint32_t wanted)
{
    const struct nvmx_caps *hardware = vcpu->config.hardware;
    return (wanted | nvmx_caps_allowed0(hardware, word)) & nvmx_caps_allowed1(hardware, word);
}

// The page that hardware gets for an L1-physical one; where L1 has nothing, a page of nothing.
static uint64_t plan_page(struct nvmx_vcpu *vcpu, uint64_t address)
{
    struct port_mapping mapping;
    if (!port_l1_translate(vcpu, l1pa(address), &mapping) || !mapping.readable || !mapping.writable)
        return ept02_hardware_page(vcpu).value;
    return mapping.l0.value;
}

static void plan_controls(struct nvmx_vcpu *vcpu, uint64_t *field)
{
    const struct nvmx_l0_policy *policy = &vcpu->config.policy;
    uint32_t pin = vmcs12_pin(vcpu), primary = vmcs12_primary(vcpu), secondary = vmcs12_secondary(vcpu);

    field[F_PIN_BASED_CONTROLS] = adjust(vcpu, CAPS_PIN, (pin & ~PIN_POSTED_INTERRUPTS) | policy->pin);

    // (1) I/O: with bitmaps of L1's, or none of its own but some of L0's: our bitmaps; unconditional: as L1
    // said
    if ((primary & PRIMARY_UNCONDITIONAL_IO_EXITING) == 0)
        primary |= policy->primary & PRIMARY_USE_IO_BITMAPS;
    // (2) MSR bitmaps only when L1 uses them: else every access is L1's exit
    // (3) the rest of what L0 wants of L1, it wants of L2 too
    primary |= policy->primary & ~(PRIMARY_USE_IO_BITMAPS | PRIMARY_USE_MSR_BITMAPS);
    primary |= PRIMARY_ACTIVATE_SECONDARY;
    field[F_PRIMARY_CONTROLS] = adjust(vcpu, CAPS_PRIMARY, primary);

    // (4) the log of modified pages and virtualization exceptions are emulated from EPT violations
    secondary &= ~(SECONDARY_ENABLE_PML | SECONDARY_EPT_VIOLATION_VE);
    // (5) EPT and VPID are L0's in any case; instructions that L1 enables for itself it enables for L2 itself
    secondary |= SECONDARY_ENABLE_EPT | (policy->vpid02 != 0 ? SECONDARY_ENABLE_VPID : 0);
    field[F_SECONDARY_CONTROLS] = adjust(vcpu, CAPS_SECONDARY, secondary);

    field[F_EXCEPTION_BITMAP] |= policy->exception_bitmap;
    if ((policy->exception_bitmap >> VECTOR_PF & 1) != 0) // L0 wants every page fault
        field[F_PAGE_FAULT_ERROR_CODE_MASK] = field[F_PAGE_FAULT_ERROR_CODE_MATCH] = 0;
}

static void plan_exit_controls(struct nvmx_vcpu *vcpu, uint64_t *field)
{
    uint32_t exit = (uint32_t)vmcs12_get(vcpu, F_VM_EXIT_CONTROLS) & EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT;
    exit |= EXIT_HOST_ADDRESS_SPACE_SIZE | EXIT_SAVE_DEBUG_CONTROLS | EXIT_SAVE_PAT | EXIT_LOAD_PAT |
            EXIT_SAVE_EFER | EXIT_LOAD_EFER;
    // The timer goes on over exits that L1 never sees, whether or not L1 has it saved.
    if ((vmcs12_pin(vcpu) & PIN_PREEMPTION_TIMER) != 0)
        exit |= EXIT_SAVE_PREEMPTION_TIMER;
    field[F_VM_EXIT_CONTROLS] = adjust(vcpu, CAPS_EXIT, exit);
}

// (6) a bit of CR4 that L1 is not offered is L0's where it is not L1's: L2 reads the 0 that it is, and cannot
// set it
static void plan_cr4(struct nvmx_vcpu *vcpu, uint64_t *field)
{
    uint64_t owned = l1_cr4_not_offered(vcpu) & ~field[F_CR4_GUEST_HOST_MASK];
    field[F_CR4_GUEST_HOST_MASK] |= owned;
    field[F_CR4_READ_SHADOW] &= ~owned;
}

// The offset and the multiplier apply to whatever L1's time is; L0 leaves L1 the processor's.
static void plan_time(struct nvmx_vcpu *vcpu, uint64_t *field)
{
    if ((vmcs12_primary(vcpu) & PRIMARY_USE_TSC_OFFSETTING) == 0)
        field[F_TSC_OFFSET] = 0;
}

static void plan_addresses(struct nvmx_vcpu *vcpu, uint64_t *field)
{
    if ((vmcs12_primary(vcpu) & PRIMARY_USE_TPR_SHADOW) != 0)
        field[F_VIRTUAL_APIC_ADDRESS] = plan_page(vcpu, field[F_VIRTUAL_APIC_ADDRESS]);
    else
        field[F_VIRTUAL_APIC_ADDRESS] = 0;
    if ((vmcs12_secondary(vcpu) & SECONDARY_VIRTUALIZE_APIC_ACCESSES) != 0)
        field[F_APIC_ACCESS_ADDRESS] = plan_page(vcpu, field[F_APIC_ACCESS_ADDRESS]);
    else
        field[F_APIC_ACCESS_ADDRESS] = 0;
}

// What L2 inherits from L1 when L1's VM-entry controls do not load it; and what the processor changes by
// itself.
static void plan_inherited(struct nvmx_vcpu *vcpu, uint64_t *field)
{
    uint32_t entry = (uint32_t)vmcs12_get(vcpu, F_VM_ENTRY_CONTROLS);
    if ((entry & ENTRY_LOAD_EFER) == 0) {
        uint64_t efer = vmcs_read(vcpu, F_GUEST_IA32_EFER) & ~EFER_LMA;
        bool ia32e = (entry & ENTRY_IA32E_MODE_GUEST) != 0;
        if ((vmcs12_get(vcpu, F_GUEST_CR0) & CR0_PG) != 0)
            efer = ia32e ? efer | EFER_LME : efer & ~EFER_LME;
        field[F_GUEST_IA32_EFER] = ia32e ? efer | EFER_LMA : efer;
    }
    if ((entry & ENTRY_LOAD_PAT) == 0)
        field[F_GUEST_IA32_PAT] = vmcs_read(vcpu, F_GUEST_IA32_PAT);
    if ((entry & ENTRY_LOAD_DEBUG_CONTROLS) == 0) {
        field[F_GUEST_IA32_DEBUGCTL] = vmcs_read(vcpu, F_GUEST_IA32_DEBUGCTL);
        field[F_GUEST_DR7] = vmcs_read(vcpu, F_GUEST_DR7);
    }
    entry &= ENTRY_IA32E_MODE_GUEST;
    entry |= ENTRY_LOAD_DEBUG_CONTROLS | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER;
    field[F_VM_ENTRY_CONTROLS] = adjust(vcpu, CAPS_ENTRY, entry);
}

void entry_plan_pdptes(struct nvmx_vcpu *vcpu, struct entry_plan *plan)
{
    plan->has_pdpte = false;
    if ((vmcs12_secondary(vcpu) & SECONDARY_ENABLE_EPT) != 0)
        return;
    uint64_t cr0 = vmcs12_get(vcpu, F_GUEST_CR0), cr4 = vmcs12_get(vcpu, F_GUEST_CR4);
    bool ia32e = (vmcs12_get(vcpu, F_VM_ENTRY_CONTROLS) & ENTRY_IA32E_MODE_GUEST) != 0;
    l1pa_t at = l1pa(vmcs12_get(vcpu, F_GUEST_CR3) & 0xffffffe0);
    plan->has_pdpte = (cr0 & CR0_PG) != 0 && (cr4 & CR4_PAE) != 0 && !ia32e;
    if (plan->has_pdpte && !port_l1_read(vcpu, at, plan->pdpte, sizeof plan->pdpte))
        for (unsigned i = 0; i < 4; i++)
            plan->pdpte[i] = ~0ull; // what a hole reads as
}

void entry_plan_make(struct nvmx_vcpu *vcpu, bool all, struct entry_plan *plan)
{
    uint64_t *field = plan->field;
    plan->all = all;
    if (all) {
        FIELD_SET_FOR_EACH(f, vcpu->merged)
        {
            field[f] = vmcs12_get(vcpu, (enum vmcs_field)f);
        }
        plan_controls(vcpu, field);
        plan_exit_controls(vcpu, field);
        plan_cr4(vcpu, field);
        plan_time(vcpu, field);
        plan_addresses(vcpu, field);
    } else {
#define X(name) field[F_##name] = vmcs12_get(vcpu, F_##name);
        MERGED_FIELDS_THAT_CHANGE(X)
#undef X
    }
    plan_inherited(vcpu, field);
    plan->event = (struct nvmx_event){.info = (uint32_t)vmcs12_get(vcpu, F_VM_ENTRY_INTERRUPTION_INFO)};
    if ((plan->event.info & INTERRUPTION_VALID) == 0)
        plan->event.info = 0;
    plan->event.error_code = (uint32_t)vmcs12_get(vcpu, F_VM_ENTRY_EXCEPTION_ERROR_CODE);
    plan->event.instruction_length = (uint32_t)vmcs12_get(vcpu, F_VM_ENTRY_INSTRUCTION_LENGTH);
    if ((vmcs12_secondary(vcpu) & SECONDARY_ENABLE_EPT) == 0)
        field[F_EPT_POINTER] = vcpu->config.policy.ept_pointer;
}
