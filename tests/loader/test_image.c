// SPDX-License-Identifier: MIT
// The image in question: what is refused with which sentence, and what lies at the border of it.
#include "cases.h"

#include <stdlib.h>
#include <string.h>

static void add(struct world *world, struct image image, uint64_t at, const char *string)
{
    world_add_module(world, image, at, string);
    free(image.bytes);
}

static void sixty_five_modules(struct world *world, struct image *image)
{
    world_add_module(world, *image, 0x300000, "");
    for (int i = 0; i < 64; i++)
        add(world, image_noise(0x10), 0x310000 + i * 0x10u, "");
}
static void no_module(struct world *world, struct image *image)
{
    world_add_module(world, *image, 0x300000, "");
    world->request.module_count = 0;
}
static void empty_image(struct world *world, struct image *image)
{
    image->size = 0;
    world_add_module(world, *image, 0x300000, "");
}
static void module_in_l0(struct world *world, struct image *image)
{
    world_add_module(world, *image, WORLD_L0_START - image->size + 1, "");
}
static void module_that_wraps(struct world *world, struct image *image)
{
    world_add_module(world, *image, 0x300000, "");
    world->modules[0].size = UINT64_MAX - 0x200000;
}
static void no_screen(struct world *world, struct image *image)
{
    (void)image;
    world->memory[0x449] = 0x12;
}
static void firmware_data_is_not_ram(struct world *world, struct image *image)
{
    (void)image;
    world->map[0].start = 0x1000;
}
static void scatter_map(struct world *world, uint32_t count)
{
    while (world->request.map_count < count)
        world_add_range(world, 0x10000000 + world->request.map_count * 0x2000ull,
                        0x10001000 + world->request.map_count * 0x2000ull, 2);
}
static void scattered_map(struct world *world, struct image *image)
{
    (void)image;
    scatter_map(world, 160);
    world->has_bios = false; // no entry is left for its page
}
static void very_scattered_map(struct world *world, struct image *image)
{
    (void)image;
    scatter_map(world, 161);
}
static void module_too_large(struct world *world, struct image *image)
{
    world_add_module(world, *image, 0x100000, "");
    add(world, image_noise(WORLD_L0_START - 0x110000), 0x110000, "");
}
static void no_room_for_info(struct world *world, struct image *image)
{
    world->map[0].end = world->map[1].start = 0xf000;
    world->map[2].start = world->map[1].end = FLAT_LOAD;
    world->map[2].end = FLAT_LOAD + FLAT_SIZE + FLAT_BSS;
    world->map[3].type = world->map[5].type = MEMORY_RESERVED;
    world_add_module(world, *image, FLAT_LOAD, "");
}
static void magic_at(struct image *image, const void *magic, size_t size)
{
    memset(image->bytes + ELF_HEADER_OFFSET, 0, 4);
    memcpy(image->bytes, magic, size);
}
static void gzip(struct world *world, struct image *image)
{
    (void)world;
    magic_at(image, "\x1f\x8b\x08", 3);
}
static void xz(struct world *world, struct image *image)
{
    (void)world;
    magic_at(image,
             "\xfd"
             "7zXZ",
             6);
}
static void zstd(struct world *world, struct image *image)
{
    (void)world;
    magic_at(image, "\x28\xb5\x2f\xfd", 4);
}
static void bzip2(struct world *world, struct image *image)
{
    (void)world;
    magic_at(image, "BZh", 3);
}
static void lz4(struct world *world, struct image *image)
{
    (void)world;
    magic_at(image, "\x02\x21\x4c\x18", 4);
}
static void text_file(struct world *world, struct image *image)
{
    (void)world;
    memset(image->bytes, 'a', image->size);
}
static void header_too_far(struct world *world, struct image *image)
{
    (void)world;
    image_move_header(*image, 8192 - 8);
}
static void header_unaligned(struct world *world, struct image *image)
{
    (void)world;
    image_move_header(*image, 0x1102);
}

#define FLAT   FLAT_HEADER_OFFSET
#define HEADER ELF_HEADER_OFFSET
// A header of these flags with the right checksum.
#define FLAGS(at, flags)                                                                                     \
    {                                                                                                        \
        {(at) + 4, 4, (flags)},                                                                              \
        {                                                                                                    \
            (at) + 8, 4, 0u - 0x1badb002u - (flags)                                                          \
        }                                                                                                    \
    }

