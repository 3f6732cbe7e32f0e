// SPDX-License-Identifier: MIT
#include "fiber.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#endif
#endif
#ifndef FIBER_ASAN
#define FIBER_ASAN 0
#endif

#if FIBER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define STACK_SIZE (256 * 1024)

struct fiber {
    ucontext_t context, caller;
    void (*body)(void *);
    void *argument;
    unsigned char *stack;
    const void *caller_stack;
    size_t caller_stack_size;
};

static struct fiber *current;

// The C library's own, not the sanitizer's wrapper, which warns on standard error that it does not understand
// stack switches; begin_switch and end_switch tell it.
typedef int swap_function(ucontext_t *from, const ucontext_t *to);
static swap_function *swap;

static void find_swap(void)
{
    void *library = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
    void *found = library != NULL ? dlsym(library, "swapcontext") : NULL;
    swap = swapcontext;
    if (found != NULL)
        __builtin_memcpy(&swap, &found, sizeof(swap));
}

struct fiber *fiber_current(void)
{
    return current;
}

// The sanitizer is told of every switch: where from, and to which stack.
static void begin_switch(void **save, const void *stack, size_t size)
{
#if FIBER_ASAN
    __sanitizer_start_switch_fiber(save, stack, size);
#else
    (void)save;
    (void)stack;
    (void)size;
#endif
}

static void end_switch(void *saved, const void **stack, size_t *size)
{
#if FIBER_ASAN
    __sanitizer_finish_switch_fiber(saved, stack, size);
#else
    (void)saved;
    (void)stack;
    (void)size;
#endif
}

static void start(void)
{
    struct fiber *self = current;
    end_switch(NULL, &self->caller_stack, &self->caller_stack_size);
    self->body(self->argument);
    abort(); // a body never ends
}

struct fiber *fiber_create(void (*body)(void *argument), void *argument)
{
    struct fiber *fiber = calloc(1, sizeof(*fiber));
    if (swap == NULL)
        find_swap();
    fiber->body = body;
    fiber->argument = argument;
    fiber->stack = malloc(STACK_SIZE);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = STACK_SIZE;
    makecontext(&fiber->context, start, 0);
    return fiber;
}

void fiber_destroy(struct fiber *fiber)
{
    if (fiber == NULL)
        return;
#if FIBER_ASAN
    __asan_unpoison_memory_region(fiber->stack, STACK_SIZE);
#endif
    free(fiber->stack);
    free(fiber);
}

void fiber_resume(struct fiber *fiber)
{
    void *saved = NULL;
    current = fiber;
    begin_switch(&saved, fiber->stack, STACK_SIZE);
    swap(&fiber->caller, &fiber->context);
    end_switch(saved, NULL, NULL);
    current = NULL;
}

void fiber_yield(void)
{
    struct fiber *self = current;
    void *saved = NULL;
    begin_switch(&saved, self->caller_stack, self->caller_stack_size);
    swap(&self->context, &self->caller);
    current = self;
    end_switch(saved, &self->caller_stack, &self->caller_stack_size);
}
