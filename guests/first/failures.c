// SPDX-License-Identifier: MIT
// VM entries that fail: one rule broken at a time, everything else in order. Controls: VMfailValid 7; host
// state: VMfailValid 8; guest state: exit reason 33 with bit 31.
#include "first.h"
#include "l2_code.h"
#include "x86.h"

#define NOT_CANONICAL 0x8000000000000000ull
#define TOO_WIDE      (1ull << 51)
#define CHANGE_MAX    4

enum how {
    SET = 1,
    CLEAR,
    WRITE,
    SET_FORBIDDEN,  // the lowest bit of a controls field that may not be 1
    CLEAR_REQUIRED, // the lowest one that must be 1
};

struct change { // of a field of the current VMCS
    uint32_t field;
    enum how how;
    uint64_t value;
};

struct failure {
    const char *name;
    struct change changes[CHANGE_MAX];
    uint64_t qualification; // guest state only
};

// Also in `value`: the address of a page that each processor takes for the purpose.
#define A_PAGE 0xaaaaaaaaaaaaa000ull

static uint32_t forbidden_bit(uint32_t field)
{
    uint32_t bit = 1;
    while (bit && l2_may_set(field, bit))
        bit <<= 1;
    return bit;
}

static uint64_t changed(const struct change *change, uint64_t old, uint64_t page)
{
    uint64_t value = (change->value & ~0xfffull) == A_PAGE ? page | (change->value & 0xfff) : change->value;
    uint32_t required = l2_must_set(change->field);
    switch (change->how) {
    case SET:
        return old | value;
    case CLEAR:
        return old & ~value;
    case SET_FORBIDDEN:
        return old | forbidden_bit(change->field);
    case CLEAR_REQUIRED:
        return old & ~(uint64_t)(required & -required);
    default:
        return value;
    }
}

static bool is_offered(const struct change *change)
{
    switch (change->field) {
    case VMCS_PIN_BASED_CONTROLS:
    case VMCS_PRIMARY_CONTROLS:
    case VMCS_SECONDARY_CONTROLS:
    case VMCS_VM_EXIT_CONTROLS:
    case VMCS_VM_ENTRY_CONTROLS:
        return change->how != SET || l2_may_set(change->field, (uint32_t)change->value);
    default:
        return true;
    }
}

static bool all_offered(const struct failure *failure)
{
    for (uint32_t i = 0; i < CHANGE_MAX && failure->changes[i].how; i++)
        if (!is_offered(&failure->changes[i]))
            return false;
    return true;
}

// error: the VM-instruction error, or 0 for a VM-entry failure by guest state. A rule about a control that is
// not offered cannot be broken alone: the row is skipped, silently, as it is on a processor that lacks the
// control.
static void fact_failures(struct cpu *cpu, const struct failure *failures, uint32_t count, uint32_t error)
{
    struct l2 *l2 = l2_create(cpu, l2_nops);
    uint64_t page = cpu_physical(cpu_allocate_page(cpu));
    for (uint32_t i = 0; i < count; i++) {
        const struct failure *failure = &failures[i];
        uint64_t old[CHANGE_MAX];
        if (!all_offered(failure))
            continue;
        for (uint32_t k = 0; k < CHANGE_MAX && failure->changes[k].how; k++) {
            old[k] = l2_read(failure->changes[k].field);
            l2_write(failure->changes[k].field, changed(&failure->changes[k], old[k], page));
        }
        if (error)
            fact_status(cpu, failure->name, l2_enter(l2), error);
        else if (fact_exit(cpu, l2, failure->name,
                           EXIT_REASON_ENTRY_FAILURE | EXIT_ENTRY_FAILURE_GUEST_STATE))
            fact(cpu, "its qualification", l2_read(VMCS_EXIT_QUALIFICATION), failure->qualification);
        for (uint32_t k = CHANGE_MAX; k-- > 0;)
            if (failure->changes[k].how)
                l2_write(failure->changes[k].field, old[k]);
        // A good entry in between: nothing of the failed one stays. (Not after each: the launch state matters
        // too.)
        if (i % 8 == 7) {
            fact_call(cpu, l2, "mended: L2 runs", 3);
            l2_restart(l2, l2_nops);
        }
    }
    fact_call(cpu, l2, "mended: L2 runs", 3);
}

