// SPDX-License-Identifier: MIT
// The model's own tables: its processors are possible ones, and a VMCS field exists when the manual says so.
#include <machine.h>
#include <nvmx/controls.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct processor *const processors[] = {
    &processor_rich,
    &processor_no_vpid,
    &processor_sparse,
    &processor_no_ept,
    &processor_smx,
    &processor_new,
    &processor_no_unrestricted_guest,
    &processor_without_pml,
};
#define COUNT (sizeof(processors) / sizeof(processors[0]))

static uint64_t msr_of(const struct processor *p, uint32_t msr)
{
    return p->vmx.msr[msr - CAPS_MSR_FIRST];
}

// May a bit be 1: by the plain MSRs (the TRUE ones say the same of that).
static bool may(const struct processor *p, uint32_t msr, uint32_t bit)
{
    return msr_of(p, msr) >> 32 & bit;
}

static bool has_secondary(const struct processor *p, uint32_t bit)
{
    return may(p, MSR_IA32_VMX_PROCBASED_CTLS, PRIMARY_ACTIVATE_SECONDARY) &&
           may(p, MSR_IA32_VMX_PROCBASED_CTLS2, bit);
}

#define HOLDS(claim)                                                                                         \
    if (!(claim))                                                                                            \
    fail_msg("the processor \"%s\": not %s", p->name, #claim)

static void controls_are_possible(const struct processor *p)
{
    static const uint32_t words[][2] = {
        {MSR_IA32_VMX_PINBASED_CTLS, MSR_IA32_VMX_TRUE_PINBASED_CTLS},
        {MSR_IA32_VMX_PROCBASED_CTLS, MSR_IA32_VMX_TRUE_PROCBASED_CTLS},
        {MSR_IA32_VMX_EXIT_CTLS, MSR_IA32_VMX_TRUE_EXIT_CTLS},
        {MSR_IA32_VMX_ENTRY_CTLS, MSR_IA32_VMX_TRUE_ENTRY_CTLS},
    };
    // The "default1" controls: 1 in the low half of the plain MSRs.
    static const uint32_t default1[] = {0x16, 0x0401e172, 0x36dff, 0x11ff};
    bool has_true = msr_of(p, MSR_IA32_VMX_BASIC) >> 55 & 1;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t plain = msr_of(p, words[i][0]), with_true = msr_of(p, words[i][1]);
        HOLDS((uint32_t)plain == default1[i]);
        HOLDS(((uint32_t)plain & ~(plain >> 32)) == 0);
        HOLDS(has_true ? with_true >> 32 == plain >> 32 : with_true == 0);
        HOLDS(((uint32_t)with_true & ~(uint32_t)plain) == 0);
    }
    HOLDS((uint32_t)msr_of(p, MSR_IA32_VMX_PROCBASED_CTLS2) == 0);
}

static void what_needs_another_has_it(const struct processor *p)
{
    uint64_t ept = msr_of(p, MSR_IA32_VMX_EPT_VPID_CAP);
    bool has_ept = has_secondary(p, SECONDARY_ENABLE_EPT), has_vpid = has_secondary(p, SECONDARY_ENABLE_VPID);
    const uint32_t need_ept = SECONDARY_UNRESTRICTED_GUEST | SECONDARY_ENABLE_PML |
                              SECONDARY_MODE_BASED_EXECUTE_CONTROL | SECONDARY_EPT_VIOLATION_VE;
    const uint32_t need_tpr = SECONDARY_VIRTUALIZE_X2APIC_MODE | SECONDARY_APIC_REGISTER_VIRTUALIZATION |
                              SECONDARY_VIRTUAL_INTERRUPT_DELIVERY;
    HOLDS(has_ept || (uint32_t)ept == 0);
    HOLDS(has_vpid || ept >> 32 == 0);
    HOLDS(!has_ept || ((ept & EPT_CAP_WALK_LENGTH_4) && (ept & EPT_CAP_MEMORY_TYPE_WB)));
    HOLDS(has_ept || !has_secondary(p, need_ept));
    HOLDS(may(p, MSR_IA32_VMX_PROCBASED_CTLS, PRIMARY_USE_TPR_SHADOW) || !has_secondary(p, need_tpr));
    HOLDS((ept & EPT_CAP_ACCESSED_DIRTY) || !has_secondary(p, SECONDARY_ENABLE_PML));
    HOLDS(has_secondary(p, SECONDARY_ENABLE_VMFUNC) || msr_of(p, MSR_IA32_VMX_VMFUNC) == 0);
    HOLDS(has_secondary(p, SECONDARY_VIRTUAL_INTERRUPT_DELIVERY) ||
          !may(p, MSR_IA32_VMX_PINBASED_CTLS, PIN_POSTED_INTERRUPTS));
    HOLDS(may(p, MSR_IA32_VMX_PINBASED_CTLS, PIN_PREEMPTION_TIMER) ||
          !may(p, MSR_IA32_VMX_EXIT_CTLS, EXIT_SAVE_PREEMPTION_TIMER));
    HOLDS(may(p, MSR_IA32_VMX_PINBASED_CTLS, PIN_VIRTUAL_NMIS) ||
          !may(p, MSR_IA32_VMX_PROCBASED_CTLS, PRIMARY_NMI_WINDOW_EXITING));
}

