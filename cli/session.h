// SPDX-License-Identifier: MIT
// One life of a machine: everything between its start and its end, in one poll() loop.
#ifndef PLASTRON_CLI_SESSION_H
#define PLASTRON_CLI_SESSION_H

#include "l0log.h"
#include "machine.h"
#include "run_options.h"

struct session {
    struct run_options *options;
    const struct machine_kind *kind;
    const char *cpu;
    int cd;
    FILE *log_copy; // for --log, or NULL

    struct machine_state state;
    struct l0log log;
    struct expectations *expectations;
    int signal;     // ENDING_USER: the signal, 0 if a key or a closed output
    double seconds; // from start to end
};

// Runs the machine until it ends. False with `why` if it could not be started.
bool session_run(struct session *session, char *why, size_t size);

#endif
