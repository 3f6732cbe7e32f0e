// SPDX-License-Identifier: MIT
// The local APIC of the calling processor, in xAPIC or x2APIC mode. It is L1's: L0 uses it to start the
// processors before L1 exists, and to stop them when all is over.
#ifndef PLASTRON_APIC_H
#define PLASTRON_APIC_H

#include <stdbool.h>
#include <stdint.h>

#define APIC_BASE_BSP     (1ull << 8)
#define APIC_BASE_X2APIC  (1ull << 10)
#define APIC_BASE_ENABLE  (1ull << 11)
#define APIC_BASE_ADDRESS 0x000ffffffffff000ull

// Register offsets in xAPIC mode; the x2APIC MSR is 0x800 + offset / 16.
#define APIC_ID            0x020u
#define APIC_VERSION       0x030u
#define APIC_TPR           0x080u
#define APIC_PPR           0x0a0u
#define APIC_EOI           0x0b0u
#define APIC_LDR           0x0d0u
#define APIC_DFR           0x0e0u
#define APIC_SVR           0x0f0u
#define APIC_ISR           0x100u // eight registers, 0x10 apart; TMR and IRR follow
#define APIC_ISR_LAST      0x170u
#define APIC_TMR           0x180u
#define APIC_TMR_LAST      0x1f0u
#define APIC_IRR           0x200u
#define APIC_IRR_LAST      0x270u
#define APIC_ESR           0x280u
#define APIC_LVT_CMCI      0x2f0u
#define APIC_ICR           0x300u
#define APIC_ICR_HIGH      0x310u
#define APIC_LVT_TIMER     0x320u
#define APIC_LVT_THERMAL   0x330u
#define APIC_LVT_PERF      0x340u
#define APIC_LVT_LINT0     0x350u
#define APIC_LVT_LINT1     0x360u
#define APIC_LVT_ERROR     0x370u
#define APIC_INITIAL_COUNT 0x380u
#define APIC_CURRENT_COUNT 0x390u
#define APIC_DIVIDE        0x3e0u
#define APIC_SELF_IPI      0x3f0u // x2APIC only

#define APIC_X2APIC_FIRST 0x800u
#define APIC_X2APIC_LAST  0x8ffu

// Interrupt Command Register (ICR), low half
#define ICR_VECTOR          0xffu
#define ICR_LOWEST_PRIORITY (1u << 8)
#define ICR_DELIVERY_MODE   (7u << 8)
#define ICR_INIT            (5u << 8)
#define ICR_STARTUP         (6u << 8)
#define ICR_LOGICAL         (1u << 11)
#define ICR_PENDING         (1u << 12)
#define ICR_ASSERT          (1u << 14)
#define ICR_SHORTHAND       (3u << 18)
#define ICR_SELF            (1u << 18)
#define ICR_ALL_BUT_SELF    (3u << 18)

uint32_t apic_read(uint32_t offset);
void apic_write(uint32_t offset, uint32_t value);
void apic_send(uint32_t destination, uint32_t command); // the ICR's halves

// The registers of the calling processor, number cpu_index, are where its IA32_APIC_BASE says: to be called
// when L0 has its own page tables, by each processor before it uses them, and when L1 moves them.
void apic_follow(uint32_t cpu_index);

void apic_enable(void); // firmware may have left it disabled
uint32_t apic_id(void);
bool apic_interrupt_is_due(void); // one would be delivered if RFLAGS.IF were 1
void apic_send_init(uint32_t destination);
void apic_send_startup(uint32_t destination, uint8_t vector);
void apic_send_init_to_others(void);

// The registers as after INIT (mode and ID stay).
void apic_reset(void);

#endif
