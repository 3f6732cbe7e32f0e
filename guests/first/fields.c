// SPDX-License-Identifier: MIT
// VMREAD and VMWRITE: every field that an L1 may rely on, in all forms, and encodings that mean nothing.
#include "first.h"
#include "l2_code.h"
#include "x86.h"

// The control that a field comes with, by vmcs_fields.def's conditions. NEVER: a hypervisor that gives its
// guest VMX may rightly not offer it, whatever the processor does.
struct condition {
    uint32_t controls_field, bit;
};

#define CONDITION_EX_ALWAYS                                                                                  \
    {                                                                                                        \
        0, 0                                                                                                 \
    }
#define CONDITION_EX_SECONDARY                                                                               \
    {                                                                                                        \
        VMCS_PRIMARY_CONTROLS, PRIMARY_ACTIVATE_SECONDARY                                                    \
    }
#define CONDITION_EX_IO_BITMAPS                                                                              \
    {                                                                                                        \
        VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS                                                        \
    }
#define CONDITION_EX_MSR_BITMAPS                                                                             \
    {                                                                                                        \
        VMCS_PRIMARY_CONTROLS, PRIMARY_USE_MSR_BITMAPS                                                       \
    }
#define CONDITION_EX_TPR_SHADOW                                                                              \
    {                                                                                                        \
        VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW                                                        \
    }
#define CONDITION_EX_PAT                                                                                     \
    {                                                                                                        \
        VMCS_VM_ENTRY_CONTROLS, ENTRY_LOAD_PAT                                                               \
    }
#define CONDITION_EX_EFER                                                                                    \
    {                                                                                                        \
        VMCS_VM_ENTRY_CONTROLS, ENTRY_LOAD_EFER                                                              \
    }
#define CONDITION_EX_VPID                                                                                    \
    {                                                                                                        \
        VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VPID                                                       \
    }
#define CONDITION_EX_EPT                                                                                     \
    {                                                                                                        \
        VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT                                                        \
    }
#define CONDITION_EX_PREEMPTION_TIMER                                                                        \
    {                                                                                                        \
        VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER                                                        \
    }
#define CONDITION_EX_VIRTUAL_INTERRUPT_DELIVERY                                                              \
    {                                                                                                        \
        VMCS_SECONDARY_CONTROLS, SECONDARY_VIRTUAL_INTERRUPT_DELIVERY                                        \
    }
#define CONDITION_EX_VIRTUALIZE_APIC_ACCESSES                                                                \
    {                                                                                                        \
        VMCS_SECONDARY_CONTROLS, SECONDARY_VIRTUALIZE_APIC_ACCESSES                                          \
    }
#define CONDITION_EX_XSAVES                                                                                  \
    {                                                                                                        \
        VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_XSAVES                                                     \
    }
#define CONDITION_EX_TSC_SCALING                                                                             \
    {                                                                                                        \
        VMCS_SECONDARY_CONTROLS, SECONDARY_USE_TSC_SCALING                                                   \
    }
#define CONDITION_EX_PAUSE_LOOP_EXITING                                                                      \
    {                                                                                                        \
        VMCS_SECONDARY_CONTROLS, SECONDARY_PAUSE_LOOP_EXITING                                                \
    }
#define NEVER                                                                                                \
    {                                                                                                        \
        VMCS_PIN_BASED_CONTROLS, 0                                                                           \
    }
#define CONDITION_EX_POSTED_INTERRUPTS NEVER
#define CONDITION_EX_EPT_VIOLATION_VE  NEVER
#define CONDITION_EX_PML               NEVER
#define CONDITION_EX_VMFUNC            NEVER
#define CONDITION_EX_VMCS_SHADOWING    NEVER
#define CONDITION_EX_ENCLS_EXITING     NEVER
#define CONDITION_EX_PERF_GLOBAL_CTRL  NEVER

struct field {
    const char *name;
    uint32_t encoding;
    struct condition condition;
};

