// SPDX-License-Identifier: MIT
// The VM-entry checks: checks.def and the vocabulary that its rows are written in.
// Manual: VM Entries (Checks on VMX Controls and Host-State Area; Checking and Loading Guest State).
#include "engine.h"

#include <nvmx/check.h>

struct check_context {
    struct nvmx_vcpu *vcpu; // NULL: memory is unknown
    const uint64_t *field;
    const struct nvmx_caps *caps;
    const uint64_t *pdpte; // NULL: unknown
    uint64_t misc, cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1, vm_functions;
    uint64_t physical_width, structure_width; // the second: of what the VMCS points to
    uint32_t revision;
    uint32_t secondary;    // 0 unless activated
    uint32_t linear_shift; // 64 - linear-address bits: 16, or 7 with 5-level paging
    bool long_mode;
    bool any_error_code; // injected exceptions may come with an error code or without
};

// Whoever wants to know which fields a rule looks at compiles this file with readings of their own.
#ifndef CHECK_FIELD
#define CHECK_FIELD(c, field_index) ((c)->field[field_index])
#define CHECK_SECONDARY(c)          ((c)->secondary)
#endif

#define FEATURE(name)         ((c->caps->features & FEATURE_##name) != 0)
#define V(name)               CHECK_FIELD(c, F_##name)
#define PIN(control)          ((V(PIN_BASED_CONTROLS) & PIN_##control) != 0)
#define PRIMARY(control)      ((V(PRIMARY_CONTROLS) & PRIMARY_##control) != 0)
#define SECONDARY(control)    ((CHECK_SECONDARY(c) & SECONDARY_##control) != 0)
#define EXIT(control)         ((V(VM_EXIT_CONTROLS) & EXIT_##control) != 0)
#define ENTRY(control)        ((V(VM_ENTRY_CONTROLS) & ENTRY_##control) != 0)
#define canonical(address)    (nearest_canonical(address) == (address))
#define nearest_canonical(at) sign_extend(at, c->linear_shift)
#define INJECT_INFO           ((uint32_t)V(VM_ENTRY_INTERRUPTION_INFO))
#define INJECT                ((INJECT_INFO & INTERRUPTION_VALID) != 0)
#define INJECT_TYPE           event_type(INJECT_INFO)
#define INJECT_VECTOR         (INJECT_INFO & INTERRUPTION_VECTOR_MASK)
#define INJECTS(type)         (INJECT && INJECT_TYPE == EVENT_##type)
#define VM86                  ((V(GUEST_RFLAGS) & RFLAGS_VM) != 0)
#define AR(segment)           (V(GUEST_##segment##_ACCESS_RIGHTS))
#define TYPE(segment)         (AR(segment) & SEGMENT_TYPE_MASK)
#define DPL(segment)          (AR(segment) >> SEGMENT_DPL_SHIFT & 3)
#define USABLE(segment)       ((AR(segment) & SEGMENT_UNUSABLE) == 0)
#define SEGMENT_RESERVED      0xfffe0f00ull
#define RFLAGS_RESERVED       0xffffffffffc08028ull
#define EFER_KNOWN            (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)
#define DEBUGCTL_KNOWN        check_debugctl_known(c->caps)
#define DEBUGCTL_BTF          (1ull << 1)
#define PENDING_DEBUG_BS      (1ull << 14)
#define PENDING_DEBUG_ENABLED (1ull << 12) // a breakpoint was enabled
#define PENDING_DEBUG_RTM     (1ull << 16)
#define PENDING_DEBUG_KNOWN                                                                                  \
    (0x500full | (FEATURE(BUS_LOCK_DETECTION) ? 1ull << 11 : 0) | (FEATURE(RTM) ? PENDING_DEBUG_RTM : 0))
