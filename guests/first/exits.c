// SPDX-License-Identifier: MIT
// Exits by instructions: the reason, the instruction's length, the exit qualification; and that a control
// that is 0 lets the instruction through.
#include "first.h"
#include "trap.h"
#include "x86.h"

#define UNUSED_PORT 0xed // nothing answers, nothing minds

#define REGISTER_FORM (1u << 10) // of instruction information

static void qualification(struct cpu *cpu, uint64_t expected)
{
    fact(cpu, "its exit qualification", l2_read(VMCS_EXIT_QUALIFICATION), expected);
}

static void l2_unconditional(void)
{
    __asm__ volatile("mov $0x40000000, %%eax; mov $3, %%ecx\n"
                     "cpuid\n"
                     "mov %%ebx, %%esi\n"
                     "invd\n"
                     "vmcall"
                     :
                     :
                     : "rax", "rbx", "rcx", "rdx", "rsi", "memory");
}

void test_unconditional_exits(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_unconditional);
    if (!fact_exit(cpu, l2, "CPUID", EXIT_CPUID))
        return;
    fact(cpu, "L2's EAX", l2->gpr[GPR_RAX], 0x40000000);
    fact(cpu, "L2's ECX", l2->gpr[GPR_RCX], 3);
    fact(cpu, "its instruction length", l2_read(VMCS_VM_EXIT_INSTRUCTION_LENGTH), 2);
    qualification(cpu, 0);
    l2->gpr[GPR_RBX] = 0xabcdef0123456789;
    l2_skip();
    if (!fact_exit_skip(cpu, l2, "INVD", EXIT_INVD, 2))
        return;
    fact(cpu, "L2 saw the EBX that L1 gave", l2->gpr[GPR_RSI], 0x23456789);
    fact_exit_skip(cpu, l2, "VMCALL", EXIT_VMCALL, 3);
}

static void l2_in_out(void)
{
    __asm__ volatile("mov $0x1122334455667788, %%rax; mov %0, %%edx\n"
                     "out %%al, %%dx\n"
                     "out %%ax, %%dx\n"
                     "out %%eax, %%dx\n"
                     "out %%al, $0xed\n"
                     "in %%dx, %%al\n"
                     "in %%dx, %%eax\n"
                     "in $0xed, %%ax"
                     :
                     : "i"(UNUSED_PORT)
                     : "rax", "rdx", "memory");
}

void test_io_exits(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_in_out);
    if (!fact_exit_skip(cpu, l2, "OUT DX, AL", EXIT_IO_INSTRUCTION, 1))
        return;
    fact(cpu, "L2's RAX", l2->gpr[GPR_RAX], 0x1122334455667788);
    qualification(cpu, UNUSED_PORT << 16 | 0);
    fact_exit_skip(cpu, l2, "OUT DX, AX", EXIT_IO_INSTRUCTION, 2);
    qualification(cpu, UNUSED_PORT << 16 | 1);
    fact_exit_skip(cpu, l2, "OUT DX, EAX", EXIT_IO_INSTRUCTION, 1);
    qualification(cpu, UNUSED_PORT << 16 | 3);
    fact_exit_skip(cpu, l2, "OUT imm8, AL", EXIT_IO_INSTRUCTION, 2);
    qualification(cpu, UNUSED_PORT << 16 | 0x40);
    fact_exit_skip(cpu, l2, "IN AL, DX", EXIT_IO_INSTRUCTION, 1);
    qualification(cpu, UNUSED_PORT << 16 | 8);
    fact_exit_skip(cpu, l2, "IN EAX, DX", EXIT_IO_INSTRUCTION, 1);
    qualification(cpu, UNUSED_PORT << 16 | 0xb);
    fact_exit_skip(cpu, l2, "IN AX, imm8", EXIT_IO_INSTRUCTION, 3);
    qualification(cpu, UNUSED_PORT << 16 | 0x49);
}

static void l2_string_io(void)
{
    __asm__ volatile("mov $0x123456, %%rsi; mov $0x234567, %%rdi; mov %0, %%edx; mov $5, %%ecx\n"
                     "outsb\n"
                     "rep outsl\n"
                     "insb\n"
                     "rep insw"
                     :
                     : "i"(UNUSED_PORT)
                     : "rsi", "rdi", "rcx", "rdx", "memory");
}

