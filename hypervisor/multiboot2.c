// SPDX-License-Identifier: MIT
// Multiboot2 specification: Boot information format.
#include "multiboot2.h"

#include "direct_map.h"
#include "string.h"

enum tag_type {
    TAG_END = 0,
    TAG_COMMAND_LINE = 1,
    TAG_MODULE = 3,
    TAG_MEMORY_MAP = 6,
    TAG_ACPI_OLD = 14,
    TAG_ACPI_NEW = 15,
};

struct tag {
    uint32_t type, size;
};
struct tag_string {
    struct tag tag;
    char string[];
};
struct tag_module {
    struct tag tag;
    uint32_t start, end;
    char string[];
};
struct memory_map_entry {
    uint64_t base, length;
    uint32_t type, reserved;
};
struct tag_memory_map {
    struct tag tag;
    uint32_t entry_size, entry_version;
    uint8_t entries[];
};

// Strings live in the image, because all other memory will be L1's.
static char string_pool[16384];
static size_t string_pool_used;
static uint8_t rsdp_copy[64];

static const char *keep_string(const char *from, size_t limit)
{
    size_t length = 0;
    while (length < limit && from[length] != '\0')
        length++;
    if (length + 1 > sizeof(string_pool) - string_pool_used)
        return NULL;
    char *kept = &string_pool[string_pool_used];
    memcpy(kept, from, length);
    kept[length] = '\0';
    string_pool_used += length + 1;
    return kept;
}

static const char *read_memory_map(const struct tag_memory_map *tag, struct memory_map *map)
{
    if (tag->entry_size < sizeof(struct memory_map_entry))
        return "the boot loader's memory map has an unknown format";
    uint32_t count = (tag->tag.size - sizeof(*tag)) / tag->entry_size;
    // RAM first: where a firmware lists an address twice, what is not RAM counts.
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < count; i++) {
            struct memory_map_entry entry;
            memcpy(&entry, tag->entries + (size_t)i * tag->entry_size, sizeof(entry));
            if (entry.length == 0 || entry.base + entry.length < entry.base)
                continue;
            if ((entry.type == MEMORY_RAM) == (pass == 0) &&
                !memory_map_set(map, entry.base, entry.base + entry.length, entry.type))
                return "the boot loader's memory map has too many entries";
        }
    }
    return NULL;
}

static const char *read_module(const struct tag_module *tag, struct multiboot2_info *info)
{
    if (info->module_count == MULTIBOOT2_MODULE_MAX)
        return "the boot loader passed too many modules";
    const char *string = keep_string(tag->string, tag->tag.size - sizeof(*tag));
    if (string == NULL)
        return "the command lines are too long";
    info->module[info->module_count++] = (struct l1_module){
        .start = tag->start,
        .size = tag->end > tag->start ? tag->end - tag->start : 0,
        .string = string,
    };
    return NULL;
}

static const char *read_tag(const struct tag *tag, struct multiboot2_info *info)
{
    switch (tag->type) {
    case TAG_COMMAND_LINE:
        info->options = keep_string(((const struct tag_string *)tag)->string, tag->size - sizeof(*tag));
        return info->options == NULL ? "the command lines are too long" : NULL;
    case TAG_MODULE:
        return read_module((const struct tag_module *)tag, info);
    case TAG_MEMORY_MAP:
        return read_memory_map((const struct tag_memory_map *)tag, &info->memory);
    case TAG_ACPI_OLD:
    case TAG_ACPI_NEW: {
        size_t size = tag->size - sizeof(*tag);
        memcpy(rsdp_copy, tag + 1, size < sizeof(rsdp_copy) ? size : sizeof(rsdp_copy));
        info->rsdp_copy = rsdp_copy;
        return NULL;
    }
    default:
        return NULL;
    }
}

const char *multiboot2_read(uint64_t physical, struct multiboot2_info *info)
{
    const uint8_t *base = direct_map(physical);
    uint32_t total = *(const uint32_t *)direct_map(physical);
    info->options = "";
    info->start = physical;
    info->end = physical + total;
    for (uint32_t offset = 8; offset + sizeof(struct tag) <= total;) {
        struct tag tag;
        memcpy(&tag, base + offset, sizeof(tag));
        if (tag.type == TAG_END)
            break;
        if (tag.size < sizeof(tag) || tag.size > total - offset)
            return "the boot loader's information is damaged";
        const char *problem = read_tag(direct_map(physical + offset), info);
        if (problem != NULL)
            return problem;
        offset += (tag.size + 7) & ~7u;
    }
    return info->memory.count == 0 ? "the boot loader passed no memory map" : NULL;
}
