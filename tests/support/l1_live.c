// SPDX-License-Identifier: MIT
// L1 typed by hand: one instruction at a time, and how each ended.
#include "world_internal.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define EXIT_PAD      (L1_PADS + 0x1000)
#define HANDLER_PAD   L1_PADS // + 16 a vector
#define CODE_SIZE     0x40000
#define SELECTOR_CODE 0x08

static void put(uint64_t address, uint64_t value, unsigned size)
{
    memcpy(l1_memory(address), &value, size);
}

// --- what L1 has in its memory when it starts

// Linear addresses are physical ones: 16 MBytes by 2-MByte pages.
static void build_page_tables(void)
{
    put(L1_PAGE_TABLES, (L1_PAGE_TABLES + 0x1000) | 7, 8);
    put(L1_PAGE_TABLES + 0x1000, (L1_PAGE_TABLES + 0x2000) | 7, 8);
    for (uint64_t at = 0; at < L1_RAM_SIZE; at += 0x200000)
        put(L1_PAGE_TABLES + 0x2000 + 8 * (at >> 21), at | 0x87, 8);
}

static void build_idt(void)
{
    for (unsigned vector = 0; vector < 256; vector++) {
        uint64_t handler = HANDLER_PAD + 16 * vector;
        uint64_t low =
            (handler & 0xffff) | SELECTOR_CODE << 16 | 0xeeull << 40 | (handler >> 16 & 0xffff) << 48;
        put(L1_IDT + 16 * vector, low, 8);
        put(L1_IDT + 16 * vector + 8, handler >> 32, 8);
    }
}

static void build_idt_32(void)
{
    for (unsigned vector = 0; vector < 256; vector++) {
        uint64_t handler = HANDLER_PAD + 16 * vector;
        put(L1_IDT_32 + 8 * vector,
            (handler & 0xffff) | SELECTOR_CODE << 16 | 0x8eull << 40 | (handler >> 16 & 0xffff) << 48, 8);
    }
}

static uint64_t stack_of(const struct virtual_processor *p)
{
    return L1_STACK + 0x1000 * (uint64_t)(p->index + 1);
}

static uint64_t tss_of(const struct virtual_processor *p)
{
    return L1_TSS + 0x100 * (uint64_t)p->index;
}

void l1_begin(struct virtual_processor *p)
{
    if (p->index == 0) {
        build_page_tables();
        build_idt();
        build_idt_32();
    }
    put(tss_of(p) + 4, stack_of(p) - 0x800, 8); // RSP0
}

void l1_start_state(const struct virtual_processor *p, struct registers *r)
{
    *r = machine_cpu(world->machine, p->index)->r;
    r->cr4 = CR4_PAE;
    r->cr3 = L1_PAGE_TABLES;
    r->rip = p->next;
    r->gpr[GPR_RSP] = stack_of(p);
    r->idtr_base = L1_IDT;
    r->idtr_limit = 0xfff;
    r->segment[SEGMENT_TR].base = tss_of(p);
}

// --- one instruction

const char *how_name(enum how how)
{
    static const char *const names[] = {"completed", "raised an exception", "ended in a VM exit to L1",
                                        "left the processor idle", "let L2 run to its program's end"};
    return names[how];
}

void l1_use_vcpu(unsigned vcpu)
{
    world->self = &world->processor[vcpu];
}

unsigned l1_vcpu(void)
{
    return world->self->index;
}

struct hw_cpu *l1_cpu(void)
{
    return world->self->cpu;
}

uint64_t l1_gpr(enum nvmx_gpr reg)
{
    return world->self->cpu->r.gpr[reg];
}

void l1_set_gpr(enum nvmx_gpr reg, uint64_t value)
{
    world->self->cpu->r.gpr[reg] = value;
}

unsigned l1_nmi_count(void)
{
    return world->self->nmi_count;
}

uint64_t l1_cr2(void)
{
    return world->self->cpu->r.cr2;
}

uint64_t l1_rflags(void)
{
    return world->self->cpu->r.rflags;
}

