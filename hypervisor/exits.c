// SPDX-License-Identifier: MIT
#include "exits.h"

#include "apic.h"
#include "cpuid.h"
#include "hole.h"
#include "io.h"
#include "log.h"
#include "msr.h"
#include "panic.h"
#include "stop.h"
#include "xstate.h"

#include <silicon/x86.h>

static void raise_gp(struct vcpu *vcpu)
{
    nvmx_raise(&vcpu->nvmx, VECTOR_GP, true, 0);
}

static void raise_ud(struct vcpu *vcpu)
{
    nvmx_raise(&vcpu->nvmx, VECTOR_UD, false, 0);
}

// While an NMI waits for its window the engine has NMIs exit; L0 asks for no exceptions. Such an exit blocks
// NMIs until an IRET.
static void handle_nmi(struct vcpu *vcpu)
{
    uint32_t info = vcpu->nvmx.exit.interruption_info;
    if ((info & INTERRUPTION_TYPE_MASK) >> INTERRUPTION_TYPE_SHIFT != EVENT_NMI) {
        nvmx_contain_exit(&vcpu->nvmx);
        return;
    }
    x86_unblock_nmi();
    nvmx_pend_nmi(&vcpu->nvmx);
}

static void handle_triple_fault(struct vcpu *vcpu)
{
    struct nvmx_vcpu *nvmx = &vcpu->nvmx;
    log_line("L1's processor %u had a triple fault: CS:RIP %lx:%lx RSP %lx CR0 %lx CR3 %lx CR4 %lx EFER %lx",
             vcpu->cpu->index, nvmx_read(nvmx, F_GUEST_CS_SELECTOR), nvmx_read(nvmx, F_GUEST_RIP),
             nvmx_read(nvmx, F_GUEST_RSP), nvmx_read(nvmx, F_GUEST_CR0), nvmx_read(nvmx, F_GUEST_CR3),
             nvmx_read(nvmx, F_GUEST_CR4), nvmx_read(nvmx, F_GUEST_IA32_EFER));
    stop_machine("L1 shut down by a triple fault");
}

// The processor keeps an INIT that arrives while L1 waits for a startup IPI, and exits with it when L1 has
// started and not yet executed anything. To L1 the order was INIT, startup IPI: it is over.
static bool init_came_before_startup(struct vcpu *vcpu)
{
    bool fresh = vcpu->just_started;
    vcpu->just_started = false;
    return fresh && nvmx_read(&vcpu->nvmx, F_GUEST_RIP) == 0;
}

// Waits for the startup IPI at once: one that arrives while L0 runs is lost, so the rest of what INIT does is
// done when it is here.
static void wait_for_startup_ipi(struct vcpu *vcpu)
{
    struct nvmx_vcpu *nvmx = &vcpu->nvmx;
    vcpu->started = false;
    nvmx->event.info = 0;
    nvmx_write(nvmx, F_GUEST_INTERRUPTIBILITY, 0); // blocking by STI or MOV SS demands the active state
    nvmx_write(nvmx, F_GUEST_ACTIVITY_STATE, ACTIVITY_WAIT_FOR_SIPI);
}

// The bootstrap processor starts over at the reset vector instead.
static void restart_bootstrap_processor(struct vcpu *vcpu)
{
    nvmx_reset_l1(&vcpu->nvmx);
    apic_reset();
    nvmx_write(&vcpu->nvmx, F_GUEST_ACTIVITY_STATE, ACTIVITY_ACTIVE);
}

static void take_init(struct vcpu *vcpu)
{
    if ((vcpu->apic_base & APIC_BASE_BSP) != 0)
        restart_bootstrap_processor(vcpu);
    else
        wait_for_startup_ipi(vcpu);
}

static void handle_init(struct vcpu *vcpu)
{
    if (!init_came_before_startup(vcpu))
        take_init(vcpu);
}

