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

// A VMCS is on its processor's list whenever it may be active: before what makes it so, and until after
// VMCLEAR. The chain of `active_next` is whole at any moment, for nvmx_cpu_clear_all in a handler that
// interrupts this code.
void vmcs_list_add(struct nvmx_vcpu *vcpu, struct vmcs *vmcs)
{
    struct nvmx_cpu *cpu = vcpu->last;
    vmcs->active_on = cpu;
    vmcs->active_next = cpu->active;
    vmcs->active_link = &cpu->active;
    if (cpu->active != NULL)
        cpu->active->active_link = &vmcs->active_next;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    cpu->active = vmcs;
}

static void vmcs_list_remove(struct vmcs *vmcs)
{
    *vmcs->active_link = vmcs->active_next;
    if (vmcs->active_next != NULL)
        vmcs->active_next->active_link = vmcs->active_link;
    vmcs->active_on = NULL;
}

void vmcs_make_current(struct nvmx_vcpu *vcpu, struct vmcs *vmcs)
{
    if (vcpu->current == vmcs)
        return;
    if (vmcs->active_on == NULL) { // initializes the launch state, and proves that no data is cached here
        vmcs_expect(hw_vmclear(vcpu->cpu, vmcs->region), "VMCLEAR of a VMCS of L0's", vmcs->region);
        vmcs_list_add(vcpu, vmcs);
    }
    vmcs_expect(hw_vmptrld(vcpu->cpu, vmcs->region), "VMPTRLD of a VMCS of L0's", vmcs->region);
    vcpu->current = vmcs;
}

void vmcs_clear(struct vmcs *vmcs)
{
    if (vmcs->active_on == NULL)
        return;
    struct nvmx_cpu *cpu = vmcs->active_on;
    vmcs_expect(hw_vmclear(cpu->hw, vmcs->region), "VMCLEAR of a VMCS of L0's", vmcs->region);
    // The launch state is "clear" now. The data stays: what was written is still known.
    vmcs->launched = false;
    vmcs_list_remove(vmcs);
    if (cpu->loaded != NULL && cpu->loaded->current == vmcs)
        cpu->loaded->current = NULL;
}

// The rows of one lifetime that the processor has, from a table of values: which rows these are, and so what
// is written when, is in vmcs_fields.def only. A row without a value of L0's gets 0.
static void vmcs_write_lifetime(const struct nvmx_vcpu *vcpu, enum field_entry lifetime,
                                const uint64_t *value)
{
    struct field_set fields = field_set_and(field_set_of_entry(lifetime), vcpu->exists_hardware);
    FIELD_SET_FOR_EACH(field, fields)
    {
        vmcs_write(vcpu, (enum vmcs_field)field, value[field]);
    }
}

// What L0 never changes in a VMCS: its own state, no MSR lists (software does them), no VM functions, and in
// vmcs02 no shadow VMCS.
static void vmcs_write_constant(const struct nvmx_vcpu *vcpu, bool is_vmcs02)
{
    const struct nvmx_l0_policy *policy = &vcpu->config.policy;
    const struct nvmx_vcpu_pages *pages = &vcpu->config.pages;
    struct port_host_constant host;
    port_host_constant(&host);
    const uint64_t value[F_COUNT] = {
        [F_HOST_ES_SELECTOR] = host.es,
        [F_HOST_CS_SELECTOR] = host.cs,
        [F_HOST_SS_SELECTOR] = host.ss,
        [F_HOST_DS_SELECTOR] = host.ds,
        [F_HOST_FS_SELECTOR] = host.fs,
        [F_HOST_GS_SELECTOR] = host.gs,
        [F_HOST_TR_SELECTOR] = host.tr,
        [F_HOST_IA32_PAT] = host.pat,
        [F_HOST_IA32_EFER] = host.efer,
        [F_HOST_SYSENTER_CS] = host.sysenter_cs,
        [F_HOST_SYSENTER_EIP] = host.sysenter_eip,
        [F_HOST_CR0] = host.cr0,
        [F_HOST_CR3] = host.cr3,
        [F_HOST_CR4] = host.cr4,
        [F_HOST_RIP] = host.rip,
        [F_IO_BITMAP_A] = is_vmcs02 ? pages->io_bitmap_a.value : policy->io_bitmap_a.value,
        [F_IO_BITMAP_B] = is_vmcs02 ? pages->io_bitmap_b.value : policy->io_bitmap_b.value,
        [F_MSR_BITMAP] = is_vmcs02 ? pages->msr_bitmap.value : policy->msr_bitmap.value,
        [F_VMCS_LINK_POINTER] = ~0ull, // a shadow VMCS at times (shadow.c, shadow12.c)
        [F_VMREAD_BITMAP] = is_vmcs02 ? pages->vmread02_bitmap.value : pages->vmread_bitmap.value,
        [F_VMWRITE_BITMAP] = is_vmcs02 ? pages->vmwrite02_bitmap.value : pages->vmwrite_bitmap.value,
    };
    vmcs_write_lifetime(vcpu, ENTRY_CONSTANT, value);
    vmcs_write(vcpu, F_VM_ENTRY_INTERRUPTION_INFO, 0); // then written when there is an event; exits clear it
}

static void vmcs_write_per_cpu(const struct nvmx_vcpu *vcpu)
{
    struct port_host_cpu host;
    port_host_cpu(vcpu->cpu, &host);
    const uint64_t value[F_COUNT] = {
        [F_HOST_FS_BASE] = host.fs_base,           [F_HOST_GS_BASE] = host.gs_base,
        [F_HOST_TR_BASE] = host.tr_base,           [F_HOST_GDTR_BASE] = host.gdtr_base,
        [F_HOST_IDTR_BASE] = host.idtr_base,       [F_HOST_RSP] = host.rsp,
        [F_HOST_SYSENTER_ESP] = host.sysenter_esp,
    };
    vmcs_write_lifetime(vcpu, ENTRY_CPU, value);
}

void vmcs_write_host_state(struct nvmx_vcpu *vcpu, struct vmcs *vmcs)
{
    if (!vmcs->constant_written) {
        vmcs_write_constant(vcpu, vmcs == &vcpu->vmcs02);
        vmcs_note(vmcs, F_VMCS_LINK_POINTER, ~0ull);
        vmcs->constant_written = true;
    }
    if (vmcs->host_cpu != vcpu->cpu) {
        vmcs_write_per_cpu(vcpu);
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
