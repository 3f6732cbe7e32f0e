// SPDX-License-Identifier: MIT
// L1's current VMCS: a copy in L0's memory, which is what everything else looks at. L1's region is read at
// VMPTRLD and written when L1 leaves the VMCS (VMCLEAR, VMPTRLD of another, VMXOFF), as a processor that
// caches it may do. Manual: Virtual Machine Control Structures (Format of the VMCS Region); Software Use of
// the VMCS.
#include "engine.h"

// In L1's region. L1 may write anything here: every word is made legal when it is read.
struct vmcs12_region {
    uint32_t revision;
    uint32_t abort_indicator;
    uint32_t launch_state;
    uint32_t reserved;
    uint64_t field[F_COUNT];
};
#define LAUNCH_STATE_LAUNCHED 0x6c61756eu
_Static_assert(sizeof(struct vmcs12_region) <= PAGE_SIZE,
               "the VMCS region that IA32_VMX_BASIC reports is a page");

bool vmcs12_load(struct nvmx_vcpu *vcpu, l1pa_t pointer)
{
    struct vmcs12 *vmcs12 = &vcpu->vmcs12;
    uint32_t launch_state, revision;
    l1pa_t fields = l1pa(pointer.value + offsetof(struct vmcs12_region, field));
    bool is_ram = port_l1_read(vcpu, pointer, &revision, sizeof revision) &&
                  port_l1_read(vcpu, l1pa(pointer.value + offsetof(struct vmcs12_region, launch_state)),
                               &launch_state, sizeof launch_state) &&
                  port_l1_read(vcpu, fields, vmcs12->field, sizeof vmcs12->field);
    if (!is_ram)
        *vmcs12 = (struct vmcs12){0};
        // Straight-line code, a row a narrow field.
#define FIELD(name, encoding, width, type, exists, entry, exit)                                              \
    if (FIELD_MASK(width) != ~0ull)                                                                          \
        vmcs12->field[F_##name] &= FIELD_MASK(width);
#include <nvmx/vmcs_fields.def>
#undef FIELD
    vmcs12->launched = is_ram && launch_state == LAUNCH_STATE_LAUNCHED;
    vmcs12->is_shadow = is_ram && (revision & REVISION_SHADOW) != 0;
    vmcs12_set_all_dirty(vcpu);
    bitmaps_reset(vcpu);
    return is_ram;
}

void vmcs12_set_all_dirty(struct nvmx_vcpu *vcpu)
{
    vcpu->vmcs12.rare_in_vmcs02 = false;
    for (unsigned i = 0; i < FIELD_SET_WORDS; i++)
        vcpu->vmcs12.dirty.bits[i] = ~0ull;
}

void vmcs12_store(struct nvmx_vcpu *vcpu)
{
    if (vcpu->vmcs12_pointer.value == NO_VMCS12)
        return;
    shadow_collect(vcpu);
    vmcs12_sync_rare(vcpu);
    l1pa_t body = l1pa(vcpu->vmcs12_pointer.value + offsetof(struct vmcs12_region, launch_state));
    l1pa_t fields = l1pa(vcpu->vmcs12_pointer.value + offsetof(struct vmcs12_region, field));
    uint32_t launch_state = vcpu->vmcs12.launched ? LAUNCH_STATE_LAUNCHED : 0;
    // The region was RAM at VMPTRLD; were it gone now, there is nobody to tell, as on the processor.
    port_l1_write(vcpu, body, &launch_state, sizeof launch_state);
    port_l1_write(vcpu, fields, vcpu->vmcs12.field, sizeof vcpu->vmcs12.field);
}

void vmcs12_set_clear(struct nvmx_vcpu *vcpu, l1pa_t pointer)
{
    uint32_t clear = 0;
    port_l1_write(vcpu, l1pa(pointer.value + offsetof(struct vmcs12_region, launch_state)), &clear,
                  sizeof clear);
}

uint64_t vmcs12_region_read(struct nvmx_vcpu *vcpu, l1pa_t region, enum vmcs_field field)
{
    uint64_t value;
    l1pa_t at = l1pa(region.value + offsetof(struct vmcs12_region, field) + field * sizeof value);
    return port_l1_read(vcpu, at, &value, sizeof value) ? value & field_mask(field) : field_mask(field);
}

void vmcs12_region_write(struct nvmx_vcpu *vcpu, l1pa_t region, enum vmcs_field field, uint64_t value)
{
    l1pa_t at = l1pa(region.value + offsetof(struct vmcs12_region, field) + field * sizeof value);
    port_l1_write(vcpu, at, &value, sizeof value);
}

void vmcs12_sync_rare(struct nvmx_vcpu *vcpu)
{
    struct vmcs12 *vmcs12 = &vcpu->vmcs12;
    if (!vmcs12->rare_in_vmcs02)
        return;
    vmcs12->rare_in_vmcs02 = false;
    vmcs_make_current(vcpu, &vcpu->vmcs02);
    struct field_set stale = field_set_and_not(vcpu->rare, vmcs12->dirty);
    FIELD_SET_FOR_EACH(field, stale)
    {
        if (field_table[field].exit == EXIT_SAVE_RARE)
            vmcs12->field[field] = vmcs_read(vcpu, (enum vmcs_field)field);
    }
    vmcs_make_current(vcpu, &vcpu->vmcs01);
}

uint64_t vmcs12_read(struct nvmx_vcpu *vcpu, enum vmcs_field field)
{
    if (field_table[field].exit == EXIT_SAVE_RARE && !field_set_has(&vcpu->vmcs12.dirty, field))
        vmcs12_sync_rare(vcpu);
    return vcpu->vmcs12.field[field];
}

void vmcs12_write(struct nvmx_vcpu *vcpu, enum vmcs_field field, uint64_t value)
{
    vcpu->vmcs12.field[field] = value & field_mask(field);
    field_set_add(&vcpu->vmcs12.dirty, field);
}
