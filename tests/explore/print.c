// SPDX-License-Identifier: MIT
// A script, in the syntax that it can be pasted in: tests/support/script.h and steps.h.
#include "explore.h"

static const char *const gpr_names[GPR_COUNT] = {
    "GPR_RAX", "GPR_RCX", "GPR_RDX", "GPR_RBX", "GPR_RSP", "GPR_RBP", "GPR_RSI", "GPR_RDI",
    "GPR_R8",  "GPR_R9",  "GPR_R10", "GPR_R11", "GPR_R12", "GPR_R13", "GPR_R14", "GPR_R15"};
static const char *const mode_names[MODE_COUNT] = {
    "MODE_64", "MODE_COMPATIBILITY", "MODE_PAE", "MODE_32", "MODE_NOT_PAGED", "MODE_REAL", "MODE_V86"};
static const char *const wake_names[] = {"WAKE_NMI", "WAKE_INTERRUPT", "WAKE_INIT", "WAKE_SIPI"};

static const char *const l0_action_names[] = {"L0_DOES_NOTHING",     "L0_PUTS_AND_LOADS",  "L0_CLEARS_ALL",
                                              "L0_RESTARTS_VMX",     "L0_LOSES_PROCESSOR", "L0_RETIRES",
                                              "L0_RETIRES_ELSEWHERE"};

static const char *gpr(unsigned reg)
{
    return gpr_names[reg % GPR_COUNT];
}

// Names of addresses, as far as there are any.
static void print_address(FILE *to, uint64_t at)
{
    static const struct {
        uint64_t from, size;
        const char *name;
    } places[] = {
        {(uint64_t)VMXON_SLOT(0), 1, "VMXON_SLOT(0)"},
        {(uint64_t)VMXON_SLOT(1), 1, "VMXON_SLOT(1)"},
        {(uint64_t)VMCS_SLOT(0), 1, "VMCS_SLOT(0)"},
        {(uint64_t)VMCS_SLOT(1), 1, "VMCS_SLOT(1)"},
        {(uint64_t)VMCS_SLOT(2), 1, "VMCS_SLOT(2)"},
        {(uint64_t)VMCS_SLOT(3), 1, "VMCS_SLOT(3)"},
        {(uint64_t)UNALIGNED_SLOT, 1, "UNALIGNED_SLOT"},
        {(uint64_t)TOO_WIDE_SLOT, 1, "TOO_WIDE_SLOT"},
        {(uint64_t)EPTP_SLOT(0), 1, "EPTP_SLOT(0)"},
        {(uint64_t)EPTP_SLOT(1), 1, "EPTP_SLOT(1)"},
        {(uint64_t)ZERO_SLOT, 1, "ZERO_SLOT"},
        {(uint64_t)ONES_SLOT, 1, "ONES_SLOT"},
        {(uint64_t)VPID_SLOT(1), 1, "VPID_SLOT(1)"},
        {SPARE, 0x1000, "SPARE"},
        {MSR_BITMAP_OF(0), 0x1000, "MSR_BITMAP_OF(0)"},
        {MSR_BITMAP_OF(1), 0x1000, "MSR_BITMAP_OF(1)"},
        {IO_BITMAP_OF(0), 0x2000, "IO_BITMAP_OF(0)"},
        {IO_BITMAP_OF(1), 0x2000, "IO_BITMAP_OF(1)"},
        {ENTRY_LIST_OF(0), 0x400, "ENTRY_LIST_OF(0)"},
        {STORE_LIST_OF(0), 0x400, "STORE_LIST_OF(0)"},
        {EXIT_LIST_OF(0), 0x400, "EXIT_LIST_OF(0)"},
        {VIRTUAL_APIC_OF(0), 0x1000, "VIRTUAL_APIC_OF(0)"},
        {EPT_ENTRY(0, 0), 0x1000, "EPT_ENTRY(0, 0)"},
        {EPT_ENTRY(1, 0), 0x1000, "EPT_ENTRY(1, 0)"},
        {L2_MEMORY(0), L2_SIZE, "L2_MEMORY(0)"},
        {L2_MEMORY(1), L2_SIZE, "L2_MEMORY(1)"},
        {L1_NOT_MAPPED, 1, "L1_NOT_MAPPED"},
    };
    for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        uint64_t offset = at - places[i].from;
        if (offset >= places[i].size)
            continue;
        fprintf(to, offset ? "%s + %#llx" : "%s", places[i].name, (unsigned long long)offset);
        return;
    }
    fprintf(to, "%#llx", (unsigned long long)at);
}

