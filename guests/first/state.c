// SPDX-License-Identifier: MIT
// What VM entries load and VM exits save, and what VM exits load: guest state, host state, the MSR areas.
#include "first.h"
#include "l2_code.h"
#include "x86.h"

#define MSR_IA32_STAR           0xc0000081u
#define MSR_IA32_LSTAR          0xc0000082u
#define MSR_IA32_FMASK          0xc0000084u
#define MSR_IA32_KERNEL_GS_BASE 0xc0000102u
#define PAT_L1                  0x0007040600070406ull // as after reset
#define PAT_L2                  0x0606060606060006ull

struct value {
    const char *name;
    uint32_t field;
    uint64_t value;
};

#define VALUE(field, value)                                                                                  \
    {                                                                                                        \
#field, VMCS_##field, value                                                                          \
    }

static void write_values(const struct value *values, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        l2_write(values[i].field, values[i].value);
}

static void fact_values(struct cpu *cpu, const struct value *values, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        fact(cpu, values[i].name, l2_read(values[i].field), values[i].value);
}

static void l2_only_calls(void)
{
    __asm__ volatile("vmcall");
}

// L2 changes nothing: every field comes back as it was loaded.
void test_guest_state(struct cpu *cpu)
{
    const struct value values[] = {
        VALUE(GUEST_ES_SELECTOR, 0x1230),
        VALUE(GUEST_ES_BASE, 0x12345000),
        VALUE(GUEST_ES_LIMIT, 0xabcde),
        VALUE(GUEST_ES_ACCESS_RIGHTS, 0x4093),
        VALUE(GUEST_CS_SELECTOR, 0x48),
        VALUE(GUEST_CS_BASE, 0),
        VALUE(GUEST_CS_LIMIT, 0x3fffffff),
        VALUE(GUEST_CS_ACCESS_RIGHTS, 0xa09b),
        VALUE(GUEST_SS_SELECTOR, 0x50),
        VALUE(GUEST_SS_BASE, 0x1000),
        VALUE(GUEST_SS_LIMIT, 0x12345fff),
        VALUE(GUEST_SS_ACCESS_RIGHTS, 0xc093),
        VALUE(GUEST_DS_SELECTOR, 0x5b),
        VALUE(GUEST_DS_BASE, 0xfffff000),
        VALUE(GUEST_DS_LIMIT, 0xffff),
        VALUE(GUEST_DS_ACCESS_RIGHTS, 0x40f3),
        VALUE(GUEST_FS_SELECTOR, 0x60),
        VALUE(GUEST_FS_BASE, 0xffff812345678000),
        VALUE(GUEST_FS_LIMIT, 0x7fff),
        VALUE(GUEST_FS_ACCESS_RIGHTS, 0x93),
        VALUE(GUEST_GS_SELECTOR, 0x6b),
        VALUE(GUEST_GS_BASE, 0x00007abcdef01000),
        VALUE(GUEST_GS_LIMIT, 0x0),
        VALUE(GUEST_GS_ACCESS_RIGHTS, 0x50f3),
        VALUE(GUEST_LDTR_SELECTOR, 0x70),
        VALUE(GUEST_LDTR_BASE, 0xffff800000001000),
        VALUE(GUEST_LDTR_LIMIT, 0x57),
        VALUE(GUEST_LDTR_ACCESS_RIGHTS, 0x82),
        VALUE(GUEST_TR_SELECTOR, 0x80),
        VALUE(GUEST_TR_BASE, 0xffff800000002000),
        VALUE(GUEST_TR_LIMIT, 0x2067),
        VALUE(GUEST_TR_ACCESS_RIGHTS, 0x8b),
        VALUE(GUEST_GDTR_BASE, 0xffff800000003000),
        VALUE(GUEST_GDTR_LIMIT, 0x1237),
        VALUE(GUEST_IDTR_BASE, 0xffff800000004000),
        VALUE(GUEST_IDTR_LIMIT, 0xfff),
        VALUE(GUEST_SYSENTER_CS, 0x12348),
        VALUE(GUEST_SYSENTER_ESP, 0xffff800000005000),
        VALUE(GUEST_SYSENTER_EIP, 0x7fffffff6000),
        VALUE(GUEST_RFLAGS, 0x40ad7),
        VALUE(GUEST_DR7, 0x455),
        VALUE(GUEST_IA32_DEBUGCTL, 0),
        VALUE(GUEST_INTERRUPTIBILITY, 0),
        VALUE(GUEST_ACTIVITY_STATE, 0),
        VALUE(GUEST_PENDING_DEBUG_EXCEPTIONS, 0),
        VALUE(GUEST_RSP, 0x8000123456789abc), // need not be canonical
        VALUE(VMCS_LINK_POINTER, VMX_NO_VMCS),
    };
    struct l2 *l2 = l2_create(cpu, l2_only_calls);
    uint64_t cr0 = x86_read_cr0() | CR0_AM, cr4 = x86_read_cr4() | CR4_PGE, rip = l2_read(VMCS_GUEST_RIP);
    l2_write(VMCS_GUEST_CR0, cr0);
    l2_write(VMCS_GUEST_CR4, cr4);
    write_values(values, sizeof(values) / sizeof(values[0]));
    if (!fact_exit(cpu, l2, "L2 executes VMCALL", EXIT_VMCALL))
        return;
    fact_values(cpu, values, sizeof(values) / sizeof(values[0]));
    fact(cpu, "GUEST_CR0", l2_read(VMCS_GUEST_CR0), cr0);
    fact(cpu, "GUEST_CR4", l2_read(VMCS_GUEST_CR4), cr4);
    fact_true(cpu, "GUEST_CR3 is L1's", l2_read(VMCS_GUEST_CR3) == x86_read_cr3());
    fact_true(cpu, "GUEST_RIP is in L2", l2_read(VMCS_GUEST_RIP) - rip < 0x20);
    fact(cpu, "L1's AC flag", x86_read_rflags() & 1ull << 18, 0);
    fact_true(cpu, "L1's CR0 is not L2's", x86_read_cr0() == (cr0 & ~CR0_AM));
}

