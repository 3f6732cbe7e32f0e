// SPDX-License-Identifier: MIT
// The micro-operations: which handler executes each, and those that need no file of their own.
// Manual: Instructions That Cause VM Exits; Changes to Instruction Behavior in VMX Non-Root Operation.
#include "model.h"
#include <string.h>

void cpu_set_pkru(struct hw_cpu *cpu, uint32_t value)
{
    cpu->r.pkru = value;
}

void cpu_cpuid(struct hw_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t result[4])
{
    // Numbers that can be recognised; the few bits that VMX software looks at are real.
    result[0] = leaf * 0x01010101u + subleaf;
    result[1] = 0xb0000000u | leaf;
    result[2] = 0xc0000000u | leaf;
    result[3] = 0xd0000000u | leaf;
    if (leaf == 0) {
        result[0] = 0xd;
        result[1] = 0x756e6547; // "GenuineIntel"
        result[3] = 0x49656e69;
        result[2] = 0x6c65746e;
    } else if (leaf == 1) {
        result[1] = cpu->index << 24;
        result[2] = 1u << 5 | 1u << 26 | (cpu->r.cr4 & CR4_OSXSAVE ? 1u << 27 : 0); // VMX, XSAVE, OSXSAVE
    } else if (leaf == 0x80000008) {
        result[0] = 0x3000u | cpu->machine->processor->physical_address_width;
    }
}

static void execute_cpuid(struct hw_cpu *cpu, const struct op *op)
{
    uint32_t result[4];
    cpu->r.gpr[GPR_RAX] = op->a;
    cpu->r.gpr[GPR_RCX] = op->b;
    if (cpu->vmx == VMX_NON_ROOT) {
        vm_exit_instruction(cpu, 10, op, 0);
        return;
    }
    cpu_cpuid(cpu, (uint32_t)op->a, (uint32_t)op->b, result);
    cpu->r.gpr[GPR_RAX] = result[0];
    cpu->r.gpr[GPR_RBX] = result[1];
    cpu->r.gpr[GPR_RCX] = result[2];
    cpu->r.gpr[GPR_RDX] = result[3];
    instruction_retire(cpu, op);
}

static bool msr_bitmap_exits(const struct hw_cpu *cpu, uint32_t msr, bool write)
{
    if (!(cpu->c.primary & PRIMARY_USE_MSR_BITMAPS))
        return true;
    uint64_t at = cpu->c.msr_bitmap + (write ? 2048 : 0);
    if (msr >= 0xc0000000 && msr <= 0xc0001fff)
        at += 1024;
    else if (msr > 0x1fff)
        return true;
    msr &= 0x1fff;
    return memory_read(cpu->machine, at + msr / 8, 1) >> (msr % 8) & 1;
}

static void execute_msr(struct hw_cpu *cpu, const struct op *op)
{
    bool write = op->kind == OP_WRMSR;
    uint32_t msr = (uint32_t)op->a;
    struct registers *r = &cpu->r;
    r->gpr[GPR_RCX] = op->a;
    if (write) {
        r->gpr[GPR_RAX] = (uint32_t)op->b;
        r->gpr[GPR_RDX] = op->b >> 32;
    }
    if (cpu_cpl(cpu) > 0) {
        raise_exception_with_code(cpu, VECTOR_GP, 0);
        return;
    }
    if (cpu->vmx == VMX_NON_ROOT && msr_bitmap_exits(cpu, msr, write)) {
        vm_exit_instruction(cpu, write ? 32 : 31, op, 0);
        return;
    }
    uint64_t value = op->b;
    bool by_apic = write ? apic_writes_msr(cpu, msr) : apic_reads_msr(cpu, msr, &value);
    bool done = by_apic ? !write || apic_msr_value_is_valid(msr, value)
                : write ? msr_write(cpu, msr, value)
                        : msr_read(cpu, msr, &value);
    if (!done) {
        raise_exception_with_code(cpu, VECTOR_GP, 0);
        return;
    }
    if (msr == 0x10 && !write)
        value = visible_tsc(cpu);
    if (!write) {
        r->gpr[GPR_RAX] = (uint32_t)value;
        r->gpr[GPR_RDX] = value >> 32;
    }
    instruction_retire(cpu, op);
    if (by_apic && write)
        apic_write_msr(cpu, msr, value);
}

// Changes to Instruction Behavior in VMX Non-Root Operation: RDTSC
uint64_t visible_tsc(const struct hw_cpu *cpu)
{
    if (cpu->vmx != VMX_NON_ROOT || !(cpu->c.primary & PRIMARY_USE_TSC_OFFSETTING))
        return cpu->tsc;
    return (uint64_t)((unsigned __int128)cpu->tsc * cpu->c.tsc_multiplier >> 48) + cpu->c.tsc_offset;
}

