// SPDX-License-Identifier: MIT
// The model's own view of itself: one logical processor, its VMCS cache, its TLB, and who calls whom.
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "machine.h"
#include "vmcs_data.h"
#include <nvmx/controls.h>

#define NO_ADDRESS UINT64_MAX // "current-VMCS pointer" when there is none
#define PAGE_MASK  (~(uint64_t)(PAGE_SIZE - 1))

// --- stop.c: the sentences that end a test

_Noreturn void rule_broken(const struct hw_cpu *cpu, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

// --- registers

struct segment {
    uint64_t base;
    uint32_t limit, access_rights; // access rights as in a VMCS
    uint16_t selector;
};

struct registers {
    uint64_t gpr[GPR_COUNT]; // [GPR_RSP] is RSP
    uint64_t rip, rflags;
    uint64_t cr0, cr2, cr3, cr4, cr8, dr[4], dr6, dr7;
    struct segment segment[SEGMENT_NAME_COUNT];
    uint64_t gdtr_base, idtr_base;
    uint32_t gdtr_limit, idtr_limit;
    uint64_t pdpte[4]; // of PAE paging
    uint64_t efer, pat, debugctl, perf_global_ctrl;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint32_t pkru;
};

// --- fields.c: which fields exist, how wide they are

// The field that `encoding` names on this processor, and whether it is the high half; F_COUNT: none.
enum vmcs_field model_field_find(const struct machine *machine, uint64_t encoding, bool *high);
bool model_field_exists(const struct processor *processor, enum vmcs_field field);
uint64_t model_field_truncate(enum vmcs_field field, uint64_t value);
const char *model_field_name(enum vmcs_field field);
uint32_t model_field_encoding(enum vmcs_field field);

// --- capabilities.c

enum control_word { WORD_PIN, WORD_PRIMARY, WORD_SECONDARY, WORD_EXIT, WORD_ENTRY };
uint32_t capability_allowed1(const struct processor *processor, enum control_word word);
uint32_t capability_allowed0(const struct processor *processor, enum control_word word); // must be 1
uint64_t capability_msr(const struct processor *processor, uint32_t msr);
bool capability_ept(const struct processor *processor, uint64_t bit); // of IA32_VMX_EPT_VPID_CAP
bool capability_misc(const struct processor *processor, uint64_t bit);

// --- tlb.c

enum mapping_kind {
    MAPPING_LINEAR,
    MAPPING_GUEST_PHYSICAL,
    MAPPING_COMBINED,
    MAPPING_EPT_TABLE // a paging-structure-cache entry: 2 MBytes of guest-physical addresses, and their last
                      // table
};

struct mapping {
    bool valid, global;
    uint8_t kind;
    uint8_t rights;     // ACCESS_x that the mapping permits (supervisor's view for linear ones)
    uint8_t user;       // the page belongs to user mode
    uint8_t ept_rights; // of a combined mapping: what EPT alone permits
    bool convertible;   // of a guest-physical one: its violations may become virtualization exceptions
    bool dirty;         // the dirty flags are set already
    uint16_t vpid, pcid;
    uint64_t eptrta;         // EPTP bits 51:12; 0: no EPT
    uint64_t page;           // linear or guest-physical page address
    uint64_t guest_physical; // of a combined mapping
    uint64_t target;         // the page it maps to
};
#define TLB_SIZE 512

struct tlb {
    struct mapping mapping[TLB_SIZE];
    unsigned used;
};

struct mapping *tlb_find(struct hw_cpu *cpu, enum mapping_kind kind, uint64_t page);
void tlb_insert(struct hw_cpu *cpu, const struct mapping *mapping);
void tlb_flush_linear(struct hw_cpu *cpu, uint16_t vpid, int pcid, bool globals); // pcid -1: of every one
void tlb_flush_linear_page(struct hw_cpu *cpu, uint16_t vpid, uint64_t page);
void tlb_flush_guest_physical_page(struct hw_cpu *cpu, uint64_t eptrta, uint64_t page);
void tlb_flush_ept(struct hw_cpu *cpu, uint64_t eptrta); // guest-physical and combined mappings
void tlb_flush_all(struct hw_cpu *cpu);
void tlb_flush_vpids(struct hw_cpu *cpu); // linear and combined mappings of every VPID but 0
uint16_t tlb_vpid(const struct hw_cpu *cpu);
uint64_t tlb_eptrta(const struct hw_cpu *cpu);

// --- the logical processor

enum vmx_operation { VMX_OUTSIDE, VMX_ROOT, VMX_NON_ROOT };

// The controls of the current VMCS, read once by the VM entry.
struct controls {
    uint32_t pin, primary, secondary, exit, entry;
    uint32_t exception_bitmap, page_fault_mask, page_fault_match;
    uint64_t cr0_mask, cr4_mask, cr0_shadow, cr4_shadow;
    uint64_t cr3_target[4];
    uint32_t cr3_target_count;
    uint64_t io_bitmap_a, io_bitmap_b, msr_bitmap;
    uint64_t tsc_offset;
    uint64_t eptp; // 0 without EPT
    uint16_t vpid; // 0 without VPID
    uint64_t vmread_bitmap, vmwrite_bitmap;
    uint64_t vm_functions, eptp_list;
    uint64_t pml_address, virtualization_exception_area;
    uint64_t virtual_apic, apic_access;
    uint64_t posted_descriptor;
    uint16_t posted_vector;  // that notifies
    uint64_t tsc_multiplier; // 48 bits behind the binary point
    uint32_t tpr_threshold;
    uint32_t ple_gap, ple_window;
};

// An event that is being delivered, or that the next instruction boundary delivers.
struct event {
    bool valid, has_error;
    bool injected; // by VM entry
    uint8_t type;  // EVENT_x
    uint8_t vector;
    uint32_t error_code;
    uint32_t instruction_length; // of INT n, INT3, INTO, INT1
    uint64_t cr2, dr6;           // what a page fault or debug exception carries
};

struct msr_value {
    uint32_t msr;
    uint64_t value;
};
#define MSR_STORAGE 48

// The operation that the test gave for the guest's instruction at linear address `at`; NULL: it completed.
struct fed_operation {
    const struct op *op;
    uint64_t at;
};

struct hw_cpu {
    struct machine *machine;
    unsigned index;

    struct registers r;
    uint32_t activity;                                     // ACTIVITY_x
    bool aborted;                                          // a VMX abort: nothing but a reset helps
    bool blocking_sti, blocking_mov_ss;                    // for one instruction
    bool blocking_nmi, blocking_virtual_nmi, blocking_smi; //
    uint64_t pending_debug;                                // as the VMCS field has it
    struct msr_value msr[MSR_STORAGE];                     // those with no effect of their own
    unsigned msr_count;
    uint64_t tsc;
    uint64_t predictor_barrier_count; // WRMSRs of IA32_PRED_CMD.IBPB

    enum vmx_operation vmx;
    bool c_code; // in root operation the C code that calls hw.h runs
    uint64_t vmxon_pointer, current_pointer;
    uint8_t vmxon_memory[PAGE_SIZE]; // what the VMXON region held at VMXON
    struct active_vmcs *active;      // every VMCS that is active here
    struct active_vmcs *current;     // one of them

    // in non-root operation
    struct controls c;
    uint64_t timer_deadline; // of the VMX-preemption timer, in TSC
    bool mtf_pending;
    bool pause_seen;                  // at CPL 0, since the VM entry
    uint64_t pause_first, pause_last; // when: of the loop, and of all

    bool interrupt_pending[256];
    unsigned interrupt_count;
    bool overlooks; // pending interrupts, until another arrives or RFLAGS.IF is 1 (a defect)
    bool nmi_pending, init_pending, sipi_pending;
    uint8_t sipi_vector;
    unsigned nmi_in_root_count, nmi_in_root_after; // cpu_nmis_in_root
    unsigned machine_check_countdown;              // 1: at the next VMX instruction of L0's; 0: none comes
    bool nmi_came;                                 // ... and hw_enter has not said so yet

    struct event vectoring; // what is being delivered: for IDT-vectoring information and double faults
    bool nmi_unblocked_by_iret;
    bool handler_begins; // nothing was executed since an exception's delivery, before which RIP was:
    uint64_t interrupted_rip;

    uint8_t rvi, svi; // requesting and servicing virtual interrupt
    bool virtual_interrupt_recognized;
    int apic_written; // offset in the APIC-access page that the instruction wrote; -1: none

    struct tlb tlb;
    uint64_t fetch_page;             // the last page that instructions were fetched from
    const struct program_text *text; // ... and the program there
    unsigned text_index;
    struct fed_operation fed;
    uint64_t op_count;
    uint64_t future_at; // the last OP_FUTURE, and how often it was executed in a row
    unsigned future_count;
};

struct program_text {
    struct program program;
    uint64_t *address; // of each operation, and the end
    struct program_text *next;
};

#define LIVE_LIMIT 8

struct machine {
    struct machine_config config;
    const struct processor *processor;
    uint8_t *memory;
    uint8_t *l0_page; // one byte a page: belongs to L0
    uint8_t *port;    // what each I/O port holds
    uint64_t random;
    uint64_t layout_key;        // of VMCS regions
    bool writes_back_when_told; // and not at moments of its own choosing
    uint16_t slot[F_COUNT];
    bool exists[F_COUNT]; // on this processor
    struct hw_cpu *cpu[MACHINE_CPU_LIMIT];
    struct hw_cpu *executing; // the one that L0's C code executes on; NULL: not told
    struct program_text *text;
    struct live live[LIVE_LIMIT];
    unsigned live_count;
    bool ud2_everywhere;
    bool fed;                 // every operation comes from the test
    uint64_t operations_left; // 0: no limit
    struct vmcs_record *record[64];
    unsigned record_count;
    struct trace *trace;
    const char *entry_failure;
    struct {
        uint64_t region, qualification;
        uint32_t how; // 0: nothing is refused
    } refusal;
    struct {
        uint64_t region, address; // region 0: nothing is written
        unsigned after;
        uint32_t value;
        bool done;
    } other_write;
    bool refused_on_purpose; // the last VM entry
};

uint64_t machine_random(struct machine *machine);

static inline bool cpu_has_primary(const struct hw_cpu *cpu, uint32_t control)
{
    return cpu->vmx == VMX_NON_ROOT && (cpu->c.primary & control);
}
static inline bool cpu_has_secondary(const struct hw_cpu *cpu, uint32_t control)
{
    return cpu->vmx == VMX_NON_ROOT && (cpu->c.secondary & control);
}
static inline bool cpu_has_pin(const struct hw_cpu *cpu, uint32_t control)
{
    return cpu->vmx == VMX_NON_ROOT && (cpu->c.pin & control);
}
static inline bool cpu_in_long_mode(const struct hw_cpu *cpu)
{
    return cpu->r.efer & EFER_LMA;
}
static inline bool cpu_in_64bit_code(const struct hw_cpu *cpu)
{
    return cpu_in_long_mode(cpu) && (cpu->r.segment[SEGMENT_CS].access_rights & SEGMENT_L);
}
static inline unsigned cpu_cpl(const struct hw_cpu *cpu)
{
    if (!(cpu->r.cr0 & CR0_PE))
        return 0;
    if (cpu->r.rflags & RFLAGS_VM)
        return 3;
    return (cpu->r.segment[SEGMENT_SS].access_rights >> SEGMENT_DPL_SHIFT) & 3;
}
static inline bool is_canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}
static inline bool fits_physical_width(const struct hw_cpu *cpu, uint64_t address)
{
    return !(address >> cpu->machine->processor->physical_address_width);
}

