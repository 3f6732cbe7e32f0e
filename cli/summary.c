// SPDX-License-Identifier: MIT
#include "summary.h"

#include <stdlib.h>
#include <string.h>

#include "say.h"
#include "status.h"

enum { ROWS_MAX = 14 }; // reasons to list without --verbose

// 1234567 as "1,234,567". The texts rotate: a few can be used in one call.
static const char *with_commas(unsigned long long number)
{
    static char texts[4][32];
    static unsigned turn;
    char digits[24];
    char *out = texts[turn++ % 4];
    char *text = out;
    int length = snprintf(digits, sizeof(digits), "%llu", number);
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0)
            *out++ = ',';
        *out++ = digits[i];
    }
    *out = '\0';
    return text;
}

struct row {
    char name[48];
    unsigned long long from_l1, from_l2;
};

static int compare_rows(const void *a, const void *b)
{
    const struct row *first = a, *second = b;
    unsigned long long x = first->from_l1 + first->from_l2, y = second->from_l1 + second->from_l2;
    return x < y ? 1 : x > y ? -1 : strcmp(first->name, second->name);
}

static size_t make_rows(const struct l0log *log, struct row *rows)
{
    size_t count = 0;
    for (size_t i = 0; i < log->exit_count; i++) {
        const struct l0log_exit *exit = &log->exits[i];
        size_t k = 0;
        while (k < count && strcmp(rows[k].name, exit->name))
            k++;
        if (k == count) {
            rows[count] = (struct row){.from_l1 = 0};
            snprintf(rows[count++].name, sizeof(rows[0].name), "%s", exit->name);
        }
        *(exit->level == 1 ? &rows[k].from_l1 : &rows[k].from_l2) += exit->count;
    }
    qsort(rows, count, sizeof(rows[0]), compare_rows);
    return count;
}

static void say_exits(const struct l0log *log)
{
    struct row rows[L0LOG_EXITS_MAX];
    struct row sum = {.name = "all"}, rest = {.name = "other reasons"};
    size_t count = make_rows(log, rows);
    if (!count)
        return;
    size_t listed = say_wants_everything() || count <= ROWS_MAX ? count : ROWS_MAX - 1;
    say_plain("  %-40s %14s %14s", "exits to Plastron, by reason", "from L1", "from L2");
    for (size_t i = 0; i < count; i++) {
        sum.from_l1 += rows[i].from_l1;
        sum.from_l2 += rows[i].from_l2;
        if (i < listed) {
            say_plain("  %-40s %14s %14s", rows[i].name, with_commas(rows[i].from_l1),
                      with_commas(rows[i].from_l2));
        } else {
            rest.from_l1 += rows[i].from_l1;
            rest.from_l2 += rows[i].from_l2;
        }
    }
    if (listed < count)
        say_plain("  %-40s %14s %14s", rest.name, with_commas(rest.from_l1), with_commas(rest.from_l2));
    say_plain("  %-40s %14s %14s", sum.name, with_commas(sum.from_l1), with_commas(sum.from_l2));
}

static void say_expectations(const struct session *session)
{
    const struct expectations *expectations = session->expectations;
    for (size_t i = 0; i < expectations->count; i++) {
        if (expectations->all[i].met)
            say_plain("  seen:     %s", expectations->all[i].text);
        else
            say_error("never seen: %s", expectations->all[i].text);
    }
}

void summary_say(const struct session *session, const char *sentence, int status)
{
    // On Bochs' one processor a tick of the clock is an instruction, but for the time in which it was halted.
    // On more it is the average of what they execute.
    unsigned long long clock = session->state.ticks ? session->state.ticks : session->log.tsc;
    if (status == STATUS_OK)
        say_plain("%s", sentence);
    else
        say_error("%s", sentence);
    if (clock)
        say_plain("  %.1f s of wall time; %s million instructions%s, halted time included", session->seconds,
                  with_commas((clock + 500000) / 1000000),
                  session->options->processors > 1 ? " on each processor" : "");
    else
        say_plain("  %.1f s of wall time", session->seconds);
    say_expectations(session);
    say_exits(&session->log);
}
