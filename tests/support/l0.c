// SPDX-License-Identifier: MIT
// A small L0 around the engine: its memory, ept01, and its vcpus. l0_loop.c runs and moves them, l0_exits.c
// handles what the engine leaves to L0, l0_port.c is port.h. L1's memory is displaced in the machine's
// (world_internal.h).
#include "world_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EPT_RWX   7ull
#define EPT_WB    (6ull << 3)
#define EPT_LARGE (1ull << 7)

static struct {
    uint64_t ept01, msr_bitmap, io_bitmap_a, io_bitmap_b;
    uint64_t ones, scratch; // pages of them: to read, and to write during a step
    uint64_t open[8];       // L1-physical pages that map scratch
    unsigned open_count;
} l0;

static uint64_t take_page(void)
{
    uint64_t page = world->l0_next_page;
    world->l0_next_page += PAGE_SIZE;
    if (world->l0_next_page > world->l0_end)
        rule_broken(NULL, "the L0 of the tests is out of memory");
    return page;
}

static uint64_t take_pages(unsigned count)
{
    uint64_t first = take_page();
    for (unsigned i = 1; i < count; i++)
        take_page();
    return first;
}

void *l0_memory(uint64_t address)
{
    if (address >= L0_SIZE)
        rule_broken(NULL, "L0's address %#llx is not L0's", (unsigned long long)address);
    return world->machine->memory + address;
}

static void set_entry(uint64_t table, uint64_t index, uint64_t value)
{
    memcpy((uint8_t *)l0_memory(table) + 8 * (index & 0x1ff), &value, 8);
}

static uint64_t get_entry(uint64_t table, uint64_t index)
{
    uint64_t value;
    memcpy(&value, (uint8_t *)l0_memory(table) + 8 * (index & 0x1ff), 8);
    return value;
}

// In ept01: a page of 4 KBytes (level 1) or 2 MBytes (level 2).
static void map_in_ept01(uint64_t l1_physical, uint64_t machine, unsigned leaf, uint64_t rights)
{
    uint64_t table = l0.ept01 & PAGE_MASK;
    for (unsigned level = 4; level > leaf; level--) {
        uint64_t index = l1_physical >> (12 + 9 * (level - 1)), entry = get_entry(table, index);
        if (entry == 0) {
            entry = take_page() | EPT_RWX;
            set_entry(table, index, entry);
        }
        table = entry & PAGE_MASK;
    }
    set_entry(table, l1_physical >> (12 + 9 * (leaf - 1)),
              machine | rights | EPT_WB | (leaf > 1 ? EPT_LARGE : 0));
}

// L1-physical x is machine address L0_SIZE + x: the first 2 MBytes by 4-KByte pages, the rest by 2-MByte
// pages where the processor has them.
static void build_ept01(void)
{
    bool large =
        capability_ept(world->config.processor, EPT_CAP_PAGE_2M) && !world->config.l0_without_large_pages;
    l0.ept01 = take_page() | 6 | 3 << 3;
    uint64_t step;
    for (uint64_t at = 0; at < L1_RAM_SIZE; at += step) {
        bool by_large_page = large && at >= 0x200000;
        step = by_large_page ? 0x200000 : PAGE_SIZE;
        map_in_ept01(at, L0_SIZE + at, by_large_page ? 2 : 1, EPT_RWX);
    }
    l0.ones = take_page();
    memset(l0_memory(l0.ones), 0xff, PAGE_SIZE);
    l0.scratch = take_page();
    memset(l0_memory(l0.scratch), 0xff, PAGE_SIZE);
    world->machine->l0_page[l0.ones >> PAGE_SHIFT] = 0; // guests may read this one
    world->machine->l0_page[l0.scratch >> PAGE_SHIFT] = 0;
    l0.open_count = 0;
}

