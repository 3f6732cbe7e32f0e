// SPDX-License-Identifier: MIT
// VM exit: the exit information, the guest state saved, the host state loaded.
// Manual: VM Exits.
#include "model.h"

// VMX-abort indicators
enum { ABORT_SAVING_MSRS = 1, ABORT_HOST_PDPTE = 2, ABORT_LOADING_MSRS = 4, ABORT_LONG_MODE = 6 };

// In real-address mode there are no error codes.
static bool has_error_code(const struct hw_cpu *cpu, const struct event *event)
{
    return event->valid && event->has_error && (cpu->r.cr0 & CR0_PE);
}

static uint32_t interruption_info(const struct hw_cpu *cpu, const struct event *event, bool nmi_unblocking)
{
    if (!event->valid)
        return 0;
    return INTERRUPTION_VALID | (uint32_t)event->type << INTERRUPTION_TYPE_SHIFT | event->vector |
           (has_error_code(cpu, event) ? INTERRUPTION_ERROR_CODE : 0) |
           (nmi_unblocking ? INTERRUPTION_NMI_UNBLOCKING : 0);
}

// A field that the exit does not define.
static void set_or_poison(struct hw_cpu *cpu, enum vmcs_field field, bool defined, uint64_t value)
{
    if (defined)
        vmcs_set(cpu, field, value);
    else
        vmcs_poison(cpu, field);
}

static bool is_software(const struct event *event)
{
    return event->valid && event->type >= EVENT_SOFTWARE_INTERRUPT && event->type <= EVENT_SOFTWARE_EXCEPTION;
}

// Recording VM-Exit Information and Updating VM-Entry Control Fields
static void record_information(struct hw_cpu *cpu, const struct exit_information *x)
{
    const struct event *vectoring = &cpu->vectoring;
    vmcs_set(cpu, F_EXIT_REASON, x->reason);
    vmcs_set(cpu, F_EXIT_QUALIFICATION, x->qualification);
    set_or_poison(cpu, F_GUEST_LINEAR_ADDRESS, x->has_linear, x->linear);
    if (model_field_exists(cpu->machine->processor, F_GUEST_PHYSICAL_ADDRESS))
        set_or_poison(cpu, F_GUEST_PHYSICAL_ADDRESS, x->has_physical, x->physical);

    uint32_t info = interruption_info(cpu, &x->event, x->event_nmi_unblocking);
    uint32_t junk = (uint32_t)model_poison(cpu->machine, cpu->current->region, F_VM_EXIT_INTERRUPTION_INFO);
    vmcs_set(cpu, F_VM_EXIT_INTERRUPTION_INFO, info ? info : junk & ~INTERRUPTION_VALID);
    set_or_poison(cpu, F_VM_EXIT_INTERRUPTION_ERROR_CODE, has_error_code(cpu, &x->event),
                  x->event.error_code);
    vmcs_set(cpu, F_IDT_VECTORING_INFO,
             vectoring->valid ? interruption_info(cpu, vectoring, false) : junk & ~INTERRUPTION_VALID);
    set_or_poison(cpu, F_IDT_VECTORING_ERROR_CODE, has_error_code(cpu, vectoring), vectoring->error_code);

    if (x->has_length)
        vmcs_set(cpu, F_VM_EXIT_INSTRUCTION_LENGTH, x->length);
    else if (is_software(&x->event))
        vmcs_set(cpu, F_VM_EXIT_INSTRUCTION_LENGTH, x->event.instruction_length);
    else
        set_or_poison(cpu, F_VM_EXIT_INSTRUCTION_LENGTH, is_software(vectoring),
                      vectoring->instruction_length);
    set_or_poison(cpu, F_VM_EXIT_INSTRUCTION_INFO, x->has_info, x->info);

    // The event of the last VM entry is not injected again.
    vmcs_set(cpu, F_VM_ENTRY_INTERRUPTION_INFO,
             vmcs_get(cpu, F_VM_ENTRY_INTERRUPTION_INFO) & ~INTERRUPTION_VALID);
}

