// SPDX-License-Identifier: MIT
// Instructions that leave the guest, or that another feature brings along, in every mode. What they do is
// compared with the processor itself; that L0 goes on is the point.
#include "console.h"
#include "hostile.h"
#include "x86.h"

static const struct {
    const char *name;
    const char *code;
    uint8_t size;
    uint32_t ecx;
} opcodes[] = {
    {"SEAMCALL", "\x66\x0f\x01\xcf", 4, 0},
    {"SEAMOPS", "\x66\x0f\x01\xce", 4, 0},
    {"SEAMRET", "\x66\x0f\x01\xcd", 4, 0},
    {"TDCALL", "\x66\x0f\x01\xcc", 4, 0},
    {"ENCLS", "\x0f\x01\xcf", 3, 0},
    {"ENCLU", "\x0f\x01\xd7", 3, 0},
    {"ENCLV", "\x0f\x01\xc0", 3, 0},
    {"PCONFIG", "\x0f\x01\xc5", 3, 0},
    {"PBNDKB", "\x0f\x01\xc7", 3, 0},
    {"WRMSRNS", "\x0f\x01\xc6", 3, 0x10},
    {"RDMSRLIST", "\xf2\x0f\x01\xc6", 4, 0},
    {"WRMSRLIST", "\xf3\x0f\x01\xc6", 4, 0},
    {"GETSEC", "\x0f\x37", 2, 0},
    {"RSM", "\x0f\xaa", 2, 0},
    {"VMFUNC", "\x0f\x01\xd4", 3, 0},
    {"VMFUNC 63", "\x0f\x01\xd4", 3, 63},
    {"VMCALL", "\x0f\x01\xc1", 3, 0},
    {"VMRUN", "\x0f\x01\xd8", 3, 0},
    {"VMMCALL", "\x0f\x01\xd9", 3, 0},
    {"CLGI", "\x0f\x01\xdd", 3, 0},
    {"SKINIT", "\x0f\x01\xde", 3, 0},
    {"INVLPGA", "\x0f\x01\xdf", 3, 0},
    {"XGETBV", "\x0f\x01\xd0", 3, 0},
    {"XEND", "\x0f\x01\xd5", 3, 0},
    {"XTEST", "\x0f\x01\xd6", 3, 0},
    {"XSAVES", "\x0f\xc7\x2e", 3, 0},
    {"XRSTORS", "\x0f\xc7\x1e", 3, 0},
    {"MONITOR", "\x0f\x01\xc8", 3, 0},
    {"MONITOR, extension", "\x0f\x01\xc8", 3, 1},
    {"MWAIT, extension", "\x0f\x01\xc9", 3, 0x80},
    {"CLAC", "\x0f\x01\xca", 3, 0},
    {"STAC", "\x0f\x01\xcb", 3, 0},
    {"ERETU", "\xf3\x0f\x01\xca", 4, 0},
    {"ERETS", "\xf2\x0f\x01\xca", 4, 0},
    {"LKGS", "\xf2\x0f\x00\xf0", 4, 0},
    {"RDPKRU", "\x0f\x01\xee", 3, 0},
    {"WRPKRU", "\x0f\x01\xef", 3, 0},
    {"SENDUIPI", "\xf3\x0f\xc7\xf0", 4, 0},
    {"UIRET", "\xf3\x0f\x01\xec", 4, 0},
    {"CLUI", "\xf3\x0f\x01\xee", 4, 0},
    {"STUI", "\xf3\x0f\x01\xef", 4, 0},
    {"SETSSBSY", "\xf3\x0f\x01\xe8", 4, 0},
    {"SAVEPREVSSP", "\xf3\x0f\x01\xea", 4, 0},
    {"WRSSQ", "\x48\x0f\x38\xf6\x06", 5, 0},
    {"WRUSSQ", "\x66\x48\x0f\x38\xf5\x06", 6, 0},
    {"CLRSSBSY", "\xf3\x0f\xae\x36", 4, 0},
    {"HRESET", "\xf3\x0f\x3a\xf0\xc0\x00", 6, 0},
    {"LOADIWKEY", "\xf3\x0f\x38\xdc\xc1", 5, 0},
    {"PTWRITE", "\xf3\x0f\xae\xe0", 4, 0},
    {"RDFSBASE", "\xf3\x48\x0f\xae\xc0", 5, 0},
    {"UMONITOR", "\xf3\x0f\xae\xf0", 4, 0},
    {"ENQCMD", "\xf2\x0f\x38\xf8\x06", 5, 0},
    {"ENQCMDS", "\xf3\x0f\x38\xf8\x06", 5, 0},
    {"MOVDIR64B", "\x66\x0f\x38\xf8\x36", 5, 0},
    {"URDMSR", "\xf2\x0f\x38\xf8\xc1", 5, 0},
    {"WBINVD", "\x0f\x09", 2, 0},
    {"WBNOINVD", "\xf3\x0f\x09", 3, 0},
    {"INVD", "\x0f\x08", 2, 0},
    {"CLTS", "\x0f\x06", 2, 0},
    {"LMSW", "\x0f\x01\xf1", 3, 0x31},
    {"LMSW, all bits", "\x0f\x01\xf1", 3, 0xffff},
    {"MOV from CR1", "\x0f\x20\xc8", 3, 0},
    {"MOV to CR1", "\x0f\x22\xc8", 3, 0},
    {"MOV to CR5", "\x0f\x22\xe8", 3, 0},
    {"MOV to CR7", "\x0f\x22\xf8", 3, 0},
    {"MOV to CR8, reserved bits", "\x44\x0f\x22\xc1", 4, 0xffff},
    {"MOV to CR9", "\x44\x0f\x22\xc9", 4, 0},
    {"MOV to CR15", "\x44\x0f\x22\xf9", 4, 0},
    {"MOV from DR4", "\x0f\x21\xe0", 3, 0},
    {"MOV to DR7, reserved bits", "\x48\x0f\x23\xf9", 4, 0xffffffff},
    {"SWAPGS", "\x0f\x01\xf8", 3, 0},
    {"RDTSCP", "\x0f\x01\xf9", 3, 0},
    {"MONITORX", "\x0f\x01\xfa", 3, 0},
    {"RDPRU", "\x0f\x01\xfd", 3, 0},
    {"INVLPGB", "\x0f\x01\xfe", 3, 0},
    {"TLBSYNC", "\x0f\x01\xff", 3, 0},
    {"INVPCID, type 9", "\x66\x0f\x38\x82\x0e", 5, 9},
    {"CLI", "\xfa", 1, 0},
    {"INT 0x20", "\xcd\x20", 2, 0},
    {"INT 0xff", "\xcd\xff", 2, 0},
    {"INTO", "\xce", 1, 0},
    {"BOUND", "\x62\x06", 2, 0},
    {"UD0", "\x0f\xff\xc0", 3, 0},
    {"UD1", "\x0f\xb9\xc0", 3, 0},
    {"UD2", "\x0f\x0b", 2, 0},
    {"LOCK NOP", "\xf0\x90", 2, 0},
    {"sixteen prefixes", "\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90", 17, 0},
    {"SYSENTER", "\x0f\x34", 2, 0},
    {"SYSCALL", "\x0f\x05", 2, 0},
    {"LTR 0", "\x0f\x00\xd9", 3, 0},
    {"LLDT beyond the GDT", "\x0f\x00\xd1", 3, 0xfff0},
    {"LLDT at L1's LDT", "\x0f\x00\xd1", 3, SELECTOR_LDT},
    {"STR", "\x0f\x00\xc9", 3, 0},
    {"SGDT", "\x0f\x01\x06", 3, 0},
};

