// SPDX-License-Identifier: MIT
// One instruction after the other that nobody meant: random bytes, MSRs, ports, control registers, VMX
// instructions, at CPL 0 and 3, in L1 outside VMX operation and in it, and in an L2 with controls of any
// kind. L1 may die of it.
//
// Left out, each because the emulated machine or L1 would end for nothing:
//   ports of its devices, which it panics at (disks, display, DMA, interrupt controllers, CMOS, keyboard),
//   its shutdown port 0x8900, resets and power-off (values), PCI configuration (BARs over L0's memory: not
//   L0's to prevent), COM1 (the transcript), the 8254 (the watchdog); memory-mapped devices: eight bytes of
//   the local APIC at once are a panic, too; IA32_APIC_BASE over L1's memory; LGDT and LIDT of L1's, and a
//   CR3 that maps nothing: the next exception is a triple fault (attacks do them).
#include "apic.h"
#include "console.h"
#include "ept.h"
#include "hostile.h"
#include "trap.h"
#include "x86.h"

#define EPOCH     256u  // instructions with the same controls
#define REPORT    1000u // instructions between two lines
#define CODE_SIZE 15u
#define IOPL_3    (3ull << 12)

enum level { LEVEL_L1, LEVEL_L1_VMX, LEVEL_L2, LEVEL_COUNT };

static uint8_t code[CODE_SIZE + 1];
static uint64_t apic_base, exits[2];
static struct l2 *l2;
static char trace[2];

static uint64_t a_physical_address(void)
{
    uint64_t l0 = space_l0() ? space_l0() : space_hole();
    switch (dice_below(5)) {
    case 0:
        return l0 + (dice_below(512) << PAGE_SHIFT);
    case 1:
        return space_hole();
    case 2:
        return 1ull << dice_below(52);
    default:
        return cpu_physical(window_memory((enum window_page)(1 + dice_below(8))));
    }
}

static uint64_t a_register(void)
{
    switch (dice_below(8)) {
    case 0:
        return dice_bits();
    case 1:
        return a_physical_address();
    case 2:
        return a_physical_address() + dice_below(PAGE_SIZE);
    case 3:
        return dice_below(64);
    default:
        return PAGE_AT(dice_below(12)) + (dice_below(2) ? dice_below(PAGE_SIZE) : dice_below(64) * 64);
    }
}

static uint32_t an_msr(void)
{
    static const uint16_t low[] = {
        0x10,  0x1b,  0x3a,  0x3b,  0x48,  0x49,  0x79,  0x8b,  0x9b,  0xc1,  0xe1,  0x10a, 0x10b,
        0x122, 0x174, 0x175, 0x176, 0x179, 0x17a, 0x186, 0x1a0, 0x1d9, 0x1f2, 0x200, 0x20c, 0x250,
        0x277, 0x2ff, 0x309, 0x345, 0x38d, 0x38f, 0x3f1, 0x400, 0x480, 0x48b, 0x491, 0x560, 0x570,
        0x580, 0x600, 0x6a0, 0x6e0, 0x770, 0x800, 0x830, 0x83f, 0xc80, 0xd90, 0xda0, 0x985};
    switch (dice_below(8)) {
    case 0:
        return (uint32_t)dice();
    case 1:
        return 0xc0000080 + (uint32_t)dice_below(8);
    case 2:
        return 0xc0000100 + (uint32_t)dice_below(6);
    case 3:
        return 0x800 + (uint32_t)dice_below(64);
    case 4:
        return 0x480 + (uint32_t)dice_below(24);
    case 5:
        return (uint32_t)dice_below(0x2000);
    default:
        return low[dice_below(sizeof(low) / sizeof(low[0]))] + (uint32_t)dice_below(3) - 1;
    }
}