void test_string_io_exits(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_string_io);
    if (!fact_exit_skip(cpu, l2, "OUTSB", EXIT_IO_INSTRUCTION, 1))
        return;
    qualification(cpu, UNUSED_PORT << 16 | 0x10);
    fact(cpu, "its guest-linear address", l2_read(VMCS_GUEST_LINEAR_ADDRESS), 0x123456);
    fact_exit_skip(cpu, l2, "REP OUTSD", EXIT_IO_INSTRUCTION, 2);
    qualification(cpu, UNUSED_PORT << 16 | 0x33);
    fact(cpu, "its guest-linear address", l2_read(VMCS_GUEST_LINEAR_ADDRESS), 0x123456);
    fact(cpu, "L2's RCX", l2->gpr[GPR_RCX], 5);
    fact_exit_skip(cpu, l2, "INSB", EXIT_IO_INSTRUCTION, 1);
    qualification(cpu, UNUSED_PORT << 16 | 0x18);
    fact(cpu, "its guest-linear address", l2_read(VMCS_GUEST_LINEAR_ADDRESS), 0x234567);
    fact_exit_skip(cpu, l2, "REP INSW", EXIT_IO_INSTRUCTION, 3);
    qualification(cpu, UNUSED_PORT << 16 | 0x39);
}

static void l2_msrs(void)
{
    __asm__ volatile("mov $0x175, %%ecx; mov $0x11, %%eax; mov $0x22, %%edx\n"
                     "rdmsr\n"
                     "mov $0xc0000081, %%ecx\n"
                     "wrmsr\n"
                     "mov $0x12345678, %%ecx\n" // no processor has it: the exit comes before #GP
                     "rdmsr"
                     :
                     :
                     : "rax", "rcx", "rdx", "memory");
}

void test_msr_exits(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_msrs);
    if (!fact_exit_skip(cpu, l2, "RDMSR", EXIT_RDMSR, 2))
        return;
    fact(cpu, "L2's RCX", l2->gpr[GPR_RCX], 0x175);
    qualification(cpu, 0);
    l2->gpr[GPR_RAX] = 0x44;
    fact_exit_skip(cpu, l2, "WRMSR", EXIT_WRMSR, 2);
    fact(cpu, "L2's RCX", l2->gpr[GPR_RCX], 0xc0000081);
    fact(cpu, "L2's RAX", l2->gpr[GPR_RAX], 0x44);
    fact(cpu, "L2's RDX", l2->gpr[GPR_RDX], 0x22);
    fact_exit_skip(cpu, l2, "RDMSR of what does not exist", EXIT_RDMSR, 2);
    fact(cpu, "L2's RCX", l2->gpr[GPR_RCX], 0x12345678);
}

static void l2_hlt(void)
{
    __asm__ volatile("hlt; hlt");
}

void test_hlt_exits(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_hlt);
    if (!fact_exit_skip(cpu, l2, "HLT", EXIT_HLT, 1))
        return;
    qualification(cpu, 0);
    fact(cpu, "activity state", l2_read(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_ACTIVE);
    fact_exit_skip(cpu, l2, "HLT", EXIT_HLT, 1);
    fact_call(cpu, l2, "L2 returns", L2_RETURNED);
}

// Executes `code` with a control that is 0 (no exit: L2 returns), then with it 1.
static bool exit_controlled(struct cpu *cpu, const char *name, void (*code)(void), uint32_t field,
                            uint32_t control, uint32_t reason, uint32_t length)
{
    if (!fact_offered(cpu, name, field, control))
        return false;
    struct l2 *l2 = l2_create(cpu, code);
    if (!(l2_read(field) & control))
        fact_call(cpu, l2, name, L2_RETURNED);
    if (field == VMCS_SECONDARY_CONTROLS)
        l2_set_secondary(control);
    else
        l2_set(field, control);
    l2_restart(l2, code);
    return fact_exit_skip(cpu, l2, name, reason, length);
}

