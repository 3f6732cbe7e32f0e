// SPDX-License-Identifier: MIT
// Good images in arbitrary places of arbitrary machines, and damaged images. The machine checks every outcome
// by itself (world_load); here only the mix of outcomes is checked, so that the noise stays worth its time.
// FUZZ_ROUNDS=n in the environment makes it n times as long.
#include "cases.h"

#include <stdlib.h>
#include <string.h>

#define ROUNDS 1500

static uint64_t rounds(void)
{
    const char *factor = getenv("FUZZ_ROUNDS");
    return ROUNDS * (factor ? strtoull(factor, NULL, 10) : 1);
}

static uint64_t below(uint64_t *noise, uint64_t limit)
{
    return noise_next(noise) % limit;
}

static struct image pick_image(uint64_t *noise)
{
    return case_image((enum case_image)below(noise, 4));
}

// Holes, and ranges that begin and end within pages.
static void change_map(struct world *world, uint64_t *noise)
{
    if (below(noise, 3) == 0)
        world->map[0].end = world->map[1].start = 0x400 * below(noise, WORLD_LOW_END / 0x400);
    if (below(noise, 3) == 0)
        world->map[3].start += 0x400 * below(noise, 0x100);
    if (below(noise, 3) == 0)
        world->map[3].end = 0x200000 + 0x400 * below(noise, 0x600);
    if (world->map[3].end <= world->map[3].start)
        world->map[3].end = world->map[3].start + 0x400;
    if (below(noise, 3) == 0)
        world->map[5].type = 2;
}

static uint64_t pick_place(const struct world *world, uint64_t size, uint64_t *noise)
{
    uint64_t at = 0;
    for (int attempts = 0; attempts < 50; attempts++) {
        const struct memory_range *range = &world->map[below(noise, world->request.map_count)];
        uint64_t room = range->end - range->start;
        if (range->type != MEMORY_RAM || room < size || range->end <= 0x1000)
            continue;
        at = range->start + below(noise, room - size + 1);
        if (below(noise, 3) == 0)
            at = range->end - size; // against the end: reading on is caught
        else if (below(noise, 2) == 0 && (at & ~0xfffull) >= range->start)
            at &= ~0xfffull;
        if (at >= 0x1000)
            return at;
    }
    return WORLD_L0_START - size;
}

static void place_modules(struct world *world, struct image image, uint64_t *noise)
{
    static const char *strings[] = {"", "quiet", "console=ttyS0 root=/dev/sda1"};
    uint64_t count = below(noise, 3) + (below(noise, 8) == 0) * below(noise, 30);
    world_add_module(world, image, pick_place(world, image.size, noise), strings[below(noise, 3)]);
    for (uint64_t i = 0; i < count; i++) {
        static const uint64_t limits[] = {1, 0x100, 0x4000, 0x40000, 0x120000};
        struct image module = image_noise(below(noise, limits[below(noise, 5)]));
        world_add_module(world, module, pick_place(world, module.size, noise), strings[below(noise, 3)]);
        free(module.bytes);
    }
}

static void good_images_in_arbitrary_places(void **state)
{
    (void)state;
    uint64_t noise = 0x5eed0001, loaded = 0;
    for (uint64_t round = 0; round < rounds(); round++) {
        struct world world;
        struct image image = pick_image(&noise);
        world_begin(&world);
        change_map(&world, &noise);
        place_modules(&world, image, &noise);
        loaded += world_load(&world);
        world_end(&world);
        free(image.bytes);
    }
    assert_true(loaded > rounds() / 4 && loaded < rounds());
}

// Most bytes decide nothing: the damage goes where the decisions are.
static void damage(struct image *image, uint64_t *noise)
{
    static const uint64_t spots[][2] = {
        {0, 0x40},  {0x20, 0x120}, {0x1f0, 0x80}, {ELF_HEADER_OFFSET, 12}, {ELF_SECTIONS_OFFSET, 0x180},
        {0, 0x2000}};
    static const uint64_t values[] = {
        0,     1,          0x7f,       0xff,           0xffff,           0x7fffffff, 0xffffffff, 0xfffff000,
        -1ull, -0x1000ull, 1ull << 63, WORLD_L0_START, WORLD_L0_END - 1, 0x100000,   0x9f000};
    uint64_t count = 1 + below(noise, 4);
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t *spot = spots[below(noise, 6)];
        uint64_t at = (spot[0] + below(noise, spot[1])) % (image->size - 8);
        switch (below(noise, 5)) {
        case 0:
            image->bytes[at] ^= (uint8_t)(1 << below(noise, 8));
            break;
        case 1:
            image->bytes[at] = (uint8_t)noise_next(noise);
            break;
        case 2:
            put32(image->bytes + (at & ~3ull), values[below(noise, 15)]);
            break;
        case 3:
            put64(image->bytes + (at & ~7ull), values[below(noise, 15)]);
            break;
        case 4:
            put32(image->bytes + (at & ~3ull), get32(image->bytes + (at & ~3ull)) + below(noise, 64) - 32);
            break;
        }
    }
    if (below(noise, 4) == 0)
        image->size = below(noise, image->size + 1);
}

static void damaged_images(void **state)
{
    (void)state;
    uint64_t noise = 0x5eed0002, loaded = 0;
    for (uint64_t round = 0; round < rounds(); round++) {
        struct world world;
        struct image image = pick_image(&noise);
        damage(&image, &noise);
        world_begin(&world);
        place_modules(&world, image, &noise);
        loaded += world_load(&world);
        world_end(&world);
        free(image.bytes);
    }
    assert_true(loaded > rounds() / 8 && loaded < rounds() * 7 / 8);
}

int run_fuzz_tests(void)
{
    const struct CMUnitTest tests[] = {
        {.name = "noise: good images in arbitrary places", .test_func = good_images_in_arbitrary_places},
        {.name = "noise: damaged images", .test_func = damaged_images},
    };
    return cmocka_run_group_tests_name("noise", tests, NULL, NULL);
}
