// SPDX-License-Identifier: MIT
// Controls that no other file of this L1 uses: secondary controls that are not activated, debug controls,
// VMCS shadowing.
#include "apic.h"
#include "first.h"
#include "trap.h"
#include "x86.h"

#define DR7_L1 0x405ull // breakpoint 1, at an address that nobody executes
#define DR7_L2 0x411ull // breakpoint 2

static void l2_wbinvd(void)
{
    __asm__ volatile("wbinvd" : : : "memory");
}

void test_secondary_controls_inactive(struct cpu *cpu)
{
    if (!fact_offered(cpu, "secondary controls", VMCS_PRIMARY_CONTROLS, PRIMARY_ACTIVATE_SECONDARY) ||
        !fact_offered(cpu, "WBINVD exiting", VMCS_SECONDARY_CONTROLS, SECONDARY_WBINVD_EXITING))
        return;
    struct l2 *l2 = l2_create(cpu, l2_wbinvd);
    l2_write(VMCS_SECONDARY_CONTROLS, SECONDARY_WBINVD_EXITING | 1u << 31);
    fact_call(cpu, l2, "not activated: WBINVD does not exit", L2_RETURNED);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_ACTIVATE_SECONDARY);
    l2_restart(l2, l2_wbinvd);
    fact_status(cpu, "activated: bit 31 must be 0", l2_enter(l2), 7);
    l2_write(VMCS_SECONDARY_CONTROLS, SECONDARY_WBINVD_EXITING);
    fact_exit_skip(cpu, l2, "activated: WBINVD exits", EXIT_WBINVD, 2);
    fact_call(cpu, l2, "L2 goes on", L2_RETURNED);
}

static uint64_t read_dr7(void)
{
    uint64_t value;
    __asm__ volatile("mov %%dr7, %0" : "=r"(value));
    return value;
}

static void write_dr7(uint64_t value)
{
    __asm__ volatile("mov %0, %%dr7" : : "r"(value));
}

// DR7 only: Bochs 3.0 has no IA32_DEBUGCTL that keeps what is written.
static void l2_debug_controls(void)
{
    l2_call(read_dr7());
    write_dr7(0x400);
    l2_call(1);
}

static void fact_debug_controls(struct cpu *cpu, struct l2 *l2, bool loads, bool saves)
{
    l2_restart(l2, l2_debug_controls);
    l2_write(VMCS_GUEST_DR7, DR7_L2);
    l2_clear(VMCS_VM_ENTRY_CONTROLS, loads ? 0 : ENTRY_LOAD_DEBUG_CONTROLS);
    l2_clear(VMCS_VM_EXIT_CONTROLS, saves ? 0 : EXIT_SAVE_DEBUG_CONTROLS);
    write_dr7(DR7_L1);
    fact_call(cpu, l2, "L2's DR7", loads ? DR7_L2 : DR7_L1);
    fact(cpu, "L1's DR7", read_dr7(), 0x400);
    fact_call(cpu, l2, "L2 changes it", 1);
    fact(cpu, "GUEST_DR7", l2_read(VMCS_GUEST_DR7), saves ? 0x400 : DR7_L2);
}

void test_debug_controls(struct cpu *cpu)
{
    uint64_t may_clear =
        ~((uint64_t)l2_must_set(VMCS_VM_ENTRY_CONTROLS) | l2_must_set(VMCS_VM_EXIT_CONTROLS));
    struct l2 *l2 = l2_create(cpu, l2_debug_controls);
    fact_debug_controls(cpu, l2, true, true);
    if (may_clear & ENTRY_LOAD_DEBUG_CONTROLS) // the same bit in both words
        fact_debug_controls(cpu, l2, false, false);
}

#define SHADOW_INDICATOR (1u << 31)

// Reads and writes a field in a register and in memory, then one that exits.
static void l2_uses_shadow(void)
{
    uint64_t value = 0;
    volatile uint64_t *memory = cpu_self()->argument;
    __asm__ volatile("vmread %1, %0" : "=r"(value) : "r"((uint64_t)VMCS_GUEST_RSP) : "cc");
    l2_call(value);
    __asm__ volatile("vmread %1, %0" : "=m"(memory[0]) : "r"((uint64_t)VMCS_GUEST_RSP) : "cc", "memory");
    l2_call(memory[0]);
    __asm__ volatile("vmwrite %0, %1" : : "r"(0x1234ul), "r"((uint64_t)VMCS_GUEST_RIP) : "cc");
    memory[1] = 0x5678;
    __asm__ volatile("vmwrite %0, %1" : : "m"(memory[1]), "r"((uint64_t)VMCS_GUEST_CR3) : "cc");
    __asm__ volatile("vmread %1, %0" : "=r"(value) : "r"((uint64_t)VMCS_GUEST_RIP) : "cc");
    l2_call(value);
    __asm__ volatile("vmread %1, %0" : "=r"(value) : "r"((uint64_t)VMCS_GUEST_CR0) : "cc");
    l2_call(1);
}

static void exits_for(uint8_t *bitmap, uint32_t encoding)
{
    bitmap[encoding / 8] |= (uint8_t)(1u << encoding % 8);
}

