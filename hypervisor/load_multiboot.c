// SPDX-License-Identifier: MIT
// Multiboot 1 kernels ("Multiboot Specification version 0.6.96"): the header, and images that it describes
// itself instead of ELF. What L1 is told is in load_multiboot_info.c.
#include "load_multiboot.h"
#include "string.h"

#define MULTIBOOT2_MAGIC 0xe85250d6u
#define SEARCH_LIMIT     8192u

// Offsets in the header. The address fields are valid with FLAG_ADDRESSES, those after them with FLAG_VIDEO.
enum header_field {
    HEADER_MAGIC = 0,
    HEADER_FLAGS = 4,
    HEADER_CHECKSUM = 8,
    HEADER_BASIC_END = 12,
    HEADER_ADDRESS = 12,
    HEADER_LOAD_START = 16,
    HEADER_LOAD_END = 20,
    HEADER_BSS_END = 24,
    HEADER_ENTRY = 28,
    HEADER_ADDRESSES_END = 32,
};

#define FLAG_PAGE_ALIGN  0x00000001u
#define FLAG_MEMORY      0x00000002u
#define FLAG_VIDEO       0x00000004u
#define FLAGS_REQUIRED   0x0000ffffu // a loader that does not know one of these must refuse
#define FLAGS_UNDERSTOOD (FLAG_PAGE_ALIGN | FLAG_MEMORY | FLAG_VIDEO)
#define FLAG_ADDRESSES   0x00010000u

static bool find_magic(struct load_file file, uint32_t magic, bool checksum, uint64_t *offset)
{
    for (uint64_t at = 0; at + HEADER_BASIC_END <= file.size && at + HEADER_BASIC_END <= SEARCH_LIMIT;
         at += 4) {
        const uint8_t *header = file.bytes + at;
        if (load_get32(header + HEADER_MAGIC) != magic)
            continue;
        uint32_t sum = magic + load_get32(header + HEADER_FLAGS) + load_get32(header + HEADER_CHECKSUM);
        if (checksum && sum != 0)
            continue;
        *offset = at;
        return true;
    }
    return false;
}

bool multiboot_find_header(struct load_file file, uint64_t *offset)
{
    return find_magic(file, MULTIBOOT_HEADER_MAGIC, true, offset);
}

bool multiboot_refuse_headerless(const struct load_plan *plan)
{
    const struct l1_load_request *request = plan->request;
    struct load_file file = plan_file(plan, 0);
    const char *what = elf_is_elf(file) ? "an ELF file" : "an unknown kind of file";
    uint64_t offset;
    if (find_magic(file, MULTIBOOT_HEADER_MAGIC, false, &offset))
        return load_refuse(request, "the L1 image has a Multiboot header at %#lx, but its checksum is wrong",
                           offset);
    if (find_magic(file, MULTIBOOT2_MAGIC, false, &offset))
        return load_refuse(
            request, "the L1 image has a Multiboot 2 header only; Plastron loads Multiboot 1 and Linux");
    return load_refuse(
        request, "the L1 image is %s with neither a Linux nor a Multiboot 1 header (%lu bytes, magic %#lx)",
        what, file.size, file.size >= 4 ? (uint64_t)load_get32(file.bytes) : 0);
}