static uint64_t take_address(struct virtual_processor *p)
{
    uint64_t base = L1_CODE + CODE_SIZE * (uint64_t)p->index;
    uint64_t at = p->next;
    p->next = at + 32 < base + CODE_SIZE - 16 ? at + 32 : base;
    return at;
}

// Arms `op` where L1 is (a pad, or behind its last instruction) and runs. The pads jump to fresh addresses.
static uint64_t arm(struct virtual_processor *p, struct op op)
{
    uint64_t at = take_address(p);
    p->cpu->r.rip = at;
    p->cpu->fetch_page = NO_ADDRESS;
    p->live->op = op;
    p->live->at = at;
    p->live->armed = true;
    return at;
}

static bool is_handler(uint64_t rip)
{
    return rip >= HANDLER_PAD && rip < HANDLER_PAD + 0x1000;
}

// The exception's handler: remembers the error code, and returns.
static struct outcome handle_exception(struct virtual_processor *p)
{
    struct registers *r = &p->cpu->r;
    struct outcome outcome = {.how = EXCEPTION, .vector = (uint8_t)((r->rip - HANDLER_PAD) / 16)};
    uint64_t stack = r->gpr[GPR_RSP];
    unsigned width = cpu_in_long_mode(p->cpu) ? 8 : 4;
    bool nmi = outcome.vector == VECTOR_NMI;
    p->nmi_count += nmi;
    if (!nmi && vector_pushes_error_code(outcome.vector)) {
        memcpy(&outcome.error_code, l1_memory(stack), 4);
        stack += width;
        r->gpr[GPR_RSP] = stack;
    }
    uint64_t to = take_address(p);
    put(stack, to, width);
    arm(p, OP(.kind = OP_IRET));
    world_resume();
    p->live->armed = false;
    if (p->why == WAIT_LIVE && is_handler(p->cpu->r.rip)) // the next one waited for this IRET
        return handle_exception(p);
    if (p->why != WAIT_LIVE || p->cpu->r.rip != to)
        rule_broken(p->cpu, "L1's handler of vector %u did not return: RIP %#llx", outcome.vector,
                    (unsigned long long)p->cpu->r.rip);
    return outcome;
}

static struct outcome where_it_ended(struct virtual_processor *p)
{
    const struct registers *r = &p->cpu->r;
    if (p->why == WAIT_IDLE)
        return (struct outcome){.how = IDLE};
    if (p->why == WAIT_END)
        return (struct outcome){.how = L2_AT_END};
    bool was_armed = p->live->armed;
    uint64_t behind = p->live->at + op_length(&p->live->op);
    p->live->armed = false;
    if (r->rip == EXIT_PAD)
        return (struct outcome){.how = EXITED};
    if (is_handler(r->rip))
        return handle_exception(p);
    if (was_armed && r->rip != behind)
        rule_broken(p->cpu, "L1's %s at %#llx takes %u bytes, and L1 goes on at %#llx",
                    op_name(p->live->op.kind), (unsigned long long)p->live->at, op_length(&p->live->op),
                    (unsigned long long)r->rip);
    return (struct outcome){.how = COMPLETED, .cf = r->rflags & RFLAGS_CF, .zf = r->rflags & RFLAGS_ZF};
}

void l1_start(struct op op)
{
    arm(world->self, op);
    world_resume();
}

struct outcome l1_execute(struct op op)
{
    struct virtual_processor *p = world->self;
    if (p->why != WAIT_LIVE)
        rule_broken(p->cpu, "the test gives L1 an instruction, and L1 is not waiting for one");
    arm(p, op);
    world_resume();
    return where_it_ended(p);
}

struct outcome l1_continue(void)
{
    world_resume();
    return where_it_ended(world->self);
}

void l1_run(struct op op)
{
    struct outcome outcome = l1_execute(op);
    if (outcome.how != COMPLETED)
        fail_msg("%s %s (vector %u)", op_name(op.kind), how_name(outcome.how), outcome.vector);
}
