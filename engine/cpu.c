// SPDX-License-Identifier: MIT
// Where vcpus are: loading one on a logical processor, taking it off, and what that processor's VMCS cache
// may still hold afterwards. All VMCSs of a vcpu that are active are active on one processor, the one that it
// was loaded on last. Manual: Software Use of the VMCS and Related Structures.
#include "engine.h"

void nvmx_cpu_init(struct nvmx_cpu *cpu, struct hw_cpu *hw)
{
    *cpu = (struct nvmx_cpu){.hw = hw};
}

void nvmx_cpu_clear_all(struct nvmx_cpu *cpu)
{
    if (cpu->loaded != NULL)
        nvmx_vcpu_put(cpu->loaded);
    while (cpu->active != NULL) {
        cpu->active->active_link = &cpu->active; // not yet, when an insertion was interrupted
        vmcs_clear(cpu->active);
    }
}

static bool is_active_on(const struct nvmx_vcpu *vcpu, const struct nvmx_cpu *cpu)
{
    return vcpu->vmcs01.active_on == cpu || vcpu->vmcs02.active_on == cpu ||
           vcpu->shadow.vmcs.active_on == cpu || vcpu->shadow12.vmcs.active_on == cpu;
}

void nvmx_vcpu_clear_here(struct nvmx_vcpu *vcpu, struct nvmx_cpu *cpu)
{
    if (vcpu->cpu != NULL)
        port_bug("a VMCS of a vcpu that is loaded is to be cleared; VPID of L1", vcpu->config.policy.vpid01,
                 0);
    if (!is_active_on(vcpu, cpu))
        return;
    vmcs_clear(&vcpu->vmcs01);
    vmcs_clear(&vcpu->vmcs02);
    vmcs_clear(&vcpu->shadow.vmcs);
    vmcs_clear(&vcpu->shadow12.vmcs);
}

void nvmx_vcpu_retire(struct nvmx_vcpu *vcpu, struct nvmx_cpu *cpu)
{
    if (vcpu->last == NULL || !is_active_on(vcpu, vcpu->last))
        return;
    if (vcpu->last == cpu)
        nvmx_vcpu_clear_here(vcpu, cpu);
    else
        port_vcpu_clear_on(vcpu, vcpu->last);
}

// Translations of the vcpu's tags may be stale here, from when it ran here before: what was invalidated since
// was invalidated elsewhere.
static void drop_stale_translations(struct nvmx_vcpu *vcpu)
{
    const struct nvmx_l0_policy *policy = &vcpu->config.policy;
    if (policy->vpid01 != 0)
        hw_invvpid(vcpu->cpu, INVVPID_SINGLE_CONTEXT, policy->vpid01, 0);
    vpid02_load(vcpu);
    ept02_load(vcpu);
}

void nvmx_vcpu_load(struct nvmx_vcpu *vcpu, struct nvmx_cpu *cpu)
{
    if (vcpu->cpu != NULL || cpu->loaded != NULL)
        port_bug("a vcpu is loaded twice, or where another one is; VPID of L1", vcpu->config.policy.vpid01,
                 0);
    bool moved = vcpu->last != cpu;
    if (moved)
        nvmx_vcpu_retire(vcpu, cpu);
    vcpu->cpu = cpu->hw;
    vcpu->last = cpu;
    cpu->loaded = vcpu;
    bool first = !vcpu->vmcs01.constant_written;
    vmcs_make_current(vcpu, vcpu->in_l2 ? &vcpu->vmcs02 : &vcpu->vmcs01);
    if (first)
        vmcs01_write_controls(vcpu);
    vmcs_write_host_state(vcpu, vcpu->current);
    if (moved)
        drop_stale_translations(vcpu);
}

void nvmx_vcpu_put(struct nvmx_vcpu *vcpu)
{
    if (vcpu->cpu == NULL)
        return;
    vcpu->last->loaded = NULL;
    vcpu->cpu = NULL;
    vcpu->current = NULL; // another vcpu's is, before this one comes back
}
