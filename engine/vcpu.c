// SPDX-License-Identifier: MIT
// One virtual processor of L1: what it is made of, and entering it once.
#include "engine.h"

#define Q EXIT_INFO_Q
#define L EXIT_INFO_L
#define I EXIT_INFO_I
#define G EXIT_INFO_G
#define P EXIT_INFO_P
#define V EXIT_INFO_V
#define S EXIT_INFO_S
const uint8_t exit_info_members[EXIT_REASON_COUNT] = {
#define EXIT(number, name, route, info) [number] = (info),
#include <nvmx/exits.def>
#undef EXIT
};

const char *nvmx_exit_name(uint32_t basic_reason)
{
    static const char *const names[EXIT_REASON_COUNT] = {
#define EXIT(number, name, route, info) [number] = #name,
#include <nvmx/exits.def>
#undef EXIT
    };
    return basic_reason < EXIT_REASON_COUNT ? names[basic_reason] : "?";
}

void page_fill(l0pa_t page, uint64_t value)
{
    uint64_t *word = port_l0_map(page);
    for (unsigned i = 0; i < PAGE_SIZE / sizeof *word; i++)
        word[i] = value;
}

static void vmcs_region_prepare(const struct nvmx_vcpu_config *config, l0pa_t region)
{
    page_fill(region, 0);
    *(uint32_t *)port_l0_map(region) = (uint32_t)config->hardware->msr[0] & 0x7fffffff; // revision identifier
}

static void field_sets_init(struct nvmx_vcpu *vcpu)
{
    const struct nvmx_vcpu_config *config = &vcpu->config;
    vcpu->exists_hardware = field_set_existing(config->hardware);
    vcpu->exists_l1 = field_set_existing(config->offered);
    vcpu->rare = field_set_and(field_set_of_entry(ENTRY_RARE), vcpu->exists_hardware);
    vcpu->merged = field_set_and(field_set_of_entry(ENTRY_MERGED), vcpu->exists_hardware);
    vcpu->controls = field_set_and_not(field_set_of_type(VMCS_TYPE_CONTROL), field_set_of_entry(ENTRY_EVENT));
    vcpu->host = field_set_of_type(VMCS_TYPE_HOST);
    vcpu->guest_not_hot = field_set_of_type(VMCS_TYPE_GUEST);
    // No row of stage GUEST depends on these, which L1 writes at almost every entry.
    static const enum vmcs_field hot[] = {F_GUEST_RIP,
                                          F_GUEST_RSP,
                                          F_GUEST_CR3,
                                          F_GUEST_INTERRUPTIBILITY,
                                          F_GUEST_ACTIVITY_STATE,
                                          F_GUEST_PENDING_DEBUG_EXCEPTIONS,
                                          F_GUEST_INTERRUPT_STATUS,
                                          F_PML_INDEX,
                                          F_PREEMPTION_TIMER_VALUE};
    for (unsigned i = 0; i < sizeof hot / sizeof hot[0]; i++)
        field_set_remove(&vcpu->guest_not_hot, hot[i]);
}

const char *nvmx_vcpu_init(struct nvmx_vcpu *vcpu, const struct nvmx_vcpu_config *config)
{
    const char *problem = config_problem(config);
    if (problem != NULL)
        return problem;
    *vcpu = (struct nvmx_vcpu){.config = *config};
    vcpu->vmcs12_pointer = l1pa(NO_VMCS12);
    vmcs_region_prepare(config, config->pages.vmcs01);
    vmcs_region_prepare(config, config->pages.vmcs02);
    vmcs_init(&vcpu->vmcs01, config->pages.vmcs01);
    vmcs_init(&vcpu->vmcs02, config->pages.vmcs02);
    field_sets_init(vcpu);
    ept02_init(&vcpu->ept02, config->pages.ept02_pool, config->pages.ept02_pool_pages);
    vpid02_init(vcpu);
    bitmaps_init(vcpu);
    if (config->pages.shadow_vmcs.value != 0) {
        vmcs_region_prepare(config, config->pages.shadow_vmcs);
        page_fill(config->pages.vmread_bitmap, ~0ull);
        page_fill(config->pages.vmwrite_bitmap, ~0ull);
        shadow_init(vcpu);
    }
    shadow12_init(vcpu);
    return NULL;
}

