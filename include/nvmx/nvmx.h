// SPDX-License-Identifier: MIT
// libnvmx: nested VMX for a hypervisor (L0) that gives VT-x to its guest (L1). One `struct nvmx_vcpu` is one
// virtual processor of L1. L0's loop is
//
//     for (;;) {
//         if (nvmx_run(vcpu) == NVMX_EXIT_FOR_L0)
//             l0_handle(vcpu);          // looks at vcpu->exit, uses the functions below, and goes on
//     }
//
// The engine allocates nothing: memory comes with nvmx_vcpu_init.
#ifndef NVMX_NVMX_H
#define NVMX_NVMX_H

#include <nvmx/caps.h>
#include <nvmx/check.h>
#include <nvmx/controls.h>
#include <nvmx/hw.h>
#include <nvmx/port.h>
#include <nvmx/types.h>
#include <nvmx/vmcs.h>

// Basic exit reasons (exits.def).
enum nvmx_exit_reason {
#define EXIT(number, name, route, info) EXIT_##name = (number),
#include <nvmx/exits.def>
#undef EXIT
    EXIT_REASON_COUNT
};

// "CPUID" for 10; "?" for a number outside the table.
const char *nvmx_exit_name(uint32_t basic_reason);

// A VM exit, read from the current VMCS once. Members that the reason does not define (exits.def) are 0.
struct nvmx_exit {
    uint32_t reason; // bits 15:0 basic reason, bit 31 VM-entry failure; what else the VMCS had is left out
    uint32_t instruction_length;
    uint32_t instruction_info;
    uint32_t interruption_info, interruption_error_code;
    uint32_t idt_vectoring_info, idt_vectoring_error_code;
    uint64_t qualification;
    uint64_t guest_linear_address;
    uint64_t guest_physical_address;
};

// An event for the next VM entry; info 0: none.
struct nvmx_event {
    uint32_t info, error_code, instruction_length;
};

// A set of VMCS fields.
#define FIELD_SET_WORDS ((F_COUNT + 63) / 64)
struct field_set {
    uint64_t bits[FIELD_SET_WORDS];
};

// One logical processor, as far as the engine goes: which VMCSs of L0's are active there, of whichever vcpus.
// Lives as long as vcpus that ever ran there. Only that processor touches it.
struct nvmx_cpu {
    struct hw_cpu *hw;
    struct nvmx_vcpu *loaded; // the vcpu that is loaded here; NULL: none
    struct vmcs *active;      // every VMCS whose data this processor's cache may hold, newest first
};

// One VMCS of L0's, in hardware: vmcs01, vmcs02 or a shadow VMCS. engine/vmcs.c is its life cycle.
struct vmcs {
    l0pa_t region;
    struct nvmx_cpu *active_on; // NULL: clear, in memory
    struct vmcs *active_next,
        **active_link;         // its place in active_on->active: the next one, and what points to it
    bool launched;             // the processor's launch state; VMCLEAR clears it
    bool constant_written;     // the constant part is in; reset at VMXON (vmcs02) or never (vmcs01)
    struct hw_cpu *host_cpu;   // the logical processor whose host state is in; survives VMCLEAR
    uint64_t written[F_COUNT]; // what the VMCS is known to hold, for MERGED fields
    struct field_set written_known;
};

// What L0 itself wants of L1's execution: the control fields of vmcs01 and L0's share of vmcs02's.
struct nvmx_l0_policy {
    uint32_t pin, primary, secondary; // 1-settings that L0 wants besides what the processor demands
    uint32_t exception_bitmap;
    l0pa_t io_bitmap_a, io_bitmap_b; // ports that L0 intercepts; used when primary has PRIMARY_USE_IO_BITMAPS
    l0pa_t msr_bitmap;               // MSRs that L0 intercepts from L1
    uint64_t ept_pointer;            // ept01
    uint16_t vpid01, vpid02;         // both non-zero and different, on processors that have VPID; else 0
    uint16_t vpid02_count;           // vpid02 and so many VPIDs behind it, less one, are L2's; 0: just vpid02
};

// A page of ones, the roots, and tables for what one instruction of L2's needs at once.
#define NVMX_EPT02_POOL_PAGES_MIN 64u

