// SPDX-License-Identifier: MIT
// Broken rules in words, for a person: L0's log, L1's own diagnosis, tools on the host.
#include <nvmx/check.h>

struct text {
    char *at;
    size_t left; // at least 1: for the terminator
    size_t length;
};

static void text_begin(struct text *text, char *buffer, size_t size)
{
    *text = (struct text){buffer, size, 0};
    if (size != 0)
        *buffer = '\0';
}

static void text_char(struct text *text, char c)
{
    if (text->left < 2)
        return;
    *text->at++ = c;
    *text->at = '\0';
    text->left--;
    text->length++;
}

static void text_string(struct text *text, const char *string)
{
    while (*string != '\0')
        text_char(text, *string++);
}

// At least four digits, as access rights and selectors are usually written.
static void text_hex(struct text *text, uint64_t value)
{
    unsigned digits = 4;
    while (digits < 16 && value >> (4 * digits) != 0)
        digits++;
    text_string(text, "0x");
    while (digits-- > 0)
        text_char(text, "0123456789abcdef"[value >> (4 * digits) & 0xf]);
}

// Do `length` characters at `word` spell `name`?
static bool word_is(const char *word, size_t length, const char *name)
{
    size_t i = 0;
    while (i < length && name[i] == word[i])
        i++;
    return i == length && name[i] == '\0';
}

// Names that stay in capitals; so does every word with a digit, and a single letter.
static bool word_is_acronym(const char *word, size_t length)
{
    static const char *const acronyms[] = {
        "APIC", "CET",  "CS",  "CTRL", "DS",      "EFER",    "EIP",  "ENCLS", "ENCLV",    "EOI", "EPT",
        "EPTP", "ES",   "ESP", "FRED", "FS",      "GDTR",    "GPAW", "GS",    "HLAT",     "IDT", "IDTR",
        "LBR",  "LDTR", "MSR", "PAT",  "PCONFIG", "PKRS",    "PLE",  "PML",   "RCX",      "RDI", "RFLAGS",
        "RIP",  "RSI",  "RSP", "RTIT", "SMBASE",  "SPP",     "SS",   "SSP",   "SYSENTER", "TPR", "TR",
        "TSC",  "UINV", "VE",  "VMCS", "VMREAD",  "VMWRITE", "VPID", "XSS",
    };
    if (length == 1)
        return true;
    for (size_t i = 0; i < length; i++)
        if (word[i] >= '0' && word[i] <= '9')
            return true;
    for (size_t i = 0; i < sizeof(acronyms) / sizeof(acronyms[0]); i++)
        if (word_is(word, length, acronyms[i]))
            return true;
    return false;
}

static void text_word(struct text *text, const char *word, size_t length)
{
    bool keep = word_is_acronym(word, length);
    for (size_t i = 0; i < length; i++)
        text_char(text, keep || word[i] < 'A' || word[i] > 'Z' ? word[i] : (char)(word[i] - 'A' + 'a'));
}

// "GUEST_IA32_DEBUGCTL" is "guest IA32_DEBUGCTL"; "VM_ENTRY_CONTROLS" is "VM-entry controls".
static void text_field(struct text *text, const char *name)
{
    while (*name != '\0') {
        size_t length = 0;
        while (name[length] != '_' && name[length] != '\0')
            length++;
        if (word_is(name, length, "IA32")) {
            text_string(text, name);
            return;
        }
        const char *end = name + length;
        char separator = ' ';
        if (word_is(name, length, "IO"))
            text_string(text, "I/O");
        else if (word_is(name, length, "VM") && end[0] == '_' && end[1] == 'E') {
            text_string(text, "VM");
            separator = '-';
        } else {
            text_word(text, name, length);
            separator = word_is(name, length, "PIN") ? '-' : ' ';
        }
        if (*end == '\0')
            return;
        text_char(text, separator);
        name = end + 1;
    }
}

size_t check_field_words(enum vmcs_field field, char *text, size_t size)
{
    struct text out;
    text_begin(&out, text, size);
    text_field(&out, vmcs_field_name(field));
    return out.length;
}

size_t check_describe(const struct check_broken *broken, char *text, size_t size)
{
    const struct check_rule *rule = &check_rules[broken->index];
    struct text out;
    text_begin(&out, text, size);
    text_string(&out, rule->id);
    text_string(&out, ": ");
    text_field(&out, vmcs_field_name((enum vmcs_field)rule->field));
    text_char(&out, ' ');
    text_hex(&out, broken->value);
    text_string(&out, ": ");
    text_string(&out, rule->message);
    text_string(&out, " (");
    text_string(&out, rule->section);
    text_char(&out, ')');
    return out.length;
}