// --- memory.c: physical memory. Outside RAM reads give ones and writes are lost.

uint64_t memory_read(const struct machine *machine, uint64_t address, unsigned size);
void memory_write(struct machine *machine, uint64_t address, uint64_t value, unsigned size);
bool memory_is_ram(const struct machine *machine, uint64_t address, uint64_t size);

// --- paging.c, ept.c: from linear to physical. An access that may not be made raises its exception or makes
// its VM exit, and the function returns false: the caller then gives up its operation.

enum access { ACCESS_READ = 1, ACCESS_WRITE = 2, ACCESS_EXECUTE = 4 };
#define RIGHT_EXECUTE_USER 8u // of EPT: fetches from user-mode linear addresses (ACCESS_EXECUTE: from others)
#define EPT_ALL_RIGHTS     15u

struct access_request {
    uint64_t linear;
    enum access access;
    bool user;                                      // at CPL 3 (an implicit supervisor access is not)
    bool has_linear;                                // of a guest-physical access: `linear` is meaningful
    bool of_walk;                                   // the access is to a guest paging structure
    bool page_user, page_writable, page_no_execute; // what guest paging says of a linear address
};

bool linear_to_physical(struct hw_cpu *cpu, uint64_t linear, enum access access, bool implicit,
                        uint64_t *physical);
