// SPDX-License-Identifier: MIT
// What decides by a bit in memory or in a field: I/O bitmaps, MSR bitmap, exception bitmap, page-fault error
// codes.
#include "first.h"
#include "trap.h"
#include "x86.h"

#define MSR_BITMAP_READ_LOW   0x000u
#define MSR_BITMAP_READ_HIGH  0x400u
#define MSR_BITMAP_WRITE_LOW  0x800u
#define MSR_BITMAP_WRITE_HIGH 0xc00u
#define MSR_IA32_STAR         0xc0000081u
#define NOT_MAPPED            0x123450000000ull // beyond L1's page tables, which L2 uses

static void set_bit(uint8_t *bitmap, uint32_t bit)
{
    bitmap[bit / 8] |= (uint8_t)(1u << bit % 8);
}

#define OUT8(port)  __asm__ volatile("outb %%al, %%dx" : : "a"(0), "d"(port))
#define OUT16(port) __asm__ volatile("outw %%ax, %%dx" : : "a"(0), "d"(port))
#define IN32(port)  __asm__ volatile("inl %%dx, %%eax" : : "d"(port) : "eax")

static void l2_ports(void)
{
    OUT8(0xed);
    l2_call(1);
    OUT8(0xee);
    OUT16(0xed); // touches 0xee
    OUT8(0xef);
    l2_call(2);
    OUT8(0x8123);
    OUT16(0x8121);
    l2_call(3);
    IN32(0xffff);  // wraps around
    OUT16(0x7fff); // one port in each bitmap
    l2_call(4);
}

static void fact_port(struct cpu *cpu, struct l2 *l2, const char *name, uint32_t port)
{
    if (!fact_exit(cpu, l2, name, EXIT_IO_INSTRUCTION))
        return;
    fact(cpu, "its port", l2_read(VMCS_EXIT_QUALIFICATION) >> 16, port);
    l2_skip();
}

void test_io_bitmaps(struct cpu *cpu)
{
    if (!fact_offered(cpu, "I/O bitmaps", VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS))
        return;
    struct l2 *l2 = l2_create(cpu, l2_ports);
    uint8_t *a = cpu_allocate_page(cpu), *b = cpu_allocate_page(cpu);
    set_bit(a, 0xee);
    set_bit(b, 0x8123 - 0x8000);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS); // unconditional exiting is then ignored
    l2_write(VMCS_IO_BITMAP_A, cpu_physical(a));
    l2_write(VMCS_IO_BITMAP_B, cpu_physical(b));
    fact_call(cpu, l2, "a port that is not intercepted", 1);
    fact_port(cpu, l2, "a port that is", 0xee);
    fact_port(cpu, l2, "two ports, the second is", 0xed);
    fact_call(cpu, l2, "the port behind it", 2);
    fact_port(cpu, l2, "a port of bitmap B", 0x8123);
    fact_call(cpu, l2, "ports beside it", 3);
    fact_port(cpu, l2, "an access that wraps around", 0xffff);
    fact_call(cpu, l2, "a port of each bitmap, neither intercepted", 4);

    set_bit(b, 0); // no VMWRITE: the processor looks at memory
    a[0xee / 8] = 0;
    l2_restart(l2, l2_ports);
    fact_call(cpu, l2, "0xed again", 1);
    fact_call(cpu, l2, "0xee, no longer intercepted", 2);
    fact_port(cpu, l2, "0x8123, still intercepted", 0x8123);
    fact_call(cpu, l2, "ports beside it", 3);
    fact_port(cpu, l2, "an access that wraps around", 0xffff);
    fact_port(cpu, l2, "0x7fff and 0x8000, which is intercepted now", 0x7fff);
}

static void write_msr(void *msr)
{
    x86_wrmsr((uint32_t)(uintptr_t)msr, 0x8000000000000000);
}

