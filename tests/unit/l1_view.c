// SPDX-License-Identifier: MIT
// The tables of what L1 is offered of a processor (hypervisor/msr.def, cpuid.def, xstate.def,
// include/nvmx/cr4.def): in order, nothing twice, a reason for whatever is hidden, and nothing offered that
// writes past EPT. docs/l1-view.md says what they say (`make docs` writes it: this program with --print).
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const struct msr {
    uint32_t first, last;
    const char *name, *read, *write;
    uint32_t mask;
    const char *text;
} msrs[] = {
#define MSR(first, last, name, read, write, mask, text) {first, last, #name, #read, #write, mask, text},
#include "../../hypervisor/msr.def"
#undef MSR
};

static const struct cr4_bit {
    unsigned number;
    const char *name, *policy, *text;
} cr4_bits[] = {
#define CR4_BIT(number, name, policy, text) {number, #name, #policy, text},
#include <nvmx/cr4.def>
#undef CR4_BIT
};

enum cpuid_register { EAX, EBX, ECX, EDX };
static const char *const register_names[] = {"EAX", "EBX", "ECX", "EDX"};

static const struct cpuid_bit {
    uint32_t leaf, subleaf;
    enum cpuid_register reg;
    unsigned bit;
    const char *name, *policy, *text;
} bits[] = {
#define CPUID_LEAF(leaf, subleaves, eax, ebx, ecx, edx, text)
#define CPUID_BIT(leaf, subleaf, reg, bit, name, policy, text)                                               \
    {leaf, subleaf, reg, bit, #name, #policy, text},
#include "../../hypervisor/cpuid.def"
#undef CPUID_LEAF
#undef CPUID_BIT
};

static const struct cpuid_leaf {
    uint32_t leaf;
    const char *subleaves, *registers[4], *text;
} leaves[] = {
#define CPUID_LEAF(leaf, subleaves, eax, ebx, ecx, edx, text)                                                \
    {leaf, #subleaves, {#eax, #ebx, #ecx, #edx}, text},
#define CPUID_BIT(leaf, subleaf, reg, bit, name, policy, text)
#include "../../hypervisor/cpuid.def"
#undef CPUID_LEAF
#undef CPUID_BIT
};

static const struct xstate {
    unsigned number;
    const char *name, *reg, *policy, *text;
} states[] = {
#define XSTATE(number, name, reg, policy, text) {number, #name, #reg, #policy, text},
#include "../../hypervisor/xstate.def"
#undef XSTATE
};

// --- docs/l1-view.md

static void add(char **at, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    *at += vsprintf(*at, format, arguments);
    va_end(arguments);
}

static const char *lower(const char *word)
{
    static const char *const words[][2] = {{"PASS", "the processor's"},
                                           {"IN_VMCS", "the processor's"},
                                           {"EMULATE", "L0's"},
                                           {"MASK", "some bits"},
                                           {"IGNORE", "ignored"},
                                           {"REFUSE", "#GP"},
                                           {"HIDE", "#GP"},
                                           {"OFFERED", "yes"},
                                           {"HIDDEN", "no"},
                                           {"OWN", "L1's own"}};
    for (unsigned i = 0; i < COUNT(words); i++)
        if (strcmp(words[i][0], word) == 0)
            return words[i][1];
    return "?";
}

static void add_msrs(char **at)
{
    add(at, "\n## MSRs\n\nAn MSR without a row is read as the processor answers; a write of it is #GP, and "
            "logged once. L2 has no more than L1;\nan entry of an MSR list of L1's for an MSR that L0 "
            "answers itself is "
            "refused as one for an MSR that does not exist.\n\n"
            "| MSRs | name | read | write | |\n| --- | --- | --- | --- | --- |\n");
    for (unsigned i = 0; i < COUNT(msrs); i++) {
        const struct msr *msr = &msrs[i];
        add(at, msr->first == msr->last ? "| 0x%x " : "| 0x%x to 0x%x ", msr->first, msr->last);
        add(at, "| %s | %s | %s", msr->name, lower(msr->read), lower(msr->write));
        if (msr->mask != 0)
            add(at, ": 0x%x", msr->mask);
        add(at, " | %s |\n", msr->text);
    }
}

static void add_leaf_bits(char **at, uint32_t leaf)
{
    for (unsigned i = 0; i < COUNT(bits); i++)
        if (bits[i].leaf == leaf && strcmp(bits[i].policy, "OFFERED") != 0)
            add(at, "| 0x%x, %u | %s[%u] %s | %s | %s |\n", leaf, bits[i].subleaf,
                register_names[bits[i].reg], bits[i].bit, bits[i].name, lower(bits[i].policy), bits[i].text);
}

static void add_offered_bits(char **at, const struct cpuid_leaf *leaf)
{
    bool any = false;
    for (unsigned i = 0; i < COUNT(bits); i++)
        if (bits[i].leaf == leaf->leaf && strcmp(bits[i].policy, "OFFERED") == 0) {
            add(at, any ? ", %s" : "; of features %s", bits[i].name);
            any = true;
        }
}

static void add_cpuid(char **at)
{
    add(at, "\n## CPUID\n\nWhat the processor has, as far as it is here. A leaf or a bit without a row is 0; "
            "a leaf beyond the "
            "highest is as the highest\nbasic one. The leaves at 0x40000000 are L0's own: "
            "[cpuid.md](cpuid.md).\n\n"
            "| leaf | offered |\n| --- | --- |\n");
    for (unsigned i = 0; i < COUNT(leaves); i++) {
        add(at, "| 0x%x | %s", leaves[i].leaf, leaves[i].text);
        add_offered_bits(at, &leaves[i]);
        add(at, " |\n");
    }
    add(at, "\nWhat is known and not the processor's:\n\n| leaf, subleaf | bit | offered | |\n| --- | --- | "
            "--- | --- |\n");
    for (unsigned i = 0; i < COUNT(leaves); i++)
        add_leaf_bits(at, leaves[i].leaf);
}

static void add_states(char **at)
{
    add(at, "\n## XCR0 and IA32_XSS\n\nA bit that is not offered, or not here, is #GP when it is set.\n\n"
            "| bit | register | state | offered | |\n| --- | --- | --- | --- | --- |\n");
    for (unsigned i = 0; i < COUNT(states); i++)
        add(at, "| %u | %s | %s | %s | %s |\n", states[i].number,
            strcmp(states[i].reg, "XSS") == 0 ? "IA32_XSS" : "XCR0", states[i].name, lower(states[i].policy),
            states[i].text);
}

static void add_cr4(char **at)
{
    add(at, "\n## CR4\n\nA bit that is not offered, or not here, is #GP when it is set.\n\n"
            "| bit | name | offered | |\n| --- | --- | --- | --- |\n");
    for (unsigned i = 0; i < COUNT(cr4_bits); i++)
        add(at, "| %u | %s | %s | %s |\n", cr4_bits[i].number, cr4_bits[i].name, lower(cr4_bits[i].policy),
            cr4_bits[i].text);
}

static char *make_document(void)
{
    char *text = malloc(1 << 18), *at = text;
    add(&at, "<!-- Made from hypervisor/msr.def, cpuid.def, xstate.def and include/nvmx/cr4.def by `make "
             "docs`. -->\n"
             "# What L1 sees of the processor\n\n"
             "L1 has the processor that is there, as far as L0 understands it. What L0 does not understand "
             "is not offered: "
             "each table below\nis a list of what is, with the reason where something is known and kept from "
             "L1. The VMX "
             "controls are in [controls.md](controls.md).\n");
    add_msrs(&at);
    add_cpuid(&at);
    add_states(&at);
    add_cr4(&at);
    return text;
}

static void the_document_is_up_to_date(void **state)
{
    (void)state;
    char *made = make_document(), *found = calloc(1, 1 << 18);
    FILE *file = fopen("docs/l1-view.md", "r");
    assert_non_null(file);
    size_t length = fread(found, 1, (1 << 18) - 1, file);
    fclose(file);
    assert_int_equal(length, strlen(made));
    assert_string_equal(found, made);
    free(made);
    free(found);
}

// --- MSRs

static void msrs_are_in_order(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(msrs); i++) {
        assert_true(msrs[i].first <= msrs[i].last);
        assert_true(i == 0 || msrs[i - 1].last < msrs[i].first);
        bool low = msrs[i].last < 0x2000, high = msrs[i].first >= 0xc0000000 && msrs[i].last < 0xc0002000;
        assert_true(low || high); // the bitmap has no other
    }
}

static bool is(const char *policy, const char *a, const char *b, const char *c)
{
    return strcmp(policy, a) == 0 || strcmp(policy, b) == 0 || strcmp(policy, c) == 0;
}

static void policies_fit_together(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(msrs); i++) {
        const struct msr *msr = &msrs[i];
        assert_true(is(msr->read, "PASS", "IN_VMCS", "EMULATE") || strcmp(msr->read, "HIDE") == 0);
        assert_int_equal(strcmp(msr->write, "MASK") == 0, msr->mask != 0);
        assert_int_equal(strcmp(msr->read, "HIDE") == 0, strcmp(msr->write, "HIDE") == 0);
        assert_int_equal(strcmp(msr->read, "IN_VMCS") == 0, strcmp(msr->write, "IN_VMCS") == 0);
        assert_true(msr->text[0] != '\0');
    }
}

