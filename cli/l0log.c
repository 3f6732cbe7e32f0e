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

enum { FAILED_RULES_SHOWN = 12 }; // without --verbose

// "vcpu 0: VM entry: GUEST_TR_NOT_BUSY: ...": what whoever wrote L1 wants to know, if it does not go on and
// on.
static bool take_failed_rule(struct l0log *log, const char *own)
{
    unsigned vcpu;
    int length = 0;
    if (sscanf(own, "vcpu %u: VM entry: %n", &vcpu, &length) != 1 || length == 0)
        return false;
    log->failed_rule_count++;
    if (say_wants_everything() || log->failed_rule_count <= FAILED_RULES_SHOWN)
        say_stage("L1's VM entry fails on vcpu %u: %s", vcpu, own + length);
    else if (log->failed_rule_count == FAILED_RULES_SHOWN + 1)
        say_stage("L1's VM entries go on failing: --verbose or --log FILE shows all of them");
    return true;
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
    if (take_failed_rule(log, own))
        return;
    say_detail("L0: %s", own);
    if (strstr(own, ": DETECTOR ")) {
        keep_text(log->detector, own);
        log->detector_count++;
    }
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
