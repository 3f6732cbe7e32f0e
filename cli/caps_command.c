// SPDX-License-Identifier: MIT
// `plastron caps [FILE|MODEL]`: the VMX capability MSRs, bit by bit.
#include <stdio.h>
#include <string.h>

#include "bits.h"
#include "caps_facts.h"
#include "caps_input.h"
#include "command.h"
#include "say.h"
#include "status.h"

static void print_help(void)
{
    puts("Usage: plastron caps [--list] [FILE|MODEL]\n"
         "\n"
         "Decodes the VMX capability MSRs bit by bit: of FILE (MSR = VALUE lines, as IA32_VMX_MISC = "
         "0x7004c1e7 or\n"
         "0x485 = 0x7004c1e7; - is standard input), of a model by name, or, without an argument, of this "
         "computer's own\n"
         "processor (as root, with the kernel's module msr).\n"
         "\n"
         "  --list    the models\n"
         "\n"
         "Exit status 2: there is nothing to read, or it cannot be read.");
}

static void print_bit(unsigned number, enum bits_word word, const char *state)
{
    const char *name = bits_name(word, number);
    printf("  bit %2u  %-10s  %s\n", number, state, name ? name : "reserved");
}

// Bits 31:0: must be 1; bits 63:32: may be 1.
static void print_controls(uint64_t value, enum bits_word word)
{
    uint32_t must = (uint32_t)value, may = (uint32_t)(value >> 32);
    for (unsigned number = 0; number < 32; number++) {
        bool is_must = must >> number & 1, is_may = may >> number & 1;
        if (is_must && !is_may)
            print_bit(number, word, "WRONG: 1/0");
        else if (is_must)
            print_bit(number, word, "always 1");
        else if (is_may || bits_name(word, number))
            print_bit(number, word, is_may ? "0 or 1" : "always 0");
    }
}

static void print_flags(uint64_t value, enum bits_word word)
{
    for (unsigned number = 0; number < 64; number++)
        if (bits_name(word, number))
            print_bit(number, word, value >> number & 1 ? "yes" : "no");
}

static void print_basic(uint64_t value)
{
    uint64_t type = value >> 50 & 15;
    printf("  VMCS revision identifier: %#llx\n", (unsigned long long)(value & 0x7fffffff));
    printf("  size of a VMXON or VMCS region: %llu bytes\n", (unsigned long long)(value >> 32 & 0x1fff));
    printf("  memory type of VMX structures: %llu%s\n", (unsigned long long)type,
           type == 6   ? " (write-back)"
           : type == 0 ? " (uncacheable)"
                       : "");
    print_flags(value, BITS_BASIC);
}

static void print_misc(uint64_t value)
{
    printf("  the VMX-preemption timer counts down once in 2^%llu TSC cycles\n",
           (unsigned long long)(value & 31));
    printf("  CR3-target values: %llu\n", (unsigned long long)(value >> 16 & 0x1ff));
    printf("  recommended maximum of entries in an MSR list: %llu\n", 512ull * ((value >> 25 & 7) + 1));
    printf("  MSEG revision identifier: %#llx\n", (unsigned long long)(value >> 32));
    print_flags(value, BITS_MISC);
}

// FIXED0: bits that are 1 must be 1. FIXED1: bits that are 0 must be 0.
static void print_fixed(uint64_t fixed0, uint64_t fixed1, enum bits_word word)
{
    for (unsigned number = 0; number < 64; number++) {
        bool must = fixed0 >> number & 1, may = fixed1 >> number & 1;
        if (must || bits_name(word, number))
            print_bit(number, word, must ? "always 1" : may ? "0 or 1" : "always 0");
    }
}

static void print_msr(const struct nvmx_caps *caps, unsigned index)
{
    static const enum bits_word controls[CAPS_MSR_COUNT] = {
        [1] = BITS_PIN,  [2] = BITS_PRIMARY,  [3] = BITS_EXIT,  [4] = BITS_ENTRY,  [11] = BITS_SECONDARY,
        [13] = BITS_PIN, [14] = BITS_PRIMARY, [15] = BITS_EXIT, [16] = BITS_ENTRY,
    };
    uint64_t value = caps->msr[index];
    printf("%s (0x%x) = 0x%016llx\n", caps_msr_name(index), CAPS_MSR_FIRST + index,
           (unsigned long long)value);
    if (controls[index] != BITS_NONE && value != 0)
        print_controls(value, controls[index]);
    else if (index == 0)
        print_basic(value);
    else if (index == 5)
        print_misc(value);
    else if (index == 7 || index == 9)
        print_fixed(caps->msr[index - 1], value, index == 7 ? BITS_CR0 : BITS_CR4);
    else if (index == 10)
        printf("  highest index of a VMCS field: %llu\n", (unsigned long long)(value >> 1 & 0x1ff));
    else if (index == 12)
        print_flags(value, BITS_EPT_VPID);
    else if (index == 17)
        print_flags(value, BITS_VMFUNC);
}

static void print_all(const struct caps_input *input)
{
    printf("%s", input->name);
    if (input->width_given)
        printf(", %u physical-address bits", input->physical_address_width);
    putchar('\n');
    for (unsigned i = 0; i < CAPS_MSR_COUNT; i++) {
        bool has_true = (input->caps.msr[0] >> 55 & 1) != 0;
        if (!input->given[i] || (i >= 13 && i < 17 && !has_true))
            continue;
        putchar('\n');
        print_msr(&input->caps, i);
    }
}

static void print_facts(const struct caps_input *input)
{
    if (input->unknown_facts != FACTS_ALL)
        puts("\nCPUID");
    for (unsigned fact = 0; fact < FACT_COUNT; fact++) {
        uint64_t value = caps_fact_get(&input->caps, fact);
        if ((input->unknown_facts >> fact & 1) != 0)
            continue;
        if (fact == FACT_COUNTERS)
            printf("  %s: bits 0x%llx (%s)\n", caps_fact_name(fact), (unsigned long long)value,
                   caps_fact_source(fact));
        else
            printf("  %s: %s (%s)\n", caps_fact_name(fact), value != 0 ? "yes" : "no",
                   caps_fact_source(fact));
    }
}

int caps_main(int argc, char **argv)
{
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        print_help();
        return STATUS_OK;
    }
    if (argc > 2) {
        say_error("one file or model at a time: plastron caps [FILE|MODEL]");
        return STATUS_USAGE;
    }
    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        caps_print_models();
        return STATUS_OK;
    }
    struct caps_input input;
    if (argc > 1 ? !caps_input_read(&input, argv[1]) : !caps_input_read_own(&input)) {
        if (argc < 2)
            say_plain("Give a file of MSR = VALUE lines, or a model: plastron caps --list shows them.");
        return STATUS_USAGE;
    }
    print_all(&input);
    print_facts(&input);
    return STATUS_OK;
}
