// SPDX-License-Identifier: MIT
// Bug classes of nested VMX, as other hypervisors had them: 13 to 18. Each test is named after its class.
// Manual: Virtual Processor Identifiers (VPIDs); VM Exits; VMCS Shadowing.
#include "l1_vmx.h"
#include "world_internal.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define AT_PTE 0x30000 // the linear address whose page-table entry in L2 is changed
#define PTE    (0x4000 + 8 * (AT_PTE >> 12))
#define PAGE_A 0x31000 // L2-physical
#define PAGE_B 0x32000

static void inject(uint32_t info, uint32_t error_code)
{
    l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, info);
    l1_vmwrite(VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, error_code);
}

// CVE-2022-2196: L1 relies on VM exits to keep its branch predictions from L2's, and to the processor both
// are one guest. Every way from L2 to L1 passes a barrier, and no other way does.
static void bug_13_l1_and_l2_share_the_branch_predictor(void)
{
    L2_PROGRAM(l2, VMCALL, WRITE(0x20000, 1), UD2, HLT);
    l1_prepare(&l2);
    l1_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << VECTOR_UD);
    const uint64_t *barriers = &l1_cpu()->predictor_barrier_count;
    l1_run(CPUID(0));
    assert_int_equal(*barriers, 0);
    l1_vmlaunch();
    assert_int_equal(*barriers, 1);
    l1_resume_behind(); // with an EPT violation on the way that is L0's
    expect_exit(EXIT_EXCEPTION_OR_NMI);
    assert_int_equal(*barriers, 2);
    l1_vmwrite(VMCS_GUEST_RFLAGS, 0);
    l1_vmresume();
    expect_entry_failure(33, 0);
    assert_int_equal(*barriers, 3); // a failed entry of a bare processor loads the host state, too
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    l1_vmwrite(VMCS_CR3_TARGET_COUNT, 100);
    expect_fail_valid(try_vmresume(), 7);
    assert_int_equal(*barriers, 3);
}

static void read_under(uint16_t vpid, uint64_t rip, unsigned expected)
{
    l1_vmwrite(VMCS_VPID, vpid);
    l1_resume_at(rip);
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_gpr(GPR_RBX) & 0xff, expected);
}

static void point_pte_at(uint64_t page)
{
    uint64_t entry = page | 7;
    memcpy(l2_memory(PTE), &entry, 8);
}

// CVE-2026-89932, -89929, -89930: vpid02 is not flushed on its first use, on another processor, after a
// failed entry; or another one is.
static void bug_14_vpid02_is_not_flushed(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, AT_PTE), VMCALL);
    l2.vpid = 1;
    l1_prepare(&l2);
    memset(l2_memory(PAGE_A), 0xaa, 8);
    memset(l2_memory(PAGE_B), 0xbb, 8);
    point_pte_at(PAGE_A);
    l1_vmlaunch();
    read_under(1, l2.code, 0xaa);
    point_pte_at(PAGE_B);
    for (uint16_t vpid = 2; vpid < 40; vpid++) // first use
        read_under(vpid, l2.code, 0xbb);
    // the right one: VPID 3 is flushed, and nothing about it depends on which ran last
    point_pte_at(PAGE_A);
    read_under(50, l2.code, 0xaa);
    l1_invvpid(1, 3, 0);
    read_under(3, l2.code, 0xaa);
    // a failed entry with another VPID in between
    point_pte_at(PAGE_B);
    l1_invvpid(1, 3, 0);
    l1_vmwrite(VMCS_VPID, 60);
    l1_vmwrite(VMCS_GUEST_RFLAGS, 0);
    l1_vmresume();
    expect_entry_failure(33, 0);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    read_under(3, l2.code, 0xbb);
    read_under(60, l2.code, 0xbb);
    // INVVPID of every context while another is L1's current one
    point_pte_at(PAGE_A);
    l1_vmwrite(VMCS_VPID, 61);
    l1_invvpid(2, 0, 0);
    read_under(3, l2.code, 0xaa);
    read_under(60, l2.code, 0xaa);
    // and VMXOFF with VMXON between
    l1_vmclear(VMCS_A);
    l1_vmxoff();
    l1_vmxon(VMXON_REGION);
    l1_vmptrld(VMCS_A);
    l1_vmwrite(VMCS_VPID, 3);
    l1_invvpid(1, 3, 0);
    point_pte_at(PAGE_B);
    l1_vmwrite(VMCS_GUEST_RIP, l2.code);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RBX) & 0xff, 0xbb);
}

