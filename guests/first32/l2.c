// SPDX-License-Identifier: MIT
// L2 in 32-bit protected mode on L1's page tables and GDT.
#include "first32.h"

#define PAGES         48u
#define RIGHTS_CODE   0xc09bu
#define RIGHTS_DATA   0xc093u
#define RIGHTS_TSS    0x8bu
#define TSS_LIMIT     103u
#define DR7_INITIAL   0x400u
#define L2_STACK_SIZE 4096u

extern const uint8_t exited_l2[];

static uint64_t pages[PAGES][PAGE_SIZE / 8] __attribute__((aligned(4096)));
static uint8_t l2_stack[L2_STACK_SIZE] __attribute__((aligned(16)));

uint64_t *l2_page(void)
{
    static uint32_t used;
    return pages[used++ % PAGES];
}

uint32_t l2_revision(void)
{
    return (uint32_t)read_msr(MSR_IA32_VMX_BASIC) & 0x7fffffff;
}

uint32_t l2_read(uint32_t encoding)
{
    uint32_t value = 0;
    if (vmx_vmread(encoding, &value))
        fact("VMREAD fails", encoding, 0);
    return value;
}

void l2_write(uint32_t encoding, uint32_t value)
{
    if (vmx_vmwrite(encoding, value))
        fact("VMWRITE fails", encoding, 0);
}

void l2_write_64(uint32_t encoding, uint64_t value)
{
    l2_write(encoding, (uint32_t)value);
    l2_write(encoding | VMCS_HIGH, (uint32_t)(value >> 32));
}

void l2_skip(void)
{
    l2_write(VMCS_GUEST_RIP, l2_read(VMCS_GUEST_RIP) + l2_read(VMCS_VM_EXIT_INSTRUCTION_LENGTH));
}

static void l2_returned(void)
{
    for (;;)
        l2_call(0x7e70);
}

void l2_restart(void (*code)(void))
{
    uint32_t *top = (uint32_t *)(l2_stack + L2_STACK_SIZE) - 4;
    *top = (uint32_t)l2_returned;
    l2_write(VMCS_GUEST_RIP, (uint32_t)code);
    l2_write(VMCS_GUEST_RSP, (uint32_t)top);
}

static void l2_write_controls(void)
{
    l2_write(VMCS_PIN_BASED_CONTROLS, (uint32_t)read_msr(MSR_IA32_VMX_TRUE_PINBASED_CTLS));
    l2_write(VMCS_PRIMARY_CONTROLS, (uint32_t)read_msr(MSR_IA32_VMX_TRUE_PROCBASED_CTLS) |
                                        PRIMARY_HLT_EXITING | PRIMARY_UNCONDITIONAL_IO_EXITING);
    l2_write(VMCS_VM_EXIT_CONTROLS, (uint32_t)read_msr(MSR_IA32_VMX_TRUE_EXIT_CTLS));
    l2_write(VMCS_VM_ENTRY_CONTROLS, (uint32_t)read_msr(MSR_IA32_VMX_TRUE_ENTRY_CTLS));
    static const uint16_t zero[] = {VMCS_EXCEPTION_BITMAP,
                                    VMCS_PAGE_FAULT_ERROR_CODE_MASK,
                                    VMCS_PAGE_FAULT_ERROR_CODE_MATCH,
                                    VMCS_CR3_TARGET_COUNT,
                                    VMCS_VM_EXIT_MSR_STORE_COUNT,
                                    VMCS_VM_EXIT_MSR_LOAD_COUNT,
                                    VMCS_VM_ENTRY_MSR_LOAD_COUNT,
                                    VMCS_VM_ENTRY_INTERRUPTION_INFO,
                                    VMCS_CR0_GUEST_HOST_MASK,
                                    VMCS_CR4_GUEST_HOST_MASK,
                                    VMCS_GUEST_INTERRUPTIBILITY,
                                    VMCS_GUEST_ACTIVITY_STATE,
                                    VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS,
                                    VMCS_GUEST_SYSENTER_CS,
                                    VMCS_GUEST_SYSENTER_ESP,
                                    VMCS_GUEST_SYSENTER_EIP,
                                    VMCS_HOST_SYSENTER_CS,
                                    VMCS_HOST_SYSENTER_ESP,
                                    VMCS_HOST_SYSENTER_EIP};
    for (uint32_t i = 0; i < sizeof(zero) / sizeof(zero[0]); i++)
        l2_write(zero[i], 0);
    l2_write_64(VMCS_TSC_OFFSET, 0);
    l2_write_64(VMCS_GUEST_IA32_DEBUGCTL, 0);
    l2_write_64(VMCS_VMCS_LINK_POINTER, ~0ull);
}

