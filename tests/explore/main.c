// SPDX-License-Identifier: MIT
// explore [STEPS] [SEED]: runs random scripts until so many operations of L1 and L2 were executed, and says
// what was reached; or shows the first failure, made as short as possible. EXPLORE_SCRIPT: steps a script;
// EXPLORE_NO_MINIMISE: ... as it is.
#include "explore.h"
#include <stdlib.h>
#include <time.h>

#define SCRIPT_STEPS 20000

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t argument(int count, char **arguments, int index, uint64_t otherwise)
{
    return index < count ? strtoull(arguments[index], NULL, 0) : otherwise;
}

static void report(struct script *script, struct result *result, uint64_t seed)
{
    printf("seed %llu, ", (unsigned long long)seed);
    print_failure(stdout, script, result);
    printf("(%zu steps; making it shorter)\n", script->count);
    fflush(stdout);
    if (getenv("EXPLORE_NO_MINIMISE") != NULL)
        return;
    minimise(script, result);
    printf("\nminimised to %zu steps, which fail ", script->count);
    print_failure(stdout, script, result);
    print_script(stdout, script);
}

int main(int count, char **arguments)
{
    uint64_t wanted = argument(count, arguments, 1, 10000000), first = argument(count, arguments, 2, 1), seed;
    const char *size = getenv("EXPLORE_SCRIPT");
    size_t steps = size != NULL ? strtoull(size, NULL, 0) : SCRIPT_STEPS;
    struct script script = {.step = calloc(steps, sizeof(struct step))};
    double began = now();
    for (seed = first; explore_operations() < wanted; seed++) {
        struct result result;
        uint64_t before = explore_operations();
        generate_begin(&script, seed, steps);
        explore_run(&script, generate_step, &result);
        cover_script(&script, &result);
        if (getenv("EXPLORE_VERBOSE") != NULL)
            printf("# seed %llu: %zu steps%s%s\n", (unsigned long long)seed, script.count,
                   result.verdict == VERDICT_UNDEFINED ? ", then " : "",
                   result.verdict == VERDICT_UNDEFINED ? result.sentence : "");
        if (result.verdict == VERDICT_DIFFERENT || result.verdict == VERDICT_STOPPED) {
            printf("not ok - after %llu operations\n", (unsigned long long)before + result.observation);
            report(&script, &result, seed);
            return 1;
        }
    }
    double took = now() - began;
    printf("ok - seeds %llu to %llu: %llu operations of L1 and L2 in %.1f s of a core, %.0f a second, each "
           "bare and "
           "nested\n",
           (unsigned long long)first, (unsigned long long)(seed - 1),
           (unsigned long long)explore_operations(), took, (double)explore_operations() / took);
    cover_print(stdout);
    free(script.step);
    return 0;
}
