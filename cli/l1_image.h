// SPDX-License-Identifier: MIT
// What kind of image L1 is, told by its magic numbers: needed only for --bare, where GRUB has to be told.
// Under Plastron, L0 finds out by itself, and says what is wrong with an image.
#ifndef PLASTRON_CLI_L1_IMAGE_H
#define PLASTRON_CLI_L1_IMAGE_H

#include <stdbool.h>
#include <stddef.h>

enum l1_image_kind { L1_IMAGE_UNKNOWN, L1_IMAGE_LINUX, L1_IMAGE_MULTIBOOT1, L1_IMAGE_MULTIBOOT2 };

enum l1_image_kind l1_image_recognise(int fd);

// Opens a file that goes on the boot medium. Returns -1 with `why`, one clear sentence.
int l1_image_open(const char *path, char *why, size_t size);

#endif
