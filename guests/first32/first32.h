// SPDX-License-Identifier: MIT
// guests/first32: an L1 in 32-bit protected mode. What differs from 64-bit mode: operands of 32 bits, segment
// bases and limits, 64-bit fields by halves, a VM exit to a 32-bit host. Written down like guests/first does.
#ifndef FIRST32_H
#define FIRST32_H

#include <nvmx/controls.h>
#include <nvmx/types.h>
#include <nvmx/vmcs.h>

enum exit_reason {
#define EXIT(number, name, route, info) EXIT_##name = (number),
#include <nvmx/exits.def>
#undef EXIT
};

#define SELECTOR_CODE  0x08u
#define SELECTOR_DATA  0x10u
#define SELECTOR_TSS   0x18u
#define SELECTOR_BASED 0x20u // data with base BASED_BASE
#define SELECTOR_SHORT 0x28u // data with base SHORT_BASE and limit SHORT_LIMIT
#define BASED_BASE     0x10000u
#define SHORT_LIMIT    0xfffu

// console.c
void console_init(void);
void console_print(const char *text);
void console_print_number(uint32_t value, uint32_t base);
void console_stop(void) __attribute__((noreturn));
void fact(const char *name, uint32_t value, uint32_t expected);
extern uint32_t fact_count, wrong_count;

// tables.c: page tables, GDT, IDT
extern uint8_t short_segment[];
void tables_init(void);
void tables_load_segments(void);
uint32_t tables_gdt(void);
uint32_t tables_idt(void);
uint32_t tables_tss(void);
uint32_t tables_directory(void); // CR3 with 32-bit paging, 4-MByte pages, the first 4 GiB mapped identically
uint32_t tables_pae(uint32_t n); // CR3 with PAE paging, as above; n 0 or 1: two of them
void tables_pae_spoil(uint32_t n, uint32_t gib);

// start.S
bool catch_exception(void (*function)(void));
extern uint32_t exception_vector, exception_error, exception_eip;
uint32_t enter_l2(uint32_t registers[8], uint32_t launch);

// l2.c
struct l2 {
    uint32_t registers[8];
    uint32_t launched;
};
#define EAX 0
#define EBX 3
uint64_t *l2_page(void); // a zeroed page, never given back
void l2_create(struct l2 *l2, void (*code)(void));
void l2_restart(void (*code)(void));
uint32_t l2_read(uint32_t encoding);
void l2_write(uint32_t encoding, uint32_t value);
void l2_write_64(uint32_t encoding, uint64_t value); // both halves
bool fact_exit(struct l2 *l2, const char *name, uint32_t reason);
bool fact_call(struct l2 *l2, const char *name, uint32_t number); // VMCALL, which is skipped
void l2_skip(void);
uint32_t l2_revision(void);

#define INSTRUCTION_STATUS(carry, zero) ((carry) ? 1u : (zero) ? 2u : 0u)

static inline uint32_t vmx_vmwrite(uint32_t encoding, uint32_t value)
{
    bool carry, zero;
    __asm__ volatile("vmwrite %2, %3" : "=@ccc"(carry), "=@ccz"(zero) : "r"(value), "r"(encoding) : "memory");
    return INSTRUCTION_STATUS(carry, zero);
}

static inline uint32_t vmx_vmread(uint32_t encoding, uint32_t *value)
{
    bool carry, zero;
    uint32_t read = *value;
    __asm__ volatile("vmread %3, %2" : "=@ccc"(carry), "=@ccz"(zero), "+r"(read) : "r"(encoding) : "memory");
    *value = read;
    return INSTRUCTION_STATUS(carry, zero);
}

#define POINTER_INSTRUCTION(name)                                                                            \
    static inline uint32_t vmx_##name(uint64_t address)                                                      \
    {                                                                                                        \
        bool carry, zero;                                                                                    \
        __asm__ volatile(#name " %2" : "=@ccc"(carry), "=@ccz"(zero) : "m"(address) : "memory");             \
        return INSTRUCTION_STATUS(carry, zero);                                                              \
    }
POINTER_INSTRUCTION(vmxon)
POINTER_INSTRUCTION(vmclear)
POINTER_INSTRUCTION(vmptrld)
#undef POINTER_INSTRUCTION

static inline uint32_t l2_call(uint32_t number)
{
    __asm__ volatile("vmcall" : "+a"(number) : : "memory");
    return number;
}

#define REGISTER(name)                                                                                       \
    static inline uint32_t read_##name(void)                                                                 \
    {                                                                                                        \
        uint32_t value;                                                                                      \
        __asm__ volatile("mov %%" #name ", %0" : "=r"(value) : : "memory");                                  \
        return value;                                                                                        \
    }                                                                                                        \
    static inline void write_##name(uint32_t value)                                                          \
    {                                                                                                        \
        __asm__ volatile("mov %0, %%" #name : : "r"(value) : "memory");                                      \
    }
REGISTER(cr0)
REGISTER(cr3)
REGISTER(cr4)
#undef REGISTER

static inline uint64_t read_msr(uint32_t msr)
{
    uint64_t value;
    __asm__ volatile("rdmsr" : "=A"(value) : "c"(msr));
    return value;
}

#endif
