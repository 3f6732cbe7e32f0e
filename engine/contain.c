// SPDX-License-Identifier: MIT
// Exits that nobody asked for. L0 sets no control that causes them and offers L1 none, but some instructions
// exit whatever the controls say (SEAMCALL and TDCALL, where the processor has them), and nobody knows the
// next processor. To L1 such an instruction is one that its processor has not: #UD, in L2 too, where an exit
// reason that L1's processor does not define would be news that L1 cannot understand. Manual: Instructions
// That Cause VM Exits Unconditionally; Basic Exit Reasons.
#include "engine.h"

#define REASON_OTHER 127u // of contained_reasons

_Static_assert(EXIT_REASON_COUNT <= REASON_OTHER, "contained_reasons has a bit for each row of exits.def");

static void log_once(struct nvmx_vcpu *vcpu, uint32_t basic)
{
    uint32_t bit = basic < EXIT_REASON_COUNT ? basic : REASON_OTHER;
    uint64_t *word = &vcpu->contained_reasons[bit / 64], mask = 1ull << bit % 64;
    if ((*word & mask) != 0)
        return;
    *word |= mask;
    port_log(vcpu,
             vcpu->in_l2 ? "a VM exit of L2 that nobody asked for; reason, RIP"
                         : "a VM exit of L1 that nobody asked for; reason, RIP",
             basic, vmcs_read(vcpu, F_GUEST_RIP));
}

// The exit of an instruction has its length; a reason without a row is taken for an instruction's.
static bool is_of_instruction(uint32_t basic)
{
    return basic >= EXIT_REASON_COUNT || (exit_info_members[basic] & EXIT_INFO_L) != 0;
}

// It has not happened yet, and now it does.
static void deliver(struct nvmx_vcpu *vcpu)
{
    const struct nvmx_exit exit = vcpu->exit;
    uint32_t vector = exit.interruption_info & INTERRUPTION_VECTOR_MASK;
    if ((exit.interruption_info & INTERRUPTION_VALID) == 0 || vector > 31)
        return;
    if (event_type(exit.interruption_info) == EVENT_NMI) {
        nvmx_pend_nmi(vcpu);
        return;
    }
    if (event_type(exit.interruption_info) != EVENT_HARDWARE_EXCEPTION) { // INT3, INTO, INT1
        vcpu->event = (struct nvmx_event){.info = exit.interruption_info & ~INTERRUPTION_NMI_UNBLOCKING,
                                          .instruction_length = exit.instruction_length};
        return;
    }
    if (vector == VECTOR_PF) // an exit leaves CR2 alone
        hw_write_cr2(vcpu->cpu, exit.qualification);
    nvmx_raise(vcpu, vector, (exit.interruption_info & INTERRUPTION_ERROR_CODE) != 0,
               exit.interruption_error_code);
}

void nvmx_contain_exit(struct nvmx_vcpu *vcpu)
{
    uint32_t basic = vcpu->exit.reason & EXIT_REASON_BASIC_MASK;
    vcpu->contained_count++;
    log_once(vcpu, basic);
    if (basic == EXIT_EXCEPTION_OR_NMI)
        deliver(vcpu);
    else if (is_of_instruction(basic))
        nvmx_raise(vcpu, VECTOR_UD, false, 0);
}