// 4-KByte pages of L0's memory that one vcpu needs besides ept02's pool (each page zeroed by the engine).
struct nvmx_vcpu_pages {
    l0pa_t vmcs01, vmcs02;
    l0pa_t io_bitmap_a, io_bitmap_b; // vmcs02's merged bitmaps
    l0pa_t msr_bitmap;
    l0pa_t shadow_vmcs, vmread_bitmap, vmwrite_bitmap; // for VMCS shadowing; address 0: L1's VMREADs exit
    l0pa_t shadow02_vmcs, vmread02_bitmap, vmwrite02_bitmap; // ... by L1, for its L2s: when L1 is offered it
    l0pa_t ept02_pool;                                       // first of ept02_pool_pages contiguous pages
    uint32_t ept02_pool_pages;                               // at least NVMX_EPT02_POOL_PAGES_MIN
};

struct nvmx_vcpu_config {
    const struct nvmx_caps *hardware; // what the processor has
    const struct nvmx_caps *offered;  // what L1 is told it has (nvmx_caps_offer)
    struct nvmx_l0_policy policy;
    struct nvmx_vcpu_pages pages;
    uint64_t l1_physical_address_width; // MAXPHYADDR as L1 sees it
    uint64_t feature_control;           // IA32_FEATURE_CONTROL as L1 reads it
    // The processor has IA32_PRED_CMD.IBPB (CPUID.(EAX=7,ECX=0):EDX[26]). To the branch predictor L1 and L2
    // are one guest at one privilege level: only a barrier keeps what L2 trained from L1.
    bool branch_predictor_barrier;
    bool entry_overlooks_events;    // a quirk of the processor: overlooked.c
    bool first_fetch_saves_old_rip; // another: ept_fault.c, mend_rip_of_fetch
};

// The parts of L1's MSR or I/O bitmap that L2 may use without an exit, learned from its exits (bitmaps.c).
#define LEARNED_WORD_COUNT 16
struct learned_bits {
    struct {
        uint16_t word; // 64-bit word of the bitmap
        uint64_t open; // bits that are 0 in the bitmap that the processor uses
    } entry[LEARNED_WORD_COUNT];
    uint32_t count, next_victim;
};

// The vcpu's VPIDs for L2, and which vpid12 each of them stands for (vpid02.c).
#define VPID02_LIMIT 16
struct vpid02_tag {
    uint16_t vpid12; // 0: that L2 runs without VPID
    bool used;       // it stands for vpid12
    bool stale;      // to be flushed before it is used
    uint64_t last_used;
};
struct vpid02 {
    struct vpid02_tag tag[VPID02_LIMIT];
    uint32_t count; // of tags; 0: the processor has no VPID
    uint32_t current;
    uint16_t vpid12; // of the last entry; 0: none
    uint16_t vpid;   // that current is; 0: none was used yet
    uint64_t clock;
    uint64_t flush_count;
};

#define EPT02_ROOT_COUNT 16
#define EPT02_OPEN_MAX   8

#define SHUTDOWN_FIELD_COUNT 10

// One cached ept02: the shadow of what an EPT pointer of L1's maps.
struct ept02_root {
    bool valid;
    bool filled;  // something was mapped since it was dropped
    uint64_t key; // L1's EPT pointer, and the mode that its entries are read in
    l0pa_t pml4;
    uint64_t last_used;
};

struct ept02 {
    struct ept02_root root[EPT02_ROOT_COUNT];
    uint32_t current; // index into root
    bool logs;        // a page of the current root became writable since it was protected (ept02_protect)
    l0pa_t pool;
    uint32_t pool_pages, fresh; // pages [fresh, pool_pages) were never used
    uint32_t free_list;         // page number + 1 of the first free page, 0: none
    uint64_t clock;
    uint64_t fill_count;    // translations that were filled in
    uint64_t reclaim_count; // roots that were dropped because the pool was empty
    // What L1-physical addresses are backed with where L1 has nothing: for L2's reads, for its writes, and
    // for what hardware uses by itself.
    l0pa_t ones_page, scratch_page, hardware_page;
    l2pa_t open[EPT02_OPEN_MAX]; // pages of open_root that map the scratch page
    uint32_t open_count;         // more than there is room for: so many more
    uint32_t open_root;
};

// L1's current VMCS as L1 wrote it: a copy in L0's memory. The rest of what L1 believes lives in L1's region.
struct vmcs12 {
    uint64_t field[F_COUNT];
    struct field_set dirty; // written by L1 (all of them after VMPTRLD) since the last successful entry
    bool launched;          // launch state as L1 sees it
    bool is_shadow;         // a shadow VMCS: L1 reads and writes it, and cannot enter it
    bool rare_in_vmcs02;    // SAVE_RARE fields that are not dirty: the truth is in vmcs02
};

