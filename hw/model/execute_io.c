// SPDX-License-Identifier: MIT
// IN, OUT, INS and OUTS. A port holds what was last written to it.
// Manual: Instructions That Cause VM Exits Conditionally; Exit Qualification for I/O Instructions.
#include "model.h"

#define TSS_IO_MAP_BASE 0x66u

static bool bitmap_has(const struct hw_cpu *cpu, unsigned port)
{
    uint64_t bitmap = port < 0x8000 ? cpu->c.io_bitmap_a : cpu->c.io_bitmap_b;
    return memory_read(cpu->machine, bitmap + (port & 0x7fff) / 8, 1) >> (port & 7) & 1;
}

static bool port_exits(const struct hw_cpu *cpu, unsigned port, unsigned size)
{
    if (cpu->vmx != VMX_NON_ROOT)
        return false;
    if (!(cpu->c.primary & PRIMARY_USE_IO_BITMAPS))
        return cpu->c.primary & PRIMARY_UNCONDITIONAL_IO_EXITING;
    for (unsigned i = 0; i < size; i++)
        if (port + i > 0xffff || bitmap_has(cpu, port + i)) // wrapping around exits, too
            return true;
    return false;
}

// I/O Permission Bit Map: two bytes of the TSS, beyond whose limit every port is closed. false: #GP, or
// whatever the access to the TSS came to.
static bool tss_permits(struct hw_cpu *cpu, unsigned port, unsigned size)
{
    const struct segment *tr = &cpu->r.segment[SEGMENT_TR];
    uint16_t base, bits = 0xffff;
    if (tr->limit >= TSS_IO_MAP_BASE + 1) {
        if (!guest_read(cpu, tr->base + TSS_IO_MAP_BASE, &base, 2, true))
            return false;
        unsigned at = base + port / 8u;
        if (at + 1 <= tr->limit && !guest_read(cpu, tr->base + at, &bits, 2, true))
            return false;
    }
    if (!(bits >> (port & 7) & ((1u << size) - 1)))
        return true;
    raise_exception_with_code(cpu, VECTOR_GP, 0);
    return false;
}

// An element goes through ES or DS, at the address size of the code segment.
static struct memory_operand element_of(const struct hw_cpu *cpu, bool in)
{
    return (struct memory_operand){.base = in ? GPR_RDI : GPR_RSI,
                                   .index = NO_REGISTER,
                                   .segment = in ? SEGMENT_ES : SEGMENT_DS,
                                   .address_size = cpu_in_64bit_code(cpu) ? 64 : 32};
}

static void string_exit(struct hw_cpu *cpu, const struct op *op, uint64_t qualification, bool in)
{
    struct memory_operand m = element_of(cpu, in);
    bool wide = cpu_in_64bit_code(cpu);
    uint64_t linear = cpu->r.gpr[m.base] + (wide ? 0 : cpu->r.segment[m.segment].base);
    struct exit_information x = {
        .reason = 30,
        .qualification = qualification | 1 << 4 | (uint64_t)op->flag << 5,
        .has_length = true,
        .length = op_length(op),
        .has_linear = true,
        .linear = wide ? linear : linear & 0xffffffff,
        .has_info = true,
        .info = (wide ? 2u : 1u) << 7 | (in ? 0u : (uint32_t)SEGMENT_DS << 15),
    };
    vm_exit(cpu, &x);
}

// The address of the element, with what segments, alignment and INS's write say of it. false: an exception.
static bool element_address(struct hw_cpu *cpu, bool in, unsigned size, uint64_t *linear)
{
    struct op op = {.in_memory = true, .memory = element_of(cpu, in)};
    const struct segment *s = &cpu->r.segment[op.memory.segment];
    bool read_only = !(s->access_rights & 2) || (s->access_rights & 8);
    if (!cpu_in_64bit_code(cpu) &&
        ((in && read_only) || (uint32_t)cpu->r.gpr[op.memory.base] + (uint64_t)size - 1 > s->limit)) {
        raise_exception_with_code(cpu, VECTOR_GP, 0);
        return false;
    }
    if (!operand_address(cpu, &op, linear))
        return false;
    if (*linear % size && cpu_cpl(cpu) == 3 && (cpu->r.cr0 & CR0_AM) && (cpu->r.rflags & RFLAGS_AC)) {
        raise_exception_with_code(cpu, VECTOR_AC, 0);
        return false;
    }
    return true;
}

// false: REP has elements left, and the instruction is executed again.
static bool element_done(struct hw_cpu *cpu, const struct op *op, bool in, unsigned size)
{
    uint64_t mask = cpu_in_64bit_code(cpu) ? ~0ull : 0xffffffff, *gpr = cpu->r.gpr;
    uint64_t *index = &gpr[in ? GPR_RDI : GPR_RSI];
    *index = (*index + (cpu->r.rflags & RFLAGS_DF ? 0 - (uint64_t)size : size)) & mask;
    if (!op->flag)
        return true;
    gpr[GPR_RCX] = (gpr[GPR_RCX] - 1) & mask;
    return !gpr[GPR_RCX];
}

void execute_io(struct hw_cpu *cpu, const struct op *op)
{
    struct registers *r = &cpu->r;
    bool string = op->kind == OP_INS || op->kind == OP_OUTS;
    bool in = op->kind == OP_IN || op->kind == OP_INS;
    unsigned port = op->a & 0xffff, size = op->size ? op->size : 1;
    uint8_t *ports = cpu->machine->port;
    r->gpr[GPR_RDX] = port;
    if (op->kind == OP_OUT)
        r->gpr[GPR_RAX] = op->b;
    if (string && op->b) // or where the registers point, which REP moves on
        r->gpr[in ? GPR_RDI : GPR_RSI] = op->b;
    bool by_bitmap = (r->cr0 & CR0_PE) && ((r->rflags & RFLAGS_VM) || cpu_cpl(cpu) > (r->rflags >> 12 & 3));
    if (by_bitmap && !tss_permits(cpu, port, size))
        return;
    if (port_exits(cpu, port, size)) {
        uint64_t qualification = (size - 1) | (uint64_t)in << 3 | (uint64_t)port << 16;
        if (string)
            string_exit(cpu, op, qualification, in);
        else
            vm_exit_instruction(cpu, 30, op, qualification);
        return;
    }
    uint64_t value = op->kind == OP_OUT ? op->b : 0;
    uint64_t linear = 0;
    if (string && op->flag && !(r->gpr[GPR_RCX] & (cpu_in_64bit_code(cpu) ? ~0ull : 0xffffffff))) {
        instruction_retire(cpu, op);
        return;
    }
    if (string && !element_address(cpu, in, size, &linear))
        return;
    if (op->kind == OP_OUTS && !guest_read(cpu, linear, &value, size, false))
        return;
    for (unsigned i = 0; i < size; i++) {
        uint8_t *at = &ports[(port + i) & 0xffff];
        if (in)
            value |= (uint64_t)*at << (8 * i);
        else
            *at = (uint8_t)(value >> (8 * i));
    }
    if (op->kind == OP_INS && !guest_write(cpu, linear, &value, size, false))
        return;
    if (string && !element_done(cpu, op, in, size))
        return;
    if (op->kind == OP_IN) {
        uint64_t mask = size == 4 ? ~0ull : (1ull << (8 * size)) - 1; // a 32-bit result clears bits 63:32
        r->gpr[GPR_RAX] = (r->gpr[GPR_RAX] & ~mask) | value;
    }
    instruction_retire(cpu, op);
}
