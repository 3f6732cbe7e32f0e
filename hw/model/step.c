// SPDX-License-Identifier: MIT
// One step of a logical processor: the instruction boundary, then one micro-operation; and where the
// micro-operations come from.
#include "model.h"
#include <stdlib.h>
#include <string.h>

uint64_t program_end(const struct program *program)
{
    uint64_t at = program->base;
    for (unsigned i = 0; i < program->count; i++)
        at += op_length(&program->op[i]);
    return at;
}

void machine_add_program(struct machine *machine, const struct program *program)
{
    struct program_text *text = calloc(1, sizeof(*text));
    text->program = *program;
    text->address = calloc(program->count + 1, sizeof(uint64_t));
    uint64_t at = program->base;
    for (unsigned i = 0; i < program->count; i++) {
        text->address[i] = at;
        at += op_length(&program->op[i]);
    }
    text->address[program->count] = at;
    for (const struct program_text *other = machine->text; other != NULL; other = other->next)
        if (text->program.base <= other->address[other->program.count] &&
            other->program.base <= text->address[program->count])
            rule_broken(NULL, "the programs %s and %s overlap", program->name, other->program.name);
    text->next = machine->text;
    machine->text = text;
}

struct live *machine_add_live(struct machine *machine, uint64_t base, uint64_t end)
{
    if (machine->live_count == LIVE_LIMIT)
        rule_broken(NULL, "too many live ranges");
    struct live *live = &machine->live[machine->live_count++];
    *live = (struct live){.base = base, .end = end};
    return live;
}

void machine_fill_with_ud2(struct machine *machine)
{
    machine->ud2_everywhere = true;
}

void machine_limit_operations(struct machine *machine, uint64_t count)
{
    machine->operations_left = count;
}

static bool text_holds(const struct program_text *text, uint64_t linear)
{
    return linear >= text->program.base && linear <= text->address[text->program.count];
}

// The operation at `linear` in `text`.
static const struct op *text_fetch(struct hw_cpu *cpu, const struct program_text *text, uint64_t linear)
{
    unsigned low = 0, high = text->program.count;
    if (cpu->text == text && cpu->text_index < high && text->address[cpu->text_index + 1] == linear)
        low = high = cpu->text_index + 1; // usual: the next one
    while (low < high) {
        unsigned middle = (low + high + 1) / 2;
        if (text->address[middle] <= linear)
            low = middle;
        else
            high = middle - 1;
    }
    static const struct op ud2 = {.kind = OP_UD2};
    if (text->address[low] != linear && cpu->machine->ud2_everywhere)
        return &ud2;
    if (text->address[low] != linear)
        rule_broken(cpu, "RIP %#llx is in the middle of operation %u (%s at %#llx) of program %s",
                    (unsigned long long)linear, low, op_name(text->program.op[low].kind),
                    (unsigned long long)text->address[low], text->program.name);
    cpu->text = text;
    cpu->text_index = low;
    static const struct op end = {.kind = OP_END};
    return low == text->program.count ? &end : &text->program.op[low];
}

void machine_feed(struct machine *machine)
{
    machine->fed = true;
}

static uint64_t fetch_address(const struct hw_cpu *cpu)
{
    if (cpu_in_64bit_code(cpu))
        return cpu->r.rip;
    return (cpu->r.segment[SEGMENT_CS].base + cpu->r.rip) & 0xffffffff;
}

void cpu_feed(struct hw_cpu *cpu, const struct op *op)
{
    cpu->fed = (struct fed_operation){.op = op, .at = fetch_address(cpu)};
}

// On the bare machine each fetch is of another instruction. Under L0 the last one may be executed again:
// until it completes, or its exception is delivered, or L0 writes the guest's RIP.
static const struct op *fed_operation(struct hw_cpu *cpu, uint64_t linear)
{
    if (cpu->fed.op == NULL || cpu->fed.at != linear) {
        cpu->fed.op = NULL;
        model_wait(cpu, WAIT_LIVE);
    }
    const struct op *op = cpu->fed.op;
    if (!cpu->c_code)
        cpu->fed.op = NULL;
    return op;
}

static const struct op *find_operation(struct hw_cpu *cpu, uint64_t linear, unsigned *level)
{
    struct machine *machine = cpu->machine;
    if (machine->fed) {
        *level = 0;
        return fed_operation(cpu, linear);
    }
    for (unsigned i = 0; i < machine->live_count; i++) {
        struct live *live = &machine->live[i];
        if (linear < live->base || linear >= live->end)
            continue;
        *level = 1;
        if (live->armed && live->at == linear)
            return &live->op;
        model_wait(cpu, WAIT_LIVE);
        return NULL;
    }
    const struct program_text *text = cpu->text;
    if (text == NULL || !text_holds(text, linear))
        for (text = machine->text; text != NULL && !text_holds(text, linear);)
            text = text->next;
    static const struct op ud2 = {.kind = OP_UD2};
    *level = 2;
    if (text == NULL && machine->ud2_everywhere)
        return &ud2;
    if (text == NULL)
        rule_broken(cpu, "RIP %#llx (in %s operation) is in no program", (unsigned long long)linear,
                    cpu->vmx == VMX_NON_ROOT ? "non-root" : "root");
    *level = text->program.level;
    return text_fetch(cpu, text, linear);
}

