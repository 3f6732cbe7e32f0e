// SPDX-License-Identifier: MIT
// APIC virtualization of L2: TPR shadow and threshold, the APIC-access page, x2APIC MSRs, virtual interrupts.
// Manual: APIC Virtualization and Virtual Interrupts.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define APIC_BASE         0x60000 // L2-physical and linear address of the APIC-access page
#define READ4(r, at)      OP(.kind = OP_READ, .reg = (r), .a = (at), .size = 4)
#define WRITE4(at, value) OP(.kind = OP_WRITE, .a = (at), .b = (value), .size = 4)

static uint64_t virtual_apic;

static void put_register(unsigned offset, uint32_t value)
{
    memcpy((uint8_t *)l1_memory(virtual_apic) + offset, &value, 4);
}

static uint32_t get_register(unsigned offset)
{
    uint32_t value;
    memcpy(&value, (const uint8_t *)l1_memory(virtual_apic) + offset, 4);
    return value;
}

static bool l1_has(uint32_t secondary)
{
    return (nvmx_caps_allowed1(&world_l1_processor()->vmx, CAPS_SECONDARY) & secondary) == secondary;
}

static void prepare(struct l2 *l2, uint32_t secondary)
{
    l1_prepare(l2);
    assert_true(l1_has(secondary));
    virtual_apic = l1_new_page();
    uint64_t access = l1_new_page();
    l1_vmwrite(VMCS_VIRTUAL_APIC_ADDRESS, virtual_apic);
    l1_vmwrite(VMCS_APIC_ACCESS_ADDRESS, access);
    l1_ept_map(l2->eptp, APIC_BASE, access, 0x1000, 0x1000, 7);
    l1_vmwrite(VMCS_TPR_THRESHOLD, 0);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TPR_SHADOW | PRIMARY_HLT_EXITING);
    l1_set(VMCS_SECONDARY_CONTROLS, secondary);
    if (!(secondary & SECONDARY_VIRTUAL_INTERRUPT_DELIVERY))
        return;
    l1_set(VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
    l1_set(VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    l1_vmwrite(VMCS_GUEST_INTERRUPT_STATUS, 0);
    for (uint32_t i = 0; i < 4; i++)
        l1_vmwrite(VMCS_EOI_EXIT_BITMAP_0 + 2 * i, 0);
}

// --- CR8

static void cr8_is_vtpr(void)
{
    L2_PROGRAM(l2, MOV_FROM_CR(GPR_RBX, 8), MOV_TO_CR(8, 9), VMCALL);
    prepare(&l2, 0);
    l1_run(MOV_TO_CR(8, 3));
    put_register(0x80, 0x50);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RBX), 5);
    expect_exit(EXIT_VMCALL);
    assert_int_equal(get_register(0x80), 0x90);
    l1_run(MOV_FROM_CR(GPR_RAX, 8));
    assert_int_equal(l1_gpr(GPR_RAX), 3); // L1's own
}

static void tpr_below_threshold(void)
{
    L2_PROGRAM(l2, MOV_TO_CR(8, 7), MOV_TO_CR(8, 4), VMCALL);
    prepare(&l2, 0);
    put_register(0x80, 0x60);
    l1_vmwrite(VMCS_TPR_THRESHOLD, 5);
    l1_vmlaunch();
    expect_exit(EXIT_TPR_BELOW_THRESHOLD);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 6); // behind the instruction
    l1_vmwrite(VMCS_TPR_THRESHOLD, 4);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    l1_vmwrite(VMCS_TPR_THRESHOLD, 5); // greater than VTPR
    expect_fail_valid(try_vmresume(), 7);
}

// --- the APIC-access page

static void accesses_to_the_apic_page_exit(void)
{
    L2_PROGRAM(l2, READ4(GPR_RBX, APIC_BASE + 0x300), WRITE4(APIC_BASE + 0xb0, 0),
               READ4(GPR_RSI, APIC_BASE + 0x80), WRITE4(APIC_BASE + 0x80, 0x30), FETCH(APIC_BASE), VMCALL);
    prepare(&l2, SECONDARY_VIRTUALIZE_APIC_ACCESSES);
    put_register(0x80, 0x20);
    l1_vmlaunch();
    expect_exit_qualification(EXIT_APIC_ACCESS, 0x300);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code + 8);
    l1_vmresume();
    expect_exit_qualification(EXIT_APIC_ACCESS, 0x10b0);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code + 16);
    l1_vmresume(); // TPR is virtualized: no exit before the end
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_gpr(GPR_RSI), 0x20);
    assert_int_equal(get_register(0x80), 0x30);
}

