// SPDX-License-Identifier: MIT
// Writes a CD image: ISO 9660 with one folder below the root, bootable by a BIOS (El Torito, no emulation).
// Just what a boot loader needs to find its files; no extensions.
#ifndef PLASTRON_CLI_ISO_H
#define PLASTRON_CLI_ISO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ISO_FILES_MAX 128
#define ISO_NAME_MAX  31

struct iso_file {
    char name[ISO_NAME_MAX + 1];
    bool in_folder;
    int fd; // read from its beginning, whatever its position
    uint32_t sector, size;
};

struct iso {
    const char *folder;
    struct iso_file files[ISO_FILES_MAX]; // [0] is what the BIOS loads and starts
    size_t file_count;
};

// Adds a file; false (with errno) if it is too large, the table is full or the name too long. The fd stays
// the caller's.
bool iso_add(struct iso *iso, const char *name, bool in_folder, int fd);

// Writes the image to an empty file. False with errno.
bool iso_write(struct iso *iso, int out);

#endif
