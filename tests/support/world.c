// SPDX-License-Identifier: MIT
#include "world_internal.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
// cmocka wants these first
#include <cmocka.h>

struct world *world;

static char stop_sentence[1200];
static bool stopped_on_fiber;
static jmp_buf *stop_catcher;

uint64_t world_random(void)
{
    uint64_t x = world->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return world->random = x;
}

// --- stops

static _Noreturn void stop_on_main_stack(void)
{
    if (stop_catcher != NULL)
        longjmp(*stop_catcher, 1);
    fail_msg("%s: %s", world == NULL ? "model" : world->config.nested ? "nested" : "bare", stop_sentence);
    abort();
}

_Noreturn void model_stop(const char *sentence)
{
    snprintf(stop_sentence, sizeof(stop_sentence), "%s", sentence);
    if (fiber_current() != NULL) {
        stopped_on_fiber = true;
        for (;;)
            fiber_yield(); // for good
    }
    stop_on_main_stack();
}

bool world_stops(void (*provoke)(void), const char **sentence)
{
    jmp_buf here;
    stop_catcher = &here;
    bool stopped = setjmp(here) != 0;
    if (!stopped)
        provoke();
    stop_catcher = NULL;
    *sentence = stop_sentence;
    return stopped;
}

// --- waiting

static struct virtual_processor *processor_of(const struct hw_cpu *cpu)
{
    for (unsigned i = 0; i < WORLD_VCPU_LIMIT; i++)
        if (world->processor[i].fiber == fiber_current() || world->processor[i].cpu == cpu)
            return &world->processor[i];
    return NULL;
}

void model_wait(struct hw_cpu *cpu, enum wait_reason reason)
{
    if (world != NULL && world->on_wait != NULL) {
        world->on_wait(cpu, reason);
        return;
    }
    struct virtual_processor *p = world == NULL ? NULL : processor_of(cpu);
    if (p == NULL || fiber_current() == NULL)
        model_stop("a guest wants something of the test while no test runs it");
    p->why = reason;
    p->cpu = cpu;
    if (world->feed == NULL || !world->feed(p, reason))
        fiber_yield();
}

void model_nmi_in_root(struct hw_cpu *cpu)
{
    struct virtual_processor *p = processor_of(cpu);
    if (p == NULL)
        model_stop("an NMI reaches an L0 that runs no vcpu");
    nvmx_pend_nmi(p->vcpu);
}

void model_machine_check_in_root(struct hw_cpu *cpu)
{
    struct virtual_processor *p = processor_of(cpu);
    if (p == NULL)
        model_stop("a machine check reaches an L0 that runs no vcpu");
    nvmx_pend_machine_check(p->vcpu);
}

static void bare_run(void *argument)
{
    struct virtual_processor *p = argument;
    for (;;)
        cpu_step(p->cpu);
}

// Runs the current vcpu until it wants something of the test.
void world_resume(void)
{
    stopped_on_fiber = false;
    machine_execute_on(world->machine, world->self->cpu);
    fiber_resume(world->self->fiber);
    if (stopped_on_fiber)
        stop_on_main_stack();
}

// --- notes

#define NOTE_COUNT  4096
#define NOTES_SHOWN 6
static struct note {
    size_t at; // observations made before it
    char text[120];
} notes[NOTE_COUNT];
static unsigned note_count;

void world_note(const char *format, ...)
{
    struct note *note = &notes[note_count++ % NOTE_COUNT];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(note->text, sizeof(note->text), format, arguments);
    va_end(arguments);
    note->at = world->trace.count;
}

// The last notes before observation `at`.
static void print_notes(size_t at)
{
    unsigned oldest = note_count > NOTE_COUNT ? note_count - NOTE_COUNT : 0, end = note_count;
    while (end > oldest && notes[(end - 1) % NOTE_COUNT].at > at)
        end--;
    for (unsigned i = end > oldest + NOTES_SHOWN ? end - NOTES_SHOWN : oldest; i < end; i++)
        print_error("%s\n", notes[i % NOTE_COUNT].text);
}

// --- life

// L1's processor lacks these.
static void hide_controls(struct nvmx_caps *offered, uint32_t secondary)
{
    offered->msr[MSR_IA32_VMX_PROCBASED_CTLS2 - CAPS_MSR_FIRST] &= ~((uint64_t)secondary << 32);
    uint64_t *ept_vpid = &offered->msr[MSR_IA32_VMX_EPT_VPID_CAP - CAPS_MSR_FIRST];
    if (secondary & SECONDARY_ENABLE_EPT)
        *ept_vpid &= ~0xffffffffull;
    if (secondary & SECONDARY_ENABLE_VPID)
        *ept_vpid &= 0xffffffffull;
    if (secondary & SECONDARY_ENABLE_VMFUNC)
        offered->msr[MSR_IA32_VMX_VMFUNC - CAPS_MSR_FIRST] = 0;
}

