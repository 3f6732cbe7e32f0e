// SPDX-License-Identifier: MIT
// The extended page-table mechanism: from guest-physical to physical addresses, with EPT violations and EPT
// misconfigurations.
// Manual: The Extended Page Table Mechanism (EPT); Exit Qualification for EPT Violations.
#include "model.h"

#define EPT_READ        (1ull << 0)
#define EPT_WRITE       (1ull << 1)
#define EPT_EXECUTE     (1ull << 2)
#define EPT_LARGE       (1ull << 7)
#define EPT_ACCESSED    (1ull << 8)
#define EPT_DIRTY       (1ull << 9)
#define EPT_USER_EXEC   (1ull << 10) // with mode-based execute control; else ignored
#define EPT_SUPPRESS_VE (1ull << 63)
#define EPTP_ENABLE_AD  (1ull << 6)
#define PML_ENTRIES     512

const char *ept_pointer_problem(const struct hw_cpu *cpu, uint64_t eptp)
{
    const struct processor *processor = cpu->machine->processor;
    unsigned type = eptp & 7;
    if (!((type == 0 && capability_ept(processor, EPT_CAP_MEMORY_TYPE_UC)) ||
          (type == 6 && capability_ept(processor, EPT_CAP_MEMORY_TYPE_WB))))
        return "EPTP memory type is not supported";
    if ((eptp >> 3 & 7) != 3)
        return "EPTP page-walk length is not 4";
    if ((eptp & EPTP_ENABLE_AD) && !capability_ept(processor, EPT_CAP_ACCESSED_DIRTY))
        return "EPTP enables accessed and dirty flags, which the processor does not have";
    if ((eptp & 0xf80) || !fits_physical_width(cpu, eptp))
        return "EPTP has reserved bits set";
    return NULL;
}

static uint64_t reserved_bits(const struct hw_cpu *cpu, int level, uint64_t entry)
{
    const struct processor *processor = cpu->machine->processor;
    uint64_t reserved = 0x000fffffffffffffull & ~((1ull << processor->physical_address_width) - 1);
    bool leaf = level == 1 || (level < 4 && (entry & EPT_LARGE));
    if (level == 4)
        return reserved | 0xf8;
    if (!leaf)
        return reserved | 0x78;
    if (level == 3)
        return reserved | 0x3ffff000 | (capability_ept(processor, EPT_CAP_PAGE_1G) ? 0 : EPT_LARGE);
    if (level == 2)
        return reserved | 0x1ff000 | (capability_ept(processor, EPT_CAP_PAGE_2M) ? 0 : EPT_LARGE);
    return reserved;
}

// Mode-Based Execute Control for EPT: bit 2 is about fetches from supervisor-mode linear addresses, bit 10
// about those from user-mode ones. Without the control bit 2 is about both.
static unsigned entry_rights(const struct hw_cpu *cpu, uint64_t entry)
{
    uint64_t user =
        cpu_has_secondary(cpu, SECONDARY_MODE_BASED_EXECUTE_CONTROL) ? EPT_USER_EXEC : EPT_EXECUTE;
    return (entry & 7) | (entry & user ? RIGHT_EXECUTE_USER : 0);
}

unsigned ept_rights_wanted(enum access access, bool page_user)
{
    return access == ACCESS_EXECUTE && page_user ? RIGHT_EXECUTE_USER : (unsigned)access;
}

static bool is_misconfigured(const struct hw_cpu *cpu, int level, uint64_t entry)
{
    unsigned rights = entry_rights(cpu, entry);
    if ((entry & EPT_WRITE) && !(entry & EPT_READ))
        return true;
    if (!(entry & EPT_READ) && (rights & (ACCESS_EXECUTE | RIGHT_EXECUTE_USER)) &&
        !capability_ept(cpu->machine->processor, EPT_CAP_EXECUTE_ONLY))
        return true;
    if (entry & reserved_bits(cpu, level, entry))
        return true;
    bool leaf = level == 1 || (level < 4 && (entry & EPT_LARGE));
    unsigned type = entry >> 3 & 7;
    return leaf && (type == 2 || type == 3 || type == 7);
}

static void exit_misconfiguration(struct hw_cpu *cpu, uint64_t guest_physical)
{
    vm_exit(cpu, &(struct exit_information){.reason = 49, .has_physical = true, .physical = guest_physical});
}

// With accessed and dirty flags, the processor's accesses to guest paging structures count as reads and
// writes; its loading of PDPTEs into registers does not.
static bool counts_as_write(const struct hw_cpu *cpu, const struct access_request *request)
{
    return request->of_walk && request->has_linear && (cpu->c.eptp & EPTP_ENABLE_AD);
}

