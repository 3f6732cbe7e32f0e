// SPDX-License-Identifier: MIT
// L1's CR0 and CR4. VMX operation of L0's fixes CR0.NE and CR4.VMXE to 1: L0 owns those bits and L1 sees what
// it wrote. While L1 is in VMX operation itself, it may not clear PE and PG either, and L0 owns these too;
// and it owns the bits of CR4 that L1 is not offered, which are 0. Where a MOV changes one of L0's bits, all
// that it changes is L0's to judge. Manual: Restrictions on VMX Operation; Control Registers; MOV to/from
// Control Registers; LMSW.
#include "engine.h"

#define CR0_DEFINED                                                                                          \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)

static uint64_t hardware_msr(const struct nvmx_vcpu *vcpu, uint32_t msr)
{
    return vcpu->config.hardware->msr[msr - CAPS_MSR_FIRST];
}

// Bits that the processor wants to be 1 whatever L1 thinks: an unrestricted guest may clear PE and PG.
static uint64_t cr0_forced(const struct nvmx_vcpu *vcpu)
{
    return hardware_msr(vcpu, MSR_IA32_VMX_CR0_FIXED0) & ~(CR0_PE | CR0_PG);
}

static uint64_t cr4_forced(const struct nvmx_vcpu *vcpu)
{
    return hardware_msr(vcpu, MSR_IA32_VMX_CR4_FIXED0);
}

static uint64_t cr4_hidden(const struct nvmx_vcpu *vcpu)
{
    return ~vcpu->config.offered->msr[MSR_IA32_VMX_CR4_FIXED1 - CAPS_MSR_FIRST];
}

static uint64_t cr4_owned(const struct nvmx_vcpu *vcpu)
{
    return cr4_forced(vcpu) | cr4_hidden(vcpu);
}

// Those that the processor would let L2 set.
uint64_t l1_cr4_not_offered(const struct nvmx_vcpu *vcpu)
{
    return cr4_hidden(vcpu) & hardware_msr(vcpu, MSR_IA32_VMX_CR4_FIXED1);
}

static uint64_t cr0_owned(const struct nvmx_vcpu *vcpu)
{
    return cr0_forced(vcpu) | (vcpu->vmxon ? CR0_PE | CR0_PG : 0);
}

static uint64_t as_l1_sees(struct nvmx_vcpu *vcpu, enum vmcs_field real, enum vmcs_field shadow,
                           uint64_t owned)
{
    return (vmcs_read(vcpu, real) & ~owned) | (vmcs_read(vcpu, shadow) & owned);
}

uint64_t l1_cr0(struct nvmx_vcpu *vcpu)
{
    return as_l1_sees(vcpu, F_GUEST_CR0, F_CR0_READ_SHADOW, cr0_owned(vcpu));
}

uint64_t l1_cr4(struct nvmx_vcpu *vcpu)
{
    return as_l1_sees(vcpu, F_GUEST_CR4, F_CR4_READ_SHADOW, cr4_owned(vcpu));
}

void l1_cr_write_state(struct nvmx_vcpu *vcpu, uint64_t cr0, uint64_t cr4)
{
    vmcs_write(vcpu, F_GUEST_CR0, cr0 | cr0_forced(vcpu));
    vmcs_write_if_changed(vcpu, &vcpu->vmcs01, F_CR0_READ_SHADOW, cr0);
    vmcs_write(vcpu, F_GUEST_CR4, cr4 | cr4_forced(vcpu));
    vmcs_write_if_changed(vcpu, &vcpu->vmcs01, F_CR4_READ_SHADOW, cr4);
}

void l1_cr_real(const struct nvmx_vcpu *vcpu, uint64_t *cr0, uint64_t *cr4)
{
    *cr0 |= cr0_forced(vcpu);
    *cr4 |= cr4_forced(vcpu);
}

bool l1_cr0_is_possible(const struct nvmx_vcpu *vcpu, uint64_t cr0, bool vmxon)
{
    uint64_t offered_fixed0 = vcpu->config.offered->msr[MSR_IA32_VMX_CR0_FIXED0 - CAPS_MSR_FIRST];
    return cr0 >> 32 == 0 && !((cr0 & CR0_PG) != 0 && (cr0 & CR0_PE) == 0) &&
           !((cr0 & CR0_NW) != 0 && (cr0 & CR0_CD) == 0) &&
           (!vmxon || (cr0 & offered_fixed0) == offered_fixed0);
}

