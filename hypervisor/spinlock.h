// SPDX-License-Identifier: MIT
// Mutual exclusion between logical processors. L0 takes no interrupts, so a lock is never re-entered.
#ifndef PLASTRON_SPINLOCK_H
#define PLASTRON_SPINLOCK_H

#include <stdbool.h>

struct spinlock {
    bool held;
};

static inline bool spinlock_try(struct spinlock *lock)
{
    return !__atomic_test_and_set(&lock->held, __ATOMIC_ACQUIRE);
}
static inline void spinlock_acquire(struct spinlock *lock)
{
    while (!spinlock_try(lock))
        while (__atomic_load_n(&lock->held, __ATOMIC_RELAXED))
            __builtin_ia32_pause();
}
static inline void spinlock_release(struct spinlock *lock)
{
    __atomic_clear(&lock->held, __ATOMIC_RELEASE);
}

#endif