// 0, or 0x100 + vector. (What an MSR that does not exist does is left out: Bochs can be told to let it pass.)
static uint64_t l2_outcome(void (*function)(void *), uint32_t msr)
{
    return trap_catch(function, (void *)(uintptr_t)msr) ? 0x100 + cpu_self()->trap.vector : 0;
}

static void l2_many_msrs(void)
{
    l2_call(x86_rdmsr(MSR_IA32_SYSENTER_ESP));
    x86_wrmsr(MSR_IA32_SYSENTER_EIP, 0x654321);
    x86_wrmsr(MSR_IA32_STAR, 0x0123456789abcdef);
    l2_call(x86_rdmsr(MSR_IA32_STAR));
    l2_call(x86_rdmsr(MSR_IA32_VMX_BASIC));
    l2_call(l2_outcome(write_msr, MSR_IA32_VMX_BASIC));
    l2_call(l2_outcome(write_msr, MSR_IA32_FEATURE_CONTROL));
    l2_call(l2_outcome(write_msr, MSR_FS_BASE)); // not canonical
    x86_rdmsr(0x2000);                           // outside the ranges: exits
    x86_rdmsr(0xc0002000);
    x86_rdmsr(0xbfffffff);
    x86_rdmsr(0xffffffff);
    l2_call(6);
}

void test_msr_bitmap(struct cpu *cpu)
{
    if (!fact_offered(cpu, "MSR bitmaps", VMCS_PRIMARY_CONTROLS, PRIMARY_USE_MSR_BITMAPS))
        return;
    uint64_t star = x86_rdmsr(MSR_IA32_STAR);
    struct l2 *l2 = l2_create(cpu, l2_many_msrs);
    uint8_t *bitmap = cpu_allocate_page(cpu);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_MSR_BITMAPS);
    l2_write(VMCS_MSR_BITMAP, cpu_physical(bitmap));
    l2_write(VMCS_GUEST_SYSENTER_ESP, 0x5e5e5e);
    fact_call(cpu, l2, "RDMSR of IA32_SYSENTER_ESP gives L2's", 0x5e5e5e);
    fact_call(cpu, l2, "RDMSR of IA32_STAR gives what L2 wrote", 0x0123456789abcdef);
    fact(cpu, "L2's IA32_SYSENTER_EIP is saved", l2_read(VMCS_GUEST_SYSENTER_EIP), 0x654321);
    fact(cpu, "L1's own is the host-state field's", x86_rdmsr(MSR_IA32_SYSENTER_EIP), 0);
    fact(cpu, "IA32_STAR is what L2 left in it", x86_rdmsr(MSR_IA32_STAR), 0x0123456789abcdef);
    fact_call(cpu, l2, "RDMSR of IA32_VMX_BASIC gives what L1 reads", x86_rdmsr(MSR_IA32_VMX_BASIC));
    fact_call(cpu, l2, "WRMSR of IA32_VMX_BASIC: #GP in L2", 0x10d);
    fact_call(cpu, l2, "WRMSR of IA32_FEATURE_CONTROL, which is locked: #GP in L2", 0x10d);
    fact_call(cpu, l2, "WRMSR of IA32_FS_BASE, not canonical: #GP in L2", 0x10d);
    fact_exit_skip(cpu, l2, "RDMSR 00002000", EXIT_RDMSR, 2);
    fact_exit_skip(cpu, l2, "RDMSR c0002000", EXIT_RDMSR, 2);
    fact_exit_skip(cpu, l2, "RDMSR bfffffff", EXIT_RDMSR, 2);
    fact_exit_skip(cpu, l2, "RDMSR ffffffff", EXIT_RDMSR, 2);
    fact_call(cpu, l2, "L2 has gone through", 6);

    set_bit(bitmap + MSR_BITMAP_READ_LOW, MSR_IA32_SYSENTER_ESP); // no VMWRITE
    set_bit(bitmap + MSR_BITMAP_WRITE_HIGH, MSR_IA32_STAR & 0x1fff);
    l2_restart(l2, l2_many_msrs);
    fact_exit_skip(cpu, l2, "RDMSR of IA32_SYSENTER_ESP, intercepted now", EXIT_RDMSR, 2);
    fact_call(cpu, l2, "L2 goes on", l2->gpr[GPR_RDX] << 32 | (uint32_t)l2->gpr[GPR_RAX]);
    fact_exit_skip(cpu, l2, "WRMSR of IA32_STAR, intercepted now", EXIT_WRMSR, 2);
    fact_call(cpu, l2, "RDMSR of IA32_STAR is not", 0x0123456789abcdef);
    bitmap[MSR_BITMAP_READ_LOW + MSR_IA32_SYSENTER_ESP / 8] = 0;
    set_bit(bitmap + MSR_BITMAP_WRITE_LOW, MSR_IA32_SYSENTER_EIP);
    set_bit(bitmap + MSR_BITMAP_READ_HIGH, MSR_IA32_STAR & 0x1fff);
    l2_restart(l2, l2_many_msrs);
    fact_call(cpu, l2, "RDMSR of IA32_SYSENTER_ESP, no longer intercepted", 0x5e5e5e);
    fact_exit_skip(cpu, l2, "WRMSR of IA32_SYSENTER_EIP, intercepted now", EXIT_WRMSR, 2);
    fact_exit_skip(cpu, l2, "WRMSR of IA32_STAR, still intercepted", EXIT_WRMSR, 2);
    fact_exit_skip(cpu, l2, "RDMSR of IA32_STAR, intercepted now", EXIT_RDMSR, 2);
    x86_wrmsr(MSR_IA32_STAR, star);
    cpu->recovery_rsp = 0;
}

