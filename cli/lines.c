// SPDX-License-Identifier: MIT
#include "lines.h"

static void lines_end(struct lines *lines, lines_handler *handler, void *context)
{
    lines->text[lines->length] = '\0';
    lines->length = 0;
    handler(context, lines->text);
    lines->text[0] = '\0';
}

void lines_feed(struct lines *lines, const char *data, size_t size, lines_handler *handler, void *context)
{
    for (size_t i = 0; i < size; i++) {
        if (data[i] == '\n') {
            lines_end(lines, handler, context);
            continue;
        }
        if (data[i] == '\r' || data[i] == '\0')
            continue;
        if (lines->length == sizeof(lines->text) - 1)
            lines_end(lines, handler, context);
        lines->text[lines->length++] = data[i];
    }
    lines->text[lines->length] = '\0';
}

void lines_finish(struct lines *lines, lines_handler *handler, void *context)
{
    if (lines->length)
        lines_end(lines, handler, context);
}
