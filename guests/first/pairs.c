// SPDX-License-Identifier: MIT
// What one processor does to another one's L2: interrupts, INIT, start-up IPIs, a VMCS that changes the
// processor, L2s that share memory. Processor 0 conducts, and writes down what processor 1 found.
#include "pairs.h"
#include "apic.h"
#include "console.h"
#include "first.h"
#include "l2_code.h"
#include "trap.h"
#include "x86.h"

#define VECTOR       0x65u
#define SIPI_VECTOR  0x12u
#define SHARED_TURNS 2000u

static struct {
    struct cpu *other;
    struct l2 *l2;
    volatile bool l2_runs, go;
    volatile uint64_t shared;
    uint64_t capabilities[MSR_IA32_VMX_TRUE_ENTRY_CTLS - MSR_IA32_VMX_BASIC + 1];
} pair;

static void wait_for(volatile bool *condition)
{
    while (!*condition)
        x86_pause();
}

// So long that an L2 that has said that it runs is in its loop.
static void wait_a_little(void)
{
    for (uint32_t i = 0; i < 20000; i++)
        x86_pause();
}

// A job for the other processor in VMX operation, with its pages free; facts go to its own block.
static void (*pair_work)(struct cpu *);
static void pair_job(struct cpu *cpu)
{
    cpu_reset_pages(cpu);
    cpu->trap_needs_eoi = true;
    if (!l2_vmx_on(cpu))
        trap_panic("VMXON fails");
    pair_work(cpu);
    uint64_t current = VMX_NO_VMCS;
    if (vmx_vmptrst(&current) == VMX_SUCCEED && current != VMX_NO_VMCS)
        vmx_vmclear(current);
    l2_vmx_off();
}

static void begin(void (*work)(struct cpu *))
{
    pair_work = work;
    pair.l2_runs = pair.go = false;
    apic_run_on(pair.other, pair_job);
}

// ... and what it wrote down follows what processor 0 has.
static void finish(struct cpu *cpu)
{
    apic_wait_for(pair.other);
    console_flush(cpu);
    console_flush(pair.other);
}

static void l2_says_it_runs(void)
{
    pair.l2_runs = true;
    l2_spin();
}

static void read_capabilities(struct cpu *cpu)
{
    (void)cpu;
    for (uint32_t i = 0; i < sizeof(pair.capabilities) / sizeof(pair.capabilities[0]); i++)
        pair.capabilities[i] = x86_rdmsr(MSR_IA32_VMX_BASIC + i);
}

void pair_same_capabilities(struct cpu *cpu)
{
    begin(read_capabilities);
    finish(cpu);
    bool same = true;
    for (uint32_t i = 0; i < sizeof(pair.capabilities) / sizeof(pair.capabilities[0]); i++)
        same = same && pair.capabilities[i] == x86_rdmsr(MSR_IA32_VMX_BASIC + i);
    fact_true(cpu, "both processors' capability MSRs are the same", same);
}

static void take_interrupt_exit(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_says_it_runs);
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
    l2_set(VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    l2_set(VMCS_GUEST_RFLAGS, RFLAGS_IF);
    fact_exit(cpu, l2, "an interrupt arrives", EXIT_EXTERNAL_INTERRUPT);
    fact(cpu, "interruption information", l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000000 | VECTOR);
    apic_end_interrupt();
}

void pair_interrupt_from_another(struct cpu *cpu)
{
    begin(take_interrupt_exit);
    wait_for(&pair.l2_runs);
    wait_a_little();
    apic_send(pair.other->apic_id, APIC_FIXED | VECTOR);
    finish(cpu);
}

static void take_nmi_exit(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_says_it_runs);
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
    fact_exit(cpu, l2, "an NMI arrives", EXIT_EXCEPTION_OR_NMI);
    fact(cpu, "interruption information", l2_read(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000202);
    __asm__ volatile("int $2"); // its IRET unblocks NMIs
}

void pair_nmi_from_another(struct cpu *cpu)
{
    begin(take_nmi_exit);
    wait_for(&pair.l2_runs);
    wait_a_little();
    apic_send(pair.other->apic_id, APIC_NMI);
    finish(cpu);
}

static bool changes(const volatile uint64_t *value, uint64_t from)
{
    for (uint64_t waited = 0; *value == from && waited < 1000000; waited++)
        x86_pause();
    return *value != from;
}

// An NMI comes a while after each round begins: in an L0 that carries out the CPUID, at its last moment
// before the entry, or behind it. Nothing else makes an L0 look.
static void execute_cpuid_and_wait(struct cpu *cpu)
{
    const volatile uint64_t *count = &cpu->trap.count;
    uint64_t before = *count;
    bool all = true;
    for (uint32_t i = 0; i < SHARED_TURNS && all; i++) {
        uint64_t round = *count;
        uint32_t leaf = 0, subleaf = 0;
        pair.shared = i + 1;
        __asm__ volatile("cpuid" : "+a"(leaf), "+c"(subleaf) : : "rbx", "rdx", "memory");
        all = changes(count, round);
    }
    pair.shared = UINT64_MAX;
    fact_true(cpu, "each NMI was taken", all);
    fact(cpu, "NMIs taken", *count - before, SHARED_TURNS);
}

void pair_nmis_one_by_one(struct cpu *cpu)
{
    pair.shared = 0;
    begin(execute_cpuid_and_wait);
    for (uint64_t round = 0; changes(&pair.shared, round) && pair.shared != UINT64_MAX;) {
        round = pair.shared;
        for (uint64_t i = 0; i < round % 64; i++)
            x86_pause();
        apic_send(pair.other->apic_id, APIC_NMI);
    }
    finish(cpu);
}

