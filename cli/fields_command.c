// SPDX-License-Identifier: MIT
// `plastron fields [NAME|ENCODING]`: the fields of a VMCS, all in one line each or one in full.
#include <stdio.h>
#include <string.h>

#include "bits.h"
#include "command.h"
#include "field.h"
#include "names.h"
#include "say.h"
#include "status.h"

static const struct {
    const char *exists, *entry, *exit;
} policies[F_COUNT] = {
#define FIELD(name, encoding, width, type, exists, entry, exit) [F_##name] = {#exists, #entry, #exit},
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

static void print_help(void)
{
    puts("Usage: plastron fields [NAME|ENCODING...]\n"
         "\n"
         "Lists the fields of a VMCS: encoding, width, type and name; or says of a field all that is known "
         "about it:\n"
         "when it exists, how Plastron carries it between L1's VMCS and the one that L2 runs on, the names "
         "of its\n"
         "bits, and the rules of VM entry that are about it. Exit status 2: there is no such field.");
}

static const char *width_name(const struct field_info *info)
{
    static const char *const names[] = {
        [VMCS_WIDTH_16] = "16", [VMCS_WIDTH_64] = "64", [VMCS_WIDTH_32] = "32", [VMCS_WIDTH_N] = "natural"};
    return names[info->width];
}

static const char *type_name(const struct field_info *info)
{
    static const char *const names[] = {[VMCS_TYPE_CONTROL] = "control",
                                        [VMCS_TYPE_INFO] = "read-only",
                                        [VMCS_TYPE_GUEST] = "guest",
                                        [VMCS_TYPE_HOST] = "host"};
    return names[info->type];
}

// "EX_VIRTUAL_INTERRUPT_DELIVERY" is "virtual interrupt delivery".
static void print_exists(const char *name)
{
    if (strcmp(name, "EX_ALWAYS") == 0) {
        puts("  exists: always");
        return;
    }
    printf("  exists: when the processor offers ");
    for (const char *p = name + strlen("EX_"); *p; p++)
        putchar(*p == '_' ? ' ' : *p);
    putchar('\n');
}

static void print_policies(enum vmcs_field field)
{
    static const struct {
        const char *name, *text;
    } texts[] = {
        {"CONSTANT", "L0's value, written once"},
        {"CPU", "L0's value, written when the logical processor changes"},
        {"MERGED", "computed from L1's value, L0's policy and L1's registers; written when it differs"},
        {"RARE", "L1's value, written when L1 wrote it or made another VMCS current"},
        {"HOT", "L1's value, written at every entry"},
        {"EVENT", "L1's value, for the one entry that injects it"},
        {"NEVER", "not given to the processor: software's own, or read-only"},
        {"SAVE_HOT", "read from the processor at every exit that goes to L1"},
        {"SAVE_RARE", "read from the processor when somebody asks for it"},
        {"SAVE_MERGED", "saved as L1's VM-exit controls say"},
        {"RECORD", "exit information"},
        {"KEEP", "stays what L1 wrote"},
    };
    const char *entry = policies[field].entry, *exit = policies[field].exit;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        if (strcmp(entry, texts[i].name) == 0)
            printf("  at an entry to L2: %s (%s)\n", texts[i].text, entry);
        if (strcmp(exit, texts[i].name) == 0)
            printf("  at an exit to L1: %s (%s)\n", texts[i].text, exit);
    }
}

static void print_field(enum vmcs_field field)
{
    const struct field_info *info = &field_table[field];
    char words[64];
    check_field_words(field, words, sizeof(words));
    printf("%s: %s\n  encoding: 0x%04x%s, width: %s, type: %s, index: %u\n", vmcs_field_name(field), words,
           info->encoding, info->width == VMCS_WIDTH_64 ? " (its high half one more)" : "", width_name(info),
           type_name(info), vmcs_encoding_index(info->encoding));
    print_exists(policies[field].exists);
    print_policies(field);
    for (unsigned number = 0; number < 64; number++) {
        const char *name = bits_name(bits_of_field(field), number);
        if (name)
            printf("  bit %u: %s\n", number, name);
    }
    for (enum check_index i = 0; i < CHECK_COUNT; i++)
        if (check_rules[i].field == field)
            printf("  rule %u %s: %s\n", check_rules[i].number, check_rules[i].id, check_rules[i].message);
}

int fields_main(int argc, char **argv)
{
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        print_help();
        return STATUS_OK;
    }
    for (int i = 1; i < argc; i++) {
        enum vmcs_field field = names_field(argv[i]);
        const char *nearest = names_field_nearest(argv[i]);
        if (field == F_COUNT) {
            say_error("there is no field '%s'%s%s%s", argv[i], nearest ? "; did you mean " : "",
                      nearest ? nearest : "", nearest ? "?" : "");
            return STATUS_USAGE;
        }
        print_field(field);
    }
    for (enum vmcs_field field = 0; argc < 2 && field < F_COUNT; field++)
        printf("0x%04x  %-7s  %-9s  %s\n", field_table[field].encoding, width_name(&field_table[field]),
               type_name(&field_table[field]), vmcs_field_name(field));
    return STATUS_OK;
}