// Exit Qualification for EPT Violations
static uint64_t violation_qualification(const struct hw_cpu *cpu, const struct access_request *request,
                                        bool as_write, unsigned rights)
{
    uint64_t qualification = 0;
    if (request->access == ACCESS_READ)
        qualification |= 1 << 0;
    if (request->access == ACCESS_WRITE)
        qualification |= 1 << 1;
    if (request->access == ACCESS_EXECUTE)
        qualification |= 1 << 2;
    if (counts_as_write(cpu, request) && as_write)
        qualification |= 1 << 0 | 1 << 1;
    qualification |= (uint64_t)(rights & 7) << 3;
    // Bit 6 is undefined without mode-based execute control.
    if (cpu_has_secondary(cpu, SECONDARY_MODE_BASED_EXECUTE_CONTROL)
            ? rights & RIGHT_EXECUTE_USER
            : model_poison(cpu->machine, cpu->current->region, F_EXIT_QUALIFICATION) & 1 << 6)
        qualification |= 1 << 6;
    if (request->has_linear)
        qualification |= 1 << 7;
    if (request->has_linear && !request->of_walk) {
        qualification |= 1 << 8;
        if (capability_ept(cpu->machine->processor, EPT_CAP_ADVANCED_EXIT_INFO))
            qualification |= (uint64_t)request->page_user << 9 | (uint64_t)request->page_writable << 10 |
                             (uint64_t)request->page_no_execute << 11;
    }
    if (cpu->nmi_unblocked_by_iret && !cpu->vectoring.valid)
        qualification |= 1 << 12;
    return qualification;
}

// An EPT violation, which becomes a virtualization exception if it is `convertible`.
static void violate(struct hw_cpu *cpu, uint64_t guest_physical, const struct access_request *request,
                    bool as_write, unsigned rights, bool convertible)
{
    uint64_t qualification = violation_qualification(cpu, request, as_write, rights);
    // An EPT violation invalidates what was cached for the address.
    tlb_flush_guest_physical_page(cpu, tlb_eptrta(cpu), guest_physical & PAGE_MASK);
    struct exit_information violation = {.reason = 48,
                                         .qualification = qualification,
                                         .has_physical = true,
                                         .physical = guest_physical,
                                         .has_linear = request->has_linear,
                                         .linear = request->linear};
    if (cpu->machine->config.saves_old_rip && cpu->handler_begins && request->access == ACCESS_EXECUTE)
        cpu->r.rip = cpu->interrupted_rip;
    if (!convertible || !virtualization_exception(cpu, &violation))
        vm_exit(cpu, &violation);
}

// Page-Modification Logging: before any accessed or dirty flag becomes 1, there must be room in the log.
// false: there is none.
static bool log_has_room(struct hw_cpu *cpu)
{
    if (!cpu_has_secondary(cpu, SECONDARY_ENABLE_PML) || (uint16_t)vmcs_get(cpu, F_PML_INDEX) < PML_ENTRIES)
        return true;
    bool unblocked = cpu->nmi_unblocked_by_iret && !cpu->vectoring.valid;
    vm_exit(cpu, &(struct exit_information){.reason = 62, .qualification = (uint64_t)unblocked << 12});
    return false;
}

// ... and when a dirty flag became 1, the page goes into the log.
static void log_modification(struct hw_cpu *cpu, uint64_t guest_physical)
{
    if (!cpu_has_secondary(cpu, SECONDARY_ENABLE_PML))
        return;
    uint16_t index = (uint16_t)vmcs_get(cpu, F_PML_INDEX);
    memory_write(cpu->machine, cpu->c.pml_address + 8 * index, guest_physical & PAGE_MASK, 8);
    vmcs_set(cpu, F_PML_INDEX, (uint16_t)(index - 1)); // behind entry 0 comes 0xffff: full
}

// Accessed and Dirty Flags for EPT. false: a page-modification log-full event came instead of the access.
static bool set_flags(struct hw_cpu *cpu, uint64_t guest_physical, const uint64_t *entry_address, int leaf,
                      int top, bool write)
{
    bool modifies = write && !(memory_read(cpu->machine, entry_address[leaf], 8) & EPT_DIRTY), room = false;
    for (int at = leaf; at <= top; at++) {
        uint64_t old = memory_read(cpu->machine, entry_address[at], 8);
        uint64_t set = EPT_ACCESSED | (at == leaf && write ? EPT_DIRTY : 0);
        if ((old & set) == set)
            continue;
        if (!room && !log_has_room(cpu))
            return false;
        room = true;
        memory_write(cpu->machine, entry_address[at], old | set, 8);
    }
    if (modifies)
        log_modification(cpu, guest_physical);
    return true;
}

