// SPDX-License-Identifier: MIT
// VM entry: VMLAUNCH and VMRESUME.
// Manual: VM Entries; VMLAUNCH/VMRESUME in VMX Instruction Reference.
#include "model.h"

static void load_segment(struct hw_cpu *cpu, enum segment_name name, unsigned index)
{
    struct segment *s = &cpu->r.segment[name];
    s->selector = (uint16_t)vmcs_get(cpu, (enum vmcs_field)(F_GUEST_ES_SELECTOR + index));
    s->access_rights = (uint32_t)vmcs_get(cpu, (enum vmcs_field)(F_GUEST_ES_ACCESS_RIGHTS + index));
    s->limit = (uint32_t)vmcs_get_unchecked(cpu, (enum vmcs_field)(F_GUEST_ES_LIMIT + index));
    s->base = vmcs_get_unchecked(cpu, (enum vmcs_field)(F_GUEST_ES_BASE + index));
}

// An unusable CS passes the checks; only its L, D and G bits are defined then. The model makes it a code
// segment.
static void mend_code_segment(struct hw_cpu *cpu)
{
    struct segment *cs = &cpu->r.segment[SEGMENT_CS], *ss = &cpu->r.segment[SEGMENT_SS];
    if (cs->access_rights & SEGMENT_UNUSABLE)
        cs->access_rights = (cs->access_rights & (SEGMENT_L | SEGMENT_DB | SEGMENT_G)) | SEGMENT_PRESENT |
                            SEGMENT_S | 11 | (ss->access_rights & 3u << SEGMENT_DPL_SHIFT);
}

// Loading Guest Control Registers, Debug Registers, and MSRs
static void load_control_registers(struct hw_cpu *cpu)
{
    // Bits of CR0 that VM entry does not touch: 63:32, 30, 29, 28:19, 17, 15:6, and ET.
    const uint64_t kept = 0xffffffff7ffaffd0ull & ~(CR0_AM | CR0_WP | CR0_NE);
    struct registers *r = &cpu->r;
    r->cr0 = (r->cr0 & kept) | (vmcs_get(cpu, F_GUEST_CR0) & ~kept);
    r->cr3 = vmcs_get(cpu, F_GUEST_CR3);
    r->cr4 = vmcs_get(cpu, F_GUEST_CR4);
    if (cpu->c.entry & ENTRY_LOAD_DEBUG_CONTROLS) {
        r->dr7 = (vmcs_get(cpu, F_GUEST_DR7) & ~0xd000ull) | 0x400;
        r->debugctl = vmcs_get(cpu, F_GUEST_IA32_DEBUGCTL);
    }
    r->sysenter_cs = vmcs_get(cpu, F_GUEST_SYSENTER_CS);
    r->sysenter_esp = vmcs_get(cpu, F_GUEST_SYSENTER_ESP);
    r->sysenter_eip = vmcs_get(cpu, F_GUEST_SYSENTER_EIP);
    if (cpu->c.entry & ENTRY_LOAD_EFER) {
        r->efer = vmcs_get(cpu, F_GUEST_IA32_EFER);
    } else {
        bool ia32e = cpu->c.entry & ENTRY_IA32E_MODE_GUEST;
        r->efer = (r->efer & ~EFER_LMA) | (ia32e ? EFER_LMA : 0);
        if (r->cr0 & CR0_PG)
            r->efer = (r->efer & ~EFER_LME) | (ia32e ? EFER_LME : 0);
    }
    if (cpu->c.entry & ENTRY_LOAD_PAT)
        r->pat = vmcs_get(cpu, F_GUEST_IA32_PAT);
    if (cpu->c.entry & ENTRY_LOAD_PERF_GLOBAL_CTRL)
        r->perf_global_ctrl = vmcs_get(cpu, F_GUEST_IA32_PERF_GLOBAL_CTRL);
}

static void load_pdptes(struct hw_cpu *cpu)
{
    if (!(cpu->r.cr0 & CR0_PG) || !(cpu->r.cr4 & CR4_PAE) || cpu_in_long_mode(cpu))
        return;
    for (unsigned i = 0; i < 4; i++)
        cpu->r.pdpte[i] = cpu->c.eptp ? vmcs_get(cpu, (enum vmcs_field)(F_GUEST_PDPTE0 + i))
                                      : memory_read(cpu->machine, (cpu->r.cr3 & 0xffffffe0) + 8 * i, 8);
}