static void execute_memory(struct hw_cpu *cpu, const struct op *op)
{
    uint64_t value = op->b, physical;
    unsigned size = op->size ? op->size : 8;
    bool done;
    if (op->kind == OP_READ) {
        value = 0;
        done = guest_read(cpu, op->a, &value, size, false);
    } else if (op->kind == OP_WRITE) {
        done = guest_write(cpu, op->a, &value, size, false);
    } else {
        done = linear_to_physical(cpu, op->a, ACCESS_EXECUTE, false, &physical);
    }
    if (!done)
        return;
    if (op->kind == OP_READ)
        cpu->r.gpr[op->reg] = value;
    instruction_retire(cpu, op);
    if (cpu->apic_written >= 0)
        apic_emulate_write(cpu);
}

static void execute_interrupt(struct hw_cpu *cpu, const struct op *op)
{
    struct event event = {.valid = true, .instruction_length = op_length(op)};
    switch (op->kind) {
    case OP_INT3:
        event.type = EVENT_SOFTWARE_EXCEPTION;
        event.vector = VECTOR_BP;
        break;
    case OP_INTO: // with RFLAGS.OF set, and outside 64-bit mode
        event.type = EVENT_SOFTWARE_EXCEPTION;
        event.vector = 4;
        break;
    case OP_INT1:
        event.type = EVENT_PRIVILEGED_SOFTWARE;
        event.vector = VECTOR_DB;
        break;
    default:
        event.type = EVENT_SOFTWARE_INTERRUPT;
        event.vector = (uint8_t)op->a;
        event_deliver(cpu, event);
        return;
    }
    if (!exception_exits(cpu, &event))
        event_deliver(cpu, event);
}

static void unblock_nmis(struct hw_cpu *cpu)
{
    bool *blocking = &cpu->blocking_nmi;
    if (cpu_has_pin(cpu, PIN_VIRTUAL_NMIS))
        blocking = &cpu->blocking_virtual_nmi;
    else if (cpu_has_pin(cpu, PIN_NMI_EXITING))
        return; // IRET does not affect them then
    cpu->nmi_unblocked_by_iret = *blocking;
    *blocking = false;
}

// IRET to and from virtual-8086 mode is not modelled, and POPF leaves these flags alone.
static uint64_t popped_flags(uint64_t old, uint64_t popped)
{
    const uint64_t kept = RFLAGS_VM | 1ull << 19 | 1ull << 20; // VIF, VIP
    return (popped & 0x3f7fd7 & ~kept) | (old & kept) | RFLAGS_FIXED;
}

static void execute_iret(struct hw_cpu *cpu, const struct op *op)
{
    struct registers *r = &cpu->r;
    bool wide = cpu_in_long_mode(cpu), real = !(r->cr0 & CR0_PE);
    unsigned width = wide ? 8 : real ? 2 : 4, count = wide ? 5 : 3;
    uint64_t value[5] = {0};
    uint8_t frame[40];
    unblock_nmis(cpu);
    if ((r->rflags & RFLAGS_NT) && !real && !(r->rflags & RFLAGS_VM)) {
        task_return(cpu, op);
        return;
    }
    uint64_t stack = r->gpr[GPR_RSP] + (wide ? 0 : r->segment[SEGMENT_SS].base);
    if (!guest_read(cpu, stack, frame, width * count, false))
        return;
    for (unsigned i = 0; i < count; i++)
        memcpy(&value[i], frame + width * i, width);
    instruction_retire(cpu, op);
    r->rip = value[0];
    r->segment[SEGMENT_CS].selector = (uint16_t)value[1];
    r->rflags = popped_flags(r->rflags, value[2]);
    r->gpr[GPR_RSP] = wide ? value[3] : r->gpr[GPR_RSP] + (uint64_t)width * count;
    if (real)
        r->segment[SEGMENT_CS].base = value[1] << 4;
    if (wide) {
        unsigned cpl = value[1] & 3;
        r->segment[SEGMENT_CS].access_rights = 0xa09b | cpl << SEGMENT_DPL_SHIFT;
        r->segment[SEGMENT_SS] = (struct segment){.selector = (uint16_t)value[4],
                                                  .limit = 0xffffffff,
                                                  .access_rights = 0xc093 | cpl << SEGMENT_DPL_SHIFT};
    }
    cpu->fetch_page = NO_ADDRESS;
}

static void set_cpl(struct hw_cpu *cpu, unsigned cpl)
{
    struct segment *cs = &cpu->r.segment[SEGMENT_CS], *ss = &cpu->r.segment[SEGMENT_SS];
    if (!(cpu->r.cr0 & CR0_PE) || (cpu->r.rflags & RFLAGS_VM))
        return; // there are no others
    cs->access_rights = (cs->access_rights & ~0x60u) | cpl << SEGMENT_DPL_SHIFT;
    ss->access_rights = (ss->access_rights & ~0x60u) | cpl << SEGMENT_DPL_SHIFT;
    cs->selector = (uint16_t)((cs->selector & ~3u) | cpl);
    ss->selector = (uint16_t)((ss->selector & ~3u) | cpl);
    cpu->fetch_page = NO_ADDRESS;
}