// The shadow VMCS that L1's VMREAD and VMWRITE work on without an exit (shadow.c).
struct vmcs_shadow {
    bool usable;   // the processor can, and L0 gave the pages
    bool attached; // L1 has a current VMCS, and the shadow holds its shadowed fields
    bool filled;   // `vmcs.written` is what the shadow holds
    struct vmcs vmcs;
    struct field_set readable; // some of them can be written, too
};

// L2's state as L1 wants it entered, while another one is entered (overlooked.c).
struct overlooked {
    bool changed;
    uint64_t rip, rflags, activity;
};

// The shadow VMCS that L2's VMREAD and VMWRITE work on when L1 uses VMCS shadowing itself (shadow12.c).
struct vmcs_shadow12 {
    bool initialized;                  // its region, by VMCLEAR
    bool linked;                       // vmcs02 links to it
    bool open;                         // it holds fields of the VMCS at `region`
    l1pa_t region;                     //
    struct field_set loaded, writable; // these, and those of them that L2 may have written
    struct vmcs vmcs;
};

// L1's own next VM entry, should the processor refuse it (l1_entry.c). All 0 once L1 has been entered.
struct l1_entry {
    bool can_undo; // L0 has carried out a MOV to CR0 or CR4 since, and this is what was before
    bool has_pdpte;
    bool is_reset; // L1's state is as after INIT, because an entry was refused already
    uint64_t rip, cr0, cr4, efer, entry_controls, interruptibility, pending_debug, pdpte[4];
};

struct nvmx_vcpu {
    struct nvmx_regs regs;       // of whoever ran last: L1 or L2
    struct hw_cpu *cpu;          // the logical processor that the vcpu is loaded on; NULL: none
    struct nvmx_cpu *last;       // ... and was loaded on last: where its VMCSs are active, if they are
    struct nvmx_exit exit;       // the last VM exit
    bool in_l2;                  // the VMCS to enter is vmcs02
    bool entry_pending;          // L1's VMLAUNCH/VMRESUME succeeded, and L2 has not run since
    struct nvmx_event event;     // injected at the next entry
    bool nmi_window;             // the current VMCS has NMI-window exiting because an NMI waits
    uint32_t nmi_window_control; // ... or this one of the primary controls
    bool step;     // L0 has one instruction of the current VMCS's guest executed (nvmx_step_begin)
    bool composed; // by either of them, its controls are other ones than these
    uint64_t base_pin, base_primary;
    uint32_t nmi_pending; // NMIs that reached L0 and are L1's (or L2's); nvmx_pend_nmi interrupts anything
    bool machine_check_pending;    // a machine check reached L0 that L1 (or L2) can go on after
    struct nvmx_event entry_event; // what the last event_prepare has put into the VMCS; info 0: nothing
    bool posted_pending;           // a notification's requests are to be taken before L2 runs (posted.c)
    bool tpr_lowered;              // vmcs02's TPR threshold is below L1's, tpr_threshold (tpr_race.c)
    uint64_t tpr_threshold;
    bool init_pending; // an INIT signal came while L1 was in VMX root operation
    bool aborted;      // a VMX abort: L1's processor is in shutdown until its reset
    bool shutdown;     // whoever is to run may be in the shutdown state (shutdown.c)
    uint64_t shutdown_saved[SHUTDOWN_FIELD_COUNT], shutdown_pin,
        shutdown_secondary; // what its VMCS held, while it runs

    struct vmcs vmcs01, vmcs02;
    struct vmcs_shadow shadow;
    struct vmcs_shadow12 shadow12;
    struct vmcs *current; // the processor's current VMCS: &vmcs01 or &vmcs02; NULL when not loaded

    // L1's VMX operation
    bool vmxon; // L1 is in VMX operation
    l1pa_t vmxon_pointer;
    l1pa_t vmcs12_pointer; // all ones: L1 has no current VMCS
    struct vmcs12 vmcs12;
    struct vpid02 vpid02;
    struct ept02 ept02;
    struct learned_bits learned_msr, learned_io;
    struct overlooked overlooked;
    struct l1_entry l1_entry;

    struct nvmx_vcpu_config config;
    struct field_set exists_l1, exists_hardware;    // by the offered and by the hardware's controls
    struct field_set rare, hot, merged, save_hot;   // vmcs02's fields by policy, those that the hardware has
    struct field_set controls, host, guest_not_hot; // vmcs12's fields by what their checks depend on

