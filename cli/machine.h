// SPDX-License-Identifier: MIT
// A kind of machine that can run Plastron: an emulator or a virtual machine monitor, one row each in
// machine.c.
#ifndef PLASTRON_CLI_MACHINE_H
#define PLASTRON_CLI_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "process.h"

// What the machine is made of. Our ends of its serial ports exist before it starts.
struct machine_parts {
    unsigned processors;
    unsigned memory_mib;
    const char *cpu;  // never NULL
    int cd;           // the boot medium
    int console_port; // COM1: the machine connects to this TCP port of 127.0.0.1
    int log_pipe;     // COM2: the machine writes here
    int report_fd;    // what the emulator reports about itself: its log (Bochs), its monitor (QEMU)
};

// Why a machine ended.
enum ending {
    ENDING_NONE,          // it runs
    ENDING_POWER_OFF,     // the guest switched it off
    ENDING_SHUTDOWN_PORT, // "Shutdown" was written to port 0x8900
    ENDING_RESET,         // the guest asked for a reset
    ENDING_TRIPLE_FAULT,  // a processor shut down
    ENDING_EMULATOR,      // the emulator failed by itself
    ENDING_L0,            // Plastron said that it stops the machine, and it did not end by itself
    ENDING_MET,           // every expected line was seen, and that was enough
    ENDING_TIMEOUT,       // the time was up
    ENDING_USER,          // Ctrl-C, a signal, or nobody reads L1's console any more
};

struct machine_state {
    enum ending ending;
    char detail[512];         // the emulator's own words, if it has any
    char hint[256];           // something that may explain why it stands still
    unsigned long long ticks; // its clock at the last report; 0: it does not tell
    unsigned resets;
};

struct machine_kind {
    const char *name;
    const char *default_cpu;
    bool has_vtx;
    unsigned processors_max, memory_mib_max;
    // Can it be used on this computer? If not, `why` says what to do. If it can, `why` says what it is.
    bool (*usable)(char *why, size_t size);
    // Starts it. `report_fd` is the child's end of a stream socket.
    bool (*start)(struct process *process, const struct machine_parts *parts, char *why, size_t size);
    const char *greeting; // what to write to its report stream first, or NULL
    // Looks at one line of its report.
    void (*hear)(struct machine_state *state, const char *line);
    // It ended without a reason that `hear` knows: finds one at the end of what it printed on its terminal.
    void (*explain)(struct machine_state *state, char *printed);
    // Asks it to end, so that it can still say its last words.
    void (*ask_to_end)(struct process *process);
};

extern const struct machine_kind machine_bochs, machine_qemu_kvm, machine_qemu_tcg;

// The kinds, best default first; NULL past the last one.
const struct machine_kind *machine_kind_at(size_t index);
const struct machine_kind *machine_kind_find(const char *name);

void machine_state_end(struct machine_state *state, enum ending ending, const char *detail);

// An `explain` that takes the last line.
void machine_explain_by_last_line(struct machine_state *state, char *printed);

#endif