static void print_encoding(FILE *to, uint64_t encoding)
{
    for (unsigned field = 0; field < F_COUNT; field++)
        if ((model_field_encoding((enum vmcs_field)field) | VMCS_HIGH) == (encoding | VMCS_HIGH)) {
            fprintf(to, "VMCS_%s%s", model_field_name((enum vmcs_field)field),
                    encoding & VMCS_HIGH ? " | VMCS_HIGH" : "");
            return;
        }
    fprintf(to, "%#llx", (unsigned long long)encoding);
}

#define NAME(kind) [OP_##kind] = "OP_" #kind
static const char *const kinds[OP_KIND_COUNT] = {
    NAME(NOP),
    NAME(END),
    NAME(SET),
    NAME(JUMP),
    NAME(CPUID),
    NAME(RDMSR),
    NAME(WRMSR),
    NAME(IN),
    NAME(OUT),
    NAME(OUTS),
    NAME(INS),
    NAME(HLT),
    NAME(PAUSE),
    NAME(RDTSC),
    NAME(RDTSCP),
    NAME(RDPMC),
    NAME(INVLPG),
    NAME(INVPCID),
    NAME(INVD),
    NAME(WBINVD),
    NAME(MONITOR),
    NAME(MWAIT),
    NAME(XSETBV),
    NAME(RDRAND),
    NAME(RDSEED),
    NAME(XSAVES),
    NAME(XRSTORS),
    NAME(GETSEC),
    NAME(RSM),
    NAME(ENCLS),
    NAME(VMFUNC),
    NAME(SGDT),
    NAME(SIDT),
    NAME(LGDT),
    NAME(LIDT),
    NAME(SLDT),
    NAME(STR),
    NAME(LLDT),
    NAME(LTR),
    NAME(MOV_TO_CR),
    NAME(MOV_FROM_CR),
    NAME(CLTS),
    NAME(LMSW),
    NAME(SMSW),
    NAME(MOV_TO_DR),
    NAME(MOV_FROM_DR),
    NAME(READ),
    NAME(WRITE),
    NAME(FETCH),
    NAME(INT),
    NAME(INT3),
    NAME(INTO),
    NAME(INT1),
    NAME(UD2),
    NAME(FAULT),
    NAME(IRET),
    NAME(CLI),
    NAME(STI),
    NAME(MOV_SS),
    NAME(SET_FLAGS),
    NAME(SET_CPL),
    NAME(COMPATIBILITY),
    NAME(INTERRUPT_ARRIVES),
    NAME(NMI_ARRIVES),
    NAME(INIT_ARRIVES),
    NAME(SIPI_ARRIVES),
    NAME(TIME_PASSES),
    NAME(VMCALL),
    NAME(VMXON),
    NAME(VMXOFF),
    NAME(VMCLEAR),
    NAME(VMPTRLD),
    NAME(VMPTRST),
    NAME(VMREAD),
    NAME(VMWRITE),
    NAME(VMLAUNCH),
    NAME(VMRESUME),
    NAME(INVEPT),
    NAME(INVVPID),
};
#undef NAME

// Operations that script.h has no macro for, or that differ from what its macro says.
static void print_plain(FILE *to, const struct op *op)
{
    fprintf(to, "OP(.kind = %s", kinds[op->kind]);
    if (op->reg)
        fprintf(to, ", .reg = %s", gpr(op->reg));
    if (op->reg2)
        fprintf(to, ", .reg2 = %s", gpr(op->reg2));
    if (op->size)
        fprintf(to, ", .size = %u", op->size);
    if (op->flag)
        fprintf(to, ", .flag = true");
    if (op->a)
        fprintf(to, ", .a = %#llx", (unsigned long long)op->a);
    if (op->b)
        fprintf(to, ", .b = %#llx", (unsigned long long)op->b);
    if (op->in_memory)
        fprintf(to,
                ", .in_memory = true, .memory = {.base = %d, .index = %d, .segment = %u, .address_size = %u, "
                ".displacement = %#llx}",
                op->memory.base, op->memory.index, op->memory.segment, op->memory.address_size,
                (unsigned long long)op->memory.displacement);
    fprintf(to, ")");
}

