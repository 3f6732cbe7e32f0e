// SPDX-License-Identifier: MIT
// A vcpu's nested state (nvmx/state.h) that L1 could not have brought about is refused, with the reason, and
// nothing has changed then; and whatever is accepted runs, and does no harm. (That a state which was saved is
// restored is tested by every scenario: world.c runs each a third time, with another vcpu after every exit.)
#include "l1_vmx.h"
#include "xorshift.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HEADER(member) offsetof(struct nvmx_state_header, member)

static uint8_t state[32768], before[32768], after[32768];
static size_t size;
static char failure[256]; // the first one on L0's stack

static void fail_later(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (failure[0] == 0)
        vsnprintf(failure, sizeof(failure), format, arguments);
    va_end(arguments);
}

static void save(void)
{
    size = nvmx_state_size(world_vcpu());
    if (size > sizeof(state))
        abort();
    nvmx_state_get(world_vcpu(), state);
    memcpy(before, state, size);
}

// Of the record of `encoding` in `section`.
static size_t value_at(enum nvmx_state_section section, uint32_t encoding)
{
    for (size_t at = sizeof(struct nvmx_state_header); at < size; at += sizeof(struct nvmx_state_record)) {
        struct nvmx_state_record record;
        memcpy(&record, state + at, sizeof(record));
        if (record.section == section && record.encoding == encoding)
            return at + offsetof(struct nvmx_state_record, value);
    }
    fail_later("the state has no record of field %#x in section %u", encoding, section);
    return 0;
}

static uint64_t get(size_t at)
{
    uint64_t value;
    memcpy(&value, state + at, sizeof(value));
    return value;
}

static void set(size_t at, uint64_t value)
{
    memcpy(state + at, &value, sizeof(value));
}

static void set32(size_t at, uint32_t value)
{
    memcpy(state + at, &value, sizeof(value));
}

static void change_flags(uint32_t on, uint32_t off)
{
    uint32_t flags;
    memcpy(&flags, state + HEADER(flags), sizeof(flags));
    set32(HEADER(flags), (flags | on) & ~off);
}

static bool is_unchanged(void)
{
    if (nvmx_state_size(world_vcpu()) != size)
        return false;
    nvmx_state_get(world_vcpu(), after);
    return memcmp(after, before, size) == 0;
}

// Offers the state as it was changed, of which `bytes` are there; any rule will do for CHECK_COUNT.
static void expect_verdict(size_t bytes, enum nvmx_state_reason reason, uint16_t rule)
{
    struct nvmx_state_verdict verdict = nvmx_state_set(world_vcpu(), state, bytes);
    if (verdict.reason != NVMX_STATE_ACCEPTED && !is_unchanged())
        fail_later("refused (%s), and the vcpu has changed", nvmx_state_reason_text(verdict.reason));
    if (verdict.reason != reason || (rule != CHECK_COUNT && verdict.rule != rule))
        fail_later("\"%s\", rule %s, and not \"%s\", rule %s", nvmx_state_reason_text(verdict.reason),
                   verdict.rule < CHECK_COUNT ? check_rules[verdict.rule].id : "none",
                   nvmx_state_reason_text(reason), rule < CHECK_COUNT ? check_rules[rule].id : "none");
    memcpy(state, before, size);
}

static void expect_refused(enum nvmx_state_reason reason)
{
    expect_verdict(size, reason, CHECK_COUNT);
}

static void expect_refused_for(enum nvmx_state_reason reason, uint16_t rule)
{
    expect_verdict(size, reason, rule);
}

static void expect_accepted(void)
{
    expect_verdict(size, NVMX_STATE_ACCEPTED, CHECK_COUNT);
}

static bool l0_offers_headers(void)
{
    save();
    expect_accepted();
    set(HEADER(magic), get(HEADER(magic)) ^ 1);
    expect_refused(NVMX_STATE_BAD_HEADER);
    set32(HEADER(version), NVMX_STATE_VERSION + 1);
    expect_refused(NVMX_STATE_BAD_HEADER);
    set32(HEADER(size), (uint32_t)size + 16);
    expect_refused(NVMX_STATE_BAD_HEADER);
    set32(HEADER(reserved), 1);
    expect_refused(NVMX_STATE_BAD_HEADER);
    change_flags(1u << 31, 0);
    expect_refused(NVMX_STATE_BAD_HEADER);
    change_flags(NVMX_STATE_CURRENT, 0); // records that are not there
    expect_refused(NVMX_STATE_BAD_HEADER);
    for (size_t less = 0; less < size; less += 24)
        expect_verdict(less, NVMX_STATE_BAD_HEADER, CHECK_COUNT);
    set32(sizeof(struct nvmx_state_header) + offsetof(struct nvmx_state_record, encoding), 0x6822);
    expect_refused(NVMX_STATE_BAD_RECORD);
    set(value_at(NVMX_STATE_OF_L1, VMCS_GUEST_ES_SELECTOR), 0x10000);
    expect_refused(NVMX_STATE_BAD_RECORD);
    change_flags(NVMX_STATE_ENTRY_PENDING, 0);
    expect_refused(NVMX_STATE_BAD_FLAGS);
    set(HEADER(vmxon_pointer), 0x1000);
    expect_refused(NVMX_STATE_BAD_FLAGS);
    set(HEADER(feature_control), 0x100);
    expect_refused(NVMX_STATE_BAD_FEATURE_CONTROL);
    return true;
}

