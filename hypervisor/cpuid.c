// SPDX-License-Identifier: MIT
// L1's CPUID: the processor's answer, as far as L1 is offered it (cpuid.def), and L0's own leaves. The most
// frequent exit of many an L1, so there is nothing here that a leaf does not need.
#include "cpuid.h"

#include "string.h"
#include "xstate.h"

#include <silicon/x86.h>

#define LEAF_FEATURES        1u
#define LEAF_MORE_FEATURES   7u
#define LEAF_XSAVE           0xdu
#define LEAF_ADDRESS_SIZES   0x80000008u
#define HYPERVISOR_RANGE_END 0x40010000u
#define INTERFACE_VERSION    1u

#define FEATURES_ECX_HYPERVISOR (1u << 31)
#define XSAVE_FEATURES          0x1fu // XSAVEOPT, XSAVEC, XGETBV with ECX = 1, XSAVES, XFD
#define LINEAR_WIDTH_MAX        48u

static uint32_t hypervisor_range = HYPERVISOR_RANGE_END - CPUID_HYPERVISOR_FIRST; // 0: hidden
static bool announced;

static bool name_is(const char *text, const char *name)
{
    size_t length = strlen(name);
    return string_starts_with(text, name) && (text[length] == '\0' || text[length] == ' ');
}

bool cpuid_select(const char *name)
{
    announced = name_is(name, "announced");
    hypervisor_range = name_is(name, "hidden") ? 0 : HYPERVISOR_RANGE_END - CPUID_HYPERVISOR_FIRST;
    return announced || hypervisor_range == 0 || name_is(name, "leaves");
}

static uint32_t low(uint64_t value)
{
    return (uint32_t)value;
}

static uint32_t high(uint64_t value)
{
    return (uint32_t)(value >> 32);
}

// 16 bytes of text from `start` on; beyond its end, zeros.
static struct nvmx_cpuid text_piece(const char *text, size_t length, size_t start)
{
    char piece[sizeof(struct nvmx_cpuid)] = {0};
    struct nvmx_cpuid result;
    for (size_t i = 0; i < sizeof(piece) && start + i < length; i++)
        piece[i] = text[start + i];
    memcpy(&result, piece, sizeof(result));
    return result;
}

// What a processor reports when this stage's checks fail: a VM-instruction error, or an exit reason.
static uint32_t stage_outcome(uint8_t stage)
{
    return stage == STAGE_CONTROLS || stage == STAGE_CONTROLS_HOT ? 7 : stage == STAGE_HOST ? 8 : 33;
}

static uint32_t kept_count(const struct check_report *report)
{
    return report->count < CHECK_REPORT_MAX ? report->count : CHECK_REPORT_MAX;
}

// Subleaf: bits 15:0, which rule of the report; bits 31:16, which 16 bytes of its sentence.
static struct nvmx_cpuid broken_rule_leaf(const struct check_report *report, uint32_t leaf, uint32_t subleaf)
{
    char text[CHECK_DESCRIPTION_MAX];
    uint32_t index = subleaf & 0xffff;
    if (index >= kept_count(report))
        return (struct nvmx_cpuid){0};
    const struct check_broken *broken = &report->broken[index];
    const struct check_rule *rule = &check_rules[broken->index];
    if (leaf == CPUID_BROKEN_RULE)
        return (struct nvmx_cpuid){.eax = rule->number | stage_outcome(rule->stage) << 16,
                                   .ebx = vmcs_field_encoding((enum vmcs_field)rule->field),
                                   .ecx = low(broken->value),
                                   .edx = high(broken->value)};
    size_t length = check_describe(broken, text, sizeof(text));
    if (leaf == CPUID_BROKEN_RULE_LEGAL)
        return (struct nvmx_cpuid){
            .eax = low(broken->legal), .ebx = high(broken->legal), .ecx = (uint32_t)length};
    return text_piece(text, length, (size_t)(subleaf >> 16) * sizeof(struct nvmx_cpuid));
}

static struct nvmx_cpuid hypervisor_leaf(const struct vcpu *vcpu, uint32_t leaf, uint32_t subleaf)
{
    const struct check_report *report = &vcpu->nvmx.failed_entry;
    struct nvmx_cpuid result = {0};
    switch (leaf) {
    case CPUID_HYPERVISOR_FIRST:
        result.eax = CPUID_HYPERVISOR_LAST;
        memcpy(&result.ebx, CPUID_HYPERVISOR_SIGNATURE, 4);
        memcpy(&result.ecx, CPUID_HYPERVISOR_SIGNATURE + 4, 4);
        memcpy(&result.edx, CPUID_HYPERVISOR_SIGNATURE + 8, 4);
        break;
    case CPUID_HYPERVISOR_VERSION:
        result.eax = INTERFACE_VERSION;
        break;
    case CPUID_FAILED_ENTRY:
        result.eax = report->count;
        result.ebx = kept_count(report);
        result.ecx = low(vcpu->nvmx.failed_entry_count);
        break;
    case CPUID_BROKEN_RULE:
    case CPUID_BROKEN_RULE_LEGAL:
    case CPUID_BROKEN_RULE_TEXT:
        return broken_rule_leaf(report, leaf, subleaf);
    default:
        break;
    }
    return result;
}

// What L1 is offered of a leaf: cpuid.def.
#define SUBLEAVES_MAX 3u
struct leaf_offer {
    uint8_t subleaves; // 0: it has none; ANY: all are alike
    uint32_t mask[SUBLEAVES_MAX][4];
};

enum cpuid_register { EAX, EBX, ECX, EDX };
enum cpuid_policy { HIDDEN, OFFERED, OWN };
#define ANY            0xffu
#define BITS           0u
#define EXTENDED_FIRST 0x80000000u
#define BASIC_COUNT    0x25u
#define EXTENDED_COUNT 9u

