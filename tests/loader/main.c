// SPDX-License-Identifier: MIT
// The L1 loaders' tests: every refusal, good images, overlapping places, and noise.
#include "cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct image case_image(enum case_image which)
{
    switch (which) {
    case CASE_LINUX:
        return image_linux();
    case CASE_ELF_32:
        return image_elf(ELF_FILE_32);
    case CASE_ELF_64:
        return image_elf(ELF_FILE_64);
    case CASE_FLAT:
        return image_flat();
    }
    abort();
}

void run_image_case(void **state)
{
    const struct image_case *row = *state;
    struct image image = case_image(row->image);
    struct world world;
    world_begin(&world);
    for (int i = 0; i < 4; i++) {
        uint8_t *at = image.bytes + row->patches[i].at;
        switch (row->patches[i].bytes) {
        case 1:
            *at = (uint8_t)row->patches[i].value;
            break;
        case 2:
            put16(at, row->patches[i].value);
            break;
        case 4:
            put32(at, row->patches[i].value);
            break;
        case 8:
            put64(at, row->patches[i].value);
            break;
        }
    }
    if (row->cut_to)
        image.size = row->cut_to;
    if (row->change)
        row->change(&world, &image);
    if (!world.files[0].bytes) // at the very end of L1's RAM, so that reading on is caught
        world_add_module(&world, image, WORLD_L0_START - image.size, "");
    if (row->sentence)
        world_must_refuse(&world, row->sentence);
    else
        world_must_load(&world);
    world_end(&world);
    free(image.bytes);
}

// The hand-made images as files, for the boot tests.
static int write_images(const char *folder)
{
    static const char *const names[] = {
        [CASE_LINUX] = "linux", [CASE_ELF_32] = "elf32", [CASE_ELF_64] = "elf64", [CASE_FLAT] = "flat"};
    for (int i = CASE_LINUX; i <= CASE_FLAT; i++) {
        char path[4096];
        struct image image = case_image((enum case_image)i);
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        FILE *file = fopen(path, "wb");
        bool fine = file && fwrite(image.bytes, 1, image.size, file) == image.size;
        free(image.bytes);
        if (!file || fclose(file) != 0 || !fine) {
            perror(path);
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--write") == 0)
        return write_images(argv[2]);
    int failed =
        run_linux_tests() + run_multiboot_tests() + run_image_tests() + run_elf_tests() + run_fuzz_tests();
    return failed != 0;
}
