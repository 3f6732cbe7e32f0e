// SPDX-License-Identifier: MIT
// What the boot protocols promise a kernel, read from the machine's memory as the kernel would read it, and
// compared with the files.
#include "world.h"

#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define CLAIMS_MAX 600

// Ranges that must lie in RAM and not overlap.
struct claims {
    const struct world *world;
    uint32_t count;
    struct {
        uint64_t start, size;
    } ranges[CLAIMS_MAX];
};

static void claim(struct claims *claims, uint64_t start, uint64_t size)
{
    assert_true(world_is_ram(claims->world, start, size));
    for (uint32_t i = 0; i < claims->count && size; i++) {
        uint64_t other = claims->ranges[i].start;
        assert_false(claims->ranges[i].size && start < other + claims->ranges[i].size &&
                     other < start + size);
    }
    assert_true(claims->count < CLAIMS_MAX);
    claims->ranges[claims->count].start = start;
    claims->ranges[claims->count++].size = size;
}

static void claim_copy(struct claims *claims, uint64_t start, const uint8_t *bytes, uint64_t size)
{
    claim(claims, start, size);
    assert_int_equal(memcmp(claims->world->memory + start, bytes, size), 0);
}

static void claim_zeros(struct claims *claims, uint64_t start, uint64_t size)
{
    claim(claims, start, size);
    for (uint64_t i = 0; i < size; i++)
        assert_int_equal(claims->world->memory[start + i], 0);
}

static uint64_t claim_string(struct claims *claims, uint64_t start, const char *text)
{
    uint64_t size = strlen(text) + 1;
    claim_copy(claims, start, (const uint8_t *)text, size);
    return size;
}

static void check_segment(struct l1_segment segment, uint16_t selector, uint32_t rights)
{
    assert_int_equal(segment.selector, selector);
    assert_int_equal(segment.access_rights, rights);
    assert_int_equal(segment.base, 0);
    assert_int_equal(segment.limit, 0xffffffff);
}

static void check_segments(struct claims *claims, uint32_t code_rights)
{
    const struct l1_start_state *start = &claims->world->start;
    check_segment(start->cs, 0x10, code_rights);
    const struct l1_segment data[] = {start->ds, start->es, start->fs, start->gs, start->ss};
    for (int i = 0; i < 5; i++)
        check_segment(data[i], 0x18, 0xc093);
    assert_int_equal(start->tr.access_rights, 0x8b);
    assert_int_equal(start->ldtr.access_rights, 0x10000);
    assert_int_equal(start->rflags, 2);
    assert_int_equal(start->gdtr_limit, 0x1f);
    assert_int_equal(start->idtr_limit, 0);
    claim(claims, start->gdtr_base, 0x20);
    const uint8_t *gdt = claims->world->memory + start->gdtr_base;
    // The descriptors say the same as the registers: rights at bit 40, limit 0xfffff, base 0.
    uint64_t rights = code_rights;
    assert_int_equal(get64(gdt + 0x10), 0x000f00000000ffff | (rights & 0xff) << 40 | (rights & 0xf000) << 40);
    assert_int_equal(get64(gdt + 0x18), 0x00cf93000000ffff);
}

static void check_page_tables(struct claims *claims)
{
    const uint8_t *memory = claims->world->memory;
    uint64_t root = claims->world->start.cr3;
    assert_int_equal(root & 0xfff, 0);
    claim(claims, root, 4096);
    assert_int_equal(get64(memory + root) & 0xfff, 3);
    uint64_t pdpt = get64(memory + root) & ~0xfffull;
    claim(claims, pdpt, 4096);
    for (uint64_t giga = 0; giga < 4; giga++) {
        uint64_t entry = get64(memory + pdpt + giga * 8), directory = entry & ~0xfffull;
        assert_int_equal(entry & 0xfff, 3);
        claim(claims, directory, 4096);
        for (uint64_t i = 0; i < 512; i++)
            assert_int_equal(get64(memory + directory + i * 8), (giga << 30) + (i << 21) + 0x83);
    }
    for (uint64_t i = 1; i < 512; i++)
        assert_int_equal(get64(memory + root + i * 8), 0);
    for (uint64_t i = 4; i < 512; i++)
        assert_int_equal(get64(memory + pdpt + i * 8), 0);
}

static void check_map_entry(const uint8_t *entry, struct memory_range range)
{
    assert_int_equal(get64(entry), range.start);
    assert_int_equal(get64(entry + 8), range.end - range.start);
    assert_int_equal(get32(entry + 16), range.type);
}

