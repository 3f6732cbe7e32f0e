// SPDX-License-Identifier: MIT
#include "cases.h"

#include <elf.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static void add(struct world *world, struct image image, uint64_t at, const char *string)
{
    world_add_module(world, image, at, string);
    free(image.bytes);
}

static void loads(void **state)
{
    enum elf_file bits = *(const enum elf_file *)*state;
    struct world world;
    world_begin(&world);
    add(&world, image_elf(bits), 0x300000, "one two");
    add(&world, image_noise(0x5000), 0x320000, "module");
    world_must_load(&world);
    assert_string_equal(world.start.kind, "Multiboot 1 ELF");
    assert_int_equal(world.start.rip, ELF_ENTRY);
    assert_int_equal(get32(world.memory + world.start.rbx) & 0x20, 0x20); // with section headers
    world_end(&world);
}

static void entry_may_be_physical(void **state)
{
    enum elf_file bits = *(const enum elf_file *)*state;
    struct world world;
    world_begin(&world);
    struct image image = image_elf(bits);
    put32(image.bytes + offsetof(Elf64_Ehdr, e_entry), ELF_ENTRY); // at the same place in ELF32
    add(&world, image, 0x300000, "");
    world_must_load(&world);
    assert_int_equal(world.start.rip, ELF_ENTRY);
    world_end(&world);
}

static void entry_may_be_the_first_byte_or_the_last(void **state)
{
    uint64_t entry = *(const uint64_t *)*state;
    struct world world;
    world_begin(&world);
    struct image image = image_elf(ELF_FILE_64);
    put64(image.bytes + offsetof(Elf64_Ehdr, e_entry), entry);
    add(&world, image, 0x300000, "");
    world_must_load(&world);
    assert_int_equal(world.start.rip, entry);
    world_end(&world);
}

static void stripped_of_sections(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    struct image image = image_elf(ELF_FILE_64);
    put16(image.bytes + offsetof(Elf64_Ehdr, e_shnum), 0);
    image.size = ELF_DATA_OFFSET + ELF_DATA_SIZE;
    add(&world, image, 0x300000, "");
    world_must_load(&world);
    assert_int_equal(get32(world.memory + world.start.rbx) & 0x20, 0);
    world_end(&world);
}

// Nothing, but at the very end of the file.
static void empty_section_at_the_files_end(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    struct image image = image_elf(ELF_FILE_64);
    uint8_t *section = image.bytes + ELF_SECTIONS_OFFSET + 4 * sizeof(Elf64_Shdr);
    put64(section + offsetof(Elf64_Shdr, sh_offset), image.size);
    put64(section + offsetof(Elf64_Shdr, sh_size), 0);
    add(&world, image, 0x300000, "");
    world_must_load(&world);
    world_end(&world);
}

// What no segment loads is larger than what is left: the image runs without it.
static void sections_without_room_are_left_out(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    uint64_t debug = 0x180000;
    struct image image = image_elf(ELF_FILE_64), large = image_noise(0x4000 + debug);
    memcpy(large.bytes, image.bytes, image.size);
    uint8_t *section = large.bytes + ELF_SECTIONS_OFFSET + 4 * sizeof(Elf64_Shdr);
    put64(section + offsetof(Elf64_Shdr, sh_offset), 0x4000);
    put64(section + offsetof(Elf64_Shdr, sh_size), debug);
    free(image.bytes);
    add(&world, large, 0x1f0000, "");
    world.map[2].end = 0x11f000; // RAM is where the segments go, and where the file lies
    world.map[3].start = 0x1f0000;
    world.map[5].type = MEMORY_RESERVED;
    world_must_load(&world);
    assert_int_equal(get32(world.memory + world.start.rbx) & 0x20, 0);
    world_end(&world);
}

static void segment_may_end_where_l0_begins(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    struct image image = image_elf(ELF_FILE_64);
    uint8_t *data = image.bytes + sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr);
    put64(data + offsetof(Elf64_Phdr, p_paddr), WORLD_L0_START - ELF_DATA_MEMORY);
    add(&world, image, 0x300000, "");
    world_must_load(&world);
    world_end(&world);
}

