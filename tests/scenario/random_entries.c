// SPDX-License-Identifier: MIT
// VM entries with random mistakes and random choices: L1 writes random values to a few random fields of a
// VMCS that works, and enters. Whatever the bare processor makes of it (a VMfail, a failed entry, any exit),
// L1 must see the same under L0; and what L0 gives to the hardware must never be refused by it (the model
// stops then).
#include "l1_vmx.h"
#include "xorshift.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

// More of it: PLASTRON_ROUNDS=N, PLASTRON_SEED=S in the environment.
#define ROUNDS  250
#define L2_CODE 0x10000 // where the first program of L2 is

static uint64_t setting(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 0) : otherwise;
}

static uint64_t random_state;

static uint64_t next_random(void)
{
    return xorshift(&random_state);
}

static const uint32_t encodings[] = {
#define FIELD(name, encoding, width, type, exists, entry, exit) encoding,
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

// Fields that stay as they are: those that bring L1 back to the test, or tell the time.
static bool is_left_alone(uint32_t encoding)
{
    if (vmcs_encoding_type(encoding) == VMCS_TYPE_INFO)
        return true;
    switch (encoding) {
    case VMCS_HOST_CR0:
    case VMCS_HOST_CR3:
    case VMCS_HOST_CR4:
    case VMCS_HOST_RIP:
    case VMCS_HOST_RSP:
    case VMCS_HOST_IDTR_BASE:
    case VMCS_HOST_TR_BASE:
    case VMCS_HOST_CS_SELECTOR:
    case VMCS_HOST_IA32_EFER:
    case VMCS_PREEMPTION_TIMER_VALUE:
    case VMCS_TSC_MULTIPLIER:
    case VMCS_EXECUTIVE_VMCS_POINTER:
    case VMCS_VM_EXIT_MSR_STORE_COUNT: // a list that cannot be worked on is a VMX abort
    case VMCS_VM_EXIT_MSR_LOAD_COUNT:
        return true;
    default:
        return !processor_has_field(world_l1_processor(), encoding);
    }
}

static uint64_t random_value(uint64_t old)
{
    static const uint64_t interesting[] = {
        0,
        1,
        2,
        3,
        4,
        7,
        8,
        0xf,
        0x10,
        0x33,
        0x67,
        0x93,
        0x9b,
        0xff,
        0xfff,
        0x1000,
        0x10000,
        0xc093,
        0xa09b,
        0xffff,
        0x100000,
        0x7fffffff,
        0x80000000,
        0xffffffff,
        0x100000000,
        0x7fffffffffff,
        0x800000000000,
        0xffff800000000000,
        0x8000000000000000,
        UINT64_MAX,
        L1_TABLES,
        L2_RAM,
        0x80000306,
        0x80000b0d,
        0x80000033,
        0x80000202,
        0x80000480,
        0x80000603,
    };
    switch (next_random() % 4) {
    case 0:
        return interesting[next_random() % (sizeof(interesting) / sizeof(interesting[0]))];
    case 1:
        return next_random();
    default: // one bit, or two, of what works
        old ^= 1ull << next_random() % 64;
        return next_random() % 2 ? old : old ^ 1ull << next_random() % 32;
    }
}

// Controls that would make time visible, that leave L1 in another mode, or that hold L2 for ever.
static uint64_t tamed(uint32_t encoding, uint64_t value)
{
    if (value >= L1_REGIONS && value < L1_REGIONS + 0x4000)
        value += 0x100000; // what is in a VMCS region is the processor's own
    switch (encoding) {
    case VMCS_PIN_BASED_CONTROLS:
        return value & ~(uint64_t)PIN_PREEMPTION_TIMER;
    case VMCS_VM_EXIT_CONTROLS:
        return (value | EXIT_HOST_ADDRESS_SPACE_SIZE | EXIT_LOAD_EFER) &
               ~(uint64_t)EXIT_SAVE_PREEMPTION_TIMER;
    case VMCS_PRIMARY_CONTROLS:
        return value | PRIMARY_HLT_EXITING;
    case VMCS_GUEST_RIP: // not behind the program's last operation
        return value >> 8 == L2_CODE >> 8 ? L2_CODE : value;
    case VMCS_GUEST_ACTIVITY_STATE:
        return (uint32_t)value <= 3 ? 0 : value;
    case VMCS_VM_ENTRY_MSR_LOAD_COUNT:
        return value % 4;
    default:
        return value;
    }
}

static void look_at_the_exit(unsigned changes)
{
    uint64_t reason = l1_vmread(VMCS_EXIT_REASON);
    bool failed = reason & EXIT_REASON_ENTRY_FAILURE;
    if (failed && changes > 1) // of several mistakes the processor reports any
        return;
    l1_vmread_masked(VMCS_EXIT_QUALIFICATION, reason == EXIT_EPT_VIOLATION ? EPT_QUALIFICATION : ~0ull);
    if (failed)
        return;
    bool has_error = l1_vmread_event(VMCS_VM_EXIT_INTERRUPTION_INFO) & INTERRUPTION_ERROR_CODE;
    if (has_error)
        l1_vmread(VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE);
    has_error = l1_vmread_event(VMCS_IDT_VECTORING_INFO) & INTERRUPTION_ERROR_CODE;
    if (has_error)
        l1_vmread(VMCS_IDT_VECTORING_ERROR_CODE);
    if (reason == EXIT_EPT_VIOLATION || reason == EXIT_EPT_MISCONFIGURATION)
        l1_vmread(VMCS_GUEST_PHYSICAL_ADDRESS);
    static const uint32_t saved[] = {
        VMCS_GUEST_RIP,
        VMCS_GUEST_RSP,
        VMCS_GUEST_RFLAGS,
        VMCS_GUEST_CR0,
        VMCS_GUEST_CR3,
        VMCS_GUEST_CR4,
        VMCS_GUEST_INTERRUPTIBILITY,
        VMCS_GUEST_ACTIVITY_STATE,
        VMCS_GUEST_CS_BASE,
        VMCS_GUEST_CS_SELECTOR,
        VMCS_GUEST_DR7,
        VMCS_VM_ENTRY_CONTROLS,
        VMCS_GUEST_FS_BASE,
        VMCS_GUEST_GDTR_LIMIT,
        VMCS_GUEST_SYSENTER_EIP,
        VMCS_VM_ENTRY_INTERRUPTION_INFO,
        VMCS_GUEST_TR_BASE,
        VMCS_GUEST_IA32_DEBUGCTL,
    };
    for (unsigned i = 0; i < sizeof(saved) / sizeof(saved[0]); i++)
        l1_vmread_masked(saved[i],
                         saved[i] == VMCS_GUEST_RFLAGS ? ~RFLAGS_RF : ~0ull); // L0's own exits set it
    // Breakpoints that are not enabled wait until an event is injected, which L0 may do by itself.
    l1_vmread_masked(VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, ~0xfull);
}

static void prepare(struct l2 *l2, uint64_t base[F_COUNT])
{
    l1_prepare(l2);
    machine_fill_with_ud2(world_machine());
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_HLT_EXITING);
    if (processor_has_field(world_l1_processor(), VMCS_TSC_MULTIPLIER))
        l1_vmwrite(VMCS_TSC_MULTIPLIER, 1ull << 48);
    for (unsigned i = 0; i < F_COUNT; i++) {
        if (is_left_alone(encodings[i]))
            continue;
        uint64_t value = 0;
        expect_succeed(try_vmread(encodings[i], &value));
        bool never_written = value >> 52 == 0xbad || value >> 16 == 0xbad || encodings[i] == VMCS_VPID ||
                             encodings[i] == VMCS_GUEST_INTERRUPT_STATUS || encodings[i] == VMCS_EPTP_INDEX ||
                             encodings[i] == VMCS_PML_INDEX || encodings[i] == VMCS_POSTED_INTERRUPT_VECTOR;
        base[i] = never_written ? 0 : value; // the poison of the bare machine
        l1_set_gpr(GPR_RAX, 0);
        l1_vmwrite(encodings[i], base[i]);
    }
}

