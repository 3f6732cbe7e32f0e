// SPDX-License-Identifier: MIT
#include "l1_image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    LINUX_MAGIC = 0x53726448, // "HdrS", at 0x202 of a bzImage
    LINUX_MAGIC_AT = 0x202,
    MULTIBOOT1_MAGIC = 0x1badb002,
    MULTIBOOT1_WITHIN = 8192,
    MULTIBOOT1_ALIGN = 4,
    MULTIBOOT2_WITHIN = 32768,
    MULTIBOOT2_ALIGN = 8,
};

#define MULTIBOOT2_MAGIC 0xe85250d6u

static uint32_t load32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

// Both Multiboot headers begin with the magic, and a sum of their first words has to be 0: three words, or
// four.
static bool has_header(const unsigned char *data, size_t size, uint32_t magic, size_t align, unsigned words)
{
    for (size_t at = 0; at + 4 * (size_t)words <= size; at += align) {
        if (load32(data + at) != magic)
            continue;
        uint32_t sum = 0;
        for (unsigned i = 0; i < words; i++)
            sum += load32(data + at + 4 * (size_t)i);
        if (sum == 0)
            return true;
    }
    return false;
}

enum l1_image_kind l1_image_recognise(int fd)
{
    unsigned char start[MULTIBOOT2_WITHIN];
    ssize_t got = pread(fd, start, sizeof(start), 0);
    size_t size = got > 0 ? (size_t)got : 0;
    if (size >= LINUX_MAGIC_AT + 4 && load32(start + LINUX_MAGIC_AT) == LINUX_MAGIC)
        return L1_IMAGE_LINUX;
    if (has_header(start, size < MULTIBOOT1_WITHIN ? size : MULTIBOOT1_WITHIN, MULTIBOOT1_MAGIC,
                   MULTIBOOT1_ALIGN, 3))
        return L1_IMAGE_MULTIBOOT1;
    if (has_header(start, size, MULTIBOOT2_MAGIC, MULTIBOOT2_ALIGN, 4))
        return L1_IMAGE_MULTIBOOT2;
    return L1_IMAGE_UNKNOWN;
}

int l1_image_open(const char *path, char *why, size_t size)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO must not make us wait
    if (fd < 0) {
        snprintf(why, size, "cannot read '%s': %s", path, strerror(errno));
        return -1;
    }
    if (fstat(fd, &status) || !S_ISREG(status.st_mode)) {
        snprintf(why, size, "'%s' is not a file%s", path, S_ISDIR(status.st_mode) ? ": it is a folder" : "");
        close(fd);
        return -1;
    }
    return fd;
}
