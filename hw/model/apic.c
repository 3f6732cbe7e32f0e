// SPDX-License-Identifier: MIT
// APIC virtualization: the virtual-APIC page in place of a local APIC, for CR8, for x2APIC MSRs, and for the
// APIC-access page; and the delivery of virtual interrupts.
// Manual: APIC Virtualization and Virtual Interrupts.
#include "model.h"
#include <string.h>

#define VTPR    0x80u
#define VPPR    0xa0u
#define VEOI    0xb0u
#define VISR    0x100u
#define VIRR    0x200u
#define VICR_LO 0x300u

static uint32_t page_read(const struct hw_cpu *cpu, unsigned offset)
{
    return (uint32_t)memory_read(cpu->machine, cpu->c.virtual_apic + offset, 4);
}

static void page_write(const struct hw_cpu *cpu, unsigned offset, uint32_t value)
{
    memory_write(cpu->machine, cpu->c.virtual_apic + offset, value, 4);
}

// VIRR and VISR: 256 bits, 32 of them every 16 bytes.
static void set_bit(struct hw_cpu *cpu, unsigned array, uint8_t vector, bool value)
{
    unsigned offset = array + vector / 32 * 16;
    uint32_t bit = 1u << vector % 32, word = page_read(cpu, offset);
    page_write(cpu, offset, value ? word | bit : word & ~bit);
}

static uint8_t highest_bit(const struct hw_cpu *cpu, unsigned array)
{
    for (unsigned vector = 255; vector > 0; vector--)
        if (page_read(cpu, array + vector / 32 * 16) >> vector % 32 & 1)
            return (uint8_t)vector;
    return 0;
}

static bool delivers(const struct hw_cpu *cpu)
{
    return cpu_has_secondary(cpu, SECONDARY_VIRTUAL_INTERRUPT_DELIVERY);
}

// PPR Virtualization
static void update_ppr(struct hw_cpu *cpu)
{
    uint8_t tpr = (uint8_t)page_read(cpu, VTPR);
    page_write(cpu, VPPR, tpr >> 4 >= cpu->svi >> 4 ? tpr : cpu->svi & 0xf0u);
}

// Evaluation of Pending Virtual Interrupts
static void evaluate(struct hw_cpu *cpu)
{
    cpu->virtual_interrupt_recognized = !cpu_has_primary(cpu, PRIMARY_INTERRUPT_WINDOW_EXITING) &&
                                        cpu->rvi >> 4 > (uint8_t)page_read(cpu, VPPR) >> 4;
}

// TPR Virtualization, behind the instruction that wrote VTPR. An exit, if any, is trap-like.
static void tpr_written(struct hw_cpu *cpu)
{
    if (delivers(cpu)) {
        update_ppr(cpu);
        evaluate(cpu);
    } else if ((page_read(cpu, VTPR) >> 4 & 0xf) < cpu->c.tpr_threshold) {
        vm_exit_simple(cpu, 43);
    }
}

static void eoi_written(struct hw_cpu *cpu)
{
    uint8_t vector = cpu->svi;
    page_write(cpu, VEOI, 0);
    set_bit(cpu, VISR, vector, false);
    cpu->svi = highest_bit(cpu, VISR);
    update_ppr(cpu);
    uint64_t bitmap = vmcs_get(cpu, (enum vmcs_field)(F_EOI_EXIT_BITMAP_0 + vector / 64));
    if (bitmap >> vector % 64 & 1)
        vm_exit(cpu, &(struct exit_information){.reason = 45, .qualification = vector});
    else
        evaluate(cpu);
}

static void self_ipi(struct hw_cpu *cpu, uint8_t vector)
{
    set_bit(cpu, VIRR, vector, true);
    if (vector > cpu->rvi)
        cpu->rvi = vector;
    evaluate(cpu);
}

void apic_enter(struct hw_cpu *cpu)
{
    cpu->virtual_interrupt_recognized = false;
    if (delivers(cpu)) {
        uint16_t status = (uint16_t)vmcs_get(cpu, F_GUEST_INTERRUPT_STATUS);
        cpu->rvi = (uint8_t)status;
        cpu->svi = (uint8_t)(status >> 8);
        update_ppr(cpu);
        evaluate(cpu);
    }
}

