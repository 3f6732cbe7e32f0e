// SPDX-License-Identifier: MIT
// What L1 may do by itself where a hypervisor carries it out in its place: control registers, XSETBV at CPL
// 3, and string I/O of its user mode.
#include "first.h"
#include "tables.h"
#include "trap.h"
#include "user.h"
#include "x86.h"

#define PORT_KEYBOARD_STATUS 0x64u
#define NOT_CANONICAL        0x0000900000000000ull
#define CPUID_1_ECX_XSAVE    (1u << 26)
#define PTE_WRITE            2ull
#define PTE_USER             4ull

// Each with CR0.NE or CR4.VMXE as it is and changed with it: those are what a hypervisor cannot leave to L1.
void test_own_control_registers(struct cpu *cpu)
{
    fact_true(cpu, "VMXOFF succeeds", l2_vmx_off());
    uint64_t cr0 = x86_read_cr0() | CR0_WP | CR0_NE, cr4 = x86_read_cr4();
    x86_write_cr0(cr0);
    for (uint32_t i = 0; i < 2; i++) {
        uint64_t ne = i == 0 ? 0 : CR0_NE, vmxe = i == 0 ? 0 : CR4_VMXE;
        fact_trap(cpu, "CR0.PE 0", set_cr0, bits((cr0 & ~CR0_PE) ^ ne), VECTOR_GP, 0);
        fact_trap(cpu, "CR0.PG 0 in 64-bit mode", set_cr0, bits((cr0 & ~CR0_PG) ^ ne), VECTOR_GP, 0);
        fact_trap(cpu, "CR0.NW 1, CD 0", set_cr0, bits((cr0 | CR0_NW) ^ ne), VECTOR_GP, 0);
        fact_trap(cpu, "CR0 bit 40", set_cr0, bits((cr0 | 1ull << 40) ^ ne), VECTOR_GP, 0);
        fact_trap(cpu, "CR4.PAE 0 in IA-32e mode", set_cr4, bits((cr4 & ~CR4_PAE) ^ vmxe), VECTOR_GP, 0);
        fact_trap(cpu, "CR4.LA57 1 in IA-32e mode", set_cr4, bits((cr4 | CR4_LA57) ^ vmxe), VECTOR_GP, 0);
        fact_trap(cpu, "CR4 bit 31", set_cr4, bits((cr4 | 1ull << 31) ^ vmxe), VECTOR_GP, 0);
        fact_true(cpu, "they are as before", x86_read_cr0() == cr0 && x86_read_cr4() == cr4);
        if ((x86_rdmsr(MSR_IA32_VMX_CR4_FIXED1) & CR4_CET) == 0)
            continue;
        fact_no_trap(cpu, "CR4.CET 1", set_cr4, bits(cr4 | CR4_CET));
        fact_trap(cpu, "CR0.WP 0, CET 1", set_cr0, bits((cr0 & ~CR0_WP) ^ ne), VECTOR_GP, 0);
        fact_no_trap(cpu, "CR4.CET 0", set_cr4, bits(cr4));
        fact_no_trap(cpu, "CR0.WP 0", set_cr0, bits((cr0 & ~CR0_WP) ^ ne));
        fact_trap(cpu, "CR4.CET 1, WP 0", set_cr4, bits((cr4 | CR4_CET) ^ vmxe), VECTOR_GP, 0);
        fact_no_trap(cpu, "CR0.WP 1", set_cr0, bits(cr0));
    }
    fact_true(cpu, "VMXON succeeds", l2_vmx_on(cpu));
}

struct at_cpl_3 {
    void (*execute)(void *);
    void *operand;
};

// The I/O privilege level is 3 there. UD2 says that the instruction is done.
static void run_at_cpl_3(void *argument)
{
    const struct at_cpl_3 *what = argument;
    user_run_with(what->execute, what->operand, RFLAGS_FIXED | RFLAGS_IOPL_3);
}

static void do_xsetbv(void *argument)
{
    (void)argument;
    __asm__ volatile("xsetbv; ud2" : : "a"(1), "d"(0), "c"(0));
}

void test_own_xsetbv(struct cpu *cpu)
{
    if (!(x86_cpuid(1, 0).ecx & CPUID_1_ECX_XSAVE))
        return;
    struct at_cpl_3 xsetbv = {do_xsetbv, NULL};
    x86_write_cr4(x86_read_cr4() | CR4_OSXSAVE);
    fact_trap(cpu, "XSETBV at CPL 3", run_at_cpl_3, &xsetbv, VECTOR_GP, 0);
    user_leave();
    fact_trap(cpu, "XSETBV at CPL 0, and UD2 behind it", do_xsetbv, NULL, VECTOR_UD, 0);
    x86_write_cr4(x86_read_cr4() & ~CR4_OSXSAVE);
    fact_trap(cpu, "XSETBV with CR4.OSXSAVE 0", do_xsetbv, NULL, VECTOR_UD, 0);
}

static void do_insb(void *to)
{
    __asm__ volatile("insb; ud2" : "+D"(to) : "d"(PORT_KEYBOARD_STATUS) : "memory");
}

static void do_outsb(void *from)
{
    __asm__ volatile("outsb; ud2" : "+S"(from) : "d"(PORT_KEYBOARD_STATUS) : "memory");
}

// What user mode reaches by it is what it reaches itself.
void test_own_string_io(struct cpu *cpu)
{
    struct tables tables = tables_create(cpu);
    uint64_t page = cpu_physical(cpu_allocate_page(cpu)), cr3 = x86_read_cr3();
    volatile uint8_t *byte = (volatile uint8_t *)(uintptr_t)page;
    const struct {
        const char *name;
        void (*execute)(void *);
        uint64_t entry, at;
        uint32_t vector, error;
    } tries[] = {
        {"INSB into a page of the supervisor's", do_insb, TABLES_BITS & ~PTE_USER, 0, VECTOR_PF, 7},
        {"OUTSB from a page of the supervisor's", do_outsb, TABLES_BITS & ~PTE_USER, 0, VECTOR_PF, 5},
        {"INSB into a read-only page", do_insb, TABLES_BITS & ~PTE_WRITE, 0, VECTOR_PF, 7},
        {"INSB into no page", do_insb, 0, 0, VECTOR_PF, 6},
        {"OUTSB from no page", do_outsb, 0, 0, VECTOR_PF, 4},
        {"INSB to an address that is not canonical", do_insb, 0, NOT_CANONICAL, VECTOR_GP, 0},
        {"OUTSB from an address that is not canonical", do_outsb, 0, NOT_CANONICAL, VECTOR_GP, 0},
        {"INSB into a page of the user's, and UD2 behind it", do_insb, TABLES_BITS, 0, VECTOR_UD, 0},
    };
    x86_write_cr3(tables_cr3(&tables));
    for (uint32_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        struct at_cpl_3 what = {tries[i].execute, bits(tries[i].at != 0 ? tries[i].at : TABLES_WINDOW)};
        *tables.window = tries[i].entry == 0 ? 0 : page | tries[i].entry;
        x86_write_cr3(tables_cr3(&tables));
        *byte = 0xa5; // no status of the keyboard's is that
        fact_trap(cpu, tries[i].name, run_at_cpl_3, &what, tries[i].vector, tries[i].error);
        user_leave();
        fact_true(cpu, "the byte is as it should be", (*byte == 0xa5) == (tries[i].vector != VECTOR_UD));
        if (tries[i].vector == VECTOR_PF)
            fact_true(cpu, "CR2", cpu->trap.cr2 == TABLES_WINDOW);
    }
    x86_write_cr3(cr3);
}
