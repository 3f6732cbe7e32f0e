// SPDX-License-Identifier: MIT
#include "border.h"

static uint64_t next(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

// What the entry or the exit behind it reads or loads must stay L1's own where they really happen.
static bool is_fixed_for_real_entries(enum vmcs_field field)
{
    switch (field) {
    case F_HOST_CR0:
    case F_HOST_CR3:
    case F_HOST_CR4:
    case F_HOST_RIP:
    case F_HOST_RSP:
    case F_HOST_IA32_EFER:
    case F_HOST_IA32_PERF_GLOBAL_CTRL:
    case F_HOST_CS_SELECTOR:
    case F_HOST_TR_SELECTOR:
    case F_HOST_GS_BASE:
    case F_HOST_TR_BASE:
    case F_HOST_GDTR_BASE:
    case F_HOST_IDTR_BASE:
    case F_VM_ENTRY_MSR_LOAD_COUNT:
    case F_VM_EXIT_MSR_LOAD_COUNT:
    case F_VM_EXIT_MSR_STORE_COUNT:
        return true;
    default:
        return false;
    }
}

// Fields that no rule looks at are a waste of changes.
static bool is_checked(enum vmcs_field field)
{
    uint32_t encoding = vmcs_field_encoding(field);
    if (vmcs_encoding_type(encoding) == VMCS_TYPE_INFO)
        return false;
    switch (field) {
    case F_EXECUTIVE_VMCS_POINTER:
    case F_GUEST_SMBASE:
    case F_GUEST_RSP:
    case F_HOST_RSP:
    case F_GUEST_SYSENTER_CS:
    case F_HOST_SYSENTER_CS:
    case F_TSC_OFFSET:
    case F_EXCEPTION_BITMAP:
    case F_PREEMPTION_TIMER_VALUE:
    case F_GUEST_INTERRUPT_STATUS:
        return false;
    default:
        return true;
    }
}

// Addresses of memory: only such bits as make them misaligned, or as high as they can be, or too high.
static bool is_address(enum vmcs_field field)
{
    uint32_t encoding = vmcs_field_encoding(field);
    if (field == F_GUEST_CR3 || field == F_VMCS_LINK_POINTER)
        return true;
    return vmcs_encoding_type(encoding) == VMCS_TYPE_CONTROL &&
           vmcs_encoding_width(encoding) == VMCS_WIDTH_64 && field != F_TSC_OFFSET &&
           field != F_TSC_MULTIPLIER && field != F_VM_FUNCTION_CONTROLS;
}

static unsigned width_of(enum vmcs_field field)
{
    switch (vmcs_encoding_width(vmcs_field_encoding(field))) {
    case VMCS_WIDTH_16:
        return 16;
    case VMCS_WIDTH_32:
        return 32;
    default:
        return 64;
    }
}

static uint64_t address_flipped(uint64_t *random, const struct pair_world *w, enum vmcs_field field,
                                uint64_t value)
{
    bool loaded = field == F_VM_ENTRY_MSR_LOAD_ADDRESS || field == F_VM_EXIT_MSR_LOAD_ADDRESS;
    unsigned low = (unsigned)(next(random) % (loaded ? 4 : 12));
    unsigned high = (unsigned)(w->physical_width - (loaded ? 0 : 1) + next(random) % 3);
    return value ^ 1ull << (next(random) % 2 ? low : high);
}

static uint64_t word_mask(enum vmcs_field field)
{
    unsigned width = width_of(field);
    return width == 64 ? ~0ull : (1ull << width) - 1;
}

static uint64_t flipped(uint64_t *random, const struct pair_world *w, enum vmcs_field field, uint64_t value)
{
    static const uint64_t edges[] = {
        0,        1,          3,          0xf,        0x10,        0xff,
        0x100,    0xfff,      0xffff,     0x10000,    0xfffff,     0x100000,
        1u << 31, 0xffffffff, 1ull << 32, 1ull << 47, ~0ull << 47, (1ull << 47) - 1,
        ~0ull,    0x80000b0e, 0x80000202, 0x80000603, 0x80000020,  0x80000301};
    if (is_address(field))
        return address_flipped(random, w, field, value);
    uint64_t mask = word_mask(field);
    switch (next(random) % 8) {
    case 0:
        return edges[next(random) % (sizeof(edges) / sizeof(edges[0]))] & mask;
    case 1:
        return (value + 1) & mask;
    case 2:
        return (value - 1) & mask;
    default:
        return value ^ 1ull << next(random) % width_of(field);
    }
}

// Most changes go where most rules are.
static enum vmcs_field any_field(uint64_t *random, const struct pair_world *w)
{
    static const uint16_t dense[] = {
        F_GUEST_CS_ACCESS_RIGHTS,
        F_GUEST_SS_ACCESS_RIGHTS,
        F_GUEST_DS_ACCESS_RIGHTS,
        F_GUEST_TR_ACCESS_RIGHTS,
        F_GUEST_LDTR_ACCESS_RIGHTS,
        F_GUEST_CS_LIMIT,
        F_GUEST_SS_SELECTOR,
        F_GUEST_DS_SELECTOR,
        F_GUEST_CR0,
        F_GUEST_CR4,
        F_GUEST_RFLAGS,
        F_GUEST_IA32_EFER,
        F_VM_ENTRY_CONTROLS,
        F_SECONDARY_CONTROLS,
        F_PRIMARY_CONTROLS,
        F_PIN_BASED_CONTROLS,
        F_VM_EXIT_CONTROLS,
        F_GUEST_INTERRUPTIBILITY,
        F_GUEST_ACTIVITY_STATE,
        F_GUEST_PENDING_DEBUG_EXCEPTIONS,
        F_VM_ENTRY_INTERRUPTION_INFO,
        F_GUEST_RIP,
        F_EPT_POINTER,
        F_TPR_THRESHOLD,
    };
    for (;;) {
        enum vmcs_field field = (enum vmcs_field)(next(random) % F_COUNT);
        if (next(random) % 2)
            field = (enum vmcs_field)dense[next(random) % (sizeof(dense) / sizeof(dense[0]))];
        if (is_checked(field) && (w->mode == PAIR_DIRECT || !is_fixed_for_real_entries(field)))
            return field;
    }
}

unsigned border_make(uint64_t *random, const struct pair_world *world, uint64_t *field,
                     struct border_change change[BORDER_CHANGES_MAX])
{
    bool made = false;
    while (!made) // a valid VMCS: one of the kinds, or the legal side of a pair
        made = next(random) % 4 == 0
                   ? pair_make_base((unsigned)(next(random) % pair_base_count), world, field)
                   : pair_make((unsigned)(next(random) % pair_count), PAIR_LEGAL, world, field);
    unsigned count = 1 + (unsigned)(next(random) % BORDER_CHANGES_MAX);
    for (unsigned i = 0; i < count; i++) {
        enum vmcs_field changed = any_field(random, world);
        change[i] = (struct border_change){
            .field = changed, .from = field[changed], .to = flipped(random, world, changed, field[changed])};
        field[changed] = change[i].to;
    }
    return count;
}
