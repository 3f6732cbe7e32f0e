// SPDX-License-Identifier: MIT
// L2's local APIC: the APIC-access page, APIC-register virtualization, virtual-interrupt delivery, x2APIC
// mode.
#include "ept.h"
#include "first.h"
#include "tables.h"
#include "trap.h"
#include "x86.h"

#define REGISTER_ID      0x20u
#define REGISTER_TPR     0x80u
#define REGISTER_EOI     0xb0u
#define REGISTER_ISR     0x100u
#define REGISTER_IRR     0x200u
#define REGISTER_TIMER   0x320u
#define REGISTER_INITIAL 0x380u
#define MSR_X2APIC_TPR   0x808u
#define VECTOR           0x51u

// L2's view of its local APIC is at TABLES_WINDOW.
static volatile uint32_t *window_register(uint32_t offset)
{
    return (volatile uint32_t *)(TABLES_WINDOW + offset);
}

static uint32_t *page_register(uint8_t *page, uint32_t offset)
{
    return (uint32_t *)(page + offset);
}

struct apic_pages {
    uint64_t access; // the APIC-access page: only its address counts
    uint8_t *virtual;
};

// An L2 with a TPR shadow and an APIC-access page at TABLES_WINDOW; through ept12, if there is one.
static struct l2 *create(struct cpu *cpu, void (*code)(void), struct apic_pages *pages, struct ept *ept)
{
    struct tables tables = tables_create(cpu);
    pages->access = cpu_physical(cpu_allocate_page(cpu));
    pages->virtual = cpu_allocate_page(cpu);
    struct l2 *l2 = l2_create(cpu, code);
    uint64_t physical = pages->access;
    if (ept) {
        physical = 0x7654321000; // L2-physical, elsewhere
        *ept = ept_create_identity(cpu);
        ept_map(ept, physical, pages->access, PAGE_SIZE, EPT_ALL | EPT_WRITE_BACK);
        ept_use(ept);
    }
    *tables.window = physical | TABLES_BITS;
    l2_write(VMCS_GUEST_CR3, tables_cr3(&tables));
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW);
    l2_set_secondary(SECONDARY_VIRTUALIZE_APIC_ACCESSES);
    l2_write(VMCS_VIRTUAL_APIC_ADDRESS, cpu_physical(pages->virtual));
    l2_write(VMCS_APIC_ACCESS_ADDRESS, pages->access);
    l2_write(VMCS_TPR_THRESHOLD, 0);
    return l2;
}

static bool offered(struct cpu *cpu, uint32_t secondary)
{
    return fact_offered(cpu, "TPR shadow", VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW) &&
           fact_offered(cpu, "its secondary controls", VMCS_SECONDARY_CONTROLS, secondary);
}

static void l2_touches_apic(void)
{
    l2_call(*window_register(REGISTER_TPR));
    *window_register(REGISTER_TPR) = 0x60;
    l2_call(*window_register(REGISTER_TPR));
    __asm__ volatile("mov (%0), %%ebx" : : "a"(window_register(REGISTER_ID)) : "rbx", "memory");
    __asm__ volatile("mov %%ebx, (%0)" : : "a"(window_register(REGISTER_TIMER)), "b"(0x10051) : "memory");
    l2_call(1);
}

static void fact_apic_accesses(struct cpu *cpu, struct l2 *l2, struct apic_pages *pages)
{
    *page_register(pages->virtual, REGISTER_TPR) = 0x20;
    if (!fact_call(cpu, l2, "TPR shadow: L2 reads its TPR", 0x20))
        return;
    fact_call(cpu, l2, "L2 writes and reads its TPR", 0x60);
    fact(cpu, "the virtual-APIC page's", *page_register(pages->virtual, REGISTER_TPR), 0x60);
    if (!fact_exit(cpu, l2, "L2 reads another register", EXIT_APIC_ACCESS))
        return;
    fact(cpu, "its qualification: read, offset", l2_read(VMCS_EXIT_QUALIFICATION) & 0xffff,
         0x0000 | REGISTER_ID);
    l2_write(VMCS_GUEST_RIP, l2_read(VMCS_GUEST_RIP) + 2);
    fact_exit(cpu, l2, "L2 writes another register", EXIT_APIC_ACCESS);
    fact(cpu, "its qualification: write, offset", l2_read(VMCS_EXIT_QUALIFICATION) & 0xffff,
         0x1000 | REGISTER_TIMER);
    l2_write(VMCS_GUEST_RIP, l2_read(VMCS_GUEST_RIP) + 2);
    fact_call(cpu, l2, "L2 goes on", 1);
}