static void l2_invlpg(void)
{
    __asm__ volatile("invlpg (%0)" : : "a"(0x7654321ul));
}

static void l2_rdtsc(void)
{
    __asm__ volatile("rdtsc" : : : "rax", "rdx");
}

static void l2_pause(void)
{
    __asm__ volatile("pause");
}

static void l2_wbinvd(void)
{
    __asm__ volatile("wbinvd" : : : "memory");
}

static void l2_rdrand(void)
{
    __asm__ volatile("rdrand %%ebx" : : : "rbx", "cc");
}

static void l2_rdseed(void)
{
    __asm__ volatile("rdseed %%r9" : : : "r9", "cc");
}

static void l2_store_cr3(void)
{
    __asm__ volatile("mov %%cr3, %%rbx" : : : "rbx");
}

static void l2_load_cr3(void)
{
    __asm__ volatile("mov %%cr3, %%r8; mov %%r8, %%cr3" : : : "r8", "memory");
}

static void l2_load_dr(void)
{
    __asm__ volatile("mov %0, %%dr2" : : "b"(0x1234ul));
}

static void l2_store_cr8(void)
{
    __asm__ volatile("mov %%cr8, %%r11" : : : "r11");
}

static void l2_load_cr8(void)
{
    __asm__ volatile("mov %0, %%cr8" : : "d"(0ul));
}

void test_controlled_exits(struct cpu *cpu)
{
    const uint32_t primary = VMCS_PRIMARY_CONTROLS, secondary = VMCS_SECONDARY_CONTROLS;
    if (exit_controlled(cpu, "INVLPG", l2_invlpg, primary, PRIMARY_INVLPG_EXITING, EXIT_INVLPG, 3))
        qualification(cpu, 0x7654321);
    exit_controlled(cpu, "RDTSC", l2_rdtsc, primary, PRIMARY_RDTSC_EXITING, EXIT_RDTSC, 2);
    exit_controlled(cpu, "PAUSE", l2_pause, primary, PRIMARY_PAUSE_EXITING, EXIT_PAUSE, 2);
    if (exit_controlled(cpu, "MOV from CR3", l2_store_cr3, primary, PRIMARY_CR3_STORE_EXITING,
                        EXIT_CONTROL_REGISTER_ACCESS, 3))
        qualification(cpu, 0x313);
    if (exit_controlled(cpu, "MOV to CR3", l2_load_cr3, primary, PRIMARY_CR3_LOAD_EXITING,
                        EXIT_CONTROL_REGISTER_ACCESS, 4))
        qualification(cpu, 0x803);
    if (exit_controlled(cpu, "MOV to DR2", l2_load_dr, primary, PRIMARY_MOV_DR_EXITING, EXIT_MOV_DR, 3))
        qualification(cpu, 0x302);
    if (exit_controlled(cpu, "MOV from CR8", l2_store_cr8, primary, PRIMARY_CR8_STORE_EXITING,
                        EXIT_CONTROL_REGISTER_ACCESS, 4))
        qualification(cpu, 0xb18);
    if (exit_controlled(cpu, "MOV to CR8", l2_load_cr8, primary, PRIMARY_CR8_LOAD_EXITING,
                        EXIT_CONTROL_REGISTER_ACCESS, 4))
        qualification(cpu, 0x208);
    exit_controlled(cpu, "WBINVD", l2_wbinvd, secondary, SECONDARY_WBINVD_EXITING, EXIT_WBINVD, 2);
    if (exit_controlled(cpu, "RDRAND", l2_rdrand, secondary, SECONDARY_RDRAND_EXITING, EXIT_RDRAND, 3))
        fact(cpu, "its instruction information", l2_read(VMCS_VM_EXIT_INSTRUCTION_INFO) & 0x1878, 0x818);
    if (exit_controlled(cpu, "RDSEED", l2_rdseed, secondary, SECONDARY_RDSEED_EXITING, EXIT_RDSEED, 4))
        fact(cpu, "its instruction information", l2_read(VMCS_VM_EXIT_INSTRUCTION_INFO) & 0x1878, 0x1048);
}