static void registers_are_possible(const struct processor *p)
{
    HOLDS((msr_of(p, MSR_IA32_VMX_CR0_FIXED0) & ~msr_of(p, MSR_IA32_VMX_CR0_FIXED1)) == 0);
    HOLDS((msr_of(p, MSR_IA32_VMX_CR4_FIXED0) & ~msr_of(p, MSR_IA32_VMX_CR4_FIXED1)) == 0);
    HOLDS(msr_of(p, MSR_IA32_VMX_CR4_FIXED0) & CR4_VMXE);
    HOLDS(p->physical_address_width >= 36 && p->physical_address_width <= 52);
    HOLDS((msr_of(p, MSR_IA32_VMX_BASIC) & 1u << 31) == 0);
    HOLDS((msr_of(p, MSR_IA32_VMX_BASIC) >> 32 & 0x1fff) == 4096);
}

static void vmcs_enum_names_the_highest_index(const struct processor *p)
{
    static const uint32_t encodings[] = {
#define FIELD(name, encoding, width, type, exists, entry, exit) encoding,
#include <nvmx/vmcs_fields.def>
#undef FIELD
    };
    uint32_t highest = 0, told = msr_of(p, MSR_IA32_VMX_VMCS_ENUM) >> 1 & 0x1ff;
    for (unsigned i = 0; i < F_COUNT; i++)
        if (processor_has_field(p, encodings[i]) && vmcs_encoding_index(encodings[i]) > highest)
            highest = vmcs_encoding_index(encodings[i]);
    // That the rich one claims more is the defect of the processor that it was read from (FACTS).
    if (p == &processor_rich ? told < highest : told != highest)
        fail_msg("the processor \"%s\": IA32_VMX_VMCS_ENUM says %#x, and the highest index is %#x", p->name,
                 told, highest);
}

static void processors_are_possible(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT; i++) {
        controls_are_possible(processors[i]);
        what_needs_another_has_it(processors[i]);
        registers_are_possible(processors[i]);
        vmcs_enum_names_the_highest_index(processors[i]);
    }
}