static void execute_flags(struct hw_cpu *cpu, const struct op *op)
{
    uint64_t before = cpu->r.rflags;
    instruction_retire(cpu, op);
    switch (op->kind) {
    case OP_CLI:
        cpu->r.rflags &= ~RFLAGS_IF;
        break;
    case OP_STI:
        cpu->r.rflags |= RFLAGS_IF;
        cpu->blocking_sti = !(before & RFLAGS_IF);
        break;
    case OP_MOV_SS:
        cpu->blocking_mov_ss = true;
        break;
    default:
        cpu->r.rflags = popped_flags(cpu->r.rflags, op->a);
        break;
    }
}

// Operations that are a NOP to the program, and something to the processor.
static void execute_happening(struct hw_cpu *cpu, const struct op *op)
{
    instruction_retire(cpu, op);
    switch (op->kind) {
    case OP_SET:
        cpu->r.gpr[op->reg] = op->a;
        break;
    case OP_JUMP:
        cpu->r.rip = op->a;
        break;
    case OP_SET_CPL:
        set_cpl(cpu, (unsigned)op->a);
        break;
    case OP_COMPATIBILITY: {
        struct segment *cs = &cpu->r.segment[SEGMENT_CS];
        cs->access_rights &= ~(SEGMENT_L | SEGMENT_DB);
        cs->access_rights |= op->a ? SEGMENT_L : SEGMENT_DB;
        break;
    }
    case OP_INTERRUPT_ARRIVES:
        cpu_interrupt(cpu, (uint8_t)op->a);
        break;
    case OP_NMI_ARRIVES:
        cpu_nmi(cpu);
        break;
    case OP_INIT_ARRIVES:
        cpu_init_signal(cpu);
        break;
    case OP_SIPI_ARRIVES:
        cpu_startup_ipi(cpu, (uint8_t)op->a);
        break;
    case OP_TIME_PASSES:
        cpu->tsc += op->a;
        break;
    default:
        break;
    }
}

#define FUTURE_LIMIT 4

// Every member of the exit information is defined, so that the reason may be any: of an access to an address
// without memory. Executed again and again (an L0 that maps the address, say), it completes in the end.
static void execute_future(struct hw_cpu *cpu, const struct op *op)
{
    bool exits = cpu->vmx == VMX_NON_ROOT;
    if (!exits && !op->flag) {
        raise_exception(cpu, VECTOR_UD);
        return;
    }
    cpu->future_count = cpu->future_at == cpu->r.rip ? cpu->future_count + 1 : 0;
    cpu->future_at = cpu->r.rip;
    if (op->flag || cpu->future_count == FUTURE_LIMIT)
        instruction_retire(cpu, op);
    if (exits && cpu->future_count < FUTURE_LIMIT)
        vm_exit(cpu, &(struct exit_information){.reason = (uint32_t)op->a,
                                                .qualification = op->b,
                                                .has_length = !op->flag,
                                                .length = op_length(op),
                                                .has_info = true,
                                                .has_linear = true,
                                                .linear = 0x40000000,
                                                .has_physical = true,
                                                .physical = 0x40000000});
}

void execute(struct hw_cpu *cpu, const struct op *op)
{
    switch (op->kind) {
    case OP_CPUID:
        execute_cpuid(cpu, op);
        break;
    case OP_FUTURE:
        execute_future(cpu, op);
        break;
    case OP_RDMSR:
    case OP_WRMSR:
        execute_msr(cpu, op);
        break;
    case OP_IN:
    case OP_OUT:
    case OP_INS:
    case OP_OUTS:
        execute_io(cpu, op);
        break;
    case OP_READ:
    case OP_WRITE:
    case OP_FETCH:
        execute_memory(cpu, op);
        break;
    case OP_INT:
    case OP_INT3:
    case OP_INTO:
    case OP_INT1:
        execute_interrupt(cpu, op);
        break;
    case OP_UD2:
        raise_exception(cpu, VECTOR_UD);
        break;
    case OP_FAULT:
        if (op->flag)
            raise_exception_with_code(cpu, (uint8_t)op->a, (uint32_t)op->b);
        else
            raise_exception(cpu, (uint8_t)op->a);
        break;
    case OP_IRET:
        execute_iret(cpu, op);
        break;
    case OP_TASK_SWITCH:
        execute_task_switch(cpu, op);
        break;
    case OP_CLI:
    case OP_STI:
    case OP_MOV_SS:
    case OP_SET_FLAGS:
        execute_flags(cpu, op);
        break;
    case OP_MOV_TO_CR:
    case OP_MOV_FROM_CR:
    case OP_CLTS:
    case OP_LMSW:
    case OP_SMSW:
        execute_control_register(cpu, op);
        break;
    case OP_NOP:
    case OP_SET:
    case OP_JUMP:
    case OP_SET_CPL:
    case OP_COMPATIBILITY:
    case OP_INTERRUPT_ARRIVES:
    case OP_NMI_ARRIVES:
    case OP_INIT_ARRIVES:
    case OP_SIPI_ARRIVES:
    case OP_TIME_PASSES:
        execute_happening(cpu, op);
        break;
    default:
        if (op->kind >= OP_VMCALL)
            execute_vmx(cpu, op);
        else
            execute_system(cpu, op);
        break;
    }
}