// What has no harmless execution: only with the control 1.
static void l2_monitor(void)
{
    __asm__ volatile("mov $0x1000, %%eax; xor %%ecx, %%ecx; xor %%edx, %%edx\n"
                     "monitor\n"
                     "mwait"
                     :
                     :
                     : "rax", "rcx", "rdx");
}

static void l2_rdpmc(void)
{
    __asm__ volatile("rdpmc" : : "c"(0) : "rax", "rdx");
}

void test_more_controlled_exits(struct cpu *cpu)
{
    if (fact_offered(cpu, "MONITOR and MWAIT exiting", VMCS_PRIMARY_CONTROLS,
                     PRIMARY_MONITOR_EXITING | PRIMARY_MWAIT_EXITING)) {
        struct l2 *l2 = l2_create(cpu, l2_monitor);
        l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_MONITOR_EXITING | PRIMARY_MWAIT_EXITING);
        fact_exit_skip(cpu, l2, "MONITOR", EXIT_MONITOR, 3);
        if (fact_exit_skip(cpu, l2, "MWAIT", EXIT_MWAIT, 3))
            qualification(cpu, 0); // the monitor is not armed
    }
    if (fact_offered(cpu, "RDPMC exiting", VMCS_PRIMARY_CONTROLS, PRIMARY_RDPMC_EXITING)) {
        struct l2 *l2 = l2_create(cpu, l2_rdpmc);
        l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_RDPMC_EXITING);
        fact_exit_skip(cpu, l2, "RDPMC", EXIT_RDPMC, 2);
    }
}

static void rdtscp(void *unused)
{
    (void)unused;
    __asm__ volatile("rdtscp" : : : "rax", "rcx", "rdx");
}

static void invpcid(void *unused)
{
    static const uint64_t descriptor[2];
    (void)unused;
    __asm__ volatile("invpcid %0, %1" : : "m"(descriptor), "r"(2ul) : "memory"); // 2: all contexts
}

// Tells L1 what became of an instruction: 0, or 0x100 + vector.
static void l2_try(void (*function)(void *))
{
    bool trapped = trap_catch(function, NULL);
    l2_call(trapped ? 0x100 + cpu_self()->trap.vector : 0);
}

static void l2_rdtscp(void)
{
    l2_try(rdtscp);
}

static void l2_invpcid(void)
{
    l2_try(invpcid);
}

// Instructions that a control enables, and then another one makes exit.
void test_enabled_instructions(struct cpu *cpu)
{
    if (fact_offered(cpu, "RDTSCP", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_RDTSCP)) {
        struct l2 *l2 = l2_create(cpu, l2_rdtscp);
        fact_call(cpu, l2, "RDTSCP not enabled: #UD", 0x106);
        l2_set_secondary(SECONDARY_ENABLE_RDTSCP);
        l2_restart(l2, l2_rdtscp);
        fact_call(cpu, l2, "RDTSCP enabled: no exception", 0);
        l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_RDTSC_EXITING);
        l2_restart(l2, l2_rdtscp);
        fact_exit_skip(cpu, l2, "RDTSCP with RDTSC exiting", EXIT_RDTSCP, 3);
        l2_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_RDTSCP);
        l2_restart(l2, l2_rdtscp);
        cpu->recovery_rsp = 0; // L2 was cut off inside trap_catch
        fact_call(cpu, l2, "RDTSCP not enabled, RDTSC exiting: #UD", 0x106);
    }
    if (fact_offered(cpu, "INVPCID", VMCS_SECONDARY_CONTROLS, SECONDARY_ENABLE_INVPCID)) {
        struct l2 *l2 = l2_create(cpu, l2_invpcid);
        fact_call(cpu, l2, "INVPCID not enabled: #UD", 0x106);
        l2_set_secondary(SECONDARY_ENABLE_INVPCID);
        l2_restart(l2, l2_invpcid);
        fact_call(cpu, l2, "INVPCID enabled: no exception", 0);
        l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_INVLPG_EXITING);
        l2_restart(l2, l2_invpcid);
        fact_exit_skip(cpu, l2, "INVPCID with INVLPG exiting", EXIT_INVPCID, 9);
        cpu->recovery_rsp = 0;
    }
}

