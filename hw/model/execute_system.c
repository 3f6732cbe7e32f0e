// SPDX-License-Identifier: MIT
// The remaining instructions that a hypervisor may intercept: each with the condition for its VM exit.
// Manual: Instructions That Cause VM Exits Unconditionally; ... Conditionally.
#include "model.h"

static bool fault_gp(struct hw_cpu *cpu)
{
    raise_exception_with_code(cpu, VECTOR_GP, 0);
    return false;
}

static bool fault_ud(struct hw_cpu *cpu)
{
    raise_exception(cpu, VECTOR_UD);
    return false;
}

// An instruction whose 1-setting of `control` makes it exit for `reason`; else it does nothing here.
static void exit_or_nop(struct hw_cpu *cpu, const struct op *op, bool exits, uint32_t reason)
{
    if (exits)
        vm_exit_instruction(cpu, reason, op, 0);
    else
        instruction_retire(cpu, op);
}

// Changes to Instruction Behavior in VMX Non-Root Operation (PAUSE): PAUSEs at CPL 0 that are not further
// apart than PLE_Gap are a loop, which may last PLE_Window.
static bool pause_exits(struct hw_cpu *cpu)
{
    if (cpu_has_primary(cpu, PRIMARY_PAUSE_EXITING))
        return true;
    if (!cpu_has_secondary(cpu, SECONDARY_PAUSE_LOOP_EXITING) || cpu_cpl(cpu) > 0)
        return false;
    if (!cpu->pause_seen || cpu->tsc - cpu->pause_last > cpu->c.ple_gap)
        cpu->pause_first = cpu->tsc;
    cpu->pause_seen = true;
    cpu->pause_last = cpu->tsc;
    return cpu->tsc - cpu->pause_first > cpu->c.ple_window;
}

static void halt(struct hw_cpu *cpu, const struct op *op)
{
    if (cpu_has_primary(cpu, PRIMARY_HLT_EXITING)) {
        vm_exit_instruction(cpu, 12, op, 0);
        return;
    }
    instruction_retire(cpu, op);
    cpu->activity = ACTIVITY_HLT;
}

static void read_tsc(struct hw_cpu *cpu, const struct op *op)
{
    bool with_aux = op->kind == OP_RDTSCP;
    bool non_root = cpu->vmx == VMX_NON_ROOT;
    if (with_aux && non_root && !cpu_has_secondary(cpu, SECONDARY_ENABLE_RDTSCP)) {
        fault_ud(cpu);
        return;
    }
    if (cpu_has_primary(cpu, PRIMARY_RDTSC_EXITING)) {
        vm_exit_instruction(cpu, with_aux ? 51 : 16, op, 0);
        return;
    }
    uint64_t value = visible_tsc(cpu), aux = 0;
    cpu->r.gpr[GPR_RAX] = (uint32_t)value;
    cpu->r.gpr[GPR_RDX] = value >> 32;
    if (with_aux) {
        msr_read(cpu, 0xc0000103, &aux);
        cpu->r.gpr[GPR_RCX] = (uint32_t)aux;
    }
    instruction_retire(cpu, op);
}

static void invalidate_page(struct hw_cpu *cpu, const struct op *op)
{
    if (cpu_has_primary(cpu, PRIMARY_INVLPG_EXITING)) {
        vm_exit_instruction(cpu, 14, op, op->a);
        return;
    }
    tlb_flush_linear_page(cpu, tlb_vpid(cpu), op->a & PAGE_MASK);
    instruction_retire(cpu, op);
}

static void exit_with_operand(struct hw_cpu *cpu, const struct op *op, uint32_t reason, uint32_t info)
{
    vm_exit(cpu, &(struct exit_information){.reason = reason,
                                            .qualification = operand_displacement(cpu, op),
                                            .has_length = true,
                                            .length = op_length(op),
                                            .has_info = true,
                                            .info = info});
}

static void invalidate_pcid(struct hw_cpu *cpu, const struct op *op)
{
    if (cpu->vmx == VMX_NON_ROOT && !cpu_has_secondary(cpu, SECONDARY_ENABLE_INVPCID)) {
        fault_ud(cpu);
        return;
    }
    if (cpu_has_primary(cpu, PRIMARY_INVLPG_EXITING)) {
        exit_with_operand(cpu, op, 58, operand_information(op));
        return;
    }
    uint64_t address, descriptor[2], type = cpu->r.gpr[op->reg2];
    if (!operand_address(cpu, op, &address) || !guest_read(cpu, address, descriptor, 16, false))
        return;
    if (type > 3 || descriptor[0] >> 12) {
        fault_gp(cpu);
        return;
    }
    if (type == 0)
        tlb_flush_linear_page(cpu, tlb_vpid(cpu), descriptor[1] & PAGE_MASK);
    else
        tlb_flush_linear(cpu, tlb_vpid(cpu), type == 1 ? (int)descriptor[0] : -1, type != 3);
    instruction_retire(cpu, op);
}

