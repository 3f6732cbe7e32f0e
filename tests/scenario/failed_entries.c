// SPDX-License-Identifier: MIT
// VM entries that fail: error 7 (controls), error 8 (host state), exit reason 33 (guest state) or 34 (MSR
// list); what a failed entry leaves as it was; and that the next entry, with the mistake taken back,
// succeeds. Manual: Checks on VMX Controls and Host-State Area; Checking and Loading Guest State; VM-Entry
// Failures During or After Loading Guest State.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define TOO_WIDE      (1ull << 45)
#define NON_CANONICAL 0x8000000000000000ull
#define KEEP_VALUE    0

enum kind { CONTROLS = 7, HOST = 8, GUEST = 33 };

// One mistake: `set` bits, `clear` bits, or all bits cleared and `set` set.
struct mistake {
    const char *what;
    enum kind kind;
    uint32_t field;
    uint64_t set, clear;
    uint64_t qualification;
    struct {
        uint32_t field;
        uint64_t set, clear;
    } also; // a second field, where the rule is about two
};
#define ALL UINT64_MAX

static const struct mistake mistakes[] = {
    {"reserved pin-based control", CONTROLS, VMCS_PIN_BASED_CONTROLS, 1u << 31, 0, 0, {0}},
    {"pin-based control that must be 1", CONTROLS, VMCS_PIN_BASED_CONTROLS, 0, 1u << 1, 0, {0}},
    {"primary control that must be 1", CONTROLS, VMCS_PRIMARY_CONTROLS, 0, 1u << 1, 0, {0}},
    {"reserved secondary control", CONTROLS, VMCS_SECONDARY_CONTROLS, 1u << 31, 0, 0, {0}},
    {"VM-exit control that must be 1", CONTROLS, VMCS_VM_EXIT_CONTROLS, 0, 1u << 0, 0, {0}},
    {"VM-entry control that must be 1", CONTROLS, VMCS_VM_ENTRY_CONTROLS, 0, 1u << 0, 0, {0}},
    {"entry to SMM", CONTROLS, VMCS_VM_ENTRY_CONTROLS, ENTRY_TO_SMM, 0, 0, {0}},
    {"CR3-target count", CONTROLS, VMCS_CR3_TARGET_COUNT, 5, ALL, 0, {0}},
    {"I/O bitmap A not aligned",
     CONTROLS,
     VMCS_IO_BITMAP_A,
     0x1001,
     ALL,
     0,
     {VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS, 0}},
    {"I/O bitmap B too wide",
     CONTROLS,
     VMCS_IO_BITMAP_B,
     TOO_WIDE,
     ALL,
     0,
     {VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS, 0}},
    {"MSR bitmap not aligned", CONTROLS, VMCS_MSR_BITMAP, 0x800, ALL, 0, {0}},
    {"MSR bitmap too wide", CONTROLS, VMCS_MSR_BITMAP, TOO_WIDE, ALL, 0, {0}},
    {"virtual NMIs without NMI exiting",
     CONTROLS,
     VMCS_PIN_BASED_CONTROLS,
     PIN_VIRTUAL_NMIS,
     PIN_NMI_EXITING,
     0,
     {0}},
    {"NMI window without virtual NMIs",
     CONTROLS,
     VMCS_PRIMARY_CONTROLS,
     PRIMARY_NMI_WINDOW_EXITING,
     0,
     0,
     {0}},
    {"VPID 0", CONTROLS, VMCS_VPID, 0, ALL, 0, {VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VPID, 0}},
    {"EPTP memory type", CONTROLS, VMCS_EPT_POINTER, 3, 7, 0, {0}},
    {"EPTP walk length", CONTROLS, VMCS_EPT_POINTER, 2 << 3, 7 << 3, 0, {0}},
    {"EPTP reserved bits", CONTROLS, VMCS_EPT_POINTER, 1 << 8, 0, 0, {0}},
    {"EPTP too wide", CONTROLS, VMCS_EPT_POINTER, TOO_WIDE, 0, 0, {0}},
    {"unrestricted guest without EPT",
     CONTROLS,
     VMCS_SECONDARY_CONTROLS,
     SECONDARY_UNRESTRICTED_GUEST,
     SECONDARY_ENABLE_EPT,
     0,
     {0}},
    {"timer saved, not active", CONTROLS, VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_PREEMPTION_TIMER, 0, 0, {0}},
    {"exit MSR-store area not aligned",
     CONTROLS,
     VMCS_VM_EXIT_MSR_STORE_ADDRESS,
     8,
     ALL,
     0,
     {VMCS_VM_EXIT_MSR_STORE_COUNT, 1, ALL}},
    {"exit MSR-load area too wide",
     CONTROLS,
     VMCS_VM_EXIT_MSR_LOAD_ADDRESS,
     TOO_WIDE,
     ALL,
     0,
     {VMCS_VM_EXIT_MSR_LOAD_COUNT, 1, ALL}},
    {"entry MSR-load area not aligned",
     CONTROLS,
     VMCS_VM_ENTRY_MSR_LOAD_ADDRESS,
     4,
     ALL,
     0,
     {VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1, ALL}},
    {"injection of type 1", CONTROLS, VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000120, ALL, 0, {0}},
    {"injection of NMI 3", CONTROLS, VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000203, ALL, 0, {0}},
    {"injection of exception 32", CONTROLS, VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000320, ALL, 0, {0}},
    {"#GP without error code", CONTROLS, VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x8000030d, ALL, 0, {0}},
    {"#UD with error code", CONTROLS, VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000b06, ALL, 0, {0}},
    {"injection with reserved bits", CONTROLS, VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80001306, ALL, 0, {0}},
    {"error code with reserved bits",
     CONTROLS,
     VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE,
     0x10000,
     ALL,
     0,
     {VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000b0d, ALL}},
    {"INT n of 16 bytes",
     CONTROLS,
     VMCS_VM_ENTRY_INSTRUCTION_LENGTH,
     16,
     ALL,
     0,
     {VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000480, ALL}},

    {"host CR0.PG", HOST, VMCS_HOST_CR0, 0, CR0_PG, 0, {0}},
    {"host CR0.NE", HOST, VMCS_HOST_CR0, 0, CR0_NE, 0, {0}},
    {"host CR4.VMXE", HOST, VMCS_HOST_CR4, 0, CR4_VMXE, 0, {0}},
    {"host CR4 reserved", HOST, VMCS_HOST_CR4, 1ull << 40, 0, 0, {0}},
    {"host CR4.PAE", HOST, VMCS_HOST_CR4, 0, CR4_PAE, 0, {0}},
    {"host CR3 too wide", HOST, VMCS_HOST_CR3, TOO_WIDE, 0, 0, {0}},
    {"host SYSENTER_ESP", HOST, VMCS_HOST_SYSENTER_ESP, NON_CANONICAL, ALL, 0, {0}},
    {"host SYSENTER_EIP", HOST, VMCS_HOST_SYSENTER_EIP, NON_CANONICAL, ALL, 0, {0}},
    {"host PAT type", HOST, VMCS_HOST_IA32_PAT, 2, 7, 0, {0}},
    {"host EFER reserved", HOST, VMCS_HOST_IA32_EFER, 2, 0, 0, {0}},
    {"host EFER.LMA", HOST, VMCS_HOST_IA32_EFER, 0, EFER_LMA, 0, {0}},
    {"host EFER.LME", HOST, VMCS_HOST_IA32_EFER, 0, EFER_LME, 0, {0}},
    {"host CS RPL", HOST, VMCS_HOST_CS_SELECTOR, 3, 0, 0, {0}},
    {"host DS in LDT", HOST, VMCS_HOST_DS_SELECTOR, 4, 0, 0, {0}},
    {"host CS 0", HOST, VMCS_HOST_CS_SELECTOR, 0, ALL, 0, {0}},
    {"host TR 0", HOST, VMCS_HOST_TR_SELECTOR, 0, ALL, 0, {0}},
    {"host FS base", HOST, VMCS_HOST_FS_BASE, NON_CANONICAL, ALL, 0, {0}},
    {"host GS base", HOST, VMCS_HOST_GS_BASE, NON_CANONICAL, ALL, 0, {0}},
    {"host TR base", HOST, VMCS_HOST_TR_BASE, NON_CANONICAL, ALL, 0, {0}},
    {"host GDTR base", HOST, VMCS_HOST_GDTR_BASE, NON_CANONICAL, ALL, 0, {0}},
    {"host IDTR base", HOST, VMCS_HOST_IDTR_BASE, NON_CANONICAL, ALL, 0, {0}},
    {"host RIP", HOST, VMCS_HOST_RIP, NON_CANONICAL, ALL, 0, {0}},
    {"32-bit host of a 64-bit L1", HOST, VMCS_VM_EXIT_CONTROLS, 0, EXIT_HOST_ADDRESS_SPACE_SIZE, 0, {0}},

    {"guest CR0.NE", GUEST, VMCS_GUEST_CR0, 0, CR0_NE, 0, {0}},
    {"guest CR0.PE", GUEST, VMCS_GUEST_CR0, 0, CR0_PE, 0, {0}},
    {"guest CR4.VMXE", GUEST, VMCS_GUEST_CR4, 0, CR4_VMXE, 0, {0}},
    {"guest CR4.PAE", GUEST, VMCS_GUEST_CR4, 0, CR4_PAE, 0, {0}},
    {"guest CR4 reserved", GUEST, VMCS_GUEST_CR4, 1ull << 35, 0, 0, {0}},
    {"guest CR3 too wide", GUEST, VMCS_GUEST_CR3, TOO_WIDE, 0, 0, {0}},
    {"guest DR7", GUEST, VMCS_GUEST_DR7, 1ull << 32, 0, 0, {0}},
    {"guest DEBUGCTL", GUEST, VMCS_GUEST_IA32_DEBUGCTL, 1ull << 20, 0, 0, {0}},
    {"guest SYSENTER_ESP", GUEST, VMCS_GUEST_SYSENTER_ESP, NON_CANONICAL, ALL, 0, {0}},
    {"guest PAT type", GUEST, VMCS_GUEST_IA32_PAT, 3, 7, 0, {0}},
    {"guest EFER.LMA", GUEST, VMCS_GUEST_IA32_EFER, 0, EFER_LMA, 0, {0}},
    {"guest EFER.LME", GUEST, VMCS_GUEST_IA32_EFER, 0, EFER_LME, 0, {0}},
    {"guest EFER reserved", GUEST, VMCS_GUEST_IA32_EFER, 4, 0, 0, {0}},
    {"virtual-8086 mode in IA-32e mode", GUEST, VMCS_GUEST_RFLAGS, RFLAGS_VM, 0, 0, {0}},
    {"RFLAGS bit 1", GUEST, VMCS_GUEST_RFLAGS, 0, RFLAGS_FIXED, 0, {0}},
    {"RFLAGS reserved", GUEST, VMCS_GUEST_RFLAGS, 1ull << 40, 0, 0, {0}},
    {"TR in LDT", GUEST, VMCS_GUEST_TR_SELECTOR, 4, 0, 0, {0}},
    {"SS RPL differs from CS", GUEST, VMCS_GUEST_SS_SELECTOR, 3, 0, 0, {0}},
    {"TR base", GUEST, VMCS_GUEST_TR_BASE, NON_CANONICAL, ALL, 0, {0}},
    {"GS base", GUEST, VMCS_GUEST_GS_BASE, NON_CANONICAL, ALL, 0, {0}},
    {"CS base above 4G", GUEST, VMCS_GUEST_CS_BASE, 1ull << 32, ALL, 0, {0}},
    {"DS base above 4G", GUEST, VMCS_GUEST_DS_BASE, 1ull << 32, ALL, 0, {0}},
    {"CS type", GUEST, VMCS_GUEST_CS_ACCESS_RIGHTS, 0, 1, 0, {0}},
    {"CS not present", GUEST, VMCS_GUEST_CS_ACCESS_RIGHTS, 0, SEGMENT_PRESENT, 0, {0}},
    {"CS system segment", GUEST, VMCS_GUEST_CS_ACCESS_RIGHTS, 0, SEGMENT_S, 0, {0}},
    {"CS.L and CS.D", GUEST, VMCS_GUEST_CS_ACCESS_RIGHTS, SEGMENT_DB, 0, 0, {0}},
    {"CS DPL", GUEST, VMCS_GUEST_CS_ACCESS_RIGHTS, 3 << 5, 0, 0, {0}},
    {"CS reserved", GUEST, VMCS_GUEST_CS_ACCESS_RIGHTS, 1 << 9, 0, 0, {0}},
    {"CS limit and granularity", GUEST, VMCS_GUEST_CS_LIMIT, 0xfffff000, ALL, 0, {0}},
    {"SS type", GUEST, VMCS_GUEST_SS_ACCESS_RIGHTS, 0, 2, 0, {0}},
    {"SS DPL", GUEST, VMCS_GUEST_SS_ACCESS_RIGHTS, 3 << 5, 0, 0, {0}},
    {"DS not accessed", GUEST, VMCS_GUEST_DS_ACCESS_RIGHTS, 0, 1, 0, {0}},
    {"ES not present", GUEST, VMCS_GUEST_ES_ACCESS_RIGHTS, 0, SEGMENT_PRESENT, 0, {0}},
    {"FS reserved", GUEST, VMCS_GUEST_FS_ACCESS_RIGHTS, 1 << 20, 0, 0, {0}},
    {"GS limit and granularity", GUEST, VMCS_GUEST_GS_ACCESS_RIGHTS, 0, SEGMENT_G, 0, {0}},
    {"TR available", GUEST, VMCS_GUEST_TR_ACCESS_RIGHTS, 0, 2, 0, {0}},
    {"TR unusable", GUEST, VMCS_GUEST_TR_ACCESS_RIGHTS, SEGMENT_UNUSABLE, 0, 0, {0}},
    {"LDTR type", GUEST, VMCS_GUEST_LDTR_ACCESS_RIGHTS, 0x83, ALL, 0, {0}},
    {"GDTR base", GUEST, VMCS_GUEST_GDTR_BASE, NON_CANONICAL, ALL, 0, {0}},
    {"IDTR limit", GUEST, VMCS_GUEST_IDTR_LIMIT, 0x10000, 0, 0, {0}},
    {"RIP", GUEST, VMCS_GUEST_RIP, NON_CANONICAL, ALL, 0, {0}},
    {"activity state 4", GUEST, VMCS_GUEST_ACTIVITY_STATE, 4, ALL, 0, {0}},
    {"HLT with blocking by STI",
     GUEST,
     VMCS_GUEST_ACTIVITY_STATE,
     1,
     ALL,
     0,
     {VMCS_GUEST_INTERRUPTIBILITY, 1, ALL}},
    {"STI and MOV SS", GUEST, VMCS_GUEST_INTERRUPTIBILITY, 3, ALL, 0, {VMCS_GUEST_RFLAGS, RFLAGS_IF, 0}},
    {"STI without IF", GUEST, VMCS_GUEST_INTERRUPTIBILITY, 1, ALL, 0, {0}},
    {"blocking by SMI", GUEST, VMCS_GUEST_INTERRUPTIBILITY, 4, ALL, 0, {0}},
    {"interruptibility reserved", GUEST, VMCS_GUEST_INTERRUPTIBILITY, 1 << 8, ALL, 0, {0}},
    {"interrupt without IF", GUEST, VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000033, ALL, 0, {0}},
    {"NMI with blocking by MOV SS",
     GUEST,
     VMCS_VM_ENTRY_INTERRUPTION_INFO,
     0x80000202,
     ALL,
     0,
     {VMCS_GUEST_INTERRUPTIBILITY, 2, ALL}},
    {"pending debug reserved", GUEST, VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 5, ALL, 0, {0}},
    {"link pointer not aligned", GUEST, VMCS_VMCS_LINK_POINTER, 0x1008, ALL, 4, {0}},
    {"link pointer too wide", GUEST, VMCS_VMCS_LINK_POINTER, TOO_WIDE, ALL, 4, {0}},
    {"link pointer without revision", GUEST, VMCS_VMCS_LINK_POINTER, L1_SCRATCH + 0x1000, ALL, 4, {0}},
};
#define MISTAKE_COUNT (sizeof(mistakes) / sizeof(mistakes[0]))

