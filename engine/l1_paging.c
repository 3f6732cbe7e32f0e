// SPDX-License-Identifier: MIT
// L1's own paging, walked for data accesses that L0 makes in L1's place: the operands of its VMX
// instructions, at CPL 0, and of its INS and OUTS, at any CPL. Manual: Paging (32-Bit Paging, PAE Paging,
// 4-Level Paging, Access Rights, Page-Fault Exceptions, Accessed and Dirty Flags, Protection Keys).
#include "engine.h"

#define PTE_P  (1ull << 0)
#define PTE_W  (1ull << 1)
#define PTE_U  (1ull << 2)
#define PTE_A  (1ull << 5)
#define PTE_D  (1ull << 6)
#define PTE_PS (1ull << 7)
#define PTE_NX (1ull << 63)

#define ADDRESS_MASK 0x000ffffffffff000ull

struct paging {
    uint64_t cr0, cr3, cr4, efer, rflags;
    unsigned levels;     // 2, 3 or 4
    unsigned entry_size; // 4 or 8
    uint64_t reserved;   // bits of an entry that must be 0 at every level
};

static struct paging paging_of_l1(struct nvmx_vcpu *vcpu)
{
    struct paging paging = {
        .cr0 = vmcs_read(vcpu, F_GUEST_CR0),
        .cr3 = vmcs_read(vcpu, F_GUEST_CR3),
        .cr4 = vmcs_read(vcpu, F_GUEST_CR4),
        .efer = vmcs_read(vcpu, F_GUEST_IA32_EFER),
        .rflags = vmcs_read(vcpu, F_GUEST_RFLAGS),
    };
    if ((paging.cr4 & CR4_PAE) == 0) {
        paging.levels = 2;
        paging.entry_size = 4;
        return paging;
    }
    paging.levels = (paging.efer & EFER_LMA) != 0 ? 4 : 3;
    paging.entry_size = 8;
    paging.reserved = ADDRESS_MASK & ~((1ull << vcpu->config.l1_physical_address_width) - 1);
    if ((paging.efer & EFER_NXE) == 0)
        paging.reserved |= PTE_NX;
    if (paging.levels == 3)
        paging.reserved |= 0x7ff0000000000000ull;
    return paging;
}

// Sets bits in a paging-structure entry, atomically as the processor would; false: L1 changed the entry
// meanwhile.
static bool entry_set(struct nvmx_vcpu *vcpu, const struct paging *paging, l1pa_t at, uint64_t entry,
                      uint64_t bits)
{
    if ((entry & bits) == bits)
        return true;
    uint64_t expected = entry, desired = entry | bits, before;
    if (paging->entry_size == 4) { // within its aligned 8 bytes
        unsigned shift = (at.value & 4) != 0 ? 32 : 0;
        at.value &= ~4ull;
        if (!port_l1_read(vcpu, at, &before, sizeof before))
            return true;
        expected = (before & ~(0xffffffffull << shift)) | entry << shift;
        desired = expected | bits << shift;
    }
    if (!port_l1_compare_exchange(vcpu, at, expected, desired, &before))
        return true; // paging structures in ROM or a hole: nothing to set
    return before == expected;
}

static uint64_t entry_reserved(const struct paging *paging, unsigned level, uint64_t entry)
{
    if (paging->entry_size ==
        4) // 4-MByte page: PSE-36 needs bits 39:32 of the address in 20:13; 21 is reserved
        return level == 1 && (entry & PTE_PS) != 0 && (paging->cr4 & CR4_PSE) != 0 ? 1ull << 21 : 0;
    uint64_t reserved = paging->reserved;
    if (level == 3)
        reserved |= PTE_PS;
    if (level == 2 && (entry & PTE_PS) != 0)
        reserved |= 0x3fffe000ull;
    if (level == 1 && (entry & PTE_PS) != 0)
        reserved |= 0x001fe000ull;
    return reserved;
}

