// SPDX-License-Identifier: MIT
#include "run_options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "install.h"
#include "say.h"

enum { DEFAULT_MEMORY_MIB = 512, DEMO_MEMORY_MIB = 1024, DEMO_PROCESSORS = 2, DEMO_TIMEOUT = 900 };

// Bochs refuses a posted-interrupt descriptor that is not page-aligned. Plastron hides that feature; without
// it, KVM has to be told.
#define DEMO_BARE_APPEND "kvm_intel.enable_apicv=0"

#define DEMO_EXPECTS "^L2: Linux .* on KVMKVMKVM"

void run_options_print_help(void)
{
    fputs(
        "Usage: plastron run [OPTION...] IMAGE [-- WORD...]\n"
        "       plastron run --demo [OPTION...]\n"
        "\n"
        "Boots IMAGE, a hypervisor (Linux bzImage or Multiboot 1 ELF), as L1 under Plastron, on a machine "
        "with VT-x\n"
        "that is made for it. L1's COM1 is this terminal. Standard output is L1's console alone; everything "
        "else is\n"
        "said on standard error.\n"
        "\n"
        "What L1 gets\n"
        "  --append TEXT        L1's command line; words after -- are added to it. Quotes as in a GRUB menu\n"
        "  --initrd FILE        the first module (Linux: the initial RAM disk)\n"
        "  --module FILE[:TEXT] a module and its text (also \"FILE TEXT\"); can be repeated\n"
        "\n"
        "The machine\n"
        "  --smp N              processors (default 1)\n"
        "  --memory MIB         memory (default 512)\n"
        "  --cpu MODEL          processor model (Bochs: corei7_skylake_x; QEMU: host)\n"
        "  --machine NAME       bochs; qemu-kvm (needs KVM with nested VT-x); qemu-tcg (no VT-x: to try how "
        "an L1\n"
        "                       boots, with --bare). Default: bochs\n"
        "  --bare               the same L1 on the same machine without Plastron, for comparison\n"
        "  --hide               Plastron does not show itself in CPUID (docs/cpuid.md)\n"
        "  --option TEXT        a word of Plastron's own command line; can be repeated\n"
        "\n"
        "When it ends, and what counts as success\n"
        "  --timeout SECONDS    end the machine then (default: never)\n"
        "  --expect REGEX       a line of L1's console must match (POSIX extended); can be repeated: all "
        "must\n"
        "  --stop-when-met      end the machine as soon as every expected line was seen\n"
        "  A machine that resets is not started again: that ends the run.\n"
        "\n"
        "Output\n"
        "  --log FILE           keep L0's log (COM2), GRUB's messages included\n"
        "  -v, --verbose        also show L0's log and the emulator's warnings\n"
        "  -q, --quiet          errors only: no stages, no summary\n"
        "\n"
        "  --demo               Debian's Linux with KVM as L1, and Debian's Linux in it as L2 (made by `make "
        "demo`)\n"
        "\n"
        "Keys: Ctrl-C ends the machine. Ctrl-A c sends Ctrl-C to L1, Ctrl-A a sends Ctrl-A, Ctrl-A x ends "
        "the machine.\n"
        "\n"
        "Exit status\n"
        "  0  L1 ended well (with --expect: if and only if every expected line was seen)\n"
        "  1  L1 ended without that, by a triple fault or a VMX abort\n"
        "  2  the command line is wrong, or names a file that cannot be read\n"
        "  3  Plastron or GRUB refused the image or the machine: the message says why\n"
        "  4  Plastron itself failed (panic)\n"
        "  5  the time was up first\n"
        "  6  this computer lacks something that is needed (see `plastron doctor`)\n"
        "  7  the emulator failed by itself\n"
        "  128+N  ended by signal N; Ctrl-C is 130\n",
        stdout);
}

static bool parse_number(const char *option, const char *text, unsigned least, unsigned most,
                         unsigned *number)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || errno || value < least || value > most) {
        say_error("--%s wants a number from %u to %u, not '%s'", option, least, most, text);
        return false;
    }
    *number = (unsigned)value;
    return true;
}