static void l2_loads_segments(void)
{
    __asm__ volatile("mov %0, %%es; mov %1, %%ds; xor %%eax, %%eax; mov %%eax, %%fs\n"
                     "vmcall"
                     :
                     : "r"(SELECTOR_USERDATA), "r"(SELECTOR_DATA)
                     : "rax", "memory");
}

// L2 changes its own state without any exit: the VMCS has it after the next one.
void test_guest_state_changed(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_loads_segments);
    l2_write(VMCS_GUEST_DS_LIMIT, 0xfff);
    l2_write(VMCS_GUEST_DS_ACCESS_RIGHTS, 0x4093);
    if (!fact_exit(cpu, l2, "L2 loads ES, DS, FS", EXIT_VMCALL))
        return;
    fact(cpu, "GUEST_ES_SELECTOR", l2_read(VMCS_GUEST_ES_SELECTOR), SELECTOR_USERDATA);
    fact(cpu, "GUEST_ES_ACCESS_RIGHTS", l2_read(VMCS_GUEST_ES_ACCESS_RIGHTS), 0xc0f3);
    fact(cpu, "GUEST_DS_LIMIT", l2_read(VMCS_GUEST_DS_LIMIT), 0xffffffff);
    fact(cpu, "GUEST_DS_ACCESS_RIGHTS", l2_read(VMCS_GUEST_DS_ACCESS_RIGHTS), 0xc093);
    fact(cpu, "GUEST_FS_SELECTOR", l2_read(VMCS_GUEST_FS_SELECTOR), 0);
    fact(cpu, "FS is unusable", l2_read(VMCS_GUEST_FS_ACCESS_RIGHTS) & SEGMENT_UNUSABLE, SEGMENT_UNUSABLE);
    fact(cpu, "L1's ES", x86_read_es(), SELECTOR_DATA);
}

static void fact_host_tables(struct cpu *cpu)
{
    struct x86_table_pointer gdt = x86_sgdt(), idt = x86_sidt();
    fact_true(cpu, "GDTR base is the field's", gdt.base == l2_read(VMCS_HOST_GDTR_BASE));
    fact(cpu, "GDTR limit", gdt.limit, 0xffff);
    fact_true(cpu, "IDTR base is the field's", idt.base == l2_read(VMCS_HOST_IDTR_BASE));
    fact(cpu, "IDTR limit", idt.limit, 0xffff);
    fact(cpu, "TR", x86_str(), SELECTOR_TSS);
    fact(cpu, "LDTR", x86_sldt(), 0);
}

