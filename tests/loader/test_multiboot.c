// SPDX-License-Identifier: MIT
#include "cases.h"

#include <stdlib.h>
#include <string.h>

static void add(struct world *world, struct image image, uint64_t at, const char *string)
{
    world_add_module(world, image, at, string);
    free(image.bytes);
}

static void loads_by_its_own_header(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    add(&world, image_flat(), 0x300000, "some arguments");
    world_must_load(&world);
    assert_string_equal(world.start.kind, "Multiboot 1 flat");
    assert_int_equal(world.start.rip, FLAT_LOAD + 0x80);
    assert_int_equal(get32(world.memory + world.start.rbx) & 0x20, 0); // no section headers
    world_end(&world);
}

static void load_end_zero_means_the_whole_file(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    struct image image = image_flat();
    put32(image.bytes + FLAT_HEADER_OFFSET + 20, 0);
    put32(image.bytes + FLAT_HEADER_OFFSET + 24, 0);
    add(&world, image, 0x300000, "");
    world_must_load(&world);
    world_end(&world);
}

// The header's addresses count even if the file is ELF.
static void address_fields_win_over_elf(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    struct image image = image_flat();
    memcpy(image.bytes, "\177ELF", 4);
    add(&world, image, 0x300000, "");
    world_must_load(&world);
    assert_string_equal(world.start.kind, "Multiboot 1 flat");
    world_end(&world);
}

static void header_ends_the_first_8192_bytes(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    struct image image = image_elf(ELF_FILE_32);
    image_move_header(image, 8192 - 12);
    add(&world, image, 0x300000, "");
    world_must_load(&world);
    world_end(&world);
}

// A magic number alone is no header; the right one comes later.
static void skips_a_false_magic(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    struct image image = image_elf(ELF_FILE_32);
    put32(image.bytes + ELF_HEADER_OFFSET - 16, 0x1badb002);
    put32(image.bytes + ELF_HEADER_OFFSET - 12, 0xfff8);
    put32(image.bytes + ELF_HEADER_OFFSET - 8, 0);
    add(&world, image, 0x300000, "");
    world_must_load(&world);
    world_end(&world);
}

static void required_video_gets_the_text_screen(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    struct image image = image_elf(ELF_FILE_32);
    put32(image.bytes + ELF_HEADER_OFFSET + 4, 4);
    put32(image.bytes + ELF_HEADER_OFFSET + 8, 0u - 0x1badb002u - 4);
    add(&world, image, 0x300000, "");
    world_must_load(&world);
    assert_int_equal(get32(world.memory + world.start.rbx) & 0x1000, 0x1000);
    world_end(&world);
}

static void optional_flags_are_ignored(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    struct image image = image_elf(ELF_FILE_32);
    put32(image.bytes + ELF_HEADER_OFFSET + 4, 0xfffe0003);
    put32(image.bytes + ELF_HEADER_OFFSET + 8, 0u - 0x1badb002u - 0xfffe0003u);
    add(&world, image, 0x300000, "");
    world_must_load(&world);
    world_end(&world);
}

static void modules_follow_the_image(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    add(&world, image_elf(ELF_FILE_32), 0x300000, "");
    add(&world, image_noise(0x1801), 0x310000, "first.bin with arguments");
    add(&world, image_noise(0), 0x312000, "");
    add(&world, image_noise(3), 0x313000, "third");
    world_must_load(&world);
    const uint8_t *list = world.memory + get32(world.memory + world.start.rbx + 24);
    assert_int_equal(get32(list), ELF_DATA + ELF_DATA_MEMORY);
    assert_int_equal(get32(list + 16), ELF_DATA + ELF_DATA_MEMORY + 0x2000);
    assert_int_equal(get32(list + 32), ELF_DATA + ELF_DATA_MEMORY + 0x3000);
    world_end(&world);
}

