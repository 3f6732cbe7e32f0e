// SPDX-License-Identifier: MIT
#include "probe.h"
#include "apic.h"
#include "machine.h"
#include "trap.h"
#include "x86.h"

#define STACK_SIZE   0x4000u
#define STACK_EXIT   2u
#define STACKS       4u // exceptions, NMIs, VM exits, debug exceptions
#define PTE_PRESENT  1ull
#define PTE_WRITE    2ull
#define PTE_USER     4ull
#define PTE_UNCACHED 0x18ull
#define PTE_LARGE    0x80ull
#define PTE_DONE     0x60ull // accessed, dirty
#define PTE_RESERVED (1ull << 51)
#define SIZE_2M      (1ull << 21)
#define GIGABYTES    8u

#define HOLE             0xd0000000ull
#define MEMORY_MAP       (1u << 6)
#define MEMORY_AVAILABLE 1u

extern const uint8_t probe_vectors[], probe_exited[];
void probe_enter(struct probe_cpu *own);
uint32_t probe_take(struct probe_cpu *mine, const uint64_t *frame);

// All that is written while code runs that may do anything, in 2 MiB of its own.
static struct {
    uint8_t stacks[CPU_MAX][STACKS][STACK_SIZE];
    struct probe_cpu cpus[CPU_MAX];
    uint8_t window[WINDOW_PAGES][PAGE_SIZE] __attribute__((aligned(4096)));
} own __attribute__((aligned(1 << 21), section(".bss.pages")));
_Static_assert(sizeof(own) <= SIZE_2M, "one large page");

struct space {
    uint64_t pml4[512], pdpt[512], directory[GIGABYTES][512], window[512];
};
static struct space spaces[2] __attribute__((aligned(4096), section(".bss.pages"))); // [1]: mostly read-only
static uint8_t sent[PAGE_SIZE] __attribute__((aligned(4096)));
static uint64_t idt[2 * 256] __attribute__((aligned(4096)));
static uint64_t l0_at, memory_end;

void space_find(const struct multiboot_information *information)
{
    uint32_t at = information->map_address, end = at + information->map_length;
    if (!(information->flags & MEMORY_MAP))
        return;
    for (; at < end; at += *(const uint32_t *)(uintptr_t)at + 4) {
        uint64_t base, length;
        __builtin_memcpy(&base, (const uint8_t *)(uintptr_t)at + 4, 8);
        __builtin_memcpy(&length, (const uint8_t *)(uintptr_t)at + 12, 8);
        uint32_t type = *(const uint32_t *)(uintptr_t)(at + 20);
        if (type == MEMORY_AVAILABLE && base + length > memory_end)
            memory_end = base + length;
        bool whole = !(base & (SIZE_2M - 1)) && length >= SIZE_2M;
        if (type != MEMORY_AVAILABLE && whole && base && base < WINDOW)
            l0_at = base; // firmware reserves no such range
    }
}

uint64_t space_l0(void)
{
    return l0_at;
}

uint64_t space_hole(void)
{
    return HOLE;
}

void *window_memory(enum window_page page)
{
    return own.window[page];
}