static void headers_are_refused(void)
{
    l0_call_between_exits(l0_offers_headers);
    l1_run(CPUID(0));
    assert_string_equal(failure, "");
}

static bool l0_offers_states_of_l1(void)
{
    save();
    expect_accepted();
    set(HEADER(vmxon_pointer), VMXON_REGION + 8);
    expect_refused(NVMX_STATE_BAD_VMXON_POINTER);
    set(HEADER(vmcs12_pointer), VMXON_REGION);
    expect_refused(NVMX_STATE_BAD_VMCS12_POINTER);
    set(HEADER(vmcs12_pointer), L1_RAM_SIZE);
    expect_refused(NVMX_STATE_BAD_VMCS12_POINTER);
    set(HEADER(feature_control), FEATURE_CONTROL_LOCKED);
    expect_refused(NVMX_STATE_BAD_FEATURE_CONTROL);
    change_flags(NVMX_STATE_ABORTED, 0);
    expect_refused(NVMX_STATE_BAD_FLAGS);
    size_t cr0 = value_at(NVMX_STATE_OF_L1, VMCS_GUEST_CR0), cr4 = value_at(NVMX_STATE_OF_L1, VMCS_GUEST_CR4);
    set(cr0, get(cr0) & ~CR0_PG);
    expect_refused(NVMX_STATE_BAD_L1_CR0);
    set(cr0, get(cr0) | CR0_NW);
    expect_refused(NVMX_STATE_BAD_L1_CR0);
    set(cr4, get(cr4) & ~CR4_VMXE);
    expect_refused(NVMX_STATE_BAD_L1_CR4);
    set(cr4, get(cr4) | 1ull << 40);
    expect_refused(NVMX_STATE_BAD_L1_CR4);
    set(value_at(NVMX_STATE_OF_L1, VMCS_GUEST_TR_ACCESS_RIGHTS), 0x8b | SEGMENT_UNUSABLE);
    expect_refused_for(NVMX_STATE_BAD_L1_REGISTER, CHECK_GUEST_TR_UNUSABLE);
    set(value_at(NVMX_STATE_OF_L1, VMCS_GUEST_RIP), 1ull << 60);
    expect_refused_for(NVMX_STATE_BAD_L1_REGISTER, CHECK_GUEST_RIP_CANONICAL);
    set32(HEADER(event_info), 0x30d);
    expect_refused(NVMX_STATE_BAD_L1_REGISTER);
    set32(HEADER(event_info), INTERRUPTION_VALID | 1u << 8);
    expect_refused(NVMX_STATE_BAD_L1_REGISTER);
    // Anything goes in vmcs12 that L1 can have written.
    set(value_at(NVMX_STATE_OF_VMCS12, VMCS_PIN_BASED_CONTROLS), 0xffffffff);
    expect_accepted();
    return true;
}

static void states_of_l1_are_refused(void)
{
    L2_PROGRAM(l2, VMCALL);
    l1_prepare(&l2);
    l0_call_between_exits(l0_offers_states_of_l1);
    l1_run(CPUID(0));
    assert_string_equal(failure, "");
    expect_fail_valid(try_vmlaunch(), 7);
    assert_int_equal(l1_vmread(VMCS_PIN_BASED_CONTROLS), 0xffffffff);
}

static bool l2_has_run(void)
{
    return world_vcpu()->in_l2 && !world_vcpu()->entry_pending;
}

