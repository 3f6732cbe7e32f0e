// SPDX-License-Identifier: MIT
// QEMU: with KVM and nested VT-x where the computer has them; with its own emulator (no VT-x) to try how an
// L1 boots.
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "install.h"
#include "machine.h"

#define QEMU "qemu-system-x86_64"

static bool qemu_find(char *program, size_t size, char *why, size_t why_size)
{
    if (install_find_program(program, size, QEMU))
        return true;
    snprintf(why, why_size, "there is no " QEMU " (Debian: package qemu-system-x86)");
    return false;
}

// KVM lists VMX among a guest's CPUID bits exactly when the processor has it and nesting is switched on.
static bool kvm_offers_vmx(int kvm)
{
    enum { ENTRIES = 256, VMX = 1u << 5 };
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + ENTRIES * sizeof(cpuid->entries[0]));
    if (!cpuid)
        return false;
    cpuid->nent = ENTRIES;
    bool offers = false;
    if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid) == 0) {
        for (unsigned i = 0; i < cpuid->nent; i++)
            offers |= cpuid->entries[i].function == 1 && (cpuid->entries[i].ecx & VMX);
    }
    free(cpuid);
    return offers;
}

static bool qemu_kvm_usable(char *why, size_t size)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) {
        if (errno == ENOENT)
            snprintf(why, size,
                     "there is no /dev/kvm: no virtualisation here, or the module kvm-intel is not loaded");
        else
            snprintf(why, size, "/dev/kvm cannot be opened: %s%s", strerror(errno),
                     errno == EACCES ? " (is the user in group kvm?)" : "");
        return false;
    }
    bool offers = kvm_offers_vmx(kvm);
    close(kvm);
    if (!offers) {
        bool intel = access("/sys/module/kvm_intel", F_OK) == 0;
        snprintf(why, size, "/dev/kvm is there, but gives its guests no VT-x: %s",
                 intel ? "nesting is off (kvm_intel's parameter nested=1 switches it on)"
                       : "the processor is not Intel's, or its VT-x is hidden from us");
        return false;
    }
    char program[INSTALL_PATH_MAX];
    if (!qemu_find(program, sizeof(program), why, size))
        return false;
    snprintf(why, size, "QEMU with KVM and nested VT-x");
    return true;
}

static bool qemu_tcg_usable(char *why, size_t size)
{
    char program[INSTALL_PATH_MAX];
    if (!qemu_find(program, sizeof(program), why, size))
        return false;
    snprintf(why, size, "QEMU's own emulator: it has no VT-x");
    return true;
}

static bool qemu_start(struct process *process, const struct machine_parts *parts, const char *accelerator,
                       char *why, size_t size)
{
    char program[INSTALL_PATH_MAX], processors[16], memory[16], cd[64], console[96], log[64], monitor[64],
        cpu[128];
    if (!qemu_find(program, sizeof(program), why, size))
        return false;
    snprintf(processors, sizeof(processors), "%u", parts->processors);
    snprintf(memory, sizeof(memory), "%u", parts->memory_mib);
    snprintf(cpu, sizeof(cpu), "%s", parts->cpu);
    snprintf(cd, sizeof(cd), "file=/proc/self/fd/%d,format=raw,media=cdrom,readonly=on,if=ide", parts->cd);
    snprintf(console, sizeof(console), "socket,id=com1,host=127.0.0.1,port=%d,server=off",
             parts->console_port);
    snprintf(log, sizeof(log), "file,id=com2,path=/proc/self/fd/%d", parts->log_pipe);
    snprintf(monitor, sizeof(monitor), "socket,id=monitor,fd=%d", parts->report_fd);
    const char *const argv[] = {
        program,
        "-nodefaults",
        "-no-user-config",
        "-machine",
        "pc",
        "-accel",
        accelerator,
        "-cpu",
        cpu,
        "-smp",
        processors,
        "-m",
        memory,
        "-drive",
        cd,
        "-boot",
        "d",
        "-display",
        "none",
        "-vga",
        "std",
        "-no-reboot",
        "-chardev",
        console,
        "-serial",
        "chardev:com1",
        "-chardev",
        log,
        "-serial",
        "chardev:com2",
        "-chardev",
        monitor,
        "-mon",
        "chardev=monitor,mode=control",
        NULL,
    };
    struct process_fds fds = {.all = {parts->cd, parts->log_pipe, parts->report_fd}, .count = 3};
    return process_start(process, (char *const *)argv, &fds, why, size);
}

static bool qemu_kvm_start(struct process *process, const struct machine_parts *parts, char *why, size_t size)
{
    return qemu_start(process, parts, "kvm", why, size);
}

static bool qemu_tcg_start(struct process *process, const struct machine_parts *parts, char *why, size_t size)
{
    return qemu_start(process, parts, "tcg,thread=multi", why, size);
}

// Lines are QMP's JSON objects, one each. Events come without our asking once capabilities are negotiated;
// the event that tells a reset from a power-off is SHUTDOWN (we start QEMU with -no-reboot, so a reset shuts
// it down).
static void qemu_hear(struct machine_state *state, const char *line)
{
    if (!strstr(line, "\"SHUTDOWN\""))
        return;
    if (strstr(line, "\"guest-reset\""))
        machine_state_end(state, ENDING_RESET, "");
    else if (strstr(line, "\"guest-shutdown\""))
        machine_state_end(state, ENDING_POWER_OFF, "");
}

static void qemu_ask_to_end(struct process *process)
{
    process_signal(process, SIGTERM);
}

const struct machine_kind machine_qemu_kvm = {
    .name = "qemu-kvm",
    .default_cpu = "host",
    .has_vtx = true,
    .processors_max = 255,
    .memory_mib_max = 1u << 20,
    .usable = qemu_kvm_usable,
    .start = qemu_kvm_start,
    .hear = qemu_hear,
    .explain = machine_explain_by_last_line,
    .ask_to_end = qemu_ask_to_end,
    .greeting = "{\"execute\":\"qmp_capabilities\"}\n",
};

const struct machine_kind machine_qemu_tcg = {
    .name = "qemu-tcg",
    .default_cpu = "max",
    .has_vtx = false,
    .processors_max = 255,
    .memory_mib_max = 1u << 20,
    .usable = qemu_tcg_usable,
    .start = qemu_tcg_start,
    .hear = qemu_hear,
    .explain = machine_explain_by_last_line,
    .ask_to_end = qemu_ask_to_end,
    .greeting = "{\"execute\":\"qmp_capabilities\"}\n",
};