static void l2_exceptions(void)
{
    __asm__ volatile("ud2\n"
                     "mov $0x8000000000000000, %%rax\n"
                     "mov (%%rax), %%rbx\n" // not canonical
                     "mov $0x28, %%eax\n"
                     "mov %%eax, %%fs\n" // user data segment at CPL 0: RPL 0, DPL 3: fine
                     "mov $0x1230, %%eax\n"
                     "mov %%eax, %%fs\n" // beyond the GDT
                     "int3\n"
                     ".byte 0xf1\n" // INT1
                     "int $0x51\n"  // not an exception: not in the bitmap
                     "xor %%edx, %%edx; xor %%ecx, %%ecx; div %%ecx"
                     :
                     :
                     : "rax", "rbx", "rcx", "rdx", "memory");
}

static bool fact_exception(struct cpu *cpu, struct l2 *l2, const char *name, uint32_t information)
{
    if (!fact_exit(cpu, l2, name, EXIT_EXCEPTION_OR_NMI))
        return false;
    // Bit 12 (NMI unblocking due to IRET) is 0 here, as no IRET is involved.
    fact(cpu, "its interruption information", l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO), information);
    return true;
}

static void skip_bytes(uint32_t length)
{
    l2_write(VMCS_GUEST_RIP, l2_read(VMCS_GUEST_RIP) + length);
}

