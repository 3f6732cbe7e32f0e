// SPDX-License-Identifier: MIT
#include "causes.h"

#include <fnmatch.h>

static const struct cause {
    const char *pattern, *why, *likely;
} causes[] = {
#define CAUSE(pattern, why, likely) {pattern, why, likely},
#include "causes.def"
#undef CAUSE
};
#define CAUSE_COUNT (sizeof(causes) / sizeof(causes[0]))

enum { GENERAL_COUNT = 3 }; // HOST_*, GUEST_* and * at the end

static size_t cause_find(enum check_index index)
{
    size_t i = 0;
    while (i + 1 < CAUSE_COUNT && fnmatch(causes[i].pattern, check_rules[index].id, 0) != 0)
        i++;
    return i;
}

const char *causes_why(enum check_index index)
{
    return causes[cause_find(index)].why;
}

const char *causes_likely(enum check_index index)
{
    return causes[cause_find(index)].likely;
}

bool causes_knows(enum check_index index)
{
    return cause_find(index) + GENERAL_COUNT < CAUSE_COUNT;
}
