// SPDX-License-Identifier: MIT
#include "console.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "say.h"

static const char CTRL_A = 1, CTRL_C = 3;
enum { POLL_SOCKET, POLL_INPUT, POLL_OUTPUT };

static bool same_file(int a, int b)
{
    struct stat first, second;
    return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_rdev == second.st_rdev;
}

// Raw, but for output: a kernel without a terminal driver ends its lines with a bare newline.
static void take_terminal(struct console *console)
{
    if (!isatty(STDIN_FILENO))
        return;
    if (tcgetpgrp(STDIN_FILENO) != getpgrp()) { // in the background: the terminal is somebody else's
        console->input_is_open = false;
        return;
    }
    if (tcgetattr(STDIN_FILENO, &console->saved))
        return;
    struct termios raw = console->saved;
    raw.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    raw.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    console->terminal_is_raw = tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
}

static bool open_port(struct console *console)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    console->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (console->listener < 0 || bind(console->listener, (struct sockaddr *)&address, sizeof(address)) ||
        listen(console->listener, 1) || getsockname(console->listener, (struct sockaddr *)&address, &length))
        return false;
    console->port = ntohs(address.sin_port);
    return true;
}

bool console_open(struct console *console, struct expectations *expectations, char *why, size_t size)
{
    *console =
        (struct console){.listener = -1, .socket = -1, .expectations = expectations, .input_is_open = true};
    if (!open_port(console)) {
        snprintf(why, size, "cannot open a TCP port on 127.0.0.1 for L1's console: %s", strerror(errno));
        console_close(console);
        return false;
    }
    console->shares_terminal =
        isatty(STDOUT_FILENO) && isatty(STDERR_FILENO) && same_file(STDOUT_FILENO, STDERR_FILENO);
    take_terminal(console);
    return true;
}

void console_close(struct console *console)
{
    if (console->terminal_is_raw)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &console->saved);
    console->terminal_is_raw = false;
    if (console->listener >= 0)
        close(console->listener);
    if (console->socket >= 0)
        close(console->socket);
    console->listener = console->socket = -1;
}

// Any user of this computer can connect to the port before the emulator does. /proc/net/tcp names the owner
// of the other end: "sl local_address rem_address st tx:rx tr:when retrnsmt uid ...".
static bool peer_is_ours(int socket)
{
    struct sockaddr_in peer = {0}, own = {0};
    socklen_t length = sizeof(peer);
    if (getpeername(socket, (struct sockaddr *)&peer, &length))
        return false;
    length = sizeof(own);
    if (getsockname(socket, (struct sockaddr *)&own, &length))
        return false;
    FILE *table = fopen("/proc/net/tcp", "re");
    if (!table)
        return true; // no way to know
    bool ours = false;
    char line[512];
    while (fgets(line, sizeof(line), table)) {
        unsigned local = 0, remote = 0, uid = 0;
        if (sscanf(line, " %*d: %*x:%x %*x:%x %*x %*x:%*x %*x:%*x %*x %u", &local, &remote, &uid) == 3 &&
            local == ntohs(peer.sin_port) && remote == ntohs(own.sin_port))
            ours |= uid == getuid();
    }
    fclose(table);
    return ours;
}

