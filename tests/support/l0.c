// SPDX-License-Identifier: MIT
// A small L0 around the engine: port.h over the model's memory, ept01, and the loop that handles what the
// engine leaves to L0. L1's memory is displaced in the machine's (world_internal.h).
#include "world_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IPI_VECTOR    0xf0   // L0's own interrupt: "come out"
#define L0_PORT       0x510u // intercepted by L0: reads as L0_PORT_VALUE
#define L0_PORT_VALUE 0x42u
#define EPT_RWX       7ull
#define EPT_WB        (6ull << 3)
#define EPT_LARGE     (1ull << 7)

static struct {
    uint64_t ept01, msr_bitmap, io_bitmap_a, io_bitmap_b;
    uint64_t ones; // a page of them
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

static void *l0_memory(uint64_t address)
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
    world->machine->l0_page[l0.ones >> PAGE_SHIFT] = 0; // guests may read this one
}

// Where L1 has no memory, the bus of the bare machine answers with ones.
static void handle_hole(struct virtual_processor *p)
{
    uint64_t at = p->vcpu->exit.guest_physical_address;
    if (at < L1_RAM_SIZE || (p->vcpu->exit.qualification & 2))
        rule_broken(p->cpu, "an EPT violation at L1-physical %#llx (%#llx) is left to L0, which maps it",
                    (unsigned long long)at, (unsigned long long)p->vcpu->exit.qualification);
    map_in_ept01(at & PAGE_MASK, l0.ones, 1, EPT_RWX & ~2ull);
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
    for (unsigned msr = MSR_IA32_VMX_BASIC; msr <= MSR_IA32_VMX_VMFUNC; msr++) {
        set_bit(l0.msr_bitmap, msr);
        set_bit(l0.msr_bitmap, 2048 * 8 + msr);
    }
    set_bit(l0.msr_bitmap, MSR_IA32_FEATURE_CONTROL);
    set_bit(l0.msr_bitmap, 2048 * 8 + MSR_IA32_FEATURE_CONTROL);
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
    };
    p->vcpu = malloc(sizeof(*p->vcpu));
    memset(p->vcpu, 0xa5, sizeof(*p->vcpu)); // "may hold anything before"
    name_vmcs(config.pages.vmcs01.value, "vmcs01 of vcpu", p->index);
    name_vmcs(config.pages.vmcs02.value, "vmcs02 of vcpu", p->index);
    if (shadowing)
        name_vmcs(config.pages.shadow_vmcs.value, "the shadow VMCS of vcpu", p->index);
    nvmx_vcpu_init(p->vcpu, &config);
    p->vcpu->l0_data = p;
    nvmx_vcpu_load(p->vcpu, &world->l0_cpu[cpu_index(p->cpu)]);
    write_start_state(p->vcpu, start);
    // The one page of L0's that an L2 may reach: what the engine puts where L1 has no memory.
    world->machine->l0_page[p->vcpu->ept02.void_page.value >> PAGE_SHIFT] = 0;
}

void l0_end(void)
{
    for (unsigned i = 0; i < world->config.vcpu_count; i++) {
        struct virtual_processor *p = &world->processor[i];
        // The vcpu is in the middle of running: only the model knows its VMCSs are still active.
        vmcs_cache_check(p->cpu);
    }
}

// --- moving

// What of L1's state is neither in a VMCS nor in the general-purpose registers, L0 carries over.
static void carry_over(struct hw_cpu *from, struct hw_cpu *to)
{
    const uint64_t caching = CR0_CD | CR0_NW; // which VM entries and exits leave alone
    to->r.cr0 = (to->r.cr0 & ~caching) | (from->r.cr0 & caching);
    to->r.cr2 = from->r.cr2;
    to->r.cr8 = from->r.cr8;
    memcpy(to->r.dr, from->r.dr, sizeof(to->r.dr));
    to->r.dr6 = from->r.dr6;
    memcpy(to->msr, from->msr, sizeof(to->msr));
    to->msr_count = from->msr_count;
    for (unsigned vector = 0; vector < 256; vector++)
        if (from->interrupt_pending[vector])
            cpu_interrupt(to, (uint8_t)vector);
    memset(from->interrupt_pending, 0, sizeof(from->interrupt_pending));
    from->interrupt_count = 0;
    to->nmi_pending |= from->nmi_pending;
    from->nmi_pending = false;
    to->tsc = from->tsc; // L0 keeps them in step
    to->fed = from->fed;
}

