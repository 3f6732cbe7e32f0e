// SPDX-License-Identifier: MIT
// From the boot loader to L1's first instruction.
#include "acpi.h"
#include "apic.h"
#include "cpu.h"
#include "cpuid.h"
#include "direct_map.h"
#include "ept01.h"
#include "exceptions.h"
#include "io.h"
#include "load.h"
#include "log.h"
#include "mtrr.h"
#include "multiboot2.h"
#include "panic.h"
#include "port_memory.h"
#include "quirks.h"
#include "relocate.h"
#include "reserve.h"
#include "smp.h"
#include "stop.h"
#include "string.h"
#include "vcpu.h"
#include "vmxon.h"

#include <silicon/x86.h>

#define VENDOR "Plastron"

// What L1 must at least have left, or there is no point in starting.
#define L1_MEMORY_MIN (16ull << 20)
#define MEMORY_LIMIT  (1ull << 32) // L0's range is below: a processor's way into 64-bit mode needs it there

_Noreturn void main(uint64_t boot_information);

extern uint8_t boot_stack_end[]; // boot.S

static struct multiboot2_info boot;
static struct acpi_info acpi;
static struct nvmx_caps hardware, offered;
static struct l1_start_state start;

static bool l1_is_loaded;                     // set by the bootstrap processor: the others may go on
static const char *volatile problem_of_other; // set by another processor that cannot go on

static void refuse_if(const char *problem)
{
    if (problem != NULL)
        stop_refuse("%s", problem);
}

// "posted=on": posted interrupts are offered to L1 although the processor notices interrupts late.
static bool posted_interrupts_wanted;

static void read_options(const char *options)
{
    while (*options != '\0') {
        if (string_starts_with(options, "log=") && !log_select(options + 4))
            stop_refuse("unknown log port in the option %s (log=com1, log=com2 or log=none)", options);
        if (string_starts_with(options, "cpuid=") && !cpuid_select(options + 6))
            stop_refuse("unknown way to answer CPUID in the option %s (cpuid=leaves, cpuid=hidden or "
                        "cpuid=announced)",
                        options);
        if (string_starts_with(options, "posted=on"))
            posted_interrupts_wanted = true;
        while (*options != '\0' && *options != ' ')
            options++;
        while (*options == ' ')
            options++;
    }
}

// Memory that is neither free for L0 nor to be touched before L1 is loaded.
static uint32_t list_taken(struct memory_range *taken)
{
    uint32_t count = 0;
    taken[count++] = (struct memory_range){.start = boot.start, .end = boot.end};
    taken[count++] = (struct memory_range){.start = 0x200000, .end = 0x200000 + (4ull << 20)}; // the image
    for (uint32_t i = 0; i < boot.module_count; i++)
        taken[count++] = (struct memory_range){.start = boot.module[i].start,
                                               .end = boot.module[i].start + boot.module[i].size};
    return count;
}

// Chooses L0's range, takes it out of the memory map, and moves there.
static void move_to_reserved_range(const struct memory_range *taken, uint32_t taken_count)
{
    uint64_t size = relocate_image_size() + (1ull << 20) + ept01_memory_size(&hardware) +
                    acpi.cpu_count * (cpu_memory_size() + vcpu_memory_size());
    size = (size + RESERVE_ALIGNMENT - 1) / RESERVE_ALIGNMENT * RESERVE_ALIGNMENT;
    uint64_t at = memory_map_find(&boot.memory, size, RESERVE_ALIGNMENT, MEMORY_LIMIT, taken, taken_count);
    uint64_t ram = memory_map_ram_size(&boot.memory);
    if (at == 0 || ram < size + L1_MEMORY_MIN)
        stop_refuse(
            "too little memory: L0 needs %lu MiB in one piece below 4 GiB and leaves L1 at least %llu MiB; "
            "this machine has %lu MiB",
            size >> 20, L1_MEMORY_MIN >> 20, ram >> 20);
    uint64_t ram_end = memory_map_ram_end(&boot.memory);
    if (!memory_map_set(&boot.memory, at, at + size, MEMORY_RESERVED))
        stop_refuse("the memory map has too many entries");
    reserve_init(at, size, relocate_image_size());
    relocate_image(ram_end);
    log_line("stage: L0 has moved to %lx to %lx", at, at + size);
}

static const char *enter_vmx_operation(struct cpu *cpu)
{
    struct nvmx_caps own;
    const char *problem = vmxon_check(&own);
    if (problem != NULL)
        return problem;
    if (memcmp(&own, &hardware, sizeof(own)) != 0)
        return "the processors differ in their VT-x capabilities";
    return vmxon_enter(cpu, &hardware);
}

