// SPDX-License-Identifier: MIT
// The VMX instructions as instructions: who may execute them, their operands, and their VM exits in non-root
// operation. What they do in root operation is in vmx_instructions.c and entry.c.
// Manual: VMX Instruction Reference; Instruction-Information Field.
#include "model.h"

static void fault_ud(struct hw_cpu *cpu)
{
    raise_exception(cpu, VECTOR_UD);
}

static void fault_gp(struct hw_cpu *cpu)
{
    raise_exception_with_code(cpu, VECTOR_GP, 0);
}

// --- operands

static uint64_t width_mask(const struct op *op)
{
    return op->memory.address_size >= 64 ? ~0ull : (1ull << op->memory.address_size) - 1;
}

// The linear address of the memory operand. false: #GP or #SS was raised.
bool operand_address(struct hw_cpu *cpu, const struct op *op, uint64_t *linear)
{
    const struct memory_operand *m = &op->memory;
    const struct segment *s = &cpu->r.segment[m->segment];
    uint64_t address = (uint64_t)m->displacement;
    if (m->base != NO_REGISTER)
        address += cpu->r.gpr[m->base];
    if (m->index != NO_REGISTER)
        address += cpu->r.gpr[m->index] << m->scale;
    address &= width_mask(op);
    uint8_t vector = m->segment == SEGMENT_SS ? VECTOR_SS : VECTOR_GP;
    if (cpu_in_64bit_code(cpu)) {
        if (m->segment == SEGMENT_FS || m->segment == SEGMENT_GS)
            address += s->base;
        if (!is_canonical(address)) {
            raise_exception_with_code(cpu, vector, 0);
            return false;
        }
    } else {
        if ((s->access_rights & SEGMENT_UNUSABLE) || address > s->limit) {
            raise_exception_with_code(cpu, vector, 0);
            return false;
        }
        address = (address + s->base) & 0xffffffff;
    }
    *linear = address;
    return true;
}

static uint64_t operand_poison(void)
{
    return 0xa5a5a5a5a5a5a5a5;
}

// The displacement, sign-extended; above the address size it is undefined.
uint64_t operand_displacement(const struct hw_cpu *cpu, const struct op *op)
{
    (void)cpu;
    if (!op->in_memory)
        return 0;
    return ((uint64_t)op->memory.displacement & width_mask(op)) | (operand_poison() & ~width_mask(op));
}

// Formats of the instruction-information field agree on this much; what an operand leaves undefined is junk.
uint32_t operand_information(const struct op *op)
{
    const struct memory_operand *m = &op->memory;
    uint32_t junk = (uint32_t)operand_poison(), info = (uint32_t)op->reg2 << 28;
    if (!op->in_memory) {
        info |= (uint32_t)op->reg << 3 | 1u << 10;
        return info | (junk & 0x0ffffb87);
    }
    info |= (m->address_size == 64 ? 2u : m->address_size == 32 ? 1u : 0u) << 7;
    info |= (uint32_t)m->segment << 15;
    if (m->index == NO_REGISTER)
        info |= 1u << 22 | (junk & 0x003c0003);
    else
        info |= (uint32_t)m->index << 18 | m->scale;
    info |= m->base == NO_REGISTER ? 1u << 27 | (junk & 0x07800000) : (uint32_t)m->base << 23;
    return info | (junk & 0x00007878 & ~(1u << 10) & ~0x380u);
}

// --- privilege, mode, and the exit

static bool mode_is_wrong(const struct hw_cpu *cpu)
{
    return !(cpu->r.cr0 & CR0_PE) || (cpu->r.rflags & RFLAGS_VM) ||
           (cpu_in_long_mode(cpu) && !cpu_in_64bit_code(cpu));
}

static bool takes_memory_only(enum op_kind kind)
{
    return kind == OP_VMXON || kind == OP_VMCLEAR || kind == OP_VMPTRLD || kind == OP_VMPTRST ||
           kind == OP_INVEPT || kind == OP_INVVPID;
}

static bool exists(const struct hw_cpu *cpu, enum op_kind kind)
{
    const struct processor *p = cpu->machine->processor;
    if (kind == OP_INVEPT)
        return capability_ept(p, EPT_CAP_INVEPT);
    if (kind == OP_INVVPID)
        return capability_ept(p, VPID_CAP_INVVPID);
    return true;
}

static const uint8_t exit_reasons[OP_KIND_COUNT] = {
    [OP_VMCALL] = 18,  [OP_VMCLEAR] = 19, [OP_VMLAUNCH] = 20, [OP_VMPTRLD] = 21,
    [OP_VMPTRST] = 22, [OP_VMREAD] = 23,  [OP_VMRESUME] = 24, [OP_VMWRITE] = 25,
    [OP_VMXOFF] = 26,  [OP_VMXON] = 27,   [OP_INVEPT] = 50,   [OP_INVVPID] = 53,
};