static uint32_t control_adjust(const struct nvmx_vcpu *vcpu, enum caps_word word, uint32_t wanted)
{
    const struct nvmx_caps *hardware = vcpu->config.hardware;
    return (wanted | nvmx_caps_allowed0(hardware, word)) & nvmx_caps_allowed1(hardware, word);
}

// vmcs01's controls: L0's policy, and nothing of L1's.
void vmcs01_write_controls(struct nvmx_vcpu *vcpu)
{
    const struct nvmx_l0_policy *policy = &vcpu->config.policy;
    uint32_t secondary = policy->secondary | SECONDARY_ENABLE_EPT | SECONDARY_UNRESTRICTED_GUEST |
                         (policy->vpid01 != 0 ? SECONDARY_ENABLE_VPID : 0);
    uint32_t primary = policy->primary | PRIMARY_ACTIVATE_SECONDARY | PRIMARY_USE_MSR_BITMAPS;
    uint32_t exit = EXIT_HOST_ADDRESS_SPACE_SIZE | EXIT_SAVE_DEBUG_CONTROLS | EXIT_SAVE_PAT | EXIT_LOAD_PAT |
                    EXIT_SAVE_EFER | EXIT_LOAD_EFER;
    uint32_t entry = ENTRY_LOAD_DEBUG_CONTROLS | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER;
    struct vmcs *vmcs01 = &vcpu->vmcs01;
    vmcs_write_if_changed(vcpu, vmcs01, F_PIN_BASED_CONTROLS, control_adjust(vcpu, CAPS_PIN, policy->pin));
    vmcs_write_if_changed(vcpu, vmcs01, F_PRIMARY_CONTROLS, control_adjust(vcpu, CAPS_PRIMARY, primary));
    vmcs_write_if_changed(vcpu, vmcs01, F_SECONDARY_CONTROLS,
                          control_adjust(vcpu, CAPS_SECONDARY, secondary));
    vmcs_write(vcpu, F_VM_EXIT_CONTROLS, control_adjust(vcpu, CAPS_EXIT, exit));
    vmcs_write(vcpu, F_VM_ENTRY_CONTROLS, control_adjust(vcpu, CAPS_ENTRY, entry));
    vmcs_write(vcpu, F_EXCEPTION_BITMAP, policy->exception_bitmap);
    vmcs_write(vcpu, F_PAGE_FAULT_ERROR_CODE_MASK, 0);
    vmcs_write(vcpu, F_PAGE_FAULT_ERROR_CODE_MATCH, 0);
    vmcs_write(vcpu, F_CR3_TARGET_COUNT, 0);
    vmcs_write(vcpu, F_TSC_OFFSET, 0);
    vmcs_write(vcpu, F_EPT_POINTER, policy->ept_pointer);
    if (policy->vpid01 != 0)
        vmcs_write(vcpu, F_VPID, policy->vpid01);
    if (field_set_has(&vcpu->exists_hardware, F_XSS_EXITING_BITMAP))
        vmcs_write(vcpu, F_XSS_EXITING_BITMAP, 0);
    // L1's registers are L0's to set, with nvmx_write; what VMX operation forces is in from here on.
    vmcs_write(vcpu, F_GUEST_CR0, 0);
    vmcs_write(vcpu, F_GUEST_CR4, 0);
    vmcs_write(vcpu, F_CR0_READ_SHADOW, 0);
    vmcs_write(vcpu, F_CR4_READ_SHADOW, 0);
    l1_cr_update_masks(vcpu, false);
}

// Quirk of some processors: an exit during the delivery of a virtual interrupt records vector 0, which no
// local APIC delivers. The interrupt is then the one that virtual-interrupt delivery has just put in service
// (SVI).
static uint8_t virtual_interrupt_in_service(const struct nvmx_vcpu *vcpu)
{
    if (!field_set_has(&vcpu->exists_hardware, F_GUEST_INTERRUPT_STATUS))
        return 0;
    return (uint8_t)(vmcs_read(vcpu, F_GUEST_INTERRUPT_STATUS) >> 8);
}

