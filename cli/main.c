// SPDX-License-Identifier: MIT
// `plastron COMMAND`: finds the command in the table and calls it.
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "names.h"
#include "status.h"
#include "version.h"

static int help_main(int argc, char **argv);

static const struct command commands[] = {
    {"run", "boot a hypervisor under Plastron on a machine with VT-x, emulated if need be", run_main},
    {"check", "say which rules of VM entry a VMCS breaks: a dump by KVM or Xen, or FIELD = VALUE lines",
     check_main},
    {"rules", "list the rules of VM entry, or explain one", rules_main},
    {"fields", "list the fields of a VMCS, or explain one", fields_main},
    {"caps", "decode VMX capability MSRs, of a file, a model or this computer", caps_main},
    {"doctor", "say what this computer has, and which machine `run` would use", doctor_main},
    {"help", "show this text, or a command's: plastron help run", help_main},
};

#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static const struct command *command_find(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

static const char *command_nearest(const char *name)
{
    const char *nearest = NULL;
    size_t least = 3; // further away than this, a suggestion is a guess
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        size_t distance = names_distance(name, commands[i].name);
        if (distance < least) {
            least = distance;
            nearest = commands[i].name;
        }
    }
    return nearest;
}

static int unknown_command(const char *name)
{
    const char *nearest = command_nearest(name);
    fprintf(stderr, "plastron: there is no command '%s'", name);
    if (nearest)
        fprintf(stderr, "; did you mean '%s'?\n", nearest);
    else
        fprintf(stderr, "; `plastron --help` lists them\n");
    return STATUS_USAGE;
}

static void print_help(FILE *out)
{
    fprintf(out, "Plastron %s: the layer under your hypervisor\n\n", PLASTRON_VERSION);
    fprintf(out, "Usage: plastron COMMAND [OPTION...] [ARGUMENT...]\n\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].summary);
    fprintf(out, "\n`plastron COMMAND --help` says more. The first thing to try: plastron run --demo\n");
}

static int help_main(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stdout);
        return STATUS_OK;
    }
    const struct command *command = command_find(argv[1]);
    if (!command)
        return unknown_command(argv[1]);
    if (command->main == help_main) {
        print_help(stdout);
        return STATUS_OK;
    }
    char option[] = "--help";
    char *arguments[] = {argv[1], option, NULL};
    return command->main(2, arguments);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return STATUS_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_help(stdout);
        return STATUS_OK;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        printf("plastron %s\n", PLASTRON_VERSION);
        return STATUS_OK;
    }
    const struct command *command = command_find(argv[1]);
    return command ? command->main(argc - 1, argv + 1) : unknown_command(argv[1]);
}