static void change(uint32_t field, uint64_t set, uint64_t clear)
{
    l1_vmwrite(field, (l1_vmread(field) & ~clear) | set);
}

static void expect_mistake(const struct mistake *m, bool launched)
{
    struct outcome outcome = launched ? try_vmresume() : try_vmlaunch();
    bool as_expected = m->kind == GUEST ? outcome.how == EXITED : outcome.how == COMPLETED && outcome.zf;
    if (!as_expected)
        fail_msg("%s: the VM entry %s, CF=%d ZF=%d", m->what, how_name(outcome.how), outcome.cf, outcome.zf);
    if (m->kind == GUEST) {
        if (l1_vmread(VMCS_EXIT_REASON) != (EXIT_REASON_ENTRY_FAILURE | 33))
            fail_msg("%s: exit reason %#llx", m->what, (unsigned long long)l1_vmread(VMCS_EXIT_REASON));
        if (l1_vmread(VMCS_EXIT_QUALIFICATION) != m->qualification)
            fail_msg("%s: qualification %llu", m->what,
                     (unsigned long long)l1_vmread(VMCS_EXIT_QUALIFICATION));
        return;
    }
    uint64_t error = l1_vmread(VMCS_VM_INSTRUCTION_ERROR);
    if (error != (uint64_t)m->kind)
        fail_msg("%s: error %llu", m->what, (unsigned long long)error);
}

