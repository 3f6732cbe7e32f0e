// SPDX-License-Identifier: MIT
// vmcs_fields.def as tables; a row that contradicts itself does not compile.
#include "field.h"

#define ENTRY_OK_CONTROL(entry) ((entry) != ENTRY_CPU && (entry) != ENTRY_RARE && (entry) != ENTRY_HOT)
#define ENTRY_OK_INFO(entry)    ((entry) == ENTRY_NEVER)
#define ENTRY_OK_GUEST(entry)   ((entry) != ENTRY_CPU && (entry) != ENTRY_EVENT)
#define ENTRY_OK_HOST(entry)    ((entry) == ENTRY_CONSTANT || (entry) == ENTRY_CPU || (entry) == ENTRY_NEVER)
#define EXIT_OK_CONTROL(exit)   ((exit) == EXIT_KEEP)
#define EXIT_OK_INFO(exit)      ((exit) == EXIT_RECORD || (exit) == EXIT_KEEP)
#define EXIT_OK_GUEST(exit)     ((exit) != EXIT_RECORD)
#define EXIT_OK_HOST(exit)      ((exit) == EXIT_KEEP)

#define FIELD(name, encoding, width, type, exists, entry, exit)                                              \
    _Static_assert((((encoding) >> 13) & 3) == VMCS_WIDTH_##width, #name ": width against encoding");        \
    _Static_assert((((encoding) >> 10) & 3) == VMCS_TYPE_##type, #name ": type against encoding");           \
    _Static_assert(((encoding)&1) == 0 && (((encoding) >> 1) & 0x1ff) < 32, #name ": index");                \
    _Static_assert(ENTRY_OK_##type(ENTRY_##entry), #name ": entry policy against type");                     \
    _Static_assert(EXIT_OK_##type(EXIT_##exit), #name ": exit policy against type");
#include <nvmx/vmcs_fields.def>
#undef FIELD

const struct field_info field_table[F_COUNT] = {
#define FIELD(name, encoding, width, type, exists, entry, exit)                                              \
    [F_##name] = {encoding, VMCS_WIDTH_##width, VMCS_TYPE_##type, exists, ENTRY_##entry, EXIT_##exit},
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

// Row: width and type; column: index. 0: no such field, else F_x + 1.
static const uint8_t field_by_encoding[16][32] = {
#define FIELD(name, encoding, width, type, exists, entry, exit)                                              \
    [VMCS_WIDTH_##width * 4 + VMCS_TYPE_##type][((encoding) >> 1) & 0x1ff] = F_##name + 1,
#include <nvmx/vmcs_fields.def>
#undef FIELD
};
_Static_assert(F_COUNT < 255, "field_by_encoding holds F_x + 1 in a byte");

const char *vmcs_field_name(enum vmcs_field field)
{
    static const char *const names[F_COUNT] = {
#define FIELD(name, encoding, width, type, exists, entry, exit) [F_##name] = #name,
#include <nvmx/vmcs_fields.def>
#undef FIELD
    };
    return field < F_COUNT ? names[field] : "?";
}

uint32_t vmcs_field_encoding(enum vmcs_field field)
{
    return field_table[field].encoding;
}

enum vmcs_field field_find(uint32_t encoding)
{
    uint32_t index = vmcs_encoding_index(encoding);
    if ((encoding & ~VMCS_ENCODING_MASK) != 0 || (encoding & (VMCS_HIGH | 1u << 12)) != 0 || index >= 32)
        return F_COUNT;
    uint8_t found =
        field_by_encoding[vmcs_encoding_width(encoding) * 4 + vmcs_encoding_type(encoding)][index];
    return found == 0 ? F_COUNT : (enum vmcs_field)(found - 1);
}

uint64_t field_mask(enum vmcs_field field)
{
    switch (field_table[field].width) {
    case VMCS_WIDTH_16:
        return FIELD_MASK_16;
    case VMCS_WIDTH_32:
        return FIELD_MASK_32;
    default:
        return ~0ull;
    }
}

// A field exists when one of these controls may be 1.
static bool exists_with(const struct nvmx_caps *caps, enum field_exists exists)
{
    static const struct {
        uint8_t word[2];
        uint32_t bits[2];
    } needs[] = {
        [EX_IO_BITMAPS] = {{CAPS_PRIMARY}, {PRIMARY_USE_IO_BITMAPS}},
        [EX_MSR_BITMAPS] = {{CAPS_PRIMARY}, {PRIMARY_USE_MSR_BITMAPS}},
        [EX_TPR_SHADOW] = {{CAPS_PRIMARY}, {PRIMARY_USE_TPR_SHADOW}},
        [EX_SECONDARY] = {{CAPS_PRIMARY}, {PRIMARY_ACTIVATE_SECONDARY}},
        [EX_VIRTUALIZE_APIC_ACCESSES] = {{CAPS_SECONDARY}, {SECONDARY_VIRTUALIZE_APIC_ACCESSES}},
        [EX_EPT] = {{CAPS_SECONDARY}, {SECONDARY_ENABLE_EPT}},
        [EX_VPID] = {{CAPS_SECONDARY}, {SECONDARY_ENABLE_VPID}},
        [EX_VIRTUAL_INTERRUPT_DELIVERY] = {{CAPS_SECONDARY}, {SECONDARY_VIRTUAL_INTERRUPT_DELIVERY}},
        [EX_PAUSE_LOOP_EXITING] = {{CAPS_SECONDARY}, {SECONDARY_PAUSE_LOOP_EXITING}},
        [EX_VMFUNC] = {{CAPS_SECONDARY}, {SECONDARY_ENABLE_VMFUNC}},
        [EX_VMCS_SHADOWING] = {{CAPS_SECONDARY}, {SECONDARY_VMCS_SHADOWING}},
        [EX_ENCLS_EXITING] = {{CAPS_SECONDARY}, {SECONDARY_ENCLS_EXITING}},
        [EX_PML] = {{CAPS_SECONDARY}, {SECONDARY_ENABLE_PML}},
        [EX_EPT_VIOLATION_VE] = {{CAPS_SECONDARY}, {SECONDARY_EPT_VIOLATION_VE}},
        [EX_XSAVES] = {{CAPS_SECONDARY}, {SECONDARY_ENABLE_XSAVES}},
        [EX_TSC_SCALING] = {{CAPS_SECONDARY}, {SECONDARY_USE_TSC_SCALING}},
        [EX_POSTED_INTERRUPTS] = {{CAPS_PIN}, {PIN_POSTED_INTERRUPTS}},
        [EX_PREEMPTION_TIMER] = {{CAPS_PIN}, {PIN_PREEMPTION_TIMER}},
        [EX_PAT] = {{CAPS_EXIT, CAPS_ENTRY}, {EXIT_SAVE_PAT | EXIT_LOAD_PAT, ENTRY_LOAD_PAT}},
        [EX_EFER] = {{CAPS_EXIT, CAPS_ENTRY}, {EXIT_SAVE_EFER | EXIT_LOAD_EFER, ENTRY_LOAD_EFER}},
        [EX_PERF_GLOBAL_CTRL] = {{CAPS_EXIT, CAPS_ENTRY},
                                 {EXIT_LOAD_PERF_GLOBAL_CTRL, ENTRY_LOAD_PERF_GLOBAL_CTRL}},
    };
    if (exists == EX_ALWAYS)
        return true;
    for (unsigned i = 0; i < 2; i++)
        if ((nvmx_caps_allowed1(caps, needs[exists].word[i]) & needs[exists].bits[i]) != 0)
            return true;
    return false;
}

struct field_set field_set_existing(const struct nvmx_caps *caps)
{
    struct field_set set = {{0}};
    for (enum vmcs_field field = 0; field < F_COUNT; field++)
        if (exists_with(caps, field_table[field].exists))
            field_set_add(&set, field);
    return set;
}

struct field_set field_set_of_entry(enum field_entry entry)
{
    struct field_set set = {{0}};
    for (enum vmcs_field field = 0; field < F_COUNT; field++)
        if (field_table[field].entry == entry)
            field_set_add(&set, field);
    return set;
}

struct field_set field_set_of_type(uint8_t type)
{
    struct field_set set = {{0}};
    for (enum vmcs_field field = 0; field < F_COUNT; field++)
        if (field_table[field].type == type)
            field_set_add(&set, field);
    return set;
}

struct field_set field_set_and(struct field_set a, struct field_set b)
{
    for (unsigned i = 0; i < FIELD_SET_WORDS; i++)
        a.bits[i] &= b.bits[i];
    return a;
}

struct field_set field_set_and_not(struct field_set a, struct field_set b)
{
    for (unsigned i = 0; i < FIELD_SET_WORDS; i++)
        a.bits[i] &= ~b.bits[i];
    return a;
}

bool field_set_meets(const struct field_set *a, const struct field_set *b)
{
    for (unsigned i = 0; i < FIELD_SET_WORDS; i++)
        if ((a->bits[i] & b->bits[i]) != 0)
            return true;
    return false;
}
