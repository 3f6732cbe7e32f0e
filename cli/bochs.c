// SPDX-License-Identifier: MIT
// Bochs: the emulated machine with VT-x. How to configure it, and what its log says about how it ends.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "install.h"
#include "machine.h"
#include "say.h"

// Emulated instructions per emulated second. It sets only how long the emulated clocks take: lower, and the
// waits of firmware and kernels cost fewer instructions, but timer interrupts are more frequent.
#define BOCHS_IPS 50000000

// With more than one processor: each in turn executes a trace of a few instructions, and the clock advances
// by what one processor executes on average. This is what a halted one counts for. About the length of a
// trace, so that time does not run faster for a busy processor because another one is idle. (It costs
// nothing: 43 s of processor time to boot Linux on two processors with 5, 16 or 32; the clock shows 1.9, 2.8
// or 4.4 thousand million.)
#define BOCHS_QUANTUM 5

// The clock starts at this time (2026-01-01 UTC) rather than now, so that two runs are the same, instruction
// by instruction. It could not keep up with the real one anyway.
#define BOCHS_TIME0 1767225600

static bool bochs_find(char *program, size_t program_size, char *version, size_t version_size)
{
    char path[INSTALL_PATH_MAX];
    if (!install_path(program, program_size, "bochs/bin/bochs") || access(program, X_OK))
        return false;
    char *text = install_path(path, sizeof(path), "bochs/version") ? install_read_text(path) : NULL;
    snprintf(version, version_size, "%s", text ? text : "of unknown version");
    free(text);
    return true;
}

static bool bochs_usable(char *why, size_t size)
{
    char program[INSTALL_PATH_MAX], version[64];
    if (!bochs_find(program, sizeof(program), version, sizeof(version))) {
        snprintf(why, size, "Bochs is not set up: there is no %s (`make setup` makes it)",
                 *program ? program : "bochs/bin/bochs beside the command");
        return false;
    }
    snprintf(why, size, "Bochs %s%s", version,
             strncmp(version, "2.", 2)
                 ? ""
                 : ": three times slower than 3.0; no monitor trap flag, no posted interrupts, "
                   "no mode-based execute control");
    return true;
}

static bool bochs_write_configuration(int fd, const struct machine_parts *parts)
{
    // For measurements only: another relation of the clocks to the instructions.
    const char *ips = getenv("PLASTRON_BOCHS_IPS");
    const char *quantum = getenv("PLASTRON_BOCHS_QUANTUM");
    FILE *out = fdopen(dup(fd), "w");
    if (!out)
        return false;
    fprintf(out,
            "plugin_ctrl: unmapped=1, serial=1, biosdev=0, speaker=0, parallel=0, gameport=0, iodebug=0\n"
            "display_library: term\n"
            "vga: update_freq=1\n"
            "romimage: file=$BXSHARE/BIOS-bochs-latest, options=fastboot\n"
            "vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest\n");
    fprintf(out, "cpu: model=%s, count=%u, ips=%d, quantum=%d, reset_on_triple_fault=1\n", parts->cpu,
            parts->processors, ips ? atoi(ips) : BOCHS_IPS, quantum ? atoi(quantum) : BOCHS_QUANTUM);
    fprintf(out, "memory: guest=%u, host=%u\n", parts->memory_mib, parts->memory_mib);
    fprintf(out, "clock: sync=none, time0=%d\n", BOCHS_TIME0);
    fprintf(out, "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n");
    fprintf(out, "ata0-master: type=cdrom, path=/proc/self/fd/%d, status=inserted\n", parts->cd);
    fprintf(out, "ata1: enabled=0\nboot: cdrom\n");
    fprintf(out, "com1: enabled=1, mode=socket-client, dev=127.0.0.1:%d\n", parts->console_port);
    fprintf(out, "com2: enabled=1, mode=file, dev=/proc/self/fd/%d\n", parts->log_pipe);
    fprintf(out, "log: /proc/self/fd/%d\nlogprefix: %%t%%e%%d\n", parts->report_fd);
    fprintf(out, "panic: action=fatal\nerror: action=report\ninfo: action=report\ndebug: action=ignore\n");
    bool fine = !ferror(out);
    return fclose(out) == 0 && fine;
}

