// SPDX-License-Identifier: MIT
// What the operations of a hypervisor cost, in TSC ticks: on an emulator whose TSC counts instructions, exact
// and repeatable. Each figure is an operation's share of the fastest of several batches, less what the
// measuring costs.
#include "../checks/judge.h"
#include "../checks/judge_table.h"
#include "apic.h"
#include "console.h"
#include "ept.h"
#include "l2.h"
#include "machine.h"
#include "trap.h"
#include "x86.h"

#define ROUNDS 8u
#define BATCH                                                                                                \
    100u // operations between two looks at the TSC: an emulator may bring it up to date now and then only
#define UNUSED_PORT 0xedu

void guest_start(const struct multiboot_information *information, uint32_t magic);

static uint64_t measuring; // the ticks of a batch of nothing
static volatile uint64_t least;

#define MEASURE(operation)                                                                                   \
    do {                                                                                                     \
        least = ~0ull;                                                                                       \
        for (uint32_t round_ = 0; round_ < ROUNDS; round_++) {                                               \
            uint64_t before_ = x86_rdtsc();                                                                  \
            for (uint32_t i_ = 0; i_ < BATCH; i_++) {                                                        \
                operation;                                                                                   \
                __asm__ volatile("" : : : "memory");                                                         \
            }                                                                                                \
            uint64_t ticks_ = x86_rdtsc() - before_;                                                         \
            if (ticks_ < least)                                                                              \
                least = ticks_;                                                                              \
        }                                                                                                    \
    } while (0)

static void report_ticks(const char *name)
{
    console_print(cpu_get(0), "bench: %s %lu\n", name, (least - measuring + BATCH / 2) / BATCH);
}

// --- what L2 executes; the exit, L1's handler and the way back are measured in L2

static void l2_vmcall(void)
{
    MEASURE(l2_call(1));
}

static void l2_cpuid(void)
{
    MEASURE(x86_cpuid(0, 0));
}

static void l2_out(void)
{
    MEASURE(x86_out8(UNUSED_PORT, 0));
}

static void l2_rdmsr(void)
{
    MEASURE(x86_rdmsr(MSR_IA32_SYSENTER_CS));
}

static void l2_hlt(void)
{
    MEASURE(__asm__ volatile("hlt"));
}

// Between the exit and the entry.
static void write_nothing(void)
{
}

static void write_two_rare_fields(void)
{
    l2_write(VMCS_GUEST_LDTR_LIMIT, 0);
    l2_write(VMCS_GUEST_FS_BASE, 0);
}

// Every control, host-state and guest-state field but RIP, with what it holds.
static uint32_t every_field[F_COUNT], every_field_count;

static void write_every_field(void)
{
    for (uint32_t i = 0; i < every_field_count; i++)
        l2_write(every_field[i], l2_read(every_field[i]));
}

static void find_every_field(void)
{
    every_field_count = 0;
    for (uint32_t i = 0; i < F_COUNT; i++) {
        uint32_t encoding = vmcs_field_encoding((enum vmcs_field)i);
        uint64_t value = 0;
        if (vmcs_encoding_type(encoding) != VMCS_TYPE_INFO && encoding != VMCS_GUEST_RIP &&
            vmx_vmread(encoding, &value) == VMX_SUCCEED)
            every_field[every_field_count++] = encoding;
    }
}

// L1's handler: the reason decides, RIP goes past the instruction.
static void run_l2(struct l2 *l2, void (*write)(void))
{
    for (;;) {
        if (l2_enter(l2) != VMX_SUCCEED)
            trap_panic("VM entry fails");
        switch (l2_read(VMCS_EXIT_REASON)) {
        case EXIT_VMCALL:
            if (l2->gpr[GPR_RAX] == L2_RETURNED)
                return;
            break;
        case EXIT_CPUID:
        case EXIT_IO_INSTRUCTION:
        case EXIT_RDMSR:
        case EXIT_HLT:
            break;
        default:
            trap_panic("an exit that nobody expected");
        }
        l2_skip();
        write();
    }
}

