// SPDX-License-Identifier: MIT
// L1's console: COM1, connected to the user's standard input and output.
//
// The machine connects to a TCP port of ours on the loopback interface: of all the connections that Bochs
// offers, this is the one that goes both ways and loses nothing, because it blocks when we do not read.
#ifndef PLASTRON_CLI_CONSOLE_H
#define PLASTRON_CLI_CONSOLE_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <termios.h>

#include "expect.h"
#include "lines.h"

struct console_buffer {
    char data[4096];
    size_t start, end;
};

struct console {
    int listener, socket; // -1: closed
    int port;
    struct expectations *expectations;
    struct lines lines; // for the expectations
    struct console_buffer to_l1, to_user;
    unsigned long long received;
    bool input_is_open;
    bool terminal_is_raw;
    bool shares_terminal; // standard output and standard error are the same terminal
    bool escaped;         // Ctrl-A was typed
    struct termios saved;
};

enum console_event { CONSOLE_NOTHING, CONSOLE_QUIT, CONSOLE_READER_GONE };

enum { CONSOLE_POLL_COUNT = 3 };

// Opens the port and takes over the terminal, if standard input is one. False with `why`.
bool console_open(struct console *console, struct expectations *expectations, char *why, size_t size);

// Gives the terminal back, closes everything. Harmless when closed.
void console_close(struct console *console);

// Fills CONSOLE_POLL_COUNT entries for poll(); console_serve does what they turned out to allow.
void console_prepare(const struct console *console, struct pollfd *fds);
enum console_event console_serve(struct console *console, const struct pollfd *fds);

// Once the machine has ended: reads and writes what is still under way. Stops when the file descriptor
// `give_up` is readable and standard output is not ready.
void console_drain(struct console *console, int give_up);

#endif