bool ept_translate(struct hw_cpu *cpu, uint64_t guest_physical, const struct access_request *request,
                   struct mapping *mapping);
unsigned ept_rights_wanted(enum access access, bool page_user);
const char *ept_pointer_problem(const struct hw_cpu *cpu, uint64_t eptp);
bool paging_load_pdptes(struct hw_cpu *cpu, uint64_t cr3); // false: #GP, or an exit happened

bool guest_read(struct hw_cpu *cpu, uint64_t linear, void *to, unsigned size, bool implicit);
bool guest_write(struct hw_cpu *cpu, uint64_t linear, const void *from, unsigned size, bool implicit);

// --- apic.c

enum apic_access {
    APIC_READ = 0,
    APIC_WRITE = 1,
    APIC_FETCH = 2,
    APIC_DELIVERY = 3,
    APIC_GUEST_PHYSICAL_DELIVERY = 10,
    APIC_GUEST_PHYSICAL = 15
};
void apic_enter(struct hw_cpu *cpu);
void apic_leave(struct hw_cpu *cpu);
bool apic_exit_behind_entry(struct hw_cpu *cpu);
bool apic_deliver_virtual_interrupt(struct hw_cpu *cpu);
void apic_process_posted_interrupts(struct hw_cpu *cpu);
uint64_t apic_read_cr8(const struct hw_cpu *cpu);
void apic_write_cr8(struct hw_cpu *cpu, uint64_t value);
bool apic_reads_msr(const struct hw_cpu *cpu, uint32_t msr, uint64_t *value); // from the virtual-APIC page
bool apic_writes_msr(const struct hw_cpu *cpu, uint32_t msr);
bool apic_msr_value_is_valid(uint32_t msr, uint64_t value);
void apic_write_msr(struct hw_cpu *cpu, uint32_t msr, uint64_t value);
bool apic_is_access_page(const struct hw_cpu *cpu, uint64_t physical);
void apic_access_exit(struct hw_cpu *cpu, unsigned offset, enum apic_access type);
bool apic_access(struct hw_cpu *cpu, unsigned offset, void *buffer, unsigned size, enum access access);
void apic_emulate_write(struct hw_cpu *cpu);

