// SPDX-License-Identifier: MIT
// An exit of L2 becomes L1's VM exit: L2's state and the exit information go into vmcs12, L1's host state
// into vmcs01. Manual: VM Exits (Recording VM-Exit Information; Saving Guest State; Saving MSRs; Loading Host
// State; Loading MSRs; VMX Aborts); VM-Entry Failures During or After Loading Guest State.
#include "engine.h"

#define VMX_ABORT_SAVING_MSRS  1u
#define VMX_ABORT_HOST_PDPTE   2u
#define VMX_ABORT_LOADING_MSRS 4u
#define VMX_ABORT_LONG_MODE    6u // with a 32-bit host
#define PDPTE_RESERVED         0x1e6ull

// L1's logical processor stops, and L1's VMCS region says why; the rest of the machine goes on.
static void vmx_abort(struct nvmx_vcpu *vcpu, uint32_t indicator)
{
    port_log(vcpu, "VMX abort; indicator, vmcs12", indicator, vcpu->vmcs12_pointer.value);
    port_l1_write(vcpu, l1pa(vcpu->vmcs12_pointer.value + 4), &indicator, sizeof indicator);
    vcpu->aborted = true;
    nvmx_write(vcpu, F_GUEST_ACTIVITY_STATE, ACTIVITY_SHUTDOWN);
    vmcs_write(vcpu, F_GUEST_INTERRUPTIBILITY, 0);
}

static void record_exit(struct nvmx_vcpu *vcpu)
{
    const struct nvmx_exit *exit = &vcpu->exit;
    uint64_t *field = vcpu->vmcs12.field;
    field[F_EXIT_REASON] = exit->reason;
    field[F_EXIT_QUALIFICATION] = exit->qualification;
    field[F_VM_EXIT_INTERRUPTION_INFO] = exit->interruption_info;
    field[F_VM_EXIT_INTERRUPTION_ERROR_CODE] = exit->interruption_error_code;
    field[F_IDT_VECTORING_INFO] = exit->idt_vectoring_info;
    field[F_IDT_VECTORING_ERROR_CODE] = exit->idt_vectoring_error_code;
    field[F_VM_EXIT_INSTRUCTION_INFO] = exit->instruction_info;
    field[F_GUEST_LINEAR_ADDRESS] = exit->guest_linear_address;
    field[F_GUEST_PHYSICAL_ADDRESS] = exit->guest_physical_address;
    // Also an exit during the delivery of a software event has an instruction length.
    uint32_t type = event_type(exit->idt_vectoring_info);
    field[F_VM_EXIT_INSTRUCTION_LENGTH] = exit->instruction_length;
    if (exit->idt_vectoring_info != 0 && type >= EVENT_SOFTWARE_INTERRUPT && exit->instruction_length == 0)
        field[F_VM_EXIT_INSTRUCTION_LENGTH] = vmcs_read(vcpu, F_VM_EXIT_INSTRUCTION_LENGTH);
    field[F_VM_ENTRY_INTERRUPTION_INFO] &= ~(uint64_t)INTERRUPTION_VALID;
}

// EFER, as it is when the exit happens, is returned: L1 keeps what its VM-exit controls do not load.
static void save_merged(struct nvmx_vcpu *vcpu, uint64_t *efer, uint64_t *pat)
{
    uint64_t *field = vcpu->vmcs12.field;
    uint32_t exit = (uint32_t)field[F_VM_EXIT_CONTROLS];
    *efer = vmcs_read(vcpu, F_GUEST_IA32_EFER);
    *pat = vmcs_read(vcpu, F_GUEST_IA32_PAT);
    uint64_t debugctl = vmcs_read(vcpu, F_GUEST_IA32_DEBUGCTL), dr7 = vmcs_read(vcpu, F_GUEST_DR7);
    uint64_t entry02 = vmcs_read(vcpu, F_VM_ENTRY_CONTROLS);
    if ((exit & EXIT_SAVE_EFER) != 0)
        field[F_GUEST_IA32_EFER] = *efer;
    if ((exit & EXIT_SAVE_PAT) != 0)
        field[F_GUEST_IA32_PAT] = *pat;
    if ((exit & EXIT_SAVE_DEBUG_CONTROLS) != 0) {
        field[F_GUEST_IA32_DEBUGCTL] = debugctl;
        field[F_GUEST_DR7] = dr7;
    }
    if ((vcpu->config.offered->msr[MSR_IA32_VMX_MISC - CAPS_MSR_FIRST] & MISC_STORES_LMA) != 0) {
        field[F_VM_ENTRY_CONTROLS] &= ~(uint64_t)ENTRY_IA32E_MODE_GUEST;
        field[F_VM_ENTRY_CONTROLS] |= (*efer & EFER_LMA) != 0 ? ENTRY_IA32E_MODE_GUEST : 0;
    }
    struct vmcs *vmcs02 = &vcpu->vmcs02;
    vmcs_note(vmcs02, F_GUEST_IA32_EFER, *efer);
    vmcs_note(vmcs02, F_GUEST_IA32_PAT, *pat);
    vmcs_note(vmcs02, F_GUEST_IA32_DEBUGCTL, debugctl);
    vmcs_note(vmcs02, F_GUEST_DR7, dr7);
    vmcs_note(vmcs02, F_VM_ENTRY_CONTROLS, entry02);
    if ((vmcs12_pin(vcpu) & PIN_PREEMPTION_TIMER) != 0) {
        uint64_t timer = vmcs_read(vcpu, F_PREEMPTION_TIMER_VALUE);
        vmcs_note(vmcs02, F_PREEMPTION_TIMER_VALUE, timer);
        if ((exit & EXIT_SAVE_PREEMPTION_TIMER) != 0)
            field[F_PREEMPTION_TIMER_VALUE] = timer;
    }
}

