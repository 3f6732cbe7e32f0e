// SPDX-License-Identifier: MIT
// A text that the user gave, and where in it something is: messages about it name line and column.
#ifndef PLASTRON_CLI_SOURCE_H
#define PLASTRON_CLI_SOURCE_H

#include <stdbool.h>
#include <stddef.h>

#define SOURCE_SIZE_MAX ((size_t)64 << 20)

struct source {
    const char *name;
    char *text; // `size` bytes, which may be anything, and a NUL behind them
    size_t size;
    size_t line_start; // memo of source_line: where the line that it found last starts
    unsigned line;
};

// Reads a file, or standard input if the path is "-". False, and said why, when that cannot be done or when
// it cannot be a text.
bool source_read(struct source *source, const char *path);
// If the text is as mail programs send it ("quoted-printable": =3D for =, long lines ended by =), makes it
// readable; each line keeps its number.
void source_unquote_mail(struct source *source);
void source_free(struct source *source);

// The line of an offset, from 1. Cheap when the offsets asked for go up.
unsigned source_line(struct source *source, size_t offset);

// Says "FILE:LINE:COLUMN: ..." as an error.
void source_error(struct source *source, size_t offset, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
