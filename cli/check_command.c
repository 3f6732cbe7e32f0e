// SPDX-License-Identifier: MIT
// `plastron check FILE`: which rules of VM entry a VMCS breaks.
#include <getopt.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "judge.h"
#include "say.h"
#include "status.h"

struct check_options {
    const char *file, *caps;
    enum rules_mode mode;
    bool json, all, list_caps, print;
    unsigned physical_address_width; // 0: as the capabilities say
};

static void print_help(void)
{
    puts("Usage: plastron check [OPTION...] FILE\n"
         "\n"
         "Reads a VMCS from a text (- is standard input) and says which rules of VM entry it breaks: what a "
         "processor\n"
         "only calls error 7, error 8 or exit reason 33. FILE holds FIELD = VALUE lines, or a log with the "
         "dump that\n"
         "Linux's KVM or Xen writes there when a VM entry fails; which of them it is shows by itself. What a "
         "text does\n"
         "not say is unknown, and rules that depend on it are counted as not checked.\n"
         "\n"
         "  --caps FILE|MODEL  the capabilities of the processor: MSR = VALUE lines, or a model by name\n"
         "                     (default " CAPS_MODEL_DEFAULT ": what no processor accepts)\n"
         "  --list-caps        the models, and no more\n"
         "  --physical-address-width N\n"
         "                     MAXPHYADDR, in place of the capabilities'\n"
         "  --mode 64|32       the processor that enters is in IA-32e mode, or is not (default: what the "
         "VMCS proves)\n"
         "  --json             for programs\n"
         "  --all              also list every rule that could not be checked\n"
         "  --print            judge nothing: print what was read, as FIELD = VALUE lines\n"
         "\n"
         "Exit status\n"
         "  0  no rule that could be checked is broken\n"
         "  1  at least one is\n"
         "  2  the text cannot be read (the message names line and column), or the command line is wrong");
}

static bool parse_width(const char *text, unsigned *width)
{
    unsigned value;
    char rest;
    if (sscanf(text, "%u%c", &value, &rest) != 1 || value < 32 || value > 52) {
        say_error("--physical-address-width wants a number from 32 to 52, not '%s'", text);
        return false;
    }
    *width = value;
    return true;
}

static bool parse_mode(const char *text, enum rules_mode *mode)
{
    if (strcmp(text, "64") == 0)
        *mode = RULES_MODE_64;
    else if (strcmp(text, "32") == 0)
        *mode = RULES_MODE_32;
    else
        say_error("--mode wants 64 or 32, not '%s'", text);
    return *mode != RULES_MODE_UNKNOWN;
}