static void observe(struct hw_cpu *cpu, unsigned level)
{
    struct trace *trace = cpu->machine->trace;
    const struct registers *r = &cpu->r;
    struct observation o;
    memset(&o, 0, sizeof(o)); // compared byte by byte
    o.rip = r->rip;
    o.rflags = r->rflags & ~RFLAGS_RF;
    o.cr0 = visible_cr0(cpu);
    o.cr2 = r->cr2;
    o.cr3 = r->cr3;
    o.cr4 = visible_cr4(cpu);
    o.cr8 = r->cr8;
    o.dr7 = r->dr7;
    o.efer = r->efer;
    o.pat = r->pat;
    o.debugctl = r->debugctl;
    o.sysenter_cs = r->sysenter_cs;
    o.sysenter_esp = r->sysenter_esp;
    o.sysenter_eip = r->sysenter_eip;
    o.gdtr_base = r->gdtr_base;
    o.idtr_base = r->idtr_base;
    o.gdtr_limit = r->gdtr_limit;
    o.idtr_limit = r->idtr_limit;
    for (unsigned i = 0; i < SEGMENT_NAME_COUNT; i++) {
        const struct segment *s = &r->segment[i];
        bool usable = !(s->access_rights & SEGMENT_UNUSABLE);
        o.segment_selector[i] = s->selector;
        o.segment_base[i] = usable || i == SEGMENT_FS || i == SEGMENT_GS ? s->base : 0;
        o.segment_limit[i] = usable ? s->limit : 0;
        o.segment_rights[i] = usable ? s->access_rights : SEGMENT_UNUSABLE;
    }
    o.interruptibility =
        (cpu->blocking_sti ? INTERRUPTIBILITY_STI : 0) | (cpu->blocking_mov_ss ? INTERRUPTIBILITY_MOV_SS : 0);
    o.level = (uint8_t)level;
    o.cpl = (uint8_t)cpu_cpl(cpu);
    memcpy(o.gpr, r->gpr, sizeof(o.gpr));
    // An instruction that is tried again (L0 filled something in) was observed already.
    const struct observation *last = trace->count > 0 ? &trace->entry[trace->count - 1] : NULL;
    if (last != NULL && last->rip == o.rip && last->level == o.level)
        return;
    if (trace->count == trace->room) {
        trace->room = trace->room ? 2 * trace->room : 256;
        trace->entry = realloc(trace->entry, trace->room * sizeof(*trace->entry));
    }
    memcpy(&trace->entry[trace->count++], &o, sizeof(o));
}

void machine_trace(struct machine *machine, struct trace *trace)
{
    machine->trace = trace;
}

void trace_free(struct trace *trace)
{
    free(trace->entry);
    *trace = (struct trace){0};
}

void cpu_step(struct hw_cpu *cpu)
{
    enum vmx_operation before = cpu->vmx;
    if (boundary_events(cpu))
        return;
    if (cpu->vmx != before)
        return;
    if (cpu->activity != ACTIVITY_ACTIVE) {
        model_wait(cpu, WAIT_IDLE);
        return;
    }
    uint64_t linear = fetch_address(cpu), physical;
    if ((linear & PAGE_MASK) != cpu->fetch_page) {
        if (cpu_in_64bit_code(cpu) && !is_canonical(linear)) {
            raise_exception_with_code(cpu, VECTOR_GP, 0);
            return;
        }
        if (!linear_to_physical(cpu, linear, ACCESS_EXECUTE, false, &physical))
            return;
        if (apic_is_access_page(cpu, physical)) {
            apic_access_exit(cpu, physical & (PAGE_SIZE - 1), APIC_FETCH);
            return;
        }
        cpu->fetch_page = linear & PAGE_MASK;
    }
    unsigned level;
    const struct op *op = find_operation(cpu, linear, &level);
    if (op == NULL)
        return;
    if (op->kind == OP_END) {
        model_wait(cpu, WAIT_END);
        return;
    }
    if (cpu->machine->trace != NULL)
        observe(cpu, level);
    if (cpu->machine->operations_left > 0 && --cpu->machine->operations_left == 0)
        rule_broken(cpu, OUT_OF_OPERATIONS);
    cpu->op_count++;
    cpu->tsc++;
    execute(cpu, op);
}

void instruction_retire(struct hw_cpu *cpu, const struct op *op)
{
    cpu->fed.op = NULL;
    cpu->r.rip += op_length(op);
    if (!cpu_in_64bit_code(cpu))
        cpu->r.rip &= 0xffffffff;
    if (cpu->r.rflags & RFLAGS_TF)
        cpu->pending_debug |= 1ull << 14; // BS
    cpu->r.rflags &= ~RFLAGS_RF;
    cpu->blocking_sti = cpu->blocking_mov_ss = false;
    cpu->nmi_unblocked_by_iret = false;
    cpu->handler_begins = false;
    if (cpu_has_primary(cpu, PRIMARY_MONITOR_TRAP_FLAG))
        cpu->mtf_pending = true;
}