// Where L1 has no memory, the bus of the bare machine answers with ones, and drops what is written.
void l0_map_hole(struct virtual_processor *p)
{
    uint64_t at = p->vcpu->exit.guest_physical_address;
    if (at >= L1_RAM_SIZE && (p->vcpu->exit.qualification & 2) != 0 &&
        l0.open_count < sizeof(l0.open) / sizeof(l0.open[0])) {
        l0.open[l0.open_count++] = at & PAGE_MASK;
        map_in_ept01(at & PAGE_MASK, l0.scratch, 1, EPT_RWX);
        nvmx_step_begin(p->vcpu);
        return;
    }
    if (at < L1_RAM_SIZE || (p->vcpu->exit.qualification & 2))
        rule_broken(p->cpu, "an EPT violation at L1-physical %#llx (%#llx) is left to L0, which maps it",
                    (unsigned long long)at, (unsigned long long)p->vcpu->exit.qualification);
    map_in_ept01(at & PAGE_MASK, l0.ones, 1, EPT_RWX & ~2ull);
}

void port_step_end(struct nvmx_vcpu *vcpu)
{
    if (l0.open_count == 0)
        return;
    while (l0.open_count > 0)
        map_in_ept01(l0.open[--l0.open_count], l0.ones, 1, EPT_RWX & ~2ull);
    hw_invept(vcpu->cpu, INVEPT_SINGLE_CONTEXT, l0.ept01);
    memset(l0_memory(l0.scratch), 0xff, PAGE_SIZE);
}

static void set_bit(uint64_t bitmap, unsigned bit)
{
    uint8_t *byte = (uint8_t *)l0_memory(bitmap) + bit / 8;
    *byte = (uint8_t)(*byte | 1u << (bit % 8));
}

static void name_vmcs(uint64_t region, const char *what, unsigned whose)
{
    char name[60];
    snprintf(name, sizeof(name), "%s %u", what, whose);
    machine_name_vmcs(world->machine, region, name);
}

void l0_begin(void)
{
    machine_reserve_for_l0(world->machine, 0, L0_SIZE);
    world->l0_next_page = 0x100000;
    world->l0_end = L0_SIZE;
    build_ept01();
    l0.msr_bitmap = take_page();
    l0.io_bitmap_a = take_page();
    l0.io_bitmap_b = take_page();
    set_bit(l0.io_bitmap_a, L0_PORT);
    for (unsigned i = 0; i < 4; i++)
        set_bit(l0.io_bitmap_a, L0_PASSED_PORT + i);
    for (unsigned msr = MSR_IA32_VMX_BASIC; msr <= MSR_IA32_VMX_VMFUNC; msr++) {
        set_bit(l0.msr_bitmap, msr);
        set_bit(l0.msr_bitmap, 2048 * 8 + msr);
    }
    set_bit(l0.msr_bitmap, MSR_IA32_FEATURE_CONTROL);
    set_bit(l0.msr_bitmap, 2048 * 8 + MSR_IA32_FEATURE_CONTROL);
    for (unsigned i = 0; world->config.l0_emulates_x2apic && i <= 0xff; i++) {
        set_bit(l0.msr_bitmap, X2APIC_FIRST + i);
        set_bit(l0.msr_bitmap, 2048 * 8 + X2APIC_FIRST + i);
    }
    uint32_t revision = (uint32_t)world->hardware.msr[0] & 0x7fffffff;
    for (unsigned i = 0; i < world->config.cpu_count; i++) {
        uint64_t region = take_page();
        memcpy(l0_memory(region), &revision, 4);
        name_vmcs(region, "the VMXON region of L0 on processor", i);
        hw_vmxon(machine_cpu(world->machine, i), l0pa(region));
        nvmx_cpu_init(&world->l0_cpu[i], machine_cpu(world->machine, i));
    }
}

// --- one vcpu