#define FAILURES(cpu, rows, error) fact_failures(cpu, rows, sizeof(rows) / sizeof(rows[0]), error)

#define PIN       VMCS_PIN_BASED_CONTROLS
#define PRIMARY   VMCS_PRIMARY_CONTROLS
#define SECONDARY VMCS_SECONDARY_CONTROLS
#define EXITS     VMCS_VM_EXIT_CONTROLS
#define ENTRY     VMCS_VM_ENTRY_CONTROLS
#define INJECT    VMCS_VM_ENTRY_INTERRUPTION_INFO
#define LENGTH    VMCS_VM_ENTRY_INSTRUCTION_LENGTH
#define ERROR     VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE
#define ACTIVATE                                                                                             \
    {                                                                                                        \
        PRIMARY, SET, PRIMARY_ACTIVATE_SECONDARY                                                             \
    }

void test_control_failures(struct cpu *cpu)
{
    static const struct failure rows[] = {
        {"pin-based: a bit that must be 1", {{PIN, CLEAR_REQUIRED, 0}}, 0},
        {"pin-based: a bit that must be 0", {{PIN, SET_FORBIDDEN, 0}}, 0},
        {"primary: a bit that must be 1", {{PRIMARY, CLEAR_REQUIRED, 0}}, 0},
        {"primary: a bit that must be 0", {{PRIMARY, SET_FORBIDDEN, 0}}, 0},
        {"secondary: a bit that must be 0", {ACTIVATE, {SECONDARY, SET_FORBIDDEN, 0}}, 0},
        {"exit: a bit that must be 1", {{EXITS, CLEAR_REQUIRED, 0}}, 0},
        {"exit: a bit that must be 0", {{EXITS, SET_FORBIDDEN, 0}}, 0},
        {"entry: a bit that must be 1", {{ENTRY, CLEAR_REQUIRED, 0}}, 0},
        {"entry: a bit that must be 0", {{ENTRY, SET_FORBIDDEN, 0}}, 0},
        {"5 CR3-target values", {{VMCS_CR3_TARGET_COUNT, WRITE, 5}}, 0},
        {"I/O bitmap A not aligned",
         {{PRIMARY, SET, PRIMARY_USE_IO_BITMAPS},
          {VMCS_IO_BITMAP_A, WRITE, 0x800},
          {VMCS_IO_BITMAP_B, WRITE, 0}},
         0},
        {"I/O bitmap B too wide",
         {{PRIMARY, SET, PRIMARY_USE_IO_BITMAPS},
          {VMCS_IO_BITMAP_A, WRITE, 0},
          {VMCS_IO_BITMAP_B, WRITE, TOO_WIDE}},
         0},
        {"MSR bitmap not aligned",
         {{PRIMARY, SET, PRIMARY_USE_MSR_BITMAPS}, {VMCS_MSR_BITMAP, WRITE, 0x10}},
         0},
        {"MSR bitmap too wide",
         {{PRIMARY, SET, PRIMARY_USE_MSR_BITMAPS}, {VMCS_MSR_BITMAP, WRITE, TOO_WIDE}},
         0},
        {"virtual-APIC page not aligned",
         {{PRIMARY, SET, PRIMARY_USE_TPR_SHADOW}, {VMCS_VIRTUAL_APIC_ADDRESS, WRITE, 0x1004}},
         0},
        {"TPR threshold above 15",
         {{PRIMARY, SET, PRIMARY_USE_TPR_SHADOW},
          {VMCS_VIRTUAL_APIC_ADDRESS, WRITE, A_PAGE},
          {VMCS_TPR_THRESHOLD, WRITE, 0x10}},
         0},
        {"virtual NMIs without NMI exiting",
         {{PIN, SET, PIN_VIRTUAL_NMIS}, {PIN, CLEAR, PIN_NMI_EXITING}},
         0},
        {"NMI-window exiting without virtual NMIs", {{PRIMARY, SET, PRIMARY_NMI_WINDOW_EXITING}}, 0},
        {"x2APIC virtualization without TPR shadow",
         {ACTIVATE, {SECONDARY, SET, SECONDARY_VIRTUALIZE_X2APIC_MODE}},
         0},
        {"VPID 0", {ACTIVATE, {SECONDARY, SET, SECONDARY_ENABLE_VPID}, {VMCS_VPID, WRITE, 0}}, 0},
        {"EPT pointer: memory type 1",
         {ACTIVATE, {SECONDARY, SET, SECONDARY_ENABLE_EPT}, {VMCS_EPT_POINTER, WRITE, A_PAGE | 0x19}},
         0},
        {"EPT pointer: page-walk length 3",
         {ACTIVATE, {SECONDARY, SET, SECONDARY_ENABLE_EPT}, {VMCS_EPT_POINTER, WRITE, A_PAGE | 0x16}},
         0},
        {"EPT pointer: reserved bit 11",
         {ACTIVATE, {SECONDARY, SET, SECONDARY_ENABLE_EPT}, {VMCS_EPT_POINTER, WRITE, A_PAGE | 0x81e}},
         0},
        {"EPT pointer too wide",
         {ACTIVATE, {SECONDARY, SET, SECONDARY_ENABLE_EPT}, {VMCS_EPT_POINTER, WRITE, TOO_WIDE | 0x1e}},
         0},
        {"unrestricted guest without EPT", {ACTIVATE, {SECONDARY, SET, SECONDARY_UNRESTRICTED_GUEST}}, 0},
        {"saving the timer without the timer", {{EXITS, SET, EXIT_SAVE_PREEMPTION_TIMER}}, 0},
        {"exit MSR-store area not aligned",
         {{VMCS_VM_EXIT_MSR_STORE_COUNT, WRITE, 1}, {VMCS_VM_EXIT_MSR_STORE_ADDRESS, WRITE, 0x1008}},
         0},
        {"exit MSR-load area too wide",
         {{VMCS_VM_EXIT_MSR_LOAD_COUNT, WRITE, 1}, {VMCS_VM_EXIT_MSR_LOAD_ADDRESS, WRITE, TOO_WIDE}},
         0},
        {"entry MSR-load area not aligned",
         {{VMCS_VM_ENTRY_MSR_LOAD_COUNT, WRITE, 1}, {VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, WRITE, 0x1001}},
         0},
    };
    FAILURES(cpu, rows, 7);
}