// CVE-2026-89931: something that L0 wanted to do for L2 is done to L1.
static void bug_15_a_request_survives_the_switch(void)
{
    L2_PROGRAM(l2, VMCALL, FAULT_CODE(VECTOR_GP, 0), VMCALL);
    l1_prepare(&l2);
    struct nvmx_vcpu *vcpu = world_vcpu();
    l1_vmlaunch();
    assert_int_equal(vcpu->event.info, 0);
    assert_false(vcpu->entry_pending);
    uint64_t *stack = l1_ept_entry(l2.eptp, 0x8000, 1), entry = *stack;
    *stack = 0;
    l1_invept(1, l2.eptp);
    l1_resume_behind(); // L0 gets the exception, raises it again, and its delivery makes an exit of L1's
    expect_exit(EXIT_EPT_VIOLATION);
    assert_int_equal(l1_vmread_event(VMCS_IDT_VECTORING_INFO), HARDWARE(VECTOR_GP) | WITH_CODE);
    *stack = entry;
    l1_invept(1, l2.eptp);
    assert_int_equal(l0_exception_count(), 1);
    assert_int_equal(vcpu->event.info, 0);
    assert_false(vcpu->nmi_window);
    l1_run(NOP); // nothing is delivered to L1
    l1_vmwrite(VMCS_GUEST_RFLAGS, 0);
    inject(HARDWARE(VECTOR_GP) | WITH_CODE, 8);
    l1_vmresume(); // an entry that fails leaves no event behind either
    expect_entry_failure(33, 0);
    assert_int_equal(vcpu->event.info, 0);
    l1_run(NOP);
    l1_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    memset(l1_memory(MSR_LISTS), 0xff, 16);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, MSR_LISTS);
    l1_vmwrite(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1);
    l1_vmresume(); // ... even if all but the MSR list was in place
    expect_entry_failure(34, 1);
    assert_int_equal(vcpu->event.info, 0);
    l1_run(NOP);
}

// CVE-2026-64562: the shadow VMCS shows fields when L1 has no current VMCS, or another's; or L1 writes into
// it while nobody looks.
static void bug_16_the_shadow_vmcs_shows(void)
{
    uint64_t value;
    L2_PROGRAM(first, VMCALL, VMREAD(GPR_RBX, VMCS_GUEST_RIP), VMCALL);
    L2_PROGRAM(second, CPUID(0), VMCALL);
    l1_prepare(&first);
    second.eptp = first.eptp;
    l1_prepare_vmcs(VMCS_B, &second);
    for (unsigned i = 0; i < 3; i++) {
        l1_vmptrld(VMCS_A);
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), first.code);
        l1_vmwrite(VMCS_GUEST_RSP, 0x9000);
        l1_vmptrld(VMCS_B);
        assert_int_equal(l1_vmread(VMCS_GUEST_RIP), second.code);
        l1_vmwrite(VMCS_GUEST_RSP, 0x8000);
        l1_vmptrld(VMCS_A);
        assert_int_equal(l1_vmread(VMCS_GUEST_RSP), 0x9000);
    }
    l1_vmlaunch();
    l1_resume_behind();
    expect_exit(EXIT_VMREAD); // L2 has none
    l1_vmclear(VMCS_A);
    expect_fail_invalid(try_vmread(VMCS_GUEST_RIP, &value));
    expect_fail_invalid(try_vmwrite(VMCS_GUEST_RIP, 0x1234));
    l1_vmptrld(VMCS_A);
    assert_int_equal(l1_vmread(VMCS_GUEST_RIP), first.code + 3);
    l1_vmxoff();
    expect_exception(l1_execute(VMREAD(GPR_RAX, VMCS_GUEST_RIP)), VECTOR_UD);
    l1_vmxon(VMXON_REGION);
    expect_fail_invalid(try_vmread(VMCS_GUEST_RIP, &value));
    l1_vmptrld(VMCS_B);
    assert_int_equal(l1_vmread(VMCS_GUEST_RSP), 0x8000);
}