// An image whose header says itself where the file goes; the kind of file does not matter then.
static bool plan_flat(struct load_plan *plan, uint64_t header, uint64_t *entry, uint64_t *end)
{
    const struct l1_load_request *request = plan->request;
    struct load_file file = plan_file(plan, 0);
    if (header + HEADER_ADDRESSES_END > file.size)
        return load_refuse(request, "the Multiboot image is truncated within its header");
    const uint8_t *at = file.bytes + header;
    uint64_t header_address = load_get32(at + HEADER_ADDRESS),
             load_start = load_get32(at + HEADER_LOAD_START);
    uint64_t load_end = load_get32(at + HEADER_LOAD_END), bss_end = load_get32(at + HEADER_BSS_END);
    *entry = load_get32(at + HEADER_ENTRY);
    if (load_start > header_address || header_address - load_start > header)
        return load_refuse(
            request, "the Multiboot header is broken: header_addr %#lx, load_addr %#lx, but it is at %#lx",
            header_address, load_start, header);
    uint64_t offset = header - (header_address - load_start);
    if (load_end == 0)
        load_end = load_start + (file.size - offset);
    if (bss_end == 0)
        bss_end = load_end;
    if (load_end <= load_start || bss_end < load_end)
        return load_refuse(
            request, "the Multiboot header is broken: load_addr %#lx, load_end_addr %#lx, bss_end_addr %#lx",
            load_start, load_end, bss_end);
    if (load_end - load_start > file.size - offset)
        return load_refuse(request, "the Multiboot image is truncated: it should have %lu bytes and has %lu",
                           offset + (load_end - load_start), file.size);
    if (*entry < load_start || *entry >= load_end)
        return load_refuse(request,
                           "the entry point of the Multiboot image, %#lx, is not in it (%#lx to %#lx)",
                           *entry, load_start, load_end);
    *end = bss_end;
    struct load_piece piece = {.kind = PIECE_FILE,
                               .start = load_start,
                               .size = bss_end - load_start,
                               .offset = offset,
                               .length = load_end - load_start};
    return plan_add_fixed(plan, piece, "part", 1);
}

// Just above the image, in order, as GRUB and others do: some kernels count all memory after the last module
// as free, and some want no module below themselves.
static bool place_modules(struct load_plan *plan, struct multiboot_plan *multiboot, uint64_t from)
{
    const struct l1_load_request *request = plan->request;
    multiboot->modules_end = from;
    for (uint32_t i = 1; i < request->module_count; i++) {
        uint64_t size = request->modules[i].size;
        struct load_piece piece = {.kind = PIECE_FILE, .size = size ? size : 1, .module = i, .length = size};
        uint64_t *start = &multiboot->module_start[i];
        if (!plan_add_lowest(plan, piece, LOAD_PAGE, multiboot->modules_end, LOAD_4G, start) &&
            !plan_add_lowest(plan, piece, LOAD_PAGE, LOAD_1M, LOAD_4G, start))
            return load_refuse(request, "there is no room for module %lu: %lu bytes in one piece below 4 GiB",
                               (uint64_t)i, size);
        if (*start + size > multiboot->modules_end)
            multiboot->modules_end = *start + size;
    }
    return true;
}

static bool plan_multiboot(struct load_plan *plan, uint64_t header, struct multiboot_plan *multiboot)
{
    const struct l1_load_request *request = plan->request;
    struct load_file file = plan_file(plan, 0);
    uint32_t flags = load_get32(file.bytes + header + HEADER_FLAGS);
    uint64_t unknown = flags & FLAGS_REQUIRED & ~FLAGS_UNDERSTOOD, end = 0;
    multiboot->wants_video = flags & FLAG_VIDEO;
    multiboot->is_flat = flags & FLAG_ADDRESSES;
    if (unknown)
        return load_refuse(
            request, "the Multiboot image requires what Plastron does not know: header flags %#lx", unknown);
    if (multiboot->wants_video && !load_screen_find(plan).rows)
        return load_refuse(request,
                           "the Multiboot image requires a screen, and the firmware left no text screen");
    if (!multiboot->is_flat && !elf_is_elf(file))
        return load_refuse(
            request, "the Multiboot image is no ELF file, and its header does not say where to load it");
    if (multiboot->is_flat ? !plan_flat(plan, header, &multiboot->entry, &end)
                           : !elf_plan_segments(plan, &multiboot->entry, &end))
        return false;
    if (!multiboot_plan_info(plan, multiboot))
        return false;
    if (!place_modules(plan, multiboot, end > LOAD_1M ? end : LOAD_1M))
        return false;
    return multiboot->is_flat || elf_plan_sections(plan, multiboot->modules_end, &multiboot->sections);
}

bool multiboot_load(struct load_plan *plan, uint64_t header, struct l1_start_state *start)
{
    static struct multiboot_plan multiboot; // too large for a small stack
    multiboot = (struct multiboot_plan){0};
    if (!plan_multiboot(plan, header, &multiboot) || !plan_finish(plan))
        return false;
    plan_commit(plan);
    elf_commit_sections(plan, &multiboot.sections);
    multiboot_commit_info(plan, &multiboot, start);
    commit_bios(plan);
    return true;
}
