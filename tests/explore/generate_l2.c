// SPDX-License-Identifier: MIT
// What an L2 does next.
#include "generate.h"
#include <string.h>

static const uint32_t msrs[] = {
    MSR_IA32_EFER,
    MSR_IA32_PAT,
    MSR_IA32_DEBUGCTL,
    MSR_IA32_SYSENTER_CS,
    MSR_IA32_SYSENTER_EIP,
    MSR_FS_BASE,
    MSR_GS_BASE,
    0xc0000081,
    0xc0000082,
    0xc0000102,
    0x808,
    MSR_IA32_VMX_BASIC,
    0x80b,
    0x83f,
    0x12345,
    0xc0001000,
    MSR_IA32_APIC_BASE,
    0x10,
    0xc0000103,
    MSR_IA32_SYSENTER_ESP,
};

static uint64_t address(const struct actor *a)
{
    switch (random_below(12)) {
    case 0:
        return L2_NOT_MAPPED + random_below(0x8000);
    case 1:
        return L2_EPT_HOLE + random_below(0x8000);
    case 2:
        return L2_SIZE + random_below(0x10000);
    case 3: // across a page boundary
        return L2_DATA + PAGE_SIZE * random_below(16) + PAGE_SIZE - 4;
    default:
        (void)a;
        return L2_DATA + (random_below(0x10000) & ~7u);
    }
}

static struct op memory_op(const struct actor *a)
{
    static const uint8_t sizes[] = {1, 2, 4, 8, 8, 8};
    struct op op = one_in(2) ? READ(GPR_RBX, address(a)) : WRITE(address(a), random_word());
    op.size = PICK(sizes);
    if (has_secondary(a, SECONDARY_VIRTUALIZE_APIC_ACCESSES) && one_in(3)) {
        static const uint16_t registers[] = {0x20, 0x30, 0x80, 0xb0, 0xd0, 0x100, 0x200, 0x300, 0x310, 0x84};
        op.a = L2_APIC + PICK(registers);
        op.size = 4;
        if (op.kind == OP_WRITE)
            op.b = random_below(0x100);
    }
    return op;
}

static uint64_t cr0_value(const struct actor *a)
{
    // Not CD and NW, which no VM entry loads: where L0 emulates MOV to CR0, it cannot set them.
    static const uint64_t bits[] = {CR0_TS, CR0_WP, CR0_AM, CR0_MP, CR0_EM, CR0_NE, CR0_PG, CR0_PE};
    uint64_t value = visible_cr0(a->cpu) ^ PICK(bits);
    return one_in(6) ? value ^ PICK(bits) : value;
}

static uint64_t cr4_value(const struct actor *a)
{
    static const uint64_t bits[] = {CR4_PGE,   1u << 3,  1u << 2, 1u << 9, CR4_OSXSAVE,
                                    CR4_PCIDE, CR4_VMXE, CR4_PAE, 1u << 30};
    return visible_cr4(a->cpu) ^ PICK(bits);
}

static struct op control_register_op(const struct actor *a)
{
    static const uint8_t registers[] = {GPR_RAX, GPR_RCX, GPR_RSI, GPR_R12};
    unsigned cr = (unsigned[]){0, 2, 3, 4, 8}[random_below(5)];
    switch (random_below(8)) {
    case 0:
        return CLTS;
    case 1:
        return LMSW(random_below(16) | (a->cpu->r.cr0 & CR0_PE));
    case 2:
        return SMSW(PICK(registers));
    case 3:
    case 4: {
        struct op op = MOV_FROM_CR(PICK(registers), cr);
        return op;
    }
    default: {
        uint64_t value = cr == 0   ? cr0_value(a)
                         : cr == 2 ? random_word()
                         : cr == 3 ? a->cpu->r.cr3 | (one_in(4) ? 0x18 : 0)
                         : cr == 4 ? cr4_value(a)
                                   : random_below(18);
        struct op op = MOV_TO_CR(cr, value);
        op.reg = PICK(registers);
        return op;
    }
    }
}

static uint64_t msr_value(uint32_t msr, const struct actor *a)
{
    switch (msr) {
    case MSR_IA32_EFER:
        return a->cpu->r.efer ^ (one_in(2) ? EFER_SCE : one_in(4) ? EFER_LME : 0);
    case MSR_IA32_PAT:
        return one_in(4) ? random_word() : 0x0007040600070406 ^ random_below(2);
    case MSR_IA32_DEBUGCTL:
        return random_below(4);
    case 0x808:
    case 0x80b:
    case 0x83f:
        return random_below(0x100);
    default:
        return one_in(6) ? random_word() : random_below(0x10000) * 0x1000ull;
    }
}

static struct op msr_op(const struct actor *a)
{
    uint32_t msr = PICK(msrs);
    if (one_in(2) || msr == 0x10) {
        struct op op = RDMSR(msr);
        return op;
    }
    struct op op = WRMSR(msr, msr_value(msr, a));
    return op;
}

