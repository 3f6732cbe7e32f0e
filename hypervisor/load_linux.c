// SPDX-License-Identifier: MIT
// Linux bzImage by the 64-bit boot protocol (the kernel's documentation, "The Linux/x86 Boot Protocol" and
// "Zero Page").
#include "load_plan.h"
#include "string.h"

// Offsets in the file and, from SETUP_SECTS up to the header's end, in boot_params too.
enum setup_header {
    SETUP_SECTS = 0x1f1,
    SYSSIZE = 0x1f4,
    VID_MODE = 0x1fa,
    BOOT_FLAG = 0x1fe,
    JUMP_DISTANCE = 0x201, // the header ends that far behind 0x202
    HEADER_MAGIC = 0x202,
    VERSION = 0x206,
    TYPE_OF_LOADER = 0x210,
    LOADFLAGS = 0x211,
    CODE32_START = 0x214,
    RAMDISK_IMAGE = 0x218,
    RAMDISK_SIZE = 0x21c,
    CMD_LINE_PTR = 0x228,
    INITRD_ADDR_MAX = 0x22c,
    KERNEL_ALIGNMENT = 0x230,
    RELOCATABLE_KERNEL = 0x234,
    XLOADFLAGS = 0x236,
    CMDLINE_SIZE = 0x238,
    SETUP_DATA = 0x250,
    PREF_ADDRESS = 0x258,
    INIT_SIZE = 0x260,
    HEADER_END_2_12 = 0x268, // protocol 2.12's last field ends here
};

enum boot_params {
    SCREEN_INFO = 0x000,
    EXT_MEM_K = 0x002, // in screen_info
    ACPI_RSDP_ADDR = 0x070,
    EXT_RAMDISK_IMAGE = 0x0c0,
    EXT_RAMDISK_SIZE = 0x0c4,
    EXT_CMD_LINE_PTR = 0x0c8,
    ALT_MEM_K = 0x1e0,
    E820_ENTRIES = 0x1e8,
    SETUP_HEADER_ROOM_END = 0x290,
    E820_TABLE = 0x2d0,
    E820_ENTRY_SIZE = 20,
    E820_ENTRIES_MAX = 128,
};

#define MAGIC_HDRS              0x53726448u // "HdrS"
#define PROTOCOL_MIN            0x020cu     // 2.12 is the first to say whether there is a 64-bit entry point
#define LOADED_HIGH             0x01u
#define CAN_USE_HEAP            0x80u
#define XLF_KERNEL_64           0x01u
#define XLF_CAN_BE_LOADED_ABOVE 0x02u
#define LOADER_UNDEFINED        0xffu
#define VIDEO_NORMAL            0xffffu
#define EXT_MEM_K_MAX           0xfc00u // 63 MiB: what the BIOS call behind the field can say
#define ENTRY_64                0x200u
#define SECTOR                  512u

// One block in low memory: boot_params, the GDT and page tables that map the first 4 GiB onto themselves, the
// command line. Linux uses the tables until it has switched to its own, inside the memory that INIT_SIZE
// claims.
enum low_block {
    BLOCK_BOOT_PARAMS = 0,
    BLOCK_GDT = LOAD_PAGE,
    BLOCK_PAGE_TABLES = 2 * LOAD_PAGE, // PML4, PDPT, four page directories
    BLOCK_COMMAND_LINE = 8 * LOAD_PAGE,
};

struct linux_plan {
    uint64_t block, kernel, initrd, initrd_size, command_line_size;
};

bool linux_is_kernel(struct load_file file)
{
    return file.size >= HEADER_MAGIC + 4 && load_get32(file.bytes + HEADER_MAGIC) == MAGIC_HDRS;
}

static uint64_t header_end(struct load_file file)
{
    return (uint64_t)HEADER_MAGIC + file.bytes[JUMP_DISTANCE];
}

static uint64_t protected_mode_offset(struct load_file file)
{
    uint64_t sectors = file.bytes[SETUP_SECTS] ? file.bytes[SETUP_SECTS] : 4;
    return (sectors + 1) * SECTOR;
}

static uint64_t protected_mode_size(struct load_file file)
{
    return load_get32(file.bytes + SYSSIZE) * 16ull;
}