void world_begin(const struct world_config *config)
{
    assert_null(world);
    note_count = 0;
    world = calloc(1, sizeof(*world));
    world->config = *config;
    struct world_config *c = &world->config;
    if (c->processor == NULL)
        c->processor = &processor_rich;
    if (c->cpu_count == 0)
        c->cpu_count = c->vcpu_count > 1 ? c->vcpu_count : 1;
    if (c->vcpu_count == 0)
        c->vcpu_count = 1;
    world->random = c->seed * 0x9e3779b97f4a7c15ull + 0xabcdef;
    world->hardware = c->processor->vmx;
    nvmx_caps_offer(&world->hardware, &world->offered);
    hide_controls(&world->offered, c->hidden_secondary);
    world->l1_processor = *c->processor;
    if (!c->whole_processor)
        world->l1_processor.vmx = world->offered;
    world->l1_base = c->nested ? L0_SIZE : 0;
    world->machine = machine_create(&(struct machine_config){
        .processor = c->nested ? c->processor : &world->l1_processor,
        .cpu_count = c->cpu_count,
        .memory_size = world->l1_base + L1_RAM_SIZE,
        .seed = c->seed,
        .root = c->nested ? ROOT_IS_L0 : ROOT_IS_L1,
        .overlooks_events = c->nested && c->overlooks_events,
        .saves_old_rip = c->nested && c->saves_old_rip,
        .exits_before_cpl = c->nested && c->exits_before_cpl,
    });
    world->pads = machine_add_live(world->machine, L1_PADS, L1_PADS + 0x2000);
    l2_begin();
    if (c->nested)
        l0_begin();
    for (unsigned i = 0; i < c->vcpu_count; i++) {
        struct virtual_processor *p = &world->processor[i];
        struct registers start;
        *p = (struct virtual_processor){
            .index = i, .cpu = machine_cpu(world->machine, i), .move_to = -1, .move_in_exit_to = -1};
        uint64_t code = L1_CODE + 0x40000 * (uint64_t)i;
        p->live = machine_add_live(world->machine, code, code + 0x40000);
        p->next = code;
        l1_begin(p);
        l1_start_state(p, &start);
        p->start = start;
        p->start.cr4 |= CR4_VMXE; // when it begins again
        if (c->nested)
            l0_add_vcpu(p, &start);
        else
            p->cpu->r = start;
        p->fiber = fiber_create(c->nested ? l0_run : bare_run, p);
    }
    if (c->fed)
        machine_feed(world->machine);
    else
        machine_trace(world->machine, &world->trace);
    world->move_one_in = c->nested ? c->move_one_in : 0;
    world->save_restore_one_in = c->nested ? c->save_restore_one_in : 0;
    for (unsigned i = c->vcpu_count; i-- > 0;) {
        l1_use_vcpu(i);
        world_resume(); // to the first instruction
    }
}

static void world_free(void)
{
    if (world == NULL)
        return;
    for (unsigned i = 0; i < WORLD_VCPU_LIMIT; i++) {
        fiber_destroy(world->processor[i].fiber);
        free(world->processor[i].vcpu);
    }
    trace_free(&world->trace);
    free(world);
    world = NULL;
}

void world_end(void)
{
    if (world->config.nested)
        l0_end();
    machine_destroy(world->machine);
    world->machine = NULL;
    world_free();
}

uint64_t world_seed(void)
{
    return world->config.seed;
}

bool world_is_nested(void)
{
    return world->config.nested;
}

struct machine *world_machine(void)
{
    return world->machine;
}

const struct processor *world_l1_processor(void)
{
    return &world->l1_processor;
}

void *l1_memory(uint64_t address)
{
    if (address >= L1_RAM_SIZE)
        rule_broken(NULL, "the test asks for L1-physical %#llx, which is not RAM",
                    (unsigned long long)address);
    return world->machine->memory + world->l1_base + address;
}

// --- both worlds

