// SPDX-License-Identifier: MIT
// L1's VMX instructions: privilege, mode and operand rules, and what each does to L1's VMX operation.
// Manual: VMX Instruction Reference.
#include "engine.h"

#define ARITHMETIC_FLAGS (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF)

static void instruction_end(struct nvmx_vcpu *vcpu, uint64_t flag)
{
    uint64_t rflags = vmcs_read(vcpu, F_GUEST_RFLAGS);
    uint64_t result = (rflags & ~ARITHMETIC_FLAGS) | flag;
    if (result != rflags)
        vmcs_write(vcpu, F_GUEST_RFLAGS, result);
    nvmx_skip_instruction(vcpu);
}

void instruction_succeed(struct nvmx_vcpu *vcpu)
{
    instruction_end(vcpu, 0);
}

void instruction_fail_invalid(struct nvmx_vcpu *vcpu)
{
    instruction_end(vcpu, RFLAGS_CF);
}

void instruction_fail(struct nvmx_vcpu *vcpu, uint32_t error)
{
    if (vcpu->vmcs12_pointer.value == NO_VMCS12) {
        instruction_fail_invalid(vcpu);
        return;
    }
    vcpu->vmcs12.field[F_VM_INSTRUCTION_ERROR] = error;
    instruction_end(vcpu, RFLAGS_ZF);
}

// A 64-bit address operand in memory (VMXON, VMCLEAR, VMPTRLD).
static enum access_result operand_read_pointer(struct nvmx_vcpu *vcpu, l1pa_t *pointer)
{
    struct operand operand;
    if (l1_operand_decode(vcpu, sizeof *pointer, false, &operand) != ACCESS_OK)
        return ACCESS_FAULT;
    return l1_linear_read(vcpu, operand.linear_address, &pointer->value, sizeof pointer->value);
}

static bool pointer_is_valid(const struct nvmx_vcpu *vcpu, l1pa_t pointer)
{
    return (pointer.value & (PAGE_SIZE - 1)) == 0 &&
           pointer.value >> vcpu->config.l1_physical_address_width == 0;
}

// `but_for`: bits that do not matter.
static bool region_has_revision(struct nvmx_vcpu *vcpu, l1pa_t region, uint32_t but_for)
{
    uint32_t revision;
    return port_l1_read(vcpu, region, &revision, sizeof revision) && (revision & ~but_for) == VMCS12_REVISION;
}

// CR0 and CR4 as L1 sees them have a value that VMX operation allows.
static bool control_registers_fit(struct nvmx_vcpu *vcpu)
{
    const uint64_t *caps = vcpu->config.offered->msr;
    uint64_t cr0 = l1_cr0(vcpu), cr4 = l1_cr4(vcpu);
    uint64_t cr0_fixed0 = caps[MSR_IA32_VMX_CR0_FIXED0 - CAPS_MSR_FIRST];
    uint64_t cr0_fixed1 = caps[MSR_IA32_VMX_CR0_FIXED1 - CAPS_MSR_FIRST];
    uint64_t cr4_fixed0 = caps[MSR_IA32_VMX_CR4_FIXED0 - CAPS_MSR_FIRST];
    uint64_t cr4_fixed1 = caps[MSR_IA32_VMX_CR4_FIXED1 - CAPS_MSR_FIRST];
    return (cr0 & cr0_fixed0) == cr0_fixed0 && (cr0 & ~cr0_fixed1) == 0 && (cr4 & cr4_fixed0) == cr4_fixed0 &&
           (cr4 & ~cr4_fixed1) == 0;
}

uint32_t l1_cpl(struct nvmx_vcpu *vcpu)
{
    return (uint32_t)vmcs_read(vcpu, F_GUEST_SS_ACCESS_RIGHTS) >> SEGMENT_DPL_SHIFT & 3;
}