void l0_move(struct virtual_processor *p, unsigned index)
{
    struct hw_cpu *to = machine_cpu(world->machine, index);
    if (to == p->cpu)
        return;
    nvmx_vcpu_put(p->vcpu);
    carry_over(p->cpu, to);
    p->cpu = to;
    machine_execute_on(world->machine, to);
    nvmx_vcpu_load(p->vcpu, &world->l0_cpu[index]);
    world->move_count++;
}

static void expect_nothing_active(struct hw_cpu *cpu)
{
    if (cpu->active != NULL)
        rule_broken(cpu, "VMCS %#llx is still active here", (unsigned long long)cpu->active->region);
}

static unsigned another_processor(const struct virtual_processor *p)
{
    return (cpu_index(p->cpu) + 1) % world->config.cpu_count;
}

void l0_act(struct virtual_processor *p, enum l0_action action)
{
    struct hw_cpu *cpu = p->cpu, *other = machine_cpu(world->machine, another_processor(p));
    struct nvmx_cpu *here = &world->l0_cpu[cpu_index(cpu)], *there = &world->l0_cpu[cpu_index(other)];
    l0pa_t vmxon_region = l0pa(cpu->vmxon_pointer);
    switch (action) {
    case L0_DOES_NOTHING:
        return;
    case L0_RESTARTS_L1:
        l0_restart_l1(p, &p->start);
        nvmx_write(p->vcpu, F_GUEST_RIP, L1_PADS + 0x1000);
        return;
    case L0_PENDS_NMI:
        nvmx_pend_nmi(p->vcpu);
        return;
    case L0_PUTS_AND_LOADS:
        nvmx_vcpu_put(p->vcpu);
        break;
    case L0_CLEARS_ALL:
        nvmx_cpu_clear_all(here);
        expect_nothing_active(cpu);
        break;
    case L0_RESTARTS_VMX:
    case L0_LOSES_PROCESSOR:
        nvmx_cpu_clear_all(here);
        expect_nothing_active(cpu);
        hw_vmxoff(cpu);
        if (action == L0_LOSES_PROCESSOR)
            l0_move(p, cpu_index(other));
        machine_execute_on(world->machine, NULL); // it comes back, and may be used again
        hw_vmxon(cpu, vmxon_region);
        machine_execute_on(world->machine, p->cpu);
        if (action == L0_LOSES_PROCESSOR)
            return;
        break;
    case L0_RETIRES:
        nvmx_vcpu_put(p->vcpu);
        nvmx_vcpu_retire(p->vcpu, here);
        expect_nothing_active(cpu);
        break;
    case L0_RETIRES_ELSEWHERE:
        nvmx_vcpu_put(p->vcpu);
        machine_execute_on(world->machine, other);
        nvmx_vcpu_retire(p->vcpu, there);
        machine_execute_on(world->machine, cpu);
        expect_nothing_active(cpu);
        break;
    }
    nvmx_vcpu_load(p->vcpu, here);
}

void l0_do(enum l0_action action)
{
    struct virtual_processor *p = world->self;
    if (p->action_count == sizeof(p->action) / sizeof(p->action[0]))
        rule_broken(p->cpu, "the test asks for too much at once");
    p->action[p->action_count++] = action;
}

void l0_do_in_exit(enum l0_action action)
{
    world->self->action_in_exit = action;
}

uint64_t l0_remote_clear_count(void)
{
    return world->remote_clear_count;
}