static bool check_header(const struct l1_load_request *request, struct load_file file)
{
    if (file.size < HEADER_END_2_12)
        return load_refuse(request, "the Linux image is truncated: %lu bytes do not hold its setup header",
                           file.size);
    uint64_t version = load_get16(file.bytes + VERSION);
    if (load_get16(file.bytes + BOOT_FLAG) != 0xaa55)
        return load_refuse(request, "the Linux image is broken: its boot flag is %#lx, not 0xaa55",
                           (uint64_t)load_get16(file.bytes + BOOT_FLAG));
    if (version < PROTOCOL_MIN)
        return load_refuse(request,
                           "the Linux image speaks boot protocol %lu.%lu; Plastron needs 2.12 or later",
                           version >> 8, version & 0xff);
    if (header_end(file) < HEADER_END_2_12 || header_end(file) > SETUP_HEADER_ROOM_END)
        return load_refuse(request, "the Linux image is broken: its setup header ends at %#lx",
                           header_end(file));
    if (!(file.bytes[LOADFLAGS] & LOADED_HIGH))
        return load_refuse(request, "the Linux image is a zImage, which loads low; Plastron needs a bzImage");
    if (!(load_get16(file.bytes + XLOADFLAGS) & XLF_KERNEL_64))
        return load_refuse(request, "the Linux image has no 64-bit entry point: it is a 32-bit kernel");
    return true;
}

static bool check_sizes(const struct l1_load_request *request, struct load_file file)
{
    uint64_t offset = protected_mode_offset(file), size = protected_mode_size(file);
    uint64_t alignment = load_get32(file.bytes + KERNEL_ALIGNMENT);
    if (size <= ENTRY_64)
        return load_refuse(request, "the Linux image is broken: its protected-mode part has %lu bytes", size);
    if (offset + size > file.size)
        return load_refuse(request, "the Linux image is truncated: it should have %lu bytes and has %lu",
                           offset + size, file.size);
    if (load_get32(file.bytes + INIT_SIZE) < size)
        return load_refuse(request,
                           "the Linux image is broken: its init_size (%#lx) is less than its own size (%#lx)",
                           (uint64_t)load_get32(file.bytes + INIT_SIZE), size);
    if (load_get64(file.bytes + PREF_ADDRESS) < LOAD_1M)
        return load_refuse(request, "the Linux image is broken: its pref_address (%#lx) is below 1 MiB",
                           load_get64(file.bytes + PREF_ADDRESS));
    if (file.bytes[RELOCATABLE_KERNEL] && (alignment < LOAD_PAGE || (alignment & (alignment - 1))))
        return load_refuse(request, "the Linux image is broken: its kernel_alignment is %#lx", alignment);
    return true;
}

// Linux decompresses itself to PREF_ADDRESS or above, wherever it was loaded: a lower place would not help.
static bool place_kernel(struct load_plan *plan, struct linux_plan *linux, struct load_file file)
{
    const struct l1_load_request *request = plan->request;
    uint64_t preferred = load_get64(file.bytes + PREF_ADDRESS);
    uint64_t alignment = load_get32(file.bytes + KERNEL_ALIGNMENT);
    uint64_t size = load_get32(file.bytes + INIT_SIZE);
    struct load_piece piece = {.kind = PIECE_KEPT, .start = preferred, .size = size};
    if (preferred < LOAD_4G && size <= LOAD_4G - preferred && plan_fits(plan, preferred, size))
        linux->kernel = preferred;
    else if (!file.bytes[RELOCATABLE_KERNEL])
        return load_refuse(request,
                           "the Linux image must be at %#lx to %#lx, and that is not all free RAM of L1's",
                           preferred, preferred + size);
    else if (!plan_add_lowest(plan, piece, alignment, preferred, LOAD_4G, &linux->kernel))
        return load_refuse(request,
                           "the Linux image needs %lu KiB of RAM in one piece between %#lx and 4 GiB",
                           size / 1024, preferred);
    else
        plan->piece_count--; // found; it is added below in its two parts

    uint64_t loaded = protected_mode_size(file);
    struct load_piece image = {.kind = PIECE_FILE,
                               .start = linux->kernel,
                               .size = loaded,
                               .module = 0,
                               .offset = protected_mode_offset(file),
                               .length = loaded};
    struct load_piece rest = {.kind = PIECE_KEPT, .start = linux->kernel + loaded, .size = size - loaded};
    return plan_add_fixed(plan, image, "part", 1) &&
           (rest.size == 0 || plan_add_fixed(plan, rest, "part", 2));
}

