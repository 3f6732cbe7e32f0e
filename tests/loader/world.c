// SPDX-License-Identifier: MIT
#include "world.h"

#include <sanitizer/asan_interface.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

uint64_t noise_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

void put16(uint8_t *at, uint64_t value)
{
    for (int i = 0; i < 2; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}
void put32(uint8_t *at, uint64_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}
void put64(uint8_t *at, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    while (bytes--)
        value = value << 8 | at[bytes];
    return value;
}
uint64_t get16(const uint8_t *at)
{
    return get(at, 2);
}
uint64_t get32(const uint8_t *at)
{
    return get(at, 4);
}
uint64_t get64(const uint8_t *at)
{
    return get(at, 8);
}

// One world at a time, and its memory is used again: tests make thousands of them.
static uint8_t *memory_block(int index)
{
    static uint8_t *blocks[2];
    if (!blocks[index])
        blocks[index] = malloc(WORLD_SIZE);
    return blocks[index];
}

static void leave_text_screen(uint8_t *memory)
{
    memory[0x449] = 3;
    put16(memory + 0x44a, 80);
    memory[0x450] = 7; // the cursor's column and row
    memory[0x451] = 9;
    memory[0x484] = 24;
    put16(memory + 0x485, 16);
}

// Made once: a test makes many worlds.
static const uint64_t *noise_block(void)
{
    static uint64_t block[WORLD_SIZE / 8];
    uint64_t noise = 0x1234567;
    for (size_t i = 0; i < WORLD_SIZE / 8 && !block[WORLD_SIZE / 8 - 1]; i++)
        block[i] = noise_next(&noise);
    return block;
}

void world_begin(struct world *world)
{
    *world = (struct world){.size = WORLD_SIZE};
    world->memory = memory_block(0);
    world->before = memory_block(1);
    memcpy(world->memory, noise_block(), WORLD_SIZE);
    leave_text_screen(world->memory);
    put32(world->memory + 0x54, WORLD_BIOS_15);
    put16(world->memory + 0x413, WORLD_BASE_KIB);
    world->has_bios = true;
    world->request = (struct l1_load_request){
        .memory = world->memory,
        .map = world->map,
        .modules = world->modules,
        .rsdp = 0xf5a40,
        .refusal = world->refusal,
        .refusal_size = sizeof world->refusal,
    };
    world_add_range(world, 0, WORLD_LOW_END, MEMORY_RAM);
    world_add_range(world, WORLD_LOW_END, 0x100000, MEMORY_RESERVED);
    world_add_range(world, 0x100000, 0x200000, MEMORY_RAM); // two ranges that are one run of RAM
    world_add_range(world, 0x200000, WORLD_L0_START, MEMORY_RAM);
    world_add_range(world, WORLD_L0_START, WORLD_L0_END, MEMORY_RESERVED);
    world_add_range(world, WORLD_L0_END, 0x3f0000, MEMORY_RAM);
    world_add_range(world, 0x3f0000, WORLD_SIZE, 3); // ACPI tables
}

void world_end(struct world *world)
{
    for (uint32_t i = 0; i < WORLD_MODULES; i++)
        free(world->files[i].bytes);
}

void world_add_range(struct world *world, uint64_t start, uint64_t end, uint32_t type)
{
    assert_true(world->request.map_count < WORLD_RANGES);
    world->map[world->request.map_count++] = (struct memory_range){start, end, type};
}

void world_add_module(struct world *world, struct image image, uint64_t at, const char *string)
{
    uint32_t index = world->request.module_count++;
    assert_true(index < WORLD_MODULES);
    assert_true(at + image.size <= world->size);
    world->modules[index] = (struct l1_module){.start = at, .size = image.size, .string = string};
    memcpy(world->memory + at, image.bytes, image.size);
    // What overlaps an earlier module is what the loader will see of that one, too.
    for (uint32_t i = 0; i <= index; i++) {
        struct l1_module *module = &world->modules[i];
        if (module->start >= at + image.size || at >= module->start + module->size) {
            if (i < index)
                continue;
        }
        free(world->files[i].bytes);
        world->files[i] = image_copy((struct image){world->memory + module->start, module->size});
    }
}

bool world_is_ram(const struct world *world, uint64_t start, uint64_t size)
{
    uint64_t at = start, end = start + size;
    if (end < start)
        return false;
    for (uint32_t i = 0; i < world->request.map_count && at < end; i++) {
        const struct memory_range *range = &world->map[i];
        if (range->type == MEMORY_RAM && at >= range->start && at < range->end)
            at = range->end;
    }
    return at >= end;
}

uint32_t world_told_map(const struct world *world, struct memory_range *map, uint64_t *page)
{
    uint64_t end = world->map[0].type == MEMORY_RAM && world->map[0].start == 0 ? world->map[0].end : 0;
    end = (end < WORLD_BASE_KIB * 1024 ? end : WORLD_BASE_KIB * 1024) & ~0xfffull;
    *page = world->has_bios && end >= 0x11000 ? end - 0x1000 : 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < world->request.map_count; i++) {
        map[count++] = world->map[i];
        if (i != 0 || !*page)
            continue;
        map[0].end = *page;
        map[count++] = (struct memory_range){*page, world->map[0].end, MEMORY_RESERVED};
    }
    return count;
}

// Calls back for every part of the memory that is not RAM.
static void for_not_ram(struct world *world, void (*callback)(struct world *, uint64_t start, uint64_t end))
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < world->request.map_count; i++) {
        const struct memory_range *range = &world->map[i];
        if (range->type != MEMORY_RAM || range->start >= world->size)
            continue;
        if (at < range->start)
            callback(world, at, range->start);
        at = range->end;
    }
    if (at < world->size)
        callback(world, at, world->size);
}

static void poison(struct world *world, uint64_t start, uint64_t end)
{
    __asan_poison_memory_region(world->memory + start, end - start);
}
static void unpoison(struct world *world, uint64_t start, uint64_t end)
{
    __asan_unpoison_memory_region(world->memory + start, end - start);
}
static void check_untouched(struct world *world, uint64_t start, uint64_t end)
{
    assert_int_equal(memcmp(world->memory + start, world->before + start, end - start), 0);
}

bool world_load(struct world *world)
{
    bool snapshot = world->before != NULL;
    if (snapshot)
        memcpy(world->before, world->memory, world->size);
    memset(&world->start, 0xcc, sizeof world->start);
    memset(world->refusal, 0x7f, sizeof world->refusal);
    for_not_ram(world, poison);
    bool loaded = l1_load(&world->request, &world->start);
    for_not_ram(world, unpoison);
    if (snapshot)
        for_not_ram(world, check_untouched);
    if (loaded) {
        if (strncmp(world->start.kind, "Linux", 5) == 0)
            check_linux(world);
        else
            check_multiboot(world);
        return true;
    }
    if (snapshot)
        assert_int_equal(memcmp(world->memory, world->before, world->size), 0);
    size_t length = strnlen(world->refusal, sizeof world->refusal);
    assert_true(length > 10 && length < sizeof world->refusal - 1); // not cut either
    for (size_t i = 0; i < length; i++)
        assert_true(world->refusal[i] >= ' ' && world->refusal[i] < 0x7f && world->refusal[i] != '%');
    return false;
}

void world_must_load(struct world *world)
{
    if (!world_load(world))
        fail_msg("refused: %s", world->refusal);
}

void world_must_refuse(struct world *world, const char *part)
{
    if (world_load(world))
        fail_msg("loaded, but should have been refused with: %s", part);
    if (!strstr(world->refusal, part))
        fail_msg("refused with \"%s\" instead of: %s", world->refusal, part);
}
