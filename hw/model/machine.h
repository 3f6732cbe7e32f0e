// SPDX-License-Identifier: MIT
// The software VMX processor, as a test sees it: a machine of N logical processors over one flat memory.
// A test that wants to see what goes on inside includes model.h.
#ifndef MODEL_MACHINE_H
#define MODEL_MACHINE_H

#include "micro_op.h"
#include <nvmx/caps.h>
#include <nvmx/hw.h>
#include <nvmx/vmcs.h>

struct machine;

// What a kind of processor can do: its capability MSRs and its physical-address width.
struct processor {
    const char *name;
    struct nvmx_caps vmx;
    unsigned physical_address_width;
    uint64_t debugctl_missing; // bits of IA32_DEBUGCTL that are reserved on this one
};
extern const struct processor processor_rich; // everything that the model does (FACTS: corei7_skylake_x)
extern const struct processor
    processor_sparse; // EPT and unrestricted guest, and nothing else that is optional
extern const struct processor processor_no_vpid; // the rich one without VPID
extern const struct processor processor_no_ept;  // neither EPT nor VPID nor TRUE capability MSRs
extern const struct processor processor_no_unrestricted_guest;
extern const struct processor processor_without_pml; // nor #VE, MBEC, XSAVES, virtual-interrupt delivery
extern const struct processor processor_smx; // with SMX; without accessed and dirty flags for EPT, and PML
extern const struct processor processor_new; // with CET, protection keys, and 5-level paging in CR4
bool processor_has_field(const struct processor *processor, uint32_t encoding);

// Who executes in VMX root operation: the C code that calls hw.h (then whatever a processor would punish
// silently stops the test), or L1's micro-operations (the plain reference: L1 on the bare machine).
enum root { ROOT_IS_L0, ROOT_IS_L1 };

struct machine_config {
    const struct processor *processor;
    unsigned cpu_count;
    uint64_t memory_size; // bytes, a multiple of 4096
    uint64_t seed;        // decides poison, region layouts, and when caches are written back
    enum root root;
    bool overlooks_events; // a defect: a VM entry does not look for what is due at once (entry.c)
    bool exits_before_cpl; // a defect: XSETBV exits before CPL is looked at
    bool saves_old_rip;    // a defect: a handler's first fetch that misses in EPT saves the RIP of before the
                           // delivery
};
#define MACHINE_CPU_LIMIT 8

struct machine *machine_create(const struct machine_config *config);
void machine_destroy(struct machine *machine); // checks the invariants that hold at any moment first
struct hw_cpu *machine_cpu(struct machine *machine, unsigned index);
// From now on the C code that calls hw.h executes on `cpu`: a VMX instruction that it gives to another
// processor stops the test. NULL (as at the start): on whichever it names. Returns what it was before.
struct hw_cpu *machine_execute_on(struct machine *machine, struct hw_cpu *cpu);
unsigned cpu_index(const struct hw_cpu *cpu);

// --- memory

void *machine_memory(struct machine *machine, uint64_t address, uint64_t size); // must be RAM
// From now on an access by a guest (not by the processor's own walks) to these pages stops the test.
void machine_reserve_for_l0(struct machine *machine, uint64_t from, uint64_t size);

// --- programs

void machine_add_program(struct machine *machine, const struct program *program);
uint64_t program_end(const struct program *program); // the address behind its last operation

// Where no program is, the memory holds UD2; without this, to execute there stops the test.
void machine_fill_with_ud2(struct machine *machine);

// After so many more operations the test is stopped: for guests that may loop for ever.
#define OUT_OF_OPERATIONS "the guests' operations are used up"
void machine_limit_operations(struct machine *machine, uint64_t count);

// A range of linear addresses whose operations the test gives one at a time ("live"): L1 typed by hand. When
// an instruction is wanted there and none is armed, or the armed one has completed, model_wait is called.
struct live {
    uint64_t base, end;
    bool armed;
    uint64_t at; // where the armed operation is
    struct op op;
};
struct live *machine_add_live(struct machine *machine, uint64_t base, uint64_t end);

// Or: every operation of every guest comes from the test, wherever in its memory the guest is ("fed"). When
// one is wanted, model_wait is called (WAIT_LIVE), and cpu_feed answers. `op` must live until the next one is
// fed. An operation that L0 lets the guest execute again (it filled something in) is not asked for twice.
void machine_feed(struct machine *machine);
void cpu_feed(struct hw_cpu *cpu, const struct op *op);

// --- running without L0: one instruction boundary, and one operation
void cpu_step(struct hw_cpu *cpu);