void test_injection_failures(struct cpu *cpu)
{
    static const struct failure rows[] = {
        {"type 1", {{INJECT, WRITE, 0x80000100}}, 0},
        {"NMI with vector 3", {{INJECT, WRITE, 0x80000203}}, 0},
        {"hardware exception with vector 32", {{INJECT, WRITE, 0x80000320}}, 0},
        {"an error code with an external interrupt", {{INJECT, WRITE, 0x80000830}}, 0},
        {"an error code with #UD", {{INJECT, WRITE, 0x80000b06}, {ERROR, WRITE, 0}}, 0},
        {"#GP without an error code", {{INJECT, WRITE, 0x8000030d}}, 0},
        {"#DF without an error code", {{INJECT, WRITE, 0x80000308}}, 0},
        {"a reserved bit", {{INJECT, WRITE, 0x80001302}}, 0},
        {"an error code of 17 bits", {{INJECT, WRITE, 0x80000b0d}, {ERROR, WRITE, 0x10000}}, 0},
        {"INT n with instruction length 16", {{INJECT, WRITE, 0x80000440}, {LENGTH, WRITE, 16}}, 0},
        {"#BP with instruction length 16", {{INJECT, WRITE, 0x80000603}, {LENGTH, WRITE, 16}}, 0},
    };
    FAILURES(cpu, rows, 7);
}

