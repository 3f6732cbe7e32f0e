// SPDX-License-Identifier: MIT
// Events on their way into L1 or L2: injection at the next entry, and what an exit interrupted.
// Manual: Event Injection; Information for VM Exits That Occur During Event Delivery; Interrupt and Exception
// Handling (Conditions for Generating a Double Fault).
#include "engine.h"

uint32_t event_type(uint32_t info)
{
    return (info & INTERRUPTION_TYPE_MASK) >> INTERRUPTION_TYPE_SHIFT;
}

static struct nvmx_event event_make(uint32_t type, uint32_t vector)
{
    return (struct nvmx_event){.info = INTERRUPTION_VALID | type << INTERRUPTION_TYPE_SHIFT | vector};
}

// For whoever ran last. Real-address mode knows no error codes.
static struct nvmx_event event_make_exception(const struct nvmx_vcpu *vcpu, uint32_t vector, bool has_error,
                                              uint32_t error_code)
{
    struct nvmx_event event = event_make(EVENT_HARDWARE_EXCEPTION, vector);
    if (has_error && (vmcs_read(vcpu, F_GUEST_CR0) & CR0_PE) != 0) {
        event.info |= INTERRUPTION_ERROR_CODE;
        event.error_code = error_code;
    }
    return event;
}

static bool l2_nmi_exits(const struct nvmx_vcpu *vcpu)
{
    return vcpu->in_l2 && (vmcs12_pin(vcpu) & PIN_NMI_EXITING) != 0;
}

// Injection of Pending MTF VM Exits
void event_pend_mtf_exit(struct nvmx_vcpu *vcpu)
{
    vcpu->event = event_make(EVENT_OTHER, 0);
}

// No window opens while L1's virtual NMIs are blocked, which blocks no NMI of L2's: there, the end of one
// instruction (or of an injected event's delivery) is awaited.
static uint32_t nmi_window_control(const struct nvmx_vcpu *vcpu)
{
    bool has_trap =
        (nvmx_caps_allowed1(vcpu->config.hardware, CAPS_PRIMARY) & PRIMARY_MONITOR_TRAP_FLAG) != 0;
    bool virtual_blocking = l2_nmi_exits(vcpu) && (vmcs12_pin(vcpu) & PIN_VIRTUAL_NMIS) != 0 &&
                            ((vmcs_read(vcpu, F_GUEST_INTERRUPTIBILITY) & INTERRUPTIBILITY_NMI) != 0 ||
                             (vcpu->event.info != 0 && event_type(vcpu->event.info) == EVENT_NMI));
    return has_trap && virtual_blocking ? PRIMARY_MONITOR_TRAP_FLAG : PRIMARY_NMI_WINDOW_EXITING;
}

// While an NMI waits: NMI-window exiting in the VMCS of whoever runs, which needs virtual NMIs (and they NMI
// exiting). On a processor without these the NMI waits for the next exit.
static void nmi_window_open(struct nvmx_vcpu *vcpu)
{
    if ((nvmx_caps_allowed1(vcpu->config.hardware, CAPS_PIN) & PIN_VIRTUAL_NMIS) == 0)
        return;
    vcpu->nmi_window = true;
    vcpu->nmi_window_control = nmi_window_control(vcpu);
    step_compose_controls(vcpu);
}

static void nmi_window_close(struct nvmx_vcpu *vcpu)
{
    if (!vcpu->nmi_window)
        return;
    vcpu->nmi_window = false;
    step_compose_controls(vcpu);
}

void event_leave_vmcs(struct nvmx_vcpu *vcpu)
{
    nmi_window_close(vcpu);
    step_end(vcpu);
}

