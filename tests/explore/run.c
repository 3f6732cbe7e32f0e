// SPDX-License-Identifier: MIT
// Runs a script: first bare, then nested, and compares a hash of what the guests see at every instruction
// boundary, and at the end their memory. A vcpu runs without leaving its stack until the next step is
// another's.
#include "explore.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FILLER_LIMIT 40 // VMCALLs of an L2 that no step was for, in a row

// What a vcpu is at.
struct seat {
    const struct op *executing; // NULL: its result has been looked at
    unsigned level;             // who executes it
    struct step compound;       // PREPARE and the like: the operation after the next is number `index`
    bool in_compound;
    unsigned index, fillers;
    struct op op;
    bool ambiguous_error; // both the controls and the host state of the last failed entry were wrong
};

static struct {
    struct script *script;
    generator *generate;
    size_t next; // step
    size_t last; // step that was executed last
    bool done, different;
    struct seat seat[WORLD_VCPU_LIMIT];
    uint64_t observation; // count
    uint64_t *hash;       // of each, bare
    struct undefined *undefined;
    uint64_t recorded, room; // ... and how many there are
    uint64_t memory_hash;
    uint64_t show; // the observation to keep in `shown`; all ones: none
    struct seen shown;
    const char *sentence, *refusal;
} run;

static uint64_t operations;

uint64_t explore_operations(void)
{
    return operations;
}

static unsigned level_of(const struct virtual_processor *p)
{
    if (world->config.nested)
        return p->vcpu->in_l2 ? 2 : 1;
    return p->cpu->vmx == VMX_NON_ROOT ? 2 : 1;
}

// --- looking at what an operation did

static void forget(struct hw_cpu *cpu, const struct undefined *undefined)
{
    for (unsigned reg = 0; reg < GPR_COUNT; reg++)
        if (undefined->registers >> reg & 1)
            cpu->r.gpr[reg] &= undefined->keep;
    if (undefined->address != 0 && undefined->address < L1_RAM_SIZE - 8) {
        uint64_t value;
        memcpy(&value, l1_memory(undefined->address), 8);
        value &= undefined->keep;
        memcpy(l1_memory(undefined->address), &value, 8);
    }
}

static void make_room(void)
{
    if (run.observation < run.room)
        return;
    run.room = run.room ? 2 * run.room : 1 << 16;
    run.hash = realloc(run.hash, run.room * sizeof(*run.hash));
    run.undefined = realloc(run.undefined, run.room * sizeof(*run.undefined));
}

// A failed entry may name either stage when both are wrong.
static void note_failed_entry(struct seat *seat, struct hw_cpu *cpu, const struct op *op)
{
    if ((op->kind != OP_VMLAUNCH && op->kind != OP_VMRESUME) || !(cpu->r.rflags & RFLAGS_ZF) ||
        cpu->current == NULL || cpu->vmx != VMX_ROOT)
        return;
    uint64_t error = cpu->current->data.field[F_VM_INSTRUCTION_ERROR];
    bool known = !(cpu->c.exit & ~allowed1(WORD_EXIT)); // fields that L1's processor lacks were never written
    seat->ambiguous_error = error == VMERR_ENTRY_CONTROLS && known && entry_check_host(cpu) != NULL;
}

static enum idleness idleness_of(const struct virtual_processor *p, enum wait_reason reason)
{
    if (reason != WAIT_IDLE)
        return NOT_IDLE;
    bool shutdown = p->cpu->activity == ACTIVITY_SHUTDOWN || (p->vcpu != NULL && p->vcpu->shutdown);
    if (shutdown)
        return IDLE_IN_SHUTDOWN;
    return p->cpu->activity == ACTIVITY_WAIT_FOR_SIPI ? IDLE_FOR_SIPI : IDLE_WAITING;
}