static void accept_machine(struct console *console)
{
    int socket = accept4(console->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (socket < 0)
        return;
    if (!peer_is_ours(socket)) {
        close(socket);
        return;
    }
    console->socket = socket;
    close(console->listener);
    console->listener = -1;
}

static bool buffer_is_empty(const struct console_buffer *buffer)
{
    return buffer->start == buffer->end;
}

void console_prepare(const struct console *console, struct pollfd *fds)
{
    bool connected = console->socket >= 0;
    fds[POLL_SOCKET] = (struct pollfd){.fd = connected ? console->socket : console->listener};
    if (!connected || buffer_is_empty(&console->to_user))
        fds[POLL_SOCKET].events |= POLLIN;
    if (connected && !buffer_is_empty(&console->to_l1))
        fds[POLL_SOCKET].events |= POLLOUT;
    if (!fds[POLL_SOCKET].events)
        fds[POLL_SOCKET].fd = -1; // or a hang-up would wake us again and again
    bool listen_to_user = console->input_is_open && connected && buffer_is_empty(&console->to_l1);
    // The terminal's keys are always heard: Ctrl-C has to work before L1 listens.
    if (console->terminal_is_raw)
        listen_to_user = console->input_is_open;
    fds[POLL_INPUT] = (struct pollfd){.fd = listen_to_user ? STDIN_FILENO : -1, .events = POLLIN};
    bool write_to_user = !buffer_is_empty(&console->to_user);
    fds[POLL_OUTPUT] = (struct pollfd){.fd = write_to_user ? STDOUT_FILENO : -1, .events = POLLOUT};
}

static void show_keys(void)
{
    say_plain(
        "Ctrl-C or Ctrl-A x: end the machine; Ctrl-A c: send Ctrl-C to L1; Ctrl-A a: send Ctrl-A to L1");
}

// What was typed or piped in becomes what L1 gets; on a terminal, our keys are taken out. What L1 has no room
// for is dropped, like on a serial line: nobody types 4 KiB ahead.
static enum console_event take_input(struct console *console, const char *typed, size_t size)
{
    struct console_buffer *out = &console->to_l1;
    for (size_t i = 0; i < size; i++) {
        char c = typed[i];
        if (console->terminal_is_raw) {
            if (console->escaped) {
                console->escaped = false;
                if (c == 'x')
                    return CONSOLE_QUIT;
                if (c == 'h' || c == '?') {
                    show_keys();
                    continue;
                }
                c = c == 'c' ? CTRL_C : c == 'a' ? CTRL_A : c;
            } else if (c == CTRL_C) {
                return CONSOLE_QUIT;
            } else if (c == CTRL_A) {
                console->escaped = true;
                continue;
            }
        }
        if (out->end < sizeof(out->data))
            out->data[out->end++] = c;
    }
    return CONSOLE_NOTHING;
}

static enum console_event read_input(struct console *console)
{
    char typed[1024]; // a pipe's bytes all fit: it is read only when to_l1 is empty
    ssize_t got = read(STDIN_FILENO, typed, sizeof(typed));
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return CONSOLE_NOTHING;
    if (got <= 0) {
        console->input_is_open = false;
        return CONSOLE_NOTHING;
    }
    return take_input(console, typed, (size_t)got);
}

// poll() promises that this much can be written without blocking, where it promises anything.
enum { WRITE_AT_ONCE = 4096 };

// False if the other side has gone.
static bool buffer_write(struct console_buffer *buffer, int fd)
{
    size_t size = buffer->end - buffer->start;
    ssize_t put = write(fd, buffer->data + buffer->start, size < WRITE_AT_ONCE ? size : WRITE_AT_ONCE);
    if (put < 0)
        return errno == EAGAIN || errno == EINTR;
    buffer->start += (size_t)put;
    if (buffer->start == buffer->end)
        buffer->start = buffer->end = 0;
    return true;
}

static void match_line(void *context, const char *line)
{
    struct console *console = context;
    expectations_look(console->expectations, line, false);
}

// Reads what the machine has sent. False if nothing will ever come again.
static bool read_machine(struct console *console)
{
    struct console_buffer *in = &console->to_user;
    ssize_t got = read(console->socket, in->data, sizeof(in->data));
    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    in->start = 0;
    in->end = (size_t)got;
    console->received += (size_t)got;
    lines_feed(&console->lines, in->data, in->end, match_line, console);
    if (console->lines.length)
        expectations_look(console->expectations, console->lines.text, true);
    say_note_console(console->shares_terminal, console->lines.length != 0);
    return got > 0;
}

enum console_event console_serve(struct console *console, const struct pollfd *fds)
{
    const short readable = POLLIN | POLLHUP | POLLERR;
    if (fds[POLL_OUTPUT].revents && !buffer_write(&console->to_user, STDOUT_FILENO))
        return CONSOLE_READER_GONE;
    if (fds[POLL_SOCKET].revents) {
        if (console->socket < 0) {
            accept_machine(console);
        } else {
            bool alive = true;
            if ((fds[POLL_SOCKET].revents & readable) && buffer_is_empty(&console->to_user))
                alive = read_machine(console);
            if (alive && (fds[POLL_SOCKET].revents & POLLOUT))
                alive = buffer_write(&console->to_l1, console->socket);
            if (!alive) {
                close(console->socket);
                console->socket = -1;
            }
        }
    }
    return fds[POLL_INPUT].revents ? read_input(console) : CONSOLE_NOTHING;
}

// False if somebody lost patience with a reader that does not read.
static bool wait_for_reader(int give_up)
{
    struct pollfd fds[] = {{.fd = STDOUT_FILENO, .events = POLLOUT}, {.fd = give_up, .events = POLLIN}};
    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        ;
    return !fds[1].revents;
}

void console_drain(struct console *console, int give_up)
{
    bool reader = true;
    int tries = 5;
    for (;;) {
        while (reader && !buffer_is_empty(&console->to_user))
            reader = wait_for_reader(give_up) && buffer_write(&console->to_user, STDOUT_FILENO);
        if (console->socket < 0)
            break;
        struct pollfd fd = {.fd = console->socket, .events = POLLIN};
        if (poll(&fd, 1, 100) == 0 && --tries == 0)
            break;
        if (fd.revents && !read_machine(console))
            break;
    }
    lines_finish(&console->lines, match_line, console);
}