// Does whoever runs next block NMIs? With virtual NMIs of L1's, L2's blocking is about virtual ones.
static bool nmi_is_blocked(const struct nvmx_vcpu *vcpu)
{
    uint64_t blocking = INTERRUPTIBILITY_NMI | INTERRUPTIBILITY_MOV_SS | INTERRUPTIBILITY_STI;
    if (vcpu->in_l2 && (vmcs12_pin(vcpu) & PIN_VIRTUAL_NMIS) != 0)
        blocking &= ~(uint64_t)INTERRUPTIBILITY_NMI;
    return (vmcs_read(vcpu, F_GUEST_INTERRUPTIBILITY) & blocking) != 0;
}

// VM Exits Induced by the TPR Threshold: behind a VM entry.
static bool tpr_is_below_threshold(struct nvmx_vcpu *vcpu)
{
    uint8_t class;
    if ((vmcs12_primary(vcpu) & PRIMARY_USE_TPR_SHADOW) == 0 ||
        (vmcs12_secondary(vcpu) & SECONDARY_VIRTUALIZE_APIC_ACCESSES) == 0 ||
        (vmcs12_secondary(vcpu) & SECONDARY_VIRTUAL_INTERRUPT_DELIVERY) != 0)
        return false;
    return vtpr_class_read(vcpu, &class) && class < vmcs12_get(vcpu, F_TPR_THRESHOLD);
}

// What comes right behind the entry to L2, before an NMI: the timer that has run out, the TPR threshold, and
// L1's NMI window.
static bool another_exit_is_first(struct nvmx_vcpu *vcpu)
{
    if (!vcpu->entry_pending)
        return false;
    if ((vmcs12_pin(vcpu) & PIN_PREEMPTION_TIMER) != 0 && vmcs12_get(vcpu, F_PREEMPTION_TIMER_VALUE) == 0)
        return true;
    if (tpr_is_below_threshold(vcpu))
        return true;
    return (vmcs12_primary(vcpu) & PRIMARY_NMI_WINDOW_EXITING) != 0 &&
           (vmcs_read(vcpu, F_GUEST_INTERRUPTIBILITY) & INTERRUPTIBILITY_NMI) == 0;
}

// L0's NMI handler may come between any two instructions here, and count another one.
static void nmi_is_taken(struct nvmx_vcpu *vcpu, uint32_t count)
{
    __atomic_sub_fetch(&vcpu->nmi_pending, count, __ATOMIC_RELAXED);
}

// A processor has one NMI in service (or on its way) and holds one more: what arrives besides is lost there.
// One in service is whoever runs next's, unless L2's blocking is about virtual NMIs.
static void nmi_forget_surplus(struct nvmx_vcpu *vcpu)
{
    bool is_virtual = vcpu->in_l2 && (vmcs12_pin(vcpu) & PIN_VIRTUAL_NMIS) != 0;
    bool blocked = !is_virtual && (vmcs_read(vcpu, F_GUEST_INTERRUPTIBILITY) & INTERRUPTIBILITY_NMI) != 0;
    bool delivered = !is_virtual && vcpu->event.info != 0 && event_type(vcpu->event.info) == EVENT_NMI;
    uint32_t limit = blocked || delivered ? 1 : 2;
    uint32_t count = __atomic_load_n(&vcpu->nmi_pending, __ATOMIC_RELAXED);
    if (count > limit)
        nmi_is_taken(vcpu, count - limit);
}

// An NMI that L0 took: into whoever runs next, as soon as nothing else is injected and NMIs are not blocked.
// While an entry to L2 is pending, L2 is entered first: the manual delivers NMIs behind the entry, not
// before.
static void event_take_nmi(struct nvmx_vcpu *vcpu)
{
    if (vcpu->aborted)
        return;
    if (vcpu->event.info != 0 || (vcpu->entry_pending && !l2_nmi_exits(vcpu)) || nmi_is_blocked(vcpu)) {
        nmi_window_open(vcpu);
        return;
    }
    if (vmcs_read(vcpu, F_GUEST_ACTIVITY_STATE) == ACTIVITY_WAIT_FOR_SIPI || another_exit_is_first(vcpu))
        return;
    if (l2_nmi_exits(vcpu)) {
        if (vcpu->entry_pending) // it would have exited behind the entry, before L2's first instruction
            vcpu->vmcs12.launched = true;
        nmi_is_taken(vcpu, 1);
        vcpu->exit = (struct nvmx_exit){
            .reason = EXIT_EXCEPTION_OR_NMI,
            .interruption_info = INTERRUPTION_VALID | EVENT_NMI << INTERRUPTION_TYPE_SHIFT | VECTOR_NMI,
        };
        reflect_exit(vcpu);
        return;
    }
    nmi_window_close(vcpu);
    nmi_is_taken(vcpu, 1);
    vcpu->event = event_make(EVENT_NMI, VECTOR_NMI);
}

