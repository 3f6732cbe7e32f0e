// SPDX-License-Identifier: MIT
// The first stage of VM entry: the VMX controls, read once and checked. NULL, or the rule that is broken.
// Manual: Checks on VMX Controls.
#include "model.h"

#define VM_FUNCTION_EPTP_SWITCHING (1ull << 0)

void controls_read(struct hw_cpu *cpu)
{
    const struct processor *p = cpu->machine->processor;
    struct controls *c = &cpu->c;
    *c = (struct controls){
        .pin = (uint32_t)vmcs_get(cpu, F_PIN_BASED_CONTROLS),
        .primary = (uint32_t)vmcs_get(cpu, F_PRIMARY_CONTROLS),
        .exit = (uint32_t)vmcs_get(cpu, F_VM_EXIT_CONTROLS),
        .entry = (uint32_t)vmcs_get(cpu, F_VM_ENTRY_CONTROLS),
        .exception_bitmap = (uint32_t)vmcs_get(cpu, F_EXCEPTION_BITMAP),
        .page_fault_mask = (uint32_t)vmcs_get(cpu, F_PAGE_FAULT_ERROR_CODE_MASK),
        .page_fault_match = (uint32_t)vmcs_get(cpu, F_PAGE_FAULT_ERROR_CODE_MATCH),
        .cr0_mask = vmcs_get(cpu, F_CR0_GUEST_HOST_MASK),
        .cr4_mask = vmcs_get(cpu, F_CR4_GUEST_HOST_MASK),
        .cr0_shadow = vmcs_get(cpu, F_CR0_READ_SHADOW),
        .cr4_shadow = vmcs_get(cpu, F_CR4_READ_SHADOW),
        .cr3_target_count = (uint32_t)vmcs_get(cpu, F_CR3_TARGET_COUNT),
    };
    if (c->primary & PRIMARY_ACTIVATE_SECONDARY)
        c->secondary = (uint32_t)vmcs_get(cpu, F_SECONDARY_CONTROLS);
    for (unsigned i = 0; c->cr3_target_count <= 4 && i < c->cr3_target_count; i++)
        c->cr3_target[i] = vmcs_get(cpu, (enum vmcs_field)(F_CR3_TARGET_0 + i));
    if (c->primary & PRIMARY_USE_IO_BITMAPS) {
        c->io_bitmap_a = vmcs_get(cpu, F_IO_BITMAP_A);
        c->io_bitmap_b = vmcs_get(cpu, F_IO_BITMAP_B);
    }
    if (c->primary & PRIMARY_USE_MSR_BITMAPS)
        c->msr_bitmap = vmcs_get(cpu, F_MSR_BITMAP);
    if (c->primary & PRIMARY_USE_TSC_OFFSETTING)
        c->tsc_offset = vmcs_get(cpu, F_TSC_OFFSET);
    if ((c->primary & PRIMARY_USE_TPR_SHADOW) && model_field_exists(p, F_VIRTUAL_APIC_ADDRESS)) {
        c->virtual_apic = vmcs_get(cpu, F_VIRTUAL_APIC_ADDRESS);
        c->tpr_threshold = (uint32_t)vmcs_get(cpu, F_TPR_THRESHOLD);
    }
    if ((c->secondary & SECONDARY_VIRTUALIZE_APIC_ACCESSES) && model_field_exists(p, F_APIC_ACCESS_ADDRESS))
        c->apic_access = vmcs_get(cpu, F_APIC_ACCESS_ADDRESS);
    if ((c->pin & PIN_POSTED_INTERRUPTS) && model_field_exists(p, F_POSTED_INTERRUPT_VECTOR)) {
        c->posted_vector = (uint16_t)vmcs_get(cpu, F_POSTED_INTERRUPT_VECTOR);
        c->posted_descriptor = vmcs_get(cpu, F_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS);
    }
    if ((c->secondary & SECONDARY_PAUSE_LOOP_EXITING) && model_field_exists(p, F_PLE_GAP)) {
        c->ple_gap = (uint32_t)vmcs_get(cpu, F_PLE_GAP);
        c->ple_window = (uint32_t)vmcs_get(cpu, F_PLE_WINDOW);
    }
    c->tsc_multiplier = 1ull << 48;
    if ((c->secondary & SECONDARY_USE_TSC_SCALING) && (c->primary & PRIMARY_USE_TSC_OFFSETTING))
        c->tsc_multiplier = vmcs_get(cpu, F_TSC_MULTIPLIER);
    if ((c->secondary & SECONDARY_ENABLE_EPT) && model_field_exists(p, F_EPT_POINTER))
        c->eptp = vmcs_get(cpu, F_EPT_POINTER);
    if ((c->secondary & SECONDARY_ENABLE_VPID) && model_field_exists(p, F_VPID))
        c->vpid = (uint16_t)vmcs_get(cpu, F_VPID);
    if ((c->secondary & SECONDARY_VMCS_SHADOWING) && model_field_exists(p, F_VMREAD_BITMAP)) {
        c->vmread_bitmap = vmcs_get(cpu, F_VMREAD_BITMAP);
        c->vmwrite_bitmap = vmcs_get(cpu, F_VMWRITE_BITMAP);
    }
    if ((c->secondary & SECONDARY_ENABLE_VMFUNC) && model_field_exists(p, F_VM_FUNCTION_CONTROLS)) {
        c->vm_functions = vmcs_get(cpu, F_VM_FUNCTION_CONTROLS);
        if ((c->vm_functions & VM_FUNCTION_EPTP_SWITCHING) && model_field_exists(p, F_EPTP_LIST_ADDRESS))
            c->eptp_list = vmcs_get(cpu, F_EPTP_LIST_ADDRESS);
    }
    if ((c->secondary & SECONDARY_ENABLE_PML) && model_field_exists(p, F_PML_ADDRESS))
        c->pml_address = vmcs_get(cpu, F_PML_ADDRESS);
    if ((c->secondary & SECONDARY_EPT_VIOLATION_VE) &&
        model_field_exists(p, F_VIRTUALIZATION_EXCEPTION_ADDRESS))
        c->virtualization_exception_area = vmcs_get(cpu, F_VIRTUALIZATION_EXCEPTION_ADDRESS);
}