// What forbids the access, as bits of the page fault's error code; 0: nothing does.
static uint32_t rights_fault(struct nvmx_vcpu *vcpu, const struct paging *paging, uint32_t access,
                             bool writable, bool user, unsigned key)
{
    bool by_user = (access & PF_U) != 0, write = (access & PF_W) != 0;
    bool obeys_write = by_user || (paging->cr0 & CR0_WP) != 0;
    bool smap = (paging->cr4 & CR4_SMAP) != 0 && (paging->rflags & RFLAGS_AC) == 0;
    uint32_t fault = 0;
    if ((write && !writable && obeys_write) || (by_user ? !user : user && smap))
        fault = PF_P;
    if (user && paging->levels == 4 && (paging->cr4 & CR4_PKE) != 0) { // of pages of user mode at every CPL
        uint32_t rights = hw_read_pkru(vcpu->cpu) >> 2 * key;
        if ((rights & PKRU_AD) != 0 || ((rights & PKRU_WD) != 0 && write && obeys_write))
            fault |= PF_P | PF_PK;
    }
    return fault;
}

enum walk_result { WALK_OK, WALK_FAULT, WALK_AGAIN };

static enum walk_result paging_walk_once(struct nvmx_vcpu *vcpu, const struct paging *paging, uint64_t linear,
                                         uint32_t access, l1pa_t *physical, uint32_t *error_code)
{
    unsigned index_bits = paging->entry_size == 4 ? 10 : 9;
    bool writable = true, user = true;
    uint64_t table = paging->cr3 & (paging->levels == 3 ? 0xffffffe0 : ADDRESS_MASK);
    if (paging->levels == 2)
        table &= 0xffffffff;
    *error_code = access;
    for (unsigned level = paging->levels - 1;; level--) {
        unsigned shift = PAGE_SHIFT + level * index_bits;
        uint64_t index = (linear >> shift) & ((1u << index_bits) - 1);
        uint64_t entry = 0;
        l1pa_t at = l1pa(table + index * paging->entry_size);
        bool is_pdpte = paging->levels == 3 && level == 2;
        if (is_pdpte) // PAE: held in registers, not in memory
            entry = vmcs_read(vcpu, (enum vmcs_field)(F_GUEST_PDPTE0 + (linear >> 30 & 3)));
        else if (!port_l1_read(vcpu, at, &entry, paging->entry_size))
            entry = paging->entry_size == 4 ? 0xffffffff : ~0ull; // a hole reads as all ones
        if ((entry & PTE_P) == 0)
            return WALK_FAULT;
        if (!is_pdpte && (entry & entry_reserved(paging, level, entry)) != 0) {
            *error_code |= PF_P | PF_RSVD;
            return WALK_FAULT;
        }
        if (!is_pdpte) {
            writable = writable && (entry & PTE_W) != 0;
            user = user && (entry & PTE_U) != 0;
        }
        bool large = level > 0 && (entry & PTE_PS) != 0 && !is_pdpte &&
                     (paging->entry_size == 8 || (paging->cr4 & CR4_PSE) != 0);
        if (level > 0 && !large) {
            if (!is_pdpte && !entry_set(vcpu, paging, at, entry, PTE_A))
                return WALK_AGAIN;
            table = entry & (paging->entry_size == 4 ? 0xfffff000 : ADDRESS_MASK);
            continue;
        }
        uint32_t fault = rights_fault(vcpu, paging, access, writable, user, entry >> 59 & 15);
        if (fault != 0) {
            *error_code |= fault;
            return WALK_FAULT;
        }
        if (!entry_set(vcpu, paging, at, entry, PTE_A | ((access & PF_W) != 0 ? PTE_D : 0)))
            return WALK_AGAIN;
        uint64_t offset_mask = (1ull << shift) - 1;
        uint64_t frame = entry & ADDRESS_MASK & ~offset_mask;
        if (paging->entry_size == 4) {
            frame = entry & 0xfffff000 & ~offset_mask;
            if (large)
                frame |= (entry >> 13 & 0xff) << 32;
        }
        *physical = l1pa(frame | (linear & offset_mask));
        return WALK_OK;
    }
}

bool l1_paging_walk(struct nvmx_vcpu *vcpu, uint64_t linear, uint32_t access, l1pa_t *physical,
                    uint32_t *error_code)
{
    struct paging paging = paging_of_l1(vcpu);
    if ((paging.cr0 & CR0_PG) == 0) {
        *physical = l1pa(linear & 0xffffffff);
        return true;
    }
    // Another processor of L1 may change an entry under our hands; it cannot do so forever at L0's cost.
    for (unsigned attempt = 0; attempt < 8; attempt++) {
        enum walk_result result = paging_walk_once(vcpu, &paging, linear, access, physical, error_code);
        if (result != WALK_AGAIN)
            return result == WALK_OK;
    }
    return false;
}
