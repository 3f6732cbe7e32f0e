// SPDX-License-Identifier: MIT
// Restoring a vcpu's nested state: read and judge it, then become it. What L1 could have brought about is
// what the rules of its instructions and of VM entry let through: these same rules judge here.
#include "engine.h"

#include <nvmx/state.h>

struct state_plan {
    struct nvmx_state_header header;
    uint64_t l1[F_COUNT], vmcs12[F_COUNT], l2[F_COUNT];
};

static struct nvmx_state_verdict verdict(enum nvmx_state_reason reason, unsigned field, unsigned rule)
{
    return (struct nvmx_state_verdict){.reason = reason, .field = (uint16_t)field, .rule = (uint16_t)rule};
}

static struct nvmx_state_verdict accepted(void)
{
    return verdict(NVMX_STATE_ACCEPTED, F_COUNT, CHECK_COUNT);
}

static struct nvmx_state_verdict refused(enum nvmx_state_reason reason, unsigned field)
{
    return verdict(reason, field, CHECK_COUNT);
}

static bool has(const struct state_plan *plan, uint32_t flag)
{
    return (plan->header.flags & flag) != 0;
}

// --- reading

static struct nvmx_state_verdict read_section(const struct nvmx_vcpu *vcpu, const uint8_t **at,
                                              enum nvmx_state_section section, uint64_t *values)
{
    for (enum vmcs_field field = 0; field < F_COUNT; field++) {
        values[field] = 0;
        if (!state_section_has(vcpu, section, field))
            continue;
        struct nvmx_state_record record;
        __builtin_memcpy(&record, *at, sizeof record);
        *at += sizeof record;
        if (record.section != section || record.encoding != field_table[field].encoding ||
            (record.value & ~field_mask(field)) != 0)
            return refused(NVMX_STATE_BAD_RECORD, field);
        values[field] = record.value;
    }
    return accepted();
}

static struct nvmx_state_verdict read_all(const struct nvmx_vcpu *vcpu, const uint8_t *state, size_t size,
                                          struct state_plan *plan)
{
    struct nvmx_state_header *header = &plan->header;
    if (size < sizeof *header)
        return refused(NVMX_STATE_BAD_HEADER, F_COUNT);
    __builtin_memcpy(header, state, sizeof *header);
    if (header->magic != NVMX_STATE_MAGIC || header->version != NVMX_STATE_VERSION || header->size != size ||
        (header->flags & ~NVMX_STATE_FLAGS) != 0 || header->reserved != 0 || header->reserved2 != 0 ||
        header->gpr[GPR_RSP] != 0 || size != state_size(vcpu, header->flags))
        return refused(NVMX_STATE_BAD_HEADER, F_COUNT);
    const uint8_t *at = state + sizeof *header;
    struct nvmx_state_verdict result = read_section(vcpu, &at, NVMX_STATE_OF_L1, plan->l1);
    if (result.reason == NVMX_STATE_ACCEPTED && has(plan, NVMX_STATE_CURRENT))
        result = read_section(vcpu, &at, NVMX_STATE_OF_VMCS12, plan->vmcs12);
    if (result.reason == NVMX_STATE_ACCEPTED && has(plan, NVMX_STATE_IN_L2))
        result = read_section(vcpu, &at, NVMX_STATE_OF_L2, plan->l2);
    return result;
}

// --- judging

static bool is_page(const struct nvmx_vcpu *vcpu, uint64_t address)
{
    return (address & (PAGE_SIZE - 1)) == 0 && address >> vcpu->config.l1_physical_address_width == 0;
}

