// SPDX-License-Identifier: MIT
// L1's VMLAUNCH or VMRESUME: check, plan, commit. vmcs02 is written by lifetime: what did not change is not
// written. Manual: VM Entries.
#include "engine.h"

#include <nvmx/check.h>

// Which of the vcpu's VPIDs this L2 runs under.
static void commit_vpid(struct nvmx_vcpu *vcpu, struct entry_plan *plan)
{
    uint16_t vpid12 = 0;
    if ((vmcs12_secondary(vcpu) & SECONDARY_ENABLE_VPID) != 0)
        vpid12 = (uint16_t)vmcs12_get(vcpu, F_VPID);
    plan->field[F_VPID] = vpid02_use(vcpu, vpid12);
    if (!plan->all && vcpu->vmcs02.written[F_VPID] != plan->field[F_VPID]) // else with the others
        vmcs_write_if_changed(vcpu, &vcpu->vmcs02, F_VPID, plan->field[F_VPID]);
}

static void commit_merged(struct nvmx_vcpu *vcpu, const struct entry_plan *plan)
{
    struct vmcs *vmcs02 = &vcpu->vmcs02;
    if (plan->all) {
        FIELD_SET_FOR_EACH(field, vcpu->merged)
        {
            vmcs_write_if_changed(vcpu, vmcs02, (enum vmcs_field)field, plan->field[field]);
        }
    } else {
#define X(name) vmcs_write_if_changed(vcpu, vmcs02, F_##name, plan->field[F_##name]);
        MERGED_FIELDS_THAT_CHANGE(X)
#undef X
    }
    if ((vmcs12_pin(vcpu) & PIN_PREEMPTION_TIMER) != 0)
        vmcs_write_if_changed(vcpu, vmcs02, F_PREEMPTION_TIMER_VALUE,
                              vmcs12_get(vcpu, F_PREEMPTION_TIMER_VALUE));
}

