// SPDX-License-Identifier: MIT
// A test of one image is a row: what is wrong with a good image, and words of the sentence that must come. A
// row without a sentence is an image at the edge of what is allowed, and must load.
#ifndef LOADER_TEST_CASES_H
#define LOADER_TEST_CASES_H

#include "world.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum case_image { CASE_LINUX, CASE_ELF_32, CASE_ELF_64, CASE_FLAT };

struct image_case {
    const char *name;
    enum case_image image;
    struct {
        uint32_t at, bytes;
        uint64_t value;
    } patches[4];    // bytes: 1, 2, 4 or 8; 0: none
    uint64_t cut_to; // the file's size; 0: whole
    void (*change)(struct world *,
                   struct image *); // what a patch cannot say; called before the image is placed
    const char *sentence;           // NULL: it loads
};

struct image case_image(enum case_image which);
void run_image_case(void **state);

// Appends a row as a test.
#define CASE_TEST(row)                                                                                       \
    (struct CMUnitTest)                                                                                      \
    {                                                                                                        \
        .name = (row)->name, .test_func = run_image_case, .initial_state = (void *)(uintptr_t)(row)          \
    }

// Each file's tests; returns how many failed.
int run_linux_tests(void);
int run_multiboot_tests(void);
int run_image_tests(void);
int run_elf_tests(void);
int run_fuzz_tests(void);

#endif