    struct check_report failed_entry; // of the last VMLAUNCH or VMRESUME that broke a rule; count 0: none has
    uint64_t failed_entry_count;      // how many have

    uint64_t exit_count[2][EXIT_REASON_COUNT]; // [0] of L1, [1] of L2; by basic reason
    uint64_t contained_count;                  // exits that nobody asked for (nvmx_contain_exit)
    uint64_t contained_reasons[2]; // ... that the log has named; bit 127: any number outside exits.def
    uint64_t reflected_count, entry_count;
    uint64_t refused_entry_count; // the processor refused what had passed every check (a bug of ours, or its)
    void *l0_data;                // the embedding hypervisor's
};

// --- life cycle
// -----------------------------------------------------------------------------------------------

// `vcpu` may hold anything before. Writes nothing to hardware. cpu is NULL afterwards. NULL, or a sentence on
// what is wrong with `config`: then nothing was written, neither to `vcpu` nor to any page.
const char *nvmx_vcpu_init(struct nvmx_vcpu *vcpu, const struct nvmx_vcpu_config *config);

// Once for each logical processor that vcpus are to run on, before any is loaded there.
void nvmx_cpu_init(struct nvmx_cpu *cpu, struct hw_cpu *hw);

// VMCLEARs every VMCS of L0's that is active on the caller's logical processor `cpu`, of whichever vcpus, and
// puts the vcpu that is loaded there: before VMXOFF, when the processor is taken away, and when L0 stops
// (also in an NMI or exception handler that interrupted the engine). The vcpus may be loaded elsewhere
// afterwards, or here again.
void nvmx_cpu_clear_all(struct nvmx_cpu *cpu);

// Makes the vcpu's VMCS active and current on `cpu`, which must be in VMX operation and be the caller's, with
// no vcpu loaded. What is still active on the logical processor where the vcpu was before is cleared there
// first, by port_vcpu_clear_on. On the first load, vmcs01's control fields and host state are written; L0
// then writes vmcs01's guest state with nvmx_write.
void nvmx_vcpu_load(struct nvmx_vcpu *vcpu, struct nvmx_cpu *cpu);

// On the logical processor where the vcpu is loaded: it is loaded nowhere afterwards. Its VMCSs stay active
// there, so that to load it there again costs little.
void nvmx_vcpu_put(struct nvmx_vcpu *vcpu);

// VMCLEARs those VMCSs of the vcpu that are active on the caller's logical processor `cpu`, where it is not
// loaded: what port_vcpu_clear_on has executed there.
void nvmx_vcpu_clear_here(struct nvmx_vcpu *vcpu, struct nvmx_cpu *cpu);

// Before the memory of a vcpu that is not loaded is used for something else: no VMCS of it is active anywhere
// afterwards. `cpu` is the caller's logical processor; on another one port_vcpu_clear_on does it.
void nvmx_vcpu_retire(struct nvmx_vcpu *vcpu, struct nvmx_cpu *cpu);

enum nvmx_outcome {
    NVMX_CONTINUE,    // the engine dealt with the exit: run again (also: a moment for L0 to preempt the vcpu)
    NVMX_EXIT_FOR_L0, // vcpu->exit is L0's to handle, of L1 (in_l2 false) or of L2 (in_l2 true)
};

// Enters L1 or L2 once, reads the exit, and handles it as far as nested VMX is concerned.
enum nvmx_outcome nvmx_run(struct nvmx_vcpu *vcpu);

// --- for L0's own exit handlers: all act on whoever ran last, L1 or L2
// ----------------------------------------------

uint64_t nvmx_read(struct nvmx_vcpu *vcpu, enum vmcs_field field);
void nvmx_write(struct nvmx_vcpu *vcpu, enum vmcs_field field, uint64_t value); // guest-state fields only

// RIP past the instruction that exited (vcpu->exit.instruction_length), with the effects that completing an
// instruction has: blocking by STI and MOV SS ends, a single-step trap becomes pending.
void nvmx_skip_instruction(struct nvmx_vcpu *vcpu);

// A hardware exception for the next entry. has_error: error_code is pushed. In L2, the exit that L1's
// exception bitmap asks for is taken instead.
void nvmx_raise(struct nvmx_vcpu *vcpu, uint32_t vector, bool has_error, uint32_t error_code);

