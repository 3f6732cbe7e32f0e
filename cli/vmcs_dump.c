// SPDX-License-Identifier: MIT
// The dumps that Linux's kvm_intel and Xen write into their logs, as they arrive in bug reports: with time
// stamps and host names before them, quoted by mailers, their lines broken in two. So the text is taken as a
// sequence of words, in which the phrases of vmcs_phrases.def are found wherever they stand.
#include <ctype.h>
#include <string.h>

#include "names.h"
#include "vmcs_text.h"

enum { GUEST_STATE = 1, HOST_STATE = 2, CONTROL_STATE = 4, VALUE_MAX = 4 };

struct phrase {
    const char *text;
    unsigned sections;
    int field[VALUE_MAX]; // F_x + 1; 0: none
};

#define G    GUEST_STATE
#define H    HOST_STATE
#define C    CONTROL_STATE
#define NONE 0

#define F(name)                     F_##name + 1
#define NAMED(name)                 0
#define PHRASE(sections, text, ...) {text, sections, {__VA_ARGS__}},
static const struct phrase phrases[] = {
#include "vmcs_phrases.def"
};
#undef F
#undef NAMED
#undef PHRASE
#define PHRASE_COUNT (sizeof(phrases) / sizeof(phrases[0]))

// Fields that the tables may come to have: the first of a phrase's, by name.
#define F(name)                     NULL
#define NAMED(name)                 name
#define PHRASE(sections, text, ...) {__VA_ARGS__},
static const char *const named[PHRASE_COUNT][VALUE_MAX] = {
#include "vmcs_phrases.def"
};
#undef F
#undef NAMED
#undef PHRASE

static const struct {
    const char *text;
    unsigned section;
} headings[] = {
    {"*** Guest State ***", GUEST_STATE},
    {"*** Host State ***", HOST_STATE},
    {"*** Control State ***", CONTROL_STATE},
};

struct dump {
    struct vmcs_texts *texts;
    struct source *source;
    struct vmcs_text *vmcs;    // NULL before the first heading
    unsigned section, seen;    // sections of this VMCS
    enum vmcs_field msr_count; // the list of MSRs that is being read; F_COUNT: none
    enum vmcs_format format;
};

struct match {
    size_t end;
    unsigned count;
    uint64_t value[VALUE_MAX];
    size_t at[VALUE_MAX];
    unsigned digits[VALUE_MAX];
    size_t malformed; // where; 0: nowhere
};

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

// White space, and what a mailer puts before a line that it quotes.
static size_t skip_space(const struct source *source, size_t at)
{
    bool line_start = false;
    for (; at < source->size; at++) {
        char c = source->text[at];
        if (c == '\n')
            line_start = true;
        else if (!is_space(c) && !(line_start && (c == '>' || c == '|')))
            break;
    }
    return at;
}

// A number at *at: how many digits it has; 0: none, or more than 16, or something sticks to its end.
static unsigned take_number(const struct source *source, size_t *at, uint64_t *value)
{
    const char *text = source->text;
    size_t i = *at;
    unsigned digits = 0;
    if (text[i] == '0' && (text[i + 1] == 'x' || text[i + 1] == 'X') && isxdigit((unsigned char)text[i + 2]))
        i += 2;
    for (*value = 0; isxdigit((unsigned char)text[i]) && digits < 17; i++, digits++)
        *value = *value << 4 |
                 (unsigned)(isdigit((unsigned char)text[i]) ? text[i] - '0' : tolower(text[i]) - 'a' + 10);
    if (digits > 16 || is_word(text[i]))
        return 0;
    *at = i;
    return digits;
}