void l1_begin_vmx(struct nvmx_vcpu *vcpu, l1pa_t region)
{
    vcpu->vmxon_pointer = region;
    vcpu->vmcs12_pointer = l1pa(NO_VMCS12);
    vcpu->vmcs02.constant_written = false;
    vcpu->vmcs02.host_cpu = NULL;
    vcpu->vmcs02.written_known = (struct field_set){{0}};
    vpid02_init(vcpu); // every tag is flushed before L2 runs under it
    l1_cr_update_masks(vcpu, true);
}

static void handle_vmxon(struct nvmx_vcpu *vcpu)
{
    uint64_t enable = FEATURE_CONTROL_LOCKED | FEATURE_CONTROL_VMX_OUTSIDE_SMX;
    if (vcpu->vmxon) { // before the operand is looked at
        instruction_fail(vcpu, VMERR_VMXON_IN_ROOT);
        return;
    }
    if ((vcpu->config.feature_control & enable) != enable || !control_registers_fit(vcpu)) {
        nvmx_raise(vcpu, VECTOR_GP, true, 0);
        return;
    }
    l1pa_t region;
    if (operand_read_pointer(vcpu, &region) != ACCESS_OK)
        return;
    if (!pointer_is_valid(vcpu, region) || !region_has_revision(vcpu, region, 0)) {
        instruction_fail_invalid(vcpu);
        return;
    }
    l1_begin_vmx(vcpu, region);
    instruction_succeed(vcpu);
}

static void handle_vmxoff(struct nvmx_vcpu *vcpu)
{
    vmcs12_store(vcpu);
    vmcs_clear(&vcpu->vmcs02);
    bitmaps_reset(vcpu);
    shadow_detach(vcpu);
    ept02_drop_all(vcpu); // the manual lets cached translations outlive VMXOFF; few L1s expect them to
    vcpu->vmcs12_pointer = l1pa(NO_VMCS12);
    l1_cr_update_masks(vcpu, false);
    instruction_succeed(vcpu);
}

static void handle_vmclear(struct nvmx_vcpu *vcpu)
{
    l1pa_t region;
    if (operand_read_pointer(vcpu, &region) != ACCESS_OK)
        return;
    if (!pointer_is_valid(vcpu, region)) {
        instruction_fail(vcpu, VMERR_VMCLEAR_ADDRESS);
        return;
    }
    if (region.value == vcpu->vmxon_pointer.value) {
        instruction_fail(vcpu, VMERR_VMCLEAR_VMXON_POINTER);
        return;
    }
    if (region.value == vcpu->vmcs12_pointer.value) {
        vcpu->vmcs12.launched = false;
        vmcs12_store(vcpu);
        shadow_detach(vcpu);
        vcpu->vmcs12_pointer = l1pa(NO_VMCS12);
    } else {
        vmcs12_set_clear(vcpu, region);
    }
    instruction_succeed(vcpu);
}

static void handle_vmptrld(struct nvmx_vcpu *vcpu)
{
    l1pa_t region;
    if (operand_read_pointer(vcpu, &region) != ACCESS_OK)
        return;
    if (!pointer_is_valid(vcpu, region)) {
        instruction_fail(vcpu, VMERR_VMPTRLD_ADDRESS);
        return;
    }
    if (region.value == vcpu->vmxon_pointer.value) {
        instruction_fail(vcpu, VMERR_VMPTRLD_VMXON_POINTER);
        return;
    }
    bool may_shadow =
        (nvmx_caps_allowed1(vcpu->config.offered, CAPS_SECONDARY) & SECONDARY_VMCS_SHADOWING) != 0;
    if (!region_has_revision(vcpu, region, may_shadow ? REVISION_SHADOW : 0)) {
        instruction_fail(vcpu, VMERR_VMPTRLD_REVISION);
        return;
    }
    if (region.value != vcpu->vmcs12_pointer.value) {
        vmcs12_store(vcpu);
        vmcs12_load(vcpu, region);
        vcpu->vmcs12_pointer = region;
        shadow_attach(vcpu);
    }
    instruction_succeed(vcpu);
}

