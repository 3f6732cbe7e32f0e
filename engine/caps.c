// SPDX-License-Identifier: MIT
// Capability MSRs: the processor's, L1's, and what L0 cannot do without.
#include "engine.h"
#include "field.h"

static uint64_t caps_msr(const struct nvmx_caps *caps, uint32_t msr)
{
    return caps->msr[msr - CAPS_MSR_FIRST];
}

void nvmx_caps_read(struct hw_cpu *cpu, struct nvmx_caps *hardware)
{
    for (unsigned i = 0; i < CAPS_MSR_COUNT; i++)
        if (!hw_rdmsr(cpu, CAPS_MSR_FIRST + i, &hardware->msr[i]))
            hardware->msr[i] = 0;
    hardware->features = 0;
    hardware->perf_global_ctrl = 0;
}

// Architectural Performance Monitoring: general-purpose counters in bits 31:0, fixed ones from 32 on, and bit
// 48 for the metrics.
static uint64_t caps_counters(const struct nvmx_cpuid_words *cpuid)
{
    uint32_t version = cpuid->leaf_a_eax & 0xff, count = cpuid->leaf_a_eax >> 8 & 0xff;
    uint32_t fixed_count = cpuid->leaf_a_edx & 0x1f;
    if (version < 2)
        return 0;
    uint64_t general = count >= 32 ? 0xffffffff : (1ull << count) - 1;
    uint64_t fixed = ((1ull << fixed_count) - 1) | (version >= 5 ? cpuid->leaf_a_ecx : 0);
    uint64_t metrics = (cpuid->perf_capabilities >> 15 & 1) << 48;
    return general | (fixed & 0xffff) << 32 | metrics;
}

void nvmx_caps_take_cpuid(struct nvmx_caps *caps, const struct nvmx_cpuid_words *cpuid)
{
    caps->features = ((cpuid->leaf_7_ebx >> 2 & 1) != 0 ? FEATURE_SGX : 0) |
                     ((cpuid->leaf_7_ebx >> 11 & 1) != 0 ? FEATURE_RTM : 0) |
                     ((cpuid->leaf_7_ecx >> 24 & 1) != 0 ? FEATURE_BUS_LOCK_DETECTION : 0) |
                     ((cpuid->leaf_7_1_eax >> 26 & 1) != 0 ? FEATURE_LAM : 0);
    caps->perf_global_ctrl = caps_counters(cpuid);
}

#define BASIC_TRUE_CONTROLS (1ull << 55)

// Where the word's capability MSR is: plain and TRUE. Secondary controls have one only.
static uint64_t caps_control(const struct nvmx_caps *caps, enum caps_word word, bool want_true)
{
    static const uint16_t plain[] = {MSR_IA32_VMX_PINBASED_CTLS, MSR_IA32_VMX_PROCBASED_CTLS,
                                     MSR_IA32_VMX_PROCBASED_CTLS2, MSR_IA32_VMX_EXIT_CTLS,
                                     MSR_IA32_VMX_ENTRY_CTLS};
    static const uint16_t with_true[] = {MSR_IA32_VMX_TRUE_PINBASED_CTLS, MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
                                         MSR_IA32_VMX_PROCBASED_CTLS2, MSR_IA32_VMX_TRUE_EXIT_CTLS,
                                         MSR_IA32_VMX_TRUE_ENTRY_CTLS};
    bool has_true = (caps_msr(caps, MSR_IA32_VMX_BASIC) & BASIC_TRUE_CONTROLS) != 0;
    return caps_msr(caps, has_true && want_true ? with_true[word] : plain[word]);
}

uint32_t nvmx_caps_allowed1(const struct nvmx_caps *caps, enum caps_word word)
{
    return (uint32_t)(caps_control(caps, word, true) >> 32);
}

uint32_t nvmx_caps_allowed0(const struct nvmx_caps *caps, enum caps_word word)
{
    return (uint32_t)caps_control(caps, word, true);
}

