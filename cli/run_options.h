// SPDX-License-Identifier: MIT
// What `plastron run` was asked to do.
#ifndef PLASTRON_CLI_RUN_OPTIONS_H
#define PLASTRON_CLI_RUN_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "expect.h"

#define RUN_MODULES_MAX 32
#define RUN_OPTIONS_MAX 32

// A file for L1 to find in memory, and the text it finds with it.
struct run_module {
    const char *path;
    const char *text;
};

struct run_options {
    const char *image;  // L1's image
    char *append;       // L1's command line, never NULL; owned
    const char *initrd; // NULL: none
    struct run_module modules[RUN_MODULES_MAX];
    size_t module_count;
    const char *options[RUN_OPTIONS_MAX]; // for L0's own command line
    size_t option_count;
    unsigned processors;
    unsigned memory_mib;
    unsigned timeout;    // seconds; 0: none
    const char *cpu;     // NULL: the machine's default
    const char *machine; // NULL: the best that is usable
    const char *log;     // NULL: L0's log is not kept
    bool bare;
    bool stop_when_met;
    bool quiet, verbose;
    struct expectations expectations;
};

enum run_parse { RUN_PARSE_GO, RUN_PARSE_HELP, RUN_PARSE_WRONG };

// Parses the command line; has said what is wrong when it returns RUN_PARSE_WRONG.
enum run_parse run_options_parse(struct run_options *options, int argc, char **argv);
void run_options_free(struct run_options *options);
void run_options_print_help(void);

#endif