static void handle_vmptrst(struct nvmx_vcpu *vcpu)
{
    struct operand operand;
    if (l1_operand_decode(vcpu, sizeof(uint64_t), true, &operand) != ACCESS_OK ||
        l1_linear_write(vcpu, operand.linear_address, &vcpu->vmcs12_pointer.value, sizeof(uint64_t)) !=
            ACCESS_OK)
        return;
    instruction_succeed(vcpu);
}

// The field that VMREAD or VMWRITE names, *high: its upper half. F_COUNT when L1 has no such field.
static enum vmcs_field operand_field(struct nvmx_vcpu *vcpu, bool is_64bit, bool *high)
{
    uint64_t encoding = l1_gpr_read(vcpu, vcpu->exit.instruction_info >> 28);
    if (!is_64bit)
        encoding = (uint32_t)encoding;
    *high = (encoding & VMCS_HIGH) != 0;
    if (encoding > VMCS_ENCODING_MASK || (*high && vmcs_encoding_width((uint32_t)encoding) != VMCS_WIDTH_64))
        return F_COUNT;
    enum vmcs_field field = field_find((uint32_t)encoding & ~VMCS_HIGH);
    return field < F_COUNT && field_set_has(&vcpu->exists_l1, field) ? field : F_COUNT;
}

static void handle_vmread(struct nvmx_vcpu *vcpu)
{
    bool is_64bit = l1_is_64bit(vcpu), high;
    if (vcpu->vmcs12_pointer.value == NO_VMCS12) {
        instruction_fail_invalid(vcpu);
        return;
    }
    enum vmcs_field field = operand_field(vcpu, is_64bit, &high);
    if (field == F_COUNT) {
        instruction_fail(vcpu, VMERR_UNSUPPORTED_FIELD);
        return;
    }
    if (shadow_has(vcpu, field)) // the upper half of one
        shadow_collect(vcpu);
    uint64_t value = vmcs12_read(vcpu, field) >> (high ? 32 : 0);
    uint32_t size = is_64bit ? 8 : 4;
    struct operand operand;
    if (l1_operand_decode(vcpu, size, true, &operand) != ACCESS_OK)
        return;
    if (operand.is_register)
        l1_gpr_write(vcpu, operand.gpr, is_64bit ? value : (uint32_t)value);
    else if (l1_linear_write(vcpu, operand.linear_address, &value, size) != ACCESS_OK)
        return;
    instruction_succeed(vcpu);
}

static void handle_vmwrite(struct nvmx_vcpu *vcpu)
{
    bool is_64bit = l1_is_64bit(vcpu), high;
    if (vcpu->vmcs12_pointer.value == NO_VMCS12) {
        instruction_fail_invalid(vcpu);
        return;
    }
    uint64_t value = 0;
    uint32_t size = is_64bit ? 8 : 4;
    struct operand operand;
    if (l1_operand_decode(vcpu, size, false, &operand) != ACCESS_OK)
        return;
    if (operand.is_register)
        value = is_64bit ? l1_gpr_read(vcpu, operand.gpr) : (uint32_t)l1_gpr_read(vcpu, operand.gpr);
    else if (l1_linear_read(vcpu, operand.linear_address, &value, size) != ACCESS_OK)
        return;
    enum vmcs_field field = operand_field(vcpu, is_64bit, &high);
    if (field == F_COUNT) {
        instruction_fail(vcpu, VMERR_UNSUPPORTED_FIELD);
        return;
    }
    uint64_t misc = vcpu->config.offered->msr[MSR_IA32_VMX_MISC - CAPS_MSR_FIRST];
    if (field_table[field].type == VMCS_TYPE_INFO && (misc & MISC_VMWRITE_ANY_FIELD) == 0) {
        instruction_fail(vcpu, VMERR_READ_ONLY_FIELD);
        return;
    }
    if (shadow_has(vcpu, field)) // read-only in the shadow, or the upper half of one
        shadow_collect(vcpu);
    if (high)
        value = value << 32 | (vmcs12_read(vcpu, field) & 0xffffffff);
    vmcs12_write(vcpu, field, value);
    if (shadow_has(vcpu, field))
        shadow_publish(vcpu);
    instruction_succeed(vcpu);
}