static void look(struct seat *seat, struct virtual_processor *p, enum wait_reason reason)
{
    struct hw_cpu *cpu = p->cpu;
    unsigned level = level_of(p);
    struct seen seen = {{0}};
    if (!world->config.nested) {
        make_room();
        note_failed_entry(seat, cpu, seat->executing);
        run.undefined[run.observation] = undefined_after(cpu, seat->executing, seat->ambiguous_error);
        if (run.generate != NULL)
            cover_operation(cpu, seat->executing, level, seat->level);
    } else if (run.observation >= run.recorded) {
        run.done = true; // the bare run ended here
        return;
    }
    forget(cpu, &run.undefined[run.observation]);
    seen_take(&seen, cpu, level, idleness_of(p, reason));
    uint64_t hash = seen_hash(&seen);
    if (run.observation == run.show)
        run.shown = seen;
    if (!world->config.nested)
        run.hash[run.observation] = hash;
    else if (run.hash[run.observation] != hash)
        run.done = run.different = true;
    else
        run.observation++;
    if (!world->config.nested)
        run.recorded = ++run.observation;
    seat->executing = NULL;
}

// --- steps

static void wake(struct hw_cpu *cpu, uint64_t how)
{
    if (cpu->activity == ACTIVITY_WAIT_FOR_SIPI || how == WAKE_SIPI)
        cpu_startup_ipi(cpu, 0x10);
    else if (how == WAKE_INTERRUPT && cpu->activity == ACTIVITY_HLT && (cpu->r.rflags & RFLAGS_IF))
        cpu_interrupt(cpu, 0x31);
    else if (how == WAKE_INIT)
        cpu_init_signal(cpu);
    else
        cpu_nmi(cpu);
}

static bool cpu_is_free(unsigned index)
{
    for (unsigned i = 0; i < world->config.vcpu_count; i++) {
        const struct virtual_processor *other = &world->processor[i];
        if (cpu_index(other->cpu) == index || other->move_to == (int)index ||
            other->move_in_exit_to == (int)index)
            return false;
    }
    return index < world->config.cpu_count;
}

// Some take another processor, which must have no other vcpu.
static bool l0_can(const struct virtual_processor *p, enum l0_action action)
{
    bool alone = world->config.vcpu_count == 1;
    if (action == L0_LOSES_PROCESSOR || action == L0_RETIRES_ELSEWHERE)
        return alone && world->config.cpu_count > 1 && p->move_to < 0 && p->move_in_exit_to < 0;
    return action <= L0_RETIRES_ELSEWHERE;
}

static void ask_l0(struct virtual_processor *p, enum l0_action action, bool in_exit)
{
    if (in_exit)
        l0_do_in_exit(action);
    else if (p->action_count == 0)
        l0_do(action);
}

// What a step does that is nobody's operation.
static void happen(struct virtual_processor *p, const struct step *step)
{
    switch (step->kind) {
    case STEP_POKE:
        if (step->op.a < L1_RAM_SIZE - 8)
            memcpy(l1_memory(step->op.a), &step->op.b, step->op.size <= 8 ? step->op.size : 8);
        break;
    case STEP_MOVE:
        if (world->config.nested && cpu_is_free((unsigned)step->op.a))
            *(step->op.flag ? &p->move_in_exit_to : &p->move_to) = (int)step->op.a;
        break;
    case STEP_L0:
        if (world->config.nested && l0_can(p, (enum l0_action)step->op.a))
            ask_l0(p, (enum l0_action)step->op.a, step->op.flag);
        break;
    case STEP_WRITE_BACK:
        vmcs_cache_write_back(p->cpu);
        break;
    default:
        break;
    }
}

static void execute_next(struct seat *seat, struct virtual_processor *p, unsigned level, const struct op *op)
{
    seat->executing = op;
    seat->level = level;
    cpu_feed(p->cpu, op);
    if (!world->config.nested)
        operations++;
}