bool l1_cr4_is_possible(const struct nvmx_vcpu *vcpu, uint64_t cr4, bool vmxon)
{
    return (cr4 & cr4_hidden(vcpu)) == 0 && (!vmxon || (cr4 & CR4_VMXE) != 0);
}

bool l1_cr_fit_together(uint64_t cr0, uint64_t cr4)
{
    return (cr4 & CR4_CET) == 0 || (cr0 & CR0_WP) != 0;
}

// The shadows are brought up to date first: bits that L0 comes to own must read as they did.
void l1_cr_update_masks(struct nvmx_vcpu *vcpu, bool vmxon)
{
    uint64_t cr0 = l1_cr0(vcpu), cr4 = l1_cr4(vcpu);
    vcpu->vmxon = vmxon;
    vmcs_write_if_changed(vcpu, &vcpu->vmcs01, F_CR0_GUEST_HOST_MASK, cr0_owned(vcpu));
    vmcs_write_if_changed(vcpu, &vcpu->vmcs01, F_CR4_GUEST_HOST_MASK, cr4_owned(vcpu));
    l1_cr_write_state(vcpu, cr0, cr4);
}

static void fault_gp(struct nvmx_vcpu *vcpu)
{
    vcpu->l1_entry.can_undo = false; // nothing was done
    nvmx_raise(vcpu, VECTOR_GP, true, 0);
}

// false: a present PDPTE has a reserved bit set, or there is no memory. Writes the registers otherwise.
static bool pdptes_load(struct nvmx_vcpu *vcpu)
{
    uint64_t pdpte[4];
    if (!port_l1_read(vcpu, l1pa(vmcs_read(vcpu, F_GUEST_CR3) & 0xffffffe0), pdpte, sizeof pdpte))
        return false;
    for (unsigned i = 0; i < 4; i++)
        if ((pdpte[i] & 1) != 0 &&
            ((pdpte[i] & 0x1e6) != 0 || pdpte[i] >> vcpu->config.l1_physical_address_width != 0))
            return false;
    for (unsigned i = 0; i < 4; i++)
        vmcs_write(vcpu, (enum vmcs_field)(F_GUEST_PDPTE0 + i), pdpte[i]);
    return true;
}

static void translations_flush(struct nvmx_vcpu *vcpu)
{
    if (vcpu->config.policy.vpid01 != 0)
        hw_invvpid(vcpu->cpu, INVVPID_SINGLE_CONTEXT, vcpu->config.policy.vpid01, 0);
}

static void long_mode_set(struct nvmx_vcpu *vcpu, uint64_t efer, bool active)
{
    uint64_t entry = vmcs_read(vcpu, F_VM_ENTRY_CONTROLS);
    vmcs_write(vcpu, F_GUEST_IA32_EFER, active ? efer | EFER_LMA : efer & ~EFER_LMA);
    vmcs_write(vcpu, F_VM_ENTRY_CONTROLS,
               active ? entry | ENTRY_IA32E_MODE_GUEST : entry & ~(uint64_t)ENTRY_IA32E_MODE_GUEST);
}

static bool cr0_is_allowed(struct nvmx_vcpu *vcpu, uint64_t cr0, uint64_t old, uint64_t cr4, uint64_t efer)
{
    if (!l1_cr0_is_possible(vcpu, cr0, vcpu->vmxon) || !l1_cr_fit_together(cr0, cr4))
        return false;
    bool cs_long = (vmcs_read(vcpu, F_GUEST_CS_ACCESS_RIGHTS) & SEGMENT_L) != 0;
    bool enables = (cr0 & ~old & CR0_PG) != 0, disables = (old & ~cr0 & CR0_PG) != 0;
    if (enables && (efer & EFER_LME) != 0) {
        bool tss32 = (vmcs_read(vcpu, F_GUEST_TR_ACCESS_RIGHTS) & SEGMENT_TYPE_MASK) == 11;
        return (cr4 & CR4_PAE) != 0 && !cs_long && tss32;
    }
    if (disables && (((efer & EFER_LMA) != 0 && cs_long) || (cr4 & CR4_PCIDE) != 0))
        return false;
    return true;
}