// FILE, FILE:TEXT or "FILE TEXT". A name may hold both separators, so the shortest part that is a file wins.
static void parse_module(struct run_module *module, char *argument)
{
    module->path = argument;
    module->text = "";
    if (access(argument, F_OK) == 0)
        return;
    for (char *p = argument; (p = strpbrk(p, ": ")); p++) {
        char separator = *p;
        *p = '\0';
        if (access(argument, F_OK) == 0) {
            module->text = p + 1;
            return;
        }
        *p = separator;
    }
    argument[strcspn(argument, ": ")] = '\0'; // what the message about a missing file will show
}

static bool append_text(struct run_options *options, const char *text)
{
    if (strpbrk(text, "\n\r")) {
        say_error("a command line cannot hold a line break");
        return false;
    }
    char *joined;
    if (asprintf(&joined, "%s%s%s", options->append, *options->append && *text ? " " : "", text) < 0) {
        say_error("out of memory");
        return false;
    }
    free(options->append);
    options->append = joined;
    return true;
}

// The words on the demonstration's command line that describe Bochs, not a PC.
static void drop_words_for_bochs(char *text)
{
    static const char word[] = "tsc_early_khz=";
    char *start = strstr(text, word);
    if (start) {
        size_t length = strcspn(start, " ");
        length += strspn(start + length, " ");
        memmove(start, start + length, strlen(start + length) + 1);
    }
}

// The demonstration is an ordinary run with other defaults; what the user says goes before them.
static bool fill_in_demo(struct run_options *options)
{
    static char image[INSTALL_PATH_MAX], initrd[INSTALL_PATH_MAX];
    char cmdline[INSTALL_PATH_MAX];
    if (options->image) {
        say_error("--demo brings its own image; '%s' is one too many", options->image);
        return false;
    }
    if (!install_path(image, sizeof(image), "demo/vmlinuz") ||
        !install_path(initrd, sizeof(initrd), "demo/initrd.img") ||
        !install_path(cmdline, sizeof(cmdline), "demo/cmdline")) {
        say_error("cannot find where plastron is installed: %s", strerror(errno));
        return false;
    }
    char *text = install_read_text(cmdline);
    if (!text || access(image, R_OK) || access(initrd, R_OK)) {
        say_error("the demonstration is not made yet (no %s): `make demo` makes it", !text ? cmdline : image);
        free(text);
        return false;
    }
    options->image = image;
    if (!options->initrd)
        options->initrd = initrd;
    if (options->machine && strcmp(options->machine, "bochs"))
        drop_words_for_bochs(text);
    char *asked = options->append;
    options->append = text;
    bool fine = append_text(options, asked) && (!options->bare || append_text(options, DEMO_BARE_APPEND));
    free(asked);
    if (!options->processors)
        options->processors = DEMO_PROCESSORS;
    if (!options->memory_mib)
        options->memory_mib = DEMO_MEMORY_MIB;
    if (!options->timeout)
        options->timeout = DEMO_TIMEOUT;
    if (!options->expectations.count)
        fine = fine && expectations_add(&options->expectations, DEMO_EXPECTS);
    return fine;
}

static bool fill_in_defaults(struct run_options *options)
{
    if (!options->processors)
        options->processors = 1;
    if (!options->memory_mib)
        options->memory_mib = DEFAULT_MEMORY_MIB;
    if (!options->image) {
        say_error("no image to boot: plastron run [OPTION...] IMAGE (or --demo)");
        return false;
    }
    if (options->stop_when_met && !options->expectations.count) {
        say_error("--stop-when-met needs an --expect to meet");
        return false;
    }
    if (options->bare && options->option_count) {
        say_error("--option and --hide are for Plastron, and --bare runs without it");
        return false;
    }
    return true;
}

enum long_option {
    OPTION_INITRD = 256,
    OPTION_APPEND,
    OPTION_MODULE,
    OPTION_OPTION,
    OPTION_SMP,
    OPTION_MEMORY,
    OPTION_CPU,
    OPTION_MACHINE,
    OPTION_BARE,
    OPTION_HIDE,
    OPTION_TIMEOUT,
    OPTION_EXPECT,
    OPTION_STOP_WHEN_MET,
    OPTION_LOG,
    OPTION_DEMO,
};