// Both a launch and a resume with each mistake; in between the same VMCS without it.
static void each_mistake(void)
{
    L2_PROGRAM(l2, CPUID(1));
    l1_prepare(&l2);
    l1_vmwrite(VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, 0);
    l1_vmwrite(VMCS_VM_ENTRY_INSTRUCTION_LENGTH, 1);
    l1_vmwrite(VMCS_IO_BITMAP_A, IO_BITMAPS);
    l1_vmwrite(VMCS_IO_BITMAP_B, IO_BITMAPS + 0x1000);
    l1_vmwrite(VMCS_VM_EXIT_MSR_STORE_ADDRESS, MSR_LISTS);
    l1_vmwrite(VMCS_VM_EXIT_MSR_LOAD_ADDRESS, MSR_LISTS);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, MSR_LISTS);
    bool has_vpid = nvmx_caps_allowed1(&world_l1_processor()->vmx, CAPS_SECONDARY) & SECONDARY_ENABLE_VPID;
    if (has_vpid)
        l1_vmwrite(VMCS_VPID, 1);
    bool launched = false;
    for (unsigned i = 0; i < MISTAKE_COUNT; i++) {
        const struct mistake *m = &mistakes[i];
        if (m->field == VMCS_VPID && !has_vpid)
            continue;
        uint64_t before = l1_vmread(m->field), also = m->also.field ? l1_vmread(m->also.field) : 0;
        change(m->field, m->set, m->clear);
        if (m->also.field != 0)
            change(m->also.field, m->also.set, m->also.clear);
        expect_mistake(m, launched);
        l1_vmwrite(m->field, before);
        if (m->also.field != 0)
            l1_vmwrite(m->also.field, also);
        if (i % 3 == 0) {
            if (launched)
                l1_vmresume();
            else
                l1_vmlaunch(); // the failures before it left the launch state "clear"
            launched = true;
            expect_exit(EXIT_CPUID);
            assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
        }
    }
}