static bool print_vmx_operation(FILE *to, const struct op *op)
{
    switch (op->kind) {
    case OP_VMWRITE:
        if (op->in_memory || op->reg2 != GPR_RDX || op->reg != GPR_RAX)
            return false;
        fprintf(to, "VMWRITE(");
        print_encoding(to, op->a);
        fprintf(to, ", %#llx)", (unsigned long long)op->b);
        return true;
    case OP_VMREAD:
        if (op->reg2 != GPR_RDX)
            return false;
        if (op->in_memory) {
            fprintf(to, "VMREAD_TO(");
            print_address(to, (uint64_t)op->memory.displacement);
        } else {
            fprintf(to, "VMREAD(%s", gpr(op->reg));
        }
        fprintf(to, ", ");
        print_encoding(to, op->a);
        fprintf(to, ")");
        return true;
    case OP_VMXON:
    case OP_VMCLEAR:
    case OP_VMPTRLD:
    case OP_VMPTRST:
        fprintf(to, "%s(", op_name(op->kind));
        print_address(to, (uint64_t)op->memory.displacement);
        fprintf(to, ")");
        return op->in_memory;
    case OP_INVEPT:
    case OP_INVVPID:
        fprintf(to, "%s(%llu, ", op_name(op->kind), (unsigned long long)op->a);
        print_address(to, (uint64_t)op->memory.displacement);
        fprintf(to, ")");
        return true;
    case OP_VMCALL:
    case OP_VMLAUNCH:
    case OP_VMRESUME:
    case OP_VMXOFF:
        fprintf(to, "%s", op_name(op->kind));
        return true;
    default:
        return false;
    }
}

static void print_write(FILE *to, const struct op *op)
{
    if (op->size != 0 && op->size != 8) {
        fprintf(to, "OP(.kind = OP_WRITE, .size = %u, .a = ", op->size);
        print_address(to, op->a);
        fprintf(to, ", .b = %#llx)", (unsigned long long)op->b);
        return;
    }
    fprintf(to, "WRITE(");
    print_address(to, op->a);
    fprintf(to, ", %#llx)", (unsigned long long)op->b);
}

static void print_operation(FILE *to, const struct op *op)
{
    unsigned long long a = op->a, b = op->b;
    bool usual = !op->in_memory || (op->memory.address_size == 64 && op->memory.segment == SEGMENT_DS);
    if (op->kind >= OP_VMCALL && usual && print_vmx_operation(to, op))
        return;
    switch (op->kind) {
    case OP_WRITE:
        print_write(to, op);
        break;
    case OP_SET:
        fprintf(to, "SET(%s, %#llx)", gpr(op->reg), a);
        break;
    case OP_JUMP:
        fprintf(to, "JUMP(%#llx)", a);
        break;
    case OP_RDMSR:
        fprintf(to, "RDMSR(%#llx)", a);
        break;
    case OP_WRMSR:
        fprintf(to, "WRMSR(%#llx, %#llx)", a, b);
        break;
    case OP_MOV_FROM_CR:
        fprintf(to, "MOV_FROM_CR(%s, %llu)", gpr(op->reg), b);
        break;
    case OP_CPUID:
    case OP_LMSW:
    case OP_INT:
    case OP_SET_FLAGS:
    case OP_SET_CPL:
    case OP_INVLPG:
    case OP_FETCH:
        fprintf(to, "%s(%#llx)",
                op->kind == OP_CPUID       ? "CPUID"
                : op->kind == OP_LMSW      ? "LMSW"
                : op->kind == OP_INT       ? "INT"
                : op->kind == OP_SET_FLAGS ? "SET_FLAGS"
                : op->kind == OP_SET_CPL   ? "SET_CPL"
                : op->kind == OP_INVLPG    ? "INVLPG"
                                           : "FETCH",
                a);
        break;
    case OP_INTERRUPT_ARRIVES:
        fprintf(to, "INTERRUPT_ARRIVES(%#llx)", a);
        break;
    case OP_SIPI_ARRIVES:
        fprintf(to, "SIPI_ARRIVES(%#llx)", a);
        break;
    case OP_TIME_PASSES:
        fprintf(to, "TIME_PASSES(%#llx)", a);
        break;
    case OP_NMI_ARRIVES:
        fprintf(to, "NMI_ARRIVES");
        break;
    case OP_INIT_ARRIVES:
        fprintf(to, "INIT_ARRIVES");
        break;
    case OP_MOV_SS:
        fprintf(to, "MOV_SS");
        break;
    case OP_COMPATIBILITY:
        fprintf(to, "TO_COMPATIBILITY_MODE");
        break;
    case OP_NOP:
    case OP_HLT:
    case OP_PAUSE:
    case OP_CLTS:
    case OP_INT3:
    case OP_INTO:
    case OP_INT1:
    case OP_UD2:
    case OP_IRET:
    case OP_CLI:
    case OP_STI:
    case OP_RDTSC:
    case OP_RDTSCP:
    case OP_INVD:
    case OP_WBINVD:
    case OP_MONITOR:
    case OP_MWAIT:
        fprintf(to, "%s", op_name(op->kind));
        break;
    default:
        print_plain(to, op);
        break;
    }
}