// RDRAND, RDSEED: the destination register is in bits 6:3 of the instruction information, its size in 12:11.
static void random_number(struct hw_cpu *cpu, const struct op *op)
{
    bool seed = op->kind == OP_RDSEED;
    if (cpu_has_secondary(cpu, seed ? SECONDARY_RDSEED_EXITING : SECONDARY_RDRAND_EXITING)) {
        vm_exit(cpu, &(struct exit_information){.reason = seed ? 61 : 57,
                                                .has_length = true,
                                                .length = op_length(op),
                                                .has_info = true,
                                                .info = (uint32_t)op->reg << 3 | 2u << 11});
        return;
    }
    cpu->r.gpr[op->reg] = 0x5eed;
    cpu->r.rflags |= RFLAGS_CF;
    instruction_retire(cpu, op);
}

static void set_extended_control(struct hw_cpu *cpu, const struct op *op)
{
    cpu->r.gpr[GPR_RCX] = op->a;
    cpu->r.gpr[GPR_RAX] = (uint32_t)op->b;
    cpu->r.gpr[GPR_RDX] = op->b >> 32;
    if (!(cpu->r.cr4 & CR4_OSXSAVE)) {
        fault_ud(cpu);
        return;
    }
    bool exits = cpu->vmx == VMX_NON_ROOT;
    if (cpu_cpl(cpu) > 0 && !(exits && cpu->machine->config.exits_before_cpl)) {
        fault_gp(cpu);
        return;
    }
    if (exits) {
        vm_exit_instruction(cpu, 55, op, 0);
        return;
    }
    if (op->a != 0 || !(op->b & 1))
        fault_gp(cpu);
    else
        instruction_retire(cpu, op);
}

static void save_extended_state(struct hw_cpu *cpu, const struct op *op)
{
    bool disabled = cpu->vmx == VMX_NON_ROOT && !cpu_has_secondary(cpu, SECONDARY_ENABLE_XSAVES);
    if (disabled || !(cpu->r.cr4 & CR4_OSXSAVE)) {
        fault_ud(cpu);
        return;
    }
    cpu->r.gpr[GPR_RAX] = (uint32_t)op->b;
    cpu->r.gpr[GPR_RDX] = op->b >> 32;
    uint64_t xss = 0;
    msr_read(cpu, MSR_XSS, &xss);
    if (cpu->vmx == VMX_NON_ROOT && (op->b & xss & vmcs_get(cpu, F_XSS_EXITING_BITMAP)))
        exit_with_operand(cpu, op, op->kind == OP_XSAVES ? 63 : 64, operand_information(op) & 0x0fffffff);
    else
        instruction_retire(cpu, op); // the state itself is not modelled
}

static void debug_register(struct hw_cpu *cpu, const struct op *op)
{
    bool from = op->kind == OP_MOV_FROM_DR;
    if (!from)
        cpu->r.gpr[op->reg] = op->a;
    // The exit comes before the fault that is based on CPL, as of no other instruction.
    if (cpu_has_primary(cpu, PRIMARY_MOV_DR_EXITING)) {
        vm_exit_instruction(cpu, 29, op, (op->b & 7) | (uint64_t)from << 4 | (uint64_t)op->reg << 8);
        return;
    }
    if (cpu_cpl(cpu) > 0) {
        fault_gp(cpu);
        return;
    }
    uint64_t *dr = op->b == 7 ? &cpu->r.dr7 : op->b == 6 ? &cpu->r.dr6 : &cpu->r.dr[op->b & 3];
    if (from)
        cpu->r.gpr[op->reg] = *dr;
    else
        *dr = op->b == 7 ? (uint32_t)op->a | 0x400 : op->a;
    instruction_retire(cpu, op);
}

