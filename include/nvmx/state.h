// SPDX-License-Identifier: MIT
// The nested state of a virtual processor as bytes: enough to destroy the vcpu and to make another one, here
// or on another machine, that goes on as if nothing had happened. The format, and who saves what else:
// docs/state.md.
#ifndef NVMX_STATE_H
#define NVMX_STATE_H

#include <nvmx/nvmx.h>

#define NVMX_STATE_MAGIC   0x6174732d786d766eull // "nvmx-sta"
#define NVMX_STATE_VERSION 1u

// Bits of nvmx_state_header.flags
#define NVMX_STATE_VMXON         (1u << 0)  // L1 is in VMX operation
#define NVMX_STATE_CURRENT       (1u << 1)  // L1 has a current VMCS: the records of vmcs12 follow
#define NVMX_STATE_LAUNCHED      (1u << 2)  // ... whose launch state is "launched"
#define NVMX_STATE_IN_L2         (1u << 3)  // L2 runs next: its records follow
#define NVMX_STATE_ENTRY_PENDING (1u << 4)  // ... for the first time since L1's VMLAUNCH or VMRESUME
#define NVMX_STATE_NMI_PENDING   (1u << 5)  // an NMI reached L0 that nobody has been given yet
#define NVMX_STATE_ABORTED       (1u << 6)  // a VMX abort: L1's processor is in shutdown until its reset
#define NVMX_STATE_INIT_PENDING  (1u << 7)  // an INIT signal came while L1 was in VMX root operation
#define NVMX_STATE_SHADOW        (1u << 8)  // the current VMCS is a shadow VMCS
#define NVMX_STATE_SECOND_NMI    (1u << 9)  // ... and another one behind NVMX_STATE_NMI_PENDING's
#define NVMX_STATE_POSTED        (1u << 10) // L2 was notified of posted interrupts that are yet to be taken
#define NVMX_STATE_MACHINE_CHECK (1u << 11) // a machine check reached L0 that nobody has been given yet
#define NVMX_STATE_FLAGS         0xfffu

struct nvmx_state_header {
    uint64_t magic;
    uint32_t version, size; // size: bytes of all, header included
    uint32_t flags, reserved;
    uint64_t feature_control;               // IA32_FEATURE_CONTROL
    uint64_t vmxon_pointer, vmcs12_pointer; // all ones: none
    uint32_t event_info, event_error_code;  // what the next VM entry injects, as in a VMCS; info 0: nothing
    uint32_t event_instruction_length, reserved2;
    uint64_t gpr[GPR_COUNT]; // of whoever runs next; [GPR_RSP] is 0, RSP is among the records
};

// Behind the header: the records of L1's registers, of vmcs12 and of L2's registers, each section complete
// and in ascending order of encodings.
enum nvmx_state_section { NVMX_STATE_OF_L1 = 1, NVMX_STATE_OF_VMCS12 = 2, NVMX_STATE_OF_L2 = 3 };
struct nvmx_state_record {
    uint32_t section, encoding;
    uint64_t value;
};

enum nvmx_state_reason {
    NVMX_STATE_ACCEPTED,
    NVMX_STATE_BAD_HEADER,          // size, magic, version, or reserved bits
    NVMX_STATE_BAD_RECORD,          // not the record that belongs here, or a value wider than `field`
    NVMX_STATE_BAD_FLAGS,           // flags that contradict each other, or what they say is there
    NVMX_STATE_BAD_FEATURE_CONTROL, // a value that L1 cannot have written, or VMX operation in spite of it
    NVMX_STATE_BAD_VMXON_POINTER,   // not a page of L1's physical addresses
    NVMX_STATE_BAD_VMCS12_POINTER,  // ... or the VMXON region, or not RAM
    NVMX_STATE_BAD_L1_CR0,          // `field` holds what no MOV to it leaves there
    NVMX_STATE_BAD_L1_CR4,          //
    NVMX_STATE_BAD_L1_REGISTER,     // L1's registers break `rule`
    NVMX_STATE_BAD_L1_AT_ENTRY,     // L2 runs, and L1 is in no state in which VMLAUNCH executes
    NVMX_STATE_BAD_VMCS12,          // L2 runs, and vmcs12 breaks `rule`
    NVMX_STATE_BAD_L2_REGISTER,     // L2's registers, or the event, break `rule`
};

struct nvmx_state_verdict {
    enum nvmx_state_reason reason;
    uint16_t field; // enum vmcs_field: the one to look at; F_COUNT: none
    uint16_t rule;  // enum check_index; CHECK_COUNT: none
};

// Bytes that nvmx_state_get writes now. The vcpu is loaded, and between two nvmx_run: its last exit is
// handled.
size_t nvmx_state_size(const struct nvmx_vcpu *vcpu);

// Writes nvmx_state_size bytes. The vcpu goes on as before.
void nvmx_state_get(struct nvmx_vcpu *vcpu, void *state);

// Makes the vcpu what `state` says, whatever it was: it is loaded, with the policy, pages and capabilities of
// its configuration, which need not be those that it was saved with. Refuses what L1 could not have brought
// about by executing instructions with this configuration; then nothing has changed.
struct nvmx_state_verdict nvmx_state_set(struct nvmx_vcpu *vcpu, const void *state, size_t size);

// "L1's registers break a rule of VM entry".
const char *nvmx_state_reason_text(enum nvmx_state_reason reason);

#endif