#define INTERRUPTIBILITY_ENCLAVE (1ull << 4)
#define INTERRUPTIBILITY_KNOWN   (0xfull | (FEATURE(SGX) ? INTERRUPTIBILITY_ENCLAVE : 0))
#define CR3_LAM                  (3ull << 61) // LAM_U57 and LAM_U48
#define PDPTE_RESERVED           0x1e6ull
#define PAE_PAGING               ((V(GUEST_CR0) & CR0_PG) != 0 && (V(GUEST_CR4) & CR4_PAE) != 0 && !ENTRY(IA32E_MODE_GUEST))
#define EPTP_SWITCHING           (SECONDARY(ENABLE_VMFUNC) && (V(VM_FUNCTION_CONTROLS) & 1) != 0)
#define PERF_GLOBAL_CTRL_KNOWN   c->caps->perf_global_ctrl

#define BASIC_32BIT_ADDRESSES     (1ull << 48)
#define BASIC_ANY_ERROR_CODE      (1ull << 56)
#define REVISION_MASK             0x7fffffffu
#define REVISION_SHADOW_INDICATOR (1u << 31)

// What is canonical depends on the linear addresses that the processor can have, not on those that the paging
// mode in the VMCS has.
static uint64_t sign_extend(uint64_t address, uint32_t shift)
{
    return (uint64_t)((int64_t)(address << shift) >> shift);
}

static bool allowed(const struct check_context *c, enum caps_word word, uint64_t value)
{
    return (value & ~(uint64_t)nvmx_caps_allowed1(c->caps, word)) == 0 &&
           (~value & nvmx_caps_allowed0(c->caps, word)) == 0;
}

static bool within(const struct check_context *c, uint64_t address)
{
    return address >> c->physical_width == 0;
}

// CR3 has flags above the address where the processor has linear-address masking.
static uint64_t cr3_flags(const struct check_context *c)
{
    return FEATURE(LAM) ? CR3_LAM : 0;
}

static bool cr3(const struct check_context *c, uint64_t value)
{
    return within(c, value) || within(c, value & ~cr3_flags(c));
}

static bool page(const struct check_context *c, uint64_t address)
{
    return (address & (PAGE_SIZE - 1)) == 0 && address >> c->structure_width == 0;
}

static bool msr_area(const struct check_context *c, uint64_t address, uint64_t count)
{
    return count == 0 || ((address & 15) == 0 && address >> c->structure_width == 0 &&
                          (address + (uint32_t)count * 16ull - 1) >> c->structure_width == 0);
}

static bool fixed(uint64_t value, uint64_t fixed0, uint64_t fixed1)
{
    return (value & fixed0) == fixed0 && (value & ~fixed1) == 0;
}

// An unrestricted guest may clear PE and PG.
static uint64_t guest_cr0_fixed0(const struct check_context *c)
{
    return c->cr0_fixed0 & ~(SECONDARY(UNRESTRICTED_GUEST) ? CR0_PE | CR0_PG : 0);
}

static bool pat(uint64_t value)
{
    for (unsigned i = 0; i < 8; i++) {
        uint8_t type = (uint8_t)(value >> (8 * i));
        if (type > 7 || type == 2 || type == 3)
            return false;
    }
    return true;
}

static bool granularity(uint64_t limit, uint64_t access_rights)
{
    bool g = (access_rights & SEGMENT_G) != 0;
    return g ? (limit & 0xfff) == 0xfff : (limit & 0xfff00000) == 0;
}

// Bits 7:4 of VTPR.
static uint64_t vtpr_class(const struct check_context *c)
{
    uint8_t vtpr;
    l1pa_t at = l1pa(V(VIRTUAL_APIC_ADDRESS) + 0x80);
    if (c->vcpu == NULL || !port_l1_read(c->vcpu, at, &vtpr, sizeof vtpr))
        vtpr = 0xff; // a hole reads as all ones
    return vtpr >> 4;
}

static bool tpr_threshold_above_vtpr(const struct check_context *c)
{
    return (V(TPR_THRESHOLD) & 0xf) > vtpr_class(c);
}

