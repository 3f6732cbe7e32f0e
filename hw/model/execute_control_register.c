// SPDX-License-Identifier: MIT
// MOV to and from control registers, CLTS, LMSW, SMSW.
// Manual: Changes to Instruction Behavior in VMX Non-Root Operation; Exit Qualification for Control-Register
// Accesses; Restrictions on VMX Operation.
#include "model.h"

enum access_type { CR_MOV_TO, CR_MOV_FROM, CR_CLTS, CR_LMSW };

uint64_t visible_cr0(const struct hw_cpu *cpu)
{
    if (cpu->vmx != VMX_NON_ROOT)
        return cpu->r.cr0;
    return (cpu->r.cr0 & ~cpu->c.cr0_mask) | (cpu->c.cr0_shadow & cpu->c.cr0_mask);
}

uint64_t visible_cr4(const struct hw_cpu *cpu)
{
    if (cpu->vmx != VMX_NON_ROOT)
        return cpu->r.cr4;
    return (cpu->r.cr4 & ~cpu->c.cr4_mask) | (cpu->c.cr4_shadow & cpu->c.cr4_mask);
}

static void cr_exit(struct hw_cpu *cpu, const struct op *op, unsigned cr, enum access_type type,
                    uint64_t rest)
{
    vm_exit_instruction(cpu, 28, op, cr | (uint64_t)type << 4 | rest);
}

static bool fault(struct hw_cpu *cpu)
{
    raise_exception_with_code(cpu, VECTOR_GP, 0);
    return false;
}

static void flush_after_change(struct hw_cpu *cpu)
{
    tlb_flush_linear(cpu, tlb_vpid(cpu), -1, true);
    cpu->fetch_page = NO_ADDRESS;
}

