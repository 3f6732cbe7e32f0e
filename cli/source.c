// SPDX-License-Identifier: MIT
#include "source.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "say.h"

static bool read_all(struct source *source, FILE *file)
{
    size_t room = 0;
    for (;;) {
        if (source->size + 1 >= room) {
            room = room ? 2 * room : 65536;
            char *text = realloc(source->text, room);
            if (!text) {
                say_error("%s: out of memory", source->name);
                return false;
            }
            source->text = text;
        }
        size_t got = fread(source->text + source->size, 1, room - source->size - 1, file);
        source->size += got;
        if (source->size > SOURCE_SIZE_MAX) {
            say_error("%s: more than %zu MiB; cut out the part that matters", source->name,
                      SOURCE_SIZE_MAX >> 20);
            return false;
        }
        if (got == 0)
            break;
    }
    source->text[source->size] = '\0';
    if (ferror(file)) {
        say_error("%s: %s", source->name, strerror(errno));
        return false;
    }
    return true;
}

// A byte-order mark says what the rest is.
static bool drop_mark(struct source *source)
{
    if (source->size >= 3 && memcmp(source->text, "\xef\xbb\xbf", 3) == 0)
        memset(source->text, ' ', 3);
    if (source->size >= 2 &&
        (memcmp(source->text, "\xff\xfe", 2) == 0 || memcmp(source->text, "\xfe\xff", 2) == 0)) {
        source_error(source, 0, "this is UTF-16; save it as UTF-8 or ASCII");
        return false;
    }
    const char *nul = memchr(source->text, '\0', source->size);
    if (nul) {
        source_error(source, (size_t)(nul - source->text), "a NUL byte: this is not a text");
        return false;
    }
    return true;
}

bool source_read(struct source *source, const char *path)
{
    bool is_input = strcmp(path, "-") == 0;
    *source = (struct source){.name = is_input ? "standard input" : path, .line = 1};
    FILE *file = is_input ? stdin : fopen(path, "rb");
    if (!file) {
        say_error("%s: %s", path, strerror(errno));
        return false;
    }
    bool fine = read_all(source, file);
    if (!is_input)
        fclose(file);
    return fine && drop_mark(source);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

void source_unquote_mail(struct source *source)
{
    if (!strstr(source->text, "=3D0x"))
        return;
    char *to = source->text;
    const char *from = source->text, *end = source->text + source->size;
    size_t broken = 0; // line ends that were taken out of this line: they come back behind it
    while (from < end) {
        const char *next = from + 1 + (from[1] == '\r');
        if (*from == '=' && *next == '\n') {
            broken++;
            from = next + 1;
        } else if (*from == '=' && hex_digit(from[1]) >= 2 && hex_digit(from[2]) >= 0) {
            *to++ = (char)(hex_digit(from[1]) << 4 | hex_digit(from[2]));
            from += 3;
        } else {
            bool line_ends = *from == '\n';
            *to++ = *from++;
            for (; line_ends && broken > 0; broken--)
                *to++ = '\n';
        }
    }
    source->size = (size_t)(to - source->text);
    *to = '\0';
}

void source_free(struct source *source)
{
    free(source->text);
    source->text = NULL;
}

unsigned source_line(struct source *source, size_t offset)
{
    if (offset < source->line_start) {
        source->line_start = 0;
        source->line = 1;
    }
    while (source->line_start < offset) {
        const char *end = memchr(source->text + source->line_start, '\n', offset - source->line_start);
        if (!end)
            break;
        source->line_start = (size_t)(end - source->text) + 1;
        source->line++;
    }
    return source->line;
}

void source_error(struct source *source, size_t offset, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    for (char *c = text; *c; c++) // a text may hold what a terminal takes for commands
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    unsigned line = source_line(source, offset);
    say_error("%s:%u:%zu: %s", source->name, line, offset - source->line_start + 1, text);
}