// Only the exit reason and the qualification change.
static void a_failed_entry_records_nothing_else(void)
{
    L2_PROGRAM(l2, CPUID(1), VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_UD);
    l1_vmlaunch();
    expect_exit_length(EXIT_CPUID, 2);
    l1_skip_instruction();
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000306);
    l1_vmwrite(VMCS_GUEST_RFLAGS, 0);
    l1_vmwrite(VMCS_GUEST_ES_BASE, 0x5000);
    l1_vmwrite(VMCS_HOST_FS_BASE, 0x333000);
    l1_vmresume();
    expect_entry_failure(33, 0);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 2); // of the exit before
    assert_int_equal(l1_vmread(VMCS_VM_ENTRY_INTERRUPTION_INFO), 0x80000306);
    assert_int_equal(l1_vmread(VMCS_GUEST_RFLAGS), 0);
    assert_int_equal(l1_vmread(VMCS_GUEST_ES_BASE), 0x5000);
    assert_int_equal(l1_rdmsr(MSR_FS_BASE), 0x333000); // host state is loaded
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

// The order of the checks: controls before host state before guest state.
static void the_first_stage_that_fails_is_reported(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_GUEST_RFLAGS, 0);
    l1_vmlaunch();
    expect_entry_failure(33, 0);
    l1_vmwrite(VMCS_HOST_RIP, NON_CANONICAL);
    expect_fail_valid(try_vmlaunch(), 8);
    l1_vmwrite(VMCS_MSR_BITMAP, 1);
    struct outcome outcome = try_vmlaunch();
    assert_true(outcome.zf);
    uint64_t error = l1_vmread(VMCS_VM_INSTRUCTION_ERROR);
    assert_true(error == 7 || error == 8); // the manual lets a processor check these in any order
}

