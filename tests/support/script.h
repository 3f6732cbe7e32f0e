// SPDX-License-Identifier: MIT
// Micro-operations as they are written in a test: upper case, like the instructions they stand for.
#ifndef TESTS_SCRIPT_H
#define TESTS_SCRIPT_H

#include <micro_op.h>

#define OP(...) ((struct op){__VA_ARGS__})

#define NOP                       OP(.kind = OP_NOP)
#define SET(r, value)             OP(.kind = OP_SET, .reg = (r), .a = (value))
#define JUMP(address)             OP(.kind = OP_JUMP, .a = (address))
#define CPUID(leaf)               OP(.kind = OP_CPUID, .a = (leaf))
#define RDMSR(msr)                OP(.kind = OP_RDMSR, .a = (msr))
#define WRMSR(msr, value)         OP(.kind = OP_WRMSR, .a = (msr), .b = (value))
#define IN(port)                  OP(.kind = OP_IN, .a = (port), .size = 1)
#define IN_SIZE(port, n)          OP(.kind = OP_IN, .a = (port), .size = (n))
#define OUT(port, value)          OP(.kind = OP_OUT, .a = (port), .b = (value), .size = 1)
#define OUT_SIZE(port, value, n)  OP(.kind = OP_OUT, .a = (port), .b = (value), .size = (n))
#define OUTS(port, at)            OP(.kind = OP_OUTS, .a = (port), .b = (at), .size = 1)
#define REP_OUTS(port, at)        OP(.kind = OP_OUTS, .a = (port), .b = (at), .size = 1, .flag = true)
#define INS(port, at)             OP(.kind = OP_INS, .a = (port), .b = (at), .size = 1)
#define HLT                       OP(.kind = OP_HLT)
#define PAUSE                     OP(.kind = OP_PAUSE)
#define RDTSC                     OP(.kind = OP_RDTSC)
#define RDTSCP                    OP(.kind = OP_RDTSCP)
#define RDPMC                     OP(.kind = OP_RDPMC)
#define INVLPG(at)                OP(.kind = OP_INVLPG, .a = (at))
#define INVD                      OP(.kind = OP_INVD)
#define WBINVD                    OP(.kind = OP_WBINVD)
#define MONITOR                   OP(.kind = OP_MONITOR)
#define MWAIT                     OP(.kind = OP_MWAIT)
#define XSETBV(value)             OP(.kind = OP_XSETBV, .b = (value))
#define RDRAND(r)                 OP(.kind = OP_RDRAND, .reg = (r))
#define RDSEED(r)                 OP(.kind = OP_RDSEED, .reg = (r))
#define VMFUNC(function)          OP(.kind = OP_VMFUNC, .a = (function))
#define MOV_TO_CR(n, value)       OP(.kind = OP_MOV_TO_CR, .reg = GPR_RDX, .a = (value), .b = (n))
#define MOV_FROM_CR(r, n)         OP(.kind = OP_MOV_FROM_CR, .reg = (r), .b = (n))
#define CLTS                      OP(.kind = OP_CLTS)
#define LMSW(value)               OP(.kind = OP_LMSW, .a = (value))
#define SMSW(r)                   OP(.kind = OP_SMSW, .reg = (r))
#define MOV_TO_DR(n, value)       OP(.kind = OP_MOV_TO_DR, .reg = GPR_RDX, .a = (value), .b = (n))
#define MOV_FROM_DR(r, n)         OP(.kind = OP_MOV_FROM_DR, .reg = (r), .b = (n))
#define READ(r, at)               OP(.kind = OP_READ, .reg = (r), .a = (at))
#define WRITE(at, value)          OP(.kind = OP_WRITE, .a = (at), .b = (value))
#define FETCH(at)                 OP(.kind = OP_FETCH, .a = (at))
#define INT(vector)               OP(.kind = OP_INT, .a = (vector))
#define INT3                      OP(.kind = OP_INT3)
#define INTO                      OP(.kind = OP_INTO)
#define INT1                      OP(.kind = OP_INT1)
#define UD2                       OP(.kind = OP_UD2)
#define FAULT(vector)             OP(.kind = OP_FAULT, .a = (vector))
#define FAULT_CODE(vector, code)  OP(.kind = OP_FAULT, .a = (vector), .b = (code), .flag = true)
#define IRET                      OP(.kind = OP_IRET)
#define CLI                       OP(.kind = OP_CLI)
#define STI                       OP(.kind = OP_STI)
#define MOV_SS                    OP(.kind = OP_MOV_SS)
#define SET_FLAGS(value)          OP(.kind = OP_SET_FLAGS, .a = (value))
#define SET_CPL(level)            OP(.kind = OP_SET_CPL, .a = (level))
#define TO_COMPATIBILITY_MODE     OP(.kind = OP_COMPATIBILITY, .a = 0)
#define CALL_TASK(selector)       OP(.kind = OP_TASK_SWITCH, .a = (selector))
#define JUMP_TASK(selector)       OP(.kind = OP_TASK_SWITCH, .a = (selector), .flag = true)
#define INTERRUPT_ARRIVES(vector) OP(.kind = OP_INTERRUPT_ARRIVES, .a = (vector))
#define NMI_ARRIVES               OP(.kind = OP_NMI_ARRIVES)
#define INIT_ARRIVES              OP(.kind = OP_INIT_ARRIVES)
#define SIPI_ARRIVES(vector)      OP(.kind = OP_SIPI_ARRIVES, .a = (vector))
#define TIME_PASSES(cycles)       OP(.kind = OP_TIME_PASSES, .a = (cycles))
#define FUTURE(reason)            OP(.kind = OP_FUTURE, .a = (reason))
#define FUTURE_WITH(reason, q)    OP(.kind = OP_FUTURE, .a = (reason), .b = (q))
#define FUTURE_EVENT(reason)      OP(.kind = OP_FUTURE, .a = (reason), .flag = true)
#define VMCALL                    OP(.kind = OP_VMCALL)
#define VMLAUNCH                  OP(.kind = OP_VMLAUNCH)
#define VMRESUME                  OP(.kind = OP_VMRESUME)
#define VMXOFF                    OP(.kind = OP_VMXOFF)