void test_host_state_failures(struct cpu *cpu)
{
    static const struct failure rows[] = {
        {"CR0.PE 0", {{VMCS_HOST_CR0, CLEAR, CR0_PE}}, 0},
        {"CR0.NE 0", {{VMCS_HOST_CR0, CLEAR, CR0_NE}}, 0},
        {"CR0.PG 0", {{VMCS_HOST_CR0, CLEAR, CR0_PG}}, 0},
        {"CR4.VMXE 0", {{VMCS_HOST_CR4, CLEAR, CR4_VMXE}}, 0},
        {"CR4.PAE 0", {{VMCS_HOST_CR4, CLEAR, CR4_PAE}}, 0},
        {"CR4 bit 31", {{VMCS_HOST_CR4, SET, 1u << 31}}, 0},
        {"CR3 too wide", {{VMCS_HOST_CR3, SET, TOO_WIDE}}, 0},
        {"ES with RPL 1", {{VMCS_HOST_ES_SELECTOR, SET, 1}}, 0},
        {"CS with RPL 3", {{VMCS_HOST_CS_SELECTOR, SET, 3}}, 0},
        {"SS with TI 1", {{VMCS_HOST_SS_SELECTOR, SET, 4}}, 0},
        {"DS with RPL 2", {{VMCS_HOST_DS_SELECTOR, SET, 2}}, 0},
        {"FS with TI 1", {{VMCS_HOST_FS_SELECTOR, SET, 4}}, 0},
        {"GS with RPL 1", {{VMCS_HOST_GS_SELECTOR, SET, 1}}, 0},
        {"TR with TI 1", {{VMCS_HOST_TR_SELECTOR, SET, 4}}, 0},
        {"CS 0", {{VMCS_HOST_CS_SELECTOR, WRITE, 0}}, 0},
        {"TR 0", {{VMCS_HOST_TR_SELECTOR, WRITE, 0}}, 0},
        {"FS base not canonical", {{VMCS_HOST_FS_BASE, WRITE, NOT_CANONICAL}}, 0},
        {"GS base not canonical", {{VMCS_HOST_GS_BASE, WRITE, NOT_CANONICAL}}, 0},
        {"TR base not canonical", {{VMCS_HOST_TR_BASE, WRITE, NOT_CANONICAL}}, 0},
        {"GDTR base not canonical", {{VMCS_HOST_GDTR_BASE, WRITE, NOT_CANONICAL}}, 0},
        {"IDTR base not canonical", {{VMCS_HOST_IDTR_BASE, WRITE, NOT_CANONICAL}}, 0},
        {"IA32_SYSENTER_ESP not canonical", {{VMCS_HOST_SYSENTER_ESP, WRITE, NOT_CANONICAL}}, 0},
        {"IA32_SYSENTER_EIP not canonical", {{VMCS_HOST_SYSENTER_EIP, WRITE, NOT_CANONICAL}}, 0},
        {"RIP not canonical", {{VMCS_HOST_RIP, WRITE, NOT_CANONICAL}}, 0},
        {"IA32_PAT with memory type 2", {{EXITS, SET, EXIT_LOAD_PAT}, {VMCS_HOST_IA32_PAT, WRITE, 0x02}}, 0},
        {"IA32_EFER with a reserved bit",
         {{EXITS, SET, EXIT_LOAD_EFER}, {VMCS_HOST_IA32_EFER, WRITE, 0x500 | 1 << 1}},
         0},
        {"IA32_EFER.LMA 0", {{EXITS, SET, EXIT_LOAD_EFER}, {VMCS_HOST_IA32_EFER, WRITE, EFER_LME}}, 0},
        {"IA32_EFER.LME 0", {{EXITS, SET, EXIT_LOAD_EFER}, {VMCS_HOST_IA32_EFER, WRITE, EFER_LMA}}, 0},
    };
    FAILURES(cpu, rows, 8);
}