void l0_race_exchanges(unsigned count, uint64_t bits)
{
    world->exchange_race_count = count;
    world->exchange_race_bits = bits;
}

void l0_reset_l1(void)
{
    world->self->reset = true;
}

unsigned l0_exception_count(void)
{
    return world->exception_count;
}

static void maybe_move(struct virtual_processor *p)
{
    if (p->move_to >= 0) {
        unsigned index = (unsigned)p->move_to;
        p->move_to = -1;
        l0_move(p, index);
    } else if (world->move_one_in != 0 && world_random() % world->move_one_in == 0) {
        l0_move(p, (unsigned)(world_random() % world->config.cpu_count));
    }
}

static void act_before_entry(struct virtual_processor *p)
{
    enum l0_action action = p->action[0];
    if (p->action_count > 0) {
        memmove(&p->action[0], &p->action[1], --p->action_count * sizeof(p->action[0]));
        l0_act(p, action);
    }
    maybe_move(p);
    l0_maybe_save_and_restore(p);
}

// What the exit was is in vcpu->exit: it can be handled anywhere.
static void act_in_exit(struct virtual_processor *p)
{
    enum l0_action action = p->action_in_exit;
    int index = p->move_in_exit_to;
    p->action_in_exit = L0_DOES_NOTHING;
    p->move_in_exit_to = -1;
    l0_act(p, action);
    if (index >= 0)
        l0_move(p, (unsigned)index);
    else if (world->move_one_in != 0 && world_random() % world->move_one_in == 0)
        l0_move(p, (unsigned)(world_random() % world->config.cpu_count));
}

void l0_move_in_exit_to(unsigned cpu)
{
    world->self->move_in_exit_to = (int)cpu;
}

void l0_move_to(unsigned cpu)
{
    world->self->move_to = (int)cpu;
    if (world->config.floating)
        cpu_interrupt(world->self->cpu, IPI_VECTOR);
}

void l0_move_at_random(unsigned one_in)
{
    world->move_one_in = world->config.nested ? one_in : 0;
}

uint64_t l0_move_count(void)
{
    return world->move_count;
}

// --- exits that are L0's

static void handle_cpuid(struct nvmx_vcpu *vcpu)
{
    uint32_t leaf = (uint32_t)vcpu->regs.gpr[GPR_RAX], subleaf = (uint32_t)vcpu->regs.gpr[GPR_RCX];
    uint32_t raw[4];
    cpu_cpuid(vcpu->cpu, leaf, subleaf, raw);
    struct nvmx_cpuid result = {raw[0], raw[1], raw[2], raw[3]};
    nvmx_cpuid_adjust(vcpu, leaf, subleaf, &result);
    vcpu->regs.gpr[GPR_RAX] = result.eax;
    vcpu->regs.gpr[GPR_RBX] = result.ebx;
    vcpu->regs.gpr[GPR_RCX] = result.ecx;
    vcpu->regs.gpr[GPR_RDX] = result.edx;
    nvmx_skip_instruction(vcpu);
}

static void handle_msr(struct nvmx_vcpu *vcpu, bool write)
{
    uint32_t msr = (uint32_t)vcpu->regs.gpr[GPR_RCX];
    uint64_t value = (uint32_t)vcpu->regs.gpr[GPR_RAX] | vcpu->regs.gpr[GPR_RDX] << 32;
    enum nvmx_msr_result result = write ? nvmx_wrmsr(vcpu, msr, value) : nvmx_rdmsr(vcpu, msr, &value);
    if (result == NVMX_MSR_NOT_MINE) {
        bool done = write ? hw_wrmsr(vcpu->cpu, msr, value) : hw_rdmsr(vcpu->cpu, msr, &value);
        result = done ? NVMX_MSR_OK : NVMX_MSR_GP;
    }
    if (result == NVMX_MSR_GP) {
        nvmx_raise(vcpu, VECTOR_GP, true, 0);
        return;
    }
    if (!write) {
        vcpu->regs.gpr[GPR_RAX] = (uint32_t)value;
        vcpu->regs.gpr[GPR_RDX] = value >> 32;
    }
    nvmx_skip_instruction(vcpu);
}

