// SPDX-License-Identifier: MIT
// The processor's instructions that C has no words for, one wrapper each. Nothing here decides anything.
#ifndef SILICON_X86_H
#define SILICON_X86_H

#include <nvmx/types.h>

struct x86_cpuid {
    uint32_t eax, ebx, ecx, edx;
};

static inline struct x86_cpuid x86_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct x86_cpuid result;
    __asm__ volatile("cpuid"
                     : "=a"(result.eax), "=b"(result.ebx), "=c"(result.ecx), "=d"(result.edx)
                     : "a"(leaf), "c"(subleaf));
    return result;
}

// For MSRs that the processor is known to have; hw_rdmsr survives those it has not.
static inline uint64_t x86_rdmsr(uint32_t msr)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return (uint64_t)high << 32 | low;
}
static inline void x86_wrmsr(uint32_t msr, uint64_t value)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline uint8_t x86_in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline uint16_t x86_in16(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline uint32_t x86_in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline void x86_out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}
static inline void x86_out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}
static inline void x86_out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint64_t x86_read_cr0(void)
{
    uint64_t value;
    __asm__ volatile("mov %%cr0, %0" : "=r"(value));
    return value;
}
static inline void x86_write_cr0(uint64_t value)
{
    __asm__ volatile("mov %0, %%cr0" : : "r"(value) : "memory");
}
static inline uint64_t x86_read_cr2(void)
{
    uint64_t value;
    __asm__ volatile("mov %%cr2, %0" : "=r"(value));
    return value;
}
static inline void x86_write_cr2(uint64_t value)
{
    __asm__ volatile("mov %0, %%cr2" : : "r"(value));
}
static inline uint64_t x86_read_cr3(void)
{
    uint64_t value;
    __asm__ volatile("mov %%cr3, %0" : "=r"(value));
    return value;
}
static inline void x86_write_cr3(uint64_t value)
{
    __asm__ volatile("mov %0, %%cr3" : : "r"(value) : "memory");
}
static inline uint64_t x86_read_cr4(void)
{
    uint64_t value;
    __asm__ volatile("mov %%cr4, %0" : "=r"(value));
    return value;
}
static inline void x86_write_cr4(uint64_t value)
{
    __asm__ volatile("mov %0, %%cr4" : : "r"(value) : "memory");
}

static inline uint32_t x86_rdpkru(void) // needs CR4.PKE
{
    uint32_t value, high;
    __asm__ volatile("rdpkru" : "=a"(value), "=d"(high) : "c"(0));
    return value;
}

// The operand of LGDT and LIDT.
struct x86_table_register {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

static inline void x86_lgdt(const struct x86_table_register *table)
{
    __asm__ volatile("lgdt %0" : : "m"(*table));
}
static inline void x86_lidt(const struct x86_table_register *table)
{
    __asm__ volatile("lidt %0" : : "m"(*table));
}
static inline void x86_ltr(uint16_t selector)
{
    __asm__ volatile("ltr %0" : : "r"(selector));
}
static inline void x86_lldt(uint16_t selector)
{
    __asm__ volatile("lldt %0" : : "r"(selector));
}
static inline void x86_load_data_segments(uint16_t selector)
{
    __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es\n\tmov %0, %%ss\n\tmov %0, %%fs\n\tmov %0, %%gs"
                     :
                     : "r"((uint32_t)selector)
                     : "memory");
}
// CS changes only by a far transfer: a far return to the next instruction.
static inline void x86_load_cs(uint16_t selector)
{
    __asm__ volatile("pushq %0\n\tleaq 1f(%%rip), %%rax\n\tpushq %%rax\n\tlretq\n1:"
                     :
                     : "r"((uint64_t)selector)
                     : "rax", "memory");
}

// The 8 bytes that GS points at.
static inline uint64_t x86_read_gs_0(void)
{
    uint64_t value;
    __asm__("mov %%gs:0, %0" : "=r"(value));
    return value;
}

// Copy and fill, ascending; the pointers are past the end afterwards.
static inline void x86_rep_movs(void **to, const void **from, size_t words, size_t bytes)
{
    __asm__ volatile("rep movsq" : "+D"(*to), "+S"(*from), "+c"(words) : : "memory");
    __asm__ volatile("rep movsb" : "+D"(*to), "+S"(*from), "+c"(bytes) : : "memory");
}
static inline void x86_rep_stos(void **to, uint64_t pattern, size_t words, size_t bytes)
{
    __asm__ volatile("rep stosq" : "+D"(*to), "+c"(words) : "a"(pattern) : "memory");
    __asm__ volatile("rep stosb" : "+D"(*to), "+c"(bytes) : "a"(pattern) : "memory");
}

// NMIs are blocked from one's delivery (or VM exit) to the next IRET: here is one, to the next instruction.
static inline void x86_unblock_nmi(void)
{
    uint64_t scratch;
    __asm__ volatile("mov %%rsp, %0\n\t"
                     "mov %%ss, %%ecx\n\tpushq %%rcx\n\tpushq %0\n\tpushfq\n\t"
                     "mov %%cs, %%ecx\n\tpushq %%rcx\n\tleaq 1f(%%rip), %%rcx\n\tpushq %%rcx\n\t"
                     "iretq\n1:"
                     : "=&r"(scratch)
                     :
                     : "rcx", "cc", "memory");
}

static inline void x86_wbinvd(void)
{
    __asm__ volatile("wbinvd" : : : "memory");
}
static inline void x86_invlpg(uint64_t linear)
{
    __asm__ volatile("invlpg (%0)" : : "r"(linear) : "memory");
}

static inline void x86_pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}
static inline void x86_hlt(void)
{
    __asm__ volatile("hlt" : : : "memory");
}
static inline void x86_cli(void)
{
    __asm__ volatile("cli" : : : "memory");
}
static inline uint64_t x86_rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

#endif
