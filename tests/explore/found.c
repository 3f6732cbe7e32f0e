// SPDX-License-Identifier: MIT
// What random exploration (tests/explore) found, each as short as it can be: what L1 and L2 see bare, and
// what they see under the engine, must be the same.
#include "explore.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct found {
    const char *name;
    const struct step *step;
    size_t count;
    struct world_config config;
};

static void run_found(void **state)
{
    const struct found *found = *state;
    struct step *steps = calloc(found->count, sizeof(*steps));
    struct script script = {.config = found->config, .step = steps, .room = found->count};
    unsigned vcpu = 0;
    for (size_t i = 0; i < found->count; i++) {
        struct step step = found->step[i];
        if (step.kind == STEP_VCPU) {
            vcpu = (unsigned)step.op.a;
            continue;
        }
        step.vcpu = (uint8_t)vcpu;
        script.step[script.count++] = step;
    }
    struct result result;
    explore_run(&script, NULL, &result);
    if (result.verdict != VERDICT_SAME)
        print_failure(stderr, &script, &result);
    free(steps);
    assert_int_equal(result.verdict, VERDICT_SAME);
}

#define FOUND(array, ...)                                                                                    \
    {                                                                                                        \
#array, run_found, NULL, NULL, &(struct found)                                                       \
        {                                                                                                    \
            .name = #array, .step = array, .count = sizeof(array) / sizeof(array[0]), .config = {            \
                .seed = 1,                                                                                   \
                __VA_ARGS__                                                                                  \
            }                                                                                                \
        }                                                                                                    \
    }

static const struct step vmxon_in_root_operation_does_not_read_its_operand[] = {
    ENTER_VMX,
    L1(VMXON(0x800000000000)),
};

static const struct step a_fault_of_l1_pushes_rf[] = {
    L1(VMXOFF),
    L1(READ(GPR_RBX, L1_STACK + 0x1000 - 24)),
};

static const struct step an_nmi_that_was_blocked_is_delivered_behind_the_entry_that_unblocks[] = {
    ENTER_VMX,       PREPARE(0, MODE_64), L1(VMLAUNCH), L2(NMI_ARRIVES),
    L2(NMI_ARRIVES), GUEST(0, MODE_64),   L1(VMRESUME),
};

static const struct step an_nmi_that_was_blocked_exits_behind_the_entry_with_virtual_nmis[] = {
    ENTER_VMX,
    PREPARE(1, MODE_64),
    L1(VMLAUNCH),
    L2(NMI_ARRIVES),
    L2(NMI_ARRIVES),
    L1(VMWRITE(VMCS_PIN_BASED_CONTROLS, 0x3e)),
    L1(VMRESUME),
    L1(VMREAD(GPR_RAX, VMCS_EXIT_REASON)),
    L1(VMREAD(GPR_RBX, VMCS_GUEST_RIP)),
    L1(VMRESUME),
    L2(NOP),
};

static const struct step an_nmi_ends_the_shutdown_state[] = {
    ENTER_VMX,    PREPARE(0, MODE_64), L1(VMWRITE(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_SHUTDOWN)),
    L1(VMLAUNCH), WAKE(WAKE_NMI),      L2(NOP),
};

static const struct step a_pending_nmi_ends_the_shutdown_state_behind_an_entry[] = {
    ENTER_VMX,
    PREPARE_WITHOUT_EPT(1, MODE_64),
    L1(VMLAUNCH),
    L2(NMI_ARRIVES),
    L2(NMI_ARRIVES),
    GUEST_WITHOUT_EPT(1, MODE_64),
    L1(VMWRITE(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_SHUTDOWN)),
    L1(VMRESUME),
    L2(NOP),
};

static const struct step the_tpr_threshold_comes_before_an_nmi_behind_an_entry[] = {
    ENTER_VMX,
    PREPARE_WITHOUT_EPT(0, MODE_64),
    L1(VMLAUNCH),
    L2(NMI_ARRIVES),
    L1(VMWRITE(VMCS_TPR_THRESHOLD, 0x1)),
    L1(VMWRITE(VMCS_PRIMARY_CONTROLS, 0x84206172)),
    L1(VMWRITE(VMCS_SECONDARY_CONTROLS, 0x1)),
    L1(NMI_ARRIVES),
    L1(VMWRITE(VMCS_PIN_BASED_CONTROLS, 0x3e)),
    L1(VMRESUME),
};

static const struct step shutdown_with_a_wide_base_of_an_unusable_ss[] = {
    ENTER_VMX,
    PREPARE(1, MODE_64),
    L1(VMWRITE(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_SHUTDOWN)),
    L1(VMWRITE(VMCS_GUEST_SS_ACCESS_RIGHTS, SEGMENT_UNUSABLE)),
    L1(VMWRITE(VMCS_GUEST_SS_BASE, 0x2000000000)),
    L1(VMLAUNCH),
    WAKE(WAKE_NMI),
    L2(NOP),
};