// Saving Control Registers, Debug Registers, and MSRs
static void save_control_registers(struct hw_cpu *cpu)
{
    const struct registers *r = &cpu->r;
    const struct processor *p = cpu->machine->processor;
    vmcs_set(cpu, F_GUEST_CR0, r->cr0);
    vmcs_set(cpu, F_GUEST_CR3, r->cr3);
    vmcs_set(cpu, F_GUEST_CR4, r->cr4);
    vmcs_set(cpu, F_GUEST_SYSENTER_CS, r->sysenter_cs);
    vmcs_set(cpu, F_GUEST_SYSENTER_ESP, r->sysenter_esp);
    vmcs_set(cpu, F_GUEST_SYSENTER_EIP, r->sysenter_eip);
    if (cpu->c.exit & EXIT_SAVE_DEBUG_CONTROLS) {
        vmcs_set(cpu, F_GUEST_DR7, r->dr7);
        vmcs_set(cpu, F_GUEST_IA32_DEBUGCTL, r->debugctl);
    }
    if (cpu->c.exit & EXIT_SAVE_PAT)
        vmcs_set(cpu, F_GUEST_IA32_PAT, r->pat);
    if (cpu->c.exit & EXIT_SAVE_EFER)
        vmcs_set(cpu, F_GUEST_IA32_EFER, r->efer);
    if (capability_misc(p, MISC_STORES_LMA)) {
        uint32_t entry = cpu->c.entry & ~ENTRY_IA32E_MODE_GUEST;
        vmcs_set(cpu, F_VM_ENTRY_CONTROLS, entry | (cpu_in_long_mode(cpu) ? ENTRY_IA32E_MODE_GUEST : 0));
    }
    bool pae = (r->cr0 & CR0_PG) && (r->cr4 & CR4_PAE) && !cpu_in_long_mode(cpu);
    for (unsigned i = 0; i < 4 && model_field_exists(p, F_GUEST_PDPTE0); i++) {
        if (pae && cpu->c.eptp)
            vmcs_set(cpu, (enum vmcs_field)(F_GUEST_PDPTE0 + i), r->pdpte[i]);
        else
            vmcs_poison(cpu, (enum vmcs_field)(F_GUEST_PDPTE0 + i));
    }
}

// The base of an unusable segment: that of FS and GS is saved, and bits 63:32 of the data segments' are 0.
static uint64_t unusable_base(const struct hw_cpu *cpu, unsigned segment)
{
    if (segment == SEGMENT_FS || segment == SEGMENT_GS)
        return cpu->r.segment[segment].base;
    return (uint32_t)model_poison(cpu->machine, cpu->current->region,
                                  (enum vmcs_field)(F_GUEST_ES_BASE + segment)) &
           0x7fffffff;
}

// Saving Segment Registers and Descriptor-Table Registers. Most of an unusable segment is undefined.
static void save_segments(struct hw_cpu *cpu)
{
    const struct registers *r = &cpu->r;
    for (unsigned i = 0; i < SEGMENT_NAME_COUNT; i++) {
        const struct segment *s = &r->segment[i];
        bool usable = !(s->access_rights & SEGMENT_UNUSABLE);
        vmcs_set(cpu, (enum vmcs_field)(F_GUEST_ES_SELECTOR + i), s->selector);
        set_or_poison(cpu, (enum vmcs_field)(F_GUEST_ES_LIMIT + i), usable, s->limit);
        vmcs_set(cpu, (enum vmcs_field)(F_GUEST_ES_BASE + i), usable ? s->base : unusable_base(cpu, i));
        uint32_t rights = s->access_rights;
        if (!usable) // only that, and the DPL of SS, are defined
            rights = SEGMENT_UNUSABLE | (rights & (i == SEGMENT_SS ? 0x60 : 0)) | 0xa00;
        vmcs_set(cpu, (enum vmcs_field)(F_GUEST_ES_ACCESS_RIGHTS + i), rights);
    }
    vmcs_set(cpu, F_GUEST_GDTR_BASE, r->gdtr_base);
    vmcs_set(cpu, F_GUEST_GDTR_LIMIT, r->gdtr_limit);
    vmcs_set(cpu, F_GUEST_IDTR_BASE, r->idtr_base);
    vmcs_set(cpu, F_GUEST_IDTR_LIMIT, r->idtr_limit);
}