static bool bochs_start(struct process *process, const struct machine_parts *parts, char *why, size_t size)
{
    char program[INSTALL_PATH_MAX], version[64], path[32];
    if (!bochs_find(program, sizeof(program), version, sizeof(version))) {
        snprintf(why, size, "Bochs has gone");
        return false;
    }
    int configuration = memfd_create("bochsrc", MFD_CLOEXEC);
    if (configuration < 0 || !bochs_write_configuration(configuration, parts)) {
        snprintf(why, size, "cannot write Bochs' configuration: %s", strerror(errno));
        return false;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", configuration);
    char quick[] = "-q", file[] = "-f";
    char *argv[] = {program, quick, file, path, NULL};
    struct process_fds fds = {.all = {configuration, parts->cd, parts->log_pipe, parts->report_fd},
                              .count = 4};
    bool fine = process_start(process, argv, &fds, why, size);
    close(configuration);
    return fine;
}

// A line is "00039020367p[ACPI  ] >>PANIC<< ACPI control: soft power off": ticks, level, device, text.
static void bochs_hear(struct machine_state *state, const char *line)
{
    static const char panic_mark[] = ">>PANIC<< ";
    char *end;
    unsigned long long ticks = strtoull(line, &end, 10);
    const char *text = strchr(line, ']');
    if (end == line || !text)
        return;
    if (ticks > state->ticks)
        state->ticks = ticks;
    text += strspn(text, "] ");
    if (*end == 'e')
        say_detail("Bochs: %s", text);
    if (strncmp(text, panic_mark, strlen(panic_mark)) == 0) {
        text += strlen(panic_mark);
        if (strstr(text, "soft power off"))
            machine_state_end(state, ENDING_POWER_OFF, "");
        else if (strstr(text, "shutdown requested"))
            machine_state_end(state, ENDING_SHUTDOWN_PORT, "");
        else
            machine_state_end(state, ENDING_EMULATOR, text);
    } else if (strstr(text, "exception with no resolution")) {
        machine_state_end(state, ENDING_TRIPLE_FAULT, text);
    } else if (strncmp(text, "bx_pc_system_c::Reset(", 22) == 0) {
        if (state->resets++) // the first one is the power-on
            machine_state_end(state, ENDING_RESET, "");
    } else if (strstr(text, "HLT instruction with IF=0")) {
        snprintf(state->hint, sizeof(state->hint), "a processor executed HLT with interrupts disabled");
    }
}

// It prints "Bochs is exiting with the following message:", the message, and a line of "====".
static void bochs_explain(struct machine_state *state, char *printed)
{
    static const char mark[] = "following message:";
    if (strstr(printed, "cpu directive malformed")) { // we write nothing else in it that could be wrong
        machine_state_end(state, ENDING_EMULATOR,
                          "Bochs has no such processor model (`bochs --help cpu` lists them)");
        return;
    }
    char *message = strstr(printed, mark);
    message = message ? message + strlen(mark) : printed;
    char *bar = strstr(message, "\r\n====");
    if (bar)
        *bar = '\0';
    machine_explain_by_last_line(state, message);
}

// Its handler of this signal writes the last tick count to the log. SIGTERM and SIGINT it takes for key
// strokes.
static void bochs_ask_to_end(struct process *process)
{
    process_signal(process, SIGHUP);
}

const struct machine_kind machine_bochs = {
    .name = "bochs",
    .default_cpu = "corei7_skylake_x",
    .has_vtx = true,
    .processors_max = 12, // with more, its table of timers is full
    .memory_mib_max = 2048,
    .usable = bochs_usable,
    .start = bochs_start,
    .hear = bochs_hear,
    .explain = bochs_explain,
    .ask_to_end = bochs_ask_to_end,
};