void test_apic_accesses(struct cpu *cpu)
{
    if (!offered(cpu, SECONDARY_VIRTUALIZE_APIC_ACCESSES))
        return;
    struct apic_pages pages;
    struct ept ept;
    struct l2 *l2 = create(cpu, l2_touches_apic, &pages, NULL);
    fact_apic_accesses(cpu, l2, &pages);
    if (!fact_offered(cpu, "EPT", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT))
        return;
    l2 = create(cpu, l2_touches_apic, &pages, &ept);
    fact_apic_accesses(cpu, l2, &pages);
    l2_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_VIRTUALIZE_APIC_ACCESSES);
    l2_restart(l2, l2_touches_apic);
    fact_call(cpu, l2, "no APIC-access page: L2 reads memory", 0);
}

static void l2_uses_registers(void)
{
    l2_call(*window_register(REGISTER_ID));
    *window_register(REGISTER_INITIAL) = 0x12345;
    l2_call(*window_register(REGISTER_TPR));
}

void test_apic_registers(struct cpu *cpu)
{
    if (!offered(cpu, SECONDARY_VIRTUALIZE_APIC_ACCESSES | SECONDARY_APIC_REGISTER_VIRTUALIZATION))
        return;
    struct apic_pages pages;
    struct ept ept;
    struct l2 *l2 = create(cpu, l2_uses_registers, &pages, &ept);
    l2_set_secondary(SECONDARY_APIC_REGISTER_VIRTUALIZATION);
    *page_register(pages.virtual, REGISTER_ID) = 0x77000000;
    if (!fact_call(cpu, l2, "L2 reads its identifier without an exit", 0x77000000))
        return;
    if (!fact_exit(cpu, l2, "L2 writes the timer's initial count", EXIT_APIC_WRITE))
        return;
    fact(cpu, "its qualification: offset", l2_read(VMCS_EXIT_QUALIFICATION), REGISTER_INITIAL);
    fact(cpu, "the virtual-APIC page's", *page_register(pages.virtual, REGISTER_INITIAL), 0x12345);
    fact_call(cpu, l2, "the write is done: L2 goes on", 0);
}

// L2 touches its IDT and its stack first: Bochs 3.0 loses the vector (IDT-vectoring information 80000000) of
// a virtual interrupt whose delivery meets an EPT violation, be it L1's or one that only L0 knows of.
static void l2_takes_virtual_interrupt(void)
{
    struct cpu *cpu = cpu_self();
    __asm__ volatile("int $0x50");
    uint64_t count = cpu->trap.count;
    __asm__ volatile("sti; nop; nop; cli" : : : "memory");
    l2_call(cpu->trap.count - count);
    *window_register(REGISTER_EOI) = 0;
    l2_call(2);
    *window_register(REGISTER_EOI) = 0;
    l2_call(3);
}

static uint32_t *vector_word(struct apic_pages *pages, uint32_t array)
{
    return page_register(pages->virtual, array + VECTOR / 32 * 16);
}

