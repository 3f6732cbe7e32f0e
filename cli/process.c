// SPDX-License-Identifier: MIT
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

void process_fds_add(struct process_fds *fds, int fd)
{
    if (fds->count == PROCESS_FDS_MAX)
        abort(); // no caller has that many
    fds->all[fds->count++] = fd;
}

// In the child: what every child needs, then the program. Writes errno to `report` if that fails.
__attribute__((noreturn)) static void child_execute(char *const argv[], const struct process_fds *fds,
                                                    pid_t parent, int report)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) // it died before the line above
        _exit(127);
    for (size_t i = 0; i < fds->count; i++)
        fcntl(fds->all[i], F_SETFD, 0);
    execv(argv[0], argv);
    int error = errno;
    if (write(report, &error, sizeof(error)) < 0)
        _exit(126);
    _exit(127);
}

// Reads a tool's complaints to their end; keeps the last line that says something.
static void read_complaint(int fd, char *why, size_t size)
{
    char all[8192];
    size_t length = 0;
    for (;;) {
        if (length == sizeof(all) - 1) {
            memmove(all, all + sizeof(all) / 2, sizeof(all) / 2);
            length -= sizeof(all) / 2;
        }
        ssize_t got = read(fd, all + length, sizeof(all) - 1 - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        length += (size_t)got;
    }
    while (length && strchr("\r\n ", all[length - 1]))
        length--;
    all[length] = '\0';
    char *line = strrchr(all, '\n');
    snprintf(why, size, "%s", line ? line + 1 : all);
}

bool process_run_tool(char *const argv[], const struct process_fds *fds, int output, char *why, size_t size)
{
    int complaints[2], report[2];
    if (pipe2(complaints, O_CLOEXEC) || pipe2(report, O_CLOEXEC)) {
        snprintf(why, size, "cannot make a pipe: %s", strerror(errno));
        return false;
    }
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        dup2(null, STDIN_FILENO);
        dup2(output, STDOUT_FILENO);
        dup2(complaints[1], STDERR_FILENO);
        child_execute(argv, fds, parent, report[1]);
    }
    int error = errno;
    close(complaints[1]);
    close(report[1]);
    int status = -1;
    if (pid < 0) {
        snprintf(why, size, "cannot start a process: %s", strerror(error));
    } else {
        read_complaint(complaints[0], why, size);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        if (read(report[0], &error, sizeof(error)) == (ssize_t)sizeof(error))
            snprintf(why, size, "%s: %s", argv[0], strerror(error));
    }
    close(complaints[0]);
    close(report[0]);
    return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int open_terminal(char *name, size_t size)
{
    int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal < 0)
        return -1;
    if (grantpt(terminal) || unlockpt(terminal) || ptsname_r(terminal, name, size) ||
        fcntl(terminal, F_SETFL, O_NONBLOCK)) {
        close(terminal);
        return -1;
    }
    return terminal;
}

bool process_start(struct process *process, char *const argv[], const struct process_fds *fds, char *why,
                   size_t size)
{
    char name[64];
    int report[2];
    *process = (struct process){.terminal = open_terminal(name, sizeof(name))};
    if (process->terminal < 0 || pipe2(report, O_CLOEXEC)) {
        snprintf(why, size, "cannot make a pseudo terminal: %s", strerror(errno));
        return false;
    }
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        int slave = open(name, O_RDWR | O_CLOEXEC);
        if (slave < 0)
            _exit(127);
        ioctl(slave, TIOCSCTTY, 0);
        dup2(slave, STDIN_FILENO);
        dup2(slave, STDOUT_FILENO);
        dup2(slave, STDERR_FILENO);
        child_execute(argv, fds, parent, report[1]);
    }
    int error = errno;
    close(report[1]);
    if (pid > 0) {
        process->pid = pid;
        if (read(report[0], &error, sizeof(error)) == (ssize_t)sizeof(error)) {
            process_end(process);
            pid = -1;
        }
    }
    close(report[0]);
    if (pid < 0) {
        snprintf(why, size, "cannot start %s: %s", argv[0], strerror(error));
        return false;
    }
    return true;
}

bool process_has_ended(struct process *process)
{
    if (process->pid && waitpid(process->pid, &process->status, WNOHANG) == process->pid)
        process->pid = 0;
    return !process->pid;
}

void process_signal(struct process *process, int signal)
{
    if (process->pid)
        kill(process->pid, signal);
}

void process_end(struct process *process)
{
    if (process->pid) {
        kill(-process->pid, SIGKILL); // its session: whatever it started, too
        kill(process->pid, SIGKILL);
        while (waitpid(process->pid, &process->status, 0) < 0 && errno == EINTR)
            ;
        process->pid = 0;
    }
    if (process->terminal >= 0)
        close(process->terminal);
    process->terminal = -1;
}
