// SPDX-License-Identifier: MIT
#include "cases.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// Places an image as a user's command would; frees it.
static void add(struct world *world, struct image image, uint64_t at, const char *string)
{
    world_add_module(world, image, at, string);
    free(image.bytes);
}

static void loads_at_its_preferred_address(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    add(&world, image_linux(), 0x240000, "console=ttyS0 quiet");
    world_must_load(&world);
    assert_string_equal(world.start.kind, "Linux 64-bit boot protocol");
    assert_int_equal(world.start.rip, LINUX_PREF + 0x200);
    assert_int_equal(world.start.rsi & 0xfff, 0);
    world_end(&world);
}

static void zero_setup_sects_means_four(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    struct image image = image_linux();
    image.bytes[0x1f1] = 0;
    put32(image.bytes + 0x1f4, 0x100);
    add(&world, image, 0x240000, "");
    world_must_load(&world);
    world_end(&world);
}

static void tells_of_the_firmwares_text_screen(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    add(&world, image_linux(), 0x240000, "");
    world_must_load(&world);
    const uint8_t *screen = world.memory + world.start.rsi;
    assert_int_equal(screen[0], 7);
    assert_int_equal(screen[1], 9);
    assert_int_equal(get16(screen + 2),
                     (WORLD_L0_START - 0x100000) / 1024);                        // ext_mem_k
    assert_int_equal(get32(screen + 0x1e0), (WORLD_L0_START - 0x100000) / 1024); // alt_mem_k
    assert_int_equal(screen[6], 3);
    assert_int_equal(screen[7], 80);
    assert_int_equal(get16(screen + 0xa), 3);
    assert_int_equal(screen[0xe], 25);
    assert_int_equal(screen[0xf], 1);
    assert_int_equal(get16(screen + 0x10), 16);
    world_end(&world);
}

static void tells_of_no_screen_without_one(void **state)
{
    const uint32_t *where = *state; // the BIOS data area's field, and what it holds
    struct world world;
    world_begin(&world);
    world.memory[where[0]] = (uint8_t)where[1];
    add(&world, image_linux(), 0x240000, "");
    world_must_load(&world);
    const uint8_t *screen = world.memory + world.start.rsi;
    assert_int_equal(screen[0] | screen[1] | screen[6] | screen[7] | screen[0xe] | screen[0xf] | screen[0x10],
                     0);
    world_end(&world);
}

static void initrd_stays_where_it_is(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    add(&world, image_linux(), 0x1b0000, "");
    add(&world, image_noise(0x4321), 0x260000, "");
    world_must_load(&world);
    assert_int_equal(get32(world.memory + world.start.rsi + 0x218), 0x260000);
    world_end(&world);
}

// 1 MiB is the lowest, and initrd_addr_max the highest place.
static void initrd_stays_at_the_edge(void **state)
{
    uint64_t at = *(const uint64_t *)*state;
    struct world world;
    world_begin(&world);
    struct image image = image_linux();
    put32(image.bytes + 0x22c, 0x2fffff);
    add(&world, image, 0x1b0000, "");
    add(&world, image_noise(0x4000), at, "");
    world_must_load(&world);
    assert_int_equal(get32(world.memory + world.start.rsi + 0x218), at);
    world_end(&world);
}

static void preferred_address_need_not_be_aligned(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    struct image image = image_linux();
    put32(image.bytes + 0x230, 0x200000);
    add(&world, image, 0x240000, "");
    world_must_load(&world);
    assert_int_equal(world.start.rip, LINUX_PREF + 0x200);
    world_end(&world);
}

// It need not move, and could not: there is no room for a second copy of it.
static void large_initrd_stays(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    add(&world, image_linux(), 0x100000, "");
    add(&world, image_noise(0x190000), 0x1b0000, "");
    world_must_load(&world);
    world_end(&world);
}

// Above L0's memory, if it fits there to the byte.
static void initrd_goes_to_the_top(void **state)
{
    const uint64_t *fit = *state; // where the RAM above L0 begins, the size, and where the initrd must be
    struct world world;
    world_begin(&world);
    world.map[5].start = fit[0];
    add(&world, image_linux(), 0x240000, "");
    add(&world, image_noise(fit[1]), 0x260010, "");
    world_must_load(&world);
    assert_int_equal(get32(world.memory + world.start.rsi + 0x218), fit[2]);
    world_end(&world);
}