void test_guest_register_failures(struct cpu *cpu)
{
    static const struct failure rows[] = {
        {"CR0.PE 0", {{VMCS_GUEST_CR0, CLEAR, CR0_PE}}, 0},
        {"CR0.NE 0", {{VMCS_GUEST_CR0, CLEAR, CR0_NE}}, 0},
        {"CR0.PG 0", {{VMCS_GUEST_CR0, CLEAR, CR0_PG}}, 0},
        {"CR4.VMXE 0", {{VMCS_GUEST_CR4, CLEAR, CR4_VMXE}}, 0},
        {"CR4.PAE 0", {{VMCS_GUEST_CR4, CLEAR, CR4_PAE}}, 0},
        {"CR4 bit 31", {{VMCS_GUEST_CR4, SET, 1u << 31}}, 0},
        {"CR3 too wide", {{VMCS_GUEST_CR3, SET, TOO_WIDE}}, 0},
        {"DR7 bit 32", {{VMCS_GUEST_DR7, SET, 1ull << 32}}, 0},
        {"IA32_SYSENTER_ESP not canonical", {{VMCS_GUEST_SYSENTER_ESP, WRITE, NOT_CANONICAL}}, 0},
        {"IA32_SYSENTER_EIP not canonical", {{VMCS_GUEST_SYSENTER_EIP, WRITE, NOT_CANONICAL}}, 0},
        {"IA32_PAT with memory type 3", {{ENTRY, SET, ENTRY_LOAD_PAT}, {VMCS_GUEST_IA32_PAT, WRITE, 3}}, 0},
        {"IA32_EFER with a reserved bit",
         {{ENTRY, SET, ENTRY_LOAD_EFER}, {VMCS_GUEST_IA32_EFER, WRITE, 0x500 | 1 << 2}},
         0},
        {"IA32_EFER.LMA 0", {{ENTRY, SET, ENTRY_LOAD_EFER}, {VMCS_GUEST_IA32_EFER, WRITE, EFER_LME}}, 0},
        {"IA32_EFER.LME 0", {{ENTRY, SET, ENTRY_LOAD_EFER}, {VMCS_GUEST_IA32_EFER, WRITE, EFER_LMA}}, 0},
        {"RFLAGS bit 1 is 0", {{VMCS_GUEST_RFLAGS, CLEAR, 2}}, 0},
        {"RFLAGS bit 3", {{VMCS_GUEST_RFLAGS, SET, 8}}, 0},
        {"RFLAGS bit 22", {{VMCS_GUEST_RFLAGS, SET, 1 << 22}}, 0},
        {"RFLAGS.VM in IA-32e mode", {{VMCS_GUEST_RFLAGS, SET, RFLAGS_VM}}, 0},
        {"RFLAGS.IF 0 with an interrupt injected", {{INJECT, WRITE, 0x80000030}}, 0},
        {"GDTR base not canonical", {{VMCS_GUEST_GDTR_BASE, WRITE, NOT_CANONICAL}}, 0},
        {"IDTR base not canonical", {{VMCS_GUEST_IDTR_BASE, WRITE, NOT_CANONICAL}}, 0},
        {"GDTR limit 10000", {{VMCS_GUEST_GDTR_LIMIT, WRITE, 0x10000}}, 0},
        {"IDTR limit ffff0000", {{VMCS_GUEST_IDTR_LIMIT, WRITE, 0xffff0000}}, 0},
    };
    FAILURES(cpu, rows, 0);
}

#define RIGHTS(segment, value)                                                                               \
    {                                                                                                        \
        VMCS_GUEST_##segment##_ACCESS_RIGHTS, WRITE, value                                                   \
    }

