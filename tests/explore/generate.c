// SPDX-License-Identifier: MIT
// The generator: looks at the bare machine, and gives the vcpu that is at an instruction boundary something
// to do that makes sense there, most of the time.
#include "generate.h"
#include <stdlib.h>
#include <string.h>

uint64_t random_state = 1;
struct generator_state generating;

void plan(struct actor *a, struct step step)
{
    if (a->planned == PLAN_LIMIT)
        return;
    step.vcpu = (uint8_t)a->vcpu;
    a->plan[(a->first + a->planned++) % PLAN_LIMIT] = step;
}

int current_region(const struct actor *a)
{
    for (unsigned r = 0; r < REGION_COUNT; r++)
        if (a->cpu->current_pointer == VMCS_AT(r))
            return (int)r;
    return -1;
}

uint64_t current_field(const struct actor *a, enum vmcs_field field)
{
    return a->cpu->current->data.field[field];
}

bool is_active_elsewhere(const struct actor *a, unsigned region)
{
    for (unsigned i = 0; i < world->config.vcpu_count; i++)
        if (i != a->vcpu && vmcs_cache_find(world->processor[i].cpu, VMCS_AT(region)) != NULL)
            return true;
    return false;
}

bool has_secondary(const struct actor *a, uint32_t control)
{
    return (current_field(a, F_PRIMARY_CONTROLS) & PRIMARY_ACTIVATE_SECONDARY) &&
           (current_field(a, F_SECONDARY_CONTROLS) & control);
}

void plan_write(struct actor *a, enum vmcs_field field, uint64_t value)
{
    if (field_is_of_l1(field))
        plan_l1(a, VMWRITE(model_field_encoding(field), value));
}

unsigned random_region(const struct actor *a)
{
    for (unsigned tries = 0; tries < 8; tries++) {
        unsigned r = random_below(REGION_COUNT);
        if (!is_active_elsewhere(a, r))
            return r;
    }
    return a->vcpu;
}

enum guest_mode random_mode(bool without_ept)
{
    enum guest_mode mode = one_in(3) ? (enum guest_mode)random_below(MODE_COUNT) : MODE_64;
    return mode_is_possible(mode, without_ept) ? mode : MODE_64;
}

void plan_forget_translations(struct actor *a)
{
    if (allowed1(WORD_SECONDARY) & SECONDARY_ENABLE_VPID)
        plan_l1(a, INVVPID(2, ZERO_SLOT));
}

// Moves, preemptions, write-backs: at any boundary, of no concern to the guests.
static bool plan_happening(struct actor *a)
{
    switch (random_below(160)) {
    case 0:
        plan(a, one_in(2) ? (struct step)MOVE(random_below(world->config.cpu_count))
                          : (struct step)MOVE_IN_EXIT(random_below(world->config.cpu_count)));
        return true;
    case 1:
        plan(a, one_in(2) ? (struct step)L0(1 + random_below(L0_RETIRES_ELSEWHERE))
                          : (struct step)L0_IN_EXIT(1 + random_below(L0_RETIRES_ELSEWHERE)));
        return true;
    case 2:
        plan(a, (struct step)WRITE_BACK);
        return true;
    case 3: // data that L2 looks at
        plan(a,
             (struct step)POKE(L2_MEMORY(random_below(GUEST_COUNT)) + L2_DATA + (random_below(0x4000) & ~7u),
                               random_word(), 1u << random_below(4)));
        return true;
    default:
        return false;
    }
}

static void plan_wake(struct actor *a)
{
    if (a->cpu->vmx == VMX_OUTSIDE || a->cpu->activity == ACTIVITY_SHUTDOWN)
        generating.l1_accidents++;
    if (a->wakes++ > 8 || (a->cpu->activity == ACTIVITY_SHUTDOWN && a->cpu->vmx != VMX_NON_ROOT))
        generating.over = true;
    bool virtual_nmis = capability_allowed1(world->config.processor, WORD_PIN) & PIN_VIRTUAL_NMIS;
    uint64_t how = one_in(2) ? WAKE_INTERRUPT : WAKE_NMI;
    if (!virtual_nmis) // NMIs are late there
        how = a->cpu->r.rflags & RFLAGS_IF ? WAKE_INTERRUPT : WAKE_INIT;
    if (a->cpu->vmx == VMX_NON_ROOT && (a->wakes > 2 || one_in(6))) // INIT always ends the wait
        how = WAKE_INIT;
    plan(a, (struct step)WAKE(how));
}

