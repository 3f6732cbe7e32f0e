// SPDX-License-Identifier: MIT
// Exits that need some preparation: XSETBV, task switches, PAUSE loops; TSC scaling; XSAVES.
#include "first.h"
#include "l2_modes.h"
#include "trap.h"
#include "x86.h"

#define CPUID_1_ECX_XSAVE  (1u << 26)
#define CPUID_D_1_XSAVES   (1u << 3)
#define TSC_MULTIPLIER_ONE (1ull << 48)
#define SELECTOR_OTHER_TSS 0x48u
#define SELECTOR_TASK_GATE 0x50u

static void l2_xsetbv(void)
{
    __asm__ volatile("xsetbv" : : "a"(1), "d"(0), "c"(0));
}

void test_xsetbv(struct cpu *cpu)
{
    if (!(x86_cpuid(1, 0).ecx & CPUID_1_ECX_XSAVE))
        return;
    struct l2 *l2 = l2_create(cpu, l2_xsetbv);
    l2_set(VMCS_GUEST_CR4, CR4_OSXSAVE);
    if (!fact_exit_skip(cpu, l2, "XSETBV", EXIT_XSETBV, 3))
        return;
    fact(cpu, "L2's RAX", l2->gpr[GPR_RAX], 1);
    fact_call(cpu, l2, "L2 returns", L2_RETURNED);
}

static void xsaves(void *area)
{
    __asm__ volatile("xsaves64 (%0)" : : "r"(area), "a"(0), "d"(0) : "memory");
}

static void l2_xsaves(void)
{
    struct cpu *cpu = cpu_self();
    bool trapped = trap_catch(xsaves, (void *)(uintptr_t)cpu->argument[0]);
    l2_call(trapped ? 0x100 + cpu->trap.vector : 0);
}

void test_xsaves(struct cpu *cpu)
{
    if (!(x86_cpuid(0xd, 1).eax & CPUID_D_1_XSAVES) ||
        !fact_offered(cpu, "XSAVES", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_XSAVES))
        return;
    cpu->argument[0] = cpu_physical(cpu_allocate_page(cpu));
    struct l2 *l2 = l2_create(cpu, l2_xsaves);
    l2_set(VMCS_GUEST_CR4, CR4_OSXSAVE);
    fact_call(cpu, l2, "XSAVES not enabled: #UD", 0x106);
    l2_set_secondary(SECONDARY_ENABLE_XSAVES);
    l2_write(VMCS_XSS_EXITING_BITMAP, 0);
    l2_restart(l2, l2_xsaves);
    fact_call(cpu, l2, "XSAVES enabled: no exception", 0);
}

// 32-bit L2 with a GDT of its own: a TSS that is available, and a task gate to it.
void test_task_switches(struct cpu *cpu)
{
    static const uint64_t data32 = 0x00cf93000000ffff, code32 = 0x00cf9b000000ffff;
    uint64_t *gdt = cpu_allocate_page(cpu), tss = cpu_physical(cpu_allocate_page(cpu));
    gdt[SELECTOR_DATA / 8] = data32;
    gdt[SELECTOR_CODE32 / 8] = code32;
    gdt[SELECTOR_OTHER_TSS / 8] = 0x67 | (tss & 0xffffff) << 16 | 0x89ull << 40 | (tss >> 24 & 0xff) << 56;
    gdt[SELECTOR_TASK_GATE / 8] = (uint64_t)SELECTOR_OTHER_TSS << 16 | 0x85ull << 40;
    struct l2 *l2 = modes_create_protected_mode(cpu, modes_task_switches);
    l2_write(VMCS_GUEST_GDTR_BASE, cpu_physical(gdt));
    l2_write(VMCS_GUEST_GDTR_LIMIT, 0xff);
    if (!fact_exit_skip(cpu, l2, "far JMP to a TSS", EXIT_TASK_SWITCH, 7))
        return;
    fact(cpu, "its qualification: JMP, selector", l2_read(VMCS_EXIT_QUALIFICATION),
         2u << 30 | SELECTOR_OTHER_TSS);
    fact_exit_skip(cpu, l2, "far CALL to a task gate", EXIT_TASK_SWITCH, 7);
    fact(cpu, "its qualification: CALL, the TSS's selector", l2_read(VMCS_EXIT_QUALIFICATION),
         SELECTOR_OTHER_TSS);
    fact_call(cpu, l2, "L2 goes on", 1);
}

static void l2_pauses(void)
{
    for (uint32_t i = 0; i < 1000; i++)
        x86_pause();
}

void test_pause_loop(struct cpu *cpu)
{
    if (!fact_offered(cpu, "PAUSE-loop exiting", VMCS_SECONDARY_CONTROLS, SECONDARY_PAUSE_LOOP_EXITING))
        return;
    struct l2 *l2 = l2_create(cpu, l2_pauses);
    l2_set_secondary(SECONDARY_PAUSE_LOOP_EXITING);
    l2_write(VMCS_PLE_GAP, 10000);
    l2_write(VMCS_PLE_WINDOW, 0xffffffff);
    fact_call(cpu, l2, "a window larger than L2's loop: L2 returns", L2_RETURNED);
    l2_write(VMCS_PLE_WINDOW, 100);
    l2_restart(l2, l2_pauses);
    fact_exit(cpu, l2, "a small window", EXIT_PAUSE);
}

static void l2_tsc(void)
{
    l2_call(x86_rdtsc());
}

void test_tsc_scaling(struct cpu *cpu)
{
    if (!fact_offered(cpu, "TSC scaling", VMCS_SECONDARY_CONTROLS, SECONDARY_USE_TSC_SCALING))
        return;
    const uint64_t offset = 1ull << 40;
    struct l2 *l2 = l2_create(cpu, l2_tsc);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TSC_OFFSETTING);
    l2_set_secondary(SECONDARY_USE_TSC_SCALING);
    l2_write(VMCS_TSC_OFFSET, offset);
    l2_write(VMCS_TSC_MULTIPLIER, 2 * TSC_MULTIPLIER_ONE + TSC_MULTIPLIER_ONE / 2);
    uint64_t before = x86_rdtsc();
    fact_exit(cpu, l2, "the TSC times 2.5 and an offset", EXIT_VMCALL);
    uint64_t after = x86_rdtsc(), seen = l2->gpr[GPR_RAX] - offset;
    fact_true(cpu, "L2's lies between L1's", before * 5 / 2 <= seen && seen <= after * 5 / 2);
    l2_write(VMCS_TSC_MULTIPLIER, 0);
    l2_restart(l2, l2_tsc);
    fact_status(cpu, "multiplier 0", l2_enter(l2), 7);
}