// Saving Non-Register State
static void save_non_register_state(struct hw_cpu *cpu)
{
    bool nmi_blocking = cpu->c.pin & PIN_VIRTUAL_NMIS ? cpu->blocking_virtual_nmi : cpu->blocking_nmi;
    vmcs_set(cpu, F_GUEST_ACTIVITY_STATE, cpu->activity);
    vmcs_set(cpu, F_GUEST_INTERRUPTIBILITY,
             (cpu->blocking_sti ? INTERRUPTIBILITY_STI : 0) |
                 (cpu->blocking_mov_ss ? INTERRUPTIBILITY_MOV_SS : 0) |
                 (nmi_blocking ? INTERRUPTIBILITY_NMI : 0));
    vmcs_set(cpu, F_GUEST_PENDING_DEBUG_EXCEPTIONS, cpu->pending_debug);
    if (cpu->c.exit & EXIT_SAVE_PREEMPTION_TIMER) {
        unsigned rate = capability_msr(cpu->machine->processor, MSR_IA32_VMX_MISC) & 0x1f;
        uint64_t now = cpu->tsc >> rate, deadline = cpu->timer_deadline >> rate;
        vmcs_set(cpu, F_PREEMPTION_TIMER_VALUE, now < deadline ? deadline - now : 0);
    }
}

// Saving RIP, RSP, RFLAGS, and SSP: RF is as the kind of exit says.
static uint64_t saved_flags(const struct hw_cpu *cpu, const struct exit_information *x)
{
    if (x->event.valid)
        return event_pushed_flags(cpu, &x->event);
    if (x->reason == 44 || x->reason == 48 || x->reason == 49)
        return cpu->vectoring.valid ? event_pushed_flags(cpu, &cpu->vectoring) : cpu->r.rflags | RFLAGS_RF;
    return x->has_length ? cpu->r.rflags & ~RFLAGS_RF : cpu->r.rflags; // has_length: caused by an instruction
}

static void save_guest_state(struct hw_cpu *cpu, const struct exit_information *information)
{
    save_control_registers(cpu);
    save_segments(cpu);
    vmcs_set(cpu, F_GUEST_RIP, cpu->r.rip);
    vmcs_set(cpu, F_GUEST_RSP, cpu->r.gpr[GPR_RSP]);
    vmcs_set(cpu, F_GUEST_RFLAGS, saved_flags(cpu, information));
    save_non_register_state(cpu);
    apic_leave(cpu);
}

// Loading Host Control Registers, Debug Registers, MSRs
static void load_host_control_registers(struct hw_cpu *cpu)
{
    struct registers *r = &cpu->r;
    bool wide = cpu->c.exit & EXIT_HOST_ADDRESS_SPACE_SIZE;
    const uint64_t kept = 0xffffffff7ffaffd0ull & ~(CR0_AM | CR0_WP | CR0_NE); // as on VM entry
    r->cr0 = (r->cr0 & kept) | (vmcs_get(cpu, F_HOST_CR0) & ~kept);
    r->cr3 = vmcs_get(cpu, F_HOST_CR3);
    r->cr4 = vmcs_get(cpu, F_HOST_CR4);
    if (wide)
        r->cr4 |= CR4_PAE;
    else
        r->cr4 &= ~CR4_PCIDE;
    r->dr7 = 0x400;
    r->debugctl = 0;
    r->sysenter_cs = vmcs_get(cpu, F_HOST_SYSENTER_CS);
    r->sysenter_esp = vmcs_get(cpu, F_HOST_SYSENTER_ESP);
    r->sysenter_eip = vmcs_get(cpu, F_HOST_SYSENTER_EIP);
    r->efer = (r->efer & ~(EFER_LMA | EFER_LME)) | (wide ? EFER_LMA | EFER_LME : 0);
    if (cpu->c.exit & EXIT_LOAD_EFER)
        r->efer = vmcs_get(cpu, F_HOST_IA32_EFER);
    if (cpu->c.exit & EXIT_LOAD_PAT)
        r->pat = vmcs_get(cpu, F_HOST_IA32_PAT);
    if (cpu->c.exit & EXIT_LOAD_PERF_GLOBAL_CTRL)
        r->perf_global_ctrl = vmcs_get(cpu, F_HOST_IA32_PERF_GLOBAL_CTRL);
}

