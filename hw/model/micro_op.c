// SPDX-License-Identifier: MIT
// Names of the micro-operations, and how many bytes the instruction that each stands for takes.
#include "micro_op.h"

static const struct {
    const char *name;
    uint8_t length; // with a register operand or none
} ops[OP_KIND_COUNT] = {
    [OP_NOP] = {"NOP", 1},
    [OP_END] = {"(end)", 1},
    [OP_SET] = {"MOV r, imm", 10},
    [OP_JUMP] = {"JMP", 5},
    [OP_CPUID] = {"CPUID", 2},
    [OP_RDMSR] = {"RDMSR", 2},
    [OP_WRMSR] = {"WRMSR", 2},
    [OP_IN] = {"IN", 1},
    [OP_OUT] = {"OUT", 1},
    [OP_OUTS] = {"OUTS", 2},
    [OP_INS] = {"INS", 2},
    [OP_HLT] = {"HLT", 1},
    [OP_PAUSE] = {"PAUSE", 2},
    [OP_RDTSC] = {"RDTSC", 2},
    [OP_RDTSCP] = {"RDTSCP", 3},
    [OP_RDPMC] = {"RDPMC", 2},
    [OP_INVLPG] = {"INVLPG", 3},
    [OP_INVPCID] = {"INVPCID", 5},
    [OP_INVD] = {"INVD", 2},
    [OP_WBINVD] = {"WBINVD", 2},
    [OP_MONITOR] = {"MONITOR", 3},
    [OP_MWAIT] = {"MWAIT", 3},
    [OP_XSETBV] = {"XSETBV", 3},
    [OP_RDRAND] = {"RDRAND", 4},
    [OP_RDSEED] = {"RDSEED", 4},
    [OP_XSAVES] = {"XSAVES", 4},
    [OP_XRSTORS] = {"XRSTORS", 4},
    [OP_GETSEC] = {"GETSEC", 2},
    [OP_RSM] = {"RSM", 2},
    [OP_ENCLS] = {"ENCLS", 3},
    [OP_VMFUNC] = {"VMFUNC", 3},
    [OP_SGDT] = {"SGDT", 3},
    [OP_SIDT] = {"SIDT", 3},
    [OP_LGDT] = {"LGDT", 3},
    [OP_LIDT] = {"LIDT", 3},
    [OP_SLDT] = {"SLDT", 3},
    [OP_STR] = {"STR", 3},
    [OP_LLDT] = {"LLDT", 3},
    [OP_LTR] = {"LTR", 3},
    [OP_MOV_TO_CR] = {"MOV CRn, r", 3},
    [OP_MOV_FROM_CR] = {"MOV r, CRn", 3},
    [OP_CLTS] = {"CLTS", 2},
    [OP_LMSW] = {"LMSW", 3},
    [OP_SMSW] = {"SMSW", 3},
    [OP_MOV_TO_DR] = {"MOV DRn, r", 3},
    [OP_MOV_FROM_DR] = {"MOV r, DRn", 3},
    [OP_READ] = {"MOV r, [m]", 8},
    [OP_WRITE] = {"MOV [m], r", 8},
    [OP_FETCH] = {"(fetch)", 6},
    [OP_INT] = {"INT n", 2},
    [OP_INT3] = {"INT3", 1},
    [OP_INTO] = {"INTO", 1},
    [OP_INT1] = {"INT1", 1},
    [OP_UD2] = {"UD2", 2},
    [OP_FAULT] = {"(a faulting instruction)", 4},
    [OP_IRET] = {"IRET", 2},
    [OP_CLI] = {"CLI", 1},
    [OP_STI] = {"STI", 1},
    [OP_MOV_SS] = {"MOV SS, r", 2},
    [OP_SET_FLAGS] = {"POPF", 1},
    [OP_SET_CPL] = {"(change of CPL)", 3},
    [OP_TASK_SWITCH] = {"CALL far to a TSS", 7},
    [OP_COMPATIBILITY] = {"JMP far", 6},
    [OP_FUTURE] = {"(instruction of a later processor)", 4},
    [OP_INTERRUPT_ARRIVES] = {"(interrupt arrives)", 1},
    [OP_NMI_ARRIVES] = {"(NMI arrives)", 1},
    [OP_INIT_ARRIVES] = {"(INIT arrives)", 1},
    [OP_SIPI_ARRIVES] = {"(SIPI arrives)", 1},
    [OP_TIME_PASSES] = {"(time passes)", 1},
    [OP_VMCALL] = {"VMCALL", 3},
    [OP_VMXON] = {"VMXON", 4},
    [OP_VMXOFF] = {"VMXOFF", 3},
    [OP_VMCLEAR] = {"VMCLEAR", 4},
    [OP_VMPTRLD] = {"VMPTRLD", 3},
    [OP_VMPTRST] = {"VMPTRST", 3},
    [OP_VMREAD] = {"VMREAD", 3},
    [OP_VMWRITE] = {"VMWRITE", 3},
    [OP_VMLAUNCH] = {"VMLAUNCH", 3},
    [OP_VMRESUME] = {"VMRESUME", 3},
    [OP_INVEPT] = {"INVEPT", 5},
    [OP_INVVPID] = {"INVVPID", 5},
};

const char *op_name(enum op_kind kind)
{
    return kind < OP_KIND_COUNT ? ops[kind].name : "?";
}

unsigned op_length(const struct op *op)
{
    if (op->length != 0)
        return op->length;
    unsigned length = ops[op->kind].length;
    if (op->in_memory) // SIB and displacement
        length += 1 + (op->memory.displacement == (int8_t)op->memory.displacement ? 1 : 4);
    return length;
}