static bool word_is_allowed(const struct processor *p, enum control_word word, uint32_t value)
{
    uint32_t must = capability_allowed0(p, word), may = capability_allowed1(p, word);
    return (value & must) == must && !(value & ~may);
}

static const char *check_words(struct hw_cpu *cpu)
{
    const struct processor *p = cpu->machine->processor;
    const struct controls *c = &cpu->c;
    if (!word_is_allowed(p, WORD_PIN, c->pin))
        return "reserved bits of the pin-based VM-execution controls are not as the capability MSR demands";
    if (!word_is_allowed(p, WORD_PRIMARY, c->primary))
        return "reserved bits of the primary processor-based VM-execution controls are not as the "
               "capability MSR demands";
    if (!word_is_allowed(p, WORD_SECONDARY, c->secondary))
        return "reserved bits of the secondary processor-based VM-execution controls are not as the "
               "capability MSR demands";
    if (!word_is_allowed(p, WORD_EXIT, c->exit))
        return "reserved bits of the VM-exit controls are not as the capability MSR demands";
    if (!word_is_allowed(p, WORD_ENTRY, c->entry))
        return "reserved bits of the VM-entry controls are not as the capability MSR demands";
    return NULL;
}

static bool page_is_valid(const struct hw_cpu *cpu, uint64_t address)
{
    return !(address & (PAGE_SIZE - 1)) && fits_physical_width(cpu, address);
}

static const char *check_execution_addresses(struct hw_cpu *cpu)
{
    const struct controls *c = &cpu->c;
    if (c->cr3_target_count > (capability_msr(cpu->machine->processor, MSR_IA32_VMX_MISC) >> 16 & 0x1ff))
        return "CR3-target count is greater than IA32_VMX_MISC permits";
    if ((c->primary & PRIMARY_USE_IO_BITMAPS) &&
        !(page_is_valid(cpu, c->io_bitmap_a) && page_is_valid(cpu, c->io_bitmap_b)))
        return "an I/O-bitmap address is not aligned or too wide";
    if ((c->primary & PRIMARY_USE_MSR_BITMAPS) && !page_is_valid(cpu, c->msr_bitmap))
        return "the MSR-bitmap address is not aligned or too wide";
    if ((c->secondary & SECONDARY_VIRTUALIZE_APIC_ACCESSES) && !page_is_valid(cpu, c->apic_access))
        return "the APIC-access address is not aligned or too wide";
    if ((c->secondary & SECONDARY_VMCS_SHADOWING) &&
        !(page_is_valid(cpu, c->vmread_bitmap) && page_is_valid(cpu, c->vmwrite_bitmap)))
        return "a VMREAD- or VMWRITE-bitmap address is not aligned or too wide";
    if ((c->secondary & SECONDARY_ENABLE_PML) && !page_is_valid(cpu, c->pml_address))
        return "the PML address is not aligned or too wide";
    if ((c->secondary & SECONDARY_EPT_VIOLATION_VE) && !page_is_valid(cpu, c->virtualization_exception_area))
        return "the virtualization-exception information address is not aligned or too wide";
    return NULL;
}

