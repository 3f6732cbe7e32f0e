// SPDX-License-Identifier: MIT
#ifndef FIRST_PAIRS_H
#define FIRST_PAIRS_H

#include "cpu.h"

// The second processor of the tests in pairs.def.
void pairs_use(struct cpu *other);

#define PAIR_TEST(name) void pair_##name(struct cpu *cpu);
#include "pairs.def"
#undef PAIR_TEST

#endif
