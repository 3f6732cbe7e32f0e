// SPDX-License-Identifier: MIT
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "console.h"
#include "process.h"
#include "say.h"

// When L0 has said that it stops the machine, or we have asked the emulator to end, it has this long to do
// so.
#define GRACE_SECONDS 2.0

enum { POLL_LOG = CONSOLE_POLL_COUNT, POLL_REPORT, POLL_TERMINAL, POLL_SIGNALS, POLL_COUNT };

// The loop's own things.
struct loop {
    struct session *session;
    struct console console;
    struct process process;
    struct lines report_lines;
    int log, report, signals; // our ends; -1: closed
    char last_words[1024];    // the end of what the emulator printed on its terminal
    double deadline;          // when patience ends; 0: never
    bool child_has_changed;   // SIGCHLD came
};

static void hear_report(void *context, const char *line)
{
    struct session *session = context;
    session->kind->hear(&session->state, line);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

// Reads what is there; closes at the end of file. Returns the number of bytes.
static size_t read_some(int *fd, char *data, size_t size)
{
    ssize_t got = read(*fd, data, size);
    if (got > 0)
        return (size_t)got;
    if (got == 0 || (errno != EAGAIN && errno != EINTR))
        close_fd(fd);
    return 0;
}

static size_t read_log(struct loop *loop)
{
    char data[4096];
    size_t size = read_some(&loop->log, data, sizeof(data));
    l0log_feed(&loop->session->log, data, size);
    return size;
}

static size_t read_report(struct loop *loop)
{
    char data[4096];
    size_t size = read_some(&loop->report, data, sizeof(data));
    lines_feed(&loop->report_lines, data, size, hear_report, loop->session);
    return size;
}

// The emulator's screen and complaints: thrown away, but for the end, which explains a failure to start.
static size_t read_terminal(struct loop *loop)
{
    char data[4096];
    size_t size = read_some(&loop->process.terminal, data, sizeof(data) - 1);
    data[size] = '\0';
    size_t keep = sizeof(loop->last_words) - 1;
    if (size >= keep) {
        memcpy(loop->last_words, data + size - keep, keep + 1);
    } else if (size) {
        size_t old = strlen(loop->last_words);
        size_t drop = old + size > keep ? old + size - keep : 0;
        memmove(loop->last_words, loop->last_words + drop, old - drop);
        memcpy(loop->last_words + old - drop, data, size + 1);
    }
    return size;
}

static void read_signals(struct loop *loop)
{
    struct signalfd_siginfo info;
    while (read(loop->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGCHLD) {
            loop->child_has_changed = true;
            continue;
        }
        loop->session->signal = (int)info.ssi_signo;
        machine_state_end(&loop->session->state, ENDING_USER, "");
    }
}

static bool open_channels(struct loop *loop, int *log_end, int *report_end)
{
    int log[2] = {-1, -1}, report[2] = {-1, -1};
    bool talks = loop->session->kind->greeting != NULL;
    if (pipe2(log, O_CLOEXEC) ||
        (talks ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, report) : pipe2(report, O_CLOEXEC)))
        return false;
    loop->log = log[0];
    *log_end = log[1];
    loop->report = report[0];
    *report_end = report[1];
    fcntl(loop->log, F_SETFL, O_NONBLOCK);
    fcntl(loop->report, F_SETFL, O_NONBLOCK);
    return true;
}

// The signals that end us or tell us something are read from a file descriptor, so that they cannot come
// between two lines of code. Being blocked, they stay so in a tool we start; process.c unblocks them in
// children.
static bool open_signals(struct loop *loop)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGQUIT);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    loop->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return loop->signals >= 0;
}

static bool start(struct loop *loop, char *why, size_t size)
{
    struct session *session = loop->session;
    int log_end = -1, report_end = -1;
    if (!open_channels(loop, &log_end, &report_end)) {
        snprintf(why, size, "cannot make a pipe: %s", strerror(errno));
        return false;
    }
    struct machine_parts parts = {
        .processors = session->options->processors,
        .memory_mib = session->options->memory_mib,
        .cpu = session->cpu,
        .cd = session->cd,
        .console_port = loop->console.port,
        .log_pipe = log_end,
        .report_fd = report_end,
    };
    bool fine = session->kind->start(&loop->process, &parts, why, size);
    close_fd(&log_end); // the machine's copies are the last ones: their end is the end of file
    close_fd(&report_end);
    const char *greeting = session->kind->greeting;
    if (fine && greeting && write(loop->report, greeting, strlen(greeting)) < 0) {
        snprintf(why, size, "the emulator's monitor does not answer: %s", strerror(errno));
        process_end(&loop->process);
        fine = false;
    }
    return fine;
}

// What time it is decides: the end of the run, or of our patience.
static void check_time(struct loop *loop)
{
    struct session *session = loop->session;
    double now = say_elapsed();
    if (session->options->timeout && now >= session->options->timeout)
        machine_state_end(&session->state, ENDING_TIMEOUT, "");
    if (session->options->stop_when_met && expectations_are_met(session->expectations))
        machine_state_end(&session->state, ENDING_MET, "");
    if (!loop->deadline && l0log_says_end(&session->log))
        loop->deadline = now + GRACE_SECONDS;
    if (loop->deadline && now >= loop->deadline)
        machine_state_end(&session->state, ENDING_L0, "");
}