// Instruction information of the descriptor-table instructions: which of the four is in bits 29:28.
static void descriptor_table(struct hw_cpu *cpu, const struct op *op)
{
    struct registers *r = &cpu->r;
    bool loads = op->kind == OP_LGDT || op->kind == OP_LIDT || op->kind == OP_LLDT || op->kind == OP_LTR;
    bool system = op->kind >= OP_SLDT; // LDTR and TR
    if (loads && cpu_cpl(cpu) > 0) {
        fault_gp(cpu);
        return;
    }
    if (cpu_has_secondary(cpu, SECONDARY_DESCRIPTOR_TABLE_EXITING)) {
        static const uint8_t identity[] = {0, 1, 2, 3, 0, 1, 2, 3}; // SGDT SIDT LGDT LIDT, SLDT STR LLDT LTR
        uint32_t info = operand_information(op) & 0x0fffffff;
        exit_with_operand(cpu, op, system ? 47 : 46, info | (uint32_t)identity[op->kind - OP_SGDT] << 28);
        return;
    }
    if (system) {
        struct segment *s =
            &r->segment[op->kind == OP_SLDT || op->kind == OP_LLDT ? SEGMENT_LDTR : SEGMENT_TR];
        uint16_t selector = (uint16_t)r->gpr[op->reg];
        if (loads &&
            ((selector & 4) || (op->kind == OP_LTR && selector < 4))) { // must be in the GDT; TR not null
            raise_exception_with_code(cpu, VECTOR_GP, selector & ~3u);
            return;
        }
        if (loads)
            s->selector = selector;
        else
            r->gpr[op->reg] = s->selector;
        instruction_retire(cpu, op);
        return;
    }
    bool gdt = op->kind == OP_SGDT || op->kind == OP_LGDT;
    uint64_t address, *base = gdt ? &r->gdtr_base : &r->idtr_base;
    uint32_t *limit = gdt ? &r->gdtr_limit : &r->idtr_limit;
    uint8_t image[10] = {(uint8_t)*limit, (uint8_t)(*limit >> 8)};
    for (unsigned i = 0; i < 8; i++)
        image[2 + i] = (uint8_t)(*base >> (8 * i));
    if (!operand_address(cpu, op, &address))
        return;
    if (!(loads ? guest_read(cpu, address, image, 10, false) : guest_write(cpu, address, image, 10, false)))
        return;
    uint64_t loaded = 0;
    for (unsigned i = 0; i < 8; i++)
        loaded |= (uint64_t)image[2 + i] << (8 * i);
    if (!cpu_in_64bit_code(cpu))
        loaded &= 0xffffffff;
    if (!is_canonical(loaded)) {
        fault_gp(cpu);
        return;
    }
    *limit = (uint32_t)(image[0] | image[1] << 8);
    *base = loaded;
    instruction_retire(cpu, op);
}

static bool needs_privilege(enum op_kind kind)
{
    return kind == OP_HLT || kind == OP_INVD || kind == OP_WBINVD || kind == OP_INVLPG ||
           kind == OP_INVPCID || kind == OP_XSAVES || kind == OP_XRSTORS || kind == OP_RDPMC;
}

void execute_system(struct hw_cpu *cpu, const struct op *op)
{
    if (needs_privilege(op->kind) && cpu_cpl(cpu) > 0) {
        fault_gp(cpu);
        return;
    }
    switch (op->kind) {
    case OP_HLT:
        halt(cpu, op);
        break;
    case OP_PAUSE:
        exit_or_nop(cpu, op, pause_exits(cpu), 40);
        break;
    case OP_RDTSC:
    case OP_RDTSCP:
        read_tsc(cpu, op);
        break;
    case OP_RDPMC:
        cpu->r.gpr[GPR_RCX] = op->a;
        if (!cpu_has_primary(cpu, PRIMARY_RDPMC_EXITING))
            cpu->r.gpr[GPR_RAX] = cpu->r.gpr[GPR_RDX] = 0;
        exit_or_nop(cpu, op, cpu_has_primary(cpu, PRIMARY_RDPMC_EXITING), 15);
        break;
    case OP_INVLPG:
        invalidate_page(cpu, op);
        break;
    case OP_INVPCID:
        invalidate_pcid(cpu, op);
        break;
    case OP_INVD:
        exit_or_nop(cpu, op, cpu->vmx == VMX_NON_ROOT, 13);
        break;
    case OP_WBINVD:
        exit_or_nop(cpu, op, cpu_has_secondary(cpu, SECONDARY_WBINVD_EXITING), 54);
        break;
    case OP_MONITOR:
    case OP_MWAIT:
        if (cpu_cpl(cpu) > 0)
            fault_ud(cpu);
        else if (op->kind == OP_MONITOR)
            exit_or_nop(cpu, op, cpu_has_primary(cpu, PRIMARY_MONITOR_EXITING), 39);
        else
            exit_or_nop(cpu, op, cpu_has_primary(cpu, PRIMARY_MWAIT_EXITING), 36);
        break;
    case OP_XSETBV:
        set_extended_control(cpu, op);
        break;
    case OP_RDRAND:
    case OP_RDSEED:
        random_number(cpu, op);
        break;
    case OP_XSAVES:
    case OP_XRSTORS:
        save_extended_state(cpu, op);
        break;
    case OP_GETSEC:
        if (!(cpu->r.cr4 & CR4_SMXE))
            fault_ud(cpu);
        else
            exit_or_nop(cpu, op, cpu->vmx == VMX_NON_ROOT, 11);
        break;
    case OP_RSM:   // outside SMM
    case OP_ENCLS: // there is no SGX
        fault_ud(cpu);
        break;
    case OP_VMFUNC:
        execute_vm_function(cpu, op);
        break;
    case OP_MOV_TO_DR:
    case OP_MOV_FROM_DR:
        debug_register(cpu, op);
        break;
    default:
        descriptor_table(cpu, op);
        break;
    }
}