// Loading Host Segment and Descriptor-Table Registers
static void load_host_segments(struct hw_cpu *cpu)
{
    struct segment *s = cpu->r.segment;
    bool wide = cpu->c.exit & EXIT_HOST_ADDRESS_SPACE_SIZE;
    for (unsigned i = SEGMENT_ES; i <= SEGMENT_GS; i++) {
        uint16_t selector = (uint16_t)vmcs_get(cpu, (enum vmcs_field)(F_HOST_ES_SELECTOR + i));
        uint32_t rights = 0xc093; // read/write data, accessed, present, 32-bit, 4-KByte granularity
        if (i == SEGMENT_CS)
            rights = wide ? 0xa09b : 0xc09b;
        else if (selector == 0)
            rights |= SEGMENT_UNUSABLE;
        s[i] = (struct segment){.selector = selector, .access_rights = rights, .limit = 0xffffffff};
    }
    s[SEGMENT_FS].base = vmcs_get(cpu, F_HOST_FS_BASE);
    s[SEGMENT_GS].base = vmcs_get(cpu, F_HOST_GS_BASE);
    s[SEGMENT_TR] = (struct segment){.selector = (uint16_t)vmcs_get(cpu, F_HOST_TR_SELECTOR),
                                     .base = vmcs_get(cpu, F_HOST_TR_BASE),
                                     .limit = 0x67,
                                     .access_rights = 0x8b};
    s[SEGMENT_LDTR] = (struct segment){.access_rights = SEGMENT_UNUSABLE};
    cpu->r.gdtr_base = vmcs_get(cpu, F_HOST_GDTR_BASE);
    cpu->r.idtr_base = vmcs_get(cpu, F_HOST_IDTR_BASE);
    cpu->r.gdtr_limit = cpu->r.idtr_limit = 0xffff;
}

// VMX Aborts: the exit cannot be completed. The logical processor stops until it is reset, and the VMCS
// region says why. To L0 that is the end.
static void vmx_abort(struct hw_cpu *cpu, uint32_t indicator, const char *problem)
{
    if (cpu->c_code)
        rule_broken(cpu, "VMX abort %u: %s", indicator, problem);
    vmcs_cache_write_abort_indicator(cpu, indicator);
    cpu->vmx = VMX_ROOT;
    cpu->aborted = true;
    cpu->activity = ACTIVITY_SHUTDOWN;
    cpu->vectoring.valid = false;
}

// Checking and Loading Host Page-Directory-Pointer-Table Entries
static void load_host_pdptes(struct hw_cpu *cpu)
{
    uint64_t reserved = ~((1ull << cpu->machine->processor->physical_address_width) - 1) | 0x1e6;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t pdpte = memory_read(cpu->machine, (cpu->r.cr3 & 0xffffffe0) + 8 * i, 8);
        if ((pdpte & 1) && (pdpte & reserved)) {
            vmx_abort(cpu, ABORT_HOST_PDPTE, "a host PDPTE has reserved bits set");
            return;
        }
        cpu->r.pdpte[i] = pdpte;
    }
}