static void save_hot(struct nvmx_vcpu *vcpu)
{
    uint64_t *field = vcpu->vmcs12.field;
#define FIELD(name, encoding, width, type, exists, entry, exit)                                              \
    if (EXIT_##exit == EXIT_SAVE_HOT &&                                                                      \
        (exists == EX_ALWAYS || field_set_has(&vcpu->exists_hardware, F_##name)))                            \
        field[F_##name] = hw_vmread(vcpu->cpu, encoding);
#include <nvmx/vmcs_fields.def>
#undef FIELD
    // An event that L0 was about to deliver (again) for L1 is none of the new exit's: it was recorded.
    vcpu->event.info = 0;
}

// Straight-line code: the encodings are constants.
#define LOAD_SEGMENT(name, selector, base, limit, access_rights)                                             \
    do {                                                                                                     \
        vmcs_write(vcpu, F_GUEST_##name##_SELECTOR, (selector));                                             \
        vmcs_write(vcpu, F_GUEST_##name##_BASE, (base));                                                     \
        vmcs_write(vcpu, F_GUEST_##name##_LIMIT, (limit));                                                   \
        vmcs_write(vcpu, F_GUEST_##name##_ACCESS_RIGHTS, (access_rights));                                   \
    } while (0)

static uint64_t data_segment_rights(uint64_t selector)
{
    return selector == 0 ? 0xc093 | SEGMENT_UNUSABLE : 0xc093;
}

// Loading Host Segment and Descriptor-Table Registers
static void load_segments(struct nvmx_vcpu *vcpu, bool is_64bit)
{
    const uint64_t *field = vcpu->vmcs12.field;
    const uint64_t limit = 0xffffffff;
    LOAD_SEGMENT(CS, field[F_HOST_CS_SELECTOR], 0, limit, is_64bit ? 0xa09b : 0xc09b);
#define LOAD_DATA_SEGMENT(name, base)                                                                        \
    LOAD_SEGMENT(name, field[F_HOST_##name##_SELECTOR], base, limit,                                         \
                 data_segment_rights(field[F_HOST_##name##_SELECTOR]))
    LOAD_DATA_SEGMENT(ES, 0);
    LOAD_DATA_SEGMENT(SS, 0);
    LOAD_DATA_SEGMENT(DS, 0);
    LOAD_DATA_SEGMENT(FS, field[F_HOST_FS_BASE]);
    LOAD_DATA_SEGMENT(GS, field[F_HOST_GS_BASE]);
#undef LOAD_DATA_SEGMENT
    vmcs_write(vcpu, F_GUEST_LDTR_SELECTOR, 0); // base and limit of an unusable LDTR are undefined
    vmcs_write(vcpu, F_GUEST_LDTR_ACCESS_RIGHTS, SEGMENT_UNUSABLE);
    LOAD_SEGMENT(TR, field[F_HOST_TR_SELECTOR], field[F_HOST_TR_BASE], 0x67, 0x8b);
    vmcs_write(vcpu, F_GUEST_GDTR_BASE, field[F_HOST_GDTR_BASE]);
    vmcs_write(vcpu, F_GUEST_IDTR_BASE, field[F_HOST_IDTR_BASE]);
    vmcs_write(vcpu, F_GUEST_GDTR_LIMIT, 0xffff);
    vmcs_write(vcpu, F_GUEST_IDTR_LIMIT, 0xffff);
}

// A 32-bit host with PAE paging: its PDPTEs are read from CR3 now.
static void load_host_pdptes(struct nvmx_vcpu *vcpu)
{
    uint64_t pdpte[4];
    bool valid = port_l1_read(vcpu, l1pa(vcpu->vmcs12.field[F_HOST_CR3] & 0xffffffe0), pdpte, sizeof pdpte);
    for (unsigned i = 0; i < 4 && valid; i++)
        valid = (pdpte[i] & 1) == 0 ||
                ((pdpte[i] & PDPTE_RESERVED) == 0 && pdpte[i] >> vcpu->config.l1_physical_address_width == 0);
    if (!valid) // or there is no memory, whose ones are reserved bits
        vmx_abort(vcpu, VMX_ABORT_HOST_PDPTE);
    for (unsigned i = 0; i < 4; i++)
        vmcs_write(vcpu, (enum vmcs_field)(F_GUEST_PDPTE0 + i), valid ? pdpte[i] : 0);
}

// L1's next state, from vmcs12's host-state area into vmcs01, which is current. `efer` and `pat`: as they
// were.
static void load_host_state(struct nvmx_vcpu *vcpu, uint64_t efer, uint64_t pat)
{
    const uint64_t *field = vcpu->vmcs12.field;
    uint32_t exit = (uint32_t)field[F_VM_EXIT_CONTROLS];
    bool is_64bit = (exit & EXIT_HOST_ADDRESS_SPACE_SIZE) != 0;
    // CR0.ET, CD and NW stay as they are; in CR4, PAE is forced for a 64-bit host and PCIDE cleared for
    // another.
    uint64_t keep = CR0_ET | CR0_CD | CR0_NW;
    uint64_t cr0 = (field[F_HOST_CR0] & ~keep) | (l1_cr0(vcpu) & keep);
    uint64_t cr4 = is_64bit ? field[F_HOST_CR4] | CR4_PAE : field[F_HOST_CR4] & ~CR4_PCIDE;
    l1_cr_write_state(vcpu, cr0, cr4);
    vmcs_write(vcpu, F_GUEST_CR3, field[F_HOST_CR3]);

    uint64_t mode = is_64bit ? EFER_LMA | EFER_LME : 0;
    efer = (exit & EXIT_LOAD_EFER) != 0 ? field[F_HOST_IA32_EFER] : (efer & ~(EFER_LMA | EFER_LME)) | mode;
    vmcs_write(vcpu, F_GUEST_IA32_EFER, efer);
    vmcs_write(vcpu, F_GUEST_IA32_PAT, (exit & EXIT_LOAD_PAT) != 0 ? field[F_HOST_IA32_PAT] : pat);
    uint64_t entry01 = vmcs_read(vcpu, F_VM_ENTRY_CONTROLS);
    uint64_t entry_wanted =
        (entry01 & ~(uint64_t)ENTRY_IA32E_MODE_GUEST) | (is_64bit ? ENTRY_IA32E_MODE_GUEST : 0);
    if (entry_wanted != entry01)
        vmcs_write(vcpu, F_VM_ENTRY_CONTROLS, entry_wanted);

    load_segments(vcpu, is_64bit);
    vmcs_write(vcpu, F_GUEST_RIP, field[F_HOST_RIP]);
    vmcs_write(vcpu, F_GUEST_RSP, field[F_HOST_RSP]);
    vmcs_write(vcpu, F_GUEST_RFLAGS, RFLAGS_FIXED);
    vmcs_write(vcpu, F_GUEST_SYSENTER_CS, field[F_HOST_SYSENTER_CS]);
    vmcs_write(vcpu, F_GUEST_SYSENTER_ESP, field[F_HOST_SYSENTER_ESP]);
    vmcs_write(vcpu, F_GUEST_SYSENTER_EIP, field[F_HOST_SYSENTER_EIP]);
    vmcs_write(vcpu, F_GUEST_DR7, 0x400);
    vmcs_write(vcpu, F_GUEST_IA32_DEBUGCTL, 0);
    vmcs_write(vcpu, F_GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    vmcs_write(vcpu, F_GUEST_ACTIVITY_STATE, ACTIVITY_ACTIVE);
    // NMIs are blocked after an exit that an NMI caused, and as they were otherwise.
    bool nmi =
        vcpu->exit.reason == EXIT_EXCEPTION_OR_NMI && event_type(vcpu->exit.interruption_info) == EVENT_NMI;
    bool blocked = (vmcs12_pin(vcpu) & PIN_VIRTUAL_NMIS) == 0 &&
                   (field[F_GUEST_INTERRUPTIBILITY] & INTERRUPTIBILITY_NMI) != 0;
    if (vcpu->exit.reason ==
        (EXIT_ENTRY_FAILURE_GUEST_STATE | EXIT_REASON_ENTRY_FAILURE)) // nothing was loaded
        blocked = (vmcs_read(vcpu, F_GUEST_INTERRUPTIBILITY) & INTERRUPTIBILITY_NMI) != 0;
    vmcs_write(vcpu, F_GUEST_INTERRUPTIBILITY, nmi || blocked ? INTERRUPTIBILITY_NMI : 0);

    if (!is_64bit && (cr4 & CR4_PAE) != 0 && (cr0 & CR0_PG) != 0)
        load_host_pdptes(vcpu);
    if (vcpu->config.policy.vpid01 != 0 && vcpu->vpid02.vpid12 == 0) // L1 without VPID: the exit flushes
        hw_invvpid(vcpu->cpu, INVVPID_SINGLE_CONTEXT, vcpu->config.policy.vpid01, 0);
}

static void become_l1(struct nvmx_vcpu *vcpu, uint64_t efer, uint64_t pat)
{
    vcpu->in_l2 = false;
    vcpu->entry_pending = false;
    vcpu->event.info = 0;
    if (vcpu->shadow12.open)
        shadow12_close(vcpu);
    if (vcpu->config.branch_predictor_barrier)
        hw_wrmsr(vcpu->cpu, MSR_IA32_PRED_CMD, PRED_CMD_IBPB);
    vmcs_make_current(vcpu, &vcpu->vmcs01);
    vmcs_write_host_state(vcpu, &vcpu->vmcs01);
    load_host_state(vcpu, efer, pat);
    shadow_publish(vcpu);
    uint32_t count = (uint32_t)vmcs12_get(vcpu, F_VM_EXIT_MSR_LOAD_COUNT);
    if (count != 0 && !vcpu->aborted &&
        msr_list_load(vcpu, l1pa(vmcs12_get(vcpu, F_VM_EXIT_MSR_LOAD_ADDRESS)), count) != 0)
        vmx_abort(vcpu, VMX_ABORT_LOADING_MSRS);
}

// L2 went to another paging mode: what the exit saved of that may not fit what it did not save (IA32_EFER,
// the VM-entry controls). The guest-state checks see CR0 as written.
static void note_mode_change(struct nvmx_vcpu *vcpu, uint64_t old_cr0, uint64_t old_cr4)
{
    const uint64_t *field = vcpu->vmcs12.field;
    if (((old_cr0 ^ field[F_GUEST_CR0]) & (CR0_PE | CR0_PG)) != 0 ||
        ((old_cr4 ^ field[F_GUEST_CR4]) & (CR4_PAE | CR4_PCIDE)) != 0)
        field_set_add(&vcpu->vmcs12.dirty, F_GUEST_CR0);
}

void reflect_exit(struct nvmx_vcpu *vcpu)
{
    uint64_t efer, pat, cr0 = vmcs12_get(vcpu, F_GUEST_CR0), cr4 = vmcs12_get(vcpu, F_GUEST_CR4);
    event_leave_vmcs(vcpu);
    save_hot(vcpu);
    note_mode_change(vcpu, cr0, cr4);
    record_exit(vcpu);
    save_merged(vcpu, &efer, &pat);
    uint32_t count = (uint32_t)vmcs12_get(vcpu, F_VM_EXIT_MSR_STORE_COUNT);
    bool aborted =
        count != 0 && msr_list_store(vcpu, l1pa(vmcs12_get(vcpu, F_VM_EXIT_MSR_STORE_ADDRESS)), count) != 0;
    vcpu->reflected_count++;
    bool long_mode = (efer & EFER_LMA) != 0;
    become_l1(vcpu, efer, pat);
    if (aborted)
        vmx_abort(vcpu, VMX_ABORT_SAVING_MSRS);
    else if (long_mode && (vmcs12_get(vcpu, F_VM_EXIT_CONTROLS) & EXIT_HOST_ADDRESS_SPACE_SIZE) == 0)
        vmx_abort(vcpu, VMX_ABORT_LONG_MODE);
}

void reflect_failed_entry(struct nvmx_vcpu *vcpu, uint32_t basic_reason, uint64_t qualification)
{
    // Only the exit reason and the qualification are written; guest state, launch state and the rest stay.
    // What the host state does not load, L1 has of its own, or of the guest state when that was loaded
    // already.
    bool guest_state_loaded = basic_reason == EXIT_ENTRY_FAILURE_MSR_LOADING;
    event_leave_vmcs(vcpu);
    vmcs_make_current(vcpu, guest_state_loaded ? &vcpu->vmcs02 : &vcpu->vmcs01);
    uint64_t efer = vmcs_read(vcpu, F_GUEST_IA32_EFER), pat = vmcs_read(vcpu, F_GUEST_IA32_PAT);
    vcpu->vmcs12.field[F_EXIT_REASON] = basic_reason | EXIT_REASON_ENTRY_FAILURE;
    vcpu->vmcs12.field[F_EXIT_QUALIFICATION] = qualification;
    vcpu->exit = (struct nvmx_exit){.reason = basic_reason | EXIT_REASON_ENTRY_FAILURE};
    vcpu->in_l2 = false;
    become_l1(vcpu, efer, pat);
}
