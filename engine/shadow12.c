// SPDX-License-Identifier: MIT
// L1's own use of VMCS shadowing: L2's VMREAD and VMWRITE act on the VMCS behind vmcs12's link pointer, where
// L1's bitmaps let them. That VMCS is in L1's memory, in our format. vmcs02 links to a VMCS of L0's, whose
// bitmaps are closed at first: when L2 exits for a field that L1 lets through, the field is loaded into it
// and its bit opened, and L2 executes the instruction again, on the processor, which knows best how to reach
// its operand. Before L1 runs again, what L2 may have written goes back, and all is closed. Manual: VMCS
// Types: Ordinary and Shadow; VMREAD, VMWRITE (Changes to Instruction Behavior in VMX Non-Root Operation).
#include "engine.h"

void shadow12_init(struct nvmx_vcpu *vcpu)
{
    const struct nvmx_vcpu_config *config = &vcpu->config;
    const struct nvmx_vcpu_pages *pages = &config->pages;
    if ((nvmx_caps_allowed1(config->offered, CAPS_SECONDARY) & SECONDARY_VMCS_SHADOWING) == 0)
        return;
    vmcs_init(&vcpu->shadow12.vmcs, pages->shadow02_vmcs);
    page_fill(pages->shadow02_vmcs, 0);
    *(uint32_t *)port_l0_map(pages->shadow02_vmcs) = (uint32_t)config->hardware->msr[0] | REVISION_SHADOW;
    page_fill(pages->vmread02_bitmap, ~0ull);
    page_fill(pages->vmwrite02_bitmap, ~0ull);
}

void shadow12_commit(struct nvmx_vcpu *vcpu)
{
    struct vmcs_shadow12 *shadow = &vcpu->shadow12;
    shadow->linked = (vmcs12_secondary(vcpu) & SECONDARY_VMCS_SHADOWING) != 0;
    if (shadow->linked && !shadow->initialized) {
        vmcs_make_current(vcpu, &shadow->vmcs); // VMCLEAR and VMPTRLD, the first time
        vmcs_clear(&shadow->vmcs);
        vmcs_make_current(vcpu, &vcpu->vmcs02);
        shadow->initialized = true;
    }
    vmcs_write_if_changed(vcpu, &vcpu->vmcs02, F_VMCS_LINK_POINTER,
                          shadow->linked ? shadow->vmcs.region.value : ~0ull);
}

static void bit_set(l0pa_t bitmap, uint32_t encoding, bool exits)
{
    uint8_t *byte = (uint8_t *)port_l0_map(bitmap) + encoding / 8, bit = (uint8_t)(1u << (encoding % 8));
    *byte = exits ? *byte | bit : *byte & (uint8_t)~bit;
}

void shadow12_close(struct nvmx_vcpu *vcpu)
{
    struct vmcs_shadow12 *shadow = &vcpu->shadow12;
    const struct nvmx_vcpu_pages *pages = &vcpu->config.pages;
    if (!shadow->open)
        return;
    struct vmcs *current = vcpu->current;
    vmcs_make_current(vcpu, &shadow->vmcs);
    FIELD_SET_FOR_EACH(field, shadow->loaded)
    {
        uint32_t encoding = field_table[field].encoding;
        for (uint32_t high = 0; high < 2; high++) {
            bit_set(pages->vmread02_bitmap, encoding | high, true);
            bit_set(pages->vmwrite02_bitmap, encoding | high, true);
        }
        if (field_set_has(&shadow->writable, (enum vmcs_field)field))
            vmcs12_region_write(vcpu, shadow->region, (enum vmcs_field)field,
                                vmcs_read(vcpu, (enum vmcs_field)field));
    }
    vmcs_clear(&shadow->vmcs);
    if (current != NULL)
        vmcs_make_current(vcpu, current);
    shadow->open = false;
    shadow->loaded = shadow->writable = (struct field_set){{0}};
}

static void open_field(struct nvmx_vcpu *vcpu, enum vmcs_field field, uint32_t encoding, bool write)
{
    struct vmcs_shadow12 *shadow = &vcpu->shadow12;
    const struct nvmx_vcpu_pages *pages = &vcpu->config.pages;
    if (!shadow->open)
        shadow->region = l1pa(vmcs12_get(vcpu, F_VMCS_LINK_POINTER));
    shadow->open = true;
    if (!field_set_has(&shadow->loaded, field)) {
        uint64_t value = vmcs12_region_read(vcpu, shadow->region, field);
        vmcs_make_current(vcpu, &shadow->vmcs);
        vmcs_write(vcpu, field, value);
        vmcs_clear(&shadow->vmcs); // into memory, where the processor finds it
        vmcs_make_current(vcpu, &vcpu->vmcs02);
        field_set_add(&shadow->loaded, field);
    }
    if (write)
        field_set_add(&shadow->writable, field);
    bit_set(write ? pages->vmwrite02_bitmap : pages->vmread02_bitmap, encoding, false);
}

// The bit of L1's bitmap, whose every address that is not memory reads as ones.
static bool l1_wants_exit(struct nvmx_vcpu *vcpu, uint64_t encoding, bool write)
{
    uint8_t bits;
    l1pa_t at = l1pa(vmcs12_get(vcpu, write ? F_VMWRITE_BITMAP : F_VMREAD_BITMAP) + encoding / 8);
    return !port_l1_read(vcpu, at, &bits, sizeof bits) || (bits >> (encoding % 8) & 1) != 0;
}

enum route shadow12_route(struct nvmx_vcpu *vcpu)
{
    bool write = vcpu->exit.reason == EXIT_VMWRITE;
    uint64_t encoding = l1_gpr_read(vcpu, vcpu->exit.instruction_info >> 28);
    if (!l1_is_64bit(vcpu)) // of whoever runs: L2
        encoding = (uint32_t)encoding;
    if (!vcpu->shadow12.linked || encoding > VMCS_ENCODING_MASK || l1_wants_exit(vcpu, encoding, write))
        return ROUTE_TO_L1;
    l1pa_t link = l1pa(vmcs12_get(vcpu, F_VMCS_LINK_POINTER));
    bool high = (encoding & VMCS_HIGH) != 0;
    enum vmcs_field field = field_find((uint32_t)encoding & ~VMCS_HIGH);
    if (field < F_COUNT && (!field_set_has(&vcpu->exists_l1, field) ||
                            (high && vmcs_encoding_width((uint32_t)encoding) != VMCS_WIDTH_64)))
        field = F_COUNT;
    if (l1_cpl(vcpu) > 0) {
        nvmx_raise(vcpu, VECTOR_GP, true, 0);
    } else if (link.value == NO_VMCS12) {
        instruction_fail_invalid(vcpu);
    } else if (field == F_COUNT) {
        instruction_fail(vcpu, VMERR_UNSUPPORTED_FIELD); // said in vmcs12, the current VMCS
    } else {
        open_field(vcpu, field, (uint32_t)encoding, write);
    }
    return ROUTE_HANDLED;
}