// --- msr.c, msr_area.c

#define MSR_XSS 0xda0u
bool msr_read(struct hw_cpu *cpu, uint32_t msr, uint64_t *value); // false: #GP
bool msr_write(struct hw_cpu *cpu, uint32_t msr, uint64_t value);
const char *msr_area_load(struct hw_cpu *cpu, uint64_t address, uint32_t count, uint32_t *failed_entry);
const char *msr_area_store(struct hw_cpu *cpu, uint64_t address, uint32_t count);
bool pat_is_valid(uint64_t pat);

// --- vmx_instructions.c: VMX instructions in root operation (or outside), after the checks that raise
// exceptions

enum vmx_error { // VM-Instruction Error Numbers
    VMERR_NONE = 0,
    VMERR_VMCALL_IN_ROOT = 1,
    VMERR_VMCLEAR_ADDRESS = 2,
    VMERR_VMCLEAR_VMXON_POINTER = 3,
    VMERR_VMLAUNCH_NOT_CLEAR = 4,
    VMERR_VMRESUME_NOT_LAUNCHED = 5,
    VMERR_ENTRY_CONTROLS = 7,
    VMERR_ENTRY_HOST_STATE = 8,
    VMERR_VMPTRLD_ADDRESS = 9,
    VMERR_VMPTRLD_VMXON_POINTER = 10,
    VMERR_VMPTRLD_REVISION = 11,
    VMERR_UNSUPPORTED_FIELD = 12,
    VMERR_READ_ONLY_FIELD = 13,
    VMERR_VMXON_IN_ROOT = 15,
    VMERR_ENTRY_MOV_SS = 26,
    VMERR_INVALIDATION_OPERAND = 28,
};

struct vmx_result {
    enum vmx_status status;
    enum vmx_error error;
    const char *rule; // for errors 7 and 8: which
};

struct vmx_result vmx_succeed(void);
struct vmx_result vmx_fail(struct hw_cpu *cpu, enum vmx_error error, const char *rule);
struct vmx_result vmx_fail_invalid(void);

struct vmx_result vmx_vmxon(struct hw_cpu *cpu, uint64_t region);
struct vmx_result vmx_vmxoff(struct hw_cpu *cpu);
struct vmx_result vmx_vmclear(struct hw_cpu *cpu, uint64_t region);
struct vmx_result vmx_vmptrld(struct hw_cpu *cpu, uint64_t region);
// VMREAD and VMWRITE act on the current VMCS, or with VMCS shadowing on the one behind the link pointer.
struct vmx_result vmx_vmread(struct hw_cpu *cpu, struct active_vmcs *vmcs, uint64_t encoding,
                             uint64_t *value);
