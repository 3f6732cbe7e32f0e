// SPDX-License-Identifier: MIT
// Control registers under masks and shadows, CR3-target values, CR8 and the TPR shadow, debug registers, the
// TSC.
#include "apic.h"
#include "first.h"
#include "trap.h"
#include "x86.h"

#define MSR_IA32_TSC 0x10u
#define TSC_OFFSET   (1ull << 40)

static void fact_cr_exit(struct cpu *cpu, struct l2 *l2, const char *name, uint64_t qualification)
{
    if (!fact_exit(cpu, l2, name, EXIT_CONTROL_REGISTER_ACCESS))
        return;
    fact(cpu, "its exit qualification", l2_read(VMCS_EXIT_QUALIFICATION), qualification);
    l2_skip();
}

// 0, or 0x100 + vector.
static uint64_t l2_outcome(void (*function)(void *), uint64_t value)
{
    return trap_catch(function, (void *)(uintptr_t)value) ? 0x100 + cpu_self()->trap.vector : 0;
}

#define SET_CR0_FROM_RBX(value) __asm__ volatile("mov %0, %%cr0" : : "b"(value) : "memory")
#define SET_CR4_FROM_RDI(value) __asm__ volatile("mov %0, %%cr4" : : "D"(value) : "memory")

static void l2_cr0(void)
{
    uint64_t cr0 = x86_read_cr0();
    l2_call(cr0);                    // mask TS and NE; shadow: TS 1, NE 0
    SET_CR0_FROM_RBX(cr0 & ~CR0_WP); // no masked bit changes: no exit
    l2_call(x86_read_cr0());
    SET_CR0_FROM_RBX(cr0 & ~CR0_TS);           // exits
    __asm__ volatile("clts");                  // exits
    __asm__ volatile("lmsw %w0" : : "c"(0x1)); // TS 0: exits
    __asm__ volatile("lmsw %w0" : : "c"(0x9)); // TS 1 and PE 1, as in the shadow: no exit
    uint64_t word;
    __asm__ volatile("smsw %0" : "=r"(word));
    l2_call(word & 0xffff);
    l2_call(l2_outcome(set_cr0, cr0 & ~CR0_PG)); // not in 64-bit mode
    l2_call(l2_outcome(set_cr0, cr0 | 1ull << 40));
}

void test_cr0_mask(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_cr0);
    uint64_t real = x86_read_cr0();
    l2_write(VMCS_CR0_GUEST_HOST_MASK, CR0_TS | CR0_NE);
    l2_write(VMCS_CR0_READ_SHADOW, CR0_TS);
    uint64_t seen = (real & ~CR0_NE) | CR0_TS;
    fact_call(cpu, l2, "L2 reads CR0", seen);
    fact_call(cpu, l2, "L2 cleared CR0.WP itself and reads", seen & ~CR0_WP);
    fact(cpu, "guest CR0", l2_read(VMCS_GUEST_CR0), real & ~CR0_WP);
    fact_true(cpu, "L1's own CR0 is as before", x86_read_cr0() == real);
    fact_cr_exit(cpu, l2, "MOV to CR0 with TS 0", 0x300);
    fact_cr_exit(cpu, l2, "CLTS", 0x20);
    fact_cr_exit(cpu, l2, "LMSW with TS 0", 0x1 << 16 | 0x30);
    fact_call(cpu, l2, "LMSW that changes nothing of L1's; SMSW reads", (seen & 0xffff & ~0xeull) | CR0_TS);
    fact_call(cpu, l2, "MOV to CR0 with PG 0: #GP in L2", 0x10d);
    fact_call(cpu, l2, "MOV to CR0 with bit 40 set: #GP in L2", 0x10d);
    fact(cpu, "guest CR0.TS", l2_read(VMCS_GUEST_CR0) & CR0_TS, 0);
}

static void l2_clts(void)
{
    __asm__ volatile("clts");
    l2_call(x86_read_cr0() & CR0_TS);
}

// CLTS where TS is L1's: exits if the shadow says 1, does nothing at all if it says 0.
void test_clts(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_clts);
    l2_set(VMCS_GUEST_CR0, CR0_TS);
    l2_write(VMCS_CR0_GUEST_HOST_MASK, CR0_TS);
    l2_write(VMCS_CR0_READ_SHADOW, 0);
    fact_call(cpu, l2, "CLTS with TS masked, shadow 0: L2 reads TS", 0);
    fact(cpu, "guest CR0.TS", l2_read(VMCS_GUEST_CR0) & CR0_TS, CR0_TS);
    l2_write(VMCS_CR0_GUEST_HOST_MASK, 0);
    l2_restart(l2, l2_clts);
    fact_call(cpu, l2, "CLTS with TS not masked: L2 reads TS", 0);
    fact(cpu, "guest CR0.TS", l2_read(VMCS_GUEST_CR0) & CR0_TS, 0);
}

