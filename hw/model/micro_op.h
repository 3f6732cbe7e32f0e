// SPDX-License-Identifier: MIT
// Micro-operations: what guests (and a bare L1) execute in place of machine code. A program is a row of them,
// laid out from a linear address on, each as long as the instruction it stands for, so that the instruction
// pointer is a real one: it says which operation comes next, and an instruction length that is one off lands
// in the middle of an instruction, which the model reports.
//
// An operation first loads the registers it names (as a MOV before it would), then does its work.
#ifndef MODEL_MICRO_OP_H
#define MODEL_MICRO_OP_H

#include <nvmx/types.h>

enum op_kind {
    // what any processor does
    OP_NOP,
    OP_END, // the program ends here: control goes to the test
    OP_SET, // register `reg` = a
    OP_JUMP,
    OP_CPUID,   // eax = a, ecx = b
    OP_RDMSR,   // ecx = a
    OP_WRMSR,   // ecx = a, edx:eax = b
    OP_IN,      // port a, `size` bytes
    OP_OUT,     // port a, value b
    OP_OUTS,    // port a, from linear address b, one element or (flag) a REP of them
    OP_INS,     // port a, to linear address b
    OP_HLT,     //
    OP_PAUSE,   //
    OP_RDTSC,   //
    OP_RDTSCP,  //
    OP_RDPMC,   // ecx = a
    OP_INVLPG,  // linear address a
    OP_INVPCID, // type in `reg`, descriptor in memory
    OP_INVD,    //
    OP_WBINVD,  //
    OP_MONITOR, //
    OP_MWAIT,   //
    OP_XSETBV,  // ecx = a, edx:eax = b
    OP_RDRAND,  // into `reg`
    OP_RDSEED,
    OP_XSAVES,
    OP_XRSTORS,
    OP_GETSEC,
    OP_RSM,
    OP_ENCLS,
    OP_VMFUNC,        // eax = a, ecx = b
    OP_SGDT,          // the four that store and load descriptor-table registers: memory operand
    OP_SIDT,          //
    OP_LGDT,          //
    OP_LIDT,          //
    OP_SLDT,          // and these have a register or memory operand
    OP_STR,           //
    OP_LLDT,          //
    OP_LTR,           //
    OP_MOV_TO_CR,     // control register b = register `reg`, which is set to a first
    OP_MOV_FROM_CR,   // register `reg` = control register b
    OP_CLTS,          //
    OP_LMSW,          // a
    OP_SMSW,          // register `reg`
    OP_MOV_TO_DR,     // debug register b = register `reg`, which is set to a first
    OP_MOV_FROM_DR,   //
    OP_READ,          // register `reg` = 8 bytes at linear address a
    OP_WRITE,         // 8 bytes at linear address a = b
    OP_FETCH,         // an instruction fetch from linear address a
    OP_INT,           // INT n
    OP_INT3,          //
    OP_INTO,          //
    OP_INT1,          //
    OP_UD2,           //
    OP_FAULT,         // whatever raises exception a, with error code b if `flag`
    OP_IRET,          //
    OP_CLI,           //
    OP_STI,           //
    OP_MOV_SS,        // MOV to SS of what SS holds
    OP_SET_FLAGS,     // POPF: RFLAGS = a
    OP_SET_CPL,       // stands for a change of privilege: CPL = a (0 or 3), without an exit
    OP_TASK_SWITCH,   // CALL (flag: JMP) far to the TSS selector a
    OP_COMPATIBILITY, // stands for a far jump: CS.L = a, CS.D = !a
    OP_FUTURE, // an instruction of a later processor: in non-root operation it exits, with reason a and
               // qualification b; `flag`: an event behind it does

    // what happens around the processor while this instruction (a NOP) executes
    OP_INTERRUPT_ARRIVES, // external interrupt with vector a
    OP_NMI_ARRIVES,
    OP_INIT_ARRIVES,
    OP_SIPI_ARRIVES, // vector a
    OP_TIME_PASSES,  // a cycles of the time-stamp counter

    // the VMX instructions
    OP_VMCALL,
    OP_VMXON, // memory operand: the region's physical address
    OP_VMXOFF,
    OP_VMCLEAR,
    OP_VMPTRLD,
    OP_VMPTRST,
    OP_VMREAD,  // encoding in `reg2`, destination: register `reg` or memory
    OP_VMWRITE, // encoding in `reg2`, source: register `reg` or memory
    OP_VMLAUNCH,
    OP_VMRESUME,
    OP_INVEPT, // type in `reg2`, descriptor in memory
    OP_INVVPID,
    OP_KIND_COUNT
};

// A memory operand, as the instruction encodes it.
struct memory_operand {
    int8_t base, index;   // GPR_x; NO_REGISTER: none
    uint8_t scale;        // 0..3: the index is multiplied by 1, 2, 4, 8
    uint8_t segment;      // SEGMENT_x
    uint8_t address_size; // 16, 32 or 64
    int64_t displacement;
};
#define NO_REGISTER (-1)

struct op {
    enum op_kind kind;
    uint8_t length; // bytes of the instruction; 0: the usual ones (op_length)
    uint8_t reg, reg2, size;
    bool flag;
    bool in_memory; // the operand is `memory`, not register `reg`
    struct memory_operand memory;
    uint64_t a, b;
};

const char *op_name(enum op_kind kind);
unsigned op_length(const struct op *op);

// Segment registers, in the order of the instruction encoding; SEGMENT_NAME_COUNT of them live in registers.
enum segment_name {
    SEGMENT_ES,
    SEGMENT_CS,
    SEGMENT_SS,
    SEGMENT_DS,
    SEGMENT_FS,
    SEGMENT_GS,
    SEGMENT_LDTR,
    SEGMENT_TR,
    SEGMENT_NAME_COUNT
};

// A row of operations at linear address `base`, run at nesting level `level` (1: L1, 2: L2). The machine
// keeps a copy of the descriptor, not of the operations.
struct program {
    const char *name;
    uint64_t base;
    unsigned level;
    const struct op *op;
    unsigned count;
};

#endif