static bool fill(struct seat *seat, struct virtual_processor *p, enum wait_reason reason)
{
    static const struct op vmcall = {.kind = OP_VMCALL}, nothing = {.kind = OP_NOP};
    if (seat->fillers++ == FILLER_LIMIT) {
        run.done = true;
        return false;
    }
    if (reason == WAIT_IDLE) {
        wake(p->cpu, WAKE_NMI);
        seat->executing = &nothing;
    } else {
        execute_next(seat, p, 2, &vmcall);
    }
    return true;
}

static bool begin_compound(struct seat *seat, const struct step *step)
{
    seat->compound = *step;
    seat->in_compound = true;
    seat->index = 0;
    return true;
}

static bool continue_compound(struct seat *seat, struct virtual_processor *p, unsigned level)
{
    if (compound_operation(&seat->compound, seat->index++, &seat->op)) {
        execute_next(seat, p, level, &seat->op);
        return true;
    }
    seat->in_compound = false;
    return false;
}

static const struct step *next_step(struct virtual_processor *p, unsigned level, enum wait_reason reason)
{
    struct script *script = run.script;
    if (run.next == script->count &&
        (run.generate == NULL || script->count == script->room || !run.generate(script, p, level, reason))) {
        run.done = true;
        return NULL;
    }
    const struct step *step = &script->step[run.next];
    return step->vcpu == p->index ? step : NULL; // NULL: it is the other vcpu's turn
}

// The vcpu is at an instruction boundary (or idle): true when it can go on.
static bool feed(struct virtual_processor *p, enum wait_reason reason)
{
    struct seat *seat = &run.seat[p->index];
    if (seat->executing != NULL)
        look(seat, p, reason);
    unsigned level = level_of(p);
    while (!run.done) {
        bool idle = reason == WAIT_IDLE;
        if (seat->in_compound && level == 1 && !idle && continue_compound(seat, p, level))
            return true;
        const struct step *step = next_step(p, level, reason);
        if (step == NULL)
            return false;
        bool for_l1 = step->level == 1, for_l2 = step->level == 2;
        if (step->kind != STEP_WAKE && ((idle && step->level != 0) || (for_l1 && level == 2)))
            return fill(seat, p, reason);
        seat->fillers = 0;
        run.last = run.next++;
        if (for_l2 && level == 1)
            continue;
        if (step->kind == STEP_OP) {
            execute_next(seat, p, level, &step->op);
            return true;
        }
        if (step->kind == STEP_WAKE) {
            static const struct op nothing = {.kind = OP_NOP};
            if (!idle)
                continue;
            wake(p->cpu, step->op.a);
            seat->executing = &nothing;
            return true;
        }
        if (for_l1)
            begin_compound(seat, step);
        else
            happen(p, step);
    }
    return false;
}

// --- one world

static uint64_t hash_memory(uint64_t from, uint64_t size, uint64_t mask)
{
    const uint64_t *word = l1_memory(from);
    uint64_t sum[4] = {from, 1, 2, 3};
    for (uint64_t i = 0; i < size / 8; i += 4)
        for (unsigned lane = 0; lane < 4; lane++)
            sum[lane] = (sum[lane] ^ (word[i + lane] & mask)) * 0x9e3779b97f4a7c15ull;
    return ((sum[0] * 3 + sum[1]) * 5 + sum[2]) * 7 + sum[3];
}