static struct nvmx_state_verdict judge_vmx_operation(struct nvmx_vcpu *vcpu, const struct state_plan *plan)
{
    const struct nvmx_state_header *header = &plan->header;
    const uint64_t enable = FEATURE_CONTROL_LOCKED | FEATURE_CONTROL_VMX_OUTSIDE_SMX;
    bool vmxon = has(plan, NVMX_STATE_VMXON), current = has(plan, NVMX_STATE_CURRENT);
    bool in_l2 = has(plan, NVMX_STATE_IN_L2), pending = has(plan, NVMX_STATE_ENTRY_PENDING);
    bool launched = has(plan, NVMX_STATE_LAUNCHED);
    if ((current && !vmxon) || (launched && !current) || (in_l2 && !current) || (pending && !in_l2) ||
        (in_l2 && !pending && !launched) || (!vmxon && header->vmxon_pointer != ~0ull) ||
        (!current && header->vmcs12_pointer != NO_VMCS12))
        return refused(NVMX_STATE_BAD_FLAGS, F_COUNT);
    uint32_t secondary = nvmx_caps_allowed1(vcpu->config.offered, CAPS_SECONDARY);
    if (has(plan, NVMX_STATE_SHADOW) && (!current || in_l2 || (secondary & SECONDARY_VMCS_SHADOWING) == 0))
        return refused(NVMX_STATE_BAD_FLAGS, F_COUNT);
    if (has(plan, NVMX_STATE_ABORTED) &&
        (!current || in_l2 || plan->l1[F_GUEST_ACTIVITY_STATE] != ACTIVITY_SHUTDOWN))
        return refused(NVMX_STATE_BAD_FLAGS, F_GUEST_ACTIVITY_STATE);
    if ((header->feature_control & ~enable) != 0 || (vmxon && header->feature_control != enable))
        return refused(NVMX_STATE_BAD_FEATURE_CONTROL, F_COUNT);
    if (vmxon && !is_page(vcpu, header->vmxon_pointer))
        return refused(NVMX_STATE_BAD_VMXON_POINTER, F_COUNT);
    uint32_t revision;
    if (current &&
        (!is_page(vcpu, header->vmcs12_pointer) || header->vmcs12_pointer == header->vmxon_pointer ||
         !port_l1_read(vcpu, l1pa(header->vmcs12_pointer), &revision, sizeof revision)))
        return refused(NVMX_STATE_BAD_VMCS12_POINTER, F_COUNT);
    return accepted();
}

// The first rule of the stages `first` to `last` that is broken.
static struct nvmx_state_verdict judge_rules(const struct check_input *input, enum check_stage first,
                                             enum check_stage last, enum nvmx_state_reason reason)
{
    for (enum check_stage stage = first; stage <= last; stage++) {
        struct check_report report = {.count = 0};
        check_stage(input, stage, &report);
        if (report.count != 0) {
            unsigned rule = report.broken[0].index;
            return verdict(reason, check_rules[rule].field, rule);
        }
    }
    return accepted();
}

static void set_event(uint64_t *field, const struct nvmx_state_header *header)
{
    field[F_VM_ENTRY_INTERRUPTION_INFO] = header->event_info;
    field[F_VM_ENTRY_EXCEPTION_ERROR_CODE] = header->event_error_code;
    field[F_VM_ENTRY_INSTRUCTION_LENGTH] = header->event_instruction_length;
}

// An NMI whose delivery an exit interrupted blocks NMIs already; what injects it again unblocks them.
static void unblock_injected_nmi(uint64_t *field, const struct nvmx_state_header *header)
{
    if (header->event_info != 0 && event_type(header->event_info) == EVENT_NMI)
        field[F_GUEST_INTERRUPTIBILITY] &= ~(uint64_t)INTERRUPTIBILITY_NMI;
}

// An event is valid, or there is none at all.
static bool event_is_whole(const struct nvmx_state_header *header)
{
    if (header->event_info == 0)
        return header->event_error_code == 0 && header->event_instruction_length == 0;
    return (header->event_info & INTERRUPTION_VALID) != 0;
}

