// SPDX-License-Identifier: MIT
// Whose exit is it? Every basic exit reason has a row in exits.def; there is no default. Predicates look at
// vmcs12 and at the exit record, never at what the hardware happened to be programmed with. Manual: VM Exits
// (Instructions That Cause VM Exits; Other Causes of VM Exits).
#include "engine.h"

#define QUALIFICATION_NMI_UNBLOCKING (1ull << 12) // Exit Qualification for EPT Violations
#define QUALIFICATION_STRING         (1ull << 4)  // Exit Qualification for I/O Instructions

static enum route to_l1_if(bool l1_wants)
{
    return l1_wants ? ROUTE_TO_L1 : ROUTE_TO_L0;
}

// L1's processor has no control that causes it, and no such exit: L1 is not told.
static enum route route_contained(struct nvmx_vcpu *vcpu)
{
    nvmx_contain_exit(vcpu);
    return ROUTE_HANDLED;
}

static enum route route_exception(struct nvmx_vcpu *vcpu)
{
    uint32_t info = vcpu->exit.interruption_info;
    if (event_type(info) == EVENT_NMI)
        return to_l1_if((vmcs12_pin(vcpu) & PIN_NMI_EXITING) != 0);
    uint32_t vector = info & INTERRUPTION_VECTOR_MASK;
    if ((info & INTERRUPTION_VALID) == 0 || vector > 31) // no exception
        return route_contained(vcpu);
    return to_l1_if(event_l1_wants_exception(vcpu, vector, vcpu->exit.interruption_error_code));
}

static enum route route_io(struct nvmx_vcpu *vcpu)
{
    uint16_t port = (uint16_t)(vcpu->exit.qualification >> 16);
    uint32_t size = (uint32_t)(vcpu->exit.qualification & 7) + 1;
    if (bitmaps_l1_wants_io(vcpu, port, size))
        return ROUTE_TO_L1;
    // A string instruction is more than L0 wants to carry out for L2.
    if (bitmaps_io_is_in_reach_of_l2(vcpu) && (vcpu->exit.qualification & QUALIFICATION_STRING) == 0)
        return ROUTE_TO_L0;
    return bitmaps_open_io(vcpu, port, size) ? ROUTE_HANDLED : ROUTE_TO_L0;
}

static enum route route_msr(struct nvmx_vcpu *vcpu)
{
    uint32_t msr = (uint32_t)vcpu->regs.gpr[GPR_RCX];
    bool write = vcpu->exit.reason == EXIT_WRMSR;
    if (bitmaps_l1_wants_msr(vcpu, msr, write))
        return ROUTE_TO_L1;
    return bitmaps_open_msr(vcpu, msr, write) ? ROUTE_HANDLED : ROUTE_TO_L0;
}

// L0 owns the bits of CR4 that L1 is not offered, and nothing else: an exit that L1 did not ask for is a MOV
// that would set one.
static enum route route_cr(struct nvmx_vcpu *vcpu)
{
    uint64_t qualification = vcpu->exit.qualification;
    if ((qualification & 0x3f) != 4) // MOV to CR4
        return ROUTE_TO_L1;
    uint64_t value = l1_gpr_read(vcpu, qualification >> 8 & 15);
    if (!l1_is_64bit(vcpu))
        value = (uint32_t)value;
    uint64_t differs = value ^ vmcs12_get(vcpu, F_CR4_READ_SHADOW);
    if ((differs & vmcs12_get(vcpu, F_CR4_GUEST_HOST_MASK)) != 0)
        return ROUTE_TO_L1;
    nvmx_raise(vcpu, VECTOR_GP, true, 0);
    return ROUTE_HANDLED;
}

// The control's, or the exit that L1 injected (still recorded as valid: an exit of L1's clears that).
static enum route route_mtf(struct nvmx_vcpu *vcpu)
{
    uint32_t injected = (uint32_t)vmcs12_get(vcpu, F_VM_ENTRY_INTERRUPTION_INFO);
    return to_l1_if((vmcs12_primary(vcpu) & PRIMARY_MONITOR_TRAP_FLAG) != 0 ||
                    ((injected & INTERRUPTION_VALID) != 0 && event_type(injected) == EVENT_OTHER));
}

static enum route route_pause(struct nvmx_vcpu *vcpu)
{
    return to_l1_if((vmcs12_primary(vcpu) & PRIMARY_PAUSE_EXITING) != 0 ||
                    (vmcs12_secondary(vcpu) & SECONDARY_PAUSE_LOOP_EXITING) != 0);
}

// An instruction that the processor has and L1's has not: there it is not defined.
static enum route route_if_offered(struct nvmx_vcpu *vcpu, uint32_t secondary)
{
    if ((nvmx_caps_allowed1(vcpu->config.offered, CAPS_SECONDARY) & secondary) != 0)
        return ROUTE_TO_L1;
    nvmx_raise(vcpu, VECTOR_UD, false, 0);
    return ROUTE_HANDLED;
}

#define ROUTE_L1                  return ROUTE_TO_L1
#define ROUTE_L0                  return ROUTE_TO_L0
#define ROUTE_PIN(control)        return to_l1_if((vmcs12_pin(vcpu) & (control)) != 0)
#define ROUTE_PRIMARY(control)    return to_l1_if((vmcs12_primary(vcpu) & (control)) != 0)
#define ROUTE_SECONDARY(control)  return to_l1_if((vmcs12_secondary(vcpu) & (control)) != 0)
#define ROUTE_IF_OFFERED(control) return route_if_offered(vcpu, control)
#define ROUTE_EXCEPTION           return route_exception(vcpu)
#define ROUTE_IO                  return route_io(vcpu)
#define ROUTE_MSR                 return route_msr(vcpu)
#define ROUTE_CR                  return route_cr(vcpu)
#define ROUTE_INTERRUPT           return posted_route(vcpu)
#define ROUTE_SHADOWED            return shadow12_route(vcpu)
#define ROUTE_MTF                 return route_mtf(vcpu)
#define ROUTE_PAUSE               return route_pause(vcpu)
#define ROUTE_EPT_VIOLATION       return ept_fault_route(vcpu)
#define ROUTE_VMFUNC              return vm_function_route(vcpu)
// ept02 holds no misconfigured entry, so the processor finds none there; ept01 is L0's.
#define ROUTE_EPT_MISCONFIGURATION return ROUTE_TO_L0
#define ROUTE_NOT_OFFERED          return route_contained(vcpu)
#define ROUTE_RESERVED             return route_contained(vcpu)

enum route route_l2_exit(struct nvmx_vcpu *vcpu)
{
    switch ((enum nvmx_exit_reason)(vcpu->exit.reason & EXIT_REASON_BASIC_MASK)) {
#define EXIT(number, name, route, info)                                                                      \
    case EXIT_##name:                                                                                        \
        route;
#include <nvmx/exits.def>
#undef EXIT
    case EXIT_REASON_COUNT:
        break;
    }
    return route_contained(vcpu);
}