// L1 as it is after a VM exit, from fields that differ from what L1 and L2 had before it.
void test_host_state(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_only_calls);
    l2_write(VMCS_HOST_ES_SELECTOR, 0);
    l2_write(VMCS_HOST_DS_SELECTOR, 0);
    l2_write(VMCS_HOST_FS_SELECTOR, SELECTOR_DATA);
    l2_write(VMCS_HOST_FS_BASE, 0xffff80000000f500);
    l2_write(VMCS_HOST_SYSENTER_CS, 0x48);
    l2_write(VMCS_HOST_SYSENTER_ESP, 0xffff800000001111);
    l2_write(VMCS_HOST_SYSENTER_EIP, 0x7fffffff2222);
    l2_set(VMCS_HOST_CR4, CR4_PGE);
    l2_set(VMCS_HOST_CR0, CR0_AM);
    l2_write(VMCS_GUEST_DR7, 0x401);
    l2_set(VMCS_GUEST_RFLAGS, 0xcd5);
    if (!fact_exit(cpu, l2, "L2 executes VMCALL", EXIT_VMCALL))
        return;
    fact(cpu, "ES", x86_read_es(), 0);
    fact(cpu, "CS", x86_read_cs(), SELECTOR_CODE64);
    fact(cpu, "SS", x86_read_ss(), SELECTOR_DATA);
    fact(cpu, "DS", x86_read_ds(), 0);
    fact(cpu, "FS", x86_read_fs(), SELECTOR_DATA);
    fact(cpu, "GS", x86_read_gs(), SELECTOR_DATA);
    fact(cpu, "FS base", x86_rdmsr(MSR_FS_BASE), 0xffff80000000f500);
    fact_true(cpu, "GS base is the field's", x86_rdmsr(MSR_GS_BASE) == l2_read(VMCS_HOST_GS_BASE));
    fact_host_tables(cpu);
    fact(cpu, "IA32_SYSENTER_CS", x86_rdmsr(MSR_IA32_SYSENTER_CS), 0x48);
    fact(cpu, "IA32_SYSENTER_ESP", x86_rdmsr(MSR_IA32_SYSENTER_ESP), 0xffff800000001111);
    fact(cpu, "IA32_SYSENTER_EIP", x86_rdmsr(MSR_IA32_SYSENTER_EIP), 0x7fffffff2222);
    fact(cpu, "CR0", x86_read_cr0(), l2_read(VMCS_HOST_CR0));
    fact_true(cpu, "CR3 is the field's", x86_read_cr3() == l2_read(VMCS_HOST_CR3));
    fact(cpu, "CR4", x86_read_cr4(), l2_read(VMCS_HOST_CR4));
    fact(cpu, "DR7", x86_read_dr7(), 0x400);
    fact(cpu, "GUEST_DR7", l2_read(VMCS_GUEST_DR7), 0x401);
    fact(cpu, "IA32_DEBUGCTL", x86_rdmsr(MSR_IA32_DEBUGCTL), 0);
    fact(cpu, "IF, TF, DF, AC", x86_read_rflags() & 0x40700, 0);
    fact(cpu, "IA32_EFER.LMA and LME", x86_rdmsr(MSR_IA32_EFER) & 0x500, 0x500);
    // Back to what the other tests expect.
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(SELECTOR_DATA));
    x86_write_cr0(x86_read_cr0() & ~CR0_AM);
    x86_write_cr4(x86_read_cr4() & ~CR4_PGE);
    x86_lgdt((struct x86_table_pointer){sizeof(cpu->gdt) - 1, cpu_physical(cpu->gdt)});
}

static void l2_reads_pat_efer(void)
{
    l2_call(x86_rdmsr(MSR_IA32_PAT));
    l2_call(x86_rdmsr(MSR_IA32_EFER));
    x86_wrmsr(MSR_IA32_PAT, PAT_L2 | 7);
    x86_wrmsr(MSR_IA32_EFER, x86_rdmsr(MSR_IA32_EFER) ^ EFER_SCE);
    l2_call(1);
}

