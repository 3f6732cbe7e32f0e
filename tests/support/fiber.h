// SPDX-License-Identifier: MIT
// A second stack: the processor under test runs on it, until it wants something of the test.
#ifndef TESTS_FIBER_H
#define TESTS_FIBER_H

#include <stddef.h>

struct fiber;

struct fiber *fiber_create(void (*body)(void *argument), void *argument);
void fiber_destroy(struct fiber *fiber); // wherever it stopped
void fiber_resume(struct fiber *fiber);  // from the test: runs the fiber until it yields
void fiber_yield(void);                  // from a fiber: back to the test
struct fiber *fiber_current(void);       // NULL: the test itself runs

#endif
