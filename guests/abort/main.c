// SPDX-License-Identifier: MIT
// A hypervisor's worst mistake, a VM exit that cannot be completed: its logical processor is in shutdown from
// then on, and the others go on. With one processor that is the end; with more, the last one makes it, and
// the first says so. Manual: VMX Aborts.
#include "apic.h"
#include "console.h"
#include "l2.h"
#include "machine.h"
#include "trap.h"
#include "x86.h"

#define ABORT_LOADING_MSRS 4u
#define NO_MSR             0xffffffffu

static volatile uint32_t *region; // of the VMCS that aborts; its second word is the VMX-abort indicator

void guest_start(const struct multiboot_information *information, uint32_t magic);

static void l2_returns(void)
{
}

static void make_an_abort(struct cpu *cpu)
{
    if (!l2_vmx_on(cpu))
        trap_panic("VMXON fails");
    struct l2 *l2 = l2_create(cpu, l2_returns);
    uint32_t *entry = cpu_allocate_page(cpu);
    entry[0] = NO_MSR;
    l2_write(VMCS_VM_EXIT_MSR_LOAD_ADDRESS, cpu_physical(entry));
    l2_write(VMCS_VM_EXIT_MSR_LOAD_COUNT, 1);
    region = (volatile uint32_t *)(uintptr_t)l2->vmcs;
    l2_enter(l2);
    console_print(cpu, "abort: WRONG: the processor runs on\n");
    console_flush(cpu);
}

void guest_start(const struct multiboot_information *information, uint32_t magic)
{
    bool loaded = machine_init(information, magic);
    console_init();
    uint32_t count = apic_find_processors();
    struct cpu *cpu = cpu_get(0);
    if (!loaded)
        trap_panic("not loaded by Multiboot");
    cpu->block.immediate = true;
    console_print(cpu, "abort: %u processors\n", count);
    if (count == 1) {
        make_an_abort(cpu);
        machine_stop();
    }
    apic_start_others(count);
    apic_run_on(cpu_get(count - 1), make_an_abort);
    while (region == NULL || region[1] == 0)
        x86_pause();
    for (unsigned i = 0; i < 5; i++)
        machine_wait_10_ms();
    console_print(cpu, "abort: indicator %u\n", region[1]);
    console_print(cpu, region[1] == ABORT_LOADING_MSRS ? "abort: done\n" : "abort: WRONG\n");
    console_flush(cpu);
    machine_stop();
}
