// SPDX-License-Identifier: MIT
// What vmcs_fields.def says about a field, and sets of fields.
#ifndef ENGINE_FIELD_H
#define ENGINE_FIELD_H

#include <nvmx/nvmx.h>

enum field_exists {
    EX_ALWAYS,
    EX_IO_BITMAPS,
    EX_MSR_BITMAPS,
    EX_TPR_SHADOW,
    EX_SECONDARY,
    EX_VIRTUALIZE_APIC_ACCESSES,
    EX_EPT,
    EX_VPID,
    EX_VIRTUAL_INTERRUPT_DELIVERY,
    EX_PAUSE_LOOP_EXITING,
    EX_VMFUNC,
    EX_VMCS_SHADOWING,
    EX_ENCLS_EXITING,
    EX_PML,
    EX_EPT_VIOLATION_VE,
    EX_XSAVES,
    EX_TSC_SCALING,
    EX_POSTED_INTERRUPTS,
    EX_PREEMPTION_TIMER,
    EX_PAT,
    EX_EFER,
    EX_PERF_GLOBAL_CTRL,
};

enum field_entry { ENTRY_CONSTANT, ENTRY_CPU, ENTRY_MERGED, ENTRY_RARE, ENTRY_HOT, ENTRY_EVENT, ENTRY_NEVER };
enum field_exit { EXIT_SAVE_HOT, EXIT_SAVE_RARE, EXIT_SAVE_MERGED, EXIT_RECORD, EXIT_KEEP };

struct field_info {
    uint16_t encoding;
    uint8_t width, type;         // VMCS_WIDTH_*, VMCS_TYPE_*
    uint8_t exists, entry, exit; // the enums above
};

extern const struct field_info field_table[F_COUNT];

// F_COUNT when no field has this encoding (full access; the access-type bit must be 0).
enum vmcs_field field_find(uint32_t encoding);

// The bits that fit into a field of width 16, 32, 64 or N.
#define FIELD_MASK(width) FIELD_MASK_##width
#define FIELD_MASK_16     0xffffull
#define FIELD_MASK_32     0xffffffffull
#define FIELD_MASK_64     (~0ull)
#define FIELD_MASK_N      (~0ull)
uint64_t field_mask(enum vmcs_field field);

// The fields that a processor with these capabilities has.
struct field_set field_set_existing(const struct nvmx_caps *caps);
struct field_set field_set_of_type(uint8_t type); // VMCS_TYPE_*
struct field_set field_set_of_entry(enum field_entry entry);
struct field_set field_set_and(struct field_set a, struct field_set b);
struct field_set field_set_and_not(struct field_set a, struct field_set b);
bool field_set_meets(const struct field_set *a, const struct field_set *b);

static inline bool field_set_has(const struct field_set *set, enum vmcs_field field)
{
    return (set->bits[field / 64] >> (field % 64)) & 1;
}
static inline void field_set_add(struct field_set *set, enum vmcs_field field)
{
    set->bits[field / 64] |= 1ull << (field % 64);
}

static inline void field_set_remove(struct field_set *set, enum vmcs_field field)
{
    set->bits[field / 64] &= ~(1ull << (field % 64));
}

// for (field in set): `set` is copied first, so that the body may change the original.
#define FIELD_SET_FOR_EACH(field, set)                                                                       \
    for (unsigned field##_word = 0; field##_word < FIELD_SET_WORDS; field##_word++)                          \
        for (uint64_t field##_left = (set).bits[field##_word], field = 0;                                    \
             field##_left != 0 &&                                                                            \
             (field = field##_word * 64 + (unsigned)__builtin_ctzll(field##_left), true);                    \
             field##_left &= field##_left - 1)

#endif