static void check_e820(const struct world *world, const uint8_t *params)
{
    struct memory_range map[WORLD_RANGES + 1];
    uint64_t page;
    uint32_t count = world_told_map(world, map, &page);
    assert_int_equal(params[0x1e8], count);
    for (uint32_t i = 0; i < count; i++)
        check_map_entry(params + 0x2d0 + i * 20, map[i]);
}

static uint64_t upper_kib(const struct world *world)
{
    uint64_t end = 0x100000;
    while (world_is_ram(world, end, 1024))
        end += 1024;
    return (end - 0x100000) / 1024;
}

// The front end of the BIOS's memory calls: its table is the last thing in its page.
static void check_bios(struct claims *claims)
{
    const struct world *world = claims->world;
    struct memory_range map[WORLD_RANGES + 1];
    uint64_t page;
    uint32_t count = world_told_map(world, map, &page);
    bool covered = false; // L1's image lies over the vectors
    for (uint32_t i = 0; i < claims->count; i++)
        covered |= claims->ranges[i].size && claims->ranges[i].start < 0x500;
    if (page)
        claim(claims, page, 4096);
    if (!page || covered) {
        if (!covered && world->before)
            assert_int_equal(memcmp(world->memory, world->before, 0x500), 0);
        return;
    }
    const uint8_t *stub = world->memory + page, *data = stub;
    assert_int_equal(get32(world->memory + 0x54), page / 16 << 16);
    assert_int_equal(get16(world->memory + 0x413), page / 1024);
    while (get32(data) != WORLD_BIOS_15)
        data += 4;
    uint64_t kib = upper_kib(world);
    assert_int_equal(get16(data + 4), kib < 15360 ? kib : 15360);
    assert_int_equal(get16(data + 6), kib < 15360 ? 0 : (kib - 15360) / 64);
    assert_int_equal(get16(data + 8), kib < 0xfc00 ? kib : 0xfc00);
    assert_int_equal(get32(data + 12), count);
    for (uint32_t i = 0; i < count; i++)
        check_map_entry(data + 16 + i * 20, map[i]);
}

static void check_setup_header(const struct world *world, const uint8_t *params, uint64_t kernel)
{
    static const struct {
        uint32_t from, to;
    } ours[] = {{0x1fa, 0x1fc}, {0x210, 0x212}, {0x214, 0x220}, {0x228, 0x22c}, {0x250, 0x258}};
    const uint8_t *file = world->files[0].bytes;
    uint32_t end = 0x202 + file[0x201];
    for (uint32_t at = 0x1f1; at < end; at++) { // all but our own fields is passed on
        bool is_ours = false;
        for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
            is_ours |= at >= ours[i].from && at < ours[i].to;
        if (!is_ours)
            assert_int_equal(params[at], file[at]);
    }
    for (uint32_t at = end; at < 0x2d0; at++)
        assert_int_equal(params[at], 0);
    assert_int_equal(params[0x1ef], 0); // the sentinel
    assert_int_equal(params[0x210], 0xff);
    assert_int_equal(params[0x211], file[0x211] & 0x7f);
    assert_int_equal(get16(params + 0x1fa), 0xffff);
    assert_int_equal(get32(params + 0x214), kernel);
    assert_int_equal(get64(params + 0x250), 0);
    assert_int_equal(get64(params + 0x70), world->request.rsdp);
}

