// SPDX-License-Identifier: MIT
#include "first32.h"

#define NOT_MAPPED 0x7ffff000u // by the page tables of test_operands

void guest_main(uint32_t magic);

static void title(const char *name)
{
    console_print(name);
    console_print("\n");
}

static void fact_exception(const char *name, void (*function)(void), uint32_t vector, uint32_t error)
{
    bool raised = catch_exception(function);
    fact(name, raised ? 0x10000 | exception_vector << 20 | exception_error : 0,
         0x10000 | vector << 20 | error);
}

static void l2_body(void)
{
    __asm__ volatile("mov $0x11223344, %%ebx; mov $1, %%eax; cpuid\n"
                     "hlt\n"
                     "out %%al, $0xed"
                     :
                     :
                     : "eax", "ebx", "ecx", "edx");
    l2_call(1);
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 100; i++)
        sum += i;
    l2_call(sum);
}

static void test_launch(void)
{
    struct l2 l2;
    title("launch");
    l2_create(&l2, l2_body);
    if (!fact_exit(&l2, "CPUID", EXIT_CPUID))
        return;
    fact("instruction length", l2_read(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 2);
    fact("L2's EBX", l2.registers[EBX], 0x11223344);
    l2_skip();
    fact_exit(&l2, "HLT", EXIT_HLT);
    l2_skip();
    fact_exit(&l2, "OUT", EXIT_IO_INSTRUCTION);
    fact("exit qualification", l2_read(VMCS_EXIT_QUALIFICATION), 0xed << 16 | 0x40);
    l2_skip();
    fact_call(&l2, "VMCALL", 1);
    fact_call(&l2, "VMCALL", 4950);
    fact_call(&l2, "L2 has returned", 0x7e70);
    fact("CR0", read_cr0(), l2_read(VMCS_HOST_CR0));
    fact("CR3 is the field's", read_cr3() == l2_read(VMCS_HOST_CR3), 1);
    fact("CR4", read_cr4(), l2_read(VMCS_HOST_CR4));
    fact("IA32_EFER", (uint32_t)read_msr(MSR_IA32_EFER), 0);
}

// VMREAD and VMWRITE of 32 bits: the lower half of what is wider. VMWRITE of a 64-bit field clears its upper
// half.
static void test_fields(void)
{
    struct l2 l2;
    title("fields");
    l2_create(&l2, l2_body);
    l2_write_64(VMCS_TSC_OFFSET, 0x1122334455667788);
    fact("64-bit field, lower half", l2_read(VMCS_TSC_OFFSET), 0x55667788);
    fact("64-bit field, upper half", l2_read(VMCS_TSC_OFFSET | VMCS_HIGH), 0x11223344);
    l2_write(VMCS_TSC_OFFSET, 0x99aabbcc);
    fact("the upper half after VMWRITE of the field", l2_read(VMCS_TSC_OFFSET | VMCS_HIGH), 0);
    l2_write(VMCS_GUEST_ES_SELECTOR, 0xffff1234);
    fact("16-bit field", l2_read(VMCS_GUEST_ES_SELECTOR), 0x1234);
    l2_write(VMCS_GUEST_SYSENTER_EIP, 0x87654321);
    fact("natural-width field", l2_read(VMCS_GUEST_SYSENTER_EIP), 0x87654321);
    uint32_t cell = 0x13579bdf, read = 0, status;
    bool carry, zero;
    __asm__ volatile("vmwrite %2, %3"
                     : "=@ccc"(carry), "=@ccz"(zero)
                     : "m"(cell), "r"((uint32_t)VMCS_GUEST_RSP)
                     : "memory");
    status = INSTRUCTION_STATUS(carry, zero);
    __asm__ volatile("vmread %3, %2"
                     : "=@ccc"(carry), "=@ccz"(zero), "=m"(read)
                     : "r"((uint32_t)VMCS_GUEST_RSP));
    fact("memory forms", status | INSTRUCTION_STATUS(carry, zero), 0);
    fact("what they read and wrote", read, 0x13579bdf);
    fact("VMREAD of an encoding with bit 15", vmx_vmread(VMCS_GUEST_RIP | 1 << 15, &read), 2);
    fact("its error", l2_read(VMCS_VM_INSTRUCTION_ERROR), 12);
}

static uint64_t *operand;

static void vmptrst_based(void)
{
    __asm__ volatile("vmptrst %%fs:(%0)" : : "r"((uint32_t)operand - BASED_BASE) : "memory");
}
static void vmptrst_wrapped(void) // base + offset wraps around at 4 GiB
{
    __asm__ volatile("vmptrst %%fs:%c1(%0)" : : "r"((uint32_t)operand), "i"(-(int)BASED_BASE) : "memory");
}
static void vmptrst_short(void)
{
    __asm__ volatile("vmptrst %%gs:0xff8" : : : "memory");
}
static void vmptrst_beyond_limit(void)
{
    __asm__ volatile("vmptrst %%gs:0xff9" : : : "memory");
}
static void vmread_short(void)
{
    __asm__ volatile("vmread %0, %%gs:0xffc" : : "r"((uint32_t)VMCS_GUEST_CS_LIMIT) : "memory", "cc");
}
static void vmread_beyond_limit(void)
{
    __asm__ volatile("vmread %0, %%gs:0xffd" : : "r"((uint32_t)VMCS_GUEST_CS_LIMIT) : "memory", "cc");
}
static void vmptrst_to_code(void) // not writable
{
    __asm__ volatile("vmptrst %%cs:(%0)" : : "r"(operand) : "memory");
}
static void vmptrst_not_mapped(void)
{
    __asm__ volatile("vmptrst (%0)" : : "r"(NOT_MAPPED) : "memory");
}
static void vmptrst_16_bit_address(void)
{
    __asm__ volatile("addr16 vmptrst %%gs:(%%bx,%%si)" : : "b"(0xffff0800), "S"(0x12340700) : "memory");
}

static void fact_stored(const char *name, void (*function)(void), uint32_t *where)
{
    where[0] = where[1] = 0xdead;
    fact(name, catch_exception(function), 0);
    fact("what it stored is the current VMCS's address",
         where[0] != 0xdead && where[1] == 0 && (where[0] & 0xfff) == 0, 1);
}

static void test_operands(void)
{
    struct l2 l2;
    title("operands");
    l2_create(&l2, l2_body);
    operand = l2_page();
    tables_load_segments();
    uint32_t *directory = (uint32_t *)read_cr3(), entry = directory[NOT_MAPPED >> 22];
    directory[NOT_MAPPED >> 22] = 0;
    __asm__ volatile("invlpg (%0)" : : "r"(NOT_MAPPED) : "memory");
    fact_stored("a segment base", vmptrst_based, (uint32_t *)operand);
    fact_stored("a negative displacement", vmptrst_wrapped, (uint32_t *)operand);
    fact_stored("at a segment's limit", vmptrst_short, (uint32_t *)(short_segment + 0xff8));
    fact_stored("a 16-bit address", vmptrst_16_bit_address, (uint32_t *)(short_segment + 0xf00));
    fact("VMREAD at a segment's limit", catch_exception(vmread_short), 0);
    fact("what it stored", *(uint32_t *)(short_segment + 0xffc), 0xffffffff);
    fact_exception("VMPTRST beyond the limit: #GP", vmptrst_beyond_limit, VECTOR_GP, 0);
    fact_exception("VMREAD beyond the limit: #GP", vmread_beyond_limit, VECTOR_GP, 0);
    fact_exception("VMPTRST to a code segment: #GP", vmptrst_to_code, VECTOR_GP, 0);
    fact_exception("VMPTRST to what is not mapped: #PF", vmptrst_not_mapped, VECTOR_PF, 2);
    directory[NOT_MAPPED >> 22] = entry;
}

static void test_failures(void)
{
    struct l2 l2;
    title("failures");
    l2_create(&l2, l2_body);
    uint32_t controls = l2_read(VMCS_VM_ENTRY_CONTROLS);
    l2_write(VMCS_VM_ENTRY_CONTROLS, controls | ENTRY_IA32E_MODE_GUEST);
    fact("a 64-bit L2 of a 32-bit L1 fails", enter_l2(l2.registers, 1), 2);
    l2_write(VMCS_VM_ENTRY_CONTROLS, controls);
    controls = l2_read(VMCS_VM_EXIT_CONTROLS);
    l2_write(VMCS_VM_EXIT_CONTROLS, controls | EXIT_HOST_ADDRESS_SPACE_SIZE);
    fact("a 64-bit host of a 32-bit L1 fails", enter_l2(l2.registers, 1), 2);
    l2_write(VMCS_VM_EXIT_CONTROLS, controls);
    l2_write(VMCS_HOST_SS_SELECTOR, 0);
    fact("SS 0 in a 32-bit host fails", enter_l2(l2.registers, 1), 2);
    fact("its error", l2_read(VMCS_VM_INSTRUCTION_ERROR), 8);
    l2_write(VMCS_HOST_SS_SELECTOR, SELECTOR_DATA);
    fact_exit(&l2, "mended", EXIT_CPUID);
}

static void l2_touch_fourth_gib(void)
{
    l2_call(*(volatile uint32_t *)0x100000);
    l2_call(*(volatile uint32_t *)0xfee00030 != 0); // the fourth GiB
}

static void read_second_gib(void)
{
    *(volatile uint32_t *)0x40000000;
}

// L1 and L2 on PAE paging with different page-directory pointers: each exit loads L1's from memory again.
static void test_pae(void)
{
    struct l2 l2;
    title("PAE");
    uint32_t cr4 = read_cr4(), old = read_cr3(), cr0 = read_cr0();
    fact("VMXOFF, to turn paging off", ({
             bool carry, zero;
             __asm__ volatile("vmxoff" : "=@ccc"(carry), "=@ccz"(zero) : : "memory");
             INSTRUCTION_STATUS(carry, zero);
         }),
         0);
    write_cr0(cr0 & ~(uint32_t)CR0_PG);
    write_cr4(cr4 | (uint32_t)CR4_PAE);
    write_cr3(tables_pae(0));
    write_cr0(cr0);
    uint64_t *region = l2_page();
    *(uint32_t *)region = l2_revision();
    fact("VMXON", vmx_vmxon((uint32_t)region), 0);
    l2_create(&l2, l2_touch_fourth_gib);
    uint32_t first = *(volatile uint32_t *)0x100000;
    l2_write(VMCS_GUEST_CR3, tables_pae(1));
    tables_pae_spoil(1, 2); // L2 has no third GiB
    l2_write(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_PF);
    if (fact_exit(&l2, "L2 reads", EXIT_VMCALL))
        fact("what L1 reads", l2.registers[EAX] == first, 1);
    l2_skip();
    fact("L1 reads its fourth GiB", *(volatile uint32_t *)0xfee00030 != 0, 1);
    fact_call(&l2, "L2 reads its fourth GiB", 1);
    tables_pae_spoil(0, 1); // L1 has no second GiB, from the next exit on
    tables_pae_spoil(1, 3);
    fact("L1 reads its second GiB, whose PDPTE it has loaded", catch_exception(read_second_gib), 0);
    l2_restart(l2_touch_fourth_gib);
    fact_exit(&l2, "L2 reads", EXIT_VMCALL);
    fact_exception("L1 reads its second GiB, gone: page fault", read_second_gib, VECTOR_PF, 0);
    l2_skip();
    fact_exit(&l2, "L2 reads its fourth GiB, gone: page fault", EXIT_EXCEPTION_OR_NMI);
    fact("its address", l2_read(VMCS_EXIT_QUALIFICATION), 0xfee00030);
    write_cr0(read_cr0()); // L1 is alive
    fact("CR4", read_cr4(), cr4 | (uint32_t)CR4_PAE);
    __asm__ volatile("vmxoff" : : : "memory", "cc");
    write_cr0(cr0 & ~(uint32_t)CR0_PG);
    write_cr4(cr4);
    write_cr3(old);
    write_cr0(cr0);
    fact("VMXON", vmx_vmxon((uint32_t)region), 0);
}

void guest_main(uint32_t magic)
{
    console_init();
    console_print(magic == 0x2badb002 ? "first32: 1 processors\n" : "first32: not loaded by Multiboot\n");
    tables_init();
    write_cr4(read_cr4() | (uint32_t)CR4_VMXE);
    uint64_t *region = l2_page();
    *(uint32_t *)region = l2_revision();
    fact("VMXON", vmx_vmxon((uint32_t)region), 0);
    test_launch();
    test_fields();
    test_operands();
    test_failures();
    test_pae();
    console_print("0: ");
    console_print_number(fact_count, 10);
    console_print(" facts, ");
    console_print_number(wrong_count, 10);
    console_print(" wrong\nfirst32: done\n");
    console_stop();
}
