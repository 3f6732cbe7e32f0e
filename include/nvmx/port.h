// SPDX-License-Identifier: MIT
// The second seam of the engine: what an embedding hypervisor provides. Link-time functions, no pointers.
#ifndef NVMX_PORT_H
#define NVMX_PORT_H

#include <nvmx/types.h>

struct check_broken;
struct hw_cpu;
struct nvmx_cpu;
struct nvmx_vcpu;

// L1's physical memory, as L1 sees it through ept01. Reads and writes may cross pages. false: some byte is
// not RAM that L1 has (a hole, a device, or L0's own memory); then nothing was written, and `to` is
// unspecified. Never raises an exception and never touches a device.
bool port_l1_read(struct nvmx_vcpu *vcpu, l1pa_t from, void *to, size_t size);
bool port_l1_write(struct nvmx_vcpu *vcpu, l1pa_t to, const void *from, size_t size);

// As above, for an aligned 8-byte word: atomic, and *word is what the memory held before; swapped only when
// that was `expected`. Used for the accessed and dirty bits of ept12.
bool port_l1_compare_exchange(struct nvmx_vcpu *vcpu, l1pa_t at, uint64_t expected, uint64_t desired,
                              uint64_t *word);

// Where ept01 maps an L1-physical address. For RAM and devices alike; false: nothing is there for L1.
struct port_mapping {
    l0pa_t l0;           // machine address of the byte asked for
    uint64_t size;       // 4K, 2M or 1G: the naturally aligned block around it that ept01 maps uniformly
    uint8_t memory_type; // EPT memory type (0 UC, 1 WC, 4 WT, 5 WP, 6 WB)
    bool readable, writable, executable;
};
bool port_l1_translate(struct nvmx_vcpu *vcpu, l1pa_t at, struct port_mapping *mapping);

// L0's own view of pages that were handed to the engine at nvmx_vcpu_init.
void *port_l0_map(l0pa_t page);

// Host state of every VMCS. The constant part is asked for once per VMCS; the other when the processor
// changes.
struct port_host_constant {
    uint64_t cr0, cr3, cr4, efer, pat, rip, sysenter_eip;
    uint32_t sysenter_cs;
    uint16_t es, cs, ss, ds, fs, gs, tr;
};
struct port_host_cpu {
    uint64_t fs_base, gs_base, tr_base, gdtr_base, idtr_base, sysenter_esp, rsp;
};
void port_host_constant(struct port_host_constant *host);
void port_host_cpu(struct hw_cpu *cpu, struct port_host_cpu *host);

// Has nvmx_vcpu_clear_here(vcpu, cpu) executed on the logical processor `cpu`, which is not the caller's, and
// returns when that is done. There it comes between two of the engine's calls, never in the middle of one (so
// a guest that runs there is made to exit first, and nvmx_run returns). The vcpu is not loaded, and nobody
// loads it meanwhile. `cpu` is in VMX operation: before it is taken away, nvmx_cpu_clear_all leaves nothing
// to clear.
void port_vcpu_clear_on(struct nvmx_vcpu *vcpu, struct nvmx_cpu *cpu);

// One line of L0's log: `text` with two numbers behind it, for what L1 does and we do not support, and for
// the explanation of failed entries. Rate-limited by the port if need be.
void port_log(struct nvmx_vcpu *vcpu, const char *text, uint64_t a, uint64_t b);

// A VM entry of L1's is about to fail: one of the rules that it broke. Called for each of them.
void port_explain(struct nvmx_vcpu *vcpu, const struct check_broken *broken);

// A line of a bug report: what a field holds in vmcs12 and in vmcs02 when the processor refused an entry
// although every check had passed. Called for each field, after a port_log that begins with DETECTOR.
struct port_detected {
    uint16_t field; // enum vmcs_field
    bool in_vmcs12, in_vmcs02;
    uint64_t vmcs12, vmcs02;
};
void port_detector(struct nvmx_vcpu *vcpu, const struct port_detected *line);

// The external interrupt that the processor acknowledged at the last exit ends: an EOI to the local APIC that
// is the vcpu's. (Posted-interrupt processing.)
void port_end_interrupt(struct nvmx_vcpu *vcpu);

// Would an interrupt be delivered to the vcpu now, if RFLAGS.IF were 1 and nothing blocked it? Asked only
// with nvmx_vcpu_config.entry_overlooks_events.
bool port_interrupt_is_due(struct nvmx_vcpu *vcpu);

// A step ends (nvmx_step_begin): of L0's, or of the engine's, when there may be nothing to do. Called with
// the VMCS current that it was begun with.
void port_step_end(struct nvmx_vcpu *vcpu);

// We have a bug: say `what` and two numbers, dump, stop. No input from L1 or L2 may lead here.
_Noreturn void port_bug(const char *what, uint64_t a, uint64_t b);

#endif
