// SPDX-License-Identifier: MIT
// Saving a vcpu's nested state. What vmcs12 holds of L2's registers while L2 runs is dead: the next exit
// writes it; so it is saved as L2's registers are now.
#include "engine.h"

#include <nvmx/state.h>

// L1's registers: guest-state fields that exist for every guest. Not: what L0 sets itself.
static bool belongs_to_l1(enum vmcs_field field)
{
    const struct field_info *info = &field_table[field];
    bool exists = info->exists == EX_ALWAYS || info->exists == EX_PAT || info->exists == EX_EFER ||
                  info->exists == EX_EPT;
    return info->type == VMCS_TYPE_GUEST && exists && info->entry != ENTRY_CONSTANT &&
           info->entry != ENTRY_NEVER;
}

// L2's: those that vmcs02 gets from vmcs12.
static bool belongs_to_l2(const struct nvmx_vcpu *vcpu, enum vmcs_field field)
{
    const struct field_info *info = &field_table[field];
    return info->type == VMCS_TYPE_GUEST && info->entry != ENTRY_CONSTANT && info->entry != ENTRY_NEVER &&
           field_set_has(&vcpu->exists_l1, field);
}

bool state_section_has(const struct nvmx_vcpu *vcpu, enum nvmx_state_section section, enum vmcs_field field)
{
    switch (section) {
    case NVMX_STATE_OF_L1:
        return belongs_to_l1(field);
    case NVMX_STATE_OF_L2:
        return belongs_to_l2(vcpu, field);
    case NVMX_STATE_OF_VMCS12:
        break;
    }
    return true;
}

size_t state_size(const struct nvmx_vcpu *vcpu, uint32_t flags)
{
    size_t records = 0;
    for (enum vmcs_field field = 0; field < F_COUNT; field++) {
        records += belongs_to_l1(field);
        records += (flags & NVMX_STATE_CURRENT) != 0;
        records += (flags & NVMX_STATE_IN_L2) != 0 && belongs_to_l2(vcpu, field);
    }
    return sizeof(struct nvmx_state_header) + records * sizeof(struct nvmx_state_record);
}

static uint32_t state_flags(const struct nvmx_vcpu *vcpu)
{
    bool current = vcpu->vmcs12_pointer.value != NO_VMCS12;
    return (vcpu->vmxon ? NVMX_STATE_VMXON : 0) | (current ? NVMX_STATE_CURRENT : 0) |
           (current && vcpu->vmcs12.launched ? NVMX_STATE_LAUNCHED : 0) |
           (vcpu->in_l2 ? NVMX_STATE_IN_L2 : 0) | (vcpu->entry_pending ? NVMX_STATE_ENTRY_PENDING : 0) |
           (vcpu->nmi_pending > 0 ? NVMX_STATE_NMI_PENDING : 0) |
           (vcpu->machine_check_pending ? NVMX_STATE_MACHINE_CHECK : 0) |
           (vcpu->posted_pending ? NVMX_STATE_POSTED : 0) |
           (vcpu->nmi_pending > 1 ? NVMX_STATE_SECOND_NMI : 0) | (vcpu->aborted ? NVMX_STATE_ABORTED : 0) |
           (vcpu->init_pending ? NVMX_STATE_INIT_PENDING : 0) |
           (current && vcpu->vmcs12.is_shadow ? NVMX_STATE_SHADOW : 0);
}

size_t nvmx_state_size(const struct nvmx_vcpu *vcpu)
{
    return state_size(vcpu, state_flags(vcpu));
}

// --- get

static uint8_t *put_record(uint8_t *at, enum nvmx_state_section section, enum vmcs_field field,
                           uint64_t value)
{
    struct nvmx_state_record record = {
        .section = section, .encoding = field_table[field].encoding, .value = value};
    __builtin_memcpy(at, &record, sizeof record);
    return at + sizeof record;
}