static void l2_descriptor_tables(void)
{
    static struct x86_table_pointer pointer;
    __asm__ volatile("sgdt (%0)\n"
                     "lgdt 0x40(%0)\n"
                     "sidt (%0,%1,4)\n"
                     "lidt (%0)\n"
                     "sldt %%ebx\n"
                     "str (%0)\n"
                     "lldt %%cx\n"
                     "ltr %%cx"
                     :
                     : "d"(&pointer), "S"(0ul)
                     : "rbx", "rcx", "memory");
}

// Instruction information: scaling 1:0, register 6:3 (of LDTR/TR), address size 9:7, register form 10,
// segment 17:15, index 21:18, invalid 22, base 26:23, invalid 27, identity 29:28. What the manual leaves
// undefined is masked. The exit qualification is the displacement; of a register form it should be 0, but
// Bochs 3.0 has old decoder contents in it.
void test_descriptor_table_exits(struct cpu *cpu)
{
    if (!fact_offered(cpu, "descriptor-table exiting", VMCS_SECONDARY_CONTROLS,
                      SECONDARY_DESCRIPTOR_TABLE_EXITING))
        return;
    static const struct {
        const char *name;
        uint32_t reason, length, information_mask, information;
        uint64_t qualification;
    } exits[] = {
        {"SGDT (RDX)", EXIT_GDTR_IDTR_ACCESS, 3, 0x3fc38380, 2 << 23 | 1 << 22 | 3 << 15 | 2 << 7, 0},
        {"LGDT 0x40(RDX)", EXIT_GDTR_IDTR_ACCESS, 4, 0x3fc38380,
         2 << 28 | 2 << 23 | 1 << 22 | 3 << 15 | 2 << 7, 0x40},
        {"SIDT (RDX, RSI, 4)", EXIT_GDTR_IDTR_ACCESS, 4, 0x3fff8383,
         1 << 28 | 2 << 23 | 6 << 18 | 3 << 15 | 2 << 7 | 2, 0},
        {"LIDT (RDX)", EXIT_GDTR_IDTR_ACCESS, 3, 0x3fc38380, 3 << 28 | 2 << 23 | 1 << 22 | 3 << 15 | 2 << 7,
         0},
        {"SLDT EBX", EXIT_LDTR_TR_ACCESS, 3, 0x30000478, 0 << 28 | 1 << 10 | 3 << 3, 0},
        {"STR (RDX)", EXIT_LDTR_TR_ACCESS, 3, 0x3fc38780, 1 << 28 | 2 << 23 | 1 << 22 | 3 << 15 | 2 << 7, 0},
        {"LLDT CX", EXIT_LDTR_TR_ACCESS, 3, 0x30000478, 2 << 28 | 1 << 10 | 1 << 3, 0},
        {"LTR CX", EXIT_LDTR_TR_ACCESS, 3, 0x30000478, 3 << 28 | 1 << 10 | 1 << 3, 0},
    };
    struct l2 *l2 = l2_create(cpu, l2_descriptor_tables);
    l2_set_secondary(SECONDARY_DESCRIPTOR_TABLE_EXITING);
    for (uint32_t i = 0; i < sizeof(exits) / sizeof(exits[0]); i++) {
        if (!fact_exit_skip(cpu, l2, exits[i].name, exits[i].reason, exits[i].length))
            return;
        if (!(exits[i].information & REGISTER_FORM))
            qualification(cpu, exits[i].qualification);
        fact(cpu, "its instruction information",
             l2_read(VMCS_VM_EXIT_INSTRUCTION_INFO) & exits[i].information_mask, exits[i].information);
    }
}

static void l2_vmx_instructions(void)
{
    static uint64_t operand[2];
    __asm__ volatile("vmxon (%0)\n"
                     "vmxoff\n"
                     "vmclear 0x12345678(%0)\n"
                     "vmptrld (%0)\n"
                     "vmptrst -8(%0)\n"
                     "vmread %%rbx, %%r9\n"
                     "vmread %%rbx, (%0)\n"
                     "vmwrite %%rcx, %%r10\n"
                     "vmwrite (%0,%1,2), %%rsi\n"
                     "vmlaunch\n"
                     "vmresume\n"
                     "invept (%0), %%rsi\n"
                     "invvpid %%gs:(%0), %%rcx"
                     :
                     : "d"(operand), "D"(0ul)
                     : "rbx", "rcx", "r9", "r10", "memory");
}