static void cr0_write(struct nvmx_vcpu *vcpu, uint64_t value)
{
    uint64_t old = l1_cr0(vcpu), cr4 = l1_cr4(vcpu), efer = vmcs_read(vcpu, F_GUEST_IA32_EFER);
    if (!cr0_is_allowed(vcpu, value, old, cr4, efer)) {
        fault_gp(vcpu);
        return;
    }
    l1_entry_remember(vcpu);
    uint64_t cr0 = (value & CR0_DEFINED) | CR0_ET;
    bool paging_changes = ((cr0 ^ old) & CR0_PG) != 0;
    bool pae = (cr4 & CR4_PAE) != 0 && (efer & EFER_LME) == 0 && (cr0 & CR0_PG) != 0;
    if (pae && ((cr0 ^ old) & (CR0_PG | CR0_CD | CR0_NW)) != 0 && !pdptes_load(vcpu)) {
        fault_gp(vcpu);
        return;
    }
    if (paging_changes && (efer & EFER_LME) != 0)
        long_mode_set(vcpu, efer, (cr0 & CR0_PG) != 0);
    l1_cr_write_state(vcpu, cr0, cr4);
    if (paging_changes || ((cr0 ^ old) & CR0_WP) != 0)
        translations_flush(vcpu);
    nvmx_skip_instruction(vcpu);
}

static void cr4_write(struct nvmx_vcpu *vcpu, uint64_t value)
{
    uint64_t old = l1_cr4(vcpu), changed = value ^ old;
    uint64_t efer = vmcs_read(vcpu, F_GUEST_IA32_EFER);
    bool long_mode = (efer & EFER_LMA) != 0;
    bool paging = (vmcs_read(vcpu, F_GUEST_CR0) & CR0_PG) != 0;
    bool bad =
        !l1_cr4_is_possible(vcpu, value, vcpu->vmxon) || !l1_cr_fit_together(l1_cr0(vcpu), value) ||
        (long_mode && (value & CR4_PAE) == 0) || (long_mode && (changed & CR4_LA57) != 0) ||
        ((changed & value & CR4_PCIDE) != 0 && (!long_mode || (vmcs_read(vcpu, F_GUEST_CR3) & 0xfff) != 0));
    bool pae = paging && !long_mode && (value & CR4_PAE) != 0;
    l1_entry_remember(vcpu);
    if (bad || (pae && (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) != 0 && !pdptes_load(vcpu))) {
        fault_gp(vcpu);
        return;
    }
    l1_cr_write_state(vcpu, l1_cr0(vcpu), value);
    if ((changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_PCIDE | CR4_SMEP)) != 0)
        translations_flush(vcpu);
    nvmx_skip_instruction(vcpu);
}

void l1_cr_handle(struct nvmx_vcpu *vcpu)
{
    enum { MOV_TO_CR, MOV_FROM_CR, CLTS, LMSW };
    uint64_t qualification = vcpu->exit.qualification;
    uint32_t number = qualification & 15, access = qualification >> 4 & 3;
    uint64_t value = l1_gpr_read(vcpu, qualification >> 8 & 15);
    if (!l1_is_64bit(vcpu))
        value = (uint32_t)value;
    if (access == MOV_TO_CR && number == 4) {
        cr4_write(vcpu, value);
    } else if (access == MOV_TO_CR && number == 0) {
        cr0_write(vcpu, value);
    } else if (access == CLTS) {
        cr0_write(vcpu, l1_cr0(vcpu) & ~CR0_TS);
    } else if (access == LMSW) { // bits 3:0; PE can be set, not cleared
        uint64_t old = l1_cr0(vcpu), low = qualification >> 16 & 15;
        cr0_write(vcpu, (old & ~(CR0_MP | CR0_EM | CR0_TS)) | low);
    } else {
        nvmx_contain_exit(vcpu); // a control register that L0 does not own
    }
}
