// SPDX-License-Identifier: MIT
#include "l1_vmx.h"
#include "world_internal.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void put_scratch(unsigned index, uint64_t value)
{
    memcpy(l1_memory(L1_SCRATCH + 64 * l1_vcpu() + 8 * index), &value, 8);
}

static uint64_t scratch(void)
{
    return L1_SCRATCH + 64 * l1_vcpu();
}

// --- expectations

static void expect_completed(struct outcome outcome)
{
    if (outcome.how != COMPLETED)
        fail_msg("the instruction %s (vector %u, error code %#x)", how_name(outcome.how), outcome.vector,
                 outcome.error_code);
}

void expect_succeed(struct outcome outcome)
{
    expect_completed(outcome);
    if (outcome.cf)
        fail_msg("VMfailInvalid, and not VMsucceed");
    if (outcome.zf)
        fail_msg("VMfailValid %llu, and not VMsucceed",
                 (unsigned long long)l1_vmread(VMCS_VM_INSTRUCTION_ERROR));
}

void expect_fail_invalid(struct outcome outcome)
{
    expect_completed(outcome);
    if (!outcome.cf || outcome.zf)
        fail_msg("not VMfailInvalid: CF=%d ZF=%d", outcome.cf, outcome.zf);
}

void expect_fail_valid(struct outcome outcome, uint32_t error)
{
    expect_completed(outcome);
    if (outcome.cf || !outcome.zf)
        fail_msg("not VMfailValid %u: CF=%d ZF=%d", error, outcome.cf, outcome.zf);
    assert_int_equal(l1_vmread(VMCS_VM_INSTRUCTION_ERROR), error);
}

void expect_exception(struct outcome outcome, uint8_t vector)
{
    if (outcome.how != EXCEPTION)
        fail_msg("no exception %u: the instruction %s", vector, how_name(outcome.how));
    assert_int_equal(outcome.vector, vector);
}

void expect_exception_with_code(struct outcome outcome, uint8_t vector, uint32_t error_code)
{
    expect_exception(outcome, vector);
    assert_int_equal(outcome.error_code, error_code);
}

static void fail_exit(uint32_t wanted, uint64_t seen)
{
    const char *why = machine_entry_failure(world_machine());
    fail_msg("the exit reason is %s (%#llx), not %s; qualification %#llx, guest RIP %#llx%s%s",
             nvmx_exit_name((uint32_t)seen & 0xffff), (unsigned long long)seen, nvmx_exit_name(wanted),
             (unsigned long long)l1_vmread(VMCS_EXIT_QUALIFICATION),
             (unsigned long long)l1_vmread(VMCS_GUEST_RIP), why ? "; the processor's last refusal: " : "",
             why ? why : "");
}

void expect_exit(uint32_t reason)
{
    uint64_t seen = l1_vmread(VMCS_EXIT_REASON);
    if (seen != reason)
        fail_exit(reason, seen);
}

void expect_exit_qualification(uint32_t reason, uint64_t qualification)
{
    expect_exit(reason);
    assert_int_equal(l1_vmread(VMCS_EXIT_QUALIFICATION), qualification);
}

void expect_exit_length(uint32_t reason, uint32_t length)
{
    expect_exit(reason);
    assert_int_equal(l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH), length);
}

void expect_entry_failure(uint32_t reason, uint64_t qualification)
{
    uint64_t seen = l1_vmread(VMCS_EXIT_REASON);
    if (seen != (reason | EXIT_REASON_ENTRY_FAILURE))
        fail_exit(reason, seen);
    assert_int_equal(l1_vmread(VMCS_EXIT_QUALIFICATION), qualification);
}

// --- instructions

uint64_t l1_rdmsr(uint32_t msr)
{
    l1_run(RDMSR(msr));
    return (uint32_t)l1_gpr(GPR_RAX) | l1_gpr(GPR_RDX) << 32;
}

void l1_wrmsr(uint32_t msr, uint64_t value)
{
    l1_run(WRMSR(msr, value));
}

struct outcome try_vmxon(uint64_t region)
{
    put_scratch(0, region);
    return l1_execute(VMXON((int64_t)scratch()));
}

struct outcome try_vmclear(uint64_t region)
{
    put_scratch(0, region);
    return l1_execute(VMCLEAR((int64_t)scratch()));
}

struct outcome try_vmptrld(uint64_t region)
{
    put_scratch(0, region);
    return l1_execute(VMPTRLD((int64_t)scratch()));
}

struct outcome try_vmread(uint32_t encoding, uint64_t *value)
{
    struct outcome outcome = l1_execute(VMREAD(GPR_RAX, encoding));
    *value = l1_gpr(GPR_RAX);
    return outcome;
}

struct outcome try_vmwrite(uint32_t encoding, uint64_t value)
{
    return l1_execute(VMWRITE(encoding, value));
}

