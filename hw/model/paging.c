// SPDX-License-Identifier: MIT
// From linear to guest-physical addresses (4-level, PAE and 32-bit paging), and on through EPT; the accesses
// of guests to their memory.
// Manual: Paging; Access Rights; Page-Fault Exceptions; Guest-Physical Mappings and Combined Mappings.
#include "model.h"
#include <string.h>

#define PTE_PRESENT  (1ull << 0)
#define PTE_WRITE    (1ull << 1)
#define PTE_USER     (1ull << 2)
#define PTE_ACCESSED (1ull << 5)
#define PTE_DIRTY    (1ull << 6)
#define PTE_LARGE    (1ull << 7)
#define PTE_GLOBAL   (1ull << 8)
#define PTE_NX       (1ull << 63)

#define PF_PRESENT  (1u << 0)
#define PF_WRITE    (1u << 1)
#define PF_USER     (1u << 2)
#define PF_RESERVED (1u << 3)
#define PF_FETCH    (1u << 4)

// A guest that reaches L0's memory has broken out.
static void check_reach(const struct hw_cpu *cpu, uint64_t physical, uint64_t linear)
{
    if (memory_is_ram(cpu->machine, physical, 1) && cpu->machine->l0_page[physical >> PAGE_SHIFT])
        rule_broken(cpu, "a guest reaches L0's memory at %#llx through linear address %#llx",
                    (unsigned long long)physical, (unsigned long long)linear);
}

static uint32_t fault_code(const struct hw_cpu *cpu, enum access access, bool user, uint32_t cause)
{
    uint32_t code = cause | (user ? PF_USER : 0) | (access == ACCESS_WRITE ? PF_WRITE : 0);
    bool reports_fetch = (cpu->r.cr4 & CR4_SMEP) || ((cpu->r.cr4 & CR4_PAE) && (cpu->r.efer & EFER_NXE));
    return code | (access == ACCESS_EXECUTE && reports_fetch ? PF_FETCH : 0);
}

// Determination of Access Rights
static bool rights_permit(const struct hw_cpu *cpu, unsigned rights, bool user_page, enum access access,
                          bool user, bool implicit)
{
    if (access == ACCESS_EXECUTE && !(rights & ACCESS_EXECUTE))
        return false;
    if (user)
        return user_page && (access != ACCESS_WRITE || (rights & ACCESS_WRITE));
    if (access == ACCESS_EXECUTE)
        return !(user_page && (cpu->r.cr4 & CR4_SMEP));
    if (user_page && (cpu->r.cr4 & CR4_SMAP) && (implicit || !(cpu->r.rflags & (1ull << 18))))
        return false;
    return access != ACCESS_WRITE || (rights & ACCESS_WRITE) || !(cpu->r.cr0 & CR0_WP);
}

// One paging mode: how a linear address is cut up.
struct paging_mode {
    int levels;         // tables to walk, from the one that `root` is
    unsigned bits;      // of the linear address that each level takes
    unsigned width;     // bytes of an entry
    uint64_t root;      // guest-physical address of the first table
    bool has_nx, large; // at level 2 (4-level paging: also at level 3)
};

struct table_entry {
    uint64_t at, value; // guest-physical address
};

static bool entry_access(struct hw_cpu *cpu, uint64_t at, enum access access, uint64_t linear,
                         uint64_t *physical)
{
    struct access_request request = {.linear = linear, .has_linear = true, .access = access, .of_walk = true};
    struct mapping mapping;
    if (!ept_translate(cpu, at, &request, &mapping))
        return false;
    *physical = mapping.target | (at & (PAGE_SIZE - 1));
    check_reach(cpu, *physical, linear);
    if (!apic_is_access_page(cpu, *physical))
        return true;
    apic_access_exit(cpu, *physical & (PAGE_SIZE - 1), APIC_GUEST_PHYSICAL);
    return false;
}

static bool set_flags(struct hw_cpu *cpu, const struct paging_mode *mode, struct table_entry entry,
                      uint64_t flags, uint64_t linear)
{
    if ((entry.value & flags) == flags)
        return true;
    uint64_t physical;
    if (!entry_access(cpu, entry.at, ACCESS_WRITE, linear, &physical))
        return false;
    uint64_t now = memory_read(cpu->machine, physical, mode->width);
    memory_write(cpu->machine, physical, now | flags, mode->width);
    return true;
}

static uint64_t reserved_bits(const struct hw_cpu *cpu, const struct paging_mode *mode, int level, bool leaf)
{
    if (mode->width == 4)
        return leaf && level == 2 ? 1ull << 21 : 0;
    uint64_t reserved =
        0x000fffffffffffffull & ~((1ull << cpu->machine->processor->physical_address_width) - 1);
    if (!mode->has_nx)
        reserved |= PTE_NX;
    if (mode->levels == 2) // PAE
        reserved |= 0x7ff0000000000000ull;
    if (leaf && level > 1)
        reserved |= ((1ull << (12 + 9 * (level - 1))) - 1) & ~0x1fffull;
    if (level == 4)
        reserved |= PTE_LARGE;
    return reserved;
}