// Each of these places is one that the initrd cannot keep; it goes to the top of L1's RAM.
static void initrd_moves(void **state)
{
    uint64_t from = *(const uint64_t *)*state;
    struct world world;
    world_begin(&world);
    add(&world, image_linux(), 0x2a0000, "");
    put32(world.memory + world.modules[0].start + 0x22c, 0x37ffff); // initrd_addr_max
    put32(world.files[0].bytes + 0x22c, 0x37ffff);
    add(&world, image_noise(0x4321), from, "");
    world_must_load(&world);
    assert_int_equal(get32(world.memory + world.start.rsi + 0x218), (WORLD_L0_START - 0x4321) & ~0xfffu);
    world_end(&world);
}

static void initrd_obeys_initrd_addr_max(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    struct image image = image_linux();
    put32(image.bytes + 0x22c, 0x2fffff);
    add(&world, image, 0x240000, "");
    add(&world, image_noise(0x2000), 0x340000, "");
    world_must_load(&world);
    assert_int_equal(get32(world.memory + world.start.rsi + 0x218), 0x2fe000);
    world_end(&world);
}

static void empty_initrd_is_none(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    add(&world, image_linux(), 0x240000, "");
    add(&world, image_noise(0), 0x340000, "");
    world_must_load(&world);
    assert_int_equal(get32(world.memory + world.start.rsi + 0x218), 0);
    world_end(&world);
}

static void relocatable_kernel_moves_up(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    struct image image = image_linux();
    put64(image.bytes + 0x258, WORLD_L0_START - LINUX_INIT_SIZE + 0x1000); // would reach into L0
    put32(image.bytes + 0x230, 0x4000);
    add(&world, image, 0x240000, "");
    world.map[4].end = 0x390000; // L0 is smaller: there is room above it
    world.map[5].start = 0x391000;
    world_must_load(&world);
    assert_int_equal(world.start.rip, 0x394200);
    world_end(&world);
}

static void lies_over_its_own_file(void **state)
{
    uint64_t shift = *(const uint64_t *)*state;
    struct world world;
    world_begin(&world);
    add(&world, image_linux(), LINUX_PREF + 0x3000 - shift, "x");
    add(&world, image_noise(0x11000), LINUX_PREF + 0x14000, "");
    world_must_load(&world);
    world_end(&world);
}

static void boot_params_go_high_without_low_memory(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world);
    world.map[0].end = 0xf000;
    world.map[1].start = 0xf000;
    add(&world, image_linux(), 0x240000, "a long enough command line");
    world_must_load(&world);
    assert_true(world.start.rsi >= 0x100000);
    world_end(&world);
}

static void longest_command_line(void **state)
{
    (void)state;
    char text[101];
    memset(text, 'x', 100);
    text[100] = 0;
    struct world world;
    world_begin(&world);
    add(&world, image_linux(), 0x240000, text);
    world_must_load(&world);
    world_end(&world);
}