// "This field exists only on processors that support the 1-setting of the ... control": Virtual-Machine
// Control Structures, told here once more.
static const struct {
    uint32_t encoding, msr, bits;
} fields[] = {
    {0x0000, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_ENABLE_VPID},
    {0x0002, MSR_IA32_VMX_PINBASED_CTLS, PIN_POSTED_INTERRUPTS},
    {0x0004, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_EPT_VIOLATION_VE},
    {0x0810, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_VIRTUAL_INTERRUPT_DELIVERY},
    {0x0812, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_ENABLE_PML},
    {0x2004, MSR_IA32_VMX_PROCBASED_CTLS, PRIMARY_USE_MSR_BITMAPS},
    {0x200e, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_ENABLE_PML},
    {0x2012, MSR_IA32_VMX_PROCBASED_CTLS, PRIMARY_USE_TPR_SHADOW},
    {0x2014, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_VIRTUALIZE_APIC_ACCESSES},
    {0x2016, MSR_IA32_VMX_PINBASED_CTLS, PIN_POSTED_INTERRUPTS},
    {0x2018, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_ENABLE_VMFUNC},
    {0x201a, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_ENABLE_EPT},
    {0x201c, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_VIRTUAL_INTERRUPT_DELIVERY},
    {0x2022, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_VIRTUAL_INTERRUPT_DELIVERY},
    {0x2024, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_ENABLE_VMFUNC},
    {0x2026, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_VMCS_SHADOWING},
    {0x2028, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_VMCS_SHADOWING},
    {0x202a, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_EPT_VIOLATION_VE},
    {0x202c, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_ENABLE_XSAVES},
    {0x2032, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_USE_TSC_SCALING},
    {0x2400, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_ENABLE_EPT},
    {0x2808, MSR_IA32_VMX_ENTRY_CTLS, ENTRY_LOAD_PERF_GLOBAL_CTRL},
    {0x280a, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_ENABLE_EPT},
    {0x2810, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_ENABLE_EPT},
    {0x2c00, MSR_IA32_VMX_EXIT_CTLS, EXIT_LOAD_PAT},
    {0x2c02, MSR_IA32_VMX_EXIT_CTLS, EXIT_LOAD_EFER},
    {0x2c04, MSR_IA32_VMX_EXIT_CTLS, EXIT_LOAD_PERF_GLOBAL_CTRL},
    {0x401c, MSR_IA32_VMX_PROCBASED_CTLS, PRIMARY_USE_TPR_SHADOW},
    {0x401e, MSR_IA32_VMX_PROCBASED_CTLS, PRIMARY_ACTIVATE_SECONDARY},
    {0x4020, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_PAUSE_LOOP_EXITING},
    {0x4022, MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_PAUSE_LOOP_EXITING},
    {0x482e, MSR_IA32_VMX_PINBASED_CTLS, PIN_PREEMPTION_TIMER},
};

static void drop(struct processor *p, uint32_t msr, uint32_t bits)
{
    p->vmx.msr[msr - CAPS_MSR_FIRST] &= ~((uint64_t)bits << 32);
}

static void fields_exist_with_their_controls(void **state)
{
    (void)state;
    for (unsigned i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        struct processor with = processor_rich, without = processor_rich;
        drop(&without, fields[i].msr, fields[i].bits);
        for (unsigned k = 0; k < 4; k++) { // the TRUE MSRs, too
            static const uint32_t plain[] = {MSR_IA32_VMX_PINBASED_CTLS, MSR_IA32_VMX_PROCBASED_CTLS,
                                             MSR_IA32_VMX_EXIT_CTLS, MSR_IA32_VMX_ENTRY_CTLS};
            if (plain[k] == fields[i].msr)
                drop(&without, MSR_IA32_VMX_TRUE_PINBASED_CTLS + k, fields[i].bits);
        }
        if (!processor_has_field(&with, fields[i].encoding) ||
            processor_has_field(&without, fields[i].encoding))
            fail_msg("field %#x exists, or not, without regard to its control", fields[i].encoding);
    }
}

// CR3-target values: as many as IA32_VMX_MISC says.
static void cr3_targets_are_counted(void **state)
{
    (void)state;
    for (unsigned count = 0; count <= 4; count++) {
        struct processor p = processor_rich;
        uint64_t *misc = &p.vmx.msr[MSR_IA32_VMX_MISC - CAPS_MSR_FIRST];
        *misc = (*misc & ~(0x1ffull << MISC_CR3_TARGET_SHIFT)) | (uint64_t)count << MISC_CR3_TARGET_SHIFT;
        for (uint32_t i = 0; i < 4; i++)
            assert_int_equal(processor_has_field(&p, VMCS_CR3_TARGET_0 + 2 * i), i < count);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(processors_are_possible),
        cmocka_unit_test(fields_exist_with_their_controls),
        cmocka_unit_test(cr3_targets_are_counted),
    };
    return cmocka_run_group_tests_name("the model's processors", tests, NULL, NULL);
}
