// SPDX-License-Identifier: MIT
// What the two halves of the Multiboot 1 loader share.
#ifndef PLASTRON_LOAD_MULTIBOOT_H
#define PLASTRON_LOAD_MULTIBOOT_H

#include "load_plan.h"

#define MULTIBOOT_HEADER_MAGIC 0x1badb002u

struct multiboot_plan {
    bool wants_video, is_flat;
    uint64_t entry;
    uint64_t info;                                        // the block that multiboot_commit_info fills
    uint64_t module_start[LOAD_MODULES_MAX], modules_end; // [0] is not used
    struct elf_sections sections;
};

// Why an image without a valid Multiboot 1 header is no such image. Always returns false.
bool multiboot_refuse_headerless(const struct load_plan *plan);

// Plans the block with the Multiboot information, its lists and strings, a GDT and a small stack.
bool multiboot_plan_info(struct load_plan *plan, struct multiboot_plan *multiboot);
// Fills that block and the processor's start state.
void multiboot_commit_info(const struct load_plan *plan, const struct multiboot_plan *multiboot,
                           struct l1_start_state *start);

#endif