struct outcome try_invept(uint64_t type, uint64_t eptp, uint64_t high)
{
    put_scratch(0, eptp);
    put_scratch(1, high);
    return l1_execute(INVEPT(type, (int64_t)scratch()));
}

struct outcome try_invvpid(uint64_t type, uint64_t vpid, uint64_t linear)
{
    put_scratch(0, vpid);
    put_scratch(1, linear);
    return l1_execute(INVVPID(type, (int64_t)scratch()));
}

struct outcome try_vmlaunch(void)
{
    return l1_execute(VMLAUNCH);
}

struct outcome try_vmresume(void)
{
    return l1_execute(VMRESUME);
}

void l1_vmxon(uint64_t region)
{
    expect_succeed(try_vmxon(region));
}

void l1_vmxoff(void)
{
    expect_succeed(l1_execute(VMXOFF));
}

void l1_vmclear(uint64_t region)
{
    expect_succeed(try_vmclear(region));
}

void l1_vmptrld(uint64_t region)
{
    expect_succeed(try_vmptrld(region));
}

uint64_t l1_vmptrst(void)
{
    uint64_t value;
    expect_succeed(l1_execute(VMPTRST((int64_t)scratch())));
    memcpy(&value, l1_memory(scratch()), 8);
    return value;
}

uint64_t l1_vmread(uint32_t encoding)
{
    uint64_t value;
    struct outcome outcome = try_vmread(encoding, &value);
    if (outcome.how != COMPLETED || outcome.cf || outcome.zf)
        fail_msg("VMREAD of field %#x: %s, CF=%d ZF=%d", encoding, how_name(outcome.how), outcome.cf,
                 outcome.zf);
    return value;
}

uint64_t l1_vmread_masked(uint32_t encoding, uint64_t mask)
{
    uint64_t value = l1_vmread(encoding) & mask;
    l1_set_gpr(GPR_RAX, value);
    return value;
}

uint32_t l1_vmread_event(uint32_t encoding)
{
    uint64_t value = l1_vmread(encoding);
    if (!(value & INTERRUPTION_VALID))
        value = 0;
    l1_set_gpr(GPR_RAX, value);
    return (uint32_t)value;
}

void l1_vmwrite(uint32_t encoding, uint64_t value)
{
    struct outcome outcome = try_vmwrite(encoding, value);
    if (outcome.how != COMPLETED || outcome.cf || outcome.zf)
        fail_msg("VMWRITE of field %#x: %s, CF=%d ZF=%d", encoding, how_name(outcome.how), outcome.cf,
                 outcome.zf);
}

void l1_set(uint32_t encoding, uint64_t bits)
{
    l1_vmwrite(encoding, l1_vmread(encoding) | bits);
}

void l1_clear(uint32_t encoding, uint64_t bits)
{
    l1_vmwrite(encoding, l1_vmread(encoding) & ~bits);
}

void l1_invept(uint64_t type, uint64_t eptp)
{
    expect_succeed(try_invept(type, eptp, 0));
}

void l1_invvpid(uint64_t type, uint64_t vpid, uint64_t linear)
{
    expect_succeed(try_invvpid(type, vpid, linear));
}

static void expect_entered(struct outcome outcome)
{
    if (outcome.how == EXITED)
        return;
    if (outcome.how == COMPLETED && outcome.zf) {
        const char *why = machine_entry_failure(world_machine());
        fail_msg("the VM entry: VMfailValid %llu; the processor's last refusal: %s; L0's log: %s",
                 (unsigned long long)l1_vmread(VMCS_VM_INSTRUCTION_ERROR), why ? why : "none", l0_last_log());
    }
    fail_msg("the VM entry %s, CF=%d", how_name(outcome.how), outcome.cf);
}

void l1_vmlaunch(void)
{
    expect_entered(try_vmlaunch());
}

void l1_vmresume(void)
{
    expect_entered(try_vmresume());
}

void l1_skip_instruction(void)
{
    uint64_t rip = l1_vmread(VMCS_GUEST_RIP);
    l1_vmwrite(VMCS_GUEST_RIP, rip + l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH));
}

void l1_resume_behind(void)
{
    l1_skip_instruction();
    l1_vmresume();
}

void l1_resume_at(uint64_t rip)
{
    l1_vmwrite(VMCS_GUEST_RIP, rip);
    l1_vmresume();
}

// --- preparation

void l1_make_region(uint64_t region)
{
    uint32_t revision = (uint32_t)l1_rdmsr(MSR_IA32_VMX_BASIC) & 0x7fffffff;
    memset(l1_memory(region), 0, PAGE_SIZE);
    memcpy(l1_memory(region), &revision, 4);
}

