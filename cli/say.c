// SPDX-License-Identifier: MIT
#include "say.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

static enum say_level say_level = SAY_STAGES;
static struct timespec say_clock;
static bool say_line_is_open;

void say_set_level(enum say_level level)
{
    say_level = level;
}

bool say_wants_everything(void)
{
    return say_level >= SAY_EVERYTHING;
}

void say_start_clock(void)
{
    clock_gettime(CLOCK_MONOTONIC, &say_clock);
}

double say_elapsed(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - say_clock.tv_sec) + (double)(now.tv_nsec - say_clock.tv_nsec) / 1e9;
}

void say_note_console(bool shared_terminal, bool line_is_open)
{
    say_line_is_open = shared_terminal && line_is_open;
}

// One write per line: stderr is unbuffered, and a line must not be torn by what L1 prints.
static void say_line(const char *prefix, const char *format, va_list arguments)
{
    char line[2048];
    vsnprintf(line, sizeof(line), format, arguments);
    fprintf(stderr, "%s%s%s\n", say_line_is_open ? "\n" : "", prefix, line);
    say_line_is_open = false;
}

void say_stage(const char *format, ...)
{
    if (say_level < SAY_STAGES)
        return;
    char prefix[64];
    snprintf(prefix, sizeof(prefix), "plastron: [%6.1f s] ", say_elapsed());
    va_list arguments;
    va_start(arguments, format);
    say_line(prefix, format, arguments);
    va_end(arguments);
}

void say_plain(const char *format, ...)
{
    if (say_level < SAY_STAGES)
        return;
    va_list arguments;
    va_start(arguments, format);
    say_line("plastron: ", format, arguments);
    va_end(arguments);
}

void say_detail(const char *format, ...)
{
    if (say_level < SAY_EVERYTHING)
        return;
    va_list arguments;
    va_start(arguments, format);
    say_line("plastron: ", format, arguments);
    va_end(arguments);
}

void say_error(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say_line("plastron: error: ", format, arguments);
    va_end(arguments);
}