static void apic_registers_are_virtualized(void)
{
    L2_PROGRAM(l2, READ4(GPR_RBX, APIC_BASE + 0x20), READ4(GPR_RSI, APIC_BASE + 0x300),
               WRITE4(APIC_BASE + 0xd0, 0x7000000), READ4(GPR_RDI, APIC_BASE + 0x390), VMCALL);
    prepare(&l2, SECONDARY_VIRTUALIZE_APIC_ACCESSES | SECONDARY_APIC_REGISTER_VIRTUALIZATION);
    put_register(0x20, 0x3000000);
    put_register(0x300, 0x1234);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RBX), 0x3000000);
    assert_int_equal(l1_gpr(GPR_RSI), 0x1234);
    expect_exit_qualification(EXIT_APIC_WRITE, 0xd0);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 24); // trap-like
    assert_int_equal(get_register(0xd0), 0x7000000);
    l1_vmresume();
    expect_exit_qualification(EXIT_APIC_ACCESS, 0x390); // the timer's current count is not
}

static void x2apic_msrs_are_virtualized(void)
{
    L2_PROGRAM(l2, WRMSR(0x808, 0x40), RDMSR(0x808), VMCALL, RDMSR(0x803), VMCALL);
    prepare(&l2, SECONDARY_VIRTUALIZE_X2APIC_MODE | SECONDARY_APIC_REGISTER_VIRTUALIZATION);
    put_register(0x30, 0x50014);
    l1_vmlaunch();
    uint64_t rax = l1_gpr(GPR_RAX);
    expect_exit(EXIT_VMCALL);
    assert_int_equal(rax, 0x40);
    assert_int_equal(get_register(0x80), 0x40);
    l1_resume_behind();
    rax = l1_gpr(GPR_RAX);
    expect_exit(EXIT_VMCALL);
    assert_int_equal(rax, 0x50014);
}

// L0's and L1's x2APIC MSRs must stay out of L2's reach when L1 intercepts them (CVE-2019-3887's class).
static void intercepted_x2apic_msrs_exit(void)
{
    L2_PROGRAM(l2, WRMSR(0x808, 0x40), RDMSR(0x808), VMCALL);
    prepare(&l2, SECONDARY_VIRTUALIZE_X2APIC_MODE);
    memset((uint8_t *)l1_memory(MSR_BITMAP) + 0x800 / 8, 0xff, 0x20);
    memset((uint8_t *)l1_memory(MSR_BITMAP) + 2048 + 0x800 / 8, 0xff, 0x20);
    l1_vmlaunch();
    expect_exit(EXIT_WRMSR);
    l1_resume_behind();
    expect_exit(EXIT_RDMSR);
}

// What the controls of this entry virtualize, and no more: without them, a register is L1's (of its local
// APIC, which L0 may emulate), and never the processor's. Virtualizing MSR-Based APIC Accesses.
static void an_x2apic_msr_is_virtualized_while_a_control_says_so(void)
{
    const uint32_t delivery = SECONDARY_VIRTUAL_INTERRUPT_DELIVERY,
                   registers = SECONDARY_APIC_REGISTER_VIRTUALIZATION;
    static const struct {
        uint32_t msr;
        bool write;
    } access[] = {{0x808, false}, {0x80d, false}, {0x808, true}, {0x80b, true}, {0x83f, true}, {0x80d, true}};
    L2_PROGRAM(l2, RDMSR(0x808), VMCALL, RDMSR(0x80d), VMCALL, WRMSR(0x808, 0x50), VMCALL, WRMSR(0x80b, 0),
               VMCALL, WRMSR(0x83f, 0x41), VMCALL, WRMSR(0x80d, 0x60), VMCALL);
    const uint32_t all = SECONDARY_VIRTUALIZE_X2APIC_MODE | registers | delivery;
    const uint32_t modes[] = {
        all, 0, all, SECONDARY_VIRTUALIZE_X2APIC_MODE, all & ~delivery, 0, all & ~registers, 0};
    prepare(&l2, all);
    for (unsigned mode = 0; mode < sizeof(modes) / sizeof(modes[0]); mode++) {
        l1_clear(VMCS_SECONDARY_CONTROLS, all);
        l1_set(VMCS_SECONDARY_CONTROLS, modes[mode]);
        l1_vmwrite(VMCS_GUEST_RIP, l2.code);
        for (unsigned i = 0; i < sizeof(access) / sizeof(access[0]); i++) {
            uint32_t msr = access[i].msr;
            bool is_virtual =
                modes[mode] && (msr == 0x808 || (access[i].write ? msr != 0x80d && modes[mode] & delivery
                                                                 : modes[mode] & registers));
            const uint32_t in_page = 0x1000 + 16 * mode, in_apic = 0x2000 + 16 * mode;
            put_register(msr % 0x100 * 16, access[i].write ? 0 : in_page);
            l1_run(WRMSR(msr, in_apic));
            l1_vmwrite(VMCS_GUEST_INTERRUPT_STATUS, 0);
            if (mode + i == 0)
                l1_vmlaunch();
            else
                l1_vmresume();
            uint64_t read = l1_gpr(GPR_RAX);
            expect_exit(EXIT_VMCALL);
            if (!access[i].write)
                assert_int_equal(read, is_virtual ? in_page : in_apic);
            l1_run(RDMSR(msr));
            bool apic_is_written = access[i].write && !is_virtual;
            static const uint32_t written[] = {[2] = 0x50, [3] = 0, [4] = 0x41, [5] = 0x60};
            assert_int_equal(l1_gpr(GPR_RAX), apic_is_written ? written[i] : in_apic);
            l1_vmwrite(VMCS_GUEST_RIP,
                       l1_vmread(VMCS_GUEST_RIP) + l1_vmread(VMCS_VM_EXIT_INSTRUCTION_LENGTH));
        }
    }
}

