// SPDX-License-Identifier: MIT
// Every interleaving, breadth first: each state that was not seen before is gone back to, and every operation
// that applies there is carried out, on the engine and in the specification. The first difference found is a
// shortest one.
//
// usage: exhaustive [DEPTH [SECONDS]]    goes on until every interleaving of DEPTH operations, or of as many
// as
//                                        SECONDS suffice for, was explored
#include "life.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define DEPTH_LIMIT 255

static const char *const words[OPERATION_COUNT] = {
#define OPERATION(name, words, who) [DO_##name] = (words),
    OPERATIONS(OPERATION)
#undef OPERATION
};

struct state {
    uint32_t before; // the state that it was first reached from
    uint8_t operation;
    struct specified specified;
};

static struct {
    struct state *state;
    size_t count, room;
    struct fingerprint *seen; // a hash table
    size_t seen_room;
    uint64_t transitions;
    unsigned depth, depth_wanted;
    double seconds_wanted;
    struct timespec began;
    size_t at;     // the state being expanded, and
    int operation; // the operation carried out there; -1: on the way to it
} search = {.depth_wanted = 7, .seconds_wanted = 1e9};

static struct snapshot *base, *here;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - search.began.tv_sec) + 1e-9 * (double)(now.tv_nsec - search.began.tv_nsec);
}

// --- what was seen

static void seen_grow(void)
{
    struct fingerprint *old = search.seen;
    size_t old_room = search.seen_room;
    search.seen_room = old_room ? 2 * old_room : 1 << 16;
    search.seen = calloc(search.seen_room, sizeof(*search.seen));
    for (size_t i = 0; i < old_room; i++) {
        if (old[i].low == 0 && old[i].high == 0)
            continue;
        size_t at = old[i].low & (search.seen_room - 1);
        while (search.seen[at].low != 0 || search.seen[at].high != 0)
            at = (at + 1) & (search.seen_room - 1);
        search.seen[at] = old[i];
    }
    free(old);
}

static bool seen_add(struct fingerprint f)
{
    if (2 * search.count >= search.seen_room)
        seen_grow();
    size_t at = f.low & (search.seen_room - 1);
    for (; search.seen[at].low != 0 || search.seen[at].high != 0; at = (at + 1) & (search.seen_room - 1))
        if (search.seen[at].low == f.low && search.seen[at].high == f.high)
            return false;
    search.seen[at] = f;
    return true;
}

static void state_add(size_t before, enum operation operation, const struct specified *specified)
{
    if (search.count == search.room) {
        search.room = search.room ? 2 * search.room : 1 << 12;
        search.state = realloc(search.state, search.room * sizeof(*search.state));
    }
    search.state[search.count++] =
        (struct state){.before = (uint32_t)before, .operation = (uint8_t)operation, .specified = *specified};
}

static unsigned path_to(size_t state, enum operation *path)
{
    unsigned length = 0;
    for (size_t at = state; at != 0; at = search.state[at].before)
        length++;
    unsigned i = length;
    for (size_t at = state; at != 0; at = search.state[at].before)
        path[--i] = search.state[at].operation;
    return length;
}

// --- failure

static void print_path(void)
{
    enum operation path[DEPTH_LIMIT];
    unsigned length = path_to(search.at, path);
    for (unsigned i = 0; i < length; i++)
        printf("#   %2u. %s\n", i + 1, words[path[i]]);
    if (search.operation >= 0)
        printf("#   %2u. %s\n", length + 1, words[search.operation]);
}

static _Noreturn void failed(const char *format, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void failed(const char *format, ...)
{
    va_list arguments;
    printf("not ok 1 - exhaustive exploration\n# ");
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n# after these operations:\n");
    print_path();
    fflush(stdout);
    _Exit(1);
}

static const char *describe(struct expected e, char *text, size_t size)
{
    static const char *const names[] = {
        [RESULT_SUCCEED] = "success",        [RESULT_FAIL_INVALID] = "VMfailInvalid",
        [RESULT_FAIL_VALID] = "VMfailValid", [RESULT_UNDEFINED_OPCODE] = "#UD",
        [RESULT_EXIT] = "a VM exit to L1",   [RESULT_IN_L2] = "L2 runs"};
    snprintf(text, size, "%s (error %u, exit reason %#x)", names[e.result], e.error, e.reason);
    return text;
}

// --- the search

static void step(enum operation operation, struct specified *specified, bool judge)
{
    struct specified before = *specified;
    struct expected right = specified_step(specified, operation);
    struct expected seen = actor_step(operation, &before);
    if (!judge)
        return;
    char a[80], b[80];
    if (right.result != seen.result || right.error != seen.error || right.reason != seen.reason)
        failed("L1 sees %s, and should see %s", describe(seen, a, sizeof(a)), describe(right, b, sizeof(b)));
    const char *problem = actor_invariant();
    if (problem != NULL)
        failed("%s", problem);
}

static void go_to(size_t state)
{
    enum operation path[DEPTH_LIMIT];
    unsigned length = path_to(state, path);
    struct specified specified = search.state[0].specified;
    snapshot_restore(base);
    for (unsigned i = 0; i < length; i++)
        step(path[i], &specified, false);
    snapshot_take(here);
}

static void try_operation(size_t state, enum operation operation)
{
    struct specified specified = search.state[state].specified;
    if (!specified_applies(&specified, operation))
        return;
    search.operation = (int)operation;
    snapshot_restore(here);
    step(operation, &specified, true);
    search.transitions++;
    if (!seen_add(snapshot_fingerprint(&specified)))
        return;
    state_add(state, operation, &specified);
    const char *problem = specified.in_l2 ? NULL : actor_probe(&specified);
    if (problem != NULL)
        failed("%s", problem);
}

static void explore(void)
{
    size_t level_end = 1; // of the states that are search.depth operations away
    for (size_t state = 0; state < search.count; state++) {
        if (state == level_end) {
            search.depth++;
            printf("# depth %2u: %8zu states, %9llu transitions, %6.1f s\n", search.depth, state,
                   (unsigned long long)search.transitions, seconds());
            fflush(stdout);
            level_end = search.count;
        }
        if (search.depth == search.depth_wanted || seconds() > search.seconds_wanted)
            return;
        search.at = state;
        search.operation = -1;
        go_to(state);
        for (enum operation operation = 0; operation < OPERATION_COUNT; operation++)
            try_operation(state, operation);
    }
    printf("# there are no other states\n");
}

int main(int count, char **argument)
{
    if (count > 1)
        search.depth_wanted = (unsigned)atoi(argument[1]);
    if (count > 2)
        search.seconds_wanted = atof(argument[2]);
    printf("1..1\n");
    actor_begin();
    base = snapshot_new();
    here = snapshot_new();
    snapshot_begin();
    snapshot_take(base);
    clock_gettime(CLOCK_MONOTONIC, &search.began);
    struct specified first = {.current = -1};
    state_add(0, 0, &first);
    seen_add(snapshot_fingerprint(&first));
    const char *stopped;
    if (world_stops(explore, &stopped))
        failed("%s", stopped);
    printf("# %zu states, %llu transitions, complete to depth %u, %.1f s\n", search.count,
           (unsigned long long)search.transitions, search.depth, seconds());
    printf("ok 1 - exhaustive exploration\n");
    fflush(stdout);
    _Exit(0); // the world is in the middle of something
}