static void l2_cr4(void)
{
    uint64_t cr4 = x86_read_cr4();
    l2_call(cr4);
    SET_CR4_FROM_RDI(cr4 | CR4_PGE); // not masked
    l2_call(x86_read_cr4());
    SET_CR4_FROM_RDI(cr4 | CR4_VMXE); // exits
    l2_call(l2_outcome(set_cr4, cr4 & ~CR4_PAE));
    l2_call(l2_outcome(set_cr4, cr4 | 1ull << 31));
}

static void l2_clear_vmxe(void)
{
    l2_call(l2_outcome(set_cr4, x86_read_cr4() & ~CR4_VMXE));
}

void test_cr4_mask(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_cr4);
    uint64_t real = x86_read_cr4(), seen = real & ~CR4_VMXE;
    l2_write(VMCS_CR4_GUEST_HOST_MASK, CR4_VMXE);
    l2_write(VMCS_CR4_READ_SHADOW, 0);
    fact_call(cpu, l2, "L2 reads CR4", seen);
    fact_call(cpu, l2, "L2 set CR4.PGE itself and reads", seen | CR4_PGE);
    fact(cpu, "guest CR4", l2_read(VMCS_GUEST_CR4), real | CR4_PGE);
    fact_true(cpu, "L1's own CR4 is as before", x86_read_cr4() == real);
    fact_cr_exit(cpu, l2, "MOV to CR4 with VMXE 1", 0x704);
    fact_call(cpu, l2, "MOV to CR4 with PAE 0: #GP in L2", 0x10d);
    fact_call(cpu, l2, "MOV to CR4 with bit 31 set: #GP in L2", 0x10d);
    l2_write(VMCS_CR4_GUEST_HOST_MASK, 0);
    l2_write(VMCS_GUEST_CR4, real);
    l2_restart(l2, l2_clear_vmxe);
    fact_call(cpu, l2, "MOV to CR4 with VMXE 0, not masked: #GP in L2", 0x10d);
}

#define SET_CR3_FROM_RSI(value) __asm__ volatile("mov %0, %%cr3" : : "S"(value) : "memory")

static void l2_cr3_targets(void)
{
    uint64_t cr3 = x86_read_cr3();
    SET_CR3_FROM_RSI(cr3); // the second target
    l2_call(1);
    SET_CR3_FROM_RSI(cr3 | 0x18); // PCD and PWT: another value
    SET_CR3_FROM_RSI(0xfffffff000ul);
    l2_call(2);
}

void test_cr3_targets(struct cpu *cpu)
{
    if (!fact_offered(cpu, "CR3-load exiting", VMCS_PRIMARY_CONTROLS, PRIMARY_CR3_LOAD_EXITING))
        return;
    fact_true(cpu, "at least 2 CR3-target values",
              (x86_rdmsr(MSR_IA32_VMX_MISC) >> MISC_CR3_TARGET_SHIFT & 0x1ff) >= 2);
    struct l2 *l2 = l2_create(cpu, l2_cr3_targets);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_CR3_LOAD_EXITING);
    l2_write(VMCS_CR3_TARGET_0, 0xfffffff000);
    l2_write(VMCS_CR3_TARGET_1, x86_read_cr3());
    l2_write(VMCS_CR3_TARGET_COUNT, 2);
    fact_call(cpu, l2, "MOV to CR3 of a target value", 1);
    fact_cr_exit(cpu, l2, "MOV to CR3 of another value", 0x603);
    fact(cpu, "L2's RSI", l2->gpr[GPR_RSI] & 0xfff, 0x18);
    l2_write(VMCS_CR3_TARGET_0, 0);
    fact_cr_exit(cpu, l2, "MOV to CR3 of what is no target any more", 0x603);
    fact_call(cpu, l2, "L2 goes on", 2);
    fact_true(cpu, "guest CR3 is L1's", l2_read(VMCS_GUEST_CR3) == x86_read_cr3());
    l2_write(VMCS_CR3_TARGET_COUNT, 0);
    l2_restart(l2, l2_cr3_targets);
    fact_cr_exit(cpu, l2, "MOV to CR3 without targets", 0x603);
}

static void l2_cr8(void)
{
    l2_call(x86_read_cr8());
    x86_write_cr8(9);
    l2_call(x86_read_cr8());
    x86_write_cr8(3);
    l2_call(x86_read_cr8());
}

