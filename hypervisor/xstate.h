// SPDX-License-Identifier: MIT
// What L1 is offered of XCR0 and IA32_XSS: xstate.def.
#ifndef PLASTRON_XSTATE_H
#define PLASTRON_XSTATE_H

#include <stdint.h>

enum xstate_register { XSTATE_XCR0, XSTATE_XSS };
enum xstate_policy { XSTATE_OFFERED, XSTATE_HIDDEN };

// The bits that L1 may set, if the processor has them.
static inline uint64_t xstate_offered(enum xstate_register of)
{
    return 0
#define XSTATE(number, name, where, policy, text)                                                            \
    | ((XSTATE_##policy == XSTATE_OFFERED && XSTATE_##where == of) ? 1ull << (number) : 0)
#include "xstate.def"
#undef XSTATE
        ;
}

#endif
