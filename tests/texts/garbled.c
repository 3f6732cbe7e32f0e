// SPDX-License-Identifier: MIT
// Texts that nobody wrote for `plastron check`: the fixtures of tests/cli/vmcs cut, spliced and garbled. None
// may do harm (the sanitizers watch), and what is read is judged as the engine would. TAP on standard output.
//   build/tests/texts/run [COUNT [SEED]]
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "causes.h"
#include "judge.h"

enum { DEFAULT_COUNT = 6000, FIXTURE_COUNT = 5, TEXT_MAX = 1 << 16 };

static const char *const fixtures[FIXTURE_COUNT] = {
    "tests/cli/vmcs/valid.vmcs",   "tests/cli/vmcs/kvm-5.log",   "tests/cli/vmcs/kvm-6.log",
    "tests/cli/vmcs/xen-4.17.log", "tests/cli/vmcs/xen-4.4.log",
};
static struct source originals[FIXTURE_COUNT];
static uint64_t state;
static unsigned failures, number;

static uint64_t random_number(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static size_t random_below(size_t limit)
{
    return limit == 0 ? 0 : (size_t)(random_number() % limit);
}

static void result(bool fine, const char *name)
{
    printf("%s %u - %s\n", fine ? "ok" : "not ok", ++number, name);
    failures += !fine;
}

// A part of one of the originals behind another part, with some bytes changed.
static size_t garble(char *text)
{
    static const char alphabet[] = "0123456789abcdefx=:,.*#|> \n\r\t(GC%-\"\\";
    size_t size = 0;
    for (size_t parts = 1 + random_below(3); parts > 0; parts--) {
        const struct source *original = &originals[random_below(FIXTURE_COUNT)];
        size_t start = random_below(4) == 0 ? random_below(original->size) : 0;
        size_t length = random_below(3) == 0 ? random_below(original->size - start) : original->size - start;
        if (size + length >= TEXT_MAX)
            length = TEXT_MAX - 1 - size;
        memcpy(text + size, original->text + start, length);
        size += length;
    }
    for (size_t changes = random_below(40); changes > 0 && size > 0; changes--) {
        size_t at = random_below(size), length = random_below(20);
        switch (random_below(4)) {
        case 0:
            text[at] = (char)random_number();
            break;
        case 1:
            text[at] = alphabet[random_below(sizeof(alphabet) - 1)];
            break;
        case 2: // take out
            length = at + length > size ? size - at : length;
            memmove(text + at, text + at + length, size - at - length);
            size -= length;
            break;
        default: // say twice
            if (at + length < size && size + length < TEXT_MAX) {
                memmove(text + at + length, text + at, size - at);
                size += length;
            }
            break;
        }
    }
    text[size] = '\0';
    return size;
}

// What the engine itself finds, where nothing is unknown.
static bool agrees_with_engine(const struct judgement *judgement)
{
    struct check_report report = {0};
    const struct check_input input = {
        .field = judgement->vmcs->value,
        .caps = &judgement->caps->caps,
        .physical_address_width = judgement->caps->physical_address_width,
        .long_mode = judgement->mode != RULES_MODE_32,
    };
    bool broken[CHECK_COUNT] = {false};
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        report.count = 0;
        check_stage(&input, (enum check_stage)stage, &report);
        for (uint32_t i = 0; i < report.count && i < CHECK_REPORT_MAX; i++) {
            const struct check_broken *found = &report.broken[i];
            const struct rule_outcome *outcome = &judgement->outcome[found->index];
            broken[found->index] = true;
            if (outcome->state == RULE_HOLDS ||
                (outcome->state == RULE_BROKEN &&
                 (outcome->value != found->value || outcome->legal != found->legal)))
                return false;
        }
        if (report.count > CHECK_REPORT_MAX)
            return true; // the engine does not say which the others are
    }
    for (unsigned i = 0; i < CHECK_COUNT; i++)
        if (judgement->outcome[i].state == RULE_BROKEN && !broken[i])
            return false;
    return true;
}

static bool judge_one(struct source *source, const struct caps_input *caps, unsigned *read)
{
    struct vmcs_texts texts = {0};
    bool fine = true;
    if (vmcs_texts_read(&texts, source)) {
        ++*read;
        for (size_t i = 0; i < texts.count && i < 3; i++) {
            static struct judgement judgement;
            judge(&judgement, &texts.vmcs[i], caps, RULES_MODE_UNKNOWN);
            fine = fine && agrees_with_engine(&judgement);
            judge_print_text(&judgement, source->name, true);
            json_object_put(judge_to_json(&judgement));
        }
    }
    vmcs_texts_free(&texts);
    return fine;
}

// Messages are not the point here.
static int silence(int descriptor)
{
    int kept = dup(descriptor), nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, descriptor);
    close(nowhere);
    return kept;
}

static void restore(int descriptor, int kept)
{
    fflush(stdout);
    dup2(kept, descriptor);
    close(kept);
}