static void load_non_register_state(struct hw_cpu *cpu)
{
    uint64_t blocking = vmcs_get(cpu, F_GUEST_INTERRUPTIBILITY);
    bool virtual_nmis = cpu->c.pin & PIN_VIRTUAL_NMIS;
    cpu->blocking_sti = blocking & INTERRUPTIBILITY_STI;
    cpu->blocking_mov_ss = blocking & INTERRUPTIBILITY_MOV_SS;
    cpu->blocking_virtual_nmi = virtual_nmis && (blocking & INTERRUPTIBILITY_NMI);
    cpu->blocking_nmi = !virtual_nmis && (blocking & INTERRUPTIBILITY_NMI);
    cpu->activity = (uint32_t)vmcs_get(cpu, F_GUEST_ACTIVITY_STATE);
    cpu->pending_debug = vmcs_get(cpu, F_GUEST_PENDING_DEBUG_EXCEPTIONS);
    cpu->mtf_pending = false;
    cpu->pause_seen = false;
    cpu->nmi_unblocked_by_iret = false;
    cpu->vectoring.valid = false;
    if (cpu->c.pin & PIN_PREEMPTION_TIMER) {
        unsigned rate = capability_msr(cpu->machine->processor, MSR_IA32_VMX_MISC) & 0x1f;
        uint64_t value = vmcs_get(cpu, F_PREEMPTION_TIMER_VALUE);
        cpu->timer_deadline = ((cpu->tsc >> rate) + value) << rate;
    }
}

static void load_guest_state(struct hw_cpu *cpu)
{
    struct registers *r = &cpu->r;
    load_control_registers(cpu);
    for (unsigned i = 0; i < SEGMENT_NAME_COUNT; i++)
        load_segment(cpu, (enum segment_name)i, i);
    mend_code_segment(cpu);
    r->gdtr_base = vmcs_get(cpu, F_GUEST_GDTR_BASE);
    r->gdtr_limit = (uint32_t)vmcs_get(cpu, F_GUEST_GDTR_LIMIT);
    r->idtr_base = vmcs_get(cpu, F_GUEST_IDTR_BASE);
    r->idtr_limit = (uint32_t)vmcs_get(cpu, F_GUEST_IDTR_LIMIT);
    r->rip = vmcs_get(cpu, F_GUEST_RIP);
    r->gpr[GPR_RSP] = vmcs_get(cpu, F_GUEST_RSP);
    r->rflags = vmcs_get(cpu, F_GUEST_RFLAGS);
    load_pdptes(cpu);
    load_non_register_state(cpu);
    if (cpu->c.vpid == 0)
        tlb_flush_linear(cpu, 0, -1, true);
    cpu->fetch_page = NO_ADDRESS;
    cpu->apic_written = -1;
}

// Event Injection
static void inject(struct hw_cpu *cpu)
{
    uint32_t info = (uint32_t)vmcs_get(cpu, F_VM_ENTRY_INTERRUPTION_INFO);
    if (!(info & INTERRUPTION_VALID))
        return;
    struct event event = {
        .valid = true,
        .injected = true,
        .type = (uint8_t)((info & INTERRUPTION_TYPE_MASK) >> INTERRUPTION_TYPE_SHIFT),
        .vector = (uint8_t)info,
        .has_error = info & INTERRUPTION_ERROR_CODE,
    };
    cpu->activity = ACTIVITY_ACTIVE;
    if (event.type == EVENT_OTHER) {
        cpu->mtf_pending = true;
        return;
    }
    if (event.has_error)
        event.error_code = (uint32_t)vmcs_get(cpu, F_VM_ENTRY_EXCEPTION_ERROR_CODE);
    if (event.type >= EVENT_SOFTWARE_INTERRUPT)
        event.instruction_length = (uint32_t)vmcs_get(cpu, F_VM_ENTRY_INSTRUCTION_LENGTH);
    // Pending debug exceptions are lost to all injections but those that hold them back.
    cpu->pending_debug = 0;
    event_deliver(cpu, event);
}

static void entry_failed(struct hw_cpu *cpu, const char *rule)
{
    cpu->machine->entry_failure = rule;
    cpu->current->count->failed_entry++;
}

#define UNKNOWN_RULE "a rule that only the test knows"

// machine_refuse_entry's turn: the stage that `how` stands for.
static bool is_refused_on_purpose(struct hw_cpu *cpu, uint32_t how)
{
    struct machine *machine = cpu->machine;
    if (machine->refusal.how != how || machine->refusal.region != cpu->current->region)
        return false;
    machine->refusal.how = 0;
    machine->refused_on_purpose = true;
    return true;
}

