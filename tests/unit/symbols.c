// SPDX-License-Identifier: MIT
// libnvmx reaches the world through hw.h and port.h only: its undefined symbols are functions of these two,
// and the four that a freestanding compiler may call by itself. And what its code must not do.
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *headers[2];

static char *read_file(const char *name)
{
    FILE *file = fopen(name, "rb");
    if (file == NULL)
        fail_msg("cannot read %s: run the tests in the project's folder", name);
    char *text = calloc(1, 65536);
    size_t size = fread(text, 1, 65535, file);
    fclose(file);
    assert_true(size > 0);
    return text;
}

// `symbol` followed by "(" at the start of a word.
static bool declares(const char *text, const char *symbol)
{
    size_t length = strlen(symbol);
    for (const char *at = strstr(text, symbol); at != NULL; at = strstr(at + 1, symbol)) {
        bool starts = at == text || at[-1] == ' ' || at[-1] == '*';
        if (starts && at[length] == '(')
            return true;
    }
    return false;
}

static bool is_allowed(const char *symbol)
{
    static const char *const by_compiler[] = {"memcpy", "memset", "memmove", "memcmp"};
    for (unsigned i = 0; i < 4; i++)
        if (strcmp(symbol, by_compiler[i]) == 0)
            return true;
    return declares(headers[0], symbol) || declares(headers[1], symbol);
}

static const char *library_name(void)
{
    static char name[512];
    const char *build = getenv("BUILD");
    snprintf(name, sizeof(name), "%s/libnvmx.a", build != NULL ? build : "build");
    return name;
}

struct symbols {
    char name[2000][64];
    unsigned count;
};

static bool has(const struct symbols *set, const char *name)
{
    for (unsigned i = 0; i < set->count; i++)
        if (strcmp(set->name[i], name) == 0)
            return true;
    return false;
}

static void add(struct symbols *set, const char *name)
{
    if (has(set, name))
        return;
    assert_true(set->count < 2000);
    snprintf(set->name[set->count++], 64, "%s", name);
}

static void undefined_symbols_are_the_two_seams(void **state)
{
    (void)state;
    static struct symbols undefined, defined;
    headers[0] = read_file("include/nvmx/hw.h");
    headers[1] = read_file("include/nvmx/port.h");
    char command[600], line[512];
    snprintf(command, sizeof(command), "nm -P %s", library_name());
    FILE *nm = popen(command, "r");
    assert_non_null(nm);
    while (fgets(line, sizeof(line), nm) != NULL) {
        char name[64], kind;
        if (sscanf(line, "%63s %c", name, &kind) != 2 || strchr(name, '[') != NULL)
            continue;
        add(kind == 'U' ? &undefined : &defined, name);
    }
    assert_int_equal(pclose(nm), 0);
    assert_true(defined.count > 50);
    unsigned used = 0;
    for (unsigned i = 0; i < undefined.count; i++) {
        if (has(&defined, undefined.name[i]))
            continue; // between two files of the engine
        if (!is_allowed(undefined.name[i]))
            fail_msg("the engine uses %s, which neither hw.h nor port.h declares", undefined.name[i]);
        used++;
    }
    assert_true(used > 15); // the seams are in use: nm was understood
    free(headers[0]);
    free(headers[1]);
}

// All state is the vcpu's. (.data.rel.ro holds constants with addresses in them.)
static void the_engine_has_no_state_of_its_own(void **state)
{
    (void)state;
    char command[600], line[512];
    unsigned seen = 0;
    snprintf(command, sizeof(command), "nm --format=sysv %s", library_name());
    FILE *nm = popen(command, "r");
    assert_non_null(nm);
    while (fgets(line, sizeof(line), nm) != NULL) {
        const char *section = strrchr(line, '|');
        if (section == NULL)
            continue;
        seen++;
        section++;
        bool writable = strncmp(section, ".bss", 4) == 0 || strncmp(section, "*COM*", 5) == 0 ||
                        (strncmp(section, ".data", 5) == 0 && strncmp(section, ".data.rel.ro", 12) != 0);
        if (writable)
            fail_msg("a writable variable: %s", line);
    }
    assert_int_equal(pclose(nm), 0);
    assert_true(seen > 50);
}

// A leaf function that keeps something below RSP loses it to an NMI or interrupt on the same stack.
static void nothing_is_kept_below_the_stack_pointer(void **state)
{
    (void)state;
    char command[600], line[512];
    unsigned seen = 0, uses = 0;
    snprintf(command, sizeof(command), "objdump -d --no-show-raw-insn %s", library_name());
    FILE *objdump = popen(command, "r");
    assert_non_null(objdump);
    while (fgets(line, sizeof(line), objdump) != NULL) {
        const char *below = strstr(line, "-0x");
        seen += strstr(line, "(%rsp") != NULL;
        while (below != NULL && strncmp(below + 3 + strspn(below + 3, "0123456789abcdef"), "(%rsp", 5) != 0)
            below = strstr(below + 3, "-0x");
        if (below == NULL || strstr(line, "lea ") != NULL)
            continue;
        uses++;
        print_error("the red zone is used: %s", line);
    }
    assert_int_equal(pclose(objdump), 0);
    assert_true(seen > 100); // objdump was understood
    assert_int_equal(uses, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(undefined_symbols_are_the_two_seams),
        cmocka_unit_test(the_engine_has_no_state_of_its_own),
        cmocka_unit_test(nothing_is_kept_below_the_stack_pointer),
    };
    return cmocka_run_group_tests_name("symbols", tests, NULL, NULL);
}