void test_guest_segment_failures(struct cpu *cpu)
{
    static const struct failure rows[] = {
        {"TR with TI 1", {{VMCS_GUEST_TR_SELECTOR, SET, 4}}, 0},
        {"LDTR usable with TI 1", {RIGHTS(LDTR, 0x82), {VMCS_GUEST_LDTR_SELECTOR, SET, 4}}, 0},
        {"SS with another RPL than CS", {{VMCS_GUEST_SS_SELECTOR, SET, 3}}, 0},
        {"TR base not canonical", {{VMCS_GUEST_TR_BASE, WRITE, NOT_CANONICAL}}, 0},
        {"FS base not canonical", {{VMCS_GUEST_FS_BASE, WRITE, NOT_CANONICAL}}, 0},
        {"GS base not canonical", {{VMCS_GUEST_GS_BASE, WRITE, NOT_CANONICAL}}, 0},
        {"LDTR usable, base not canonical",
         {RIGHTS(LDTR, 0x82), {VMCS_GUEST_LDTR_BASE, WRITE, NOT_CANONICAL}},
         0},
        {"CS base of 33 bits", {{VMCS_GUEST_CS_BASE, WRITE, 1ull << 32}}, 0},
        {"SS base of 33 bits", {{VMCS_GUEST_SS_BASE, WRITE, 1ull << 32}}, 0},
        {"DS base of 33 bits", {{VMCS_GUEST_DS_BASE, WRITE, 1ull << 32}}, 0},
        {"ES base of 33 bits", {{VMCS_GUEST_ES_BASE, WRITE, 1ull << 32}}, 0},
        {"CS is data", {RIGHTS(CS, 0xa093)}, 0},
        {"CS is not accessed", {RIGHTS(CS, 0xa09a)}, 0},
        {"CS is a system segment", {RIGHTS(CS, 0xa08b)}, 0},
        {"CS is not present", {RIGHTS(CS, 0xa01b)}, 0},
        {"CS has a reserved bit", {RIGHTS(CS, 0xa19b)}, 0},
        {"CS has L and D", {RIGHTS(CS, 0xe09b)}, 0},
        {"CS has another DPL than SS", {RIGHTS(CS, 0xa0fb)}, 0},
        {"CS: limit is not granular, G 1", {{VMCS_GUEST_CS_LIMIT, WRITE, 0x1000}}, 0},
        {"CS: limit is large, G 0", {RIGHTS(CS, 0x209b)}, 0},
        {"SS is read-only", {RIGHTS(SS, 0xc091)}, 0},
        {"SS has another DPL than its RPL", {RIGHTS(SS, 0xc0f3)}, 0},
        {"DS is execute-only code", {RIGHTS(DS, 0xc099)}, 0},
        {"DS is not accessed", {RIGHTS(DS, 0xc092)}, 0},
        {"ES is a system segment", {RIGHTS(ES, 0xc083)}, 0},
        {"FS is not present", {RIGHTS(FS, 0xc013)}, 0},
        {"GS has a reserved bit", {RIGHTS(GS, 0x2c093)}, 0},
        {"DS: DPL below its RPL", {{VMCS_GUEST_DS_SELECTOR, SET, 3}}, 0},
        {"TR is an available TSS", {RIGHTS(TR, 0x89)}, 0},
        {"TR is a 16-bit TSS", {RIGHTS(TR, 0x83)}, 0},
        {"TR is unusable", {RIGHTS(TR, 0x1008b)}, 0},
        {"TR is not present", {RIGHTS(TR, 0x0b)}, 0},
        {"TR is no system segment", {RIGHTS(TR, 0x9b)}, 0},
        {"LDTR is a TSS", {RIGHTS(LDTR, 0x8b)}, 0},
        {"LDTR is not present", {RIGHTS(LDTR, 0x02)}, 0},
    };
    FAILURES(cpu, rows, 0);
}