static const struct field fields[] = {
#define FIELD(name, encoding, width, type, exists, entry, exit) {#name, encoding, CONDITION_##exists},
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

#define FIELD_COUNT (sizeof(fields) / sizeof(fields[0]))

static bool is_present(const struct field *field)
{
    if (!field->condition.controls_field)
        return true;
    return field->condition.bit && l2_may_set(field->condition.controls_field, field->condition.bit);
}

// Processors may keep only the defined bits of access rights.
#define ACCESS_RIGHTS_MASK 0x1f0ffu

static bool is_access_rights(uint32_t encoding)
{
    return encoding >= VMCS_GUEST_ES_ACCESS_RIGHTS && encoding <= VMCS_GUEST_TR_ACCESS_RIGHTS;
}

static uint64_t field_mask(uint32_t encoding)
{
    if (is_access_rights(encoding))
        return ACCESS_RIGHTS_MASK;
    switch (vmcs_encoding_width(encoding)) {
    case VMCS_WIDTH_16:
        return 0xffff;
    case VMCS_WIDTH_32:
        return 0xffffffff;
    default:
        return ~0ull;
    }
}

static bool is_writable(const struct field *field)
{
    return is_present(field) && vmcs_encoding_type(field->encoding) != VMCS_TYPE_INFO;
}

static uint64_t field_pattern(uint32_t encoding, uint64_t seed)
{
    return (seed + encoding) * 0x9e3779b97f4a7c15ull & field_mask(encoding);
}

// All are written before any is read: no two fields are one.
static void fact_all_fields(struct cpu *cpu, uint64_t seed)
{
    for (uint32_t i = 0; i < FIELD_COUNT; i++)
        if (is_writable(&fields[i]) &&
            vmx_vmwrite(fields[i].encoding, field_pattern(fields[i].encoding, seed)) != VMX_SUCCEED)
            fact_true(cpu, fields[i].name, false);
    for (uint32_t i = 0; i < FIELD_COUNT; i++)
        if (is_writable(&fields[i]))
            fact(cpu, fields[i].name, l2_read(fields[i].encoding), field_pattern(fields[i].encoding, seed));
}

void test_every_field(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_nops);
    fact_all_fields(cpu, 1);
    vmx_vmclear(l2->vmcs);
    vmx_vmptrld(l2->vmcs);
    uint32_t same = 0, count = 0;
    for (uint32_t i = 0; i < FIELD_COUNT; i++)
        if (is_writable(&fields[i])) {
            count++;
            same += l2_read(fields[i].encoding) == field_pattern(fields[i].encoding, 1);
        }
    fact(cpu, "fields", count, count);
    fact(cpu, "of them the same after VMCLEAR and VMPTRLD", same, count);
    l2_write_all(l2, l2_nops);
    fact_call(cpu, l2, "set up again: L2 runs", 3);
}

// The same by the forms with a memory operand, and with bits beyond the field's width.
void test_field_forms(struct cpu *cpu)
{
    l2_create(cpu, l2_nops);
    uint32_t right = 0, count = 0;
    for (uint32_t i = 0; i < FIELD_COUNT; i++) {
        uint32_t encoding = fields[i].encoding;
        if (!is_writable(&fields[i]))
            continue;
        uint64_t pattern = field_pattern(encoding, 2), value = pattern | (field_mask(encoding) ^ ~0ull),
                 read = ~0ull;
        if (is_access_rights(encoding))
            value = pattern;
        enum vmx_status wrote = vmx_vmwrite_memory(encoding, &value);
        enum vmx_status was_read = vmx_vmread_memory(encoding, &read);
        count++;
        right += wrote == VMX_SUCCEED && was_read == VMX_SUCCEED && read == pattern;
    }
    fact(cpu, "fields whose memory forms work, higher bits being ignored", right, count);
}

