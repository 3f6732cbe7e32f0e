// SPDX-License-Identifier: MIT
#include "hostile.h"

static uint64_t state;

void dice_seed(uint64_t seed)
{
    state = seed;
}

uint64_t dice(void) // SplitMix64
{
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

uint64_t dice_below(uint64_t limit)
{
    return dice() % limit;
}

uint64_t dice_bits(void)
{
    switch (dice_below(6)) {
    case 0:
        return dice();
    case 1:
        return dice() >> dice_below(64);
    case 2:
        return 1ull << dice_below(64);
    case 3:
        return ~0ull << dice_below(64);
    case 4: {
        uint64_t bit = 1ull << dice_below(64);
        return bit | 1ull << dice_below(64);
    }
    default:
        return dice_below(16);
    }
}
