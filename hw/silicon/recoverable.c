// SPDX-License-Identifier: MIT
// Instructions whose #GP is an answer and not a defect of L0. Each notes its own address and where to go on
// after the fault in the section .fault_recovery, where the hypervisor's exception handler looks.
#include "silicon.h"

struct fault_recovery {
    uint64_t rip, resume;
};

// Bounds by the linker script.
extern const struct fault_recovery silicon_recovery_start[], silicon_recovery_end[];

#define RECOVER_AT(instruction, resume)                                                                      \
    ".pushsection .fault_recovery, \"a\"\n\t.quad " instruction ", " resume "\n\t.popsection\n\t"

uint64_t silicon_fault_recovery(uint64_t rip)
{
    for (const struct fault_recovery *entry = silicon_recovery_start; entry != silicon_recovery_end; entry++)
        if (entry->rip == rip)
            return entry->resume;
    return 0;
}

// enter.S: from the look at nmi_came to the VMX instruction that is next; behind a VMLAUNCH that failed comes
// one more instruction.
extern const char silicon_entry_begins[], silicon_vmlaunch[], silicon_vmresume[], silicon_not_entered[];

uint64_t silicon_note_nmi(struct hw_cpu *cpu, uint64_t rip)
{
    __atomic_store_n(&cpu->nmi_came, 1, __ATOMIC_RELAXED);
    bool before_vmlaunch = rip >= (uint64_t)silicon_entry_begins && rip <= (uint64_t)silicon_vmlaunch;
    bool at_vmresume = rip == (uint64_t)silicon_vmresume;
    return before_vmlaunch || at_vmresume ? (uint64_t)silicon_not_entered : rip;
}

bool hw_rdmsr(struct hw_cpu *cpu, uint32_t msr, uint64_t *value)
{
    uint32_t low = 0, high = 0;
    bool faulted = true;
    (void)cpu;
    __asm__ volatile("1: rdmsr\n\t"
                     "movb $0, %b2\n\t"
                     "2:\n\t" RECOVER_AT("1b", "2b")
                     : "+a"(low), "+d"(high), "+q"(faulted)
                     : "c"(msr));
    *value = faulted ? 0 : (uint64_t)high << 32 | low;
    return !faulted;
}

bool hw_wrmsr(struct hw_cpu *cpu, uint32_t msr, uint64_t value)
{
    bool faulted = true;
    (void)cpu;
    __asm__ volatile("1: wrmsr\n\t"
                     "movb $0, %b0\n\t"
                     "2:\n\t" RECOVER_AT("1b", "2b")
                     : "+q"(faulted)
                     : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
    return !faulted;
}

bool silicon_xsetbv(uint32_t index, uint64_t value)
{
    bool faulted = true;
    __asm__ volatile("1: xsetbv\n\t"
                     "movb $0, %b0\n\t"
                     "2:\n\t" RECOVER_AT("1b", "2b")
                     : "+q"(faulted)
                     : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
    return !faulted;
}