static bool l1_uses_pae_paging(struct nvmx_vcpu *vcpu)
{
    return (vmcs_read(vcpu, F_GUEST_CR0) & CR0_PG) != 0 && (vmcs_read(vcpu, F_GUEST_CR4) & CR4_PAE) != 0 &&
           (vmcs_read(vcpu, F_GUEST_IA32_EFER) & EFER_LMA) == 0;
}

// vmcs01 is current. Its PDPTEs mean nothing, and may never have been written, without PAE paging.
static uint8_t *put_l1(struct nvmx_vcpu *vcpu, uint8_t *at)
{
    bool pae = l1_uses_pae_paging(vcpu);
    for (enum vmcs_field field = 0; field < F_COUNT; field++) {
        if (!belongs_to_l1(field))
            continue;
        uint64_t value = 0;
        if (field == F_GUEST_CR0)
            value = l1_cr0(vcpu);
        else if (field == F_GUEST_CR4)
            value = l1_cr4(vcpu);
        else if (pae || field < F_GUEST_PDPTE0 || field > F_GUEST_PDPTE3)
            value = vmcs_read(vcpu, field);
        at = put_record(at, NVMX_STATE_OF_L1, field, value);
    }
    return at;
}

// In L2 vmcs02 is current.
static uint8_t *put_vmcs12(struct nvmx_vcpu *vcpu, uint8_t *at)
{
    for (enum vmcs_field field = 0; field < F_COUNT; field++) {
        uint8_t exit = field_table[field].exit;
        bool dead =
            vcpu->in_l2 && (exit == EXIT_SAVE_HOT || exit == EXIT_SAVE_RARE) && belongs_to_l2(vcpu, field);
        at = put_record(at, NVMX_STATE_OF_VMCS12, field,
                        dead ? vmcs_read(vcpu, field) : vcpu->vmcs12.field[field]);
    }
    return at;
}

static void put_l2(struct nvmx_vcpu *vcpu, uint8_t *at)
{
    for (enum vmcs_field field = 0; field < F_COUNT; field++)
        if (belongs_to_l2(vcpu, field))
            at = put_record(at, NVMX_STATE_OF_L2, field, vmcs_read(vcpu, field));
}

void nvmx_state_get(struct nvmx_vcpu *vcpu, void *state)
{
    step_end(vcpu); // no part of the state: the instruction misses again
    shadow12_close(vcpu);
    if (!vcpu->in_l2) {
        shadow_collect(vcpu);
        vmcs12_sync_rare(vcpu);
    }
    uint32_t flags = state_flags(vcpu);
    struct nvmx_state_header header = {
        .magic = NVMX_STATE_MAGIC,
        .version = NVMX_STATE_VERSION,
        .size = (uint32_t)state_size(vcpu, flags),
        .flags = flags,
        .feature_control = vcpu->config.feature_control,
        .vmxon_pointer = vcpu->vmxon ? vcpu->vmxon_pointer.value : ~0ull,
        .vmcs12_pointer = vcpu->vmcs12_pointer.value,
        .event_info = vcpu->event.info,
        .event_error_code = (vcpu->event.info & INTERRUPTION_ERROR_CODE) != 0 ? vcpu->event.error_code : 0,
        .event_instruction_length = vcpu->event.info != 0 ? vcpu->event.instruction_length : 0,
    };
    for (unsigned i = 0; i < GPR_COUNT; i++)
        header.gpr[i] = i == GPR_RSP ? 0 : vcpu->regs.gpr[i];
    uint8_t *at = state;
    __builtin_memcpy(at, &header, sizeof header);
    struct vmcs *current = vcpu->current;
    vmcs_make_current(vcpu, &vcpu->vmcs01);
    at = put_l1(vcpu, at + sizeof header);
    vmcs_make_current(vcpu, current);
    if ((flags & NVMX_STATE_CURRENT) != 0)
        at = put_vmcs12(vcpu, at);
    if ((flags & NVMX_STATE_IN_L2) != 0)
        put_l2(vcpu, at);
}