// The new value is loaded, or #GP is raised (false), or an exit happened while PDPTEs were read (false).
static bool load_cr0(struct hw_cpu *cpu, uint64_t value)
{
    struct registers *r = &cpu->r;
    bool pg = value & CR0_PG, was_pg = r->cr0 & CR0_PG;
    value |= CR0_ET;
    if (value >> 32 || (pg && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
        return fault(cpu);
    if ((r->cr4 & CR4_CET) && !(value & CR0_WP))
        return fault(cpu);
    bool unrestricted = cpu_has_secondary(cpu, SECONDARY_UNRESTRICTED_GUEST);
    if (cpu->vmx != VMX_OUTSIDE && entry_check_cr0(cpu, value, unrestricted) != NULL)
        return fault(cpu);
    bool becomes_long = pg && (r->efer & EFER_LME);
    if (pg && !was_pg && becomes_long && (!(r->cr4 & CR4_PAE) || cpu_in_64bit_code(cpu)))
        return fault(cpu);
    if (!pg && was_pg && (cpu_in_64bit_code(cpu) || (r->cr4 & CR4_PCIDE)))
        return fault(cpu);
    if (pg && !becomes_long && (r->cr4 & CR4_PAE) && ((value ^ r->cr0) & (CR0_PG | CR0_CD | CR0_NW)) &&
        !paging_load_pdptes(cpu, r->cr3))
        return false;
    uint64_t changed = value ^ r->cr0;
    r->cr0 = value;
    r->efer = (r->efer & ~EFER_LMA) | (becomes_long ? EFER_LMA : 0);
    if (changed & (CR0_PG | CR0_WP | CR0_PE))
        flush_after_change(cpu);
    return true;
}

static bool load_cr4(struct hw_cpu *cpu, uint64_t value)
{
    struct registers *r = &cpu->r;
    uint64_t possible = capability_msr(cpu->machine->processor, MSR_IA32_VMX_CR4_FIXED1);
    if (value & ~possible)
        return fault(cpu);
    if ((value & CR4_CET) && !(r->cr0 & CR0_WP))
        return fault(cpu);
    if (cpu->vmx != VMX_OUTSIDE && entry_check_cr4(cpu, value) != NULL)
        return fault(cpu);
    if (cpu_in_long_mode(cpu) && !(value & CR4_PAE))
        return fault(cpu);
    if ((value & CR4_PCIDE) && !(r->cr4 & CR4_PCIDE) && (!cpu_in_long_mode(cpu) || (r->cr3 & 0xfff)))
        return fault(cpu);
    uint64_t changed = value ^ r->cr4;
    bool pae = (r->cr0 & CR0_PG) && (value & CR4_PAE) && !cpu_in_long_mode(cpu);
    if (pae && (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) && !paging_load_pdptes(cpu, r->cr3))
        return false;
    r->cr4 = value;
    if (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_PCIDE | CR4_SMEP | CR4_SMAP))
        flush_after_change(cpu);
    return true;
}

static bool load_cr3(struct hw_cpu *cpu, uint64_t value)
{
    struct registers *r = &cpu->r;
    bool pcide = r->cr4 & CR4_PCIDE;
    bool keep = pcide && value >> 63;
    if (pcide)
        value &= ~(1ull << 63);
    if (!cpu_in_long_mode(cpu))
        value &= 0xffffffff;
    else if (!fits_physical_width(cpu, value))
        return fault(cpu);
    bool pae = (r->cr0 & CR0_PG) && (r->cr4 & CR4_PAE) && !cpu_in_long_mode(cpu);
    if (pae && !paging_load_pdptes(cpu, value))
        return false;
    r->cr3 = value;
    if (!keep)
        tlb_flush_linear(cpu, tlb_vpid(cpu), pcide ? (int)(value & 0xfff) : -1, false);
    cpu->fetch_page = NO_ADDRESS;
    return true;
}

// CR8 is the task-priority register; with the TPR shadow it is VTPR of the virtual-APIC page.
static bool load_cr8(struct hw_cpu *cpu, uint64_t value)
{
    if (value >> 4)
        return fault(cpu);
    if (!cpu_has_primary(cpu, PRIMARY_USE_TPR_SHADOW)) {
        cpu->r.cr8 = value;
        return true;
    }
    return true; // ... written behind the instruction, because that may end in an exit
}

static bool is_cr3_target(const struct hw_cpu *cpu, uint64_t value)
{
    for (unsigned i = 0; i < cpu->c.cr3_target_count; i++)
        if (cpu->c.cr3_target[i] == value)
            return true;
    return false;
}

static bool mov_to_exits(const struct hw_cpu *cpu, unsigned cr, uint64_t value)
{
    switch (cr) {
    case 0:
        return cpu->vmx == VMX_NON_ROOT && ((value ^ cpu->c.cr0_shadow) & cpu->c.cr0_mask);
    case 4:
        return cpu->vmx == VMX_NON_ROOT && ((value ^ cpu->c.cr4_shadow) & cpu->c.cr4_mask);
    case 3:
        return cpu_has_primary(cpu, PRIMARY_CR3_LOAD_EXITING) && !is_cr3_target(cpu, value);
    case 8:
        return cpu_has_primary(cpu, PRIMARY_CR8_LOAD_EXITING);
    default:
        return false;
    }
}

static bool load(struct hw_cpu *cpu, unsigned cr, uint64_t value)
{
    uint64_t mask0 = cpu->vmx == VMX_NON_ROOT ? cpu->c.cr0_mask : 0;
    uint64_t mask4 = cpu->vmx == VMX_NON_ROOT ? cpu->c.cr4_mask : 0;
    switch (cr) {
    case 0: // bits that the host owns keep what they are
        return load_cr0(cpu, (cpu->r.cr0 & mask0) | (value & ~mask0));
    case 2:
        cpu->r.cr2 = value;
        return true;
    case 3:
        return load_cr3(cpu, value);
    case 4:
        return load_cr4(cpu, (cpu->r.cr4 & mask4) | (value & ~mask4));
    default:
        return load_cr8(cpu, value);
    }
}

static void mov_to(struct hw_cpu *cpu, const struct op *op)
{
    unsigned cr = (unsigned)op->b;
    cpu->r.gpr[op->reg] = op->a;
    if (mov_to_exits(cpu, cr, op->a)) {
        cr_exit(cpu, op, cr, CR_MOV_TO, (uint64_t)op->reg << 8);
        return;
    }
    if (!load(cpu, cr, op->a))
        return;
    instruction_retire(cpu, op);
    if (cr == 8 && cpu_has_primary(cpu, PRIMARY_USE_TPR_SHADOW))
        apic_write_cr8(cpu, op->a);
}

static void mov_from(struct hw_cpu *cpu, const struct op *op)
{
    unsigned cr = (unsigned)op->b;
    if ((cr == 3 && cpu_has_primary(cpu, PRIMARY_CR3_STORE_EXITING)) ||
        (cr == 8 && cpu_has_primary(cpu, PRIMARY_CR8_STORE_EXITING))) {
        cr_exit(cpu, op, cr, CR_MOV_FROM, (uint64_t)op->reg << 8);
        return;
    }
    uint64_t value;
    if (cr == 0)
        value = visible_cr0(cpu);
    else if (cr == 2)
        value = cpu->r.cr2;
    else if (cr == 3)
        value = cpu->r.cr3;
    else if (cr == 4)
        value = visible_cr4(cpu);
    else if (cpu_has_primary(cpu, PRIMARY_USE_TPR_SHADOW))
        value = apic_read_cr8(cpu);
    else
        value = cpu->r.cr8;
    cpu->r.gpr[op->reg] = value;
    instruction_retire(cpu, op);
}

static void clts(struct hw_cpu *cpu, const struct op *op)
{
    if (cpu->vmx == VMX_NON_ROOT && (cpu->c.cr0_mask & CR0_TS)) {
        if (cpu->c.cr0_shadow & CR0_TS) {
            cr_exit(cpu, op, 0, CR_CLTS, 0);
            return;
        }
        instruction_retire(cpu, op); // TS is the host's, and reads as 0 already
        return;
    }
    if (load_cr0(cpu, cpu->r.cr0 & ~CR0_TS))
        instruction_retire(cpu, op);
}

static void lmsw(struct hw_cpu *cpu, const struct op *op)
{
    uint64_t source = op->a & 0xf;
    if (cpu->vmx == VMX_NON_ROOT) {
        uint64_t differs = (source ^ cpu->c.cr0_shadow) & cpu->c.cr0_mask & (CR0_MP | CR0_EM | CR0_TS);
        bool sets_pe = (source & ~cpu->c.cr0_shadow) & cpu->c.cr0_mask & CR0_PE;
        if (differs || sets_pe) {
            cr_exit(cpu, op, 0, CR_LMSW, (op->a & 0xffff) << 16);
            return;
        }
    }
    uint64_t mask = cpu->vmx == VMX_NON_ROOT ? cpu->c.cr0_mask : 0;
    uint64_t value = (cpu->r.cr0 & ~0xeull) | source; // PE can be set, not cleared
    if (load_cr0(cpu, (cpu->r.cr0 & mask) | (value & ~mask)))
        instruction_retire(cpu, op);
}

void execute_control_register(struct hw_cpu *cpu, const struct op *op)
{
    if (op->kind == OP_SMSW) {
        cpu->r.gpr[op->reg] = visible_cr0(cpu);
        instruction_retire(cpu, op);
        return;
    }
    if (cpu_cpl(cpu) > 0) {
        raise_exception_with_code(cpu, VECTOR_GP, 0);
        return;
    }
    if (op->kind == OP_MOV_TO_CR)
        mov_to(cpu, op);
    else if (op->kind == OP_MOV_FROM_CR)
        mov_from(cpu, op);
    else if (op->kind == OP_CLTS)
        clts(cpu, op);
    else
        lmsw(cpu, op);
}