static const char *check_apic(struct hw_cpu *cpu)
{
    const struct controls *c = &cpu->c;
    const uint32_t needs_tpr_shadow = SECONDARY_VIRTUALIZE_X2APIC_MODE |
                                      SECONDARY_APIC_REGISTER_VIRTUALIZATION |
                                      SECONDARY_VIRTUAL_INTERRUPT_DELIVERY;
    if (!(c->primary & PRIMARY_USE_TPR_SHADOW))
        return c->secondary & needs_tpr_shadow ? "APIC virtualization without the TPR shadow" : NULL;
    if (!page_is_valid(cpu, c->virtual_apic))
        return "the virtual-APIC address is not aligned or too wide";
    if ((c->secondary & SECONDARY_VIRTUALIZE_X2APIC_MODE) &&
        (c->secondary & SECONDARY_VIRTUALIZE_APIC_ACCESSES))
        return "both \"virtualize x2APIC mode\" and \"virtualize APIC accesses\"";
    if (c->secondary & SECONDARY_VIRTUAL_INTERRUPT_DELIVERY)
        return c->pin & PIN_EXTERNAL_INTERRUPT_EXITING
                   ? NULL
                   : "virtual-interrupt delivery without external-interrupt exiting";
    if (c->tpr_threshold & ~0xfu)
        return "bits 31:4 of the TPR threshold are not 0";
    if (!(c->secondary & SECONDARY_VIRTUALIZE_APIC_ACCESSES) &&
        c->tpr_threshold > (memory_read(cpu->machine, c->virtual_apic + 0x80, 1) >> 4))
        return "the TPR threshold is greater than VTPR";
    return NULL;
}

static const char *check_posted_interrupts(struct hw_cpu *cpu)
{
    const struct controls *c = &cpu->c;
    if (!(c->pin & PIN_POSTED_INTERRUPTS))
        return NULL;
    if (!(c->secondary & SECONDARY_VIRTUAL_INTERRUPT_DELIVERY))
        return "posted interrupts without virtual-interrupt delivery";
    if (!(c->exit & EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT))
        return "posted interrupts without \"acknowledge interrupt on exit\"";
    if (c->posted_vector >> 8)
        return "bits 15:8 of the posted-interrupt notification vector are not 0";
    if ((c->posted_descriptor & 63) || !fits_physical_width(cpu, c->posted_descriptor))
        return "the posted-interrupt descriptor address is not aligned or too wide";
    return NULL;
}

static const char *check_execution(struct hw_cpu *cpu)
{
    const struct controls *c = &cpu->c;
    if (!(c->pin & PIN_NMI_EXITING) && (c->pin & PIN_VIRTUAL_NMIS))
        return "virtual NMIs without NMI exiting";
    if (!(c->pin & PIN_VIRTUAL_NMIS) && (c->primary & PRIMARY_NMI_WINDOW_EXITING))
        return "NMI-window exiting without virtual NMIs";
    if ((c->secondary & SECONDARY_ENABLE_VPID) && c->vpid == 0)
        return "VPID enabled, and the VPID is 0";
    if ((c->secondary & SECONDARY_USE_TSC_SCALING) && vmcs_get(cpu, F_TSC_MULTIPLIER) == 0)
        return "TSC scaling with multiplier 0";
    if (c->secondary & SECONDARY_ENABLE_EPT) {
        const char *problem = ept_pointer_problem(cpu, c->eptp);
        if (problem != NULL)
            return problem;
    } else if (c->secondary &
               (SECONDARY_UNRESTRICTED_GUEST | SECONDARY_ENABLE_PML | SECONDARY_MODE_BASED_EXECUTE_CONTROL)) {
        return "unrestricted guest, PML or mode-based execute control without EPT";
    }
    if (c->vm_functions & ~capability_msr(cpu->machine->processor, MSR_IA32_VMX_VMFUNC))
        return "reserved bits of the VM-function controls are not 0";
    if (c->vm_functions & VM_FUNCTION_EPTP_SWITCHING) {
        if (!(c->secondary & SECONDARY_ENABLE_EPT))
            return "EPTP switching without EPT";
        if (!page_is_valid(cpu, c->eptp_list))
            return "the EPTP-list address is not aligned or too wide";
    }
    return NULL;
}

static bool list_is_valid(const struct hw_cpu *cpu, uint64_t address, uint64_t count)
{
    return !(address & 15) && fits_physical_width(cpu, address) &&
           fits_physical_width(cpu, address + count * 16 - 1);
}

