// SPDX-License-Identifier: MIT
// What the engine's files offer each other. The path of one VMLAUNCH, top to bottom:
//   vcpu.c (enter, read the exit) -> instruction.c (rules of the VMX instructions) -> check.c (VM-entry
//   checks)
//   -> entry_plan.c (merge, translate) -> entry_commit.c (VMWRITEs by lifetime) -> L2 runs
//   -> route.c (whose exit?) -> reflect.c (back to L1), or ept02.c, bitmaps.c (L0's own), or L0's handlers
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "field.h"

#include <nvmx/nvmx.h>
#include <nvmx/state.h>

#define NO_VMCS12 (~0ull) // vmcs12_pointer when L1 has no current VMCS

// What L1 finds in IA32_VMX_BASIC; bit 31 is 0. It follows from the layout of a region, which is the table of
// fields in its order (vmcs12.c): a region of another layout is not taken for one of this.
enum {
    VMCS12_REVISION = (int)((0x504c54u
#define FIELD(name, encoding, width, type, exists, entry, exit)                                              \
    +((encoding) + 1u) * (2u * (uint32_t)F_##name + 1u) * 0x9e3779b1u
#include <nvmx/vmcs_fields.def>
#undef FIELD
                             ) &
                            0x7fffffffu)
};

// --- vmcs.c: the life of a hardware VMCS
// ----------------------------------------------------------------------
void vmcs_init(struct vmcs *vmcs, l0pa_t region);
// Current on the vcpu's logical processor; nothing to do when it is already.
void vmcs_make_current(struct nvmx_vcpu *vcpu, struct vmcs *vmcs);
// VMCLEARed on the logical processor where it is active, which is the caller's; nothing to do when it is
// clear.
void vmcs_clear(struct vmcs *vmcs);
// It is about to become active where the vcpu is loaded: vmcs_make_current does that, and so does a VM entry
// of a VMCS that links to it.
void vmcs_list_add(struct nvmx_vcpu *vcpu, struct vmcs *vmcs);
// The current VMCS's host state: the constant part unless it is in, the other when the processor changed.
void vmcs_write_host_state(struct nvmx_vcpu *vcpu, struct vmcs *vmcs);
// MERGED fields of the current VMCS: written when the VMCS is not known to hold the value.
void vmcs_write_if_changed(struct nvmx_vcpu *vcpu, struct vmcs *vmcs, enum vmcs_field field, uint64_t value);
// The processor (or L0) changed the field to `value` by itself.
void vmcs_note(struct vmcs *vmcs, enum vmcs_field field, uint64_t value);

static inline uint64_t vmcs_read(const struct nvmx_vcpu *vcpu, enum vmcs_field field)
{
    return hw_vmread(vcpu->cpu, field_table[field].encoding);
}
static inline void vmcs_write(const struct nvmx_vcpu *vcpu, enum vmcs_field field, uint64_t value)
{
    hw_vmwrite(vcpu->cpu, field_table[field].encoding, value);
}

// --- l1_operand.c, l1_paging.c: operands of L1's VMX instructions
// --------------------------------------------------
enum access_result {
    ACCESS_OK,
    ACCESS_FAULT, // the exception is raised in L1; the instruction has no other effect
};
struct operand {
    bool is_register;
    uint32_t gpr;            // destination or source register, when is_register
    uint64_t linear_address; // otherwise
};
bool l1_is_64bit(struct nvmx_vcpu *vcpu);
// The memory or register operand that the exit's instruction information describes. `size` and `write` are
// for the segment checks.
enum access_result l1_operand_decode(struct nvmx_vcpu *vcpu, uint32_t size, bool write,
                                     struct operand *operand);
enum access_result l1_linear_read(struct nvmx_vcpu *vcpu, uint64_t linear, void *to, uint32_t size);
enum access_result l1_linear_write(struct nvmx_vcpu *vcpu, uint64_t linear, const void *from, uint32_t size);
uint64_t l1_gpr_read(struct nvmx_vcpu *vcpu, uint32_t gpr);
void l1_gpr_write(struct nvmx_vcpu *vcpu, uint32_t gpr, uint64_t value);
// May an access of `size` bytes at `offset` go through this segment of L1's (SEG_*)? For L1 outside 64-bit
// mode.
enum segment { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS };
bool l1_segment_allows(struct nvmx_vcpu *vcpu, uint32_t segment, uint64_t offset, uint32_t size, bool write);

// Page-Fault Error Code. An access is told by its bits W and U.
#define PF_P    0x01u
#define PF_W    0x02u
#define PF_U    0x04u
#define PF_RSVD 0x08u
#define PF_PK   0x20u
// The physical address of a linear one by L1's paging, with its accessed and dirty bits set.
// false: *error_code is a page fault's.
bool l1_paging_walk(struct nvmx_vcpu *vcpu, uint64_t linear, uint32_t access, l1pa_t *physical,
                    uint32_t *error_code);
// ... and the page fault is raised. Nothing of what is translated crosses a page.
enum access_result l1_linear_translate(struct nvmx_vcpu *vcpu, uint64_t linear, uint32_t access,
                                       l1pa_t *physical);
// Into a hole: dropped; out of one: all ones.
void l1_physical_access(struct nvmx_vcpu *vcpu, l1pa_t physical, void *buffer, uint32_t size, bool write);

// --- instruction.c, inval.c: L1's VMX instructions
// ------------------------------------------------------------- Carries out the VMX instruction that L1's
// exit is about.
bool instruction_handle(struct nvmx_vcpu *vcpu); // false: it is no VMX instruction
void instruction_succeed(struct nvmx_vcpu *vcpu);
void instruction_fail_invalid(struct nvmx_vcpu *vcpu);
uint32_t l1_cpl(struct nvmx_vcpu *vcpu);                       // of whoever runs
void instruction_fail(struct nvmx_vcpu *vcpu, uint32_t error); // VMfail: Valid when L1 has a current VMCS
void invalidate_ept(struct nvmx_vcpu *vcpu);
void invalidate_vpid(struct nvmx_vcpu *vcpu);

// VM-Instruction Error Numbers
enum vm_instruction_error {
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
    VMERR_ENTRY_BLOCKED_BY_MOV_SS = 26,
    VMERR_INVALID_OPERAND = 28,
};

// --- vmcs12.c
// -------------------------------------------------------------------------------------------------
bool vmcs12_load(struct nvmx_vcpu *vcpu, l1pa_t pointer);      // false: not RAM of L1's
void vmcs12_store(struct nvmx_vcpu *vcpu);                     // L1's current VMCS back to its region
void vmcs12_set_clear(struct nvmx_vcpu *vcpu, l1pa_t pointer); // launch state in a region that is not current
// One field of a VMCS that is not current, in L1's memory.
uint64_t vmcs12_region_read(struct nvmx_vcpu *vcpu, l1pa_t region, enum vmcs_field field);
void vmcs12_region_write(struct nvmx_vcpu *vcpu, l1pa_t region, enum vmcs_field field, uint64_t value);
uint64_t vmcs12_read(struct nvmx_vcpu *vcpu, enum vmcs_field field);
void vmcs12_write(struct nvmx_vcpu *vcpu, enum vmcs_field field, uint64_t value); // as L1's VMWRITE
// vmcs12 has the truth of every field, and vmcs02 is to get it at the next entry.
void vmcs12_set_all_dirty(struct nvmx_vcpu *vcpu);
// Fetches the SAVE_RARE fields whose truth is in vmcs02.
void vmcs12_sync_rare(struct nvmx_vcpu *vcpu);

static inline uint64_t vmcs12_get(const struct nvmx_vcpu *vcpu, enum vmcs_field field)
{
    return vcpu->vmcs12.field[field];
}

// L1's effective control words: as written, and 0 for secondary controls that are not activated.
static inline uint32_t vmcs12_pin(const struct nvmx_vcpu *vcpu)
{
    return (uint32_t)vmcs12_get(vcpu, F_PIN_BASED_CONTROLS);
}
static inline uint32_t vmcs12_primary(const struct nvmx_vcpu *vcpu)
{
    return (uint32_t)vmcs12_get(vcpu, F_PRIMARY_CONTROLS);
}
static inline uint32_t vmcs12_secondary(const struct nvmx_vcpu *vcpu)
{
    return (vmcs12_primary(vcpu) & PRIMARY_ACTIVATE_SECONDARY) != 0
               ? (uint32_t)vmcs12_get(vcpu, F_SECONDARY_CONTROLS)
               : 0;
}

// --- entry_plan.c, entry_commit.c
// -----------------------------------------------------------------------------
struct entry_plan {
    uint64_t field[F_COUNT];
    bool all; // all MERGED fields are planned; false: only those that can change without L1 writing to its
              // VMCS
    struct nvmx_event event;
    bool has_pdpte; // L1 uses no EPT and L2 uses PAE paging
    uint64_t pdpte[4];
};
#define MERGED_FIELDS_THAT_CHANGE(X)                                                                         \
    X(GUEST_IA32_EFER)                                                                                       \
    X(GUEST_IA32_PAT) X(GUEST_IA32_DEBUGCTL) X(GUEST_DR7) X(VM_ENTRY_CONTROLS) X(EPT_POINTER)
// Pure: reads vmcs12, L1's registers in vmcs01 (which is current) and L1's memory.
// First, the PDPTEs: an entry to an L2 with PAE paging and without EPT loads them from L1's memory, and
// checks what it loaded.
void entry_plan_pdptes(struct nvmx_vcpu *vcpu, struct entry_plan *plan);
void entry_plan_make(struct nvmx_vcpu *vcpu, bool all, struct entry_plan *plan);
// Cannot fail. Afterwards vmcs02 is current and L2 runs next.
void entry_commit(struct nvmx_vcpu *vcpu, struct entry_plan *plan);
// L1's VMLAUNCH or VMRESUME, its launch state being right: all the way to vmcs02 or to L1's VMfail or exit.
void entry_from_l1(struct nvmx_vcpu *vcpu);

// --- detector.c
// ----------------------------------------------------------------------------------------------
// Counts and logs a refusal: `what` with two numbers, then vmcs12 and vmcs02, which is current when it is
// called. Afterwards vmcs12 has the truth of every field.
void detector_report(struct nvmx_vcpu *vcpu, const char *what, uint64_t a, uint64_t b);

// --- msr_list.c
// ----------------------------------------------------------------------------------------------- Loads the
// list at `list` into the MSRs: 0, or the 1-based number of the entry that failed.
uint32_t msr_list_load(struct nvmx_vcpu *vcpu, l1pa_t list, uint32_t count);
uint32_t msr_list_store(struct nvmx_vcpu *vcpu, l1pa_t list, uint32_t count);

// --- bitmaps.c: L1's MSR and I/O bitmaps
// -------------------------------------------------------------------------
void bitmaps_init(struct nvmx_vcpu *vcpu);
void bitmaps_reset(struct nvmx_vcpu *vcpu);        // everything exits
void bitmaps_before_entry(struct nvmx_vcpu *vcpu); // closes what L1 has closed since
// The exit is L2's RDMSR/WRMSR (IN/OUT...): does L1's bitmap ask for it?
bool bitmaps_l1_wants_msr(struct nvmx_vcpu *vcpu, uint32_t msr, bool write);
bool bitmaps_l1_wants_io(struct nvmx_vcpu *vcpu, uint16_t port, uint32_t size);
bool bitmaps_io_is_in_reach_of_l2(const struct nvmx_vcpu *vcpu);
// L2 may use it without an exit from now on; false: L0 intercepts it itself.
bool bitmaps_l0_intercepts_msr(struct nvmx_vcpu *vcpu, uint32_t msr, bool write);
bool bitmaps_open_msr(struct nvmx_vcpu *vcpu, uint32_t msr, bool write);
bool bitmaps_open_io(struct nvmx_vcpu *vcpu, uint16_t port, uint32_t size);

// --- vpid02.c
// ----------------------------------------------------------------------------------------------
void vpid02_init(struct nvmx_vcpu *vcpu);
void vpid02_load(struct nvmx_vcpu *vcpu); // the vcpu comes to a logical processor
// The VPID to run L2 with, on behalf of vpid12 (0: L1 uses none), flushed if need be; 0: there is none.
uint16_t vpid02_use(struct nvmx_vcpu *vcpu, uint16_t vpid12);
// L1's INVVPID. What it names of the vcpu's tags, and nothing else.
void vpid02_invalidate(struct nvmx_vcpu *vcpu, enum hw_invvpid_type type, uint16_t vpid12, uint64_t linear);

// --- ept02.c, ept12.c
// --------------------------------------------------------------------------------------------
void ept02_init(struct ept02 *ept02, l0pa_t pool, uint32_t pages);
uint64_t ept02_use(struct nvmx_vcpu *vcpu, uint64_t eptp12); // the EPT pointer to run with
void ept02_drop(struct nvmx_vcpu *vcpu, uint64_t eptp12);    // INVEPT single-context
void ept02_drop_all(struct nvmx_vcpu *vcpu);
void ept02_load(struct nvmx_vcpu *vcpu);
void ept02_protect(struct nvmx_vcpu *vcpu); // the first write to each page misses again
struct ept12_leaf {
    uint64_t address; // L1-physical, of the start of the page
    uint64_t size;    // 4K, 2M, 1G
    uint8_t rights;   // EPT_READ... EPT_EXECUTE_USER: of all levels together
    uint8_t memory_type;
    bool ignore_pat;
    unsigned level; // of the last entry that was read: the one that maps the page, or is not present
    uint64_t entry[4];
    l1pa_t at[4]; // the entries from there up, and where they are
};
enum ept12_result { EPT12_OK, EPT12_NOT_PRESENT, EPT12_MISCONFIGURED };
// `leaf->rights` is what the levels that were walked allow, also when the result is EPT12_NOT_PRESENT (0
// then).
enum ept12_result ept12_walk(struct nvmx_vcpu *vcpu, uint64_t eptp12, l2pa_t address,
                             struct ept12_leaf *leaf);
// The accessed flags (and the dirty flag, for a write) are set in all that was read; setting them.
bool ept12_has_flags(const struct ept12_leaf *leaf, bool write);
bool ept12_set_flags(struct nvmx_vcpu *vcpu, const struct ept12_leaf *leaf,
                     bool write); // false: L1 changed one
// Maps the page around `address` in the current root, with these of ept12's rights, for `access`. Where L1
// has no memory, L2 reads and fetches ones; a write is a step (step.c), at whose end it is gone.
enum ept02_filled {
    EPT02_CHANGED,
    EPT02_UNCHANGED, // it was there
    EPT02_REFUSED,   // ept12 permits the access, and L0 does not
};
enum ept02_filled ept02_fill(struct nvmx_vcpu *vcpu, l2pa_t address, const struct ept12_leaf *leaf,
                             uint64_t rights, uint64_t access);
void ept02_close_holes(struct nvmx_vcpu *vcpu);
// What hardware gets for a page that L1 does not have: of ones, as of now.
l0pa_t ept02_hardware_page(struct nvmx_vcpu *vcpu);

// --- shadow.c: all with vmcs01 current, before and after
// ------------------------------------------------------------
void shadow_init(struct nvmx_vcpu *vcpu);
void shadow_attach(struct nvmx_vcpu *vcpu);  // L1 has another current VMCS: vmcs12
void shadow_detach(struct nvmx_vcpu *vcpu);  // L1 has none
void shadow_publish(struct nvmx_vcpu *vcpu); // vmcs12 changed: L1 sees it
void shadow_collect(struct nvmx_vcpu *vcpu); // what L1 wrote goes into vmcs12
static inline bool shadow_has(const struct nvmx_vcpu *vcpu, enum vmcs_field field)
{
    return vcpu->shadow.attached && field_set_has(&vcpu->shadow.readable, field);
}

// --- shadow12.c: L1's shadow VMCSs, while L2 runs
// ------------------------------------------------------------
#define REVISION_SHADOW (1u << 31) // of a revision identifier: a shadow VMCS
void shadow12_init(struct nvmx_vcpu *vcpu);
void shadow12_commit(struct nvmx_vcpu *vcpu); // vmcs02's link pointer, which is current
void shadow12_close(struct nvmx_vcpu *vcpu);  // what L2 wrote goes into L1's memory

// --- route.c, reflect.c
// -----------------------------------------------------------------------------------------
enum route { ROUTE_TO_L1, ROUTE_TO_L0, ROUTE_HANDLED };
enum route posted_route(struct nvmx_vcpu *vcpu);   // an external interrupt while L2 runs
enum route shadow12_route(struct nvmx_vcpu *vcpu); // L2's VMREAD or VMWRITE
enum route route_l2_exit(struct nvmx_vcpu *vcpu);
enum route ept_fault_route(struct nvmx_vcpu *vcpu);   // ept_fault.c: L2's EPT violation
enum route vm_function_route(struct nvmx_vcpu *vcpu); // vm_function.c: L2's VMFUNC
// The exit record in vcpu->exit becomes L1's VM exit: L1 runs next.
void reflect_exit(struct nvmx_vcpu *vcpu);
// A VM entry by L1 that fails after the guest state was (being) loaded: exit 33 or 34.
void reflect_failed_entry(struct nvmx_vcpu *vcpu, uint32_t basic_reason, uint64_t qualification);

// --- l1_entry.c
// -------------------------------------------------------------------------------------------------
void l1_entry_remember(struct nvmx_vcpu *vcpu); // before a MOV to CR0 or CR4 is carried out
// The processor has refused L1's own entry (`why`: an exit reason, or the error of a VMfail) and nothing is
// prepared for another. The MOV is undone, or L1 shuts down: vcpu->exit is a triple fault of L1's.
enum nvmx_outcome l1_entry_failed(struct nvmx_vcpu *vcpu, uint64_t why, uint64_t qualification);

// --- l1_cr.c
// ------------------------------------------------------------------------------------------------------
void l1_cr_handle(struct nvmx_vcpu *vcpu); // L1's control-register exit
uint64_t l1_cr0(struct nvmx_vcpu *vcpu);   // as L1 reads it
uint64_t l1_cr4(struct nvmx_vcpu *vcpu);
void l1_cr_write_state(struct nvmx_vcpu *vcpu, uint64_t cr0, uint64_t cr4); // vmcs01's CR0, CR4 and shadows
// At VMXON and VMXOFF: which bits L0 owns; sets vcpu->vmxon.
void l1_cr_update_masks(struct nvmx_vcpu *vcpu, bool vmxon);

// As a MOV to it by L1 could leave it, with and without VMX operation; and as vmcs01 has it.
bool l1_cr0_is_possible(const struct nvmx_vcpu *vcpu, uint64_t cr0, bool vmxon);
bool l1_cr4_is_possible(const struct nvmx_vcpu *vcpu, uint64_t cr4, bool vmxon);
bool l1_cr_fit_together(uint64_t cr0, uint64_t cr4); // CET needs WP
uint64_t
l1_cr4_not_offered(const struct nvmx_vcpu *vcpu); // bits of CR4 that the processor has and L1's has not
void l1_cr_real(const struct nvmx_vcpu *vcpu, uint64_t *cr0, uint64_t *cr4);

// --- l1_state.c, instruction.c: L1's VMX operation begins and ends
// -------------------------------------------------------------------------------------------------
void l1_begin_vmx(struct nvmx_vcpu *vcpu, l1pa_t region); // what VMXON does; vmcs01 is current
// L1 runs next, with no current VMCS and nothing pending; its registers are somebody else's to set, and so is
// whether it is in VMX operation.
void l1_leave_vmx(struct nvmx_vcpu *vcpu);

// --- state.c: which records a section of a saved state has
// -------------------------------------------------------------------------------------------------
bool state_section_has(const struct nvmx_vcpu *vcpu, enum nvmx_state_section section, enum vmcs_field field);
size_t state_size(const struct nvmx_vcpu *vcpu, uint32_t flags); // NVMX_STATE_*

// --- config.c
// -------------------------------------------------------------------------------------------------
const char *config_problem(const struct nvmx_vcpu_config *config); // NULL: the engine can work with it

// --- vcpu.c, event.c
// -------------------------------------------------------------------------------------------------
void vmcs01_write_controls(struct nvmx_vcpu *vcpu);        // at the first load
void page_fill(l0pa_t page, uint64_t value);               // every 64-bit word of a page of L0's
extern const uint8_t exit_info_members[EXIT_REASON_COUNT]; // EXIT_INFO_* of exits.def
#define EXIT_INFO_Q 0x01u
#define EXIT_INFO_L 0x02u
#define EXIT_INFO_I 0x04u
#define EXIT_INFO_G 0x08u
#define EXIT_INFO_P 0x10u
#define EXIT_INFO_V 0x20u
#define EXIT_INFO_S 0x40u // not of the record: of an instruction of CPL 0
uint32_t event_type(uint32_t info);
// Its delivery has an instruction length.
static inline bool event_is_software(uint32_t type)
{
    return type == EVENT_SOFTWARE_INTERRUPT || type == EVENT_PRIVILEGED_SOFTWARE ||
           type == EVENT_SOFTWARE_EXCEPTION;
}
// Around every entry while vcpu->shutdown is set (shutdown.c).
void shutdown_before_entry(struct nvmx_vcpu *vcpu);
void shutdown_after_exit(struct nvmx_vcpu *vcpu);
// --- overlooked.c: around an entry of L2 that injects nothing, on processors with the quirk
void overlooked_before_entry(struct nvmx_vcpu *vcpu);
void overlooked_after_exit(struct nvmx_vcpu *vcpu); // when it changed something
void overlooked_undo(struct nvmx_vcpu *vcpu);

// VTPR's bits 7:4, of L1's virtual-APIC page; false: there is no memory.
bool vtpr_class_read(struct nvmx_vcpu *vcpu, uint8_t *class);
bool tpr_race_lost(struct nvmx_vcpu *vcpu);    // VMfail 7 because VTPR has changed: try again
void tpr_race_restore(struct nvmx_vcpu *vcpu); // behind an exit
bool posted_process(struct nvmx_vcpu *vcpu);   // false: L1's other processors were always faster; call again

void event_prepare(struct nvmx_vcpu *vcpu);       // before an entry: what is injected
void event_undo_prepare(struct nvmx_vcpu *vcpu);  // ... and nothing was entered
void event_after_exit(struct nvmx_vcpu *vcpu);    // what the exit interrupted the delivery of
void event_pend_mtf_exit(struct nvmx_vcpu *vcpu); // at the next boundary of L2, before all else there
void event_leave_vmcs(struct nvmx_vcpu *vcpu);    // the current VMCS is about to be another
bool event_is_own_exit(struct nvmx_vcpu *vcpu);   // L0's own, of a window or a step: run again
bool event_l1_wants_exception(const struct nvmx_vcpu *vcpu, uint32_t vector, uint32_t error_code);

// --- step.c
void step_end(struct nvmx_vcpu *vcpu); // if there is one: its clean-up
// The current VMCS's pin-based and primary controls: what they would be, with the NMI window and the step.
void step_compose_controls(struct nvmx_vcpu *vcpu);
void step_write_control(struct nvmx_vcpu *vcpu, enum vmcs_field field, uint64_t value);

#endif
