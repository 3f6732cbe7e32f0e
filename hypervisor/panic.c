// SPDX-License-Identifier: MIT
#include "panic.h"

#include "apic.h"
#include "boot.h"
#include "cpu.h"
#include "log.h"
#include "print.h"
#include "stop.h"
#include "vcpu.h"

#include <nvmx/controls.h>
#include <silicon/x86.h>

bool panic_stopping;

static void print_exit(const struct nvmx_exit *exit)
{
    log_line("last exit: reason %x (%s) qualification %lx length %u information %x", exit->reason,
             nvmx_exit_name(exit->reason & EXIT_REASON_BASIC_MASK), exit->qualification,
             exit->instruction_length, exit->instruction_info);
    log_line("  interruption %x/%x IDT-vectoring %x/%x linear %lx physical %lx", exit->interruption_info,
             exit->interruption_error_code, exit->idt_vectoring_info, exit->idt_vectoring_error_code,
             exit->guest_linear_address, exit->guest_physical_address);
}

static const struct {
    const char *name;
    enum vmcs_encoding field;
} key_fields[] = {
    {"RIP", VMCS_GUEST_RIP},
    {"RSP", VMCS_GUEST_RSP},
    {"RFLAGS", VMCS_GUEST_RFLAGS},
    {"CR0", VMCS_GUEST_CR0},
    {"CR3", VMCS_GUEST_CR3},
    {"CR4", VMCS_GUEST_CR4},
    {"EFER", VMCS_GUEST_IA32_EFER},
    {"CS selector", VMCS_GUEST_CS_SELECTOR},
    {"CS base", VMCS_GUEST_CS_BASE},
    {"CS access rights", VMCS_GUEST_CS_ACCESS_RIGHTS},
    {"SS access rights", VMCS_GUEST_SS_ACCESS_RIGHTS},
    {"TR access rights", VMCS_GUEST_TR_ACCESS_RIGHTS},
    {"interruptibility", VMCS_GUEST_INTERRUPTIBILITY},
    {"activity", VMCS_GUEST_ACTIVITY_STATE},
    {"pin controls", VMCS_PIN_BASED_CONTROLS},
    {"primary controls", VMCS_PRIMARY_CONTROLS},
    {"secondary controls", VMCS_SECONDARY_CONTROLS},
    {"exit controls", VMCS_VM_EXIT_CONTROLS},
    {"entry controls", VMCS_VM_ENTRY_CONTROLS},
    {"entry interruption", VMCS_VM_ENTRY_INTERRUPTION_INFO},
    {"EPT pointer", VMCS_EPT_POINTER},
    {"CR0 mask", VMCS_CR0_GUEST_HOST_MASK},
    {"CR0 shadow", VMCS_CR0_READ_SHADOW},
    {"CR4 mask", VMCS_CR4_GUEST_HOST_MASK},
    {"CR4 shadow", VMCS_CR4_READ_SHADOW},
    {"host RIP", VMCS_HOST_RIP},
    {"host RSP", VMCS_HOST_RSP},
    {"host CR3", VMCS_HOST_CR3},
    {"VM-instruction error", VMCS_VM_INSTRUCTION_ERROR},
};

static void print_vcpu(struct cpu *cpu)
{
    struct vcpu *vcpu = cpu->vcpu;
    if (vcpu == NULL || vcpu->nvmx.cpu == NULL)
        return;
    const struct nvmx_vcpu *nvmx = &vcpu->nvmx;
    log_line("vcpu %u: ran %s, L1 %s VMX operation, entry pending %d, vmcs12 at %lx", cpu->index,
             nvmx->in_l2 ? "L2" : "L1", nvmx->vmxon ? "in" : "not in", nvmx->entry_pending,
             nvmx->vmcs12_pointer.value);
    for (unsigned i = 0; i < GPR_COUNT; i += 4)
        log_line("  guest gpr%02u %016lx %016lx %016lx %016lx", i, nvmx->regs.gpr[i], nvmx->regs.gpr[i + 1],
                 nvmx->regs.gpr[i + 2], nvmx->regs.gpr[i + 3]);
    print_exit(&nvmx->exit);
    if (nvmx->current == NULL)
        return;
    log_line("current VMCS: %s, launched %d", nvmx->current == &nvmx->vmcs02 ? "vmcs02" : "vmcs01",
             nvmx->current->launched);
    for (unsigned i = 0; i < sizeof(key_fields) / sizeof(key_fields[0]); i++)
        log_line("  %s %lx", key_fields[i].name, hw_vmread(&cpu->hw, key_fields[i].field));
}