// All that is not a VMCS region, whose contents are the processor's own. On stacks RFLAGS.RF does not count:
// an exit of L2 that L0 keeps to itself (it fills ept02) may set it.
#define RF_IN_FRAMES (RFLAGS_RF | RFLAGS_RF << 32) // of 8-byte and of 4-byte entries
static uint64_t hash_of_memory(void)
{
    uint64_t sum = hash_memory(L1_PAGE_TABLES, 0x3000, ~0ull) ^ hash_memory(L1_STACK, 0x2000, ~RF_IN_FRAMES) ^
                   hash_memory(L1_HOST_STACK, 0x1000, ~RF_IN_FRAMES) ^ hash_memory(L1_SCRATCH, 0x2000, ~0ull);
    for (unsigned r = 0; r < REGION_COUNT; r++)
        sum ^= hash_memory(STRUCTURES(r), 0x6000, ~0ull); // what #VE and PML write has undefined bits
    for (unsigned g = 0; g < GUEST_COUNT; g++)
        sum ^= hash_memory(EPT_TABLES(g), 0x7000, ~0ull) ^
               hash_memory(L2_MEMORY(g), L2_STACK - 0x1000, ~0ull) ^
               hash_memory(L2_MEMORY(g) + L2_STACK - 0x1000, 0x1000, ~RF_IN_FRAMES) ^
               hash_memory(L2_MEMORY(g) + L2_STACK, L2_CODE - L2_STACK, ~0ull) ^
               hash_memory(L2_MEMORY(g) + L2_DATA, 0x20000, ~0ull) ^
               hash_memory(L2_MEMORY(g) + L2_FLAT, 0x8000, ~0ull);
    return sum;
}

static void run_script(void)
{
    while (!run.done) {
        unsigned vcpu = run.next < run.script->count ? run.script->step[run.next].vcpu : 0;
        l1_use_vcpu(vcpu % world->config.vcpu_count);
        world_resume();
    }
}

// false: it stopped; run.sentence says why.
static bool run_world(bool nested)
{
    struct world_config config = run.script->config;
    config.nested = nested;
    config.fed = true;
    run.next = run.last = 0;
    run.observation = 0;
    run.done = run.different = false;
    memset(run.seat, 0, sizeof(run.seat));
    world_begin(&config);
    fields_begin();
    explore_build_memory();
    world->feed = feed;
    l0_save_and_restore_at_random(config.save_restore_one_in);
    bool stopped = world_stops(run_script, &run.sentence);
    uint64_t memory = stopped ? 0 : hash_of_memory();
    if (!nested)
        run.memory_hash = memory;
    else if (!stopped && !run.different && memory != run.memory_hash && run.observation == run.recorded)
        run.different = true;
    run.refusal = machine_entry_failure(world->machine);
    world_abandon();
    return !stopped;
}

static void describe_difference(struct result *result)
{
    uint64_t at = result->observation;
    result->at_the_end = at >= run.recorded;
    if (result->at_the_end) {
        snprintf(result->sentence, sizeof(result->sentence), "the guests' memory differs at the end");
        return;
    }
    run.show = at;
    run.generate = NULL;
    run_world(false);
    result->bare = run.shown;
    run_world(true);
    result->nested = run.shown;
    run.show = ~0ull;
    snprintf(result->sentence, sizeof(result->sentence), "what a guest sees differs");
}

void explore_run(struct script *script, generator *generate, struct result *result)
{
    run.script = script;
    run.generate = generate;
    run.show = ~0ull;
    run.recorded = 0;
    memset(result, 0, sizeof(*result));
    if (!run_world(false)) { // the last step is not defined: all before it are
        snprintf(result->sentence, sizeof(result->sentence), "%s", run.sentence);
        result->verdict = VERDICT_UNDEFINED;
        result->step = run.last;
        if (generate == NULL)
            return;
        script->count = run.last;
    }
    uint64_t memory_is_known = result->verdict == VERDICT_SAME;
    bool finished = run_world(true);
    if (!finished) {
        result->verdict = VERDICT_STOPPED;
        snprintf(result->sentence, sizeof(result->sentence), "%s", run.sentence);
    } else if (run.different && (memory_is_known || run.observation < run.recorded)) {
        result->verdict = VERDICT_DIFFERENT;
    } else {
        return;
    }
    result->refusal = run.refusal;
    result->step = run.last;
    result->observation = run.observation;
    if (result->verdict == VERDICT_DIFFERENT)
        describe_difference(result);
}
