// SPDX-License-Identifier: MIT
// An EPT violation of L2: a miss of ept02, or L1's, as our own walk of ept12 says. Of what the processor
// recorded only the access itself is believed; rights, dirty flags, the log of modified pages and
// virtualization exceptions are L1's structures against the manual's rules.
// Manual: EPT Violations; Accessed and Dirty Flags for EPT; Page-Modification Logging; Virtualization
// Exceptions; Mode-Based Execute Control.
#include "engine.h"
#include "ept.h"

#define PML_ENTRY_COUNT 512

// The virtualization-exception information area
struct virtualization_exception {
    uint32_t exit_reason;
    uint32_t busy; // all ones until L2 has dealt with it
    uint64_t qualification, linear_address, physical_address;
    uint16_t eptp_index;
};

// Quirk of some processors (nvmx_vcpu_config.first_fetch_saves_old_rip): when the first fetch of an exception
// handler misses, the exit saves the RIP of the instruction that the exception interrupted, with everything
// else (RSP, RFLAGS, the pushed frame) of after the delivery. A fetch misses at RIP, or within the 15 bytes
// of an instruction that crosses into another page: anything else is the handler's address.
static void mend_rip_of_fetch(struct nvmx_vcpu *vcpu)
{
    const uint64_t fetch_of_linear_address = EPT_EXECUTE | VIOLATION_LINEAR | VIOLATION_TRANSLATED;
    if ((vcpu->exit.qualification & fetch_of_linear_address) != fetch_of_linear_address ||
        vcpu->exit.idt_vectoring_info != 0)
        return;
    uint64_t linear = vcpu->exit.guest_linear_address;
    uint64_t base = l1_is_64bit(vcpu) ? 0 : vmcs_read(vcpu, F_GUEST_CS_BASE); // of whoever runs: L2
    if (linear - (base + vmcs_read(vcpu, F_GUEST_RIP)) >= 15)
        vmcs_write(vcpu, F_GUEST_RIP, linear - base);
}

// What the access was, as L1's EPT counts it: with accessed and dirty flags, the processor's own accesses to
// L2's paging structures are reads and writes.
static uint64_t access_of(const struct nvmx_exit *exit, bool flags)
{
    bool of_walk = (exit->qualification & (VIOLATION_LINEAR | VIOLATION_TRANSLATED)) == VIOLATION_LINEAR;
    if (of_walk && flags)
        return EPT_READ | EPT_WRITE;
    return exit->qualification & EPT_RIGHTS;
}

// Whether L1's rights permit the access. A fetch from a linear address of unknown mode that one mode permits
// is `undecided`: the processor will know, once ept02 says the same.
static bool access_is_permitted(uint64_t access, uint64_t rights, bool *undecided)
{
    *undecided = false;
    if ((access & (EPT_READ | EPT_WRITE) & ~rights) != 0)
        return false;
    if ((access & EPT_EXECUTE) == 0)
        return true;
    *undecided = (rights & EPT_EXECUTE_ANY) != 0 && (rights & EPT_EXECUTE_ANY) != EPT_EXECUTE_ANY;
    return (rights & EPT_EXECUTE_ANY) != 0;
}

static uint64_t violation_qualification(const struct nvmx_vcpu *vcpu, uint64_t access, uint64_t rights)
{
    uint64_t kept = VIOLATION_LINEAR | VIOLATION_TRANSLATED | VIOLATION_ADVANCED | VIOLATION_NMI_UNBLOCKING;
    uint64_t user = 0;
    if ((vmcs12_secondary(vcpu) & SECONDARY_MODE_BASED_EXECUTE_CONTROL) != 0)
        user = (rights & EPT_EXECUTE_USER) != 0 ? VIOLATION_EXECUTE_USER : 0;
    return (vcpu->exit.qualification & kept) | access | (rights & EPT_RIGHTS) << VIOLATION_RIGHTS_SHIFT |
           user;
}

// Convertible EPT Violations. The information area is written; the caller raises the exception.
static bool is_converted(struct nvmx_vcpu *vcpu, uint64_t entry)
{
    const struct nvmx_exit *exit = &vcpu->exit;
    if ((vmcs12_secondary(vcpu) & SECONDARY_EPT_VIOLATION_VE) == 0 || (entry & EPT_SUPPRESS_VE) != 0 ||
        exit->idt_vectoring_info != 0 || (vmcs_read(vcpu, F_GUEST_CR0) & CR0_PE) == 0)
        return false;
    uint64_t area = vmcs12_get(vcpu, F_VIRTUALIZATION_EXCEPTION_ADDRESS);
    uint32_t busy;
    if (!port_l1_read(vcpu, l1pa(area + offsetof(struct virtualization_exception, busy)), &busy, sizeof busy))
        busy = ~0u; // a hole reads as all ones
    if (busy != 0)
        return false;
    const struct virtualization_exception information = {
        .exit_reason = EXIT_EPT_VIOLATION,
        .busy = ~0u,
        .qualification = exit->qualification,
        .linear_address = exit->guest_linear_address,
        .physical_address = exit->guest_physical_address,
        .eptp_index = (uint16_t)vmcs12_get(vcpu, F_EPTP_INDEX),
    };
    size_t size = offsetof(struct virtualization_exception, eptp_index) + sizeof information.eptp_index;
    port_l1_write(vcpu, l1pa(area), &information, size);
    return true;
}

