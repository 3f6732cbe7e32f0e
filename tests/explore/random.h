// SPDX-License-Identifier: MIT
// The explorer's dice.
#ifndef TESTS_RANDOM_H
#define TESTS_RANDOM_H

#include "xorshift.h"

#include <stdbool.h>
#include <stdint.h>

extern uint64_t random_state;

static inline uint64_t random_word(void)
{
    return xorshift(&random_state) * 0x2545f4914f6cdd1dull;
}
// One bit in four is set.
static inline uint64_t random_sparse_word(void)
{
    uint64_t word = random_word();
    return word & random_word();
}
static inline uint32_t random_below(uint32_t limit)
{
    return (uint32_t)((random_word() >> 32) * limit >> 32);
}
static inline bool one_in(uint32_t odds)
{
    return random_below(odds) == 0;
}
#define PICK(array) ((array)[random_below(sizeof(array) / sizeof((array)[0]))])

#endif
