// SPDX-License-Identifier: MIT
// The capabilities of a processor: of a named model, from a text, or of this computer's own.
#ifndef PLASTRON_CLI_CAPS_INPUT_H
#define PLASTRON_CLI_CAPS_INPUT_H

#include <stdbool.h>
#include <stdint.h>

#include <nvmx/caps.h>

struct caps_input {
    struct nvmx_caps caps;
    unsigned physical_address_width;
    char name[256];             // "model generic", or the file
    bool given[CAPS_MSR_COUNT]; // the rest is the model generic's
    bool width_given;
    unsigned unknown_facts; // bits of 1 << fact (caps_facts.h): nobody says; the caps have them
    bool any_linear_width;  // nobody says whether the processor has 5-level paging
};

// One that stands for no processor: what the manual defines, all of it.
#define CAPS_MODEL_DEFAULT "generic"

struct caps_model {
    const char *name, *what;
    uint64_t msr[CAPS_MSR_COUNT];
    unsigned physical_address_width;
    uint32_t features;         // FEATURE_*
    uint64_t perf_global_ctrl; // as in struct nvmx_caps
};
extern const struct caps_model caps_models[];
extern const unsigned caps_model_count;

// `text` names a model, or else a file of MSR = VALUE lines ("-": standard input). False, and said why, if
// neither can be read.
bool caps_input_read(struct caps_input *input, const char *text);

// From /dev/cpu/0/msr. False, and said why, if that cannot be read.
bool caps_input_read_own(struct caps_input *input);

// "IA32_VMX_BASIC" for 0.
const char *caps_msr_name(unsigned index);

void caps_print_models(void);

#endif