static bool page_fault(struct hw_cpu *cpu, uint64_t linear, uint32_t code)
{
    raise_page_fault(cpu, linear, code);
    return false;
}

// Walks, checks, and sets accessed and dirty flags; fills the guest's half of `mapping`.
static bool walk(struct hw_cpu *cpu, const struct paging_mode *mode, uint64_t linear, enum access access,
                 bool user, bool implicit, struct mapping *mapping, struct access_request *request)
{
    struct table_entry entry[5];
    uint64_t table = mode->root;
    bool user_page = true, writable = true, executable = true, leaf = false;
    int level;
    for (level = mode->levels; !leaf; level--) {
        unsigned shift = 12 + mode->bits * (unsigned)(level - 1);
        entry[level].at = table + (linear >> shift & ((1u << mode->bits) - 1)) * mode->width;
        uint64_t physical;
        if (!entry_access(cpu, entry[level].at, ACCESS_READ, linear, &physical))
            return false;
        uint64_t value = entry[level].value = memory_read(cpu->machine, physical, mode->width);
        if (!(value & PTE_PRESENT))
            return page_fault(cpu, linear, fault_code(cpu, access, user, 0));
        leaf = level == 1 || (level <= 3 && (value & PTE_LARGE) && mode->large);
        if (value & reserved_bits(cpu, mode, level, leaf))
            return page_fault(cpu, linear, fault_code(cpu, access, user, PF_PRESENT | PF_RESERVED));
        user_page &= !!(value & PTE_USER);
        writable &= !!(value & PTE_WRITE);
        executable &= !(mode->has_nx && (value & PTE_NX));
        table = value & (mode->width == 4 ? 0xfffff000ull : 0x000ffffffffff000ull);
    }
    level++;
    unsigned rights =
        ACCESS_READ | (writable ? ACCESS_WRITE : 0) | (executable ? (unsigned)ACCESS_EXECUTE : 0);
    if (!rights_permit(cpu, rights, user_page, access, user, implicit))
        return page_fault(cpu, linear, fault_code(cpu, access, user, PF_PRESENT));
    for (int at = mode->levels; at >= level; at--) {
        uint64_t flags = PTE_ACCESSED | (at == level && access == ACCESS_WRITE ? PTE_DIRTY : 0);
        if (!set_flags(cpu, mode, entry[at], flags, linear))
            return false;
    }
    uint64_t offset_mask = (1ull << (12 + mode->bits * (unsigned)(level - 1))) - 1;
    mapping->rights = (uint8_t)rights;
    mapping->user = user_page;
    mapping->global = (cpu->r.cr4 & CR4_PGE) && (entry[level].value & PTE_GLOBAL);
    mapping->dirty = access == ACCESS_WRITE || (entry[level].value & PTE_DIRTY);
    mapping->guest_physical = ((table & ~offset_mask) | (linear & offset_mask)) & PAGE_MASK;
    request->page_user = user_page;
    request->page_writable = writable;
    request->page_no_execute = !executable;
    return true;
}

// PAE paging starts at one of four PDPTEs that live in registers.
static bool mode_of(struct hw_cpu *cpu, uint64_t linear, struct paging_mode *mode)
{
    bool has_nx = cpu->r.efer & EFER_NXE;
    if (cpu_in_long_mode(cpu)) {
        *mode = (struct paging_mode){4, 9, 8, cpu->r.cr3 & 0x000ffffffffff000ull, has_nx, true};
    } else if (cpu->r.cr4 & CR4_PAE) {
        uint64_t pdpte = cpu->r.pdpte[linear >> 30 & 3];
        if (!(pdpte & PTE_PRESENT))
            return false;
        *mode = (struct paging_mode){2, 9, 8, pdpte & 0x000ffffffffff000ull, has_nx, true};
    } else {
        *mode = (struct paging_mode){2, 10, 4, cpu->r.cr3 & 0xfffff000, false, cpu->r.cr4 & CR4_PSE};
    }
    return true;
}

static bool translate_without_paging(struct hw_cpu *cpu, uint64_t linear, enum access access,
                                     uint64_t *physical)
{
    struct access_request request = {.linear = linear & 0xffffffff,
                                     .has_linear = true,
                                     .access = access,
                                     .page_user = true,
                                     .page_writable = true};
    struct mapping mapping;
    if (!ept_translate(cpu, linear & 0xffffffff, &request, &mapping))
        return false;
    *physical = mapping.target | (linear & (PAGE_SIZE - 1));
    check_reach(cpu, *physical, linear);
    return true;
}

