// SPDX-License-Identifier: MIT
// hw.h on a real processor: what the hypervisor must set up for it.
#ifndef SILICON_SILICON_H
#define SILICON_SILICON_H

#include <nvmx/hw.h>

// One logical processor. Zeroed by the hypervisor; the members are hw_enter's own. enter.S knows the offsets.
struct hw_cpu {
    uint64_t exit_stack[8]; // the first push after a VM exit goes here: HOST_RSP points behind it
    struct nvmx_regs *regs; // 64: whose registers the processor holds while the guest runs
    uint64_t entry_rsp;     // 72: L0's stack at the VM entry
    uint8_t nmi_came;       // 80: since hw_enter last said VMX_NOT_ENTERED
};

// For the hypervisor's NMI handler, which interrupted L0 at `rip`: the next hw_enter returns VMX_NOT_ENTERED,
// and so does one that is about to execute the VMX instruction. Returns where the handler is to return to.
uint64_t silicon_note_nmi(struct hw_cpu *cpu, uint64_t rip);

// Host state that belongs to hw_enter: HOST_RSP is constant for a logical processor, HOST_RIP for all.
static inline uint64_t silicon_host_rsp(struct hw_cpu *cpu)
{
    return (uint64_t)&cpu->regs;
}
extern const char silicon_vm_exit[];

// For the hypervisor's #GP handler: the instruction at `rip` may fault; where to go on, 0 if it may not.
uint64_t silicon_fault_recovery(uint64_t rip);

// XSETBV; false: it raised #GP.
bool silicon_xsetbv(uint32_t index, uint64_t value);

#endif