// 6 GiB of which only the touched pages exist.
static void sparse_world_begin(struct world *world)
{
    world_begin(world);
    world->before = NULL;
    world->has_bios = false;
    world->size = 6ull << 30;
    world->memory =
        mmap(NULL, world->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(world->memory, MAP_FAILED);
    world->request.memory = world->memory;
    world->request.map_count = 0;
    world_add_range(world, 0, WORLD_LOW_END, MEMORY_RAM);
    world_add_range(world, 0x100000, 0x1d0000, MEMORY_RAM);
    world_add_range(world, 0x100000000, 6ull << 30, MEMORY_RAM);
}

static void sparse_world_end(struct world *world)
{
    munmap(world->memory, world->size);
    world_end(world);
}

static void initrd_goes_above_4_gib_if_linux_can(void **state)
{
    (void)state;
    struct world world;
    sparse_world_begin(&world);
    struct image image = image_linux();
    put16(image.bytes + 0x236, 3);
    add(&world, image, 0x110000, "");
    add(&world, image_noise(0x90000), 0x120000000, "");
    world_must_load(&world);
    assert_int_equal(get32(world.memory + world.start.rsi + 0xc0), 1); // ext_ramdisk_image: the top of RAM
    sparse_world_end(&world);
}

static void initrd_does_not_go_above_4_gib_otherwise(void **state)
{
    (void)state;
    struct world world;
    sparse_world_begin(&world);
    add(&world, image_linux(), 0x110000, "");
    add(&world, image_noise(0x90000), 0x120000000, "");
    world_must_refuse(&world, "no room for the initrd");
    sparse_world_end(&world);
}

static void kernel_does_not_go_above_4_gib(void **state)
{
    (void)state;
    struct world world;
    sparse_world_begin(&world);
    struct image image = image_linux();
    put64(image.bytes + 0x258, *(const uint64_t *)*state);
    add(&world, image, 0x110000, "");
    world_must_refuse(&world, "4 GiB");
    sparse_world_end(&world);
}

static void two_initrds(struct world *world, struct image *image)
{
    world_add_module(world, *image, 0x240000, "");
    add(world, image_noise(10), 0x300000, "");
    add(world, image_noise(10), 0x301000, "");
}
static void large_initrd(struct world *world, struct image *image)
{
    world_add_module(world, *image, 0x100000, "");
    add(world, image_noise(WORLD_L0_START - 0x118000), 0x118000, "");
}
static void long_command_line(struct world *world, struct image *image)
{
    static char text[102];
    memset(text, 'x', 101);
    world_add_module(world, *image, 0x240000, text);
}
static void scattered_map(struct world *world, struct image *image)
{
    (void)image;
    while (world->request.map_count < 128) // and one more for the BIOS's page
        world_add_range(world, 0x10000000 + world->request.map_count * 0x2000ull,
                        0x10001000 + world->request.map_count * 0x2000ull, 2);
}
static void just_scattered_map(struct world *world, struct image *image)
{
    (void)image;
    while (world->request.map_count < 127)
        world_add_range(world, 0x10000000 + world->request.map_count * 0x2000ull,
                        0x10001000 + world->request.map_count * 0x2000ull, 2);
}
static void little_low_memory(struct world *world, struct image *image)
{
    world->map[0].end = 0xf000;
    world->map[2].start = world->map[1].end = LINUX_PREF;
    world->map[2].end = LINUX_PREF + LINUX_INIT_SIZE;
    world->map[3].type = world->map[5].type = MEMORY_RESERVED;
    world_add_module(world, *image, LINUX_PREF + 0x1000, "");
}
// The kernel fits, and so does its file, but the file has nowhere to wait while the kernel takes its place.
static void no_room_to_wait(struct world *world, struct image *image)
{
    world->map[0].end = 0x40000;
    world->map[2].start = world->map[1].end = LINUX_PREF;
    world->map[2].end = LINUX_PREF + LINUX_INIT_SIZE;
    world->map[3].type = world->map[5].type = MEMORY_RESERVED;
    world_add_module(world, *image, LINUX_PREF + 0x1000, "");
}

static const struct image_case images[] = {
    {"linux: protocol 2.12 will do", CASE_LINUX, {{0x206, 2, 0x20c}}, 0, NULL, NULL},
    {"linux: the shortest setup header", CASE_LINUX, {{0x201, 1, 0x66}}, 0, NULL, NULL},
    {"linux: the longest setup header", CASE_LINUX, {{0x201, 1, 0x8e}}, 0, NULL, NULL},
    {"linux: not a byte more than needed",
     CASE_LINUX,
     {{0}},
     (LINUX_SECTS + 1) * 512 + LINUX_CODE_SIZE,
     NULL,
     NULL},
    {"linux: init_size is the code's size", CASE_LINUX, {{0x260, 4, LINUX_CODE_SIZE}}, 0, NULL, NULL},
    {"linux: pref_address is 1 MiB", CASE_LINUX, {{0x258, 8, 0x100000}}, 0, NULL, NULL},
    {"linux: fixed, up to L0's memory",
     CASE_LINUX,
     {{0x234, 1, 0}, {0x230, 4, 0}, {0x258, 8, WORLD_L0_START - LINUX_INIT_SIZE}},
     0,
     NULL,
     NULL},
    {"linux: 128 memory ranges", CASE_LINUX, {{0}}, 0, just_scattered_map, NULL},
    {"linux: cut within the setup header",
     CASE_LINUX,
     {{0}},
     0x230,
     NULL,
     "truncated: 560 bytes do not hold"},
    {"linux: cut one byte before the header's end",
     CASE_LINUX,
     {{0}},
     0x267,
     NULL,
     "do not hold its setup header"},
    {"linux: cut after the setup header", CASE_LINUX, {{0}}, 0x268, NULL, "truncated: it should have"},
    {"linux: cut by one byte of code",
     CASE_LINUX,
     {{0}},
     (LINUX_SECTS + 1) * 512 + LINUX_CODE_SIZE - 1,
     NULL,
     "truncated: it should have 26912 bytes and has 26911"},
    {"linux: wrong boot flag", CASE_LINUX, {{0x1fe, 2, 0xaa56}}, 0, NULL, "boot flag is 0xaa56"},
    {"linux: protocol 2.11", CASE_LINUX, {{0x206, 2, 0x20b}}, 0, NULL, "speaks boot protocol 2.11"},
    {"linux: setup header too short", CASE_LINUX, {{0x201, 1, 0x65}}, 0, NULL, "setup header ends at 0x267"},
    {"linux: setup header too long", CASE_LINUX, {{0x201, 1, 0x8f}}, 0, NULL, "setup header ends at 0x291"},
    {"linux: zImage", CASE_LINUX, {{0x211, 1, 0x80}}, 0, NULL, "zImage"},
    {"linux: 32-bit kernel", CASE_LINUX, {{0x236, 2, 0}}, 0, NULL, "32-bit kernel"},
    {"linux: no protected-mode part",
     CASE_LINUX,
     {{0x1f4, 4, 0x20}},
     0,
     NULL,
     "protected-mode part has 512 bytes"},
    {"linux: size beyond all files", CASE_LINUX, {{0x1f4, 4, 0xffffffff}}, 0, NULL, "truncated"},
    {"linux: init_size less than the code",
     CASE_LINUX,
     {{0x260, 4, LINUX_CODE_SIZE - 1}},
     0,
     NULL,
     "init_size"},
    {"linux: init_size 0", CASE_LINUX, {{0x260, 4, 0}}, 0, NULL, "init_size"},
    {"linux: init_size beyond all memory",
     CASE_LINUX,
     {{0x260, 4, 0xffffffff}},
     0,
     NULL,
     "needs 4194303 KiB of RAM"},
    {"linux: pref_address below 1 MiB", CASE_LINUX, {{0x258, 8, 0xff000}}, 0, NULL, "below 1 MiB"},
    {"linux: pref_address wraps around",
     CASE_LINUX,
     {{0x258, 8, 0xfffffffffffff000}},
     0,
     NULL,
     "of RAM in one piece"},
    {"linux: pref_address above 4 GiB",
     CASE_LINUX,
     {{0x258, 8, 0x100000000}},
     0,
     NULL,
     "of RAM in one piece"},
    {"linux: alignment 0", CASE_LINUX, {{0x230, 4, 0}}, 0, NULL, "kernel_alignment is 0x0"},
    {"linux: alignment less than a page",
     CASE_LINUX,
     {{0x230, 4, 0x800}},
     0,
     NULL,
     "kernel_alignment is 0x800"},
    {"linux: alignment no power of two",
     CASE_LINUX,
     {{0x230, 4, 0x3000}},
     0,
     NULL,
     "kernel_alignment is 0x3000"},
    {"linux: fixed, but its place is L0's",
     CASE_LINUX,
     {{0x234, 1, 0}, {0x258, 8, WORLD_L0_START}},
     0,
     NULL,
     "must be at 0x380000"},
    {"linux: fixed, and reaches into L0",
     CASE_LINUX,
     {{0x234, 1, 0}, {0x258, 8, WORLD_L0_START - LINUX_INIT_SIZE + 1}},
     0,
     NULL,
     "must be at"},
    {"linux: needs more RAM than there is",
     CASE_LINUX,
     {{0x260, 4, WORLD_L0_START - 0x100000 + 1}},
     0,
     NULL,
     "of RAM in one piece"},
    {"linux: two initrds", CASE_LINUX, {{0}}, 0, two_initrds, "there are 2"},
    {"linux: initrd too large", CASE_LINUX, {{0}}, 0, large_initrd, "no room for the initrd"},
    {"linux: command line too long", CASE_LINUX, {{0}}, 0, long_command_line, "has 101 characters"},
    {"linux: too many memory ranges", CASE_LINUX, {{0}}, 0, scattered_map, "has 129 ranges"},
    {"linux: nowhere to put boot_params", CASE_LINUX, {{0}}, 0, little_low_memory, "boot_params"},
    {"linux: nowhere to keep the file meanwhile", CASE_LINUX, {{0}}, 0, no_room_to_wait, "out of the way"},
};

#define TEST_WITH(f, argument)                                                                               \
    (struct CMUnitTest)                                                                                      \
    {                                                                                                        \
        .name = "linux: " #f "(" #argument ")", .test_func = f, .initial_state = argument                    \
    }
#define TEST(f)                                                                                              \
    (struct CMUnitTest)                                                                                      \
    {                                                                                                        \
        .name = "linux: " #f, .test_func = f                                                                 \
    }

int run_linux_tests(void)
{
    static uint32_t graphics[] = {0x449, 0x12}, wide[] = {0x44a, 132}, no_rows[] = {0x484, 0},
                    tall[] = {0x485, 99};
    static uint64_t by_0[] = {0}, by_1[] = {1}, by_4k[] = {0x1000}, by_12k[] = {0x3000}, by_24k[] = {0x6000};
    static uint64_t lowest[] = {0x100000}, highest[] = {0x300000 - 0x4000};
    static uint64_t exactly[] = {0x3c0000, 0x30000, 0x3c0000}, a_page_less[] = {0x3c0000, 0x2f000, 0x3c1000},
                    not_for_want_of_alignment[] = {0x3c0800, 0x2f400, (WORLD_L0_START - 0x2f400) & ~0xfffull};
    static uint64_t low[] = {0x20000}, unaligned[] = {0x260010},
                    in_kernel[] = {LINUX_PREF + LINUX_INIT_SIZE - 0x1000}, above_max[] = {WORLD_L0_END},
                    in_image[] = {LINUX_PREF - 0x1000};
    static uint64_t at_4g[] = {0x100000000}, across_4g[] = {0x100000000 - LINUX_INIT_SIZE + 0x1000};
    struct CMUnitTest tests[] = {
        TEST(loads_at_its_preferred_address),
        TEST(zero_setup_sects_means_four),
        TEST(tells_of_the_firmwares_text_screen),
        TEST_WITH(tells_of_no_screen_without_one, graphics),
        TEST_WITH(tells_of_no_screen_without_one, wide),
        TEST_WITH(tells_of_no_screen_without_one, no_rows),
        TEST_WITH(tells_of_no_screen_without_one, tall),
        TEST(initrd_stays_where_it_is),
        TEST(preferred_address_need_not_be_aligned),
        TEST_WITH(initrd_stays_at_the_edge, lowest),
        TEST_WITH(initrd_stays_at_the_edge, highest),
        TEST(large_initrd_stays),
        TEST_WITH(initrd_goes_to_the_top, exactly),
        TEST_WITH(initrd_goes_to_the_top, a_page_less),
        TEST_WITH(initrd_goes_to_the_top, not_for_want_of_alignment),
        TEST_WITH(initrd_moves, low),
        TEST_WITH(initrd_moves, unaligned),
        TEST_WITH(initrd_moves, in_kernel),
        TEST_WITH(initrd_moves, above_max),
        TEST_WITH(initrd_moves, in_image),
        TEST(initrd_obeys_initrd_addr_max),
        TEST(empty_initrd_is_none),
        TEST(relocatable_kernel_moves_up),
        TEST_WITH(lies_over_its_own_file, by_0),
        TEST_WITH(lies_over_its_own_file, by_1),
        TEST_WITH(lies_over_its_own_file, by_4k),
        TEST_WITH(lies_over_its_own_file, by_12k),
        TEST_WITH(lies_over_its_own_file, by_24k),
        TEST(boot_params_go_high_without_low_memory),
        TEST(longest_command_line),
        TEST(initrd_goes_above_4_gib_if_linux_can),
        TEST(initrd_does_not_go_above_4_gib_otherwise),
        TEST_WITH(kernel_does_not_go_above_4_gib, at_4g),
        TEST_WITH(kernel_does_not_go_above_4_gib, across_4g),
    };
    struct CMUnitTest rows[sizeof images / sizeof *images];
    for (size_t i = 0; i < sizeof images / sizeof *images; i++)
        rows[i] = CASE_TEST(&images[i]);
    return cmocka_run_group_tests_name("linux", tests, NULL, NULL) +
           cmocka_run_group_tests_name("linux images", rows, NULL, NULL);
}