static void l2_write_segment(uint32_t field, uint32_t selector, uint32_t base, uint32_t limit,
                             uint32_t rights)
{
    uint32_t at = field - VMCS_GUEST_ES_SELECTOR;
    l2_write(field, selector);
    l2_write(VMCS_GUEST_ES_BASE + at, base);
    l2_write(VMCS_GUEST_ES_LIMIT + at, limit);
    l2_write(VMCS_GUEST_ES_ACCESS_RIGHTS + at, rights);
}

static void l2_write_state(void)
{
    for (uint32_t i = 0; i <= VMCS_GUEST_GS_SELECTOR - VMCS_GUEST_ES_SELECTOR; i += 2) {
        bool code = VMCS_GUEST_ES_SELECTOR + i == VMCS_GUEST_CS_SELECTOR;
        l2_write_segment(VMCS_GUEST_ES_SELECTOR + i, code ? SELECTOR_CODE : SELECTOR_DATA, 0, 0xffffffff,
                         code ? RIGHTS_CODE : RIGHTS_DATA);
        l2_write(VMCS_HOST_ES_SELECTOR + i, code ? SELECTOR_CODE : SELECTOR_DATA);
    }
    l2_write(VMCS_HOST_FS_SELECTOR, SELECTOR_BASED);
    l2_write(VMCS_HOST_GS_SELECTOR, SELECTOR_SHORT);
    l2_write(VMCS_HOST_FS_BASE, BASED_BASE);
    l2_write(VMCS_HOST_GS_BASE, (uint32_t)short_segment);
    l2_write_segment(VMCS_GUEST_LDTR_SELECTOR, 0, 0, 0, SEGMENT_UNUSABLE);
    l2_write_segment(VMCS_GUEST_TR_SELECTOR, SELECTOR_TSS, tables_tss(), TSS_LIMIT, RIGHTS_TSS);
    l2_write(VMCS_HOST_TR_SELECTOR, SELECTOR_TSS);
    l2_write(VMCS_HOST_TR_BASE, tables_tss());
    l2_write(VMCS_GUEST_GDTR_BASE, tables_gdt());
    l2_write(VMCS_GUEST_GDTR_LIMIT, 0x2f);
    l2_write(VMCS_GUEST_IDTR_BASE, tables_idt());
    l2_write(VMCS_GUEST_IDTR_LIMIT, 0xff);
    l2_write(VMCS_HOST_GDTR_BASE, tables_gdt());
    l2_write(VMCS_HOST_IDTR_BASE, tables_idt());
    l2_write(VMCS_GUEST_CR0, read_cr0());
    l2_write(VMCS_GUEST_CR3, read_cr3());
    l2_write(VMCS_GUEST_CR4, read_cr4());
    l2_write(VMCS_HOST_CR0, read_cr0());
    l2_write(VMCS_HOST_CR3, read_cr3());
    l2_write(VMCS_HOST_CR4, read_cr4());
    l2_write(VMCS_CR0_READ_SHADOW, read_cr0());
    l2_write(VMCS_CR4_READ_SHADOW, read_cr4());
    l2_write(VMCS_GUEST_DR7, DR7_INITIAL);
    l2_write(VMCS_GUEST_RFLAGS, (uint32_t)RFLAGS_FIXED);
    l2_write(VMCS_HOST_RIP, (uint32_t)exited_l2);
}

void l2_create(struct l2 *l2, void (*code)(void))
{
    uint64_t *region = l2_page();
    *l2 = (struct l2){0};
    *(uint32_t *)region = l2_revision();
    fact("VMCLEAR", vmx_vmclear((uint32_t)region), 0);
    fact("VMPTRLD", vmx_vmptrld((uint32_t)region), 0);
    l2_write_controls();
    l2_write_state();
    l2_restart(code);
}

bool fact_exit(struct l2 *l2, const char *name, uint32_t reason)
{
    uint32_t status = enter_l2(l2->registers, !l2->launched);
    if (status) {
        fact(name, status << 16 | (status == 2 ? l2_read(VMCS_VM_INSTRUCTION_ERROR) : 0), reason);
        return false;
    }
    uint32_t seen = l2_read(VMCS_EXIT_REASON);
    if (!(seen & EXIT_REASON_ENTRY_FAILURE))
        l2->launched = 1;
    fact(name, seen, reason);
    return seen == reason;
}

bool fact_call(struct l2 *l2, const char *name, uint32_t number)
{
    if (!fact_exit(l2, name, EXIT_VMCALL))
        return false;
    fact("its number", l2->registers[EAX], number);
    l2_skip();
    return l2->registers[EAX] == number;
}