// All but the first, which holds the entry point, are eight zeros. With the BIOS's page, and the information
// if it still fits, they are one part each.
static void make_segments(struct image *image, uint32_t count)
{
    struct image large = image_noise(0x8000);
    memcpy(large.bytes, image->bytes, image->size);
    put64(large.bytes + offsetof(Elf64_Ehdr, e_phoff), 0x4000);
    put16(large.bytes + offsetof(Elf64_Ehdr, e_phnum), count);
    for (uint32_t i = 0; i < count; i++) {
        Elf64_Phdr segment = {.p_type = PT_LOAD, .p_paddr = ELF_DATA + 16 * i, .p_memsz = 8};
        if (i == 0)
            segment = (Elf64_Phdr){.p_type = PT_LOAD,
                                   .p_offset = ELF_TEXT_OFFSET,
                                   .p_vaddr = 0xc0000000 + ELF_TEXT,
                                   .p_paddr = ELF_TEXT,
                                   .p_filesz = ELF_TEXT_SIZE,
                                   .p_memsz = ELF_TEXT_SIZE};
        memcpy(large.bytes + 0x4000 + i * sizeof segment, &segment, sizeof segment);
    }
    free(image->bytes);
    *image = large;
}
static void segments_190(struct world *world, struct image *image)
{
    (void)world;
    make_segments(image, 190);
}
static void segments_191(struct world *world, struct image *image)
{
    (void)world;
    make_segments(image, 191);
}
static void segments_192(struct world *world, struct image *image)
{
    (void)world;
    make_segments(image, 192);
}
static void segments_190_and_a_module(struct world *world, struct image *image)
{
    make_segments(image, 190);
    world_add_module(world, *image, 0x300000, "");
    struct image module = image_noise(10);
    world_add_module(world, module, 0x320000, "");
    free(module.bytes);
}
static void segments_190_over_the_file(struct world *world, struct image *image)
{
    make_segments(image, 190);
    world_add_module(world, *image, ELF_TEXT, "");
}
static void only_empty_segments(struct world *world, struct image *image)
{
    (void)world;
    for (int i = 0; i < 4; i++)
        put64(image->bytes + 64 + i * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, p_memsz), 0);
}

// A Multiboot header so early that the file can end within the ELF header.
static void early_header(struct world *world, struct image *image)
{
    (void)world;
    memcpy(image->bytes + 36, image->bytes + ELF_HEADER_OFFSET, 12);
}

#define E64(field)        offsetof(Elf64_Ehdr, field)
#define E32(field)        offsetof(Elf32_Ehdr, field)
#define P64(index, field) (sizeof(Elf64_Ehdr) + (index) * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, field))
#define P32(index, field) (sizeof(Elf32_Ehdr) + (index) * sizeof(Elf32_Phdr) + offsetof(Elf32_Phdr, field))
#define S64(index, field) (ELF_SECTIONS_OFFSET + (index) * sizeof(Elf64_Shdr) + offsetof(Elf64_Shdr, field))
#define S32(index, field) (ELF_SECTIONS_OFFSET + (index) * sizeof(Elf32_Shdr) + offsetof(Elf32_Shdr, field))

