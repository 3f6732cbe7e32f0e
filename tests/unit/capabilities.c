// SPDX-License-Identifier: MIT
// What L1 is offered of each kind of processor: never more than there is, nothing by halves, and what known
// L1s refuse to load without.
#include <machine.h>
#include <nvmx/caps.h>
#include <nvmx/controls.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct processor *const processors[] = {&processor_rich, &processor_no_vpid, &processor_sparse};
#define COUNT (sizeof(processors) / sizeof(processors[0]))

static uint64_t msr_of(const struct nvmx_caps *caps, uint32_t msr)
{
    return caps->msr[msr - CAPS_MSR_FIRST];
}

static void the_processors_capabilities_are_read(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT; i++) {
        struct machine *machine = machine_create(&(struct machine_config){
            .processor = processors[i], .cpu_count = 1, .memory_size = 0x10000, .root = ROOT_IS_L0});
        struct nvmx_caps caps;
        memset(&caps, 0xa5, sizeof(caps));
        nvmx_caps_read(machine_cpu(machine, 0), &caps);
        assert_memory_equal(&caps, &processors[i]->vmx, sizeof(caps));
        machine_destroy(machine);
    }
}

// Performance counters: 31:0 general-purpose, from 32 on fixed, 48 metrics.
static void features_are_those_of_cpuid(void **state)
{
    (void)state;
    struct nvmx_caps caps = {.features = FEATURE_ALL, .perf_global_ctrl = ~0ull};
    nvmx_caps_take_cpuid(&caps, &(struct nvmx_cpuid_words){0});
    assert_int_equal(caps.features, 0);
    assert_int_equal(caps.perf_global_ctrl, 0);
    nvmx_caps_take_cpuid(&caps, &(struct nvmx_cpuid_words){.leaf_7_ebx = 1u << 2, .leaf_a_eax = 0x0401});
    assert_int_equal(caps.features, FEATURE_SGX);
    assert_int_equal(caps.perf_global_ctrl, 0); // version 1 has no such MSR
    nvmx_caps_take_cpuid(
        &caps, &(struct nvmx_cpuid_words){.leaf_7_ebx = 1u << 11, .leaf_a_eax = 0x0804, .leaf_a_edx = 3});
    assert_int_equal(caps.features, FEATURE_RTM);
    assert_int_equal(caps.perf_global_ctrl, 0x7000000ff);
    nvmx_caps_take_cpuid(
        &caps, &(struct nvmx_cpuid_words){.leaf_7_ecx = 1u << 24, .leaf_a_eax = 0x2005, .leaf_a_ecx = 8});
    assert_int_equal(caps.features, FEATURE_BUS_LOCK_DETECTION);
    assert_int_equal(caps.perf_global_ctrl, 0x8ffffffff);
    nvmx_caps_take_cpuid(&caps, &(struct nvmx_cpuid_words){.leaf_7_1_eax = 1u << 26,
                                                           .leaf_a_eax = 0x0405,
                                                           .leaf_a_edx = 4,
                                                           .perf_capabilities = 1u << 15});
    assert_int_equal(caps.features, FEATURE_LAM);
    assert_int_equal(caps.perf_global_ctrl, 0x1000f0000000f);
}

// L0 understands none of them.
static void no_feature_is_offered(void **state)
{
    (void)state;
    struct nvmx_caps hardware = processor_rich.vmx, offered;
    hardware.features = FEATURE_ALL;
    nvmx_caps_offer(&hardware, &offered);
    assert_int_equal(offered.features, 0);
}

static void l0_says_what_it_misses(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT; i++)
        assert_null(nvmx_caps_missing_for_l0(&processors[i]->vmx));
    assert_non_null(nvmx_caps_missing_for_l0(&processor_no_ept.vmx));
    const char *missing = nvmx_caps_missing_for_l0(&processor_no_unrestricted_guest.vmx);
    assert_non_null(missing);
    assert_non_null(strstr(missing, "unrestricted guest"));
}

static void nothing_is_offered_that_is_not_there(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT; i++) {
        struct nvmx_caps offered;
        nvmx_caps_offer(&processors[i]->vmx, &offered);
        for (unsigned word = 0; word < CAPS_WORD_COUNT; word++) {
            uint32_t may = nvmx_caps_allowed1(&offered, (enum caps_word)word);
            uint32_t must = nvmx_caps_allowed0(&offered, (enum caps_word)word);
            uint32_t may_hardware = nvmx_caps_allowed1(&processors[i]->vmx, (enum caps_word)word);
            assert_int_equal(may & ~may_hardware, 0);
            assert_int_equal(must & ~may, 0); // what must be 1 may be 1
        }
        uint64_t ept = msr_of(&offered, MSR_IA32_VMX_EPT_VPID_CAP);
        assert_int_equal(ept & ~msr_of(&processors[i]->vmx, MSR_IA32_VMX_EPT_VPID_CAP), 0);
        assert_int_equal(msr_of(&offered, MSR_IA32_VMX_CR0_FIXED0), 0x80000021);
        assert_int_equal(msr_of(&offered, MSR_IA32_VMX_CR4_FIXED1) &
                             ~msr_of(&processors[i]->vmx, MSR_IA32_VMX_CR4_FIXED1),
                         0);
    }
}

