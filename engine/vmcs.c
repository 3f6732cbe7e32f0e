// SPDX-License-Identifier: MIT
// The life of a hardware VMCS of L0's. A VMCS is active on at most one logical processor, whose cache may
// hold its data: nothing reads the region, and VMCLEAR on that processor comes before use on another. Manual:
// Virtual Machine Control Structures; Managing VMCS Regions and Pointers.
#include "engine.h"

void vmcs_init(struct vmcs *vmcs, l0pa_t region)
{
    *vmcs = (struct vmcs){.region = region};
}

static void vmcs_expect(enum vmx_status status, const char *what, l0pa_t region)
{
    if (status != VMX_SUCCEED)
        port_bug(what, region.value, status);
}

void vmcs_make_current(struct nvmx_vcpu *vcpu, struct vmcs *vmcs)
{
    if (vcpu->current == vmcs)
        return;
    if (vmcs->cpu == NULL) // initializes the launch state, and proves that no data is cached here
        vmcs_expect(hw_vmclear(vcpu->cpu, vmcs->region), "VMCLEAR of a VMCS of L0's", vmcs->region);
    vmcs_expect(hw_vmptrld(vcpu->cpu, vmcs->region), "VMPTRLD of a VMCS of L0's", vmcs->region);
    vmcs->cpu = vcpu->cpu;
    vcpu->current = vmcs;
}

void vmcs_clear(struct nvmx_vcpu *vcpu, struct vmcs *vmcs)
{
    if (vmcs->cpu == NULL)
        return;
    vmcs_expect(hw_vmclear(vmcs->cpu, vmcs->region), "VMCLEAR of a VMCS of L0's", vmcs->region);
    vmcs->cpu = NULL;
    vmcs->launched =
        false; // VMCLEAR makes the launch state "clear"; the data stays, so what was written is known
    if (vcpu->current == vmcs)
        vcpu->current = NULL;
}

static void vmcs_write_constant_host_state(const struct nvmx_vcpu *vcpu)
{
    struct port_host_constant host;
    port_host_constant(&host);
    vmcs_write(vcpu, F_HOST_ES_SELECTOR, host.es);
    vmcs_write(vcpu, F_HOST_CS_SELECTOR, host.cs);
    vmcs_write(vcpu, F_HOST_SS_SELECTOR, host.ss);
    vmcs_write(vcpu, F_HOST_DS_SELECTOR, host.ds);
    vmcs_write(vcpu, F_HOST_FS_SELECTOR, host.fs);
    vmcs_write(vcpu, F_HOST_GS_SELECTOR, host.gs);
    vmcs_write(vcpu, F_HOST_TR_SELECTOR, host.tr);
    vmcs_write(vcpu, F_HOST_IA32_PAT, host.pat);
    vmcs_write(vcpu, F_HOST_IA32_EFER, host.efer);
    vmcs_write(vcpu, F_HOST_SYSENTER_CS, host.sysenter_cs);
    vmcs_write(vcpu, F_HOST_CR0, host.cr0);
    vmcs_write(vcpu, F_HOST_CR3, host.cr3);
    vmcs_write(vcpu, F_HOST_CR4, host.cr4);
    vmcs_write(vcpu, F_HOST_SYSENTER_EIP, host.sysenter_eip);
    vmcs_write(vcpu, F_HOST_RIP, host.rip);
}

// What no VMCS of L0's ever changes: no MSR lists (software does them), no VM functions, no shadow VMCS.
static void vmcs_write_constant_controls(const struct nvmx_vcpu *vcpu, bool is_vmcs02)
{
    const struct nvmx_l0_policy *policy = &vcpu->config.policy;
    const struct nvmx_vcpu_pages *pages = &vcpu->config.pages;
    vmcs_write(vcpu, F_IO_BITMAP_A, is_vmcs02 ? pages->io_bitmap_a.value : policy->io_bitmap_a.value);
    vmcs_write(vcpu, F_IO_BITMAP_B, is_vmcs02 ? pages->io_bitmap_b.value : policy->io_bitmap_b.value);
    vmcs_write(vcpu, F_MSR_BITMAP, is_vmcs02 ? pages->msr_bitmap.value : policy->msr_bitmap.value);
    vmcs_write(vcpu, F_VM_EXIT_MSR_STORE_ADDRESS, 0);
    vmcs_write(vcpu, F_VM_EXIT_MSR_LOAD_ADDRESS, 0);
    vmcs_write(vcpu, F_VM_ENTRY_MSR_LOAD_ADDRESS, 0);
    vmcs_write(vcpu, F_VM_EXIT_MSR_STORE_COUNT, 0);
    vmcs_write(vcpu, F_VM_EXIT_MSR_LOAD_COUNT, 0);
    vmcs_write(vcpu, F_VM_ENTRY_MSR_LOAD_COUNT, 0);
    vmcs_write(vcpu, F_VMCS_LINK_POINTER, ~0ull); // vmcs01's is a shadow VMCS at times (shadow.c)
    vmcs_write(vcpu, F_VM_ENTRY_INTERRUPTION_INFO,
               0); // from here on written when there is an event, cleared by exits
    if (field_set_has(&vcpu->exists_hardware, F_VM_FUNCTION_CONTROLS))
        vmcs_write(vcpu, F_VM_FUNCTION_CONTROLS, 0);
}

void vmcs_write_host_state(struct nvmx_vcpu *vcpu, struct vmcs *vmcs)
{
    if (!vmcs->constant_written) {
        vmcs_write_constant_host_state(vcpu);
        vmcs_write_constant_controls(vcpu, vmcs == &vcpu->vmcs02);
        vmcs->constant_written = true;
    }
    if (vmcs->host_cpu != vcpu->cpu) {
        struct port_host_cpu host;
        port_host_cpu(vcpu->cpu, &host);
        vmcs_write(vcpu, F_HOST_FS_BASE, host.fs_base);
        vmcs_write(vcpu, F_HOST_GS_BASE, host.gs_base);
        vmcs_write(vcpu, F_HOST_TR_BASE, host.tr_base);
        vmcs_write(vcpu, F_HOST_GDTR_BASE, host.gdtr_base);
        vmcs_write(vcpu, F_HOST_IDTR_BASE, host.idtr_base);
        vmcs_write(vcpu, F_HOST_SYSENTER_ESP, host.sysenter_esp);
        vmcs_write(vcpu, F_HOST_RSP, host.rsp);
        vmcs->host_cpu = vcpu->cpu;
    }
}

void vmcs_note(struct vmcs *vmcs, enum vmcs_field field, uint64_t value)
{
    vmcs->written[field] = value;
    field_set_add(&vmcs->written_known, field);
}

void vmcs_write_if_changed(struct nvmx_vcpu *vcpu, struct vmcs *vmcs, enum vmcs_field field, uint64_t value)
{
    if (field_set_has(&vmcs->written_known, field) && vmcs->written[field] == value)
        return;
    vmcs_write(vcpu, field, value);
    vmcs_note(vmcs, field, value);
}