static void garbled_texts(unsigned long count, const struct caps_input *caps)
{
    static char text[TEXT_MAX];
    unsigned read = 0, wrong = 0;
    fflush(stdout);
    int out = silence(STDOUT_FILENO), err = silence(STDERR_FILENO);
    for (unsigned long i = 0; i < count; i++) {
        size_t size = garble(text);
        char *copy = memcpy(malloc(size + 1), text, size + 1); // so that reading past the end is noticed
        struct source source = {.name = "garbled", .text = copy, .size = size, .line = 1};
        wrong += !judge_one(&source, caps, &read);
        source_free(&source);
    }
    restore(STDOUT_FILENO, out);
    restore(STDERR_FILENO, err);
    printf("# %lu garbled texts, of which %u could be read\n", count, read);
    result(wrong == 0 && read > count / 20 && read < count - count / 20,
           "garbled texts are read or refused, and judged as the engine judges");
}

// Every length of every original.
static void truncated_texts(const struct caps_input *caps)
{
    unsigned read = 0, wrong = 0;
    fflush(stdout);
    int out = silence(STDOUT_FILENO), err = silence(STDERR_FILENO);
    for (unsigned i = 0; i < FIXTURE_COUNT; i++)
        for (size_t size = 0; size < originals[i].size; size += size < 200 ? 1 : 1 + random_below(12)) {
            char *copy = malloc(size + 1);
            memcpy(copy, originals[i].text, size);
            copy[size] = '\0';
            struct source source = {.name = "truncated", .text = copy, .size = size, .line = 1};
            wrong += !judge_one(&source, caps, &read);
            source_free(&source);
        }
    restore(STDOUT_FILENO, out);
    restore(STDERR_FILENO, err);
    result(wrong == 0 && read != 0, "texts that end anywhere are read or refused");
}

// All fields known, and random near the valid ones: nothing is unknown but what memory decides.
static void random_values(unsigned long count, const struct caps_input *caps)
{
    struct vmcs_texts texts = {0};
    unsigned wrong = 0, broken = 0;
    if (!vmcs_texts_read(&texts, &originals[0])) {
        result(false, "the valid VMCS can be read");
        return;
    }
    struct vmcs_text *vmcs = &texts.vmcs[0];
    uint64_t valid[F_COUNT];
    memcpy(valid, vmcs->value, sizeof(valid));
    for (unsigned field = 0; field < F_COUNT; field++)
        vmcs->line[field] = 1;
    for (unsigned long i = 0; i < count; i++) {
        static struct judgement judgement;
        memcpy(vmcs->value, valid, sizeof(valid));
        for (size_t changes = 1 + random_below(4); changes > 0; changes--) {
            enum vmcs_field field = (enum vmcs_field)random_below(F_COUNT);
            unsigned width = vmcs_encoding_width(vmcs_field_encoding(field));
            unsigned bits = width == VMCS_WIDTH_16 ? 16 : width == VMCS_WIDTH_32 ? 32 : 64;
            vmcs->value[field] ^= 1ull << random_below(bits);
        }
        judge(&judgement, vmcs, caps, RULES_MODE_64);
        broken += judgement.broken_count != 0;
        wrong += !agrees_with_engine(&judgement);
        for (unsigned rule = 0; rule < CHECK_COUNT; rule++)
            wrong += judgement.outcome[rule].state == RULE_UNKNOWN && !judgement.outcome[rule].needs_memory;
    }
    vmcs_texts_free(&texts);
    printf("# %lu random VMCSs, of which %u break a rule\n", count, broken);
    result(wrong == 0 && broken > count / 10 && broken < count,
           "what is known is judged as the engine judges");
}

// A rule that is new has the general cause until somebody writes it a better one.
static void rules_without_a_cause_of_their_own(void)
{
    unsigned known = 0;
    for (enum check_index i = 0; i < CHECK_COUNT; i++) {
        known += causes_knows(i);
        if (!causes_knows(i))
            printf("# %s has no cause of its own in cli/causes.def\n", check_rules[i].id);
    }
    result(known > CHECK_COUNT * 9 / 10, "the rules have likely causes of their own");
}

int main(int argc, char **argv)
{
    unsigned long count = argc > 1 ? strtoul(argv[1], NULL, 10) : DEFAULT_COUNT;
    state = argc > 2 ? strtoull(argv[2], NULL, 0) : 0x9e3779b97f4a7c15ull;
    struct caps_input caps;
    if (!caps_input_read(&caps, "bochs-skylake-x"))
        return 1;
    for (unsigned i = 0; i < FIXTURE_COUNT; i++)
        if (!source_read(&originals[i], fixtures[i]))
            return 1;
    garbled_texts(count, &caps);
    truncated_texts(&caps);
    random_values(count / 4, &caps);
    rules_without_a_cause_of_their_own();
    for (unsigned i = 0; i < FIXTURE_COUNT; i++)
        source_free(&originals[i]);
    printf("1..%u\n", number);
    return failures != 0;
}