static struct op io_op(void)
{
    static const uint16_t ports[] = {0x60, 0x61, 0x70, 0x3f8, 0x7fff, 0x8000, 0xcf8, 0xffff, 0xfffe};
    static const uint8_t sizes[] = {1, 2, 4};
    uint16_t port = PICK(ports);
    uint64_t buffer = L2_DATA + random_below(0x1000);
    struct op op;
    switch (random_below(6)) {
    case 0:
        op = OUTS(port, buffer);
        break;
    case 1:
        op = INS(port, buffer);
        break;
    case 2:
    case 3:
        op = IN(port);
        break;
    default:
        op = OUT(port, random_word() & 0xffffffff);
        break;
    }
    op.size = PICK(sizes);
    if (port + op.size > 0x10000) // the tests' L0 has no device model for an access that wraps around
        op.size = 1;
    return op;
}

static struct op with_memory(struct op op, uint64_t at)
{
    static const uint8_t sizes[] = {64, 64, 64, 32};
    op.in_memory = true;
    op.memory = (struct memory_operand){.base = NO_REGISTER,
                                        .index = NO_REGISTER,
                                        .segment = one_in(4) ? SEGMENT_ES : SEGMENT_DS,
                                        .address_size = PICK(sizes),
                                        .displacement = (int64_t)at};
    return op;
}

static struct op vmx_op(const struct actor *a)
{
    (void)a;
    static const enum op_kind kinds[] = {OP_VMXON,    OP_VMXOFF, OP_VMCLEAR, OP_VMPTRLD,
                                         OP_VMPTRST,  OP_VMREAD, OP_VMWRITE, OP_VMLAUNCH,
                                         OP_VMRESUME, OP_INVEPT, OP_INVVPID};
    struct op op = {.kind = PICK(kinds), .reg = GPR_RBX, .reg2 = GPR_RDX, .a = 0x4000 + 2 * random_below(8)};
    if ((op.kind == OP_VMREAD || op.kind == OP_VMWRITE) && one_in(2))
        return op;
    return op.kind == OP_VMXOFF || op.kind == OP_VMLAUNCH || op.kind == OP_VMRESUME
               ? op
               : with_memory(op, L2_DATA + 8 * random_below(64));
}

static struct op table_op(const struct actor *a)
{
    static const enum op_kind kinds[] = {OP_SGDT, OP_SIDT, OP_SLDT, OP_STR,
                                         OP_LLDT, OP_LTR,  OP_LGDT, OP_LIDT};
    struct op op = {.kind = PICK(kinds), .reg = GPR_RCX};
    if (op.kind == OP_LIDT && !has_secondary(a, SECONDARY_DESCRIPTOR_TABLE_EXITING)) // an IDT of garbage
        op.kind = OP_SIDT;
    if (op.kind == OP_SLDT || op.kind == OP_STR || op.kind == OP_LLDT || op.kind == OP_LTR)
        return op;
    return with_memory(op, L2_DATA + 0x800 + 16 * random_below(4));
}

static struct op event_op(const struct actor *a)
{
    static const uint8_t with_code[] = {VECTOR_DF, VECTOR_TS, VECTOR_GP, 11, 12, 17};
    static const uint8_t without_code[] = {0, VECTOR_UD, 7, 16, 19, 5};
    bool wide = cpu_in_long_mode(a->cpu);
    switch (random_below(9)) {
    case 0:
        return INT3;
    case 1:
        return wide ? INT3 : INTO;
    case 2:
        return INT1;
    case 3:
        return INT(random_below(0x60));
    case 4:
        return UD2;
    case 5:
        return FAULT_CODE(PICK(with_code), one_in(2) ? 0 : random_below(0x100) * 8);
    case 6:
        return FAULT(PICK(without_code));
    default:
        return UD2;
    }
}

static struct op arrival_op(void)
{
    bool virtual_nmis = capability_allowed1(world->config.processor, WORD_PIN) & PIN_VIRTUAL_NMIS;
    switch (random_below(8)) {
    case 0:
    case 1:
        return virtual_nmis ? NMI_ARRIVES : INTERRUPT_ARRIVES(0x55);
    case 2:
        return INIT_ARRIVES;
    case 3:
        return SIPI_ARRIVES(0x10);
    case 4:
        return TIME_PASSES(1ull << 40);
    default:
        return INTERRUPT_ARRIVES(0x30 + random_below(0x40));
    }
}

static struct op flags_op(void)
{
    switch (random_below(6)) {
    case 0:
        return CLI;
    case 1:
        return MOV_SS;
    case 2:
        return SET_FLAGS(RFLAGS_FIXED | (random_word() & 0x8d5) | (one_in(8) ? RFLAGS_TF : 0) |
                         (one_in(2) ? RFLAGS_IF : 0));
    default:
        return STI;
    }
}

