// SPDX-License-Identifier: MIT
// port.h on the bare machine: L1's physical memory is the machine's, but for what is L0's and what is no RAM.
#include <nvmx/port.h>

#include "apic.h"
#include "boot.h"
#include "direct_map.h"
#include "ept01.h"
#include "exceptions.h"
#include "log.h"
#include "panic.h"
#include "port_memory.h"
#include "string.h"
#include "vcpu.h"

#include <silicon/x86.h>

#define LOG_LINES_MAX 2000 // what L1 can make L0 say; after that only the count goes on

static const struct memory_map *l1_memory;
static uint64_t main_start, main_end; // the largest range of RAM: nearly every access is there

void port_memory_set(const struct memory_map *map)
{
    l1_memory = map;
    for (uint32_t i = 0; i < map->count; i++) {
        const struct memory_range *range = &map->range[i];
        if (range->type == MEMORY_RAM && range->end - range->start > main_end - main_start) {
            main_start = range->start;
            main_end = range->end;
        }
    }
}

// Where this processor has its local APIC's registers there is no RAM for it, wherever L1 has moved them.
static bool is_l1_ram(const struct nvmx_vcpu *vcpu, uint64_t start, size_t size)
{
    uint64_t end = start + size, apic = ((const struct vcpu *)vcpu)->apic_base & APIC_BASE_ADDRESS;
    if (end < start || (start < apic + PAGE_SIZE && end > apic))
        return false;
    return (start >= main_start && end <= main_end) || memory_map_is_ram(l1_memory, start, end);
}

bool port_l1_read(struct nvmx_vcpu *vcpu, l1pa_t from, void *to, size_t size)
{
    if (!is_l1_ram(vcpu, from.value, size))
        return false;
    memcpy(to, direct_map(from.value), size);
    return true;
}

bool port_l1_write(struct nvmx_vcpu *vcpu, l1pa_t to, const void *from, size_t size)
{
    if (!is_l1_ram(vcpu, to.value, size))
        return false;
    memcpy(direct_map(to.value), from, size);
    return true;
}

bool port_l1_compare_exchange(struct nvmx_vcpu *vcpu, l1pa_t at, uint64_t expected, uint64_t desired,
                              uint64_t *word)
{
    if (!is_l1_ram(vcpu, at.value, sizeof(uint64_t)))
        return false;
    *word = expected;
    __atomic_compare_exchange_n((uint64_t *)direct_map(at.value), word, desired, false, __ATOMIC_SEQ_CST,
                                __ATOMIC_SEQ_CST);
    return true;
}

bool port_l1_translate(struct nvmx_vcpu *vcpu, l1pa_t at, struct port_mapping *mapping)
{
    (void)vcpu;
    return ept01_translate(at, mapping);
}

void *port_l0_map(l0pa_t page)
{
    return direct_map(page.value);
}

void port_host_constant(struct port_host_constant *host)
{
    *host = (struct port_host_constant){
        .cr0 = x86_read_cr0(),
        .cr3 = x86_read_cr3(),
        .cr4 = x86_read_cr4(),
        .efer = x86_rdmsr(MSR_IA32_EFER),
        .pat = x86_rdmsr(MSR_IA32_PAT),
        .rip = (uint64_t)silicon_vm_exit,
        .es = SELECTOR_DATA,
        .cs = SELECTOR_CODE,
        .ss = SELECTOR_DATA,
        .ds = SELECTOR_DATA,
        .fs = SELECTOR_DATA,
        .gs = SELECTOR_DATA,
        .tr = SELECTOR_TSS,
    };
}

void port_host_cpu(struct hw_cpu *cpu, struct port_host_cpu *host)
{
    struct cpu *own = cpu_of_hw(cpu);
    *host = (struct port_host_cpu){
        .gs_base = (uint64_t)own,
        .tr_base = (uint64_t)&own->tss,
        .gdtr_base = (uint64_t)own->gdt,
        .idtr_base = exceptions_idt(),
        .rsp = silicon_host_rsp(cpu),
    };
}

// Passthrough: a vcpu is loaded once, on the processor that it was made for (vcpu_load), so that there is
// nothing to clear elsewhere, and no way to ask for it: L1 owns the local APICs and their interrupts, and an
// INIT signal is not noticed by a processor that runs L0.
void port_vcpu_clear_on(struct nvmx_vcpu *vcpu, struct nvmx_cpu *cpu)
{
    (void)cpu;
    panic("vcpu %u has left its processor", vcpu_of(vcpu)->cpu->index);
}

void port_log(struct nvmx_vcpu *vcpu, const char *text, uint64_t a, uint64_t b)
{
    static uint32_t lines;
    uint32_t number = __atomic_fetch_add(&lines, 1, __ATOMIC_RELAXED);
    if (number < LOG_LINES_MAX)
        log_line("vcpu %u: %s %lx %lx", vcpu_of(vcpu)->cpu->index, text, a, b);
    else if (number == LOG_LINES_MAX)
        log_line("no more lines about what L1 does");
}

void port_detector(struct nvmx_vcpu *vcpu, const struct port_detected *line)
{
    const char *name = vmcs_field_name((enum vmcs_field)line->field);
    uint32_t index = vcpu_of(vcpu)->cpu->index;
    if (line->in_vmcs12 && line->in_vmcs02)
        log_line("vcpu %u: DETECTOR %s: vmcs12 %lx, vmcs02 %lx", index, name, line->vmcs12, line->vmcs02);
    else if (line->in_vmcs12)
        log_line("vcpu %u: DETECTOR %s: vmcs12 %lx", index, name, line->vmcs12);
    else
        log_line("vcpu %u: DETECTOR %s: vmcs02 %lx", index, name, line->vmcs02);
}

void port_explain(struct nvmx_vcpu *vcpu, const struct check_broken *broken)
{
    static uint32_t lines;
    char text[CHECK_DESCRIPTION_MAX];
    if (__atomic_fetch_add(&lines, 1, __ATOMIC_RELAXED) >= LOG_LINES_MAX)
        return;
    check_describe(broken, text, sizeof(text));
    log_line("vcpu %u: VM entry: %s", vcpu_of(vcpu)->cpu->index, text);
}

void port_end_interrupt(struct nvmx_vcpu *vcpu)
{
    (void)vcpu; // in passthrough the processor's local APIC is the vcpu's
    apic_write(APIC_EOI, 0);
}

bool port_interrupt_is_due(struct nvmx_vcpu *vcpu)
{
    (void)vcpu; // in passthrough the processor's local APIC is the vcpu's
    return apic_interrupt_is_due();
}

void port_bug(const char *what, uint64_t a, uint64_t b)
{
    panic("%s %lx %lx", what, a, b);
}