struct vmx_result vmx_vmwrite(struct hw_cpu *cpu, struct active_vmcs *vmcs, uint64_t encoding,
                              uint64_t value);
struct vmx_result vmx_invept(struct hw_cpu *cpu, uint64_t type, const uint64_t descriptor[2]);
struct vmx_result vmx_invvpid(struct hw_cpu *cpu, uint64_t type, const uint64_t descriptor[2]);
struct vmx_result vmx_enter(struct hw_cpu *cpu, bool launch); // entry.c

// --- entry_controls.c, entry_host.c, entry_guest.c: NULL, or the rule that is broken

void controls_read(struct hw_cpu *cpu);
const char *entry_check_controls(struct hw_cpu *cpu);
const char *entry_check_host(struct hw_cpu *cpu);
const char *entry_check_guest(struct hw_cpu *cpu, uint64_t *qualification);
bool entry_fits_cr3(const struct hw_cpu *cpu, uint64_t cr3);
const char *entry_check_cr0(const struct hw_cpu *cpu, uint64_t cr0, bool unrestricted);
const char *entry_check_cr4(const struct hw_cpu *cpu, uint64_t cr4);

// --- exit.c

struct exit_information {
    uint32_t reason; // basic
    uint64_t qualification;
    bool has_length, has_info, has_linear, has_physical;
    uint32_t length, info;
    uint64_t linear, physical;
    struct event event; // what vectored directly (exception, NMI, acknowledged interrupt)
    bool event_nmi_unblocking;
};

void vm_exit(struct hw_cpu *cpu, const struct exit_information *information);
void vm_exit_simple(struct hw_cpu *cpu, uint32_t reason); // no information but the reason
void vm_exit_instruction(struct hw_cpu *cpu, uint32_t reason, const struct op *op, uint64_t qualification);
void vm_entry_failure(struct hw_cpu *cpu, uint32_t reason, uint64_t qualification);

// --- task_switch.c

enum task_switch_source { TASK_SWITCH_CALL, TASK_SWITCH_IRET, TASK_SWITCH_JMP, TASK_SWITCH_GATE };
void task_switch(struct hw_cpu *cpu, uint16_t selector, enum task_switch_source source, const struct op *op);
void task_return(struct hw_cpu *cpu, const struct op *op);
void execute_task_switch(struct hw_cpu *cpu, const struct op *op);

// --- virtualization_exceptions.c

// The EPT violation as #VE. false: it stays a VM exit.
bool virtualization_exception(struct hw_cpu *cpu, const struct exit_information *violation);

// --- events.c

uint64_t event_pushed_flags(const struct hw_cpu *cpu, const struct event *event); // RFLAGS as it is saved
void event_deliver(struct hw_cpu *cpu, struct event event); // through the IDT, with all that may go wrong
void raise_exception(struct hw_cpu *cpu, uint8_t vector);
void raise_exception_with_code(struct hw_cpu *cpu, uint8_t vector, uint32_t error_code);
void raise_page_fault(struct hw_cpu *cpu, uint64_t linear, uint32_t error_code);
bool vector_pushes_error_code(uint8_t vector);
// The VM exit that the exception bitmap asks for; false: it does not.
bool exception_exits(struct hw_cpu *cpu, const struct event *event);
// What happens between two instructions. true: something did, the boundary is to be looked at again.
bool boundary_events(struct hw_cpu *cpu); // boundary.c
void triple_fault(struct hw_cpu *cpu);

// --- execute*.c: the micro-operations. An operation completes with instruction_retire, or does not.

void execute(struct hw_cpu *cpu, const struct op *op);
void execute_vmx(struct hw_cpu *cpu, const struct op *op);
void execute_control_register(struct hw_cpu *cpu, const struct op *op);
void execute_io(struct hw_cpu *cpu, const struct op *op);
void execute_system(struct hw_cpu *cpu, const struct op *op);
void execute_vm_function(struct hw_cpu *cpu, const struct op *op);
void instruction_retire(struct hw_cpu *cpu, const struct op *op); // RIP behind it, and what that entails
bool operand_address(struct hw_cpu *cpu, const struct op *op, uint64_t *linear); // false: it faulted
uint64_t operand_displacement(const struct hw_cpu *cpu, const struct op *op);
uint32_t operand_information(const struct op *op); // VM-exit instruction information of a memory operand
uint64_t visible_tsc(const struct hw_cpu *cpu);
uint64_t visible_cr0(const struct hw_cpu *cpu);
uint64_t visible_cr4(const struct hw_cpu *cpu);

#endif