void test_virtual_interrupts(struct cpu *cpu)
{
    if (!offered(cpu, SECONDARY_VIRTUALIZE_APIC_ACCESSES | SECONDARY_APIC_REGISTER_VIRTUALIZATION |
                          SECONDARY_VIRTUAL_INTERRUPT_DELIVERY))
        return;
    struct apic_pages pages;
    struct ept ept;
    const uint32_t bit = 1u << VECTOR % 32;
    struct l2 *l2 = create(cpu, l2_takes_virtual_interrupt, &pages, &ept);
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
    l2_set_secondary(SECONDARY_APIC_REGISTER_VIRTUALIZATION | SECONDARY_VIRTUAL_INTERRUPT_DELIVERY);
    for (uint32_t field = VMCS_EOI_EXIT_BITMAP_0; field <= VMCS_EOI_EXIT_BITMAP_3; field += 2)
        l2_write(field, 0);
    cpu->trap_needs_eoi = false;
    *vector_word(&pages, REGISTER_IRR) = bit;
    l2_write(VMCS_GUEST_INTERRUPT_STATUS, VECTOR);
    if (!fact_call(cpu, l2, "virtual interrupts that L2 takes, without an exit", 1))
        return;
    fact(cpu, "its vector", cpu->trap.vector, VECTOR);
    fact(cpu, "guest interrupt status: in service, requested", l2_read(VMCS_GUEST_INTERRUPT_STATUS),
         VECTOR << 8);
    fact(cpu, "virtual ISR", *vector_word(&pages, REGISTER_ISR), bit);
    fact(cpu, "virtual IRR", *vector_word(&pages, REGISTER_IRR), 0);
    fact_call(cpu, l2, "L2 ends it, without an exit", 2);
    fact(cpu, "guest interrupt status", l2_read(VMCS_GUEST_INTERRUPT_STATUS), 0);
    fact(cpu, "virtual ISR", *vector_word(&pages, REGISTER_ISR), 0);

    l2_restart(l2, l2_takes_virtual_interrupt);
    *vector_word(&pages, REGISTER_IRR) = bit;
    l2_write(VMCS_GUEST_INTERRUPT_STATUS, VECTOR);
    l2_write(VMCS_EOI_EXIT_BITMAP_1, 1ull << (VECTOR - 64));
    fact_call(cpu, l2, "virtual interrupts that L2 takes", 1);
    if (fact_exit(cpu, l2, "L2 ends it, its bit is in the EOI-exit bitmap", EXIT_VIRTUALIZED_EOI))
        fact(cpu, "its qualification: vector", l2_read(VMCS_EXIT_QUALIFICATION), VECTOR);
    fact_call(cpu, l2, "the end of interrupt is done: L2 goes on", 2);

    l2_restart(l2, l2_takes_virtual_interrupt);
    *page_register(pages.virtual, REGISTER_TPR) = 0x60; // above the vector's class
    *vector_word(&pages, REGISTER_IRR) = bit;
    l2_write(VMCS_GUEST_INTERRUPT_STATUS, VECTOR);
    fact_call(cpu, l2, "virtual interrupts that L2 takes with a higher TPR", 0);
    fact(cpu, "guest interrupt status", l2_read(VMCS_GUEST_INTERRUPT_STATUS), VECTOR);
}

static void l2_uses_x2apic(void)
{
    l2_call(x86_rdmsr(MSR_X2APIC_TPR));
    x86_wrmsr(MSR_X2APIC_TPR, 0x40);
    l2_call(x86_read_cr8());
}

void test_virtual_x2apic(struct cpu *cpu)
{
    if (!offered(cpu, SECONDARY_VIRTUALIZE_X2APIC_MODE) ||
        !fact_offered(cpu, "MSR bitmaps", VMCS_PRIMARY_CONTROLS, PRIMARY_USE_MSR_BITMAPS))
        return;
    struct l2 *l2 = l2_create(cpu, l2_uses_x2apic);
    uint8_t *page = cpu_allocate_page(cpu);
    *page_register(page, REGISTER_TPR) = 0x30;
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW | PRIMARY_USE_MSR_BITMAPS);
    l2_write(VMCS_MSR_BITMAP, cpu_physical(cpu_allocate_page(cpu)));
    l2_set_secondary(SECONDARY_VIRTUALIZE_X2APIC_MODE);
    l2_write(VMCS_VIRTUAL_APIC_ADDRESS, cpu_physical(page));
    l2_write(VMCS_TPR_THRESHOLD, 0);
    fact_call(cpu, l2, "L2 reads its TPR by RDMSR", 0x30);
    fact_call(cpu, l2, "L2 writes it by WRMSR, and reads CR8", 4);
    fact(cpu, "the virtual-APIC page's", *page_register(page, REGISTER_TPR), 0x40);
}