static bool take_planned(struct actor *a, unsigned level, bool idle, struct step *step)
{
    while (a->planned > 0) {
        *step = a->plan[a->first];
        a->first = (a->first + 1) % PLAN_LIMIT;
        a->planned--;
        if ((step->level == 0 || step->level == level) && (!idle || step->kind == STEP_WAKE))
            return true;
    }
    return false;
}

bool generate_step(struct script *script, struct virtual_processor *p, unsigned level,
                   enum wait_reason reason)
{
    struct generator_state *g = &generating;
    struct actor *a = &g->actor[p->index];
    struct step step;
    a->p = p;
    a->cpu = p->cpu;
    bool idle = reason == WAIT_IDLE;
    if (idle)
        a->planned = 0;
    else
        a->wakes = 0;
    if (world->config.vcpu_count > 1 && a->planned == 0 && one_in(24)) { // the other one's turn
        unsigned other = 1 - p->index;
        struct virtual_processor *q = &world->processor[other];
        if (q->why == WAIT_LIVE && g->actor[other].p != NULL) {
            script->step[script->count++] = (struct step){.kind = STEP_WRITE_BACK, .vcpu = (uint8_t)other};
            return true;
        }
        if (g->actor[other].p == NULL) {
            script->step[script->count++] =
                (struct step){.kind = STEP_ENTER_VMX, .level = 1, .vcpu = (uint8_t)other};
            g->actor[other].p = q;
            return true;
        }
    }
    while (!take_planned(a, level, idle, &step)) {
        if (idle)
            plan_wake(a);
        else if (plan_happening(a))
            continue;
        else if (level == 1)
            plan_l1_steps(a);
        else
            plan_l2_steps(a);
    }
    if (g->over)
        return false;
    script->step[script->count++] = step;
    return true;
}

// EXPLORE_SAVE_RESTORE=n: at one in so many exits L0 saves the vcpu's state and makes the vcpu anew of it.
static unsigned save_restore_one_in(void)
{
    const char *one_in = getenv("EXPLORE_SAVE_RESTORE");
    return one_in != NULL ? (unsigned)strtoul(one_in, NULL, 0) : 0;
}

void generate_begin(struct script *script, uint64_t seed, size_t steps)
{
    static const struct processor *const processors[] = {
        &processor_rich, &processor_rich, &processor_rich, &processor_no_vpid, &processor_sparse,
    };
    random_state = seed * 0x9e3779b97f4a7c15ull + 0x6a09e667f3bcc909ull;
    for (unsigned i = 0; i < 8; i++)
        random_word();
    memset(&generating, 0, sizeof(generating));
    generating.script = script;
    for (unsigned i = 0; i < WORLD_VCPU_LIMIT; i++)
        generating.actor[i].vcpu = i;
    generating.actor[0].p = NULL;
    for (unsigned r = 0; r < REGION_COUNT; r++)
        generating.region[r].broken = F_COUNT;
    script->count = 0;
    script->room = steps;
    script->config = (struct world_config){
        .processor = PICK(processors),
        .cpu_count = 1 + random_below(3),
        .vcpu_count = 1,
        .seed = seed,
        .without_vmcs_shadowing = one_in(4),
        .l0_without_large_pages = one_in(4),
        .ept02_pool_pages = one_in(4) ? 64 : 0,
        .hidden_secondary = one_in(6)   ? SECONDARY_ENABLE_EPT | SECONDARY_UNRESTRICTED_GUEST
                            : one_in(6) ? SECONDARY_ENABLE_VPID
                            : one_in(6) ? SECONDARY_UNRESTRICTED_GUEST
                                        : 0,
        .save_restore_one_in = save_restore_one_in(),
        .l0_exceptions = one_in(4) ? 1u << VECTOR_UD | 1u << VECTOR_GP | 1u << VECTOR_PF : 0,
    };
    if (script->config.cpu_count > 1 && one_in(3))
        script->config.vcpu_count = 2;
    if (script->config.hidden_secondary & SECONDARY_ENABLE_EPT)
        script->config.hidden_secondary |= SECONDARY_EPT_VIOLATION_VE | SECONDARY_ENABLE_PML |
                                           SECONDARY_MODE_BASED_EXECUTE_CONTROL | SECONDARY_ENABLE_VMFUNC;
}