static void exit_read_members(struct nvmx_vcpu *vcpu, uint32_t members)
{
    struct nvmx_exit *exit = &vcpu->exit;
    if ((members & Q) != 0)
        exit->qualification = vmcs_read(vcpu, F_EXIT_QUALIFICATION);
    if ((members & I) != 0)
        exit->instruction_info = (uint32_t)vmcs_read(vcpu, F_VM_EXIT_INSTRUCTION_INFO);
    if ((members & G) != 0)
        exit->guest_linear_address = vmcs_read(vcpu, F_GUEST_LINEAR_ADDRESS);
    if ((members & P) != 0)
        exit->guest_physical_address = vmcs_read(vcpu, F_GUEST_PHYSICAL_ADDRESS);
    if ((members & V) != 0)
        exit->interruption_info = (uint32_t)vmcs_read(vcpu, F_VM_EXIT_INTERRUPTION_INFO);
    if ((exit->interruption_info & INTERRUPTION_ERROR_CODE) != 0)
        exit->interruption_error_code = (uint32_t)vmcs_read(vcpu, F_VM_EXIT_INTERRUPTION_ERROR_CODE);
}

// Format of Exit Reason: the bits between (a bus lock, enclave mode, a pending MTF exit, ...) belong to what
// L0 does not use and L1 is not offered.
static uint32_t exit_read_reason(const struct nvmx_vcpu *vcpu)
{
    return (uint32_t)vmcs_read(vcpu, F_EXIT_REASON) & (EXIT_REASON_BASIC_MASK | EXIT_REASON_ENTRY_FAILURE);
}

static void exit_read(struct nvmx_vcpu *vcpu)
{
    struct nvmx_exit *exit = &vcpu->exit;
    uint32_t reason = exit_read_reason(vcpu), basic = reason & EXIT_REASON_BASIC_MASK;
    uint32_t members = basic < EXIT_REASON_COUNT ? exit_info_members[basic] : 0;
    *exit = (struct nvmx_exit){.reason = reason};
    if ((members & L) != 0)
        exit->instruction_length = (uint32_t)vmcs_read(vcpu, F_VM_EXIT_INSTRUCTION_LENGTH);
    if ((members & ~(L | S)) != 0)
        exit_read_members(vcpu, members);
    if ((reason & EXIT_REASON_ENTRY_FAILURE) != 0)
        return; // a failed entry delivers nothing, and leaves the field as it was
    uint32_t vectoring = (uint32_t)vmcs_read(vcpu, F_IDT_VECTORING_INFO);
    if ((vectoring & INTERRUPTION_VALID) == 0)
        return;
    if (vectoring == INTERRUPTION_VALID)
        vectoring |= (uint32_t)virtual_interrupt_in_service(vcpu);
    exit->idt_vectoring_info = vectoring;
    if ((vectoring & INTERRUPTION_ERROR_CODE) != 0)
        exit->idt_vectoring_error_code = (uint32_t)vmcs_read(vcpu, F_IDT_VECTORING_ERROR_CODE);
}

// What vmcs02 holds is L1's own writing; none of it counts as accepted.
static void entry_forget(struct nvmx_vcpu *vcpu)
{
    vmcs12_sync_rare(vcpu);
    vmcs12_set_all_dirty(vcpu);
}

// What was prepared for the entry is decided again.
static void entry_not_made(struct nvmx_vcpu *vcpu)
{
    if (vcpu->shutdown)
        shutdown_after_exit(vcpu);
    event_undo_prepare(vcpu);
}

// The processor refused an entry of L2 that our checks had passed, with a VMfail: L1 gets the same.
static enum nvmx_outcome entry_refused(struct nvmx_vcpu *vcpu)
{
    uint32_t error = (uint32_t)vmcs_read(vcpu, F_VM_INSTRUCTION_ERROR);
    if (error == 7 && tpr_race_lost(vcpu)) {
        entry_not_made(vcpu);
        return NVMX_CONTINUE;
    }
    tpr_race_restore(vcpu);
    if (!vcpu->in_l2) {
        entry_not_made(vcpu);
        return l1_entry_failed(vcpu, error, 0);
    }
    detector_report(vcpu, "DETECTOR: VMfail of an entry that passed every check; error, entry pending", error,
                    vcpu->entry_pending);
    entry_forget(vcpu);
    if (!vcpu->entry_pending) { // L2 was running: there is no VMLAUNCH of L1's that could fail
        reflect_failed_entry(vcpu, EXIT_ENTRY_FAILURE_GUEST_STATE, 0);
        return NVMX_CONTINUE;
    }
    event_leave_vmcs(vcpu);
    vcpu->in_l2 = false;
    vcpu->entry_pending = false;
    vmcs_make_current(vcpu, &vcpu->vmcs01);
    instruction_fail(vcpu, error);
    return NVMX_CONTINUE;
}