// --- virtual interrupts

#define DELIVERY                                                                                             \
    (SECONDARY_VIRTUALIZE_X2APIC_MODE | SECONDARY_APIC_REGISTER_VIRTUALIZATION |                             \
     SECONDARY_VIRTUAL_INTERRUPT_DELIVERY)

static void request(uint8_t vector)
{
    unsigned offset = 0x200 + vector / 32 * 16u;
    put_register(offset, get_register(offset) | 1u << vector % 32);
}

static void a_virtual_interrupt_is_delivered(void)
{
    L2_PROGRAM(l2, STI, NOP, VMCALL);
    prepare(&l2, DELIVERY);
    request(0x51);
    l1_vmwrite(VMCS_GUEST_INTERRUPT_STATUS, 0x51);
    l1_vmlaunch();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(0x51));
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPT_STATUS), 0x5100);
    assert_int_equal(get_register(0x120), 1u << 0x11); // in service
    assert_int_equal(get_register(0x220), 0);
    assert_int_equal(get_register(0xa0), 0x50);
}

static void priorities_hold_virtual_interrupts_back(void)
{
    L2_PROGRAM(l2, STI, WRMSR(0x808, 0x60), NOP, VMCALL, WRMSR(0x808, 0x40), NOP, VMCALL);
    prepare(&l2, DELIVERY);
    put_register(0x80, 0x60);
    request(0x51);
    l1_vmwrite(VMCS_GUEST_INTERRUPT_STATUS, 0x51);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPT_STATUS), 0x51);
    l1_resume_behind();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(0x51));
}

static void an_eoi_may_exit(void)
{
    L2_PROGRAM(l2, WRMSR(0x80b, 0), NOP, WRMSR(0x80b, 0), VMCALL);
    prepare(&l2, DELIVERY);
    l1_vmwrite(VMCS_EOI_EXIT_BITMAP_1, 1ull << (0x62 - 64));
    put_register(0x130, 1u << 2);    // 0x62 in service
    put_register(0x110, 1u << 0x11); // and 0x31
    l1_vmwrite(VMCS_GUEST_INTERRUPT_STATUS, 0x6200);
    l1_vmlaunch();
    expect_exit_qualification(EXIT_VIRTUALIZED_EOI, 0x62);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 2);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPT_STATUS), 0x3100);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPT_STATUS), 0);
}

static void a_self_ipi_is_virtual(void)
{
    L2_PROGRAM(l2, STI, WRMSR(0x83f, 0x72), NOP, VMCALL);
    prepare(&l2, DELIVERY);
    l1_vmlaunch();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(0x72));
}