void l1_enter_vmx_operation(void)
{
    l1_run(MOV_FROM_CR(GPR_RAX, 4));
    l1_run(MOV_TO_CR(4, l1_gpr(GPR_RAX) | CR4_VMXE));
    l1_make_region(VMXON_REGION);
    l1_vmxon(VMXON_REGION);
}

// The least that the capability MSR demands, and `wanted` of what it permits.
static uint32_t controls(uint32_t true_msr, uint32_t plain_msr, uint32_t wanted)
{
    bool has_true = l1_rdmsr(MSR_IA32_VMX_BASIC) >> 55 & 1;
    uint64_t capability = l1_rdmsr(has_true ? true_msr : plain_msr);
    return ((uint32_t)capability | wanted) & (uint32_t)(capability >> 32);
}

static void write_controls(const struct l2 *l2)
{
    uint32_t secondary =
        (l2->without_ept ? 0 : SECONDARY_ENABLE_EPT) | (l2->vpid ? SECONDARY_ENABLE_VPID : 0);
    l1_vmwrite(VMCS_PIN_BASED_CONTROLS,
               controls(MSR_IA32_VMX_TRUE_PINBASED_CTLS, MSR_IA32_VMX_PINBASED_CTLS, 0));
    l1_vmwrite(VMCS_PRIMARY_CONTROLS,
               controls(MSR_IA32_VMX_TRUE_PROCBASED_CTLS, MSR_IA32_VMX_PROCBASED_CTLS,
                        PRIMARY_USE_MSR_BITMAPS | (secondary ? PRIMARY_ACTIVATE_SECONDARY : 0)));
    if (secondary)
        l1_vmwrite(VMCS_SECONDARY_CONTROLS, secondary);
    l1_vmwrite(VMCS_VM_EXIT_CONTROLS,
               controls(MSR_IA32_VMX_TRUE_EXIT_CTLS, MSR_IA32_VMX_EXIT_CTLS,
                        EXIT_HOST_ADDRESS_SPACE_SIZE | EXIT_SAVE_EFER | EXIT_LOAD_EFER | EXIT_SAVE_PAT |
                            EXIT_LOAD_PAT | EXIT_SAVE_DEBUG_CONTROLS));
    l1_vmwrite(VMCS_VM_ENTRY_CONTROLS, controls(MSR_IA32_VMX_TRUE_ENTRY_CTLS, MSR_IA32_VMX_ENTRY_CTLS,
                                                ENTRY_IA32E_MODE_GUEST | ENTRY_LOAD_EFER | ENTRY_LOAD_PAT |
                                                    ENTRY_LOAD_DEBUG_CONTROLS));
    static const uint32_t zero[] = {
        VMCS_EXCEPTION_BITMAP,
        VMCS_PAGE_FAULT_ERROR_CODE_MASK,
        VMCS_PAGE_FAULT_ERROR_CODE_MATCH,
        VMCS_CR3_TARGET_COUNT,
        VMCS_VM_EXIT_MSR_STORE_COUNT,
        VMCS_VM_EXIT_MSR_LOAD_COUNT,
        VMCS_VM_ENTRY_MSR_LOAD_COUNT,
        VMCS_VM_ENTRY_INTERRUPTION_INFO,
        VMCS_CR0_GUEST_HOST_MASK,
        VMCS_CR4_GUEST_HOST_MASK,
        VMCS_CR0_READ_SHADOW,
        VMCS_CR4_READ_SHADOW,
        VMCS_TSC_OFFSET,
    };
    for (unsigned i = 0; i < sizeof(zero) / sizeof(zero[0]); i++)
        l1_vmwrite(zero[i], 0);
    memset(l1_memory(MSR_BITMAP), 0, PAGE_SIZE);
    l1_vmwrite(VMCS_MSR_BITMAP, MSR_BITMAP);
    if (!l2->without_ept)
        l1_vmwrite(VMCS_EPT_POINTER, l2->eptp);
    if (l2->vpid)
        l1_vmwrite(VMCS_VPID, l2->vpid);
}