static struct leaf_offer basic[BASIC_COUNT], extended[EXTENDED_COUNT];
static uint32_t highest_basic;

static struct leaf_offer *offer_of(uint32_t leaf)
{
    return leaf >= EXTENDED_FIRST ? &extended[leaf - EXTENDED_FIRST] : &basic[leaf];
}

void cpuid_init(void)
{
#define CPUID_LEAF(leaf, subleaves_, eax, ebx, ecx, edx, text)                                               \
    *offer_of(leaf) = (struct leaf_offer){.subleaves = (subleaves_), .mask[0] = {eax, ebx, ecx, edx}};
#define CPUID_BIT(leaf, subleaf, register, bit, name, policy, text)                                          \
    offer_of(leaf)->mask[subleaf][register] |= (policy) == HIDDEN ? 0 : 1u << (bit);
#include "cpuid.def"
#undef CPUID_LEAF
#undef CPUID_BIT
    uint32_t highest = x86_cpuid(0, 0).eax;
    highest_basic = highest < BASIC_COUNT ? highest : BASIC_COUNT - 1;
}

static uint32_t lower(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

// Bytes that all state components of `components` take in the standard form.
static uint32_t xsave_size(uint64_t components)
{
    uint32_t size = 576; // legacy region and header
    for (uint32_t i = 2; i < 63; i++) {
        if ((components >> i & 1) == 0)
            continue;
        struct x86_cpuid component = x86_cpuid(LEAF_XSAVE, i);
        if (component.ebx + component.eax > size)
            size = component.ebx + component.eax;
    }
    return size;
}

static void adjust_xsave(uint32_t subleaf, struct nvmx_cpuid *result)
{
    uint64_t xcr0 = xstate_offered(XSTATE_XCR0), xss = xstate_offered(XSTATE_XSS);
    if (subleaf == 0) {
        uint64_t all = (uint64_t)result->edx << 32 | result->eax;
        if ((all & ~xcr0) != 0)
            result->ecx = xsave_size(all & xcr0);
        result->eax &= low(xcr0);
        result->edx &= high(xcr0);
    } else if (subleaf == 1) {
        result->eax &= XSAVE_FEATURES;
        result->ecx &= low(xss);
        result->edx &= high(xss);
    } else if (subleaf >= 63 || ((xcr0 | xss) >> subleaf & 1) == 0) {
        *result = (struct nvmx_cpuid){0};
    }
}

static void adjust(struct vcpu *vcpu, uint32_t leaf, uint32_t subleaf, const struct x86_cpuid *processor,
                   struct nvmx_cpuid *result)
{
    nvmx_cpuid_adjust(&vcpu->nvmx, leaf, subleaf, result);
    switch (leaf) {
    case 0:
        result->eax = highest_basic;
        break;
    case LEAF_FEATURES:
        // Otherwise the bit is the processor's: an L1 that finds it takes other ways than on a bare machine.
        if (announced)
            result->ecx |= FEATURES_ECX_HYPERVISOR;
        break;
    case LEAF_MORE_FEATURES:
        if (subleaf == 0)
            result->eax = lower(processor->eax, SUBLEAVES_MAX - 1);
        break;
    case LEAF_XSAVE:
        adjust_xsave(subleaf, result);
        break;
    case EXTENDED_FIRST:
        result->eax = lower(result->eax, EXTENDED_FIRST + EXTENDED_COUNT - 1);
        break;
    case LEAF_ADDRESS_SIZES:
        result->eax = (result->eax & 0xff0000) | lower(result->eax >> 8 & 0xff, LINEAR_WIDTH_MAX) << 8 |
                      (uint32_t)vcpu->nvmx.config.l1_physical_address_width;
        break;
    default:
        break;
    }
}

static struct nvmx_cpuid processor_leaf(struct vcpu *vcpu, uint32_t leaf, uint32_t subleaf)
{
    if (leaf - EXTENDED_FIRST >= EXTENDED_COUNT && leaf > highest_basic)
        leaf = highest_basic; // the manual: what is beyond the highest leaves is as the highest basic one
    const struct leaf_offer *offer = offer_of(leaf);
    bool has_subleaves = offer->subleaves != 0 && offer->subleaves != ANY;
    if (has_subleaves && subleaf >= offer->subleaves)
        return (struct nvmx_cpuid){0};
    const uint32_t *mask = offer->mask[has_subleaves ? subleaf : 0];
    struct x86_cpuid processor = x86_cpuid(leaf, subleaf);
    struct nvmx_cpuid result = {processor.eax & mask[EAX], processor.ebx & mask[EBX],
                                processor.ecx & mask[ECX], processor.edx & mask[EDX]};
    adjust(vcpu, leaf, subleaf, &processor, &result);
    return result;
}

void cpuid_handle_exit(struct vcpu *vcpu)
{
    uint64_t *gpr = vcpu->nvmx.regs.gpr;
    uint32_t leaf = (uint32_t)gpr[GPR_RAX], subleaf = (uint32_t)gpr[GPR_RCX];
    struct nvmx_cpuid result = leaf - CPUID_HYPERVISOR_FIRST < hypervisor_range
                                   ? hypervisor_leaf(vcpu, leaf, subleaf)
                                   : processor_leaf(vcpu, leaf, subleaf);
    gpr[GPR_RAX] = result.eax;
    gpr[GPR_RBX] = result.ebx;
    gpr[GPR_RCX] = result.ecx;
    gpr[GPR_RDX] = result.edx;
    nvmx_skip_instruction(&vcpu->nvmx);
}