static struct nvmx_state_verdict judge_l1(struct nvmx_vcpu *vcpu, const struct state_plan *plan)
{
    uint64_t cr0 = plan->l1[F_GUEST_CR0], cr4 = plan->l1[F_GUEST_CR4], efer = plan->l1[F_GUEST_IA32_EFER];
    bool vmxon = has(plan, NVMX_STATE_VMXON), in_l2 = has(plan, NVMX_STATE_IN_L2);
    if (!l1_cr0_is_possible(vcpu, cr0, vmxon))
        return refused(NVMX_STATE_BAD_L1_CR0, F_GUEST_CR0);
    if (!l1_cr4_is_possible(vcpu, cr4, vmxon) || !l1_cr_fit_together(cr0, cr4))
        return refused(NVMX_STATE_BAD_L1_CR4, F_GUEST_CR4);
    if (!event_is_whole(&plan->header))
        return refused(NVMX_STATE_BAD_L1_REGISTER, F_VM_ENTRY_INTERRUPTION_INFO);
    uint64_t field[F_COUNT];
    for (unsigned i = 0; i < F_COUNT; i++)
        field[i] = plan->l1[i];
    l1_cr_real(vcpu, &field[F_GUEST_CR0], &field[F_GUEST_CR4]);
    // As vmcs01 has them.
    field[F_VMCS_LINK_POINTER] = ~0ull;
    field[F_PIN_BASED_CONTROLS] = vcpu->config.policy.pin;
    field[F_PRIMARY_CONTROLS] = PRIMARY_ACTIVATE_SECONDARY;
    field[F_SECONDARY_CONTROLS] = SECONDARY_ENABLE_EPT | SECONDARY_UNRESTRICTED_GUEST;
    field[F_VM_ENTRY_CONTROLS] = ENTRY_LOAD_DEBUG_CONTROLS | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER |
                                 ((efer & EFER_LMA) != 0 ? ENTRY_IA32E_MODE_GUEST : 0);
    if (!in_l2) {
        set_event(field, &plan->header);
        unblock_injected_nmi(field, &plan->header);
    }
    const struct check_input input = {
        .field = field,
        .caps = vcpu->config.hardware,
        .physical_address_width = vcpu->config.l1_physical_address_width,
        .long_mode = true,
    };
    struct nvmx_state_verdict result =
        judge_rules(&input, STAGE_CONTROLS_HOT, STAGE_CONTROLS_HOT, NVMX_STATE_BAD_L1_REGISTER);
    if (result.reason == NVMX_STATE_ACCEPTED)
        result = judge_rules(&input, STAGE_GUEST, STAGE_GUEST_HOT, NVMX_STATE_BAD_L1_REGISTER);
    bool user = (plan->l1[F_GUEST_SS_ACCESS_RIGHTS] >> SEGMENT_DPL_SHIFT & 3) != 0;
    bool virtual_8086 = (plan->l1[F_GUEST_RFLAGS] & RFLAGS_VM) != 0;
    if (result.reason == NVMX_STATE_ACCEPTED && in_l2 &&
        (user || virtual_8086 || plan->l1[F_GUEST_ACTIVITY_STATE] != ACTIVITY_ACTIVE))
        return refused(NVMX_STATE_BAD_L1_AT_ENTRY, F_GUEST_SS_ACCESS_RIGHTS);
    return result;
}