static void print_observation(const char *where, const struct observation *o)
{
    print_error("%s: L%u at rip=%#llx rsp=%#llx rax=%#llx rcx=%#llx rdx=%#llx rflags=%#llx cr0=%#llx "
                "cr3=%#llx cr4=%#llx efer=%#llx cpl=%u blocking=%u\n",
                where, o->level, (unsigned long long)o->rip, (unsigned long long)o->gpr[GPR_RSP],
                (unsigned long long)o->gpr[GPR_RAX], (unsigned long long)o->gpr[GPR_RCX],
                (unsigned long long)o->gpr[GPR_RDX], (unsigned long long)o->rflags,
                (unsigned long long)o->cr0, (unsigned long long)o->cr3, (unsigned long long)o->cr4,
                (unsigned long long)o->efer, o->cpl, o->interruptibility);
}

static void print_difference(const struct observation *bare, const struct observation *nested)
{
#define SHOW(member)                                                                                         \
    if (bare->member != nested->member)                                                                      \
    print_error(#member ": bare %#llx, nested %#llx\n", (unsigned long long)bare->member,                    \
                (unsigned long long)nested->member)
    SHOW(cr2);
    SHOW(cr8);
    SHOW(dr7);
    SHOW(pat);
    SHOW(debugctl);
    SHOW(sysenter_cs);
    SHOW(sysenter_esp);
    SHOW(sysenter_eip);
    SHOW(gdtr_base);
    SHOW(gdtr_limit);
    SHOW(idtr_base);
    SHOW(idtr_limit);
    for (unsigned i = 0; i < SEGMENT_NAME_COUNT; i++) {
        SHOW(segment_selector[i]);
        SHOW(segment_base[i]);
        SHOW(segment_limit[i]);
        SHOW(segment_rights[i]);
    }
    for (unsigned i = 0; i < GPR_COUNT; i++)
        SHOW(gpr[i]);
#undef SHOW
}

static void compare_traces(const struct trace *bare, const struct trace *nested)
{
    size_t count = bare->count < nested->count ? bare->count : nested->count;
    for (size_t i = 0; i < count; i++) {
        if (memcmp(&bare->entry[i], &nested->entry[i], sizeof(bare->entry[i])) == 0)
            continue;
        world->differs_at = i;
        if (i > 0)
            print_observation("the same before", &bare->entry[i - 1]);
        print_observation("bare", &bare->entry[i]);
        print_observation("nested", &nested->entry[i]);
        print_difference(&bare->entry[i], &nested->entry[i]);
        fail_msg("observation %zu of the guests differs between the bare and the nested run", i);
    }
    if (bare->count != nested->count)
        fail_msg("the guests ran %zu instructions bare, and %zu nested", bare->count, nested->count);
}

static bool restores;           // the third of the runs of a scenario
static struct trace bare_trace; // outlives its world

static void run_one(const struct scenario *scenario, bool nested, uint64_t seed)
{
    struct world_config config = scenario->config;
    config.nested = nested;
    config.seed += seed;
    if (!restores && !scenario->only_nested)
        config.save_restore_one_in = 0;
    world_begin(&config);
    scenario->run();
    if (!nested) {
        trace_free(&bare_trace);
        bare_trace = world->trace;
        world->trace = (struct trace){0};
        machine_trace(world->machine, NULL);
    } else if (!scenario->only_nested && !scenario->apart) {
        compare_traces(&bare_trace, &world->trace);
    }
    world_end();
}

void scenario_test(void **state)
{
    const struct scenario *scenario = *state;
    if (!scenario->only_nested)
        run_one(scenario, false, 1);
    if (!scenario->only_bare)
        run_one(scenario, true, 1);
    if (scenario->only_nested || scenario->only_bare || scenario->config.keeps_caches)
        return;
    // Once more, with another vcpu after every exit.
    struct scenario restored = *scenario;
    if (restored.config.save_restore_one_in == 0)
        restored.config.save_restore_one_in = 1;
    restores = true;
    run_one(&restored, true, 1);
    restores = false;
}

void world_abandon(void)
{
    if (world != NULL && world->machine != NULL) {
        for (unsigned i = 0; i < world->config.cpu_count; i++)
            vmcs_cache_drop(world->machine->cpu[i]);
        machine_destroy(world->machine);
    }
    world_free();
}

int scenario_teardown(void **state)
{
    (void)state;
    if (world != NULL && world->machine != NULL) { // the test failed
        print_error("this was the %s run\n", world->config.nested ? "nested" : "bare");
        print_notes(world->differs_at ? world->differs_at : world->trace.count);
        if (world->log_count > 0)
            print_error("the last of %u lines of L0's log: %s\n", world->log_count, world->last_log);
    }
    world_abandon();
    restores = false;
    trace_free(&bare_trace);
    return 0;
}