static void space_build_window(uint64_t *table)
{
    static const struct {
        uint8_t page;
        uint8_t bits;
    } pages[] = {
        {PAGE_CODE, PTE_USER | PTE_WRITE},
        {PAGE_DATA, PTE_USER | PTE_WRITE},
        {PAGE_DATA_2, PTE_USER | PTE_WRITE},
        {PAGE_READ_ONLY, PTE_USER},
        {PAGE_KERNEL, PTE_WRITE},
        {PAGE_KERNEL_2, PTE_WRITE},
        {PAGE_BEFORE_KERNEL, PTE_USER | PTE_WRITE},
        {PAGE_KERNEL_CODE, PTE_WRITE},
    };
    for (uint32_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
        table[pages[i].page] =
            cpu_physical(own.window[pages[i].page]) | pages[i].bits | PTE_PRESENT | PTE_DONE;
    uint64_t user = PTE_USER | PTE_WRITE | PTE_PRESENT | PTE_DONE;
    table[PAGE_L0] = (l0_at ? l0_at : HOLE) | user;
    table[PAGE_SENT] = cpu_physical(sent) | PTE_USER | PTE_PRESENT | PTE_DONE;
    table[PAGE_HOLE] = HOLE | user;
    table[PAGE_APIC] = APIC_BASE | user | PTE_UNCACHED;
    table[PAGE_RESERVED] = cpu_physical(own.window[PAGE_DATA]) | user | PTE_RESERVED;
}

// Where code that may do anything reaches: no devices, whose registers end the emulated machine when they are
// read in the wrong way, and L1 writes only what is its own here.
static uint64_t space_read_only_bits(uint64_t at)
{
    uint64_t l0_or_hole = l0_at ? l0_at : HOLE;
    if (at == cpu_physical(&own) || at == HOLE || at == l0_or_hole)
        return PTE_PRESENT | PTE_WRITE;
    return at < memory_end ? PTE_PRESENT : 0;
}

static void space_build_one(struct space *space, bool read_only)
{
    uint64_t table = PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_DONE;
    space->pml4[0] = cpu_physical(space->pdpt) | table;
    for (uint64_t g = 0; g < GIGABYTES; g++) {
        space->pdpt[g] = cpu_physical(space->directory[g]) | table;
        for (uint64_t i = 0; i < 512; i++) {
            uint64_t at = (g << 30) + i * SIZE_2M;
            uint64_t bits = read_only ? space_read_only_bits(at) : PTE_PRESENT | PTE_WRITE;
            space->directory[g][i] = at | bits | PTE_LARGE | PTE_DONE;
        }
    }
    space_build_window(space->window);
    if (read_only)
        space->window[PAGE_APIC] = 0;
    space->directory[WINDOW >> 30][WINDOW / SIZE_2M % 512] = cpu_physical(space->window) | table;
}

void space_build(void)
{
    for (uint32_t i = 0; i < PAGE_SIZE; i++)
        sent[i] = WINDOW_SENT;
    space_build_one(&spaces[0], false);
    space_build_one(&spaces[1], true);
    for (uint32_t i = 0; i < 256; i++) {
        uint64_t entry = cpu_physical(probe_vectors) + i * 16;
        uint64_t gate = i == VECTOR_NMI ? 0x8e02 : i == VECTOR_DB ? 0x8e04 : i == VECTOR_BP ? 0xee01 : 0x8e01;
        idt[2 * i] = (entry & 0xffff) | SELECTOR_CODE64 << 16 | gate << 32 | (entry >> 16 & 0xffff) << 48;
    }
}

uint64_t space_read_only_cr3(void)
{
    return cpu_physical(spaces[1].pml4);
}

static uint64_t descriptor(uint64_t base, uint64_t limit, uint64_t bits)
{
    return (limit & 0xffff) | (base & 0xffffff) << 16 | bits << 40 | (limit >> 16 & 0xf) << 48 |
           (base >> 24 & 0xff) << 56;
}

static void space_load_gdt(struct probe_cpu *mine)
{
    x86_lgdt((struct x86_table_pointer){sizeof(mine->gdt) - 1, cpu_physical(mine->gdt)});
    x86_lidt((struct x86_table_pointer){sizeof(idt) - 1, cpu_physical(idt)});
}

static void space_load_task(struct probe_cpu *mine)
{
    mine->gdt[SELECTOR_TSS / 8] &= ~(2ull << 40); // not busy
    x86_ltr(SELECTOR_TSS);
}

void space_use(struct cpu *cpu)
{
    struct probe_cpu *mine = &own.cpus[cpu->index];
    mine->cpu = cpu;
    for (uint32_t i = 0; i < STACKS; i++) {
        uint8_t *stack = own.stacks[cpu->index][i];
        *(uint64_t *)stack = cpu_physical(mine);
        cpu->tss.ist[i] = cpu_physical(stack + STACK_SIZE);
    }
    for (uint32_t i = 0; i < GDT_ENTRIES; i++)
        mine->gdt[i] = cpu->gdt[i];
    mine->gdt[SELECTOR_LIMITED / 8] = descriptor(PAGE_AT(PAGE_DATA), 15, 0x4000f3);
    mine->gdt[SELECTOR_READ_ONLY / 8] = descriptor(PAGE_AT(PAGE_DATA), 0xfff, 0x4000f1);
    mine->gdt[SELECTOR_EXPAND_DOWN / 8] = descriptor(WINDOW, 0xfff, 0x4000f7);
    mine->gdt[SELECTOR_ABSENT / 8] = descriptor(0, 0xfff, 0x400073);
    mine->gdt[SELECTOR_TSS_32 / 8] = descriptor(PAGE_AT(PAGE_KERNEL), 0x67, 0x89);
    mine->gdt[SELECTOR_GATE / 8] = (uint64_t)SELECTOR_TSS_32 << 16 | 0x85ull << 40;
    mine->gdt[SELECTOR_LDT / 8] = descriptor(PAGE_AT(PAGE_KERNEL), 0xfff, 0x82);
    x86_write_cr3(cpu_physical(spaces[0].pml4));
    space_load_gdt(mine);
    space_load_task(mine);
}

static void write_data_segments(uint64_t ds, uint64_t es, uint64_t others)
{
    __asm__ volatile("mov %0, %%ds; mov %1, %%es; mov %2, %%fs; mov %2, %%gs"
                     :
                     : "r"(ds), "r"(es), "r"(others));
}

// Of what the code may have changed of L1's own state, what L1 needs.
static void put_back(struct probe_cpu *mine)
{
    if (x86_read_cr3() != mine->cr3)
        x86_write_cr3(mine->cr3);
    if (x86_read_cr4() != mine->cr4)
        x86_write_cr4(mine->cr4);
    if (x86_read_cr0() != mine->cr0)
        x86_write_cr0(mine->cr0);
    if (x86_rdmsr(MSR_IA32_EFER) != mine->efer)
        x86_wrmsr(MSR_IA32_EFER, mine->efer);
    space_load_gdt(mine);
    x86_lldt(0);
    if (x86_str() != SELECTOR_TSS)
        space_load_task(mine);
    write_data_segments(SELECTOR_DATA, SELECTOR_DATA, SELECTOR_DATA);
    x86_wrmsr(MSR_GS_BASE, cpu_physical(mine->cpu));
    x86_write_dr7(0x400);
    if (x86_read_cr8())
        x86_write_cr8(0);
}

// 0: the run is over; 1: the code goes on; 2: L2 has to tell L1.
uint32_t probe_take(struct probe_cpu *mine, const uint64_t *frame)
{
    struct probe *out = &mine->out;
    uint32_t vector = (uint32_t)frame[0];
    if (mine->active == 3 && vector == VECTOR_DB)
        return 1; // put_back wrote to a debug register, and that was forbidden (DR7.GD)
    if (vector == VECTOR_NMI) {
        if (mine->active != 1 || mine->turn_seen != mine->turn) {
            mine->turn_seen = mine->turn;
            return 1;
        }
        vector = PROBE_WATCHDOG;
    }
    out->vector = vector;
    out->error_code = frame[1];
    out->rip = frame[2];
    out->rflags = frame[4];
    out->cr2 = x86_read_cr2();
    for (uint32_t i = 0; i < GPR_COUNT; i++)
        out->gpr[i] = mine->gpr[i];
    out->gpr[GPR_RSP] = frame[5];
    if (mine->active == 2)
        return 2;
    mine->active = 3;
    put_back(mine);
    if (vector >= 32 && vector < 256)
        apic_end_interrupt();
    mine->active = 0;
    return 0;
}

static uint64_t probe_place(const struct probe *probe)
{
    bool user = probe->mode == PROBE_USER || probe->mode == PROBE_USER_32;
    enum window_page page = user ? PAGE_CODE : PAGE_KERNEL_CODE;
    if (probe->at)
        return probe->at;
    uint8_t *to = own.window[page];
    for (uint32_t i = 0; i < 64; i++)
        to[i] = i < probe->size ? ((const uint8_t *)probe->code)[i] : 0xcc;
    return PAGE_AT(page);
}

static void probe_prepare(struct probe_cpu *mine, struct probe *probe)
{
    static const uint16_t code[] = {SELECTOR_CODE64, SELECTOR_USER64 | 3, SELECTOR_CODE32,
                                    SELECTOR_USER32 | 3};
    bool user = probe->mode == PROBE_USER || probe->mode == PROBE_USER_32;
    uint64_t rsp = probe->gpr[GPR_RSP];
    mine->cr0 = x86_read_cr0();
    mine->cr3 = x86_read_cr3();
    mine->cr4 = x86_read_cr4();
    mine->efer = x86_rdmsr(MSR_IA32_EFER);
    mine->frame[0] = probe_place(probe);
    mine->frame[1] = code[probe->mode];
    mine->frame[2] = probe->rflags | RFLAGS_FIXED;
    mine->frame[3] = rsp ? rsp : PAGE_AT(user ? PAGE_DATA : PAGE_KERNEL) + 0xf00;
    mine->frame[4] = user ? SELECTOR_USERDATA : SELECTOR_DATA;
    for (uint32_t i = 0; i < GPR_COUNT; i++)
        mine->gpr[i] = probe->gpr[i];
    mine->run_cr3 = probe->cr3 ? probe->cr3 : mine->cr3;
    mine->out = *probe;
    mine->turn++;
}

void probe_run(struct cpu *cpu, struct probe *probe)
{
    struct probe_cpu *mine = &own.cpus[cpu->index];
    bool user = probe->mode == PROBE_USER || probe->mode == PROBE_USER_32;
    uint64_t flat = user ? SELECTOR_USERDATA : SELECTOR_DATA;
    probe_prepare(mine, probe);
    mine->active = 3; // GS is L1's no more
    write_data_segments(probe->ds ? probe->ds : flat, probe->es ? probe->es : flat, flat);
    probe_enter(mine);
    *probe = mine->out;
}

void probe_catch_exits(struct cpu *cpu)
{
    l2_write(VMCS_HOST_RIP, cpu_physical(probe_exited));
    l2_write(VMCS_HOST_RSP, cpu->tss.ist[STACK_EXIT]);
}

bool probe_was_run(const struct probe *probe)
{
    return probe->vector == PROBE_RAN;
}

static void probe_l2_state(struct probe_cpu *mine, const struct probe *probe)
{
    bool user = probe->mode == PROBE_USER || probe->mode == PROBE_USER_32;
    bool wide = probe->mode == PROBE_USER || probe->mode == PROBE_KERNEL;
    uint32_t dpl = user ? 3u << SEGMENT_DPL_SHIFT : 0;
    l2_write(VMCS_GUEST_RIP, mine->frame[0]);
    l2_write(VMCS_GUEST_RSP, mine->frame[3]);
    l2_write(VMCS_GUEST_RFLAGS, mine->frame[2]);
    l2_write(VMCS_GUEST_CS_SELECTOR, mine->frame[1]);
    l2_write(VMCS_GUEST_CS_BASE, 0);
    l2_write(VMCS_GUEST_CS_LIMIT, 0xffffffff);
    l2_write(VMCS_GUEST_CS_ACCESS_RIGHTS, (wide ? 0xa09b : 0xc09b) | dpl);
    for (uint32_t i = 0; i < 12; i += 2) {
        uint32_t selector = VMCS_GUEST_ES_SELECTOR + i;
        if (selector == VMCS_GUEST_CS_SELECTOR)
            continue;
        l2_write(selector, mine->frame[4]);
        l2_write(VMCS_GUEST_ES_LIMIT + i, 0xffffffff);
        l2_write(VMCS_GUEST_ES_BASE + i, selector == VMCS_GUEST_GS_SELECTOR ? cpu_physical(mine->cpu) : 0);
        l2_write(VMCS_GUEST_ES_ACCESS_RIGHTS + i, 0xc093 | dpl);
    }
    l2_write(VMCS_GUEST_CR0, mine->cr0);
    l2_write(VMCS_GUEST_CR3, probe->cr3 ? probe->cr3 : mine->cr3);
    l2_write(VMCS_GUEST_CR4, mine->cr4);
    l2_write(VMCS_GUEST_INTERRUPTIBILITY, 0);
    l2_write(VMCS_GUEST_ACTIVITY_STATE, 0);
    l2_write(VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    l2_write(VMCS_GUEST_TR_SELECTOR, SELECTOR_TSS);
    l2_write(VMCS_GUEST_TR_BASE, cpu_physical(&mine->cpu->tss));
    l2_write(VMCS_GUEST_TR_ACCESS_RIGHTS, 0x8b);
    l2_write(VMCS_GUEST_TR_LIMIT, sizeof(struct cpu_tss) - 1);
    l2_write(VMCS_GUEST_LDTR_ACCESS_RIGHTS, SEGMENT_UNUSABLE);
    l2_write(VMCS_GUEST_GDTR_BASE, cpu_physical(mine->gdt));
    l2_write(VMCS_GUEST_GDTR_LIMIT, sizeof(mine->gdt) - 1);
    l2_write(VMCS_GUEST_IDTR_BASE, cpu_physical(idt));
    l2_write(VMCS_GUEST_IDTR_LIMIT, sizeof(idt) - 1);
    l2_write(VMCS_GUEST_DR7, 0x400);
    l2_write(VMCS_GUEST_IA32_DEBUGCTL, 0);
}

uint32_t probe_run_in_l2(struct cpu *cpu, struct l2 *l2, struct probe *probe)
{
    struct probe_cpu *mine = &own.cpus[cpu->index];
    probe_prepare(mine, probe);
    probe_l2_state(mine, probe);
    for (uint32_t i = 0; i < GPR_COUNT; i++)
        l2->gpr[i] = probe->gpr[i];
    mine->active = 2;
    enum vmx_status status = l2_enter(l2);
    put_back(mine);
    mine->active = 0;
    if (status != VMX_SUCCEED)
        return ~0u;
    uint32_t reason = (uint32_t)l2_read(VMCS_EXIT_REASON);
    if (reason == EXIT_VMCALL && l2->gpr[GPR_RAX] == PROBE_LEFT_L2) {
        *probe = mine->out;
        return PROBE_LEFT_L2;
    }
    for (uint32_t i = 0; i < GPR_COUNT; i++)
        probe->gpr[i] = l2->gpr[i];
    probe->rip = l2_read(VMCS_GUEST_RIP);
    return reason;
}

#define IO_APIC           ((volatile uint32_t *)0xfec00000)
#define IO_APIC_DATA      4 /* words */
#define IO_APIC_PIN_2_LOW 0x14
#define IO_APIC_NMI       0x400u
#define IO_APIC_MASKED    0x10000u
#define PIT_CHANNEL_0     0x40
#define PIT_COMMAND       0x43
#define PIT_10_MS         11932u

void probe_watchdog(bool on)
{
    IO_APIC[0] = IO_APIC_PIN_2_LOW + 1;
    IO_APIC[IO_APIC_DATA] = cpu_self()->apic_id << 24;
    IO_APIC[0] = IO_APIC_PIN_2_LOW;
    IO_APIC[IO_APIC_DATA] = IO_APIC_NMI | (on ? 0 : IO_APIC_MASKED);
    x86_out8(PIT_COMMAND, 0x34); // channel 0, both bytes, rate generator
    x86_out8(PIT_CHANNEL_0, PIT_10_MS & 0xff);
    x86_out8(PIT_CHANNEL_0, PIT_10_MS >> 8);
}