static struct nvmx_l0_policy policy_of(const struct virtual_processor *p)
{
    const struct processor *hardware = world->config.processor;
    uint32_t wanted = SECONDARY_ENABLE_EPT | SECONDARY_UNRESTRICTED_GUEST | SECONDARY_ENABLE_RDTSCP |
                      SECONDARY_ENABLE_INVPCID | SECONDARY_ENABLE_XSAVES | SECONDARY_ENABLE_VPID;
    struct nvmx_l0_policy policy = {
        .pin = PIN_NMI_EXITING | (world->config.floating ? PIN_EXTERNAL_INTERRUPT_EXITING : 0),
        .primary = PRIMARY_ACTIVATE_SECONDARY | PRIMARY_USE_MSR_BITMAPS | PRIMARY_USE_IO_BITMAPS,
        .secondary = wanted & capability_allowed1(hardware, WORD_SECONDARY),
        .io_bitmap_a = l0pa(l0.io_bitmap_a),
        .io_bitmap_b = l0pa(l0.io_bitmap_b),
        .msr_bitmap = l0pa(l0.msr_bitmap),
        .ept_pointer = l0.ept01,
        .exception_bitmap = world->config.l0_exceptions,
    };
    if (capability_allowed1(hardware, WORD_PIN) & PIN_VIRTUAL_NMIS)
        policy.pin |= PIN_VIRTUAL_NMIS;
    if (policy.secondary & SECONDARY_ENABLE_VPID) {
        uint16_t count = world->config.vpid02_count;
        policy.vpid01 = (uint16_t)(1 + 16 * p->index);
        policy.vpid02 = (uint16_t)(2 + 16 * p->index);
        policy.vpid02_count = count != 0 ? count : 4;
    }
    return policy;
}

static void write_segment(struct nvmx_vcpu *vcpu, unsigned i, const struct segment *s)
{
    nvmx_write(vcpu, (enum vmcs_field)(F_GUEST_ES_SELECTOR + i), s->selector);
    nvmx_write(vcpu, (enum vmcs_field)(F_GUEST_ES_LIMIT + i), s->limit);
    nvmx_write(vcpu, (enum vmcs_field)(F_GUEST_ES_BASE + i), s->base);
    nvmx_write(vcpu, (enum vmcs_field)(F_GUEST_ES_ACCESS_RIGHTS + i), s->access_rights);
}