void test_exception_bitmap(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_exceptions);
    l2_write(VMCS_EXCEPTION_BITMAP, 0xffffffff);
    if (!fact_exception(cpu, l2, "UD2", 0x80000306))
        return;
    fact(cpu, "its exit qualification", l2_read(VMCS_EXIT_QUALIFICATION), 0);
    skip_bytes(2);
    fact_exception(cpu, l2, "an access that is not canonical", 0x80000b0d);
    fact(cpu, "its error code", l2_read(VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), 0);
    skip_bytes(3);
    fact_exception(cpu, l2, "a selector beyond the GDT", 0x80000b0d);
    fact(cpu, "its error code", l2_read(VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), 0x1230);
    skip_bytes(2);
    fact_exception(cpu, l2, "INT3", 0x80000603);
    fact(cpu, "its instruction length", l2_read(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 1);
    skip_bytes(1);
    fact_exception(cpu, l2, "INT1", 0x80000501);
    fact(cpu, "its instruction length", l2_read(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 1);
    skip_bytes(1);
    cpu->trap_needs_eoi = false; // INT n is no interrupt of the local APIC's
    uint64_t count = cpu->trap.count;
    fact_exception(cpu, l2, "division by zero, behind INT n which L2's handler took", 0x80000300);
    fact(cpu, "interrupts that L2 took", cpu->trap.count - count, 1);
    fact(cpu, "the last one's vector", cpu->trap.vector, 0x51);
    cpu->trap_needs_eoi = true;
    fact(cpu, "L2's CR2 is not touched by any of this", x86_read_cr2(), x86_read_cr2());
}

static void read_not_mapped(void *unused)
{
    (void)unused;
    *(volatile uint8_t *)NOT_MAPPED;
}

static void write_not_mapped(void *unused)
{
    (void)unused;
    *(volatile uint8_t *)NOT_MAPPED = 0;
}

// 0x100 + vector, and the error code above.
static void l2_page_faults(void)
{
    trap_catch(read_not_mapped, NULL);
    l2_call(0x100 + cpu_self()->trap.vector + (cpu_self()->trap.error_code << 16));
    trap_catch(write_not_mapped, NULL);
    l2_call(0x100 + cpu_self()->trap.vector + (cpu_self()->trap.error_code << 16));
}

static void fact_page_fault_exit(struct cpu *cpu, struct l2 *l2, const char *name, uint64_t error_code)
{
    uint64_t cr2 = x86_read_cr2();
    if (!fact_exception(cpu, l2, name, 0x80000b0e))
        return;
    fact(cpu, "its error code", l2_read(VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), error_code);
    fact(cpu, "its linear address", l2_read(VMCS_EXIT_QUALIFICATION), NOT_MAPPED);
    fact_true(cpu, "CR2 is as before", x86_read_cr2() == cr2);
}

void test_page_fault_filter(struct cpu *cpu)
{
    const uint64_t read = 0x10e, write = 0x2010e;
    struct l2 *l2 = l2_create(cpu, l2_page_faults);
    fact_call(cpu, l2, "bit 14 is 0, mask 0, match 0: a read goes to L2", read);
    fact(cpu, "CR2 is L2's", x86_read_cr2(), NOT_MAPPED);
    x86_write_cr2(0x77);
    fact_call(cpu, l2, "a write too", write);

    l2_write(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_PF);
    l2_restart(l2, l2_page_faults);
    x86_write_cr2(0x88);
    fact_page_fault_exit(cpu, l2, "bit 14 is 1, mask 0, match 0: a read exits", 0);

    l2_write(VMCS_PAGE_FAULT_ERROR_CODE_MASK, 2); // whether it is a write
    l2_write(VMCS_PAGE_FAULT_ERROR_CODE_MATCH, 2);
    l2_restart(l2, l2_page_faults);
    cpu->recovery_rsp = 0;
    fact_call(cpu, l2, "bit 14 is 1, only writes: a read goes to L2", read);
    fact_page_fault_exit(cpu, l2, "a write exits", 2);

    l2_write(VMCS_EXCEPTION_BITMAP, 0);
    l2_restart(l2, l2_page_faults);
    cpu->recovery_rsp = 0;
    fact_page_fault_exit(cpu, l2, "bit 14 is 0, only writes: a read exits", 0);
    l2_write(VMCS_PAGE_FAULT_ERROR_CODE_MATCH, 4); // never equal: all exit
    l2_restart(l2, l2_page_faults);
    cpu->recovery_rsp = 0;
    fact_page_fault_exit(cpu, l2, "bit 14 is 0, match impossible: a read exits", 0);
    l2_write(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_PF);
    l2_restart(l2, l2_page_faults);
    cpu->recovery_rsp = 0;
    fact_call(cpu, l2, "bit 14 is 1, match impossible: a read goes to L2", read);
    fact_call(cpu, l2, "a write too", write);
}
