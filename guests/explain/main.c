// SPDX-License-Identifier: MIT
// An L1 that makes mistakes and asks whoever is under it what they were: docs/cpuid.md. On a processor with
// nobody under it, or somebody who hides, it says that nobody answers.
#include "apic.h"
#include "console.h"
#include "l2.h"
#include "machine.h"
#include "trap.h"
#include "x86.h"

#define LEAF_SIGNATURE    0x40000000u
#define LEAF_FAILED_ENTRY 0x40000010u
#define LEAF_RULE         0x40000011u
#define LEAF_LEGAL        0x40000012u
#define LEAF_TEXT         0x40000013u

#define FEATURES_ECX_HYPERVISOR (1u << 31)

void guest_start(const struct multiboot_information *information, uint32_t magic);

static bool somebody_answers(void)
{
    struct x86_cpuid leaf = x86_cpuid(LEAF_SIGNATURE, 0);
    return leaf.eax >= LEAF_TEXT && leaf.ebx == 0x73616c50 && leaf.ecx == 0x6e6f7274 &&
           leaf.edx == 0x2020304c;
}

static void print_sentence(struct cpu *cpu, uint32_t rule, uint32_t length)
{
    for (uint32_t piece = 0; piece * 16 < length; piece++) {
        struct x86_cpuid leaf = x86_cpuid(LEAF_TEXT, rule | piece << 16);
        uint32_t text[5] = {leaf.eax, leaf.ebx, leaf.ecx, leaf.edx, 0};
        console_print(cpu, "%s", (const char *)text);
    }
    console_print(cpu, "\n");
}

static void print_diagnosis(struct cpu *cpu)
{
    if (!somebody_answers()) {
        console_print(cpu, "  nobody answers\n");
        return;
    }
    struct x86_cpuid failed = x86_cpuid(LEAF_FAILED_ENTRY, 0);
    console_print(cpu, "  failed entries: %u, broken rules: %u, to be asked for: %u\n", failed.ecx,
                  failed.eax, failed.ebx);
    for (uint32_t rule = 0; rule < failed.ebx; rule++) {
        struct x86_cpuid leaf = x86_cpuid(LEAF_RULE, rule), legal = x86_cpuid(LEAF_LEGAL, rule);
        console_print(cpu, "  rule %u, outcome %u, field %x, value %lx, expected %lx\n    ",
                      leaf.eax & 0xffff, leaf.eax >> 16, leaf.ebx, leaf.ecx | (uint64_t)leaf.edx << 32,
                      legal.eax | (uint64_t)legal.ebx << 32);
        print_sentence(cpu, rule, legal.ecx);
    }
    struct x86_cpuid beyond = x86_cpuid(LEAF_RULE, failed.ebx);
    if ((beyond.eax | beyond.ebx | beyond.ecx | beyond.edx) != 0)
        console_print(cpu, "  WRONG: there is something behind the last rule\n");
}

static void nothing(void)
{
}

static void enter(struct cpu *cpu, struct l2 *l2, const char *what)
{
    enum vmx_status status = l2_enter(l2);
    uint64_t code = status == VMX_SUCCEED ? l2_read(VMCS_EXIT_REASON) : l2_read(VMCS_VM_INSTRUCTION_ERROR);
    console_print(cpu, "%s: %s %lx\n", what, status == VMX_SUCCEED ? "exit reason" : "error", code);
    print_diagnosis(cpu);
}

static void make_mistakes(struct cpu *cpu)
{
    if (!l2_vmx_on(cpu))
        trap_panic("VMXON fails");
    struct l2 *l2 = l2_create(cpu, nothing);
    print_diagnosis(cpu);

    uint64_t tr = l2_read(VMCS_GUEST_TR_ACCESS_RIGHTS), selector = l2_read(VMCS_HOST_TR_SELECTOR);
    l2_write(VMCS_GUEST_TR_ACCESS_RIGHTS, 0x89);
    enter(cpu, l2, "guest TR not busy");
    l2_write(VMCS_HOST_TR_SELECTOR, 0);
    l2_write(VMCS_CR3_TARGET_COUNT, 500);
    l2_write(VMCS_GUEST_SYSENTER_ESP, 0x8000000000001234);
    enter(cpu, l2, "mistakes of all kinds");
    l2_write(VMCS_CR3_TARGET_COUNT, 0);
    enter(cpu, l2, "one less");

    l2_write(VMCS_HOST_TR_SELECTOR, selector);
    l2_write(VMCS_GUEST_SYSENTER_ESP, 0);
    l2_write(VMCS_GUEST_TR_ACCESS_RIGHTS, tr);
    enter(cpu, l2, "mended");
}

// What fails on one processor is not told on another.
static void ask_on_another(struct cpu *cpu)
{
    console_print(cpu, "on another processor\n");
    print_diagnosis(cpu);
}

void guest_start(const struct multiboot_information *information, uint32_t magic)
{
    bool loaded = machine_init(information, magic);
    console_init();
    struct cpu *cpu = cpu_get(0);
    if (!loaded)
        trap_panic("not loaded by Multiboot");
    uint32_t count = apic_find_processors();
    console_print(cpu, "explain: hypervisor-present bit %u\n",
                  (x86_cpuid(1, 0).ecx & FEATURES_ECX_HYPERVISOR) != 0);
    make_mistakes(cpu);
    if (count > 1) {
        apic_start_others(count);
        apic_run_on(cpu_get(1), ask_on_another);
        apic_wait_for(cpu_get(1));
        console_flush(cpu);
        console_flush(cpu_get(1));
    }
    console_print(cpu, "explain: done\n");
    console_flush(cpu);
    machine_stop();
}