static void write_start_state(struct nvmx_vcpu *vcpu, const struct registers *r)
{
    for (unsigned i = 0; i < SEGMENT_NAME_COUNT; i++)
        write_segment(vcpu, i, &r->segment[i]);
    nvmx_write(vcpu, F_GUEST_CR0, r->cr0);
    nvmx_write(vcpu, F_GUEST_CR3, r->cr3);
    nvmx_write(vcpu, F_GUEST_CR4, r->cr4);
    nvmx_write(vcpu, F_GUEST_IA32_EFER, r->efer);
    nvmx_write(vcpu, F_GUEST_IA32_PAT, r->pat);
    nvmx_write(vcpu, F_VM_ENTRY_CONTROLS, nvmx_read(vcpu, F_VM_ENTRY_CONTROLS) | ENTRY_IA32E_MODE_GUEST);
    nvmx_write(vcpu, F_GUEST_IA32_DEBUGCTL, r->debugctl);
    nvmx_write(vcpu, F_GUEST_DR7, r->dr7);
    nvmx_write(vcpu, F_GUEST_GDTR_BASE, r->gdtr_base);
    nvmx_write(vcpu, F_GUEST_GDTR_LIMIT, r->gdtr_limit);
    nvmx_write(vcpu, F_GUEST_IDTR_BASE, r->idtr_base);
    nvmx_write(vcpu, F_GUEST_IDTR_LIMIT, r->idtr_limit);
    nvmx_write(vcpu, F_GUEST_RIP, r->rip);
    nvmx_write(vcpu, F_GUEST_RSP, r->gpr[GPR_RSP]);
    nvmx_write(vcpu, F_GUEST_RFLAGS, r->rflags);
    nvmx_write(vcpu, F_GUEST_SYSENTER_CS, r->sysenter_cs);
    nvmx_write(vcpu, F_GUEST_SYSENTER_ESP, r->sysenter_esp);
    nvmx_write(vcpu, F_GUEST_SYSENTER_EIP, r->sysenter_eip);
    nvmx_write(vcpu, F_GUEST_ACTIVITY_STATE, ACTIVITY_ACTIVE);
    nvmx_write(vcpu, F_GUEST_INTERRUPTIBILITY, 0);
    nvmx_write(vcpu, F_GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    memcpy(vcpu->regs.gpr, r->gpr, sizeof(vcpu->regs.gpr));
}

void l0_add_vcpu(struct virtual_processor *p, const struct registers *start)
{
    unsigned pool = world->config.ept02_pool_pages ? world->config.ept02_pool_pages : 256;
    bool shadowing = !world->config.without_vmcs_shadowing;
    struct nvmx_vcpu_config config = {
        .hardware = &world->hardware,
        .offered = &world->offered,
        .policy = policy_of(p),
        .pages = {.vmcs01 = l0pa(take_page()),
                  .vmcs02 = l0pa(take_page()),
                  .io_bitmap_a = l0pa(take_page()),
                  .io_bitmap_b = l0pa(take_page()),
                  .msr_bitmap = l0pa(take_page()),
                  .shadow_vmcs = l0pa(shadowing ? take_page() : 0),
                  .vmread_bitmap = l0pa(shadowing ? take_page() : 0),
                  .vmwrite_bitmap = l0pa(shadowing ? take_page() : 0),
                  .shadow02_vmcs = l0pa(take_page()),
                  .vmread02_bitmap = l0pa(take_page()),
                  .vmwrite02_bitmap = l0pa(take_page()),
                  .ept02_pool = l0pa(take_pages(pool)),
                  .ept02_pool_pages = pool},
        .l1_physical_address_width = world->config.processor->physical_address_width,
        .feature_control = FEATURE_CONTROL_LOCKED | FEATURE_CONTROL_VMX_OUTSIDE_SMX,
        .branch_predictor_barrier = true,
        .entry_overlooks_events = world->config.overlooks_events,
        .first_fetch_saves_old_rip = world->config.saves_old_rip,
    };
    p->vcpu = malloc(sizeof(*p->vcpu));
    memset(p->vcpu, 0xa5, sizeof(*p->vcpu)); // "may hold anything before"
    name_vmcs(config.pages.vmcs01.value, "vmcs01 of vcpu", p->index);
    name_vmcs(config.pages.vmcs02.value, "vmcs02 of vcpu", p->index);
    if (shadowing)
        name_vmcs(config.pages.shadow_vmcs.value, "the shadow VMCS of vcpu", p->index);
    const char *problem = nvmx_vcpu_init(p->vcpu, &config);
    if (problem != NULL)
        rule_broken(NULL, "the engine refuses a vcpu: %s", problem);
    p->vcpu->l0_data = p;
    nvmx_vcpu_load(p->vcpu, &world->l0_cpu[cpu_index(p->cpu)]);
    write_start_state(p->vcpu, start);
    // The pages of L0's that an L2 may reach: what the engine puts where L1 has no memory.
    world->machine->l0_page[p->vcpu->ept02.ones_page.value >> PAGE_SHIFT] = 0;
    world->machine->l0_page[p->vcpu->ept02.scratch_page.value >> PAGE_SHIFT] = 0;
    world->machine->l0_page[p->vcpu->ept02.hardware_page.value >> PAGE_SHIFT] = 0;
}

void l0_end(void)
{
    for (unsigned i = 0; i < world->config.vcpu_count; i++) {
        struct virtual_processor *p = &world->processor[i];
        // The vcpu is in the middle of running: only the model knows its VMCSs are still active.
        vmcs_cache_check(p->cpu);
    }
}

void l0_restart_l1(struct virtual_processor *p, const struct registers *start)
{
    nvmx_reset_l1(p->vcpu);
    write_start_state(p->vcpu, start);
}

struct nvmx_vcpu *world_vcpu(void)
{
    return world->self->vcpu;
}

uint64_t world_vmcs01(void)
{
    return world->self->vcpu->config.pages.vmcs01.value;
}

uint64_t world_vmcs02(void)
{
    return world->self->vcpu->config.pages.vmcs02.value;
}