// L0's port, or one that the engine wants L0 to access for L2.
static void handle_io(struct nvmx_vcpu *vcpu)
{
    uint64_t qualification = vcpu->exit.qualification, *rax = &vcpu->regs.gpr[GPR_RAX];
    unsigned port = qualification >> 16 & 0xffff, size = (qualification & 7) + 1;
    for (unsigned i = 0; i < size; i++) {
        uint8_t *at = &world->machine->port[(port + i) & 0xffff];
        if (!(qualification & 8))
            *at = (uint8_t)(*rax >> 8 * i);
        else
            *rax = (*rax & ~(0xffull << 8 * i)) | (uint64_t)(port == L0_PORT ? L0_PORT_VALUE : *at) << 8 * i;
    }
    if (qualification & 8 && size == 4)
        *rax = (uint32_t)*rax;
    nvmx_skip_instruction(vcpu);
}

static void handle_interrupt(struct virtual_processor *p)
{
    int vector = cpu_take_interrupt(p->cpu);
    if (vector != IPI_VECTOR)
        rule_broken(p->cpu, "an external interrupt with vector %d reaches L0, which knows only its own",
                    vector);
}

// An exception that L0 looks at (for its own purposes) belongs to whoever raised it.
static void handle_exception_or_nmi(struct nvmx_vcpu *vcpu)
{
    uint32_t info = vcpu->exit.interruption_info;
    if ((info & INTERRUPTION_TYPE_MASK) == EVENT_NMI << INTERRUPTION_TYPE_SHIFT) {
        nvmx_pend_nmi(vcpu);
        return;
    }
    if (!(world->config.l0_exceptions >> (info & 31) & 1))
        rule_broken(vcpu->cpu, "an exception (%#x) that L0 does not want is left to it", info);
    world->exception_count++;
    if ((info & INTERRUPTION_VECTOR_MASK) == VECTOR_PF) // an exit leaves CR2 alone
        hw_write_cr2(vcpu->cpu, vcpu->exit.qualification);
    nvmx_raise(vcpu, info & 31, info & INTERRUPTION_ERROR_CODE, vcpu->exit.interruption_error_code);
}

static void handle_exit(struct virtual_processor *p)
{
    struct nvmx_vcpu *vcpu = p->vcpu;
    switch (vcpu->exit.reason & EXIT_REASON_BASIC_MASK) {
    case EXIT_CPUID:
        handle_cpuid(vcpu);
        break;
    case EXIT_RDMSR:
        handle_msr(vcpu, false);
        break;
    case EXIT_WRMSR:
        handle_msr(vcpu, true);
        break;
    case EXIT_IO_INSTRUCTION:
        handle_io(vcpu);
        break;
    case EXIT_EXTERNAL_INTERRUPT:
        handle_interrupt(p);
        break;
    case EXIT_EXCEPTION_OR_NMI:
        handle_exception_or_nmi(vcpu);
        break;
    case EXIT_TRIPLE_FAULT: // as a processor does
        nvmx_write(vcpu, F_GUEST_ACTIVITY_STATE, ACTIVITY_SHUTDOWN);
        break;
    case EXIT_INIT_SIGNAL:
        if (!vcpu->vmxon)
            nvmx_reset_l1(vcpu);
        break;
    case EXIT_STARTUP_IPI:
        nvmx_start_l1_at(vcpu, (uint8_t)vcpu->exit.qualification);
        break;
    case EXIT_EPT_VIOLATION:
        handle_hole(p);
        break;
    case EXIT_INVD:
    case EXIT_WBINVD:
        nvmx_skip_instruction(vcpu);
        break;
    default:
        rule_broken(p->cpu,
                    "the engine leaves to L0 an exit of L%u that the tests' L0 does not know: %s (%#x), "
                    "qualification %#llx, guest-physical %#llx",
                    vcpu->in_l2 ? 2u : 1u, nvmx_exit_name(vcpu->exit.reason & 0xffff), vcpu->exit.reason,
                    (unsigned long long)vcpu->exit.qualification,
                    (unsigned long long)vcpu->exit.guest_physical_address);
    }
}