// With a TPR shadow, L2's CR8 is a byte of the virtual-APIC page; without any control it is the processor's.
void test_cr8(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_cr8);
    x86_write_cr8(2);
    fact_call(cpu, l2, "no control: L2 reads L1's CR8", 2);
    fact_call(cpu, l2, "L2 writes and reads CR8", 9);
    fact(cpu, "L1's CR8", x86_read_cr8(), 9);
    x86_write_cr8(0);
    if (!fact_offered(cpu, "TPR shadow", VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW))
        return;
    l2 = l2_create(cpu, l2_cr8);
    uint8_t *virtual_apic = cpu_allocate_page(cpu);
    virtual_apic[0x80] = 0x50;
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW);
    l2_write(VMCS_VIRTUAL_APIC_ADDRESS, cpu_physical(virtual_apic));
    l2_write(VMCS_TPR_THRESHOLD, 4);
    fact_call(cpu, l2, "TPR shadow: L2 reads CR8", 5);
    fact_call(cpu, l2, "L2 writes and reads CR8", 9);
    fact(cpu, "L1's CR8", x86_read_cr8(), 0);
    fact(cpu, "the virtual TPR", virtual_apic[0x80], 0x90);
    fact_exit(cpu, l2, "L2 writes CR8 below the threshold", EXIT_TPR_BELOW_THRESHOLD);
    fact(cpu, "the virtual TPR", virtual_apic[0x80], 0x30);
    l2_write(VMCS_TPR_THRESHOLD, 3);
    fact_call(cpu, l2, "L2 goes on and reads CR8", 3);
    l2_write(VMCS_TPR_THRESHOLD, 4);
    fact_status(cpu, "VM entry with the virtual TPR below the threshold", l2_enter(l2), 7);
    fact(cpu, "L1's CR8", x86_read_cr8(), 0);
}

static void l2_debug_registers(void)
{
    x86_write_dr0(0x4444);
    x86_write_dr7(0x702); // G0, and a breakpoint that is not hit
    l2_call(x86_read_dr3());
    l2_call(x86_read_dr7());
}

// DR0 to DR3 and DR6 are shared by L1 and L2, DR7 is not.
void test_debug_registers(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_debug_registers);
    x86_write_dr3(0x3333);
    fact_call(cpu, l2, "L2 reads the DR3 that L1 wrote", 0x3333);
    fact(cpu, "L1 reads the DR0 that L2 wrote", x86_read_dr0(), 0x4444);
    fact(cpu, "L1's DR7 after the exit", x86_read_dr7(), 0x400);
    fact(cpu, "guest DR7 is saved", l2_read(VMCS_GUEST_DR7), 0x702);
    fact_call(cpu, l2, "L2 reads its DR7", 0x702);
    x86_write_dr0(0);
    x86_write_dr3(0);
}

static void l2_tsc(void)
{
    uint64_t tsc = x86_rdtsc();
    l2_call(tsc);
    l2_call(x86_rdmsr(MSR_IA32_TSC));
}

static void fact_tsc(struct cpu *cpu, struct l2 *l2, const char *name, uint64_t offset)
{
    uint64_t before = x86_rdtsc();
    enum vmx_status status = l2_enter(l2);
    uint64_t after = x86_rdtsc(), seen = l2->gpr[GPR_RAX] - offset;
    fact_true(cpu, name,
              status == VMX_SUCCEED && l2_read(VMCS_EXIT_REASON) == EXIT_VMCALL && before < seen &&
                  seen < after);
    l2_skip();
}

void test_tsc_offset(struct cpu *cpu)
{
    if (!fact_offered(cpu, "TSC offsetting and MSR bitmaps", VMCS_PRIMARY_CONTROLS,
                      PRIMARY_USE_TSC_OFFSETTING | PRIMARY_USE_MSR_BITMAPS))
        return;
    struct l2 *l2 = l2_create(cpu, l2_tsc);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_MSR_BITMAPS);
    l2_write(VMCS_MSR_BITMAP, cpu_physical(cpu_allocate_page(cpu)));
    l2_write(VMCS_TSC_OFFSET, TSC_OFFSET);
    fact_tsc(cpu, l2, "offset not in use: L2's RDTSC lies between L1's", 0);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TSC_OFFSETTING);
    fact_tsc(cpu, l2, "offset in use: so does its RDMSR, but for the offset", TSC_OFFSET);
    l2_restart(l2, l2_tsc);
    fact_tsc(cpu, l2, "and its RDTSC", TSC_OFFSET);
    l2_write(VMCS_TSC_OFFSET, -TSC_OFFSET);
    l2_restart(l2, l2_tsc);
    fact_tsc(cpu, l2, "a negative offset", -TSC_OFFSET);
}
