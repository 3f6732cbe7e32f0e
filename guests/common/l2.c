// SPDX-License-Identifier: MIT
#include "l2.h"
#include "trap.h"
#include "x86.h"

#define BASIC_TRUE_CONTROLS    (1ull << 55)
#define ACCESS_RIGHTS_CODE64   0xa09bu
#define ACCESS_RIGHTS_DATA     0xc093u
#define ACCESS_RIGHTS_BUSY_TSS 0x8bu
#define FLAT_LIMIT             0xffffffffu
#define DR7_INITIAL            0x400u

extern const uint8_t l2_exited[], l2_returned[];
enum vmx_status l2_enter_asm(struct l2 *l2, bool launch);

static uint8_t vmxon_regions[CPU_MAX][PAGE_SIZE] __attribute__((aligned(4096), section(".bss.pages")));

const char *l2_exit_name(uint32_t reason)
{
    static const char *const names[] = {
#define EXIT(number, name, route, info) [number] = #name,
#include <nvmx/exits.def>
#undef EXIT
    };
    uint32_t basic = reason & EXIT_REASON_BASIC_MASK;
    return basic < EXIT_COUNT ? names[basic] : "?";
}

// The MSR that reports a control field; the TRUE one, if there are such.
static uint64_t l2_control_capability(uint32_t field)
{
    bool true_controls = x86_rdmsr(MSR_IA32_VMX_BASIC) & BASIC_TRUE_CONTROLS;
    switch (field) {
    case VMCS_PIN_BASED_CONTROLS:
        return x86_rdmsr(true_controls ? MSR_IA32_VMX_TRUE_PINBASED_CTLS : MSR_IA32_VMX_PINBASED_CTLS);
    case VMCS_PRIMARY_CONTROLS:
        return x86_rdmsr(true_controls ? MSR_IA32_VMX_TRUE_PROCBASED_CTLS : MSR_IA32_VMX_PROCBASED_CTLS);
    case VMCS_VM_EXIT_CONTROLS:
        return x86_rdmsr(true_controls ? MSR_IA32_VMX_TRUE_EXIT_CTLS : MSR_IA32_VMX_EXIT_CTLS);
    case VMCS_VM_ENTRY_CONTROLS:
        return x86_rdmsr(true_controls ? MSR_IA32_VMX_TRUE_ENTRY_CTLS : MSR_IA32_VMX_ENTRY_CTLS);
    default:
        if (!l2_may_set(VMCS_PRIMARY_CONTROLS, PRIMARY_ACTIVATE_SECONDARY))
            return 0;
        return x86_rdmsr(MSR_IA32_VMX_PROCBASED_CTLS2);
    }
}

bool l2_may_set(uint32_t controls_field, uint32_t bits)
{
    return (l2_control_capability(controls_field) >> 32 & bits) == bits;
}

uint32_t l2_must_set(uint32_t controls_field)
{
    return (uint32_t)l2_control_capability(controls_field);
}

static uint32_t l2_revision(void)
{
    return (uint32_t)x86_rdmsr(MSR_IA32_VMX_BASIC) & 0x7fffffff;
}

uint64_t l2_vmxon_region(const struct cpu *cpu)
{
    return cpu_physical(vmxon_regions[cpu->index]);
}

bool l2_vmx_on(struct cpu *cpu)
{
    *(uint32_t *)vmxon_regions[cpu->index] = l2_revision();
    x86_write_cr4(x86_read_cr4() | CR4_VMXE);
    return vmx_vmxon(l2_vmxon_region(cpu)) == VMX_SUCCEED;
}

bool l2_vmx_off(void)
{
    bool done = vmx_vmxoff() == VMX_SUCCEED;
    if (done)
        x86_write_cr4(x86_read_cr4() & ~CR4_VMXE);
    return done;
}

uint64_t l2_allocate_vmcs(struct cpu *cpu)
{
    uint32_t *region = cpu_allocate_page(cpu);
    *region = l2_revision();
    return cpu_physical(region);
}

uint64_t l2_read(uint32_t encoding)
{
    uint64_t value = 0;
    if (vmx_vmread(encoding, &value) != VMX_SUCCEED)
        trap_panic("VMREAD fails");
    return value;
}

void l2_write(uint32_t encoding, uint64_t value)
{
    if (vmx_vmwrite(encoding, value) != VMX_SUCCEED)
        trap_panic("VMWRITE fails");
}

