// SPDX-License-Identifier: MIT
// A VM entry of L1's own that the processor refuses: L1 has brought about, or L0 has carried out for it, a
// state that no entry accepts, by a rule that L0 does not know. That is a defect of L0's, but not one that L1
// may stop L0 with. What can be taken back is a MOV to CR0 or CR4, whose values the processor has not judged
// before: it is #GP, as every MOV that the processor refuses. From anything else L1's processor shuts down,
// as by a triple fault. Manual: VM-Entry Failures During or After Loading Guest State; Checks on the Guest
// State Area; MOV - Move to/from Control Registers.
#include "engine.h"

#include <nvmx/check.h>

static bool uses_pae_paging(struct nvmx_vcpu *vcpu)
{
    return (vmcs_read(vcpu, F_GUEST_CR0) & CR0_PG) != 0 && (vmcs_read(vcpu, F_GUEST_CR4) & CR4_PAE) != 0 &&
           (vmcs_read(vcpu, F_GUEST_IA32_EFER) & EFER_LMA) == 0;
}

void l1_entry_remember(struct nvmx_vcpu *vcpu)
{
    struct l1_entry *old = &vcpu->l1_entry;
    *old = (struct l1_entry){
        .can_undo = true,
        .has_pdpte = uses_pae_paging(vcpu),
        .rip = vmcs_read(vcpu, F_GUEST_RIP),
        .cr0 = l1_cr0(vcpu),
        .cr4 = l1_cr4(vcpu),
        .efer = vmcs_read(vcpu, F_GUEST_IA32_EFER),
        .entry_controls = vmcs_read(vcpu, F_VM_ENTRY_CONTROLS),
        .interruptibility = vmcs_read(vcpu, F_GUEST_INTERRUPTIBILITY),
        .pending_debug = vmcs_read(vcpu, F_GUEST_PENDING_DEBUG_EXCEPTIONS),
    };
    for (unsigned i = 0; old->has_pdpte && i < 4; i++)
        old->pdpte[i] = vmcs_read(vcpu, (enum vmcs_field)(F_GUEST_PDPTE0 + i));
}

static void undo(struct nvmx_vcpu *vcpu)
{
    const struct l1_entry *old = &vcpu->l1_entry;
    vmcs_write(vcpu, F_GUEST_RIP, old->rip);
    vmcs_write(vcpu, F_GUEST_IA32_EFER, old->efer);
    vmcs_write(vcpu, F_VM_ENTRY_CONTROLS, old->entry_controls);
    vmcs_write(vcpu, F_GUEST_INTERRUPTIBILITY, old->interruptibility);
    vmcs_write(vcpu, F_GUEST_PENDING_DEBUG_EXCEPTIONS, old->pending_debug);
    for (unsigned i = 0; old->has_pdpte && i < 4; i++)
        vmcs_write(vcpu, (enum vmcs_field)(F_GUEST_PDPTE0 + i), old->pdpte[i]);
    l1_cr_write_state(vcpu, old->cr0, old->cr4);
}

// What was to be injected behind the MOV comes behind its #GP.
static void postpone_event(struct nvmx_vcpu *vcpu)
{
    uint32_t info = vcpu->event.info;
    vcpu->event.info = 0;
    if (info == 0)
        return;
    if (event_type(info) == EVENT_NMI)
        nvmx_pend_nmi(vcpu);
    else if ((info & INTERRUPTION_VECTOR_MASK) == VECTOR_MC)
        nvmx_pend_machine_check(vcpu);
}

// The rules that L0 knows, applied to what vmcs01 has of L1.
static void explain(struct nvmx_vcpu *vcpu)
{
    uint64_t field[F_COUNT] = {0};
    bool pae = uses_pae_paging(vcpu);
    for (enum vmcs_field f = 0; f < F_COUNT; f++)
        if (state_section_has(vcpu, NVMX_STATE_OF_L1, f) && (pae || f < F_GUEST_PDPTE0 || f > F_GUEST_PDPTE3))
            field[f] = vmcs_read(vcpu, f);
    static const enum vmcs_field controls[] = {F_PIN_BASED_CONTROLS, F_PRIMARY_CONTROLS, F_SECONDARY_CONTROLS,
                                               F_VM_ENTRY_CONTROLS};
    for (unsigned i = 0; i < sizeof controls / sizeof controls[0]; i++)
        field[controls[i]] = vmcs_read(vcpu, controls[i]);
    field[F_VMCS_LINK_POINTER] = ~0ull; // L0's
    field[F_VM_ENTRY_INTERRUPTION_INFO] = vcpu->event.info;
    field[F_VM_ENTRY_EXCEPTION_ERROR_CODE] = vcpu->event.error_code;
    field[F_VM_ENTRY_INSTRUCTION_LENGTH] = vcpu->event.instruction_length;
    const struct check_input input = {
        .field = field,
        .caps = vcpu->config.hardware,
        .physical_address_width = vcpu->config.l1_physical_address_width,
        .long_mode = true,
    };
    struct check_report *report = &vcpu->failed_entry;
    report->count = 0;
    check_stage(&input, STAGE_CONTROLS_HOT, report);
    check_stage(&input, STAGE_GUEST, report);
    check_stage(&input, STAGE_GUEST_HOT, report);
    for (uint32_t i = 0; i < report->count && i < CHECK_REPORT_MAX; i++)
        port_explain(vcpu, &report->broken[i]);
    if (report->count == 0)
        port_log(vcpu, "... which breaks no rule that L0 knows; CR0, CR4", field[F_GUEST_CR0],
                 field[F_GUEST_CR4]);
}

// The state after INIT, which every processor enters, in shutdown.
static void shut_down(struct nvmx_vcpu *vcpu)
{
    bool init_pending = vcpu->init_pending;
    nvmx_reset_l1(vcpu);
    vcpu->init_pending = init_pending;
    vcpu->l1_entry.is_reset = true;
    nvmx_write(vcpu, F_GUEST_ACTIVITY_STATE, ACTIVITY_SHUTDOWN);
    vcpu->exit = (struct nvmx_exit){.reason = EXIT_TRIPLE_FAULT};
}

enum nvmx_outcome l1_entry_failed(struct nvmx_vcpu *vcpu, uint64_t why, uint64_t qualification)
{
    if (vcpu->l1_entry.is_reset) // there is nothing of L1's in vmcs01 any more
        port_bug("VM entry of L1 failed, after a reset, too; reason or error, qualification", why,
                 qualification);
    vcpu->refused_entry_count++;
    port_log(vcpu, "DETECTOR: VM entry of L1 failed; reason or error, qualification", why, qualification);
    port_log(vcpu, "... of L1 at RIP, which is taken back to", vmcs_read(vcpu, F_GUEST_RIP),
             vcpu->l1_entry.can_undo ? vcpu->l1_entry.rip : 0);
    explain(vcpu);
    if (!vcpu->l1_entry.can_undo) {
        shut_down(vcpu);
        return NVMX_EXIT_FOR_L0;
    }
    undo(vcpu);
    vcpu->l1_entry.can_undo = false;
    postpone_event(vcpu);
    nvmx_raise(vcpu, VECTOR_GP, true, 0);
    return NVMX_CONTINUE;
}