// Whether deliver-error-code is as the event has it.
static bool inject_error_code_fits(const struct check_context *c)
{
    static const uint32_t vectors = 1u << VECTOR_DF | 1u << VECTOR_TS | 1u << VECTOR_NP | 1u << VECTOR_SS |
                                    1u << VECTOR_GP | 1u << VECTOR_PF | 1u << VECTOR_AC;
    bool delivers = (INJECT_INFO & INTERRUPTION_ERROR_CODE) != 0;
    bool protected_mode = !SECONDARY(UNRESTRICTED_GUEST) || (V(GUEST_CR0) & CR0_PE) != 0;
    if (!protected_mode || INJECT_TYPE != EVENT_HARDWARE_EXCEPTION)
        return !delivers;
    bool has = INJECT_VECTOR < 32 && (vectors >> INJECT_VECTOR & 1) != 0;
    if (INJECT_VECTOR == VECTOR_CP)
        has = (c->cr4_fixed1 & CR4_CET) != 0;
    return c->any_error_code || delivers == has;
}

static bool inject_is_software(const struct check_context *c)
{
    return event_is_software(INJECT_TYPE);
}

static bool activity_accepts_injection(const struct check_context *c)
{
    uint32_t type = INJECT_TYPE, vector = INJECT_VECTOR;
    switch (V(GUEST_ACTIVITY_STATE)) {
    case ACTIVITY_ACTIVE:
        return true;
    case ACTIVITY_HLT:
        return type == EVENT_EXTERNAL_INTERRUPT || type == EVENT_NMI ||
               (type == EVENT_HARDWARE_EXCEPTION && (vector == VECTOR_DB || vector == 18)) ||
               (type == EVENT_OTHER && vector == 0);
    case ACTIVITY_SHUTDOWN:
        return type == EVENT_NMI || (type == EVENT_HARDWARE_EXCEPTION && vector == 18);
    default:
        return false;
    }
}

static bool pending_debug_wrong(const struct check_context *c)
{
    bool blocked = (V(GUEST_INTERRUPTIBILITY) & (INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS)) != 0 ||
                   V(GUEST_ACTIVITY_STATE) == ACTIVITY_HLT;
    if (!blocked)
        return false;
    bool bs = (V(GUEST_PENDING_DEBUG_EXCEPTIONS) & PENDING_DEBUG_BS) != 0;
    bool single_step = (V(GUEST_RFLAGS) & RFLAGS_TF) != 0 && (V(GUEST_IA32_DEBUGCTL) & DEBUGCTL_BTF) == 0;
    return bs != single_step;
}

// A debug exception in a transactional region is nothing but that.
static bool pending_debug_rtm_wrong(const struct check_context *c)
{
    uint64_t pending = V(GUEST_PENDING_DEBUG_EXCEPTIONS);
    if (!FEATURE(RTM) || (pending & PENDING_DEBUG_RTM) == 0)
        return false;
    return (pending & 0xffff) != PENDING_DEBUG_ENABLED ||
           (V(GUEST_INTERRUPTIBILITY) & INTERRUPTIBILITY_MOV_SS) != 0;
}

static bool link_pointer(const struct check_context *c)
{
    uint64_t pointer = V(VMCS_LINK_POINTER);
    if (!page(c, pointer) || c->vcpu == NULL)
        return page(c, pointer);
    uint32_t shadow = SECONDARY(VMCS_SHADOWING) ? REVISION_SHADOW_INDICATOR : 0, revision;
    return pointer != c->vcpu->vmcs12_pointer.value &&
           port_l1_read(c->vcpu, l1pa(pointer), &revision, sizeof revision) &&
           revision == (c->revision | shadow);
}

static bool pdpte_reserved(const struct check_context *c, uint64_t pdpte)
{
    return (pdpte & 1) != 0 && ((pdpte & PDPTE_RESERVED) != 0 || !within(c, pdpte));
}