// Virtual-interrupt delivery without APIC-register virtualization: what it virtualizes and cannot carry out
// exits, behind the instruction. APIC-Write VM Exits.
static void what_is_no_self_ipi_exits(void)
{
    L2_PROGRAM(l2, WRMSR(0x83f, 0x0f), NOP, VMCALL);
    prepare(&l2, SECONDARY_VIRTUALIZE_X2APIC_MODE | SECONDARY_VIRTUAL_INTERRUPT_DELIVERY);
    l1_vmlaunch();
    expect_exit_qualification(EXIT_APIC_WRITE, 0x3f0);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 2);
    assert_int_equal(get_register(0x3f0), 0x0f);
    assert_int_equal(l1_vmread(VMCS_GUEST_INTERRUPT_STATUS), 0);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void an_interrupt_command_exits(void)
{
    L2_PROGRAM(l2, WRITE4(APIC_BASE + 0x300, 0x4500), NOP, VMCALL); // INIT
    prepare(&l2, SECONDARY_VIRTUALIZE_APIC_ACCESSES | SECONDARY_VIRTUAL_INTERRUPT_DELIVERY);
    l1_vmlaunch();
    expect_exit_qualification(EXIT_APIC_WRITE, 0x300);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), l2.code + 8);
    assert_int_equal(get_register(0x300), 0x4500);
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void a_real_interrupt_exits_past_virtual_ones(void)
{
    L2_PROGRAM(l2, STI, NOP, INTERRUPT_ARRIVES(0x33), NOP, VMCALL);
    prepare(&l2, DELIVERY);
    l1_vmlaunch();
    expect_exit(EXIT_EXTERNAL_INTERRUPT);
    assert_int_equal(l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000033);
}

static void virtual_interrupts_belong_to_one_vmcs(void)
{
    L2_PROGRAM(first, VMCALL, STI, NOP, VMCALL);
    L2_PROGRAM(second, STI, NOP, VMCALL);
    prepare(&first, DELIVERY);
    request(0x51);
    l1_vmlaunch();
    second.eptp = first.eptp;
    l1_prepare_vmcs(VMCS_B, &second);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL); // nothing for this one
    l1_vmptrld(VMCS_A);
    l1_vmwrite(VMCS_GUEST_INTERRUPT_STATUS, 0x51);
    l1_resume_behind();
    expect_exit(EXIT_HLT);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), L2_HANDLER(0x51));
}

// --- the time-stamp counter

static void tsc_scaling(void)
{
    L2_PROGRAM(l2, RDTSC, VMCALL);
    l1_prepare(&l2);
    assert_true(l1_has(SECONDARY_USE_TSC_SCALING));
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TSC_OFFSETTING);
    l1_set(VMCS_SECONDARY_CONTROLS, SECONDARY_USE_TSC_SCALING);
    l1_vmwrite(VMCS_TSC_OFFSET, 0x700000000000);
    l1_vmwrite(VMCS_TSC_MULTIPLIER, 1ull << 60); // 4096 times as fast
    l1_vmlaunch();
    uint64_t high = l1_gpr(GPR_RDX), low = l1_gpr(GPR_RAX);
    assert_int_equal(high, 0x7000);
    assert_true(low > 4096 * 1000 && low < 4096 * 100000);
    l1_clear(VMCS_SECONDARY_CONTROLS, SECONDARY_USE_TSC_SCALING);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmresume();
    assert_true(l1_gpr(GPR_RAX) < 100000);
    expect_exit(EXIT_VMCALL);
}

static const struct CMUnitTest tests[] = {
    BOTH(cr8_is_vtpr),
    BOTH_WITH(cr8_is_vtpr, ", moving", .cpu_count = 2, .move_one_in = 2),
    BOTH(tpr_below_threshold),
    BOTH(accesses_to_the_apic_page_exit),
    BOTH(apic_registers_are_virtualized),
    BOTH(x2apic_msrs_are_virtualized),
    BOTH(intercepted_x2apic_msrs_exit),
    BOTH_WITH(x2apic_msrs_are_virtualized, ", emulated by L0", .l0_emulates_x2apic = true),
    BOTH_WITH(intercepted_x2apic_msrs_exit, ", emulated by L0", .l0_emulates_x2apic = true),
    BOTH(an_x2apic_msr_is_virtualized_while_a_control_says_so),
    BOTH_WITH(an_x2apic_msr_is_virtualized_while_a_control_says_so, ", emulated by L0",
              .l0_emulates_x2apic = true),
    BOTH(a_virtual_interrupt_is_delivered),
    BOTH(priorities_hold_virtual_interrupts_back),
    BOTH(an_eoi_may_exit),
    BOTH(a_self_ipi_is_virtual),
    BOTH(what_is_no_self_ipi_exits),
    BOTH(an_interrupt_command_exits),
    BOTH(a_real_interrupt_exits_past_virtual_ones),
    BOTH(virtual_interrupts_belong_to_one_vmcs),
    BOTH_APART(tsc_scaling),
};

int main(void)
{
    return cmocka_run_group_tests_name("apic", tests, NULL, NULL);
}