void test_vmcs_shadowing(struct cpu *cpu)
{
    if (!fact_offered(cpu, "VMCS shadowing", VMCS_SECONDARY_CONTROLS, SECONDARY_VMCS_SHADOWING))
        return;
    uint64_t shadow = l2_allocate_vmcs(cpu);
    fact_status(cpu, "VMCLEAR", vmx_vmclear(shadow), FACT_SUCCEED);
    *(uint32_t *)(uintptr_t)shadow |= SHADOW_INDICATOR;
    fact_status(cpu, "VMPTRLD of a shadow VMCS", vmx_vmptrld(shadow), FACT_SUCCEED);
    l2_write(VMCS_GUEST_RSP, 0x112233445566);
    l2_write(VMCS_GUEST_RIP, 0);
    l2_write(VMCS_GUEST_CR3, 0);
    fact_status(cpu, "VMCLEAR of the shadow VMCS", vmx_vmclear(shadow), FACT_SUCCEED);

    uint8_t *read_bitmap = cpu_allocate_page(cpu), *write_bitmap = cpu_allocate_page(cpu);
    exits_for(read_bitmap, VMCS_GUEST_CR0);
    struct l2 *l2 = l2_create(cpu, l2_uses_shadow);
    l2_set_secondary(SECONDARY_VMCS_SHADOWING);
    l2_write(VMCS_VMREAD_BITMAP, cpu_physical(read_bitmap));
    l2_write(VMCS_VMWRITE_BITMAP, cpu_physical(write_bitmap));
    l2_write(VMCS_VMCS_LINK_POINTER, shadow);
    fact_call(cpu, l2, "L2 reads a field", 0x112233445566);
    fact_call(cpu, l2, "L2 reads it into memory", 0x112233445566);
    fact_call(cpu, l2, "L2 writes two, and reads one", 0x1234);
    fact_exit_skip(cpu, l2, "L2 reads one whose bit is set", EXIT_VMREAD, 3);
    fact_call(cpu, l2, "L2 goes on", 1);
    fact_status(cpu, "VMCLEAR of the shadow VMCS", vmx_vmclear(shadow), FACT_SUCCEED);
    fact_status(cpu, "VMPTRLD of it", vmx_vmptrld(shadow), FACT_SUCCEED);
    fact(cpu, "what L2 wrote", l2_read(VMCS_GUEST_RIP), 0x1234);
    fact(cpu, "what L2 wrote from memory", l2_read(VMCS_GUEST_CR3), 0x5678);
    // Not: that it cannot be entered. Bochs 3.0 does not look.
    vmx_vmclear(shadow);
    vmx_vmptrld(l2->vmcs);
    l2_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_VMCS_SHADOWING);
    l2_write(VMCS_VMCS_LINK_POINTER, VMX_NO_VMCS);
    l2_restart(l2, l2_uses_shadow);
    fact_exit_skip(cpu, l2, "no control: VMREAD exits", EXIT_VMREAD, 3);
}

#define NOTIFICATION_VECTOR 0x62u
#define POSTED_VECTOR       0x51u

// With interrupts disabled, then enabled, L2 posts an interrupt to itself, and notifies itself.
static void l2_posts(void)
{
    struct cpu *cpu = cpu_self();
    uint8_t *descriptor = (uint8_t *)(uintptr_t)cpu->argument[0]; // requests, then the notification bit
    __asm__ volatile("int $0x50");                                // L2's IDT and stack are touched
    uint64_t count = cpu->trap.count;
    for (uint32_t i = 0; i < 2; i++) {
        descriptor[(POSTED_VECTOR + i) / 8] |= (uint8_t)(1u << (POSTED_VECTOR + i) % 8);
        descriptor[32] |= 1;
    }
    __asm__ volatile("sti" : : : "memory");
    apic_send(cpu->apic_id, APIC_FIXED | NOTIFICATION_VECTOR);
    while (cpu->trap.count == count)
        x86_pause();
    __asm__ volatile("cli" : : : "memory");
    l2_call(cpu->trap.vector);
}

// The descriptor has a page: Bochs 3.0 wants it so.
void test_posted_interrupts(struct cpu *cpu)
{
    if (!fact_offered(cpu, "posted interrupts", VMCS_PIN_BASED_CONTROLS, PIN_POSTED_INTERRUPTS))
        return;
    uint8_t *page = cpu_allocate_page(cpu), *descriptor = cpu_allocate_page(cpu);
    cpu->argument[0] = cpu_physical(descriptor);
    struct l2 *l2 = l2_create(cpu, l2_posts);
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING | PIN_POSTED_INTERRUPTS);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW);
    l2_set_secondary(SECONDARY_VIRTUAL_INTERRUPT_DELIVERY);
    l2_set(VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    for (uint32_t field = VMCS_EOI_EXIT_BITMAP_0; field <= VMCS_EOI_EXIT_BITMAP_3; field += 2)
        l2_write(field, 0);
    l2_write(VMCS_VIRTUAL_APIC_ADDRESS, cpu_physical(page));
    l2_write(VMCS_TPR_THRESHOLD, 0);
    l2_write(VMCS_GUEST_INTERRUPT_STATUS, 0);
    l2_write(VMCS_POSTED_INTERRUPT_VECTOR, NOTIFICATION_VECTOR);
    l2_write(VMCS_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, cpu_physical(descriptor));
    cpu->trap_needs_eoi = false;
    if (!fact_call(cpu, l2, "the vector that L2 takes, without an exit", POSTED_VECTOR + 1))
        return;
    fact(cpu, "guest interrupt status: in service, requested", l2_read(VMCS_GUEST_INTERRUPT_STATUS),
         (POSTED_VECTOR + 1) << 8 | POSTED_VECTOR);
    fact(cpu, "the descriptor's requests", descriptor[POSTED_VECTOR / 8], 0);
    fact(cpu, "its notification bit", descriptor[32], 0);
    fact_true(cpu, "the notification is not in service", !apic_is_in_service(NOTIFICATION_VECTOR));
}
