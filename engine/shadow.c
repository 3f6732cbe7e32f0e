// SPDX-License-Identifier: MIT
// L1's VMREAD and VMWRITE of the hot fields without an exit: the processor executes them on a shadow VMCS,
// which holds the shadowed part of vmcs12 while L1 has a current VMCS. Which fields follows from their
// policies: those that are saved or recorded at every exit can be read, those that are written at every entry
// can be written too. What was written to it is brought into memory, where the processor finds it through the
// link pointer. Manual: VMCS Types: Ordinary and Shadow; VMCS Shadowing Bitmap Addresses; VMCS Link Pointer.
#include "engine.h"

#define IS_WRITABLE(entry) (ENTRY_##entry == ENTRY_HOT || ENTRY_##entry == ENTRY_EVENT)
#define IS_READABLE(entry, exit)                                                                             \
    (IS_WRITABLE(entry) || EXIT_##exit == EXIT_SAVE_HOT || EXIT_##exit == EXIT_RECORD)

static void bitmap_open(l0pa_t bitmap, enum vmcs_field field)
{
    uint8_t *bits = port_l0_map(bitmap);
    uint32_t encoding = field_table[field].encoding;
    bits[encoding / 8] &= (uint8_t) ~(1u << (encoding % 8));
}

void shadow_init(struct nvmx_vcpu *vcpu)
{
    const struct nvmx_vcpu_pages *pages = &vcpu->config.pages;
    const struct nvmx_caps *hardware = vcpu->config.hardware;
    bool writes_all_fields =
        (hardware->msr[MSR_IA32_VMX_MISC - CAPS_MSR_FIRST] & MISC_VMWRITE_ANY_FIELD) != 0;
    if ((nvmx_caps_allowed1(hardware, CAPS_SECONDARY) & SECONDARY_VMCS_SHADOWING) == 0 ||
        !writes_all_fields || pages->shadow_vmcs.value == 0)
        return;
    vcpu->shadow.usable = true;
    vmcs_init(&vcpu->shadow.vmcs, pages->shadow_vmcs);
    *(uint32_t *)port_l0_map(pages->shadow_vmcs) = (uint32_t)hardware->msr[0] | REVISION_SHADOW;
    const struct field_set shadowed = field_set_and(vcpu->exists_l1, vcpu->exists_hardware);
#define FIELD(name, encoding, width, type, exists, entry, exit)                                              \
    if (IS_READABLE(entry, exit) && field_set_has(&shadowed, F_##name)) {                                    \
        field_set_add(&vcpu->shadow.readable, F_##name);                                                     \
        bitmap_open(pages->vmread_bitmap, F_##name);                                                         \
        if (IS_WRITABLE(entry))                                                                              \
            bitmap_open(pages->vmwrite_bitmap, F_##name);                                                    \
    }
#include <nvmx/vmcs_fields.def>
#undef FIELD
}

static void shadow_begin(struct nvmx_vcpu *vcpu)
{
    vmcs_make_current(vcpu, &vcpu->shadow.vmcs);
}

// Back into memory, where the processor finds it; vmcs01 is current again.
static void shadow_end(struct nvmx_vcpu *vcpu)
{
    vmcs_clear(&vcpu->shadow.vmcs);
    vmcs_make_current(vcpu, &vcpu->vmcs01);
}

// Straight-line code, a row a field: at every exit that goes to L1 and every entry that comes from it.
void shadow_publish(struct nvmx_vcpu *vcpu)
{
    if (!vcpu->shadow.attached)
        return;
    const uint64_t *field = vcpu->vmcs12.field;
    uint64_t *holds = vcpu->shadow.vmcs.written;
    bool all = !vcpu->shadow.filled;
    shadow_begin(vcpu);
#define FIELD(name, encoding, width, type, exists, entry, exit)                                              \
    if (IS_READABLE(entry, exit) && (all || holds[F_##name] != field[F_##name]) &&                           \
        (exists == EX_ALWAYS || field_set_has(&vcpu->shadow.readable, F_##name))) {                          \
        hw_vmwrite(vcpu->cpu, encoding, field[F_##name]);                                                    \
        holds[F_##name] = field[F_##name];                                                                   \
    }
#include <nvmx/vmcs_fields.def>
#undef FIELD
    vcpu->shadow.filled = true;
    shadow_end(vcpu);
}

void shadow_collect(struct nvmx_vcpu *vcpu)
{
    if (!vcpu->shadow.attached)
        return;
    uint64_t *holds = vcpu->shadow.vmcs.written;
    shadow_begin(vcpu);
#define FIELD(name, encoding, width, type, exists, entry, exit)                                              \
    if (IS_WRITABLE(entry) && (exists == EX_ALWAYS || field_set_has(&vcpu->shadow.readable, F_##name))) {    \
        uint64_t value = hw_vmread(vcpu->cpu, encoding);                                                     \
        if (value != holds[F_##name]) {                                                                      \
            holds[F_##name] = value;                                                                         \
            vmcs12_write(vcpu, F_##name, value);                                                             \
        }                                                                                                    \
    }
#include <nvmx/vmcs_fields.def>
#undef FIELD
    vmcs_make_current(vcpu, &vcpu->vmcs01); // memory and cache agree: nothing was written
}

static void shadow_control(struct nvmx_vcpu *vcpu, uint64_t link_pointer, uint32_t set, uint32_t clear)
{
    struct vmcs *vmcs01 = &vcpu->vmcs01;
    uint64_t secondary = vmcs01->written[F_SECONDARY_CONTROLS];
    vmcs_write_if_changed(vcpu, vmcs01, F_SECONDARY_CONTROLS, (secondary | set) & ~(uint64_t)clear);
    vmcs_write_if_changed(vcpu, vmcs01, F_VMCS_LINK_POINTER, link_pointer);
}

void shadow_attach(struct nvmx_vcpu *vcpu)
{
    if (!vcpu->shadow.usable)
        return;
    vcpu->shadow.attached = true;
    shadow_publish(vcpu);
    shadow_control(vcpu, vcpu->shadow.vmcs.region.value, SECONDARY_VMCS_SHADOWING, 0);
}

void shadow_detach(struct nvmx_vcpu *vcpu)
{
    if (!vcpu->shadow.attached)
        return;
    vcpu->shadow.attached = false;
    shadow_control(vcpu, ~0ull, 0, SECONDARY_VMCS_SHADOWING);
}
