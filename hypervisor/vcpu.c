// SPDX-License-Identifier: MIT
#include "vcpu.h"

#include "direct_map.h"
#include "ept01.h"
#include "exits.h"
#include "hole.h"
#include "io.h"
#include "log.h"
#include "msr.h"
#include "panic.h"
#include "quirks.h"
#include "reserve.h"
#include "stop.h"

#include <silicon/x86.h>

#define SECONDARY_ENABLE_USER_WAIT (1u << 26)

#define CPUID_7_EDX_IBRS_IBPB (1u << 26)

#define VCPU_PAGES 9u // the VMCSs and bitmaps of struct nvmx_vcpu_pages, and L0's own MSR bitmap

static const struct nvmx_caps *hardware_caps, *offered_caps;

uint64_t vcpu_memory_size(void)
{
    uint64_t pages = VCPU_PAGES + VCPU_EPT02_POOL_PAGES + EPT01_OPEN_PAGES + 1; // 1: the scratch page
    return sizeof(struct vcpu) + (pages + 1) * PAGE_SIZE;
}

void vcpu_init(const struct nvmx_caps *hardware, const struct nvmx_caps *offered)
{
    hardware_caps = hardware;
    offered_caps = offered;
    io_init();
}

static struct nvmx_l0_policy policy_for(const struct cpu *cpu)
{
    // Instructions that the processor has, and that must not fault in L1 for want of a control.
    uint32_t instructions = SECONDARY_ENABLE_RDTSCP | SECONDARY_ENABLE_INVPCID | SECONDARY_ENABLE_XSAVES |
                            SECONDARY_ENABLE_USER_WAIT;
    bool vpid = (nvmx_caps_allowed1(hardware_caps, CAPS_SECONDARY) & SECONDARY_ENABLE_VPID) != 0;
    return (struct nvmx_l0_policy){
        .primary = PRIMARY_USE_IO_BITMAPS | PRIMARY_USE_MSR_BITMAPS | PRIMARY_ACTIVATE_SECONDARY,
        .secondary = (SECONDARY_ENABLE_EPT | SECONDARY_UNRESTRICTED_GUEST | instructions) &
                     nvmx_caps_allowed1(hardware_caps, CAPS_SECONDARY),
        .io_bitmap_a = io_bitmap_a(),
        .io_bitmap_b = io_bitmap_b(),
        .msr_bitmap = msr_bitmap_create(),
        .ept_pointer = ept01_pointer(),
        .vpid01 = vpid ? (uint16_t)((1 + VPID02_LIMIT) * cpu->index + 1) : 0,
        .vpid02 = vpid ? (uint16_t)((1 + VPID02_LIMIT) * cpu->index + 2) : 0,
        .vpid02_count = VPID02_LIMIT,
    };
}

static bool has_branch_predictor_barrier(void)
{
    return x86_cpuid(0, 0).eax >= 7 && (x86_cpuid(7, 0).edx & CPUID_7_EDX_IBRS_IBPB) != 0;
}

void vcpu_create(struct cpu *cpu)
{
    struct vcpu *vcpu = reserve_allocate(sizeof(*vcpu));
    struct nvmx_vcpu_config config = {
        .hardware = hardware_caps,
        .offered = offered_caps,
        .policy = policy_for(cpu),
        .pages =
            {
                .vmcs01 = reserve_allocate_pages(1),
                .vmcs02 = reserve_allocate_pages(1),
                .io_bitmap_a = reserve_allocate_pages(1),
                .io_bitmap_b = reserve_allocate_pages(1),
                .msr_bitmap = reserve_allocate_pages(1),
                .shadow_vmcs = reserve_allocate_pages(1),
                .vmread_bitmap = reserve_allocate_pages(1),
                .vmwrite_bitmap = reserve_allocate_pages(1),
                .shadow02_vmcs = reserve_allocate_pages(1),
                .vmread02_bitmap = reserve_allocate_pages(1),
                .vmwrite02_bitmap = reserve_allocate_pages(1),
                .ept02_pool = reserve_allocate_pages(VCPU_EPT02_POOL_PAGES),
                .ept02_pool_pages = VCPU_EPT02_POOL_PAGES,
            },
        .l1_physical_address_width = ept01_address_width(hardware_caps),
        .feature_control = FEATURE_CONTROL_LOCKED | FEATURE_CONTROL_VMX_OUTSIDE_SMX,
        .branch_predictor_barrier = has_branch_predictor_barrier(),
        .entry_overlooks_events = quirks.entry_overlooks_events,
        .first_fetch_saves_old_rip = quirks.first_fetch_saves_old_rip,
    };
    const char *problem = nvmx_vcpu_init(&vcpu->nvmx, &config);
    if (problem != NULL)
        stop_refuse("a virtual processor cannot be made: %s", problem);
    vcpu->cpu = cpu;
    hole_init(vcpu);
    cpu->vcpu = vcpu;
}

