// SPDX-License-Identifier: MIT
// The first seam of the engine: the VMX instructions and the MSRs of a logical processor. hw/silicon executes
// them; hw/model is a software processor. Every function acts on the logical processor `cpu`, which is the
// one that the caller runs on (on silicon it is only used to assert that).
#ifndef NVMX_HW_H
#define NVMX_HW_H

#include <nvmx/types.h>

struct hw_cpu; // opaque: one logical processor

enum vmx_status hw_vmxon(struct hw_cpu *cpu, l0pa_t region);
enum vmx_status hw_vmxoff(struct hw_cpu *cpu);
enum vmx_status hw_vmclear(struct hw_cpu *cpu, l0pa_t region);
enum vmx_status hw_vmptrld(struct hw_cpu *cpu, l0pa_t region);

// On the current VMCS of `cpu`. The field must exist on this processor: anything else is a defect of L0,
// which stops the machine (silicon) or the test (model).
uint64_t hw_vmread(struct hw_cpu *cpu, uint32_t encoding);
void hw_vmwrite(struct hw_cpu *cpu, uint32_t encoding, uint64_t value);

// VMLAUNCH (launch) or VMRESUME of the current VMCS with the general-purpose registers in `regs`, to which
// they are saved by the VM exit. VMX_SUCCEED: a VM exit happened (its reason may still say "VM-entry
// failure"). VMX_NOT_ENTERED: an NMI has reached L0 on `cpu` since the last time that hw_enter returned this,
// at whatever moment up to the VMX instruction itself, and that was not executed: nothing has changed, and
// what the caller prepared for this entry was decided without the NMI. An NMI that comes later finds the
// guest. (Whoever handles NMIs in L0 reports them to `cpu`: silicon_note_nmi; the model does by itself.)
enum vmx_status hw_enter(struct hw_cpu *cpu, struct nvmx_regs *regs, bool launch);

enum hw_invept_type { INVEPT_SINGLE_CONTEXT = 1, INVEPT_ALL_CONTEXTS = 2 };
enum hw_invvpid_type {
    INVVPID_INDIVIDUAL_ADDRESS = 0,
    INVVPID_SINGLE_CONTEXT = 1,
    INVVPID_ALL_CONTEXTS = 2,
    INVVPID_SINGLE_CONTEXT_RETAINING_GLOBALS = 3
};
// The caller asks only for types that IA32_VMX_EPT_VPID_CAP reports.
void hw_invept(struct hw_cpu *cpu, enum hw_invept_type type, uint64_t eptp);
void hw_invvpid(struct hw_cpu *cpu, enum hw_invvpid_type type, uint16_t vpid, uint64_t linear_address);

// false: the access raised #GP, and nothing was read or written (*value is 0 then).
bool hw_rdmsr(struct hw_cpu *cpu, uint32_t msr, uint64_t *value);
bool hw_wrmsr(struct hw_cpu *cpu, uint32_t msr, uint64_t value);

// CR2, CR8 and the debug registers are the guest's while it runs and nobody else's: L0 does not use them. CR2
// is written when L0 itself finds that an access of L1's faults.
void hw_write_cr2(struct hw_cpu *cpu, uint64_t linear_address);

// PKRU is the guest's likewise. Only on a processor that has protection keys (the guest's CR4.PKE is 1).
uint32_t hw_read_pkru(struct hw_cpu *cpu);

#endif
