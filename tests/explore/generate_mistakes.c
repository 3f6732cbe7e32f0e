// SPDX-License-Identifier: MIT
// Makes up one mistake in a VMCS, and repairs what the last exit left undefined before it is used.
#include "generate.h"

// Those that translations depend on, which a VPID or an EPT pointer keeps cached.
static bool decides_translations(enum vmcs_field field)
{
    return field == F_GUEST_CR0 || field == F_GUEST_CR3 || field == F_GUEST_CR4 ||
           field == F_GUEST_IA32_EFER || field == F_EPT_POINTER || field == F_VPID ||
           (field >= F_GUEST_PDPTE0 && field <= F_GUEST_PDPTE3) || field == F_SECONDARY_CONTROLS ||
           field == F_PRIMARY_CONTROLS || field == F_VM_ENTRY_CONTROLS;
}

void plan_forget_after(struct actor *a, enum vmcs_field field)
{
    if (!decides_translations(field))
        return;
    plan_forget_translations(a);
    if (allowed1(WORD_SECONDARY) & SECONDARY_ENABLE_EPT)
        plan_l1(a, INVEPT(2, ZERO_SLOT));
}

// Fields that bring L1 back, that tell the time, or whose mistakes end in a VMX abort.
static bool is_left_alone(enum vmcs_field field)
{
    if (vmcs_encoding_type(model_field_encoding(field)) == VMCS_TYPE_INFO)
        return true;
    switch (field) {
    case F_HOST_CR0:
    case F_HOST_CR3:
    case F_HOST_CR4:
    case F_HOST_RIP:
    case F_HOST_RSP:
    case F_HOST_IDTR_BASE:
    case F_HOST_TR_BASE:
    case F_HOST_CS_SELECTOR:
    case F_HOST_IA32_EFER:
    case F_PREEMPTION_TIMER_VALUE:
    case F_TSC_MULTIPLIER:
    case F_EXECUTIVE_VMCS_POINTER:
    case F_VM_EXIT_MSR_STORE_COUNT:
    case F_VM_EXIT_MSR_LOAD_COUNT:
        return true;
    default:
        return false;
    }
}

static uint64_t bad_value(uint64_t old)
{
    static const uint64_t interesting[] = {
        0,
        1,
        2,
        3,
        4,
        7,
        8,
        0xf,
        0x10,
        0x67,
        0x93,
        0x9b,
        0xfff,
        0x1000,
        0xffff,
        0x10000,
        0xc093,
        0xa09b,
        0x7fffffff,
        0x80000000,
        0xffffffff,
        0x100000000,
        0x800000000000,
        0xffff800000000000,
        0x8000000000000000,
        UINT64_MAX,
        L1_TABLES,
        0x80000306,
        0x80000b0d,
        0x80000202,
        0x80000480,
    };
    switch (random_below(4)) {
    case 0:
        return PICK(interesting);
    case 1:
        return random_word();
    default:
        old ^= 1ull << random_below(64);
        return one_in(2) ? old : old ^ 1ull << random_below(32);
    }
}

static uint64_t tamed(enum vmcs_field field, uint64_t value)
{
    if (value >= L1_REGIONS && value < L1_REGIONS + 0x20000)
        value += 0x100000; // what is in a VMCS region is the processor's own
    switch (field) {
    case F_PIN_BASED_CONTROLS:
        return value & ~(uint64_t)PIN_PREEMPTION_TIMER;
    case F_VM_EXIT_CONTROLS:
        return (value | EXIT_LOAD_EFER) & ~(uint64_t)EXIT_SAVE_PREEMPTION_TIMER;
    case F_GUEST_ACTIVITY_STATE:
        return (uint32_t)value <= 3 ? 0 : value;
    case F_GUEST_CR3: // too wide, or where L1 has memory: page tables of ones lead to writes where there is
                      // none
        return value >> world_l1_processor()->physical_address_width ? value : value % L1_RAM_SIZE;
    case F_VM_ENTRY_MSR_LOAD_COUNT:
        return value % 5;
    default:
        return value;
    }
}

void plan_bad_change(struct actor *a)
{
    struct known_vmcs *region = &generating.region[current_region(a)];
    enum vmcs_field field = random_field();
    if (is_left_alone(field))
        return;
    region->broken = field;
    region->good = current_field(a, field);
    if (region->good == model_poison(a->cpu->machine, a->cpu->current_pointer, field))
        region->good = field_base(field, (unsigned)current_region(a), (enum guest_mode)region->mode,
                                  region->without_ept);
    if (field >= F_GUEST_ES_ACCESS_RIGHTS && field <= F_GUEST_TR_ACCESS_RIGHTS) { // it may become usable
        unsigned segment = field - F_GUEST_ES_ACCESS_RIGHTS;
        plan_write(a, (enum vmcs_field)(F_GUEST_ES_LIMIT + segment), 0xffff);
        plan_write(a, (enum vmcs_field)(F_GUEST_ES_BASE + segment), 0);
    }
    plan_write(a, field, tamed(field, bad_value(region->good)));
    plan_forget_after(a, field);
}

// --- what the last exit left undefined is written before it is used

void plan_repairs(struct actor *a)
{
    const struct machine *machine = a->cpu->machine;
    uint64_t region = a->cpu->current_pointer;
    for (unsigned i = 0; i < SEGMENT_NAME_COUNT; i++) {
        enum vmcs_field limit = (enum vmcs_field)(F_GUEST_ES_LIMIT + i);
        bool usable = !(current_field(a, (enum vmcs_field)(F_GUEST_ES_ACCESS_RIGHTS + i)) & SEGMENT_UNUSABLE);
        if (usable && current_field(a, limit) == model_poison(machine, region, limit))
            plan_write(a, limit, 0xffff);
    }
    bool pae = !(current_field(a, F_VM_ENTRY_CONTROLS) & ENTRY_IA32E_MODE_GUEST);
    for (unsigned i = 0; i < 4 && pae; i++) {
        enum vmcs_field pdpte = (enum vmcs_field)(F_GUEST_PDPTE0 + i);
        if (field_is_of_l1(pdpte) && current_field(a, pdpte) == model_poison(machine, region, pdpte))
            plan_write(a, pdpte, i == 0 ? (L2_TABLES + 0x2000) | 1 : 0);
    }
    if (current_field(a, F_PIN_BASED_CONTROLS) & PIN_PREEMPTION_TIMER)
        plan_write(a, F_PREEMPTION_TIMER_VALUE, one_in(6) ? 0 : 0xffffffff);
}
