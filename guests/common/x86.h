// SPDX-License-Identifier: MIT
// Instructions that C has no word for, one wrapper each.
#ifndef GUEST_X86_H
#define GUEST_X86_H

#include <nvmx/controls.h>
#include <nvmx/types.h>

static inline void x86_out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t x86_in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void x86_pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

struct x86_cpuid {
    uint32_t eax, ebx, ecx, edx;
};

static inline struct x86_cpuid x86_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct x86_cpuid r;
    __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
    return r;
}

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

// LFENCE on both sides: nothing that is measured moves out of the measured stretch.
static inline uint64_t x86_rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

#define X86_REGISTER(name)                                                                                   \
    static inline uint64_t x86_read_##name(void)                                                             \
    {                                                                                                        \
        uint64_t value;                                                                                      \
        __asm__ volatile("mov %%" #name ", %0" : "=r"(value) : : "memory");                                  \
        return value;                                                                                        \
    }                                                                                                        \
    static inline void x86_write_##name(uint64_t value)                                                      \
    {                                                                                                        \
        __asm__ volatile("mov %0, %%" #name : : "r"(value) : "memory");                                      \
    }
X86_REGISTER(cr0)
X86_REGISTER(cr2)
X86_REGISTER(cr3)
X86_REGISTER(cr4)
X86_REGISTER(cr8)
X86_REGISTER(dr0)
X86_REGISTER(dr3)
X86_REGISTER(dr6)
X86_REGISTER(dr7)
#undef X86_REGISTER

#define X86_SELECTOR(name)                                                                                   \
    static inline uint16_t x86_read_##name(void)                                                             \
    {                                                                                                        \
        uint16_t value;                                                                                      \
        __asm__ volatile("mov %%" #name ", %0" : "=rm"(value));                                              \
        return value;                                                                                        \
    }
X86_SELECTOR(cs)
X86_SELECTOR(ss)
X86_SELECTOR(ds)
X86_SELECTOR(es)
X86_SELECTOR(fs)
X86_SELECTOR(gs)
#undef X86_SELECTOR

struct x86_table_pointer {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

static inline struct x86_table_pointer x86_sgdt(void)
{
    struct x86_table_pointer pointer;
    __asm__ volatile("sgdt %0" : "=m"(pointer));
    return pointer;
}

static inline struct x86_table_pointer x86_sidt(void)
{
    struct x86_table_pointer pointer;
    __asm__ volatile("sidt %0" : "=m"(pointer));
    return pointer;
}

static inline void x86_lgdt(struct x86_table_pointer pointer)
{
    __asm__ volatile("lgdt %0" : : "m"(pointer));
}

static inline void x86_lidt(struct x86_table_pointer pointer)
{
    __asm__ volatile("lidt %0" : : "m"(pointer));
}

static inline uint16_t x86_str(void)
{
    uint16_t value;
    __asm__ volatile("str %0" : "=rm"(value));
    return value;
}

static inline uint16_t x86_sldt(void)
{
    uint16_t value;
    __asm__ volatile("sldt %0" : "=rm"(value));
    return value;
}

static inline void x86_ltr(uint16_t selector)
{
    __asm__ volatile("ltr %0" : : "rm"(selector));
}

static inline void x86_lldt(uint16_t selector)
{
    __asm__ volatile("lldt %0" : : "rm"(selector));
}

static inline uint64_t x86_read_rflags(void)
{
    uint64_t value;
    __asm__ volatile("pushfq; pop %0" : "=rm"(value));
    return value;
}

static inline void x86_invlpg(uint64_t linear)
{
    __asm__ volatile("invlpg (%0)" : : "r"(linear) : "memory");
}

// STI's shadow covers the first NOP: what is pending arrives behind it, before CLI.
static inline void x86_take_interrupts(void)
{
    __asm__ volatile("sti; nop; nop; cli" : : : "memory");
}

static inline void x86_cli(void)
{
    __asm__ volatile("cli" : : : "memory");
}

#endif