// A value for that MSR that does not end L1 or the emulator by itself.
static uint64_t an_msr_value(uint32_t msr)
{
    uint64_t l0 = space_l0() ? space_l0() : space_hole(), value = dice_bits();
    if (msr != MSR_IA32_APIC_BASE)
        return dice_below(2)   ? value
               : dice_below(2) ? a_physical_address()
                               : a_physical_address() | dice_below(4096);
    switch (dice_below(4)) {
    case 0:
        return apic_base ^ (value & 0xfff);
    case 1:
        return (l0 + (dice_below(512) << PAGE_SHIFT)) | (apic_base & 0xfff);
    case 2:
        return value | 1ull << (40 + dice_below(24)); // beyond the width, or beyond all memory
    default:
        return 0x100000000ull << dice_below(6) | (apic_base & 0xfff);
    }
}

static uint32_t a_port(void)
{
    static const uint16_t ports[] = {0x64, 0x92, 0xcf9, 0xb004, 0xb005, 0x80};
    switch (dice_below(4)) {
    case 0:
        return 0x2f8 - 3 + (uint32_t)dice_below(11);
    case 1:
        return 0x600 + (uint32_t)dice_below(0x500);
    default:
        return ports[dice_below(sizeof(ports) / sizeof(ports[0]))];
    }
}

// Every byte that is sent: what neither resets the machine nor masks A20 (the emulated processor lets that
// happen in VMX operation, too, and to L0), nor is a command that the keyboard controller does not know.
#define SENT_KEYBOARD 0xae // its interface on

static uint32_t emit_bytes(uint8_t *to, bool kernel)
{
    static const uint8_t prefixes[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x64, 0x65};
    uint32_t at = 0;
    while (!dice_below(3) && at < 4)
        to[at++] = prefixes[dice_below(sizeof(prefixes))];
    if (!dice_below(3))
        to[at++] = (uint8_t)(0x40 + dice_below(16));
    uint32_t opcode = at;
    if (dice_below(2)) {
        to[at++] = 0x0f;
        if (!dice_below(3))
            to[at++] = dice_below(2) ? 0x01 : dice_below(2) ? 0x00 : 0xc7;
        else if (!dice_below(4))
            to[at++] = dice_below(2) ? 0x38 : 0x3a;
    }
    while (at < CODE_SIZE)
        to[at++] = (uint8_t)dice();
    uint8_t first = to[opcode], second = to[opcode + 1], modrm = to[opcode + 2];
    bool is_io = (first >= 0x6c && first <= 0x6f) || (first >= 0xe4 && first <= 0xe7) ||
                 (first >= 0xec && first <= 0xef);
    bool is_table = first == 0x0f && second == 0x01 && modrm < 0xc0 && (modrm >> 4 & 3) == 1; // LGDT, LIDT
    bool is_cr3 = first == 0x0f && second == 0x22 && (modrm >> 3 & 7) == 3;
    return is_io || (kernel && (is_table || is_cr3)) ? 0 : CODE_SIZE;
}

static uint32_t emit(uint8_t *to, const char *text, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++)
        to[i] = (uint8_t)text[i];
    return size;
}

static uint32_t emit_msr(struct probe *probe, uint8_t *to)
{
    uint32_t msr = an_msr();
    uint64_t value = an_msr_value(msr);
    probe->gpr[GPR_RCX] = msr;
    probe->gpr[GPR_RAX] = (uint32_t)value;
    probe->gpr[GPR_RDX] = value >> 32;
    return dice_below(2) ? emit(to, "\x0f\x30", 2) : emit(to, "\x0f\x32", 2);
}