static void launch_state_comes_before_the_checks(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_MSR_BITMAP, 1);
    expect_fail_valid(try_vmresume(), 5);
    expect_fail_valid(try_vmlaunch(), 7);
    l1_vmwrite(VMCS_MSR_BITMAP, MSR_BITMAP);
    l1_vmlaunch();
    l1_vmwrite(VMCS_MSR_BITMAP, 1);
    expect_fail_valid(try_vmlaunch(), 4);
    expect_fail_valid(try_vmresume(), 7);
}

// --- MSR lists

static void put_entry(uint64_t at, uint32_t msr, uint64_t value)
{
    uint64_t entry[2] = {msr, value};
    memcpy(l1_memory(at), entry, sizeof(entry));
}

static uint64_t entry_value(uint64_t at)
{
    uint64_t value;
    memcpy(&value, (const uint8_t *)l1_memory(at) + 8, 8);
    return value;
}

static void msr_lists_load_and_store(void)
{
    L2_PROGRAM(l2, RDMSR(0xc0000102), WRMSR(0xc0000102, 0x3000), VMCALL);
    l1_prepare(&l2);
    l1_wrmsr(0xc0000102, 0x1000);
    put_entry(MSR_LISTS, 0xc0000102, 0x2000);         // IA32_KERNEL_GS_BASE
    put_entry(MSR_LISTS + 0x400, 0xc0000102, 0);      //
    put_entry(MSR_LISTS + 0x410, MSR_IA32_EFER, 0);   //
    put_entry(MSR_LISTS + 0x800, 0xc0000102, 0x1000); //
    put_entry(MSR_LISTS + 0x810, 0xc0000081, 0x5000); // IA32_STAR
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, MSR_LISTS);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1);
    l1_vmwrite(VMCS_VM_EXIT_MSR_STORE_ADDRESS, MSR_LISTS + 0x400);
    l1_vmwrite(VMCS_VM_EXIT_MSR_STORE_COUNT, 2);
    l1_vmwrite(VMCS_VM_EXIT_MSR_LOAD_ADDRESS, MSR_LISTS + 0x800);
    l1_vmwrite(VMCS_VM_EXIT_MSR_LOAD_COUNT, 2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(entry_value(MSR_LISTS + 0x400), 0x3000);
    assert_int_equal(entry_value(MSR_LISTS + 0x410), EFER_LME | EFER_LMA | EFER_NXE); // L2's
    assert_int_equal(l1_rdmsr(0xc0000102), 0x1000);
    assert_int_equal(l1_rdmsr(0xc0000081), 0x5000);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

// Every kind of MSR that the processor itself looks at.
static void msr_lists_of_special_msrs(void)
{
    static const struct {
        uint32_t msr;
        uint64_t value;
    } list[] = {
        {MSR_IA32_PAT, 0x0007040600070400},
        {MSR_IA32_SYSENTER_CS, 0x30},
        {MSR_IA32_SYSENTER_ESP, 0x1000},
        {MSR_IA32_SYSENTER_EIP, 0x2000},
        {MSR_IA32_DEBUGCTL, 1},
        {MSR_IA32_EFER, EFER_SCE | EFER_LME | EFER_LMA},
        {0xc0000081, 0x1122334455667788},
        {0xc0000082, 0x3000},
        {0xc0000084, 0x47700},
    };
    enum { COUNT = sizeof(list) / sizeof(list[0]) };
    L2_PROGRAM(l2, RDMSR(MSR_IA32_PAT), RDMSR(MSR_IA32_SYSENTER_CS), RDMSR(MSR_IA32_SYSENTER_ESP),
               RDMSR(MSR_IA32_SYSENTER_EIP), RDMSR(MSR_IA32_DEBUGCTL), RDMSR(0xc0000081), RDMSR(0xc0000082),
               VMCALL);
    l1_prepare(&l2);
    for (unsigned i = 0; i < COUNT; i++) {
        put_entry(MSR_LISTS + 16 * i, list[i].msr, list[i].value);
        put_entry(MSR_LISTS + 0x400 + 16 * i, list[i].msr, 0);
    }
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, MSR_LISTS);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, COUNT);
    l1_vmwrite(VMCS_VM_EXIT_MSR_STORE_ADDRESS, MSR_LISTS + 0x400);
    l1_vmwrite(VMCS_VM_EXIT_MSR_STORE_COUNT, COUNT);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(entry_value(MSR_LISTS + 0x400 + 16 * i), list[i].value);
    assert_int_equal(l1_rdmsr(MSR_IA32_PAT), l1_vmread(VMCS_HOST_IA32_PAT));
    // a value that the MSR does not take
    static const struct {
        unsigned index;
        uint64_t value;
    } bad[] = {
        {0, 0x0002040600070400}, {2, NON_CANONICAL},         {3, NON_CANONICAL}, {4, 1 << 4},
        {5, EFER_SCE},           {5, EFER_LME | 1ull << 20},
    };
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        unsigned index = bad[i].index;
        put_entry(MSR_LISTS + 16 * index, list[index].msr, bad[i].value);
        l1_vmresume();
        expect_entry_failure(34, index + 1);
        put_entry(MSR_LISTS + 16 * index, list[index].msr, list[index].value);
    }
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