static const struct step nmis_stay_blocked_over_a_failed_entry[] = {
    ENTER_VMX,
    PREPARE(0, MODE_64),
    L1(VMLAUNCH),
    L2(NMI_ARRIVES),
    L2(NMI_ARRIVES),
    PREPARE(3, MODE_64),
    L1(VMWRITE(VMCS_GUEST_GDTR_LIMIT, 0x10000)),
    L1(VMLAUNCH),
    L1(VMREAD(GPR_RAX, VMCS_EXIT_REASON)),
};

static const struct step an_nmi_whose_delivery_faults_blocks_nmis[] = {
    ENTER_VMX,    PREPARE(0, MODE_64), L1(VMLAUNCH),    GUEST(0, MODE_REAL),
    L1(VMRESUME), L2(LMSW(0x1)),       L2(NMI_ARRIVES), L1(VMREAD(GPR_RAX, VMCS_GUEST_INTERRUPTIBILITY)),
};

static const struct step an_unknown_invalidation_is_undefined_in_l2[] = {
    ENTER_VMX,
    PREPARE_WITHOUT_EPT(2, MODE_64),
    L1(VMLAUNCH),
    L2(INVEPT(1, L2_DATA)),
};

static const struct step an_injected_mtf_exit_needs_no_control[] = {
    ENTER_VMX,    PREPARE(3, MODE_64),
    L1(VMLAUNCH), L1(VMWRITE(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000700)),
    L1(VMRESUME), L1(VMREAD(GPR_RAX, VMCS_EXIT_REASON)),
};

static const struct step the_monitor_trap_follows_an_instruction_that_l0_emulates[] = {
    ENTER_VMX,
    PREPARE(2, MODE_64),
    L1(VMLAUNCH),
    L1(VMWRITE(VMCS_PRIMARY_CONTROLS, 0x9c006172)),
    L1(VMRESUME),
    L2(RDMSR(MSR_IA32_VMX_BASIC)),
    L1(VMREAD(GPR_RAX, VMCS_EXIT_REASON)),
    L1(VMREAD(GPR_RBX, VMCS_GUEST_RIP)),
};

static const struct step a_fault_in_real_address_mode_has_no_error_code[] = {
    ENTER_VMX,    PREPARE(0, MODE_64),
    L1(VMLAUNCH), GUEST(0, MODE_REAL),
    L1(VMRESUME), L2(WRMSR(0xc0000082, 0x4000000000000000)),
    L2(NOP),
};

static const struct step an_entry_that_fails_behind_the_guest_state_leaves_efer[] = {
    ENTER_VMX,
    PREPARE(3, MODE_64),
    L1(VMLAUNCH),
    L1(VMWRITE(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 0x2)),
    L1(WRITE(ENTRY_LIST_OF(3) + 16, 0)),
    L1(VMWRITE(VMCS_VM_EXIT_CONTROLS, 0x36ffb)),
    L1(VMRESUME),
    L1(RDMSR(MSR_IA32_EFER)),
};

static const struct step single_step_over_sti[] = {
    ENTER_VMX, PREPARE(2, MODE_64), L1(VMLAUNCH), L2(SET_FLAGS(0x100)), L2(STI),
};

int main(void)
{
    const struct CMUnitTest tests[] = {
        FOUND(vmxon_in_root_operation_does_not_read_its_operand),
        FOUND(a_fault_of_l1_pushes_rf),
        FOUND(an_nmi_that_was_blocked_is_delivered_behind_the_entry_that_unblocks),
        FOUND(an_nmi_that_was_blocked_exits_behind_the_entry_with_virtual_nmis),
        FOUND(an_nmi_ends_the_shutdown_state),
        FOUND(a_pending_nmi_ends_the_shutdown_state_behind_an_entry),
        FOUND(the_tpr_threshold_comes_before_an_nmi_behind_an_entry),
        FOUND(shutdown_with_a_wide_base_of_an_unusable_ss),
        FOUND(nmis_stay_blocked_over_a_failed_entry),
        FOUND(an_nmi_whose_delivery_faults_blocks_nmis),
        FOUND(an_nmi_whose_delivery_faults_blocks_nmis, .l0_exceptions = 1u << VECTOR_GP),
        FOUND(an_unknown_invalidation_is_undefined_in_l2,
              .hidden_secondary = SECONDARY_ENABLE_EPT | SECONDARY_UNRESTRICTED_GUEST),
        FOUND(an_injected_mtf_exit_needs_no_control),
        FOUND(the_monitor_trap_follows_an_instruction_that_l0_emulates),
        FOUND(a_fault_in_real_address_mode_has_no_error_code),
        FOUND(a_fault_in_real_address_mode_has_no_error_code, .l0_exceptions = 1u << VECTOR_GP),
        FOUND(an_entry_that_fails_behind_the_guest_state_leaves_efer),
        FOUND(single_step_over_sti),
    };
    return cmocka_run_group_tests_name("found", tests, NULL, NULL);
}