// As above; a second register in 31:28.
void test_vmx_instruction_exits(struct cpu *cpu)
{
    const uint32_t memory = 2 << 23 | 1 << 22 | 3 << 15 | 2 << 7; // (RDX)
    const struct {
        const char *name;
        uint32_t reason, length, information_mask, information;
        uint64_t qualification;
    } exits[] = {
        {"VMXON (RDX)", EXIT_VMXON, 4, 0x0fc38380, memory, 0},
        {"VMXOFF", EXIT_VMXOFF, 3, 0, 0, 0},
        {"VMCLEAR 0x12345678(RDX)", EXIT_VMCLEAR, 8, 0x0fc38380, memory, 0x12345678},
        {"VMPTRLD (RDX)", EXIT_VMPTRLD, 3, 0x0fc38380, memory, 0},
        {"VMPTRST -8(RDX)", EXIT_VMPTRST, 4, 0x0fc38380, memory, ~7ull},
        {"VMREAD R9, RBX", EXIT_VMREAD, 4, 0xf0000478, 3u << 28 | 1 << 10 | 9 << 3, 0},
        {"VMREAD (RDX), RBX", EXIT_VMREAD, 3, 0xffc38780, 3u << 28 | memory, 0},
        {"VMWRITE R10, RCX", EXIT_VMWRITE, 4, 0xf0000478, 10u << 28 | 1 << 10 | 1 << 3, 0},
        {"VMWRITE RSI, (RDX, RDI, 2)", EXIT_VMWRITE, 4, 0xffff8783,
         6u << 28 | 2 << 23 | 7 << 18 | 3 << 15 | 2 << 7 | 1, 0},
        {"VMLAUNCH", EXIT_VMLAUNCH, 3, 0, 0, 0},
        {"VMRESUME", EXIT_VMRESUME, 3, 0, 0, 0},
        {"INVEPT RSI, (RDX)", EXIT_INVEPT, 5, 0xffc38380, 6u << 28 | memory, 0},
        {"INVVPID RCX, GS:(RDX)", EXIT_INVVPID, 6, 0xffc38380,
         1u << 28 | 2 << 23 | 1 << 22 | 5 << 15 | 2 << 7, 0},
    };
    struct l2 *l2 = l2_create(cpu, l2_vmx_instructions);
    for (uint32_t i = 0; i < sizeof(exits) / sizeof(exits[0]); i++) {
        if (!fact_exit_skip(cpu, l2, exits[i].name, exits[i].reason, exits[i].length))
            return;
        if (!(exits[i].information & REGISTER_FORM))
            qualification(cpu, exits[i].qualification);
        if (exits[i].information_mask)
            fact(cpu, "its instruction information",
                 l2_read(VMCS_VM_EXIT_INSTRUCTION_INFO) & exits[i].information_mask, exits[i].information);
    }
    fact_call(cpu, l2, "L2 returns", L2_RETURNED);
}

static void vmxon_at_cpl_0(void *unused)
{
    static uint64_t pointer;
    (void)unused;
    vmx_vmxon(pointer);
}

static void l2_vmxon(void)
{
    l2_try(vmxon_at_cpl_0);
}

// The exit comes only after #UD: with CR4.VMXE hidden from L2 by the mask it is still the real bit that
// counts, which is 1 in VMX operation; so VMXON exits even where L2 reads VMXE as 0.
void test_vmx_instruction_priority(struct cpu *cpu)
{
    struct l2 *l2 = l2_create(cpu, l2_vmxon);
    l2_write(VMCS_CR4_GUEST_HOST_MASK, CR4_VMXE);
    l2_write(VMCS_CR4_READ_SHADOW, 0);
    fact_exit(cpu, l2, "VMXON where L2 reads CR4.VMXE as 0", EXIT_VMXON);
    l2_skip();
    fact_call(cpu, l2, "L2 goes on", 0);
}
