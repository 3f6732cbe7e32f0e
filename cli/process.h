// SPDX-License-Identifier: MIT
// Child processes: tools that run to their end, and the emulator, which must never outlive us.
#ifndef PLASTRON_CLI_PROCESS_H
#define PLASTRON_CLI_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define PROCESS_FDS_MAX 8

// File descriptors that the child keeps, under their own numbers; every other one of ours is close-on-exec.
struct process_fds {
    int all[PROCESS_FDS_MAX];
    size_t count;
};

void process_fds_add(struct process_fds *fds, int fd);

// Runs a tool to its end with standard output on `output`. True if it exited with 0; otherwise `why` says
// what it complained about.
bool process_run_tool(char *const argv[], const struct process_fds *fds, int output, char *why, size_t size);

struct process {
    pid_t pid;    // 0: not running
    int terminal; // our side of its terminal
    int status;   // of waitpid, once it has ended
};

// Starts a program in a session of its own, on a pseudo terminal of its own, so that our terminal's Ctrl-C
// does not reach it; the kernel kills it should we die. False with `why`.
bool process_start(struct process *process, char *const argv[], const struct process_fds *fds, char *why,
                   size_t size);

// Has it ended by itself? Does not wait.
bool process_has_ended(struct process *process);

void process_signal(struct process *process, int signal);

// Kills it and waits for it. Harmless when it has ended.
void process_end(struct process *process);

#endif