static bool pdptes_reserved(const struct check_context *c, const uint64_t pdpte[4])
{
    return pdpte_reserved(c, pdpte[0]) || pdpte_reserved(c, pdpte[1]) || pdpte_reserved(c, pdpte[2]) ||
           pdpte_reserved(c, pdpte[3]);
}

bool check_ept_pointer(const struct nvmx_caps *caps, uint64_t physical_address_width, uint64_t ept_pointer)
{
    uint64_t ept_caps = caps->msr[MSR_IA32_VMX_EPT_VPID_CAP - CAPS_MSR_FIRST];
    uint64_t type = ept_pointer & 7, walk_length_minus_1 = (ept_pointer >> 3) & 7;
    bool type_ok = (type == 0 && (ept_caps & EPT_CAP_MEMORY_TYPE_UC) != 0) ||
                   (type == 6 && (ept_caps & EPT_CAP_MEMORY_TYPE_WB) != 0);
    bool walk_ok = (walk_length_minus_1 == 3 && (ept_caps & EPT_CAP_WALK_LENGTH_4) != 0) ||
                   (walk_length_minus_1 == 4 && (ept_caps & EPT_CAP_WALK_LENGTH_5) != 0);
    uint64_t reserved = 0xf00 | ((ept_caps & EPT_CAP_ACCESSED_DIRTY) == 0 ? 1ull << 6 : 0) |
                        ((ept_caps & EPT_CAP_SHADOW_STACK) == 0 ? 1ull << 7 : 0);
    return type_ok && walk_ok && (ept_pointer & reserved) == 0 && ept_pointer >> physical_address_width == 0;
}

// --- legal values near illegal ones
// -----------------------------------------------------------------------------------

#define PAT_AT_RESET 0x0007040600070406ull

static uint64_t width_mask(const struct check_context *c)
{
    return (1ull << c->physical_width) - 1;
}

static uint64_t nearest_allowed(const struct check_context *c, enum caps_word word, uint64_t value)
{
    return (value | nvmx_caps_allowed0(c->caps, word)) & nvmx_caps_allowed1(c->caps, word);
}

// Where an MSR area of that many entries ends within the width.
static uint64_t nearest_area(const struct check_context *c, uint64_t address, uint64_t count)
{
    uint64_t end = 1ull << c->structure_width, size = (uint32_t)count * 16ull;
    address &= (end - 1) & ~15ull;
    return size > end - address ? end - size : address;
}

static uint64_t nearest_limit(uint64_t limit, uint64_t access_rights)
{
    return (access_rights & SEGMENT_G) != 0 ? limit | 0xfff : limit & 0xfffff;
}

static uint64_t nearest_eptp(const struct check_context *c, uint64_t ept_pointer)
{
    uint64_t ept_caps = c->caps->msr[MSR_IA32_VMX_EPT_VPID_CAP - CAPS_MSR_FIRST];
    uint64_t type = (ept_caps & EPT_CAP_MEMORY_TYPE_WB) != 0 ? 6 : 0;
    return (ept_pointer & width_mask(c) & ~0xfffull) | 3 << 3 | type;
}

static uint64_t with_dpl(uint64_t access_rights, uint64_t dpl)
{
    return (access_rights & ~(3ull << SEGMENT_DPL_SHIFT)) | dpl << SEGMENT_DPL_SHIFT;
}

// --- the table
// ----------------------------------------------------------------------------------------------------