// Return addresses stand on the stack; what else looks like one is printed too.
static void print_stack(const uint64_t *stack, const struct cpu *cpu)
{
    extern char image_start[], image_rodata_start[];
    const uint64_t *end = (const uint64_t *)cpu->stack_top;
    unsigned printed = 0;
    for (; stack < end && end - stack < CPU_STACK_SIZE / 8 && printed < 24; stack++)
        if (*stack >= (uint64_t)image_start && *stack < (uint64_t)image_rodata_start) {
            log_line("  from %lx", *stack);
            printed++;
        }
}

void panic_give_up_vmcss(void)
{
    struct cpu *cpu = cpu_this_or_null();
    if (cpu == NULL || cpu->stopping)
        return;
    cpu->stopping = true; // first: were this to fail, it would come here again
    nvmx_cpu_clear_all(&cpu->nvmx);
}

void panic_halt(void)
{
    panic_give_up_vmcss();
    for (;;) {
        x86_cli();
        x86_hlt();
    }
}

void panic_stop_others(void)
{
    __atomic_store_n(&panic_stopping, true, __ATOMIC_SEQ_CST);
    if (cpu_count > 1)
        apic_send_init_to_others(); // a VM exit where a guest runs, nothing where L0 does
}

// The first caller prints; a second one, on another processor or by a fault in the first, only stops.
static void begin(void)
{
    static bool begun;
    x86_cli();
    if (__atomic_exchange_n(&begun, true, __ATOMIC_SEQ_CST))
        panic_halt();
    log_break_lock();
}

static _Noreturn void finish(const uint64_t *stack)
{
    if (cpu_count > 0) {
        struct cpu *cpu = cpu_this();
        print_stack(stack, cpu);
        print_vcpu(cpu);
        panic_stop_others();
    }
    stop_machine("L0 has a defect");
}

void panic(const char *format, ...)
{
    char text[256];
    va_list arguments;
    begin();
    va_start(arguments, format);
    print_format_list(text, sizeof(text), format, arguments);
    va_end(arguments);
    log_line("panic: %s", text);
    finish((const uint64_t *)__builtin_frame_address(0));
}

#define MSR_IA32_MCG_CAP    0x179u
#define MSR_IA32_MCG_STATUS 0x17au
#define MSR_IA32_MC0_STATUS 0x401u // 4 MSRs a bank: control, status, address, miscellaneous
#define MC_STATUS_VALID     (1ull << 63)
#define MC_STATUS_MISCV     (1ull << 59)
#define MC_STATUS_ADDRV     (1ull << 58)

void panic_machine_check(const struct exceptions_frame *frame)
{
    begin();
    uint32_t banks = x86_rdmsr(MSR_IA32_MCG_CAP) & 0xff;
    log_line("panic: a machine check that L0 cannot go on after: IA32_MCG_STATUS %lx, at %lx, %u banks",
             x86_rdmsr(MSR_IA32_MCG_STATUS), frame->rip, banks);
    for (uint32_t bank = 0; bank < banks; bank++) {
        uint64_t status = x86_rdmsr(MSR_IA32_MC0_STATUS + 4 * bank);
        if ((status & MC_STATUS_VALID) == 0)
            continue;
        uint64_t address =
            (status & MC_STATUS_ADDRV) != 0 ? x86_rdmsr(MSR_IA32_MC0_STATUS + 4 * bank + 1) : 0;
        uint64_t misc = (status & MC_STATUS_MISCV) != 0 ? x86_rdmsr(MSR_IA32_MC0_STATUS + 4 * bank + 2) : 0;
        log_line("  bank %u: status %lx address %lx miscellaneous %lx", bank, status, address, misc);
    }
    finish((const uint64_t *)frame->rsp);
}

void panic_exception(const struct exceptions_frame *frame)
{
    begin();
    log_line("panic: exception %lu in L0, error code %lx, at %lx:%lx", frame->vector, frame->error_code,
             frame->cs, frame->rip);
    log_line("  RSP %016lx RFLAGS %lx CR2 %lx CR3 %lx CR4 %lx", frame->rsp, frame->rflags, x86_read_cr2(),
             x86_read_cr3(), x86_read_cr4());
    log_line("  RAX %016lx RBX %016lx RCX %016lx RDX %016lx", frame->rax, frame->rbx, frame->rcx, frame->rdx);
    log_line("  RSI %016lx RDI %016lx RBP %016lx R8  %016lx", frame->rsi, frame->rdi, frame->rbp, frame->r8);
    log_line("  R9  %016lx R10 %016lx R11 %016lx R12 %016lx", frame->r9, frame->r10, frame->r11, frame->r12);
    log_line("  R13 %016lx R14 %016lx R15 %016lx", frame->r13, frame->r14, frame->r15);
    finish((const uint64_t *)frame->rsp);
}