// No MSR-load list may name these two; a store list may, and finds them where L2 has them.
static void an_msr_list_stores_segment_bases(void)
{
    L2_PROGRAM(l2, WRMSR(MSR_FS_BASE, 0x123000), WRMSR(MSR_GS_BASE, 0x456000), VMCALL);
    l1_prepare(&l2);
    put_entry(MSR_LISTS + 0x400, MSR_FS_BASE, 0);
    put_entry(MSR_LISTS + 0x410, MSR_GS_BASE, 0);
    l1_vmwrite(VMCS_VM_EXIT_MSR_STORE_ADDRESS, MSR_LISTS + 0x400);
    l1_vmwrite(VMCS_VM_EXIT_MSR_STORE_COUNT, 2);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(entry_value(MSR_LISTS + 0x400), 0x123000);
    assert_int_equal(entry_value(MSR_LISTS + 0x410), 0x456000);
}

// VMX Aborts: the exit cannot be completed, and the virtual processor shuts down.
static void expect_abort(uint32_t indicator)
{
    struct outcome outcome = try_vmlaunch();
    assert_int_equal(outcome.how, IDLE);
    uint32_t seen;
    memcpy(&seen, (const uint8_t *)l1_memory(VMCS_A) + 4, 4);
    assert_int_equal(seen, indicator);
    cpu_nmi(l1_cpu()); // nothing wakes it
    assert_int_equal(l1_continue().how, IDLE);
}