static void write_segment(struct nvmx_vcpu *nvmx, const struct l1_segment *segment, enum vmcs_field selector,
                          enum vmcs_field base, enum vmcs_field limit, enum vmcs_field access_rights)
{
    nvmx_write(nvmx, selector, segment->selector);
    nvmx_write(nvmx, base, segment->base);
    nvmx_write(nvmx, limit, segment->limit);
    nvmx_write(nvmx, access_rights, segment->access_rights);
}

#define WRITE_SEGMENT(nvmx, segment, name)                                                                   \
    write_segment(nvmx, segment, F_GUEST_##name##_SELECTOR, F_GUEST_##name##_BASE, F_GUEST_##name##_LIMIT,   \
                  F_GUEST_##name##_ACCESS_RIGHTS)

static void write_start_state(struct nvmx_vcpu *nvmx, const struct l1_start_state *start)
{
    WRITE_SEGMENT(nvmx, &start->cs, CS);
    WRITE_SEGMENT(nvmx, &start->ds, DS);
    WRITE_SEGMENT(nvmx, &start->es, ES);
    WRITE_SEGMENT(nvmx, &start->fs, FS);
    WRITE_SEGMENT(nvmx, &start->gs, GS);
    WRITE_SEGMENT(nvmx, &start->ss, SS);
    WRITE_SEGMENT(nvmx, &start->tr, TR);
    WRITE_SEGMENT(nvmx, &start->ldtr, LDTR);
    nvmx_write(nvmx, F_GUEST_GDTR_BASE, start->gdtr_base);
    nvmx_write(nvmx, F_GUEST_GDTR_LIMIT, start->gdtr_limit);
    nvmx_write(nvmx, F_GUEST_IDTR_BASE, start->idtr_base);
    nvmx_write(nvmx, F_GUEST_IDTR_LIMIT, start->idtr_limit);
    nvmx_write(nvmx, F_GUEST_RIP, start->rip);
    nvmx_write(nvmx, F_GUEST_RSP, start->rsp);
    nvmx_write(nvmx, F_GUEST_RFLAGS, start->rflags | RFLAGS_FIXED);

    nvmx_write(nvmx, F_GUEST_CR0, start->cr0);
    nvmx_write(nvmx, F_GUEST_CR4, start->cr4);
    nvmx_write(nvmx, F_GUEST_CR3, start->cr3);
    nvmx_write(nvmx, F_GUEST_IA32_EFER, start->efer);
    uint64_t entry = nvmx_read(nvmx, F_VM_ENTRY_CONTROLS) & ~(uint64_t)ENTRY_IA32E_MODE_GUEST;
    if ((start->efer & EFER_LMA) != 0)
        entry |= ENTRY_IA32E_MODE_GUEST;
    nvmx_write(nvmx, F_VM_ENTRY_CONTROLS, entry);

    nvmx_write(nvmx, F_GUEST_ACTIVITY_STATE, ACTIVITY_ACTIVE);
    uint64_t *gpr = nvmx->regs.gpr;
    gpr[GPR_RAX] = start->rax;
    gpr[GPR_RBX] = start->rbx;
    gpr[GPR_RCX] = start->rcx;
    gpr[GPR_RDX] = start->rdx;
    gpr[GPR_RSI] = start->rsi;
    gpr[GPR_RDI] = start->rdi;
    gpr[GPR_RBP] = start->rbp;
}

void vcpu_load(struct vcpu *vcpu, const struct l1_start_state *start)
{
    vcpu->apic_base = x86_rdmsr(MSR_IA32_APIC_BASE);
    mtrr_l1_init(&vcpu->mtrr, vcpu->nvmx.config.l1_physical_address_width);
    nvmx_vcpu_load(&vcpu->nvmx, &vcpu->cpu->nvmx);
    nvmx_reset_l1(&vcpu->nvmx);
    vcpu->started = start != NULL;
    if (start != NULL)
        write_start_state(&vcpu->nvmx, start);
}

static bool all_have_stopped(void)
{
    for (uint32_t i = 0; i < cpu_count; i++) {
        const struct vcpu *vcpu = cpu_list[i]->vcpu;
        if (vcpu != NULL && vcpu->started && !vcpu->nvmx.aborted)
            return false;
    }
    return true;
}

// A VMX abort of L1's: that processor is in shutdown, in which only its reset would find it, and the rest of
// L1 goes on. When nothing of L1 is left to go on, that is the end.
static void note_abort(struct vcpu *vcpu)
{
    vcpu->abort_noted = true;
    log_line("L1's processor %u has stopped: VMX abort", vcpu->cpu->index);
    if (all_have_stopped())
        stop_machine("L1 stopped by a VMX abort");
}

void vcpu_run(struct vcpu *vcpu)
{
    for (;;) {
        panic_stop_if_requested();
        if (nvmx_run(&vcpu->nvmx) == NVMX_EXIT_FOR_L0)
            exits_handle(vcpu);
        if (__builtin_expect(vcpu->nvmx.aborted && !vcpu->abort_noted, 0))
            note_abort(vcpu);
    }
}