// Whoever ran last executes one instruction (or takes one event), and then port_step_end is called, before
// anything else runs: before L1 when that instruction exits to L1. Neither NMIs that wait for their window
// nor L1's own monitor trap flag disturb it, nor does the end of it them. false: the processor has no monitor
// trap flag, and the step ends only when L1 runs instead of L2, or the other way round. (nvmx_state_get ends
// it.)
bool nvmx_step_begin(struct nvmx_vcpu *vcpu);

// An exit that L0 asks for nowhere and has no handler for: an instruction (and a basic reason that exits.def
// does not know) becomes #UD in whoever executed it; an event is over, and an exception is delivered. Each
// basic reason is logged once. L0 calls it for every exit that it does not expect: what exits is the
// processor's to say, and a later processor has more to say.
void nvmx_contain_exit(struct nvmx_vcpu *vcpu);

// INS and OUTS of whoever runs, when vcpu->exit is their exit (string_io.c). nvmx_string_begin finds the
// memory of the next element and checks it as the instruction's own access: CPL, segment, alignment, paging.
// false: there is nothing to transfer, since an exception was raised or REP has nothing left (and the
// instruction is done with). Otherwise the element can be transferred without a fault, and nvmx_string_end
// counts it; without REP, or with the last one, the instruction is done, or else it is executed again for the
// next. In L2 there is no memory to transfer anything with (`has_memory` false): reads give zeros, and writes
// are dropped.
struct nvmx_string {
    bool in, rep, has_memory;
    uint16_t port;
    uint32_t size; // 1, 2, 4
    uint32_t size_in_first_page;
    uint64_t address_mask;
    l1pa_t at[2]; // the second: where the rest is
};
bool nvmx_string_begin(struct nvmx_vcpu *vcpu, struct nvmx_string *string);
uint32_t nvmx_string_read(struct nvmx_vcpu *vcpu, const struct nvmx_string *string);
void nvmx_string_write(struct nvmx_vcpu *vcpu, const struct nvmx_string *string, uint32_t value);
void nvmx_string_end(struct nvmx_vcpu *vcpu, const struct nvmx_string *string);

// An NMI that arrived in L0: delivered to L1 (or L2, or as an exit from L2 to L1) at the next possible entry.
// Of several, as many as a processor would: one is in service, and one more is held until its IRET. May be
// called by an NMI handler that interrupted the engine, on the processor where the vcpu is loaded.
void nvmx_pend_nmi(struct nvmx_vcpu *vcpu);

// A machine check that arrived in L0, and that L0 can go on after (IA32_MCG_STATUS.RIPV): whoever runs next
// has it before all else, as exception 18, L1 instead of L2 when its exception bitmap says so; with CR4.MCE 0
// it is in the shutdown state. May be called by a handler that interrupted the engine, as nvmx_pend_nmi.
// Manual: Machine-Check Exceptions; Machine-Check Events During VM Entry.
void nvmx_pend_machine_check(struct nvmx_vcpu *vcpu);

// RDMSR/WRMSR by L1 of IA32_FEATURE_CONTROL and the VMX capability MSRs.
enum nvmx_msr_result { NVMX_MSR_OK, NVMX_MSR_GP, NVMX_MSR_NOT_MINE };
enum nvmx_msr_result nvmx_rdmsr(struct nvmx_vcpu *vcpu, uint32_t msr, uint64_t *value);
enum nvmx_msr_result nvmx_wrmsr(struct nvmx_vcpu *vcpu, uint32_t msr, uint64_t value);

// L1's CPUID leaf as the processor answered it, made L1's: VMX, OSXSAVE, OSPKE follow L1's state.
struct nvmx_cpuid {
    uint32_t eax, ebx, ecx, edx;
};
void nvmx_cpuid_adjust(struct nvmx_vcpu *vcpu, uint32_t leaf, uint32_t subleaf, struct nvmx_cpuid *result);

// INIT signal to L1: the processor state after INIT, activity state wait-for-SIPI; and the SIPI that follows.
// (One that comes in VMX root operation the engine keeps back: L2's next entry exits with it, or L0 has it
// behind VMXOFF.) Manual: Processor State After Reset/INIT.
void nvmx_reset_l1(struct nvmx_vcpu *vcpu); // every architectural register as after INIT
void nvmx_start_l1_at(struct nvmx_vcpu *vcpu, uint8_t sipi_vector);

#endif