// One is delivered; the next one waits for its window, behind it.
static void event_take_nmis(struct nvmx_vcpu *vcpu)
{
    nmi_forget_surplus(vcpu);
    event_take_nmi(vcpu);
    if (vcpu->nmi_pending != 0)
        event_take_nmi(vcpu);
}

// Machine checks have the highest priority of all, behind what is injected: as for an NMI, a window is
// awaited for its end. A processor that waits for a startup IPI has nobody to tell.
static void event_take_machine_check(struct nvmx_vcpu *vcpu)
{
    if (vcpu->aborted)
        return;
    if (vcpu->event.info != 0) {
        nmi_window_open(vcpu);
        return;
    }
    nmi_window_close(vcpu); // an NMI that waits opens it again
    vcpu->machine_check_pending = false;
    if (vmcs_read(vcpu, F_GUEST_ACTIVITY_STATE) == ACTIVITY_WAIT_FOR_SIPI)
        return;
    if ((vmcs_read(vcpu, F_GUEST_CR4) & CR4_MCE) == 0) {
        nvmx_write(vcpu, F_GUEST_ACTIVITY_STATE, ACTIVITY_SHUTDOWN);
        return;
    }
    struct nvmx_event event = event_make(EVENT_HARDWARE_EXCEPTION, VECTOR_MC);
    if (!vcpu->in_l2 || !event_l1_wants_exception(vcpu, VECTOR_MC, 0)) {
        vcpu->event = event;
        return;
    }
    if (vcpu->entry_pending) // it comes behind the entry, before L2's first instruction
        vcpu->vmcs12.launched = true;
    vcpu->exit = (struct nvmx_exit){.reason = EXIT_EXCEPTION_OR_NMI, .interruption_info = event.info};
    reflect_exit(vcpu);
}

// An INIT signal that L1's VMX root operation has kept back, into L2, behind its entry and what that injects.
static void event_take_init(struct nvmx_vcpu *vcpu)
{
    if (vcpu->event.info != 0 || vcpu->entry_pending) {
        nmi_window_open(vcpu); // blocked by a virtual NMI of L1's, it comes at the next exit
        return;
    }
    if (vmcs_read(vcpu, F_GUEST_ACTIVITY_STATE) == ACTIVITY_WAIT_FOR_SIPI)
        return;
    vcpu->init_pending = false;
    vcpu->exit = (struct nvmx_exit){.reason = EXIT_INIT_SIGNAL};
    reflect_exit(vcpu);
}

// The end of an instruction was awaited for a step of L0's, for an NMI, and by L1, in any combination.
static bool trap_is_own(struct nvmx_vcpu *vcpu)
{
    bool own = vcpu->step || (vcpu->nmi_window && vcpu->nmi_window_control == PRIMARY_MONITOR_TRAP_FLAG);
    step_end(vcpu);
    return own && !(vcpu->in_l2 && route_l2_exit(vcpu) == ROUTE_TO_L1);
}