void test_pat_and_efer(struct cpu *cpu)
{
    if (!fact_offered(cpu, "IA32_PAT and IA32_EFER on exit", VMCS_VM_EXIT_CONTROLS,
                      EXIT_SAVE_PAT | EXIT_LOAD_PAT | EXIT_SAVE_EFER | EXIT_LOAD_EFER) ||
        !fact_offered(cpu, "and on entry", VMCS_VM_ENTRY_CONTROLS, ENTRY_LOAD_PAT | ENTRY_LOAD_EFER))
        return;
    uint64_t efer = x86_rdmsr(MSR_IA32_EFER), pat = x86_rdmsr(MSR_IA32_PAT);
    struct l2 *l2 = l2_create(cpu, l2_reads_pat_efer);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_MSR_BITMAPS);
    l2_write(VMCS_MSR_BITMAP, cpu_physical(cpu_allocate_page(cpu)));
    l2_set(VMCS_VM_ENTRY_CONTROLS, ENTRY_LOAD_PAT | ENTRY_LOAD_EFER);
    l2_set(VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_PAT | EXIT_LOAD_PAT | EXIT_SAVE_EFER | EXIT_LOAD_EFER);
    l2_write(VMCS_GUEST_IA32_PAT, PAT_L2);
    l2_write(VMCS_GUEST_IA32_EFER, efer | EFER_SCE | EFER_NXE);
    l2_write(VMCS_HOST_IA32_PAT, PAT_L1);
    l2_write(VMCS_HOST_IA32_EFER, (efer & ~EFER_SCE) | EFER_NXE);
    fact_call(cpu, l2, "L2 reads IA32_PAT", PAT_L2);
    fact(cpu, "L1's IA32_PAT", x86_rdmsr(MSR_IA32_PAT), PAT_L1);
    fact(cpu, "L1's IA32_EFER", x86_rdmsr(MSR_IA32_EFER), EFER_LMA | EFER_LME | EFER_NXE);
    fact_call(cpu, l2, "L2 reads IA32_EFER", EFER_LMA | EFER_LME | EFER_NXE | EFER_SCE);
    fact_call(cpu, l2, "L2 writes both", 1);
    fact(cpu, "GUEST_IA32_PAT", l2_read(VMCS_GUEST_IA32_PAT), PAT_L2 | 7);
    fact(cpu, "GUEST_IA32_EFER", l2_read(VMCS_GUEST_IA32_EFER), EFER_LMA | EFER_LME | EFER_NXE);
    fact(cpu, "L1's IA32_PAT", x86_rdmsr(MSR_IA32_PAT), PAT_L1);

    // Without the controls L1 and L2 share IA32_PAT, and EFER but for LMA and LME.
    l2_clear(VMCS_VM_ENTRY_CONTROLS, ENTRY_LOAD_PAT | ENTRY_LOAD_EFER);
    l2_clear(VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_PAT | EXIT_LOAD_PAT | EXIT_SAVE_EFER | EXIT_LOAD_EFER);
    l2_restart(l2, l2_reads_pat_efer);
    fact_call(cpu, l2, "no controls: L2 reads IA32_PAT", PAT_L1);
    fact_call(cpu, l2, "L2 reads IA32_EFER", EFER_LMA | EFER_LME | EFER_NXE);
    fact_call(cpu, l2, "L2 writes both", 1);
    fact(cpu, "L1's IA32_PAT", x86_rdmsr(MSR_IA32_PAT), PAT_L2 | 7);
    fact(cpu, "L1's IA32_EFER", x86_rdmsr(MSR_IA32_EFER), EFER_LMA | EFER_LME | EFER_NXE | EFER_SCE);
    x86_wrmsr(MSR_IA32_PAT, pat);
    x86_wrmsr(MSR_IA32_EFER, efer);
}

struct msr_entry {
    uint32_t index, reserved;
    uint64_t value;
};

static void l2_msr_areas(void)
{
    l2_call(x86_rdmsr(MSR_IA32_STAR));
    l2_call(x86_rdmsr(MSR_IA32_LSTAR));
    x86_wrmsr(MSR_IA32_STAR, 0x2222);
    l2_call(1);
}