// Stays where the boot loader put it if Linux can use it there; else as high as Linux can reach.
static bool place_initrd(struct load_plan *plan, struct linux_plan *linux, struct load_file file)
{
    const struct l1_load_request *request = plan->request;
    linux->initrd = linux->initrd_size = 0;
    if (request->module_count < 2 || request->modules[1].size == 0)
        return true;
    const struct l1_module *module = &request->modules[1];
    bool above = load_get16(file.bytes + XLOADFLAGS) & XLF_CAN_BE_LOADED_ABOVE;
    uint64_t limit = (uint64_t)load_get32(file.bytes + INITRD_ADDR_MAX) + 1;
    struct load_piece piece = {.kind = PIECE_FILE,
                               .start = module->start,
                               .size = module->size,
                               .module = 1,
                               .length = module->size};
    linux->initrd_size = module->size;
    linux->initrd = module->start;
    if (module->start % LOAD_PAGE == 0 && module->start >= LOAD_1M && module->start + module->size <= limit &&
        plan_fits(plan, module->start, module->size)) {
        plan->pieces[plan->piece_count++] = piece;
        return true;
    }
    if (plan_add_highest(plan, piece, LOAD_PAGE, LOAD_1M, limit, &linux->initrd) ||
        (above && plan_add_highest(plan, piece, LOAD_PAGE, LOAD_1M, UINT64_MAX, &linux->initrd)))
        return true;
    return load_refuse(request, "there is no room for the initrd: %lu bytes in one piece below %#lx",
                       module->size, above ? UINT64_MAX : limit);
}

static bool plan_linux(struct load_plan *plan, struct linux_plan *linux)
{
    const struct l1_load_request *request = plan->request;
    struct load_file file = plan_file(plan, 0);
    if (!check_header(request, file) || !check_sizes(request, file))
        return false;
    if (request->module_count > 2)
        return load_refuse(request, "Linux takes one module, its initrd; there are %lu",
                           (uint64_t)request->module_count - 1);
    if (plan->map_count > E820_ENTRIES_MAX)
        return load_refuse(request, "the memory map has %lu ranges, and Linux's boot_params takes %lu",
                           (uint64_t)plan->map_count, (uint64_t)E820_ENTRIES_MAX);
    linux->command_line_size = strlen(request->modules[0].string);
    if (linux->command_line_size > load_get32(file.bytes + CMDLINE_SIZE))
        return load_refuse(request, "the command line has %lu characters, and this Linux takes %lu",
                           linux->command_line_size, (uint64_t)load_get32(file.bytes + CMDLINE_SIZE));
    struct load_piece block = {.kind = PIECE_BUILT,
                               .size = BLOCK_COMMAND_LINE + linux->command_line_size + 1};
    if (!place_kernel(plan, linux, file))
        return false;
    if (!plan_add_lowest(plan, block, LOAD_PAGE, LOAD_LOW_START, LOAD_LOW_END, &linux->block) &&
        !plan_add_lowest(plan, block, LOAD_PAGE, LOAD_1M, LOAD_4G, &linux->block))
        return load_refuse(request, "there is no room below 4 GiB for Linux's boot_params");
    return place_initrd(plan, linux, file);
}

static void build_screen_info(const struct load_plan *plan, uint8_t *params)
{
    struct load_screen screen = load_screen_find(plan);
    if (!screen.rows)
        return; // all zeros: no screen
    params[SCREEN_INFO + 0x00] = (uint8_t)screen.cursor_column;
    params[SCREEN_INFO + 0x01] = (uint8_t)screen.cursor_row;
    params[SCREEN_INFO + 0x06] = 3; // orig_video_mode: 80 columns of coloured text
    params[SCREEN_INFO + 0x07] = (uint8_t)screen.columns;
    load_put16(params + SCREEN_INFO + 0x0a, 3); // orig_video_ega_bx: a colour adapter with 256 KiB
    params[SCREEN_INFO + 0x0e] = (uint8_t)screen.rows;
    params[SCREEN_INFO + 0x0f] = 1; // orig_video_isVGA
    load_put16(params + SCREEN_INFO + 0x10, (uint16_t)screen.character_height);
}