static void saving_msrs_may_abort(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    put_entry(MSR_LISTS, 0x999, 0);
    l1_vmwrite(VMCS_VM_EXIT_MSR_STORE_ADDRESS, MSR_LISTS);
    l1_vmwrite(VMCS_VM_EXIT_MSR_STORE_COUNT, 1);
    expect_abort(1);
}

static void loading_msrs_may_abort(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    put_entry(MSR_LISTS, MSR_IA32_PAT, 0x3);
    l1_vmwrite(VMCS_VM_EXIT_MSR_LOAD_ADDRESS, MSR_LISTS);
    l1_vmwrite(VMCS_VM_EXIT_MSR_LOAD_COUNT, 1);
    expect_abort(4);
}

static void an_msr_list_that_cannot_be_loaded_fails_the_entry(void)
{
    static const struct {
        uint32_t msr;
        uint32_t reserved;
        uint64_t value;
    } bad[] = {
        {MSR_FS_BASE, 0, 0},     {MSR_GS_BASE, 0, 0}, {0x808, 0, 0},        {0xc0000082, 0, NON_CANONICAL},
        {0xc0000102, 1, 0x1000}, {0x999, 0, 0},       {MSR_IA32_PAT, 0, 2}, {MSR_IA32_VMX_BASIC, 0, 0},
    };
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, MSR_LISTS);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 3);
    put_entry(MSR_LISTS, 0xc0000102, 0x7000);
    put_entry(MSR_LISTS + 32, 0xc0000102, 0x8000);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        put_entry(MSR_LISTS + 16, bad[i].msr, bad[i].value);
        memcpy((uint8_t *)l1_memory(MSR_LISTS + 16) + 4, &bad[i].reserved, 4);
        l1_vmlaunch();
        expect_entry_failure(34, 2); // the second entry
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code);
        assert_int_equal(l1_vmread(VMCS_GUEST_CS_ACCESS_RIGHTS), 0xa09b);
    }
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_rdmsr(0xc0000102), 0x7000);
}

static const struct CMUnitTest tests[] = {
    BOTH(each_mistake),
    BOTH_WITH(each_mistake, ", without VPID", .processor = &processor_no_vpid),
    BOTH(a_failed_entry_records_nothing_else),
    BOTH_APART(the_first_stage_that_fails_is_reported),
    BOTH(launch_state_comes_before_the_checks),
    BOTH(msr_lists_load_and_store),
    BOTH(msr_lists_of_special_msrs),
    BOTH(an_msr_list_stores_segment_bases),
    BOTH(saving_msrs_may_abort),
    BOTH(loading_msrs_may_abort),
    BOTH(an_msr_list_that_cannot_be_loaded_fails_the_entry),
};

int main(void)
{
    return cmocka_run_group_tests_name("failed entries", tests, NULL, NULL);
}
