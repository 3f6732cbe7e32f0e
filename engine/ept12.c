// SPDX-License-Identifier: MIT
// The walk of L1's EPT paging structures. Each entry is read once.
// Manual: The Extended Page Table Mechanism (EPT); EPT Misconfigurations.
#include "engine.h"

#define EPT_RIGHTS  7ull
#define EPT_LARGE   (1ull << 7)
#define EPT_IPAT    (1ull << 6)
#define EPT_TYPE(e) ((e) >> 3 & 7)
#define EPT_ADDRESS 0x000ffffffffff000ull

static bool entry_is_misconfigured(const struct nvmx_vcpu *vcpu, uint64_t entry, unsigned level, bool leaf)
{
    uint64_t caps = vcpu->config.offered->msr[MSR_IA32_VMX_EPT_VPID_CAP - CAPS_MSR_FIRST];
    uint64_t rights = entry & EPT_RIGHTS;
    if ((rights & 3) == 2) // writable, not readable
        return true;
    if (rights == 4 && (caps & EPT_CAP_EXECUTE_ONLY) == 0)
        return true;
    if ((entry & EPT_ADDRESS) >> vcpu->config.l1_physical_address_width != 0)
        return true;
    if (!leaf)
        return (entry & (level == 3 ? 0xf8 : 0x78)) != 0;
    if (level == 2 && (caps & EPT_CAP_PAGE_1G) == 0)
        return true;
    if (level == 1 && (caps & EPT_CAP_PAGE_2M) == 0)
        return true;
    uint64_t type = EPT_TYPE(entry);
    if (type == 2 || type == 3 || type == 7)
        return true;
    uint64_t offset_bits = ((1ull << (PAGE_SHIFT + 9 * level)) - 1) & EPT_ADDRESS;
    return (entry & offset_bits) != 0;
}

enum ept12_result ept12_walk(struct nvmx_vcpu *vcpu, uint64_t eptp12, l2pa_t address, struct ept12_leaf *leaf)
{
    uint64_t table = eptp12 & EPT_ADDRESS;
    leaf->rights = EPT_RIGHTS;
    for (unsigned level = 3;; level--) {
        unsigned shift = PAGE_SHIFT + 9 * level;
        uint64_t entry;
        if (!port_l1_read(vcpu, l1pa(table + (address.value >> shift & 511) * 8), &entry, sizeof entry))
            entry = ~0ull; // a hole reads as all ones, which is a misconfiguration
        if ((entry & EPT_RIGHTS) == 0) {
            leaf->rights = 0;
            return EPT12_NOT_PRESENT;
        }
        // Bit 7 makes a leaf at the levels that may map a page, whether or not the processor has that page
        // size.
        bool is_leaf = level == 0 || (level <= 2 && (entry & EPT_LARGE) != 0);
        if (entry_is_misconfigured(vcpu, entry, level, is_leaf))
            return EPT12_MISCONFIGURED;
        leaf->rights &= (uint8_t)(entry & EPT_RIGHTS);
        if (is_leaf) {
            leaf->size = 1ull << shift;
            leaf->address = entry & EPT_ADDRESS & ~(leaf->size - 1);
            leaf->memory_type = (uint8_t)EPT_TYPE(entry);
            leaf->ignore_pat = (entry & EPT_IPAT) != 0;
            return EPT12_OK;
        }
        table = entry & EPT_ADDRESS;
    }
}
