// SPDX-License-Identifier: MIT
// The local APIC's registers are where L1 says, also while L1 has L2s. Manual: Relocating the Local APIC
// Registers.
#include "apic.h"
#include "first.h"
#include "l2_code.h"
#include "x86.h"

#define MSR_APIC_BASE   0x1bu
#define BASE_FLAGS      0xfffull
#define REGISTER_ID     (0x20 / 4)
#define REGISTER_TPR    (0x80 / 4)
#define FAR_AWAY        (1ull << 32) // beyond the RAM of every machine that this is tried on
#define CPUID_ADDRESSES 0x80000008u

static uint64_t base_written[CPU_MAX];

static void write_base(void *value)
{
    x86_wrmsr(MSR_APIC_BASE, *(const uint64_t *)value);
}

static void l2_halts(void)
{
    __asm__ volatile("hlt; vmcall");
}

void test_apic_base(struct cpu *cpu)
{
    volatile uint32_t *page = cpu_allocate_page(cpu);
    uint64_t home = x86_rdmsr(MSR_APIC_BASE), flags = home & BASE_FLAGS;
    struct l2 *l2 = l2_create(cpu, l2_halts);
    page[REGISTER_ID] = 0x12345678;
    x86_wrmsr(MSR_APIC_BASE, cpu_physical((const void *)page) | flags);
    fact_true(cpu, "IA32_APIC_BASE has moved",
              x86_rdmsr(MSR_APIC_BASE) == (cpu_physical((const void *)page) | flags));
    fact_true(cpu, "the identifier is read there", page[REGISTER_ID] >> 24 == cpu->apic_id);
    page[REGISTER_TPR] = 0x20;
    fact(cpu, "CR8", x86_read_cr8(), 2);
    page[REGISTER_TPR] = 0;
    fact_exit(cpu, l2, "L2, meanwhile", EXIT_HLT);
    x86_wrmsr(MSR_APIC_BASE, FAR_AWAY | flags);
    fact(cpu, "RAM is RAM again", page[REGISTER_ID], 0x12345678);
    l2_write(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
    fact_exit(cpu, l2, "L2, with the registers far away", EXIT_HLT);
    x86_wrmsr(MSR_APIC_BASE, home);
    fact(cpu, "the identifier at home", apic_id(), cpu->apic_id);

    uint64_t width = x86_cpuid(CPUID_ADDRESSES, 0).eax & 0xff;
    base_written[cpu->index] = 1ull << width | flags;
    fact_trap(cpu, "a base beyond the physical-address width", write_base, &base_written[cpu->index],
              VECTOR_GP, 0);
    base_written[cpu->index] = home | 1;
    fact_trap(cpu, "a reserved bit", write_base, &base_written[cpu->index], VECTOR_GP, 0);
    fact_true(cpu, "nothing has changed", x86_rdmsr(MSR_APIC_BASE) == home);
}