static void exit_for(struct hw_cpu *cpu, const struct op *op)
{
    bool has_info = takes_memory_only(op->kind) || op->kind == OP_VMREAD || op->kind == OP_VMWRITE;
    vm_exit(cpu, &(struct exit_information){
                     .reason = exit_reasons[op->kind],
                     .qualification = has_info ? operand_displacement(cpu, op) : 0,
                     .has_length = true,
                     .length = op_length(op),
                     .has_info = has_info,
                     .info = has_info ? operand_information(op) : 0,
                 });
}

// VMCS shadowing: a VMREAD or VMWRITE in non-root operation may go to the VMCS that the link pointer names.
static struct active_vmcs *shadow_vmcs(struct hw_cpu *cpu, uint64_t bitmap, uint64_t encoding, bool *exits)
{
    *exits = true;
    if (!cpu_has_secondary(cpu, SECONDARY_VMCS_SHADOWING) || encoding >> 15)
        return NULL;
    if (memory_read(cpu->machine, bitmap + encoding / 8, 1) >> (encoding % 8) & 1)
        return NULL;
    *exits = false;
    uint64_t link = vmcs_get(cpu, F_VMCS_LINK_POINTER);
    return link == NO_ADDRESS ? NULL : vmcs_cache_find(cpu, link);
}

// --- completion

// Conventions: what an instruction says in RFLAGS.
static void complete(struct hw_cpu *cpu, const struct op *op, struct vmx_result result)
{
    cpu->r.rflags &= ~(RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF);
    if (result.status == VMX_FAIL_INVALID)
        cpu->r.rflags |= RFLAGS_CF;
    if (result.status == VMX_FAIL_VALID)
        cpu->r.rflags |= RFLAGS_ZF;
    instruction_retire(cpu, op);
}

static unsigned operand_size(const struct hw_cpu *cpu)
{
    return cpu_in_64bit_code(cpu) ? 8 : 4;
}

static uint64_t truncate(const struct hw_cpu *cpu, uint64_t value)
{
    return cpu_in_64bit_code(cpu) ? value : (uint32_t)value;
}

static void execute_vmxon(struct hw_cpu *cpu, const struct op *op)
{
    uint64_t address, region;
    if (mode_is_wrong(cpu) || !op->in_memory || !(cpu->r.cr4 & CR4_VMXE)) {
        fault_ud(cpu);
        return;
    }
    if (cpu->vmx == VMX_NON_ROOT) {
        exit_for(cpu, op);
        return;
    }
    bool fixed_bits = entry_check_cr0(cpu, cpu->r.cr0, false) || entry_check_cr4(cpu, cpu->r.cr4);
    if (cpu_cpl(cpu) > 0 || (cpu->vmx == VMX_OUTSIDE && fixed_bits)) {
        fault_gp(cpu);
        return;
    }
    if (cpu->vmx == VMX_ROOT) {
        complete(cpu, op, vmx_vmxon(cpu, 0));
        return;
    }
    if (operand_address(cpu, op, &address) && guest_read(cpu, address, &region, 8, false))
        complete(cpu, op, vmx_vmxon(cpu, region));
}

static void execute_region(struct hw_cpu *cpu, const struct op *op)
{
    uint64_t address, region = cpu->current_pointer;
    if (!operand_address(cpu, op, &address))
        return;
    if (op->kind == OP_VMPTRST) {
        if (guest_write(cpu, address, &region, 8, false))
            complete(cpu, op, vmx_succeed());
        return;
    }
    if (!guest_read(cpu, address, &region, 8, false))
        return;
    complete(cpu, op, op->kind == OP_VMCLEAR ? vmx_vmclear(cpu, region) : vmx_vmptrld(cpu, region));
}

static void execute_vmread(struct hw_cpu *cpu, const struct op *op, struct active_vmcs *vmcs)
{
    uint64_t address, value = 0, encoding = truncate(cpu, cpu->r.gpr[op->reg2]);
    struct vmx_result result = vmx_vmread(cpu, vmcs, encoding, &value);
    if (result.status == VMX_SUCCEED && op->in_memory) {
        if (!operand_address(cpu, op, &address) ||
            !guest_write(cpu, address, &value, operand_size(cpu), false))
            return;
    } else if (result.status == VMX_SUCCEED) {
        cpu->r.gpr[op->reg] = truncate(cpu, value);
    }
    complete(cpu, op, result);
}