// machine_write_before_entry's turn.
static bool another_processor_has_written(struct hw_cpu *cpu)
{
    struct machine *machine = cpu->machine;
    if (machine->other_write.region != cpu->current->region)
        return false;
    if (!machine->other_write.done && machine->other_write.after-- == 0) {
        machine->other_write.done = true;
        memory_write(machine, machine->other_write.address, machine->other_write.value, 4);
    }
    return machine->other_write.done;
}

struct vmx_result vmx_enter(struct hw_cpu *cpu, bool launch)
{
    cpu->machine->refused_on_purpose = false;
    if (cpu->current == NULL || cpu->current->data.shadow)
        return vmx_fail_invalid();
    if (cpu->blocking_mov_ss)
        return vmx_fail(cpu, VMERR_ENTRY_MOV_SS, "VM entry with blocking by MOV SS");
    struct vmcs_data *vmcs = &cpu->current->data;
    if (launch && vmcs->launched)
        return vmx_fail(cpu, VMERR_VMLAUNCH_NOT_CLEAR, "VMLAUNCH of a VMCS whose launch state is launched");
    if (!launch && !vmcs->launched)
        return vmx_fail(cpu, VMERR_VMRESUME_NOT_LAUNCHED, "VMRESUME of a VMCS whose launch state is clear");
    vmcs_cache_check(cpu);
    if (launch)
        cpu->current->count->vmlaunch++;
    else
        cpu->current->count->vmresume++;

    controls_read(cpu);
    bool written = another_processor_has_written(cpu);
    const char *rule = entry_check_controls(cpu);
    if (rule != NULL && written)
        cpu->machine->refused_on_purpose = true;
    if (rule == NULL && is_refused_on_purpose(cpu, VMERR_ENTRY_CONTROLS))
        rule = UNKNOWN_RULE;
    if (rule != NULL) {
        entry_failed(cpu, rule);
        return vmx_fail(cpu, VMERR_ENTRY_CONTROLS, rule);
    }
    rule = entry_check_host(cpu);
    if (rule == NULL && is_refused_on_purpose(cpu, VMERR_ENTRY_HOST_STATE))
        rule = UNKNOWN_RULE;
    if (rule != NULL) {
        entry_failed(cpu, rule);
        return vmx_fail(cpu, VMERR_ENTRY_HOST_STATE, rule);
    }
    // From here on a failure is a VM exit, not a VMfail.
    uint64_t qualification;
    uint64_t on_purpose = cpu->machine->refusal.qualification;
    rule = entry_check_guest(cpu, &qualification);
    if (rule == NULL && is_refused_on_purpose(cpu, 33)) {
        rule = UNKNOWN_RULE;
        qualification = on_purpose;
    }
    if (rule != NULL) {
        entry_failed(cpu, rule);
        vm_entry_failure(cpu, 33, qualification);
        return vmx_succeed();
    }
    if (is_refused_on_purpose(cpu, 41)) { // Machine-Check Events During VM Entry
        entry_failed(cpu, "a machine check");
        vm_entry_failure(cpu, 41, 0);
        return vmx_succeed();
    }
    load_guest_state(cpu);
    cpu->vmx = VMX_NON_ROOT;
    uint32_t count = (uint32_t)vmcs_get(cpu, F_VM_ENTRY_MSR_LOAD_COUNT), failed = 0;
    if (count != 0)
        rule = msr_area_load(cpu, vmcs_get(cpu, F_VM_ENTRY_MSR_LOAD_ADDRESS), count, &failed);
    if (rule != NULL) {
        entry_failed(cpu, rule);
        vm_entry_failure(cpu, 34, failed);
        return vmx_succeed();
    }
    vmcs->launched = true;
    // Software Use of Virtual-Machine Control Structures: the VMCS behind the link pointer becomes active,
    // too.
    uint64_t link = vmcs_get(cpu, F_VMCS_LINK_POINTER);
    if ((cpu->c.secondary & SECONDARY_VMCS_SHADOWING) && link != NO_ADDRESS)
        vmcs_cache_activate(cpu, link, "use through the VMCS link pointer");
    cpu->tsc += 10;
    vmcs_cache_maybe_write_back(cpu, cpu->current);
    apic_enter(cpu);
    inject(cpu);
    if (cpu->vmx == VMX_NON_ROOT)
        apic_exit_behind_entry(cpu);
    // The defect: in the HLT state, and with interrupts disabled, what is pending already is not looked for.
    cpu->overlooks = cpu->machine->config.overlooks_events &&
                     (cpu->activity == ACTIVITY_HLT || !(cpu->r.rflags & RFLAGS_IF));
    return vmx_succeed();
}