// With EPT and a VPID, as hypervisors run their guests where the processor has them.
static void bench_l2(struct cpu *cpu, const char *name, void (*code)(void), void (*write)(void))
{
    cpu_reset_pages(cpu);
    struct l2 *l2 = l2_create(cpu, code);
    if (l2_may_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_EPT)) {
        struct ept ept = ept_create_identity(cpu);
        ept_use(&ept);
    }
    if (l2_may_set(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_VPID)) {
        l2_set_secondary(SECONDARY_ENABLE_VPID);
        l2_write(VMCS_VPID, 1);
    }
    find_every_field();
    run_l2(l2, write);
    report_ticks(name);
    vmx_vmclear(l2->vmcs);
}

static void bench_l1(struct cpu *cpu)
{
    uint64_t value = 0;
    cpu_reset_pages(cpu);
    struct l2 *first = l2_create(cpu, l2_vmcall), *second = l2_create(cpu, l2_vmcall);
    uint64_t other = l2_allocate_vmcs(cpu);
    MEASURE(x86_cpuid(0, 0));
    report_ticks("l1-cpuid");
    MEASURE(vmx_vmread(VMCS_GUEST_RIP, &value));
    report_ticks("vmread-hot");
    MEASURE(vmx_vmwrite(VMCS_GUEST_RIP, 0x1000));
    report_ticks("vmwrite-hot");
    MEASURE(vmx_vmread(VMCS_GUEST_LDTR_LIMIT, &value));
    report_ticks("vmread-other");
    MEASURE(vmx_vmwrite(VMCS_GUEST_LDTR_LIMIT, 0));
    report_ticks("vmwrite-other");
    MEASURE(vmx_vmclear(other));
    report_ticks("vmclear");
    MEASURE((vmx_vmptrld(first->vmcs), vmx_vmptrld(second->vmcs)));
    report_ticks("vmptrld-twice");
}

// The engine's table of VM-entry checks itself, compiled into this L1: all of it, and the part that no entry
// goes without.
static void bench_checks(struct cpu *cpu)
{
    static uint64_t field[F_COUNT];
    uint64_t pdpte[4];
    struct check_report report = {.count = 0};
    cpu_reset_pages(cpu);
    judge_begin(cpu);
    const struct pair_world *world = judge_world(PAIR_DIRECT);
    if (!pair_make_base(0, world, field))
        trap_panic("a VMCS that this processor cannot have");
    const struct check_input input = judge_input(world, field, pdpte);
    MEASURE(check_stages(&input, (1u << STAGE_COUNT) - 1, &report));
    report_ticks("checks-all");
    MEASURE(check_stages(&input, 1u << STAGE_CONTROLS_HOT | 1u << STAGE_GUEST_HOT, &report));
    report_ticks("checks-hot");
    if (report.count != 0)
        trap_panic("the VMCS is not valid");
}

void guest_start(const struct multiboot_information *information, uint32_t magic)
{
    bool loaded = machine_init(information, magic);
    console_init();
    apic_find_processors();
    struct cpu *cpu = cpu_get(0);
    if (!loaded)
        trap_panic("not loaded by Multiboot");
    if (!l2_vmx_on(cpu))
        trap_panic("VMXON fails");
    MEASURE((void)0);
    measuring = least;
    bench_l2(cpu, "l2-vmcall", l2_vmcall, write_nothing);
    bench_l2(cpu, "l2-cpuid", l2_cpuid, write_nothing);
    bench_l2(cpu, "l2-out", l2_out, write_nothing);
    bench_l2(cpu, "l2-rdmsr", l2_rdmsr, write_nothing);
    bench_l2(cpu, "l2-hlt", l2_hlt, write_nothing);
    bench_l2(cpu, "l2-vmcall-rare", l2_vmcall, write_two_rare_fields);
    bench_l2(cpu, "l2-vmcall-every", l2_vmcall, write_every_field);
    bench_l1(cpu);
    bench_checks(cpu);
    console_print(cpu, "bench: done\n");
    console_flush(cpu);
    machine_stop();
}