// Exits that exist only because of a step or of nmi_window_open: the window, and NMIs that arrive while it is
// awaited.
bool event_is_own_exit(struct nvmx_vcpu *vcpu)
{
    if (vcpu->exit.reason == EXIT_MONITOR_TRAP_FLAG)
        return trap_is_own(vcpu);
    if (!vcpu->nmi_window)
        return false;
    if (vcpu->exit.reason == EXIT_NMI_WINDOW)
        return true;
    bool nmi =
        vcpu->exit.reason == EXIT_EXCEPTION_OR_NMI && event_type(vcpu->exit.interruption_info) == EVENT_NMI;
    if (nmi)
        nvmx_pend_nmi(vcpu);
    return nmi;
}

void event_prepare(struct nvmx_vcpu *vcpu)
{
    if (vcpu->machine_check_pending)
        event_take_machine_check(vcpu);
    if (vcpu->init_pending && vcpu->in_l2)
        event_take_init(vcpu);
    if (vcpu->nmi_pending != 0)
        event_take_nmis(vcpu);
    vcpu->entry_event = vcpu->event;
    vcpu->overlooked.changed = false; // after an entry that failed
    if (vcpu->event.info == 0) {
        if (vcpu->config.entry_overlooks_events && vcpu->in_l2)
            overlooked_before_entry(vcpu);
        return;
    }
    vmcs_write(vcpu, F_VM_ENTRY_INTERRUPTION_INFO, vcpu->event.info);
    if ((vcpu->event.info & INTERRUPTION_ERROR_CODE) != 0)
        vmcs_write(vcpu, F_VM_ENTRY_EXCEPTION_ERROR_CODE, vcpu->event.error_code);
    uint32_t type = event_type(vcpu->event.info);
    // With virtual NMIs, which L0 has for itself, an NMI is not injected while NMIs are blocked; without
    // them, L1 may do that. The injection blocks them again.
    if (type == EVENT_NMI && (vcpu->current->written[F_PIN_BASED_CONTROLS] & PIN_VIRTUAL_NMIS) != 0) {
        uint64_t interruptibility = vmcs_read(vcpu, F_GUEST_INTERRUPTIBILITY);
        if ((interruptibility & INTERRUPTIBILITY_NMI) != 0)
            vmcs_write(vcpu, F_GUEST_INTERRUPTIBILITY, interruptibility & ~(uint64_t)INTERRUPTIBILITY_NMI);
    }
    if (event_is_software(type))
        vmcs_write(vcpu, F_VM_ENTRY_INSTRUCTION_LENGTH, vcpu->event.instruction_length);
    if (vmcs_read(vcpu, F_GUEST_ACTIVITY_STATE) == ACTIVITY_HLT && type == EVENT_HARDWARE_EXCEPTION &&
        (vcpu->event.info & INTERRUPTION_VECTOR_MASK) != VECTOR_DB)
        vmcs_write(vcpu, F_GUEST_ACTIVITY_STATE, ACTIVITY_ACTIVE);
    vcpu->event.info = 0;
}

// hw_enter did not enter: what event_prepare did is decided again. (A guest that the event has made active,
// or whose blocking by NMI an injected NMI stands for, stays so: the event comes first again.)
void event_undo_prepare(struct nvmx_vcpu *vcpu)
{
    overlooked_undo(vcpu);
    if (vcpu->entry_event.info == 0)
        return;
    vcpu->event = vcpu->entry_event;
    vmcs_write(vcpu, F_VM_ENTRY_INTERRUPTION_INFO, 0);
}

// What the exit interrupted the delivery of is delivered again, unless the exit goes to L1 (whose
// IDT-vectoring information then says it).
void event_after_exit(struct nvmx_vcpu *vcpu)
{
    const struct nvmx_exit *exit = &vcpu->exit;
    if (exit->idt_vectoring_info == 0)
        return;
    vcpu->event = (struct nvmx_event){
        .info = exit->idt_vectoring_info & ~INTERRUPTION_NMI_UNBLOCKING, // bit 12 is undefined here
        .error_code = exit->idt_vectoring_error_code,
    };
    if (event_is_software(event_type(vcpu->event.info)))
        vcpu->event.instruction_length = (uint32_t)vmcs_read(vcpu, F_VM_EXIT_INSTRUCTION_LENGTH);
}