// VM Exits Induced by the TPR Threshold: also right behind VM entry.
bool apic_exit_behind_entry(struct hw_cpu *cpu)
{
    if (!cpu_has_primary(cpu, PRIMARY_USE_TPR_SHADOW) || delivers(cpu) ||
        !cpu_has_secondary(cpu, SECONDARY_VIRTUALIZE_APIC_ACCESSES) ||
        (page_read(cpu, VTPR) >> 4 & 0xf) >= cpu->c.tpr_threshold)
        return false;
    vm_exit_simple(cpu, 43);
    return true;
}

void apic_leave(struct hw_cpu *cpu)
{
    if (delivers(cpu))
        vmcs_set(cpu, F_GUEST_INTERRUPT_STATUS, (uint64_t)cpu->svi << 8 | cpu->rvi);
}

// Virtual-Interrupt Delivery, at an instruction boundary where interrupts are open.
bool apic_deliver_virtual_interrupt(struct hw_cpu *cpu)
{
    if (!cpu->virtual_interrupt_recognized || !delivers(cpu))
        return false;
    uint8_t vector = cpu->rvi;
    set_bit(cpu, VISR, vector, true);
    cpu->svi = vector;
    page_write(cpu, VPPR, vector & 0xf0u);
    set_bit(cpu, VIRR, vector, false);
    cpu->rvi = highest_bit(cpu, VIRR);
    cpu->virtual_interrupt_recognized = false;
    event_deliver(cpu, (struct event){.valid = true, .type = EVENT_EXTERNAL_INTERRUPT, .vector = vector});
    return true;
}

// --- Posted-Interrupt Processing

#define DESCRIPTOR_ON 32u // byte 32, bit 0: outstanding notification; before it, the 256 posted requests

// An interrupt with the notification vector has been acknowledged: what others posted becomes virtual
// interrupts.
void apic_process_posted_interrupts(struct hw_cpu *cpu)
{
    struct machine *machine = cpu->machine;
    uint64_t descriptor = cpu->c.posted_descriptor;
    memory_write(machine, descriptor + DESCRIPTOR_ON,
                 memory_read(machine, descriptor + DESCRIPTOR_ON, 1) & ~1ull, 1);
    for (unsigned i = 0; i < 8; i++) {
        uint32_t posted = (uint32_t)memory_read(machine, descriptor + 4 * i, 4);
        if (posted == 0)
            continue;
        memory_write(machine, descriptor + 4 * i, 0, 4);
        page_write(cpu, VIRR + 16 * i, page_read(cpu, VIRR + 16 * i) | posted);
        uint8_t highest = (uint8_t)(32 * i + 31 - (unsigned)__builtin_clz(posted));
        if (highest > cpu->rvi)
            cpu->rvi = highest;
    }
    evaluate(cpu);
}

// --- CR8

uint64_t apic_read_cr8(const struct hw_cpu *cpu)
{
    return page_read(cpu, VTPR) >> 4 & 0xf;
}

void apic_write_cr8(struct hw_cpu *cpu, uint64_t value)
{
    page_write(cpu, VTPR, (uint32_t)value << 4);
    tpr_written(cpu);
}

// --- x2APIC MSRs: Virtualizing MSR-Based APIC Accesses

static bool is_x2apic(const struct hw_cpu *cpu, uint32_t msr)
{
    return msr >= 0x800 && msr <= 0x8ff && cpu_has_secondary(cpu, SECONDARY_VIRTUALIZE_X2APIC_MODE);
}

bool apic_reads_msr(const struct hw_cpu *cpu, uint32_t msr, uint64_t *value)
{
    if (!is_x2apic(cpu, msr) ||
        (msr != 0x808 && !cpu_has_secondary(cpu, SECONDARY_APIC_REGISTER_VIRTUALIZATION)))
        return false;
    *value = memory_read(cpu->machine, cpu->c.virtual_apic + (msr & 0xff) * 16, 8);
    return true;
}

bool apic_writes_msr(const struct hw_cpu *cpu, uint32_t msr)
{
    return is_x2apic(cpu, msr) && (msr == 0x808 || (delivers(cpu) && (msr == 0x80b || msr == 0x83f)));
}

bool apic_msr_value_is_valid(uint32_t msr, uint64_t value)
{
    return msr == 0x80b ? value == 0 : !(value >> 8);
}

