// SPDX-License-Identifier: MIT
// What a Multiboot 1 kernel is told, and how its processor starts ("Boot information format", "Machine
// state").
#include "load_multiboot.h"
#include "string.h"

#define BOOTLOADER_MAGIC 0x2badb002u
// Kernels that know GRUB look for "GRUB 2" here: as with it, the command line has no program name in front.
#define LOADER_NAME "Plastron, as GRUB 2.0"

enum info_field {
    INFO_FLAGS = 0,
    INFO_MEM_LOWER = 4,
    INFO_MEM_UPPER = 8,
    INFO_CMDLINE = 16,
    INFO_MODS_COUNT = 20,
    INFO_MODS_ADDR = 24,
    INFO_ELF_COUNT = 28,
    INFO_ELF_SIZE = 32,
    INFO_ELF_ADDR = 36,
    INFO_ELF_NAMES = 40,
    INFO_MMAP_LENGTH = 44,
    INFO_MMAP_ADDR = 48,
    INFO_LOADER_NAME = 64,
    INFO_FRAMEBUFFER_ADDR = 88,
    INFO_FRAMEBUFFER_PITCH = 96,
    INFO_FRAMEBUFFER_WIDTH = 100,
    INFO_FRAMEBUFFER_HEIGHT = 104,
    INFO_FRAMEBUFFER_BPP = 108,
    INFO_FRAMEBUFFER_TYPE = 109,
    INFO_SIZE = 116,
};

enum info_flag {
    HAS_MEMORY = 1 << 0,
    HAS_CMDLINE = 1 << 2,
    HAS_MODULES = 1 << 3,
    HAS_ELF_SECTIONS = 1 << 5,
    HAS_MMAP = 1 << 6,
    HAS_LOADER_NAME = 1 << 9,
    HAS_FRAMEBUFFER = 1 << 12,
};

enum {
    MODULE_ENTRY = 16,
    MMAP_ENTRY = 24, // its first field, the size, does not count itself
    STACK_SIZE = LOAD_PAGE,
    FRAMEBUFFER_TEXT = 2,
};

// Where each part of the block begins, from the block's start. The strings come last.
struct info_layout {
    uint64_t gdt, stack_end, modules, mmap, strings, size;
};

static struct info_layout lay_out(const struct load_plan *plan)
{
    const struct l1_load_request *request = plan->request;
    struct info_layout layout;
    layout.gdt = load_round_up(INFO_SIZE, 16);
    layout.modules = layout.gdt + LOAD_GDT_SIZE;
    layout.mmap = layout.modules + (uint64_t)(request->module_count - 1) * MODULE_ENTRY;
    layout.stack_end = load_round_up(layout.mmap + (uint64_t)plan->map_count * MMAP_ENTRY, 16) + STACK_SIZE;
    layout.strings = layout.stack_end;
    layout.size = layout.strings + sizeof LOADER_NAME;
    for (uint32_t i = 0; i < request->module_count; i++)
        layout.size += strlen(request->modules[i].string) + 1;
    return layout;
}

bool multiboot_plan_info(struct load_plan *plan, struct multiboot_plan *multiboot)
{
    struct load_piece piece = {.kind = PIECE_BUILT, .size = lay_out(plan).size};
    return plan_add_lowest(plan, piece, LOAD_PAGE, LOAD_LOW_START, LOAD_LOW_END, &multiboot->info) ||
           plan_add_highest(plan, piece, LOAD_PAGE, LOAD_1M, LOAD_4G, &multiboot->info) ||
           load_refuse(plan->request, "there is no room below 4 GiB for the Multiboot information");
}

// Appends text to the strings at *at; returns where it is.
static uint32_t add_string(const struct load_plan *plan, uint64_t *at, const char *text)
{
    uint64_t start = *at, length = strlen(text);
    memcpy(plan->request->memory + start, text, length);
    plan->request->memory[start + length] = 0;
    *at = start + length + 1;
    return (uint32_t)start;
}