static uint32_t emit_port(struct probe *probe, uint8_t *to)
{
    static const char opcodes[] = "\x6c\x6d\x6e\x6f\xec\xed\xee\xef";
    uint32_t at = 0;
    probe->gpr[GPR_RDX] = a_port();
    probe->gpr[GPR_RAX] = WINDOW_SENT * 0x01010101u;
    probe->gpr[GPR_RCX] = dice_below(4);
    probe->rflags |= dice_below(4) ? IOPL_3 : 0;
    if (!dice_below(3))
        to[at++] = 0x66;
    if (!dice_below(3))
        to[at++] = 0x67;
    if (!dice_below(3))
        to[at++] = 0xf3;
    to[at] = (uint8_t)opcodes[dice_below(8)];
    if (to[at] == 0x6e ||
        to[at] == 0x6f) { // OUTS: from a page that holds nothing else, or to where nothing is
        probe->gpr[GPR_RSI] = PAGE_AT(PAGE_SENT) + 8 + dice_below(PAGE_SIZE - 32);
        if (dice_below(2) || probe->gpr[GPR_RDX] == 0x64)
            probe->gpr[GPR_RDX] = 0x80, probe->gpr[GPR_RSI] = a_register();
    } else if (probe->gpr[GPR_RDX] == 0x64) {
        probe->gpr[GPR_RAX] = SENT_KEYBOARD;
    }
    return at + 1;
}

static uint32_t emit_control_register(struct probe *probe, uint8_t *to, enum level level)
{
    static const uint8_t registers[] = {0, 0, 4, 4, 8, 2, 3};
    bool debug = !dice_below(4), write = dice_below(4);
    uint32_t number = debug ? (uint32_t)dice_below(8) : registers[dice_below(sizeof(registers))];
    uint64_t now = number == 0 ? x86_read_cr0() : x86_read_cr4();
    probe->gpr[GPR_RAX] = dice_below(3)
                              ? now ^ 1ull << dice_below(34) ^ (dice_below(2) ? 1ull << dice_below(34) : 0)
                              : dice_bits();
    if (!debug && number == 3 && (level != LEVEL_L2 || dice_below(4)))
        probe->gpr[GPR_RAX] = space_read_only_cr3() | (dice_below(2) ? dice_below(32) : 0);
    uint32_t at = 0;
    if (number >= 8)
        to[at++] = 0x44;
    to[at++] = 0x0f;
    to[at++] = (uint8_t)((debug ? 0x21 : 0x20) + (write ? 2 : 0));
    to[at++] = (uint8_t)(0xc0 | (number & 7) << 3);
    return at;
}

static uint32_t emit_vmx(struct probe *probe, uint8_t *to)
{
    static const struct {
        const char *code;
        uint8_t size;
    } all[] = {{"\x66\x0f\xc7\x36", 4},     {"\x0f\xc7\x36", 3}, {"\x0f\xc7\x3e", 3},
               {"\xf3\x0f\xc7\x36", 4},     {"\x0f\x78\x06", 3}, {"\x0f\x79\x06", 3},
               {"\x0f\x78\xc3", 3},         {"\x0f\x79\xc3", 3}, {"\x66\x0f\x38\x80\x06", 5},
               {"\x66\x0f\x38\x81\x06", 5}, {"\x0f\x01\xc2", 3}, {"\x0f\x01\xc3", 3},
               {"\x0f\x01\xc4", 3},         {"\x0f\x01\xc1", 3}, {"\x0f\x01\xd4", 3},
               {"\x0f\x01\xd1", 3}};
    static const uint16_t fields[] = {0x0000, 0x0800, 0x0c00, 0x2000, 0x2800, 0x2c00, 0x4000,
                                      0x4400, 0x4800, 0x4c00, 0x6000, 0x6400, 0x6800, 0x6c00};
    uint32_t which = (uint32_t)dice_below(sizeof(all) / sizeof(all[0]));
    if (dice_below(3)) // an encoding, or a type
        probe->gpr[GPR_RAX] = dice_below(3)
                                  ? fields[dice_below(sizeof(fields) / sizeof(fields[0]))] + dice_below(0x40)
                                  : dice_below(5);
    return emit(to, all[which].code, all[which].size);
}