static bool exception_is_contributory(uint32_t vector)
{
    return vector == 0 || (vector >= VECTOR_TS && vector <= VECTOR_GP);
}

// Conditions for Generating a Double Fault. A virtualization exception counts as a page fault.
static bool exceptions_make_double_fault(uint32_t first, uint32_t second)
{
    if (exception_is_contributory(first))
        return exception_is_contributory(second);
    return (first == VECTOR_PF || first == VECTOR_VE) &&
           (exception_is_contributory(second) || second == VECTOR_PF);
}

// L1's exception bitmap, with the page-fault error-code mask and match.
bool event_l1_wants_exception(const struct nvmx_vcpu *vcpu, uint32_t vector, uint32_t error_code)
{
    bool wanted = ((vmcs12_get(vcpu, F_EXCEPTION_BITMAP) >> vector) & 1) != 0;
    if (vector != VECTOR_PF)
        return wanted;
    bool match = (error_code & vmcs12_get(vcpu, F_PAGE_FAULT_ERROR_CODE_MASK)) ==
                 vmcs12_get(vcpu, F_PAGE_FAULT_ERROR_CODE_MATCH);
    return wanted == match;
}

void nvmx_raise(struct nvmx_vcpu *vcpu, uint32_t vector, bool has_error, uint32_t error_code)
{
    struct nvmx_event event = event_make_exception(vcpu, vector, has_error, error_code);
    uint32_t first = vcpu->event.info;
    if ((first & INTERRUPTION_VALID) != 0 && event_type(first) == EVENT_HARDWARE_EXCEPTION) {
        uint32_t first_vector = first & INTERRUPTION_VECTOR_MASK;
        if (first_vector == VECTOR_DF) {
            vcpu->event.info = 0;
            vcpu->exit = (struct nvmx_exit){.reason = EXIT_TRIPLE_FAULT};
            if (vcpu->in_l2)
                reflect_exit(vcpu);
            else
                nvmx_write(vcpu, F_GUEST_ACTIVITY_STATE, ACTIVITY_SHUTDOWN);
            return;
        }
        if (exceptions_make_double_fault(first_vector, vector)) {
            event = event_make_exception(vcpu, VECTOR_DF, true, 0);
            vcpu->exit.idt_vectoring_info = 0; // the manual: it interrupts no delivery
        }
    }
    uint32_t raised = event.info & INTERRUPTION_VECTOR_MASK;
    // A fault is saved with RF set, whether it is delivered or exits; neither injection nor the exit of an
    // instruction that L0 emulates does that. Manual: Vectored-Event Injection; Saving RIP, RSP, RFLAGS, and
    // SSP.
    if (raised != VECTOR_DB)
        vmcs_write(vcpu, F_GUEST_RFLAGS, vmcs_read(vcpu, F_GUEST_RFLAGS) | RFLAGS_RF);
    if (vcpu->in_l2 && event_l1_wants_exception(vcpu, raised, event.error_code)) {
        vcpu->exit = (struct nvmx_exit){
            .reason = EXIT_EXCEPTION_OR_NMI,
            .interruption_info = event.info,
            .interruption_error_code = event.error_code,
            .idt_vectoring_info = vcpu->exit.idt_vectoring_info,
            .idt_vectoring_error_code = vcpu->exit.idt_vectoring_error_code,
        };
        reflect_exit(vcpu);
        return;
    }
    vcpu->event = event;
}

void nvmx_pend_nmi(struct nvmx_vcpu *vcpu)
{
    __atomic_add_fetch(&vcpu->nmi_pending, 1, __ATOMIC_RELAXED);
}

void nvmx_pend_machine_check(struct nvmx_vcpu *vcpu)
{
    __atomic_store_n(&vcpu->machine_check_pending, true, __ATOMIC_RELAXED);
}