static void build_memory(const struct load_plan *plan, uint8_t *info, uint64_t mmap)
{
    const struct l1_load_request *request = plan->request;
    uint64_t lower = plan_ram_end(plan, 0) / 1024, upper = (plan_ram_end(plan, LOAD_1M) - LOAD_1M) / 1024;
    load_put32(info + INFO_MEM_LOWER, (uint32_t)(lower < 640 ? lower : 640));
    load_put32(info + INFO_MEM_UPPER, (uint32_t)(upper < UINT32_MAX ? upper : UINT32_MAX));
    for (uint32_t i = 0; i < plan->map_count; i++) {
        uint8_t *entry = request->memory + mmap + (uint64_t)i * MMAP_ENTRY;
        load_put32(entry, MMAP_ENTRY - 4);
        load_put64(entry + 4, plan->map[i].start);
        load_put64(entry + 12, plan->map[i].end - plan->map[i].start);
        load_put32(entry + 20, plan->map[i].type);
    }
    load_put32(info + INFO_MMAP_LENGTH, plan->map_count * MMAP_ENTRY);
    load_put32(info + INFO_MMAP_ADDR, (uint32_t)mmap);
}

static void build_modules(const struct load_plan *plan, const struct multiboot_plan *multiboot, uint8_t *info,
                          uint64_t list, uint64_t *strings)
{
    const struct l1_load_request *request = plan->request;
    for (uint32_t i = 1; i < request->module_count; i++) {
        uint8_t *entry = request->memory + list + (uint64_t)(i - 1) * MODULE_ENTRY;
        uint64_t start = multiboot->module_start[i];
        load_put32(entry, (uint32_t)start);
        load_put32(entry + 4, (uint32_t)(start + request->modules[i].size));
        load_put32(entry + 8, add_string(plan, strings, request->modules[i].string));
    }
    load_put32(info + INFO_MODS_COUNT, request->module_count - 1);
    load_put32(info + INFO_MODS_ADDR, (uint32_t)list);
}

static void build_screen(const struct load_plan *plan, uint8_t *info)
{
    struct load_screen screen = load_screen_find(plan);
    load_put64(info + INFO_FRAMEBUFFER_ADDR, 0xb8000);
    load_put32(info + INFO_FRAMEBUFFER_PITCH, screen.columns * 2);
    load_put32(info + INFO_FRAMEBUFFER_WIDTH, screen.columns);
    load_put32(info + INFO_FRAMEBUFFER_HEIGHT, screen.rows);
    info[INFO_FRAMEBUFFER_BPP] = 16;
    info[INFO_FRAMEBUFFER_TYPE] = FRAMEBUFFER_TEXT;
}

static void build_info(const struct load_plan *plan, const struct multiboot_plan *multiboot)
{
    const struct l1_load_request *request = plan->request;
    struct info_layout layout = lay_out(plan);
    uint8_t *info = request->memory + multiboot->info;
    uint64_t strings = multiboot->info + layout.strings;
    uint32_t flags = HAS_MEMORY | HAS_CMDLINE | HAS_MODULES | HAS_MMAP | HAS_LOADER_NAME;

    load_put32(info + INFO_LOADER_NAME, add_string(plan, &strings, LOADER_NAME));
    load_put32(info + INFO_CMDLINE, add_string(plan, &strings, request->modules[0].string));
    build_memory(plan, info, multiboot->info + layout.mmap);
    build_modules(plan, multiboot, info, multiboot->info + layout.modules, &strings);
    if (multiboot->sections.count) {
        flags |= HAS_ELF_SECTIONS;
        load_put32(info + INFO_ELF_COUNT, multiboot->sections.count);
        load_put32(info + INFO_ELF_SIZE, multiboot->sections.entry_size);
        load_put32(info + INFO_ELF_ADDR, (uint32_t)multiboot->sections.table);
        load_put32(info + INFO_ELF_NAMES, multiboot->sections.names);
    }
    if (multiboot->wants_video) {
        flags |= HAS_FRAMEBUFFER;
        build_screen(plan, info);
    }
    load_put32(info + INFO_FLAGS, flags);
}

void multiboot_commit_info(const struct load_plan *plan, const struct multiboot_plan *multiboot,
                           struct l1_start_state *start)
{
    struct info_layout layout = lay_out(plan);
    build_info(plan, multiboot);
    *start = (struct l1_start_state){
        .kind = multiboot->is_flat ? "Multiboot 1 flat" : "Multiboot 1 ELF",
        .rip = multiboot->entry,
        .rax = BOOTLOADER_MAGIC,
        .rbx = multiboot->info,
        .rsp = multiboot->info + layout.stack_end, // not promised, but kernels exist that push at once
        .rflags = 2,
        .cr0 = 0x11, // ET, PE
    };
    load_set_segments(plan, start, multiboot->info + layout.gdt, false);
}