static struct probe an_instruction(enum level level)
{
    struct probe probe = {.code = code, .cr3 = space_read_only_cr3()};
    probe.mode = (enum probe_mode)(dice_below(4) ? dice_below(2) : dice_below(4));
    bool kernel = probe.mode == PROBE_KERNEL || probe.mode == PROBE_KERNEL_32;
    for (uint32_t i = 0; i < GPR_COUNT; i++)
        probe.gpr[i] = a_register();
    if (dice_below(4))
        probe.gpr[GPR_RSP] = 0;
    probe.rflags =
        RFLAGS_TF | (dice_bits() & (RFLAGS_CF | RFLAGS_DF | RFLAGS_NT | RFLAGS_IF | 1ull << 18 | RFLAGS_RF));
    while (probe.size == 0)
        switch (dice_below(10)) {
        case 0:
        case 1:
            probe.size = emit_msr(&probe, code);
            break;
        case 2:
        case 3:
            probe.size = emit_port(&probe, code);
            break;
        case 4:
            probe.size = probe.mode == PROBE_KERNEL_32 ? 0 : emit_control_register(&probe, code, level);
            break;
        case 5:
            probe.size = emit_vmx(&probe, code);
            break;
        default:
            probe.size = emit_bytes(code, kernel && level != LEVEL_L2);
            break;
        }
    return probe;
}

static void fill_window(void)
{
    for (uint32_t page = PAGE_DATA; page <= PAGE_KERNEL_2; page++) {
        uint64_t *words = window_memory((enum window_page)page);
        for (uint32_t i = 0; i < PAGE_SIZE / 8; i++)
            words[i] = dice_below(3) ? a_physical_address() : dice_bits();
    }
}

static void write_base(void *argument)
{
    x86_wrmsr(MSR_IA32_APIC_BASE, *(const uint64_t *)argument);
}

// What an instruction may have done to what the next ones need.
static void put_machine_back(struct cpu *cpu)
{
    uint64_t off = apic_base & ~0xc00ull;
    if (x86_rdmsr(MSR_IA32_APIC_BASE) != apic_base && trap_catch(write_base, &apic_base)) {
        trap_catch(write_base, &off); // x2APIC mode is left through "disabled"
        trap_catch(write_base, &apic_base);
    }
    apic_enable();
    (void)cpu;
}

static void leave_vmx(void *unused)
{
    (void)unused;
    vmx_vmxoff();
}

static void random_controls(uint32_t field, uint32_t keep)
{
    uint32_t value = (uint32_t)l2_read(field) | keep;
    for (uint32_t bit = 0; bit < 32; bit++)
        if (!dice_below(6) && l2_may_set(field, 1u << bit))
            value |= 1u << bit;
    l2_write(field, value | l2_must_set(field));
}

static void try_write(uint32_t field, uint64_t value)
{
    vmx_vmwrite(field, value); // not every processor has it
}

static void random_l2(struct cpu *cpu, bool wild)
{
    static const uint16_t addresses[] = {
        VMCS_IO_BITMAP_A,    VMCS_IO_BITMAP_B,         VMCS_MSR_BITMAP,
        VMCS_PML_ADDRESS,    VMCS_VMREAD_BITMAP,       VMCS_VIRTUAL_APIC_ADDRESS,
        VMCS_VMWRITE_BITMAP, VMCS_APIC_ACCESS_ADDRESS, VMCS_EPTP_LIST_ADDRESS};
    l2 = l2_create(cpu, NULL);
    if (wild) {
        random_controls(VMCS_PIN_BASED_CONTROLS, 0);
        random_controls(VMCS_PRIMARY_CONTROLS, 0);
        if (l2_may_set(VMCS_PRIMARY_CONTROLS, PRIMARY_ACTIVATE_SECONDARY)) {
            l2_set(VMCS_PRIMARY_CONTROLS, PRIMARY_ACTIVATE_SECONDARY);
            random_controls(VMCS_SECONDARY_CONTROLS, 0);
        }
        for (uint32_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++)
            try_write(addresses[i], a_physical_address() & ~0xfffull);
        struct ept ept = ept_create_identity(cpu);
        try_write(VMCS_EPT_POINTER, dice_below(8) ? ept_pointer(&ept) : a_physical_address() | 0x1e);
        try_write(VMCS_VPID, 1 + dice_below(3));
        try_write(VMCS_EXCEPTION_BITMAP, dice_bits());
        try_write(VMCS_CR0_GUEST_HOST_MASK, dice_bits() & 0xffffffff);
        try_write(VMCS_CR4_GUEST_HOST_MASK, dice_bits() & 0xffffffff);
        try_write(VMCS_PREEMPTION_TIMER_VALUE, dice_below(100000));
        try_write(VMCS_TPR_THRESHOLD, dice_below(16));
    }
    l2_set(VMCS_PIN_BASED_CONTROLS, PIN_NMI_EXITING);
    l2_clear(VMCS_PIN_BASED_CONTROLS, PIN_POSTED_INTERRUPTS);
}