static void execute_vmwrite(struct hw_cpu *cpu, const struct op *op, struct active_vmcs *vmcs)
{
    uint64_t address, value = 0, encoding = truncate(cpu, cpu->r.gpr[op->reg2]);
    if (vmcs == NULL) { // before the operand is read
        complete(cpu, op, vmx_fail_invalid());
        return;
    }
    if (!op->in_memory)
        value = truncate(cpu, cpu->r.gpr[op->reg]);
    else if (!operand_address(cpu, op, &address) ||
             !guest_read(cpu, address, &value, operand_size(cpu), false))
        return;
    complete(cpu, op, vmx_vmwrite(cpu, vmcs, encoding, value));
}

static void execute_invalidation(struct hw_cpu *cpu, const struct op *op)
{
    uint64_t address, descriptor[2], type = truncate(cpu, cpu->r.gpr[op->reg2]);
    const struct processor *p = cpu->machine->processor;
    bool supported = op->kind == OP_INVEPT ? (type == 1 && capability_ept(p, EPT_CAP_INVEPT_SINGLE)) ||
                                                 (type == 2 && capability_ept(p, EPT_CAP_INVEPT_ALL))
                                           : type <= 3 && capability_ept(p, VPID_CAP_INDIVIDUAL << type);
    if (!supported) { // before the operand is read
        complete(cpu, op, vmx_fail(cpu, VMERR_INVALIDATION_OPERAND, NULL));
        return;
    }
    if (!operand_address(cpu, op, &address) || !guest_read(cpu, address, descriptor, 16, false))
        return;
    complete(cpu, op,
             op->kind == OP_INVEPT ? vmx_invept(cpu, type, descriptor) : vmx_invvpid(cpu, type, descriptor));
}

static void execute_entry(struct hw_cpu *cpu, const struct op *op)
{
    struct vmx_result result = vmx_enter(cpu, op->kind == OP_VMLAUNCH);
    if (result.status != VMX_SUCCEED)
        complete(cpu, op, result);
    // Else RIP is the guest's, or the host's if the entry failed after its VMfail checks.
}

static bool execute_shadowed(struct hw_cpu *cpu, const struct op *op)
{
    if (op->kind != OP_VMREAD && op->kind != OP_VMWRITE)
        return false;
    bool exits;
    uint64_t encoding = truncate(cpu, cpu->r.gpr[op->reg2]);
    uint64_t bitmap = op->kind == OP_VMREAD ? cpu->c.vmread_bitmap : cpu->c.vmwrite_bitmap;
    struct active_vmcs *shadow = shadow_vmcs(cpu, bitmap, encoding, &exits);
    if (exits)
        return false;
    if (cpu_cpl(cpu) > 0) {
        fault_gp(cpu);
        return true;
    }
    if (op->kind == OP_VMREAD)
        execute_vmread(cpu, op, shadow);
    else
        execute_vmwrite(cpu, op, shadow);
    return true;
}

void execute_vmx(struct hw_cpu *cpu, const struct op *op)
{
    if (op->kind == OP_VMREAD || op->kind == OP_VMWRITE || op->kind == OP_INVEPT || op->kind == OP_INVVPID)
        cpu->r.gpr[op->reg2] = op->a; // the encoding, or the type
    if (op->kind == OP_VMWRITE && !op->in_memory)
        cpu->r.gpr[op->reg] = op->b;
    if (op->kind == OP_VMXON) {
        execute_vmxon(cpu, op);
        return;
    }
    if (op->kind == OP_VMCALL && cpu->vmx == VMX_OUTSIDE) {
        fault_ud(cpu);
        return;
    }
    bool mode_matters = op->kind != OP_VMCALL || cpu->vmx != VMX_NON_ROOT; // L2 may VMCALL from anywhere
    if (cpu->vmx == VMX_OUTSIDE || (mode_matters && mode_is_wrong(cpu)) || !exists(cpu, op->kind) ||
        (takes_memory_only(op->kind) && !op->in_memory)) {
        fault_ud(cpu);
        return;
    }
    if (cpu->vmx == VMX_NON_ROOT) {
        if (!execute_shadowed(cpu, op))
            exit_for(cpu, op);
        return;
    }
    if (cpu_cpl(cpu) > 0) {
        fault_gp(cpu);
        return;
    }
    switch (op->kind) {
    case OP_VMCALL:
        complete(cpu, op, vmx_fail(cpu, VMERR_VMCALL_IN_ROOT, NULL));
        break;
    case OP_VMXOFF:
        complete(cpu, op, vmx_vmxoff(cpu));
        break;
    case OP_VMREAD:
        execute_vmread(cpu, op, cpu->current);
        break;
    case OP_VMWRITE:
        execute_vmwrite(cpu, op, cpu->current);
        break;
    case OP_VMLAUNCH:
    case OP_VMRESUME:
        execute_entry(cpu, op);
        break;
    case OP_INVEPT:
    case OP_INVVPID:
        execute_invalidation(cpu, op);
        break;
    default:
        execute_region(cpu, op);
        break;
    }
}