// The upper half of a 64-bit field has an encoding of its own.
void test_high_halves(struct cpu *cpu)
{
    l2_create(cpu, l2_nops);
    uint32_t right = 0, count = 0;
    for (uint32_t i = 0; i < FIELD_COUNT; i++) {
        uint32_t encoding = fields[i].encoding;
        if (!is_writable(&fields[i]) || vmcs_encoding_width(encoding) != VMCS_WIDTH_64)
            continue;
        uint64_t high = 0;
        l2_write(encoding, 0x1122334455667788);
        count++;
        if (vmx_vmread(encoding | VMCS_HIGH, &high) != VMX_SUCCEED || high != 0x11223344)
            continue;
        l2_write(encoding | VMCS_HIGH, 0xffffffff99aabbcc);
        right += l2_read(encoding) == 0x99aabbcc55667788;
    }
    fact(cpu, "64-bit fields whose upper half can be read and written", right, count);
}

void test_read_only_fields(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_nops);
    fact_call(cpu, l2, "L2 runs", 3);
    for (uint32_t i = 0; i < FIELD_COUNT; i++)
        if (is_present(&fields[i]) && vmcs_encoding_type(fields[i].encoding) == VMCS_TYPE_INFO) {
            uint64_t value = 0;
            fact_status(cpu, fields[i].name, vmx_vmread(fields[i].encoding, &value), FACT_SUCCEED);
        }
    bool any_field = x86_rdmsr(MSR_IA32_VMX_MISC) & MISC_VMWRITE_ANY_FIELD;
    enum vmx_status status = vmx_vmwrite(VMCS_EXIT_QUALIFICATION, 0x1234);
    bool obeys = any_field ? status == VMX_SUCCEED && l2_read(VMCS_EXIT_QUALIFICATION) == 0x1234
                           : status == VMX_FAIL_VALID && l2_read(VMCS_VM_INSTRUCTION_ERROR) == 13;
    fact_true(cpu, "VMWRITE of one does what IA32_VMX_MISC says", obeys);
}

// Bits 63:15 and 12 are reserved; bit 0 exists for 64-bit fields only; and indexes nobody has. On the first
// processor only: Bochs 3.0 lets application processors read and write fields that do not exist, and stops at
// an assertion.
void test_wrong_encodings(struct cpu *cpu)
{
    static const struct {
        const char *name;
        uint64_t encoding;
    } rows[] = {
        {"a 16-bit guest field's number 63", 0x087e},
        {"a 64-bit control field's number 63", 0x207e},
        {"a 32-bit host field's number 1", 0x4c02},
        {"a natural-width host field's number 63", 0x6c7e},
        {"the upper half of a 16-bit field", 0x0801},
        {"the upper half of a 32-bit field", 0x4001},
        {"the upper half of a natural-width field", 0x6801},
        {"bit 12", 0x681e | 1 << 12},
        {"bit 15", 0x681e | 1 << 15},
        {"bit 31", 0x681e | 1ull << 31},
        {"bit 32", 0x681e | 1ull << 32},
        {"bit 63", 0x681e | 1ull << 63},
        {"all bits", ~0ull},
    };
    if (cpu->index != 0)
        return;
    l2_create(cpu, l2_nops);
    l2_write(VMCS_GUEST_RIP, 0x5555);
    for (uint32_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint64_t value = 0x77;
        fact_status(cpu, rows[i].name, vmx_vmread(rows[i].encoding, &value), 12);
        if (value != 0x77)
            fact(cpu, "VMREAD's destination", value, 0x77);
        fact_status(cpu, "VMREAD to memory", vmx_vmread_memory(rows[i].encoding, &value), 12);
        fact_status(cpu, "VMWRITE", vmx_vmwrite(rows[i].encoding, 0x1234), 12);
    }
    fact(cpu, "the field that some of them resemble", l2_read(VMCS_GUEST_RIP), 0x5555);
    fact_status(cpu, "VMREAD that succeeds", vmx_vmread(VMCS_GUEST_RIP, &(uint64_t){0}), FACT_SUCCEED);
    fact(cpu, "VM-instruction error stays", l2_read(VMCS_VM_INSTRUCTION_ERROR), 12);
}