// --- what happens to a processor from outside
void cpu_interrupt(struct hw_cpu *cpu, uint8_t vector);
int cpu_take_interrupt(struct hw_cpu *cpu); // what L0 gets when it opens its interrupts; -1: nothing
void cpu_nmi(struct hw_cpu *cpu);
// A machine check that arrives while L0's C code executes, at such a moment; L0's handler is
// model_machine_check_in_root.
void cpu_machine_check_in_root(struct hw_cpu *cpu, unsigned after);
// `count` NMIs that arrive while L0's C code executes: the first one at the VMX instruction of L0's `after`
// others from now (VMREAD, VMWRITE, ... up to VMLAUNCH and VMRESUME themselves), just before it, and each
// further one at the next. L0's handler is model_nmi_in_root.
void cpu_nmis_in_root(struct hw_cpu *cpu, unsigned count, unsigned after);
unsigned cpu_nmis_in_root_left(const struct hw_cpu *cpu); // so many have not come yet
void cpu_init_signal(struct hw_cpu *cpu);
void cpu_startup_ipi(struct hw_cpu *cpu, uint8_t vector);

void cpu_set_pkru(struct hw_cpu *cpu, uint32_t value); // as WRPKRU by whoever runs
void cpu_cpuid(struct hw_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t result[4]);

// --- counts

// Since the machine was made or machine_reset_counts, by VMCS region. A VMCS is named by its region's
// address.
struct vmcs_count {
    uint64_t region;
    uint32_t vmread[F_COUNT], vmwrite[F_COUNT];
    uint32_t vmwrite_unchanged[F_COUNT]; // VMWRITEs of what the field held already
    uint32_t vmclear, vmptrld, vmlaunch, vmresume, failed_entry;
};
// What sentences call the VMCS of this region, besides its address.
void machine_name_vmcs(struct machine *machine, uint64_t region, const char *name);
const struct vmcs_count *machine_count(struct machine *machine, uint64_t region);
void machine_reset_counts(struct machine *machine);

// --- what guests observed: at each instruction boundary of a guest at `level`, the registers it can see
struct observation {
    uint64_t rip, rflags, cr0, cr2, cr3, cr4, cr8, dr7, efer;
    uint64_t pat, debugctl, sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t gdtr_base, idtr_base, segment_base[SEGMENT_NAME_COUNT];
    uint32_t gdtr_limit, idtr_limit, segment_limit[SEGMENT_NAME_COUNT];
    uint32_t segment_rights[SEGMENT_NAME_COUNT]; // of an unusable segment only that it is one
    uint16_t segment_selector[SEGMENT_NAME_COUNT];
    uint64_t gpr[GPR_COUNT];
    uint32_t interruptibility;
    uint8_t level, cpl;
};
// Adds the observations to the trace; NULL: none is kept.
struct trace {
    struct observation *entry;
    size_t count, room;
};
void machine_trace(struct machine *machine, struct trace *trace);
void trace_free(struct trace *trace);

// Why the last VM entry that failed, failed: the rule, in a few words. NULL: none did.
const char *machine_entry_failure(const struct machine *machine);

// The next VM entry with the VMCS of `region` that passes every check is refused all the same, as by a rule
// that nobody knows: a VMfail with error 7 or 8, or (33) a failed entry with `qualification`;
// or (41) it has a machine check.
void machine_refuse_entry(struct machine *machine, uint64_t region, uint32_t how, uint64_t qualification);

// Another processor's write to memory, just before the checks of the `after`-th VM entry from now (0: the
// next one) with the VMCS of `region`. From then on its entries may fail a check of the control fields.
void machine_write_before_entry(struct machine *machine, uint64_t region, unsigned after, uint64_t address,
                                uint32_t value);

// --- what the test around the model provides (link-time)

enum wait_reason {
    WAIT_LIVE, // the guest is at an instruction boundary in a live range
    WAIT_IDLE, // the processor is in HLT, shutdown or wait-for-SIPI state, and nothing that wakes it is
               // pending
    WAIT_END,  // a program ran into its end
};
// The test arms an operation or makes an event pending, and returns; the model looks again.
void model_wait(struct hw_cpu *cpu, enum wait_reason reason);

// An NMI interrupts L0, which executes C code on `cpu`.
void model_nmi_in_root(struct hw_cpu *cpu);
void model_machine_check_in_root(struct hw_cpu *cpu);

// A rule was broken: ends the test with `sentence`.
_Noreturn void model_stop(const char *sentence);

#endif