static void print_compound(FILE *to, const char *name, const struct op *op)
{
    fprintf(to, "%s%s(%llu, %s)", name, op->flag ? "_WITHOUT_EPT" : "", (unsigned long long)op->a,
            mode_names[op->b % MODE_COUNT]);
}

static void print_step(FILE *to, const struct step *step)
{
    switch ((enum step_kind)step->kind) {
    case STEP_OP:
        fprintf(to, "L%u(", step->level);
        print_operation(to, &step->op);
        fprintf(to, ")");
        break;
    case STEP_ENTER_VMX:
        fprintf(to, "ENTER_VMX");
        break;
    case STEP_PREPARE:
        print_compound(to, "PREPARE", &step->op);
        break;
    case STEP_GUEST:
        print_compound(to, "GUEST", &step->op);
        break;
    case STEP_POKE:
        fprintf(to, "POKE(");
        print_address(to, step->op.a);
        fprintf(to, ", %#llx, %u)", (unsigned long long)step->op.b, step->op.size);
        break;
    case STEP_MOVE:
        fprintf(to, "MOVE%s(%llu)", step->op.flag ? "_IN_EXIT" : "", (unsigned long long)step->op.a);
        break;
    case STEP_L0:
        fprintf(to, "L0%s(%s)", step->op.flag ? "_IN_EXIT" : "", l0_action_names[step->op.a % 7]);
        break;
    case STEP_VCPU:
        fprintf(to, "VCPU(%llu)", (unsigned long long)step->op.a);
        break;
    case STEP_WRITE_BACK:
        fprintf(to, "WRITE_BACK");
        break;
    case STEP_WAKE:
        fprintf(to, "WAKE(%s)", wake_names[step->op.a % 4]);
        break;
    }
}

void print_script(FILE *to, const struct script *script)
{
    const struct world_config *c = &script->config;
    fprintf(to, "    // processor \"%s\", %u logical processor(s), %u vcpu(s)%s%s", c->processor->name,
            c->cpu_count, c->vcpu_count, c->without_vmcs_shadowing ? ", without VMCS shadowing" : "",
            c->l0_without_large_pages ? ", ept01 of small pages" : "");
    if (c->hidden_secondary)
        fprintf(to, ", .hidden_secondary = %#x", c->hidden_secondary);
    if (c->l0_exceptions)
        fprintf(to, ", .l0_exceptions = %#x", c->l0_exceptions);
    if (c->ept02_pool_pages)
        fprintf(to, ", .ept02_pool_pages = %u", c->ept02_pool_pages);
    if (c->save_restore_one_in)
        fprintf(to, ", .save_restore_one_in = %u", c->save_restore_one_in);
    fprintf(to, ", .seed = %llu\n", (unsigned long long)c->seed);
    unsigned vcpu = 0;
    for (size_t i = 0; i < script->count; i++) {
        if (script->step[i].vcpu != vcpu)
            fprintf(to, "    VCPU(%u),\n", vcpu = script->step[i].vcpu);
        fprintf(to, "    ");
        print_step(to, &script->step[i]);
        fprintf(to, ",\n");
    }
}

void print_failure(FILE *to, const struct script *script, const struct result *result)
{
    fprintf(to, "at step %zu: %s\n", result->step, result->sentence);
    for (unsigned i = 0; result->verdict == VERDICT_DIFFERENT && i < SEEN_COUNT; i++)
        if (result->bare.value[i] != result->nested.value[i])
            fprintf(to, "    %s: %#llx is right, and it is %#llx\n", seen_name(i),
                    (unsigned long long)result->bare.value[i], (unsigned long long)result->nested.value[i]);
    if (result->refusal != NULL)
        fprintf(to, "    the last VM entry that failed, did for: %s\n", result->refusal);
    if (result->step < script->count) {
        fprintf(to, "    behind ");
        print_step(to, &script->step[result->step]);
        fprintf(to, "\n");
    }
}