// A failed entry of L1's is L1's; one that L1 knows nothing of was not made, and whoever was to run has the
// machine check. (What shutdown.c does is undone by now.)
static void entry_had_a_machine_check(struct nvmx_vcpu *vcpu)
{
    if (vcpu->in_l2 && vcpu->entry_pending) {
        entry_forget(vcpu);
        reflect_failed_entry(vcpu, EXIT_ENTRY_FAILURE_MACHINE_CHECK, vcpu->exit.qualification);
        return;
    }
    event_undo_prepare(vcpu);
    nvmx_pend_machine_check(vcpu);
}

// A fault based on privilege level comes before the exit: some processors exit first. Virtual-8086 mode is
// CPL 3, in SS, too.
static bool exit_is_privilege_fault(struct nvmx_vcpu *vcpu, uint32_t basic)
{
    if (basic >= EXIT_REASON_COUNT || (exit_info_members[basic] & S) == 0 || l1_cpl(vcpu) == 0)
        return false;
    nvmx_raise(vcpu, VECTOR_GP, true, 0);
    return true;
}

enum nvmx_outcome nvmx_run(struct nvmx_vcpu *vcpu)
{
    if (vcpu->init_pending && !vcpu->vmxon) { // VMXOFF lets it in
        vcpu->init_pending = false;
        vcpu->exit = (struct nvmx_exit){.reason = EXIT_INIT_SIGNAL};
        return NVMX_EXIT_FOR_L0;
    }
    if (vcpu->posted_pending && !posted_process(vcpu))
        return NVMX_CONTINUE;
    event_prepare(vcpu);
    if (vcpu->shutdown)
        shutdown_before_entry(vcpu);
    struct vmcs *vmcs = vcpu->current;
    bool l2 = vcpu->in_l2;
    if (!l2 && vcpu->shadow.attached && vcpu->shadow.vmcs.active_on == NULL)
        vmcs_list_add(vcpu, &vcpu->shadow.vmcs); // the VM entry makes the linked VMCS active
    if (l2 && vcpu->shadow12.linked && vcpu->shadow12.vmcs.active_on == NULL)
        vmcs_list_add(vcpu, &vcpu->shadow12.vmcs);
    enum vmx_status status = hw_enter(vcpu->cpu, &vcpu->regs, !vmcs->launched);
    if (status == VMX_NOT_ENTERED) {
        tpr_race_restore(vcpu);
        entry_not_made(vcpu);
        return NVMX_CONTINUE;
    }
    if (status != VMX_SUCCEED)
        return entry_refused(vcpu);
    tpr_race_restore(vcpu);
    if (vcpu->shutdown)
        shutdown_after_exit(vcpu);
    exit_read(vcpu);
    uint32_t basic = vcpu->exit.reason & EXIT_REASON_BASIC_MASK;
    if (basic < EXIT_REASON_COUNT)
        vcpu->exit_count[l2][basic]++;
    if (vcpu->exit.reason == (EXIT_REASON_ENTRY_FAILURE | EXIT_ENTRY_FAILURE_MACHINE_CHECK)) {
        entry_had_a_machine_check(vcpu);
        return NVMX_CONTINUE;
    }
    if ((vcpu->exit.reason & EXIT_REASON_ENTRY_FAILURE) != 0) {
        if (!l2) {
            event_undo_prepare(vcpu);
            return l1_entry_failed(vcpu, vcpu->exit.reason, vcpu->exit.qualification);
        }
        detector_report(vcpu, "DETECTOR: failure of an entry that passed every check; reason, qualification",
                        vcpu->exit.reason, vcpu->exit.qualification);
        entry_forget(vcpu);
        reflect_failed_entry(vcpu, basic, vcpu->exit.qualification);
        return NVMX_CONTINUE;
    }
    vmcs->launched = true;
    if (l2)
        vcpu->vmcs12.launched = true;
    else
        vcpu->l1_entry.can_undo = vcpu->l1_entry.is_reset = false;
    vcpu->entry_pending = false;
    if (vcpu->overlooked.changed)
        overlooked_after_exit(vcpu);
    event_after_exit(vcpu);
    if (event_is_own_exit(vcpu) || exit_is_privilege_fault(vcpu, basic))
        return NVMX_CONTINUE;
    if (!l2) {
        if (basic == EXIT_CONTROL_REGISTER_ACCESS)
            l1_cr_handle(vcpu);
        else if (basic == EXIT_INIT_SIGNAL && vcpu->vmxon)
            vcpu->init_pending = true; // blocked in VMX root operation
        else if (!instruction_handle(vcpu))
            return NVMX_EXIT_FOR_L0;
        return NVMX_CONTINUE;
    }
    switch (route_l2_exit(vcpu)) {
    case ROUTE_TO_L1:
        reflect_exit(vcpu);
        return NVMX_CONTINUE;
    case ROUTE_HANDLED:
        return NVMX_CONTINUE;
    case ROUTE_TO_L0:
        break;
    }
    return NVMX_EXIT_FOR_L0;
}