static void build_memory_map(const struct load_plan *plan, uint8_t *params)
{
    uint64_t above_1m = (plan_ram_end(plan, LOAD_1M) - LOAD_1M) / 1024;
    load_put32(params + ALT_MEM_K, (uint32_t)(above_1m < UINT32_MAX ? above_1m : UINT32_MAX));
    load_put16(params + EXT_MEM_K, (uint16_t)(above_1m < EXT_MEM_K_MAX ? above_1m : EXT_MEM_K_MAX));
    params[E820_ENTRIES] = (uint8_t)plan->map_count;
    for (uint32_t i = 0; i < plan->map_count; i++) {
        uint8_t *entry = params + E820_TABLE + i * E820_ENTRY_SIZE;
        load_put64(entry, plan->map[i].start);
        load_put64(entry + 8, plan->map[i].end - plan->map[i].start);
        load_put32(entry + 16, plan->map[i].type);
    }
}

static void build_boot_params(const struct load_plan *plan, const struct linux_plan *linux)
{
    struct load_file file = plan_file(plan, 0);
    uint8_t *params = plan->request->memory + linux->block + BLOCK_BOOT_PARAMS;
    uint64_t command_line = linux->block + BLOCK_COMMAND_LINE;
    memcpy(params + SETUP_SECTS, file.bytes + SETUP_SECTS, header_end(file) - SETUP_SECTS);
    params[TYPE_OF_LOADER] = LOADER_UNDEFINED;
    params[LOADFLAGS] &= (uint8_t)~CAN_USE_HEAP;
    load_put16(params + VID_MODE, VIDEO_NORMAL);
    load_put32(params + CODE32_START, (uint32_t)linux->kernel);
    load_put32(params + CMD_LINE_PTR, (uint32_t)command_line);
    load_put32(params + EXT_CMD_LINE_PTR, (uint32_t)(command_line >> 32));
    load_put32(params + RAMDISK_IMAGE, (uint32_t)linux->initrd);
    load_put32(params + EXT_RAMDISK_IMAGE, (uint32_t)(linux->initrd >> 32));
    load_put32(params + RAMDISK_SIZE, (uint32_t)linux->initrd_size);
    load_put32(params + EXT_RAMDISK_SIZE, (uint32_t)(linux->initrd_size >> 32));
    load_put64(params + SETUP_DATA, 0);
    load_put64(params + ACPI_RSDP_ADDR, plan->request->rsdp);
    build_memory_map(plan, params);
    build_screen_info(plan, params);
}

static void build_page_tables(const struct l1_load_request *request, uint64_t tables)
{
    enum { PRESENT_WRITE = 3, LARGE = 0x80, ENTRIES = 512 };
    uint8_t *pml4 = request->memory + tables, *pdpt = pml4 + LOAD_PAGE, *directories = pdpt + LOAD_PAGE;
    load_put64(pml4, (tables + LOAD_PAGE) | PRESENT_WRITE);
    for (uint64_t i = 0; i < 4; i++)
        load_put64(pdpt + i * 8, (tables + (2 + i) * LOAD_PAGE) | PRESENT_WRITE);
    for (uint64_t i = 0; i < 4ull * ENTRIES; i++)
        load_put64(directories + i * 8, i << 21 | LARGE | PRESENT_WRITE);
}

static void commit_linux(struct load_plan *plan, const struct linux_plan *linux, struct l1_start_state *start)
{
    const struct l1_load_request *request = plan->request;
    plan_commit(plan);
    build_boot_params(plan, linux);
    build_page_tables(request, linux->block + BLOCK_PAGE_TABLES);
    memcpy(request->memory + linux->block + BLOCK_COMMAND_LINE, request->modules[0].string,
           linux->command_line_size + 1);
    commit_bios(plan);
    *start = (struct l1_start_state){
        .kind = "Linux 64-bit boot protocol",
        .rip = linux->kernel + ENTRY_64,
        .rsi = linux->block + BLOCK_BOOT_PARAMS,
        .rflags = 2,
        .cr0 = 0x80000011, // PG, ET, PE
        .cr3 = linux->block + BLOCK_PAGE_TABLES,
        .cr4 = 0x20,   // PAE
        .efer = 0x500, // LMA, LME
    };
    load_set_segments(plan, start, linux->block + BLOCK_GDT, true);
}

bool linux_load(struct load_plan *plan, struct l1_start_state *start)
{
    struct linux_plan linux = {0};
    if (!plan_linux(plan, &linux) || !plan_finish(plan))
        return false;
    commit_linux(plan, &linux, start);
    return true;
}