bool linear_to_physical(struct hw_cpu *cpu, uint64_t linear, enum access access, bool implicit,
                        uint64_t *physical)
{
    if (!(cpu->r.cr0 & CR0_PG))
        return translate_without_paging(cpu, linear, access, physical);
    if (!cpu_in_long_mode(cpu))
        linear &= 0xffffffff;
    bool user = !implicit && cpu_cpl(cpu) == 3;
    bool ept = tlb_eptrta(cpu) != 0;
    enum mapping_kind kind = ept ? MAPPING_COMBINED : MAPPING_LINEAR;
    struct mapping *cached = tlb_find(cpu, kind, linear & PAGE_MASK);
    if (cached != NULL && (access != ACCESS_WRITE || cached->dirty) &&
        (!ept || (cached->ept_rights & ept_rights_wanted(access, cached->user)))) {
        if (!rights_permit(cpu, cached->rights, cached->user, access, user, implicit)) {
            // A page fault invalidates what was cached for the address.
            tlb_flush_linear_page(cpu, tlb_vpid(cpu), linear & PAGE_MASK);
            return page_fault(cpu, linear, fault_code(cpu, access, user, PF_PRESENT));
        }
        *physical = cached->target | (linear & (PAGE_SIZE - 1));
        return true;
    }

    struct paging_mode mode;
    struct mapping mapping = {.kind = (uint8_t)kind, .page = linear & PAGE_MASK}, guest_physical;
    struct access_request request = {.linear = linear, .has_linear = true, .access = access, .user = user};
    if (!mode_of(cpu, linear, &mode))
        return page_fault(cpu, linear, fault_code(cpu, access, user, 0));
    if (!walk(cpu, &mode, linear, access, user, implicit, &mapping, &request))
        return false;
    if (!ept_translate(cpu, mapping.guest_physical | (linear & (PAGE_SIZE - 1)), &request, &guest_physical))
        return false;
    mapping.target = guest_physical.target;
    mapping.ept_rights = guest_physical.rights;
    mapping.dirty = mapping.dirty && guest_physical.dirty;
    tlb_insert(cpu, &mapping);
    *physical = mapping.target | (linear & (PAGE_SIZE - 1));
    check_reach(cpu, *physical, linear);
    return true;
}

static bool guest_access(struct hw_cpu *cpu, uint64_t linear, void *buffer, unsigned size, bool implicit,
                         enum access access)
{
    uint8_t *bytes = buffer;
    uint64_t physical[2] = {0, 0};
    unsigned first = (unsigned)(PAGE_SIZE - (linear & (PAGE_SIZE - 1)));
    if (first > size)
        first = size;
    if (!linear_to_physical(cpu, linear, access, implicit, &physical[0]))
        return false;
    if (first < size && !linear_to_physical(cpu, linear + first, access, implicit, &physical[1]))
        return false;
    if (apic_is_access_page(cpu, physical[0]))
        return apic_access(cpu, physical[0] & (PAGE_SIZE - 1), buffer, size, access);
    for (unsigned i = 0; i < size; i++) {
        uint64_t at = i < first ? physical[0] + i : physical[1] + (i - first);
        if (access == ACCESS_WRITE)
            memory_write(cpu->machine, at, bytes[i], 1);
        else
            bytes[i] = (uint8_t)memory_read(cpu->machine, at, 1);
    }
    return true;
}

bool guest_read(struct hw_cpu *cpu, uint64_t linear, void *to, unsigned size, bool implicit)
{
    return guest_access(cpu, linear, to, size, implicit, ACCESS_READ);
}

bool guest_write(struct hw_cpu *cpu, uint64_t linear, const void *from, unsigned size, bool implicit)
{
    uint8_t copy[64];
    memcpy(copy, from, size);
    return guest_access(cpu, linear, copy, size, implicit, ACCESS_WRITE);
}

// MOV to CR3 (and to CR0 or CR4) loads the PDPTEs when PAE paging is, or comes, in use.
bool paging_load_pdptes(struct hw_cpu *cpu, uint64_t cr3)
{
    uint64_t pdpte[4];
    for (unsigned i = 0; i < 4; i++) {
        uint64_t at = (cr3 & 0xffffffe0) + 8 * i, physical;
        struct access_request request = {.access = ACCESS_READ, .of_walk = true};
        struct mapping mapping;
        if (!ept_translate(cpu, at, &request, &mapping))
            return false;
        physical = mapping.target | (at & (PAGE_SIZE - 1));
        check_reach(cpu, physical, cr3);
        pdpte[i] = memory_read(cpu->machine, physical, 8);
        uint64_t reserved = ~((1ull << cpu->machine->processor->physical_address_width) - 1) | 0x1e6;
        if ((pdpte[i] & PTE_PRESENT) && (pdpte[i] & reserved)) {
            raise_exception_with_code(cpu, VECTOR_GP, 0);
            return false;
        }
    }
    memcpy(cpu->r.pdpte, pdpte, sizeof(pdpte));
    return true;
}