static const struct image_case images[] = {
    {"elf: cut after the Multiboot header", CASE_ELF_64, {{0}}, 48, early_header, "truncated: 48 bytes"},
    {"elf: cut within its header",
     CASE_ELF_64,
     {{0}},
     63,
     early_header,
     "truncated: 63 bytes do not hold its header"},
    {"elf: cut within its header, 32-bit",
     CASE_ELF_32,
     {{0}},
     51,
     early_header,
     "truncated: 51 bytes do not hold its header"},
    {"elf: cut after its header", CASE_ELF_64, {{0}}, 64, early_header, "program headers"},
    {"elf: cut after its header, 32-bit", CASE_ELF_32, {{0}}, 52, early_header, "program headers"},
    {"elf: class 3", CASE_ELF_64, {{4, 1, 3}}, 0, NULL, "broken: class 3"},
    {"elf: big endian", CASE_ELF_64, {{5, 1, 2}}, 0, NULL, "data encoding 2"},
    {"elf: another processor", CASE_ELF_64, {{E64(e_machine), 2, 183}}, 0, NULL, "machine 183"},
    {"elf: relocatable",
     CASE_ELF_32,
     {{E32(e_type), 2, ET_REL}},
     0,
     NULL,
     "no executable with fixed addresses"},
    {"elf: position-independent",
     CASE_ELF_64,
     {{E64(e_type), 2, ET_DYN}},
     0,
     NULL,
     "no executable with fixed"},
    {"elf: no program headers", CASE_ELF_64, {{E64(e_phnum), 2, 0}}, 0, NULL, "no program headers"},
    {"elf: small program headers", CASE_ELF_64, {{E64(e_phentsize), 2, 55}}, 0, NULL, "have 55 bytes each"},
    {"elf: small program headers, 32-bit",
     CASE_ELF_32,
     {{E32(e_phentsize), 2, 31}},
     0,
     NULL,
     "have 31 bytes each"},
    {"elf: program headers beyond the file",
     CASE_ELF_64,
     {{E64(e_phoff), 8, 0x4000}},
     0,
     NULL,
     "program headers lie"},
    {"elf: program headers wrap around",
     CASE_ELF_64,
     {{E64(e_phoff), 8, -16ull}},
     0,
     NULL,
     "program headers lie"},
    {"elf: program headers end behind the file",
     CASE_ELF_32,
     {{E32(e_phnum), 2, 0xffff}},
     0,
     NULL,
     "program headers"},
    {"elf: no segment to load", CASE_ELF_64, {{0}}, 0, only_empty_segments, "no segment to load"},
    {"elf: more in the file than in memory",
     CASE_ELF_64,
     {{P64(2, p_memsz), 8, ELF_DATA_SIZE - 1}},
     0,
     NULL,
     "ELF segment 2 of the L1 image has 0x777 bytes in the file, but 0x776 in memory"},
    {"elf: more in the file than in memory, 32-bit",
     CASE_ELF_32,
     {{P32(2, p_memsz), 4, ELF_DATA_SIZE - 1}},
     0,
     NULL,
     "ELF segment 2"},
    {"elf: segment beyond the file",
     CASE_ELF_64,
     {{P64(0, p_offset), 8, 0x10000}},
     0,
     NULL,
     "truncated: segment 0"},
    {"elf: segment's offset wraps around",
     CASE_ELF_64,
     {{P64(0, p_offset), 8, -0x100ull}},
     0,
     NULL,
     "truncated: segment 0"},
    {"elf: segment ends behind the file",
     CASE_ELF_32,
     {{P32(0, p_filesz), 4, 0x8000}, {P32(0, p_memsz), 4, 0x8000}},
     0,
     NULL,
     "truncated: segment 0"},
    {"elf: segment above 4 GiB",
     CASE_ELF_64,
     {{P64(0, p_paddr), 8, 0x100000000}},
     0,
     NULL,
     "not lie below 4 GiB"},
    {"elf: segment reaches above 4 GiB",
     CASE_ELF_64,
     {{P64(0, p_memsz), 8, 0x100000000}},
     0,
     NULL,
     "not lie below 4 GiB"},
    {"elf: segment wraps around",
     CASE_ELF_64,
     {{P64(2, p_memsz), 8, -0x1000ull}},
     0,
     NULL,
     "not lie below 4 GiB"},
    {"elf: segment in L0's memory",
     CASE_ELF_64,
     {{P64(2, p_paddr), 8, WORLD_L0_START}},
     0,
     NULL,
     "not all RAM of L1's"},
    {"elf: segment reaches into L0",
     CASE_ELF_64,
     {{P64(2, p_paddr), 8, WORLD_L0_START - ELF_DATA_MEMORY + 1}},
     0,
     NULL,
     "not all RAM"},
    {"elf: segment ends in L0",
     CASE_ELF_32,
     {{P32(2, p_paddr), 4, WORLD_L0_END - 1}},
     0,
     NULL,
     "not all RAM"},
    {"elf: segment around L0",
     CASE_ELF_64,
     {{P64(2, p_memsz), 8, WORLD_L0_END - ELF_DATA + 1}},
     0,
     NULL,
     "not all RAM"},
    {"elf: segment leaves memory", CASE_ELF_64, {{P64(2, p_paddr), 8, 0x10000000}}, 0, NULL, "not all RAM"},
    {"elf: segment in the video memory",
     CASE_ELF_64,
     {{P64(2, p_paddr), 8, 0xb8000}},
     0,
     NULL,
     "not all RAM"},
    {"elf: segments overlap",
     CASE_ELF_64,
     {{P64(2, p_paddr), 8, ELF_TEXT + ELF_TEXT_SIZE - 1}},
     0,
     NULL,
     "overlaps another part"},
    {"elf: segments overlap, 32-bit",
     CASE_ELF_32,
     {{P32(2, p_paddr), 4, ELF_TEXT - ELF_DATA_MEMORY + 1}},
     0,
     NULL,
     "overlaps another part"},
    {"elf: entry outside every segment",
     CASE_ELF_64,
     {{E64(e_entry), 8, 0x42}},
     0,
     NULL,
     "in none of its segments"},
    {"elf: entry behind the text",
     CASE_ELF_32,
     {{E32(e_entry), 4, ELF_TEXT + ELF_TEXT_SIZE}},
     0,
     NULL,
     "in none of its segments"},
    {"elf: entry in bss",
     CASE_ELF_64,
     {{E64(e_entry), 8, ELF_DATA + ELF_DATA_SIZE}},
     0,
     NULL,
     "in none of its segments"},
    {"elf: entry in a segment that is not loaded",
     CASE_ELF_64,
     {{P64(0, p_type), 4, PT_NOTE}},
     0,
     NULL,
     "in none of its segments"},
    {"elf: the most segments", CASE_ELF_64, {{0}}, 0, segments_190, NULL},
    {"elf: the most segments, and a module",
     CASE_ELF_64,
     {{0}},
     0,
     segments_190_and_a_module,
     "no room for module 1"},
    {"elf: the most segments, over the file",
     CASE_ELF_64,
     {{0}},
     0,
     segments_190_over_the_file,
     "out of the way"},
    {"elf: one segment too many",
     CASE_ELF_64,
     {{0}},
     0,
     segments_191,
     "no room below 4 GiB for the Multiboot"},
    {"elf: two segments too many", CASE_ELF_64, {{0}}, 0, segments_192, "more parts than Plastron can place"},
    {"elf: small section headers",
     CASE_ELF_64,
     {{E64(e_shentsize), 2, 63}},
     0,
     NULL,
     "section headers have 63 bytes"},
    {"elf: small section headers, 32-bit",
     CASE_ELF_32,
     {{E32(e_shentsize), 2, 39}},
     0,
     NULL,
     "section headers have 39 bytes"},
    {"elf: cut within the section headers",
     CASE_ELF_64,
     {{0}},
     ELF_SECTIONS_OFFSET + 6 * sizeof(Elf64_Shdr) - 1,
     NULL,
     "truncated: its section headers"},
    {"elf: section headers wrap around",
     CASE_ELF_64,
     {{E64(e_shoff), 8, -64ull}},
     0,
     NULL,
     "section headers lie"},
    {"elf: section beyond the file",
     CASE_ELF_64,
     {{S64(4, sh_offset), 8, 0x10000}},
     0,
     NULL,
     "truncated: section 4"},
    {"elf: section wraps around",
     CASE_ELF_64,
     {{S64(4, sh_size), 8, -1ull}},
     0,
     NULL,
     "truncated: section 4"},
    {"elf: section ends behind the file",
     CASE_ELF_32,
     {{S32(5, sh_size), 4, 0x4000}},
     0,
     NULL,
     "truncated: section 5"},
};