void test_msr_areas(struct cpu *cpu)
{
    struct msr_entry *load = cpu_allocate_page(cpu), *store = load + 8, *back = load + 16;
    struct l2 *l2 = l2_create(cpu, l2_msr_areas);
    l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_MSR_BITMAPS);
    l2_write(VMCS_MSR_BITMAP, cpu_physical(cpu_allocate_page(cpu)));
    load[0] = (struct msr_entry){MSR_IA32_STAR, 0, 0x1111};
    load[1] = (struct msr_entry){MSR_IA32_LSTAR, 0, 0x7fff00001111};
    store[0] = (struct msr_entry){MSR_IA32_STAR, 0, 0xdead};
    store[1] = (struct msr_entry){MSR_IA32_KERNEL_GS_BASE, 0, 0xdead};
    store[2] = (struct msr_entry){MSR_IA32_FMASK, 0, 0xdead};
    back[0] = (struct msr_entry){MSR_IA32_STAR, 0, 0x3333};
    l2_write(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, cpu_physical(load));
    l2_write(VMCS_VM_EXIT_MSR_STORE_ADDRESS, cpu_physical(store));
    l2_write(VMCS_VM_EXIT_MSR_LOAD_ADDRESS, cpu_physical(back));
    l2_write(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 2);
    l2_write(VMCS_VM_EXIT_MSR_STORE_COUNT, 2);
    l2_write(VMCS_VM_EXIT_MSR_LOAD_COUNT, 1);
    x86_wrmsr(MSR_IA32_KERNEL_GS_BASE, 0x4444);
    fact_call(cpu, l2, "L2 reads the IA32_STAR of the entry list", 0x1111);
    fact(cpu, "L1 reads the IA32_STAR of the exit list", x86_rdmsr(MSR_IA32_STAR), 0x3333);
    fact(cpu, "L1 reads the IA32_LSTAR that nobody put back", x86_rdmsr(MSR_IA32_LSTAR), 0x7fff00001111);
    fact(cpu, "the IA32_STAR stored", store[0].value, 0x1111);
    fact(cpu, "the IA32_KERNEL_GS_BASE stored", store[1].value, 0x4444);
    fact(cpu, "an entry beyond the count", store[2].value, 0xdead);
    load[1].value = 0x7fff00002222;
    fact_call(cpu, l2, "a changed entry: L2 reads", 0x7fff00002222);
    fact_call(cpu, l2, "L2 writes its IA32_STAR", 1);
    fact(cpu, "the IA32_STAR stored", store[0].value, 0x2222);
    fact(cpu, "L1 reads the IA32_STAR of the exit list", x86_rdmsr(MSR_IA32_STAR), 0x3333);
    x86_wrmsr(MSR_IA32_STAR, 0);
    x86_wrmsr(MSR_IA32_LSTAR, 0);
    x86_wrmsr(MSR_IA32_KERNEL_GS_BASE, 0);
}

// An entry that cannot be loaded: VM-entry failure 34, whose qualification is the entry's number, counted
// from 1.
void test_msr_area_failures(struct cpu *cpu)
{
    static const struct {
        const char *name;
        struct msr_entry entry;
    } rows[] = {
        {"IA32_FS_BASE", {MSR_FS_BASE, 0, 0}},
        {"IA32_GS_BASE", {MSR_GS_BASE, 0, 0}},
        {"an x2APIC register", {0x808, 0, 0}},
        {"reserved bits that are not 0", {MSR_IA32_STAR, 1, 0}},
        {"a value that raises #GP", {MSR_IA32_LSTAR, 0, 0x8000000000000000}},
        {"IA32_VMX_BASIC", {MSR_IA32_VMX_BASIC, 0, 0}},
    };
    struct msr_entry *list = cpu_allocate_page(cpu);
    struct l2 *l2 = l2_create(cpu, l2_nops);
    uint64_t rsp = l2_read(VMCS_GUEST_RSP);
    l2_write(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, cpu_physical(list));
    l2_write(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 3);
    list[0] = list[1] = list[2] = (struct msr_entry){MSR_IA32_STAR, 0, 0};
    for (uint32_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint32_t at = i % 3;
        list[at] = rows[i].entry;
        if (fact_exit(cpu, l2, rows[i].name, EXIT_REASON_ENTRY_FAILURE | EXIT_ENTRY_FAILURE_MSR_LOADING))
            fact(cpu, "its qualification", l2_read(VMCS_EXIT_QUALIFICATION), at + 1);
        list[at] = (struct msr_entry){MSR_IA32_STAR, 0, 0};
    }
    fact_true(cpu, "guest RSP is as before", l2_read(VMCS_GUEST_RSP) == rsp);
    fact_status(cpu, "VMRESUME: the VMCS is still clear", vmx_vmresume(), 5);
    fact_call(cpu, l2, "mended: L2 runs", 3);
}