void test_guest_other_failures(struct cpu *cpu)
{
    static const struct failure rows[] = {
        {"activity state 4", {{VMCS_GUEST_ACTIVITY_STATE, WRITE, 4}}, 0},
        {"HLT with blocking by STI",
         {{VMCS_GUEST_ACTIVITY_STATE, WRITE, ACTIVITY_HLT},
          {VMCS_GUEST_INTERRUPTIBILITY, WRITE, INTERRUPTIBILITY_STI},
          {VMCS_GUEST_RFLAGS, SET, RFLAGS_IF}},
         0},
        {"interruptibility bit 5", {{VMCS_GUEST_INTERRUPTIBILITY, WRITE, 1 << 5}}, 0},
        {"blocking by STI and by MOV SS",
         {{VMCS_GUEST_INTERRUPTIBILITY, WRITE, INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS},
          {VMCS_GUEST_RFLAGS, SET, RFLAGS_IF}},
         0},
        {"blocking by STI with IF 0", {{VMCS_GUEST_INTERRUPTIBILITY, WRITE, INTERRUPTIBILITY_STI}}, 0},
        {"blocking by SMI", {{VMCS_GUEST_INTERRUPTIBILITY, WRITE, INTERRUPTIBILITY_SMI}}, 0},
        {"an interrupt injected with blocking by STI",
         {{VMCS_GUEST_INTERRUPTIBILITY, WRITE, INTERRUPTIBILITY_STI},
          {VMCS_GUEST_RFLAGS, SET, RFLAGS_IF},
          {INJECT, WRITE, 0x80000030}},
         0},
        {"an interrupt injected with blocking by MOV SS",
         {{VMCS_GUEST_INTERRUPTIBILITY, WRITE, INTERRUPTIBILITY_MOV_SS},
          {VMCS_GUEST_RFLAGS, SET, RFLAGS_IF},
          {INJECT, WRITE, 0x80000030}},
         0},
        {"an NMI injected with blocking by MOV SS",
         {{VMCS_GUEST_INTERRUPTIBILITY, WRITE, INTERRUPTIBILITY_MOV_SS}, {INJECT, WRITE, 0x80000202}},
         0},
        {"pending debug exceptions bit 5", {{VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, WRITE, 1 << 5}}, 0},
        {"VMCS link pointer not aligned", {{VMCS_VMCS_LINK_POINTER, WRITE, 0x1001}}, 4},
        {"VMCS link pointer too wide", {{VMCS_VMCS_LINK_POINTER, WRITE, TOO_WIDE}}, 4},
    };
    FAILURES(cpu, rows, 0);
}

// After VM-entry failure 33: L1 runs at its host RIP, the guest state is untouched, the launch state too.
void test_after_entry_failure(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_nops);
    l2_write(VMCS_GUEST_RSP, 0x1234);
    l2_write(VMCS_GUEST_RFLAGS, 0);
    l2_write(VMCS_HOST_SYSENTER_CS, 0x58);
    l2->gpr[GPR_RBX] = 0x4321;
    if (!fact_exit(cpu, l2, "VMLAUNCH", EXIT_REASON_ENTRY_FAILURE | EXIT_ENTRY_FAILURE_GUEST_STATE))
        return;
    fact(cpu, "guest RSP", l2_read(VMCS_GUEST_RSP), 0x1234);
    fact(cpu, "guest RFLAGS", l2_read(VMCS_GUEST_RFLAGS), 0);
    fact(cpu, "RBX", l2->gpr[GPR_RBX], 0x4321);
    fact(cpu, "the host state is loaded: IA32_SYSENTER_CS", x86_rdmsr(MSR_IA32_SYSENTER_CS), 0x58);
    fact_status(cpu, "VMRESUME: the VMCS is still clear", vmx_vmresume(), 5);
    l2_write(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    fact_call(cpu, l2, "VMLAUNCH, mended", 3);
    l2_write(VMCS_GUEST_RFLAGS, 0);
    fact_exit(cpu, l2, "VMRESUME", EXIT_REASON_ENTRY_FAILURE | EXIT_ENTRY_FAILURE_GUEST_STATE);
    fact_status(cpu, "VMLAUNCH: the VMCS is still launched", vmx_vmlaunch(), 4);
    l2_write(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    fact_call(cpu, l2, "VMRESUME, mended", 3);
    // Both wrong: the rules on controls come first, those on guest state last.
    l2_write(VMCS_GUEST_RFLAGS, 0);
    l2_write(VMCS_HOST_TR_SELECTOR, 0);
    fact_status(cpu, "host and guest state wrong", l2_enter(l2), 8);
}