static void entries(void)
{
    static uint64_t base[F_COUNT];
    L2_PROGRAM(l2, NOP, OUT(0x60, 1), READ(GPR_RBX, 0x20000), MOV_FROM_CR(GPR_RSI, 0), RDMSR(MSR_IA32_EFER),
               WRITE(0x30000, 7), MOV_TO_CR(0, CR0_PE | CR0_PG | CR0_NE | CR0_ET | CR0_WP), PAUSE, INT3, STI,
               NOP, VMCALL);
    random_state = 0x1234567 + 77 * (world_seed() + 1000 * setting("PLASTRON_SEED", 0));
    uint64_t rounds = setting("PLASTRON_ROUNDS", ROUNDS);
    prepare(&l2, base);
    assert_int_equal(l2.code, L2_CODE);
    bool launched = false;
    for (unsigned round = 0; round < rounds; round++) {
        unsigned changes = 1 + (unsigned)(next_random() % 3), changed[3];
        for (unsigned i = 0; i < changes; i++) {
            do
                changed[i] = (unsigned)(next_random() % F_COUNT);
            while (is_left_alone(encodings[changed[i]]));
            uint64_t value = tamed(encodings[changed[i]], random_value(base[changed[i]]));
            world_note("round %u: field %#x = %#llx", round, encodings[changed[i]],
                       (unsigned long long)value);
            l1_vmwrite(encodings[changed[i]], value);
        }
        struct outcome outcome = launched ? try_vmresume() : try_vmlaunch();
        if (outcome.how == EXITED) {
            launched |= !(l1_vmread(VMCS_EXIT_REASON) & EXIT_REASON_ENTRY_FAILURE);
            look_at_the_exit(changes);
        } else {
            assert_int_equal(outcome.how, COMPLETED);
            assert_true(outcome.zf);
            l1_vmread_masked(VMCS_VM_INSTRUCTION_ERROR, changes > 1 ? 0 : ~0ull); // 7 and 8 come in any order
        }
        for (unsigned i = 0; i < F_COUNT; i++) // whatever L2 did
            if (!is_left_alone(encodings[i]) && vmcs_encoding_type(encodings[i]) == VMCS_TYPE_GUEST)
                l1_vmwrite(encodings[i], base[i]);
        for (unsigned i = 0; i < changes; i++)
            l1_vmwrite(encodings[changed[i]], base[changed[i]]);
        l1_vmwrite(VMCS_VM_ENTRY_CONTROLS, base[F_VM_ENTRY_CONTROLS]);
        l1_vmwrite(VMCS_VM_ENTRY_INTERRUPTION_INFO, 0);
    }
}

static const struct CMUnitTest tests[] = {
    BOTH_WITH(entries, " 1", .seed = 1, .save_restore_one_in = 9),
    BOTH_WITH(entries, " 2", .seed = 2, .save_restore_one_in = 9),
    BOTH_WITH(entries, " 3", .seed = 3, .save_restore_one_in = 9),
    BOTH_WITH(entries, " 4, sparse processor", .seed = 4, .save_restore_one_in = 9,
              .processor = &processor_sparse),
    BOTH_WITH(entries, " 5, processor without VPID", .seed = 5, .save_restore_one_in = 9,
              .processor = &processor_no_vpid),
    BOTH_WITH(entries, " 6, moving", .seed = 6, .save_restore_one_in = 9, .cpu_count = 3, .move_one_in = 20),
    BOTH_WITH(entries, " 7, without VMCS shadowing", .seed = 7, .save_restore_one_in = 9,
              .without_vmcs_shadowing = true),
};

int main(void)
{
    return cmocka_run_group_tests_name("random entries", tests, NULL, NULL);
}