void l2_set(uint32_t encoding, uint64_t bits)
{
    l2_write(encoding, l2_read(encoding) | bits);
}

void l2_clear(uint32_t encoding, uint64_t bits)
{
    l2_write(encoding, l2_read(encoding) & ~bits);
}

void l2_set_secondary(uint32_t bits)
{
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_ACTIVATE_SECONDARY);
    l2_set(VMCS_SECONDARY_CONTROLS, bits);
}

static void l2_write_controls(void)
{
    l2_write(VMCS_PIN_BASED_CONTROLS, l2_must_set(VMCS_PIN_BASED_CONTROLS));
    l2_write(VMCS_PRIMARY_CONTROLS,
             l2_must_set(VMCS_PRIMARY_CONTROLS) | PRIMARY_HLT_EXITING | PRIMARY_UNCONDITIONAL_IO_EXITING);
    if (l2_may_set(VMCS_PRIMARY_CONTROLS, PRIMARY_ACTIVATE_SECONDARY))
        l2_write(VMCS_SECONDARY_CONTROLS, l2_must_set(VMCS_SECONDARY_CONTROLS));
    l2_write(VMCS_VM_EXIT_CONTROLS,
             l2_must_set(VMCS_VM_EXIT_CONTROLS) | EXIT_SAVE_DEBUG_CONTROLS | EXIT_HOST_ADDRESS_SPACE_SIZE);
    l2_write(VMCS_VM_ENTRY_CONTROLS,
             l2_must_set(VMCS_VM_ENTRY_CONTROLS) | ENTRY_LOAD_DEBUG_CONTROLS | ENTRY_IA32E_MODE_GUEST);
    static const uint16_t zero[] = {
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
        VMCS_TSC_OFFSET,
    };
    for (uint32_t i = 0; i < sizeof(zero) / sizeof(zero[0]); i++)
        l2_write(zero[i], 0);
}

static void l2_write_host_state(void)
{
    l2_write(VMCS_HOST_CR0, x86_read_cr0());
    l2_write(VMCS_HOST_CR3, x86_read_cr3());
    l2_write(VMCS_HOST_CR4, x86_read_cr4());
    l2_write(VMCS_HOST_CS_SELECTOR, SELECTOR_CODE64);
    l2_write(VMCS_HOST_TR_SELECTOR, SELECTOR_TSS);
    for (uint32_t encoding = VMCS_HOST_ES_SELECTOR; encoding <= VMCS_HOST_GS_SELECTOR; encoding += 2)
        if (encoding != VMCS_HOST_CS_SELECTOR)
            l2_write(encoding, SELECTOR_DATA);
    l2_write(VMCS_HOST_FS_BASE, 0);
    l2_write(VMCS_HOST_GS_BASE, x86_rdmsr(MSR_GS_BASE));
    l2_write(VMCS_HOST_TR_BASE, cpu_physical(&cpu_self()->tss));
    l2_write(VMCS_HOST_GDTR_BASE, x86_sgdt().base);
    l2_write(VMCS_HOST_IDTR_BASE, x86_sidt().base);
    l2_write(VMCS_HOST_SYSENTER_CS, 0);
    l2_write(VMCS_HOST_SYSENTER_ESP, 0);
    l2_write(VMCS_HOST_SYSENTER_EIP, 0);
    l2_write(VMCS_HOST_RIP, cpu_physical(l2_exited));
}

static void l2_write_segment(uint32_t selector_encoding, uint16_t selector, uint64_t base, uint32_t limit,
                             uint32_t access_rights)
{
    uint32_t at = selector_encoding - VMCS_GUEST_ES_SELECTOR;
    l2_write(selector_encoding, selector);
    l2_write(VMCS_GUEST_ES_BASE + at, base);
    l2_write(VMCS_GUEST_ES_LIMIT + at, limit);
    l2_write(VMCS_GUEST_ES_ACCESS_RIGHTS + at, access_rights);
}