static void application_processor(struct cpu *cpu)
{
    x86_write_cr3(relocate_cr3());
    cpu_init(cpu);
    apic_enable();
    apic_follow(cpu->index);
    const char *problem = enter_vmx_operation(cpu);
    if (problem != NULL)
        problem_of_other = problem;
    __atomic_store_n(&cpu->running, true, __ATOMIC_RELEASE);
    if (problem != NULL)
        panic_halt();
    while (!__atomic_load_n(&l1_is_loaded, __ATOMIC_ACQUIRE)) {
        panic_stop_if_requested();
        x86_pause();
    }
    vcpu_load(cpu->vcpu, NULL);
    __atomic_store_n(&cpu->running, true, __ATOMIC_RELEASE);
    vcpu_run(cpu->vcpu);
}

static void start_processors(const struct memory_range *taken, uint32_t taken_count)
{
    struct cpu *self = cpu_this();
    refuse_if(enter_vmx_operation(self));
    refuse_if(smp_start_all(&boot.memory, taken, taken_count, application_processor));
    if (problem_of_other != NULL)
        stop_refuse("a processor cannot be used: %s", problem_of_other);
    log_line("stage: %u processor%s in VMX operation", cpu_count, cpu_count == 1 ? "" : "s");
}

static void load_l1(void)
{
    static char refusal[200];
    const struct l1_load_request request = {
        .memory = direct_map(0),
        .map = boot.memory.range,
        .map_count = boot.memory.count,
        .modules = boot.module,
        .module_count = boot.module_count,
        .rsdp = acpi.rsdp,
        .refusal = refusal,
        .refusal_size = sizeof(refusal),
    };
    if (boot.module_count == 0)
        stop_refuse("the boot loader passed no L1 image (module2)");
    if (!l1_load(&request, &start))
        stop_refuse("%s", refusal);
}

// The other processors wait for L1's startup IPI before L1 runs.
static void release_other_processors(void)
{
    const struct cpu *self = cpu_this();
    for (uint32_t i = 0; i < cpu_count; i++)
        cpu_list[i]->running = false;
    __atomic_store_n(&l1_is_loaded, true, __ATOMIC_RELEASE);
    for (uint32_t i = 0; i < cpu_count; i++)
        while (cpu_list[i] != self && !__atomic_load_n(&cpu_list[i]->running, __ATOMIC_ACQUIRE))
            x86_pause();
}

static void offer_capabilities(void)
{
    struct nvmx_caps usable = hardware;
    if (quirks.notices_interrupts_late && !posted_interrupts_wanted) {
        const uint64_t may_be_1 = (uint64_t)PIN_POSTED_INTERRUPTS << 32;
        usable.msr[MSR_IA32_VMX_PINBASED_CTLS - CAPS_MSR_FIRST] &= ~may_be_1;
        usable.msr[MSR_IA32_VMX_TRUE_PINBASED_CTLS - CAPS_MSR_FIRST] &= ~may_be_1;
    }
    nvmx_caps_offer(&usable, &offered);
    offered.features = hardware.features & FEATURE_RTM; // what cpuid.def offers of them
}

// Where the image was loaded is L1's memory from here on.
static _Noreturn void run_relocated(const struct memory_range *taken, uint32_t taken_count)
{
    uint32_t own_id = apic_id();
    struct cpu *self = NULL;
    for (uint32_t i = 0; i < acpi.cpu_count; i++) {
        struct cpu *cpu = cpu_create(acpi.apic_id[i]);
        if (acpi.apic_id[i] == own_id)
            self = cpu;
    }
    if (self == NULL)
        stop_refuse("ACPI's MADT does not list the processor that L0 started on (APIC ID %u)", own_id);
    self->stack_top = boot_stack_end; // it stays on the stack that it has
    cpu_init(self);
    apic_follow(self->index);
    offer_capabilities();
    cpuid_init();

    mtrr_read();
    ept01_build(&hardware);
    vcpu_init(&hardware, &offered);
    for (uint32_t i = 0; i < cpu_count; i++)
        vcpu_create(cpu_list[i]);
    start_processors(taken, taken_count);

    load_l1();
    port_memory_set(&boot.memory);
    release_other_processors();
    log_line("stage: starting L1 (%s)", start.kind);
    vcpu_load(self->vcpu, &start);
    vcpu_run(self->vcpu);
}

void main(uint64_t boot_information)
{
    static struct memory_range taken[MULTIBOOT2_MODULE_MAX + 2];
    exceptions_init();
    log_init();
    refuse_if(multiboot2_read(boot_information, &boot));
    read_options(boot.options);
    log_line("stage: " VENDOR " (L0) has started");
    refuse_if(acpi_read(boot.rsdp_copy, &acpi));
    quirks_detect(&acpi);
    io_set_acpi(&acpi);
    apic_enable();
    refuse_if(vmxon_check(&hardware));
    uint32_t taken_count = list_taken(taken);
    move_to_reserved_range(taken, taken_count);
    run_relocated(taken, taken_count);
}