// CVE-2022-3344: the virtual processor is reset while L2 runs.
static void bug_17_a_reset_finds_l2_running(void)
{
    static const struct op start[] = {MOV_FROM_CR(GPR_RBX, 4), SET(GPR_RSI, 0x5191)};
    struct program program = {.name = "after SIPI", .base = 0x9a000, .level = 1, .op = start, .count = 2};
    machine_add_program(world_machine(), &program);
    L2_PROGRAM(l2, HLT, VMCALL);
    l1_prepare(&l2);
    assert_int_equal(try_vmlaunch().how, IDLE);
    struct nvmx_vcpu *vcpu = world_vcpu();
    assert_true(vcpu->in_l2);
    l0_reset_l1();
    l0_move_to(0);
    assert_int_equal(l1_continue().how, IDLE); // waiting for a SIPI
    assert_false(vcpu->in_l2);
    assert_false(vcpu->vmxon);
    assert_false(vcpu->entry_pending);
    assert_false(vcpu->shadow.attached);
    assert_int_equal(vcpu->event.info, 0);
    assert_int_equal(vcpu->vmcs12_pointer.value, UINT64_MAX);
    assert_ptr_equal(vcpu->current, &vcpu->vmcs01);
    cpu_startup_ipi(l1_cpu(), 0x9a);
    assert_int_equal(l1_continue().how, L2_AT_END);
    assert_int_equal(l1_gpr(GPR_RSI), 0x5191);
    assert_int_equal(l1_gpr(GPR_RBX), 0); // CR4, as L1 sees it
}

// CVE-2026-99176: a state that is restored fails half way, and L2 goes on with a paging root that is not its
// own. The last record of the state is the wrong one: all before it could have been taken over.
static struct {
    bool offered, refused, as_before;
} restore;

static bool l0_offers_a_wrong_state(void)
{
    static uint8_t state[32768];
    struct nvmx_vcpu *vcpu = world_vcpu();
    size_t size = nvmx_state_size(vcpu);
    if (!vcpu->in_l2 || size > sizeof(state))
        return false;
    nvmx_state_get(vcpu, state);
    struct nvmx_state_record last;
    memcpy(&last, state + size - sizeof(last), sizeof(last));
    last.encoding ^= 2;
    memcpy(state + size - sizeof(last), &last, sizeof(last));
    uint64_t root = nvmx_read(vcpu, F_EPT_POINTER), cr3 = nvmx_read(vcpu, F_GUEST_CR3);
    restore.offered = true;
    restore.refused = nvmx_state_set(vcpu, state, size).reason != NVMX_STATE_ACCEPTED;
    restore.as_before = vcpu->in_l2 && vcpu->current == &vcpu->vmcs02 &&
                        nvmx_read(vcpu, F_EPT_POINTER) == root && nvmx_read(vcpu, F_GUEST_CR3) == cr3;
    return true;
}

static void bug_18_a_failed_restore_leaves_the_wrong_root(void)
{
    L2_PROGRAM(l2, READ(GPR_RBX, AT_PTE), READ(GPR_RSI, 0x50000), VMCALL);
    l1_prepare(&l2);
    memset(l2_memory(PAGE_A), 0xaa, 8);
    memset(l2_memory(0x50000), 0x55, 8);
    point_pte_at(PAGE_A);
    memset(&restore, 0, sizeof(restore));
    l0_call_between_exits(l0_offers_a_wrong_state); // L2's first accesses miss in ept02
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_true(restore.offered);
    assert_true(restore.refused);
    assert_true(restore.as_before);
    assert_int_equal(l1_gpr(GPR_RSI) & 0xff, 0x55);
}

#define MOVING .cpu_count = 3, .move_one_in = 2

static const struct CMUnitTest tests[] = {
    NESTED(bug_13_l1_and_l2_share_the_branch_predictor, .cpu_count = 1),
    BOTH(bug_14_vpid02_is_not_flushed),
    BOTH_WITH(bug_14_vpid02_is_not_flushed, ", moving", MOVING),
    NESTED(bug_15_a_request_survives_the_switch, .cpu_count = 1, .l0_exceptions = 1u << VECTOR_GP),
    BOTH(bug_16_the_shadow_vmcs_shows),
    BOTH_WITH(bug_16_the_shadow_vmcs_shows, ", moving", MOVING),
    NESTED(bug_17_a_reset_finds_l2_running, .cpu_count = 1, .floating = true),
    NESTED(bug_18_a_failed_restore_leaves_the_wrong_root, .cpu_count = 1),
};

int main(void)
{
    return cmocka_run_group_tests_name("bugs 13 to 18", tests, NULL, NULL);
}
