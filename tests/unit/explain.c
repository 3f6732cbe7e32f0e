// SPDX-License-Identifier: MIT
// Broken rules in words: engine/explain.c.
#include <nvmx/check.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void a_broken_rule_in_one_line(void **state)
{
    (void)state;
    char text[CHECK_DESCRIPTION_MAX];
    const struct check_broken broken = {.index = CHECK_GUEST_TR_NOT_BUSY, .value = 0x89, .legal = 0x8b};
    size_t length = check_describe(&broken, text, sizeof(text));
    assert_string_equal(
        text, "GUEST_TR_NOT_BUSY: guest TR access rights 0x0089: type must be 11, or 3 outside IA-32e "
              "mode (Checks on Guest Segment Registers)");
    assert_int_equal(length, strlen(text));
}

static void fields_in_the_manuals_words(void **state)
{
    (void)state;
    static const struct {
        enum vmcs_field field;
        const char *words;
    } cases[] = {
        {F_PIN_BASED_CONTROLS, "pin-based controls"},
        {F_VM_ENTRY_INTERRUPTION_INFO, "VM-entry interruption info"},
        {F_VM_EXIT_MSR_LOAD_ADDRESS, "VM-exit MSR load address"},
        {F_IO_BITMAP_A, "I/O bitmap A"},
        {F_GUEST_IA32_DEBUGCTL, "guest IA32_DEBUGCTL"},
        {F_HOST_CR0, "host CR0"},
        {F_GUEST_PDPTE0, "guest PDPTE0"},
        {F_VMCS_LINK_POINTER, "VMCS link pointer"},
        {F_EPT_POINTER, "EPT pointer"},
        {F_HOST_SYSENTER_ESP, "host SYSENTER ESP"},
        {F_IO_RCX, "I/O RCX"},
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[64];
        check_field_words(cases[i].field, text, sizeof(text));
        assert_string_equal(text, cases[i].words);
    }
}

// Nothing is written past the end, whatever the size; what fits is a prefix of the whole.
static void short_buffers_are_respected(void **state)
{
    (void)state;
    char whole[CHECK_DESCRIPTION_MAX];
    const struct check_broken broken = {.index = CHECK_GUEST_RIP_CANONICAL, .value = 0x8000000000000000ull};
    size_t length = check_describe(&broken, whole, sizeof(whole));
    for (size_t size = 0; size <= length + 2; size++) {
        char text[CHECK_DESCRIPTION_MAX];
        memset(text, 'x', sizeof(text));
        size_t got = check_describe(&broken, text, size);
        for (size_t i = size; i < sizeof(text); i++)
            assert_int_equal(text[i], 'x');
        if (size == 0)
            continue;
        assert_int_equal(got, size - 1 < length ? size - 1 : length);
        assert_int_equal(text[got], '\0');
        assert_memory_equal(text, whole, got);
    }
}

static void every_rule_fits(void **state)
{
    (void)state;
    for (unsigned i = 0; i < CHECK_COUNT; i++) {
        char text[CHECK_DESCRIPTION_MAX];
        const struct check_broken broken = {.index = (uint16_t)i, .value = UINT64_MAX};
        if (check_describe(&broken, text, sizeof(text)) >= sizeof(text) - 1)
            fail_msg("%s: its description does not fit CHECK_DESCRIPTION_MAX", check_rules[i].id);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_broken_rule_in_one_line),
        cmocka_unit_test(fields_in_the_manuals_words),
        cmocka_unit_test(short_buffers_are_respected),
        cmocka_unit_test(every_rule_fits),
    };
    return cmocka_run_group_tests_name("explain", tests, NULL, NULL);
}