static struct op system_op(const struct actor *a)
{
    static const enum op_kind kinds[] = {OP_HLT,    OP_PAUSE,   OP_RDTSC,  OP_RDTSCP, OP_RDPMC,  OP_INVD,
                                         OP_WBINVD, OP_MONITOR, OP_MWAIT,  OP_XSETBV, OP_RDRAND, OP_RDSEED,
                                         OP_XSAVES, OP_XRSTORS, OP_GETSEC, OP_RSM,    OP_ENCLS,  OP_VMFUNC};
    switch (random_below(8)) {
    case 0:
        return INVLPG(address(a));
    case 1:
        return with_memory(OP(.kind = OP_INVPCID, .reg2 = GPR_RBX), L2_DATA + 16 * random_below(16));
    case 2: {
        unsigned dr = (unsigned[]){0, 1, 2, 3, 6, 7}[random_below(6)];
        struct op op = MOV_FROM_DR(GPR_RSI, dr);
        return op;
    }
    case 3: { // without breakpoints being enabled
        unsigned dr = random_below(4);
        struct op op = MOV_TO_DR(dr, random_below(0x100000));
        return op;
    }
    default: {
        struct op op = {.kind = PICK(kinds), .reg = GPR_RDI};
        // L0 cannot enter the HLT state that an exit of its own interrupted, where it is not supported.
        if (op.kind == OP_HLT && !capability_misc(world->config.processor, MISC_ACTIVITY_HLT))
            op.kind = OP_PAUSE;
        if (op.kind == OP_XSETBV)
            op.b = 1 | random_below(8);
        return op;
    }
    }
}

// Makes the L2 pages of L2_NOT_MAPPED present: no invalidation is needed for that.
static struct op map_op(void)
{
    unsigned page = L2_NOT_MAPPED / PAGE_SIZE + random_below(8);
    struct op op = WRITE(L2_PTE(page), (uint64_t)page * PAGE_SIZE + 7);
    return op;
}

// Is there a frame to return to? The model's IRET believes all that it finds.
static bool has_frame(const struct actor *a)
{
    uint64_t frame[5], stack = a->cpu->r.gpr[GPR_RSP];
    int r = current_region(a);
    if (r < 0 || !cpu_in_64bit_code(a->cpu) || stack < L2_STACK - 0x1000 || stack > L2_STACK - sizeof(frame))
        return false;
    memcpy(frame, l1_memory(L2_MEMORY(field_guest_of((unsigned)r)) + stack), sizeof(frame));
    bool flat = (frame[1] & 0xffff) == 0x08 && (frame[4] == 0x10 || frame[4] == 0) &&
                frame[0] - L2_HANDLERS < 0x12000;
    return flat && frame[3] - (L2_STACK - 0x1000) <= 0x1000;
}

static struct op mode_op(const struct actor *a)
{
    switch (random_below(4)) {
    case 0:
        return SET_CPL(3);
    case 1:
        return cpu_in_long_mode(a->cpu) && a->cpu->r.rip < 0xffffffff ? TO_COMPATIBILITY_MODE : NOP;
    case 2:
        return has_frame(a) ? IRET : NOP;
    default:
        return JUMP(L2_CODE + random_below(0x8000));
    }
}

static struct op ordinary_op(void)
{
    static const uint8_t registers[] = {GPR_RAX, GPR_RBX, GPR_RBP, GPR_RSI, GPR_RDI,
                                        GPR_R8,  GPR_R9,  GPR_R10, GPR_R15};
    switch (random_below(4)) {
    case 0:
        return NOP;
    case 1:
        return SET(GPR_RSP, one_in(10) ? L2_EPT_HOLE + 0x800 : L2_STACK - 8 * random_below(16));
    default:
        return SET(PICK(registers), random_word());
    }
}

static struct op random_op(const struct actor *a)
{
    unsigned choice = random_below(100);
    bool flat = current_field(a, F_GUEST_CR3) >= L2_RAM;
    if (choice < 22)
        return memory_op(a);
    if (choice < 44)
        return ordinary_op();
    if (choice < 52)
        return control_register_op(a);
    if (choice < 60)
        return msr_op(a);
    if (choice < 67)
        return io_op();
    if (choice < 71)
        return vmx_op(a);
    if (choice < 73)
        return table_op(a);
    if (choice < 78)
        return event_op(a);
    if (choice < 82)
        return arrival_op();
    if (choice < 87)
        return flags_op();
    if (choice < 94)
        return system_op(a);
    if (choice < 95)
        return flat ? NOP : map_op();
    if (choice < 97)
        return mode_op(a);
    return CPUID(random_below(4));
}

void plan_l2_steps(struct actor *a)
{
    uint64_t rip = a->cpu->r.rip;
    bool lost = a->cpu->r.cr0 & CR0_PG && rip - L2_CODE >= 0xf000 && rip - L2_HANDLERS >= 0x1000;
    if (a->l2_budget == 0) {
        plan_l2(a, VMCALL);
    } else if (lost && one_in(4)) {
        a->l2_budget--;
        plan_l2(a, JUMP(L2_CODE));
    } else {
        a->l2_budget--;
        plan_l2(a, random_op(a));
    }
}
