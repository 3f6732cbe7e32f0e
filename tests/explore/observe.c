// SPDX-License-Identifier: MIT
// What a guest can see at an instruction boundary, and what of it is undefined.
#include "explore.h"
#include <string.h>

#define SEGMENT_NAMES(what)                                                                                  \
    "ES " what, "CS " what, "SS " what, "DS " what, "FS " what, "GS " what, "LDTR " what, "TR " what

static const char *const names[SEEN_COUNT] = {
    "level",
    "RIP",
    "RFLAGS",
    "RAX",
    "RCX",
    "RDX",
    "RBX",
    "RSP",
    "RBP",
    "RSI",
    "RDI",
    "R8",
    "R9",
    "R10",
    "R11",
    "R12",
    "R13",
    "R14",
    "R15",
    "CR2",
    "CR0",
    "CR3",
    "CR4",
    "CR8",
    "DR7",
    "EFER",
    "PAT",
    "DEBUGCTL",
    "SYSENTER_CS",
    "SYSENTER_ESP",
    "SYSENTER_EIP",
    "GDTR base",
    "GDTR limit",
    "IDTR base",
    "IDTR limit",
    "blocking by STI or MOV SS",
    "CPL",
    "idle",
    SEGMENT_NAMES("selector"),
    SEGMENT_NAMES("base"),
    SEGMENT_NAMES("limit"),
    SEGMENT_NAMES("access rights"),
};

const char *seen_name(unsigned index)
{
    return names[index] != NULL ? names[index] : "?";
}

void seen_take(struct seen *seen, const struct hw_cpu *cpu, unsigned level, enum idleness idle)
{
    const struct registers *r = &cpu->r;
    uint64_t *v = seen->value;
    *v++ = level;
    if (idle == IDLE_IN_SHUTDOWN) // nobody is there to see anything (and L0 may run another state instead)
        return;
    *v++ = r->rip;
    *v++ = r->rflags & ~RFLAGS_RF;
    memcpy(v, r->gpr, sizeof(r->gpr));
    v += GPR_COUNT;
    *v++ = r->cr2;
    *v++ = visible_cr0(cpu);
    *v++ = r->cr3;
    *v++ = visible_cr4(cpu);
    *v++ = r->cr8;
    *v++ = r->dr7;
    *v++ = r->efer;
    *v++ = r->pat;
    *v++ = r->debugctl;
    *v++ = r->sysenter_cs;
    *v++ = r->sysenter_esp;
    *v++ = r->sysenter_eip;
    *v++ = r->gdtr_base;
    *v++ = r->gdtr_limit;
    *v++ = r->idtr_base;
    *v++ = r->idtr_limit;
    *v++ = (cpu->blocking_sti ? 1u : 0) | (cpu->blocking_mov_ss ? 2u : 0);
    *v++ = cpu_cpl(cpu);
    *v++ = idle;
    for (unsigned i = 0; i < SEGMENT_NAME_COUNT; i++, v++) {
        const struct segment *s = &r->segment[i];
        bool usable = !(s->access_rights & SEGMENT_UNUSABLE);
        v[0] = s->selector;
        v[SEGMENT_NAME_COUNT] = usable || i == SEGMENT_FS || i == SEGMENT_GS ? s->base : 0;
        v[2 * SEGMENT_NAME_COUNT] = usable ? s->limit : 0;
        v[3 * SEGMENT_NAME_COUNT] = usable ? s->access_rights : SEGMENT_UNUSABLE;
    }
}

// Four sums side by side: the multiplications overlap.
uint64_t seen_hash(const struct seen *seen)
{
    uint64_t sum[4] = {1, 2, 3, 4};
    for (unsigned i = 0; i < SEEN_COUNT; i += 4)
        for (unsigned lane = 0; lane < 4; lane++)
            sum[lane] = (sum[lane] ^ seen->value[i + lane]) * 0x9e3779b97f4a7c15ull;
    for (unsigned lane = 0; lane < 4; lane++)
        sum[lane] ^= sum[lane] >> 29;
    return ((sum[0] * 3 + sum[1]) * 5 + sum[2]) * 7 + sum[3];
}
_Static_assert(SEEN_COUNT % 4 == 0 && SEEN_COUNT >= 38 + 4 * SEGMENT_NAME_COUNT, "room for all that is seen");

// --- what is undefined

// The bits of a VMCS field that the last VM exit defined.
static uint64_t defined_bits(const struct hw_cpu *cpu, enum vmcs_field field, bool ambiguous_error)
{
    const uint64_t *vmcs = cpu->current->data.field;
    uint64_t value = vmcs[field];
    if (value == model_poison(cpu->machine, cpu->current->region, field))
        return 0;
    if (field >= F_GUEST_ES_BASE && field <= F_GUEST_TR_BASE && field != F_GUEST_FS_BASE &&
        field != F_GUEST_GS_BASE &&
        (vmcs[F_GUEST_ES_ACCESS_RIGHTS + field - F_GUEST_ES_BASE] & SEGMENT_UNUSABLE))
        return 0;
    switch (field) {
    case F_VM_EXIT_INTERRUPTION_INFO:
    case F_IDT_VECTORING_INFO:
        return value & INTERRUPTION_VALID ? ~0ull : 0;
    case F_EXIT_QUALIFICATION: // without advanced exit information
        return (vmcs[F_EXIT_REASON] & EXIT_REASON_BASIC_MASK) == 48 ? 0x1bf : ~0ull;
    case F_VM_INSTRUCTION_ERROR:
        return ambiguous_error ? 0 : ~0ull;
    case F_PREEMPTION_TIMER_VALUE:
        return 0;
    case F_GUEST_INTERRUPTIBILITY: // without virtual NMIs IRET ends no blocking while L0 has NMI exiting
        return capability_allowed1(world->config.processor, WORD_PIN) & PIN_VIRTUAL_NMIS
                   ? ~0ull
                   : ~(uint64_t)INTERRUPTIBILITY_NMI;
    case F_GUEST_RFLAGS: // an exit of L2 that L0 keeps to itself may have set RF
        return ~RFLAGS_RF;
    default:
        return ~0ull;
    }
}

struct undefined undefined_after(const struct hw_cpu *cpu, const struct op *op, bool ambiguous_error)
{
    struct undefined undefined = {.keep = 0};
    if (op->kind == OP_RDTSC || op->kind == OP_RDTSCP || (op->kind == OP_RDMSR && op->a == 0x10)) {
        undefined.registers = 1u << GPR_RAX | 1u << GPR_RDX;
    } else if (op->kind == OP_CPUID && op->a == 1) { // which processor
        undefined.registers = 1u << GPR_RBX;
    } else if (op->kind == OP_VMREAD && cpu->vmx == VMX_ROOT && cpu->current != NULL) {
        bool high;
        enum vmcs_field field = model_field_find(cpu->machine, op->a, &high);
        if (field == F_COUNT)
            return undefined;
        undefined.keep = defined_bits(cpu, field, ambiguous_error) >> (high ? 32 : 0);
        if (undefined.keep == ~0ull >> (high ? 32 : 0))
            return undefined;
        if (op->in_memory)
            undefined.address = (uint64_t)op->memory.displacement;
        else
            undefined.registers = (uint16_t)(1u << op->reg);
    }
    return undefined;
}
