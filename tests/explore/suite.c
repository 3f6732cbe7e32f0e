// SPDX-License-Identifier: MIT
// Random exploration as a suite of `make test`: a fixed number of scripts on every kind of processor, under
// sanitizers. EXPLORE_SCRIPTS: how many of each. A failure shows the seed, what differs, and a short script.
#include "explore.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define STEPS 2500

struct kind {
    uint64_t first_seed;
    const struct processor *processor;
    unsigned vcpu_count, cpu_count;
    uint32_t hidden_secondary;
    bool without_vmcs_shadowing;
};

static unsigned scripts(void)
{
    const char *count = getenv("EXPLORE_SCRIPTS");
    return count != NULL ? (unsigned)strtoul(count, NULL, 0) : 8;
}

static void explore(void **state)
{
    const struct kind *kind = *state;
    struct script script = {.step = calloc(STEPS, sizeof(struct step))};
    for (uint64_t seed = kind->first_seed; seed < kind->first_seed + scripts(); seed++) {
        struct result result;
        generate_begin(&script, seed, STEPS);
        struct world_config *config = &script.config;
        config->processor = kind->processor;
        config->vcpu_count = kind->vcpu_count;
        config->cpu_count = kind->cpu_count;
        config->hidden_secondary = kind->hidden_secondary;
        config->without_vmcs_shadowing = kind->without_vmcs_shadowing;
        explore_run(&script, generate_step, &result);
        cover_script(&script, &result);
        if (result.verdict == VERDICT_SAME || result.verdict == VERDICT_UNDEFINED)
            continue;
        fprintf(stderr, "seed %llu, ", (unsigned long long)seed);
        print_failure(stderr, &script, &result);
        minimise(&script, &result);
        fprintf(stderr, "made shorter: ");
        print_failure(stderr, &script, &result);
        print_script(stderr, &script);
        free(script.step);
        fail_msg("what L1 and L2 see under the engine differs from the bare machine");
    }
    free(script.step);
}

#define EXPLORE(text, ...)                                                                                   \
    {                                                                                                        \
        text, explore, NULL, NULL, &(struct kind)                                                            \
        {                                                                                                    \
            __VA_ARGS__                                                                                      \
        }                                                                                                    \
    }

int main(void)
{
    const uint32_t no_ept = SECONDARY_ENABLE_EPT | SECONDARY_UNRESTRICTED_GUEST | SECONDARY_ENABLE_PML |
                            SECONDARY_EPT_VIOLATION_VE | SECONDARY_ENABLE_VMFUNC |
                            SECONDARY_MODE_BASED_EXECUTE_CONTROL;
    const struct CMUnitTest tests[] = {
        EXPLORE("rich processor", 1000, &processor_rich, 1, 1, 0, false),
        EXPLORE("rich processors, moving", 2000, &processor_rich, 1, 3, 0, false),
        EXPLORE("two virtual processors on three", 3000, &processor_rich, 2, 3, 0, false),
        EXPLORE("without VMCS shadowing", 4000, &processor_rich, 1, 2, 0, true),
        EXPLORE("sparse processor", 5000, &processor_sparse, 1, 2, 0, false),
        EXPLORE("processor without VPID", 6000, &processor_no_vpid, 1, 2, 0, false),
        EXPLORE("L1 without EPT", 7000, &processor_rich, 1, 2, no_ept, false),
        EXPLORE("L1 without VPID", 8000, &processor_rich, 2, 2, SECONDARY_ENABLE_VPID, false),
    };
    int failed = cmocka_run_group_tests_name("random exploration", tests, NULL, NULL);
    cover_print(stderr);
    return failed;
}
