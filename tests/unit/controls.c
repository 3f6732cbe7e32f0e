// SPDX-License-Identifier: MIT
// controls.def: every control of the processor of FACTS is in it; what is offered is tested in both ways that
// it says; docs/controls.md says the same (`make docs` writes it: this program with --print).
#include <dirent.h>
#include <machine.h>
#include <nvmx/controls.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NOTHING                                                                                              \
    {                                                                                                        \
        0                                                                                                    \
    }
#define NEEDS(word, bits)                                                                                    \
    {                                                                                                        \
        [CAPS_##word] = (bits)                                                                               \
    }
#define NEEDS_2(a, x, b, y)                                                                                  \
    {                                                                                                        \
        [CAPS_##a] = (x), [CAPS_##b] = (y)                                                                   \
    }
static const struct control {
    enum caps_word word;
    unsigned number;
    const char *full_name, *name, *offer, *scenario, *guest_case, *text;
    uint32_t needs[CAPS_WORD_COUNT];
} controls[] = {
#define CONTROL(word, number, name, offer, needs, scenario, guest_case, text)                                \
    {CAPS_##word, number, #word "_" #name, #name, #offer, #scenario, #guest_case, text, needs},
#include <nvmx/controls.def>
#undef CONTROL
};
#define CONTROL_COUNT (sizeof(controls) / sizeof(controls[0]))

static bool is_offered(const struct control *control)
{
    return strcmp(control->offer, "NOT_OFFERED") != 0;
}

// --- docs/controls.md

static void add(char **at, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    *at += vsprintf(*at, format, arguments);
    va_end(arguments);
}

static void add_needs(char **at, const struct control *control)
{
    const char *comma = "";
    for (unsigned word = 0; word < CAPS_WORD_COUNT; word++)
        for (unsigned i = 0; i < CONTROL_COUNT; i++)
            if (controls[i].word == word && (control->needs[word] >> controls[i].number & 1) != 0) {
                add(at, "%s%s", comma, controls[i].full_name);
                comma = ", ";
            }
}

static char *make_document(void)
{
    static const char *const titles[CAPS_WORD_COUNT] = {
        "Pin-based VM-execution controls", "Primary processor-based VM-execution controls",
        "Secondary processor-based VM-execution controls", "VM-exit controls", "VM-entry controls"};
    char *text = malloc(1 << 17), *at = text;
    add(&at,
        "<!-- Made from include/nvmx/controls.def by `make docs`. -->\n# The VMX controls that L1 has\n\n"
        "Every control of the processor on which Plastron is tested, and what L0 does with it. L1 is offered "
        "a "
        "control when it is\n\"yes\" here, the processor has it, and L1 is offered what it needs. Each that "
        "is "
        "offered has a test on the software processor\n(`tests/scenario`) and one in an L1 of its own on the "
        "emulated one (`guests/first`).\n");
    for (unsigned word = 0; word < CAPS_WORD_COUNT; word++) {
        add(&at,
            "\n## %s\n\n| bit | control | offered | needs | what L0 does | tests |\n"
            "| --- | --- | --- | --- | --- | --- |\n",
            titles[word]);
        for (unsigned i = 0; i < CONTROL_COUNT; i++) {
            const struct control *c = &controls[i];
            if (c->word != word)
                continue;
            add(&at, "| %u | %s | %s | ", c->number, c->name, is_offered(c) ? "yes" : "no");
            add_needs(&at, c);
            add(&at, " | %s | ", c->text);
            if (is_offered(c))
                add(&at, "`%s`, `%s`", c->scenario, c->guest_case);
            add(&at, " |\n");
        }
    }
    return text;
}

// --- what the project's files say

static char *read_file(const char *name)
{
    FILE *file = fopen(name, "rb");
    if (file == NULL)
        fail_msg("cannot read %s: run the tests in the project's folder", name);
    char *text = calloc(1, 1 << 18);
    assert_true(fread(text, 1, (1 << 18) - 1, file) > 0);
    fclose(file);
    return text;
}

static bool is_word_character(char c)
{
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static bool mentions(const char *text, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = strstr(text, word); at != NULL; at = strstr(at + 1, word))
        if ((at == text || !is_word_character(at[-1])) && !is_word_character(at[length]))
            return true;
    return false;
}

// A test that runs bare and nested: `scenario` as first argument of one of the BOTH macros.
static bool runs_in_both(const char *text, const char *scenario)
{
    static const char *const forms[] = {"BOTH(%s)", "BOTH_APART(%s)", "BOTH_WITH(%s,"};
    for (unsigned i = 0; i < 3; i++) {
        char line[128];
        snprintf(line, sizeof(line), forms[i], scenario);
        if (strstr(text, line) != NULL)
            return true;
    }
    return false;
}

// Is there a file NAME.c in `folder` with the test, and does it mention the control?
static bool file_tests(const char *folder, const char *test, const char *control, bool is_scenario)
{
    DIR *directory = opendir(folder);
    if (directory == NULL)
        fail_msg("cannot read %s: run the tests in the project's folder", folder);
    char definition[128];
    snprintf(definition, sizeof(definition), "\nvoid test_%s(struct cpu *cpu)", test);
    bool found = false;
    for (struct dirent *entry = readdir(directory); entry != NULL && !found; entry = readdir(directory)) {
        size_t length = strlen(entry->d_name);
        if (length < 3 || strcmp(entry->d_name + length - 2, ".c") != 0)
            continue;
        char name[512];
        snprintf(name, sizeof(name), "%s/%s", folder, entry->d_name);
        char *text = read_file(name);
        bool has = is_scenario ? runs_in_both(text, test) : strstr(text, definition) != NULL;
        found = has && mentions(text, control);
        free(text);
    }
    closedir(directory);
    return found;
}

// --- tests

static void names_and_bits_are_unique(void **state)
{
    (void)state;
    for (unsigned i = 0; i < CONTROL_COUNT; i++) {
        for (unsigned k = 0; k < i; k++)
            assert_false(controls[i].word == controls[k].word && controls[i].number == controls[k].number);
        if (i > 0 &&
            (controls[i].word < controls[i - 1].word ||
             (controls[i].word == controls[i - 1].word && controls[i].number < controls[i - 1].number)))
            fail_msg("%s is out of order", controls[i].full_name);
    }
}

// Bits without a row are those that must be 1 (or 0) and have no meaning.
static void every_control_of_the_processor_has_a_row(void **state)
{
    (void)state;
    for (unsigned word = 0; word < CAPS_WORD_COUNT; word++) {
        uint32_t without = nvmx_caps_allowed1(&processor_rich.vmx, (enum caps_word)word) &
                           ~nvmx_caps_allowed0(&processor_rich.vmx, (enum caps_word)word);
        for (unsigned i = 0; i < CONTROL_COUNT; i++)
            if (controls[i].word == word)
                without &= ~(1u << controls[i].number);
        if (without != 0)
            fail_msg("word %u: the processor has controls %#x that have no row", word, without);
    }
}

static void every_constant_has_a_row(void **state)
{
    (void)state;
    static const char *const prefixes[] = {"PIN_", "PRIMARY_", "SECONDARY_", "EXIT_", "ENTRY_"};
    char *text = read_file("include/nvmx/controls.h");
    unsigned count = 0;
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        char name[64];
        if (sscanf(line, "#define %63[A-Z0-9_] (1u", name) != 1 || strstr(line, "(1u << ") == NULL)
            continue;
        bool is_control = false, has_row = false;
        for (unsigned i = 0; i < 5; i++)
            is_control |= strncmp(name, prefixes[i], strlen(prefixes[i])) == 0;
        if (!is_control || strncmp(name, "EXIT_REASON_", 12) == 0)
            continue;
        for (unsigned i = 0; i < CONTROL_COUNT; i++)
            has_row |= strcmp(name, controls[i].full_name) == 0;
        if (!has_row)
            fail_msg("%s is in controls.h and not in controls.def", name);
        count++;
    }
    assert_int_equal(count, CONTROL_COUNT);
    free(text);
}

static void what_is_offered_is_tested(void **state)
{
    (void)state;
    char *guest_cases = read_file("guests/first/first_tests.def"),
         *guest_common = read_file("guests/common/l2.c");
    for (unsigned i = 0; i < CONTROL_COUNT; i++) {
        const struct control *c = &controls[i];
        if (!is_offered(c)) {
            assert_string_equal(c->scenario, "NONE");
            assert_string_equal(c->guest_case, "NONE");
            continue;
        }
        char line[128];
        snprintf(line, sizeof(line), "FIRST_TEST(%s)", c->guest_case);
        if (!file_tests("tests/scenario", c->scenario, c->full_name, true))
            fail_msg("%s: no file of tests/scenario runs %s bare and nested, and mentions the control",
                     c->full_name, c->scenario);
        // What every L2 of guests/first has set is in guests/common.
        bool common = mentions(guest_common, c->full_name) &&
                      file_tests("guests/first", c->guest_case, "l2_create", false);
        if (strstr(guest_cases, line) == NULL ||
            (!common && !file_tests("guests/first", c->guest_case, c->full_name, false)))
            fail_msg("%s: guests/first has no test %s that mentions the control", c->full_name,
                     c->guest_case);
    }
    free(guest_cases);
    free(guest_common);
}

// Without what a control needs, it is not offered; with it, it is.
static void needs_are_respected(void **state)
{
    (void)state;
    static const unsigned true_msr[CAPS_WORD_COUNT] = {
        MSR_IA32_VMX_TRUE_PINBASED_CTLS, MSR_IA32_VMX_TRUE_PROCBASED_CTLS, MSR_IA32_VMX_PROCBASED_CTLS2,
        MSR_IA32_VMX_TRUE_EXIT_CTLS, MSR_IA32_VMX_TRUE_ENTRY_CTLS};
    for (unsigned i = 0; i < CONTROL_COUNT; i++) {
        const struct control *c = &controls[i];
        struct nvmx_caps hardware = processor_rich.vmx, offered;
        nvmx_caps_offer(&hardware, &offered);
        bool has = (nvmx_caps_allowed1(&hardware, c->word) >> c->number & 1) != 0;
        bool gets = (nvmx_caps_allowed1(&offered, c->word) >> c->number & 1) != 0;
        if (gets != (has && is_offered(c)))
            fail_msg("%s is %soffered", c->full_name, gets ? "" : "not ");
        for (unsigned word = 0; word < CAPS_WORD_COUNT; word++) {
            if (c->needs[word] == 0)
                continue;
            hardware = processor_rich.vmx;
            hardware.msr[true_msr[word] - CAPS_MSR_FIRST] &= ~((uint64_t)c->needs[word] << 32);
            nvmx_caps_offer(&hardware, &offered);
            if ((nvmx_caps_allowed1(&offered, c->word) >> c->number & 1) != 0)
                fail_msg("%s is offered without what it needs", c->full_name);
        }
    }
}

static void the_document_is_up_to_date(void **state)
{
    (void)state;
    char *document = make_document(), *file = read_file("docs/controls.md");
    if (strcmp(document, file) != 0)
        fail_msg("docs/controls.md is not what controls.def makes: run `make docs`");
    free(document);
    free(file);
}

int main(int count, char **words)
{
    if (count == 2 && strcmp(words[1], "--print") == 0) {
        char *document = make_document();
        fputs(document, stdout);
        free(document);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_bits_are_unique),
        cmocka_unit_test(every_control_of_the_processor_has_a_row),
        cmocka_unit_test(every_constant_has_a_row),
        cmocka_unit_test(what_is_offered_is_tested),
        cmocka_unit_test(needs_are_respected),
        cmocka_unit_test(the_document_is_up_to_date),
    };
    return cmocka_run_group_tests_name("controls", tests, NULL, NULL);
}