// A module does not go back into a hole that an earlier one was too large for.
static void modules_stay_in_order(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    add(&world, image_elf(ELF_FILE_32), 0x300000, "");
    add(&world, image_noise(0x5000), 0x310000, "");
    add(&world, image_noise(0x1000), 0x320000, "");
    world.map[2].end = 0x120000;
    world_must_load(&world);
    const uint8_t *list = world.memory + get32(world.memory + world.start.rbx + 24);
    assert_int_equal(get32(list), 0x200000);
    assert_int_equal(get32(list + 16), 0x205000);
    world_end(&world);
}

static void module_fills_a_hole(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    add(&world, image_elf(ELF_FILE_32), 0x300000, "");
    add(&world, image_noise(0x3000), 0x310000, "");
    world.map[2].end = 0x120000;
    world_must_load(&world);
    const uint8_t *list = world.memory + get32(world.memory + world.start.rbx + 24);
    assert_int_equal(get32(list), 0x11d000);
    world_end(&world);
}

// All modules lie over the image's and each other's places, in the wrong order.
static void everything_overlaps(void **state)
{
    uint64_t base = *(const uint64_t *)*state;
    struct world world;
    world_begin(&world);
    struct image files[] = {image_elf(ELF_FILE_64), image_noise(0x4400), image_noise(0x3c00),
                            image_noise(0x9000)};
    uint64_t at = base;
    static const int order[] = {2, 0, 3, 1};
    uint64_t places[4];
    for (int i = 0; i < 4; i++) {
        places[order[i]] = at;
        at += (files[order[i]].size + 4095) & ~4095ull;
    }
    for (int i = 0; i < 4; i++)
        add(&world, files[i], places[i], "module");
    world_must_load(&world);
    world_end(&world);
}

static void info_avoids_segments_in_low_memory(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    struct image image = image_flat();
    uint8_t *header = image.bytes + FLAT_HEADER_OFFSET;
    put32(header + 12, 0x10000 + FLAT_HEADER_OFFSET - 0x10);
    put32(header + 16, 0x10000);
    put32(header + 20, 0x10000 + FLAT_SIZE);
    put32(header + 24, 0x10000 + FLAT_SIZE + FLAT_BSS);
    put32(header + 28, 0x10080);
    add(&world, image, 0x300000, "");
    add(&world, image_noise(10), 0x310000, "");
    world_must_load(&world);
    assert_int_equal(world.start.rbx, 0x14000);
    assert_int_equal(get32(world.memory + get32(world.memory + world.start.rbx + 24)), 0x100000);
    world_end(&world);
}

static void info_goes_high_without_low_memory(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    world.map[0].end = world.map[1].start = 0x8000;
    add(&world, image_elf(ELF_FILE_32), 0x300000, "");
    world_must_load(&world);
    assert_true(world.start.rbx >= WORLD_L0_END);
    world_end(&world);
}

static void module_goes_below_the_image_if_it_must(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    world.map[0].end = world.map[1].start = 0x80000;
    world.map[3].type = world.map[5].type = MEMORY_RESERVED; // L1's RAM ends at 2 MiB
    struct image image = image_flat();
    uint8_t *header = image.bytes + FLAT_HEADER_OFFSET;
    uint32_t base = 0x200000 - FLAT_SIZE - FLAT_BSS;
    put32(header + 12, base + FLAT_HEADER_OFFSET - 0x10);
    put32(header + 16, base);
    put32(header + 20, base + FLAT_SIZE);
    put32(header + 24, base + FLAT_SIZE + FLAT_BSS);
    put32(header + 28, base);
    add(&world, image, 0x110000, "");
    add(&world, image_noise(0x1000), 0x120000, "");
    world_must_load(&world);
    world_end(&world);
}

static void sixty_four_modules(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    add(&world, image_elf(ELF_FILE_64), 0x300000, "");
    for (int i = 0; i < 63; i++)
        add(&world, image_noise(0x321), 0x310000 + i * 0x400u, "string");
    world_must_load(&world);
    world_end(&world);
}