// Straight-line code, a row a field.
static void commit_hot(struct nvmx_vcpu *vcpu)
{
    const uint64_t *field = vcpu->vmcs12.field;
#define FIELD(name, encoding, width, type, exists, entry, exit)                                              \
    if (ENTRY_##entry == ENTRY_HOT &&                                                                        \
        (exists == EX_ALWAYS || field_set_has(&vcpu->exists_hardware, F_##name)))                            \
        hw_vmwrite(vcpu->cpu, encoding, field[F_##name]);
#include <nvmx/vmcs_fields.def>
#undef FIELD
}

void entry_commit(struct nvmx_vcpu *vcpu, struct entry_plan *plan)
{
    struct vmcs *vmcs02 = &vcpu->vmcs02;
    struct vmcs12 *vmcs12 = &vcpu->vmcs12;
    if ((vmcs12_secondary(vcpu) & SECONDARY_ENABLE_EPT) != 0)
        plan->field[F_EPT_POINTER] = ept02_use(vcpu, vmcs12_get(vcpu, F_EPT_POINTER));
    if ((vmcs12_secondary(vcpu) & (SECONDARY_ENABLE_PML | SECONDARY_ENABLE_VPID)) == SECONDARY_ENABLE_PML)
        ept02_protect(vcpu);
    event_leave_vmcs(vcpu);
    vmcs_make_current(vcpu, vmcs02);
    vmcs_write_host_state(vcpu, vmcs02); // constant and per-processor parts
    commit_vpid(vcpu, plan);
    commit_merged(vcpu, plan);
    if (plan->all)
        shadow12_commit(vcpu);
    if (field_set_meets(&vcpu->rare, &vmcs12->dirty)) {
        struct field_set rare = field_set_and(vcpu->rare, vmcs12->dirty);
        FIELD_SET_FOR_EACH(field, rare)
        {
            vmcs_write(vcpu, (enum vmcs_field)field, vmcs12->field[field]);
        }
    }
    commit_hot(vcpu);
    if (plan->has_pdpte)
        for (unsigned i = 0; i < 4; i++)
            vmcs_write(vcpu, (enum vmcs_field)(F_GUEST_PDPTE0 + i), plan->pdpte[i]);
    vmcs12->dirty = (struct field_set){{0}};
    vmcs12->rare_in_vmcs02 = true;
    bitmaps_before_entry(vcpu);
    vcpu->event = plan->event;
    vcpu->in_l2 = true;
    vcpu->entry_pending = true;
    vcpu->shutdown = vmcs12_get(vcpu, F_GUEST_ACTIVITY_STATE) == ACTIVITY_SHUTDOWN;
    vcpu->entry_count++;
}

// The outcome follows from the first broken rule; what else the entry would have broken is for the person who
// has to mend it. Later stages are applied to a VMCS that is wrong already, but they are only told.
static void entry_explain(struct nvmx_vcpu *vcpu, const struct check_input *input, enum check_stage failed,
                          struct check_report *report)
{
    vmcs12_sync_rare(vcpu);
    for (enum check_stage stage = failed + 1; stage < STAGE_COUNT; stage++)
        check_stage(input, stage, report);
    vcpu->failed_entry = *report;
    vcpu->failed_entry_count++;
    for (uint32_t i = 0; i < report->count && i < CHECK_REPORT_MAX; i++)
        port_explain(vcpu, &vcpu->failed_entry.broken[i]);
}

// What the entry comes to when the report has rules of `stage`: a VMfail or an exit.
static void entry_fail(struct nvmx_vcpu *vcpu, const struct check_input *input, enum check_stage stage,
                       struct check_report *report)
{
    entry_explain(vcpu, input, stage, report);
    if (stage == STAGE_HOST)
        instruction_fail(vcpu, VMERR_ENTRY_HOST_STATE);
    else if (stage == STAGE_CONTROLS || stage == STAGE_CONTROLS_HOT)
        instruction_fail(vcpu, VMERR_ENTRY_CONTROLS);
    else
        reflect_failed_entry(vcpu, EXIT_ENTRY_FAILURE_GUEST_STATE,
                             check_rules[report->broken[0].index].qualification);
}

// Which stages can come out differently than they did at the last successful entry of this vmcs12: by what L1
// has written since, by an event to inject, and by what lies in its memory. What an exit saved is legal.
static uint32_t stages_to_check(const struct nvmx_vcpu *vcpu, bool controls_dirty, bool has_pdpte)
{
    const uint32_t every_stage = (1u << STAGE_COUNT) - 1;
    const struct field_set *dirty = &vcpu->vmcs12.dirty;
    if (controls_dirty)
        return every_stage;
    uint32_t stages = 0;
    bool event = (vmcs12_get(vcpu, F_VM_ENTRY_INTERRUPTION_INFO) & INTERRUPTION_VALID) != 0;
    if (event || (vmcs12_primary(vcpu) & PRIMARY_USE_TPR_SHADOW) != 0) // VTPR is in memory
        stages |= 1u << STAGE_CONTROLS_HOT;
    if (field_set_meets(dirty, &vcpu->host))
        stages |= 1u << STAGE_HOST;
    if (field_set_meets(dirty, &vcpu->guest_not_hot))
        stages |= 1u << STAGE_GUEST | 1u << STAGE_GUEST_HOT;
    if (event || has_pdpte || vmcs12_get(vcpu, F_VMCS_LINK_POINTER) != ~0ull ||
        (vmcs12_get(vcpu, F_GUEST_INTERRUPTIBILITY) | vmcs12_get(vcpu, F_GUEST_ACTIVITY_STATE)) != 0 ||
        field_set_has(dirty, F_GUEST_CR3) || field_set_has(dirty, F_GUEST_INTERRUPTIBILITY) ||
        field_set_has(dirty, F_GUEST_ACTIVITY_STATE) ||
        field_set_has(dirty, F_GUEST_PENDING_DEBUG_EXCEPTIONS))
        stages |= 1u << STAGE_GUEST_HOT;
    return stages;
}

static bool entry_checks_hold(struct nvmx_vcpu *vcpu, bool controls_dirty, struct entry_plan *plan)
{
    bool long_mode = (vmcs_read(vcpu, F_GUEST_IA32_EFER) & EFER_LMA) != 0;
    entry_plan_pdptes(vcpu, plan);
    uint32_t stages = stages_to_check(vcpu, controls_dirty, plan->has_pdpte);
    if ((stages & 1u << STAGE_GUEST) != 0)
        vmcs12_sync_rare(vcpu);
    const struct check_input input = {
        .field = vcpu->vmcs12.field,
        .caps = vcpu->config.offered,
        .physical_address_width = vcpu->config.l1_physical_address_width,
        .long_mode = long_mode,
        .vcpu = vcpu,
        .pdpte = plan->has_pdpte ? plan->pdpte : NULL,
    };
    struct check_report report;
    report.count = 0;
    enum check_stage broken = STAGE_COUNT;
    if (stages != 0)
        broken = check_stages(&input, stages, &report);
    if ((stages & 1u << STAGE_GUEST_HOT) == 0 && broken == STAGE_COUNT &&
        field_set_has(&vcpu->vmcs12.dirty, F_GUEST_RIP) && !check_rip(&input, &report))
        broken = STAGE_GUEST_HOT;
    if (broken != STAGE_COUNT) {
        entry_fail(vcpu, &input, broken, &report);
        return false;
    }
    return true;
}

void entry_from_l1(struct nvmx_vcpu *vcpu)
{
    shadow_collect(vcpu);
    bool controls_dirty = field_set_meets(&vcpu->vmcs12.dirty, &vcpu->controls);
    struct entry_plan plan;
    if (!entry_checks_hold(vcpu, controls_dirty, &plan))
        return;
    entry_plan_make(vcpu, controls_dirty || field_set_meets(&vcpu->vmcs12.dirty, &vcpu->merged), &plan);

    uint32_t msr_count = (uint32_t)vmcs12_get(vcpu, F_VM_ENTRY_MSR_LOAD_COUNT);
    if (msr_count != 0)
        vmcs12_sync_rare(vcpu); // a failing list leaves vmcs12's guest state as it is
    entry_commit(vcpu, &plan);
    uint32_t failed = 0;
    if (msr_count != 0)
        failed = msr_list_load(vcpu, l1pa(vmcs12_get(vcpu, F_VM_ENTRY_MSR_LOAD_ADDRESS)), msr_count);
    if (failed != 0) {
        vmcs12_set_all_dirty(vcpu); // L1 tried to enter with these, not with what the list made of them
        reflect_failed_entry(vcpu, EXIT_ENTRY_FAILURE_MSR_LOADING, failed);
    }
}