static void handle_startup_ipi(struct vcpu *vcpu)
{
    nvmx_reset_l1(&vcpu->nvmx);
    apic_reset();
    nvmx_start_l1_at(&vcpu->nvmx, (uint8_t)vcpu->nvmx.exit.qualification);
    vcpu->just_started = vcpu->started = true;
}

static void handle_task_switch(struct vcpu *vcpu)
{
    uint32_t selector = (uint32_t)vcpu->nvmx.exit.qualification & 0xffff;
    port_log(&vcpu->nvmx, "task switch in hardware, which L0 does not do: #GP instead; TSS, RIP", selector,
             nvmx_read(&vcpu->nvmx, F_GUEST_RIP));
    nvmx_raise(&vcpu->nvmx, VECTOR_GP, true, selector & 0xfffc);
}

// No data is lost that L1 could have told from written-back data.
static void handle_invd(struct vcpu *vcpu)
{
    x86_wbinvd();
    nvmx_skip_instruction(&vcpu->nvmx);
}

static void handle_xsetbv(struct vcpu *vcpu)
{
    const uint64_t *gpr = vcpu->nvmx.regs.gpr;
    uint64_t value = gpr[GPR_RDX] << 32 | (uint32_t)gpr[GPR_RAX];
    bool is_offered = (value & ~xstate_offered(XSTATE_XCR0)) == 0;
    if (is_offered && silicon_xsetbv((uint32_t)gpr[GPR_RCX], value))
        nvmx_skip_instruction(&vcpu->nvmx);
    else
        raise_gp(vcpu);
}

static void handle_ept_violation(struct vcpu *vcpu)
{
    uint64_t address = vcpu->nvmx.exit.guest_physical_address;
    if (hole_handle_violation(vcpu, address))
        return;
    port_log(&vcpu->nvmx, "a physical address that L1 does not have: #GP; address, RIP", address,
             nvmx_read(&vcpu->nvmx, F_GUEST_RIP));
    raise_gp(vcpu);
}

// ept01 and ept02 are L0's own, and hold no misconfigured entry: memory that L1 has reached by mistake may be
// anybody's. (Memory types come from the MTRRs, which take no reserved one, and from ept12, whose walk
// refuses them.)
static void handle_ept_misconfiguration(struct vcpu *vcpu)
{
    panic("EPT misconfiguration at %lx", vcpu->nvmx.exit.guest_physical_address);
}

typedef void exit_handler(struct vcpu *vcpu);

// A reason without a handler is one that L0 asks for nowhere, or of an instruction that L1 has not.
static exit_handler *const handlers[EXIT_REASON_COUNT] = {
    [EXIT_EXCEPTION_OR_NMI] = handle_nmi,
    [EXIT_TRIPLE_FAULT] = handle_triple_fault,
    [EXIT_INIT_SIGNAL] = handle_init,
    [EXIT_STARTUP_IPI] = handle_startup_ipi,
    [EXIT_TASK_SWITCH] = handle_task_switch,
    [EXIT_CPUID] = cpuid_handle_exit,
    [EXIT_GETSEC] = raise_ud,
    [EXIT_INVD] = handle_invd,
    [EXIT_VMCALL] = raise_ud, // L0 offers no calls
    [EXIT_IO_INSTRUCTION] = io_handle_exit,
    [EXIT_RDMSR] = msr_handle_read_exit,
    [EXIT_WRMSR] = msr_handle_write_exit,
    [EXIT_EPT_VIOLATION] = handle_ept_violation,
    [EXIT_EPT_MISCONFIGURATION] = handle_ept_misconfiguration,
    [EXIT_XSETBV] = handle_xsetbv,
};

void exits_handle(struct vcpu *vcpu)
{
    uint32_t reason = vcpu->nvmx.exit.reason & EXIT_REASON_BASIC_MASK;
    exit_handler *handler = reason < EXIT_REASON_COUNT ? handlers[reason] : NULL;
    if (handler == NULL)
        nvmx_contain_exit(&vcpu->nvmx);
    else
        handler(vcpu);
}