static void handle_entry(struct nvmx_vcpu *vcpu)
{
    bool launch = vcpu->exit.reason == EXIT_VMLAUNCH;
    if (vcpu->vmcs12_pointer.value == NO_VMCS12 || vcpu->vmcs12.is_shadow) {
        instruction_fail_invalid(vcpu);
        return;
    }
    if ((vmcs_read(vcpu, F_GUEST_INTERRUPTIBILITY) & INTERRUPTIBILITY_MOV_SS) != 0) {
        instruction_fail(vcpu, VMERR_ENTRY_BLOCKED_BY_MOV_SS);
        return;
    }
    if (launch && vcpu->vmcs12.launched) {
        instruction_fail(vcpu, VMERR_VMLAUNCH_NOT_CLEAR);
        return;
    }
    if (!launch && !vcpu->vmcs12.launched) {
        instruction_fail(vcpu, VMERR_VMRESUME_NOT_LAUNCHED);
        return;
    }
    entry_from_l1(vcpu);
}

// In VMX root operation there is no SMM monitor to call. Unlike the others, VMCALL exits in every mode.
static void handle_vmcall(struct nvmx_vcpu *vcpu)
{
    bool compatibility = (vmcs_read(vcpu, F_GUEST_IA32_EFER) & EFER_LMA) != 0 && !l1_is_64bit(vcpu);
    bool virtual_8086 = (vmcs_read(vcpu, F_GUEST_RFLAGS) & RFLAGS_VM) != 0;
    if (!vcpu->vmxon || compatibility || virtual_8086)
        nvmx_raise(vcpu, VECTOR_UD, false, 0);
    else if (l1_cpl(vcpu) > 0)
        nvmx_raise(vcpu, VECTOR_GP, true, 0);
    else
        instruction_fail(vcpu, VMERR_VMCALL_IN_ROOT);
}

bool instruction_handle(struct nvmx_vcpu *vcpu)
{
    static void (*const handlers[EXIT_REASON_COUNT])(struct nvmx_vcpu *) = {
        [EXIT_VMCLEAR] = handle_vmclear, [EXIT_VMLAUNCH] = handle_entry,   [EXIT_VMPTRLD] = handle_vmptrld,
        [EXIT_VMPTRST] = handle_vmptrst, [EXIT_VMREAD] = handle_vmread,    [EXIT_VMRESUME] = handle_entry,
        [EXIT_VMWRITE] = handle_vmwrite, [EXIT_VMXOFF] = handle_vmxoff,    [EXIT_VMXON] = handle_vmxon,
        [EXIT_INVEPT] = invalidate_ept,  [EXIT_INVVPID] = invalidate_vpid,
    };
    uint32_t reason = vcpu->exit.reason;
    if (reason == EXIT_VMCALL) {
        handle_vmcall(vcpu);
        return true;
    }
    if (reason >= EXIT_REASON_COUNT || handlers[reason] == NULL)
        return false;
    // What the processor checks before it looks at anything else; in real, virtual-8086 and compatibility
    // mode it raised #UD itself, without a VM exit.
    bool allowed = reason == EXIT_VMXON ? (l1_cr4(vcpu) & CR4_VMXE) != 0 : vcpu->vmxon;
    uint32_t secondary = nvmx_caps_allowed1(vcpu->config.offered, CAPS_SECONDARY);
    if ((reason == EXIT_INVEPT && (secondary & SECONDARY_ENABLE_EPT) == 0) ||
        (reason == EXIT_INVVPID && (secondary & SECONDARY_ENABLE_VPID) == 0))
        allowed = false;
    if (!allowed)
        nvmx_raise(vcpu, VECTOR_UD, false, 0);
    else if (l1_cpl(vcpu) > 0)
        nvmx_raise(vcpu, VECTOR_GP, true, 0);
    else
        handlers[reason](vcpu);
    return true;
}
