// SPDX-License-Identifier: MIT
// L1's processor state at INIT and SIPI, and its CPUID.
// Manual: Processor State After Reset (First Instruction Executed, Initial State Table); CPUID.
#include "engine.h"

static void segment_reset(struct nvmx_vcpu *vcpu, unsigned segment, uint64_t selector, uint64_t base,
                          uint32_t rights)
{
    vmcs_write(vcpu, (enum vmcs_field)(F_GUEST_ES_SELECTOR + segment), selector);
    vmcs_write(vcpu, (enum vmcs_field)(F_GUEST_ES_BASE + segment), base);
    vmcs_write(vcpu, (enum vmcs_field)(F_GUEST_ES_LIMIT + segment), 0xffff);
    vmcs_write(vcpu, (enum vmcs_field)(F_GUEST_ES_ACCESS_RIGHTS + segment), rights);
}

void l1_leave_vmx(struct nvmx_vcpu *vcpu)
{
    event_leave_vmcs(vcpu);
    shadow12_close(vcpu);
    vcpu->in_l2 = false;
    vcpu->entry_pending = false;
    vcpu->nmi_pending = 0;
    vcpu->posted_pending = false;
    vcpu->machine_check_pending = false;
    vcpu->aborted = false;
    vcpu->event.info = 0;
    vcpu->vmcs12_pointer = l1pa(NO_VMCS12);
    vcpu->vmcs12.rare_in_vmcs02 = false;
    bitmaps_reset(vcpu);
    vmcs_clear(&vcpu->vmcs02);
    vmcs_make_current(vcpu, &vcpu->vmcs01);
    vmcs_write_host_state(vcpu, &vcpu->vmcs01);
    shadow_detach(vcpu);
    vcpu->shadow.filled = false; // L1 may have written to it, and nobody collects that
}

void nvmx_reset_l1(struct nvmx_vcpu *vcpu)
{
    enum { ES, CS, SS, DS, FS, GS, LDTR, TR };
    static const struct {
        enum vmcs_field field;
        uint64_t value;
    } initial[] = {
        {F_GUEST_CR3, 0},
        {F_GUEST_RIP, 0xfff0},
        {F_GUEST_RSP, 0},
        {F_GUEST_RFLAGS, RFLAGS_FIXED},
        {F_GUEST_GDTR_BASE, 0},
        {F_GUEST_GDTR_LIMIT, 0xffff},
        {F_GUEST_IDTR_BASE, 0},
        {F_GUEST_IDTR_LIMIT, 0xffff},
        {F_GUEST_DR7, 0x400},
        {F_GUEST_IA32_DEBUGCTL, 0},
        {F_GUEST_IA32_EFER, 0},
        {F_GUEST_IA32_PAT, 0x0007040600070406},
        {F_GUEST_SYSENTER_CS, 0},
        {F_GUEST_SYSENTER_ESP, 0},
        {F_GUEST_SYSENTER_EIP, 0},
        {F_GUEST_INTERRUPTIBILITY, 0},
        {F_GUEST_PENDING_DEBUG_EXCEPTIONS, 0},
        {F_GUEST_ACTIVITY_STATE, ACTIVITY_WAIT_FOR_SIPI},
    };
    l1_leave_vmx(vcpu);
    vcpu->l1_entry.can_undo = false;
    vcpu->init_pending = false;
    for (unsigned i = 0; i < sizeof initial / sizeof initial[0]; i++)
        vmcs_write(vcpu, initial[i].field, initial[i].value);
    for (unsigned segment = ES; segment <= GS; segment++)
        segment_reset(vcpu, segment, 0, 0, 0x93);
    segment_reset(vcpu, CS, 0xf000, 0xffff0000, 0x9b);
    segment_reset(vcpu, LDTR, 0, 0, 0x82);
    segment_reset(vcpu, TR, 0, 0, 0x8b);
    vmcs_write(vcpu, F_VM_ENTRY_CONTROLS,
               vmcs_read(vcpu, F_VM_ENTRY_CONTROLS) & ~(uint64_t)ENTRY_IA32E_MODE_GUEST);
    l1_cr_write_state(vcpu, CR0_CD | CR0_NW | CR0_ET, 0);
    l1_cr_update_masks(vcpu, false);
    if (vcpu->config.policy.vpid01 != 0)
        hw_invvpid(vcpu->cpu, INVVPID_SINGLE_CONTEXT, vcpu->config.policy.vpid01, 0);
    vcpu->regs = (struct nvmx_regs){.gpr[GPR_RDX] = 0x600}; // family 6
}

void nvmx_start_l1_at(struct nvmx_vcpu *vcpu, uint8_t sipi_vector)
{
    vmcs_write(vcpu, F_GUEST_CS_SELECTOR, (uint64_t)sipi_vector << 8);
    vmcs_write(vcpu, F_GUEST_CS_BASE, (uint64_t)sipi_vector << 12);
    vmcs_write(vcpu, F_GUEST_RIP, 0);
    vmcs_write(vcpu, F_GUEST_ACTIVITY_STATE, ACTIVITY_ACTIVE);
}

void nvmx_cpuid_adjust(struct nvmx_vcpu *vcpu, uint32_t leaf, uint32_t subleaf, struct nvmx_cpuid *result)
{
    static const uint32_t ecx_vmx = 1u << 5, ecx_osxsave = 1u << 27, ecx_ospke = 1u << 4;
    if (leaf == 1) {
        bool osxsave = (vmcs_read(vcpu, F_GUEST_CR4) & CR4_OSXSAVE) != 0;
        result->ecx = (result->ecx & ~ecx_osxsave) | ecx_vmx | (osxsave ? ecx_osxsave : 0);
    } else if (leaf == 7 && subleaf == 0) {
        bool ospke = (vmcs_read(vcpu, F_GUEST_CR4) & CR4_PKE) != 0;
        result->ecx = (result->ecx & ~ecx_ospke) | (ospke ? ecx_ospke : 0);
    }
}