void check_linux(const struct world *world)
{
    struct claims claims = {.world = world};
    const struct l1_start_state *start = &world->start;
    const uint8_t *file = world->files[0].bytes, *params = world->memory + start->rsi;
    uint64_t kernel = start->rip - 0x200, offset = (file[0x1f1] ? file[0x1f1] + 1 : 5) * 512;
    uint64_t code = get32(file + 0x1f4) * 16, init = get32(file + 0x260);

    assert_int_equal(start->cr0 & 0x80000001, 0x80000001);
    assert_int_equal(start->cr4, 0x20);
    assert_int_equal(start->efer, 0x500);
    check_segments(&claims, 0xa09b);
    check_page_tables(&claims);
    claim(&claims, start->rsi, 4096);
    check_setup_header(world, params, kernel);
    check_e820(world, params);

    claim_copy(&claims, kernel, file + offset, code);
    assert_true(init >= code);
    claim(&claims, kernel + code, init - code);
    assert_true(kernel + init <= 0x100000000 && start->rsi < 0x100000000);
    if (kernel != get64(file + 0x258)) {
        assert_int_not_equal(file[0x234], 0);
        assert_int_equal(kernel % get32(file + 0x230), 0);
        assert_true(kernel > get64(file + 0x258));
    }

    uint64_t command_line = get32(params + 0x228) | get32(params + 0xc8) << 32;
    claim_string(&claims, command_line, world->modules[0].string);
    check_bios(&claims);
    uint64_t initrd = get32(params + 0x218) | get32(params + 0xc0) << 32;
    uint64_t initrd_size = get32(params + 0x21c) | get32(params + 0xc4) << 32;
    if (world->request.module_count == 1) {
        assert_int_equal(initrd | initrd_size, 0);
        return;
    }
    assert_int_equal(initrd_size, world->files[1].size);
    claim_copy(&claims, initrd, world->files[1].bytes, initrd_size);
    if (!(get16(file + 0x236) & 2) && initrd_size)
        assert_true(initrd + initrd_size - 1 <= get32(file + 0x22c));
}

static void claim_elf(struct claims *claims, const uint8_t *file)
{
    bool is_64 = file[4] == 2;
    uint64_t table = is_64 ? get64(file + 32) : get32(file + 28);
    const uint8_t *tail = file + (is_64 ? 54 : 42);
    uint64_t entry = is_64 ? get64(file + 24) : get32(file + 24);
    bool entry_found = false;
    for (uint64_t i = 0; i < get16(tail + 2); i++) {
        const uint8_t *at = file + table + i * get16(tail);
        Elf64_Phdr segment;
        if (is_64) {
            memcpy(&segment, at, sizeof segment);
        } else {
            Elf32_Phdr s;
            memcpy(&s, at, sizeof s);
            segment = (Elf64_Phdr){.p_type = s.p_type,
                                   .p_offset = s.p_offset,
                                   .p_vaddr = s.p_vaddr,
                                   .p_paddr = s.p_paddr,
                                   .p_filesz = s.p_filesz,
                                   .p_memsz = s.p_memsz};
        }
        if (segment.p_type != PT_LOAD || segment.p_memsz == 0)
            continue;
        claim_copy(claims, segment.p_paddr, file + segment.p_offset, segment.p_filesz);
        claim_zeros(claims, segment.p_paddr + segment.p_filesz, segment.p_memsz - segment.p_filesz);
        uint64_t rip = claims->world->start.rip;
        if (rip >= segment.p_paddr && rip - segment.p_paddr < segment.p_filesz)
            entry_found |= rip == entry || rip - segment.p_paddr + segment.p_vaddr == entry;
    }
    assert_true(entry_found);
}

static void claim_flat(struct claims *claims, const uint8_t *file, uint64_t size)
{
    uint64_t header = 0;
    while (get32(file + header) != 0x1badb002 ||
           ((get32(file + header) + get32(file + header + 4) + get32(file + header + 8)) & 0xffffffff) != 0)
        header += 4;
    uint64_t load = get32(file + header + 16), offset = header - (get32(file + header + 12) - load);
    uint64_t end = get32(file + header + 20) ? get32(file + header + 20) : load + size - offset;
    uint64_t bss = get32(file + header + 24) ? get32(file + header + 24) : end;
    claim_copy(claims, load, file + offset, end - load);
    claim_zeros(claims, end, bss - end);
    assert_int_equal(claims->world->start.rip, get32(file + header + 28));
    assert_true(claims->world->start.rip >= load && claims->world->start.rip < end);
}

static void check_memory(struct claims *claims, const uint8_t *info)
{
    const struct world *world = claims->world;
    struct memory_range map[WORLD_RANGES + 1];
    uint64_t lower = 0, mmap = get32(info + 48), length = get32(info + 44), page, i = 0;
    uint32_t count = world_told_map(world, map, &page);
    while (world_is_ram(world, lower, 1024) && lower < 0xa0000 && lower != page - (page == 0))
        lower += 1024;
    assert_int_equal(get32(info + 4), lower / 1024);
    assert_int_equal(get32(info + 8), upper_kib(world));
    claim(claims, mmap, length);
    for (uint64_t at = mmap; at < mmap + length; i++) {
        const uint8_t *entry = world->memory + at;
        assert_true(i < count);
        check_map_entry(entry + 4, map[i]);
        at += get32(entry) + 4;
    }
    assert_int_equal(i, count);
}