static const struct image_case images[] = {
    {"multiboot: the image is its header",
     CASE_FLAT,
     {{FLAT + 20, 4, FLAT_LOAD + FLAT + 16}, {FLAT + 24, 4, 0}, {FLAT + 28, 4, FLAT_LOAD}},
     FLAT + 32,
     NULL,
     NULL},
    {"multiboot: the image begins with its header",
     CASE_FLAT,
     {{FLAT + 12, 4, FLAT_LOAD}, {FLAT + 20, 4, 0}, {FLAT + 24, 4, 0}},
     0,
     NULL,
     NULL},
    {"multiboot: the image is the whole file",
     CASE_FLAT,
     {{FLAT + 12, 4, FLAT_LOAD + FLAT}, {FLAT + 20, 4, 0}, {FLAT + 24, 4, 0}},
     0,
     NULL,
     NULL},
    {"image: no module at all", CASE_FLAT, {{0}}, 0, no_module, "no module was loaded"},
    {"image: empty", CASE_FLAT, {{0}}, 0, empty_image, "empty"},
    {"image: 65 modules", CASE_FLAT, {{0}}, 0, sixty_five_modules, "there are 65 modules"},
    {"image: 160 memory ranges", CASE_FLAT, {{0}}, 0, scattered_map, NULL},
    {"image: 161 memory ranges",
     CASE_FLAT,
     {{0}},
     0,
     very_scattered_map,
     "161 ranges, and Plastron takes at most 160"},
    {"image: lies in L0's memory", CASE_FLAT, {{0}}, 0, module_in_l0, "which is not RAM"},
    {"image: its size wraps around", CASE_FLAT, {{0}}, 0, module_that_wraps, "which is not RAM"},
    {"image: gzip", CASE_ELF_64, {{0}}, 0, gzip, "compressed with gzip"},
    {"image: xz", CASE_ELF_64, {{0}}, 0, xz, "compressed with xz"},
    {"image: zstd", CASE_ELF_64, {{0}}, 0, zstd, "compressed with zstd"},
    {"image: bzip2", CASE_ELF_64, {{0}}, 0, bzip2, "compressed with bzip2"},
    {"image: lz4", CASE_ELF_64, {{0}}, 0, lz4, "compressed with lz4"},
    {"image: nothing but gzip's magic", CASE_ELF_64, {{0}}, 2, gzip, "compressed with gzip"},
    {"image: text", CASE_ELF_64, {{0}}, 0, text_file, "an unknown kind of file"},
    {"image: one byte", CASE_ELF_64, {{0}}, 1, NULL, "an unknown kind of file"},
    {"multiboot: ELF without a header", CASE_ELF_64, {{HEADER, 4, 0}}, 0, NULL, "an ELF file with neither"},
    {"multiboot: only a Multiboot 2 header",
     CASE_ELF_64,
     {{HEADER, 4, 0xe85250d6}},
     0,
     NULL,
     "Multiboot 2 header only"},
    {"multiboot: wrong checksum", CASE_ELF_64, {{HEADER + 8, 4, 0}}, 0, NULL, "checksum is wrong"},
    {"multiboot: header beyond 8192 bytes",
     CASE_ELF_64,
     {{0}},
     0,
     header_too_far,
     "an ELF file with neither"},
    {"multiboot: header not aligned", CASE_ELF_64, {{0}}, 0, header_unaligned, "an ELF file with neither"},
    {"multiboot: cut within the header", CASE_ELF_64, {{0}}, HEADER + 8, NULL, "an ELF file with neither"},
    {"multiboot: unknown required flag 3", CASE_ELF_64, FLAGS(HEADER, 0xb), 0, NULL, "header flags 0x8"},
    {"multiboot: unknown required flag 15", CASE_ELF_64, FLAGS(HEADER, 0x8003), 0, NULL,
     "header flags 0x8000"},
    {"multiboot: no screen, but required", CASE_ELF_64, FLAGS(HEADER, 4), 0, no_screen, "requires a screen"},
    {"multiboot: screen unknown, but required", CASE_ELF_64, FLAGS(HEADER, 4), 0, firmware_data_is_not_ram,
     "requires a screen"},
    {"multiboot: neither ELF nor addresses", CASE_FLAT, FLAGS(FLAT, 3), 0, NULL,
     "does not say where to load"},
    {"multiboot: cut within the address fields",
     CASE_FLAT,
     {{0}},
     FLAT + 31,
     NULL,
     "truncated within its header"},
    {"multiboot: cut by one byte",
     CASE_FLAT,
     {{0}},
     FLAT_SIZE + 0xf,
     NULL,
     "truncated: it should have 9045 bytes and has 9044"},
    {"multiboot: load_addr above header_addr",
     CASE_FLAT,
     {{FLAT + 12, 4, FLAT_LOAD - 4}},
     0,
     NULL,
     "broken: header_addr"},
    {"multiboot: begins before the file",
     CASE_FLAT,
     {{FLAT + 12, 4, FLAT_LOAD + FLAT + 4}},
     0,
     NULL,
     "broken: header_addr"},
    {"multiboot: load_end_addr not above load_addr",
     CASE_FLAT,
     {{FLAT + 20, 4, FLAT_LOAD}},
     0,
     NULL,
     "load_end_addr"},
    {"multiboot: bss_end_addr below load_end_addr",
     CASE_FLAT,
     {{FLAT + 24, 4, FLAT_LOAD + FLAT_SIZE - 1}},
     0,
     NULL,
     "bss_end_addr"},
    {"multiboot: entry before the image",
     CASE_FLAT,
     {{FLAT + 28, 4, FLAT_LOAD - 1}},
     0,
     NULL,
     "is not in it"},
    {"multiboot: entry in bss", CASE_FLAT, {{FLAT + 28, 4, FLAT_LOAD + FLAT_SIZE}}, 0, NULL, "is not in it"},
    {"multiboot: bss reaches into L0",
     CASE_FLAT,
     {{FLAT + 24, 4, WORLD_L0_START + 1}},
     0,
     NULL,
     "not all RAM"},
    {"multiboot: loads over the firmware",
     CASE_FLAT,
     {{FLAT + 12, 4, 0x9f000 + FLAT - 0x10},
      {FLAT + 16, 4, 0x9f000},
      {FLAT + 20, 4, 0x9f000 + FLAT_SIZE},
      {FLAT + 28, 4, 0x9f000}},
     0,
     NULL,
     "not all RAM"},
    {"multiboot: module too large", CASE_FLAT, {{0}}, 0, module_too_large, "no room for module 1"},
    {"multiboot: nowhere to put the information",
     CASE_FLAT,
     {{0}},
     0,
     no_room_for_info,
     "no room below 4 GiB"},
};

int run_image_tests(void)
{
    struct CMUnitTest rows[sizeof images / sizeof *images];
    for (size_t i = 0; i < sizeof images / sizeof *images; i++)
        rows[i] = CASE_TEST(&images[i]);
    return cmocka_run_group_tests_name("images", rows, NULL, NULL);
}