// What controls.def says about a control: how it is offered, and what L1 must be offered for it to be.
enum control_offer { OFFERED, WITH_WRITABLE_INFORMATION, NOT_OFFERED };
struct control_row {
    uint8_t word, offer; // the enums
    uint32_t bit, needs[CAPS_WORD_COUNT];
};
#define NOTHING             .needs = {0}
#define NEEDS(word, bits)   .needs = {[CAPS_##word] = (bits)}
#define NEEDS_2(a, x, b, y) .needs = {[CAPS_##a] = (x), [CAPS_##b] = (y)}
static const struct control_row control_rows[] = {
#define CONTROL(word_, number, name, offer_, needs_, scenario, guest_case, text)                             \
    {.word = CAPS_##word_, .bit = 1u << (number), .offer = (offer_), needs_},
#include <nvmx/controls.def>
#undef CONTROL
};
#define CONTROL_COUNT (sizeof control_rows / sizeof control_rows[0])
#define CONTROL(word, number, name, offer, needs, scenario, guest_case, text)                                \
    _Static_assert(word##_##name == 1u << (number), #word "_" #name ": controls.h against controls.def");
#include <nvmx/controls.def>
#undef CONTROL

// The controls that L1 may set, by word: those offered that the processor has, less what needs one that L1
// has not got.
static void caps_offered_controls(const struct nvmx_caps *hardware, uint32_t allowed1[CAPS_WORD_COUNT])
{
    for (unsigned word = 0; word < CAPS_WORD_COUNT; word++)
        allowed1[word] = 0;
    bool writable = (caps_msr(hardware, MSR_IA32_VMX_MISC) & MISC_VMWRITE_ANY_FIELD) != 0;
    for (unsigned i = 0; i < CONTROL_COUNT; i++)
        if (control_rows[i].offer == OFFERED ||
            (control_rows[i].offer == WITH_WRITABLE_INFORMATION && writable))
            allowed1[control_rows[i].word] |=
                control_rows[i].bit & nvmx_caps_allowed1(hardware, (enum caps_word)control_rows[i].word);
    bool changed = true;
    while (changed) {
        changed = false;
        for (unsigned i = 0; i < CONTROL_COUNT; i++) {
            const struct control_row *row = &control_rows[i];
            bool missing = false;
            for (unsigned word = 0; word < CAPS_WORD_COUNT; word++)
                missing |= (row->needs[word] & ~allowed1[word]) != 0;
            if (missing && (allowed1[row->word] & row->bit) != 0) {
                allowed1[row->word] &= ~row->bit;
                changed = true;
            }
        }
    }
}

static void caps_offer_controls(struct nvmx_caps *offered, uint32_t msr, uint32_t allowed1)
{
    uint64_t *value = &offered->msr[msr - CAPS_MSR_FIRST];
    uint32_t must = (uint32_t)*value;
    *value = (uint64_t)((*value >> 32) & (allowed1 | must)) << 32 | must;
}

// Highest index of a field that L1 has, in bits 9:1 (VMCS Enumeration).
static uint64_t caps_vmcs_enum(const struct nvmx_caps *offered)
{
    struct field_set existing = field_set_existing(offered);
    uint32_t highest = 0;
    FIELD_SET_FOR_EACH(field, existing)
    {
        uint32_t index = vmcs_encoding_index(field_table[field].encoding);
        highest = index > highest ? index : highest;
    }
    return (uint64_t)highest << 1;
}

// The bits of CR4 that L1 may set where the processor has them.
static uint64_t caps_cr4_understood(void)
{
    enum { CR4_OFFERED = 1, CR4_HIDDEN = 0 };
    return 0
#define CR4_BIT(number, name, policy, text) | (uint64_t)CR4_##policy << (number)
#include <nvmx/cr4.def>
#undef CR4_BIT
        ;
}

void nvmx_caps_offer(const struct nvmx_caps *hardware, struct nvmx_caps *offered)
{
    uint32_t allowed1[CAPS_WORD_COUNT];
    caps_offered_controls(hardware, allowed1);
    if ((caps_msr(hardware, MSR_IA32_VMX_EPT_VPID_CAP) & EPT_CAP_ACCESSED_DIRTY) ==
        0) // there is nothing to log
        allowed1[CAPS_SECONDARY] &= ~SECONDARY_ENABLE_PML;
    *offered = *hardware;
    offered->features = 0;
    offered->msr[MSR_IA32_VMX_CR4_FIXED1 - CAPS_MSR_FIRST] &= caps_cr4_understood();
    uint64_t basic = caps_msr(hardware, MSR_IA32_VMX_BASIC);
    // Our revision and a region of one page, write-back; bit 48 (32-bit addresses) stays 0. Bits 54 (INS/OUTS
    // information) and 55 (TRUE MSRs) are the processor's.
    offered->msr[0] = (uint64_t)VMCS12_REVISION | PAGE_SIZE << 32 | 6ull << 50 | (basic & (3ull << 54));
    caps_offer_controls(offered, MSR_IA32_VMX_PINBASED_CTLS, allowed1[CAPS_PIN]);
    caps_offer_controls(offered, MSR_IA32_VMX_PROCBASED_CTLS, allowed1[CAPS_PRIMARY]);
    caps_offer_controls(offered, MSR_IA32_VMX_PROCBASED_CTLS2, allowed1[CAPS_SECONDARY]);
    caps_offer_controls(offered, MSR_IA32_VMX_EXIT_CTLS, allowed1[CAPS_EXIT]);
    caps_offer_controls(offered, MSR_IA32_VMX_ENTRY_CTLS, allowed1[CAPS_ENTRY]);
    caps_offer_controls(offered, MSR_IA32_VMX_TRUE_PINBASED_CTLS, allowed1[CAPS_PIN]);
    caps_offer_controls(offered, MSR_IA32_VMX_TRUE_PROCBASED_CTLS, allowed1[CAPS_PRIMARY]);
    caps_offer_controls(offered, MSR_IA32_VMX_TRUE_EXIT_CTLS, allowed1[CAPS_EXIT]);
    caps_offer_controls(offered, MSR_IA32_VMX_TRUE_ENTRY_CTLS, allowed1[CAPS_ENTRY]);

    // Preemption-timer rate, LMA stored, activity states, CR3 targets, MSR-list maximum, VMWRITE to any
    // field, injection with length 0. Not: processor trace, dual-monitor treatment.
    offered->msr[MSR_IA32_VMX_MISC - CAPS_MSR_FIRST] =
        caps_msr(hardware, MSR_IA32_VMX_MISC) & (0x1ffull | 0x1ffull << MISC_CR3_TARGET_SHIFT | 7ull << 25 |
                                                 MISC_VMWRITE_ANY_FIELD | MISC_INJECT_LENGTH_0);
    uint32_t secondary = nvmx_caps_allowed1(offered, CAPS_SECONDARY);
    uint64_t ept = EPT_CAP_EXECUTE_ONLY | EPT_CAP_WALK_LENGTH_4 | EPT_CAP_MEMORY_TYPE_UC |
                   EPT_CAP_MEMORY_TYPE_WB | EPT_CAP_PAGE_2M | EPT_CAP_PAGE_1G | EPT_CAP_INVEPT |
                   EPT_CAP_INVEPT_SINGLE | EPT_CAP_INVEPT_ALL | EPT_CAP_ACCESSED_DIRTY |
                   EPT_CAP_ADVANCED_EXIT_INFO;
    uint64_t vpid =
        VPID_CAP_INVVPID | VPID_CAP_INDIVIDUAL | VPID_CAP_SINGLE | VPID_CAP_ALL | VPID_CAP_SINGLE_RETAINING;
    offered->msr[MSR_IA32_VMX_EPT_VPID_CAP - CAPS_MSR_FIRST] &=
        ((secondary & SECONDARY_ENABLE_EPT) ? ept : 0) | ((secondary & SECONDARY_ENABLE_VPID) ? vpid : 0);
    offered->msr[MSR_IA32_VMX_VMFUNC - CAPS_MSR_FIRST] &=
        (secondary & SECONDARY_ENABLE_VMFUNC) ? VMFUNC_EPTP_SWITCHING : 0;
    offered->msr[MSR_IA32_VMX_VMCS_ENUM - CAPS_MSR_FIRST] = caps_vmcs_enum(offered);
}

const char *nvmx_caps_missing_for_l0(const struct nvmx_caps *hardware)
{
    static const struct {
        enum caps_word word;
        uint32_t bit;
        const char *name;
    } needed[] = {
        {CAPS_PRIMARY, PRIMARY_ACTIVATE_SECONDARY, "activate secondary controls"},
        {CAPS_PRIMARY, PRIMARY_USE_MSR_BITMAPS, "use MSR bitmaps"},
        {CAPS_PRIMARY, PRIMARY_USE_IO_BITMAPS, "use I/O bitmaps"},
        {CAPS_SECONDARY, SECONDARY_ENABLE_EPT, "enable EPT"},
        {CAPS_SECONDARY, SECONDARY_UNRESTRICTED_GUEST, "unrestricted guest"},
        {CAPS_EXIT, EXIT_HOST_ADDRESS_SPACE_SIZE, "host address-space size"},
        {CAPS_EXIT, EXIT_SAVE_PAT, "save IA32_PAT"},
        {CAPS_EXIT, EXIT_LOAD_PAT, "load IA32_PAT (VM exit)"},
        {CAPS_EXIT, EXIT_SAVE_EFER, "save IA32_EFER"},
        {CAPS_EXIT, EXIT_LOAD_EFER, "load IA32_EFER (VM exit)"},
        {CAPS_ENTRY, ENTRY_IA32E_MODE_GUEST, "IA-32e mode guest"},
        {CAPS_ENTRY, ENTRY_LOAD_PAT, "load IA32_PAT (VM entry)"},
        {CAPS_ENTRY, ENTRY_LOAD_EFER, "load IA32_EFER (VM entry)"},
    };
    static const struct {
        uint64_t bit;
        const char *name;
    } needed_ept[] = {
        {EPT_CAP_WALK_LENGTH_4, "EPT page-walk length 4"},
        {EPT_CAP_MEMORY_TYPE_WB, "write-back EPT paging structures"},
        {EPT_CAP_PAGE_2M, "2-MByte EPT pages"},
        {EPT_CAP_INVEPT, "INVEPT"},
        {EPT_CAP_INVEPT_SINGLE, "single-context INVEPT"},
    };
    uint64_t ept = caps_msr(hardware, MSR_IA32_VMX_EPT_VPID_CAP);
    for (unsigned i = 0; i < sizeof needed / sizeof needed[0]; i++)
        if ((nvmx_caps_allowed1(hardware, needed[i].word) & needed[i].bit) == 0)
            return needed[i].name;
    for (unsigned i = 0; i < sizeof needed_ept / sizeof needed_ept[0]; i++)
        if ((ept & needed_ept[i].bit) == 0)
            return needed_ept[i].name;
    return NULL;
}

enum nvmx_msr_result nvmx_rdmsr(struct nvmx_vcpu *vcpu, uint32_t msr, uint64_t *value)
{
    if (msr == MSR_IA32_FEATURE_CONTROL) {
        *value = vcpu->config.feature_control;
        return NVMX_MSR_OK;
    }
    if (msr < CAPS_MSR_FIRST || msr >= CAPS_MSR_FIRST + CAPS_MSR_COUNT)
        return NVMX_MSR_NOT_MINE;
    const struct nvmx_caps *offered = vcpu->config.offered;
    bool has_true = (offered->msr[0] & BASIC_TRUE_CONTROLS) != 0;
    uint32_t secondary = nvmx_caps_allowed1(offered, CAPS_SECONDARY);
    if ((msr == MSR_IA32_VMX_PROCBASED_CTLS2 && secondary == 0) ||
        (msr == MSR_IA32_VMX_EPT_VPID_CAP &&
         (secondary & (SECONDARY_ENABLE_EPT | SECONDARY_ENABLE_VPID)) == 0) ||
        (msr >= MSR_IA32_VMX_TRUE_PINBASED_CTLS && msr <= MSR_IA32_VMX_TRUE_ENTRY_CTLS && !has_true) ||
        (msr == MSR_IA32_VMX_VMFUNC && (secondary & SECONDARY_ENABLE_VMFUNC) == 0))
        return NVMX_MSR_GP;
    *value = caps_msr(offered, msr);
    return NVMX_MSR_OK;
}

enum nvmx_msr_result nvmx_wrmsr(struct nvmx_vcpu *vcpu, uint32_t msr, uint64_t value)
{
    if (msr >= CAPS_MSR_FIRST && msr < CAPS_MSR_FIRST + CAPS_MSR_COUNT)
        return NVMX_MSR_GP;
    if (msr != MSR_IA32_FEATURE_CONTROL)
        return NVMX_MSR_NOT_MINE;
    uint64_t *control = &vcpu->config.feature_control;
    if ((*control & FEATURE_CONTROL_LOCKED) != 0 ||
        (value & ~(FEATURE_CONTROL_LOCKED | FEATURE_CONTROL_VMX_OUTSIDE_SMX)) != 0)
        return NVMX_MSR_GP;
    *control = value;
    return NVMX_MSR_OK;
}