static void cut_anywhere(void **state)
{
    enum elf_file bits = *(const enum elf_file *)*state;
    struct image image = image_elf(bits);
    for (uint64_t size = 0; size < image.size; size += size < 0x140 ? 1 : 97) {
        struct world world;
        world_begin(&world);
        world_add_module(&world, (struct image){image.bytes, size}, WORLD_L0_START - size, "");
        assert_false(world_load(&world));
        world_end(&world);
    }
    free(image.bytes);
}

#define TEST_WITH(f, argument)                                                                               \
    (struct CMUnitTest)                                                                                      \
    {                                                                                                        \
        .name = "elf: " #f "(" #argument ")", .test_func = f, .initial_state = argument                      \
    }
#define TEST(f)                                                                                              \
    (struct CMUnitTest)                                                                                      \
    {                                                                                                        \
        .name = "elf: " #f, .test_func = f                                                                   \
    }

int run_elf_tests(void)
{
    static enum elf_file elf32[] = {ELF_FILE_32}, elf64[] = {ELF_FILE_64};
    static uint64_t first[] = {ELF_TEXT}, last[] = {ELF_TEXT + ELF_TEXT_SIZE - 1};
    struct CMUnitTest tests[] = {
        TEST_WITH(loads, elf32),
        TEST_WITH(loads, elf64),
        TEST_WITH(entry_may_be_physical, elf32),
        TEST_WITH(entry_may_be_physical, elf64),
        TEST_WITH(entry_may_be_the_first_byte_or_the_last, first),
        TEST_WITH(entry_may_be_the_first_byte_or_the_last, last),
        TEST(stripped_of_sections),
        TEST(empty_section_at_the_files_end),
        TEST(sections_without_room_are_left_out),
        TEST(segment_may_end_where_l0_begins),
        TEST_WITH(cut_anywhere, elf32),
        TEST_WITH(cut_anywhere, elf64),
    };
    struct CMUnitTest rows[sizeof images / sizeof *images];
    for (size_t i = 0; i < sizeof images / sizeof *images; i++)
        rows[i] = CASE_TEST(&images[i]);
    return cmocka_run_group_tests_name("elf", tests, NULL, NULL) +
           cmocka_run_group_tests_name("elf images", rows, NULL, NULL);
}