static void l2_write_guest_segments(void)
{
    static const uint16_t data[] = {VMCS_GUEST_ES_SELECTOR, VMCS_GUEST_SS_SELECTOR, VMCS_GUEST_DS_SELECTOR,
                                    VMCS_GUEST_FS_SELECTOR};
    for (uint32_t i = 0; i < sizeof(data) / sizeof(data[0]); i++)
        l2_write_segment(data[i], SELECTOR_DATA, 0, FLAT_LIMIT, ACCESS_RIGHTS_DATA);
    l2_write_segment(VMCS_GUEST_GS_SELECTOR, SELECTOR_DATA, x86_rdmsr(MSR_GS_BASE), FLAT_LIMIT,
                     ACCESS_RIGHTS_DATA);
    l2_write_segment(VMCS_GUEST_CS_SELECTOR, SELECTOR_CODE64, 0, FLAT_LIMIT, ACCESS_RIGHTS_CODE64);
    l2_write_segment(VMCS_GUEST_LDTR_SELECTOR, 0, 0, 0, SEGMENT_UNUSABLE);
    l2_write_segment(VMCS_GUEST_TR_SELECTOR, SELECTOR_TSS, cpu_physical(&cpu_self()->tss),
                     sizeof(struct cpu_tss) - 1, ACCESS_RIGHTS_BUSY_TSS);
    l2_write(VMCS_GUEST_GDTR_BASE, x86_sgdt().base);
    l2_write(VMCS_GUEST_GDTR_LIMIT, x86_sgdt().limit);
    l2_write(VMCS_GUEST_IDTR_BASE, x86_sidt().base);
    l2_write(VMCS_GUEST_IDTR_LIMIT, x86_sidt().limit);
}

static void l2_write_guest_state(void)
{
    l2_write_guest_segments();
    l2_write(VMCS_GUEST_CR0, x86_read_cr0());
    l2_write(VMCS_GUEST_CR3, x86_read_cr3());
    l2_write(VMCS_GUEST_CR4, x86_read_cr4());
    l2_write(VMCS_CR0_READ_SHADOW, x86_read_cr0());
    l2_write(VMCS_CR4_READ_SHADOW, x86_read_cr4());
    l2_write(VMCS_GUEST_DR7, DR7_INITIAL);
    l2_write(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    l2_write(VMCS_VMCS_LINK_POINTER, VMX_NO_VMCS);
    static const uint16_t zero[] = {
        VMCS_GUEST_IA32_DEBUGCTL,  VMCS_GUEST_INTERRUPTIBILITY,
        VMCS_GUEST_ACTIVITY_STATE, VMCS_GUEST_SYSENTER_CS,
        VMCS_GUEST_SYSENTER_ESP,   VMCS_GUEST_SYSENTER_EIP,
        VMCS_GUEST_SMBASE,         VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS,
    };
    for (uint32_t i = 0; i < sizeof(zero) / sizeof(zero[0]); i++)
        l2_write(zero[i], 0);
}

void l2_write_all(struct l2 *l2, void (*code)(void))
{
    l2_write_controls();
    l2_write_host_state();
    l2_write_guest_state();
    l2->host_rsp = 0;
    l2_restart(l2, code);
}

void l2_restart(struct l2 *l2, void (*code)(void))
{
    uint64_t *top = (uint64_t *)(l2->stack + PAGE_SIZE) - 1;
    *top = cpu_physical(l2_returned);
    l2_write(VMCS_GUEST_RIP, (uint64_t)(uintptr_t)code);
    l2_write(VMCS_GUEST_RSP, cpu_physical(top));
}

struct l2 *l2_create(struct cpu *cpu, void (*code)(void))
{
    struct l2 *l2 = cpu_allocate_page(cpu);
    l2->stack = cpu_allocate_page(cpu);
    l2->vmcs = l2_allocate_vmcs(cpu);
    if (vmx_vmclear(l2->vmcs) != VMX_SUCCEED || vmx_vmptrld(l2->vmcs) != VMX_SUCCEED)
        trap_panic("VMCLEAR or VMPTRLD of a new VMCS fails");
    l2_write_all(l2, code);
    return l2;
}

enum vmx_status l2_enter(struct l2 *l2)
{
    enum vmx_status status = l2_enter_asm(l2, !l2->launched);
    if (status == VMX_SUCCEED && !(l2_read(VMCS_EXIT_REASON) & EXIT_REASON_ENTRY_FAILURE))
        l2->launched = true;
    return status;
}

void l2_skip(void)
{
    l2_write(VMCS_GUEST_RIP, l2_read(VMCS_GUEST_RIP) + l2_read(VMCS_VM_EXIT_INSTRUCTION_LENGTH));
}