void apic_write_msr(struct hw_cpu *cpu, uint32_t msr, uint64_t value)
{
    page_write(cpu, (msr & 0xff) * 16, (uint32_t)value);
    if (msr == 0x808)
        tpr_written(cpu);
    else if (msr == 0x80b)
        eoi_written(cpu);
    else if (value & 0xf0)
        self_ipi(cpu, (uint8_t)value);
    else
        vm_exit(cpu, &(struct exit_information){.reason = 56, .qualification = 0x3f0});
}

// --- the APIC-access page: Virtualizing Memory-Mapped APIC Accesses

static bool is_register(unsigned offset)
{
    return !(offset & 0xf) && (offset == 0x20 || offset == 0x30 || offset == 0x80 || offset == 0xb0 ||
                               (offset >= 0xd0 && offset <= 0x170) || (offset >= 0x180 && offset <= 0x280) ||
                               (offset >= 0x300 && offset <= 0x380) || offset == 0x3e0);
}

static bool read_is_virtualized(const struct hw_cpu *cpu, unsigned offset)
{
    if (!cpu_has_primary(cpu, PRIMARY_USE_TPR_SHADOW))
        return false;
    if (cpu_has_secondary(cpu, SECONDARY_APIC_REGISTER_VIRTUALIZATION))
        return is_register(offset);
    return offset == VTPR;
}

static bool write_is_virtualized(const struct hw_cpu *cpu, unsigned offset)
{
    if (!cpu_has_primary(cpu, PRIMARY_USE_TPR_SHADOW))
        return false;
    if (cpu_has_secondary(cpu, SECONDARY_APIC_REGISTER_VIRTUALIZATION))
        return is_register(offset) && !(offset >= VISR && offset <= 0x280) && offset != 0x30;
    return offset == VTPR || (delivers(cpu) && (offset == VEOI || offset == VICR_LO));
}

bool apic_is_access_page(const struct hw_cpu *cpu, uint64_t physical)
{
    return cpu_has_secondary(cpu, SECONDARY_VIRTUALIZE_APIC_ACCESSES) &&
           (physical & PAGE_MASK) == cpu->c.apic_access;
}

void apic_access_exit(struct hw_cpu *cpu, unsigned offset, enum apic_access type)
{
    bool delivering = cpu->vectoring.valid;
    if (delivering)
        type = type == APIC_GUEST_PHYSICAL ? APIC_GUEST_PHYSICAL_DELIVERY : APIC_DELIVERY;
    vm_exit(cpu, &(struct exit_information){.reason = 44, .qualification = offset | (uint64_t)type << 12});
}

// A read or write at a linear address that leads to the page. false: an exit happened instead.
bool apic_access(struct hw_cpu *cpu, unsigned offset, void *buffer, unsigned size, enum access access)
{
    bool write = access == ACCESS_WRITE;
    bool virtualized = size <= 4 && !cpu->vectoring.valid &&
                       (write ? write_is_virtualized(cpu, offset) : read_is_virtualized(cpu, offset));
    if (!virtualized) {
        apic_access_exit(cpu, offset, write ? APIC_WRITE : APIC_READ);
        return false;
    }
    if (!write) {
        uint32_t value = page_read(cpu, offset);
        memcpy(buffer, &value, size);
        return true;
    }
    uint32_t value = 0;
    memcpy(&value, buffer, size);
    page_write(cpu, offset, value);
    cpu->apic_written = (int)offset;
    return true;
}

// APIC-Write Emulation, behind the instruction that wrote.
void apic_emulate_write(struct hw_cpu *cpu)
{
    unsigned offset = (unsigned)cpu->apic_written;
    cpu->apic_written = -1;
    if (offset == VTPR) {
        page_write(cpu, VTPR, page_read(cpu, VTPR) & 0xff);
        tpr_written(cpu);
    } else if (offset == VEOI && delivers(cpu)) {
        eoi_written(cpu);
    } else if (offset == VICR_LO && delivers(cpu) && (page_read(cpu, VICR_LO) & ~0xffu) == 0x40000 &&
               (page_read(cpu, VICR_LO) & 0xf0)) {
        self_ipi(cpu, (uint8_t)page_read(cpu, VICR_LO)); // fixed, edge, to itself
    } else {
        vm_exit(cpu, &(struct exit_information){.reason = 56, .qualification = offset});
    }
}