// The TRUE MSRs say less of what must be 1, and the same of what may be.
static void plain_and_true_msrs_agree(void **state)
{
    (void)state;
    static const uint32_t pairs[][2] = {
        {MSR_IA32_VMX_PINBASED_CTLS, MSR_IA32_VMX_TRUE_PINBASED_CTLS},
        {MSR_IA32_VMX_PROCBASED_CTLS, MSR_IA32_VMX_TRUE_PROCBASED_CTLS},
        {MSR_IA32_VMX_EXIT_CTLS, MSR_IA32_VMX_TRUE_EXIT_CTLS},
        {MSR_IA32_VMX_ENTRY_CTLS, MSR_IA32_VMX_TRUE_ENTRY_CTLS},
    };
    for (unsigned i = 0; i < COUNT; i++) {
        struct nvmx_caps offered;
        nvmx_caps_offer(&processors[i]->vmx, &offered);
        for (unsigned k = 0; k < 4; k++) {
            uint64_t plain = msr_of(&offered, pairs[k][0]), with_true = msr_of(&offered, pairs[k][1]);
            assert_int_equal(plain >> 32, with_true >> 32);
            assert_int_equal((uint32_t)with_true & ~(uint32_t)plain, 0);
        }
    }
}

// Linux refuses to load with one side of a pair only, or with capabilities of a control that is not offered.
static void nothing_is_offered_by_halves(void **state)
{
    (void)state;
    static const struct {
        uint32_t entry_load, exit_save, exit_load;
    } pairs[] = {
        {ENTRY_LOAD_PAT, EXIT_SAVE_PAT, EXIT_LOAD_PAT},
        {ENTRY_LOAD_EFER, EXIT_SAVE_EFER, EXIT_LOAD_EFER},
        {ENTRY_LOAD_PERF_GLOBAL_CTRL, 0, EXIT_LOAD_PERF_GLOBAL_CTRL},
    };
    for (unsigned i = 0; i < COUNT; i++) {
        struct nvmx_caps offered;
        nvmx_caps_offer(&processors[i]->vmx, &offered);
        uint32_t entry = nvmx_caps_allowed1(&offered, CAPS_ENTRY),
                 exit = nvmx_caps_allowed1(&offered, CAPS_EXIT);
        for (unsigned k = 0; k < 3; k++) {
            assert_int_equal(!(entry & pairs[k].entry_load), !(exit & pairs[k].exit_load));
            if (pairs[k].exit_save != 0)
                assert_int_equal(!(entry & pairs[k].entry_load), !(exit & pairs[k].exit_save));
        }
        uint32_t secondary = nvmx_caps_allowed1(&offered, CAPS_SECONDARY);
        uint64_t ept_vpid = msr_of(&offered, MSR_IA32_VMX_EPT_VPID_CAP);
        if (!(secondary & SECONDARY_ENABLE_EPT))
            assert_int_equal((uint32_t)ept_vpid, 0);
        if (!(secondary & SECONDARY_ENABLE_VPID))
            assert_int_equal(ept_vpid >> 32, 0);
        assert_false((secondary & SECONDARY_UNRESTRICTED_GUEST) && !(secondary & SECONDARY_ENABLE_EPT));
        bool timer = nvmx_caps_allowed1(&offered, CAPS_PIN) & PIN_PREEMPTION_TIMER;
        assert_true(timer || !(exit & EXIT_SAVE_PREEMPTION_TIMER));
    }
}