// A VM exit leads into L0's own state of that very logical processor. (When nothing was entered, it is there
// since the exit before.)
static void expect_own_host_state(struct hw_cpu *cpu)
{
    struct port_host_cpu host;
    port_host_cpu(cpu, &host);
    if (cpu->r.segment[SEGMENT_TR].base != host.tr_base || cpu->r.gdtr_base != host.gdtr_base ||
        cpu->r.gpr[GPR_RSP] != host.rsp)
        rule_broken(cpu, "a VM exit led into another logical processor's L0: TR base %#llx, and not %#llx",
                    (unsigned long long)cpu->r.segment[SEGMENT_TR].base, (unsigned long long)host.tr_base);
}

void l0_step(struct virtual_processor *p)
{
    enum nvmx_outcome outcome = nvmx_run(p->vcpu);
    expect_own_host_state(p->cpu);
    if (outcome == NVMX_EXIT_FOR_L0) {
        act_in_exit(p);
        handle_exit(p);
    }
}

void l0_restart_l1(struct virtual_processor *p, const struct registers *start)
{
    nvmx_reset_l1(p->vcpu);
    write_start_state(p->vcpu, start);
}

void l0_run(void *argument)
{
    struct virtual_processor *p = argument;
    for (;;) {
        while (p->parked)
            fiber_yield();
        if (p->reset) {
            p->reset = false;
            nvmx_reset_l1(p->vcpu);
        }
        act_before_entry(p);
        l0_step(p);
    }
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

// --- port.h

static bool is_l1_ram(uint64_t address, uint64_t size)
{
    return size <= L1_RAM_SIZE && address <= L1_RAM_SIZE - size;
}

bool port_l1_read(struct nvmx_vcpu *vcpu, l1pa_t from, void *to, size_t size)
{
    (void)vcpu;
    memset(to, 0xee, size); // "unspecified"
    if (!is_l1_ram(from.value, size))
        return false;
    memcpy(to, l1_memory(from.value), size);
    return true;
}

bool port_l1_write(struct nvmx_vcpu *vcpu, l1pa_t to, const void *from, size_t size)
{
    (void)vcpu;
    if (!is_l1_ram(to.value, size))
        return false;
    memcpy(l1_memory(to.value), from, size);
    return true;
}

bool port_l1_compare_exchange(struct nvmx_vcpu *vcpu, l1pa_t at, uint64_t expected, uint64_t desired,
                              uint64_t *word)
{
    (void)vcpu;
    if ((at.value & 7) || !is_l1_ram(at.value, 8))
        return false;
    memcpy(word, l1_memory(at.value), 8);
    if (world->exchange_race_count > 0) { // another processor of L1's was faster
        world->exchange_race_count--;
        *word ^= world->exchange_race_bits;
        memcpy(l1_memory(at.value), word, 8);
    }
    if (*word == expected)
        memcpy(l1_memory(at.value), &desired, 8);
    return true;
}

bool port_l1_translate(struct nvmx_vcpu *vcpu, l1pa_t at, struct port_mapping *mapping)
{
    (void)vcpu;
    if (!is_l1_ram(at.value, 1))
        return false;
    bool large = at.value >= 0x200000 && !world->config.l0_without_large_pages;
    *mapping = (struct port_mapping){.l0 = l0pa(L0_SIZE + at.value),
                                     .size = large ? 0x200000 : PAGE_SIZE,
                                     .memory_type = 6,
                                     .readable = true,
                                     .writable = true,
                                     .executable = true};
    return true;
}

void *port_l0_map(l0pa_t page)
{
    return l0_memory(page.value);
}

void port_host_constant(struct port_host_constant *host)
{
    *host = (struct port_host_constant){
        .cr0 = CR0_PG | CR0_PE | CR0_NE | CR0_WP | CR0_ET,
        .cr3 = 0x1000,
        .cr4 = CR4_PAE | CR4_VMXE,
        .efer = EFER_LME | EFER_LMA | EFER_NXE,
        .pat = 0x0007040600070406,
        .rip = 0xffff800000001000,
        .cs = 0x08,
        .ss = 0x10,
        .ds = 0x10,
        .es = 0x10,
        .tr = 0x18,
    };
}

void port_host_cpu(struct hw_cpu *cpu, struct port_host_cpu *host)
{
    uint64_t own = 0xffff900000000000ull + ((uint64_t)cpu_index(cpu) << 20);
    *host = (struct port_host_cpu){.fs_base = own,
                                   .gs_base = own + 0x1000,
                                   .tr_base = own + 0x2000,
                                   .gdtr_base = own + 0x3000,
                                   .idtr_base = own + 0x4000,
                                   .sysenter_esp = own + 0x5000,
                                   .rsp = own + 0x6000};
}

// The processors of the machine take turns: this one's turn ends for a moment, and `cpu` executes.
void port_vcpu_clear_on(struct nvmx_vcpu *vcpu, struct nvmx_cpu *cpu)
{
    struct hw_cpu *caller = machine_execute_on(world->machine, cpu->hw);
    if (caller == cpu->hw)
        rule_broken(caller,
                    "the engine asks for a call on another logical processor, and it is the caller's own");
    nvmx_vcpu_clear_here(vcpu, cpu);
    machine_execute_on(world->machine, caller);
    world->remote_clear_count++;
}

void port_log(struct nvmx_vcpu *vcpu, const char *text, uint64_t a, uint64_t b)
{
    (void)vcpu;
    snprintf(world->last_log, sizeof(world->last_log), "%s (%#llx, %#llx)", text, (unsigned long long)a,
             (unsigned long long)b);
    world->log_count++;
    if (strncmp(text, "DETECTOR", 8) == 0 &&
        !world->machine->refused_on_purpose) // L1 would not see that it was the processor that refused
        rule_broken(world->self->cpu, "the engine's checks passed what the processor refuses: %s",
                    machine_entry_failure(world->machine));
    if (getenv("PLASTRON_TEST_LOG") != NULL)
        fprintf(stderr, "# L0: %s\n", world->last_log);
}

void port_detector(struct nvmx_vcpu *vcpu, const struct port_detected *line)
{
    (void)vcpu;
    world->detected[line->field] = *line;
    world->detected_count++;
}

unsigned l0_detected_count(void)
{
    return world->detected_count;
}

struct port_detected l0_detected(enum vmcs_field field)
{
    return world->detected[field];
}

void port_explain(struct nvmx_vcpu *vcpu, const struct check_broken *broken)
{
    const struct check_rule *rule = &check_rules[broken->index];
    char text[256];
    snprintf(text, sizeof(text), "%s: %s", rule->id, rule->message);
    port_log(vcpu, text, broken->value, broken->legal);
}

const char *l0_last_log(void)
{
    return world->last_log;
}

unsigned l0_log_count(void)
{
    return world->log_count;
}

void port_end_interrupt(struct nvmx_vcpu *vcpu)
{
    (void)vcpu; // the model has no interrupts in service
}

bool port_interrupt_is_due(struct nvmx_vcpu *vcpu)
{
    return ((struct virtual_processor *)vcpu->l0_data)->cpu->interrupt_count != 0;
}

_Noreturn void port_bug(const char *what, uint64_t a, uint64_t b)
{
    const char *refusal = world != NULL ? machine_entry_failure(world->machine) : NULL;
    rule_broken(world != NULL ? world->self->cpu : NULL,
                "the engine says that it has a bug: %s (%#llx, %#llx)%s%s", what, (unsigned long long)a,
                (unsigned long long)b, refusal ? "; the processor's last refusal: " : "",
                refusal ? refusal : "");
}