static bool l0_offers_states_of_l2(void)
{
    if (!l2_has_run())
        return false;
    save();
    expect_accepted();
    change_flags(0, NVMX_STATE_LAUNCHED);
    expect_refused(NVMX_STATE_BAD_FLAGS);
    set(value_at(NVMX_STATE_OF_VMCS12, VMCS_PIN_BASED_CONTROLS), 0);
    expect_refused_for(NVMX_STATE_BAD_VMCS12, CHECK_CONTROL_PIN_RESERVED);
    set(value_at(NVMX_STATE_OF_VMCS12, VMCS_HOST_CR3), 1ull << 60);
    expect_refused(NVMX_STATE_BAD_VMCS12);
    set(value_at(NVMX_STATE_OF_L2, VMCS_GUEST_RFLAGS), 0);
    expect_refused(NVMX_STATE_BAD_L2_REGISTER);
    set(value_at(NVMX_STATE_OF_L2, VMCS_GUEST_CR4), 0);
    expect_refused(NVMX_STATE_BAD_L2_REGISTER);
    set32(HEADER(event_info), INTERRUPTION_VALID | 1u << 8);
    expect_refused(NVMX_STATE_BAD_L2_REGISTER);
    set(value_at(NVMX_STATE_OF_L1, VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_HLT);
    expect_refused(NVMX_STATE_BAD_L1_AT_ENTRY);
    set(value_at(NVMX_STATE_OF_L2, VMCS_GUEST_RSP), 0x7770);
    expect_accepted();
    return true;
}

static void states_of_l2_are_refused(void)
{
    L2_PROGRAM(l2, NOP, VMCALL);
    l1_prepare(&l2);
    l0_call_between_exits(l0_offers_states_of_l2);
    l1_vmlaunch();
    assert_string_equal(failure, "");
    expect_exit(EXIT_VMCALL);
    assert_int_equal(l1_vmread(VMCS_GUEST_RSP), 0x7770);
}

// --- noise

static uint64_t random_state;

static uint64_t next_random(void)
{
    return xorshift(&random_state);
}

static unsigned accepted_count, refused_count;

static unsigned moment; // 0: before VMLAUNCH, 1: while L2 runs, 2: behind L2's exit

static bool l0_offers_noise(void)
{
    if (moment == 1 && !l2_has_run())
        return false;
    save();
    unsigned count = 1 + (unsigned)(next_random() % 3);
    for (unsigned i = 0; i < count; i++) {
        size_t records = (size - sizeof(struct nvmx_state_header)) / sizeof(struct nvmx_state_record);
        size_t at = sizeof(struct nvmx_state_header) + 8 +
                    sizeof(struct nvmx_state_record) * (next_random() % records);
        if (next_random() % 8 == 0)
            at = next_random() % (size - 8); // anywhere
        set(at,
            next_random() % 4 ? get(at) ^ 1ull << next_random() % 64 : next_random() >> next_random() % 64);
    }
    if (nvmx_state_set(world_vcpu(), state, size).reason == NVMX_STATE_ACCEPTED) {
        accepted_count++;
        return true;
    }
    refused_count++;
    if (!is_unchanged())
        fail_later("noise was refused, and the vcpu has changed");
    return true;
}

static void noise(void)
{
    L2_PROGRAM(l2, CPUID(1), WRITE(0x20000, 1), READ(GPR_RBX, 0x30000), RDMSR(MSR_IA32_PAT), VMCALL);
    l1_prepare(&l2);
    moment = (unsigned)(next_random() % 3);
    if (moment != 0) {
        l1_vmlaunch();
        l1_skip_instruction();
    }
    l0_call_between_exits(l0_offers_noise);
    machine_limit_operations(world_machine(), 2000);
    if (moment != 1)
        l1_start(CPUID(0));
    l1_start(moment == 0 ? VMLAUNCH : VMRESUME);
}

static void accepted_noise_does_no_harm(void **unused)
{
    (void)unused;
    const char *more = getenv("PLASTRON_ROUNDS");
    unsigned rounds = more != NULL ? (unsigned)strtoul(more, NULL, 0) : 400;
    for (unsigned i = 1; i <= rounds; i++) {
        const char *sentence;
        world_begin(&(struct world_config){.nested = true, .seed = i, .cpu_count = 2, .move_one_in = 30});
        random_state = i * 0x9e3779b97f4a7c15ull + 1;
        machine_fill_with_ud2(world_machine());
        if (world_stops(noise, &sentence) && strstr(sentence, OUT_OF_OPERATIONS) == NULL)
            fail_msg("seed %u: %s", i, sentence);
        world_abandon();
        assert_string_equal(failure, "");
    }
    assert_true(accepted_count > rounds / 10 && refused_count > rounds / 10);
}

static const struct CMUnitTest tests[] = {
    NESTED(headers_are_refused, .cpu_count = 1),
    NESTED(states_of_l1_are_refused, .cpu_count = 1),
    NESTED(states_of_l2_are_refused, .cpu_count = 1),
    cmocka_unit_test_teardown(accepted_noise_does_no_harm, scenario_teardown),
};

int main(void)
{
    return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