static void write_host_state(void)
{
    l1_run(MOV_FROM_CR(GPR_RAX, 0));
    l1_vmwrite(VMCS_HOST_CR0, l1_gpr(GPR_RAX));
    l1_run(MOV_FROM_CR(GPR_RAX, 3));
    l1_vmwrite(VMCS_HOST_CR3, l1_gpr(GPR_RAX));
    l1_run(MOV_FROM_CR(GPR_RAX, 4));
    l1_vmwrite(VMCS_HOST_CR4, l1_gpr(GPR_RAX));
    l1_vmwrite(VMCS_HOST_IA32_EFER, l1_rdmsr(MSR_IA32_EFER));
    l1_vmwrite(VMCS_HOST_IA32_PAT, l1_rdmsr(MSR_IA32_PAT));
    for (uint32_t selector = VMCS_HOST_ES_SELECTOR; selector <= VMCS_HOST_GS_SELECTOR; selector += 2)
        l1_vmwrite(selector, selector == VMCS_HOST_CS_SELECTOR ? 0x08 : 0x10);
    l1_vmwrite(VMCS_HOST_TR_SELECTOR, 0x18);
    l1_vmwrite(VMCS_HOST_FS_BASE, 0x1111000);
    l1_vmwrite(VMCS_HOST_GS_BASE, 0x2222000);
    l1_vmwrite(VMCS_HOST_TR_BASE, L1_TSS + 0x100 * (uint64_t)l1_vcpu());
    l1_vmwrite(VMCS_HOST_GDTR_BASE, 0x3333000);
    l1_vmwrite(VMCS_HOST_IDTR_BASE, L1_IDT);
    l1_vmwrite(VMCS_HOST_SYSENTER_CS, 0x08);
    l1_vmwrite(VMCS_HOST_SYSENTER_ESP, 0x4444000);
    l1_vmwrite(VMCS_HOST_SYSENTER_EIP, 0x5555000);
    l1_vmwrite(VMCS_HOST_RSP, L1_HOST_STACK + 0x1000 * (uint64_t)(l1_vcpu() + 1));
    l1_vmwrite(VMCS_HOST_RIP, L1_PADS + 0x1000);
}

static void write_guest_segments(void)
{
    for (uint32_t i = 0; i < SEGMENT_NAME_COUNT; i++) {
        uint32_t rights = 0xc093, limit = 0xffffffff, selector = 0x10;
        if (i == SEGMENT_CS) {
            rights = 0xa09b;
            selector = 0x08;
        } else if (i == SEGMENT_LDTR) {
            rights = SEGMENT_UNUSABLE;
            selector = 0;
        } else if (i == SEGMENT_TR) {
            rights = 0x8b;
            limit = 0x67;
            selector = 0x18;
        }
        l1_vmwrite(VMCS_GUEST_ES_SELECTOR + 2 * i, selector);
        l1_vmwrite(VMCS_GUEST_ES_LIMIT + 2 * i, limit);
        l1_vmwrite(VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * i, rights);
        l1_vmwrite(VMCS_GUEST_ES_BASE + 2 * i, i == SEGMENT_TR ? 0x6000 : 0);
    }
    l1_vmwrite(VMCS_GUEST_GDTR_BASE, 0x7000);
    l1_vmwrite(VMCS_GUEST_GDTR_LIMIT, 0xffff);
    l1_vmwrite(VMCS_GUEST_IDTR_BASE, 0x5000);
    l1_vmwrite(VMCS_GUEST_IDTR_LIMIT, 0xfff);
}

static void write_guest_state(const struct l2 *l2)
{
    write_guest_segments();
    l1_vmwrite(VMCS_GUEST_CR0, CR0_PE | CR0_PG | CR0_NE | CR0_ET | CR0_WP | CR0_MP);
    l1_vmwrite(VMCS_GUEST_CR3, l2->without_ept ? l2->flat_pml4 : l2->pml4);
    l1_vmwrite(VMCS_GUEST_CR4, CR4_PAE | CR4_VMXE);
    l1_vmwrite(VMCS_GUEST_DR7, 0x400);
    l1_vmwrite(VMCS_GUEST_RSP, 0x9000);
    l1_vmwrite(VMCS_GUEST_RIP, l2->code);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    l1_vmwrite(VMCS_GUEST_IA32_DEBUGCTL, 0);
    l1_vmwrite(VMCS_GUEST_IA32_EFER, EFER_LME | EFER_LMA | EFER_NXE);
    l1_vmwrite(VMCS_GUEST_IA32_PAT, 0x0007040600070406);
    l1_vmwrite(VMCS_GUEST_SYSENTER_CS, 0);
    l1_vmwrite(VMCS_GUEST_SYSENTER_ESP, 0);
    l1_vmwrite(VMCS_GUEST_SYSENTER_EIP, 0);
    l1_vmwrite(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_ACTIVE);
    l1_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
    l1_vmwrite(VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    l1_vmwrite(VMCS_VMCS_LINK_POINTER, UINT64_MAX);
}

void l1_prepare_vmcs(uint64_t region, struct l2 *l2)
{
    if (!l2->without_ept && l2->eptp == 0) {
        l2->eptp = l1_new_ept();
        l1_ept_map(l2->eptp, 0, L2_RAM, L2_RAM_SIZE, l2->large_ept_pages ? 0x200000 : 0x1000, 7);
    }
    l1_make_region(region);
    l1_vmclear(region);
    l1_vmptrld(region);
    write_controls(l2);
    write_host_state();
    write_guest_state(l2);
}

void l1_prepare(struct l2 *l2)
{
    l1_enter_vmx_operation();
    l1_prepare_vmcs(VMCS_A, l2);
}
