// SPDX-License-Identifier: MIT
// L0 saves a virtual processor's nested state, destroys the vcpu and all that it knew, makes another one in
// its place and gives it the state. What the vcpu does not hold (docs/state.md) stays where it is: in the
// logical processor.
#include "world_internal.h"
#include <nvmx/state.h>
#include <stdlib.h>
#include <string.h>

static void poison_page(l0pa_t page, unsigned count)
{
    if (page.value != 0)
        memset(world->machine->memory + page.value, 0x5a, count * PAGE_SIZE);
}

static void destroy(struct nvmx_vcpu *vcpu, struct nvmx_cpu *cpu)
{
    struct nvmx_vcpu_pages pages = vcpu->config.pages;
    uint32_t used = vcpu->ept02.fresh; // the others are as they were
    nvmx_vcpu_put(vcpu);
    nvmx_vcpu_retire(vcpu, cpu);
    memset(vcpu, 0x5a, sizeof(*vcpu));
    poison_page(pages.vmcs01, 1);
    poison_page(pages.vmcs02, 1);
    poison_page(pages.io_bitmap_a, 1);
    poison_page(pages.io_bitmap_b, 1);
    poison_page(pages.msr_bitmap, 1);
    poison_page(pages.shadow_vmcs, 1);
    poison_page(pages.vmread_bitmap, 1);
    poison_page(pages.vmwrite_bitmap, 1);
    poison_page(pages.shadow02_vmcs, 1);
    poison_page(pages.vmread02_bitmap, 1);
    poison_page(pages.vmwrite02_bitmap, 1);
    poison_page(pages.ept02_pool, used);
}

struct nvmx_state_verdict l0_become(const void *state, size_t size)
{
    struct nvmx_vcpu *vcpu = world->self->vcpu;
    struct nvmx_vcpu_config config = vcpu->config;
    struct nvmx_cpu *cpu = vcpu->last;
    void *l0_data = vcpu->l0_data;
    struct fed_operation fed = world->self->cpu->fed; // the guest's instruction is tried again
    config.feature_control = 0;
    destroy(vcpu, cpu);
    if (nvmx_vcpu_init(vcpu, &config) != NULL)
        rule_broken(NULL, "the engine refuses a vcpu that it took before");
    vcpu->l0_data = l0_data;
    nvmx_vcpu_load(vcpu, cpu);
    struct nvmx_state_verdict verdict = nvmx_state_set(vcpu, state, size);
    world->self->cpu->fed = fed;
    return verdict;
}

void l0_save_and_restore(void)
{
    struct nvmx_vcpu *vcpu = world->self->vcpu;
    size_t size = nvmx_state_size(vcpu);
    uint8_t *state = malloc(size), *again = malloc(size);
    nvmx_state_get(vcpu, state);
    struct nvmx_state_verdict verdict = l0_become(state, size);
    if (verdict.reason != NVMX_STATE_ACCEPTED)
        rule_broken(vcpu->cpu, "the engine refuses a state of its own: %s; field %s, rule %s",
                    nvmx_state_reason_text(verdict.reason), vmcs_field_name((enum vmcs_field)verdict.field),
                    verdict.rule < CHECK_COUNT ? check_rules[verdict.rule].id : "none");
    if (nvmx_state_size(vcpu) != size)
        rule_broken(vcpu->cpu, "a restored state has another size");
    nvmx_state_get(vcpu, again);
    for (size_t i = 0; i < size; i++)
        if (state[i] != again[i])
            rule_broken(vcpu->cpu, "a restored state differs from what it was, at byte %zu: %#x, not %#x", i,
                        again[i], state[i]);
    free(state);
    free(again);
    world->save_restore_count++;
}

// The caches of a new vcpu are empty. One instruction of L2 may miss many times before it completes, and
// would never, were the vcpu made anew at each miss.
static bool is_another_miss(struct virtual_processor *p)
{
    uint32_t reason = p->vcpu->exit.reason;
    if (!p->vcpu->in_l2 || (reason != EXIT_EPT_VIOLATION && reason != EXIT_RDMSR && reason != EXIT_WRMSR &&
                            reason != EXIT_IO_INSTRUCTION && reason != EXIT_VMREAD && reason != EXIT_VMWRITE))
        return false;
    uint64_t rip = nvmx_read(p->vcpu, F_GUEST_RIP);
    bool another = rip == p->restored_at;
    p->restored_at = rip;
    return another;
}

void l0_call_between_exits(bool (*function)(void))
{
    world->between_exits = function;
}

void l0_maybe_save_and_restore(struct virtual_processor *p)
{
    if (world->between_exits != NULL && world->between_exits())
        world->between_exits = NULL;
    unsigned one_in = world->save_restore_one_in;
    if (one_in != 0 && (one_in == 1 || world_random() % one_in == 0) && !is_another_miss(p) &&
        (!p->vcpu->step || p->vcpu->in_l2)) // L1's write to a hole would miss for ever
        l0_save_and_restore();
}

void l0_save_and_restore_at_random(unsigned one_in)
{
    world->save_restore_one_in = world->config.nested ? one_in : 0;
}

uint64_t l0_save_and_restore_count(void)
{
    return world->save_restore_count;
}