static const struct option long_options[] = {
    {"initrd", required_argument, NULL, OPTION_INITRD},
    {"append", required_argument, NULL, OPTION_APPEND},
    {"module", required_argument, NULL, OPTION_MODULE},
    {"option", required_argument, NULL, OPTION_OPTION},
    {"smp", required_argument, NULL, OPTION_SMP},
    {"memory", required_argument, NULL, OPTION_MEMORY},
    {"cpu", required_argument, NULL, OPTION_CPU},
    {"machine", required_argument, NULL, OPTION_MACHINE},
    {"bare", no_argument, NULL, OPTION_BARE},
    {"hide", no_argument, NULL, OPTION_HIDE},
    {"timeout", required_argument, NULL, OPTION_TIMEOUT},
    {"expect", required_argument, NULL, OPTION_EXPECT},
    {"stop-when-met", no_argument, NULL, OPTION_STOP_WHEN_MET},
    {"log", required_argument, NULL, OPTION_LOG},
    {"demo", no_argument, NULL, OPTION_DEMO},
    {"verbose", no_argument, NULL, 'v'},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static char hide_word[] = "cpuid=hidden";

static bool add_l0_option(struct run_options *options, char *word)
{
    if (options->option_count == RUN_OPTIONS_MAX) {
        say_error("more than %d times --option", RUN_OPTIONS_MAX);
        return false;
    }
    options->options[options->option_count++] = word;
    return true;
}

static bool take_option(struct run_options *options, int option, char *argument, bool *demo)
{
    switch (option) {
    case OPTION_INITRD:
        options->initrd = argument;
        return true;
    case OPTION_APPEND:
        return append_text(options, argument);
    case OPTION_MODULE:
        if (options->module_count == RUN_MODULES_MAX) {
            say_error("more than %d modules", RUN_MODULES_MAX);
            return false;
        }
        parse_module(&options->modules[options->module_count++], argument);
        return true;
    case OPTION_OPTION:
        return add_l0_option(options, argument);
    case OPTION_HIDE:
        return add_l0_option(options, hide_word);
    case OPTION_SMP:
        return parse_number("smp", argument, 1, 255, &options->processors);
    case OPTION_MEMORY:
        return parse_number("memory", argument, 8, 1u << 20, &options->memory_mib);
    case OPTION_CPU:
        options->cpu = argument;
        return true;
    case OPTION_MACHINE:
        options->machine = argument;
        return true;
    case OPTION_BARE:
        options->bare = true;
        return true;
    case OPTION_TIMEOUT:
        return parse_number("timeout", argument, 1, 1000000, &options->timeout);
    case OPTION_EXPECT:
        return expectations_add(&options->expectations, argument);
    case OPTION_STOP_WHEN_MET:
        options->stop_when_met = true;
        return true;
    case OPTION_LOG:
        options->log = argument;
        return true;
    case OPTION_DEMO:
        *demo = true;
        return true;
    case 'v':
        options->verbose = true;
        return true;
    case 'q':
        options->quiet = true;
        return true;
    default:
        return false; // getopt_long has said what is wrong
    }
}

enum run_parse run_options_parse(struct run_options *options, int argc, char **argv)
{
    *options = (struct run_options){.append = strdup("")};
    if (!options->append) {
        say_error("out of memory");
        return RUN_PARSE_WRONG;
    }
    static char name[] = "plastron run"; // what getopt_long puts before its own messages
    argv[0] = name;
    bool demo = false;
    bool fine = true;
    for (int option; fine && (option = getopt_long(argc, argv, "vqh", long_options, NULL)) != -1;) {
        if (option == 'h')
            return RUN_PARSE_HELP;
        fine = take_option(options, option, optarg, &demo);
    }
    // getopt_long has moved "--" before the operands: what it skipped there is the only way to tell IMAGE
    // from WORD.
    bool dashes = optind > 1 && strcmp(argv[optind - 1], "--") == 0;
    int i = optind;
    if (fine && i < argc && !(demo && dashes))
        options->image = argv[i++];
    if (fine && i < argc && !dashes) {
        say_error("one image at a time: what is '%s'? (words for L1's command line go after --)", argv[i]);
        fine = false;
    }
    for (; fine && i < argc; i++)
        fine = append_text(options, argv[i]);
    fine = fine && (!demo || fill_in_demo(options)) && fill_in_defaults(options);
    if (!fine)
        fprintf(stderr, "plastron: `plastron run --help` lists the options\n");
    return fine ? RUN_PARSE_GO : RUN_PARSE_WRONG;
}

void run_options_free(struct run_options *options)
{
    free(options->append);
    expectations_free(&options->expectations);
}
