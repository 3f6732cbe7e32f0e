// SPDX-License-Identifier: MIT
// L1's CPUID: the processor's answer, as far as it is true of L1, and L0's own leaves. The most frequent exit
// of many an L1, so there is nothing here that a leaf does not need.
#include "cpuid.h"

#include "string.h"

#include <silicon/x86.h>

#define LEAF_FEATURES        1u
#define LEAF_ADDRESS_SIZES   0x80000008u
#define HYPERVISOR_RANGE_END 0x40010000u
#define INTERFACE_VERSION    1u

#define FEATURES_ECX_SMX        (1u << 6)
#define FEATURES_ECX_HYPERVISOR (1u << 31)

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

static struct nvmx_cpuid processor_leaf(struct vcpu *vcpu, uint32_t leaf, uint32_t subleaf)
{
    struct x86_cpuid processor = x86_cpuid(leaf, subleaf);
    struct nvmx_cpuid result = {processor.eax, processor.ebx, processor.ecx, processor.edx};
    nvmx_cpuid_adjust(&vcpu->nvmx, leaf, subleaf, &result);
    if (leaf == LEAF_FEATURES) {
        // Otherwise the bit is the processor's: an L1 that finds it takes other ways than on a bare machine.
        if (announced)
            result.ecx |= FEATURES_ECX_HYPERVISOR;
        result.ecx &= ~FEATURES_ECX_SMX; // GETSEC is not for L1
    } else if (leaf == LEAF_ADDRESS_SIZES) {
        result.eax = (result.eax & ~0xffu) | (uint32_t)vcpu->nvmx.config.l1_physical_address_width;
    }
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