static void l2_count(void)
{
    for (uint64_t i = 1;; i++)
        l2_call(i);
}

// The host state, and of the guest state what belongs to the processor.
static void adopt(struct l2 *l2)
{
    uint64_t rip = l2_read(VMCS_GUEST_RIP), rsp = l2_read(VMCS_GUEST_RSP);
    l2_write_all(l2, l2_count);
    l2_write(VMCS_GUEST_RIP, rip);
    l2_write(VMCS_GUEST_RSP, rsp);
    l2->launched = false;
}

static void run_what_the_other_left(struct cpu *cpu)
{
    fact_status(cpu, "VMPTRLD of the other's VMCS", vmx_vmptrld(pair.l2->vmcs), FACT_SUCCEED);
    fact(cpu, "its TSC offset", l2_read(VMCS_TSC_OFFSET), 0x123456789a);
    fact(cpu, "its last exit's reason", l2_read(VMCS_EXIT_REASON), EXIT_VMCALL);
    fact_status(cpu, "VMRESUME: VMCLEAR made it clear", vmx_vmresume(), 5);
    adopt(pair.l2);
    fact_call(cpu, pair.l2, "L2 goes on here", 3);
    fact_call(cpu, pair.l2, "L2 goes on here", 4);
    l2_write(VMCS_GUEST_SYSENTER_CS, 0x4711);
    l2_write(VMCS_TSC_OFFSET, 0xa987654321);
}

void pair_vmcs_moves(struct cpu *cpu)
{
    struct l2 *l2 = pair.l2 = l2_create(cpu, l2_count);
    fact_call(cpu, l2, "L2 begins on processor 0", 1);
    fact_call(cpu, l2, "L2 goes on", 2);
    l2_write(VMCS_TSC_OFFSET, 0x123456789a);
    vmx_vmclear(l2->vmcs);
    begin(run_what_the_other_left);
    finish(cpu);
    fact_status(cpu, "back on processor 0: VMPTRLD", vmx_vmptrld(l2->vmcs), FACT_SUCCEED);
    fact(cpu, "what processor 1 wrote: TSC offset", l2_read(VMCS_TSC_OFFSET), 0xa987654321);
    fact(cpu, "what processor 1 wrote: guest IA32_SYSENTER_CS", l2_read(VMCS_GUEST_SYSENTER_CS), 0x4711);
    adopt(l2);
    fact_call(cpu, l2, "L2 goes on", 5);
}

static void l2_adds(void)
{
    for (uint32_t i = 0; i < SHARED_TURNS; i++) {
        __atomic_add_fetch(&pair.shared, 1, __ATOMIC_SEQ_CST);
        if (i % 16 == 0)
            l2_call(i);
    }
}

static void add_with_exits(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_adds);
    pair.l2_runs = true;
    wait_for(&pair.go);
    do {
        if (l2_enter(l2) != VMX_SUCCEED)
            trap_panic("VM entry fails");
        l2_skip();
    } while (l2->gpr[GPR_RAX] != L2_RETURNED);
}

void pair_shared_memory(struct cpu *cpu)
{
    pair.shared = 0;
    begin(add_with_exits);
    wait_for(&pair.l2_runs);
    pair.go = true;
    add_with_exits(cpu);
    finish(cpu);
    fact(cpu, "two L2s add to one cell, exiting all the time: the sum", pair.shared, 2 * SHARED_TURNS);
}

static void wait_for_startup_ipi(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_nops);
    l2_write(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_WAIT_FOR_SIPI);
    pair.l2_runs = true;
    if (fact_exit(cpu, l2, "VM entry to wait for a start-up IPI: it arrives", EXIT_STARTUP_IPI))
        fact(cpu, "its vector", l2_read(VMCS_EXIT_QUALIFICATION), SIPI_VECTOR);
    l2_write(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_ACTIVE);
    fact_call(cpu, l2, "made active: L2 runs", 3);
}

void pair_startup_ipi(struct cpu *cpu)
{
    if (!(x86_rdmsr(MSR_IA32_VMX_MISC) & MISC_ACTIVITY_WAIT_FOR_SIPI))
        return;
    begin(wait_for_startup_ipi);
    wait_for(&pair.l2_runs);
    wait_a_little();
    apic_send(pair.other->apic_id, APIC_STARTUP | SIPI_VECTOR);
    finish(cpu);
}

static void take_init_exit(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_says_it_runs);
    fact_exit(cpu, l2, "an INIT arrives", EXIT_INIT_SIGNAL);
    fact_true(cpu, "L2 was in its loop",
              l2_read(VMCS_GUEST_RIP) - l2_code_address(l2_spin) <
                  cpu_physical(l2_spin_end) - l2_code_address(l2_spin));
    l2_restart(l2, l2_nops);
    fact_call(cpu, l2, "L2 runs on", 3);
}

void pair_init(struct cpu *cpu)
{
    begin(take_init_exit);
    wait_for(&pair.l2_runs);
    wait_a_little();
    apic_send(pair.other->apic_id, APIC_INIT);
    finish(cpu);
}

static void run_once(struct cpu *cpu)
{
    fact_call(cpu, l2_create(cpu, l2_nops), "L2 runs on the processor that was started again", 3);
}

// Outside VMX operation INIT is not blocked: INIT and start-up IPIs start the processor once more.
void pair_restart(struct cpu *cpu)
{
    fact_true(cpu, "processor 1 starts again", apic_start_processor(pair.other));
    begin(run_once);
    finish(cpu);
}

void pairs_use(struct cpu *other)
{
    pair.other = other;
}