static const char *const modes[] = {"CPL 0", "CPL 3", "32-bit CPL 0", "32-bit CPL 3"};

static struct probe prepared(uint32_t i, enum probe_mode mode)
{
    bool user = mode == PROBE_USER || mode == PROBE_USER_32;
    struct probe probe = {.mode = mode, .code = opcodes[i].code, .size = opcodes[i].size};
    probe.gpr[GPR_RCX] = opcodes[i].ecx;
    probe.gpr[GPR_RSI] = PAGE_AT(user ? PAGE_DATA : PAGE_KERNEL);
    probe.gpr[GPR_RDI] = PAGE_AT(user ? PAGE_DATA : PAGE_KERNEL) + 0x100;
    return probe;
}

static void begin_page(void)
{
    static const enum window_page pages[] = {PAGE_DATA, PAGE_KERNEL};
    for (uint32_t i = 0; i < 2; i++)
        for (uint32_t k = 0; k < 0x200; k++)
            ((uint8_t *)window_memory(pages[i]))[k] = k < 0x100 ? 0 : 0xff;
}

// Elsewhere than in 64-bit mode it is another instruction.
static bool has_rex(uint32_t i)
{
    for (uint32_t k = 0; k < 3 && k < opcodes[i].size; k++)
        if ((opcodes[i].code[k] & 0xf0) == 0x40)
            return true;
    return false;
}

static void try_modes(struct cpu *cpu, const char *where)
{
    for (uint32_t mode = PROBE_KERNEL; mode <= PROBE_USER_32; mode++) {
        console_print(cpu, "  %s, %s\n", where, modes[mode]);
        for (uint32_t i = 0; i < sizeof(opcodes) / sizeof(opcodes[0]); i++) {
            struct probe probe = prepared(i, (enum probe_mode)mode);
            if (mode >= PROBE_KERNEL_32 && has_rex(i))
                continue;
            begin_page();
            probe_run(cpu, &probe);
            outcome(cpu, opcodes[i].name, &probe);
        }
    }
}

static void try_l2(struct cpu *cpu, struct l2 *l2)
{
    for (uint32_t mode = PROBE_KERNEL; mode <= PROBE_USER; mode++) {
        console_print(cpu, "  L2, %s\n", modes[mode]);
        for (uint32_t i = 0; i < sizeof(opcodes) / sizeof(opcodes[0]); i++) {
            struct probe probe = prepared(i, (enum probe_mode)mode);
            begin_page();
            outcome_exit(cpu, opcodes[i].name, probe_run_in_l2(cpu, l2, &probe), &probe);
        }
    }
}

void attack_opcodes(struct cpu *cpu)
{
    try_modes(cpu, "outside VMX operation");
    if (!l2_vmx_on(cpu))
        return;
    try_modes(cpu, "in VMX operation");
    struct l2 *l2 = l2_create(cpu, NULL);
    try_l2(cpu, l2);
    vmx_vmclear(l2->vmcs);
    l2_vmx_off();
}
