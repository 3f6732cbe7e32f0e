// SPDX-License-Identifier: MIT
// L0 has a defect: say all that is known, and stop every processor.
#ifndef PLASTRON_PANIC_H
#define PLASTRON_PANIC_H

#include "exceptions.h"

#include <stdbool.h>

_Noreturn void panic(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void panic_exception(const struct exceptions_frame *frame);
_Noreturn void panic_machine_check(const struct exceptions_frame *frame); // with the banks that are valid

// Set for good when the machine is being stopped; each processor asks before every VM entry.
extern bool panic_stopping;
_Noreturn void panic_halt(void);

// This processor's VMCSs go back to memory: whoever looks there, or takes the machine over, finds them, and
// no write-back of this processor's comes later. It stays in VMX operation: an INIT signal may be waiting for
// its end.
void panic_give_up_vmcss(void);

static inline void panic_stop_if_requested(void)
{
    if (__builtin_expect(__atomic_load_n(&panic_stopping, __ATOMIC_RELAXED), 0))
        panic_halt();
}

// Makes all other processors leave their guests and halt.
void panic_stop_others(void);

#endif