// The front end of the BIOS's memory calls is left out if there is no BIOS, or no room for it. check_bios
// looks.
static void without_a_bios(void **state)
{
    const uint64_t *change = *state; // where, and what to write there: the vector, or the size of low memory
    struct world world;
    world_begin(&world);
    put32(world.memory + change[0], change[1]);
    world.has_bios = false;
    add(&world, image_elf(ELF_FILE_32), 0x300000, "");
    world_must_load(&world);
    assert_int_equal(get32(world.memory + change[0]), change[1]);
    world_end(&world);
}

static void bios_page_holds_a_module(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    add(&world, image_elf(ELF_FILE_32), 0x300000, "");
    add(&world, image_noise(0x3000), 0x9c800, "");
    world_must_load(&world);
    assert_int_equal(get16(world.memory + 0x56), 0x9e00);
    world_end(&world);
}

static void image_lies_over_the_vectors(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    struct image image = image_elf(ELF_FILE_32);
    put32(image.bytes + 52 + 2 * 32 + 12, 0); // its data segment's p_paddr
    add(&world, image, 0x300000, "");
    world_must_load(&world);
    world_end(&world);
}

static void long_refusals_are_cut(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    char text[24] = "untouched untouched";
    world.request.refusal = text;
    world.request.refusal_size = 11;
    assert_false(l1_load(&world.request, &world.start));
    assert_string_equal(text, "the boot m");
    assert_string_equal(text + 11, "ntouched");
    world.request.refusal_size = 0;
    text[0] = 'T';
    assert_false(l1_load(&world.request, &world.start));
    assert_string_equal(text, "The boot m");
    world_end(&world);
}

#define TEST_WITH(f, argument)                                                                               \
    (struct CMUnitTest)                                                                                      \
    {                                                                                                        \
        .name = "multiboot: " #f "(" #argument ")", .test_func = f, .initial_state = argument                \
    }
#define TEST(f)                                                                                              \
    (struct CMUnitTest)                                                                                      \
    {                                                                                                        \
        .name = "multiboot: " #f, .test_func = f                                                             \
    }

int run_multiboot_tests(void)
{
    static uint64_t before[] = {ELF_TEXT - 0x6000}, at[] = {ELF_TEXT}, inside[] = {ELF_TEXT + 0x3000},
                    at_data[] = {ELF_DATA - 0x1000}, behind[] = {ELF_DATA + 0x4000};
    static uint64_t no_vector[] = {0x54, 0}, vector_in_ram[] = {0x54, 0xbfff000f},
                    vector_above_the_rom[] = {0x54, 0xffff0010}, little_base_memory[] = {0x413, 67};
    struct CMUnitTest tests[] = {
        TEST(loads_by_its_own_header),
        TEST(load_end_zero_means_the_whole_file),
        TEST(address_fields_win_over_elf),
        TEST(header_ends_the_first_8192_bytes),
        TEST(skips_a_false_magic),
        TEST(required_video_gets_the_text_screen),
        TEST(optional_flags_are_ignored),
        TEST(modules_follow_the_image),
        TEST(modules_stay_in_order),
        TEST(module_fills_a_hole),
        TEST_WITH(everything_overlaps, before),
        TEST_WITH(everything_overlaps, at),
        TEST_WITH(everything_overlaps, inside),
        TEST_WITH(everything_overlaps, at_data),
        TEST_WITH(everything_overlaps, behind),
        TEST(info_avoids_segments_in_low_memory),
        TEST(info_goes_high_without_low_memory),
        TEST(module_goes_below_the_image_if_it_must),
        TEST(sixty_four_modules),
        TEST_WITH(without_a_bios, no_vector),
        TEST_WITH(without_a_bios, vector_in_ram),
        TEST_WITH(without_a_bios, vector_above_the_rom),
        TEST_WITH(without_a_bios, little_base_memory),
        TEST(bios_page_holds_a_module),
        TEST(image_lies_over_the_vectors),
        TEST(long_refusals_are_cut),
    };
    return cmocka_run_group_tests_name("multiboot", tests, NULL, NULL);
}
