// SPDX-License-Identifier: MIT
#include "caps_input.h"

#include <cpuid.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <nvmx/controls.h>
#include <nvmx/hw.h>

#include "caps_facts.h"
#include "names.h"
#include "say.h"
#include "source.h"

#define MODEL_PLASTRON    "plastron"
#define MODEL_PLASTRON_ON "bochs-skylake-x"

enum { WIDTH_MIN = 32, WIDTH_MAX = 52, KEY_SIZE = 64 };

const char *caps_msr_name(unsigned index)
{
    static const char *const names[CAPS_MSR_COUNT] = {
        "IA32_VMX_BASIC",          "IA32_VMX_PINBASED_CTLS",      "IA32_VMX_PROCBASED_CTLS",
        "IA32_VMX_EXIT_CTLS",      "IA32_VMX_ENTRY_CTLS",         "IA32_VMX_MISC",
        "IA32_VMX_CR0_FIXED0",     "IA32_VMX_CR0_FIXED1",         "IA32_VMX_CR4_FIXED0",
        "IA32_VMX_CR4_FIXED1",     "IA32_VMX_VMCS_ENUM",          "IA32_VMX_PROCBASED_CTLS2",
        "IA32_VMX_EPT_VPID_CAP",   "IA32_VMX_TRUE_PINBASED_CTLS", "IA32_VMX_TRUE_PROCBASED_CTLS",
        "IA32_VMX_TRUE_EXIT_CTLS", "IA32_VMX_TRUE_ENTRY_CTLS",    "IA32_VMX_VMFUNC",
    };
    return index < CAPS_MSR_COUNT ? names[index] : "?";
}

static const struct caps_model *model_find(const char *name)
{
    for (unsigned i = 0; i < caps_model_count; i++)
        if (strcasecmp(name, caps_models[i].name) == 0)
            return &caps_models[i];
    return NULL;
}

// One that is in the table.
static const struct caps_model *model_get(const char *name)
{
    const struct caps_model *model = model_find(name);
    return model ? model : &caps_models[0];
}

static void take_model(struct caps_input *input, const struct caps_model *model)
{
    memcpy(input->caps.msr, model->msr, sizeof(input->caps.msr));
    memset(input->given, 1, sizeof(input->given));
    input->caps.features = model->features;
    input->caps.perf_global_ctrl = model->perf_global_ctrl;
    input->unknown_facts = 0;
    input->physical_address_width = model->physical_address_width;
    input->width_given = true;
    input->any_linear_width = model == &caps_models[0];
    snprintf(input->name, sizeof(input->name), "model %s", model->name);
}

static void begin_with_default(struct caps_input *input)
{
    take_model(input, model_get(CAPS_MODEL_DEFAULT));
    memset(input->given, 0, sizeof(input->given));
    input->width_given = false;
    input->unknown_facts = FACTS_ALL;
}

// The MSR that a key names: IA32_VMX_BASIC, MSR_IA32_VMX_BASIC, VMX_BASIC or 0x480; CAPS_MSR_COUNT: none.
static unsigned msr_find(const char *key)
{
    uint64_t number;
    if (names_number(key, strlen(key), &number))
        return number >= CAPS_MSR_FIRST && number < CAPS_MSR_FIRST + CAPS_MSR_COUNT
                   ? (unsigned)(number - CAPS_MSR_FIRST)
                   : CAPS_MSR_COUNT;
    if (strncasecmp(key, "MSR_", 4) == 0)
        key += 4;
    for (unsigned i = 0; i < CAPS_MSR_COUNT; i++)
        if (strcasecmp(key, caps_msr_name(i)) == 0 || strcasecmp(key, caps_msr_name(i) + 5) == 0)
            return i;
    return CAPS_MSR_COUNT;
}

static void take_msr(struct caps_input *input, unsigned index, uint64_t value)
{
    input->caps.msr[index] = value;
    input->given[index] = true;
    if (CAPS_MSR_FIRST + index == MSR_IA32_VMX_CR4_FIXED1)
        input->any_linear_width = false;
}

static bool take_width(struct caps_input *input, struct source *source, uint64_t value, size_t offset)
{
    if (value < WIDTH_MIN || value > WIDTH_MAX) {
        source_error(source, offset, "MAXPHYADDR is a number of bits, from %d to %d", WIDTH_MIN, WIDTH_MAX);
        return false;
    }
    input->physical_address_width = (unsigned)value;
    input->width_given = true;
    return true;
}

// As WinDbg writes it: msr[48b] = 001ffcff`00000000
static bool take_debugger_line(struct caps_input *input, const char *key, const char *value)
{
    unsigned msr;
    unsigned long long high, low;
    if (sscanf(key, "msr[%x]", &msr) != 1 || sscanf(value, "%8llx`%8llx", &high, &low) != 2 ||
        msr < CAPS_MSR_FIRST || msr >= CAPS_MSR_FIRST + CAPS_MSR_COUNT)
        return false;
    take_msr(input, msr - CAPS_MSR_FIRST, high << 32 | low);
    return true;
}

