// SPDX-License-Identifier: MIT
#include "user.h"
#include "x86.h"

void user_leave(void)
{
    struct cpu *cpu = cpu_self();
    __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss; mov %0, %%fs; mov %0, %%gs"
                     :
                     : "r"(SELECTOR_DATA));
    x86_wrmsr(MSR_GS_BASE, cpu_physical(cpu));
}

void user_run_with(void (*function)(void *), void *argument, uint64_t rflags)
{
    struct cpu *cpu = cpu_self();
    uint64_t stack = cpu_physical(cpu->user_stack + sizeof(cpu->user_stack)) - 8;
    // IRET to an outer level would take away segments that only CPL 0 may use.
    __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%fs; mov %0, %%gs" : : "r"(SELECTOR_USERDATA));
    x86_wrmsr(MSR_GS_BASE, cpu_physical(cpu));
    __asm__ volatile("push %0; push %1; push %2; push %3; push %4; iretq"
                     :
                     : "i"(SELECTOR_USERDATA), "r"(stack), "r"(rflags), "i"(SELECTOR_USER64), "r"(function),
                       "D"(argument)
                     : "memory");
    __builtin_unreachable();
}

void user_run(void (*function)(void *), void *argument)
{
    user_run_with(function, argument, RFLAGS_FIXED);
}

// Instructions with each kind of operand, and INT3 behind each in case it raises no exception. The way in is
// a far return to 32-bit code at the number's entry.
__asm__(".code32\n"
        ".balign 16\n"
        "compatibility_code:\n"
        "vmclear (%ecx); .balign 16, 0xcc\n"
        "vmptrst (%ecx); .balign 16, 0xcc\n"
        "vmread %eax, %ecx; .balign 16, 0xcc\n"
        "vmwrite %eax, %ecx; .balign 16, 0xcc\n"
        "vmlaunch; .balign 16, 0xcc\n"
        "vmcall; .balign 16, 0xcc\n"
        ".code64\n");
extern const uint8_t compatibility_code[];

const char *compatibility_name(uint32_t index)
{
    static const char *const names[COMPATIBILITY_COUNT] = {
        "VMCLEAR in compatibility mode", "VMPTRST in compatibility mode",  "VMREAD in compatibility mode",
        "VMWRITE in compatibility mode", "VMLAUNCH in compatibility mode", "VMCALL in compatibility mode",
    };
    return names[index];
}

void compatibility_run(uint32_t index)
{
    static uint64_t operand;
    __asm__ volatile("push %0; push %1; lretq"
                     :
                     : "i"(SELECTOR_CODE32), "r"(compatibility_code + index * 16), "a"(0), "c"(&operand)
                     : "memory");
    __builtin_unreachable();
}