// A memory operand at a fixed address, in 64-bit code.
#define AT(address)                                                                                          \
    .in_memory = true, .memory = {.base = NO_REGISTER,                                                       \
                                  .index = NO_REGISTER,                                                      \
                                  .segment = SEGMENT_DS,                                                     \
                                  .address_size = 64,                                                        \
                                  .displacement = (address)}
#define VMXON(at)               OP(.kind = OP_VMXON, AT(at))
#define VMCLEAR(at)             OP(.kind = OP_VMCLEAR, AT(at))
#define VMPTRLD(at)             OP(.kind = OP_VMPTRLD, AT(at))
#define VMPTRST(at)             OP(.kind = OP_VMPTRST, AT(at))
#define VMREAD(r, encoding)     OP(.kind = OP_VMREAD, .reg = (r), .reg2 = GPR_RDX, .a = (encoding))
#define VMREAD_TO(at, encoding) OP(.kind = OP_VMREAD, .reg2 = GPR_RDX, .a = (encoding), AT(at))
#define VMWRITE(encoding, value)                                                                             \
    OP(.kind = OP_VMWRITE, .reg = GPR_RAX, .reg2 = GPR_RDX, .a = (encoding), .b = (value))
#define VMWRITE_FROM(at, encoding) OP(.kind = OP_VMWRITE, .reg2 = GPR_RDX, .a = (encoding), AT(at))
#define INVEPT(type, at)           OP(.kind = OP_INVEPT, .reg2 = GPR_RDX, .a = (type), AT(at))
#define INVVPID(type, at)          OP(.kind = OP_INVVPID, .reg2 = GPR_RDX, .a = (type), AT(at))

#endif