// How far the phrase goes from `at` on. A phrase that breaks off after a value still gave that value.
static bool match_phrase(const struct source *source, size_t at, const char *phrase, struct match *match)
{
    bool begun = false, table = strchr(phrase, '#') != NULL;
    *match = (struct match){.end = at};
    for (; *phrase; phrase++) {
        if (*phrase == ' ') {
            at = skip_space(source, at);
        } else if (*phrase == '%' || *phrase == '#') {
            size_t start = at;
            uint64_t value;
            unsigned digits = take_number(source, &at, &value);
            if (digits < (*phrase == '#' ? 4u : 1u)) {
                if (begun && !table)
                    match->malformed = start;
                return match->count != 0 && !table;
            }
            match->value[match->count] = value;
            match->digits[match->count] = digits;
            match->at[match->count++] = start;
            match->end = at;
        } else {
            if (at >= source->size || source->text[at] != *phrase)
                return match->count != 0 && !table && strchr(phrase, '%') != NULL;
            begun = begun || *phrase == '=';
            at++;
        }
    }
    match->end = at;
    return true;
}

// Digits of the field as both hypervisors print it; fewer at the very end of a text were cut off.
static unsigned digits_of(enum vmcs_field field)
{
    switch (vmcs_encoding_width(vmcs_field_encoding(field))) {
    case VMCS_WIDTH_16:
        return field == F_POSTED_INTERRUPT_VECTOR ? 2 : 4;
    case VMCS_WIDTH_32:
        return field == F_TPR_THRESHOLD                                                 ? 2
               : field >= F_GUEST_ES_ACCESS_RIGHTS && field <= F_GUEST_TR_ACCESS_RIGHTS ? 5
               : field == F_GUEST_SYSENTER_CS || field == F_HOST_SYSENTER_CS            ? 4
                                                                                        : 8;
    default:
        return field == F_GUEST_RFLAGS || field == F_EXIT_QUALIFICATION ? 8 : 16;
    }
}

static bool take_values(struct dump *dump, size_t index, const struct match *match)
{
    struct vmcs_text *vmcs = dump->vmcs;
    struct source *source = dump->source;
    for (unsigned i = 0; i < match->count; i++) {
        int field = phrases[index].field[i];
        if (field == 0 && named[index][i] != NULL && names_field(named[index][i]) != F_COUNT)
            field = (int)names_field(named[index][i]) + 1;
        if (field == 0)
            continue;
        enum vmcs_field f = (enum vmcs_field)(field - 1);
        if (vmcs->line[f] != 0) {
            if (vmcs->value[f] != match->value[i])
                vmcs_texts_note(dump->texts,
                                "line %u: %s again, with another value than in line %u, which counts",
                                source_line(source, match->at[i]), vmcs_field_name(f), vmcs->line[f]);
            continue;
        }
        if (match->end == source->size && i + 1 == match->count && match->digits[i] < digits_of(f)) {
            source_error(source, match->at[i], "the text ends within the value of %s", vmcs_field_name(f));
            return false;
        }
        if (!vmcs_text_set(vmcs, source, f, match->value[i], match->at[i]))
            return false;
    }
    return true;
}

static bool all_known(const struct dump *dump, const struct phrase *phrase)
{
    bool any = false;
    for (unsigned i = 0; i < VALUE_MAX && phrase->field[i] != 0; i++) {
        any = true;
        if (dump->vmcs->line[phrase->field[i] - 1] == 0)
            return false;
    }
    return any;
}

// The phrase that begins here, if one does: *at is then behind it.
static bool take_phrase(struct dump *dump, size_t *at)
{
    size_t malformed = 0;
    for (size_t i = 0; i < PHRASE_COUNT; i++) {
        struct match match;
        const struct phrase *phrase = &phrases[i];
        if ((phrase->sections & dump->section) == 0 || phrase->text[0] != dump->source->text[*at])
            continue;
        if (match_phrase(dump->source, *at, phrase->text, &match)) {
            *at = match.end;
            if (strchr(phrase->text, '#') != NULL)
                dump->format = VMCS_FORMAT_XEN;
            return take_values(dump, i, &match);
        }
        if (match.malformed != 0 && !all_known(dump, phrase))
            malformed = match.malformed;
    }
    if (malformed != 0) {
        if (malformed >= dump->source->size)
            source_error(dump->source, malformed, "the text ends where a value should stand");
        else
            source_error(dump->source, malformed,
                         "here should stand a hexadecimal number of at most 16 digits");
        return false;
    }
    return true;
}

