// SPDX-License-Identifier: MIT
#include "l0log.h"

#include <stdlib.h>
#include <string.h>

#include "say.h"

static const char *text_after(const char *line, const char *prefix)
{
    size_t length = strlen(prefix);
    return strncmp(line, prefix, length) == 0 ? line + length : NULL;
}

// The first one counts: what follows a panic is its consequence.
static void keep_text(char *kept, const char *text)
{
    if (!*kept)
        snprintf(kept, L0LOG_TEXT_MAX, "%s", text);
}

static void take_exit(struct l0log *log, const char *text)
{
    struct l0log_exit new;
    if (sscanf(text, "level=%u reason=%u name=%47s count=%llu", &new.level, &new.reason, new.name,
               &new.count) != 4)
        return;
    for (size_t i = 0; i < log->exit_count; i++) {
        if (log->exits[i].level == new.level && log->exits[i].reason == new.reason) {
            log->exits[i].count += new.count;
            return;
        }
    }
    if (log->exit_count < L0LOG_EXITS_MAX)
        log->exits[log->exit_count++] = new;
}

static void take_line(void *context, const char *line)
{
    struct l0log *log = context;
    const char *text;
    if (log->copy) {
        fprintf(log->copy, "%s\n", line);
        fflush(log->copy); // somebody may be watching it
    }
    if ((text = text_after(line, "error: "))) { // GRUB's
        keep_text(log->grub_error, text);
        say_detail("GRUB: %s", line);
        return;
    }
    const char *own = text_after(line, "plastron: ");
    if (!own) {
        say_detail("COM2: %s", line);
        return;
    }
    if ((text = text_after(own, "stage: "))) {
        say_stage("%s", text);
        return;
    }
    say_detail("L0: %s", own);
    if ((text = text_after(own, "panic: ")))
        keep_text(log->panic, text);
    else if ((text = text_after(own, "refuse: ")))
        keep_text(log->refuse, text);
    else if ((text = text_after(own, "stop: ")))
        keep_text(log->stop, text);
    else if ((text = text_after(own, "stat: tsc=")))
        log->tsc = strtoull(text, NULL, 10);
    else if ((text = text_after(own, "exit: ")))
        take_exit(log, text);
}

void l0log_feed(struct l0log *log, const char *data, size_t size)
{
    lines_feed(&log->lines, data, size, take_line, log);
}

void l0log_finish(struct l0log *log)
{
    lines_finish(&log->lines, take_line, log);
}

bool l0log_says_end(const struct l0log *log)
{
    return *log->panic || *log->refuse || *log->stop;
}