// [words] KEY = VALUE [words]: so that lines cut out of a log can be given as they are.
static bool take_line(struct caps_input *input, struct source *source, size_t start, size_t end)
{
    const char *text = source->text;
    const char *separator = memchr(text + start, '=', end - start);
    size_t key_end = separator ? (size_t)(separator - text) : end, value_start = key_end + 1;
    if (!separator) {
        source_error(source, start, "no MSR = VALUE");
        return false;
    }
    while (key_end > start && isspace((unsigned char)text[key_end - 1]))
        key_end--;
    size_t key_start = key_end;
    while (key_start > start && !isspace((unsigned char)text[key_start - 1]))
        key_start--;
    while (value_start < end && isspace((unsigned char)text[value_start]))
        value_start++;
    size_t value_end = value_start;
    while (value_end < end && !isspace((unsigned char)text[value_end]))
        value_end++;
    char key[KEY_SIZE];
    uint64_t value;
    if (take_debugger_line(input, text + key_start, text + value_start))
        return true;
    snprintf(key, sizeof(key), "%.*s", (int)(key_end - key_start), text + key_start);
    if (!names_number(text + value_start, value_end - value_start, &value)) {
        source_error(source, value_start, "here should stand a number of 64 bits, as 0xda040000000004");
        return false;
    }
    if (strcasecmp(key, "MAXPHYADDR") == 0)
        return take_width(input, source, value, value_start);
    unsigned fact = caps_fact_find(key);
    if (fact < FACT_COUNT) {
        caps_fact_set(&input->caps, fact, value);
        input->unknown_facts &= ~(1u << fact);
        return true;
    }
    unsigned index = msr_find(key);
    if (index == CAPS_MSR_COUNT) {
        source_error(source, key_start,
                     "'%s' is no VMX capability MSR (nor MAXPHYADDR, SGX, RTM, BUS_LOCK_DETECTION, LAM or "
                     "IA32_PERF_GLOBAL_CTRL)",
                     key);
        return false;
    }
    if (input->given[index] && input->caps.msr[index] != value) {
        source_error(source, value_start, "%s again, and with another value", caps_msr_name(index));
        return false;
    }
    take_msr(input, index, value);
    return true;
}

static bool take_text(struct caps_input *input, struct source *source)
{
    bool any = false;
    for (size_t at = 0; at < source->size;) {
        const char *newline = memchr(source->text + at, '\n', source->size - at);
        size_t end = newline ? (size_t)(newline - source->text) : source->size, next = end + 1;
        const char *comment = memchr(source->text + at, '#', end - at);
        if (comment)
            end = (size_t)(comment - source->text);
        while (at < end && isspace((unsigned char)source->text[at]))
            at++;
        bool is_command = memmem(source->text + at, end - at, "rdmsr ", 6) != NULL; // what was typed
        if (at < end && !is_command) {
            if (!take_line(input, source, at, end))
                return false;
            any = true;
        }
        at = next;
    }
    if (!any)
        source_error(source, 0, "there is no MSR = VALUE in here");
    return any;
}

// A processor without these has no VT-x: a file that leaves out the TRUE MSRs but has BASIC says so in BASIC.
static void note_basic(struct caps_input *input)
{
    if (input->given[0] && (input->caps.msr[0] >> 55 & 1) == 0)
        for (unsigned i = 13; i < 17; i++)
            input->given[i] = true; // there are none to give
}

bool caps_input_read(struct caps_input *input, const char *text)
{
    *input = (struct caps_input){0};
    const struct caps_model *model = model_find(text);
    if (model || strcasecmp(text, MODEL_PLASTRON) == 0) {
        take_model(input, model ? model : model_get(MODEL_PLASTRON_ON));
        if (!model) {
            struct nvmx_caps hardware = input->caps;
            nvmx_caps_offer(&hardware, &input->caps);
            snprintf(input->name, sizeof(input->name), "model " MODEL_PLASTRON);
        }
        return true;
    }
    if (strcmp(text, "-") != 0 && access(text, F_OK) != 0) {
        say_error("'%s' is neither a file nor a model; `plastron caps --list` shows the models", text);
        return false;
    }
    begin_with_default(input);
    snprintf(input->name, sizeof(input->name), "%s", text);
    struct source source;
    bool fine = source_read(&source, text) && take_text(input, &source);
    source_free(&source);
    note_basic(input);
    return fine;
}

static int msr_file = -1;

bool hw_rdmsr(struct hw_cpu *cpu, uint32_t msr, uint64_t *value)
{
    (void)cpu;
    return pread(msr_file, value, sizeof(*value), (off_t)msr) == (ssize_t)sizeof(*value);
}

// Bits 7:0 of EAX of CPUID leaf 80000008H.
static unsigned own_physical_address_width(void)
{
    uint32_t eax, ebx, ecx, edx;
    return __get_cpuid(0x80000008u, &eax, &ebx, &ecx, &edx) ? eax & 0xff : WIDTH_MAX;
}

bool caps_input_read_own(struct caps_input *input)
{
    static const char path[] = "/dev/cpu/0/msr";
    *input = (struct caps_input){0};
    msr_file = open(path, O_RDONLY | O_CLOEXEC);
    if (msr_file < 0) {
        say_error("%s: %s%s", path, strerror(errno),
                  errno == ENOENT ? " (`modprobe msr` makes it)" : " (only root may read it)");
        return false;
    }
    uint64_t basic;
    bool has_vmx = hw_rdmsr(NULL, CAPS_MSR_FIRST, &basic);
    if (has_vmx)
        nvmx_caps_read(NULL, &input->caps);
    else
        say_error("%s: this processor has no VT-x, or whoever runs this machine does not offer it", path);
    close(msr_file);
    caps_facts_read_own(&input->caps);
    memset(input->given, 1, sizeof(input->given));
    input->physical_address_width = own_physical_address_width();
    input->width_given = true;
    snprintf(input->name, sizeof(input->name), "this computer's processor");
    return has_vmx;
}