uint64_t nvmx_read(struct nvmx_vcpu *vcpu, enum vmcs_field field)
{
    return vmcs_read(vcpu, field);
}

void nvmx_write(struct nvmx_vcpu *vcpu, enum vmcs_field field, uint64_t value)
{
    if (!vcpu->in_l2 && field == F_GUEST_CR0) {
        l1_cr_write_state(vcpu, value, l1_cr4(vcpu));
        return;
    }
    if (!vcpu->in_l2 && field == F_GUEST_CR4) {
        l1_cr_write_state(vcpu, l1_cr0(vcpu), value);
        return;
    }
    if (field == F_PIN_BASED_CONTROLS || field == F_PRIMARY_CONTROLS) {
        step_write_control(vcpu, field, value);
        return;
    }
    vmcs_write(vcpu, field, value);
    if (field == F_GUEST_ACTIVITY_STATE)
        vcpu->shutdown = value == ACTIVITY_SHUTDOWN;
    if (field_table[field].entry == ENTRY_MERGED)
        vmcs_note(vcpu->current, field, value);
}

void nvmx_skip_instruction(struct nvmx_vcpu *vcpu)
{
    uint64_t old = vmcs_read(vcpu, F_GUEST_RIP), rip = old + vcpu->exit.instruction_length;
    if (((old ^ rip) >> 32) != 0) { // rare: outside 64-bit mode, EIP wraps
        uint32_t cs = (uint32_t)vmcs_read(vcpu, F_GUEST_CS_ACCESS_RIGHTS);
        uint64_t efer = vmcs_read(vcpu, F_GUEST_IA32_EFER);
        bool is_64bit = (efer & EFER_LMA) != 0 && (cs & SEGMENT_L) != 0;
        rip = is_64bit ? rip : (uint32_t)rip;
    }
    vmcs_write(vcpu, F_GUEST_RIP, rip);
    uint64_t interruptibility = vmcs_read(vcpu, F_GUEST_INTERRUPTIBILITY);
    if ((interruptibility & (INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS)) != 0)
        vmcs_write(vcpu, F_GUEST_INTERRUPTIBILITY,
                   interruptibility & ~(uint64_t)(INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS));
    if ((vmcs_read(vcpu, F_GUEST_RFLAGS) & RFLAGS_TF) != 0) // BS: a single-step trap is pending
        vmcs_write(vcpu, F_GUEST_PENDING_DEBUG_EXCEPTIONS,
                   vmcs_read(vcpu, F_GUEST_PENDING_DEBUG_EXCEPTIONS) | 1ull << 14);
    if (vcpu->in_l2 && (vmcs12_primary(vcpu) & PRIMARY_MONITOR_TRAP_FLAG) != 0)
        event_pend_mtf_exit(vcpu);
    step_end(vcpu); // that was the instruction
}
