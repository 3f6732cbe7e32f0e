// SPDX-License-Identifier: MIT
// The walk of L1's EPT paging structures. Each entry is read once; accessed and dirty flags go back into the
// entries that were read, or nowhere. Manual: The Extended Page Table Mechanism (EPT); EPT Misconfigurations;
// Accessed and Dirty Flags for EPT.
#include "engine.h"
#include "ept.h"

static bool entry_is_misconfigured(const struct nvmx_vcpu *vcpu, uint64_t entry, uint64_t rights,
                                   unsigned level, bool leaf)
{
    uint64_t caps = vcpu->config.offered->msr[MSR_IA32_VMX_EPT_VPID_CAP - CAPS_MSR_FIRST];
    bool readable = (rights & EPT_READ) != 0;
    if (!readable && (rights & EPT_WRITE) != 0)
        return true;
    if (!readable && (rights & EPT_EXECUTE_ANY) != 0 && (caps & EPT_CAP_EXECUTE_ONLY) == 0)
        return true;
    if ((entry & EPT_ADDRESS) >> vcpu->config.l1_physical_address_width != 0)
        return true;
    if (!leaf)
        return (entry & (level == 3 ? 0xf8 : 0x78)) != 0;
    if (level == 2 && (caps & EPT_CAP_PAGE_1G) == 0)
        return true;
    if (level == 1 && (caps & EPT_CAP_PAGE_2M) == 0)
        return true;
    uint64_t type = entry >> EPT_TYPE_SHIFT & 7;
    if (type == 2 || type == 3 || type == 7)
        return true;
    uint64_t offset_bits = ((1ull << (PAGE_SHIFT + 9 * level)) - 1) & EPT_ADDRESS;
    return (entry & offset_bits) != 0;
}

static uint64_t entry_rights(uint64_t entry, bool mode_based)
{
    uint64_t user = mode_based ? EPT_ENTRY_EXECUTE_USER : EPT_EXECUTE;
    return (entry & EPT_RIGHTS) | ((entry & user) != 0 ? EPT_EXECUTE_USER : 0);
}

enum ept12_result ept12_walk(struct nvmx_vcpu *vcpu, uint64_t eptp12, l2pa_t address, struct ept12_leaf *leaf)
{
    bool mode_based = (vmcs12_secondary(vcpu) & SECONDARY_MODE_BASED_EXECUTE_CONTROL) != 0;
    uint64_t table = eptp12 & EPT_ADDRESS;
    *leaf = (struct ept12_leaf){.rights = EPT_RIGHTS_AND_ALL, .level = 3};
    if (address.value >> 48 != 0) { // beyond what four levels translate: there is no entry
        leaf->rights = 0;
        leaf->entry[3] = EPT_SUPPRESS_VE;
        return EPT12_NOT_PRESENT;
    }
    for (unsigned level = 3;; level--) {
        unsigned shift = PAGE_SHIFT + 9 * level;
        uint64_t entry;
        l1pa_t at = l1pa(table + (address.value >> shift & 511) * 8);
        if (!port_l1_read(vcpu, at, &entry, sizeof entry))
            entry = ~0ull; // a hole reads as all ones, which is a misconfiguration
        uint64_t rights = entry_rights(entry, mode_based);
        leaf->level = level;
        leaf->at[level] = at;
        leaf->entry[level] = entry;
        if (rights == 0) {
            leaf->rights = 0;
            return EPT12_NOT_PRESENT;
        }
        // Bit 7 makes a leaf at the levels that may map a page, whether or not the processor has that page
        // size.
        bool is_leaf = level == 0 || (level <= 2 && (entry & EPT_LARGE) != 0);
        if (entry_is_misconfigured(vcpu, entry, rights, level, is_leaf))
            return EPT12_MISCONFIGURED;
        leaf->rights &= (uint8_t)rights;
        if (is_leaf) {
            leaf->size = 1ull << shift;
            leaf->address = entry & EPT_ADDRESS & ~(leaf->size - 1);
            leaf->memory_type = (uint8_t)(entry >> EPT_TYPE_SHIFT & 7);
            leaf->ignore_pat = (entry & EPT_IGNORE_PAT) != 0;
            return EPT12_OK;
        }
        table = entry & EPT_ADDRESS;
    }
}

// The flags that an access through this entry wants and does not find.
static uint64_t flags_missing(const struct ept12_leaf *leaf, unsigned level, bool write)
{
    uint64_t wanted = EPT_ACCESSED | (write && level == leaf->level ? EPT_DIRTY : 0);
    return wanted & ~leaf->entry[level];
}

bool ept12_has_flags(const struct ept12_leaf *leaf, bool write)
{
    for (unsigned level = leaf->level; level < 4; level++)
        if (flags_missing(leaf, level, write) != 0)
            return false;
    return true;
}

bool ept12_set_flags(struct nvmx_vcpu *vcpu, const struct ept12_leaf *leaf, bool write)
{
    for (unsigned level = 4; level-- > leaf->level;) {
        uint64_t missing = flags_missing(leaf, level, write), before;
        if (missing == 0)
            continue;
        // in ROM or a hole there is nothing to set
        if (port_l1_compare_exchange(vcpu, leaf->at[level], leaf->entry[level], leaf->entry[level] | missing,
                                     &before) &&
            before != leaf->entry[level])
            return false;
    }
    return true;
}
