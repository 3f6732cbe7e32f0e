// SPDX-License-Identifier: MIT
// Cuts a byte stream into lines. Carriage returns are dropped; a line longer than the buffer is cut in two.
#ifndef PLASTRON_CLI_LINES_H
#define PLASTRON_CLI_LINES_H

#include <stddef.h>

#define LINES_MAX 4096

struct lines {
    char text[LINES_MAX]; // the line that is still open, always terminated
    size_t length;
};

typedef void lines_handler(void *context, const char *line);

// Calls the handler once for each line that `data` completes.
void lines_feed(struct lines *lines, const char *data, size_t size, lines_handler *handler, void *context);

// Hands over what is left without a newline, if anything.
void lines_finish(struct lines *lines, lines_handler *handler, void *context);

#endif
