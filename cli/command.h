// SPDX-License-Identifier: MIT
// The command table's row. A new command is a row in main.c and a file of its own.
#ifndef PLASTRON_CLI_COMMAND_H
#define PLASTRON_CLI_COMMAND_H

struct command {
    const char *name;
    const char *summary;                // one line for `plastron --help`
    int (*main)(int argc, char **argv); // argv[0] is the command's name; returns an enum status
};

int run_main(int argc, char **argv);
int doctor_main(int argc, char **argv);
int check_main(int argc, char **argv);
int rules_main(int argc, char **argv);
int fields_main(int argc, char **argv);
int caps_main(int argc, char **argv);

#endif