// What L1's entry was checked for, and that L2's registers as they are now could be entered with. Rules that
// look into memory held when L1 entered; memory may have changed since.
static struct nvmx_state_verdict judge_l2(struct nvmx_vcpu *vcpu, const struct state_plan *plan)
{
    uint64_t field[F_COUNT];
    for (unsigned i = 0; i < F_COUNT; i++)
        field[i] = plan->vmcs12[i];
    set_event(field, &plan->header);
    const struct check_input input = {
        .field = field,
        .pdpte = &plan->l2[F_GUEST_PDPTE0],
        .caps = vcpu->config.offered,
        .physical_address_width = vcpu->config.l1_physical_address_width,
        .long_mode = (plan->l1[F_GUEST_IA32_EFER] & EFER_LMA) != 0,
    };
    struct nvmx_state_verdict result =
        judge_rules(&input, STAGE_CONTROLS, STAGE_CONTROLS, NVMX_STATE_BAD_VMCS12);
    if (result.reason == NVMX_STATE_ACCEPTED)
        result = judge_rules(&input, STAGE_HOST, STAGE_HOST, NVMX_STATE_BAD_VMCS12);
    if (result.reason != NVMX_STATE_ACCEPTED)
        return result;
    for (enum vmcs_field i = 0; i < F_COUNT; i++)
        if (state_section_has(vcpu, NVMX_STATE_OF_L2, i))
            field[i] = plan->l2[i];
    unblock_injected_nmi(field, &plan->header);
    field[F_VM_ENTRY_CONTROLS] &= ~(uint64_t)ENTRY_IA32E_MODE_GUEST;
    field[F_VM_ENTRY_CONTROLS] |=
        ENTRY_LOAD_DEBUG_CONTROLS | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER |
        ((plan->l2[F_GUEST_IA32_EFER] & EFER_LMA) != 0 ? ENTRY_IA32E_MODE_GUEST : 0);
    result = judge_rules(&input, STAGE_CONTROLS_HOT, STAGE_CONTROLS_HOT, NVMX_STATE_BAD_L2_REGISTER);
    if (result.reason == NVMX_STATE_ACCEPTED)
        result = judge_rules(&input, STAGE_GUEST, STAGE_GUEST_HOT, NVMX_STATE_BAD_L2_REGISTER);
    return result;
}

// --- becoming

static void become_l1(struct nvmx_vcpu *vcpu, const struct state_plan *plan)
{
    for (enum vmcs_field field = 0; field < F_COUNT; field++)
        if (state_section_has(vcpu, NVMX_STATE_OF_L1, field))
            nvmx_write(vcpu, field, plan->l1[field]);
    bool ia32e = (plan->l1[F_GUEST_IA32_EFER] & EFER_LMA) != 0;
    uint64_t entry = vmcs_read(vcpu, F_VM_ENTRY_CONTROLS) & ~(uint64_t)ENTRY_IA32E_MODE_GUEST;
    vmcs_write(vcpu, F_VM_ENTRY_CONTROLS, entry | (ia32e ? ENTRY_IA32E_MODE_GUEST : 0));
}

static void become_l2(struct nvmx_vcpu *vcpu, const struct state_plan *plan)
{
    struct entry_plan entry = {.has_pdpte = false}; // they are among L2's registers
    entry_plan_make(vcpu, true, &entry);
    entry_commit(vcpu, &entry);
    for (enum vmcs_field field = 0; field < F_COUNT; field++)
        if (state_section_has(vcpu, NVMX_STATE_OF_L2, field))
            nvmx_write(vcpu, field, plan->l2[field]);
    bool ia32e = (plan->l2[F_GUEST_IA32_EFER] & EFER_LMA) != 0;
    uint64_t controls = vcpu->vmcs02.written[F_VM_ENTRY_CONTROLS] & ~(uint64_t)ENTRY_IA32E_MODE_GUEST;
    vmcs_write_if_changed(vcpu, &vcpu->vmcs02, F_VM_ENTRY_CONTROLS,
                          controls | (ia32e ? ENTRY_IA32E_MODE_GUEST : 0));
    vcpu->entry_pending = has(plan, NVMX_STATE_ENTRY_PENDING);
}

