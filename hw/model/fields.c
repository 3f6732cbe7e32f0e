// SPDX-License-Identifier: MIT
// Which VMCS fields a processor has, and how wide they are.
// Manual: VMCS Types... Virtual-Machine Control Structures (each field's "exists only on processors that");
// appendix Field Encoding in VMCS.
#include "model.h"

static const uint32_t encodings[F_COUNT] = {
#define FIELD(name, encoding, width, type, exists, entry, exit) [F_##name] = (encoding),
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

static const char *const names[F_COUNT] = {
#define FIELD(name, encoding, width, type, exists, entry, exit) [F_##name] = #name,
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

const char *model_field_name(enum vmcs_field field)
{
    return field < F_COUNT ? names[field] : "(no field)";
}

uint32_t model_field_encoding(enum vmcs_field field)
{
    return encodings[field];
}

// By encoding, without its access-type bit.
static enum vmcs_field field_of_full_encoding(uint32_t encoding)
{
    static uint16_t lookup[(VMCS_ENCODING_MASK + 1) / 2];
    static bool filled;
    if (!filled) {
        for (unsigned i = 0; i < sizeof(lookup) / sizeof(lookup[0]); i++)
            lookup[i] = F_COUNT;
        for (unsigned field = 0; field < F_COUNT; field++)
            lookup[encodings[field] / 2] = (uint16_t)field;
        filled = true;
    }
    return (enum vmcs_field)lookup[encoding / 2];
}

static bool has(const struct processor *processor, enum control_word word, uint32_t control)
{
    return capability_allowed1(processor, word) & control;
}

static unsigned cr3_target_count(const struct processor *processor)
{
    return capability_msr(processor, MSR_IA32_VMX_MISC) >> MISC_CR3_TARGET_SHIFT & 0x1ff;
}

bool model_field_exists(const struct processor *p, enum vmcs_field field)
{
    switch (field) {
    case F_VPID:
        return has(p, WORD_SECONDARY, SECONDARY_ENABLE_VPID);
    case F_POSTED_INTERRUPT_VECTOR:
    case F_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS:
        return has(p, WORD_PIN, PIN_POSTED_INTERRUPTS);
    case F_EPTP_INDEX:
    case F_VIRTUALIZATION_EXCEPTION_ADDRESS:
        return has(p, WORD_SECONDARY, SECONDARY_EPT_VIOLATION_VE);
    case F_GUEST_INTERRUPT_STATUS:
    case F_EOI_EXIT_BITMAP_0:
    case F_EOI_EXIT_BITMAP_1:
    case F_EOI_EXIT_BITMAP_2:
    case F_EOI_EXIT_BITMAP_3:
        return has(p, WORD_SECONDARY, SECONDARY_VIRTUAL_INTERRUPT_DELIVERY);
    case F_PML_INDEX:
    case F_PML_ADDRESS:
        return has(p, WORD_SECONDARY, SECONDARY_ENABLE_PML);
    case F_IO_BITMAP_A:
    case F_IO_BITMAP_B:
        return has(p, WORD_PRIMARY, PRIMARY_USE_IO_BITMAPS);
    case F_MSR_BITMAP:
        return has(p, WORD_PRIMARY, PRIMARY_USE_MSR_BITMAPS);
    case F_VIRTUAL_APIC_ADDRESS:
    case F_TPR_THRESHOLD:
        return has(p, WORD_PRIMARY, PRIMARY_USE_TPR_SHADOW);
    case F_APIC_ACCESS_ADDRESS:
        return has(p, WORD_SECONDARY, SECONDARY_VIRTUALIZE_APIC_ACCESSES);
    case F_VM_FUNCTION_CONTROLS:
        return has(p, WORD_SECONDARY, SECONDARY_ENABLE_VMFUNC);
    case F_EPTP_LIST_ADDRESS:
        return has(p, WORD_SECONDARY, SECONDARY_ENABLE_VMFUNC) &&
               (capability_msr(p, MSR_IA32_VMX_VMFUNC) & 1);
    case F_EPT_POINTER:
    case F_GUEST_PHYSICAL_ADDRESS:
    case F_GUEST_PDPTE0:
    case F_GUEST_PDPTE1:
    case F_GUEST_PDPTE2:
    case F_GUEST_PDPTE3:
        return has(p, WORD_SECONDARY, SECONDARY_ENABLE_EPT);
    case F_VMREAD_BITMAP:
    case F_VMWRITE_BITMAP:
        return has(p, WORD_SECONDARY, SECONDARY_VMCS_SHADOWING);
    case F_XSS_EXITING_BITMAP:
        return has(p, WORD_SECONDARY, SECONDARY_ENABLE_XSAVES);
    case F_ENCLS_EXITING_BITMAP:
        return has(p, WORD_SECONDARY, SECONDARY_ENCLS_EXITING);
    case F_TSC_MULTIPLIER:
        return has(p, WORD_SECONDARY, SECONDARY_USE_TSC_SCALING);
    case F_GUEST_IA32_PAT:
        return has(p, WORD_ENTRY, ENTRY_LOAD_PAT) || has(p, WORD_EXIT, EXIT_SAVE_PAT);
    case F_GUEST_IA32_EFER:
        return has(p, WORD_ENTRY, ENTRY_LOAD_EFER) || has(p, WORD_EXIT, EXIT_SAVE_EFER);
    case F_GUEST_IA32_PERF_GLOBAL_CTRL:
        return has(p, WORD_ENTRY, ENTRY_LOAD_PERF_GLOBAL_CTRL);
    case F_HOST_IA32_PAT:
        return has(p, WORD_EXIT, EXIT_LOAD_PAT);
    case F_HOST_IA32_EFER:
        return has(p, WORD_EXIT, EXIT_LOAD_EFER);
    case F_HOST_IA32_PERF_GLOBAL_CTRL:
        return has(p, WORD_EXIT, EXIT_LOAD_PERF_GLOBAL_CTRL);
    case F_SECONDARY_CONTROLS:
        return has(p, WORD_PRIMARY, PRIMARY_ACTIVATE_SECONDARY);
    case F_PLE_GAP:
    case F_PLE_WINDOW:
        return has(p, WORD_SECONDARY, SECONDARY_PAUSE_LOOP_EXITING);
    case F_PREEMPTION_TIMER_VALUE:
        return has(p, WORD_PIN, PIN_PREEMPTION_TIMER);
    case F_CR3_TARGET_0:
        return cr3_target_count(p) > 0;
    case F_CR3_TARGET_1:
        return cr3_target_count(p) > 1;
    case F_CR3_TARGET_2:
        return cr3_target_count(p) > 2;
    case F_CR3_TARGET_3:
        return cr3_target_count(p) > 3;
    default:
        return field < F_COUNT;
    }
}

static enum vmcs_field find(uint64_t encoding, bool *high)
{
    *high = false;
    if (encoding & ~(uint64_t)VMCS_ENCODING_MASK)
        return F_COUNT;
    if (encoding & VMCS_HIGH) {
        if (vmcs_encoding_width((uint32_t)encoding) != VMCS_WIDTH_64)
            return F_COUNT;
        *high = true;
    }
    return field_of_full_encoding((uint32_t)encoding);
}

enum vmcs_field model_field_find(const struct machine *machine, uint64_t encoding, bool *high)
{
    enum vmcs_field field = find(encoding, high);
    return field != F_COUNT && machine->exists[field] ? field : F_COUNT;
}

bool processor_has_field(const struct processor *processor, uint32_t encoding)
{
    bool high;
    return model_field_exists(processor, find(encoding, &high));
}

uint64_t model_field_truncate(enum vmcs_field field, uint64_t value)
{
    switch (vmcs_encoding_width(encodings[field])) {
    case VMCS_WIDTH_16:
        return value & 0xffff;
    case VMCS_WIDTH_32:
        return value & 0xffffffff;
    default: // 64 bits, and natural width on a processor with Intel 64 architecture
        return value;
    }
}