static void load_host_state(struct hw_cpu *cpu)
{
    struct registers *r = &cpu->r;
    load_host_control_registers(cpu);
    load_host_segments(cpu);
    r->rip = vmcs_get(cpu, F_HOST_RIP);
    r->gpr[GPR_RSP] = vmcs_get(cpu, F_HOST_RSP);
    r->rflags = RFLAGS_FIXED;
    if (cpu->c.vpid == 0)
        tlb_flush_linear(cpu, 0, -1, true);
    cpu->activity = ACTIVITY_ACTIVE;
    cpu->blocking_sti = cpu->blocking_mov_ss = cpu->blocking_virtual_nmi = false;
    cpu->pending_debug = 0;
    cpu->mtf_pending = false;
    cpu->vectoring.valid = false;
    cpu->nmi_unblocked_by_iret = false;
    cpu->handler_begins = false;
    cpu->vmx = VMX_ROOT;
    cpu->fetch_page = NO_ADDRESS;
    if ((r->cr4 & CR4_PAE) && !cpu_in_long_mode(cpu))
        load_host_pdptes(cpu);
}

static void load_host_msrs(struct hw_cpu *cpu)
{
    uint32_t failed, count = (uint32_t)vmcs_get(cpu, F_VM_EXIT_MSR_LOAD_COUNT);
    if (count == 0 || cpu->aborted)
        return;
    const char *problem = msr_area_load(cpu, vmcs_get(cpu, F_VM_EXIT_MSR_LOAD_ADDRESS), count, &failed);
    if (problem != NULL)
        vmx_abort(cpu, ABORT_LOADING_MSRS, problem);
}

void vm_exit(struct hw_cpu *cpu, const struct exit_information *information)
{
    if (cpu->vmx != VMX_NON_ROOT)
        rule_broken(cpu, "the model makes a VM exit (%u) outside non-root operation", information->reason);
    record_information(cpu, information);
    // An NMI that causes an exit blocks further ones, as its delivery would have.
    bool is_nmi = information->event.valid && information->event.type == EVENT_NMI;
    save_guest_state(cpu, information);
    uint32_t count = (uint32_t)vmcs_get(cpu, F_VM_EXIT_MSR_STORE_COUNT);
    if (count != 0) {
        const char *problem = msr_area_store(cpu, vmcs_get(cpu, F_VM_EXIT_MSR_STORE_ADDRESS), count);
        if (problem != NULL) {
            vmx_abort(cpu, ABORT_SAVING_MSRS, problem);
            return;
        }
    }
    if (cpu_in_long_mode(cpu) && !(cpu->c.exit & EXIT_HOST_ADDRESS_SPACE_SIZE)) {
        vmx_abort(cpu, ABORT_LONG_MODE, "the guest is in IA-32e mode, and the host is to be a 32-bit one");
        return;
    }
    load_host_state(cpu);
    if (is_nmi)
        cpu->blocking_nmi = true;
    load_host_msrs(cpu);
    cpu->tsc += 10;
    vmcs_cache_maybe_write_back(cpu, cpu->current);
}

void vm_exit_simple(struct hw_cpu *cpu, uint32_t reason)
{
    vm_exit(cpu, &(struct exit_information){.reason = reason});
}

void vm_exit_instruction(struct hw_cpu *cpu, uint32_t reason, const struct op *op, uint64_t qualification)
{
    vm_exit(cpu, &(struct exit_information){.reason = reason,
                                            .qualification = qualification,
                                            .has_length = true,
                                            .length = op_length(op)});
}

// VM-Entry Failures During or After Loading Guest State: only the reason and the qualification are recorded,
// and no guest state is saved.
void vm_entry_failure(struct hw_cpu *cpu, uint32_t reason, uint64_t qualification)
{
    vmcs_set(cpu, F_EXIT_REASON, reason | EXIT_REASON_ENTRY_FAILURE);
    vmcs_set(cpu, F_EXIT_QUALIFICATION, qualification);
    load_host_state(cpu);
    load_host_msrs(cpu);
}