// FACTS: What real L1s demand, of a processor that has it all.
static void known_l1s_load(void **state)
{
    (void)state;
    struct nvmx_caps offered;
    nvmx_caps_offer(&processor_rich.vmx, &offered);
    uint64_t basic = msr_of(&offered, MSR_IA32_VMX_BASIC);
    assert_true((basic >> 32 & 0x1fff) <= 4096 && (basic >> 32 & 0x1fff) > 0);
    assert_int_equal(basic >> 50 & 0xf, 6); // write-back
    assert_int_equal(basic >> 48 & 1, 0);
    assert_int_equal(basic >> 31 & 1, 0);
    const uint32_t pin = PIN_EXTERNAL_INTERRUPT_EXITING | PIN_NMI_EXITING | PIN_VIRTUAL_NMIS;
    const uint32_t primary = PRIMARY_INTERRUPT_WINDOW_EXITING | PRIMARY_USE_TSC_OFFSETTING |
                             PRIMARY_HLT_EXITING | PRIMARY_INVLPG_EXITING | PRIMARY_MWAIT_EXITING |
                             PRIMARY_RDPMC_EXITING | PRIMARY_RDTSC_EXITING | PRIMARY_CR3_LOAD_EXITING |
                             PRIMARY_CR3_STORE_EXITING | PRIMARY_CR8_LOAD_EXITING |
                             PRIMARY_CR8_STORE_EXITING | PRIMARY_MOV_DR_EXITING |
                             PRIMARY_UNCONDITIONAL_IO_EXITING | PRIMARY_USE_IO_BITMAPS |
                             PRIMARY_USE_MSR_BITMAPS | PRIMARY_MONITOR_EXITING | PRIMARY_ACTIVATE_SECONDARY;
    const uint32_t exit = EXIT_SAVE_DEBUG_CONTROLS | EXIT_HOST_ADDRESS_SPACE_SIZE |
                          EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT | EXIT_SAVE_PAT | EXIT_LOAD_PAT;
    assert_int_equal(msr_of(&offered, MSR_IA32_VMX_PINBASED_CTLS) >> 32 & pin, pin);
    assert_int_equal(msr_of(&offered, MSR_IA32_VMX_PROCBASED_CTLS) >> 32 & primary, primary);
    assert_int_equal(msr_of(&offered, MSR_IA32_VMX_EXIT_CTLS) >> 32 & exit, exit);
    assert_int_equal(msr_of(&offered, MSR_IA32_VMX_ENTRY_CTLS) >> 32 &
                         (ENTRY_LOAD_DEBUG_CONTROLS | ENTRY_IA32E_MODE_GUEST),
                     ENTRY_LOAD_DEBUG_CONTROLS | ENTRY_IA32E_MODE_GUEST);
    uint64_t ept = msr_of(&offered, MSR_IA32_VMX_EPT_VPID_CAP);
    const uint64_t wanted = EPT_CAP_WALK_LENGTH_4 | EPT_CAP_MEMORY_TYPE_WB | EPT_CAP_INVEPT |
                            EPT_CAP_INVEPT_ALL | VPID_CAP_INVVPID | VPID_CAP_INDIVIDUAL | VPID_CAP_SINGLE |
                            VPID_CAP_ALL | VPID_CAP_SINGLE_RETAINING;
    assert_int_equal(ept & wanted, wanted);
    // Xen: CR3 and INVLPG exiting may be 0
    uint32_t must = (uint32_t)msr_of(&offered, MSR_IA32_VMX_TRUE_PROCBASED_CTLS);
    assert_int_equal(must & (PRIMARY_CR3_LOAD_EXITING | PRIMARY_CR3_STORE_EXITING | PRIMARY_INVLPG_EXITING),
                     0);
}

// PERF_GLOBAL_CTRL is among the processor's defects (FACTS), and never offered.
static void defects_are_not_offered(void **state)
{
    (void)state;
    struct nvmx_caps offered;
    nvmx_caps_offer(&processor_rich.vmx, &offered);
    assert_false(nvmx_caps_allowed1(&offered, CAPS_ENTRY) & ENTRY_LOAD_PERF_GLOBAL_CTRL);
    assert_false(nvmx_caps_allowed1(&offered, CAPS_EXIT) & EXIT_LOAD_PERF_GLOBAL_CTRL);
}

// IA32_VMX_VMCS_ENUM: the highest index among the fields that L1 has, as the model knows them.
static void the_highest_field_index_is_right(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT; i++) {
        struct processor l1 = *processors[i];
        nvmx_caps_offer(&processors[i]->vmx, &l1.vmx);
        uint32_t highest = 0;
        static const uint32_t encodings[] = {
#define FIELD(name, encoding, width, type, exists, entry, exit) encoding,
#include <nvmx/vmcs_fields.def>
#undef FIELD
        };
        for (unsigned k = 0; k < F_COUNT; k++)
            if (processor_has_field(&l1, encodings[k]) && vmcs_encoding_index(encodings[k]) > highest)
                highest = vmcs_encoding_index(encodings[k]);
        assert_int_equal(msr_of(&l1.vmx, MSR_IA32_VMX_VMCS_ENUM) >> 1 & 0x1ff, highest);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_processors_capabilities_are_read),
        cmocka_unit_test(features_are_those_of_cpuid),
        cmocka_unit_test(no_feature_is_offered),
        cmocka_unit_test(l0_says_what_it_misses),
        cmocka_unit_test(nothing_is_offered_that_is_not_there),
        cmocka_unit_test(plain_and_true_msrs_agree),
        cmocka_unit_test(nothing_is_offered_by_halves),
        cmocka_unit_test(known_l1s_load),
        cmocka_unit_test(defects_are_not_offered),
        cmocka_unit_test(the_highest_field_index_is_right),
    };
    return cmocka_run_group_tests_name("capabilities", tests, NULL, NULL);
}