static enum route violate(struct nvmx_vcpu *vcpu, uint64_t access, const struct ept12_leaf *leaf)
{
    vcpu->exit.qualification = violation_qualification(vcpu, access, leaf->rights);
    if (!is_converted(vcpu, leaf->entry[leaf->level]))
        return ROUTE_TO_L1;
    nvmx_raise(vcpu, VECTOR_VE, false, 0);
    return ROUTE_HANDLED;
}

static enum route exit_without_qualification(struct nvmx_vcpu *vcpu, uint32_t reason)
{
    struct nvmx_exit *exit = &vcpu->exit;
    *exit = (struct nvmx_exit){
        .reason = reason,
        .guest_physical_address = exit->guest_physical_address,
        .qualification = reason == EXIT_PML_FULL ? exit->qualification & VIOLATION_NMI_UNBLOCKING : 0,
        .idt_vectoring_info = exit->idt_vectoring_info,
        .idt_vectoring_error_code = exit->idt_vectoring_error_code,
    };
    return ROUTE_TO_L1;
}

static bool log_is_full(const struct nvmx_vcpu *vcpu)
{
    return (vmcs12_secondary(vcpu) & SECONDARY_ENABLE_PML) != 0 &&
           vmcs12_get(vcpu, F_PML_INDEX) >= PML_ENTRY_COUNT;
}

static void log_page(struct nvmx_vcpu *vcpu)
{
    if ((vmcs12_secondary(vcpu) & SECONDARY_ENABLE_PML) == 0)
        return;
    uint64_t *index = &vcpu->vmcs12.field[F_PML_INDEX];
    uint64_t page = vcpu->exit.guest_physical_address & ~(PAGE_SIZE - 1);
    port_l1_write(vcpu, l1pa(vmcs12_get(vcpu, F_PML_ADDRESS) + *index * sizeof page), &page, sizeof page);
    *index = (*index - 1) & 0xffff;
}

// L2 executes again what missed. An IRET had ended blocking by NMI before its access missed.
static enum route run_again(struct nvmx_vcpu *vcpu)
{
    if ((vcpu->exit.qualification & VIOLATION_NMI_UNBLOCKING) != 0 && vcpu->exit.idt_vectoring_info == 0)
        vmcs_write(vcpu, F_GUEST_INTERRUPTIBILITY,
                   vmcs_read(vcpu, F_GUEST_INTERRUPTIBILITY) | INTERRUPTIBILITY_NMI);
    return ROUTE_HANDLED;
}

enum route ept_fault_route(struct nvmx_vcpu *vcpu)
{
    if (vcpu->config.first_fetch_saves_old_rip)
        mend_rip_of_fetch(vcpu);
    if ((vmcs12_secondary(vcpu) & SECONDARY_ENABLE_EPT) == 0)
        return ROUTE_TO_L0; // L2's physical memory is L1's, and ept01 is L0's
    uint64_t eptp12 = vmcs12_get(vcpu, F_EPT_POINTER);
    bool flags = (eptp12 & EPTP_ENABLE_AD) != 0, undecided;
    l2pa_t address = l2pa(vcpu->exit.guest_physical_address);
    struct ept12_leaf leaf;
    if (ept12_walk(vcpu, eptp12, address, &leaf) == EPT12_MISCONFIGURED)
        return exit_without_qualification(vcpu, EXIT_EPT_MISCONFIGURATION);
    uint64_t access = access_of(&vcpu->exit, flags), rights = leaf.rights;
    if (!access_is_permitted(access, rights, &undecided))
        return violate(vcpu, access, &leaf);
    if (flags) {
        bool write = (access & EPT_WRITE) != 0, dirty = (leaf.entry[leaf.level] & EPT_DIRTY) != 0;
        if (!ept12_has_flags(&leaf, write)) {
            if (log_is_full(vcpu))
                return exit_without_qualification(vcpu, EXIT_PML_FULL);
            if (!ept12_set_flags(vcpu, &leaf, write))
                return run_again(vcpu); // L1 changed an entry meanwhile
        }
        if (write && !dirty)
            log_page(vcpu);
        if (!write && !dirty)
            rights &= ~EPT_WRITE; // the first write shall miss
    }
    enum ept02_filled filled = ept02_fill(vcpu, address, &leaf, rights, access);
    if (filled == EPT02_REFUSED) // by ept01: to execute it again would not end
        return ROUTE_TO_L0;
    // The processor refused what ept02 says: the linear address is of the other mode.
    if (undecided && filled == EPT02_UNCHANGED)
        return violate(vcpu, access, &leaf);
    return run_again(vcpu);
}