// Where an MSR holds an address that the processor itself writes to, or moves a range that protects somebody.
static void no_msr_that_reaches_past_ept_can_be_written(void **state)
{
    (void)state;
    static const uint32_t dangerous[] = {0x79,   0x9b,   0x9e,   0xa0,   0x1f2, 0x1f3, 0x1f4, 0x1f5,
                                         0x2a0,  0x3f1,  0x3f2,  0x560,  0x561, 0x570, 0x580, 0x600,
                                         0x982,  0x983,  0x985,  0x986,  0x988, 0xd93, 0xc90, 0x1400,
                                         0x1401, 0x17d0, 0x17d1, 0x14ce, 0x981, 0x2e7, 0x150, 0x1b01};
    for (unsigned i = 0; i < COUNT(dangerous); i++)
        for (unsigned j = 0; j < COUNT(msrs); j++)
            if (dangerous[i] >= msrs[j].first && dangerous[i] <= msrs[j].last)
                assert_true(is(msrs[j].write, "HIDE", "REFUSE", "IGNORE"));
}

// --- CPUID

static uint64_t place_of(const struct cpuid_bit *bit)
{
    return (uint64_t)bit->leaf << 16 | (uint64_t)bit->subleaf << 8 | (uint64_t)bit->reg << 5 | bit->bit;
}