const struct check_rule check_rules[CHECK_COUNT] = {
#define CHECK(number, id, stage, field, qualification, section, message, broken, legal)                      \
    [CHECK_##id] = {#id, message, section, number, F_##field, STAGE_##stage, qualification},
#include <nvmx/checks.def>
#undef CHECK
};

static uint32_t linear_shift(const struct nvmx_caps *caps)
{
    return (caps->msr[MSR_IA32_VMX_CR4_FIXED1 - CAPS_MSR_FIRST] & CR4_LA57) != 0 ? 7 : 16;
}

static struct check_context context_make(const struct check_input *input)
{
    const uint64_t *msr = input->caps->msr, *field = input->field;
    return (struct check_context){
        .vcpu = input->vcpu,
        .field = field,
        .caps = input->caps,
        .misc = msr[MSR_IA32_VMX_MISC - CAPS_MSR_FIRST],
        .cr0_fixed0 = msr[MSR_IA32_VMX_CR0_FIXED0 - CAPS_MSR_FIRST],
        .cr0_fixed1 = msr[MSR_IA32_VMX_CR0_FIXED1 - CAPS_MSR_FIRST],
        .cr4_fixed0 = msr[MSR_IA32_VMX_CR4_FIXED0 - CAPS_MSR_FIRST],
        .cr4_fixed1 = msr[MSR_IA32_VMX_CR4_FIXED1 - CAPS_MSR_FIRST],
        .linear_shift = linear_shift(input->caps),
        .physical_width = input->physical_address_width,
        .secondary = (field[F_PRIMARY_CONTROLS] & PRIMARY_ACTIVATE_SECONDARY) != 0
                         ? (uint32_t)field[F_SECONDARY_CONTROLS]
                         : 0,
        .long_mode = input->long_mode,
        .pdpte = input->pdpte,
        .vm_functions = msr[MSR_IA32_VMX_VMFUNC - CAPS_MSR_FIRST],
        .structure_width = (msr[0] & BASIC_32BIT_ADDRESSES) != 0 ? 32 : input->physical_address_width,
        .revision = (uint32_t)msr[0] & REVISION_MASK,
        .any_error_code = (msr[0] & BASIC_ANY_ERROR_CODE) != 0,
    };
}

static void report_add(struct check_report *report, enum check_index index, uint64_t value, uint64_t legal)
{
    if (report->count < CHECK_REPORT_MAX)
        report->broken[report->count] =
            (struct check_broken){.index = (uint16_t)index, .value = value, .legal = legal};
    report->count++;
}

// Inlined with a constant stage, so that each call holds its own stage's rows only. of_field: F_COUNT, or the
// only rows that are wanted.
static inline __attribute__((always_inline)) void rows_check(const struct check_context *c,
                                                             enum check_stage in_stage,
                                                             enum vmcs_field of_field,
                                                             struct check_report *report)
{
#define CHECK(number, id, stage, field, qualification, section, message, broken, legal)                      \
    if (STAGE_##stage == in_stage && (of_field == F_COUNT || of_field == F_##field) &&                       \
        __builtin_expect(broken, 0))                                                                         \
        report_add(report, CHECK_##id, V(field), legal);
#include <nvmx/checks.def>
#undef CHECK
}

enum check_stage check_stages(const struct check_input *input, uint32_t stages, struct check_report *report)
{
    const struct check_context context = context_make(input);
    const uint32_t before = report->count;
#define APPLY(stage)                                                                                         \
    if ((stages & 1u << (stage)) != 0) {                                                                     \
        rows_check(&context, stage, F_COUNT, report);                                                        \
        if (report->count != before)                                                                         \
            return stage;                                                                                    \
    }
    APPLY(STAGE_CONTROLS)
    APPLY(STAGE_CONTROLS_HOT)
    APPLY(STAGE_HOST)
    APPLY(STAGE_GUEST)
    APPLY(STAGE_GUEST_HOT)
#undef APPLY
    return STAGE_COUNT;
}

void check_stage(const struct check_input *input, enum check_stage stage, struct check_report *report)
{
    check_stages(input, 1u << stage, report);
}

bool check_rip(const struct check_input *input, struct check_report *report)
{
    // All that these few rows look at: to make the whole context would cost several times what they do.
    const struct check_context context = {.field = input->field, .linear_shift = linear_shift(input->caps)};
    const uint32_t before = report->count;
    rows_check(&context, STAGE_GUEST_HOT, F_GUEST_RIP, report);
    return report->count == before;
}