// Xen's lines say whose they are; so do the columns of its tables (take_phrase).
static enum vmcs_format format_of_line(const struct source *source, size_t at)
{
    static const char mark[] = "(XEN)";
    size_t start = at;
    while (start > 0 && source->text[start - 1] != '\n')
        start--;
    return memmem(source->text + start, at - start, mark, strlen(mark)) ? VMCS_FORMAT_XEN : VMCS_FORMAT_KVM;
}

static bool begin_section(struct dump *dump, unsigned section, size_t at)
{
    if (dump->vmcs == NULL || section == GUEST_STATE || (dump->seen & section) != 0) {
        if (dump->vmcs != NULL)
            dump->vmcs->format = dump->format;
        dump->vmcs = vmcs_texts_add(dump->texts, dump->source, at);
        dump->seen = 0;
        dump->format = format_of_line(dump->source, at);
    }
    dump->section = section;
    dump->seen |= section;
    dump->msr_count = F_COUNT;
    return dump->vmcs != NULL;
}

static bool take_heading(struct dump *dump, size_t *at, bool *taken)
{
    for (size_t i = 0; i < sizeof(headings) / sizeof(headings[0]); i++) {
        struct match match;
        if (match_phrase(dump->source, *at, headings[i].text, &match)) {
            *taken = true;
            size_t start = *at;
            *at = match.end;
            return begin_section(dump, headings[i].section, start);
        }
    }
    return true;
}

// "MSR guest autoload:", and then "0: msr=... value=..." for each entry: how many there are is a field.
static void take_msr_list(struct dump *dump, size_t at)
{
    static const struct {
        const char *text;
        enum vmcs_field count;
    } lists[] = {
        {"MSR guest autoload:", F_VM_ENTRY_MSR_LOAD_COUNT},
        {"MSR guest autostore:", F_VM_EXIT_MSR_STORE_COUNT},
        {"MSR host autoload:", F_VM_EXIT_MSR_LOAD_COUNT},
    };
    struct match match;
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        if (match_phrase(dump->source, at, lists[i].text, &match))
            dump->msr_count = lists[i].count;
    if (dump->msr_count == F_COUNT || !match_phrase(dump->source, at, "msr=% value=%", &match) ||
        match.count != 2)
        return;
    struct vmcs_text *vmcs = dump->vmcs;
    vmcs_text_set(vmcs, dump->source, dump->msr_count, vmcs->value[dump->msr_count] + 1, at);
}

bool vmcs_dump_is(const struct source *source)
{
    struct match match;
    for (const char *star = strchr(source->text, '*'); star != NULL; star = strchr(star + 1, '*'))
        for (size_t i = 0; i < sizeof(headings) / sizeof(headings[0]); i++)
            if (match_phrase(source, (size_t)(star - source->text), headings[i].text, &match))
                return true;
    const char *first = strstr(source->text, "CR0: actual=");
    return first != NULL;
}

bool vmcs_dump_read(struct vmcs_texts *texts, struct source *source)
{
    struct dump dump = {.texts = texts, .source = source, .msr_count = F_COUNT};
    bool has_heading = false;
    for (size_t at = 0; at < source->size;) {
        bool taken = false;
        if (source->text[at] == '*' && !take_heading(&dump, &at, &taken))
            return false;
        has_heading = has_heading || taken;
        if (taken)
            continue;
        // without any heading above: a part of a dump, which begins with the guest's state
        if (dump.vmcs == NULL && strncmp(source->text + at, "CR0: actual=", 12) == 0 &&
            !begin_section(&dump, GUEST_STATE, at))
            return false;
        if (dump.vmcs != NULL) {
            size_t start = at;
            if (source->text[at] == 'M' || source->text[at] == 'm')
                take_msr_list(&dump, at);
            if (!take_phrase(&dump, &at))
                return false;
            if (at != start)
                continue;
        }
        // the next word; a "(" begins one too
        while (at < source->size && !is_space(source->text[at]))
            at++;
        while (at < source->size && is_space(source->text[at]))
            at++;
    }
    if (dump.vmcs != NULL)
        dump.vmcs->format = dump.format;
    for (size_t i = 0; i < texts->count; i++)
        if (texts->vmcs[i].known_count != 0)
            return true;
    source_error(source, source->size, "a heading of a dump, and no field");
    return false;
}
