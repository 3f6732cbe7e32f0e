// SPDX-License-Identifier: MIT
// The boot medium: a CD image with GRUB, the files to load, and a script for GRUB. It lives in memory (a
// memfd), so nothing has to be cleaned up, however we end.
#ifndef PLASTRON_CLI_MEDIUM_H
#define PLASTRON_CLI_MEDIUM_H

#include <stdbool.h>
#include <stddef.h>

#include "run_options.h"

// How GRUB is to load the first file.
enum medium_protocol { MEDIUM_MULTIBOOT1, MEDIUM_MULTIBOOT2, MEDIUM_LINUX };

struct medium_file {
    int fd;           // open for reading
    const char *text; // what follows its name on GRUB's command line
};

#define MEDIUM_FILES_MAX (RUN_MODULES_MAX + 3)

struct medium_request {
    enum medium_protocol protocol;
    struct medium_file
        files[MEDIUM_FILES_MAX]; // [0]: what GRUB starts; the rest: its modules, or Linux's initrd
    size_t file_count;
};

// GRUB's messages and the words "plastron: ..." of our script come out of COM2. A line that says this means
// that GRUB could not load what it was given; the line before it says why.
#define MEDIUM_GRUB_GAVE_UP "plastron: refuse: GRUB could not load the image"

// Returns the image's file descriptor, or -1 with `why`.
int medium_make(const struct medium_request *request, char *why, size_t size);

// Finds the tools and GRUB's folder; false with `why`.
bool medium_tools_are_here(char *why, size_t size);

#endif