static bool begin_epoch(struct cpu *cpu, enum level level)
{
    cpu_reset_pages(cpu);
    fill_window();
    if (level == LEVEL_L1)
        return true;
    if (!l2_vmx_on(cpu))
        return false;
    random_l2(cpu, level == LEVEL_L2 && dice_below(4));
    if (level == LEVEL_L1_VMX)
        probe_catch_exits(cpu);
    return true;
}

static void end_epoch(struct cpu *cpu, enum level level)
{
    if (level != LEVEL_L1) {
        trap_catch(leave_vmx, NULL);
        x86_write_cr4(x86_read_cr4() & ~CR4_VMXE);
    }
    put_machine_back(cpu);
    probe_watchdog(true);
}

// The last line is what killed L1, or L0.
static void print_instruction(struct cpu *cpu, enum level level, const struct probe *probe)
{
    static const char *const names[] = {"L1", "L1 in VMX operation", "L2"};
    console_print(cpu, "%s, mode %u:", names[level], probe->mode);
    for (uint32_t i = 0; i < probe->size; i++)
        console_print(cpu, " %02x", code[i]);
    console_print(cpu, "; rflags %lx", probe->rflags);
    for (uint32_t i = 0; i < GPR_COUNT; i++)
        console_print(cpu, " %lx", probe->gpr[i]);
    console_print(cpu, "\n");
}

static void run_one(struct cpu *cpu, enum level level)
{
    struct probe probe = an_instruction(level);
    if (trace[0])
        print_instruction(cpu, level, &probe);
    if (level != LEVEL_L2) {
        probe_run(cpu, &probe);
        exits[0] += probe.vector == PROBE_EXITED;
        return;
    }
    bool inject = !dice_below(100);
    if (inject)
        l2_write(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000000 | dice_below(0x1000));
    uint32_t reason = probe_run_in_l2(cpu, l2, &probe);
    exits[1] += reason != ~0u;
    if (inject)
        l2_write(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0);
    else if (reason == ~0u || (reason & EXIT_REASON_ENTRY_FAILURE))
        random_l2(cpu, false); // L0 says why at length: not again and again
}

void fuzz_run(struct cpu *cpu, uint64_t seed, uint64_t count)
{
    uint64_t done = 0, report = 0;
    dice_seed(seed);
    machine_option("trace", trace, sizeof(trace));
    apic_base = x86_rdmsr(MSR_IA32_APIC_BASE);
    x86_write_cr4(x86_read_cr4() | (x86_cpuid(1, 0).ecx & 1u << 26 ? CR4_OSXSAVE : 0));
    probe_watchdog(true);
    while (done < count) {
        enum level level = (enum level)dice_below(LEVEL_COUNT);
        if (!begin_epoch(cpu, level))
            trap_panic("VMXON fails");
        for (uint32_t i = 0; i < EPOCH && done < count; i++, done++) {
            run_one(cpu, level);
            put_machine_back(cpu);
            if (done >= report) {
                console_print(cpu, "fuzz: %lu instructions\n", done);
                report += REPORT;
            }
        }
        end_epoch(cpu, level);
    }
    probe_watchdog(false);
    console_print(cpu, "fuzz: %lu instructions; %lu entries from L1's, %lu from L2's\n", done, exits[0],
                  exits[1]);
}