static void become(struct nvmx_vcpu *vcpu, const struct state_plan *plan)
{
    const struct nvmx_state_header *header = &plan->header;
    uint16_t vpid01 = vcpu->config.policy.vpid01;
    l1_leave_vmx(vcpu);
    ept02_drop_all(vcpu); // L2's translations under vpid02 go before it is used again
    if (vpid01 != 0)
        hw_invvpid(vcpu->cpu, INVVPID_SINGLE_CONTEXT, vpid01, 0);
    vcpu->config.feature_control = header->feature_control;
    become_l1(vcpu, plan);
    if (has(plan, NVMX_STATE_VMXON))
        l1_begin_vmx(vcpu, l1pa(header->vmxon_pointer));
    else
        l1_cr_update_masks(vcpu, false);
    if (has(plan, NVMX_STATE_CURRENT)) {
        for (unsigned field = 0; field < F_COUNT; field++)
            vcpu->vmcs12.field[field] = plan->vmcs12[field];
        vcpu->vmcs12.launched = has(plan, NVMX_STATE_LAUNCHED);
        vcpu->vmcs12.is_shadow = has(plan, NVMX_STATE_SHADOW);
        vmcs12_set_all_dirty(vcpu);
        vcpu->vmcs12_pointer = l1pa(header->vmcs12_pointer);
        shadow_attach(vcpu);
    }
    if (has(plan, NVMX_STATE_IN_L2))
        become_l2(vcpu, plan);
    vcpu->event = (struct nvmx_event){.info = header->event_info,
                                      .error_code = header->event_error_code,
                                      .instruction_length = header->event_instruction_length};
    vcpu->nmi_pending =
        (has(plan, NVMX_STATE_NMI_PENDING) ? 1u : 0u) + (has(plan, NVMX_STATE_SECOND_NMI) ? 1u : 0u);
    vcpu->machine_check_pending = has(plan, NVMX_STATE_MACHINE_CHECK);
    vcpu->posted_pending =
        has(plan, NVMX_STATE_POSTED) && vcpu->in_l2 && (vmcs12_pin(vcpu) & PIN_POSTED_INTERRUPTS) != 0;
    vcpu->init_pending = has(plan, NVMX_STATE_INIT_PENDING);
    vcpu->aborted = has(plan, NVMX_STATE_ABORTED);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        vcpu->regs.gpr[i] = header->gpr[i];
}

struct nvmx_state_verdict nvmx_state_set(struct nvmx_vcpu *vcpu, const void *state, size_t size)
{
    struct state_plan plan;
    struct nvmx_state_verdict result = read_all(vcpu, state, size, &plan);
    if (result.reason == NVMX_STATE_ACCEPTED)
        result = judge_vmx_operation(vcpu, &plan);
    if (result.reason == NVMX_STATE_ACCEPTED)
        result = judge_l1(vcpu, &plan);
    if (result.reason == NVMX_STATE_ACCEPTED && has(&plan, NVMX_STATE_IN_L2))
        result = judge_l2(vcpu, &plan);
    if (result.reason == NVMX_STATE_ACCEPTED)
        become(vcpu, &plan);
    return result;
}

const char *nvmx_state_reason_text(enum nvmx_state_reason reason)
{
    static const char *const texts[] = {
        [NVMX_STATE_ACCEPTED] = "accepted",
        [NVMX_STATE_BAD_HEADER] = "the header is not that of a state of this version and size",
        [NVMX_STATE_BAD_RECORD] = "a record is not the one that belongs here, or its value is too wide",
        [NVMX_STATE_BAD_FLAGS] = "the flags contradict each other or the pointers",
        [NVMX_STATE_BAD_FEATURE_CONTROL] = "IA32_FEATURE_CONTROL cannot be so",
        [NVMX_STATE_BAD_VMXON_POINTER] = "the VMXON region is not at a page that L1 can name",
        [NVMX_STATE_BAD_VMCS12_POINTER] =
            "the current VMCS is not at a page of L1's memory, or at the VMXON region",
        [NVMX_STATE_BAD_L1_CR0] = "L1's CR0 holds what no MOV leaves there",
        [NVMX_STATE_BAD_L1_CR4] = "L1's CR4 holds what no MOV leaves there",
        [NVMX_STATE_BAD_L1_REGISTER] = "L1's registers break a rule of VM entry",
        [NVMX_STATE_BAD_L1_AT_ENTRY] = "L2 runs, and L1 could not have executed VMLAUNCH",
        [NVMX_STATE_BAD_VMCS12] = "L2 runs, and its VMCS breaks a rule of VM entry",
        [NVMX_STATE_BAD_L2_REGISTER] = "L2's registers or the pending event break a rule of VM entry",
    };
    return (unsigned)reason < sizeof texts / sizeof texts[0] ? texts[reason] : "?";
}
