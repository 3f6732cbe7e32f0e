// SPDX-License-Identifier: MIT
// The processor refuses an entry of L1's own, by a rule that only the test knows. A MOV to CR0 or CR4 that
// led there is #GP and changes nothing; from anything else L1's processor shuts down, as by a triple fault,
// and an INIT signal starts it again. L0 goes on.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define PDPT          0x152000
#define PAE_DIRECTORY 0x153000

static const struct {
    uint32_t how;
    uint64_t qualification;
} refusals[] = {{33, 0}, {33, 4}, {7, 0}, {8, 0}};
#define REFUSALS (sizeof(refusals) / sizeof(refusals[0]))

static void refuse_next(unsigned i)
{
    machine_refuse_entry(world_machine(), world_vmcs01(), refusals[i].how, refusals[i].qualification);
}

static uint64_t read_cr(unsigned n)
{
    l1_run(MOV_FROM_CR(GPR_RAX, n));
    return l1_gpr(GPR_RAX);
}

static void put(uint64_t at, uint64_t value)
{
    memcpy(l1_memory(at), &value, sizeof(value));
}

static void a_mov_is_taken_back(void)
{
    uint64_t cr0 = read_cr(0);
    for (unsigned i = 0; i < REFUSALS; i++) {
        refuse_next(i);
        expect_exception_with_code(l1_execute(MOV_TO_CR(0, (cr0 | CR0_AM) & ~CR0_NE)), VECTOR_GP, 0);
        assert_int_equal(read_cr(0), cr0);
        refuse_next(i);
        expect_exception_with_code(l1_execute(MOV_TO_CR(4, CR4_PAE | CR4_PGE | CR4_VMXE)), VECTOR_GP, 0);
        assert_int_equal(read_cr(4), CR4_PAE);
    }
    assert_int_equal(world_vcpu()->refused_entry_count, 2 * REFUSALS);
    l1_run(MOV_TO_CR(4, CR4_PAE | CR4_PGE | CR4_VMXE));
    assert_int_equal(read_cr(4), CR4_PAE | CR4_PGE | CR4_VMXE);
}

// Out of IA-32e mode and, with PAE paging, back in: EFER.LMA, the entry's mode and the PDPTEs are as before.
static void a_change_of_mode_is_taken_back(void)
{
    uint64_t cr0 = read_cr(0), off = cr0 & ~(CR0_PG | CR0_NE), efer = l1_rdmsr(MSR_IA32_EFER);
    refuse_next(0);
    l1_run(TO_COMPATIBILITY_MODE);
    expect_exception_with_code(l1_execute(MOV_TO_CR(0, off)), VECTOR_GP, 0);
    assert_int_equal(l1_rdmsr(MSR_IA32_EFER), efer);
    assert_int_equal(read_cr(0), cr0);
}

static void pdptes_are_taken_back(void)
{
    for (uint64_t i = 0; i < L1_RAM_SIZE >> 21; i++)
        put(PAE_DIRECTORY + 8 * i, i << 21 | 0x83);
    put(PDPT, PAE_DIRECTORY | 1);
    put(PDPT + 8, 0);
    uint64_t cr0 = read_cr(0);
    l1_run(TO_COMPATIBILITY_MODE);
    l1_run(MOV_TO_CR(0, cr0 & ~CR0_PG));
    l1_run(WRMSR(MSR_IA32_EFER, 0));
    l1_run(MOV_TO_CR(3, PDPT));
    l1_run(MOV_TO_CR(0, cr0));
    put(L1_SCRATCH + 0x800, 0x7ff | (uint64_t)L1_IDT_32 << 16);
    struct op lidt = {.kind = OP_LIDT, AT(L1_SCRATCH + 0x800)};
    lidt.memory.address_size = 32;
    l1_run(lidt);
    put(PDPT + 8, PAE_DIRECTORY | 1); // loaded by a MOV that changes CR4.PGE, and that is taken back
    refuse_next(1);
    expect_exception_with_code(l1_execute(MOV_TO_CR(4, CR4_PAE | CR4_PGE | CR4_VMXE)), VECTOR_GP, 0);
    expect_exception_with_code(l1_execute(READ(GPR_RBX, 0x40000000)), VECTOR_PF, 0);
    l1_run(MOV_TO_CR(4, CR4_PAE | CR4_PGE | CR4_VMXE));
    l1_run(READ(GPR_RBX, 0x40000000));
}

static void an_nmi_comes_behind_the_fault(void)
{
    nvmx_pend_nmi(world_vcpu());
    refuse_next(0);
    assert_int_equal(l1_execute(MOV_TO_CR(4, CR4_PAE | CR4_VMXE)).how, EXCEPTION);
    assert_int_equal(l1_nmi_count(), 1);
    assert_int_equal(read_cr(4), CR4_PAE);
}

// Refused again without the MOV, there is nothing more to take back.
static void it_is_taken_back_once(void)
{
    l1_run(MOV_TO_CR(4, CR4_PAE | CR4_VMXE));
    refuse_next(0);
    assert_int_equal(l1_execute(CPUID(1)).how, IDLE);
}

static void the_processor_shuts_down(void)
{
    l1_enter_vmx_operation();
    for (unsigned i = 0; i < REFUSALS; i++) {
        refuse_next(i);
        assert_int_equal(l1_execute(CPUID(1)).how, IDLE);
        assert_true(world_vcpu()->shutdown);
        assert_false(world_vcpu()->vmxon);
        l0_do(L0_RESTARTS_L1);
        cpu_init_signal(l1_cpu());
        l1_continue();
        l1_run(CPUID(1));
        l1_enter_vmx_operation();
    }
    assert_int_equal(world_vcpu()->refused_entry_count, REFUSALS);
}

// L0's log names the rule where it knows it: here one of its own that it broke on purpose.
static bool break_l1(void)
{
    nvmx_write(world_vcpu(), F_GUEST_RFLAGS, 0);
    return true;
}

static void the_rule_is_named(void)
{
    l0_call_between_exits(break_l1);
    assert_int_equal(l1_execute(CPUID(1)).how, IDLE);
    assert_non_null(strstr(l0_last_log(), "GUEST_RFLAGS_RESERVED"));
}

static const struct CMUnitTest tests[] = {
    NESTED(a_mov_is_taken_back, 0),
    NESTED(a_change_of_mode_is_taken_back, 0),
    NESTED(pdptes_are_taken_back, 0),
    NESTED(an_nmi_comes_behind_the_fault, 0),
    NESTED(it_is_taken_back_once, 0),
    NESTED(the_processor_shuts_down, 0),
    NESTED(the_rule_is_named, .l0_expects_refusals = true),
};

int main(void)
{
    return cmocka_run_group_tests_name("entries of L1", tests, NULL, NULL);
}