static const char *check_lists_and_exit(struct hw_cpu *cpu)
{
    const struct controls *c = &cpu->c;
    if ((c->exit & EXIT_SAVE_PREEMPTION_TIMER) && !(c->pin & PIN_PREEMPTION_TIMER))
        return "saving the VMX-preemption timer without activating it";
    uint64_t count = vmcs_get(cpu, F_VM_EXIT_MSR_STORE_COUNT);
    if (count != 0 && !list_is_valid(cpu, vmcs_get(cpu, F_VM_EXIT_MSR_STORE_ADDRESS), count))
        return "the VM-exit MSR-store area is not aligned or too wide";
    count = vmcs_get(cpu, F_VM_EXIT_MSR_LOAD_COUNT);
    if (count != 0 && !list_is_valid(cpu, vmcs_get(cpu, F_VM_EXIT_MSR_LOAD_ADDRESS), count))
        return "the VM-exit MSR-load area is not aligned or too wide";
    count = vmcs_get(cpu, F_VM_ENTRY_MSR_LOAD_COUNT);
    if (count != 0 && !list_is_valid(cpu, vmcs_get(cpu, F_VM_ENTRY_MSR_LOAD_ADDRESS), count))
        return "the VM-entry MSR-load area is not aligned or too wide";
    if (c->entry & (ENTRY_TO_SMM | ENTRY_DEACTIVATE_DUAL))
        return "an entry to SMM, or deactivation of dual-monitor treatment, outside SMM";
    return NULL;
}

static const char *check_injection(struct hw_cpu *cpu)
{
    const struct processor *p = cpu->machine->processor;
    uint32_t info = (uint32_t)vmcs_get(cpu, F_VM_ENTRY_INTERRUPTION_INFO);
    if (!(info & INTERRUPTION_VALID))
        return NULL;
    unsigned type = (info & INTERRUPTION_TYPE_MASK) >> INTERRUPTION_TYPE_SHIFT, vector = info & 0xff;
    bool has_mtf = capability_allowed1(p, WORD_PRIMARY) & PRIMARY_MONITOR_TRAP_FLAG;
    if (type == 1 || (type == EVENT_OTHER && !has_mtf))
        return "injection of a reserved type";
    if (type == EVENT_NMI && vector != VECTOR_NMI)
        return "injection of an NMI with a vector other than 2";
    if (type == EVENT_HARDWARE_EXCEPTION && vector > 31)
        return "injection of an exception with a vector above 31";
    if (type == EVENT_OTHER && vector != 0)
        return "injection of an MTF VM exit with a vector other than 0";
    bool protected_guest = true;
    if (cpu->c.secondary & SECONDARY_UNRESTRICTED_GUEST)
        protected_guest = vmcs_get(cpu, F_GUEST_CR0) & CR0_PE;
    bool pushes = vector_pushes_error_code((uint8_t)vector);
    if (vector == VECTOR_CP) // on a processor that has it
        pushes = capability_msr(p, MSR_IA32_VMX_CR4_FIXED1) & CR4_CET;
    bool should = protected_guest && type == EVENT_HARDWARE_EXCEPTION && pushes;
    if (should != !!(info & INTERRUPTION_ERROR_CODE))
        return "the deliver-error-code bit does not fit the injected event";
    if (info & 0x7ffff000)
        return "reserved bits of the VM-entry interruption information are not 0";
    if (should && (vmcs_get(cpu, F_VM_ENTRY_EXCEPTION_ERROR_CODE) & 0xffff0000))
        return "bits 31:16 of the VM-entry exception error code are not 0";
    if (type == EVENT_SOFTWARE_INTERRUPT || type == EVENT_PRIVILEGED_SOFTWARE ||
        type == EVENT_SOFTWARE_EXCEPTION) {
        uint32_t length = (uint32_t)vmcs_get(cpu, F_VM_ENTRY_INSTRUCTION_LENGTH);
        if (length > 15 || (length == 0 && !capability_misc(p, MISC_INJECT_LENGTH_0)))
            return "the VM-entry instruction length is out of range";
    }
    return NULL;
}

const char *entry_check_controls(struct hw_cpu *cpu)
{
    static const char *(*const checks[])(struct hw_cpu *) = {
        check_words,     check_execution_addresses, check_apic,      check_posted_interrupts,
        check_execution, check_lists_and_exit,      check_injection,
    };
    for (unsigned i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
        const char *rule = checks[i](cpu);
        if (rule != NULL)
            return rule;
    }
    return NULL;
}