static int milliseconds_to_wait(const struct loop *loop)
{
    double until = loop->deadline;
    double timeout = loop->session->options->timeout;
    if (timeout != 0 && (until == 0 || timeout < until))
        until = timeout;
    if (until == 0)
        return -1;
    double left = until - say_elapsed();
    return left <= 0 ? 0 : left > 1e6 ? 1000000000 : (int)(left * 1000) + 1;
}

// An emulated serial port sends each character by itself. Waking up for each one would cost the emulator more
// than the character: let some gather.
static void let_console_gather(void)
{
    const struct timespec nap = {.tv_nsec = 2000000};
    nanosleep(&nap, NULL);
}

static void turn(struct loop *loop)
{
    struct session *session = loop->session;
    unsigned long long received = loop->console.received;
    struct pollfd fds[POLL_COUNT];
    console_prepare(&loop->console, fds);
    fds[POLL_LOG] = (struct pollfd){.fd = loop->log, .events = POLLIN};
    fds[POLL_REPORT] = (struct pollfd){.fd = loop->report, .events = POLLIN};
    fds[POLL_TERMINAL] = (struct pollfd){.fd = loop->process.terminal, .events = POLLIN};
    fds[POLL_SIGNALS] = (struct pollfd){.fd = loop->signals, .events = POLLIN};
    if (poll(fds, POLL_COUNT, milliseconds_to_wait(loop)) < 0)
        return;
    switch (console_serve(&loop->console, fds)) {
    case CONSOLE_NOTHING:
        break;
    case CONSOLE_QUIT:
        session->signal = SIGINT;
        machine_state_end(&session->state, ENDING_USER, "");
        break;
    case CONSOLE_READER_GONE:
        session->signal = SIGPIPE;
        machine_state_end(&session->state, ENDING_USER, "");
        break;
    }
    if (fds[POLL_LOG].revents && read_log(loop))
        loop->deadline = 0; // L0 still talks: a panic's dump takes a while
    if (fds[POLL_REPORT].revents)
        read_report(loop);
    if (fds[POLL_TERMINAL].revents)
        read_terminal(loop);
    if (fds[POLL_SIGNALS].revents)
        read_signals(loop);
    check_time(loop);
    if (loop->console.received != received)
        let_console_gather();
}

// A machine that we end is asked first: its last report carries the final clock.
static void finish(struct loop *loop)
{
    struct session *session = loop->session;
    if (!process_has_ended(&loop->process)) {
        session->kind->ask_to_end(&loop->process);
        double until = say_elapsed() + GRACE_SECONDS / 2;
        while (!process_has_ended(&loop->process) && say_elapsed() < until) {
            struct pollfd fds[] = {
                {.fd = loop->report, .events = POLLIN},
                {.fd = loop->process.terminal, .events = POLLIN},
                {.fd = loop->signals, .events = POLLIN},
                {.fd = loop->log, .events = POLLIN},
            };
            poll(fds, 4, 100);
            if (fds[0].revents)
                read_report(loop);
            if (fds[1].revents)
                read_terminal(loop);
            if (fds[2].revents)
                read_signals(loop);
            if (fds[3].revents)
                read_log(loop);
        }
    }
    while (loop->process.terminal >= 0 && read_terminal(loop))
        ;
    process_end(&loop->process);
    while (loop->log >= 0 && read_log(loop))
        ;
    while (loop->report >= 0 && read_report(loop))
        ;
    lines_finish(&loop->report_lines, hear_report, session);
    read_signals(loop); // SIGCHLD has been dealt with
    console_drain(&loop->console, loop->signals);
    l0log_finish(&session->log);
    if (session->state.ending == ENDING_NONE)
        session->kind->explain(&session->state, loop->last_words);
}

bool session_run(struct session *session, char *why, size_t size)
{
    struct loop loop = {.session = session,
                        .log = -1,
                        .report = -1,
                        .signals = -1,
                        .process.terminal = -1,
                        .console.listener = -1,
                        .console.socket = -1};
    sigset_t old;
    session->log.copy = session->log_copy;
    session->expectations = &session->options->expectations;
    sigprocmask(SIG_BLOCK, NULL, &old);
    bool fine = open_signals(&loop);
    if (!fine)
        snprintf(why, size, "cannot watch for signals: %s", strerror(errno));
    fine = fine && console_open(&loop.console, session->expectations, why, size) && start(&loop, why, size);
    if (fine) {
        while (session->state.ending == ENDING_NONE &&
               !(loop.child_has_changed && process_has_ended(&loop.process))) {
            loop.child_has_changed = false;
            turn(&loop);
        }
        session->seconds = say_elapsed();
        finish(&loop);
    }
    say_note_console(false, false);
    console_close(&loop.console);
    process_end(&loop.process);
    close_fd(&loop.log);
    close_fd(&loop.report);
    close_fd(&loop.signals);
    sigprocmask(SIG_SETMASK, &old, NULL);
    return fine;
}