// False: the status is in *status.
static bool parse_options(struct check_options *options, int argc, char **argv, int *status)
{
    static const struct option long_options[] = {
        {"caps", required_argument, NULL, 'c'},
        {"list-caps", no_argument, NULL, 'l'},
        {"physical-address-width", required_argument, NULL, 'w'},
        {"mode", required_argument, NULL, 'm'},
        {"json", no_argument, NULL, 'j'},
        {"all", no_argument, NULL, 'a'},
        {"print", no_argument, NULL, 'p'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    *options = (struct check_options){.caps = CAPS_MODEL_DEFAULT};
    *status = STATUS_USAGE;
    optind = 0;
    for (int option; (option = getopt_long(argc, argv, "h", long_options, NULL)) != -1;) {
        switch (option) {
        case 'c':
            options->caps = optarg;
            break;
        case 'l':
            options->list_caps = true;
            break;
        case 'w':
            if (!parse_width(optarg, &options->physical_address_width))
                return false;
            break;
        case 'm':
            if (!parse_mode(optarg, &options->mode))
                return false;
            break;
        case 'j':
            options->json = true;
            break;
        case 'a':
            options->all = true;
            break;
        case 'p':
            options->print = true;
            break;
        case 'h':
            print_help();
            *status = STATUS_OK;
            return false;
        default:
            return false; // getopt has said what is wrong
        }
    }
    if (options->list_caps)
        return true;
    if (optind + 1 != argc) {
        say_error(optind == argc ? "no file to check: plastron check [OPTION...] FILE"
                                 : "one file at a time: plastron check [OPTION...] FILE");
        return false;
    }
    options->file = argv[optind];
    return true;
}

// What the user did not say of the processor was not read from anywhere.
static void note_assumptions(struct vmcs_texts *texts, const struct caps_input *caps)
{
    for (unsigned i = 0; i < CAPS_MSR_COUNT; i++)
        if (!caps->given[i])
            vmcs_texts_note(texts, "%s is not in %s: taken from the model " CAPS_MODEL_DEFAULT,
                            caps_msr_name(i), caps->name);
    if (!caps->width_given)
        vmcs_texts_note(texts, "MAXPHYADDR is not in %s: taken as %u", caps->name,
                        caps->physical_address_width);
}

static void print_json(const struct check_options *options, const struct vmcs_texts *texts,
                       const struct caps_input *caps, bool valid, struct json_object *judgements)
{
    struct json_object *root = json_object_new_object(), *notes = json_object_new_array();
    for (size_t i = 0; i < texts->note_count; i++)
        json_object_array_add(notes, json_object_new_string(texts->note[i]));
    json_object_object_add(root, "file", json_object_new_string(options->file));
    json_object_object_add(root, "capabilities", json_object_new_string(caps->name));
    json_object_object_add(root, "physical_address_width",
                           json_object_new_int((int)caps->physical_address_width));
    json_object_object_add(root, "valid", json_object_new_boolean(valid));
    json_object_object_add(root, "notes", notes);
    json_object_object_add(root, "vmcs", judgements);
    puts(json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
                                                  JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(root);
}

static void print_fields(const struct vmcs_texts *texts)
{
    for (size_t i = 0; i < texts->count; i++) {
        const struct vmcs_text *vmcs = &texts->vmcs[i];
        char value[20];
        printf("# %s, line %u\n", vmcs_format_name(vmcs->format), vmcs->first_line);
        for (enum vmcs_field field = 0; field < F_COUNT; field++) {
            judge_format_value(field, vmcs->value[field], value);
            if (vmcs->line[field] != 0)
                printf("%s = %s\n", vmcs_field_name(field), value);
        }
    }
    for (size_t i = 0; i < texts->note_count; i++)
        printf("# %s\n", texts->note[i]);
}

static int check_all(const struct check_options *options, struct vmcs_texts *texts, struct caps_input *caps)
{
    bool valid = true;
    struct json_object *judgements = options->json ? json_object_new_array() : NULL;
    note_assumptions(texts, caps);
    for (size_t i = 0; i < texts->count; i++) {
        static struct judgement judgement;
        if (texts->vmcs[i].known_count == 0)
            continue;
        judge(&judgement, &texts->vmcs[i], caps, options->mode);
        valid = valid && judgement.broken_count == 0;
        if (options->json) {
            json_object_array_add(judgements, judge_to_json(&judgement));
            continue;
        }
        if (i > 0)
            putchar('\n');
        judge_print_text(&judgement, options->file, options->all);
    }
    if (options->json)
        print_json(options, texts, caps, valid, judgements);
    else if (texts->note_count != 0)
        puts("\nNotes:");
    for (size_t i = 0; i < texts->note_count && !options->json; i++)
        printf("  %s\n", texts->note[i]);
    return valid ? STATUS_OK : STATUS_UNMET;
}

int check_main(int argc, char **argv)
{
    struct check_options options;
    int status;
    if (!parse_options(&options, argc, argv, &status))
        return status;
    if (options.list_caps) {
        caps_print_models();
        return STATUS_OK;
    }
    struct caps_input caps;
    struct vmcs_texts texts = {0};
    struct source source = {0};
    status = STATUS_USAGE;
    if (caps_input_read(&caps, options.caps)) {
        if (options.physical_address_width != 0) {
            caps.physical_address_width = options.physical_address_width;
            caps.width_given = true;
        }
        if (source_read(&source, options.file) && vmcs_texts_read(&texts, &source)) {
            if (options.print)
                print_fields(&texts);
            status = options.print ? STATUS_OK : check_all(&options, &texts, &caps);
        }
    }
    vmcs_texts_free(&texts);
    source_free(&source);
    return status;
}