static void cpuid_is_in_order(void **state)
{
    (void)state;
    for (unsigned i = 1; i < COUNT(bits); i++)
        assert_true(place_of(&bits[i - 1]) < place_of(&bits[i]));
    for (unsigned i = 1; i < COUNT(leaves); i++)
        assert_true(leaves[i - 1].leaf < leaves[i].leaf);
}

static void bits_are_in_registers_of_bits(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(bits); i++) {
        bool found = false;
        for (unsigned j = 0; j < COUNT(leaves); j++)
            found |= leaves[j].leaf == bits[i].leaf && strcmp(leaves[j].registers[bits[i].reg], "BITS") == 0;
        assert_true(found);
        assert_true(strcmp(bits[i].policy, "OFFERED") == 0 || bits[i].text[0] != '\0');
    }
}

// Features whose MSRs are hidden are hidden, too.
static void hidden_features_are_hidden_everywhere(void **state)
{
    (void)state;
    static const char *const hidden[] = {"PT",  "SGX",   "LA57",   "PKS",    "UINTR",       "ARCH_LBR", "DS",
                                         "SMX", "RDT_A", "ENQCMD", "DTES64", "HW_FEEDBACK", "MPX",      "KL"};
    for (unsigned i = 0; i < COUNT(hidden); i++) {
        bool found = false;
        for (unsigned j = 0; j < COUNT(bits); j++)
            if (strcmp(bits[j].name, hidden[i]) == 0)
                found = strcmp(bits[j].policy, "HIDDEN") == 0;
        assert_true(found);
    }
    for (unsigned i = 0; i < COUNT(states); i++) {
        assert_true(i == 0 || states[i].number == states[i - 1].number + 1);
        assert_true(strcmp(states[i].policy, "OFFERED") == 0 || states[i].text[0] != '\0');
    }
}

// A bit of CR4 is offered with the feature that it turns on.
static void cr4_agrees_with_cpuid(void **state)
{
    (void)state;
    static const char *const features[][2] = {
        {"LA57", "LA57"},    {"SMXE", "SMX"},  {"KL", "KL"},       {"PKS", "PKS"},
        {"UINTR", "UINTR"},  {"LASS", "LASS"}, {"LAM_SUP", "LAM"}, {"FRED", "FRED"},
        {"SMEP", "SMEP"},    {"SMAP", "SMAP"}, {"PKE", "PKU"},     {"CET", "CET_SS"},
        {"CET", "CET_IBT"},  {"UMIP", "UMIP"}, {"PCIDE", "PCID"},  {"FSGSBASE", "FSGSBASE"},
        {"OSXSAVE", "XSAVE"}};
    for (unsigned i = 0; i < COUNT(features); i++) {
        const char *of_bit = NULL, *of_feature = NULL;
        for (unsigned j = 0; j < COUNT(cr4_bits); j++)
            if (strcmp(cr4_bits[j].name, features[i][0]) == 0)
                of_bit = cr4_bits[j].policy;
        for (unsigned j = 0; j < COUNT(bits); j++)
            if (strcmp(bits[j].name, features[i][1]) == 0)
                of_feature = bits[j].policy;
        assert_non_null(of_bit);
        assert_non_null(of_feature);
        assert_string_equal(of_bit, of_feature);
    }
    for (unsigned i = 0; i < COUNT(cr4_bits); i++) {
        assert_true(i == 0 || cr4_bits[i - 1].number < cr4_bits[i].number);
        assert_true(strcmp(cr4_bits[i].policy, "OFFERED") == 0 || cr4_bits[i].text[0] != '\0');
    }
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_document_is_up_to_date),
        cmocka_unit_test(msrs_are_in_order),
        cmocka_unit_test(policies_fit_together),
        cmocka_unit_test(no_msr_that_reaches_past_ept_can_be_written),
        cmocka_unit_test(cpuid_is_in_order),
        cmocka_unit_test(bits_are_in_registers_of_bits),
        cmocka_unit_test(hidden_features_are_hidden_everywhere),
        cmocka_unit_test(cr4_agrees_with_cpuid),
    };
    if (argc > 1 && strcmp(argv[1], "--print") == 0) {
        char *text = make_document();
        fputs(text, stdout);
        free(text);
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