static void check_modules(struct claims *claims, const uint8_t *info)
{
    const struct world *world = claims->world;
    uint64_t list = get32(info + 24);
    assert_int_equal(get32(info + 20), world->request.module_count - 1);
    claim(claims, list, 16ull * (world->request.module_count - 1));
    for (uint32_t i = 1; i < world->request.module_count; i++) {
        const uint8_t *entry = world->memory + list + 16ull * (i - 1);
        uint64_t start = get32(entry), end = get32(entry + 4);
        assert_int_equal(start % 4096, 0);
        assert_int_equal(end - start, world->files[i].size);
        claim_copy(claims, start, world->files[i].bytes, world->files[i].size);
        claim_string(claims, get32(entry + 8), world->modules[i].string);
        assert_int_equal(get32(entry + 12), 0);
    }
}

static void check_sections(struct claims *claims, const uint8_t *info)
{
    const struct world *world = claims->world;
    const uint8_t *file = world->files[0].bytes;
    bool is_64 = file[4] == 2;
    const uint8_t *tail = file + (is_64 ? 58 : 46);
    uint64_t offset = is_64 ? get64(file + 40) : get32(file + 32), size = get16(tail),
             count = get16(tail + 2);
    assert_int_equal(get32(info + 28), count);
    assert_int_equal(get32(info + 32), size);
    assert_int_equal(get32(info + 40), get16(tail + 4));
    assert_true(world_is_ram(world, get32(info + 36), count * size));
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *theirs = file + offset + i * size, *ours = world->memory + get32(info + 36) + i * size;
        uint64_t type = get32(theirs + 4), flags = is_64 ? get64(theirs + 8) : get32(theirs + 8);
        uint64_t length = is_64 ? get64(theirs + 32) : get32(theirs + 20);
        uint64_t from = is_64 ? get64(theirs + 24) : get32(theirs + 16);
        uint64_t their_address = is_64 ? get64(theirs + 16) : get32(theirs + 12);
        uint64_t address = is_64 ? get64(ours + 16) : get32(ours + 12);
        if (type == SHT_NULL || type == SHT_NOBITS || (flags & SHF_ALLOC) || length == 0) {
            assert_int_equal(address, their_address);
        } else {
            // Sections may share bytes with each other and with the headers, but not with what was claimed
            // before.
            struct claims mine = *claims;
            claim(&mine, address, length);
            bool holds_headers = from < offset + count * size && offset < from + length;
            if (!holds_headers)
                assert_int_equal(memcmp(world->memory + address, file + from, length), 0);
        }
    }
    claim(claims, get32(info + 36), count * size);
}

void check_multiboot(const struct world *world)
{
    struct claims claims = {.world = world};
    const struct l1_start_state *start = &world->start;
    const uint8_t *info = world->memory + start->rbx;
    uint64_t flags = get32(info);
    char command_line[300] = "";

    assert_int_equal(start->rax, 0x2badb002);
    assert_int_equal(start->cr0 & 0x80000001, 1); // protection on, paging off
    assert_int_equal(start->cr4, 0);
    assert_int_equal(start->efer, 0);
    check_segments(&claims, 0xc09b);
    claim(&claims, start->rbx, 116);
    claim(&claims, start->rsp - 4096, 4096);
    assert_int_equal(flags & ~0x1020ull, 0x24d);
    assert_true(start->rbx >= 0x1000);
    if (strcmp(start->kind, "Multiboot 1 flat") == 0)
        claim_flat(&claims, world->files[0].bytes, world->files[0].size);
    else
        claim_elf(&claims, world->files[0].bytes);
    check_memory(&claims, info);
    check_modules(&claims, info);
    assert_true(strlen(world->modules[0].string) < sizeof command_line - 4);
    strcat(command_line, world->modules[0].string);
    claim_string(&claims, get32(info + 16), command_line);
    claim_string(&claims, get32(info + 64), "Plastron, as GRUB 2.0");
    check_bios(&claims);
    if (flags & 0x20)
        check_sections(&claims, info);
    if (flags & 0x1000) {
        assert_int_equal(get64(info + 88), 0xb8000);
        assert_int_equal(get32(info + 96), 160);
        assert_int_equal(get32(info + 100), 80);
        assert_int_equal(get32(info + 104), 25);
        assert_int_equal(info[108], 16);
        assert_int_equal(info[109], 2);
    }
}