// What the EPT paging structures say: the mapping, or an exit.
static bool walk(struct hw_cpu *cpu, uint64_t guest_physical, const struct access_request *request,
                 bool write, struct mapping *mapping)
{
    bool flags = cpu->c.eptp & EPTP_ENABLE_AD;
    uint64_t entry_address[5], entry = 0, table = cpu->c.eptp & PAGE_MASK;
    unsigned rights = EPT_ALL_RIGHTS, upper_rights = EPT_ALL_RIGHTS;
    int level;
    if (guest_physical >> 48) {
        violate(cpu, guest_physical, request, write, 0, false);
        return false;
    }
    int top = 4;
    const struct mapping *cached = tlb_find(cpu, MAPPING_EPT_TABLE, guest_physical & ~0x1fffffull);
    if (cached != NULL) { // the upper tables are not looked at
        top = 1;
        table = cached->target;
        rights = cached->rights;
    }
    for (level = top; level > 0; level--) {
        entry_address[level] = table + (guest_physical >> (12 + 9 * (level - 1)) & 0x1ff) * 8;
        entry = memory_read(cpu->machine, entry_address[level], 8);
        if (entry_rights(cpu, entry) == 0) {
            violate(cpu, guest_physical, request, write, 0, !(entry & EPT_SUPPRESS_VE));
            return false;
        }
        if (is_misconfigured(cpu, level, entry)) {
            exit_misconfiguration(cpu, guest_physical);
            return false;
        }
        if (level > 1)
            upper_rights &= entry_rights(cpu, entry);
        rights &= entry_rights(cpu, entry);
        table = entry & 0x000ffffffffff000ull;
        if (level < 4 && level > 1 && (entry & EPT_LARGE))
            break;
    }
    if (level == 0)
        level = 1;
    if (level == 1 && top == 4)
        tlb_insert(cpu, &(struct mapping){.kind = MAPPING_EPT_TABLE,
                                          .rights = (uint8_t)upper_rights,
                                          .page = guest_physical & ~0x1fffffull,
                                          .target = entry_address[1] & PAGE_MASK});
    uint64_t size = 1ull << (12 + 9 * (level - 1));
    unsigned wanted = ept_rights_wanted(write ? ACCESS_WRITE : request->access, request->page_user);
    if (request->of_walk)
        wanted |= ACCESS_READ;
    if ((rights & wanted) != wanted) {
        violate(cpu, guest_physical, request, write, rights, !(entry & EPT_SUPPRESS_VE));
        return false;
    }
    if (flags && !set_flags(cpu, guest_physical, entry_address, level, top, write))
        return false;
    *mapping = (struct mapping){
        .kind = MAPPING_GUEST_PHYSICAL,
        .rights = (uint8_t)rights,
        .convertible = !(entry & EPT_SUPPRESS_VE),
        .dirty = !flags || write,
        .page = guest_physical & PAGE_MASK,
        .target = ((table & ~(size - 1)) | (guest_physical & (size - 1))) & PAGE_MASK,
    };
    return true;
}

bool ept_translate(struct hw_cpu *cpu, uint64_t guest_physical, const struct access_request *request,
                   struct mapping *mapping)
{
    if (cpu->vmx != VMX_NON_ROOT || cpu->c.eptp == 0) {
        *mapping = (struct mapping){.rights = EPT_ALL_RIGHTS,
                                    .dirty = true,
                                    .page = guest_physical & PAGE_MASK,
                                    .target = guest_physical & PAGE_MASK};
        return true;
    }
    bool write = request->access == ACCESS_WRITE || counts_as_write(cpu, request);
    struct mapping *cached = tlb_find(cpu, MAPPING_GUEST_PHYSICAL, guest_physical & PAGE_MASK);
    if (cached != NULL && (!write || cached->dirty)) {
        unsigned wanted = ept_rights_wanted(write ? ACCESS_WRITE : request->access, request->page_user);
        if ((cached->rights & wanted) != wanted) {
            violate(cpu, guest_physical, request, write, cached->rights, cached->convertible);
            return false;
        }
        *mapping = *cached;
        return true;
    }
    if (!walk(cpu, guest_physical, request, write, mapping))
        return false;
    tlb_insert(cpu, mapping);
    return true;
}
